//! The lock that a supervisor holds for as long as its process lives: two of one data directory must not both run, and
//! whoever looks knows at once whether there is one. The kernel takes it back when the process ends, however it ends.

use crate::paths::Paths;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// Whoever only looks holds the lock for a moment.
const LOOKERS_MAX: Duration = Duration::from_millis(500);

/// Takes the lock for as long as the file is open; `None` if another supervisor has it.
pub fn take(paths: &Paths) -> io::Result<Option<File>> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(paths.supervisor_lock())?;
    let end = Instant::now() + LOOKERS_MAX;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether the process of a supervisor lives. It may still be getting ready, or stopped. It does not wait.
pub fn is_taken(paths: &Paths) -> io::Result<bool> {
    let file = match File::open(paths.supervisor_lock()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_as_long_as_its_holder() {
        let directory = crate::test_dir::TestDir::new("supervisor_lock");
        let paths = Paths::new(&directory.path().join("data"));
        assert!(!is_taken(&paths).expect("no supervisor ever ran"));
        std::fs::create_dir(paths.control_dir()).expect("the control directory");
        let held = take(&paths).expect("locked").expect("nobody else");
        assert!(is_taken(&paths).expect("asked"));
        assert!(take(&paths).expect("asked").is_none(), "a second supervisor");
        drop(held);
        assert!(!is_taken(&paths).expect("asked"));
    }

    #[test]
    fn whoever_looks_does_not_keep_a_supervisor_from_starting() {
        let directory = crate::test_dir::TestDir::new("supervisor_lock_looked_at");
        let paths = Paths::new(&directory.path().join("data"));
        std::fs::create_dir(paths.control_dir()).expect("the control directory");
        drop(take(&paths).expect("made"));
        let looking = File::open(paths.supervisor_lock()).expect("opened");
        flock(&looking, FlockOperation::LockShared).expect("a look that takes long");
        let looker = std::thread::Builder::new().spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(looking);
        });
        assert!(take(&paths).expect("locked").is_some());
        looker.expect("a thread").join().expect("no panic");
    }
}
