//! A timeline that was claimed and never made is skipped, and standbys from before it still find their way to the new leader.

use ha_tests::cluster::Cluster;
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
        cluster.nodes[second].sql("INSERT INTO ha_log VALUES (1, 1)").ok()
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
