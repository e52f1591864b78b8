//! Starting a long-running program: as another user, in a network namespace, with its output in a log file.

use crate::process::Proc;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// System account to run it as; the caller's own when `None`.
    pub user: Option<&'static str>,
    /// Network namespace; the caller's own when `None`.
    pub netns: Option<String>,
    /// Where its output goes, appended.
    pub log: PathBuf,
    /// Where it works.
    pub dir: PathBuf,
    /// Additional environment.
    pub env: Vec<(String, String)>,
}

/// A program that was started.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    process: Proc,
}

impl Daemon {
    /// Starts it in a process group of its own. It dies with the thread that started it, so that an interrupted
    /// test run leaves little behind.
    #[must_use]
    pub fn start(launch: &Launch) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(&launch.log).expect("the log can be opened");
        let errors = log.try_clone().expect("a file handle can be copied");
        let mut words: Vec<String> = Vec::new();
        if let Some(netns) = &launch.netns {
            words.extend(["nsenter".into(), format!("--net=/run/netns/{netns}"), "--".into()]);
        }
        words.push("setpriv".into());
        if let Some(user) = launch.user {
            words.extend([format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".into()]);
        }
        words.extend(["--pdeathsig".into(), "KILL".into(), "--".into()]);
        words.extend(launch.command.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&launch.dir).process_group(0);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        command.env("LC_ALL", "C.UTF-8").envs(launch.env.iter().cloned());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"));
        let pid = i32::try_from(child.id()).expect("a pid fits");
        let process = Proc::of(pid).unwrap_or(Proc { pid, started: 0 });
        Self { child, process }
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> Proc {
        self.process
    }

    /// Its exit status in words once it has ended.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; its output, or everything about its failure.
pub fn run(words: &[&str]) -> Result<String, String> {
    run_in(words, Path::new("/"))
}

/// [`run`] in a directory.
pub fn run_in(words: &[&str], dir: &Path) -> Result<String, String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .current_dir(dir)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {words:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{words:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
