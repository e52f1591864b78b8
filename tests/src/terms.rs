//! Until when the holder of the leader key may acknowledge, as the store shows it.
//!
//! The judge asks etcd again and again who holds the key and how long its lease lives. etcd counts from when a renewal
//! arrived, which is later than the holder may count from, so whoever acknowledges after these bounds had no right to.

use crate::etcd::{Etcd, Held, Unreachable};
use crate::wait::{millis, secs};
use crate::writer::Ack;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An acknowledgement may lie in a socket buffer or a waiting thread of this loaded machine for so long.
pub const DELIVERY: Duration = millis(250);
/// A key that was deleted while its lease lived: its holder must have heard of it by then.
const DELETION_HEARD: Duration = secs(1);
/// Between two looks.
const PAUSE: Duration = millis(40);

/// One stretch of time in which one server might acknowledge.
#[derive(Clone, Debug)]
struct Term {
    server: String,
    created: String,
    lease: String,
    ttl: Duration,
    /// The key was not held at this moment.
    not_before: Instant,
    /// The lease had ended by then.
    end: Instant,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    list: Vec<Term>,
    /// The last of them still holds the key.
    held: bool,
    /// The store could not be asked since.
    blind: bool,
    /// When the latest look began.
    asked_at: Option<Instant>,
    /// When the latest look began that was answered.
    answered: Option<Instant>,
}

/// One look at the store.
#[derive(Clone, Debug)]
struct Look {
    asked_at: Instant,
    answered_at: Instant,
    /// Who holds the key; the holder is given as the address of its server.
    seen: Result<Option<Held>, Unreachable>,
}

impl Terms {
    /// Whether anything was seen at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn note(&mut self, look: &Look) {
        match &look.seen {
            Err(unreachable) => self.note_blind(look, *unreachable),
            Ok(Some(held)) if self.continues(held) => self.note_renewal(look, held),
            Ok(found) => {
                self.close(look);
                if let Some(held) = found {
                    self.begin(look, held);
                }
                self.blind = false;
            }
        }
        self.asked_at = Some(look.asked_at);
        if look.seen.is_ok() {
            self.answered = Some(look.asked_at);
        }
    }

    fn continues(&self, held: &Held) -> bool {
        let last = self.list.last();
        self.held
            && !self.blind
            && last.is_some_and(|term| (&term.server, &term.created) == (&held.holder, &held.created))
    }

    /// A renewal may have been answered until the first look that was refused.
    fn note_blind(&mut self, look: &Look, unreachable: Unreachable) {
        if let Some(term) = self.list.last_mut().filter(|_| self.held && !(self.blind && unreachable.refused)) {
            term.end = term.end.max(look.answered_at + term.ttl);
        }
        self.blind = true;
    }

    fn note_renewal(&mut self, look: &Look, held: &Held) {
        let Some(term) = self.list.last_mut() else { return };
        let (least, most) = bounds(look, held);
        // A lease that lives longer than it could has been renewed.
        if held.lease != term.lease || least > term.end {
            term.end = term.end.max(most);
        } else {
            term.end = term.end.min(most);
        }
        term.lease.clone_from(&held.lease);
    }

    fn close(&mut self, look: &Look) {
        if let Some(term) = self.list.last_mut().filter(|_| self.held) {
            term.end = term.end.min(look.answered_at + DELETION_HEARD);
        }
        self.held = false;
    }

    fn begin(&mut self, look: &Look, held: &Held) {
        self.held = true;
        let known = |term: &Term| (&term.server, &term.created) == (&held.holder, &held.created);
        // What was not answered says nothing about who has the key; of a term that is known already only the end was open.
        let before = if self.list.last().is_some_and(known) { self.asked_at } else { self.answered };
        self.list.push(Term {
            server: held.holder.clone(),
            created: held.created.clone(),
            lease: held.lease.clone(),
            ttl: held.ttl,
            not_before: before.unwrap_or(look.asked_at),
            end: bounds(look, held).1,
        });
    }

    /// Acknowledgements that nobody had the right to give, in words; at most a few of them.
    #[must_use]
    pub fn late(&self, acks: &[Ack]) -> Vec<String> {
        acks.iter().filter_map(|ack| self.wrong(ack)).take(10).collect()
    }

    fn wrong(&self, ack: &Ack) -> Option<String> {
        let mine = || self.list.iter().filter(|term| term.server == ack.server && term.not_before <= ack.acked_at);
        if mine().any(|term| ack.sent_at <= term.end && ack.acked_at <= term.end + DELIVERY) {
            return None;
        }
        let since = mine().map(|term| term.end).max().map_or_else(
            || "before its first lease".to_owned(),
            |end| format!("{} ms after the end of its lease", ack.acked_at.saturating_duration_since(end).as_millis()),
        );
        Some(format!("{} acknowledged writer {} seq {} {since}", ack.server, ack.writer, ack.seq))
    }
}

/// Between which moments the lease ends if nobody renews it: etcd tells whole seconds, rounded towards zero.
fn bounds(look: &Look, held: &Held) -> (Instant, Instant) {
    let whole = |seconds: i64| secs(u64::try_from(seconds).unwrap_or(0));
    (look.asked_at + whole(held.remaining_s), look.answered_at + whole(held.remaining_s.saturating_add(1)))
}

/// Looks at the leader key all the time.
#[derive(Debug)]
pub struct TermWatch {
    stop: Arc<AtomicBool>,
    terms: Arc<Mutex<Terms>>,
    thread: Option<JoinHandle<()>>,
}

impl TermWatch {
    /// Watches this key; `servers` are the addresses of its possible holders. Returns after the first look.
    #[must_use]
    pub fn start(etcd: Etcd, key: String, servers: BTreeMap<String, String>) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let terms: Arc<Mutex<Terms>> = Arc::default();
        let first = look(&etcd, &key, &servers);
        terms.lock().expect("nobody else has it yet").note(&first);
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&terms));
        let watch = move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(PAUSE);
                let look = look(&etcd, &key, &servers);
                shared.lock().expect("no watcher panics while holding it").note(&look);
            }
        };
        let thread = std::thread::Builder::new().name("term watch".into()).spawn(watch);
        Self { stop, terms, thread: Some(thread.expect("a thread can be started")) }
    }

    /// Ends; what was seen.
    #[must_use]
    pub fn stop(mut self) -> Terms {
        self.halt();
        self.terms.lock().expect("the watcher has ended").clone()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for TermWatch {
    fn drop(&mut self) {
        self.halt();
    }
}

fn look(etcd: &Etcd, key: &str, servers: &BTreeMap<String, String>) -> Look {
    let asked_at = Instant::now();
    let mut seen = etcd.held(key);
    if let Ok(Some(held)) = &mut seen
        && let Some(server) = servers.get(&held.holder)
    {
        held.holder.clone_from(server);
    }
    Look { asked_at, answered_at: Instant::now(), seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Story {
        origin: Instant,
        terms: Terms,
    }

    impl Story {
        fn new() -> Self {
            Self { origin: Instant::now(), terms: Terms::default() }
        }

        fn at(&self, at_ms: u64) -> Instant {
            self.origin + millis(at_ms)
        }

        fn look(&mut self, at_ms: u64, seen: Result<Option<Held>, Unreachable>) {
            let look = Look { asked_at: self.at(at_ms), answered_at: self.at(at_ms + 2), seen };
            self.terms.note(&look);
        }

        fn held(&mut self, at_ms: u64, server: &str, created: &str, remaining_s: i64) {
            let (holder, created, lease) = (server.to_owned(), created.to_owned(), "1".to_owned());
            self.look(at_ms, Ok(Some(Held { holder, created, lease, remaining_s, ttl: secs(5) })));
        }

        /// Whether an acknowledgement by this server that was asked for and given then would be seen as wrong.
        fn wrong(&self, server: &str, sent_ms: u64, acked_ms: u64) -> bool {
            let ack = Ack {
                writer: 1,
                roaming: false,
                seq: 1,
                connected_at: self.origin,
                sent_at: self.at(sent_ms),
                acked_at: self.at(acked_ms),
                server: server.into(),
                timeline: 1,
                lsn_before: 1,
            };
            !self.terms.late(&[ack]).is_empty()
        }
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends_where_its_seconds_change() {
        let mut story = Story::new();
        story.held(100, "a", "7", 4);
        story.held(900, "a", "7", 4);
        // Less than five seconds at 900 and less than four at 1000: it ends between 5000 and 5002.
        story.held(1000, "a", "7", 3);
        assert!(!story.wrong("a", 4990, 5001));
        assert!(!story.wrong("a", 4990, 5200), "asked for in time, and perhaps a while in a buffer");
        assert!(story.wrong("a", 4990, 5300));
        assert!(story.wrong("a", 5010, 5020), "asked for after the end");
        assert!(story.wrong("b", 500, 510), "another server never had it");
    }

    #[test]
    fn a_renewal_moves_the_end() {
        let mut story = Story::new();
        for at_ms in [0, 900, 1800, 2700] {
            story.held(at_ms, "a", "7", 4);
            story.held(at_ms + 800, "a", "7", 4);
        }
        assert!(!story.wrong("a", 7600, 7650));
        assert!(story.wrong("a", 8600, 8610));
        story.held(8600, "a", "7", -1);
        assert!(story.wrong("a", 9700, 9710));
    }

    #[test]
    fn a_new_holder_ends_the_term_and_may_not_be_early() {
        let mut story = Story::new();
        story.held(0, "a", "7", 4);
        story.look(1000, Ok(None));
        story.held(1040, "b", "9", 4);
        assert!(!story.wrong("a", 1100, 1110), "it may not have heard of the deletion");
        assert!(story.wrong("a", 2500, 2510));
        assert!(story.wrong("b", 980, 990), "the key was free afterwards");
        assert!(!story.wrong("b", 1030, 1035));
    }

    #[test]
    fn a_store_that_is_gone_renews_nothing_and_one_that_is_silent_might() {
        let mut story = Story::new();
        story.held(0, "a", "7", 4);
        story.look(40, Err(Unreachable { refused: true }));
        story.look(3000, Err(Unreachable { refused: true }));
        assert!(!story.wrong("a", 5030, 5040));
        assert!(story.wrong("a", 5100, 5110));
        story.look(5900, Err(Unreachable { refused: true }));
        story.held(6000, "a", "7", 4);
        assert!(story.wrong("a", 5500, 5510), "between the two stretches");
        assert!(!story.wrong("a", 6010, 6020));

        let mut silent = Story::new();
        silent.held(0, "a", "7", 4);
        silent.look(2000, Err(Unreachable { refused: false }));
        assert!(!silent.wrong("a", 6900, 6910));
    }

    #[test]
    fn a_store_that_falls_silent_may_have_given_the_key_before() {
        for refused in [false, true] {
            let mut story = Story::new();
            story.held(0, "a", "7", 4);
            story.look(1000, Ok(None));
            story.look(1040, Err(Unreachable { refused }));
            story.look(1080, Err(Unreachable { refused }));
            story.held(3000, "b", "9", 4);
            assert!(!story.wrong("b", 1010, 1030), "it had the key before the store fell silent");
            assert!(story.wrong("b", 900, 990), "the key was free afterwards");
        }
    }
}
