/*
 * What passes by the device: the collectives, whose bytes a host function hides; the daemon, which
 * reads and writes the arena by itself; and the host memory that the engine hands to copies. All of
 * it comes in through the linker's --wrap and is logged when a recording device is being driven;
 * else the wrapped function is all there is.
 *
 * The daemon by protocol.h: an operation touches its bytes of the arena from its push on; they are
 * somebody else's when the driving thread has learned that it is complete.
 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "offload/internal.h"
#include "tests/record_internal.h"

#define WRAPPED(type, name, ...)                                                                   \
	type __real_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__)

/* The device, for the place of the call alone. */

WRAPPED(void, device_event_record, struct device_event *event, struct device_stream *stream)
{
	record_site(__builtin_return_address(0));
	__real_device_event_record(event, stream);
}

WRAPPED(void, device_stream_wait, struct device_stream *stream, struct device_event *event)
{
	record_site(__builtin_return_address(0));
	__real_device_stream_wait(stream, event);
}

WRAPPED(int, device_stream_sync, struct device_stream *stream, struct err *err)
{
	record_site(__builtin_return_address(0));
	return __real_device_stream_sync(stream, err);
}

WRAPPED(int, device_event_sync, struct device_event *event, struct err *err)
{
	record_site(__builtin_return_address(0));
	return __real_device_event_sync(event, err);
}

WRAPPED(int, device_event_query, struct device_event *event, struct err *err)
{
	record_site(__builtin_return_address(0));
	return __real_device_event_query(event, err);
}

WRAPPED(void *, device_alloc, struct device *device, uint64_t bytes, const char *what,
	struct err *err)
{
	void *mem = __real_device_alloc(device, bytes, what, err);

	if (mem)
		record_region(mem, bytes, "%s", what);
	return mem;
}

/* Collectives. */

static _Thread_local unsigned world; /* of the comm that this thread opened last */

WRAPPED(int, comm_open, const struct comm_config *config, struct comm **ret, struct err *err)
{
	world = config->world;
	return __real_comm_open(config, ret, err);
}

/* The next host function on the stream is this collective. */
static void announce(struct device_stream *stream, const char *what, const void *in,
		     size_t in_bytes, void *out, size_t out_bytes)
{
	struct record_device *d = record_of_stream(stream);
	struct record_list list = {0};

	if (!d)
		return;
	record_reads(&list, in, in_bytes);
	record_writes(&list, out, out_bytes);
	record_call_next(d, what, &list);
}

/* A world of one makes copies of it, or nothing: no host function has come. */
static void announced(struct device_stream *stream)
{
	struct record_device *d = record_of_stream(stream);

	if (d)
		record_call_next(d, NULL, &(struct record_list){0});
}

WRAPPED(void, comm_all_gather, struct comm *comm, struct device_stream *stream, void *whole,
	const void *part, size_t bytes)
{
	announce(stream, "all-gather", part, bytes, whole, world * bytes);
	__real_comm_all_gather(comm, stream, whole, part, bytes);
	announced(stream);
}

WRAPPED(void, comm_reduce_scatter, struct comm *comm, struct device_stream *stream, enum dtype type,
	void *part, const void *whole, size_t count)
{
	size_t bytes = count * dtype_bytes(type);

	announce(stream, "reduce-scatter", whole, world * bytes, part, bytes);
	__real_comm_reduce_scatter(comm, stream, type, part, whole, count);
	announced(stream);
}

WRAPPED(void, comm_all_reduce, struct comm *comm, struct device_stream *stream, enum dtype type,
	void *data, size_t count)
{
	size_t bytes = count * dtype_bytes(type);

	announce(stream, "all-reduce", data, bytes, data, bytes);
	__real_comm_all_reduce(comm, stream, type, data, count);
	announced(stream);
}

/* The daemon. */

static void *copy_of(const void *from, size_t bytes)
{
	void *to = malloc(bytes + 1);

	if (!to)
		abort();
	return memcpy(to, from, bytes);
}

WRAPPED(int, client_open, const struct client_config *config, struct client **ret, struct err *err)
{
	struct record_device *d = record_driven();
	int rc = __real_client_open(config, ret, err);

	if (rc < 0 || !d)
		return rc;
	*record_session_of(d) = (struct record_session){
		.client = *ret,
		.arena = client_arena(*ret, NULL),
		.open = config->open,
		.units = copy_of(config->units, config->open.unit_count * sizeof(*config->units)),
		.blobs = copy_of(config->blobs, config->open.blob_count * sizeof(*config->blobs)),
	};
	return rc;
}

/* Bytes of the parameters of `elems` elements, in use. */
static size_t param_bytes(const struct record_session *s, uint64_t elems)
{
	return elems * dtype_bytes((enum dtype)s->open.param_type);
}

/* The unit's home in the arena, when it is there. */
static void home_accesses(const struct record_session *s, const struct protocol_unit *u,
			  uint64_t first, uint64_t elems, bool writes, struct record_list *list)
{
	char *at = s->arena + u->param_offset + param_bytes(s, first);

	if (u->param_home != PROTOCOL_HOME_MEMORY)
		return;
	if (writes)
		record_writes(list, at, param_bytes(s, elems));
	else
		record_reads(list, at, param_bytes(s, elems));
}

static void piece_of(const struct record_session *s, const struct protocol_submission *op,
		     struct record_push *push)
{
	const struct protocol_unit *u = &s->units[op->unit];
	uint64_t first = op->chunk * s->open.chunk_elems, left = u->elems - first;
	uint64_t elems = left < s->open.chunk_elems ? left : s->open.chunk_elems;
	uint64_t bytes = elems * sizeof(float) *
			 (1 + optimizer_moment_count((enum optimizer_kind)s->open.optimizer));
	bool in = op->op == PROTOCOL_OP_IMPORT;

	push->what = in ? "IMPORT" : "EXPORT";
	push->effects = in ? RECORD_WRITES_STATE : RECORD_READS_STATE;
	if (in)
		record_reads(&push->list, s->arena + op->offset, bytes);
	else
		record_writes(&push->list, s->arena + op->offset, bytes);
	home_accesses(s, u, first, elems, in, &push->list);
}

static void blob_of(const struct record_session *s, const struct protocol_submission *op,
		    struct record_push *push)
{
	bool in = op->op == PROTOCOL_OP_STORE;

	push->what = in ? "STORE" : "LOAD";
	push->effects = in ? RECORD_WRITES_STATE : RECORD_READS_STATE;
	push->queue = s->open.unit_count + op->unit;
	if (in)
		record_reads(&push->list, s->arena + op->offset, s->blobs[op->unit]);
	else
		record_writes(&push->list, s->arena + op->offset, s->blobs[op->unit]);
}

/* A gradient comes in, and is kept or stepped with at once. */
static void grad_of(const struct record_session *s, const struct protocol_submission *op,
		    struct record_push *push)
{
	const struct protocol_unit *u = &s->units[op->unit];
	size_t bytes = u->elems * dtype_bytes((enum dtype)s->open.grad_type);

	if (op->op == PROTOCOL_OP_GRAD || op->flags & PROTOCOL_FLAG_FROM_ARENA)
		record_reads(&push->list, s->arena + op->offset, bytes);
	if (op->op == PROTOCOL_OP_GRAD) {
		push->what = "GRAD";
		push->effects = RECORD_READS_GRAD | RECORD_WRITES_GRAD;
		return;
	}
	push->what = "STEP";
	push->effects = RECORD_READS_STATE | RECORD_WRITES_STATE | RECORD_READS_GRAD;
	home_accesses(s, u, 0, u->elems, true, &push->list);
}

/* What the operation touches in the arena and of what the daemon holds. */
static struct record_push push_of(const struct record_session *s,
				  const struct protocol_submission *op)
{
	struct record_push push = {.queue = op->unit};

	switch ((enum protocol_op)op->op) {
	case PROTOCOL_OP_FETCH:
		push.what = "FETCH";
		push.effects = RECORD_READS_STATE;
		if (s->units[op->unit].param_home == PROTOCOL_HOME_SWAP)
			record_writes(&push.list, s->arena + op->offset,
				      param_bytes(s, s->units[op->unit].elems));
		return push;
	case PROTOCOL_OP_PREPARE:
		push.what = "PREPARE";
		push.effects = RECORD_READS_STATE;
		return push;
	case PROTOCOL_OP_GRAD:
	case PROTOCOL_OP_STEP:
		grad_of(s, op, &push);
		return push;
	case PROTOCOL_OP_IMPORT:
	case PROTOCOL_OP_EXPORT:
		piece_of(s, op, &push);
		return push;
	case PROTOCOL_OP_STORE:
	case PROTOCOL_OP_LOAD:
		blob_of(s, op, &push);
		return push;
	}
	abort();
}

/* The entry of the operation's PUSH. */
static size_t push_entry(struct record_device *d, uint32_t id)
{
	size_t entry;

	record_lock(d);
	entry = record_session_of(d)->push_of[id];
	record_unlock(d);
	return entry;
}

/* The lock is held. */
static void push_remember(struct record_session *s, uint32_t id, size_t entry)
{
	if (id >= s->id_count) {
		s->push_of = realloc(s->push_of, (id + 1) * sizeof(*s->push_of));
		if (!s->push_of)
			abort();
		s->id_count = id + 1;
	}
	s->push_of[id] = entry;
}

int __real_client_push(struct client *client, const struct protocol_submission *submission,
		       struct err *err);

static int push_from(struct client *client, const struct protocol_submission *submission,
		     const void *site, struct err *err)
{
	struct record_device *d = record_current();
	struct record_session *s;
	struct record_push push;
	int rc;

	if (!d)
		return __real_client_push(client, submission, err);
	s = record_session_of(d);
	record_site(site);
	push = push_of(s, submission);
	record_lock(d);
	push_remember(s, submission->id, record_log_push(d, &push));
	rc = __real_client_push(client, submission, err);
	record_unlock(d);
	free(push.list.at);
	return rc;
}

WRAPPED(int, client_push, struct client *client, const struct protocol_submission *submission,
	struct err *err)
{
	return push_from(client, submission, __builtin_return_address(0), err);
}

/* While it waits for ids to come free, streams must go on. */
WRAPPED(int, client_prepare, struct client *client, uint32_t *ret_id, struct err *err)
{
	struct record_device *d = record_driven();
	int rc;

	if (!d)
		return __real_client_prepare(client, ret_id, err);
	record_block(d);
	rc = __real_client_prepare(client, ret_id, err);
	record_unblock(d);
	return rc;
}

/* client_submit is prepare and push; the linker cannot get between them. */
WRAPPED(int, client_submit, struct client *client, struct protocol_submission *submission,
	uint32_t *ret_id, struct err *err)
{
	int rc;

	if (!record_driven())
		return __real_client_submit(client, submission, ret_id, err);
	rc = client_prepare(client, &submission->id, err);
	if (rc == 0)
		rc = push_from(client, submission, __builtin_return_address(0), err);
	if (rc == 0)
		*ret_id = submission->id;
	return rc;
}

WRAPPED(int, client_wait, struct client *client, uint32_t id, struct protocol_completion *ret,
	struct err *err)
{
	struct record_device *d = record_driven();
	int rc;

	if (!d)
		return __real_client_wait(client, id, ret, err);
	record_site(__builtin_return_address(0));
	record_block(d);
	rc = __real_client_wait(client, id, ret, err);
	record_unblock(d);
	if (rc == 0)
		record_log_done(d, push_entry(d, id));
	return rc;
}

WRAPPED(int, client_poll, struct client *client, uint32_t id, struct err *err)
{
	struct record_device *d = record_driven();
	int rc = __real_client_poll(client, id, err);

	record_site(__builtin_return_address(0));
	if (d && rc > 0)
		record_log_done(d, push_entry(d, id));
	return rc;
}

/* Host memory that the engine hands out or takes back. */

WRAPPED(int, engine_exchange, struct engine *engine, const void *mine, size_t bytes, void *all,
	struct err *err)
{
	int rc;

	record_host_writes(mine, bytes, "filling an exchange");
	rc = __real_engine_exchange(engine, mine, bytes, all, err);
	if (rc == 0)
		record_host_reads(all, bytes * world, "reading an exchange");
	return rc;
}

WRAPPED(int, engine_export, struct engine *engine, size_t unit, size_t index,
	struct engine_piece *ret, struct err *err)
{
	int rc = __real_engine_export(engine, unit, index, ret, err);

	if (rc < 0)
		return rc;
	record_host_reads(ret->master, ret->count * sizeof(float), "reading exported weights");
	record_host_reads(ret->m, ret->count * sizeof(float), "reading exported moments");
	record_host_reads(ret->v, ret->count * sizeof(float), "reading exported moments");
	return rc;
}

WRAPPED(int, engine_import_end, struct engine *engine, struct engine_piece *piece, struct err *err)
{
	record_host_writes(piece->master, piece->count * sizeof(float), "filling weights");
	record_host_writes(piece->m, piece->count * sizeof(float), "filling moments");
	record_host_writes(piece->v, piece->count * sizeof(float), "filling moments");
	return __real_engine_import_end(engine, piece, err);
}

static void label_phase(const struct engine *e, const char *part)
{
	record_label("step %ju, %s pass %ju, phase %zu%s", (uintmax_t)e->step,
		     e->pass == ENGINE_TRAIN ? "training" : "evaluation", (uintmax_t)e->micro,
		     e->phase, part);
}

WRAPPED(int, engine_phase_begin, struct engine *engine, struct engine_io *ret, struct err *err)
{
	int rc;

	label_phase(engine, ", its begin");
	rc = __real_engine_phase_begin(engine, ret, err);
	label_phase(engine, "");
	return rc;
}

WRAPPED(int, engine_phase_end, struct engine *engine, struct err *err)
{
	label_phase(engine, ", its end");
	return __real_engine_phase_end(engine, err);
}

WRAPPED(int, engine_step_end, struct engine *engine, double *ret_norm, struct err *err)
{
	record_label("step %ju, its end", (uintmax_t)engine->step);
	return __real_engine_step_end(engine, ret_norm, err);
}

/* Memory that is given back is as good as written: whoever gets it next will. */
WRAPPED(void, free, void *mem)
{
	if (mem && record_driven())
		record_host_writes(mem, malloc_usable_size(mem), "free");
	__real_free(mem);
}
