//! Machines that stand still as a whole: paused by a hypervisor, with every clock of their kernel but not with the hardware clock, or
//! suspended, when `CLOCK_BOOTTIME` goes on.

use super::Mutant;
use super::event::{Event, Frozen, Who};
use super::params::Params;
use super::rng::Rng;
use super::world::World;
use crate::clock::Tick;
use crate::clocks::Clocks;
use crate::view::Side;

/// How often the hardware clock is read.
const READ_EVERY_MS: u64 = 500;

/// When a leader's pause hurts most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// A renewal of its key is on the way.
    Renewal,
    /// So is the request by which it takes the key.
    Acquisition,
    /// It is about to be promoted.
    Promotion,
    /// Its log has ended for a hand-over, or the release was sent.
    HandOver,
}

/// A machine in another's hands.
#[derive(Debug, Default)]
pub(super) struct Guest {
    /// It has a hardware clock, which is so far ahead of true time.
    pub(super) hardware: Option<u64>,
    pausing: Option<Pause>,
    suspended_at: Option<Tick>,
    asleep_ms: i64,
    /// What the hardware clock said before the pause, until it is read again.
    pub(super) held_ms: Option<i64>,
    /// How many pauses were over then.
    pub(super) held_after: usize,
    pub(super) pauses: Vec<Pause>,
    /// When the request was sent by which the fence's deadline was proven, and the last that was answered.
    pub(super) proven_at: Tick,
    pub(super) answered_at: Tick,
    /// The same of the node lease.
    pub(super) kept_at: Tick,
}

/// A pause, and what its machine may know of it.
#[derive(Clone, Copy, Debug, Default)]
// Independent facts, not a state.
#[allow(clippy::struct_excessive_bools)]
pub(super) struct Pause {
    /// By the machine's clock, for which it has no length.
    pub(super) at: Tick,
    began: u64,
    pub(super) length_ms: u64,
    /// The time of day was set right again.
    pub(super) set_right: bool,
    /// The supervisor has seen a clock that shows it, while it had the seat.
    pub(super) told_outside: bool,
    /// The loop has seen one.
    pub(super) noticed: bool,
    /// And the supervisor was given the memory that has it.
    pub(super) noted: bool,
    /// The fence's deadline is as much earlier.
    counted: bool,
}

impl Guest {
    pub(super) fn drawn(rng: &mut Rng, params: &Params) -> Self {
        if !params.virtual_machines {
            return Self::default();
        }
        Self { hardware: rng.chance(600).then(|| rng.below(1000)), ..Self::default() }
    }

    /// A machine that boots begins to count anew.
    pub(super) fn booted(&mut self) {
        *self = Self { hardware: self.hardware, ..Self::default() };
    }

    /// Time by which the fence's deadline lies too late: in all, and of pauses that the loop has not noticed.
    pub(super) fn late_by(&self) -> (u64, u64) {
        let late = self.pauses.iter().filter(|pause| pause.at >= self.proven_at && !pause.counted);
        late.fold((0, 0), |(all, unnoticed), pause| {
            (all + pause.length_ms, unnoticed + if pause.noticed { 0 } else { pause.length_ms })
        })
    }

    /// Time that has passed unnoticed since a request was sent.
    pub(super) fn unnoticed_since(&self, sent_at: Tick) -> u64 {
        let pauses = self.pauses.iter().filter(|pause| pause.at >= sent_at && !pause.noticed);
        pauses.map(|pause| pause.length_ms).sum()
    }

    pub(super) fn was_ever_paused(&self) -> bool {
        !self.pauses.is_empty()
    }

    /// Nothing in it runs.
    pub(super) fn is_paused(&self) -> bool {
        self.pausing.is_some()
    }
}

impl World {
    /// Now, or when the leader comes to a bad moment.
    pub(super) fn pause_machine(&mut self, node: usize, lasts_ms: u64) {
        let lasts_ms = if self.rng.chance(500) { self.rng.between(100, 4000) } else { lasts_ms };
        let moments = [Moment::Renewal, Moment::Renewal, Moment::Acquisition, Moment::Promotion, Moment::HandOver];
        match moments.get(self.rng.index(8)) {
            Some(moment) => self.pause_ambush = Some((*moment, lasts_ms)),
            None => self.machine_paused(node, lasts_ms),
        }
    }

    /// A driver is at one of those moments.
    pub(super) fn comes_to(&mut self, node: usize, moment: Moment) {
        if let Some((awaited, lasts_ms)) = self.pause_ambush
            && awaited == moment
        {
            self.pause_ambush = None;
            self.soon(0, 3, Event::MachinePaused { node, lasts_ms });
            if std::mem::take(&mut self.pause_twice) {
                // The first has shown by then, and the answers are still held up.
                let gap_ms = self.rng.between(READ_EVERY_MS + 10, 1500);
                self.answers_held = 2;
                self.later(lasts_ms + gap_ms, Event::MachinePaused { node, lasts_ms });
            }
        }
    }

    pub(super) fn machine_paused(&mut self, node: usize, lasts_ms: u64) {
        let (now, at) = (self.now, self.local(node));
        let here = &self.nodes[node];
        if self.healed_at.is_some() || !here.up || here.is_frozen(Frozen::Node) {
            return;
        }
        let held_ms = self.clocks(node).hardware_ms;
        let number = self.number();
        let here = &mut self.nodes[node];
        if here.guest.held_ms.is_none() {
            here.guest.held_after = here.guest.pauses.len();
        }
        here.guest.held_ms = held_ms;
        here.guest.pausing = Some(Pause { at, began: now, length_ms: lasts_ms, ..Pause::default() });
        here.clock.stand_still(now, now + lasts_ms);
        here.frozen.push((Frozen::Node, number));
        self.trouble(node);
        self.say(node, "paused by its hypervisor");
        self.later(lasts_ms, Event::Thaw { node, what: Frozen::Node, number });
    }

    /// A leader's: several in a row, none of which shows by itself, mostly where it cannot renew its lease between them. Or two that do, while
    /// one request is on its way.
    pub(super) fn short_pauses(&mut self, node: usize) {
        if self.rng.chance(350) {
            let moment = [Moment::Renewal, Moment::Renewal, Moment::Acquisition][self.rng.index(3)];
            self.pause_ambush = Some((moment, self.rng.between(3000, 6000)));
            self.pause_twice = true;
            return;
        }
        let leader = self.store.leader().and_then(|key| self.nodes.iter().position(|node| node.name == key.name));
        let node = leader.unwrap_or(node);
        if self.rng.chance(700) {
            let lasts_ms = self.rng.between(self.params.settings.ttl_ms.0, self.params.settings.ttl_ms.0 * 3);
            self.cut(vec![(node, self.net.store())], lasts_ms);
        }
        let mut at_ms = 0;
        for _ in 0..self.rng.between(2, 8) {
            let lasts_ms = self.rng.between(400, 1990);
            self.later(at_ms, Event::MachinePaused { node, lasts_ms });
            at_ms += lasts_ms + self.rng.skewed(20, 2500);
        }
    }

    pub(super) fn suspend(&mut self, node: usize, lasts_ms: u64) {
        if self.nodes[node].up && !self.nodes[node].is_frozen(Frozen::Node) {
            self.nodes[node].guest.suspended_at = Some(self.local(node));
            self.freeze(node, Frozen::Node, lasts_ms);
        }
    }

    /// A machine that stood still goes on.
    pub(super) fn machine_resumes(&mut self, node: usize) {
        let (now, local) = (self.now, self.local(node));
        let guest = &mut self.nodes[node].guest;
        if let Some(since) = guest.suspended_at.take() {
            guest.asleep_ms += i64::try_from(local.since(since).0).unwrap_or(0);
            self.wake_seat(node);
        }
        let Some(mut pause) = self.nodes[node].guest.pausing.take() else { return };
        pause.length_ms = now - pause.began;
        let by_ms = i64::try_from(pause.length_ms).unwrap_or(0);
        let here = &mut self.nodes[node];
        // It may have been shorter than planned.
        here.clock.go_on(now);
        here.guest.pauses.push(pause);
        if here.guest.held_ms.is_some() {
            self.soon(0, READ_EVERY_MS, Event::HardwareRead { node });
        }
        let set_right_after = self.rng.skewed(500, 120_000);
        self.later(set_right_after, Event::TimeSet { node, by_ms });
        self.catch_up(node, pause);
        if self.healed_at.is_none() && self.rng.chance(350) {
            self.cut_off_at_resume(node);
        }
    }

    /// Timers go on where they stood; what the network kept comes at once, or when TCP tries again.
    fn catch_up(&mut self, node: usize, pause: Pause) {
        let held_up_ms = if self.answers_held > 0 {
            self.answers_held -= 1;
            self.rng.between(1600, pause.length_ms.max(1600))
        } else if self.rng.chance(400) {
            self.rng.below(pause.length_ms.min(60_000) + 1)
        } else {
            0
        };
        for (due, event) in std::mem::take(&mut self.nodes[node].parked) {
            match event {
                // Set anew below.
                Event::Tick { .. } => {}
                event if event.is_message() => self.later(held_up_ms, event),
                event => self.later(due.saturating_sub(pause.began), event),
            }
        }
        for side in [Side::Inside, Side::Outside] {
            let who = Who { node, side };
            let not_before = self.now + held_up_ms;
            let process = self.process_mut(who);
            process.store.not_before = process.store.not_before.max(not_before);
            if let Some(planned) = process.tick_at.take() {
                let (at, life) = (planned.max(pause.began) + pause.length_ms, process.life);
                process.tick_at = Some(at);
                self.queue.push(at, Event::Tick { who, life });
            }
        }
    }

    fn cut_off_at_resume(&mut self, node: usize) {
        let store = self.net.store();
        let from = if self.rng.chance(500) { 0 } else { store };
        let lasts_ms = self.rng.skewed(500, self.params.settings.ttl_ms.0 * 3);
        self.say(node, "--- cut off, just when it goes on");
        self.cut((from..=store).filter(|other| *other != node).map(|other| (node, other)).collect(), lasts_ms);
    }

    /// This turn is the last for a while, and the store is out of reach.
    pub(super) fn stalls_at_once(&mut self, node: usize) {
        let longest_ms = self.params.settings.ttl_ms.0 * 2;
        let lasts_ms = self.rng.between(1000, longest_ms);
        self.say(node, "--- stalled and cut off, just when it has noticed");
        self.freeze(node, Frozen::Main, lasts_ms);
        if self.rng.chance(500) {
            self.freeze(node, Frozen::Supervisor, lasts_ms);
        }
        self.cut(vec![(node, self.net.store())], lasts_ms);
    }

    // ---- its clocks ----

    /// The clocks beside the one that everything goes by.
    pub(super) fn clocks(&self, node: usize) -> Clocks {
        let here = &self.nodes[node];
        let read = |ahead: u64| {
            let shows = (self.now + ahead) / 1000 * 1000;
            i64::try_from(shows).unwrap_or(0) - i64::try_from(self.local(node).0).unwrap_or(0)
        };
        let hardware_ms = here.guest.held_ms.or_else(|| here.guest.hardware.map(read));
        let hardware_ms = hardware_ms.filter(|_| !self.is(Mutant::HardwareIgnored));
        Clocks { wall_ms: here.wall_ms, awake_ms: -here.guest.asleep_ms, hardware_ms }
    }

    pub(super) fn hardware_read(&mut self, node: usize) {
        let before = self.clocks(node);
        self.nodes[node].guest.held_ms = None;
        let now = self.clocks(node);
        let here = &self.nodes[node];
        let memory = if here.worker.acting { &here.worker.memory } else { &here.supervisor.memory };
        let alarm = memory.clocks_lowest.and_then(|lowest| lowest.hardware_alarm_ms());
        let alarmed = alarm.is_some_and(|alarm| now.hardware_ms >= Some(alarm));
        if alarmed || now.jumps_since(&before).is_some() {
            self.wake_seat(node);
        }
    }

    pub(super) fn time_set(&mut self, node: usize, by_ms: i64) {
        let here = &mut self.nodes[node];
        here.wall_ms += by_ms;
        let wrong = |pause: &&mut Pause| !pause.set_right && i64::try_from(pause.length_ms) == Ok(by_ms);
        if let Some(pause) = here.guest.pauses.iter_mut().find(wrong) {
            pause.set_right = true;
        }
        self.wake_seat(node);
    }

    /// The store has answered a request that was sent then; the fence's deadline counts from there.
    pub(super) fn proven(&mut self, node: usize, sent_at: Tick) {
        let guest = &mut self.nodes[node].guest;
        guest.proven_at = sent_at;
        for pause in &mut guest.pauses {
            pause.counted = false;
        }
    }

    /// The main thread has set the deadline, by requests no older than `sent_at` and less what it has noticed.
    pub(super) fn reckoned(&mut self, node: usize, sent_at: Tick) {
        let guest = &mut self.nodes[node].guest;
        guest.proven_at = sent_at.max(guest.answered_at);
        for pause in &mut guest.pauses {
            pause.counted = pause.noticed;
        }
    }

    /// The same by the promises of all members.
    pub(super) fn leaned(&mut self, node: usize) {
        let (name, failsafe) = (&self.nodes[node].name, &self.nodes[node].worker.memory.failsafe);
        let others = failsafe.members().into_iter().flat_map(|members| members.keys()).filter(|other| *other != name);
        let asked_at = others.filter_map(|other| failsafe.given.get(other)).map(|given| given.asked_at).min();
        let asked_at = asked_at.unwrap_or_default();
        self.reckoned(node, asked_at);
        self.nodes[node].guest.proven_at = asked_at;
    }

    /// It has brought the deadline forward by all that it has noticed.
    pub(super) fn limited(&mut self, node: usize) {
        for pause in &mut self.nodes[node].guest.pauses {
            pause.counted |= pause.noticed;
        }
    }

    pub(super) fn answered(&mut self, node: usize, sent_at: Tick) {
        self.nodes[node].guest.answered_at = sent_at;
    }

    pub(super) fn session_answered(&mut self, node: usize, sent_at: Tick) {
        self.nodes[node].guest.kept_at = sent_at;
    }
}

impl Event {
    /// Comes over the network.
    fn is_message(&self) -> bool {
        matches!(
            self,
            Event::StoreAnswer { .. }
                | Event::Watch { .. }
                | Event::PeerAnswered { .. }
                | Event::PromiseAnswered { .. }
                | Event::WalArrive { .. }
        )
    }
}
