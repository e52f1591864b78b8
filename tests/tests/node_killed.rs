//! SIGKILL of every process of the leader's node.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::time::{Duration, Instant};

#[test]
fn another_node_leads_when_the_lease_is_over_and_the_old_one_rejoins() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let observation = cluster.observe();
    let fault = Instant::now();
    cluster.nodes[leader].kill();
    let lease_end = cluster.etcd.lease_end(&cluster.key("leader"));
    let new = cluster.wait_other_leader(leader, secs(30));
    let first =
        cluster.wait("a write on the new leader", secs(10), || observation.writers.first_ack_above(timeline, fault));
    if let Some(lease_end) = lease_end {
        println!(
            "first write {} ms after the end of the lease",
            first.acked_at.saturating_duration_since(lease_end).as_millis()
        );
    }
    assert_eq!(cluster.timeline(), Some(timeline + 1));
    let back = Instant::now();
    cluster.nodes[leader].start();
    cluster.wait_healthy(secs(60));
    println!("the old leader streams {} ms after its start", back.elapsed().as_millis());
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost("node killed", fault, Duration::from_millis(500));
    assert_eq!(cluster.leader(), Some(new), "the old leader must not take over");
}

#[test]
fn all_nodes_killed_at_once_come_back_with_every_row() {
    let mut cluster = Cluster::running(Plan::short());
    let observation = cluster.observe();
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.wait_healthy(secs(60));
    let conclusion = cluster.conclude(observation);
    // The old leader has every row; whoever was elected has at least what it had flushed.
    conclusion.verdict.expect_one_primary("all nodes killed");
    assert!(conclusion.verdict.lost_though_flushed.is_empty(), "{:?}", conclusion.verdict.lost_though_flushed);
}
