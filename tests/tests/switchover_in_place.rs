//! Switchovers in which the old leader's server stays up: back and forth under load, and what clients and the archive see.

use ha_tests::archive::Archive;
use ha_tests::census::Census;
use ha_tests::chance::rounds;
use ha_tests::cluster::Cluster;
use ha_tests::load::{BOOKS_AGREE, Load};
use ha_tests::oracle::silences;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::report::Report;
use ha_tests::sql::{Session, SqlError};
use ha_tests::wait::{millis, secs};
use std::time::{Duration, Instant};

/// No client should wait longer: the goal is far below, this is a loaded test machine.
const GAP_MAX: Duration = Duration::from_secs(3);

/// Holds the candidate back while the request is under way, so that another standby has more than it.
fn switch_over_with_another_ahead(cluster: &Cluster, from: usize, to: usize) {
    let pid = format!("SELECT pid FROM pg_stat_replication WHERE application_name = '{}'", cluster.nodes[to].name);
    let pid = cluster.nodes[from].value(&pid).expect("the leader can be asked").expect("the candidate streams");
    let sender = Proc::of(pid.parse().expect("a pid is a number")).expect("it lives");
    sender.freeze();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(millis(150));
            sender.thaw();
        });
        cluster.switch_over(from, to);
    });
}

/// A server starts no archiver within ten seconds of the one before in the same postmaster, and only when something wakes that one up.
fn wait_archiver(cluster: &Cluster, leader: usize) {
    cluster.wait("an archiver", secs(15), || {
        let _ = cluster.nodes[leader].value("SELECT 1");
        cluster.nodes[leader].child("archiver")
    });
}

/// How many switchovers there were, and in how many of them the old leader's server stayed up.
fn switch_back_and_forth(cluster: &Cluster, load: &mut Load) -> (usize, usize) {
    let (mut made, mut in_place) = (0, 0);
    for round in rounds("HA_TESTS_SWITCHOVERS", 4) {
        let from = cluster.wait_ready_to_switch();
        load.wait_under_way(cluster, from);
        // Where there is none yet, somebody else has to archive what waits.
        if round % 4 < 2 {
            wait_archiver(cluster, from);
        }
        let postmaster = cluster.nodes[from].postmaster();
        let to = if round % 2 == 0 { cluster.other_than(from) } else { cluster.other_than(cluster.other_than(from)) };
        if round % 3 == 2 {
            switch_over_with_another_ahead(cluster, from, to);
        } else {
            cluster.switch_over(from, to);
        }
        cluster.wait("the candidate to serve", secs(20), || cluster.nodes[to].is("/primary").then_some(()));
        cluster.wait_healthy(secs(60));
        in_place += usize::from(cluster.nodes[from].postmaster() == postmaster);
        made += 1;
    }
    (made, in_place)
}

fn back_and_forth(plan: Plan, in_place: bool) {
    let (archive, mut cluster) = Archive::with_cluster(plan, 5);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    cluster.wait_caught_up(leader);
    let (begun, before) = (Instant::now(), Census::take(&cluster));
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let mut load = Load::start(&cluster, 8);
    let observation = cluster.observe();
    let (rounds, stayed_up) = switch_back_and_forth(&cluster, &mut load);
    let leader = cluster.wait_healthy(secs(60));
    drop(load);
    let conclusion = cluster.conclude(observation);
    let story = format!("switchover, {}", if in_place { "in place" } else { "demote_method restart" });
    let verdict = &conclusion.verdict;
    let needed = Census::take(&cluster) - before;
    let report = Report {
        path: &story,
        cycles: rounds,
        in_place: stayed_up,
        acked: verdict.acked,
        lost: verdict.lost.len(),
        needed,
        gap: verdict.gap,
        took: begun.elapsed(),
    };
    report.print(&cluster, leader);
    let mut gaps = silences(&conclusion.acks);
    gaps.sort_unstable();
    println!("{story}: silence {:?} / {:?} / {:?}", gaps.first(), gaps.get(gaps.len() / 2), gaps.last());
    verdict.expect_nothing_lost(&story);
    let made = u32::try_from(rounds).expect("a few rounds");
    assert_eq!(cluster.timeline(), Some(timeline + made), "{story}: one switchover is one timeline");
    assert_eq!((needed.rewinds, needed.copies), (0, 0), "{story}: {needed}");
    assert_eq!(needed.starts, if in_place { 0 } else { rounds }, "{story}: {needed}");
    assert_eq!(stayed_up, if in_place { rounds } else { 0 }, "{story}: servers that stayed up");
    assert_eq!(cluster.nodes[leader].value(BOOKS_AGREE).expect("the leader can be read").as_deref(), Some("t"));
    for node in &cluster.nodes {
        // With an archive no hand-over ends its log with a segment: nothing is kept ready for one.
        assert!(!node.data().join("pg_wal/xlogtemp.ha_ext").exists(), "{story}: {} keeps an empty segment", node.name);
    }
    archive.expect_complete(&mut cluster, leader, &story);
    assert!(verdict.gap < GAP_MAX, "{story}: nobody could write for {:?}", verdict.gap);
}

#[test]
fn back_and_forth_under_load_loses_nothing_rewinds_nobody_and_archives_everything() {
    back_and_forth(Plan::short(), true);
}

#[test]
fn back_and_forth_with_restarts_does_too() {
    back_and_forth(Plan { postgresql: vec!["demote_method: restart".into()], ..Plan::short() }, false);
}

/// Whoever asked for nothing hears in good order that it is over, and where to go.
#[test]
fn idle_clients_are_told_who_leads_now() {
    let cluster = Cluster::running(Plan::short());
    let from = cluster.leader().expect("a healthy cluster has a leader");
    let to = cluster.other_than(from);
    let open = || Session::open(&cluster.nodes[from].server, secs(3)).expect("the leader admits sessions");
    let (idle, reading, writing) = (open(), open(), open());
    reading.query("BEGIN; SELECT count(*) FROM ha_log", secs(3)).expect("the leader can be read");
    writing.query("BEGIN; INSERT INTO ha_log VALUES (90, 1)", secs(3)).expect("the leader takes writes");
    let postmaster = cluster.nodes[from].postmaster();
    cluster.switch_over(from, to);
    for (who, session) in [("idle", idle), ("reading", reading), ("writing", writing)] {
        match session.last_words(secs(10)) {
            Some(SqlError::Refused { code, hint, message, .. }) => {
                println!("{who}: {code}: {message}");
                assert_eq!(code, "57P01", "{who}: {message}");
                assert!(hint.contains(&cluster.nodes[to].name), "{who} is not told who leads: {message}");
            }
            other => panic!("{who}: {other:?}"),
        }
    }
    cluster.wait_healthy(secs(30));
    assert_eq!(cluster.nodes[from].postmaster(), postmaster, "the old leader's server was restarted");
    let rows =
        cluster.nodes[to].value("SELECT count(*) FROM ha_log WHERE writer = 90").expect("the leader can be read");
    assert_eq!(rows.as_deref(), Some("0"), "a transaction that was never committed is there");
}

/// Commits are waited for, transactions are not.
#[test]
fn a_load_in_progress_and_an_open_transaction_hold_nobody_up() {
    let cluster = Cluster::running(Plan::short());
    let from = cluster.leader().expect("a healthy cluster has a leader");
    let to = cluster.other_than(from);
    let open = Session::open(&cluster.nodes[from].server, secs(3)).expect("the leader admits sessions");
    open.query("BEGIN; INSERT INTO ha_log VALUES (91, 1)", secs(3)).expect("the leader takes writes");
    let observation = cluster.observe();
    let server = cluster.nodes[from].server.clone();
    let builder = std::thread::Builder::new().name("bulk load".into());
    let load = builder.spawn(move || {
        let session = Session::open(&server, secs(3)).expect("the leader admits sessions");
        session.query("CREATE TABLE bulk AS SELECT g FROM generate_series(1, 50000000) g", secs(60))
    });
    let load = load.expect("a thread can be started");
    let bulk = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE TABLE bulk%' AND backend_xid IS NOT NULL";
    cluster.wait("the load to write", secs(10), || cluster.nodes[from].value(bulk).ok()?);
    std::thread::sleep(millis(500));
    // A standby that replays a load of this kind is behind by what it replays in a moment: the candidate is waited for.
    let answer = cluster.switch_over(from, to);
    println!("{answer}");
    cluster.wait("the candidate to serve", secs(20), || cluster.nodes[to].is("/primary").then_some(()));
    std::thread::sleep(secs(1));
    let ended = load.join().expect("the load's client does not panic");
    println!("the load ended with: {:?}", ended.as_ref().err());
    assert!(ended.is_err(), "the load was done before the switchover: nothing was tested");
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("switchover during a load");
    println!("switchover during a load: write gap {} ms", conclusion.verdict.gap.as_millis());
    assert!(conclusion.verdict.gap < GAP_MAX, "nobody could write for {:?}", conclusion.verdict.gap);
    let left = "SELECT count(*) FROM pg_class WHERE relname = 'bulk'";
    assert_eq!(cluster.nodes[to].value(left).expect("the leader can be read").as_deref(), Some("0"));
}

/// Its session ends with the server's role, but not before it has its answer.
#[test]
fn whoever_asks_in_sql_is_answered() {
    let cluster = Cluster::running(Plan::short());
    let first = cluster.wait_ready_to_switch();
    cluster.nodes[first].sql("CREATE EXTENSION ha_ext").expect("the extension can be created");
    Load::tables(&cluster, 2);
    let mut load = Load::start(&cluster, 8);
    for round in rounds("HA_TESTS_ANSWERS", 10) {
        let from = cluster.wait_ready_to_switch();
        load.keep_up();
        let to = cluster.other_than(from);
        let postmaster = cluster.nodes[from].postmaster();
        let session = Session::open(&cluster.nodes[from].server, secs(3)).expect("the leader admits sessions");
        let answer = session.value(&format!("SELECT ha_switchover('{}')", cluster.nodes[to].name), secs(30));
        match answer {
            Ok(Some(text)) => println!("round {round}: {text}"),
            other => panic!("round {round}: {other:?}"),
        }
        match session.last_words(secs(10)) {
            Some(SqlError::Refused { code, hint, message, .. }) => {
                assert_eq!(code, "57P01", "round {round}: {message}");
                assert!(hint.contains(&cluster.nodes[to].name), "round {round}: not told who leads: {message}");
            }
            other => panic!("round {round}: {other:?}"),
        }
        cluster.wait("the candidate to serve", secs(20), || cluster.nodes[to].is("/primary").then_some(()));
        assert_eq!(cluster.nodes[from].postmaster(), postmaster, "round {round}: the server was restarted");
    }
}
