//! Connected standbys, from the walsender and slot arrays.
#![allow(unsafe_code)]

use ha_core::ids::Lsn;
use ha_core::local::StandbyConnection;
use pgrx::pg_sys;
use std::collections::BTreeMap;
use std::ffi::CStr;

/// Every walsender that serves a slot, by slot. Single words are read without the spinlocks: a position that is a
/// moment old is as good, and each tick looks again.
pub fn standbys() -> Vec<StandbyConnection> {
    let slots = active_slots();
    // SAFETY: a plain variable, set before any worker starts.
    let control = unsafe { pg_sys::WalSndCtl };
    // SAFETY: a setting of the server.
    let count = usize::try_from(unsafe { pg_sys::max_wal_senders }).unwrap_or(0);
    // SAFETY: part of the server's shared memory.
    let first = unsafe { (&raw const (*control).walsnds).cast::<pg_sys::WalSnd>() };
    let mut out = Vec::new();
    for number in 0..count {
        // SAFETY: the array has `max_wal_senders` elements.
        let sender = unsafe { first.add(number) };
        // SAFETY: plain data in shared memory, volatile because another process writes it.
        let sender = unsafe { sender.read_volatile() };
        if sender.pid == 0 {
            continue;
        }
        let Some(slot) = slots.get(&sender.pid) else { continue };
        out.push(StandbyConnection {
            slot: slot.clone(),
            streaming: sender.state == pg_sys::WalSndState::WALSNDSTATE_STREAMING,
            flushed: Lsn(sender.flush),
            replayed: Lsn(sender.apply),
        });
    }
    out
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
