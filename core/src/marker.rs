//! What a data directory says of the lease that its node held.

use crate::ids::{LeaseId, NodeName};
use crate::local::Marker;
use crate::memory::Memory;

/// The lease that a marker should name. That of an earlier life stays until its leader key was adopted or seen to be gone: it
/// is the only proof that a key with our name is ours.
#[must_use]
pub fn lease_to_name(known: Option<&Marker>, me: &NodeName, memory: &Memory) -> Option<LeaseId> {
    let old = known.filter(|known| known.member == *me).and_then(|known| known.lease);
    let (Some(lease), Some(session)) = (old, memory.session) else { return memory.session.or(old) };
    let leads = memory.lease.is_some_and(|held| held.id == session);
    let other_leads = memory.last_leader.as_ref().is_some_and(|last| last.name != *me || last.lease != lease);
    if leads || other_leads || memory.leader_gone_at.is_some() { Some(session) } else { Some(lease) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Millis, Tick};
    use crate::cluster::LeaderKey;
    use crate::ids::{Revision, SystemId};
    use crate::lease::Lease;

    fn marker(lease: Option<i64>) -> Marker {
        Marker {
            scope: "demo".to_owned(),
            system_id: SystemId(7_312_345_678_901_234_567),
            member: NodeName::new("pg1"),
            lease: lease.map(LeaseId),
        }
    }

    #[test]
    fn the_lease_of_an_earlier_life_stays_while_a_key_may_hang_on_it() {
        let me = NodeName::new("pg1");
        let named = |known: Option<&Marker>, memory: &Memory| lease_to_name(known, &me, memory).map(|lease| lease.0);
        let old = marker(Some(5));
        let fresh = Memory { session: Some(LeaseId(6)), ..Memory::default() };
        assert_eq!(named(Some(&old), &Memory::default()), Some(5), "no lease yet");
        assert_eq!(named(Some(&old), &fresh), Some(5), "the store was not read yet");
        let leader = |name: &str, lease| {
            let key = LeaderKey { name: NodeName::new(name), lease: LeaseId(lease), created: Revision(9) };
            Memory { last_leader: Some(key), ..fresh.clone() }
        };
        assert_eq!(named(Some(&old), &leader("pg1", 5)), Some(5), "the key is there and was not adopted");
        assert_eq!(named(Some(&old), &leader("pg1", 6)), Some(6), "it was");
        assert_eq!(named(Some(&old), &leader("pg2", 8)), Some(6), "somebody else leads");
        let adopted = Lease::confirmed(LeaseId(6), Revision(9), Tick(0), Millis(30_000));
        let adopted = Memory { lease: Some(adopted), ..leader("pg1", 5) };
        assert_eq!(named(Some(&old), &adopted), Some(6), "adopted, and the watch has not shown it yet");
        let gone = Memory { leader_gone_at: Some(Tick(1)), ..leader("pg1", 5) };
        assert_eq!(named(Some(&old), &gone), Some(6), "seen to be gone");
        assert_eq!(named(Some(&marker(None)), &fresh), Some(6));
        assert_eq!(named(None, &fresh), Some(6));
        let copied = Marker { member: NodeName::new("pg2"), ..marker(Some(8)) };
        assert_eq!(named(Some(&copied), &Memory::default()), None, "it came along with a copy");
    }
}
