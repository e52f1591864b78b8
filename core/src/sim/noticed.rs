//! What a machine that was paused knows of that: whatever a clock has shown counts, in full.

use super::Mutant;
use super::event::Who;
use super::hypervisor::{Guest, Pause};
use super::world::World;
use crate::clock::{Millis, Tick};
use crate::clocks::Jumps;
use crate::decide::Decision;
use crate::lease::Lease;
use crate::view::{Side, View};

/// Pauses that are shorter in all may not move the whole seconds of a hardware clock by enough to tell it from one that runs evenly.
const SURELY_SEEN_MS: u64 = 3000;
/// A clock of this world gains up to a fiftieth on the hardware clock, and brings every deadline forward by as much as it hides of pauses.
const RATES_DIFFER: u64 = 50;
/// The same for a time of day.
const SEEN_AS_SET_MS: u64 = 500;

impl Guest {
    /// How many of its pauses were over when the hardware clock was read last.
    pub(super) fn shown(&self) -> usize {
        match (self.hardware, self.held_ms) {
            (None, _) => 0,
            (Some(_), Some(_)) => self.held_after,
            (Some(_), None) => self.pauses.len(),
        }
    }

    /// How long it stood still since what counts now was asked for, as far as no clock has shown it, less what its clock may have gained.
    pub(super) fn unnoticed(&self, at: Tick, acknowledges: bool) -> u64 {
        let asked_at =
            if acknowledges { self.proven_at } else { self.proven_at.max(self.answered_at).max(self.kept_at) };
        let of = |pause: &&Pause| pause.at >= asked_at && !pause.noticed && !pause.told_outside;
        let all: u64 = self.pauses.iter().take(self.shown()).filter(of).map(|pause| pause.length_ms).sum();
        all.saturating_sub(at.since(asked_at).0 / RATES_DIFFER)
    }
}

impl World {
    /// The worker's loop has taken a turn: whatever a clock shows by now is known from here on, and counted.
    pub(super) fn takes_turn(&mut self, who: Who, jumps: Option<&Jumps>) {
        let at = self.local(who.node);
        let here = &mut self.nodes[who.node];
        let acknowledges = here.server.as_ref().is_some_and(|server| server.fence.open);
        let guest = &mut here.guest;
        if guest.pauses.is_empty() {
            return;
        }
        let told = jumps.is_some_and(|jumps| jumps.hardware_ms > 0);
        if who.side == Side::Outside {
            // The worker learns of it with the seat.
            let shown = guest.shown();
            guest.pauses.iter_mut().take(shown).for_each(|pause| pause.told_outside |= told);
            return;
        }
        let shown = guest.shown();
        let unnoticed = guest.unnoticed(at, acknowledges);
        let by_clock = told || unnoticed >= SURELY_SEEN_MS;
        let mut news = false;
        for (number, pause) in guest.pauses.iter_mut().enumerate() {
            let before = pause.noticed;
            let by_hardware = by_clock && number < shown;
            let by_the_day = guest.hardware.is_none() && pause.set_right && pause.length_ms >= SEEN_AS_SET_MS;
            pause.noticed |= by_hardware || by_the_day || pause.told_outside;
            news |= pause.noticed && !before;
        }
        let counted = jumps.map_or(Millis(0), Jumps::unseen).0;
        if told && counted < unnoticed && self.mutant.is_none() {
            let text = format!("{}: {unnoticed} ms of pauses were counted as {counted} ms", self.nodes[who.node].name);
            self.judge.report("I2", text);
        }
        if news && self.healed_at.is_none() && self.rng.chance(500) {
            self.stalls_at_once(who.node);
        }
    }

    /// Whoever goes on here has asked for nothing yet.
    pub(super) fn knows_nothing(&mut self, node: usize) {
        let at = self.local(node);
        self.nodes[node].guest.kept_at = at;
    }

    /// The supervisor has what the worker knows.
    pub(super) fn pauses_noted(&mut self, node: usize) {
        self.nodes[node].guest.pauses.iter_mut().for_each(|pause| pause.noted = pause.noticed);
    }

    /// And goes on by that: what the worker noticed in its last turn went with it.
    pub(super) fn knows_what_was_noted(&mut self, node: usize) {
        self.nodes[node].guest.pauses.iter_mut().for_each(|pause| pause.noticed = pause.noted);
    }

    /// What is believed of a lease ends earlier by all that has shown since it was asked for.
    pub(super) fn judge_what_counts(&mut self, node: usize, lease: &Lease, believed: &Lease) {
        let (at, sent_at) = (self.local(node), lease.sent_at);
        let here = &self.nodes[node];
        let of = |pause: &&Pause| pause.at >= sent_at && pause.noticed;
        let shown: u64 = here.guest.pauses.iter().filter(of).map(|pause| pause.length_ms).sum();
        let shown = shown.saturating_sub(at.since(sent_at).0 / RATES_DIFFER);
        let counted = lease.deadline().since(believed.deadline()).0;
        if here.guest.hardware.is_some() && counted < shown && believed.deadline() > at {
            let text = format!("{}: of {shown} ms of pauses since a request was sent, {counted} ms count", here.name);
            self.judge.report("I2", text);
        }
    }
}

/// What a mutant makes of a decision after a jump of a clock.
pub(super) fn bend(mutant: Mutant, decision: &mut Decision, view: &View<'_>) {
    match mutant {
        Mutant::PausesApart => {
            decision.memory.clocks_lowest = view.clocks;
            decision.memory.clocks_next = None;
        }
        Mutant::DoubtForgotten => {
            if let (Some(doubt), Some(jumps)) = (&mut decision.memory.doubt, decision.jumps) {
                doubt.unseen = jumps.unseen();
            }
        }
        _ => {}
    }
}
