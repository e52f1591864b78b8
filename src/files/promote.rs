//! The thread that asks for promotions: nothing that waits for a disk for another reason may delay one.

use super::{Done, Wake, empty_segment};
use crate::placeholders;
use ha_core::ids::Timeline;
use ha_core::lease::Lease;
use ha_node::paths::Paths;
use ha_node::{clock, files};
use std::io;
use std::sync::mpsc::{Receiver, Sender};

/// What the main thread asks for.
#[derive(Debug)]
pub enum Job {
    /// Make `skip` unavailable to this server, then create `promote`, all of it before the lease ends.
    Promote {
        /// Timelines that others have claimed.
        skip: Vec<Timeline>,
        /// The proof that we may.
        lease: Lease,
        /// The first segment of the new timeline, if the log ends with a segment.
        first_segment: Option<String>,
    },
    /// Remove `promote`.
    Cancel,
}

/// Runs until nobody asks any more.
pub(super) fn run(paths: &Paths, jobs: &Receiver<Job>, done: &Sender<Done>, wake: &Wake) {
    for job in jobs {
        let ended = match job {
            Job::Promote { skip, lease, first_segment } => {
                if let Some(name) = first_segment {
                    empty_segment::put(paths, &name);
                }
                Some(Done::Promoted { lease, result: promote(paths, &skip, &lease) })
            }
            Job::Cancel => super::failed("promote", files::remove(&paths.promote()).map(drop)),
        };
        if let Some(ended) = ended {
            // Nobody listens only when the process is about to end.
            let _ = done.send(ended);
            wake();
        }
    }
}

/// A history file that exists makes the server choose the next number. One that names no ancestor is ignored by
/// standbys that look for their own timeline in it.
fn promote(paths: &Paths, skip: &[Timeline], lease: &Lease) -> io::Result<()> {
    for timeline in skip {
        placeholders::skip(paths, *timeline)?;
    }
    if !lease.valid_at(clock::now()) {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the lease ended before the promotion could begin"));
    }
    // Not synced: after a crash it must better be gone.
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(paths.promote()).map(drop)
}
