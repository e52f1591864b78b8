//! Watches over the lease we lead by, on the net thread, so that its end closes the fence without the main thread.

use super::Hooks;
use ha_core::clock::{Millis, Tick};
use ha_core::dcs::{LEADER_PATH, RawCluster, RawKey};
use ha_core::ids::{LeaseId, NodeName, Revision};
use ha_core::lease::Lease;
use ha_core::memory::Doubt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What both threads must know of the fence at once.
#[derive(Clone, Debug, Default)]
pub struct Acting(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The driver stands between its `OpenFence` and its `CloseFence`. Written by the main thread.
    open: AtomicBool,
    /// Create revision of the leader key that was proven lost last. Written by the net thread.
    lost: AtomicI64,
    /// The last jump of a clock that the main thread has noticed.
    doubt: Mutex<Option<Doubt>>,
}

impl Acting {
    pub(crate) fn set(&self, open: bool) {
        self.0.open.store(open, Ordering::SeqCst);
    }

    /// Whether the leader key of `lease` was proven lost. The net thread says so BEFORE it closes the fence and the main
    /// thread asks AFTER it has opened it, so one of them always has the last word with a closed fence.
    pub(crate) fn is_lost(&self, lease: &Lease) -> bool {
        self.0.lost.load(Ordering::SeqCst) == lease.leader_created.0
    }

    pub(crate) fn set_lost(&self, lease: &Lease) {
        self.0.lost.store(lease.leader_created.0, Ordering::SeqCst);
    }

    /// The main thread says so BEFORE it brings the deadline forward, and the net thread asks again AFTER it has pushed it out.
    pub(crate) fn set_doubt(&self, doubt: Option<Doubt>) {
        *self.0.doubt.lock().unwrap_or_else(PoisonError::into_inner) = doubt;
    }

    /// A lease as it counts: what was asked before a clock jumped, from earlier.
    fn believed(&self, lease: Lease) -> Lease {
        let doubt = *self.0.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        doubt.map_or(lease, |doubt| doubt.believed(lease))
    }

    fn get(&self) -> bool {
        self.0.open.load(Ordering::SeqCst)
    }
}

/// Whether a lease was granted to this node.
pub(super) type OwnLease = Box<dyn Fn(LeaseId) -> bool>;

/// The lease that replies have confirmed, and the newest leader key that the watch has shown.
pub(super) struct Guard {
    me: NodeName,
    /// Whether a lease is one of this node's: a changed `ttl` moves our keys to another.
    own: OwnLease,
    /// The lease of an earlier life that the leader key still hung on when it was adopted. A view from before the
    /// adoption shows it.
    adopted: Option<LeaseId>,
    held: Option<Lease>,
    seen: Option<(Revision, Option<RawKey>)>,
    acting: Acting,
    hooks: Hooks,
}

impl Guard {
    pub fn new(me: NodeName, own: OwnLease, acting: Acting, hooks: Hooks) -> Self {
        Self { me, own, adopted: None, held: None, seen: None, acting, hooks }
    }

    /// The store has confirmed `lease` just now. `false` if the watch has shown already that it is over.
    pub fn confirmed(&mut self, lease: Lease) -> bool {
        self.held = Some(lease);
        if self.lost() {
            return false;
        }
        self.tell(lease);
        true
    }

    /// From `now` on leases are asked for with `ttl`: before the key is moved to a shorter one, the fence must count on no more.
    pub fn limit(&mut self, ttl: Millis, now: Tick) {
        let Some(held) = self.held.filter(|held| held.ttl > ttl) else { return };
        let limited = held.limited(ttl, now);
        self.held = Some(limited);
        self.tell(limited);
    }

    /// Moves the deadline of an open fence to where this lease ends.
    fn tell(&self, lease: Lease) {
        if !self.acting.get() {
            return;
        }
        let mut told = self.acting.believed(lease);
        (self.hooks.confirmed)(&told);
        while self.acting.believed(lease) != told {
            told = self.acting.believed(lease);
            (self.hooks.confirmed)(&told);
        }
    }

    /// The main thread goes on with a lease that the other seat held.
    pub fn resume(&mut self, lease: Option<Lease>) {
        self.held = lease;
        self.lost();
    }

    /// The store has proven that the leader key of `lease` is not ours any more.
    pub fn refused(&mut self, lease: &Lease) {
        if self.held.is_some_and(|held| held.leader_created == lease.leader_created) {
            self.lose(lease);
        }
    }

    /// The watch shows the cluster like this.
    pub fn seen(&mut self, raw: &RawCluster) {
        self.seen = Some((raw.revision, raw.keys.get(LEADER_PATH).cloned()));
        self.lost();
    }

    /// Our leader key is about to be moved away from the lease of an earlier life.
    pub fn adopting(&mut self, old: LeaseId) {
        self.adopted = Some(old);
    }

    /// Another connection to the store: what was seen before says nothing any more.
    pub fn reconnected(&mut self, own: OwnLease) {
        self.own = own;
        self.seen = None;
    }

    /// Calls `leader_lost` if what was seen proves that the lease held is over.
    fn lost(&mut self) -> bool {
        let (Some(held), Some((revision, key))) = (self.held, &self.seen) else { return false };
        // A view from before our acquisition proves nothing.
        if *revision < held.leader_created || key.as_ref().is_some_and(|key| self.is_ours(key, &held)) {
            return false;
        }
        self.lose(&held);
        true
    }

    fn lose(&mut self, lease: &Lease) {
        self.held = None;
        self.acting.set_lost(lease);
        (self.hooks.leader_lost)();
    }

    fn is_ours(&self, key: &RawKey, held: &Lease) -> bool {
        let lease_is_ours =
            key.lease.is_some_and(|lease| lease == held.id || Some(lease) == self.adopted || (self.own)(lease));
        key.value == self.me.as_str() && key.created == held.leader_created && lease_is_ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_core::clock::{Millis, Tick};
    use std::sync::atomic::AtomicU32;

    struct Calls {
        confirmed: Arc<AtomicU32>,
        lost: Arc<AtomicU32>,
        told: Arc<Mutex<Option<Lease>>>,
    }

    fn guard() -> (Guard, Acting, Calls) {
        let calls = Calls { confirmed: Arc::default(), lost: Arc::default(), told: Arc::default() };
        let (confirmed, lost, told) = (calls.confirmed.clone(), calls.lost.clone(), calls.told.clone());
        let hooks = Hooks {
            confirmed: Arc::new(move |lease| {
                confirmed.fetch_add(1, Ordering::Relaxed);
                *told.lock().expect("nobody panics with it") = Some(*lease);
            }),
            leader_lost: Arc::new(move || {
                lost.fetch_add(1, Ordering::Relaxed);
            }),
            lease_deadline: Arc::new(|| Tick(0)),
            wake: Arc::new(|| ()),
            died: Arc::new(|_, _| ()),
        };
        let acting = Acting::default();
        acting.set(true);
        (Guard::new(NodeName::new("pg1"), Box::new(|lease| lease == LeaseId(8)), acting.clone(), hooks), acting, calls)
    }

    fn lease() -> Lease {
        Lease::confirmed(LeaseId(7), Revision(10), Tick(0), Millis(30_000))
    }

    fn view(revision: i64, leader: Option<(&str, i64, i64)>) -> RawCluster {
        let mut raw = RawCluster { revision: Revision(revision), ..RawCluster::default() };
        if let Some((name, created, lease)) = leader {
            let key = RawKey {
                value: name.to_owned(),
                created: Revision(created),
                modified: Revision(revision),
                version: 1,
                lease: Some(LeaseId(lease)),
            };
            raw.keys.insert(LEADER_PATH.to_owned(), key);
        }
        raw
    }

    fn count(counter: &Arc<AtomicU32>) -> u32 {
        counter.load(Ordering::Relaxed)
    }

    #[test]
    fn every_way_to_lose_the_key_is_seen_once() {
        for gone in [None, Some(("pg2", 12, 9)), Some(("pg1", 12, 7)), Some(("pg1", 10, 99)), Some(("pg2", 10, 7))] {
            let (mut guard, _, calls) = guard();
            assert!(guard.confirmed(lease()));
            guard.seen(&view(9, None));
            guard.seen(&view(11, Some(("pg1", 10, 7))));
            guard.seen(&view(11, Some(("pg1", 10, 8))));
            assert_eq!(count(&calls.lost), 0, "an older view, ours, and ours on another lease of ours");
            guard.seen(&view(12, gone));
            guard.seen(&view(13, gone));
            assert_eq!((count(&calls.lost), count(&calls.confirmed)), (1, 1), "{gone:?}");
        }
    }

    #[test]
    fn a_confirmation_that_comes_after_the_loss_was_seen_opens_nothing() {
        let (mut guard, _, calls) = guard();
        guard.seen(&view(12, None));
        assert!(!guard.confirmed(lease()));
        guard.resume(Some(lease()));
        assert_eq!((count(&calls.lost), count(&calls.confirmed)), (2, 0));
    }

    #[test]
    fn only_an_acting_driver_has_its_deadline_pushed_out() {
        let (mut guard, acting, calls) = guard();
        acting.set(false);
        assert!(guard.confirmed(lease()));
        assert_eq!(count(&calls.confirmed), 0);
        acting.set(true);
        assert!(guard.confirmed(lease()));
        assert_eq!(count(&calls.confirmed), 1);
        guard.refused(&Lease { leader_created: Revision(3), ..lease() });
        assert_eq!(count(&calls.lost), 0, "a refusal of an earlier lease");
        assert!(!acting.is_lost(&lease()));
        guard.refused(&lease());
        assert!(acting.is_lost(&lease()));
        guard.refused(&lease());
        assert_eq!(count(&calls.lost), 1);
    }

    #[test]
    fn a_lowered_ttl_ends_the_fence_sooner_before_the_key_is_moved() {
        let (mut guard, _, calls) = guard();
        assert!(guard.confirmed(lease()));
        guard.limit(Millis(5000), Tick(20_000));
        assert_eq!(guard.held.map(|held| held.deadline()), Some(Tick(24_750)));
        assert_eq!(count(&calls.confirmed), 2, "the fence was told");
        guard.limit(Millis(30_000), Tick(21_000));
        guard.limit(Millis(5000), Tick(22_000));
        assert_eq!(count(&calls.confirmed), 2, "nothing to lower");
    }

    #[test]
    fn an_answer_to_a_question_from_before_a_jump_gives_the_fence_no_more_than_is_believed() {
        let (mut guard, acting, calls) = guard();
        let told = || *calls.told.lock().expect("nobody panics with it");
        let sent = |sent_at| Lease { sent_at, ..lease() };
        acting.set_doubt(Some(Doubt { since: Tick(10_000), unseen: Millis(7000) }));
        assert!(guard.confirmed(sent(Tick(9_999))));
        assert_eq!(told(), Some(sent(Tick(2_999))));
        assert!(guard.confirmed(sent(Tick(10_000))));
        assert_eq!(told(), Some(sent(Tick(10_000))), "asked since");
    }

    #[test]
    fn a_view_from_before_an_adoption_is_no_loss() {
        let (mut guard, _, calls) = guard();
        guard.adopting(LeaseId(5));
        guard.seen(&view(11, Some(("pg1", 10, 5))));
        assert!(guard.confirmed(lease()));
        guard.seen(&view(12, Some(("pg1", 10, 7))));
        assert_eq!((count(&calls.lost), count(&calls.confirmed)), (0, 1));
    }
}
