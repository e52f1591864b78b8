use super::super::{CONNECTIONS_MAX, HEAD_BYTES_MAX};
use super::{Node, Running};
use std::io::Write;
use std::time::{Duration, Instant};

const GET: &str = "GET /primary HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn slow_clients_are_cut_off_and_disturb_nobody() {
    let server = Running::start(&Node::new());
    let mut silent = server.client();
    let mut trickling = server.client();
    let mut bodyless = server.client();
    let mut idle = server.client();
    assert_eq!(idle.send(GET).receive().status, 200);
    bodyless.send("PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{");
    let begin = Instant::now();
    trickling.send("GET /primary HTTP/1.1\r\nHost: x\r\n");
    let mut header = 0;
    let cut_off = loop {
        assert_eq!(server.client().send(GET).receive().status, 200);
        header += 1;
        let more = trickling.stream.write_all(format!("X-{header}: y\r\n").as_bytes());
        if more.is_err() {
            break begin.elapsed();
        }
        assert!(begin.elapsed() < Duration::from_secs(9), "still reading a head that never ends");
        std::thread::sleep(Duration::from_millis(250));
    };
    assert!(cut_off > Duration::from_secs(4), "cut off after {cut_off:?}");
    assert_eq!(bodyless.receive().status, 408);
    assert!(bodyless.closed_after() < Duration::from_secs(1));
    assert!(silent.closed_after() < Duration::from_secs(1));
    // A connection that has shown good will may idle longer.
    assert_eq!(idle.send(GET).receive().status, 200);
}

#[test]
fn what_is_too_large_is_refused() {
    let server = Running::start(&Node::new());
    let mut client = server.client();
    client.send("PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n");
    assert_eq!(client.receive().status, 413);
    assert!(client.closed_after() < Duration::from_secs(1));

    let mut client = server.client();
    client.send("PATCH /config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..17 {
        if client.stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    assert_eq!(client.receive().status, 413);

    let mut client = server.client();
    let _ = client.stream.write_all(format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(HEAD_BYTES_MAX + 1)).as_bytes());
    assert!(client.closed_after() < Duration::from_secs(2));
    let mut client = server.client();
    let many: Vec<String> = (0..100).map(|number| format!("X-{number}: y\r\n")).collect();
    assert_eq!(client.send(&format!("GET / HTTP/1.1\r\n{}\r\n", many.concat())).receive().status, 431);
    assert_eq!(server.client().send(GET).receive().status, 200);
}

#[test]
fn the_oldest_idle_connection_makes_room() {
    let server = Running::start(&Node::new());
    let mut oldest = server.client();
    assert_eq!(oldest.send(GET).receive().status, 200);
    let mut others: Vec<_> = (1..CONNECTIONS_MAX).map(|_| server.client()).collect();
    assert_eq!(oldest.send(GET).receive().status, 200);
    let begin = Instant::now();
    assert_eq!(server.client().send(GET).receive().status, 200);
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert!(oldest.closed_after() < Duration::from_secs(1));
    let last = others.last_mut().expect("there are others");
    assert_eq!(last.send(GET).receive().status, 200);
}

#[test]
fn requests_under_way_are_not_pushed_out() {
    let node = Node::new();
    let server = Running::start(&node);
    let body = "{\"leader\":\"pg1\",\"candidate\":\"pg2\"}";
    let request = format!("POST /switchover HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut waiting: Vec<_> = (0..CONNECTIONS_MAX).map(|_| server.client()).collect();
    for client in &mut waiting {
        client.send(&request);
    }
    let begin = Instant::now();
    while node.edits.lock().expect("no test panicked with it").len() < CONNECTIONS_MAX {
        assert!(begin.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut late = server.client();
    assert!(late.closed_after() < Duration::from_secs(1));
    node.lead("pg2");
    for client in &mut waiting {
        let got = client.receive();
        assert_eq!((got.status, got.body.as_str()), (200, "Successfully switched over to \"pg2\""));
    }
    // The other one leads now, but there is room again.
    assert_eq!(server.client().send(GET).receive().status, 503);
}
