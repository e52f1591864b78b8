//! What a leader in a virtual machine does that its hypervisor pauses until another node leads, and then lets go on: how long it
//! still acknowledges commits. The numbers of `docs/clocks.md`; `make qemu-pause` runs it.
//!
//! `qemu_pause FILES [--runs N] [--ttl SECONDS] [--hardware-clock yes|no] [--deaf SECONDS]`, where FILES is what `scripts/qemu.sh`
//! prints. `--ttl 30` stands for the shipped timing. With `--deaf` the guest hears of the store only so long after each resume: what it
//! acknowledges until its deadline shows what the others keep it from.

use ha_tests::cluster::Cluster;
use ha_tests::guest::{ADDRESS, Guest, Hardware, Reading};
use ha_tests::node::Node;
use ha_tests::plan::{Plan, Site};
use ha_tests::program;
use ha_tests::wait::{millis, secs};
use ha_tests::writer::{Ack, Refusal, Style, Target, Writers};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Clients that write to the guest alone and give up a statement after a second, and as many that hold their connections through the pause.
const PINNED: usize = 4;
const HELD: Duration = secs(180);
/// How much longer than until another node leads the guest is paused.
const LONGER: Duration = secs(5);
/// The guest, in the cluster's list of nodes.
const GUEST: usize = 2;

struct Wish {
    files: PathBuf,
    runs: usize,
    ttl: u32,
    hardware_clock: bool,
    deaf: Duration,
}

impl Wish {
    fn from_arguments() -> Result<Self, String> {
        let mut words = std::env::args().skip(1);
        let files = PathBuf::from(words.next().ok_or("the directory that scripts/qemu.sh printed is needed")?);
        let mut wish = Self { files, runs: 5, ttl: 5, hardware_clock: true, deaf: Duration::ZERO };
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
            let number = |error: std::num::ParseIntError| format!("{flag} {value}: {error}");
            match flag.as_str() {
                "--runs" => wish.runs = value.parse().map_err(number)?,
                "--ttl" => wish.ttl = value.parse().map_err(number)?,
                "--deaf" => wish.deaf = secs(value.parse().map_err(number)?),
                "--hardware-clock" => wish.hardware_clock = value == "yes",
                _ => return Err(format!("what is {flag} {value}?")),
            }
        }
        Ok(wish)
    }

    fn plan(&self) -> Plan {
        let plan = Plan { nodes: 2, ..Plan::short() }.in_network();
        if self.ttl == 30 { plan.default_timing() } else { Plan { ttl: self.ttl, ..plan } }
    }
}

/// What one pause led to.
#[derive(Clone, Copy, Debug)]
struct Seen {
    paused: Duration,
    stale: usize,
    /// From the resume to the last stale acknowledgement.
    lasted: Duration,
    /// From the resume to the first refusal or broken connection after the first answer.
    refused: Option<Duration>,
}

fn main() -> std::process::ExitCode {
    program::run(Wish::from_arguments(), measure)
}

fn measure(wish: &Wish) {
    let (mut cluster, mut guest) = start(wish);
    println!("guest: {} under QEMU's {}", guest.shell("uname -r"), guest.accelerator);
    compare_clocks(&mut guest);
    let mut seen: Vec<Seen> = Vec::new();
    for run in 0..wish.runs * 2 {
        if seen.len() < wish.runs {
            seen.extend(strike(&mut cluster, &mut guest, run, wish.deaf));
        }
    }
    if seen.is_empty() {
        println!("no run counts: this machine is too slow for a ttl of {} s", wish.ttl);
        return;
    }
    report(wish, &seen);
    for line in guest.printed().lines().filter(|line| line.contains("clock")) {
        println!("    {}", line.trim());
    }
}

fn start(wish: &Wish) -> (Cluster, Guest) {
    let plan = wish.plan();
    let mut cluster = Cluster::running(plan);
    let dir = cluster.scratch.path().join("n3");
    let site =
        Site { name: "n3".into(), host: ADDRESS.into(), pg_port: 5432, rest_port: 8008, dir: dir.clone(), netns: None };
    let node = Node::prepare(&cluster.plan, &site, &cluster.etcd.endpoints());
    let hardware = Hardware { clock: wish.hardware_clock, watchdog: false, nowayout: false };
    let guest = Guest::start(cluster.scratch.path(), &dir, &wish.files, hardware);
    cluster.nodes.push(node);
    let leader = cluster.wait_healthy(secs(300));
    println!("the guest streams from {}", cluster.nodes[leader].name);
    (cluster, guest)
}

/// Which clocks go on while the guest is paused.
fn compare_clocks(guest: &mut Guest) {
    const PAUSE: Duration = secs(6);
    let first = guest.clock_source();
    println!(
        "| the guest's kernel counts by | CLOCK_BOOTTIME went on by | time of day | hardware clock |\n|---|---|---|---|"
    );
    for source in guest.clock_sources() {
        guest.count_by(&source);
        let (before, after) = guest.over_a_pause(PAUSE);
        let by = |clock: fn(&Reading) -> i64| f64_s(clock(&after) - clock(&before));
        let hardware = after.hardware.zip(before.hardware).map(|(after, before)| f64_s(after - before));
        println!(
            "| {source}{} | {:.2} s | {:.2} s | {} |",
            if source == first { " (its choice)" } else { "" },
            by(|clocks| clocks.boottime),
            by(|clocks| clocks.wall),
            hardware.map_or("none".to_owned(), |by| format!("{by:.0} s"))
        );
    }
    guest.count_by(&first);
    println!("(paused for {} s each)", PAUSE.as_secs());
}

#[allow(clippy::cast_precision_loss)] // A few seconds.
fn f64_s(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// One pause; `None` if the guest had lost its lease before, as one that is emulated on a busy machine may.
fn strike(cluster: &mut Cluster, guest: &mut Guest, run: usize, deaf: Duration) -> Option<Seen> {
    let leader = cluster.wait_healthy(secs(300));
    if leader != GUEST {
        cluster.wait_ready_to_switch();
        cluster.switch_over(leader, GUEST);
        cluster.wait_healthy(secs(120));
    }
    // Let a few renewals pass: the pause is to hit anywhere between two of them.
    std::thread::sleep(secs(u64::from(cluster.plan.loop_wait)) * 2 + millis(137) * u32::try_from(run).unwrap_or(0));
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let patient = Style { patience: secs(1), ..Style::default() };
    let pinned = vec![Target::Pinned(cluster.nodes[GUEST].server.clone()); PINNED];
    let held = Writers::start(pinned.clone(), &Style { patience: HELD, ..Style::default() });
    let roaming = vec![Target::AnyPrimary(cluster.servers_from(0)); 2];
    let writers = Writers::start([pinned, roaming].concat(), &patient);
    let under_way = || (writers.acked() > 150 && held.acked() > 50).then_some(());
    cluster.wait("the clients to be under way", secs(60), under_way);

    let paused_at = Instant::now();
    guest.pause();
    let first = cluster.wait("a write on the new leader", secs(120), || writers.first_ack_above(timeline, paused_at));
    std::thread::sleep(LONGER);
    let network = cluster.network.as_ref().expect("the guest is on a network");
    if !deaf.is_zero() {
        // The store has the first machine behind the nodes.
        network.cut_stranger(cluster.plan.nodes, ADDRESS);
    }
    let resumed_at = Instant::now();
    guest.resume();
    std::thread::sleep(deaf);
    network.heal();
    std::thread::sleep(secs(u64::from(cluster.plan.ttl)) + secs(2));
    let (mut acks, mut refusals) = writers.stop();
    let (of_held, refused) = held.stop();
    acks.extend(of_held);
    refusals.extend(refused);
    refusals.sort_by_key(|refusal| refusal.at);
    if first.acked_at - paused_at < secs(u64::from(cluster.plan.ttl)) / 2 {
        println!("run {run} does not count: the guest had lost its lease before it was paused");
        return None;
    }
    let stale = |ack: &&Ack| ack.timeline <= timeline && ack.acked_at > first.acked_at;
    let seen = Seen {
        paused: resumed_at - paused_at,
        stale: acks.iter().filter(stale).count(),
        lasted: acks.iter().filter(stale).map(|ack| ack.acked_at - resumed_at).max().unwrap_or_default(),
        refused: first_refusal(&refusals, resumed_at),
    };
    println!(
        "run {run}: paused for {} ms, {} stale acknowledgements, the last {} ms after the resume, refused after {:?}",
        seen.paused.as_millis(),
        seen.stale,
        seen.lasted.as_millis(),
        seen.refused
    );
    Some(seen)
}

/// When clients first heard of a server that is no leader any more. Connections that had been given up before say nothing.
fn first_refusal(refusals: &[Refusal], resumed_at: Instant) -> Option<Duration> {
    let told = |refusal: &&Refusal| refusal.error.starts_with("25006") || refusal.error.starts_with("57P");
    refusals.iter().filter(|refusal| refusal.at > resumed_at).find(told).map(|refusal| refusal.at - resumed_at)
}

fn report(wish: &Wish, seen: &[Seen]) {
    let mut lasted: Vec<Duration> = seen.iter().map(|seen| seen.lasted).collect();
    let mut stale: Vec<usize> = seen.iter().map(|seen| seen.stale).collect();
    lasted.sort_unstable();
    stale.sort_unstable();
    let (middle, last) = (seen.len() / 2, seen.len().saturating_sub(1));
    println!(
        "| ttl | hardware clock | store heard | pauses | stale acknowledgements, median / max | for how long, median / max |\n\
         |---|---|---|---|---|---|"
    );
    println!(
        "| {} | {} | {} | {} | {} / {} | {} / {} ms |",
        wish.ttl,
        if wish.hardware_clock { "yes" } else { "no" },
        if wish.deaf.is_zero() { "at once".to_owned() } else { format!("after {} s", wish.deaf.as_secs()) },
        seen.len(),
        stale[middle],
        stale[last],
        lasted[middle].as_millis(),
        lasted[last].as_millis()
    );
}
