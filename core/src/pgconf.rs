//! The text of the server's configuration files. Nothing here touches a file.

mod refusal;

pub use refusal::{DURABILITY, Refusal, Refusals, changed_since, parameters_in, still_refused};

use crate::config::{Config, Credentials};
use crate::local::Upstream;
use std::fmt::Write;

const HEADER: &str = "# Written by ha_ext. Changes made here are lost: edit the cluster's configuration instead.\n";
/// The included file that this module writes with [`ha_ext_conf`].
pub const HA_EXT_CONF: &str = "ha_ext.conf";
/// The setting that loads us, and others.
const LIBRARIES: &str = "shared_preload_libraries";
const OUR_LIBRARY: &str = "ha_ext";
/// The included file that holds what initdb or the user wrote before us.
pub const BASE_CONF: &str = "postgresql.base.conf";

/// `postgresql.conf`: includes `postgresql.base.conf` (what initdb or the user wrote), then our parameters, then
/// `ha_ext.conf` if it exists. What would keep the server from starting stays a comment.
#[must_use]
pub fn postgresql_conf(config: &Config, refused: &Refusals) -> String {
    let mut out = HEADER.to_owned();
    let _ = writeln!(out, "include '{BASE_CONF}'\n");
    for (name, value) in settings(config) {
        match refused.get(&name) {
            Some(refusal) => refusal.write(&mut out, &name, &value),
            None => set(&mut out, &name, &value),
        }
    }
    let _ = writeln!(out, "\ninclude_if_exists '{HA_EXT_CONF}'");
    out
}

/// Every setting that we write into `postgresql.conf`, in its order.
fn settings(config: &Config) -> Vec<(String, String)> {
    let parameters = config.postgresql.parameters.iter().map(|(name, value)| (name.clone(), value.clone()));
    computed(config).into_iter().map(|(name, value)| (name.to_owned(), value)).chain(parameters).collect()
}

/// What follows from other keys than `postgresql.parameters`.
fn computed(config: &Config) -> Vec<(&'static str, String)> {
    let postgresql = &config.postgresql;
    let mut libraries = vec![OUR_LIBRARY.to_owned()];
    libraries.extend(postgresql.preload_libraries.iter().cloned());
    vec![
        (LIBRARIES, libraries.join(",")),
        ("listen_addresses", postgresql.listen_addresses.clone()),
        ("port", postgresql.port.to_string()),
        ("cluster_name", config.scope.clone()),
    ]
}

fn set(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name} = {}", quoted(value));
}

/// A value as the configuration file wants it: in quotes; `'` doubled, `\` too since it begins an escape there.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// Arguments for the postmaster's command line: `-c`, `name=value` pairs, which nothing in a file can override.
/// Members of one cluster must agree on them (wire.md 8.3).
#[must_use]
pub fn command_line(config: &Config, refused: &Refusals) -> Vec<String> {
    let mut out = Vec::new();
    let shared = crate::config::parameters::SHARED.iter().filter(|shared| shared.on_command_line);
    let names = computed(config).into_iter().map(|(name, _)| name).chain(shared.map(|shared| shared.name));
    for name in names {
        if let Some(value) = value_of(config, refused, name) {
            out.push("-c".to_owned());
            out.push(format!("{name}={value}"));
        }
    }
    out
}

/// The value that the server gets from us.
#[must_use]
pub fn value_of(config: &Config, refused: &Refusals, name: &str) -> Option<String> {
    let (_, value) = settings(config).into_iter().find(|(known, _)| known == name)?;
    match refused.get(name) {
        Some(refusal) => refusal.instead_of(name),
        None => Some(value),
    }
}

fn lines(lines: &[String]) -> String {
    let mut out = HEADER.to_owned();
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
    out
}

/// `pg_hba.conf` as `postgresql.pg_hba` wants it; `None` leaves the file alone.
#[must_use]
pub fn pg_hba(config: &Config) -> Option<String> {
    config.postgresql.pg_hba.as_deref().map(lines)
}

/// `pg_hba.conf` of a new cluster; `None` leaves what initdb wrote.
#[must_use]
pub fn bootstrap_pg_hba(config: &Config) -> Option<String> {
    pg_hba(config).or_else(|| config.bootstrap.pg_hba.as_deref().map(lines))
}

/// `pg_ident.conf` as `postgresql.pg_ident` wants it; `None` leaves the file alone.
#[must_use]
pub fn pg_ident(config: &Config) -> Option<String> {
    config.postgresql.pg_ident.as_deref().map(lines)
}

/// The end of `ha_ext.conf` of a standby that follows nobody for long.
pub const AT_REST: &str = "wal_retrieve_retry_interval = '1min'\n";
/// What that amounts to, in the unit of the server.
pub const AT_REST_MS: i32 = 60_000;

/// `ha_ext.conf`: whom this server follows. `None` parks it: it follows nobody.
#[must_use]
pub fn ha_ext_conf(config: &Config, upstream: Option<&Upstream>) -> String {
    let conninfo = upstream.map(|upstream| primary_conninfo(config, upstream)).unwrap_or_default();
    let slot = upstream.and_then(|upstream| upstream.slot.clone()).unwrap_or_default();
    let mut out = HEADER.to_owned();
    set(&mut out, "primary_conninfo", &conninfo);
    set(&mut out, "primary_slot_name", &slot);
    set(&mut out, "recovery_target_timeline", "latest");
    if upstream.is_none() {
        // A parked standby must not move at all, so the archive is closed to it as well.
        set(&mut out, "restore_command", "");
    }
    out
}

/// `primary_conninfo` to follow `upstream`; the password is in the file that `passfile` names.
#[must_use]
pub fn primary_conninfo(config: &Config, upstream: &Upstream) -> String {
    conninfo(config, upstream, &config.postgresql.replication, None)
}

/// Connection string for `pg_basebackup` and `IDENTIFY_SYSTEM` on `upstream`, without the password.
#[must_use]
pub fn replication_conninfo(config: &Config, upstream: &Upstream) -> String {
    conninfo(config, upstream, &config.postgresql.replication, None)
}

/// Connection string for `pg_rewind` and for SQL on `upstream` with the rewind role, without the password.
#[must_use]
pub fn rewind_conninfo(config: &Config, upstream: &Upstream) -> String {
    conninfo(config, upstream, &config.postgresql.rewind, Some(&config.postgresql.database))
}

fn conninfo(config: &Config, upstream: &Upstream, who: &Credentials, database: Option<&str>) -> String {
    let port = upstream.address.port.to_string();
    let pgpass = config.postgresql.pgpass.to_string_lossy().into_owned();
    let mut parts: Vec<(&str, &str)> = vec![
        ("host", upstream.address.host.as_str()),
        ("port", port.as_str()),
        ("user", who.username.as_str()),
        ("passfile", pgpass.as_str()),
        ("application_name", config.name.as_str()),
        ("connect_timeout", "3"),
        // A host that vanished without a word is noticed within 9 s, not 2 hours.
        ("keepalives_idle", "3"),
        ("keepalives_interval", "2"),
        ("keepalives_count", "3"),
        ("tcp_user_timeout", "9000"),
    ];
    if let Some(database) = database {
        parts.push(("dbname", database));
    }
    if !who.connection_options.contains_key("sslmode") {
        parts.push(("sslmode", "prefer"));
    }
    parts.extend(who.connection_options.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if let Some(password) = &who.ssl_password {
        parts.push(("sslpassword", password.expose()));
    }
    let parts: Vec<String> = parts.iter().map(|(name, value)| format!("{name}={}", conninfo_value(value))).collect();
    parts.join(" ")
}

/// A value of a libpq connection string: bare if it is plain, else in quotes with `\` before `'` and `\`.
fn conninfo_value(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The whole password file, for replication and rewind. It names no host, so it need not change when the leader
/// does; empty when there are no passwords.
#[must_use]
pub fn pgpass(config: &Config) -> String {
    let postgresql = &config.postgresql;
    let mut out = String::new();
    let mut seen = Vec::new();
    for who in [&postgresql.replication, &postgresql.rewind] {
        let Some(password) = &who.password else { continue };
        if !seen.contains(&who.username) {
            let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
            let _ = writeln!(out, "*:*:*:{}:{}", escape(&who.username), escape(password.expose()));
            seen.push(who.username.clone());
        }
    }
    out
}

/// What `ALTER SYSTEM` must not decide: it would override what we write.
const NOT_BY_ALTER_SYSTEM: &[&str] = &[
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "promote_trigger_file",
    "restore_command",
    "shared_preload_libraries",
    "listen_addresses",
    "port",
    "cluster_name",
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "ha_ext.config_file",
];

/// `postgresql.auto.conf` without the settings that would override ours (`primary_conninfo` and the like);
/// `None` if it holds none of them.
#[must_use]
pub fn auto_conf_without_ours(text: &str) -> Option<String> {
    let ours = |line: &&str| {
        let name = line.trim_start().split(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default();
        NOT_BY_ALTER_SYSTEM.iter().any(|ours| ours.eq_ignore_ascii_case(name))
    };
    let kept: Vec<&str> = text.lines().filter(|line| !ours(line)).collect();
    if kept.len() == text.lines().count() {
        return None;
    }
    let mut out = kept.join("\n");
    out.push('\n');
    Some(out)
}

#[cfg(test)]
mod tests;
