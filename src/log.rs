//! Log records of all threads, on their way into the server's log.

use crate::pg::report;
use ha_core::config::{Config, LogLevel};
use ha_node::driver::Layers;
use ha_node::log::{self, Queue};
use tracing::Level;

/// The main thread's end of the queue.
pub struct Bridge {
    queue: Queue,
}

impl Bridge {
    /// Makes the queue the destination of all that this process logs.
    pub fn install(level: Level, wake: impl Fn() + Send + Sync + 'static) -> Result<Self, String> {
        let queue = log::install(level, wake).map_err(|error| error.to_string())?;
        Ok(Self { queue })
    }

    /// Writes what waits to the server's log: at LOG and WARNING, never ERROR, which would end this process.
    pub fn flush(&self) {
        let (records, dropped) = self.queue.drain();
        for record in records {
            let text = format!("ha_ext: {}", record.message);
            match record.level {
                Level::ERROR | Level::WARN => report::warning(&text),
                _ => report::log(&text),
            }
        }
        if dropped > 0 {
            report::warning(&format!("ha_ext: {dropped} log records were lost"));
        }
    }
}

/// `log.level` of the configuration; the default if it cannot be read, which is reported elsewhere.
pub fn level(layers: &Layers) -> Level {
    let config = Config::from_layers(&layers.local, &layers.environment, layers.dynamic.as_ref());
    match config.map(|(config, _)| config.log_level).unwrap_or_default() {
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warning => Level::WARN,
        LogLevel::Error => Level::ERROR,
    }
}
