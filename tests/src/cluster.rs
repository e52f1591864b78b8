//! A cluster under test.

use crate::etcd::{Etcd, Place};
use crate::net::Network;
use crate::node::Node;
use crate::oracle::{FlushWatch, Flushed, Verdict, judge};
use crate::plan::{Plan, Site};
use crate::ports::Ports;
use crate::rest::{self, Reply};
use crate::scratch::Scratch;
use crate::sql::Server;
use crate::terms::TermWatch;
use crate::wait::{poll, secs};
use crate::writer::{Ack, CREATE_TABLE, Refusal, Style, Target, Writers};
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// The cluster. Fields are dropped in this order.
#[derive(Debug)]
pub struct Cluster {
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Its store.
    pub etcd: Etcd,
    /// Its network, when it has one of its own.
    pub network: Option<Network>,
    /// What was asked for.
    pub plan: Plan,
    ports: Ports,
    /// Its directory.
    pub scratch: Scratch,
}

/// Writers that go to any primary.
const ROAMING: usize = 2;

impl Cluster {
    /// Starts etcd and prepares the nodes; starts none of them.
    #[must_use]
    pub fn prepare(plan: Plan) -> Self {
        let scratch = Scratch::new();
        let network = plan.network.then(|| Network::enter(plan.nodes + plan.etcd_members + plan.spare_machines));
        Self::build(plan, scratch, network, None)
    }

    /// Prepares a second cluster on the etcd of this one.
    #[must_use]
    pub fn beside(&self, plan: Plan) -> Self {
        assert!(self.network.is_none() && !plan.network, "two clusters can only share loopback");
        Self::build(plan, Scratch::new(), None, Some(self.etcd.attach()))
    }

    fn build(plan: Plan, scratch: Scratch, network: Option<Network>, etcd: Option<Etcd>) -> Self {
        let mut ports = Ports::claim();
        let mut place = |index: usize, fixed: u16| match &network {
            Some(network) => {
                let host = network.host(index);
                (host.address.clone(), fixed, Some(host.netns.clone()))
            }
            None => ("127.0.0.1".to_owned(), ports.take(), None),
        };
        let sites: Vec<Site> = (0..plan.nodes)
            .map(|index| {
                let (host, pg_port, netns) = place(index, 5432);
                let (_, rest_port, _) = place(index, 8008);
                let name = format!("n{}", index + 1);
                Site { dir: scratch.path().join(&name), name, host, pg_port, rest_port, netns }
            })
            .collect();
        let etcd = etcd.unwrap_or_else(|| {
            let places = (0..plan.etcd_members).map(|member| {
                let (host, client_port, netns) = place(plan.nodes + member, 2379);
                let (_, peer_port, _) = place(plan.nodes + member, 2380);
                Place { host, client_port, peer_port, netns }
            });
            Etcd::start(scratch.path(), places.collect())
        });
        let nodes = sites.iter().map(|site| Node::prepare(&plan, site, &etcd.endpoints())).collect();
        Self { nodes, etcd, network, plan, ports, scratch }
    }

    /// A healthy cluster with the writers' table.
    #[must_use]
    pub fn running(plan: Plan) -> Self {
        let mut cluster = Self::prepare(plan);
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.wait_ready_to_switch();
        cluster.create_table();
        cluster
    }

    /// Waits until the leader too says that every standby streams: one that has just connected catches up first.
    #[allow(clippy::must_use_candidate)] // Often only the waiting matters.
    pub fn wait_ready_to_switch(&self) -> usize {
        let leader = self.wait_healthy(secs(60));
        let others = (self.nodes.len() - 1).to_string();
        self.wait("every standby to have caught up", secs(30), || {
            let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            (self.nodes[leader].value(streaming).ok()?? == others).then_some(leader)
        })
    }

    /// Creates the writers' table and waits until every standby has it.
    pub fn create_table(&self) {
        let leader = self.leader().expect("a healthy cluster has a leader");
        self.nodes[leader].sql(CREATE_TABLE).expect("the leader accepts DDL");
    }

    /// The cluster's directory in the store.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("/service/{}/{name}", self.plan.scope)
    }

    /// Who holds the leader key.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let name = self.etcd.get(&self.key("leader"))?;
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Polls until `look` yields a value; otherwise fails with all there is to know.
    pub fn wait<T>(&self, what: &str, within: Duration, look: impl FnMut() -> Option<T>) -> T {
        poll(within, look).unwrap_or_else(|| panic!("waited {within:?} for {what}\n{}", self.diagnosis()))
    }

    /// Waits until a node holds the key, says so, and is out of recovery.
    #[must_use]
    pub fn wait_leader(&self, within: Duration) -> usize {
        self.wait("a leader", within, || self.ready_leader())
    }

    /// Waits until another node leads.
    #[must_use]
    pub fn wait_other_leader(&self, old: usize, within: Duration) -> usize {
        self.wait("another leader", within, || self.ready_leader().filter(|leader| *leader != old))
    }

    fn ready_leader(&self) -> Option<usize> {
        let leader = self.leader()?;
        let node = &self.nodes[leader];
        (node.is("/primary") && node.primary_timeline().is_some()).then_some(leader)
    }

    /// Waits until one node leads and every other streams from it on its timeline; who leads.
    #[allow(clippy::must_use_candidate)] // Often only the waiting matters.
    pub fn wait_healthy(&self, within: Duration) -> usize {
        self.wait("one leader and all others streaming", within, || self.healthy())
    }

    /// Who leads, if every other node streams from it on its timeline.
    #[must_use]
    pub fn healthy(&self) -> Option<usize> {
        let leader = self.ready_leader()?;
        let timeline = self.nodes[leader].primary_timeline()?;
        let others = self.nodes.iter().enumerate().filter(|(index, _)| *index != leader);
        others.map(|(_, node)| node).all(|node| node.streams_on(&timeline) && !node.is("/primary")).then_some(leader)
    }

    /// The members' current timeline, by the leader.
    #[must_use]
    pub fn timeline(&self) -> Option<u32> {
        self.nodes[self.leader()?].primary_timeline()?.parse().ok()
    }

    /// Switches over through REST and waits until the candidate owns the key; what the answer said.
    #[allow(clippy::must_use_candidate)] // Mostly for the deed.
    pub fn switch_over(&self, from: usize, to: usize) -> String {
        let reply = self.switchover(from, to).unwrap_or_else(|error| panic!("{error}\n{}", self.diagnosis()));
        // 202: the server that was asked had to stop before it could see the result.
        assert!(matches!(reply.status, 200 | 202), "{} {}\n{}", reply.status, reply.body, self.diagnosis());
        let to_name = &self.nodes[to].name;
        self.wait(&format!("{to_name} to lead"), secs(30), || (self.leader() == Some(to)).then_some(()));
        reply.body
    }

    /// Asks for a switchover through REST.
    pub fn switchover(&self, from: usize, to: usize) -> Result<Reply, String> {
        let body = json!({ "leader": self.nodes[from].name, "candidate": self.nodes[to].name });
        rest::post(&self.nodes[from].rest, "/switchover", &body)
    }

    /// A port of loopback that nobody of this cluster uses.
    pub fn spare_port(&mut self) -> u16 {
        self.ports.take()
    }

    /// Waits until a leader has begun the part of a switchover that takes milliseconds: it is ready to become a standby.
    #[must_use]
    pub fn saw_parked(&self, leader: usize, within: Duration) -> bool {
        let signal = self.nodes[leader].data().join("standby.signal");
        let begun = Instant::now();
        while begun.elapsed() < within {
            if signal.exists() {
                return true;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        false
    }

    /// A node that is not this one.
    #[must_use]
    pub fn other_than(&self, node: usize) -> usize {
        (node + 1) % self.nodes.len()
    }

    /// Addresses of all servers, this node's first.
    #[must_use]
    pub fn servers_from(&self, first: usize) -> Vec<Server> {
        (0..self.nodes.len()).map(|step| self.nodes[(first + step) % self.nodes.len()].server.clone()).collect()
    }

    /// Starts writing and watching.
    #[must_use]
    pub fn observe(&self) -> Observation {
        let name = |server: &Server| format!("{}:{}", server.host, server.port);
        let holders = self.nodes.iter().map(|node| (node.name.clone(), name(&node.server))).collect();
        let terms = TermWatch::start(self.etcd.attach(), self.key("leader"), holders);
        let roaming = (0..ROAMING).map(|_| Target::AnyPrimary(self.servers_from(0)));
        let pinned = self.nodes.iter().map(|node| Target::Pinned(node.server.clone()));
        let writers = Writers::start(roaming.chain(pinned).collect(), &Style::default());
        let servers: Vec<Server> = self.nodes.iter().map(|node| node.server.clone()).collect();
        let observation = Observation { writers, watch: FlushWatch::start(&servers), terms };
        self.wait("the writers to be under way", secs(20), || (observation.writers.acked() > 50).then_some(()));
        observation
    }

    /// Everything there is to know, for a failed test.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        let mut text = String::new();
        if let Some(reply) = self.nodes.iter().find_map(|node| node.get("/cluster").ok()) {
            let _ = writeln!(text, "GET /cluster: {}", reply.body);
        }
        for node in &self.nodes {
            text += &node.diagnosis();
        }
        let _ = writeln!(text, "--- etcd\n{}", self.etcd.dump());
        text
    }

    /// Ends an observation on a healthy cluster: every standby has what the leader has; returns the verdict.
    #[must_use]
    pub fn conclude(&self, observation: Observation) -> Conclusion {
        let (acks, refusals) = observation.writers.stop();
        let flushed = observation.watch.stop();
        let terms = observation.terms.stop();
        assert!(!terms.is_empty(), "the store was never seen to have a leader");
        let leader = self.wait_healthy(secs(60));
        self.wait_equal(leader);
        let verdict = judge(&acks, &flushed, &self.nodes[leader].server);
        let verdict = Verdict { late: terms.late(&acks), ..verdict };
        Conclusion { verdict, acks, refusals, flushed }
    }

    /// Waits until the leader holds commits: nothing is acknowledged for twelve times the pause between two writes.
    pub fn wait_held(&self, observation: &Observation) {
        let mut last = observation.writers.acked();
        self.wait("commits to be held", secs(10), || {
            std::thread::sleep(Duration::from_millis(60));
            let now = observation.writers.acked();
            (std::mem::replace(&mut last, now) == now).then_some(())
        });
    }

    /// Waits until nobody is asked to hand over any more. A request outlives the worker that followed it, and the next one follows it too:
    /// who leads says nothing before that is over.
    pub fn wait_answered(&self) {
        let asks = |text: String| text.contains("\"leader\"") || text.contains("\"member\"");
        let answered = || (!self.etcd.get(&self.key("failover")).is_some_and(asks)).then_some(());
        self.wait("the request to be answered", secs(30), answered);
    }

    /// Waits until every standby has replayed what the leader has written by now.
    pub fn wait_caught_up(&self, leader: usize) {
        let end =
            self.nodes[leader].value("SELECT pg_current_wal_lsn()").ok().flatten().expect("the leader has a position");
        let replayed = format!("SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= '{end}'");
        for node in &self.nodes {
            self.wait(&format!("{} to replay {end}", node.name), secs(60), || {
                (node.value(&replayed).ok()??.as_str() == "t").then_some(())
            });
        }
    }

    /// Waits until every standby shows the leader's rows.
    pub fn wait_equal(&self, leader: usize) {
        const DIGEST: &str =
            "SELECT count(*) || ' ' || coalesce(sum(hashint8(seq * 100 + writer)::bigint), 0) FROM ha_log";
        let wanted = self.nodes[leader].value(DIGEST).expect("the leader can be read");
        for node in &self.nodes {
            self.wait(&format!("{} to show the leader's rows", node.name), secs(30), || {
                (node.value(DIGEST).ok()? == wanted).then_some(())
            });
        }
    }
}

/// Writers and watchers at work.
#[derive(Debug)]
pub struct Observation {
    /// The writers.
    pub writers: Writers,
    watch: FlushWatch,
    terms: TermWatch,
}

impl Conclusion {
    /// What went wrong for the clients that write wherever the leader is; those that stay with a standby are always refused.
    #[must_use]
    pub fn client_errors(&self) -> Vec<&Refusal> {
        let roaming: BTreeSet<u32> = self.acks.iter().filter(|ack| ack.roaming).map(|ack| ack.writer).collect();
        self.refusals.iter().filter(|refusal| roaming.contains(&refusal.writer)).collect()
    }

    /// Fails the test if a client saw anything but success.
    pub fn expect_no_client_error(&self, story: &str) {
        let errors = self.client_errors();
        assert!(errors.is_empty(), "{story}: {} errors for clients, the first: {:?}", errors.len(), errors.first());
    }
}

/// What an observation showed.
#[derive(Debug)]
pub struct Conclusion {
    /// The judgement.
    pub verdict: Verdict,
    /// Every acknowledgement.
    pub acks: Vec<Ack>,
    /// Every refusal.
    pub refusals: Vec<Refusal>,
    /// What the standbys had flushed.
    pub flushed: Flushed,
}
