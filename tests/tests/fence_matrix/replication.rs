//! Replication commands. What a standby needs goes on, since it has to receive the end of the log; what a subscriber is told is
//! what a failover may lose.

use crate::rows::{Act, Row, SLOT, at_once};

const LOGICAL: &[&str] = &["SELECT pg_create_logical_replication_slot('mine', 'pgoutput')"];
const PHYSICAL: &[&str] = &["SELECT pg_create_physical_replication_slot('mine')"];
/// A walsender may need a moment to leave.
const NO_SLOT: &[&str] = &[
    "DO $$ BEGIN FOR i IN 1..100 LOOP \
     EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'mine' AND active); \
     PERFORM pg_sleep(0.05); END LOOP; END $$",
    "SELECT pg_drop_replication_slot('mine')",
];
const GONE: &str = "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = 'mine'";

/// By a connection to a database, which is what subscribers have.
const fn subscriber(effect: &'static str, command: &'static str) -> Row {
    Row { how: "subscriber", act: Act::Replication("database", command), undo: NO_SLOT, ..at_once(effect, "", "", &[]) }
}

/// By a connection without a database; it goes on.
const fn standby(effect: &'static str, command: &'static str) -> Row {
    Row { how: "standby", act: Act::Replication("true", command), allowed: true, ..subscriber(effect, "") }
}

/// All of them.
pub const ROWS: &[Row] = &[
    Row {
        there: SLOT,
        ..subscriber("CREATE_REPLICATION_SLOT LOGICAL", "CREATE_REPLICATION_SLOT mine LOGICAL pgoutput")
    },
    Row { before: LOGICAL, there: GONE, ..subscriber("DROP_REPLICATION_SLOT", "DROP_REPLICATION_SLOT mine") },
    Row {
        before: LOGICAL,
        there: "SELECT failover FROM pg_replication_slots WHERE slot_name = 'mine'",
        on: &[17, 18],
        ..subscriber("ALTER_REPLICATION_SLOT", "ALTER_REPLICATION_SLOT mine (FAILOVER true)")
    },
    Row {
        before: LOGICAL,
        ..subscriber(
            "START_REPLICATION LOGICAL",
            "START_REPLICATION SLOT mine LOGICAL 0/0 (proto_version '1', publication_names 'nothing')",
        )
    },
    Row { allowed: true, ..subscriber("IDENTIFY_SYSTEM", "IDENTIFY_SYSTEM") },
    Row {
        there: SLOT,
        ..standby("CREATE_REPLICATION_SLOT PHYSICAL", "CREATE_REPLICATION_SLOT mine PHYSICAL RESERVE_WAL")
    },
    Row { before: PHYSICAL, there: GONE, ..standby("DROP_REPLICATION_SLOT", "DROP_REPLICATION_SLOT mine") },
    Row { before: PHYSICAL, ..standby("READ_REPLICATION_SLOT", "READ_REPLICATION_SLOT mine") },
    standby("START_REPLICATION PHYSICAL", "START_REPLICATION PHYSICAL {flushed}"),
    Row {
        before: &["COPY (SELECT E'1\\t0/0\\tmine') TO PROGRAM 'cat >pg_wal/00000009.history'"],
        undo: &["COPY (SELECT 1) TO PROGRAM 'rm -f pg_wal/00000009.history'"],
        ..standby("TIMELINE_HISTORY", "TIMELINE_HISTORY 9")
    },
    standby("BASE_BACKUP", "BASE_BACKUP (CHECKPOINT 'fast')"),
];
