//! Commits that are held, logins that are sent away and reads that are withheld, as a planned switchover needs them.

use ha_tests::bare::{Bare, in_background};
use ha_tests::sql::{self, Session, SqlError};
use ha_tests::wait::{millis, poll, secs};
use std::time::Instant;

/// A leader that knows a table and a prepared transaction.
fn leader() -> (Bare, ha_tests::etcd::Etcd) {
    let mut bare = Bare::fresh();
    let etcd = bare.lead();
    bare.must("CREATE TABLE held (i integer)");
    bare.must("CREATE TABLE alone (i integer)");
    bare.must("BEGIN; INSERT INTO held VALUES (1); PREPARE TRANSACTION 'before'");
    (bare, etcd)
}

/// Each is held before it becomes durable.
const HELD: &[&str] = &[
    "INSERT INTO held VALUES (10)",
    "BEGIN; INSERT INTO held VALUES (11); COMMIT",
    "INSERT INTO held VALUES (12); INSERT INTO held VALUES (13)",
    "DO $$ BEGIN INSERT INTO held VALUES (14); COMMIT; INSERT INTO held VALUES (15); END $$",
    "CREATE TABLE made (i integer)",
    "BEGIN; INSERT INTO held VALUES (16); PREPARE TRANSACTION 'during'",
    "COMMIT PREPARED 'before'",
    "NOTIFY somebody",
    "SELECT pg_notify('somebody', 'text')",
    "SET synchronous_commit = off; INSERT INTO held VALUES (17)",
    "VACUUM FULL alone",
];

/// Commits are held; the worker would lift a seal that nobody asked it for.
fn holding(bare: &Bare) -> Session {
    let operator = bare.session();
    bare.worker().freeze();
    operator.query("SET ha_ext.debug_gate = 'seal'", secs(5)).expect("a debug build can seal");
    operator
}

fn pid(session: &Session) -> String {
    session.value("SELECT pg_backend_pid()", secs(5)).expect("a query").expect("a pid")
}

fn waiting(bare: &Bare) -> usize {
    let text =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'Extension' AND backend_type = 'client backend'";
    let count = sql::value(&bare.server, text).expect("reads go on").expect("a count");
    count.parse().expect("a number")
}

#[test]
fn held_commits_go_on_after_an_unseal() {
    let (bare, _etcd) = leader();
    let sessions: Vec<Session> = HELD.iter().map(|_| bare.session()).collect();
    let operator = holding(&bare);
    let clients: Vec<_> = sessions.into_iter().zip(HELD).map(|(session, text)| in_background(session, text)).collect();
    poll(secs(10), || (waiting(&bare) == HELD.len()).then_some(())).expect("all of them are held");
    std::thread::sleep(millis(300));
    for (client, text) in clients.iter().zip(HELD) {
        assert!(!client.is_finished(), "{text} was not held");
    }
    let rows = sql::value(&bare.server, "SELECT count(*) FROM held").expect("reads go on");
    assert_eq!(rows.as_deref(), Some("0"), "nothing that is held can be seen");
    bare.must("SELECT 1");
    drop(bare.session());
    let lifted = Instant::now();
    operator.query("SET ha_ext.debug_gate = 'none'", secs(5)).expect("a debug build can lift a seal");
    for (client, text) in clients.into_iter().zip(HELD) {
        client.join().expect("the thread ends").unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    bare.worker().thaw();
    println!("{} held commits went on within {} ms", HELD.len(), lifted.elapsed().as_millis());
    bare.must("COMMIT PREPARED 'during'");
    let rows = sql::value(&bare.server, "SELECT string_agg(i::text, ',' ORDER BY i) FROM held").expect("a read");
    assert_eq!(rows.as_deref(), Some("1,10,11,12,13,14,15,16,17"));
}

#[test]
fn held_commits_stay_held_by_a_server_that_has_handed_over_until_they_are_told_where_to_go() {
    let (bare, _etcd) = leader();
    let idle = bare.session();
    let sessions: Vec<Session> = HELD.iter().map(|_| bare.session()).collect();
    let (other, late) = (bare.session(), bare.session());
    // By pid: between two looks at the seal a session does not show that it waits, and whoever is passed over waits for 30 s.
    let held_pids: Vec<String> = sessions.iter().chain([&late]).map(pid).collect();
    let operator = holding(&bare);
    let clients: Vec<_> = sessions.into_iter().zip(HELD).map(|(session, text)| in_background(session, text)).collect();
    poll(secs(10), || (waiting(&bare) == HELD.len()).then_some(())).expect("all of them are held");
    operator.query("SET ha_ext.debug_gate = 'demote'", secs(5)).expect("a debug build can close the fence");
    let next = "The next leader is 192.0.2.1:5432 (next).";
    let writer = in_background(late, "INSERT INTO held VALUES (18)");
    std::thread::sleep(millis(300));
    for (client, text) in clients.iter().zip(HELD) {
        assert!(!client.is_finished(), "{text} was not held any more");
    }
    assert!(!writer.is_finished(), "a statement that must be refused waits with them");
    let end = format!("SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[{}]) AS pid", held_pids.join(","));
    other.query(&end, secs(5)).expect("a termination");
    for (client, text) in clients.into_iter().chain([writer]).zip(HELD.iter().chain(&["a statement"])) {
        match client.join().expect("the thread ends") {
            Err(SqlError::Refused { code, hint, .. }) => {
                assert_eq!((code.as_str(), hint.as_str()), ("57P01", next), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    match Session::open(&bare.server, secs(5)) {
        Err(SqlError::Refused { code, hint, .. }) => assert_eq!((code.as_str(), hint.as_str()), ("57P03", next)),
        other => panic!("a new session was admitted: {other:?}"),
    }
    assert_eq!(other.value("SELECT 1", secs(5)).expect("whoever is there may look").as_deref(), Some("1"));
    other.query(&format!("SELECT pg_terminate_backend({})", pid(&idle)), secs(5)).expect("a termination");
    match idle.query("SELECT 1", secs(5)) {
        Err(SqlError::Refused { code, hint, .. }) => assert_eq!((code.as_str(), hint.as_str()), ("57P01", next)),
        Err(SqlError::Broken(text)) => {
            // The client library read the message while nobody asked; the server's log has it too.
            assert!(bare.log().contains(&format!("HINT:  {next}")), "{text}: {}", bare.log());
        }
        other => panic!("a terminated session: {other:?}"),
    }
    bare.worker().thaw();
    poll(secs(20), || bare.run("INSERT INTO held VALUES (20)").ok()).expect("the key is still ours, so it leads again");
    let rows = sql::value(&bare.server, "SELECT string_agg(i::text, ',' ORDER BY i) FROM held").expect("a read");
    assert_eq!(rows.as_deref(), Some("20"), "nothing of what was refused is there");
}

#[test]
fn held_commits_fail_when_the_lease_ends() {
    let (bare, _etcd) = leader();
    let sessions: Vec<Session> = HELD.iter().map(|_| bare.session()).collect();
    let _operator = holding(&bare);
    let clients: Vec<_> = sessions.into_iter().zip(HELD).map(|(session, text)| in_background(session, text)).collect();
    for (client, text) in clients.into_iter().zip(HELD) {
        match client.join().expect("the thread ends") {
            Err(SqlError::Refused { code, .. }) => assert_eq!(code, "25006", "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    bare.worker().thaw();
}

#[test]
fn a_held_commit_can_be_cancelled_and_terminated() {
    let (bare, _etcd) = leader();
    let (cancelled, terminated) = (bare.session(), bare.session());
    let (one, two) = (pid(&cancelled), pid(&terminated));
    let operator = holding(&bare);
    let clients = [
        in_background(cancelled, "INSERT INTO held VALUES (30)"),
        in_background(terminated, "INSERT INTO held VALUES (31)"),
    ];
    poll(secs(10), || (waiting(&bare) == 2).then_some(())).expect("both are held");
    let text = format!("SELECT pg_cancel_backend({one}), pg_terminate_backend({two})");
    operator.query(&text, secs(5)).expect("signals");
    for (client, wanted) in clients.into_iter().zip(["57014", "57P01"]) {
        match client.join().expect("the thread ends") {
            Err(SqlError::Refused { code, hint, .. }) => {
                assert_eq!((code.as_str(), hint.as_str()), (wanted, ""));
            }
            other => panic!("{wanted}: {other:?}"),
        }
    }
    operator.query("SET ha_ext.debug_gate = 'none'", secs(5)).expect("a debug build can lift a seal");
    bare.worker().thaw();
    let rows = sql::value(&bare.server, "SELECT count(*) FROM held").expect("a read");
    assert_eq!(rows.as_deref(), Some("0"), "neither is there");
}

#[test]
fn a_worker_that_ends_leaves_no_seal_behind() {
    let (bare, _etcd) = leader();
    let session = bare.session();
    let _operator = holding(&bare);
    let client = in_background(session, "INSERT INTO held VALUES (40)");
    poll(secs(10), || (waiting(&bare) == 1).then_some(())).expect("it is held");
    bare.worker().signal(rustix::process::Signal::TERM);
    bare.worker().thaw();
    client.join().expect("the thread ends").expect("the next worker lifts the seal");
}

/// Reads that a standby must not answer before it is known to agree with the new leader.
const READS: &[&str] = &[
    "SELECT * FROM held",
    "COPY held TO PROGRAM 'cat >/dev/null'",
    "COPY (SELECT * FROM held) TO PROGRAM 'cat >/dev/null'",
    "DO $$ BEGIN PERFORM i FROM held; END $$",
    "BEGIN; DECLARE c CURSOR FOR SELECT * FROM held; FETCH c; COMMIT",
    "EXPLAIN ANALYZE SELECT * FROM held",
    "SELECT lo_get(4242)",
    "SELECT * FROM pg_largeobject",
];

#[test]
fn reads_of_a_standby_can_be_withheld() {
    let mut bare = Bare::fresh();
    bare.start();
    bare.must("CREATE TABLE held (i integer)");
    bare.must("SELECT lo_create(4242)");
    bare.stop();
    bare.append("ha_ext.marker", "{}");
    bare.append("standby.signal", "");
    bare.start();
    for text in READS {
        bare.must(text);
    }
    let operator = bare.session();
    let kept = bare.session();
    kept.query("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM held", secs(5)).expect("reads go on");
    operator.query("SET ha_ext.debug_gate = 'withhold'", secs(5)).expect("a debug build can withhold reads");
    match kept.query("FETCH c", secs(5)) {
        Err(SqlError::Refused { code, message, .. }) => assert_eq!(code, "57P03", "{message}"),
        other => panic!("rows of before: {other:?}"),
    }
    for text in READS {
        match bare.run(text) {
            Err(SqlError::Refused { code, message, .. }) => assert_eq!(code, "57P03", "{text}: {message}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    bare.must("SELECT count(*) FROM pg_stat_activity, pg_class; SELECT pg_is_in_recovery()");
    bare.reload("ha_ext.fence_reads", "allow");
    for text in READS {
        bare.must(text);
    }
}
