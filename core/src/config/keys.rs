//! Every key there is: what we honour, what Patroni knows but we have not built. Reading, checking, the settings
//! view and the documentation all follow this one table.

use super::units::TimeUnit;

/// What a key's value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true`, `on`, `yes`, ...
    Bool,
    /// A whole number within bounds.
    Count {
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// A length of time; a bare number is in this unit.
    Time(TimeUnit),
    /// A size; a bare number is in bytes.
    Size,
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// Path of a file or directory.
    Path,
    /// `HOST:PORT`; the port may be left out and is this then.
    Address(u16),
    /// Several addresses, as a list or separated by commas.
    Addresses(u16),
    /// A list of lines.
    Lines,
    /// Options of a command: a list of `name` and `name: value`, or a mapping.
    Options,
    /// A mapping of names to plain values.
    Map,
    /// Server parameters.
    Parameters,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole dynamic configuration.
    Dynamic,
}

impl Kind {
    /// For error messages and the documentation: `expected ...`.
    #[must_use]
    pub fn expected(self) -> String {
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Count { min, max: i64::MAX } => format!("a whole number of at least {min}"),
            Kind::Count { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Time(TimeUnit::Second) => "a time such as 30 or 30s (seconds when bare)".to_owned(),
            Kind::Time(_) => "a time such as 500ms".to_owned(),
            Kind::Size => "a size such as 1048576 or 1MB (bytes when bare)".to_owned(),
            Kind::Text | Kind::Secret => "text".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Address(_) => "HOST:PORT".to_owned(),
            Kind::Addresses(_) => "a list of HOST:PORT".to_owned(),
            Kind::Lines => "a list of lines".to_owned(),
            Kind::Options => "a list of options, each `name` or `name: value`".to_owned(),
            Kind::Map => "a mapping of names to plain values".to_owned(),
            Kind::Parameters => "a mapping of server parameters to plain values".to_owned(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::Dynamic => "a mapping: the dynamic configuration".to_owned(),
        }
    }
}

/// Which layers may set a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Only the local file and the environment.
    Local,
    /// Only the store.
    Store,
    /// All of them.
    Any,
}

/// A key that we honour.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Full path.
    pub path: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// Who may set it.
    pub layer: Layer,
    /// The environment variable without `PATRONI_`; empty if there is none.
    pub env: &'static str,
    /// The default, for people; empty if there is none.
    pub default: &'static str,
    /// What it means.
    pub about: &'static str,
}

const fn key(
    path: &'static str,
    kind: Kind,
    layer: Layer,
    env: &'static str,
    default: &'static str,
    about: &'static str,
) -> Key {
    Key { path, kind, layer, env, default, about }
}

const SECONDS: Kind = Kind::Time(TimeUnit::Second);

/// Every key that we honour, in the order of the documentation.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("scope", Kind::Text, Layer::Local, "SCOPE", "", "Name of the cluster. Required."),
    key("namespace", Kind::Text, Layer::Local, "NAMESPACE", "/service", "Path in the store above all clusters."),
    key("name", Kind::Text, Layer::Local, "NAME", "", "Name of this member, unique in the cluster. Required."),
    key("log.level", Kind::Choice(&["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"]), Layer::Local, "LOG_LEVEL", "INFO", "What is worth a line in the log."),

    key("ttl", SECONDS, Layer::Any, "", "30", "Length of the leader lease, at least 5 s; at least 20 s while a Patroni member is in the cluster."),
    key("loop_wait", SECONDS, Layer::Any, "", "10", "Longest pause between two looks at the world, at least 1 s."),
    key("retry_timeout", SECONDS, Layer::Any, "", "10", "How long one operation on the store is retried, at least 3 s (less when ttl is short)."),
    key("maximum_lag_on_failover", Kind::Size, Layer::Any, "", "1MB", "A standby further behind the last known position does not take over by itself."),
    key("pause", Kind::Bool, Layer::Store, "", "false", "Maintenance mode: roles change only by name, what is stopped stays stopped, and the leader goes on without the store."),
    key("primary_start_timeout", SECONDS, Layer::Any, "", "300", "How long a crashed leader may take to start again before it gives up the lead; 0 gives it up at once."),
    key("primary_race_backoff", SECONDS, Layer::Any, "", "0", "For how long standbys that still receive WAL wait before they stand for election: a leader that only lost the store may come back."),
    key("failsafe_mode", Kind::Bool, Layer::Store, "", "off", "A leader that cannot reach the store goes on for as long as every member promises it to stay away from the leader key."),

    key("restapi.listen", Kind::Address(8008), Layer::Local, "RESTAPI_LISTEN", "", "Where the REST API listens. Required."),
    key("restapi.connect_address", Kind::Address(8008), Layer::Local, "RESTAPI_CONNECT_ADDRESS", "restapi.listen", "How others reach the REST API. Required when restapi.listen is a wildcard."),
    key("restapi.authentication.username", Kind::Text, Layer::Local, "RESTAPI_USERNAME", "", "User name asked for by everything that changes something."),
    key("restapi.authentication.password", Kind::Secret, Layer::Local, "RESTAPI_PASSWORD", "", "Its password."),
    key("restapi.http_extra_headers", Kind::Map, Layer::Local, "RESTAPI_HTTP_EXTRA_HEADERS", "", "Headers sent with every answer."),
    key("restapi.server_tokens", Kind::Choice(&["original", "minimal", "productonly"]), Layer::Local, "RESTAPI_SERVER_TOKENS", "original", "What the Server header says."),
    key("restapi.request_queue_size", Kind::Count { min: 0, max: 4096 }, Layer::Local, "RESTAPI_REQUEST_QUEUE_SIZE", "128", "Connections the kernel queues for us."),

    key("etcd3.host", Kind::Address(2379), Layer::Local, "ETCD3_HOST", "", "The store, when it is one server."),
    key("etcd3.hosts", Kind::Addresses(2379), Layer::Local, "ETCD3_HOSTS", "", "The store's servers. This or etcd3.host is required."),
    key("etcd3.protocol", Kind::Choice(&["http", "https"]), Layer::Local, "ETCD3_PROTOCOL", "http", "https when etcd3.cacert, cert or key is given."),
    key("etcd3.username", Kind::Text, Layer::Local, "ETCD3_USERNAME", "", "User name in the store."),
    key("etcd3.password", Kind::Secret, Layer::Local, "ETCD3_PASSWORD", "", "Its password."),
    key("etcd3.cacert", Kind::Path, Layer::Local, "ETCD3_CACERT", "", "PEM file of the authority that signed the store's certificates."),
    key("etcd3.cert", Kind::Path, Layer::Local, "ETCD3_CERT", "", "PEM file of our certificate."),
    key("etcd3.key", Kind::Path, Layer::Local, "ETCD3_KEY", "", "PEM file of its key."),

    key("bootstrap.dcs", Kind::Dynamic, Layer::Local, "", "", "The dynamic configuration of a new cluster; not read any more once the cluster has one."),
    key("bootstrap.initdb", Kind::Options, Layer::Local, "", "", "Options of initdb."),
    key("bootstrap.pg_hba", Kind::Lines, Layer::Local, "", "", "Lines of pg_hba.conf in a new cluster, unless postgresql.pg_hba is given."),

    key("postgresql.listen", Kind::Text, Layer::Local, "POSTGRESQL_LISTEN", "", "Addresses, separated by commas, and port: `*:5432`. Required."),
    key("postgresql.connect_address", Kind::Address(5432), Layer::Local, "POSTGRESQL_CONNECT_ADDRESS", "postgresql.listen", "How others reach this server. Required when postgresql.listen is a wildcard."),
    key("postgresql.data_dir", Kind::Path, Layer::Local, "POSTGRESQL_DATA_DIR", "", "The data directory, absolute. Required."),
    key("postgresql.bin_dir", Kind::Path, Layer::Local, "POSTGRESQL_BIN_DIR", "PATH", "Where postgres, initdb, pg_rewind and pg_basebackup are."),
    key("postgresql.pgpass", Kind::Path, Layer::Local, "POSTGRESQL_PGPASS", "pgpass in the node's private directory", "The password file that is written for replication and rewind."),
    key("postgresql.database", Kind::Text, Layer::Local, "", "postgres", "Database named in conn_url and connected to by rewind."),
    key("postgresql.authentication.superuser.username", Kind::Text, Layer::Local, "SUPERUSER_USERNAME", "postgres", "The superuser that initdb makes."),
    key("postgresql.authentication.superuser.password", Kind::Secret, Layer::Local, "SUPERUSER_PASSWORD", "", "Its password."),
    key("postgresql.authentication.replication.username", Kind::Text, Layer::Local, "REPLICATION_USERNAME", "", "The role that standbys and copies connect as. Required."),
    key("postgresql.authentication.replication.password", Kind::Secret, Layer::Local, "REPLICATION_PASSWORD", "", "Its password."),
    key("postgresql.authentication.rewind.username", Kind::Text, Layer::Local, "REWIND_USERNAME", "the superuser", "The role that pg_rewind connects as."),
    key("postgresql.authentication.rewind.password", Kind::Secret, Layer::Local, "REWIND_PASSWORD", "", "Its password."),
    key("postgresql.parameters", Kind::Parameters, Layer::Any, "", "", "Server parameters; see below for those that only the dynamic configuration can set."),
    key("postgresql.pg_hba", Kind::Lines, Layer::Any, "", "", "Lines of pg_hba.conf; without it the file is left alone."),
    key("postgresql.pg_ident", Kind::Lines, Layer::Any, "", "", "Lines of pg_ident.conf; without it the file is left alone."),
    key("postgresql.use_pg_rewind", Kind::Bool, Layer::Any, "", "false", "A former leader may be rewound with pg_rewind."),
    key("postgresql.demote_method", Kind::Choice(&["auto", "restart"]), Layer::Any, "", "auto", "How a leader becomes a standby: without being stopped where that is safe ([operations](operations.md#how-a-leader-becomes-a-standby); its cumulative statistics start anew), or always by a restart. May be changed at any time, for the next change of role."),
    key("postgresql.use_slots", Kind::Bool, Layer::Store, "", "true", "Standbys use physical replication slots. Without them every switchover stops the old leader."),
    key("postgresql.remove_data_directory_on_rewind_failure", Kind::Bool, Layer::Any, "", "false", "A data directory that could not be rewound may be replaced by a copy of the leader's."),
    key("postgresql.remove_data_directory_on_diverged_timelines", Kind::Bool, Layer::Any, "", "false", "A data directory that diverged and cannot be rewound may be replaced by a copy of the leader's, once that is out of recovery."),
    key("postgresql.pg_ctl_timeout", SECONDS, Layer::Any, "", "60", "How long a start or stop may take before it counts as failed."),
    key("postgresql.basebackup", Kind::Options, Layer::Any, "", "", "Options of pg_basebackup, for example `max-rate: 100M`."),
    key("postgresql.create_replica_methods", Kind::Lines, Layer::Any, "", "basebackup", "How a new member gets its data; basebackup is the only one built."),

    key("watchdog.mode", Kind::Choice(&["off", "automatic", "required"]), Layer::Any, "", "automatic", "Whether a leader has a [watchdog](operations.md#watchdog) reset its machine if it cannot keep its lease: never, if there is one that can be used, or always, so that a node without one does not lead."),
    key("watchdog.device", Kind::Path, Layer::Any, "", "/dev/watchdog", "The watchdog device; the server's user must be able to write to it."),
    key("watchdog.safety_margin", Kind::Count { min: -1, max: 86_400 }, Layer::Any, "", "5", "Seconds before the end of the lease at which the machine is reset: the device is set to ttl less this, and has to be left at least 5 s. -1 sets it to half of ttl. Where one is required a margin that leaves less is lowered, with a warning, and a ttl that leaves none is refused. With less than a twentieth of ttl and half a second it may be reset a moment after the lease."),
    key("watchdog.driver", Kind::Choice(&["default", "testing"]), Layer::Any, "", "default", "For tests of a cluster: with `testing` the device is a named pipe or a file that gets the commands as text (`Ctimeout=25` and a newline, `1`, `V`), and nothing is reset."),

    key("tags", Kind::Map, Layer::Local, "", "", "nofailover (never elected, founds no cluster; who leads already goes on), failover_priority, clonefrom, noloadbalance, and any of your own."),
];

/// The options that `postgresql.authentication.*` takes besides `username` and `password`; the first one is secret.
pub const CONNECTION_OPTIONS: &[&str] = &[
    "sslpassword",
    "sslmode",
    "sslkey",
    "sslcert",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "gssencmode",
    "channel_binding",
];

/// A key that Patroni knows and we accept, but do not act on (with everything below it).
#[derive(Clone, Copy, Debug)]
pub struct NotBuilt {
    /// Full path.
    pub path: &'static str,
    /// What happens instead; empty if `is ignored` says it all.
    pub instead: &'static str,
    /// Worth no warning: it concerns other programs only.
    pub silent: bool,
}

const fn not_built(path: &'static str, instead: &'static str) -> NotBuilt {
    NotBuilt { path, instead, silent: false }
}

/// Keys of Patroni that are accepted with a warning that names them.
#[rustfmt::skip]
pub const NOT_BUILT: &[NotBuilt] = &[
    NotBuilt { path: "ctl", instead: "read by patronictl alone", silent: true },
    not_built("max_timelines_history", "all rows are kept: they tell a returning node where it left the leader's history"),
    not_built("check_timeline", "a standby on an older timeline than the cluster's never takes over"),
    not_built("synchronous_mode", "replication stays asynchronous"),
    not_built("synchronous_mode_strict", "replication stays asynchronous"),
    not_built("synchronous_node_count", "replication stays asynchronous"),
    not_built("maximum_lag_on_syncnode", "replication stays asynchronous"),
    not_built("member_slots_ttl", "slots of members that are gone are dropped after 30 minutes"),
    not_built("slots", "permanent slots are not made"),
    not_built("ignore_slots", ""),
    not_built("standby_cluster", "this cluster leads for itself"),
    not_built("primary_stop_timeout", "a stop may take half of ttl, 30 s without another member that could lead, 5 s once the lease is over; then the server is stopped at once"),
    not_built("thread_pool_size", ""),
    not_built("thread_stack_size", ""),
    not_built("site", ""),
    not_built("log", "log lines go to standard error, or to the server's log while it runs"),
    not_built("restapi.certfile", "the REST API is served WITHOUT encryption"),
    not_built("restapi.keyfile", "the REST API is served WITHOUT encryption"),
    not_built("restapi.keyfile_password", "the REST API is served WITHOUT encryption"),
    not_built("restapi.cafile", "client certificates are not asked for"),
    not_built("restapi.ciphers", "the REST API is served WITHOUT encryption"),
    not_built("restapi.verify_client", "client certificates are not asked for"),
    not_built("restapi.https_extra_headers", ""),
    not_built("restapi.allowlist", "EVERY address may send requests; use restapi.authentication or a firewall"),
    not_built("restapi.allowlist_include_members", "EVERY address may send requests; use restapi.authentication or a firewall"),
    not_built("restapi.thread_pool_size", ""),
    not_built("bootstrap.method", "a new cluster is made with initdb"),
    not_built("bootstrap.post_bootstrap", "the script does not run"),
    not_built("bootstrap.post_init", "the script does not run"),
    not_built("bootstrap.users", "no users are made"),
    not_built("citus", ""),
    not_built("consul", "the store must be etcd3"),
    not_built("etcd", "the store must be etcd3"),
    not_built("etcd3.srv", "give etcd3.hosts"),
    not_built("etcd3.srv_suffix", "give etcd3.hosts"),
    not_built("etcd3.url", "give etcd3.hosts and etcd3.protocol"),
    not_built("etcd3.proxy", "give etcd3.hosts"),
    not_built("etcd3.use_proxies", ""),
    not_built("zookeeper", "the store must be etcd3"),
    not_built("exhibitor", "the store must be etcd3"),
    not_built("raft", "the store must be etcd3"),
    not_built("kubernetes", "the store must be etcd3"),
    not_built("postgresql.proxy_address", ""),
    not_built("postgresql.config_dir", "the configuration files are in the data directory"),
    not_built("postgresql.config_base_name", ""),
    not_built("postgresql.bin_name", ""),
    not_built("postgresql.use_unix_socket", "no connection of ours needs it"),
    not_built("postgresql.use_unix_socket_repl", "no connection of ours needs it"),
    not_built("postgresql.custom_conf", "postgresql.base.conf in the data directory is included"),
    not_built("postgresql.krbsrvname", ""),
    not_built("postgresql.pre_promote", "the script does not run"),
    not_built("postgresql.before_stop", "the script does not run"),
    not_built("postgresql.callbacks", "the scripts do not run"),
    not_built("postgresql.recovery_conf", ""),
    not_built("postgresql.rewind", ""),
    not_built("postgresql.parameters_primary", ""),
    not_built("postgresql.parameters_replica", ""),
    not_built("postgresql.parameters_standby_leader", ""),
    not_built("postgresql.pg_hba_primary", ""),
    not_built("postgresql.pg_hba_replica", ""),
    not_built("postgresql.pg_hba_standby_leader", ""),
    not_built("postgresql.pg_ident_primary", ""),
    not_built("postgresql.pg_ident_replica", ""),
    not_built("postgresql.pg_ident_standby_leader", ""),
];

/// Older names of keys.
pub(super) fn current_name(path: &str) -> &str {
    match path {
        "master_start_timeout" => "primary_start_timeout",
        "master_stop_timeout" => "primary_stop_timeout",
        "permanent_slots" | "permanent_replication_slots" => "slots",
        other => other,
    }
}

/// The key at `path`.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The entry for a key that is accepted, but not built.
pub(super) fn find_not_built(path: &str) -> Option<&'static NotBuilt> {
    NOT_BUILT.iter().find(|entry| entry.path == path)
}

/// Whether keys lie below `path`.
pub(super) fn is_section(path: &str) -> bool {
    let below = |full: &str| full.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    KEYS.iter().any(|key| below(key.path)) || NOT_BUILT.iter().any(|entry| below(entry.path))
}
