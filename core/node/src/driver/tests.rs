//! The driver against a real etcd, on a node that has a configuration and nothing else: no data, no server.

mod clocks;
mod rest;

use super::*;
use crate::net::Hooks;
use crate::test_etcd::TestEtcd;
use ha_core::effect::Step;
use ha_core::ids::{LeaseId, Revision};
use ha_core::lease::Lease;
use ha_core::local::{DataDir, Server};
use serde_json::json;
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Says what is true of it: the directory is empty and nothing can be run.
#[derive(Default)]
struct BareNode {
    executed: Vec<Effect>,
    outcomes: Vec<Outcome>,
    configs: Vec<Arc<Config>>,
    seatless: bool,
}

impl Port for BareNode {
    fn seat(&self) -> Option<Seat> {
        (!self.seatless).then_some(Seat::Outside)
    }

    fn observe(&mut self) -> LocalView {
        LocalView {
            data: DataDir::Empty,
            server: Server::Down,
            marker: None,
            history: Vec::new(),
            step_running: None,
            cannot_write: None,
            history_at: None,
            pending_restart: BTreeMap::new(),
            founding: false,
            watchdog: ha_core::watchdog::WatchdogView::default(),
            kept_ttl: Millis(0),
        }
    }

    fn execute(&mut self, effect: &Effect, _memory: &Memory) -> Result<(), String> {
        self.executed.push(effect.clone());
        match effect {
            Effect::Run(step) => {
                let result = Err("there is no PostgreSQL here".to_owned());
                self.outcomes.push(Outcome::Step { step: step.clone(), result, at: self.now() });
                Ok(())
            }
            // Nothing runs here that could acknowledge.
            Effect::OpenFence { .. } | Effect::CloseFence => Ok(()),
            other => Err(format!("there is no server that could {other}")),
        }
    }

    fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    fn reconfigured(&mut self, config: &Arc<Config>, _dynamic: Option<&Value>) {
        self.configs.push(config.clone());
    }
}

struct Node {
    driver: Driver,
    port: BareNode,
    wakes: Receiver<()>,
    ticks: u32,
}

fn local(etcd: &TestEtcd, name: &str) -> Value {
    local_at(name, &etcd.host())
}

fn local_at(name: &str, store: &str) -> Value {
    json!({
        "scope": "batman",
        "name": name,
        "etcd3": {"host": store},
        "restapi": {"listen": "127.0.0.1:8008", "connect_address": "127.0.0.1:8008"},
        "bootstrap": {"dcs": {"ttl": 20, "loop_wait": 2, "retry_timeout": 3}},
        "postgresql": {
            "listen": "127.0.0.1:5432",
            "connect_address": "127.0.0.1:5432",
            "data_dir": "/nonexistent/data",
            "authentication": {
                "superuser": {"username": "postgres"},
                "replication": {"username": "replicator", "password": "x"}
            }
        }
    })
}

fn hooks(wake: Sender<()>) -> Hooks {
    let wake = std::sync::Mutex::new(wake);
    Hooks {
        confirmed: Arc::new(|_| ()),
        leader_lost: Arc::new(|| ()),
        lease_deadline: Arc::new(|| Tick(0)),
        wake: Arc::new(move || {
            let _ = wake.lock().expect("lock").send(());
        }),
        died: Arc::new(|name, why| panic!("{name} died: {why}")),
    }
}

impl Node {
    fn start(etcd: &TestEtcd, name: &str) -> Self {
        Self::of(Layers { local: local(etcd, name), ..Layers::default() })
    }

    fn of(layers: Layers) -> Self {
        let (wake, wakes) = channel();
        let driver = Driver::new(Options { layers, hooks: hooks(wake) }).expect("driver");
        Self { driver, port: BareNode::default(), wakes, ticks: 0 }
    }

    /// Ticks as a main loop does, by wakes and by `next_wake` alone, until `done`.
    fn until(&mut self, what: &str, within_ms: u64, mut done: impl FnMut(&Driver, &BareNode) -> bool) {
        let deadline = crate::clock::now() + Millis(within_ms);
        loop {
            while self.wakes.try_recv().is_ok() {}
            let ticked = self.driver.tick(&mut self.port);
            self.ticks += 1;
            if done(&self.driver, &self.port) {
                return;
            }
            let now = crate::clock::now();
            let told = || self.driver.events().since(0).map(|event| event.text.as_str()).collect::<Vec<_>>();
            assert!(now < deadline, "no {what} within {within_ms} ms, at {:?}: {:#?}", ticked.rule, told());
            let wait = ticked.next_wake.min(deadline).since(now);
            let _ = self.wakes.recv_timeout(Duration::from_millis(wait.0));
        }
    }
}

fn member_in_store(driver: &Driver, name: &str) -> bool {
    driver.cluster().is_some_and(|cluster| cluster.members.contains_key(&NodeName::new(name)))
}

#[test]
fn a_bare_node_wins_the_bootstrap_race_and_reports_that_it_cannot_go_on() {
    let etcd = TestEtcd::start();
    let mut node = Node::start(&etcd, "pg1");
    let initdb = Effect::Run(Step::Initdb);
    node.until("attempt to bootstrap", 8000, |_, port| port.executed.contains(&initdb));
    node.until("member key", 4000, |driver, _| member_in_store(driver, "pg1"));
    let key = etcd.ctl(&["get", "--print-value-only", "/service/batman/members/pg1"]);
    let record: Value = serde_json::from_str(&key).expect("JSON");
    assert_eq!(record["api_url"], "http://127.0.0.1:8008/patroni");

    let kinds: Vec<EventKind> = node.driver.events().since(0).map(|event| event.kind).collect();
    for kind in [EventKind::Store, EventKind::Rule, EventKind::Role, EventKind::Effect] {
        assert!(kinds.contains(&kind), "{kind:?} in {kinds:?}");
    }
    assert_eq!(node.driver.store(), &StoreHealth::Fresh);

    // What fails is tried again, but never in a tight loop.
    let (ticks, began) = (node.ticks, crate::clock::now());
    node.until("two seconds", 4000, |_, _| crate::clock::now().since(began) > Millis(2000));
    assert!(node.ticks - ticks < 40, "{} ticks in two seconds", node.ticks - ticks);
}

#[test]
fn a_changed_configuration_takes_effect_and_a_wrong_one_does_not() {
    let etcd = TestEtcd::start();
    let mut node = Node::start(&etcd, "pg1");
    node.until("member key", 8000, |driver, _| member_in_store(driver, "pg1"));
    let put = |value: &str| etcd.ctl(&["put", "/service/batman/config", value]);
    put(r#"{"ttl": 40, "loop_wait": 3, "retry_timeout": 4}"#);
    node.until("changed settings", 2000, |driver, _| driver.settings().ttl_ms == Millis(40_000));
    assert_eq!(node.port.configs.last().map(|config| config.dynamic.loop_wait_ms), Some(Millis(3000)));
    assert_eq!(node.driver.settings().bootstrap_dcs["ttl"], 40, "what a wiped store is given back");
    let configs = node.port.configs.len();

    put(r#"{"ttl": "soon", "loop_wait": 3}"#);
    let refused = |driver: &Driver, _: &BareNode| {
        let mut failures = driver.events().since(0).filter(|event| event.kind == EventKind::Failure);
        failures.any(|event| event.text.contains("ttl"))
    };
    node.until("refusal", 2000, refused);
    etcd.ctl(&["del", "/service/batman/config"]);
    node.until("view without configuration", 2000, |driver, _| {
        driver.cluster().is_some_and(|cluster| cluster.config.is_none())
    });
    assert_eq!(node.driver.settings().ttl_ms, Millis(40_000));
    assert_eq!(node.port.configs.len(), configs);

    let mut edited = local(&etcd, "pg1");
    edited["tags"] = json!({"nofailover": true});
    node.driver.reload(edited.clone(), BTreeMap::new(), &mut node.port).expect("a good edit");
    assert!(node.driver.settings().tags.nofailover());
    edited["name"] = json!("pg9");
    edited["tags"] = json!({});
    let refused = node.driver.reload(edited, BTreeMap::new(), &mut node.port).expect_err("another node");
    assert_eq!(refused.problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), ["name"]);
    assert!(node.driver.settings().tags.nofailover(), "nothing of a refused file is in force");
}

#[test]
fn an_unreachable_store_is_said_since_its_first_failure_until_it_is_back() {
    let etcd = TestEtcd::start();
    let mut node = Node::start(&etcd, "pg1");
    node.until("member key", 8000, |driver, _| member_in_store(driver, "pg1"));
    let frozen_at = crate::clock::now();
    etcd.freeze();
    let unreachable = |driver: &Driver| match driver.store() {
        StoreHealth::Unreachable { since, .. } => Some(*since),
        StoreHealth::Fresh => None,
    };
    node.until("loss", 15_000, |driver, _| unreachable(driver).is_some());
    let since = unreachable(&node.driver).expect("lost");
    assert!(since >= frozen_at);
    let began = crate::clock::now();
    node.until("a second", 3000, |_, _| crate::clock::now().since(began) > Millis(1000));
    assert_eq!(unreachable(&node.driver), Some(since), "still since the first failure");
    let local = node.port.observe();
    node.driver.with_view(crate::clock::now(), Seat::Outside, &local, |view| {
        assert!(matches!(view.dcs, DcsView::Unreachable { last: Some(_), .. }));
    });
    // No request is begun for a while after one has failed, but the return of the store ends that.
    node.driver.memory.store_failed_at = Some(crate::clock::now() + Millis(60_000));
    etcd.thaw();
    node.until("return", 10_000, |driver, _| driver.store() == &StoreHealth::Fresh);
    let held_back = node.driver.memory().store_failed_at.is_some_and(|at| at > crate::clock::now());
    assert!(!held_back, "{:?}", node.driver.memory().store_failed_at);
}

fn texts(driver: &Driver, kind: EventKind) -> Vec<&str> {
    driver.events().since(0).filter(|event| event.kind == kind).map(|event| event.text.as_str()).collect()
}

#[test]
fn a_store_that_was_never_reached_is_named_with_the_reason() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let mut layers = Layers { local: local_at("pg1", &nobody.to_string()), ..Layers::default() };
    layers.local["bootstrap"] = json!({"dcs": {"ttl": 5, "loop_wait": 1, "retry_timeout": 2}});
    let mut node = Node::of(layers);
    node.until("reason", 8000, |driver, _| {
        let told = texts(driver, EventKind::Store);
        told.iter().any(|text| text.contains(&nobody.to_string()) && text.contains("refused"))
    });
    node.until("request without an answer", 8000, |driver, _| {
        let told = texts(driver, EventKind::Failure);
        told.iter().any(|text| text.contains("did not answer the request to keep the node lease"))
    });
    let told = texts(&node.driver, EventKind::Failure).len();
    let began = crate::clock::now();
    node.until("three seconds", 4000, |_, _| crate::clock::now().since(began) > Millis(3000));
    assert_eq!(texts(&node.driver, EventKind::Failure).len(), told, "said once");
}

#[test]
fn a_request_that_the_store_refuses_is_named_with_the_reason() {
    let etcd = TestEtcd::start();
    etcd.ctl(&["user", "add", "root:root"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["user", "add", "reader:secret"]);
    etcd.ctl(&["role", "add", "reader"]);
    etcd.ctl(&["role", "grant-permission", "reader", "read", "--prefix=true", "/service/"]);
    etcd.ctl(&["user", "grant-role", "reader", "reader"]);
    etcd.ctl(&["auth", "enable"]);
    let mut layers = Layers { local: local(&etcd, "pg1"), ..Layers::default() };
    layers.local["etcd3"]["username"] = json!("reader");
    layers.local["etcd3"]["password"] = json!("secret");
    let mut node = Node::of(layers);
    node.until("refusal", 8000, |driver, _| {
        let told = texts(driver, EventKind::Failure);
        told.iter().any(|text| text.contains("the store refuses the request to") && text.contains("permission denied"))
    });
    assert!(texts(&node.driver, EventKind::Failure).iter().all(|text| !text.contains("secret")));
}

#[test]
fn a_node_that_leaves_its_seat_ends_its_request_and_begins_no_other() {
    let etcd = TestEtcd::start();
    let mut node = Node::start(&etcd, "pg1");
    // The first request is under way.
    node.until("first request", 5000, |driver, _| driver.dcs_busy);
    node.driver.begin_leaving();
    node.until("quiet", 5000, |driver, _| driver.quiet());
    let memory = node.driver.memory().clone();
    assert!(memory.session.is_some(), "its end is in the memory");
    node.port.seatless = true;
    assert_eq!(node.driver.tick(&mut node.port).rule, None);

    let mut other = Node::start(&etcd, "pg1");
    other.driver.take_seat(memory.clone());
    other.port.seatless = true;
    // The seat's holder is silent: its lease is kept alive without a decision.
    let ttl_left = || {
        let lease = format!("{:x}", memory.session.expect("a lease").0);
        etcd.ctl(&["lease", "timetolive", &lease])
    };
    std::thread::sleep(Duration::from_millis(2100));
    assert!(!ttl_left().contains("remaining(19s)"), "{}", ttl_left());
    other.driver.keep_session();
    other.until("kept", 5000, |driver, _| driver.quiet());
    assert!(ttl_left().contains("remaining(19s)"), "{}", ttl_left());
    other.port.seatless = false;
    other.until("member key", 8000, |driver, _| member_in_store(driver, "pg1"));
    let lease = other.driver.cluster().and_then(|cluster| cluster.members[&NodeName::new("pg1")].lease);
    assert_eq!(lease, memory.session, "the other seat goes on with the same lease");
}

#[test]
fn a_node_that_leaves_its_seat_in_a_hurry_waits_for_a_hanging_store_no_longer_than_a_moment() {
    let etcd = TestEtcd::start();
    let mut node = Node::start(&etcd, "pg1");
    node.until("member key", 8000, |driver, _| member_in_store(driver, "pg1"));
    node.until("its end", 8000, |driver, _| !driver.dcs_busy);
    etcd.freeze();
    node.driver.keep_session();
    let began = crate::clock::now();
    node.driver.begin_leaving();
    node.driver.hurry();
    node.until("quiet", 2500, |driver, _| driver.quiet());
    let took = crate::clock::now().since(began);
    assert!((Millis(250)..Millis(1500)).contains(&took), "{took:?}");
    assert!(node.driver.memory().store_failed_at.is_some(), "it had no answer");
    // The same side goes on: what was given up is not mistaken for what it asks next.
    etcd.thaw();
    let memory = node.driver.memory().clone();
    let lease = memory.session;
    node.driver.take_seat(memory);
    node.until("an answer", 8000, |driver, _| driver.memory().store_failed_at.is_none());
    assert_eq!(node.driver.memory().session, lease);
}

#[test]
fn a_node_that_cannot_leave_after_all_sends_requests_again() {
    let etcd = TestEtcd::start();
    let mut node = Node::start(&etcd, "pg1");
    node.until("first request", 5000, |driver, _| driver.dcs_busy);
    node.driver.begin_leaving();
    let began = crate::clock::now();
    node.until("a moment", 2000, |_, _| crate::clock::now().since(began) > Millis(500));
    assert!(!member_in_store(&node.driver, "pg1"), "nothing is begun while it leaves");
    let memory = node.driver.memory().clone();
    node.driver.take_seat(memory.clone());
    node.until("member key", 8000, |driver, _| member_in_store(driver, "pg1"));
    let lease = node.driver.cluster().and_then(|cluster| cluster.members[&NodeName::new("pg1")].lease);
    assert_eq!(lease, memory.session, "with the lease it had");
}

#[test]
fn a_fence_that_is_opened_while_the_key_is_lost_is_closed_again() {
    let etcd = TestEtcd::start();
    let mut node = Node::start(&etcd, "pg1");
    let now = crate::clock::now();
    let lease = |created| Lease::confirmed(LeaseId(7), Revision(created), now, Millis(20_000));
    node.driver.net.acting().set_lost(&lease(11));
    let open = |created| [Effect::OpenFence { lease: lease(created) }, Effect::Checkpoint];
    node.driver.execute(&mut node.port, now, now, &open(11));
    assert_eq!(node.port.executed, [open(11)[0].clone(), Effect::CloseFence], "and nothing after it");
    node.port.executed.clear();
    node.driver.execute(&mut node.port, now, now, &open(12));
    assert_eq!(node.port.executed, open(12));
}

/// Whoever goes on from a side that dies with the request under way must know of it.
#[test]
fn a_release_is_told_before_it_is_sent() {
    const LEADER: &str = "/service/batman/leader";
    let etcd = TestEtcd::start();
    let granted = etcd.ctl(&["lease", "grant", "60"]);
    let lease = granted.split_whitespace().nth(1).expect("a lease");
    etcd.ctl(&["put", "--lease", lease, LEADER, "pg1"]);
    let mut node = Node::start(&etcd, "pg1");
    node.until("leader key", 8000, |driver, _| driver.cluster().is_some_and(|cluster| cluster.leader.is_some()));
    let key = node.driver.cluster().and_then(|cluster| cluster.leader.clone()).expect("a leader key");
    node.until("quiet", 5000, |driver, _| !driver.dcs_busy);
    // The data directory is gone, so the key is given up once this is over.
    let lease = Lease::confirmed(key.lease, key.created, crate::clock::now(), Millis(1000));
    node.driver.memory = Memory { lease: Some(lease), session: Some(key.lease), ..Memory::default() };
    let mut told = None;
    let deadline = crate::clock::now() + Millis(8000);
    while told.is_none() && crate::clock::now() < deadline {
        node.driver.tick_telling(&mut node.port, &mut |memory| {
            std::thread::sleep(Duration::from_millis(200));
            told = Some((memory.released, etcd.ctl(&["get", "--print-value-only", LEADER])));
            true
        });
        let _ = node.wakes.recv_timeout(Duration::from_millis(50));
    }
    let (released, there) = told.expect("the key is given up");
    assert_eq!((released, there.trim()), (Some(key.created), "pg1"), "what is told, and the key when it was");
    node.until("release", 5000, |driver, _| driver.cluster().is_some_and(|cluster| cluster.leader.is_none()));
}
