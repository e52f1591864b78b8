//! What went wrong with one request, sorted by what it proves.

use std::error::Error as _;
use std::fmt;
use tonic::Code;

/// Why a request has no answer that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request did not happen, and another member or a later attempt may do it.
    NotDone(String),
    /// The request may or may not have happened.
    Unclear(String),
    /// The lease the request needs does not exist.
    LeaseGone,
    /// The token, or the lack of one, was refused: the request did not happen. Worth a new authentication.
    Unauthenticated(String),
    /// The store refused the request for good: it did not happen.
    Denied(String),
    /// The member belongs to another etcd cluster: nothing happened in ours.
    Foreign(String),
}

impl Failure {
    /// Whether the request may have happened nevertheless.
    pub(super) fn leaves_doubt(&self) -> bool {
        match self {
            Failure::Unclear(_) => true,
            Failure::NotDone(_)
            | Failure::LeaseGone
            | Failure::Unauthenticated(_)
            | Failure::Denied(_)
            | Failure::Foreign(_) => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotDone(why)
            | Failure::Unclear(why)
            | Failure::Unauthenticated(why)
            | Failure::Denied(why)
            | Failure::Foreign(why) => f.write_str(why),
            Failure::LeaseGone => f.write_str("the lease does not exist any more"),
        }
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => from_status(&status),
            // The client reports a keepalive answer with a time to live of zero this way; its other errors of
            // this kind mean that the stream is closed.
            etcd_client::Error::LeaseKeepAliveError(text) if text == "lease not found" => Failure::LeaseGone,
            etcd_client::Error::InvalidArgs(text) => Failure::Denied(text),
            etcd_client::Error::InvalidUri(error) => Failure::Denied(error.to_string()),
            other => Failure::Unclear(other.to_string()),
        }
    }
}

fn from_status(status: &tonic::Status) -> Failure {
    let message = status.message();
    let text = chain(status);
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Failure::Unauthenticated(text),
        Code::InvalidArgument
            if message.contains("auth store is old")
                || message.contains("user name is empty")
                || message.contains("invalid auth token") =>
        {
            Failure::Unauthenticated(text)
        }
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => Failure::Denied(text),
        // Some services lose the code on the way and keep the message.
        Code::NotFound | Code::Unknown if message.contains("lease not found") => Failure::LeaseGone,
        Code::ResourceExhausted if message.contains("space exceeded") => Failure::Denied(text),
        Code::ResourceExhausted if message.contains("too many requests") => Failure::NotDone(text),
        Code::Unavailable if never_sent(status) || turned_away(message) => Failure::NotDone(text),
        Code::Unknown if message.contains("invalid auth token") => Failure::Unauthenticated(text),
        // Everything else, Unavailable and "not a primary lessor" with code Unknown among it.
        _ => Failure::Unclear(text),
    }
}

/// No connection came up, so no byte of the request left us.
fn never_sent(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Messages of a member that turned the request away at the door.
fn turned_away(message: &str) -> bool {
    message == "etcdserver: no leader"
        || message.starts_with("etcdserver: not capable")
        || message.starts_with("etcdserver: rpc not supported for learner")
}

/// The message and its causes, once each.
fn chain(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        source = error.source();
    }
    if text.is_empty() { format!("{:?}", status.code()) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    fn sorted(status: Status) -> Failure {
        Failure::from(etcd_client::Error::GRpcStatus(status))
    }

    #[test]
    fn what_proves_nothing_leaves_doubt() {
        for status in [
            Status::unavailable("etcdserver: request timed out"),
            Status::unavailable("etcdserver: leader changed"),
            Status::unknown("not a primary lessor"),
            Status::unknown("transport error"),
            Status::internal("h2 protocol error"),
            Status::cancelled("x"),
            Status::deadline_exceeded("x"),
        ] {
            let failure = sorted(status);
            assert!(failure.leaves_doubt(), "{failure:?}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        assert!(matches!(sorted(Status::unavailable("etcdserver: no leader")), Failure::NotDone(_)));
        assert_eq!(sorted(Status::not_found("etcdserver: requested lease not found")), Failure::LeaseGone);
        for status in [
            Status::unauthenticated("etcdserver: invalid auth token"),
            Status::unknown("etcdserver: invalid auth token"),
            Status::invalid_argument("etcdserver: revision of auth store is old"),
            Status::invalid_argument("etcdserver: user name is empty"),
            Status::permission_denied("etcdserver: permission denied"),
        ] {
            let failure = sorted(status);
            assert!(matches!(failure, Failure::Unauthenticated(_)), "{failure:?}");
        }
        let wrong = Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password");
        assert!(matches!(sorted(wrong), Failure::Denied(_)));
        assert!(matches!(
            sorted(Status::resource_exhausted("etcdserver: mvcc: database space exceeded")),
            Failure::Denied(_)
        ));
    }
}
