//! A leader that hands over in place: the old leader goes on in the same postmaster without a rewind; a hand-over that does not come
//! about costs no client an error; and whoever dies in the middle of one takes nothing along.

use ha_tests::census::Census;
use ha_tests::cluster::{Cluster, Observation};
use ha_tests::load::{BOOKS_AGREE, Load};
use ha_tests::node::Node;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::sql::Session;
use ha_tests::wait::secs;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 10;
/// How much a leader may have acknowledged that no standby had yet.
const WINDOW: Duration = Duration::from_millis(500);

fn postmasters(cluster: &Cluster) -> Vec<Proc> {
    let postmaster = |node: &Node| node.postmaster().expect("a running server has a postmaster");
    cluster.nodes.iter().map(postmaster).collect()
}

fn timeline(cluster: &Cluster) -> u32 {
    cluster.timeline().expect("a healthy cluster has a timeline")
}

#[test]
fn back_and_forth_under_pgbench() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    Load::tables(&cluster, 5);
    cluster.nodes[leader].sql("CREATE EXTENSION ha_ext").expect("the extension can be created");
    cluster.wait_caught_up(leader);
    let mut load = Load::start(&cluster, 8);
    let (servers, before, first) = (postmasters(&cluster), Census::take(&cluster), timeline(&cluster));
    let observation = cluster.observe();
    for round in 0..ROUNDS {
        let from = cluster.wait_ready_to_switch();
        load.keep_up();
        let to = cluster.other_than(from);
        cluster.switch_over(from, to);
        cluster.wait_healthy(secs(60));
        println!("{round}: {} | {}", told(&cluster, from, "hand_over"), told(&cluster, to, "promotion"));
    }
    let leader = cluster.wait_healthy(secs(60));
    drop(load);
    assert_eq!(timeline(&cluster), first + ROUNDS);
    assert_eq!(postmasters(&cluster), servers, "a server was restarted");
    assert_eq!(Census::take(&cluster), before, "a former leader needed more than a look at its log");
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("switchovers in place under pgbench");
    println!("longest write gap {} ms over {} rows", conclusion.verdict.gap.as_millis(), conclusion.verdict.acked);
    assert_eq!(cluster.nodes[leader].value(BOOKS_AGREE).expect("the leader can be read").as_deref(), Some("t"));
}

/// A statement without an end, which writes this many rows 50 times a second.
fn bulk(cluster: &Cluster, node: usize, rows: u32) -> std::thread::JoinHandle<bool> {
    let statement = format!(
        "DO $$ BEGIN LOOP INSERT INTO bulk SELECT g, repeat('x', 200) FROM generate_series(1, {rows}) g; \
         PERFORM pg_sleep(0.02); END LOOP; END $$"
    );
    let server = cluster.nodes[node].server.clone();
    let builder = std::thread::Builder::new().name("bulk".into());
    let write =
        move || Session::open(&server, secs(5)).and_then(|session| session.query(&statement, secs(120))).is_err();
    builder.spawn(write).expect("a thread can be started")
}

/// Long statements do not commit, so they are not held: they write on until the log ends.
#[test]
fn with_long_statements_the_log_ends_where_the_new_timeline_begins() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.wait_ready_to_switch();
    cluster.nodes[leader].sql("CREATE TABLE bulk (n int, filler text)").expect("a table");
    let (servers, before, first) = (postmasters(&cluster), Census::take(&cluster), timeline(&cluster));
    let observation = cluster.observe();
    let rounds = 3;
    for _ in 0..rounds {
        let from = cluster.wait_ready_to_switch();
        let writers = [bulk(&cluster, from, 300), bulk(&cluster, from, 300)];
        std::thread::sleep(secs(1));
        cluster.switch_over(from, cluster.other_than(from));
        for writer in writers {
            assert!(writer.join().expect("it ends"), "a statement without an end has ended");
        }
    }
    cluster.wait_healthy(secs(60));
    assert_eq!(timeline(&cluster), first + rounds);
    assert_eq!(postmasters(&cluster), servers, "a server was restarted");
    assert_eq!(Census::take(&cluster), before, "a former leader needed more than a look at its log");
    cluster.conclude(observation).verdict.expect_nothing_lost("switchovers beside long statements");
}

/// What a node last measured of a change of role, to be seen in its events.
fn told(cluster: &Cluster, node: usize, code: &str) -> String {
    let newest = format!("SELECT text FROM ha_events WHERE code = '{code}' ORDER BY number DESC LIMIT 1");
    cluster.wait(&format!("an event {code}"), secs(5), || cluster.nodes[node].value(&newest).ok()?)
}

/// Stops what sends WAL, so that the hand-over cannot come further than to a frozen log, and asks for it.
fn half_a_switchover(cluster: &Cluster, from: usize) -> std::thread::JoinHandle<Result<u16, String>> {
    cluster.nodes[from].freeze_senders();
    let (url, to) = (cluster.nodes[from].rest.clone(), cluster.other_than(from));
    let body = serde_json::json!({ "leader": cluster.nodes[from].name, "candidate": cluster.nodes[to].name });
    let builder = std::thread::Builder::new().name("switchover".into());
    let request = builder.spawn(move || ha_tests::rest::post(&url, "/switchover", &body).map(|reply| reply.status));
    assert!(cluster.saw_parked(from, secs(10)), "the leader did not prepare itself\n{}", cluster.diagnosis());
    request.expect("a thread can be started")
}

/// A switchover in which commits are held and the log is frozen, and that is called off: they go on.
fn called_off(cluster: &Cluster, from: usize, observation: &Observation) {
    let request = half_a_switchover(cluster, from);
    cluster.wait_held(observation);
    let acked = observation.writers.acked();
    let status = request.join().expect("the request ends").expect("it is answered");
    assert!(status >= 400, "the candidate cannot have been confirmed: {status}");
    cluster.wait("held commits to go on", secs(5), || (observation.writers.acked() > acked + 20).then_some(()));
    cluster.nodes[from].thaw_senders();
}

#[test]
fn one_that_is_called_off_costs_nobody_an_error() {
    // With little memory for the log, others write what nobody has flushed yet.
    let parameters = vec!["wal_buffers: 64kB".into()];
    let cluster = Cluster::running(Plan { lag_bytes_max: 64 << 20, parameters, ..Plan::short() });
    let from = cluster.wait_ready_to_switch();
    let (servers, before) = (postmasters(&cluster), timeline(&cluster));
    cluster.nodes[from].sql("CREATE TABLE bulk (n int, filler text)").expect("a table");
    let observation = cluster.observe();
    // What was written and not flushed when the log was frozen must be whole again: the standbys read it from there.
    let writer = bulk(&cluster, from, 300);
    for _ in 0..3 {
        called_off(&cluster, from, &observation);
        let data = cluster.nodes[from].data();
        cluster.wait("the preparation to be undone", secs(5), || {
            let left = ["standby.signal", "ha_ext.demoted"].iter().any(|name| data.join(name).exists());
            (!left).then_some(())
        });
        cluster.wait_ready_to_switch();
    }
    assert!(!writer.is_finished(), "the long statement was hurt");
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO $$%'";
    cluster.nodes[from].sql(ended).expect("the long statement can be ended");
    writer.join().expect("it ends");
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("three switchovers that were called off");
    conclusion.expect_no_client_error("three switchovers that were called off");
    assert_eq!((cluster.leader(), timeline(&cluster)), (Some(from), before));
    assert_eq!(postmasters(&cluster), servers, "a server was restarted");
}

/// The log is frozen at the end of a segment; the standbys have to find the way into the next.
#[test]
fn one_that_is_called_off_at_the_end_of_a_segment_goes_on_in_the_next() {
    let cluster = Cluster::running(Plan::short());
    let from = cluster.wait_ready_to_switch();
    let node = &cluster.nodes[from];
    let (servers, before) = (postmasters(&cluster), timeline(&cluster));
    let observation = cluster.observe();
    // What is left of the segment is filled without the candidate, whose sender is stopped.
    let left = "16777216 - (pg_current_wal_insert_lsn() - '0/0')::bigint % 16777216";
    let fill = format!("SELECT pg_logical_emit_message(true, '', repeat('x', greatest({left} - 1000000, 0)::int))");
    node.sql(&fill).expect("the leader takes writes");
    cluster.wait_caught_up(from);
    let segment = |place: &str| {
        let name = node.value(&format!("SELECT pg_walfile_name(pg_current_wal_{place}())")).expect("it answers");
        name.expect("it has a name")
    };
    let last = segment("insert_lsn");
    called_off(&cluster, from, &observation);
    assert!(segment("lsn") > last, "the log was not ended with its segment");
    cluster.wait_caught_up(from);
    cluster.wait_ready_to_switch();
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("a log that goes on in the next segment");
    conclusion.expect_no_client_error("a log that goes on in the next segment");
    assert_eq!((cluster.leader(), timeline(&cluster)), (Some(from), before));
    assert_eq!(postmasters(&cluster), servers, "a server was restarted");
}

#[test]
fn a_worker_or_a_server_that_dies_with_a_frozen_log_takes_nothing_along() {
    let cluster = Cluster::running(Plan::short());
    for victim in ["worker", "postmaster"] {
        let from = cluster.wait_ready_to_switch();
        let observation = cluster.observe();
        let request = half_a_switchover(&cluster, from);
        cluster.wait_held(&observation);
        let (fault, node) = (Instant::now(), &cluster.nodes[from]);
        match victim {
            "worker" => node.worker().expect("a leader has a worker").signal_kill(),
            _ => node.postmaster().expect("a running server has a postmaster").signal_kill(),
        }
        let _ = request.join().expect("the request ends");
        cluster.wait("a write", secs(30), || observation.writers.first_ack_connected_after(fault));
        cluster.wait_answered();
        cluster.wait_healthy(secs(60));
        for name in ["ha_ext.demoted", "promote"] {
            cluster.wait(&format!("{name} to be removed"), secs(10), || {
                (!cluster.nodes.iter().any(|node| node.data().join(name).exists())).then_some(())
            });
        }
        let conclusion = cluster.conclude(observation);
        conclusion.verdict.expect_only_unreplicated_lost(victim, fault, WINDOW);
        println!("{victim}: {} rows, {} lost", conclusion.verdict.acked, conclusion.verdict.lost.len());
    }
}
