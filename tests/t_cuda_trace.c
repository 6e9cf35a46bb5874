/*
 * Goal: a traced cuda device tells of each stream what it ran and when, by the host's clock, as the
 * cpu device does; what it cannot hold is counted; its failures are the device's, and nothing is
 * left behind.
 *
 * Method: the backend on the host shim of tests/cuda_host/, whose events are stamped when the
 * stream's thread comes to them. A gate (a semaphore that a host function waits on) holds a stream
 * and notes the host's time. Then a scenario with the k-th CUDA call failing, for a choice of k.
 */
#include <check.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/trace_text.h"
#include "kernels/device.h"
#include "kernels/internal.h"
#include "tests/cuda_host/shim.h"

#define MIB   (1u << 20)
#define MARKS 4096 /* as trace_cuda.c has it */

/* How far the shim's threads may be from the processor while an anchor is taken. */
#define SLACK_NS UINT64_C(500000000)

static struct err err;
static struct trace *trace;
static struct device *device;

struct gate {
	sem_t open;
	uint64_t began_ns, ended_ns;
};

static int pass(void *arg, struct err *e)
{
	struct gate *g = arg;

	(void)e;
	g->began_ns = trace_now_ns();
	while (sem_wait(&g->open) < 0)
		continue;
	g->ended_ns = trace_now_ns();
	return 0;
}

static void open_device(void)
{
	struct device_config config = {.type = DEVICE_CUDA,
				       .memory_bytes = device_own_bytes(DEVICE_CUDA) + MIB};

	ck_assert_int_eq(trace_open(&trace, &err), 0);
	ck_assert_msg(device_open(&config, &device, &err) == 0, "%s", err.text);
}

static struct device_stream *open_stream(const char *name)
{
	struct trace_lane *lane;
	struct device_stream *s;

	ck_assert_int_eq(trace_lane_open(trace, TRACE_TRANSFER, name, 8192, &lane, &err), 0);
	ck_assert_msg(device_stream_open(device, name, &s, &err) == 0, "%s", err.text);
	ck_assert_msg(device_stream_trace(s, lane, NULL, &err) == 0, "%s", err.text);
	return s;
}

static void close_device(void)
{
	device = device_free(device);
	ck_assert_uint_eq(shim_opened(), 0);
	trace = trace_free(trace);
}

struct seen {
	char name[TRACE_NAME_BYTES];
	struct trace_line event;
};

static uint64_t dropped;

/* What was recorded, lane by lane. */
static size_t take_events(struct seen *seen, size_t room)
{
	static char text[1 << 20], names[TRACE_NAME_IDS][TRACE_NAME_BYTES];
	const char *at = text, *end = text + trace_take(trace, text, sizeof(text));
	struct trace_line line;
	size_t count = 0;

	while (trace_text_next(&at, end, &line) > 0) {
		if (line.type == TRACE_LINE_NAME)
			strcpy(names[line.id], line.name);
		if (line.type == TRACE_LINE_DROPPED)
			dropped = line.dropped;
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

static bool within(const struct trace_line *inner, const struct trace_line *outer)
{
	return inner->begin_ns >= outer->begin_ns && inner->end_ns <= outer->end_ns;
}

/* The host's own times of what went on in the event, with the slack. */
static void expect_time(const struct trace_line *event, const struct gate *g)
{
	ck_assert_uint_le(event->begin_ns, g->began_ns + SLACK_NS);
	ck_assert_uint_ge(event->end_ns + SLACK_NS, g->ended_ns);
	ck_assert_uint_ge(event->begin_ns + 2 * SLACK_NS, g->began_ns);
	ck_assert_uint_le(event->end_ns, g->ended_ns + 2 * SLACK_NS);
}

/* A phase with a copy, a gate and a library's work on `a`; `b` waits for the gate. */
static void enqueue(struct device_stream *a, struct device_stream *b, struct gate *g)
{
	static char from[64];
	struct device_event *e;
	char *to = device_alloc(device, 128, "a buffer", &err);

	ck_assert_int_eq(device_event_open(device, &e, &err), 0);
	device_stream_unit(a, 7);
	device_span_begin(a, TRACE_SPAN, "phase", 5);
	device_copy(a, to, from, sizeof(from), DEVICE_COPY_IN);
	device_stream_name(a, "gate", 9);
	device_host(a, pass, g);
	device_event_record(e, a);
	device_span_begin(a, TRACE_BUSY, "library", 1);
	device_span_end(a);
	device_span_end(a);
	device_stream_unit(a, TRACE_NO_UNIT);
	device_zero(a, to, 16);
	device_stream_wait(b, e);
	device_zero(b, to + 64, 8);
}

static void sync_both(struct device_stream *a, struct device_stream *b)
{
	ck_assert_msg(device_stream_sync(b, &err) == 0, "%s", err.text);
	ck_assert_int_eq(device_stream_sync(a, &err), 0);
}

START_TEST(streams_tell_what_they_did)
{
	struct device_stream *a, *b;
	struct seen seen[8];
	struct gate g;

	open_device();
	sem_init(&g.open, 0, 0);
	a = open_stream("a");
	b = open_stream("b");
	/* Nobody records yet. */
	device_trace_collect(device);
	sem_post(&g.open);
	enqueue(a, b, &g);
	sync_both(a, b);
	device_trace_collect(device);
	ck_assert_uint_eq(take_events(seen, 8), 0);
	trace_record(trace, true);
	enqueue(a, b, &g);
	/* What the GPU has not come to is for the next time: the gate, and all that lies within or
	 * behind the phase that it is in. */
	device_trace_collect(device);
	ck_assert_uint_eq(take_events(seen, 8), 0);
	sem_post(&g.open);
	sync_both(a, b);
	device_trace_collect(device);
	ck_assert_uint_eq(take_events(seen, 8), 7);
	expect(&seen[0], 0, TRACE_SPAN, "phase", 7, 5);
	expect(&seen[1], 0, TRACE_BUSY, "copy in", 7, 64);
	expect(&seen[2], 0, TRACE_BUSY, "gate", 7, 9);
	expect(&seen[3], 0, TRACE_BUSY, "library", 7, 1);
	expect(&seen[4], 0, TRACE_BUSY, "zero", TRACE_NO_UNIT, 16);
	expect(&seen[5], 1, TRACE_WAIT, "another stream", TRACE_NO_UNIT, 0);
	expect(&seen[6], 1, TRACE_BUSY, "zero", TRACE_NO_UNIT, 8);
	for (int i = 1; i < 4; i++) {
		ck_assert(within(&seen[i].event, &seen[0].event));
		ck_assert_uint_ge(seen[i + 1].event.begin_ns, seen[i].event.end_ns);
	}
	ck_assert_uint_ge(seen[6].event.begin_ns, seen[5].event.end_ns);
	expect_time(&seen[2].event, &g);
	close_device();
	sem_destroy(&g.open);
}
END_TEST

/* Of several collections the events of a lane follow each other all the same. */
START_TEST(collections_follow_each_other)
{
	static struct seen seen[300];
	struct device_stream *s;
	uint64_t last_ns = 0;

	open_device();
	s = open_stream("s");
	trace_record(trace, true);
	char *to = device_alloc(device, 4096, "a buffer", &err);
	for (int round = 0; round < 30; round++) {
		for (int i = 0; i < 7; i++)
			device_zero(s, to, 4096);
		/* Sometimes in the middle of things. */
		if (round % 3 == 0)
			ck_assert_int_eq(device_stream_sync(s, &err), 0);
		device_trace_collect(device);
	}
	ck_assert_int_eq(device_stream_sync(s, &err), 0);
	device_trace_collect(device);
	ck_assert_uint_eq(take_events(seen, 300), 30 * 7);
	for (int i = 0; i < 30 * 7; i++) {
		expect(&seen[i], 0, TRACE_BUSY, "zero", TRACE_NO_UNIT, 4096);
		ck_assert_uint_ge(seen[i].event.begin_ns, last_ns);
		last_ns = seen[i].event.end_ns;
	}
	close_device();
}
END_TEST

START_TEST(what_does_not_fit_is_counted)
{
	static struct seen seen[MARKS + 8];
	struct device_stream *s;
	struct gate g;

	open_device();
	sem_init(&g.open, 0, 0);
	s = open_stream("s");
	trace_record(trace, true);
	device_trace_collect(device);
	char *to = device_alloc(device, 16, "a buffer", &err);
	device_host(s, pass, &g);
	for (int i = 0; i < MARKS + 10; i++)
		device_zero(s, to, 16);
	sem_post(&g.open);
	ck_assert_int_eq(device_stream_sync(s, &err), 0);
	/* What the GPU has passed makes room by itself. */
	for (int i = 0; i < 5; i++)
		device_zero(s, to, 16);
	ck_assert_int_eq(device_stream_sync(s, &err), 0);
	device_trace_collect(device);
	dropped = 0;
	ck_assert_uint_eq(take_events(seen, MARKS + 8), MARKS + 5);
	ck_assert_uint_eq(dropped, 11);
	expect(&seen[0], 0, TRACE_BUSY, "host function", TRACE_NO_UNIT, 0);
	close_device();
	sem_destroy(&g.open);
}
END_TEST

/*
 * All of it, with the k-th call failing. False when no call did before everything is given back;
 * else the device must have said so. Nothing may be left.
 */
static bool scenario(unsigned k)
{
	struct device_config config = {.type = DEVICE_CUDA,
				       .memory_bytes = device_own_bytes(DEVICE_CUDA) + MIB};
	struct device_stream *s = NULL;
	struct trace_lane *lane;
	struct device_event *e;
	bool fired;
	int rc;

	ck_assert_int_eq(trace_open(&trace, &err), 0);
	ck_assert_int_eq(trace_lane_open(trace, TRACE_THREAD, "s", 64, &lane, &err), 0);
	shim_call_fail(k);
	rc = device_open(&config, &device, &err);
	if (rc == 0)
		rc = device_stream_open(device, "s", &s, &err);
	if (rc == 0)
		rc = device_event_open(device, &e, &err);
	if (rc == 0)
		rc = device_stream_trace(s, lane, NULL, &err);
	if (rc == 0) {
		char *to = device_alloc(device, 64, "a buffer", &err);

		trace_record(trace, true);
		device_trace_collect(device);
		device_span_begin(s, TRACE_SPAN, "phase", 0);
		device_zero(s, to, 64);
		device_event_record(e, s);
		device_stream_wait(s, e);
		device_span_end(s);
		device_stream_sync(s, &err);
		device_trace_collect(device);
		rc = device_stream_sync(s, &err);
	}
	fired = shim_reset();
	ck_assert_msg(fired == (rc < 0), "call %u: %d, '%s'", k, rc, rc < 0 ? err.text : "");
	device = device_free(device);
	ck_assert_uint_eq(shim_opened(), 0);
	trace = trace_free(trace);
	return fired;
}

/* Most calls make the events of marks: of those a few are chosen. */
START_TEST(calls_that_fail_are_the_devices)
{
	unsigned k = 1;

	while (scenario(k))
		k += k > 200 && k < 2 * MARKS - 700 ? 701 : 1;
	ck_assert_uint_gt(k, 2 * MARKS);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cuda_trace");
	TCase *tc = tcase_create("cuda_trace");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, streams_tell_what_they_did);
	tcase_add_test(tc, collections_follow_each_other);
	tcase_add_test(tc, what_does_not_fit_is_counted);
	tcase_add_test(tc, calls_that_fail_are_the_devices);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
