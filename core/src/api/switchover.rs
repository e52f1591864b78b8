//! `POST /switchover`, `POST /failover`, `DELETE /switchover` (wire.md 3.3).
//!
//! The request is written to the `failover` key, where the leader (or the candidate, if there is no leader) finds
//! it; whoever asked is answered once the leader key changed hands or the request was turned down.

use super::{Answer, Reply, Written, time};
use crate::cluster::{Cluster, FailoverRequest};
use crate::dcs::{Expect, Key, KeyEdit};
use crate::ids::{NodeName, Revision};
use crate::parse;
use crate::schedule::{self, Unusable};
use crate::settings::Settings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Which of the two was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// A change of leader on which leader and candidate agree.
    Switchover,
    /// The candidate is to lead, whoever leads now, or nobody does.
    Failover,
}

impl Action {
    const fn title(self) -> &'static str {
        match self {
            Action::Switchover => "Switchover",
            Action::Failover => "Failover",
        }
    }

    const fn past(self) -> &'static str {
        match self {
            Action::Switchover => "Switched over",
            Action::Failover => "Failed over",
        }
    }
}

/// A change of leader that somebody waits for. Plain data, so that the wait can move with the seat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverWait {
    /// What was asked for.
    pub action: Action,
    /// Who led when it was asked for.
    pub leader: Option<NodeName>,
    /// Who was asked to lead.
    pub candidate: Option<NodeName>,
    /// Revision of the request; older views of the cluster say nothing.
    pub requested_at: Revision,
    /// How long to wait at most.
    pub limit_ms: u64,
}

impl SwitchoverWait {
    /// The answer, once the cluster shows one. `rejected` is the request this node turned down last, and why.
    #[must_use]
    pub fn result(&self, cluster: &Cluster, rejected: Option<&(Revision, String)>) -> Option<Reply> {
        if cluster.revision < self.requested_at {
            return None;
        }
        if let Some(leader) = &cluster.leader
            && Some(&leader.name) != self.leader.as_ref()
        {
            let text = match &self.candidate {
                Some(candidate) if *candidate != leader.name => {
                    format!("{} to \"{}\" instead of \"{candidate}\"", self.action.past(), leader.name)
                }
                _ => format!("Successfully {} to \"{}\"", self.action.past().to_lowercase(), leader.name),
            };
            return Some(Reply::text(200, &text));
        }
        if cluster.failover.is_some() {
            return None;
        }
        let failed = format!("{} failed", self.action.title());
        let this = |refused: &&(Revision, String)| refused.0 == self.requested_at;
        Some(match rejected.filter(this).or_else(|| cluster.refused.as_ref().filter(this)) {
            Some((_, reason)) => Reply::text(503, &format!("{failed}: {reason}")),
            None => Reply::text(503, &failed),
        })
    }

    /// The answer when [`Self::limit_ms`] is over.
    #[must_use]
    pub fn timed_out(&self) -> Reply {
        Reply::text(503, &format!("{} status unknown", self.action.title()))
    }

    /// The answer when the server that holds the connection must go away before the result is known.
    #[must_use]
    pub fn left(&self) -> Reply {
        Reply::text(202, &format!("{} started; its result will be seen in the cluster", self.action.title()))
    }
}

/// `POST` with this body.
pub(super) fn post(
    action: Action,
    body: &Map<String, Value>,
    cluster: &Cluster,
    settings: &Settings,
    now_unix_ms: i64,
) -> Answer {
    match request(action, body, cluster, now_unix_ms) {
        Err(reply) => Answer::Now(reply),
        Ok((_, request)) if request.scheduled_at.is_some() => {
            let then = Written::Config(Reply::text(202, "Switchover scheduled"));
            Answer::Write { edit: edit(cluster, &request), then }
        }
        Ok((action, request)) => {
            let wait = SwitchoverWait {
                action,
                leader: cluster.leader.as_ref().map(|leader| leader.name.clone()),
                candidate: request.member.clone(),
                requested_at: Revision(0),
                limit_ms: settings.loop_wait_ms.0.max(10_000) * 2,
            };
            Answer::Write { edit: edit(cluster, &request), then: Written::Switchover(wait) }
        }
    }
}

/// The write that puts `request` into the `failover` key.
#[must_use]
pub fn edit(cluster: &Cluster, request: &FailoverRequest) -> KeyEdit {
    let value = serde_json::to_string(request).unwrap_or_else(|_| "{}".to_owned());
    let expect = cluster.failover_revision.map_or(Expect::Absent, Expect::Unchanged);
    KeyEdit { key: Key::Failover, value: Some(value), expect, leased: false }
}

fn request(
    action: Action,
    body: &Map<String, Value>,
    cluster: &Cluster,
    now_unix_ms: i64,
) -> Result<(Action, FailoverRequest), Reply> {
    let bad = |text: &str| Err(Reply::text(400, text));
    let text = |name: &str| body.get(name).filter(|value| !value.is_null()).map(|value| value.as_str().unwrap_or("\0"));
    let name = |name: &str| text(name).filter(|text| !text.is_empty());
    let (leader, candidate) = (name("leader"), name("candidate").or_else(|| name("member")));
    if leader == Some("\0") || candidate == Some("\0") {
        return bad("leader and candidate must be names");
    }
    match (action, leader, candidate) {
        (Action::Failover, _, None) => return bad("Failover could be performed only to a specific candidate"),
        (Action::Switchover, None, _) => return bad("Switchover could be performed only from a specific leader"),
        _ => {}
    }
    let scheduled = body.get("scheduled_at").filter(|at| !at.is_null() && **at != "" && **at != "now");
    let dynamic = cluster.config.as_ref().map(|config| &config.value);
    let paused = dynamic.and_then(|config| parse::boolean(config.get("pause")?)) == Some(true);
    let scheduled_at = match (scheduled, action) {
        (Some(_), Action::Failover) => return bad("Failover can't be scheduled"),
        (Some(_), Action::Switchover) if paused => return bad("Can't schedule switchover in the paused state"),
        (Some(at), Action::Switchover) => Some(time_to_come(at, now_unix_ms)?),
        (None, _) => None,
    };
    if paused && candidate.is_none() {
        return bad("Switchover is possible only to a specific candidate in a paused state");
    }
    // As Patroni does: a failover from a named leader is a switchover.
    let action = if leader.is_some() { Action::Switchover } else { action };
    if leader.is_some() && leader == candidate {
        return bad("Switchover target and source are the same");
    }
    if scheduled_at.is_none() {
        // What is possible at a time to come is seen then.
        possible(action, leader, candidate, cluster).map_err(|text| Reply::text(412, &text))?;
    }
    let (leader, member) = (leader.map(NodeName::new), candidate.map(NodeName::new));
    let request = FailoverRequest { leader, member, scheduled_at, due: None };
    Ok((action, request))
}

/// As it is written: in UTC.
fn time_to_come(at: &Value, now_unix_ms: i64) -> Result<String, Reply> {
    let text = at.as_str().unwrap_or_default();
    match schedule::unix_ms(text) {
        Err(problem @ Unusable::NoZone) => Err(Reply::text(400, &format!("scheduled_at {problem}"))),
        Err(problem @ Unusable::Unreadable) => Err(Reply::text(422, &format!("scheduled_at {problem}"))),
        Ok(unix_ms) if unix_ms <= now_unix_ms => {
            let now = time::iso(now_unix_ms.saturating_mul(1000));
            Err(Reply::text(422, &format!("scheduled_at lies in the past: it is {now} here")))
        }
        Ok(unix_ms) => Ok(time::iso(unix_ms * 1000)),
    }
}

/// What can be seen from here; the leader looks closer before it changes anything.
fn possible(action: Action, leader: Option<&str>, candidate: Option<&str>, cluster: &Cluster) -> Result<(), String> {
    let present = cluster.leader.as_ref().map(|leader| leader.name.as_str());
    if leader.is_some() && leader != present {
        let leads = present.map_or_else(|| "nobody leads".to_owned(), |present| format!("{present} leads"));
        return Err(format!("leader name does not match: {leads}"));
    }
    let word = action.title().to_lowercase();
    let mut unbound = cluster.unbound_fences().map(NodeName::as_str);
    if let Some(other) = unbound.find(|name| Some(*name) != present && Some(*name) != candidate) {
        return Err(format!(
            "{word} is not possible: {other} may acknowledge commits without a lease, since maintenance mode; make sure that its \
             server does not run and use ha_resume(force => true) first"
        ));
    }
    if let Some(candidate) = candidate {
        if Some(candidate) == present {
            return Err(format!("{word} is not possible: {candidate} is the leader already"));
        }
        let Some(member) = cluster.members.get(&NodeName::new(candidate)) else {
            return Err(format!("candidate does not exist: no member is called {candidate}"));
        };
        if member.tags.nofailover() {
            return Err(format!("{word} is not possible: no good candidates have been found"));
        }
        return Ok(());
    }
    let mut others = cluster.members.iter().filter(|(name, _)| Some(name.as_str()) != present).peekable();
    if others.peek().is_none() {
        return Err(format!("{word} is not possible: cluster does not have members except leader"));
    }
    if others.all(|(_, member)| member.tags.nofailover() || member.state != "running") {
        return Err(format!("{word} is not possible: no good candidates have been found"));
    }
    Ok(())
}

/// `DELETE /switchover`: takes back a scheduled one.
pub(super) fn delete(cluster: &Cluster) -> Answer {
    let scheduled = cluster.failover.as_ref().filter(|request| request.value.scheduled_at.is_some());
    let Some(request) = scheduled else { return Answer::Now(Reply::text(404, "no switchover is scheduled")) };
    let expect = Expect::Unchanged(request.revision);
    Answer::Write {
        edit: KeyEdit { key: Key::Failover, value: Some("{}".to_owned()), expect, leased: false },
        then: Written::Config(Reply::text(200, "scheduled switchover deleted")),
    }
}
