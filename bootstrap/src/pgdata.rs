//! The data directory: what is in it, and how its files are written so that a crash leaves the old or the new one.

use crate::control_data::{self, ControlFile};
use crate::error::{Error, Result};
use crate::site::Site;
use ha_core::ids::{Lsn, Timeline};
use ha_core::local::DataDir;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How the mark of an unfinished copy begins: what is there then is ours to throw away.
pub const COPYING: &str = "copying the data directory";

/// The mark of an `initdb` that has not ended.
pub const INITIALISING: &str = "initialising a new cluster";

/// What is in the data directory.
#[must_use]
pub fn observe(site: &Site) -> DataDir {
    let dir = site.data_dir();
    let damaged = |reason: String| DataDir::Damaged { reason, half_copied: false, ours: false };
    match entries(dir) {
        Err(error) => return damaged(error.to_string()),
        Ok(found) if found.is_empty() => return DataDir::Empty,
        Ok(_) => {}
    }
    match mark(&site.unfinished_mark()) {
        Err(error) => return damaged(error.to_string()),
        Ok(Some(what)) => {
            let half_copied = what.starts_with(COPYING);
            return DataDir::Damaged { reason: format!("interrupted: {}", what.trim()), half_copied, ours: true };
        }
        Ok(None) => {}
    }
    match mark(&site.paths.rewinding()) {
        Err(error) => return damaged(error.to_string()),
        Ok(Some(_)) => {
            let reason = "an earlier rewind was interrupted".to_owned();
            return DataDir::Damaged { reason, half_copied: false, ours: true };
        }
        Ok(None) => {}
    }
    if !dir.join("PG_VERSION").exists() {
        return damaged(format!("{} has files but no PG_VERSION", dir.display()));
    }
    match control_data::read(dir) {
        Ok(ControlFile { control, .. }) => DataDir::Present(control),
        Err(error) => damaged(error.to_string()),
    }
}

/// What a mark says, if it is there. One that cannot be read is no sign that all is well.
fn mark(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(|| format!("reading {}", path.display()))(error)),
    }
}

/// What counts in a directory: not `lost+found`, no dot files. A missing directory has nothing.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = match std::fs::read_dir(dir) {
        Ok(read) => read,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(|| format!("reading {}", dir.display()))(error)),
    };
    let mut found = Vec::new();
    for entry in read {
        let entry = entry.map_err(Error::io(|| format!("reading {}", dir.display())))?;
        let name = entry.file_name();
        if name != "lost+found" && !name.to_string_lossy().starts_with('.') {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The timelines this data directory descends from, oldest first.
#[must_use]
pub fn history(site: &Site, timeline: Timeline) -> Vec<(Timeline, Lsn)> {
    std::fs::read_to_string(site.paths.timeline_history(timeline))
        .map(|text| ha_core::timeline::parse_history_file(&text))
        .unwrap_or_default()
}

/// Writes a file so that a crash leaves the old text or the new one, never a half. Does nothing if it holds
/// the text already.
pub fn write_durably(path: &Path, text: &str) -> Result<()> {
    let written = ha_node::server_files::write_changed(path, text);
    written.map(|_| ()).map_err(Error::io(|| format!("writing {}", path.display())))
}

/// Removes a file if it is there.
pub fn remove_durably(path: &Path) -> Result<()> {
    ha_node::files::remove(path).map(|_| ()).map_err(Error::io(|| format!("removing {}", path.display())))
}

/// Makes new, removed and renamed names in a directory durable.
pub fn sync_directory(dir: &Path) -> Result<()> {
    let wrong = || Error::io(|| format!("syncing {}", dir.display()));
    File::open(dir).map_err(wrong())?.sync_all().map_err(wrong())
}

/// Says on disk that the data directory is not whole until [`end_unfinished`].
pub fn begin_unfinished(site: &Site, what: &str) -> Result<()> {
    write_durably(&site.unfinished_mark(), what)?;
    if entries(site.data_dir())?.is_empty() {
        return Ok(());
    }
    write_durably(&site.paths.rewinding(), what)
}

/// Whether the mark says that a copy was under way.
#[must_use]
pub fn is_half_copied(site: &Site) -> bool {
    std::fs::read_to_string(site.unfinished_mark()).is_ok_and(|what| what.starts_with(COPYING))
}

/// The data directory is whole again, and all of it is on disk.
pub fn end_unfinished(site: &Site) -> Result<()> {
    remove_durably(&site.paths.rewinding())?;
    remove_durably(&site.unfinished_mark())
}

/// Empties the data directory: what is in it is to be replaced.
pub fn clear(site: &Site) -> Result<()> {
    for path in entries(site.data_dir())? {
        let plain = path.is_dir() && !path.is_symlink();
        let removed = if plain { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(Error::io(|| format!("removing {}", path.display())))?;
    }
    end_founding(site)
}

/// Whether `data` were made to found a cluster, and nobody has seen yet that they did.
#[must_use]
pub fn is_founding(site: &Site, data: &DataDir) -> bool {
    let marked = ha_node::founding::read(&site.paths).ok().flatten();
    matches!(data, DataDir::Present(control) if Some(control.system_id) == marked)
}

/// What was made to found a cluster is gone.
pub fn end_founding(site: &Site) -> Result<()> {
    ha_node::founding::end(&site.paths).map_err(Error::io(|| "removing the mark of a new cluster".to_owned()))
}

/// What an `initdb` was making when its supervisor died is no cluster and goes. It is only renamed, because somebody may have put
/// a directory of his own in its place.
pub fn clear_half_made(site: &Site) -> Result<()> {
    if std::fs::read_to_string(site.unfinished_mark()).is_ok_and(|what| what.trim() == INITIALISING) {
        tracing::warn!("{} was being made by an initdb that was interrupted", site.data_dir().display());
        crate::steps::set_aside::data_directory(site)?;
    }
    Ok(())
}

/// Where a new data directory can be made: itself if it is empty indeed, else a hidden directory inside it, because
/// `initdb` and `pg_basebackup` accept neither dot files nor `lost+found`. [`land`] moves it into place.
pub fn landing(site: &Site) -> Result<PathBuf> {
    let dir = site.data_dir();
    let found = entries(dir)?;
    if !found.is_empty() {
        return Err(Error::Refused(format!("{} is not empty", dir.display())));
    }
    let hidden = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if !hidden {
        return Ok(dir.to_owned());
    }
    let inside = dir.join(".ha_ext.new");
    match std::fs::remove_dir_all(&inside) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(|| format!("removing {}", inside.display()))(error)),
    }
    Ok(inside)
}

/// Moves what was made in the landing place to where it belongs.
pub fn land(site: &Site, landing: &Path) -> Result<()> {
    let dir = site.data_dir();
    if landing == dir {
        return Ok(());
    }
    move_entries(landing, dir)?;
    std::fs::remove_dir(landing).map_err(Error::io(|| format!("removing {}", landing.display())))?;
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(dir, private).map_err(Error::io(|| format!("setting the mode of {}", dir.display())))?;
    sync_directory(dir)
}

/// Moves everything that counts from one directory to another on the same file system.
pub fn move_entries(from: &Path, to: &Path) -> Result<()> {
    for entry in entries(from)? {
        let target = to.join(entry.file_name().unwrap_or_default());
        std::fs::rename(&entry, &target)
            .map_err(Error::io(|| format!("moving {} to {}", entry.display(), target.display())))?;
    }
    sync_directory(to)
}

/// Refuses file systems on which a lock is not inherited by a forked server (`flock` on NFS is emulated).
pub fn refuse_network_file_system(path: &Path) -> Result<()> {
    const NFS_SUPER_MAGIC: u64 = 0x6969;
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let found = rustix::fs::statfs(existing).map_err(Error::sys(|| format!("asking about {}", existing.display())))?;
    if u64::try_from(found.f_type).is_ok_and(|kind| kind == NFS_SUPER_MAGIC) {
        let why = "locks there do not show whether processes of a dead server are left (set HA_EXT_ALLOW_NFS=1 to accept that)";
        return Err(Error::Refused(format!("{} is on NFS: {why}", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ha_bootstrap_{name}_{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a scratch directory");
        dir
    }

    #[test]
    fn dot_files_and_lost_found_count_as_nothing() {
        let dir = scratch("entries");
        assert_eq!(entries(&dir).expect("readable").len(), 0);
        std::fs::create_dir(dir.join("lost+found")).expect("made");
        std::fs::write(dir.join(".keep"), "").expect("made");
        assert_eq!(entries(&dir).expect("readable").len(), 0);
        std::fs::write(dir.join("x"), "").expect("made");
        assert_eq!(entries(&dir).expect("readable"), vec![dir.join("x")]);
        assert_eq!(entries(&dir.join("missing")).expect("nothing").len(), 0);
        std::fs::remove_dir_all(dir).expect("cleaned");
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_not_taken_for_none() {
        let dir = scratch("mark");
        assert_eq!(mark(&dir.join("unfinished")).expect("none"), None);
        std::fs::write(dir.join("unfinished"), "copying").expect("made");
        assert_eq!(mark(&dir.join("unfinished")).expect("read").as_deref(), Some("copying"));
        std::fs::create_dir(dir.join("rewinding")).expect("made");
        assert!(mark(&dir.join("rewinding")).expect_err("a directory").to_string().contains("rewinding"));
        std::fs::remove_dir_all(dir).expect("cleaned");
    }

    #[test]
    fn a_durable_write_leaves_no_other_file_behind() {
        let dir = scratch("durable");
        write_durably(&dir.join("f"), "one").expect("written");
        write_durably(&dir.join("f"), "two").expect("written");
        assert_eq!(std::fs::read_to_string(dir.join("f")).expect("read"), "two");
        assert_eq!(entries(&dir).expect("readable"), vec![dir.join("f")]);
        remove_durably(&dir.join("f")).expect("removed");
        remove_durably(&dir.join("f")).expect("removing nothing is fine");
        std::fs::remove_dir_all(dir).expect("cleaned");
    }
}
