//! Timelines: history files, and whether this node's WAL is on the leader's branch.

use crate::cluster::HistoryRow;
use crate::ids::{Lsn, Timeline};

/// Reads a `pg_wal/<timeline>.history` file: `(timeline, where it ended)`, oldest first. Comments and
/// lines that make no sense are skipped, as the server skips comments.
#[must_use]
pub fn parse_history_file(text: &str) -> Vec<(Timeline, Lsn)> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next()?;
            let mut fields = line.split_whitespace();
            let timeline = Timeline(fields.next()?.parse().ok()?);
            Some((timeline, fields.next()?.parse().ok()?))
        })
        .collect()
}

/// The last thing a node's WAL holds, as far as it matters for a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalEnd {
    /// START of the last record, known after a clean shutdown: the shutdown checkpoint.
    LastRecord(Lsn),
    /// END of what was received or must be replayed, known of a standby.
    Received(Lsn),
}

/// How this node's WAL relates to the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// All of it is in the leader's history: it can follow.
    Ancestor,
    /// It has WAL that the leader does not have.
    Diverged,
    /// The leader's history does not reach that far yet.
    Unknown,
}

/// Compares this node's `(timeline, end)` with the leader's timeline and the published history.
///
/// A switch point is always a record boundary of the WAL both share, so a record that starts before it ends
/// at or before it too: comparing the START of the last record needs no record sizes (lesson 40).
///
/// `complete`: the rows are known to be those of the leader's timeline, so an ancestor cannot be missing.
#[must_use]
pub fn branch(local: Timeline, end: WalEnd, leader: Timeline, history: &[HistoryRow], complete: bool) -> Branch {
    if local == leader {
        return Branch::Ancestor;
    }
    if local > leader {
        return Branch::Diverged;
    }
    // Rows hold every ancestor of the leader's timeline, so one that is missing below the newest row is none. Not so below
    // the oldest: Patroni keeps no more than `max_timelines_history` of them.
    let Some(row) = history.iter().find(|row| row.timeline == local) else {
        if history.iter().map(|row| row.timeline).min().is_some_and(|oldest| local < oldest) {
            return Branch::Unknown;
        }
        let newest = history.iter().map(|row| row.timeline).max();
        let passed = complete || newest.is_some_and(|newest| newest > local);
        return if passed { Branch::Diverged } else { Branch::Unknown };
    };
    let beyond = match end {
        WalEnd::LastRecord(start) => start >= row.switch_lsn,
        WalEnd::Received(end) => end > row.switch_lsn,
    };
    if beyond { Branch::Diverged } else { Branch::Ancestor }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(timeline: u32, lsn: u64) -> HistoryRow {
        HistoryRow {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(lsn),
            reason: String::new(),
            at: None,
            new_leader: None,
        }
    }

    #[test]
    fn a_shutdown_checkpoint_that_ends_at_the_switch_point_needs_no_rewind() {
        let history = [row(1, 1000)];
        let ends_there = WalEnd::LastRecord(Lsn(880));
        assert_eq!(branch(Timeline(1), ends_there, Timeline(2), &history, false), Branch::Ancestor);
        let starts_there = WalEnd::LastRecord(Lsn(1000));
        assert_eq!(branch(Timeline(1), starts_there, Timeline(2), &history, false), Branch::Diverged);
    }

    #[test]
    fn a_standby_may_have_received_up_to_the_switch_point() {
        let history = [row(1, 1000)];
        let at = |lsn| branch(Timeline(1), WalEnd::Received(Lsn(lsn)), Timeline(2), &history, false);
        assert_eq!(at(1000), Branch::Ancestor);
        assert_eq!(at(1001), Branch::Diverged);
    }

    #[test]
    fn timelines_outside_the_history_are_diverged_or_unknown() {
        let end = WalEnd::Received(Lsn(1));
        assert_eq!(branch(Timeline(3), end, Timeline(2), &[row(1, 5)], false), Branch::Diverged);
        assert_eq!(branch(Timeline(2), end, Timeline(4), &[row(1, 5), row(3, 9)], false), Branch::Diverged);
        assert_eq!(branch(Timeline(2), end, Timeline(3), &[row(1, 5)], false), Branch::Unknown);
        assert_eq!(branch(Timeline(2), end, Timeline(5), &[row(3, 5), row(4, 9)], true), Branch::Unknown, "trimmed");
        assert_eq!(branch(Timeline(1), end, Timeline(2), &[], false), Branch::Unknown);
        let skipped = branch(Timeline(2), end, Timeline(3), &[row(1, 5)], true);
        assert_eq!(skipped, Branch::Diverged, "timeline 2 was claimed and never became the leader's");
    }

    #[test]
    fn history_files_are_read_as_the_server_writes_them() {
        let text = "1\t0/3000148\tno recovery target specified\n\n# comment\n2\t0/5000000\tx\n";
        assert_eq!(parse_history_file(text), vec![(Timeline(1), Lsn(0x300_0148)), (Timeline(2), Lsn(0x500_0000)),]);
    }
}
