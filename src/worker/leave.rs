//! The ways in which the worker gives the seat up.

use super::Worker;
use crate::commands::Told;
use crate::pg::sessions::{self, Session};
use crate::pg::{freeze, latch, process, settings, wal};
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
/// How long recovery leaves processor and disk to those clients and to a successor on the same machine, and how long if their commits wait
/// for standbys.
const RECONNECT: Duration = Duration::from_millis(300);
const RECONNECT_SYNCHRONOUS: Duration = Duration::from_millis(50);
/// How long a session that was just given its answer has to pass it on, in a server that ends its sessions itself and in one that is
/// about to be stopped: that is waited for by every client.
const ANSWER_MAX: Millis = Millis(50);
const ANSWER_MAX_BEFORE_STOP: Millis = Millis(5);
/// Between two looks at the sessions.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

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
        let told = self.commands.leave();
        self.settle(Self::has_settled);
        self.see_told(told, ANSWER_MAX_BEFORE_STOP, |_| {});
        let waits = self.driver.take_rest_waits();
        self.supervisor.share_watchdog(self.inside.watchdog.lent());
        self.inside.end_promises();
        let supervised = self.supervisor.leave(reason, self.driver.memory(), waits);
        if !supervised && *reason == LeaveReason::WorkerLost {
            Supervisor::bequeath(self.driver.memory());
        }
        if supervised {
            // The supervisor has it from here on, and closes it when it is stopped.
            self.supervisor.share_watchdog(None);
            self.inside.watchdog.follow(None, None);
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
            // Nobody is promised anything that whoever acts next has not heard of.
            let supervisor = &mut self.supervisor;
            self.driver.tick_telling(&mut self.inside, &mut |memory| supervisor.beat(memory));
        }
    }

    /// Waits until sessions that were given an answer have passed it on, and calls `then` with each that is still there.
    fn see_told(&self, mut told: Vec<Told>, at_most: Millis, mut then: impl FnMut(Session)) {
        let end = clock::now() + at_most;
        while !told.is_empty() {
            let late = clock::now() >= end;
            let sessions = sessions::all();
            told.retain(|told| {
                let session = sessions.iter().copied().find(|session| session.pid == told.pid);
                let over = session.filter(|session| late || self.commands.has_told(*told, *session));
                over.into_iter().for_each(&mut then);
                session.is_some() && over.is_none()
            });
            if !told.is_empty() {
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }

    fn has_settled(&self) -> bool {
        self.driver.quiet() && self.inside.unparked()
    }

    /// Ends this process in a way that makes the postmaster begin recovery, as a parked standby. Whatever it holds, a frozen log
    /// above all, it keeps until then.
    fn demote_in_place(&mut self, reason: &LeaveReason) -> ! {
        let told = self.commands.leave();
        let others = |session: &Session| !told.iter().any(|told| told.pid == session.pid);
        for session in sessions::all().into_iter().filter(others) {
            session.signal(Signal::TERM);
        }
        self.flush_what_was_acknowledged();
        let mut farewell = clock::now() + FAREWELL;
        self.settle(|worker| worker.driver.quiet());
        // Another leads by now or will: nobody waits for this.
        self.see_told(told, ANSWER_MAX, |session| {
            session.signal(Signal::TERM);
            farewell = clock::now() + FAREWELL;
        });
        while clock::now() < farewell && !sessions::all().is_empty() {
            std::thread::sleep(LOOK_AGAIN);
        }
        if *reason == LeaveReason::Switchover {
            std::thread::sleep(if settings::commits_wait() { RECONNECT_SYNCHRONOUS } else { RECONNECT });
        }
        if let Some(text) = self.inside.handover_times() {
            self.driver.note("hand_over", text);
        }
        self.keep_events();
        let waits = self.driver.take_rest_waits();
        self.supervisor.share_watchdog(self.inside.watchdog.lent());
        self.inside.end_promises();
        if !self.supervisor.leave(reason, self.driver.memory(), waits) {
            Supervisor::bequeath(self.driver.memory());
        }
        self.log.flush();
        process::exit_into_recovery()
    }

    /// Whoever commits with `synchronous_commit = off` has accepted that a crash takes the last of that, and this is none. It waits for the
    /// disk: if that hangs, the supervisor ends this worker, and recovery begins all the same.
    fn flush_what_was_acknowledged(&self) {
        let end = fence::unflushed_until(self.shared);
        if !self.inside.is_frozen() && wal::phase() == wal::Phase::Primary && wal::flushed().0 < end {
            freeze::flush(end);
        }
    }
}
