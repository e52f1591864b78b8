//! What the tests stand on: real etcd servers, a proxy that misbehaves, certificates, a clock.

pub mod backend;
pub mod certs;
pub mod etcd;
pub mod proxy;

use ha_core::clock::{Millis, Tick};
use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// `CLOCK_BOOTTIME`.
pub fn clock() -> Tick {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (secs, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    Tick(secs * 1000 + nanos / 1_000_000)
}

/// Runs a test on a runtime like the one of the product. No test takes longer than this limit.
pub fn run(test: impl Future<Output = ()>) {
    if crate::left_out() {
        eprintln!("left out on request");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let bounded = async { tokio::time::timeout(Duration::from_secs(50), test).await };
    runtime.block_on(local.run_until(bounded)).expect("the test ends in time");
}

pub async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// The time something took.
pub async fn timed<T>(what: impl Future<Output = T>) -> (Millis, T) {
    let before = clock();
    let result = what.await;
    (clock().since(before), result)
}

/// A port nobody listens on, below the range the kernel takes client ports from.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let offset = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 7_000;
        let port = 13_000 + u16::try_from(offset).expect("below 7000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A directory that goes away with the value.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ha_dcs.{}.{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
