//! Servers that somebody promoted by hand while another node led: they have left the cluster, with a timeline that looks newer than the
//! cluster's.

use super::turn::Turn;
use super::{duties, pause, rejoin};
use crate::cluster::{Initialize, TimelineClaim};
use crate::effect::Effect;
use crate::ids::{Lsn, Timeline};
use crate::local::{Receiver, Server};
use crate::timeline::{Branch, WalEnd};

/// Notices it, and nothing less is proof: what else looks like it may be the cluster's own timeline, in a store that somebody put back as it
/// was before that was made.
pub(super) fn observe(turn: &mut Turn<'_>) {
    let leads = turn.memory.lease.is_some();
    let known = turn.memory.newest_timeline.filter(|(of, _)| Some(*of) == turn.system_id()).map(|(_, newest)| newest);
    match &turn.view.local.server {
        Server::Standby(standby) => {
            // One that holds the key may have been told to promote.
            turn.memory.standby_on = (!leads).then_some(standby.timeline);
            turn.memory.by_hand = turn.memory.by_hand.filter(|on| *on == standby.timeline);
        }
        Server::Primary(primary) => {
            let was_standby = turn.memory.standby_on.take().is_some_and(|before| primary.timeline > before);
            let made = (was_standby && known < Some(primary.timeline)).then_some(primary.timeline);
            turn.memory.by_hand = made.or(turn.memory.by_hand).filter(|on| !leads && *on == primary.timeline);
        }
        // Whatever it was before, somebody may start it as another.
        Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover => {
            turn.memory.standby_on = None;
        }
    }
}

/// Says so in the store, as long as there is a leader to compare with: nobody takes that timeline for the cluster's, or makes it again.
pub(super) fn tell(turn: &Turn<'_>) -> Option<Effect> {
    let cluster =
        turn.fresh().filter(|cluster| cluster.initialize != Initialize::Absent && pause::only_our_kind(cluster))?;
    let session = turn.memory.session.filter(|_| turn.memory.lease.is_none())?;
    let (_, member) = cluster.leader_member().filter(|(leader, _)| leader.name != *turn.me())?;
    let (timeline, lsn) = on_own_branch(turn).filter(|(timeline, _)| turn.memory.by_hand == Some(*timeline))?;
    let known = cluster.claims.contains_key(&timeline) || cluster.history_timeline() >= Some(timeline);
    // What is led is shown once its history is there.
    let older = member.timeline.is_some_and(|led| timeline.is_plausibly_after(led));
    if known || !older {
        return None;
    }
    let along = duties::claim_along(turn, cluster, timeline, lsn);
    let record = TimelineClaim { by_hand: true, ..along.record(turn.me(), session) };
    turn.write(along.key(), Some(record.text()), along.expect)
}

/// The end of WAL of a primary without a lease, or of a standby that does not follow because it diverged.
fn on_own_branch(turn: &Turn<'_>) -> Option<(Timeline, Lsn)> {
    match &turn.view.local.server {
        Server::Primary(primary) => Some((primary.timeline, primary.flushed)),
        Server::Standby(standby) if standby.receiver != Receiver::Streaming && !standby.promoting => {
            let end = WalEnd::Received(standby.replayed);
            let diverged = rejoin::compare(turn.fresh()?, turn.control(), standby.timeline, end) == Branch::Diverged;
            diverged.then(|| (standby.timeline, standby.received.max(standby.replayed)))
        }
        Server::Standby(_) | Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover => {
            None
        }
    }
}
