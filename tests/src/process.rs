//! Processes by pid *and* start time, so that a recycled pid is never signalled, and what belongs to a node.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// One process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proc {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

/// The fields of `/proc/<pid>/stat` we use.
struct Stat {
    state: char,
    parent: i32,
    cpu_ticks: u64,
    ended_children_ticks: u64,
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain blanks and parentheses: everything after the last one is regular.
    let rest = text.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        cpu_ticks: number(11)? + number(12)?,
        ended_children_ticks: number(13)? + number(14)?,
        started: number(19)?,
    })
}

impl Proc {
    /// The process that has this pid now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (stat.state != 'Z').then_some(Self { pid, started: stat.started })
    }

    /// Whether this very process still runs (a zombie does not).
    #[must_use]
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Whether it is stopped by a signal.
    #[must_use]
    pub fn is_stopped(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.state == 'T')
    }

    /// Sends a signal unless the process is gone.
    pub fn signal(self, signal: Signal) {
        if self.alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may end between the check and the call; then there is nobody to signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL, then waits until it is gone.
    pub fn kill(self) {
        self.signal(Signal::KILL);
        assert!(self.wait_gone(Duration::from_secs(10)), "process {} survived SIGKILL", self.pid);
    }

    /// SIGKILL without waiting, for a moment that must be met.
    pub fn signal_kill(self) {
        self.signal(Signal::KILL);
    }

    /// Freezes it.
    pub fn freeze(self) {
        self.signal(Signal::STOP);
    }

    /// Thaws it.
    pub fn thaw(self) {
        self.signal(Signal::CONT);
    }

    /// Whether it was gone within this time.
    #[must_use]
    pub fn wait_gone(self, within: Duration) -> bool {
        let begun = Instant::now();
        while self.alive() {
            if begun.elapsed() > within {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Its command line, arguments separated by blanks.
    #[must_use]
    pub fn command(self) -> String {
        let raw = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&raw).replace('\0', " ").trim_end().to_owned()
    }

    /// CPU time used so far, in clock ticks (1/100 s).
    #[must_use]
    pub fn cpu_ticks(self) -> u64 {
        stat(self.pid).filter(|stat| stat.started == self.started).map_or(0, |stat| stat.cpu_ticks)
    }

    /// CPU time of its children that have ended and were reaped, in clock ticks.
    #[must_use]
    pub fn ended_children_ticks(self) -> u64 {
        stat(self.pid).filter(|stat| stat.started == self.started).map_or(0, |stat| stat.ended_children_ticks)
    }

    /// Proportional and private memory in KiB, from `smaps_rollup`.
    #[must_use]
    pub fn memory_kib(self) -> (u64, u64) {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).unwrap_or_default();
        let field = |name: &str| -> u64 {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
                .unwrap_or(0)
        };
        (field("Pss:"), field("Private_Clean:") + field("Private_Dirty:"))
    }

    /// How often its main thread has gone to sleep.
    #[must_use]
    pub fn sleeps(self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok());
        count.unwrap_or(0)
    }

    /// What it has written by now, to files and elsewhere.
    #[must_use]
    pub fn written_bytes(self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/io", self.pid)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("wchar: ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Its children.
    #[must_use]
    pub fn children(self) -> Vec<Proc> {
        all().into_iter().filter(|(_, parent)| *parent == self.pid).map(|(process, _)| process).collect()
    }
}

/// Every process with its parent's pid.
#[must_use]
pub fn all() -> Vec<(Proc, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let stat = stat(pid)?;
            (stat.state != 'Z').then_some((Proc { pid, started: stat.started }, stat.parent))
        })
        .collect()
}

/// `root` with everything below it, and every process that works inside `dir` (orphans of a killed postmaster do).
#[must_use]
pub fn family(root: Option<Proc>, dir: &Path) -> Vec<Proc> {
    let everything = all();
    let mut children: BTreeMap<i32, Vec<Proc>> = BTreeMap::new();
    for (process, parent) in &everything {
        children.entry(*parent).or_default().push(*process);
    }
    let mut found: Vec<Proc> = root.filter(|root| root.alive()).into_iter().collect();
    for (process, _) in &everything {
        let inside = fs::read_link(format!("/proc/{}/cwd", process.pid)).is_ok_and(|cwd| cwd.starts_with(dir));
        if inside && !found.contains(process) {
            found.push(*process);
        }
    }
    let mut next = 0;
    while let Some(process) = found.get(next).copied() {
        for child in children.get(&process.pid).into_iter().flatten() {
            if !found.contains(child) {
                found.push(*child);
            }
        }
        next += 1;
    }
    found
}

/// Freezes a whole node: repeated until a look finds nobody new, since a running parent may still fork.
#[allow(clippy::must_use_candidate)] // The freezing matters, not always whom it hit.
pub fn freeze_family(root: Option<Proc>, dir: &Path) -> Vec<Proc> {
    loop {
        let members = family(root, dir);
        for process in &members {
            process.freeze();
        }
        if family(root, dir).iter().all(|process| members.contains(process)) {
            return members;
        }
    }
}

/// Kills a whole node as a power cut does: nobody gets a chance to react to a neighbour's death.
pub fn kill_family(root: Option<Proc>, dir: &Path) {
    for process in freeze_family(root, dir) {
        process.signal(Signal::KILL);
    }
    let begun = Instant::now();
    while !family(root, dir).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a node survived SIGKILL: {:?}", family(root, dir));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A fixed user id and group id of a system account, from `/etc/passwd`.
#[must_use]
pub fn account(name: &str) -> (u32, u32) {
    let text = fs::read_to_string("/etc/passwd").expect("every system has /etc/passwd");
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then(|| {
                let mut ids = fields.skip(1).map(str::parse);
                Some((ids.next()?.ok()?, ids.next()?.ok()?))
            })?
        })
        .unwrap_or_else(|| panic!("no user {name}: run `make setup`"))
}
