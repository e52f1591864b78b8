//! A directory per cluster that user postgres can enter, removed at the end, kept when the test failed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

static NEXT: AtomicU32 = AtomicU32::new(0);
/// Where this process has kept logs.
static KEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The directory.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes `<temp>/ha_tests.<pid>.<n>`; `scripts/clean-tests.sh` removes those whose process is gone.
    #[must_use]
    pub fn new() -> Self {
        let base = std::env::var_os("HA_TESTS_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("ha_tests.{}.{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a scratch directory can be made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("we own the scratch directory");
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            keep_logs(&self.path);
        }
        // A mount that is still busy keeps its directory; the sweep removes it later.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Copies the logs of a failed test to `<temp>/ha_tests.failed/<test>`.
pub fn keep_logs(from: &Path) {
    let test = std::thread::current().name().unwrap_or("main").replace("::", ".");
    let to = std::env::temp_dir().join("ha_tests.failed").join(test);
    // A test may have several directories; only what an earlier run left goes.
    if KEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(to.clone()) {
        let _ = fs::remove_dir_all(&to);
    }
    if fs::create_dir_all(&to).is_err() {
        return;
    }
    for file in files_below(from, 2) {
        let wanted = file.extension().is_some_and(|extension| extension == "log" || extension == "yml");
        if wanted && let Ok(relative) = file.strip_prefix(from) {
            let name = relative.to_string_lossy().replace('/', ".");
            let _ = fs::copy(&file, to.join(name));
        }
    }
    eprintln!("logs kept in {}", to.display());
}

fn files_below(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_file() => found.push(path),
            Ok(kind) if kind.is_dir() && depth > 0 => found.extend(files_below(&path, depth - 1)),
            _ => {}
        }
    }
    found
}

/// The last lines of a text file.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|raw| String::from_utf8_lossy(&raw).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
