//! `ha_bootstrap status`: what it says of a leader, a standby, a stopped node, damaged data, and without the store.

use ha_tests::cluster::Cluster;
use ha_tests::daemon::run;
use ha_tests::node::{Node, bootstrap_program};
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn ask(file: &Path, options: &[&str]) -> Result<String, String> {
    let (program, file) = (bootstrap_program(), file.to_string_lossy().into_owned());
    let as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    run(&[&as_postgres[..], &[&program, "status", &file], options].concat())
}

fn json(node: &Node) -> Value {
    let text = ask(&node.file(), &["--json"]).unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text(node: &Node) -> String {
    ask(&node.file(), &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// One line of the text: a name, blanks, a value.
fn says(text: &str, name: &str, value: &str) -> bool {
    text.lines().any(|line| line.trim_start().strip_prefix(name).is_some_and(|rest| rest.trim() == value))
}

#[test]
fn it_tells_how_the_node_stands() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let standby = cluster.other_than(leader);
    running(&cluster, leader, true);
    running(&cluster, standby, false);
    stopped(&mut cluster, standby);
    without_the_store(&mut cluster, leader);
    mistakes(&cluster);
}

fn running(cluster: &Cluster, index: usize, leads: bool) {
    let node = &cluster.nodes[index];
    let leader = &cluster.nodes[cluster.leader().expect("a leader")].name;
    let status = json(node);
    assert_eq!(status["name"], node.name.as_str());
    assert_eq!(status["scope"], "batman");
    assert_eq!(status["data_dir"], node.data().to_string_lossy().as_ref());
    assert_eq!(status["supervisor_runs"], true);
    let postmaster = node.postmaster().expect("it runs").pid;
    assert_eq!((&status["server"]["pid"], &status["server"]["status"]), (&postmaster.into(), &"ready".into()));
    let data = &status["data"];
    assert_eq!(data["state"], "present");
    let system = node.value("SELECT system_identifier::text FROM pg_control_system()").expect("it answers");
    assert_eq!(data["system_identifier"].as_str(), system.as_deref());
    assert_eq!((data["timeline"].as_u64(), &data["can_be_rewound"]), (Some(1), &true.into()));
    let lease = cluster.etcd.held(&cluster.key("leader")).expect("etcd answers").expect("somebody leads").lease;
    let lease: u64 = lease.parse().expect("a lease is a number");
    let marked = status["marker"]["lease"].to_string();
    assert_eq!(marked.contains(&lease.to_string()) || marked.contains(&format!("{lease:x}")), leads, "{status:#}");
    let (role, decision) = if leads { ("primary", "leader.leading") } else { ("replica", "standby.following") };
    assert_eq!(status["rest"]["role"], role, "{status:#}");
    assert_eq!(status["rest"]["ha_ext"]["rule"], decision, "{status:#}");
    assert_eq!(status["store"]["leader"], leader.as_str());
    let members = status["store"]["members"].as_array().expect("a list");
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| member["state"] == "running" && member["timeline"] == 1), "{members:?}");

    let text = text(node);
    assert!(says(&text, "name", &node.name) && says(&text, "supervisor runs", "true"), "{text}");
    assert!(says(&text, "pid", &postmaster.to_string()) && says(&text, "status", "ready"), "{text}");
    assert!(says(&text, "role", role) && says(&text, "leader", leader), "{text}");
    assert!(says(&text, &format!("member {leader}:"), "primary, running, timeline 1"), "{text}");
    assert!(text.contains(decision), "{text}");
    assert!(!text.contains("secret-"), "a password is shown");
}

fn stopped(cluster: &mut Cluster, index: usize) {
    let leader = cluster.nodes[cluster.leader().expect("a leader")].name.clone();
    cluster.nodes[index].stop();
    let node = &cluster.nodes[index];
    let status = json(node);
    assert_eq!((&status["supervisor_runs"], &status["server"]), (&false.into(), &Value::Null));
    assert_eq!(status["data"]["state"], "present");
    assert!(status["data"]["cluster_state"].to_string().to_lowercase().contains("shut"), "{status:#}");
    assert!(status["rest"]["error"].is_string(), "{status:#}");
    assert_eq!(status["store"]["leader"], leader.as_str());
    let said = text(node);
    assert!(says(&said, "supervisor runs", "false") && says(&said, "server", "none"), "{said}");

    let (data, aside) = (node.data(), node.dir.join("aside"));
    let control = data.join("global/pg_control");
    let whole = fs::read(&control).expect("there is a control file");
    fs::write(&control, &whole[..100]).expect("it can be cut short");
    let status = json(node);
    assert_eq!(status["data"]["state"], "damaged", "{status:#}");
    assert!(status["data"]["reason"].to_string().contains("pg_control"), "{status:#}");
    fs::write(&control, whole).expect("it can be mended");
    fs::rename(&data, &aside).expect("the data can be moved");
    assert_eq!(json(node)["data"]["state"], "empty");
    fs::rename(&aside, &data).expect("and back");
    cluster.nodes[index].start();
    cluster.wait_healthy(secs(60));
}

fn without_the_store(cluster: &mut Cluster, index: usize) {
    cluster.etcd.kill();
    let node = &cluster.nodes[index];
    let status = json(node);
    assert!(status["store"]["error"].to_string().contains("not reached"), "{status:#}");
    // The node itself still says how it stands.
    assert_eq!(status["server"]["status"], "ready");
    assert!(status["rest"]["ha_ext"]["rule"].is_string(), "{status:#}");
    let said = text(node);
    assert!(said.contains("not reached within 5 s"), "{said}");
    cluster.etcd.restart();
    cluster.wait_healthy(secs(60));
}

fn mistakes(cluster: &Cluster) {
    let missing = cluster.scratch.path().join("missing.yml");
    let error = ask(&missing, &["--json"]).expect_err("there is no such file");
    assert!(error.contains("exit status: 1") && error.contains("missing.yml"), "{error}");
    let wrong = cluster.scratch.path().join("wrong.yml");
    fs::write(&wrong, "scope: batman\nname: n1\nttl: soon\n").expect("a file can be written");
    let error = ask(&wrong, &[]).expect_err("the file is wrong");
    assert!(error.contains("exit status: 1") && error.contains("ttl"), "{error}");
}
