//! The model store, shaped like etcd: one revision, keys, leases that end on the server, transactions.
//!
//! A lease ends at `expires`; its keys go up to half a second later, because etcd revokes in a loop. In between no
//! keepalive brings it back. While the store is down no lease ends, and when it is back each has its full ttl again.

use crate::cluster::{Cluster, Edition, LastLeader, LeaderKey};
use crate::dcs::{
    ClaimAlong, Expect, Key, KeyEdit, LAST_LEADER_PATH, LEADER_PATH, RELEASED_PATH, RawCluster, RawKey, UNBOUND_PATH,
};
use crate::ids::{LeaseId, NodeName, Revision};
use crate::lease::Lease;
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Clone, Debug)]
pub(super) struct LeaseState {
    pub(super) ttl_ms: u64,
    pub(super) expires: u64,
    /// How much later than `expires` its keys are removed.
    pub(super) revoke_lag: u64,
    /// Somebody looks at it then.
    pub(super) watched: bool,
}

#[derive(Debug)]
pub(super) struct Store {
    raw: RawCluster,
    leases: BTreeMap<LeaseId, LeaseState>,
    next_lease: i64,
    pub(super) up: bool,
    parsed: Option<Rc<Cluster>>,
}

/// One request as it travels. A call of the driver is one or two of them.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Keepalive(LeaseId),
    Grant {
        ttl_ms: u64,
    },
    CreateLeader {
        lease: LeaseId,
        seen: Revision,
        claim: Option<ClaimAlong>,
        edition: Option<Edition>,
    },
    Adopt {
        old: LeaseId,
        created: Revision,
        lease: LeaseId,
        edition: Option<Edition>,
    },
    /// Is the leader key still of this lease?
    Check(Lease),
    /// The same, and it is written as it is.
    Stay(Lease),
    /// When was the leader key written last that hangs on this lease?
    LookAt(LeaseId),
    /// Every key that hangs on a lease goes to another, the leader key if it was not written since it was looked at.
    Move {
        from: LeaseId,
        to: LeaseId,
        leader: Option<Revision>,
        guarded: bool,
    },
    Revoke(LeaseId),
    Release {
        lease: Lease,
        announcement: String,
        status: Option<String>,
    },
    RemoveUnleased {
        created: Revision,
    },
    TimeToLive(LeaseId),
    Write {
        edit: KeyEdit,
        session: Option<LeaseId>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Alive {
        lease: LeaseId,
        ttl_ms: u64,
    },
    /// The lease does not exist.
    Gone,
    /// What was asked about the leader key.
    Seen(Option<Revision>),
    /// The leader key is ours, but hangs on another lease.
    On(LeaseId),
    /// The condition held; written at this revision (or the revision the leader key was created at).
    Done(Revision),
    /// The condition did not hold.
    No,
}

impl Store {
    pub(super) fn new(revision: i64) -> Self {
        let raw = RawCluster { revision: Revision(revision), keys: BTreeMap::new() };
        Self { raw, leases: BTreeMap::new(), next_lease: 0x1000, up: true, parsed: None }
    }

    pub(super) fn revision(&self) -> Revision {
        self.raw.revision
    }

    /// The present contents as a driver reads them.
    pub(super) fn cluster(&mut self) -> Rc<Cluster> {
        let raw = &self.raw;
        let parsed = self.parsed.get_or_insert_with(|| Rc::new(crate::parse::cluster(raw)));
        debug_assert_eq!(**parsed, crate::parse::cluster(raw), "taken in key by key, it is the same");
        parsed.clone()
    }

    pub(super) fn key(&self, path: &str) -> Option<&RawKey> {
        self.raw.keys.get(path)
    }

    /// The value of every key.
    pub(super) fn values(&self) -> BTreeMap<String, String> {
        self.raw.keys.iter().map(|(path, key)| (path.clone(), key.value.clone())).collect()
    }

    pub(super) fn leader(&self) -> Option<LeaderKey> {
        if let Some(parsed) = &self.parsed {
            return parsed.leader.clone();
        }
        let key = self.key(LEADER_PATH).filter(|key| !key.value.is_empty())?;
        Some(LeaderKey { name: NodeName::new(key.value.as_str()), lease: key.lease?, created: key.created })
    }

    /// When this lease ends (or ended), if it is known.
    pub(super) fn expires(&self, lease: LeaseId) -> Option<u64> {
        self.leases.get(&lease).map(|state| state.expires)
    }

    pub(super) fn lease(&mut self, lease: LeaseId) -> Option<&mut LeaseState> {
        self.leases.get_mut(&lease)
    }

    /// Carries out one request. `revoke_lag` is for a lease that is granted now.
    pub(super) fn apply(&mut self, now: u64, me: &NodeName, request: &Request, revoke_lag: u64) -> Answer {
        match request {
            Request::Keepalive(lease) => match self.leases.get_mut(lease) {
                Some(state) if now < state.expires => {
                    state.expires = now + state.ttl_ms;
                    Answer::Alive { lease: *lease, ttl_ms: state.ttl_ms }
                }
                Some(_) | None => Answer::Gone,
            },
            Request::Grant { ttl_ms } => {
                self.next_lease += 0x11;
                let lease = LeaseId(self.next_lease);
                self.leases
                    .insert(lease, LeaseState { ttl_ms: *ttl_ms, expires: now + ttl_ms, revoke_lag, watched: false });
                Answer::Alive { lease, ttl_ms: *ttl_ms }
            }
            Request::CreateLeader { lease, seen, claim, edition } => {
                if !self.leases.contains_key(lease) {
                    return Answer::Gone;
                }
                let changed = |path: &str| self.key(path).is_some_and(|record| record.modified > *seen);
                let expected = |edition: &Edition| {
                    let next = |key: &RawKey| Edition { created: key.created, version: key.version + 1 };
                    self.key(LAST_LEADER_PATH).map(next) == Some(*edition)
                };
                let taken_since = changed(LAST_LEADER_PATH) || changed(UNBOUND_PATH) || changed(&Key::Config.path());
                let claimable = claim.as_ref().is_none_or(|claim| self.holds(me, &claim.key(), &claim.expect));
                if self.raw.keys.contains_key(LEADER_PATH)
                    || taken_since
                    || !claimable
                    || !edition.as_ref().is_none_or(expected)
                {
                    return Answer::No;
                }
                if let Some(claim) = claim {
                    self.put(&claim.key().path(), &claim.record(me, *lease).text(), None);
                }
                let created = self.put(LEADER_PATH, me.as_str(), Some(*lease));
                self.record_leader(me, *lease, None, *edition);
                Answer::Done(created)
            }
            Request::Adopt { old, created, lease, edition } => {
                if !self.leases.contains_key(lease) {
                    return Answer::Gone;
                }
                let ours = self.leader().is_some_and(|l| l.name == *me && l.lease == *old && l.created == *created);
                if !ours {
                    return Answer::No;
                }
                self.put(LEADER_PATH, me.as_str(), Some(*lease));
                self.record_leader(me, *lease, Some(*created), *edition);
                Answer::Done(*created)
            }
            Request::Check(lease) if self.is_leader(me, lease) => Answer::Done(self.raw.revision),
            Request::Stay(lease) if self.is_leader(me, lease) => {
                Answer::Done(self.put(LEADER_PATH, me.as_str(), Some(lease.id)))
            }
            Request::Check(lease) | Request::Stay(lease) => self.elsewhere(me, lease),
            Request::LookAt(lease) => Answer::Seen(self.leader_on(*lease).map(|key| key.modified)),
            Request::Move { from, to, leader, guarded } => self.move_keys(me, (*from, *to), *leader, *guarded),
            Request::Revoke(lease) => {
                self.revoke(*lease);
                Answer::Done(self.raw.revision)
            }
            Request::Release { lease, announcement, status } => {
                if !self.is_leader(me, lease) {
                    return self.elsewhere(me, lease);
                }
                self.raw.keys.remove(LEADER_PATH);
                self.parsed = None;
                if let Some(status) = status {
                    self.put(&Key::Status.path(), status, None);
                }
                Answer::Done(self.put(RELEASED_PATH, announcement, None))
            }
            Request::RemoveUnleased { created } => {
                let there = self.key(LEADER_PATH).is_some_and(|key| key.lease.is_none() && key.created == *created);
                let removed = there && self.delete(LEADER_PATH);
                self.verdict(removed)
            }
            Request::TimeToLive(lease) => self.verdict(self.expires(*lease).is_some_and(|expires| now < expires)),
            Request::Write { edit, session } => self.write(me, edit, *session),
        }
    }

    /// In the transaction that writes the leader key: both are of one revision.
    fn record_leader(&mut self, me: &NodeName, lease: LeaseId, created: Option<Revision>, edition: Option<Edition>) {
        let record = LastLeader { leader: me.clone(), lease, created, edition };
        let revision = self.raw.revision;
        self.put_at(revision, LAST_LEADER_PATH, &record.text(), None);
    }

    fn leader_on(&self, lease: LeaseId) -> Option<&RawKey> {
        self.key(LEADER_PATH).filter(|key| key.lease == Some(lease))
    }

    /// Where our leader key hangs, if it is ours.
    fn elsewhere(&self, me: &NodeName, lease: &Lease) -> Answer {
        let ours = self.leader().filter(|l| l.name == *me && l.created == lease.leader_created);
        ours.map_or(Answer::No, |ours| Answer::On(ours.lease))
    }

    fn move_keys(
        &mut self,
        me: &NodeName,
        (from, to): (LeaseId, LeaseId),
        leader: Option<Revision>,
        guarded: bool,
    ) -> Answer {
        let there = self.leader_on(from).map(|key| (key.modified, key.created));
        let written = there.map(|(modified, _)| modified);
        if leader.is_none() && written.is_some() {
            return Answer::No;
        }
        if leader.is_some() && (written.is_none() || guarded && written != leader) {
            return Answer::No;
        }
        if !self.leases.contains_key(&to) {
            return Answer::Gone;
        }
        let moving = |(path, key): (&String, &RawKey)| {
            let moves = key.lease == Some(from) && (leader.is_some() || path != LEADER_PATH);
            moves.then(|| (path.clone(), key.value.clone()))
        };
        let keys: Vec<(String, String)> = self.raw.keys.iter().filter_map(moving).collect();
        if !keys.is_empty() {
            let revision = self.next_revision();
            for (path, value) in keys {
                self.put_at(revision, &path, &value, Some(to));
            }
        }
        if let (Some(_), Some((_, created))) = (leader, there) {
            self.record_leader(me, to, Some(created), None);
        }
        Answer::Done(self.raw.revision)
    }

    fn verdict(&self, yes: bool) -> Answer {
        if yes { Answer::Done(self.raw.revision) } else { Answer::No }
    }

    fn is_leader(&self, me: &NodeName, lease: &Lease) -> bool {
        self.leader().is_some_and(|l| l.name == *me && l.lease == lease.id && l.created == lease.leader_created)
    }

    fn holds(&self, me: &NodeName, key: &Key, expect: &Expect) -> bool {
        let path = key.path();
        match expect {
            Expect::Absent => self.key(&path).is_none(),
            Expect::Unchanged(revision) => self.key(&path).is_some_and(|key| key.modified == *revision),
            Expect::WeLead(lease) => self.is_leader(me, lease),
            Expect::Own => true,
        }
    }

    fn write(&mut self, me: &NodeName, edit: &KeyEdit, session: Option<LeaseId>) -> Answer {
        let path = edit.key.path();
        if !self.holds(me, &edit.key, &edit.expect) {
            return Answer::No;
        }
        let lease = if edit.leased { session } else { None };
        if edit.leased && !lease.is_some_and(|lease| self.leases.contains_key(&lease)) {
            return Answer::Gone;
        }
        if let Some(value) = &edit.value {
            return Answer::Done(self.put(&path, value, lease));
        }
        self.delete(&path);
        Answer::Done(self.raw.revision)
    }

    /// Writes without any condition, as the operations above and an operator with `etcdctl` do.
    pub(super) fn put(&mut self, path: &str, value: &str, lease: Option<LeaseId>) -> Revision {
        let parsed = self.parsed.take();
        let revision = self.next_revision();
        self.parsed = parsed;
        self.put_at(revision, path, value, lease);
        revision
    }

    fn put_at(&mut self, revision: Revision, path: &str, value: &str, lease: Option<LeaseId>) {
        let parsed = self.parsed.take();
        let (created, before) = self.raw.keys.get(path).map_or((revision, 0), |key| (key.created, key.version));
        let key = RawKey { value: value.to_owned(), created, modified: revision, version: before + 1, lease };
        self.parsed = parsed.map(|mut parsed| {
            let shown = Rc::make_mut(&mut parsed);
            shown.revision = revision;
            crate::parse::take(shown, path, &key);
            parsed
        });
        self.raw.keys.insert(path.to_owned(), key);
    }

    /// Deletes a key; false if there was none.
    pub(super) fn delete(&mut self, path: &str) -> bool {
        let existed = self.raw.keys.remove(path).is_some();
        if existed {
            self.next_revision();
        }
        existed
    }

    /// Deletes every key whose path `doomed` accepts.
    pub(super) fn delete_where(&mut self, doomed: impl Fn(&str) -> bool) {
        self.raw.keys.retain(|path, _| !doomed(path));
        self.next_revision();
    }

    fn next_revision(&mut self) -> Revision {
        self.raw.revision.0 += 1;
        self.parsed = None;
        self.raw.revision
    }

    /// Removes `lease` and its keys if it is over and its revocation is due. True if that removed a key.
    pub(super) fn revoke_if_due(&mut self, now: u64, lease: LeaseId) -> bool {
        let due = self.up && self.leases.get(&lease).is_some_and(|state| now >= state.expires + state.revoke_lag);
        if !due {
            return false;
        }
        self.revoke(lease)
    }

    /// Ends a lease, with its keys. True if that removed a key.
    fn revoke(&mut self, lease: LeaseId) -> bool {
        self.leases.remove(&lease);
        let before = self.raw.keys.len();
        self.raw.keys.retain(|_, key| key.lease != Some(lease));
        let removed = self.raw.keys.len() < before;
        if removed {
            self.next_revision();
        }
        removed
    }

    /// A lease as it was in a snapshot: it lives for a whole ttl, whether it had ended since or not.
    pub(super) fn grant_again(&mut self, now: u64, lease: LeaseId, ttl_ms: u64) {
        let (expires, fresh) = (now + ttl_ms, LeaseState { ttl_ms, expires: 0, revoke_lag: 0, watched: false });
        self.leases.entry(lease).or_insert(fresh).expires = expires;
    }

    /// A new etcd leader (or a store that comes back) gives every lease its full time again.
    pub(super) fn renew_all_leases(&mut self, now: u64) -> Vec<LeaseId> {
        for state in self.leases.values_mut() {
            state.expires = now + state.ttl_ms;
        }
        self.leases.keys().copied().collect()
    }
}
