//! Where a demotion in place is not safe the server is stopped and started; and a child that does not end.

use ha_tests::archive::Archive;
use ha_tests::cluster::Cluster;
use ha_tests::load::Load;
use ha_tests::oracle::WINDOW;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::usurper::{Usurper, demote};
use ha_tests::wait::{millis, secs};
use std::time::Instant;

/// Takes the leader's key away under load for two seconds; whether its server stayed up.
fn demoted(cluster: &Cluster, leader: usize, story: &str) -> bool {
    let before = cluster.nodes[leader].postmaster().expect("a leader has a postmaster");
    let conclusion = demote(cluster, leader, secs(2), story);
    let after = cluster.nodes[leader].postmaster();
    println!(
        "{story}: write gap {} ms, same postmaster: {}",
        conclusion.verdict.gap.as_millis(),
        after == Some(before)
    );
    after == Some(before)
}

#[test]
fn a_server_that_ends_after_a_crash_is_stopped_and_started() {
    let cluster = Cluster::running(Plan { parameters: vec!["restart_after_crash: \"off\"".into()], ..Plan::short() });
    Load::tables(&cluster, 2);
    let leader = cluster.wait_ready_to_switch();
    assert!(!demoted(&cluster, leader, "restart_after_crash off"), "its postmaster cannot have lived on");
}

/// Until the first checkpoint after a promotion recovery would call itself consistent before it is.
#[test]
fn before_the_first_checkpoint_it_is_stopped_and_started() {
    let cluster = Cluster::running(Plan::short());
    Load::tables(&cluster, 2);
    let from = cluster.wait_ready_to_switch();
    let to = cluster.other_than(from);
    let checkpointer = cluster.nodes[to].child("checkpointer").expect("a standby has a checkpointer");
    checkpointer.freeze();
    cluster.switch_over(from, to);
    cluster.wait("the candidate to serve", secs(20), || cluster.nodes[to].is("/primary").then_some(()));
    let minimum = "SELECT min_recovery_end_lsn FROM pg_control_recovery()";
    let minimum = cluster.nodes[to].value(minimum).expect("the leader can be asked");
    assert_ne!(minimum.as_deref(), Some("0/0"), "the checkpoint was done in spite of a frozen checkpointer");
    let stayed = demoted_with_frozen_checkpointer(&cluster, to, checkpointer);
    assert!(!stayed, "it was demoted in place before its first checkpoint");
}

fn demoted_with_frozen_checkpointer(cluster: &Cluster, leader: usize, checkpointer: Proc) -> bool {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A stop would have to wait for it; what is tested is what happens instead of one.
            std::thread::sleep(secs(8));
            checkpointer.thaw();
        });
        demoted(cluster, leader, "before the first checkpoint after a promotion")
    })
}

/// The archiver ends only when its command does, and this one does not listen.
#[test]
fn a_child_that_does_not_end_is_ended() {
    let archive = Archive::new();
    let deaf = archive.wal().join("deaf");
    let command = format!("sh -c 'trap : QUIT TERM INT; touch {}; while :; do sleep 1; done'", deaf.display());
    let cluster = Cluster::running(archive.with_command(Plan::short(), &command));
    Load::tables(&cluster, 2);
    let leader = cluster.wait_ready_to_switch();
    cluster.nodes[leader].sql("SELECT pg_switch_wal()").expect("the leader ends its segment");
    cluster.wait("the archiver to be at work", secs(20), || deaf.exists().then_some(()));
    let log = cluster.nodes[leader].server_log().len();
    let observation = cluster.observe();
    let (fault, usurper) = (Instant::now(), Usurper::seize(&cluster));
    let since = |text: &str| cluster.nodes[leader].server_log().get(log..).is_some_and(|log| log.contains(text));
    cluster.wait("the server to go on as a standby", secs(20), || since("entering standby mode").then_some(()));
    let took = fault.elapsed();
    println!("in recovery after {} ms although the archiver does not end", took.as_millis());
    // PostgreSQL itself waits five seconds before it kills.
    assert!(took < millis(4500), "nobody ended the archiver: {took:?}");
    usurper.leave(&cluster);
    cluster.wait("a write", secs(30), || observation.writers.first_ack_sent_after(fault + secs(1)));
    std::thread::sleep(secs(1));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost("a deaf archiver", fault, WINDOW);
}
