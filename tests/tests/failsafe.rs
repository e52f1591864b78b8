//! Failsafe mode: the store is lost, and the leader goes on for exactly as long as every other member stays away from the leader key.

use ha_tests::cluster::{Cluster, Conclusion};
use ha_tests::node::Node;
use ha_tests::patroni::patronictl;
use ha_tests::plan::Plan;
use ha_tests::rest;
use ha_tests::wait::{millis, secs};
use serde_json::json;
use std::time::{Duration, Instant};

/// What a connected standby may lag behind.
const WINDOW: Duration = Duration::from_millis(500);

/// A cluster of three in failsafe mode, turned on with Patroni's tool; and its leader.
fn in_failsafe_mode(plan: Plan) -> (Cluster, usize) {
    let cluster = Cluster::running(plan);
    let leader = cluster.wait_healthy(secs(60));
    assert_eq!(cluster.nodes[leader].get("/failsafe").expect("it answers").status, 502, "it is off");
    let file = cluster.nodes[leader].file();
    let edited = patronictl(&file, &["edit-config", "-s", "failsafe_mode=true", "--force"]);
    assert!(edited.as_ref().is_ok_and(|text| text.contains("Configuration changed")), "{edited:?}");
    cluster.wait("all members to be written down, and to know", secs(15), || {
        let all = cluster.nodes.iter().all(|node| {
            node.get("/failsafe")
                .is_ok_and(|reply| reply.status == 200 && reply.json().as_object().is_some_and(|map| map.len() == 3))
        });
        all.then_some(())
    });
    let ttl_ms = (cluster.plan.ttl * 1000).to_string();
    cluster.wait("all disks to keep for how long may be promised", secs(5), || {
        cluster.nodes.iter().all(|node| kept(node) == Some(ttl_ms.clone())).then_some(())
    });
    (cluster, leader)
}

/// For how long a member may promise, in milliseconds, as it stands beside its data.
fn kept(node: &Node) -> Option<String> {
    let data = node.data();
    let name = format!(".{}.ha_ext/promise_ttl", data.file_name()?.to_str()?);
    std::fs::read_to_string(data.with_file_name(name)).ok()
}

/// Acknowledged without a lease in the store: what is judged of it is that nobody else did at the same time.
fn by_promise(mut conclusion: Conclusion) -> Conclusion {
    conclusion.verdict.late.clear();
    conclusion
}

fn is_active(cluster: &Cluster, node: usize) -> bool {
    let metrics = cluster.nodes[node].get("/metrics").expect("it answers").body;
    metrics.lines().any(|line| line.starts_with("patroni_failsafe_mode_is_active{") && line.ends_with(" 1"))
}

#[test]
fn without_etcd_the_leader_goes_on_and_stops_with_the_first_member_that_is_lost() {
    let (mut cluster, leader) = in_failsafe_mode(Plan::short());
    let timeline = cluster.timeline();
    let ttl = secs(u64::from(cluster.plan.ttl));
    assert!(!is_active(&cluster, leader));

    // Four leases long.
    let observation = cluster.observe();
    let fault = Instant::now();
    cluster.etcd.kill();
    std::thread::sleep(ttl * 4);
    let asked = Instant::now();
    cluster.wait("a write without etcd", secs(2), || observation.writers.first_ack_sent_after(asked));
    assert!(cluster.nodes[leader].is("/primary"));
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    for node in 0..3 {
        assert!(is_active(&cluster, node), "{}", cluster.nodes[node].name);
    }
    for (other, third) in [(&others[0], &others[1]), (&others[1], &others[0])] {
        assert!(cluster.nodes[*other].is("/replica"), "it follows still");
        let body = json!({"name": cluster.nodes[*third].name, "conn_url": "", "api_url": ""});
        let reply = rest::post(&cluster.nodes[leader].rest, "/failsafe", &body).expect("the leader answers");
        assert_eq!((reply.status, reply.body.as_str()), (500, "Running as a leader"));
        let reply = rest::post(&cluster.nodes[*other].rest, "/failsafe", &body).expect("a member answers");
        assert_eq!(reply.status, 503, "it is no leader: {}", reply.body);
    }
    cluster.etcd.restart();
    println!("{} ms without etcd", fault.elapsed().as_millis());
    std::thread::sleep(ttl * 2);
    let conclusion = by_promise(cluster.conclude(observation));
    conclusion.verdict.expect_nothing_lost("etcd lost for four leases in failsafe mode");
    assert!(conclusion.verdict.gap < secs(2), "clients noticed: {:?}", conclusion.verdict.gap);
    assert_eq!((cluster.wait_healthy(secs(30)), cluster.timeline()), (leader, timeline), "leadership moved");
    assert!(!is_active(&cluster, leader));

    // A member is lost, and the leader must not wait for it.
    let observation = cluster.observe();
    cluster.etcd.kill();
    std::thread::sleep(ttl * 2);
    let asked = Instant::now();
    cluster.wait("a write without etcd", secs(2), || observation.writers.first_ack_sent_after(asked));
    let killed_at = Instant::now();
    cluster.nodes[others[0]].kill();
    std::thread::sleep(ttl + secs(2));
    let last = observation.writers.last_ack().expect("the writers wrote");
    println!(
        "last acknowledgement {} ms after a member was lost",
        last.saturating_duration_since(killed_at).as_millis()
    );
    assert!(last < killed_at + ttl, "acknowledged {:?} after a member was lost", last - killed_at);
    assert!(!cluster.nodes[leader].is("/primary"));
    cluster.etcd.restart();
    let back = Instant::now();
    cluster.wait("a write after etcd is back", secs(40), || observation.writers.first_ack_sent_after(back));
    cluster.nodes[others[0]].start();
    cluster.wait_healthy(secs(60));
    let conclusion = by_promise(cluster.conclude(observation));
    conclusion.verdict.expect_only_unreplicated_lost("a member lost in failsafe mode", last, WINDOW);
}

#[test]
fn a_leader_that_alone_has_lost_etcd_gives_way_and_never_acknowledges_beside_its_successor() {
    let (cluster, leader) = in_failsafe_mode(Plan::short().in_network());
    let network = cluster.network.as_ref().expect("this cluster has a network");
    let old = cluster.timeline().expect("a healthy cluster has a timeline");
    let ttl = secs(u64::from(cluster.plan.ttl));
    let observation = cluster.observe();
    let fault = Instant::now();
    network.cut(leader, cluster.nodes.len());
    let new = cluster.wait_other_leader(leader, ttl * 4 + secs(20));
    let first = cluster.wait("a write on the new leader", secs(15), || observation.writers.first_ack_above(old, fault));
    std::thread::sleep(secs(2));
    network.heal();
    let conclusion = by_promise(cluster.conclude(observation));
    let last_old = conclusion.acks.iter().filter(|ack| ack.timeline == old).map(|ack| ack.acked_at).max();
    let last_old = last_old.expect("the old leader acknowledged something");
    println!(
        "old leader's last acknowledgement after {} ms, {}'s first after {} ms",
        last_old.saturating_duration_since(fault).as_millis(),
        cluster.nodes[new].name,
        first.acked_at.duration_since(fault).as_millis()
    );
    assert!(last_old < first.acked_at + millis(1), "acknowledged beside its successor");
    assert!(last_old < fault + ttl * 2, "the members kept what they had promised for too long");
    conclusion.verdict.expect_only_unreplicated_lost("the leader alone cut off from etcd", last_old, WINDOW);
    cluster.wait_healthy(secs(60));
}

#[test]
fn a_leader_that_also_loses_sight_of_a_member_stops_with_its_lease() {
    let (cluster, leader) = in_failsafe_mode(Plan::short().in_network());
    let network = cluster.network.as_ref().expect("this cluster has a network");
    let old = cluster.timeline().expect("a healthy cluster has a timeline");
    let ttl = secs(u64::from(cluster.plan.ttl));
    let observation = cluster.observe();
    let fault = Instant::now();
    network.cut(leader, cluster.other_than(leader));
    network.cut(leader, cluster.nodes.len());
    assert_ne!(cluster.wait_other_leader(leader, ttl * 4 + secs(20)), leader);
    network.heal();
    let conclusion = cluster.conclude(observation);
    let last_old = conclusion.acks.iter().filter(|ack| ack.timeline == old).map(|ack| ack.acked_at).max();
    let last_old = last_old.expect("the old leader acknowledged something");
    println!("last acknowledgement {} ms after the cut", last_old.saturating_duration_since(fault).as_millis());
    assert!(last_old < fault + ttl, "acknowledged after the lease without the promise of every member");
    conclusion.verdict.expect_one_primary("cut off from etcd and from one member");
}
