//! SIGKILL of the loop worker: the postmaster goes through a crash cycle, and the supervisor keeps the lease meanwhile.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use rustix::process::Signal;
use std::time::Instant;

#[test]
fn the_leader_stays_leader_through_the_crash_cycle() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    let postmaster = cluster.nodes[leader].postmaster();
    let observation = cluster.observe();
    for round in 1..=2 {
        let worker = cluster.wait("the loop worker", secs(10), || cluster.nodes[leader].worker());
        worker.kill();
        let fault = Instant::now();
        cluster
            .wait("a write after the crash cycle", secs(20), || observation.writers.first_ack_connected_after(fault));
        println!("worker killed, round {round}: written again after {} ms", fault.elapsed().as_millis());
        // Longer than the lease: somebody must be renewing it again.
        std::thread::sleep(secs(u64::from(cluster.plan.ttl) + 1));
    }
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("loop worker killed");
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
    assert_eq!(cluster.nodes[leader].postmaster(), postmaster, "a crash cycle keeps the postmaster");
}

#[test]
fn without_a_supervisor_too_a_short_crash_cycle_costs_no_leadership() {
    let mut cluster = Cluster::running(Plan::short().default_timing());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    let observation = cluster.observe();
    cluster.nodes[leader].kill_supervisor();
    let worker = cluster.wait("the loop worker", secs(10), || cluster.nodes[leader].worker());
    worker.kill();
    let fault = Instant::now();
    cluster.wait("a write after the crash cycle", secs(40), || observation.writers.first_ack_connected_after(fault));
    println!("worker killed without a supervisor: written again after {} ms", fault.elapsed().as_millis());
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("loop worker killed without a supervisor");
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
}

/// Its supervisor has asked the store for something by then: the worker does not have to wait for the answer before it may speak for its server.
#[test]
fn a_standby_that_comes_back_while_the_store_hangs_is_heard_at_once() {
    let cluster = Cluster::running(Plan::short().default_timing());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let standby = &cluster.nodes[(leader + 1) % 3];
    let says_how_far = || {
        let status = standby.get("/patroni").ok()?.json();
        status["xlog"]["received_location"].as_u64()
    };
    for round in 1..=2 {
        cluster.wait("a standby that answers", secs(20), says_how_far);
        let worker = cluster.wait("the loop worker", secs(10), || standby.worker());
        cluster.etcd.freeze_member(0, true);
        worker.kill();
        let next = cluster.wait("the next worker", secs(10), || standby.worker().filter(|new| *new != worker));
        let came = Instant::now();
        cluster.wait("its answer", secs(20), says_how_far);
        let took = came.elapsed();
        cluster.etcd.freeze_member(0, false);
        println!("round {round}: worker {} answers after {} ms", next.pid, took.as_millis());
        assert!(took < secs(3), "nobody speaks for a standby that runs for {took:?}");
    }
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn the_flight_recorder_outlives_the_worker_and_a_crash_cycle() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let node = &cluster.nodes[leader];
    node.sql("CREATE EXTENSION IF NOT EXISTS ha_ext").expect("the extension is installed");
    let events = |condition: &str| {
        let rows = "SELECT string_agg(number || ' ' || at || ' ' || kind || ' ' || code, ', ' ORDER BY number)";
        node.value(&format!("{rows} FROM ha_events WHERE {condition}")).ok().flatten()
    };
    for signal in [Signal::TERM, Signal::KILL] {
        let before = cluster.wait("events", secs(10), || events("true"));
        let last = node.value("SELECT max(number) FROM ha_events").expect("it answers").expect("there are some");
        let worker = cluster.wait("the loop worker", secs(10), || node.worker());
        worker.signal(signal);
        cluster.wait("the next worker", secs(20), || node.worker().filter(|new| *new != worker));
        let taken = format!("number > {last} AND code = 'seat.taken'");
        cluster.wait("events of the next worker", secs(20), || events(&taken));
        assert_eq!(events(&format!("number <= {last}")), Some(before), "after {signal:?}");
    }
}

#[test]
fn a_mistake_in_the_file_does_not_keep_the_leader_from_coming_back() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let node = &cluster.nodes[leader];
    std::fs::write(node.file(), "scope: [").expect("the configuration can be spoiled");
    let observation = cluster.observe();
    cluster.wait("the loop worker", secs(10), || node.worker()).kill();
    let fault = Instant::now();
    cluster.wait("a write after the crash cycle", secs(20), || observation.writers.first_ack_connected_after(fault));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("loop worker killed, configuration spoiled");
    assert_eq!(cluster.leader(), Some(leader));
    assert!(node.is("/primary"), "the leader's REST API is gone");
}
