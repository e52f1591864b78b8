//! Conditional writes.

use super::{Backend, delete, edit, member, snapshot, value, won, written};
use ha_core::clock::Millis;
use ha_core::dcs::{DcsCall, DcsReply, Expect, Key, KeyEdit, LEADER_PATH};
use ha_core::ids::{NodeName, Revision, Timeline};
use ha_dcs::Store;

pub async fn absent_is_won_once(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let claim = |text: &str| edit(Key::Initialize, text, Expect::Absent);
    written(&mut a, claim("")).await;
    assert_eq!(b.call(claim("")).await, DcsReply::Conflict, "equal values do not make it ours");
    assert_eq!(a.call(claim("")).await, DcsReply::Conflict);
    assert_eq!(value(&mut b, "initialize").await.as_deref(), Some(""));
}

pub async fn unchanged_is_compare_and_swap(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let first = written(&mut a, edit(Key::Config, "{}", Expect::Absent)).await;
    assert_eq!(snapshot(&mut b).await.keys["config"].modified, first);
    let second = written(&mut b, edit(Key::Config, r#"{"ttl":20}"#, Expect::Unchanged(first))).await;
    assert_eq!(a.call(edit(Key::Config, "{}", Expect::Unchanged(first))).await, DcsReply::Conflict);
    assert_eq!(a.call(delete(Key::Config, Expect::Unchanged(first))).await, DcsReply::Conflict);
    assert_eq!(value(&mut a, "config").await.as_deref(), Some(r#"{"ttl":20}"#));
    written(&mut a, delete(Key::Config, Expect::Unchanged(second))).await;
    assert_eq!(value(&mut b, "config").await, None);
    assert_eq!(b.call(edit(Key::Config, "{}", Expect::Unchanged(second))).await, DcsReply::Conflict, "gone");
}

pub async fn only_the_leader_writes_as_leader(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, _) = backend.node("b", Millis(10_000));
    let lease = won(&mut a).await;
    let status = |text: &str, lease| edit(Key::Status, text, Expect::WeLead(lease));
    written(&mut a, status("1", lease)).await;
    written(&mut a, status("2", lease)).await;
    assert_eq!(b.call(status("3", lease)).await, DcsReply::Conflict, "a leader key of another's");
    backend.tool_delete(LEADER_PATH).await;
    assert_eq!(a.call(status("4", lease)).await, DcsReply::Conflict, "nobody leads");
    let again = won(&mut a).await;
    assert_eq!(a.call(status("5", lease)).await, DcsReply::Conflict, "an earlier acquisition");
    written(&mut a, status("6", again)).await;
    assert_eq!(value(&mut b, "status").await.as_deref(), Some("6"));
}

pub async fn our_member_key_comes_back(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let first = written(&mut a, member("a", "1")).await;
    let seen = snapshot(&mut a).await;
    assert_eq!(seen.keys["members/a"].lease, a.session());
    assert_eq!(seen.keys["members/a"].modified, first);
    written(&mut a, member("a", "2")).await;
    backend.tool_delete("members/a").await;
    written(&mut a, member("a", "3")).await;
    backend.tool_put("members/a", "nonsense").await;
    written(&mut a, member("a", "4")).await;
    let seen = snapshot(&mut a).await;
    assert_eq!(seen.keys["members/a"].value, "4");
    assert_eq!(seen.keys["members/a"].lease, a.session());
    // A new life of the same node takes the key to its own lease.
    let (mut next, _) = backend.node("a", Millis(10_000));
    written(&mut next, member("a", "5")).await;
    assert_eq!(snapshot(&mut a).await.keys["members/a"].lease, next.session());
}

pub async fn leased_keys_vanish<B: Backend>(backend: &B) {
    let (mut a, _) = backend.node("a", B::TTL);
    let (mut b, _) = backend.node("b", Millis(10_000));
    let running = KeyEdit { key: Key::Initialize, value: Some(String::new()), expect: Expect::Absent, leased: true };
    written(&mut a, DcsCall::Write(running.clone())).await;
    assert_eq!(b.call(DcsCall::Write(running.clone())).await, DcsReply::Conflict);
    assert_eq!(snapshot(&mut b).await.keys["initialize"].lease, a.session());
    drop(a);
    super::eventually(&mut b, B::TTL.0 + 4_000, |now| !now.keys.contains_key("initialize")).await;
    written(&mut b, DcsCall::Write(running)).await;
}

pub async fn paths_are_relative(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let name = NodeName::new("Pg-1.example");
    written(&mut a, edit(Key::TimelineClaim(Timeline(3)), "x", Expect::Absent)).await;
    written(&mut a, edit(Key::Member(name), "y", Expect::Absent)).await;
    backend.tool_put("sync", "z").await;
    let paths: Vec<String> = snapshot(&mut a).await.keys.into_keys().collect();
    assert_eq!(paths, ["ha_ext/timeline/3", "members/Pg-1.example", "sync"]);
    assert!(snapshot(&mut a).await.revision > Revision(0));
}
