//! Archives what a stopped server left waiting: a standby's restartpoints, a rewind or a copy would remove it, and nobody else
//! has it. What cannot be archived now is kept beside the data directory and tried again at the next occasion.

use super::Context;
use crate::control_data;
use crate::error::{Error, Result};
use crate::pgdata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What becomes of segments that cannot be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Those that recovery does not need are moved away.
    Moved,
    /// Copied: a rewind still reads them.
    Copied,
}

/// Runs the archive command for everything that is ready. A failure is reported and does not end the step: a broken archive
/// must not keep a node out of the cluster.
pub fn ready_wal(context: &Context, keep: Keep) {
    kept_wal(context);
    match archive(context) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "archived the WAL that was waiting"),
        Err(error) => match keep_aside(context, keep) {
            Ok(count) => {
                let dir = context.site.unarchived();
                tracing::error!(%error, count, "WAL that was waiting cannot be archived: it is kept in {}", dir.display());
            }
            Err(lost) => tracing::error!(%error, %lost, "WAL that was waiting can be neither archived nor kept"),
        },
    }
}

/// Tries to archive what an earlier attempt has kept.
pub fn kept_wal(context: &Context) {
    if let Err(error) = archive_kept(context) {
        tracing::warn!(%error, "WAL that was kept aside still cannot be archived");
    }
}

fn archive(context: &Context) -> Result<usize> {
    let ready = ready_files(context)?;
    if ready.is_empty() {
        return Ok(0);
    }
    let Some(template) = template(context)? else { return Ok(0) };
    for (name, status) in &ready {
        send(context, &template, name, &format!("pg_wal/{name}"))?;
        done(status)?;
    }
    Ok(ready.len())
}

fn archive_kept(context: &Context) -> Result<()> {
    let mut kept = pgdata::entries(&context.site.unarchived())?;
    if kept.is_empty() {
        return Ok(());
    }
    let Some(template) = template(context)? else { return Ok(()) };
    kept.sort();
    for path in kept {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        send(context, &template, &name, &path.display().to_string())?;
        pgdata::remove_durably(&path)?;
    }
    tracing::info!("archived the WAL that was kept aside");
    Ok(())
}

/// The archive command; `None` where nothing is archived.
fn template(context: &Context) -> Result<Option<String>> {
    match setting(context, "archive_mode").as_deref() {
        Some("off") => return Ok(None),
        Some(_) => {}
        None => return Err(Error::Refused("archive_mode cannot be asked for".to_owned())),
    }
    match setting(context, "archive_command").unwrap_or_default() {
        command if command.is_empty() || command == "(disabled)" => {
            Err(Error::Refused("there is no archive_command".to_owned()))
        }
        command => Ok(Some(command)),
    }
}

fn send(context: &Context, template: &str, name: &str, path: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(command_line(template, name, path)).current_dir(context.site.data_dir());
    context.run(&mut command, "").map(|_| ())
}

fn done(status: &Path) -> Result<()> {
    let done = status.with_extension("done");
    std::fs::rename(status, &done).map_err(Error::io(|| format!("renaming {}", status.display())))
}

/// Keeps what is ready out of the way of what comes. How many files.
fn keep_aside(context: &Context, keep: Keep) -> Result<usize> {
    let site = &context.site;
    let kept = site.unarchived();
    let wrong = || Error::io(|| format!("keeping WAL in {}", kept.display()));
    std::fs::create_dir_all(&kept).map_err(wrong())?;
    let needed_from = control_data::read(site.data_dir())?.redo_segment();
    let ready = ready_files(context)?;
    for (name, status) in &ready {
        let (from, to) = (site.data_dir().join("pg_wal").join(name), kept.join(name));
        // Anything but a segment is small, and the server goes on reading it.
        let movable = keep == Keep::Moved && name.len() == needed_from.len() && *name < needed_from;
        if movable {
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() == ErrorKind::CrossesDevices => copy(&from, &to).map_err(wrong())?,
                moved => moved.map_err(wrong())?,
            }
        } else {
            copy(&from, &to).map_err(wrong())?;
        }
        done(status)?;
    }
    pgdata::sync_directory(&kept)?;
    Ok(ready.len())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    std::fs::File::open(to)?.sync_all()
}

/// Names and status files, history files first as the archiver does.
fn ready_files(context: &Context) -> Result<Vec<(String, PathBuf)>> {
    let dir = context.site.data_dir().join("pg_wal/archive_status");
    let mut ready: Vec<(String, PathBuf)> = crate::pgdata::entries(&dir)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "ready"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)))
        .collect();
    ready.sort_by_key(|(name, _)| (!name.ends_with(".history"), name.clone()));
    Ok(ready)
}

/// What the stopped server would use for a setting.
#[must_use]
pub fn setting(context: &Context, name: &str) -> Option<String> {
    let mut command = context.site.local("postgres");
    command.arg("-D").arg(context.site.data_dir()).args(["-C", name]);
    context.run(&mut command, "").ok().map(|ran| ran.out.trim().to_owned())
}

/// `%p` and `%f` filled in; the command runs in the data directory, as the server's would.
fn command_line(template: &str, name: &str, path: &str) -> String {
    let mut out = String::with_capacity(template.len() + 2 * name.len());
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('p') => out.push_str(path),
            Some('f') => out.push_str(name),
            Some('%') | None => out.push('%'),
            Some(other) => out.extend(['%', other]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::command_line;

    #[test]
    fn placeholders_are_filled_in() {
        assert_eq!(command_line("cp %p /a/%f; date +%%s", "0001", "pg_wal/0001"), "cp pg_wal/0001 /a/0001; date +%s");
        assert_eq!(command_line("x %r %", "0001", ""), "x %r %");
    }
}
