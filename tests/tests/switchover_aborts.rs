//! A candidate that cannot take over: the switchover is called off, and no client notices.

use ha_tests::cluster::{Cluster, Observation};
use ha_tests::load::Load;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::rest::Reply;
use ha_tests::sql::Session;
use ha_tests::wait::secs;
use std::time::Duration;

/// How long commits may be held before a switchover is given up: two seconds by design, and this machine is loaded.
const HELD_MAX: Duration = Duration::from_secs(5);

/// None if the candidate leads already: the fault came too late.
fn receiver(cluster: &Cluster, node: usize) -> Option<Proc> {
    cluster.nodes[node].child("walreceiver")
}

/// Asks for the switchover in one thread and strikes in another, once the leader is ready to become a standby.
fn struck(cluster: &Cluster, from: usize, to: usize, strike: impl FnOnce() + Send) -> Result<Reply, String> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let parked = cluster.saw_parked(from, secs(10));
            println!("the leader was seen ready to become a standby: {parked}");
            strike();
        });
        cluster.switchover(from, to)
    })
}

/// Nothing has changed and commits go on.
fn expect_unchanged(cluster: &Cluster, story: &str, from: usize, timeline: Option<u32>) {
    cluster.wait("a clean data directory", secs(5), || {
        let left = ["standby.signal", "ha_ext.demoted"].map(|name| cluster.nodes[from].data().join(name).exists());
        (left == [false, false]).then_some(())
    });
    cluster.nodes[from].sql("INSERT INTO ha_log VALUES (92, 1); DELETE FROM ha_log WHERE writer = 92").expect(story);
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(from), timeline), "{story}");
}

fn expect_unnoticed(cluster: &Cluster, observation: Observation, mut load: Load, story: &str) {
    assert!(load.runs(), "{story}: a client of pgbench saw an error");
    drop(load);
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost(story);
    conclusion.expect_no_client_error(story);
    println!("{story}: commits were held for at most {} ms", conclusion.verdict.gap.as_millis());
    assert!(conclusion.verdict.gap < HELD_MAX, "{story}: commits were held for {:?}", conclusion.verdict.gap);
}

/// What happens to the candidate, and what heals it.
struct Fault {
    story: &'static str,
    hurt: fn(&Cluster, usize),
    heal: fn(&mut Cluster, usize),
}

const FAULTS: [Fault; 4] = [
    Fault {
        story: "the candidate's WAL receiver stops in mid-switchover",
        hurt: |cluster, to| receiver(cluster, to).into_iter().for_each(Proc::freeze),
        heal: |cluster, to| receiver(cluster, to).into_iter().for_each(Proc::thaw),
    },
    Fault {
        story: "the candidate's node is frozen in mid-switchover",
        hurt: |cluster, to| cluster.nodes[to].freeze(),
        heal: |cluster, to| cluster.nodes[to].thaw(),
    },
    Fault {
        story: "the candidate's server is killed in mid-switchover",
        hurt: |cluster, to| cluster.nodes[to].postmaster().expect("a standby has a postmaster").signal_kill(),
        heal: |_, _| {},
    },
    Fault {
        story: "the candidate's node is killed in mid-switchover",
        hurt: |cluster, to| cluster.nodes[to].cut_power(),
        heal: |cluster, to| cluster.nodes[to].start(),
    },
];

#[test]
fn a_candidate_that_fails_in_the_middle_is_no_error_for_any_client() {
    let mut cluster = Cluster::running(Plan { lag_bytes_max: 64 << 20, ..Plan::short() });
    Load::tables(&cluster, 2);
    for fault in &FAULTS {
        // The fault may come a moment too late: then the candidate leads, or was to, and the next try counts.
        let called_off = (0..5).any(|_| called_off(&mut cluster, fault));
        assert!(called_off, "{}: the fault never came in time", fault.story);
    }
    let from = cluster.wait_ready_to_switch();
    cluster.switch_over(from, cluster.other_than(from));
}

fn called_off(cluster: &mut Cluster, fault: &Fault) -> bool {
    let story = fault.story;
    let from = cluster.wait_ready_to_switch();
    cluster.wait_caught_up(from);
    let (to, timeline) = (cluster.other_than(from), cluster.timeline());
    let load = Load::start(cluster, 4);
    let observation = cluster.observe();
    // A switchover takes milliseconds: the end of the log is kept back, so that the fault comes before the candidate has it.
    cluster.nodes[from].freeze_senders();
    let reply = struck(cluster, from, to, || (fault.hurt)(cluster, to));
    cluster.nodes[from].thaw_senders();
    println!("{story}: {reply:?}");
    let refused = reply.is_ok_and(|reply| reply.status >= 400);
    if !refused || cluster.leader() != Some(from) {
        (fault.heal)(cluster, to);
        drop(load);
        let conclusion = cluster.conclude(observation);
        conclusion.verdict.expect_nothing_lost(story);
        return false;
    }
    expect_unchanged(cluster, story, from, timeline);
    (fault.heal)(cluster, to);
    expect_unnoticed(cluster, observation, load, story);
    true
}

/// What makes the candidate's replay late, and what ends that.
struct Slow {
    story: &'static str,
    begin: fn(&Cluster, usize) -> Option<Session>,
    end: fn(&Cluster, usize),
}

fn set(cluster: &Cluster, node: usize, change: &str) {
    let session = Session::open(&cluster.nodes[node].server, secs(3)).expect("a standby admits sessions");
    session.query(&format!("ALTER SYSTEM {change}"), secs(5)).expect("a setting");
    session.query("SELECT pg_reload_conf()", secs(5)).expect("a reload");
}

const SLOW: [Slow; 3] = [
    Slow {
        story: "replay is paused on the candidate",
        begin: |cluster, to| {
            cluster.nodes[to].sql("SELECT pg_wal_replay_pause()").expect("replay can be paused");
            None
        },
        end: |cluster, to| {
            // A promotion ends it too.
            let resume = "SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()";
            cluster.nodes[to].sql(resume).expect("replay can be resumed");
        },
    },
    Slow {
        story: "the candidate replays 20 s late",
        begin: |cluster, to| {
            set(cluster, to, "SET recovery_min_apply_delay = '20s'");
            None
        },
        end: |cluster, to| set(cluster, to, "RESET recovery_min_apply_delay"),
    },
    Slow {
        story: "a query on the candidate holds up replay",
        begin: |cluster, to| Some(conflict(cluster, to)),
        end: |cluster, to| set(cluster, to, "RESET max_standby_streaming_delay"),
    },
];

/// A snapshot on the candidate that needs what the leader's vacuum has removed.
fn conflict(cluster: &Cluster, to: usize) -> Session {
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let rows = "CREATE TABLE IF NOT EXISTS conflict (g int); INSERT INTO conflict SELECT generate_series(1, 5000)";
    cluster.nodes[leader].sql(rows).expect("the leader takes writes");
    cluster.wait_caught_up(leader);
    set(cluster, to, "SET max_standby_streaming_delay = -1");
    let session = Session::open(&cluster.nodes[to].server, secs(3)).expect("a standby admits sessions");
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM conflict";
    session.query(snapshot, secs(5)).expect("a standby can be read");
    cluster.nodes[leader].sql("DELETE FROM conflict").expect("the leader takes writes");
    cluster.nodes[leader].sql("VACUUM conflict").expect("the leader takes writes");
    cluster.wait("replay to be held up", secs(20), || {
        let behind = "SELECT pg_last_wal_replay_lsn() < pg_last_wal_receive_lsn()";
        std::thread::sleep(secs(1));
        (cluster.nodes[to].value(behind).ok()??.as_str() == "t").then_some(())
    });
    session
}

/// Commits are not held while a candidate replays: it is refused, or it was not slow after all.
#[test]
fn a_candidate_that_replays_late_is_not_waited_for_with_commits_held() {
    let cluster = Cluster::running(Plan::short());
    Load::tables(&cluster, 2);
    for slow in &SLOW {
        let from = cluster.wait_ready_to_switch();
        let (to, timeline) = (cluster.other_than(from), cluster.timeline());
        let load = Load::start(&cluster, 2);
        let observation = cluster.observe();
        let session = (slow.begin)(&cluster, to);
        std::thread::sleep(secs(1));
        let reply = cluster.switchover(from, to).expect("the leader answers");
        println!("{}: {} {}", slow.story, reply.status, reply.body);
        if reply.status < 400 {
            // The candidate may end what holds it up, as a new leader has to.
            cluster.wait("the candidate to serve", secs(20), || cluster.nodes[to].is("/primary").then_some(()));
            drop((load, session));
            (slow.end)(&cluster, to);
            let conclusion = cluster.conclude(observation);
            conclusion.verdict.expect_nothing_lost(slow.story);
            println!("{}: write gap {} ms", slow.story, conclusion.verdict.gap.as_millis());
            assert!(conclusion.verdict.gap < HELD_MAX, "{}: {:?}", slow.story, conclusion.verdict.gap);
            continue;
        }
        expect_unchanged(&cluster, slow.story, from, timeline);
        drop(session);
        (slow.end)(&cluster, to);
        cluster.wait_caught_up(from);
        expect_unnoticed(&cluster, observation, load, slow.story);
        // Nothing stands in its way any more.
        let from = cluster.wait_ready_to_switch();
        cluster.switch_over(from, to);
    }
}
