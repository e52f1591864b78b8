//! A watch that is cut, frozen or starved never leaves a stale picture behind.

use super::answers::both;
use crate::conformance::{changed_to, until, won};
use crate::support::backend::{BASE, only_through, options};
use crate::support::etcd::Etcd;
use crate::support::proxy::Proxy;
use crate::support::{run, timed};
use ha_core::clock::Millis;
use ha_core::dcs::{DcsCall, DcsReply, LEADER_PATH};
use ha_dcs::etcd3::{Etcd3, Options};
use ha_dcs::{Store, Watch, WatchEvent};

fn with_ttl(hosts: Vec<String>, ttl: Millis) -> Options {
    Options { ttl, ..options(hosts, "w") }
}

async fn first(watch: &mut impl Watch) {
    assert!(matches!(watch.next().await, WatchEvent::Changed(_)));
}

/// A frozen member keeps its connections open and says nothing.
async fn frozen_is_found(ttl: Millis, limit: Millis) {
    let etcd = Etcd::three().await;
    let mut watch = Etcd3::connect(&with_ttl(etcd.hosts(), ttl)).watcher();
    first(&mut watch).await;
    let mut writer = Etcd3::connect(&options(vec![etcd.host(1), etcd.host(2)], "a"));
    etcd.freeze(0);
    let (took, ()) = timed(async {
        won(&mut writer).await;
        until(&mut watch, |event| match event {
            WatchEvent::Changed(raw) => raw.keys.contains_key(LEADER_PATH),
            other => panic!("two members are well: {other:?}"),
        })
        .await;
    })
    .await;
    assert!(took < limit, "{took}");
}

#[test]
fn a_frozen_member_is_found_by_asking() {
    run(frozen_is_found(Millis(6_000), Millis(4_000)));
}

#[test]
fn a_frozen_member_is_found_by_pings() {
    run(frozen_is_found(Millis(24_000), Millis(12_000)));
}

#[test]
fn a_frozen_store_is_lost_and_restored() {
    run(async {
        let etcd = Etcd::single().await;
        let mut watch = Etcd3::connect(&with_ttl(etcd.hosts(), Millis(6_000))).watcher();
        first(&mut watch).await;
        etcd.freeze(0);
        let (took, event) = timed(watch.next()).await;
        assert!(matches!(event, WatchEvent::Lost(_)), "{event:?}");
        assert!(took < Millis(4_000), "{took}");
        etcd.thaw(0);
        let (took, event) = timed(watch.next()).await;
        assert!(matches!(event, WatchEvent::Changed(_)), "the state comes first: {event:?}");
        assert_eq!(watch.next().await, WatchEvent::Restored);
        assert!(took < Millis(1_500), "{took}");
    });
}

#[test]
fn a_request_on_a_stranded_connection_goes_on_once_the_watch_is_back() {
    run(async {
        let etcd = Etcd::single().await;
        let proxy = Proxy::start(etcd.port(0)).await;
        let options = Options { ttl: Millis(6_000), retry_timeout: Millis(30_000), ..only_through(proxy.host(), "a") };
        let mut store = Etcd3::connect(&options);
        let mut watch = store.watcher();
        first(&mut watch).await;
        let lease = won(&mut store).await;
        until(&mut watch, |event| matches!(event, WatchEvent::Changed(_))).await;
        proxy.refuse(true);
        proxy.strand();
        let renewal = timed(store.call(DcsCall::RenewLeader(lease)));
        let outage = timed(async {
            until(&mut watch, |event| matches!(event, WatchEvent::Lost(_))).await;
            proxy.refuse(false);
            until(&mut watch, |event| matches!(event, WatchEvent::Restored)).await;
        });
        let ((renewed_after, reply), (outage_ms, ())) = both(renewal, outage).await;
        assert!(matches!(reply, DcsReply::Kept(_)), "{reply:?}");
        assert!(renewed_after < outage_ms + Millis(1_000), "back after {outage_ms}, answered after {renewed_after}");
    });
}

#[test]
fn what_changed_behind_a_dead_watch_is_told() {
    run(async {
        let etcd = Etcd::single().await;
        let proxy = Proxy::start(etcd.port(0)).await;
        let mut watch = Etcd3::connect(&only_through(proxy.host(), "w")).watcher();
        let mut operator = etcd.tool().await.expect("a connection");
        operator.put(format!("{BASE}status"), "1", None).await.expect("a put");
        first(&mut watch).await;
        proxy.refuse(true);
        proxy.cut();
        let (took, event) = timed(watch.next()).await;
        assert!(matches!(event, WatchEvent::Lost(_)), "{event:?}");
        assert!(took < Millis(1_500), "{took}");
        operator.delete(format!("{BASE}status"), None).await.expect("a delete");
        let last = operator.put(format!("{BASE}config"), "{}", None).await.expect("a put");
        let last = last.header().expect("a header").revision();
        operator.compact(last, None).await.expect("a compaction");
        proxy.refuse(false);
        let (took, event) = timed(watch.next()).await;
        let WatchEvent::Changed(raw) = event else { panic!("{event:?}") };
        assert_eq!(raw.keys.keys().collect::<Vec<_>>(), ["config"]);
        assert_eq!(watch.next().await, WatchEvent::Restored);
        assert!(took < Millis(1_000), "{took}");
    });
}

#[test]
fn a_short_cut_goes_unnoticed_but_for_what_changed() {
    run(async {
        let etcd = Etcd::single().await;
        let proxy = Proxy::start(etcd.port(0)).await;
        let mut watch = Etcd3::connect(&only_through(proxy.host(), "w")).watcher();
        let mut tool = etcd.tool().await.expect("a connection");
        first(&mut watch).await;
        for number in 0..5 {
            proxy.cut();
            tool.put(format!("{BASE}status"), number.to_string(), None).await.expect("a put");
            let told = until(&mut watch, |event| match event {
                WatchEvent::Changed(raw) => raw.keys.contains_key("status"),
                other => panic!("{other:?}"),
            })
            .await;
            let WatchEvent::Changed(raw) = told else { panic!("{told:?}") };
            assert_eq!(raw.keys["status"].value, number.to_string());
        }
    });
}

#[test]
fn a_member_without_a_leader_is_left() {
    run(async {
        let etcd = Etcd::three().await;
        let mut watch = Etcd3::connect(&with_ttl(etcd.hosts(), Millis(6_000))).watcher();
        first(&mut watch).await;
        etcd.freeze(1);
        etcd.freeze(2);
        let (took, _) = timed(until(&mut watch, |event| matches!(event, WatchEvent::Lost(_)))).await;
        assert!(took < Millis(7_000), "{took}");
        etcd.thaw(1);
        etcd.thaw(2);
        changed_to(&mut watch, |_| true).await;
        assert_eq!(watch.next().await, WatchEvent::Restored);
    });
}
