//! Clients that commit in two phases: `PREPARE TRANSACTION` is a commit with an answer of its own, and `COMMIT PREPARED` comes some time later,
//! to whoever acknowledges then. A server has what is prepared if its WAL has that record and none that ends it.

use super::client::Commit;
use super::params::Params;
use super::rng::Rng;
use super::wal::Position;
use super::world::World;

/// How long a transaction stays prepared, at most.
const PREPARED_FOR_MS: u64 = 60_000;

/// In some seeds some clients do that.
pub(super) fn among_them(params: &mut Params, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0_29c0);
    if rng.chance(150) {
        params.two_phase_per_mille = [50, 300][rng.index(2)];
    }
}

/// What a commit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// All of it.
    Whole,
    Prepare,
    /// `COMMIT PREPARED` of this one.
    Finish(u64),
}

/// A transaction whose `PREPARE` was acknowledged.
#[derive(Debug)]
pub(super) struct Prepared {
    number: u64,
    client: usize,
    at: Position,
    /// Records that end it, each on its own branch; an answer may have been lost.
    ends: Vec<Position>,
    due: u64,
}

impl World {
    /// The transaction that this client is to commit now, if this server has it prepared. What is gone, or committed already, is forgotten.
    fn due_here(&mut self, client: usize, here: Position) -> Option<u64> {
        let (now, wal) = (self.now, &self.wal);
        let first = self.prepared.iter().position(|one| one.client == client && one.due <= now)?;
        let one = &self.prepared[first];
        if wal.contains(here, one.at) && !one.ends.iter().any(|end| wal.contains(here, *end)) {
            return Some(one.number);
        }
        self.prepared.remove(first);
        None
    }

    /// What the commit does that begins now and whose record ends at `position`.
    pub(super) fn phase(&mut self, client: usize, position: Position) -> Phase {
        let per_mille = self.params.two_phase_per_mille;
        if per_mille == 0 {
            return Phase::Whole;
        }
        match self.due_here(client, position) {
            Some(number) => {
                if let Some(one) = self.prepared.iter_mut().find(|one| one.number == number) {
                    one.ends.push(position);
                }
                Phase::Finish(number)
            }
            None if self.rng.chance(per_mille) => Phase::Prepare,
            None => Phase::Whole,
        }
    }

    /// Whether a mutant lets this commit pass: the one that does not ask about `COMMIT PREPARED`.
    pub(super) fn passes_unseen(&mut self, client: usize, here: Position) -> bool {
        self.is(super::Mutant::FinishUncounted) && self.due_here(client, here).is_some()
    }

    /// The client knows that it is done.
    pub(super) fn phase_acknowledged(&mut self, client: usize, commit: &Commit) {
        match commit.phase {
            Phase::Whole => {}
            Phase::Prepare => {
                let (number, due) = (self.number(), self.now + self.rng.skewed(100, PREPARED_FOR_MS));
                self.prepared.push(Prepared { number, client, at: commit.position, ends: Vec::new(), due });
            }
            Phase::Finish(number) => self.prepared.retain(|one| one.number != number),
        }
    }

    /// Records that were only in this server's memory are gone.
    pub(super) fn ends_forgotten(&mut self, end: Position) {
        for one in &mut self.prepared {
            one.ends.retain(|at| at.branch != end.branch || at.lsn <= end.lsn);
        }
    }
}
