//! Utility statements: what changes something durable, or reads behind the executor's back.
#![allow(unsafe_code)]

use super::commit::stand_first;
use super::{executor, protocol};
use crate::fence::{self, Guard, stands};
use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

unsafe extern "C-unwind" {
    // SAFETY: it cannot raise an error.
    safe fn RecoveryInProgress() -> bool;
    // SAFETY: declared here because the binding would catch and rebuild every error, and lose fields on the way.
    fn standard_ProcessUtility(
        planned: *mut pg_sys::PlannedStmt,
        query: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

static PREVIOUS_UTILITY: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();

pub fn install() {
    // SAFETY: the postmaster is single-threaded while it preloads libraries.
    PREVIOUS_UTILITY.get_or_init(|| unsafe { pg_sys::ProcessUtility_hook });
    // SAFETY: as above.
    unsafe { pg_sys::ProcessUtility_hook = Some(on_utility) };
}

/// Statements that change nothing durable by themselves: what runs inside them is checked when it runs or commits.
/// Everything else is refused while the fence is closed, so that a statement nobody thought of is.
fn harmless(statement: Statement) -> bool {
    use pg_sys::NodeTag as T;
    match statement.tag {
        T::T_TransactionStmt => !statement.finishes_prepared(),
        T::T_CopyStmt => statement.copies_out(),
        T::T_LockStmt => !statement.locks_others_out(),
        T::T_VariableSetStmt
        | T::T_VariableShowStmt
        | T::T_PrepareStmt
        | T::T_ExecuteStmt
        | T::T_DeallocateStmt
        | T::T_DeclareCursorStmt
        | T::T_FetchStmt
        | T::T_ClosePortalStmt
        | T::T_ExplainStmt
        | T::T_DiscardStmt
        | T::T_ListenStmt
        | T::T_UnlistenStmt
        | T::T_LoadStmt
        | T::T_ConstraintsSetStmt
        | T::T_DoStmt
        | T::T_CallStmt => true,
        _ => false,
    }
}

/// A utility statement.
#[derive(Clone, Copy)]
struct Statement {
    tag: pg_sys::NodeTag,
    node: *mut pg_sys::Node,
}

// A node of the server is aligned as what its tag says it is.
#[allow(clippy::cast_ptr_alignment)]
impl Statement {
    fn of(planned: *mut pg_sys::PlannedStmt) -> Self {
        // SAFETY: the server hands over a valid statement.
        let node = unsafe { (*planned).utilityStmt };
        // SAFETY: whose utility statement is not null.
        Self { tag: unsafe { (*node).type_ }, node }
    }

    fn finishes_prepared(self) -> bool {
        use pg_sys::TransactionStmtKind as K;
        if self.tag != pg_sys::NodeTag::T_TransactionStmt {
            return false;
        }
        // SAFETY: the tag says that it is one.
        let kind = unsafe { (*self.node.cast::<pg_sys::TransactionStmt>()).kind };
        matches!(kind, K::TRANS_STMT_COMMIT_PREPARED | K::TRANS_STMT_ROLLBACK_PREPARED)
    }

    /// A COPY TO of a table, which is a read that the executor does not see.
    fn reads_table(self) -> bool {
        self.tag == pg_sys::NodeTag::T_CopyStmt && {
            // SAFETY: the tag says that it is one.
            let copy = unsafe { &*self.node.cast::<pg_sys::CopyStmt>() };
            !copy.is_from && !copy.relation.is_null()
        }
    }

    /// COPY TO: of a query, which the executor checks, or of a table.
    fn copies_out(self) -> bool {
        // SAFETY: a statement is what its tag says.
        self.tag == pg_sys::NodeTag::T_CopyStmt && !unsafe { (*self.node.cast::<pg_sys::CopyStmt>()).is_from }
    }

    /// LOCK in a mode that keeps writers or readers away: its client relies on being alone, as with an advisory lock. A copy of
    /// the whole database locks every table in the weakest mode.
    fn locks_others_out(self) -> bool {
        stands(Guard::UtilityLock) && self.tag == pg_sys::NodeTag::T_LockStmt && {
            // SAFETY: the tag says that it is one.
            let mode = unsafe { (*self.node.cast::<pg_sys::LockStmt>()).mode };
            mode.cast_unsigned() > pg_sys::AccessShareLock
        }
    }

    /// A cursor that outlived its transaction: its rows were set aside, and the executor does not see them go.
    fn fetches_kept_rows(self) -> bool {
        if self.tag != pg_sys::NodeTag::T_FetchStmt {
            return false;
        }
        // SAFETY: the tag says that it is one.
        let name = unsafe { (*self.node.cast::<pg_sys::FetchStmt>()).portalname };
        // SAFETY: a C string of the parse tree.
        let portal = unsafe { pg_sys::GetPortalByName(name) };
        // SAFETY: null or a cursor of this session.
        unsafe { portal.as_ref() }.is_some_and(|portal| !portal.holdStore.is_null())
    }

    /// Its effect does not wait for a commit.
    fn has_no_transaction(self) -> bool {
        use pg_sys::NodeTag as T;
        matches!(self.tag, T::T_CheckPointStmt | T::T_AlterSystemStmt | T::T_VacuumStmt | T::T_LockStmt)
    }

    fn name(self) -> String {
        // SAFETY: a parse tree of the server.
        let tag = unsafe { pg_sys::CreateCommandTag(self.node) };
        // SAFETY: the tag comes from the server.
        let name = unsafe { pg_sys::GetCommandTagName(tag) };
        // SAFETY: a constant C string of the server.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }
}

/// Not guarded, so that an error of the statement passes through as the server raised it, with all its fields: nothing in
/// this frame needs to be dropped.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn on_utility(
    planned: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // Asked first: the tree may be gone afterwards.
    let acts = check_utility(planned);
    let next = PREVIOUS_UTILITY.get().copied().flatten().unwrap_or(standard_ProcessUtility);
    // SAFETY: the next in line, with the arguments as they came.
    unsafe { next(planned, query, read_only_tree, context, params, environment, destination, completion) };
    if acts != Acts::Nowhere {
        answer(acts);
    }
}

/// What a statement changes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Acts {
    /// Nothing, or what its transaction is asked about.
    Nowhere,
    /// It may act outside its transaction, or at its end: COPY and TRUNCATE of foreign tables, NOTIFY, and whatever is not known.
    Somehow,
    /// It does not wait for a commit: CHECKPOINT, ALTER SYSTEM, VACUUM, LOCK.
    AtOnce,
}

/// The statement is done.
#[pg_guard]
extern "C-unwind" fn answer(acts: Acts) {
    if acts == Acts::Somehow {
        // Its commit is asked in any case, and an answer is owed from then on.
        if stands(Guard::ForeignUtility) {
            stand_first();
        }
        return;
    }
    if stands(Guard::OwedUtility) {
        protocol::owe();
    }
    #[cfg(debug_assertions)]
    crate::pg::debug::reached(crate::pg::debug::Point::Flushed);
}

/// Refuses a statement if it must be. Returns what it changes.
#[pg_guard]
extern "C-unwind" fn check_utility(planned: *mut pg_sys::PlannedStmt) -> Acts {
    let statement = Statement::of(planned);
    if RecoveryInProgress() {
        if stands(Guard::StandbyUtility) && (statement.reads_table() || statement.fetches_kept_rows()) {
            executor::check_standby_read();
        }
        return Acts::Nowhere;
    }
    if statement.finishes_prepared() {
        if stands(Guard::UtilityPrepared) {
            fence::pass();
        }
        // What has passed owes its answer when its transaction ends, though that has no id.
        return Acts::Nowhere;
    }
    if fence::closed() {
        if !harmless(statement) && stands(Guard::Utility) {
            fence::check_statement(&statement.name());
        }
        let reads = (stands(Guard::UtilityCopy) && statement.reads_table())
            || (stands(Guard::UtilityFetch) && statement.fetches_kept_rows());
        if reads && executor::reads_refused() {
            fence::check_statement("a read");
        }
    }
    if harmless(statement) {
        return Acts::Nowhere;
    }
    if statement.has_no_transaction() {
        #[cfg(debug_assertions)]
        crate::pg::debug::reached(crate::pg::debug::Point::InCommit);
        return Acts::AtOnce;
    }
    Acts::Somehow
}
