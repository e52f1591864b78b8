//! Deliberately broken drivers and decisions. Each must be caught: an invariant that no mutant breaks proves nothing.

use crate::clock::Millis;
use crate::clock::Tick;
use crate::cluster::Released;
use crate::dcs::{DcsCall, Key};
use crate::decide::Decision;
use crate::effect::{Effect, StartRole, Step};
use crate::ids::Revision;
use crate::lease::Lease;
use crate::local::Server;
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
    /// The timeline is not claimed.
    NoClaim,
    /// A diverged node is started as it is.
    NoRewind,
    /// Standbys are never pointed at a new leader.
    NeverFollow,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 11] = [
        Mutant::LateDeadline,
        Mutant::DeadlineFromAnswer,
        Mutant::ReleaseBeforeStop,
        Mutant::PromoteWithoutLease,
        Mutant::NoVote,
        Mutant::VoteWhileReceiving,
        Mutant::IgnorePredecessor,
        Mutant::TakeBlindly,
        Mutant::NoClaim,
        Mutant::NoRewind,
        Mutant::NeverFollow,
    ];

    /// The deadline this mutant stores for `lease`.
    pub(super) fn deadline(self, lease: &Lease, now: Tick) -> Tick {
        match self {
            Mutant::LateDeadline => lease.deadline() + Millis(2000),
            Mutant::DeadlineFromAnswer => Lease { sent_at: now, ..*lease }.deadline(),
            _ => lease.deadline(),
        }
    }

    /// What this mutant makes of a decision.
    pub(super) fn bend(self, decision: &mut Decision, view: &View<'_>) {
        match self {
            Mutant::LateDeadline | Mutant::DeadlineFromAnswer => {}
            Mutant::ReleaseBeforeStop => release_before_stop(decision, view),
            Mutant::PromoteWithoutLease => promote_without_lease(decision, view),
            Mutant::NoVote => {
                let voting = [Rule::ElectionVoting, Rule::ElectionPeerAhead, Rule::ElectionStoppingReceiver];
                if voting.contains(&decision.rule) {
                    acquire(decision, view);
                }
            }
            Mutant::VoteWhileReceiving => {
                if decision.rule == Rule::ElectionStoppingReceiver {
                    decision.memory.voting_since = Some(view.now);
                    acquire(decision, view);
                }
            }
            Mutant::IgnorePredecessor => {
                if decision.rule == Rule::ElectionPredecessorAlive {
                    acquire(decision, view);
                }
            }
            Mutant::TakeBlindly => {
                let recorded = view.dcs.fresh().is_none_or(|cluster| cluster.last_leader.is_some());
                if decision.rule == Rule::ElectionPredecessorAlive && !recorded {
                    acquire(decision, view);
                }
            }
            Mutant::NoClaim => no_claim(decision, view),
            Mutant::NoRewind => {
                for effect in &mut decision.effects {
                    if let Effect::Run(Step::Rewind { from } | Step::BaseBackup { from }) = effect
                        && matches!(view.local.data, crate::local::DataDir::Present(_))
                    {
                        let upstream = Some(from.clone());
                        *effect = Effect::Run(Step::Start { role: StartRole::Standby { upstream } });
                    }
                }
            }
            Mutant::NeverFollow => {
                decision.effects.retain(|effect| !matches!(effect, Effect::Follow { upstream: Some(_) }));
            }
        }
    }
}

fn acquire(decision: &mut Decision, view: &View<'_>) {
    if !view.dcs_busy {
        let seen = view.dcs.newest().map_or(Revision(0), |cluster| cluster.revision);
        decision.effects = vec![Effect::Dcs(DcsCall::AcquireLeader { seen })];
    }
}

fn release_before_stop(decision: &mut Decision, view: &View<'_>) {
    let Some(lease) = decision.memory.lease else { return };
    if decision.rule == Rule::SwitchoverHandingOver && !view.dcs_busy {
        let announce = Released::by(view.me.clone(), lease.id, lease.leader_created);
        decision.effects = vec![Effect::Dcs(DcsCall::ReleaseLeader { lease, announce, status: None })];
    }
}

fn promote_without_lease(decision: &mut Decision, view: &View<'_>) {
    if let Server::Standby(standby) = &view.local.server
        && decision.rule == Rule::ElectionAcquiring
    {
        let lease = Lease::confirmed(crate::ids::LeaseId(7), crate::ids::Revision(7), view.now, Millis(5000));
        let timeline = crate::ids::Timeline(standby.timeline.0 + 1);
        decision.effects = vec![Effect::Promote { lease, timeline, skip: Vec::new() }];
    }
}

fn no_claim(decision: &mut Decision, view: &View<'_>) {
    let Some(lease) = decision.memory.lease else { return };
    let claims = decision
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Dcs(DcsCall::Write(edit)) if matches!(edit.key, Key::TimelineClaim(_))));
    if let Server::Standby(standby) = &view.local.server
        && claims
        && lease.valid_at(view.now)
    {
        let timeline = crate::ids::Timeline(standby.timeline.0 + 1);
        decision.effects = vec![Effect::Promote { lease, timeline, skip: Vec::new() }];
    }
}
