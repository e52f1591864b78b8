//! Somebody promotes a standby by hand beside a living leader, where data may neither be rewound nor replaced (the defaults): it stays on a
//! timeline of its own, with a higher number than the cluster's. In maintenance mode it stays a primary.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::rest;
use ha_tests::wait::{millis, secs};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A cluster in which somebody has promoted a standby: its leader, and that one.
fn promoted() -> (Cluster, usize, usize) {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    cluster.nodes[leader].sql("CREATE EXTENSION ha_ext").expect("the leader takes DDL");
    cluster.wait_caught_up(leader);
    let astray = cluster.other_than(leader);
    rewinds(&cluster, leader, false);
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    cluster.nodes[astray].sql("SELECT pg_promote(wait => false)").expect("a standby can be promoted");
    let claim = cluster.wait("the store to be told", secs(20), || {
        cluster.etcd.get(&cluster.key(&format!("ha_ext/timeline/{}", timeline + 1)))
    });
    let claim: Value = serde_json::from_str(&claim).expect("JSON");
    assert_eq!((&claim["node"], &claim["by_hand"]), (&json!(cluster.nodes[astray].name), &json!(true)), "{claim}");
    let member = cluster.key(&format!("members/{}", cluster.nodes[astray].name));
    // It may neither be rewound nor replaced: without a leader it would be started as it is.
    cluster.wait("it to be no primary any more", secs(40), || {
        let record: Value = serde_json::from_str(&cluster.etcd.get(&member)?).ok()?;
        let back = record["timeline"] == timeline + 1 || record["state"] == "stopped";
        (record["role"] != "primary" && back).then_some(())
    });
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), Some(timeline)));
    (cluster, leader, astray)
}

fn rewinds(cluster: &Cluster, at: usize, allowed: bool) {
    let wanted = json!({ "postgresql": { "use_pg_rewind": allowed } });
    let reply = rest::patch(&cluster.nodes[at].rest, "/config", &wanted).expect("the node answers");
    assert_eq!(reply.status, 200, "{reply:?}");
}

fn ttl(cluster: &Cluster) -> Duration {
    secs(u64::from(cluster.plan.ttl))
}

/// It does not lead for that long.
fn stays_out(cluster: &Cluster, astray: usize, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert_ne!(cluster.leader(), Some(astray), "what was promoted by hand leads\n{}", cluster.diagnosis());
        assert!(!cluster.nodes[astray].is("/primary"), "what was promoted by hand takes writes");
        std::thread::sleep(millis(100));
    }
}

#[test]
fn it_is_not_elected_and_no_acknowledged_row_is_lost() {
    let (mut cluster, leader, astray) = promoted();
    let third = (0..3).find(|node| ![leader, astray].contains(node)).expect("there are three");
    cluster.nodes[leader].sql("INSERT INTO ha_log SELECT 60, g FROM generate_series(1, 1000) g").expect("writable");
    let has_all = "SELECT count(*) FROM ha_log WHERE writer = 60";
    cluster.wait("the other standby to have what is acknowledged", secs(20), || {
        (cluster.nodes[third].value(has_all).ok()??.as_str() == "1000").then_some(())
    });
    let fault = Instant::now();
    cluster.nodes[leader].kill();
    // It is not waited for either.
    assert_eq!(cluster.wait_leader(ttl(&cluster) + secs(10)), third);
    println!("the other standby leads {} ms after the leader was lost", fault.elapsed().as_millis());
    stays_out(&cluster, astray, secs(3));
    assert_eq!(cluster.nodes[third].value(has_all).expect("it can be read").as_deref(), Some("1000"));
    cluster.nodes[third].sql("INSERT INTO ha_log VALUES (61, 1)").expect("it takes writes");

    // Both come back once they may be rewound.
    rewinds(&cluster, third, true);
    cluster.nodes[leader].start();
    assert_eq!(cluster.wait_healthy(secs(90)), third);
    cluster.wait_equal(third);
    assert_eq!(cluster.nodes[astray].value(has_all).expect("it can be read").as_deref(), Some("1000"));
    // It stands for election as any other again.
    cluster.wait_ready_to_switch();
    cluster.switch_over(third, astray);
    assert_eq!(cluster.wait_healthy(secs(60)), astray);
}

#[test]
fn it_leads_if_it_is_named() {
    let (mut cluster, leader, astray) = promoted();
    let third = (0..3).find(|node| ![leader, astray].contains(node)).expect("there are three");
    cluster.nodes[leader].sql("INSERT INTO ha_log VALUES (62, 1)").expect("writable");
    cluster.nodes[third].kill();
    cluster.nodes[leader].kill();
    cluster.wait("the lease to end", ttl(&cluster) + secs(10), || cluster.leader().is_none().then_some(()));
    stays_out(&cluster, astray, secs(5));
    let body = json!({ "candidate": cluster.nodes[astray].name });
    let reply = rest::post(&cluster.nodes[astray].rest, "/failover", &body).expect("it answers");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(cluster.wait_leader(secs(20)), astray);
    cluster.nodes[astray].sql("INSERT INTO ha_log VALUES (63, 1)").expect("it takes writes");
    rewinds(&cluster, astray, true);
    cluster.nodes[leader].start();
    cluster.nodes[third].start();
    assert_eq!(cluster.wait_healthy(secs(90)), astray);
    cluster.wait_equal(astray);
    let gone = cluster.nodes[leader].value("SELECT count(*) FROM ha_log WHERE writer = 62");
    assert_eq!(gone.expect("it can be read").as_deref(), Some("0"), "what it lacked");
}

#[test]
fn in_maintenance_mode_it_waits_for_a_name_while_another_has_more() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    cluster.nodes[leader].sql("CREATE EXTENSION ha_ext").expect("the leader takes DDL");
    cluster.wait_caught_up(leader);
    let astray = cluster.other_than(leader);
    let third = cluster.other_than(astray);
    pauses(&cluster, leader, true);
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    cluster.nodes[astray].sql("SELECT pg_promote(wait => false)").expect("a standby can be promoted");
    let claim = cluster.key(&format!("ha_ext/timeline/{}", timeline + 1));
    let claim = cluster.wait("the store to be told", secs(20), || cluster.etcd.get(&claim));
    let claim: Value = serde_json::from_str(&claim).expect("JSON");
    assert_eq!((&claim["node"], &claim["by_hand"]), (&json!(cluster.nodes[astray].name), &json!(true)), "{claim}");

    // The leader goes on, until its server is stopped. Its successor by name is not the one that lacks what was acknowledged.
    cluster.nodes[leader].sql("INSERT INTO ha_log SELECT 64, g FROM generate_series(1, 1000) g").expect("writable");
    let has_all = "SELECT count(*) FROM ha_log WHERE writer = 64";
    cluster.wait("the other standby to have what is acknowledged", secs(20), || {
        (cluster.nodes[third].value(has_all).ok()??.as_str() == "1000").then_some(())
    });
    cluster.nodes[leader].postmaster().expect("it runs").signal(Signal::INT);
    cluster.wait("the key to be released", secs(20), || cluster.leader().is_none().then_some(()));
    stays_out(&cluster, astray, secs(5));
    let rule = || Some(cluster.nodes[astray].get("/patroni").ok()?.json()["ha_ext"]["rule"].as_str()?.to_owned());
    assert_eq!(rule().as_deref(), Some("pause.by_hand"));
    let body = json!({ "candidate": cluster.nodes[third].name });
    let reply = rest::post(&cluster.nodes[third].rest, "/failover", &body).expect("it answers");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(cluster.wait_leader(secs(20)), third);
    assert_eq!(cluster.nodes[third].value(has_all).expect("it can be read").as_deref(), Some("1000"));
    rewinds(&cluster, third, true);
    pauses(&cluster, third, false);
    assert_eq!(cluster.wait_healthy(secs(120)), third);
    cluster.wait_equal(third);
}

fn pauses(cluster: &Cluster, at: usize, on: bool) {
    let wanted = json!({ "pause": if on { json!(true) } else { Value::Null } });
    let reply = rest::patch(&cluster.nodes[at].rest, "/config", &wanted).expect("the node answers");
    assert_eq!(reply.status, 200, "{reply:?}");
    cluster.wait("maintenance mode to be seen", secs(10), || {
        let seen = |node: &ha_tests::node::Node| node.value("SELECT paused FROM ha_cluster").ok().flatten();
        let wanted = if on { "t" } else { "f" };
        cluster.nodes.iter().all(|node| seen(node).is_none_or(|seen| seen == wanted)).then_some(())
    });
}
