//! A WAL archive that all nodes share, and the proof that it is complete: a restore from it.

use crate::cluster::Cluster;
use crate::daemon::{Daemon, Launch, run};
use crate::load::Load;
use crate::plan::{Plan, bin_dir};
use crate::process::account;
use crate::scratch::{Scratch, tail};
use crate::sql::{Server, value};
use crate::wait::{poll, secs};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The archive.
#[derive(Debug)]
pub struct Archive {
    scratch: Scratch,
}

/// All rows of the writers and the money of pgbench.
const CONTENT: &str = "SELECT (SELECT count(*) || ' ' || sum(hashint8(seq * 100 + writer)::bigint) FROM ha_log)
    || ' ' || (SELECT count(*) || ' ' || sum(delta) FROM pgbench_history)";

const AS_POSTGRES: [&str; 5] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];

impl Archive {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        let scratch = Scratch::new();
        for dir in ["wal", "base"] {
            let path = scratch.path().join(dir);
            fs::create_dir_all(&path).expect("the archive's directory can be made");
            let (uid, gid) = account("postgres");
            chown(&path, Some(uid), Some(gid)).expect("root may give directories away");
            // A server refuses to run in a directory that others may read.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("root may change permissions");
        }
        Self { scratch }
    }

    /// A running cluster with this archive, pgbench's tables and a backup from which the archive leads to everything else.
    #[must_use]
    pub fn with_cluster(plan: Plan, scale: usize) -> (Self, Cluster) {
        let archive = Self::new();
        let cluster = Cluster::running(archive.joined(plan));
        Load::tables(&cluster, scale);
        archive.back_up(&cluster);
        (archive, cluster)
    }

    /// Where the files are.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.scratch.path().join("wal")
    }

    fn base(&self) -> PathBuf {
        self.scratch.path().join("base")
    }

    /// The archive's path as a parameter must quote it.
    fn quoted(&self) -> String {
        self.wal().display().to_string()
    }

    /// The plan with this archive. A file that is there already is accepted only if it is the same, as the manual asks.
    #[must_use]
    pub fn joined(&self, plan: Plan) -> Plan {
        let wal = self.quoted();
        let copy = format!("test ! -f {wal}/%f && cp %p {wal}/%f.$$ && mv {wal}/%f.$$ {wal}/%f || cmp -s %p {wal}/%f");
        self.with_command(plan, &copy)
    }

    /// The plan with an archive command of one's own.
    #[must_use]
    pub fn with_command(&self, plan: Plan, command: &str) -> Plan {
        let mut parameters = plan.parameters.clone();
        parameters.extend([
            "archive_mode: \"on\"".to_owned(),
            format!("archive_command: \"{command}\""),
            format!("restore_command: \"cp {}/%f %p\"", self.quoted()),
        ]);
        Plan { parameters, ..plan }
    }

    /// Takes a base backup without any WAL: the archive has to have all of it.
    pub fn back_up(&self, cluster: &Cluster) {
        let leader = cluster.leader().expect("a healthy cluster has a leader");
        let server = &cluster.nodes[leader].server;
        let program = bin_dir().join("pg_basebackup").to_string_lossy().into_owned();
        let (port, base) = (server.port.to_string(), self.base().to_string_lossy().into_owned());
        let words = ["env", "PGPASSWORD=secret-replication", &program, "-h", &server.host, "-p", &port];
        let options = ["-U", "replicator", "-D", &base, "-X", "none", "-c", "fast", "--no-manifest"];
        run(&[&AS_POSTGRES[..], &words, &options].concat()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Ends the leader's segment and waits until the archive has it.
    pub fn wait_complete(&self, cluster: &Cluster, leader: usize) {
        let node = &cluster.nodes[leader];
        let segment = node.value("SELECT pg_walfile_name(pg_current_wal_lsn())").ok().flatten();
        let segment = segment.expect("the leader has a position");
        node.sql("SELECT pg_switch_wal()").expect("the leader ends its segment");
        cluster
            .wait(&format!("{segment} in the archive"), secs(60), || self.wal().join(&segment).exists().then_some(()));
    }

    /// Fails the test unless a restore shows what the leader shows. Nobody may write any more.
    pub fn expect_complete(&self, cluster: &mut Cluster, leader: usize, story: &str) {
        let wanted = cluster.nodes[leader].value(CONTENT).expect("the leader can be read");
        self.wait_complete(cluster, leader);
        let port = cluster.spare_port();
        assert_eq!(self.restored(CONTENT, port), wanted, "{story}: the archive is not complete");
    }

    /// Restores the backup to the end of the newest timeline in the archive, with a server that is nobody's member, and
    /// asks it. Nothing but the archive is there to restore from.
    #[must_use]
    pub fn restored(&self, question: &str, port: u16) -> Option<String> {
        let base = self.base();
        let signal = base.join("recovery.signal");
        fs::write(&signal, "").expect("the signal file can be written");
        let (uid, gid) = account("postgres");
        chown(&signal, Some(uid), Some(gid)).expect("root may give files away");
        let launch = self.launch(&base, port);
        let log = launch.log.clone();
        let mut daemon = Daemon::start(&launch);
        let server = Server { host: "127.0.0.1".into(), port };
        let promoted = || (value(&server, "SELECT pg_is_in_recovery()").ok()??.as_str() == "f").then_some(());
        let restored = poll(secs(120), || {
            let ended = daemon.ended();
            assert!(ended.is_none(), "the restored server ended: {ended:?}\n{}", tail(&log, 30));
            promoted()
        });
        assert!(restored.is_some(), "the archive could not be restored\n{}", tail(&log, 30));
        let answer = value(&server, question).unwrap_or_else(|error| panic!("{error}\n{}", tail(&log, 30)));
        daemon.process().signal(rustix::process::Signal::INT);
        assert!(daemon.process().wait_gone(secs(30)), "the restored server does not stop");
        answer
    }

    fn launch(&self, base: &Path, port: u16) -> Launch {
        let dir = self.scratch.path();
        let settings = [
            "shared_preload_libraries=".to_owned(),
            "primary_conninfo=".to_owned(),
            "primary_slot_name=".to_owned(),
            "archive_mode=off".to_owned(),
            "hot_standby=on".to_owned(),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={}", base.display()),
            format!("restore_command=cp {}/%f %p", self.quoted()),
            "recovery_target_timeline=latest".to_owned(),
            "recovery_target_action=promote".to_owned(),
            "fsync=off".to_owned(),
        ];
        let mut command = vec![bin_dir().join("postgres").to_string_lossy().into_owned()];
        command.extend(["-D".to_owned(), base.display().to_string()]);
        for setting in settings {
            command.extend(["-c".to_owned(), setting]);
        }
        Launch {
            command,
            user: Some("postgres"),
            netns: None,
            log: dir.join("restored.log"),
            dir: base.to_path_buf(),
            env: Vec::new(),
        }
    }
}

impl Default for Archive {
    fn default() -> Self {
        Self::new()
    }
}
