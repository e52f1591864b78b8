//! `HAProxy` with the health checks that Patroni's documentation gives.

use ha_tests::cluster::Cluster;
use ha_tests::daemon::{Daemon, Launch};
use ha_tests::plan::Plan;
use ha_tests::ports::Ports;
use ha_tests::sql::{self, Server};
use ha_tests::wait::secs;
use std::fmt::Write;
use std::time::Instant;

#[test]
fn writes_follow_the_leader() {
    let cluster = Cluster::running(Plan::short());
    let mut ports = Ports::claim();
    let (write_port, read_port) = (ports.take(), ports.take());
    let mut text = String::from(
        "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1m\n  timeout server 1m\n  timeout check 2s\n",
    );
    for (name, port, path) in [("writes", write_port, "/primary"), ("reads", read_port, "/replica")] {
        let _ = writeln!(
            text,
            "listen {name}\n  bind 127.0.0.1:{port}\n  option httpchk OPTIONS {path}\n  http-check expect status 200\n  \
             default-server inter 500ms fall 1 rise 1 on-marked-down shutdown-sessions"
        );
        for node in &cluster.nodes {
            let check = node.rest.rsplit_once(':').map_or("", |(_, port)| port);
            let _ =
                writeln!(text, "  server {} {}:{} check port {check}", node.name, node.server.host, node.server.port);
        }
    }
    let file = cluster.scratch.path().join("haproxy.cfg");
    std::fs::write(&file, text).expect("the configuration can be written");
    let command = ["haproxy", "-db", "-f", &file.to_string_lossy()].map(str::to_owned).to_vec();
    let log = cluster.scratch.path().join("haproxy.log");
    let dir = cluster.scratch.path().to_path_buf();
    let _haproxy = Daemon::start(&Launch { command, user: None, netns: None, log, dir, env: Vec::new() });

    let through = |port: u16| Server { host: "127.0.0.1".into(), port };
    // Before its first checks HAProxy takes every server for a good one: only agreeing answers count.
    let port_behind = |port: u16| {
        let ask = || sql::value(&through(port), "SELECT inet_server_port()").ok().flatten();
        let first = ask()?;
        (0..5).all(|_| ask().as_ref() == Some(&first)).then_some(first)
    };
    let never_behind = |port: u16, server: &str| {
        let ask = || sql::value(&through(port), "SELECT inet_server_port()").ok().flatten();
        (0..6).all(|_| ask().is_some_and(|behind| behind != server))
    };
    for _ in 0..2 {
        let leader = cluster.wait_healthy(secs(30));
        let wanted = cluster.nodes[leader].server.port.to_string();
        cluster.wait("HAProxy to route writes to the leader", secs(15), || {
            (port_behind(write_port)? == wanted).then_some(())
        });
        sql::query(&through(write_port), "INSERT INTO ha_log VALUES (7, (random() * 1e9)::bigint)")
            .expect("the leader takes writes");
        cluster
            .wait("HAProxy to route reads to a replica", secs(15), || never_behind(read_port, &wanted).then_some(()));
        let begun = Instant::now();
        let to = cluster.other_than(leader);
        cluster.switch_over(leader, to);
        let wanted = cluster.nodes[to].server.port.to_string();
        cluster.wait("HAProxy to follow", secs(15), || (port_behind(write_port)? == wanted).then_some(()));
        println!("HAProxy followed after {} ms", begun.elapsed().as_millis());
    }
}
