//! Servers that somebody promoted by hand while another node led: they have left the cluster, with a timeline that looks newer than the
//! cluster's.

use super::turn::Turn;
use super::{duties, pause, rejoin};
use crate::cluster::{Initialize, TimelineClaim};
use crate::effect::Effect;
use crate::ids::{Lsn, Timeline};
use crate::local::{Receiver, Server};
use crate::timeline::{Branch, WalEnd};

/// Says so in the store, as long as there is a leader to compare with: nobody takes that timeline for the cluster's, or makes it again.
pub(super) fn tell(turn: &Turn<'_>) -> Option<Effect> {
    let cluster =
        turn.fresh().filter(|cluster| cluster.initialize != Initialize::Absent && pause::only_our_kind(cluster))?;
    let session = turn.memory.session.filter(|_| turn.memory.lease.is_none())?;
    let (_, member) = cluster.leader_member().filter(|(leader, _)| leader.name != *turn.me())?;
    let (timeline, lsn) = on_own_branch(turn)?;
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
