//! What the driver publishes each tick for the REST API to answer from.

use crate::clock::Tick;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::local::LocalView;
use crate::memory::Memory;
use crate::rule::Rule;
use crate::settings::Settings;
use serde_json::Value;
use std::sync::Arc;

/// Everything as of one tick.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// The settings in force, as decisions were given them.
    pub settings: Settings,
    /// Where the `config` key holds nothing that can be read: the dynamic configuration that is in force nevertheless.
    pub last_good_dynamic: Option<Value>,
    /// This node.
    pub local: LocalView,
    /// What the driver remembers: our lease and what is under way.
    pub memory: Memory,
    /// The newest view of the cluster; `None` before the store was first read.
    pub cluster: Option<Arc<Cluster>>,
    /// The view is as new as the store's events (false: the store cannot be reached).
    pub cluster_fresh: bool,
    /// When the store last answered, seconds since 1970; 0 for never.
    pub dcs_last_seen_unix_s: u64,
    /// What the views above do not say about the server.
    pub server: ServerFacts,
    /// Why the last decision was made.
    pub rule: Rule,
    /// When this tick began.
    pub ticked_at: Tick,
    /// When the next one was due to begin at the latest.
    pub next_tick_by: Tick,
}

/// Facts for display that no decision needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`, 150020; 0 when unknown.
    pub version_num: u32,
    /// When the postmaster started, microseconds since 1970; `None` while none runs.
    pub started_at_unix_us: Option<i64>,
}

/// What must be known at the moment of the request, not of the last tick.
#[derive(Clone, Copy, Debug)]
pub struct LiveNow {
    /// Now.
    pub now: Tick,
    /// Until when commits may be acknowledged; zero when fenced. Inside it is the number the fence itself obeys.
    pub lease_deadline: Tick,
    /// Wall clock, milliseconds since 1970, for display.
    pub unix_ms: u64,
}
