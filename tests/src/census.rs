//! What changes of role needed: rewinds, copies, starts of servers.

use crate::cluster::Cluster;
use crate::node::Node;
use std::fmt;
use std::ops::Sub;

/// What the supervisors of all nodes did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Former leaders rewound.
    pub rewinds: usize,
    /// Data directories copied anew.
    pub copies: usize,
    /// Servers started.
    pub starts: usize,
}

impl Census {
    /// Everything so far.
    #[must_use]
    pub fn take(cluster: &Cluster) -> Self {
        let count = |text: &str| cluster.nodes.iter().map(|node| lines(node, text)).sum();
        Self {
            rewinds: count("begun: rewind onto"),
            copies: count("begun: copy the data directory"),
            starts: count("postgres started pid="),
        }
    }
}

fn lines(node: &Node, text: &str) -> usize {
    node.supervisor_log().lines().filter(|line| line.contains(text)).count()
}

impl Sub for Census {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            rewinds: self.rewinds - earlier.rewinds,
            copies: self.copies - earlier.copies,
            starts: self.starts - earlier.starts,
        }
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rewinds, {} copies, {} starts of a server", self.rewinds, self.copies, self.starts)
    }
}
