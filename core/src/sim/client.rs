//! Clients: they write all the time to whoever acknowledges, and remember every acknowledgement.
//!
//! No partition stops them: a client next to a cut-off leader is the worst case for split brain.

use super::Mutant;
use super::event::Event;
use super::judge::{self, Ack};
use super::node::Phase;
use super::params::Params;
use super::rng::Rng;
use super::two_phase;
use super::wal::Position;
use super::world::World;
use crate::clock::Tick;
use crate::ids::Lsn;
use crate::local::Seal;

#[derive(Debug)]
pub(super) struct Client {
    target: usize,
    /// A session in a server survives the postmaster until the backend ends.
    session: Option<(u64, u64)>,
    attempt: u64,
    pause_ms: u64,
    /// When it gives up the commit that it waits for, and the event that will look at that: most commits end long before.
    gives_up_at: u64,
    looks_at: u64,
}

impl Client {
    pub(super) fn several(rng: &mut Rng, params: &Params) -> Vec<Self> {
        (0..params.clients)
            .map(|index| Self {
                target: index % params.nodes,
                session: None,
                attempt: 0,
                pause_ms: rng.between(60, 600),
                gives_up_at: 0,
                looks_at: 0,
            })
            .collect()
    }
}

/// One commit on its way through a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit {
    client: usize,
    /// The client's attempt; it may have gone elsewhere meanwhile, the backend does not know.
    attempt: u64,
    node: usize,
    server: u64,
    sessions: u64,
    pub(super) position: Position,
    pub(super) phase: two_phase::Phase,
    /// The client does not wait for the flush.
    asynchronous: bool,
    /// By the node's clock; when it was written, if nobody waits for that.
    flushed_at: Tick,
}

impl Commit {
    pub(super) fn node(&self) -> usize {
        self.node
    }
}

impl World {
    pub(super) fn client_try(&mut self, client: usize, attempt: u64) {
        if self.clients[client].attempt != attempt {
            return;
        }
        let target = self.clients[client].target;
        if self.begin_commit(client, target) {
            return;
        }
        self.clients[client].session = None;
        self.clients[client].target = (target + 1) % self.nodes.len();
        self.soon(30, 300, Event::ClientTry { client, attempt });
    }

    /// Connects if need be and writes; false if this server does not take the write.
    fn begin_commit(&mut self, client: usize, node: usize) -> bool {
        let bytes = self.rng.between(80, 400) + if self.rng.chance(30) { self.rng.between(5000, 60_000) } else { 0 };
        let takes = if self.rng.chance(self.params.slow_commit_per_mille) {
            self.rng.skewed(20, 30_000)
        } else {
            self.rng.between(1, 12)
        };
        let open = self.nodes[node].fence_open(self.now);
        let holds = !self.is(Mutant::SealSkipped);
        let session = self.clients[client].session;
        let Some(branch) = self.nodes[node].disk.data().map(|data| data.at.branch) else { return false };
        let Some(server) = self.nodes[node].server.as_mut() else { return false };
        let connected = session == Some((server.life, server.sessions));
        let takes_writes = match server.phase {
            Phase::Primary => true,
            Phase::Leftover => connected,
            Phase::Starting | Phase::Standby | Phase::Stopping => false,
        };
        if !takes_writes {
            return false;
        }
        // Refused in the commit callback, or not: the records of the transaction are in the log either way.
        server.insert = Lsn(server.insert.0 + bytes);
        if !open {
            return false;
        }
        let position = Position { branch, lsn: server.insert };
        let held = holds && server.seal != Seal::Open;
        let (life, sessions) = (server.life, server.sessions);
        let held = held && !self.passes_unseen(client, position);
        let mine = &mut self.clients[client];
        mine.session = Some((life, sessions));
        mine.attempt += 1;
        let attempt = mine.attempt;
        // The client gives up on a server that does not answer and goes elsewhere.
        let patience_ms = self.rng.between(2000, 10_000);
        self.waits(client, self.now + patience_ms);
        let Some(server) = self.nodes[node].server.as_mut() else { return true };
        if held {
            server.held.push((client, attempt));
            return true;
        }
        let commit = self.passes(Commit {
            client,
            attempt,
            node,
            server: life,
            sessions,
            position,
            phase: two_phase::Phase::Whole,
            asynchronous: false,
            flushed_at: Tick(0),
        });
        self.later(takes, Event::CommitFlush(commit));
        true
    }

    /// The fence lets this commit pass, and counts it.
    fn passes(&mut self, mut commit: Commit) -> Commit {
        commit.phase = self.phase(commit.client, commit.position);
        // Either phase of two waits for its flush, whatever the client has set.
        commit.asynchronous = commit.phase == two_phase::Phase::Whole && self.is_asynchronous();
        let unseen = self.is(Mutant::FinishUncounted) && matches!(commit.phase, two_phase::Phase::Finish(_));
        if let Some(server) = self.nodes[commit.node].server.as_mut() {
            let counted = if unseen { &mut server.unseen } else { &mut server.passing };
            counted.insert((commit.client, commit.attempt));
        }
        commit
    }

    /// A commit that waited in the seal: its record is written now, or the fence refuses it.
    pub(super) fn held_goes_on(&mut self, node: usize, client: usize, attempt: u64, open: bool) {
        let Some(branch) = self.nodes[node].disk.data().map(|data| data.at.branch) else { return };
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if !open {
            if self.clients[client].attempt == attempt {
                self.clients[client].session = None;
                self.soon(5, 50, Event::ClientTry { client, attempt });
            }
            return;
        }
        server.insert = Lsn(server.insert.0 + 40);
        let position = Position { branch, lsn: server.insert };
        let (server, sessions) = (server.life, server.sessions);
        let (phase, asynchronous, flushed_at) = (two_phase::Phase::Whole, false, Tick(0));
        let commit =
            self.passes(Commit { client, attempt, node, server, sessions, position, phase, asynchronous, flushed_at });
        self.soon(1, 12, Event::CommitFlush(commit));
    }

    fn waits(&mut self, client: usize, until: u64) {
        let now = self.now;
        let mine = &mut self.clients[client];
        mine.gives_up_at = until;
        if mine.looks_at <= now || mine.looks_at > until {
            mine.looks_at = until;
            self.queue.push(until, Event::ClientLooks { client });
        }
    }

    /// Whether the commit that a client waits for takes too long.
    pub(super) fn client_looks(&mut self, client: usize) {
        let now = self.now;
        let mine = &mut self.clients[client];
        // An earlier look replaced this one.
        if mine.looks_at > now {
            return;
        }
        if mine.gives_up_at > now {
            let until = mine.gives_up_at;
            self.waits(client, until);
        } else if mine.gives_up_at == now {
            let attempt = mine.attempt;
            self.client_try(client, attempt);
        }
    }

    fn commit_alive(&self, commit: &Commit) -> bool {
        self.server(commit.node).is_some_and(|server| {
            let same = server.life == commit.server && server.sessions == commit.sessions;
            same && matches!(server.phase, Phase::Primary | Phase::Leftover)
        })
    }

    pub(super) fn commit_flush(&mut self, mut commit: Commit) {
        if !self.commit_alive(&commit) {
            return;
        }
        commit.flushed_at = self.local(commit.node);
        if commit.asynchronous {
            self.told_before_flush(commit.node, commit.position.lsn);
            let takes = self.rng.below(4);
            self.later(takes, Event::CommitAck(commit));
            return;
        }
        if self
            .server(commit.node)
            .is_some_and(|server| matches!(server.seal, Seal::Frozen { at } if at < commit.position.lsn))
        {
            // Nothing is written behind the end of the log.
            self.later(5, Event::CommitFlush(commit));
            return;
        }
        if let Some(data) = self.nodes[commit.node].disk.data_mut() {
            data.at.lsn = data.at.lsn.max(commit.position.lsn);
        }
        self.pump(commit.node);
        let stuck = self.rng.chance(self.params.slow_commit_per_mille);
        let takes = if stuck { self.rng.skewed(20, 60_000) } else { self.rng.below(4) };
        self.later(takes, Event::CommitAck(commit));
    }

    /// Before the acknowledgement leaves, the backend looks at the deadline once more.
    pub(super) fn commit_ack(&mut self, commit: &Commit) {
        if !self.commit_alive(commit) {
            return;
        }
        let open = self.nodes[commit.node].fence_open(self.now);
        if let Some(server) = self.nodes[commit.node].server.as_mut() {
            server.passing.remove(&(commit.client, commit.attempt));
            server.unseen.remove(&(commit.client, commit.attempt));
        }
        if open {
            let Commit { node, position, asynchronous, flushed_at, .. } = *commit;
            judge::acknowledged(self, &Ack { node, position, asynchronous, flushed_at });
            self.phase_acknowledged(commit.client, commit);
        }
        let mine = &mut self.clients[commit.client];
        if mine.attempt != commit.attempt {
            return;
        }
        // The wait for this answer is over.
        mine.attempt += 1;
        mine.gives_up_at = 0;
        if !open {
            mine.session = None;
        }
        let (client, attempt, pause) = (commit.client, mine.attempt, mine.pause_ms);
        self.soon(pause / 2, pause, Event::ClientTry { client, attempt });
    }
}
