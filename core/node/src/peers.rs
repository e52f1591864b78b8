//! Asks the other members directly: `GET /patroni` (wire.md 4, item 1).

use ha_core::api::PROMISE_HEADER;
use ha_core::clock::{Millis, Tick};
use ha_core::failsafe::{PromiseAnswer, PromiseView};
use ha_core::ids::{Lsn, NodeName, Timeline};
use ha_core::parse;
use ha_core::peer::{PeerAnswer, PeerStatus, PeerView};
use ha_core::tags::Tags;
use serde_json::Value;
use std::time::Duration;

/// A peer that has not answered by then is unreachable.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// No answer of a healthy peer is anywhere near this size.
const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// How peers are asked. One for all of them; cheap to clone.
#[derive(Clone)]
pub struct Asker {
    agent: ureq::Agent,
    scope: String,
    authorization: Option<String>,
}

impl Asker {
    /// For the members of `scope`; `authorization` is the value of that header, if one is to be sent.
    #[must_use]
    pub fn new(scope: String, authorization: Option<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(TIMEOUT))
            // A proxy from the environment must not stand between the members.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            // Votes are rare: a kept connection would meet a dead socket just when it matters.
            .max_idle_connections(0)
            .user_agent("ha_ext")
            .build();
        Self { agent: config.new_agent(), scope, authorization }
    }

    /// Asks one peer and waits for it, [`TIMEOUT`] at most. `asked_at` is carried into the answer.
    #[must_use]
    pub fn ask(&self, name: NodeName, api_url: &str, asked_at: Tick) -> PeerView {
        let answer = match self.get(api_url) {
            Ok(text) => answer(&text, &self.scope, &name),
            Err(error) => PeerAnswer::Unreachable(error.to_string()),
        };
        PeerView { name, asked_at, answer }
    }

    /// Asks one member to stay away from the leader key, as [`Asker::ask`] does. What it says counts only if it says for how long. It is
    /// told whom this leader means, and refuses if it is another.
    #[must_use]
    pub fn promise(&self, open: PromiseView, api_url: &str, body: &Value) -> PromiseView {
        let mut body = body.clone();
        body["ha_ext"]["to"] = open.name.as_str().into();
        let answer = match self.post(&failsafe_url(api_url), &body.to_string()) {
            Ok(lasts) => lasts,
            Err(error) => PromiseAnswer::Refused(error.to_string()),
        };
        PromiseView { answer, ..open }
    }

    fn post(&self, url: &str, body: &str) -> Result<PromiseAnswer, ureq::Error> {
        let mut request = self.agent.post(url).content_type("application/json");
        if let Some(value) = &self.authorization {
            request = request.header("Authorization", value);
        }
        let mut response = request.send(body)?;
        let status = response.status().as_u16();
        let lasts = response.headers().get(PROMISE_HEADER).and_then(|lasts| lasts.to_str().ok()?.parse().ok());
        let text = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string()?;
        Ok(match lasts {
            Some(lasts) if status == 200 && text.trim() == "Accepted" => PromiseAnswer::Promised(Millis(lasts)),
            _ => PromiseAnswer::Refused(format!("{status} {}", text.lines().next().unwrap_or_default())),
        })
    }

    fn get(&self, api_url: &str) -> Result<String, ureq::Error> {
        let mut request = self.agent.get(api_url);
        if let Some(value) = &self.authorization {
            request = request.header("Authorization", value);
        }
        request.call()?.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string()
    }
}

/// Where a member whose `api_url` this is takes the question.
fn failsafe_url(api_url: &str) -> String {
    let base = api_url.trim_end_matches('/');
    format!("{}/failsafe", base.strip_suffix("/patroni").unwrap_or(base))
}

/// What the member `name` of `scope` says, if it is that one: an address may have been given to another since, or stand in two members'
/// configuration.
fn answer(text: &str, scope: &str, name: &NodeName) -> PeerAnswer {
    let value = match serde_json::from_str::<Value>(text) {
        Ok(value) => value,
        Err(error) => return PeerAnswer::Unreachable(format!("its answer is not JSON: {error}")),
    };
    let who = value.get("patroni");
    let says = |field: &str| who.and_then(|who| who.get(field)?.as_str());
    let (its_scope, its_name) = (says("scope").unwrap_or(scope), says("name").unwrap_or(name.as_str()));
    if (its_scope, its_name) != (scope, name.as_str()) {
        return PeerAnswer::Unreachable(format!("{its_name} of {its_scope} answers there"));
    }
    match value {
        // Whatever else is missing, an answer of this API names a state or a role.
        value if value.get("state").is_some() || value.get("role").is_some() => PeerAnswer::Status(status(&value)),
        _ => PeerAnswer::Unreachable("its answer names neither state nor role".to_owned()),
    }
}

/// Reads the body of `GET /patroni`. What makes no sense counts as absent.
#[must_use]
pub fn status(value: &Value) -> PeerStatus {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let wal = value.get("xlog").or_else(|| value.get("wal"));
    let position = |field: &str| wal.and_then(|wal| wal.get(field)).and_then(parse::integer).unwrap_or(0);
    let current = position("location");
    let lsn = current.max(position("received_location")).max(position("replayed_location"));
    let timeline = value.get("timeline").and_then(parse::integer).and_then(|t| u32::try_from(t).ok());
    // One that is being promoted, or that holds the lease without leading yet, may be a primary in the next moment.
    let ours = |field: &str| value.get("ha_ext").and_then(|ours| ours.get(field)?.as_bool()).unwrap_or(false);
    let about_to_lead = ours("holds_lease");
    let says = |field: &str| value.get(field).and_then(parse::boolean).unwrap_or(false);
    PeerStatus {
        is_primary: current > 0 || about_to_lead || matches!(text("role"), Some("master" | "primary" | "promoted")),
        state: text("state").unwrap_or_default().to_owned(),
        in_recovery: ours("in_recovery"),
        lsn: Lsn(lsn),
        timeline: timeline.filter(|t| *t > 0).map(Timeline),
        receiving: text("replication_state") == Some("streaming"),
        tags: Tags::from_json(value.get("tags")),
        watchdog_failed: says("watchdog_failed"),
        cannot_write: says("cannot_write"),
    }
}

/// The value of an `Authorization` header for HTTP Basic authentication.
#[must_use]
pub fn basic_authorization(username: &str, password: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let plain = format!("{username}:{password}");
    let mut out = String::from("Basic ");
    for chunk in plain.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let six = (bits >> (18 - 6 * at)) & 63;
            out.push(if at > chunk.len() { '=' } else { char::from(ALPHABET[six as usize]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn a_primary_is_known_by_its_role_or_by_its_position() {
        let by_role = status(&json!({"state": "running", "role": "master"}));
        assert!(by_role.is_primary);
        let by_position = status(&json!({"state": "running", "role": "demoted", "wal": {"location": "67395656"}}));
        assert!(by_position.is_primary);
        assert_eq!(by_position.lsn, Lsn(67_395_656));
        let standby = status(&json!({
            "state": "running", "role": "replica", "timeline": 3, "replication_state": "streaming",
            "xlog": {"received_location": 100, "replayed_location": 120, "paused": false},
            "tags": {"nofailover": true}, "watchdog_failed": true, "cannot_write": true
        }));
        assert!(!standby.is_primary && standby.receiving && standby.watchdog_failed && standby.cannot_write);
        assert_eq!((standby.lsn, standby.timeline), (Lsn(120), Some(Timeline(3))));
        assert!(standby.tags.nofailover());
    }

    #[test]
    fn one_that_is_about_to_lead_counts_as_a_primary() {
        assert!(status(&json!({"state": "running", "role": "promoted"})).is_primary);
        let holds = |holds: bool| json!({"state": "running", "role": "replica", "ha_ext": {"holds_lease": holds}});
        assert!(status(&holds(true)).is_primary && !status(&holds(false)).is_primary);
    }

    #[test]
    fn a_standby_that_is_not_ready_says_what_it_is() {
        let starting = json!({"state": "starting", "role": "replica"});
        assert!(!status(&starting).in_recovery);
        let standby = status(&json!({"state": "starting", "role": "replica", "ha_ext": {"in_recovery": true}}));
        assert!(standby.in_recovery && !standby.is_primary && !standby.may_lead());
    }

    #[test]
    fn nonsense_is_no_answer() {
        for text in ["", "<html>", "[]", "{\"a\":1}", "null"] {
            assert!(matches!(answer(text, "demo", &NodeName::new("a")), PeerAnswer::Unreachable(_)), "{text}");
        }
        let odd = status(&json!({"role": 5, "xlog": [], "timeline": -1, "tags": "x"}));
        assert_eq!(odd, PeerStatus::default());
    }

    #[test]
    fn another_member_at_its_address_does_not_speak_for_it() {
        let says = |name: &str, scope: &str| {
            let value = json!({"state": "running", "role": "replica", "patroni": {"name": name, "scope": scope}});
            answer(&value.to_string(), "demo", &NodeName::new("pg2"))
        };
        assert!(matches!(says("pg2", "demo"), PeerAnswer::Status(_)));
        assert_eq!(says("pg3", "demo"), PeerAnswer::Unreachable("pg3 of demo answers there".to_owned()));
        assert_eq!(says("pg2", "prod"), PeerAnswer::Unreachable("pg2 of prod answers there".to_owned()));
    }

    #[test]
    fn the_header_is_basic_authentication() {
        assert_eq!(basic_authorization("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(basic_authorization("a", "b"), "Basic YTpi");
        assert_eq!(basic_authorization("a", "bc"), "Basic YTpiYw==");
    }

    fn is_whole(request: &str) -> bool {
        let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        body.len() >= length.unwrap_or(0)
    }

    /// Serves one connection; `None` accepts and says nothing.
    fn server(reply: Option<&'static str>) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let url = format!("http://{}/patroni", listener.local_addr().expect("address"));
        let died: crate::runtime::Died = std::sync::Arc::new(|name, why| panic!("{name}: {why}"));
        let (tx, rx) = std::sync::mpsc::channel();
        let _ = crate::runtime::spawn("peer", died.clone(), move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut request = [0u8; 4096];
            let mut text = String::new();
            // A body may come after its head.
            while !is_whole(&text) {
                let read = stream.read(&mut request).expect("read");
                assert!(read > 0, "cut off after {text}");
                text.push_str(&String::from_utf8_lossy(&request[..read]));
            }
            if let Some(reply) = reply {
                stream.write_all(reply.as_bytes()).expect("write");
            } else {
                let _ = stream.read(&mut request);
            }
            tx.send(text).expect("send");
        });
        let joined = std::thread::Builder::new().spawn(move || rx.recv().expect("request")).expect("thread");
        (url, joined)
    }

    #[test]
    fn a_real_answer_is_read_and_the_header_is_sent() {
        let (url, request) = server(Some(
            "HTTP/1.0 503 x\r\nContent-Type: application/json\r\n\r\n{\"state\":\"running\",\"role\":\"primary\"}",
        ));
        let view =
            Asker::new("demo".to_owned(), Some("Basic YTpi".to_owned())).ask(NodeName::new("pg2"), &url, Tick(7));
        assert_eq!((view.name.as_str(), view.asked_at), ("pg2", Tick(7)));
        assert!(matches!(view.answer, PeerAnswer::Status(status) if status.is_primary));
        let request = request.join().expect("request");
        assert!(request.starts_with("GET /patroni "), "{request}");
        assert!(request.to_lowercase().contains("authorization: basic ytpi"), "{request}");
    }

    #[test]
    fn only_an_answer_that_says_for_how_long_is_a_promise() {
        let promise = |reply: &'static str| {
            let (url, request) = server(Some(reply));
            let (name, created) = (NodeName::new("pg2"), ha_core::ids::Revision(70));
            let open = PromiseView { name, asked_at: Tick(7), created, answer: PromiseAnswer::Pending };
            let view = Asker::new("demo".to_owned(), Some("Basic YTpi".to_owned())).promise(
                open,
                &url,
                &json!({"name": "pg1"}),
            );
            assert_eq!((view.asked_at, view.created), (Tick(7), created));
            let request = request.join().expect("request");
            assert!(request.starts_with("POST /failsafe "), "{request}");
            assert!(request.to_lowercase().contains("authorization: basic ytpi"), "{request}");
            assert!(request.ends_with(r#"{"ha_ext":{"to":"pg2"},"name":"pg1"}"#), "{request}");
            view.answer
        };
        let ours = "HTTP/1.0 200 x\r\nha-ext-promise-ms: 30000\r\nlsn: 5\r\n\r\nAccepted";
        assert_eq!(promise(ours), PromiseAnswer::Promised(Millis(30_000)));
        for other in [
            "HTTP/1.0 200 x\r\nlsn: 5\r\n\r\nAccepted",
            "HTTP/1.0 500 x\r\nha-ext-promise-ms: 30000\r\n\r\nRunning as a leader",
            "HTTP/1.0 200 x\r\nha-ext-promise-ms: x\r\n\r\nAccepted",
            "HTTP/1.0 200 x\r\nha-ext-promise-ms: 30000\r\n\r\nno",
        ] {
            assert!(matches!(promise(other), PromiseAnswer::Refused(_)), "{other}");
        }
    }

    #[test]
    fn a_redirect_a_refusal_and_a_silent_peer_are_unreachable_in_time() {
        let asker = Asker::new("demo".to_owned(), None);
        let (url, _request) =
            server(Some("HTTP/1.0 302 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"));
        let answer = asker.ask(NodeName::new("a"), &url, Tick(0)).answer;
        assert!(matches!(&answer, PeerAnswer::Unreachable(_)), "{answer:?}");
        let answer = asker.ask(NodeName::new("a"), "http://127.0.0.1:1/patroni", Tick(0)).answer;
        assert!(matches!(&answer, PeerAnswer::Unreachable(why) if why.contains("refused")), "{answer:?}");
        let (url, _request) = server(None);
        let before = crate::clock::now();
        let answer = asker.ask(NodeName::new("a"), &url, Tick(0)).answer;
        assert!(matches!(&answer, PeerAnswer::Unreachable(_)), "{answer:?}");
        assert!((1900..3000).contains(&crate::clock::now().since(before).0));
    }
}
