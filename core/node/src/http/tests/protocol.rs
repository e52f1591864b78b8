use super::{Node, Running};

#[test]
fn a_connection_of_http_1_1_is_kept() {
    let server = Running::start(&Node::new());
    let mut client = server.client();
    // As urllib3 sends it.
    let request = "GET /primary HTTP/1.1\r\nHost: x\r\nAccept-Encoding: identity\r\nUser-Agent: Patroni/4.1.4\r\n\r\n";
    for _ in 0..3 {
        let got = client.send(request).receive();
        assert_eq!(got.status, 200);
        assert!(got.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", got.head);
        assert!(got.head.to_lowercase().contains("\r\nserver: patroni/4.1.4 ha_ext/"), "{}", got.head);
        assert!(got.head.to_lowercase().contains("\r\nx-extra: yes\r\n"), "{}", got.head);
        assert!(got.body.starts_with("{\"state\": \"running\""), "{}", got.body);
    }
    // Two at once are answered in order.
    client.send("GET /primary HTTP/1.1\r\nHost: x\r\n\r\nGET /replica HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((client.receive().status, client.receive().status), (200, 503));
}

#[test]
fn a_connection_of_http_1_0_is_closed() {
    let server = Running::start(&Node::new());
    let mut client = server.client();
    let got = client.send("OPTIONS /primary HTTP/1.0\r\n\r\n").receive();
    assert_eq!((got.status, got.body.as_str()), (200, ""));
    assert!(client.closed_after().as_millis() < 1000);
    let mut client = server.client();
    let got = client.send("GET /replica HTTP/1.0\r\n\r\n").receive();
    assert_eq!(got.status, 503);
    assert!(got.body.contains("\"role\": \"primary\""));
    assert!(client.closed_after().as_millis() < 1000);
}

#[test]
fn head_has_no_body() {
    let server = Running::start(&Node::new());
    let mut client = server.client();
    client.send("HEAD /primary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut all = String::new();
    std::io::Read::read_to_string(&mut client.stream, &mut all).expect("an answer");
    assert!(all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("\r\n\r\n"), "{all}");
}

#[test]
fn a_change_is_written() {
    let node = Node::new();
    let server = Running::start(&node);
    let body = "{\"ttl\": 20}";
    let length = body.len();
    let mut client = server.client();
    client.send(&format!("PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"));
    let got = client.receive();
    assert_eq!((got.status, got.body.as_str()), (200, "{\"ttl\": 20}"));
    client
        .send("PATCH /config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n{\"ttl\": 21}\r\n0\r\n\r\n");
    assert_eq!(client.receive().status, 200);
    let edits = node.edits.lock().expect("no test panicked with it");
    let written: Vec<_> = edits.iter().map(|edit| edit.value.as_deref().unwrap_or_default()).collect();
    assert_eq!(written, ["{\"ttl\":20}", "{\"ttl\":21}"]);
    drop(edits);
    assert_eq!(client.send("PATCH /config HTTP/1.1\r\nHost: x\r\n\r\n").receive().status, 411);
    assert_eq!(client.send("POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").receive().status, 501);
}

#[test]
fn what_is_no_http_is_refused() {
    let server = Running::start(&Node::new());
    for nonsense in
        ["\u{16}\u{3}\u{1}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut client = server.client();
        client.send(nonsense);
        assert!(client.closed_after().as_millis() < 2000, "{nonsense:?}");
    }
    assert_eq!(server.client().send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").receive().status, 200);
}
