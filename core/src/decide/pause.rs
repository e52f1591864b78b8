//! Maintenance mode: what runs goes on, what is stopped stays stopped, and only an operator changes a role (lessons 15, 30, 141 to 145).
//!
//! In it a leader goes on acknowledging while the store is out of reach. That is safe only as long as nobody takes over: it says so in the
//! store (`ha_ext/unbound`) before its fence is unbound from the lease, takes that back only when the fence is bound again or closed, and
//! nobody takes the leader key while another stands there, in maintenance mode or after it.

use super::turn::{Turn, Verdict};
use super::{duties, lease, release};
use crate::cluster::{Cluster, Initialize, TimelineClaim};
use crate::dcs::{Expect, Key};
use crate::effect::Effect;
use crate::ids::{NodeName, Revision};
use crate::lease::Lease;
use crate::local::{DataDir, PrimaryView, Server};
use crate::memory::Memory;
use crate::rule::Rule;
use std::collections::BTreeMap;

/// By the same snapshot as everything else: the settings may be a moment older or younger. Without one, or where somebody has deleted the
/// configuration, as whoever had the seat last knew it, or as it was when this node last ran.
pub(super) fn is_on(turn: &Turn<'_>) -> bool {
    turn.paused
}

/// The timeline of a server that somebody promoted by hand: told at once, so that nobody makes it a second time (I11). A member of another
/// kind makes it all the same, and claims nothing: where there is one it is not called one by hand.
pub(super) fn claim(turn: &Turn<'_>, primary: &PrimaryView) -> Option<Effect> {
    let cluster = turn.fresh()?;
    let session = turn.memory.session.filter(|_| is_on(turn) && cluster.initialize != Initialize::Absent)?;
    let along = duties::claim_along(turn, cluster, primary.timeline, primary.flushed);
    let free = !cluster.claims.contains_key(&primary.timeline);
    let by_hand = turn.memory.by_hand == Some(primary.timeline) && only_our_kind(cluster);
    let record = TimelineClaim { by_hand, ..along.record(turn.me(), session) }.text();
    free.then(|| turn.write(along.key(), Some(record), along.expect)).flatten()
}

/// What becomes of a primary that would be demoted otherwise.
pub(super) fn leave_alone(turn: &Turn<'_>, primary: &PrimaryView, rule: Rule) -> Verdict {
    let claim = claim(turn, primary);
    let verdict = Verdict::of(Rule::PauseLeftAlone).because(rule.sentence().to_owned());
    verdict.with(Effect::CloseFence).and(claim).soon(1000)
}

/// Whether this primary goes on acknowledging although its lease is over or not to be confirmed.
pub(super) fn goes_on(turn: &Turn<'_>, primary: &PrimaryView) -> bool {
    is_on(turn) && primary.fence_unbound && !forgotten(turn)
}

/// The store does not name this node any more: somebody deleted it, or brought an older state of the store back.
fn forgotten(turn: &Turn<'_>) -> bool {
    turn.fresh().is_some_and(|cluster| {
        // A view from before it was told shows nothing of it.
        let current = turn.memory.unbound_told.is_none_or(|told| cluster.revision >= told);
        current && !cluster.unbound.contains_key(turn.me())
    })
}

pub(super) fn without_store(turn: &mut Turn<'_>) -> Verdict {
    let renewal = lease::renewal(turn);
    Verdict::of(Rule::PauseStoreLost).and(renewal).soon(100)
}

/// What a leader with a valid lease does about its fence: unbound once the store was told, bound when maintenance mode is over.
pub(super) fn fence(turn: &Turn<'_>, primary: &PrimaryView, lease: Lease) -> Option<Effect> {
    let may = is_on(turn) && turn.fresh().is_none_or(only_our_kind) && !(primary.fence_unbound && forgotten(turn));
    match (may, primary.fence_unbound) {
        (true, false) => {
            let known = turn.fresh().is_some_and(|cluster| knows(turn, cluster, lease));
            (known && primary.fence_open).then_some(Effect::UnbindFence { lease })
        }
        (false, true) => Some(Effect::OpenFence { lease }),
        (true, true) | (false, false) => None,
    }
}

/// Whether the store names this node for this lease, and no request of ours can change that any more: whoever takes the name back does so
/// on condition of the revision that he saw.
pub(super) fn knows(turn: &Turn<'_>, cluster: &Cluster, lease: Lease) -> bool {
    let named = cluster.unbound.get(turn.me()) == Some(&lease.leader_created);
    named && turn.memory.unbound_told.is_some_and(|told| cluster.unbound_revision >= Some(told))
}

/// What this node has to write into the store, or take back.
pub(super) fn tell(turn: &mut Turn<'_>) -> Option<Effect> {
    let cluster = turn.fresh()?;
    let known = cluster.unbound.get(turn.me());
    let leads = turn.memory.lease.filter(|lease| lease.valid_at(turn.now()));
    let wanted = match (&turn.view.local.server, leads) {
        (Server::Primary(primary), _) if primary.fence_unbound => return None,
        (Server::Primary(primary), Some(lease)) if is_on(turn) && primary.fence_open && only_our_kind(cluster) => {
            Some(lease.leader_created)
        }
        (Server::Primary(_) | Server::Standby(_) | Server::Down, _) => None,
        // Its fence is out of reach.
        (Server::Starting { .. } | Server::Stopping { .. } | Server::Leftover, _) => return None,
    };
    if wanted.is_none() && known.is_some_and(|created| !is_own(turn, *created)) {
        // Another machine of this name said so: it is the operator's to say that its server does not run.
        return None;
    }
    let settled = match leads {
        Some(lease) if wanted.is_some() => knows(turn, cluster, lease),
        _ => known == wanted.as_ref(),
    };
    // The next release will hide no more that this one's leader had closed its fence.
    let outdated = leads.is_some() && cluster.unbound_fences().count() < cluster.unbound.len();
    if settled && !outdated {
        return None;
    }
    let effect = write(turn, cluster, wanted);
    if effect.is_some() {
        turn.memory.unbound_told = None;
    }
    effect
}

/// Whether this node led by the key of that revision, as it remembers or its data directory shows.
fn is_own(turn: &Turn<'_>, created: Revision) -> bool {
    let marker = turn.view.local.marker.as_ref().is_some_and(|marker| marker.member == *turn.me());
    turn.memory.led_by == Some(created) || marker
}

fn write(turn: &Turn<'_>, cluster: &Cluster, wanted: Option<Revision>) -> Option<Effect> {
    let others = cluster.unbound_fences().filter(|name| *name != turn.me());
    let mut all: BTreeMap<NodeName, Revision> =
        others.filter_map(|name| Some((name.clone(), *cluster.unbound.get(name)?))).collect();
    all.extend(wanted.map(|created| (turn.me().clone(), created)));
    let value = (!all.is_empty()).then(|| serde_json::json!(all).to_string());
    let expect = cluster.unbound_revision.map_or(Expect::Absent, Expect::Unchanged);
    turn.write(Key::Unbound, value, expect)
}

/// A member of another kind would take over without looking.
pub(super) fn only_our_kind(cluster: &Cluster) -> bool {
    cluster.members.values().all(|member| member.ha_ext_version.is_some())
}

/// Who may acknowledge without a lease, other than this node. One of its name that is not this one counts.
pub(super) fn unbound<'a>(turn: &Turn<'_>, cluster: &'a Cluster) -> Option<&'a NodeName> {
    let own =
        |name: &NodeName| name == turn.me() && cluster.unbound.get(name).is_some_and(|created| is_own(turn, *created));
    cluster.unbound_fences().find(|name| !own(name))
}

/// Whether the server stays, as it is, when the supervisor is told to stop.
#[must_use]
pub fn leaves_server(memory: &Memory) -> bool {
    memory.paused && !memory.stage.resigning()
}

/// A leader whose server is a standby now: somebody restarted it as one. Only who was promoted by its own lease goes on to a promotion.
pub(super) fn was_led(turn: &Turn<'_>, lease: Lease) -> bool {
    is_on(turn) && turn.memory.led_by == Some(lease.leader_created)
}

pub(super) fn release(turn: &Turn<'_>, lease: Lease) -> Verdict {
    release::give_up(turn, lease, None, Rule::PauseReleasing)
}

/// The server does not run: nobody starts it, and it leads no more.
pub(super) fn down(turn: &Turn<'_>) -> Verdict {
    match (turn.memory.lease, &turn.view.local.data) {
        (Some(lease), DataDir::Present(control)) => {
            let ended = (control.state == crate::local::ControlState::ShutDown).then_some(control);
            release::give_up(turn, lease, ended, Rule::PauseReleasing)
        }
        (Some(lease), DataDir::Empty | DataDir::Damaged { .. }) => release::data_lost(turn, lease),
        (None, _) => Verdict::of(Rule::PauseDown).soon(1000),
    }
}
