use super::{Node, Running, Tell};
use std::time::Duration;

const GET: &str = "GET /primary HTTP/1.1\r\nHost: x\r\n\r\n";

fn ask_for_a_switchover(node: &Node, server: &Running) -> super::Client {
    let body = "{\"leader\":\"pg1\",\"candidate\":\"pg2\"}";
    let mut client = server.client();
    client.send(&format!("POST /switchover HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    while node.edits.lock().expect("no test panicked with it").is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // The wait begins right after the write.
    std::thread::sleep(Duration::from_millis(50));
    client
}

#[test]
fn whoever_accepts_next_serves_the_queue() {
    let node = Node::new();
    let first = Running::start(&node);
    let mut kept = first.client();
    assert_eq!(kept.send(GET).receive().status, 200);
    let stopped = first.stop();
    assert!(stopped.waits.is_empty());
    assert!(kept.closed_after() < Duration::from_secs(1), "idle connections end with their server");
    // Nobody accepts now, but the kernel does.
    let mut between = first.client();
    between.send(GET);
    std::thread::sleep(Duration::from_millis(100));
    let second = Running::on(stopped.listener, &node);
    assert_eq!(between.receive().status, 200);
    // And back again, as the seat goes back and forth.
    let third = Running::on(second.stop().listener, &node);
    assert_eq!(third.client().send(GET).receive().status, 200);
}

#[test]
fn a_client_that_waits_for_a_switchover_moves_along() {
    let node = Node::new();
    let first = Running::start(&node);
    let mut client = ask_for_a_switchover(&node, &first);
    let mut stopped = first.stop();
    assert_eq!(stopped.waits.len(), 1);
    drop(first);
    let second = Running::on(stopped.listener, &node);
    let moved = stopped.waits.remove(0);
    let (stream, wait) = moved.parts().expect("not handed on yet");
    let stream = stream.try_clone_to_owned().expect("a descriptor");
    let text = serde_json::to_string(wait).expect("plain data");
    let wait = serde_json::from_str(&text).expect("plain data");
    moved.handed_on();
    second.tell(Tell::Adopt(super::MovedWait::new(stream, wait)));
    std::thread::sleep(Duration::from_millis(100));
    node.lead("pg2");
    let got = client.receive();
    assert_eq!((got.status, got.body.as_str()), (200, "Successfully switched over to \"pg2\""));
    assert!(client.closed_after() < Duration::from_secs(1));
}

#[test]
fn a_client_that_waits_is_told_when_nobody_goes_on() {
    let node = Node::new();
    let server = Running::start(&node);
    let mut client = ask_for_a_switchover(&node, &server);
    drop(server);
    let got = client.receive();
    assert_eq!(got.status, 202, "{got:?}");
}

#[test]
fn a_client_that_waits_outlives_the_server_it_was_handed_to() {
    let node = Node::new();
    let first = Running::start(&node);
    let mut client = ask_for_a_switchover(&node, &first);
    let mut stopped = first.stop();
    // The seat came and goes again at once.
    let second = Running::on(stopped.listener, &node);
    second.tell(Tell::Adopt(stopped.waits.remove(0)));
    drop(second.stop());
    node.lead("pg2");
    assert_eq!(client.receive().status, 200);
}

#[test]
fn a_client_whose_wait_is_lost_on_the_way_is_told() {
    let node = Node::new();
    let server = Running::start(&node);
    let mut client = ask_for_a_switchover(&node, &server);
    drop(server.stop().waits);
    assert_eq!(client.receive().status, 202);
}

#[test]
fn a_request_that_is_turned_down_is_answered_at_once() {
    let node = Node::new();
    let server = Running::start(&node);
    let mut client = ask_for_a_switchover(&node, &server);
    node.change(|cluster| cluster.failover = None);
    let got = client.receive();
    assert_eq!((got.status, got.body.as_str()), (503, "Switchover failed"));
}
