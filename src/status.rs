//! The status page: what the views show, as JSON in shared memory.

use ha_core::cluster::{Cluster, Initialize, Member};
use ha_core::config::host_port;
use ha_core::decide::{eligibility, in_place_obstacle};
use ha_core::ids::NodeName;
use ha_core::local::{LocalView, Server};
use ha_core::schedule;
use ha_core::view::{Seat, View};
use ha_node::clock;
use ha_node::driver::Driver;
use ha_node::net::StoreHealth;
use serde_json::{Map, Value, json};

/// Events shown: those that outlive the worker.
const EVENTS_SHOWN: usize = crate::ring::ENTRIES;

/// `host:port (name)` of the leader, empty when there is none or it is this node: whoever asks is refused here, so `me` is no answer,
/// whatever the store still says.
pub fn leader_hint(cluster: Option<&Cluster>, me: &NodeName) -> String {
    let leader = cluster.and_then(|cluster| Some((cluster, cluster.leader.as_ref()?)));
    leader
        .filter(|(_, leader)| leader.name != *me)
        .map_or_else(String::new, |(cluster, leader)| address_hint(cluster, &leader.name))
}

/// `host:port (name)` of a member, its name alone if its address is not known.
pub fn address_hint(cluster: &Cluster, name: &NodeName) -> String {
    match cluster.members.get(name).and_then(|member| member.postgres_address()) {
        Some(address) => format!("{} ({name})", host_port(&address)),
        None => name.to_string(),
    }
}

/// The page. `bytes_max` is met by leaving out the oldest events, then the settings.
pub fn page(driver: &Driver, local: &LocalView, seat: Option<Seat>, bytes_max: usize) -> String {
    let mut page = facts(driver, local, seat);
    let mut events = events(driver);
    page.insert("settings".into(), settings(driver));
    loop {
        page.insert("events".into(), Value::Array(events.clone()));
        let text = Value::Object(page.clone()).to_string();
        if text.len() <= bytes_max {
            return text;
        }
        if events.is_empty() && page.remove("settings").is_none() {
            return String::new();
        }
        events.drain(..events.len().div_ceil(2));
    }
}

fn facts(driver: &Driver, local: &LocalView, seat: Option<Seat>) -> Map<String, Value> {
    let config = driver.config();
    let cluster = driver.cluster().map(AsRef::as_ref);
    let mut page = Map::new();
    page.insert("scope".into(), json!(config.scope));
    page.insert("name".into(), json!(config.name));
    page.insert("database".into(), json!(config.postgresql.database));
    page.insert("use_slots".into(), json!(driver.settings().use_slots));
    page.insert("pause".into(), json!(driver.settings().pause));
    page.insert("written_unix_ms".into(), json!(clock::wall_ms()));
    page.insert("seat".into(), json!(seat_word(seat)));
    page.insert("store".into(), json!(store_word(driver.store())));
    page.insert("rule".into(), json!(driver.snapshot().map(|snapshot| snapshot.rule.code())));
    page.insert("config".into(), driver.dynamic().cloned().unwrap_or(Value::Null));
    page.insert("lease".into(), lease(driver));
    let inside = seat.unwrap_or(Seat::Inside { supervised: false });
    let obstacle = driver.with_view(clock::now(), inside, local, |view| in_place_obstacle(driver.memory(), view));
    page.insert("in_place_obstacle".into(), json!(obstacle));
    if let Some(cluster) = cluster {
        page.insert("system_id".into(), initialize(cluster));
        page.insert("unbound".into(), json!(cluster.unbound_fences().collect::<Vec<_>>()));
        page.insert("scheduled".into(), scheduled(cluster));
        page.insert("leader".into(), json!(cluster.leader.as_ref().map(|leader| &leader.name)));
        page.insert("members".into(), members(driver, cluster, local, seat));
        page.insert("history".into(), history(cluster));
    }
    page
}

fn seat_word(seat: Option<Seat>) -> &'static str {
    match seat {
        None => "none",
        Some(Seat::Inside { supervised: true }) => "supervised",
        Some(Seat::Inside { supervised: false } | Seat::Outside) => "alone",
    }
}

fn store_word(store: &StoreHealth) -> String {
    match store {
        StoreHealth::Fresh => "reachable".to_owned(),
        StoreHealth::Unreachable { why, .. } => format!("unreachable: {why}"),
    }
}

fn initialize(cluster: &Cluster) -> Value {
    match cluster.initialize {
        ha_core::cluster::Initialize::Done(id) => json!(id.to_string()),
        ha_core::cluster::Initialize::Absent | ha_core::cluster::Initialize::Running => Value::Null,
    }
}

fn scheduled(cluster: &Cluster) -> Value {
    let request = cluster.failover.as_ref().map(|request| &request.value);
    let at = request.and_then(|request| schedule::unix_ms(request.scheduled_at.as_deref()?).ok());
    at.zip(request)
        .map_or(Value::Null, |(at, request)| json!({ "unix_ms": at, "from": request.leader, "to": request.member }))
}

/// Wall-clock time of a moment in the near past or future, for people.
fn unix_ms(moment: ha_core::clock::Tick) -> u64 {
    (clock::wall_ms() + moment.0).saturating_sub(clock::now().0)
}

fn lease(driver: &Driver) -> Value {
    let memory = driver.memory();
    json!({
        "lease": memory.lease.map(|lease| lease.id.to_string()),
        "session": memory.session.map(|session| session.to_string()),
        "deadline_unix_ms": memory.lease.map(|lease| unix_ms(lease.deadline())),
        "ttl_ms": memory.lease.map(|lease| lease.ttl.0),
        "fence_open": !crate::fence::closed(),
        "claimed_timeline": memory.claim.map(|timeline| timeline.0),
    })
}

fn members(driver: &Driver, cluster: &Cluster, local: &LocalView, seat: Option<Seat>) -> Value {
    let me = &driver.config().name;
    let positions = cluster.positions(me, &local.server);
    let newest = positions.values().copied().max().unwrap_or_default();
    let known = matches!(driver.store(), StoreHealth::Fresh);
    let here = driver.with_view(clock::now(), seat.unwrap_or(Seat::Inside { supervised: false }), local, |view| {
        own_obstacle(driver, view)
    });
    let row = |(name, member): (&NodeName, &std::sync::Arc<Member>)| {
        let leads = cluster.leads(name, member);
        let lsn = positions.get(name).copied();
        let lag = lsn.map(|at| newest.ahead_of(at));
        let obstacle = if name == me { here.clone() } else { obstacle(driver, cluster, member, lag) };
        json!({
            "member": name,
            "role": if leads { "leader" } else { member.role.as_str() },
            "state": state(member),
            "address": member.postgres_address().map(|address| host_port(&address)),
            "api_url": member.api_url,
            "timeline": member.timeline.map(|timeline| timeline.0),
            "lsn": lsn.map(|lsn| lsn.to_string()),
            "lag_bytes": if leads { None } else { lag },
            "tags": member.tags.all,
            "version": member.version,
            "ha_ext_version": member.ha_ext_version,
            "leads": leads,
            "known": known,
            "pending_restart": member.json.get("pending_restart").and_then(Value::as_bool).unwrap_or(false),
            "pending_restart_reason": member.json.get("pending_restart_reason"),
            "slot": name.slot_name(),
            "obstacle": obstacle,
            "priority": member.tags.failover_priority(),
        })
    };
    Value::Array(cluster.members.iter().map(row).collect())
}

fn state(member: &Member) -> &str {
    let replication = member.json.get("replication_state").and_then(Value::as_str);
    match replication {
        Some(replication) if member.state == "running" => replication,
        _ => &member.state,
    }
}

/// What this node's own rules say.
fn own_obstacle(driver: &Driver, view: &View<'_>) -> Option<String> {
    if matches!(view.local.server, Server::Primary(_)) && driver.memory().lease.is_some() {
        return None;
    }
    let obstacle = eligibility(driver.memory(), view).obstacle?;
    Some(obstacle.rule().sentence().to_owned())
}

/// The same from what a member publishes, for those we can only look at from outside.
fn obstacle(driver: &Driver, cluster: &Cluster, member: &Member, lag: Option<u64>) -> Option<String> {
    let settings = driver.settings();
    if member.tags.nofailover() {
        return Some("It is tagged nofailover.".to_owned());
    }
    if member.watchdog_failed() {
        return Some("A leader has to have a watchdog, and its own cannot be used.".to_owned());
    }
    if member.cannot_write() {
        return Some("Its disk cannot be written.".to_owned());
    }
    let system = match cluster.initialize {
        Initialize::Done(system) => Some(system),
        Initialize::Absent | Initialize::Running => None,
    };
    if let Some(theirs) = member.timeline.filter(|on| cluster.is_by_hand(*on, system)) {
        return Some(format!("It was promoted by hand to timeline {theirs} while another led."));
    }
    if member.state != "running" {
        return Some(format!("Its server is not running ({}).", member.state));
    }
    if let (Some(theirs), Some(ours)) = (member.timeline, cluster.history_timeline())
        && theirs < ours
    {
        return Some(format!("It is on timeline {theirs}, the cluster on {ours}."));
    }
    let limit = settings.maximum_lag_on_failover_bytes;
    lag.filter(|lag| *lag > limit).map(|lag| format!("It lags {lag} bytes behind, {limit} are allowed."))
}

fn history(cluster: &Cluster) -> Value {
    let row = |row: &ha_core::cluster::HistoryRow| {
        json!({
            "timeline": row.timeline.0,
            "lsn": row.switch_lsn.to_string(),
            "reason": row.reason,
            "at": row.at,
            "new_leader": row.new_leader,
        })
    };
    Value::Array(cluster.history.iter().map(row).collect())
}

fn events(driver: &Driver) -> Vec<Value> {
    let events: Vec<Value> = driver
        .events()
        .since(0)
        .map(|event| {
            json!({
                "number": event.number,
                "unix_ms": event.unix_ms,
                "kind": event.kind.as_str(),
                "code": event.code,
                "text": event.text,
            })
        })
        .collect();
    let skip = events.len().saturating_sub(EVENTS_SHOWN);
    events.into_iter().skip(skip).collect()
}

fn settings(driver: &Driver) -> Value {
    let row = |listed: &ha_core::config::Listed| {
        json!({
            "name": listed.name,
            "value": listed.value,
            "unit": listed.unit,
            "origin": listed.origin.as_str(),
        })
    };
    Value::Array(driver.config().listed().iter().map(row).collect())
}
