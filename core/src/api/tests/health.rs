use super::*;

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

    snapshot.memory.stage =
        Stage::Demoting { candidate: None, release: true, since: Tick(0), down_since: None, in_place: false };
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
