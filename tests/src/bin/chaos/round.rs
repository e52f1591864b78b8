//! One round: clients at work, faults, healing, judgement.

use crate::clients::{CREATE_TABLE, Clients, lists};
use crate::faults::World;
use crate::history::{Lists, dump};
use crate::judge::{Facts, Verdict, judge};
use crate::lists::Fault;
use crate::schedule::Schedule;
use crate::watch::Watch;
use ha_tests::sql::Server;
use ha_tests::terms::TermWatch;
use ha_tests::wait::{millis, poll, secs};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A healed cluster must have one leader and all others streaming within this.
pub const HEALING: Duration = secs(120);

/// What one round showed.
#[derive(Debug)]
pub struct Outcome {
    /// The judgement.
    pub verdict: Verdict,
    /// From the end of the last fault until one led and all others streamed.
    pub healed_in: Duration,
}

/// Runs it.
pub fn run(world: &mut World, schedule: &Schedule) -> Outcome {
    let servers: Vec<Server> = world.cluster.nodes.iter().map(|node| node.server.clone()).collect();
    let leader = world.cluster.wait_ready_to_switch();
    world.cluster.nodes[leader].sql(CREATE_TABLE).expect("a healthy leader takes DDL");
    world.begin();
    let names: Vec<String> = servers.iter().map(|server| format!("{}:{}", server.host, server.port)).collect();
    let holders = world.cluster.nodes.iter().map(|node| node.name.clone()).zip(names.iter().cloned()).collect();
    let terms = TermWatch::start(world.cluster.etcd.attach(), world.cluster.key("leader"), holders);
    let watch = Watch::start(&servers, world.origin);
    let clients = Clients::start(&servers, world.origin);
    world.cluster.wait("the clients to be under way", secs(20), || (clients.acked() > 20).then_some(()));
    suffer(world, schedule);
    let healing = Instant::now();
    let healthy = poll(HEALING, || {
        world.tend();
        world.cluster.healthy()
    });
    let healed_in = healing.elapsed();
    let requests = world.requests();
    // A request that came last may still be at work.
    let healthy = healthy.and_then(|_| poll(HEALING, || world.cluster.healthy()));
    let acked = clients.acked();
    let writes = poll(secs(20), || (clients.acked() > acked + 20).then_some(()));
    let ops = clients.stop();
    let (terms, flushed) = (terms.stop(), watch.stop());
    let mut verdict = Verdict::default();
    if let (Some(leader), Some(())) = (healthy, writes) {
        let (timeline, chain) = chain(world, leader);
        let facts = Facts {
            origin: world.origin,
            last: lists(&servers[leader]).unwrap_or_else(|error| panic!("the leader cannot be read: {error}")),
            ops,
            servers: names,
            chain,
            timeline,
            flushed,
            terms,
            troubles: world.troubles.clone(),
            requests,
            lag_bytes_max: world.cluster.plan.lag_bytes_max,
        };
        verdict = judge(&facts);
        for (node, server) in servers.iter().enumerate() {
            if let Err(text) = shows(world, node, server, &facts.last) {
                verdict.blame(Fault::NotHealed, text);
            }
        }
        if !verdict.findings.is_empty() {
            keep(world, &facts);
        }
    } else {
        let text = format!("not healthy {healed_in:?} after the last fault\n{}", world.cluster.diagnosis());
        verdict.blame(Fault::NotHealed, text);
    }
    Outcome { verdict, healed_in }
}

fn suffer(world: &mut World, schedule: &Schedule) {
    let mut strikes = schedule.strikes.iter().peekable();
    while world.now() < schedule.ends_ms * 1000 {
        world.tend();
        let now = world.now();
        if !world.calm()
            && let Some(strike) = strikes.next_if(|strike| strike.at_ms * 1000 <= now)
        {
            world.strike(strike);
        }
        std::thread::sleep(millis(10));
    }
    world.say("everything heals");
    world.heal_all();
}

/// The last timeline, and those before it with the places where they end.
fn chain(world: &World, leader: usize) -> (u32, BTreeMap<u32, u64>) {
    let leader = &world.cluster.nodes[leader];
    let timeline: u32 =
        leader.primary_timeline().and_then(|text| text.parse().ok()).expect("the leader has a timeline");
    if timeline == 1 {
        return (1, BTreeMap::new());
    }
    let text = leader.value(&format!("SELECT pg_read_file('pg_wal/{timeline:08X}.history')"));
    let text = text.expect("the leader has its own history").unwrap_or_default();
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let timeline = words.next()?.parse().ok()?;
        let (high, low) = words.next()?.split_once('/')?;
        Some((timeline, u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?))
    };
    (timeline, text.lines().filter_map(entry).collect())
}

/// Every server shows what the leader does.
fn shows(world: &World, node: usize, server: &Server, wanted: &Lists) -> Result<(), String> {
    let same = poll(secs(30), || (lists(server).ok()? == *wanted).then_some(()));
    same.ok_or_else(|| format!("{} does not show the leader's lists", world.cluster.nodes[node].name))
}

fn keep(world: &World, facts: &Facts) {
    let scratch = world.cluster.scratch.path();
    let text = format!("{:#?}\n{:#?}\n{:#?}\n{:#?}", facts.chain, facts.troubles, facts.requests, facts.terms);
    let _ = std::fs::write(scratch.join("facts.log"), text);
    let _ = std::fs::write(scratch.join("flushed.log"), format!("{:#?}", facts.flushed));
    let _ = std::fs::write(scratch.join("history.log"), dump(&facts.ops));
}
