//! The watchdog of a leader, with a named pipe as the device: what the nodes do to it, and when.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::rest;
use ha_tests::wait::{millis, secs};
use ha_tests::watchdog::{Act, PipeWatchdog};
use serde_json::json;
use std::time::{Duration, Instant};

/// `ttl` 10 less the safety margin of 5.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Three nodes whose leader has to have a watchdog. `without`: a node that has none.
fn watched(without: Option<usize>) -> (Cluster, Vec<Option<PipeWatchdog>>, usize) {
    let plan = Plan { ttl: 10, watchdog: Some("required"), ..Plan::short() };
    let mut cluster = Cluster::prepare(plan);
    let made = |index: usize| (Some(index) != without).then(|| PipeWatchdog::make(&cluster.nodes[index].dir));
    let watchdogs: Vec<Option<PipeWatchdog>> = (0..cluster.nodes.len()).map(made).collect();
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.wait_ready_to_switch();
    cluster.create_table();
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    (cluster, watchdogs, leader)
}

fn acts_of(watchdogs: &[Option<PipeWatchdog>], node: usize) -> &PipeWatchdog {
    watchdogs[node].as_ref().expect("this node has one")
}

fn failed(cluster: &Cluster, node: usize) -> bool {
    cluster.nodes[node].get("/patroni").is_ok_and(|reply| reply.json()["watchdog_failed"] == true)
}

#[test]
fn it_is_armed_by_who_leads_fed_by_confirmations_and_stopped_by_who_led() {
    let (mut cluster, watchdogs, leader) = watched(None);
    let its = acts_of(&watchdogs, leader);
    std::thread::sleep(secs(4));
    assert_eq!(its.acts().first().map(|(_, act)| *act), Some(Act::Armed(5)));
    assert!(its.acts().iter().skip(1).all(|(_, act)| *act == Act::Fed), "{:?}", its.acts());
    assert!(its.longest_hunger() < secs(3), "{:?}", its.longest_hunger());
    for (index, other) in watchdogs.iter().enumerate().filter(|(index, _)| *index != leader) {
        assert!(other.as_ref().is_some_and(|other| other.acts().is_empty()), "{index} does not lead");
        assert!(!failed(&cluster, index));
    }

    let next = cluster.other_than(leader);
    let asked = Instant::now();
    cluster.switch_over(leader, next);
    assert_eq!(cluster.wait_healthy(secs(30)), next);
    cluster.wait("the old leader to stop its own", TIMEOUT, || (its.last() == Some(Act::Stopped)).then_some(()));
    assert!(its.longest_hunger() < TIMEOUT, "{:?}", its.longest_hunger());
    let new = acts_of(&watchdogs, next);
    assert_eq!(new.since(asked).first().map(|(_, act)| *act), Some(Act::Armed(5)));

    // Without the store nothing is confirmed: it is not fed, and the leader gives up before it would be reset.
    let feeds = |from: Instant| new.since(from).into_iter().filter(|(_, act)| *act == Act::Fed).count();
    cluster.etcd.kill();
    // An answer may have been on its way.
    std::thread::sleep(millis(100));
    let lost = Instant::now();
    cluster.wait("the leader to give up", TIMEOUT, || (new.last() == Some(Act::Stopped)).then_some(()));
    assert_eq!(feeds(lost), 0, "{:?}", new.since(lost));
    assert!(new.longest_hunger() < TIMEOUT, "{:?}", new.longest_hunger());
    assert!(!cluster.nodes[next].is("/primary"));
    assert!(cluster.nodes[next].server_log().contains("leader.watchdog_due"), "the reason is told");
    cluster.etcd.restart();
    let again = cluster.wait_healthy(secs(60));
    let its = acts_of(&watchdogs, again);
    assert!(matches!(its.last(), Some(Act::Fed)), "{:?}", its.last());
}

#[test]
fn whoever_dies_leaves_it_running_and_only_an_orderly_stop_ends_it() {
    let (mut cluster, watchdogs, leader) = watched(None);
    let its = acts_of(&watchdogs, leader);
    let stops = || its.acts().into_iter().filter(|(_, act)| *act == Act::Stopped).count();
    let leads = |cluster: &Cluster| cluster.nodes[leader].is("/primary").then_some(());
    let fed_again = |cluster: &Cluster, what: &str| {
        let from = Instant::now();
        cluster.wait(what, TIMEOUT, || its.since(from).iter().any(|(_, act)| *act == Act::Fed).then_some(()));
        assert_eq!(stops(), 0, "{what}: {:?}", its.acts());
        assert!(its.longest_hunger() < TIMEOUT, "{what}: {:?}", its.longest_hunger());
    };

    cluster.nodes[leader].worker().expect("it runs").kill();
    fed_again(&cluster, "it to be fed after the worker was killed");
    cluster.wait("the leader to lead again", secs(15), || leads(&cluster));

    cluster.nodes[leader].kill_supervisor();
    fed_again(&cluster, "it to be fed without the supervisor");
    cluster.nodes[leader].start();
    std::thread::sleep(secs(2));
    fed_again(&cluster, "it to be fed beside a new supervisor");

    // The new supervisor was given it, and goes on.
    cluster.nodes[leader].postmaster().expect("it runs").kill();
    fed_again(&cluster, "it to be fed after the postmaster was killed");
    cluster.wait("the leader to lead again", secs(15), || leads(&cluster));
    let armed = its.acts().iter().filter(|(_, act)| matches!(act, Act::Armed(_))).count();
    assert_eq!(armed, 1, "it was open all the time: {:?}", its.acts());

    cluster.nodes[leader].stop();
    assert_eq!(its.last(), Some(Act::Stopped), "{:?}", its.acts());
    assert_ne!(cluster.wait_other_leader(leader, secs(30)), leader);
}

#[test]
fn one_that_cannot_be_stopped_is_fed_on() {
    let (mut cluster, watchdogs, leader) = watched(None);
    let its = acts_of(&watchdogs, leader);
    PipeWatchdog::make_stay(&cluster.nodes[leader].dir);
    let hungry = |what: &str| {
        std::thread::sleep(TIMEOUT + secs(2));
        assert!(its.longest_hunger() < TIMEOUT, "{what}: {:?}", its.longest_hunger());
        assert!(!its.acts().iter().any(|(_, act)| *act == Act::Stopped), "{what}: {:?}", its.acts());
    };
    let next = cluster.other_than(leader);
    cluster.switch_over(leader, next);
    assert_eq!(cluster.wait_healthy(secs(30)), next);
    hungry("on a standby");
    let logs = cluster.nodes[leader].server_log() + &cluster.nodes[leader].supervisor_log();
    assert!(logs.contains("cannot be stopped (nowayout)"), "the reason is told");

    pause(&cluster, next, true);
    hungry("in maintenance mode");
    pause(&cluster, next, false);

    cluster.nodes[leader].worker().expect("it runs").kill();
    hungry("after the worker was killed");
    cluster.nodes[leader].kill_supervisor();
    hungry("without the supervisor");
    cluster.nodes[leader].start();
    hungry("beside a new supervisor");

    // Both are gone for a moment: whoever comes finds the mark.
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    cluster.wait("it to be fed by who was started anew", TIMEOUT, || {
        its.acts().last().filter(|(at, _)| at.elapsed() < secs(1)).map(|_| ())
    });
    cluster.wait_healthy(secs(60));
    hungry("after all of it was killed");
    let armed = its.acts().iter().filter(|(_, act)| matches!(act, Act::Armed(_))).count();
    assert_eq!(armed, 1, "it was never set again: {:?}", its.acts());
}

fn pause(cluster: &Cluster, node: usize, on: bool) {
    let reply = rest::patch(&cluster.nodes[node].rest, "/config", &json!({"pause": on})).expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[test]
fn maintenance_mode_stops_it() {
    let (cluster, watchdogs, leader) = watched(None);
    let its = acts_of(&watchdogs, leader);
    pause(&cluster, leader, true);
    cluster.wait("it to be stopped", secs(5), || (its.last() == Some(Act::Stopped)).then_some(()));
    std::thread::sleep(TIMEOUT);
    assert_eq!(its.last(), Some(Act::Stopped));
    let resumed = Instant::now();
    pause(&cluster, leader, false);
    cluster.wait("it to be armed again", secs(5), || {
        (its.since(resumed).first().map(|(_, act)| *act) == Some(Act::Armed(5))).then_some(())
    });
    assert_eq!(cluster.wait_healthy(secs(30)), leader);
}

#[test]
fn a_node_without_one_does_not_lead() {
    let (mut cluster, watchdogs, leader) = watched(Some(0));
    assert_ne!(leader, 0, "it has none");
    assert!(failed(&cluster, 0) && !failed(&cluster, leader));
    cluster.nodes[leader].sql("CREATE EXTENSION ha_ext").expect("the leader takes DDL");
    cluster.wait_caught_up(leader);
    let asked = "SELECT reason FROM ha_who_would_win() WHERE member = 'n1'";
    let obstacle = cluster.nodes[leader].value(asked).expect("an answer").unwrap_or_default();
    assert!(obstacle.contains("watchdog"), "{obstacle}");
    let refused = cluster.switchover(leader, 0).expect("an answer");
    assert_ne!(refused.status, 200, "{}", refused.body);

    let third = 3 - leader;
    cluster.nodes[leader].kill();
    assert_eq!(cluster.wait_other_leader(leader, secs(40)), third);
    cluster.nodes[third].kill();
    let alone = Instant::now();
    while alone.elapsed() < secs(25) {
        assert!(!cluster.nodes[0].is("/primary"), "it leads without a watchdog");
        std::thread::sleep(millis(250));
    }
    // Nobody stopped those of the others: their machines would have been reset.
    for node in [leader, third] {
        assert_ne!(acts_of(&watchdogs, node).last(), Some(Act::Stopped));
    }
}
