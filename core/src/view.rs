//! Everything one decision may look at: one snapshot per tick.

use crate::clock::Tick;
use crate::clocks::Clocks;
use crate::cluster::Cluster;
use crate::failsafe::{PromiseView, Question};
use crate::ids::NodeName;
use crate::local::LocalView;
use crate::outcome::Outcome;
use crate::peer::PeerView;
use crate::settings::Settings;

/// One snapshot of everything.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Now.
    pub now: Tick,
    /// Where the other clocks stand, if they were read.
    pub clocks: Option<Clocks>,
    /// Where this decision is made.
    pub seat: Seat,
    /// This member.
    pub me: &'a NodeName,
    /// The cluster's name.
    pub scope: &'a str,
    /// Our `conn_url`, `api_url` and the like for the member key.
    pub identity: &'a crate::member::Identity,
    /// The settings in force.
    pub settings: &'a Settings,
    /// What the store says.
    pub dcs: DcsView<'a>,
    /// What this node says.
    pub local: &'a LocalView,
    /// What the peers said.
    pub peers: &'a [PeerView],
    /// What became of asking the members to stay away from the leader key.
    pub promises: &'a [PromiseView],
    /// Leaders that ask this node for that. Each is answered by the decision it is part of.
    pub questions: &'a [Question],
    /// What became of earlier effects since the last tick, in order.
    pub outcomes: &'a [Outcome],
    /// A request to the store is under way; a decision sends no other.
    pub dcs_busy: bool,
    /// The supervisor was told to stop this node.
    pub stop_requested: bool,
    /// A random number, new each tick, to spread what should not happen everywhere at once.
    pub jitter: u32,
}

/// What the store says.
#[derive(Clone, Copy, Debug)]
pub enum DcsView<'a> {
    /// The watch is up: a snapshot that is as new as the store's events.
    Fresh(&'a Cluster),
    /// The store cannot be reached.
    Unreachable {
        /// Since when.
        since: Tick,
        /// The last snapshot.
        last: Option<&'a Cluster>,
    },
}

impl<'a> DcsView<'a> {
    /// The snapshot if it is fresh.
    #[must_use]
    pub fn fresh(&self) -> Option<&'a Cluster> {
        match self {
            DcsView::Fresh(cluster) => Some(cluster),
            DcsView::Unreachable { .. } => None,
        }
    }

    /// The newest snapshot, fresh or not.
    #[must_use]
    pub fn newest(&self) -> Option<&'a Cluster> {
        match self {
            DcsView::Fresh(cluster) => Some(cluster),
            DcsView::Unreachable { last, .. } => *last,
        }
    }
}

/// Where a decision is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// In the loop worker.
    Inside {
        /// A supervisor is connected.
        supervised: bool,
    },
    /// In the supervisor.
    Outside,
}

/// One of the two sides of the seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The loop worker.
    Inside,
    /// The supervisor.
    Outside,
}

impl Seat {
    /// Which side it is.
    #[must_use]
    pub fn side(self) -> Side {
        match self {
            Seat::Inside { .. } => Side::Inside,
            Seat::Outside => Side::Outside,
        }
    }
}
