//! Standbys that have received what they cannot replay, when the leader that sent it dies.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::sql::Session;
use ha_tests::wait::{millis, poll, secs};
use std::fs::{self, File};
use std::thread::sleep;

/// A cluster in which nothing may be rewound or replaced: whoever follows again does so as it is.
fn strict() -> Cluster {
    Cluster::running(Plan { lag_bytes_max: 1 << 30, postgresql: vec!["use_pg_rewind: false".into()], ..Plan::short() })
}

/// The leader's host is lost; both others go on, one of them as the standby of the other.
fn lose(cluster: &Cluster, old: usize) {
    cluster.nodes[old].cut_power();
    let new = cluster.wait_other_leader(old, secs(40));
    let third = (0..3).find(|node| *node != old && *node != new).expect("there are three");
    cluster.wait("the third node to follow the new leader", secs(30), || {
        let timeline = cluster.nodes[new].primary_timeline()?;
        cluster.nodes[third].streams_on(&timeline).then_some(())
    });
    cluster.nodes[new].sql("CREATE TABLE later AS SELECT 1").expect("the new leader takes writes");
    cluster.wait("the rows of the new leader", secs(10), || cluster.nodes[third].sql("SELECT * FROM later").ok());
}

/// Both standbys have flushed more than they can replay.
fn wait_unreadable(cluster: &Cluster, leader: usize) {
    let beyond = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()";
    for node in (0..3).filter(|node| *node != leader) {
        cluster.wait("WAL that is not replayed", secs(20), || {
            let answer = cluster.nodes[node].value(beyond).ok()?;
            (answer.as_deref() == Some("t")).then_some(())
        });
    }
}

/// What a standby has received ends exactly with a segment: where that is half a record the server does not get over it (`docs/limits.md`).
fn ends_with_a_segment(cluster: &Cluster, leader: usize) -> bool {
    let rest = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0') % 16777216";
    (0..3)
        .filter(|node| *node != leader)
        .any(|node| cluster.nodes[node].value(rest).expect("it answers").as_deref() == Some("0"))
}

/// A leader whose directory vanishes under it, or is restored under it, sends what it finds in the new files.
#[test]
fn zeros_that_a_leader_sent_keep_nobody_from_following_the_next() {
    let cluster = strict();
    let old = cluster.leader().expect("a healthy cluster has a leader");
    let node = &cluster.nodes[old];
    let session = Session::open(&node.server, secs(5)).expect("the leader takes sessions");
    let run = |statement: &str| session.query(statement, secs(20)).expect("the leader answers");
    run("CREATE TABLE wide (row text)");
    run("ALTER TABLE wide ALTER row SET STORAGE EXTERNAL");
    cluster.wait_caught_up(old);
    node.freeze_senders();
    run("SELECT pg_switch_wal()");
    run("INSERT INTO wide VALUES ('the session holds the new segment open')");
    let segment = run("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let segment = node.data().join("pg_wal").join(segment[0][0].as_ref().expect("it has a name"));
    // The session writes on into the file that nobody finds any more, the senders read the other one.
    let other = segment.with_extension("other");
    fs::copy(&segment, &other).expect("the segment can be copied");
    let (user, group) = ha_tests::process::account("postgres");
    std::os::unix::fs::chown(&other, Some(user), Some(group)).expect("it can be given away");
    fs::rename(&other, &segment).expect("the segment can be replaced");
    run("INSERT INTO wide SELECT repeat('x', 10000) FROM generate_series(1, 100)");
    node.thaw_senders();
    wait_unreadable(&cluster, old);
    assert!(File::open(&segment).is_ok(), "the segment vanished");
    lose(&cluster, old);
}

/// The server gets over the beginning of a record only if it lies in one segment.
#[test]
fn half_a_record_over_segments_keeps_nobody_from_following_the_next_leader() {
    let cluster = strict();
    let old = cluster.leader().expect("a healthy cluster has a leader");
    let node = &cluster.nodes[old];
    let begin = node.value("SELECT pg_current_wal_flush_lsn()").expect("it answers").expect("it has a position");
    let far = format!("SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '{begin}') > 40000000");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let session = Session::open(&node.server, secs(5)).expect("the leader takes sessions");
            let record = session.query("SELECT pg_logical_emit_message(false, 'x', repeat('x', 400000000))", secs(60));
            assert!(record.is_err(), "the whole record was written: {record:?}");
        });
        poll(secs(30), || (node.value(&far).ok()?.as_deref() == Some("t")).then_some(())).expect("it writes");
        let writer = |child: &Proc| child.command().contains("SELECT");
        let writers: Vec<Proc> = node.postmaster().expect("it runs").children().into_iter().filter(writer).collect();
        loop {
            for child in &writers {
                child.freeze();
            }
            wait_unreadable(&cluster, old);
            // Twice the delay of the WAL writer: what was written is flushed and sent by then.
            sleep(millis(400));
            if !ends_with_a_segment(&cluster, old) {
                break;
            }
            for child in &writers {
                child.thaw();
            }
            sleep(millis(5));
        }
        lose(&cluster, old);
    });
}
