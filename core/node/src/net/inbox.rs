//! What the net thread has for the main thread: everything that must not be lost, the newest of everything else.

use super::Wake;
use crate::clock;
use ha_core::clock::Tick;
use ha_core::cluster::Cluster;
use ha_core::dcs::DcsReply;
use ha_core::failsafe::{PromiseView, Question};
use ha_core::outcome::Outcome;
use ha_core::peer::PeerView;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether the store can be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// The watch is up.
    Fresh,
    /// It is not.
    Unreachable {
        /// Since when.
        since: Tick,
        /// Why.
        why: String,
    },
}

/// A client that waits for a switchover: its connection, and what it waits for. It can move with the seat.
pub type RestWait = crate::http::MovedWait;

/// Everything since the last call of [`Inbox::take`].
#[derive(Debug, Default)]
pub struct News {
    /// The newest view of the cluster, if there is a new one.
    pub cluster: Option<Arc<Cluster>>,
    /// Whether the store can be followed, if that has changed.
    pub health: Option<StoreHealth>,
    /// Requests to the store that came to an end, in order.
    pub outcomes: Vec<Outcome>,
    /// Answers of peers, in the order of arrival.
    pub peers: Vec<PeerView>,
    /// What became of asking the members to stay away from the leader key, in the order of arrival.
    pub promises: Vec<PromiseView>,
    /// Leaders that ask this node for that.
    pub questions: Vec<Question>,
    /// Ends of writes that were no decision's, by ticket.
    pub written: Vec<(u64, DcsReply)>,
    /// REST is no longer served; these clients wait for a switchover.
    pub rest_stopped: Option<Vec<RestWait>>,
    /// When the store last answered anything, seconds since 1970.
    pub store_answered_unix_s: Option<u64>,
}

/// Shared by both threads. The lock is only ever held for a few moves of memory.
pub struct Inbox {
    news: Mutex<News>,
    wake: Wake,
}

impl Inbox {
    pub(super) fn new(wake: Wake) -> Self {
        Self { news: Mutex::default(), wake }
    }

    /// Takes everything.
    #[must_use]
    pub fn take(&self) -> News {
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn cluster(&self, cluster: Arc<Cluster>) {
        self.add(|news| {
            news.cluster = Some(cluster);
            news.health = Some(StoreHealth::Fresh);
            news.store_answered_unix_s = Some(clock::wall_ms() / 1000);
        });
    }

    pub(super) fn lost(&self, since: Tick, why: String) {
        self.add(|news| news.health = Some(StoreHealth::Unreachable { since, why }));
    }

    pub(super) fn outcome(&self, outcome: Outcome) {
        self.add(|news| {
            if let Outcome::Dcs { reply, .. } = &outcome
                && !matches!(reply, DcsReply::Unknown(_))
            {
                news.store_answered_unix_s = Some(clock::wall_ms() / 1000);
            }
            news.outcomes.push(outcome);
        });
    }

    pub(super) fn peer(&self, view: PeerView) {
        self.add(|news| news.peers.push(view));
    }

    pub(super) fn promise(&self, view: PromiseView) {
        self.add(|news| news.promises.push(view));
    }

    pub(super) fn question(&self, question: Question) {
        self.add(|news| news.questions.push(question));
    }

    pub(super) fn written(&self, ticket: u64, reply: DcsReply) {
        self.add(|news| news.written.push((ticket, reply)));
    }

    pub(super) fn rest_stopped(&self, waits: Vec<RestWait>) {
        self.add(|news| news.rest_stopped.get_or_insert_default().extend(waits));
    }

    fn add(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.lock());
        (self.wake)();
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
