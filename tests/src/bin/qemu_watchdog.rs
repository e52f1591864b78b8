//! What the watchdog of a machine does to a leader whose processes hang, and to one that is asked to hand over: the numbers of
//! `docs/watchdog.md`; `make qemu-watchdog` runs it.
//!
//! `qemu_watchdog FILES [--nowayout yes|no]`, where FILES is what `scripts/qemu.sh` prints. Two nodes run on this machine, the third in a
//! virtual one with an i6300ESB, whose timer is QEMU's: what it does to the guest it does whatever the guest does.

use ha_tests::cluster::Cluster;
use ha_tests::guest::{ADDRESS, Guest, Hardware};
use ha_tests::node::Node;
use ha_tests::plan::{Plan, Site};
use ha_tests::program;
use ha_tests::wait::secs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The guest, in the cluster's list of nodes.
const GUEST: usize = 2;
/// `ttl` 30 less the safety margin of 5.
const TIMEOUT: Duration = secs(25);
/// For how long it is watched that nothing is reset.
const WATCHED: Duration = secs(60);
/// What a machine that is emulated takes to tell of anything.
const LATE: Duration = secs(3);

struct Wish {
    files: PathBuf,
    nowayout: bool,
}

impl Wish {
    fn from_arguments() -> Result<Self, String> {
        let mut words = std::env::args().skip(1);
        let files = PathBuf::from(words.next().ok_or("the directory that scripts/qemu.sh printed is needed")?);
        let mut wish = Self { files, nowayout: false };
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--nowayout" => wish.nowayout = value == "yes",
                _ => return Err(format!("what is {flag} {value}?")),
            }
        }
        Ok(wish)
    }
}

fn main() -> std::process::ExitCode {
    program::run(Wish::from_arguments(), measure)
}

fn measure(wish: &Wish) {
    let (mut cluster, mut guest) = start(wish);
    println!("guest: {} under QEMU's {}", guest.shell("uname -r"), guest.accelerator);
    lead(&mut cluster);
    let device = ["identity", "state", "timeout", "nowayout"].map(|name| format!("{name} {}", said(&mut guest, name)));
    println!("the guest leads; its watchdog: {}", device.join(", "));
    println!("who has it open: {}", holders(&mut guest).join(", "));
    stays_up(&mut guest, "as the leader");
    hand_over(&mut cluster, &mut guest, wish);
    lead(&mut cluster);
    hang(&mut cluster, &mut guest);
}

fn start(wish: &Wish) -> (Cluster, Guest) {
    let plan = Plan { nodes: 2, ..Plan::short() }.in_network().default_timing();
    let mut cluster = Cluster::running(plan);
    let dir = cluster.scratch.path().join("n3");
    let site =
        Site { name: "n3".into(), host: ADDRESS.into(), pg_port: 5432, rest_port: 8008, dir: dir.clone(), netns: None };
    let node = Node::prepare(&cluster.plan, &site, &cluster.etcd.endpoints());
    let mut file = std::fs::OpenOptions::new().append(true).open(node.file()).expect("it was just written");
    file.write_all(b"watchdog:\n  mode: required\n").expect("a file can be written");
    let hardware = Hardware { clock: true, watchdog: true, nowayout: wish.nowayout };
    let guest = Guest::start(cluster.scratch.path(), &dir, &wish.files, hardware);
    cluster.nodes.push(node);
    cluster.wait_healthy(secs(300));
    (cluster, guest)
}

/// The guest is made the leader.
fn lead(cluster: &mut Cluster) {
    let leader = cluster.wait_healthy(secs(300));
    if leader != GUEST {
        cluster.wait_ready_to_switch();
        cluster.switch_over(leader, GUEST);
        assert_eq!(cluster.wait_healthy(secs(120)), GUEST);
    }
}

/// What its kernel says of the device.
fn said(guest: &mut Guest, what: &str) -> String {
    guest.shell(&format!("cat /sys/class/watchdog/watchdog0/{what}"))
}

/// The processes that have the device open, by number and name.
fn holders(guest: &mut Guest) -> Vec<String> {
    let found = guest.shell(
        "for d in /proc/[0-9]*; do ls -l $d/fd 2>/dev/null | grep -q /dev/watchdog && echo ${d#/proc/} $(tr '\\0' ' ' <$d/cmdline); done",
    );
    found.lines().map(|line| line.trim().to_owned()).collect()
}

/// Nothing resets it for more than twice the timeout.
fn stays_up(guest: &mut Guest, how: &str) {
    let reset = guest.event("WATCHDOG", WATCHED);
    assert!(reset.is_none(), "{how} it is reset although nothing is wrong with it");
    println!("{how} it was not reset for {} s", WATCHED.as_secs());
}

/// A planned hand-over: the device is stopped, or fed on if it cannot be, and nothing is reset.
fn hand_over(cluster: &mut Cluster, guest: &mut Guest, wish: &Wish) {
    let next = cluster.other_than(GUEST);
    cluster.wait_ready_to_switch();
    cluster.switch_over(GUEST, next);
    assert_eq!(cluster.wait_healthy(secs(120)), next);
    let expected = if wish.nowayout { "active" } else { "inactive" };
    cluster.wait("the device to be let go", TIMEOUT, || (said(guest, "state") == expected).then_some(()));
    println!("handed over: the device is {expected}");
    stays_up(guest, "as a standby");
}

/// Whoever has the device open is frozen while the guest leads.
fn hang(cluster: &mut Cluster, guest: &mut Guest) {
    let holders = holders(guest);
    let numbers: Vec<&str> = holders.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(numbers.len(), 2, "worker and supervisor have it open: {holders:?}");
    let frozen_at = Instant::now();
    let said = guest.shell(&format!("kill -STOP {}", numbers.join(" ")));
    assert!(said.is_empty(), "{said}");
    let reset = guest.event("WATCHDOG", TIMEOUT + LATE);
    let reset_at = reset.unwrap_or_else(|| panic!("the guest is not reset:\n{}", guest.printed()));
    println!("frozen ({}): reset {:.1} s later", holders.join(", "), (reset_at - frozen_at).as_secs_f32());
    let leader = cluster.wait_other_leader(GUEST, secs(60));
    let led_at = Instant::now();
    assert!(led_at > reset_at, "another leads before the guest is reset");
    println!("{} leads {:.1} s after the reset", cluster.nodes[leader].name, (led_at - reset_at).as_secs_f32());
    guest.wait_up(2);
    println!("the guest has booted again {:.0} s after the reset", reset_at.elapsed().as_secs_f32());
}
