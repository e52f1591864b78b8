//! What the other members answered when asked directly (`GET /patroni`, wire.md 4.1).

use crate::clock::Tick;
use crate::ids::{Lsn, NodeName, Timeline};

/// The newest result of asking one peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerView {
    /// Who was asked.
    pub name: NodeName,
    /// When the question was sent.
    pub asked_at: Tick,
    /// Its answer, or that it could not be reached.
    pub answer: PeerAnswer,
}

/// A peer's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerAnswer {
    /// The question is still under way.
    Pending,
    /// It could not be reached in time, or what it said made no sense.
    Unreachable(String),
    /// It answered.
    Status(PeerStatus),
}

/// The fields of `/patroni` that decisions need.
// Independent facts, not a state.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerStatus {
    /// It says it is a primary (`role`, or it has a primary's WAL location).
    pub is_primary: bool,
    /// `state`.
    pub state: String,
    /// `ha_ext.in_recovery`: it is a standby, although it says that it is starting.
    pub in_recovery: bool,
    /// Largest of received and replayed (standby) or the current location (primary).
    pub lsn: Lsn,
    /// Timeline, when known.
    pub timeline: Option<Timeline>,
    /// It still receives WAL from somebody (`replication_state: streaming`).
    pub receiving: bool,
    /// Tags.
    pub tags: crate::tags::Tags,
    /// `watchdog_failed`: it may not lead.
    pub watchdog_failed: bool,
    /// `cannot_write`: its disk takes nothing, so it may not lead either.
    pub cannot_write: bool,
}

impl PeerStatus {
    /// Whether anything that it says of itself keeps it from leading.
    #[must_use]
    pub fn may_lead(&self) -> bool {
        !self.tags.nofailover() && !self.watchdog_failed && !self.cannot_write && self.state == "running"
    }
}
