//! Processes: what `/proc` says about them, signals that cannot hit the wrong one, and running a program to its end.

use crate::error::{Error, Result};
use ha_node::process::{ProcessId, ProcessStat};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use rustix::time::Timespec;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much of a program's output is kept for an error message.
const TAIL_LINES: usize = 15;
/// How much output of one program is kept at most.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// What `/proc/<pid>/stat` says; `None` when there is no such process.
#[must_use]
pub fn stat(pid: i32) -> Option<ProcessStat> {
    ha_node::process::stat(pid).ok().flatten()
}

/// Identity of a directory: two paths may name one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryId(u64, u64);

/// The identity of a directory.
#[must_use]
pub fn directory_id(path: &Path) -> Option<DirectoryId> {
    std::fs::metadata(path).ok().map(|meta| DirectoryId(meta.dev(), meta.ino()))
}

/// The working directory of a process. `None` for a zombie, and for processes of other users.
#[must_use]
pub fn working_directory(pid: i32) -> Option<DirectoryId> {
    directory_id(Path::new(&format!("/proc/{pid}/cwd")))
}

/// All processes that can be seen.
#[must_use]
pub fn all() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// How a process calls itself.
#[must_use]
pub fn title(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // A title is followed by what is left of the arguments it was written over.
    match line.split(|byte| *byte == 0).find(|part| !part.is_empty()) {
        Some(line) => String::from_utf8_lossy(line).trim().to_owned(),
        // Its memory is given back already, which takes the kernel a while where there is much of it.
        None => format!(
            "{}, which is ending,",
            std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim()
        ),
    }
}

/// A process that is held: its id cannot come to mean another one.
#[derive(Debug)]
pub struct Held {
    /// Which one.
    pub id: ProcessId,
    fd: OwnedFd,
}

impl Held {
    /// Holds a process; `None` when it is gone.
    #[must_use]
    pub fn open(pid: i32) -> Option<Self> {
        let raw = Pid::from_raw(pid)?;
        let fd = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        // Read after it is held: if it still is the same process, so were the facts.
        let stat = stat(pid)?;
        Some(Self { id: stat.id, fd })
    }

    /// Whether it has ended (a zombie has).
    #[must_use]
    pub fn ended(&self) -> bool {
        wait_readable(&[&self.fd], Duration::ZERO).is_some()
    }

    /// Waits until it ends; false when `at_most` went by first.
    #[must_use]
    pub fn wait_end(&self, at_most: Duration) -> bool {
        wait_readable(&[&self.fd], at_most).is_some()
    }

    /// Sends a signal. A process that is gone already is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(Error::sys(|| format!("signalling process {}", self.id.pid))(errno)),
        }
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until one of the descriptors is readable and says which; `None` after `at_most`.
pub fn wait_readable(fds: &[&dyn AsFd], at_most: Duration) -> Option<usize> {
    let end = Instant::now() + at_most;
    loop {
        let mut polled: Vec<PollFd<'_>> =
            fds.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
        let left = end.saturating_duration_since(Instant::now());
        match poll(&mut polled, Some(&timespec(left))) {
            Ok(0) => return None,
            Ok(_) => return polled.iter().position(|fd| !fd.revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            // Only programming errors are left (bad descriptor, no memory): report as not ready, but do not spin.
            Err(_) => {
                std::thread::sleep(left.min(Duration::from_millis(100)));
                return None;
            }
        }
    }
}

/// A duration as the system calls take it.
#[must_use]
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Tells a running step to stop, from another thread.
#[derive(Clone, Debug)]
pub struct Cancel {
    told: Arc<AtomicBool>,
    event: Arc<OwnedFd>,
}

impl Cancel {
    /// A fresh one.
    pub fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(Error::sys(|| "making an event descriptor".to_owned()))?;
        Ok(Self { told: Arc::default(), event: Arc::new(event) })
    }

    /// Tells it.
    pub fn cancel(&self) {
        self.told.store(true, Ordering::Release);
        // Full means it is readable already.
        let _ = rustix::io::write(&*self.event, &1_u64.to_ne_bytes());
    }

    /// Whether it was told.
    #[must_use]
    pub fn told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// An error if it was told.
    pub fn check(&self) -> Result<()> {
        if self.told() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Children that somebody here waits for; all others are orphans that were handed to us as their subreaper.
static OWNED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn owned() -> MutexGuard<'static, BTreeSet<i32>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child of ours that nobody else reaps.
#[derive(Debug)]
pub struct OwnChild {
    child: Child,
}

impl OwnChild {
    /// Starts a program.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        // Held over the start, so that the reaper cannot see the child before it is known to be owned.
        let mut owned = owned();
        let child = command.spawn().map_err(Error::io(|| format!("starting {}", name_of(command))))?;
        owned.insert(child.id().cast_signed());
        Ok(Self { child })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Its exit status, once it has ended; reaps it.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        let pid = self.pid();
        self.child.wait().map_err(Error::io(|| format!("waiting for process {pid}")))
    }
}

impl Drop for OwnChild {
    fn drop(&mut self) {
        owned().remove(&self.pid());
    }
}

/// Reaps orphans that ended. Children that are waited for elsewhere are left alone.
pub fn reap_orphans() {
    let me = std::process::id().cast_signed();
    let ended: Vec<i32> =
        all().into_iter().filter(|pid| stat(*pid).is_some_and(|s| s.state == 'Z' && s.parent_pid == me)).collect();
    // A child that is owned stays a zombie, and keeps its id, until its owner reaps it: the list cannot be wrong.
    let owned = owned();
    for pid in ended.into_iter().filter(|pid| !owned.contains(pid)).filter_map(Pid::from_raw) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn name_of(command: &Command) -> String {
    Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Takes out of a command's environment what is meant for us alone.
pub fn scrub_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PATRONI_") || text.starts_with("KUBERNETES_") || text == "NOTIFY_SOCKET" {
            command.env_remove(&name);
        }
    }
}

/// What a program left behind.
#[derive(Clone, Debug)]
pub struct Ran {
    /// It ended with 0.
    pub success: bool,
    /// How it ended, for people.
    pub status: String,
    /// Standard output.
    pub out: String,
    /// Standard error; `None` if there was so much that the beginning is lost.
    pub err: Option<String>,
    /// The last lines of standard error (or of standard output, if that is all there is).
    pub tail: String,
}

impl Ran {
    /// An error unless the program succeeded.
    pub fn checked(self, program: &str) -> Result<Self> {
        if self.success {
            return Ok(self);
        }
        Err(Error::Program { program: program.to_owned(), status: self.status, tail: self.tail })
    }
}

/// Where a running step is noted, so that the next supervisor can end what this one could not.
pub trait Note {
    /// A program was started (or, with `None`, has ended).
    fn running(&self, process: Option<ProcessId>);
}

/// Notes nothing.
pub struct NoNote;

impl Note for NoNote {
    fn running(&self, _process: Option<ProcessId>) {}
}

/// Runs a program to its end, in a process group of its own; told to cancel, it kills the whole group.
/// `input` is written to its standard input (keep it below a pipe's 64 KiB).
pub fn run(command: &mut Command, input: &str, cancel: &Cancel, note: &dyn Note) -> Result<Ran> {
    cancel.check()?;
    let name = name_of(command);
    scrub_environment(command);
    command.process_group(0).stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut own = OwnChild::spawn(command)?;
    // Not reaped yet, so the id is its own.
    let held = Held::open(own.pid());
    note.running(held.as_ref().map(|held| held.id));
    let ended = feed_and_read(&mut own.child, input, cancel);
    if ended.is_err() {
        kill_group(own.pid());
    }
    let status = own.wait()?;
    note.running(None);
    let (out, err) = ended?;
    let tail = if err.trim().is_empty() { last_lines(&out) } else { last_lines(&err) };
    tracing::debug!(program = name, %status, "ran");
    // More than this is kept only of what was cut.
    let err = (err.len() <= OUTPUT_BYTES_MAX).then_some(err);
    Ok(Ran { success: status.success(), status: status.to_string(), out, err, tail })
}

/// Writes the input, then reads both outputs until their ends.
fn feed_and_read(child: &mut Child, input: &str, cancel: &Cancel) -> Result<(String, String)> {
    use std::io::Write;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early breaks the pipe: its exit status says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Ok((String::new(), String::new()));
    };
    let mut texts = [Vec::new(), Vec::new()];
    let mut open = [true, true];
    let mut chunk = [0_u8; 8192];
    while open[0] || open[1] {
        cancel.check()?;
        let mut watched: Vec<(usize, &dyn AsFd)> = Vec::new();
        if open[0] {
            watched.push((0, &stdout));
        }
        if open[1] {
            watched.push((1, &stderr));
        }
        watched.push((2, cancel));
        let fds: Vec<&dyn AsFd> = watched.iter().map(|(_, fd)| *fd).collect();
        let Some(ready) = wait_readable(&fds, Duration::from_hours(1)).and_then(|at| watched.get(at)) else {
            continue;
        };
        let which = ready.0;
        let got = match which {
            0 => stdout.read(&mut chunk),
            1 => stderr.read(&mut chunk),
            _ => continue,
        };
        match got {
            Ok(0) => open[which] = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What a program did is told by its output: half of that is none.
            Err(error) => return Err(Error::io(|| "reading the output of a program".to_owned())(error)),
            Ok(length) => {
                let text = &mut texts[which];
                text.extend_from_slice(&chunk[..length]);
                if text.len() > 2 * OUTPUT_BYTES_MAX {
                    text.drain(..OUTPUT_BYTES_MAX);
                }
            }
        }
    }
    let [out, err] = texts;
    Ok((String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned()))
}

/// Kills a process group.
pub fn kill_group(leader: i32) {
    if let Some(group) = Pid::from_raw(leader) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// The last lines of a text, on one line.
#[must_use]
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_run_and_its_output_kept() {
        let cancel = Cancel::new().expect("event descriptor");
        let ran = run(Command::new("sh").args(["-c", "cat; echo bad >&2; exit 3"]), "in", &cancel, &NoNote);
        let ran = ran.expect("it runs");
        assert_eq!((ran.success, ran.out.as_str(), ran.tail.as_str()), (false, "in", "bad"));
    }

    #[test]
    fn a_cancelled_program_is_killed_with_its_children() {
        let cancel = Cancel::new().expect("event descriptor");
        let remote = cancel.clone();
        let canceller = std::thread::Builder::new().spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            remote.cancel();
        });
        let begun = Instant::now();
        let ran = run(Command::new("sh").args(["-c", "sleep 60 & sleep 60"]), "", &cancel, &NoNote);
        assert!(matches!(ran, Err(Error::Cancelled)));
        assert!(begun.elapsed() < Duration::from_secs(10));
        canceller.expect("thread").join().expect("no panic");
    }
}
