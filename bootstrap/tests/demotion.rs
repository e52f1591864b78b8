//! The supervisor's part of a demotion in place, on real servers.

mod harness;

use ha_bootstrap::{control_data, process};
use ha_core::effect::{StartRole, Step, StopMode};
use ha_core::ids::Lsn;
use ha_core::local::ControlState;
use ha_node::clock;
use harness::{Node, as_postgres};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// A primary whose archiver hangs in its command, deaf to the postmaster, for as long as the file `hang` is there.
fn with_a_deaf_archiver(dir: &Path, mode: &str) -> Node {
    let command = format!(
        "if test -f {dir}/hang; then touch {dir}/hanging; trap \"\" QUIT TERM INT; sleep 120; fi; cp %p {dir}/archive/%f",
        dir = dir.display()
    );
    std::fs::create_dir_all(dir.join("archive")).expect("made");
    let parameters = json!({"archive_mode": mode, "archive_command": command, "logging_collector": "on"});
    let node = Node::with(dir, "pg1", &parameters);
    node.initdb();
    node.start_primary();
    node.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g").expect("a table");
    node.sql("CHECKPOINT").expect("a checkpoint");
    std::fs::write(dir.join("hang"), "").expect("written");
    node.sql("SELECT pg_switch_wal()").expect("a finished segment");
    node.wait("the archiver hangs", || dir.join("hanging").exists());
    node
}

fn child(node: &Node, title: &str) -> Option<i32> {
    let ours = |pid: &i32| process::stat(*pid).is_some_and(|stat| stat.parent_pid == node.postmaster().pid());
    process::all().into_iter().filter(ours).find(|pid| process::title(*pid).contains(title))
}

/// How many files wait for the archiver.
fn waiting(node: &Node) -> usize {
    let status = std::fs::read_dir(node.site.data_dir().join("pg_wal/archive_status")).expect("read");
    status.filter(|entry| entry.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|x| x == "ready"))).count()
}

/// What the worker does at the end of a demotion in place, and what the postmaster makes of it.
fn demote(node: &Node) -> ha_core::clock::Tick {
    std::fs::write(node.site.paths.standby_signal(), "").expect("written");
    let mut session = node.sql_in_background("SELECT pg_sleep(600)");
    let find = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(6%'";
    node.wait("a session", || node.sql(find).is_ok_and(|pid| !pid.is_empty()));
    let pid: i32 = node.sql(find).expect("asked").parse().expect("a number");
    std::thread::sleep(Duration::from_millis(30));
    let demoted_at = clock::now();
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("killed");
    let _ = session.wait();
    demoted_at
}

#[test]
fn a_deaf_archiver_delays_no_demotion_and_its_wal_is_archived() {
    as_postgres("a_deaf_archiver_delays_no_demotion_and_its_wal_is_archived", |dir| {
        let node = with_a_deaf_archiver(dir, "on");
        let logger = child(&node, "logger").expect("the log is collected");
        let begun = Instant::now();
        let demoted_at = demote(&node);
        std::fs::remove_file(dir.join("hang")).expect("removed");
        node.end_stragglers(demoted_at).expect("ended");
        node.wait("it reads again", || node.sql("SELECT count(*) FROM t").as_deref() == Ok("1000"));
        assert!(begun.elapsed() < Duration::from_secs(4), "the postmaster's own patience: {:?}", begun.elapsed());
        assert_eq!(node.sql("SELECT pg_is_in_recovery()").as_deref(), Ok("t"));
        assert_eq!(child(&node, "logger"), Some(logger), "the log goes on");
        node.wait("the segment is in the archive", || dir.join("archive/000000010000000000000001").exists());
        node.wait("nothing waits", || waiting(&node) == 0);

        // Whoever was started since then is not touched.
        let startup = child(&node, "startup").expect("recovery goes on");
        node.end_stragglers(demoted_at).expect("nothing to do");
        assert_eq!(child(&node, "startup"), Some(startup));
        assert_eq!(node.sql("SELECT count(*) FROM t").as_deref(), Ok("1000"));
        assert_eq!(
            control_data::read(node.site.data_dir()).expect("read").control.state,
            ControlState::InArchiveRecovery
        );
        node.stop();
    });
}

/// The postmaster and all its children die in the middle of it.
fn kill_all(node: &Node) {
    node.postmaster().signal(Signal::KILL).expect("killed");
    assert!(node.postmaster().wait_end(Duration::from_secs(10)));
    let _reaped = node.postmaster().ended_how();
    node.step(&Step::ClearLeftover).expect("cleared");
}

#[test]
fn a_demotion_that_was_cut_off_goes_on_from_what_it_left() {
    as_postgres("a_demotion_that_was_cut_off_goes_on_from_what_it_left", |dir| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("a subreaper");
        let node = with_a_deaf_archiver(dir, "on");
        let paths = node.site.paths.clone();
        let park = || {
            for path in [paths.standby_signal(), paths.demoted(), paths.promote()] {
                std::fs::write(path, "").expect("written");
            }
        };
        park();
        node.sql("INSERT INTO t SELECT 1").expect("a row that no checkpoint has");
        kill_all(&node);
        std::fs::remove_file(dir.join("hang")).expect("removed");
        let control = control_data::read(node.site.data_dir()).expect("read").control;
        assert_eq!((control.state, control.min_recovery_point), (ControlState::InProduction, Lsn(0)));

        // Recovery runs to the end of what is there before it lets anybody read, and nothing promotes it.
        node.step(&Step::Start { role: StartRole::Standby { upstream: None } }).expect("a start as parked standby");
        node.wait("it reads", || node.sql("SELECT count(*) FROM t").is_ok());
        assert_eq!(node.sql("SELECT count(*), pg_is_in_recovery() FROM t").as_deref(), Ok("1001|t"));
        assert!(
            paths.demoted().exists() && !paths.promote().exists(),
            "what is withheld stays so until it was compared"
        );
        node.wait("what waited is in the archive", || waiting(&node) == 0);
        assert!(dir.join("archive/000000010000000000000001").exists());
        node.stop();
        // The collector of the log may take a moment more.
        node.step(&Step::ClearLeftover).expect("cleared");

        // It leads again: nothing of it is left.
        park();
        node.step(&Step::CrashRecover).expect("nothing to recover");
        node.start_primary();
        assert_eq!(node.sql("SELECT pg_is_in_recovery()").as_deref(), Ok("f"));
        assert!(!paths.demoted().exists() && !paths.standby_signal().exists());
        node.stop();
    });
}

#[test]
fn a_recovery_in_place_that_hangs_is_stopped_at_once() {
    as_postgres("a_recovery_in_place_that_hangs_is_stopped_at_once", |dir| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("a subreaper");
        let node = Node::new(dir, "pg1");
        node.initdb();
        node.start_primary();
        node.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g").expect("a table");
        let demoted_at = demote(&node);
        node.end_stragglers(demoted_at).expect("nobody hangs yet");
        node.wait("recovery begins", || child(&node, "startup").is_some());
        let startup = Pid::from_raw(child(&node, "startup").expect("there")).expect("a process");
        kill_process(startup, Signal::STOP).expect("frozen");
        let begun = Instant::now();
        node.step(&Step::Stop { mode: StopMode::Immediate }).expect("stopped");
        let _reaped = node.postmaster().ended_how();
        node.step(&Step::ClearLeftover).expect("cleared");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        node.step(&Step::CrashRecover).expect("recovered");
        node.start_primary();
        assert_eq!(node.sql("SELECT count(*) FROM t").as_deref(), Ok("1000"));
        node.stop();
    });
}
