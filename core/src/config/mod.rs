//! The configuration: Patroni's YAML keys, typed (wire.md 8 and 9).
//!
//! Four layers, each over the one before: defaults, the dynamic configuration of the store, the local file, the
//! environment. A configuration with a mistake is rejected as a whole, so a bad edit changes nothing.

mod build;
pub mod documentation;
mod environment;
pub mod keys;
mod layers;
mod listed;
pub mod parameters;
mod problem;
mod sections;
mod tags;
pub mod timing;
pub mod units;
mod value;

#[cfg(test)]
mod tests;

pub use listed::Listed;
pub use problem::{ConfigError, Problem, Warning};
pub use sections::{
    BasicAuth, Bootstrap, CommandOption, Credentials, Dynamic, Etcd3, LogLevel, Postgresql, RestApi, Secret,
    ServerTokens, Watchdog, host_port,
};

use crate::ids::NodeName;
use crate::member::Identity;
use crate::settings::Settings;
use crate::tags::Tags;
use crate::watchdog::Mode;
use layers::{Merged, Reading};
use serde_json::{Map, Value};
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
    /// `watchdog`.
    pub watchdog: Watchdog,
    /// `tags`.
    pub tags: Tags,
    /// Every setting with its value and origin.
    listed: Vec<Listed>,
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
        let mut merged = Merged::default();
        let local = local_mapping(&mut merged, local);
        let methods = build::methods(&local);
        let bootstrap_dcs = local.get("bootstrap").and_then(|section| section.get("dcs")).filter(|dcs| !dcs.is_null());
        match (dynamic, bootstrap_dcs) {
            (Some(dynamic), bootstrap_dcs) => {
                read_dynamic(&mut merged, dynamic, "", false);
                if let Some(dcs) = bootstrap_dcs {
                    // Not in force any more, but a mistake in the file is a mistake.
                    let mut checked = Merged::default();
                    read_dynamic(&mut checked, dcs, "bootstrap.dcs.", true);
                    merged.problems.append(&mut checked.problems);
                }
            }
            (None, Some(dcs)) => read_dynamic(&mut merged, dcs, "bootstrap.dcs.", true),
            (None, None) => {}
        }
        merged.read(Reading { origin: Origin::File, prefix: "", strict: true, methods: &methods }, &local);
        environment::read(&mut merged, environment);

        let dynamic = build::dynamic(&merged);
        build::check_timing(&mut merged, &dynamic);
        let (scope, name, namespace) = build::names(&mut merged);
        let config = Config {
            log_level: build::log_level(&merged),
            restapi: build::restapi(&mut merged),
            etcd3: build::etcd3(&mut merged),
            postgresql: build::postgresql(&mut merged),
            bootstrap: build::bootstrap(&mut merged, bootstrap_dcs.cloned().unwrap_or_else(build::default_dcs)),
            watchdog: build::watchdog(&merged),
            tags: tags::tags(&mut merged),
            listed: listed::all(&merged),
            name: NodeName::new(name),
            scope,
            namespace,
            dynamic,
        };
        merged.warnings.sort();
        merged.warnings.dedup();
        if merged.problems.is_empty() { Ok((config, merged.warnings)) } else { Err(rejected(merged.problems)) }
    }

    /// Applies `patch` to `current` (RFC 7396: null deletes, objects merge) and checks the result. Mistakes that
    /// `current` already had do not stand in the way of correcting others.
    pub fn patched_dynamic(current: &Value, patch: &Value) -> Result<Value, ConfigError> {
        let mut next = current.clone();
        if !patch.is_object() {
            let problem = Problem {
                path: "(patch)".to_owned(),
                message: format!("expected a mapping, found {}", value::found(patch, false)),
                remedy: "send a JSON object".to_owned(),
            };
            return Err(rejected(vec![problem]));
        }
        merge_patch(&mut next, patch);
        Self::checked_dynamic(current, &next)?;
        Ok(next)
    }

    /// Checks `next`, which is to replace `current`. Mistakes that `current` already had do not count.
    pub fn checked_dynamic(current: &Value, next: &Value) -> Result<(), ConfigError> {
        let known = dynamic_problems(current);
        let fresh: Vec<Problem> = dynamic_problems(next).into_iter().filter(|p| !known.contains(p)).collect();
        if fresh.is_empty() { Ok(()) } else { Err(rejected(fresh)) }
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
        let (timing, _) = build::timing(&self.dynamic).corrected(patroni_present);
        let watchdog = self.watchdog.settings;
        let corrected = watchdog.corrected(timing.ttl_ms).ok().filter(|_| watchdog.mode == Mode::Required);
        Settings {
            ttl_ms: timing.ttl_ms,
            loop_wait_ms: timing.loop_wait_ms,
            retry_timeout_ms: timing.retry_timeout_ms,
            maximum_lag_on_failover_bytes: self.dynamic.maximum_lag_on_failover_bytes,
            primary_start_timeout_ms: self.dynamic.primary_start_timeout_ms,
            primary_race_backoff_ms: self.dynamic.primary_race_backoff_ms,
            use_pg_rewind: self.postgresql.use_pg_rewind,
            replace_after_failed_rewind: self.postgresql.remove_data_directory_on_rewind_failure,
            replace_diverged: self.postgresql.remove_data_directory_on_diverged_timelines,
            use_slots: self.postgresql.use_slots,
            demote_in_place: self.postgresql.demote_in_place,
            failsafe_mode: self.dynamic.failsafe_mode,
            pause: self.dynamic.pause,
            watchdog: corrected.map_or(watchdog, |(used, _)| used),
            tags: self.tags.clone(),
            bootstrap_dcs: self.bootstrap.dcs.clone(),
        }
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

/// The local layer as a mapping; a wrong type is noted.
fn local_mapping(merged: &mut Merged, local: &Value) -> Map<String, Value> {
    match local {
        Value::Object(map) => map.clone(),
        Value::Null => Map::new(),
        other => {
            let message = format!("expected a mapping, found {}", value::found(other, false));
            merged.problem("(configuration file)".to_owned(), message, "begin with scope: and name:");
            Map::new()
        }
    }
}

fn read_dynamic(merged: &mut Merged, dynamic: &Value, prefix: &str, strict: bool) {
    match dynamic {
        Value::Object(map) => merged.read(Reading { origin: Origin::Store, prefix, strict, methods: &[] }, map),
        Value::Null => {}
        other => {
            let path = if prefix.is_empty() { "(dynamic configuration)" } else { prefix.trim_end_matches('.') };
            let message = format!("expected a mapping, found {}", value::found(other, false));
            merged.problem(path.to_owned(), message, "write it as a mapping");
        }
    }
}

/// What is wrong with a dynamic configuration that somebody wants to write.
fn dynamic_problems(dynamic: &Value) -> Vec<Problem> {
    let mut merged = Merged::default();
    read_dynamic(&mut merged, dynamic, "", true);
    build::refuse_unwatchable(&mut merged);
    merged.problems
}

/// RFC 7396, except that a scalar which reads the same as before is left as it was written.
fn merge_patch(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        if value::scalar(into).is_none() || value::scalar(into) != value::scalar(patch) {
            *into = patch.clone();
        }
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(map) = into else { return };
    for (name, value) in patch {
        if value.is_null() {
            map.remove(name);
        } else {
            merge_patch(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn rejected(mut problems: Vec<Problem>) -> ConfigError {
    problems.sort();
    problems.dedup();
    ConfigError { problems }
}
