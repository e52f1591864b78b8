//! The leader is cut off from etcd, from its peers, from both; in each direction.

use ha_tests::cluster::{Cluster, Conclusion};
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::time::{Duration, Instant};

/// What a connected standby may lag behind.
const WINDOW: Duration = Duration::from_millis(500);

/// Which packets are lost, seen from the leader.
#[derive(Clone, Copy, Debug)]
enum Lost {
    Sent,
    Received,
    Both,
}

const EVERY_WAY: [Lost; 3] = [Lost::Both, Lost::Sent, Lost::Received];

fn cut(cluster: &Cluster, leader: usize, others: &[usize], lost: Lost) {
    let network = cluster.network.as_ref().expect("this cluster has a network");
    for other in others {
        match lost {
            Lost::Sent => network.cut_one_way(leader, *other),
            Lost::Received => network.cut_one_way(*other, leader),
            Lost::Both => network.cut(leader, *other),
        }
    }
}

fn heal(cluster: &Cluster) {
    cluster.network.as_ref().expect("this cluster has a network").heal();
}

/// The store's machine comes after the nodes.
fn etcd_host(cluster: &Cluster) -> usize {
    cluster.nodes.len()
}

fn peers(cluster: &Cluster, leader: usize) -> Vec<usize> {
    (0..cluster.nodes.len()).filter(|node| *node != leader).collect()
}

/// Cuts until somebody else leads, heals, and judges; with the moments of the cut and of the old leader's last acknowledgement.
fn failover(
    cluster: &Cluster,
    story: &str,
    others: impl Fn(usize) -> Vec<usize>,
    lost: Lost,
) -> (Conclusion, Instant, Instant) {
    let leader = cluster.wait_healthy(secs(60));
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let ttl = secs(u64::from(cluster.plan.ttl));
    let observation = cluster.observe();
    let fault = Instant::now();
    cut(cluster, leader, &others(leader), lost);
    // A request that only loses its answers may still renew: then the leader stops by itself a round later.
    let new = cluster.wait_other_leader(leader, secs(45));
    let first =
        cluster.wait("a write on the new leader", secs(15), || observation.writers.first_ack_above(timeline, fault));
    std::thread::sleep(secs(2));
    heal(cluster);
    let conclusion = cluster.conclude(observation);
    let last_old = conclusion.acks.iter().filter(|ack| ack.timeline == timeline).map(|ack| ack.acked_at).max();
    let last_old = last_old.expect("the old leader acknowledged something");
    println!(
        "{story}: old leader's last acknowledgement after {} ms, new leader's first after {} ms, {} rows lost of {}",
        last_old.saturating_duration_since(fault).as_millis(),
        first.acked_at.duration_since(fault).as_millis(),
        conclusion.verdict.lost.len(),
        conclusion.verdict.acked
    );
    assert!(last_old < fault + ttl, "{story}: acknowledged after the lease");
    assert_ne!(new, leader);
    (conclusion, fault, last_old)
}

#[test]
fn cut_off_from_etcd() {
    let cluster = Cluster::running(Plan::short().in_network());
    for lost in EVERY_WAY {
        let story = format!("cut off from etcd, lost: {lost:?}");
        let (conclusion, _, last_old) = failover(&cluster, &story, |_| vec![etcd_host(&cluster)], lost);
        // The standbys were connected all the time: only the very last rows of the old leader may be missing.
        conclusion.verdict.expect_only_unreplicated_lost(&story, last_old, WINDOW);
    }
}

#[test]
fn cut_off_from_etcd_and_peers() {
    let cluster = Cluster::running(Plan::short().in_network());
    for lost in EVERY_WAY {
        let story = format!("cut off from etcd and peers, lost: {lost:?}");
        let everything = |leader: usize| [peers(&cluster, leader), vec![etcd_host(&cluster)]].concat();
        let (conclusion, fault, _) = failover(&cluster, &story, everything, lost);
        // No standby was reachable from the cut on: rows from then until the end of the lease are the asynchronous window.
        conclusion.verdict.expect_only_unreplicated_lost(&story, fault, WINDOW);
    }
}

#[test]
fn cut_off_from_peers_only_the_leader_leads_on() {
    let cluster = Cluster::running(Plan::short().in_network());
    for lost in EVERY_WAY {
        let story = format!("cut off from peers, lost: {lost:?}");
        let leader = cluster.wait_healthy(secs(60));
        let timeline = cluster.timeline();
        let observation = cluster.observe();
        cut(&cluster, leader, &peers(&cluster, leader), lost);
        std::thread::sleep(secs(u64::from(cluster.plan.ttl) * 2));
        assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline), "{story}: leadership moved");
        heal(&cluster);
        let conclusion = cluster.conclude(observation);
        conclusion.verdict.expect_nothing_lost(&story);
        assert!(conclusion.verdict.gap < secs(2), "{story}: clients noticed: {:?}", conclusion.verdict.gap);
        assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline), "{story}");
    }
}
