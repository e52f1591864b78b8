//! `ha_ext.marker` in the data directory: this directory belongs to a cluster (architecture, section 1).

use crate::files;
use ha_core::local::Marker;
use std::fmt;
use std::io;
use std::path::Path;

const LIMIT_BYTES: u64 = 64 * 1024;

/// Why a marker could not be read. It is there, so the directory is of a cluster: never treat this as "no marker".
#[derive(Debug)]
pub enum MarkerError {
    /// It could not be read.
    Io(io::Error),
    /// It is not what we write.
    Malformed(serde_json::Error),
}

impl fmt::Display for MarkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MarkerError::Io(error) => write!(f, "the marker cannot be read: {error}"),
            MarkerError::Malformed(error) => write!(f, "the marker is malformed: {error}"),
        }
    }
}

impl std::error::Error for MarkerError {}

/// Reads the marker; `None` if there is none.
pub fn read(path: &Path) -> Result<Option<Marker>, MarkerError> {
    let Some(text) = files::read_bounded(path, LIMIT_BYTES).map_err(MarkerError::Io)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(MarkerError::Malformed)
}

/// Writes the marker durably. It waits for the disk.
pub fn write(path: &Path, marker: &Marker) -> io::Result<()> {
    files::write_atomically(path, serde_json::to_string(marker)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_core::ids::{LeaseId, NodeName, SystemId};

    #[test]
    fn a_marker_round_trips_and_a_broken_one_is_an_error() {
        let directory = crate::test_dir::TestDir::new("marker");
        let path = directory.path().join("ha_ext.marker");
        assert!(read(&path).expect("no marker is no error").is_none());
        let marker = Marker {
            scope: "demo".to_owned(),
            system_id: SystemId(7_312_345_678_901_234_567),
            member: NodeName::new("pg1"),
            lease: Some(LeaseId(5)),
        };
        write(&path, &marker).expect("write");
        write(&path, &marker).expect("write again");
        assert_eq!(read(&path).expect("read"), Some(marker));
        std::fs::write(&path, "{\"scope\":").expect("damage it");
        assert!(matches!(read(&path), Err(MarkerError::Malformed(_))));
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 1, "no temporary file is left");
    }
}
