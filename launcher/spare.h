/* How much memory this host can spare for a job. */
#ifndef LAUNCHER_SPARE_H
#define LAUNCHER_SPARE_H

#include <stdint.h>

#include "common/err.h"

/*
 * What all processes of a job may hold together: what the kernel says is available, or less where
 * our cgroup or one above it has a limit, minus a reserve of a sixteenth, 256 MiB at least, for
 * what else goes on. 0 bytes when nothing is left. -errno when the host does not tell.
 */
int spare_memory(uint64_t *ret_bytes, struct err *err);

/* The same, of files laid out as proc's meminfo and as the cgroup `dir` below `point`; either may
 * be NULL for no cgroup. */
int spare_memory_of(const char *meminfo, const char *dir, const char *point, uint64_t *ret_bytes,
		    struct err *err);

#endif
