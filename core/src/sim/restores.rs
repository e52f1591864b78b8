//! An operator puts the cluster's keys back as they were at an earlier moment: each value from a dump, at a new revision and on no lease, but
//! for the leader key, which is sometimes on the lease that it had, with a whole ttl anew.

use super::kinds::{self, Kind};
use super::params::Weather;
use super::rng::Rng;
use super::world::World;
use crate::cluster::FailoverRequest;
use crate::dcs::{Key, LEADER_PATH, UNBOUND_PATH};
use crate::ids::{LeaseId, Timeline};
use std::collections::BTreeMap;

/// Dumps that are kept, and the least time between two in which nobody took or lost the leader key.
const DUMPS_MAX: usize = 24;
const DUMP_EVERY_MS: u64 = 3000;

/// Dumps as they were made, in order of time.
#[derive(Debug, Default)]
pub(super) struct Dumps {
    /// This world needs them.
    wanted: bool,
    last_at: u64,
    kept: Vec<Dump>,
}

#[derive(Clone, Debug)]
struct Dump {
    values: BTreeMap<String, String>,
    /// Of the leader key, with its ttl.
    lease: Option<(LeaseId, u64)>,
}

impl Dumps {
    pub(super) fn of(plan: &[super::schedule::Planned]) -> Self {
        let wanted = plan.iter().any(|planned| planned.kind == Kind::RestoreKeys);
        Self { wanted, ..Self::default() }
    }
}

/// Some seeds are worlds in which that happens. Drawn apart: the others are what they would be without it.
pub(super) fn among_them(weather: &mut Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0xdead_0ff5);
    if rng.chance(70) {
        weather.weights = kinds::restores();
        weather.every_ms = rng.skewed(4000, 40_000);
    } else if rng.chance(100) && weather.weights[Kind::DeleteKeys as usize] > 0 {
        weather.weights[Kind::RestoreKeys as usize] = 2;
    }
}

/// Whether a key is put back too: the leader key is often left out, because it belongs to who leads now.
struct Choice {
    leader: bool,
    members: bool,
    /// What the dump does not have is deleted first.
    exact: bool,
    /// How many of the others, per mille.
    share: u64,
}

impl World {
    /// The store has changed: an operator may have dumped it just now.
    pub(super) fn dump(&mut self, leader_changed: bool) {
        let due = leader_changed || self.now >= self.dumps.last_at + DUMP_EVERY_MS;
        if !self.dumps.wanted || !due || self.healed_at.is_some() {
            return;
        }
        self.dumps.last_at = self.now;
        if self.dumps.kept.len() == DUMPS_MAX {
            // Old ones get rarer.
            self.dumps.kept.remove(usize::try_from(self.now % (DUMPS_MAX as u64 / 2)).unwrap_or(0));
        }
        let lease = self.store.leader().map(|leader| leader.lease);
        let lease = lease.and_then(|lease| Some((lease, self.store.lease(lease)?.ttl_ms)));
        let values = self.store.values();
        self.dumps.kept.push(Dump { values, lease });
    }

    pub(super) fn operator_puts_back(&mut self) {
        let choice = Choice {
            leader: self.rng.chance(300),
            members: self.rng.chance(500),
            exact: self.rng.chance(500),
            share: [1000, 1000, 600][self.rng.index(3)],
        };
        let leader_stays = self.rng.chance(200);
        if self.dumps.kept.is_empty() {
            return;
        }
        let from = self.rng.index(self.dumps.kept.len());
        let Dump { values: mut dump, lease } = self.dumps.kept[from].clone();
        let before = self.store.leader();
        let now = self.store.values();
        let share = choice.share;
        let rng = &mut self.rng;
        dump.retain(|path, _| match path.as_str() {
            LEADER_PATH => choice.leader,
            path if path.starts_with("members/") => choice.members,
            _ => rng.chance(share),
        });
        self.before_a_member_joined(&mut dump);
        let whole = choice.exact && share == 1000;
        self.log.line(
            self.now,
            "oper",
            &format!("operator: puts back {} keys{}", dump.len(), if whole { " and nothing else" } else { "" }),
        );
        if whole {
            let keeps = |path: &str| leader_stays && path == LEADER_PATH;
            self.store.delete_where(|path| !keeps(path));
        } else if !leader_stays && !dump.contains_key(LEADER_PATH) {
            self.store.delete(LEADER_PATH);
        }
        let lease = lease.filter(|_| Rng::new(self.now ^ 0x0_1ea5).chance(400));
        for (path, value) in &dump {
            let lease = lease.filter(|_| path == LEADER_PATH).map(|(lease, _)| lease);
            self.store.put(path, value, lease);
        }
        if let Some((lease, ttl_ms)) = lease.filter(|_| dump.contains_key(LEADER_PATH)) {
            self.log.line(self.now, "oper", &format!("operator: the leader key is on lease {lease} again"));
            self.store.grant_again(self.now, lease, ttl_ms);
            self.watch_lease(lease);
        }
        self.note_what_changed(&now, dump.contains_key("failover"));
        self.judge.put_back = true;
        self.store_changed(before.as_ref());
        self.judge.put_back = false;
    }

    /// Some dumps are older than one of the members. Drawn apart, and after what else is drawn.
    fn before_a_member_joined(&self, dump: &mut BTreeMap<String, String>) {
        let mut rng = Rng::new(self.now ^ 0x0_1157);
        let Some(list) = dump.get_mut(&Key::Failsafe.path()).filter(|_| rng.chance(400)) else { return };
        let Ok(mut names) = serde_json::from_str::<BTreeMap<String, String>>(list) else { return };
        let doomed = names.keys().nth(rng.index(names.len().max(1))).cloned();
        if let Some(name) = doomed.filter(|_| names.len() > 1) {
            names.remove(&name);
            *list = serde_json::json!(names).to_string();
        }
    }

    /// What the judge has to know of it.
    fn note_what_changed(&mut self, before: &BTreeMap<String, String>, asks: bool) {
        let after = self.store.values();
        let changed = |path: &str| before.get(path) != after.get(path);
        if changed("history") {
            self.judge.newest_history = Timeline(0);
        }
        self.judge.initialize_wiped |= changed("initialize");
        super::invariants::i05::is_founded(self);
        super::invariants::i11::claims_changed(self, before);
        if changed(&Key::Failsafe.path()) {
            super::invariants::i02::list_changed(self);
        }
        if changed(UNBOUND_PATH) {
            super::invariants::i07::wiped(self);
        }
        let paused = self.store.cluster().paused();
        if changed("config") && paused != Some(self.judge.paused_since.is_some()) {
            self.judge.paused_since = (paused == Some(true)).then_some(self.now);
        }
        // As if somebody had asked for it now.
        let request = after.get("failover").filter(|_| asks);
        let request = request.and_then(|text| serde_json::from_str::<FailoverRequest>(text).ok());
        let scheduled = request.as_ref().and_then(|request| request.scheduled_at.as_deref());
        let at_ms = scheduled.and_then(|text| crate::schedule::unix_ms(text).ok());
        if let (Some(at_ms), Some(key)) = (at_ms, self.store.key("failover")) {
            self.judge.appointments.made(key.modified, at_ms);
        }
        let named = request.and_then(|request| request.member);
        if let Some(node) = named.and_then(|name| self.nodes.iter().position(|node| node.name == name)) {
            self.judge.named = Some((node, self.now));
        }
    }
}
