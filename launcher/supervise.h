/* dsrun's side of a running job: its agent, its output, its signals, its end. */
#ifndef LAUNCHER_SUPERVISE_H
#define LAUNCHER_SUPERVISE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "launcher/launch.h"
#include "launcher/outcome.h"
#include "launcher/trace_job.h"

struct supervise {
	const struct launch *launch;
	bool quiet;
	const char *tee; /* directory for whole output, or NULL */
	uint64_t stop_timeout_ns;
	struct trace_job *trace; /* gathers the ranks' trace; NULL: nobody traces */
};

struct job_view; /* what the outcome borrows from */

/*
 * Runs the job to its end, whatever that is; nothing of it is left when this returns. *ret is
 * always whole. The view must be freed after the last use of *ret.
 */
struct job_view *supervise_run(const struct supervise *config, struct outcome *ret);

/* Shows what is not shown yet, however long the terminal takes. NULL is fine. */
void supervise_flush(struct job_view *view);
struct job_view *supervise_free(struct job_view *view);

/* An outcome for a failure before, or instead of, a run. */
void supervise_fail(struct outcome *ret, const struct err *err);

#endif
