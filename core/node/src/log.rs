//! Log records on their way to one place: a hand-written `tracing` subscriber and a bounded queue.
//!
//! Any thread may log; nobody ever waits for a log. Inside Postgres the main thread drains the queue into `ereport`
//! (at LOG and WARNING, never ERROR), in the supervisor a thread of its own writes lines to stderr.

use crate::clock;
use crate::runtime::{self, Died};
use ha_core::config::LogLevel;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Event, Level, Metadata, Subscriber};

/// Records that wait at most; what comes on top is dropped and counted.
pub const QUEUE_RECORDS_MAX: usize = 1000;
/// A message is cut here.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Wall clock, milliseconds since 1970.
    pub at_ms: u64,
    /// How bad.
    pub level: Level,
    /// The module that logged it.
    pub target: &'static str,
    /// The text, fields included.
    pub message: String,
}

/// Where records wait.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
    /// Told about the first record of an empty queue.
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    dropped: u64,
    dropped_total: u64,
    closed: bool,
}

/// Makes the queue the destination of everything this process logs. Our own modules log from `level` up, libraries
/// from WARN up. `wake` is called, on the thread that logs, when a record comes to an empty queue.
pub fn install(level: Level, wake: impl Fn() + Send + Sync + 'static) -> Result<Queue, SetGlobalDefaultError> {
    let shared = Shared { state: Mutex::default(), arrived: Condvar::new(), wake: Box::new(wake) };
    let queue = Queue { shared: Arc::new(shared) };
    tracing::subscriber::set_global_default(QueueSubscriber { level, queue: queue.clone() })?;
    Ok(queue)
}

/// Starts the thread that writes every record as a line to `out`, until [`Queue::close`].
pub fn spawn_writer(
    queue: Queue,
    mut out: impl io::Write + Send + 'static,
    died: Died,
) -> io::Result<std::thread::JoinHandle<()>> {
    runtime::spawn("ha_log", died, move || {
        while let Some((records, dropped)) = queue.wait() {
            let mut text = String::new();
            for record in &records {
                text.push_str(&line(record));
            }
            if dropped > 0 {
                let _ = writeln!(text, "{} WARNING: {dropped} log records were lost", timestamp(clock::wall_ms()));
            }
            // Nobody is left to tell when the log itself cannot be written.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    })
}

impl Queue {
    /// Everything that waits, and how many records were dropped since the last call.
    #[must_use]
    pub fn drain(&self) -> (Vec<Record>, u64) {
        self.lock().take()
    }

    /// Records that wait now, and how many were ever dropped (`logger_queue_size`, `logger_records_lost`).
    #[must_use]
    pub fn size_and_lost(&self) -> (usize, u64) {
        let state = self.lock();
        (state.records.len(), state.dropped_total)
    }

    /// Nothing more is to come; the writer ends once the queue is empty.
    pub fn close(&self) {
        self.lock().closed = true;
        self.shared.arrived.notify_all();
    }

    fn wait(&self) -> Option<(Vec<Record>, u64)> {
        let mut state = self.lock();
        while state.records.is_empty() {
            if state.closed {
                return None;
            }
            state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some(state.take())
    }

    fn push(&self, record: Record) {
        let mut state = self.lock();
        if state.records.len() >= QUEUE_RECORDS_MAX {
            state.dropped += 1;
            state.dropped_total += 1;
            return;
        }
        state.records.push_back(record);
        let first = state.records.len() == 1;
        drop(state);
        if first {
            self.shared.arrived.notify_one();
            (self.shared.wake)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked while it held the lock left a whole queue: each step on it is one call.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> (Vec<Record>, u64) {
        (std::mem::take(&mut self.records).into(), std::mem::take(&mut self.dropped))
    }
}

struct QueueSubscriber {
    level: Level,
    queue: Queue,
}

impl Subscriber for QueueSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().starts_with("ha_");
        metadata.is_event() && *metadata.level() <= if ours { self.level } else { Level::WARN.min(self.level) }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Text::default();
        event.record(&mut message);
        let metadata = event.metadata();
        self.queue.push(Record {
            at_ms: clock::wall_ms(),
            level: *metadata.level(),
            target: metadata.target(),
            message: message.finish(),
        });
    }

    // Spans are not used: one loop writes one line about one decision.
    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _span: &Id, _values: &SpanRecord<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}

/// The message, then ` name=value` for each field.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        if self.message.len() > MESSAGE_BYTES_MAX {
            let end = self.message.floor_char_boundary(MESSAGE_BYTES_MAX);
            self.message.truncate(end);
            self.message.push_str("...");
        }
        self.message
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // The message itself comes here too, as format arguments, whose Debug is their Display.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

/// `2026-01-01 12:00:00,123 LEVEL: message`, with a line end (wire.md 11). Control characters are escaped, so that one
/// record stays one line whatever a peer made us print.
#[must_use]
pub fn line(record: &Record) -> String {
    let mut out = timestamp(record.at_ms);
    let _ = write!(out, " {}: ", level_name(record.level));
    for c in record.message.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('\n');
    out
}

/// The level of `log.level`.
#[must_use]
pub fn level(configured: LogLevel) -> Level {
    match configured {
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warning => Level::WARN,
        LogLevel::Error => Level::ERROR,
    }
}

/// Patroni's names of the levels.
#[must_use]
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// `2026-01-01 12:00:00,123`, UTC.
#[must_use]
pub fn timestamp(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02},{:03}", ms % 1000)
}

/// Year, month and day of the day that many days after 1970-01-01, counted in years that begin in March so that the
/// leap day comes last.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn record(message: &str) -> Record {
        Record { at_ms: 1_767_268_800_123, level: Level::WARN, target: "ha_node", message: message.to_owned() }
    }

    #[test]
    fn lines_have_the_form_that_others_parse() {
        assert_eq!(line(&record("x\ny")), "2026-01-01 12:00:00,123 WARNING: x\\ny\n");
        assert_eq!(line(&record("x")).find("WARNING"), Some(24));
        assert_eq!(timestamp(951_782_400_000), "2000-02-29 00:00:00,000");
        assert_eq!(timestamp(1_709_251_199_999), "2024-02-29 23:59:59,999");
        assert_eq!(timestamp(0), "1970-01-01 00:00:00,000");
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_wakes_once() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counted = wakes.clone();
        let wake = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let shared = Shared { state: Mutex::default(), arrived: Condvar::new(), wake: Box::new(wake) };
        let queue = Queue { shared: Arc::new(shared) };
        let subscriber = QueueSubscriber { level: Level::INFO, queue: queue.clone() };
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("too quiet");
            tracing::info!(target: "h2::codec", "a library at INFO");
            for n in 0..QUEUE_RECORDS_MAX + 3 {
                tracing::info!(target: "ha_node::test", lag = n, name = "a b", "number {n}");
            }
        });
        assert_eq!(queue.size_and_lost(), (QUEUE_RECORDS_MAX, 3));
        let (records, dropped) = queue.drain();
        assert_eq!((records.len(), dropped), (QUEUE_RECORDS_MAX, 3));
        assert_eq!(records[7].message, "number 7 lag=7 name=\"a b\"");
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        assert_eq!(queue.drain(), (Vec::new(), 0));
    }

    #[test]
    fn the_writer_writes_every_line_before_it_ends() {
        let shared = Shared { state: Mutex::default(), arrived: Condvar::new(), wake: Box::new(|| ()) };
        let queue = Queue { shared: Arc::new(shared) };
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let died: Died = Arc::new(|name, why| panic!("{name}: {why}"));
        let thread = spawn_writer(queue.clone(), writer, died).expect("thread");
        for n in 0..50 {
            queue.push(record(&n.to_string()));
        }
        queue.close();
        thread.join().expect("ended");
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).expect("read");
        assert_eq!(text.lines().count(), 50);
        assert!(text.ends_with(": 49\n"));
    }
}
