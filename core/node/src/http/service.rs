//! From an HTTP request to the pure API and back.

use super::io::{BoundedIo, PEER_PATIENCE, Phase};
use super::waiting::{self, either};
use super::{HEAD_BYTES_MAX, HEADERS_MAX, Shared};
use ha_core::api::{self, Answer, Reply, SwitchoverWait};
use ha_core::config::{Config, ServerTokens};
use ha_core::member::{COMPATIBLE_VERSION, HA_EXT_VERSION};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::watch;

/// No request of this API is larger.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// A connection ends after this at the latest once the server stops.
const LEAVING_PATIENCE: Duration = Duration::from_secs(2);

/// What answers the requests of one connection.
#[derive(Clone)]
pub(super) struct Service {
    pub shared: Rc<Shared>,
    pub phase: Rc<Cell<Phase>>,
    pub wait: Rc<RefCell<Option<SwitchoverWait>>>,
}

/// Serves one connection until it ends.
pub(super) async fn connection(io: BoundedIo, service: Service, mut leaving: watch::Receiver<bool>) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    // The socket itself keeps the time of a head, and tells a slow one from an idle connection.
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let left = pin!(async { leaving.wait_for(|left| *left).await.is_ok() });
    if either(connection.as_mut(), left).await.is_some() {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LEAVING_PATIENCE, connection).await;
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.phase.set(Phase::Busy);
        let service = self.clone();
        Box::pin(async move {
            let reply = service.reply(request).await;
            service.phase.set(Phase::Answered);
            let snapshot = service.shared.backend.snapshot();
            Ok(response(&reply, snapshot.as_deref().map(|snapshot| &*snapshot.config)))
        })
    }
}

impl Service {
    async fn reply(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let says_length =
            head.headers.contains_key(header::CONTENT_LENGTH) || head.headers.contains_key(header::TRANSFER_ENCODING);
        let body = match (head.method.as_str(), says_length) {
            ("GET" | "HEAD" | "OPTIONS", _) | (_, false) => None,
            _ => match read(body).await {
                Ok(bytes) => Some(bytes),
                Err(reply) => return reply,
            },
        };
        let request = api::Request {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            authorization: head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()),
            body: body.as_deref(),
        };
        let backend = &self.shared.backend;
        let snapshot = backend.snapshot();
        let mut answer = api::route(&request, snapshot.as_deref(), backend.live());
        loop {
            answer = match answer {
                Answer::Now(reply) => return reply,
                Answer::Fresh(question) => {
                    let Some(snapshot) = snapshot.as_deref() else { return Reply::page(503) };
                    let cluster = backend.fresh().await;
                    api::after_fresh(&question, cluster.as_ref().map_err(String::as_str), snapshot)
                }
                Answer::Write { edit, then } => api::after_write(then, &backend.write(edit).await),
                Answer::Promise(asking) => {
                    let Some(snapshot) = snapshot.as_deref() else { return Reply::page(503) };
                    return api::after_promise(backend.promise(asking).await.as_ref(), snapshot);
                }
                Answer::AwaitSwitchover(wait) => {
                    self.wait.replace(Some(wait.clone()));
                    let leaving = self.shared.leaving.subscribe();
                    let reply = waiting::result_or_left(&**backend, &wait, leaving).await;
                    self.wait.replace(None);
                    return reply;
                }
            };
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, Reply> {
    let too_large = || {
        let mut reply = Reply::page(413);
        // What is still under way of the body is not read.
        reply.headers.push(("Connection".to_owned(), "close".to_owned()));
        reply
    };
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(PEER_PATIENCE, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Reply::page(400)),
        Err(_) => {
            let mut reply = Reply::page(408);
            reply.headers.push(("Connection".to_owned(), "close".to_owned()));
            Err(reply)
        }
    }
}

fn response(reply: &Reply, config: Option<&Config>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body.clone())));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    set(headers, "Server", &server(config.map(|config| config.restapi.server_tokens).unwrap_or_default()));
    if let Some(kind) = &reply.content_type {
        set(headers, "Content-Type", kind);
    }
    for (name, value) in &reply.headers {
        set(headers, name, value);
    }
    for (name, value) in config.iter().flat_map(|config| &config.restapi.extra_headers) {
        set(headers, name, value);
    }
    response
}

pub(super) fn server(tokens: ServerTokens) -> String {
    match tokens {
        ServerTokens::Original => format!("Patroni/{COMPATIBLE_VERSION} ha_ext/{HA_EXT_VERSION}"),
        ServerTokens::Minimal => format!("Patroni/{COMPATIBLE_VERSION}"),
        ServerTokens::ProductOnly => "Patroni".to_owned(),
    }
}

/// A header from the configuration that no header can be is left out.
fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}
