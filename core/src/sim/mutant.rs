//! Deliberately broken drivers and decisions. Each must be caught: an invariant that no mutant breaks proves nothing.

use super::bent;
use crate::clock::{Millis, Tick};
use crate::decide::Decision;
use crate::effect::{Effect, Step};
use crate::lease::Lease;
use crate::local::Server;
use crate::memory::Stage;
use crate::rule::Rule;
use crate::view::View;

/// One deliberate fault in the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The deadline lies two seconds later than the lease allows.
    LateDeadline,
    /// The deadline counts from when the answer was read, not from when the keepalive was sent.
    DeadlineFromAnswer,
    /// A planned hand-over releases the key before the server is stopped.
    ReleaseBeforeStop,
    /// A promotion without any lease, as soon as the key is gone.
    PromoteWithoutLease,
    /// The key is taken without asking anybody.
    NoVote,
    /// Votes are counted while WAL still arrives.
    VoteWhileReceiving,
    /// A key that vanished is taken although its lease may be alive.
    IgnorePredecessor,
    /// A node that finds no record of who led last takes the key at once.
    TakeBlindly,
    /// A record of who led last that somebody put back counts as the last one.
    OldRecordBelieved,
    /// The timeline is not claimed.
    NoClaim,
    /// A diverged node is started as it is.
    NoRewind,
    /// Standbys are never pointed at a new leader.
    NeverFollow,
    /// The key is released before the candidate is known to have the whole log.
    ReleaseUnconfirmed,
    /// The key is released while the log goes on.
    FreezeSkipped,
    /// Commits are not held when the log is ended.
    SealSkipped,
    /// Commits under way are not waited for.
    InFlightIgnored,
    /// The log goes on after the release.
    UnsealAfterRelease,
    /// What was written behind the end of the log, in its last page, stays there.
    TailNotZeroed,
    /// A release whose answer is lost is forgotten: the leader goes on as if it had never been sent.
    LeadAfterRelease,
    /// A server is demoted in place without being prepared.
    ParkSkipped,
    /// `standby.signal` is there before the mark that withholds reads.
    SignalBeforeMark,
    /// A `promote` file is left where it is when a demotion in place is prepared.
    PromoteFileLeft,
    /// A server is demoted in place before its first checkpoint.
    NoCheckpointGuard,
    /// A server is demoted in place although a newer timeline's history file is there.
    NewerHistoryIgnored,
    /// Reads are served before the WAL was compared.
    ServeEarly,
    /// What was prepared for a hand-over is left when that is given up.
    NoUnpark,
    /// What a demotion in place leaves running, and what waits for the archiver, is left as it is.
    StragglersLeft,
    /// A server hands over although WAL waits for its archiver.
    NoArchiveGuard,
    /// In maintenance mode the fence loses its deadline before the store was told.
    UnboundUntold,
    /// After maintenance mode the key is taken although a former leader may acknowledge without a lease.
    UnboundIgnored,
    /// The store is told that a fence has a deadline again before it has.
    UnboundForgotten,
    /// Elections are held in maintenance mode.
    ElectionInPause,
    /// A leader without the store goes on although one member has not promised to stay away from the leader key.
    AllButOnePromised,
    /// What was promised is forgotten with the process, and nobody waits for it.
    PromiseForgotten,
    /// A promise counts from when its answer was read.
    ExtensionFromAnswer,
    /// Who has promised to stay away takes the key.
    PromisedStands,
    /// A leader asks the members that it had when it was first written down who they are.
    OldMembers,
    /// A member that is not written down takes the key.
    UnlistedStands,
    /// A scheduled switchover is asked for before its time.
    ScheduleEarly,
    /// It is asked for however long its time is over.
    ScheduleLate,
    /// It is asked for in maintenance mode.
    ScheduleInPause,
    /// It is asked for although somebody has taken it back or changed it meanwhile.
    ScheduleBlind,
    /// It is begun without having been asked for.
    ScheduleUnasked,
    /// What was asked for at its time is begun however long ago that was.
    DueForEver,
    /// What was begun in time is carried out, whatever came between.
    NeverOvertaken,
    /// The time of day is read once, and counted on from there.
    WallClockOnce,
    /// The hardware clock is not looked at.
    HardwareIgnored,
    /// The clocks are compared with the turn before alone.
    PausesApart,
    /// A second jump of a clock makes the first one forgotten.
    DoubtForgotten,
    /// What is left of a lease after a pause is not told to the fence.
    FenceNotLimited,
    /// The watchdog is fed whether the lease was confirmed or not.
    WatchdogFedBlindly,
    /// The watchdog is stopped as soon as a server is to be one that cannot write.
    WatchdogStoppedEarly,
    /// What is required of the watchdog is not.
    WatchdogNotRequired,
    /// What the watchdog was really set to is not looked at.
    WatchdogTimeoutUnread,
    /// A leader does not mind that it is about to be reset.
    WatchdogAwaited,
    /// A member that still stays away from the leader key writes down who may take it.
    AdmittedEarly,
    /// A watchdog that cannot be stopped is let go while it runs.
    WatchdogLetGo,
    /// A claim does not say that its timeline was made by hand.
    ByHandUntold,
    /// Nobody claims what was made by hand.
    ByHandUnclaimed,
    /// In maintenance mode who was promoted by hand takes the key whoever has more.
    ByHandTakesAll,
    /// Which timelines were claimed is known only as long as the store shows it.
    TimelinesForgotten,
    /// In an election, members that are not written down in failsafe mode do not exist.
    UnlistedNotCounted,
    /// The fence is opened for as long as a renewal will last that was only sent.
    FenceUnconfirmed,
    /// Whoever has won the key promotes, whatever has become of it, of the node and of the cluster since.
    PromoteUnseen,
    /// It promotes before recovery has reached where the data is consistent.
    PromoteInconsistent,
    /// A member of a timeline that the cluster has left takes the key.
    OldTimelineStands,
    /// A leader writes down its history before it has read its file.
    HistoryUnread,
    /// A move of the leader key to another lease is carried out however often the key was written since.
    LateMoveUnguarded,
    /// After such a move was given up nothing is written.
    StrayMoveForgotten,
    /// A demotion in place leaves what was acknowledged without a flush in memory.
    UnflushedLeft,
    /// `COMMIT PREPARED` is neither held nor counted: it begins without a transaction of its own.
    FinishUncounted,
    /// A promise that answers an earlier question counts for the one that waits.
    StrayPromiseCounts,
    /// A member tells how far it has replayed, and not what it has received.
    ReplayTold,
    /// What was promised while `ttl` was longer is forgotten with the process, and is waited for by the `ttl` then in force.
    LongerTtlForgotten,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 74] = [
        Mutant::LateDeadline,
        Mutant::DeadlineFromAnswer,
        Mutant::ReleaseBeforeStop,
        Mutant::PromoteWithoutLease,
        Mutant::NoVote,
        Mutant::VoteWhileReceiving,
        Mutant::IgnorePredecessor,
        Mutant::TakeBlindly,
        Mutant::OldRecordBelieved,
        Mutant::NoClaim,
        Mutant::NoRewind,
        Mutant::NeverFollow,
        Mutant::ReleaseUnconfirmed,
        Mutant::FreezeSkipped,
        Mutant::SealSkipped,
        Mutant::InFlightIgnored,
        Mutant::UnsealAfterRelease,
        Mutant::TailNotZeroed,
        Mutant::LeadAfterRelease,
        Mutant::ParkSkipped,
        Mutant::SignalBeforeMark,
        Mutant::PromoteFileLeft,
        Mutant::NoCheckpointGuard,
        Mutant::NewerHistoryIgnored,
        Mutant::ServeEarly,
        Mutant::NoUnpark,
        Mutant::StragglersLeft,
        Mutant::NoArchiveGuard,
        Mutant::UnboundUntold,
        Mutant::UnboundIgnored,
        Mutant::UnboundForgotten,
        Mutant::ElectionInPause,
        Mutant::AllButOnePromised,
        Mutant::PromiseForgotten,
        Mutant::ExtensionFromAnswer,
        Mutant::PromisedStands,
        Mutant::OldMembers,
        Mutant::UnlistedStands,
        Mutant::ScheduleEarly,
        Mutant::ScheduleLate,
        Mutant::ScheduleInPause,
        Mutant::ScheduleBlind,
        Mutant::ScheduleUnasked,
        Mutant::DueForEver,
        Mutant::NeverOvertaken,
        Mutant::WallClockOnce,
        Mutant::HardwareIgnored,
        Mutant::PausesApart,
        Mutant::DoubtForgotten,
        Mutant::FenceNotLimited,
        Mutant::WatchdogFedBlindly,
        Mutant::WatchdogStoppedEarly,
        Mutant::WatchdogNotRequired,
        Mutant::WatchdogTimeoutUnread,
        Mutant::WatchdogAwaited,
        Mutant::AdmittedEarly,
        Mutant::WatchdogLetGo,
        Mutant::ByHandUntold,
        Mutant::ByHandUnclaimed,
        Mutant::ByHandTakesAll,
        Mutant::TimelinesForgotten,
        Mutant::UnlistedNotCounted,
        Mutant::FenceUnconfirmed,
        Mutant::PromoteUnseen,
        Mutant::PromoteInconsistent,
        Mutant::OldTimelineStands,
        Mutant::HistoryUnread,
        Mutant::LateMoveUnguarded,
        Mutant::StrayMoveForgotten,
        Mutant::UnflushedLeft,
        Mutant::FinishUncounted,
        Mutant::StrayPromiseCounts,
        Mutant::ReplayTold,
        Mutant::LongerTtlForgotten,
    ];

    /// The deadline this mutant stores for `lease`.
    pub(super) fn deadline(self, lease: &Lease, now: Tick) -> Tick {
        match self {
            Mutant::LateDeadline => lease.deadline() + Millis(2000),
            Mutant::DeadlineFromAnswer => Lease { sent_at: now, ..*lease }.deadline(),
            _ => lease.deadline(),
        }
    }

    /// The rule that this mutant does not let keep it from the leader key.
    fn stands_in_spite_of(self) -> Option<Rule> {
        Some(match self {
            Mutant::PromisedStands => Rule::ElectionPromised,
            Mutant::UnlistedStands => Rule::ElectionNotInFailsafe,
            Mutant::OldTimelineStands => Rule::ElectionOldTimeline,
            Mutant::ElectionInPause => Rule::PauseNoElection,
            Mutant::UnboundIgnored => Rule::ElectionAwaitingUnbound,
            Mutant::ByHandTakesAll => Rule::PauseByHand,
            Mutant::IgnorePredecessor => Rule::ElectionPredecessorAlive,
            _ => return None,
        })
    }

    /// What this mutant makes of a decision.
    pub(super) fn bend(self, decision: &mut Decision, view: &View<'_>) {
        if self.stands_in_spite_of() == Some(decision.rule) {
            bent::acquire(decision, view);
        }
        match self {
            // These are in the hands, not in the head: the world's executors and observers ask for them.
            Mutant::LateDeadline
            | Mutant::DeadlineFromAnswer
            | Mutant::SealSkipped
            | Mutant::InFlightIgnored
            | Mutant::TailNotZeroed
            | Mutant::SignalBeforeMark
            | Mutant::PromoteFileLeft
            | Mutant::NoCheckpointGuard
            | Mutant::NewerHistoryIgnored
            | Mutant::NoArchiveGuard
            | Mutant::PromiseForgotten
            | Mutant::ExtensionFromAnswer
            | Mutant::OldMembers
            | Mutant::LateMoveUnguarded
            | Mutant::StrayMoveForgotten
            | Mutant::UnflushedLeft
            | Mutant::FinishUncounted
            | Mutant::StrayPromiseCounts
            | Mutant::ReplayTold
            | Mutant::LongerTtlForgotten
            | Mutant::WallClockOnce
            | Mutant::WatchdogNotRequired
            | Mutant::WatchdogTimeoutUnread
            | Mutant::PromisedStands
            | Mutant::UnlistedStands
            | Mutant::OldTimelineStands
            | Mutant::HardwareIgnored
            | Mutant::UnlistedNotCounted
            | Mutant::ElectionInPause
            | Mutant::UnboundIgnored
            | Mutant::ByHandTakesAll
            | Mutant::IgnorePredecessor => {}
            Mutant::ScheduleEarly
            | Mutant::ScheduleLate
            | Mutant::ScheduleInPause
            | Mutant::ScheduleBlind
            | Mutant::ScheduleUnasked
            | Mutant::DueForEver
            | Mutant::NeverOvertaken => super::appointments::bend(self, decision, view),
            Mutant::PausesApart | Mutant::DoubtForgotten => super::noticed::bend(self, decision, view),
            Mutant::FenceNotLimited => decision.effects.retain(|effect| !matches!(effect, Effect::LimitFence { .. })),
            Mutant::WatchdogFedBlindly
            | Mutant::WatchdogStoppedEarly
            | Mutant::WatchdogAwaited
            | Mutant::WatchdogLetGo => super::watchdog::bend(self, decision, view),
            Mutant::AdmittedEarly => super::promises::admitted_early(decision, view),
            Mutant::AllButOnePromised => bent::all_but_one(decision, view),
            Mutant::UnboundUntold => {
                if let (Rule::PauseLeading, Some(lease)) = (decision.rule, decision.memory.lease) {
                    decision.effects.insert(0, Effect::UnbindFence { lease });
                }
            }
            Mutant::UnboundForgotten => bent::unbound_forgotten(decision, view),
            Mutant::ReleaseUnconfirmed => bent::release_now(decision, view, Rule::SwitchoverConfirming),
            Mutant::FreezeSkipped => bent::release_now(decision, view, Rule::SwitchoverFreezing),
            Mutant::UnsealAfterRelease => {
                if matches!(decision.memory.stage, Stage::HandingOver { .. }) {
                    decision.effects.insert(0, Effect::Unseal);
                }
            }
            Mutant::LeadAfterRelease => bent::lead_after_release(decision, view),
            Mutant::ParkSkipped => bent::park_skipped(decision),
            Mutant::ServeEarly => {
                if matches!(&view.local.server, Server::Standby(standby) if standby.reads_withheld) {
                    decision.effects.insert(0, Effect::ServeReads);
                }
            }
            Mutant::StragglersLeft => decision.effects.retain(|effect| *effect != Effect::Run(Step::EndStragglers)),
            Mutant::NoUnpark => decision.effects.retain(|effect| *effect != Effect::Unpark),
            Mutant::ReleaseBeforeStop => bent::release_before_stop(decision, view),
            Mutant::PromoteWithoutLease => bent::promote_without_lease(decision, view),
            Mutant::NoVote | Mutant::VoteWhileReceiving | Mutant::TakeBlindly | Mutant::OldRecordBelieved => {
                bent::stand(self, decision, view);
            }
            Mutant::NoClaim => bent::no_claim(decision, view),
            Mutant::FenceUnconfirmed => bent::fence_unconfirmed(decision, view),
            Mutant::PromoteUnseen => {
                bent::promote_anyway(decision, view, &[Rule::PromotionGivenUp, Rule::PromotionRenewing]);
            }
            Mutant::PromoteInconsistent => bent::promote_anyway(decision, view, &[Rule::PromotionNotReady]),
            Mutant::ByHandUntold => bent::by_hand_untold(decision),
            Mutant::ByHandUnclaimed => bent::by_hand_unclaimed(decision),
            Mutant::TimelinesForgotten => decision.memory.newest_timeline = None,
            Mutant::HistoryUnread => bent::history_unread(decision, view),
            Mutant::NoRewind => bent::no_rewind(decision, view),
            Mutant::NeverFollow => {
                decision.effects.retain(|effect| !matches!(effect, Effect::Follow { upstream: Some(_) }));
            }
        }
    }
}
