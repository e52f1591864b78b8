//! A named pipe in the place of a watchdog device: what a node writes into it, and when.

use crate::process::account;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the pipe is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a node did with its watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Set to so many seconds, and armed.
    Armed(u32),
    /// Fed.
    Fed,
    /// Stopped.
    Stopped,
}

/// The pipe and who reads it.
#[derive(Debug)]
pub struct PipeWatchdog {
    acts: Arc<Mutex<Vec<(Instant, Act)>>>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl PipeWatchdog {
    /// Makes the pipe `watchdog` in a node's directory and reads it from here on.
    #[must_use]
    pub fn make(dir: &Path) -> Self {
        let path = dir.join("watchdog");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a named pipe can be made");
        let (uid, gid) = account("postgres");
        chown(&path, Some(uid), Some(gid)).expect("root may give files away");
        // Opened for writing, too, it has no end while no node has it open.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut pipe = File::from(rustix::fs::open(&path, flags, Mode::empty()).expect("the pipe can be opened"));
        let (acts, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, ends) = (Arc::clone(&acts), Arc::clone(&over));
        let read = move || {
            let mut rest = Vec::new();
            let mut buffer = [0; 4096];
            while !ends.load(Ordering::Acquire) {
                match pipe.read(&mut buffer) {
                    Ok(read) => {
                        rest.extend_from_slice(&buffer[..read]);
                        let now = Instant::now();
                        let new = parsed(&mut rest).into_iter().map(|act| (now, act));
                        seen.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
                    }
                    Err(_) => std::thread::sleep(LOOK_EVERY),
                }
            }
        };
        let reader = std::thread::Builder::new().name("watchdog".into()).spawn(read).expect("a thread can be started");
        Self { acts, over, reader: Some(reader) }
    }

    /// From here on it cannot be stopped.
    pub fn make_stay(dir: &Path) {
        std::fs::write(dir.join("watchdog.nowayout"), "").expect("a file can be written");
    }

    /// Everything so far, in order.
    #[must_use]
    pub fn acts(&self) -> Vec<(Instant, Act)> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last thing that was done.
    #[must_use]
    pub fn last(&self) -> Option<Act> {
        self.acts().last().map(|(_, act)| *act)
    }

    /// What was done from then on.
    #[must_use]
    pub fn since(&self, then: Instant) -> Vec<(Instant, Act)> {
        self.acts().into_iter().filter(|(at, _)| *at >= then).collect()
    }

    /// The longest time for which it ran without being fed, up to now.
    #[must_use]
    pub fn longest_hunger(&self) -> Duration {
        let mut fed_at: Option<Instant> = None;
        let mut longest = Duration::ZERO;
        for (at, act) in self.acts() {
            longest = longest.max(fed_at.map_or(Duration::ZERO, |fed_at| at - fed_at));
            fed_at = (act != Act::Stopped).then_some(at);
        }
        longest.max(fed_at.map_or(Duration::ZERO, |fed_at| fed_at.elapsed()))
    }
}

impl Drop for PipeWatchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Takes whole commands off the beginning.
fn parsed(rest: &mut Vec<u8>) -> Vec<Act> {
    let mut acts = Vec::new();
    loop {
        let (act, length) = match rest.first() {
            None => return acts,
            Some(b'1') => (Act::Fed, 1),
            Some(b'V') => (Act::Stopped, 1),
            Some(_) => {
                let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return acts };
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                let seconds = line.strip_prefix("Ctimeout=").and_then(|text| text.parse().ok());
                (Act::Armed(seconds.unwrap_or_else(|| panic!("the watchdog was told \"{line}\""))), end + 1)
            }
        };
        rest.drain(..length);
        acts.push(act);
    }
}
