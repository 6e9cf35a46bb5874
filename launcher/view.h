/*
 * What dsrun knows of a running job, rank by rank, and how it shows it: prefixes, tee, reports. Fed
 * with the agent's frames by supervise.c, in its thread.
 */
#ifndef LAUNCHER_VIEW_H
#define LAUNCHER_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "launcher/lines.h"
#include "launcher/link.h"
#include "launcher/outcome.h"
#include "launcher/screen.h"
#include "launcher/trace_job.h"

struct view_rank {
	char prefix[24];
	uint32_t pid; /* 0: not started */
	bool ended;
	struct link_exited exited;
	char cores[LINK_SET_BYTES];
	char *said; /* its REPORT_FAILURE; NULL */
	struct lines lines[2];
	struct tail tail;
	int tee_fds[2]; /* -1: none */
};

struct job_view {
	struct screen screen;
	bool quiet;
	unsigned world;
	struct view_rank *ranks; /* [world], then the daemon */
	char host[LINK_HOST_BYTES];
	struct tail agent_tail; /* what the agent itself printed */
	bool failed;
	struct link_failure failure;
	uint32_t failed_rank;
	char *failure_text;
	char *summary;
	struct trace_job *trace; /* borrowed; NULL: nobody traces */
};

/* ERR_CANTCREAT when a file of `tee` (NULL: none) cannot be made. */
int view_open(unsigned world, bool quiet, const char *tee, struct job_view **ret, struct err *err);
struct job_view *view_free(struct job_view *view);

/* One frame but HELLO and DONE. ERR_PROTOCOL for one that makes no sense. */
int view_take(struct job_view *view, const struct link_frame *frame, struct err *err);

/* Lines without an end come out; files are closed. */
void view_finish(struct job_view *view);

/* A line of dsrun's own, on standard error. */
void view_say(struct job_view *view, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Fills in what is known of the first failure and its consequences. */
void view_outcome(const struct job_view *view, struct outcome *ret);

#endif
