//! The commit fence: what may happen on a primary whose lease is over.
//!
//! Policy only; the callbacks that ask it are in [`crate::pg::hooks`]. The deadline in shared memory leaves zero (closed) in one
//! way alone: the loop worker's main thread opens it ([`open`]). The network thread may extend it and close it.

mod guards;
mod seal;

#[cfg(debug_assertions)]
pub use guards::GUARDS;
pub use guards::{Guard, stands};
pub use seal::{pass, seal, seal_state, sealed, settled, unseal};

use crate::pg::queue;
use crate::shmem::{Shared, shared};
use ha_core::clock::Tick;
use ha_core::ids::Lsn;
use ha_core::lease::Lease;
use ha_node::clock::now_ns;
use pgrx::prelude::PgSqlErrorCode;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

/// What this server is to us; decided once, when the postmaster starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not part of a cluster: we do nothing at all.
    Inert,
    /// The data directory belongs to a cluster, but the server was started without its configuration: closed for good.
    Unconfigured,
    /// The fence follows the lease.
    Active,
}

static MODE: AtomicU8 = AtomicU8::new(0);

/// The mode of this server. Forked processes inherit it.
pub fn mode() -> Mode {
    match MODE.load(Ordering::Relaxed) {
        1 => Mode::Unconfigured,
        2 => Mode::Active,
        _ => Mode::Inert,
    }
}

/// Decides the mode from `ha_ext.config_file` and the marker in the data directory.
pub fn decide_mode(config_file: &str, data_dir: &Path) {
    let mode = if !crate::pg::process::full_server() {
        0
    } else if !config_file.is_empty() {
        2
    } else {
        // A marker that cannot be looked at counts as present.
        u8::from(stands(Guard::Marker) && data_dir.join("ha_ext.marker").try_exists().unwrap_or(true))
    };
    MODE.store(mode, Ordering::Relaxed);
}

/// Whether nothing may be acknowledged now.
pub fn closed() -> bool {
    // A test may end the lease of its own session early.
    #[cfg(debug_assertions)]
    if crate::pg::debug::passed() {
        return true;
    }
    stands(Guard::Deadline) && shared().is_none_or(|shared| now_ns() >= shared.gate.deadline_ns.load(Ordering::Acquire))
}

fn deadline_ns(lease: &Lease) -> u64 {
    lease.deadline().0.saturating_mul(1_000_000)
}

/// Opens the fence until the lease's deadline. That its leader key was not lost meanwhile is checked by the driver, after this.
pub fn open(shared: &Shared, lease: &Lease) {
    if shared.gate.yielded_ns.swap(0, Ordering::AcqRel) != 0 {
        shared.gate.successor.publish("");
    }
    let new = deadline_ns(lease);
    let moves = |old: u64| (old == UNBOUND_NS || new > old).then_some(new);
    let _ = shared.gate.deadline_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, moves);
}

/// The deadline of a fence that maintenance mode keeps open without one.
const UNBOUND_NS: u64 = u64::MAX;

/// Takes the deadline from an open fence, for the worker's main thread; [`open`] gives it one again. One that was closed meanwhile, or whose deadline has passed, stays so.
pub fn unbind(shared: &Shared) {
    let now = now_ns();
    let is_open = |old: u64| (old > now).then_some(UNBOUND_NS);
    let _ = shared.gate.deadline_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, is_open);
}

/// Moves the deadline of an open fence out to `until`, by what the other members promised, for the worker's main thread. One that was
/// closed meanwhile stays so.
pub fn extend(shared: &Shared, until: Tick) {
    let new = until.0.saturating_mul(1_000_000);
    let moves = |old: u64| (old != 0 && old < new).then_some(new);
    let _ = shared.gate.deadline_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, moves);
}

/// Brings the deadline of an open fence forward to `until`, for the worker's main thread. It never moves one out.
pub fn limit(shared: &Shared, until: Tick) {
    let new = until.0.saturating_mul(1_000_000);
    let moves = |old: u64| (old > new && old != UNBOUND_NS).then_some(new);
    let _ = shared.gate.deadline_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, moves);
}

/// Whether the fence is open without a deadline.
pub fn unbound(shared: &Shared) -> bool {
    shared.gate.deadline_ns.load(Ordering::Acquire) == UNBOUND_NS
}

/// Until when commits may be acknowledged; zero when the fence is closed.
pub fn deadline(shared: &Shared) -> Tick {
    Tick(shared.gate.deadline_ns.load(Ordering::Acquire) / 1_000_000)
}

/// A commit of this process is about to be acknowledged before it is flushed.
pub fn committed_unflushed(end: Lsn) {
    if let Some(shared) = shared() {
        // One that wrote nothing has the end of an earlier one.
        if shared.asynchronous_end.load(Ordering::Acquire) < end.0 {
            shared.asynchronous_end.fetch_max(end.0, Ordering::AcqRel);
        }
    }
}

/// Up to where such commits were made. Once the fence is closed none behind it is acknowledged.
pub fn unflushed_until(shared: &Shared) -> Lsn {
    Lsn(shared.asynchronous_end.load(Ordering::Acquire))
}

/// Closes the fence. Held commits fail within moments.
pub fn close(shared: &Shared) {
    shared.gate.deadline_ns.store(0, Ordering::SeqCst);
}

/// Closes the fence because this server is about to be a standby of `successor` (`host:port (name)`, empty if unknown): what is held
/// stays held until its session ends or the seal is lifted, new sessions are sent away, and who is terminated is told where to go. For
/// the worker's main thread.
pub fn close_for_demotion(shared: &Shared, successor: &str) {
    shared.gate.successor.publish(successor);
    shared.gate.yielded_ns.store(now_ns(), Ordering::Release);
    close(shared);
}

/// How long new sessions are sent away at most: a demotion takes less, and if it does not come about somebody must be able
/// to look at this server.
const SENT_AWAY_MAX_NS: u64 = 30_000_000_000;

/// Whether this server is about to be a standby.
pub fn yielding() -> bool {
    let since_ns = shared().map_or(0, |shared| shared.gate.yielded_ns.load(Ordering::Acquire));
    since_ns != 0 && now_ns().saturating_sub(since_ns) < SENT_AWAY_MAX_NS
}

/// Reads are refused on this standby until [`serve_reads`]: it may hold what the new leader does not.
pub fn withhold_reads(shared: &Shared) {
    shared.gate.reads_withheld.store(1, Ordering::Release);
}

/// This standby was compared with its leader: it may be read.
pub fn serve_reads(shared: &Shared) {
    shared.gate.reads_withheld.store(0, Ordering::Release);
}

/// Whether this standby must not be read yet.
pub fn reads_withheld(shared: &Shared) -> bool {
    shared.gate.reads_withheld.load(Ordering::Acquire) != 0
}

/// The store confirmed `lease`, or its `ttl` was lowered (network thread): an open fence is open until its deadline. It is extended only as
/// long as the main thread is seen alive.
pub fn confirmed(shared: &Shared, lease: &Lease) {
    let quiet_ns = now_ns().saturating_sub(shared.heartbeat_ns.load(Ordering::Acquire));
    let alive = quiet_ns < lease.ttl.0.saturating_mul(500_000);
    let new = deadline_ns(lease);
    // A fence that is closed stays closed, whatever order the two threads come in. One that is open may come to its end sooner: a lowered
    // `ttl` moves the key to a shorter lease.
    let moves = |old: u64| {
        let is_open = (old != 0 || !stands(Guard::Reopen)) && old != UNBOUND_NS;
        (is_open && (alive || new < old)).then_some(new)
    };
    let _ = shared.gate.deadline_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, moves);
}

/// The leader key is gone or not ours (network thread).
pub fn leader_lost(shared: &Shared) {
    if stands(Guard::KeyLost) {
        close(shared);
    }
}

fn refuse_commit() {
    refuse("cannot commit: this server does not hold the leader lease");
}

/// Refuses `what` on a primary without a lease.
pub fn check_statement(what: &str) {
    if closed() {
        refuse(&format!("cannot execute {what}: this server does not hold the leader lease"));
    }
}

/// Whether this server is a standby that may hold what its leader does not. Only asked in recovery.
pub fn standby_withheld() -> bool {
    shared().is_none_or(reads_withheld)
}

/// Raises the error of a standby that must not be read yet.
pub fn refuse_standby_read() {
    crate::pg::report::error(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        "cannot execute a read: this server was demoted and is not yet known to agree with the new leader",
        "It may show what another server does not know.",
        &leader_hint(),
    );
}

/// Refuses a new session while this server turns into a standby.
pub fn check_login() {
    if stands(Guard::Login) && yielding() {
        crate::pg::report::fatal(
            PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
            "this server is about to become a standby",
            &leader_hint(),
        );
    }
}

/// Whether this server is a member of a cluster, and its worker at work.
pub fn in_cluster() -> bool {
    mode() == Mode::Active
}

/// Where a client should go.
pub fn leader_hint() -> String {
    let known = |leader: &String| !leader.is_empty();
    let Some(shared) = shared() else { return String::new() };
    if yielding()
        && let Some(next) = shared.gate.successor.read().filter(known)
    {
        return format!("The next leader is {next}.");
    }
    match shared.leader_hint.read().filter(known) {
        Some(leader) => format!("The leader is {leader}."),
        None => "No leader is known at the moment. Try again later.".to_owned(),
    }
}

/// Whether the log of this server is frozen and its successor has the key: its sessions wait, or end.
pub fn handed_over() -> bool {
    yielding() && shared().is_some_and(sealed)
}

/// Raises the error of a closed fence. A server that has handed over waits with it until its sessions are ended: who is sent away
/// sooner only asks servers that do not lead yet.
fn refuse(message: &str) {
    if let Some(shared) = shared()
        && handed_over()
    {
        queue::wait(&shared.held, || !handed_over());
    }
    let hint = match mode() {
        Mode::Unconfigured => "The server was started without ha_ext.config_file, but its data directory belongs to a \
             cluster. Start it with ha_bootstrap, or take it out of the cluster with \"ha_bootstrap detach\"."
            .to_owned(),
        Mode::Inert | Mode::Active => leader_hint(),
    };
    crate::pg::report::error(
        PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        message,
        "Nothing is acknowledged here that another server may not know.",
        &hint,
    );
}
