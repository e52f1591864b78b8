//! Archives what a stopped server left waiting: a rewind may remove it, and nobody else has it.

use super::Context;
use crate::error::{Error, Result};
use std::path::PathBuf;
use std::process::Command;

/// Runs the archive command for every segment that is ready. A failure is reported and ends the attempt, but not
/// the step: a broken archive must not keep a node out of the cluster.
pub fn ready_wal(context: &Context) {
    match archive(context) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "archived the WAL that was waiting"),
        Err(error) => tracing::warn!(%error, "WAL that was waiting for the archive could not be archived"),
    }
}

fn archive(context: &Context) -> Result<usize> {
    let data_dir = context.site.data_dir();
    let ready = ready_files(context)?;
    if ready.is_empty() || matches!(setting(context, "archive_mode").as_deref(), None | Some("off")) {
        return Ok(0);
    }
    let template = setting(context, "archive_command").unwrap_or_default();
    if template.is_empty() || template == "(disabled)" {
        return Err(Error::Refused(format!("no archive_command; {} segments wait", ready.len())));
    }
    for (name, path) in &ready {
        let line = command_line(&template, name);
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).current_dir(data_dir);
        context.run(&mut command, "")?;
        let done = path.with_extension("done");
        std::fs::rename(path, &done).map_err(Error::io(|| format!("renaming {}", path.display())))?;
    }
    Ok(ready.len())
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
fn command_line(template: &str, name: &str) -> String {
    let mut out = String::with_capacity(template.len() + 2 * name.len());
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('p') => {
                out.push_str("pg_wal/");
                out.push_str(name);
            }
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
        assert_eq!(command_line("cp %p /a/%f; date +%%s", "0001"), "cp pg_wal/0001 /a/0001; date +%s");
        assert_eq!(command_line("x %r %", "0001"), "x %r %");
    }
}
