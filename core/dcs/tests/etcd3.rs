//! The etcd v3 store against the etcd of the distribution (3.4 on Debian 12).

// Each test file uses a part of what the common modules offer.
#[allow(dead_code)]
mod conformance;
mod faults;
#[allow(dead_code)]
mod support;

use conformance::{edit, member, released, written};
use ha_core::dcs::{DcsCall, DcsReply, Expect, Key};
use ha_dcs::Store;
use ha_dcs::etcd3::Etcd3;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::backend::{EtcdBackend, options};
use support::etcd::Etcd;

/// The server under test.
fn server() -> PathBuf {
    PathBuf::from("etcd")
}

fn left_out() -> bool {
    false
}

mod one_member {
    use super::*;
    suite!(async { EtcdBackend(Etcd::single().await) });
}

/// `cargo test -p ha_dcs --test etcd3 -- --ignored --nocapture`
#[test]
#[ignore = "prints how long each request takes"]
fn latency() {
    support::run(async {
        for etcd in [Etcd::single().await, Etcd::three().await] {
            latency_of(&etcd).await;
        }
    });
}

mod three_members {
    use super::*;
    suite!(async { EtcdBackend(Etcd::three().await) });
}

/// Prints the median time of the requests of a switchover, on a quiet store.
async fn latency_of(etcd: &Etcd) {
    let mut store = Etcd3::connect(&options(etcd.hosts(), "a"));
    let mut times: [(&str, Vec<Duration>); 5] =
        ["acquire", "renew", "write as leader", "write member", "release"].map(|what| (what, Vec::new()));
    for round in 0..50 {
        let text = round.to_string();
        let mut begun = Instant::now();
        let mut lap = |slot: usize| {
            times[slot].1.push(begun.elapsed());
            begun = Instant::now();
        };
        let DcsReply::Won(lease) = store.call(conformance::TAKE).await else { panic!("the key is free") };
        lap(0);
        let DcsReply::Kept(lease) = store.call(DcsCall::RenewLeader(lease)).await else { panic!("the key is ours") };
        lap(1);
        written(&mut store, edit(Key::Status, &text, Expect::WeLead(lease))).await;
        lap(2);
        written(&mut store, member("a", &text)).await;
        lap(3);
        assert_eq!(store.call(released("a", lease)).await, DcsReply::Released);
        lap(4);
    }
    for (what, mut laps) in times {
        laps.sort();
        println!("{} members, {what}: {:?} median, {:?} worst", etcd.hosts().len(), laps[25], laps[49]);
    }
}
