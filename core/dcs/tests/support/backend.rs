//! etcd as the conformance suite sees it.

use super::etcd::Etcd;
use crate::conformance::Backend;
use etcd_client::Client;
use ha_core::clock::Millis;
use ha_core::ids::NodeName;
use ha_dcs::etcd3::{Etcd3, Options, Watcher};

pub const BASE: &str = "/service/batman/";

pub struct EtcdBackend(pub Etcd);

impl EtcdBackend {
    async fn tool(&self) -> Client {
        self.0.tool().await.expect("etcd runs")
    }
}

impl Backend for EtcdBackend {
    type Store = Etcd3;
    type Watch = Watcher;

    const TTL: Millis = Millis(2_000);

    fn node(&self, name: &str, ttl: Millis) -> (Etcd3, Watcher) {
        let options = Options { ttl, ..options(self.0.hosts(), name) };
        let store = Etcd3::connect(&options);
        let watcher = store.watcher();
        (store, watcher)
    }

    async fn tool_put(&self, path: &str, value: &str) {
        self.tool().await.put(format!("{BASE}{path}"), value, None).await.expect("a put");
    }

    async fn tool_delete(&self, path: &str) {
        self.tool().await.delete(format!("{BASE}{path}"), None).await.expect("a delete");
    }
}

/// Options of a node of the cluster `batman`: `retry_timeout` 3 s, `ttl` 10 s.
pub fn options(hosts: Vec<String>, name: &str) -> Options {
    let mut options = Options::new(hosts, "batman", NodeName::new(name), super::clock);
    options.ttl = Millis(10_000);
    options.retry_timeout = Millis(3_000);
    options
}

/// Reached only through the given host.
pub fn only_through(host: String, name: &str) -> Options {
    Options { discover: false, ..options(vec![host], name) }
}
