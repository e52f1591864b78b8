//! The settings decisions depend on, merged from defaults, the store, the local file and the environment.

use crate::clock::Millis;
use crate::tags::Tags;
use crate::watchdog::WatchdogSettings;
use serde::{Deserialize, Serialize};

/// Settings in force (wire.md 8.2), times in milliseconds.
// They are independent switches of the configuration, not a state.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
// A recorded schedule of the simulator may be older than a setting.
#[serde(default)]
pub struct Settings {
    /// `ttl`.
    pub ttl_ms: Millis,
    /// `loop_wait`.
    pub loop_wait_ms: Millis,
    /// `retry_timeout`.
    pub retry_timeout_ms: Millis,
    /// `maximum_lag_on_failover`, bytes.
    pub maximum_lag_on_failover_bytes: u64,
    /// `primary_start_timeout`; zero fails over at once after a crash.
    pub primary_start_timeout_ms: Millis,
    /// `primary_race_backoff`: for how long WAL that still arrives holds up an election.
    pub primary_race_backoff_ms: Millis,
    /// `postgresql.use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `postgresql.remove_data_directory_on_rewind_failure`: a copy may replace data whose rewind failed or was interrupted.
    pub replace_after_failed_rewind: bool,
    /// `postgresql.remove_data_directory_on_diverged_timelines`: a copy may replace data that diverged and cannot be rewound.
    pub replace_diverged: bool,
    /// `postgresql.use_slots`.
    pub use_slots: bool,
    /// `postgresql.demote_method` is not `restart`: a leader becomes a standby without being stopped, where that is safe.
    pub demote_in_place: bool,
    /// `failsafe_mode`.
    #[serde(default)]
    pub failsafe_mode: bool,
    /// `pause`.
    pub pause: bool,
    /// `watchdog`.
    pub watchdog: WatchdogSettings,
    /// Our tags.
    pub tags: Tags,
    /// `bootstrap.dcs`: written to the `config` key by the first leader.
    pub bootstrap_dcs: serde_json::Value,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl_ms: Millis::from_secs(30),
            loop_wait_ms: Millis::from_secs(10),
            retry_timeout_ms: Millis::from_secs(10),
            maximum_lag_on_failover_bytes: 1_048_576,
            primary_start_timeout_ms: Millis::from_secs(300),
            primary_race_backoff_ms: Millis(0),
            use_pg_rewind: false,
            replace_after_failed_rewind: false,
            replace_diverged: false,
            use_slots: true,
            demote_in_place: true,
            failsafe_mode: false,
            pause: false,
            watchdog: WatchdogSettings::default(),
            tags: Tags::default(),
            bootstrap_dcs: serde_json::Value::Object(serde_json::Map::new()),
        }
    }
}
