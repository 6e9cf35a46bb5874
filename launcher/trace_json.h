/*
 * A job's trace as a file: JSON in the Trace Event Format that Perfetto and chrome://tracing open.
 * A process for each rank's worker and for its session with the daemon, a thread for each lane;
 * complete events ("X"), sorted by time. Times are microseconds since the first event.
 *
 * Events of a queue may overlap, which threads' may not: they are spread over as many threads as it
 * takes, "swap /nvme", "swap /nvme (2)" and so on.
 */
#ifndef LAUNCHER_TRACE_JSON_H
#define LAUNCHER_TRACE_JSON_H

#include "common/err.h"
#include "launcher/trace_job.h"
#include "launcher/trace_table.h"

/*
 * Of a job that was finished; its table goes in too, as otherData. Written atomically. -ENOMEM, or
 * what file_replace returns.
 */
int trace_json_write(const char *path, const struct trace_job *job, const struct trace_table *table,
		     struct err *err);

#endif
