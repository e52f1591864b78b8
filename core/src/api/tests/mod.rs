//! A leader, a standby, and what they answer.

mod change;
mod health;
mod status;
mod switchover;

use super::*;
use crate::clock::{Millis, Tick};
use crate::cluster::{FailoverRequest, Versioned};
use crate::config::Config;
use crate::dcs::{Expect, Key, RawCluster, RawKey};
use crate::ids::{LeaseId, Lsn, NodeName, SystemId, Timeline};
use crate::lease::Lease;
use crate::local::{
    Control, ControlState, DataDir, InPlace, LocalView, PendingSetting, PrimaryView, Receiver, Seal, Server,
    StandbyConnection, StandbyView, Upstream,
};
use crate::member::Identity;
use crate::memory::{Memory, Stage};
use crate::rule::Rule;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

const NOW: Tick = Tick(1_000_000);

fn live(lease_remaining_ms: u64) -> LiveNow {
    LiveNow { now: NOW, lease_deadline: Tick(NOW.0 + lease_remaining_ms), unix_ms: 1_800_000_000_000 }
}

fn lease() -> Lease {
    Lease::confirmed(LeaseId(7), Revision(5), Tick(NOW.0 - 1000), Millis(30_000))
}

fn config(restapi: &Value) -> Config {
    let mut local = json!({
        "scope": "demo", "name": "pg1",
        "restapi": {"listen": "10.0.0.1:8008"},
        "etcd3": {"host": "127.0.0.1:2379"},
        "tags": {"clonefrom": true, "zone": "A"},
        "postgresql": {
            "listen": "10.0.0.1:5432", "data_dir": "/d/pg1",
            "authentication": {"replication": {"username": "repl"}}
        }
    });
    if let (Some(into), Some(from)) = (local["restapi"].as_object_mut(), restapi.as_object()) {
        into.extend(from.clone());
    }
    Config::from_layers(&local, &BTreeMap::new(), None).expect("a good configuration").0
}

fn cluster() -> Cluster {
    let key = |value: &str| RawKey {
        version: 1,
        value: value.to_owned(),
        created: Revision(5),
        modified: Revision(11),
        lease: Some(LeaseId(7)),
    };
    let keys = [
        ("leader", "pg1"),
        ("initialize", "7400000000000000001"),
        ("config", r#"{"ttl":30,"postgresql":{"use_pg_rewind":true}}"#),
        ("status", r#"{"optime":67395656}"#),
        ("history", r#"[[1,25165984,"no recovery target specified","2026-01-01T00:00:00+00:00","pg1"]]"#),
        (
            "members/pg1",
            r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"primary","version":"4.1.4","xlog_location":67395656,"timeline":2}"#,
        ),
        (
            "members/pg2",
            r#"{"conn_url":"postgres://10.0.0.2:5433/postgres","api_url":"http://10.0.0.2:8008/patroni","state":"running","role":"replica","version":"4.1.4","xlog_location":67395600,"receive_lsn":67395656,"replay_lsn":67395600,"replication_state":"streaming","timeline":2,"tags":{"nofailover":true}}"#,
        ),
        (
            "members/pg3",
            r#"{"conn_url":"postgres://[fd00::3]:5432/postgres","api_url":"http://[fd00::3]:8008/patroni","state":"stopped","role":"replica","version":"4.1.4"}"#,
        ),
    ];
    let keys = keys.iter().map(|(path, value)| ((*path).to_owned(), key(value))).collect();
    crate::parse::cluster(&RawCluster { revision: Revision(40), keys })
}

fn snapshot(server: Server) -> Snapshot {
    let config = Arc::new(config(&json!({})));
    let leading = matches!(server, Server::Primary(_));
    Snapshot {
        settings: config.settings(),
        config,
        last_good_dynamic: None,
        local: LocalView {
            data: DataDir::Present(Control {
                system_id: SystemId(7_400_000_000_000_000_001),
                state: ControlState::InProduction,
                timeline: Timeline(2),
                checkpoint: Lsn(1),
                min_recovery_point: Lsn(0),
                min_recovery_timeline: Timeline(0),
                can_be_rewound: true,
                backup_label: false,
            }),
            server,
            marker: None,
            history: Vec::new(),
            step_running: None,
            cannot_write: None,
            history_at: None,
            pending_restart: BTreeMap::new(),
            founding: false,
            watchdog: crate::watchdog::WatchdogView::default(),
            kept_ttl: crate::clock::Millis(0),
        },
        memory: Memory { lease: leading.then(lease), ..Memory::default() },
        cluster: Some(Arc::new(cluster())),
        cluster_fresh: true,
        dcs_last_seen_unix_s: 1_799_999_999,
        server: ServerFacts { version_num: 150_020, started_at_unix_us: Some(1_724_873_966_352_526) },
        rule: Rule::LeaderLeading,
        ticked_at: Tick(NOW.0 - 250),
        next_tick_by: Tick(NOW.0 + 9_750),
    }
}

fn primary() -> Snapshot {
    let standby = StandbyConnection {
        slot: "pg2".to_owned(),
        streaming: true,
        flushed: Lsn(67_395_656),
        replayed: Lsn(67_395_600),
    };
    snapshot(Server::Primary(PrimaryView {
        timeline: Timeline(2),
        flushed: Lsn(67_395_656),
        checkpointed: true,
        checkpoint_redo: Lsn(1),
        standbys: vec![standby],
        fence_open: true,
        fence_until: Tick(0),
        fence_unbound: false,
        seal: Seal::Open,
        in_place: InPlace::default(),
        archive_waiting: false,
    }))
}

fn standby() -> Snapshot {
    let upstream = Upstream {
        name: NodeName::new("pg2"),
        address: crate::cluster::Address { host: "10.0.0.2".to_owned(), port: 5433 },
        slot: Some("pg1".to_owned()),
    };
    let mut out = snapshot(Server::Standby(StandbyView {
        timeline: Timeline(2),
        received: Lsn(67_395_656),
        replayed: Lsn(67_394_632),
        receiver: Receiver::Streaming,
        upstream: Some(upstream),
        replayed_at: Some("2026-01-01 00:00:00.5+00:00".to_owned()),
        consistent: true,
        ..StandbyView::default()
    }));
    let mut cluster = cluster();
    if let Some(leader) = &mut cluster.leader {
        leader.name = NodeName::new("pg2");
    }
    out.cluster = Some(Arc::new(cluster));
    out.rule = Rule::StandbyFollowing;
    out
}

fn request<'a>(method: &'a str, target: &'a str, body: Option<&'a str>) -> Request<'a> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request { method, path, query, authorization: None, body: body.map(str::as_bytes) }
}

fn at_once(snapshot: &Snapshot, live: LiveNow, method: &str, target: &str) -> Reply {
    match route(&request(method, target, None), Some(snapshot), live) {
        Answer::Now(reply) => reply,
        other => panic!("{method} {target}: {other:?}"),
    }
}

/// The statuses of `GET` for each path.
fn statuses(snapshot: &Snapshot, live: LiveNow, paths: &[&str]) -> String {
    let each = |path: &&str| format!("{} {path}", at_once(snapshot, live, "GET", path).status);
    paths.iter().map(each).collect::<Vec<_>>().join("\n")
}

/// The answer to a request that reads the cluster first.
fn fresh(snapshot: &Snapshot, cluster: &Cluster, method: &str, target: &str, body: &str) -> Answer {
    match route(&request(method, target, Some(body)), Some(snapshot), live(5000)) {
        Answer::Fresh(question) => after_fresh(&question, Ok(cluster), snapshot),
        other => panic!("{method} {target}: {other:?}"),
    }
}

fn refused(answer: Answer) -> (u16, String) {
    match answer {
        Answer::Now(reply) => (reply.status, reply.body),
        other => panic!("{other:?}"),
    }
}
