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
