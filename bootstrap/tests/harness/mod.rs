//! Real servers for the tests of the steps. Postgres refuses to run as root, so a test that is started by root runs
//! itself again as user postgres.

// Each test program uses its own part.
#![allow(dead_code)]

use ha_bootstrap::outside::Event;
use ha_bootstrap::postmaster::Postmaster;
use ha_bootstrap::process::Cancel;
use ha_bootstrap::site::Site;
use ha_bootstrap::steps::{self, Context};
use ha_core::clock::{Millis, Tick};
use ha_core::cluster::Address;
use ha_core::config::Config;
use ha_core::effect::{StartRole, Step, StopMode};
use ha_core::ids::{LeaseId, NodeName, Revision};
use ha_core::lease::Lease;
use ha_core::local::Upstream;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What `pg_config` of the server under test says; `PG_CONFIG` names it.
pub fn pg_config(question: &str) -> String {
    let program = std::env::var("PG_CONFIG").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin/pg_config".into());
    let answer = Command::new(program).arg(question).output().expect("pg_config").stdout;
    String::from_utf8_lossy(&answer).trim().to_owned()
}

/// A program of that server.
pub fn program(name: &str) -> PathBuf {
    Path::new(&pg_config("--bindir")).join(name)
}

/// Runs `body` as a user that Postgres accepts, in an empty directory that is removed afterwards.
pub fn as_postgres(test: &str, body: impl FnOnce(&Path)) {
    if rustix::process::geteuid().is_root() {
        let dir = fresh_directory(test);
        // The build's directory need not be readable by others.
        let copy = dir.join("test");
        std::fs::copy(std::env::current_exe().expect("this test"), &copy).expect("a copy of it");
        let source = dir.join("stand_in.c");
        std::fs::write(&source, include_str!("ha_ext_stand_in.c")).expect("its source");
        run(Command::new("chown").arg("-R").arg("postgres").arg(&dir));
        let status = Command::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(&copy)
            .args(["--exact", test, "--nocapture"])
            .env("HA_TEST_DIR", &dir)
            .current_dir(&dir)
            .status()
            .expect("runuser");
        let _ = std::fs::remove_dir_all(&dir);
        assert!(status.success(), "{test} failed as user postgres: {status}");
        return;
    }
    let dir = std::env::var_os("HA_TEST_DIR").map_or_else(|| fresh_directory(test), PathBuf::from);
    let source = dir.join("stand_in.c");
    std::fs::write(&source, include_str!("ha_ext_stand_in.c")).expect("its source");
    std::fs::create_dir_all(dir.join("lib")).expect("a directory for the library");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-I", &pg_config("--includedir-server")]);
    run(cc.arg("-o").arg(dir.join("lib/ha_ext.so")).arg(&source));
    body(&dir);
    let _ = std::fs::remove_dir_all(&dir);
}

fn fresh_directory(test: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("ha_bootstrap_{test}_{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One node of a test.
pub struct Node {
    pub site: Site,
    pub port: u16,
    pub name: String,
    postmaster: Rc<RefCell<Option<Arc<Postmaster>>>>,
}

impl Node {
    /// A node that does not exist yet.
    pub fn new(dir: &Path, name: &str) -> Self {
        Self::with(dir, name, &json!({}))
    }

    /// The same with more server parameters.
    pub fn with(dir: &Path, name: &str, parameters: &Value) -> Self {
        let port = free_port();
        let mut all = json!({
            "unix_socket_directories": dir, "dynamic_library_path": format!("{}:$libdir", dir.join("lib").display()), "fsync": "off",
            "logging_collector": "off", "autovacuum": "off",
        });
        let more = parameters.as_object().expect("a mapping").clone();
        all.as_object_mut().expect("a mapping").extend(more);
        let local = json!({
            "scope": "test", "name": name,
            "restapi": {"listen": format!("127.0.0.1:{}", free_port())},
            "etcd3": {"hosts": ["127.0.0.1:2379"]},
            "bootstrap": {
                "initdb": ["data-checksums", {"encoding": "UTF8"}, {"locale": "C"}, {"auth": "scram-sha-256"}],
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 scram-sha-256",
                    "host replication replicator 127.0.0.1/32 scram-sha-256"],
            },
            "postgresql": {
                "listen": format!("127.0.0.1:{port}"), "connect_address": format!("127.0.0.1:{port}"),
                "data_dir": dir.join(name), "bin_dir": pg_config("--bindir"), "pgpass": dir.join(format!("{name}.pgpass")),
                "use_pg_rewind": true,
                "parameters": all,
                "authentication": {
                    "superuser": {"username": "postgres", "password": "super 'secret"},
                    "replication": {"username": "replicator", "password": "rep\\secret"},
                    "rewind": {"username": "rewind \"user\"", "password": "rew:secret"},
                },
            },
        });
        // Those that all members share are read from the store alone.
        let dynamic = json!({"postgresql": {"parameters": parameters}});
        let (config, _) = Config::from_layers(&local, &BTreeMap::new(), Some(&dynamic)).expect("a configuration");
        let site = Site::new(Arc::new(config), dir.join(format!("{name}.yml")));
        site.make_control_dir().expect("a control directory");
        Self { site, port, name: name.to_owned(), postmaster: Rc::default() }
    }

    /// Runs a step to its end.
    pub fn step(&self, step: &Step) -> Result<(), String> {
        let (context, events) = self.context();
        self.step_in(step, &context, &events)
    }

    /// The same as the step of a server that was demoted in place.
    pub fn end_stragglers(&self, demoted_at: Tick) -> Result<(), String> {
        let (mut context, events) = self.context();
        context.demoted_at = Some(demoted_at);
        self.step_in(&Step::EndStragglers, &context, &events)
    }

    fn step_in(&self, step: &Step, context: &Context, events: &Receiver<Event>) -> Result<(), String> {
        let result = steps::perform(step, context).map_err(|error| error.to_string());
        for event in events.try_iter() {
            if let Event::Spawned(postmaster) = event {
                *self.postmaster.borrow_mut() = Some(postmaster);
            }
        }
        result
    }

    /// What a step would get.
    pub fn context(&self) -> (Context, Receiver<Event>) {
        let (events, received) = channel();
        let context = Context {
            site: self.site.clone(),
            cancel: Cancel::new().expect("an event descriptor"),
            postmaster: self.postmaster.borrow().clone(),
            demoted_at: None,
            marker_lease: Some(LeaseId(7)),
            background: false,
            prepare_only: false,
            dynamic: None,
            events,
            wake: Arc::new(|| {}),
        };
        (context, received)
    }

    pub fn initdb(&self) {
        self.step(&Step::Initdb).expect("initdb");
    }

    pub fn start_primary(&self) {
        let lease = Lease::confirmed(LeaseId(7), Revision(1), Tick(0), Millis(30_000));
        self.step(&Step::Start { role: StartRole::Primary { lease } }).expect("a start as primary");
        self.wait("the server takes connections", || self.sql("SELECT 1").is_ok());
    }

    pub fn start_standby(&self, of: &Node) {
        let role = StartRole::Standby { upstream: Some(of.upstream_for(self)) };
        self.step(&Step::Start { role }).expect("a start as standby");
    }

    pub fn stop(&self) {
        self.step(&Step::Stop { mode: StopMode::Fast }).expect("a stop");
    }

    /// This node, as one that `follower` follows.
    pub fn upstream_for(&self, follower: &Node) -> Upstream {
        Upstream {
            name: NodeName::new(self.name.clone()),
            address: Address { host: "127.0.0.1".to_owned(), port: self.port },
            slot: Some(NodeName::new(follower.name.clone()).slot_name()),
        }
    }

    /// The postmaster that the last start made.
    pub fn postmaster(&self) -> Arc<Postmaster> {
        self.postmaster.borrow().clone().expect("it was started")
    }

    /// SQL through the socket, as superuser.
    pub fn sql(&self, sql: &str) -> Result<String, String> {
        let output = self.psql(sql).output().expect("psql");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// SQL that goes on while the test does.
    pub fn sql_in_background(&self, sql: &str) -> Child {
        self.psql(sql).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psql")
    }

    fn psql(&self, sql: &str) -> Command {
        let mut command = Command::new(program("psql"));
        let dir = self.site.data_dir().parent().expect("a parent").display().to_string();
        command.args(["-X", "-At", "-h", &dir, "-p", &self.port.to_string(), "-U", "postgres", "-c", sql, "postgres"]);
        command
    }

    pub fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_mins(1);
        while !holds() {
            let log = || std::fs::read_to_string(self.site.server_log()).unwrap_or_default();
            assert!(Instant::now() < end, "{}: never: {what}\n{}", self.name, log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the server said, until its own log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.site.server_log()).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(postmaster) = self.postmaster.borrow_mut().take()
            && !postmaster.ended()
        {
            let _ = postmaster.signal(rustix::process::Signal::QUIT);
            let _ = postmaster.wait_end(Duration::from_secs(10));
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}
