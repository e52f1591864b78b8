//! Elections that the members' tags decide.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::{millis, secs};
use std::fs;
use std::time::Instant;

/// Four nodes: n2 may never lead, n4 goes before n1 and n3.
fn cluster() -> Cluster {
    let mut cluster = Cluster::prepare(Plan { nodes: 4, ..Plan::short() });
    for (index, tags) in [(1, "nofailover: true"), (3, "failover_priority: 2")] {
        let file = cluster.nodes[index].file();
        let text = fs::read_to_string(&file).expect("the node has a file").replace("nofailover: false", tags);
        fs::write(&file, text).expect("the file can be written");
    }
    cluster.nodes[0].start();
    cluster.wait("the founder to lead", secs(30), || cluster.nodes[0].is("/primary").then_some(()));
    for node in &mut cluster.nodes[1..] {
        node.start();
    }
    cluster.wait_ready_to_switch();
    cluster.nodes[0].sql("CREATE EXTENSION ha_ext").expect("the leader takes DDL");
    cluster
}

/// Cuts the leader's power and waits for the next one, among standbys that all have everything.
fn lose_leader(cluster: &mut Cluster) -> usize {
    let leader = cluster.wait_ready_to_switch();
    cluster.wait_caught_up(leader);
    cluster.nodes[leader].kill();
    cluster.wait_other_leader(leader, secs(30))
}

#[test]
fn the_highest_priority_wins_and_who_may_not_lead_never_does() {
    let mut cluster = cluster();
    for round in 0..2 {
        let lost = cluster.leader().expect("a healthy cluster has a leader");
        assert_eq!(lose_leader(&mut cluster), 3, "round {round}: n4 goes first");
        cluster.nodes[lost].start();
        let lost = lose_leader(&mut cluster);
        assert!(lost == 0 || lost == 2, "round {round}: n{} may not lead", lost + 1);
        cluster.nodes[3].start();
    }
    nobody_else_may(&mut cluster);
}

/// Only the member that may not lead is left.
fn nobody_else_may(cluster: &mut Cluster) {
    cluster.wait_ready_to_switch();
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    for index in [0, 2, 3] {
        cluster.nodes[index].kill();
    }
    let begun = Instant::now();
    while begun.elapsed() < secs(u64::from(cluster.plan.ttl) + 6) {
        assert!(!cluster.nodes[1].is("/primary"), "a member that may never lead took over");
        std::thread::sleep(millis(200));
    }
    assert_eq!(cluster.leader(), None, "the lease of the last leader is over");
    // Between two looks neither: whoever promotes has claimed his timeline before.
    let claim = cluster.key(&format!("ha_ext/timeline/{}", timeline + 1));
    assert_eq!(cluster.etcd.get(&claim), None, "a member that may never lead made a timeline");
    let why = "SELECT reason FROM ha_who_would_win() WHERE member = 'n2'";
    let why = cluster.nodes[1].value(why).expect("a standby can be read").unwrap_or_default();
    assert!(why.contains("tagged"), "{why}");
    for index in [0, 2, 3] {
        cluster.nodes[index].start();
    }
    assert_ne!(cluster.wait_healthy(secs(60)), 1);
}
