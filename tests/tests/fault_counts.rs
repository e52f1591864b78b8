//! Faults that are repeated, and what they cost is counted: the same as the benchmark does for longer.

use ha_tests::chance::times;
use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::{millis, secs};
use std::time::Instant;

/// A node that sleeps longer than its lease and wakes up again never acknowledges what the others do not know.
#[test]
fn a_node_paused_and_resumed_acknowledges_nothing_stale() {
    let cluster = Cluster::running(Plan::short());
    let runs = times("HA_TESTS_PAUSES", 2);
    let mut lost = 0;
    for run in 0..runs {
        let leader = cluster.wait_healthy(secs(60));
        let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
        let observation = cluster.observe();
        let fault = Instant::now();
        cluster.nodes[leader].freeze();
        let _ = cluster.wait_other_leader(leader, secs(30));
        let first = || observation.writers.first_ack_above(timeline, fault);
        let first = cluster.wait("a write on the new leader", secs(10), first);
        cluster.nodes[leader].thaw();
        std::thread::sleep(secs(1));
        std::thread::sleep(secs(1));
        let conclusion = cluster.conclude(observation);
        let stale = conclusion.acks.iter().filter(|ack| ack.timeline <= timeline && ack.acked_at > first.acked_at);
        assert_eq!(stale.count(), 0, "run {run}: the thawed leader acknowledged writes");
        conclusion.verdict.expect_only_unreplicated_lost(&format!("node paused, run {run}"), fault, millis(500));
        lost += conclusion.verdict.lost.len();
    }
    println!(
        "node paused and resumed {runs} times: 0 stale acknowledgements, {lost} rows of the asynchronous window gone"
    );
}

/// Worker and supervisor killed together: the server goes on by itself or another node leads, and no row is lost.
#[test]
fn an_agent_that_is_killed_loses_no_row() {
    let mut cluster = Cluster::running(Plan::short());
    let runs = times("HA_TESTS_AGENTS", 2);
    for run in 0..runs {
        let leader = cluster.wait_healthy(secs(60));
        let observation = cluster.observe();
        let fault = Instant::now();
        let worker = cluster.nodes[leader].worker().expect("a leader has a loop worker");
        cluster.nodes[leader].kill_supervisor();
        worker.kill();
        cluster.wait("a write after the crash", secs(60), || observation.writers.first_ack_connected_after(fault));
        cluster.nodes[leader].start();
        std::thread::sleep(secs(1));
        let conclusion = cluster.conclude(observation);
        conclusion.verdict.expect_nothing_lost(&format!("agent killed, run {run}"));
        println!("agent killed, run {run}: write gap {} ms", conclusion.verdict.gap.as_millis());
    }
    println!("agent killed {runs} times: 0 rows lost");
}
