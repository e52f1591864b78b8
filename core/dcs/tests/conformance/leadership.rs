//! Taking, keeping and giving up the leader key.

use super::{Backend, TAKE, kept, leader, released, snapshot, won};
use crate::support::clock;
use ha_core::clock::Millis;
use ha_core::cluster::{LastLeader, Released, TimelineClaim};
use ha_core::dcs::{ClaimAlong, DcsCall, DcsReply, Expect, LAST_LEADER_PATH, LEADER_PATH, RELEASED_PATH};
use ha_core::ids::{LeaseId, Lsn, NodeName, Revision, SystemId, Timeline};
use ha_core::parse;
use ha_dcs::Store;

pub async fn one_of_two_wins(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let lease = won(&mut a).await;
    assert_eq!(b.call(TAKE).await, DcsReply::Lost);
    let seen = snapshot(&mut b).await;
    let key = &seen.keys[LEADER_PATH];
    assert_eq!((key.value.as_str(), key.lease, key.created), ("a", Some(lease.id), lease.leader_created));
    assert_eq!(a.session(), Some(lease.id));
}

pub async fn acquiring_again_finds_our_own_key(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let first = won(&mut a).await;
    let second = won(&mut a).await;
    assert_eq!((first.id, first.leader_created), (second.id, second.leader_created));
    // A namesake does not have our lease.
    let (mut twin, _) = backend.node("a", Millis(10_000));
    assert_eq!(twin.call(TAKE).await, DcsReply::Lost);
}

pub async fn renewing_counts_from_sending(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let before = clock();
    let lease = won(&mut a).await;
    assert!((before..=clock()).contains(&lease.sent_at));
    assert_eq!(lease.ttl, Millis(10_000));
    crate::support::sleep_ms(30).await;
    let before = clock();
    let renewed = kept(&mut a, lease).await;
    assert!((before..=clock()).contains(&renewed.sent_at));
    assert_eq!((renewed.id, renewed.leader_created, renewed.ttl), (lease.id, lease.leader_created, lease.ttl));
}

pub async fn renewing_never_creates(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let lease = won(&mut a).await;
    backend.tool_delete(LEADER_PATH).await;
    assert_eq!(a.call(DcsCall::RenewLeader(lease)).await, DcsReply::Refused);
    assert_eq!(leader(&mut a).await, None);
    // The lease itself is fine.
    let reply = a.call(DcsCall::KeepSession).await;
    assert!(matches!(reply, DcsReply::SessionKept { lease: id, .. } if id == lease.id), "{reply:?}");
}

pub async fn an_overwritten_key_is_lost(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let lease = won(&mut a).await;
    // Even our own name: without our lease the key would outlive us.
    backend.tool_put(LEADER_PATH, "a").await;
    assert_eq!(a.call(DcsCall::RenewLeader(lease)).await, DcsReply::Refused);
    backend.tool_put(LEADER_PATH, "b").await;
    assert_eq!(a.call(DcsCall::RenewLeader(lease)).await, DcsReply::Refused);
    assert_eq!(a.call(TAKE).await, DcsReply::Lost);
    assert_eq!(leader(&mut a).await.as_deref(), Some("b"));
}

pub async fn a_deleted_and_remade_key_is_lost(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let first = won(&mut a).await;
    backend.tool_delete(LEADER_PATH).await;
    let second = won(&mut a).await;
    assert!(second.leader_created > first.leader_created);
    assert_eq!(a.call(DcsCall::RenewLeader(first)).await, DcsReply::Refused, "another acquisition");
    kept(&mut a, second).await;
}

pub async fn adopting_keeps_the_create_revision(backend: &impl Backend) {
    let (mut before, _) = backend.node("a", Millis(10_000));
    let old = won(&mut before).await;
    let (mut after, _) = backend.node("a", Millis(10_000));
    let call = DcsCall::AdoptLeader { old: old.id, created: old.leader_created, edition: None };
    let reply = after.call(call).await;
    let DcsReply::Won(new) = reply else { panic!("{reply:?}") };
    assert_eq!(new.leader_created, old.leader_created);
    assert_ne!(new.id, old.id);
    kept(&mut after, new).await;
    assert_eq!(before.call(DcsCall::RenewLeader(old)).await, DcsReply::Refused, "the lease is another's now");
    assert_eq!(before.call(released("a", old)).await, DcsReply::Released);
    assert_eq!(leader(&mut after).await.as_deref(), Some("a"), "not ours to release any more");
}

pub async fn adopting_needs_what_was_seen(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let lease = won(&mut a).await;
    let adopt = |old, created| DcsCall::AdoptLeader { old, created, edition: None };
    assert_eq!(b.call(adopt(lease.id, lease.leader_created)).await, DcsReply::Lost, "another name");
    let (mut twin, _) = backend.node("a", Millis(10_000));
    assert_eq!(twin.call(adopt(LeaseId(7), lease.leader_created)).await, DcsReply::Lost, "another lease");
    let other = Revision(lease.leader_created.0 + 1);
    assert_eq!(twin.call(adopt(lease.id, other)).await, DcsReply::Lost, "another acquisition");
    backend.tool_delete(LEADER_PATH).await;
    assert_eq!(twin.call(adopt(lease.id, lease.leader_created)).await, DcsReply::Lost, "gone");
    assert_eq!(leader(&mut a).await, None, "adopting creates nothing");
}

pub async fn taking_is_recorded(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let record = async |store: &mut _| {
        let key = snapshot(store).await.keys.remove(LAST_LEADER_PATH).expect("a record");
        assert_eq!(key.lease, None, "it outlives the lease");
        serde_json::from_str::<LastLeader>(&key.value).expect("JSON")
    };
    let lease = won(&mut a).await;
    let first = LastLeader { leader: NodeName::new("a"), lease: lease.id, created: None, edition: None };
    assert_eq!(record(&mut a).await, first);
    let (mut later, _) = backend.node("a", Millis(10_000));
    let reply = later.call(DcsCall::AdoptLeader { old: lease.id, created: lease.leader_created, edition: None }).await;
    let DcsReply::Won(adopted) = reply else { panic!("{reply:?}") };
    assert_eq!(record(&mut later).await.lease, adopted.id);
    assert_eq!(record(&mut later).await.created, Some(lease.leader_created));
    later.set_ttl(Millis(12_000));
    let moved = kept(&mut later, adopted).await;
    assert_ne!(moved.id, adopted.id);
    assert_eq!(record(&mut later).await.lease, moved.id);
    assert_eq!(record(&mut later).await.created, Some(lease.leader_created));
    backend.tool_delete(LEADER_PATH).await;
    assert_eq!(record(&mut later).await.lease, moved.id, "it outlives the key");
}

pub async fn an_old_view_takes_nothing(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let before = snapshot(&mut b).await.revision;
    won(&mut a).await;
    backend.tool_delete(LEADER_PATH).await;
    assert_eq!(
        b.call(DcsCall::AcquireLeader { seen: before, claim: None, edition: None }).await,
        DcsReply::Lost,
        "somebody led meanwhile"
    );
    assert_eq!(leader(&mut b).await, None);
    let now = snapshot(&mut b).await.revision;
    let reply = b.call(DcsCall::AcquireLeader { seen: now, claim: None, edition: None }).await;
    assert!(matches!(reply, DcsReply::Won(_)), "{reply:?}");
}

pub async fn a_record_that_was_put_back_is_another_writing(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let take = async |store: &mut _| {
        backend.tool_delete(LEADER_PATH).await;
        let seen = parse::cluster(&snapshot(store).await);
        let call = DcsCall::AcquireLeader { seen: seen.revision, claim: None, edition: seen.next_edition() };
        (seen, call)
    };
    won(&mut a).await;
    assert_eq!(parse::cluster(&snapshot(&mut a).await).last_taken(), None, "the first knows no create revision");
    let (_, second) = take(&mut a).await;
    assert!(matches!(a.call(second).await, DcsReply::Won(_)));
    let seen = snapshot(&mut a).await;
    let old = seen.keys[LAST_LEADER_PATH].value.clone();
    assert!(parse::cluster(&seen).last_taken().is_some(), "{old}");
    // The very same value over itself, and after its key was deleted.
    backend.tool_put(LAST_LEADER_PATH, &old).await;
    assert_eq!(parse::cluster(&snapshot(&mut a).await).last_taken(), None);
    let (seen, third) = take(&mut a).await;
    backend.tool_delete(LAST_LEADER_PATH).await;
    backend.tool_put(LAST_LEADER_PATH, &old).await;
    assert_eq!(parse::cluster(&snapshot(&mut a).await).last_taken(), None);
    let late = DcsCall::AcquireLeader { seen: Revision(i64::MAX), claim: None, edition: seen.next_edition() };
    assert_eq!(a.call(third).await, DcsReply::Lost);
    assert_eq!(a.call(late).await, DcsReply::Lost, "not the record that it was decided on");
    let (_, fourth) = take(&mut a).await;
    assert!(matches!(a.call(fourth).await, DcsReply::Won(_)));
    assert!(parse::cluster(&snapshot(&mut a).await).last_taken().is_some());
}

pub async fn the_key_and_a_timeline_are_taken_together_or_not_at_all(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let take = |timeline, expect| {
        let claim = ClaimAlong { timeline: Timeline(timeline), lsn: Lsn(7), system: Some(SystemId(9)), expect };
        DcsCall::AcquireLeader { seen: Revision(i64::MAX), claim: Some(claim), edition: None }
    };
    let DcsReply::Won(lease) = a.call(take(2, Expect::Absent)).await else { panic!("nobody leads") };
    let seen = snapshot(&mut b).await;
    let claimed = &seen.keys["ha_ext/timeline/2"];
    let text: TimelineClaim = serde_json::from_str(&claimed.value).expect("JSON");
    let expected = TimelineClaim {
        node: NodeName::new("a"),
        lsn: Lsn(7),
        nonce: lease.id,
        system: Some(SystemId(9)),
        by_hand: false,
    };
    assert_eq!((text, claimed.created, claimed.lease), (expected, lease.leader_created, None));

    assert_eq!(b.call(take(3, Expect::Absent)).await, DcsReply::Lost, "somebody leads");
    assert_eq!(a.call(released("a", lease)).await, DcsReply::Released);
    assert_eq!(b.call(take(2, Expect::Absent)).await, DcsReply::Lost, "the timeline is a's");
    assert_eq!(b.call(take(2, Expect::Unchanged(Revision(1)))).await, DcsReply::Lost);
    let seen = snapshot(&mut b).await;
    assert!(!seen.keys.contains_key(LEADER_PATH) && !seen.keys.contains_key("ha_ext/timeline/3"));
    let left = seen.keys["ha_ext/timeline/2"].modified;
    let reply = b.call(take(2, Expect::Unchanged(left))).await;
    assert!(matches!(reply, DcsReply::Won(_)), "{reply:?}");
    assert!(snapshot(&mut a).await.keys["ha_ext/timeline/2"].value.contains("\"b\""));
}

pub async fn only_a_key_without_a_lease_is_removed(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let remove = |created| DcsCall::RemoveUnleasedLeader { created };
    let lease = won(&mut a).await;
    assert_eq!(b.call(remove(lease.leader_created)).await, DcsReply::Conflict, "it has a lease");
    kept(&mut a, lease).await;
    backend.tool_put(LEADER_PATH, "c").await;
    let created = snapshot(&mut b).await.keys[LEADER_PATH].created;
    assert_eq!(b.call(TAKE).await, DcsReply::Lost, "it is in the way");
    assert_eq!(b.call(remove(Revision(created.0 + 1))).await, DcsReply::Conflict, "another key");
    assert!(matches!(b.call(remove(created)).await, DcsReply::Written(_)));
    assert_eq!(b.call(remove(created)).await, DcsReply::Conflict, "gone");
    won(&mut b).await;
}

pub async fn releasing_announces(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let lease = won(&mut a).await;
    assert_eq!(a.call(released("a", lease)).await, DcsReply::Released);
    let seen = snapshot(&mut b).await;
    assert!(!seen.keys.contains_key(LEADER_PATH));
    let announced = &seen.keys[RELEASED_PATH];
    let text: Released = serde_json::from_str(&announced.value).expect("JSON");
    let created = lease.leader_created;
    let expected = Released::by(NodeName::new("a"), lease.id, created);
    assert_eq!(text, expected);
    assert_eq!(announced.lease, None, "it outlives the lease");
    assert_eq!(seen.keys["status"].value, r#"{"optime":5}"#);
    // Again: the same to us. And the next one takes it.
    assert_eq!(a.call(released("a", lease)).await, DcsReply::Released);
    won(&mut b).await;
    let reply = a.call(DcsCall::KeepSession).await;
    assert!(matches!(reply, DcsReply::SessionKept { lease: id, .. } if id == lease.id), "{reply:?}");
}

pub async fn releasing_a_foreign_key_does_nothing(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let old = won(&mut a).await;
    assert_eq!(a.call(released("a", old)).await, DcsReply::Released);
    let lease = won(&mut b).await;
    let before = snapshot(&mut b).await;
    assert_eq!(a.call(released("a", old)).await, DcsReply::Released);
    assert_eq!(snapshot(&mut b).await.keys, before.keys);
    kept(&mut b, lease).await;
}
