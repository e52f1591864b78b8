//! What must hold before a supervisor may run at all.

use crate::control_data;
use crate::error::{Error, Result};
use crate::pgdata;
use crate::process::{Cancel, NoNote, run};
use crate::site::Site;
use ha_node::supervisor_lock;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Major versions that are supported.
const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// Postgres refuses to run as root, and what we would write as root it could not read.
pub fn not_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        let why =
            "ha_bootstrap must not run as root: run it as the user that owns the data directory (usually postgres)";
        return Err(Error::Refused(why.to_owned()));
    }
    Ok(())
}

/// Keeps a second supervisor of the same data directory out for as long as the file is open.
pub fn lock_supervisor(site: &Site) -> Result<File> {
    let wrong = Error::io(|| format!("locking {}", site.paths.supervisor_lock().display()));
    let taken = supervisor_lock::take(&site.paths).map_err(wrong)?;
    taken.ok_or_else(|| Error::Refused(format!("another ha_bootstrap runs for {}", site.data_dir().display())))
}

/// Whether a supervisor runs. In doubt one does.
#[must_use]
pub fn supervisor_runs(site: &Site) -> bool {
    supervisor_lock::is_taken(&site.paths).unwrap_or(true)
}

/// The programs of the server's installation that are run.
const PROGRAMS: [&str; 5] = ["postgres", "initdb", "pg_basebackup", "pg_rewind", "psql"];

/// Checks, before anything is written, that the places named in the configuration are there. A message names the key.
pub fn place(site: &Site) -> Result<()> {
    let postgresql = &site.config.postgresql;
    if let Some(dir) = &postgresql.bin_dir
        && let Some(missing) = PROGRAMS.iter().find(|name| !dir.join(name).is_file())
    {
        let why = format!("postgresql.bin_dir: {} has no program {missing}", dir.display());
        return Err(Error::Refused(format!("{why} (give the directory of {})", PROGRAMS.join(", "))));
    }
    if let Some(dir) = postgresql.pgpass.parent().filter(|dir| !dir.is_dir() && *dir != site.paths.control_dir()) {
        let why = format!("postgresql.pgpass: the directory {} does not exist", dir.display());
        return Err(Error::Refused(format!("{why} (make it, or name another file)")));
    }
    let data_dir = site.data_dir();
    if data_dir.exists() && !data_dir.is_dir() {
        return Err(Error::Refused(format!("postgresql.data_dir: {} is no directory", data_dir.display())));
    }
    let beside = data_dir.ancestors().skip(1).find(|dir| dir.exists()).unwrap_or(data_dir);
    if !site.paths.control_dir().is_dir() && rustix::fs::access(beside, rustix::fs::Access::WRITE_OK).is_err() {
        let why = format!("postgresql.data_dir: this user may not write in {}", beside.display());
        return Err(Error::Refused(format!("{why}, where files of ha_ext lie beside the data directory")));
    }
    Ok(())
}

/// Checks the place and the server's programs; the server's version number.
pub fn environment(site: &Site) -> Result<u32> {
    let dir = site.data_dir();
    if std::env::var_os("HA_EXT_ALLOW_NFS").is_none() {
        pgdata::refuse_network_file_system(dir)?;
    }
    if let Ok(meta) = std::fs::metadata(dir)
        && meta.uid() != rustix::process::geteuid().as_raw()
    {
        return Err(Error::Refused(format!("{} belongs to another user", dir.display())));
    }
    let hint = match site.config.postgresql.bin_dir {
        Some(_) => "see postgresql.bin_dir",
        None => "give postgresql.bin_dir: postgres is not in PATH",
    };
    let ran = run(site.local("postgres").arg("--version"), "", &Cancel::new()?, &NoNote)
        .map_err(|error| Error::Refused(format!("{error} ({hint})")))?
        .checked("postgres")?;
    let version = version_num(&ran.out)
        .ok_or_else(|| Error::Refused(format!("postgres --version says \"{}\"", ran.out.trim())))?;
    let major = version / 10_000;
    if !MAJORS.contains(&major) {
        let why = format!("PostgreSQL {major} is not supported: 15 to 18 are; see postgresql.bin_dir");
        return Err(Error::Refused(why));
    }
    if let Ok(made_by) = std::fs::read_to_string(dir.join("PG_VERSION"))
        && made_by.trim() != major.to_string()
    {
        let why = format!("{} was made by PostgreSQL {}, but bin_dir has {major}", dir.display(), made_by.trim());
        return Err(Error::Refused(why));
    }
    warn_about_rewind(site);
    Ok(version)
}

/// `pg_rewind` needs page images of hint bits, and both settings that give them take effect long before it is needed.
fn warn_about_rewind(site: &Site) {
    if site.config.postgresql.use_pg_rewind
        && let Ok(file) = control_data::read(site.data_dir())
        && !file.control.can_be_rewound
    {
        tracing::warn!(
            "use_pg_rewind is on, but neither data checksums nor wal_log_hints were when the server last ran: \
             a diverged server could not be rewound"
        );
    }
}

/// `postgres (PostgreSQL) 15.20 (Debian ...)` is 150020; `18beta1` counts as 18.0.
fn version_num(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    let mut parts = number.split('.');
    let major = digits(parts.next()?)?;
    let minor = parts.next().and_then(digits).unwrap_or(0);
    Some(major * 10_000 + minor)
}

#[cfg(test)]
mod tests {
    use super::{PROGRAMS, place, version_num};
    use crate::site::Site;
    use ha_core::config::Config;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    /// What is said about a node whose section `postgresql` is changed like this.
    fn said(dir: &Path, change: impl FnOnce(&mut Value)) -> String {
        let mut local = json!({
            "scope": "s", "name": "pg1", "etcd3": {"host": "127.0.0.1:2379"}, "restapi": {"listen": "127.0.0.1:8008"},
            "postgresql": {
                "listen": "127.0.0.1:5432", "data_dir": dir.join("new/data"), "bin_dir": dir.join("bin"),
                "pgpass": dir.join("pgpass"), "authentication": {"replication": {"username": "r"}}
            }
        });
        change(&mut local["postgresql"]);
        let (config, _) = Config::from_layers(&local, &BTreeMap::new(), None).expect("a configuration");
        match place(&Site::new(Arc::new(config), "/node.yml".into())) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_place_that_is_not_there_is_named_with_its_key() {
        let dir = std::env::temp_dir().join(format!("ha_bootstrap.checks.{}", std::process::id()));
        std::fs::create_dir_all(dir.join("bin")).expect("a directory");
        for name in PROGRAMS {
            std::fs::write(dir.join("bin").join(name), "").expect("a file");
        }
        assert_eq!(said(&dir, |_| ()), "");
        let text = said(&dir, |postgresql| postgresql["bin_dir"] = json!("/nonexistent/bin"));
        assert!(text.contains("postgresql.bin_dir: /nonexistent/bin has no program postgres"), "{text}");
        let text = said(&dir, |postgresql| postgresql["pgpass"] = json!("/nonexistent/pgpass"));
        assert!(text.contains("postgresql.pgpass: the directory /nonexistent does not exist"), "{text}");
        let text = said(&dir, |postgresql| postgresql["data_dir"] = json!(dir.join("bin/psql")));
        assert!(text.contains("postgresql.data_dir: ") && text.contains("is no directory"), "{text}");
        std::fs::remove_file(dir.join("bin/pg_rewind")).expect("removed");
        let text = said(&dir, |_| ());
        assert!(text.contains("has no program pg_rewind"), "{text}");
        assert_eq!(said(&dir, |postgresql| postgresql["bin_dir"] = Value::Null), "");
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version_num("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(150_020));
        assert_eq!(version_num("postgres (PostgreSQL) 18beta1"), Some(180_000));
        assert_eq!(version_num("postgres"), None);
    }
}
