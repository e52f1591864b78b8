//! Takes in what the net thread has learnt since the last tick.

use super::{Driver, EventKind, Port, log_warnings};
use crate::net::{Command, News, StoreHealth};
use ha_core::config::Config;
use ha_core::dcs::{DcsCall, DcsReply};
use ha_core::outcome::Outcome;

impl Driver {
    pub(super) fn take_news(&mut self, port: &mut impl Port) {
        let News {
            cluster,
            health,
            outcomes,
            peers,
            promises,
            questions,
            written,
            rest_stopped,
            store_answered_unix_s,
        } = self.net.take_news();
        if !outcomes.is_empty() {
            self.dcs_busy = false;
            for outcome in &outcomes {
                self.store_answered(outcome);
            }
            self.outcomes.extend(outcomes);
        }
        self.written.extend(written);
        if let Some(waits) = rest_stopped {
            self.rest.awaited = false;
            self.rest.waits.extend(waits);
        }
        self.store_answered_unix_s = store_answered_unix_s.unwrap_or(self.store_answered_unix_s);
        self.questions.extend(questions);
        for view in promises {
            let newer = self.promises.get(&view.name).is_none_or(|known| known.asked_at <= view.asked_at);
            if newer {
                self.promises.insert(view.name.clone(), view);
            }
        }
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
                // Requests are spaced out because of a failure: that one is over.
                self.memory.store_failed_at = None;
            }
            (StoreHealth::Fresh, StoreHealth::Unreachable { why, .. }) => self.cannot_follow(why),
            (StoreHealth::Fresh, StoreHealth::Fresh) => return,
            (StoreHealth::Unreachable { since, why: known }, StoreHealth::Unreachable { why, .. }) => {
                let (since, other) = (*since, known != why);
                if other {
                    self.cannot_follow(why);
                }
                // Since the first failure.
                self.store = StoreHealth::Unreachable { since, why: why.clone() };
                return;
            }
        }
        self.store = health;
    }

    fn cannot_follow(&mut self, why: &str) {
        let hosts = self.configuration.store_options().hosts.join(", ");
        tracing::warn!("the store at {hosts} cannot be followed: {why}");
        let text = format!("The store at {hosts} cannot be followed: {why}.");
        self.events.record(EventKind::Store, "store.unreachable", text);
    }

    /// A request that the store refused, or did not answer, is worth a line; the same one again is not, even if
    /// another host of the store now gives another reason.
    fn store_answered(&mut self, outcome: &Outcome) {
        let Outcome::Dcs { call, reply, .. } = outcome else { return };
        let (failure, why) = match reply {
            DcsReply::Denied(why) => (format!("the store refuses {}", asked_for(call)), why),
            DcsReply::Unknown(why) => (format!("the store did not answer {}", asked_for(call)), why),
            _ => {
                self.store_failure = None;
                return;
            }
        };
        if self.store_failure.as_ref() != Some(&failure) {
            let text = format!("{failure}: {why}");
            tracing::warn!("{text}");
            self.events.record(EventKind::Failure, "failure", text);
            self.store_failure = Some(failure);
        }
    }

    pub(super) fn config_changed(&mut self, before: &Config, port: &mut impl Port) {
        let config = self.configuration.config();
        let settings = self.configuration.settings();
        if config.etcd3 != before.etcd3 || config.restapi.authentication != before.restapi.authentication {
            let store = Box::new(self.configuration.store_options());
            let asker = self.configuration.asker();
            self.net.send(Command::Reconfigure { store, asker });
        } else {
            self.net.send(Command::Timing { ttl: settings.ttl_ms, retry_timeout: settings.retry_timeout_ms });
        }
        self.events.record(EventKind::Config, "config.changed", "The configuration has changed.");
        port.reconfigured(self.configuration.config(), self.configuration.dynamic());
    }
}

/// A request, in words.
fn asked_for(call: &DcsCall) -> String {
    match call {
        DcsCall::KeepSession => "the request to keep the node lease".to_owned(),
        DcsCall::AcquireLeader { .. } => "the request to take the leader key".to_owned(),
        DcsCall::AdoptLeader { .. } => "the request to take over the leader key of our earlier life".to_owned(),
        DcsCall::RenewLeader(_) => "the request to renew the leader key".to_owned(),
        DcsCall::ReleaseLeader { .. } => "the request to release the leader key".to_owned(),
        DcsCall::RemoveUnleasedLeader { .. } => "the request to remove a leader key without a lease".to_owned(),
        DcsCall::CheckLease(_) => "the question whether another member's lease is alive".to_owned(),
        DcsCall::Write(edit) => format!("the request to write the key {}", edit.key.path()),
    }
}
