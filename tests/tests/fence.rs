//! The commit fence of one server, looked at by real clients, without any cluster around it.

use ha_tests::daemon::{Daemon, Launch, run};
use ha_tests::etcd::{Etcd, Place};
use ha_tests::plan::bin_dir;
use ha_tests::ports::Ports;
use ha_tests::process::{Proc, account};
use ha_tests::scratch::{Scratch, tail};
use ha_tests::sql::{self, Server, Session, SqlError};
use ha_tests::wait::{millis, poll, secs};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::Duration;

/// One server, started as a service unit would start it: no supervisor.
struct Bare {
    scratch: Scratch,
    ports: Ports,
    server: Server,
    daemon: Option<Daemon>,
}

impl Bare {
    /// A server with a data directory and nothing else; not started.
    fn new() -> Self {
        let scratch = Scratch::new();
        let mut ports = Ports::claim();
        let server = Server { host: "127.0.0.1".to_owned(), port: ports.take() };
        let (uid, gid) = account("postgres");
        chown(scratch.path(), Some(uid), Some(gid)).expect("root may give directories away");
        let bare = Self { scratch, ports, server, daemon: None };
        let data = bare.data().to_string_lossy().into_owned();
        let initdb = bin_dir().join("initdb").to_string_lossy().into_owned();
        let as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
        let command = [&as_postgres[..], &[&initdb, "-D", &data, "-N", "-A", "trust", "-U", "postgres"]].concat();
        run(&command).unwrap_or_else(|error| panic!("{error}"));
        let conf = format!(
            "shared_preload_libraries = 'ha_ext'\nport = {}\nlisten_addresses = '127.0.0.1'\n\
             unix_socket_directories = ''\nmax_prepared_transactions = 10\nfsync = off\n",
            bare.server.port
        );
        bare.append("postgresql.conf", &conf);
        bare
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn append(&self, file: &str, text: &str) {
        let path = self.data().join(file);
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, before + text).expect("a file in the data directory can be written");
        let (uid, gid) = account("postgres");
        chown(&path, Some(uid), Some(gid)).expect("root may give files away");
    }

    /// Writes a configuration for a cluster of this one node, and points the server at it.
    fn configure(&mut self, etcd: &str) {
        let rest = self.ports.take();
        let file = self.scratch.path().join("node.yml");
        let text = format!(
            "scope: fence\nname: only\n\
             restapi: {{listen: \"127.0.0.1:{rest}\", connect_address: \"127.0.0.1:{rest}\"}}\n\
             etcd3: {{host: \"{etcd}\"}}\n\
             bootstrap: {{dcs: {{ttl: 6, loop_wait: 1, retry_timeout: 2}}}}\n\
             postgresql:\n  listen: \"127.0.0.1:{port}\"\n  connect_address: \"127.0.0.1:{port}\"\n  \
             data_dir: {data}\n  authentication: {{superuser: {{username: postgres}}, \
             replication: {{username: postgres}}}}\n",
            port = self.server.port,
            data = self.data().display(),
        );
        fs::write(&file, text).expect("the configuration can be written");
        let (uid, gid) = account("postgres");
        chown(&file, Some(uid), Some(gid)).expect("root may give files away");
        self.append("postgresql.conf", &format!("ha_ext.config_file = '{}'\n", file.display()));
    }

    fn start(&mut self) {
        let log = self.scratch.path().join("server.log");
        let program = bin_dir().join("postgres").to_string_lossy().into_owned();
        let launch = Launch {
            command: vec![program, "-D".into(), self.data().to_string_lossy().into_owned()],
            user: Some("postgres"),
            netns: None,
            log: log.clone(),
            dir: self.scratch.path().to_owned(),
            env: Vec::new(),
        };
        self.daemon = Some(Daemon::start(&launch));
        let up = poll(secs(20), || sql::query(&self.server, "SELECT 1").ok());
        assert!(up.is_some(), "the server does not start: {}", tail(&log, 20));
    }

    fn postmaster(&self) -> Proc {
        self.daemon.as_ref().expect("the server was started").process()
    }

    fn stop(&mut self) {
        self.postmaster().signal(Signal::INT);
        assert!(self.postmaster().wait_gone(secs(30)), "the server does not stop");
        self.daemon = None;
    }

    fn run(&self, statement: &str) -> Result<Vec<sql::Row>, SqlError> {
        sql::query(&self.server, statement)
    }

    fn must(&self, statement: &str) {
        self.run(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    fn session(&self) -> Session {
        Session::open(&self.server, secs(5)).expect("the server admits sessions")
    }
}

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
    let mut bare = Bare::new();
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
    bare.stop();
    fs::remove_file(bare.data().join("ha_ext.marker")).expect("the marker is there");
    bare.start();
    bare.must("COMMIT PREPARED 'before'");
    assert_eq!(sql::value(&bare.server, "SELECT count(*) FROM known").expect("a read").as_deref(), Some("1"));
    bare.stop();
}

#[test]
fn a_configured_server_that_never_reached_its_store_is_closed() {
    let mut bare = with_contents();
    bare.must("CREATE EXTENSION ha_ext");
    bare.stop();
    // A port of ours on which nobody listens.
    let nobody = bare.ports.take();
    bare.configure(&format!("127.0.0.1:{nobody}"));
    bare.start();
    for statement in REFUSED.iter().filter(|statement| !statement.contains("EXTENSION")).chain(READS) {
        expect_refused(&bare, statement, "No leader is known");
    }
    for statement in ALLOWED {
        bare.must(statement);
    }
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
    let place = Place {
        host: "127.0.0.1".to_owned(),
        client_port: bare.ports.take(),
        peer_port: bare.ports.take(),
        netns: None,
    };
    let etcd = Etcd::start(bare.scratch.path(), vec![place]);
    let endpoint = etcd.endpoints().remove(0);
    bare.configure(&endpoint);
    bare.start();
    let written = poll(secs(20), || bare.run("INSERT INTO known VALUES (10)").ok());
    assert!(written.is_some(), "it does not lead: {}", tail(&bare.scratch.path().join("server.log"), 30));
    (bare, etcd)
}

fn worker(bare: &Bare) -> Proc {
    let worker = bare.postmaster().children().into_iter().find(|child| child.command().contains("ha_ext loop"));
    worker.expect("the loop worker runs")
}

/// Runs a statement in a thread that gives its result back.
// This process is no server: its threads may take signals.
#[allow(clippy::disallowed_methods)]
fn in_background(
    session: Session,
    statement: &'static str,
) -> std::thread::JoinHandle<Result<Vec<sql::Row>, SqlError>> {
    std::thread::spawn(move || session.query(statement, secs(40)))
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
    bare.append("postgresql.conf", "synchronous_standby_names = 'nobody'\n");
    bare.postmaster().signal(Signal::HUP);
    let waits = poll(secs(5), || {
        let setting = sql::value(&bare.server, "SHOW synchronous_standby_names").ok().flatten();
        setting.filter(|names| names == "nobody")
    });
    waits.expect("the setting arrives");
    let commit = in_background(bare.session(), "INSERT INTO known VALUES (22)");
    let finish = in_background(prepared, "COMMIT PREPARED 'during'");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let both = poll(secs(5), || sql::value(&bare.server, waiting).ok().flatten().filter(|count| count == "2"));
    both.expect("both wait for a standby");

    let frozen = worker(&bare);
    frozen.freeze();
    // A read: a write would wait for a standby until then.
    let refused = poll(secs(15), || bare.run("SELECT * FROM known").err());
    refused.expect("the lease runs out without the worker");
    expect_refused(&bare, "INSERT INTO known VALUES (23)", "The leader is 127.0.0.1:");
    match open.query("COMMIT", secs(5)) {
        Err(SqlError::Refused { code, .. }) => assert_eq!(code, "25006"),
        other => panic!("a transaction of before the deadline: {other:?}"),
    }
    expect_refused(&bare, "SELECT * FROM known", "The leader is 127.0.0.1:");

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
    let before = worker(&bare);
    before.signal(Signal::TERM);
    let end = std::time::Instant::now() + secs(4);
    let mut writes = 0;
    while std::time::Instant::now() < end {
        bare.must("INSERT INTO known VALUES (30)");
        writes += 1;
        std::thread::sleep(millis(20));
    }
    assert!(writes > 20, "only {writes} writes");
    let after = worker(&bare);
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
