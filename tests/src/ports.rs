//! Blocks of TCP ports on loopback, one per cluster, kept apart between test processes by file locks.

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::net::TcpListener;

/// Ports of one block.
const BLOCK: u16 = 20;
/// Below the kernel's ephemeral range, so that no client socket takes one of ours.
const FIRST: u16 = 21_000;
const BLOCKS: u16 = 500;

/// A block of ports that no other cluster uses while this value lives.
#[derive(Debug)]
pub struct Ports {
    next: u16,
    end: u16,
    // Held for its lock.
    _lock: File,
}

impl Ports {
    /// Claims a free block.
    #[must_use]
    pub fn claim() -> Self {
        let dir = std::env::temp_dir().join("ha_tests.ports");
        std::fs::create_dir_all(&dir).expect("the directory of port locks can be made");
        for block in 0..BLOCKS {
            let path = dir.join(block.to_string());
            let Ok(lock) = OpenOptions::new().create(true).truncate(false).write(true).open(&path) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let first = FIRST + block * BLOCK;
                if (first..first + BLOCK).all(is_free) {
                    return Self { next: first, end: first + BLOCK, _lock: lock };
                }
            }
        }
        panic!("no free block of {BLOCK} ports between {FIRST} and {}", FIRST + BLOCK * BLOCKS);
    }

    /// The next port of the block.
    pub fn take(&mut self) -> u16 {
        assert!(self.next < self.end, "a cluster needs more than {BLOCK} ports");
        self.next += 1;
        self.next - 1
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
