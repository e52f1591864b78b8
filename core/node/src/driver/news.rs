//! Takes in what the net thread has learnt since the last tick.

use super::{Driver, EventKind, Port, log_warnings};
use crate::net::{Command, News, StoreHealth};
use ha_core::config::Config;

impl Driver {
    pub(super) fn take_news(&mut self, port: &mut impl Port) {
        let News { cluster, health, outcomes, peers, written, rest_stopped, store_answered_unix_s } =
            self.net.take_news();
        if !outcomes.is_empty() {
            self.dcs_busy = false;
            self.outcomes.extend(outcomes);
        }
        self.written.extend(written);
        if let Some(waits) = rest_stopped {
            self.rest.awaited = false;
            self.rest.waits.extend(waits);
        }
        self.store_answered_unix_s = store_answered_unix_s.unwrap_or(self.store_answered_unix_s);
        for view in peers {
            // An answer to an earlier question must not hide that a later one is still open.
            let newer = self.peers.get(&view.name).is_none_or(|known| known.asked_at <= view.asked_at);
            if newer {
                self.peers.insert(view.name.clone(), view);
            }
        }
        if let Some(health) = health {
            self.store_changed(health);
        }
        if let Some(cluster) = cluster {
            let before = self.configuration.config().clone();
            match self.configuration.follow(&cluster) {
                Some(Ok(warnings)) => {
                    log_warnings(&warnings);
                    self.config_changed(&before, port);
                }
                Some(Err(error)) => self.fail(&format!("the configuration in the store is rejected: {error}")),
                None => {}
            }
            self.cluster = Some(cluster);
        }
    }

    fn store_changed(&mut self, health: StoreHealth) {
        match (&self.store, &health) {
            (StoreHealth::Unreachable { .. }, StoreHealth::Fresh) => {
                tracing::info!("the store can be followed");
                self.events.record(EventKind::Store, "store.fresh", "The store can be followed.");
            }
            (StoreHealth::Fresh, StoreHealth::Unreachable { why, .. }) => {
                tracing::warn!("the store cannot be followed: {why}");
                self.events.record(EventKind::Store, "store.unreachable", format!("It cannot be followed: {why}."));
            }
            (StoreHealth::Fresh, StoreHealth::Fresh) => return,
            (StoreHealth::Unreachable { since, .. }, StoreHealth::Unreachable { why, .. }) => {
                // Since the first failure.
                self.store = StoreHealth::Unreachable { since: *since, why: why.clone() };
                return;
            }
        }
        self.store = health;
    }

    pub(super) fn config_changed(&mut self, before: &Config, port: &mut impl Port) {
        let config = self.configuration.config();
        let settings = self.configuration.settings();
        if config.etcd3 != before.etcd3 || config.restapi.authentication != before.restapi.authentication {
            let store = Box::new(self.configuration.store_options());
            let peer_authorization = self.configuration.peer_authorization();
            self.net.send(Command::Reconfigure { store, peer_authorization });
        } else {
            self.net.send(Command::Timing { ttl: settings.ttl_ms, retry_timeout: settings.retry_timeout_ms });
        }
        self.events.record(EventKind::Config, "config.changed", "The configuration has changed.");
        port.reconfigured(self.configuration.config(), self.configuration.dynamic());
    }
}
