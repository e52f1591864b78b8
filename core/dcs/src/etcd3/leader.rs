//! The leader key: taken, confirmed, adopted, released.

use super::budget::Budget;
use super::failure::Failure;
use super::join::join;
use super::link::{Alive, Link};
use super::members::Stopped;
use super::session::Kept;
use super::{Etcd3, put_on_lease, record_leader};
use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use ha_core::clock::Tick;
use ha_core::cluster::{Edition, LastLeader, Released};
use ha_core::dcs::{ClaimAlong, DcsReply, Expect, Key, LAST_LEADER_PATH, RELEASED_PATH, UNBOUND_PATH};
use ha_core::ids::{LeaseId, Revision};
use ha_core::lease::Lease;
use std::cell::Cell;

/// What a renewal found.
enum Confirmed {
    /// The lease lives and the key hangs on it.
    Kept(Kept),
    /// The key is ours but hangs on another lease of ours: its move had no answer.
    Moved(LeaseId),
    /// The key is not ours.
    Refused,
}

/// What an attempt to take the key found.
enum Claimed {
    /// The key is ours, made at this revision. The keepalive may have failed nevertheless.
    Ours(Revision, Result<Kept, Failure>),
    /// The key is somebody else's.
    Others,
}

/// What is written along with the leader key.
struct Along {
    claim: Option<ClaimAlong>,
    /// Of the record of who leads.
    edition: Option<Edition>,
}

impl Etcd3 {
    pub(super) async fn acquire(
        &mut self,
        seen: Revision,
        claim: Option<ClaimAlong>,
        edition: Option<Edition>,
        budget: &mut Budget,
    ) -> Result<DcsReply, Stopped> {
        // Of a key that does not exist the revision is zero.
        let unchanged = |path: String| {
            Compare::mod_revision(format!("{}{path}", self.base), CompareOp::Less, seen.0.saturating_add(1))
        };
        let mut free = vec![
            Compare::create_revision(self.leader_key(), CompareOp::Equal, 0),
            unchanged(LAST_LEADER_PATH.to_owned()),
            // Nor has anybody been let go on without a lease since, or maintenance mode begun or ended.
            unchanged(UNBOUND_PATH.to_owned()),
            unchanged(Key::Config.path()),
        ];
        if let Some(edition) = edition {
            let record = format!("{}{LAST_LEADER_PATH}", self.base);
            free.push(Compare::create_revision(record.as_str(), CompareOp::Equal, edition.created.0));
            free.push(Compare::version(record, CompareOp::Equal, edition.version.saturating_sub(1)));
        }
        if let Some(claim) = &claim {
            let key = format!("{}{}", self.base, claim.key().path());
            free.push(match &claim.expect {
                Expect::Unchanged(revision) => Compare::mod_revision(key, CompareOp::Equal, revision.0),
                Expect::Absent | Expect::WeLead(_) | Expect::Own => Compare::create_revision(key, CompareOp::Equal, 0),
            });
        }
        self.claim(free, None, &Along { claim, edition }, budget).await
    }

    pub(super) async fn adopt(
        &mut self,
        old: LeaseId,
        created: Revision,
        edition: Option<Edition>,
        budget: &mut Budget,
    ) -> Result<DcsReply, Stopped> {
        let as_seen = self.leader_is(old, created);
        self.claim(as_seen, Some(created), &Along { claim: None, edition }, budget).await
    }

    /// Puts our name on our lease into the leader key under a condition. The keepalive that the deadline is
    /// counted from goes out at the same time: both are needed, in no order.
    async fn claim(
        &mut self,
        condition: Vec<Compare>,
        created: Option<Revision>,
        along: &Along,
        budget: &mut Budget,
    ) -> Result<DcsReply, Stopped> {
        let mut regranted = false;
        loop {
            let fresh = if self.session.is_none() { Some(self.grant(budget).await?) } else { None };
            let Some(session) = self.session else { continue };
            let taking = self.taking(session.lease, &condition, created, along);
            let claimed = self.claim_once(session.lease, fresh, taking, created, budget).await;
            let doubt = match &claimed {
                Ok((_, doubt)) => *doubt,
                Err(stopped) => stopped.doubt,
            };
            if doubt && let Some(session) = &mut self.session {
                session.stray_claim = true;
            }
            match claimed {
                Ok((Claimed::Others, _)) => return Ok(DcsReply::Lost),
                Ok((Claimed::Ours(created, Ok(kept)), _)) => {
                    let ttl = kept.ttl.min(self.options.ttl);
                    return Ok(DcsReply::Won(Lease::confirmed(kept.lease, created, kept.sent_at, ttl)));
                }
                Ok((Claimed::Ours(_, Err(Failure::LeaseGone)), _))
                | Err(Stopped { failure: Failure::LeaseGone, .. })
                    if !regranted => {}
                // The key is ours, but for how long is not known: that is what a renewal finds out.
                Ok((Claimed::Ours(created, Err(_)), _)) => return self.won_if_confirmed(created, budget).await,
                Err(stopped) => return Err(stopped),
            }
            regranted = true;
            self.session = None;
        }
    }

    /// The transaction that takes the key.
    fn taking(&self, lease: LeaseId, condition: &[Compare], created: Option<Revision>, along: &Along) -> Txn {
        let (key, name) = (self.leader_key(), self.options.name.as_str());
        let record = LastLeader { leader: self.options.name.clone(), lease, created, edition: along.edition };
        let leader = record_leader(&self.base, &record);
        let mut writes = vec![TxnOp::put(key.as_str(), name, Some(put_on_lease(lease))), leader];
        if let Some(claim) = &along.claim {
            let record = claim.record(&self.options.name, lease).text();
            writes.push(TxnOp::put(format!("{}{}", self.base, claim.key().path()), record, None));
        }
        Txn::new().when(condition).and_then(writes).or_else([TxnOp::get(key.as_str(), None)])
    }

    async fn claim_once(
        &mut self,
        lease: LeaseId,
        fresh: Option<Kept>,
        txn: Txn,
        created: Option<Revision>,
        budget: &mut Budget,
    ) -> Result<(Claimed, bool), Stopped> {
        let (clock, shared, name) = (self.options.clock, &self.shared, self.options.name.as_str());
        let settled = self.members.settle(&self.options, budget, async |link| {
            let sent_at = clock();
            let asked = shared.asked();
            let (mut kv, take) = (link.kv(), txn.clone());
            let (alive, answer) = if fresh.is_some() {
                // Granted a moment ago: that counts as the keepalive.
                (None, kv.txn(take).await)
            } else {
                let (alive, answer) = join(link.keep_alive(lease), kv.txn(take)).await;
                (Some(alive), answer)
            };
            let answer = answer?;
            shared.check_since(answer.header(), asked)?;
            let Some(made) = ours_after(&answer, name, lease, created) else { return Ok(Claimed::Others) };
            let kept = match (alive, fresh) {
                (Some(alive), _) => in_term(alive, shared.term()).map(|alive| Kept { lease, sent_at, ttl: alive.ttl }),
                (None, Some(fresh)) => Ok(fresh),
                (None, None) => Err(Failure::Unclear("no keepalive was sent".to_owned())),
            };
            Ok(Claimed::Ours(made, kept))
        });
        settled.await.map(|settled| (settled.answer, settled.doubt))
    }

    async fn won_if_confirmed(&mut self, created: Revision, budget: &mut Budget) -> Result<DcsReply, Stopped> {
        let Some(session) = self.session else { return Ok(DcsReply::Lost) };
        let lease = Lease::confirmed(session.lease, created, Tick(0), ha_core::clock::Millis(0));
        match self.renew(lease, budget).await? {
            DcsReply::Kept(lease) => Ok(DcsReply::Won(lease)),
            DcsReply::Refused => Ok(DcsReply::Lost),
            other => Ok(other),
        }
    }

    /// Keepalive AND a linearizable look at the leader key.
    pub(super) async fn renew(&mut self, lease: Lease, budget: &mut Budget) -> Result<DcsReply, Stopped> {
        // The seat may have come from the other side together with its lease.
        self.switch_session(lease.id);
        let mut id = lease.id;
        for _ in 0..3 {
            match self.confirm(id, lease.leader_created, budget).await? {
                Confirmed::Kept(kept) => {
                    let kept = self.replaced_if_due(kept, true, budget).await;
                    // A lease that could not be replaced yet may be, by a request that is still on its way: it counts for no more than
                    // the next one will.
                    let ttl = kept.ttl.min(self.options.ttl);
                    let lease = Lease::confirmed(kept.lease, lease.leader_created, kept.sent_at, ttl);
                    return Ok(DcsReply::Kept(lease));
                }
                Confirmed::Moved(to) => {
                    self.switch_session(to);
                    id = to;
                }
                Confirmed::Refused => return Ok(DcsReply::Refused),
            }
        }
        let failure = Failure::Unclear("the leader key keeps changing its lease".to_owned());
        Err(Stopped { failure, doubt: true })
    }

    async fn confirm(&mut self, lease: LeaseId, created: Revision, budget: &mut Budget) -> Result<Confirmed, Stopped> {
        let (clock, shared, own) = (self.options.clock, &self.shared, &self.own);
        let (key, name) = (self.leader_key(), self.options.name.as_str());
        let stays = self.session.is_some_and(|session| session.lease == lease && session.stray_move);
        let stay = stays.then(|| self.staying(lease, created));
        let contradicted = Cell::new(false);
        let settled = self.members.settle(&self.options, budget, async |link: &mut Link| {
            let sent_at = clock();
            let (mut kv, asked) = (link.kv(), shared.asked());
            let (alive, on) = if let Some(stay) = &stay {
                let (alive, answer) = join(link.keep_alive(lease), kv.txn(stay.clone())).await;
                let answer = answer?;
                shared.check_since(answer.header(), asked)?;
                let there = || first_read(&answer).and_then(|kv| our_lease(&kv, name, Some(created)));
                (alive, if answer.succeeded() { Some(lease) } else { there() })
            } else {
                let (alive, read) = join(link.keep_alive(lease), kv.get(key.as_str(), None)).await;
                let read = read?;
                shared.check_since(read.header(), asked)?;
                (alive, read.kvs().first().and_then(|kv| our_lease(kv, name, Some(created))))
            };
            let Some(on) = on else { return Ok(Confirmed::Refused) };
            if on != lease {
                return Ok(if own.contains(on) { Confirmed::Moved(on) } else { Confirmed::Refused });
            }
            match in_term(alive, shared.term()) {
                Ok(alive) => Ok(Confirmed::Kept(Kept { lease, sent_at, ttl: alive.ttl })),
                // A key whose lease does not exist. Either the lease ended between the two answers, or a leader of
                // the store that is very new has not read its log yet: look again.
                Err(Failure::LeaseGone) if !contradicted.replace(true) => {
                    Err(Failure::Unclear("the store contradicts itself about our lease".to_owned()))
                }
                Err(Failure::LeaseGone) => Ok(Confirmed::Refused),
                Err(failure) => Err(failure),
            }
        });
        let confirmed = match settled.await {
            Ok(settled) => settled.answer,
            // The key hangs on it, and yet nothing can be written to it.
            Err(Stopped { failure: Failure::LeaseGone, doubt }) => {
                let failure = Failure::Unclear("the store contradicts itself about our lease".to_owned());
                return Err(Stopped { failure, doubt }.of_a_question());
            }
            Err(stopped) => return Err(stopped.of_a_question()),
        };
        if let (Confirmed::Kept(_), Some(session)) = (&confirmed, &mut self.session) {
            session.stray_move = false;
        }
        Ok(confirmed)
    }

    /// Writes the leader key as it stands, where it stands: from then on no request that was sent before can move it
    /// to another lease. What counts is counted by the lease on which it is known to stay.
    fn staying(&self, lease: LeaseId, created: Revision) -> Txn {
        let key = self.leader_key();
        let as_it_is = TxnOp::put(key.as_str(), "", Some(put_on_lease(lease).with_ignore_value()));
        Txn::new().when(self.leader_is(lease, created)).and_then([as_it_is]).or_else([TxnOp::get(key.as_str(), None)])
    }

    /// Deletes the key and announces it, in one transaction.
    pub(super) async fn release(
        &mut self,
        lease: Lease,
        announce: &Released,
        status: Option<&str>,
        budget: &mut Budget,
    ) -> Result<DcsReply, Stopped> {
        let announcement = announce.text();
        let mut id = lease.id;
        for _ in 0..3 {
            let (shared, key, name) = (&self.shared, self.leader_key(), self.options.name.as_str());
            let mut release = vec![
                TxnOp::delete(key.as_str(), None),
                TxnOp::put(format!("{}{RELEASED_PATH}", self.base), announcement.as_str(), None),
            ];
            let status_key = format!("{}{}", self.base, Key::Status.path());
            release.extend(status.map(|status| TxnOp::put(status_key, status, None)));
            let txn = Txn::new()
                .when(self.leader_is(id, lease.leader_created))
                .and_then(release)
                .or_else([TxnOp::get(key.as_str(), None)]);
            let settled = self.members.settle(&self.options, budget, async |link| {
                let asked = shared.asked();
                let answer = link.kv().txn(txn.clone()).await?;
                shared.check_since(answer.header(), asked)?;
                let left = first_read(&answer).and_then(|kv| our_lease(&kv, name, Some(lease.leader_created)));
                Ok(if answer.succeeded() { None } else { left })
            });
            match settled.await?.answer {
                Some(moved) if moved != id && self.own.contains(moved) => id = moved,
                _ => return Ok(DcsReply::Released),
            }
        }
        let failure = Failure::Unclear("the leader key keeps changing its lease".to_owned());
        Err(Stopped { failure, doubt: true })
    }

    /// Deletes a leader key that hangs on no lease.
    pub(super) async fn remove_unleased(
        &mut self,
        created: Revision,
        budget: &mut Budget,
    ) -> Result<DcsReply, Stopped> {
        let (shared, key) = (&self.shared, self.leader_key());
        let as_seen = [
            Compare::create_revision(key.as_str(), CompareOp::Equal, created.0),
            Compare::lease(key.as_str(), CompareOp::Equal, 0),
        ];
        let txn = Txn::new().when(as_seen).and_then([TxnOp::delete(key.as_str(), None)]);
        let settled = self.members.settle(&self.options, budget, async |link| {
            let asked = shared.asked();
            let answer = link.kv().txn(txn.clone()).await?;
            shared.check_since(answer.header(), asked)?;
            let revision = Revision(answer.header().map_or(0, etcd_client::ResponseHeader::revision));
            Ok(answer.succeeded().then_some(revision))
        });
        let settled = settled.await?;
        Ok(match settled.answer {
            Some(revision) => DcsReply::Written(revision),
            None if settled.doubt => DcsReply::Unknown("an attempt to remove the leader key had no answer".to_owned()),
            None => DcsReply::Conflict,
        })
    }

    pub(super) async fn check_lease(&mut self, lease: LeaseId, budget: &mut Budget) -> Result<DcsReply, Stopped> {
        let (shared, key) = (&self.shared, self.leader_key());
        let settled = self.members.settle(&self.options, budget, async |link| {
            // A linearizable read first: the member that passes it is not cut off, and knows every lease that was
            // granted before.
            let asked = shared.asked();
            let read = link.kv().get(key.as_str(), None).await?;
            shared.check_since(read.header(), asked)?;
            link.lease_alive(lease).await
        });
        let settled = settled.await.map_err(Stopped::of_a_question)?;
        Ok(DcsReply::LeaseAlive(settled.answer))
    }

    /// The condition that the leader key is ours: value, lease and create revision.
    pub(super) fn leader_is(&self, lease: LeaseId, created: Revision) -> Vec<Compare> {
        let key = self.leader_key();
        vec![
            Compare::value(key.as_str(), CompareOp::Equal, self.options.name.as_str()),
            Compare::lease(key.as_str(), CompareOp::Equal, lease.0),
            Compare::create_revision(key.as_str(), CompareOp::Equal, created.0),
        ]
    }
}

/// A keepalive counts only if no newer raft term is known: its lease may have been counted by a member that was
/// deposed before the keepalive reached it.
fn in_term(alive: Result<Alive, Failure>, newest: u64) -> Result<Alive, Failure> {
    match alive {
        Ok(alive) if alive.term < newest => {
            Err(Failure::Unclear(format!("the keepalive was answered in raft term {}, now is {newest}", alive.term)))
        }
        other => other,
    }
}

/// The create revision of the leader key if the transaction made it ours, or found that it is: our name on our
/// lease is provably from us, since nobody else knows the lease.
fn ours_after(answer: &TxnResponse, name: &str, lease: LeaseId, created: Option<Revision>) -> Option<Revision> {
    if answer.succeeded() {
        let now = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        return Some(created.unwrap_or(Revision(now)));
    }
    let kv = first_read(answer)?;
    (our_lease(&kv, name, created)? == lease).then(|| Revision(kv.create_revision()))
}

/// The lease of a leader key with our name (and create revision, if that is known).
pub(super) fn our_lease(kv: &KeyValue, name: &str, created: Option<Revision>) -> Option<LeaseId> {
    let same = created.is_none_or(|created| created.0 == kv.create_revision());
    (kv.value() == name.as_bytes() && same).then(|| LeaseId(kv.lease()))
}

/// The key that the first operation of a transaction read.
pub(super) fn first_read(answer: &TxnResponse) -> Option<KeyValue> {
    match answer.op_responses().into_iter().next()? {
        TxnOpResponse::Get(read) => read.kvs().first().cloned(),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
    }
}
