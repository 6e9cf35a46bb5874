/*
 * A session from inside: what its thread (session.c), the operations' state machine (pipeline.c)
 * and the arithmetic on chunks (compute.c) share. All of it belongs to the session's thread, but
 * for what is marked atomic and for a task's chunk while a pool thread works on it.
 */
#ifndef DAEMON_INTERNAL_H
#define DAEMON_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/ring.h"
#include "common/trace.h"
#include "daemon/pool.h"
#include "daemon/session.h"
#include "daemon/session_plan.h"
#include "kernels/optimizer.h"
#include "nvme/nvme.h"
#include "offload/protocol.h"

#define PART_BIT(part) (1u << (part))

struct op;
struct early;

/* The operations on one unit or one blob, which take effect in turn: the head is active. */
struct lane {
	struct op *head, *tail;
	/* Of a unit: whether a chunk of the first FETCH behind the head, or of the head, has been
	 * handed over. */
	bool *handed;
};

/* How an operation moves and works; what op_plan (pipeline.c) made of the submission. */
struct op {
	struct protocol_submission sub; /* checked */
	struct lane *lane;
	const struct unit_plan *unit; /* NULL for blobs */
	struct op *next;              /* in its lane, or in the free list */
	struct op *active_prev, *active_next;

	uint8_t reads, writes; /* sets of PART_BIT: parts that are in swap */
	bool compute;          /* a pool thread has work between reads and writes */
	bool buffered;         /* its transfers and its work go through a chunk buffer */
	uint32_t object;       /* not buffered, reads or writes: where to ... */
	uint64_t stride_bytes; /* ... and how far apart its chunks are in the arena */
	struct optimizer_scalars scalars;

	uint64_t first, count;    /* chunks, or extents of a blob */
	uint64_t started, handed; /* of `count`; a FETCH's from the step before it */
	uint32_t tasks;           /* under way */
};

/* Whether a task was read ahead of its operation; early.c has the picture. */
enum early_state { EARLY_NONE, EARLY_READING, EARLY_HELD, EARLY_DROPPED, EARLY_TAKEN };

/* One chunk of an operation on its way: reads, work, writes. */
struct task {
	struct session *session;
	struct op *op;                /* NULL while it is read ahead, or held */
	const struct unit_plan *unit; /* NULL for blobs */
	struct task *next; /* in the free list, its unit's of those read ahead, or writes */
	uint64_t chunk;
	uint8_t *buffer; /* NULL unless op->buffered */
	enum early_state early;
	struct op *fetch; /* takes the parameters that the step makes; NULL: nobody does */
	bool reading;     /* one of reads_busy */
	enum { TASK_READ, TASK_COMPUTE, TASK_WRITE } phase;
	unsigned transfers; /* that have not completed */
	struct nvme_io io[PART_COUNT];
	struct pool_job job;
};

/* Where a session that is traced records: all NULL in one that is not. */
struct session_trace {
	struct trace *recorder; /* the main thread's */
	struct trace_lane *session;
	struct trace_lane *queues[PROTOCOL_PATHS_MAX]; /* a swap directory each */
	struct trace_lane **threads;                   /* a pool thread each */
};

/* What is read ahead of steps. */
struct early_all {
	struct early *units;   /* each */
	struct early *wanting; /* those of which more is to be read, in the order asked for */
	uint32_t tasks;        /* that have a buffer, those being read included */
	uint32_t reading, dropped, tasks_max;
};

struct session {
	struct session_plan *plan;
	struct pool *pool;
	enum nvme_engine engine;
	bool weighted;
	double weights[PROTOCOL_PATHS_MAX]; /* if so, of plan->open.paths */
	int socket_fd, ended_fd;
	char name[PROTOCOL_JOB_BYTES + 64];
	pthread_t thread;

	int stop_fd, submit_fd, complete_fd; /* eventfds; the last two are shared with the peer */
	atomic_bool stop;
	_Atomic int state; /* enum session_state */

	uint8_t *arena, *own;
	double *sums; /* of squares, a block of a norm range each */
	struct ring submit, complete;
	struct nvme_store *store;
	struct pool_client pool_client;

	struct lane *unit_lanes, *blob_lanes;
	bool *handed; /* of all units' lanes */
	struct op *ops, *free_ops;
	struct op *active_head, *active_tail;
	uint32_t op_count; /* accepted and not completed */
	struct task *tasks, *free_tasks;
	uint32_t task_count, tasks_busy;
	uint32_t unbuffered_computes, unbuffered_computes_max;
	struct task *write_head, *write_tail; /* that wait to be written */
	uint32_t reads_busy, writes_busy;     /* tasks of operations that use their buffer so */
	uint8_t **free_buffers;
	uint32_t free_buffer_count;
	struct early_all early;
	struct session_trace trace;
	uint32_t io_busy, jobs_busy; /* tasks that wait for the disk, and for the pool */

	struct err failure; /* code 0: none */
	bool dead;          /* the rings cannot be used any more */
	bool ending;        /* nothing goes on to another phase */

	/* Written by the session's thread or by pool threads, read by the main thread, relaxed. */
	_Atomic uint64_t memory_bytes, swap_bytes, read_bytes, written_bytes;
	_Atomic uint64_t handed_bytes, dropped_bytes; /* see struct session_figures */
	_Atomic uint64_t operations, stepped_elems, adam_ns, io_wait_ns;
	const char *_Atomic engine_name;
};

/* session.c */

/* The session is beyond repair: the reason goes to the log and into the arena, once. */
void session_fail(struct session *s, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void session_complete(struct session *s, const struct protocol_completion *completion);
uint64_t session_now_ns(void);

/* session_trace.c */

/* Lanes, when the peer asked for it. Called before the session's thread starts. */
int session_trace_open(struct session *s, struct err *err);
void session_trace_free(struct session *s);
/* A transfer is over. Its task's session is traced. */
void session_trace_transfer(const struct task *t, const struct nvme_io *io);
/* From session_now_ns's `began_ns` until now a pool thread worked on a chunk. */
void session_trace_compute(const struct task *t, uint64_t began_ns);
/* The session's thread slept, with operations pending, since trace_begin's `began_ns`. */
void session_trace_wait(struct session *s, uint64_t began_ns);

/* pipeline.c */

int pipeline_open(struct session *s, struct err *err);
void pipeline_free(struct session *s);

/* Takes one submission, the peer's word, and puts it into its lane; or fails the session. */
void pipeline_accept(struct session *s, const struct protocol_submission *sub);

/* A pool thread is done with a task. */
void pipeline_job_done(struct session *s, struct pool_job *job);

/* Starts what can be started, completes what is done. Returns whether anything changed. */
bool pipeline_run(struct session *s);

/* A task with a buffer; both must be free. Counts as busy, has no operation yet. */
struct task *pipeline_task_take(struct session *s);
/* Task and buffer are free again. */
void pipeline_task_free(struct task *t);
/* Starts reading `parts` of the task's chunk into its buffer. */
void pipeline_read(struct task *t, uint8_t parts);

/* early.c */

int early_open(struct session *s, struct err *err);
void early_free(struct session *s);
/* PREPARE of a unit is at the head of its lane. */
void early_prepare(struct session *s, const struct unit_plan *unit);
/* Reads ahead what there is time and room for; no operation wants to start a chunk. */
bool early_run(struct session *s);
/*
 * The task of the STEP's next chunk, when it was read ahead; NULL when not. It may still be being
 * read (EARLY_TAKEN). Its operation is the caller's to set.
 */
struct task *early_take(struct session *s, struct op *op);
/* What a task of any state but EARLY_NONE read is there. Returns whether an operation goes on. */
bool early_arrived(struct task *t);
/* Nothing is read ahead of the unit any more. Returns false while a read has yet to end. */
bool early_drop(struct session *s, const struct unit_plan *unit);
/* An operation lacks a buffer: gives up a chunk if that is needed for it to come by one. */
void early_reclaim(struct session *s);

/* pipeline_check.c */

/* Checks a submission, and fills the rest of `op`. ERR_PROTOCOL says what is wrong. */
int op_plan(const struct session *s, struct op *op, struct err *err);

/* compute.c */

/* On a pool thread. */
void compute_run(struct pool_job *job);
/* The sum of squares over the unit's norm range, once all its blocks are there. */
double compute_sum(const struct session *s, const struct unit_plan *unit);

#endif
