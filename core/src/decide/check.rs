//! The invariants of a decision, asserted in tests and in production: a broken one means stop acting, let the
//! lease lapse, shout.

use super::Decision;
use crate::dcs::DcsCall;
use crate::effect::{Effect, StartRole, Step};
use crate::local::{Server, StandbyView};
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

impl Decision {
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
            match effect {
                Effect::OpenFence { lease }
                | Effect::Promote { lease, .. }
                | Effect::Run(Step::Start { role: StartRole::Primary { lease } }) => {
                    if self.memory.lease != Some(*lease) || !lease.valid_at(view.now) {
                        return Err(Violation::WithoutLease);
                    }
                }
                Effect::Dcs(DcsCall::ReleaseLeader { .. }) if may_acknowledge(&view.local.server) => {
                    return Err(Violation::ReleaseBeforeDemotion);
                }
                Effect::CloseFence => sealed = true,
                Effect::Demote { .. } if !sealed => return Err(Violation::DemotionBeforeSeal),
                Effect::Dcs(_)
                | Effect::PollPeers { .. }
                | Effect::Demote { .. }
                | Effect::Checkpoint
                | Effect::Park
                | Effect::Unpark
                | Effect::Seal
                | Effect::Unseal
                | Effect::Freeze
                | Effect::ServeReads
                | Effect::Follow { .. }
                | Effect::Run(_)
                | Effect::Exit { .. } => {}
            }
            role_changes += usize::from(matches!(effect, Effect::Promote { .. } | Effect::Demote { .. }));
        }
        let promotes_again = matches!(view.local.server, Server::Standby(StandbyView { promoting: true, .. }))
            && self.effects.iter().any(|effect| matches!(effect, Effect::Promote { .. }));
        if role_changes > 1 || promotes_again {
            return Err(Violation::TwoRoleChanges);
        }
        Ok(())
    }
}
