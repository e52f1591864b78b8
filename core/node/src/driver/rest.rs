//! REST and commands: what reaches the store beside the decisions.
//!
//! REST answers from what the last tick published. That of an earlier time with the seat says nothing of now: it is forgotten when the
//! seat comes back, and connections wait in the socket until there is a new one.

use super::Driver;
use crate::net::{Command, RestWait, StoreHealth};
use ha_core::api::{ServerFacts, Snapshot};
use ha_core::clock::Tick;
use ha_core::dcs::{DcsReply, KeyEdit};
use ha_core::local::LocalView;
use ha_core::rule::Rule;
use std::net::TcpListener;
use std::sync::Arc;

/// REST on its way from one side of the seat to the other.
#[derive(Default)]
pub(super) struct Rest {
    /// Served as soon as there is something to answer from.
    to_serve: Option<TcpListener>,
    /// It was told to stop and has not said yet that it has.
    pub awaited: bool,
    pub waits: Vec<RestWait>,
}

impl Driver {
    /// Serves REST on this socket. The caller keeps a duplicate for the other side.
    pub fn serve_rest(&mut self, listener: TcpListener) {
        self.rest.to_serve = Some(listener);
        if self.net.snapshot().is_some() {
            self.serve_awaited();
        }
    }

    pub(super) fn serve_awaited(&mut self) {
        if let Some(listener) = self.rest.to_serve.take() {
            self.net.send(Command::Serve(listener));
        }
    }

    /// Accepts no more REST connections; requests under way are answered, but clients that wait for a switchover are
    /// kept for [`Driver::take_rest_waits`], which has them as soon as [`Driver::quiet`] says so.
    pub fn stop_rest(&mut self) {
        self.rest.to_serve = None;
        self.rest.awaited = true;
        self.net.send(Command::StopServing);
    }

    /// Clients that wait for a switchover, to go with the seat.
    pub fn take_rest_waits(&mut self) -> Vec<RestWait> {
        std::mem::take(&mut self.rest.waits)
    }

    /// Goes on waiting for clients of the other side.
    pub fn adopt_rest_waits(&self, waits: Vec<RestWait>) {
        self.net.send(Command::AdoptWaits(waits));
    }

    /// A conditional write that is no decision's: a command given in SQL. Its end is in
    /// [`Driver::take_written`] under the same number.
    pub fn write(&self, ticket: u64, edit: KeyEdit) {
        self.net.send(Command::Write { ticket, edit });
    }

    /// Ends of [`Driver::write`] since the last call.
    pub fn take_written(&mut self) -> Vec<(u64, DcsReply)> {
        std::mem::take(&mut self.written)
    }

    /// What REST answers from, and commands given in SQL.
    pub(super) fn publish(&self, server: ServerFacts, local: LocalView, rule: Rule, now: Tick, next_wake: Tick) {
        let unreadable = self.cluster.as_ref().and_then(|cluster| cluster.config_unreadable);
        self.net.publish(Arc::new(Snapshot {
            config: self.configuration.config().clone(),
            settings: self.configuration.settings().clone(),
            last_good_dynamic: unreadable.and_then(|_| self.configuration.dynamic().cloned()),
            local,
            memory: self.memory.clone(),
            cluster: self.cluster.clone(),
            cluster_fresh: self.store == StoreHealth::Fresh,
            dcs_last_seen_unix_s: self.store_answered_unix_s,
            server,
            rule,
            ticked_at: now,
            next_tick_by: next_wake,
        }));
    }
}
