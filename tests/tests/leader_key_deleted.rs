//! Somebody deletes the leader key by hand.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::{millis, secs};
use std::time::Instant;

#[test]
fn one_leader_emerges_and_nothing_is_lost() {
    let cluster = Cluster::running(Plan::short());
    let observation = cluster.observe();
    for _ in 0..3 {
        cluster.wait_healthy(secs(60));
        let fault = Instant::now();
        cluster.etcd.ctl(&["del", &cluster.key("leader")]).expect("etcd deletes keys");
        cluster.wait("a write after the deletion", secs(30), || observation.writers.first_ack_sent_after(fault));
    }
    let conclusion = cluster.conclude(observation);
    // Its owner was alive and its standbys connected: whoever leads now has all that was acknowledged.
    conclusion.verdict.expect_nothing_lost("leader key deleted");
    println!("leader key deleted: longest write gap {} ms", conclusion.verdict.gap.as_millis());
}

#[test]
fn a_key_written_by_somebody_else_ends_the_leadership_at_once() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let observation = cluster.observe();
    let granted = cluster.etcd.ctl(&["lease", "grant", "60"]).expect("etcd grants leases");
    let lease = granted.split(' ').nth(1).expect("lease ID granted with TTL");
    let fault = Instant::now();
    let put = ["put", &cluster.key("leader"), "somebody-else", &format!("--lease={lease}")];
    cluster.etcd.ctl(&put).expect("etcd takes keys");
    cluster.wait("the old leader to stop", secs(5), || (!cluster.nodes[leader].is("/primary")).then_some(()));
    println!("no longer primary after {} ms", fault.elapsed().as_millis());
    while fault.elapsed() < secs(u64::from(cluster.plan.ttl) + 2) {
        for node in &cluster.nodes {
            assert!(!node.is("/primary"), "{} leads although the key names somebody else", node.name);
        }
        std::thread::sleep(millis(100));
    }
    cluster.etcd.ctl(&["lease", "revoke", lease]).expect("etcd revokes leases");
    let healed = Instant::now();
    cluster.wait("a write afterwards", secs(30), || observation.writers.first_ack_sent_after(healed));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("leader key overwritten");
}

#[test]
fn a_key_written_without_a_lease_is_taken_away_again() {
    let cluster = Cluster::running(Plan::short());
    let observation = cluster.observe();
    let fault = Instant::now();
    cluster.etcd.ctl(&["put", &cluster.key("leader"), "somebody-else"]).expect("etcd takes keys");
    cluster.wait("somebody to lead by a lease", secs(30), || {
        let held = cluster.etcd.held(&cluster.key("leader")).ok()??;
        (held.ttl > secs(0)).then_some(())
    });
    cluster.wait("a write", secs(30), || observation.writers.first_ack_sent_after(fault + secs(1)));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("leader key overwritten without a lease");
    println!("leader key without a lease: longest write gap {} ms", conclusion.verdict.gap.as_millis());
}
