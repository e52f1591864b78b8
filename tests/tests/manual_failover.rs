//! A failover that an operator asks for: with a leader, and when nobody leads and nobody would by itself.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::rest;
use ha_tests::sql::{Session, SqlError};
use ha_tests::wait::{millis, secs};
use serde_json::{Value, json};
use std::time::Instant;

fn fail_over(cluster: &Cluster, at: usize, to: usize) -> rest::Reply {
    let body = json!({ "candidate": cluster.nodes[to].name });
    rest::post(&cluster.nodes[at].rest, "/failover", &body).expect("the node answers")
}

#[test]
fn with_a_leader_the_candidate_takes_over_and_nothing_is_lost() {
    let cluster = Cluster::running(Plan::short());
    let first = cluster.leader().expect("a healthy cluster has a leader");
    cluster.nodes[first].sql("CREATE EXTENSION ha_ext").expect("the leader takes DDL");
    for by_sql in [false, true] {
        let from = cluster.wait_healthy(secs(30));
        let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
        let to = cluster.other_than(from);
        let observation = cluster.observe();
        let begun = Instant::now();
        // A standby is asked, so that the answer does not end with the server that stops.
        let answer = if by_sql {
            let session = Session::open(&cluster.nodes[to].server, secs(3)).expect("a standby admits sessions");
            let call = format!("SELECT ha_failover('{}')", cluster.nodes[to].name);
            session.value(&call, secs(40)).expect("the candidate answers").unwrap_or_default()
        } else {
            let reply = fail_over(&cluster, to, to);
            assert_eq!(reply.status, 200, "{}", reply.body);
            reply.body
        };
        assert_eq!(answer, format!("Successfully failed over to \"{}\"", cluster.nodes[to].name));
        cluster.wait("a write on it", secs(20), || observation.writers.first_ack_above(timeline, begun));
        // Every writer shall find the new leader: a silence counts when it ends.
        std::thread::sleep(secs(2));
        let conclusion = cluster.conclude(observation);
        conclusion.verdict.expect_nothing_lost("manual failover with a leader");
        assert!(conclusion.verdict.gap < secs(5), "nobody could write for {:?}", conclusion.verdict.gap);
        println!("manual failover (SQL: {by_sql}): write gap {} ms", conclusion.verdict.gap.as_millis());
        assert_eq!((cluster.leader(), cluster.timeline()), (Some(to), Some(timeline + 1)));
    }
}

/// Kills a leader whose last rows no standby has: they lag more than is allowed, so nobody may take over by itself.
fn leaderless(cluster: &mut Cluster, writer: u32) -> usize {
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    cluster.nodes[leader].freeze_senders();
    let rows = format!("INSERT INTO ha_log SELECT {writer}, g FROM generate_series(1, 60000) g");
    cluster.nodes[leader].sql(&rows).expect("the leader takes writes");
    let written = cluster.nodes[leader].value("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").ok().flatten();
    let written: u64 = written.and_then(|lsn| lsn.parse().ok()).expect("the leader has a position");
    cluster.wait("the leader to publish its position", secs(10), || {
        let status: Value = serde_json::from_str(&cluster.etcd.get(&cluster.key("status"))?).ok()?;
        (status["optime"].as_u64()? >= written).then_some(())
    });
    cluster.nodes[leader].kill();
    cluster.wait("the lease to end", secs(15), || cluster.leader().is_none().then_some(()));
    leader
}

fn nobody_leads_for(cluster: &Cluster, seconds: u64) {
    let begun = Instant::now();
    while begun.elapsed() < secs(seconds) {
        assert!(!cluster.nodes.iter().any(|node| node.is("/primary")), "a node that lags took over by itself");
        std::thread::sleep(millis(200));
    }
}

#[test]
fn without_a_leader_the_named_member_takes_over_although_it_lags() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    cluster.nodes[leader].sql("CREATE EXTENSION ha_ext").expect("the leader takes DDL");
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");

    cluster.wait_caught_up(leader);
    let old = leaderless(&mut cluster, 70);
    let to = cluster.other_than(old);
    let third = cluster.other_than(to);
    nobody_leads_for(&cluster, 3);
    refused_requests_change_nothing(&cluster, old, to);
    let reply = fail_over(&cluster, third, to);
    assert_eq!(
        (reply.status, reply.body),
        (200, format!("Successfully failed over to \"{}\"", cluster.nodes[to].name))
    );
    assert_eq!(cluster.wait_leader(secs(20)), to);
    cluster.nodes[to].sql("INSERT INTO ha_log VALUES (71, 1)").expect("it takes writes");
    assert_eq!(cluster.timeline(), Some(timeline + 1));
    cluster.nodes[old].start();
    assert_eq!(cluster.wait_healthy(secs(60)), to);
    cluster.wait_equal(to);

    // The same in SQL, at the member that is to lead.
    cluster.wait_caught_up(to);
    let old = leaderless(&mut cluster, 72);
    let to = cluster.other_than(old);
    nobody_leads_for(&cluster, 1);
    let session = Session::open(&cluster.nodes[to].server, secs(3)).expect("a standby admits sessions");
    let call = format!("SELECT ha_failover('{}')", cluster.nodes[to].name);
    let answer = session.value(&call, secs(40)).expect("the candidate answers");
    assert_eq!(answer, Some(format!("Successfully failed over to \"{}\"", cluster.nodes[to].name)));
    assert_eq!(cluster.wait_leader(secs(20)), to);
    // The session of before the promotion goes on, as with any promotion.
    session.query("INSERT INTO ha_log VALUES (73, 1)", secs(5)).expect("it takes writes");
    cluster.nodes[old].start();
    assert_eq!(cluster.wait_healthy(secs(60)), to);
    cluster.wait_equal(to);
}

fn refused_requests_change_nothing(cluster: &Cluster, old: usize, to: usize) {
    let (old_name, name) = (&cluster.nodes[old].name, &cluster.nodes[to].name);
    for (path, body, status) in [
        ("/failover", json!({ "leader": old_name }), 400),
        ("/failover", json!({ "candidate": "nobody" }), 412),
        ("/failover", json!({ "candidate": name, "scheduled_at": "2100-01-01T00:00:00+00:00" }), 400),
        ("/switchover", json!({ "leader": old_name, "candidate": name }), 412),
        ("/switchover", json!({ "candidate": name }), 400),
    ] {
        let reply = rest::post(&cluster.nodes[to].rest, path, &body).expect("the node answers");
        assert_eq!(reply.status, status, "{path} {body}: {}", reply.body);
    }
    // A switchover needs somebody to switch over from.
    match cluster.nodes[to].sql(&format!("SELECT ha_switchover('{name}')")) {
        Err(SqlError::Refused { code, detail, .. }) => {
            assert_eq!(code, "55000", "{detail}");
            assert!(detail.contains("There is no leader that could hand over"), "{detail}");
        }
        other => panic!("a switchover without a leader: {other:?}"),
    }
    assert!(
        cluster.leader().is_none() && cluster.etcd.get(&cluster.key("failover")).is_none_or(|request| request == "{}")
    );
}

/// A failover insists: another member has rows that the named one does not have.
#[test]
fn without_a_leader_a_named_member_takes_over_although_another_is_ahead() {
    let mut cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let to = cluster.other_than(leader);
    let third = cluster.other_than(to);
    cluster.wait_caught_up(leader);
    let pid = format!("SELECT pid FROM pg_stat_replication WHERE application_name = '{}'", cluster.nodes[to].name);
    let pid = cluster.nodes[leader].value(&pid).ok().flatten().expect("it streams");
    Proc::of(pid.parse().expect("a pid is a number")).expect("it lives").freeze();
    std::thread::sleep(millis(100));
    cluster.nodes[leader].sql("INSERT INTO ha_log VALUES (74, 1)").expect("the leader takes writes");
    cluster.wait("the other standby to have the row", secs(5), || {
        cluster.nodes[third].value("SELECT seq::text FROM ha_log WHERE writer = 74").ok()?
    });
    let old = leaderless(&mut cluster, 75);
    nobody_leads_for(&cluster, 1);
    let reply = fail_over(&cluster, third, to);
    assert_eq!(
        (reply.status, reply.body),
        (200, format!("Successfully failed over to \"{}\"", cluster.nodes[to].name))
    );
    assert_eq!(cluster.wait_leader(secs(20)), to);
    cluster.nodes[old].start();
    assert_eq!(cluster.wait_healthy(secs(60)), to);
    cluster.wait_equal(to);
}
