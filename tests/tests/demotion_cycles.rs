//! Demotion and promotion again and again under load, by each of the two ways; what was needed is counted.

use ha_tests::census::Census;
use ha_tests::chance::{Chance, times};
use ha_tests::cluster::Cluster;
use ha_tests::load::{BOOKS_AGREE, Load};
use ha_tests::plan::Plan;
use ha_tests::usurper::Usurper;
use ha_tests::wait::{millis, secs};
use std::time::{Duration, Instant};

/// How much a leader may have acknowledged that no standby had yet.
const WINDOW: Duration = Duration::from_millis(500);

fn cycles(method: &str) {
    let wanted = times("HA_TESTS_CYCLES", 2);
    let mut chance = Chance::seeded();
    let parameters = vec!["max_prepared_transactions: 10".into(), "wal_level: logical".into()];
    let postgresql = vec![format!("demote_method: {method}")];
    let cluster = Cluster::running(Plan { parameters, postgresql, ..Plan::short() });
    Load::tables(&cluster, 2);
    let mut load = Load::start(&cluster, 8);
    let begun = Instant::now();
    let (before, mut lost, mut same, mut slowest) = (Census::take(&cluster), 0, 0, Duration::ZERO);
    for cycle in 0..wanted {
        let leader = cluster.wait_healthy(secs(60));
        load.keep_up();
        let postmaster = cluster.nodes[leader].postmaster();
        let observation = cluster.observe();
        std::thread::sleep(chance.delay(millis(1000)));
        // Before the first checkpoint of its timeline a leader is stopped and started; that one takes its time.
        if cycle % 5 != 4 {
            cluster.nodes[leader].sql("CHECKPOINT").expect("the leader writes a checkpoint");
            std::thread::sleep(millis(200));
        }
        let fault = Instant::now();
        let usurper = Usurper::seize(&cluster);
        // A key that is free again at once is taken back by a leader that has not yet gone.
        let gone = || (!cluster.nodes[leader].is("/primary")).then_some(());
        cluster.wait("the old leader to stop", secs(5), gone);
        std::thread::sleep(chance.delay(millis(800)));
        usurper.leave(&cluster);
        let healed = Instant::now();
        cluster.wait("a write", secs(60), || observation.writers.first_ack_connected_after(healed));
        std::thread::sleep(secs(1));
        let conclusion = cluster.conclude(observation);
        let story = format!("{method}, cycle {cycle}");
        conclusion.verdict.expect_only_unreplicated_lost(&story, fault, WINDOW);
        println!("{story}: healthy {} ms after the key was free", healed.elapsed().as_millis());
        lost += conclusion.verdict.lost.len();
        slowest = slowest.max(conclusion.verdict.gap);
        same += usize::from(cluster.nodes[leader].postmaster() == postmaster);
    }
    let leader = cluster.wait_healthy(secs(60));
    drop(load);
    let needed = Census::take(&cluster) - before;
    println!(
        "{wanted} cycles, demote_method {method}, {} s: {same} in the same postmaster, {needed}, {lost} rows of the \
         asynchronous window gone, longest write gap {} ms",
        begun.elapsed().as_secs(),
        slowest.as_millis()
    );
    assert_eq!(cluster.nodes[leader].value(BOOKS_AGREE).expect("the leader can be read").as_deref(), Some("t"));
    if method == "restart" {
        assert_eq!(same, 0, "a server that was to be restarted was not");
    } else {
        assert!(same * 2 >= wanted, "only {same} of {wanted} demotions were in place");
    }
}

#[test]
fn in_place() {
    cycles("auto");
}

#[test]
fn by_restart() {
    cycles("restart");
}
