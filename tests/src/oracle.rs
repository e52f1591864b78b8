//! What must hold for everything the writers saw.

use crate::sql::{Server, Session};
use crate::terms::DELIVERY;
use crate::wait::secs;
use crate::writer::Ack;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How much a leader may have acknowledged that no standby had yet.
pub const WINDOW: Duration = Duration::from_millis(500);

/// What each standby was known to have flushed, per timeline: the rows below must survive.
#[derive(Clone, Debug, Default)]
pub struct Flushed(BTreeMap<u32, u64>);

impl Flushed {
    fn note(&mut self, timeline: u32, lsn: u64) {
        let known = self.0.entry(timeline).or_default();
        *known = (*known).max(lsn);
    }
}

/// Asks standbys again and again what they have flushed.
#[derive(Debug)]
pub struct FlushWatch {
    stop: Arc<AtomicBool>,
    known: Arc<Mutex<Flushed>>,
    threads: Vec<JoinHandle<()>>,
}

impl FlushWatch {
    /// Watches these servers; those that are no standbys now are asked again later.
    #[must_use]
    pub fn start(servers: &[Server]) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let known: Arc<Mutex<Flushed>> = Arc::default();
        let threads = servers
            .iter()
            .map(|server| {
                let (server, stop, known) = (server.clone(), Arc::clone(&stop), Arc::clone(&known));
                let builder = std::thread::Builder::new().name("flush watch".into());
                builder.spawn(move || watch(&server, &stop, &known)).expect("a thread can be started")
            })
            .collect();
        Self { stop, known, threads }
    }

    /// Ends; what was seen.
    #[must_use]
    pub fn stop(mut self) -> Flushed {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.known.lock().expect("the watchers have ended").clone()
    }
}

impl Drop for FlushWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn watch(server: &Server, stop: &AtomicBool, known: &Mutex<Flushed>) {
    const FLUSHED: &str = "SELECT received_tli, flushed_lsn - '0/0'::pg_lsn FROM pg_stat_wal_receiver";
    let mut session = None;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
        let Some(open) = session.take().or_else(|| crate::sql::Session::open(server, Duration::from_secs(1)).ok())
        else {
            continue;
        };
        let Ok(rows) = open.query(FLUSHED, Duration::from_secs(1)) else { continue };
        if let Some([Some(timeline), Some(lsn)]) = rows.first().map(Vec::as_slice)
            && let (Ok(timeline), Ok(lsn)) = (timeline.parse(), lsn.parse())
        {
            known.lock().expect("no watcher panics while holding it").note(timeline, lsn);
        }
        session = Some(open);
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Rows acknowledged.
    pub acked: usize,
    /// Acknowledged rows that the final leader does not have.
    pub lost: Vec<Ack>,
    /// Of those: rows that a standby was known to have flushed.
    pub lost_though_flushed: Vec<Ack>,
    /// Two servers acknowledging at the same time, in words.
    pub overlaps: Vec<String>,
    /// Acknowledgements by a server that held no lease, in words; [`crate::terms::Terms::late`] finds them.
    pub late: Vec<String>,
    /// The longest time between two acknowledgements of writers that go to any primary.
    pub gap: Duration,
}

impl Verdict {
    /// Fails the test unless nothing was lost and never two servers acknowledged.
    pub fn expect_nothing_lost(&self, story: &str) {
        self.expect_one_primary(story);
        assert!(
            self.lost.is_empty(),
            "{story}: {} of {} acknowledged rows are gone: {}",
            self.lost.len(),
            self.acked,
            self.describe_lost()
        );
    }

    /// Fails the test if a row that a standby had flushed is gone, or more than the asynchronous window before `fault`.
    pub fn expect_only_unreplicated_lost(&self, story: &str, fault: Instant, window: Duration) {
        self.expect_one_primary(story);
        assert!(
            self.lost_though_flushed.is_empty(),
            "{story}: {} rows that a standby had flushed are gone: {}",
            self.lost_though_flushed.len(),
            self.describe_lost()
        );
        let early: Vec<&Ack> = self.lost.iter().filter(|ack| ack.acked_at + window < fault).collect();
        assert!(
            early.is_empty(),
            "{story}: rows acknowledged more than {window:?} before the fault are gone: {}",
            self.describe_lost()
        );
        println!(
            "{story}: {} of {} acknowledged rows were in the asynchronous window and are gone",
            self.lost.len(),
            self.acked
        );
    }

    /// Fails the test if two servers acknowledged at the same time, or one without a lease.
    pub fn expect_one_primary(&self, story: &str) {
        assert!(self.late.is_empty(), "{story}: acknowledged without a lease: {}", self.late.join("; "));
        assert!(self.overlaps.is_empty(), "{story}: two primaries: {}", self.overlaps.join("; "));
        assert!(self.acked > 0, "{story}: the writers wrote nothing, so nothing was tested");
    }

    fn describe_lost(&self) -> String {
        let mut text = String::new();
        for ack in self.lost.iter().take(10) {
            let _ = write!(
                text,
                "[writer {} seq {} on {} timeline {} lsn {:X}] ",
                ack.writer, ack.seq, ack.server, ack.timeline, ack.lsn_before
            );
        }
        text
    }
}

/// Judges a history of acknowledgements against the rows of the final leader.
#[must_use]
pub fn judge(acks: &[Ack], flushed: &Flushed, leader: &Server) -> Verdict {
    let writers = || acks.iter().map(|ack| ack.writer);
    // Earlier observations of the same test left rows too.
    let (first, last) = (writers().min().unwrap_or(0), writers().max().unwrap_or(0));
    let question = format!("SELECT writer, seq FROM ha_log WHERE writer BETWEEN {first} AND {last}");
    let session = Session::open(leader, secs(10)).expect("the final leader can be asked");
    let rows = session.query(&question, secs(60)).expect("the final leader can be read");
    let present: BTreeSet<(u32, u64)> = rows
        .iter()
        .filter_map(|row| Some((row.first()?.as_ref()?.parse().ok()?, row.get(1)?.as_ref()?.parse().ok()?)))
        .collect();
    compare(acks, flushed, &present)
}

/// The pure half of [`judge`].
#[must_use]
pub fn compare(acks: &[Ack], flushed: &Flushed, present: &BTreeSet<(u32, u64)>) -> Verdict {
    let lost: Vec<Ack> = acks.iter().filter(|ack| !present.contains(&(ack.writer, ack.seq))).cloned().collect();
    // The position of a row's end is only known from the next row of any writer on that timeline.
    let lost_though_flushed = lost
        .iter()
        .filter(|ack| {
            let reached = flushed.0.get(&ack.timeline).copied().unwrap_or(0);
            acks.iter()
                .any(|next| next.timeline == ack.timeline && next.sent_at >= ack.acked_at && next.lsn_before <= reached)
        })
        .cloned()
        .collect();
    Verdict { acked: acks.len(), lost, lost_though_flushed, overlaps: overlaps(acks), late: Vec::new(), gap: gap(acks) }
}

/// Acknowledgements by two servers at the same time, in words; at most a few of them.
#[must_use]
pub fn overlaps(acks: &[Ack]) -> Vec<String> {
    let mut found = Vec::new();
    let mut spans: BTreeMap<u32, (BTreeSet<&str>, Instant, Instant)> = BTreeMap::new();
    for ack in acks {
        let span = spans.entry(ack.timeline).or_insert_with(|| (BTreeSet::new(), ack.acked_at, ack.acked_at));
        span.0.insert(&ack.server);
        span.1 = span.1.min(ack.acked_at);
        span.2 = span.2.max(ack.acked_at);
    }
    for (timeline, (servers, ..)) in &spans {
        if servers.len() > 1 {
            found.push(format!("timeline {timeline} was acknowledged by {servers:?}"));
        }
    }
    for ack in acks {
        let Some((later, (_, first, _))) = spans.range(ack.timeline + 1..).next() else { continue };
        // Sent after somebody newer had already acknowledged, or delivered long after.
        if ack.sent_at > *first || ack.acked_at > *first + DELIVERY {
            found.push(format!(
                "{} acknowledged on timeline {} {} ms after the first acknowledgement on timeline {later}",
                ack.server,
                ack.timeline,
                ack.acked_at.duration_since(*first).as_millis()
            ));
        }
    }
    found.truncate(10);
    found
}

/// For each change of timeline: how long no client that writes wherever the leader is was acknowledged.
#[must_use]
pub fn silences(acks: &[Ack]) -> Vec<Duration> {
    let mut spans: BTreeMap<u32, (Instant, Instant)> = BTreeMap::new();
    for ack in acks.iter().filter(|ack| ack.roaming) {
        let span = spans.entry(ack.timeline).or_insert((ack.acked_at, ack.acked_at));
        *span = (span.0.min(ack.acked_at), span.1.max(ack.acked_at));
    }
    let spans: Vec<(Instant, Instant)> = spans.into_values().collect();
    spans.windows(2).map(|pair| pair[1].0.saturating_duration_since(pair[0].1)).collect()
}

fn gap(acks: &[Ack]) -> Duration {
    let mut per_writer: BTreeMap<u32, Vec<Instant>> = BTreeMap::new();
    for ack in acks.iter().filter(|ack| ack.roaming) {
        per_writer.entry(ack.writer).or_default().push(ack.acked_at);
    }
    per_writer
        .values_mut()
        .filter_map(|times| {
            times.sort_unstable();
            times.windows(2).map(|pair| pair[1] - pair[0]).max()
        })
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(seq: u64, at_ms: u64, server: &str, timeline: u32, lsn: u64, origin: Instant) -> Ack {
        let acked_at = origin + Duration::from_millis(at_ms);
        let sent_at = origin + Duration::from_millis(at_ms.saturating_sub(2));
        Ack {
            writer: 1,
            roaming: true,
            seq,
            connected_at: origin,
            sent_at,
            acked_at,
            server: server.into(),
            timeline,
            lsn_before: lsn,
        }
    }

    #[test]
    fn a_missing_row_is_lost_and_a_flushed_one_is_worse() {
        let origin = Instant::now();
        let acks = [ack(1, 10, "a", 1, 100, origin), ack(2, 20, "a", 1, 200, origin), ack(3, 30, "a", 1, 300, origin)];
        let mut flushed = Flushed::default();
        flushed.note(1, 250);
        let verdict = compare(&acks, &flushed, &BTreeSet::new());
        assert_eq!(verdict.lost.len(), 3);
        // Row 1 ended before 200, and 250 was flushed; of row 2 that is not known.
        assert_eq!(verdict.lost_though_flushed.iter().map(|ack| ack.seq).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn an_old_timeline_that_acknowledges_after_the_new_one_is_caught() {
        let origin = Instant::now();
        let fine = [ack(1, 10, "a", 1, 1, origin), ack(2, 50, "b", 2, 2, origin)];
        assert!(overlaps(&fine).is_empty());
        let bad = [ack(2, 50, "b", 2, 2, origin), ack(3, 60, "a", 1, 3, origin)];
        assert_eq!(overlaps(&bad).len(), 1);
    }

    #[test]
    fn one_timeline_made_twice_is_caught() {
        let origin = Instant::now();
        assert_eq!(overlaps(&[ack(1, 10, "a", 2, 1, origin), ack(2, 20, "b", 2, 2, origin)]).len(), 1);
    }

    #[test]
    fn a_silence_lies_between_two_timelines() {
        let origin = Instant::now();
        let acks = [ack(1, 10, "a", 1, 1, origin), ack(2, 15, "a", 1, 2, origin), ack(3, 115, "b", 2, 3, origin)];
        assert_eq!(silences(&acks), [Duration::from_millis(100)]);
        assert!(silences(&acks[..2]).is_empty());
    }

    #[test]
    fn the_gap_is_the_longest_silence_of_one_writer() {
        let origin = Instant::now();
        let acks = [ack(1, 10, "a", 1, 1, origin), ack(2, 15, "a", 1, 2, origin), ack(3, 115, "b", 2, 3, origin)];
        assert_eq!(gap(&acks), Duration::from_millis(100));
    }
}
