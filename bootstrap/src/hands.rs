//! What the driver acts through while the supervisor has the seat.

use crate::outside::Outside;
use ha_core::api::ServerFacts;
use ha_core::config::Config;
use ha_core::effect::Effect;
use ha_core::local::LocalView;
use ha_core::memory::Memory;
use ha_core::outcome::Outcome;
use ha_core::view;
use ha_node::driver::Port;
use std::sync::Arc;

/// What the driver acts through.
pub struct Hands {
    /// This node.
    pub outside: Outside,
    /// The seat is ours and nothing stands against acting.
    pub acting: bool,
    /// The node is to be stopped.
    pub stop_requested: bool,
    /// `server_version_num` of the installation.
    pub version_num: u32,
}

impl Port for Hands {
    fn seat(&self) -> Option<view::Seat> {
        self.acting.then_some(view::Seat::Outside)
    }

    fn observe(&mut self) -> LocalView {
        self.outside.look()
    }

    fn execute(&mut self, effect: &Effect, memory: &Memory) -> Result<(), String> {
        self.outside.carry_out(effect, memory)
    }

    fn take_outcomes(&mut self) -> Vec<Outcome> {
        self.outside.outcomes()
    }

    fn stop_requested(&self) -> bool {
        self.stop_requested
    }

    fn server_facts(&self) -> ServerFacts {
        ServerFacts { version_num: self.version_num, started_at_unix_us: self.outside.started_at_unix_us() }
    }

    fn reconfigured(&mut self, config: &Arc<Config>, dynamic: Option<&serde_json::Value>) {
        self.outside.site.config = Arc::clone(config);
        self.outside.watchdog.configure(&config.watchdog);
        self.outside.keep_dynamic(dynamic, self.acting);
    }
}
