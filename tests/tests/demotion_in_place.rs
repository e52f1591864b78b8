//! A leader that loses its lease becomes a standby in the same postmaster.

use ha_tests::cluster::{Cluster, Conclusion};
use ha_tests::load::Load;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::sql::{Session, SqlError};
use ha_tests::usurper::Usurper;
use ha_tests::wait::{millis, secs};
use std::time::{Duration, Instant};

/// How much a leader may have acknowledged that no standby had yet.
const WINDOW: Duration = Duration::from_millis(500);

fn postmaster(cluster: &Cluster, node: usize) -> Proc {
    cluster.nodes[node].postmaster().expect("a running server has a postmaster")
}

/// Waits until this node's server is in recovery, as its log says; its reads may be withheld.
fn wait_recovering(cluster: &Cluster, node: usize, since: usize) {
    cluster.wait("the server to go on as a standby", secs(20), || {
        let log = cluster.nodes[node].server_log();
        log.get(since..)?.contains("entering standby mode").then_some(())
    });
}

fn judge(conclusion: &Conclusion, story: &str, fault: Instant) {
    conclusion.verdict.expect_only_unreplicated_lost(story, fault, WINDOW);
    println!("{story}: write gap {} ms", conclusion.verdict.gap.as_millis());
}

/// Nobody leads, so nobody can tell whether this node's last rows will survive: they are not shown.
#[test]
fn reads_are_withheld_until_the_branch_was_compared() {
    let cluster = Cluster::running(Plan::short());
    Load::tables(&cluster, 2);
    let leader = cluster.wait_ready_to_switch();
    let before = postmaster(&cluster, leader);
    let load = Load::start(&cluster, 4);
    let observation = cluster.observe();
    let (fault, log) = (Instant::now(), cluster.nodes[leader].server_log().len());
    let usurper = Usurper::seize(&cluster);
    wait_recovering(&cluster, leader, log);
    println!("in recovery {} ms after the key was taken", fault.elapsed().as_millis());
    while fault.elapsed() < secs(6) {
        let node = &cluster.nodes[leader];
        for path in ["/primary", "/replica", "/read-only", "/async"] {
            let status = node.get(path).map_or(503, |reply| reply.status);
            assert_eq!(status, 503, "{path} of a node whose branch is not known");
        }
        match node.sql("SELECT count(*) FROM ha_log") {
            Err(SqlError::Refused { .. }) => {}
            other => panic!("a node whose branch is not known answered {other:?}"),
        }
        std::thread::sleep(millis(100));
    }
    let refused = cluster.nodes[leader].sql("SELECT count(*) FROM ha_log").expect_err("reads are withheld");
    println!("a reader hears: {refused}");
    assert_eq!(cluster.nodes[leader].postmaster(), Some(before), "the postmaster is another one");
    usurper.leave(&cluster);
    let healed = Instant::now();
    cluster.wait("a write", secs(30), || observation.writers.first_ack_sent_after(healed));
    std::thread::sleep(secs(1));
    drop(load);
    let conclusion = cluster.conclude(observation);
    judge(&conclusion, "leader key taken under load", fault);
    for node in &cluster.nodes {
        node.sql("SELECT count(*) FROM ha_log").expect("every node can be read again");
    }
}

/// While etcd is away nobody leads; the old leader waits as a standby and may lead again.
#[test]
fn the_store_is_lost_and_comes_back() {
    let mut cluster = Cluster::running(Plan::short());
    Load::tables(&cluster, 2);
    let leader = cluster.wait_ready_to_switch();
    let before = postmaster(&cluster, leader);
    let load = Load::start(&cluster, 4);
    let observation = cluster.observe();
    let (fault, log) = (Instant::now(), cluster.nodes[leader].server_log().len());
    cluster.etcd.kill();
    wait_recovering(&cluster, leader, log);
    println!("in recovery {} ms after etcd was lost", fault.elapsed().as_millis());
    assert!(!cluster.nodes.iter().any(|node| node.is("/primary")), "somebody leads without the store");
    assert_eq!(cluster.nodes[leader].postmaster(), Some(before), "the postmaster is another one");
    std::thread::sleep(secs(1));
    cluster.etcd.restart();
    let back = Instant::now();
    let first = cluster.wait("a write", secs(30), || observation.writers.first_ack_sent_after(back));
    println!("written again {} ms after etcd was back", first.acked_at.duration_since(back).as_millis());
    std::thread::sleep(secs(1));
    drop(load);
    let conclusion = cluster.conclude(observation);
    judge(&conclusion, "etcd lost under load", fault);
}

/// Another node leads at once. Under load the old leader has flushed more than it could send, and is rewound; the
/// server that comes back is nevertheless never one that shows rows of its own branch.
#[test]
fn a_leader_cut_off_from_the_store_follows_the_next_one() {
    let cluster = Cluster::running(Plan::short().in_network());
    let leader = cluster.wait_ready_to_switch();
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let before = postmaster(&cluster, leader);
    let observation = cluster.observe();
    let (fault, log) = (Instant::now(), cluster.nodes[leader].server_log().len());
    let network = cluster.network.as_ref().expect("this cluster has a network");
    network.cut(leader, cluster.nodes.len());
    wait_recovering(&cluster, leader, log);
    assert_eq!(cluster.nodes[leader].postmaster(), Some(before), "the postmaster is another one");
    let new = cluster.wait_other_leader(leader, secs(30));
    let first = || observation.writers.first_ack_above(timeline, fault);
    let first = cluster.wait("a write on the new leader", secs(10), first);
    println!("written again after {} ms", first.acked_at.duration_since(fault).as_millis());
    network.heal();
    std::thread::sleep(secs(1));
    let conclusion = cluster.conclude(observation);
    judge(&conclusion, "leader cut off from etcd", fault);
    assert_eq!(cluster.leader(), Some(new));
    assert!(cluster.nodes[leader].is("/replica"));
}

/// Nobody can stop and start a server whose node has no supervisor.
#[test]
fn without_a_supervisor_the_server_stays_up() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.wait_ready_to_switch();
    let before = postmaster(&cluster, leader);
    let observation = cluster.observe();
    cluster.nodes[leader].kill_supervisor();
    std::thread::sleep(secs(1));
    let (fault, log) = (Instant::now(), cluster.nodes[leader].server_log().len());
    let usurper = Usurper::seize(&cluster);
    wait_recovering(&cluster, leader, log);
    assert_eq!(cluster.nodes[leader].postmaster(), Some(before), "the postmaster is another one");
    usurper.leave(&cluster);
    cluster.wait("a write", secs(30), || observation.writers.first_ack_sent_after(fault + secs(1)));
    // A branch of its own would have to be rewound, which takes a supervisor.
    let streams = || cluster.timeline().is_some_and(|now| cluster.nodes[leader].streams_on(&now.to_string()));
    let alone = ha_tests::wait::poll(secs(8), || (cluster.leader() == Some(leader) || streams()).then_some(()));
    println!("back without a supervisor: {}", alone.is_some());
    assert_eq!(cluster.nodes[leader].postmaster(), Some(before), "the server was shut down");
    cluster.nodes[leader].start();
    std::thread::sleep(secs(1));
    let conclusion = cluster.conclude(observation);
    judge(&conclusion, "leader key taken, no supervisor", fault);
}

/// Who does not wait for the flush may lose by a crash what was acknowledged last. A demotion is none.
#[test]
fn what_was_acknowledged_before_its_flush_survives() {
    let parameters = vec!["wal_writer_delay: 10000".into()];
    let mut cluster = Cluster::running(Plan { parameters, ..Plan::short() });
    let leader = cluster.wait_ready_to_switch();
    cluster.nodes[leader].sql("CREATE TABLE unflushed (n int)").expect("the leader takes DDL");
    let (before, log) = (postmaster(&cluster, leader), cluster.nodes[leader].server_log().len());
    cluster.etcd.kill();
    let session = Session::open(&cluster.nodes[leader].server, secs(3)).expect("the leader takes sessions");
    session.query("SET synchronous_commit = off", secs(3)).expect("a setting");
    let mut acked = 0;
    while session.query(&format!("INSERT INTO unflushed VALUES ({})", acked + 1), secs(3)).is_ok() {
        acked += 1;
        std::thread::sleep(millis(10));
    }
    assert!(acked > 20, "only {acked} commits were acknowledged before the lease was over");
    wait_recovering(&cluster, leader, log);
    assert_eq!(cluster.nodes[leader].postmaster(), Some(before), "the postmaster is another one");
    cluster.etcd.restart();
    let now = cluster.wait_healthy(secs(60));
    let kept = cluster.nodes[now].value("SELECT count(*) FROM unflushed").expect("it can be read");
    let kept: usize = kept.and_then(|count| count.parse().ok()).expect("a number");
    // The last one may have been written and not answered.
    assert!(kept >= acked, "{kept} of {acked} commits are left");
}

/// What a crash cycle has to keep.
#[test]
fn prepared_transactions_and_slots_survive() {
    let parameters = vec!["max_prepared_transactions: 10".into(), "wal_level: logical".into()];
    let cluster = Cluster::running(Plan { parameters, ..Plan::short() });
    let leader = cluster.wait_ready_to_switch();
    let before = postmaster(&cluster, leader);
    for slot in [
        "pg_create_physical_replication_slot('kept_physical', true)",
        "pg_create_logical_replication_slot('kept_logical', 'pgoutput')",
    ] {
        cluster.nodes[leader].sql(&format!("SELECT {slot}")).expect("the leader makes slots");
    }
    let prepare = "BEGIN; INSERT INTO ha_log VALUES (93, 1); PREPARE TRANSACTION 'kept'";
    cluster.nodes[leader].sql(prepare).expect("the leader prepares");
    cluster.wait_caught_up(leader);
    let observation = cluster.observe();
    let (fault, log) = (Instant::now(), cluster.nodes[leader].server_log().len());
    let usurper = Usurper::seize(&cluster);
    wait_recovering(&cluster, leader, log);
    assert_eq!(cluster.nodes[leader].postmaster(), Some(before), "the postmaster is another one");
    usurper.leave(&cluster);
    cluster.wait("a write", secs(30), || observation.writers.first_ack_sent_after(fault + secs(1)));
    std::thread::sleep(secs(1));
    let conclusion = cluster.conclude(observation);
    judge(&conclusion, "leader key taken with a prepared transaction", fault);
    let now = cluster.wait_healthy(secs(30));
    cluster.nodes[now].sql("COMMIT PREPARED 'kept'").expect("the prepared transaction can be committed");
    let row = cluster.nodes[now].value("SELECT count(*) FROM ha_log WHERE writer = 93").expect("it can be read");
    assert_eq!(row.as_deref(), Some("1"));
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'kept%'";
    assert_eq!(cluster.nodes[leader].value(slots).expect("it can be read").as_deref(), Some("2"));
}
