//! `make demo`: three nodes in a live table while one switchover is asked for and one leader is killed.

mod screen;

use ha_tests::cluster::Cluster;
use ha_tests::oracle::{Flushed, Verdict, compare, judge};
use ha_tests::plan::Plan;
use ha_tests::wait::{millis, secs};
use ha_tests::writer::{Ack, Style, Target, Writers};
use screen::Screen;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn main() {
    let begun = Instant::now();
    let plan = Plan { scope: "demo", ..Plan::short() };
    println!("Starting etcd and three nodes (ttl {} s) on loopback ports ...", plan.ttl);
    let mut cluster = Cluster::prepare(plan);
    for node in &mut cluster.nodes {
        println!("  {}: server on port {}, REST API {}", node.name, node.server.port, node.rest);
        node.start();
    }
    let screen = Screen::start(cluster.nodes.iter().map(|node| (node.name.clone(), node.rest.clone())).collect());
    cluster.wait_healthy(secs(60));
    cluster.create_table();
    screen.say(&format!("One leader, two standbys: {} ms after the start.", begun.elapsed().as_millis()));

    let target = Target::AnyPrimary(cluster.servers_from(0));
    let writers = Writers::start(vec![target], &Style { interval: millis(2), patience: secs(1) });
    screen.watch(&writers);
    screen.say("A client writes as fast as it can and remembers every acknowledgement.");
    std::thread::sleep(secs(3));

    let from = cluster.wait_healthy(secs(30));
    let to = cluster.other_than(from);
    screen.say(&format!("Switchover from {} to {} ...", cluster.nodes[from].name, cluster.nodes[to].name));
    let switched = Instant::now();
    cluster.switch_over(from, to);
    screen.say(&format!("  {} leads.", cluster.nodes[to].name));
    cluster.wait_healthy(secs(30));
    std::thread::sleep(secs(2));

    let leader = cluster.wait_healthy(secs(30));
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline");
    screen.say(&format!("kill -9 of everything on {}, the leader ...", cluster.nodes[leader].name));
    let killed = Instant::now();
    cluster.nodes[leader].kill();
    let lease_end = cluster.etcd.lease_end(&cluster.key("leader"));
    let new = cluster.wait_other_leader(leader, secs(30));
    let first = cluster.wait("a write", secs(10), || writers.first_ack_above(timeline, killed));
    screen.say(&format!("  {} leads.", cluster.nodes[new].name));
    std::thread::sleep(secs(1));
    screen.say(&format!("{} is started again ...", cluster.nodes[leader].name));
    let back = Instant::now();
    cluster.nodes[leader].start();
    cluster.wait_healthy(secs(60));
    screen.say(&format!("  it follows {} after {} ms.", cluster.nodes[new].name, back.elapsed().as_millis()));
    std::thread::sleep(secs(1));

    let (acks, _) = writers.stop();
    let leader = cluster.wait_healthy(secs(30));
    screen.stop();
    let verdict = judge(&acks, &Flushed::default(), &cluster.nodes[leader].server);
    summary(&acks, &verdict, (switched, killed), lease_end.map(|end| first.acked_at.saturating_duration_since(end)));
    println!("Cleaning up ...");
    drop(cluster);
    println!("Done after {} s.", begun.elapsed().as_secs());
    assert!(verdict.lost.is_empty() && verdict.overlaps.is_empty(), "rows were lost: {:?}", verdict.lost);
}

fn summary(acks: &[Ack], verdict: &Verdict, (switched, killed): (Instant, Instant), after_lease: Option<Duration>) {
    let gap = |from: Instant, to: Option<Instant>| {
        let part: Vec<Ack> = acks
            .iter()
            .filter(|ack| ack.acked_at + millis(500) > from && to.is_none_or(|to| ack.acked_at < to))
            .cloned()
            .collect();
        compare(&part, &Flushed::default(), &BTreeSet::new()).gap.as_millis()
    };
    println!("\n  rows acknowledged             {:>8}", verdict.acked);
    println!("  rows lost                     {:>8}", verdict.lost.len());
    println!("  write gap of the switchover   {:>8} ms", gap(switched, Some(killed)));
    println!("  write gap of the lost leader  {:>8} ms", gap(killed, None));
    if let Some(after) = after_lease {
        println!("    of it after the lease ended {:>8} ms", after.as_millis());
    }
    println!();
}
