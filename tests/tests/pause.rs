//! Maintenance mode: what runs goes on, what is stopped stays stopped, and roles change only by name.

use ha_tests::cluster::Cluster;
use ha_tests::daemon::run;
use ha_tests::node::Node;
use ha_tests::patroni::patronictl;
use ha_tests::plan::{Plan, bin_dir};
use ha_tests::rest::{self, Reply};
use ha_tests::wait::{millis, secs};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A paused cluster whose leader may go on without its lease.
fn paused() -> (Cluster, usize) {
    paused_by(Plan::short())
}

fn paused_by(plan: Plan) -> (Cluster, usize) {
    let cluster = Cluster::running(plan);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    cluster.nodes[leader].sql("CREATE EXTENSION ha_ext").expect("the leader takes DDL");
    cluster.wait_caught_up(leader);
    let said = patronictl(&cluster.nodes[leader].file(), &["pause", "--wait"]).expect("patronictl pauses");
    assert!(said.contains("Success: cluster management is paused"), "{said}");
    wait_unbound(&cluster, leader);
    (cluster, leader)
}

fn wait_unbound(cluster: &Cluster, leader: usize) {
    let name = &cluster.nodes[leader].name;
    let unbound = || (unbound(&cluster.nodes[leader])? == format!("{{{name}}}")).then_some(());
    cluster.wait("the leader to go on without its lease", secs(10), unbound);
}

/// Who may acknowledge without a lease, as a node shows it.
fn unbound(node: &Node) -> Option<String> {
    node.value("SELECT unbound FROM ha_cluster").ok()?
}

fn resume(node: &Node, query: &str) -> Reply {
    rest::patch(&node.rest, &format!("/config{query}"), &json!({ "pause": null })).expect("the node answers")
}

fn ttl(cluster: &Cluster) -> Duration {
    secs(u64::from(cluster.plan.ttl))
}

/// Nobody else leads for that long.
fn nobody_else_leads(cluster: &Cluster, leader: usize, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        for (index, node) in cluster.nodes.iter().enumerate().filter(|(index, _)| *index != leader) {
            assert!(!node.is("/primary"), "{} took over in maintenance mode", node.name);
            assert_ne!(cluster.leader(), Some(index), "{} took the key in maintenance mode", node.name);
        }
        std::thread::sleep(millis(200));
    }
}

/// Runs `pg_ctl` as the administrator of a server does.
fn pg_ctl(node: &Node, words: &[&str]) {
    let (program, data) = (bin_dir().join("pg_ctl"), node.data());
    let as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    let (program, data, log) = (program.to_string_lossy(), data.to_string_lossy(), data.join("by_hand.log"));
    let log = log.to_string_lossy();
    let ours = [&*program, "-D", &*data, "-l", &*log, "-w", "-s"];
    run(&[&as_postgres[..], &ours, words].concat()).unwrap_or_else(|error| panic!("pg_ctl {words:?}: {error}"));
}

fn start_by_hand(node: &Node) {
    pg_ctl(node, &["-o", &format!("-c ha_ext.config_file={}", node.file().display()), "start"]);
}

#[test]
fn the_leader_goes_on_without_the_store_and_stops_with_it_again_afterwards() {
    let (mut cluster, leader) = paused();
    let timeline = cluster.timeline();
    let member = |index: usize| cluster.etcd.get(&cluster.key(&format!("members/{}", cluster.nodes[index].name)));
    for index in 0..3 {
        let text = member(index).expect("a member has a key");
        let record: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(record["pause"], true, "{record}");
        assert_eq!(cluster.nodes[index].get("/patroni").expect("it answers").json()["pause"], true);
        let seen = cluster.nodes[index].value("SELECT paused FROM ha_cluster").expect("it can be read");
        assert_eq!(seen.as_deref(), Some("t"));
    }
    assert_eq!(cluster.nodes[leader].get("/cluster").expect("it answers").json()["pause"], true);
    let again = patronictl(&cluster.nodes[leader].file(), &["pause"]).expect_err("it is paused");
    assert!(again.contains("Cluster is already paused"), "{again}");

    // Somebody deletes what the store knows: it is told anew.
    cluster.etcd.ctl(&["del", &cluster.key("ha_ext/unbound")]).expect("a key can be deleted");
    cluster.wait("the store to be told anew", secs(10), || cluster.etcd.get(&cluster.key("ha_ext/unbound")));

    let observation = cluster.observe();
    cluster.etcd.kill();
    nobody_else_leads(&cluster, leader, ttl(&cluster) * 2 + secs(2));
    assert!(cluster.nodes[leader].is("/primary") && cluster.nodes[leader].is("/liveness"));
    cluster.etcd.restart();
    cluster.wait("the leader to have its key", secs(20), || (cluster.leader() == Some(leader)).then_some(()));
    wait_unbound(&cluster, leader);
    let mut conclusion = cluster.conclude(observation);
    // That is what it is for: what was acknowledged without a lease.
    assert!(!std::mem::take(&mut conclusion.verdict.late).is_empty(), "nothing was written without the store");
    conclusion.verdict.expect_nothing_lost("without the store in maintenance mode");
    assert!(conclusion.verdict.gap < secs(2), "clients noticed: {:?}", conclusion.verdict.gap);
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));

    let said = patronictl(&cluster.nodes[leader].file(), &["resume", "--wait"]).expect("patronictl resumes");
    assert!(said.contains("Success: cluster management is resumed"), "{said}");
    cluster.wait("the lease to count again", secs(10), || (unbound(&cluster.nodes[leader])? == "{}").then_some(()));
    let observation = cluster.observe();
    let fault = Instant::now();
    cluster.etcd.kill();
    std::thread::sleep(ttl(&cluster) + secs(2));
    let last = observation.writers.last_ack().expect("the writers wrote");
    assert!(last < fault + ttl(&cluster), "acknowledged {:?} after etcd was lost", last - fault);
    cluster.etcd.restart();
    cluster.wait_healthy(secs(30));
    cluster.conclude(observation).verdict.expect_nothing_lost("without the store after maintenance mode");
}

#[test]
fn a_leader_that_was_cut_off_for_longer_than_its_lease_leads_on() {
    let (cluster, leader) = paused_by(Plan::short().in_network());
    let timeline = cluster.timeline();
    let network = cluster.network.as_ref().expect("this cluster has a network");
    let observation = cluster.observe();
    // The store's machine comes after the nodes.
    network.cut(leader, cluster.nodes.len());
    cluster.wait("the lease to end", secs(15), || cluster.leader().is_none().then_some(()));
    nobody_else_leads(&cluster, leader, secs(3));
    network.heal();
    cluster.wait("the leader to have its key", secs(20), || (cluster.leader() == Some(leader)).then_some(()));
    wait_unbound(&cluster, leader);
    let mut conclusion = cluster.conclude(observation);
    assert!(!std::mem::take(&mut conclusion.verdict.late).is_empty(), "nothing was written without the lease");
    conclusion.verdict.expect_nothing_lost("cut off from the store in maintenance mode");
    println!("longest gap {} ms", conclusion.verdict.gap.as_millis());
    assert!(conclusion.verdict.gap < secs(2), "clients noticed: {:?}", conclusion.verdict.gap);
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
}

#[test]
fn nobody_takes_over_from_a_leader_that_may_go_on_until_it_has_stopped_or_is_overruled() {
    let (mut cluster, leader) = paused();
    let other = cluster.other_than(leader);
    let timeline = cluster.timeline();
    cluster.nodes[leader].freeze();
    cluster.wait("the lease to end", secs(15), || cluster.leader().is_none().then_some(()));
    nobody_else_leads(&cluster, leader, secs(3));
    let name = cluster.nodes[leader].name.clone();
    let refused = resume(&cluster.nodes[other], "");
    assert!(refused.status == 412 && refused.body.contains(&format!("{name} may acknowledge")), "{refused:?}");
    let refused = cluster.nodes[other].sql("SELECT ha_resume()").expect_err("it may come back").to_string();
    assert!(
        refused.contains("maintenance mode cannot end yet") && refused.contains("ha_resume(force => true)"),
        "{refused}"
    );
    // It comes back, and goes on.
    cluster.nodes[leader].thaw();
    cluster.wait("the leader to have its key", secs(20), || (cluster.leader() == Some(leader)).then_some(()));
    wait_unbound(&cluster, leader);
    assert_eq!(cluster.timeline(), timeline);

    // Its machine is lost.
    cluster.nodes[leader].kill();
    cluster.wait("the lease to end", secs(15), || cluster.leader().is_none().then_some(()));
    nobody_else_leads(&cluster, leader, secs(3));
    assert_eq!(resume(&cluster.nodes[other], "").status, 412);
    let said = cluster.nodes[other].value("SELECT ha_resume(force => true)").expect("it is ended by force");
    assert_eq!(said.as_deref(), Some("maintenance mode is off"));
    let new = cluster.wait_other_leader(leader, secs(20));
    cluster.nodes[leader].start();
    assert_eq!(cluster.wait_healthy(secs(60)), new);
    assert_eq!(unbound(&cluster.nodes[new]).as_deref(), Some("{}"));
}

#[test]
fn what_is_stopped_stays_stopped_and_what_is_started_by_hand_is_taken_in() {
    let (mut cluster, leader) = paused();
    let standby = cluster.other_than(leader);
    let timeline = cluster.timeline();
    let observation = cluster.observe();
    // Its supervisor may go: the server goes on, and the key stays.
    cluster.nodes[leader].stop();
    assert!(cluster.nodes[leader].postmaster().is_some(), "the server was stopped with its supervisor");
    std::thread::sleep(ttl(&cluster) + secs(1));
    assert_eq!(cluster.leader(), Some(leader));
    cluster.nodes[leader].start();
    cluster.wait("the supervisor to be back", secs(20), || {
        let seat = cluster.nodes[leader].value("SELECT seat FROM ha_cluster").ok()??;
        (seat == "supervised").then_some(())
    });

    pg_ctl(&cluster.nodes[standby], &["-m", "fast", "stop"]);
    std::thread::sleep(secs(4));
    assert!(cluster.nodes[standby].postmaster().is_none(), "a server that was stopped by hand was started");
    start_by_hand(&cluster.nodes[standby]);
    cluster.wait_healthy(secs(30));

    // The leader too, and nobody takes over meanwhile.
    pg_ctl(&cluster.nodes[leader], &["-m", "fast", "stop"]);
    nobody_else_leads(&cluster, leader, ttl(&cluster) + secs(2));
    assert_eq!(cluster.leader(), None);
    start_by_hand(&cluster.nodes[leader]);
    cluster.wait("the leader to have its key", secs(20), || (cluster.leader() == Some(leader)).then_some(()));
    assert_eq!(resume(&cluster.nodes[leader], "").status, 200);
    cluster.wait_healthy(secs(30));
    assert_eq!(cluster.timeline(), timeline);
    cluster.conclude(observation).verdict.expect_nothing_lost("servers stopped and started by hand");
}

#[test]
fn in_maintenance_mode_only_who_is_named_is_promoted() {
    let (cluster, leader) = paused();
    let (to, third) = (cluster.other_than(leader), cluster.other_than(cluster.other_than(leader)));
    let observation = cluster.observe();
    let body = json!({ "leader": cluster.nodes[leader].name });
    let refused = rest::post(&cluster.nodes[leader].rest, "/switchover", &body).expect("it answers");
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.body.contains("only to a specific candidate"), "{refused:?}");
    cluster.switch_over(leader, to);
    wait_unbound(&cluster, to);
    cluster.wait_ready_to_switch();
    cluster.conclude(observation).verdict.expect_nothing_lost("a switchover in maintenance mode");

    // The server of the leader ends; one is named.
    pg_ctl(&cluster.nodes[to], &["-m", "fast", "stop"]);
    nobody_else_leads(&cluster, to, secs(3));
    let body = json!({ "candidate": cluster.nodes[third].name });
    let reply = rest::post(&cluster.nodes[third].rest, "/failover", &body).expect("it answers");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(cluster.wait_leader(secs(20)), third);

    // Another is promoted by hand after the server of that one has ended.
    let at = cluster.timeline().expect("it leads");
    cluster.wait("the third to follow", secs(30), || cluster.nodes[leader].streams_on(&at.to_string()).then_some(()));
    pg_ctl(&cluster.nodes[third], &["-m", "fast", "stop"]);
    nobody_else_leads(&cluster, third, secs(3));
    pg_ctl(&cluster.nodes[leader], &["promote"]);
    assert_eq!(cluster.wait_leader(secs(20)), leader);
    cluster.nodes[leader].sql("INSERT INTO ha_log VALUES (98, 1)").expect("it takes writes");
    // The former leaders are started and mended when it is over.
    assert_eq!(resume(&cluster.nodes[leader], "").status, 200);
    assert_eq!(cluster.wait_healthy(secs(90)), leader);
    assert_eq!(cluster.timeline(), Some(at + 1));
}
