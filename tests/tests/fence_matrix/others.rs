//! Effects on other servers and other sessions.

use crate::all;
use crate::cells::{Cell, POINTS, Seal};
use crate::page::{Page, wanted};
use crate::rows::{Act, INSERT, PLAIN, Row};
use ha_tests::bare::Bare;
use ha_tests::daemon::{Daemon, Launch, run};
use ha_tests::process::account;
use ha_tests::sql;
use ha_tests::wait::{millis, poll, secs};
use ha_tests::wire::Wire;
use std::os::unix::fs::chown;

/// Builds with contrib are those of 15 and 17.
const CONTRIB: Row = Row { on: &[15, 17], ..PLAIN };

/// The other server is this one.
const FOREIGN: &[Row] = &[
    Row { effect: "INSERT into a foreign table", act: Act::Simple("INSERT INTO far VALUES (1)"), ..CONTRIB },
    Row {
        effect: "COMMIT after an INSERT into a foreign table",
        first: &["BEGIN", "INSERT INTO far VALUES (1)"],
        act: Act::Simple("COMMIT"),
        ..CONTRIB
    },
    Row {
        effect: "COMMIT after an INSERT into a foreign partition",
        first: &["BEGIN", "INSERT INTO far_parts VALUES (1)"],
        act: Act::Simple("COMMIT"),
        ..CONTRIB
    },
    Row {
        effect: "COPY FROM into a foreign table",
        how: "COPY protocol",
        act: Act::CopyIn("COPY far FROM STDIN", "1\n"),
        ..CONTRIB
    },
    Row {
        effect: "TRUNCATE of a foreign table",
        before: &[INSERT],
        act: Act::Simple("TRUNCATE far"),
        there: "SELECT count(*) = 0 FROM made",
        ..CONTRIB
    },
    Row {
        effect: "read of a foreign table",
        act: Act::Simple("SELECT * FROM far"),
        there: "",
        transactional: false,
        ..CONTRIB
    },
];

/// Their rows.
pub fn rows(bare: &mut Bare, contrib: bool, page: &mut Page) {
    let pool = bare.ports.take();
    if contrib {
        foreign(bare, page);
    } else {
        for row in FOREIGN {
            page.skip(row);
        }
    }
    dblink(bare, contrib, page);
    notification(bare, page);
    pooled(bare, pool, page);
}

fn leaked(text: String) -> &'static str {
    text.leak()
}

/// `postgres_fdw` commits on the other server in the middle of our commit. That server is this one, in another session.
fn foreign(bare: &Bare, page: &mut Page) {
    let port = bare.server.port;
    for (server, port) in [("other", port), ("nowhere", 1)] {
        bare.must(&format!("CREATE SERVER {server} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname 'postgres')"));
        bare.must(&format!("CREATE USER MAPPING FOR postgres SERVER {server} OPTIONS (user 'postgres')"));
    }
    bare.must("CREATE FOREIGN TABLE far (i integer) SERVER other OPTIONS (table_name 'made')");
    bare.must("CREATE TABLE far_parts (i integer) PARTITION BY LIST (i)");
    bare.must("CREATE FOREIGN TABLE far_part PARTITION OF far_parts DEFAULT SERVER other OPTIONS (table_name 'made')");
    bare.must("CREATE FOREIGN TABLE lost (i integer) SERVER nowhere");
    for row in FOREIGN {
        all(bare, row, page);
    }
    let mut wire = Wire::open(&bare.server, &[]).expect("the server admits sessions");
    for statement in ["SELECT * FROM lost", "INSERT INTO lost VALUES (1)"] {
        wire.simple("SET ha_ext.debug_deadline = 'passed'");
        let (code, message) = wire.simple(statement).error.expect("it is refused");
        assert_eq!(code, "25006", "{statement}: the other server was asked first: {message}");
    }
}

/// dblink commits at once, and no transaction of ours knows.
fn dblink(bare: &Bare, contrib: bool, page: &mut Page) {
    let target = format!("host=127.0.0.1 port={} dbname=postgres user=postgres", bare.server.port);
    let row = Row {
        effect: "dblink_exec()",
        act: Act::Simple(leaked(format!("SELECT dblink_exec('{target}', 'INSERT INTO made VALUES (1)')"))),
        transactional: false,
        ..CONTRIB
    };
    if contrib { all(bare, &row, page) } else { page.skip(&row) }
}

/// What a listener hears of others.
fn notification(bare: &Bare, page: &mut Page) {
    let row = Row { effect: "notification that is delivered", how: "LISTEN", transactional: false, ..PLAIN };
    if !wanted(&row) {
        return;
    }
    let heard = |point: &str, sealed: bool| {
        let mut listener = Wire::open(&bare.server, &[]).expect("the server admits sessions");
        let listening = listener.simple("LISTEN somebody");
        assert!(listening.ready, "{listening:?}");
        listener.simple(&format!("SET ha_ext.debug_deadline = '{point}'"));
        bare.must("NOTIFY somebody");
        let seal = sealed.then(|| Seal::put(bare));
        let message = listener.message();
        seal.into_iter().for_each(Seal::lift);
        match message {
            None => Cell::Cut(None),
            Some((b'A', _)) if point == "passed" => Cell::Answered,
            Some((b'A', _)) if sealed => Cell::Free,
            Some((b'A', _)) => Cell::Untouched,
            other => Cell::Odd(format!("{other:?}")),
        }
    };
    let mut found: Vec<Cell> = POINTS.iter().map(|point| heard(point, false)).collect();
    found.push(heard("none", true));
    page.add(&row, &found);
}

/// A pool in between, which gives a server connection to a client for one transaction.
fn pooled(bare: &Bare, port: u16, page: &mut Page) {
    let row = Row { effect: "transaction through pgbouncer", how: "psql", ..PLAIN };
    if !wanted(&row) {
        return;
    }
    let dir = bare.scratch.path().join("pool");
    std::fs::create_dir_all(&dir).expect("a directory can be made");
    let (uid, gid) = account("postgres");
    let ini = format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = any\nauth_file = /dev/null\npool_mode = transaction\n\
         server_login_retry = 1\nadmin_users = postgres\n",
        bare.server.port
    )
    .replace("* = host", "* = user=postgres host");
    std::fs::write(dir.join("pool.ini"), ini).expect("a file can be written");
    for path in [dir.clone(), dir.join("pool.ini")] {
        chown(path, Some(uid), Some(gid)).expect("root may give files away");
    }
    let _pool = Daemon::start(&Launch {
        command: vec!["pgbouncer".into(), dir.join("pool.ini").to_string_lossy().into_owned()],
        user: Some("postgres"),
        netns: None,
        log: dir.join("pool.log"),
        dir: dir.clone(),
        env: Vec::new(),
    });
    let psql = |text: &str| {
        let target = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        run(&["timeout", "10", "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", &target, "-c", text])
    };
    let up = poll(secs(10), || psql("SELECT 1").ok());
    assert!(up.is_some(), "no pool: {}", ha_tests::scratch::tail(&dir.join("pool.log"), 10));
    let mut found = Vec::new();
    for point in POINTS {
        bare.must("TRUNCATE made");
        // What is local to the transaction is forgotten when its answer is written.
        let local = if *point == "written" { "" } else { "LOCAL" };
        let transaction =
            format!("BEGIN; SET {local} ha_ext.debug_deadline = '{point}'; INSERT INTO made VALUES (1); COMMIT");
        let answer = psql(&transaction);
        // The pool may have heard less than the client.
        let there = poll(millis(300), || {
            let seen = sql::value(&bare.server, "SELECT count(*) > 0 FROM made").expect("a read");
            (seen.as_deref() == Some("t")).then_some(())
        });
        found.push(match answer {
            Ok(_) => Cell::Answered,
            Err(text) if text.contains("does not hold the leader lease") && there.is_none() => Cell::Refused,
            Err(text) if text.contains("does not hold the leader lease") => Cell::Lied(text),
            Err(_) => Cell::Cut(Some(there.is_some())),
        });
    }
    bare.must("TRUNCATE made");
    let seal = Seal::put(bare);
    // Killed by the timeout of the program itself, so that nobody waits for ever.
    let held = run(&[
        "timeout",
        "1",
        "psql",
        "-X",
        "-d",
        &format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"),
        "-c",
        "INSERT INTO made VALUES (1)",
    ]);
    found.push(if held.is_err() { Cell::Held } else { Cell::Free });
    seal.lift();
    page.add(&row, &found);
}
