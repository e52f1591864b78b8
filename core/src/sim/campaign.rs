//! Many seeds, and what came of them together.

use super::{Options, Report, Schedule, Shrunk, run, shrink};
use crate::rule::Rule;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rules that no seed has to reach, each with the reason. Their golden cases remain.
const RARE: &[(Rule, &str)] = &[
    (
        Rule::LeaderForeignTimeline,
        "claims keep two nodes off one timeline: it takes an operator who deletes `initialize`, but not the claims",
    ),
    (Rule::StandbyUnreadable, "what this world's servers receive is whole records; `unreadable_wal.rs` has the others"),
];

/// What many runs amount to.
#[derive(Debug, Default)]
pub struct Campaign {
    /// Seeds.
    pub runs: u64,
    /// How often each rule was the reason of a decision.
    pub rules: BTreeMap<Rule, u64>,
    /// Runs that broke an invariant, by seed.
    pub broken: Vec<Report>,
    /// One digest of all runs, whatever their order.
    pub digest: u64,
    events: u64,
    virtual_ms: u64,
    failovers: u64,
    handovers: u64,
    demotions_in_place: u64,
    acknowledged: u64,
    lost: u64,
    excused: u64,
    unflushed: u64,
    extensions: u64,
    faults: BTreeMap<&'static str, u64>,
    settled_ms: Vec<u64>,
    failover_ms: Vec<u64>,
    cpu_ns: u64,
}

impl Campaign {
    /// Runs `count` seeds from `first` on, on so many threads, while `goes_on`.
    pub fn run(first: u64, count: u64, threads: usize, goes_on: impl Fn() -> bool + Sync) -> Self {
        Self::run_in(Schedule::of, first, count, threads, goes_on)
    }

    /// The same in the worlds that `schedule` draws.
    pub fn run_in(
        schedule: fn(u64) -> Schedule,
        first: u64,
        count: u64,
        threads: usize,
        goes_on: impl Fn() -> bool + Sync,
    ) -> Self {
        let next = AtomicU64::new(first);
        let all = Mutex::new(Self::default());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let before = thread_ns();
                    let mut mine = Self::default();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + count || !goes_on() {
                            break;
                        }
                        mine.take(run(&Options::with(schedule(seed))));
                    }
                    mine.cpu_ns = thread_ns() - before;
                    all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(mine);
                });
            }
        });
        let mut all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.broken.sort_by_key(|report| report.seed);
        all
    }

    fn take(&mut self, report: Report) {
        self.runs += 1;
        self.events += report.events;
        self.virtual_ms += report.virtual_ms;
        self.failovers += report.failovers;
        self.handovers += report.handovers;
        self.demotions_in_place += report.demotions_in_place;
        self.acknowledged += report.acknowledged;
        self.lost += report.lost;
        self.excused += report.excused;
        self.unflushed += report.unflushed;
        self.extensions += report.extensions;
        for (rule, count) in &report.rules {
            *self.rules.entry(*rule).or_default() += count;
        }
        for (fault, count) in &report.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.settled_ms.extend(report.settled_after_ms);
        self.failover_ms.extend(&report.failover_ms);
        self.digest ^= report.digest.rotate_left(u32::try_from(report.seed % 64).unwrap_or(0));
        if report.broken.is_some() {
            self.broken.push(report);
        }
    }

    /// Takes in what another part of the same campaign has brought.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.events += other.events;
        self.virtual_ms += other.virtual_ms;
        self.failovers += other.failovers;
        self.handovers += other.handovers;
        self.demotions_in_place += other.demotions_in_place;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.excused += other.excused;
        self.unflushed += other.unflushed;
        self.extensions += other.extensions;
        for (rule, count) in other.rules {
            *self.rules.entry(rule).or_default() += count;
        }
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.settled_ms.extend(other.settled_ms);
        self.failover_ms.extend(other.failover_ms);
        self.digest ^= other.digest;
        self.cpu_ns += other.cpu_ns;
        self.broken.extend(other.broken);
    }

    /// Promotions that ended.
    #[must_use]
    pub fn failovers(&self) -> u64 {
        self.failovers
    }

    /// Rules that nothing has reached.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let excused = |rule: &Rule| RARE.iter().any(|(rare, _)| rare == rule);
        let missing = Rule::ALL.iter().filter(|rule| !self.rules.contains_key(rule) && !excused(rule));
        missing.map(|rule| rule.code()).collect()
    }
}

impl fmt::Display for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} seeds, {} events, {} virtual hours, {} failovers, {} hand-overs in place, {} demotions in place, {} commits acknowledged, {} lost",
            self.runs,
            self.events,
            self.virtual_ms / 3_600_000,
            self.failovers,
            self.handovers,
            self.demotions_in_place,
            self.acknowledged,
            self.lost
        )?;
        writeln!(
            f,
            "{} acknowledgements of machines that were paused excused, {} commits with synchronous_commit = off lost in crashes, {} extensions of deadlines by promises",
            self.excused, self.unflushed, self.extensions
        )?;
        let cpu_ms = self.cpu_ns / 1_000_000;
        if let Some(a_minute) = (self.failovers * 60_000).checked_div(cpu_ms) {
            writeln!(f, "{cpu_ms} ms of processor time: {a_minute} failovers per minute and core")?;
        }
        writeln!(f, "from no leader that takes writes to the next: {}", percentiles(&self.failover_ms))?;
        writeln!(f, "settled after healing: {}", percentiles(&self.settled_ms))?;
        writeln!(f, "faults: {:?}", self.faults)?;
        write!(f, "digest {:016x}, {} broken", self.digest, self.broken.len())
    }
}

fn percentiles(times_ms: &[u64]) -> String {
    let mut sorted = times_ms.to_vec();
    sorted.sort_unstable();
    let at = |per_cent: usize| sorted.get((sorted.len().saturating_sub(1)) * per_cent / 100).copied().unwrap_or(0);
    let (median, p90, p99, most) = (at(50), at(90), at(99), at(100));
    format!("{} times, median {median} ms, 90 % within {p90} ms, 99 % within {p99} ms, most {most} ms", sorted.len())
}

/// Processor time this thread has had.
fn thread_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default()
}

/// Cuts a run that broke something down, and writes what is left of its schedule into `folder`. Gives what a person has to see.
pub fn record(report: &Report, folder: &Path) -> std::io::Result<String> {
    let Some(mut shrunk) = shrink(&Options::of(report.seed).schedule, None) else {
        return Ok(format!("seed {} breaks nothing when it is run again", report.seed));
    };
    let Shrunk { schedule, report: again, runs } = &mut shrunk;
    let Some(broken) = &again.broken else { return Ok(format!("seed {} broke nothing the last time", report.seed)) };
    schedule.about = format!("{}: {}", broken.invariant, broken.text);
    let path: PathBuf = folder.join(format!("{}-{}.json", broken.invariant.to_lowercase(), report.seed));
    std::fs::create_dir_all(folder)?;
    std::fs::write(&path, schedule.json())?;
    let (path, explained) = (path.display(), again.explain());
    Ok(format!("{explained}\ncut down in {runs} runs to {path}:\n{}SIM_SCHEDULE={path} replays that", schedule.json()))
}
