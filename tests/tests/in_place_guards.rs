//! Where a leader cannot become a standby in place, or something holds that up: it becomes one all the same.

use ha_tests::census::Census;
use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::wait::secs;
use std::time::{Duration, Instant};

fn postmaster(cluster: &Cluster, node: usize) -> Proc {
    cluster.nodes[node].postmaster().expect("a running server has a postmaster")
}

#[test]
fn a_postmaster_that_would_end_with_a_crash_cycle_is_restarted() {
    let plan = Plan { parameters: vec!["restart_after_crash: \"off\"".into()], ..Plan::short() };
    let mut cluster = Cluster::running(plan);
    let from = cluster.leader().expect("a healthy cluster has a leader");
    let (old, before) = (postmaster(&cluster, from), Census::take(&cluster));
    let observation = cluster.observe();
    cluster.switch_over(from, cluster.other_than(from));
    cluster.wait_ready_to_switch();
    assert_ne!(postmaster(&cluster, from), old, "nothing but a start makes it a standby");
    let did = Census::take(&cluster) - before;
    assert_eq!((did.rewinds, did.copies, did.starts), (0, 0, 1), "{did}");

    // The same where there is no time to hand over.
    let from = cluster.leader().expect("a healthy cluster has a leader");
    let old = postmaster(&cluster, from);
    cluster.etcd.kill();
    cluster.wait("the server to be replaced", secs(30), || {
        cluster.nodes[from].postmaster().filter(|new| *new != old).map(|_| ())
    });
    cluster.etcd.restart();
    cluster.wait_healthy(secs(60));
    cluster.conclude(observation).verdict.expect_nothing_lost("roles change without a demotion in place");
}

#[test]
fn an_archive_command_that_hears_nothing_holds_nobody_up() {
    let archive = std::env::temp_dir().join(format!("ha_tests.archive.{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&archive);
    std::fs::create_dir(&archive).expect("a directory for the archive");
    assert!(std::process::Command::new("chown").arg("postgres").arg(&archive).status().is_ok_and(|s| s.success()));
    let command = format!(
        "if test -f {at}/hang; then touch {at}/hanging; trap '' QUIT TERM INT; sleep 300; fi; cp %p {at}/%f",
        at = archive.display()
    );
    let parameters = vec!["archive_mode: \"on\"".into(), format!("archive_command: \"{command}\"")];
    let mut cluster = Cluster::running(Plan { parameters, ..Plan::short() });
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    // Only a server that has finished its first checkpoint goes in place.
    cluster.nodes[leader].sql("CHECKPOINT").expect("a superuser may");
    std::fs::write(archive.join("hang"), "").expect("written");
    cluster.nodes[leader].sql("SELECT pg_switch_wal()").expect("a superuser may");
    cluster.wait("the archiver to hang", secs(30), || archive.join("hanging").exists().then_some(()));
    let old = postmaster(&cluster, leader);
    let observation = cluster.observe();

    cluster.etcd.kill();
    cluster.wait("the demotion", secs(30), || {
        cluster.nodes[leader].supervisor_log().contains("begun: end what is left").then_some(())
    });
    let begun = Instant::now();
    std::fs::remove_file(archive.join("hang")).expect("removed");
    cluster.wait("recovery", secs(30), || {
        cluster.nodes[leader].server_log().contains("entering standby mode").then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(4), "as slow as the postmaster itself: {:?}", begun.elapsed());
    assert!(cluster.nodes[leader].supervisor_log().contains("does not end: it is killed"), "{}", cluster.diagnosis());
    cluster.wait("what the archiver had not come to", secs(20), || {
        let status = std::fs::read_dir(cluster.nodes[leader].data().join("pg_wal/archive_status")).ok()?;
        let waits = status.flatten().any(|entry| entry.path().extension().is_some_and(|kind| kind == "ready"));
        (!waits).then_some(())
    });
    assert_eq!(postmaster(&cluster, leader), old);
    cluster.etcd.restart();
    cluster.wait_healthy(secs(60));
    cluster.conclude(observation).verdict.expect_nothing_lost("a demotion in place with a deaf archiver");
    let _ = std::fs::remove_dir_all(&archive);
}
