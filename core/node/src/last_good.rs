//! The configuration that was last in force: a mistake in the file must not keep a worker from starting after a crash.

use crate::paths::Paths;
use crate::{config_file, files};
use ha_core::config::Config;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// What `file` says; if that cannot be used, what it said when it last could, and what is wrong with it now.
pub fn load(
    paths: &Paths,
    file: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<(Value, Option<String>), String> {
    let usable = |local: Value| match Config::from_layers(&local, environment, None) {
        Ok(_) => Ok(local),
        Err(error) => Err(format!("the configuration {} cannot be used:\n{error}", file.display())),
    };
    match config_file::load(file).map_err(|error| error.to_string()).and_then(usable) {
        Ok(local) => {
            // Without it the next start is as good as this one, unless the file is spoiled meanwhile.
            if let Err(error) = keep(paths, &local) {
                tracing::warn!("the configuration in force cannot be kept: {error}");
            }
            Ok((local, None))
        }
        Err(mistake) => match read(paths) {
            Ok(Some(local)) => Ok((local, Some(mistake))),
            Ok(None) => Err(mistake),
            Err(error) => Err(format!("{mistake}\nthe one in force before cannot be read: {error}")),
        },
    }
}

/// Keeps `local` (mode 0600, in the control directory, which only a node with a supervisor has). It waits for the disk.
pub fn keep(paths: &Paths, local: &Value) -> io::Result<()> {
    if !paths.control_dir().is_dir() || read(paths).is_ok_and(|kept| kept.as_ref() == Some(local)) {
        return Ok(());
    }
    files::write_atomically(&paths.last_good(), local.to_string().as_bytes())
}

fn read(paths: &Paths) -> io::Result<Option<Value>> {
    let text = files::read_bounded(&paths.last_good(), LIMIT_BYTES)?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "scope: demo\nname: pg1\nrestapi: {listen: '127.0.0.1:8008'}\netcd3: {host: '127.0.0.1:2379'}\n\
         postgresql: {listen: '127.0.0.1:5432', data_dir: /data, authentication: {replication: {username: r}}}\n";

    #[test]
    fn a_mistake_in_the_file_leaves_the_configuration_as_it_was() {
        let directory = crate::test_dir::TestDir::new("last-good");
        let (paths, file) = (Paths::new(&directory.path().join("data")), directory.path().join("node.yml"));
        let load = || load(&paths, &file, &BTreeMap::new());
        std::fs::write(&file, "scope: [").expect("write");
        assert!(load().is_err(), "nothing was in force before");
        std::fs::create_dir(paths.control_dir()).expect("the control directory");
        std::fs::write(&file, GOOD).expect("write");
        let (good, mistake) = load().expect("a good file");
        assert_eq!((good["name"].as_str(), mistake), (Some("pg1"), None));
        for spoiled in ["scope: [", "", "scope: demo\nttll: 5\n"] {
            std::fs::write(&file, spoiled).expect("write");
            let (local, mistake) = load().expect("the one before");
            assert_eq!(local, good);
            assert!(mistake.is_some_and(|text| text.contains("node.yml")));
        }
        std::fs::remove_file(&file).expect("remove");
        assert_eq!(load().expect("the one before").0, good);
    }
}
