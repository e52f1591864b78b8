//! The seal: commits are held, not refused, while a planned switchover drains this server.
//!
//! Exact by two steps in opposite order: a session first marks its own line and then looks at the seal; the worker first
//! sets the seal and then looks at the lines. So a commit is either held or counted, and once none is counted every commit
//! that was or will be acknowledged has its record in the log.

use super::{Guard, closed, refuse_commit, stands, yielding};
use crate::pg::{process, queue};
use crate::shmem::{Mark, Shared, marks, shared};
use ha_core::local::Seal;
use std::sync::atomic::Ordering;

/// Nothing of this process is between its check and its outcome.
const IDLE: u32 = 0;
/// A commit has passed, or is about to ask.
const PASSED: u32 = 1;
/// A commit waits for the seal to be lifted.
const HELD: u32 = 2;

/// Holds every commit that has not passed yet. Sessions and their reads go on.
pub fn seal(shared: &Shared) {
    shared.gate.sealed.store(1, Ordering::SeqCst);
}

/// Lets held commits go on as if nothing had happened. For the worker's main thread.
pub fn unseal(shared: &Shared) {
    if shared.gate.sealed.swap(0, Ordering::SeqCst) != 0 {
        queue::wake_all(&shared.held);
    }
}

/// Whether commits are held.
pub fn sealed(shared: &Shared) -> bool {
    shared.gate.sealed.load(Ordering::SeqCst) != 0
}

/// Commits that have passed and are not through: each may still be acknowledged. Once it was zero under a seal it stays so.
fn in_flight() -> u32 {
    let count = marks().iter().filter(|mark| mark.0.load(Ordering::SeqCst) == PASSED).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The seal as the decision sees it, of a log that is not frozen.
pub fn seal_state(shared: &Shared) -> Seal {
    if sealed(shared) { Seal::Holding { in_flight: in_flight() } } else { Seal::Open }
}

fn own() -> Option<&'static Mark> {
    process::number().and_then(|number| marks().get(number))
}

/// A commit that would be durable begins: refused when the fence is closed, held while the seal is on. What has passed is
/// counted until [`settled`].
pub fn pass() {
    // Whatever has no line cannot be counted, so it must not pass.
    let (Some(shared), Some(mark)) = (shared(), own()) else {
        return refuse_commit();
    };
    loop {
        mark.0.store(if stands(Guard::CommitCounted) { PASSED } else { HELD }, Ordering::SeqCst);
        let sealed = sealed(shared);
        if stands(Guard::CommitClosed) && closed() && !(sealed && yielding()) {
            mark.0.store(IDLE, Ordering::SeqCst);
            return refuse_commit();
        }
        if !sealed || !stands(Guard::CommitSealed) {
            #[cfg(debug_assertions)]
            crate::pg::debug::reached(crate::pg::debug::Point::InCommit);
            return;
        }
        mark.0.store(HELD, Ordering::SeqCst);
        // An error in here (a cancelled statement, a terminated session) ends in an abort, which clears the line.
        // Of a server that has handed over it goes on waiting: it is ended when the next leader can be asked.
        let refused = || stands(Guard::HeldClosed) && closed() && !yielding();
        queue::wait(&shared.held, || refused() || !self::sealed(shared));
    }
}

/// The transaction is over. Returns whether it had passed.
pub fn settled() -> bool {
    let Some(mark) = own() else { return false };
    // A line of this process alone: read before it is written, so that most transactions only read it.
    let state = mark.0.load(Ordering::Relaxed);
    if state != IDLE {
        mark.0.store(IDLE, Ordering::SeqCst);
    }
    state == PASSED
}
