//! Streaming replication: a standby connects to its upstream if it can, and receives what that has flushed.

use super::event::{Event, Frozen};
use super::node::{Connection, Phase};
use super::wal::Position;
use super::world::World;
use crate::ids::{Lsn, Timeline};

impl World {
    fn upstream_of(&self, node: usize) -> Option<usize> {
        let upstream = self.server(node)?.upstream.as_ref()?;
        self.nodes.iter().position(|other| other.identity.conn_url.contains(&format!("//{}:", upstream.address.host)))
    }

    /// A walreceiver tries to connect, and keeps trying.
    pub(super) fn receiver_connect(&mut self, node: usize, life: u64) {
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.phase != Phase::Standby || server.receiver.is_some() || server.promoting {
            return;
        }
        let Some(to) = self.upstream_of(node) else { return };
        match self.can_stream(node, to) {
            Some(to_life) => {
                let number = self.number();
                if let Some(server) = self.nodes[node].server_of(life) {
                    let reported = Lsn(0);
                    server.receiver =
                        Some(Connection { number, to, to_life, in_flight: false, reported, silent_since: None });
                }
                let at = self.nodes[node].disk.data().map_or(Lsn(0), |data| data.at.lsn);
                self.soon(0, 5, Event::Feedback { node, server: life, connection: number, flushed: at });
                self.wake_seat(node);
                self.pump(to);
            }
            None => self.soon(500, 5000, Event::Connect { node, server: life }),
        }
    }

    /// Whether `to` would send WAL to `node` now: it runs, can be reached, and `node` is on its branch.
    fn can_stream(&self, node: usize, to: usize) -> Option<u64> {
        let here = self.nodes[node].disk.data()?;
        let there = &self.nodes[to];
        let server = there.server.as_ref()?;
        let accepts = match server.phase {
            Phase::Primary => true,
            Phase::Standby => server.consistent,
            Phase::Starting | Phase::Stopping | Phase::Leftover => false,
        };
        let data = there.disk.data()?;
        let reachable = there.up && !there.is_frozen(Frozen::Node) && self.net.reachable(node, to);
        let same_system = self.wal.branch(data.at.branch).system == self.wal.branch(here.at.branch).system;
        let on_branch = to != node && same_system && self.wal.contains(data.at, here.at);
        (accepts && reachable && on_branch && !self.misled(node, data.at)).then_some(server.life)
    }

    /// An empty history file in `pg_wal` hides the real one of a timeline we would have to follow.
    fn misled(&self, node: usize, there: Position) -> bool {
        let Some(here) = self.nodes[node].disk.data() else { return false };
        here.foreign_history.iter().any(|timeline: &Timeline| {
            self.wal.has_timeline(there.branch, *timeline) && !self.wal.has_timeline(here.at.branch, *timeline)
        })
    }

    /// `from` has flushed more: send it to whoever is connected.
    pub(super) fn pump(&mut self, from: usize) {
        let (Some(server), Some(data)) = (self.server(from), self.nodes[from].disk.data()) else { return };
        let (life, end) = (server.life, data.at);
        for node in 0..self.nodes.len() {
            let Some(here) = self.nodes[node].disk.data() else { continue };
            if here.at == end {
                continue;
            }
            let Some(standby) = &mut self.nodes[node].server else { continue };
            let standby_life = standby.life;
            let Some(receiver) = &mut standby.receiver else { continue };
            if receiver.to != from || receiver.to_life != life || receiver.in_flight {
                continue;
            }
            let number = receiver.number;
            if self.net.cut(from, node) {
                self.stream_is_silent(node, standby_life, number);
                continue;
            }
            receiver.in_flight = true;
            let delay_ms = self.net.delay(&mut self.rng, from, node);
            let event = Event::WalArrive { node, server: standby_life, connection: number, position: end };
            self.later(delay_ms, event);
        }
    }

    /// Nothing comes through any more: `wal_receiver_timeout` will end it, or TCP will bring it back.
    fn stream_is_silent(&mut self, node: usize, server: u64, connection: u64) {
        let now = self.now;
        if let Some(standby) = self.nodes[node].server_of(server)
            && let Some(receiver) = standby.receiver.as_mut().filter(|r| r.number == connection)
            && receiver.silent_since.is_none()
        {
            receiver.silent_since = Some(now);
            self.soon(2_000, 60_000, Event::ReceiverTimeout { node, server, connection });
        }
    }

    pub(super) fn wal_arrive(&mut self, node: usize, life: u64, connection: u64, position: Position) {
        let lags = self.rng.chance(750);
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.phase != Phase::Standby {
            return;
        }
        if server.receiver.as_ref().is_none_or(|receiver| receiver.number != connection) || self.receiver_hangs(node) {
            return;
        }
        let Some(receiver) = self.nodes[node].server.as_mut().and_then(|server| server.receiver.as_mut()) else {
            return;
        };
        receiver.in_flight = false;
        receiver.silent_since = None;
        let (to, to_life) = (receiver.to, receiver.to_life);
        if self.server(to).is_none_or(|there| there.life != to_life) {
            // The last that it sent before it went.
            self.stream_is_silent(node, life, connection);
        }
        let Some(data) = self.nodes[node].disk.data() else { return };
        // A walreceiver goes on to another timeline only when the startup process asks it to, which does not once it is to promote.
        // It does that once all of this timeline is replayed.
        let stays = self.server(node).is_some_and(|server| server.promoting) || self.replay_is_behind(node);
        if !self.wal.contains(position, data.at) || stays && position.branch != data.at.branch {
            // The upstream is on another branch by now.
            self.drop_receiver(node);
            return;
        }
        self.replay_may_stop(node, data.at.lsn);
        let Some(data) = self.nodes[node].disk.data_mut() else { return };
        data.at = position;
        if !lags {
            data.min_recovery = data.min_recovery.max(position.lsn);
        }
        let consistent = position.lsn >= data.consistent_at;
        let mut news = false;
        if let Some(server) = self.nodes[node].server_of(life) {
            news = consistent != server.consistent;
            server.consistent = consistent;
        }
        if news {
            self.wake_seat(node);
        }
        if !self.net.cut(node, to) {
            let delay_ms = self.net.delay(&mut self.rng, node, to);
            let event = Event::Feedback { node, server: life, connection, flushed: position.lsn };
            self.later(delay_ms, event);
        }
        self.pump(to);
        self.pump(node);
    }

    /// The upstream learns how far the standby has flushed.
    pub(super) fn feedback(&mut self, node: usize, life: u64, connection: u64, flushed: Lsn) {
        if let Some(server) = self.nodes[node].server_of(life)
            && let Some(receiver) = server.receiver.as_mut().filter(|r| r.number == connection)
        {
            receiver.reported = receiver.reported.max(flushed);
        }
    }

    pub(super) fn receiver_timeout(&mut self, node: usize, life: u64, connection: u64) {
        let Some(server) = self.nodes[node].server_of(life) else { return };
        let Some(receiver) = server.receiver.as_ref().filter(|r| r.number == connection) else { return };
        if receiver.silent_since.is_none() {
            return;
        }
        let (to, to_life) = (receiver.to, receiver.to_life);
        // Another server on that machine knows nothing of this connection.
        let lives = self.server(to).is_some_and(|there| there.life == to_life);
        if lives && self.net.reachable(node, to) {
            if let Some(server) = self.nodes[node].server_of(life)
                && let Some(receiver) = server.receiver.as_mut()
            {
                receiver.silent_since = None;
            }
            self.pump(to);
        } else {
            self.drop_receiver(node);
        }
    }

    /// The walreceiver ends; another attempt follows.
    pub(super) fn drop_receiver(&mut self, node: usize) {
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if server.receiver.take().is_some() {
            let life = server.life;
            self.soon(50, 5000, Event::Connect { node, server: life });
            self.wake_seat(node);
        }
    }

    /// A server went away: its standbys are told by their kernel, if the network lets it through.
    pub(super) fn drop_standbys_of(&mut self, from: usize) {
        for node in 0..self.nodes.len() {
            let Some(standby) = &self.nodes[node].server else { continue };
            let Some(receiver) = standby.receiver.as_ref().filter(|r| r.to == from) else { continue };
            let (life, number) = (standby.life, receiver.number);
            if self.net.cut(from, node) || !self.nodes[from].up {
                self.stream_is_silent(node, life, number);
            } else {
                self.drop_receiver(node);
            }
        }
    }

    /// Whether every standby that is connected has reported all of this server's WAL.
    pub(super) fn drained(&self, from: usize) -> bool {
        let (Some(server), Some(data)) = (self.server(from), self.nodes[from].disk.data()) else { return true };
        self.nodes.iter().all(|node| {
            let receiver = node.server.as_ref().and_then(|standby| standby.receiver.as_ref());
            receiver.is_none_or(|r| r.to != from || r.to_life != server.life || r.reported >= data.at.lsn)
        })
    }
}
