//! A second node with a name that is in use.

use ha_tests::cluster::Cluster;
use ha_tests::daemon::run;
use ha_tests::node::Node;
use ha_tests::plan::{Plan, Site};
use ha_tests::ports::Ports;
use ha_tests::scratch::tail;
use ha_tests::sql::Session;
use ha_tests::wait::{millis, poll, secs};
use ha_tests::writer::{Style, Target, Writers};
use std::fs;
use std::time::Instant;

fn beside(cluster: &Cluster, index: usize, ports: &mut Ports) -> Node {
    let site = Site {
        name: cluster.nodes[index].name.clone(),
        host: "127.0.0.1".into(),
        pg_port: ports.take(),
        rest_port: ports.take(),
        dir: cluster.scratch.path().join(format!("second{index}")),
        netns: None,
    };
    Node::prepare(&cluster.plan, &site, &cluster.etcd.endpoints())
}

#[test]
fn the_second_node_refuses_to_start_and_the_first_notices_nothing() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    let observation = cluster.observe();
    let mut ports = Ports::claim();
    for index in [leader, cluster.other_than(leader)] {
        let mut node = beside(&cluster, index, &mut ports);
        node.start();
        let ended = poll(secs(20), || node.supervisor_ended());
        let log = tail(node.log(), 50);
        let ended = ended.unwrap_or_else(|| panic!("it goes on: {log}"));
        assert!(ended.contains("exit status: 1"), "{ended}: {log}");
        let expected = format!("Can't start; there is already a node named '{}' running", node.name);
        assert!(log.contains(&expected), "{log}");
        assert!(!node.data().join("PG_VERSION").exists(), "it made a data directory");
    }
    std::thread::sleep(secs(u64::from(cluster.plan.ttl)));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("two nodes with one name");
    assert!(conclusion.verdict.gap < secs(2), "clients noticed: {:?}", conclusion.verdict.gap);
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
}

/// A node with this one's name on a machine of its own, which cannot reach this one to ask whether it lives.
fn on_a_spare_machine(cluster: &Cluster, index: usize) -> Node {
    let network = cluster.network.as_ref().expect("this cluster has a network");
    let spare = cluster.nodes.len() + cluster.plan.etcd_members;
    network.cut(index, spare);
    let host = network.host(spare);
    let site = Site {
        name: cluster.nodes[index].name.clone(),
        host: host.address.clone(),
        pg_port: 5432,
        rest_port: 8008,
        dir: cluster.scratch.path().join(format!("second{index}")),
        netns: Some(host.netns.clone()),
    };
    Node::prepare(&cluster.plan, &site, &cluster.etcd.endpoints())
}

/// Starts the second node, heals the network after a while, and takes the node away again: it must not matter.
fn both_alive(cluster: &Cluster, story: &str, mut second: Node) {
    let (leader, timeline) = (cluster.leader(), cluster.timeline());
    let observation = cluster.observe();
    let strays = Writers::start(vec![Target::Pinned(second.server.clone())], &Style::default());
    second.start();
    let up = poll(secs(10), || second.get("/patroni").ok());
    assert!(up.is_some(), "{story} does not run: {}", tail(second.log(), 30));
    let unharmed = |until: Instant| {
        while Instant::now() < until {
            assert!(!second.is("/primary"), "{story} leads: {}\n{}", tail(second.log(), 30), cluster.diagnosis());
            std::thread::sleep(millis(100));
        }
        assert_eq!((cluster.leader(), cluster.timeline()), (leader, timeline), "{story}: leadership moved");
    };
    unharmed(Instant::now() + secs(u64::from(cluster.plan.ttl) * 2));
    cluster.network.as_ref().expect("this cluster has a network").heal();
    unharmed(Instant::now() + secs(3));
    let log = tail(second.log(), 40);
    second.kill();
    let (acks, _) = strays.stop();
    assert!(acks.is_empty(), "{story} acknowledged {} rows: {log}", acks.len());
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost(story);
    assert!(conclusion.verdict.gap < secs(2), "{story}: clients noticed: {:?}: {log}", conclusion.verdict.gap);
    assert_eq!((cluster.leader(), cluster.timeline()), (leader, timeline), "{story}");
}

fn with_a_spare_machine() -> (Cluster, usize) {
    let cluster = Cluster::running(Plan { spare_machines: 1, ..Plan::short().in_network() });
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    (cluster, leader)
}

#[test]
fn an_empty_namesake_of_the_leader_that_cannot_ask_it_leads_nobody() {
    let (cluster, leader) = with_a_spare_machine();
    let second = on_a_spare_machine(&cluster, leader);
    both_alive(&cluster, "an empty namesake of the leader", second);
}

#[test]
fn an_empty_namesake_of_a_standby_that_cannot_ask_it_disturbs_nobody() {
    let (cluster, leader) = with_a_spare_machine();
    let second = on_a_spare_machine(&cluster, cluster.other_than(leader));
    both_alive(&cluster, "an empty namesake of a standby", second);
}

/// A restored snapshot of the leader's machine: its data directory knows the lease that the leader holds.
#[test]
fn a_clone_of_the_leader_that_cannot_ask_it_does_not_take_its_key() {
    let (cluster, leader) = with_a_spare_machine();
    let second = on_a_spare_machine(&cluster, leader);
    let begin = "SELECT pg_backup_start('clone', true)";
    let session = Session::open(&cluster.nodes[leader].server, secs(3)).expect("the leader admits sessions");
    session.query(begin, secs(20)).expect("a backup can be begun");
    let (from, to) = (cluster.nodes[leader].data(), second.data());
    let [from, to] = [from, to].map(|path| path.to_string_lossy().into_owned());
    // Files may vanish while they are copied.
    let _ = run(&["cp", "-a", &from, &to]);
    session.query("SELECT pg_backup_stop(false)", secs(20)).expect("a backup can be ended");
    fs::remove_file(second.data().join("postmaster.pid")).expect("it was copied with the rest");
    both_alive(&cluster, "a clone of the leader", second);
}
