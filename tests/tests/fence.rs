//! The commit fence of one server, looked at by real clients, without any cluster around it.

use ha_tests::bare::{Bare, in_background};
use ha_tests::daemon::run;
use ha_tests::etcd::Etcd;
use ha_tests::plan::bin_dir;
use ha_tests::sql::{self, SqlError};
use ha_tests::wait::{millis, poll, secs};
use rustix::process::Signal;
use std::fs;
use std::time::Duration;

/// Each of them would acknowledge something that another server may not know.
const REFUSED: &[&str] = &[
    "CREATE TABLE other (i integer)",
    "CREATE TABLE copied AS SELECT 1",
    "CREATE TEMP TABLE mine (i integer)",
    "INSERT INTO known VALUES (2)",
    "UPDATE known SET i = 3",
    "DELETE FROM known",
    "TRUNCATE known",
    "WITH gone AS (DELETE FROM known RETURNING i) SELECT * FROM gone",
    "SELECT * FROM known FOR UPDATE",
    "SELECT txid_current()",
    "SELECT nextval('numbers'), txid_current()",
    "DO $$ BEGIN EXECUTE 'INSERT INTO known VALUES (4)'; END $$",
    "COPY known FROM STDIN",
    "BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'new'",
    "COMMIT PREPARED 'before'",
    "ROLLBACK PREPARED 'before'",
    "VACUUM known",
    "ANALYZE known",
    "CLUSTER",
    "REINDEX TABLE known",
    "CREATE INDEX CONCURRENTLY ON known (i)",
    "CHECKPOINT",
    "NOTIFY somebody",
    "ALTER SYSTEM SET work_mem = '5MB'",
    "CREATE DATABASE other",
    "DROP DATABASE postgres",
    "CREATE EXTENSION ha_ext",
    "CREATE ROLE somebody",
    "SELECT lo_create(0)",
    "SELECT pg_logical_emit_message(true, 'a', 'b')",
];

/// Reads of user tables: a doomed commit may be visible.
const READS: &[&str] = &[
    "SELECT * FROM known",
    "SELECT count(*) FROM known",
    "EXPLAIN ANALYZE SELECT * FROM known",
    "DO $$ BEGIN PERFORM i FROM known; END $$",
    "COPY (SELECT * FROM known) TO PROGRAM 'cat >/dev/null'",
    "COPY known TO PROGRAM 'cat >/dev/null'",
    "BEGIN; DECLARE c CURSOR FOR SELECT * FROM known; FETCH c; COMMIT",
];

/// Whoever looks after the server must still get at it.
const ALLOWED: &[&str] = &[
    "SELECT 1",
    "SHOW work_mem",
    "SET work_mem = '5MB'",
    "BEGIN; ROLLBACK",
    "SELECT pg_is_in_recovery(), pg_current_wal_lsn()",
    "SELECT count(*) FROM pg_stat_activity",
    "SELECT count(*) FROM pg_class",
    "LISTEN somebody",
    "SELECT pg_reload_conf()",
];

fn expect_refused(bare: &Bare, statement: &str, hint: &str) {
    match bare.run(statement) {
        Err(SqlError::Refused { code, message, .. }) => {
            assert_eq!(code, "25006", "{statement}: {message}");
            assert!(message.contains(hint), "{statement}: the hint \"{hint}\" is missing in \"{message}\"");
        }
        other => panic!("{statement}: expected a refusal, got {other:?}"),
    }
}

/// A server that knows a table, a sequence and a prepared transaction, all of before the fence.
fn with_contents() -> Bare {
    let mut bare = Bare::fresh();
    bare.start();
    bare.must("CREATE TABLE known (i integer)");
    bare.must("CREATE SEQUENCE numbers");
    bare.must("INSERT INTO known VALUES (1)");
    let session = bare.session();
    for statement in ["BEGIN", "CREATE TABLE undecided (i integer)", "PREPARE TRANSACTION 'before'"] {
        session.query(statement, secs(5)).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    drop(session);
    bare
}

#[test]
fn a_server_without_marker_and_configuration_is_an_ordinary_one() {
    let mut bare = with_contents();
    bare.must("COMMIT PREPARED 'before'");
    bare.must("VACUUM known");
    assert!(bare.postmaster().children().iter().all(|child| !child.command().contains("ha_ext")));
    bare.stop();
}

#[test]
fn a_marked_server_without_its_configuration_is_closed_for_good() {
    let mut bare = with_contents();
    bare.stop();
    bare.append("ha_ext.marker", "{}");
    bare.start();
    for statement in REFUSED.iter().chain(READS) {
        expect_refused(&bare, statement, "ha_bootstrap detach");
    }
    for statement in ALLOWED {
        bare.must(statement);
    }
    bare.must("SET ROLE pg_monitor; SELECT count(*) FROM pg_stat_database");
    bare.append("postgresql.conf", "ha_ext.fence_reads = allow\n");
    bare.postmaster().signal(Signal::HUP);
    let read = poll(secs(5), || bare.run("SELECT * FROM known").ok());
    assert_eq!(read.expect("reads were allowed").len(), 1, "and nothing of what was refused is there");
    for statement in READS {
        bare.must(statement);
    }
    for statement in REFUSED {
        expect_refused(&bare, statement, "ha_bootstrap detach");
    }
    // Not only by their commit: a trigger may act outside the transaction.
    for statement in ["INSERT INTO known VALUES (5)", "SELECT * FROM known FOR UPDATE"] {
        let session = bare.session();
        session.query("BEGIN", secs(5)).expect("a transaction begins");
        match session.query(statement, secs(5)) {
            Err(SqlError::Refused { code, message, .. }) => {
                assert_eq!(code, "25006", "{statement}: {message}");
                assert!(message.contains("a statement that changes data"), "{statement}: {message}");
            }
            other => panic!("{statement}: expected a refusal, got {other:?}"),
        }
    }
    bare.stop();
    fs::remove_file(bare.data().join("ha_ext.marker")).expect("the marker is there");
    bare.start();
    bare.must("COMMIT PREPARED 'before'");
    assert_eq!(sql::value(&bare.server, "SELECT count(*) FROM known").expect("a read").as_deref(), Some("1"));
    bare.stop();
}

#[test]
fn a_configured_server_whose_worker_cannot_start_is_closed() {
    let mut bare = with_contents();
    bare.stop();
    bare.append("postgresql.conf", "ha_ext.config_file = '/nowhere/node.yml'\n");
    bare.start();
    for statement in REFUSED.iter().chain(READS) {
        expect_refused(&bare, statement, "No leader is known");
    }
    for statement in ALLOWED {
        bare.must(statement);
    }
    bare.stop();
}

#[test]
fn a_configured_server_that_never_reached_its_store_acknowledges_nothing_and_becomes_a_standby() {
    let mut bare = with_contents();
    bare.must("CREATE EXTENSION ha_ext");
    bare.stop();
    // A port of ours on which nobody listens.
    let nobody = bare.ports.take();
    bare.configure(&format!("127.0.0.1:{nobody}"));
    bare.start();
    let mut standby = None;
    let end = std::time::Instant::now() + secs(20);
    while standby.is_none() && std::time::Instant::now() < end {
        let write = bare.run("INSERT INTO known VALUES (50)");
        assert!(write.is_err(), "it holds no lease");
        let recovery = sql::value(&bare.server, "SELECT pg_is_in_recovery()").ok().flatten();
        standby = recovery.filter(|recovery| recovery == "t");
    }
    assert!(standby.is_some(), "it does not become a standby: {}", bare.log());
    let store = poll(secs(10), || sql::value(&bare.server, "SELECT store FROM ha_cluster").ok().flatten());
    let store = store.expect("the views work while the fence is closed");
    assert!(store.starts_with("unreachable"), "{store}");
    let fenced = sql::value(&bare.server, "SELECT fence_open FROM ha_lease").expect("a view");
    assert_eq!(fenced.as_deref(), Some("f"));
    bare.stop();
}

/// A server that leads its own small cluster, and the store.
fn leading() -> (Bare, Etcd) {
    let mut bare = with_contents();
    bare.must("CREATE EXTENSION ha_ext");
    bare.stop();
    let etcd = bare.lead();
    bare.must("INSERT INTO known VALUES (10)");
    (bare, etcd)
}

#[test]
fn a_frozen_worker_lets_the_lease_run_out_and_nothing_is_acknowledged_after_it() {
    let (bare, _etcd) = leading();
    let prepared = bare.session();
    for statement in ["BEGIN", "INSERT INTO known VALUES (20)", "PREPARE TRANSACTION 'during'"] {
        prepared.query(statement, secs(5)).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let open = bare.session();
    open.query("BEGIN; INSERT INTO known VALUES (21)", secs(5)).expect("a transaction begins");

    // These two become durable before the deadline and would be acknowledged after it.
    bare.reload("synchronous_standby_names", "nobody");
    let commit = in_background(bare.session(), "INSERT INTO known VALUES (22)");
    let finish = in_background(prepared, "COMMIT PREPARED 'during'");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let both = poll(secs(5), || sql::value(&bare.server, waiting).ok().flatten().filter(|count| count == "2"));
    both.expect("both wait for a standby");

    let frozen = bare.worker();
    frozen.freeze();
    // A read: a write would wait for a standby until then.
    let refused = poll(secs(15), || bare.run("SELECT * FROM known").err());
    refused.expect("the lease runs out without the worker");
    expect_refused(&bare, "INSERT INTO known VALUES (23)", "No leader is known");
    match open.query("COMMIT", secs(5)) {
        Err(SqlError::Refused { code, .. }) => assert_eq!(code, "25006"),
        other => panic!("a transaction of before the deadline: {other:?}"),
    }
    expect_refused(&bare, "SELECT * FROM known", "No leader is known");

    bare.append("postgresql.conf", "synchronous_standby_names = ''\n");
    bare.postmaster().signal(Signal::HUP);
    for (what, waiting) in [("INSERT", commit), ("COMMIT PREPARED", finish)] {
        let result = waiting.join().expect("the thread ends");
        assert!(matches!(result, Err(SqlError::Broken(_))), "{what} was acknowledged after the deadline: {result:?}");
    }

    frozen.thaw();
    let again = poll(secs(20), || bare.run("INSERT INTO known VALUES (24)").ok());
    again.expect("with its worker back, and the key still there, it leads again");
    let rows = "SELECT string_agg(i::text, ',' ORDER BY i) FROM known WHERE i >= 20";
    let rows = sql::value(&bare.server, rows).expect("a read").unwrap_or_default();
    assert_eq!(rows, "20,22,24", "what was durable is there; what was refused is not");
}

#[test]
fn a_worker_that_is_terminated_alone_is_replaced_without_an_outage() {
    let (bare, _etcd) = leading();
    let before = bare.worker();
    before.signal(Signal::TERM);
    let end = std::time::Instant::now() + secs(4);
    let mut writes = 0;
    while std::time::Instant::now() < end {
        bare.must("INSERT INTO known VALUES (30)");
        writes += 1;
        std::thread::sleep(millis(20));
    }
    assert!(writes > 20, "only {writes} writes");
    let after = bare.worker();
    assert_ne!(before, after, "another worker runs");
    let lead = poll(Duration::from_secs(10), || {
        let seen = sql::value(&bare.server, "SELECT fence_open FROM ha_lease").ok().flatten();
        seen.filter(|open| open == "t")
    });
    lead.expect("the new worker leads");
}

#[test]
fn a_second_server_in_the_same_directory_is_refused() {
    let mut bare = with_contents();
    bare.stop();
    bare.append("ha_ext.marker", "{}");
    bare.start();
    // As if the lock file had been lost.
    fs::remove_file(bare.data().join("postmaster.pid")).expect("the server runs");
    let program = bin_dir().join("postgres").to_string_lossy().into_owned();
    let data = bare.data().to_string_lossy().into_owned();
    let other_port = format!("{}", bare.ports.take());
    let as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    let command = [&as_postgres[..], &[&program, "-D", &data, "-p", &other_port]].concat();
    let error = run(&command).expect_err("a second server must not start");
    assert!(error.contains("could not lock the data directory"), "{error}");
}
