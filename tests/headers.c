/*
 * What src/pg declares by hand, since the bindings lack it or would put an error boundary around it, and what the
 * supervisor knows of the control file, held against the headers of a server: the compiler refuses what differs.
 * Not run; scripts/headers.sh compiles it.
 */
#include "postgres.h"

/* Their headers need not be there; what is asked below lies before what they add. */
#undef USE_OPENSSL
#undef ENABLE_GSS
#undef ENABLE_SSPI

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "catalog/pg_largeobject.h"
#include "executor/executor.h"
#include "libpq/auth.h"
#include "libpq/libpq-be.h"
#include "postmaster/bgwriter.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/utility.h"

/* hooks */
extern void (*ClientAuthentication_hook) (Port *port, int status);
StaticAssertDecl(offsetof(Port, sock) == 0, "the socket is the first field of Port");
StaticAssertDecl(sizeof(pgsocket) == sizeof(int), "a socket is a number");
StaticAssertDecl(LargeObjectRelationId == 2613, "the catalog with large objects");
extern TransactionId GetTopTransactionIdIfAny(void);
extern bool RecoveryInProgress(void);
extern void standard_ProcessUtility(PlannedStmt *planned, const char *query, bool read_only_tree,
									ProcessUtilityContext context, ParamListInfo params,
									QueryEnvironment *environment, DestReceiver *destination,
									QueryCompletion *completion);
extern void standard_ExecutorStart(QueryDesc *query, int flags);

/* latch.rs */
extern void SetLatch(Latch *latch);

/* locks.rs */
extern const char *GetLWLockIdentifier(uint32 class, uint16 number);

/* process.rs */
extern void proc_exit(int code) __attribute__((noreturn));

/* wal.rs */
extern void RequestCheckpoint(int flags);

/* bootstrap/src/control_data.rs */
#define AT(field, offset) StaticAssertDecl(offsetof(ControlFileData, field) == (offset), #field " lies elsewhere")
AT(system_identifier, 0);
AT(pg_control_version, 8);
AT(state, 16);
AT(checkPoint, 32);
AT(checkPointCopy.redo, 40);
AT(checkPointCopy.ThisTimeLineID, 48);
AT(minRecoveryPoint, 136);
AT(minRecoveryPointTLI, 144);
AT(wal_log_hints, 176);
AT(MaxConnections, 180);
AT(max_worker_processes, 184);
AT(max_wal_senders, 188);
AT(max_prepared_xacts, 192);
AT(max_locks_per_xact, 196);
AT(xlog_seg_size, 228);
AT(data_checksum_version, 252);
StaticAssertDecl(PG_CONTROL_VERSION == (PG_VERSION_NUM < 170000 ? 1300 : PG_VERSION_NUM < 180000 ? 1700 : 1800),
				 "another version of the control file");
AT(crc, PG_VERSION_NUM < 180000 ? 288 : 292);
StaticAssertDecl(DB_SHUTDOWNED == 1 && DB_SHUTDOWNED_IN_RECOVERY == 2 && DB_SHUTDOWNING == 3
				 && DB_IN_CRASH_RECOVERY == 4 && DB_IN_ARCHIVE_RECOVERY == 5 && DB_IN_PRODUCTION == 6,
				 "other numbers of states");
