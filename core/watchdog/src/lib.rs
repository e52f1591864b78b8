//! The Linux watchdog device (`Documentation/watchdog/watchdog-api.rst` of the kernel), and a stand-in for it that gets the commands as text.
//!
//! Opening a device starts it. It resets the machine once it was not fed for its timeout, whatever becomes of the process, also after the
//! descriptor is closed: unless [`Device::stop`] came before.

mod ioctls;

use rustix::fs::{Access, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What stands behind the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A watchdog device.
    Linux,
    /// A named pipe or file that is written `Ctimeout=SECONDS` and a newline, `1` for each feeding and `V` for a stop. It resets nothing. With a file of its
    /// name that ends in `.nowayout` beside it it cannot be stopped.
    Testing,
}

/// An open watchdog: it runs.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    driver: Driver,
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Closing it without a stop before leaves it running.
    pub magic_close: bool,
}

/// Why the device at `path` cannot be used, as far as that shows without opening it.
pub fn probe(path: &Path, driver: Driver) -> Result<(), String> {
    let refused = |error: Errno| format!("{}: {}", path.display(), io::Error::from(error));
    let stat = rustix::fs::stat(path).map_err(refused)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if driver == Driver::Linux && kind != FileType::CharacterDevice {
        return Err(format!("{} is no watchdog device", path.display()));
    }
    rustix::fs::access(path, Access::WRITE_OK).map_err(refused)
}

impl Device {
    /// Opens the device, which starts it. `ResourceBusy` if somebody else has it open.
    pub fn open(path: &Path, driver: Driver) -> io::Result<Self> {
        // A named pipe without a reader is no reason to wait.
        let fd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
        Ok(Self { fd, driver })
    }

    /// A device that another process has opened.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, driver: Driver) -> Self {
        Self { fd, driver }
    }

    /// What it is. `ENOTTY` where there is no watchdog behind the descriptor.
    pub fn identity(&self) -> io::Result<Identity> {
        match self.driver {
            Driver::Linux => ioctls::identity(self.fd.as_fd()),
            Driver::Testing => Ok(Identity { name: "testing".to_owned(), magic_close: true }),
        }
    }

    /// Asks for a timeout and says which one is in force then, both in seconds. A device may round it, refuse it, or have only one. An
    /// error only if it does not say what is in force.
    pub fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
        match self.driver {
            Driver::Linux => match (ioctls::set_timeout(self.fd.as_fd(), seconds), ioctls::timeout(self.fd.as_fd())) {
                // What the call itself gives back is not to be relied on.
                (_, Ok(in_force)) => Ok(in_force),
                (Err(refused), Err(_)) => Err(refused),
                (Ok(()), Err(unknown)) => Err(unknown),
            },
            Driver::Testing => self.write(format!("Ctimeout={seconds}\n").as_bytes()).map(|()| seconds),
        }
    }

    /// The timeout in force, in seconds.
    pub fn timeout(&self) -> io::Result<u32> {
        match self.driver {
            Driver::Linux => ioctls::timeout(self.fd.as_fd()),
            Driver::Testing => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether it is known that it cannot be stopped (`nowayout`). Not every kernel says so; a stop that fails does.
    #[must_use]
    pub fn stays(&self) -> bool {
        match self.driver {
            Driver::Linux => self.says_nowayout().unwrap_or(false),
            Driver::Testing => self.has_nowayout_beside_it(),
        }
    }

    fn says_nowayout(&self) -> io::Result<bool> {
        let device = rustix::fs::fstat(&self.fd)?.st_rdev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        // The old name of the first device is one of the kernel's miscellaneous devices, which know nothing of it.
        let place = match (major, minor) {
            (10, 130) => "/sys/class/watchdog/watchdog0/nowayout".to_owned(),
            _ => format!("/sys/dev/char/{major}:{minor}/nowayout"),
        };
        Ok(std::fs::read_to_string(place)?.trim() == "1")
    }

    fn has_nowayout_beside_it(&self) -> bool {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        std::fs::read_link(link).is_ok_and(|path| path.with_extension("nowayout").exists())
    }

    /// Feeds it: the time runs anew.
    pub fn feed(&self) -> io::Result<()> {
        self.write(b"1")
    }

    /// Stops it now, and when the last descriptor is closed. An error if it cannot be stopped (`nowayout`): it was fed then.
    pub fn stop(&self) -> io::Result<()> {
        if self.driver == Driver::Testing && self.has_nowayout_beside_it() {
            self.feed()?;
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.write(b"V")?;
        match self.driver {
            Driver::Testing => Ok(()),
            Driver::Linux => match ioctls::disable(self.fd.as_fd()) {
                // It is stopped when it is closed.
                Err(error) if is_missing(&error) => Ok(()),
                done => done,
            },
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match rustix::io::write(&self.fd, bytes) {
                Ok(written) if written == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The driver does not know the call.
fn is_missing(error: &io::Error) -> bool {
    let missing = [Errno::NOTTY, Errno::OPNOTSUPP].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| missing.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::path::PathBuf;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ha_watchdog_{name}_{}", std::process::id()))
    }

    fn pipe(name: &str) -> PathBuf {
        let path = scratch(name);
        let _ = std::fs::remove_file(&path);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a named pipe");
        path
    }

    #[test]
    fn a_pipe_gets_the_commands_as_text() {
        let path = pipe("commands");
        probe(&path, Driver::Testing).expect("it can be written");
        let error = Device::open(&path, Driver::Testing).expect_err("nobody reads it");
        assert_eq!(error.raw_os_error(), Some(Errno::NXIO.raw_os_error()));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut reader = std::fs::File::from(rustix::fs::open(&path, flags, Mode::empty()).expect("a reader"));
        let device = Device::open(&path, Driver::Testing).expect("open");
        assert_eq!(device.set_timeout(25).expect("set"), 25);
        device.feed().expect("fed");
        device.stop().expect("stopped");
        drop(device);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(text, "Ctimeout=25\n1V");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn one_that_stays_is_fed_by_the_attempt_to_stop_it() {
        let path = pipe("stays");
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut reader = std::fs::File::from(rustix::fs::open(&path, flags, Mode::empty()).expect("a reader"));
        let device = Device::open(&path, Driver::Testing).expect("open");
        assert!(!device.stays());
        std::fs::write(path.with_extension("nowayout"), "").expect("written");
        assert!(device.stays());
        assert_eq!(device.stop().expect_err("it runs on").kind(), io::ErrorKind::ResourceBusy);
        drop(device);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(text, "1");
        std::fs::remove_file(path.with_extension("nowayout")).expect("removed");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn what_is_no_watchdog_is_not_taken_for_one() {
        let path = pipe("no_device");
        assert!(probe(&path, Driver::Linux).expect_err("a pipe").contains("is no watchdog device"));
        std::fs::remove_file(&path).expect("removed");
        assert!(probe(&path, Driver::Linux).expect_err("nothing").contains("No such file"));
        // A device of another kind shows it when it is asked.
        let null = Device::open(Path::new("/dev/null"), Driver::Linux).expect("open");
        let error = null.identity().expect_err("it is none");
        assert!(is_missing(&error), "{error}");
        assert!(null.set_timeout(10).is_err());
    }
}
