//! One server with the extension and without any cluster around it, or with a cluster of itself alone.

use crate::daemon::{Daemon, Launch, run};
use crate::etcd::{Etcd, Place};
use crate::plan::bin_dir;
use crate::ports::Ports;
use crate::process::{Proc, account};
use crate::scratch::{Scratch, tail};
use crate::sql::{self, Server, Session, SqlError};
use crate::wait::{poll, secs};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

/// One server, started as a service unit would start it: no supervisor.
pub struct Bare {
    /// Its files.
    pub scratch: Scratch,
    /// For what is started beside it.
    pub ports: Ports,
    /// Where it listens.
    pub server: Server,
    daemon: Option<Daemon>,
}

impl Bare {
    /// A server with a data directory and nothing else; not started.
    #[must_use]
    pub fn fresh() -> Self {
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
        // A guard of the fence that is missing: `make fence-mutants` shows that a test fails then.
        if let Ok(guard) = std::env::var("HA_TESTS_WITHOUT") {
            bare.append("postgresql.conf", &format!("ha_ext.debug_without = '{guard}'\n"));
        }
        bare
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// Appends to a file of the data directory.
    pub fn append(&self, file: &str, text: &str) {
        let path = self.data().join(file);
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, before + text).expect("a file in the data directory can be written");
        let (uid, gid) = account("postgres");
        chown(&path, Some(uid), Some(gid)).expect("root may give files away");
    }

    /// Writes a configuration for a cluster of this one node, and points the server at it.
    pub fn configure(&mut self, etcd: &str) {
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

    /// Starts it and waits until it admits sessions.
    pub fn start(&mut self) {
        let log = self.scratch.path().join("server.log");
        let program = bin_dir().join("postgres").to_string_lossy().into_owned();
        let launch = Launch {
            command: vec![program, "-D".into(), self.data().to_string_lossy().into_owned()],
            user: Some("postgres"),
            netns: None,
            log: log.clone(),
            dir: self.scratch.path().to_owned(),
            env: own_libraries(),
        };
        self.daemon = Some(Daemon::start(&launch));
        let up = poll(secs(20), || sql::query(&self.server, "SELECT 1").ok());
        assert!(up.is_some(), "the server does not start: {}", tail(&log, 20));
    }

    /// The server.
    #[must_use]
    pub fn postmaster(&self) -> Proc {
        self.daemon.as_ref().expect("the server was started").process()
    }

    /// Stops it (fast).
    pub fn stop(&mut self) {
        self.postmaster().signal(Signal::INT);
        assert!(self.postmaster().wait_gone(secs(30)), "the server does not stop");
        self.daemon = None;
    }

    /// One statement on a connection of its own.
    pub fn run(&self, statement: &str) -> Result<Vec<sql::Row>, SqlError> {
        sql::query(&self.server, statement)
    }

    /// A statement that succeeds.
    pub fn must(&self, statement: &str) {
        self.run(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// A connection.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::open(&self.server, secs(5)).expect("the server admits sessions")
    }

    /// Sets parameters, reloads, and waits until they are seen.
    pub fn reload(&self, name: &str, value: &str) {
        self.append("postgresql.conf", &format!("{name} = '{value}'\n"));
        self.postmaster().signal(Signal::HUP);
        let seen = poll(secs(5), || {
            let setting = sql::value(&self.server, &format!("SHOW {name}")).ok().flatten();
            setting.filter(|setting| setting == value)
        });
        assert!(seen.is_some(), "{name} = {value} does not arrive");
    }

    /// Makes it the leader of its own small cluster, and starts it.
    pub fn lead(&mut self) -> Etcd {
        let place = Place {
            host: "127.0.0.1".to_owned(),
            client_port: self.ports.take(),
            peer_port: self.ports.take(),
            netns: None,
        };
        let etcd = Etcd::start(self.scratch.path(), vec![place]);
        self.configure(&etcd.endpoints().remove(0));
        self.start();
        let open = poll(secs(20), || self.run("CREATE TABLE led (i integer); DROP TABLE led").ok());
        assert!(open.is_some(), "it does not lead: {}", self.log());
        etcd
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        tail(&self.scratch.path().join("server.log"), 30)
    }

    /// The major version of the server.
    #[must_use]
    pub fn major(&self) -> u32 {
        let number = sql::value(&self.server, "SHOW server_version_num").expect("a setting").expect("not null");
        number.parse::<u32>().expect("a number") / 10_000
    }

    /// Its loop worker.
    #[must_use]
    pub fn worker(&self) -> Proc {
        let worker = self.postmaster().children().into_iter().find(|child| child.command().contains("ha_ext loop"));
        worker.expect("the loop worker runs")
    }
}

impl Drop for Bare {
    /// A child that a failed test has stopped by a signal would outlive its server.
    fn drop(&mut self) {
        let children = self.daemon.as_ref().map(|daemon| daemon.process().children()).unwrap_or_default();
        self.daemon = None;
        for child in children {
            child.signal_kill();
        }
    }
}

/// A server that was built for the tests has a client library of its own, which its modules need: the system's may be older.
fn own_libraries() -> Vec<(String, String)> {
    let dir = bin_dir().join("../lib");
    if !dir.join("libpq.so.5").exists() {
        return Vec::new();
    }
    vec![("LD_LIBRARY_PATH".to_owned(), dir.to_string_lossy().into_owned())]
}

/// Runs a statement in a thread that gives its result back.
// This process is no server: its threads may take signals.
#[allow(clippy::disallowed_methods)]
pub fn in_background(session: Session, statement: &str) -> std::thread::JoinHandle<Result<Vec<sql::Row>, SqlError>> {
    let statement = statement.to_owned();
    std::thread::spawn(move || session.query(&statement, secs(40)))
}
