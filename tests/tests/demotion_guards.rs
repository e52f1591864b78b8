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

/// Whether the first checkpoint after a promotion is through, as the server itself says.
fn checkpointed(cluster: &Cluster, node: usize) -> bool {
    let minimum = "SELECT min_recovery_end_lsn FROM pg_control_recovery()";
    cluster.nodes[node].value(minimum).expect("the leader can be asked").as_deref() == Some("0/0")
}

/// A new leader, and whoever it was before.
fn promoted(cluster: &Cluster, freeze: bool) -> (usize, Option<Proc>) {
    let from = cluster.wait_ready_to_switch();
    let to = cluster.other_than(from);
    let checkpointer = cluster.nodes[to].child("checkpointer").expect("a standby has a checkpointer");
    if freeze {
        checkpointer.freeze();
    }
    cluster.switch_over(from, to);
    cluster.wait("the candidate to serve", secs(20), || cluster.nodes[to].is("/primary").then_some(()));
    (to, freeze.then_some(checkpointer))
}

/// Until the first checkpoint after a promotion recovery would call itself consistent before it is. One that does not come about is not
/// waited for, neither before the stop nor in it.
#[test]
fn without_its_first_checkpoint_it_is_stopped_and_started() {
    let cluster = Cluster::running(Plan::short());
    Load::tables(&cluster, 2);
    let (leader, checkpointer) = promoted(&cluster, true);
    assert!(!checkpointed(&cluster, leader), "the checkpoint was done in spite of a frozen checkpointer");
    let before = cluster.nodes[leader].postmaster().expect("a leader has a postmaster");
    let observation = cluster.observe();
    let (fault, usurper) = (Instant::now(), Usurper::seize(&cluster));
    assert!(before.wait_gone(secs(20)), "the old leader's server is never stopped");
    let took = fault.elapsed();
    println!("stopped after {} ms with a frozen checkpointer", took.as_millis());
    // Three seconds for the checkpoint, two for the rest of a fast stop, and the stop at once; this is a loaded machine.
    assert!(took < secs(12), "the stop took {took:?}");
    let log = cluster.nodes[leader].supervisor_log();
    assert!(log.contains("checkpointer\" does not end: it is killed"), "somebody else ended the checkpointer");
    assert!(!log.contains("the postmaster does not stop"), "the postmaster was killed");
    assert!(checkpointer.is_some_and(|process| process.wait_gone(secs(1))), "it survived its server");
    usurper.leave(&cluster);
    let healed = Instant::now();
    cluster.wait("a write", secs(60), || observation.writers.first_ack_sent_after(healed));
    std::thread::sleep(secs(1));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost("without a first checkpoint", fault, WINDOW);
}

/// A leader that was just promoted and has much to write: its checkpoint is spread, and hastened once nobody can wait for it.
#[test]
fn soon_after_a_promotion_the_first_checkpoint_goes_first() {
    let cluster = Cluster::running(Plan::short());
    Load::tables(&cluster, 10);
    let first = cluster.wait_ready_to_switch();
    let rows = "CREATE TABLE much AS SELECT g, repeat('x', 200) FROM generate_series(1, 500000) g";
    cluster.nodes[first].sql(rows).expect("the leader takes rows");
    cluster.wait_caught_up(first);
    let (leader, _) = promoted(&cluster, false);
    assert!(!checkpointed(&cluster, leader), "its first checkpoint was not spread: nothing is tested");
    assert!(demoted(&cluster, leader, "soon after a promotion"), "it was stopped and started");
}

/// With little to write nobody notices it.
#[test]
fn a_small_first_checkpoint_is_not_spread() {
    let cluster = Cluster::running(Plan::short());
    // What is small is told by the length of the log since the last checkpoint, and each copy of a node ends a segment.
    let first = cluster.wait_ready_to_switch();
    cluster.nodes[first].sql("CHECKPOINT").expect("the leader makes a checkpoint");
    cluster.wait_caught_up(first);
    cluster.nodes[cluster.other_than(first)].sql("CHECKPOINT").expect("a standby makes a restartpoint");
    let rows = "CREATE TABLE little AS SELECT g, repeat('x', 200) FROM generate_series(1, 5000) g";
    cluster.nodes[first].sql(rows).expect("the leader takes rows");
    cluster.wait_caught_up(first);
    let before = cluster.nodes[cluster.other_than(first)].server_log().len();
    let (leader, _) = promoted(&cluster, false);
    cluster.wait("the first checkpoint", secs(30), || checkpointed(&cluster, leader).then_some(()));
    // How long the disk takes to sync is not what this is about: a checkpoint that is spread writes a page each 100 ms.
    let log = cluster.nodes[leader].server_log();
    let written = |line: &str| line.split("write=").nth(1)?.split(' ').next()?.parse::<f64>().ok();
    let writes: Vec<f64> =
        log[before..].lines().filter(|line| line.contains("checkpoint complete:")).filter_map(written).collect();
    println!("checkpoints written in {writes:?} s");
    assert!(!writes.is_empty() && writes.iter().all(|seconds| *seconds < 3.0), "{writes:?}");
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
