//! SIGKILL of the supervisor: the server keeps leading, and a new supervisor adopts it.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::time::{Duration, Instant};

#[test]
fn the_server_leads_on_and_is_adopted() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    let postmaster = cluster.nodes[leader].postmaster();
    let observation = cluster.observe();
    cluster.nodes[leader].kill_supervisor();
    let begun = Instant::now();
    while begun.elapsed() < secs(u64::from(cluster.plan.ttl) * 2) {
        assert!(cluster.nodes[leader].is("/primary"), "the server stopped leading\n{}", cluster.diagnosis());
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.nodes[leader].start();
    std::thread::sleep(secs(u64::from(cluster.plan.ttl) * 2));
    assert!(cluster.nodes[leader].supervisor().is_some(), "the new supervisor ended\n{}", cluster.diagnosis());
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("supervisor killed");
    assert!(conclusion.verdict.gap < secs(2), "clients noticed: {:?}", conclusion.verdict.gap);
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
    assert_eq!(cluster.nodes[leader].postmaster(), postmaster, "adoption must not restart the server");

    // The new supervisor really is in charge: a crash is repaired by it.
    postmaster.expect("a leader has a postmaster").kill();
    cluster.wait("the adopted server's restart", secs(20), || {
        cluster.nodes[leader].postmaster().filter(|new| Some(*new) != postmaster)
    });
    cluster.wait_healthy(secs(30));
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn killed_together_with_the_worker_it_is_not_waited_for() {
    let mut cluster = Cluster::running(Plan::short().default_timing());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline();
    let observation = cluster.observe();
    let worker = cluster.wait("the loop worker", secs(10), || cluster.nodes[leader].worker());
    cluster.nodes[leader].kill_supervisor();
    worker.kill();
    let fault = Instant::now();
    // A crash cycle has no other end that could be seen from outside.
    let new = cluster.wait("the next worker", secs(30), || cluster.nodes[leader].worker().filter(|new| *new != worker));
    let seated = Instant::now();
    cluster.wait("a write after the crash cycle", secs(20), || observation.writers.first_ack_connected_after(fault));
    let waited = seated.elapsed();
    println!("both killed: a worker after {:?}, written again {waited:?} later", seated - fault);
    assert!(waited < Duration::from_millis(2500), "a dead supervisor was waited for: {waited:?}");
    // Whoever comes later finds a worker that acts, and leaves it the seat.
    cluster.nodes[leader].start();
    std::thread::sleep(secs(6));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("supervisor and loop worker killed together");
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
    assert_eq!(cluster.nodes[leader].worker(), Some(new), "the new supervisor adopts the worker");
}
