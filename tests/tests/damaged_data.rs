//! Data directories that must not be started as if nothing had happened.

use ha_tests::cluster::Cluster;
use ha_tests::daemon::run;
use ha_tests::plan::{Plan, bin_dir};
use ha_tests::process::account;
use ha_tests::wait::{poll, secs};
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

/// Stops one standby.
fn without_a_standby(plan: Plan) -> (Cluster, usize) {
    let mut cluster = Cluster::running(plan);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let standby = cluster.other_than(leader);
    cluster.nodes[standby].stop();
    (cluster, standby)
}

fn give_to_postgres(path: &Path) {
    let (uid, gid) = account("postgres");
    chown(path, Some(uid), Some(gid)).expect("root may give files away");
}

/// The node stays out: it never runs a server on these data, and the others do not care.
fn stays_out(cluster: &mut Cluster, standby: usize, story: &str) {
    let leader = cluster.leader();
    let observation = cluster.observe();
    cluster.nodes[standby].start();
    let streamed = poll(secs(15), || cluster.nodes[standby].postmaster());
    assert!(streamed.is_none(), "{story}: a server was started\n{}", cluster.diagnosis());
    let acked = observation.writers.acked();
    cluster.wait("the others to write on", secs(5), || (observation.writers.acked() > acked).then_some(()));
    assert_eq!(cluster.leader(), leader, "{story}: leadership moved");
    drop(observation);
}

#[test]
fn a_missing_control_file_keeps_the_node_out_and_the_directory_untouched() {
    let (mut cluster, standby) = without_a_standby(Plan::short());
    let data = cluster.nodes[standby].data();
    fs::remove_file(data.join("global/pg_control")).expect("the control file was there");
    stays_out(&mut cluster, standby, "no control file");
    assert!(data.join("PG_VERSION").exists() && data.join("base").exists(), "somebody's data were removed");
}

#[test]
fn an_interrupted_rewind_keeps_the_node_out() {
    let (mut cluster, standby) = without_a_standby(Plan::short());
    let mark = cluster.nodes[standby].data().join("ha_ext.rewinding");
    fs::write(&mark, "").expect("the mark can be made");
    give_to_postgres(&mark);
    stays_out(&mut cluster, standby, "interrupted rewind");
    assert!(mark.exists(), "the mark went away without a repair");
}

#[test]
fn a_directory_that_is_not_whole_cannot_be_started_by_hand() {
    let (cluster, standby) = without_a_standby(Plan::short());
    let node = &cluster.nodes[standby];
    let mark = node.dir.join(".data.ha_ext/unfinished");
    fs::write(&mark, "rewinding onto n9").expect("the mark can be made");
    give_to_postgres(&mark);
    let (postgres, data) = (bin_dir().join("postgres"), node.data());
    let (postgres, data) = (postgres.to_string_lossy().into_owned(), data.to_string_lossy().into_owned());
    let as_postgres = ["timeout", "20", "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    let said = run(&[&as_postgres[..], &[&postgres, "-D", &data]].concat()).expect_err("it must not start");
    assert!(said.contains("not whole"), "{said}");
}

#[test]
fn with_permission_a_damaged_directory_is_copied_anew() {
    let plan = Plan {
        postgresql: vec![
            "remove_data_directory_on_rewind_failure: true".into(),
            "remove_data_directory_on_diverged_timelines: true".into(),
        ],
        ..Plan::short()
    };
    let (mut cluster, standby) = without_a_standby(plan);
    let mark = cluster.nodes[standby].data().join("ha_ext.rewinding");
    fs::write(&mark, "").expect("the mark can be made");
    give_to_postgres(&mark);
    cluster.nodes[standby].start();
    cluster.wait_healthy(secs(60));
    assert!(!mark.exists(), "a fresh copy carries no mark");
}

#[test]
fn data_of_another_cluster_are_refused_and_kept() {
    let (mut cluster, standby) = without_a_standby(Plan::short());
    let data = cluster.nodes[standby].data();
    fs::remove_dir_all(&data).expect("the old data can go");
    let initdb = bin_dir().join("initdb").to_string_lossy().into_owned();
    let directory = data.to_string_lossy().into_owned();
    let as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    let made = run(&[&as_postgres[..], &[&initdb, "-D", &directory, "-U", "postgres", "-N"]].concat());
    made.unwrap_or_else(|error| panic!("{error}"));
    let before = fs::read(data.join("global/pg_control")).expect("initdb made a control file");
    cluster.nodes[standby].start();
    let ended = poll(secs(15), || cluster.nodes[standby].supervisor_ended());
    let log = ha_tests::scratch::tail(cluster.nodes[standby].log(), 30);
    let ended = ended.unwrap_or_else(|| panic!("it goes on: {log}"));
    assert!(!ended.contains("exit status: 0"), "{ended}: {log}");
    assert!(log.contains("system"), "the log does not say why: {log}");
    let after = fs::read(data.join("global/pg_control")).expect("the foreign data are still there");
    assert_eq!(before, after, "foreign data were touched");
}
