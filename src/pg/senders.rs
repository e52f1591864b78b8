//! Connected standbys, from the walsender and slot arrays.
#![allow(unsafe_code)]

use ha_core::ids::Lsn;
use ha_core::local::StandbyConnection;
use pgrx::pg_sys;
use std::collections::BTreeMap;
use std::ffi::CStr;

/// Every walsender that serves a slot, by slot.
pub fn standbys() -> Vec<StandbyConnection> {
    let slots = active_slots();
    let connection = |sender: pg_sys::WalSnd| {
        Some(StandbyConnection {
            slot: slots.get(&sender.pid)?.clone(),
            streaming: sender.state == pg_sys::WalSndState::WALSNDSTATE_STREAMING,
            flushed: Lsn(sender.flush),
            replayed: Lsn(sender.apply),
        })
    };
    senders().filter_map(connection).collect()
}

/// A number that is another whenever one of them has flushed more.
pub fn flushed_sum() -> u64 {
    senders().fold(0, |sum, sender| sum.wrapping_add(sender.flush))
}

/// Every walsender. Single words are read without the spinlocks: a position that is a moment old is as good, and each tick
/// looks again.
fn senders() -> impl Iterator<Item = pg_sys::WalSnd> {
    // SAFETY: a plain variable, set before any worker starts.
    let control = unsafe { pg_sys::WalSndCtl };
    // SAFETY: a setting of the server.
    let count = usize::try_from(unsafe { pg_sys::max_wal_senders }).unwrap_or(0);
    // SAFETY: part of the server's shared memory.
    let first = unsafe { (&raw const (*control).walsnds).cast::<pg_sys::WalSnd>() };
    let sender = move |number| {
        // SAFETY: the array has `max_wal_senders` elements.
        let sender = unsafe { first.add(number) };
        // SAFETY: plain data in shared memory, volatile because another process writes it.
        unsafe { sender.read_volatile() }
    };
    (0..count).map(sender).filter(|sender| sender.pid != 0)
}

/// Names of the slots in use, by the process that uses them.
fn active_slots() -> BTreeMap<i32, String> {
    // SAFETY: a plain variable, set before any worker starts.
    let control = unsafe { pg_sys::ReplicationSlotCtl };
    // SAFETY: a setting of the server.
    let count = usize::try_from(unsafe { pg_sys::max_replication_slots }).unwrap_or(0);
    let mut out = BTreeMap::new();
    if control.is_null() {
        return out;
    }
    // SAFETY: part of the server's shared memory.
    let first = unsafe { (&raw const (*control).replication_slots).cast::<pg_sys::ReplicationSlot>() };
    for number in 0..count {
        // SAFETY: the array has `max_replication_slots` elements.
        let slot = unsafe { first.add(number) };
        // SAFETY: part of the server's shared memory.
        let active_pid = unsafe { &raw const (*slot).active_pid };
        // SAFETY: as above; volatile because another process writes it.
        let pid = unsafe { active_pid.read_volatile() };
        if pid == 0 {
            continue;
        }
        // SAFETY: the name of a slot does not change while it is in use.
        let name = unsafe { &(*slot).data.name.data };
        // SAFETY: a name is terminated within its array.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        out.insert(pid, name.to_string_lossy().into_owned());
    }
    out
}
