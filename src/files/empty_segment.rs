//! An empty segment of the log, which a standby keeps ready for its promotion (ADR 0037). A server whose log ends with a segment begins its new
//! timeline in a file that is there already; otherwise it would write one, of zeros, and wait for the disk.

use ha_node::paths::Paths;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

/// How much is written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The server removes files of these names when it begins recovery after a crash.
fn unfinished(paths: &Paths) -> PathBuf {
    directory(paths).join("xlogtemp.ha_ext.new")
}

fn finished(paths: &Paths) -> PathBuf {
    directory(paths).join("xlogtemp.ha_ext")
}

fn directory(paths: &Paths) -> PathBuf {
    paths.data_dir().join("pg_wal")
}

/// A thread of its own: nothing waits for it, and it writes much.
pub(super) fn run(paths: &Paths, wanted: &Receiver<Option<u64>>) {
    for bytes in wanted {
        let done = match bytes {
            Some(bytes) => make(paths, bytes),
            None => remove(paths),
        };
        if let Err(error) = done {
            tracing::warn!("an empty segment of the log, for the next promotion: {error}");
        }
    }
}

/// Makes it, on disk, if it is not there.
fn make(paths: &Paths, bytes: u64) -> io::Result<()> {
    if std::fs::metadata(finished(paths)).is_ok_and(|file| file.len() == bytes) {
        return Ok(());
    }
    let path = unfinished(paths);
    // A group may read the data of this server, or not.
    let mode = std::fs::metadata(paths.data_dir().join("PG_VERSION"))?.mode() & 0o777;
    write(&path, bytes, mode).and_then(|()| std::fs::rename(&path, finished(paths))).inspect_err(|_| {
        let _ = std::fs::remove_file(&path);
    })
}

fn write(path: &Path, bytes: u64, mode: u32) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    let zeros = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        file.write_all(&zeros[..count])?;
        left -= count as u64;
    }
    file.sync_all()
}

/// Puts it where the new timeline begins. The entry need not be synced: the history file, which the server writes later into the same
/// directory, is. Without it the promotion takes longer, and that is all.
pub(super) fn put(paths: &Paths, name: &str) {
    let target = directory(paths).join(name);
    let free = target.try_exists().is_ok_and(|exists| !exists);
    if free && let Err(error) = std::fs::rename(finished(paths), &target) {
        tracing::debug!("no empty segment was made for {name}: {error}");
    }
}

/// Removes what no promotion has used.
fn remove(paths: &Paths) -> io::Result<()> {
    match std::fs::remove_file(finished(paths)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
