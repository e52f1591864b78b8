//! Faults repeated often, on several clusters side by side, since each is mostly waiting; what they cost is counted.

use crate::report::Report;
use ha_tests::cluster::Cluster;
use ha_tests::oracle::{Flushed, judge};
use ha_tests::plan::{Plan, System};
use ha_tests::wait::{poll, secs};
use ha_tests::writer::{Style, Target, Writers};
use std::time::{Duration, Instant};

/// Clusters of ours at a time.
const SIDE_BY_SIDE: usize = 4;
/// Patroni's lease is four times as long, so it gets fewer runs.
const FEWER: usize = 10;

/// What a fault does, and what is counted.
#[derive(Clone, Copy)]
enum Fault {
    Paused,
    AgentKilled,
}

impl Fault {
    fn label(self) -> &'static str {
        match self {
            Fault::Paused => "node paused and resumed: stale acknowledgements",
            Fault::AgentKilled => "agent killed: rows lost",
        }
    }
}

/// Runs both faults on both systems at once.
pub fn measure(report: &mut Report, systems: &[System], runs: usize) {
    for fault in [Fault::Paused, Fault::AgentKilled] {
        let jobs: Vec<(System, usize)> = systems
            .iter()
            .flat_map(|system| match system {
                System::HaExt => vec![(System::HaExt, runs.div_ceil(SIDE_BY_SIDE)); SIDE_BY_SIDE],
                System::Patroni => vec![(System::Patroni, runs.div_ceil(FEWER))],
            })
            .collect();
        let found: Vec<(System, Vec<usize>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = jobs
                .into_iter()
                .map(|(system, times)| (system, scope.spawn(move || repeated(system, fault, times))))
                .collect();
            let joined = threads.into_iter().map(|(system, thread)| (system, thread.join().expect("no run panics")));
            joined.collect()
        });
        for (system, counts) in found {
            let name = if system == System::HaExt { crate::OURS } else { crate::PATRONI };
            for count in counts {
                report.tally(fault.label(), name, count);
            }
        }
    }
}

fn repeated(system: System, fault: Fault, times: usize) -> Vec<usize> {
    let plan = Plan { system, ..Plan::short() };
    let mut cluster = Cluster::running(if system == System::Patroni { plan.tight_timing() } else { plan });
    (0..times).map(|_| strike(&mut cluster, fault)).collect()
}

fn strike(cluster: &mut Cluster, fault: Fault) -> usize {
    let leader = cluster.wait_healthy(secs(120));
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let roaming = Target::AnyPrimary(cluster.servers_from(0));
    let pinned = cluster.nodes.iter().map(|node| Target::Pinned(node.server.clone()));
    let writers = Writers::start(std::iter::once(roaming).chain(pinned).collect(), &Style::default());
    cluster.wait("the clients to be under way", secs(30), || (writers.acked() > 50).then_some(()));
    match fault {
        Fault::Paused => paused(cluster, leader, timeline, writers),
        Fault::AgentKilled => agent_killed(cluster, leader, writers),
    }
}

fn paused(cluster: &Cluster, leader: usize, timeline: u32, writers: Writers) -> usize {
    let at = Instant::now();
    cluster.nodes[leader].freeze();
    let first = cluster.wait("a write on the new leader", secs(60), || writers.first_ack_above(timeline, at));
    cluster.nodes[leader].thaw();
    std::thread::sleep(secs(2));
    let (acks, _) = writers.stop();
    cluster.wait_healthy(secs(120));
    acks.iter().filter(|ack| ack.timeline <= timeline && ack.acked_at > first.acked_at).count()
}

fn agent_killed(cluster: &mut Cluster, leader: usize, writers: Writers) -> usize {
    let worker = cluster.nodes[leader].worker();
    let at = Instant::now();
    cluster.nodes[leader].kill_supervisor();
    if let Some(worker) = worker {
        worker.kill();
    }
    // Ours goes on by itself; of Patroni's an abandoned server goes on, and another node leads when its lease is over.
    let lease = Duration::from_secs(u64::from(cluster.plan.ttl));
    let other = poll(lease + secs(3), || cluster.leader().filter(|now| *now != leader));
    if other.is_none() {
        cluster.wait("a write after the fault", secs(60), || writers.first_ack_sent_after(at));
    }
    std::thread::sleep(secs(2));
    cluster.nodes[leader].start();
    let now = cluster.wait_healthy(secs(180));
    let (acks, _) = writers.stop();
    judge(&acks, &Flushed::default(), &cluster.nodes[now].server).lost.len()
}
