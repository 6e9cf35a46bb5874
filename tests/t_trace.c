/*
 * Goal: what is recorded comes out once, in order and whole, or is counted as dropped; as text that
 * reads back as it was, while any other text is refused; one clock for all processes of a host.
 *
 * Method: expected texts; names and numbers at random through writing and reading; damaged text in
 * buffers of its exact size; writers in threads against a taker; a child's clock between two looks
 * of its parent's; the k-th allocation fails, for every k. Seeds are printed on failure.
 */
#include "common/trace.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/rng.h"
#include "common/trace_text.h"

#define SEED UINT64_C(20241124)

static unsigned fail_at; /* the allocation that fails, counted down; 0: none */

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

void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return fault() ? NULL : __real_aligned_alloc(align, bytes);
}

static struct trace *trace;
static struct err err;
static char text[1 << 20];

static void open_trace(void)
{
	ck_assert_int_eq(trace_open(&trace, &err), 0);
}

static struct trace_lane *open_lane(const char *name, uint32_t capacity)
{
	struct trace_lane *lane;

	ck_assert_int_eq(trace_lane_open(trace, TRACE_THREAD, name, capacity, &lane, &err), 0);
	return lane;
}

static void add(struct trace_lane *lane, uint64_t begin_ns, uint64_t bytes)
{
	const struct trace_event event = {"work", begin_ns, begin_ns + 16, bytes, 3, TRACE_BUSY};

	trace_add(lane, &event);
}

START_TEST(events_come_out_as_text)
{
	struct trace_lane *a, *b;
	char *id;

	open_trace();
	a = open_lane("main thread", 8);
	b = open_lane("100%\n", 8);
	add(b, 0x1234, 0);
	add(a, 0xff, 4096);
	add(a, 0x100, UINT64_MAX);
	ck_assert_uint_eq(trace_take(trace, text, sizeof(text)), strlen(text));
	id = strstr(text, "n ");
	ck_assert_ptr_nonnull(id);
	char want[512], name[8] = "";
	sscanf(id, "n %7s", name);
	snprintf(want, sizeof(want),
		 "l 0 0 main%%20thread\nn %s work\ne 0 1 %s ff 10 3 1000\n"
		 "e 0 1 %s 100 10 3 ffffffffffffffff\nl 1 0 100%%25%%0a\ne 1 1 %s 1234 10 3 0\n",
		 name, name, name, name);
	ck_assert_str_eq(text, want);
	ck_assert_uint_eq(trace_take(trace, text, sizeof(text)), 0);
	ck_assert_str_eq(text, "");
	add(b, 1, 1);
	ck_assert_uint_gt(trace_take(trace, text, sizeof(text)), 0);
	ck_assert_ptr_null(strpbrk(text, "ln"));
	trace = trace_free(trace);
}
END_TEST

START_TEST(what_does_not_fit_is_counted)
{
	struct trace_lane *lane;

	open_trace();
	lane = open_lane("full", 4);
	for (uint64_t i = 0; i < 4; i++) {
		ck_assert(trace_pressing(trace) == (i >= 2));
		add(lane, i, 0);
	}
	for (uint64_t i = 4; i < 0x19; i++)
		add(lane, i, 0);
	trace_take(trace, text, sizeof(text));
	ck_assert_ptr_nonnull(strstr(text, " 3 10 3 0\nx 0 15\n"));
	ck_assert_ptr_null(strstr(text, " 4 10 3 0\n"));
	ck_assert(!trace_pressing(trace));
	/* There is room again, and the count goes on. */
	for (uint64_t i = 0; i < 5; i++)
		add(lane, 0x20 + i, 0);
	trace_take(trace, text, sizeof(text));
	ck_assert_ptr_nonnull(strstr(text, " 23 10 3 0\nx 0 16\n"));
	trace = trace_free(trace);
}
END_TEST

START_TEST(small_texts_hold_whole_lines)
{
	char part[TRACE_TEXT_ROOM_MIN + 200];
	size_t len, total = 0, events = 0;
	struct trace_lane *lane;

	open_trace();
	lane = open_lane("lane", 1024);
	for (uint64_t i = 0; i < 1000; i++)
		add(lane, i, i);
	while ((len = trace_take(trace, part, sizeof(part))) > 0) {
		ck_assert_uint_lt(len, sizeof(part));
		ck_assert_int_eq(part[len - 1], '\n');
		memcpy(text + total, part, len);
		total += len;
	}
	const char *at = text;
	struct trace_line line;
	while (trace_text_next(&at, text + total, &line) > 0) {
		if (line.type != TRACE_LINE_EVENT)
			continue;
		ck_assert_uint_eq(line.begin_ns, events);
		ck_assert_uint_eq(line.bytes, events++);
	}
	ck_assert_ptr_eq(at, text + total);
	ck_assert_uint_eq(events, 1000);
	trace = trace_free(trace);
}
END_TEST

START_TEST(nothing_is_recorded_unless_asked)
{
	struct trace_lane *lane;
	uint64_t began;

	ck_assert_uint_eq(trace_begin(NULL), 0);
	trace_end(NULL, TRACE_BUSY, "nobody", 0, 0, 0);
	open_trace();
	lane = open_lane("lane", 4);
	ck_assert(!trace_recording(lane));
	ck_assert_uint_eq(trace_begin(lane), 0);
	trace_end(lane, TRACE_BUSY, "off", 0, 0, 0);
	trace_record(trace, true);
	began = trace_begin(lane);
	ck_assert_uint_gt(began, 0);
	trace_record(trace, false);
	trace_end(lane, TRACE_WAIT, "on", began, TRACE_NO_UNIT, 0);
	trace_take(trace, text, sizeof(text));
	ck_assert_ptr_null(strstr(text, "off"));
	ck_assert_ptr_nonnull(strstr(text, " ffffffff 0\n"));
	trace = trace_free(trace);
}
END_TEST

START_TEST(too_many_names_are_one)
{
	static char names[TRACE_NAMES_MAX + 100][16];
	struct trace_event event = {NULL, 1, 2, 0, 0, TRACE_SPAN};
	struct trace_line line;
	struct trace_lane *lane;
	unsigned declared = 0, another = 0;
	uint32_t another_id = UINT32_MAX;
	const char *at = text, *end;

	open_trace();
	lane = open_lane("lane", 8192);
	for (size_t i = 0; i < TRACE_NAMES_MAX + 100; i++) {
		snprintf(names[i], sizeof(names[i]), "name %zu", i);
		event.name = names[i];
		trace_add(lane, &event);
	}
	end = text + trace_take(trace, text, sizeof(text));
	while (trace_text_next(&at, end, &line) > 0) {
		if (line.type == TRACE_LINE_NAME && strcmp(line.name, "(another)") == 0)
			another_id = line.id;
		declared += line.type == TRACE_LINE_NAME;
		another += line.type == TRACE_LINE_EVENT && line.id == another_id;
	}
	ck_assert_ptr_eq(at, end);
	ck_assert_uint_eq(declared, TRACE_NAMES_MAX + 1);
	ck_assert_uint_eq(another, 100);
	trace = trace_free(trace);
}
END_TEST

START_TEST(lanes_are_bounded)
{
	struct trace_lane *lane;

	open_trace();
	for (unsigned i = 0; i < TRACE_LANES_MAX; i++)
		open_lane("lane", 1);
	ck_assert_int_eq(trace_lane_open(trace, TRACE_THREAD, "one", 1, &lane, &err), -ENOSPC);
	ck_assert_ptr_nonnull(strstr(err.text, "2048 lanes"));
	trace = trace_free(trace);
	ck_assert_ptr_null(trace_free(NULL));
}
END_TEST

/* ---- text ---- */

static uint64_t random_next(void)
{
	static uint64_t i;
	uint32_t words[4];

	rng_block(SEED, 0, i++, words);
	return ((uint64_t)words[0] << 32 | words[1]) >> words[2] % 64;
}

static void random_name(char *name)
{
	size_t len = random_next() % TRACE_NAME_BYTES;

	for (size_t i = 0; i < len; i++)
		name[i] = (char)(random_next() % 255 + 1);
	name[len] = '\0';
}

START_TEST(text_reads_back)
{
	for (int i = 0; i < 20000; i++) {
		uint32_t lane = random_next() % TRACE_LANES_MAX,
			 id = random_next() % TRACE_NAME_IDS;
		uint64_t begin = random_next() >> 1;
		struct trace_event event = {NULL,
					    begin,
					    begin + (random_next() >> 1) % (INT64_MAX - begin + 1),
					    random_next(),
					    (uint32_t)random_next(),
					    random_next() % TRACE_STATE_COUNT};
		enum trace_kind kind = random_next() % TRACE_KIND_COUNT;
		char name[TRACE_NAME_BYTES];
		struct trace_line l[4];
		const char *at = text;
		char *end;

		random_name(name);
		end = trace_text_lane(text, lane, kind, name);
		ck_assert_int_le(end - text, TRACE_TEXT_LINE_BYTES);
		end = trace_text_name(end, id, name);
		end = trace_text_event(end, lane, id, &event);
		end = trace_text_dropped(end, lane, event.bytes);
		for (int k = 0; k < 4; k++) {
			ck_assert_int_eq(trace_text_next(&at, end, &l[k]), 1);
			ck_assert_int_eq(l[k].type, k);
		}
		ck_assert_int_eq(trace_text_next(&at, end, &l[0]), 0);
		ck_assert(l[0].lane == lane && l[0].kind == kind && l[1].id == id);
		ck_assert_str_eq(l[0].name, name);
		ck_assert_str_eq(l[1].name, name);
		ck_assert(l[2].lane == lane && l[2].id == id && l[2].state == event.state);
		ck_assert(l[2].begin_ns == event.begin_ns && l[2].end_ns == event.end_ns);
		ck_assert(l[2].unit == event.unit && l[2].bytes == event.bytes);
		ck_assert(l[3].lane == lane && l[3].dropped == event.bytes);
	}
}
END_TEST

START_TEST(what_is_no_line_is_refused)
{
	static const char *const bad[] = {
		"l",
		"l 0 0 name",
		"l 0 0\n",
		"l 800 0 n\n",
		"l 0 4 n\n",
		"l 00 0 n\n",
		"l 0 0 %\n",
		"l 0 0 %0\n",
		"l 0 0 %00\n",
		"l 0 0 a b\n",
		"l 0  0 n\n",
		"L 0 0 n\n",
		"\n",
		"n 2000 n\n",
		"n 0 \t\n",
		"x 0\n",
		"x 0 0 0\n",
		"x 0 10000000000000000\n",
		"x 0 A\n",
		"e 0 0 0 1 1 0\n",
		"e 0 3 0 1 1 0 0\n",
		"e 0 0 2000 1 1 0 0\n",
		"e 800 0 0 1 1 0 0\n",
		"e 0 0 0 8000000000000000 0 0 0\n",
		"e 0 0 0 7fffffffffffffff 1 0 0\n",
		"e 0 0 0 1 1 100000000 0\n",
		"e 0 0 0 1 1 0 0 \n",
		"e 0 0 0 1 -1 0 0\n",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *at = bad[i];
		struct trace_line line;

		ck_assert_msg(trace_text_next(&at, at + strlen(at), &line) == -EBADMSG, "'%s'",
			      bad[i]);
		ck_assert_ptr_eq(at, bad[i]);
	}
}
END_TEST

/* A copy of its exact size, so that AddressSanitizer sees a byte read past it. */
START_TEST(damaged_text_harms_nobody)
{
	struct trace_event event = {NULL, 123456789, 223456789, 1 << 20, 7, TRACE_BUSY};
	char *end;

	end = trace_text_lane(text, 17, TRACE_QUEUE, "swap /a directory");
	end = trace_text_name(end, 4711, "read");
	end = trace_text_event(end, 17, 4711, &event);
	end = trace_text_dropped(end, 17, 99);
	for (int i = 0; i < 20000; i++) {
		size_t len = random_next() % (size_t)(end - text + 1);
		char *copy = malloc(len + 1);
		const char *at = copy;
		struct trace_line line;

		memcpy(copy, text, len);
		copy = realloc(copy, len ? len : 1);
		at = copy;
		for (uint64_t n = random_next() % 3; n > 0 && len > 0; n--)
			copy[random_next() % len] = (char)random_next();
		while (trace_text_next(&at, copy + len, &line) > 0)
			ck_assert(line.lane < TRACE_LANES_MAX || line.type == TRACE_LINE_NAME);
		free(copy);
	}
}
END_TEST

/* ---- threads and processes ---- */

#define WRITERS 3
#define EVENTS  UINT64_C(20000)

static void *write_events(void *arg)
{
	for (uint64_t i = 0; i < EVENTS; i++)
		add(arg, i + 1, i);
	return NULL;
}

static void account(const char *at, size_t len, uint64_t last[], uint64_t got[], uint64_t dropped[])
{
	const char *end = at + len;
	struct trace_line l;

	while (trace_text_next(&at, end, &l) > 0) {
		if (l.type == TRACE_LINE_DROPPED)
			dropped[l.lane] = l.dropped;
		if (l.type != TRACE_LINE_EVENT)
			continue;
		ck_assert_uint_gt(l.begin_ns, last[l.lane]);
		ck_assert_uint_eq(l.bytes, l.begin_ns - 1);
		last[l.lane] = l.begin_ns;
		got[l.lane]++;
	}
	ck_assert_ptr_eq(at, end);
}

START_TEST(writers_and_a_taker)
{
	uint64_t last[WRITERS] = {0}, got[WRITERS] = {0}, dropped[WRITERS] = {0}, sum = 0;
	pthread_t threads[WRITERS];
	size_t len;

	open_trace();
	for (int i = 0; i < WRITERS; i++) {
		struct trace_lane *lane = open_lane("writer", 256);

		ck_assert_int_eq(pthread_create(&threads[i], NULL, write_events, lane), 0);
	}
	while (sum < WRITERS * EVENTS) {
		len = trace_take(trace, text, 8192);
		account(text, len, last, got, dropped);
		sum = 0;
		for (int i = 0; i < WRITERS; i++)
			sum += got[i] + dropped[i];
	}
	for (int i = 0; i < WRITERS; i++) {
		pthread_join(threads[i], NULL);
		ck_assert_uint_eq(got[i] + dropped[i], EVENTS);
	}
	ck_assert_uint_eq(trace_take(trace, text, 8192), 0);
	trace = trace_free(trace);
}
END_TEST

START_TEST(processes_share_the_clock)
{
	uint64_t before, child = 0, after;
	int ends[2], status;

	ck_assert_int_eq(pipe(ends), 0);
	before = trace_now_ns();
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		child = trace_now_ns();
		_exit(write(ends[1], &child, sizeof(child)) != sizeof(child));
	}
	ck_assert_int_eq(read(ends[0], &child, sizeof(child)), sizeof(child));
	after = trace_now_ns();
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(before < child && child < after);
	close(ends[0]);
	close(ends[1]);
}
END_TEST

START_TEST(every_failed_allocation_is_reported)
{
	struct trace_lane *lane;
	bool fired = true;
	unsigned k;

	for (k = 1; fired; k++) {
		int rc;

		fail_at = k;
		rc = trace_open(&trace, &err);
		if (rc == 0) {
			rc = trace_lane_open(trace, TRACE_QUEUE, "lane", 8, &lane, &err);
			if (rc == 0)
				add(lane, 1, 1);
			trace = trace_free(trace);
		}
		fired = fail_at == 0;
		fail_at = 0;
		ck_assert_int_eq(rc, fired ? -ENOMEM : 0);
	}
	/* Recorder, lane, its events; the fourth never came. */
	ck_assert_uint_eq(k, 5);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("trace");
	TCase *tc = tcase_create("trace");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, events_come_out_as_text);
	tcase_add_test(tc, what_does_not_fit_is_counted);
	tcase_add_test(tc, small_texts_hold_whole_lines);
	tcase_add_test(tc, nothing_is_recorded_unless_asked);
	tcase_add_test(tc, too_many_names_are_one);
	tcase_add_test(tc, lanes_are_bounded);
	tcase_add_test(tc, text_reads_back);
	tcase_add_test(tc, what_is_no_line_is_refused);
	tcase_add_test(tc, damaged_text_harms_nobody);
	tcase_add_test(tc, writers_and_a_taker);
	tcase_add_test(tc, processes_share_the_clock);
	tcase_add_test(tc, every_failed_allocation_is_reported);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
