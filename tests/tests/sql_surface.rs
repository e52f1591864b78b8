//! Every function and view of the extension on a running cluster: on the leader, on standbys, without the store, and by whom.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::sql::{Session, SqlError};
use ha_tests::wait::{poll, secs};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

const VIEWS: [&str; 7] = ["ha_cluster", "ha_members", "ha_history", "ha_lease", "ha_rules", "ha_events", "ha_settings"];
const READING: [&str; 4] = ["ha_status()", "ha_all_rules()", "ha_config()", "ha_who_would_win()"];
const CHANGING: [&str; 6] = [
    "ha_switchover('nobody')",
    "ha_cancel_switchover()",
    "ha_failover('nobody')",
    "ha_patch_config('{\"ttl\": 6}')",
    "ha_pause()",
    "ha_resume()",
];

/// A cluster with the extension in which n3 may never lead, after one switchover, so that there is some history.
fn cluster() -> Cluster {
    let mut cluster = Cluster::prepare(Plan::short());
    let file = cluster.nodes[2].file();
    let text = fs::read_to_string(&file).expect("the node has a file").replace("nofailover: false", "nofailover: true");
    fs::write(&file, text).expect("the file can be written");
    for index in [0, 1, 2] {
        cluster.nodes[index].start();
        // The first to start founds the cluster: it must be one that may lead.
        cluster.wait("the founder to lead", secs(30), || cluster.nodes[0].is("/primary").then_some(()));
    }
    cluster.wait_ready_to_switch();
    cluster.nodes[0].sql("CREATE EXTENSION ha_ext").expect("the leader takes DDL");
    cluster.switch_over(0, 1);
    assert_eq!(cluster.wait_healthy(secs(30)), 1);
    cluster
}

/// Everything a query says, columns by `|`, rows in the query's order.
fn rows(cluster: &Cluster, index: usize, query: &str) -> Vec<String> {
    let rows = cluster.nodes[index].sql(query).unwrap_or_else(|error| panic!("{query} on n{}: {error}", index + 1));
    let text = |row: &Vec<Option<String>>| {
        row.iter().map(|value| value.as_deref().unwrap_or("-")).collect::<Vec<_>>().join("|")
    };
    rows.iter().map(text).collect()
}

/// The same once it is so: a page is up to one round old, and a server that has just started has none yet.
fn shows(cluster: &Cluster, index: usize, query: &str, wanted: &[&str]) {
    shows_within(cluster, index, query, wanted, secs(5));
}

fn shows_within(cluster: &Cluster, index: usize, query: &str, wanted: &[&str], time: Duration) {
    let seen = poll(time, || (rows(cluster, index, query) == wanted).then_some(()));
    assert!(seen.is_some(), "n{}, {query}: {:#?}, not {wanted:#?}", index + 1, rows(cluster, index, query));
}

#[test]
fn views_and_functions_tell_the_truth_on_every_node() {
    let mut cluster = cluster();
    for index in 0..3 {
        about_the_cluster(&cluster, index);
        about_this_node(&cluster, index);
    }
    the_configuration(&cluster);
    for index in [1, 0] {
        refusals(&cluster, index);
    }
    privileges(&cluster);
    the_leaders_reason(&mut cluster);
    without_the_store(&mut cluster);
}

fn about_the_cluster(cluster: &Cluster, index: usize) {
    let found = "SELECT scope, this_member, leader, system_id = (SELECT system_identifier::text FROM pg_control_system()), \
                 paused, store, seat, abs(extract(epoch FROM now() - as_of)) < 10 FROM ha_cluster";
    shows(cluster, index, found, &[&format!("batman|n{}|n2|t|f|reachable|supervised|t", index + 1)]);
    let members = "SELECT member, role, state, timeline, lsn > '0/0', coalesce(lag_bytes, -1) < 1048576, \
                   lag_bytes IS NULL, tags, version ~ '^4[.]', ha_ext_version IS NOT NULL \
                   FROM ha_members ORDER BY member";
    let wanted = [
        "n1|replica|streaming|2|t|t|f|{}|t|t",
        "n2|leader|running|2|t|t|t|{}|t|t",
        "n3|replica|streaming|2|t|t|f|{\"nofailover\": true}|t|t",
    ];
    shows(cluster, index, members, &wanted);
    for (node, line) in
        cluster.nodes.iter().zip(rows(cluster, index, "SELECT address, api_url FROM ha_members ORDER BY 1"))
    {
        assert_eq!(line, format!("{}:{}|{}/patroni", node.server.host, node.server.port, node.rest));
    }
    let history =
        "SELECT timeline, lsn > '0/0', reason <> '', now() - at BETWEEN '-1 s' AND '5 min', new_leader FROM ha_history";
    shows(cluster, index, history, &["1|t|t|t|n2"]);
    let win = "SELECT member, may_lead, lsn > '0/0', timeline, priority FROM ha_who_would_win()";
    let mut order = rows(cluster, index, win);
    assert_eq!(order.pop().as_deref(), Some("n3|f|t|2|0"), "who may not lead comes last");
    assert_eq!(order.iter().map(|line| &line[..2]).collect::<BTreeSet<_>>(), BTreeSet::from(["n1", "n2"]));
    assert!(order.iter().all(|line| line.ends_with("|t|t|2|1")), "{order:?}");
    let reasons = rows(cluster, index, "SELECT member, reason FROM ha_who_would_win() ORDER BY member");
    assert_eq!(reasons[..2], ["n1|-", "n2|It leads."]);
    assert!(reasons[2].starts_with("n3|") && reasons[2].len() > 10, "n{}: {reasons:?}", index + 1);
}

fn about_this_node(cluster: &Cluster, index: usize) {
    let one = |query: &str| rows(cluster, index, query).join("\n");
    let leads = index == 1;
    let lease = "SELECT lease IS NOT NULL, session IS NOT NULL, deadline BETWEEN now() AND now() + '5 s', ttl, fence_open \
                 FROM ha_lease";
    shows(cluster, index, lease, &[if leads { "t|t|t|00:00:05|t" } else { "f|t|-|-|f" }]);
    let rule = if leads { "leader.leading" } else { "standby.following" };
    shows(cluster, index, "SELECT rule FROM ha_rules WHERE in_force", &[rule]);
    let rules =
        "SELECT count(*) > 50, count(*) = count(DISTINCT rule), bool_and(meaning ~ '^[A-Z].*\\.$') FROM ha_rules";
    assert_eq!(one(rules), "t|t|t");
    let events = "SELECT count(*) > 2, count(*) = count(DISTINCT number), bool_and(at <= now() + '1 s'), \
                  bool_and(kind <> '' AND code <> '' AND text <> '') FROM ha_events";
    assert_eq!(one(events), "t|t|t|t");
    assert!(!one(&format!("SELECT number FROM ha_events WHERE code = '{rule}'")).is_empty(), "no event says {rule}");
    let settings = "SELECT name, value, unit, origin FROM ha_settings WHERE name IN ('ttl', 'scope', 'namespace', \
                    'maximum_lag_on_failover', 'postgresql.parameters.max_connections') ORDER BY name";
    let wanted = [
        "maximum_lag_on_failover|1048576|B|store",
        "namespace|/service||default",
        "postgresql.parameters.max_connections|100||store",
        "scope|batman||file",
        "ttl|5|s|store",
    ];
    assert_eq!(rows(cluster, index, settings), wanted);
    assert_eq!(one("SELECT count(*) = count(DISTINCT name) FROM ha_settings"), "t");
    for view in VIEWS {
        assert!(
            !rows(cluster, index, &format!("SELECT * FROM {view}")).is_empty(),
            "{view} is empty on n{}",
            index + 1
        );
        assert!(one(&format!("SELECT obj_description('{view}'::regclass)")).len() > 10, "{view} has no comment");
    }
    assert!(!one("SELECT ha_status()").contains("secret-"), "a password is shown");
}

fn the_configuration(cluster: &Cluster) {
    let config = |index: usize| -> Value {
        serde_json::from_str(&rows(cluster, index, "SELECT ha_config()")[0]).expect("ha_config() is JSON")
    };
    for index in 0..3 {
        let over_rest = cluster.nodes[index].get("/config").expect("REST answers").json();
        assert_eq!((config(index), config(index)["ttl"].as_u64()), (over_rest, Some(5)));
    }
    // From a standby and from the leader; a null removes.
    for (index, patch, wanted) in [(0, "{\"loop_wait\": 2}", Some(2)), (1, "{\"loop_wait\": null}", None)] {
        let answer = rows(cluster, index, &format!("SELECT ha_patch_config('{patch}')")).join("");
        let answer: Value = serde_json::from_str(&answer).expect("ha_patch_config() gives JSON");
        assert_eq!(answer["loop_wait"].as_u64(), wanted, "{answer}");
        for other in 0..3 {
            cluster.wait("the change everywhere", secs(5), || (config(other) == answer).then_some(()));
            let origin =
                rows(cluster, other, "SELECT value, origin FROM ha_settings WHERE name = 'loop_wait'").join("");
            let wanted = wanted.map_or("10|default".to_owned(), |seconds| format!("{seconds}|store"));
            assert_eq!(origin, wanted);
        }
    }
    let obstacle = "SELECT in_place_obstacle FROM ha_cluster";
    // The first checkpoint after its promotion takes as long as the disk does.
    shows_within(cluster, 1, obstacle, &["-"], secs(60));
    for (method, wanted) in [("\"restart\"", "demote_method is restart"), ("null", "-")] {
        rows(cluster, 1, &format!("SELECT ha_patch_config('{{\"postgresql\": {{\"demote_method\": {method}}}}}')"));
        shows(cluster, 1, obstacle, &[wanted]);
        shows(cluster, 0, obstacle, &["-"]);
    }
    rows(cluster, 1, "SELECT ha_patch_config('{\"loop_wait\": 1}')");
    for index in 0..3 {
        cluster.wait("the old value everywhere", secs(5), || (config(index)["loop_wait"] == 1).then_some(()));
    }
}

/// The SQLSTATE, with what detail and hint must hold.
fn refused(session: &Session, call: &str, wanted: (&str, &str, &str)) {
    match session.query(&format!("SELECT {call}"), secs(10)) {
        Err(SqlError::Refused { code, detail, hint, message }) => {
            assert_eq!(code, wanted.0, "{call}: {message}");
            assert!(detail.contains(wanted.1), "{call}: \"{}\" is not in the detail \"{detail}\"", wanted.1);
            assert!(hint.contains(wanted.2), "{call}: \"{}\" is not in the hint \"{hint}\"", wanted.2);
        }
        other => panic!("{call}: expected a refusal, got {other:?}"),
    }
}

fn session(cluster: &Cluster, index: usize, user: &str) -> Session {
    let password = if user == "postgres" { ha_tests::sql::PASSWORD } else { user };
    Session::open_as(&cluster.nodes[index].server, user, password, secs(5)).expect("the server admits sessions")
}

fn refusals(cluster: &Cluster, index: usize) {
    const STATE: &str = "55000";
    const VALUE: &str = "22023";
    let before = (cluster.leader(), cluster.timeline(), rows(cluster, index, "SELECT ha_config()"));
    let session = session(cluster, index, "postgres");
    let who = "ha_who_would_win()";
    for (call, wanted) in [
        ("ha_switchover('nobody')", (STATE, "candidate does not exist", who)),
        ("ha_switchover('n3')", (STATE, "no good candidates have been found", who)),
        ("ha_switchover('')", (VALUE, "The candidate is an empty name", who)),
        ("ha_switchover('n2')", (VALUE, "target and source are the same", who)),
        ("ha_switchover('n3', 'n1')", (STATE, "leader name does not match", who)),
        ("ha_switchover('n1', scheduled_at => '2020-01-01')", (VALUE, "lies in the past", "ha_cluster")),
        ("ha_cancel_switchover()", (STATE, "no switchover is scheduled", "ha_cluster")),
        ("ha_failover(NULL)", ("22004", "", "ha_members")),
        ("ha_failover('')", (VALUE, "only to a specific candidate", who)),
        ("ha_failover('n2')", (STATE, "n2 is the leader already", who)),
        ("ha_failover('n3')", (STATE, "no good candidates have been found", who)),
        ("ha_patch_config('{}')", (VALUE, "", "{\"loop_wait\": 5}")),
        ("ha_patch_config('[1]')", (VALUE, "", "{\"loop_wait\": 5}")),
        ("ha_patch_config('{\"ttl\": \"soon\"}')", (VALUE, "ttl", "ha_settings")),
        ("ha_patch_config('{\"pause\": \"perhaps\"}')", (VALUE, "pause", "ha_settings")),
    ] {
        refused(&session, call, wanted);
    }
    assert_eq!((cluster.leader(), cluster.timeline(), rows(cluster, index, "SELECT ha_config()")), before);
    if index != 1 {
        match session.query("CREATE TABLE not_here ()", secs(5)) {
            Err(SqlError::Refused { code, hint, .. }) => {
                assert_eq!((code.as_str(), hint.ends_with(" (n2).")), ("25006", true), "{hint}");
                assert!(hint.starts_with("The leader is 127.0.0.1:"), "{hint}");
            }
            other => panic!("a standby cannot be written: {other:?}"),
        }
    }
}

fn privileges(cluster: &Cluster) {
    for role in ["watcher", "plain", "operator"] {
        cluster.nodes[1].sql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{role}'")).expect("the leader takes DDL");
    }
    cluster.nodes[1].sql("GRANT pg_monitor TO watcher").expect("a grant");
    cluster.nodes[1].sql("GRANT EXECUTE ON FUNCTION ha_switchover TO operator").expect("a grant");
    cluster.wait_caught_up(1);
    let denied = ("42501", "", "");
    for index in [1, 2] {
        let [watcher, plain, operator] = ["watcher", "plain", "operator"].map(|role| session(cluster, index, role));
        for read in VIEWS.iter().chain(&READING) {
            let seen = watcher.query(&format!("SELECT * FROM {read}"), secs(5));
            assert!(!seen.unwrap_or_else(|error| panic!("{read} for pg_monitor: {error}")).is_empty(), "{read}");
            refused(&plain, &format!("* FROM {read}"), denied);
            refused(&operator, &format!("* FROM {read}"), denied);
        }
        for change in CHANGING {
            refused(&watcher, change, denied);
            refused(&plain, change, denied);
        }
        refused(&operator, "ha_failover('nobody')", denied);
        refused(&operator, "ha_switchover('nobody')", ("55000", "candidate does not exist", ""));
    }
}

/// What the leader has against a request reaches whoever asked on another node.
fn the_leaders_reason(cluster: &mut Cluster) {
    let session = session(cluster, 2, "postgres");
    cluster.nodes[0].stop();
    refused(&session, "ha_switchover('n1')", ("55000", "Switchover failed: n1 ", "ha_who_would_win()"));
    let why = "SELECT text FROM ha_events WHERE code = 'switchover.rejected' ORDER BY number DESC LIMIT 1";
    cluster.wait("the reason among the leader's events", secs(10), || {
        rows(cluster, 1, why).first().is_some_and(|text| text.contains("(n1 ")).then_some(())
    });
    cluster.nodes[0].start();
    cluster.wait_healthy(secs(60));
}

fn without_the_store(cluster: &mut Cluster) {
    cluster.etcd.kill();
    let standby = session(cluster, 0, "postgres");
    cluster.wait("a standby to say so", secs(15), || {
        let store = standby.value("SELECT store FROM ha_cluster", secs(5)).ok()??;
        store.starts_with("unreachable: ").then_some(())
    });
    for call in ["ha_switchover('n1')", "ha_failover('n1')"] {
        refused(&standby, call, ("08006", "the store cannot be read", "ha_cluster"));
    }
    let leads = standby.value("SELECT reason FROM ha_who_would_win() WHERE member = 'n2'", secs(5));
    assert_eq!(leads.expect("the views go on").as_deref(), Some("It led when the store was last reached."));
    for view in VIEWS {
        let seen = standby.query(&format!("SELECT * FROM {view}"), secs(5));
        seen.unwrap_or_else(|error| panic!("{view} without the store: {error}"));
    }
    cluster.etcd.restart();
    cluster.wait_healthy(secs(60));
}
