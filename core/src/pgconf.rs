//! The text of the server's configuration files. Nothing here touches a file.

use crate::config::Config;
use crate::local::Upstream;

/// `postgresql.conf`: includes `postgresql.base.conf` (what initdb or the user wrote), then our parameters, then
/// `ha_ext.conf` if it exists.
#[must_use]
pub fn postgresql_conf(config: &Config) -> String {
    let _ = config;
    String::new()
}

/// Arguments for the postmaster's command line: `-c name=value` pairs, which nothing in a file can override.
#[must_use]
pub fn command_line(config: &Config) -> Vec<String> {
    let _ = config;
    Vec::new()
}

/// `pg_hba.conf` as `postgresql.pg_hba` wants it; `None` leaves the file alone.
#[must_use]
pub fn pg_hba(config: &Config) -> Option<String> {
    let _ = config;
    None
}

/// `pg_hba.conf` of a new cluster; `None` leaves what initdb wrote.
#[must_use]
pub fn bootstrap_pg_hba(config: &Config) -> Option<String> {
    let _ = config;
    None
}

/// `pg_ident.conf` as `postgresql.pg_ident` wants it; `None` leaves the file alone.
#[must_use]
pub fn pg_ident(config: &Config) -> Option<String> {
    let _ = config;
    None
}

/// `ha_ext.conf`: whom this server follows. `None` parks it: it follows nobody and restores nothing.
#[must_use]
pub fn ha_ext_conf(config: &Config, upstream: Option<&Upstream>) -> String {
    let _ = (config, upstream);
    String::new()
}

/// `primary_conninfo` to follow `upstream`; the password is in the file that `passfile` names.
#[must_use]
pub fn primary_conninfo(config: &Config, upstream: &Upstream) -> String {
    let _ = (config, upstream);
    String::new()
}

/// Connection string for `pg_rewind` and for SQL on `upstream` with the rewind role, without the password.
#[must_use]
pub fn rewind_conninfo(config: &Config, upstream: &Upstream) -> String {
    let _ = (config, upstream);
    String::new()
}

/// Connection string for `pg_basebackup` and `IDENTIFY_SYSTEM` on `upstream`, without the password.
#[must_use]
pub fn replication_conninfo(config: &Config, upstream: &Upstream) -> String {
    let _ = (config, upstream);
    String::new()
}

/// The whole password file. It names no host, so it need not change when the leader does.
#[must_use]
pub fn pgpass(config: &Config) -> String {
    let _ = config;
    String::new()
}

/// `postgresql.auto.conf` without the settings that would override ours (`primary_conninfo` and the like);
/// `None` if it holds none of them.
#[must_use]
pub fn auto_conf_without_ours(text: &str) -> Option<String> {
    let _ = text;
    None
}
