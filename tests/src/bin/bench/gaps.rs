//! Write gaps and lost rows for each fault.

use crate::Subject;
use crate::report::Report;
use ha_tests::cluster::Cluster;
use ha_tests::load::Load;
use ha_tests::oracle::{Flushed, judge};
use ha_tests::plan::System;
use ha_tests::rest;
use ha_tests::wait::{millis, poll, secs};
use ha_tests::writer::{Ack, Style, Target, Writers};
use serde_json::json;
use std::time::{Duration, Instant};

/// Sets the dynamic timing and waits until every node lives by it.
pub fn set_timing(subjects: &[Subject], ttl: u32, loop_wait: u32, retry_timeout: u32, primary_start_timeout: u32) {
    for subject in subjects {
        let cluster = &subject.cluster;
        let leader = cluster.wait_healthy(secs(120));
        let body = json!({
            "ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout, "primary_start_timeout": primary_start_timeout
        });
        let reply = rest::patch(&cluster.nodes[leader].rest, "/config", &body).expect("the leader answers");
        assert_eq!(reply.status, 200, "PATCH /config: {}", reply.body);
    }
    // A sleeping agent looks at the configuration after the old loop_wait at the latest.
    std::thread::sleep(secs(11));
}

/// One client.
pub fn client(cluster: &Cluster) -> Writers {
    let target = Target::AnyPrimary(cluster.servers_from(0));
    let writers = Writers::start(vec![target], &Style { interval: millis(5), patience: secs(1) });
    cluster.wait("the client to be under way", secs(30), || (writers.acked() > 100).then_some(()));
    writers
}

/// Spreads the faults evenly over the period of the agent's loop: what it does next depends on where in it a fault falls.
fn wait_for_phase(run: usize, runs: usize, loop_wait: u32) {
    let (run, runs) = (u32::try_from(run).expect("a few runs"), u32::try_from(runs).expect("a few runs"));
    std::thread::sleep(secs(loop_wait.into()) * run / runs);
}

/// What one fault cost.
pub struct Damage {
    /// The longest time without a commit.
    pub gap: Duration,
    /// Rows that were acknowledged and are gone.
    pub lost: usize,
    /// Every acknowledgement.
    pub acks: Vec<Ack>,
}

/// Waits until a write on a connection made after the fault is acknowledged, lets things settle, ends the load, and judges.
pub fn assess(cluster: &Cluster, writers: Writers, fault: Instant, load: Option<Load>) -> Damage {
    cluster.wait("a write after the fault", secs(120), || writers.first_ack_connected_after(fault));
    std::thread::sleep(millis(500));
    let (acks, _) = writers.stop();
    drop(load);
    // A client may still write to the old server after the fault: the gap is the longest silence, wherever it lies.
    let leader = cluster.wait_healthy(secs(180));
    let verdict = judge(&acks, &Flushed::default(), &cluster.nodes[leader].server);
    let rows = cluster.nodes[leader].sql("TRUNCATE ha_log");
    assert!(rows.is_ok(), "the leader takes no write: {rows:?}");
    Damage { gap: verdict.gap, lost: verdict.lost.len(), acks }
}

/// SIGKILL of the postmaster: restart in place, or failover at once when `primary_start_timeout` is 0.
pub fn postmaster_killed(subjects: &mut [Subject], report: &mut Report, runs: usize, primary_start_timeout: u32) {
    let (label, ttl, loop_wait, retry_timeout) = if primary_start_timeout == 0 {
        ("postmaster killed, primary_start_timeout 0, ttl 20, loop_wait 1", 20, 1, 3)
    } else {
        ("postmaster killed, restart in place", 30, 10, 10)
    };
    set_timing(subjects, ttl, loop_wait, retry_timeout, primary_start_timeout);
    for run in 0..runs {
        for subject in &mut *subjects {
            let cluster = &subject.cluster;
            let leader = cluster.wait_healthy(secs(120));
            wait_for_phase(run, runs, loop_wait);
            let writers = client(cluster);
            let fault = Instant::now();
            cluster.nodes[leader].postmaster().expect("a leader has a postmaster").kill();
            let damage = assess(cluster, writers, fault, None);
            report.add(&format!("{label}, write gap"), "s", subject.name, damage.gap.as_secs_f64());
            report.add(&format!("{label}, rows lost"), "rows", subject.name, count(damage.lost));
        }
    }
}

/// The store is away until nobody may write any more, and comes back. It is the same store for every system.
pub fn store_back(subjects: &mut [Subject], report: &mut Report, runs: usize) {
    let (ttl, loop_wait) = (20, 1);
    set_timing(subjects, ttl, loop_wait, 3, 300);
    for run in 0..runs {
        for subject in &*subjects {
            subject.cluster.wait_healthy(secs(120));
        }
        wait_for_phase(run, runs, loop_wait);
        let clients: Vec<Writers> = subjects.iter().map(|subject| client(&subject.cluster)).collect();
        let fault = Instant::now();
        subjects[0].cluster.etcd.kill();
        std::thread::sleep(secs(u64::from(ttl) + 3));
        let silent_since = Instant::now();
        subjects[0].cluster.etcd.start_member(0);
        let cluster = &subjects[0].cluster;
        let serves = || cluster.etcd.held(&cluster.key("leader")).is_ok().then(Instant::now);
        let back = cluster.wait("the store to serve", secs(30), serves);
        for (subject, writers) in subjects.iter().zip(clients) {
            let first = || writers.first_ack_sent_after(silent_since);
            let first = subject.cluster.wait("a write after the store is back", secs(120), first);
            let after = first.acked_at.saturating_duration_since(back).as_secs_f64();
            let damage = assess(&subject.cluster, writers, fault, None);
            report.add(
                "store lost for 23 s, ttl 20, loop_wait 1, first write after it is back",
                "s",
                subject.name,
                after,
            );
            report.add("store lost for 23 s, rows lost", "rows", subject.name, count(damage.lost));
        }
    }
}

/// The whole node of the leader is killed.
pub fn host_lost(subjects: &mut [Subject], report: &mut Report, runs: usize) {
    set_timing(subjects, 20, 1, 3, 300);
    lose_hosts(subjects, report, runs, "host lost, ttl 20, loop_wait 1");
}

/// The same with a lease that Patroni does not accept.
pub fn host_lost_short(subjects: &mut [Subject], report: &mut Report, runs: usize) {
    let Some(ours) = subjects.iter().position(|subject| subject.system == System::HaExt) else { return };
    let subjects = &mut subjects[ours..=ours];
    set_timing(subjects, 5, 1, 3, 300);
    lose_hosts(subjects, report, runs, "host lost, ttl 5, loop_wait 1");
}

fn lose_hosts(subjects: &mut [Subject], report: &mut Report, runs: usize, label: &str) {
    for run in 0..runs {
        for subject in &mut *subjects {
            let leader = subject.cluster.wait_healthy(secs(120));
            wait_for_phase(run, runs, 1);
            let timeline = subject.cluster.timeline().expect("a healthy cluster has a timeline");
            let writers = client(&subject.cluster);
            let fault = Instant::now();
            subject.cluster.nodes[leader].kill();
            let lease_end = subject.cluster.etcd.lease_end(&subject.cluster.key("leader"));
            let cluster = &subject.cluster;
            let first = cluster.wait("a write on the new timeline", secs(120), || {
                poll(millis(50), || writers.first_ack_above(timeline, fault))
            });
            let back = Instant::now();
            subject.cluster.nodes[leader].start();
            let damage = assess(&subject.cluster, writers, fault, None);
            report.add(&format!("{label}, write gap"), "s", subject.name, damage.gap.as_secs_f64());
            if let Some(lease_end) = lease_end {
                let after = first.acked_at.saturating_duration_since(lease_end).as_secs_f64();
                report.add(&format!("{label}, first write after the end of the lease"), "s", subject.name, after);
            }
            let rejoined = back.elapsed().as_secs_f64();
            report.add(&format!("{label}, old leader streams again after its start"), "s", subject.name, rejoined);
            report.add(&format!("{label}, rows lost"), "rows", subject.name, count(damage.lost));
            assert!(damage.acks.len() > 100, "the client wrote too little to lose anything");
        }
    }
}

pub fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
