//! Twenty switchovers in a row while pgbench writes with eight clients.

use ha_tests::cluster::Cluster;
use ha_tests::plan::{Plan, bin_dir};
use ha_tests::sql::PASSWORD;
use ha_tests::wait::secs;
use std::process::{Child, Command, Stdio};

/// pgbench that is started again whenever a switchover ends it.
struct Load {
    child: Child,
    hosts: String,
    ports: String,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let list = |field: fn(&ha_tests::sql::Server) -> String| {
            cluster.nodes.iter().map(|node| field(&node.server)).collect::<Vec<_>>().join(",")
        };
        let (hosts, ports) = (list(|server| server.host.clone()), list(|server| server.port.to_string()));
        Self { child: pgbench(&hosts, &ports, &["-n", "-N", "-c", "8", "-j", "2", "-T", "600"]), hosts, ports }
    }

    fn keep_up(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            self.child = pgbench(&self.hosts, &self.ports, &["-n", "-N", "-c", "8", "-j", "2", "-T", "600"]);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pgbench(hosts: &str, ports: &str, words: &[&str]) -> Child {
    Command::new(bin_dir().join("pgbench"))
        .args(words)
        .args(["-U", "postgres", "postgres"])
        .envs([("PGHOST", hosts), ("PGPORT", ports), ("PGPASSWORD", PASSWORD), ("PGTARGETSESSIONATTRS", "read-write")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbench can be started")
}

#[test]
fn under_pgbench_nothing_is_lost() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let server = &cluster.nodes[leader].server;
    let status = pgbench(&server.host, &server.port.to_string(), &["-i", "-s", "5", "-q"]).wait();
    assert!(status.is_ok_and(|status| status.success()), "pgbench could not make its tables");

    cluster.wait_caught_up(leader);
    let mut load = Load::start(&cluster);
    let observation = cluster.observe();
    let first = cluster.timeline().expect("a healthy cluster has a timeline");
    for round in 0..20 {
        let from = cluster.wait_healthy(secs(60));
        load.keep_up();
        let to = cluster.other_than(from);
        println!("switchover {round}: {}", cluster.switch_over(from, to));
    }
    let leader = cluster.wait_healthy(secs(60));
    drop(load);
    assert_eq!(cluster.timeline(), Some(first + 20));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("20 switchovers under pgbench");
    println!("longest write gap {} ms over {} rows", conclusion.verdict.gap.as_millis(), conclusion.verdict.acked);

    // pgbench -N moves money only within an account and its history: both must agree on every node.
    let agreed =
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";
    assert_eq!(cluster.nodes[leader].value(agreed).expect("the leader can be read").as_deref(), Some("t"));
}
