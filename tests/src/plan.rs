//! What a test cluster looks like, and the YAML file of each node.

use crate::sql::PASSWORD;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Which program manages the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// `ha_bootstrap` with the extension.
    HaExt,
    /// Patroni, for comparison.
    Patroni,
}

/// A cluster to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the cluster.
    pub scope: &'static str,
    /// Nodes.
    pub nodes: usize,
    /// Members of etcd.
    pub etcd_members: usize,
    /// `ttl`, seconds.
    pub ttl: u32,
    /// `loop_wait`, seconds.
    pub loop_wait: u32,
    /// `retry_timeout`, seconds.
    pub retry_timeout: u32,
    /// `primary_start_timeout`, seconds.
    pub primary_start_timeout: u32,
    /// `maximum_lag_on_failover`, bytes.
    pub lag_bytes_max: u64,
    /// Each node and etcd in a network namespace of its own instead of all on loopback.
    pub network: bool,
    /// Machines of that network on which nothing runs yet.
    pub spare_machines: usize,
    /// Who manages them.
    pub system: System,
    /// Additional server parameters for `bootstrap.dcs`, one YAML line each.
    pub parameters: Vec<String>,
    /// Additional lines for the node's `postgresql` section.
    pub postgresql: Vec<String>,
    /// `watchdog.mode`, with a named pipe `watchdog` in each node's directory as the device.
    pub watchdog: Option<&'static str>,
    /// Size of a file system of its own for each node, in MiB; none means the scratch directory's.
    pub disk_mib: Option<u32>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            scope: "batman",
            nodes: 3,
            etcd_members: 1,
            ttl: 5,
            loop_wait: 1,
            retry_timeout: 3,
            primary_start_timeout: 300,
            lag_bytes_max: 1_048_576,
            network: false,
            spare_machines: 0,
            system: System::HaExt,
            parameters: Vec::new(),
            postgresql: Vec::new(),
            watchdog: None,
            disk_mib: None,
        }
    }
}

impl Plan {
    /// The defaults: three nodes on loopback, one etcd, ttl 5.
    #[must_use]
    pub fn short() -> Self {
        Self::default()
    }

    /// The shipped defaults: `ttl` 30, `loop_wait` 10, `retry_timeout` 10.
    #[must_use]
    pub fn default_timing(self) -> Self {
        Self { ttl: 30, loop_wait: 10, retry_timeout: 10, ..self }
    }

    /// The tightest timing Patroni accepts.
    #[must_use]
    pub fn tight_timing(self) -> Self {
        Self { ttl: 20, loop_wait: 1, retry_timeout: 3, ..self }
    }

    /// Each node on a machine of its own, as far as the network is concerned.
    #[must_use]
    pub fn in_network(self) -> Self {
        Self { network: true, ..self }
    }
}

/// Where one node lives.
#[derive(Clone, Debug)]
pub struct Site {
    /// Member name.
    pub name: String,
    /// Address it listens on.
    pub host: String,
    /// Port of its server.
    pub pg_port: u16,
    /// Port of its REST API.
    pub rest_port: u16,
    /// Directory of the node; its data is in `data` below.
    pub dir: PathBuf,
    /// Network namespace.
    pub netns: Option<String>,
}

/// Directory of the server's programs.
#[must_use]
pub fn bin_dir() -> PathBuf {
    let config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin/pg_config".into());
    Path::new(&config).parent().map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), Path::to_path_buf)
}

/// The YAML file of a node, valid for both systems.
#[must_use]
pub fn yaml(plan: &Plan, site: &Site, etcd: &[String]) -> String {
    let Plan { scope, ttl, loop_wait, retry_timeout, primary_start_timeout, lag_bytes_max, .. } = plan;
    let Site { name, host, pg_port, rest_port, dir, .. } = site;
    let (dir, bin_dir, etcd) = (dir.display(), bin_dir(), etcd.join(","));
    let bin_dir = bin_dir.display();
    let mut parameters = String::new();
    for line in &plan.parameters {
        let _ = writeln!(parameters, "        {line}");
    }
    let mut postgresql = String::new();
    for line in &plan.postgresql {
        let _ = writeln!(postgresql, "  {line}");
    }
    let watchdog = plan.watchdog.map_or_else(String::new, |mode| {
        format!("watchdog:\n  mode: {mode}\n  device: {dir}/watchdog\n  driver: testing\n")
    });
    format!(
        "scope: {scope}
name: {name}
restapi:
  listen: {host}:{rest_port}
  connect_address: {host}:{rest_port}
etcd3:
  hosts: {etcd}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    maximum_lag_on_failover: {lag_bytes_max}
    primary_start_timeout: {primary_start_timeout}
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: 100
{parameters}  initdb:
    - encoding: UTF8
    - locale: C.UTF-8
    - data-checksums
postgresql:
  listen: {host}:{pg_port}
  connect_address: {host}:{pg_port}
  data_dir: {dir}/data
  bin_dir: {bin_dir}
  pgpass: {dir}/pgpass
  authentication:
    superuser:
      username: postgres
      password: {PASSWORD}
    replication:
      username: replicator
      password: secret-replication
  pg_hba:
    - local all all scram-sha-256
    - host all all 0.0.0.0/0 scram-sha-256
    - host replication replicator 0.0.0.0/0 scram-sha-256
  parameters:
    unix_socket_directories: {dir}
    logging_collector: off
    log_line_prefix: '%m [%p] '
{postgresql}{watchdog}tags:
  nofailover: false
"
    )
}
