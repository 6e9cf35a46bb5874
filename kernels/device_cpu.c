/*
 * The cpu as a device: a thread per stream with a bounded queue, a memory arena that is only mapped
 * (a page costs RAM when it is first touched), events, and a team of threads that share each
 * operation. Called through device.c.
 *
 * Invariants:
 * 1. A stream's items are numbered from 1; `enqueued` and `completed` only grow, under the stream's
 *    lock, and completed <= enqueued <= completed + QUEUE_ITEMS. The slot of an item is not written
 *    again before the item completed, so the thread runs it in place, without the lock.
 * 2. An event is a place in a stream: (stream, number of the last item before the record). It is
 *    complete when the stream has completed that item; recording costs no item.
 * 3. An item that waits for an event waits for an item enqueued earlier (in the order of the
 *    callers), hence there is no cycle, and an item always completes: after a failure it is
 *    skipped.
 * 4. A thread holds one stream's or event's lock at a time.
 * 5. A stream's lane of a trace is written by its thread alone. It reads the lane behind the lock
 *    under which the first item was enqueued, which is after the lane was set.
 */
#include "kernels/internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Some ten decoder blocks' worth of operations; past that the engine waits for the device. */
#define QUEUE_ITEMS 256u

/* Bytes that a thread zeroes at a time: some ten microseconds of work. */
#define ZERO_PIECE 131072u

enum item_kind {
	ITEM_OP,
	ITEM_COPY,
	ITEM_ZERO,
	ITEM_HOST,
	ITEM_WAIT,
	ITEM_SPAN_BEGIN,
	ITEM_SPAN_END,
};

struct cpu_stream;

struct item {
	enum item_kind kind;
	enum device_op op;
	struct device_label label;
	union {
		_Alignas(16) uint8_t args[DEVICE_ARGS_BYTES_MAX];
		struct {
			void *dst;
			const void *src;
			size_t bytes;
		} copy;
		struct {
			device_host_fn *fn;
			void *arg;
		} host;
		struct {
			struct cpu_stream *stream;
			uint64_t item;
		} wait;
		enum trace_state span;
	} u;
};

/* A span that the stream is in. */
struct span {
	struct device_label label;
	enum trace_state state;
	uint64_t began_ns;
};

struct cpu_stream {
	struct device_stream front;
	struct cpu_stream *next; /* of the device's */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work; /* enqueued moved, or stop */
	pthread_cond_t done; /* completed reached `awaited` */
	uint64_t enqueued, completed;
	uint64_t awaited; /* the first item that somebody waits for on `done`, or UINT64_MAX */
	bool stop;
	uint64_t busy_ns;
	struct span spans[DEVICE_SPANS_MAX]; /* the thread's */
	unsigned span_count;
	struct item queue[QUEUE_ITEMS];
};

struct cpu_event {
	struct device_event front;
	struct cpu_event *next;
	pthread_mutex_t lock;
	struct cpu_stream *stream; /* NULL: never recorded */
	uint64_t item;
};

struct cpu_device {
	struct device front;
	struct cpu_team *team;
	size_t arena_bytes; /* mapped: the budget in whole pages */
	/* Opened by any thread, walked by free only; under front.lock. */
	struct cpu_stream *streams;
	struct cpu_event *events;
};

cpu_op_fn *const cpu_ops[DEVICE_OP_COUNT] = {
	[OP_LINEAR_FORWARD] = cpu_linear_forward,
	[OP_LINEAR_BACKWARD_INPUT] = cpu_linear_backward_input,
	[OP_LINEAR_BACKWARD_WEIGHT] = cpu_linear_backward_weight,
	[OP_LAYERNORM_FORWARD] = cpu_layernorm_forward,
	[OP_LAYERNORM_BACKWARD] = cpu_layernorm_backward,
	[OP_RMSNORM_FORWARD] = cpu_rmsnorm_forward,
	[OP_RMSNORM_BACKWARD] = cpu_rmsnorm_backward,
	[OP_ROTARY] = cpu_rotary,
	[OP_ATTENTION_FORWARD] = cpu_attention_forward,
	[OP_ATTENTION_BACKWARD] = cpu_attention_backward,
	[OP_GELU_FORWARD] = cpu_gelu_forward,
	[OP_GELU_BACKWARD] = cpu_gelu_backward,
	[OP_SWIGLU_FORWARD] = cpu_swiglu_forward,
	[OP_SWIGLU_BACKWARD] = cpu_swiglu_backward,
	[OP_EMBEDDING_FORWARD] = cpu_embedding_forward,
	[OP_EMBEDDING_BACKWARD] = cpu_embedding_backward,
	[OP_CROSS_ENTROPY] = cpu_cross_entropy,
	[OP_VECTOR_ADD] = cpu_vector_add,
	[OP_VECTOR_CONVERT] = cpu_vector_convert,
	[OP_VECTOR_ACCUMULATE] = cpu_vector_accumulate,
	[OP_VECTOR_SUMSQ] = cpu_vector_sumsq,
	[OP_ADAM] = cpu_adam,
	[OP_OPTIMIZER] = cpu_optimizer,
};

static int arena_map(struct cpu_device *d, struct err *err);
static void *stream_main(void *arg);
static struct item *item_begin(struct cpu_stream *s, enum item_kind kind, const char *name,
			       uint64_t bytes);
static void item_end(struct cpu_stream *s);
static void await(struct cpu_stream *s, uint64_t item);
static bool wait_for(struct cpu_stream *s, uint64_t item);

static int cpu_open(const struct device_config *config, struct device **ret, struct err *err)
{
	struct cpu_device *d;
	int rc;

	if (config->threads < 1)
		return err_set(err, ERR_CONFIG, "a cpu device needs at least one thread");
	rc = blas_load(err);
	if (rc < 0)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_sys(err, -ENOMEM, "cpu device");
	rc = device_init(&d->front, &device_backend_cpu, config);
	if (rc < 0) {
		err_sys(err, rc, "cpu device");
		goto fail_device;
	}
	rc = arena_map(d, err);
	if (rc < 0)
		goto fail_init;
	rc = cpu_team_open(config->threads, &d->team, err);
	if (rc < 0)
		goto fail_arena;
	*ret = &d->front;
	return 0;
fail_arena:
	munmap(d->front.arena, d->arena_bytes);
fail_init:
	device_done(&d->front);
fail_device:
	free(d);
	return rc;
}

static int arena_map(struct cpu_device *d, struct err *err)
{
	uint64_t budget = d->front.config.memory_bytes;
	void *p;

	/* Whole pages, and one at least, since mmap refuses nothing. */
	if (budget > SIZE_MAX - DEVICE_ALIGN)
		return err_sys(err, -ENOMEM, "cannot map %llu bytes of device memory",
			       (unsigned long long)budget);
	d->arena_bytes = budget ? parts_of(budget, DEVICE_ALIGN) * DEVICE_ALIGN : DEVICE_ALIGN;
	p = mmap(NULL, d->arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return err_sys(err, -errno, "cannot map %llu bytes of device memory",
			       (unsigned long long)budget);
	d->front.arena = p;
	return 0;
}

static void stream_free(struct cpu_stream *s)
{
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	pthread_cond_destroy(&s->done);
	pthread_cond_destroy(&s->work);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void cpu_free(struct device *device)
{
	struct cpu_device *d = (struct cpu_device *)device;
	struct cpu_stream *s, *next_stream;
	struct cpu_event *e, *next_event;

	/* All streams run dry before the first goes: an item may wait for another stream's. */
	for (s = d->streams; s; s = s->next)
		wait_for(s, s->enqueued);
	for (s = d->streams; s; s = next_stream) {
		next_stream = s->next;
		stream_free(s);
	}
	for (e = d->events; e; e = next_event) {
		next_event = e->next;
		pthread_mutex_destroy(&e->lock);
		free(e);
	}
	cpu_team_free(d->team);
	munmap(d->front.arena, d->arena_bytes);
	device_done(&d->front);
	free(d);
}

static int cpu_host_register(struct device *device, void *base, size_t bytes, struct err *err)
{
	(void)device, (void)base, (void)bytes, (void)err;
	return 0;
}

static void cpu_host_unregister(struct device *device, void *base)
{
	(void)device, (void)base;
}

static int thread_start(struct cpu_stream *s)
{
	char name[16]; /* what Linux keeps of a thread's name */
	sigset_t all, old;
	int rc;

	/* Signals are for the process's own threads to take. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	rc = -pthread_create(&s->thread, NULL, stream_main, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return rc;
	strncpy(name, s->front.name, sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	/* A name that cannot be set is a thread without a name, and works. */
	(void)pthread_setname_np(s->thread, name);
	return 0;
}

static int cpu_stream_open(struct device *device, const char *name, struct device_stream **ret,
			   struct err *err)
{
	struct cpu_device *d = (struct cpu_device *)device;
	struct cpu_stream *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_sys(err, -ENOMEM, "stream %s", name);
	s->front.device = device;
	s->front.name = name;
	s->awaited = UINT64_MAX;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->done, NULL);
	rc = thread_start(s);
	if (rc) {
		pthread_cond_destroy(&s->done);
		pthread_cond_destroy(&s->work);
		pthread_mutex_destroy(&s->lock);
		free(s);
		return err_sys(err, rc, "cannot start the thread of stream %s", name);
	}
	pthread_mutex_lock(&device->lock);
	s->next = d->streams;
	d->streams = s;
	pthread_mutex_unlock(&device->lock);
	*ret = &s->front;
	return 0;
}

static void cpu_stream_sync(struct device_stream *stream)
{
	struct cpu_stream *s = (struct cpu_stream *)stream;
	uint64_t last;

	pthread_mutex_lock(&s->lock);
	last = s->enqueued;
	pthread_mutex_unlock(&s->lock);
	wait_for(s, last);
}

/* Nobody else can enqueue on a stream of the cpu's. */
static void *cpu_stream_native(struct device_stream *stream)
{
	(void)stream;
	return NULL;
}

static double cpu_stream_busy(struct device_stream *stream)
{
	struct cpu_stream *s = (struct cpu_stream *)stream;
	uint64_t ns;

	pthread_mutex_lock(&s->lock);
	ns = s->busy_ns;
	pthread_mutex_unlock(&s->lock);
	return (double)ns * 1e-9;
}

static int cpu_event_open(struct device *device, struct device_event **ret, struct err *err)
{
	struct cpu_device *d = (struct cpu_device *)device;
	struct cpu_event *e = calloc(1, sizeof(*e));

	if (!e)
		return err_sys(err, -ENOMEM, "event");
	e->front.device = device;
	pthread_mutex_init(&e->lock, NULL);
	pthread_mutex_lock(&device->lock);
	e->next = d->events;
	d->events = e;
	pthread_mutex_unlock(&device->lock);
	*ret = &e->front;
	return 0;
}

static void cpu_event_record(struct device_event *event, struct device_stream *stream)
{
	struct cpu_event *e = (struct cpu_event *)event;
	struct cpu_stream *s = (struct cpu_stream *)stream;
	uint64_t last;

	pthread_mutex_lock(&s->lock);
	last = s->enqueued;
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_lock(&e->lock);
	e->stream = s;
	e->item = last;
	pthread_mutex_unlock(&e->lock);
}

static void event_place(struct cpu_event *e, struct cpu_stream **ret_stream, uint64_t *ret_item)
{
	pthread_mutex_lock(&e->lock);
	*ret_stream = e->stream;
	*ret_item = e->item;
	pthread_mutex_unlock(&e->lock);
}

static void cpu_event_sync(struct device_event *event)
{
	struct cpu_stream *s;
	uint64_t item;

	event_place((struct cpu_event *)event, &s, &item);
	if (s)
		wait_for(s, item);
}

static bool cpu_event_query(struct device_event *event)
{
	struct cpu_stream *s;
	uint64_t item;
	bool complete;

	event_place((struct cpu_event *)event, &s, &item);
	if (!s)
		return true;
	pthread_mutex_lock(&s->lock);
	complete = s->completed >= item;
	pthread_mutex_unlock(&s->lock);
	return complete;
}

static void cpu_stream_wait(struct device_stream *stream, struct device_event *event)
{
	struct cpu_stream *s = (struct cpu_stream *)stream, *other;
	struct item *it;
	uint64_t item;

	event_place((struct cpu_event *)event, &other, &item);
	if (!other || other == s)
		return; /* a stream is in order with itself */
	it = item_begin(s, ITEM_WAIT, NULL, 0);
	it->u.wait.stream = other;
	it->u.wait.item = item;
	item_end(s);
}

static void cpu_launch(struct device_stream *stream, enum device_op op, const void *args,
		       size_t args_bytes)
{
	struct cpu_stream *s = (struct cpu_stream *)stream;
	struct item *it = item_begin(s, ITEM_OP, device_op_name(op), 0);

	it->op = op;
	memcpy(it->u.args, args, args_bytes);
	item_end(s);
}

static void cpu_copy(struct device_stream *stream, void *dst, const void *src, size_t bytes,
		     enum device_copy direction)
{
	struct cpu_stream *s = (struct cpu_stream *)stream;
	struct item *it = item_begin(s, ITEM_COPY, device_copy_name(direction), bytes);

	it->u.copy.dst = dst;
	it->u.copy.src = src;
	it->u.copy.bytes = bytes;
	item_end(s);
}

static void cpu_zero(struct device_stream *stream, void *dst, size_t bytes)
{
	struct cpu_stream *s = (struct cpu_stream *)stream;
	struct item *it = item_begin(s, ITEM_ZERO, "zero", bytes);

	it->u.copy.dst = dst;
	it->u.copy.bytes = bytes;
	item_end(s);
}

static void cpu_host(struct device_stream *stream, device_host_fn *fn, void *arg)
{
	struct cpu_stream *s = (struct cpu_stream *)stream;
	struct item *it = item_begin(s, ITEM_HOST, "host function", 0);

	it->u.host.fn = fn;
	it->u.host.arg = arg;
	item_end(s);
}

static int cpu_trace(struct device_stream *stream, struct err *err)
{
	(void)stream, (void)err; /* the lane is there, which is all that is needed */
	return 0;
}

static void cpu_span_begin(struct device_stream *stream, enum trace_state state,
			   const struct device_label *label)
{
	struct cpu_stream *s = (struct cpu_stream *)stream;
	struct item *it = item_begin(s, ITEM_SPAN_BEGIN, NULL, 0);

	it->label = *label;
	it->u.span = state;
	item_end(s);
}

static void cpu_span_end(struct device_stream *stream)
{
	struct cpu_stream *s = (struct cpu_stream *)stream;

	item_begin(s, ITEM_SPAN_END, NULL, 0);
	item_end(s);
}

const struct device_backend device_backend_cpu = {
	.open = cpu_open,
	.free = cpu_free,
	.host_register = cpu_host_register,
	.host_unregister = cpu_host_unregister,
	.stream_open = cpu_stream_open,
	.stream_sync = cpu_stream_sync,
	.stream_native = cpu_stream_native,
	.stream_busy = cpu_stream_busy,
	.event_open = cpu_event_open,
	.event_record = cpu_event_record,
	.event_sync = cpu_event_sync,
	.event_query = cpu_event_query,
	.stream_wait = cpu_stream_wait,
	.launch = cpu_launch,
	.copy = cpu_copy,
	.zero = cpu_zero,
	.host = cpu_host,
	.trace = cpu_trace,
	.span_begin = cpu_span_begin,
	.span_end = cpu_span_end,
};

/*
 * The slot of the next item, with its label but for waits and spans, which have none of their own;
 * when the queue is full, waits until half of it is free, rather than wake for each item. Holds the
 * lock until item_end.
 */
static struct item *item_begin(struct cpu_stream *s, enum item_kind kind, const char *name,
			       uint64_t bytes)
{
	uint64_t began;
	struct item *it;

	pthread_mutex_lock(&s->lock);
	if (s->enqueued - s->completed == QUEUE_ITEMS) {
		began = trace_begin(s->front.host_lane);
		await(s, s->enqueued - QUEUE_ITEMS / 2);
		trace_end(s->front.host_lane, TRACE_WAIT, "stream full", began, TRACE_NO_UNIT, 0);
	}
	it = &s->queue[s->enqueued % QUEUE_ITEMS];
	it->kind = kind;
	if (name)
		it->label = device_stream_label(&s->front, name, bytes);
	return it;
}

static void item_end(struct cpu_stream *s)
{
	s->enqueued++;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
}

/* Until `item` has completed, under the lock. */
static void await(struct cpu_stream *s, uint64_t item)
{
	while (s->completed < item) {
		if (item < s->awaited)
			s->awaited = item;
		pthread_cond_wait(&s->done, &s->lock);
	}
}

/* Returns whether there was something to wait for. */
static bool wait_for(struct cpu_stream *s, uint64_t item)
{
	bool waited;

	pthread_mutex_lock(&s->lock);
	waited = s->completed < item;
	await(s, item);
	pthread_mutex_unlock(&s->lock);
	return waited;
}

static void host_run(struct device *device, const struct item *it)
{
	struct err err = {0};
	int rc = it->u.host.fn(it->u.host.arg, &err);

	if (rc >= 0)
		return;
	if (err.code >= 0)
		err_set(&err, rc, "a host function failed: %s", err_str(rc));
	device_fail(device, &err);
}

static void wait_run(struct cpu_stream *s, const struct item *it)
{
	struct cpu_stream *other = it->u.wait.stream;
	uint64_t began = trace_begin(s->front.lane);

	if (wait_for(other, it->u.wait.item))
		trace_end(s->front.lane, TRACE_WAIT, other->front.name, began, TRACE_NO_UNIT, 0);
}

static void span_run(struct cpu_stream *s, const struct item *it)
{
	const struct span *span;

	if (it->kind == ITEM_SPAN_BEGIN) {
		s->spans[s->span_count++] = (struct span){it->label, it->u.span, trace_now_ns()};
		return;
	}
	span = &s->spans[--s->span_count];
	trace_end(s->front.lane, span->state, span->label.name, span->began_ns, span->label.unit,
		  span->label.bytes);
}

static void zero_piece(void *arg, size_t part, unsigned worker)
{
	const struct item *it = arg;
	size_t begin = part * ZERO_PIECE;

	(void)worker;
	memset((uint8_t *)it->u.copy.dst + begin, 0, smaller(ZERO_PIECE, it->u.copy.bytes - begin));
}

static void work_run(struct cpu_stream *s, struct item *it)
{
	struct cpu_device *d = (struct cpu_device *)s->front.device;

	switch (it->kind) {
	case ITEM_OP:
		cpu_ops[it->op](d->team, it->u.args);
		break;
	case ITEM_COPY:
		memmove(it->u.copy.dst, it->u.copy.src, it->u.copy.bytes);
		break;
	case ITEM_ZERO:
		cpu_team_run(d->team, zero_piece, it, parts_of(it->u.copy.bytes, ZERO_PIECE));
		break;
	case ITEM_HOST:
		host_run(&d->front, it);
		break;
	case ITEM_WAIT:
	case ITEM_SPAN_BEGIN:
	case ITEM_SPAN_END:
		break;
	}
}

/* Returns the time it took, without waiting. */
static uint64_t item_run(struct cpu_stream *s, struct item *it)
{
	struct trace_event event = {it->label.name, 0,         0, it->label.bytes,
				    it->label.unit, TRACE_BUSY};

	switch (it->kind) {
	case ITEM_WAIT:
		wait_run(s, it);
		return 0;
	case ITEM_SPAN_BEGIN:
	case ITEM_SPAN_END:
		span_run(s, it);
		return 0;
	default:
		break;
	}
	event.begin_ns = trace_now_ns();
	work_run(s, it);
	event.end_ns = trace_now_ns();
	if (s->front.lane && trace_recording(s->front.lane))
		trace_add(s->front.lane, &event);
	return event.end_ns - event.begin_ns;
}

static void *stream_main(void *arg)
{
	struct cpu_stream *s = arg;
	uint64_t ns;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!s->stop && s->enqueued == s->completed)
			pthread_cond_wait(&s->work, &s->lock);
		if (s->enqueued == s->completed)
			break;
		pthread_mutex_unlock(&s->lock);
		ns = device_running(s->front.device)
			     ? item_run(s, &s->queue[s->completed % QUEUE_ITEMS])
			     : 0;
		pthread_mutex_lock(&s->lock);
		s->busy_ns += ns;
		s->completed++;
		if (s->completed < s->awaited)
			continue;
		/* Whoever still waits says so again. */
		s->awaited = UINT64_MAX;
		pthread_cond_broadcast(&s->done);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}
