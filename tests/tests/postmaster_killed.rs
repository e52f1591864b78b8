//! SIGKILL of the leader's postmaster.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::time::{Duration, Instant};

#[test]
fn the_server_is_restarted_in_place_on_the_same_timeline() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    let old = cluster.nodes[leader].postmaster().expect("a leader has a postmaster");
    let observation = cluster.observe();
    old.kill();
    let fault = Instant::now();
    cluster.wait("a write after the crash", secs(20), || observation.writers.first_ack_connected_after(fault));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("postmaster killed");
    println!("postmaster killed, restart in place: write gap {} ms", conclusion.verdict.gap.as_millis());
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline), "a crash restart is no failover");
    assert_ne!(cluster.nodes[leader].postmaster(), Some(old));
    assert!(conclusion.verdict.gap < Duration::from_secs(5), "{:?}", conclusion.verdict.gap);
}

#[test]
fn with_primary_start_timeout_zero_another_node_takes_over_at_once() {
    let plan = Plan { primary_start_timeout: 0, ttl: 30, loop_wait: 10, retry_timeout: 10, ..Plan::short() };
    let cluster = Cluster::running(plan);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let observation = cluster.observe();
    let fault = Instant::now();
    cluster.nodes[leader].postmaster().expect("a leader has a postmaster").kill();
    let new = cluster.wait_other_leader(leader, secs(20));
    println!("another leader after {} ms, ttl is 30 s", fault.elapsed().as_millis());
    assert_ne!(new, leader);
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost("postmaster killed, failover", fault, Duration::from_millis(500));
    println!("postmaster killed, failover: write gap {} ms", conclusion.verdict.gap.as_millis());
    assert!(conclusion.verdict.gap < Duration::from_secs(10), "it waited for the lease: {:?}", conclusion.verdict.gap);
}

#[test]
fn a_standby_comes_back_by_itself() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let standby = cluster.other_than(leader);
    let observation = cluster.observe();
    let old = cluster.nodes[standby].postmaster().expect("a standby has a postmaster");
    old.kill();
    cluster.wait("the standby's new postmaster", secs(20), || {
        cluster.nodes[standby].postmaster().filter(|postmaster| *postmaster != old)
    });
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("a standby's postmaster killed");
    assert_eq!(cluster.leader(), Some(leader));
}
