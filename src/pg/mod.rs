//! All use of the server's C interface. Nothing outside this folder (and `shmem.rs`) is `unsafe`.

pub mod control;
#[cfg(debug_assertions)]
pub mod debug;
pub mod freeze;
pub mod hooks;
pub mod latch;
pub mod locks;
pub mod process;
pub mod queue;
pub mod recovery;
pub mod report;
pub mod segment_end;
pub mod senders;
pub mod sessions;
pub mod settings;
pub mod sql;
pub mod wal;
