//! Clients that append to lists and read them back, and remember everything.
//!
//! Some go to whatever server is read-write and stay there until it fails them, as applications do; one per node stays with its node,
//! and is at work only while that calls itself a primary: a second one would not escape it.

use crate::history::{At, Item, Lists, Op, Outcome, What};
use ha_tests::sql::{Row, Server, Session, SqlError};
use ha_tests::wait::{millis, secs};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The table of the lists; a round begins with an empty one.
pub const CREATE_TABLE: &str =
    "CREATE TABLE IF NOT EXISTS ha_lists (key int PRIMARY KEY, items int[] NOT NULL); DELETE FROM ha_lists";
/// Clients that go anywhere.
const ROAMING: usize = 4;
/// Lists in use at the same time.
const KEYS: u32 = 3;
/// After so many appends the clients turn to new lists: long ones would cost more to write than all the rest.
const APPENDS_PER_GENERATION: u32 = 600;
/// How long one connection attempt or statement may take.
const PATIENCE: Duration = secs(2);
/// The same for clients that stay with their node: what they asked a frozen one is still there when that wakes up.
const ENDURANCE: Duration = secs(30);

/// Running clients.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Clients {
    /// Starts them all.
    pub fn start(servers: &[Server], origin: Instant) -> Self {
        let mut clients = Self { stop: Arc::default(), threads: Vec::new(), ops: Arc::default() };
        let next: Arc<AtomicU32> = Arc::default();
        let targets = (0..ROAMING).map(|_| None).chain((0..servers.len()).map(Some));
        for (number, pinned) in (1_u32..).zip(targets) {
            let client = Client {
                number,
                pinned,
                patience: if pinned.is_some() { ENDURANCE } else { PATIENCE },
                servers: servers.to_vec(),
                origin,
                at: pinned.unwrap_or(number as usize % servers.len()),
                dice: u64::from(number) * 0x9E37_79B9,
                next: Arc::clone(&next),
                stop: Arc::clone(&clients.stop),
                ops: Arc::clone(&clients.ops),
            };
            let builder = std::thread::Builder::new().name(format!("client {number}"));
            clients.threads.push(builder.spawn(move || client.run()).expect("a thread can be started"));
        }
        clients
    }

    /// Appends acknowledged so far.
    pub fn acked(&self) -> usize {
        let ops = self.ops.lock().expect("no client panics while holding it");
        ops.iter().filter(|op| op.acked().is_some()).count()
    }

    /// Stops them; what they did.
    pub fn stop(mut self) -> Vec<Op> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client panicked");
        }
        std::mem::take(&mut *self.ops.lock().expect("the clients have ended"))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Client {
    number: u32,
    pinned: Option<usize>,
    patience: Duration,
    servers: Vec<Server>,
    origin: Instant,
    /// The server to try first.
    at: usize,
    dice: u64,
    next: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Client {
    fn run(mut self) {
        let pause = if self.pinned.is_some() { millis(40) } else { millis(10) };
        let mut session: Option<Session> = None;
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(pause);
            let Some(open) = session.take().or_else(|| self.connect()) else { continue };
            // One that stays with its node waits until that is a primary.
            let idle = self.pinned.is_some()
                && open.value("SELECT pg_is_in_recovery()", self.patience).is_ok_and(|cell| is_true(cell.as_deref()));
            match if idle { Ok(()) } else { self.act(&open) } {
                Ok(()) => session = Some(open),
                Err(SqlError::Refused { .. }) if self.pinned.is_some() && !open.is_closed() => session = Some(open),
                // A server that refuses may still call itself read-write: begin with another one.
                Err(_) => self.at = self.pinned.unwrap_or((self.at + 1) % self.servers.len()),
            }
        }
    }

    fn act(&mut self, session: &Session) -> Result<(), SqlError> {
        let generation = self.next.load(Ordering::Relaxed) / APPENDS_PER_GENERATION;
        let key = generation * KEYS + self.random(u64::from(KEYS));
        if self.random(100) < 65 { self.append(session, key) } else { self.read(session, key) }
    }

    fn append(&self, session: &Session, key: u32) -> Result<(), SqlError> {
        let item = self.next.fetch_add(1, Ordering::Relaxed);
        let sql = format!(
            "INSERT INTO ha_lists VALUES ({key}, ARRAY[{item}]) ON CONFLICT (key) DO UPDATE SET items = ha_lists.items || excluded.items \
             RETURNING substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), pg_current_wal_insert_lsn() - '0/0'::pg_lsn, cardinality(items)"
        );
        let sent = self.now();
        let answer = session.query(&sql, self.patience);
        let outcome = match &answer {
            Ok(rows) => acknowledged(rows.first()),
            Err(SqlError::Refused { code, .. }) if code == "25006" => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        self.note(key, sent, What::Append { item, outcome });
        answer.map(|_| ())
    }

    fn read(&self, session: &Session, key: u32) -> Result<(), SqlError> {
        // The first statement settles that the snapshot of the last one is a primary's.
        let sql = format!(
            "SELECT pg_is_in_recovery(); \
             SELECT CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END; \
             SELECT array_to_string(items, ' ') FROM ha_lists WHERE key = {key}"
        );
        let sent = self.now();
        let rows = session.query(&sql, self.patience)?;
        let cell = |index: usize| rows.get(index).and_then(|row| row.first().cloned().flatten());
        if is_true(cell(0).as_deref()) {
            return Ok(());
        }
        let timeline = cell(1).and_then(|hex| u32::from_str_radix(&hex, 16).ok()).unwrap_or(0);
        self.note(key, sent, What::Read { timeline, list: items(cell(2).as_deref()) });
        Ok(())
    }

    fn note(&self, key: u32, sent: At, what: What) {
        let (client, roaming, node) = (self.number, self.pinned.is_none(), self.at);
        let op = Op { client, roaming, node, key, sent, ended: self.now(), what };
        self.ops.lock().expect("no client panics while holding it").push(op);
    }

    fn connect(&mut self) -> Option<Session> {
        let tries = if self.pinned.is_some() { 1 } else { self.servers.len() };
        for _ in 0..tries {
            if let Ok(session) = Session::open(&self.servers[self.at], PATIENCE) {
                if self.pinned.is_some() {
                    return Some(session);
                }
                let read_only = session.value("SHOW transaction_read_only", PATIENCE);
                if read_only.is_ok_and(|read_only| read_only.as_deref() == Some("off")) {
                    return Some(session);
                }
            }
            self.at = self.pinned.unwrap_or((self.at + 1) % self.servers.len());
        }
        None
    }

    fn now(&self) -> At {
        At::try_from(self.origin.elapsed().as_micros()).expect("a round is shorter than that")
    }

    fn random(&mut self, below: u64) -> u32 {
        u32::try_from(crate::schedule::draw(&mut self.dice, below)).expect("small numbers only")
    }
}

fn is_true(cell: Option<&str>) -> bool {
    cell == Some("t")
}

fn acknowledged(row: Option<&Row>) -> Outcome {
    let cell = |index: usize| row.and_then(|row| row.get(index).cloned().flatten()).unwrap_or_default();
    let count: usize = cell(2).parse().unwrap_or(0);
    Outcome::Acked {
        timeline: u32::from_str_radix(&cell(0), 16).unwrap_or(0),
        lsn: cell(1).parse().unwrap_or(0),
        position: count.saturating_sub(1),
    }
}

fn items(text: Option<&str>) -> Vec<Item> {
    text.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// All lists of a server.
pub fn lists(server: &Server) -> Result<Lists, SqlError> {
    let rows = ha_tests::sql::query(server, "SELECT key, array_to_string(items, ' ') FROM ha_lists")?;
    let list = |row: &Row| {
        let key = row.first()?.as_ref()?.parse().ok()?;
        Some((key, items(row.get(1)?.as_deref())))
    };
    Ok(rows.iter().filter_map(list).collect::<BTreeMap<_, _>>())
}
