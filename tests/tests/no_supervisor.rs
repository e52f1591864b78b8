//! Nodes whose servers are started by somebody else: `ha_bootstrap prepare`, then postgres.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::time::{Duration, Instant};

#[test]
fn a_cluster_without_supervisors_leads_and_fails_over() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    for index in [cluster.other_than(leader), cluster.other_than(cluster.other_than(leader)), leader] {
        cluster.nodes[index].stop();
    }
    // It alone has its shutdown checkpoint: were another faster, it would have to be rewound, which needs a supervisor.
    cluster.nodes[leader].start_without_supervisor();
    cluster.wait("the former leader to lead again", secs(30), || cluster.nodes[leader].is("/primary").then_some(()));
    for index in [cluster.other_than(leader), cluster.other_than(cluster.other_than(leader))] {
        cluster.nodes[index].start_without_supervisor();
    }
    let leader = cluster.wait_healthy(secs(60));
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let observation = cluster.observe();
    let restart = ha_tests::rest::post(&cluster.nodes[leader].rest, "/restart", &serde_json::json!({}));
    assert!(restart.is_ok_and(|reply| reply.status >= 400), "a restart needs a supervisor and must say so");
    let fault = Instant::now();
    cluster.nodes[leader].kill();
    let new = cluster.wait_other_leader(leader, secs(30));
    cluster.wait("a write on the new leader", secs(10), || observation.writers.first_ack_above(timeline, fault));
    // What needs a stopped server is done by `prepare` before the next start.
    cluster.nodes[leader].start_without_supervisor();
    cluster.wait_healthy(secs(60));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost(
        "node without a supervisor killed",
        fault,
        Duration::from_millis(500),
    );
    assert_eq!(cluster.leader(), Some(new));
}
