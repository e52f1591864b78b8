//! The REST API, pure: a request and a snapshot in, an answer out (wire.md 3, 5 and 6).
//!
//! What needs the store comes back as an [`Answer`] that names the question; the server asks it and goes on with
//! [`after_fresh`] or [`after_write`].

mod snapshot;

pub use snapshot::{LiveNow, ServerFacts, Snapshot};

use crate::cluster::Cluster;
use crate::dcs::{DcsReply, KeyEdit};
use crate::ids::NodeName;
use serde::{Deserialize, Serialize};

/// A request, as the server read it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `HEAD`, ...
    pub method: &'a str,
    /// The path without the query.
    pub path: &'a str,
    /// The query without the question mark, empty if there is none.
    pub query: &'a str,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The body; `None` when the request says nothing of its length.
    pub body: Option<&'a [u8]>,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`; `None` for an answer that is a status alone.
    pub content_type: Option<String>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

/// What to do about a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Send this.
    Now(Reply),
    /// Read the cluster from the store, then call [`after_fresh`].
    Fresh(Question),
    /// Write this, then call [`after_write`].
    Write {
        /// What to write.
        edit: KeyEdit,
        /// What it is for.
        then: Written,
    },
    /// Watch the cluster until [`SwitchoverWait::result`] has one.
    AwaitSwitchover(SwitchoverWait),
}

/// What a fresh view of the cluster is wanted for.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// `GET /cluster`
    Cluster,
}

/// What a write was for.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// Answer with this once it is in.
    Config(Reply),
    /// Then wait for the change of leader.
    Switchover(SwitchoverWait),
}

/// A change of leader that somebody waits for. Plain data, so that the wait can move with the seat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverWait {
    /// Who led when it was asked for.
    pub leader: Option<NodeName>,
    /// Who was asked to lead.
    pub candidate: Option<NodeName>,
    /// How long to wait at most.
    pub limit_ms: u64,
}

/// Decides about a request.
#[must_use]
pub fn route(request: &Request<'_>, snapshot: &Snapshot, live: LiveNow) -> Answer {
    let _ = (request, snapshot, live);
    Answer::Now(Reply { status: 503, content_type: None, headers: Vec::new(), body: String::new() })
}

/// Goes on after the cluster was read; `Err` when the store could not be read.
#[must_use]
pub fn after_fresh(question: &Question, cluster: Result<&Cluster, &str>, snapshot: &Snapshot, live: LiveNow) -> Answer {
    let _ = (question, cluster, snapshot, live);
    Answer::Now(Reply { status: 503, content_type: None, headers: Vec::new(), body: String::new() })
}

/// Goes on after a write.
#[must_use]
pub fn after_write(then: Written, reply: &DcsReply) -> Answer {
    let _ = (then, reply);
    Answer::Now(Reply { status: 503, content_type: None, headers: Vec::new(), body: String::new() })
}

impl SwitchoverWait {
    /// The answer, once the cluster shows one.
    #[must_use]
    pub fn result(&self, cluster: &Cluster) -> Option<Reply> {
        let _ = cluster;
        None
    }
}
