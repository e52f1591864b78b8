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
        Server::Primary(_) => match &memory.stage {
            stage if memory.lease.is_some() && !stage.resigning() => "primary",
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

/// The JSON of our member key.
#[must_use]
pub fn record(identity: &Identity, settings: &Settings, local: &LocalView, memory: &Memory) -> Value {
    let mut out = Map::new();
    out.insert("conn_url".into(), json!(identity.conn_url));
    out.insert("api_url".into(), json!(identity.api_url));
    out.insert("state".into(), json!(state(local, memory)));
    out.insert("role".into(), json!(role(local, memory)));
    out.insert("version".into(), json!(COMPATIBLE_VERSION));
    out.insert("ha_ext_version".into(), json!(HA_EXT_VERSION));
    let tags = &settings.tags.all;
    if !tags.is_empty() {
        out.insert("tags".into(), Value::Object(tags.clone()));
    }
    match &local.server {
        Server::Primary(primary) => {
            out.insert("xlog_location".into(), json!(primary.flushed.0));
            // Left out by `decide::upkeep` until the history is published.
            if primary.timeline == Timeline(1) || !local.history.is_empty() {
                out.insert("timeline".into(), json!(primary.timeline.0));
            }
            if !primary.checkpointed {
                out.insert("checkpoint_after_promote".into(), json!(false));
            }
        }
        Server::Standby(standby) => {
            out.insert("xlog_location".into(), json!(standby.received.max(standby.replayed).0));
            if standby.received.0 > 0 {
                out.insert("receive_lsn".into(), json!(standby.received.0));
            }
            if standby.replayed.0 > 0 {
                out.insert("replay_lsn".into(), json!(standby.replayed.0));
            }
            if standby.receiver == Receiver::Streaming {
                out.insert("replication_state".into(), json!("streaming"));
            }
            if standby.timeline > Timeline(0) {
                out.insert("timeline".into(), json!(standby.timeline.0));
            }
        }
        Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover => {}
    }
    if memory.awaits_checkpoint {
        out.insert("awaits_checkpoint".into(), json!(true));
    }
    if settings.pause {
        out.insert("pause".into(), json!(true));
    }
    if !local.pending_restart.is_empty() {
        out.insert("pending_restart".into(), json!(true));
        out.insert("pending_restart_reason".into(), json!(local.pending_restart));
    }
    Value::Object(out)
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
