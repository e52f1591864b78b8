//! A cluster in which one member is Patroni's: it is switched over to and back.

use ha_tests::cluster::Cluster;
use ha_tests::load::Load;
use ha_tests::plan::{Plan, System};
use ha_tests::wait::secs;
use std::time::Instant;

#[test]
fn a_candidate_that_is_patronis_takes_over_and_gives_back() {
    let mut cluster = Cluster::prepare(Plan::short().tight_timing());
    cluster.nodes[2].hand_to(System::Patroni);
    // Ours founds it, so that the server's files are ours.
    cluster.nodes[0].start();
    let _ = cluster.wait_leader(secs(60));
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.wait_healthy(secs(90));
    cluster.create_table();
    Load::tables(&cluster, 2);
    for (from, to) in [(0, 2), (2, 1), (1, 0)] {
        let leader = cluster.wait_healthy(secs(90));
        assert_eq!(leader, from, "the leader has changed by itself");
        cluster.wait_caught_up(from);
        // Patroni decides by what it sees once in loop_wait.
        std::thread::sleep(secs(2));
        let load = Load::start(&cluster, 4);
        let observation = cluster.observe();
        let postmaster = cluster.nodes[from].postmaster();
        let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
        let begun = Instant::now();
        println!("{}", cluster.switch_over(from, to));
        cluster.wait("a write on it", secs(30), || observation.writers.first_ack_above(timeline, begun));
        std::thread::sleep(secs(1));
        drop(load);
        let conclusion = cluster.conclude(observation);
        let story = format!("{} to {}", cluster.nodes[from].name, cluster.nodes[to].name);
        // Patroni gives its key back while clients may still write to it; it is not what is judged here.
        if from == 2 {
            assert!(conclusion.verdict.lost.is_empty(), "{story}: rows are gone");
        } else {
            conclusion.verdict.expect_nothing_lost(&story);
        }
        let same = cluster.nodes[from].postmaster() == postmaster;
        println!("{story}: write gap {} ms, same postmaster: {same}", conclusion.verdict.gap.as_millis());
        assert_eq!((cluster.leader(), cluster.timeline()), (Some(to), Some(timeline + 1)), "{story}");
    }
}
