//! Parts of a view, read from a few words each.

use super::world::{json_of, number};
use ha_core::clock::{Millis, Tick};
use ha_core::cluster::Address;
use ha_core::failsafe::{PromiseAnswer, PromiseView, Question};
use ha_core::ids::{LeaseId, Lsn, NodeName, Revision, SystemId, Timeline};
use ha_core::local::{
    Control, ControlState, InPlace, Marker, PrimaryView, Receiver, Seal, Server, StandbyConnection, StandbyView,
    Upstream,
};
use ha_core::peer::{PeerAnswer, PeerStatus, PeerView};
use ha_core::tags::Tags;
use ha_core::watchdog::{Running, WatchdogView};
use serde_json::{Value, json};

/// The system identifier of the data directory.
pub const SYSTEM: u64 = 7_300_000_000_000_000_001;

fn upstream(name: &str) -> Upstream {
    let port = name.trim_start_matches('n').parse().unwrap_or(0);
    let address = Address { host: "10.0.0.1".to_owned(), port };
    Upstream { name: NodeName::new(name), address, slot: Some("n1".to_owned()) }
}

pub fn control() -> Control {
    Control {
        system_id: SystemId(SYSTEM),
        state: ControlState::InProduction,
        timeline: Timeline(1),
        checkpoint: Lsn(900),
        min_recovery_point: Lsn(0),
        min_recovery_timeline: Timeline(0),
        can_be_rewound: true,
        backup_label: false,
    }
}

/// `LEASE [SCOPE [MEMBER]]`.
pub fn marker(rest: &str) -> Result<Marker, String> {
    let mut words = rest.split(' ');
    Ok(Marker {
        lease: Some(LeaseId(number(words.next().unwrap_or_default())?)),
        scope: words.next().unwrap_or("demo").to_owned(),
        member: NodeName::new(words.next().unwrap_or("n1")),
        system_id: SystemId(SYSTEM),
    })
}

pub fn history(rest: &str) -> Result<Vec<(Timeline, Lsn)>, String> {
    rest.split_whitespace()
        .map(|row| {
            let (timeline, lsn) = row.split_once('@').ok_or("`timeline@lsn`")?;
            Ok((Timeline(number(timeline)?), Lsn(number(lsn)?)))
        })
        .collect()
}

pub fn server(rest: &str) -> Result<Server, String> {
    let (what, tail) = rest.split_once(' ').unwrap_or((rest, ""));
    let fields = if tail.starts_with('{') { json_of(tail)? } else { json!({}) };
    Ok(match what {
        "down" => Server::Down,
        "leftover" => Server::Leftover,
        "starting" => Server::Starting { since: Tick(number(tail)?) },
        "stopping" => Server::Stopping { since: Tick(number(tail)?) },
        "primary" => Server::Primary(primary(&fields)),
        "standby" => Server::Standby(standby(&fields)),
        _ => return Err("unknown state".to_owned()),
    })
}

fn unsigned(fields: &Value, name: &str, default: u64) -> u64 {
    fields.get(name).and_then(Value::as_u64).unwrap_or(default)
}

fn timeline(fields: &Value) -> Timeline {
    Timeline(u32::try_from(unsigned(fields, "timeline", 1)).unwrap_or(1))
}

fn flag(fields: &Value, name: &str, default: bool) -> bool {
    fields.get(name).and_then(Value::as_bool).unwrap_or(default)
}

fn primary(fields: &Value) -> PrimaryView {
    let standbys = fields.get("standbys").and_then(Value::as_array).cloned().unwrap_or_default();
    let standby = |row: &Value| {
        let lsn = Lsn(row.get(1)?.as_u64()?);
        let streaming = row.get(2).is_none_or(|state| state != "catchup");
        Some(StandbyConnection { slot: row.get(0)?.as_str()?.to_owned(), streaming, flushed: lsn, replayed: lsn })
    };
    PrimaryView {
        timeline: timeline(fields),
        flushed: Lsn(unsigned(fields, "flushed", 1000)),
        checkpointed: flag(fields, "checkpointed", true),
        checkpoint_redo: Lsn(unsigned(fields, "redo", 900)),
        standbys: standbys.iter().filter_map(standby).collect(),
        fence_open: flag(fields, "fence", true),
        fence_until: Tick(unsigned(fields, "fence_until", 0)),
        fence_unbound: flag(fields, "unbound", false),
        seal: fields.get("seal").and_then(|seal| serde_json::from_value(seal.clone()).ok()).unwrap_or(Seal::Open),
        in_place: InPlace {
            obstacle: fields.get("obstacle").and_then(Value::as_str).map(str::to_owned),
            parked: flag(fields, "parked", false),
            marked: flag(fields, "marked", flag(fields, "parked", false)),
        },
        archive_waiting: flag(fields, "archive_waiting", false),
    }
}

fn standby(fields: &Value) -> StandbyView {
    let word = |name: &str| fields.get(name).and_then(Value::as_str);
    let lsn = Lsn(unsigned(fields, "received", 1000));
    StandbyView {
        timeline: timeline(fields),
        received: lsn,
        replayed: Lsn(unsigned(fields, "replayed", lsn.0)),
        receiver: match word("receiver") {
            Some("streaming") => Receiver::Streaming,
            Some("connecting") => Receiver::Connecting,
            Some("stopping") => Receiver::Stopping,
            _ => Receiver::Stopped,
        },
        upstream: word("upstream").map(upstream),
        promoting: flag(fields, "promoting", false),
        consistent: flag(fields, "consistent", true),
        reads_withheld: flag(fields, "withheld", false),
        replay_paused: flag(fields, "paused", false),
        commits_wait: flag(fields, "commits_wait", false),
        ..StandbyView::default()
    }
}

pub fn peer(rest: &str) -> Result<PeerView, String> {
    let mut words = rest.splitn(3, ' ');
    let name = NodeName::new(words.next().unwrap_or_default());
    let asked_at = Tick(number(words.next().unwrap_or_default())?);
    let answer = match words.next().unwrap_or_default() {
        "pending" => PeerAnswer::Pending,
        "unreachable" => PeerAnswer::Unreachable("timed out".to_owned()),
        fields => {
            let fields = json_of(fields)?;
            PeerAnswer::Status(PeerStatus {
                is_primary: flag(&fields, "is_primary", false),
                state: fields.get("state").and_then(Value::as_str).unwrap_or("running").to_owned(),
                in_recovery: flag(&fields, "in_recovery", false),
                lsn: Lsn(unsigned(&fields, "lsn", 1000)),
                timeline: Some(timeline(&fields)),
                receiving: flag(&fields, "receiving", false),
                tags: Tags::from_json(fields.get("tags")),
                watchdog_failed: false,
                cannot_write: flag(&fields, "cannot_write", false),
            })
        }
    };
    Ok(PeerView { name, asked_at, answer })
}

/// `idle`, `left`, `running FED_AT [ASKED_MS [TIMEOUT_MS [stays]]]`, or why it cannot be used.
pub fn watchdog(rest: &str) -> Result<WatchdogView, String> {
    let mut words = rest.split(' ');
    match words.next() {
        Some("idle") => Ok(WatchdogView::default()),
        Some("running") => {
            let fed_at = Tick(number(words.next().unwrap_or_default())?);
            let asked_ms = Millis(words.next().map_or(Ok(25_000), number)?);
            let timeout_ms = words.next().map_or(Ok(asked_ms), |word| number(word).map(Millis))?;
            let stays = words.next() == Some("stays");
            let running = Some(Running { asked_ms, timeout_ms, fed_at, stays });
            Ok(WatchdogView { running, ..WatchdogView::default() })
        }
        Some("left") => Ok(WatchdogView { left: true, ..WatchdogView::default() }),
        _ => Ok(WatchdogView { obstacle: Some(rest.to_owned()), ..WatchdogView::default() }),
    }
}

/// `NAME ASKED_AT pending` / `refused` / `LASTS_MS`, for leader key 50.
pub fn promise(rest: &str) -> Result<PromiseView, String> {
    let mut words = rest.split(' ');
    let name = NodeName::new(words.next().unwrap_or_default());
    let asked_at = Tick(number(words.next().unwrap_or_default())?);
    let answer = match words.next().unwrap_or_default() {
        "pending" => PromiseAnswer::Pending,
        "refused" => PromiseAnswer::Refused("timed out".to_owned()),
        lasts => PromiseAnswer::Promised(Millis(number(lasts)?)),
    };
    Ok(PromiseView { name, asked_at, created: Revision(50), answer })
}

/// `NUMBER FROM [CREATED]`.
pub fn question(rest: &str) -> Result<Question, String> {
    let mut words = rest.split(' ');
    Ok(Question {
        number: number(words.next().unwrap_or_default())?,
        from: NodeName::new(words.next().unwrap_or_default()),
        created: words.next().map(number).transpose()?.map(Revision),
    })
}
