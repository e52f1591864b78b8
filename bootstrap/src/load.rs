//! Reads the configuration of a node.

use crate::error::{Error, Result};
use ha_core::config::{Config, LogLevel};
use ha_node::driver::Layers;
use ha_node::paths::Paths;
use std::path::{Path, PathBuf};

/// A configuration as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// Where it was read from, absolute.
    pub file: PathBuf,
    /// What it is made of.
    pub layers: Layers,
    /// What it amounts to.
    pub config: Config,
}

/// Reads the file, the environment, and the dynamic configuration as it was last seen.
pub fn load(file: &Path) -> Result<Loaded> {
    let file = std::path::absolute(file).map_err(Error::io(|| format!("finding {}", file.display())))?;
    let local = ha_node::config_file::load(&file).map_err(|error| Error::Refused(error.to_string()))?;
    let environment = ha_node::environment::own();
    let rejected = |error: ha_core::config::ConfigError| {
        Error::Refused(format!("the configuration {} cannot be used:\n{error}", file.display()))
    };
    let (config, _) = Config::from_layers(&local, &environment, None).map_err(rejected)?;
    let cached = std::fs::read(Paths::new(&config.postgresql.data_dir).dynamic_config()).ok();
    let dynamic = cached.and_then(|text| serde_json::from_slice(&text).ok());
    let layers = Layers { local, environment, dynamic };
    // A cached copy that makes no sense (any more) must not keep the node down: the store has the real one.
    match Config::from_layers(&layers.local, &layers.environment, layers.dynamic.as_ref()) {
        Ok((config, _)) => Ok(Loaded { file, layers, config }),
        Err(_) => Ok(Loaded { file, layers: Layers { dynamic: None, ..layers }, config }),
    }
}

/// `log.level` as `tracing` names it.
#[must_use]
pub fn tracing_level(level: LogLevel) -> tracing::Level {
    match level {
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Warning => tracing::Level::WARN,
        LogLevel::Error => tracing::Level::ERROR,
    }
}
