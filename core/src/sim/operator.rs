//! Operators: requests as patronictl writes them, and hands on keys that nobody should touch.

use super::node::Phase;
use super::world::World;
use crate::cluster::FailoverRequest;
use crate::dcs::{Key, LEADER_PATH, UNBOUND_PATH};

/// How long an operator looks on while nobody leads.
const STALEMATE_MS: u64 = 60_000;

impl World {
    /// Writes the failover key: mostly a sensible request, sometimes one that must be refused.
    pub(super) fn operator_asks(&mut self, switchover: bool) {
        let leader = self.store.leader().map(|key| key.name);
        let candidate = self.rng.index(self.nodes.len());
        let named = self.rng.chance(750);
        let wrong_leader = self.rng.chance(60);
        let member = (named || !switchover).then(|| self.nodes[candidate].name.clone());
        let leader = if wrong_leader { Some(self.nodes[candidate].name.clone()) } else { leader };
        let Some(leader) = leader.or_else(|| (!switchover).then(|| self.nodes[0].name.clone())) else { return };
        let request = FailoverRequest { leader: switchover.then_some(leader), member, ..FailoverRequest::default() };
        if switchover && self.rng.chance(250) {
            return self.operator_schedules(request);
        }
        let Ok(value) = serde_json::to_string(&request) else { return };
        if request.member.is_some() {
            self.judge.named = Some((candidate, self.now));
        }
        let text = format!("operator: failover := {value}");
        self.log.line(self.now, "oper", &text);
        let before = self.store.leader();
        self.store.put(&Key::Failover.path(), &value, None);
        self.store_changed(before.as_ref());
    }

    pub(super) fn operator_deletes_leader(&mut self) {
        let before = self.store.leader();
        if self.rng.chance(200) {
            let named = self.rng.index(self.nodes.len());
            let name = self.nodes[named].name.clone();
            let text = format!("operator: leader := {name} on no lease");
            self.log.line(self.now, "oper", &text);
            self.store.put(LEADER_PATH, name.as_str(), None);
            self.store_changed(before.as_ref());
            return;
        }
        if self.store.delete(LEADER_PATH) {
            self.log.line(self.now, "oper", "operator: deletes the leader key");
            self.store_changed(before.as_ref());
        }
    }

    /// Maintenance mode, by the store, or by what was known before somebody deleted it.
    pub(super) fn paused(&mut self) -> bool {
        let known = || self.judge.paused_since.is_some() || self.nodes.iter().any(|node| node.kept_pause);
        self.store.cluster().paused().unwrap_or_else(known)
    }

    /// Begins or ends maintenance mode. While a former leader may acknowledge without a lease an end is refused, mostly.
    pub(super) fn operator_pauses(&mut self) {
        let cluster = self.store.cluster();
        let paused = self.paused();
        // Where somebody deleted it, a new one is put there.
        let config = cluster.config.as_ref().map(|config| config.value.clone());
        let Some(mut value) = config.or_else(|| paused.then(|| serde_json::json!({}))) else { return };
        let leader = cluster.leader.as_ref().map(|leader| leader.name.clone());
        let held = paused && cluster.unbound.keys().any(|name| Some(name) != leader.as_ref());
        // Some tools write to the store without asking anybody.
        if held && !self.rng.chance(400) {
            return;
        }
        value["pause"] = serde_json::Value::Bool(!paused);
        let text = format!("operator: {}", if paused { "resumes" } else { "pauses" });
        self.log.line(self.now, "oper", &text);
        self.store.put(&Key::Config.path(), &value.to_string(), None);
        self.judge.paused_since = (!paused).then_some(self.now);
        self.store_changed(cluster.leader.as_ref());
    }

    /// `pg_ctl promote` in maintenance mode, on a standby whose next timeline nobody has claimed.
    pub(super) fn promotes_by_hand(&mut self, node: usize) {
        if self.paused() && self.promoted_by_hand(node) {
            self.noted_beside_leader(node);
        }
    }

    /// The same by mistake, outside maintenance mode, while another leads.
    pub(super) fn promotes_beside_leader(&mut self, node: usize) {
        if self.another_leads(node) && !self.paused() && self.promoted_by_hand(node) {
            self.noted_beside_leader(node);
        }
    }

    fn another_leads(&self, node: usize) -> bool {
        self.store.leader().is_some_and(|leader| leader.name != self.nodes[node].name)
    }

    fn noted_beside_leader(&mut self, node: usize) {
        if !self.another_leads(node) {
            return;
        }
        self.nodes[node].mistaken_at = self.now;
        if let Some(server) = &mut self.nodes[node].server {
            server.beside_leader = true;
        }
    }

    fn promoted_by_hand(&mut self, node: usize) -> bool {
        let Some(data) = self.nodes[node].disk.data() else { return false };
        let next = crate::ids::Timeline(self.wal.branch(data.at.branch).timeline.0 + 1);
        let free = self.store.key(&Key::TimelineClaim(next).path()).is_none();
        // Whoever says that a node must not lead does not promote it.
        let free = free && !self.nodes[node].settings.tags.nofailover();
        let free = free && self.wal.branches().iter().all(|branch| branch.timeline < next);
        // One that may not lead would be in its own way after a restart.
        let allowed = !self.nodes[node].settings.tags.nofailover() && !self.watchdog_bars(node);
        let Some(server) = &mut self.nodes[node].server else { return false };
        if !free || !allowed || server.phase != Phase::Standby || server.promoting || !server.consistent {
            return false;
        }
        server.by_hand = true;
        self.say(node, "operator: promotes by hand");
        self.begin_promotion(node);
        true
    }

    /// Whose data is lost cannot take its name back: an operator has to say that its server does not run.
    fn operator_overrules(&mut self) {
        if self.store.key(UNBOUND_PATH).is_some() {
            self.log.line(self.now, "oper", "operator: ends maintenance mode by force");
            self.store.delete(UNBOUND_PATH);
            self.store_changed(None);
        }
    }

    /// Whoever promoted a standby by hand that lacked too much to be elected, and lost it before it took the key, has to name it; and where
    /// he took claims away, so that a timeline was made twice and numbers tell no more who is ahead, whoever led last.
    pub(super) fn operator_ends_a_stalemate(&mut self) {
        let healed = self.healed_at.unwrap_or(self.now);
        if self.store.leader().is_some() || self.now - healed < STALEMATE_MS {
            return;
        }
        self.operator_overrules();
        let newest = self.wal.branches().iter().map(|branch| branch.timeline).max();
        let newest = self.judge.made_by_hand.iter().find(|branch| Some(self.wal.branch(**branch).timeline) == newest);
        let by_hand = newest.map(|branch| self.wal.branch(*branch).owner);
        let led_last = self.store.cluster().last_leader.as_ref().map(|last| last.value.leader.clone());
        let led_last = self.nodes.iter().position(|node| Some(&node.name) == led_last.as_ref());
        let Some(owner) = by_hand.or(led_last.filter(|_| self.judge.made_twice)) else { return };
        if self.judge.stalemate_ended {
            return;
        }
        self.judge.stalemate_ended = true;
        self.judge.named = Some((owner, self.now));
        let request = FailoverRequest {
            leader: None,
            member: Some(self.nodes[owner].name.clone()),
            ..FailoverRequest::default()
        };
        let Ok(value) = serde_json::to_string(&request) else { return };
        self.log.line(self.now, "oper", &format!("operator: failover := {value}"));
        self.store.put(&Key::Failover.path(), &value, None);
        self.store_changed(None);
    }

    /// `pg_ctl start` in maintenance mode.
    pub(super) fn starts_by_hand(&mut self, node: usize) {
        let here = &self.nodes[node];
        if here.up && here.server.is_none() && here.step.is_none() && here.disk.data().is_some() && here.kept_pause {
            self.say(node, "operator: starts the server by hand");
            self.start_server(node);
        }
    }

    /// One key, all but the claims, or (rarely) everything.
    pub(super) fn operator_deletes_keys(&mut self) {
        let before = self.store.leader();
        let what = self.rng.below(9);
        let doomed = ["status", "history", "config", "initialize", "members", "", "", "ha_ext", "all"];
        let prefix = doomed[usize::try_from(what).unwrap_or(0)];
        let text = format!("operator: deletes {}", if prefix.is_empty() { "all but the claims" } else { prefix });
        self.log.line(self.now, "oper", &text);
        if matches!(prefix, "" | "all" | "history") {
            self.judge.newest_history = crate::ids::Timeline(0);
        }
        self.judge.initialize_wiped |= matches!(prefix, "" | "all" | "initialize");
        if matches!(prefix, "all" | "ha_ext") {
            super::invariants::i07::wiped(self);
        }
        if matches!(prefix, "" | "all") {
            super::invariants::i02::list_changed(self);
        }
        let keys = self.store.values();
        match prefix {
            "" => self.store.delete_where(|path| !path.starts_with("ha_ext/")),
            "all" => self.store.delete_where(|_| true),
            prefix => self.store.delete_where(|path| path.starts_with(prefix)),
        }
        super::invariants::i11::claims_changed(self, &keys);
        self.store_changed(before.as_ref());
    }
}
