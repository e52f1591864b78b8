//! The postmaster: finding it, holding it, and knowing whether anything of a dead one is left.

use crate::error::{Error, Result};
use crate::process::{self, Held, OwnChild};
use crate::site::Site;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::process::Signal;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What `postmaster.pid` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// The postmaster's process id; negative for a single-user server.
    pub pid: i32,
    /// When it started, seconds since 1970.
    pub started_unix_s: i64,
    /// Line 8: `starting`, `stopping`, `ready`, `standby`; empty until the postmaster gets that far.
    pub status: String,
}

impl PidFile {
    /// Reads it; `None` when there is none (or it is being written).
    #[must_use]
    pub fn read(data_dir: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        let started_unix_s = lines.nth(1).and_then(|line| line.trim().parse().ok()).unwrap_or(0);
        let status = lines.nth(4).unwrap_or_default().trim().to_owned();
        Some(Self { pid, started_unix_s, status })
    }
}

/// A postmaster that is or was alive, held by a descriptor: its id cannot come to mean another process.
#[derive(Debug)]
pub struct Postmaster {
    held: Held,
    child: Mutex<Option<OwnChild>>,
}

impl Postmaster {
    /// One that we started.
    pub fn of_child(child: OwnChild) -> Result<Self> {
        let pid = child.pid();
        // It is our child and not reaped: the id is its own, even if it has ended already.
        match Held::open(pid) {
            Some(held) => Ok(Self { held, child: Mutex::new(Some(child)) }),
            None => Err(Error::Refused(format!("process {pid} cannot be held"))),
        }
    }

    /// The one that `postmaster.pid` names, if it lives and is what the file says: a reused id would be of a process
    /// that does not work in this data directory.
    #[must_use]
    pub fn adopt(data_dir: &Path) -> Option<Self> {
        let file = PidFile::read(data_dir)?;
        if file.pid <= 1 {
            return None;
        }
        let held = Held::open(file.pid)?;
        let here = process::directory_id(data_dir)?;
        let is_postmaster = process::working_directory(held.id.pid) == Some(here) && !held.ended();
        is_postmaster.then_some(Self { held, child: Mutex::new(None) })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.held.id.pid
    }

    /// The descriptor that becomes readable when it ends.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Whether it has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.held.ended()
    }

    /// Waits for its end.
    #[must_use]
    pub fn wait_end(&self, at_most: Duration) -> bool {
        self.held.wait_end(at_most)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.held.signal(signal)
    }

    /// Once it has ended: reaps it if it was ours, and says how it ended.
    pub fn ended_how(&self) -> Option<String> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().and_then(|child| child.wait().ok()).map(|status| status.to_string())
    }

    /// Whether a process is its child.
    #[must_use]
    pub fn is_parent_of(&self, pid: i32) -> bool {
        // Asked while the postmaster is alive: its id is its own, so the parent is it and no other.
        !self.ended() && process::stat(pid).is_some_and(|stat| stat.parent_pid == self.held.id.pid)
    }
}

/// The single-user server that works in a data directory: it notes itself with a negative id.
#[must_use]
pub fn single_user(data_dir: &Path) -> Option<i32> {
    let pid = PidFile::read(data_dir)?.pid.checked_neg()?;
    let here = process::directory_id(data_dir)?;
    (pid > 1 && process::working_directory(pid) == Some(here)).then_some(pid)
}

/// Whether the tenancy lock is free, and so no process of any server of this data directory is left. The lock is
/// taken for a moment: ask only while no server is running or being started.
#[must_use]
pub fn tenancy_free(data_dir: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match open(data_dir, flags, Mode::empty()) {
        Ok(dir) => flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok(),
        // Whatever else is in the way: it is not known.
        Err(errno) => errno == Errno::NOENT,
    }
}

/// Processes of a server whose postmaster is gone: they work in the data directory, are no programs of ours, and no
/// living postmaster is their parent.
#[must_use]
pub fn leftovers(site: &Site) -> Vec<Held> {
    let Some(here) = process::directory_id(site.data_dir()) else { return Vec::new() };
    let works_here = |pid: i32| process::working_directory(pid) == Some(here);
    let me = std::process::id().cast_signed();
    // A single-user server is nobody's orphan.
    let single_user = single_user(site.data_dir());
    let mut found = Vec::new();
    for pid in process::all() {
        if pid == me || Some(pid) == single_user || !works_here(pid) || !is_server(pid) {
            continue;
        }
        // Held first, judged again afterwards: what is judged is what will be signalled.
        let Some(held) = Held::open(pid) else { continue };
        let Some(stat) = process::stat(pid) else { continue };
        let orphan = stat.parent_pid == me || !(works_here(stat.parent_pid) && is_server(stat.parent_pid));
        if works_here(pid) && is_server(pid) && orphan && !held.ended() {
            found.push(held);
        }
    }
    found
}

/// Whether a process runs the server's program.
fn is_server(pid: i32) -> bool {
    let Ok(exe) = std::fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let name = exe.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A replaced binary of a running server shows up as "postgres (deleted)".
    name.split(' ').next() == Some("postgres")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read_in_all_its_stages() {
        let whole = "4242\n/data\n1700000000\n5432\n/tmp\n*\n  1234  5\nready   \n";
        assert_eq!(
            PidFile::parse(whole),
            Some(PidFile { pid: 4242, started_unix_s: 1_700_000_000, status: "ready".to_owned() })
        );
        assert_eq!(
            PidFile::parse("4242\n/data\n"),
            Some(PidFile { pid: 4242, started_unix_s: 0, status: String::new() })
        );
        assert_eq!(PidFile::parse("-17\n"), Some(PidFile { pid: -17, started_unix_s: 0, status: String::new() }));
        assert_eq!(PidFile::parse(""), None);
    }

    #[test]
    fn the_lock_of_a_directory_is_seen() {
        let dir = std::env::temp_dir().join(format!("ha_bootstrap_lock_{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        // A program that another test starts has a copy of every descriptor for a moment, and the lock goes with the last.
        let soon = |done: &dyn Fn() -> bool| {
            let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while !done() {
                assert!(std::time::Instant::now() < end, "somebody keeps the lock");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        soon(&|| tenancy_free(&dir));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let taken = open(&dir, flags, Mode::empty()).expect("opened");
        soon(&|| flock(&taken, FlockOperation::NonBlockingLockExclusive).is_ok());
        assert!(!tenancy_free(&dir));
        drop(taken);
        soon(&|| tenancy_free(&dir));
        assert!(tenancy_free(&dir.join("missing")), "where there is nothing, nobody works");
        std::fs::write(dir.join("file"), "").expect("written");
        assert!(!tenancy_free(&dir.join("file")), "what cannot be looked at is not free");
        std::fs::remove_dir_all(dir).expect("cleaned");
    }
}
