//! One effect at one point: what its client saw, judged against what is there.

use crate::rows::{Act, Row};
use ha_tests::bare::Bare;
use ha_tests::daemon::run;
use ha_tests::plan::bin_dir;
use ha_tests::process::Proc;
use ha_tests::sql::{self, Server, Session};
use ha_tests::wait::{millis, poll, secs};
use ha_tests::wire::{Heard, Wire};
use std::fmt;

/// Where the deadline is put.
pub const POINTS: &[&str] = &["passed", "in_commit", "flushed", "written"];

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// An error, and nothing is there.
    Refused,
    /// The connection was lost; this tells whether the effect is there.
    Cut(Option<bool>),
    /// An answer; the point was never reached, because nothing durable happened.
    Untouched,
    /// An answer after the deadline, which is meant to be.
    Allowed,
    /// An answer after the deadline.
    Answered,
    /// An error, and the effect is there all the same.
    Lied(String),
    /// It waited for the seal to be lifted, and went on.
    Held,
    /// It did not wait.
    Free,
    /// Something else: the test is wrong.
    Odd(String),
}

impl Cell {
    /// It must never be.
    pub fn breaks(&self) -> bool {
        matches!(self, Cell::Answered | Cell::Lied(_) | Cell::Odd(_))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cell::Refused => "refused",
            Cell::Cut(Some(true)) => "cut, durable",
            Cell::Cut(Some(false)) => "cut, nothing there",
            Cell::Cut(None) => "cut",
            Cell::Untouched => "–",
            Cell::Allowed => "answered",
            Cell::Answered => "ANSWERED",
            Cell::Lied(_) => "REFUSED AND THERE",
            Cell::Held => "held",
            Cell::Free => "goes on",
            Cell::Odd(_) => "?",
        })
    }
}

/// Whether the effect is there, where that can be asked.
fn there(bare: &Bare, row: &Row) -> Option<bool> {
    (!row.there.is_empty()).then(|| {
        let seen = sql::value(&bare.server, row.there);
        seen.unwrap_or_else(|error| panic!("{}: {}: {error}", row.effect, row.there)).as_deref() == Some("t")
    })
}

fn undo(bare: &Bare, row: &Row) {
    for statement in row.undo {
        // Most of it is not there.
        let _ = bare.run(statement);
    }
}

fn open(bare: &Bare, row: &Row, point: &str) -> Wire {
    let deadline = format!("-c ha_ext.debug_deadline={point}");
    let options: &[(&str, &str)] = match row.act {
        Act::Walsender(_) => &[("replication", "database")],
        Act::Replication(kind, _) => &[("replication", kind), ("options", &deadline)],
        _ => &[],
    };
    Wire::open(&bare.server, options).expect("the server admits sessions")
}

/// Runs the row with the deadline at `point`.
pub fn at(bare: &Bare, row: &Row, point: &str) -> Cell {
    undo(bare, row);
    for statement in row.before {
        bare.must(statement);
    }
    let outcome = match row.act {
        Act::Psql(script) => tool(bare, point, &["psql", "-X", "-v", "ON_ERROR_STOP=1", "-c", script]),
        Act::Pgbench(script) => pgbench(bare, point, script),
        Act::Replication(..) => {
            let mut wire = open(bare, row, point);
            let heard = act(&bare.server, &mut wire, row.act);
            // What it changed at the end is known by the answer's being owed: nothing that is answered has passed a point.
            outcome_of(&heard, point == "passed", point)
        }
        _ => {
            let mut wire = open(bare, row, point);
            for statement in row.first {
                let heard = wire.simple(statement);
                assert!(heard.ready && heard.error.is_none(), "{}: {statement}: {heard:?}", row.effect);
            }
            // Inside a transaction too; what is set is not undone by an error before it.
            let set = wire.simple(&format!("SET ha_ext.debug_deadline = '{point}'"));
            assert!(set.ready && set.error.is_none(), "{}: {set:?}", row.effect);
            let heard = act(&bare.server, &mut wire, row.act);
            let reached = heard.ready && heard.error.is_none() && reached(&mut wire);
            outcome_of(&heard, reached, point)
        }
    };
    if matches!(outcome, Outcome::Lost) {
        wait_settled(bare, row);
    }
    let there = there(bare, row);
    undo(bare, row);
    match (outcome, there) {
        (Outcome::Refused(_), None | Some(false)) => Cell::Refused,
        (Outcome::Refused(text), Some(true)) => Cell::Lied(text),
        (Outcome::Lost, there) => Cell::Cut(there),
        (Outcome::Answered { reached: true }, _) if row.allowed => Cell::Allowed,
        (Outcome::Answered { reached: true }, _) => Cell::Answered,
        (Outcome::Answered { reached: false }, _) => Cell::Untouched,
        (Outcome::Odd(text), _) => Cell::Odd(text),
    }
}

/// A connection may be closed before its backend is through with what it had begun.
fn wait_settled(bare: &Bare, row: &Row) {
    let at_work = "SELECT count(*) > 0 FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() \
                   AND backend_type IN ('client backend', 'walsender')";
    let settled = || (sql::value(&bare.server, at_work).ok()?.as_deref() == Some("f")).then_some(());
    assert!(poll(secs(10), settled).is_some(), "{}: a backend goes on without its client", row.effect);
}

enum Outcome {
    Refused(String),
    Lost,
    Answered { reached: bool },
    Odd(String),
}

/// Whether the deadline of this session has passed: reads of user tables are refused then.
fn reached(wire: &mut Wire) -> bool {
    let heard = wire.simple("ROLLBACK; SELECT count(*) FROM known");
    heard.lost || heard.error.is_some()
}

fn outcome_of(heard: &Heard, reached: bool, point: &str) -> Outcome {
    // An answer may be in several parts: the one that counts must not leave before the others.
    let told = point != "written" && heard.tags.iter().any(|tag| tag == "COMMIT");
    match &heard.error {
        None if heard.lost && told => Outcome::Answered { reached: true },
        None if heard.silent => Outcome::Odd(format!("neither answered nor closed: {heard:?}")),
        Some((code, message)) if code == "25006" => Outcome::Refused(message.clone()),
        Some((code, message)) => Outcome::Odd(format!("{code}: {message}")),
        None if heard.ready => Outcome::Answered { reached },
        None if heard.lost && !heard.kinds.contains('Z') => Outcome::Lost,
        None => Outcome::Odd(format!("{heard:?}")),
    }
}

/// A stream has begun: the first message in it.
fn first_of_stream(wire: &mut Wire, mut heard: Heard) -> Heard {
    if heard.kinds.ends_with('W') {
        wire.ask_walsender();
        let first = wire.message();
        (heard.ready, heard.lost) = (first.is_some(), first.is_none());
    }
    heard
}

fn act(server: &Server, wire: &mut Wire, act: Act) -> Heard {
    match act {
        Act::Synced(statements) => wire.synced(statements),
        Act::Replication(_, command) => {
            let end = sql::value(server, "SELECT pg_current_wal_flush_lsn()").expect("a function");
            let heard = wire.simple(&command.replace("{flushed}", &end.expect("not null")));
            first_of_stream(wire, heard)
        }
        Act::Simple(sql) | Act::Walsender(sql) => wire.simple(sql),
        Act::Pipeline(statements) => wire.pipeline(statements),
        Act::Call(function, arguments) => wire.call(function, arguments),
        Act::CopyIn(sql, lines) => wire.copy_in(sql, lines),
        Act::Psql(_) | Act::Pgbench(_) => unreachable!("another program"),
    }
}

fn tool(bare: &Bare, point: &str, words: &[&str]) -> Outcome {
    let program = bin_dir().join(words[0]).to_string_lossy().into_owned();
    let options = format!("PGOPTIONS=-c ha_ext.debug_deadline={point}");
    let port = bare.server.port.to_string();
    let target = ["env", "LC_ALL=C", &options, &program, "-h", &bare.server.host, "-p", &port, "-U", "postgres"];
    match run(&[&target[..], &words[1..], &["postgres"]].concat()) {
        Ok(_) => Outcome::Answered { reached: point != "none" },
        Err(text) if text.contains("does not hold the leader lease") => Outcome::Refused(text),
        Err(text) if text.contains("server closed the connection") || text.contains("backend died") => Outcome::Lost,
        Err(text) => Outcome::Odd(text),
    }
}

fn pgbench(bare: &Bare, point: &str, script: &str) -> Outcome {
    let file = bare.scratch.path().join("script.sql");
    std::fs::write(&file, script).expect("a script can be written");
    let file = file.to_string_lossy().into_owned();
    tool(bare, point, &["pgbench", "-n", "-t", "1", "-M", "extended", "-f", &file])
}

/// Commits are held. The worker, which would lift a seal that nobody asked it for, is frozen meanwhile.
pub struct Seal {
    operator: Session,
    worker: Proc,
}

impl Seal {
    /// Holds commits.
    pub fn put(bare: &Bare) -> Self {
        let (operator, worker) = (bare.session(), bare.worker());
        worker.freeze();
        operator.query("SET ha_ext.debug_gate = 'seal'", secs(5)).expect("a debug build can seal");
        Self { operator, worker }
    }

    /// Lets them go on.
    pub fn lift(self) {
        self.operator.query("SET ha_ext.debug_gate = 'none'", secs(5)).expect("a debug build can lift a seal");
        self.worker.thaw();
    }
}

/// Runs the row while commits are held, and lifts the seal.
// This process is no server: its threads may take signals.
#[allow(clippy::disallowed_methods)]
pub fn under_seal(bare: &Bare, row: &Row) -> Cell {
    undo(bare, row);
    for statement in row.before {
        bare.must(statement);
    }
    let mut wire = open(bare, row, "none");
    for statement in row.first {
        wire.simple(statement);
    }
    let seal = Seal::put(bare);
    let (way, server) = (row.act, bare.server.clone());
    let (file, port) = (bare.scratch.path().join("sealed.sql"), server.port.to_string());
    let client = std::thread::spawn(move || match way {
        Act::Psql(script) => plain(&["psql", "-X", "-h", &server.host, "-p", &port, "-U", "postgres", "-c", script]),
        Act::Pgbench(script) => {
            std::fs::write(&file, script).expect("a script can be written");
            let file = file.to_string_lossy().into_owned();
            plain(&[
                "pgbench",
                "-n",
                "-t",
                "1",
                "-M",
                "extended",
                "-h",
                &server.host,
                "-p",
                &port,
                "-U",
                "postgres",
                "-f",
                &file,
            ])
        }
        way => {
            let heard = act(&server, &mut wire, way);
            (heard.ready && heard.error.is_none()).then_some(()).ok_or(format!("{heard:?}"))
        }
    });
    // Held is who waits for it, not who is slow.
    let settled = poll(secs(4), || {
        let waits = || client.is_finished() || somebody_waits(bare);
        (waits() && poll(millis(200), || (!waits()).then_some(())).is_none()).then_some(client.is_finished())
    });
    let held = settled == Some(false) && !client.is_finished();
    // A held statement may have locked what would be looked at: then it is not seen either.
    let early =
        !row.there.is_empty() && sql::value(&bare.server, &locked(row.there)).ok().flatten().as_deref() == Some("t");
    seal.lift();
    let result = client.join().expect("the thread ends");
    let late = there(bare, row);
    undo(bare, row);
    match (held, result) {
        (_, Err(text)) => Cell::Odd(text),
        (true, Ok(())) if early && row.transactional => Cell::Odd("held, and there".to_owned()),
        (true, Ok(())) if late == Some(false) => Cell::Odd("answered, and not there".to_owned()),
        (true, Ok(())) => Cell::Held,
        (false, Ok(())) => Cell::Free,
    }
}

fn somebody_waits(bare: &Bare) -> bool {
    let waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'Extension' \
                   AND backend_type IN ('client backend', 'walsender')";
    sql::value(&bare.server, waiting).is_ok_and(|waits| waits.as_deref() == Some("t"))
}

fn locked(there: &str) -> String {
    format!("SET lock_timeout = '200ms'; {there}")
}

fn plain(words: &[&str]) -> Result<(), String> {
    let program = bin_dir().join(words[0]).to_string_lossy().into_owned();
    let mut all = vec![program.as_str()];
    all.extend(&words[1..]);
    all.push("postgres");
    run(&all).map(drop)
}
