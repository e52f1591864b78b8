//! Parameters that a server would not start with, on real servers.

mod harness;

use ha_bootstrap::steps::parameters;
use ha_core::clock::{Millis, Tick};
use ha_core::effect::{StartRole, Step};
use ha_core::ids::{LeaseId, Revision};
use ha_core::lease::Lease;
use ha_core::pgconf::Refusals;
use harness::{Node, as_postgres, pg_config};
use serde_json::json;
use std::path::Path;

#[test]
fn a_start_that_fails_says_why() {
    as_postgres("a_start_that_fails_says_why", |dir| {
        let node = Node::with(dir, "pg1", &json!({"unix_socket_directories": "/nonexistent"}));
        node.initdb();
        let role = StartRole::Standby { upstream: None };
        let error = node.step(&Step::Start { role }).expect_err("no such directory");
        assert!(error.contains("/nonexistent") && error.contains("exit status: 1"), "{error}");
        assert!(!node.site.paths.started_conf().exists());
    });
}

#[test]
fn a_mistake_in_the_parameters_does_not_keep_a_server_down() {
    as_postgres("a_mistake_in_the_parameters_does_not_keep_a_server_down", |dir| {
        let good = Node::with(dir, "pg1", &json!({"work_mem": "5MB", "max_connections": 33}));
        good.initdb();
        good.start_primary();
        good.stop();

        // What the server sees by itself is left out, one by one; all else takes effect.
        let mistakes = json!({
            "work_mem": "much", "max_connections": 10_000_000, "shared_buffers": "99999TB", "wrk_mem": "1MB",
            "shared_preload_libraries": "no_such_library", "ssl": "on", "maintenance_work_mem": "33MB",
        });
        let node = Node::with(dir, "pg1", &mistakes);
        node.start_primary();
        let show = |node: &Node, name: &str| node.sql(&format!("SHOW {name}")).expect("it answers");
        assert_eq!((show(&node, "work_mem"), show(&node, "max_connections")), ("5MB".to_owned(), "33".to_owned()));
        assert_eq!(
            (show(&node, "maintenance_work_mem"), show(&node, "shared_buffers")),
            ("33MB".to_owned(), "128MB".to_owned())
        );
        assert_eq!(show(&node, "shared_preload_libraries"), "ha_ext");
        let refused = || -> Vec<String> { parameters::refused(&node.site).into_keys().collect() };
        let expected = ["max_connections", "shared_buffers", "shared_preload_libraries", "ssl", "work_mem", "wrk_mem"];
        assert_eq!(refused(), expected);
        node.stop();

        // What only a start can show takes the server back to the parameters of its last start.
        let only_a_start_knows = json!({
            "unix_socket_directories": "/nonexistent", "work_mem": "6MB", "synchronous_standby_names": "n9",
        });
        let node = Node::with(dir, "pg1", &only_a_start_knows);
        node.start_primary();
        assert_eq!(show(&node, "work_mem"), "5MB");
        assert_eq!(
            show(&node, "synchronous_standby_names"),
            "n9",
            "what an acknowledgement is worth is not given up for a start"
        );
        node.stop();
        let complaints = || node.log().matches("\"/nonexistent/").count();
        assert_eq!(complaints(), 1);
        node.start_primary();
        assert_eq!(complaints(), 1, "it is known by now");
        node.stop();

        let node = Node::with(dir, "pg1", &json!({"work_mem": "6MB"}));
        node.start_primary();
        assert_eq!((show(&node, "max_connections"), show(&node, "work_mem")), ("100".to_owned(), "6MB".to_owned()));
        assert_eq!(parameters::refused(&node.site).len(), 0);
        node.stop();

        // What a reload has put in force since the last start is what a mistake leaves in force.
        let reloaded = Node::with(dir, "pg1", &json!({"synchronous_standby_names": "n8"}));
        ha_node::server_files::write(&reloaded.site.paths, &reloaded.site.config, &Refusals::new())
            .expect("as the worker does");
        let node = Node::with(dir, "pg1", &json!({"synchronous_standby_names": "ANY x (n8)"}));
        node.start_primary();
        assert_eq!(show(&node, "synchronous_standby_names"), "n8");
        node.stop();
        // With nothing to fall back to it may follow, and not lead.
        std::fs::remove_file(node.site.paths.started_conf()).expect("removed");
        let plain = Node::with(dir, "pg1", &json!({}));
        ha_node::server_files::write(&plain.site.paths, &plain.site.config, &Refusals::new()).expect("written");
        let lease = Lease::confirmed(LeaseId(7), Revision(1), Tick(0), Millis(30_000));
        let error = node.step(&Step::Start { role: StartRole::Primary { lease } }).expect_err("not by other rules");
        assert!(error.contains("synchronous_standby_names"), "{error}");
        node.step(&Step::Start { role: StartRole::Standby { upstream: None } }).expect("as a standby");
        node.stop();

        // A mistake may be mended where nobody tells us.
        let node = Node::with(dir, "pg1", &json!({"shared_preload_libraries": "not_yet"}));
        node.start_primary();
        assert_eq!(show(&node, "shared_preload_libraries"), "ha_ext");
        node.stop();
        let some_library = Path::new(&pg_config("--pkglibdir")).join("pgoutput.so");
        std::fs::copy(some_library, dir.join("lib/not_yet.so")).expect("installed");
        node.start_primary();
        assert_eq!(show(&node, "shared_preload_libraries"), "ha_ext,not_yet");
        node.stop();
    });
}
