//! A file that says that this node has started a watchdog which was not stopped since: what a process that begins anew knows of it.
//!
//! It is not flushed to the disk: a machine that was reset meanwhile has booted anew, and the file names the boot.

use std::path::{Path, PathBuf};

/// See the module.
pub struct Mark {
    file: PathBuf,
    /// What it says, as far as this process knows.
    device: Option<PathBuf>,
}

impl Mark {
    /// As it is now.
    pub fn read(file: PathBuf) -> Self {
        let mut mark = Self { file, device: None };
        mark.look();
        mark
    }

    fn look(&mut self) {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let said = text.split_once('\n').filter(|(boot, _)| boot_id().is_ok_and(|now| now == *boot));
        self.device = said.map(|(_, device)| PathBuf::from(device));
    }

    /// Whether the device there was started here.
    pub fn names(&self, device: &Path) -> bool {
        self.device.as_deref() == Some(device)
    }

    /// The same, after another look: the other side may have stopped it.
    pub fn still_names(&mut self, device: &Path) -> bool {
        self.look();
        self.names(device)
    }

    /// Just before that device is started. `false` if it was there before.
    pub fn make(&mut self, device: &Path) -> bool {
        if self.still_names(device) {
            return false;
        }
        let written = boot_id().and_then(|boot| std::fs::write(&self.file, format!("{boot}\n{}", device.display())));
        if let Err(error) = written {
            tracing::warn!(
                "{} cannot be written, and a watchdog would not be found after a restart: {error}",
                self.file.display()
            );
        }
        self.device = Some(device.to_owned());
        true
    }

    /// The other side has made it.
    pub fn was_made(&mut self, device: &Path) {
        if !self.names(device) {
            self.device = Some(device.to_owned());
        }
    }

    /// That device was stopped.
    pub fn remove(&mut self) {
        self.device = None;
        if let Err(error) = std::fs::remove_file(&self.file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{} cannot be removed: {error}", self.file.display());
        }
    }
}

fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_of_this_boot_tells_of_its_device() {
        let file = std::env::temp_dir().join(format!("ha_watchdog_mark_{}", std::process::id()));
        let device = Path::new("/dev/watchdog0");
        let mut first = Mark::read(file.clone());
        assert!(!first.names(device) && first.make(device) && !first.make(device));
        let mut second = Mark::read(file.clone());
        assert!(second.names(device) && !second.names(Path::new("/dev/watchdog1")));
        first.remove();
        assert!(second.names(device), "it was not told");
        assert!(!second.still_names(device), "but looks");
        std::fs::write(&file, "another boot\n/dev/watchdog0").expect("written");
        assert!(!Mark::read(file.clone()).names(device));
        std::fs::remove_file(file).expect("removed");
    }
}
