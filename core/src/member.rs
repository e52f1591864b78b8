//! Our own `members/<name>` value (wire.md 1.1), built from what is observed.

use crate::effect::Step;
use crate::ids::{Lsn, Timeline};
use crate::local::{DataDir, LocalView, PrimaryView, Receiver, Server};
use crate::memory::Memory;
use crate::settings::Settings;
use serde::ser::{SerializeMap, Serializer};
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

/// Whether this server is a standby: nothing of it can acknowledge anything.
#[must_use]
pub fn recovers(local: &LocalView) -> bool {
    matches!(&local.server, Server::Standby(standby) if !standby.promoting)
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

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Field::Text(text) => serializer.serialize_str(text),
            Field::Number(number) => serializer.serialize_u64(*number),
            Field::Flag(flag) => serializer.serialize_bool(*flag),
            Field::Object(map) => map.serialize(serializer),
            Field::Made(value) => value.serialize(serializer),
        }
    }
}

/// Our member key, field by field, in the order of their names: that of the keys of a JSON object here.
#[derive(Clone, Debug)]
pub(crate) struct Record<'a>(Vec<(&'static str, Field<'a>)>);

impl Record<'_> {
    pub(crate) fn remove(&mut self, field: &str) {
        self.0.retain(|(name, _)| *name != field);
    }

    /// Whether `known` says the same, in all fields but those `except`. Both are in the order of their names.
    pub(crate) fn says(&self, known: &Value, except: &[&str]) -> bool {
        let Some(known) = known.as_object() else { return false };
        let mut known = known.iter().filter(|(name, _)| !except.contains(&name.as_str()));
        let mut fields = self.0.iter().filter(|(name, _)| !except.contains(name));
        let same =
            fields.all(|(name, field)| known.next().is_some_and(|(other, value)| name == other && field.is(value)));
        same && known.next().is_none()
    }

    pub(crate) fn text(&self) -> String {
        // Text keys and plain values can always be written; the other way is slower.
        serde_json::to_string(self).unwrap_or_else(|_| self.json().to_string())
    }

    pub(crate) fn json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, field)| ((*name).to_owned(), field.value())).collect())
    }
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, field) in &self.0 {
            map.serialize_entry(name, field)?;
        }
        map.end()
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
    let (primary, standby) = match &local.server {
        Server::Primary(primary) => (Some(primary), None),
        Server::Standby(standby) => (None, Some(standby)),
        Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover => (None, None),
    };
    let flag = |set: bool| set.then_some(Field::Flag(true));
    let lsn = |lsn: Lsn| (lsn > Lsn(0)).then_some(Field::Number(lsn.0));
    let streaming = standby.is_some_and(|standby| standby.receiver == Receiver::Streaming);
    let unchecked = primary.is_some_and(|primary| !primary.checkpointed);
    // Left out by `decide::upkeep` until the history is published.
    let made = |primary: &&PrimaryView| primary.timeline == Timeline(1) || !local.history.is_empty();
    let replays = standby.map(|standby| standby.timeline).filter(|timeline| *timeline > Timeline(0));
    let timeline = primary.filter(made).map(|primary| primary.timeline).or(replays);
    let ends = primary.map(|primary| primary.flushed);
    let ends = ends.or_else(|| standby.map(|standby| standby.received.max(standby.replayed)));
    let (tags, pending) = (&settings.tags.all, &local.pending_restart);
    // In the order of their names.
    let fields = [
        ("api_url", Some(Field::Text(&identity.api_url))),
        ("awaits_checkpoint", flag(memory.awaits_checkpoint)),
        ("cannot_write", flag(local.cannot_write.is_some())),
        ("checkpoint_after_promote", unchecked.then_some(Field::Flag(false))),
        ("conn_url", Some(Field::Text(&identity.conn_url))),
        ("ha_ext_version", Some(Field::Text(HA_EXT_VERSION))),
        ("pause", flag(settings.pause)),
        ("pending_restart", flag(!pending.is_empty())),
        ("pending_restart_reason", (!pending.is_empty()).then(|| Field::Made(json!(pending)))),
        ("receive_lsn", standby.and_then(|standby| lsn(standby.received))),
        ("replay_lsn", standby.and_then(|standby| lsn(standby.replayed))),
        ("replication_state", streaming.then_some(Field::Text("streaming"))),
        ("role", Some(Field::Text(role(local, memory)))),
        ("state", Some(Field::Text(state(local, memory)))),
        ("tags", (!tags.is_empty()).then_some(Field::Object(tags))),
        ("timeline", timeline.map(|timeline| Field::Number(timeline.0.into()))),
        ("version", Some(Field::Text(COMPATIBLE_VERSION))),
        ("watchdog_failed", flag(memory.watchdog_failed)),
        ("xlog_location", ends.map(|lsn| Field::Number(lsn.0))),
    ];
    let mut out = Vec::with_capacity(fields.len());
    out.extend(fields.into_iter().filter_map(|(name, field)| Some((name, field?))));
    Record(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Millis, Tick};
    use crate::ids::{LeaseId, Revision};
    use crate::lease::Lease;
    use crate::local::{PendingSetting, StandbyView};
    use crate::memory::Stage;
    use std::collections::BTreeMap;

    fn local(server: Server) -> LocalView {
        LocalView {
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
            kept_ttl: crate::clock::Millis(0),
        }
    }

    #[test]
    fn what_is_written_says_the_same() {
        let number = |name, number| (name, Field::Number(number));
        let role = ("role", Field::Text("replica"));
        let record = Record(vec![number("receive_lsn", 7), role, number("timeline", 2), number("xlog_location", 7)]);
        let says = |text: &str, except: &[&str]| record.says(&serde_json::from_str(text).expect("JSON"), except);
        let text = record.text();
        assert_eq!(text, record.json().to_string());
        assert!(says(&text, &[]) && says(&text, &["role"]));
        assert!(says(r#"{"xlog_location":7,"timeline":2,"role":"replica","receive_lsn":7}"#, &[]), "in any order");
        for moved in [
            r#"{"receive_lsn":6,"role":"replica","timeline":2,"xlog_location":7}"#,
            r#"{"role":"replica","timeline":2,"xlog_location":"7"}"#,
            r#"{"receive_lsn":7,"role":"replica","timeline":2}"#,
        ] {
            assert!(!says(moved, &[]) && says(moved, &["receive_lsn", "xlog_location"]), "{moved}");
        }
        for other in [
            r#"{"receive_lsn":7,"role":"primary","timeline":2,"xlog_location":7}"#,
            r#"{"receive_lsn":7,"timeline":2,"xlog_location":7}"#,
            r#"{"receive_lsn":7,"role":"replica","timeline":2,"xlog_location":7,"z":1}"#,
            r#"{"a":1,"receive_lsn":7,"role":"replica","timeline":2,"xlog_location":7}"#,
            "{}",
            "[]",
        ] {
            assert!(!says(other, &[]) && !says(other, &["receive_lsn", "xlog_location"]), "{other}");
        }
    }

    #[test]
    fn fields_are_in_the_order_of_their_names() {
        let (identity, settings) = (Identity::default(), Settings::default());
        let memory = Memory { awaits_checkpoint: true, watchdog_failed: true, ..Memory::default() };
        let pending = BTreeMap::from([("x".to_owned(), PendingSetting::default())]);
        let servers = [Server::Primary(PrimaryView::default()), Server::Standby(StandbyView::default()), Server::Down];
        for server in servers {
            let local = LocalView { pending_restart: pending.clone(), ..local(server) };
            let record = fields(&identity, &settings, &local, &memory);
            assert!(record.0.is_sorted_by(|(one, _), (next, _)| one < next), "{record:?}");
        }
    }

    /// On its way to a stop this node is no leader, although it keeps the lease until the server is down.
    #[test]
    fn a_server_that_is_about_to_be_stopped_is_demoted() {
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
