//! `ha_ext.marker` in the data directory: this directory belongs to a cluster (architecture, section 1).

use crate::files;
use ha_core::local::Marker;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
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

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    marker: Marker,
    /// Where it was written.
    #[serde(default)]
    place: Option<Place>,
}

/// One data directory of one machine, until that boots again.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    boot_id: String,
    device: u64,
    inode: u64,
}

impl Place {
    /// That of the directory in which the marker at `path` lies.
    fn of(path: &Path) -> io::Result<Self> {
        let directory = std::fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self { boot_id: boot_id.trim().to_owned(), device: directory.dev(), inode: directory.ino() })
    }
}

/// Reads the marker; `None` if there is none.
///
/// A copy of the directory, and a restored snapshot of the machine, bring along a lease that somebody else may hold now: it
/// is named only in the place where it was written.
pub fn read(path: &Path) -> Result<Option<Marker>, MarkerError> {
    let Some(text) = files::read_bounded(path, LIMIT_BYTES).map_err(MarkerError::Io)? else { return Ok(None) };
    let Written { mut marker, place } = serde_json::from_str(&text).map_err(MarkerError::Malformed)?;
    if place.is_none() || place != Place::of(path).ok() {
        marker.lease = None;
    }
    Ok(Some(marker))
}

/// Writes the marker durably. It waits for the disk.
pub fn write(path: &Path, marker: &Marker) -> io::Result<()> {
    let written = Written { marker: marker.clone(), place: Some(Place::of(path)?) };
    files::write_atomically(path, serde_json::to_string(&written)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_core::ids::{LeaseId, NodeName, SystemId};

    fn marker(lease: Option<i64>) -> Marker {
        Marker {
            scope: "demo".to_owned(),
            system_id: SystemId(7_312_345_678_901_234_567),
            member: NodeName::new("pg1"),
            lease: lease.map(LeaseId),
        }
    }

    #[test]
    fn a_copy_of_the_directory_has_no_lease() {
        let directory = crate::test_dir::TestDir::new("marker-copied");
        let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
        for path in [&one, &two] {
            std::fs::create_dir(path).expect("a directory");
        }
        write(&one.join("ha_ext.marker"), &marker(Some(5))).expect("write");
        std::fs::copy(one.join("ha_ext.marker"), two.join("ha_ext.marker")).expect("copy");
        assert_eq!(read(&two.join("ha_ext.marker")).expect("read"), Some(marker(None)), "another directory");
        assert_eq!(read(&one.join("ha_ext.marker")).expect("read"), Some(marker(Some(5))));
        let text = std::fs::read_to_string(one.join("ha_ext.marker")).expect("read");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot has a name");
        std::fs::write(one.join("ha_ext.marker"), text.replace(boot.trim(), "another")).expect("write");
        assert_eq!(read(&one.join("ha_ext.marker")).expect("read"), Some(marker(None)), "another boot");
        let bare = serde_json::to_string(&marker(Some(5))).expect("JSON");
        std::fs::write(one.join("ha_ext.marker"), bare).expect("write");
        assert_eq!(read(&one.join("ha_ext.marker")).expect("read"), Some(marker(None)), "no place at all");
    }

    #[test]
    fn a_marker_round_trips_and_a_broken_one_is_an_error() {
        let directory = crate::test_dir::TestDir::new("marker");
        let path = directory.path().join("ha_ext.marker");
        assert!(read(&path).expect("no marker is no error").is_none());
        let marker = marker(Some(5));
        write(&path, &marker).expect("write");
        write(&path, &marker).expect("write again");
        assert_eq!(read(&path).expect("read"), Some(marker));
        std::fs::write(&path, "{\"scope\":").expect("damage it");
        assert!(matches!(read(&path), Err(MarkerError::Malformed(_))));
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 1, "no temporary file is left");
    }
}
