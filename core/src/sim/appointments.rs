//! Operators who schedule switchovers, change their minds close to the time, set clocks and begin maintenance mode before it.

use super::Mutant;
use super::event::{Event, Who};
use super::rng::Rng;
use super::world::World;
use crate::api::time;
use crate::clocks::Clocks;
use crate::cluster::{FailoverRequest, Versioned};
use crate::dcs::{DcsCall, Expect, Key, KeyEdit};
use crate::decide::Decision;
use crate::effect::Effect;
use crate::ids::{Lsn, NodeName, Revision};
use crate::memory::Stage;
use crate::rule::Rule;
use crate::view::View;

/// Where true time begins by the time of day.
const EPOCH_MS: i64 = 1_798_761_600_000;
/// How far machines whose clocks are set differ.
const APART_MS: u64 = 700;

/// What becomes of a schedule before its time, or just at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Taken back, as `DELETE /switchover` does.
    Cancel,
    /// Another time.
    Move { by_ms: i64 },
    /// The clock of whoever leads is set.
    SetClock { by_ms: i64 },
    /// Maintenance mode begins, or ends.
    Pause,
}

/// How far a machine's time of day is ahead of its clock, so that it is about right.
pub(super) fn about_right(clock: &super::clock::BootClock, now: u64, index: usize) -> i64 {
    let apart = i64::try_from((index as u64 * 397) % (2 * APART_MS)).unwrap_or(0) - 700;
    EPOCH_MS + signed(now) - signed(clock.at(now).0) + apart
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl World {
    /// The time of day on a machine.
    pub(super) fn wall_ms(&self, node: usize) -> i64 {
        signed(self.local(node).0) + self.nodes[node].wall_ms
    }

    /// The clocks as a driver has read them.
    pub(super) fn clocks_read(&self, who: Who, now: Clocks) -> Clocks {
        let before = self.process(who).memory.clocks.filter(|_| self.is(Mutant::WallClockOnce));
        before.unwrap_or(now)
    }

    fn leads(&self) -> Option<usize> {
        let leader = self.store.leader()?;
        self.nodes.iter().position(|node| node.name == leader.name)
    }

    /// Writes the failover key with a time: mostly one to come, sometimes one that has just passed.
    pub(super) fn operator_schedules(&mut self, request: FailoverRequest) {
        let passed = self.rng.chance(120);
        let by_ms = signed(self.rng.skewed(500, 60_000));
        self.appoint(request, if passed { -by_ms } else { by_ms });
    }

    fn appoint(&mut self, request: FailoverRequest, by_ms: i64) {
        let at_ms = self.wall_ms(self.leads().unwrap_or(0)) + by_ms;
        let request = FailoverRequest { scheduled_at: Some(time::iso(at_ms * 1000)), ..request };
        let Ok(value) = serde_json::to_string(&request) else { return };
        let text = format!("operator: failover := {value}");
        self.log.line(self.now, "oper", &text);
        *self.faults.entry("switchover scheduled").or_default() += 1;
        let before = self.store.leader();
        let revision = self.store.put(&Key::Failover.path(), &value, None);
        self.judge.appointments.made(revision, at_ms);
        self.store_changed(before.as_ref());
        self.second_thoughts(revision, by_ms);
    }

    fn second_thoughts(&mut self, revision: Revision, by_ms: i64) {
        let (what, by) = (self.rng.index(10), signed(self.rng.skewed(1000, 40_000)));
        let change = match what {
            0..=2 => Change::Cancel,
            3 => Change::Move { by_ms: by },
            4 => Change::SetClock { by_ms: by },
            5 => Change::SetClock { by_ms: -by },
            6 => Change::Pause,
            _ => return,
        };
        // Some well before, most in the moments around it.
        let until = u64::try_from(by_ms).unwrap_or(0);
        let at = if self.rng.chance(700) {
            (until + self.rng.below(100)).saturating_sub(40)
        } else {
            self.rng.below(until + 1)
        };
        self.later(at, Event::SecondThoughts { revision, change });
        if change == Change::Pause {
            let lasts = self.rng.between(1000, 60_000);
            self.later(at + lasts, Event::SecondThoughts { revision, change });
        }
    }

    /// The request that carries a schedule out is on its way to the store: now and then whoever made it is faster. Drawn apart.
    pub(super) fn may_be_taken_back(&mut self, edit: &KeyEdit) {
        let carries_out =
            edit.key == Key::Failover && edit.value.as_ref().is_some_and(|value| value.contains("ha_ext_due"));
        let stands = self.store.cluster().failover.clone().filter(|_| carries_out);
        let Some(request) = stands.filter(|request| request.value.scheduled_at.is_some()) else { return };
        if Rng::new(self.now ^ 0x5_ca1e).chance(100) {
            self.changes_mind(request.revision, Change::Cancel);
        }
    }

    pub(super) fn changes_mind(&mut self, revision: Revision, change: Change) {
        if self.healed_at.is_some() {
            return;
        }
        let stands = self.store.cluster().failover.clone().filter(|request| request.revision == revision);
        match (change, stands) {
            (Change::Cancel, Some(_)) => {
                self.log.line(self.now, "oper", "operator: takes the scheduled switchover back");
                let before = self.store.leader();
                self.store.put(&Key::Failover.path(), "{}", None);
                self.store_changed(before.as_ref());
            }
            (Change::Move { by_ms }, Some(request)) => self.appoint(request.value, by_ms),
            (Change::Cancel | Change::Move { .. }, None) => {}
            (Change::SetClock { by_ms }, _) => {
                let Some(leader) = self.leads() else { return };
                self.nodes[leader].wall_ms += by_ms;
                self.trouble(leader);
                let text = format!("operator: sets the time of day by {by_ms} ms");
                self.say(leader, &text);
            }
            (Change::Pause, _) => self.operator_pauses(),
        }
    }
}

/// What a mutant makes of a decision about what stands in the failover key.
pub(super) fn bend(mutant: Mutant, decision: &mut Decision, view: &View<'_>) {
    let Some(request) = view.dcs.fresh().and_then(|cluster| cluster.failover.as_ref()) else { return };
    let scheduled = request.value.scheduled_at.is_some();
    let late = decision.memory.rejected.as_ref().is_some_and(|(_, reason)| reason.starts_with("its time was"));
    let late = late && decision.rule == Rule::SwitchoverRejected;
    match mutant {
        Mutant::ScheduleEarly if decision.rule == Rule::SwitchoverScheduled => ask(decision, request, view),
        Mutant::ScheduleLate if late && scheduled => ask(decision, request, view),
        Mutant::ScheduleInPause if decision.rule == Rule::PauseLeading && scheduled => ask(decision, request, view),
        Mutant::ScheduleBlind if decision.rule == Rule::SwitchoverDue => {
            let Some(lease) = decision.memory.lease else { return };
            for effect in &mut decision.effects {
                if let Effect::Dcs(DcsCall::Write(edit)) = effect {
                    edit.expect = Expect::WeLead(lease);
                }
            }
        }
        Mutant::ScheduleUnasked if decision.rule == Rule::SwitchoverDue => begin(decision, request, view),
        Mutant::DueForEver if late && !scheduled => begin(decision, request, view),
        Mutant::NeverOvertaken if overtaken(decision) => seal(decision, request, view),
        _ => {}
    }
}

fn ask(decision: &mut Decision, request: &Versioned<FailoverRequest>, view: &View<'_>) {
    let FailoverRequest { leader, member, scheduled_at, .. } = request.value.clone();
    let due = FailoverRequest { leader, member, scheduled_at: None, due: scheduled_at };
    let value = serde_json::to_string(&due).ok();
    let edit = KeyEdit { key: Key::Failover, value, expect: Expect::Unchanged(request.revision), leased: false };
    if !view.dcs_busy {
        decision.memory.rejected = None;
        decision.effects = vec![Effect::Dcs(DcsCall::Write(edit))];
    }
}

/// It was turned down for what came between its beginning and the moment at which commits would be held.
fn overtaken(decision: &Decision) -> bool {
    let reason = decision.memory.rejected.as_ref().map(|(_, reason)| reason.as_str()).unwrap_or_default();
    let between = reason.starts_with("its preparation took") || reason.starts_with("maintenance mode began before");
    between && decision.rule == Rule::SwitchoverRejected && decision.because.is_some()
}

fn seal(decision: &mut Decision, request: &Versioned<FailoverRequest>, view: &View<'_>) {
    let candidate = request.value.member.clone().unwrap_or_else(|| NodeName::new("n2"));
    let (request, since, sealed_at) = (request.revision, view.now, Some(view.now));
    decision.memory.rejected = None;
    decision.memory.stage = Stage::Sealing { request, candidate, since, sealed_at, frozen_at: None };
    decision.effects = vec![Effect::Seal];
}

fn begin(decision: &mut Decision, request: &Versioned<FailoverRequest>, view: &View<'_>) {
    let candidate = request.value.member.clone().unwrap_or_else(|| NodeName::new("n2"));
    decision.memory.rejected = None;
    decision.memory.stage =
        Stage::Preparing { request: request.revision, candidate, since: view.now, checkpoint_after: Lsn(0) };
    decision.effects = vec![Effect::Checkpoint];
}
