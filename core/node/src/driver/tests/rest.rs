//! The REST server of a driver.

use super::*;
use ha_core::peer::PeerAnswer;

/// Sends one request and gives back the status line and the body, once there is an answer.
fn http(port: u16, request: String) -> std::sync::mpsc::Receiver<(String, String)> {
    use std::io::{Read, Write};
    let (tell, told) = channel();
    let died: crate::runtime::Died = Arc::new(|name, why| panic!("{name}: {why}"));
    let client = move || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.write_all(request.as_bytes()).expect("send");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let _ = tell.send((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()));
    };
    crate::runtime::spawn("client", died, client).expect("thread");
    told
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

impl Node {
    fn serve(&mut self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("address").port();
        self.driver.serve_rest(listener);
        port
    }

    fn ask(&mut self, port: u16, request: String) -> (String, String) {
        let told = http(port, request);
        let mut answer = None;
        self.until("answer", 8000, |_, _| {
            answer = answer.take().or_else(|| told.recv_timeout(Duration::from_millis(20)).ok());
            answer.is_some()
        });
        answer.expect("an answer")
    }
}

#[test]
fn rest_answers_from_the_driver_and_peers_understand_it() {
    let etcd = TestEtcd::start();
    let mut node = Node::start(&etcd, "pg1");
    let port = node.serve();
    node.until("member key", 8000, |driver, _| member_in_store(driver, "pg1"));
    let (status, _) = node.ask(port, "GET /primary HTTP/1.0\r\n\r\n".to_owned());
    assert!(status.contains("503"), "{status}");
    let url = format!("http://127.0.0.1:{port}/patroni");
    let view = crate::peers::Asker::new("batman".to_owned(), None).ask(NodeName::new("pg1"), &url, Tick(1));
    let PeerAnswer::Status(peer) = view.answer else { panic!("{view:?}") };
    assert!(!peer.is_primary && !peer.state.is_empty(), "{peer:?}");

    etcd.ctl(&["put", "/service/batman/config", r#"{"ttl": 30}"#]);
    node.until("configuration", 2000, |driver, _| driver.dynamic().is_some());
    let patch = post("/config", r#"{"loop_wait": 4}"#).replacen("POST", "PATCH", 1);
    let (status, body) = node.ask(port, patch);
    assert!(status.contains("200"), "{status} {body}");
    node.until("patched setting", 2000, |driver, _| driver.settings().loop_wait_ms == Millis(4000));
}

#[test]
fn a_client_that_waits_for_a_switchover_moves_with_the_seat() {
    let etcd = TestEtcd::start();
    let member = |name: &str| {
        let value = json!({"state": "running", "role": "replica", "conn_url": "postgres://127.0.0.1:1/postgres",
            "api_url": "http://127.0.0.1:1/patroni", "version": "4.1.4"});
        etcd.ctl(&["put", &format!("/service/batman/members/{name}"), &value.to_string()]);
    };
    member("pg8");
    member("pg9");
    let granted = etcd.ctl(&["lease", "grant", "300"]);
    let lease = format!("--lease={}", granted.split_whitespace().nth(1).expect("its number"));
    etcd.ctl(&["put", &lease, "/service/batman/leader", "pg9"]);
    let mut node = Node::start(&etcd, "pg1");
    let port = node.serve();
    node.until("leader", 8000, |driver, _| driver.cluster().is_some_and(|cluster| cluster.leader.is_some()));
    let told = http(port, post("/switchover", r#"{"leader": "pg9", "candidate": "pg8"}"#));
    node.until("request", 5000, |driver, _| driver.cluster().is_some_and(|cluster| cluster.failover.is_some()));
    // The watch may be faster than the answer to the write, after which the client waits.
    let began = crate::clock::now();
    node.until("a moment", 2000, |_, _| crate::clock::now().since(began) > Millis(300));

    node.driver.begin_leaving();
    node.driver.stop_rest();
    node.until("quiet", 5000, |driver, _| driver.quiet());
    let waits = node.driver.take_rest_waits();
    assert_eq!(waits.len(), 1);
    assert!(told.try_recv().is_err(), "no answer yet");
    drop(node);

    let mut other = Node::start(&etcd, "pg1");
    other.serve();
    other.driver.adopt_rest_waits(waits);
    other.until("view", 8000, |driver, _| driver.cluster().is_some());
    assert!(told.try_recv().is_err(), "no answer yet");
    etcd.ctl(&["put", &lease, "/service/batman/leader", "pg8"]);
    let mut answer = None;
    other.until("answer", 5000, |_, _| {
        answer = answer.take().or_else(|| told.recv_timeout(Duration::from_millis(20)).ok());
        answer.is_some()
    });
    let (status, body) = answer.expect("an answer");
    assert!(status.contains("200") && body.contains("pg8"), "{status} {body}");
}

#[test]
fn a_side_that_took_the_seat_answers_nothing_from_before() {
    let etcd = TestEtcd::start();
    let mut node = Node::start(&etcd, "pg1");
    let port = node.serve();
    node.ask(port, "GET /patroni HTTP/1.0\r\n\r\n".to_owned());
    node.driver.begin_leaving();
    node.driver.stop_rest();
    node.until("quiet", 5000, |driver, _| driver.quiet());
    node.port.seatless = true;
    node.driver.tick(&mut node.port);

    // What was published is of the time before the other side acted.
    node.port.seatless = false;
    node.driver.take_seat(node.driver.memory().clone());
    let port = node.serve();
    let told = http(port, "GET /patroni HTTP/1.0\r\n\r\n".to_owned());
    let early = told.recv_timeout(Duration::from_millis(300));
    assert!(early.is_err(), "answered before anything was looked at: {early:?}");
    node.driver.tick(&mut node.port);
    let (status, _) = told.recv_timeout(Duration::from_secs(5)).expect("an answer");
    assert!(status.contains("200"), "{status}");
}
