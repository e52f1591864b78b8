//! The write-ahead log as a tree: every promotion makes a branch, and a position is a branch and an LSN.
//!
//! A branch is one life of one timeline. In a correct world branch and (system, timeline) are the same thing; keeping
//! them apart lets I11 see two branches with the same number.

use crate::ids::{Lsn, Timeline};

pub(super) type BranchId = usize;

#[derive(Clone, Debug)]
pub(super) struct Branch {
    pub(super) system: u64,
    pub(super) timeline: Timeline,
    /// The node that made it, and the only one that may write on it.
    pub(super) owner: usize,
    /// Where it left its parent.
    pub(super) parent: Option<(BranchId, Lsn)>,
}

/// A place in the tree: everything up to `lsn` of `branch` is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) branch: BranchId,
    pub(super) lsn: Lsn,
}

#[derive(Debug, Default)]
pub(super) struct Wal {
    branches: Vec<Branch>,
}

impl Wal {
    pub(super) fn branch(&self, id: BranchId) -> &Branch {
        &self.branches[id]
    }

    pub(super) fn branches(&self) -> &[Branch] {
        &self.branches
    }

    pub(super) fn add(&mut self, branch: Branch) -> BranchId {
        self.branches.push(branch);
        self.branches.len() - 1
    }

    /// Where `branch` ends for somebody who stands at `at`: its LSN there if `branch` is an ancestor (or itself).
    pub(super) fn end_seen_from(&self, at: Position, branch: BranchId) -> Option<Lsn> {
        let (mut current, mut end) = (at.branch, at.lsn);
        loop {
            if current == branch {
                return Some(end);
            }
            let (parent, switch) = self.branches[current].parent?;
            end = switch.min(end);
            current = parent;
        }
    }

    /// Whether everything at `there` is also part of what stands at `here`.
    pub(super) fn contains(&self, here: Position, there: Position) -> bool {
        self.end_seen_from(here, there.branch).is_some_and(|end| there.lsn <= end)
    }

    /// The ancestors of `branch` as the server knows them, oldest first: timeline and where it ended.
    pub(super) fn history(&self, branch: BranchId) -> Vec<(Timeline, Lsn)> {
        let mut out = Vec::new();
        let mut current = branch;
        while let Some((parent, switch)) = self.branches[current].parent {
            out.push((self.branches[parent].timeline, switch));
            current = parent;
        }
        out.reverse();
        out
    }

    /// Whether `timeline` is `branch` itself or among its ancestors.
    pub(super) fn has_timeline(&self, branch: BranchId, timeline: Timeline) -> bool {
        let mut current = branch;
        loop {
            if self.branches[current].timeline == timeline {
                return true;
            }
            match self.branches[current].parent {
                Some((parent, _)) => current = parent,
                None => return false,
            }
        }
    }
}
