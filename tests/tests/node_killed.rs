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

#[test]
fn standbys_that_lag_more_than_allowed_wait_for_the_old_leader() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    cluster.nodes[leader].freeze_senders();
    let rows = "INSERT INTO ha_log SELECT 60, g FROM generate_series(1, 60000) g";
    cluster.nodes[leader].sql(rows).expect("the leader takes writes");
    let written = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn";
    let written = cluster.nodes[leader].value(written).ok().flatten().and_then(|lsn| lsn.parse::<u64>().ok());
    let written = written.expect("the leader has a position");
    cluster.wait("the leader to publish its position", secs(10), || {
        let status: serde_json::Value = serde_json::from_str(&cluster.etcd.get(&cluster.key("status"))?).ok()?;
        (status["optime"].as_u64()? >= written).then_some(())
    });
    cluster.nodes[leader].kill();
    let watched = Instant::now();
    while watched.elapsed() < secs(u64::from(cluster.plan.ttl) + 6) {
        assert!(!cluster.nodes.iter().any(|node| node.is("/primary")), "a node without these rows took over");
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.nodes[leader].start();
    assert_eq!(cluster.wait_healthy(secs(60)), leader);
    let present = cluster.nodes[leader].value("SELECT count(*) FROM ha_log WHERE writer = 60");
    assert_eq!(present.expect("the leader can be read").as_deref(), Some("60000"));
    println!("timeline {timeline:?} before, {:?} after", cluster.timeline());
}
