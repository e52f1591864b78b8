//! The planned hand-over in place: prepare, hold commits, end the log, wait until the candidate has all of it, release.
//!
//! Everything before the release can be undone without an error for any client; nothing after it can.

use super::switchover::{self, Progress};
use super::turn::{Turn, Verdict};
use super::{in_place, lease, release, schedule, watchdog};
use crate::clock::{Millis, Tick};
use crate::cluster::Cluster;
use crate::effect::{DemoteMethod, Effect};
use crate::ids::{Lsn, NodeName, Revision, Timeline};
use crate::lease::Lease;
use crate::local::{PrimaryView, Seal, Server, StandbyConnection};
use crate::memory::Stage;
use crate::rule::Rule;
use crate::seat::LeaveReason;
use crate::view::DcsView;

/// How long the files and settings may take: two fsyncs and a reload.
const PARK_WAIT: Millis = Millis(5000);
/// How long the candidate's replay and the archiver may take to come near, while commits go on.
const CALM_WAIT: Millis = Millis(15_000);
/// What is left to replay when commits begin to be held goes into the write gap one to one.
const REPLAY_NEAR_BYTES: u64 = 16 << 20;
/// So does what the candidate has not flushed yet, and what others have not if they share a disk with it. Under load there is always
/// something: this is not waited for long.
const SEND_NEAR_BYTES: u64 = 1 << 20;
const SEND_WAIT: Millis = Millis(150);
/// After this long commits are not held any more, whatever held that up.
pub(super) const PARKING_MAX: Millis = Millis(CALM_WAIT.0 + 5000);
/// How long commits that had begun may take: one may wait for a synchronous standby.
const DRAIN_WAIT: Millis = Millis(2000);
/// How long the candidate may take for what is left of the log.
const CONFIRM_WAIT: Millis = Millis(1000);

/// How long the old leader stays as it is, so that its clients are told where to go when they can: recovery here would take processor and
/// disk from a successor beside it, and clients that are told earlier would only ask servers that must refuse them.
const SUCCESSOR_WAIT: Millis = Millis(500);
/// How long the archiver may take for what is left if the supervisor died after the release was sent. Commits are held meanwhile, and should
/// the candidate be gone nobody else leads as long as this is a primary.
const ARCHIVE_WAIT: Millis = Millis(2000);

/// What [`Stage::Sealing`] holds.
struct Sealing {
    candidate: NodeName,
    since: Tick,
    sealed_at: Option<Tick>,
    frozen_at: Option<Tick>,
}

/// Begins: nothing is held yet.
pub(super) fn begin(turn: &mut Turn<'_>, request: Revision, candidate: NodeName) -> Verdict {
    turn.memory.stage = Stage::Sealing { request, candidate, since: turn.now(), sealed_at: None, frozen_at: None };
    Verdict::of(Rule::SwitchoverParking).with(Effect::Park).soon(2)
}

/// Commits are held, or about to be.
pub(super) fn holds_commits(turn: &Turn<'_>) -> bool {
    matches!(turn.memory.stage, Stage::Sealing { sealed_at: Some(_), .. })
}

/// Nothing may be sent to the store for which a release or a demotion would have to wait.
pub(super) fn needs_quiet(turn: &Turn<'_>) -> bool {
    let leaves = turn.memory.stage.in_place() && matches!(turn.view.local.server, Server::Primary(_));
    leaves || holds_commits(turn)
}

/// `None` unless it is under way.
pub(super) fn go_on(turn: &mut Turn<'_>, cluster: &Cluster, primary: &PrimaryView, lease: Lease) -> Option<Verdict> {
    let Stage::Sealing { request, candidate, since, sealed_at, frozen_at } = turn.memory.stage.clone() else {
        return None;
    };
    let Some(asked) = cluster.failover.as_ref().filter(|asked| asked.revision == request) else {
        turn.memory.stage = Stage::Steady;
        return Some(Verdict::of(Rule::SwitchoverWithdrawn).and(undo(primary)));
    };
    if sealed_at.is_none()
        && let Some(reason) = schedule::overtaken(turn, &asked.value, since, PARKING_MAX)
    {
        return Some(switchover::reject(turn, primary, request, reason));
    }
    let sealing = Sealing { candidate, since, sealed_at, frozen_at };
    Some(match step(turn, cluster, primary, lease, sealing) {
        Ok(verdict) => verdict,
        Err(reason) => switchover::reject(turn, primary, request, reason),
    })
}

/// What cannot be released must not be held, and what only waits must not be found too late.
pub(super) fn store_lost(turn: &mut Turn<'_>, primary: &PrimaryView) -> Option<Verdict> {
    let request = match turn.memory.stage {
        Stage::Sealing { request, .. } => request,
        Stage::Preparing { request, .. } if lost_for(turn) >= schedule::latest(turn) => request,
        _ => return None,
    };
    turn.memory.rejected = Some((request, "the store went out of reach".to_owned()));
    turn.memory.stage = Stage::Steady;
    Some(Verdict::of(Rule::SwitchoverStoreLost).and(undo(primary)).soon(10))
}

fn lost_for(turn: &Turn<'_>) -> Millis {
    match turn.view.dcs {
        DcsView::Unreachable { since, .. } => turn.now().since(since),
        DcsView::Fresh(_) => Millis(0),
    }
}

/// What takes back a preparation, as far as it went. Not for one whose release was sent.
pub(super) fn undo(primary: &PrimaryView) -> Vec<Effect> {
    let sealed = (primary.seal != Seal::Open).then_some(Effect::Unseal);
    let parked = primary.in_place.marked.then_some(Effect::Unpark);
    sealed.into_iter().chain(parked).collect()
}

/// The next step, or why it is given up.
fn step(
    turn: &mut Turn<'_>,
    cluster: &Cluster,
    primary: &PrimaryView,
    lease: Lease,
    sealing: Sealing,
) -> Result<Verdict, String> {
    if let Some(obstacle) = in_place::obstacle(turn, primary) {
        return Err(format!("this server cannot become a standby in place: {obstacle}"));
    }
    let candidate = &sealing.candidate;
    let progress = switchover::may_take_over(turn, cluster, primary, candidate, true)?;
    if !progress.streaming {
        return Err(format!("{candidate} does not stream any more"));
    }
    match (primary.seal, sealing.sealed_at) {
        (Seal::Open, None) => prepare(turn, primary, lease, &sealing, progress),
        (_, None) => {
            // Left from an attempt that was given up.
            Ok(Verdict::of(Rule::SwitchoverParking).with(Effect::Unseal).soon(2))
        }
        (Seal::Open | Seal::Holding { .. }, Some(sealed_at)) => drain(turn, primary, lease, sealed_at),
        (Seal::Frozen { at }, Some(_)) => confirm(turn, primary, lease, sealing, at),
    }
}

/// Commits go on: files, settings, a candidate that is near, nothing that waits for the archiver, and a long lease.
fn prepare(
    turn: &mut Turn<'_>,
    primary: &PrimaryView,
    lease: Lease,
    sealing: &Sealing,
    progress: Progress,
) -> Result<Verdict, String> {
    let waited = turn.now().since(sealing.since);
    let parking = Verdict::of(Rule::SwitchoverParking);
    if !primary.in_place.parked {
        let late = waited >= PARK_WAIT;
        return if late {
            Err("this server could not be prepared in time".to_owned())
        } else {
            Ok(parking.with(Effect::Park).soon(2))
        };
    }
    let replay = primary.flushed.ahead_of(progress.replayed);
    let unarchived = archive_holds_up(turn, primary);
    let behind = |standby: &StandbyConnection| primary.flushed.ahead_of(standby.flushed) > SEND_NEAR_BYTES;
    if waited < SEND_WAIT && primary.standbys.iter().any(|standby| standby.streaming && behind(standby)) {
        return Ok(parking.soon(2));
    }
    if replay > REPLAY_NEAR_BYTES || unarchived {
        if waited < CALM_WAIT {
            return Ok(parking.soon(10));
        }
        let replays = format!("{} has {replay} bytes left to replay", sealing.candidate);
        return Err(if unarchived { "WAL waits for the archiver".to_owned() } else { replays });
    }
    if turn.view.dcs_busy || !lease::outlasts(turn, &lease, Millis(DRAIN_WAIT.0 + CONFIRM_WAIT.0)) {
        let renew = lease::renew_now(turn);
        return if waited >= CALM_WAIT {
            Err("the store is too slow".to_owned())
        } else {
            Ok(parking.and(renew).soon(2))
        };
    }
    let now = turn.now();
    if let Stage::Sealing { sealed_at, .. } = &mut turn.memory.stage {
        *sealed_at = Some(now);
    }
    Ok(Verdict::of(Rule::SwitchoverSealing).with(Effect::Seal).soon(1))
}

/// Commits are held; those that had passed before end.
fn drain(turn: &Turn<'_>, primary: &PrimaryView, lease: Lease, sealed_at: Tick) -> Result<Verdict, String> {
    long_enough(turn, lease)?;
    let late = turn.now().since(sealed_at) >= DRAIN_WAIT;
    match primary.seal {
        Seal::Holding { in_flight } if in_flight > 0 && late => Err(format!("{in_flight} commits did not end in time")),
        _ if late => Err("the log could not be ended in time".to_owned()),
        Seal::Holding { in_flight: 0 } => Ok(Verdict::of(Rule::SwitchoverFreezing).with(Effect::Freeze).soon(1)),
        Seal::Holding { .. } => Ok(Verdict::of(Rule::SwitchoverSealing).soon(1)),
        Seal::Open | Seal::Frozen { .. } => Ok(Verdict::of(Rule::SwitchoverSealing).with(Effect::Seal).soon(1)),
    }
}

/// The log has ended at `at`.
fn confirm(
    turn: &mut Turn<'_>,
    primary: &PrimaryView,
    lease: Lease,
    sealing: Sealing,
    at: Lsn,
) -> Result<Verdict, String> {
    long_enough(turn, lease)?;
    let now = turn.now();
    let since = sealing.frozen_at.unwrap_or(now);
    if let Stage::Sealing { frozen_at, .. } = &mut turn.memory.stage {
        *frozen_at = Some(since);
    }
    let waiting = match (has_all(primary, &sealing.candidate, at), archive_holds_up(turn, primary)) {
        (false, _) => Some(format!("{} did not receive the end of the log in time", sealing.candidate)),
        (true, true) => Some("WAL waits for the archiver".to_owned()),
        (true, false) => None,
    };
    match waiting {
        Some(reason) if now.since(since) >= CONFIRM_WAIT => Err(reason),
        Some(_) => Ok(Verdict::of(Rule::SwitchoverConfirming).soon(1)),
        None if turn.view.dcs_busy => Ok(Verdict::of(Rule::SwitchoverConfirming).soon(1)),
        None => {
            let Sealing { candidate, .. } = sealing;
            let verdict = release::hand_over(turn, lease, &candidate, at, primary.timeline);
            if verdict.closed() {
                turn.memory.stage = Stage::HandingOver { candidate, at, timeline: primary.timeline, since: now };
                return Ok(verdict);
            }
            // The last request failed a moment ago: not yet.
            Ok(Verdict::of(Rule::SwitchoverConfirming).soon(1))
        }
    }
}

/// WAL waits for the archiver, and nobody else would see to it.
fn archive_holds_up(turn: &Turn<'_>, primary: &PrimaryView) -> bool {
    primary.archive_waiting && !switchover::supervised(turn)
}

fn long_enough(turn: &Turn<'_>, lease: Lease) -> Result<(), String> {
    if lease::enough_left(turn, &lease) { Ok(()) } else { Err("the lease is about to end".to_owned()) }
}

/// Whether the candidate has flushed everything up to `at`, as its own connection says.
pub(super) fn has_all(primary: &PrimaryView, candidate: &NodeName, at: Lsn) -> bool {
    let slot = candidate.slot_name();
    primary.standbys.iter().any(|standby| standby.slot == slot && standby.streaming && standby.flushed >= at)
}

/// The release was sent. While its outcome is unknown it is asked for again; the lease is never renewed.
pub(super) fn after_release(turn: &mut Turn<'_>, primary: &PrimaryView) -> Verdict {
    let Stage::HandingOver { candidate, at, timeline, since } = turn.memory.stage.clone() else {
        return Verdict::of(Rule::HandOverReleasing).with(Effect::CloseFence);
    };
    // The supervisor asks for it once more, when the server is on its way to a standby.
    let in_haste = watchdog::is_due(turn);
    if let Some(lease) = turn.memory.lease
        && lease.valid_at(turn.now())
        && !in_haste
    {
        return release::hand_over(turn, lease, &candidate, at, timeline);
    }
    // The supervisor that was to see to it died since, and a standby does not archive. A server that is stopped keeps it.
    let unarchived = archive_holds_up(turn, primary);
    if unarchived && !in_haste && turn.now().since(since) < ARCHIVE_WAIT {
        let waits = Verdict::of(Rule::HandOverAwaiting).with(Effect::CloseFence).soon(100);
        return waits.because("WAL waits for the archiver".to_owned());
    }
    let in_place = primary.in_place.parked && !unarchived && in_place::obstacle(turn, primary).is_none();
    let known = turn.memory.lease.is_none();
    let early = turn.now().since(since) < SUCCESSOR_WAIT && !turn.view.stop_requested;
    if known && in_place && early && !successor_leads(turn, timeline) {
        return Verdict::of(Rule::HandOverAwaiting).with(Effect::CloseFence).soon(20);
    }
    if known || !in_place {
        turn.memory.stage = Stage::Demoting {
            // With an unknown outcome nothing may be called off any more.
            candidate: known.then_some(candidate),
            release: !known,
            since: turn.now(),
            down_since: None,
            in_place,
        };
    }
    let method = if in_place { DemoteMethod::InPlace } else { DemoteMethod::Restart };
    let demote = Effect::Demote { reason: LeaveReason::Switchover, method };
    Verdict::of(Rule::DemotionInPlace).with(Effect::CloseFence).with(demote).soon(1000)
}

/// Whether another member leads: it says so, or has published where it branched off.
fn successor_leads(turn: &Turn<'_>, timeline: Timeline) -> bool {
    turn.fresh().is_some_and(|cluster| {
        let leader = cluster.leader.as_ref().filter(|leader| leader.name != *turn.me());
        leader.is_some_and(|leader| {
            let says_so = cluster.members.get(&leader.name).is_some_and(|member| member.role == "primary");
            says_so || cluster.history.iter().any(|row| row.timeline == timeline)
        })
    })
}
