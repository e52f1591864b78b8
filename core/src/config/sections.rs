//! The typed sections of the configuration.

use crate::clock::Millis;
use crate::cluster::Address;
use crate::watchdog::WatchdogSettings;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// A password or the like: compares and clones, but never shows itself.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Never into a log, an error or a command line.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// `restapi`.
#[derive(Clone, Debug, PartialEq)]
pub struct RestApi {
    /// `listen`: where we listen; the host may be `0.0.0.0`, `::` or `*`.
    pub listen: Address,
    /// `connect_address`: how others reach us.
    pub connect_address: Address,
    /// `authentication`: asked for by everything that changes something.
    pub authentication: Option<BasicAuth>,
    /// `http_extra_headers`: sent with every answer.
    pub extra_headers: BTreeMap<String, String>,
    /// `server_tokens`: what the `Server` header says.
    pub server_tokens: ServerTokens,
    /// `request_queue_size`: the backlog of the listening socket.
    pub request_queue_size: u32,
}

/// Name and password of HTTP Basic authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// `username`.
    pub username: String,
    /// `password`.
    pub password: Secret,
}

/// `restapi.server_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTokens {
    /// Product, compatible version and our own.
    #[default]
    Original,
    /// `Patroni/<compatible version>`.
    Minimal,
    /// `Patroni`.
    ProductOnly,
}

/// `etcd3`.
#[derive(Clone, Debug, PartialEq)]
pub struct Etcd3 {
    /// `hosts` or `host`: every endpoint, tried in this order.
    pub hosts: Vec<Address>,
    /// `protocol: https`, or a `cacert`, `cert` or `key` is given.
    pub tls: bool,
    /// `username` and `password`.
    pub authentication: Option<BasicAuth>,
    /// `cacert`: PEM file of the authority.
    pub cacert: Option<PathBuf>,
    /// `cert`: PEM file of our certificate.
    pub cert: Option<PathBuf>,
    /// `key`: PEM file of its key.
    pub key: Option<PathBuf>,
}

impl Etcd3 {
    /// The endpoints as URLs.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = if self.tls { "https" } else { "http" };
        self.hosts.iter().map(|host| format!("{scheme}://{}", host_port(host))).collect()
    }
}

/// `HOST:PORT`, IPv6 in brackets.
#[must_use]
pub fn host_port(address: &Address) -> String {
    if address.host.contains(':') {
        format!("[{}]:{}", address.host, address.port)
    } else {
        format!("{}:{}", address.host, address.port)
    }
}

/// `postgresql`.
// Independent switches, not a state.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, PartialEq)]
pub struct Postgresql {
    /// Hosts of `listen`, as `listen_addresses` wants them.
    pub listen_addresses: String,
    /// Port of `listen`.
    pub port: u16,
    /// `connect_address`: how others reach this server.
    pub connect_address: Address,
    /// `data_dir`, absolute.
    pub data_dir: PathBuf,
    /// `bin_dir`; `None` means whatever PATH finds.
    pub bin_dir: Option<PathBuf>,
    /// `pgpass`: the password file we write, mode 0600.
    pub pgpass: PathBuf,
    /// `database`: named in `conn_url` and connected to by rewind.
    pub database: String,
    /// `authentication.superuser`.
    pub superuser: Credentials,
    /// `authentication.replication`.
    pub replication: Credentials,
    /// `authentication.rewind`; the superuser when absent.
    pub rewind: Credentials,
    /// `authentication.rewind` was given: a role of its own must be made.
    pub own_rewind_role: bool,
    /// Server parameters in force: user settings over our defaults, those of wire.md 8.3 from the store only.
    /// Without `listen_addresses`, `port`, `cluster_name` and `shared_preload_libraries`, see [`crate::pgconf`].
    pub parameters: BTreeMap<String, String>,
    /// `parameters.shared_preload_libraries` of the user, without ours.
    pub preload_libraries: Vec<String>,
    /// `pg_hba`: the lines of `pg_hba.conf`; `None` leaves the file as it is.
    pub pg_hba: Option<Vec<String>>,
    /// `pg_ident`: the lines of `pg_ident.conf`; `None` leaves the file as it is.
    pub pg_ident: Option<Vec<String>>,
    /// `use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `use_slots`.
    pub use_slots: bool,
    /// `demote_method` is not `restart`.
    pub demote_in_place: bool,
    /// `remove_data_directory_on_rewind_failure`.
    pub remove_data_directory_on_rewind_failure: bool,
    /// `remove_data_directory_on_diverged_timelines`.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// `pg_ctl_timeout`: how long starts and stops may take before they count as failed.
    pub pg_ctl_timeout_ms: Millis,
    /// `basebackup`: extra options of `pg_basebackup`.
    pub basebackup: Vec<CommandOption>,
}

/// Name, password and connection options of a role.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Credentials {
    /// `username`.
    pub username: String,
    /// `password`.
    pub password: Option<Secret>,
    /// `sslmode`, `sslcert`, `sslkey`, `sslrootcert`, `sslcrl`, `sslcrldir`, `sslnegotiation`, `gssencmode`,
    /// `channel_binding`: libpq's names, as given.
    pub connection_options: BTreeMap<String, String>,
    /// `sslpassword`.
    pub ssl_password: Option<Secret>,
}

/// An option of a command: `--name` or `--name=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOption {
    /// Without the dashes.
    pub name: String,
    /// Without one the option stands alone.
    pub value: Option<String>,
}

impl CommandOption {
    /// As one argument.
    #[must_use]
    pub fn argument(&self) -> String {
        match &self.value {
            Some(value) => format!("--{}={value}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

/// `bootstrap`: used once, when the cluster is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// `dcs`: the dynamic configuration the first leader writes to the store.
    pub dcs: Value,
    /// `initdb`: extra options of initdb.
    pub initdb: Vec<CommandOption>,
    /// `pg_hba`: the lines of `pg_hba.conf` of the new cluster, unless `postgresql.pg_hba` rules.
    pub pg_hba: Option<Vec<String>>,
}

/// The settings of the whole cluster (wire.md 8.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Dynamic {
    /// `ttl`.
    pub ttl_ms: Millis,
    /// `loop_wait`.
    pub loop_wait_ms: Millis,
    /// `retry_timeout`.
    pub retry_timeout_ms: Millis,
    /// `maximum_lag_on_failover`.
    pub maximum_lag_on_failover_bytes: u64,
    /// `failsafe_mode`.
    pub failsafe_mode: bool,
    /// `primary_start_timeout`.
    pub primary_start_timeout_ms: Millis,
    /// `primary_race_backoff`.
    pub primary_race_backoff_ms: Millis,
    /// `pause`.
    pub pause: bool,
}

/// `watchdog`, as far as decisions do not depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// `device`.
    pub device: PathBuf,
    /// `driver: testing`: the device is told its timeout as text, too.
    pub testing: bool,
    /// `mode` and `safety_margin`.
    pub settings: WatchdogSettings,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// `DEBUG`
    Debug,
    /// `INFO`
    #[default]
    Info,
    /// `WARN`, `WARNING`
    Warning,
    /// `ERROR`, `FATAL`, `CRITICAL`
    Error,
}
