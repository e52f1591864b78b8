use super::*;
use crate::clock::{Millis, Tick};
use crate::cluster::{FailoverRequest, Versioned};
use crate::config::Config;
use crate::dcs::{Expect, Key, RawCluster, RawKey};
use crate::ids::{LeaseId, Lsn, NodeName, SystemId, Timeline};
use crate::lease::Lease;
use crate::local::{
    Control, ControlState, DataDir, LocalView, PrimaryView, Receiver, Server, StandbyConnection, StandbyView, Upstream,
};
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
        sealed: false,
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

const HEALTH_PATHS: &[&str] = &[
    "/",
    "/primary",
    "/read-write",
    "/master",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/read-only",
    "/sync",
    "/synchronous",
    "/quorum",
    "/async",
    "/asynchronous",
    "/read-only-sync",
    "/read-only-synchronous",
    "/read-only-quorum",
    "/health",
    "/healthz",
    "/primary/foo",
    "/my-leader",
    "/nonsense",
];

#[test]
fn health_of_a_leader() {
    let good = "/ /primary /read-write /master /leader /read-only /read-only-sync /read-only-synchronous \
                /read-only-quorum /health /healthz /primary/foo /my-leader";
    let good: Vec<&str> = good.split_whitespace().collect();
    let expect = |path: &&str| format!("{} {path}", if good.contains(path) { 200 } else { 503 });
    let expected: Vec<String> = HEALTH_PATHS.iter().map(expect).collect();
    assert_eq!(statuses(&primary(), live(5000), HEALTH_PATHS), expected.join("\n"));
}

#[test]
fn health_of_a_standby() {
    let good: Vec<&str> = "/replica /read-only /async /asynchronous /health /healthz".split_whitespace().collect();
    let expect = |path: &&str| format!("{} {path}", if good.contains(path) { 200 } else { 503 });
    let expected: Vec<String> = HEALTH_PATHS.iter().map(expect).collect();
    assert_eq!(statuses(&standby(), live(0), HEALTH_PATHS), expected.join("\n"));
}

#[test]
fn a_primary_is_one_only_until_its_deadline() {
    let paths = &["/primary", "/leader", "/replica", "/read-only", "/health", "/readiness"];
    let none = "503 /primary\n503 /leader\n503 /replica\n503 /read-only\n200 /health\n503 /readiness";
    let mut snapshot = primary();
    assert_eq!(statuses(&snapshot, live(1), &["/primary", "/readiness"]), "200 /primary\n200 /readiness");
    assert_eq!(statuses(&snapshot, live(0), paths), none);
    let fenced = LiveNow { lease_deadline: Tick(0), ..live(0) };
    assert_eq!(statuses(&snapshot, fenced, paths), none);

    snapshot.memory.stage = Stage::Demoting { candidate: None, release: true, since: Tick(0), down_since: None };
    assert_eq!(statuses(&snapshot, live(5000), paths), none);
    snapshot.memory.stage = Stage::Preparing {
        request: Revision(1),
        candidate: NodeName::new("pg2"),
        since: Tick(0),
        checkpoint_after: Lsn(0),
    };
    assert_eq!(statuses(&snapshot, live(5000), &["/primary"]), "200 /primary");

    let mut snapshot = primary();
    snapshot.memory.lease = None;
    assert_eq!(statuses(&snapshot, live(5000), paths), none);

    let mut snapshot = primary();
    snapshot.cluster = standby().cluster;
    assert_eq!(statuses(&snapshot, live(5000), paths), none);
}

#[test]
fn a_server_that_may_not_acknowledge_shows_no_location() {
    let body = |snapshot: &Snapshot, live| {
        serde_json::from_str::<Value>(&at_once(snapshot, live, "GET", "/patroni").body).expect("JSON")
    };
    for value in [body(&primary(), live(0)), body(&primary(), LiveNow { lease_deadline: Tick(0), ..live(0) })] {
        assert_eq!((&value["role"], &value["state"]), (&json!("demoted"), &json!("running")));
        assert_eq!((value.get("xlog"), value.get("timeline")), (None, None));
    }
    let mut starting = snapshot(Server::Starting { since: Tick(0) });
    starting.memory.lease = Some(lease());
    assert_eq!(body(&starting, live(0))["role"], "primary");
    starting.memory.lease = Some(Lease::confirmed(LeaseId(7), Revision(5), Tick(0), Millis(30_000)));
    assert_eq!(body(&starting, live(0))["role"], "demoted");
    let down = snapshot(Server::Down);
    let value = body(&down, live(0));
    assert_eq!((&value["state"], value.get("xlog")), (&json!("stopped"), None));
}

#[test]
fn the_body_of_a_leader() {
    let reply = at_once(&primary(), live(5000), "GET", "/patroni");
    assert_eq!((reply.status, reply.content_type.as_deref()), (200, Some("application/json")));
    let expected = concat!(
        r#"{"state": "running", "postmaster_start_time": "2024-08-28 19:39:26.352526+00:00", "role": "primary", "#,
        r#""server_version": 150020, "xlog": {"location": 67395656}, "timeline": 2, "#,
        r#""replication": [{"usename": "repl", "application_name": "pg2", "client_addr": null, "state": "streaming", "#,
        r#""sync_state": "async", "sync_priority": 0}], "dcs_last_seen": 1799999999, "#,
        r#""tags": {"clonefrom": true, "zone": "A"}, "database_system_identifier": "7400000000000000001", "#,
        r#""patroni": {"version": "4.1.4", "scope": "demo", "name": "pg1"}, "#,
        r#""ha_ext": {"version": "0.1.0", "rule": "leader.leading", "#,
        r#""reason": "This node holds the lease and leads.", "lease_remaining_ms": 5000}}"#
    );
    assert_eq!(reply.body, expected);
    assert_eq!(at_once(&primary(), live(5000), "GET", "/replica").body, expected);
}

#[test]
fn the_body_of_a_standby() {
    let mut snapshot = standby();
    snapshot.settings.pause = true;
    let body = at_once(&snapshot, live(0), "GET", "/patroni").body;
    let expected = concat!(
        r#"{"state": "running", "postmaster_start_time": "2024-08-28 19:39:26.352526+00:00", "role": "replica", "#,
        r#""server_version": 150020, "xlog": {"received_location": 67395656, "replayed_location": 67394632, "#,
        r#""replayed_timestamp": "2026-01-01 00:00:00.5+00:00", "paused": false}, "timeline": 2, "#,
        r#""replication_state": "streaming", "pause": true, "dcs_last_seen": 1799999999, "#,
    );
    assert!(body.starts_with(expected), "{body}");
}

#[test]
fn lag_tags_and_state_of_a_replica() {
    let snapshot = standby();
    let paths = &[
        "/replica?lag=1kB",
        "/replica?lag=1023",
        "/replica?lag=nonsense",
        "/async?lag=0",
        "/replica?tag_zone=A",
        "/replica?tag_zone=B",
        "/replica?tag_clonefrom=true",
        "/replica?tag_other=x",
        "/read-only?tag_zone=B",
        "/health?tag_zone=B",
        "/replica?replication_state=streaming",
        "/replica?replication_state=x",
        "/readiness",
        "/readiness?lag=100",
        "/readiness?lag=100&mode=write",
    ];
    let expected = [200, 503, 200, 503, 200, 503, 200, 503, 503, 503, 200, 503, 200, 503, 200];
    let expected: Vec<String> = paths.iter().zip(expected).map(|(path, status)| format!("{status} {path}")).collect();
    assert_eq!(statuses(&snapshot, live(0), paths), expected.join("\n"));
    // They do not count for the leader.
    assert_eq!(statuses(&primary(), live(5000), &["/primary?tag_zone=B&lag=0"]), "200 /primary?tag_zone=B&lag=0");

    let mut snapshot = standby();
    snapshot.settings.tags.all.insert("noloadbalance".to_owned(), json!(true));
    assert_eq!(statuses(&snapshot, live(0), &["/replica", "/health"]), "503 /replica\n200 /health");
}

#[test]
fn a_standby_that_is_not_known_to_belong_to_the_cluster_serves_no_reads() {
    let mut snapshot = standby();
    let Server::Standby(view) = &mut snapshot.local.server else { panic!("a standby") };
    view.upstream = None;
    assert_eq!(statuses(&snapshot, live(0), &["/replica"]), "503 /replica");
    snapshot.memory.voting_since = Some(Tick(1));
    assert_eq!(statuses(&snapshot, live(0), &["/replica"]), "200 /replica");
    let Server::Standby(view) = &mut snapshot.local.server else { panic!("a standby") };
    view.consistent = false;
    assert_eq!(statuses(&snapshot, live(0), &["/replica"]), "503 /replica");
}

#[test]
fn an_old_view_of_the_cluster_says_nothing_about_synchrony() {
    let mut snapshot = standby();
    snapshot.cluster_fresh = false;
    assert_eq!(statuses(&snapshot, live(0), &["/async", "/replica"]), "200 /async\n200 /replica");
    snapshot.dcs_last_seen_unix_s -= 60;
    assert_eq!(
        statuses(&snapshot, live(0), &["/async", "/replica", "/readiness"]),
        "503 /async\n200 /replica\n503 /readiness"
    );
    let body = at_once(&snapshot, live(0), "GET", "/patroni").body;
    assert!(body.contains(r#""cluster_unlocked": true"#), "{body}");
}

#[test]
fn head_and_options_give_a_status_alone() {
    for method in ["HEAD", "OPTIONS"] {
        for (path, status) in [
            ("/primary", 200),
            ("/replica", 503),
            ("/liveness", 503),
            ("/readiness", 503),
            ("/metrics", 503),
            ("/patroni", 503),
            ("/cluster", 503),
            ("/health", 200),
        ] {
            assert_eq!(at_once(&primary(), live(5000), method, path), Reply::bare(status), "{method} {path}");
        }
    }
}

#[test]
fn liveness_follows_the_loop() {
    let alive = |snapshot: &Snapshot, late_ms: u64| {
        let live = LiveNow { now: Tick(snapshot.next_tick_by.0 + late_ms), ..live(0) };
        at_once(snapshot, live, "GET", "/liveness")
    };
    assert_eq!(alive(&primary(), 29_999), Reply::bare(200));
    assert_eq!(alive(&primary(), 30_000), Reply::bare(503));
    assert_eq!(alive(&standby(), 59_999), Reply::bare(200));
    assert_eq!(alive(&standby(), 60_000), Reply::bare(503));
    let mut paused = primary();
    paused.settings.pause = true;
    assert_eq!(alive(&paused, 1_000_000), Reply::bare(200));
}

#[test]
fn the_cluster() {
    let mut cluster = cluster();
    cluster.failover = Some(Versioned {
        value: FailoverRequest {
            leader: Some(NodeName::new("pg1")),
            member: Some(NodeName::new("pg3")),
            scheduled_at: Some("2027-01-01T00:00:00+00:00".to_owned()),
        },
        revision: Revision(1),
    });
    if let Some(config) = &mut cluster.config {
        config.value["pause"] = json!("on");
    }
    let answer = fresh(&primary(), &cluster, "GET", "/cluster", "");
    let expected = concat!(
        r#"{"members": [{"name": "pg1", "role": "leader", "state": "running", "api_url": "http://10.0.0.1:8008/patroni", "host": "10.0.0.1", "port": 5432, "timeline": 2}, "#,
        r#"{"name": "pg2", "role": "replica", "state": "streaming", "api_url": "http://10.0.0.2:8008/patroni", "host": "10.0.0.2", "port": 5433, "timeline": 2, "tags": {"nofailover": true}, "#,
        r#""receive_lsn": "0/4046048", "receive_lag": 0, "replay_lsn": "0/4046010", "replay_lag": 56, "lsn": "0/4046010", "lag": 56}, "#,
        r#"{"name": "pg3", "role": "replica", "state": "stopped", "api_url": "http://[fd00::3]:8008/patroni", "host": "fd00::3", "port": 5432, "#,
        r#""receive_lsn": "unknown", "receive_lag": "unknown", "replay_lsn": "unknown", "replay_lag": "unknown", "lsn": "unknown", "lag": "unknown"}], "#,
        r#""pause": true, "scheduled_switchover": {"at": "2027-01-01T00:00:00+00:00", "from": "pg1", "to": "pg3"}, "scope": "demo"}"#
    );
    assert_eq!(refused(answer), (200, expected.to_owned()));
    let answer = after_fresh(&Question::Cluster, Err("timeout"), &primary());
    assert_eq!(refused(answer), (503, "the store cannot be read: timeout".to_owned()));
}

#[test]
fn history_and_configuration() {
    let history = at_once(&primary(), live(0), "GET", "/history").body;
    assert_eq!(history, r#"[[1, 25165984, "no recovery target specified", "2026-01-01T00:00:00+00:00", "pg1"]]"#);
    let config = at_once(&primary(), live(0), "GET", "/config").body;
    assert_eq!(config, r#"{"postgresql": {"use_pg_rewind": true}, "ttl": 30}"#);
    let mut snapshot = primary();
    snapshot.cluster = Some(Arc::new(Cluster::default()));
    assert_eq!(at_once(&snapshot, live(0), "GET", "/history").body, "[]");
    assert_eq!(at_once(&snapshot, live(0), "GET", "/config").status, 502);
    assert_eq!(at_once(&snapshot, live(0), "GET", "/failsafe").status, 502);
    snapshot.cluster = None;
    let answer = route(&request("GET", "/config", None), Some(&snapshot), live(0));
    assert_eq!(answer, Answer::Fresh(Question::Config));
}

#[test]
fn patching_the_configuration() {
    let patch = |body: &str| fresh(&primary(), &cluster(), "PATCH", "/config", body);
    let Answer::Write { edit, then } = patch(r#"{"ttl":20,"postgresql":{"use_pg_rewind":null}}"#) else {
        panic!("a write")
    };
    assert_eq!((edit.key, edit.expect, edit.leased), (Key::Config, Expect::Unchanged(Revision(11)), false));
    assert_eq!(edit.value.as_deref(), Some(r#"{"postgresql":{},"ttl":20}"#));
    let reply = |outcome: &DcsReply| refused(after_write(then.clone(), outcome));
    assert_eq!(reply(&DcsReply::Written(Revision(50))), (200, r#"{"postgresql": {}, "ttl": 20}"#.to_owned()));
    assert_eq!(reply(&DcsReply::Conflict).0, 409);
    assert_eq!(reply(&DcsReply::Unknown("timeout".to_owned())).0, 502);
    // What changes nothing is not written.
    assert_eq!(refused(patch(r#"{"ttl":"30"}"#)).0, 200);
    let (status, text) = refused(patch(r#"{"ttl":"soon"}"#));
    assert_eq!(status, 400);
    assert!(text.starts_with("nothing was changed\nttl: expected a time"), "{text}");
    let answer = fresh(&primary(), &Cluster::default(), "PATCH", "/config", r#"{"ttl":20}"#);
    assert_eq!(refused(answer).0, 503);

    let put = |cluster: &Cluster, body: &str| fresh(&primary(), cluster, "PUT", "/config", body);
    let Answer::Write { edit, .. } = put(&Cluster::default(), r#"{"ttl":20}"#) else { panic!("a write") };
    assert_eq!(edit.expect, Expect::Absent);
    assert_eq!(refused(put(&cluster(), r#"{"tttl":20}"#)).0, 400);
}

#[test]
fn bodies_that_make_no_sense() {
    let status = |method: &str, path: &str, body: Option<&str>| {
        refused(route(&request(method, path, body), Some(&primary()), live(0))).0
    };
    assert_eq!(status("PATCH", "/config", None), 411);
    for body in ["", "{", "[]", "{}", "5", "\u{0}"] {
        assert_eq!(status("PATCH", "/config", Some(body)), 400, "{body}");
        assert_eq!(status("POST", "/switchover", Some(body)), 400, "{body}");
    }
}

#[test]
fn what_is_not_supported_says_so_in_patronis_words() {
    for (method, path) in [
        ("POST", "/nonsense"),
        ("POST", "/config"),
        ("DELETE", "/config"),
        ("POST", "/restart"),
        ("POST", "/reload"),
        ("POST", "/reinitialize"),
        ("POST", "/failsafe"),
        ("DELETE", "/restart"),
        ("PUT", "/x"),
        ("TRACE", "/"),
    ] {
        let reply = at_once(&primary(), live(0), method, path);
        assert_eq!(reply.status, 501, "{method} {path}");
        assert!(reply.body.contains("Server does not support this operation"));
    }
}

#[test]
fn whoever_changes_something_must_be_known() {
    let mut snapshot = primary();
    snapshot.config = Arc::new(config(&json!({"authentication": {"username": "u", "password": "p"}})));
    let status = |method, path, authorization| {
        let request = Request { authorization, ..request(method, path, Some("{\"ttl\":20}")) };
        match route(&request, Some(&snapshot), live(5000)) {
            Answer::Now(reply) => reply.status,
            _ => 0,
        }
    };
    for (method, path) in [
        ("PATCH", "/config"),
        ("PUT", "/config"),
        ("POST", "/switchover"),
        ("POST", "/failover"),
        ("DELETE", "/switchover"),
    ] {
        assert_eq!(status(method, path, None), 401, "{method} {path}");
        assert_eq!(status(method, path, Some("Basic eDp5")), 401, "{method} {path}");
        assert_eq!(status(method, path, Some("Basic dTpw")), 0, "{method} {path}");
    }
    assert_eq!(status("GET", "/primary", None), 200);
    assert_eq!(status("GET", "/config", None), 200);
}

#[test]
fn before_the_first_tick_there_is_no_answer() {
    assert_eq!(refused(route(&request("GET", "/health", None), None, live(0))).0, 503);
}

fn switchover(cluster: &Cluster, path: &str, body: &str) -> Answer {
    fresh(&primary(), cluster, "POST", path, body)
}

/// The cluster with pg2 allowed to lead.
fn willing() -> Cluster {
    let mut cluster = cluster();
    for member in cluster.members.values_mut() {
        member.tags = crate::tags::Tags::default();
    }
    cluster
}

#[test]
fn switchovers_that_are_refused_change_nothing() {
    let mut paused = willing();
    if let Some(config) = &mut paused.config {
        config.value["pause"] = json!(true);
    }
    let cases = [
        (
            &willing(),
            "/switchover",
            r#"{"candidate":"pg2"}"#,
            400,
            "Switchover could be performed only from a specific leader",
        ),
        (
            &willing(),
            "/failover",
            r#"{"leader":"pg1"}"#,
            400,
            "Failover could be performed only to a specific candidate",
        ),
        (
            &willing(),
            "/failover",
            r#"{"candidate":"pg2","scheduled_at":"2027-01-01T00:00:00+00:00"}"#,
            400,
            "Failover can't be scheduled",
        ),
        (
            &willing(),
            "/switchover",
            r#"{"leader":"pg1","scheduled_at":"2027-01-01T00:00:00+00:00"}"#,
            501,
            "Scheduled switchovers are not built yet: ask again without scheduled_at when it is time. Nothing was changed.",
        ),
        (
            &paused,
            "/switchover",
            r#"{"leader":"pg1","scheduled_at":"2027-01-01T00:00:00+00:00"}"#,
            400,
            "Can't schedule switchover in the paused state",
        ),
        (
            &paused,
            "/switchover",
            r#"{"leader":"pg1"}"#,
            400,
            "Switchover is possible only to a specific candidate in a paused state",
        ),
        (
            &willing(),
            "/switchover",
            r#"{"leader":"pg1","candidate":"pg1"}"#,
            400,
            "Switchover target and source are the same",
        ),
        (&willing(), "/switchover", r#"{"leader":"pg2","candidate":"pg1"}"#, 412, "leader name does not match"),
        (&willing(), "/switchover", r#"{"leader":"pg1","candidate":"pg9"}"#, 412, "candidate does not exists"),
        (&willing(), "/switchover", r#"{"leader":5,"candidate":"pg9"}"#, 400, "leader and candidate must be names"),
        (&willing(), "/failover", r#"{"candidate":"pg1"}"#, 412, "failover is not possible: pg1 is the leader already"),
        (
            &cluster(),
            "/switchover",
            r#"{"leader":"pg1","candidate":"pg2"}"#,
            412,
            "switchover is not possible: no good candidates have been found",
        ),
        (
            &cluster(),
            "/switchover",
            r#"{"leader":"pg1"}"#,
            412,
            "switchover is not possible: no good candidates have been found",
        ),
    ];
    for (cluster, path, body, status, text) in cases {
        assert_eq!(refused(switchover(cluster, path, body)), (status, text.to_owned()), "{path} {body}");
    }
    let mut alone = willing();
    alone.members.retain(|name, _| name.as_str() == "pg1");
    let answer = switchover(&alone, "/switchover", r#"{"leader":"pg1"}"#);
    assert_eq!(
        refused(answer),
        (412, "switchover is not possible: cluster does not have members except leader".to_owned())
    );
}

#[test]
fn a_switchover_is_written_and_awaited() {
    let mut cluster = willing();
    let Answer::Write { edit, then } =
        switchover(&cluster, "/switchover", r#"{"leader":"pg1","member":"pg2","scheduled_at":null}"#)
    else {
        panic!("a write")
    };
    assert_eq!((edit.key, edit.expect), (Key::Failover, Expect::Absent));
    assert_eq!(edit.value.as_deref(), Some(r#"{"leader":"pg1","member":"pg2"}"#));
    // An emptied key is replaced.
    cluster.failover_revision = Some(Revision(33));
    let Answer::Write { edit, .. } = switchover(&cluster, "/failover", r#"{"candidate":"pg2"}"#) else {
        panic!("a write")
    };
    assert_eq!(edit.expect, Expect::Unchanged(Revision(33)));
    assert_eq!(edit.value.as_deref(), Some(r#"{"member":"pg2"}"#));

    assert_eq!(
        refused(after_write(then.clone(), &DcsReply::Conflict)),
        (503, "failed to write failover key into DCS".to_owned())
    );
    let Answer::AwaitSwitchover(wait) = after_write(then, &DcsReply::Written(Revision(41))) else { panic!("a wait") };
    assert_eq!(wait.limit_ms, 20_000);

    let at = |revision, leader: Option<&str>, asked: bool| {
        let mut cluster = willing();
        cluster.revision = Revision(revision);
        cluster.leader = leader.map(|name| crate::cluster::LeaderKey {
            name: NodeName::new(name),
            ..cluster.leader.clone().expect("a leader")
        });
        cluster.failover = asked.then(|| Versioned { value: FailoverRequest::default(), revision: Revision(41) });
        cluster
    };
    let result = |cluster: &Cluster, rejected: Option<&(Revision, String)>| {
        wait.result(cluster, rejected).map(|r| (r.status, r.body))
    };
    assert_eq!(result(&at(40, Some("pg1"), false), None), None, "an older view");
    assert_eq!(result(&at(41, Some("pg1"), true), None), None);
    assert_eq!(result(&at(42, None, true), None), None);
    assert_eq!(
        result(&at(43, Some("pg2"), true), None),
        Some((200, "Successfully switched over to \"pg2\"".to_owned()))
    );
    assert_eq!(
        result(&at(43, Some("pg3"), false), None),
        Some((200, "Switched over to \"pg3\" instead of \"pg2\"".to_owned()))
    );
    assert_eq!(result(&at(43, Some("pg1"), false), None), Some((503, "Switchover failed".to_owned())));
    let reason = (Revision(41), "pg2 lags".to_owned());
    assert_eq!(
        result(&at(43, Some("pg1"), false), Some(&reason)),
        Some((503, "Switchover failed: pg2 lags".to_owned()))
    );
    let older = (Revision(9), "old".to_owned());
    assert_eq!(result(&at(43, Some("pg1"), false), Some(&older)), Some((503, "Switchover failed".to_owned())));
    assert_eq!(wait.timed_out().body, "Switchover status unknown");
}

#[test]
fn a_scheduled_switchover_can_be_taken_back() {
    let mut cluster = willing();
    assert_eq!(
        refused(fresh(&primary(), &cluster, "DELETE", "/switchover", "")),
        (404, "no switchover is scheduled".to_owned())
    );
    let value =
        FailoverRequest { scheduled_at: Some("2027-01-01T00:00:00+00:00".to_owned()), ..FailoverRequest::default() };
    cluster.failover = Some(Versioned { value, revision: Revision(12) });
    let Answer::Write { edit, then } = fresh(&primary(), &cluster, "DELETE", "/switchover", "") else {
        panic!("a write")
    };
    assert_eq!((edit.value.as_deref(), edit.expect), (Some("{}"), Expect::Unchanged(Revision(12))));
    assert_eq!(
        refused(after_write(then, &DcsReply::Written(Revision(13)))),
        (200, "scheduled switchover deleted".to_owned())
    );
}

#[test]
fn metrics_of_a_leader() {
    let reply = at_once(&primary(), live(5000), "GET", "/metrics");
    assert_eq!((reply.status, reply.content_type.as_deref()), (200, Some("text/plain")));
    assert_eq!(reply.body, include_str!("metrics_of_a_leader.txt"));
}

#[test]
fn metrics_of_a_standby() {
    let body = at_once(&standby(), live(0), "GET", "/metrics").body;
    for line in [
        "patroni_primary{scope=\"demo\",name=\"pg1\"} 0",
        "patroni_replica{scope=\"demo\",name=\"pg1\"} 1",
        "patroni_xlog_location{scope=\"demo\",name=\"pg1\"} 0",
        "patroni_xlog_received_location{scope=\"demo\",name=\"pg1\"} 67395656",
        "patroni_xlog_replayed_location{scope=\"demo\",name=\"pg1\"} 67394632",
        "patroni_xlog_replayed_timestamp{scope=\"demo\",name=\"pg1\"} 1767225600.5",
        "patroni_postgres_streaming{scope=\"demo\",name=\"pg1\"} 1",
        "ha_ext_lease_remaining_seconds{scope=\"demo\",name=\"pg1\"} 0.000",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is not in\n{body}");
    }
    let down = at_once(&snapshot(Server::Down), live(0), "GET", "/metrics").body;
    assert!(down.contains("patroni_postgres_state{scope=\"demo\",name=\"pg1\"} 12\n"), "{down}");
}
