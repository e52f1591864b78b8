//! A timeline that was claimed and never made is skipped, and standbys from before it still find their way to the new leader.

use ha_tests::cluster::Cluster;
use ha_tests::node::Node;
use ha_tests::plan::Plan;
use ha_tests::wait::{poll, secs};
use std::fs;
use std::time::Instant;

#[test]
fn standbys_from_before_a_skipped_timeline_stream_from_every_later_leader() {
    let mut cluster = Cluster::running(Plan::short());
    let first = cluster.leader().expect("a healthy cluster has a leader");
    let second = cluster.other_than(first);
    let early = cluster.other_than(second);
    cluster.nodes[early].stop();
    // What a node leaves that died between its claim and its promotion.
    let claim = r#"{"node":"ghost","lsn":1,"nonce":5}"#;
    cluster.etcd.ctl(&["put", &cluster.key("ha_ext/timeline/2"), claim]).expect("etcd takes it");
    cluster.switch_over(first, second);
    cluster.wait("timeline 3", secs(20), || (cluster.timeline() == Some(3)).then_some(()));

    // Its archive would have the gap too, and a restore would take timeline 1 for the newest.
    let waiting = cluster.nodes[second].data().join("pg_wal/archive_status/00000002.history.ready");
    assert!(waiting.exists(), "nobody archives the file of the skipped timeline");

    let fault = Instant::now();
    cluster.nodes[second].worker().expect("a leader has a loop worker").kill();
    cluster.wait("a write after the crash cycle", secs(30), || {
        cluster.nodes[second].sql("INSERT INTO ha_log VALUES (1, 1) ON CONFLICT DO NOTHING").ok()
    });
    println!("crash cycle of the new leader: {} ms", fault.elapsed().as_millis());
    cluster.nodes[early].start();
    streams(&cluster, early, "3", "a leader that restarted");

    // A copy brings no older history files along; whoever follows it later may need them.
    cluster.nodes[first].stop();
    fs::remove_dir_all(cluster.nodes[first].data()).expect("the data directory can be removed");
    cluster.nodes[first].start();
    streams(&cluster, first, "3", "an empty directory");
    let filled = cluster.nodes[first].data().join("pg_wal/00000002.history");
    cluster.wait("the gap to be filled", secs(10), || filled.exists().then_some(()));
    cluster.wait_equal(second);
}

fn streams(cluster: &Cluster, node: usize, timeline: &str, story: &str) {
    cluster.wait(story, secs(30), || cluster.nodes[node].streams_on(timeline).then_some(()));
}

/// What a promotion leaves that died right after it had chosen its timeline.
fn begin_timeline(node: &Node, timeline: u32, fork: &str) {
    let log = node.data().join("pg_wal");
    let history = format!("1\t{fork}\tno recovery target specified\n");
    fs::write(log.join(format!("{timeline:08X}.history")), history).expect("a history file can be made");
    fs::write(log.join(format!("archive_status/{timeline:08X}.history.ready")), "").expect("its status can be made");
    // Positions are below 4 GB here, and segments have 16 MB.
    let low = fork.strip_prefix("0/").and_then(|low| u32::from_str_radix(low, 16).ok()).expect("a position");
    let segment = |timeline: u32| log.join(format!("{timeline:08X}00000000{:08X}", low >> 24));
    let mut copy = fs::read(segment(1)).expect("the segment of the fork");
    copy[low as usize % (16 << 20)..].fill(0);
    fs::write(segment(timeline), copy).expect("a segment can be made");
}

#[test]
fn a_timeline_that_was_begun_and_never_written_to_keeps_nobody_away() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let standby = cluster.other_than(leader);
    // In the middle of a segment, which the new timeline begins with a copy of.
    cluster.nodes[leader].sql("INSERT INTO ha_log VALUES (1, 0)").expect("the leader takes writes");
    cluster.wait_caught_up(leader);
    let fork = cluster.nodes[standby].value("SELECT pg_last_wal_replay_lsn()").expect("a function");
    cluster.nodes[standby].kill();
    begin_timeline(&cluster.nodes[standby], 2, &fork.expect("a standby replays"));
    // The server had let go of it, and would be a primary of timeline 1.
    fs::remove_file(cluster.nodes[standby].data().join("standby.signal")).expect("a standby has one");
    cluster.nodes[leader].sql("INSERT INTO ha_log VALUES (1, 1)").expect("the leader takes writes");
    cluster.nodes[standby].start();
    streams(&cluster, standby, "1", "a promotion that died");

    // A crash cycle makes a primary of such a server: it must not tell its archive of the other timeline.
    let end = cluster.nodes[leader].value("SELECT pg_current_wal_insert_lsn()").expect("a function");
    begin_timeline(&cluster.nodes[leader], 2, &end.expect("a leader writes"));
    cluster.nodes[leader].worker().expect("a leader has a loop worker").kill();
    cluster.wait("a write after the crash cycle", secs(30), || {
        cluster.nodes[leader].sql("INSERT INTO ha_log VALUES (1, 2) ON CONFLICT DO NOTHING").ok()
    });
    for left in ["pg_wal/00000002.history", "pg_wal/archive_status/00000002.history.ready"] {
        assert!(!cluster.nodes[leader].data().join(left).exists(), "{left} is still there");
    }
    assert_eq!(cluster.nodes[leader].primary_timeline().as_deref(), Some("1"));
    cluster.wait_healthy(secs(30));
    cluster.switch_over(leader, standby);
    streams(&cluster, leader, "2", "a switchover after that");
    cluster.wait_equal(standby);
}

#[test]
fn a_trigger_file_does_not_survive_a_crash_cycle() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let standby = &cluster.nodes[cluster.other_than(leader)];
    fs::write(standby.data().join("promote"), "").expect("the trigger can be made");
    // A promotion that skips a number leaves these two as well.
    let left = ["pg_wal/00000009.history", "pg_wal/archive_status/00000009.history.ready"];
    let left = left.map(|name| standby.data().join(name));
    fs::write(&left[0], "# claimed by another node and never used\n").expect("the file can be made");
    fs::write(&left[1], "").expect("its status can be made");
    // Nobody has signalled the postmaster: the crash cycle of a backend does.
    let backend = standby.child("checkpointer").expect("a standby has a checkpointer");
    backend.kill();
    let promoted = poll(secs(8), || standby.primary_timeline());
    assert_eq!(promoted, None, "the standby was promoted by the trigger\n{}", cluster.diagnosis());
    assert!(!left.iter().any(|path| path.exists()), "what the promotion left behind is still there");
    cluster.wait_healthy(secs(30));
    assert_eq!(cluster.leader(), Some(leader));
}
