//! Our own `members/<name>` value (wire.md 1.1), built from what is observed.

use crate::effect::Step;
use crate::ids::Timeline;
use crate::local::{DataDir, LocalView, Receiver, Server};
use crate::memory::Memory;
use crate::settings::Settings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What identifies this member to others; fixed while the process lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `postgres://HOST:PORT/DBNAME`.
    pub conn_url: String,
    /// `http[s]://HOST:PORT/patroni`.
    pub api_url: String,
}

/// The level of Patroni we are compatible with, reported as `version` (wire.md 12.1).
pub const COMPATIBLE_VERSION: &str = "4.1.4";
/// Our own version, reported as `ha_ext_version`.
pub const HA_EXT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// `state` of this node (wire.md 6).
#[must_use]
pub fn state(local: &LocalView, memory: &Memory) -> &'static str {
    if let Some(step) = &local.step_running {
        return match step {
            Step::Initdb => "initializing new cluster",
            Step::BaseBackup { .. } => "creating replica",
            Step::Stop { .. } | Step::ClearLeftover => "stopping",
            Step::Rewind { .. } | Step::CrashRecover | Step::Start { .. } | Step::EndStragglers => "starting",
            Step::SetAside => "initdb failed",
        };
    }
    match &local.server {
        // Ahead of what it has replayed consistently, it could win no election and must block none.
        Server::Standby(standby) if !standby.consistent => "starting",
        // Nor does it stand: members of a release that takes its claim for any other would wait for it.
        Server::Standby(_) if memory.out_by_hand => "starting",
        Server::Primary(_) | Server::Standby(_) => "running",
        Server::Starting { .. } => "starting",
        Server::Stopping { .. } => "stopping",
        Server::Leftover => "crashed",
        Server::Down if memory.step_error.is_some() => "start failed",
        Server::Down => "stopped",
    }
}

/// `role` of this node (wire.md 6).
#[must_use]
pub fn role(local: &LocalView, memory: &Memory) -> &'static str {
    match &local.server {
        Server::Primary(primary) => match &memory.stage {
            stage if memory.lease.is_some() && !stage.resigning() => "primary",
            // Whatever became of the lease and the memory of it.
            _ if primary.fence_unbound => "primary",
            _ => "demoted",
        },
        Server::Standby(standby) if standby.promoting => "promoted",
        Server::Standby(_) => "replica",
        Server::Starting { .. } | Server::Leftover if memory.may_acknowledge => "primary",
        Server::Starting { .. } if memory.stage.resigning() => "demoted",
        Server::Starting { .. } if memory.lease.is_some() => "primary",
        Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover => {
            match (&memory.stage, &local.data) {
                (stage, _) if stage.resigning() => "demoted",
                (_, DataDir::Empty) => "uninitialized",
                (_, DataDir::Present(_) | DataDir::Damaged { .. }) => "replica",
            }
        }
    }
}

/// One field's value as it is now, to be compared with what was written before: most of the time nothing has to be.
#[derive(Clone, Debug)]
pub(crate) enum Field<'a> {
    Text(&'a str),
    Number(u64),
    Flag(bool),
    Object(&'a Map<String, Value>),
    Made(Value),
}

impl Field<'_> {
    fn is(&self, known: &Value) -> bool {
        match self {
            Field::Text(text) => known.as_str() == Some(text),
            Field::Number(number) => known.as_u64() == Some(*number),
            Field::Flag(flag) => known.as_bool() == Some(*flag),
            Field::Object(map) => known.as_object() == Some(map),
            Field::Made(value) => known == value,
        }
    }

    fn value(&self) -> Value {
        match self {
            Field::Text(text) => json!(text),
            Field::Number(number) => json!(number),
            Field::Flag(flag) => json!(flag),
            Field::Object(map) => Value::Object((*map).clone()),
            Field::Made(value) => value.clone(),
        }
    }
}

/// Our member key, field by field.
#[derive(Clone, Debug)]
pub(crate) struct Record<'a>(Vec<(&'static str, Field<'a>)>);

impl Record<'_> {
    pub(crate) fn remove(&mut self, field: &str) {
        self.0.retain(|(name, _)| *name != field);
    }

    /// Whether `known` says the same, in all fields but those `except`.
    pub(crate) fn says(&self, known: &Value, except: &[&str]) -> bool {
        let Some(known) = known.as_object() else { return false };
        let fields = self.0.iter().filter(|(name, _)| !except.contains(name));
        let same = |(name, field): &(&str, Field<'_>)| known.get(*name).is_some_and(|value| field.is(value));
        let known = known.keys().filter(|name| !except.contains(&name.as_str())).count();
        fields.clone().count() == known && fields.clone().all(same)
    }

    pub(crate) fn json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, field)| ((*name).to_owned(), field.value())).collect())
    }
}

/// The JSON of our member key.
#[must_use]
pub fn record(identity: &Identity, settings: &Settings, local: &LocalView, memory: &Memory) -> Value {
    fields(identity, settings, local, memory).json()
}

/// The fields of our member key.
pub(crate) fn fields<'a>(
    identity: &'a Identity,
    settings: &'a Settings,
    local: &'a LocalView,
    memory: &Memory,
) -> Record<'a> {
    let mut out: Vec<(&'static str, Field<'a>)> = Vec::with_capacity(16);
    out.push(("conn_url", Field::Text(&identity.conn_url)));
    out.push(("api_url", Field::Text(&identity.api_url)));
    out.push(("state", Field::Text(state(local, memory))));
    out.push(("role", Field::Text(role(local, memory))));
    out.push(("version", Field::Text(COMPATIBLE_VERSION)));
    out.push(("ha_ext_version", Field::Text(HA_EXT_VERSION)));
    let tags = &settings.tags.all;
    if !tags.is_empty() {
        out.push(("tags", Field::Object(tags)));
    }
    match &local.server {
        Server::Primary(primary) => {
            out.push(("xlog_location", Field::Number(primary.flushed.0)));
            // Left out by `decide::upkeep` until the history is published.
            if primary.timeline == Timeline(1) || !local.history.is_empty() {
                out.push(("timeline", Field::Number(primary.timeline.0.into())));
            }
            if !primary.checkpointed {
                out.push(("checkpoint_after_promote", Field::Flag(false)));
            }
        }
        Server::Standby(standby) => {
            out.push(("xlog_location", Field::Number(standby.received.max(standby.replayed).0)));
            if standby.received.0 > 0 {
                out.push(("receive_lsn", Field::Number(standby.received.0)));
            }
            if standby.replayed.0 > 0 {
                out.push(("replay_lsn", Field::Number(standby.replayed.0)));
            }
            if standby.receiver == Receiver::Streaming {
                out.push(("replication_state", Field::Text("streaming")));
            }
            if standby.timeline > Timeline(0) {
                out.push(("timeline", Field::Number(standby.timeline.0.into())));
            }
        }
        Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover => {}
    }
    if memory.awaits_checkpoint {
        out.push(("awaits_checkpoint", Field::Flag(true)));
    }
    if memory.watchdog_failed {
        out.push(("watchdog_failed", Field::Flag(true)));
    }
    if local.cannot_write.is_some() {
        out.push(("cannot_write", Field::Flag(true)));
    }
    if settings.pause {
        out.push(("pause", Field::Flag(true)));
    }
    if !local.pending_restart.is_empty() {
        out.push(("pending_restart", Field::Flag(true)));
        out.push(("pending_restart_reason", Field::Made(json!(local.pending_restart))));
    }
    Record(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Millis, Tick};
    use crate::ids::{LeaseId, Revision};
    use crate::lease::Lease;
    use crate::memory::Stage;
    use std::collections::BTreeMap;

    /// On its way to a stop this node is no leader, although it keeps the lease until the server is down.
    #[test]
    fn a_server_that_is_about_to_be_stopped_is_demoted() {
        let local = |server| LocalView {
            data: DataDir::Empty,
            server,
            marker: None,
            history: Vec::new(),
            history_at: None,
            step_running: None,
            cannot_write: None,
            pending_restart: BTreeMap::new(),
            founding: false,
            watchdog: crate::watchdog::WatchdogView::default(),
        };
        let lease = Some(Lease::confirmed(LeaseId(5), Revision(50), Tick(1), Millis(30_000)));
        let stage =
            Stage::Demoting { candidate: None, release: true, since: Tick(2), down_since: None, in_place: false };
        let demoting = Memory { lease, stage, ..Memory::default() };
        let servers = || {
            [Server::Starting { since: Tick(2) }, Server::Stopping { since: Tick(2) }, Server::Leftover, Server::Down]
        };
        for server in servers() {
            assert_eq!(role(&local(server.clone()), &demoting), "demoted", "{server:?}");
        }
        let may = Memory { may_acknowledge: true, ..demoting };
        assert_eq!(role(&local(Server::Leftover), &may), "primary", "somebody may be told so still");
        let leading = Memory { lease, ..Memory::default() };
        assert_eq!(role(&local(Server::Starting { since: Tick(2) }), &leading), "primary");
        for server in [Server::Stopping { since: Tick(2) }, Server::Leftover, Server::Down] {
            // Whoever stands for election waits for a primary: one whose release is sent, or whose lease is over, must not say so.
            assert_eq!(role(&local(server.clone()), &leading), "uninitialized", "{server:?}");
        }
    }
}
