//! Functions of the server that act outside their transaction, or tell what a failover may lose: each of them is refused by a
//! server without a lease, in every version that has it, and nothing of it happens.

use ha_tests::bare::Bare;
use ha_tests::sql;
use ha_tests::wire::{Heard, Wire};

/// By name, which stands for every function of that name.
const REFUSED: &[&str] = &[
    "brin_desummarize_range",
    "brin_summarize_new_values",
    "brin_summarize_range",
    "gin_clean_pending_list",
    "lo_export",
    "lo_get",
    "lo_open",
    "loread",
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_backup_start",
    "pg_backup_stop",
    "pg_copy_logical_replication_slot",
    "pg_copy_physical_replication_slot",
    "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot",
    "pg_create_restore_point",
    "pg_drop_replication_slot",
    "pg_get_sequence_data",
    "pg_last_committed_xact",
    "pg_log_standby_snapshot",
    "pg_logical_emit_message",
    "pg_logical_slot_get_binary_changes",
    "pg_logical_slot_get_changes",
    "pg_logical_slot_peek_binary_changes",
    "pg_logical_slot_peek_changes",
    "pg_notify",
    "pg_prepared_xact",
    "pg_replication_origin_advance",
    "pg_replication_origin_create",
    "pg_replication_origin_drop",
    "pg_replication_origin_progress",
    "pg_replication_origin_session_progress",
    "pg_replication_slot_advance",
    "pg_sequence_last_value",
    "pg_show_replication_origin_status",
    "pg_switch_wal",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_xact_commit_timestamp",
    "pg_xact_commit_timestamp_origin",
    "pg_xact_status",
    "setval",
    "txid_status",
];

/// Not in every supported version.
const NEWER: &[&str] = &["pg_get_sequence_data", "pg_log_standby_snapshot"];

/// They stay usable for whoever looks after the server.
const ALLOWED: &[&str] =
    &["pg_is_in_recovery", "pg_current_wal_lsn", "pg_reload_conf", "pg_rotate_logfile", "pg_control_system"];

/// Calls it with nothing but nulls: what is strict does nothing then, even if nobody refuses it.
fn call(wire: &mut Wire, function: u32, arguments: u16) -> Heard {
    let mut body = function.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 1, 0, 1]);
    body.extend_from_slice(&arguments.to_be_bytes());
    body.extend((0..arguments).flat_map(|_| [0xff; 4]));
    body.extend_from_slice(&[0, 1]);
    wire.send(b'F', &body);
    wire.listen()
}

/// Sets cannot be called that way.
fn select(wire: &mut Wire, name: &str, arguments: u16) -> Heard {
    let nulls = vec!["NULL"; arguments.into()].join(", ");
    wire.simple(&format!("SELECT * FROM {name}({nulls})"))
}

#[test]
fn functions_that_act_or_tell_are_refused() {
    let mut bare = Bare::fresh();
    let _etcd = bare.lead();
    let mut wire = Wire::open(&bare.server, &[]).expect("the server admits sessions");
    let set = wire.simple("SET ha_ext.debug_deadline = 'passed'");
    assert!(set.ready && set.error.is_none(), "{set:?}");
    let mut calls = 0;
    for name in REFUSED.iter().chain(ALLOWED) {
        let text = format!(
            "SELECT oid::text, pronargs::text, proretset::text FROM pg_proc \
             WHERE proname = '{name}' AND pronamespace = 'pg_catalog'::regnamespace"
        );
        let found = sql::query(&bare.server, &text).expect("a catalog");
        assert!(!found.is_empty() || NEWER.contains(name), "{name} does not exist");
        for function in found {
            let column = |index: usize| function[index].clone().expect("not null");
            let arguments = column(1).parse().expect("a number");
            let heard = match column(2).as_str() {
                "true" => select(&mut wire, name, arguments),
                _ => call(&mut wire, column(0).parse().expect("a number"), arguments),
            };
            let refused =
                heard.error.as_ref().is_some_and(|(code, text)| code == "25006" && text.contains(&format!("{name}()")));
            assert!(heard.ready, "{name}: {heard:?}");
            assert_eq!(refused, REFUSED.contains(name), "{name}, function {}: {heard:?}", column(0));
            calls += 1;
        }
    }
    println!("{calls} functions called on PostgreSQL {}", bare.major());
}
