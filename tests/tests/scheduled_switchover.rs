//! Switchovers at a time to come: asked for, shown, carried out at their time, taken back, overtaken by maintenance mode, and refused.

use ha_tests::cluster::Cluster;
use ha_tests::patroni::patronictl;
use ha_tests::plan::Plan;
use ha_tests::rest;
use ha_tests::sql::SqlError;
use ha_tests::wait::{millis, secs};
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long before its time a switchover is scheduled: long enough to look at it everywhere, with a patronictl that takes seconds to
/// start on a loaded machine.
const AHEAD_S: u32 = 20;
/// The same for what is only asked for and taken back.
const SOON_S: u32 = 12;

/// A time of day, for requests and for comparison.
struct Moment {
    text: String,
    at: SystemTime,
}

impl Moment {
    fn in_seconds(cluster: &Cluster, seconds: u32) -> Self {
        let query = format!(
            "SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS') || '000+00:00', \
             (extract(epoch FROM at) * 1000)::bigint FROM (SELECT date_trunc('second', now()) + '{seconds}.5 s' AS at) t"
        );
        let leader = cluster.leader().expect("somebody leads");
        let row = cluster.nodes[leader].sql(&query).expect("the leader answers").remove(0);
        let unix_ms = row[1].as_deref().and_then(|ms| ms.parse().ok()).expect("a number");
        Self { text: row[0].clone().expect("a time"), at: UNIX_EPOCH + millis(unix_ms) }
    }

    fn is_over(&self) -> bool {
        SystemTime::now() >= self.at
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Rest,
    Sql,
    Patronictl,
}

const WAYS: [Way; 3] = [Way::Rest, Way::Sql, Way::Patronictl];

fn name(cluster: &Cluster, node: usize) -> &str {
    &cluster.nodes[node].name
}

fn schedule(cluster: &Cluster, way: Way, from: usize, to: usize, at: &Moment) {
    let (leader, candidate) = (name(cluster, from), name(cluster, to));
    // Whoever is asked, the leader carries it out.
    let asked = &cluster.nodes[cluster.other_than(to)];
    match way {
        Way::Rest => {
            let body = json!({ "leader": leader, "candidate": candidate, "scheduled_at": at.text });
            let reply = rest::post(&asked.rest, "/switchover", &body).expect("the node answers");
            assert_eq!((reply.status, reply.body.as_str()), (202, "Switchover scheduled"));
        }
        Way::Sql => {
            let call = format!("SELECT ha_switchover('{candidate}', scheduled_at => '{}')", at.text);
            let answer = asked.value(&call).expect("the node answers");
            assert_eq!(answer, Some(format!("switchover scheduled for {}", at.text)));
        }
        Way::Patronictl => {
            let words = ["switchover", "batman", "--leader", leader, "--candidate", candidate, "--scheduled"];
            let words = [&words[..], &[at.text.as_str(), "--force"]].concat();
            let said = patronictl(&asked.file(), &words).unwrap_or_else(|error| panic!("{error}"));
            assert!(said.contains("Switchover scheduled"), "{said}");
        }
    }
}

fn cancel(cluster: &Cluster, way: Way) {
    let leader = cluster.leader().expect("somebody leads");
    let asked = &cluster.nodes[cluster.other_than(leader)];
    match way {
        Way::Rest => {
            let reply = rest::delete(&asked.rest, "/switchover").expect("the node answers");
            assert_eq!((reply.status, reply.body.as_str()), (200, "scheduled switchover deleted"));
            let again = rest::delete(&asked.rest, "/switchover").expect("the node answers");
            assert_eq!((again.status, again.body.as_str()), (404, "no switchover is scheduled"));
        }
        Way::Sql => {
            let answer = asked.value("SELECT ha_cancel_switchover()").expect("the node answers");
            assert_eq!(answer.as_deref(), Some("scheduled switchover deleted"));
            refused(cluster, "ha_cancel_switchover()", "55000", "no switchover is scheduled", "ha_cluster");
        }
        Way::Patronictl => {
            let said = patronictl(&asked.file(), &["flush", "batman", "switchover", "--force"]);
            let said = said.unwrap_or_else(|error| panic!("{error}"));
            assert!(said.contains("Success: scheduled switchover deleted"), "{said}");
        }
    }
}

fn refused(cluster: &Cluster, call: &str, wanted: &str, about: &str, help: &str) {
    let leader = cluster.leader().expect("somebody leads");
    match cluster.nodes[leader].sql(&format!("SELECT {call}")) {
        Err(SqlError::Refused { code, detail, hint, message }) => {
            assert_eq!(code, wanted, "{call}: {message}: {detail}");
            assert!(detail.contains(about), "{call}: {detail}");
            assert!(hint.contains(help), "{call}: {hint}");
        }
        other => panic!("{call}: expected a refusal, got {other:?}"),
    }
}

/// Every node shows it, in each of the three ways.
fn shown_everywhere(cluster: &Cluster, from: usize, to: usize, at: &Moment) {
    let wanted = json!({ "at": at.text, "from": name(cluster, from), "to": name(cluster, to) });
    let columns = "SELECT concat_ws('|', (extract(epoch FROM switchover_at) * 1000)::bigint, switchover_from, switchover_to) \
                   FROM ha_cluster";
    let unix_ms = at.at.duration_since(UNIX_EPOCH).expect("now").as_millis();
    let row = format!("{unix_ms}|{}|{}", name(cluster, from), name(cluster, to));
    for node in &cluster.nodes {
        let page = node.get("/cluster").expect("the node answers").json();
        assert_eq!(page["scheduled_switchover"], wanted, "{page}");
        cluster.wait("the view to show it", secs(5), || (node.value(columns).ok()?? == row).then_some(()));
    }
    let said = patronictl(&cluster.nodes[to].file(), &["list"]).unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains(&format!("Switchover scheduled at: {}", at.text)), "{said}");
    assert!(said.contains(&format!("from: {}", name(cluster, from))), "{said}");
    assert!(said.contains(&format!("to: {}", name(cluster, to))), "{said}");
}

fn shown_nowhere(cluster: &Cluster) {
    for node in &cluster.nodes {
        let Ok(page) = node.get("/cluster") else { continue };
        assert_eq!(page.json().get("scheduled_switchover"), None, "{}", page.body);
    }
}

/// Looks on until well after the time: who leads goes on leading.
fn nothing_happens(cluster: &Cluster, leader: usize, at: &Moment) {
    let timeline = cluster.timeline();
    while SystemTime::now() < at.at + secs(6) {
        assert_eq!(cluster.leader(), Some(leader), "a switchover that was not to be");
        std::thread::sleep(millis(100));
    }
    assert_eq!(cluster.timeline(), timeline);
    shown_nowhere(cluster);
}

fn cluster() -> Cluster {
    // What is found three seconds late is dropped: this is a loaded test machine.
    let cluster = Cluster::running(Plan { ttl: 10, loop_wait: 2, ..Plan::short() });
    let leader = cluster.wait_ready_to_switch();
    cluster.nodes[leader].sql("CREATE EXTENSION ha_ext").expect("the leader takes DDL");
    cluster.wait_caught_up(leader);
    cluster
}

#[test]
fn it_happens_at_its_time() {
    let cluster = cluster();
    for way in WAYS {
        let from = cluster.wait_ready_to_switch();
        let to = cluster.other_than(from);
        let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
        let observation = cluster.observe();
        let at = Moment::in_seconds(&cluster, AHEAD_S);
        schedule(&cluster, way, from, to, &at);
        shown_everywhere(&cluster, from, to, &at);
        while !at.is_over() {
            let leader = cluster.leader();
            assert!(leader == Some(from) || at.is_over(), "{way:?}: {leader:?} leads before the time");
            std::thread::sleep(millis(20));
        }
        cluster.wait("the candidate to lead", secs(20), || (cluster.leader() == Some(to)).then_some(()));
        let late = at.at.elapsed().unwrap_or(Duration::ZERO);
        println!("{way:?}: the candidate led {} ms after the time", late.as_millis());
        // It happens once, and is gone.
        std::thread::sleep(secs(3));
        let conclusion = cluster.conclude(observation);
        conclusion.verdict.expect_nothing_lost("scheduled switchover");
        assert_eq!((cluster.leader(), cluster.timeline()), (Some(to), Some(timeline + 1)));
        cluster.wait("the request to be emptied", secs(5), || {
            (cluster.etcd.get(&cluster.key("failover"))? == "{}").then_some(())
        });
        shown_nowhere(&cluster);
    }
}

#[test]
fn it_can_be_taken_back_in_each_way() {
    let cluster = cluster();
    let leader = cluster.leader().expect("somebody leads");
    let to = cluster.other_than(leader);
    for (by, back) in [(Way::Rest, Way::Sql), (Way::Sql, Way::Patronictl), (Way::Patronictl, Way::Rest)] {
        let at = Moment::in_seconds(&cluster, SOON_S);
        schedule(&cluster, by, leader, to, &at);
        assert!(!at.is_over(), "this machine is too slow for the test");
        cancel(&cluster, back);
        assert!(!at.is_over(), "this machine is too slow for the test");
        nothing_happens(&cluster, leader, &at);
    }
    // Another time takes its place.
    let (first, second) = (Moment::in_seconds(&cluster, SOON_S), Moment::in_seconds(&cluster, 600));
    schedule(&cluster, Way::Rest, leader, to, &first);
    schedule(&cluster, Way::Sql, leader, to, &second);
    while SystemTime::now() < first.at + secs(6) {
        assert_eq!(cluster.leader(), Some(leader), "it was moved");
        std::thread::sleep(millis(100));
    }
    shown_everywhere(&cluster, leader, to, &second);
    cancel(&cluster, Way::Rest);
}

#[test]
fn what_cannot_be_is_refused_and_what_has_become_impossible_is_dropped() {
    let mut cluster = cluster();
    let leader = cluster.leader().expect("somebody leads");
    let to = cluster.other_than(leader);
    refusals(&cluster, leader, to);

    // Maintenance mode holds it back, and then it is too late.
    let at = Moment::in_seconds(&cluster, SOON_S);
    schedule(&cluster, Way::Rest, leader, to, &at);
    cluster.nodes[to].sql("SELECT ha_pause()").expect("the node answers");
    assert!(!at.is_over(), "this machine is too slow for the test");
    let later = json!({ "leader": name(&cluster, leader), "scheduled_at": Moment::in_seconds(&cluster, 600).text });
    let reply = rest::post(&cluster.nodes[to].rest, "/switchover", &later).expect("the node answers");
    assert_eq!((reply.status, reply.body.as_str()), (400, "Can't schedule switchover in the paused state"));
    while SystemTime::now() < at.at + secs(5) {
        assert_eq!(cluster.leader(), Some(leader), "a scheduled switchover in maintenance mode");
        std::thread::sleep(millis(100));
    }
    shown_everywhere(&cluster, leader, to, &at);
    cluster.nodes[to].sql("SELECT ha_resume()").expect("the node answers");
    dropped(&cluster, leader, "its time was ");
    nothing_happens(&cluster, leader, &at);

    // The candidate is gone when its time comes.
    let at = Moment::in_seconds(&cluster, SOON_S);
    schedule(&cluster, Way::Sql, leader, to, &at);
    cluster.nodes[to].stop();
    assert!(!at.is_over(), "this machine is too slow for the test");
    dropped(&cluster, leader, name(&cluster, to));
    nothing_happens(&cluster, leader, &at);
    cluster.nodes[to].start();
    assert_eq!(cluster.wait_healthy(secs(60)), leader);
}

fn refusals(cluster: &Cluster, leader: usize, to: usize) {
    let (name, candidate) = (name(cluster, leader), name(cluster, to));
    for (path, at, status, text) in [
        ("/switchover", "2020-01-01T00:00:00+00:00", 422, "lies in the past"),
        ("/switchover", "2100-01-01T00:00:00", 400, "no time zone"),
        ("/switchover", "next week", 422, "is not a time"),
        ("/failover", "2100-01-01T00:00:00+00:00", 400, "can't be scheduled"),
    ] {
        let body = json!({ "leader": name, "candidate": candidate, "scheduled_at": at });
        let reply = rest::post(&cluster.nodes[to].rest, path, &body).expect("the node answers");
        assert_eq!(reply.status, status, "{body}: {}", reply.body);
        assert!(reply.body.contains(text), "{body}: {}", reply.body);
    }
    let call = |at: &str| format!("ha_switchover('{candidate}', scheduled_at => '{at}')");
    refused(cluster, &call("2020-01-01 00:00:00+00"), "22023", "lies in the past", "a time to come");
    refused(cluster, &call("infinity"), "22008", "never comes", "a time to come");
    refused(cluster, &call("-infinity"), "22008", "never comes", "a time to come");
    let words = ["switchover", "batman", "--leader", name, "--scheduled", "2020-01-01T00:00:00+00:00", "--force"];
    let said = patronictl(&cluster.nodes[leader].file(), &words).unwrap_or_else(|error| error);
    assert!(said.contains("422"), "{said}");
    shown_nowhere(cluster);
    assert_eq!(cluster.leader(), Some(leader));
}

/// The leader says why, and the key is emptied.
fn dropped(cluster: &Cluster, leader: usize, reason: &str) {
    let why = "SELECT text FROM ha_events WHERE code = 'switchover.rejected' AND text LIKE '%is not possible%' \
               ORDER BY number DESC LIMIT 1";
    cluster.wait("the leader to say why", secs(30), || {
        cluster.nodes[leader].value(why).ok()??.contains(reason).then_some(())
    });
    cluster.wait("the request to be emptied", secs(5), || {
        let request = cluster.etcd.get(&cluster.key("failover"))?;
        (!request.contains("scheduled_at") && !request.contains("\"leader\"")).then_some(())
    });
}
