//! The ways in which the worker gives the seat up.

use super::Worker;
use crate::pg::{latch, process, sessions};
use crate::supervisor::Supervisor;
use crate::{fence, port};
use ha_core::clock::Millis;
use ha_core::seat::LeaveReason;
use ha_node::clock;
use rustix::process::Signal;
use std::time::Duration;

/// How long a request that is under way may hold up the seat when we leave.
const LEAVE_WAIT: Millis = Millis(500);
/// How long sessions are given to tell their clients where to go.
const FAREWELL: Millis = Millis(5);

impl Worker {
    /// Gives the seat up: nothing more is acknowledged, no request is under way, and the supervisor knows all we know.
    pub(super) fn leave(&mut self, reason: &LeaveReason) {
        if self.inside.ends_in_place(self.driver.memory()) {
            self.demote_in_place(reason);
        }
        // A worker that is only replaced leaves the fence to its deadline, which the lease covers.
        if *reason != LeaveReason::WorkerLost {
            fence::close(self.shared);
        }
        self.inside.call_off_handover();
        if self.supervisor.seat().is_none() {
            return;
        }
        self.settle(Self::has_settled);
        let waits = self.driver.take_rest_waits();
        let supervised = self.supervisor.leave(reason, self.driver.memory(), waits);
        if !supervised && *reason == LeaveReason::WorkerLost {
            Supervisor::bequeath(self.driver.memory());
        }
        self.inside.end_leaving();
        self.inside.seat = None;
        self.page_due = true;
        if !supervised && !matches!(reason, LeaveReason::Shutdown | LeaveReason::WorkerLost) {
            tracing::warn!("no supervisor can turn this server into a standby: it is shut down ({reason})");
            port::signal(Signal::INT);
        }
    }

    /// Ends what is under way, for as long as that may take.
    fn settle(&mut self, settled: impl Fn(&Self) -> bool) {
        self.commands.leave();
        self.inside.begin_leaving();
        self.driver.begin_leaving();
        self.driver.stop_rest();
        let end = clock::now() + LEAVE_WAIT;
        while !settled(self) && clock::now() < end {
            latch::wait(self.supervisor.fd(), Duration::from_millis(20));
            latch::reset();
            self.inside.take_files();
            self.driver.tick(&mut self.inside);
        }
    }

    fn has_settled(&self) -> bool {
        self.driver.quiet() && self.inside.unparked()
    }

    /// Ends this process in a way that makes the postmaster begin recovery, as a parked standby. Whatever it holds, a frozen log
    /// above all, it keeps until then.
    fn demote_in_place(&mut self, reason: &LeaveReason) -> ! {
        if self.commands.leave() {
            // The session that asked is told so before it ends.
            std::thread::sleep(Duration::from_millis(1));
        }
        for session in sessions::all() {
            session.signal(Signal::TERM);
        }
        let farewell = clock::now() + FAREWELL;
        self.settle(|worker| worker.driver.quiet());
        while clock::now() < farewell && !sessions::all().is_empty() {
            std::thread::sleep(Duration::from_micros(500));
        }
        if let Some(text) = self.inside.handover_times() {
            self.driver.note("hand_over", text);
        }
        self.keep_events();
        let waits = self.driver.take_rest_waits();
        if !self.supervisor.leave(reason, self.driver.memory(), waits) {
            Supervisor::bequeath(self.driver.memory());
        }
        self.log.flush();
        process::exit_into_recovery()
    }
}
