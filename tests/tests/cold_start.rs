//! Three empty nodes become one cluster.

use ha_tests::cluster::Cluster;
use ha_tests::node::Node;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::collections::BTreeSet;
use std::time::Instant;

#[test]
fn three_empty_nodes_started_at_once_become_one_cluster() {
    let mut cluster = Cluster::prepare(Plan::short());
    let begun = Instant::now();
    for node in &mut cluster.nodes {
        node.start();
    }
    let leader = cluster.wait_leader(secs(60));
    println!("writable after {} ms", begun.elapsed().as_millis());
    assert_eq!(cluster.wait_healthy(secs(60)), leader, "leadership moved without a fault");
    println!("both standbys stream after {} ms", begun.elapsed().as_millis());

    let identifiers: BTreeSet<String> = cluster
        .nodes
        .iter()
        .map(|node| node.value("SELECT system_identifier FROM pg_control_system()").expect("every node answers"))
        .map(|identifier| identifier.expect("an identifier is never null"))
        .collect();
    assert_eq!(identifiers.len(), 1, "several clusters were initialised: {identifiers:?}");
    assert_eq!(cluster.etcd.get(&cluster.key("initialize")), identifiers.first().cloned());
    assert_eq!(cluster.timeline(), Some(1), "a first start needs one timeline");
    // Standbys too keep a slot for each other member, and have nothing to complain about.
    let slots = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";
    for (index, node) in cluster.nodes.iter().enumerate() {
        let others: Vec<&str> =
            cluster.nodes.iter().map(|other| other.name.as_str()).filter(|name| *name != node.name).collect();
        cluster.wait(&format!("the slots of {}", node.name), secs(20), || {
            (node.value(slots).ok()??.as_str() == others.join(",")).then_some(())
        });
        let log = std::fs::read_to_string(node.dir.join(".data.ha_ext/postgres.log")).unwrap_or_default();
        assert!(
            !log.contains("ha_ext: replication slots:"),
            "{} complains, leader is {leader}, this is {index}\n{log}",
            node.name
        );
        let supervisor = std::fs::read_to_string(node.log()).unwrap_or_default();
        assert!(!supervisor.contains("goes without our slot"), "{supervisor}");
    }

    assert_sleeps(&cluster.nodes[leader]);
    let members = cluster.nodes[leader].get("/cluster").expect("the leader answers").json();
    let roles: Vec<&str> =
        members["members"].as_array().into_iter().flatten().filter_map(|member| member["role"].as_str()).collect();
    assert_eq!(roles.iter().filter(|role| **role == "leader").count(), 1, "{members}");
    assert_eq!(roles.iter().filter(|role| **role == "replica").count(), 2, "{members}");
    for (index, node) in cluster.nodes.iter().enumerate() {
        assert_eq!(node.is("/primary"), index == leader, "{}", node.name);
        // A standby shows what its last tick saw.
        cluster.wait(&format!("{} to be ready", node.name), secs(5), || {
            (node.is("/replica") == (index != leader) && node.is("/health") && node.is("/readiness")).then_some(())
        });
    }
}

#[test]
fn a_stopped_cluster_starts_again_with_its_data() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    cluster.nodes[leader].sql("INSERT INTO ha_log VALUES (1, 1)").expect("the leader takes writes");
    cluster.wait_equal(leader);
    for index in [cluster.other_than(leader), cluster.other_than(cluster.other_than(leader)), leader] {
        cluster.nodes[index].stop();
    }
    assert_eq!(cluster.leader(), None, "the last node released its key when it stopped");
    for node in &mut cluster.nodes {
        node.start();
    }
    let leader = cluster.wait_healthy(secs(60));
    let rows = cluster.nodes[leader].value("SELECT count(*) FROM ha_log").expect("the leader can be read");
    assert_eq!(rows.as_deref(), Some("1"));
}

#[test]
fn a_founder_that_died_before_it_founded_anything_joins_what_another_has_founded() {
    let mut cluster = Cluster::prepare(Plan::short());
    let mark = cluster.nodes[0].dir.join(".data.ha_ext/founding");
    cluster.nodes[0].start();
    cluster.wait("initdb to be under way", secs(30), || cluster.nodes[0].data().join("global").exists().then_some(()));
    // It cannot say that the cluster is founded.
    cluster.etcd.freeze_member(0, true);
    cluster.wait("initdb to end", secs(60), || mark.exists().then_some(()));
    cluster.nodes[0].kill();
    cluster.etcd.freeze_member(0, false);
    for node in &mut cluster.nodes[1..] {
        node.start();
    }
    let leader = cluster.wait_leader(secs(60));
    assert_ne!(leader, 0);
    assert!(mark.exists(), "the test came too late");
    cluster.nodes[0].start();
    cluster.wait_healthy(secs(60));
    assert!(
        cluster.nodes.iter().all(|node| !node.dir.join(".data.ha_ext/founding").exists()),
        "a mark was left behind"
    );
}

/// While nothing changes nobody looks at the slots: each look is a transaction.
fn assert_sleeps(node: &Node) {
    let worker = node.child("ha_ext sql").expect("a leader has its workers");
    let before = worker.sleeps();
    std::thread::sleep(secs(10));
    let woken = worker.sleeps() - before;
    assert!((1..=5).contains(&woken), "{woken} times in 10 s");
}
