//! Takes this data directory back to where it left the leader's history, and on from there.

use super::archive::{self, Keep};
use super::{Context, basebackup, conf, recovery};
use crate::control_data;
use crate::error::{Error, Result};
use crate::pgdata;
use crate::process::{self, Ran};
use ha_core::local::{ControlState, Upstream};
use ha_core::pgconf;

/// Runs the step.
pub fn perform(context: &Context, from: &Upstream) -> Result<()> {
    let site = &context.site;
    context.needs_stopped_server()?;
    let control = control_data::read(site.data_dir())?.control;
    if !control.can_be_rewound {
        let why = "neither data checksums nor wal_log_hints were on: it cannot be rewound";
        return Err(Error::Refused(why.to_owned()));
    }
    // For archive_command and restore_command: what an older run left may park the server.
    conf::write(site, Some(from))?;
    archived(context);
    if !matches!(control.state, ControlState::ShutDown | ControlState::ShutDownInRecovery) {
        recovery::perform(context)?;
        // Recovery has found more.
        archived(context);
    }
    context.clear_signals()?;
    let source = pgconf::rewind_conninfo(&site.config, from);
    check_source(context, &source)?;
    let from_archive = archive::setting(context, "restore_command").is_some_and(|set| !set.is_empty());
    let rewind = || pg_rewind(context, &source, from_archive);
    // Everything that can be wrong before files are replaced is found out without replacing any.
    context.run(rewind().arg("--dry-run"), "")?;
    // From here on files are replaced: a crash or an error in between leaves a directory that must never be started.
    pgdata::begin_unfinished(site, &format!("rewinding onto {}", from.name))?;
    let ran = process::run(&mut rewind(), "", &context.cancel, context)?;
    if !ran.success && !began_to_write(&ran) {
        // The leader was lost since the rehearsal, say: the directory is what it was.
        pgdata::end_unfinished(site)?;
    }
    let ran = ran.checked("pg_rewind")?;
    tracing::info!(output = ran.tail, "rewound");
    basebackup::take_possession(context, from)?;
    pgdata::end_unfinished(site)
}

/// Whether a run of `pg_rewind` that has ended may have replaced files: it says what it is going to copy right before the first. (Source:
/// `main` of `pg_rewind.c`, 15 to 18.)
fn began_to_write(ran: &Ran) -> bool {
    ran.err.as_ref().is_none_or(|err| err.contains("need to copy"))
}

/// A broken archive must not keep a node out of the cluster.
fn archived(context: &Context) {
    if let Err(error) = archive::ready_wal(context, Keep::Copied) {
        tracing::error!(%error, "WAL that was waiting can be neither archived nor kept");
    }
}

fn pg_rewind(context: &Context, source: &str, from_archive: bool) -> std::process::Command {
    let site = &context.site;
    let mut command = site.client("pg_rewind");
    command.arg("--target-pgdata").arg(site.data_dir()).arg("--source-server").arg(source);
    // The server was shut down above, by rules of our own.
    command.arg("--no-ensure-shutdown");
    // Its messages are read.
    command.arg("--progress").env("LC_ALL", "C");
    if from_archive {
        command.arg("--restore-target-wal");
    }
    command
}

/// The source must let us in and be out of recovery, before anything here is touched.
fn check_source(context: &Context, source: &str) -> Result<()> {
    let mut command = context.site.client("psql");
    command.args(["--no-psqlrc", "--no-password", "-At", "-d", source, "-c", "SELECT pg_is_in_recovery()"]);
    let ran = context.run(&mut command, "")?;
    if ran.out.trim() == "f" {
        return Ok(());
    }
    Err(Error::Refused("the source of the rewind is still in recovery".to_owned()))
}
