//! From input lines to a view, and from a decision to text.

use super::parts::{SYSTEM, control, history, marker, peer, promise, question, server, watchdog};
use ha_core::clock::{Millis, Tick};
use ha_core::clocks::{Clocks, Jumps};
use ha_core::cluster::{Edition, LastLeader};
use ha_core::dcs::{DcsCall, DcsReply, Key, LAST_LEADER_PATH, RawCluster, RawKey};
use ha_core::decide;
use ha_core::effect::{Effect, Step};
use ha_core::failsafe::{PromiseView, Question};
use ha_core::ids::{LeaseId, NodeName, Revision, SystemId, Timeline};
use ha_core::local::{DataDir, LocalView, Server};
use ha_core::member::Identity;
use ha_core::memory::Memory;
use ha_core::outcome::Outcome;
use ha_core::peer::PeerView;
use ha_core::seat::LeaveReason;
use ha_core::settings::Settings;
use ha_core::view::{DcsView, Seat, View};
use ha_core::watchdog::WatchdogView;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A decision as text.
pub struct Decided {
    pub rule: String,
    pub text: String,
}

/// Everything a case can set.
struct Scene {
    now: Tick,
    clocks: Option<Clocks>,
    seat: Seat,
    raw: RawCluster,
    lost: Option<Tick>,
    blank: bool,
    control: Value,
    data: Option<DataDir>,
    local: LocalView,
    peers: Vec<PeerView>,
    promises: Vec<PromiseView>,
    questions: Vec<Question>,
    outcomes: Vec<Outcome>,
    busy: bool,
    stop_requested: bool,
    /// What the disk keeps, if it is not what it should.
    kept: Option<Millis>,
    settings: Value,
    memory: Value,
}

pub fn decide(input: &[String]) -> Result<Decided, String> {
    let mut scene = Scene::new()?;
    for line in input {
        scene.take(line).map_err(|error| format!("`{line}`: {error}"))?;
    }
    scene.decide()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub fn json_of(value: &str) -> Result<Value, String> {
    serde_json::from_str(value).map_err(text)
}

pub fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{value}` is not a number"))
}

/// Changes fields that are there.
fn patch(base: &mut Value, changes: &Value) -> Result<(), String> {
    let (Some(base), Some(changes)) = (base.as_object_mut(), changes.as_object()) else {
        return Err("an object is needed".to_owned());
    };
    for (field, value) in changes {
        *base.get_mut(field).ok_or_else(|| format!("there is no field {field}"))? = value.clone();
    }
    Ok(())
}

impl Scene {
    fn new() -> Result<Self, String> {
        let mut scene = Self {
            now: Tick(100_000),
            clocks: None,
            seat: Seat::Inside { supervised: true },
            raw: RawCluster { revision: Revision(100), ..RawCluster::default() },
            lost: None,
            blank: false,
            control: serde_json::to_value(control()).map_err(text)?,
            data: None,
            local: LocalView {
                data: DataDir::Empty,
                server: Server::Down,
                marker: None,
                history: Vec::new(),
                step_running: None,
                cannot_write: None,
                history_at: None,
                pending_restart: BTreeMap::new(),
                founding: false,
                watchdog: WatchdogView {
                    obstacle: Some("there is no /dev/watchdog".to_owned()),
                    ..WatchdogView::default()
                },
                kept_ttl: Millis(0),
            },
            peers: Vec::new(),
            promises: Vec::new(),
            questions: Vec::new(),
            outcomes: Vec::new(),
            busy: false,
            stop_requested: false,
            kept: None,
            settings: serde_json::to_value(Settings::default()).map_err(text)?,
            memory: serde_json::to_value(Memory {
                ttl: Some(Settings::default().ttl_ms),
                newest_timeline: Some((SystemId(SYSTEM), Timeline(1))),
                ..Memory::default()
            })
            .map_err(text)?,
        };
        scene.key("initialize", &SYSTEM.to_string());
        scene.key("config", "{}");
        scene.key("ha_ext/last_leader", r#"{"leader":"n2","lease":9,"created":70}"#);
        for name in ["n1", "n2", "n3"] {
            let port = name.trim_start_matches('n');
            let member = json!({
                "conn_url": format!("postgres://10.0.0.1:{port}/postgres"),
                "api_url": format!("http://10.0.0.1:800{port}/patroni"),
                "state": "running", "role": "replica", "timeline": 1, "xlog_location": 1000,
            });
            scene.key(&format!("members/{name}"), &member.to_string());
        }
        if let Some(own) = scene.raw.keys.get_mut("members/n1") {
            own.lease = Some(LeaseId(6));
        }
        Ok(scene)
    }

    fn key(&mut self, path: &str, value: &str) {
        let revision = Revision(60);
        let key = RawKey { value: value.to_owned(), created: revision, modified: revision, version: 1, lease: None };
        self.put(path, key);
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "seat" => self.seat = if rest == "outside" { Seat::Outside } else { Seat::Inside { supervised: false } },
            "now" => self.now = Tick(number(rest)?),
            "clocks" => self.clocks = Some(serde_json::from_str(rest).map_err(text)?),
            "store" => self.store(rest)?,
            "key" => self.take_key(rest)?,
            "nokey" => {
                self.raw.keys.remove(rest).ok_or("there is no such key")?;
            }
            "member" => {
                let (name, changes) = rest.split_once(' ').ok_or("name and JSON")?;
                let key = self.raw.keys.get_mut(&format!("members/{name}")).ok_or("no such member")?;
                let mut member = json_of(&key.value)?;
                for (field, value) in json_of(changes)?.as_object().ok_or("an object is needed")? {
                    member[field] = value.clone();
                }
                key.value = member.to_string();
            }
            "data" => self.take_data(rest)?,
            "server" => self.local.server = server(rest)?,
            "history" => self.local.history = history(rest)?,
            "marker" => self.local.marker = Some(marker(rest)?),
            "running" => self.local.step_running = Some(serde_json::from_str(rest).map_err(text)?),
            "watchdog" => self.local.watchdog = watchdog(rest)?,
            "founding" => self.local.founding = true,
            "kept" => self.kept = Some(Millis(number(rest)?)),
            "cannot_write" => self.local.cannot_write = Some("No space left on device".to_owned()),
            "peer" => self.peers.push(peer(rest)?),
            "promise" => self.promises.push(promise(rest)?),
            "asked" => self.questions.push(question(rest)?),
            "call" => self.take_call(rest)?,
            "step" => self.take_step(rest)?,
            "taken" => {
                let reason: LeaveReason = serde_json::from_value(json!(rest)).map_err(text)?;
                self.outcomes.push(Outcome::SeatTaken(reason));
            }
            "busy" => self.busy = true,
            "stop_requested" => self.stop_requested = true,
            "settings" => patch(&mut self.settings, &json_of(rest)?)?,
            "memory" => patch(&mut self.memory, &json_of(rest)?)?,
            "gone" => {
                let peers = json!({"n2": "http://10.0.0.1:8002/patroni", "n3": "http://10.0.0.1:8003/patroni"});
                let last = json!({"name": "n2", "lease": 9, "created": 70});
                let gone = json!({"last_leader": last, "leader_gone_after": 60, "leader_gone_revision": 85, "dead_leases": [9], "leader_gone_at": 99_000, "known_peers": peers});
                patch(&mut self.memory, &gone)?;
                patch(&mut self.memory, &json!({"session": 6, "kept_at": 99_000}))?;
            }
            "lease" => {
                let sent_at: u64 = if rest.is_empty() { 95_000 } else { number(rest)? };
                let lease = json!({"id": 5, "leader_created": 50, "sent_at": sent_at, "ttl": 30_000});
                patch(&mut self.memory, &json!({"lease": lease, "session": 5, "kept_at": sent_at}))?;
                self.key("ha_ext/last_leader", r#"{"leader":"n1","lease":5,"created":50}"#);
            }
            _ => return Err("unknown word".to_owned()),
        }
        Ok(())
    }

    fn store(&mut self, rest: &str) -> Result<(), String> {
        let mut words = rest.split(' ');
        if words.next() != Some("lost") {
            return Err("`store lost SINCE [blank]`".to_owned());
        }
        self.lost = Some(Tick(number(words.next().unwrap_or(""))?));
        self.blank = words.next() == Some("blank");
        Ok(())
    }

    fn take_key(&mut self, rest: &str) -> Result<(), String> {
        let (path, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut key =
            RawKey { value: String::new(), created: Revision(50), modified: Revision(60), version: 1, lease: None };
        loop {
            let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            match word.split_once('=') {
                Some(("lease", value)) => key.lease = Some(LeaseId(number(value)?)),
                Some(("created", value)) => key.created = Revision(number(value)?),
                Some(("modified", value)) => key.modified = Revision(number(value)?),
                Some(("version", value)) => key.version = number(value)?,
                _ => break,
            }
            rest = tail;
        }
        rest.clone_into(&mut key.value);
        self.put(path, key);
        Ok(())
    }

    /// The record of who led last names its edition, as the leader writes it, unless the case says what it names.
    fn put(&mut self, path: &str, mut key: RawKey) {
        if path == LAST_LEADER_PATH
            && let Ok(mut record) = serde_json::from_str::<LastLeader>(&key.value)
            && !key.value.contains("\"edition\"")
        {
            record.edition = Some(Edition { created: key.created, version: key.version });
            key.value = record.text();
        }
        self.raw.keys.insert(path.to_owned(), key);
    }

    fn take_data(&mut self, rest: &str) -> Result<(), String> {
        let damaged = |half_copied, ours| {
            let reason = "a rewind was interrupted".to_owned();
            DataDir::Damaged { reason, half_copied, ours }
        };
        match rest {
            "empty" => self.data = Some(DataDir::Empty),
            "damaged" => self.data = Some(damaged(false, true)),
            "strange" => self.data = Some(damaged(false, false)),
            "half_copied" => self.data = Some(damaged(true, true)),
            changes => patch(&mut self.control, &json_of(changes)?)?,
        }
        Ok(())
    }

    fn take_call(&mut self, rest: &str) -> Result<(), String> {
        let (call, reply) = rest.split_once(" -> ").ok_or("`CALL -> REPLY`")?;
        let call: DcsCall = serde_json::from_str(call).map_err(text)?;
        let reply: DcsReply = serde_json::from_str(reply).map_err(text)?;
        self.outcomes.push(Outcome::Dcs { call, reply, at: self.now });
        Ok(())
    }

    fn take_step(&mut self, rest: &str) -> Result<(), String> {
        let (step, result) = match rest.split_once(" failed ") {
            Some((step, why)) => (step, Err(why.to_owned())),
            None => (rest.strip_suffix(" ok").ok_or("`ok` or `failed TEXT`")?, Ok(())),
        };
        let step: Step = serde_json::from_str(step).map_err(text)?;
        self.outcomes.push(Outcome::Step { step, result, at: self.now });
        Ok(())
    }

    fn decide(mut self) -> Result<Decided, String> {
        self.local.data = match self.data {
            Some(data) => data,
            None => DataDir::Present(serde_json::from_value(self.control).map_err(text)?),
        };
        let memory: Memory = serde_json::from_value(self.memory).map_err(text)?;
        let settings: Settings = serde_json::from_value(self.settings).map_err(text)?;
        let cluster = ha_core::parse::cluster(&self.raw);
        // As a member that has been up for a while has it.
        let config = cluster.config.as_ref();
        let failsafe = config.map_or(settings.failsafe_mode, |config| config.value["failsafe_mode"] == true);
        let usual = if failsafe { settings.ttl_ms } else { Millis(0) };
        self.local.kept_ttl = self.kept.unwrap_or(usual);
        let me = NodeName::new("n1");
        let identity = Identity {
            conn_url: "postgres://10.0.0.1:1/postgres".to_owned(),
            api_url: "http://10.0.0.1:8001/patroni".to_owned(),
        };
        let view = View {
            now: self.now,
            clocks: self.clocks,
            seat: self.seat,
            me: &me,
            scope: "demo",
            identity: &identity,
            settings: &settings,
            dcs: match self.lost {
                None => DcsView::Fresh(&cluster),
                Some(since) => DcsView::Unreachable { since, last: (!self.blank).then_some(&cluster) },
            },
            local: &self.local,
            peers: &self.peers,
            promises: &self.promises,
            questions: &self.questions,
            outcomes: &self.outcomes,
            dcs_busy: self.busy,
            stop_requested: self.stop_requested,
            jitter: 0,
        };
        let decision = decide::decide(&memory, &view);
        decision.check(&view).map_err(text)?;
        let rule = decision.rule.code().to_owned();
        let mut out = format!("{rule}\n");
        for (code, sentence) in decision.jumps.iter().flat_map(Jumps::told) {
            let _ = writeln!(out, "!! {code}: {sentence}");
        }
        for effect in &decision.effects {
            let _ = writeln!(out, "-> {}", telling(effect));
        }
        if let Some(reason) = &decision.because {
            let _ = writeln!(out, "because {reason}");
        }
        let _ = writeln!(out, "again in {}", decision.wake_at.since(self.now));
        changes(&mut out, &memory, &decision.memory)?;
        Ok(Decided { rule, text: out })
    }
}

/// The fields of the memory that are different now.
fn changes(out: &mut String, before: &Memory, after: &Memory) -> Result<(), String> {
    let empty = Map::new();
    let (before, after) = (serde_json::to_value(before).map_err(text)?, serde_json::to_value(after).map_err(text)?);
    for (field, value) in after.as_object().unwrap_or(&empty) {
        if before.get(field) != Some(value) {
            let _ = writeln!(out, "   {field}: {value}");
        }
    }
    Ok(())
}

fn telling(effect: &Effect) -> String {
    match effect {
        Effect::Dcs(DcsCall::Write(edit)) => {
            let value = match (&edit.key, &edit.value) {
                // What stands in it is the business of member.rs.
                (Key::Member(_), Some(_)) => "…",
                (_, Some(value)) => value,
                (_, None) => "(delete)",
            };
            let leased = if edit.leased { " on the node lease" } else { "" };
            format!("store: {} := {value} if {:?}{leased}", edit.key.path(), edit.expect)
        }
        Effect::ExtendFence { until } | Effect::LimitFence { until } => format!("{effect}, until {}", until.0),
        Effect::ArmWatchdog { by, .. } | Effect::FeedWatchdog { by } => format!("{effect}, by {}", by.0),
        Effect::Promote { skip, .. } if !skip.is_empty() => format!("{effect}, skipping {skip:?}"),
        other => other.to_string(),
    }
}
