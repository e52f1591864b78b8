//! SIGSTOP longer than the lease: of the worker, of an idle backend, of the whole node; with and without a supervisor.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::rest;
use ha_tests::sql::Session;
use ha_tests::wait::secs;
use serde_json::json;
use std::time::{Duration, Instant};

/// How much a frozen leader may have acknowledged that no standby had yet.
const WINDOW: Duration = Duration::from_millis(500);

fn longer_than_the_lease(cluster: &Cluster) -> Duration {
    secs(u64::from(cluster.plan.ttl) + 3)
}

#[test]
fn a_frozen_worker_under_a_supervisor_costs_no_row() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let observation = cluster.observe();
    let worker = cluster.nodes[leader].worker().expect("a leader has a loop worker");
    let fault = Instant::now();
    worker.freeze();
    // The supervisor may kill the worker to save the lease, or let it lapse: writes go on either way.
    std::thread::sleep(longer_than_the_lease(&cluster));
    worker.thaw();
    let since = Instant::now();
    cluster.wait("a write after the freeze", secs(30), || observation.writers.first_ack_sent_after(since));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost("worker frozen", fault, WINDOW);
    println!("worker frozen with a supervisor: write gap {} ms", conclusion.verdict.gap.as_millis());
}

#[test]
fn a_frozen_worker_without_a_supervisor_is_fenced() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let observation = cluster.observe();
    cluster.nodes[leader].kill_supervisor();
    let worker = cluster.nodes[leader].worker().expect("a leader has a loop worker");
    let fault = Instant::now();
    worker.freeze();
    let new = cluster.wait_other_leader(leader, secs(30));
    let first =
        cluster.wait("a write on the new leader", secs(10), || observation.writers.first_ack_above(timeline, fault));
    // Both servers are up now and clients are connected to both: only the fence keeps the old one silent.
    std::thread::sleep(secs(3));
    worker.thaw();
    std::thread::sleep(secs(3));
    cluster.nodes[leader].start();
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost("worker frozen, no supervisor", fault, WINDOW);
    let last_old = conclusion.acks.iter().filter(|ack| ack.timeline == timeline).map(|ack| ack.acked_at).max();
    let last_old = last_old.expect("the old leader acknowledged something");
    assert!(last_old < first.acked_at, "the old leader acknowledged after the new one");
    let lease = secs(u64::from(cluster.plan.ttl));
    assert!(last_old < fault + lease, "acknowledged {:?} after the freeze, the lease is {lease:?}", last_old - fault);
    let refused = conclusion.refusals.iter().filter(|refusal| refusal.error.starts_with("25006")).count();
    println!("fenced refusals seen by clients: {refused}");
    assert_eq!(cluster.leader(), Some(new));
}

#[test]
fn a_backend_frozen_alone_disturbs_nobody() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    let session = Session::open(&cluster.nodes[leader].server, secs(3)).expect("the leader accepts connections");
    let pid = session.value("SELECT pg_backend_pid()", secs(3)).expect("a backend has a pid").expect("not null");
    let backend = Proc::of(pid.parse().expect("a pid is a number")).expect("the backend lives");
    let observation = cluster.observe();
    backend.freeze();
    std::thread::sleep(longer_than_the_lease(&cluster));
    backend.thaw();
    session.query("INSERT INTO ha_log VALUES (99, 1)", secs(5)).expect("the lease is still held, so it may commit");
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("an idle backend frozen");
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
}

fn whole_node(story: &str, supervised: bool) {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let observation = cluster.observe();
    if !supervised {
        cluster.nodes[leader].kill_supervisor();
    }
    let fault = Instant::now();
    cluster.nodes[leader].freeze();
    let new = cluster.wait_other_leader(leader, secs(30));
    let first =
        cluster.wait("a write on the new leader", secs(10), || observation.writers.first_ack_above(timeline, fault));
    println!("{story}: written again after {} ms", first.acked_at.duration_since(fault).as_millis());
    std::thread::sleep(secs(2));
    cluster.nodes[leader].thaw();
    std::thread::sleep(secs(2));
    if !supervised {
        cluster.nodes[leader].start();
    }
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost(story, fault, WINDOW);
    let stale = conclusion.acks.iter().filter(|ack| ack.timeline == timeline && ack.acked_at > first.acked_at).count();
    assert_eq!(stale, 0, "{story}: the thawed leader acknowledged writes");
    assert_eq!(cluster.leader(), Some(new), "{story}");
}

#[test]
fn a_whole_node_frozen_and_thawed_acknowledges_nothing() {
    whole_node("whole node frozen", true);
}

#[test]
fn a_whole_node_without_a_supervisor_frozen_and_thawed_acknowledges_nothing() {
    whole_node("whole node without a supervisor frozen", false);
}

#[test]
fn a_lowered_ttl_counts_for_a_leader_that_freezes_afterwards() {
    let cluster = Cluster::running(Plan { nodes: 2, ttl: 30, loop_wait: 2, retry_timeout: 3, ..Plan::short() });
    let old = cluster.leader().expect("a healthy cluster has a leader");
    let session = Session::open(&cluster.nodes[old].server, secs(3)).expect("a session");
    session.query("INSERT INTO ha_log VALUES (70, 1)", secs(3)).expect("the leader takes writes");
    let lower = json!({ "ttl": 5, "loop_wait": 1 });
    let reply = rest::patch(&cluster.nodes[old].rest, "/config", &lower).expect("the leader answers");
    assert_eq!(reply.status, 200, "{}", reply.body);
    // The key hangs on a lease of the new length by now, and the last long one would have lasted for 20 s more.
    std::thread::sleep(secs(6));
    cluster.nodes[old].supervisor().expect("a supervisor").freeze();
    cluster.nodes[old].worker().expect("a leader has a loop worker").freeze();
    let new = cluster.wait_other_leader(old, secs(20));
    let late = session.query("INSERT INTO ha_log VALUES (70, 2)", secs(3));
    cluster.nodes[new].sql("INSERT INTO ha_log VALUES (71, 1)").expect("the new leader takes writes");
    for process in cluster.nodes[old].processes() {
        process.thaw();
    }
    assert!(late.is_err(), "the old leader acknowledged a commit after its lease");
    cluster.wait_healthy(secs(60));
}
