//! The REST API as a client sees it.

use serde_json::Value;
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

impl Reply {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

fn agent(within: Duration) -> ureq::Agent {
    let config =
        ureq::Agent::config_builder().timeout_global(Some(within)).http_status_as_error(false).proxy(None).build();
    ureq::Agent::new_with_config(config)
}

/// GET; an unreachable server is an error in words.
pub fn get(base: &str, path: &str) -> Result<Reply, String> {
    let answer = agent(Duration::from_secs(3)).get(format!("{base}{path}")).call();
    finish(answer)
}

/// GET-like POST of a store: answers at once or not at all.
pub fn ask(base: &str, path: &str, body: &Value) -> Result<Reply, String> {
    let request = agent(Duration::from_secs(2)).post(format!("{base}{path}"));
    finish(request.header("Content-Type", "application/json").send(body.to_string()))
}

/// POST with a JSON body; a switchover answers only when it is done, hence the long wait.
pub fn post(base: &str, path: &str, body: &Value) -> Result<Reply, String> {
    let request = agent(Duration::from_mins(1)).post(format!("{base}{path}"));
    finish(request.header("Content-Type", "application/json").send(body.to_string()))
}

/// PATCH with a JSON body.
pub fn patch(base: &str, path: &str, body: &Value) -> Result<Reply, String> {
    let request = agent(Duration::from_secs(20)).patch(format!("{base}{path}"));
    finish(request.header("Content-Type", "application/json").send(body.to_string()))
}

/// DELETE.
pub fn delete(base: &str, path: &str) -> Result<Reply, String> {
    finish(agent(Duration::from_secs(20)).delete(format!("{base}{path}")).call())
}

fn finish(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Reply, String> {
    let mut response = answer.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
    Ok(Reply { status, body })
}
