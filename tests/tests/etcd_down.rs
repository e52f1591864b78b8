//! The store is gone, partly or wholly.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::{millis, secs};
use std::time::Instant;

#[test]
fn without_etcd_writes_end_with_the_lease_and_return_with_it() {
    let mut cluster = Cluster::running(Plan::short());
    let timeline = cluster.timeline();
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let ttl = secs(u64::from(cluster.plan.ttl));
    let observation = cluster.observe();
    let fault = Instant::now();
    cluster.etcd.kill();
    std::thread::sleep(ttl + secs(5));
    let last = observation.writers.last_ack().expect("the writers wrote");
    println!("last acknowledgement {} ms after etcd was lost, ttl is {ttl:?}", last.duration_since(fault).as_millis());
    assert!(last < fault + ttl, "acknowledged {:?} after etcd was lost", last - fault);
    for node in &cluster.nodes {
        assert!(!node.is("/primary"), "{} calls itself primary without a lease", node.name);
        let refused = node.sql("INSERT INTO ha_log VALUES (98, 1)");
        assert!(refused.is_err(), "{} takes writes without a lease", node.name);
    }
    // Whoever follows nobody for long looks for WAL seldom: each look is a line in the log of 15.
    let looks = |index: usize| {
        let rows = cluster.nodes[index].sql("SHOW wal_retrieve_retry_interval").ok()?;
        rows.first()?.first()?.clone()
    };
    cluster.wait("the former leader to rest", secs(30), || (looks(leader)? == "1min").then_some(()));
    let told = cluster.nodes[leader].sql("CREATE TABLE not_here ()").expect_err("nobody leads").to_string();
    assert!(!told.contains(&format!("({})", cluster.nodes[leader].name)), "it names itself: {told}");
    cluster.etcd.restart();
    let back = Instant::now();
    let first = cluster.wait("a write after etcd is back", secs(30), || observation.writers.first_ack_sent_after(back));
    println!("first write {} ms after etcd was back", first.acked_at.duration_since(back).as_millis());
    for index in 0..3 {
        cluster.wait("the usual interval", secs(30), || (looks(index)? == "500ms").then_some(()));
    }
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("etcd lost and back");
    println!("timeline {timeline:?} before, {:?} after", cluster.timeline());
}

#[test]
fn an_outage_shorter_than_the_lease_is_not_noticed_by_clients() {
    let mut cluster = Cluster::running(Plan::short().default_timing());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    let observation = cluster.observe();
    cluster.etcd.kill();
    std::thread::sleep(secs(8));
    cluster.etcd.restart();
    std::thread::sleep(secs(25));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("short outage of etcd");
    assert!(conclusion.verdict.gap < secs(2), "clients noticed: {:?}", conclusion.verdict.gap);
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
}

#[test]
fn one_of_three_members_lost_or_frozen_changes_nothing() {
    let mut cluster = Cluster::running(Plan { etcd_members: 3, ..Plan::short().tight_timing() });
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    let observation = cluster.observe();
    for member in 0..3 {
        cluster.etcd.kill_member(member);
        std::thread::sleep(secs(6));
        cluster.etcd.restart();
        cluster.etcd.freeze_member(member, true);
        std::thread::sleep(secs(6));
        cluster.etcd.freeze_member(member, false);
        std::thread::sleep(millis(500));
    }
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("members of etcd lost and frozen in turn");
    assert!(conclusion.verdict.gap < secs(2), "clients noticed: {:?}", conclusion.verdict.gap);
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
}
