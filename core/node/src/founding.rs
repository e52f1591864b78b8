//! The mark `founding` beside a data directory: it was made to found a cluster, and nobody has seen yet that it did.
//!
//! A fence opens only after the mark is gone, and the mark goes only once the store shows the cluster as founded with this
//! system identifier. So a directory with its mark holds nothing that was ever acknowledged.

use crate::files;
use crate::paths::Paths;
use ha_core::ids::SystemId;
use std::io;

const LIMIT_BYTES: u64 = 64;

/// Marks the directory with this system identifier. It waits for the disk.
pub fn begin(paths: &Paths, system_id: SystemId) -> io::Result<()> {
    files::write_atomically(&paths.founding(), system_id.to_string().as_bytes())
}

/// The system identifier of the marked directory; another one that stands in its place is not meant.
pub fn read(paths: &Paths) -> io::Result<Option<SystemId>> {
    let text = files::read_bounded(&paths.founding(), LIMIT_BYTES)?;
    Ok(text.and_then(|text| text.trim().parse().ok()).map(SystemId))
}

/// The cluster is founded, or the directory is gone. It waits for the disk.
pub fn end(paths: &Paths) -> io::Result<()> {
    files::remove(&paths.founding()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_directory() {
        let directory = crate::test_dir::TestDir::new("founding");
        let paths = Paths::new(&directory.path().join("data"));
        std::fs::create_dir(paths.control_dir()).expect("the control directory");
        assert_eq!(read(&paths).expect("no mark"), None);
        begin(&paths, SystemId(7)).expect("marked");
        assert_eq!(read(&paths).expect("the mark"), Some(SystemId(7)));
        std::fs::write(paths.founding(), "half").expect("damaged");
        assert_eq!(read(&paths).expect("says nothing"), None);
        end(&paths).expect("removed");
        end(&paths).expect("twice does no harm");
        assert_eq!(read(&paths).expect("no mark"), None);
    }
}
