//! A change of the configuration reaches servers that run; a mistake in it breaks neither them nor their next start.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::rest;
use ha_tests::wait::{poll, secs};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Instant;

#[test]
fn reach_running_servers() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.wait_healthy(secs(30));
    let initdb = shown(&cluster, leader, "work_mem");

    patch(&cluster, leader, &json!({ "work_mem": "6MB" }));
    everywhere(&cluster, "work_mem", "6MB");
    patch(&cluster, leader, &json!({ "work_mem": null }));
    everywhere(&cluster, "work_mem", &initdb);

    mistakes_are_left_out(&cluster, leader);
    needs_a_restart(&cluster, leader);
    access(&cluster, leader);
    local_file(&cluster, leader);
    next_start(&mut cluster);
}

fn patch(cluster: &Cluster, leader: usize, parameters: &Value) {
    let body = json!({ "postgresql": { "parameters": parameters } });
    let reply = rest::patch(&cluster.nodes[leader].rest, "/config", &body).expect("the leader answers");
    assert_eq!(reply.status, 200, "{}", reply.body);
}

fn shown(cluster: &Cluster, node: usize, parameter: &str) -> String {
    let value = cluster.nodes[node].value(&format!("SHOW {parameter}"));
    value.unwrap_or_else(|error| panic!("{error}")).expect("SHOW has a row")
}

fn everywhere(cluster: &Cluster, parameter: &str, expected: &str) {
    let begun = Instant::now();
    cluster.wait(&format!("{parameter} = {expected} on every node"), secs(10), || {
        let same = |node: usize| shown(cluster, node, parameter) == expected;
        (0..cluster.nodes.len()).all(same).then_some(())
    });
    println!("{parameter} = {expected} everywhere after {} ms", begun.elapsed().as_millis());
}

/// A bad value, an unknown name, and beside them a good one, which alone counts.
fn mistakes_are_left_out(cluster: &Cluster, leader: usize) {
    let before = shown(cluster, leader, "work_mem");
    patch(cluster, leader, &json!({ "work_mem": "much", "wrk_mem": "6MB", "maintenance_work_mem": "33MB" }));
    everywhere(cluster, "maintenance_work_mem", "33MB");
    everywhere(cluster, "work_mem", &before);
    for node in &cluster.nodes {
        let errors = node.value("SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL");
        assert_eq!(errors.expect("the server answers").as_deref(), Some("0"), "{}", node.name);
        let log = std::fs::read_to_string(node.log()).unwrap_or_default();
        let own = node.dir.join(".data.ha_ext/postgres.log");
        let log = log + &std::fs::read_to_string(own).unwrap_or_default();
        assert!(log.contains("the server refuses \"much\""), "{} does not say what is wrong", node.name);
    }
    // Neither is in the way of a later change.
    patch(cluster, leader, &json!({ "maintenance_work_mem": "34MB" }));
    everywhere(cluster, "maintenance_work_mem", "34MB");
}

/// The server says itself that it waits for a restart; nothing else is held up.
fn needs_a_restart(cluster: &Cluster, leader: usize) {
    patch(cluster, leader, &json!({ "max_files_per_process": 900, "work_mem": "7MB" }));
    everywhere(cluster, "work_mem", "7MB");
    let pending = "SELECT string_agg(name, ',') FROM pg_settings WHERE pending_restart";
    for node in &cluster.nodes {
        let found = node.value(pending).expect("the server answers");
        assert_eq!(found.as_deref(), Some("max_files_per_process"), "{}", node.name);
    }
    // The server does not count what stands on its command line.
    patch(cluster, leader, &json!({ "max_connections": 101 }));
    let reason = json!({
        "max_connections": { "old_value": "100", "new_value": "101" },
        "max_files_per_process": { "old_value": "1000", "new_value": "900" },
    });
    cluster.nodes[leader].sql("CREATE EXTENSION IF NOT EXISTS ha_ext").expect("the extension is installed");
    for node in &cluster.nodes {
        cluster.wait("the pending restart to be shown everywhere", secs(15), || {
            let own = node.get("/patroni").ok()?.json();
            let key: Value =
                serde_json::from_str(&cluster.etcd.get(&cluster.key(&format!("members/{}", node.name)))?).ok()?;
            let members = cluster.nodes[leader].get("/cluster").ok()?.json();
            let member =
                members["members"].as_array()?.iter().find(|member| member["name"] == node.name.as_str())?.clone();
            let shown = |value: &Value| value["pending_restart"] == true && value["pending_restart_reason"] == reason;
            let row = format!(
                "SELECT pending_restart_reason FROM ha_members WHERE member = '{}' AND pending_restart",
                node.name
            );
            let row: Value = serde_json::from_str(&cluster.nodes[leader].value(&row).ok()??).ok()?;
            ([own, key, member].iter().all(shown) && row == reason).then_some(())
        });
    }
    patch(cluster, leader, &json!({ "max_connections": null }));
    cluster.wait("what was taken back to be shown no more", secs(15), || {
        let own = cluster.nodes[leader].get("/patroni").ok()?.json();
        (own["pending_restart_reason"].as_object()?.len() == 1).then_some(())
    });
}

/// The nodes' own files have a `pg_hba`, so the store's is tried with `pg_ident`.
fn access(cluster: &Cluster, leader: usize) {
    let body = json!({ "postgresql": { "pg_ident": ["m a b"] } });
    let reply = rest::patch(&cluster.nodes[leader].rest, "/config", &body).expect("the leader answers");
    assert_eq!(reply.status, 200, "{}", reply.body);
    cluster.wait("the user map on every node", secs(10), || {
        let line = "SELECT count(*) FROM pg_ident_file_mappings WHERE map_name = 'm' AND error IS NULL";
        cluster.nodes.iter().all(|node| node.value(line).is_ok_and(|n| n.as_deref() == Some("1"))).then_some(())
    });
}

/// One node's own file overrides the store, at SIGHUP.
fn local_file(cluster: &Cluster, node: usize) {
    let node = &cluster.nodes[node];
    let text = std::fs::read_to_string(node.file()).expect("the node's file can be read");
    let edited = text
        .replace("\n  parameters:\n", "\n  parameters:\n    work_mem: 9MB\n")
        .replace("\n  pg_hba:\n", "\n  pg_hba:\n    - host all nobody 192.0.2.1/32 reject\n");
    assert_eq!(edited.lines().count(), text.lines().count() + 2, "{text}");
    std::fs::write(node.file(), edited).expect("the node's file can be written");
    node.supervisor().expect("the supervisor runs").signal(Signal::HUP);
    let ours =
        "SELECT current_setting('work_mem') || ' ' || count(*) FROM pg_hba_file_rules WHERE address = '192.0.2.1'";
    let found = poll(secs(10), || (node.value(ours).ok()?.as_deref() == Some("9MB 1")).then_some(()));
    assert!(found.is_some(), "the node's file did not reach its server\n{}", node.diagnosis());
}

/// The mistakes are still in the store.
fn next_start(cluster: &mut Cluster) {
    let leader = cluster.wait_healthy(secs(30));
    let node = cluster.other_than(leader);
    cluster.nodes[node].stop();
    // Nobody has tried these on this node: the first is out of the server's bounds, the second lacks a certificate.
    patch(cluster, leader, &json!({ "max_connections": 10_000_000, "ssl": "on", "rwk_mem": "1MB", "work_mem": "8MB" }));
    cluster.nodes[node].start();
    cluster.wait_healthy(secs(60));
    assert_eq!(shown(cluster, node, "max_files_per_process"), "900");
    let own = cluster.nodes[node].get("/patroni").expect("it answers").json();
    assert_eq!(own.get("pending_restart"), None, "{own}");
    assert_eq!(shown(cluster, node, "work_mem"), "8MB");
    assert_eq!((shown(cluster, node, "max_connections"), shown(cluster, node, "ssl")), ("100".into(), "off".into()));
    let log = std::fs::read_to_string(cluster.nodes[node].log()).unwrap_or_default();
    for name in ["max_connections", "ssl", "rwk_mem"] {
        let said = format!("postgresql.parameters.{name}: the server refuses");
        assert!(log.contains(&said), "the supervisor does not name {name}\n{log}");
    }
    cluster.wait("the restarted node to be known as a candidate", secs(10), || {
        let known = cluster.nodes[leader].get("/cluster").ok()?.json();
        let streaming = known["members"].as_array()?.iter().filter(|member| member["state"] == "streaming").count();
        (streaming == 2 && cluster.nodes[node].is("/replica")).then_some(())
    });
    // The old leader is restarted as a standby.
    cluster.switch_over(leader, node);
    cluster.wait_healthy(secs(60));
}
