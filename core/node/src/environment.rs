//! The `PATRONI_*` variables of the supervisor, for the worker: the server's own environment is kept clean of them,
//! because they hold passwords and every program the server starts would inherit them.

use crate::files;
use crate::paths::Paths;
use std::collections::BTreeMap;
use std::io;

const LIMIT_BYTES: u64 = 1024 * 1024;
const PREFIX: &str = "PATRONI_";

/// Keeps the variables for the worker (mode 0600, in the control directory). It waits for the disk.
pub fn keep(paths: &Paths, environment: &BTreeMap<String, String>) -> io::Result<()> {
    let path = paths.environment();
    if environment.is_empty() {
        return files::remove(&path).map(|_| ());
    }
    files::write_atomically(&path, serde_json::to_string(environment)?.as_bytes())
}

/// The variables in force: those of this process over those that a supervisor has kept.
pub fn effective(paths: &Paths) -> io::Result<BTreeMap<String, String>> {
    let mut effective: BTreeMap<String, String> = match files::read_bounded(&paths.environment(), LIMIT_BYTES)? {
        Some(text) => serde_json::from_str(&text)?,
        None => BTreeMap::new(),
    };
    effective.extend(own());
    Ok(effective)
}

/// The variables of this process.
#[must_use]
pub fn own() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_and_can_be_forgotten() {
        let directory = crate::test_dir::TestDir::new("environment");
        let paths = Paths::new(&directory.path().join("data"));
        std::fs::create_dir(paths.control_dir()).expect("the control directory");
        let kept = BTreeMap::from([("PATRONI_NAME".to_owned(), "pg\"1".to_owned())]);
        keep(&paths, &kept).expect("kept");
        assert_eq!(effective(&paths).expect("read").get("PATRONI_NAME"), kept.get("PATRONI_NAME"));
        keep(&paths, &BTreeMap::new()).expect("forgotten");
        assert!(!effective(&paths).expect("read").contains_key("PATRONI_NAME"));
    }
}
