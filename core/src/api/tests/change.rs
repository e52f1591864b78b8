use super::*;

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
fn a_configuration_that_is_no_object_can_be_mended() {
    let broken = Cluster { config: None, config_unreadable: Some(Revision(33)), ..cluster() };
    let Answer::Write { edit, .. } = fresh(&primary(), &broken, "PUT", "/config", r#"{"ttl":20}"#) else {
        panic!("a write")
    };
    assert_eq!((edit.value.as_deref(), edit.expect), (Some(r#"{"ttl":20}"#), Expect::Unchanged(Revision(33))));

    let unknown = fresh(&primary(), &broken, "PATCH", "/config", r#"{"ttl":20}"#);
    let (status, text) = refused(unknown);
    assert!(status == 409 && text.contains("PUT /config"), "{status} {text}");

    let knows = Snapshot { last_good_dynamic: Some(json!({"ttl": 20, "loop_wait": 3})), ..primary() };
    for (patch, whole) in
        [(r#"{"ttl":25}"#, r#"{"loop_wait":3,"ttl":25}"#), (r#"{"ttl":20}"#, r#"{"loop_wait":3,"ttl":20}"#)]
    {
        let Answer::Write { edit, .. } = fresh(&knows, &broken, "PATCH", "/config", patch) else { panic!("a write") };
        assert_eq!((edit.value.as_deref(), edit.expect), (Some(whole), Expect::Unchanged(Revision(33))));
    }
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
        ("DELETE", "/restart"),
        ("PUT", "/x"),
        ("TRACE", "/"),
    ] {
        let reply = at_once(&primary(), live(0), method, path);
        assert_eq!(reply.status, 501, "{method} {path}");
        assert!(reply.body.contains("Server does not support this operation"));
    }
    for (path, instead) in
        [("/restart", "restart ha_bootstrap"), ("/reload", "SIGHUP"), ("/reinitialize", "remove the data")]
    {
        let reply = at_once(&primary(), live(0), "POST", path);
        assert!(reply.body.contains(instead) && !reply.body.contains('<'), "{}", reply.body);
    }
}

#[test]
fn whoever_changes_something_must_be_known() {
    let mut snapshot = primary();
    snapshot.config = Arc::new(config(&json!({"authentication": {"username": "u", "password": "p"}})));
    let status = |method, path, authorization| {
        let request = Request { authorization, ..request(method, path, Some("{\"ttl\":20,\"name\":\"pg2\"}")) };
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
        ("POST", "/failsafe"),
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

/// A cluster in maintenance mode in which `unbound` may acknowledge without a lease; pg1 leads.
fn paused(unbound: &[&str]) -> Cluster {
    let mut cluster = cluster();
    cluster.config.as_mut().expect("it has a configuration").value["pause"] = json!(true);
    cluster.unbound = unbound.iter().map(|name| (NodeName::new(*name), Revision(5))).collect();
    cluster.unbound_revision = Some(Revision(40));
    cluster
}

#[test]
fn maintenance_mode_does_not_end_while_a_former_leader_may_go_on() {
    let leader = cluster().leader.expect("it has a leader").name;
    let held = paused(&[leader.as_str(), "pg7", "pg8"]);
    for (method, body) in [("PATCH", r#"{"pause":null}"#), ("PATCH", r#"{"pause":false}"#), ("PUT", r#"{"ttl":20}"#)] {
        let (status, text) = refused(fresh(&primary(), &held, method, "/config", body));
        assert_eq!(status, 412, "{method} {body}: {text}");
        assert!(text.contains("pg7, pg8 may acknowledge") && text.contains("ha_resume(force => true)"), "{text}");
        assert!(!text.contains(leader.as_str()), "the leader hears it like everybody else: {text}");
    }
    // Everything else goes on.
    let Answer::Write { edit, then } = fresh(&primary(), &held, "PATCH", "/config", r#"{"ttl":20}"#) else {
        panic!("a write")
    };
    assert!(edit.key == Key::Config && matches!(then, Written::Config(_)));
    let alone = paused(&[leader.as_str()]);
    let answer = fresh(&primary(), &alone, "PATCH", "/config", r#"{"pause":null}"#);
    assert!(matches!(answer, Answer::Write { then: Written::Config(_), .. }), "{answer:?}");
}

#[test]
fn maintenance_mode_that_is_ended_by_force_forgets_who_may_go_on() {
    let resume = |cluster: &Cluster| fresh(&primary(), cluster, "PATCH", "/config?force=true", r#"{"pause":null}"#);
    let Answer::Write { edit, then } = resume(&paused(&["pg7"])) else { panic!("a write") };
    assert!(edit.key == Key::Config && edit.value.as_ref().is_some_and(|value| !value.contains("pause")), "{edit:?}");
    assert_eq!(refused(after_write(then.clone(), &DcsReply::Conflict)).0, 409);
    let Answer::Write { edit, then } = after_write(then, &DcsReply::Written(Revision(50))) else { panic!("a write") };
    assert_eq!((edit.key, edit.value, edit.expect), (Key::Unbound, None, Expect::Unchanged(Revision(40))));
    assert_eq!(refused(after_write(then, &DcsReply::Written(Revision(51)))).0, 200);
    // What the operator was not shown stays: the leader takes it back itself.
    let leader = cluster().leader.expect("it has a leader").name;
    let Answer::Write { then, .. } = resume(&paused(&[leader.as_str(), "pg7"])) else { panic!("a write") };
    let Answer::Write { edit, .. } = after_write(then, &DcsReply::Written(Revision(50))) else { panic!("a write") };
    assert_eq!(edit.value, Some(json!({ leader.as_str(): 5 }).to_string()));
    // The first write came through last time, and the second did not.
    let mut ended = paused(&["pg7"]);
    ended.config = cluster().config;
    let Answer::Write { edit, .. } = resume(&ended) else { panic!("a write") };
    assert_eq!(edit.key, Key::Unbound);
}
