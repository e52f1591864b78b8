//! Ends what is left of a server whose postmaster was killed: its children go on working in the data directory.

use super::Context;
use crate::error::{Error, Result};
use crate::postmaster::{Postmaster, leftovers, tenancy_free};
use crate::process::{reap_orphans, wait_readable};
use rustix::fd::AsFd;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How long the lock may stay taken after everybody we know of was killed.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Between two looks when there is nothing to wait on: somebody holds the lock that we do not see.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Runs the step.
pub fn perform(context: &Context) -> Result<()> {
    let site = &context.site;
    let end = Instant::now() + WAIT_MAX;
    loop {
        context.cancel.check()?;
        if let Some(postmaster) = Postmaster::adopt(site.data_dir()) {
            let why = format!("a postmaster lives (process {}): nothing is left over", postmaster.pid());
            return Err(Error::Refused(why));
        }
        let found = leftovers(site);
        for process in &found {
            tracing::warn!(pid = process.id.pid, "a process of the dead server is killed");
            process.signal(Signal::KILL)?;
        }
        for process in &found {
            let _ = wait_readable(&[&process.as_fd()], end.saturating_duration_since(Instant::now()));
        }
        reap_orphans();
        if found.is_empty() && tenancy_free(site.data_dir()) {
            return Ok(());
        }
        if Instant::now() >= end {
            let dir = site.data_dir().display();
            return Err(Error::Late(format!("processes of a dead server still hold the lock of {dir}")));
        }
        if found.is_empty() {
            let _ = wait_readable(&[&context.cancel], LOOK_AGAIN);
        }
    }
}
