//! The invariants of a decision, asserted in tests and in production: a broken one means stop acting, let the
//! lease lapse, shout.

use super::{Decision, failsafe, handover, rejoin, schedule, watchdog};
use crate::cluster::{Cluster, Released};
use crate::dcs::DcsCall;
use crate::effect::{DemoteMethod, Effect, StartRole, Step};
use crate::failsafe::Reply;
use crate::lease::Lease;
use crate::local::{DataDir, Seal, Server, StandbyView};
use crate::memory::Stage;
use crate::seat::LeaveReason;
use crate::timeline::{Branch, WalEnd};
use crate::view::View;
use std::fmt;

/// A decision that must not be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A promotion, an open fence or a start as primary without a lease that is valid now and is the one remembered.
    WithoutLease,
    /// An effect that this seat cannot execute.
    WrongSeat,
    /// Something follows an effect whose outcome matters.
    AfterOutcome,
    /// A release while the server may still acknowledge.
    ReleaseBeforeDemotion,
    /// A demotion whose fence is not closed first.
    DemotionBeforeSeal,
    /// A running server gives its key up although its log has not ended, or the candidate is not known to have all of it.
    ReleaseBeforeConfirmed,
    /// A demotion in place that was not prepared, or a planned one before the release.
    UnpreparedInPlace,
    /// The log is ended while commits are not held or one is still under way.
    FreezeBeforeSeal,
    /// Something that would let this node acknowledge commits again after its release was sent.
    BackAfterRelease,
    /// Reads are admitted before this node's WAL was compared, or where there is nothing to compare.
    ReadsBeforeComparison,
    /// A fence is kept open without a deadline outside maintenance mode, or before the store was told.
    UnboundUntold,
    /// A fence is kept open for longer than every member promised to stay away from the leader key.
    ExtendedUnpromised,
    /// A promise that whoever starts after both processes have ended would not know of.
    PromiseNotKept,
    /// The leader key is taken by a node that promised not to.
    PromiseBroken,
    /// A switchover that was scheduled is begun before its time.
    BeforeItsTime,
    /// A server may write without the watchdog that is required.
    Unwatched,
    /// The watchdog is fed without a confirmation since, or too late after it.
    FedUnconfirmed,
    /// The watchdog is stopped while something can write.
    DisarmedEarly,
    /// Two changes of role at once.
    TwoRoleChanges,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Violation::WithoutLease => "a step towards leading without a valid lease",
            Violation::WrongSeat => "an effect of the other seat",
            Violation::AfterOutcome => "an effect after one whose outcome matters",
            Violation::ReleaseBeforeDemotion => "a release before the server is down",
            Violation::DemotionBeforeSeal => "a demotion with an open fence",
            Violation::ReleaseBeforeConfirmed => "a release before the candidate has the whole log",
            Violation::UnpreparedInPlace => "a demotion in place that is not prepared",
            Violation::FreezeBeforeSeal => "the log ended while commits are under way",
            Violation::BackAfterRelease => "a way back after the release",
            Violation::ReadsBeforeComparison => "reads admitted before the comparison",
            Violation::UnboundUntold => "a fence without a deadline that nobody was told of",
            Violation::ExtendedUnpromised => "a fence kept open without the promise of every member",
            Violation::PromiseNotKept => "a promise for longer than is kept on disk",
            Violation::PromiseBroken => "the leader key taken against a promise",
            Violation::BeforeItsTime => "a switchover before the time it was scheduled for",
            Violation::Unwatched => "a server may write without the watchdog that is required",
            Violation::FedUnconfirmed => "the watchdog fed without a confirmation",
            Violation::DisarmedEarly => "the watchdog stopped while something can write",
            Violation::TwoRoleChanges => "two changes of role at once",
        })
    }
}

impl std::error::Error for Violation {}

/// Whether the server is, or may become without us, one that acknowledges commits.
fn may_acknowledge(server: &Server) -> bool {
    match server {
        Server::Down => false,
        Server::Standby(standby) => standby.promoting,
        Server::Primary(_) | Server::Starting { .. } | Server::Stopping { .. } | Server::Leftover => true,
    }
}

/// Whether recovery would not call itself consistent before the end of the log.
fn checkpointed(server: &Server) -> bool {
    matches!(server, Server::Primary(primary) if primary.checkpointed)
}

/// Whether commits are held and all that had begun before have ended.
fn drained(server: &Server) -> bool {
    matches!(server, Server::Primary(primary) if primary.seal == Seal::Holding { in_flight: 0 })
}

fn told_unbound(view: &View<'_>, lease: Lease) -> bool {
    let Some(cluster) = view.dcs.fresh() else { return false };
    let paused = cluster.paused().unwrap_or(view.settings.pause);
    paused && cluster.unbound.get(view.me) == Some(&lease.leader_created)
}

/// Whether another member leads, and this standby's log is known to be part of its.
fn compared(view: &View<'_>) -> bool {
    let Server::Standby(standby) = &view.local.server else { return false };
    let end = WalEnd::Received(standby.received.max(standby.replayed));
    let DataDir::Present(control) = &view.local.data else { return false };
    let ancestor =
        |cluster: &Cluster| rejoin::compare(cluster, Some(control), standby.timeline, end) == Branch::Ancestor;
    let other = |cluster: &&Cluster| cluster.leader.as_ref().is_some_and(|leader| leader.name != *view.me);
    standby.consistent && view.dcs.fresh().filter(other).is_some_and(ancestor)
}

impl Decision {
    /// A key may be given up once nothing can acknowledge by it.
    fn check_release(&self, view: &View<'_>, announce: &Released, closed: bool) -> Result<(), Violation> {
        if !may_acknowledge(&view.local.server) {
            return Ok(());
        }
        match (&self.memory.stage, &view.local.server) {
            (Stage::HandingOver { candidate, at, since, .. }, Server::Primary(primary)) => {
                let frozen = primary.seal == Seal::Frozen { at: *at } && announce.end == Some(*at);
                // The candidate may have left when it is asked for once more.
                let confirmed = *since < view.now || handover::has_all(primary, candidate, *at);
                if closed && frozen && confirmed { Ok(()) } else { Err(Violation::ReleaseBeforeConfirmed) }
            }
            // The fence was closed before the server went down, and nobody is there to open it.
            (Stage::HandingOver { .. } | Stage::Demoting { in_place: true, .. }, Server::Starting { .. })
                if self.memory.fence_until.is_none_or(|until| view.now >= until) =>
            {
                Ok(())
            }
            _ => Err(Violation::ReleaseBeforeDemotion),
        }
    }

    fn check_in_place(&self, view: &View<'_>, reason: &LeaveReason) -> Result<(), Violation> {
        let prepared = matches!(&view.local.server, Server::Primary(primary)
            if primary.in_place.parked && primary.in_place.obstacle.is_none() && primary.checkpointed);
        let released = *reason != LeaveReason::Switchover
            || matches!(self.memory.stage, Stage::HandingOver { .. })
            || self.memory.lease.is_none();
        if prepared && released && self.memory.stage.in_place() { Ok(()) } else { Err(Violation::UnpreparedInPlace) }
    }

    /// What was promised to this node bears what rests on it, and what it promised is kept, on disk as well.
    fn check_promises(&self, view: &View<'_>, effect: &Effect) -> Result<(), Violation> {
        match effect {
            Effect::ExtendFence { until } if !failsafe::is_promised(&self.memory, view, *until) => {
                Err(Violation::ExtendedUnpromised)
            }
            Effect::AnswerFailsafe { reply: Reply::Accepted(lasts), .. } if *lasts > view.local.kept_ttl => {
                Err(Violation::PromiseNotKept)
            }
            Effect::KeepTtl { ttl } if !failsafe::may_keep(&self.memory, view, *ttl) => Err(Violation::PromiseNotKept),
            Effect::Dcs(DcsCall::AcquireLeader { .. } | DcsCall::AdoptLeader { .. })
                if self.memory.failsafe.binds(view.now).is_some() =>
            {
                Err(Violation::PromiseBroken)
            }
            _ => Ok(()),
        }
    }

    /// Checks the order contract of effects against the snapshot the decision was made from.
    pub fn check(&self, view: &View<'_>) -> Result<(), Violation> {
        let mut sealed = false;
        let mut role_changes = 0;
        for (at, effect) in self.effects.iter().enumerate() {
            if effect.seat().is_some_and(|side| side != view.seat.side()) {
                return Err(Violation::WrongSeat);
            }
            if effect.outcome_matters() && at + 1 != self.effects.len() {
                return Err(Violation::AfterOutcome);
            }
            self.check_promises(view, effect)?;
            match effect {
                // Maintenance mode, and the store knows of it: whoever takes the key after it will wait.
                Effect::UnbindFence { lease } if !told_unbound(view, *lease) => return Err(Violation::UnboundUntold),
                Effect::OpenFence { lease }
                | Effect::UnbindFence { lease }
                | Effect::Promote { lease, .. }
                | Effect::Run(Step::Start { role: StartRole::Primary { lease } }) => {
                    if self.memory.lease != Some(*lease) || !lease.valid_at(view.now) {
                        return Err(Violation::WithoutLease);
                    }
                    // One that has no deadline yet only gets one.
                    let binds = matches!(&view.local.server, Server::Primary(primary) if primary.fence_unbound);
                    if !binds && watchdog::is_missed(view.settings, view.local, self.memory.paused) {
                        return Err(Violation::Unwatched);
                    }
                }
                Effect::Dcs(DcsCall::ReleaseLeader { announce, .. }) => self.check_release(view, announce, sealed)?,
                Effect::CloseFence => sealed = true,
                Effect::Demote { .. } if !sealed => return Err(Violation::DemotionBeforeSeal),
                Effect::Demote { reason, method: DemoteMethod::InPlace } => self.check_in_place(view, reason)?,
                Effect::Freeze if !drained(&view.local.server) => return Err(Violation::FreezeBeforeSeal),
                Effect::ServeReads if !compared(view) => return Err(Violation::ReadsBeforeComparison),
                // Whatever ends the server then, recovery begins as that of a standby.
                Effect::Park if !checkpointed(&view.local.server) => return Err(Violation::UnpreparedInPlace),
                Effect::ArmWatchdog { timeout_ms, by } if !watchdog::may_arm(&self.memory, view, *timeout_ms, *by) => {
                    return Err(Violation::FedUnconfirmed);
                }
                Effect::FeedWatchdog { by } if !watchdog::may_feed(&self.memory, view, *by) => {
                    return Err(Violation::FedUnconfirmed);
                }
                Effect::DisarmWatchdog if !watchdog::may_stop(&self.memory, view, self.memory.paused) => {
                    return Err(Violation::DisarmedEarly);
                }
                Effect::Dcs(DcsCall::Write(edit)) if schedule::is_early(view, edit) => {
                    return Err(Violation::BeforeItsTime);
                }
                Effect::Dcs(_)
                | Effect::PollPeers { .. }
                | Effect::AskFailsafe { .. }
                | Effect::AnswerFailsafe { .. }
                | Effect::KeepTtl { .. }
                | Effect::ExtendFence { .. }
                | Effect::LimitFence { .. }
                | Effect::PressOn(_)
                | Effect::Demote { method: DemoteMethod::Restart, .. }
                | Effect::Checkpoint
                | Effect::Park
                | Effect::Unpark
                | Effect::Seal
                | Effect::Unseal
                | Effect::Freeze
                | Effect::ServeReads
                | Effect::ArmWatchdog { .. }
                | Effect::FeedWatchdog { .. }
                | Effect::DisarmWatchdog
                | Effect::Follow { .. }
                | Effect::Run(_)
                | Effect::Exit { .. } => {}
            }
            let goes_back = matches!(
                effect,
                Effect::OpenFence { .. }
                    | Effect::ExtendFence { .. }
                    | Effect::UnbindFence { .. }
                    | Effect::Unseal
                    | Effect::Unpark
                    | Effect::Promote { .. }
                    | Effect::Dcs(DcsCall::RenewLeader(_))
                    | Effect::Run(Step::Start { role: StartRole::Primary { .. } })
            );
            let released = self.memory.lease.is_some_and(|held| self.memory.released == Some(held.leader_created));
            if goes_back && (released || matches!(self.memory.stage, Stage::HandingOver { .. })) {
                return Err(Violation::BackAfterRelease);
            }
            role_changes += usize::from(matches!(effect, Effect::Promote { .. } | Effect::Demote { .. }));
        }
        let promotes_again = matches!(view.local.server, Server::Standby(StandbyView { promoting: true, .. }))
            && self.effects.iter().any(|effect| matches!(effect, Effect::Promote { .. }));
        if schedule::begun_early(view, &self.memory.stage) {
            return Err(Violation::BeforeItsTime);
        }
        if role_changes > 1 || promotes_again {
            return Err(Violation::TwoRoleChanges);
        }
        Ok(())
    }
}
