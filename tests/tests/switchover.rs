//! Planned switchovers, asked for in each of the three ways.

use ha_tests::cluster::Cluster;
use ha_tests::patroni::patronictl;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::time::{Duration, Instant};

/// No client should wait longer: the goal is far below, this is a loaded test machine.
const GAP_MAX: Duration = Duration::from_secs(5);

#[test]
fn by_rest_by_sql_and_by_patronictl() {
    let cluster = Cluster::running(Plan::short());
    by_rest(&cluster);
    by_sql(&cluster, false);
    by_sql(&cluster, true);
    by_patronictl(&cluster);
    refused_requests_change_nothing(&cluster);
}

fn switched(cluster: &Cluster, story: &str, from: usize, to: usize, ask: impl FnOnce()) {
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    let observation = cluster.observe();
    let begun = Instant::now();
    ask();
    cluster.wait("the candidate to lead", secs(20), || (cluster.leader() == Some(to)).then_some(()));
    cluster.wait("a write on it", secs(20), || observation.writers.first_ack_above(timeline, begun));
    std::thread::sleep(secs(1));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost(story);
    println!("{story}: write gap {} ms, {} rows", conclusion.verdict.gap.as_millis(), conclusion.verdict.acked);
    assert!(conclusion.verdict.gap < GAP_MAX, "{story}: nobody could write for {:?}", conclusion.verdict.gap);
    assert_eq!(cluster.leader(), Some(to), "{story}: {} did not stay the leader", cluster.nodes[to].name);
    assert_eq!(cluster.timeline(), Some(timeline + 1), "{story}: one switchover is one timeline");
    assert!(!cluster.nodes[from].is("/primary"), "{story}");
}

fn by_rest(cluster: &Cluster) {
    let from = cluster.wait_healthy(secs(30));
    let to = cluster.other_than(from);
    switched(cluster, "switchover by REST", from, to, || {
        println!("REST: {}", cluster.switch_over(from, to));
    });
}

fn by_sql(cluster: &Cluster, on_standby: bool) {
    let from = cluster.wait_healthy(secs(30));
    let to = cluster.other_than(from);
    let third = cluster.other_than(to);
    let at = if on_standby { third } else { from };
    cluster.nodes[from].sql("CREATE EXTENSION IF NOT EXISTS ha_ext").expect("the extension can be created");
    cluster.wait("the extension on every node", secs(10), || {
        let seen = |index: usize| cluster.nodes[index].value("SELECT 1 FROM pg_extension WHERE extname = 'ha_ext'");
        (seen(third).ok()?.is_some()).then_some(())
    });
    switched(
        cluster,
        if on_standby { "switchover by SQL on a standby" } else { "switchover by SQL" },
        from,
        to,
        || {
            let call = format!("SELECT ha_switchover('{}')", cluster.nodes[to].name);
            let answer = cluster.nodes[at].value(&call).expect("whoever asks is answered");
            println!("ha_switchover: {}", answer.expect("with a row"));
        },
    );
}

fn by_patronictl(cluster: &Cluster) {
    let from = cluster.wait_healthy(secs(30));
    let to = cluster.other_than(from);
    switched(cluster, "switchover by patronictl", from, to, || {
        let (leader, candidate) = (&cluster.nodes[from].name, &cluster.nodes[to].name);
        let words = ["switchover", "batman", "--leader", leader, "--candidate", candidate, "--force"];
        let text = patronictl(&cluster.nodes[from].file(), &words).unwrap_or_else(|error| panic!("{error}"));
        println!("patronictl: {}", text.trim());
    });
}

fn refused_requests_change_nothing(cluster: &Cluster) {
    let leader = cluster.wait_healthy(secs(30));
    let timeline = cluster.timeline();
    let replica = cluster.other_than(leader);
    let body = |leader: &str, candidate: &str| serde_json::json!({ "leader": leader, "candidate": candidate });
    let rest = &cluster.nodes[leader].rest;
    let (leader_name, replica_name) = (cluster.nodes[leader].name.clone(), cluster.nodes[replica].name.clone());
    for (body, status) in
        [(body(&replica_name, &leader_name), 412), (body(&leader_name, "nobody"), 412), (body("", ""), 400)]
    {
        let reply = ha_tests::rest::post(rest, "/switchover", &body).expect("the leader answers");
        assert_eq!(reply.status, status, "{body}: {}", reply.body);
    }
    assert_eq!((cluster.leader(), cluster.timeline()), (Some(leader), timeline));
}

#[test]
fn without_replication_slots() {
    let cluster = Cluster::running(Plan::short());
    let from = cluster.leader().expect("a healthy cluster has a leader");
    let patch = serde_json::json!({ "postgresql": { "use_slots": false } });
    let reply = ha_tests::rest::patch(&cluster.nodes[from].rest, "/config", &patch).expect("the leader answers");
    assert_eq!(reply.status, 200, "{}", reply.body);
    cluster.wait("nobody to name a slot", secs(20), || {
        let named = "SELECT count(*) FROM pg_stat_wal_receiver WHERE slot_name <> ''";
        let none = |named: Option<String>| named.as_deref() == Some("0");
        cluster.nodes.iter().all(|node| node.value(named).is_ok_and(none)).then_some(())
    });
    let to = cluster.other_than(from);
    cluster.wait_ready_to_switch();
    // Without slots the leader knows from the member key alone who streams, and that is up to one round old.
    std::thread::sleep(secs(u64::from(cluster.plan.loop_wait)));
    cluster.wait("the candidate to say that it streams", secs(10), || {
        let key = cluster.etcd.get(&cluster.key(&format!("members/{}", cluster.nodes[to].name)))?;
        key.contains("\"replication_state\":\"streaming\"").then_some(())
    });
    switched(&cluster, "switchover without slots", from, to, || {
        println!("REST: {}", cluster.switch_over(from, to));
    });
    let slots = cluster.nodes[to].value("SELECT count(*) FROM pg_replication_slots WHERE active").expect("it answers");
    assert_eq!(slots.as_deref(), Some("0"));
}

/// It keeps the lease until its server is down, but it leads no more.
#[test]
fn an_old_leader_that_is_stopped_never_calls_itself_primary_again() {
    let cluster = Cluster::running(Plan { postgresql: vec!["demote_method: restart".into()], ..Plan::short() });
    let from = cluster.wait_ready_to_switch();
    let to = cluster.other_than(from);
    let said = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (begun, mut said) = (Instant::now(), Vec::new());
            while begun.elapsed() < secs(8) && said.last() != Some(&(503, "replica".to_owned())) {
                let Ok(reply) = cluster.nodes[from].get("/primary") else { continue };
                let role = reply.json()["role"].as_str().unwrap_or_default().to_owned();
                if said.last() != Some(&(reply.status, role.clone())) {
                    said.push((reply.status, role));
                }
            }
            said
        });
        cluster.switch_over(from, to);
        asking.join().expect("who asks does not panic")
    });
    println!("the old leader said {said:?}");
    let mut later = said.iter().skip_while(|(status, _)| *status == 200).peekable();
    assert!(later.peek().is_some(), "it was asked too late: {said:?}");
    assert!(later.all(|(status, role)| *status == 503 && role != "primary"), "{said:?}");
    let log = cluster.nodes[from].supervisor_log();
    assert!(log.contains("to \"demoted\""), "nothing was tested");
    assert!(!log.contains("from \"demoted\" to \"primary\""), "the supervisor took the old leader for a primary");
}
