//! The effects.

/// What a row does, and by which client.
#[derive(Clone, Copy)]
pub enum Act {
    /// One simple query, of one statement or many.
    Simple(&'static str),
    /// Statements in one pipeline of the extended protocol.
    Pipeline(&'static [&'static str]),
    /// The same, with an end after each.
    Synced(&'static [&'static str]),
    /// A replication command on such a connection (`true` or `database`); `{flushed}` is where the log ends.
    Replication(&'static str, &'static str),
    /// The protocol's function call.
    Call(u32, &'static [&'static [u8]]),
    /// COPY FROM STDIN of these lines.
    CopyIn(&'static str, &'static str),
    /// One simple query by a walsender, which takes SQL when it is connected to a database.
    Walsender(&'static str),
    /// psql.
    Psql(&'static str),
    /// pgbench with this script; it speaks the pipeline mode of libpq.
    Pgbench(&'static str),
}

/// One line of the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// What it is.
    pub effect: &'static str,
    /// By which client.
    pub how: &'static str,
    /// Run before, by somebody else.
    pub before: &'static [&'static str],
    /// Run before the deadline is set, in the same session.
    pub first: &'static [&'static str],
    /// What the deadline meets.
    pub act: Act,
    /// `t` when the effect is there; empty where nobody can see it.
    pub there: &'static str,
    /// Takes it away again.
    pub undo: &'static [&'static str],
    /// Nothing of it may be there before its commit.
    pub transactional: bool,
    /// It may be answered after the deadline: whoever looks after the server needs it, or nobody can stop it.
    pub allowed: bool,
    /// The versions that it is judged on: those that know it, and whose build for the tests has what it needs.
    pub on: &'static [u32],
}

/// Every supported version.
const MAJORS: &[u32] = &[15, 16, 17, 18];

/// What the rows find.
pub const CONTENTS: &[&str] = &[
    "CREATE TABLE known (i integer); INSERT INTO known VALUES (1)",
    "CREATE TABLE made (i integer, d integer DEFAULT 0)",
    "CREATE UNLOGGED TABLE quick (i integer)",
    "CREATE SEQUENCE numbers",
    "CREATE TABLE numbered (i serial)",
    "CREATE TABLE parts (i integer) PARTITION BY LIST (i); CREATE TABLE part PARTITION OF parts DEFAULT",
    "CREATE TABLE many AS SELECT i FROM generate_series(1, 20000) AS i; ALTER TABLE many SET (parallel_workers = 2); ANALYZE many",
    "CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS 'BEGIN INSERT INTO made VALUES (1); COMMIT; INSERT INTO made VALUES (1); COMMIT; END'",
    "CREATE FUNCTION locks() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(7); END'",
    "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO made VALUES (1); RETURN NULL; END'",
    "CREATE TABLE watched (i integer)",
    "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON watched DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()",
    "CREATE TABLE defaulted (i integer, d text DEFAULT pg_switch_wal()::text)",
    "SELECT lo_create(4242)",
];

pub const PLAIN: Row = Row {
    effect: "",
    how: "simple query",
    before: &[],
    first: &[],
    act: Act::Simple(""),
    there: "SELECT count(*) > 0 FROM made",
    undo: &["TRUNCATE made"],
    transactional: true,
    allowed: false,
    on: MAJORS,
};

pub const fn simple(effect: &'static str, sql: &'static str) -> Row {
    Row { effect, act: Act::Simple(sql), ..PLAIN }
}

/// Its effect can be seen by `there`, and taken away.
pub const fn seen(effect: &'static str, sql: &'static str, there: &'static str, undo: &'static [&'static str]) -> Row {
    Row { there, undo, ..simple(effect, sql) }
}

/// [`seen`], at once.
pub const fn at_once(
    effect: &'static str,
    sql: &'static str,
    there: &'static str,
    undo: &'static [&'static str],
) -> Row {
    Row { transactional: false, ..seen(effect, sql, there, undo) }
}

/// A function or a statement outside transactions; nobody else can see it.
pub const fn outside(effect: &'static str, sql: &'static str) -> Row {
    Row { there: "", undo: &[], transactional: false, ..simple(effect, sql) }
}

pub const fn after(first: &'static [&'static str], row: Row) -> Row {
    Row { first, ..row }
}

pub const fn by(how: &'static str, act: Act, row: Row) -> Row {
    Row { how, act, ..row }
}

pub const INSERT: &str = "INSERT INTO made VALUES (1)";
const PREPARED: &str = "SELECT count(*) > 0 FROM pg_prepared_xacts";
const RELATION: &str = "SELECT count(*) > 0 FROM pg_class WHERE relname = 'other'";
const NO_OTHER: &[&str] = &["DROP TABLE other"];
pub const SLOT: &str = "SELECT count(*) > 0 FROM pg_replication_slots WHERE slot_name = 'mine'";
const NO_SLOT: &[&str] = &["SELECT pg_drop_replication_slot('mine')"];
const BACK: &[&str] = &["ROLLBACK PREPARED 'mine'", "TRUNCATE made"];

/// All of them.
pub const ROWS: &[Row] = &[
    simple("INSERT", INSERT),
    by("extended query", Act::Pipeline(&[INSERT]), simple("INSERT", INSERT)),
    by("psql", Act::Psql(INSERT), simple("INSERT", INSERT)),
    by("pgbench", Act::Pgbench("INSERT INTO made VALUES (1);"), simple("INSERT", INSERT)),
    by("SQL of a walsender", Act::Walsender(INSERT), simple("INSERT", INSERT)),
    simple("INSERT ... RETURNING", "INSERT INTO made VALUES (1) RETURNING i"),
    seen("UPDATE", "UPDATE known SET i = 2", "SELECT i = 2 FROM known", &["UPDATE known SET i = 1"]),
    Row { before: &[INSERT], there: "SELECT count(*) = 0 FROM made", ..simple("DELETE", "DELETE FROM made") },
    Row { before: &[INSERT], there: "SELECT count(*) = 0 FROM made", ..simple("TRUNCATE", "TRUNCATE made") },
    simple("MERGE", "MERGE INTO made USING known ON false WHEN NOT MATCHED THEN INSERT VALUES (1)"),
    simple("WITH ... INSERT", "WITH new AS (INSERT INTO made VALUES (1) RETURNING i) SELECT i FROM new"),
    outside("SELECT FOR UPDATE", "SELECT * FROM known FOR UPDATE"),
    after(&["BEGIN", INSERT], simple("COMMIT", "COMMIT")),
    after(&["BEGIN", "SAVEPOINT one", INSERT, "RELEASE one"], simple("COMMIT after a savepoint", "COMMIT")),
    after(&["SET synchronous_commit = off"], simple("INSERT, synchronous_commit = off", INSERT)),
    after(&["SET synchronous_commit = local"], simple("INSERT, synchronous_commit = local", INSERT)),
    simple("two statements", "INSERT INTO made VALUES (1); INSERT INTO made VALUES (2)"),
    by("pipeline", Act::Pipeline(&[INSERT, "SELECT 1", INSERT]), simple("INSERTs and a SELECT", "")),
    by(
        "pgbench \\startpipeline",
        Act::Pgbench("\\startpipeline\nINSERT INTO made VALUES (1);\nINSERT INTO made VALUES (2);\n\\endpipeline\n"),
        simple("two INSERTs", ""),
    ),
    simple("procedure that commits", "CALL in_steps()"),
    simple(
        "DO block that commits",
        "DO $$ BEGIN INSERT INTO made VALUES (1); COMMIT; INSERT INTO made VALUES (1); END $$",
    ),
    after(&["BEGIN", "INSERT INTO watched VALUES (1)"], simple("deferred trigger", "COMMIT")),
    simple("INSERT into a partitioned table", "INSERT INTO parts VALUES (1); INSERT INTO made VALUES (1)"),
    after(&["BEGIN", INSERT], seen("PREPARE TRANSACTION", "PREPARE TRANSACTION 'mine'", PREPARED, BACK)),
    Row {
        before: &["BEGIN; INSERT INTO made VALUES (1); PREPARE TRANSACTION 'mine'"],
        undo: BACK,
        ..simple("COMMIT PREPARED", "COMMIT PREPARED 'mine'")
    },
    Row {
        before: &["BEGIN; INSERT INTO made VALUES (1); PREPARE TRANSACTION 'mine'"],
        there: "SELECT count(*) = 0 FROM pg_prepared_xacts",
        undo: BACK,
        ..simple("ROLLBACK PREPARED", "ROLLBACK PREPARED 'mine'")
    },
    by("COPY protocol", Act::CopyIn("COPY made (i) FROM STDIN", "1\n2\n"), simple("COPY FROM", "")),
    seen("CREATE TABLE", "CREATE TABLE other (i integer)", RELATION, NO_OTHER),
    seen("CREATE TABLE AS, parallel", "CREATE TABLE other AS SELECT i FROM many WHERE i % 7 = 0", RELATION, NO_OTHER),
    seen("CREATE INDEX", "CREATE INDEX other ON known (i)", RELATION, &["DROP INDEX other"]),
    seen(
        "CREATE INDEX CONCURRENTLY",
        "CREATE INDEX CONCURRENTLY other ON known (i)",
        "SELECT count(*) > 0 FROM pg_index WHERE indexrelid = to_regclass('other') AND indisvalid",
        &["DROP INDEX other"],
    ),
    seen(
        "CREATE DATABASE",
        "CREATE DATABASE other",
        "SELECT count(*) > 0 FROM pg_database WHERE datname = 'other'",
        &["DROP DATABASE other"],
    ),
    seen(
        "CREATE ROLE",
        "CREATE ROLE other",
        "SELECT count(*) > 0 FROM pg_roles WHERE rolname = 'other'",
        &["DROP ROLE other"],
    ),
    outside("CREATE TEMP TABLE", "CREATE TEMP TABLE mine (i integer)"),
    seen(
        "INSERT into an unlogged table",
        "INSERT INTO quick VALUES (1)",
        "SELECT count(*) > 0 FROM quick",
        &["TRUNCATE quick"],
    ),
    Row {
        // Only a value that has to be logged first makes its transaction durable.
        before: &["ALTER SEQUENCE numbers RESTART"],
        ..outside("nextval()", "SELECT nextval('numbers')")
    },
    outside("setval()", "SELECT setval('numbers', 1)"),
    seen(
        "serial column",
        "INSERT INTO numbered DEFAULT VALUES",
        "SELECT count(*) > 0 FROM numbered",
        &["TRUNCATE numbered"],
    ),
    outside("NOTIFY", "NOTIFY somebody"),
    outside("pg_notify()", "SELECT pg_notify('somebody', 'text')"),
    seen(
        "lo_create()",
        "SELECT lo_create(4343)",
        "SELECT count(*) > 0 FROM pg_largeobject_metadata WHERE oid = 4343",
        &["SELECT lo_unlink(4343)"],
    ),
    by(
        "function call",
        Act::Call(715, &[&[0, 0, 0x10, 0xf7]]),
        seen(
            "lo_create()",
            "",
            "SELECT count(*) > 0 FROM pg_largeobject_metadata WHERE oid = 4343",
            &["SELECT lo_unlink(4343)"],
        ),
    ),
    by(
        "psql, function calls",
        Act::Psql("\\lo_import /etc/hostname"),
        seen(
            "\\lo_import",
            "",
            "SELECT count(*) > 0 FROM pg_largeobject_metadata WHERE oid <> 4242",
            &["SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid <> 4242"],
        ),
    ),
    outside("lo_export()", "SELECT lo_export(4242, '/dev/null')"),
    outside("pg_logical_emit_message(true)", "SELECT pg_logical_emit_message(true, 'a', 'b')"),
    outside("pg_logical_emit_message(false)", "SELECT pg_logical_emit_message(false, 'a', 'b')"),
    at_once(
        "pg_create_logical_replication_slot()",
        "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')",
        SLOT,
        NO_SLOT,
    ),
    at_once(
        "pg_create_physical_replication_slot()",
        "SELECT pg_create_physical_replication_slot('mine')",
        SLOT,
        NO_SLOT,
    ),
    Row {
        before: &["SELECT pg_create_physical_replication_slot('mine')"],
        ..at_once(
            "pg_drop_replication_slot()",
            "SELECT pg_drop_replication_slot('mine')",
            "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = 'mine'",
            NO_SLOT,
        )
    },
    outside("pg_switch_wal()", "SELECT pg_switch_wal()"),
    outside("pg_create_restore_point()", "SELECT pg_create_restore_point('mine')"),
    outside("pg_backup_start()", "SELECT pg_backup_start('mine', true)"),
    outside("pg_advisory_lock()", "SELECT pg_advisory_lock(7)"),
    by(
        "prepared in a pipeline",
        Act::Pipeline(&["SELECT pg_try_advisory_lock(7)"]),
        outside("pg_try_advisory_lock()", ""),
    ),
    by("function call", Act::Call(2880, &[&[0, 0, 0, 0, 0, 0, 0, 7]]), outside("pg_advisory_lock()", "")),
    outside("pg_advisory_xact_lock() in PL/pgSQL", "SELECT locks()"),
    outside("pg_switch_wal() in a default expression", "INSERT INTO defaulted VALUES (1)"),
    by(
        "COPY protocol",
        Act::CopyIn("COPY defaulted (i) FROM STDIN", "1\n"),
        outside("pg_switch_wal() in a default expression", ""),
    ),
    outside("CHECKPOINT", "CHECKPOINT"),
    outside("VACUUM", "VACUUM known"),
    outside("ANALYZE", "ANALYZE known"),
    Row {
        transactional: false,
        ..seen(
            "ALTER SYSTEM",
            "ALTER SYSTEM SET work_mem = '5MB'",
            "SELECT count(*) > 0 FROM pg_file_settings WHERE name = 'work_mem'",
            &["ALTER SYSTEM RESET work_mem"],
        )
    },
    outside("read of a table", "SELECT * FROM known"),
    by("COPY protocol", Act::Simple("COPY known TO STDOUT"), outside("COPY TO of a table", "")),
    after(&["BEGIN", "DECLARE c CURSOR FOR SELECT * FROM known"], outside("FETCH of a cursor from before", "FETCH c")),
    after(
        &["DECLARE c CURSOR WITH HOLD FOR SELECT * FROM known"],
        outside("FETCH of a cursor WITH HOLD from before", "FETCH c"),
    ),
    after(
        &["BEGIN", INSERT, "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM known"],
        simple("COMMIT with a cursor WITH HOLD", "COMMIT"),
    ),
    outside("lo_get()", "SELECT lo_get(4242)"),
    Row {
        allowed: true,
        ..outside("read of catalogs and statistics", "SELECT count(*) FROM pg_class, pg_stat_activity")
    },
];
