//! Finished answers.

use serde::{Deserialize, Serialize};

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

impl Reply {
    /// A status alone.
    #[must_use]
    pub fn bare(status: u16) -> Self {
        Self { status, content_type: None, headers: Vec::new(), body: String::new() }
    }

    /// Text, which Patroni labels as HTML.
    #[must_use]
    pub fn text(status: u16, body: &str) -> Self {
        Self { status, content_type: Some("text/html".to_owned()), headers: Vec::new(), body: body.to_owned() }
    }

    /// JSON.
    #[must_use]
    pub fn json(status: u16, body: String) -> Self {
        Self { status, content_type: Some("application/json".to_owned()), headers: Vec::new(), body }
    }

    /// The page of an error that has no text of its own. `patronictl` looks for the words of 501.
    #[must_use]
    pub fn page(status: u16) -> Self {
        let explanation = match status {
            400 => "Bad request syntax or unsupported method",
            404 => "Nothing matches the given URI",
            408 => "Request timed out; try again later",
            409 => "Request conflict",
            411 => "Client must specify Content-Length",
            413 => "Entity is too large",
            501 => "Server does not support this operation",
            502 => "Invalid responses from another server/proxy",
            _ => "The server cannot process the request due to a high load",
        };
        let message = reason(status);
        let body = format!(
            "<!DOCTYPE HTML>\n<html lang=\"en\">\n    <head>\n        <meta charset=\"utf-8\">\n        \
             <title>Error response</title>\n    </head>\n    <body>\n        <h1>Error response</h1>\n        \
             <p>Error code: {status}</p>\n        <p>Message: {message}.</p>\n        \
             <p>Error code explanation: {status} - {explanation}.</p>\n    </body>\n</html>\n"
        );
        let content_type = Some("text/html;charset=utf-8".to_owned());
        Self { status, content_type, headers: Vec::new(), body }
    }
}

/// The answer to an action: what to do instead of one of Patroni's. `patronictl` shows it, and looks for the words of 501.
#[must_use]
pub fn not_built(action: &str) -> Reply {
    let instead = match action {
        "restart" => "restart ha_bootstrap on that node; a leader hands over first",
        "reload" => "the dynamic configuration needs none; for the file send SIGHUP to ha_bootstrap on that node",
        "reinitialize" => "stop ha_bootstrap on that node, remove the data directory, start it again",
        _ => return Reply::page(501),
    };
    Reply::text(501, &format!("Server does not support this operation. Instead: {instead}. Nothing was changed."))
}

/// The words of a status.
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        _ => "Service Unavailable",
    }
}
