//! The seam between the driver and the side it drives.

use super::Layers;
use crate::net::Hooks;
use ha_core::api::ServerFacts;
use ha_core::clock::Tick;
use ha_core::config::{Config, ConfigError};
use ha_core::effect::Effect;
use ha_core::local::LocalView;
use ha_core::memory::Memory;
use ha_core::outcome::Outcome;
use ha_core::rule::Rule;
use ha_core::view::Seat;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// What a side of the seat can see and do.
pub trait Port {
    /// `CLOCK_BOOTTIME` in milliseconds.
    fn now(&self) -> Tick {
        crate::clock::now()
    }
    /// Where we act; `None` while the seat is not ours: then nothing is decided.
    fn seat(&self) -> Option<Seat>;
    /// One snapshot of this node.
    fn observe(&mut self) -> LocalView;
    /// Does one thing, or begins it. Never called for [`Effect::Dcs`] and [`Effect::PollPeers`]. After an error the
    /// rest of the decision is dropped and the next tick observes anew.
    fn execute(&mut self, effect: &Effect, memory: &Memory) -> Result<(), String>;
    /// Steps that have ended, and a seat that has come, since the last call.
    fn take_outcomes(&mut self) -> Vec<Outcome>;
    /// The supervisor was told to stop this node.
    fn stop_requested(&self) -> bool {
        false
    }
    /// Facts about the server for REST.
    fn server_facts(&self) -> ServerFacts {
        ServerFacts::default()
    }
    /// The configuration has changed; `dynamic` belongs into `patroni.dynamic.json`. Must not wait for a disk
    /// inside Postgres.
    fn reconfigured(&mut self, config: &Arc<Config>, dynamic: Option<&Value>) {
        let _ = (config, dynamic);
    }
}

/// What a driver starts with.
pub struct Options {
    /// The configuration.
    pub layers: Layers,
    /// What the net thread calls directly.
    pub hooks: Hooks,
}

/// A driver cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration has mistakes.
    Config(ConfigError),
    /// A thread cannot be started.
    Thread(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(error) => write!(f, "{error}"),
            StartError::Thread(error) => write!(f, "a thread cannot be started: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// What came of one tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticked {
    /// Tick again at this moment at the latest; sooner when the wake callback was called. Forget earlier wakes
    /// (reset the latch) BEFORE a tick, never after it.
    pub next_wake: Tick,
    /// Why this tick did what it did; `None` when the seat is not ours.
    pub rule: Option<Rule>,
    /// It is another than in the tick before.
    pub rule_changed: bool,
}
