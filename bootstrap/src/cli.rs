//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// What `--help` prints.
pub const HELP: &str = "\
ha_bootstrap: the supervisor of ha_ext, high availability for PostgreSQL from inside the postmaster

usage:
  ha_bootstrap run <node.yml>                start this node and keep it in its cluster
  ha_bootstrap prepare <node.yml>            do what this node needs before its server is started by somebody else
  ha_bootstrap detach <node.yml|data_dir>    make the stopped server an ordinary one, outside any cluster
  ha_bootstrap status <node.yml>             show this node as it is on this machine and in the store

options:
  --json             status: as JSON
  --timeout <secs>   prepare: give up after this long (default 300)
  -h, --help         this text
  -V, --version      the version

The file is Patroni's YAML (or a directory of such files); PATRONI_* variables override it.
Run it as the user that owns the data directory, never as root.
Signals: SIGTERM and SIGINT stop the node, SIGHUP reads the configuration again.
";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Supervise the node.
    Run {
        /// Its configuration.
        file: PathBuf,
    },
    /// Get the data directory ready.
    Prepare {
        /// Its configuration.
        file: PathBuf,
        /// Give up after this long.
        at_most: Duration,
    },
    /// Leave the cluster.
    Detach {
        /// Configuration or data directory.
        target: PathBuf,
    },
    /// Show the node.
    Status {
        /// Its configuration.
        file: PathBuf,
        /// As JSON.
        json: bool,
    },
}

/// Reads the arguments, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut words = Vec::new();
    let mut json = false;
    let mut at_most = Duration::from_mins(5);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("-h" | "--help") => return Ok(Command::Help),
            Some("-V" | "--version") => return Ok(Command::Version),
            Some("--json") => json = true,
            Some("--timeout") => at_most = seconds(&arguments.next().unwrap_or_default())?,
            Some(option) if let Some(value) = option.strip_prefix("--timeout=") => {
                at_most = seconds(OsStr::new(value))?;
            }
            Some(option) if option.starts_with('-') => return Err(format!("unknown option {option}")),
            Some(_) | None => words.push(argument),
        }
    }
    let mut words = words.into_iter();
    let Some(name) = words.next() else { return Err("no command given".to_owned()) };
    if name == "help" {
        return Ok(Command::Help);
    }
    let mut target = || -> Result<PathBuf, String> {
        let target = words.next().ok_or("no file given")?;
        if words.next().is_some() {
            return Err("too many arguments".to_owned());
        }
        Ok(PathBuf::from(target))
    };
    let command = match name.to_str() {
        Some("run") => Command::Run { file: target()? },
        Some("prepare") => Command::Prepare { file: target()?, at_most },
        Some("detach") => Command::Detach { target: target()? },
        Some("status") => Command::Status { file: target()?, json },
        Some(_) | None => return Err(format!("unknown command {}", name.to_string_lossy())),
    };
    if json && !matches!(command, Command::Status { .. }) {
        return Err("--json is an option of status".to_owned());
    }
    Ok(command)
}

fn seconds(argument: &OsStr) -> Result<Duration, String> {
    argument.to_string_lossy().parse().map(Duration::from_secs).map_err(|_| "--timeout wants whole seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn commands_are_read() {
        assert_eq!(read("run a.yml"), Ok(Command::Run { file: "a.yml".into() }));
        assert_eq!(read("status --json a.yml"), Ok(Command::Status { file: "a.yml".into(), json: true }));
        let at_most = Duration::from_secs(5);
        assert_eq!(read("prepare a.yml --timeout 5"), Ok(Command::Prepare { file: "a.yml".into(), at_most }));
        assert_eq!(read("prepare --timeout=5 a.yml"), Ok(Command::Prepare { file: "a.yml".into(), at_most }));
        assert_eq!(read("detach /d"), Ok(Command::Detach { target: "/d".into() }));
        assert_eq!(read("run --help"), Ok(Command::Help));
        assert_eq!(read("help"), Ok(Command::Help));
        assert_eq!(read("-V"), Ok(Command::Version));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(read(""), Err("no command given".to_owned()));
        assert_eq!(read("run"), Err("no file given".to_owned()));
        assert_eq!(read("run a b"), Err("too many arguments".to_owned()));
        assert_eq!(read("start a"), Err("unknown command start".to_owned()));
        assert_eq!(read("run -x a"), Err("unknown option -x".to_owned()));
        assert_eq!(read("run --json a"), Err("--json is an option of status".to_owned()));
        for line in ["prepare a --timeout x", "prepare a --timeout", "prepare a --timeout="] {
            assert_eq!(read(line), Err("--timeout wants whole seconds".to_owned()), "{line}");
        }
    }
}
