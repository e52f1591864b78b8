//! Archives what a server that was stopped, or demoted in place, left waiting: a standby's restartpoints, a rewind or a copy would
//! remove it, and nobody else has it. What cannot be archived now is kept beside the data directory and tried again at the next
//! occasion.

use super::Context;
use crate::control_data;
use crate::error::{Error, Result};
use crate::pgdata;
use crate::process::{Cancel, run};
use ha_core::local::ControlState;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a start waits for the archive: somebody may be waiting for this server.
const START_MAX: Duration = Duration::from_secs(10);

/// What becomes of segments that cannot be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Moved away: the directory is to be replaced.
    Moved,
    /// Copied: somebody still reads them here, and the server may archive them itself one day.
    Copied,
}

/// Runs the archive command for everything that is ready. It is an error only if what is waiting can be neither archived nor kept.
pub fn ready_wal(context: &Context, keep: Keep) -> Result<()> {
    let _alone = locked(&ONE_AT_A_TIME);
    let patience = Patience { cancel: context.cancel.clone(), end: None };
    kept_wal(context, &patience);
    archive_or_keep(context, keep, &patience)
}

/// The same before a former primary follows somebody: its restartpoints remove what its archiver has not come to. It takes a bounded
/// time, and a broken archive keeps nobody out of the cluster.
pub fn before_standby(context: &Context) {
    let result = bounded(Cancel::new(), |patience| {
        kept_wal(context, patience);
        let state = control_data::read(context.site.data_dir())?.control.state;
        if state == ControlState::ShutDown { archive_or_keep(context, Keep::Copied, patience) } else { Ok(()) }
    });
    if let Err(error) = result {
        tracing::error!(%error, "WAL that was waiting can be neither archived nor kept");
    }
}

/// The same beside a server that was demoted in place: its archiver has ended, and a standby has one only with `archive_mode = always`.
/// Nobody waits for it. It is faster than the server's first restartpoint, which comes no sooner than after `checkpoint_timeout` or
/// `max_wal_size` of replay.
pub fn beside_recovery(context: &Context) -> Result<()> {
    let idle = ready_files(context)?.is_empty() && pgdata::entries(&context.site.unarchived())?.is_empty();
    if idle || setting(context, "archive_mode").as_deref() == Some("always") {
        return Ok(());
    }
    let cancel = Cancel::new()?;
    *locked(&BESIDE) = Some(cancel.clone());
    let context = Context { background: true, ..context.clone() };
    let archive = move || {
        let result = bounded(Ok(cancel), |patience| {
            kept_wal(&context, patience);
            archive_or_keep(&context, Keep::Copied, patience)
        });
        if let Err(error) = result {
            tracing::error!(%error, "WAL that was waiting can be neither archived nor kept");
        }
    };
    let running = std::thread::Builder::new().name("ha_archive".to_owned()).spawn(archive);
    running.map(|_| ()).map_err(Error::io(|| "starting a thread".to_owned()))
}

/// Ends what is still archived beside recovery: another step begins, which sees to it itself.
pub fn end_beside_recovery() {
    if let Some(cancel) = locked(&BESIDE).take() {
        cancel.cancel();
    }
}

/// Two commands at a time for one file could end in half of it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// What runs beside recovery.
static BESIDE: Mutex<Option<Cancel>> = Mutex::new(None);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until when archive commands may run.
struct Patience {
    cancel: Cancel,
    end: Option<Instant>,
}

impl Patience {
    fn called_off(&self) -> bool {
        self.cancel.told() && self.end.is_some_and(|end| Instant::now() < end)
    }
}

/// Calls `body` with commands that are ended once the time is up.
fn bounded(cancel: Result<Cancel>, body: impl FnOnce(&Patience) -> Result<()>) -> Result<()> {
    let _alone = locked(&ONE_AT_A_TIME);
    let patience = Patience { cancel: cancel?, end: Some(Instant::now() + START_MAX) };
    let (finished, waited_for) = std::sync::mpsc::channel::<()>();
    let cancel = patience.cancel.clone();
    let watch = move || {
        // It comes to an end either by the time or because the other side is dropped.
        if waited_for.recv_timeout(START_MAX) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            cancel.cancel();
        }
    };
    let watching = std::thread::Builder::new().name("ha_archive".to_owned()).spawn(watch);
    watching.map_err(Error::io(|| "starting a thread".to_owned()))?;
    let result = body(&patience);
    drop(finished);
    result
}

fn kept_wal(context: &Context, patience: &Patience) {
    if let Err(error) = archive_kept(context, patience) {
        tracing::warn!(%error, "WAL that was kept aside still cannot be archived");
    }
}

fn archive_or_keep(context: &Context, keep: Keep, patience: &Patience) -> Result<()> {
    match archive(context, patience) {
        Ok(0) => Ok(()),
        Ok(count) => {
            tracing::info!(count, "archived the WAL that was waiting");
            Ok(())
        }
        // Whoever comes next does it.
        Err(_) if context.background && patience.called_off() => Ok(()),
        Err(error) => {
            let count = keep_aside(context, keep)?;
            let dir = context.site.unarchived();
            tracing::error!(%error, count, "WAL that was waiting cannot be archived: it is kept in {}", dir.display());
            Ok(())
        }
    }
}

fn archive(context: &Context, patience: &Patience) -> Result<usize> {
    let ready = ready_files(context)?;
    if ready.is_empty() {
        return Ok(0);
    }
    let Some(template) = template(context)? else { return Ok(0) };
    let mut count = 0;
    for (name, status) in &ready {
        if context.background && !context.site.paths.standby_signal().exists() {
            // It was promoted again: its own archiver goes on.
            break;
        }
        let file = context.site.data_dir().join("pg_wal").join(name);
        let before = identity(&file);
        send(context, patience, &template, name, &format!("pg_wal/{name}"))?;
        if before != identity(&file) {
            tracing::error!("the server removed {name} while it was archived: see whether it is whole in the archive");
        }
        done(status)?;
        count += 1;
    }
    Ok(count)
}

/// Which file it is: one that is used again for later WAL gets another name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn archive_kept(context: &Context, patience: &Patience) -> Result<()> {
    let mut kept = pgdata::entries(&context.site.unarchived())?;
    if kept.is_empty() {
        return Ok(());
    }
    let Some(template) = template(context)? else { return Ok(()) };
    kept.sort();
    let mut failure = None;
    for path in kept {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // One may be there already, sent by the server itself, and be refused the second time: the others go on.
        match send(context, patience, &template, &name, &path.display().to_string()) {
            Ok(()) => pgdata::remove_durably(&path)?,
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), Err)
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

fn send(context: &Context, patience: &Patience, template: &str, name: &str, path: &str) -> Result<()> {
    if patience.end.is_some_and(|end| Instant::now() >= end) {
        return Err(Error::Late("the archive takes too long for a start".to_owned()));
    }
    let mut command = Command::new("sh");
    command.arg("-c").arg(command_line(template, name, path)).current_dir(context.site.data_dir());
    run(&mut command, "", &patience.cancel, context)?.checked("archive_command").map(|_| ())
}

fn done(status: &Path) -> Result<()> {
    match std::fs::rename(status, status.with_extension("done")) {
        // A server that runs may know by itself that it is not needed any more.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        renamed => renamed.map_err(Error::io(|| format!("renaming {}", status.display()))),
    }
}

/// Keeps what is ready out of the way of what comes. How many files.
fn keep_aside(context: &Context, keep: Keep) -> Result<usize> {
    let site = &context.site;
    let kept = site.unarchived();
    let wrong = || Error::io(|| format!("keeping WAL in {}", kept.display()));
    std::fs::create_dir_all(&kept).map_err(wrong())?;
    let ready = ready_files(context)?;
    for (name, _) in &ready {
        let (from, to) = (site.data_dir().join("pg_wal").join(name), kept.join(name));
        match keep {
            Keep::Moved => match std::fs::rename(&from, &to) {
                Err(error) if error.kind() == ErrorKind::CrossesDevices => copy(&from, &to).map_err(wrong())?,
                moved => moved.map_err(wrong())?,
            },
            Keep::Copied => copy(&from, &to).map_err(wrong())?,
        }
    }
    pgdata::sync_directory(&kept)?;
    Ok(ready.len())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    std::fs::File::open(to)?.sync_all()
}

/// Names and status files, history files first as the archiver does. A file that is gone is nobody's loss, and stands in nobody's way:
/// the archiver passes it over too.
fn ready_files(context: &Context) -> Result<Vec<(String, PathBuf)>> {
    let wal = context.site.data_dir().join("pg_wal");
    let dir = wal.join("archive_status");
    let mut ready: Vec<(String, PathBuf)> = crate::pgdata::entries(&dir)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "ready"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)))
        .filter(|(name, _)| wal.join(name).try_exists().unwrap_or(true))
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
