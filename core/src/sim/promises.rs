//! `POST /failsafe` between members: a leader asks all at once, the seat of each answers with its next decision, and after 2 s nobody
//! listens to an answer any more.

use super::Mutant;
use super::event::{Event, Who};
use super::judge;
use super::node::Process;
use super::params::{Params, Weather};
use super::rng::Rng;
use super::world::World;
use crate::clock::Tick;
use crate::cluster::Cluster;
use crate::dcs::{DcsCall, Expect, Key, KeyEdit};
use crate::decide::Decision;
use crate::effect::Effect;
use crate::failsafe::{PromiseAnswer, PromiseView, Question, Reply};
use crate::ids::{NodeName, Revision};
use crate::peer::{PeerAnswer, PeerView};
use crate::rule::Rule;
use crate::view::{Side, View};
use std::rc::Rc;
use std::sync::Arc;

/// Some seeds are worlds in failsafe mode, and in half of those the store is lost all the time. Drawn apart: the others are what they
/// would be without it.
pub(super) fn among_them(params: &mut Params, weather: &mut Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x5afe);
    if rng.chance(350) {
        failsafe_mode(params);
        if rng.chance(500) {
            weather.weights = super::kinds::blackouts();
        }
    }
}

pub(super) fn failsafe_mode(params: &mut Params) {
    params.settings.failsafe_mode = true;
    params.settings.bootstrap_dcs["failsafe_mode"] = serde_json::Value::Bool(true);
}

const TIMEOUT_MS: u64 = 2000;

/// A question that waits for the next decision.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) question: Question,
    from: Who,
    life: u64,
    sent_at: Tick,
}

impl World {
    pub(super) fn ask_promises(&mut self, who: Who, targets: &[(NodeName, String)], created: Revision) {
        let asked_at = self.local(who.node);
        let process = self.process_mut(who);
        let life = process.life;
        for (name, _) in targets {
            process.promises.retain(|view| view.name != *name);
            process.promises.push(PromiseView {
                name: name.clone(),
                asked_at,
                created,
                answer: PromiseAnswer::Pending,
            });
        }
        for (name, _) in targets {
            let Some(to) = self.nodes.iter().position(|node| node.name == *name) else { continue };
            if !self.net.cut(who.node, to) {
                self.send_to_member(who.node, to, Event::PromiseAsk { from: who, life, asked_at, to, created });
            }
        }
        self.later(TIMEOUT_MS, Event::PromiseTimeout { from: who, life, asked_at });
    }

    /// The question arrives. Where nobody has the seat it is refused; a process that is frozen answers when it goes on.
    pub(super) fn promise_ask(&mut self, from: Who, life: u64, asked_at: Tick, to: usize, created: Revision) {
        let number = self.number();
        let leader = self.nodes[from.node].name.clone();
        let node = &self.nodes[to];
        if !node.up || self.net.cut(to, from.node) {
            return;
        }
        let side = match node.seat() {
            Some(side) => side,
            None if node.worker.alive || node.supervisor.alive => return,
            None => {
                let answer = PromiseAnswer::Refused("connection refused".to_owned());
                self.send_promise(from, life, asked_at, to, answer);
                return;
            }
        };
        let who = Who { node: to, side };
        let question = Question { number, from: leader, created: Some(created) };
        self.process_mut(who).questions.push(Asked { question, from, life, sent_at: asked_at });
        self.wake(who);
    }

    pub(super) fn answer_question(&mut self, who: Who, number: u64, reply: &Reply) {
        let questions = &mut self.process_mut(who).questions;
        let Some(at) = questions.iter().position(|asked| asked.question.number == number) else { return };
        let Asked { from, life, sent_at: asked_at, .. } = questions.remove(at);
        let answer = match reply {
            Reply::Accepted(lasts) => {
                judge::promised(self, who.node, from.node, *lasts);
                if self.params.changes_ttl {
                    self.promised_by_longer(from.node, *lasts);
                }
                if self.healed_at.is_none() && self.rng.chance(15) {
                    self.soon(1, 1000, Event::PromiseTested { leader: from.node, member: who.node });
                }
                PromiseAnswer::Promised(*lasts)
            }
            Reply::Off => PromiseAnswer::Refused("failsafe mode is off".to_owned()),
            Reply::Leads => PromiseAnswer::Refused("running as a leader".to_owned()),
            Reply::Refused(why) => PromiseAnswer::Refused(why.clone()),
        };
        self.send_promise(from, life, asked_at, who.node, answer);
    }

    /// A promise at its hardest: the leader is out of everybody's sight, and who gave it starts anew.
    pub(super) fn test_promise(&mut self, leader: usize, member: usize) {
        if self.healed_at.is_some() {
            return;
        }
        *self.faults.entry("member struck after a promise").or_default() += 1;
        self.say(member, "--- struck after a promise, the leader isolated");
        let lasts_ms = self.params.settings.ttl_ms.0 * 2;
        let places = (0..=self.net.store()).filter(|other| *other != leader);
        self.cut(places.map(|other| (leader, other)).collect(), lasts_ms);
        if self.rng.chance(500) {
            self.crash_node(member);
        } else {
            self.kill_supervisor(member);
            self.kill_worker(member);
        }
    }

    fn send_promise(&mut self, from: Who, life: u64, asked_at: Tick, to: usize, answer: PromiseAnswer) {
        if !self.net.cut(to, from.node) {
            self.send_to_member(to, from.node, Event::PromiseAnswered { from, life, asked_at, to, answer });
        }
    }

    pub(super) fn promise_answered(&mut self, from: Who, life: u64, asked_at: Tick, to: usize, answer: PromiseAnswer) {
        let name = self.nodes[to].name.clone();
        let read_at = self.local(from.node);
        let from_answer = self.is(Mutant::ExtensionFromAnswer);
        let stray = self.is(Mutant::StrayPromiseCounts);
        let Some(process) = self.living(from, life) else { return };
        let waits = |view: &&mut PromiseView| {
            view.name == name && (view.asked_at == asked_at || stray) && view.answer == PromiseAnswer::Pending
        };
        if let Some(view) = process.promises.iter_mut().find(waits) {
            view.answer = answer;
            if from_answer {
                view.asked_at = read_at;
            }
            self.wake(from);
        }
    }

    pub(super) fn promise_timeout(&mut self, from: Who, life: u64, asked_at: Tick) {
        let Some(process) = self.living(from, life) else { return };
        let mut late = false;
        let waits = |view: &&mut PromiseView| view.asked_at == asked_at && view.answer == PromiseAnswer::Pending;
        for view in process.promises.iter_mut().filter(waits) {
            view.answer = PromiseAnswer::Refused("timed out".to_owned());
            late = true;
        }
        if late {
            self.wake(from);
        }
    }

    /// A mutant never hears of members that came later.
    pub(super) fn bend_members(&mut self, node: usize, decision: &mut Decision) {
        if !self.is(Mutant::OldMembers) {
            return;
        }
        if let Some(map) = &mut decision.memory.failsafe.map {
            let first = self.nodes[node].first_members.get_or_insert_with(|| map.value.clone());
            Arc::make_mut(map).value.clone_from(first);
        }
    }

    /// The cluster as a node sees it: one mutant does not see who is not written down as long as nobody leads.
    pub(super) fn shown(&self, node: usize, cluster: Option<&Rc<Cluster>>) -> Option<Rc<Cluster>> {
        let mut shown = cluster.cloned();
        if self.is(Mutant::UnlistedNotCounted)
            && let Some(cluster) = shown.as_mut().filter(|cluster| cluster.leader.is_none())
            && let Some(list) = cluster.failsafe.clone()
        {
            let me = &self.nodes[node].name;
            Rc::make_mut(cluster).members.retain(|name, _| name == me || list.value.contains_key(name));
        }
        shown
    }

    /// Nor does it hear of them: what it knows of its peers instead.
    pub(super) fn heard_of_listed(&self, process: &Process) -> Option<Vec<PeerView>> {
        if !self.is(Mutant::UnlistedNotCounted) {
            return None;
        }
        let cluster = process.store.cluster.as_ref().filter(|cluster| cluster.leader.is_none())?;
        let list = cluster.failsafe.as_ref()?;
        let mut peers = process.peers.clone();
        for peer in peers.iter_mut().filter(|peer| !list.value.contains_key(&peer.name)) {
            peer.answer = PeerAnswer::Unreachable(String::new());
        }
        Some(peers)
    }

    /// What the mutants make of a new holder of the seat.
    pub(super) fn forget_promises(&mut self, node: usize, side: Side) {
        if self.is(Mutant::PromiseForgotten) {
            let failsafe = &mut Rc::make_mut(&mut self.process_mut(Who { node, side }).memory).failsafe;
            failsafe.promised.clear();
            failsafe.complete_since = Some(Tick(0));
        }
    }
}

/// Who still stays away from the leader key writes down who may take it.
pub(super) fn admitted_early(decision: &mut Decision, view: &View<'_>) {
    let Some(map) = view.dcs.fresh().and_then(|cluster| cluster.failsafe.as_ref()) else { return };
    if decision.rule != Rule::ElectionPromised || view.dcs_busy {
        return;
    }
    let mut all = map.value.clone();
    let members = view.dcs.fresh().into_iter().flat_map(|cluster| cluster.members.keys());
    all.extend(members.map(|name| (name.clone(), String::new())));
    if all.len() > map.value.len() {
        let (value, expect) = (Some(serde_json::json!(all).to_string()), Expect::Unchanged(map.revision));
        let edit = KeyEdit { key: Key::Failsafe, value, expect, leased: false };
        decision.effects = vec![Effect::Dcs(DcsCall::Write(edit))];
    }
}
