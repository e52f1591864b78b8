//! Nobody holds the leader key: may this standby take it?
//!
//! Votes count only once this node's walreceiver is stopped, so that nothing a resurrected leader acknowledges
//! later can be missing from what was compared.

use super::eligibility::{self, Obstacle};
use super::turn::{Turn, Verdict};
use super::{failsafe, pause, primary, promotion, schedule, watchdog};
use crate::clock::{Millis, Tick};
use crate::cluster::{Cluster, FailoverRequest, Initialize, Released, Versioned};
use crate::dcs::DcsCall;
use crate::effect::Effect;
use crate::ids::{LeaseId, Lsn, NodeName, Timeline};
use crate::local::{Receiver, StandbyView};
use crate::peer::{PeerAnswer, PeerStatus, PeerView};
use crate::rule::Rule;

/// How long the others leave the key to a candidate that was named.
const NAMED_CANDIDATE_WAIT: Millis = Millis(5000);
/// How long a vote waits for a peer that was unreachable before it began.
const UNREACHABLE_WAIT: Millis = Millis(300);
/// And if that is the former leader, whose lease is over: it is of no use to anybody.
const DEAD_LEADER_WAIT: Millis = Millis(50);
/// How long a vote waits for a peer that answered until now. A healthy one answers within milliseconds, or after a second if a packet was
/// lost, and one that cannot answer cannot lead either.
const SILENT_WAIT: Millis = Millis(1200);
/// How long an answer counts.
const ANSWER_VALID: Millis = Millis(3000);
/// Time between two rounds of questions while a vote is lost or undecided.
const ROUND_PAUSE: Millis = Millis(500);
/// How long a vote waits for a peer that says it still receives WAL: it has not seen yet that the leader is gone, and what
/// it will have when it stops is not known.
const RECEIVING_WAIT: Millis = Millis(1000);
/// Within this a leader that is alive and writes anything is heard of.
const ARRIVES_WITHIN: Millis = Millis(1000);
/// Time between two questions to such a peer: it stops within milliseconds.
const RECEIVING_PAUSE: Millis = Millis(20);

pub(super) fn decide(turn: &mut Turn<'_>, standby: &StandbyView, cluster: &Cluster) -> Verdict {
    if cluster.initialize == Initialize::Absent && turn.memory.known_peers.is_empty() {
        // A replica never founds a cluster (lesson 124).
        return Verdict::of(Rule::ElectionNotInitialised).soon(1000);
    }
    let gone_at = turn.memory.leader_gone_at.unwrap_or(turn.now());
    // Who was asked for, or to whom the last leader itself handed over.
    let named = asked_for(turn, cluster).or_else(|| announced(turn, cluster)?.candidate.as_ref());
    let am_named = named == Some(turn.me());
    if pause::is_on(turn) && !am_named {
        return Verdict::of(Rule::PauseNoElection).soon(1000);
    }
    if let Some(other) = pause::unbound(turn, cluster) {
        return Verdict::of(Rule::ElectionAwaitingUnbound).because(other.to_string()).soon(1000);
    }
    if let Some(rule) = failsafe::barred(turn) {
        // The last leader may say itself that it leads no more.
        let poll = if rule == Rule::ElectionNotInFailsafe { turn.poll_all(Millis(1000)) } else { None };
        return failsafe::wait(turn, rule).and(poll);
    }
    if let Some(admits) = failsafe::admit(turn, cluster) {
        return Verdict::of(Rule::ElectionAdmitting).with(admits).soon(20);
    }
    if let Some(obstacle) = eligibility::obstacle(turn, standby, cluster, am_named) {
        let verdict = Verdict::of(obstacle.rule()).soon(1000);
        let why = if obstacle == Obstacle::NoWatchdog { watchdog::failure(turn) } else { None };
        return Verdict { because: why, ..verdict };
    }
    if named.is_some() && !am_named && turn.now().since(gone_at) < NAMED_CANDIDATE_WAIT {
        return Verdict::of(Rule::ElectionLeavingToCandidate).soon(500);
    }
    if let Some(verdict) = unleased(turn, cluster) {
        return verdict;
    }
    if !am_named && knows_of_more(turn, standby, cluster, gone_at) {
        let targets = turn.peer_targets();
        let poll = turn.poll(targets, ROUND_PAUSE);
        return Verdict::of(Rule::ElectionAwaitingFormer).and(poll).soon(250);
    }
    if am_named && handed_over(turn, standby, cluster) {
        let acquire = turn.acquire(cluster, promotion::claim_along(turn, standby, cluster));
        return Verdict::of(Rule::ElectionNamed).and(acquire).soon(20);
    }
    if eligibility::may_be_blind(turn, cluster) {
        return wait_for_unknown(cluster);
    }
    if let Some(lease) = eligibility::predecessor(turn, cluster) {
        return wait_for_predecessor(turn, lease);
    }
    if !am_named && still_arrives(turn, standby, gone_at) {
        return Verdict::of(Rule::ElectionWalArrives).soon(250);
    }
    if standby.upstream.is_some() || standby.receiver == Receiver::Streaming {
        turn.memory.voting_since = None;
        return Verdict::of(Rule::ElectionStoppingReceiver).with(Effect::Follow { upstream: None }).soon(5);
    }
    if standby.receiver != Receiver::Stopped {
        return Verdict::of(Rule::ElectionStoppingReceiver).soon(5);
    }
    // Named in a failover that was asked for when the leader was gone: who else is further is the operator's choice (lesson 6).
    let chosen = am_named
        && cluster.failover.as_ref().is_some_and(|request| {
            request.value.leader.is_none()
                && request.value.is_for_now()
                && turn.memory.leader_gone_revision.is_some_and(|gone| request.revision > gone)
        });
    vote(turn, standby, cluster, gone_at, chosen)
}

/// A leader key without a lease stands in everybody's way for ever. A tool that is about to put it on one has a ttl for that, unless it
/// was our own key that it wrote over.
pub(super) fn unleased(turn: &Turn<'_>, cluster: &Cluster) -> Option<Verdict> {
    let created = cluster.unleased_leader?;
    let took_it = turn.last_taken(cluster).is_some_and(|last| last.value.leader == *turn.me());
    let ours = took_it || eligibility::led_until_now(turn);
    let due = ours || turn.passed(turn.memory.leader_gone_at, turn.view.settings.ttl_ms);
    let removal = if due { turn.store(DcsCall::RemoveUnleasedLeader { created }) } else { None };
    Some(Verdict::of(Rule::LeaderKeyUnleased).and(removal).soon(250))
}

/// Whom an operator asked for.
pub(super) fn asked_for<'a>(turn: &Turn<'_>, cluster: &'a Cluster) -> Option<&'a NodeName> {
    let begun = |request: &FailoverRequest| request.is_for_now() || schedule::was_carried_out(turn, request);
    let request = cluster.failover.as_ref().filter(|request| begun(&request.value) && !had_the_key(cluster, request));
    request?.value.member.as_ref()
}

/// Whether the member that was asked for has led since: nobody waits for it a second time.
fn had_the_key(cluster: &Cluster, request: &Versioned<FailoverRequest>) -> bool {
    cluster.last_leader.as_ref().is_some_and(|last| {
        Some(&last.value.leader) == request.value.member.as_ref() && last.revision > request.revision
    })
}

/// The leader itself released the key after its shutdown, naming its end of WAL, and this candidate has all of it:
/// nobody can be ahead.
fn handed_over(turn: &Turn<'_>, standby: &StandbyView, cluster: &Cluster) -> bool {
    let end = standby.received.max(standby.replayed);
    announced(turn, cluster).is_some_and(|released| {
        released.timeline.is_none_or(|timeline| timeline == standby.timeline) && released.is_all_in(end)
    })
}

/// Whether the last leader, which handed over and has everything, is there but cannot stand for election yet: its log ended further than
/// this node's, and it recovers. It is left the time in which a failover would have come about.
fn knows_of_more(turn: &Turn<'_>, standby: &StandbyView, cluster: &Cluster, gone_at: Tick) -> bool {
    let end = standby.received.max(standby.replayed);
    announced(turn, cluster).is_some_and(|released| {
        let there = cluster.members.contains_key(&released.leader) && released.leader != *turn.me();
        let early = turn.now().since(gone_at) < turn.view.settings.ttl_ms;
        there && early && released.end.is_some_and(|last| end < last)
    })
}

/// The release that the last leader announced itself.
pub(super) fn announced<'a>(turn: &Turn<'a>, cluster: &'a Cluster) -> Option<&'a Released> {
    let last = turn.memory.last_leader.as_ref()?;
    turn.last_release(cluster).filter(|released| released.leader == last.name && released.created == last.created)
}

pub(super) fn wait_for_predecessor(turn: &mut Turn<'_>, lease: LeaseId) -> Verdict {
    let check = primary::check_lease(turn, lease);
    let targets = turn.peer_targets();
    let poll = turn.poll(targets, ROUND_PAUSE);
    Verdict::of(Rule::ElectionPredecessorAlive).and(poll).and(check).soon(100)
}

/// Nothing tells whose lease has to end, so that of anybody must.
pub(super) fn wait_for_unknown(cluster: &Cluster) -> Verdict {
    let verdict = Verdict::of(Rule::ElectionPredecessorAlive).soon(250);
    match &cluster.last_leader {
        Some(last) => {
            verdict.because(format!("ha_ext/last_leader, which names {}, may be of an earlier time", last.value.leader))
        }
        None => verdict.because("there is no ha_ext/last_leader".to_owned()),
    }
}

/// Whether somebody still writes what this standby receives, and `primary_race_backoff` is not over. What arrives without growing, as from
/// a leader whose server is idle, holds nobody up for long.
fn still_arrives(turn: &mut Turn<'_>, standby: &StandbyView, gone_at: Tick) -> bool {
    let now = turn.now();
    if standby.receiver != Receiver::Streaming || now.since(gone_at) >= turn.view.settings.primary_race_backoff_ms {
        return false;
    }
    let known = turn.memory.received_since.filter(|(received, _)| *received == standby.received);
    let (_, since) = *turn.memory.received_since.insert(known.unwrap_or((standby.received, now)));
    now.since(since) < ARRIVES_WITHIN
}

/// The state of a vote.
enum Tally {
    Won,
    Waiting,
    PeerIsPrimary,
    PeerAhead,
}

fn vote(turn: &mut Turn<'_>, standby: &StandbyView, cluster: &Cluster, gone_at: Tick, chosen: bool) -> Verdict {
    let now = turn.now();
    if turn.memory.voting_since.is_none() {
        // Ask anew at once: older answers do not count.
        turn.memory.polled_at = None;
    }
    let since = *turn.memory.voting_since.get_or_insert(now);
    let targets = turn.peer_targets();
    let mine = standby.received.max(standby.replayed);
    // Where an operator chose, positions do not count: only that nobody else is a primary.
    let ahead = |name: &NodeName, peer: &PeerStatus| {
        !chosen && counts(turn, cluster, name, gone_at) && beats(turn, peer, name, standby.timeline, mine)
    };
    let tally = count(turn, &targets, since, ahead);
    let backs_off = now.since(gone_at) < turn.view.settings.primary_race_backoff_ms;
    let waits = !chosen && backs_off || now.since(since) < RECEIVING_WAIT;
    let receiving = if waits { receiving(turn, &targets, since) } else { Vec::new() };
    if matches!(tally, Tally::Won | Tally::Waiting) && !receiving.is_empty() {
        let poll = turn.poll(receiving, RECEIVING_PAUSE);
        return Verdict::of(Rule::ElectionVoting).and(poll).soon(20);
    }
    let poll = turn.poll(targets, ROUND_PAUSE);
    match tally {
        Tally::Won => {
            let acquire = turn.acquire(cluster, promotion::claim_along(turn, standby, cluster));
            Verdict::of(Rule::ElectionAcquiring).and(acquire).soon(20)
        }
        Tally::Waiting => Verdict::of(Rule::ElectionVoting).and(poll).soon(20),
        Tally::PeerIsPrimary => Verdict::of(Rule::ElectionPeerIsPrimary).and(poll).soon(250),
        Tally::PeerAhead => Verdict::of(Rule::ElectionPeerAhead).and(poll).soon(250),
    }
}

/// What is asked in maintenance mode for a server that was promoted by hand, and left the cluster's timeline `led` at `left_at`: whether any
/// of the others has more, be it one that may not lead.
pub(super) fn somebody_has_more(turn: &mut Turn<'_>, led: Timeline, left_at: Lsn) -> Option<Verdict> {
    let now = turn.now();
    if turn.memory.voting_since.is_none() {
        turn.memory.polled_at = None;
    }
    let since = *turn.memory.voting_since.get_or_insert(now);
    let targets = turn.peer_targets();
    let ahead = |_: &NodeName, peer: &PeerStatus| {
        let newer = peer.timeline.is_some_and(|on| on > led && !by_hand(turn, on));
        newer || peer.timeline.is_none_or(|on| on == led) && peer.lsn > left_at
    };
    let tally = count(turn, &targets, since, ahead);
    let receiving = now.since(since) < RECEIVING_WAIT && !receiving(turn, &targets, since).is_empty();
    let why = match tally {
        Tally::Won if !receiving => return None,
        Tally::Won | Tally::Waiting => "the other members are asked how far they are".to_owned(),
        Tally::PeerIsPrimary => "another member says that it is a primary".to_owned(),
        Tally::PeerAhead => format!("another member has more than the cluster's log up to {left_at}"),
    };
    let poll = turn.poll(targets, ROUND_PAUSE);
    Some(super::by_hand::wait(why).and(poll).soon(if receiving { 100 } else { 250 }))
}

/// What the others say of themselves in this vote, and whether any of them is `ahead`.
fn count(
    turn: &Turn<'_>,
    targets: &[(NodeName, String)],
    since: Tick,
    ahead: impl Fn(&NodeName, &PeerStatus) -> bool,
) -> Tally {
    let mut tally = Tally::Won;
    for (name, _) in targets {
        let counts_still = |asked_at: Tick| asked_at >= since && turn.now().since(asked_at) < ANSWER_VALID;
        // A question that is still open was perhaps asked before the vote began, and is not asked again before it ends.
        let told = |peer: &&PeerView| peer.answer == PeerAnswer::Pending || counts_still(peer.asked_at);
        let answer = turn.view.peers.iter().filter(|peer| peer.name == *name).find(told);
        match answer.map(|peer| (&peer.answer, peer)) {
            Some((PeerAnswer::Status(status), _)) => {
                // One that was promoted by hand acknowledges nothing before it has the key. In maintenance mode nobody stops it.
                if status.is_primary && !status.timeline.is_some_and(|on| by_hand(turn, on)) {
                    return Tally::PeerIsPrimary;
                }
                if ahead(name, status) {
                    tally = Tally::PeerAhead;
                }
            }
            Some((PeerAnswer::Unreachable(_), _)) => {}
            Some((PeerAnswer::Pending, peer)) if given_up(turn, peer) => {}
            Some((PeerAnswer::Pending, _)) | None => {
                if matches!(tally, Tally::Won) {
                    tally = Tally::Waiting;
                }
            }
        }
    }
    tally
}

/// Those of `targets` that said in this vote that WAL still arrives there.
fn receiving(turn: &Turn<'_>, targets: &[(NodeName, String)], since: Tick) -> Vec<(NodeName, String)> {
    let says_so = |name: &NodeName| {
        turn.view.peers.iter().any(|peer| {
            peer.name == *name
                && peer.asked_at >= since
                && matches!(&peer.answer, PeerAnswer::Status(status) if status.receiving && !status.is_primary)
        })
    };
    targets.iter().filter(|(name, _)| says_so(name)).cloned().collect()
}

/// No peer is waited for long that does not answer; least of all one that was unreachable before the vote began, or a leader of our
/// kind whose lease is over.
fn given_up(turn: &Turn<'_>, peer: &PeerView) -> bool {
    let former = turn.memory.last_leader.as_ref().is_some_and(|leader| leader.name == peer.name);
    let fenced = former && turn.memory.last_leader_fenced;
    let unreachable = turn.memory.unreachable.contains_key(&peer.name);
    let patience = match (fenced, unreachable) {
        (true, true) => DEAD_LEADER_WAIT,
        (true, false) | (false, true) => UNREACHABLE_WAIT,
        (false, false) => SILENT_WAIT,
    };
    // A question from before the vote may have met a peer that was not to be reached then.
    let asked = turn.memory.voting_since.map_or(peer.asked_at, |since| peer.asked_at.max(since));
    turn.now().since(asked) >= patience
}

/// Whether a peer can win this race at all: it is a member now, or was one until just now (lesson 1: the store may
/// have been emptied). One that lost its member key long ago is cut off from the store and must not block others.
fn counts(turn: &Turn<'_>, cluster: &Cluster, name: &NodeName, gone_at: Tick) -> bool {
    cluster.members.contains_key(name) || turn.now().since(gone_at) < turn.view.settings.ttl_ms
}

/// Whether a timeline was made by hand beside a leader. Whoever is on it has left the cluster.
fn by_hand(turn: &Turn<'_>, timeline: Timeline) -> bool {
    turn.view.dcs.newest().is_some_and(|cluster| cluster.is_by_hand(timeline, turn.system_id()))
}

/// A newer timeline wins over a higher LSN: the longer tail of an older one is on a branch the cluster has left. Higher LSN
/// wins over priority (lesson 8); with equal LSN the higher priority, but not the former leader's (lesson 7).
fn beats(turn: &Turn<'_>, peer: &PeerStatus, name: &NodeName, own: Timeline, mine: Lsn) -> bool {
    if !peer.may_lead() {
        return false;
    }
    if let Some(timeline) = peer.timeline
        && timeline != own
    {
        return timeline > own && !by_hand(turn, timeline);
    }
    if peer.lsn != mine {
        return peer.lsn > mine;
    }
    let former = turn.memory.last_leader.as_ref().is_some_and(|leader| leader.name == *name);
    // Who is not written down in failsafe mode may have to wait until it is: not for its priority.
    let listed = turn.memory.failsafe.map.as_ref().is_none_or(|map| map.value.contains_key(name));
    !former && listed && peer.tags.failover_priority() > turn.view.settings.tags.failover_priority()
}
