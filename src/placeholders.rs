//! History files that hold only a comment (ADR 0002). Above a server's own timeline they make it skip a number that another
//! node claimed. Below it they stand for numbers that were skipped: a standby from before them asks its upstream for every
//! history file in between, and streams nothing while one is missing.

use crate::pg::wal;
use ha_core::ids::Timeline;
use ha_node::files;
use ha_node::paths::Paths;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const TEXT: &[u8] = b"# claimed by another node and never used\n";

/// Makes `timeline` look taken. `false` if it is already.
fn put(paths: &Paths, timeline: Timeline) -> io::Result<bool> {
    let path = paths.timeline_history(timeline);
    if path.try_exists()? {
        return Ok(false);
    }
    files::write_atomically(&path, TEXT).map(|()| true)
}

/// Makes `timeline` look taken for the promotion that is about to begin, and has the archiver of the new leader archive the file: a
/// restore from the archive takes the last number without a gap for the newest. One that is there may be archived already, and
/// many an archive refuses a second time for ever.
pub fn skip(paths: &Paths, timeline: Timeline) -> io::Result<()> {
    if !put(paths, timeline)? {
        return Ok(());
    }
    files::write_atomically(&ready(paths.data_dir(), timeline), b"")
}

/// What tells the archiver that the file of `timeline` waits for it.
fn ready(data_dir: &Path, timeline: Timeline) -> PathBuf {
    data_dir.join("pg_wal/archive_status").join(format!("{:08X}.history.ready", timeline.0))
}

/// How many timelines back standbys may come from.
const FILLED_MAX: u32 = 1000;

/// Fills the gaps below `timeline`: numbers that were skipped, and those whose files a copy did not bring along.
pub fn fill(paths: &Paths, timeline: Timeline) -> io::Result<()> {
    (timeline.0.saturating_sub(FILLED_MAX).max(2)..timeline.0)
        .try_for_each(|number| put(paths, Timeline(number)).map(drop))
}

/// Removes what a promotion that did not come through left behind: numbers above `timeline`, where recovery will begin.
/// Recovery takes the newest history file above that for its target, would find no ancestor in it, or not where it stands itself, and
/// wait for WAL that never comes.
pub fn clear(data_dir: &Path, timeline: Timeline) -> io::Result<()> {
    for entry in std::fs::read_dir(data_dir.join("pg_wal"))? {
        let entry = entry?;
        let Some(number) = number(&entry.file_name()).filter(|number| *number > timeline) else { continue };
        if is_placeholder(&entry.path(), entry.metadata()?.len())? {
            remove(data_dir, &entry.path(), number)?;
        } else if is_empty(data_dir, &entry.path(), number)? {
            pgrx::log!("ha_ext: timeline {number} was begun and never written to: its history file is removed");
            remove(data_dir, &entry.path(), number)?;
        }
    }
    Ok(())
}

fn remove(data_dir: &Path, path: &Path, timeline: Timeline) -> io::Result<()> {
    std::fs::remove_file(path)?;
    files::remove(&ready(data_dir, timeline)).map(drop)
}

/// Whether nothing of a timeline that lies ahead is needed here. The server writes its history file first, and lets go of
/// `standby.signal`, before there is anything on it: one that dies in between is recovered as a primary of the timeline before. What a
/// standby has been sent of one is kept; of one that it has only heard of, the file is sent again.
fn is_empty(data_dir: &Path, history: &Path, timeline: Timeline) -> io::Result<bool> {
    let paths = Paths::new(data_dir);
    if !paths.standby_signal().try_exists()? && !paths.recovery_signal().try_exists()? {
        return Ok(true);
    }
    let lines = ha_core::timeline::parse_history_file(&std::fs::read_to_string(history)?);
    let Some((parent, fork)) = lines.last() else { return Ok(true) };
    let segment = |timeline| open(&data_dir.join("pg_wal").join(wal::segment_name(timeline, *fork)));
    let Some(begun) = segment(timeline)? else { return Ok(true) };
    let before = fork.0 % wal::segment_bytes();
    // Of a record its length comes first, and of a page a number: neither is 0.
    let mut first = [0; 4];
    begun.read_exact_at(&mut first, before)?;
    if first != [0; 4] {
        return Ok(false);
    }
    // What comes before the fork is a copy, unless it was sent: then it may be the only one.
    match segment(*parent)? {
        _ if before == 0 => Ok(true),
        Some(original) => are_equal(&begun, &original, before),
        None => Ok(false),
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compares the beginning of two files.
fn are_equal(one: &File, other: &File, length: u64) -> io::Result<bool> {
    const PART: usize = 1 << 20;
    for at in (0..length).step_by(PART) {
        let bytes = usize::try_from(length - at).map_or(PART, |left| left.min(PART));
        let (mut left, mut right) = (vec![0; bytes], vec![0; bytes]);
        one.read_exact_at(&mut left, at)?;
        other.read_exact_at(&mut right, at)?;
        if left != right {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the history file of `timeline` is one of ours; `None` if there is none.
pub fn stands(paths: &Paths, timeline: Timeline) -> io::Result<Option<bool>> {
    let path = paths.timeline_history(timeline);
    match std::fs::metadata(&path) {
        Ok(file) => Ok(Some(is_placeholder(&path, file.len())?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_placeholder(path: &Path, length: u64) -> io::Result<bool> {
    Ok(length == TEXT.len() as u64 && std::fs::read(path)? == TEXT)
}

/// The timeline that a history file is about.
fn number(file_name: &OsStr) -> Option<Timeline> {
    u32::from_str_radix(file_name.to_str()?.strip_suffix(".history")?, 16).ok().map(Timeline)
}
