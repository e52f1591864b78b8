//! The server is down and nothing has to be released: what becomes of the data directory?

use super::turn::{Standing, Turn, Verdict};
use super::{election, eligibility, failsafe, outside, primary, rejoin, release, watchdog};
use crate::clock::Millis;
use crate::cluster::{Cluster, Initialize, LeaderKey};
use crate::dcs::{DcsCall, Expect, Key, KeyEdit};
use crate::effect::{StartRole, Step};
use crate::lease::Lease;
use crate::local::{Control, ControlState, DataDir, Upstream};
use crate::memory::Stage;
use crate::rule::Rule;
use crate::timeline::{Branch, WalEnd};
use crate::view::DcsView;

pub(super) fn decide(turn: &mut Turn<'_>) -> Verdict {
    if let Some(verdict) = left_behind(turn) {
        return verdict;
    }
    let verdict = match &turn.view.local.data {
        DataDir::Empty => empty(turn),
        DataDir::Damaged { half_copied, ours, .. } => damaged(turn, *half_copied, *ours),
        DataDir::Present(control) => present(turn, control),
    };
    // Whoever waits for that may be the only one with data.
    let admits = if verdict.closed() { None } else { failsafe::admit_while_down(turn) };
    verdict.and(admits)
}

/// Nothing to lead with, but the leader key hangs on the lease that this node keeps alive: the answer that would have said so was lost.
fn left_behind(turn: &Turn<'_>) -> Option<Verdict> {
    let leader = turn.fresh()?.leader.as_ref()?;
    let kept = leader.name == *turn.me() && turn.memory.session == Some(leader.lease);
    if !kept || turn.memory.bootstrapping || matches!(turn.view.local.data, DataDir::Present(_)) {
        return None;
    }
    let lease = Lease::confirmed(leader.lease, leader.created, turn.now(), Millis(0));
    Some(release::data_lost(turn, lease))
}

fn empty(turn: &mut Turn<'_>) -> Verdict {
    let Some(cluster) = turn.fresh() else { return Verdict::of(Rule::DataWaitingForStore).soon(1000) };
    if turn.memory.bootstrapping {
        return if turn.memory.bootstrap_failed { abandon_bootstrap(turn) } else { initdb(turn) };
    }
    match cluster.initialize {
        // The key was deleted: a cluster that somebody led has data somewhere.
        Initialize::Absent if turn.memory.last_leader.as_ref().is_some_and(|last| last.name != *turn.me()) => {
            Verdict::of(Rule::CopyWaitingForLeader).soon(1000)
        }
        Initialize::Absent
            if turn.memory.bootstrap_failed
                && !turn.passed(turn.memory.step_failed_at, turn.view.settings.loop_wait_ms) =>
        {
            Verdict::of(Rule::BootstrapFailed).soon(1000)
        }
        Initialize::Absent if eligibility::may_be_refounding(turn, cluster) => {
            Verdict::of(Rule::ElectionPredecessorAlive).soon(250)
        }
        // It would lead at once, and be the only one with everything.
        Initialize::Absent if turn.view.settings.tags.nofailover() => {
            Verdict::of(Rule::ElectionNotAllowed).because(NOFAILOVER.to_owned()).soon(1000)
        }
        Initialize::Absent if watchdog::failure(turn).is_some() => no_watchdog(turn),
        Initialize::Absent => race(turn),
        Initialize::Running if founds(turn, cluster) => {
            // Our own race, won by a request whose answer was lost.
            turn.memory.bootstrapping = true;
            turn.memory.bootstrap_failed = false;
            initdb(turn)
        }
        Initialize::Running => Verdict::of(Rule::BootstrapByAnother).soon(1000),
        Initialize::Done(_) => copy(turn, cluster),
    }
}

fn race(turn: &Turn<'_>) -> Verdict {
    let edit = KeyEdit { key: Key::Initialize, value: Some(String::new()), expect: Expect::Absent, leased: true };
    Verdict::of(Rule::BootstrapRacing).and(turn.store(DcsCall::Write(edit))).soon(100)
}

/// Whether it is this node that is founding the cluster, and not only by a view from before it gave that up.
fn founds(turn: &Turn<'_>, cluster: &Cluster) -> bool {
    let ours = cluster.initialize_lease.is_some_and(|lease| Some(lease) == turn.memory.session);
    cluster.initialize == Initialize::Running && ours && !turn.behind()
}

/// Why a member founds no cluster.
const NOFAILOVER: &str = "the tags of this member (nofailover, failover_priority) do not let it found the cluster";

/// It would found a cluster that it may not lead.
fn no_watchdog(turn: &Turn<'_>) -> Verdict {
    Verdict { because: watchdog::failure(turn), ..Verdict::of(Rule::ElectionNoWatchdog).soon(250) }
}

fn initdb(turn: &Turn<'_>) -> Verdict {
    Verdict::of(Rule::BootstrapInitialising).and(turn.run(Step::Initdb)).soon(500)
}

/// A failed bootstrap frees the key for others and keeps what it made out of the way.
fn abandon_bootstrap(turn: &mut Turn<'_>) -> Verdict {
    let Some(cluster) = turn.fresh() else { return Verdict::of(Rule::BootstrapFailed).soon(250) };
    let free = match (cluster.initialize, cluster.initialize_changed) {
        (Initialize::Running, Some(revision)) => turn.write(Key::Initialize, None, Expect::Unchanged(revision)),
        (Initialize::Running | Initialize::Absent | Initialize::Done(_), _) => {
            turn.memory.bootstrapping = false;
            None
        }
    };
    Verdict::of(Rule::BootstrapFailed).and(free).soon(250)
}

/// An empty directory in a cluster that exists: copy from a member with `clonefrom`, else from the leader.
fn copy(turn: &Turn<'_>, cluster: &Cluster) -> Verdict {
    let Some((leader, member)) = cluster.leader_member() else {
        return Verdict::of(Rule::CopyWaitingForLeader).soon(1000);
    };
    if leader.name == *turn.me() || member.role != "primary" || member.state != "running" {
        return Verdict::of(Rule::CopyWaitingForLeader).soon(500);
    }
    let willing = |(name, m): &(&crate::ids::NodeName, &std::sync::Arc<crate::cluster::Member>)| {
        *name != turn.me() && **name != leader.name && m.tags.clonefrom() && m.state == "running"
    };
    let source = cluster.members.iter().find(willing).map_or(&leader.name, |(name, _)| name);
    match turn.upstream(cluster, source) {
        Some(from) => Verdict::of(Rule::CopyRunning).and(turn.run(Step::BaseBackup { from })).soon(1000),
        None => Verdict::of(Rule::CopyWaitingForLeader).soon(1000),
    }
}

fn damaged(turn: &mut Turn<'_>, half_copied: bool, ours: bool) -> Verdict {
    if turn.memory.bootstrapping {
        let aside = turn.run(Step::SetAside);
        return Verdict::of(Rule::BootstrapFailed).and(aside).soon(500);
    }
    match turn.fresh() {
        Some(cluster) if half_copied || ours && turn.view.settings.replace_after_failed_rewind => copy(turn, cluster),
        Some(_) | None => Verdict::of(Rule::DataDamaged).soon(5000),
    }
}

fn present(turn: &mut Turn<'_>, control: &Control) -> Verdict {
    if turn.memory.bootstrapping && turn.memory.bootstrap_failed {
        let aside = turn.run(Step::SetAside);
        return Verdict::of(Rule::BootstrapFailed).and(aside).soon(500);
    }
    let cluster = match turn.view.dcs {
        DcsView::Fresh(cluster) => cluster,
        DcsView::Unreachable { since, last: None } if turn.now().since(since) < turn.view.settings.retry_timeout_ms => {
            // This supervisor has only just started: what the store says about our own key comes first.
            return Verdict::of(Rule::DataWaitingForStore).soon(100);
        }
        DcsView::Unreachable { .. } => return without_store(turn, control),
    };
    if turn.view.local.marker.as_ref().is_some_and(|marker| marker.scope != turn.view.scope) {
        // Another cluster's directory must not become the data of one that does not exist yet.
        return outside::exit(Rule::ForeignSystemId, 1);
    }
    if let Initialize::Done(id) = cluster.initialize
        && id != control.system_id
    {
        if turn.memory.bootstrapping {
            // Our bootstrap took so long that its key ended and another member founded the cluster.
            turn.memory.bootstrap_failed = true;
            return Verdict::of(Rule::BootstrapFailed).soon(10);
        }
        if turn.view.local.founding {
            // A bootstrap that was left unfinished, and another member's that was not: here nothing was ever acknowledged.
            return copy(turn, cluster);
        }
        return outside::exit(Rule::ForeignSystemId, 1);
    }
    match turn.standing() {
        Standing::Leads(lease) => {
            if was_standby(control) {
                return start(turn, Rule::StartLeader, StartRole::Standby { upstream: None });
            }
            start_primary(turn, control, lease)
        }
        Standing::Overdue(_) => {
            let renewal = super::lease::renewal(turn);
            if super::lease::overdue_too_long(turn) {
                turn.memory.lease = None;
            }
            Verdict::of(Rule::LeaderRenewalLate).and(renewal).soon(50)
        }
        Standing::None => match &cluster.leader {
            Some(leader) if leader.name == *turn.me() => own_key(turn, leader),
            Some(leader) => behind(turn, cluster, leader, control),
            None => leaderless(turn, cluster, control),
        },
    }
}

fn own_key(turn: &mut Turn<'_>, leader: &LeaderKey) -> Verdict {
    if primary::may_adopt(turn, leader) {
        let adopt = primary::adopt(turn, leader);
        return Verdict::of(Rule::LeaderAdopting).and(adopt).soon(50);
    }
    if let Some(verdict) = primary::disown(turn, leader) {
        return verdict;
    }
    let check = primary::check_lease(turn, leader.lease);
    Verdict::of(Rule::LeaderKeyOfNamesake).and(check).soon(300)
}

/// Another member leads: follow, after a rewind or a copy if this WAL is not on its branch.
fn behind(turn: &mut Turn<'_>, cluster: &Cluster, leader: &LeaderKey, control: &Control) -> Verdict {
    let upstream = turn.upstream(cluster, &leader.name);
    if was_standby(control) {
        // A rewind onto a leader that has no WAL of where its timeline begins (it was copied since) ends like this: recovery went on along
        // this node's own old timeline, and no server starts from such a checkpoint. Another rewind would end there too.
        let reached = WalEnd::LastRecord(control.checkpoint);
        if rejoin::compare(cluster, Some(control), control.timeline, reached) == Branch::Diverged {
            turn.memory.rewind_failed = true;
            return mend(turn, cluster, upstream);
        }
        let end = WalEnd::Received(control.min_recovery_point);
        let timeline = control.min_recovery_timeline.max(control.timeline);
        return match rejoin::compare(cluster, Some(control), timeline, end) {
            Branch::Diverged => mend(turn, cluster, upstream),
            // A standby that cannot tell yet may start: the server checks every stream it asks for.
            Branch::Ancestor | Branch::Unknown => start_standby(turn, upstream),
        };
    }
    if control.state == ControlState::ShutDown {
        let reached = WalEnd::LastRecord(control.checkpoint);
        return match rejoin::compare(cluster, Some(control), control.timeline, reached) {
            Branch::Ancestor => start_standby(turn, upstream),
            Branch::Diverged => mend(turn, cluster, upstream),
            Branch::Unknown => Verdict::of(Rule::RejoinWaitingForHistory).soon(100),
        };
    }
    // A crashed primary does not know its own end of WAL: `pg_rewind` recovers it first; without it we do.
    if rejoin::can_rewind(turn) {
        return mend(turn, cluster, upstream);
    }
    crash_recover(turn)
}

fn start_standby(turn: &mut Turn<'_>, upstream: Option<Upstream>) -> Verdict {
    start(turn, Rule::StartStandby, StartRole::Standby { upstream })
}

/// With its watchdog, if there is to be one.
fn start_primary(turn: &mut Turn<'_>, control: &Control, lease: Lease) -> Verdict {
    if let Some(why) = watchdog::failure(turn) {
        // A new cluster that this member may not lead is left to others to found.
        turn.memory.bootstrap_failed |= turn.memory.bootstrapping;
        let ended = (control.state == ControlState::ShutDown).then_some(control);
        return release::give_up(turn, lease, ended, Rule::PromotionNoWatchdog).because(why);
    }
    if let Some(arming) = watchdog::before_writing(turn) {
        return arming;
    }
    start(turn, Rule::StartLeader, StartRole::Primary { lease })
}

/// A start ends whatever the stop before it was for.
fn start(turn: &mut Turn<'_>, why: Rule, role: StartRole) -> Verdict {
    let step = turn.run(Step::Start { role });
    if step.is_some() {
        turn.memory.stage = Stage::Steady;
    }
    Verdict::of(why).and(step).soon(500)
}

fn crash_recover(turn: &Turn<'_>) -> Verdict {
    Verdict::of(Rule::RejoinCrashRecovery).and(turn.run(Step::CrashRecover)).soon(500)
}

fn mend(turn: &mut Turn<'_>, cluster: &Cluster, upstream: Option<Upstream>) -> Verdict {
    let Some(from) = upstream else { return Verdict::of(Rule::RejoinWaitingForLeader).soon(500) };
    if !rejoin::same_data(cluster, turn.control()) {
        // What a leader of other data would put in their place may be all that there is of them.
        return Verdict::of(Rule::RejoinWaitingForLeader).soon(500);
    }
    if !rejoin::leader_ready(cluster) {
        rejoin::ask_for_checkpoint(turn, cluster);
        return Verdict::of(Rule::RejoinWaitingForLeader).soon(250);
    }
    if rejoin::can_rewind(turn) {
        return Verdict::of(Rule::RejoinRewinding).and(turn.run(Step::Rewind { from })).soon(1000);
    }
    if rejoin::may_copy(turn) {
        return Verdict::of(Rule::RejoinCopying).and(turn.run(Step::BaseBackup { from })).soon(1000);
    }
    Verdict::of(Rule::RejoinImpossible).soon(5000)
}

/// Nobody leads. A former primary comes up as a parked standby and stands for election like everybody else.
fn leaderless(turn: &mut Turn<'_>, cluster: &Cluster, control: &Control) -> Verdict {
    if turn.memory.bootstrapping {
        // An earlier attempt may have ended in a release; what is won now is kept.
        turn.memory.stage = Stage::Steady;
        if watchdog::failure(turn).is_some() {
            turn.memory.bootstrap_failed = true;
            return no_watchdog(turn);
        }
        if let Some(verdict) = election::unleased(turn, cluster) {
            return verdict;
        }
        if let Some(lease) = eligibility::predecessor(turn, cluster) {
            return election::wait_for_predecessor(turn, lease);
        }
        if eligibility::may_be_refounding(turn, cluster) {
            return Verdict::of(Rule::ElectionPredecessorAlive).soon(250);
        }
        match cluster.initialize {
            // It went while the data were made: another may be about to found the cluster.
            Initialize::Absent => return race(turn),
            Initialize::Running if !founds(turn, cluster) => return Verdict::of(Rule::BootstrapByAnother).soon(1000),
            Initialize::Running | Initialize::Done(_) => {}
        }
        let acquire = turn.acquire(cluster, None);
        return Verdict::of(Rule::BootstrapTakingKey).and(acquire).soon(50);
    }
    if cluster.initialize == Initialize::Absent && !was_standby(control) {
        // It would keep all others out, and not lead itself.
        if turn.view.settings.tags.nofailover() {
            return Verdict::of(Rule::ElectionNotAllowed).because(NOFAILOVER.to_owned()).soon(1000);
        }
        if watchdog::failure(turn).is_some() {
            return no_watchdog(turn);
        }
        if eligibility::may_be_blind(turn, cluster) {
            return Verdict::of(Rule::ElectionPredecessorAlive).soon(250);
        }
        let id = control.system_id.to_string();
        let claim = turn.write(Key::Initialize, Some(id), Expect::Absent);
        return Verdict::of(Rule::BootstrapFromData).and(claim).soon(100);
    }
    if awaits_successor(turn) {
        return Verdict::of(Rule::StartAwaitingSuccessor).soon(250);
    }
    recover_and_park(turn, control)
}

fn without_store(turn: &mut Turn<'_>, control: &Control) -> Verdict {
    if let Standing::Overdue(_) = turn.standing() {
        turn.memory.lease = None;
    }
    if let Standing::Leads(lease) = turn.standing()
        && !was_standby(control)
    {
        return start_primary(turn, control, lease);
    }
    recover_and_park(turn, control)
}

/// How long a former leader that handed over leaves its machine to the promotion before it starts without a leader.
const SUCCESSOR_WAIT: Millis = Millis(2000);

/// Whether this node handed over a moment ago and its successor is about to show.
fn awaits_successor(turn: &Turn<'_>) -> bool {
    match turn.memory.stage {
        Stage::Demoting { candidate: Some(_), down_since, .. } => !turn.passed(down_since, SUCCESSOR_WAIT),
        Stage::Demoting { .. }
        | Stage::HandingOver { .. }
        | Stage::Sealing { .. }
        | Stage::Preparing { .. }
        | Stage::Steady => false,
    }
}

fn recover_and_park(turn: &mut Turn<'_>, control: &Control) -> Verdict {
    if was_standby(control) || control.state == ControlState::ShutDown {
        return start(turn, Rule::StartParked, StartRole::Standby { upstream: None });
    }
    crash_recover(turn)
}

/// Whether the server was last running (or shut down) as a standby, or is a copy that never ran: recovery from
/// its `backup_label` makes it one.
pub(super) fn was_standby(control: &Control) -> bool {
    control.backup_label || matches!(control.state, ControlState::InArchiveRecovery | ControlState::ShutDownInRecovery)
}
