/*
 * Goal: every device keeps device.h's promises: order, asynchrony, events, budget, sticky errors.
 *
 * Method: each test runs on the cpu device and on the cuda device, which stands on the host shim of
 * tests/cuda_host/. Host functions observe the order in which streams run; a gate (a semaphore a
 * host function waits on) holds a stream where a test wants it, so nothing depends on time. Shared
 * counters are plain variables: the promised order is all that protects them, and ThreadSanitizer
 * watches. The last tests make the k-th allocation, mapping, thread, CUDA call or piece of work
 * fail, for every k.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/trace_text.h"
#include "common/units.h"
#include "kernels/device.h"
#include "kernels/vector.h"

#define MIB         (1u << 20)
#define QUEUE_ITEMS 256 /* as device_cpu.c has it */

static struct device *device;
static struct err err;

static unsigned fail_at; /* the call that fails, counted down; 0: none */

static bool fault(void)
{
	return fail_at > 0 && --fail_at == 0;
}

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes)
{
	return fault() ? NULL : __real_calloc(count, bytes);
}

void *__real_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
	if (fault()) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return __real_mmap(at, len, prot, flags, fd, offset);
}

int __real_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return fault() ? EAGAIN : __real_pthread_create(id, attr, fn, arg);
}

/* `type` is a loop test's _i; the budget is beside what the device takes for itself. */
static void open_device(int type, uint64_t memory_bytes, unsigned threads)
{
	const uint64_t own_bytes = device_own_bytes((enum device_type)type);
	struct device_config config = {.type = (enum device_type)type,
				       .index = 1,
				       .memory_bytes = own_bytes + memory_bytes,
				       .threads = threads};

	memset(&err, 0, sizeof(err));
	ck_assert_msg(device_open(&config, &device, &err) == 0, "%s", err.text);
}

static struct device_stream *open_stream(void)
{
	struct device_stream *s;

	ck_assert_msg(device_stream_open(device, "test", &s, &err) == 0, "%s", err.text);
	return s;
}

static struct device_event *open_event(void)
{
	struct device_event *e;

	ck_assert_msg(device_event_open(device, &e, &err) == 0, "%s", err.text);
	return e;
}

/* What is in the device's memory. */
static void look(void *host, const void *p, size_t bytes)
{
	struct device_stream *s = open_stream();

	device_copy(s, host, p, bytes, DEVICE_COPY_OUT);
	ck_assert_msg(device_stream_sync(s, &err) == 0, "%s", err.text);
}

static int gate(void *arg, struct err *e)
{
	(void)e;
	while (sem_wait(arg) < 0)
		continue;
	return 0;
}

struct tick {
	unsigned *counter, expected;
	bool wrong;
};

static int tick(void *arg, struct err *e)
{
	struct tick *t = arg;

	(void)e;
	t->wrong = *t->counter != t->expected;
	++*t->counter;
	return 0;
}

START_TEST(a_stream_runs_in_order)
{
	static struct tick ticks[4 * QUEUE_ITEMS + 3];
	const unsigned count = sizeof(ticks) / sizeof(ticks[0]);
	struct device_stream *s;
	unsigned counter = 0;

	open_device(_i, MIB, 1);
	s = open_stream();
	for (unsigned i = 0; i < count; i++) {
		ticks[i] = (struct tick){&counter, i, true};
		device_host(s, tick, &ticks[i]);
	}
	ck_assert_int_eq(device_stream_sync(s, &err), 0);
	ck_assert_uint_eq(counter, count);
	for (unsigned i = 0; i < count; i++)
		ck_assert(!ticks[i].wrong);
	device = device_free(device);
}
END_TEST

START_TEST(enqueueing_does_not_wait_for_the_work)
{
	struct device_stream *s;
	struct device_event *e;
	unsigned counter = 0;
	struct tick t = {&counter, 0, true};
	sem_t open;

	sem_init(&open, 0, 0);
	open_device(_i, MIB, 1);
	s = open_stream();
	e = open_event();
	device_host(s, gate, &open);
	device_host(s, tick, &t);
	device_event_record(e, s);
	ck_assert_int_eq(device_event_query(e, &err), 0);
	sem_post(&open);
	ck_assert_int_eq(device_event_sync(e, &err), 0);
	ck_assert_int_eq(device_event_query(e, &err), 1);
	ck_assert_uint_eq(counter, 1);
	device = device_free(device);
	sem_destroy(&open);
}
END_TEST

struct feeder {
	struct device_stream *stream;
	unsigned counter;
	atomic_uint fed;
	struct tick ticks[2 * QUEUE_ITEMS];
};

static void *feed(void *arg)
{
	struct feeder *f = arg;

	for (unsigned i = 0; i < 2 * QUEUE_ITEMS; i++) {
		f->ticks[i] = (struct tick){&f->counter, i, true};
		device_host(f->stream, tick, &f->ticks[i]);
		atomic_fetch_add_explicit(&f->fed, 1, memory_order_release);
	}
	return NULL;
}

START_TEST(a_full_queue_makes_the_caller_wait)
{
	static struct feeder f;
	pthread_t id;
	sem_t open;

	memset(&f, 0, sizeof(f));
	sem_init(&open, 0, 0);
	open_device(_i, MIB, 1);
	f.stream = open_stream();
	device_host(f.stream, gate, &open);
	ck_assert_int_eq(pthread_create(&id, NULL, feed, &f), 0);
	while (atomic_load_explicit(&f.fed, memory_order_acquire) < QUEUE_ITEMS - 1)
		sched_yield();
	/* The gate holds one place: the next one waits, however long we look. */
	for (int i = 0; i < 1000; i++) {
		sched_yield();
		ck_assert_uint_eq(atomic_load_explicit(&f.fed, memory_order_acquire),
				  QUEUE_ITEMS - 1);
	}
	sem_post(&open);
	pthread_join(id, NULL);
	ck_assert_int_eq(device_stream_sync(f.stream, &err), 0);
	ck_assert_uint_eq(f.counter, 2 * QUEUE_ITEMS);
	device = device_free(device);
	sem_destroy(&open);
}
END_TEST

START_TEST(an_event_orders_streams)
{
	enum { STREAMS = 4, ROUNDS = 2000 };
	static struct tick ticks[ROUNDS];
	struct device_stream *s[STREAMS];
	struct device_event *e[STREAMS];
	unsigned counter = 0;

	open_device(_i, MIB, 1);
	for (unsigned i = 0; i < STREAMS; i++) {
		s[i] = open_stream();
		e[i] = open_event();
	}
	for (unsigned i = 0; i < ROUNDS; i++) {
		ticks[i] = (struct tick){&counter, i, true};
		if (i > 0)
			device_stream_wait(s[i % STREAMS], e[(i - 1) % STREAMS]);
		device_host(s[i % STREAMS], tick, &ticks[i]);
		device_event_record(e[i % STREAMS], s[i % STREAMS]);
	}
	ck_assert_int_eq(device_event_sync(e[(ROUNDS - 1) % STREAMS], &err), 0);
	ck_assert_uint_eq(counter, ROUNDS);
	for (unsigned i = 0; i < ROUNDS; i++)
		ck_assert(!ticks[i].wrong);
	device = device_free(device);
}
END_TEST

START_TEST(a_wait_is_for_the_record_before_it)
{
	struct device_stream *a, *b;
	struct device_event *e, *never;
	sem_t open;

	sem_init(&open, 0, 0);
	open_device(_i, MIB, 1);
	a = open_stream();
	b = open_stream();
	e = open_event();
	never = open_event();
	device_event_record(e, a);
	device_stream_wait(b, e);
	device_stream_wait(b, never);
	device_host(a, gate, &open);
	device_event_record(e, a);
	/* b waits for what was recorded first, so this returns with the gate still shut. */
	ck_assert_int_eq(device_stream_sync(b, &err), 0);
	ck_assert_int_eq(device_event_query(e, &err), 0);
	ck_assert_int_eq(device_event_query(never, &err), 1);
	ck_assert_int_eq(device_event_sync(never, &err), 0);
	sem_post(&open);
	ck_assert_int_eq(device_event_sync(e, &err), 0);
	device = device_free(device);
	sem_destroy(&open);
}
END_TEST

/* Several threads, each feeding its own stream, with operations that share the team. */
struct worker {
	struct device_stream *stream;
	float *out, *a, *b;
	size_t count;
};

static void *feed_operations(void *arg)
{
	struct worker *w = arg;
	struct vector v = {.count = w->count, .a = w->a, .b = w->b, .out = w->out};

	for (int i = 0; i < 20; i++) {
		vector_add(w->stream, &v);
		v.a = w->out;
	}
	return NULL;
}

START_TEST(streams_share_the_team)
{
	enum { WORKERS = 3, COUNT = 100001 };
	struct worker w[WORKERS];
	pthread_t id[WORKERS];

	open_device(_i, 16 * MIB, 3);
	for (int i = 0; i < WORKERS; i++) {
		w[i].stream = open_stream();
		w[i].count = COUNT;
		w[i].out = device_alloc(device, COUNT * sizeof(float), "out", &err);
		w[i].a = device_alloc(device, COUNT * sizeof(float), "a", &err);
		w[i].b = device_alloc(device, COUNT * sizeof(float), "b", &err);
		for (size_t j = 0; j < COUNT; j++)
			w[i].b[j] = (float)(i + 1);
	}
	for (int i = 0; i < WORKERS; i++)
		ck_assert_int_eq(pthread_create(&id[i], NULL, feed_operations, &w[i]), 0);
	for (int i = 0; i < WORKERS; i++)
		pthread_join(id[i], NULL);
	for (int i = 0; i < WORKERS; i++) {
		ck_assert_int_eq(device_stream_sync(w[i].stream, &err), 0);
		for (size_t j = 0; j < COUNT; j++)
			ck_assert(w[i].out[j] == (float)(20 * (i + 1)));
		ck_assert(device_stream_busy(w[i].stream) > 0);
	}
	device = device_free(device);
}
END_TEST

START_TEST(copies_and_zeroes)
{
	struct device_stream *s;
	char host[1000], back[1000], *p, *q;

	for (size_t i = 0; i < sizeof(host); i++)
		host[i] = (char)i;
	open_device(_i, MIB, 1);
	s = open_stream();
	p = device_alloc(device, sizeof(host), "p", &err);
	q = device_alloc(device, sizeof(host), "q", &err);
	device_copy(s, p, host, sizeof(host), DEVICE_COPY_IN);
	device_copy(s, q, p, sizeof(host), DEVICE_COPY_WITHIN);
	device_zero(s, q, 10);
	device_copy(s, back, q, sizeof(host), DEVICE_COPY_OUT);
	ck_assert_int_eq(device_host_register(device, host, sizeof(host), &err), 0);
	ck_assert_int_eq(device_stream_sync(s, &err), 0);
	device_host_unregister(device, host);
	memset(host, 0, 10);
	ck_assert_mem_eq(host, back, sizeof(host));
	device = device_free(device);
}
END_TEST

START_TEST(waiting_is_not_being_busy)
{
	struct device_stream *a, *b;
	struct device_event *e;
	sem_t open;

	sem_init(&open, 0, 0);
	open_device(_i, MIB, 1);
	a = open_stream();
	b = open_stream();
	e = open_event();
	device_host(a, gate, &open);
	device_event_record(e, a);
	device_stream_wait(b, e);
	sem_post(&open);
	ck_assert_int_eq(device_stream_sync(b, &err), 0);
	ck_assert(device_stream_busy(a) > 0);
	ck_assert(device_stream_busy(b) == 0);
	device = device_free(device);
	sem_destroy(&open);
}
END_TEST

START_TEST(the_budget_is_enforced)
{
	uint8_t *p, *q, content[8 * DEVICE_ALIGN];
	char used[UNITS_TEXT_BYTES];
	uint64_t own;

	open_device(_i, 10 * DEVICE_ALIGN + 100, 1);
	own = device_own_bytes((enum device_type)_i);
	ck_assert_uint_eq(device_used_bytes(device), own);
	p = device_alloc(device, 5, "five bytes", &err);
	q = device_alloc(device, 8 * DEVICE_ALIGN, "most of it", &err);
	ck_assert_ptr_nonnull(p);
	ck_assert_ptr_nonnull(q);
	ck_assert_uint_eq((uintptr_t)p % DEVICE_ALIGN, 0);
	ck_assert_uint_eq((uintptr_t)q % DEVICE_ALIGN, 0);
	look(content, q, sizeof(content));
	for (size_t i = 0; i < sizeof(content); i++)
		ck_assert_uint_eq(content[i], 0);
	ck_assert_uint_eq(device_used_bytes(device), own + 9 * DEVICE_ALIGN);
	units_format_bytes(used, own + 9 * DEVICE_ALIGN);
	ck_assert_ptr_null(device_alloc(device, 2 * DEVICE_ALIGN, "activations", &err));
	ck_assert_int_eq(err.code, -ENOMEM);
	ck_assert_msg(strstr(err.text, "activations") && strstr(err.text, "8KiB") &&
			      strstr(err.text, used),
		      "%s", err.text);
	ck_assert_ptr_null(device_alloc(device, UINT64_MAX, "too much", &err));
	/* What remains is still there to the last byte. */
	ck_assert_ptr_nonnull(device_alloc(device, DEVICE_ALIGN + 100, "the rest", &err));
	ck_assert_ptr_null(device_alloc(device, 1, "one more", &err));
	ck_assert_uint_eq(device_used_bytes(device), own + 10 * DEVICE_ALIGN + 100);
	device = device_free(device);
}
END_TEST

START_TEST(untouched_memory_is_not_resident)
{
	static unsigned char resident[64 * MIB / 4096];
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = 64 * MIB / page, count = 0;
	uint8_t *p;

	open_device(DEVICE_CPU, 64 * MIB, 1);
	p = device_alloc(device, 64 * MIB, "everything", &err);
	ck_assert_ptr_nonnull(p);
	p[32 * MIB] = 1;
	ck_assert_int_eq(mincore(p, 64 * MIB, resident), 0);
	for (size_t i = 0; i < pages; i++)
		count += resident[i] & 1;
	ck_assert_uint_eq(count, 1);
	device = device_free(device);
}
END_TEST

static int fail_aloud(void *arg, struct err *e)
{
	return err_set(e, -EIO, "%s", (const char *)arg);
}

static int fail_silently(void *arg, struct err *e)
{
	(void)arg, (void)e;
	return -ENOSPC;
}

START_TEST(the_first_error_sticks)
{
	struct device_stream *a, *b;
	struct device_event *e;
	unsigned counter = 0;
	struct tick t = {&counter, 0, false};

	open_device(_i, MIB, 1);
	a = open_stream();
	b = open_stream();
	e = open_event();
	device_host(a, fail_aloud, (void *)"the disk is gone");
	device_host(a, fail_aloud, (void *)"a consequence");
	device_host(a, tick, &t);
	device_event_record(e, a);
	ck_assert_int_eq(device_stream_sync(a, &err), -EIO);
	ck_assert_str_eq(err.text, "the disk is gone");
	device_stream_wait(b, e);
	device_host(b, tick, &t);
	memset(&err, 0, sizeof(err));
	ck_assert_int_eq(device_stream_sync(b, &err), -EIO);
	ck_assert_str_eq(err.text, "the disk is gone");
	ck_assert_int_eq(device_event_query(e, &err), -EIO);
	ck_assert_int_eq(device_event_sync(e, &err), -EIO);
	ck_assert_uint_eq(counter, 0);
	device = device_free(device);
}
END_TEST

START_TEST(an_error_without_text_gets_one)
{
	struct device_stream *s;

	open_device(_i, MIB, 1);
	s = open_stream();
	device_host(s, fail_silently, NULL);
	ck_assert_int_eq(device_stream_sync(s, &err), -ENOSPC);
	ck_assert_msg(strstr(err.text, err_str(-ENOSPC)) != NULL, "%s", err.text);
	device = device_free(device);
}
END_TEST

START_TEST(free_runs_what_is_enqueued)
{
	struct device_stream *a, *b;
	struct device_event *e;
	unsigned counter = 0;
	struct tick ticks[2] = {{&counter, 0, true}, {&counter, 1, true}};
	sem_t open;

	sem_init(&open, 0, 0);
	open_device(_i, MIB, 1);
	a = open_stream();
	b = open_stream();
	e = open_event();
	device_host(b, gate, &open);
	device_host(b, tick, &ticks[0]);
	device_event_record(e, b);
	device_stream_wait(a, e);
	device_host(a, tick, &ticks[1]);
	sem_post(&open);
	device = device_free(device);
	ck_assert_uint_eq(counter, 2);
	ck_assert(!ticks[0].wrong && !ticks[1].wrong);
	ck_assert_ptr_null(device_free(NULL));
	sem_destroy(&open);
}
END_TEST

START_TEST(what_is_not_there_is_refused)
{
	struct device_config idle = {.type = DEVICE_CPU, .memory_bytes = MIB};
	struct device_config vast = {
		.type = DEVICE_CPU, .memory_bytes = UINT64_MAX - 4095, .threads = 1};

	device = NULL;
	ck_assert_int_eq(device_open(&idle, &device, &err), ERR_CONFIG);
	ck_assert_int_eq(device_open(&vast, &device, &err), -ENOMEM);
	ck_assert_ptr_null(device);
}
END_TEST

/* Opens all there is with the k-th call failing. True when everything opened. */
static bool open_all(unsigned k)
{
	struct device_config config = {.type = DEVICE_CPU, .memory_bytes = MIB, .threads = 3};
	struct device_stream *s;
	struct device_event *e;
	int rc;

	fail_at = k;
	device = NULL;
	memset(&err, 0, sizeof(err));
	rc = device_open(&config, &device, &err);
	if (!rc)
		rc = device_stream_open(device, "stream", &s, &err);
	if (!rc)
		rc = device_event_open(device, &e, &err);
	fail_at = 0;
	ck_assert_int_eq(rc, err.code);
	ck_assert(rc == 0 || err.text[0]);
	device = device_free(device);
	return rc == 0;
}

START_TEST(every_failure_to_open_is_reported)
{
	unsigned k = 1;

	/* The library is loaded by now, so that no call counted is the loader's own. */
	ck_assert(open_all(0));
	while (!open_all(k))
		k++;
	/* Device, map, team, two helpers, stream, its thread, event. */
	ck_assert_uint_eq(k, 9);
}
END_TEST

/* ---- tracing ---- */

struct seen {
	char name[TRACE_NAME_BYTES];
	struct trace_line event;
};

/* What was recorded in the first `lanes` lanes, lane by lane. */
static size_t take_events(struct trace *trace, struct seen *seen, size_t room)
{
	static char text[65536], names[TRACE_NAME_IDS][TRACE_NAME_BYTES];
	const char *at = text, *end = text + trace_take(trace, text, sizeof(text));
	struct trace_line line;
	size_t count = 0;

	while (trace_text_next(&at, end, &line) > 0) {
		if (line.type == TRACE_LINE_NAME)
			strcpy(names[line.id], line.name);
		if (line.type != TRACE_LINE_EVENT)
			continue;
		ck_assert_uint_lt(count, room);
		strcpy(seen[count].name, names[line.id]);
		seen[count++].event = line;
	}
	ck_assert_ptr_eq(at, end);
	return count;
}

static void expect(const struct seen *s, unsigned lane, enum trace_state state, const char *name,
		   uint32_t unit, uint64_t bytes)
{
	ck_assert_str_eq(s->name, name);
	ck_assert_uint_eq(s->event.lane, lane);
	ck_assert_uint_eq(s->event.state, state);
	ck_assert_uint_eq(s->event.unit, unit);
	ck_assert_uint_eq(s->event.bytes, bytes);
	ck_assert_uint_le(s->event.begin_ns, s->event.end_ns);
}

static struct trace_lane *open_lane(struct trace *trace, const char *name)
{
	struct trace_lane *lane;

	ck_assert_int_eq(trace_lane_open(trace, TRACE_TRANSFER, name, 1024, &lane, &err), 0);
	return lane;
}

START_TEST(a_trace_tells_what_streams_did)
{
	struct trace *trace;
	struct device_stream *a, *b;
	struct device_event *e;
	struct seen seen[8];
	char from[64] = "abc";
	sem_t open;

	sem_init(&open, 0, 0);
	ck_assert_int_eq(trace_open(&trace, &err), 0);
	open_device(DEVICE_CPU, MIB, 1);
	a = open_stream();
	b = open_stream();
	e = open_event();
	ck_assert_int_eq(device_stream_trace(a, open_lane(trace, "a"), NULL, &err), 0);
	ck_assert_int_eq(device_stream_trace(b, open_lane(trace, "b"), NULL, &err), 0);
	char *to = device_alloc(device, sizeof(from), "a buffer", &err);
	/* Not yet. */
	device_span_begin(a, TRACE_SPAN, "early", 0);
	device_copy(a, to, from, sizeof(from), DEVICE_COPY_IN);
	ck_assert_int_eq(device_stream_sync(a, &err), 0);
	trace_record(trace, true);
	device_span_end(a);
	device_stream_unit(a, 7);
	device_span_begin(a, TRACE_SPAN, "phase", 5);
	device_copy(a, to, from, sizeof(from), DEVICE_COPY_IN);
	device_stream_name(a, "gate", 9);
	device_host(a, gate, &open);
	device_event_record(e, a);
	device_span_begin(a, TRACE_BUSY, "library", 1);
	device_span_end(a);
	device_span_end(a);
	device_stream_unit(a, TRACE_NO_UNIT);
	device_zero(a, to, 16);
	device_stream_wait(b, e);
	device_stream_name(b, "behind the wait", 0);
	device_zero(b, to + 32, 8);
	sem_post(&open);
	ck_assert_int_eq(device_stream_sync(b, &err), 0);
	ck_assert_int_eq(device_stream_sync(a, &err), 0);
	size_t count = take_events(trace, seen, 8);
	ck_assert_uint_ge(count, 6);
	expect(&seen[0], 0, TRACE_BUSY, "copy in", 7, sizeof(from));
	expect(&seen[1], 0, TRACE_BUSY, "gate", 7, 9);
	expect(&seen[2], 0, TRACE_BUSY, "library", 7, 1);
	expect(&seen[3], 0, TRACE_SPAN, "phase", 7, 5);
	expect(&seen[4], 0, TRACE_BUSY, "zero", TRACE_NO_UNIT, 16);
	ck_assert_uint_ge(seen[0].event.begin_ns, seen[3].event.begin_ns);
	ck_assert_uint_le(seen[2].event.end_ns, seen[3].event.end_ns);
	/* b had to wait unless it came to that so late that nobody held it any more. */
	if (count == 7)
		expect(&seen[5], 1, TRACE_WAIT, "test", TRACE_NO_UNIT, 0);
	expect(&seen[count - 1], 1, TRACE_BUSY, "behind the wait", TRACE_NO_UNIT, 0);
	device_trace_collect(device);
	device = device_free(device);
	trace = trace_free(trace);
	sem_destroy(&open);
}
END_TEST

START_TEST(a_full_stream_is_the_callers_wait)
{
	struct trace *trace;
	struct trace_lane *lane, *host;
	struct device_stream *s;
	static struct seen seen[QUEUE_ITEMS + 8];
	struct tick ticks[QUEUE_ITEMS + 2];
	unsigned counter = 0;

	ck_assert_int_eq(trace_open(&trace, &err), 0);
	host = open_lane(trace, "caller");
	lane = open_lane(trace, "stream");
	open_device(DEVICE_CPU, MIB, 1);
	s = open_stream();
	ck_assert_int_eq(device_stream_trace(s, lane, host, &err), 0);
	trace_record(trace, true);
	for (unsigned i = 0; i < QUEUE_ITEMS + 2; i++) {
		ticks[i] = (struct tick){&counter, i, false};
		device_host(s, tick, &ticks[i]);
	}
	ck_assert_int_eq(device_stream_sync(s, &err), 0);
	size_t count = take_events(trace, seen, QUEUE_ITEMS + 8), full = 0;
	for (; full < count && seen[full].event.lane == 0; full++)
		expect(&seen[full], 0, TRACE_WAIT, "stream full", TRACE_NO_UNIT, 0);
	ck_assert_uint_eq(count - full, QUEUE_ITEMS + 2);
	device = device_free(device);
	trace = trace_free(trace);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("device");
	TCase *tc = tcase_create("device");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, a_stream_runs_in_order, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, enqueueing_does_not_wait_for_the_work, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, a_full_queue_makes_the_caller_wait, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, an_event_orders_streams, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, a_wait_is_for_the_record_before_it, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, streams_share_the_team, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, copies_and_zeroes, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, waiting_is_not_being_busy, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, the_budget_is_enforced, 0, DEVICE_TYPE_COUNT);
	tcase_add_test(tc, untouched_memory_is_not_resident);
	tcase_add_loop_test(tc, the_first_error_sticks, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, an_error_without_text_gets_one, 0, DEVICE_TYPE_COUNT);
	tcase_add_loop_test(tc, free_runs_what_is_enqueued, 0, DEVICE_TYPE_COUNT);
	tcase_add_test(tc, what_is_not_there_is_refused);
	tcase_add_test(tc, a_trace_tells_what_streams_did);
	tcase_add_test(tc, a_full_stream_is_the_callers_wait);
	tcase_add_test(tc, every_failure_to_open_is_reported);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
