//! The log of a leader that hands over ends with a segment, and its successor has the next one ready: nothing is copied while clients wait.

use ha_tests::census::Census;
use ha_tests::cluster::Cluster;
use ha_tests::hung_file::HungFile;
use ha_tests::plan::Plan;
use ha_tests::wait::{millis, poll, secs};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

/// Of three: a record that somebody else writes in the wrong moment makes it an ordinary promotion.
const AT_LEAST: usize = 2;

/// Whether the newest timeline of a node begins with a segment, in the file that was there.
fn begins_in(cluster: &Cluster, node: usize, made: u64) -> bool {
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let wal = cluster.nodes[node].data().join("pg_wal");
    let history =
        fs::read_to_string(wal.join(format!("{timeline:08X}.history"))).expect("a promotion leaves a history");
    let row = history.lines().last().expect("it has a row");
    let (high, low) = row.split('\t').nth(1).and_then(|lsn| lsn.split_once('/')).expect("a row has a position");
    let number = |text: &str| u32::from_str_radix(text, 16).expect("positions are hexadecimal");
    let (high, low) = (number(high), number(low));
    let segment = wal.join(format!("{timeline:08X}{high:08X}{:08X}", low >> 24));
    println!("timeline {timeline} begins at {high:X}/{low:X}");
    low.trailing_zeros() >= 24 && fs::metadata(segment).is_ok_and(|file| file.ino() == made)
}

#[test]
fn a_new_timeline_begins_in_a_segment_that_was_ready() {
    let cluster = Cluster::running(Plan::short());
    let (before, observation) = (Census::take(&cluster), cluster.observe());
    let mut ready = 0;
    for _ in 0..3 {
        let from = cluster.wait_ready_to_switch();
        let to = cluster.other_than(from);
        let empty = cluster.nodes[to].data().join("pg_wal/xlogtemp.ha_ext");
        let made = cluster.wait("an empty segment", secs(20), || fs::metadata(&empty).ok()).ino();
        cluster.switch_over(from, to);
        cluster.wait_healthy(secs(60));
        ready += usize::from(begins_in(&cluster, to, made));
    }
    assert_eq!(Census::take(&cluster), before, "somebody was rewound, copied or started");
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("segment by segment");
    assert!(ready >= AT_LEAST, "only {ready} of 3 promotions had nothing to copy");
}

/// Bytes that are free in the segment that a leader writes.
fn rest_of_segment(cluster: &Cluster, leader: usize) -> u64 {
    let rest = "SELECT 16777216 - (pg_current_wal_insert_lsn() - '0/0')::bigint % 16777216";
    let rest = cluster.nodes[leader].value(rest).expect("the leader can be read").expect("it has a position");
    rest.parse().expect("a number of bytes")
}

/// Between the filling and the end of the log the files are made: with a disk that takes long for it the log has gone on into the next
/// segment by then.
#[test]
fn a_log_that_has_gone_on_while_the_files_were_made_is_brought_to_the_next_end() {
    let cluster = Cluster::running(Plan { nodes: 2, lag_bytes_max: 64 << 20, ..Plan::short() });
    let mut ready = 0;
    for _ in 0..3 {
        let from = cluster.wait_ready_to_switch();
        let to = cluster.other_than(from);
        let empty = cluster.nodes[to].data().join("pg_wal/xlogtemp.ha_ext");
        let made = cluster.wait("an empty segment", secs(20), || fs::metadata(&empty).ok()).ino();
        // A quarter of a segment is left at most.
        let near = rest_of_segment(&cluster, from).saturating_sub(4 << 20);
        let message = |bytes: u64| format!("SELECT pg_logical_emit_message(true, '', repeat('x', {bytes}))");
        cluster.nodes[from].sql(&message(near)).expect("the leader takes writes");
        cluster.wait_caught_up(from);
        std::thread::scope(|scope| {
            let hung = HungFile::begin(&cluster.nodes[from]);
            let asked = scope.spawn(|| cluster.switch_over(from, to));
            cluster.wait("the log to be near the end of its segment", secs(5), || {
                (rest_of_segment(&cluster, from) < 512 << 10).then_some(())
            });
            cluster.nodes[from].sql(&message(4 << 20)).expect("commits go on");
            hung.end();
            asked.join().expect("the switchover is made");
        });
        cluster.wait_healthy(secs(60));
        ready += usize::from(begins_in(&cluster, to, made));
    }
    assert!(ready > 0, "no promotion of 3 began with a segment");
}

/// The empty segment has the name of one of the next timeline, and the server was not promoted: it leads to that timeline, or to a later
/// one, in the end.
#[test]
fn a_candidate_that_dies_once_its_first_segment_is_named_can_lead_later() {
    let mut cluster = Cluster::running(Plan::short());
    let from = cluster.wait_ready_to_switch();
    cluster.wait_caught_up(from);
    let to = cluster.other_than(from);
    let wal = cluster.nodes[to].data().join("pg_wal");
    cluster.wait("an empty segment", secs(20), || wal.join("xlogtemp.ha_ext").exists().then_some(()));
    let next = cluster.timeline().expect("a healthy cluster has a timeline") + 1;
    let of_next = |name: &str| name.len() == 24 && name.starts_with(&format!("{next:08X}"));
    let startup = cluster.nodes[to].child("startup").expect("a standby has a startup process");
    let observation = cluster.observe();
    let fault = std::thread::scope(|scope| {
        let striker = scope.spawn(|| {
            assert!(cluster.saw_parked(from, secs(10)), "the switchover never came near the end of the log");
            // It does not promote.
            startup.freeze();
            let named = poll(secs(4), || {
                let mut names = fs::read_dir(&wal).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                names.any(|name| of_next(&name)).then_some(())
            });
            cluster.nodes[to].cut_power();
            named.expect("the candidate named its first segment");
            Instant::now()
        });
        println!("the switchover: {:?}", cluster.switchover(from, to));
        striker.join().expect("the striker does not panic")
    });
    assert!(!wal.join(format!("{next:08X}.history")).exists(), "the candidate was promoted before it died");
    cluster.nodes[to].start();
    cluster.wait("a write after it", secs(60), || observation.writers.first_ack_sent_after(fault + millis(500)));
    cluster.conclude(observation).verdict.expect_nothing_lost("the candidate died with its first segment named");
    let observation = cluster.observe();
    let leader = cluster.wait_ready_to_switch();
    if leader != to {
        cluster.switch_over(leader, to);
    }
    cluster.wait_healthy(secs(60));
    cluster.conclude(observation).verdict.expect_nothing_lost("it leads later");
}
