//! Failsafe mode: with the store out of reach a leader goes on for as long as every member it has written down promises to stay away from
//! the leader key.
//!
//! The fence keeps a deadline all the while: that of the promise that ends first. Whoever has promised does not take the key before his
//! promise is over, whatever the store shows; whoever is not written down does not take it at all.

use super::turn::{Standing, Turn, Verdict, longest_ttl};
use super::{eligibility, lease, pause, watchdog};
use crate::clock::{Millis, Tick};
use crate::cluster::Cluster;
use crate::dcs::{DcsCall, Expect, Key};
use crate::effect::Effect;
use crate::failsafe::{Given, PromiseAnswer, Promised, Question, Reply};
use crate::ids::{NodeName, Revision};
use crate::lease::{Lease, earlier};
use crate::local::{PrimaryView, Server};
use crate::memory::{Memory, Stage};
use crate::rule::Rule;
use crate::view::View;
use serde_json::json;
use std::collections::BTreeMap;

/// Time between two rounds of questions as long as somebody has not promised.
const ROUND_PAUSE: Millis = Millis(500);
/// After this long a question has its answer or will never have one.
const QUESTION_MAX: Millis = Millis(2500);
/// Time between two attempts to keep something on disk.
const KEEP_PAUSE: Millis = Millis(1000);
/// An extension by less is left for later.
const STEP_MIN: Millis = Millis(250);

/// By the same snapshot as everything else; a store that was wiped changes nothing.
fn is_on(view: &View<'_>) -> bool {
    let config = view.dcs.newest().and_then(|cluster| cluster.config.as_ref());
    config.map_or(view.settings.failsafe_mode, |config| crate::parse::failsafe_mode(&config.value))
}

/// Takes in what the store shows and what the members answered, and answers those who ask.
pub(super) fn observe(turn: &mut Turn<'_>) -> Vec<Effect> {
    let now = turn.now();
    if let Some(cluster) = turn.fresh() {
        // Deleted with the leader key, or after it: members that see that promise nothing more, and what they promised ends within one ttl.
        let early = cluster.leader.is_none() && !turn.passed(turn.memory.leader_gone_at, turn.longest_ttl());
        if cluster.failsafe.is_some() || !early {
            turn.memory.failsafe.map = cluster.failsafe.clone();
        }
        // Who released its key had closed its fence before, and never leads by that key again.
        let released = cluster.released.as_ref();
        let over = |name: &NodeName, promised: &Promised| {
            released.is_some_and(|released| {
                released.leader == *name && promised.created.is_some_and(|created| created <= released.created)
            })
        };
        turn.memory.failsafe.promised.retain(|name, promised| !over(name, promised));
    }
    turn.memory.failsafe.promised.retain(|_, promised| now < promised.until);
    if is_on(turn.view) || turn.memory.failsafe.map.is_some() || turn.view.local.kept_ttl > Millis(0) {
        turn.memory.failsafe.complete_since.get_or_insert(now);
    }
    take_promises(turn);
    let questions = turn.view.questions.iter();
    let answer =
        |question: &Question| Effect::AnswerFailsafe { question: question.number, reply: reply(turn, question) };
    let mut effects: Vec<Effect> = questions.map(answer).collect();
    effects.extend(keep(turn));
    effects
}

/// Whoever starts after both processes have ended knows of the `ttl` then in force, which may be shorter than that by which something was
/// promised: the longest one by which something may still be owed is on disk before anything is promised by it.
fn keep(turn: &mut Turn<'_>) -> Option<Effect> {
    let ttl = if is_on(turn.view) { turn.view.settings.ttl_ms } else { Millis(0) };
    let other = ttl != turn.view.local.kept_ttl && may_keep(&turn.memory, turn.view, ttl);
    if !other || !turn.passed(turn.memory.failsafe.keep_asked_at, KEEP_PAUSE) {
        return None;
    }
    turn.memory.failsafe.keep_asked_at = Some(turn.now());
    Some(Effect::KeepTtl { ttl })
}

/// Whether all that is owed now ends within this time.
pub(super) fn may_keep(memory: &Memory, view: &View<'_>, ttl: Millis) -> bool {
    let known = memory.failsafe.binds(view.now).is_none_or(|(_, left)| left <= ttl);
    ttl >= view.local.kept_ttl || known && !may_have_promised(memory, view)
}

/// Whether something may be owed that this memory does not know of.
fn may_have_promised(memory: &Memory, view: &View<'_>) -> bool {
    let waits = longest_ttl(memory, view).max(view.local.kept_ttl);
    memory.failsafe.complete_since.is_some_and(|since| view.now.since(since) < waits)
}

fn take_promises(turn: &mut Turn<'_>) {
    let Some(held) = turn.memory.lease else { return };
    for view in turn.view.promises.iter().filter(|view| view.created == held.leader_created) {
        let PromiseAnswer::Promised(lasts) = view.answer else { continue };
        let known = turn.memory.failsafe.given.get(&view.name);
        if known.is_some_and(|known| known.asked_at >= view.asked_at) {
            continue;
        }
        let doubt = turn.memory.doubt.filter(|doubt| view.asked_at < doubt.since);
        let (counts_from, lasts) = earlier(view.asked_at, lasts, doubt.map_or(Millis(0), |doubt| doubt.unseen));
        let given = Given { asked_at: view.asked_at, counts_from, lasts };
        turn.memory.failsafe.given.insert(view.name.clone(), given);
    }
}

/// Time has passed that the clock does not know of: every promise ends sooner.
pub(super) fn doubted(memory: &mut Memory, unseen: Millis) {
    for given in memory.failsafe.given.values_mut() {
        (given.counts_from, given.lasts) = earlier(given.counts_from, given.lasts, unseen);
    }
    if let Some(extended) = &mut memory.failsafe.extended {
        *extended = *extended - unseen;
    }
}

/// Only a leader that this node itself saw lead last is promised anything: no request of this node for the leader key can come through
/// after that one had it.
fn reply(turn: &mut Turn<'_>, question: &Question) -> Reply {
    let memory = &turn.memory;
    if !is_on(turn.view) {
        return Reply::Off;
    }
    let promoting = match &turn.view.local.server {
        Server::Primary(_) => true,
        Server::Standby(standby) => standby.promoting,
        Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover => memory.may_acknowledge,
    };
    if promoting || memory.lease.is_some() || memory.bootstrapping || question.from == *turn.me() {
        return Reply::Leads;
    }
    // What it asked under an earlier key may have lain somewhere since.
    let present = |known: Revision| question.created.is_none_or(|created| created >= known);
    let leads = memory.last_leader.as_ref();
    let leads = leads.is_some_and(|leader| leader.name == question.from && present(leader.created));
    if !leads || memory.leader_gone_at.is_some() {
        return Reply::Refused(format!("{} is not the leader that this member knows", question.from));
    }
    let lasts = turn.view.settings.ttl_ms.min(turn.view.local.kept_ttl);
    if lasts == Millis(0) {
        return Reply::Refused("the disk does not keep for how long this member promises".to_owned());
    }
    // One that was given while the `ttl` was longer lasts, whatever is asked for now.
    let given = turn.memory.failsafe.promised.get(&question.from).map(|promised| promised.until);
    let until = given.unwrap_or_default().max(turn.now() + lasts);
    turn.memory.failsafe.promised.insert(question.from.clone(), Promised { until, created: question.created });
    Reply::Accepted(lasts)
}

/// Why this node must not take the leader key now, whatever else speaks for it.
pub(super) fn barred(turn: &Turn<'_>) -> Option<Rule> {
    let listed = turn.memory.failsafe.map.as_ref().is_none_or(|map| map.value.contains_key(turn.me()));
    // Those that are written down are asked by whoever led last, and by nobody if that is over, or was this node.
    let asked = || turn.fresh().is_none_or(|cluster| eligibility::another_may_lean(turn, cluster));
    match bound(turn) {
        None if !listed && !turn.memory.bootstrapping && asked() => Some(Rule::ElectionNotInFailsafe),
        rule => rule,
    }
}

/// Writes down the members that joined after the last leader had written its list. Whoever is on that list, has seen the leader key go and
/// is bound by no promise any more refuses that leader from now on, so that it cannot go on without the store: the others may stand, too.
/// A leader that took the key meanwhile counts on no list but one that it writes after this.
pub(super) fn admit(turn: &Turn<'_>, cluster: &Cluster) -> Option<Effect> {
    let map = cluster.failsafe.as_ref().filter(|map| map.value.contains_key(turn.me()))?;
    if turn.last_release(cluster).is_some() {
        return None;
    }
    let mut all = map.value.clone();
    for (name, member) in &cluster.members {
        if let Some(url) = &member.api_url {
            all.entry(name.clone()).or_insert_with(|| url.clone());
        }
    }
    if all.len() == map.value.len() {
        return None;
    }
    turn.write(Key::Failsafe, Some(json!(all).to_string()), Expect::Unchanged(map.revision))
}

/// The same by a member whose server does not run, and which may never be able to stand itself. Nothing of that server may acknowledge.
pub(super) fn admit_while_down(turn: &Turn<'_>) -> Option<Effect> {
    let cluster = turn.fresh()?;
    let leads = cluster.leader.is_some() || turn.memory.lease.is_some() || turn.memory.bootstrapping;
    let acknowledges = turn.memory.fence_until.is_some_and(|until| turn.now() < until);
    if leads || acknowledges || pause::is_on(turn) || bound(turn).is_some() {
        return None;
    }
    admit(turn, cluster)
}

/// The same for a key that stands in its name already.
pub(super) fn bound(turn: &Turn<'_>) -> Option<Rule> {
    if turn.memory.failsafe.binds(turn.now()).is_some() {
        return Some(Rule::ElectionPromised);
    }
    // A primary has promised nobody anything since it was promoted.
    let primary = matches!(turn.view.local.server, Server::Primary(_));
    let forgotten = may_have_promised(&turn.memory, turn.view);
    (forgotten && !primary && !turn.memory.bootstrapping).then_some(Rule::ElectionMayHavePromised)
}

/// Whoever would stand for election waits, and goes on as he is.
pub(super) fn wait(turn: &Turn<'_>, rule: Rule) -> Verdict {
    let verdict = Verdict::of(rule).soon(1000);
    match turn.memory.failsafe.binds(turn.now()) {
        Some((name, left)) => verdict.because(name.to_string()).soon(left.0.clamp(5, 1000)),
        None => verdict,
    }
}

/// What the leader keeps written: every member that can be asked, and itself. Once per leadership in any case: a request of an earlier
/// leader that comes late finds the key changed.
pub(super) fn map(turn: &Turn<'_>, cluster: &Cluster, lease: Lease) -> Option<Effect> {
    let known = cluster.failsafe_revision;
    if !is_on(turn.view) && known.is_none() {
        return None;
    }
    // Until then the members that are written down keep to their promise, and others would not know of it.
    if turn.memory.failsafe.extended.is_some_and(|until| until > lease.deadline()) {
        return None;
    }
    let wanted = is_on(turn.view).then(|| wanted(turn, cluster));
    let own = turn.memory.failsafe.written.is_some() && turn.memory.failsafe.written == known;
    if own && cluster.failsafe.as_ref().map(|map| &map.value) == wanted.as_ref() {
        return None;
    }
    let value = wanted.map(|map| json!(map).to_string());
    turn.write(Key::Failsafe, value, known.map_or(Expect::Absent, Expect::Unchanged))
}

fn wanted(turn: &Turn<'_>, cluster: &Cluster) -> BTreeMap<NodeName, String> {
    let urls = cluster.members.iter().filter_map(|(name, member)| Some((name.clone(), member.api_url.clone()?)));
    let mut map: BTreeMap<NodeName, String> = urls.collect();
    map.insert(turn.me().clone(), turn.view.identity.api_url.clone());
    map
}

/// What was sent may come through: nothing is known of the key before the answer.
pub(super) fn sent(memory: &mut Memory, effects: &[Effect]) {
    let writes = |effect: &Effect| matches!(effect, Effect::Dcs(DcsCall::Write(edit)) if edit.key == Key::Failsafe);
    if effects.iter().any(writes) {
        memory.failsafe.written = None;
    }
}

/// Whether a leader has to count on the members: the store has not confirmed its lease for too long.
pub(super) fn needed(turn: &Turn<'_>, lease: &Lease) -> bool {
    let half = watchdog::window(turn).map_or(lease.ttl, |window| window.min(lease.ttl)).0 / 2;
    let half = Millis(half);
    is_on(turn.view) && (turn.fresh().is_none() || turn.passed(Some(lease.sent_at), half))
}

/// Whether this primary goes on acknowledging although its lease is over.
pub(super) fn goes_on(turn: &Turn<'_>, primary: &PrimaryView) -> bool {
    primary.fence_open && may_lean(turn, primary) && until(turn).is_some()
}

fn until(turn: &Turn<'_>) -> Option<Tick> {
    turn.memory.failsafe.until(turn.me(), turn.now(), turn.view.settings.ttl_ms)
}

fn may_lean(turn: &Turn<'_>, primary: &PrimaryView) -> bool {
    let stays = matches!(turn.memory.stage, Stage::Steady | Stage::Preparing { .. });
    let gave_up = turn.memory.lease.is_none_or(|lease| turn.gave_up(lease));
    // A member of another kind forgets with its process what it has promised.
    let ours = turn.view.dcs.newest().is_none_or(pause::only_our_kind);
    is_on(turn.view) && stays && !gave_up && ours && !primary.fence_unbound && !pause::is_on(turn)
}

/// Asks whoever has not promised lately, and moves the deadline to where all promises reach.
pub(super) fn lean(turn: &mut Turn<'_>, primary: &PrimaryView, lease: Lease) -> Vec<Effect> {
    if !may_lean(turn, primary) {
        return Vec::new();
    }
    let mut effects: Vec<Effect> = ask(turn, lease).into_iter().collect();
    let reached = turn.memory.failsafe.extended.unwrap_or_default().max(lease.deadline());
    if let Some(until) = until(turn).filter(|until| *until >= reached + STEP_MIN)
        && primary.fence_open
    {
        turn.memory.failsafe.extended = Some(until);
        effects.push(Effect::ExtendFence { until });
    }
    effects
}

fn ask(turn: &mut Turn<'_>, lease: Lease) -> Option<Effect> {
    let recent = lease::renew_every(turn);
    let due = |(name, _): &(&NodeName, &String)| {
        let open = turn.view.promises.iter().any(|view| {
            let waits = view.answer == PromiseAnswer::Pending && !turn.passed(Some(view.asked_at), QUESTION_MAX);
            view.name == **name && waits
        });
        let given = turn.memory.failsafe.given.get(*name);
        // That of a member whose `ttl` is shorter ends sooner.
        let again = given.is_none_or(|given| turn.passed(Some(given.asked_at), recent.min(Millis(given.lasts.0 / 3))));
        *name != turn.me() && !open && again
    };
    let members = turn.memory.failsafe.members()?.iter().filter(due);
    let mut targets: Vec<(NodeName, String)> = members.map(|(name, url)| (name.clone(), url.clone())).collect();
    if !targets.is_empty() && watchdog::running(turn.view).is_some() {
        // It is fed by the oldest promise, so that all of them are to be of one age.
        targets = turn.memory.failsafe.members()?.clone().into_iter().collect();
        targets.retain(|(name, _)| name != turn.me());
    }
    if targets.is_empty() || !turn.passed(turn.memory.failsafe.asked_at, ROUND_PAUSE) {
        return None;
    }
    turn.memory.failsafe.asked_at = Some(turn.now());
    Some(Effect::AskFailsafe { targets, created: lease.leader_created })
}

/// The lease is over, unconfirmed and not known to be lost; all members stay away.
pub(super) fn without_store(turn: &mut Turn<'_>, primary: &PrimaryView) -> Verdict {
    turn.memory.overdue_since = None;
    let effects = match turn.standing() {
        Standing::Leads(lease) | Standing::Overdue(lease) => lean(turn, primary, lease),
        Standing::None => Vec::new(),
    };
    let renewal = lease::renewal(turn);
    let left = until(turn).map_or(Millis(0), |until| until.since(turn.now()));
    Verdict::of(Rule::FailsafeLeading).and(effects).and(renewal).soon(left.0.clamp(1, ROUND_PAUSE.0))
}

/// From when the promises of all members count, if there are any: they confirm the right to lead as the store does.
pub(super) fn promised_since(memory: &Memory, view: &View<'_>) -> Option<Tick> {
    if !is_on(view) || !view.dcs.newest().is_none_or(pause::only_our_kind) {
        return None;
    }
    let ttl = view.settings.ttl_ms;
    memory.failsafe.until(view.me, view.now, ttl).map(|until| watchdog::counts_from(until, ttl))
}

/// Whether the fence may stay open until then: by what this leader was promised.
pub(super) fn is_promised(memory: &Memory, view: &View<'_>, until: Tick) -> bool {
    let held = memory.lease.is_some_and(|lease| memory.released != Some(lease.leader_created));
    let promised = memory.failsafe.until(view.me, view.now, view.settings.ttl_ms);
    held && is_on(view) && promised.is_some_and(|promised| until <= promised)
}
