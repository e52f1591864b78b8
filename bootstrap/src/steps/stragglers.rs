//! The supervisor's part of a demotion in place. The postmaster ends all its children before recovery can begin, and waits five seconds
//! for one that does not hear it: an archiver inside its command, a session that hangs. That is too long for a node that others wait
//! for, so they are killed here; then what the archiver has not come to is archived, because recovery has none.

use super::{Context, archive};
use crate::error::{Error, Result};
use crate::postmaster::Postmaster;
use crate::process::{self, Held};
use ha_core::clock::{Millis, Tick};
use ha_node::clock;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// What the postmaster's own signal is given before anybody is killed.
const GRACE: Millis = Millis(200);
/// How long the kernel may take to end a killed process. Recovery waits for it longer than this step does.
const KILLED_MAX: Duration = Duration::from_secs(2);

/// Runs the step. The archive is not waited for: the worker of the same server waits for the seat.
pub fn perform(context: &Context) -> Result<()> {
    let ended = match (&context.postmaster, context.demoted_at) {
        (Some(postmaster), Some(before)) => {
            let grace = (before + GRACE).since(clock::now());
            end(postmaster, before, Duration::from_millis(grace.0))
        }
        _ => Ok(()),
    };
    archive::beside_recovery(context).and(ended)
}

/// Ends all children of a postmaster that was told to stop at once, as it would itself five seconds later.
pub fn end_all(postmaster: &Postmaster) -> Result<()> {
    end(postmaster, Tick(u64::MAX), Duration::from_millis(GRACE.0))
}

/// Ends the children of the postmaster that were there before that moment and do not go by themselves.
fn end(postmaster: &Postmaster, before: Tick, grace: Duration) -> Result<()> {
    let known = children_before(postmaster, before);
    let end = Instant::now() + grace;
    for (child, _) in &known {
        let _ = child.wait_end(end.saturating_duration_since(Instant::now()));
    }
    let left = || known.iter().filter(|(child, _)| !child.ended());
    for (child, title) in left() {
        tracing::warn!(pid = child.id.pid, "\"{title}\" does not end: it is killed");
        // Each child of a postmaster leads a process group; an archive command is in that of the archiver.
        if process::stat(child.id.pid).is_some_and(|stat| stat.id == child.id && stat.group == child.id.pid) {
            process::kill_group(child.id.pid);
        }
        if let Err(error) = child.signal(Signal::KILL) {
            tracing::warn!(%error, "it cannot be killed");
        }
    }
    let end = Instant::now() + KILLED_MAX;
    for (child, title) in left() {
        if !child.wait_end(end.saturating_duration_since(Instant::now())) {
            return Err(Error::Late(format!("the kernel does not let \"{title}\" (process {}) go", child.id.pid)));
        }
    }
    Ok(())
}

/// Each with its title. Held, and judged after that: what is judged is what will be signalled. One that was started later belongs to the
/// recovery.
fn children_before(postmaster: &Postmaster, before: Tick) -> Vec<(Held, String)> {
    let ours = |pid: i32| process::stat(pid).is_some_and(|stat| stat.parent_pid == postmaster.pid());
    let held = |pid: i32| {
        let held = Held::open(pid)?;
        // The postmaster lives still, so its id is its own and the child is its child.
        let child = ours(pid) && !postmaster.ended() && held.id.started_before(before);
        let title = process::title(pid);
        (child && !is_logger(&title)).then_some((held, title))
    };
    process::all().into_iter().filter(|pid| ours(*pid)).filter_map(held).collect()
}

/// The collector of the server's log outlives every crash cycle, and hears no signal but its end of input.
fn is_logger(title: &str) -> bool {
    title.ends_with(": logger")
}

#[cfg(test)]
mod tests {
    use super::is_logger;
    use crate::process::{stat, title};
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    use std::process::Command;

    #[test]
    fn the_log_collector_is_known_by_its_title() {
        assert!(is_logger("postgres: logger") && is_logger("postgres: batman: logger"));
        assert!(!is_logger("postgres: logger logger [local] idle") && !is_logger("postgres: walwriter"));
    }

    #[test]
    fn a_process_that_has_given_its_memory_back_is_named_all_the_same() {
        let mut child = Command::new("true").spawn().expect("a program");
        let pid = i32::try_from(child.id()).expect("an id");
        let id = Pid::from_child(&child);
        // It has ended, and nobody has asked what became of it: its id and its name are all that is left.
        waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("it ends");
        assert_eq!(title(pid), "true, which is ending,", "{:?}", stat(pid));
        assert!(!is_logger(&title(pid)));
        child.wait().expect("it is ours");
    }
}
