//! The data directory of a leader vanishes, or is damaged, while its server runs.

use ha_tests::cluster::{Cluster, Observation};
use ha_tests::plan::Plan;
use ha_tests::wait::{millis, poll, secs};
use std::fs;
use std::time::{Duration, Instant};

/// Hurts the leader's data, and waits until another node leads, is written to, and the old server is gone.
fn failover(cluster: &Cluster, story: &str, hurt: impl FnOnce(&Cluster, usize)) -> (usize, usize, Observation) {
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let observation = cluster.observe();
    let fault = Instant::now();
    hurt(cluster, leader);
    let new = cluster.wait_other_leader(leader, secs(45));
    let first =
        cluster.wait("a write on the new leader", secs(15), || observation.writers.first_ack_above(timeline, fault));
    println!("{story}: written again after {} ms", first.acked_at.duration_since(fault).as_millis());
    assert!(!cluster.nodes[leader].is("/primary"), "{story}: the old leader still calls itself primary");
    let log = fs::read_to_string(cluster.nodes[leader].log()).expect("the node has a log");
    assert!(log.contains("release.data_lost"), "{story}: the key was not released for that\n{}", cluster.diagnosis());
    (leader, new, observation)
}

fn judge(cluster: &Cluster, story: &str, new: usize, observation: Observation) {
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let conclusion = cluster.conclude(observation);
    let old = conclusion.acks.iter().filter(|ack| ack.timeline < timeline).map(|ack| ack.acked_at).max();
    let last = old.expect("the old leader acknowledged something");
    conclusion.verdict.expect_only_unreplicated_lost(story, last, Duration::from_millis(500));
    assert_eq!(cluster.leader(), Some(new), "{story}");
}

#[test]
fn one_whose_directory_vanishes_lets_another_lead_and_copies_anew() {
    let cluster = Cluster::running(Plan::short());
    let story = "data directory removed";
    let (_, new, observation) = failover(&cluster, story, |cluster, leader| {
        let data = cluster.nodes[leader].data();
        // The server makes new files all the time: what is left is removed again.
        poll(secs(5), || fs::remove_dir_all(&data).is_ok().then_some(())).expect("the data can be removed");
    });
    judge(&cluster, story, new, observation);
}

#[test]
fn one_whose_control_file_vanishes_lets_another_lead_and_stays_out_until_it_is_mended() {
    let cluster = Cluster::running(Plan::short());
    let story = "control file removed";
    let (old, new, observation) = failover(&cluster, story, |cluster, leader| {
        fs::remove_file(cluster.nodes[leader].data().join("global/pg_control")).expect("there is a control file");
        // The server finds out when it next writes it, and dies of it.
        let checkpoint = cluster.nodes[leader].sql("CHECKPOINT");
        assert!(checkpoint.is_err(), "a checkpoint without a control file: {checkpoint:?}");
    });
    let node = &cluster.nodes[old];
    let end = Instant::now() + secs(3);
    while Instant::now() < end {
        assert!(node.postmaster().is_none(), "{story}: a server was started on what is left\n{}", cluster.diagnosis());
        std::thread::sleep(millis(50));
    }
    assert!(
        node.data().join("PG_VERSION").exists() && node.data().join("base").exists(),
        "somebody's data were removed"
    );
    // What an operator does: the others are whole.
    fs::rename(node.data(), node.dir.join("damaged")).expect("the data can be set aside");
    judge(&cluster, story, new, observation);
}
