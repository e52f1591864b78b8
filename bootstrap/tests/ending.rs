//! What is left of servers that were killed, on real servers.

mod harness;

use ha_bootstrap::outside::Outside;
use ha_bootstrap::{control_data, process};
use ha_core::effect::Step;
use ha_core::local::{ControlState, Server};
use harness::{Node, as_postgres};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn what_a_killed_postmaster_leaves_is_found_and_ended() {
    as_postgres("what_a_killed_postmaster_leaves_is_found_and_ended", |dir| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("a subreaper");
        let node = Node::new(dir, "pg1");
        node.initdb();
        node.start_primary();
        let mut client = node.sql_in_background("DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$");
        node.wait("it is busy", || {
            node.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'").as_deref()
                == Ok("1")
        });
        let mut outside = Outside::new(node.site.clone(), Arc::new(|| {}));
        assert!(matches!(outside.look().server, Server::Starting { .. }), "a running server is adopted");
        let adopted = Arc::clone(outside.postmaster().expect("adopted"));
        assert_eq!(adopted.pid(), node.postmaster().pid());

        let error = node.step(&Step::ClearLeftover).expect_err("nothing is left over of a living server");
        assert!(error.contains("lives"), "{error}");
        node.postmaster().signal(Signal::KILL).expect("killed");
        assert!(adopted.wait_end(Duration::from_secs(10)), "the descriptor tells");
        assert_eq!(outside.look().server, Server::Leftover);
        let error = node.step(&Step::CrashRecover).expect_err("not while somebody works there");
        assert!(error.contains("still work"), "{error}");

        node.step(&Step::ClearLeftover).expect("cleared");
        assert_eq!(outside.look().server, Server::Down);
        // Its end is seen either here or by the search for orphans, which reaps every child nobody has claimed.
        assert!(!client.wait().is_ok_and(|status| status.success()), "its connection is gone");
        assert_eq!(control_data::read(node.site.data_dir()).expect("read").control.state, ControlState::InProduction);
        node.step(&Step::CrashRecover).expect("recovered");
        assert_eq!(control_data::read(node.site.data_dir()).expect("read").control.state, ControlState::ShutDown);
        node.step(&Step::CrashRecover).expect("twice does no harm");
    });
}

#[test]
fn a_frozen_postmaster_is_not_waited_for() {
    as_postgres("a_frozen_postmaster_is_not_waited_for", |dir| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("a subreaper");
        let node = Node::new(dir, "pg1");
        node.initdb();
        node.start_primary();
        node.postmaster().signal(Signal::STOP).expect("frozen");
        let begun = std::time::Instant::now();
        node.step(&Step::Stop { mode: ha_core::effect::StopMode::Immediate }).expect("stopped");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        node.step(&Step::ClearLeftover).expect("cleared");
    });
}

/// The postmaster itself would wait five seconds for it, and a supervisor that kills the postmaster has orphans to end.
#[test]
fn a_frozen_child_is_not_waited_for() {
    as_postgres("a_frozen_child_is_not_waited_for", |dir| {
        let node = Node::new(dir, "pg1");
        node.initdb();
        node.start_primary();
        let checkpointer = |pid: &i32| {
            let ours = process::stat(*pid).is_some_and(|stat| stat.parent_pid == node.postmaster().pid());
            ours && process::title(*pid).contains("checkpointer")
        };
        let checkpointer = process::all().into_iter().find(checkpointer).expect("there is one");
        kill_process(Pid::from_raw(checkpointer).expect("a process"), Signal::STOP).expect("frozen");
        let begun = std::time::Instant::now();
        node.step(&Step::Stop { mode: ha_core::effect::StopMode::Immediate }).expect("stopped");
        assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
        assert!(process::stat(checkpointer).is_none_or(|stat| stat.parent_pid != node.postmaster().pid()));
        // It went by itself, so its lock file is gone.
        assert!(!node.site.paths.postmaster_pid().exists(), "the postmaster was killed");
    });
}

#[test]
fn a_dead_postmaster_is_out_of_the_way_once_its_parent_has_seen_it() {
    as_postgres("a_dead_postmaster_is_out_of_the_way_once_its_parent_has_seen_it", |dir| {
        let node = Node::new(dir, "pg1");
        node.initdb();
        // Both lock files of a server that was killed, and its process not yet reaped.
        let mut dead = Command::new("true").spawn().expect("a process");
        let pid = dead.id();
        let state = || ha_node::process::stat(pid.cast_signed()).expect("asked").map(|stat| stat.state);
        node.wait("it is dead", || state() == Some('Z'));
        let lock =
            format!("{pid}\n{}\n1700000000\n{}\n{}\n\n", node.site.data_dir().display(), node.port, dir.display());
        std::fs::write(dir.join(format!(".s.PGSQL.{}.lock", node.port)), &lock).expect("written");
        std::fs::write(node.site.paths.postmaster_pid(), &lock).expect("written");
        let parent = std::thread::Builder::new().spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            dead.wait().expect("reaped")
        });
        node.start_primary();
        parent.expect("a thread").join().expect("no panic");
        node.stop();
    });
}
