//! From merged values to the typed [`Config`].

use super::keys::CONNECTION_OPTIONS;
use super::layers::Merged;
use super::parameters::{OUR_DEFAULTS, SHARED};
use super::sections::{
    BasicAuth, Bootstrap, CommandOption, Credentials, Dynamic, Etcd3, LogLevel, Postgresql, RestApi, Secret,
    ServerTokens, Watchdog,
};
use super::timing::Timing;
use super::value::{self, Typed};
use crate::clock::Millis;
use crate::cluster::Address;
use crate::watchdog::{Mode, WatchdogSettings};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Options that `pg_basebackup` and `initdb` get from us alone.
const BASEBACKUP_OURS: &[&str] = &[
    "pgdata",
    "format",
    "wal-method",
    "dbname",
    "host",
    "port",
    "username",
    "slot",
    "create-slot",
    "write-recovery-conf",
    "target",
];
const INITDB_OURS: &[&str] = &["pgdata", "nosync", "no-sync", "pwfile", "pwprompt", "sync-only", "version", "username"];

impl Merged {
    pub(super) fn text(&self, path: &str) -> Option<String> {
        match self.get(path) {
            Some(Typed::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn required(&mut self, path: &str, remedy: &str) -> String {
        let text = self.text(path).filter(|text| !text.trim().is_empty());
        text.unwrap_or_else(|| {
            self.missing(path, remedy);
            String::new()
        })
    }

    fn missing(&mut self, path: &str, remedy: &str) {
        // A value that was given, but wrong, is reported already.
        if !self.problems.iter().any(|problem| problem.path == path) {
            self.problem(path.to_owned(), "is required", remedy);
        }
    }

    fn bool(&self, path: &str, default: bool) -> bool {
        match self.get(path) {
            Some(Typed::Bool(set)) => *set,
            _ => default,
        }
    }

    fn millis(&self, path: &str, default: u64) -> Millis {
        match self.get(path) {
            Some(Typed::Millis(ms)) => Millis(*ms),
            _ => Millis(default),
        }
    }

    fn number(&self, path: &str, default: u32) -> u32 {
        match self.get(path) {
            Some(Typed::Number(number)) => u32::try_from(*number).unwrap_or(u32::MAX),
            _ => default,
        }
    }

    fn address(&self, path: &str) -> Option<Address> {
        match self.get(path) {
            Some(Typed::Address(address)) => Some(address.clone()),
            _ => None,
        }
    }

    fn lines(&self, path: &str) -> Option<Vec<String>> {
        match self.get(path) {
            Some(Typed::Lines(lines)) => Some(lines.clone()),
            _ => None,
        }
    }

    fn options(&mut self, path: &str, ours: &[&str]) -> Vec<CommandOption> {
        let options = match self.get(path) {
            Some(Typed::Options(options)) => options.clone(),
            _ => return Vec::new(),
        };
        for option in options.iter().filter(|option| ours.contains(&option.name.as_str())) {
            let remedy = "remove it: ha_ext sets it itself";
            self.problem(format!("{path}.{}", option.name), "cannot be set", remedy);
        }
        options
    }

    pub(super) fn map(&self, path: &str) -> Map<String, Value> {
        match self.get(path) {
            Some(Typed::Map(map)) => map.clone(),
            _ => Map::new(),
        }
    }
}

pub(super) fn dynamic(merged: &Merged) -> Dynamic {
    let lag = match merged.get("maximum_lag_on_failover") {
        Some(Typed::Bytes(bytes)) => *bytes,
        _ => 1 << 20,
    };
    Dynamic {
        ttl_ms: merged.millis("ttl", 30_000),
        loop_wait_ms: merged.millis("loop_wait", 10_000),
        retry_timeout_ms: merged.millis("retry_timeout", 10_000),
        maximum_lag_on_failover_bytes: lag,
        failsafe_mode: merged.bool("failsafe_mode", false),
        primary_start_timeout_ms: merged.millis("primary_start_timeout", 300_000),
        primary_race_backoff_ms: merged.millis("primary_race_backoff", 0),
        pause: merged.bool("pause", false),
    }
}

/// Warns of times that do not fit together.
pub(super) fn check_timing(merged: &mut Merged, dynamic: &Dynamic) {
    let (timing, warnings) = timing(dynamic).corrected(false);
    merged.warnings.extend(warnings);
    let settings = watchdog(merged).settings;
    match settings.corrected(timing.ttl_ms) {
        Ok((_, Some(message))) if settings.mode == Mode::Required => {
            merged.warn("watchdog.safety_margin".to_owned(), message);
        }
        Err(why) if settings.mode == Mode::Required => {
            let message = format!("no member can lead with it: {why}; raise ttl, or use automatic");
            merged.warn("watchdog.mode".to_owned(), message);
        }
        Ok(_) | Err(_) => {}
    }
}

/// Refuses what would keep every member from leading, where it is written for all of them at once.
pub(super) fn refuse_unwatchable(merged: &mut Merged) {
    let settings = watchdog(merged).settings;
    let (timing, _) = timing(&dynamic(merged)).corrected(false);
    if let (Mode::Required, Err(why)) = (settings.mode, settings.corrected(timing.ttl_ms)) {
        let remedy = "raise ttl, or use watchdog.mode automatic";
        merged.problem("ttl".to_owned(), format!("no member could lead with watchdog.mode required: {why}"), remedy);
    }
}

pub(super) fn timing(dynamic: &Dynamic) -> Timing {
    Timing { ttl_ms: dynamic.ttl_ms, loop_wait_ms: dynamic.loop_wait_ms, retry_timeout_ms: dynamic.retry_timeout_ms }
}

pub(super) fn log_level(merged: &Merged) -> LogLevel {
    match merged.text("log.level").as_deref() {
        Some("DEBUG") => LogLevel::Debug,
        Some("WARN" | "WARNING") => LogLevel::Warning,
        Some("ERROR" | "FATAL" | "CRITICAL") => LogLevel::Error,
        _ => LogLevel::Info,
    }
}

pub(super) fn names(merged: &mut Merged) -> (String, String, String) {
    let scope = merged.required("scope", "give the cluster a name");
    let name = merged.required("name", "give this member a name that no other member has");
    for (path, text) in [("scope", &scope), ("name", &name)] {
        if text.contains(['/', '\n', '"', '\\']) {
            let message = format!("expected a name without / \" \\, found \"{text}\"");
            merged.problem(path.to_owned(), message, "it becomes part of a key in the store");
        }
    }
    let namespace = merged.text("namespace").unwrap_or_else(|| "service".to_owned());
    let namespace = namespace.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    (scope, name, if namespace.is_empty() { "service".to_owned() } else { namespace })
}

pub(super) fn restapi(merged: &mut Merged) -> RestApi {
    let listen = merged.address("restapi.listen").unwrap_or_else(|| {
        merged.missing("restapi.listen", "for example 0.0.0.0:8008");
        nowhere()
    });
    let connect_address = reachable(merged, "restapi.connect_address", "restapi.listen", &listen);
    let headers = merged.map("restapi.http_extra_headers");
    RestApi {
        authentication: basic_auth(merged, "restapi.authentication.username", "restapi.authentication.password"),
        extra_headers: headers.iter().filter_map(|(name, value)| Some((name.clone(), value::scalar(value)?))).collect(),
        server_tokens: match merged.text("restapi.server_tokens").as_deref() {
            Some("minimal") => ServerTokens::Minimal,
            Some("productonly") => ServerTokens::ProductOnly,
            _ => ServerTokens::Original,
        },
        request_queue_size: merged.number("restapi.request_queue_size", 128),
        listen,
        connect_address,
    }
}

fn nowhere() -> Address {
    Address { host: String::new(), port: 0 }
}

/// The address others are told; what we listen on if that is an address others can use.
fn reachable(merged: &mut Merged, path: &'static str, listen_path: &str, listen: &Address) -> Address {
    let wildcard = |host: &str| matches!(host, "*" | "0.0.0.0" | "::");
    match merged.address(path) {
        Some(address) if wildcard(&address.host) => {
            let message = format!("expected an address that others can connect to, found \"{}\"", address.host);
            merged.problem(path.to_owned(), message, "give the host name or IP address of this machine");
            address
        }
        Some(address) => address,
        None => {
            if wildcard(&listen.host) {
                let remedy = format!("{listen_path} is a wildcard: give the host name or IP address of this machine");
                merged.missing(path, &remedy);
            }
            listen.clone()
        }
    }
}

fn basic_auth(merged: &mut Merged, username: &str, password: &str) -> Option<BasicAuth> {
    match (merged.text(username), merged.text(password)) {
        (Some(username), Some(password)) => Some(BasicAuth { username, password: Secret::new(password) }),
        (None, None) => None,
        (Some(_), None) => {
            merged.missing(password, &format!("{username} is given"));
            None
        }
        (None, Some(_)) => {
            merged.missing(username, &format!("{password} is given"));
            None
        }
    }
}

pub(super) fn etcd3(merged: &mut Merged) -> Etcd3 {
    let path = |merged: &Merged, name: &str| merged.text(name).map(PathBuf::from);
    let hosts = match (merged.get("etcd3.hosts"), merged.address("etcd3.host")) {
        (Some(Typed::Addresses(hosts)), _) => hosts.clone(),
        (_, Some(host)) => vec![host],
        _ => {
            let given = |path: &str| merged.problems.iter().any(|problem| problem.path == path);
            if !given("etcd3.host") && !given("PATRONI_ETCD3_HOSTS") && !given("PATRONI_ETCD3_HOST") {
                merged.missing(
                    "etcd3.hosts",
                    "list the store's servers, HOST:PORT each; a section etcd (API v2) has to be renamed to etcd3",
                );
            }
            Vec::new()
        }
    };
    let (cacert, cert, key) = (path(merged, "etcd3.cacert"), path(merged, "etcd3.cert"), path(merged, "etcd3.key"));
    if cert.is_some() != key.is_some() {
        let absent = if cert.is_some() { "etcd3.key" } else { "etcd3.cert" };
        merged.missing(absent, "a certificate and its key belong together");
    }
    let protocol = merged.text("etcd3.protocol");
    let tls = protocol.as_deref() == Some("https") || cacert.is_some() || cert.is_some();
    if tls && protocol.as_deref() == Some("http") {
        let message = "expected https, found \"http\" beside cacert or cert";
        merged.problem("etcd3.protocol".to_owned(), message, "use https, or remove the certificates");
    }
    let authentication = basic_auth(merged, "etcd3.username", "etcd3.password");
    Etcd3 { hosts, tls, authentication, cacert, cert, key }
}

pub(super) fn watchdog(merged: &Merged) -> Watchdog {
    let mode = match merged.text("watchdog.mode").as_deref() {
        Some("off") => Mode::Off,
        Some("required") => Mode::Required,
        _ => Mode::Automatic,
    };
    let safety_margin_s = match merged.get("watchdog.safety_margin") {
        Some(Typed::Number(seconds)) => *seconds,
        _ => WatchdogSettings::default().safety_margin_s,
    };
    Watchdog {
        device: PathBuf::from(merged.text("watchdog.device").unwrap_or_else(|| "/dev/watchdog".to_owned())),
        testing: merged.text("watchdog.driver").as_deref() == Some("testing"),
        settings: WatchdogSettings { mode, safety_margin_s },
    }
}

pub(super) fn bootstrap(merged: &mut Merged, dcs: Value) -> Bootstrap {
    let initdb = merged.options("bootstrap.initdb", INITDB_OURS);
    Bootstrap { dcs, initdb, pg_hba: merged.lines("bootstrap.pg_hba") }
}

/// What the first leader writes to the store when the file does not say.
pub(super) fn default_dcs() -> Value {
    json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "maximum_lag_on_failover": 1_048_576})
}

pub(super) fn postgresql(merged: &mut Merged) -> Postgresql {
    let (listen_addresses, port) = listen(merged);
    let first = listen_addresses.split(',').next().unwrap_or_default().to_owned();
    let listen = Address { host: first, port };
    let connect_address = reachable(merged, "postgresql.connect_address", "postgresql.listen", &listen);
    let data_dir = PathBuf::from(merged.required("postgresql.data_dir", "give the data directory"));
    if !data_dir.as_os_str().is_empty() && (!data_dir.is_absolute() || data_dir.file_name().is_none()) {
        let message = format!("expected an absolute path, found \"{}\"", data_dir.display());
        merged.problem("postgresql.data_dir".to_owned(), message, "begin it with a slash");
    }
    let pgpass = merged.text("postgresql.pgpass").map_or_else(|| private_pgpass(&data_dir), PathBuf::from);
    let superuser = credentials(merged, "superuser", Some("postgres"));
    let replication = credentials(merged, "replication", None);
    let own_rewind_role = merged.text("postgresql.authentication.rewind.username").is_some();
    let rewind = if own_rewind_role { credentials(merged, "rewind", None) } else { superuser.clone() };
    check_methods(merged);
    let (parameters, preload_libraries) = server_parameters(merged);
    Postgresql {
        listen_addresses,
        port,
        connect_address,
        data_dir,
        bin_dir: merged.text("postgresql.bin_dir").map(PathBuf::from),
        pgpass,
        database: merged.text("postgresql.database").unwrap_or_else(|| "postgres".to_owned()),
        superuser,
        replication,
        rewind,
        own_rewind_role,
        parameters,
        preload_libraries,
        pg_hba: merged.lines("postgresql.pg_hba"),
        pg_ident: merged.lines("postgresql.pg_ident"),
        use_pg_rewind: merged.bool("postgresql.use_pg_rewind", false),
        use_slots: merged.bool("postgresql.use_slots", true),
        demote_in_place: merged.text("postgresql.demote_method").as_deref() != Some("restart"),
        remove_data_directory_on_rewind_failure: merged
            .bool("postgresql.remove_data_directory_on_rewind_failure", false),
        remove_data_directory_on_diverged_timelines: merged
            .bool("postgresql.remove_data_directory_on_diverged_timelines", false),
        pg_ctl_timeout_ms: merged.millis("postgresql.pg_ctl_timeout", 60_000),
        basebackup: merged.options("postgresql.basebackup", BASEBACKUP_OURS),
    }
}

/// `ADDRESS[,ADDRESS...][:PORT]`; IPv6 in brackets, or with the port after its last colon.
fn listen(merged: &mut Merged) -> (String, u16) {
    let text = merged.required("postgresql.listen", "for example *:5432");
    let (hosts, port) = match text.rsplit_once(':') {
        Some((hosts, port)) if !port.contains(']') => (hosts, port.trim().parse::<u16>().ok().filter(|port| *port > 0)),
        _ => (text.as_str(), Some(5432)),
    };
    let hosts = hosts.split(',').map(|host| host.trim().trim_start_matches('[').trim_end_matches(']'));
    let hosts: Vec<&str> = hosts.collect();
    let strange = |host: &&str| host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '\'' || c == '/');
    if !text.is_empty() && (port.is_none() || hosts.iter().any(strange)) {
        let message = format!("expected ADDRESS:PORT, found \"{text}\"");
        merged.problem("postgresql.listen".to_owned(), message, "for example *:5432 or 127.0.0.1,10.0.0.5:5432");
    }
    (hosts.join(","), port.unwrap_or(5432))
}

/// The directory beside the data directory that also holds the control socket; 0700.
fn private_pgpass(data_dir: &Path) -> PathBuf {
    let name = data_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    data_dir.with_file_name(format!(".{name}.ha_ext")).join("pgpass")
}

fn credentials(merged: &mut Merged, role: &str, default_username: Option<&str>) -> Credentials {
    let path = |name: &str| format!("postgresql.authentication.{role}.{name}");
    let username = match merged.text(&path("username")).filter(|name| !name.is_empty()) {
        Some(username) => username,
        None => default_username.map_or_else(
            || {
                merged.missing(&path("username"), "name the role");
                String::new()
            },
            str::to_owned,
        ),
    };
    let mut given = BTreeMap::new();
    for option in CONNECTION_OPTIONS {
        if let Some((text, _)) = merged.connection_options.get(&format!("{role}.{option}")) {
            given.insert((*option).to_owned(), text.clone());
        }
    }
    let ssl_password = given.remove("sslpassword").map(Secret::new);
    let password = merged.text(&path("password")).filter(|text| !text.is_empty()).map(Secret::new);
    Credentials { username, password, connection_options: given, ssl_password }
}

fn check_methods(merged: &mut Merged) {
    let Some(methods) = merged.lines("postgresql.create_replica_methods") else { return };
    for method in methods.iter().filter(|method| *method != "basebackup") {
        let path = "postgresql.create_replica_methods".to_owned();
        merged.warn(path, format!("\"{method}\" is not built yet, and is ignored; basebackup is used"));
    }
}

/// The parameters in force, and the user's preload libraries apart.
fn server_parameters(merged: &Merged) -> (BTreeMap<String, String>, Vec<String>) {
    let defaults = SHARED.iter().map(|shared| (shared.name, shared.default)).chain(OUR_DEFAULTS.iter().copied());
    let mut out: BTreeMap<String, String> = defaults.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    out.extend(merged.parameters.iter().map(|(name, (value, _))| (name.clone(), value.clone())));
    let libraries = out.remove("shared_preload_libraries").unwrap_or_default();
    let libraries = libraries.split(',').map(|name| name.trim().trim_matches('"').to_owned());
    (out, libraries.filter(|name| !name.is_empty() && name != "ha_ext").collect())
}

/// The names of the methods the user defined, whose sections may stand in the file.
pub(super) fn methods(local: &Map<String, Value>) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(Value::Array(items)) = local.get("postgresql").and_then(|p| p.get("create_replica_methods")) {
        out.extend(items.iter().filter_map(Value::as_str).map(str::to_owned));
    }
    if let Some(Value::String(method)) = local.get("bootstrap").and_then(|b| b.get("method")) {
        out.push(method.clone());
    }
    out
}
