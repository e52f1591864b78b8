//! The server's configuration files: written before every start by the supervisor, and by the worker while the
//! server runs. What a file holds already is not written again.

use crate::files;
use crate::paths::Paths;
use ha_core::config::Config;
use ha_core::pgconf::{self, Refusal, Refusals};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where `postgresql.conf` is.
#[must_use]
pub fn main(paths: &Paths) -> PathBuf {
    paths.data_dir().join("postgresql.conf")
}

/// Where what initdb (or the user) wrote is kept: `postgresql.conf` includes it.
#[must_use]
pub fn base(paths: &Paths) -> PathBuf {
    paths.data_dir().join(pgconf::BASE_CONF)
}

/// Writes what does not depend on whom the server follows, without what is `refused`. Whether the server has something to
/// read again.
pub fn write(paths: &Paths, config: &Config, refused: &Refusals) -> io::Result<bool> {
    let (main, base) = (main(paths), base(paths));
    if !base.try_exists()? && main.try_exists()? {
        // A copy, not a rename: the server can be started at any moment in between.
        files::write_atomically(&base, &std::fs::read(&main)?)?;
    }
    let mut changed = false;
    // Access first: if only one of them can be written, it had better be the narrower one.
    let access = [("pg_hba.conf", pgconf::pg_hba(config)), ("pg_ident.conf", pgconf::pg_ident(config))];
    for (name, text) in access {
        if let Some(text) = text {
            changed |= write_changed(&paths.data_dir().join(name), &text)?;
        }
    }
    changed |= write_changed(&main, &pgconf::postgresql_conf(config, refused))?;
    write_pgpass(config)?;
    Ok(changed)
}

/// What the server refused when it ran last, as far as it has not changed since.
#[must_use]
pub fn still_refused(paths: &Paths, config: &Config) -> Refusals {
    pgconf::still_refused(config, &text(&main(paths)))
}

/// What a running server refuses: the parameters `named`, and those that were refused before it started, which it cannot always
/// judge. It goes on with the values it has.
#[must_use]
pub fn refused_by_running(paths: &Paths, config: &Config, named: &BTreeSet<String>) -> Refusals {
    let present = text(&main(paths));
    let mut refused = pgconf::still_refused(config, &present);
    let before = pgconf::parameters_in(&present);
    for name in named {
        // A library judges its settings only once it is loaded: a server may have started with what it refuses.
        let asked = config.postgresql.parameters.get(name);
        let instead = before.get(name).filter(|old| Some(*old) != asked).cloned();
        let refusal = Refusal { instead, by_start: false };
        refused.entry(name.clone()).or_insert(refusal);
    }
    refused
}

/// A configuration file of the server; empty if it cannot be read, for in doubt nothing is known.
#[must_use]
pub fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Writes a file unless it holds this text already; whether it did.
pub fn write_changed(path: &Path, text: &str) -> io::Result<bool> {
    if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    files::write_atomically(path, text.as_bytes()).map(|()| true)
}

/// Writes the password file, readable by us alone from its first byte.
pub fn write_pgpass(config: &Config) -> io::Result<()> {
    let path = &config.postgresql.pgpass;
    let text = pgconf::pgpass(config);
    let private = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode().trailing_zeros() >= 6);
    if private && std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let fresh = path.with_extension("ha_ext_new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn config(dir: &Path, dynamic: &Value) -> Config {
        let local = json!({
            "scope": "s", "name": "n",
            "restapi": {"listen": "127.0.0.1:8008"},
            "etcd3": {"host": "127.0.0.1:2379"},
            "postgresql": {
                "listen": "127.0.0.1:5432", "data_dir": dir, "pgpass": dir.join("pgpass"),
                "authentication": {"replication": {"username": "repl", "password": "p"}}
            }
        });
        Config::from_layers(&local, &BTreeMap::new(), Some(dynamic)).expect("a good configuration").0
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).expect("the file is there")
    }

    #[test]
    fn only_changes_are_written() {
        let dir = TestDir::new("server_files");
        let paths = Paths::new(dir.path());
        std::fs::write(main(&paths), "work_mem = '1MB' # by initdb\n").expect("written");
        let none = Refusals::new();
        let first = config(dir.path(), &json!({}));
        assert!(write(&paths, &first, &none).expect("written"));
        assert_eq!(read(&base(&paths)), "work_mem = '1MB' # by initdb\n");
        assert!(!write(&paths, &first, &none).expect("nothing to do"));
        assert!(!dir.path().join("pg_hba.conf").exists());

        let parameters = config(dir.path(), &json!({"postgresql": {"parameters": {"work_mem": "6MB"}}}));
        assert!(write(&paths, &parameters, &none).expect("written"));
        assert!(read(&main(&paths)).contains("\nwork_mem = '6MB'\n"));
        let access = config(dir.path(), &json!({"postgresql": {"pg_hba": ["local all all trust"]}}));
        assert!(write(&paths, &access, &none).expect("written"));
        assert!(read(&dir.path().join("pg_hba.conf")).ends_with("\nlocal all all trust\n"));
        assert!(!read(&main(&paths)).contains("work_mem"));
        assert_eq!(read(&base(&paths)), "work_mem = '1MB' # by initdb\n", "what initdb wrote stays");
        assert_eq!(read(&dir.path().join("pgpass")), "*:*:*:repl:p\n");
    }

    #[test]
    fn what_a_server_refused_is_known_at_its_next_start() {
        let dir = TestDir::new("server_files_refused");
        let paths = Paths::new(dir.path());
        let work_mem = |value: &str| config(dir.path(), &json!({"postgresql": {"parameters": {"work_mem": value}}}));
        let named = BTreeSet::from(["work_mem".to_owned()]);
        write(&paths, &work_mem("5MB"), &Refusals::new()).expect("written");
        let bad = work_mem("much");
        assert_eq!(still_refused(&paths, &bad), Refusals::new());
        let refused = refused_by_running(&paths, &bad, &named);
        assert_eq!(refused["work_mem"].instead.as_deref(), Some("5MB"), "what it has stays");
        write(&paths, &bad, &refused).expect("written");
        assert_eq!(still_refused(&paths, &bad), refused);
        assert!(!write(&paths, &bad, &still_refused(&paths, &bad)).expect("nothing to do"));
        assert_eq!(refused_by_running(&paths, &bad, &named), refused, "twice changes nothing");
        let written = config(dir.path(), &json!({"postgresql": {"parameters": {"ha_ext.fence_reads": "maybe"}}}));
        write(&paths, &written, &Refusals::new()).expect("written");
        let name = "ha_ext.fence_reads".to_owned();
        let library = refused_by_running(&paths, &written, &BTreeSet::from([name.clone()]));
        assert_eq!(library[&name].instead, None, "what it has started with is no better");
        write(&paths, &bad, &refused).expect("written");
        // It stays refused until it changes, whatever a running server thinks of it.
        assert_eq!(refused_by_running(&paths, &bad, &BTreeSet::new()), refused);
        let by_start = Refusals::from([("work_mem".to_owned(), Refusal { by_start: true, ..Refusal::default() })]);
        write(&paths, &bad, &by_start).expect("written");
        assert_eq!(refused_by_running(&paths, &bad, &BTreeSet::new()), by_start);
        assert_eq!(refused_by_running(&paths, &work_mem("6MB"), &BTreeSet::new()), Refusals::new());
    }
}
