//! Commands of sessions to the loop worker: a few letters in shared memory.
//!
//! A letter belongs to whoever its state says: `FREE` nobody, `WRITING` and `ANSWERED` the session, `SENT` and `TAKEN` the
//! worker. A session that stops waiting leaves its letter; the worker frees those whose session is gone.

use crate::pg::latch::LatchAddress;
use crate::shmem::{Letter, REPLY_BYTES, REQUEST_BYTES, Shared};
use ha_node::clock;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

const FREE: u32 = 0;
const WRITING: u32 = 1;
const SENT: u32 = 2;
const TAKEN: u32 = 3;
const ANSWERED: u32 = 4;
/// The session has gone away before the answer came.
const ABANDONED: u32 = 5;

/// A command, in the words of the REST API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// `POST`, `PATCH`, ...
    pub method: String,
    /// `/switchover`, ...
    pub path: String,
    /// JSON.
    pub body: String,
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// No loop worker runs.
    NoWorker,
    /// Every letter is in use.
    Busy,
    /// The command is too long.
    TooLong,
    /// The worker ended, or did not answer in time.
    NoAnswer,
}

/// A letter under way; when it is dropped without an answer, by an error too, it is left to the worker.
struct Sent<'a> {
    letter: &'a Letter,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let abandon = |state: u32| if state == TAKEN { Some(ABANDONED) } else { Some(FREE) };
        let _ = self.letter.state.fetch_update(AcqRel, Acquire, abandon);
    }
}

/// Sends a command and waits for the answer (sessions). `wait` sleeps for at most this long and raises the server's
/// error when the session is cancelled or terminated.
pub fn ask(shared: &Shared, command: &Command, limit: Duration, wait: impl Fn(Duration)) -> Result<Answer, Failed> {
    let text = serde_json::to_string(command).unwrap_or_default();
    if text.len() > REQUEST_BYTES {
        return Err(Failed::TooLong);
    }
    let worker = shared.worker_pid.load(Acquire);
    if worker == 0 {
        return Err(Failed::NoWorker);
    }
    let free = |letter: &&Letter| letter.state.compare_exchange(FREE, WRITING, AcqRel, Acquire).is_ok();
    let letter = shared.letters.iter().find(free).ok_or(Failed::Busy)?;
    letter.owner_pid.store(crate::pg::process::pid(), Relaxed);
    letter.owner_latch.store(LatchAddress::mine().as_pointer(), Relaxed);
    letter.ticket.fetch_add(1, Relaxed);
    letter.request.store(&text);
    let sent = Sent { letter };
    letter.state.store(SENT, Release);
    if let Some(latch) = LatchAddress::from_pointer(shared.worker_latch.load(Acquire)) {
        latch.set();
    }
    let end_ns = clock::now_ns().saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    loop {
        if letter.state.load(Acquire) == ANSWERED {
            let reply = letter.reply.load();
            drop(sent);
            return serde_json::from_slice(&reply).map_err(|_| Failed::NoAnswer);
        }
        if clock::now_ns() >= end_ns || shared.worker_pid.load(Acquire) != worker {
            return Err(Failed::NoAnswer);
        }
        wait(Duration::from_millis(500));
    }
}

/// Names one use of one letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    letter: usize,
    use_number: u64,
}

impl Ticket {
    /// As one number, unique while the worker runs.
    pub fn number(self) -> u64 {
        (self.use_number << 8) | self.letter as u64
    }
}

/// Commands that have come since the last call (loop worker).
pub fn receive(shared: &Shared) -> Vec<(Ticket, Command)> {
    let mut out = Vec::new();
    for (number, letter) in shared.letters.iter().enumerate() {
        if letter.state.compare_exchange(SENT, TAKEN, AcqRel, Acquire).is_err() {
            continue;
        }
        let ticket = Ticket { letter: number, use_number: letter.ticket.load(Relaxed) };
        match serde_json::from_slice(&letter.request.load()) {
            Ok(command) => out.push((ticket, command)),
            Err(error) => answer(shared, ticket, &Answer { status: 400, body: error.to_string() }),
        }
    }
    out
}

/// Answers a command (loop worker).
pub fn answer(shared: &Shared, ticket: Ticket, reply: &Answer) {
    let letter = &shared.letters[ticket.letter];
    if letter.ticket.load(Relaxed) != ticket.use_number {
        return;
    }
    let mut text = serde_json::to_string(reply).unwrap_or_default();
    if text.len() > REPLY_BYTES {
        text = String::from(r#"{"status":500,"body":"the answer is too long"}"#);
    }
    letter.reply.store(&text);
    if letter.state.compare_exchange(TAKEN, ANSWERED, AcqRel, Acquire).is_ok() {
        if let Some(latch) = LatchAddress::from_pointer(letter.owner_latch.load(Relaxed)) {
            latch.set();
        }
    } else {
        let _ = letter.state.compare_exchange(ABANDONED, FREE, AcqRel, Acquire);
    }
}

/// The process whose command this is (loop worker, while it is open).
pub fn owner(shared: &Shared, ticket: Ticket) -> i32 {
    shared.letters[ticket.letter].owner_pid.load(Relaxed)
}

/// Whether the session has not taken its answer in yet (loop worker).
pub fn unread(shared: &Shared, ticket: Ticket) -> bool {
    let letter = &shared.letters[ticket.letter];
    letter.ticket.load(Relaxed) == ticket.use_number && letter.state.load(Acquire) == ANSWERED
}

/// Frees letters whose session ended without a word.
pub fn clean(shared: &Shared) {
    for letter in &shared.letters {
        let state = letter.state.load(Acquire);
        if state != FREE && state != TAKEN && !crate::pg::process::exists(letter.owner_pid.load(Relaxed)) {
            // Only if nobody has moved it meanwhile.
            let _ = letter.state.compare_exchange(state, FREE, AcqRel, Acquire);
        }
    }
}

/// Deals with what an earlier worker took with it (loop worker, at its start).
pub fn begin(shared: &Shared) {
    for (number, letter) in shared.letters.iter().enumerate() {
        let _ = letter.state.compare_exchange(ABANDONED, FREE, AcqRel, Acquire);
        if letter.state.load(Acquire) == TAKEN {
            let ticket = Ticket { letter: number, use_number: letter.ticket.load(Relaxed) };
            let body = "the worker was restarted: it is not known what became of the command".to_owned();
            answer(shared, ticket, &Answer { status: 503, body });
        }
    }
}
