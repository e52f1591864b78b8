//! Conditional writes of everything but the leader key.

use super::budget::Budget;
use super::failure::Failure;
use super::leader::{first_read, our_lease};
use super::members::Stopped;
use super::{Etcd3, put_on_lease};
use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use ha_core::dcs::{DcsReply, Expect, Key, KeyEdit};
use ha_core::ids::{LeaseId, Revision};
use ha_core::lease::Lease;

/// How often a condition is brought up to date within one write.
const ROUNDS_MAX: usize = 5;

/// What the store holds where a condition did not hold.
struct Found {
    revision: Revision,
    key: Option<KeyValue>,
    leader: Option<KeyValue>,
}

enum Wrote {
    At(Revision),
    Not(Found),
}

impl Etcd3 {
    pub(super) async fn write(&mut self, edit: &KeyEdit, budget: &mut Budget) -> Result<DcsReply, Stopped> {
        let mut doubt = false;
        let mut regranted = false;
        let mut leader_lease = None;
        for _ in 0..ROUNDS_MAX {
            let lease = match (edit.leased, self.session) {
                (false, _) => None,
                (true, Some(session)) => Some(session.lease),
                (true, None) => Some(self.grant(budget).await?.lease),
            };
            let condition = self.condition(edit, leader_lease);
            let (wrote, in_doubt) = match self.write_once(edit, lease, condition, budget).await {
                Ok(wrote) => wrote,
                Err(Stopped { failure: Failure::LeaseGone, .. }) if !regranted => {
                    regranted = true;
                    self.session = None;
                    continue;
                }
                Err(stopped) => return Err(Stopped { doubt: doubt || stopped.doubt, ..stopped }),
            };
            doubt |= in_doubt;
            let found = match wrote {
                Wrote::At(revision) => {
                    self.note_member(edit, revision);
                    return Ok(DcsReply::Written(revision));
                }
                Wrote::Not(found) => found,
            };
            match &edit.expect {
                // Nobody else writes this key: what we find there is our own earlier write, or nothing.
                Expect::Own => self.member_seen = Revision(found.key.as_ref().map_or(0, KeyValue::mod_revision)),
                Expect::WeLead(held) if self.leads_on_other_lease(held, leader_lease, &found).is_some() => {
                    leader_lease = self.leads_on_other_lease(held, leader_lease, &found);
                }
                Expect::Absent | Expect::Unchanged(_) | Expect::WeLead(_) => {
                    return Ok(not_written(edit, lease, doubt, &found));
                }
            }
        }
        let failure = Failure::Unclear(format!("{} keeps changing", edit.key.path()));
        Err(Stopped { failure, doubt: true })
    }

    fn condition(&self, edit: &KeyEdit, leader_lease: Option<LeaseId>) -> Vec<Compare> {
        let key = self.key(&edit.key);
        match &edit.expect {
            Expect::Absent => vec![Compare::create_revision(key, CompareOp::Equal, 0)],
            Expect::Unchanged(revision) => vec![Compare::mod_revision(key, CompareOp::Equal, revision.0)],
            Expect::WeLead(held) => self.leader_is(leader_lease.unwrap_or(held.id), held.leader_created),
            // An earlier write that was given up may still be on its way: it must not undo a later one.
            Expect::Own => vec![Compare::mod_revision(key, CompareOp::Equal, self.member_seen.0)],
        }
    }

    async fn write_once(
        &mut self,
        edit: &KeyEdit,
        lease: Option<LeaseId>,
        condition: Vec<Compare>,
        budget: &mut Budget,
    ) -> Result<(Wrote, bool), Stopped> {
        let (shared, key) = (&self.shared, self.key(&edit.key));
        let change = match &edit.value {
            Some(value) => TxnOp::put(key.as_str(), value.as_str(), lease.map(put_on_lease)),
            None => TxnOp::delete(key.as_str(), None),
        };
        let look = [TxnOp::get(key.as_str(), None), TxnOp::get(self.leader_key(), None)];
        let txn = Txn::new().when(condition).and_then([change]).or_else(look);
        let settled = self.members.settle(&self.options, budget, async |link| {
            let asked = shared.asked();
            let answer = link.kv().txn(txn.clone()).await?;
            shared.check_since(answer.header(), asked)?;
            let revision = Revision(answer.header().map_or(0, etcd_client::ResponseHeader::revision));
            if answer.succeeded() {
                return Ok(Wrote::At(revision));
            }
            Ok(Wrote::Not(Found { revision, key: first_read(&answer), leader: second_read(&answer) }))
        });
        settled.await.map(|settled| (settled.answer, settled.doubt))
    }

    /// The leader key is ours, but its move to a new lease had no answer when the write was asked for.
    fn leads_on_other_lease(&self, held: &Lease, tried: Option<LeaseId>, found: &Found) -> Option<LeaseId> {
        let on = our_lease(found.leader.as_ref()?, self.options.name.as_str(), Some(held.leader_created))?;
        (on != tried.unwrap_or(held.id) && self.own.contains(on)).then_some(on)
    }

    fn note_member(&mut self, edit: &KeyEdit, revision: Revision) {
        if matches!(&edit.key, Key::Member(name) if *name == self.options.name) {
            self.member_seen = if edit.value.is_some() { revision } else { Revision(0) };
        }
    }

    fn key(&self, key: &Key) -> String {
        format!("{}{}", self.base, key.path())
    }
}

/// The condition did not hold. That proves that nothing was written unless an earlier attempt has no answer; then
/// what the key holds now decides.
fn not_written(edit: &KeyEdit, lease: Option<LeaseId>, doubt: bool, found: &Found) -> DcsReply {
    if !doubt {
        return DcsReply::Conflict;
    }
    match (&edit.value, &found.key) {
        (None, None) => DcsReply::Written(found.revision),
        (Some(value), Some(kv)) if kv.value() == value.as_bytes() && surely_ours(kv, value, lease) => {
            DcsReply::Written(Revision(kv.mod_revision()))
        }
        _ => DcsReply::Unknown(format!(
            "an attempt to write {} had no answer, and by now the key holds something else",
            edit.key.path()
        )),
    }
}

/// A key on our lease is from us. Without a lease, a value that everybody would write alike (the empty
/// `initialize` of a bootstrap) proves nothing; any other is what we wanted to be there.
fn surely_ours(kv: &KeyValue, value: &str, lease: Option<LeaseId>) -> bool {
    match lease {
        Some(lease) => kv.lease() == lease.0,
        None => !value.is_empty(),
    }
}

fn second_read(answer: &TxnResponse) -> Option<KeyValue> {
    match answer.op_responses().into_iter().nth(1)? {
        TxnOpResponse::Get(read) => read.kvs().first().cloned(),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
    }
}
