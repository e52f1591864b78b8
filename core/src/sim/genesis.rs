//! The beginning: machines with empty data directories, and a store that knows nothing.

use super::clock::BootClock;
use super::event::Event;
use super::node::{Disk, Node, Process};
use super::params::Params;
use super::rng::Rng;
use super::world::World;
use crate::clock::Tick;
use crate::ids::NodeName;
use crate::member::Identity;
use crate::tags::Tags;
use serde_json::json;

pub(super) fn nodes(rng: &mut Rng, params: &Params) -> Vec<Node> {
    (0..params.nodes).map(|index| node(rng, params, index)).collect()
}

fn node(rng: &mut Rng, params: &Params, index: usize) -> Node {
    let mut settings = params.settings.clone();
    if params.one_nofailover && index == 1 && params.nodes > 2 {
        settings.tags = Tags::from_json(Some(&json!({"nofailover": true})));
    } else if params.one_nofailover && index == 2 {
        settings.tags = Tags::from_json(Some(&json!({"failover_priority": 3})));
    }
    let address = format!("10.0.0.{}", index + 1);
    let clock = clock(rng, 0);
    Node {
        name: NodeName::new(format!("n{}", index + 1)),
        identity: Identity {
            conn_url: format!("postgres://{address}:5432/postgres"),
            api_url: format!("http://{address}:8008/patroni"),
        },
        settings,
        kept_pause: false,
        kept_timing: None,
        kept_ttl: crate::clock::Millis(0),
        clock,
        wall_ms: super::appointments::about_right(&clock, 0, index),
        up: false,
        boot: 0,
        disk: Disk::default(),
        server: None,
        worker: Process::default(),
        supervisor: Process::default(),
        beat: None,
        seat_since: Tick(0),
        waiting: None,
        heard_at: Tick(0),
        attentive_since: Tick(0),
        supervised_at: 0,
        watched_at: Tick(0),
        kept_at: None,
        supervised: true,
        stop_requested: false,
        carried: None,
        step: None,
        cannot_write: false,
        published: None,
        frozen: Vec::new(),
        parked: Vec::new(),
        guest: super::hypervisor::Guest::drawn(rng, params),
        first_members: None,
        troubled_at: 0,
        hurt_at: 0,
        mistaken_at: 0,
        watchdog: super::watchdog::device(params, index),
    }
}

/// A machine that booted between seconds and days ago, with a clock that is up to 2 % wrong.
pub(super) fn clock(rng: &mut Rng, now: u64) -> BootClock {
    let up_for_ms = rng.skewed(10_000, 900_000_000);
    BootClock::new(now, up_for_ms, rate_ppm(rng))
}

pub(super) fn rate_ppm(rng: &mut Rng) -> i64 {
    let most = if rng.chance(300) { 20_000 } else { 100 };
    i64::try_from(rng.below(2 * most + 1)).unwrap_or(0) - i64::try_from(most).unwrap_or(0)
}

pub(super) fn begin(world: &mut World) {
    let text = format!(
        "{} nodes, ttl {} loop_wait {} retry_timeout {} primary_start_timeout {} rewind {} replace {} {}",
        world.params.nodes,
        world.params.settings.ttl_ms,
        world.params.settings.loop_wait_ms,
        world.params.settings.retry_timeout_ms,
        world.params.settings.primary_start_timeout_ms,
        world.params.settings.use_pg_rewind,
        world.params.settings.replace_after_failed_rewind,
        world.params.settings.replace_diverged,
    );
    world.log.line(0, "world", &text);
    for node in 0..world.nodes.len() {
        world.soon(0, 3000, Event::Boot { node, boot: 0 });
    }
    for client in 0..world.clients.len() {
        world.soon(500, 5000, Event::ClientTry { client, attempt: 0 });
    }
    if let Some(first) = world.plan.first() {
        world.queue.push(first.at_ms, Event::Fault(0));
    }
    world.later(world.params.quiet_ms + world.params.faults_ms, Event::Heal);
}
