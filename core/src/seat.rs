//! The seat: who acts for this node, and the messages that pass it on.
//!
//! Each message is one `SOCK_SEQPACKET` packet of JSON on the control socket; file descriptors travel with
//! [`ToSupervisor::Hello`] and [`ToWorker::Grant`].

use crate::clock::Millis;
use crate::memory::Memory;
use crate::watchdog::Running;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A worker that waits for the seat speaks for its server only when it has it: for no longer than this is a request to the store waited for
/// first, if it may be given up ([`crate::dcs::DcsCall::may_be_given_up`]).
pub const PASS_ON_WITHIN: Millis = Millis(300);

/// Why the inside seat was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaveReason {
    /// The server is being shut down by somebody else; the seat follows.
    Shutdown,
    /// The lease is over: stop the server, start it as a standby.
    LeaseLost,
    /// A planned switchover: stop the server, hand over, start it as a standby.
    Switchover,
    /// This standby cannot follow the leader as it is: stop it, rewind or copy, start it.
    Rejoin,
    /// The worker is gone without a word: a crash cycle or a dead postmaster.
    WorkerLost,
}

impl fmt::Display for LeaveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeaveReason::Shutdown => "the server is shutting down",
            LeaveReason::LeaseLost => "the lease is over",
            LeaveReason::Switchover => "planned switchover",
            LeaveReason::Rejoin => "this standby must rejoin",
            LeaveReason::WorkerLost => "the worker is gone",
        })
    }
}

/// From the worker to the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// The worker is up. With `memory` it held the seat until now (the supervisor was restarted); the REST
    /// descriptor travels along then.
    Hello {
        /// The worker's process id.
        pid: i32,
        /// The postmaster's process id.
        postmaster_pid: i32,
        /// What it remembers, if it already acted for this node.
        memory: Option<Box<Memory>>,
        /// The watchdog that runs; its descriptor is the last that travels along.
        #[serde(default)]
        watchdog: Option<Running>,
    },
    /// Each tick: what the supervisor needs to go on at any moment.
    Beat {
        /// The inside memory.
        memory: Box<Memory>,
        /// The watchdog that runs; its descriptor travels along the first time.
        #[serde(default)]
        watchdog: Option<Running>,
    },
    /// Just before [`ToSupervisor::Leaving`]: clients of REST that wait for a switchover, to be answered by the
    /// supervisor. Their connections travel along, in this order.
    Waits(Vec<crate::api::SwitchoverWait>),
    /// The worker acts no more. No request to the store is under way.
    Leaving {
        /// Why.
        reason: LeaveReason,
        /// The inside memory.
        memory: Box<Memory>,
        /// The watchdog that runs; its descriptor travels along.
        #[serde(default)]
        watchdog: Option<Running>,
    },
}

/// From the supervisor to the worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The seat is yours. The REST descriptor travels along unless the worker brought it.
    Grant {
        /// Grows with every grant.
        epoch: u64,
        /// What to go on with.
        memory: Box<Memory>,
        /// The watchdog that runs; its descriptor is the last that travels along.
        #[serde(default)]
        watchdog: Option<Running>,
    },
    /// The supervisor has been told to stop the node: leave the seat with [`LeaveReason::Shutdown`]
    /// (or [`LeaveReason::Switchover`], which a leader does) as if the server were shutting down.
    PleaseLeave,
}
