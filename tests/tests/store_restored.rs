//! An operator puts the cluster's keys back as they were before the last change of leader.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::{millis, secs};
use std::time::{Duration, Instant};

/// What a connected standby may lag behind.
const WINDOW: Duration = Duration::from_millis(500);

/// The values of all keys of this cluster.
fn dump(cluster: &Cluster) -> Vec<(String, String)> {
    let keys = cluster.etcd.ctl(&["get", "--prefix", "--keys-only", &cluster.key("")]).expect("etcd lists keys");
    let keys = keys.lines().map(str::trim).filter(|key| !key.is_empty());
    keys.filter_map(|key| Some((key.to_owned(), cluster.etcd.get(key)?.trim_end().to_owned()))).collect()
}

/// These keys and no others, on no lease; without the leader key if `leader` is false.
fn put_back(cluster: &Cluster, old: &[(String, String)], leader: bool) {
    cluster.etcd.ctl(&["del", "--prefix", &cluster.key("")]).expect("etcd deletes keys");
    let leader_key = cluster.key("leader");
    for (key, value) in old.iter().filter(|(key, _)| leader || *key != leader_key) {
        cluster.etcd.ctl(&["put", key, value]).expect("etcd takes keys");
    }
}

/// A cluster in which another leads than when its keys were dumped; the dump, and who leads now.
fn switched_since(plan: Plan) -> (Cluster, Vec<(String, String)>, usize) {
    let cluster = Cluster::running(plan);
    let first = cluster.wait_ready_to_switch();
    let old = dump(&cluster);
    assert!(old.iter().any(|(key, _)| *key == cluster.key("ha_ext/last_leader")), "{old:?}");
    let second = cluster.other_than(first);
    cluster.switch_over(first, second);
    assert_eq!(cluster.wait_healthy(secs(60)), second);
    (cluster, old, second)
}

#[test]
fn nobody_leads_by_an_earlier_record_before_the_lease_of_the_last_leader_is_over() {
    let (cluster, old, leader) = switched_since(Plan::short().in_network());
    let ttl = secs(u64::from(cluster.plan.ttl));
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let begun = Instant::now();
    let observation = cluster.observe();
    cluster.wait("a write", secs(10), || observation.writers.first_ack_above(timeline - 1, begun));
    let network = cluster.network.as_ref().expect("this cluster has a network");
    network.cut(leader, cluster.nodes.len());
    for other in (0..cluster.nodes.len()).filter(|node| *node != leader) {
        network.cut(leader, other);
    }
    let fault = Instant::now();
    put_back(&cluster, &old, false);
    assert_ne!(cluster.wait_other_leader(leader, secs(45)), leader);
    let first =
        cluster.wait("a write on the new leader", secs(15), || observation.writers.first_ack_above(timeline, fault));
    std::thread::sleep(secs(2));
    network.heal();
    let mut conclusion = cluster.conclude(observation);
    let last_old = conclusion.acks.iter().filter(|ack| ack.timeline == timeline).map(|ack| ack.acked_at).max();
    let last_old = last_old.expect("the old leader acknowledged something");
    let waited = first.acked_at.duration_since(fault);
    println!(
        "keys put back: old leader's last acknowledgement after {} ms, new leader's first after {} ms, {} rows lost of {}",
        last_old.saturating_duration_since(fault).as_millis(),
        waited.as_millis(),
        conclusion.verdict.lost.len(),
        conclusion.verdict.acked
    );
    assert!(last_old < fault + ttl, "acknowledged after the lease");
    assert!(last_old < first.acked_at, "two acknowledged at a time");
    assert!(waited + millis(500) > ttl, "another led {} ms after the keys were put back", waited.as_millis());
    // The judge of the lease sees the key go, by the operator's hand; the lease it hung on lived on, and ended as asserted above.
    conclusion.verdict.late.clear();
    // The standbys were cut off with it.
    conclusion.verdict.expect_only_unreplicated_lost("keys put back, leader cut off", fault, WINDOW);
}

#[test]
fn a_leader_that_can_be_reached_takes_its_key_back() {
    let (cluster, old, leader) = switched_since(Plan::short());
    let timeline = cluster.timeline();
    for with_leader_key in [false, true] {
        let observation = cluster.observe();
        let fault = Instant::now();
        put_back(&cluster, &old, with_leader_key);
        cluster.wait("a write afterwards", secs(15), || observation.writers.first_ack_sent_after(fault + secs(1)));
        assert_eq!(cluster.wait_healthy(secs(60)), leader);
        let conclusion = cluster.conclude(observation);
        conclusion.verdict.expect_nothing_lost("keys put back");
        println!(
            "keys put back, leader key {with_leader_key}: longest write gap {} ms",
            conclusion.verdict.gap.as_millis()
        );
    }
    assert_eq!(cluster.timeline(), timeline, "nobody was promoted");
    let record = cluster.etcd.get(&cluster.key("ha_ext/last_leader")).expect("a record");
    assert!(record.contains(&format!("\"leader\":\"{}\"", cluster.nodes[leader].name)), "{record}");
}
