//! Clients that write with `synchronous_commit = off`: the answer leaves before the record is flushed, under the fence like any other. The walwriter
//! flushes it a moment later; what is only in memory until then is lost if the server crashes, and by nothing else.

use super::Mutant;
use super::event::Event;
use super::judge;
use super::node::Phase;
use super::params::Params;
use super::rng::Rng;
use super::world::World;
use crate::ids::Lsn;
use crate::local::Seal;

/// Three turns of the walwriter: `wal_writer_delay` is 200 ms.
const FLUSHED_WITHIN_MS: u64 = 600;

/// In some seeds clients write in this way, now and then or always.
pub(super) fn among_them(params: &mut Params, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0_a51c);
    if rng.chance(200) {
        params.asynchronous_per_mille = [200, 500, 1000][rng.index(3)];
    }
}

impl World {
    /// Whether the commit that begins now will not wait for its flush.
    pub(super) fn is_asynchronous(&mut self) -> bool {
        let per_mille = self.params.asynchronous_per_mille;
        per_mille > 0 && self.rng.chance(per_mille)
    }

    /// The record is in memory, and the client is about to be told.
    pub(super) fn told_before_flush(&mut self, node: usize, end: Lsn) {
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.told_end = server.told_end.max(end);
        // A walwriter ends with its postmaster.
        if !std::mem::replace(&mut server.writer_due, true) {
            let life = server.life;
            self.soon(1, FLUSHED_WITHIN_MS, Event::WalWriter { node, server: life });
        }
    }

    pub(super) fn wal_writer(&mut self, node: usize, life: u64) {
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if matches!(server.seal, Seal::Frozen { .. }) {
            self.later(5, Event::WalWriter { node, server: life });
            return;
        }
        server.writer_due = false;
        if server.phase == Phase::Primary {
            self.flush_told(node);
        }
    }

    /// Flushes up to the last commit that was acknowledged without waiting for that.
    fn flush_told(&mut self, node: usize) {
        let end = self.server(node).map_or(Lsn(0), |server| server.told_end);
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.at.lsn = data.at.lsn.max(end);
        }
        self.pump(node);
    }

    /// Before a worker ends its server's children, which no crash makes it do.
    pub(super) fn flush_before_demotion(&mut self, node: usize) {
        let frozen = self.server(node).is_some_and(|server| matches!(server.seal, Seal::Frozen { .. }));
        if !frozen && !self.is(Mutant::UnflushedLeft) {
            self.flush_told(node);
        }
    }

    /// Shared memory goes, with all that was not flushed.
    pub(super) fn memory_goes(&mut self, node: usize, crash: bool) {
        judge::memory_lost(self, node, crash);
        if let Some(end) = self.nodes[node].disk.data().map(|data| data.at) {
            self.ends_forgotten(end);
        }
        if let Some(server) = self.nodes[node].server.as_mut() {
            server.told_end = Lsn(0);
        }
    }
}
