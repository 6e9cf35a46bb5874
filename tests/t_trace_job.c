/*
 * Goal: dsrun's trace says what ranks reported, and nothing that they did not; its table's figures
 * are right; its file is JSON, with rows that do not overlap, whatever names and times there are.
 *
 * Method: reports by hand, right and wrong ones; tables of random events against a count, tick by
 * tick, of what each lane was doing; the file's members through a scanner of JSON, its rows through
 * a check of nesting; the k-th allocation fails, for every k. Seeds are fixed.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/rng.h"
#include "common/trace_text.h"
#include "launcher/summary.h"
#include "launcher/trace_json.h"
#include "launcher/trace_table.h"
#include "offload/job.h"

#define SEED UINT64_C(41)

static unsigned fail_at; /* the allocation that fails, counted down; 0: none */

static bool fault(void)
{
	return fail_at > 0 && --fail_at == 0;
}

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes)
{
	return fault() ? NULL : __real_malloc(bytes);
}

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes)
{
	return fault() ? NULL : __real_calloc(count, bytes);
}

void *__real_realloc(void *at, size_t bytes);
void *__wrap_realloc(void *at, size_t bytes);
void *__wrap_realloc(void *at, size_t bytes)
{
	return fault() ? NULL : __real_realloc(at, bytes);
}

char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
char *__wrap_strdup(const char *text)
{
	return fault() ? NULL : __real_strdup(text);
}

/* Of three units the second one's state is on the device: the daemon's unit 1 is unit 2. */
static struct plan_unit plan_units[3] = {
	{.place_optimizer = PLACE_CPU, .daemon_idx = 0},
	{.place_optimizer = PLACE_NONE},
	{.place_optimizer = PLACE_NVME, .daemon_idx = 1},
};
static const struct plan plan = {.units = plan_units, .unit_count = 3, .daemon_units = 2};

static struct trace_job *job;
static struct trace_table *table;
static struct err err;
static char file[64];

static void setup(void)
{
	snprintf(file, sizeof(file), "/tmp/t_trace_job.%d.json", (int)getpid());
	ck_assert_int_eq(trace_job_open(2, &plan, &job, &err), 0);
}

static void teardown(void)
{
	table = trace_table_free(table);
	job = trace_job_free(job);
	unlink(file);
}

static int take(unsigned rank, const char *text)
{
	return trace_job_take(job, rank, text, strlen(text), &err);
}

/* ---- taking ---- */

START_TEST(reports_are_gathered)
{
	const struct trace_set *sets = job->sets;

	ck_assert_int_eq(take(1, "worker\nl 0 0 main\nn 7 step\ne 0 1 7 20 8 1 0\n"), 0);
	ck_assert_int_eq(take(1, "worker\ne 0 1 7 10 8 0 ff\nx 0 3\n"), 0);
	ck_assert_int_eq(take(1, "daemon\nl 2 3 swap%20/a\nn 7 read\ne 2 2 7 1 1 ffffffff 0\n"), 0);
	ck_assert_int_eq(take(0, "daemon\n"), 0);
	trace_job_finish(job);
	ck_assert_uint_eq(sets[0].lane_count + sets[1].lane_count, 0);
	ck_assert_uint_eq(sets[2].lane_count, 1);
	ck_assert_uint_eq(sets[2].lanes[0].count, 2);
	ck_assert_uint_eq(sets[2].lanes[0].items[0].begin_ns, 0x10);
	ck_assert_uint_eq(sets[2].lanes[0].items[0].bytes, 255);
	ck_assert_uint_eq(sets[2].lanes[0].items[1].end_ns, 0x28);
	ck_assert_uint_eq(sets[2].lanes[0].dropped, 3);
	ck_assert_str_eq(sets[2].names[7], "step");
	ck_assert_str_eq(sets[3].names[7], "read");
	ck_assert_str_eq(sets[3].lanes[2].name, "swap /a");
	ck_assert_ptr_null(sets[3].lanes[1].name);
	ck_assert_uint_eq(sets[3].lanes[2].kind, TRACE_QUEUE);
}
END_TEST

START_TEST(the_daemons_units_are_numbered_anew)
{
	const struct trace_item *items;

	ck_assert_int_eq(take(0, "daemon\nl 0 0 adam\nn 0 step\ne 0 1 0 1 1 0 0\n"
				 "e 0 1 0 2 1 1 0\ne 0 1 0 3 1 2 0\ne 0 1 0 4 1 ffffffff 0\n"),
			 0);
	ck_assert_int_eq(take(0, "worker\nl 0 0 main\nn 0 fetch\ne 0 1 0 1 1 1 0\n"), 0);
	items = job->sets[1].lanes[0].items;
	ck_assert_uint_eq(items[0].unit, 0);
	ck_assert_uint_eq(items[1].unit, 2);
	ck_assert_uint_eq(items[2].unit, 2);
	ck_assert_uint_eq(items[3].unit, TRACE_NO_UNIT);
	ck_assert_uint_eq(job->sets[0].lanes[0].items[0].unit, 1);
}
END_TEST

START_TEST(nonsense_is_refused_once)
{
	static const char *const bad[] = {
		"",
		"worker",
		"w\n",
		"someone\nn 0 a\n",
		"worker\ne 0 1 7 20 8 1 0\n",
		"worker\nl 0 0 main\ne 0 1 7 20 8 1 0\n",
		"worker\nn 7 x\ne 0 1 7 20 8 1 0\n",
		"worker\nl 0 0 a\nl 0 0 a\n",
		"worker\nn 0 a\nn 0 a\n",
		"worker\nx 0 1\n",
		"worker\nl 1 0 a\nx 0 1\n",
		"worker\nl 1 0 a\nworker\n",
		"worker\nl 1 0 a",
		"daemon\n\n",
		"worker\nl 1 0 \x1b[2J\n",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ck_assert_msg(take(0, bad[i]) == ERR_PROTOCOL, "'%s'", bad[i]);
		ck_assert_ptr_nonnull(strstr(err.text, "rank 0"));
		job = trace_job_free(job);
		ck_assert_int_eq(trace_job_open(2, &plan, &job, &err), 0);
	}
	/* What was understood stays, what follows is ignored, others go on. */
	ck_assert_int_eq(take(0, "worker\nl 0 0 main\nn 0 a\ne 0 1 0 1 1 0 0\nrubbish\n"),
			 ERR_PROTOCOL);
	ck_assert_int_eq(take(0, "worker\ne 0 1 0 2 1 0 0\n"), 0);
	ck_assert_int_eq(take(1, "worker\nl 0 0 main\n"), 0);
	ck_assert_uint_eq(job->sets[0].lanes[0].count, 1);
	ck_assert_uint_eq(job->sets[2].lane_count, 1);
}
END_TEST

START_TEST(events_are_bounded)
{
	job->event_max = 3;
	ck_assert_int_eq(take(0, "worker\nl 0 0 main\nn 0 a\n"), 0);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(take(0, "worker\ne 0 1 0 1 1 0 0\n"), 0);
	ck_assert_int_eq(take(0, "worker\nx 0 4\n"), 0);
	ck_assert_uint_eq(job->sets[0].lanes[0].count, 3);
	trace_job_finish(job);
	ck_assert_int_eq(trace_table_make(job, &table, &err), 0);
	ck_assert_uint_eq(table->dropped, 6);
	char *text = trace_table_text(table, "f");
	ck_assert_ptr_nonnull(strstr(text, "6 events are missing"));
	free(text);
}
END_TEST

/* ---- the table ---- */

static const struct trace_row *row_of(const char *lane)
{
	for (size_t i = 0; i < table->row_count; i++)
		if (strcmp(table->rows[i].lane->name, lane) == 0)
			return &table->rows[i];
	ck_abort_msg("no row of %s", lane);
}

static void expect_row(const char *lane, uint64_t busy, uint64_t waiting, uint64_t hidden)
{
	const struct trace_row *r = row_of(lane);

	ck_assert_uint_eq(r->busy_ns, busy);
	ck_assert_uint_eq(r->waiting_ns, waiting);
	ck_assert_uint_eq(r->idle_ns, table->end_ns - table->begin_ns - busy - waiting);
	ck_assert_uint_eq(r->hidden_ns, hidden);
}

START_TEST(figures_by_hand)
{
	/* Steps 4 to 7; the table is of 6 and 7: 0x200 to 0x400. */
	ck_assert_int_eq(take(0, "worker\nl 0 0 main\nl 1 1 compute\nl 2 2 copy-in\n"
				 "n 0 step\nn 1 phase\nn 2 work\nn 3 fetch\n"
				 "e 0 1 0 0 100 4 0\ne 0 1 0 100 100 5 0\ne 0 1 0 200 100 6 0\n"
				 "e 0 1 0 300 100 7 0\ne 0 2 3 280 40 1 0\n"
				 "e 1 0 1 180 180 1 0\ne 1 1 2 1f0 20 1 0\ne 1 1 2 200 40 1 0\n"
				 "e 1 2 3 300 80 1 0\ne 1 1 2 3f0 100 1 0\n"
				 "e 2 1 2 230 20 1 400\ne 2 1 2 3e0 20 1 400\n"),
			 0);
	ck_assert_int_eq(take(0, "daemon\nl 0 3 swap\nn 0 read\ne 0 1 0 200 20 0 1\n"
				 "e 0 1 0 210 20 0 1\ne 0 1 0 215 8 0 1\ne 0 1 0 500 20 0 1\n"),
			 0);
	trace_job_finish(job);
	ck_assert_int_eq(trace_table_make(job, &table, &err), 0);
	ck_assert_uint_eq(table->first_step, 6);
	ck_assert_uint_eq(table->last_step, 7);
	ck_assert_uint_eq(table->begin_ns, 0x200);
	ck_assert_uint_eq(table->end_ns, 0x400);
	expect_row("main", 0x1c0, 0x40, 0);
	expect_row("compute", 0x50, 0x80, 0);
	expect_row("copy-in", 0x40, 0, 0x20);
	expect_row("swap", 0x30, 0, 0x30);
	ck_assert_uint_eq(table->transfer_ns, 0x70);
	ck_assert_uint_eq(table->hidden_ns, 0x50);
	ck_assert(trace_table_hidden(table) == 5.0 / 7);
}
END_TEST

START_TEST(windows_without_whole_steps)
{
	ck_assert_int_eq(trace_table_make(job, &table, &err), 0);
	ck_assert(table->begin_ns == 0 && table->end_ns == 0);
	ck_assert(trace_table_hidden(table) == 1);
	char *text = trace_table_text(table, "f");
	ck_assert_ptr_nonnull(strstr(text, "nothing was recorded"));
	free(text);
	table = trace_table_free(table);
	ck_assert_int_eq(take(1, "worker\nl 0 0 main\nn 0 work\ne 0 1 0 50 10 1 0\n"
				 "e 0 1 0 20 10 1 0\n"),
			 0);
	trace_job_finish(job);
	ck_assert_int_eq(trace_table_make(job, &table, &err), 0);
	ck_assert(table->begin_ns == 0x20 && table->end_ns == 0x60 && table->last_step == 0);
	expect_row("main", 0x20, 0, 0);
	text = trace_table_text(table, "f");
	ck_assert_ptr_nonnull(strstr(text, "no whole step"));
	free(text);
	/* A single step is its own window; what the daemon calls a step is none. */
	table = trace_table_free(table);
	ck_assert_int_eq(take(1, "worker\nn 1 step\ne 0 1 1 30 10 1 0\n"), 0);
	ck_assert_int_eq(take(1, "daemon\nl 0 0 adam\nn 1 step\ne 0 1 1 900 10 1 0\n"), 0);
	trace_job_finish(job);
	ck_assert_int_eq(trace_table_make(job, &table, &err), 0);
	ck_assert(table->begin_ns == 0x30 && table->end_ns == 0x40 && table->last_step == 1);
}
END_TEST

#define TICKS 400u

static uint64_t draw(uint64_t below)
{
	static uint64_t i;

	return rng_below(SEED, 0, i++, below);
}

/* What a lane does in each tick: bits of 1 << state. */
static void mark(uint8_t ticks[TICKS], uint64_t begin, uint64_t duration, uint32_t state)
{
	for (uint64_t t = begin; t < begin + duration && t < TICKS; t++)
		ticks[t] |= (uint8_t)(1u << state);
}

static void count(const uint8_t lane[TICKS], const uint8_t compute[TICKS], uint64_t first,
		  uint64_t ret[3])
{
	const uint8_t busy = 1u << TRACE_BUSY, wait = 1u << TRACE_WAIT;

	ret[0] = ret[1] = ret[2] = 0;
	for (uint64_t t = first; t < TICKS; t++) {
		bool is_busy = (lane[t] & busy) && !(lane[t] & wait);
		bool hides = (compute[t] & busy) && !(compute[t] & wait);

		ret[0] += is_busy;
		ret[1] += (lane[t] & wait) != 0;
		ret[2] += is_busy && hides;
	}
}

START_TEST(figures_at_random)
{
	static uint8_t ticks[4][TICKS];

	for (int round = 0; round < 200; round++) {
		uint64_t first = draw(TICKS / 2), want[3];
		char line[128];

		teardown();
		setup();
		memset(ticks, 0, sizeof(ticks));
		ck_assert_int_eq(take(0,
				      "worker\nl 0 0 main\nl 1 1 compute\nl 2 2 copy\nl 3 3 queue\n"
				      "n 0 step\nn 1 work\n"),
				 0);
		/* The window is a lone step's. */
		snprintf(line, sizeof(line), "worker\ne 0 1 0 %jx %jx 1 0\n", (uintmax_t)first,
			 (uintmax_t)(TICKS - first));
		ck_assert_int_eq(take(0, line), 0);
		for (uint64_t n = draw(60); n > 0; n--) {
			uint64_t begin = draw(TICKS), duration = draw(50);
			uint32_t lane = 1 + (uint32_t)draw(3), state = (uint32_t)draw(3);

			mark(ticks[lane], begin, duration, state);
			snprintf(line, sizeof(line), "worker\ne %x %x 1 %jx %jx 0 0\n", lane, state,
				 (uintmax_t)begin, (uintmax_t)duration);
			ck_assert_int_eq(take(0, line), 0);
		}
		trace_job_finish(job);
		ck_assert_int_eq(trace_table_make(job, &table, &err), 0);
		ck_assert(table->begin_ns == first && table->end_ns == TICKS);
		for (unsigned lane = 1; lane < 4; lane++) {
			count(ticks[lane], ticks[1], first, want);
			expect_row(job->sets[0].lanes[lane].name, want[0], want[1],
				   lane > 1 ? want[2] : 0);
		}
		ck_assert(trace_table_hidden(table) >= 0 && trace_table_hidden(table) <= 1);
	}
}
END_TEST

/* ---- the file ---- */

static char *load(void)
{
	size_t len;
	char *text;

	ck_assert_msg(file_load(file, 64 << 20, &text, &len, &err) == 0, "%s", err.text);
	ck_assert_uint_eq(strlen(text), len);
	return text;
}

/* One JSON object, whole, with these members. */
static void check_json(const char *text)
{
	const char *at = text + 1, *end = text + strlen(text);
	struct summary_member m;
	int rc, members = 0;

	ck_assert_int_eq(text[0], '{');
	while ((rc = summary_next(&at, end, &m)) > 0)
		members++;
	ck_assert_int_eq(rc, 0);
	ck_assert_int_eq(members, 3);
}

static void write_file(void)
{
	trace_job_finish(job);
	ck_assert_int_eq(trace_table_make(job, &table, &err), 0);
	ck_assert_msg(trace_json_write(file, job, table, &err) == 0, "%s", err.text);
}

START_TEST(any_name_is_json)
{
	static char report[65536];
	char name[TRACE_NAME_BYTES], *at = report;

	at += sprintf(at, "%s", TRACE_OF_WORKER);
	for (uint32_t i = 0; i < 100; i++) {
		struct trace_event event = {NULL, i, 2 * i, UINT64_MAX, i, i % 3};
		size_t len = draw(TRACE_NAME_BYTES);

		for (size_t k = 0; k < len; k++)
			name[k] = (char)(draw(255) + 1);
		name[len] = '\0';
		at = trace_text_lane(at, i, i % TRACE_KIND_COUNT, name);
		at = trace_text_name(at, i, name);
		at = trace_text_event(at, i, i, &event);
	}
	*at = '\0';
	ck_assert_msg(take(1, report) == 0, "%s", err.text);
	write_file();
	char *text = load();
	check_json(text);
	ck_assert_ptr_nonnull(strstr(text, "18446744073709551615"));
	free(text);
}
END_TEST

START_TEST(times_and_names_in_the_file)
{
	ck_assert_int_eq(take(1, "worker\nl 0 0 main\nn 0 fetch\ne 0 2 0 f4240 4e2 3 1000\n"
				 "e 0 1 0 f4628 3 ffffffff 0\n"),
			 0);
	write_file();
	char *text = load();
	check_json(text);
	ck_assert_ptr_nonnull(
		strstr(text, "{\"ph\":\"X\",\"name\":\"wait: fetch\",\"cat\":\"wait\",\"pid\":3,"
			     "\"tid\":1,\"ts\":0.000,\"dur\":1.250,\"args\":{\"unit\":3,"
			     "\"bytes\":4096}},{\"ph\":\"X\",\"name\":\"fetch\",\"cat\":\"busy\","
			     "\"pid\":3,\"tid\":1,\"ts\":1.000,\"dur\":0.003}]"));
	ck_assert_ptr_nonnull(strstr(text, "\"clock_base_ns\":1000000"));
	ck_assert_ptr_nonnull(strstr(text, "{\"name\":\"rank 1\"}"));
	ck_assert_ptr_null(strstr(text, "rank 0"));
	free(text);
}
END_TEST

/* An event as the file has it. */
struct written {
	unsigned pid, tid;
	uint64_t begin_ns, end_ns;
};

static uint64_t time_at(const char *text, const char *key)
{
	const char *at = strstr(text, key);
	unsigned long us, ns;

	ck_assert_int_eq(sscanf(at + strlen(key), "%lu.%3lu", &us, &ns), 2);
	return us * 1000 + ns;
}

static size_t read_events(const char *text, struct written *ret, size_t room)
{
	size_t n = 0;

	for (const char *at = text; (at = strstr(at, "{\"ph\":\"X\"")) != NULL; at++) {
		struct written *w = &ret[n];

		ck_assert_uint_lt(n++, room);
		w->pid = (unsigned)strtoul(strstr(at, "\"pid\":") + 6, NULL, 10);
		w->tid = (unsigned)strtoul(strstr(at, "\"tid\":") + 6, NULL, 10);
		w->begin_ns = time_at(at, "\"ts\":");
		w->end_ns = w->begin_ns + time_at(at, "\"dur\":");
	}
	return n;
}

/* Overlapping events of a thread that do not nest, and of a queue, go to rows of their own. */
START_TEST(rows_do_not_overlap)
{
	static struct written w[400];
	char line[128];

	ck_assert_int_eq(take(0, "worker\nl 0 0 main\nl 1 3 queue\nn 0 work\n"), 0);
	for (unsigned i = 0; i < 300; i++) {
		snprintf(line, sizeof(line), "worker\ne %x 1 0 %jx %jx 0 0\n", i % 2,
			 (uintmax_t)draw(2000), (uintmax_t)draw(100));
		ck_assert_int_eq(take(0, line), 0);
	}
	write_file();
	char *text = load();
	check_json(text);
	size_t n = read_events(text, w, 400);
	ck_assert_uint_eq(n, 300);
	unsigned tids_main = strstr(text, "\"main (2)\"") != NULL;
	ck_assert_uint_eq(tids_main, 1);
	ck_assert_ptr_nonnull(strstr(text, "\"queue (2)\""));
	for (size_t i = 0; i < n; i++) {
		ck_assert(i == 0 || w[i].begin_ns >= w[i - 1].begin_ns);
		for (size_t k = 0; k < i; k++)
			ck_assert(w[k].tid != w[i].tid || w[k].end_ns <= w[i].begin_ns ||
				  w[k].end_ns >= w[i].end_ns);
	}
	free(text);
}
END_TEST

START_TEST(a_file_that_cannot_be_written)
{
	ck_assert_int_eq(trace_table_make(job, &table, &err), 0);
	ck_assert_int_lt(trace_json_write("/nonexistent/trace.json", job, table, &err), 0);
	ck_assert_int_eq(strncmp(err.text, "trace: ", 7), 0);
	ck_assert_ptr_nonnull(strstr(err.text, "/nonexistent/trace.json"));
}
END_TEST

/* ---- allocations ---- */

/* All of it. Negative where something failed. */
static int whole(void)
{
	static const char report[] = "worker\nl 0 0 main\nl 2 1 compute\nn 0 step\nn 1 x\n"
				     "e 0 1 0 10 10 1 0\ne 2 1 1 11 5 1 0\n";
	char *text = NULL;
	int rc = trace_job_open(2, &plan, &job, &err);

	if (rc == 0) {
		rc = trace_job_take(job, 0, report, sizeof(report) - 1, &err);
		trace_job_finish(job);
	}
	if (rc == 0)
		rc = trace_table_make(job, &table, &err);
	if (rc == 0)
		rc = trace_json_write(file, job, table, &err);
	if (rc == 0) {
		text = trace_table_text(table, file);
		rc = text ? 0 : -ENOMEM;
	}
	free(text);
	table = trace_table_free(table);
	job = trace_job_free(job);
	return rc;
}

START_TEST(every_failed_allocation_is_reported)
{
	bool fired = true;
	unsigned k;

	job = trace_job_free(job);
	for (k = 1; fired; k++) {
		int rc;

		fail_at = k;
		rc = whole();
		fired = fail_at == 0;
		fail_at = 0;
		ck_assert_msg(rc == (fired ? -ENOMEM : 0), "allocation %u: %d", k, rc);
	}
	ck_assert_uint_gt(k, 12);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("trace_job");
	TCase *tc = tcase_create("trace_job");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, reports_are_gathered);
	tcase_add_test(tc, the_daemons_units_are_numbered_anew);
	tcase_add_test(tc, nonsense_is_refused_once);
	tcase_add_test(tc, events_are_bounded);
	tcase_add_test(tc, figures_by_hand);
	tcase_add_test(tc, windows_without_whole_steps);
	tcase_add_test(tc, figures_at_random);
	tcase_add_test(tc, any_name_is_json);
	tcase_add_test(tc, times_and_names_in_the_file);
	tcase_add_test(tc, rows_do_not_overlap);
	tcase_add_test(tc, a_file_that_cannot_be_written);
	tcase_add_test(tc, every_failed_allocation_is_reported);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
