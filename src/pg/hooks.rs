//! The callbacks through which the fence sees every commit and every statement.
#![allow(unsafe_code)]

use crate::fence;
use crate::guc::{FenceReads, fence_reads};
use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, c_char, c_void};
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

unsafe extern "C-unwind" {
    // SAFETY: neither can raise an error; declared here because they are on the path of every commit, where the binding's
    // error boundary would cost more than the call.
    safe fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
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
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
}

static PREVIOUS_UTILITY: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();
static PREVIOUS_EXECUTOR_START: OnceLock<pg_sys::ExecutorStart_hook_type> = OnceLock::new();

/// Registers the callbacks. Called once, by the postmaster; its children inherit them.
pub fn install() {
    // SAFETY: the callback lives as long as the library, and it needs no argument.
    unsafe { pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut()) };
    // SAFETY: the postmaster is single-threaded while it preloads libraries.
    PREVIOUS_UTILITY.get_or_init(|| unsafe { pg_sys::ProcessUtility_hook });
    // SAFETY: as above.
    unsafe { pg_sys::ProcessUtility_hook = Some(on_utility) };
    // SAFETY: as above.
    PREVIOUS_EXECUTOR_START.get_or_init(|| unsafe { pg_sys::ExecutorStart_hook });
    // SAFETY: as above.
    unsafe { pg_sys::ExecutorStart_hook = Some(on_executor_start) };
}

fn has_xid() -> bool {
    GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId
}

/// Before the commit record: an error. After it an error would be a PANIC: the connection is shut instead.
#[pg_guard]
extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent as E;
    match event {
        E::XACT_EVENT_PRE_COMMIT | E::XACT_EVENT_PARALLEL_PRE_COMMIT | E::XACT_EVENT_PRE_PREPARE if has_xid() => {
            fence::check_commit();
        }
        E::XACT_EVENT_COMMIT | E::XACT_EVENT_PREPARE if has_xid() && fence::closed() => cut_client(),
        _ => {}
    }
}

/// Makes sure that nothing more reaches the client: it sees a lost connection, and the outcome is unknown to it.
fn cut_client() {
    // SAFETY: a plain variable of this process.
    let port = unsafe { pg_sys::MyProcPort };
    if port.is_null() {
        return;
    }
    // SAFETY: the socket is the first field of `Port`, which the bindings declare opaque.
    let socket = unsafe { *port.cast::<pg_sys::pgsocket>() };
    if socket < 0 {
        return;
    }
    // SAFETY: the client's socket is open as long as this process serves it.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    // It fails only if the client has gone, which is as good.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// Statements that change nothing durable by themselves: what runs inside them is checked when it runs or commits.
/// Everything else is refused while the fence is closed, so that a statement nobody thought of is.
fn harmless(statement: Statement) -> bool {
    use pg_sys::NodeTag as T;
    match statement.tag {
        T::T_TransactionStmt => !statement.finishes_prepared(),
        T::T_CopyStmt => statement.copies_out_safely(),
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
        | T::T_LockStmt
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

    /// A COPY TO of a query, which the executor checks, or of a table, which is a read that the executor does not see.
    fn copies_out_safely(self) -> bool {
        // SAFETY: only called when the tag says that it is one.
        let copy = unsafe { &*self.node.cast::<pg_sys::CopyStmt>() };
        !copy.is_from && (copy.relation.is_null() || fence_reads() == FenceReads::Allow)
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
    let finishes_prepared = check_utility(planned);
    let next = PREVIOUS_UTILITY.get().copied().flatten().unwrap_or(standard_ProcessUtility);
    // SAFETY: the next in line, with the arguments as they came.
    unsafe { next(planned, query, read_only_tree, context, params, environment, destination, completion) };
    // COMMIT PREPARED is durable now, but has no xid of its own that the transaction callback could see.
    if finishes_prepared && fence::closed() {
        cut_client();
    }
}

/// Refuses a statement if it must be. Returns whether it finishes a prepared transaction.
#[pg_guard]
extern "C-unwind" fn check_utility(planned: *mut pg_sys::PlannedStmt) -> bool {
    let statement = Statement::of(planned);
    if !RecoveryInProgress() && fence::closed() && !harmless(statement) {
        fence::check_statement(&statement.name());
    }
    statement.finishes_prepared()
}

/// Not guarded, for the same reason as [`on_utility`].
unsafe extern "C-unwind" fn on_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    if !RecoveryInProgress() && fence::closed() {
        check_query(query);
    }
    let next = PREVIOUS_EXECUTOR_START.get().copied().flatten().unwrap_or(standard_ExecutorStart);
    // SAFETY: the next in line, with the arguments as they came.
    unsafe { next(query, flags) };
}

/// A query on a primary without a lease: changes are refused before they reach a foreign server, and reads of user
/// tables unless they are allowed. Catalogs and functions stay usable, for whoever has to look at this server.
#[pg_guard]
extern "C-unwind" fn check_query(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the server hands over a valid query.
    let plan = unsafe { (*query).plannedstmt };
    // SAFETY: every query has its plan.
    let plan = unsafe { &*plan };
    if plan.commandType != pg_sys::CmdType::CMD_SELECT || plan.hasModifyingCTE || !plan.rowMarks.is_null() {
        fence::check_statement("a statement that changes data");
    }
    if fence_reads() == FenceReads::Refuse && reads_user_table(plan.rtable) {
        fence::check_statement("a read");
    }
}

fn reads_user_table(range_table: *mut pg_sys::List) -> bool {
    // SAFETY: null or a list of the server.
    let Some(list) = (unsafe { range_table.as_ref() }) else { return false };
    let length = usize::try_from(list.length).unwrap_or(0);
    // SAFETY: a list has `length` initialised cells.
    let cells = unsafe { std::slice::from_raw_parts(list.elements, length) };
    cells.iter().any(|cell| {
        // SAFETY: a range table is a list of pointers.
        let entry = unsafe { cell.ptr_value }.cast::<pg_sys::RangeTblEntry>();
        // SAFETY: to range table entries.
        let entry = unsafe { &*entry };
        entry.rtekind == pg_sys::RTEKind::RTE_RELATION
            && entry.relid.to_u32() >= pg_sys::FirstNormalObjectId
            && entry.relkind.cast_unsigned() != pg_sys::RELKIND_VIEW
    })
}
