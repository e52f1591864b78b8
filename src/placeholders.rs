//! History files that hold only a comment: they make the server skip a timeline that another node claimed (ADR 0002).

use ha_core::ids::Timeline;
use ha_node::files;
use ha_node::paths::Paths;
use std::io;
use std::path::Path;

const TEXT: &[u8] = b"# claimed by another node and never used\n";

/// Makes `timeline` look taken, unless it is.
pub fn put(paths: &Paths, timeline: Timeline) -> io::Result<()> {
    let path = paths.timeline_history(timeline);
    if path.try_exists()? {
        return Ok(());
    }
    files::write_atomically(&path, TEXT)
}

/// Removes what a promotion that did not come through left behind. Before recovery begins, because recovery would take the
/// newest history file for its target, find no ancestor in it, and wait for WAL that never comes.
pub fn clear(data_dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(data_dir.join("pg_wal"))? {
        let entry = entry?;
        let is_history = Path::new(&entry.file_name()).extension().is_some_and(|ext| ext == "history");
        if is_history && entry.metadata()?.len() == TEXT.len() as u64 && std::fs::read(entry.path())? == TEXT {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
