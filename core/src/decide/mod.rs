//! The one decision function. Each file holds the rules of one situation; this one routes.

mod by_hand;
mod check;
mod clocks;
mod data;
mod duties;
mod election;
mod eligibility;
mod failsafe;
mod fold;
mod handover;
mod in_place;
mod lease;
mod outside;
mod pause;
mod primary;
mod promotion;
mod rejoin;
mod release;
mod schedule;
mod standby;
mod switchover;
mod turn;
mod upkeep;
mod watchdog;

pub use check::Violation;
pub use eligibility::{Eligibility, Obstacle};
pub use in_place::keeps_seat;
pub use pause::leaves_server;

use crate::clock::Tick;
use crate::clocks::Jumps;
use crate::dcs::DcsCall;
use crate::effect::Effect;
use crate::local::Server;
use crate::memory::Memory;
use crate::rule::Rule;
use crate::view::{Side, View};
use turn::{Turn, Verdict};

/// What to do now, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The reason.
    pub rule: Rule,
    /// What to remember until the next tick.
    pub memory: Memory,
    /// What to execute, in this order; after a failure stop and observe again.
    pub effects: Vec<Effect>,
    /// When to decide again at the latest; an event may come first.
    pub wake_at: Tick,
    /// What the rule leaves open, for the log: why this way and not the other.
    pub because: Option<String>,
    /// Clocks that have jumped since the last decision.
    pub jumps: Option<Jumps>,
}

/// Decides. Pure: no clock, no I/O, no logging, no randomness. Same input, same output.
#[must_use]
pub fn decide(memory: &Memory, view: &View<'_>) -> Decision {
    let mut turn = Turn::new(memory, view);
    turn.memory.awaits_checkpoint = false;
    let jumps = clocks::observe(&mut turn);
    fold::outcomes(&mut turn);
    fold::fence(&mut turn);
    fold::ttl(&mut turn);
    by_hand::observe(&mut turn);
    fold::cluster(&mut turn);
    // Before anything is decided: who promises to stay away from the leader key does so at once.
    let answers = failsafe::observe(&mut turn);
    watchdog::observe(&mut turn);
    let mut verdict = route(&mut turn);
    turn.memory.out_by_hand = verdict.rule == Rule::ElectionByHand;
    upkeep::add(&mut turn, &mut verdict);
    verdict.effects.splice(0..0, clocks::limit_fence(&turn).into_iter().chain(answers));
    failsafe::sent(&mut turn.memory, &verdict.effects);
    clocks::sent(&mut turn, &verdict.effects);
    for effect in &verdict.effects {
        if let Effect::Dcs(DcsCall::ReleaseLeader { lease, .. }) = effect {
            turn.memory.released = Some(lease.leader_created);
        }
        if matches!(effect, Effect::UnbindFence { .. }) {
            turn.memory.fence_until = Some(fold::UNBOUND);
        }
    }
    watchdog::add(&mut turn, &mut verdict);
    turn.memory.paused = pause::is_on(&turn);
    let wake_at = upkeep::wake_at(&turn, &verdict);
    let Verdict { rule, effects, because, .. } = verdict;
    Decision { rule, memory: turn.memory, effects, wake_at, because, jumps }
}

/// Who may lead now and what stands in the way, for `ha_who_would_win()` and the REST API.
#[must_use]
pub fn eligibility(memory: &Memory, view: &View<'_>) -> Eligibility {
    eligibility::of_this_node(&Turn::new(memory, view))
}

/// Why this leader, asked to hand over now, would be stopped instead of going on as a standby in the same postmaster; `None` of a standby.
#[must_use]
pub fn in_place_obstacle(memory: &Memory, view: &View<'_>) -> Option<String> {
    let Server::Primary(primary) = &view.local.server else { return None };
    let no_slots =
        || (!view.settings.use_slots).then(|| "use_slots is off, so nobody can tell what a candidate has".to_owned());
    in_place::obstacle(&Turn::new(memory, view), primary).or_else(no_slots)
}

fn route(turn: &mut Turn<'_>) -> Verdict {
    match (turn.view.seat.side(), &turn.view.local.server) {
        (Side::Inside, Server::Primary(primary)) => primary::decide(turn, primary),
        (Side::Inside, Server::Standby(standby)) => standby::decide(turn, standby),
        // The worker runs only while its postmaster does: whatever it sees besides, it is about to end, or has yet to begin.
        (Side::Inside, Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover) => {
            promotion::not_ready(turn)
        }
        (
            Side::Outside,
            Server::Starting { .. } | Server::Stopping { .. } | Server::Primary(_) | Server::Standby(_),
        ) => outside::server_alive(turn),
        (Side::Outside, Server::Leftover) => outside::leftover(turn),
        (Side::Outside, Server::Down) => outside::server_down(turn),
    }
}
