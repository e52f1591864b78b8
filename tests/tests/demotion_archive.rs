//! Demotions beside an archive that all nodes share: it leads nobody astray, and misses nothing.

use ha_tests::archive::Archive;
use ha_tests::load::Load;
use ha_tests::oracle::WINDOW;
use ha_tests::plan::Plan;
use ha_tests::usurper::demote;
use ha_tests::wait::secs;
use std::time::Instant;

/// The archive names a newer timeline before the old leader knows that it leads no more: it must not go there by itself.
#[test]
fn an_archive_that_knows_the_next_timeline_leads_nobody_astray() {
    let (archive, mut cluster) = Archive::with_cluster(Plan::short(), 2);
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
    archive.expect_complete(&mut cluster, new, "thawed beside an archive");
}

/// What a demotion in the middle of writing leaves in `archive_status` is archived all the same.
#[test]
fn nothing_is_missing_in_the_archive_after_demotions() {
    let (archive, mut cluster) = Archive::with_cluster(Plan::short(), 5);
    for round in 0..2 {
        let leader = cluster.wait_ready_to_switch();
        // A few segments at once, so that some wait for the archiver when it has to end.
        let bulk = "INSERT INTO pgbench_history SELECT 1, 1, 1, 0, now() FROM generate_series(1, 400000)";
        cluster.nodes[leader].sql(bulk).expect("the leader takes writes");
        demote(&cluster, leader, secs(1), &format!("demotion with an archive, round {round}"));
    }
    let leader = cluster.wait_healthy(secs(60));
    archive.expect_complete(&mut cluster, leader, "demotions with an archive");
}
