/*
 * Goal: what the daemon records of a session is all that it did for it, and nothing of another's;
 * it records while it is asked to, and tells each event once.
 *
 * Method: sessions whose state is in swap take steps, which the bed compares bit by bit; bytes of
 * recorded transfers are added up against the session's own figures, chunks of steps against the
 * units' sizes; a session that does nothing is traced beside one that works.
 */
#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/trace_text.h"
#include "tests/daemon_bed.h"

#define THREADS 2

static const char *const conf = "host: {memory: 1GiB, threads: 2}\n";

static struct bed_daemon daemon_bed;
static struct err err;

static struct bed_case traced_case(unsigned paths)
{
	struct bed_case c = {.param_type = DTYPE_BF16,
			     .grad_type = DTYPE_BF16,
			     .accumulate = true,
			     .engine = NVME_AUTO,
			     .chunk_buffers = 3,
			     .queue_depth = 4,
			     .path_count = paths,
			     .traced = true};

	bed_case_homes(&c, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP);
	return c;
}

/* What a trace came to. */
struct figures {
	uint64_t began_ns; /* what was recorded lies behind that */
	char lanes[8][TRACE_NAME_BYTES];
	uint32_t kinds[8];
	unsigned lane_count;
	char names[TRACE_NAME_IDS][TRACE_NAME_BYTES];
	uint64_t events, read_bytes, written_bytes, waits;
	uint64_t chunks[BED_UNITS]; /* of steps */
	uint64_t last_end_ns[8];    /* of a lane that is no queue */
};

static void see_event(struct figures *f, const struct trace_line *l)
{
	const char *name = f->names[l->id];
	bool queue;

	ck_assert_uint_lt(l->lane, f->lane_count);
	ck_assert_uint_gt(strlen(name), 0);
	queue = f->kinds[l->lane] == TRACE_QUEUE;
	f->events++;
	ck_assert_uint_ge(l->begin_ns, f->began_ns);
	ck_assert_uint_le(l->end_ns, trace_now_ns());
	/* A thread does one thing after the other, and these do not nest. */
	if (!queue)
		ck_assert_uint_ge(l->begin_ns, f->last_end_ns[l->lane]);
	f->last_end_ns[l->lane] = l->end_ns;
	f->waits += l->state == TRACE_WAIT;
	ck_assert(queue == (strncmp(name, "read ", 5) == 0 || strncmp(name, "write ", 6) == 0));
	if (queue)
		*(name[0] == 'r' ? &f->read_bytes : &f->written_bytes) += l->bytes;
	if (strcmp(name, "step") == 0) {
		ck_assert_uint_lt(l->unit, BED_UNITS);
		ck_assert_int_eq(strncmp(f->lanes[l->lane], "adam-", 5), 0);
		f->chunks[l->unit]++;
	}
}

static int see_text(void *ctx, const char *text, struct err *e)
{
	struct figures *f = ctx;
	const char *at = text, *end = text + strlen(text);
	struct trace_line l;
	int rc;

	(void)e;
	while ((rc = trace_text_next(&at, end, &l)) > 0) {
		ck_assert_int_ne(l.type, TRACE_LINE_DROPPED);
		if (l.type == TRACE_LINE_LANE) {
			ck_assert_uint_eq(l.lane, f->lane_count);
			ck_assert_uint_lt(l.lane, 8);
			f->kinds[l.lane] = l.kind;
			strcpy(f->lanes[f->lane_count++], l.name);
		} else if (l.type == TRACE_LINE_NAME) {
			strcpy(f->names[l.id], l.name);
		} else {
			see_event(f, &l);
		}
	}
	ck_assert_int_eq(rc, 0);
	return 0;
}

static void take(struct bed_session *s, bool record, struct figures *f)
{
	ck_assert_msg(client_trace(s->client, record, see_text, f, &err) == 0, "%s", err.text);
}

/* The session's own figures, once they have come to what the trace says, or ten seconds passed. */
static void check_bytes(struct bed_session *s, const struct figures *f)
{
	struct protocol_stats now;

	for (int i = 0; i < 10000; i++) {
		ck_assert_int_eq(client_stats(s->client, &now, &err), 0);
		if (now.swap_read_bytes == f->read_bytes &&
		    now.swap_written_bytes == f->written_bytes)
			return;
		poll(NULL, 0, 1);
	}
	ck_abort_msg("traced %ju read, %ju written; the session's figures are others",
		     (uintmax_t)f->read_bytes, (uintmax_t)f->written_bytes);
}

static void open_session(struct bed_session *s, const struct bed_case *c)
{
	ck_assert_msg(bed_open(s, c, &daemon_bed, &err) == 0, "%s", err.text);
}

static void run_case(unsigned paths)
{
	static struct figures f;
	const struct bed_case c = traced_case(paths);
	struct bed_session s;

	bed_start(&daemon_bed, conf);
	open_session(&s, &c);
	memset(&f, 0, sizeof(f));
	f.began_ns = trace_now_ns();
	take(&s, true, &f);
	ck_assert_uint_eq(f.events, 0);
	ck_assert_uint_eq(f.lane_count, 1 + THREADS + paths);
	ck_assert_str_eq(f.lanes[0], "session");
	ck_assert_str_eq(f.lanes[1], "adam-0");
	ck_assert_str_eq(f.lanes[2], "adam-1");
	for (unsigned i = 0; i < paths; i++) {
		ck_assert_int_eq(strncmp(f.lanes[3 + i], "swap /", 6), 0);
		ck_assert_uint_eq(f.kinds[3 + i], TRACE_QUEUE);
	}
	bed_import(&s);
	for (int i = 0; i < 3; i++) {
		bed_step(&s);
		take(&s, true, &f);
	}
	for (unsigned u = 0; u < BED_UNITS; u++)
		ck_assert_uint_eq(f.chunks[u],
				  3 * ((s.units[u].elems + BED_CHUNK_ELEMS - 1) / BED_CHUNK_ELEMS));
	check_bytes(&s, &f);
	ck_assert_uint_gt(f.waits, 0);
	/* No more: what is under way while it stops may still come. */
	take(&s, false, &f);
	bed_step(&s);
	take(&s, false, &f);
	ck_assert_uint_eq(f.chunks[0],
			  3 * ((s.units[0].elems + BED_CHUNK_ELEMS - 1) / BED_CHUNK_ELEMS));
	bed_export(&s);
	bed_close(&s);
	bed_stop(&daemon_bed);
}

START_TEST(a_session_is_recorded_whole)
{
	run_case(1);
}
END_TEST

START_TEST(a_lane_for_each_directory)
{
	run_case(2);
}
END_TEST

/* Two sessions at once, on the same threads and the same directory. */
START_TEST(nobody_sees_another)
{
	static struct figures quiet, busy;
	struct bed_case c = traced_case(1);
	struct bed_session a, b;

	bed_start(&daemon_bed, conf);
	open_session(&a, &c);
	open_session(&b, &c);
	memset(&quiet, 0, sizeof(quiet));
	memset(&busy, 0, sizeof(busy));
	take(&a, true, &quiet);
	take(&b, true, &busy);
	bed_import(&b);
	for (int i = 0; i < 3; i++)
		bed_step(&b);
	take(&a, true, &quiet);
	take(&b, true, &busy);
	ck_assert_uint_gt(busy.read_bytes, 0);
	ck_assert_uint_gt(busy.chunks[0], 0);
	ck_assert_uint_eq(quiet.read_bytes + quiet.written_bytes + quiet.chunks[0], 0);
	bed_close(&a);
	bed_close(&b);
	bed_stop(&daemon_bed);
}
END_TEST

static int refuse(void *ctx, const char *text, struct err *e)
{
	(void)text;
	++*(unsigned *)ctx;
	return err_set(e, ERR_IO, "nobody takes it");
}

/* The session goes on when its trace cannot be taken, and is over when it was never traced. */
START_TEST(failures)
{
	static struct figures f;
	struct bed_case c = traced_case(1);
	struct bed_session s;
	unsigned calls = 0;

	bed_start(&daemon_bed, conf);
	open_session(&s, &c);
	ck_assert_int_eq(client_trace(s.client, true, refuse, &calls, &err), ERR_IO);
	ck_assert_str_eq(err.text, "nobody takes it");
	ck_assert_uint_eq(calls, 1);
	bed_import(&s);
	bed_step(&s);
	bed_close(&s);
	c.traced = false;
	open_session(&s, &c);
	ck_assert_int_eq(client_trace(s.client, true, see_text, &f, &err), ERR_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(err.text, "not traced"));
	ck_assert_int_eq(client_trace(s.client, true, see_text, &f, &err), ERR_PROTOCOL);
	bed_close(&s);
	bed_stop(&daemon_bed);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("daemon_trace");
	TCase *tc = tcase_create("daemon_trace");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, a_session_is_recorded_whole);
	tcase_add_test(tc, a_lane_for_each_directory);
	tcase_add_test(tc, nobody_sees_another);
	tcase_add_test(tc, failures);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
