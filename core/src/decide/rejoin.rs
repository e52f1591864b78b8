//! Whether and how a node that has WAL of its own comes back to the leader's branch.

use super::turn::Turn;
use crate::cluster::{Cluster, Initialize};
use crate::ids::Timeline;
use crate::local::Control;
use crate::timeline::{Branch, WalEnd, branch};

/// Whether the cluster is founded with the data of this node. Timelines of different data have the same numbers and mean nothing to each
/// other, and a leader that is still to found the cluster may have data of its own.
pub(super) fn same_data(cluster: &Cluster, control: Option<&Control>) -> bool {
    control.is_some_and(|control| cluster.initialize == Initialize::Done(control.system_id))
}

/// Compares this node's WAL with the present leader's.
pub(super) fn compare(cluster: &Cluster, control: Option<&Control>, local: Timeline, end: WalEnd) -> Branch {
    let Some((_, member)) = cluster.leader_member().filter(|_| same_data(cluster, control)) else {
        return Branch::Unknown;
    };
    match member.timeline {
        Some(timeline) if member.role == "primary" => {
            // Our kind publishes its history before its member key says that it is primary.
            let complete = member.ha_ext_version.is_some();
            branch(local, end, timeline, &cluster.history, complete)
        }
        // Not promoted yet: where it will branch off nobody knows.
        Some(_) | None => Branch::Unknown,
    }
}

/// The leader runs as primary and its first checkpoint is through (lesson 43): it can be rewound onto.
pub(super) fn leader_ready(cluster: &Cluster) -> bool {
    cluster.leader_member().is_some_and(|(_, m)| m.role == "primary" && m.state == "running" && !m.checkpoint_pending)
}

/// The leader spreads its first checkpoint unless somebody waits for it: it is told so by our member key.
pub(super) fn ask_for_checkpoint(turn: &mut Turn<'_>, cluster: &Cluster) {
    let pending =
        cluster.leader_member().is_some_and(|(_, member)| member.role == "primary" && member.checkpoint_pending);
    turn.memory.awaits_checkpoint = pending && can_mend(turn);
}

/// Whether the configuration lets us do anything about a divergence.
pub(super) fn can_mend(turn: &Turn<'_>) -> bool {
    can_rewind(turn) || may_copy(turn)
}

/// Whether `pg_rewind` is allowed and possible. After a failure a copy is preferred where one is allowed; else the
/// rewind is tried again, once per loop (lesson 38).
pub(super) fn can_rewind(turn: &Turn<'_>) -> bool {
    rewindable(turn) && !(turn.memory.rewind_failed && turn.view.settings.replace_after_failed_rewind)
}

/// Whether a copy may replace this node's data. Each permission is for its own case (lesson 48).
pub(super) fn may_copy(turn: &Turn<'_>) -> bool {
    let settings = turn.view.settings;
    if rewindable(turn) {
        turn.memory.rewind_failed && settings.replace_after_failed_rewind
    } else {
        settings.replace_diverged
    }
}

fn rewindable(turn: &Turn<'_>) -> bool {
    turn.view.settings.use_pg_rewind && turn.control().is_some_and(|control| control.can_be_rewound)
}
