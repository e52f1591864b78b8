//! What each side can see of its own node.

use super::Mutant;
use super::event::Who;
use super::node::{DiskState, Node, Phase, Server as Postmaster};
use super::world::World;
use crate::clock::Tick;
use crate::ids::{Lsn, Timeline};
use crate::local::{DataDir, LocalView, PrimaryView, Receiver, Server, StandbyConnection, StandbyView};
use crate::member;
use crate::memory::Memory;
use crate::peer::PeerStatus;
use crate::view::Side;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) fn local(world: &World, who: Who) -> LocalView {
    let node = &world.nodes[who.node];
    let (data, history) = match &node.disk.state {
        DiskState::Empty => (DataDir::Empty, Vec::new()),
        DiskState::Damaged { reason, half_copied, ours } => {
            (DataDir::Damaged { reason: reason.clone(), half_copied: *half_copied, ours: *ours }, Vec::new())
        }
        DiskState::Present(data) => {
            let timeline = world.wal.branch(data.at.branch).timeline;
            (DataDir::Present(data.control(timeline)), world.wal.history(data.at.branch))
        }
    };
    LocalView {
        data,
        server: server(world, who),
        marker: node.disk.marker.clone(),
        history,
        step_running: node.step.as_ref().filter(|_| who.side == Side::Outside).map(|running| running.step.clone()),
        history_at: None,
        cannot_write: node.cannot_write.then(|| "No space left on device".to_owned()),
        pending_restart: BTreeMap::new(),
        founding: node.disk.data().is_some_and(|data| node.disk.founding == Some(data.system)),
        watchdog: world.seen_watchdog(who),
        kept_ttl: world.kept_ttl(who),
    }
}

fn server(world: &World, who: Who) -> Server {
    let node = &world.nodes[who.node];
    let Some(server) = &node.server else { return Server::Down };
    match (server.phase, who.side) {
        (Phase::Leftover, _) => Server::Leftover,
        (Phase::Stopping, _) => Server::Stopping { since: server.since },
        (Phase::Primary, Side::Inside) => Server::Primary(primary(world, who.node, server)),
        (Phase::Standby, Side::Inside) => Server::Standby(standby(world, who.node, server)),
        (Phase::Starting, _) | (Phase::Primary | Phase::Standby, Side::Outside) => {
            Server::Starting { since: server.since.max(node.seat_since) }
        }
    }
}

fn primary(world: &World, node: usize, server: &Postmaster) -> PrimaryView {
    let Some(data) = world.nodes[node].disk.data() else { return PrimaryView::default() };
    let standbys = world.nodes.iter().enumerate().filter_map(|(index, other)| {
        let connection = other.server.as_ref()?.receiver.as_ref()?;
        (connection.to == node && connection.to_life == server.life).then(|| StandbyConnection {
            slot: other.name.slot_name(),
            streaming: true,
            flushed: connection.reported,
            replayed: connection.reported.min(world.replayed_to(index)),
        })
    });
    PrimaryView {
        timeline: world.wal.branch(data.at.branch).timeline,
        flushed: data.at.lsn,
        checkpointed: server.checkpointed || world.is(Mutant::NoCheckpointGuard),
        // A server without an archive has much to write in its first checkpoint.
        checkpoint_redo: if server.checkpointed || world.params.archive_max_ms.is_some() {
            server.redo
        } else {
            Lsn(0)
        },
        standbys: standbys.collect(),
        fence_open: world.nodes[node].fence_open(world.now),
        fence_until: server.fence.deadline,
        fence_unbound: server.fence.unbound,
        seal: world.seen_seal(node),
        in_place: world.in_place(node),
        archive_waiting: world.archive_waiting(node) && !world.is(Mutant::NoArchiveGuard),
    }
}

fn standby(world: &World, node: usize, server: &Postmaster) -> StandbyView {
    let Some(data) = world.nodes[node].disk.data() else { return StandbyView::default() };
    StandbyView {
        timeline: world.wal.branch(data.at.branch).timeline,
        received: data.at.lsn,
        replayed: world.replayed_to(node),
        receiver: match (&server.receiver, &server.upstream) {
            (Some(_), _) if world.receiver_hangs(node) => Receiver::Stopping,
            (Some(_), _) => Receiver::Streaming,
            (None, Some(_)) => Receiver::Connecting,
            (None, None) => Receiver::Stopped,
        },
        upstream: server.upstream.clone(),
        replayed_at: None,
        replay_paused: false,
        promoting: server.promoting,
        consistent: server.consistent,
        reads_withheld: server.withheld,
        commits_wait: false,
    }
}

/// What the last decision was made from, and what was remembered then.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) local: LocalView,
    pub(super) memory: Rc<Memory>,
    pub(super) at: Tick,
}

/// What `GET /patroni` says from the last snapshot on; a mutant tells how far it has replayed.
pub(super) fn status(node: &Node, by_replay: bool) -> PeerStatus {
    let Some(Seen { local, memory, at }) = &node.published else { return PeerStatus::default() };
    let holds_lease = memory.lease.is_some_and(|lease| lease.valid_at(*at));
    let says_so = matches!(member::role(local, memory), "primary" | "promoted");
    let (lsn, timeline, receiving) = match &local.server {
        Server::Primary(primary) => (primary.flushed, Some(primary.timeline), false),
        Server::Standby(standby) => (
            if by_replay { standby.replayed } else { standby.received.max(standby.replayed) },
            Some(standby.timeline).filter(|timeline| *timeline > Timeline(0)),
            standby.receiver == Receiver::Streaming,
        ),
        Server::Down | Server::Leftover | Server::Starting { .. } | Server::Stopping { .. } => (Lsn(0), None, false),
    };
    PeerStatus {
        is_primary: matches!(local.server, Server::Primary(_)) || says_so || holds_lease,
        state: member::state(local, memory).to_owned(),
        in_recovery: member::recovers(local),
        lsn,
        timeline,
        receiving,
        tags: node.settings.tags.clone(),
        watchdog_failed: memory.watchdog_failed,
        cannot_write: local.cannot_write.is_some(),
    }
}
