//! The harness itself: faults it injects must really happen, and a second primary must not escape the writers.

use ha_tests::archive::Archive;
use ha_tests::cluster::Cluster;
use ha_tests::daemon::run;
use ha_tests::etcd::{Etcd, Place};
use ha_tests::net::Network;
use ha_tests::plan::{Plan, System};
use ha_tests::ports::Ports;
use ha_tests::scratch::Scratch;
use ha_tests::wait::{poll, secs};
use std::net::{SocketAddr, TcpStream};

#[test]
fn a_cut_stops_one_direction_or_both_and_heals() {
    let scratch = Scratch::new();
    let network = Network::enter(3);
    let ping = |from: usize, to: usize| {
        let netns = &network.host(from).netns;
        run(&["ip", "netns", "exec", netns, "nft", "list", "ruleset"]).expect("the machine has a packet filter");
        let target = format!("{}/7", network.host(to).address);
        // A refused connection arrived and came back; a dropped one runs into the timeout.
        let script = format!("exec 3<>/dev/tcp/{target}");
        run(&["ip", "netns", "exec", netns, "timeout", "0.5", "bash", "-c", &script])
            .expect_err("nobody listens there")
            .contains("refused")
    };
    assert!(ping(0, 1) && ping(1, 0) && ping(0, 2), "the network does not work at all");
    network.cut_one_way(0, 1);
    assert!(!ping(0, 1), "what 0 sends arrives");
    assert!(!ping(1, 0), "TCP needs both directions");
    assert!(ping(0, 2) && ping(2, 1), "others are hit");
    network.heal();
    assert!(ping(0, 1), "the cut did not heal");
    network.cut(0, 1);
    assert!(!ping(1, 0));
    network.heal();
    network.cut_clients(2);
    let address: SocketAddr = format!("{}:7", network.host(2).address).parse().expect("an address");
    let refused = TcpStream::connect_timeout(&address, secs(1)).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut, "the clients still reach it");
    drop(scratch);
}

#[test]
fn etcd_of_three_survives_one_and_not_two() {
    let scratch = Scratch::new();
    let mut ports = Ports::claim();
    let places = (0..3).map(|_| Place {
        host: "127.0.0.1".into(),
        client_port: ports.take(),
        peer_port: ports.take(),
        netns: None,
    });
    let mut etcd = Etcd::start(scratch.path(), places.collect());
    etcd.kill_member(0);
    assert!(poll(secs(15), || etcd.ctl(&["put", "a", "1"]).ok()).is_some(), "two of three must serve");
    etcd.freeze_member(1, true);
    assert!(etcd.ctl(&["put", "a", "2"]).is_err(), "one of three must not serve");
    etcd.freeze_member(1, false);
    etcd.restart();
    // The refused write may have happened after all: its outcome is unknown.
    assert!(matches!(etcd.get("a").as_deref(), Some("1" | "2")), "the acknowledged write is gone");
}

/// Patroni loses rows and lets two servers acknowledge when its agent is frozen: the writers and the oracle must see it.
#[test]
fn the_oracle_sees_a_split_brain() {
    let cluster = Cluster::running(Plan { system: System::Patroni, ..Plan::short() }.tight_timing());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let observation = cluster.observe();
    let agent = cluster.nodes[leader].supervisor().expect("the agent runs");
    agent.freeze();
    let _ = cluster.wait_other_leader(leader, secs(60));
    std::thread::sleep(secs(2));
    agent.thaw();
    let conclusion = cluster.conclude(observation);
    assert!(!conclusion.verdict.overlaps.is_empty(), "two servers acknowledged and nobody noticed");
    assert!(!conclusion.verdict.late.is_empty(), "the old one acknowledged without a lease and nobody noticed");
    assert!(!conclusion.verdict.lost.is_empty(), "acknowledged rows were discarded and nobody noticed");
    println!(
        "Patroni, agent frozen: {} of {} acknowledged rows lost",
        conclusion.verdict.lost.len(),
        conclusion.verdict.acked
    );
}

/// A restore ends where the archive does, without a word: what it shows must be compared, and is.
#[test]
fn a_gap_in_the_archive_is_seen() {
    const ROWS: &str = "SELECT count(*) FROM ha_log";
    let archive = Archive::new();
    let mut cluster = Cluster::running(archive.joined(Plan { nodes: 1, ..Plan::short() }));
    archive.back_up(&cluster);
    let mut segments = Vec::new();
    for part in 0..3 {
        let rows = format!("INSERT INTO ha_log SELECT 1, g FROM generate_series({part} * 100, {part} * 100 + 99) g");
        cluster.nodes[0].sql(&rows).expect("the leader takes writes");
        let segment = cluster.nodes[0].value("SELECT pg_walfile_name(pg_current_wal_lsn())");
        segments.extend(segment.expect("the leader can be asked"));
        archive.wait_complete(&cluster, 0);
    }
    std::fs::remove_file(archive.wal().join(&segments[1])).expect("the second segment is there");
    let port = cluster.spare_port();
    assert_eq!(cluster.nodes[0].value(ROWS).expect("the leader can be read").as_deref(), Some("300"));
    assert_eq!(archive.restored(ROWS, port).as_deref(), Some("100"), "the gap was not seen");
}
