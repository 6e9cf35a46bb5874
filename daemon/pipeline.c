/*
 * Operations on their way. The session's thread runs all of this; pool threads only run compute.c
 * on a task that is theirs for the while.
 *
 * An operation stands in the lane of its unit or blob; at the head of it, it is active, and its
 * chunks become tasks one after the other, as chunk buffers and tasks are free:
 *
 *	  submission --> lane --> active --> chunk by chunk: task --> completed
 *	                                                      |
 *	                        READ --all read--> COMPUTE --ran--> WRITE --all written--> done
 *
 * Tasks of all active operations run at once, the one's first that the peer wants first (its
 * `order`), among equals the oldest's: while chunk i of a step is with a pool thread, chunk i+1 is
 * being read and chunk i-1 written, and when the last chunk of a unit has been started, the next
 * buffer that comes free goes to the first chunk of the next unit.
 *
 * Invariants
 *  1. A lane's head, and nothing else of it, is in the active list, which is sorted by `order`; so
 *     operations of one unit take effect one after the other, and no transfer of an extent begins
 *     before the last one ended.
 *  2. A task holds what it needs (itself and, if its operation is buffered, one buffer) from its
 *     start, and waits for nothing but transfers and threads: whatever was started ends.
 *  3. An operation takes effect after those before it in its lane, and completes after them, but
 *     for a FETCH: it completes as soon as its parameters are there, when each of its chunks was
 *     handed over by the STEP before it.
 *  4. Nothing is allocated after pipeline_open. At most ring_slots operations are accepted and not
 *     completed, so each finds its place in ops and in the completion ring.
 *  5. Of tasks with buffers READS_MAX at most are read, not counting those read ahead, and
 *     WRITES_MAX written; others wait for that, to be written in order, only while so many are.
 *  6. After a failure no task goes on to another phase, and every operation completes with the
 *     failure's code as soon as it has no task.
 */
#include "daemon/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Work on memory alone is handed to the pool this many chunks ahead of each thread. */
#define COMPUTES_PER_THREAD 2u
#define TASKS_MAX           4096u
/*
 * Chunks that are read into buffers, and written from them, at once. Nobody waits for most of them,
 * and what somebody waits for, parameters for one, goes through the same queue of the disk: where a
 * hundred chunks had been read ahead, and were stepped in a moment, their writes held up the first
 * FETCH by 0.3 s. Four of each keep a disk busy, and are what there are buffers for where memory is
 * short.
 */
#define READS_MAX  4u
#define WRITES_MAX 4u

static void transfer_done(struct nvme_io *io, int rc);
static struct op *fetch_behind(const struct op *op);
static void op_complete(struct session *s, struct op *op);

static uint32_t tasks_wanted(const struct session *s)
{
	const struct protocol_open *o = &s->plan->open;
	uint32_t count = o->chunk_buffers + s->unbuffered_computes_max;

	if (s->store)
		count += o->queue_depth * o->path_count;
	return count < TASKS_MAX ? count : TASKS_MAX;
}

static void buffers_open(struct session *s)
{
	const struct session_plan *p = s->plan;

	if (p->buffer_bytes == 0)
		return;
	for (uint32_t i = p->open.chunk_buffers; i-- > 0;)
		s->free_buffers[s->free_buffer_count++] =
			s->own + p->buffers_offset + i * p->buffer_bytes;
}

static int lanes_open(struct session *s)
{
	const struct protocol_open *o = &s->plan->open;
	uint64_t chunks = 0;

	s->unit_lanes = calloc(o->unit_count + 1, sizeof(*s->unit_lanes));
	s->blob_lanes = calloc(o->blob_count + 1, sizeof(*s->blob_lanes));
	for (uint32_t u = 0; u < o->unit_count; u++)
		chunks += s->plan->units[u].chunk_count;
	s->handed = calloc(chunks + 1, sizeof(*s->handed));
	if (!s->unit_lanes || !s->blob_lanes || !s->handed)
		return -ENOMEM;
	chunks = 0;
	for (uint32_t u = 0; u < o->unit_count; u++) {
		s->unit_lanes[u].handed = s->handed + chunks;
		chunks += s->plan->units[u].chunk_count;
	}
	return 0;
}

int pipeline_open(struct session *s, struct err *err)
{
	const struct protocol_open *o = &s->plan->open;

	s->unbuffered_computes_max = COMPUTES_PER_THREAD * pool_threads(s->pool);
	s->task_count = tasks_wanted(s);
	/* Operations without buffers find tasks, however many are held. */
	s->early.tasks_max = s->task_count < TASKS_MAX ? o->chunk_buffers : TASKS_MAX / 2;
	s->ops = calloc(o->ring_slots, sizeof(*s->ops));
	s->tasks = calloc(s->task_count, sizeof(*s->tasks));
	s->sums = calloc(s->plan->sums_count + 1, sizeof(*s->sums));
	s->free_buffers = calloc(o->chunk_buffers + 1, sizeof(uint8_t *));
	if (!s->ops || !s->tasks || !s->sums || !s->free_buffers || lanes_open(s) < 0)
		return err_sys(err, -ENOMEM, "allocating the session's operations");
	for (uint32_t i = 0; i < o->ring_slots; i++) {
		s->ops[i].next = s->free_ops;
		s->free_ops = &s->ops[i];
	}
	for (uint32_t i = 0; i < s->task_count; i++) {
		s->tasks[i].session = s;
		s->tasks[i].job.run = compute_run;
		s->tasks[i].next = s->free_tasks;
		s->free_tasks = &s->tasks[i];
	}
	buffers_open(s);
	return early_open(s, err);
}

void pipeline_free(struct session *s)
{
	assert(s->tasks_busy == 0);
	early_free(s);
	free(s->ops);
	free(s->tasks);
	free(s->unit_lanes);
	free(s->blob_lanes);
	free(s->handed);
	free(s->sums);
	free(s->free_buffers);
}

/* Tasks. */

void pipeline_task_free(struct task *t)
{
	struct session *s = t->session;

	if (t->buffer)
		s->free_buffers[s->free_buffer_count++] = t->buffer;
	t->buffer = NULL;
	t->op = NULL;
	t->next = s->free_tasks;
	s->free_tasks = t;
}

static struct task *task_take(struct session *s)
{
	struct task *t = s->free_tasks;

	s->free_tasks = t->next;
	s->tasks_busy++;
	t->phase = TASK_READ;
	return t;
}

struct task *pipeline_task_take(struct session *s)
{
	struct task *t = task_take(s);

	t->buffer = s->free_buffers[--s->free_buffer_count];
	return t;
}

static void task_end(struct task *t)
{
	struct session *s = t->session;
	struct op *op = t->op;

	op->tasks--;
	if (!t->buffer && op->compute)
		s->unbuffered_computes--;
	s->tasks_busy--;
	pipeline_task_free(t);
}

static void transfer_begin(struct task *t, enum part part, bool write)
{
	struct session *s = t->session;
	const struct op *op = t->op;
	struct nvme_io *io = &t->io[part];

	*io = (struct nvme_io){
		.object = t->buffer ? t->unit->object[part] : op->object,
		.extent = (uint32_t)t->chunk,
		.write = write,
		.buf = t->buffer ? t->buffer + s->plan->buffer_offset[part]
				 : s->arena + op->sub.offset + t->chunk * op->stride_bytes,
		.done = transfer_done,
		.context = t,
		.timed = s->trace.recorder && trace_recording(s->trace.session),
	};
	nvme_submit(s->store, io);
}

/* Those of a task that waits for none, or more of them. */
static void transfers_begin(struct task *t, uint8_t parts, bool write)
{
	t->session->io_busy += t->transfers == 0;
	t->transfers += (unsigned)__builtin_popcount(parts);
	for (int part = 0; part < PART_COUNT; part++)
		if (parts & PART_BIT(part))
			transfer_begin(t, part, write);
}

void pipeline_read(struct task *t, uint8_t parts)
{
	transfers_begin(t, parts, false);
}

static void task_write(struct task *t)
{
	struct session *s = t->session;

	if (t->buffer && s->writes_busy == WRITES_MAX) {
		t->next = NULL;
		if (s->write_tail)
			s->write_tail->next = t;
		else
			s->write_head = t;
		s->write_tail = t;
		return;
	}
	s->writes_busy += t->buffer != NULL;
	transfers_begin(t, t->op->writes, true);
}

/* A task with a buffer has been written: the first that waits for that is next. */
static void task_written(struct task *t)
{
	struct session *s = t->session;
	struct task *next;

	s->writes_busy--;
	task_end(t);
	while (s->writes_busy < WRITES_MAX && (next = s->write_head)) {
		s->write_head = next->next;
		if (!s->write_head)
			s->write_tail = NULL;
		if (s->failure.code || s->ending)
			task_end(next);
		else
			task_write(next);
	}
}

/* The task's phase is over: the next one that its operation has. */
static void task_advance(struct task *t)
{
	struct session *s = t->session;
	const struct op *op = t->op;

	if (t->phase == TASK_WRITE && t->buffer) {
		task_written(t);
	} else if (s->failure.code || s->ending) {
		task_end(t);
	} else if (t->phase < TASK_COMPUTE && op->compute) {
		t->phase = TASK_COMPUTE;
		t->fetch = fetch_behind(op);
		s->jobs_busy++;
		pool_submit(&s->pool_client, &t->job);
	} else if (t->phase < TASK_WRITE && op->writes) {
		t->phase = TASK_WRITE;
		task_write(t);
	} else {
		task_end(t);
	}
}

/*
 * Parameters handed over. Of a unit whose parameters are in swap the FETCH behind a STEP takes each
 * chunk from the thread that has just stepped it, or from its buffer as long as that waits to be
 * written: it need neither be read again nor wait until it is written. Chunks that are on the disk
 * alone are read, when the FETCH's turn comes.
 */

/* Whom a chunk of `op` that is about to be computed is to be handed to; NULL: to nobody. */
static struct op *fetch_behind(const struct op *op)
{
	struct op *next = op->next;

	if (op->sub.op != PROTOCOL_OP_STEP)
		return NULL;
	while (next && next->sub.op == PROTOCOL_OP_PREPARE)
		next = next->next;
	return next && next->sub.op == PROTOCOL_OP_FETCH && next->count > 0 ? next : NULL;
}

/* Out of the middle of its lane, complete before what is in front of it. */
static void fetch_complete(struct session *s, struct op *fetch)
{
	struct lane *lane = fetch->lane;
	struct op *before = lane->head;

	while (before->next != fetch)
		before = before->next;
	before->next = fetch->next;
	if (lane->tail == fetch)
		lane->tail = before;
	op_complete(s, fetch);
}

static void hand_over(struct task *t)
{
	struct op *fetch = t->fetch;

	t->fetch = NULL;
	fetch->lane->handed[t->chunk] = true;
	atomic_fetch_add_explicit(
		&t->session->handed_bytes,
		session_part_bytes(t->session->plan, PART_PARAM,
				   unit_chunk_elems(t->session->plan, t->unit, t->chunk)),
		memory_order_relaxed);
	if (++fetch->handed == fetch->count)
		fetch_complete(t->session, fetch);
}

/* Of a chunk that was stepped before the FETCH came, and still lies in its buffer. */
static void hand_over_stepped(struct task *t, struct op *fetch)
{
	struct session *s = t->session;
	uint64_t elems = unit_chunk_elems(s->plan, t->unit, t->chunk);

	memcpy(s->arena + fetch->sub.offset + t->chunk * fetch->stride_bytes,
	       t->buffer + s->plan->buffer_offset[PART_PARAM],
	       session_part_bytes(s->plan, PART_PARAM, elems));
	t->fetch = fetch;
	hand_over(t);
}

/* A FETCH came: what is still in buffers of a STEP before it is handed over now. */
static void hand_over_written(struct session *s, struct op *fetch)
{
	struct op *step = fetch->lane->head;

	if (fetch_behind(step) != fetch)
		return;
	for (uint32_t i = 0; i < s->task_count && step->tasks > 0; i++) {
		struct task *t = &s->tasks[i];

		if (t->op != step || t->phase != TASK_WRITE)
			continue;
		if (fetch->handed + 1 == fetch->count) {
			hand_over_stepped(t, fetch);
			return; /* with it the FETCH is complete */
		}
		hand_over_stepped(t, fetch);
	}
}

/* Passes over chunks that are there. Returns whether there is none left to start. */
static bool handed_skip(struct op *op)
{
	while (op->handed > 0 && op->started < op->count && op->lane->handed[op->started])
		op->started++;
	return op->started == op->count;
}

static void transfer_done(struct nvme_io *io, int rc)
{
	struct task *t = io->context;
	struct session *s = t->session;

	if (rc < 0)
		session_fail(s, rc, "swap: %s", nvme_store_error(s->store));
	if (io->timed)
		session_trace_transfer(t, io);
	if (--t->transfers > 0)
		return;
	s->io_busy--;
	s->reads_busy -= t->reading;
	t->reading = false;
	if (t->early == EARLY_NONE || early_arrived(t))
		task_advance(t);
}

void pipeline_job_done(struct session *s, struct pool_job *job)
{
	struct task *t = (struct task *)(void *)((char *)job - offsetof(struct task, job));
	struct op *fetch;

	s->jobs_busy--;
	if (t->fetch)
		hand_over(t);
	else if ((fetch = fetch_behind(t->op)))
		hand_over_stepped(t, fetch);
	task_advance(t);
}

/* A STEP's next chunk was read ahead: what is missing is a gradient on disk. */
static void task_go_on(struct task *t, struct op *op)
{
	uint8_t missing = op->reads & PART_BIT(PART_GRAD);

	t->op = op;
	op->started++;
	op->tasks++;
	if (missing)
		transfers_begin(t, missing, false);
	else if (t->early == EARLY_NONE)
		task_advance(t);
}

/* Starts the operation's next chunk; false when something that it needs is not free. */
static bool task_start(struct session *s, struct op *op)
{
	bool unbuffered_compute = op->compute && !op->buffered;
	struct task *t;

	if (op->buffered && op->sub.op == PROTOCOL_OP_IMPORT && !early_drop(s, op->unit))
		return false;
	if (op->buffered && op->sub.op == PROTOCOL_OP_STEP && (t = early_take(s, op))) {
		task_go_on(t, op);
		return true;
	}
	if (op->buffered && s->free_buffer_count == 0)
		early_reclaim(s);
	if (!s->free_tasks || (op->buffered && s->free_buffer_count == 0) ||
	    (op->buffered && op->reads && s->reads_busy == READS_MAX) ||
	    (unbuffered_compute && s->unbuffered_computes == s->unbuffered_computes_max))
		return false;
	t = op->buffered ? pipeline_task_take(s) : task_take(s);
	s->unbuffered_computes += unbuffered_compute;
	t->op = op;
	t->unit = op->unit;
	t->chunk = op->first + op->started++;
	op->tasks++;
	t->reading = op->buffered && op->reads;
	s->reads_busy += t->reading;
	if (op->reads)
		transfers_begin(t, op->reads, false);
	else
		task_advance(t);
	return true;
}

/* Operations. */

/* Behind those that go before it, or as soon: mostly at the end. */
static void active_add(struct session *s, struct op *op)
{
	struct op *before = s->active_tail, *behind;

	while (before && before->sub.order > op->sub.order)
		before = before->active_prev;
	behind = before ? before->active_next : s->active_head;
	op->active_prev = before;
	op->active_next = behind;
	if (before)
		before->active_next = op;
	else
		s->active_head = op;
	if (behind)
		behind->active_prev = op;
	else
		s->active_tail = op;
}

static void active_remove(struct session *s, struct op *op)
{
	if (op->active_prev)
		op->active_prev->active_next = op->active_next;
	else
		s->active_head = op->active_next;
	if (op->active_next)
		op->active_next->active_prev = op->active_prev;
	else
		s->active_tail = op->active_prev;
}

static void op_complete(struct session *s, struct op *op)
{
	struct protocol_completion completion = {
		.id = op->sub.id,
		.code = s->failure.code,
		.offset = op->sub.offset,
	};

	if (op->handed > 0)
		memset(op->lane->handed, 0, op->count * sizeof(*op->lane->handed));

	if (!s->failure.code && op->sub.op == PROTOCOL_OP_GRAD &&
	    (op->sub.flags & PROTOCOL_FLAG_LAST))
		completion.value = compute_sum(s, op->unit);
	op->next = s->free_ops;
	s->free_ops = op;
	s->op_count--;
	session_complete(s, &completion);
}

/* The lane's head is done: the next one becomes active. */
static void lane_advance(struct session *s, struct lane *lane)
{
	lane->head = lane->head->next;
	if (lane->head)
		active_add(s, lane->head);
	else
		lane->tail = NULL;
}

void pipeline_accept(struct session *s, const struct protocol_submission *sub)
{
	struct op *op = s->free_ops;
	struct err why = {.code = 0};

	if (!op) {
		session_fail(s, ERR_PROTOCOL, "protocol error: more than %u operations at once",
			     s->plan->open.ring_slots);
		s->dead = true;
		return;
	}
	s->free_ops = op->next;
	s->op_count++;
	*op = (struct op){.sub = *sub};
	if (!s->failure.code && op_plan(s, op, &why) < 0)
		session_fail(s, why.code, "%s", why.text);
	if (s->failure.code) {
		op_complete(s, op);
		return;
	}
	if (op->lane->tail) {
		op->lane->tail->next = op;
	} else {
		op->lane->head = op;
		active_add(s, op);
	}
	op->lane->tail = op;
	if (op->lane->head != op)
		hand_over_written(s, op);
}

bool pipeline_run(struct session *s)
{
	struct op *op, *next;
	bool changed = false, waiting = false;

	for (op = s->active_head; op; op = next) {
		while (!s->failure.code && !handed_skip(op) && task_start(s, op))
			changed = true;
		if (op->tasks > 0 || (op->started < op->count && !s->failure.code)) {
			waiting |= op->started < op->count;
			next = op->active_next;
			continue;
		}
		/* In this order: its successor may become the next one of the list. One that goes
		 * before is come upon in the next round, since this one changes something. */
		lane_advance(s, op->lane);
		next = op->active_next;
		active_remove(s, op);
		if (op->sub.op == PROTOCOL_OP_PREPARE && !s->failure.code)
			early_prepare(s, op->unit);
		op_complete(s, op);
		changed = true;
	}
	return (!waiting && early_run(s)) || changed;
}
