//! A former leader whose WAL went another way comes back through `pg_rewind`.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::wait::{millis, poll, secs};
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

/// The `pg_rewind` that replaces files (not its rehearsal), stopped in the middle.
fn stop_rewind(cluster: &Cluster, node: usize) -> Proc {
    let rewinds = |process: &Proc| {
        let command = process.command();
        command.contains("pg_rewind") && !command.contains("--dry-run")
    };
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < secs(40), "the rewind was not seen at work\n{}", cluster.diagnosis());
        // No pause: it takes only a second or two.
        let found = cluster.nodes[node].supervisor().into_iter().flat_map(Proc::children).find(rewinds);
        if let Some(rewind) = found.filter(|rewind| rewind.written_bytes() > 4 << 20) {
            rewind.freeze();
            assert!(poll(secs(2), || rewind.is_stopped().then_some(())).is_some(), "the rewind had just ended");
            return rewind;
        }
    }
}

#[test]
fn an_interrupted_rewind_is_never_started() {
    // What is written below never reaches the standbys, and one of them has to lead nevertheless.
    let mut cluster = Cluster::running(Plan { lag_bytes_max: 1 << 30, ..Plan::short() });
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let big = "CREATE TABLE big AS SELECT g, repeat('x', 500) AS text FROM generate_series(1, 100000) g";
    cluster.nodes[leader].sql(big).expect("writable");
    cluster.wait_caught_up(leader);
    // Every page of it is changed on the branch that will be thrown away, so that the rewind has all of it to copy.
    cluster.nodes[leader].freeze_senders();
    cluster.nodes[leader].sql("UPDATE big SET g = -g").expect("writable");
    cluster.nodes[leader].kill();
    let new = cluster.wait_other_leader(leader, secs(30));
    cluster.nodes[leader].start();
    let rewind = stop_rewind(&cluster, leader);
    // Beside the directory, since `pg_rewind` removes what it does not know from within it.
    let mark = cluster.nodes[leader].dir.join(".data.ha_ext/unfinished");
    let text = std::fs::read_to_string(&mark).expect("files were replaced without a mark");
    assert!(text.starts_with("rewinding onto "), "{text}");
    println!("stopped after {} bytes", rewind.written_bytes());
    cluster.nodes[leader].kill();
    assert!(mark.exists());
    cluster.nodes[leader].start();
    let end = Instant::now() + secs(8);
    while Instant::now() < end {
        let server = cluster.nodes[leader].postmaster();
        assert!(server.is_none(), "a half rewound directory was started\n{}", cluster.diagnosis());
        std::thread::sleep(millis(50));
    }
    assert!(mark.exists());
    assert!(cluster.nodes[leader].supervisor().is_some(), "the node does not say what is wrong with it any more");
    cluster.nodes[new].sql("INSERT INTO big VALUES (0, '')").expect("the others go on");
}
