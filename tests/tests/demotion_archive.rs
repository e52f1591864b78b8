//! Demotions beside an archive that all nodes share: it leads nobody astray, and misses nothing.

use ha_tests::archive::Archive;
use ha_tests::cluster::Cluster;
use ha_tests::load::Load;
use ha_tests::oracle::WINDOW;
use ha_tests::plan::Plan;
use ha_tests::sql::Session;
use ha_tests::usurper::demote;
use ha_tests::wait::secs;
use std::time::Instant;

/// Switchovers in which a segment may end at the wrong moment.
const ROUNDS: u32 = 12;

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

/// Segments that wait for the archiver.
fn waiting(cluster: &Cluster, node: usize) -> usize {
    let status = cluster.nodes[node].data().join("pg_wal/archive_status");
    let names = std::fs::read_dir(status).expect("a server has one").flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".ready")).count()
}

/// Without a supervisor nobody archives what a demotion in place leaves: a segment that ends in the last moments of the log counts too.
#[test]
fn a_segment_that_ends_just_before_the_log_is_not_left_behind() {
    let archive = Archive::new();
    let shut = archive.wal().join("shut");
    let command = format!("test ! -e {} && cp %p {}/%f", shut.display(), archive.wal().display());
    let mut cluster = Cluster::running(archive.with_command(Plan { nodes: 2, ..Plan::short() }, &command));
    for node in 0..2 {
        cluster.nodes[node].stop();
    }
    for node in 0..2 {
        cluster.nodes[node].start_without_supervisor();
    }
    let mut refused = 0;
    for round in 0..ROUNDS {
        let from = cluster.wait_ready_to_switch();
        // An archiver that has failed looks again when a segment ends.
        cluster.nodes[from]
            .sql("SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()")
            .expect("a leader ends a segment");
        cluster.wait("an archive that has everything", secs(90), || (waiting(&cluster, from) == 0).then_some(()));
        std::fs::write(&shut, "").expect("the archive can be shut");
        let last = Session::open(&cluster.nodes[from].server, secs(3)).expect("a leader admits sessions");
        let (reply, took) = std::thread::scope(|scope| {
            let striker = scope.spawn(|| {
                assert!(cluster.saw_parked(from, secs(10)), "the switchover never came near the end of the log");
                let begun = Instant::now();
                // A segment ends while commits are held, or a moment before.
                println!("{round}: {:?}", last.query("SELECT pg_switch_wal()", secs(5)).map(|_| ()));
                begun
            });
            let reply = cluster.switchover(from, cluster.other_than(from));
            (reply, striker.join().expect("the striker does not panic").elapsed())
        });
        println!("{round}: {took:?} {reply:?}");
        if cluster.wait_healthy(secs(60)) == from {
            // Before the log is frozen the archiver is waited for longer.
            refused += u32::from(took < secs(8));
        } else {
            assert_eq!(waiting(&cluster, from), 0, "round {round}: nobody archives what the old leader kept");
        }
        std::fs::remove_file(&shut).expect("the archive can be opened");
        if refused == 2 {
            return;
        }
    }
    panic!("no segment ended in the last moments of a log in {ROUNDS} rounds");
}
