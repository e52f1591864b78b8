//! Standbys that have received what they cannot replay, when the leader that sent it dies.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::sql::Session;
use ha_tests::wait::{millis, poll, secs};
use rustix::process::Signal;
use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;

/// A cluster in which nothing may be rewound or replaced: whoever follows again does so as it is.
fn strict() -> Cluster {
    Cluster::running(Plan { lag_bytes_max: 1 << 30, postgresql: vec!["use_pg_rewind: false".into()], ..Plan::short() })
}

/// The leader's host is lost; both others go on, one of them as the standby of the other.
fn lose(cluster: &Cluster, old: usize) {
    cluster.nodes[old].cut_power();
    follow_without(cluster, old);
}

/// One of the others leads, and the third, which is returned, follows it.
fn follow_without(cluster: &Cluster, old: usize) -> usize {
    let new = cluster.wait_other_leader(old, secs(40));
    let third = (0..3).find(|node| *node != old && *node != new).expect("there are three");
    cluster.wait("the third node to follow the new leader", secs(30), || {
        let timeline = cluster.nodes[new].primary_timeline()?;
        cluster.nodes[third].streams_on(&timeline).then_some(())
    });
    cluster.nodes[new].sql("CREATE TABLE later AS SELECT 1").expect("the new leader takes writes");
    cluster.wait("the rows of the new leader", secs(30), || cluster.nodes[third].sql("SELECT * FROM later").ok());
    third
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
    give_away(&other);
    fs::rename(&other, &segment).expect("the segment can be replaced");
    run("INSERT INTO wide SELECT repeat('x', 10000) FROM generate_series(1, 100)");
    node.thaw_senders();
    wait_unreadable(&cluster, old);
    assert!(File::open(&segment).is_ok(), "the segment vanished");
    lose(&cluster, old);
}

/// The leader stands still within a record of 400 MB, of which the standbys have received what there is. Then `then` is called.
fn within_a_record(cluster: &Cluster, old: usize, then: impl FnOnce()) {
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
        let writers = node.postmaster().expect("it runs").children().into_iter().filter(writer);
        for child in writers {
            child.freeze();
        }
        wait_unreadable(cluster, old);
        // Twice the delay of the WAL writer: what was written is flushed and sent by then.
        sleep(millis(400));
        then();
    });
}

/// The server gets over the beginning of a record by itself where the page after it makes no sense and is not the first of a segment.
#[test]
fn half_a_record_over_segments_keeps_nobody_from_following_the_next_leader() {
    let cluster = strict();
    let old = cluster.leader().expect("a healthy cluster has a leader");
    within_a_record(&cluster, old, || {
        lose(&cluster, old);
    });
}

/// What is where the next segment would be.
#[derive(Clone, Copy)]
enum Next {
    Nothing,
    /// A file that was kept for new WAL: what it holds is that of an older one.
    Recycled,
    Zeros,
}

/// What a stopped standby has received ends with the last segment that it has filled.
fn cut(cluster: &Cluster, node: usize, received: &str, next: Next) {
    let (high, low) = received.split_once('/').expect("a position");
    let number = |text: &str| u32::from_str_radix(text, 16).expect("positions are hexadecimal");
    let (high, low) = (number(high), number(low) >> 24);
    let wal = cluster.nodes[node].data().join("pg_wal");
    let segment = |low: u32| wal.join(format!("{:08X}{high:08X}{low:08X}", 1));
    assert!(segment(low - 2).exists() && segment(low - 1).exists(), "{received}: the record is shorter");
    for later in (low..).map(segment).take_while(|path| path.exists()) {
        fs::remove_file(later).expect("it can be removed");
    }
    let bytes = match next {
        Next::Nothing => return,
        Next::Recycled => fs::read(segment(low - 2)).expect("it can be read"),
        Next::Zeros => vec![0; 16 << 20],
    };
    fs::write(segment(low), bytes).expect("it can be made");
    give_away(&segment(low));
}

/// To the server's user.
fn give_away(path: &Path) {
    let (user, group) = ha_tests::process::account("postgres");
    std::os::unix::fs::chown(path, Some(user), Some(group)).expect("it can be given away");
}

/// A server that has read all of a segment, and needs the next one for the record it is at, asks for that one, and not for the record,
/// whatever it has in its place.
fn ends_with_a_segment(next: Next) {
    let mut cluster = strict();
    let old = cluster.leader().expect("a healthy cluster has a leader");
    let standbys: Vec<usize> = (0..3).filter(|node| *node != old).collect();
    let mut received = Vec::new();
    within_a_record(&cluster, old, || {
        let position = |node: &usize| cluster.nodes[*node].value("SELECT pg_last_wal_receive_lsn()");
        received = standbys.iter().map(|node| position(node).expect("it answers").expect("it has received")).collect();
        // They stand for no election before they have lost what they have of the next segment.
        let supervisors: Vec<Proc> = standbys.iter().filter_map(|node| cluster.nodes[*node].supervisor()).collect();
        for supervisor in &supervisors {
            supervisor.signal(Signal::TERM);
        }
        assert!(supervisors.iter().all(|supervisor| supervisor.wait_gone(secs(60))), "the standbys do not stop");
        cluster.nodes[old].cut_power();
    });
    for (node, received) in standbys.iter().zip(&received) {
        cut(&cluster, *node, received, next);
    }
    for node in &standbys {
        cluster.nodes[*node].start();
    }
    let third = follow_without(&cluster, old);
    let said = cluster.nodes[third].supervisor_log();
    assert!(said.contains("ends within a record"), "it followed without help:\n{said}");
}

#[test]
fn half_a_record_up_to_a_segments_end_keeps_nobody_from_following_the_next_leader() {
    ends_with_a_segment(Next::Nothing);
}

#[test]
fn nor_does_it_where_a_segment_that_was_kept_for_later_comes_next() {
    ends_with_a_segment(Next::Recycled);
}

#[test]
fn nor_does_it_where_zeros_come_next() {
    ends_with_a_segment(Next::Zeros);
}
