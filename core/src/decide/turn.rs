//! One turn: the snapshot, and the memory as it will be afterwards.

use super::{failsafe, in_place};
use crate::clock::{Millis, Tick};
use crate::cluster::{Cluster, LastLeader, Released, Versioned};
use crate::dcs::{ClaimAlong, DcsCall, Expect, Key, KeyEdit};
use crate::effect::{Effect, Step};
use crate::ids::{NodeName, SystemId, Timeline};
use crate::lease::Lease;
use crate::local::{Control, DataDir, Upstream};
use crate::memory::Memory;
use crate::peer::PeerAnswer;
use crate::rule::Rule;
use crate::view::View;

/// After this long a question has its answer or will never have one: drivers give up after two seconds.
const QUESTION_MAX: Millis = Millis(2500);

/// The working state of one decision.
pub(super) struct Turn<'a> {
    pub memory: Memory,
    pub view: &'a View<'a>,
    /// Maintenance mode: see [`super::pause::is_on`].
    pub paused: bool,
}

/// A rule and what it does.
#[derive(Debug)]
pub(super) struct Verdict {
    pub rule: Rule,
    pub effects: Vec<Effect>,
    /// Look again this soon: something is awaited that announces itself by no event.
    pub soon: Option<Millis>,
    /// What the rule leaves open.
    pub because: Option<String>,
}

impl Verdict {
    pub fn of(rule: Rule) -> Self {
        Self { rule, effects: Vec::new(), soon: None, because: None }
    }

    pub fn with(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    pub fn and(mut self, effects: impl IntoIterator<Item = Effect>) -> Self {
        self.effects.extend(effects);
        self
    }

    pub fn soon(mut self, ms: u64) -> Self {
        self.soon = Some(Millis(ms));
        self
    }

    pub fn because(mut self, reason: String) -> Self {
        self.because = Some(reason);
        self
    }

    /// Whether an effect ends the list already.
    pub fn closed(&self) -> bool {
        self.effects.last().is_some_and(Effect::outcome_matters)
    }
}

/// The lease, judged now.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standing {
    /// Confirmed and before its deadline.
    Leads(Lease),
    /// Past its deadline; not known to be lost.
    Overdue(Lease),
    /// None.
    None,
}

impl<'a> Turn<'a> {
    pub fn new(memory: &Memory, view: &'a View<'a>) -> Self {
        let paused = view.dcs.fresh().and_then(Cluster::paused);
        let paused = paused.unwrap_or(memory.paused || view.settings.pause);
        Self { memory: memory.clone(), view, paused }
    }

    pub fn now(&self) -> Tick {
        self.view.now
    }

    pub fn fresh(&self) -> Option<&'a Cluster> {
        self.view.dcs.fresh()
    }

    pub fn me(&self) -> &'a NodeName {
        self.view.me
    }

    pub fn standing(&self) -> Standing {
        match self.memory.lease {
            Some(lease) if lease.valid_at(self.now()) => Standing::Leads(lease),
            Some(lease) => Standing::Overdue(lease),
            None => Standing::None,
        }
    }

    /// Whether the release of the key that `lease` carries was sent.
    pub fn gave_up(&self, lease: Lease) -> bool {
        self.memory.released == Some(lease.leader_created)
    }

    /// Whether `since` lies at least `ms` back; `None` is long ago.
    pub fn passed(&self, since: Option<Tick>, ms: Millis) -> bool {
        since.is_none_or(|since| self.now().since(since) >= ms)
    }

    /// The longest time for which a leader may acknowledge after its key is gone.
    pub fn longest_ttl(&self) -> Millis {
        longest_ttl(&self.memory, self.view)
    }

    /// A request to the store, if one may be sent now: none is under way, and the last failure is a moment ago.
    pub fn store(&self, call: DcsCall) -> Option<Effect> {
        self.may_ask().then_some(Effect::Dcs(call))
    }

    /// Whether a request to the store may be sent now.
    pub fn may_ask(&self) -> bool {
        !self.view.dcs_busy && self.passed(self.memory.store_failed_at, self.retry_pause())
    }

    /// The record of who took the leader key last, if it is the one that was written then.
    pub fn last_taken<'c>(&self, cluster: &'c Cluster) -> Option<&'c Versioned<LastLeader>> {
        cluster.last_taken().or_else(|| cluster.taken_with(self.memory.last_leader.as_ref()?))
    }

    /// The release that ended the last leadership, if it was one that did.
    pub fn last_release<'c>(&self, cluster: &'c Cluster) -> Option<&'c Released> {
        cluster.release_of(self.last_taken(cluster)?)
    }

    /// The timeline to claim for a server that is on `local`: above all that were seen, also those that the store has forgotten.
    pub fn next_timeline(&self, cluster: &Cluster, local: Timeline) -> Timeline {
        let system = self.system_id();
        let remembered = self.memory.newest_timeline.filter(|(of, newest)| Some(*of) == system && *newest > local);
        let next = remembered.map_or(Timeline(0), |(_, newest)| Timeline(newest.0.saturating_add(1)));
        cluster.next_timeline(local, system).max(next)
    }

    /// Takes the leader key, if a request may be sent now, under the condition that nobody led since `cluster` was read: what was
    /// proven of the predecessor there would say nothing of another. Whoever promotes then claims its timeline along.
    pub fn acquire(&self, cluster: &Cluster, claim: Option<ClaimAlong>) -> Option<Effect> {
        if failsafe::barred(self).is_some() {
            return None;
        }
        let edition = cluster.next_edition();
        self.store(DcsCall::AcquireLeader { seen: cluster.revision, claim, edition })
    }

    /// A conditional write of a permanent key, if a request may be sent now.
    pub fn write(&self, key: Key, value: Option<String>, expect: Expect) -> Option<Effect> {
        // What the view lacks may be just our own last write.
        if self.behind() { None } else { self.store(DcsCall::Write(KeyEdit { key, value, expect, leased: false })) }
    }

    /// Whether the view is from before our own last write of a permanent key.
    pub fn behind(&self) -> bool {
        let shown = self.fresh().map(|cluster| cluster.revision);
        self.memory.last_write.is_some_and(|(revision, at)| {
            shown < Some(revision) && !self.passed(Some(at), self.view.settings.loop_wait_ms)
        })
    }

    /// From when on a request may follow the last one that failed.
    pub fn store_ready_at(&self) -> Tick {
        self.memory.store_failed_at.map_or(self.now(), |failed| failed + self.retry_pause())
    }

    fn retry_pause(&self) -> Millis {
        Millis((self.view.settings.ttl_ms.0 / 20).clamp(100, 1000))
    }

    /// A step, unless one runs or the last one failed within this loop (lesson 38). What ends a server is never delayed.
    pub fn run(&self, step: Step) -> Option<Effect> {
        let pause = match step {
            Step::Stop { .. } | Step::ClearLeftover => Millis(0),
            Step::EndStragglers => in_place::STRAGGLERS_AGAIN,
            _ => self.view.settings.loop_wait_ms,
        };
        let cooled = self.passed(self.memory.step_failed_at, pause);
        (self.view.local.step_running.is_none() && cooled).then_some(Effect::Run(step))
    }

    /// Asks `targets`, unless they were asked within `pause`. One that still owes an answer is not asked again: a
    /// frozen peer accepts every question, and only the age of the first shows that it will not answer.
    pub fn poll(&mut self, mut targets: Vec<(NodeName, String)>, pause: Millis) -> Option<Effect> {
        targets.retain(|(name, _)| {
            !self.view.peers.iter().any(|peer| {
                let open = peer.answer == PeerAnswer::Pending && !self.passed(Some(peer.asked_at), QUESTION_MAX);
                peer.name == *name && open
            })
        });
        if targets.is_empty() || !self.passed(self.memory.polled_at, pause) {
            return None;
        }
        self.memory.polled_at = Some(self.now());
        Some(Effect::PollPeers { targets })
    }

    /// Asks everybody, unless that was done within `pause`.
    pub fn poll_all(&mut self, pause: Millis) -> Option<Effect> {
        if !self.passed(self.memory.polled_at, pause) {
            return None;
        }
        let targets = self.peer_targets();
        self.poll(targets, pause)
    }

    /// Every member but this one that can be asked: those in the store, and those known from when there last
    /// was a leader.
    pub fn peer_targets(&self) -> Vec<(NodeName, String)> {
        let mut targets = (*self.memory.known_peers).clone();
        if let Some(cluster) = self.view.dcs.newest() {
            for (name, member) in &cluster.members {
                if let Some(url) = &member.api_url {
                    targets.insert(name.clone(), url.clone());
                }
            }
        }
        targets.remove(self.me());
        targets.into_iter().collect()
    }

    /// The identifier of this node's data.
    pub fn system_id(&self) -> Option<SystemId> {
        self.control().map(|control| control.system_id)
    }

    pub fn control(&self) -> Option<&'a Control> {
        match &self.view.local.data {
            DataDir::Present(control) => Some(control),
            DataDir::Empty | DataDir::Damaged { .. } => None,
        }
    }

    /// How this node would follow `name`.
    pub fn upstream(&self, cluster: &Cluster, name: &NodeName) -> Option<Upstream> {
        let address = cluster.members.get(name)?.postgres_address()?;
        let slot = self.view.settings.use_slots.then(|| self.me().slot_name());
        Some(Upstream { name: name.clone(), address, slot })
    }
}

/// The same by another memory.
pub(super) fn longest_ttl(memory: &Memory, view: &View<'_>) -> Millis {
    memory.longer_ttl.map_or(view.settings.ttl_ms, |(ttl, _)| ttl)
}
