//! The text of the server's configuration files. Nothing here touches a file.

use crate::config::{Config, Credentials};
use crate::local::Upstream;
use std::collections::BTreeSet;
use std::fmt::Write;

const HEADER: &str = "# Written by ha_ext. Changes made here are lost: edit the cluster's configuration instead.\n";
/// The included file that this module writes with [`ha_ext_conf`].
pub const HA_EXT_CONF: &str = "ha_ext.conf";
/// The included file that holds what initdb or the user wrote before us.
pub const BASE_CONF: &str = "postgresql.base.conf";

/// Begins a comment that keeps a setting which a running server has refused.
const REFUSED: &str = "# refused by the server: ";

/// `postgresql.conf`: includes `postgresql.base.conf` (what initdb or the user wrote), then our parameters, then
/// `ha_ext.conf` if it exists. `refused` are names of parameters that would keep the server from starting.
#[must_use]
pub fn postgresql_conf(config: &Config, refused: &BTreeSet<String>) -> String {
    let mut out = HEADER.to_owned();
    let _ = writeln!(out, "include '{BASE_CONF}'\n");
    let computed = computed(config);
    for (name, value) in &computed {
        set(&mut out, name, value);
    }
    for (name, value) in &config.postgresql.parameters {
        if refused.contains(name) {
            out.push_str(REFUSED);
        }
        set(&mut out, name, value);
    }
    let _ = writeln!(out, "\ninclude_if_exists '{HA_EXT_CONF}'");
    out
}

/// Parameters that were refused when `postgresql.conf` was written with this text, if their values are still the same.
#[must_use]
pub fn still_refused(config: &Config, text: &str) -> BTreeSet<String> {
    let refused: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix(REFUSED)).collect();
    let same = |(name, value): &(&String, &String)| refused.contains(format!("{name} = {}", quoted(value)).as_str());
    config.postgresql.parameters.iter().filter(same).map(|(name, _)| name.clone()).collect()
}

/// What follows from other keys than `postgresql.parameters`.
fn computed(config: &Config) -> Vec<(&'static str, String)> {
    let postgresql = &config.postgresql;
    let mut libraries = vec!["ha_ext".to_owned()];
    libraries.extend(postgresql.preload_libraries.iter().cloned());
    vec![
        ("shared_preload_libraries", libraries.join(",")),
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
pub fn command_line(config: &Config) -> Vec<String> {
    let mut out = Vec::new();
    let shared = crate::config::parameters::SHARED.iter().filter(|shared| shared.on_command_line);
    let shared =
        shared.filter_map(|shared| Some((shared.name, config.postgresql.parameters.get(shared.name)?.clone())));
    for (name, value) in computed(config).into_iter().chain(shared) {
        out.push("-c".to_owned());
        out.push(format!("{name}={value}"));
    }
    out
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
mod tests {
    use super::*;
    use crate::cluster::Address;
    use crate::ids::NodeName;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn config(postgresql: &Value) -> Config {
        let mut local = json!({
            "scope": "it's", "name": "pg-1",
            "restapi": {"listen": "127.0.0.1:8008"},
            "etcd3": {"host": "127.0.0.1:2379"},
            "postgresql": {
                "listen": "127.0.0.1,[::1]:5433", "connect_address": "127.0.0.1:5433", "data_dir": "/d/pg 1",
                "authentication": {"replication": {"username": "repl", "password": "a:b\\c"}}
            }
        });
        if let (Some(into), Some(from)) = (local["postgresql"].as_object_mut(), postgresql.as_object()) {
            into.extend(from.clone());
        }
        Config::from_layers(&local, &BTreeMap::new(), None).expect("a good configuration").0
    }

    fn upstream() -> Upstream {
        Upstream {
            name: NodeName::new("pg2"),
            address: Address { host: "fd00::2".to_owned(), port: 5432 },
            slot: Some("pg_1".to_owned()),
        }
    }

    #[test]
    fn postgresql_conf_in_full() {
        let config = config(&json!({"parameters": {
            "shared_preload_libraries": "pg_stat_statements, ha_ext, auto_explain",
            "archive_command": "cp %p 'a\\b'", "archive_mode": true, "ha.custom": 1.5
        }}));
        let text = "\
# Written by ha_ext. Changes made here are lost: edit the cluster's configuration instead.
include 'postgresql.base.conf'

shared_preload_libraries = 'ha_ext,pg_stat_statements,auto_explain'
listen_addresses = '127.0.0.1,::1'
port = '5433'
cluster_name = 'it''s'
archive_command = 'cp %p ''a\\\\b'''
archive_mode = 'on'
ha.custom = '1.5'
hot_standby = 'on'
max_connections = '100'
max_locks_per_transaction = '64'
max_prepared_transactions = '0'
max_replication_slots = '10'
max_wal_senders = '10'
max_worker_processes = '8'
recovery_init_sync_method = 'syncfs'
restart_after_crash = 'on'
track_commit_timestamp = 'off'
wal_keep_size = '128MB'
wal_level = 'replica'
wal_log_hints = 'on'
wal_retrieve_retry_interval = '500ms'

include_if_exists 'ha_ext.conf'
";
        assert_eq!(postgresql_conf(&config, &BTreeSet::new()), text);
    }

    #[test]
    fn a_refused_value_is_a_comment_until_it_changes() {
        let bad = config(&json!({"parameters": {"work_mem": "it's", "wrk_mem": "1MB"}}));
        let text = postgresql_conf(&bad, &BTreeSet::from(["work_mem".to_owned()]));
        assert!(text.contains("\n# refused by the server: work_mem = 'it''s'\nwrk_mem = '1MB'\n"), "{text}");
        assert_eq!(still_refused(&bad, &text), BTreeSet::from(["work_mem".to_owned()]));
        let corrected = config(&json!({"parameters": {"work_mem": "1MB", "wrk_mem": "1MB"}}));
        assert_eq!(still_refused(&corrected, &text), BTreeSet::new());
        assert_eq!(still_refused(&config(&json!({})), &text), BTreeSet::new());
    }

    #[test]
    fn the_command_line_holds_what_all_members_share() {
        let arguments = command_line(&config(&json!({})));
        assert_eq!(arguments.len() % 2, 0);
        assert!(arguments.chunks(2).all(|pair| pair[0] == "-c"));
        assert!(arguments.contains(&"shared_preload_libraries=ha_ext".to_owned()));
        assert!(arguments.contains(&"max_connections=100".to_owned()));
        assert!(!arguments.iter().any(|argument| argument.starts_with("wal_keep_size")));
    }

    #[test]
    fn whom_to_follow() {
        let config = config(&json!({}));
        let text = ha_ext_conf(&config, Some(&upstream()));
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            [
                "primary_conninfo = 'host=fd00::2 port=5432 user=repl passfile=''/d/.pg 1.ha_ext/pgpass'' \
                 application_name=pg-1 connect_timeout=3 keepalives_idle=3 keepalives_interval=2 keepalives_count=3 \
                 tcp_user_timeout=9000 sslmode=prefer'",
                "primary_slot_name = 'pg_1'",
                "recovery_target_timeline = 'latest'",
            ]
        );
        let parked: Vec<String> = ha_ext_conf(&config, None).lines().skip(1).map(str::to_owned).collect();
        assert_eq!(
            parked,
            [
                "primary_conninfo = ''",
                "primary_slot_name = ''",
                "recovery_target_timeline = 'latest'",
                "restore_command = ''"
            ]
        );
    }

    #[test]
    fn strange_characters_survive_both_quotings() {
        assert_eq!(conninfo_value("it's \\ x"), r"'it\'s \\ x'");
        assert_eq!(quoted(r"password='it\'s'"), r"'password=''it\\''s'''");
        assert_eq!(conninfo_value(""), "''");
    }

    #[test]
    fn options_of_the_role_go_into_its_connection_string() {
        let config = config(&json!({"database": "db", "authentication": {
            "replication": {"username": "repl"},
            "rewind": {"username": "rw", "sslmode": "verify-full", "sslpassword": "p w", "sslkey": "/k"}
        }}));
        let text = rewind_conninfo(&config, &upstream());
        assert!(text.ends_with("dbname=db sslkey=/k sslmode=verify-full sslpassword='p w'"), "{text}");
        assert_eq!(pgpass(&config), "");
    }

    #[test]
    fn passwords_are_escaped() {
        let with_superuser = json!({"authentication": {
            "superuser": {"username": "postgres", "password": "x"},
            "replication": {"username": "repl", "password": "a:b\\c"}
        }});
        assert_eq!(pgpass(&config(&with_superuser)), "*:*:*:repl:a\\:b\\\\c\n*:*:*:postgres:x\n");
    }

    #[test]
    fn access_files_are_written_only_when_configured() {
        let bare = config(&json!({}));
        assert_eq!((pg_hba(&bare), bootstrap_pg_hba(&bare), pg_ident(&bare)), (None, None, None));
        let given = config(&json!({"pg_hba": ["local all all trust"], "pg_ident": []}));
        assert_eq!(pg_hba(&given).as_deref().and_then(|text| text.lines().nth(1)), Some("local all all trust"));
        assert_eq!(bootstrap_pg_hba(&given), pg_hba(&given));
        assert_eq!(pg_ident(&given).as_deref(), Some(HEADER));
    }

    #[test]
    fn alter_system_cannot_override_us() {
        let text = "# x\nwork_mem = '4MB'\nPrimary_Conninfo='host=a'\nshared_preload_libraries = ''\n";
        assert_eq!(auto_conf_without_ours(text).as_deref(), Some("# x\nwork_mem = '4MB'\n"));
        assert_eq!(auto_conf_without_ours("work_mem = '4MB'\nprimary_conninfo_x = 1\n"), None);
    }
}
