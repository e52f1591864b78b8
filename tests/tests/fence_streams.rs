//! A fenced leader in the middle of logical replication, and its own background workers.

use ha_tests::bare::Bare;
use ha_tests::etcd::Etcd;
use ha_tests::process::Proc;
use ha_tests::sql::{self, SqlError};
use ha_tests::wait::{millis, poll, secs};
use std::fmt::Write;

fn server(settings: &str) -> Bare {
    let bare = Bare::fresh();
    bare.append("postgresql.conf", &format!("wal_level = logical\nwal_receiver_status_interval = 1\n{settings}"));
    bare
}

fn leader(settings: &str) -> (Bare, Etcd) {
    let mut bare = server(settings);
    let etcd = bare.lead();
    bare.must("CREATE TABLE sent (i integer PRIMARY KEY)");
    (bare, etcd)
}

fn ordinary() -> Bare {
    let mut bare = server("");
    bare.start();
    bare.must("CREATE TABLE sent (i integer PRIMARY KEY)");
    bare
}

fn subscribe(subscriber: &Bare, publisher: &Bare) {
    publisher.must("CREATE TABLE unsent (i integer)");
    publisher.must("CREATE PUBLICATION everything FOR TABLE sent");
    let target = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", publisher.server.port);
    subscriber.must(&format!("CREATE SUBSCRIPTION mine CONNECTION '{target}' PUBLICATION everything"));
    publisher.must("INSERT INTO sent VALUES (1)");
    assert!(arrives(subscriber, 1), "replication works: {}", subscriber.log());
}

fn has(server: &Bare, row: i32) -> bool {
    let text = format!("SELECT count(*) FROM sent WHERE i = {row}");
    sql::value(&server.server, &text).is_ok_and(|count| count.as_deref() == Some("1"))
}

fn arrives(server: &Bare, row: i32) -> bool {
    poll(secs(30), || has(server, row).then_some(())).is_some()
}

/// Freezes the worker and waits until the lease is over.
fn fence(leader: &Bare) -> Proc {
    let worker = leader.worker();
    worker.freeze();
    let refused = poll(secs(20), || match leader.run("SELECT * FROM sent") {
        Err(SqlError::Refused { code, .. }) if code == "25006" => Some(()),
        _ => None,
    });
    refused.expect("the lease runs out without the worker");
    worker
}

#[test]
fn a_subscriber_is_sent_nothing() {
    let (leader, _etcd) = leader("");
    let subscriber = ordinary();
    subscribe(&subscriber, &leader);
    let pid = sql::value(&leader.server, "SELECT pid FROM pg_stat_replication").expect("a view").expect("a walsender");
    let sender = Proc::of(pid.parse().expect("a pid")).expect("it lives");
    sender.freeze();
    leader.must("INSERT INTO sent VALUES (2)");
    let worker = fence(&leader);
    sender.thaw();
    let end = std::time::Instant::now() + secs(3);
    while std::time::Instant::now() < end {
        assert!(!has(&subscriber, 2), "a fenced leader sent a commit");
        std::thread::sleep(millis(50));
    }
    worker.thaw();
    assert!(arrives(&subscriber, 2), "it goes on with the lease: {}", leader.log());
}

fn confirmed(publisher: &Bare) -> String {
    let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'mine'";
    sql::value(&publisher.server, slot).expect("a view").expect("a position")
}

/// Writes something that is not published: it is confirmed without a transaction on the subscriber.
fn write_unsent(publisher: &Bare) -> String {
    publisher.must("INSERT INTO unsent VALUES (1)");
    sql::value(&publisher.server, "SELECT pg_current_wal_flush_lsn()").expect("a function").expect("a position")
}

fn confirms(publisher: &Bare, position: &str) -> bool {
    let reached = format!("SELECT '{}'::pg_lsn >= '{position}'::pg_lsn", confirmed(publisher));
    sql::value(&publisher.server, &reached).expect("a comparison").as_deref() == Some("t")
}

#[test]
fn a_publisher_hears_nothing() {
    let (leader, _etcd) = leader("");
    let publisher = ordinary();
    subscribe(&leader, &publisher);
    let position = write_unsent(&publisher);
    let moved = poll(secs(15), || confirms(&publisher, &position).then_some(()));
    moved.expect("an open leader confirms what is not published, too");
    let worker = fence(&leader);
    std::thread::sleep(millis(500));
    let before = confirmed(&publisher);
    let position = write_unsent(&publisher);
    for _ in 0..40 {
        std::thread::sleep(millis(100));
        assert_eq!(confirmed(&publisher), before, "a fenced subscriber confirmed something");
    }
    publisher.must("INSERT INTO sent VALUES (3)");
    let refused = poll(secs(10), || leader.log().contains("cannot commit").then_some(()));
    refused.expect("the apply worker cannot commit");
    std::thread::sleep(secs(1));
    assert_eq!(confirmed(&publisher), before, "a fenced subscriber confirmed something");
    worker.thaw();
    assert!(arrives(&leader, 3), "it goes on with the lease: {}", leader.log());
    let moved = poll(secs(15), || confirms(&publisher, &position).then_some(()));
    moved.expect("and confirms again");
}

#[test]
fn autovacuum_commits_nothing() {
    let (leader, _etcd) = leader("autovacuum = off\n");
    leader.must("INSERT INTO sent SELECT generate_series(1, 1000)");
    let worker = fence(&leader);
    let mut settings = String::new();
    for (name, value) in [("autovacuum_naptime", "1s"), ("autovacuum_analyze_threshold", "10"), ("autovacuum", "on")] {
        let _ = writeln!(settings, "{name} = {value}");
    }
    leader.append("postgresql.conf", &settings);
    leader.run("SELECT pg_reload_conf()").expect("a fenced server can be looked after");
    let refused = poll(secs(20), || leader.log().contains("automatic analyze").then_some(()));
    refused.unwrap_or_else(|| panic!("autovacuum did not try: {}", leader.log()));
    // Its counters are no data: they may move before the commit fails.
    let known = "SELECT count(*) FROM pg_statistic WHERE starelid = 'sent'::regclass";
    assert_eq!(sql::value(&leader.server, known).expect("a catalog").as_deref(), Some("0"));
    worker.thaw();
    // So that there is a reason again, whatever the counters say.
    let more = poll(secs(20), || leader.run("INSERT INTO sent SELECT generate_series(1001, 3000)").ok());
    more.expect("it leads again");
    let analyzed = poll(secs(30), || sql::value(&leader.server, known).ok().flatten().filter(|count| count != "0"));
    analyzed.expect("it goes on with the lease");
}
