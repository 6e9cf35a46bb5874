/*
 * Goal: what a session computes is, bit for bit, what plain Adam on plain arrays computes, wherever
 * parameters, state and gradients live.
 *
 * Method: a real dsoffloadd, driven through the client: every combination of homes, types and swap
 * engines, with one and with two threads, over units with odd tails. Gradients are kept,
 * accumulated or come with the step; sums of squares are compared; parameters are fetched right
 * behind the step that makes them. See daemon_bed.c for the reference. Fixed seed.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/daemon_bed.h"

static const char *const confs[] = {
	"host: {memory: 1GiB, threads: 1}\n",
	"host: {memory: 1GiB, threads: 2}\n",
};

static struct bed_case basic(void)
{
	return (struct bed_case){.param_type = DTYPE_BF16,
				 .grad_type = DTYPE_BF16,
				 .engine = NVME_AUTO,
				 .chunk_buffers = 4,
				 .queue_depth = 8,
				 .path_count = 2};
}

/* All combinations of types for given homes; with one thread, what a training job uses. */
static void run_types(const struct bed_daemon *d, struct bed_case *c, bool all)
{
	for (unsigned bits = 0; bits < 8; bits++) {
		if (!all && bits != 0 && bits != 3 && bits != 5)
			continue;
		c->param_type = bits & 1 ? DTYPE_BF16 : DTYPE_F32;
		c->grad_type = bits & 2 ? DTYPE_BF16 : DTYPE_F32;
		c->accumulate = bits & 4;
		if (!c->accumulate || c->grad_home[0] != PROTOCOL_HOME_NONE)
			bed_run(d, c);
	}
}

START_TEST(memory)
{
	struct bed_case c = basic();
	struct bed_daemon d;

	bed_start(&d, confs[_i]);
	c.path_count = 0;
	for (uint8_t grad = PROTOCOL_HOME_NONE; grad <= PROTOCOL_HOME_MEMORY; grad++) {
		bed_case_homes(&c, PROTOCOL_HOME_MEMORY, PROTOCOL_HOME_MEMORY, grad);
		run_types(&d, &c, _i == 1);
	}
	bed_stop(&d);
}
END_TEST

static void run_swap(const struct bed_daemon *d, struct bed_case *c, bool all)
{
	for (uint8_t param = PROTOCOL_HOME_MEMORY; param <= PROTOCOL_HOME_SWAP; param++)
		for (uint8_t state = PROTOCOL_HOME_MEMORY; state <= PROTOCOL_HOME_SWAP; state++)
			for (uint8_t grad = PROTOCOL_HOME_NONE; grad <= PROTOCOL_HOME_SWAP;
			     grad++) {
				bed_case_homes(c, param, state, grad);
				run_types(d, c, all);
			}
}

static bool engine_refused(const struct bed_daemon *d, struct bed_case *c)
{
	struct bed_session s;
	struct err err;

	bed_case_homes(c, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_NONE);
	if (bed_open(&s, c, d, &err) == 0) {
		bed_close(&s);
		return false;
	}
	printf("%s: %s\n", nvme_engine_name(c->engine), err.text);
	return true;
}

/*
 * Some hundred sessions, each with files of its own: on tmpfs where there is one; not all of them.
 */
START_TEST(swap)
{
	const char *shm = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	struct bed_case c = basic();
	struct bed_daemon d;
	int engines = 0;

	bed_start_in(&d, shm, confs[_i]);
	for (c.engine = NVME_URING; c.engine <= NVME_LIBAIO; c.engine++) {
		if (engine_refused(&d, &c))
			continue;
		run_swap(&d, &c, _i == 1);
		engines++;
	}
	ck_assert_int_gt(engines, 0);
	bed_stop(&d);
}
END_TEST

/* Each unit with homes of its own, the fewest buffers and one directory; a queue of one. */
START_TEST(mixed_and_narrow)
{
	struct bed_case c = basic();
	struct bed_daemon d;

	bed_start(&d, confs[_i]);
	c.chunk_buffers = 3;
	c.path_count = 1;
	for (unsigned turn = 0; turn < 3; turn++) {
		c.queue_depth = 1 + turn * turn;
		for (unsigned u = 0; u < BED_UNITS; u++) {
			c.param_home[u] = 1 + (u + turn) % 2;
			c.state_home[u] = 1 + (u + turn / 2) % 2;
			c.grad_home[u] = 1 + (2 * u + turn) % 2;
		}
		run_types(&d, &c, _i == 1);
	}
	bed_stop(&d);
}
END_TEST

struct runner {
	pthread_t thread;
	const struct bed_daemon *daemon;
	struct bed_case setup;
};

static void *run_many(void *arg)
{
	struct runner *r = arg;

	for (int i = 0; i < 4; i++)
		bed_run(r->daemon, &r->setup);
	return NULL;
}

/* Sessions share the pool and the disks, and do not disturb each other. */
START_TEST(several_at_once)
{
	struct runner runners[4];
	struct bed_daemon d;

	bed_start(&d, confs[_i]);
	for (unsigned i = 0; i < 4; i++) {
		runners[i] = (struct runner){.daemon = &d, .setup = basic()};
		bed_case_homes(&runners[i].setup, 1 + i % 2, 1 + i / 2, 1 + i % 2);
		ck_assert_int_eq(pthread_create(&runners[i].thread, NULL, run_many, &runners[i]),
				 0);
	}
	for (unsigned i = 0; i < 4; i++)
		pthread_join(runners[i].thread, NULL);
	ck_assert_uint_eq(bed_status(&d, "sessions.ended"), 16);
	ck_assert_uint_eq(bed_status(&d, "memory.used_bytes"), 0);
	ck_assert_uint_eq(bed_status(&d, "swap.used_bytes"), 0);
	bed_stop(&d);
}
END_TEST

/* More operations than ring slots: client_prepare waits for some, and ids are used again. */
START_TEST(ids_come_round)
{
	struct bed_case c = basic();
	struct bed_session s;
	struct bed_daemon d;
	struct err err;
	uint32_t ids[40];

	bed_start(&d, confs[_i]);
	bed_case_homes(&c, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_NONE);
	ck_assert_msg(bed_open(&s, &c, &d, &err) == 0, "%s", err.text);
	bed_import(&s);
	for (int round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 40; i++) {
			struct protocol_submission sub = {
				.op = PROTOCOL_OP_FETCH,
				.unit = i % BED_UNITS,
				.offset = s.units[i % BED_UNITS].fetch_offset};

			ck_assert_int_eq(client_submit(s.client, &sub, &ids[i], &err), 0);
		}
		for (unsigned i = 40; i-- > 0;) {
			ck_assert_int_ge(client_poll(s.client, ids[i], &err), 0);
			ck_assert_int_eq(client_wait(s.client, ids[i], NULL, &err), 0);
		}
	}
	bed_close(&s);
	bed_stop(&d);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("daemon");
	TCase *tc = tcase_create("numbers");
	SRunner *runner = srunner_create(suite);
	int failed;

	printf("seed 42\n");
	tcase_set_timeout(tc, 240);
	tcase_add_loop_test(tc, memory, 0, 2);
	tcase_add_loop_test(tc, swap, 0, 2);
	tcase_add_loop_test(tc, mixed_and_narrow, 0, 2);
	tcase_add_loop_test(tc, several_at_once, 0, 2);
	tcase_add_loop_test(tc, ids_come_round, 0, 2);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
