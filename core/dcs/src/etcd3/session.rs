//! The node lease: granted, kept alive, replaced.

use super::budget::{Budget, quiet_time};
use super::failure::Failure;
use super::members::Stopped;
use super::{Etcd3, put_on_lease, read, record_leader};
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use ha_core::clock::{Millis, Tick};
use ha_core::cluster::LastLeader;
use ha_core::dcs::LEADER_PATH;
use ha_core::ids::{LeaseId, Revision};

/// One lease per node, shared by its leader key and its member key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) lease: LeaseId,
    /// The `ttl` setting it was granted for; unknown for a lease of an earlier life, until its first keepalive.
    asked: Option<Millis>,
    /// A request to take the leader key with this lease has no answer: it may yet be carried out, even after we
    /// gave up the key. Such a lease is replaced, and then no late request can use it.
    pub(super) stray_claim: bool,
    /// A request to move the leader key from this lease to another may have been sent and not been answered, by this
    /// process or by whoever had the seat before: carried out late it would leave the key on a lease that nobody keeps
    /// alive.
    pub(super) stray_move: bool,
}

/// What becomes of a leader key on a lease that is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeaderKey {
    /// We lead by it.
    Moves,
    /// A request that we had given up put it there: it goes with the lease.
    IsLeft,
    /// The other side leads by it, whose fence counts on that lease: no other takes its place.
    Forbids,
}

/// A keepalive (or grant) that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) lease: LeaseId,
    /// Read before the request was sent.
    pub(super) sent_at: Tick,
    /// What the store returned.
    pub(super) ttl: Millis,
}

impl Etcd3 {
    /// A new lease becomes the session. An earlier one is left to run out.
    pub(super) async fn grant(&mut self, budget: &mut Budget) -> Result<Kept, Stopped> {
        let kept = self.request_lease(budget).await?;
        if let Some(old) = self.session.take() {
            self.own.remove(old.lease);
        }
        self.session =
            Some(Session { lease: kept.lease, asked: Some(self.options.ttl), stray_claim: false, stray_move: false });
        Ok(kept)
    }

    async fn request_lease(&mut self, budget: &mut Budget) -> Result<Kept, Stopped> {
        let (clock, shared) = (self.options.clock, &self.shared);
        let ttl_secs = i64::try_from(self.options.ttl.0.div_ceil(1000)).unwrap_or(i64::MAX);
        let granted = self.members.settle(&self.options, budget, async |link| {
            let sent_at = clock();
            let answer = link.client.lease_grant(ttl_secs, None).await?;
            shared.check(answer.header())?;
            let ttl = Millis::from_secs(u64::try_from(answer.ttl()).unwrap_or(0));
            Ok(Kept { lease: LeaseId(answer.id()), sent_at, ttl })
        });
        let kept = granted.await?.answer;
        self.own.add(kept.lease);
        Ok(kept)
    }

    /// Keeps the session alive; grants one if there is none, or if it is over.
    pub(super) async fn keep_session(&mut self, budget: &mut Budget) -> Result<Kept, Stopped> {
        let Some(session) = self.session else { return self.grant(budget).await };
        let (clock, lease) = (self.options.clock, session.lease);
        let kept = self.members.settle(&self.options, budget, async |link| {
            let sent_at = clock();
            Ok(Kept { lease, sent_at, ttl: link.keep_alive(lease).await?.ttl })
        });
        match kept.await {
            Ok(settled) => Ok(self.replaced_if_due(settled.answer, false, budget).await),
            Err(Stopped { failure: Failure::LeaseGone, .. }) => self.grant(budget).await,
            Err(stopped) => Err(stopped.of_a_question()),
        }
    }

    /// After the session was kept alive: puts a new lease in its place if it should not be used any longer. What
    /// was kept stands if that fails, and it is tried again the next time.
    pub(super) async fn replaced_if_due(&mut self, kept: Kept, leading: bool, budget: &Budget) -> Kept {
        let Some(session) = &mut self.session else { return kept };
        let asked = *session.asked.get_or_insert(kept.ttl);
        if asked == self.options.ttl && !session.stray_claim {
            return kept;
        }
        let leader_key = match (leading, session.stray_claim) {
            (true, _) => LeaderKey::Moves,
            (false, true) => LeaderKey::IsLeft,
            (false, false) => LeaderKey::Forbids,
        };
        session.stray_move |= leading;
        let mut part = budget.part(quiet_time(kept.ttl));
        match self.replace_session(kept.lease, leader_key, &mut part).await {
            Ok(new) => new,
            Err(stopped) => {
                tracing::info!(target: "ha_dcs", "etcd: lease {} is not replaced yet: {}", kept.lease, stopped.failure);
                kept
            }
        }
    }

    /// A new lease takes the place of the session: every key that hangs on the old one is moved in one
    /// transaction, under the condition that it still hangs there, then the old lease is revoked. (It runs out where
    /// another process of this node may take the leader key on it just now.) Values and create revisions stay. If the
    /// move has no answer, the session stays, and a leader key that did move is recognised by its lease
    /// ([`super::OwnLeases`]); the next renewal sees to it that it does not move later ([`Session::stray_move`]).
    async fn replace_session(&mut self, old: LeaseId, leader: LeaderKey, budget: &mut Budget) -> Result<Kept, Stopped> {
        let leader_key = self.leader_key();
        if leader == LeaderKey::Forbids && self.leader_key_is_on(old, budget).await? {
            let failure = Failure::NotDone("the leader key hangs on it, which only a renewal moves".to_owned());
            return Err(Stopped { failure, doubt: false });
        }
        let new = self.request_lease(budget).await?;
        let (shared, base) = (&self.shared, &self.base);
        // Which edition of the record that is nobody here knows: the leader writes it again as soon as it sees it.
        let name = self.options.name.clone();
        let record =
            |created| LastLeader { leader: name.clone(), lease: new.lease, created: Some(created), edition: None };
        let moved = self.members.settle(&self.options, budget, async |link| {
            let all = read::cluster(link, shared, base).await?;
            let keys = all.keys.iter().filter(|(_, raw)| raw.lease == Some(old));
            let keys = keys.filter(|(path, _)| leader == LeaderKey::Moves || path.as_str() != LEADER_PATH);
            let keys: Vec<String> = keys.map(|(path, _)| format!("{base}{path}")).collect();
            if keys.is_empty() {
                return Ok(true);
            }
            let there = keys.iter().map(|key| Compare::lease(key.as_str(), CompareOp::Equal, old.0));
            let without =
                (leader == LeaderKey::Forbids).then(|| Compare::lease(leader_key.as_str(), CompareOp::NotEqual, old.0));
            // Not if a renewal that was sent since has written the leader key again.
            let leader = all.keys.get(LEADER_PATH).filter(|_| keys.contains(&leader_key));
            let untouched =
                leader.map(|raw| Compare::mod_revision(leader_key.as_str(), CompareOp::Equal, raw.modified.0));
            let options = put_on_lease(new.lease).with_ignore_value();
            let over = keys.iter().map(|key| TxnOp::put(key.as_str(), "", Some(options.clone())));
            let record = leader.map(|leader| record_leader(base, &record(leader.created)));
            let txn = Txn::new()
                .when(there.chain(untouched).chain(without).collect::<Vec<_>>())
                .and_then(over.chain(record).collect::<Vec<_>>());
            let asked = shared.asked();
            let answer = link.kv().txn(txn).await?;
            shared.check_since(answer.header(), asked)?;
            Ok(answer.succeeded())
        });
        if !moved.await?.answer {
            return Err(Stopped { failure: Failure::NotDone("the keys changed meanwhile".to_owned()), doubt: false });
        }
        self.session =
            Some(Session { lease: new.lease, asked: Some(self.options.ttl), stray_claim: false, stray_move: false });
        self.member_seen = Revision(0);
        if leader != LeaderKey::Forbids {
            self.revoke(old, budget).await;
        }
        self.own.remove(old);
        Ok(new)
    }

    async fn revoke(&mut self, lease: LeaseId, budget: &mut Budget) {
        let shared = &self.shared;
        let revoked = self.members.settle(&self.options, budget, async |link| {
            let answer = link.client.lease_revoke(lease.0).await?;
            shared.check(answer.header())
        });
        match revoked.await {
            Ok(_) | Err(Stopped { failure: Failure::LeaseGone, .. }) => {}
            Err(stopped) => {
                tracing::info!(target: "ha_dcs", "etcd: lease {lease} is left to run out: {}", stopped.failure);
            }
        }
    }

    async fn leader_key_is_on(&mut self, lease: LeaseId, budget: &mut Budget) -> Result<bool, Stopped> {
        let (shared, key) = (&self.shared, self.leader_key());
        let read = self.members.settle(&self.options, budget, async |link| {
            let asked = shared.asked();
            let read = link.kv().get(key.as_str(), None).await?;
            shared.check_since(read.header(), asked)?;
            Ok(read.kvs().first().is_some_and(|kv| kv.lease() == lease.0))
        });
        Ok(read.await?.answer)
    }

    /// Goes on with a lease of ours other than the present session.
    pub(super) fn switch_session(&mut self, lease: LeaseId) {
        if self.session.is_none_or(|session| session.lease != lease) {
            self.own.add(lease);
            self.session = Some(Session { lease, asked: None, stray_claim: false, stray_move: true });
        }
    }

    /// The same with the lease of whoever had the seat before.
    pub(super) fn take_session(&mut self, lease: LeaseId) {
        self.switch_session(lease);
        if let Some(session) = &mut self.session {
            session.stray_move = true;
        }
    }
}
