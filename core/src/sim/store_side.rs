//! The store as part of the world: requests carried out, leases that end, operators with `etcdctl`.

use super::event::Event;
use super::judge;
use super::store::{Answer, Request};
use super::world::World;
use crate::dcs::{Key, KeyEdit};
use crate::ids::LeaseId;

impl World {
    pub(super) fn store_apply(&mut self, node: usize, request: &Request) -> Answer {
        let revoke_lag = self.rng.below(self.params.revoke_lag_ms + 1);
        let before = self.store.revision();
        let leader = self.store.leader();
        let name = self.nodes[node].name.clone();
        let asked = match request {
            Request::Write { edit, .. } if edit.key == Key::Failover => self.store.key(&edit.key.path()).cloned(),
            _ => None,
        };
        let answer = self.store.apply(self.now, &name, request, revoke_lag);
        if let Answer::Alive { lease, .. } = answer {
            self.watch_lease(lease);
        }
        if self.store.revision() > before {
            self.tell_of(node, request);
            self.store_changed(leader.as_ref());
            match request {
                Request::Write { edit, .. } if edit.key == Key::History => judge::history_written(self),
                Request::Write { edit, .. } if edit.key == Key::Initialize => judge::initialised(self),
                Request::Write { edit, .. } if edit.key == Key::Failsafe => judge::list_written(self, node),
                Request::Write { edit: KeyEdit { key: Key::TimelineClaim(timeline), .. }, .. } => {
                    super::invariants::i11::claimed(self, node, *timeline);
                }
                Request::Write { edit, .. } if edit.key == Key::Failover => {
                    judge::failover_written(self, edit, asked.as_ref());
                }
                _ => {}
            }
        }
        // One that was put back changes nothing visible when it is adopted: it is taken then.
        if let (Request::Adopt { .. }, Answer::Done(_)) = (request, answer) {
            let leader = self.store.leader();
            judge::leader_changed(self, leader.as_ref(), leader.as_ref());
        }
        if let (Request::Release { lease, .. }, Answer::Done(_)) = (request, answer) {
            judge::released(self, node, lease);
            self.strike_the_doomed();
        }
        answer
    }

    fn tell_of(&mut self, node: usize, request: &Request) {
        let name = &self.nodes[node].name;
        let text = match request {
            Request::Write { edit, .. } if matches!(edit.key, Key::Member(_) | Key::Status) => return,
            _ if !self.log.on => return,
            Request::Write { edit, .. } => {
                format!("store: {} := {}", edit.key.path(), edit.value.as_deref().unwrap_or("(deleted)"))
            }
            Request::CreateLeader { lease, .. } => format!("store: leader := {name} on lease {lease}"),
            Request::Adopt { lease, .. } => format!("store: leader {name} moves to lease {lease}"),
            Request::Release { .. } => format!("store: leader {name} released"),
            Request::Move { from, to, .. } => format!("store: the keys of {name} move from lease {from} to {to}"),
            Request::Stay(lease) => format!("store: leader {name} stays on lease {}", lease.id),
            _ => "store: changed".to_owned(),
        };
        self.say(node, &text);
    }

    /// After any change: the judge looks at a change of leader, the watches hear of it.
    pub(super) fn store_changed(&mut self, before: Option<&crate::cluster::LeaderKey>) {
        let after = self.store.leader();
        let changed = before.map(|l| (l.created, l.lease)) != after.as_ref().map(|l| (l.created, l.lease));
        self.dump(changed);
        if changed {
            judge::leader_changed(self, before, after.as_ref());
            if let (Some(after), None) = (&after, self.healed_at) {
                self.spring_ambush(&after.name);
            }
        }
        self.broadcast();
    }

    pub(super) fn watch_lease(&mut self, lease: LeaseId) {
        if let Some(state) = self.store.lease(lease).filter(|state| !state.watched) {
            state.watched = true;
            let at = state.expires + state.revoke_lag;
            self.queue.push(at, Event::LeaseDue(lease));
        }
    }

    pub(super) fn lease_due(&mut self, lease: LeaseId) {
        if let Some(state) = self.store.lease(lease) {
            state.watched = false;
        }
        let before = self.store.leader();
        if self.store.revoke_if_due(self.now, lease) {
            let text = format!("lease {lease} ended, its keys are gone");
            self.log.line(self.now, "store", &text);
            self.store_changed(before.as_ref());
        } else if self.store.up {
            self.watch_lease(lease);
        }
    }

    /// The store answers again, or has a new leader: every lease has its full time again.
    pub(super) fn store_renews_leases(&mut self) {
        for lease in self.store.renew_all_leases(self.now) {
            self.watch_lease(lease);
        }
    }
}
