//! Crash recovery in single-user mode: brings a crashed data directory to a clean shutdown without serving anybody.

use super::Context;
use crate::control_data;
use crate::error::{Error, Result};
use ha_core::local::ControlState;

/// Runs the step.
pub fn perform(context: &Context) -> Result<()> {
    let site = &context.site;
    context.needs_stopped_server()?;
    let before = control_data::read(site.data_dir())?.control.state;
    if is_clean(before) {
        return Ok(());
    }
    if site.data_dir().join("backup_label").exists() {
        // Recovery from a backup needs WAL the backup may not hold: only a standby can get it.
        tracing::info!("no crash recovery: the data directory is a backup that was never started");
        return Ok(());
    }
    context.clear_signals()?;
    let mut command = site.local("postgres");
    command.args(["--single", "-D"]).arg(site.data_dir());
    // Segments that wait for the archive must stay: the checkpoint at the end would remove them otherwise.
    command.args(["-c", "archive_mode=on", "-c", "archive_command=false", "-c", "archive_library="]);
    command.arg("template1");
    context.run(&mut command, "")?;
    let after = control_data::read(site.data_dir())?.control.state;
    if is_clean(after) {
        return Ok(());
    }
    Err(Error::Refused(format!("crash recovery ended, but the cluster state is {after:?}")))
}

fn is_clean(state: ControlState) -> bool {
    matches!(state, ControlState::ShutDown | ControlState::ShutDownInRecovery)
}
