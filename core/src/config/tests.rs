use super::*;
use serde_json::json;

fn minimal() -> Value {
    json!({
        "scope": "demo",
        "name": "pg1",
        "restapi": {"listen": "10.0.0.1:8008"},
        "etcd3": {"hosts": "10.0.0.9:2379,10.0.0.8"},
        "postgresql": {
            "listen": "10.0.0.1:5432",
            "data_dir": "/data/pg1",
            "authentication": {"replication": {"username": "repl", "password": "s3cret"}}
        }
    })
}

fn with(changes: &Value) -> Value {
    let mut out = minimal();
    merge_patch(&mut out, changes);
    out
}

fn read(local: &Value) -> Result<(Config, Vec<Warning>), ConfigError> {
    Config::from_layers(local, &BTreeMap::new(), None)
}

fn good(local: &Value) -> Config {
    let (config, warnings) = read(local).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(warnings, Vec::new());
    config
}

fn error(local: &Value) -> String {
    read(local).expect_err("a mistake").to_string()
}

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_minimal_file_and_its_defaults() {
    let config = good(&minimal());
    assert_eq!(
        (config.scope.as_str(), config.name.as_str(), config.dcs_base().as_str()),
        ("demo", "pg1", "/service/demo/")
    );
    assert_eq!(config.identity().conn_url, "postgres://10.0.0.1:5432/postgres");
    assert_eq!(config.identity().api_url, "http://10.0.0.1:8008/patroni");
    assert_eq!(config.etcd3.endpoints(), ["http://10.0.0.9:2379", "http://10.0.0.8:2379"]);
    assert_eq!(config.postgresql.superuser.username, "postgres");
    assert_eq!(config.postgresql.rewind, config.postgresql.superuser);
    assert_eq!(config.postgresql.pgpass.to_str(), Some("/data/.pg1.ha_ext/pgpass"));
    assert_eq!(config.postgresql.parameters["wal_log_hints"], "on");
    assert_eq!(config.postgresql.parameters["recovery_init_sync_method"], "syncfs");
    let expected = Settings { bootstrap_dcs: build::default_dcs(), ..Settings::default() };
    assert_eq!(config.settings(), expected);
}

#[test]
fn what_is_missing_is_named_with_a_remedy() {
    let text = error(&json!({}));
    for path in [
        "scope",
        "name",
        "restapi.listen",
        "etcd3.hosts",
        "postgresql.listen",
        "postgresql.data_dir",
        "postgresql.authentication.replication.username",
    ] {
        assert!(text.contains(&format!("{path}: is required (")), "{path} is not in\n{text}");
    }
    assert_eq!(text.lines().count(), 7, "{text}");
}

#[test]
fn mistakes_are_errors_with_path_and_expectation() {
    let cases = [
        (
            json!({"ttl": "soon"}),
            "ttl: expected a time such as 30 or 30s (seconds when bare), found \"soon\" (correct it, or remove it: the default is 30)",
        ),
        (
            json!({"ttl": -5}),
            "ttl: expected a time such as 30 or 30s (seconds when bare), found -5 (correct it, or remove it: the default is 30)",
        ),
        (json!({"tll": 30}), "tll: unknown key (did you mean ttl?)"),
        (
            json!({"postgresql": {"paramters": {}}}),
            "postgresql.paramters: unknown key (did you mean postgresql.parameters?)",
        ),
        (
            json!({"postgresql": {"use_pg_rewind": "perhaps"}}),
            "postgresql.use_pg_rewind: expected true or false, found \"perhaps\" (correct it, or remove it: the default is false)",
        ),
        (
            json!({"postgresql": {"parameters": {"work_mem": ["4MB"]}}}),
            "postgresql.parameters.work_mem: expected a plain value, found a list (write it as text)",
        ),
        (
            json!({"postgresql": {"parameters": {"a b": 1}}}),
            "postgresql.parameters.a b: is not the name of a server parameter (names are letters, digits, _ and one dot)",
        ),
        (
            json!({"postgresql": {"parameters": {"search_path": "a'\nssl = off"}}}),
            "postgresql.parameters.search_path: expected a plain value, found text of several lines (write it as text)",
        ),
        (
            json!({"postgresql": {"parameters": "on"}}),
            "postgresql.parameters: expected a mapping of server parameters to plain values, found \"on\" (correct it)",
        ),
        (
            json!({"postgresql": {"authentication": {"replication": {"password": true}}}}),
            "postgresql.authentication.replication.password: expected text (quote it: YAML reads a bare yes, no, on, off as a boolean), found true (correct it)",
        ),
        (
            json!({"postgresql": {"authentication": {"replication": {"password": ["x"]}}}}),
            "postgresql.authentication.replication.password: expected text, found a list (correct it)",
        ),
        (
            json!({"restapi": "0.0.0.0:8008"}),
            "restapi: expected a mapping, found \"0.0.0.0:8008\" (indent its keys below it)",
        ),
        (
            json!({"restapi": {"listen": "0.0.0.0:8008"}}),
            "restapi.connect_address: is required (restapi.listen is a wildcard: give the host name or IP address of this machine)",
        ),
        (
            json!({"restapi": {"authentication": {"username": "u"}}}),
            "restapi.authentication.password: is required (restapi.authentication.username is given)",
        ),
        (
            json!({"postgresql": {"data_dir": "data"}}),
            "postgresql.data_dir: expected an absolute path, found \"data\" (begin it with a slash)",
        ),
        (
            json!({"postgresql": {"listen": "x:y"}}),
            "postgresql.listen: expected ADDRESS:PORT, found \"x:y\" (for example *:5432 or 127.0.0.1,10.0.0.5:5432)",
        ),
        (
            json!({"postgresql": {"basebackup": [{"pgdata": "/x"}]}}),
            "postgresql.basebackup.pgdata: cannot be set (remove it: ha_ext sets it itself)",
        ),
        (
            json!({"bootstrap": {"dcs": {"tttl": 3}}}),
            "bootstrap.dcs.tttl: unknown key (did you mean bootstrap.dcs.ttl?)",
        ),
        (
            json!({"bootstrap": {"dcs": [1]}}),
            "bootstrap.dcs: expected a mapping: the dynamic configuration, found a list (correct it)",
        ),
        (
            json!({"etcd3": {"hosts": "http://a:2379"}}),
            "etcd3.hosts: expected a list of HOST:PORT, found \"http://a:2379\" (correct it)",
        ),
        (
            json!({"tags": {"nested": {"a": 1}}}),
            "tags: expected a mapping of names to plain values, found a mapping (correct it)",
        ),
    ];
    for (changes, expected) in cases {
        let text = error(&with(&changes));
        assert!(text.lines().any(|line| line == expected), "expected\n{expected}\nin\n{text}");
    }
}

#[test]
fn what_patroni_knows_but_is_not_built_is_a_warning_that_names_it() {
    let local = with(&json!({
        "citus": {"group": 0},
        "log": {"dir": "/var/log", "level": "debug"},
        "ctl": {"insecure": true},
        "restapi": {"certfile": "/x", "verify_client": "none"},
        "bootstrap": {"dcs": {"synchronous_mode": true, "failsafe_mode": false, "slots": {}}},
        "postgresql": {
            "callbacks": {"on_start": "/x"},
            "create_replica_methods": ["wal_e", "basebackup"],
            "wal_e": {"command": "x", "no_params": true},
            "authentication": {"replication": {"sslmode": "require"}},
            "parameters": {"max_connections": 500, "port": 1, "work_mem": "8MB"}
        }
    }));
    let (config, warnings) = read(&local).unwrap_or_else(|error| panic!("{error}"));
    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "bootstrap.dcs.synchronous_mode",
            "citus",
            "log.dir",
            "postgresql.callbacks",
            "postgresql.create_replica_methods",
            "postgresql.parameters.max_connections",
            "postgresql.parameters.port",
            "postgresql.wal_e",
            "restapi.certfile",
        ]
    );
    assert_eq!(config.log_level, LogLevel::Debug);
    assert_eq!(config.postgresql.parameters["max_connections"], "100");
    assert_eq!(config.postgresql.parameters["work_mem"], "8MB");
    assert_eq!(config.postgresql.replication.connection_options["sslmode"], "require");
}

#[test]
fn layers_override_each_other_in_order() {
    let local = with(&json!({
        "loop_wait": 3,
        "bootstrap": {"dcs": {"ttl": 99}},
        "postgresql": {"use_slots": false, "parameters": {"work_mem": "1MB", "archive_mode": true}}
    }));
    let dynamic = json!({
        "ttl": "20", "loop_wait": 5, "retry_timeout": "4s", "newer_key": 1, "pause": "on",
        "postgresql": {
            "listen": "x:1", "use_pg_rewind": "yes",
            "parameters": {"work_mem": "2MB", "Max_Connections": "200", "wal_level": "hot_standby", "max_wal_senders": 1}
        }
    });
    let variables = environment(&[("PATRONI_NAME", "other"), ("PATRONI_SERVICE_HOST", "1.2.3.4"), ("HOME", "/root")]);
    let (config, warnings) = Config::from_layers(&local, &variables, Some(&dynamic)).unwrap_or_else(|e| panic!("{e}"));
    let settings = config.settings();
    assert_eq!((settings.ttl_ms.0, settings.loop_wait_ms.0, settings.retry_timeout_ms.0), (20_000, 3000, 4000));
    assert!(settings.pause && settings.use_slots && settings.use_pg_rewind);
    assert_eq!(config.name.as_str(), "other");
    let parameter = |name: &str| config.postgresql.parameters[name].as_str();
    assert_eq!((parameter("work_mem"), parameter("archive_mode")), ("1MB", "on"));
    assert_eq!((parameter("max_connections"), parameter("wal_level")), ("200", "replica"));
    assert_eq!(parameter("max_wal_senders"), "10");
    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "PATRONI_SERVICE_HOST",
            "newer_key",
            "postgresql.listen",
            "postgresql.parameters.max_wal_senders",
            "postgresql.use_slots"
        ]
    );
    let origin = |name: &str| config.listed().iter().find(|l| l.name == name).map(|l| (l.value.clone(), l.origin));
    assert_eq!(origin("name"), Some(("other".to_owned(), Origin::Environment)));
    assert_eq!(origin("ttl"), Some(("20".to_owned(), Origin::Store)));
    assert_eq!(origin("loop_wait"), Some(("3".to_owned(), Origin::File)));
    assert_eq!(origin("primary_start_timeout"), Some(("300".to_owned(), Origin::Default)));
    assert_eq!(origin("postgresql.parameters.max_connections"), Some(("200".to_owned(), Origin::Store)));
}

#[test]
fn before_there_is_a_dynamic_configuration_bootstrap_dcs_stands_in() {
    let local = with(
        &json!({"bootstrap": {"dcs": {"ttl": 7, "loop_wait": 1, "retry_timeout": 3, "postgresql": {"use_slots": false}}}}),
    );
    let config = good(&local);
    assert_eq!(config.settings().ttl_ms.0, 7000);
    assert_eq!(config.settings_among(true).ttl_ms.0, 20_000);
    assert!(!config.settings().use_slots);
    assert_eq!(config.settings().bootstrap_dcs["ttl"], 7);
    let (config, _) = Config::from_layers(&local, &BTreeMap::new(), Some(&json!({}))).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.settings().ttl_ms.0, 30_000);
    assert!(config.settings().use_slots);
}

#[test]
fn the_environment_sets_lists_mappings_and_roles() {
    let variables = environment(&[
        ("PATRONI_ETCD3_HOSTS", "['a:1', 'b:2']"),
        ("PATRONI_ETCD3_USERNAME", "root"),
        ("PATRONI_ETCD3_PASSWORD", "pw"),
        ("PATRONI_ETCD3_CACERT", "/ca.pem"),
        ("PATRONI_RESTAPI_HTTP_EXTRA_HEADERS", "X-A: b"),
        ("PATRONI_SUPERUSER_USERNAME", "boss"),
        ("PATRONI_REPLICATION_SSLMODE", "verify-full"),
        ("PATRONI_REWIND_USERNAME", "rewinder"),
        ("PATRONI_LOGLEVEL", "WARNING"),
        ("PATRONI_CONSUL_HOST", "x"),
        ("PATRONI_RESTAPI_CERTFILE", "x"),
        ("PATRONI_CTL_INSECURE", "x"),
    ]);
    let (config, warnings) = Config::from_layers(&minimal(), &variables, None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.etcd3.endpoints(), ["https://a:1", "https://b:2"]);
    assert_eq!(config.restapi.extra_headers["X-A"], "b");
    assert_eq!(config.postgresql.superuser.username, "boss");
    assert!(config.postgresql.own_rewind_role);
    assert_eq!(config.postgresql.rewind.username, "rewinder");
    assert_eq!(config.postgresql.replication.connection_options["sslmode"], "verify-full");
    assert_eq!(config.log_level, LogLevel::Warning);
    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(paths, ["PATRONI_CONSUL_HOST", "PATRONI_RESTAPI_CERTFILE"]);

    let variables = environment(&[("PATRONI_RESTAPI_LISTEN", "nowhere:x")]);
    let text = Config::from_layers(&minimal(), &variables, None).expect_err("a mistake").to_string();
    assert_eq!(text, "PATRONI_RESTAPI_LISTEN: expected HOST:PORT, found \"nowhere:x\" (correct it)");
}

#[test]
fn passwords_are_never_shown() {
    let local = with(&json!({
        "restapi": {"authentication": {"username": "u", "password": "s3cret"}},
        "etcd3": {"username": "u", "password": "s3cret"},
        "postgresql": {"authentication": {
            "superuser": {"password": "s3cret"},
            "rewind": {"username": "r", "password": "s3cret", "sslpassword": "s3cret"}
        }}
    }));
    let config = good(&local);
    assert_eq!(config.postgresql.rewind.password.as_ref().map(Secret::expose), Some("s3cret"));
    assert!(!format!("{config:?}").contains("s3cret"));
    let wrong = with(&json!({"postgresql": {"authentication": {"superuser": {"password": "s3cret\nx"}}}}));
    assert!(!error(&wrong).contains("s3cret"));
}

#[test]
fn tags_keep_what_says_something() {
    let tags = |value: Value| good(&with(&json!({"tags": value}))).tags.all;
    assert_eq!(
        Value::Object(tags(json!({"nofailover": false, "clonefrom": true, "x": "y", "zero": 0}))),
        json!({"clonefrom": true, "x": "y", "zero": 0})
    );
    assert_eq!(
        Value::Object(tags(json!({"nofailover": false, "failover_priority": 2}))),
        json!({"nofailover": false, "failover_priority": 2})
    );
}

#[test]
fn tags_that_contradict_each_other_are_named() {
    let warnings = |tags: Value| {
        let local = with(&json!({"tags": tags}));
        let (_, warnings) = Config::from_layers(&local, &BTreeMap::new(), None).unwrap_or_else(|e| panic!("{e}"));
        warnings.into_iter().filter(|warning| warning.path == "tags").map(|warning| warning.message).collect::<Vec<_>>()
    };
    let conflict = "Conflicting configuration between nofailover: True and failover_priority: 1. \
                    Defaulting to nofailover: True";
    assert_eq!(warnings(json!({"nofailover": "on", "failover_priority": "1"})), [conflict]);
    let conflict = "Conflicting configuration between nosync: False and sync_priority: 0. Defaulting to nosync: False";
    assert_eq!(warnings(json!({"nosync": false, "sync_priority": 0})), [conflict]);
    assert!(warnings(json!({"nofailover": true, "failover_priority": 0, "x": 1})).is_empty());
    assert!(warnings(json!({"nofailover": false, "failover_priority": 3})).is_empty());
}

#[test]
fn a_patch_merges_and_refuses_new_mistakes_only() {
    let current = json!({"ttl": 30, "strange": 1, "postgresql": {"parameters": {"work_mem": "4MB", "a": "b"}}});
    let patch =
        json!({"ttl": "30", "primary_start_timeout": 5, "postgresql": {"parameters": {"a": null, "work_mem": "8MB"}}});
    let patched = Config::patched_dynamic(&current, &patch).expect("a good patch");
    assert_eq!(
        patched,
        json!({"ttl": 30, "primary_start_timeout": 5, "strange": 1, "postgresql": {"parameters": {"work_mem": "8MB"}}})
    );
    for (patch, expected) in [
        (json!({"ttl": "x"}), "ttl: expected a time"),
        (json!({"loopwait": 1}), "loopwait: unknown key (did you mean loop_wait?)"),
        (json!({"postgresql": {"parameters": 5}}), "postgresql.parameters: expected a mapping"),
        (json!(5), "(patch): expected a mapping, found 5"),
    ] {
        let text = Config::patched_dynamic(&current, &patch).expect_err("a mistake").to_string();
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn a_margin_that_would_keep_every_member_from_leading_is_lowered() {
    let loaded = |ttl: u64, watchdog: &Value| {
        let dynamic = json!({"ttl": ttl, "loop_wait": 1, "retry_timeout": 3});
        let local = with(&json!({"watchdog": watchdog}));
        Config::from_layers(&local, &BTreeMap::new(), Some(&dynamic)).expect("it is in force")
    };
    let margin = |config: &Config| config.settings().watchdog.safety_margin_s;
    let said = |warnings: &[Warning]| warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let (config, warnings) = loaded(9, &json!({"mode": "required", "safety_margin": 6}));
    assert_eq!(margin(&config), 4);
    assert!(said(&warnings).contains("watchdog.safety_margin: ttl (9 s) leaves it 3 s"), "{}", said(&warnings));
    assert!(said(&warnings).contains("a margin of 4 s is used"), "{}", said(&warnings));
    let (config, warnings) = loaded(9, &json!({"safety_margin": 6}));
    assert_eq!((margin(&config), said(&warnings).contains("watchdog")), (6, false), "none is required");
    let (_, warnings) = loaded(5, &json!({"mode": "required"}));
    assert!(said(&warnings).contains("watchdog.mode: no member can lead with it"), "{}", said(&warnings));
}

#[test]
fn a_ttl_with_which_nobody_could_lead_is_refused() {
    let current = json!({"ttl": 30, "watchdog": {"mode": "required"}});
    let text = Config::patched_dynamic(&current, &json!({"ttl": 5})).expect_err("nobody could lead").to_string();
    assert!(text.starts_with("ttl: no member could lead with watchdog.mode required"), "{text}");
    assert!(text.contains("ttl has to be 6 s at least") && text.contains("(raise ttl, or"), "{text}");
    let both = json!({"ttl": 5, "watchdog": {"mode": "automatic"}});
    Config::patched_dynamic(&current, &both).expect("none is required");
    Config::patched_dynamic(&current, &json!({"ttl": 7})).expect("the margin is lowered");
}
