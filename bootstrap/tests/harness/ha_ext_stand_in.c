/*
 * Stands in for the extension where only the supervisor's steps are tested: these servers must take writes without
 * a cluster around them. It takes the tenancy lock as the extension does, and nothing else.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/file.h>

#include "fmgr.h"
#include "miscadmin.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	int			fd;

	if (!process_shared_preload_libraries_in_progress)
		return;
	fd = open(DataDir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0)
		ereport(FATAL, (errmsg("the tenancy lock of the data directory is taken")));
}
