//! Servers that somebody promoted by hand while another node led: they have left the cluster, with a timeline that looks newer than the
//! cluster's.

use super::turn::{Turn, Verdict};
use super::{duties, election, pause, rejoin};
use crate::cluster::{Cluster, Initialize, Released, TimelineClaim};
use crate::effect::Effect;
use crate::ids::{Lsn, Timeline};
use crate::local::{PrimaryView, Receiver, Server};
use crate::rule::Rule;
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
            // What a primary was told is no vote of a standby.
            turn.memory.voting_since = None;
        }
    }
}

/// Says so in the store, as long as there is a leader to compare with, or it had left before: nobody takes that timeline for the cluster's, or
/// makes it again.
pub(super) fn tell(turn: &Turn<'_>) -> Option<Effect> {
    let cluster =
        turn.fresh().filter(|cluster| cluster.initialize != Initialize::Absent && pause::only_our_kind(cluster))?;
    let session = turn.memory.session.filter(|_| turn.memory.lease.is_none())?;
    let (timeline, lsn) = on_own_branch(turn).filter(|(timeline, _)| turn.memory.by_hand == Some(*timeline))?;
    let beside = cluster.leader.as_ref().map(|leader| &leader.name);
    if beside.map_or(!has_left(turn, cluster, timeline), |leader| leader == turn.me()) {
        return None;
    }
    let known = cluster.claims.contains_key(&timeline) || cluster.history_timeline() >= Some(timeline);
    // What is led is shown once its history is there; a leader whose server does not run shows none, and goes on with what it had.
    let led = cluster.leader_member().and_then(|(_, member)| member.timeline);
    if known || led.is_some_and(|led| !timeline.is_plausibly_after(led)) {
        return None;
    }
    let along = duties::claim_along(turn, cluster, timeline, lsn);
    let record = TimelineClaim { by_hand: true, ..along.record(turn.me(), session) };
    turn.write(along.key(), Some(record.text()), along.expect)
}

/// Whether this server, which is on `timeline`, has left the cluster: somebody promoted it by hand beside a leader, or it was and then somebody
/// promoted it again, whether anybody led by then or not.
pub(super) fn has_left(turn: &Turn<'_>, cluster: &Cluster, timeline: Timeline) -> bool {
    let system = turn.system_id();
    if cluster.claims_of(system).any(|(claimed, _)| claimed == timeline) {
        return cluster.is_by_hand(timeline, system);
    }
    let led = |ancestor: Timeline| cluster.history.iter().any(|row| row.timeline == ancestor);
    let ancestors = turn.view.local.history.iter().map(|(ancestor, _)| *ancestor);
    ancestors.filter(|ancestor| *ancestor < timeline).any(|on| cluster.is_by_hand(on, system) && !led(on))
}

/// The end of WAL of a primary without a lease, of the server that it was before it was stopped, or of a standby that does not follow because
/// it diverged.
fn on_own_branch(turn: &Turn<'_>) -> Option<(Timeline, Lsn)> {
    match &turn.view.local.server {
        Server::Primary(primary) => Some((primary.timeline, primary.flushed)),
        Server::Standby(standby) if standby.receiver != Receiver::Streaming && !standby.promoting => {
            let end = WalEnd::Received(standby.replayed);
            let diverged = rejoin::compare(turn.fresh()?, turn.control(), standby.timeline, end) == Branch::Diverged;
            diverged.then(|| (standby.timeline, standby.received.max(standby.replayed)))
        }
        Server::Down => turn.control().map(|control| (control.timeline, control.checkpoint)),
        Server::Standby(_) | Server::Starting { .. } | Server::Stopping { .. } | Server::Leftover => None,
    }
}

/// What keeps such a server from taking the leader key in maintenance mode, where nobody else stands for election: somebody else was asked
/// for, or the leader that it left has written since. Who is asked for by name leads, whatever he lacks.
pub(super) fn waits(turn: &mut Turn<'_>, primary: &PrimaryView, cluster: &Cluster) -> Option<Verdict> {
    let asked_for = election::asked_for(turn, cluster);
    if !has_left(turn, cluster, primary.timeline) || asked_for == Some(turn.me()) {
        return None;
    }
    let announced = || election::announced(turn, cluster)?.candidate.as_ref();
    if let Some(other) = asked_for.or_else(announced).filter(|other| *other != turn.me()) {
        return Some(wait(format!("{other} was named")));
    }
    let Some((led, left_at)) = left_at(turn, primary, cluster) else {
        return Some(wait("where it left the cluster's timeline has not been read yet".to_owned()));
    };
    let released = turn.last_release(cluster).filter(|released| released.timeline.is_none_or(|ended| ended == led));
    let ended = released.and_then(Released::position);
    if let Some(written) = cluster.status.optime.max(ended).filter(|written| *written > left_at) {
        return Some(wait(format!(
            "the last leader has written up to {written}, and this server left it at {left_at}"
        )));
    }
    if ended.is_some() {
        return None;
    }
    // Where it ended is not known: perhaps a member has more than it told.
    election::somebody_has_more(turn, led, left_at)
}

pub(super) fn wait(why: String) -> Verdict {
    Verdict::of(Rule::PauseByHand).with(Effect::CloseFence).because(why).soon(1000)
}

/// Where this server left the cluster's timeline: what it made by hand since is none of the cluster's.
fn left_at(turn: &Turn<'_>, primary: &PrimaryView, cluster: &Cluster) -> Option<(Timeline, Lsn)> {
    let ancestors = turn.view.local.history.iter().filter(|(timeline, _)| *timeline < primary.timeline);
    ancestors.rev().find(|(timeline, _)| !cluster.is_by_hand(*timeline, turn.system_id())).copied()
}
