//! The REST API of running nodes: what load balancers, monitoring and tools get from a leader, from standbys, and without the store.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

/// What each path answers: on the leader, on a standby, on a standby tagged `noloadbalance`.
const HEALTH: &[(&str, [u16; 3])] = &[
    ("/", [200, 503, 503]),
    ("/primary", [200, 503, 503]),
    ("/master", [200, 503, 503]),
    ("/leader", [200, 503, 503]),
    ("/read-write", [200, 503, 503]),
    ("/replica", [503, 200, 503]),
    ("/replica?lag=16MB", [503, 200, 503]),
    ("/replica?replication_state=streaming", [503, 200, 503]),
    ("/replica?tag_site=here", [503, 503, 503]),
    ("/read-only", [200, 200, 503]),
    ("/async", [503, 200, 503]),
    ("/asynchronous", [503, 200, 503]),
    ("/read-only-sync", [200, 503, 503]),
    ("/read-only-quorum", [200, 503, 503]),
    ("/sync", [503, 503, 503]),
    ("/synchronous", [503, 503, 503]),
    ("/quorum", [503, 503, 503]),
    ("/standby-leader", [503, 503, 503]),
    ("/health", [200, 200, 200]),
    ("/liveness", [200, 200, 200]),
    ("/readiness", [200, 200, 200]),
    ("/readiness?lag=16MB&mode=write", [200, 200, 200]),
    ("/patroni", [200, 200, 200]),
    ("/cluster", [200, 200, 200]),
    ("/history", [200, 200, 200]),
    ("/config", [200, 200, 200]),
    ("/metrics", [200, 200, 200]),
    ("/failsafe", [502, 502, 502]),
];

/// The status of a request made by hand, and what follows the headers.
fn raw(cluster: &Cluster, index: usize, method: &str, path: &str) -> (String, String) {
    let address = cluster.nodes[index].rest.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).expect("the node listens");
    stream.set_read_timeout(Some(secs(5))).expect("a timeout can be set");
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers and closes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has headers");
    (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
}

fn status(cluster: &Cluster, index: usize, path: &str) -> u16 {
    cluster.nodes[index].get(path).unwrap_or_else(|error| panic!("{path} of n{}: {error}", index + 1)).status
}

#[test]
fn every_path_answers_as_documented() {
    let mut cluster = Cluster::prepare(Plan::short());
    let file = cluster.nodes[2].file();
    let text = fs::read_to_string(&file).expect("the node has a file");
    let tags = "nofailover: true\n  noloadbalance: true";
    fs::write(&file, text.replace("nofailover: false", tags)).expect("the file can be written");
    cluster.nodes[0].start();
    cluster.wait("the founder to lead", secs(30), || cluster.nodes[0].is("/primary").then_some(()));
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.wait_ready_to_switch();
    cluster.switch_over(0, 1);
    assert_eq!(cluster.wait_healthy(secs(30)), 1);
    cluster.wait_caught_up(1);

    for (path, wanted) in HEALTH {
        for (index, wanted) in [1, 0, 2].into_iter().zip(wanted) {
            // What a standby knows of the leader's position is up to one round old.
            let seen = cluster.wait("the answer", secs(3), || {
                let seen = status(&cluster, index, path);
                (seen == *wanted).then_some(seen)
            });
            assert_eq!(seen, *wanted);
            for method in ["HEAD", "OPTIONS"].into_iter().filter(|_| is_for_balancers(path)) {
                let (code, body) = raw(&cluster, index, method, path);
                assert_eq!((code, body), (wanted.to_string(), String::new()), "{method} {path} of n{}", index + 1);
            }
        }
    }
    what_they_say(&cluster);
    without_the_store(&mut cluster);
}

/// Those that answer HEAD and OPTIONS like GET, without a body.
fn is_for_balancers(path: &str) -> bool {
    let others =
        ["/liveness", "/readiness", "/patroni", "/cluster", "/history", "/config", "/metrics", "/failsafe", "/citus"];
    !others.iter().any(|other| path.starts_with(other))
}

fn what_they_say(cluster: &Cluster) {
    let history = cluster.nodes[0].get("/history").expect("it answers").json();
    let row = history[0].as_array().expect("one timeline has ended");
    assert_eq!((row.len(), &row[0], &row[4]), (5, &1.into(), &"n2".into()), "{history}");
    let body = cluster.nodes[0].get("/cluster").expect("it answers").json();
    assert_eq!((&body["scope"], body["members"].as_array().map(Vec::len)), (&"batman".into(), Some(3)), "{body}");
    for (index, role) in [(1, "primary"), (0, "replica")] {
        // A standby is on the new timeline once it has replayed something of it.
        cluster.wait("the status", secs(5), || {
            let body = cluster.nodes[index].get("/patroni").ok()?.json();
            let told = (body["role"].as_str()?, body["timeline"].as_u64()?, body["state"].as_str()?);
            (told == (role, 2, "running")).then_some(())
        });
        let metrics = cluster.nodes[index].get("/metrics").expect("it answers").body;
        let value = |name: &str| -> Option<f64> {
            let labels = format!("{name}{{scope=\"batman\",name=\"n{}\"", index + 1);
            metrics.lines().find(|line| line.starts_with(&labels))?.rsplit(' ').next()?.parse().ok()
        };
        let leads = role == "primary";
        let wanted = |yes: bool| Some(if yes { 1.0 } else { 0.0 });
        assert_eq!(value("patroni_primary"), wanted(leads), "{metrics}");
        assert_eq!(value("patroni_replica"), wanted(!leads), "{metrics}");
        assert_eq!((value("patroni_postgres_running"), value("patroni_postgres_timeline")), (Some(1.0), Some(2.0)));
        let lease = value("ha_ext_lease_remaining_seconds");
        assert_eq!(lease.is_some_and(|left| left > 0.5 && left < 5.0), leads, "{lease:?}");
        let rule = if leads { "leader.leading" } else { "standby.following" };
        assert!(metrics.lines().any(|line| line.starts_with("ha_ext_rule{") && line.contains(rule)), "{metrics}");
    }
}

fn without_the_store(cluster: &mut Cluster) {
    cluster.etcd.kill();
    // Commits are acknowledged until the deadline, and load balancers must not send clients elsewhere before.
    assert_eq!(status(cluster, 1, "/primary"), 200);
    cluster.wait("the lease to end", secs(10), || (status(cluster, 1, "/primary") == 503).then_some(()));
    for path in ["/", "/read-write", "/read-only"] {
        assert_eq!(status(cluster, 1, path), 503, "{path} without a lease");
    }
    for (path, wanted) in
        [("/replica", 200), ("/health", 200), ("/liveness", 200), ("/patroni", 200), ("/metrics", 200)]
    {
        assert_eq!(status(cluster, 0, path), wanted, "{path} of a standby without the store");
    }
    for path in ["/cluster", "/async"] {
        assert_eq!(status(cluster, 0, path), 503, "{path} without the store");
    }
    cluster.etcd.restart();
    cluster.wait_healthy(secs(60));
}
