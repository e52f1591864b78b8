//! A driver's connection to the store: one call at a time, of one or two requests, and a watch.

use super::event::{Event, Who};
use super::hypervisor::Moment;
use super::node::Flight;
use super::store::{Answer, Request};
use super::world::World;
use crate::clock::Millis;
use crate::cluster::Cluster;
use crate::dcs::{DcsCall, DcsReply};
use crate::ids::Revision;
use crate::lease::Lease;
use crate::outcome::Outcome;
use crate::view::Side;
use std::rc::Rc;

impl World {
    pub(super) fn call(&mut self, who: Who, call: DcsCall) {
        if self.process(who).store.flight.is_some() {
            let text = format!("{}: a second store request while one is under way", self.nodes[who.node].name);
            self.judge.report("contract", text);
            return;
        }
        let number = self.number();
        let sent_at = self.local(who.node);
        let patience = self.nodes[who.node].settings.retry_timeout_ms.0;
        let session = self.process(who).store.session;
        let ttl_ms = self.ttl_asked_for(who).0;
        let request = match &call {
            DcsCall::KeepSession | DcsCall::AcquireLeader { .. } | DcsCall::AdoptLeader { .. } => match session {
                Some(lease) => Request::Keepalive(lease),
                None => Request::Grant { ttl_ms },
            },
            DcsCall::RenewLeader(lease) => Request::Keepalive(lease.id),
            DcsCall::ReleaseLeader { lease, announce, status } => {
                Request::Release { lease: *lease, announcement: announce.text(), status: status.clone() }
            }
            DcsCall::RemoveUnleasedLeader { created } => Request::RemoveUnleased { created: *created },
            DcsCall::CheckLease(lease) => Request::TimeToLive(*lease),
            DcsCall::Write(edit) if edit.leased && session.is_none() => Request::Grant { ttl_ms },
            DcsCall::Write(edit) => Request::Write { edit: edit.clone(), session },
        };
        let deadline = self.now + patience;
        let process = self.process_mut(who);
        let life = process.life;
        process.store.flight =
            Some(Flight { number, call, sent_at, kept: None, regranted: false, replacing: None, deadline });
        self.later(patience, Event::CallTimeout { who, life, flight: number, reason: "timed out" });
        self.send_request(who, life, number, request);
    }

    fn send_request(&mut self, who: Who, life: u64, flight: u64, request: Request) {
        match request {
            Request::Check(_) | Request::Stay(_) => self.comes_to(who.node, Moment::Renewal),
            Request::CreateLeader { .. } => self.comes_to(who.node, Moment::Acquisition),
            Request::Release { .. } => self.comes_to(who.node, Moment::HandOver),
            Request::Write { ref edit, .. } => self.may_be_taken_back(edit),
            _ => {}
        }
        let request = Box::new(request);
        let store = self.net.store();
        if !self.store.up && self.rng.chance(500) {
            self.soon(0, 20, Event::CallTimeout { who, life, flight, reason: "connection refused" });
            return;
        }
        if self.rng.chance(self.lost_requests()) {
            return;
        }
        if matches!(*request, Request::Release { .. }) && self.healed_at.is_none() && self.rng.chance(40) {
            // The one request that cannot be taken back, at its worst: given up long before it arrives.
            self.soon(500, 8000, Event::StoreArrive { who, life, flight, request, retried: true });
            return;
        }
        if matches!(*request, Request::Move { .. }) && self.healed_at.is_none() && self.rng.chance(300) {
            // Given up before it arrives, and renewals overtake it.
            self.soon(500, 12_000, Event::StoreArrive { who, life, flight, request, retried: true });
            return;
        }
        if self.net.cut(who.node, store) {
            // TCP tries again for a while: the request may arrive long after it was given up.
            if self.rng.chance(400) {
                self.soon(200, 20_000, Event::StoreArrive { who, life, flight, request, retried: true });
            }
            return;
        }
        let delay_ms = self.net.delay(&mut self.rng, who.node, store);
        self.later(delay_ms, Event::StoreArrive { who, life, flight, request, retried: false });
    }

    fn lost_requests(&self) -> u64 {
        if self.healed_at.is_some() { 0 } else { self.params.lost_request_per_mille * self.outcome_trouble }
    }

    fn lost_replies(&self) -> u64 {
        if self.healed_at.is_some() { 0 } else { self.params.lost_reply_per_mille * self.outcome_trouble }
    }

    /// A request reaches the store, whether or not whoever sent it still lives.
    pub(super) fn store_arrive(&mut self, who: Who, life: u64, flight: u64, request: &Request, retried: bool) {
        let store = self.net.store();
        if !self.store.up || self.net.cut(who.node, store) {
            return;
        }
        if retried {
            let text = format!("late request arrives: {request:?}");
            self.say(who.node, &text);
        }
        let answer = self.store_apply(who.node, request);
        if self.net.cut(store, who.node) || self.rng.chance(self.lost_replies()) {
            return;
        }
        let delay_ms = self.net.delay(&mut self.rng, store, who.node);
        self.later(delay_ms, Event::StoreAnswer { who, life, flight, answer });
    }

    /// The process reads an answer of the store.
    pub(super) fn store_answer(&mut self, who: Who, life: u64, flight: u64, answer: Answer) {
        let now = self.now;
        let coin = self.rng.chance(500);
        let Some(process) = self.living(who, life) else { return };
        let Some(current) = process.store.flight.as_mut().filter(|f| f.number == flight) else { return };
        // After a freeze the answer and the timeout are both due; either may be seen first.
        if now > current.deadline && coin {
            self.give_up(who, "timed out");
            return;
        }
        if let Some(next) = self.replace(who, answer) {
            self.goes_on(who, life, flight, next);
            return;
        }
        if let Answer::Alive { lease, ttl_ms } = answer {
            if let Some(current) = &mut self.process_mut(who).store.flight {
                current.kept = Some((lease, ttl_ms));
            }
            self.lease_answered(who, lease);
        }
        let next = self.next_request(who, answer);
        self.goes_on(who, life, flight, next);
    }

    fn goes_on(&mut self, who: Who, life: u64, flight: u64, next: Next) {
        match next {
            Next::Send(request) => self.send_request(who, life, flight, request),
            Next::End(reply) => self.end_call(who, reply),
        }
    }

    fn next_request(&mut self, who: Who, answer: Answer) -> Next {
        let (ttl_ms, changes_ttl) = (self.ttl_asked_for(who).0, self.params.changes_ttl);
        let local = self.local(who.node);
        if let Answer::On(to) = answer
            && let Some(next) = self.moved_on(who, to)
        {
            return next;
        }
        let process = self.process_mut(who);
        let Some(flight) = process.store.flight.as_mut() else { return Next::End(DcsReply::Lost) };
        let kept = flight.kept;
        let sent_at = flight.sent_at;
        if let Some((lease, _)) = kept
            && matches!(flight.call, DcsCall::KeepSession | DcsCall::AcquireLeader { .. } | DcsCall::AdoptLeader { .. })
        {
            process.store.session = Some(lease);
        }
        let confirmed =
            |created| kept.map(|(lease, ttl)| Lease::confirmed(lease, created, sent_at, Millis(ttl.min(ttl_ms))));
        let grant_again = |flight: &mut Flight| {
            flight.regranted = true;
            flight.sent_at = local;
            Next::Send(Request::Grant { ttl_ms })
        };
        match (&flight.call, answer) {
            (DcsCall::KeepSession | DcsCall::AcquireLeader { .. } | DcsCall::AdoptLeader { .. }, Answer::Gone) => {
                if flight.regranted {
                    return Next::End(DcsReply::Unknown("the lease vanished".to_owned()));
                }
                grant_again(flight)
            }
            (DcsCall::KeepSession, Answer::Alive { lease, ttl_ms }) => {
                let reply = DcsReply::SessionKept { lease, sent_at, ttl: Millis(ttl_ms) };
                self.replaced_if_due(who, lease, reply, ttl_ms)
            }
            (DcsCall::AcquireLeader { seen, claim, edition }, Answer::Alive { lease, .. }) => {
                Next::Send(Request::CreateLeader { lease, seen: *seen, claim: claim.clone(), edition: *edition })
            }
            (DcsCall::AdoptLeader { old, created, edition }, Answer::Alive { lease, .. }) => {
                Next::Send(Request::Adopt { old: *old, created: *created, lease, edition: *edition })
            }
            (DcsCall::AcquireLeader { .. } | DcsCall::AdoptLeader { .. }, Answer::Done(created)) => {
                Next::End(confirmed(created).map_or(DcsReply::Lost, DcsReply::Won))
            }
            (DcsCall::AcquireLeader { .. } | DcsCall::AdoptLeader { .. } | DcsCall::KeepSession, _) => {
                Next::End(DcsReply::Lost)
            }
            (DcsCall::RenewLeader(lease), Answer::Alive { .. }) => {
                let lease = *lease;
                Next::Send(self.look_or_stay(who, lease))
            }
            (DcsCall::RenewLeader(lease), Answer::Done(_)) => {
                let created = lease.leader_created;
                match (confirmed(created), kept) {
                    (Some(lease), Some((_, kept_ms))) => {
                        self.replaced_if_due(who, lease.id, DcsReply::Kept(lease), kept_ms)
                    }
                    _ => Next::End(DcsReply::Refused),
                }
            }
            // The key may hang on another lease of ours by now.
            (DcsCall::RenewLeader(lease), Answer::Gone) if changes_ttl => Next::Send(Request::Check(*lease)),
            (DcsCall::RenewLeader(_), Answer::Gone | Answer::No | Answer::On(_) | Answer::Seen(_)) => {
                Next::End(DcsReply::Refused)
            }
            (DcsCall::ReleaseLeader { .. }, _) => Next::End(DcsReply::Released),
            (DcsCall::CheckLease(_), answer) => Next::End(DcsReply::LeaseAlive(matches!(answer, Answer::Done(_)))),
            (DcsCall::Write(edit), Answer::Alive { lease, .. }) => {
                let edit = edit.clone();
                process.store.session = Some(lease);
                Next::Send(Request::Write { edit, session: Some(lease) })
            }
            (DcsCall::Write(edit), Answer::Gone) if edit.leased && !flight.regranted => grant_again(flight),
            (DcsCall::Write(_) | DcsCall::RemoveUnleasedLeader { .. }, Answer::Done(revision)) => {
                Next::End(DcsReply::Written(revision))
            }
            (DcsCall::Write(_) | DcsCall::RemoveUnleasedLeader { .. }, _) => Next::End(DcsReply::Conflict),
        }
    }

    pub(super) fn call_timeout(&mut self, who: Who, life: u64, flight: u64, reason: &'static str) {
        let Some(process) = self.living(who, life) else { return };
        if process.store.flight.as_ref().is_some_and(|f| f.number == flight) {
            self.give_up(who, reason);
        }
    }

    /// What a renewal has confirmed stands, whatever became of the lease that was to take the place of the present one.
    fn give_up(&mut self, who: Who, reason: &str) {
        let flight = self.process(who).store.flight.as_ref();
        let kept = flight.and_then(|flight| flight.replacing.as_ref()).map(|replacing| replacing.reply.clone());
        self.end_call(who, kept.unwrap_or_else(|| DcsReply::Unknown(reason.to_owned())));
    }

    fn end_call(&mut self, who: Who, reply: DcsReply) {
        let at = self.local(who.node);
        let Some(flight) = self.process_mut(who).store.flight.take() else { return };
        let usual = matches!(reply, DcsReply::SessionKept { .. } | DcsReply::Kept(_) | DcsReply::Written(_));
        if self.log.on && !usual {
            let text = format!("{} <- {reply:?}", super::driver::side_name(who.side));
            self.say(who.node, &text);
        }
        match &reply {
            DcsReply::Won(lease) | DcsReply::Kept(lease) => self.confirmed(who, lease),
            DcsReply::Refused => self.leader_lost(who),
            DcsReply::SessionKept { sent_at, .. } => self.session_answered(who.node, *sent_at),
            _ => {}
        }
        self.tell_timing(who);
        self.process_mut(who).outcomes.push(Outcome::Dcs { call: flight.call, reply, at });
        if self.has_seat(who) {
            self.wake(who);
        } else {
            // Of a request that served the other side; its memory is what counts.
            self.process_mut(who).outcomes.retain(|outcome| !matches!(outcome, Outcome::Dcs { .. }));
        }
    }

    /// The net thread's hook: the deadline moves at once, but only while the main thread is alive and means to lead.
    fn confirmed(&mut self, who: Who, lease: &Lease) {
        self.process_mut(who).store.tenure.held = Some(*lease);
        self.answered(who.node, lease.sent_at);
        if who.side == Side::Outside {
            return;
        }
        let now = self.local(who.node);
        let node = &mut self.nodes[who.node];
        let awake = now.since(node.worker.heartbeat).0 < node.settings.ttl_ms.0 / 2;
        let lost = node.worker.store.cluster.as_ref().is_some_and(|seen| is_lost(seen, &node.name, lease));
        let believed = node.worker.memory.doubt.map_or(*lease, |doubt| doubt.believed(*lease));
        self.judge_what_counts(who.node, lease, &believed);
        let node = &mut self.nodes[who.node];
        let Some(server) = &mut node.server else { return };
        if server.fence.open && awake && !lost {
            server.fence.deadline = self.mutant.map_or(believed.deadline(), |mutant| mutant.deadline(&believed, now));
            server.fence.lease = Some(lease.id);
            server.fence.promised = false;
            if believed == *lease {
                self.proven(who.node, lease.sent_at);
            } else {
                self.reckoned(who.node, lease.sent_at);
            }
            super::judge::deadline_stored(self, who.node);
        }
    }

    /// The net thread's hook: the store has shown that the key is not ours.
    fn leader_lost(&mut self, who: Who) {
        if who.side == Side::Inside
            && let Some(server) = &mut self.nodes[who.node].server
        {
            server.fence.deadline = crate::clock::Tick(0);
            server.fence.unbound = false;
        }
    }

    // ---- the watch ----

    /// The store changed: every watch hears of it, sooner or later.
    pub(super) fn broadcast(&mut self) {
        let cluster = self.store.cluster();
        for node in 0..self.nodes.len() {
            for side in [Side::Inside, Side::Outside] {
                self.send_watch(Who { node, side }, cluster.clone());
            }
        }
    }

    fn send_watch(&mut self, who: Who, cluster: Rc<Cluster>) {
        let store = self.net.store();
        let process = self.process(who);
        if !process.alive || !process.store.streaming || process.store.stalled {
            return;
        }
        let (life, stream) = (process.life, process.store.stream);
        if self.net.cut(store, who.node) {
            self.process_mut(who).store.stalled = true;
            self.soon(1000, 10_000, Event::WatchCheck { who, life, stream });
            return;
        }
        let mut at = self.now + self.net.delay(&mut self.rng, store, who.node);
        if self.rng.chance(self.late_events()) {
            at += self.rng.skewed(100, 4000);
        }
        at = at.max(self.process(who).store.not_before);
        self.process_mut(who).store.not_before = at;
        if self.rng.chance(5) {
            self.queue.push(at, Event::Watch { who, life, stream, cluster: cluster.clone() });
        }
        self.queue.push(at, Event::Watch { who, life, stream, cluster });
    }

    fn late_events(&self) -> u64 {
        if self.healed_at.is_some() { 0 } else { self.params.lost_reply_per_mille }
    }

    pub(super) fn watch_event(&mut self, who: Who, life: u64, stream: u64, cluster: &Rc<Cluster>) {
        let Some(process) = self.living(who, life) else { return };
        // A stream keeps the order of revisions, also behind what TCP has sent again after a silence.
        let older = process.store.cluster.as_ref().is_some_and(|seen| seen.revision > cluster.revision);
        if process.store.stream != stream || older {
            return;
        }
        process.store.cluster = Some(cluster.clone());
        process.store.lost_since = None;
        if who.side == Side::Inside {
            let node = &self.nodes[who.node];
            let held = node.worker.memory.lease;
            if held.is_some_and(|lease| is_lost(cluster, &node.name, &lease)) {
                self.leader_lost(who);
            }
        }
        self.wake(who);
    }

    /// The silence of a watch is noticed: it is over, unless the network came back meanwhile.
    pub(super) fn watch_check(&mut self, who: Who, life: u64, stream: u64) {
        let reachable = self.store.up && self.net.reachable(who.node, self.net.store());
        let now = self.local(who.node);
        let cluster = self.store.cluster();
        let Some(process) = self.living(who, life) else { return };
        if process.store.stream != stream || !process.store.streaming {
            return;
        }
        if reachable {
            // TCP has sent again what was lost.
            if process.store.stalled {
                process.store.stalled = false;
                self.watch_event(who, life, stream, &cluster);
            }
            return;
        }
        process.store.streaming = false;
        process.store.lost_since = Some(now);
        self.wake(who);
        self.soon(100, 1500, Event::WatchConnect { who, life });
    }

    pub(super) fn watch_connect(&mut self, who: Who, life: u64) {
        let reachable = self.store.up && self.net.reachable(who.node, self.net.store());
        let stream = self.number();
        let now = self.now;
        let cluster = self.store.cluster();
        let Some(process) = self.living(who, life) else { return };
        if !reachable {
            self.soon(100, 1500, Event::WatchConnect { who, life });
            return;
        }
        process.store.stream = stream;
        process.store.streaming = true;
        process.store.stalled = false;
        process.store.not_before = now;
        self.send_watch(who, cluster);
    }
}

pub(super) enum Next {
    Send(Request),
    End(DcsReply),
}

/// Whether a view of the store proves that the leader key of `lease` is gone or somebody else's.
fn is_lost(seen: &Cluster, me: &crate::ids::NodeName, lease: &Lease) -> bool {
    let ours = seen.leader.as_ref().is_some_and(|key| key.name == *me && key.created == lease.leader_created);
    seen.revision >= Revision(lease.leader_created.0) && !ours
}
