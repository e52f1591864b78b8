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
    /// Why the dynamic configuration is not known, although there is a copy of it.
    pub mistake: Option<String>,
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
    // A cached copy that makes no sense (any more) must not keep the node down: the store has the real one.
    let cached = cached(&Paths::new(&config.postgresql.data_dir).dynamic_config()).and_then(|dynamic| {
        let config = Config::from_layers(&local, &environment, dynamic.as_ref()).map_err(|error| error.to_string())?.0;
        Ok((dynamic, config))
    });
    let (dynamic, config, mistake) = match cached {
        Ok((dynamic, config)) => (dynamic, config, None),
        Err(mistake) => (None, config, Some(mistake)),
    };
    Ok(Loaded { file, layers: Layers { local, environment, dynamic }, config, mistake })
}

fn cached(file: &Path) -> std::result::Result<Option<serde_json::Value>, String> {
    match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
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
