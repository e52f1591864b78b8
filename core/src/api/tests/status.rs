use super::*;
use crate::failsafe::Reply as Decided;

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
fn a_standby_that_is_not_ready_says_what_it_is() {
    let body = |snapshot: &Snapshot| at_once(snapshot, live(0), "GET", "/patroni").body;
    let mut snapshot = standby();
    assert!(!body(&snapshot).contains("in_recovery"));
    if let Server::Standby(standby) = &mut snapshot.local.server {
        standby.consistent = false;
    }
    assert!(body(&snapshot).contains(r#""in_recovery": true"#), "{}", body(&snapshot));
    if let Server::Standby(standby) = &mut snapshot.local.server {
        standby.promoting = true;
    }
    assert!(!body(&snapshot).contains("in_recovery"), "nothing takes a promotion back");
}

#[test]
fn a_standby_that_has_won_the_lease_says_so() {
    let body = |snapshot: &Snapshot| at_once(snapshot, live(0), "GET", "/patroni").body;
    let mut snapshot = standby();
    assert!(!body(&snapshot).contains("holds_lease"));
    snapshot.memory.lease = Some(lease());
    snapshot.cluster_fresh = false;
    assert!(body(&snapshot).contains(r#""holds_lease": true"#), "{}", body(&snapshot));
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
fn what_waits_for_a_restart_is_named() {
    let mut snapshot = standby();
    let setting = PendingSetting { old_value: "100".to_owned(), new_value: "110".to_owned() };
    snapshot.local.pending_restart.insert("max_connections".to_owned(), setting);
    let body = at_once(&snapshot, live(0), "GET", "/patroni").body;
    let expected = concat!(
        r#""database_system_identifier": "7400000000000000001", "pending_restart": true, "#,
        r#""pending_restart_reason": {"max_connections": {"new_value": "110", "old_value": "100"}}, "patroni": "#,
    );
    assert!(body.contains(expected), "{body}");
    let metrics = at_once(&snapshot, live(0), "GET", "/metrics").body;
    assert!(metrics.contains("patroni_pending_restart{scope=\"demo\",name=\"pg1\"} 1\n"), "{metrics}");
    let record = crate::member::record(&Identity::default(), &snapshot.settings, &snapshot.local, &snapshot.memory);
    assert_eq!(record["pending_restart"], true);
    assert_eq!(record["pending_restart_reason"]["max_connections"]["new_value"], "110");
}

#[test]
fn the_cluster() {
    let mut cluster = cluster();
    cluster.failover = Some(Versioned {
        value: FailoverRequest {
            leader: Some(NodeName::new("pg1")),
            member: Some(NodeName::new("pg3")),
            scheduled_at: Some("2027-01-01T00:00:00+00:00".to_owned()),
            due: None,
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
    let mut in_recovery = cluster.clone();
    let member = in_recovery.members.get_mut(&NodeName::new("pg1")).expect("there");
    std::sync::Arc::make_mut(member).role = "replica".to_owned();
    let (_, body) = refused(fresh(&primary(), &in_recovery, "GET", "/cluster", ""));
    assert!(!body.contains("leader"), "the key alone makes no primary: {body}");
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

#[test]
fn who_is_asked_while_the_store_is_out_of_reach() {
    let mut snapshot = standby();
    snapshot.settings.failsafe_mode = true;
    assert_eq!(at_once(&snapshot, live(0), "GET", "/failsafe").body, "{}");
    let value = [(NodeName::new("pg1"), "http://10.0.0.1:8008/patroni".to_owned())].into();
    snapshot.memory.failsafe.map = Some(Arc::new(Versioned { value, revision: Revision(5) }));
    let reply = at_once(&snapshot, live(0), "GET", "/failsafe");
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"pg1":"http://10.0.0.1:8008/patroni"}"#));
    snapshot.settings.failsafe_mode = false;
    assert_eq!(at_once(&snapshot, live(0), "GET", "/failsafe").status, 502);
}

#[test]
fn a_leader_asks_and_is_told_in_patronis_words_and_ours() {
    let asked = |body: &str| route(&request("POST", "/failsafe", Some(body)), Some(&standby()), live(0));
    let pg2 = |created| Answer::Promise(Asking { from: NodeName::new("pg2"), created });
    assert_eq!(asked(r#"{"name":"pg2","conn_url":"","api_url":"","slots":{"pg1":5}}"#), pg2(None));
    assert_eq!(asked(r#"{"name":"pg2","ha_ext":{"created":70}}"#), pg2(Some(Revision(70))));
    assert_eq!(asked(r#"{"name":"pg2","ha_ext":{"created":70,"scope":"demo","to":"pg1"}}"#), pg2(Some(Revision(70))));
    for other in [r#"{"name":"pg2","ha_ext":{"scope":"demo","to":"pg3"}}"#, r#"{"name":"pg2","ha_ext":{"scope":"x"}}"#]
    {
        assert_eq!(refused(asked(other)), (503, "this is pg1 of demo".to_owned()));
    }
    assert_eq!(refused(asked(r#"{"conn_url":"x"}"#)).0, 400);
    let told = |decided: Option<Decided>| after_promise(decided.as_ref(), &standby());
    let accepted = told(Some(Decided::Accepted(Millis(30_000))));
    assert_eq!((accepted.status, accepted.body.as_str()), (200, "Accepted"));
    let header = |name: &str| accepted.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((header("lsn"), header(PROMISE_HEADER)), (Some("67395656"), Some("30000")));
    let leads = told(Some(Decided::Leads));
    assert_eq!((leads.status, leads.body.as_str()), (500, "Running as a leader"));
    let statuses =
        [Some(Decided::Off), Some(Decided::Refused("no".to_owned())), None].map(|decided| told(decided).status);
    assert_eq!(statuses, [502, 503, 503]);
}

#[test]
fn failsafe_mode_is_active_where_somebody_counts_on_it() {
    let shown = |snapshot: &Snapshot, live: LiveNow| {
        let status = at_once(snapshot, live, "GET", "/patroni").body.contains("\"failsafe_mode_is_active\": true");
        let metrics = at_once(snapshot, live, "GET", "/metrics").body;
        let metric =
            metrics.lines().any(|line| line.starts_with("patroni_failsafe_mode_is_active{") && line.ends_with(" 1"));
        assert_eq!(status, metric);
        status
    };
    let mut leader = primary();
    assert!(!shown(&leader, live(5000)));
    let until = Tick(NOW.0 + 20_000);
    leader.memory.failsafe.extended = Some(until);
    assert!(!shown(&leader, live(5000)), "its lease is not over");
    leader.memory.lease = Some(Lease { sent_at: Tick(NOW.0 - 30_000), ..lease() });
    assert!(shown(&leader, live(5000)));
    assert!(!shown(&leader, live(0)), "its fence is closed");
    let mut member = standby();
    assert!(!shown(&member, live(0)));
    let promised = crate::failsafe::Promised { until, created: None };
    member.memory.failsafe.promised.insert(NodeName::new("pg2"), promised);
    assert!(shown(&member, live(0)));
}
