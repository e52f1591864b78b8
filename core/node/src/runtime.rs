//! The only way to start a thread: with every signal blocked, and never dying in silence.
//!
//! Postgres installs its handlers for the main thread alone, and its latch is a signalfd: a signal delivered to one
//! of our threads would run a handler on the wrong stack or be lost. So the mask is filled in the *calling* thread
//! before the new one exists, which inherits it (threads that libraries start from there inherit it in turn), and is
//! put back right after.

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Called on a thread of ours that panicked, with its name and what it said. Inside Postgres it must make the
/// main thread leave: a worker without its threads must not go on.
pub type Died = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// Starts a named thread with all signals blocked. A panic in `body` is caught and reported through `died`.
pub fn spawn(name: &str, died: Died, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let label = name.to_owned();
    let guarded = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            died(&label, panic_text(panic.as_ref()));
        }
    };
    let _mask = BlockedSignals::new()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(guarded)
}

/// What a panic said.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}

/// All signals blocked on this thread for as long as the value lives.
struct BlockedSignals {
    before: SigSet,
}

impl BlockedSignals {
    fn new() -> io::Result<Self> {
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        Ok(Self { before })
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // It cannot fail with a mask the kernel gave us itself.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    fn blocked_mask(path: &str) -> u64 {
        let status = std::fs::read_to_string(path).expect("status of this thread");
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("SigBlk");
        u64::from_str_radix(line.trim(), 16).expect("a hexadecimal mask")
    }

    #[test]
    fn threads_and_their_threads_start_with_every_signal_blocked() {
        let died: Died = Arc::new(|name, why| panic!("{name} died: {why}"));
        let before = blocked_mask("/proc/thread-self/status");
        let (tx, rx) = mpsc::channel();
        let nested = died.clone();
        let outer = spawn("outer", died, move || {
            let own = blocked_mask("/proc/thread-self/status");
            let inner_tx = tx.clone();
            tx.send(own).expect("send");
            // As a library would do it.
            #[allow(clippy::disallowed_methods)]
            std::thread::spawn(move || inner_tx.send(blocked_mask("/proc/thread-self/status")).expect("send"));
            drop(nested);
        });
        outer.expect("spawn").join().expect("join");
        for _ in 0..2 {
            let mask = rx.recv_timeout(Duration::from_secs(5)).expect("a mask");
            // SIGKILL and SIGSTOP cannot be blocked, 32 and 33 are glibc's own.
            let catchable = !(1u64 << 8 | 1 << 18 | 1 << 31 | 1 << 32);
            assert_eq!(mask & catchable, catchable, "{mask:x}");
        }
        assert_eq!(blocked_mask("/proc/thread-self/status"), before, "the caller's mask is as it was");
    }

    #[test]
    fn a_panic_is_reported_with_the_name_of_the_thread() {
        let (tx, rx) = mpsc::channel();
        let died: Died = Arc::new(move |name, why| {
            let _ = tx.send(format!("{name}: {why}"));
        });
        let thread = spawn("doomed", died, || panic!("number {}", 7)).expect("spawn");
        thread.join().expect("the panic was caught");
        assert_eq!(rx.recv_timeout(Duration::from_secs(5)).expect("report"), "doomed: number 7");
    }
}
