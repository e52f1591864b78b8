//! A second node with a name that is in use.

use ha_tests::cluster::Cluster;
use ha_tests::node::Node;
use ha_tests::plan::{Plan, Site};
use ha_tests::ports::Ports;
use ha_tests::scratch::tail;
use ha_tests::wait::{poll, secs};

fn second(cluster: &Cluster, index: usize, ports: &mut Ports) -> Node {
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
        let mut node = second(&cluster, index, &mut ports);
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
