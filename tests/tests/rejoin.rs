//! A former leader whose WAL went another way comes back through `pg_rewind`.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::time::Instant;

#[test]
fn a_diverged_leader_is_rewound_and_its_extra_rows_vanish() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    cluster.nodes[leader].sql("INSERT INTO ha_log SELECT 50, g FROM generate_series(1, 1000) g").expect("writable");
    cluster.wait_equal(leader);

    // Rows that only the leader has. Its senders are frozen, not the receivers: what is once in a socket would arrive.
    cluster.nodes[leader].freeze_senders();
    cluster.nodes[leader].sql("INSERT INTO ha_log SELECT 51, g FROM generate_series(1, 1000) g").expect("writable");
    cluster.nodes[leader].sql("UPDATE ha_log SET seq = seq + 100000 WHERE writer = 50").expect("writable");
    cluster.nodes[leader].kill();
    let new = cluster.wait_other_leader(leader, secs(30));
    cluster.nodes[new].sql("INSERT INTO ha_log SELECT 52, g FROM generate_series(1, 1000) g").expect("writable");
    assert_eq!(cluster.timeline(), Some(timeline + 1));

    let back = Instant::now();
    cluster.nodes[leader].start();
    cluster.wait_healthy(secs(60));
    println!("rewound and streaming {} ms after its start", back.elapsed().as_millis());
    cluster.wait_equal(new);
    let extra = cluster.nodes[leader].value("SELECT count(*) FROM ha_log WHERE writer = 51 OR seq > 100000");
    assert_eq!(extra.expect("the rejoined node can be read").as_deref(), Some("0"));
    let log = std::fs::read_to_string(cluster.nodes[leader].log()).expect("the node has a log");
    assert!(log.contains("rewind"), "the log does not mention the rewind");
    assert_eq!(cluster.leader(), Some(new));
}

#[test]
fn an_interrupted_rewind_is_never_started() {
    // What is written below never reaches the standbys, and one of them has to lead nevertheless.
    let mut cluster = Cluster::running(Plan { lag_bytes_max: 1 << 30, ..Plan::short() });
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let standby = cluster.other_than(leader);
    // The standbys will lag more than is allowed by default.
    let lag = serde_json::json!({ "maximum_lag_on_failover": 1_000_000_000 });
    let reply = ha_tests::rest::patch(&cluster.nodes[leader].rest, "/config", &lag).expect("the leader answers");
    assert_eq!(reply.status, 200, "{}", reply.body);
    std::thread::sleep(secs(u64::from(cluster.plan.loop_wait) * 2));
    // Enough data for the rewind to take a while, made on the branch that will be thrown away.
    cluster.nodes[leader].freeze_senders();
    cluster.nodes[leader]
        .sql("CREATE TABLE big AS SELECT g, repeat('x', 500) FROM generate_series(1, 100000) g")
        .expect("writable");
    cluster.nodes[leader].kill();
    let _ = cluster.wait_other_leader(leader, secs(30));
    cluster.nodes[leader].start();
    let mark = cluster.nodes[leader].data().join("ha_ext.rewinding");
    cluster.wait("the rewind to begin", secs(30), || mark.exists().then_some(()));
    cluster.nodes[leader].kill();
    if mark.exists() {
        cluster.nodes[leader].start();
        std::thread::sleep(secs(8));
        assert!(
            cluster.nodes[leader].postmaster().is_none(),
            "a half rewound directory was started\n{}",
            cluster.diagnosis()
        );
        assert!(mark.exists());
    } else {
        println!("the rewind was over before it could be interrupted");
    }
    assert!(cluster.nodes[standby].sql("SELECT 1").is_ok());
}
