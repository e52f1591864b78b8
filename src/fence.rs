//! The commit fence: what may happen on a primary whose lease is over.
//!
//! Policy only; the callbacks that ask it are in [`crate::pg::hooks`]. The deadline in shared memory leaves zero (closed) in one
//! way alone: the loop worker's main thread opens it ([`open`]). The network thread may extend it and close it.

use crate::shmem::{Shared, shared};
use ha_core::clock::Tick;
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
        u8::from(data_dir.join("ha_ext.marker").try_exists().unwrap_or(true))
    };
    MODE.store(mode, Ordering::Relaxed);
}

/// Whether nothing may be acknowledged now.
pub fn closed() -> bool {
    shared().is_none_or(|shared| now_ns() >= shared.deadline_ns.load(Ordering::Acquire))
}

fn deadline_ns(lease: &Lease) -> u64 {
    lease.deadline().0.saturating_mul(1_000_000)
}

/// Opens the fence until the lease's deadline. That its leader key was not lost meanwhile is checked by the driver, after this.
pub fn open(shared: &Shared, lease: &Lease) {
    shared.deadline_ns.fetch_max(deadline_ns(lease), Ordering::AcqRel);
}

/// Until when commits may be acknowledged; zero when the fence is closed.
pub fn deadline(shared: &Shared) -> Tick {
    Tick(shared.deadline_ns.load(Ordering::Acquire) / 1_000_000)
}

/// Closes the fence.
pub fn close(shared: &Shared) {
    shared.deadline_ns.store(0, Ordering::Release);
}

/// The store confirmed `lease` (network thread): extends an open fence, as long as the main thread is seen alive.
pub fn confirmed(shared: &Shared, lease: &Lease) {
    let quiet_ns = now_ns().saturating_sub(shared.heartbeat_ns.load(Ordering::Acquire));
    if quiet_ns >= lease.ttl.0.saturating_mul(500_000) {
        return;
    }
    let new = deadline_ns(lease);
    // Only extends: a fence that is closed stays closed, whatever order the two threads come in.
    let _ = shared
        .deadline_ns
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| (old != 0 && new > old).then_some(new));
}

/// The leader key is gone or not ours (network thread).
pub fn leader_lost(shared: &Shared) {
    close(shared);
}

/// The transaction that wants to commit has done something durable: may it?
pub fn check_commit() {
    if closed() {
        refuse("cannot commit: this server does not hold the leader lease");
    }
}

/// Refuses `what` on a primary without a lease.
pub fn check_statement(what: &str) {
    if closed() {
        refuse(&format!("cannot execute {what}: this server does not hold the leader lease"));
    }
}

/// Raises the error of a closed fence.
fn refuse(message: &str) {
    let hint = match mode() {
        Mode::Unconfigured => "The server was started without ha_ext.config_file, but its data directory belongs to a \
             cluster. Start it with ha_bootstrap, or take it out of the cluster with \"ha_bootstrap detach\"."
            .to_owned(),
        Mode::Inert | Mode::Active => match shared().and_then(|shared| shared.leader_hint.read()) {
            Some(leader) if !leader.is_empty() => format!("The leader is {leader}."),
            _ => "No leader is known at the moment. Try again later.".to_owned(),
        },
    };
    crate::pg::report::error(
        PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        message,
        "Nothing is acknowledged here that another server may not know.",
        &hint,
    );
}
