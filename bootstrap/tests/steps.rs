//! The steps of the supervisor on real servers.

mod harness;

use ha_bootstrap::outside::Outside;
use ha_bootstrap::steps::{self, Context};
use ha_bootstrap::{control_data, detach, pgdata};
use ha_core::effect::Step;
use ha_core::local::{ControlState, DataDir};
use harness::{Node, as_postgres, program, run};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_new_cluster_has_its_roles_and_keeps_its_secrets() {
    as_postgres("a_new_cluster_has_its_roles_and_keeps_its_secrets", |dir| {
        let node = Node::new(dir, "pg1");
        // What a mount point or a tool may have left does not count.
        std::fs::create_dir_all(node.site.data_dir().join("lost+found")).expect("made");
        assert_eq!(pgdata::observe(&node.site), DataDir::Empty);
        node.initdb();
        assert!(matches!(pgdata::observe(&node.site), DataDir::Present(c) if c.state == ControlState::ShutDown));
        let marker = ha_node::marker::read(&node.site.paths.marker()).expect("readable").expect("there");
        assert_eq!((marker.member.as_str(), marker.scope.as_str()), ("pg1", "test"));
        assert!(node.site.data_dir().join("postgresql.base.conf").exists());

        node.start_primary();
        let roles = "SELECT string_agg(rolname || ':' || rolreplication || ':' || rolsuper, ' ' ORDER BY oid) \
                     FROM pg_roles WHERE rolcanlogin";
        assert_eq!(
            node.sql(roles).expect("roles"),
            "postgres:true:true replicator:true:false rewind \"user\":false:false"
        );
        // The passwords are the ones configured: both log in over TCP with the file we wrote.
        for (user, database) in [("replicator", "replication=yes"), ("rewind \\\"user\\\"", "dbname=postgres")] {
            let conninfo =
                format!("host=127.0.0.1 port={} user='{}' {database}", node.port, user.replace("\\\"", "\""));
            let output = Command::new(program("psql"))
                .env("PGPASSFILE", &node.site.config.postgresql.pgpass)
                .args(["-X", "-w", "-At", "-d", &conninfo, "-c", "SHOW server_version_num"])
                .output()
                .expect("psql");
            assert!(output.status.success(), "{user}: {}", String::from_utf8_lossy(&output.stderr));
        }
        node.stop();
        assert_eq!(control_data::read(node.site.data_dir()).expect("read").control.state, ControlState::ShutDown);
        let log = node.log();
        assert!(log.contains("shut down"), "{log}");
        assert!(!["super 'secret", "rep\\secret", "rew:secret"].iter().any(|password| log.contains(password)), "{log}");
        let left = std::fs::read_dir(node.site.paths.control_dir()).expect("listed");
        let mut left: Vec<String> =
            left.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        left.sort();
        assert_eq!(left, ["founding", "postgres.log", "started.conf"]);
    });
}

#[test]
fn no_step_begins_beside_a_program_that_outlived_its_supervisor() {
    as_postgres("no_step_begins_beside_a_program_that_outlived_its_supervisor", |dir| {
        let node = Node::new(dir, "pg1");
        node.site.make_control_dir().expect("made");
        let mut left = Command::new("sleep").arg("600").spawn().expect("begun");
        let id = ha_bootstrap::process::stat(i32::try_from(left.id()).expect("a pid")).expect("it runs").id;
        std::fs::write(node.site.step_note(), serde_json::to_vec(&id).expect("JSON")).expect("written");
        let refused = node.step(&Step::Initdb).expect_err("it still writes there");
        assert!(refused.contains("has not ended"), "{refused}");
        assert_eq!(pgdata::observe(&node.site), DataDir::Empty);
        let held = ha_bootstrap::process::Held::open(id.pid).expect("it runs");
        left.kill().expect("killed");
        assert!(held.wait_end(Duration::from_secs(10)));
        node.step(&Step::Initdb).expect("what has ended, reaped or not, is in nobody's way");
        std::fs::write(node.site.step_note(), serde_json::to_vec(&id).expect("JSON")).expect("written");
        node.step(&Step::SetAside).expect("the same");
        left.wait().expect("reaped");
    });
}

#[test]
fn the_control_file_reads_as_pg_controldata_does() {
    as_postgres("the_control_file_reads_as_pg_controldata_does", |dir| {
        let node = Node::new(dir, "pg1");
        node.initdb();
        let file = control_data::read(node.site.data_dir()).expect("read");
        let output = Command::new(program("pg_controldata")).arg(node.site.data_dir()).output().expect("run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let says = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap_or_else(|| panic!("{name} in {text}")).trim().to_owned()
        };
        let control = file.control;
        assert_eq!(says("Database system identifier"), control.system_id.to_string());
        assert_eq!(says("Database cluster state"), "shut down");
        assert_eq!(control.state, ControlState::ShutDown);
        assert_eq!(says("Latest checkpoint location"), control.checkpoint.to_string());
        assert_eq!(says("Latest checkpoint's REDO location"), file.redo.to_string());
        assert_eq!(says("Latest checkpoint's TimeLineID"), control.timeline.to_string());
        assert_eq!(says("Minimum recovery ending location"), control.min_recovery_point.to_string());
        assert_eq!(says("Min recovery ending loc's timeline"), control.min_recovery_timeline.to_string());
        assert_eq!(says("Bytes per WAL segment"), file.segment_bytes.to_string());
        assert_eq!(says("Data page checksum version"), "1");
        assert!(file.checksums && control.can_be_rewound);
        assert_eq!(says("wal_log_hints setting"), if file.wal_log_hints { "on" } else { "off" });
        let floors = ["connections", "worker_processes", "wal_senders", "prepared_xacts", "locks_per_xact"];
        for (name, value) in floors.iter().zip(file.floors) {
            assert_eq!(says(&format!("max_{name} setting")), value.to_string(), "{name}");
        }
    });
}

#[test]
fn a_copy_follows_and_a_diverged_primary_is_rewound() {
    as_postgres("a_copy_follows_and_a_diverged_primary_is_rewound", |dir| {
        let archive = dir.join("archive");
        std::fs::create_dir(&archive).expect("made");
        let command = format!("cp %p {}/%f", archive.display());
        let parameters = json!({"archive_mode": "on", "archive_command": command, "max_connections": 30});
        let (one, two) = (Node::with(dir, "pg1", &parameters), Node::new(dir, "pg-2"));
        one.initdb();
        one.start_primary();
        one.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g").expect("a table");

        // A directory with something hidden in it is empty, but pg_basebackup does not think so.
        std::fs::create_dir_all(two.site.data_dir()).expect("made");
        std::fs::write(two.site.data_dir().join(".keep"), "").expect("made");
        two.step(&Step::BaseBackup { from: one.upstream_for(&two) }).expect("a copy");
        assert!(matches!(pgdata::observe(&two.site), DataDir::Present(c) if c.backup_label));
        assert_eq!(one.sql("SELECT slot_name FROM pg_replication_slots").expect("slots"), "pg_2");
        let marker = ha_node::marker::read(&two.site.paths.marker()).expect("readable").expect("there");
        assert_eq!(marker.member.as_str(), "pg-2");
        two.start_standby(&one);
        two.wait("it has the table", || two.sql("SELECT count(*) FROM t").as_deref() == Ok("1000"));
        assert_eq!(two.sql("SELECT pg_is_in_recovery()").expect("asked"), "t");
        two.wait("it streams by its slot", || {
            let sql = "SELECT s.active AND r.application_name = 'pg-2' FROM pg_replication_slots s \
                       JOIN pg_stat_replication r ON r.pid = s.active_pid";
            one.sql(sql).as_deref() == Ok("t")
        });

        // Both go on by themselves; the old one dies with a segment that was never archived.
        two.sql("SELECT pg_promote()").expect("promoted");
        two.sql("INSERT INTO t VALUES (2001)").expect("written");
        two.sql("CHECKPOINT").expect("checkpoint");
        one.sql("ALTER SYSTEM SET primary_conninfo = 'host=nowhere'").expect("altered");
        one.sql("INSERT INTO t VALUES (1001)").expect("written");
        one.step(&Step::Stop { mode: ha_core::effect::StopMode::Immediate }).expect("stopped");
        let waiting = one.site.data_dir().join("pg_wal/archive_status/000000010000000000000042.ready");
        std::fs::write(one.site.data_dir().join("pg_wal/000000010000000000000042"), "wal").expect("written");
        std::fs::write(&waiting, "").expect("written");
        std::fs::write(one.site.data_dir().join("promote"), "").expect("written");
        std::fs::write(one.site.data_dir().join("standby.signal"), "").expect("written");

        // A leader of a cluster has one for each member; what is written while the rewind runs comes by it.
        two.sql("SELECT pg_create_physical_replication_slot('pg1')").expect("a slot");
        one.step(&Step::Rewind { from: two.upstream_for(&one) }).expect("a rewind");
        assert!(archive.join("000000010000000000000042").exists(), "what waited was archived");
        assert!(matches!(pgdata::observe(&one.site), DataDir::Present(_)));
        let marker = ha_node::marker::read(&one.site.paths.marker()).expect("readable").expect("there");
        assert_eq!(marker.member.as_str(), "pg1");
        one.start_standby(&two);
        one.wait("it has the other's rows", || {
            one.sql("SELECT count(*) FILTER (WHERE g = 2001) || ',' || count(*) FILTER (WHERE g = 1001) FROM t")
                .as_deref()
                == Ok("1,0")
        });
        assert_eq!(one.sql("SELECT pg_is_in_recovery()").expect("asked"), "t");
        one.stop();
        two.stop();
    });
}

#[test]
fn what_a_dead_founder_leaves_is_known_to_hold_nothing() {
    as_postgres("what_a_dead_founder_leaves_is_known_to_hold_nothing", |dir| {
        let (one, two) = (Node::new(dir, "pg1"), Node::new(dir, "pg2"));
        // It died while initdb ran: the next supervisor begins anew.
        pgdata::begin_unfinished(&two.site, pgdata::INITIALISING).expect("marked");
        std::fs::create_dir_all(two.site.data_dir().join("base")).expect("made");
        assert!(matches!(pgdata::observe(&two.site), DataDir::Damaged { .. }));
        std::fs::write(two.site.data_dir().join("PG_VERSION"), "of somebody who has put his own directory here")
            .expect("written");
        pgdata::clear_half_made(&two.site).expect("out of the way");
        assert_eq!(pgdata::observe(&two.site), DataDir::Empty);
        assert!(dir.join("pg2.failed/PG_VERSION").exists(), "nothing is lost for good");

        // It died between initdb and the founding of the cluster.
        let founding = |node: &Node| Outside::new(node.site.clone(), Arc::new(|| {})).look().founding;
        two.initdb();
        assert!(founding(&two));
        pgdata::clear_half_made(&two.site).expect("nothing to do");
        assert!(founding(&two), "an initdb that came to its end may still found the cluster");

        one.initdb();
        one.start_primary();
        two.step(&Step::BaseBackup { from: one.upstream_for(&two) }).expect("a copy in its place");
        let system_id = |node: &Node| control_data::read(node.site.data_dir()).expect("read").control.system_id;
        assert_eq!(system_id(&two), system_id(&one));
        assert!(!founding(&two), "a copy founds nothing");
        assert!(!two.site.paths.founding().exists());
        one.stop();

        // The mark is of one directory, not of whatever comes to its place.
        std::fs::remove_dir_all(two.site.data_dir()).expect("removed");
        std::fs::rename(one.site.data_dir(), two.site.data_dir()).expect("moved");
        ha_node::founding::begin(&two.site.paths, ha_core::ids::SystemId(7)).expect("marked");
        assert!(!founding(&two));
    });
}

/// Makes the control file say so, whatever the server was last.
fn shut_down_as_primary(node: &Node) {
    let path = node.site.data_dir().join("standby.signal");
    std::fs::remove_file(path).expect("it was a standby");
    let mut command = Command::new(program("postgres"));
    command.args(["--single", "-D"]).arg(node.site.data_dir()).args(["-c", "archive_command=false", "postgres"]);
    assert!(command.stdin(std::process::Stdio::null()).status().expect("it runs").success());
    assert_eq!(control_data::read(node.site.data_dir()).expect("read").control.state, ControlState::ShutDown);
}

#[test]
fn wal_that_waits_for_the_archive_outlives_a_change_of_role() {
    as_postgres("wal_that_waits_for_the_archive_outlives_a_change_of_role", |dir| {
        let archive = dir.join("archive");
        std::fs::create_dir(&archive).expect("made");
        let archiving = |command: &str| json!({"archive_mode": "on", "archive_command": command});
        let works = format!("cp %p {}/%f", archive.display());
        let waits = |node: &Node, segment: &str| {
            let wal = node.site.data_dir().join("pg_wal");
            std::fs::write(wal.join(segment), "wal").expect("written");
            std::fs::write(wal.join(format!("archive_status/{segment}.ready")), "").expect("written");
        };
        let old = "000000010000000000000000";
        let source = Node::new(dir, "pg2");
        let start = |node: &Node, upstream| {
            let role = ha_core::effect::StartRole::Standby { upstream };
            node.step(&Step::Start { role }).expect("a broken or slow archive keeps nobody down");
            node.stop();
        };

        // A primary that was shut down while its archive did not work. Parked it may lead again, and archives it itself then.
        let broken = Node::with(dir, "pg1", &archiving("sleep 1000"));
        broken.initdb();
        waits(&broken, old);
        let segment = broken.site.data_dir().join("pg_wal").join(old);
        let ready = broken.site.data_dir().join(format!("pg_wal/archive_status/{old}.ready"));
        let kept = broken.site.unarchived().join(old);
        let begun = std::time::Instant::now();
        broken.step(&Step::CrashRecover).expect("shut down");
        start(&broken, None);
        assert!(segment.exists() && ready.exists() && !kept.exists());
        assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());

        // As a standby it would remove it.
        let broken = Node::with(dir, "pg1", &archiving("sleep 1000"));
        shut_down_as_primary(&broken);
        start(&broken, Some(source.upstream_for(&broken)));
        assert!(kept.exists() && segment.exists() && ready.exists(), "kept, and nothing taken away");
        let mended = Node::with(dir, "pg1", &archiving(&works));
        start(&mended, Some(source.upstream_for(&mended)));
        assert!(archive.join(old).exists() && !kept.exists(), "archived once that was possible");
        std::fs::remove_file(archive.join(old)).expect("removed");

        // One that is to be replaced by a copy.
        source.initdb();
        source.start_primary();
        waits(&mended, old);
        let orphan = mended.site.data_dir().join("pg_wal/archive_status/00000002.history.ready");
        std::fs::write(orphan, "").expect("a file that is gone stands in nobody's way");
        mended.step(&Step::BaseBackup { from: source.upstream_for(&mended) }).expect("a copy");
        assert!(archive.join(old).exists());
        source.stop();
    });
}

/// Two that went different ways; the first is down.
fn diverged(dir: &Path) -> (Node, Node) {
    let (one, two) = (Node::new(dir, "pg1"), Node::new(dir, "pg2"));
    one.initdb();
    one.start_primary();
    two.step(&Step::BaseBackup { from: one.upstream_for(&two) }).expect("a copy");
    two.start_standby(&one);
    two.wait("it streams", || two.sql("SELECT status FROM pg_stat_wal_receiver").as_deref() == Ok("streaming"));
    two.sql("SELECT pg_promote()").expect("promoted");
    two.sql("CREATE TABLE theirs (i integer)").expect("written");
    two.sql("CHECKPOINT").expect("a checkpoint");
    one.sql("CREATE TABLE ours (i integer)").expect("written");
    one.stop();
    two.sql("SELECT pg_create_physical_replication_slot('pg1')").expect("a slot");
    (one, two)
}

/// A `pg_rewind` that does `before` when its rehearsal is over, in a directory with all other programs.
fn rewind_after(dir: &Path, node: &Node, before: &str) -> Context {
    let programs = dir.join("programs");
    std::fs::create_dir(&programs).expect("made");
    for name in ["pg_ctl", "postgres", "psql", "pg_controldata"] {
        std::os::unix::fs::symlink(program(name), programs.join(name)).expect("linked");
    }
    let real = program("pg_rewind");
    let real = real.display();
    let script = format!("#!/bin/sh\ncase \"$*\" in *--dry-run*) ;; *) {before} ;; esac\nexec {real} \"$@\"\n");
    std::fs::write(programs.join("pg_rewind"), script).expect("written");
    run(Command::new("chmod").arg("+x").arg(programs.join("pg_rewind")));
    let mut config = node.site.config.as_ref().clone();
    config.postgresql.bin_dir = Some(programs);
    let (mut context, _events) = node.context();
    context.site.config = Arc::new(config);
    context
}

#[test]
fn a_rewind_that_replaced_nothing_may_be_tried_again() {
    as_postgres("a_rewind_that_replaced_nothing_may_be_tried_again", |dir| {
        let (one, two) = diverged(dir);
        let lost = format!("{} stop -s -m immediate -D {}", program("pg_ctl").display(), two.site.data_dir().display());
        let context = rewind_after(dir, &one, &lost);
        let before = control_data::read(one.site.data_dir()).expect("read");
        let from = two.upstream_for(&one);
        let error = steps::perform(&Step::Rewind { from: from.clone() }, &context).expect_err("nobody to rewind onto");
        assert!(error.to_string().contains("pg_rewind"), "{error}");
        assert!(matches!(pgdata::observe(&one.site), DataDir::Present(_)), "{:?}", pgdata::observe(&one.site));
        assert_eq!(control_data::read(one.site.data_dir()).expect("read"), before);
        two.start_primary();
        one.step(&Step::Rewind { from }).expect("the next rewind");
        one.start_standby(&two);
        one.wait("it has the other's table", || one.sql("SELECT count(*) FROM theirs").is_ok());
        one.stop();
        two.stop();
    });
}

#[test]
fn a_rewind_that_fails_among_the_files_leaves_its_mark() {
    as_postgres("a_rewind_that_fails_among_the_files_leaves_its_mark", |dir| {
        let (one, two) = diverged(dir);
        // The other's table is a file that cannot be made here.
        let database = two.sql("SELECT oid FROM pg_database WHERE datname = 'postgres'").expect("asked");
        let closed = one.site.data_dir().join("base").join(database);
        let context = rewind_after(dir, &one, &format!("chmod 500 {}", closed.display()));
        let error = steps::perform(&Step::Rewind { from: two.upstream_for(&one) }, &context).expect_err("not writable");
        assert!(error.to_string().contains("ermission denied"), "{error}");
        assert!(matches!(pgdata::observe(&one.site), DataDir::Damaged { ours: true, .. }));
        run(Command::new("chmod").arg("700").arg(closed));
        two.stop();
    });
}

#[test]
fn a_detached_server_is_the_users_own() {
    as_postgres("a_detached_server_is_the_users_own", |dir| {
        let node = Node::new(dir, "pg1");
        node.initdb();
        node.start_primary();
        let error = detach::detach(node.site.data_dir()).expect_err("it runs").to_string();
        assert!(error.contains("the server runs"), "{error}");
        node.stop();
        let base = std::fs::read_to_string(node.site.data_dir().join("postgresql.base.conf")).expect("read");
        let done = detach::detach(node.site.data_dir()).expect("detached");
        assert!(done.iter().any(|line| line.contains("ha_ext.marker")), "{done:?}");
        let conf = std::fs::read_to_string(node.site.data_dir().join("postgresql.conf")).expect("read");
        assert_eq!(conf, base);
        for gone in ["ha_ext.marker", "ha_ext.conf", "postgresql.base.conf"] {
            assert!(!node.site.data_dir().join(gone).exists(), "{gone}");
        }
        assert_eq!(detach::detach(node.site.data_dir()).expect("again"), Vec::<String>::new());
    });
}
