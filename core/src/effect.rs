//! Effects: everything a decision can ask a driver to do. A closed set; executors hold no policy.
//!
//! Order is part of the contract: seal before demote, demote before release, acquire before promote.
//! An effect whose outcome matters ([`Effect::Dcs`], [`Effect::Run`]) ends the list of its decision.

use crate::clock::{Millis, Tick};
use crate::dcs::DcsCall;
use crate::failsafe::Reply;
use crate::ids::{NodeName, Revision, Timeline};
use crate::lease::Lease;
use crate::local::Upstream;
use crate::seat::LeaveReason;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing to do. Executing an effect twice does no harm (I10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Send a request to the store; its end comes back as [`crate::outcome::Outcome::Dcs`].
    Dcs(DcsCall),
    /// Ask these members `GET /patroni`, all at once; answers arrive in `View::peers`.
    PollPeers {
        /// Name and `api_url` of each.
        targets: Vec<(NodeName, String)>,
    },
    /// Ask these members, all at once, to stay away from the leader key; answers arrive in `View::promises`.
    AskFailsafe {
        /// Name and `api_url` of each.
        targets: Vec<(NodeName, String)>,
        /// Create revision of the leader key that this node leads by.
        created: Revision,
    },
    /// Answer a question of `View::questions`. What was promised must be known to whoever acts for this node next before it is told.
    AnswerFailsafe {
        /// Which.
        question: u64,
        /// What it is told.
        reply: Reply,
    },
    /// Keep this on disk for whoever starts after both processes have ended; 0 keeps nothing. What is kept shows in
    /// [`crate::local::LocalView::kept_ttl`]: less from now on, more once it is there.
    KeepTtl {
        /// For how long promises may be given.
        ttl: Millis,
    },
    /// Keep an open fence open until then, by what every other member promised (inside).
    ExtendFence {
        /// Until when.
        until: Tick,
    },
    /// Let an open fence come to its end by then: less is left of the lease than was thought (inside).
    LimitFence {
        /// Until when at most.
        until: Tick,
    },
    /// Let commits be acknowledged until the lease's deadline (inside).
    OpenFence {
        /// The confirmed lease.
        lease: Lease,
    },
    /// Let commits be acknowledged without a deadline, until the fence is opened or closed again: maintenance mode (inside).
    UnbindFence {
        /// The confirmed lease, under which the store was told.
        lease: Lease,
    },
    /// Acknowledge nothing more. Both seats: outside it is a no-op, since nothing runs that could.
    CloseFence,
    /// Trigger the promotion of this standby (inside). Cannot be cancelled.
    Promote {
        /// The proof that we may.
        lease: Lease,
        /// The timeline that was claimed and that the server must choose.
        timeline: Timeline,
        /// Timelines in between that others claimed: made unavailable to this server first.
        skip: Vec<Timeline>,
    },
    /// End what may hold up the replay of a server that is being promoted (inside). Which session is in the way is not known outside
    /// the startup process: all that are in a transaction are meant.
    PressOn(Pressure),
    /// Ask for a checkpoint, without waiting (inside).
    Checkpoint,
    /// Point the standby at `upstream`, or park it with `None` (inside; reload, no restart).
    Follow {
        /// Whom to follow.
        upstream: Option<Upstream>,
    },
    /// Make everything ready for a demotion in place: `standby.signal`, the mark that withholds reads, settings that follow
    /// nobody and restore nothing, loaded by the postmaster (inside). [`crate::local::InPlace::parked`] shows that it is done.
    Park,
    /// Undo [`Effect::Park`] (inside).
    Unpark,
    /// Hold commits and refuse new sessions, until the seal is lifted or the fence closes (inside).
    Seal,
    /// Lift the seal, and thaw a frozen log: held commits go on as if nothing had happened (inside).
    Unseal,
    /// Once no commit is in flight: end the log with a record of no effect, flush it, and let nothing more become durable (inside).
    /// [`crate::local::Seal::Frozen`] shows that it is done, and where the log ends.
    Freeze,
    /// This node's WAL was compared with the leader's: sessions may read again (inside).
    ServeReads,
    /// Turn this server into one that cannot acknowledge: give the seat to the supervisor, which stops it (inside).
    /// Without a supervisor the postmaster is told to shut down fast.
    Demote {
        /// Why, for the supervisor and the log.
        reason: LeaveReason,
        /// How.
        method: DemoteMethod,
    },
    /// Start the watchdog if it does not run, set it to this timeout, feed it. Not after `by`. What became of it shows in
    /// [`crate::local::LocalView::watchdog`].
    ArmWatchdog {
        /// Without being fed for so long it resets this machine; whole seconds.
        timeout_ms: Millis,
        /// Later it might reset this machine after another has begun to lead.
        by: Tick,
    },
    /// Feed the watchdog, unless it is later than `by`.
    FeedWatchdog {
        /// As above.
        by: Tick,
    },
    /// Stop the watchdog and close it: nothing here can write.
    DisarmWatchdog,
    /// Run a step on the stopped (or to be stopped) server (outside); its end comes back as an outcome.
    Run(Step),
    /// The supervisor may exit: nothing is left to do (outside).
    Exit {
        /// Process exit code.
        code: i32,
    },
}

/// How hard sessions are pressed that may hold up replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pressure {
    /// Their statements are cancelled.
    Cancel,
    /// They are terminated.
    Terminate,
}

/// How a primary becomes a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DemoteMethod {
    /// Stop the server, start it as a standby.
    Restart,
    /// End all sessions in the same postmaster; recovery begins as a parked standby. Only after [`Effect::Park`].
    InPlace,
}

/// A step of the supervisor. At most one runs at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Make a new cluster in an empty data directory: initdb, roles, configuration, marker.
    Initdb,
    /// Copy the data directory from a member into an empty one.
    BaseBackup {
        /// From whom.
        from: Upstream,
    },
    /// Rewind onto the leader's history. Marks the directory as damaged until it is through.
    Rewind {
        /// The leader.
        from: Upstream,
    },
    /// Crash recovery in single-user mode, ended by a clean shutdown.
    CrashRecover,
    /// Start the server; the step is over once the postmaster runs.
    Start {
        /// As what.
        role: StartRole,
    },
    /// Stop the server; the step is over once the postmaster is gone.
    Stop {
        /// How.
        mode: StopMode,
    },
    /// A server becomes a standby in place: end the processes from before that do not go, and see to the WAL that waits for the
    /// archiver, which does not run in a standby.
    EndStragglers,
    /// Kill what is left of a server whose postmaster is gone, and wait until the tenancy lock is free.
    ClearLeftover,
    /// Rename a failed bootstrap out of the way (lesson 119).
    SetAside,
}

/// As what a server is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartRole {
    /// Without `standby.signal`: crash recovery on the same timeline. Needs the lease.
    Primary {
        /// The proof that we may.
        lease: Lease,
    },
    /// With `standby.signal`, following `upstream` or parked.
    Standby {
        /// Whom to follow.
        upstream: Option<Upstream>,
    },
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopMode {
    /// Sessions end, shutdown checkpoint, walsenders drain (SIGINT).
    Fast,
    /// At once, without a checkpoint (SIGQUIT).
    Immediate,
}

impl Effect {
    /// Whether the effect ends the list of its decision because what comes next depends on its outcome.
    #[must_use]
    pub fn outcome_matters(&self) -> bool {
        match self {
            Effect::Dcs(_) | Effect::Run(_) | Effect::Demote { .. } | Effect::Exit { .. } => true,
            Effect::PollPeers { .. }
            | Effect::AskFailsafe { .. }
            | Effect::AnswerFailsafe { .. }
            | Effect::KeepTtl { .. }
            | Effect::ExtendFence { .. }
            | Effect::LimitFence { .. }
            | Effect::OpenFence { .. }
            | Effect::UnbindFence { .. }
            | Effect::CloseFence
            | Effect::Promote { .. }
            | Effect::PressOn(_)
            | Effect::Checkpoint
            | Effect::Park
            | Effect::Unpark
            | Effect::Seal
            | Effect::Unseal
            | Effect::Freeze
            | Effect::ServeReads
            | Effect::ArmWatchdog { .. }
            | Effect::FeedWatchdog { .. }
            | Effect::DisarmWatchdog
            | Effect::Follow { .. } => false,
        }
    }

    /// Which seat can execute it: `None` means both.
    #[must_use]
    pub fn seat(&self) -> Option<crate::view::Side> {
        use crate::view::Side;
        match self {
            Effect::Dcs(_)
            | Effect::PollPeers { .. }
            | Effect::AskFailsafe { .. }
            | Effect::AnswerFailsafe { .. }
            | Effect::KeepTtl { .. }
            | Effect::ArmWatchdog { .. }
            | Effect::FeedWatchdog { .. }
            | Effect::DisarmWatchdog
            | Effect::CloseFence => None,
            Effect::ExtendFence { .. }
            | Effect::LimitFence { .. }
            | Effect::OpenFence { .. }
            | Effect::UnbindFence { .. }
            | Effect::Promote { .. }
            | Effect::PressOn(_)
            | Effect::Checkpoint
            | Effect::Park
            | Effect::Unpark
            | Effect::Seal
            | Effect::Unseal
            | Effect::Freeze
            | Effect::ServeReads
            | Effect::Follow { .. }
            | Effect::Demote { .. } => Some(Side::Inside),
            Effect::Run(_) | Effect::Exit { .. } => Some(Side::Outside),
        }
    }
}

fn names(targets: &[(NodeName, String)]) -> String {
    let names: Vec<&str> = targets.iter().map(|(name, _)| name.as_str()).collect();
    names.join(", ")
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Dcs(call) => write!(f, "store: {call:?}"),
            Effect::PollPeers { targets } => write!(f, "ask {}", names(targets)),
            Effect::AskFailsafe { targets, .. } => write!(f, "ask {} to stay away from the leader key", names(targets)),
            Effect::AnswerFailsafe { reply: Reply::Accepted(lasts), .. } => {
                write!(f, "promise to stay away from the leader key for {lasts}")
            }
            Effect::AnswerFailsafe { reply: Reply::Off, .. } => f.write_str("promise nothing: failsafe mode is off"),
            Effect::AnswerFailsafe { reply: Reply::Leads, .. } => f.write_str("promise nothing: this node leads"),
            Effect::AnswerFailsafe { reply: Reply::Refused(why), .. } => write!(f, "promise nothing: {why}"),
            Effect::KeepTtl { ttl } => write!(f, "keep on disk that promises last for {ttl} at most"),
            Effect::ExtendFence { .. } => f.write_str("keep the fence open, as every member stays away"),
            Effect::LimitFence { .. } => f.write_str("let the fence close sooner"),
            Effect::OpenFence { lease } => write!(f, "open the fence for lease {}", lease.id),
            Effect::UnbindFence { lease } => {
                write!(f, "keep the fence open without a deadline, as lease {} is paused", lease.id)
            }
            Effect::CloseFence => f.write_str("close the fence"),
            Effect::Promote { timeline, .. } => write!(f, "promote to timeline {timeline}"),
            Effect::PressOn(Pressure::Cancel) => f.write_str("cancel statements that may hold up replay"),
            Effect::PressOn(Pressure::Terminate) => f.write_str("terminate sessions that may hold up replay"),
            Effect::Checkpoint => f.write_str("checkpoint"),
            Effect::Park => f.write_str("prepare a demotion in place"),
            Effect::Unpark => f.write_str("undo the preparation of a demotion in place"),
            Effect::Seal => f.write_str("hold commits"),
            Effect::Unseal => f.write_str("let held commits go on"),
            Effect::Freeze => f.write_str("freeze the log"),
            Effect::ServeReads => f.write_str("serve reads"),
            Effect::Follow { upstream: Some(upstream) } => write!(f, "follow {}", upstream.name),
            Effect::Follow { upstream: None } => f.write_str("follow nobody"),
            Effect::Demote { reason, method: DemoteMethod::Restart } => write!(f, "demote: {reason}"),
            Effect::Demote { reason, method: DemoteMethod::InPlace } => write!(f, "demote in place: {reason}"),
            Effect::ArmWatchdog { timeout_ms, .. } => write!(f, "arm the watchdog: {} s", timeout_ms.0 / 1000),
            Effect::FeedWatchdog { .. } => f.write_str("feed the watchdog"),
            Effect::DisarmWatchdog => f.write_str("stop the watchdog"),
            Effect::Run(step) => write!(f, "{step}"),
            Effect::Exit { code } => write!(f, "exit with {code}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Initdb => f.write_str("initialise a new cluster"),
            Step::BaseBackup { from } => write!(f, "copy the data directory from {}", from.name),
            Step::Rewind { from } => write!(f, "rewind onto {}", from.name),
            Step::CrashRecover => f.write_str("crash recovery"),
            Step::Start { role: StartRole::Primary { .. } } => f.write_str("start as primary"),
            Step::Start { role: StartRole::Standby { upstream: Some(to) } } => {
                write!(f, "start as standby of {}", to.name)
            }
            Step::Start { role: StartRole::Standby { upstream: None } } => f.write_str("start as parked standby"),
            Step::Stop { mode: StopMode::Fast } => f.write_str("stop"),
            Step::Stop { mode: StopMode::Immediate } => f.write_str("stop at once"),
            Step::EndStragglers => f.write_str("end what is left of the former primary"),
            Step::ClearLeftover => f.write_str("clear what is left of the server"),
            Step::SetAside => f.write_str("set the failed data directory aside"),
        }
    }
}
