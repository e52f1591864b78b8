//! For how long promises may last, by what is on disk.

use super::Inside;
use crate::files::Job;
use crate::pg::process;
use ha_core::clock::Millis;
use ha_node::kept_ttl;
use ha_node::paths::Paths;

/// What is known of that while the seat is ours.
#[derive(Default)]
pub(super) struct Promises {
    /// What can be counted on.
    pub(super) kept: Millis,
    /// What was asked for and may not be there yet.
    asked: Option<Millis>,
    /// Which time with the seat this is.
    number: u64,
}

impl Inside {
    /// The seat has come: what the disk keeps is what the process that had it before has left there.
    pub fn begin_promises(&mut self) {
        let number = self.files.forget_kept_ttl();
        let (kept, mistake) = kept_ttl::read(&Paths::new(&process::data_dir()));
        if let Some(mistake) = mistake {
            tracing::warn!("{mistake}: it counts as {kept}");
        }
        self.promises = Promises { kept, asked: None, number };
    }

    /// The seat goes: nothing that was asked for is written after this.
    pub fn end_promises(&self) {
        self.files.forget_kept_ttl();
    }

    pub(super) fn keep_ttl(&mut self, ttl: Millis) {
        if self.promises.asked.is_none() {
            self.promises.asked = Some(ttl);
            self.promises.kept = self.promises.kept.min(ttl);
            self.files.send(Job::KeepTtl(self.promises.number, ttl));
        }
    }

    pub(super) fn ttl_kept(&mut self, number: u64, result: std::io::Result<()>) {
        if number != self.promises.number {
            return;
        }
        match (self.promises.asked.take(), result) {
            (Some(asked), Ok(())) => self.promises.kept = asked,
            (_, Ok(())) => {}
            (_, Err(error)) => tracing::warn!("for how long promises may last cannot be kept: {error}"),
        }
    }
}
