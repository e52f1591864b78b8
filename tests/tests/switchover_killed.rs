//! SIGKILL of everybody who takes part in a switchover, at a random moment of it.

use ha_tests::chance::{Chance, times};
use ha_tests::cluster::Cluster;
use ha_tests::daemon::run;
use ha_tests::load::Load;
use ha_tests::plan::Plan;
use ha_tests::wait::{millis, secs};
use std::time::{Duration, Instant};

/// From when the leader is ready to become a standby until its candidate leads.
const HAND_OVER: Duration = Duration::from_millis(60);

/// Who is killed.
struct Victim {
    story: &'static str,
    kill: fn(&Cluster, usize, usize),
    /// Its node needs a new supervisor.
    start: Option<fn(usize, usize) -> usize>,
    /// The whole machinery of the leader is gone, so that its standbys decide by what they have received.
    may_lose_unreplicated: bool,
}

const VICTIMS: [Victim; 6] = [
    Victim {
        story: "the old leader's worker",
        kill: |cluster, from, _| {
            if let Some(worker) = cluster.nodes[from].worker() {
                worker.signal_kill();
            }
        },
        start: None,
        may_lose_unreplicated: false,
    },
    Victim {
        story: "the old leader's supervisor",
        kill: |cluster, from, _| {
            if let Some(supervisor) = cluster.nodes[from].supervisor() {
                supervisor.signal_kill();
            }
        },
        start: Some(|from, _| from),
        may_lose_unreplicated: false,
    },
    Victim {
        story: "the old leader's postmaster",
        kill: |cluster, from, _| {
            if let Some(postmaster) = cluster.nodes[from].postmaster() {
                postmaster.signal_kill();
            }
        },
        start: None,
        may_lose_unreplicated: false,
    },
    Victim {
        story: "the old leader's node",
        kill: |cluster, from, _| cluster.nodes[from].cut_power(),
        start: Some(|from, _| from),
        may_lose_unreplicated: true,
    },
    Victim {
        story: "the candidate's worker",
        kill: |cluster, _, to| {
            if let Some(worker) = cluster.nodes[to].worker() {
                worker.signal_kill();
            }
        },
        start: None,
        may_lose_unreplicated: false,
    },
    Victim {
        story: "the candidate's node",
        kill: |cluster, _, to| cluster.nodes[to].cut_power(),
        start: Some(|_, to| to),
        // Once it leads it may acknowledge what nobody else has yet.
        may_lose_unreplicated: true,
    },
];

#[test]
fn whoever_dies_in_a_switchover_one_leader_emerges_and_nothing_is_lost() {
    let mut chance = Chance::seeded();
    let mut cluster = Cluster::running(Plan::short());
    Load::tables(&cluster, 2);
    for round in 0..times("HA_TESTS_KILLS", 1) {
        for victim in &VICTIMS {
            strike(&mut cluster, victim, round, &mut chance);
        }
    }
}

fn strike(cluster: &mut Cluster, victim: &Victim, round: usize, chance: &mut Chance) {
    let from = cluster.wait_ready_to_switch();
    cluster.wait_caught_up(from);
    let to = cluster.other_than(from);
    let load = Load::start(cluster, 4);
    let observation = cluster.observe();
    let delay = chance.delay(HAND_OVER);
    let (reply, fault) = std::thread::scope(|scope| {
        let striker = scope.spawn(|| {
            let parked = cluster.saw_parked(from, secs(10));
            std::thread::sleep(delay);
            let at = Instant::now();
            (victim.kill)(cluster, from, to);
            (parked, at)
        });
        let reply = cluster.switchover(from, to);
        (reply, striker.join().expect("the striker does not panic"))
    });
    let story = format!("{} killed {delay:?} into the hand-over, round {round}", victim.story);
    println!("{story} (seen: {}): {reply:?}", fault.0);
    if let Some(whose) = victim.start {
        std::thread::sleep(millis(500));
        cluster.nodes[whose(from, to)].start();
    }
    // One that was called off leaves every connection as it was.
    cluster
        .wait("a write after the fault", secs(60), || observation.writers.first_ack_sent_after(fault.1 + millis(500)));
    std::thread::sleep(secs(1));
    drop(load);
    let conclusion = cluster.conclude(observation);
    println!("{story}: write gap {} ms", conclusion.verdict.gap.as_millis());
    if victim.may_lose_unreplicated {
        conclusion.verdict.expect_only_unreplicated_lost(&story, fault.1, millis(500));
    } else {
        conclusion.verdict.expect_nothing_lost(&story);
    }
}

#[test]
fn a_worker_that_ends_by_an_error_with_the_log_in_its_hands_does_not_let_go_of_it() {
    let cluster = Cluster::running(Plan::short());
    let from = cluster.wait_ready_to_switch();
    cluster.wait_caught_up(from);
    let observation = cluster.observe();
    let logged = cluster.nodes[from].server_log().len();
    // The candidate never has the end of the log, so that it is held for a second.
    cluster.nodes[from].freeze_senders();
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.switchover(from, cluster.other_than(from)));
        assert!(cluster.saw_parked(from, secs(10)), "the switchover never came near the end of the log");
        cluster.wait_held(&observation);
        // Its next wait needs a file descriptor.
        let worker = cluster.nodes[from].worker().expect("a leader has a loop worker");
        run(&["runuser", "-u", "postgres", "--", "prlimit", "--nofile=3:3", "--pid", &worker.pid.to_string()])
            .expect("a limit can be set");
        let said = || {
            let log = cluster.nodes[from].server_log();
            let log = log.get(logged..).unwrap_or_default();
            log.contains("terminating any other active server processes").then_some(())
        };
        cluster.wait("recovery to begin", secs(10), said);
    });
    cluster.nodes[from].thaw_senders();
    let since = Instant::now();
    cluster.wait("a write after it", secs(30), || observation.writers.first_ack_sent_after(since));
    cluster.wait_answered();
    cluster.conclude(observation).verdict.expect_nothing_lost("the worker ended by an error");
}
