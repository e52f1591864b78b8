//! The last moments of a leader that hands over: commits held, the log frozen, then the demotion in place.

use super::Inside;
use crate::fence;
use crate::pg::{freeze, process, report};
use ha_core::ids::{Lsn, NodeName};
use ha_core::local::Seal;
use ha_core::memory::{Memory, Stage};
use ha_core::seat::LeaveReason;
use ha_node::clock;

/// What is under way.
#[derive(Default)]
pub(super) struct Handover {
    /// Where the log ends, while nobody may write it.
    frozen: Option<Lsn>,
    times: Times,
    /// The demotion is to be in place.
    in_place: bool,
    /// A switchover is under way.
    pub switching: bool,
    /// Who leads after it, for clients: `host:port (name)`.
    successor: String,
}

/// When each step was done, nanoseconds of `CLOCK_BOOTTIME`; 0 is not.
#[derive(Clone, Copy, Default)]
struct Times {
    begun: u64,
    sealed: u64,
    drained: u64,
    confirmed: u64,
    released: u64,
    /// The successor leads, or was waited for long enough.
    succeeded: u64,
}

/// To whom this node hands over, if it does.
pub fn candidate(memory: &Memory) -> Option<&NodeName> {
    match &memory.stage {
        Stage::Demoting { candidate, .. } => candidate.as_ref(),
        Stage::Preparing { candidate, .. }
        | Stage::Sealing { candidate, .. }
        | Stage::HandingOver { candidate, .. } => Some(candidate),
        Stage::Steady => None,
    }
}

impl Inside {
    /// The main loop knows whether there is a change of role, and whom clients are sent to then.
    pub fn set_successor(&mut self, switching: bool, successor: String) {
        self.handover.switching = switching;
        self.handover.successor = successor;
    }

    pub(super) fn seal(&mut self) {
        if !fence::sealed(self.shared) {
            self.handover.times = Times { begun: clock::now_ns(), ..Times::default() };
            fence::seal(self.shared);
        }
    }

    /// Held commits go on; what was held back in memory may become durable before.
    pub(super) fn unseal(&mut self) {
        self.handover.frozen = None;
        if let Err(error) = freeze::thaw() {
            report::warning(&format!("the log cannot go on, recovery begins: {error}"));
            process::exit_into_recovery();
        }
        fence::unseal(self.shared);
    }

    /// Only when every commit that will be acknowledged is in the log; the next turn asks again.
    pub(super) fn freeze(&mut self) {
        if self.handover.frozen.is_some() || self.seal_state() != (Seal::Holding { in_flight: 0 }) {
            return;
        }
        self.handover.times.sealed = clock::now_ns();
        match freeze::freeze(&process::data_dir()) {
            Ok(frozen) => {
                self.handover.times.drained = clock::now_ns();
                self.handover.frozen = Some(frozen);
            }
            Err(error) => tracing::warn!("cannot freeze the log yet: {error}"),
        }
    }

    pub(super) fn seal_state(&self) -> Seal {
        match self.handover.frozen {
            Some(at) => Seal::Frozen { at },
            None => fence::seal_state(self.shared),
        }
    }

    /// Nothing more becomes durable here.
    pub fn is_frozen(&self) -> bool {
        self.handover.frozen.is_some()
    }

    /// When the log was ended.
    pub(super) fn frozen_at_ns(&self) -> Option<u64> {
        self.is_frozen().then_some(self.handover.times.drained)
    }

    /// The log has ended, and what the candidate has of it decides.
    pub fn watches_the_candidate(&self) -> bool {
        self.handover.frozen.is_some() && self.handover.times.released == 0
    }

    /// Whether what happens now is waited for by every client.
    pub fn clients_wait(&self) -> bool {
        self.handover.frozen.is_some() || fence::sealed(self.shared) || self.promotion_runs()
    }

    pub(super) fn close_fence(&mut self, memory: &Memory) {
        if self.handover.frozen.is_some() && self.handover.times.confirmed == 0 {
            self.handover.times.confirmed = clock::now_ns();
        }
        let released = matches!(memory.stage, Stage::HandingOver { .. }) && memory.lease.is_none();
        if released && self.handover.times.released == 0 {
            self.handover.times.released = clock::now_ns();
        }
        if memory.stage.resigning() {
            fence::close_for_demotion(self.shared, &self.handover.successor);
        } else {
            fence::close(self.shared);
        }
    }

    pub(super) fn demote_in_place(&mut self, reason: &LeaveReason) -> Result<(), String> {
        if !self.parked(&self.files.facts().place) {
            return Err("recovery would not begin as a parked standby".to_owned());
        }
        self.handover.times.succeeded = clock::now_ns();
        self.handover.in_place = true;
        self.leaving = Some(reason.clone());
        Ok(())
    }

    /// The seat is left by a demotion in place: this was decided, or the log was frozen for a hand-over that has gone too far to be
    /// called off, so that nothing may be written here any more, however this worker comes to its end.
    pub fn ends_in_place(&self, memory: &Memory) -> bool {
        let resigned = self.handover.frozen.is_some() && memory.stage.in_place();
        self.handover.in_place || (resigned && self.parked(&self.files.facts().place))
    }

    /// This worker ends, or the server does, before the hand-over.
    pub fn call_off_handover(&mut self) {
        self.unseal();
        self.unpark();
    }

    /// How long each step took, for the flight recorder; `None` if nothing was handed over.
    pub fn handover_times(&self) -> Option<String> {
        let times = self.handover.times;
        if times.begun == 0 {
            return None;
        }
        let steps = [
            ("seal", times.sealed),
            ("drain", times.drained),
            ("confirm", times.confirmed),
            ("release", times.released),
            ("successor", times.succeeded),
            ("total", clock::now_ns()),
        ];
        Some(format!("handed over:{} ms", super::times::since(times.begun, &steps)))
    }
}
