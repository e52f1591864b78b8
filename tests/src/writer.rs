//! Clients that write all the time and remember every acknowledgement.

use crate::sql::{Server, Session, SqlError};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The table they write to.
pub const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS ha_log (writer int, seq bigint, PRIMARY KEY (writer, seq))";

/// Numbers below are left to what a test writes itself.
static NEXT: AtomicU32 = AtomicU32::new(1000);

/// One acknowledged row.
#[derive(Clone, Debug)]
pub struct Ack {
    /// Which writer.
    pub writer: u32,
    /// It goes to any primary, so that its silences are what users feel.
    pub roaming: bool,
    /// Its running number.
    pub seq: u64,
    /// When the connection was made.
    pub connected_at: Instant,
    /// When the statement was sent.
    pub sent_at: Instant,
    /// When the acknowledgement had arrived.
    pub acked_at: Instant,
    /// Port and address of the server that gave it.
    pub server: String,
    /// Timeline of that server.
    pub timeline: u32,
    /// Insert position before the row's commit record.
    pub lsn_before: u64,
}

/// How a writer chooses its server.
#[derive(Clone, Debug)]
pub enum Target {
    /// The first of these that is read-write, like libpq's `target_session_attrs=read-write`.
    AnyPrimary(Vec<Server>),
    /// Always this one, even when it refuses: the one that would notice a second primary.
    Pinned(Server),
}

/// How a writer works.
#[derive(Clone, Debug)]
pub struct Style {
    /// Pause between two writes.
    pub interval: Duration,
    /// How long one connection attempt or statement may take.
    pub patience: Duration,
}

impl Default for Style {
    fn default() -> Self {
        Self { interval: Duration::from_millis(5), patience: Duration::from_secs(2) }
    }
}

/// Running writers.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    acks: Arc<Mutex<Vec<Ack>>>,
    count: Arc<AtomicU64>,
    refusals: Arc<Mutex<Vec<Refusal>>>,
}

/// A write that was not acknowledged.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Which writer.
    pub writer: u32,
    /// When.
    pub at: Instant,
    /// What the client saw.
    pub error: String,
}

impl Writers {
    /// Starts one thread per target. No two writers of a process have the same number.
    #[must_use]
    pub fn start(targets: Vec<Target>, style: &Style) -> Self {
        let mut writers = Self {
            stop: Arc::default(),
            threads: Vec::new(),
            acks: Arc::default(),
            count: Arc::default(),
            refusals: Arc::default(),
        };
        for target in targets {
            let writer = NEXT.fetch_add(1, Ordering::Relaxed);
            let client = WriterThread {
                writer,
                target,
                style: style.clone(),
                stop: Arc::clone(&writers.stop),
                acks: Arc::clone(&writers.acks),
                count: Arc::clone(&writers.count),
                refusals: Arc::clone(&writers.refusals),
                next: 0,
            };
            let builder = std::thread::Builder::new().name(format!("writer {writer}"));
            writers.threads.push(builder.spawn(move || client.run()).expect("a thread can be started"));
        }
        writers
    }

    /// Rows acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The same number, for somebody who shows it while they write.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.count)
    }

    /// When the latest acknowledgement came.
    #[must_use]
    pub fn last_ack(&self) -> Option<Instant> {
        let acks = self.acks.lock().expect("no writer panics while holding it");
        acks.iter().map(|ack| ack.acked_at).max()
    }

    /// The first acknowledgement after `since` on a timeline above `timeline`.
    #[must_use]
    pub fn first_ack_above(&self, timeline: u32, since: Instant) -> Option<Ack> {
        let acks = self.acks.lock().expect("no writer panics while holding it");
        acks.iter().find(|ack| ack.timeline > timeline && ack.acked_at >= since).cloned()
    }

    /// The first acknowledgement on a connection that was made after `since`: one by a server that took connections then,
    /// not by a backend that outlived its postmaster.
    #[must_use]
    pub fn first_ack_connected_after(&self, since: Instant) -> Option<Ack> {
        let acks = self.acks.lock().expect("no writer panics while holding it");
        acks.iter().find(|ack| ack.connected_at >= since).cloned()
    }

    /// The first acknowledgement of a statement that was sent after `since`.
    #[must_use]
    pub fn first_ack_sent_after(&self, since: Instant) -> Option<Ack> {
        let acks = self.acks.lock().expect("no writer panics while holding it");
        acks.iter().find(|ack| ack.sent_at >= since).cloned()
    }

    /// Stops them; everything they saw.
    #[must_use]
    pub fn stop(mut self) -> (Vec<Ack>, Vec<Refusal>) {
        self.halt();
        let acks = std::mem::take(&mut *self.acks.lock().expect("the writers have ended"));
        let refusals = std::mem::take(&mut *self.refusals.lock().expect("the writers have ended"));
        (acks, refusals)
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a writer panicked");
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Connection {
    session: Session,
    server: String,
    at: Instant,
}

struct WriterThread {
    writer: u32,
    target: Target,
    style: Style,
    stop: Arc<AtomicBool>,
    acks: Arc<Mutex<Vec<Ack>>>,
    count: Arc<AtomicU64>,
    refusals: Arc<Mutex<Vec<Refusal>>>,
    /// The server to try first.
    next: usize,
}

impl WriterThread {
    fn run(mut self) {
        let mut connection: Option<Connection> = None;
        let mut seq = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let Some(open) = connection.take().or_else(|| self.connect()) else {
                std::thread::sleep(self.style.interval);
                continue;
            };
            seq += 1;
            match self.write(&open, seq) {
                Ok(()) => connection = Some(open),
                Err(error) => {
                    self.note(error.to_string());
                    let usable = matches!(error, SqlError::Refused { .. }) && !open.session.is_closed();
                    match self.target {
                        Target::Pinned(_) if usable => connection = Some(open),
                        Target::Pinned(_) => {}
                        // A server that refuses may still call itself read-write: begin with another one.
                        Target::AnyPrimary(_) => self.next += 1,
                    }
                }
            }
            std::thread::sleep(self.style.interval);
        }
    }

    fn write(&self, connection: &Connection, seq: u64) -> Result<(), SqlError> {
        let sql = format!(
            "INSERT INTO ha_log VALUES ({}, {seq}) RETURNING substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), \
             pg_current_wal_insert_lsn() - '0/0'::pg_lsn",
            self.writer
        );
        let sent_at = Instant::now();
        let rows = connection.session.query(&sql, self.style.patience)?;
        let acked_at = Instant::now();
        let row = rows.into_iter().next().unwrap_or_default();
        let column = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        let ack = Ack {
            writer: self.writer,
            roaming: matches!(self.target, Target::AnyPrimary(_)),
            seq,
            connected_at: connection.at,
            sent_at,
            acked_at,
            server: connection.server.clone(),
            timeline: u32::from_str_radix(&column(0), 16).unwrap_or(0),
            lsn_before: column(1).parse().unwrap_or(0),
        };
        self.acks.lock().expect("no writer panics while holding it").push(ack);
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn connect(&mut self) -> Option<Connection> {
        let servers = match &self.target {
            Target::Pinned(server) => std::slice::from_ref(server),
            Target::AnyPrimary(servers) => servers.as_slice(),
        };
        let pinned = matches!(self.target, Target::Pinned(_));
        let mut failure = None;
        for attempt in 0..servers.len() {
            let at = Instant::now();
            let index = (self.next + attempt) % servers.len();
            match open(&servers[index], self.style.patience, pinned) {
                Ok(Some(session)) => {
                    self.next = index;
                    let server = format!("{}:{}", servers[index].host, servers[index].port);
                    return Some(Connection { session, server, at });
                }
                Ok(None) => {}
                Err(error) => failure = Some(error.to_string()),
            }
        }
        if let Some(failure) = failure {
            self.note(failure);
        }
        None
    }

    fn note(&self, error: String) {
        let mut refusals = self.refusals.lock().expect("no writer panics while holding it");
        refusals.push(Refusal { writer: self.writer, at: Instant::now(), error });
    }
}

fn open(server: &Server, patience: Duration, any: bool) -> Result<Option<Session>, SqlError> {
    let session = Session::open(server, patience)?;
    if any {
        return Ok(Some(session));
    }
    let read_only = session.value("SHOW transaction_read_only", patience)?;
    Ok((read_only.as_deref() == Some("off")).then_some(session))
}
