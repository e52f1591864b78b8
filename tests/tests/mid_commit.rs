//! A backend frozen between the flush of its commit and its answer, while its node loses the lease.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::sql::{Row, Session, SqlError};
use ha_tests::wait::{millis, secs};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How much a leader may have acknowledged that no standby had yet.
const WINDOW: Duration = Duration::from_millis(500);

type Answer = Result<Vec<Row>, SqlError>;

/// A cluster in which only those wait for a synchronous standby who ask for it.
fn cluster() -> Cluster {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    cluster.nodes[leader].sql("CREATE TABLE mid_commit (id int PRIMARY KEY)").expect("the leader takes DDL");
    cluster.nodes[leader].sql("ALTER ROLE postgres SET synchronous_commit = local").expect("the leader takes DDL");
    cluster.wait_caught_up(leader);
    cluster
}

fn synchronous_standby(cluster: &Cluster, leader: usize, change: &str, wanted: &str) {
    let session = Session::open(&cluster.nodes[leader].server, secs(3)).expect("the leader admits sessions");
    session.query(&format!("ALTER SYSTEM {change}"), secs(5)).expect("a setting");
    session.query("SELECT pg_reload_conf()", secs(5)).expect("a reload");
    cluster.wait("the setting", secs(5), || {
        let names = cluster.nodes[leader].value("SHOW synchronous_standby_names").ok()??;
        (names == wanted).then_some(())
    });
}

/// Freezes a backend whose row is durable here and on the standbys, and which was not allowed to answer yet; then allows it.
fn frozen_in_mid_commit(cluster: &Cluster, leader: usize) -> (Proc, JoinHandle<Answer>) {
    synchronous_standby(cluster, leader, "SET synchronous_standby_names = 'nobody'", "nobody");
    let session = Session::open(&cluster.nodes[leader].server, secs(3)).expect("the leader admits sessions");
    session.query("SET synchronous_commit = on", secs(3)).expect("a setting");
    let pid = session.value("SELECT pg_backend_pid()", secs(3)).expect("a backend has a pid").expect("not null");
    let builder = std::thread::Builder::new().name("mid-commit client".into());
    let client = builder.spawn(move || session.query("INSERT INTO mid_commit VALUES (1)", secs(60)));
    let waiting = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'");
    cluster.wait("the commit to wait for a standby", secs(5), || cluster.nodes[leader].value(&waiting).ok()?);
    for other in (0..cluster.nodes.len()).filter(|other| *other != leader) {
        cluster.wait("the row on every standby", secs(5), || {
            cluster.nodes[other].value("SELECT id::text FROM mid_commit").ok()?
        });
    }
    let backend = Proc::of(pid.parse().expect("a pid is a number")).expect("the backend lives");
    backend.freeze();
    cluster.wait("the backend to stop", secs(5), || backend.is_stopped().then_some(()));
    // The checkpointer tells all who wait that they need not; this one cannot hear it before it is thawed.
    synchronous_standby(cluster, leader, "RESET synchronous_standby_names", "");
    std::thread::sleep(millis(200));
    (backend, client.expect("a thread can be started"))
}

/// The fault, and what undoes it once another node leads. The backend is thawed by the caller.
struct Fault {
    story: &'static str,
    hurt: fn(&mut Cluster, usize) -> Vec<Proc>,
    heal: fn(&mut Cluster, usize, Vec<Proc>),
}

fn scenario(fault: &Fault) {
    let story = fault.story;
    let mut cluster = cluster();
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let observation = cluster.observe();
    let (backend, client) = frozen_in_mid_commit(&cluster, leader);
    let begun = Instant::now();
    let hurt = (fault.hurt)(&mut cluster, leader);
    let new = cluster.wait_other_leader(leader, secs(30));
    cluster.wait("a write on the new leader", secs(10), || observation.writers.first_ack_above(timeline, begun));
    assert!(!client.is_finished(), "{story}: the backend was not frozen until then");
    backend.thaw();
    (fault.heal)(&mut cluster, leader, hurt);
    let answer = client.join().expect("the client ends when its connection does");
    match answer {
        Err(SqlError::Broken(error)) => println!("{story}: the client heard: {error}"),
        other => panic!("{story}: acknowledged after another node led: {other:?}"),
    }
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost(story, begun, WINDOW);
    let present = cluster.nodes[new].value("SELECT count(*) FROM mid_commit").expect("the leader can be read");
    assert_eq!(present.as_deref(), Some("1"), "{story}: it was flushed on every standby");
}

#[test]
fn without_a_supervisor_it_does_not_answer() {
    scenario(&Fault {
        story: "backend frozen in mid-commit, no supervisor, worker frozen",
        hurt: |cluster, leader| {
            cluster.nodes[leader].kill_supervisor();
            let worker = cluster.nodes[leader].worker().expect("a leader has a loop worker");
            worker.freeze();
            vec![worker]
        },
        heal: |cluster, leader, frozen| {
            // The thawed backend has its answer ready and nobody but the fence in its way.
            std::thread::sleep(secs(1));
            frozen.into_iter().for_each(Proc::thaw);
            cluster.nodes[leader].start();
        },
    });
}

#[test]
fn on_a_node_that_is_frozen_with_its_supervisor_it_does_not_answer() {
    scenario(&Fault {
        story: "backend frozen in mid-commit, whole node frozen",
        hurt: |cluster, leader| {
            cluster.nodes[leader].freeze();
            Vec::new()
        },
        heal: |cluster, leader, _| cluster.nodes[leader].thaw(),
    });
}

/// The supervisor lives: it ends the server of a worker that does not move, or stands by while the lease ends.
#[test]
fn under_a_supervisor_it_does_not_answer() {
    let cluster = cluster();
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let observation = cluster.observe();
    let (backend, client) = frozen_in_mid_commit(&cluster, leader);
    let begun = Instant::now();
    let worker = cluster.nodes[leader].worker().expect("a leader has a loop worker");
    worker.freeze();
    std::thread::sleep(secs(u64::from(cluster.plan.ttl) + 3));
    backend.thaw();
    worker.thaw();
    match client.join().expect("the client ends when its connection does") {
        Err(SqlError::Broken(error)) => println!("the client heard: {error}"),
        other => panic!("acknowledged after its server's lease: {other:?}"),
    }
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost("backend frozen in mid-commit, supervisor awake", begun, WINDOW);
    let now = cluster.leader().expect("a healthy cluster has a leader");
    let present = cluster.nodes[now].value("SELECT count(*) FROM mid_commit").expect("the leader can be read");
    assert_eq!(present.as_deref(), Some("1"), "it was flushed everywhere");
}
