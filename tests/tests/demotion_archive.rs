//! Demotions beside an archive that all nodes share: it leads nobody astray, and misses nothing.

use ha_tests::archive::Archive;
use ha_tests::cluster::Cluster;
use ha_tests::load::Load;
use ha_tests::plan::Plan;
use ha_tests::usurper::Usurper;
use ha_tests::wait::{millis, secs};
use std::time::{Duration, Instant};

/// How much a leader may have acknowledged that no standby had yet.
const WINDOW: Duration = Duration::from_millis(500);

/// Takes the leader's key away under load for a second.
fn demote(cluster: &Cluster, leader: usize, story: &str) {
    let load = Load::start(cluster, 4);
    let observation = cluster.observe();
    let fault = Instant::now();
    let usurper = Usurper::seize(cluster);
    cluster.wait("the old leader to stop", secs(5), || (!cluster.nodes[leader].is("/primary")).then_some(()));
    std::thread::sleep(millis(1000));
    usurper.leave(cluster);
    let healed = Instant::now();
    cluster.wait("a write", secs(60), || observation.writers.first_ack_sent_after(healed));
    std::thread::sleep(secs(1));
    drop(load);
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost(story, fault, WINDOW);
}

/// The archive names a newer timeline before the old leader knows that it leads no more: it must not go there by itself.
#[test]
fn an_archive_that_knows_the_next_timeline_leads_nobody_astray() {
    let archive = Archive::new();
    let mut cluster = Cluster::running(archive.joined(Plan::short()));
    Load::tables(&cluster, 2);
    archive.back_up(&cluster);
    let leader = cluster.wait_ready_to_switch();
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let load = Load::start(&cluster, 4);
    let observation = cluster.observe();
    let fault = Instant::now();
    cluster.nodes[leader].freeze();
    let new = cluster.wait_other_leader(leader, secs(30));
    let history = archive.wal().join(format!("{:08X}.history", timeline + 1));
    cluster.wait("the history of the new timeline in the archive", secs(20), || history.exists().then_some(()));
    cluster.nodes[leader].thaw();
    cluster.wait("a write on the new leader", secs(10), || observation.writers.first_ack_above(timeline, fault));
    std::thread::sleep(secs(1));
    drop(load);
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost("thawed beside an archive", fault, WINDOW);
    assert_eq!(cluster.leader(), Some(new));
    expect_restorable(&mut cluster, &archive, new);
}

/// What a demotion in the middle of writing leaves in `archive_status` is archived all the same.
#[test]
fn nothing_is_missing_in_the_archive_after_demotions() {
    let archive = Archive::new();
    let mut cluster = Cluster::running(archive.joined(Plan::short()));
    Load::tables(&cluster, 5);
    archive.back_up(&cluster);
    for round in 0..2 {
        let leader = cluster.wait_ready_to_switch();
        // A few segments at once, so that some wait for the archiver when it has to end.
        let bulk = "INSERT INTO pgbench_history SELECT 1, 1, 1, 0, now() FROM generate_series(1, 400000)";
        cluster.nodes[leader].sql(bulk).expect("the leader takes writes");
        demote(&cluster, leader, &format!("demotion with an archive, round {round}"));
    }
    let leader = cluster.wait_healthy(secs(60));
    expect_restorable(&mut cluster, &archive, leader);
}

fn expect_restorable(cluster: &mut Cluster, archive: &Archive, leader: usize) {
    const CONTENT: &str = "SELECT (SELECT count(*) || ' ' || sum(hashint8(seq * 100 + writer)::bigint) FROM ha_log)
        || ' ' || (SELECT count(*) || ' ' || sum(delta) FROM pgbench_history)";
    let wanted = cluster.nodes[leader].value(CONTENT).expect("the leader can be read");
    archive.wait_complete(cluster, leader);
    let port = cluster.spare_port();
    assert_eq!(archive.restored(CONTENT, port), wanted, "the archive is not complete");
}
