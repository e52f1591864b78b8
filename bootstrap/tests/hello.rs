//! Who may say to the supervisor that it is the worker, on a real server.

mod harness;

use ha_bootstrap::outside::Outside;
use ha_bootstrap::seat::Seat;
use ha_core::seat::{ToSupervisor, ToWorker};
use ha_node::seat_socket::{Connection, RecvError};
use harness::{Node, as_postgres};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn only_a_child_of_the_postmaster_may_speak_for_the_worker() {
    as_postgres("only_a_child_of_the_postmaster_may_speak_for_the_worker", |dir| {
        let node = Node::new(dir, "pg1");
        node.initdb();
        node.start_primary();
        let mut outside = Outside::new(node.site.clone(), Arc::new(|| {}));
        let socket = node.site.paths.control_socket();
        let mut seat = Seat::open(&socket, None).expect("a control socket");
        let mut link: Connection<ToSupervisor, ToWorker> = Connection::connect(&socket).expect("connected");
        let hello = ToSupervisor::Hello {
            pid: std::process::id().cast_signed(),
            postmaster_pid: node.postmaster().pid(),
            memory: None,
            watchdog: None,
        };
        link.send(&hello, &[]).expect("sent");
        assert!(seat.receive(&mut outside).is_none());
        assert!(!seat.wanted(), "this test is no child of the postmaster");
        assert!(matches!(link.try_recv(), Err(RecvError::Closed)));

        // A program that a session runs is a grandchild: no better.
        let program = format!(
            "COPY (SELECT 1) TO PROGRAM 'HA_TEST_HELLO={} HA_TEST_POSTMASTER={} HA_TEST_ANSWER={} {} --exact hello_of_a_program'",
            socket.display(),
            node.postmaster().pid(),
            dir.join("answer").display(),
            std::env::current_exe().expect("this test").display()
        );
        let mut session = node.sql_in_background(&program);
        node.wait("it was refused", || {
            seat.receive(&mut outside);
            assert!(!seat.wanted(), "a grandchild was taken for the worker");
            std::fs::read_to_string(dir.join("answer")).is_ok_and(|answer| answer == "refused")
        });
        assert!(session.wait().expect("it ended").success());
        node.stop();
    });
}

/// No test by itself: what the one above lets a session run.
#[test]
fn hello_of_a_program() {
    let variable = |name: &str| std::env::var(name).ok();
    let (Some(socket), Some(postmaster), Some(answer)) =
        (variable("HA_TEST_HELLO"), variable("HA_TEST_POSTMASTER"), variable("HA_TEST_ANSWER"))
    else {
        return;
    };
    let mut link: Connection<ToSupervisor, ToWorker> = Connection::connect(Path::new(&socket)).expect("connected");
    let pid = std::process::id().cast_signed();
    let hello = ToSupervisor::Hello {
        pid,
        postmaster_pid: postmaster.parse().expect("a number"),
        memory: None,
        watchdog: None,
    };
    link.send(&hello, &[]).expect("sent");
    let said = loop {
        match link.try_recv() {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(_)) => break "granted",
            Err(_) => break "refused",
        }
    };
    std::fs::write(answer, said).expect("written");
}
