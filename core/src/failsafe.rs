//! What members promise each other while the store cannot be reached: as long as every one of them stays away from the leader key, the
//! leader may go on without it.

use crate::clock::{Millis, Tick};
use crate::cluster::Versioned;
use crate::ids::{NodeName, Revision};
use crate::lease::margin;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is remembered of it. It passes with the seat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failsafe {
    /// The `failsafe` key as it was seen last: who has to agree, and where to ask. Nobody else may take the leader key.
    #[serde(with = "crate::memory::shared_option")]
    pub map: Option<Arc<Versioned<BTreeMap<NodeName, String>>>>,
    /// The revision at which this leader wrote that key last, under its present leader key. None while another write of its own may be
    /// on its way.
    pub written: Option<Revision>,
    /// What the others promised this leader, under its present leader key.
    pub given: BTreeMap<NodeName, Given>,
    /// When the others were last asked.
    pub asked_at: Option<Tick>,
    /// Until when the fence was kept open by promises.
    pub extended: Option<Tick>,
    /// What this node promised to others.
    pub promised: BTreeMap<NodeName, Promised>,
    /// Since when this memory knows of every promise.
    pub complete_since: Option<Tick>,
    /// When it was last asked to keep another `ttl` on disk.
    pub keep_asked_at: Option<Tick>,
}

/// A promise made to this leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// When the question was sent.
    pub asked_at: Tick,
    /// The same, earlier by what passed unseen of the clock.
    pub counts_from: Tick,
    /// For how long it was given, less what passed unseen of the clock before this machine's boot.
    pub lasts: Millis,
}

/// A promise of this node not to take the leader key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// Until when, by this node's clock.
    pub until: Tick,
    /// The create revision of the leader key that the other leads by, if it said so.
    pub created: Option<Revision>,
}

/// A leader asks this node for its promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Given by the driver.
    pub number: u64,
    /// Who asks.
    pub from: NodeName,
    /// The create revision of the leader key that it leads by; other kinds do not say.
    pub created: Option<Revision>,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// This node stays away from the leader key for so long from now on.
    Accepted(Millis),
    /// Failsafe mode is off.
    Off,
    /// This node leads, or may.
    Leads,
    /// It cannot promise that.
    Refused(String),
}

/// What became of asking one member for its promise.
#[derive(Clone, Debug, PartialEq)]
pub struct PromiseView {
    /// Who was asked.
    pub name: NodeName,
    /// When the question was sent.
    pub asked_at: Tick,
    /// For which leader key.
    pub created: Revision,
    /// The answer.
    pub answer: PromiseAnswer,
}

/// The answer of a member that was asked for its promise.
#[derive(Clone, Debug, PartialEq)]
pub enum PromiseAnswer {
    /// The question is still under way.
    Pending,
    /// It did not answer in time, or did not promise.
    Refused(String),
    /// It promised for so long from its answer on.
    Promised(Millis),
}

impl Failsafe {
    /// The members that have to agree: those of the key that this leader wrote itself.
    #[must_use]
    pub fn members(&self) -> Option<&BTreeMap<NodeName, String>> {
        let own = self.map.as_ref().filter(|map| self.written == Some(map.revision));
        own.map(|map| &map.value)
    }

    /// Until when every other member stays away. It counts from when each was asked, which is before it answered, and a margin covers
    /// clocks that run at different rates.
    #[must_use]
    pub fn until(&self, me: &NodeName, now: Tick, ttl: Millis) -> Option<Tick> {
        let members = self.members().filter(|members| members.contains_key(me))?;
        let mut until = (now + ttl) - margin(ttl);
        for name in members.keys().filter(|name| *name != me) {
            let given = self.given.get(name)?;
            until = until.min((given.counts_from + given.lasts) - margin(given.lasts));
        }
        (now < until).then_some(until)
    }

    /// To whom this node has promised to stay away from the leader key, and for how much longer at most.
    #[must_use]
    pub fn binds(&self, now: Tick) -> Option<(&NodeName, Millis)> {
        let running = self.promised.iter().filter(|(_, promised)| now < promised.until);
        running.max_by_key(|(_, promised)| promised.until).map(|(name, promised)| (name, promised.until.since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader() -> Failsafe {
        let names = ["n1", "n2", "n3"].map(|name| (NodeName::new(name), format!("http://{name}:8008/patroni")));
        let given = |from: u64| Given { asked_at: Tick(from), counts_from: Tick(from), lasts: Millis(30_000) };
        Failsafe {
            map: Some(Arc::new(Versioned { value: names.into(), revision: Revision(7) })),
            written: Some(Revision(7)),
            given: [(NodeName::new("n2"), given(1000)), (NodeName::new("n3"), given(4000))].into(),
            ..Failsafe::default()
        }
    }

    #[test]
    fn the_first_promise_that_ends_counts_from_its_question() {
        let me = NodeName::new("n1");
        assert_eq!(leader().until(&me, Tick(5000), Millis(30_000)), Some(Tick(29_500)));
        assert_eq!(leader().until(&me, Tick(29_500), Millis(30_000)), None);
    }

    #[test]
    fn without_one_of_them_or_with_a_map_of_somebody_else_there_is_none() {
        let me = NodeName::new("n1");
        let until = |change: fn(&mut Failsafe)| {
            let mut failsafe = leader();
            change(&mut failsafe);
            failsafe.until(&me, Tick(5000), Millis(30_000))
        };
        assert_eq!(until(|failsafe| failsafe.given.retain(|name, _| name.as_str() != "n3")), None);
        assert_eq!(until(|failsafe| failsafe.written = None), None);
        assert_eq!(until(|failsafe| failsafe.written = Some(Revision(6))), None);
        assert_eq!(until(|failsafe| failsafe.map = None), None);
        assert!(until(|_| ()).is_some());
        assert_eq!(leader().until(&NodeName::new("n4"), Tick(5000), Millis(30_000)), None, "it is not of them");
    }

    #[test]
    fn a_leader_that_is_alone_needs_nobody() {
        let me = NodeName::new("n1");
        let map = Versioned { value: [(me.clone(), String::new())].into(), revision: Revision(7) };
        let alone = Failsafe { map: Some(Arc::new(map)), written: Some(Revision(7)), ..Failsafe::default() };
        assert_eq!(alone.until(&me, Tick(5000), Millis(10_000)), Some(Tick(14_500)));
    }
}
