/*
 * What a session that is traced records: its own thread, the pool threads while they work for it,
 * and each of its swap queues. Lanes are opened by the main thread before the session's starts;
 * then each lane has the writer below; the main thread takes out, and sends (conn.c).
 *
 *	session         the session's thread     busy serving, or waiting with operations pending
 *	adam-N          that pool thread         a chunk's arithmetic; other sessions' are not here
 *	swap DIRECTORY  the session's thread     a transfer, from the kernel's hands and back
 *
 * Invariants
 *  1. A session sees nothing of another: lanes are its own, also those of shared threads.
 *  2. The memory is bounded by the counts below, whatever the peer does. It is not of the session's
 *     quota, as its tables of operations are not, and is touched only as far as it is used.
 */
#include "daemon/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/*
 * Events between two questions of the worker's, which come every step or oftener. A step of 2^16
 * transfers a queue moves 256 GiB in extents of 4 MiB.
 */
#define QUEUE_EVENTS  65536u
#define THREAD_EVENTS 16384u
/* Of all pool threads' lanes together: 20 MiB, that is. */
#define POOL_EVENTS     524288u
#define POOL_EVENTS_MIN 512u /* of one */

static const char *const read_names[PART_COUNT] = {
	[PART_PARAM] = "read parameters",
	[PART_STATE] = "read optimizer state",
	[PART_GRAD] = "read gradient",
};

static const char *const write_names[PART_COUNT] = {
	[PART_PARAM] = "write parameters",
	[PART_STATE] = "write optimizer state",
	[PART_GRAD] = "write gradient",
};

static const char *const op_names[] = {
	[PROTOCOL_OP_GRAD] = "gradient",
	[PROTOCOL_OP_STEP] = "step",
	[PROTOCOL_OP_IMPORT] = "import",
	[PROTOCOL_OP_EXPORT] = "export",
};

static uint32_t thread_capacity(unsigned threads)
{
	uint32_t capacity = THREAD_EVENTS;

	while (capacity > POOL_EVENTS_MIN && capacity > POOL_EVENTS / threads)
		capacity /= 2;
	return capacity;
}

static int threads_open(struct session_trace *t, unsigned threads, struct err *err)
{
	char name[32];
	int rc = 0;

	t->threads = calloc(threads, sizeof(struct trace_lane *));
	if (!t->threads)
		return err_sys(err, -ENOMEM, "allocating a session's trace");
	for (unsigned i = 0; i < threads && rc == 0; i++) {
		snprintf(name, sizeof(name), "adam-%u", i);
		rc = trace_lane_open(t->recorder, TRACE_THREAD, name, thread_capacity(threads),
				     &t->threads[i], err);
	}
	return rc;
}

static int queues_open(struct session_trace *t, const struct session_plan *p, struct err *err)
{
	char name[PROTOCOL_PATH_BYTES + 8];
	int rc = 0;

	for (uint32_t i = 0; p->object_count > 0 && i < p->open.path_count && rc == 0; i++) {
		snprintf(name, sizeof(name), "swap %s", p->open.paths[i]);
		rc = trace_lane_open(t->recorder, TRACE_QUEUE, name, QUEUE_EVENTS, &t->queues[i],
				     err);
	}
	return rc;
}

int session_trace_open(struct session *s, struct err *err)
{
	struct session_trace *t = &s->trace;
	int rc;

	if (!(s->plan->open.flags & PROTOCOL_OPEN_TRACE))
		return 0;
	rc = trace_open(&t->recorder, err);
	if (rc == 0)
		rc = trace_lane_open(t->recorder, TRACE_THREAD, "session", QUEUE_EVENTS,
				     &t->session, err);
	if (rc == 0)
		rc = threads_open(t, pool_threads(s->pool), err);
	return rc < 0 ? rc : queues_open(t, s->plan, err);
}

void session_trace_free(struct session *s)
{
	free(s->trace.threads);
	s->trace.recorder = trace_free(s->trace.recorder);
}

void session_trace_transfer(const struct task *t, const struct nvme_io *io)
{
	const struct session_plan *p = t->session->plan;
	size_t part = (size_t)(io - t->io);
	struct trace_event event = {
		.name = io->write ? write_names[part] : read_names[part],
		.begin_ns = io->started_ns,
		.end_ns = io->ended_ns,
		.bytes = io->len,
		.unit = t->unit ? (uint32_t)(t->unit - p->units) : TRACE_NO_UNIT,
		.state = TRACE_BUSY,
	};

	if (io->started_ns == 0 || io->ended_ns == 0)
		return;
	if (!t->unit)
		event.name = io->write ? "write blob" : "read blob";
	trace_add(t->session->trace.queues[io->path], &event);
}

void session_trace_compute(const struct task *t, uint64_t began_ns)
{
	const struct session_plan *p = t->session->plan;

	if (began_ns == 0)
		return;
	trace_end(t->session->trace.threads[t->job.thread], TRACE_BUSY, op_names[t->op->sub.op],
		  began_ns, t->op->sub.unit,
		  session_part_bytes(p, PART_PARAM, unit_chunk_elems(p, t->op->unit, t->chunk)));
}

void session_trace_wait(struct session *s, uint64_t began_ns)
{
	const char *what = "the disk, optimizer threads";

	if (s->io_busy == 0)
		what = s->jobs_busy > 0 ? "optimizer threads" : "the worker";
	else if (s->jobs_busy == 0)
		what = "the disk";
	trace_end(s->trace.session, TRACE_WAIT, what, began_ns, TRACE_NO_UNIT, 0);
}
