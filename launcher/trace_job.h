/*
 * The trace of a job, as dsrun gathers it from its ranks' reports: for each rank what the worker
 * and what the daemon recorded of its session. trace_table.h sums it up, trace_json.h writes it.
 *
 * Clocks. Events come with CLOCK_MONOTONIC of their host, which is the same for all processes of
 * it; a job has one host. Where there are several, each rank's times would be shifted here by what
 * the link's round trip tells of its host's clock.
 */
#ifndef LAUNCHER_TRACE_JOB_H
#define LAUNCHER_TRACE_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/trace.h"
#include "offload/plan.h"

/* Events of a whole job that are kept; further ones are counted. Some 300 MiB as JSON. */
#define TRACE_JOB_EVENTS_MAX ((size_t)1 << 21)

struct trace_item {
	uint64_t begin_ns, end_ns, bytes;
	uint32_t unit;
	uint16_t id;   /* of its name, in its set */
	uint8_t state; /* enum trace_state */
};

struct trace_set_lane {
	char *name; /* NULL: not declared */
	enum trace_kind kind;
	struct trace_item *items; /* after trace_job_finish by begin, longer ones first */
	size_t count, room;
	uint64_t dropped, refused; /* events: where it was recorded, and here */
};

/* One process's part: a worker's, or the daemon's of that worker's session. */
struct trace_set {
	unsigned rank;
	bool daemon;
	struct trace_set_lane *lanes;
	size_t lane_count;
	char **names; /* [TRACE_NAME_IDS]; NULL before the first */
	bool broken;  /* something of it made no sense, or found no memory: the rest is ignored */
};

struct trace_job {
	unsigned world;
	struct trace_set *sets; /* [2 * world]: each rank's worker, then its session */
	size_t event_count, event_max;
	/* A unit's number by the daemon's, which counts only those whose state it has. */
	uint32_t *daemon_units;
	size_t daemon_unit_count;
};

/* Of a job with this plan, which is read now. -ENOMEM. */
int trace_job_open(unsigned world, const struct plan *plan, struct trace_job **ret,
		   struct err *err);

/* NULL is fine. Returns NULL. */
struct trace_job *trace_job_free(struct trace_job *job);

/*
 * One REPORT_TRACE of a rank (below the world). ERR_PROTOCOL when it makes no sense, -ENOMEM: what
 * was understood before stays, and what follows of the same process is ignored.
 */
int trace_job_take(struct trace_job *job, unsigned rank, const char *text, size_t len,
		   struct err *err);

/* No report comes any more: brings each lane's events into order. */
void trace_job_finish(struct trace_job *job);

/* "rank 3", "dsoffloadd (rank 3's session)" */
#define TRACE_SET_NAME_BYTES 48
const char *trace_set_name(const struct trace_set *set, char text[TRACE_SET_NAME_BYTES]);

#endif
