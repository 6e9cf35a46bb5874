/*
 * Goal: the recording device runs what it is told, and the judge of its log finds what is not in
 * order and nothing else: it is the judge of t_engine_order.
 *
 * Method. Small programs of two streams, the driving thread and events, each with the answer that
 * device.h's contract gives: in order, or which two entries are not; each edge of record_proof.h
 * taken away makes a program that is not in order. What the daemon adds is a log written by hand. A
 * program that is not in order must, under one of the schedules, also come out wrong.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vector.h"
#include "tests/record_internal.h"
#include "tests/record_proof.h"

#define BYTES 4096u

static struct device *device;
static struct device_stream *a, *b;
static struct device_event *e, *f;
static char *x, *y, *z; /* device memory */
static char *host;
static struct err err;

static void ok(int rc)
{
	ck_assert_msg(rc >= 0, "%s", err.text);
}

static void open_with(const struct record_schedule *schedule)
{
	struct device_config config = {.type = DEVICE_CUDA, .memory_bytes = 1u << 20, .threads = 1};

	record_schedule_set(schedule);
	ok(device_open(&config, &device, &err));
	ok(device_stream_open(device, "a", &a, &err));
	ok(device_stream_open(device, "b", &b, &err));
	ok(device_event_open(device, &e, &err));
	ok(device_event_open(device, &f, &err));
	x = device_alloc(device, BYTES, "x", &err);
	y = device_alloc(device, BYTES, "y", &err);
	z = device_alloc(device, BYTES, "z", &err);
	host = calloc(1, BYTES);
	ck_assert(x && y && z && host);
}

static void setup(void)
{
	open_with(&(struct record_schedule){.policy = RECORD_EAGER});
}

/* Ends the program. Returns whether its log is in order; *ret is what is not. */
static bool in_order(struct record_fault *ret)
{
	struct record_log *log;
	struct record_proof *proof;
	bool holds;

	log = record_log_take(device);
	ok(device_stream_sync(a, &err));
	ok(device_stream_sync(b, &err));
	device = device_free(device);
	proof = record_proof_open(log);
	holds = record_proof_holds(proof, NULL, ret);
	if (!holds) {
		char text[1024];

		record_fault_print(log, ret, text, sizeof(text));
		ck_assert_ptr_nonnull(strstr(text, "without any order"));
	}
	record_proof_free(proof);
	record_log_free(log);
	free(host);
	return holds;
}

static void x_to_y(struct device_stream *s)
{
	device_copy(s, y, x, BYTES, DEVICE_COPY_WITHIN);
}

static void expect(bool holds)
{
	struct record_fault fault;

	ck_assert_int_eq(in_order(&fault), holds);
}

START_TEST(a_stream_is_in_order)
{
	device_zero(a, x, BYTES);
	x_to_y(a);
	device_zero(a, x, BYTES);
	expect(true);
}
END_TEST

START_TEST(streams_are_not)
{
	struct record_fault fault;

	device_zero(a, x, BYTES);
	x_to_y(b);
	ck_assert(!in_order(&fault));
	ck_assert(fault.first_writes && !fault.second_writes);
	ck_assert_uint_eq(fault.bytes, BYTES);
}
END_TEST

START_TEST(readers_do_not_conflict)
{
	x_to_y(a);
	device_copy(b, z, x, BYTES, DEVICE_COPY_WITHIN);
	expect(true);
}
END_TEST

/* Bytes count, not buffers. */
START_TEST(parts_do_not_conflict)
{
	device_zero(a, x, BYTES / 2);
	device_zero(b, x + BYTES / 2, BYTES / 2);
	expect(true);
}
END_TEST

START_TEST(one_byte_conflicts)
{
	struct record_fault fault;

	device_zero(a, x, BYTES / 2 + 1);
	device_zero(b, x + BYTES / 2, BYTES / 2);
	ck_assert(!in_order(&fault));
	ck_assert_uint_eq(fault.bytes, 1);
}
END_TEST

START_TEST(an_event_orders)
{
	device_zero(a, x, BYTES);
	device_event_record(e, a);
	device_stream_wait(b, e);
	x_to_y(b);
	expect(true);
}
END_TEST

/* A reader must be waited for by the next writer too. */
START_TEST(a_reader_counts)
{
	struct record_fault fault;

	device_zero(a, x, BYTES);
	device_event_record(e, a);
	device_stream_wait(b, e);
	x_to_y(b);
	device_zero(a, x, BYTES);
	ck_assert(!in_order(&fault));
	ck_assert(!fault.first_writes && fault.second_writes);
}
END_TEST

/* An event is what was enqueued when it was recorded, and a wait is for the record before it. */
START_TEST(a_record_too_early)
{
	device_event_record(e, a);
	device_zero(a, x, BYTES);
	device_stream_wait(b, e);
	x_to_y(b);
	expect(false);
}
END_TEST

START_TEST(a_wait_too_early)
{
	device_zero(a, x, BYTES);
	device_stream_wait(b, e);
	device_event_record(e, a);
	x_to_y(b);
	expect(false);
}
END_TEST

START_TEST(the_other_event)
{
	device_zero(a, x, BYTES);
	device_event_record(e, a);
	device_stream_wait(b, f);
	x_to_y(b);
	expect(false);
}
END_TEST

/* a -> b by e, b -> a by f: what a does then is behind what it did before b. */
START_TEST(order_is_transitive)
{
	device_zero(a, x, BYTES);
	device_event_record(e, a);
	device_stream_wait(b, e);
	device_event_record(f, b);
	device_stream_wait(a, f);
	ok(device_event_sync(f, &err));
	record_host_reads(x, BYTES, "looking");
	expect(true);
}
END_TEST

START_TEST(the_host_reads_too_early)
{
	device_copy(a, host, x, BYTES, DEVICE_COPY_OUT);
	record_host_reads(host, BYTES, "looking");
	expect(false);
}
END_TEST

START_TEST(a_sync_orders)
{
	device_copy(a, host, x, BYTES, DEVICE_COPY_OUT);
	ok(device_stream_sync(a, &err));
	record_host_reads(host, BYTES, "looking");
	expect(true);
}
END_TEST

START_TEST(an_event_sync_orders)
{
	device_copy(a, host, x, BYTES, DEVICE_COPY_OUT);
	device_event_record(e, a);
	ok(device_event_sync(e, &err));
	record_host_reads(host, BYTES, "looking");
	expect(true);
}
END_TEST

START_TEST(a_query_orders)
{
	device_copy(a, host, x, BYTES, DEVICE_COPY_OUT);
	device_event_record(e, a);
	while (device_event_query(e, &err) == 0)
		;
	record_host_reads(host, BYTES, "looking");
	expect(true);
}
END_TEST

/* What the host does before it enqueues is before the item; what it does after is not. */
START_TEST(the_host_writes)
{
	record_host_writes(host, BYTES, "filling");
	device_copy(a, x, host, BYTES, DEVICE_COPY_IN);
	expect(true);
}
END_TEST

START_TEST(the_host_writes_too_early)
{
	device_copy(a, x, host, BYTES, DEVICE_COPY_IN);
	record_host_writes(host, BYTES, "filling");
	expect(false);
}
END_TEST

START_TEST(memory_is_freed_too_early)
{
	char *block = malloc(BYTES);

	device_copy(a, block, x, 16, DEVICE_COPY_OUT);
	/* Freed for the log alone: the copy has yet to run. */
	record_host_writes(block, BYTES, "free");
	ok(device_stream_sync(a, &err));
	free(block);
	expect(false);
}
END_TEST

static int nothing(void *arg, struct err *ret)
{
	(void)arg, (void)ret;
	return 0;
}

START_TEST(a_host_function_of_unknown_bytes_fails)
{
	device_host(a, nothing, host);
	ck_assert_int_eq(device_stream_sync(a, &err), ERR_INTERNAL);
	device = device_free(device);
	free(host);
}
END_TEST

/* An operation runs: out = x + y; and its operands are known. */
START_TEST(operations_run_and_are_known)
{
	struct vector v = {.count = BYTES / sizeof(float), .a = x, .b = y, .out = z};
	float three = 3, sum = 0;

	device_copy(a, x, &three, sizeof(three), DEVICE_COPY_IN);
	device_copy(a, y, &three, sizeof(three), DEVICE_COPY_IN);
	vector_add(a, &v);
	device_copy(a, &sum, z, sizeof(sum), DEVICE_COPY_OUT);
	ok(device_stream_sync(a, &err));
	ck_assert(sum == 6);
	device_zero(b, y, BYTES);
	expect(true);
}
END_TEST

START_TEST(operands_conflict)
{
	struct vector v = {.count = BYTES / sizeof(float), .a = x, .b = y, .out = z};

	vector_add(a, &v);
	device_zero(b, y, BYTES);
	expect(false);
}
END_TEST

/* What is not of one allocation, in device memory, is out of bounds; the host's is its own. */
START_TEST(bounds_are_kept)
{
	static const struct {
		size_t from, bytes;
		bool within;
	} cases[] = {
		{0, BYTES, true}, {8, BYTES - 8, true}, {8, BYTES, false}, {BYTES * 3, 8, false}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct record_log *log;
		size_t entry, access;

		setup();
		device_copy(a, host, x + cases[i].from, cases[i].bytes / 2, DEVICE_COPY_OUT);
		device_zero(a, x + cases[i].from, cases[i].bytes);
		log = record_log_take(device);
		device = device_free(device);
		free(host);
		ck_assert_int_eq(record_within_bounds(log, &entry, &access), cases[i].within);
		record_log_free(log);
	}
}
END_TEST

/* The result of a program that is not in order depends on the schedule. */
START_TEST(schedules_disagree)
{
	unsigned seen = 0;

	for (unsigned k = 0; k < 4; k++) {
		struct record_schedule s = {.policy = k % 2 ? RECORD_FAVOUR : RECORD_STARVE,
					    .stream = k / 2};
		struct record_fault fault;

		open_with(&s);
		memset(host, 1, BYTES);
		device_copy(a, x, host, BYTES, DEVICE_COPY_IN);
		x_to_y(b);
		ok(device_stream_sync(a, &err));
		ok(device_stream_sync(b, &err));
		seen |= 1u << (y[0] & 1);
		ck_assert(!in_order(&fault));
	}
	ck_assert_uint_eq(seen, 3);
}
END_TEST

/* The daemon: logs by hand. */

struct hand {
	struct record_log *log;
};

static size_t add(struct hand *h, struct record_entry entry, const void *at, size_t bytes,
		  bool writes)
{
	struct record_access access = {.at = (uintptr_t)at, .bytes = bytes, .writes = writes};
	struct record_list list = {.at = &access, .count = bytes ? 1 : 0};

	return record_log_entry(h->log, entry, &list);
}

static size_t item(struct hand *h, int stream)
{
	return add(h, (struct record_entry){.kind = RECORD_ITEM, .stream = stream, .event = -1},
		   NULL, 0, false);
}

/* The host writes the slot, the operation reads it. */
static size_t push(struct hand *h, size_t by, unsigned queue, unsigned effects)
{
	struct record_entry p = {.kind = RECORD_PUSH,
				 .what = "operation",
				 .stream = -1,
				 .event = -1,
				 .partner = by,
				 .queue = queue,
				 .effects = effects};

	return add(h, p, (void *)0x1000, 64, false);
}

static void host_write(struct hand *h)
{
	add(h, (struct record_entry){.kind = RECORD_HOST, .stream = -1, .event = -1},
	    (void *)0x1000, 64, true);
}

static void done(struct hand *h, size_t pushed)
{
	add(h,
	    (struct record_entry){
		    .kind = RECORD_DONE, .stream = -1, .event = -1, .partner = pushed},
	    NULL, 0, false);
}

static struct hand hand_new(void)
{
	struct hand h = {.log = record_log_new()};

	ck_assert_ptr_nonnull(h.log);
	h.log->streams[0] = "a";
	h.log->stream_count = 1;
	h.log->queue_count = 2;
	return h;
}

static void hand_expect(struct hand *h, bool holds)
{
	struct record_proof *proof = record_proof_open(h->log);
	struct record_fault fault;

	ck_assert_int_eq(record_proof_holds(proof, NULL, &fault), holds);
	record_proof_free(proof);
	h->log = record_log_free(h->log);
}

/* A slot is the daemon's from the push until the host knows of the end. */
START_TEST(a_slot_is_the_daemons)
{
	for (int waited = 0; waited < 2; waited++) {
		struct hand h = hand_new();
		size_t p;

		host_write(&h);
		p = push(&h, RECORD_BY_HOST, 0, RECORD_READS_STATE);
		if (waited)
			done(&h, p);
		host_write(&h);
		hand_expect(&h, waited);
	}
}
END_TEST

/* Another operation's end says nothing, unless both are about the same of one unit. */
START_TEST(ends_are_of_operations)
{
	static const struct {
		unsigned queue, effects;
		bool holds;
	} second[] = {
		{1, RECORD_READS_STATE | RECORD_WRITES_STATE, false},
		{0, RECORD_READS_STATE, true}, /* one unit's take effect as pushed */
		{0, RECORD_READS_GRAD | RECORD_WRITES_GRAD, false},
		{0, RECORD_READS_STATE | RECORD_WRITES_STATE, true},
	};

	for (size_t i = 0; i < sizeof(second) / sizeof(second[0]); i++) {
		struct hand h = hand_new();
		struct record_entry p = {.kind = RECORD_PUSH,
					 .what = "second",
					 .stream = -1,
					 .event = -1,
					 .partner = RECORD_BY_HOST,
					 .queue = second[i].queue,
					 .effects = second[i].effects};

		push(&h, RECORD_BY_HOST, 0, RECORD_READS_STATE);
		done(&h, add(&h, p, NULL, 0, false));
		host_write(&h);
		hand_expect(&h, second[i].holds);
	}
}
END_TEST

/* A stream's push and the host's, on one unit, where their order matters or does not. */
START_TEST(pushes_must_be_ordered)
{
	static const struct {
		unsigned first, second;
		bool holds;
	} cases[] = {
		{RECORD_WRITES_STATE, RECORD_READS_STATE, false},
		{RECORD_READS_STATE, RECORD_WRITES_STATE, false},
		{RECORD_READS_STATE, RECORD_READS_STATE, true},
		{RECORD_WRITES_GRAD, RECORD_READS_STATE, true},
		{RECORD_WRITES_GRAD, RECORD_READS_GRAD, false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct hand h = hand_new();

		push(&h, item(&h, 0), 0, cases[i].first);
		push(&h, RECORD_BY_HOST, 0, cases[i].second);
		hand_expect(&h, cases[i].holds);
	}
}
END_TEST

/* The end of what an item pushed is not the item's end: the push's argument is still in use. */
START_TEST(an_item_outlives_what_it_pushed)
{
	for (int synced = 0; synced < 2; synced++) {
		struct hand h = hand_new();
		struct record_entry it = {.kind = RECORD_ITEM, .stream = 0, .event = -1};
		size_t pushed =
			push(&h, add(&h, it, (void *)0x2000, 1, false), 0, RECORD_WRITES_STATE);

		done(&h, pushed);
		if (synced)
			add(&h,
			    (struct record_entry){.kind = RECORD_SYNC, .stream = 0, .event = -1},
			    NULL, 0, false);
		add(&h, (struct record_entry){.kind = RECORD_HOST, .stream = -1, .event = -1},
		    (void *)0x2000, 1, true);
		hand_expect(&h, synced);
	}
}
END_TEST

/* Left out, an edge is not there; one that others imply adds nothing. */
START_TEST(edges_can_be_left_out)
{
	struct record_log *log;
	struct record_proof *proof;
	struct record_fault fault;
	bool left_out[64] = {false};
	size_t waits[2], found = 0;

	device_zero(a, x, BYTES);
	device_event_record(e, a);
	device_stream_wait(b, e);
	device_stream_wait(b, e);
	x_to_y(b);
	log = record_log_take(device);
	device = device_free(device);
	free(host);
	proof = record_proof_open(log);
	for (size_t i = 0; i < log->count; i++)
		if (log->entries[i].kind == RECORD_WAIT && record_orders(&log->entries[i]))
			waits[found++ % 2] = i;
	ck_assert_uint_eq(found, 2);
	ck_assert(record_proof_holds(proof, left_out, &fault));
	ck_assert(record_proof_adds(proof)[waits[0]] && !record_proof_adds(proof)[waits[1]]);
	left_out[waits[0]] = true;
	ck_assert(record_proof_holds(proof, left_out, &fault));
	left_out[waits[1]] = true;
	ck_assert(!record_proof_holds(proof, left_out, &fault));
	record_proof_free(proof);
	record_log_free(log);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("record");
	TCase *programs = tcase_create("programs"), *logs = tcase_create("logs");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(programs, setup, NULL);
	tcase_add_test(programs, a_stream_is_in_order);
	tcase_add_test(programs, streams_are_not);
	tcase_add_test(programs, readers_do_not_conflict);
	tcase_add_test(programs, parts_do_not_conflict);
	tcase_add_test(programs, one_byte_conflicts);
	tcase_add_test(programs, an_event_orders);
	tcase_add_test(programs, a_reader_counts);
	tcase_add_test(programs, a_record_too_early);
	tcase_add_test(programs, a_wait_too_early);
	tcase_add_test(programs, the_other_event);
	tcase_add_test(programs, order_is_transitive);
	tcase_add_test(programs, the_host_reads_too_early);
	tcase_add_test(programs, a_sync_orders);
	tcase_add_test(programs, an_event_sync_orders);
	tcase_add_test(programs, a_query_orders);
	tcase_add_test(programs, the_host_writes);
	tcase_add_test(programs, the_host_writes_too_early);
	tcase_add_test(programs, memory_is_freed_too_early);
	tcase_add_test(programs, a_host_function_of_unknown_bytes_fails);
	tcase_add_test(programs, operations_run_and_are_known);
	tcase_add_test(programs, operands_conflict);
	tcase_add_test(programs, edges_can_be_left_out);
	tcase_add_test(logs, bounds_are_kept);
	tcase_add_test(logs, schedules_disagree);
	tcase_add_test(logs, a_slot_is_the_daemons);
	tcase_add_test(logs, ends_are_of_operations);
	tcase_add_test(logs, pushes_must_be_ordered);
	tcase_add_test(logs, an_item_outlives_what_it_pushed);
	suite_add_tcase(suite, programs);
	suite_add_tcase(suite, logs);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
