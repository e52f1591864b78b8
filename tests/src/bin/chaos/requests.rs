//! Requests of operators for another leader.

use crate::history::At;
use crate::judge::Request;
use crate::schedule::{Kind, draw};
use ha_tests::cluster::Cluster;
use ha_tests::rest;
use serde_json::{Value, json};
use std::fmt;
use std::time::Instant;

/// One of them.
#[derive(Clone, Debug)]
pub struct Wanted {
    switchover: bool,
    /// Whose REST API is asked.
    name: String,
    base: String,
    body: Value,
}

impl Wanted {
    /// The leader is asked half of the time; a switchover names its candidate mostly, a failover always.
    pub fn draw(cluster: &Cluster, kind: Kind, leader: usize, dice: &mut u64) -> Self {
        let nodes = cluster.nodes.len();
        let mut some = |of: usize| usize::try_from(draw(dice, of as u64)).unwrap_or(0);
        let to = &cluster.nodes[(leader + 1 + some(nodes - 1)) % nodes].name;
        let asked = if some(2) == 0 { leader } else { some(nodes) };
        let from = &cluster.nodes[leader].name;
        let switchover = kind == Kind::Switchover;
        let body = match (switchover, some(3)) {
            (true, 0) => json!({ "leader": from }),
            (true, _) => json!({ "leader": from, "candidate": to }),
            _ => json!({ "candidate": to }),
        };
        let asked = &cluster.nodes[asked];
        Self { switchover, name: asked.name.clone(), base: asked.rest.clone(), body }
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, origin: Instant) -> Request {
        let now = || At::try_from(origin.elapsed().as_micros()).expect("a round is shorter than that");
        let asked = now();
        let reply = rest::post(&self.base, if self.switchover { "/switchover" } else { "/failover" }, &self.body);
        let (status, text) = reply.map_or_else(|error| (0, error), |reply| (reply.status, reply.body));
        println!("[{:>7.3}] {} answers {status}: {text}", origin.elapsed().as_secs_f64(), self.name);
        Request { switchover: self.switchover, asked, answered: now(), status }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " of {}: {}", self.name, self.body)
    }
}
