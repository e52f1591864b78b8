//! Effects that came to mind when somebody tried to get past the fence: what acts in several transactions, at the end of one,
//! before its commit, or tells how another ended.

use crate::rows::{Act, INSERT, Row, after, at_once, by, outside, seen, simple};

const ORIGIN: &str = "SELECT count(*) > 0 FROM pg_replication_origin WHERE roname = 'mine'";
const NO_DATABASE: &[&str] = &["DROP DATABASE other"];
const VIEW: &[&str] =
    &["CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS i FROM made", "CREATE UNIQUE INDEX ON seen (i)", INSERT];
const NO_VIEW: &[&str] = &["DROP MATERIALIZED VIEW seen", "TRUNCATE made"];
const REFRESHED: &str = "SELECT i = 1 FROM seen";
const INDEX: &[&str] = &["CREATE INDEX known_i ON known (i)"];
const NO_INDEX: &[&str] = &["DROP INDEX IF EXISTS known_i, known_i_ccnew, known_i_ccold"];

/// All of them.
pub const ROWS: &[Row] = &[
    after(&["BEGIN", INSERT], simple("COMMIT AND CHAIN", "COMMIT AND CHAIN")),
    // What was completed first must not leave with the rest.
    after(
        &["BEGIN", INSERT],
        simple("COMMIT before a large answer", "COMMIT; SELECT repeat('x', 1000) FROM generate_series(1, 100)"),
    ),
    by("pipeline, each with a Sync", Act::Synced(&[INSERT, INSERT]), simple("two INSERTs", "")),
    after(&["PREPARE one AS INSERT INTO made VALUES (1)"], simple("EXECUTE", "EXECUTE one")),
    simple("function that writes", "SELECT writes()"),
    outside("temporary table, ON COMMIT DROP", "CREATE TEMP TABLE mine ON COMMIT DROP AS SELECT 1"),
    Row {
        before: &[
            "CREATE EVENT TRIGGER noted ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION noted()",
        ],
        undo: &["DROP EVENT TRIGGER noted", "DROP TABLE other", "TRUNCATE made"],
        ..simple("event trigger", "CREATE TABLE other (i integer)")
    },
    seen(
        "identity column",
        "INSERT INTO identified DEFAULT VALUES",
        "SELECT count(*) > 0 FROM identified",
        &["TRUNCATE identified"],
    ),
    Row { before: VIEW, ..seen("REFRESH MATERIALIZED VIEW", "REFRESH MATERIALIZED VIEW seen", REFRESHED, NO_VIEW) },
    Row {
        before: VIEW,
        ..seen(
            "REFRESH MATERIALIZED VIEW CONCURRENTLY",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY seen",
            REFRESHED,
            NO_VIEW,
        )
    },
    Row { before: INDEX, undo: NO_INDEX, ..outside("REINDEX", "REINDEX INDEX known_i") },
    Row { before: INDEX, undo: NO_INDEX, ..outside("REINDEX CONCURRENTLY", "REINDEX INDEX CONCURRENTLY known_i") },
    Row { before: INDEX, undo: NO_INDEX, ..outside("CLUSTER", "CLUSTER known USING known_i") },
    outside("VACUUM FULL", "VACUUM FULL known"),
    Row {
        before: &["CREATE DATABASE other"],
        ..seen(
            "DROP DATABASE",
            "DROP DATABASE other",
            "SELECT count(*) = 0 FROM pg_database WHERE datname = 'other'",
            NO_DATABASE,
        )
    },
    after(
        &["SET allow_in_place_tablespaces = on"],
        seen(
            "CREATE TABLESPACE",
            "CREATE TABLESPACE other LOCATION ''",
            "SELECT count(*) > 0 FROM pg_tablespace WHERE spcname = 'other'",
            &["DROP TABLESPACE other"],
        ),
    ),
    Row { undo: &["SELECT lo_put(4242, 0, '')"], ..outside("lo_put()", "SELECT lo_put(4242, 0, 'text')") },
    at_once(
        "pg_replication_origin_create()",
        "SELECT pg_replication_origin_create('mine')",
        ORIGIN,
        &["SELECT pg_replication_origin_drop('mine')"],
    ),
    after(&["BEGIN"], outside("LOCK TABLE", "LOCK TABLE known IN EXCLUSIVE MODE")),
    outside("COPY ... TO PROGRAM of a table", "COPY known TO PROGRAM 'cat >/dev/null'"),
    outside("read of pg_largeobject", "SELECT * FROM pg_largeobject"),
    outside("txid_status()", "SELECT txid_status(3)"),
    outside("read of pg_prepared_xacts", "SELECT * FROM pg_prepared_xacts"),
    Row { allowed: true, ..outside("LISTEN", "LISTEN somebody") },
    Row { allowed: true, ..outside("pg_reload_conf()", "SELECT pg_reload_conf()") },
    Row {
        allowed: true,
        ..outside("pg_terminate_backend()", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE false")
    },
];

/// What they find beside the rest.
pub const CONTENTS: &[&str] = &[
    "CREATE FUNCTION writes() RETURNS void LANGUAGE sql AS 'INSERT INTO made VALUES (1)'",
    "CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO made VALUES (1); END'",
    "CREATE TABLE identified (i integer GENERATED ALWAYS AS IDENTITY)",
];
