//! One node: its supervisor, its server, and what can be done to them.

use crate::daemon::{Daemon, Launch, run};
use crate::plan::{Plan, Site, System, bin_dir, yaml};
use crate::process::{Proc, account, family, freeze_family, kill_family};
use crate::rest::{self, Reply};
use crate::scratch::tail;
use crate::sql::{self, Row, Server, SqlError};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its member name.
    pub name: String,
    /// Where its server listens.
    pub server: Server,
    /// Base address of its REST API.
    pub rest: String,
    /// Its directory.
    pub dir: PathBuf,
    launch: Launch,
    daemon: Option<Daemon>,
    system: System,
    mounted: bool,
}

impl Node {
    /// Prepares the node's directory and file; starts nothing.
    #[must_use]
    pub fn prepare(plan: &Plan, site: &Site, etcd: &[String]) -> Self {
        fs::create_dir_all(&site.dir).expect("the node's directory can be made");
        if let Some(mib) = plan.disk_mib {
            let (limit, dir) = (format!("size={mib}m"), site.dir.to_string_lossy().into_owned());
            run(&["mount", "-t", "tmpfs", "-o", &limit, "tmpfs", &dir]).unwrap_or_else(|error| panic!("{error}"));
        }
        let (uid, gid) = account("postgres");
        chown(&site.dir, Some(uid), Some(gid)).expect("root may give directories away");
        fs::set_permissions(&site.dir, fs::Permissions::from_mode(0o750)).expect("root may change permissions");
        let file = site.dir.join("node.yml");
        fs::write(&file, yaml(plan, site, etcd)).expect("the node's file can be written");
        chown(&file, Some(uid), Some(gid)).expect("root may give files away");
        let log = site.dir.with_extension("log");
        let launch = Launch {
            command: command(plan.system, &file),
            user: Some("postgres"),
            netns: site.netns.clone(),
            log,
            dir: site.dir.clone(),
            env: vec![("HOME".into(), site.dir.to_string_lossy().into_owned())],
        };
        Self {
            name: site.name.clone(),
            server: Server { host: site.host.clone(), port: site.pg_port },
            rest: format!("http://{}:{}", site.host, site.rest_port),
            dir: site.dir.clone(),
            launch,
            daemon: None,
            system: plan.system,
            mounted: plan.disk_mib.is_some(),
        }
    }

    /// The YAML file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.join("node.yml")
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The log of everything the node runs.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// What the supervisors have written so far.
    #[must_use]
    pub fn supervisor_log(&self) -> String {
        fs::read(self.log()).map(|raw| String::from_utf8_lossy(&raw).into_owned()).unwrap_or_default()
    }

    /// What the servers have written so far, the workers inside them too.
    #[must_use]
    pub fn server_log(&self) -> String {
        let path = self.dir.join(".data.ha_ext/postgres.log");
        fs::read(path).map(|raw| String::from_utf8_lossy(&raw).into_owned()).unwrap_or_default()
    }

    /// Gives a node that does not run yet to the other system: both read the same file.
    pub fn hand_to(&mut self, system: System) {
        assert!(self.daemon.is_none(), "{} runs", self.name);
        self.launch.command = command(system, &self.file());
        self.system = system;
    }

    /// Starts the supervisor; it starts the server.
    pub fn start(&mut self) {
        self.daemon = Some(Daemon::start(&self.launch));
    }

    /// Starts the server as an existing service unit would: `prepare`, then postgres, no supervisor.
    pub fn start_without_supervisor(&mut self) {
        assert_eq!(self.system, System::HaExt, "only ha_ext works without its supervisor");
        let file = self.file().to_string_lossy().into_owned();
        let program = bootstrap_program();
        let as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
        run(&[&as_postgres[..], &[&program, "prepare", &file]].concat()).unwrap_or_else(|error| panic!("{error}"));
        let mut launch = self.launch.clone();
        launch.command = vec![
            bin_dir().join("postgres").to_string_lossy().into_owned(),
            "-D".into(),
            self.data().to_string_lossy().into_owned(),
            "-c".into(),
            format!("ha_ext.config_file={file}"),
        ];
        self.daemon = Some(Daemon::start(&launch));
    }

    /// The supervisor (or, without one, the postmaster).
    #[must_use]
    pub fn supervisor(&self) -> Option<Proc> {
        self.daemon.as_ref().map(Daemon::process).filter(|process| process.alive())
    }

    /// Its exit status once it has ended.
    pub fn supervisor_ended(&mut self) -> Option<String> {
        self.daemon.as_mut().and_then(Daemon::ended)
    }

    /// The postmaster.
    #[must_use]
    pub fn postmaster(&self) -> Option<Proc> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let process = Proc::of(text.lines().next()?.trim().parse().ok()?)?;
        let cwd = fs::read_link(format!("/proc/{}/cwd", process.pid)).ok()?;
        (cwd == self.data()).then_some(process)
    }

    /// The process whose command line shows this name, among the postmaster's children.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<Proc> {
        self.postmaster()?.children().into_iter().find(|child| child.command().contains(name))
    }

    /// Freezes the processes that send WAL to standbys: what the server writes from now on, only it has. (What has once
    /// been put into a socket would arrive even if this server were killed.)
    pub fn freeze_senders(&self) {
        let children = self.postmaster().expect("a running server has a postmaster").children();
        let senders: Vec<Proc> = children.into_iter().filter(|child| child.command().contains("walsender")).collect();
        assert!(!senders.is_empty(), "{} has no standby", self.name);
        for sender in senders {
            sender.freeze();
        }
        std::thread::sleep(Duration::from_millis(100));
    }

    /// Ends that.
    pub fn thaw_senders(&self) {
        self.postmaster().map(Proc::children).unwrap_or_default().into_iter().for_each(Proc::thaw);
    }

    /// The loop worker.
    #[must_use]
    pub fn worker(&self) -> Option<Proc> {
        self.child("ha_ext loop")
    }

    /// Stops the node as an operator does.
    pub fn stop(&mut self) {
        if let Some(supervisor) = self.supervisor() {
            let signal = if self.daemon_is_postmaster() { Signal::INT } else { Signal::TERM };
            supervisor.signal(signal);
            assert!(
                supervisor.wait_gone(Duration::from_mins(1)),
                "{} does not stop: {}",
                self.name,
                tail(self.log(), 20)
            );
        }
        self.daemon = None;
    }

    fn daemon_is_postmaster(&self) -> bool {
        self.supervisor().is_some() && self.supervisor() == self.postmaster()
    }

    /// Kills only the supervisor.
    pub fn kill_supervisor(&mut self) {
        // Dropping a daemon kills exactly that process.
        self.daemon = None;
    }

    /// Every process of the node.
    #[must_use]
    pub fn processes(&self) -> Vec<Proc> {
        family(self.supervisor(), &self.dir)
    }

    /// A power cut.
    pub fn kill(&mut self) {
        kill_family(self.supervisor(), &self.dir);
        self.daemon = None;
    }

    /// A power cut while others look on; [`Node::start`] brings it back.
    pub fn cut_power(&self) {
        kill_family(self.supervisor(), &self.dir);
    }

    /// Freezes the whole node.
    pub fn freeze(&self) {
        freeze_family(self.supervisor(), &self.dir);
    }

    /// Thaws the whole node.
    pub fn thaw(&self) {
        for process in self.processes() {
            process.thaw();
        }
    }

    /// One statement on a connection of its own.
    pub fn sql(&self, statement: &str) -> Result<Vec<Row>, SqlError> {
        sql::query(&self.server, statement)
    }

    /// The first value of one statement.
    pub fn value(&self, statement: &str) -> Result<Option<String>, SqlError> {
        sql::value(&self.server, statement)
    }

    /// GET of the REST API.
    pub fn get(&self, path: &str) -> Result<Reply, String> {
        rest::get(&self.rest, path)
    }

    /// Whether the REST API answers 200 here.
    #[must_use]
    pub fn is(&self, path: &str) -> bool {
        self.get(path).is_ok_and(|reply| reply.status == 200)
    }

    /// Whether this server streams from the leader on this timeline.
    #[must_use]
    pub fn streams_on(&self, timeline: &str) -> bool {
        let found = self
            .value("SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming' AND pg_is_in_recovery()");
        found.is_ok_and(|found| found.as_deref() == Some(timeline))
    }

    /// The timeline of a primary; `None` while it is no primary.
    #[must_use]
    pub fn primary_timeline(&self) -> Option<String> {
        let hex = self
            .value(
                "SELECT CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END",
            )
            .ok()??;
        u32::from_str_radix(&hex, 16).ok().map(|number| number.to_string())
    }

    /// What an engineer would ask first.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        let status =
            self.get("/patroni").map_or_else(|error| error, |reply| format!("{} {}", reply.status, reply.body));
        let processes: Vec<String> =
            self.processes().iter().map(|process| format!("    {} {}", process.pid, process.command())).collect();
        format!(
            "--- {}\n  GET /patroni: {status}\n  processes:\n{}\n  log:\n{}\n",
            self.name,
            processes.join("\n"),
            tail(self.log(), 40)
        )
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        kill_family(self.supervisor(), &self.dir);
        if self.mounted {
            let _ = run(&["umount", "-l", &self.dir.to_string_lossy()]);
        }
    }
}

/// What runs a node.
fn command(system: System, file: &Path) -> Vec<String> {
    let mut words = match system {
        System::HaExt => vec![bootstrap_program(), "run".into()],
        System::Patroni => crate::patroni::command("patroni"),
    };
    words.push(file.to_string_lossy().into_owned());
    words
}

/// The installed supervisor, or the one named by `HA_BOOTSTRAP`. User postgres must be able to run it, which a file in
/// somebody's checkout does not promise.
#[must_use]
pub fn bootstrap_program() -> String {
    std::env::var("HA_BOOTSTRAP").unwrap_or_else(|_| "/usr/local/bin/ha_bootstrap".into())
}
