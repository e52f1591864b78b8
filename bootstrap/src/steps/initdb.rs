//! Makes a new cluster: initdb, its roles, its configuration, the marker.

use super::{Context, conf};
use crate::control_data;
use crate::error::{Error, Result};
use crate::pgdata;
use ha_core::config::{Credentials, Secret};
use ha_core::pgconf;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Functions `pg_rewind` calls on its source.
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// Runs the step.
pub fn perform(context: &Context) -> Result<()> {
    let site = &context.site;
    site.make_control_dir()?;
    context.needs_no_program_left()?;
    let landing = pgdata::landing(site)?;
    pgdata::begin_unfinished(site, pgdata::INITIALISING)?;
    let made = make(context, &landing);
    if made.is_ok() {
        pgdata::end_unfinished(site)?;
    }
    made
}

fn make(context: &Context, landing: &Path) -> Result<()> {
    let site = &context.site;
    let postgresql = &site.config.postgresql;
    let mut command = site.local("initdb");
    command.arg("-D").arg(landing).args(["--username", &postgresql.superuser.username]);
    let password = PasswordFile::write(site.paths.control_dir(), postgresql.superuser.password.as_ref())?;
    if let Some(file) = &password {
        command.arg("--pwfile").arg(&file.path);
    }
    command.args(site.config.bootstrap.initdb.iter().map(ha_core::config::CommandOption::argument));
    context.run(&mut command, "")?;
    drop(password);
    pgdata::land(site, landing)?;
    // The roles first: with the configuration in place the server would already load our library.
    let sql = roles(&postgresql.superuser, &postgresql.replication, rewind_role(context));
    single_user(context, &sql)?;
    if let Some(text) = pgconf::bootstrap_pg_hba(&site.config) {
        pgdata::write_durably(&site.data_dir().join("pg_hba.conf"), &text)?;
    }
    conf::write(site, None)?;
    context.write_marker()?;
    let system_id = control_data::read(site.data_dir())?.control.system_id;
    ha_node::founding::begin(&site.paths, system_id).map_err(Error::io(|| "marking the new cluster".to_owned()))
}

fn rewind_role(context: &Context) -> Option<&Credentials> {
    let postgresql = &context.site.config.postgresql;
    (postgresql.own_rewind_role && postgresql.rewind.username != postgresql.superuser.username)
        .then_some(&postgresql.rewind)
}

/// SQL that makes the roles, one statement per paragraph as single-user mode with `-j` wants it.
fn roles(superuser: &Credentials, replication: &Credentials, rewind: Option<&Credentials>) -> String {
    let mut sql = String::new();
    if replication.username != superuser.username && !replication.username.is_empty() {
        let _ = write!(sql, "CREATE ROLE {}", identifier(&replication.username));
        let _ = write!(sql, " WITH LOGIN REPLICATION{};\n\n", password(replication));
    }
    if let Some(rewind) = rewind {
        let name = identifier(&rewind.username);
        if rewind.username != replication.username {
            let _ = write!(sql, "CREATE ROLE {name} WITH LOGIN{};\n\n", password(rewind));
        }
        for function in REWIND_FUNCTIONS {
            let _ = write!(sql, "GRANT EXECUTE ON FUNCTION {function} TO {name};\n\n");
        }
    }
    sql
}

fn password(role: &Credentials) -> String {
    match &role.password {
        Some(secret) if !secret.expose().is_empty() => format!(" PASSWORD {}", literal(secret.expose())),
        Some(_) | None => String::new(),
    }
}

/// An SQL identifier, always quoted.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An SQL string that reads the same whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// Runs SQL in a single-user server. Nothing of it is logged: it holds passwords.
fn single_user(context: &Context, sql: &str) -> Result<()> {
    if sql.is_empty() {
        return Ok(());
    }
    let mut command = context.site.local("postgres");
    command.args(["--single", "-j", "-D"]).arg(context.site.data_dir());
    for setting in
        ["exit_on_error=true", "log_statement=none", "log_min_error_statement=panic", "log_min_duration_statement=-1"]
    {
        command.args(["-c", setting]);
    }
    command.arg("postgres");
    context.run(&mut command, sql).map(|_| ())
}

/// A password in a file that only we can read, removed when dropped.
struct PasswordFile {
    path: PathBuf,
}

impl PasswordFile {
    fn write(dir: &Path, password: Option<&Secret>) -> Result<Option<Self>> {
        let Some(password) = password.filter(|secret| !secret.expose().is_empty()) else { return Ok(None) };
        let file = Self { path: dir.join("initdb.pw") };
        let _ = std::fs::remove_file(&file.path);
        let wrong = || Error::io(|| format!("writing {}", file.path.display()));
        let mut options = std::fs::OpenOptions::new();
        let mut out = options.write(true).create_new(true).mode(0o600).open(&file.path).map_err(wrong())?;
        out.write_all(password.expose().as_bytes()).map_err(wrong())?;
        Ok(Some(file))
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, password: &str) -> Credentials {
        Credentials { username: name.to_owned(), password: Some(Secret::new(password)), ..Credentials::default() }
    }

    #[test]
    fn names_and_passwords_are_quoted() {
        let sql = roles(&role("postgres", "x"), &role("re\"pl", "it's \\ ok"), None);
        assert_eq!(sql, "CREATE ROLE \"re\"\"pl\" WITH LOGIN REPLICATION PASSWORD E'it''s \\\\ ok';\n\n");
    }

    #[test]
    fn one_role_may_serve_all_purposes() {
        let all = role("postgres", "x");
        assert_eq!(roles(&all, &all, None), "");
        let two = roles(&all, &role("r", "p"), Some(&role("r", "p")));
        assert_eq!(two.matches("CREATE ROLE").count(), 1);
        assert_eq!(two.matches("GRANT EXECUTE").count(), REWIND_FUNCTIONS.len());
    }
}
