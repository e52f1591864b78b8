//! The configuration in force while the driver runs: layers that are merged anew when one of them changes.

use crate::clock;
use crate::peers::{self, Asker};
use ha_core::cluster::Cluster;
use ha_core::config::{Config, ConfigError, Problem, Warning, host_port};
use ha_core::ids::NodeName;
use ha_core::member::Identity;
use ha_core::settings::Settings;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The local file, from [`crate::config_file::load`].
    pub local: Value,
    /// `PATRONI_*` variables.
    pub environment: BTreeMap<String, String>,
    /// The dynamic configuration, at first from `patroni.dynamic.json`.
    pub dynamic: Option<Value>,
}

/// The layers and what they amount to.
pub(super) struct Configuration {
    layers: Layers,
    config: Arc<Config>,
    settings: Settings,
    identity: Identity,
    patroni_present: bool,
    /// A dynamic configuration that was rejected, so that it is reported once.
    rejected: Option<Value>,
}

impl Configuration {
    pub fn new(layers: Layers) -> Result<(Self, Vec<Warning>), ConfigError> {
        let (config, warnings) = Config::from_layers(&layers.local, &layers.environment, layers.dynamic.as_ref())?;
        let mut configuration = Self {
            layers,
            settings: config.settings(),
            identity: config.identity(),
            config: Arc::new(config),
            patroni_present: false,
            rejected: None,
        };
        configuration.derive();
        Ok((configuration, warnings))
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn dynamic(&self) -> Option<&Value> {
        self.layers.dynamic.as_ref()
    }

    /// The local file was read again. With a mistake in it nothing changes.
    pub fn reload(&mut self, local: Value, environment: BTreeMap<String, String>) -> Result<Vec<Warning>, ConfigError> {
        let layers = Layers { local, environment, dynamic: self.layers.dynamic.clone() };
        self.adopt(layers)
    }

    /// What a running node is cannot be changed under it.
    fn check_fixed(&self, new: &Config) -> Result<(), ConfigError> {
        let old = &self.config;
        let fixed = [
            ("scope", old.scope == new.scope),
            ("namespace", old.namespace == new.namespace),
            ("name", old.name == new.name),
            ("postgresql.data_dir", old.postgresql.data_dir == new.postgresql.data_dir),
        ];
        let problems: Vec<Problem> = fixed
            .into_iter()
            .filter(|(_, same)| !same)
            .map(|(path, _)| Problem {
                path: path.to_owned(),
                message: "cannot be changed while the node runs".to_owned(),
                remedy: "stop the node, change it, start the node".to_owned(),
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    /// The store shows the cluster like this. `None` when that changes nothing; a dynamic configuration with a
    /// mistake is rejected as a whole, the last good one stays in force.
    pub fn follow(&mut self, cluster: &Cluster) -> Option<Result<Vec<Warning>, ConfigError>> {
        let patroni = |(name, member): (&NodeName, &std::sync::Arc<ha_core::cluster::Member>)| {
            *name != self.config.name && member.version.is_some() && member.ha_ext_version.is_none()
        };
        let patroni_present = cluster.members.iter().any(patroni);
        let mixed = patroni_present != self.patroni_present;
        self.patroni_present = patroni_present;
        // A store that was wiped has no configuration to offer: the last one stays, and the leader restores it.
        let offered = cluster.config.as_ref().map(|config| &config.value);
        let offered = offered.filter(|value| self.layers.dynamic.as_ref() != Some(value));
        if let Some(value) = offered.filter(|value| self.rejected.as_ref() != Some(value)) {
            let layers = Layers { dynamic: Some(value.clone()), ..self.layers.clone() };
            let result = self.adopt(layers);
            self.rejected = result.is_err().then(|| value.clone());
            return Some(result);
        }
        if mixed {
            self.derive();
            return Some(Ok(Vec::new()));
        }
        None
    }

    fn adopt(&mut self, layers: Layers) -> Result<Vec<Warning>, ConfigError> {
        let (config, warnings) = Config::from_layers(&layers.local, &layers.environment, layers.dynamic.as_ref())?;
        self.check_fixed(&config)?;
        self.layers = layers;
        self.config = Arc::new(config);
        self.derive();
        Ok(warnings)
    }

    fn derive(&mut self) {
        self.settings = self.config.settings_among(self.patroni_present);
        if let Some(dynamic) = &self.layers.dynamic {
            // What the leader writes into a store that has lost its configuration.
            self.settings.bootstrap_dcs = dynamic.clone();
        }
        self.identity = self.config.identity();
    }

    pub fn store_options(&self) -> ha_dcs::etcd3::Options {
        store_options(&self.config, &self.settings)
    }

    /// How this member asks the others.
    pub fn asker(&self) -> Asker {
        let auth = self.config.restapi.authentication.as_ref();
        let authorization = auth.map(|auth| peers::basic_authorization(&auth.username, auth.password.expose()));
        Asker::new(self.config.scope.clone(), authorization)
    }
}

/// How to reach the store, from the configuration.
#[must_use]
pub fn store_options(config: &Config, settings: &Settings) -> ha_dcs::etcd3::Options {
    use ha_dcs::etcd3::Protocol;
    let hosts = config.etcd3.hosts.iter().map(host_port).collect();
    let mut options = ha_dcs::etcd3::Options::new(hosts, config.scope.clone(), config.name.clone(), clock::now);
    options.protocol = if config.etcd3.tls { Protocol::Https } else { Protocol::Http };
    if let Some(auth) = &config.etcd3.authentication {
        options.username = Some(auth.username.clone());
        options.password = Some(auth.password.expose().to_owned());
    }
    options.cacert.clone_from(&config.etcd3.cacert);
    options.cert.clone_from(&config.etcd3.cert);
    options.key.clone_from(&config.etcd3.key);
    options.namespace.clone_from(&config.namespace);
    options.ttl = settings.ttl_ms;
    options.retry_timeout = settings.retry_timeout_ms;
    options
}
