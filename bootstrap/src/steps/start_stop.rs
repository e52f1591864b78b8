//! Starts and stops the server.

use super::{Context, archive, conf, half_record, parameters, stragglers};
use crate::control_data;
use crate::error::{Error, Result};
use crate::outside::Event;
use crate::pgdata;
use crate::postmaster::{PidFile, Postmaster};
use crate::process::{OwnChild, last_lines, scrub_environment, wait_readable};
use crate::site::Site;
use ha_core::effect::{StartRole, StopMode};
use ha_core::pgconf::{self, Refusals};
use ha_node::server_files;
use rustix::process::Signal;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at `postmaster.pid`, which no descriptor announces.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The server's first log is begun anew once it is larger than this.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long a postmaster that was told to stop at once may take, and how long if it is stopped by a signal and cannot hear that.
const IMMEDIATE_MAX: Duration = Duration::from_millis(2500);
const IMMEDIATE_STOPPED_MAX: Duration = Duration::from_millis(500);
/// How long the kernel may take to end a killed process.
const KILLED_MAX: Duration = Duration::from_secs(8);
/// Settings a standby may not have lower than the server its WAL comes from, in the order of the control file.
const FLOORS: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// Starts the server.
pub fn start(context: &Context, role: &StartRole) -> Result<()> {
    let site = &context.site;
    context.needs_stopped_server()?;
    pgdata::remove_durably(&site.paths.promote())?;
    let in_force = server_files::text(&server_files::main(&site.paths));
    match role {
        StartRole::Primary { .. } => {
            conf::write(site, None)?;
            context.clear_signals()?;
        }
        StartRole::Standby { upstream } => {
            conf::write(site, upstream.as_ref())?;
            if upstream.is_some() {
                archive::before_standby(context);
                warn_unless(half_record::end(context), "whether the log ends within a record is not known");
            }
            pgdata::write_durably(&site.paths.standby_signal(), "")?;
        }
    }
    context.write_marker()?;
    if let Some(dynamic) = &context.dynamic {
        // The server's worker begins with it, and must not take what it is started with for a change.
        let kept = pgdata::write_durably(&site.paths.dynamic_config(), &dynamic.to_string());
        warn_unless(kept, "the dynamic configuration could not be kept");
    }
    parameters::settle(context, &in_force)?;
    if matches!(role, StartRole::Primary { .. }) {
        parameters::allow_primary(site)?;
    }
    if context.prepare_only {
        return Ok(());
    }
    let refused = parameters::refused(site);
    match attempt(context, role, &refused) {
        Err(why @ Error::Program { .. }) if parameters::fall_back(context)? => {
            let again = attempt(context, role, &parameters::refused(site));
            parameters::fell_back(context, &refused, again.is_ok(), &why)?;
            again.map_err(|_| why)?;
        }
        other => other?,
    }
    warn_unless(parameters::started_well(site), "the parameters of this start could not be kept");
    if matches!(role, StartRole::Standby { upstream: None }) {
        // Somebody may wait for it to lead, and then its own archiver goes on; but it may as well follow.
        warn_unless(archive::beside_recovery(context), "what waits for the archive is left alone");
    }
    Ok(())
}

/// For what only a later start would miss.
fn warn_unless(kept: Result<()>, what: &str) {
    if let Err(error) = kept {
        tracing::warn!(%error, "{what}");
    }
}

fn attempt(context: &Context, role: &StartRole, refused: &Refusals) -> Result<()> {
    let path = context.site.server_log();
    let (log, before) = open_log(&path)?;
    let child = OwnChild::spawn(&mut command(context, role, refused, log)?)?;
    let postmaster = Arc::new(Postmaster::of_child(child)?);
    // At once: the worker may say hello before this step is over.
    context.tell(Event::Spawned(Arc::clone(&postmaster)));
    wait_until_up(context, &postmaster).map_err(|error| with_log(error, &path, before))
}

/// The server's program with all that it is started with.
#[must_use]
pub fn postgres(site: &Site, refused: &Refusals) -> Command {
    let mut command = site.local("postgres");
    command.arg("-D").arg(site.data_dir());
    command.args(pgconf::command_line(&site.config, refused));
    command.arg("-c").arg(format!("ha_ext.config_file={}", site.config_file.display()));
    scrub_environment(&mut command);
    command
}

fn command(context: &Context, role: &StartRole, refused: &Refusals, log: File) -> Result<Command> {
    let site = &context.site;
    let mut command = postgres(site, refused);
    if matches!(role, StartRole::Standby { .. }) {
        let floors = control_data::read(site.data_dir())?.floors;
        for (name, floor) in FLOORS.iter().zip(floors) {
            let ours = pgconf::value_of(&site.config, refused, name).and_then(|value| value.parse::<i32>().ok());
            if ours.is_none_or(|ours| ours < floor) {
                tracing::info!(name, floor, "raised to what the WAL was written with");
                command.arg("-c").arg(format!("{name}={floor}"));
            }
        }
    }
    let copy = log.try_clone().map_err(Error::io(|| "sharing the server's log".to_owned()))?;
    // A process group of its own: Ctrl-C in a terminal is for the supervisor, which then stops the server.
    command.process_group(0).stdin(Stdio::null()).stdout(copy).stderr(log);
    Ok(command)
}

fn wait_until_up(context: &Context, postmaster: &Postmaster) -> Result<()> {
    let data_dir = context.site.data_dir();
    let end = Instant::now() + timeout(context);
    loop {
        if let Some(file) = PidFile::read(data_dir)
            && file.pid == postmaster.pid()
            && !file.status.is_empty()
        {
            return Ok(());
        }
        let ready = wait_readable(&[postmaster.held(), &context.cancel], LOOK_AGAIN);
        match ready {
            Some(0) => {
                let how = postmaster.ended_how().unwrap_or_default();
                return Err(Error::Program { program: "postgres".to_owned(), status: how, tail: String::new() });
            }
            Some(_) => return Err(Error::Cancelled),
            None if Instant::now() >= end => {
                let after = timeout(context).as_secs();
                return Err(Error::Late(format!("the server has not reported in within {after} s")));
            }
            None => {}
        }
    }
}

/// Stops the server.
pub fn stop(context: &Context, mode: StopMode) -> Result<()> {
    let Some(postmaster) = &context.postmaster else { return Ok(()) };
    match mode {
        StopMode::Fast => {
            let at_most = timeout(context);
            postmaster.signal(Signal::INT)?;
            if postmaster.wait_end(at_most) {
                return Ok(());
            }
            // What comes next is decided elsewhere: it knows whether waiting costs anybody anything.
            Err(Error::Late(format!("the server has not stopped within {} s", at_most.as_secs())))
        }
        StopMode::Immediate => stop_at_once(postmaster),
    }
}

fn stop_at_once(postmaster: &Postmaster) -> Result<()> {
    postmaster.signal(Signal::QUIT)?;
    let deaf = || crate::process::stat(postmaster.pid()).is_some_and(|stat| stat.state == 'T');
    if !deaf() {
        // A child that is stopped by a signal, or hangs, would hold it up for five seconds.
        warn_unless(stragglers::end_all(postmaster), "not all processes of the server end");
    }
    if postmaster.wait_end(IMMEDIATE_STOPPED_MAX) || (!deaf() && postmaster.wait_end(IMMEDIATE_MAX)) {
        return Ok(());
    }
    // What it leaves of its children is found and ended by the next step.
    tracing::warn!(pid = postmaster.pid(), "the postmaster does not stop: it is killed");
    postmaster.signal(Signal::KILL)?;
    if postmaster.wait_end(KILLED_MAX) {
        return Ok(());
    }
    Err(Error::Late("the postmaster cannot be killed: the kernel does not let it go".to_owned()))
}

fn timeout(context: &Context) -> Duration {
    Duration::from_millis(context.site.config.postgresql.pg_ctl_timeout_ms.0.max(1000))
}

/// The log for what the server says before (or without) its own, and how long it is already.
fn open_log(path: &Path) -> Result<(File, u64)> {
    let wrong = || Error::io(|| format!("opening {}", path.display()));
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        std::fs::rename(path, old).map_err(wrong())?;
    }
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(wrong())?;
    let length = log.metadata().map_err(wrong())?.len();
    Ok((log, length))
}

/// Adds what the server said since it was started.
fn with_log(error: Error, log: &Path, from: u64) -> Error {
    let said = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(64 * 1024).read_to_end(&mut bytes)?;
        Ok(last_lines(&String::from_utf8_lossy(&bytes)))
    };
    match error {
        Error::Program { program, status, .. } => Error::Program { program, status, tail: said().unwrap_or_default() },
        other => other,
    }
}
