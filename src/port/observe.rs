//! What this server looks like, from shared memory and from what the file thread has read.

use super::Inside;
use crate::fence;
use crate::files::{Facts, Job};
use crate::pg::wal::Phase;
use crate::pg::{recovery, senders, settings, wal};
use ha_core::cluster::Address;
use ha_core::ids::{Lsn, NodeName, Timeline};
use ha_core::local::{
    ControlState, DataDir, LocalView, PendingSetting, PrimaryView, Receiver, Seal, Server, StandbyView, Upstream,
};
use std::collections::BTreeMap;

/// What a turn of the loop should follow soon when it changes, though nobody tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    phase: Phase,
    receiver: Receiver,
    promoting: bool,
    consistent: bool,
    redo: Lsn,
    seal: Seal,
    /// Changes when a standby says that it has more.
    standbys: u64,
}

impl Pulse {
    /// The server has just been started: what it becomes shows soon.
    pub fn coming_up(&self) -> bool {
        self.phase == Phase::Starting || (self.phase == Phase::Standby && !self.consistent)
    }

    /// A primary on which commits pass, or a standby that streams: nothing of it changes but by an order or by an accident.
    pub fn quiet(&self) -> bool {
        let streams = self.phase == Phase::Standby && self.receiver == Receiver::Streaming && self.consistent;
        !self.promoting && self.seal == Seal::Open && (self.phase == Phase::Primary || streams)
    }
}

impl Inside {
    /// One snapshot of this node.
    pub(super) fn local_view(&mut self) -> LocalView {
        let facts = self.files.facts();
        let server = self.server(&facts);
        let control = self.control.read().control;
        LocalView {
            data: DataDir::Present(control),
            server,
            marker: facts.marker,
            history: facts.history,
            step_running: None,
            cannot_write: facts.cannot_write,
            history_at: facts.history_at,
            pending_restart: self.pending_restart(),
            founding: facts.founding == Some(control.system_id),
            watchdog: self.watchdog.view(),
            kept_ttl: self.promises.kept,
        }
    }

    /// What the sql worker has found, read again only when it has looked again.
    fn pending_restart(&mut self) -> BTreeMap<String, PendingSetting> {
        let version = self.shared.pending_restart.version();
        if self.pending.0 != version {
            let text = self.shared.pending_restart.read().unwrap_or_default();
            self.pending = (version, serde_json::from_str(&text).unwrap_or_default());
        }
        self.pending.1.clone()
    }

    /// What may have changed since.
    pub fn pulse(&mut self) -> Pulse {
        Pulse {
            phase: wal::phase(),
            receiver: recovery::receiver(),
            promoting: wal::promote_is_triggered(),
            consistent: wal::hot_standby_active(),
            redo: self.control.read().redo,
            seal: self.seal_state(),
            standbys: if self.is_frozen() { senders::flushed_sum() } else { 0 },
        }
    }

    fn server(&mut self, facts: &Facts) -> Server {
        let promotion_asked = self.promotion_asked();
        match wal::phase() {
            Phase::Starting => Server::Starting { since: self.started_at },
            Phase::Primary => {
                let (flushed, timeline) = wal::flushed();
                self.want_history(timeline, facts);
                let now = self.control.read();
                let settled = now.control.state == ControlState::InProduction && now.control.timeline == timeline;
                let checkpointed = settled && now.control.min_recovery_point == Lsn(0);
                Server::Primary(PrimaryView {
                    timeline,
                    flushed,
                    checkpointed,
                    checkpoint_redo: now.redo,
                    standbys: senders::standbys(),
                    fence_open: !fence::closed(),
                    fence_until: fence::deadline(self.shared),
                    fence_unbound: fence::unbound(self.shared),
                    seal: self.seal_state(),
                    in_place: self.in_place(timeline, facts),
                    archive_waiting: facts.place.archive_waiting || self.archive_unknown(&facts.place),
                })
            }
            Phase::Standby => {
                let (replayed, timeline) = wal::replayed();
                if timeline == Timeline(0) {
                    // Redo has not begun: there is nothing yet that could be compared with anybody.
                    return Server::Starting { since: self.started_at };
                }
                self.want_history(timeline, facts);
                if promotion_asked {
                    self.wake_promotion();
                }
                self.rest();
                Server::Standby(StandbyView {
                    timeline,
                    received: recovery::received().max(replayed),
                    replayed,
                    receiver: recovery::receiver(),
                    upstream: self.upstream(),
                    replayed_at: wal::replayed_at_unix_us().map(ha_core::api::time::text),
                    replay_paused: wal::replay_paused(),
                    promoting: promotion_asked || wal::promote_is_triggered(),
                    consistent: wal::hot_standby_active(),
                    reads_withheld: fence::reads_withheld(self.shared),
                    commits_wait: settings::commits_wait(),
                })
            }
        }
    }

    fn want_history(&mut self, timeline: Timeline, facts: &Facts) {
        if facts.history_of != timeline && self.history_of != timeline {
            self.history_of = timeline;
            self.files.send(Job::History(timeline));
        }
    }

    fn upstream(&self) -> Option<Upstream> {
        let conninfo = recovery::primary_conninfo();
        if conninfo.is_empty() {
            return None;
        }
        let slot = Some(recovery::primary_slot_name()).filter(|slot| !slot.is_empty());
        if let Some((known, Some(upstream))) = &self.following.target
            && *known == conninfo
            && upstream.slot == slot
        {
            return Some(upstream.clone());
        }
        // The name is for people alone; who it is was forgotten with the worker that wrote it.
        let address = address_of(&conninfo)?;
        Some(Upstream { name: NodeName::new(address.host.clone()), address, slot })
    }
}

/// Host and port of a connection string that we wrote: `host=... port=...`, blanks only between items.
fn address_of(conninfo: &str) -> Option<Address> {
    let item = |name: &str| conninfo.split(' ').find_map(|item| item.strip_prefix(name)?.strip_prefix('='));
    let host = item("host")?.trim_matches('\'');
    let port = item("port").map_or(Some(5432), |port| port.trim_matches('\'').parse().ok())?;
    Some(Address { host: host.to_owned(), port })
}
