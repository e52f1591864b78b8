//! Renames a data directory that is of no use out of the way. Only the last one is kept.

use super::Context;
use crate::error::{Error, Result};
use crate::pgdata;
use crate::site::Site;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Runs the step.
pub fn perform(context: &Context) -> Result<()> {
    context.needs_stopped_server()?;
    data_directory(&context.site)
}

/// The same for a caller who knows that no server is at work there.
pub fn data_directory(site: &Site) -> Result<()> {
    let dir = site.data_dir();
    if pgdata::entries(dir)?.is_empty() {
        pgdata::end_founding(site)?;
        return pgdata::end_unfinished(site);
    }
    // What lies outside and is only linked to must go as well, or the next attempt would find it in its way.
    let mut outside = linked(&dir.join("pg_wal"))?.into_iter().collect::<Vec<_>>();
    for link in pgdata::entries(&dir.join("pg_tblspc")).unwrap_or_default() {
        outside.extend(linked(&link)?);
    }
    let failed = aside(dir);
    remove_all(&failed)?;
    match std::fs::rename(dir, &failed) {
        Ok(()) => pgdata::sync_directory(dir.parent().unwrap_or(Path::new("/")))?,
        // A mount point cannot be renamed: its content moves into a hidden directory inside it.
        Err(error) if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::CrossesDevices) => {
            let hidden = dir.join(".failed");
            remove_all(&hidden)?;
            std::fs::create_dir(&hidden).map_err(Error::io(|| format!("making {}", hidden.display())))?;
            pgdata::move_entries(dir, &hidden)?;
        }
        Err(error) => return Err(Error::io(|| format!("renaming {}", dir.display()))(error)),
    }
    for path in outside {
        let failed = aside(&path);
        remove_all(&failed)?;
        std::fs::rename(&path, &failed).map_err(Error::io(|| format!("renaming {}", path.display())))?;
        std::fs::create_dir(&path).map_err(Error::io(|| format!("making {}", path.display())))?;
    }
    tracing::warn!(to = %failed.display(), "the data directory was set aside");
    pgdata::end_founding(site)?;
    pgdata::end_unfinished(site)
}

/// The target of a symbolic link.
fn linked(path: &Path) -> Result<Option<PathBuf>> {
    match std::fs::read_link(path) {
        Ok(_) => std::fs::canonicalize(path).map(Some).map_err(Error::io(|| format!("following {}", path.display()))),
        Err(_) => Ok(None),
    }
}

/// `<path>.failed`.
fn aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.file_name().unwrap_or_default());
    name.push(".failed");
    path.with_file_name(name)
}

fn remove_all(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(|| format!("removing {}", path.display()))(error)),
    }
}
