use super::*;
use crate::cluster::Address;
use crate::ids::NodeName;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn config(postgresql: &Value) -> Config {
    let mut local = json!({
        "scope": "it's", "name": "pg-1",
        "restapi": {"listen": "127.0.0.1:8008"},
        "etcd3": {"host": "127.0.0.1:2379"},
        "postgresql": {
            "listen": "127.0.0.1,[::1]:5433", "connect_address": "127.0.0.1:5433", "data_dir": "/d/pg 1",
            "authentication": {"replication": {"username": "repl", "password": "a:b\\c"}}
        }
    });
    if let (Some(into), Some(from)) = (local["postgresql"].as_object_mut(), postgresql.as_object()) {
        into.extend(from.clone());
    }
    Config::from_layers(&local, &BTreeMap::new(), None).expect("a good configuration").0
}

fn upstream() -> Upstream {
    Upstream {
        name: NodeName::new("pg2"),
        address: Address { host: "fd00::2".to_owned(), port: 5432 },
        slot: Some("pg_1".to_owned()),
    }
}

#[test]
fn postgresql_conf_in_full() {
    let config = config(&json!({"parameters": {
        "shared_preload_libraries": "pg_stat_statements, ha_ext, auto_explain",
        "archive_command": "cp %p 'a\\b'", "archive_mode": true, "ha.custom": 1.5
    }}));
    let text = "\
# Written by ha_ext. Changes made here are lost: edit the cluster's configuration instead.
include 'postgresql.base.conf'

shared_preload_libraries = 'ha_ext,pg_stat_statements,auto_explain'
listen_addresses = '127.0.0.1,::1'
port = '5433'
cluster_name = 'it''s'
archive_command = 'cp %p ''a\\\\b'''
archive_mode = 'on'
ha.custom = '1.5'
hot_standby = 'on'
max_connections = '100'
max_locks_per_transaction = '64'
max_prepared_transactions = '0'
max_replication_slots = '10'
max_wal_senders = '10'
max_worker_processes = '8'
recovery_init_sync_method = 'syncfs'
restart_after_crash = 'on'
track_commit_timestamp = 'off'
wal_keep_size = '128MB'
wal_level = 'replica'
wal_log_hints = 'on'
wal_retrieve_retry_interval = '500ms'

include_if_exists 'ha_ext.conf'
";
    assert_eq!(postgresql_conf(&config, &Refusals::new()), text);
}

#[test]
fn a_refused_value_is_a_comment_until_it_changes() {
    let bad = config(&json!({"parameters": {"work_mem": "it's", "wrk_mem": "1MB"}}));
    let refused = Refusals::from([("work_mem".to_owned(), Refusal::default())]);
    let text = postgresql_conf(&bad, &refused);
    assert!(text.contains("\n# refused by the server: work_mem = 'it''s'\nwrk_mem = '1MB'\n"), "{text}");
    assert_eq!(still_refused(&bad, &text), refused);
    let corrected = config(&json!({"parameters": {"work_mem": "1MB", "wrk_mem": "1MB"}}));
    assert_eq!(still_refused(&corrected, &text), Refusals::new());
    assert_eq!(still_refused(&config(&json!({})), &text), Refusals::new());
}

#[test]
fn what_is_refused_leaves_the_value_before_in_force() {
    let before = config(&json!({"parameters": {"ssl_ciphers": "a\\b'c", "shared_preload_libraries": "x"}}));
    let text = postgresql_conf(&before, &Refusals::new());
    assert_eq!(parameters_in(&text)["ssl_ciphers"], "a\\b'c");
    let after = config(&json!({"parameters": {"ssl_ciphers": "", "shared_preload_libraries": "y", "ssl": "on"}}));
    let changed: Vec<String> = changed_since(&after, &text).into_iter().map(|(name, _)| name).collect();
    assert_eq!(changed, ["shared_preload_libraries", "ssl", "ssl_ciphers"]);
    assert_eq!(changed_since(&before, &text), []);

    let old = parameters_in(&text);
    let refuse = |name: &String| (name.clone(), Refusal { instead: old.get(name).cloned(), by_start: true });
    let refused: Refusals = changed.iter().map(refuse).collect();
    let text = postgresql_conf(&after, &refused);
    let lines = [
        "# the server did not start with: shared_preload_libraries = 'ha_ext,y'\nshared_preload_libraries = 'ha_ext,x'\n",
        "# the server did not start with: ssl = 'on'\n# the server did not start with: ssl_ciphers = ''\nssl_ciphers = 'a\\\\b''c'\n",
    ];
    assert!(lines.iter().all(|lines| text.contains(lines)), "{text}");
    assert_eq!(still_refused(&after, &text), refused);
    assert!(command_line(&after, &refused).contains(&"shared_preload_libraries=ha_ext,x".to_owned()));
    assert_eq!(changed_since(&after, &text).len(), 3, "they are still not in force");
    let one = json!({"parameters": {"ssl_ciphers": "", "shared_preload_libraries": "y", "ssl": "off"}});
    assert_eq!(still_refused(&config(&one), &text), Refusals::new(), "it may have been that one alone");
    let bare = Refusals::from([("shared_preload_libraries".to_owned(), Refusal::default())]);
    assert!(
        command_line(&after, &bare).contains(&"shared_preload_libraries=ha_ext".to_owned()),
        "we are always loaded"
    );
}

#[test]
fn the_command_line_holds_what_all_members_share() {
    let arguments = command_line(&config(&json!({})), &Refusals::new());
    assert_eq!(arguments.len() % 2, 0);
    assert!(arguments.chunks(2).all(|pair| pair[0] == "-c"));
    assert!(arguments.contains(&"shared_preload_libraries=ha_ext".to_owned()));
    assert!(arguments.contains(&"max_connections=100".to_owned()));
    assert!(!arguments.iter().any(|argument| argument.starts_with("wal_keep_size")));
}

#[test]
fn whom_to_follow() {
    let config = config(&json!({}));
    let text = ha_ext_conf(&config, Some(&upstream()));
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        [
            "primary_conninfo = 'host=fd00::2 port=5432 user=repl passfile=''/d/.pg 1.ha_ext/pgpass'' \
             application_name=pg-1 connect_timeout=3 keepalives_idle=3 keepalives_interval=2 keepalives_count=3 \
             tcp_user_timeout=9000 sslmode=prefer'",
            "primary_slot_name = 'pg_1'",
            "recovery_target_timeline = 'latest'",
        ]
    );
    let parked: Vec<String> = ha_ext_conf(&config, None).lines().skip(1).map(str::to_owned).collect();
    assert_eq!(
        parked,
        [
            "primary_conninfo = ''",
            "primary_slot_name = ''",
            "recovery_target_timeline = 'latest'",
            "restore_command = ''"
        ]
    );
}

#[test]
fn strange_characters_survive_both_quotings() {
    assert_eq!(conninfo_value("it's \\ x"), r"'it\'s \\ x'");
    assert_eq!(quoted(r"password='it\'s'"), r"'password=''it\\''s'''");
    assert_eq!(conninfo_value(""), "''");
}

#[test]
fn options_of_the_role_go_into_its_connection_string() {
    let config = config(&json!({"database": "db", "authentication": {
        "replication": {"username": "repl"},
        "rewind": {"username": "rw", "sslmode": "verify-full", "sslpassword": "p w", "sslkey": "/k"}
    }}));
    let text = rewind_conninfo(&config, &upstream());
    assert!(text.ends_with("dbname=db sslkey=/k sslmode=verify-full sslpassword='p w'"), "{text}");
    assert_eq!(pgpass(&config), "");
}

#[test]
fn passwords_are_escaped() {
    let with_superuser = json!({"authentication": {
        "superuser": {"username": "postgres", "password": "x"},
        "replication": {"username": "repl", "password": "a:b\\c"}
    }});
    assert_eq!(pgpass(&config(&with_superuser)), "*:*:*:repl:a\\:b\\\\c\n*:*:*:postgres:x\n");
}

#[test]
fn access_files_are_written_only_when_configured() {
    let bare = config(&json!({}));
    assert_eq!((pg_hba(&bare), bootstrap_pg_hba(&bare), pg_ident(&bare)), (None, None, None));
    let given = config(&json!({"pg_hba": ["local all all trust"], "pg_ident": []}));
    assert_eq!(pg_hba(&given).as_deref().and_then(|text| text.lines().nth(1)), Some("local all all trust"));
    assert_eq!(bootstrap_pg_hba(&given), pg_hba(&given));
    assert_eq!(pg_ident(&given).as_deref(), Some(HEADER));
}

#[test]
fn alter_system_cannot_override_us() {
    let text = "# x\nwork_mem = '4MB'\nPrimary_Conninfo='host=a'\nshared_preload_libraries = ''\n";
    assert_eq!(auto_conf_without_ours(text).as_deref(), Some("# x\nwork_mem = '4MB'\n"));
    assert_eq!(auto_conf_without_ours("work_mem = '4MB'\nprimary_conninfo_x = 1\n"), None);
}
