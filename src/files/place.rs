//! What a demotion in place leaves in the data directory beforehand, and what there speaks against one.

use crate::placeholders;
use ha_core::ids::Timeline;
use ha_node::files;
use ha_node::paths::Paths;
use std::io;

/// For people who find it.
const MARK: &[u8] =
    b"This server was a leader that is or was about to be demoted in place. Until its log has been compared with\n\
    that of the next leader it is not read from. Written and removed by ha_ext.\n";

/// How much is there of what [`park`] writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Marks {
    /// Nothing.
    #[default]
    None,
    /// One of both files.
    One,
    /// All of it.
    Both,
}

impl Marks {
    /// As of now.
    pub fn look(paths: &Paths) -> io::Result<Self> {
        Ok(match (paths.standby_signal().try_exists()?, paths.demoted().try_exists()?) {
            (false, false) => Self::None,
            (true, true) => Self::Both,
            _ => Self::One,
        })
    }
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// What [`park`] writes.
    pub marks: Marks,
    /// The next timeline has a history file: recovery would look for it.
    pub next_history: bool,
    /// A finished segment or history file waits for the archiver.
    pub archive_waiting: bool,
    /// This was looked at, at this time; 0 is never.
    pub looked_ns: u64,
}

/// Looks at a primary on `timeline`.
pub fn look(paths: &Paths, timeline: Timeline, archiving: bool, now_ns: u64) -> io::Result<Place> {
    Ok(Place {
        marks: Marks::look(paths)?,
        // Recovery asks for one number after the other, and ends at the first that has no file.
        next_history: placeholders::stands(paths, Timeline(timeline.0.saturating_add(1)))? == Some(false),
        archive_waiting: archiving && archive_waits(paths)?,
        looked_ns: now_ns,
    })
}

fn archive_waits(paths: &Paths) -> io::Result<bool> {
    for entry in std::fs::read_dir(paths.data_dir().join("pg_wal/archive_status"))? {
        if entry?.path().extension().is_some_and(|extension| extension == "ready") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes recovery, whenever it begins, that of a standby that is not read from. A crash in between leaves a leader that is
/// recovered as one.
pub fn park(paths: &Paths) -> io::Result<()> {
    files::remove(&paths.promote())?;
    files::write_atomically(&paths.demoted(), MARK)?;
    files::write_atomically(&paths.standby_signal(), b"")
}

/// Undoes it.
pub fn unpark(paths: &Paths) -> io::Result<()> {
    files::remove(&paths.standby_signal())?;
    serve_reads(paths)
}

/// From now on recovery admits reads.
pub fn serve_reads(paths: &Paths) -> io::Result<()> {
    files::remove(&paths.demoted()).map(drop)
}
