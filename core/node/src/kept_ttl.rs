//! For how long this node may promise a leader without the store to stay away from the leader key: whoever starts after both processes have
//! ended waits for so long. Beside the data directory, or in it where no supervisor has ever run.

use crate::files;
use crate::paths::Paths;
use ha_core::clock::Millis;
use std::io;
use std::path::PathBuf;

const LIMIT_BYTES: u64 = 64;
/// What a file that cannot be read may have said.
const AT_MOST: Millis = Millis::from_secs(3600);

/// What is kept; 0 if nothing is. A file that cannot be read counts as an hour, and its error is given as well.
#[must_use]
pub fn read(paths: &Paths) -> (Millis, Option<String>) {
    let (mut longest, mut mistake) = (Millis(0), None);
    for path in [paths.kept_ttl(), paths.kept_ttl_inside()] {
        let kept = files::read_bounded(&path, LIMIT_BYTES).map_err(|error| error.to_string()).and_then(|text| {
            let number = |text: String| text.trim().parse().map(Millis).map_err(|error| format!("{error}: {text:?}"));
            text.map_or(Ok(Millis(0)), number)
        });
        longest = longest.max(kept.unwrap_or_else(|error| {
            mistake = Some(format!("{} cannot be read: {error}", path.display()));
            AT_MOST
        }));
    }
    (longest, mistake)
}

/// Keeps another time, or nothing with 0. It waits for the disk. After an error either may be kept.
pub fn keep(paths: &Paths, ttl: Millis) -> io::Result<()> {
    let place: PathBuf = if paths.control_dir().is_dir() { paths.kept_ttl() } else { paths.kept_ttl_inside() };
    if ttl > Millis(0) {
        files::write_atomically(&place, ttl.0.to_string().as_bytes())?;
    }
    for other in [paths.kept_ttl(), paths.kept_ttl_inside()] {
        if (ttl == Millis(0) || other != place) && other.parent().is_some_and(std::path::Path::is_dir) {
            files::remove(&other)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_beside_the_data_or_in_it_counts() {
        let directory = crate::test_dir::TestDir::new("kept-ttl");
        let paths = Paths::new(&directory.path().join("data"));
        assert_eq!(read(&paths), (Millis(0), None), "there is no data directory yet");
        keep(&paths, Millis(0)).expect("nothing to keep");
        std::fs::create_dir(paths.data_dir()).expect("the data directory");
        keep(&paths, Millis(60_000)).expect("in the data directory");
        assert_eq!(read(&paths), (Millis(60_000), None));
        std::fs::create_dir(paths.control_dir()).expect("a supervisor has come");
        assert_eq!(read(&paths), (Millis(60_000), None));
        keep(&paths, Millis(30_000)).expect("beside it");
        assert!(!paths.kept_ttl_inside().exists() && paths.kept_ttl().exists());
        assert_eq!(read(&paths), (Millis(30_000), None));
        std::fs::remove_dir(paths.data_dir()).expect("the data directory is lost");
        assert_eq!(read(&paths), (Millis(30_000), None));
        keep(&paths, Millis(0)).expect("removed");
        assert_eq!(read(&paths), (Millis(0), None));
    }

    #[test]
    fn what_cannot_be_read_may_have_been_long() {
        let directory = crate::test_dir::TestDir::new("kept-ttl-damaged");
        let paths = Paths::new(&directory.path().join("data"));
        std::fs::create_dir(paths.control_dir()).expect("the control directory");
        std::fs::write(paths.kept_ttl(), "half").expect("damage");
        let (kept, mistake) = read(&paths);
        assert_eq!(kept, AT_MOST);
        assert!(mistake.is_some_and(|text| text.contains("promise_ttl")));
        keep(&paths, Millis(20_000)).expect("mended");
        assert_eq!(read(&paths), (Millis(20_000), None));
    }
}
