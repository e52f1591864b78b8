//! Operators: requests as patronictl writes them, and hands on keys that nobody should touch.

use super::world::World;
use crate::cluster::FailoverRequest;
use crate::dcs::{Key, LEADER_PATH};

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
        let request = FailoverRequest { leader: switchover.then_some(leader), member, scheduled_at: None };
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
        match prefix {
            "" => self.store.delete_where(|path| !path.starts_with("ha_ext/")),
            "all" => {
                self.judge.claims_wiped = true;
                self.store.delete_where(|_| true);
            }
            "ha_ext" => {
                self.judge.claims_wiped = true;
                self.store.delete_where(|path| path.starts_with("ha_ext/"));
            }
            prefix => self.store.delete_where(|path| path.starts_with(prefix)),
        }
        self.store_changed(before.as_ref());
    }
}
