//! The guards of the fence by name, so that it can be shown of each that a test fails without it (`make fence-mutants`).

macro_rules! guards {
    ($($guard:ident = $name:literal,)*) => {
        /// A guard. What each does, and what fails without it: `docs/fence-guards.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Guard { $($guard),* }

        /// All of them.
        #[cfg(debug_assertions)]
        pub const GUARDS: &[(Guard, &str)] = &[$((Guard::$guard, $name)),*];
    };
}

guards! {
    Deadline = "deadline",
    Marker = "marker",
    KeyLost = "key_lost",
    Reopen = "reopen",
    Login = "login",
    CommitClosed = "commit_closed",
    CommitSealed = "commit_sealed",
    HeldClosed = "held_closed",
    CommitCounted = "commit_counted",
    PreCommit = "pre_commit",
    PrePrepare = "pre_prepare",
    NotifyFunction = "notify_function",
    ForeignTable = "foreign_table",
    ForeignPartition = "foreign_partition",
    ForeignUtility = "foreign_utility",
    ForeignOrder = "foreign_order",
    QueryStart = "query_start",
    QueryRun = "query_run",
    QueryChanges = "query_changes",
    QueryLocks = "query_locks",
    QueryReads = "query_reads",
    QueryLargeObjects = "query_large_objects",
    Utility = "utility",
    UtilityCopy = "utility_copy",
    UtilityFetch = "utility_fetch",
    UtilityPrepared = "utility_prepared",
    UtilityLock = "utility_lock",
    Function = "function",
    FunctionReads = "function_reads",
    Dblink = "dblink",
    StandbyQuery = "standby_query",
    StandbyUtility = "standby_utility",
    StandbyFunction = "standby_function",
    OwedCommit = "owed_commit",
    OwedPrepare = "owed_prepare",
    OwedUtility = "owed_utility",
    OwedFunction = "owed_function",
    OwedCommand = "owed_command",
    Message = "message",
    Flush = "flush",
    FlushIfWritable = "flush_if_writable",
    ErrorAfterCommit = "error_after_commit",
    Cut = "cut",
    CutSocket = "cut_socket",
    Subscriber = "subscriber",
    Notification = "notification",
    Told = "told",
    Feedback = "feedback",
}

/// Whether this guard stands: always. Only a debug build can be started without one.
#[cfg(not(debug_assertions))]
pub const fn stands(_: Guard) -> bool {
    true
}

/// Whether this guard stands.
#[cfg(debug_assertions)]
pub fn stands(guard: Guard) -> bool {
    !crate::pg::debug::without(guard)
}
