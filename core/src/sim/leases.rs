//! Leases in a world whose `ttl` an operator changes: what the driver's store client does about them. A lease of another length is granted, the
//! keys are moved to it, and a move that was given up may arrive late.

use super::event::{Event, Who};
use super::mutant::Mutant;
use super::rng::Rng;
use super::store::{Answer, Request};
use super::store_client::Next;
use super::world::World;
use crate::clock::Millis;
use crate::dcs::{DcsCall, DcsReply, Key};
use crate::ids::LeaseId;
use crate::lease::Lease;
use crate::settings::Settings;
use crate::view::Side;
use serde_json::json;

/// What a process knows of its leases.
#[derive(Debug, Default)]
pub(super) struct Tenure {
    /// Leases that were granted to it.
    own: Vec<LeaseId>,
    /// The `ttl` that a lease was asked for with.
    asked: Option<(LeaseId, Millis)>,
    /// The lease from which no request that was sent before can move the leader key.
    settled: Option<LeaseId>,
    /// The lease that the fence counts on.
    pub(super) held: Option<Lease>,
    /// What leases are asked for with.
    ttl: Option<Millis>,
}

impl Tenure {
    fn granted(&mut self, lease: LeaseId, ttl: Millis) {
        self.own.push(lease);
        self.asked = Some((lease, ttl));
        self.settled = Some(lease);
    }

    /// The lease comes from the other side, which may have given up a move.
    pub(super) fn taken_over(&mut self, held: Option<Lease>) {
        (self.settled, self.held) = (None, held);
    }
}

/// How far a call has come with a lease that takes the place of another.
#[derive(Clone, Debug)]
pub(super) struct Replacing {
    /// What the call ends with if this fails.
    pub(super) reply: DcsReply,
    old: LeaseId,
    ttl: Millis,
    /// The new one, and when it was asked for.
    new: Option<(LeaseId, Millis)>,
    sent_at: crate::clock::Tick,
    moved: bool,
}

/// `ttl`, `loop_wait` and `retry_timeout` in seconds.
pub(super) fn timing(settings: &mut Settings, (ttl, loop_wait, retry_timeout): (u64, u64, u64)) {
    settings.ttl_ms = Millis::from_secs(ttl);
    settings.loop_wait_ms = Millis::from_secs(loop_wait);
    settings.retry_timeout_ms = Millis::from_secs(retry_timeout);
}

pub(super) fn timing_in(config: &serde_json::Value) -> Option<(u64, u64, u64)> {
    let seconds = |key: &str| config.get(key).and_then(serde_json::Value::as_u64);
    Some((seconds("ttl")?, seconds("loop_wait")?, seconds("retry_timeout")?))
}

/// As they are in force, for the configuration.
pub(super) fn write_timing(settings: &mut Settings) {
    let Settings { ttl_ms, loop_wait_ms, retry_timeout_ms, .. } = *settings;
    let config = &mut settings.bootstrap_dcs;
    for (key, value) in [("ttl", ttl_ms), ("loop_wait", loop_wait_ms), ("retry_timeout", retry_timeout_ms)] {
        config[key] = json!(value.0 / 1000);
    }
}

impl World {
    /// An operator changes how long a lease lasts, and what goes with that.
    pub(super) fn operator_changes_ttl(&mut self) {
        let cluster = self.store.cluster();
        let Some(value) = cluster.config.as_ref().map(|config| config.value.clone()) else { return };
        let pairs = super::params::TIMINGS;
        let others = pairs.into_iter().filter(|pair| Some(*pair) != timing_in(&value)).collect::<Vec<_>>();
        let other = others[self.rng.index(others.len())];
        self.operator_sets_ttl(other);
    }

    pub(super) fn operator_sets_ttl(&mut self, (ttl, loop_wait, retry_timeout): (u64, u64, u64)) {
        let cluster = self.store.cluster();
        let Some(mut value) = cluster.config.as_ref().map(|config| config.value.clone()) else { return };
        for (key, seconds) in [("ttl", ttl), ("loop_wait", loop_wait), ("retry_timeout", retry_timeout)] {
            value[key] = json!(seconds);
        }
        let text = format!("operator: ttl := {ttl} s, loop_wait {loop_wait} s, retry_timeout {retry_timeout} s");
        self.log.line(self.now, "oper", &text);
        self.store.put(&Key::Config.path(), &value.to_string(), None);
        self.store_changed(cluster.leader.as_ref());
    }

    /// The times by the settings that this process has, or those that were kept on disk when it began.
    pub(super) fn read_timing(&mut self, who: Who) {
        if !self.params.changes_ttl {
            return;
        }
        let (process, before) = (self.process(who), self.process(who).timing);
        let config = process.store.cluster.as_ref().and_then(|cluster| cluster.config.as_ref());
        let read = config.and_then(|config| timing_in(&config.value));
        let node = &mut self.nodes[who.node];
        node.kept_timing = read.or(node.kept_timing);
        let Some(now_in_force) = read.or(before).or(node.kept_timing) else { return };
        timing(&mut node.settings, now_in_force);
        self.process_mut(who).timing = Some(now_in_force);
        self.tell_timing(who);
    }

    /// The store client goes by other times once the request that is under way has ended. Before the key can be moved to a shorter lease, the
    /// fence counts on no more than that will last.
    pub(super) fn tell_timing(&mut self, who: Who) {
        let process = self.process(who);
        let Some((ttl, ..)) = process.timing.filter(|_| process.store.flight.is_none()) else { return };
        let (ttl, now) = (Millis::from_secs(ttl), self.local(who.node));
        let tenure = &mut self.process_mut(who).store.tenure;
        // A process that has not been told before may have taken a longer lease over.
        let shorter = tenure.ttl.replace(ttl).is_none_or(|before| ttl < before);
        let held = tenure.held.filter(|held| shorter && held.ttl > ttl).map(|held| held.limited(ttl, now));
        let Some(held) = held else { return };
        tenure.held = Some(held);
        if let Some(server) = self.nodes[who.node].server.as_mut().filter(|_| who.side == Side::Inside) {
            server.fence.deadline = server.fence.deadline.min(held.deadline());
        }
    }

    /// What leases are asked for with.
    pub(super) fn ttl_asked_for(&self, who: Who) -> Millis {
        self.process(who).store.tenure.ttl.unwrap_or(self.nodes[who.node].settings.ttl_ms)
    }

    /// The leader key is written where it is, unless no earlier request can move it.
    pub(super) fn look_or_stay(&self, who: Who, lease: Lease) -> Request {
        let settled = self.process(who).store.tenure.settled == Some(lease.id);
        if settled || !self.params.changes_ttl || self.is(Mutant::StrayMoveForgotten) {
            return Request::Check(lease);
        }
        Request::Stay(lease)
    }

    /// A lease that was not the session's was granted just now.
    pub(super) fn lease_answered(&mut self, who: Who, lease: LeaseId) {
        let ttl = self.ttl_asked_for(who);
        let store = &mut self.process_mut(who).store;
        let renews = store.flight.as_ref().is_some_and(|flight| matches!(flight.call, DcsCall::RenewLeader(_)));
        if !renews && store.session != Some(lease) {
            store.tenure.granted(lease, ttl);
        }
    }

    /// The leader key hangs on another lease of ours: a move that was given up has arrived.
    pub(super) fn moved_on(&mut self, who: Who, to: LeaseId) -> Option<Next> {
        let local = self.local(who.node);
        let store = &mut self.process_mut(who).store;
        if !store.tenure.own.contains(&to) {
            return None;
        }
        let flight = store.flight.as_mut()?;
        match &mut flight.call {
            DcsCall::RenewLeader(lease) => {
                lease.id = to;
                (flight.kept, flight.sent_at) = (None, local);
                store.session = Some(to);
                Some(Next::Send(Request::Keepalive(to)))
            }
            DcsCall::ReleaseLeader { lease, announce, status } => {
                lease.id = to;
                let (lease, status) = (*lease, status.clone());
                Some(Next::Send(Request::Release { lease, announcement: announce.text(), status }))
            }
            _ => None,
        }
    }

    /// The lease was kept alive: another takes its place if it was asked for with another `ttl` than the present one.
    pub(super) fn replaced_if_due(&mut self, who: Who, old: LeaseId, reply: DcsReply, kept_ms: u64) -> Next {
        let ttl = self.ttl_asked_for(who);
        let sent_at = self.local(who.node);
        let life = self.process(who).life;
        if !self.params.changes_ttl {
            return Next::End(reply);
        }
        let store = &mut self.process_mut(who).store;
        if let DcsReply::Kept(_) = reply {
            store.session = Some(old);
            store.tenure.settled = Some(old);
        }
        let asked = store.tenure.asked.filter(|(lease, _)| *lease == old).map_or(Millis(kept_ms), |(_, asked)| asked);
        store.tenure.asked = Some((old, asked));
        if asked == ttl {
            return Next::End(reply);
        }
        let Some(flight) = &mut store.flight else { return Next::End(reply) };
        store.tenure.settled = None;
        let leads = matches!(reply, DcsReply::Kept(_));
        flight.replacing = Some(Replacing { reply, old, ttl, new: None, sent_at, moved: false });
        let number = flight.number;
        let given_up = Event::CallTimeout { who, life, flight: number, reason: "the lease is not replaced yet" };
        self.later((kept_ms / 6).clamp(500, 5000), given_up);
        Next::Send(if leads { Request::Grant { ttl_ms: ttl.0 } } else { Request::LookAt(old) })
    }

    /// The next step of that, if the call has come so far.
    pub(super) fn replace(&mut self, who: Who, answer: Answer) -> Option<Next> {
        let (guarded, local) = (!self.is(Mutant::LateMoveUnguarded), self.local(who.node));
        let store = &mut self.process_mut(who).store;
        let replacing = store.flight.as_mut()?.replacing.as_mut()?;
        if replacing.moved {
            return Some(Next::End(replacing.reply.clone()));
        }
        Some(match (answer, replacing.new) {
            (Answer::Alive { lease, ttl_ms }, None) => {
                store.tenure.own.push(lease);
                replacing.new = Some((lease, Millis(ttl_ms)));
                Next::Send(Request::LookAt(replacing.old))
            }
            (Answer::Seen(None), None) => {
                replacing.sent_at = local;
                Next::Send(Request::Grant { ttl_ms: replacing.ttl.0 })
            }
            // Whoever does not lead by it leaves it where it is, and the lease with it.
            (Answer::Seen(Some(_)), _) if !matches!(replacing.reply, DcsReply::Kept(_)) => {
                Next::End(replacing.reply.clone())
            }
            (Answer::Seen(leader), Some((to, _))) => {
                Next::Send(Request::Move { from: replacing.old, to, leader, guarded })
            }
            (Answer::Done(_), Some((to, ttl))) => {
                replacing.moved = true;
                // Another process of the node may take the leader key on the old one just now: it runs out then.
                let ends = matches!(replacing.reply, DcsReply::Kept(_));
                let sent_at = replacing.sent_at;
                replacing.reply = match &replacing.reply {
                    DcsReply::Kept(lease) => DcsReply::Kept(Lease { id: to, sent_at, ttl, ..*lease }),
                    _ => DcsReply::SessionKept { lease: to, sent_at, ttl },
                };
                store.session = Some(to);
                store.tenure.asked = Some((to, replacing.ttl));
                store.tenure.settled = Some(to);
                if ends { Next::Send(Request::Revoke(replacing.old)) } else { Next::End(replacing.reply.clone()) }
            }
            _ => Next::End(replacing.reply.clone()),
        })
    }
}

/// Some seeds are worlds in which that happens. Drawn apart: the others are what they would be without it.
pub(super) fn among_them(params: &mut super::params::Params, weather: &mut super::params::Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x77_1ea5);
    // What a device makes of another ttl is not looked at here; and whoever hands over with an archive behind it is left to other faults.
    let elsewhere = params.watchdogs.present || params.settings.failsafe_mode || params.archive_max_ms.is_some();
    if elsewhere || !rng.chance(300) {
        return;
    }
    params.changes_ttl = true;
    write_timing(&mut params.settings);
    weather.weights = super::kinds::other_leases();
    weather.every_ms = rng.between(4000, 20_000);
}
