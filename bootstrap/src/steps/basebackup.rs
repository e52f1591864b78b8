//! Copies the data directory of another member.

use super::archive::{self, Keep};
use super::{Context, conf, parameters, set_aside};
use crate::control_data;
use crate::error::{Error, Result};
use crate::pgdata;
use crate::process::Ran;
use ha_core::local::{DataDir, Upstream};
use ha_core::pgconf;
use std::path::Path;

/// Runs the step.
pub fn perform(context: &Context, from: &Upstream) -> Result<()> {
    let site = &context.site;
    site.make_control_dir()?;
    context.needs_stopped_server()?;
    conf::write_pgpass(site)?;
    let conninfo = pgconf::replication_conninfo(&site.config, from);
    // The source must let us in before anything here is given up for it.
    ask(context, &conninfo, "IDENTIFY_SYSTEM")?;
    if control_data::read(site.data_dir()).is_ok() {
        if pgdata::is_half_copied(site) {
            // A copy brings its control file last: with one, this is more than an earlier attempt has left, and may be somebody's own.
            set_aside::data_directory(site)?;
        } else {
            check_source(context, &conninfo)?;
            archive::ready_wal(context, Keep::Moved)?;
            // That may have taken minutes.
            check_source(context, &conninfo)?;
        }
    }
    pgdata::begin_unfinished(site, &format!("{} from {}", pgdata::COPYING, from.name))?;
    pgdata::clear(site)?;
    let landing = pgdata::landing(site)?;
    match copy(context, from, &conninfo, &landing) {
        Ok(()) => pgdata::end_unfinished(site),
        Err(error) => {
            // What is half there helps nobody: the next attempt starts from nothing.
            if let Err(error) = pgdata::clear(site).and_then(|()| pgdata::end_unfinished(site)) {
                tracing::warn!(%error, "what is left of an interrupted copy could not be removed");
            }
            Err(error)
        }
    }
}

fn copy(context: &Context, from: &Upstream, conninfo: &str, landing: &Path) -> Result<()> {
    let site = &context.site;
    let slot = from.slot.as_ref().filter(|slot| ready_slot(context, conninfo, slot));
    let mut command = site.client("pg_basebackup");
    command.arg("--pgdata").arg(landing).arg("--dbname").arg(conninfo);
    command.args(["--wal-method=stream", "--checkpoint=fast", "--no-password"]);
    if let Some(slot) = slot {
        command.arg("--slot").arg(slot);
    }
    command.args(site.config.postgresql.basebackup.iter().map(ha_core::config::CommandOption::argument));
    context.run(&mut command, "")?;
    pgdata::land(site, landing)?;
    parameters::inherit(site)?;
    take_possession(context, from)
}

/// Makes the copied (or rewound) data directory ours: what came along from the source speaks of the source.
pub fn take_possession(context: &Context, from: &Upstream) -> Result<()> {
    let site = &context.site;
    pgdata::remove_durably(&site.paths.promote())?;
    pgdata::remove_durably(&site.paths.demoted())?;
    // Before anything else: without it a start by hand would end recovery on the source's own timeline.
    pgdata::write_durably(&site.paths.standby_signal(), "")?;
    context.write_marker()?;
    conf::write(site, Some(from))
}

/// Whole data may be all that there is of something: they only give way to those of a server that is out of recovery.
fn check_source(context: &Context, conninfo: &str) -> Result<()> {
    let data = pgdata::observe(&context.site);
    let kept = matches!(data, DataDir::Present(_)) && !pgdata::is_founding(&context.site, &data);
    if !kept || ask(context, conninfo, "SHOW in_hot_standby")?.out.trim() == "off" {
        return Ok(());
    }
    Err(Error::Refused(
        "the source is a standby, and what is here is whole: it is kept until a server that is out of recovery can be copied".to_owned(),
    ))
}

/// One command of the replication protocol.
fn ask(context: &Context, conninfo: &str, command_text: &str) -> Result<Ran> {
    let mut command = context.site.client("psql");
    command.args(["--no-psqlrc", "--no-password", "-At", "-d"]).arg(format!("{conninfo} replication=yes"));
    context.run(command.args(["-c", command_text]), "")
}

/// Whether the source has a slot for us to hold its WAL from now on; makes it if it is missing.
fn ready_slot(context: &Context, conninfo: &str, slot: &str) -> bool {
    let exists = || {
        ask(context, conninfo, &format!("READ_REPLICATION_SLOT {slot}"))
            .map(|ran| ran.out.trim().starts_with("physical"))
    };
    let make = || ask(context, conninfo, &format!("CREATE_REPLICATION_SLOT {slot} PHYSICAL RESERVE_WAL"));
    let ready = match exists() {
        Ok(true) => Ok(()),
        // The leader makes it as well, for each member it sees: whoever comes second finds it there.
        Ok(false) => match make() {
            Err(error) if !exists().unwrap_or(false) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = &ready {
        tracing::warn!(%error, "the copy goes without our slot on the source");
    }
    ready.is_ok()
}
