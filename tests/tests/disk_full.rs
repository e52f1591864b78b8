//! The leader's disk is full.

use ha_tests::cluster::Cluster;
use ha_tests::daemon::run;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::time::{Duration, Instant};

#[test]
fn another_node_takes_over_and_the_full_one_returns_when_there_is_room() {
    let plan = Plan {
        disk_mib: Some(400),
        parameters: vec!["max_wal_size: 128MB".into(), "wal_recycle: off".into()],
        ..Plan::short()
    };
    let cluster = Cluster::running(plan);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    cluster.nodes[leader].sql("CREATE TABLE filler (text text)").expect("the leader takes DDL");
    let observation = cluster.observe();
    let ballast = cluster.nodes[leader].dir.join("ballast").to_string_lossy().into_owned();
    let fault = Instant::now();
    // dd ends with an error when the disk is full, which is the point.
    let _ = run(&["dd", "if=/dev/zero", &format!("of={ballast}"), "bs=64k", "status=none"]);
    // The current WAL segment has room left: use it up, so that the next one cannot be made.
    let filling = "INSERT INTO filler SELECT repeat(md5(g::text), 30) FROM generate_series(1, 30000) g";
    if let Err(error) = cluster.nodes[leader].sql(filling) {
        println!("the full leader says: {error}");
    }
    let new = cluster.wait_other_leader(leader, secs(60));
    let first =
        cluster.wait("a write on the new leader", secs(20), || observation.writers.first_ack_above(timeline, fault));
    println!("disk full: written again after {} ms", first.acked_at.duration_since(fault).as_millis());
    std::thread::sleep(secs(2));
    std::fs::remove_file(&ballast).expect("the ballast can be thrown away");
    cluster.wait_healthy(secs(90));
    assert_eq!(cluster.leader(), Some(new));
    let conclusion = cluster.conclude(observation);
    let died = conclusion.acks.iter().filter(|ack| ack.timeline == timeline).map(|ack| ack.acked_at).max();
    let died = died.expect("the old leader acknowledged something");
    conclusion.verdict.expect_only_unreplicated_lost("disk full", died, Duration::from_secs(1));
}
