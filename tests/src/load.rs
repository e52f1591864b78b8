//! pgbench as users run it: against every server, wherever the leader is.

use crate::chance::times;
use crate::cluster::Cluster;
use crate::daemon::run;
use crate::plan::bin_dir;
use crate::sql::{PASSWORD, Server};
use crate::wait::secs;
use std::process::{Child, Command, Stdio};

/// pgbench that is started again whenever a change of leader ends it.
#[derive(Debug)]
pub struct Load {
    child: Child,
    hosts: String,
    ports: String,
    clients: usize,
    /// How often a change of leader ended it.
    pub ended: usize,
}

impl Load {
    /// Makes pgbench's tables on the leader; one unit is 100,000 rows.
    pub fn tables(cluster: &Cluster, scale: usize) {
        let leader = cluster.leader().expect("a healthy cluster has a leader");
        let scale = scale.to_string();
        // Made on the server: what a client would send takes longer on a small machine.
        once(&cluster.nodes[leader].server, &["-i", "-I", "dtGvp", "-s", &scale, "-q"])
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Simple updates by so many clients.
    #[must_use]
    pub fn start(cluster: &Cluster, clients: usize) -> Self {
        let list = |field: fn(&Server) -> String| {
            cluster.nodes.iter().map(|node| field(&node.server)).collect::<Vec<_>>().join(",")
        };
        let (hosts, ports) = (list(|server| server.host.clone()), list(|server| server.port.to_string()));
        let child = spawn(&hosts, &ports, clients);
        Self { child, hosts, ports, clients, ended: 0 }
    }

    /// Starts it again if it has ended.
    pub fn keep_up(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            self.ended += 1;
            self.child = spawn(&self.hosts, &self.ports, self.clients);
        }
    }

    /// Starts it again if it has ended, and waits until all its clients are at work on the leader.
    pub fn wait_under_way(&mut self, cluster: &Cluster, leader: usize) {
        const CONNECTED: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'";
        let clients = self.clients.to_string();
        cluster.wait("pgbench to be under way", secs(20), || {
            self.keep_up();
            (cluster.nodes[leader].value(CONNECTED).ok()?? == clients).then_some(())
        });
    }

    /// Whether it still runs: one error of one client ends it.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `pgbench -N` moves money only within an account and its history: both must agree.
pub const BOOKS_AGREE: &str =
    "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";

/// Runs pgbench against one server to its end; what it printed.
pub fn once(server: &Server, words: &[&str]) -> Result<String, String> {
    let program = bin_dir().join("pgbench").to_string_lossy().into_owned();
    let (password, port) = (format!("PGPASSWORD={PASSWORD}"), server.port.to_string());
    let mut all = vec!["env", &password, &program, "-h", &server.host, "-p", &port, "-U", "postgres"];
    all.extend(words);
    all.push("postgres");
    run(&all)
}

fn spawn(hosts: &str, ports: &str, clients: usize) -> Child {
    let mut command = Command::new(bin_dir().join("pgbench"));
    // As fast as it can, unless several runs share a machine.
    let rate = times("HA_TESTS_RATE", 0);
    if rate > 0 {
        command.arg(format!("--rate={rate}"));
    }
    command
        .args(["-n", "-N", "-j", "2", "-T", "3600", "-c", &clients.to_string(), "-U", "postgres", "postgres"])
        .envs([("PGHOST", hosts), ("PGPORT", ports), ("PGPASSWORD", PASSWORD), ("PGTARGETSESSIONATTRS", "read-write")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbench can be started")
}
