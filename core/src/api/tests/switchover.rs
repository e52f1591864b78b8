use super::*;

fn switchover(cluster: &Cluster, path: &str, body: &str) -> Answer {
    fresh(&primary(), cluster, "POST", path, body)
}

/// The cluster with pg2 allowed to lead.
fn willing() -> Cluster {
    let mut cluster = cluster();
    for member in cluster.members.values_mut() {
        std::sync::Arc::make_mut(member).tags = crate::tags::Tags::default();
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
        (
            &willing(),
            "/switchover",
            r#"{"leader":"pg2","candidate":"pg1"}"#,
            412,
            "leader name does not match: pg1 leads",
        ),
        (
            &willing(),
            "/switchover",
            r#"{"leader":"pg1","candidate":"pg9"}"#,
            412,
            "candidate does not exist: no member is called pg9",
        ),
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
    let mut told = at(43, Some("pg1"), false);
    told.refused = Some(reason);
    assert_eq!(result(&told, None), Some((503, "Switchover failed: pg2 lags".to_owned())), "asked on another node");
    told.refused = Some((Revision(9), "old".to_owned()));
    assert_eq!(result(&told, None), Some((503, "Switchover failed".to_owned())));
    let older = (Revision(9), "old".to_owned());
    assert_eq!(result(&at(43, Some("pg1"), false), Some(&older)), Some((503, "Switchover failed".to_owned())));
    assert_eq!(wait.timed_out().body, "Switchover status unknown");
}

#[test]
fn times_that_cannot_be_meant_are_refused() {
    let cases = [
        (
            r#"{"leader":"pg1","scheduled_at":"2027-01-15T08:00:00+00:00"}"#,
            422,
            "scheduled_at lies in the past: it is 2027-01-15T08:00:00+00:00 here",
        ),
        (
            r#"{"leader":"pg1","scheduled_at":"2028-01-01T00:00:00"}"#,
            400,
            "scheduled_at has no time zone, as in 2027-01-31T04:00:00+00:00",
        ),
        (
            r#"{"leader":"pg1","scheduled_at":1800000000}"#,
            422,
            "scheduled_at is not a time such as 2027-01-31T04:00:00+00:00",
        ),
        (
            r#"{"leader":"pg1","candidate":"pg1","scheduled_at":"2028-01-01T00:00:00Z"}"#,
            400,
            "Switchover target and source are the same",
        ),
    ];
    for (body, status, text) in cases {
        assert_eq!(refused(switchover(&willing(), "/switchover", body)), (status, text.to_owned()), "{body}");
    }
}

#[test]
fn a_switchover_is_scheduled_whatever_is_possible_now() {
    let body = r#"{"leader":"pg3","candidate":"pg9","scheduled_at":"2027-01-15 10:00:00.0005+02"}"#;
    let Answer::Write { edit, then } = switchover(&cluster(), "/switchover", body) else { panic!("a write") };
    let value = r#"{"leader":"pg3","member":"pg9","scheduled_at":"2027-01-15T08:00:00.001000+00:00"}"#;
    assert_eq!((edit.key, edit.value.as_deref()), (Key::Failover, Some(value)));
    let written = after_write(then.clone(), &DcsReply::Written(Revision(41)));
    assert_eq!(refused(written), (202, "Switchover scheduled".to_owned()));
    assert!(matches!(after_write(then, &DcsReply::Conflict), Answer::Now(reply) if reply.status == 409));
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
fn nobody_is_put_beside_one_that_may_go_on_without_a_lease() {
    let mut held = willing();
    held.unbound = [(NodeName::new("pg7"), Revision(5))].into();
    for (path, body) in
        [("/switchover", r#"{"leader":"pg1","candidate":"pg2"}"#), ("/failover", r#"{"candidate":"pg2"}"#)]
    {
        let (status, text) = refused(switchover(&held, path, body));
        assert!(status == 412 && text.contains("pg7 may acknowledge") && text.contains("ha_resume"), "{status} {text}");
    }
    held.unbound = [(NodeName::new("pg1"), Revision(5))].into();
    let answer = switchover(&held, "/switchover", r#"{"leader":"pg1","candidate":"pg2"}"#);
    assert!(matches!(answer, Answer::Write { .. }), "the leader hands over itself: {answer:?}");
}
