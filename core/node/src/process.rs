//! Processes told apart even when their number is used again: by pid and start time.

use ha_core::clock::Tick;
use serde::{Deserialize, Serialize};
use std::io;

/// One process of this boot. A later process with the same pid has another start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number.
    pub pid: i32,
    /// Clock ticks from boot to its start, field 22 of `/proc/<pid>/stat`.
    pub start_ticks: u64,
}

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// Which process.
    pub id: ProcessId,
    /// Its name, cut at 15 bytes by the kernel.
    pub command: String,
    /// `R`, `S`, `D`, `T` (stopped), `Z` (dead, not reaped), ...
    pub state: char,
    /// Its parent.
    pub parent_pid: i32,
    /// Its process group.
    pub group: i32,
}

impl ProcessId {
    /// The process that has this pid now; `None` if there is none.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        Ok(stat(pid)?.map(|stat| stat.id))
    }

    /// This process.
    pub fn current() -> io::Result<Self> {
        let pid = rustix::process::getpid().as_raw_pid();
        Self::of(pid)?.ok_or_else(|| io::Error::other("this process is not in /proc"))
    }

    /// Whether it was there before a moment. In doubt it was not: start times are coarse.
    #[must_use]
    pub fn started_before(&self, moment: Tick) -> bool {
        let per_s = rustix::param::clock_ticks_per_second().max(1);
        (self.start_ticks + 1).saturating_mul(1000) / per_s <= moment.0
    }

    /// Whether it still runs. A dead child that was not reaped yet does not.
    pub fn is_alive(&self) -> io::Result<bool> {
        Ok(stat(self.pid)?.is_some_and(|stat| stat.id == *self && !matches!(stat.state, 'Z' | 'X')))
    }
}

/// Reads `/proc/<pid>/stat`; `None` if there is no such process.
pub fn stat(pid: i32) -> io::Result<Option<ProcessStat>> {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(content) => {
            let text = String::from_utf8_lossy(&content);
            parse(&text).map(Some).ok_or_else(|| io::Error::other(format!("unexpected /proc/{pid}/stat")))
        }
        // ESRCH: it ended between open and read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> Option<ProcessStat> {
    // The name is in parentheses and may hold any character, parentheses and blanks too: the last one ends it.
    let (pid, rest) = text.split_once(" (")?;
    let (command, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(ProcessStat {
        id: ProcessId { pid: pid.trim().parse().ok()?, start_ticks: fields.get(19)?.parse().ok()? },
        command: command.to_owned(),
        state: fields.first()?.chars().next()?,
        parent_pid: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_read() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n";
        let stat = parse(text).expect("parsed");
        assert_eq!((stat.command.as_str(), stat.state, stat.parent_pid), ("a) b (c", 'S', 7));
        assert_eq!((stat.parent_pid, stat.group), (7, 42));
        assert_eq!(stat.id, ProcessId { pid: 42, start_ticks: 987_654 });
        assert!(stat.id.started_before(Tick(9_876_550)) && !stat.id.started_before(Tick(9_876_549)));
        assert!(parse("42 (x) S").is_none());
    }

    #[test]
    fn a_dead_child_and_a_reused_pid_are_not_alive() {
        let me = ProcessId::current().expect("this process");
        assert!(me.is_alive().expect("stat"));
        assert!(!ProcessId { start_ticks: me.start_ticks + 1, ..me }.is_alive().expect("stat"));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let id = ProcessId::of(i32::try_from(child.id()).expect("pid")).expect("stat").expect("there");
        assert!(id.is_alive().expect("stat"));
        child.kill().expect("kill");
        // Not reaped yet: a zombie at some moment from now on.
        while id.is_alive().expect("stat") {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().expect("reap");
        assert!(!id.is_alive().expect("stat"));
    }
}
