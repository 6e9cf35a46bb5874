/*
 * Goal: the collectives through shared memory give every rank what plain loops in rank order give,
 * to the bit, for every size, and stay in step over thousands of calls, with more ranks than cores
 * too.
 *
 * Method: a rank is a process (or a thread, which is what ThreadSanitizer can follow) with a cpu
 * device of its own; it runs the cases of comm_bed.c.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/shm.h"
#include "tests/comm_bed.h"

START_TEST(sizes_among_processes)
{
	comm_bed_processes(COMM_SHM, (unsigned)_i, comm_bed_all_sizes);
}
END_TEST

START_TEST(many_calls_among_processes)
{
	comm_bed_processes(COMM_SHM, (unsigned)_i, comm_bed_many_calls);
}
END_TEST

START_TEST(many_calls_among_threads)
{
	comm_bed_threads(COMM_SHM, (unsigned)_i, comm_bed_many_calls);
}
END_TEST

START_TEST(failures_stick)
{
	comm_bed_processes(COMM_SHM, 2, comm_bed_a_failure_sticks);
}
END_TEST

static int try_open(unsigned rank, unsigned world, int fd, struct err *err)
{
	struct comm_config config = {
		.backend = COMM_SHM, .rank = rank, .world = world, .shm_fd = fd};
	struct comm *comm;
	int rc = comm_open(&config, &comm, err);

	if (rc == 0)
		comm_free(comm);
	return rc;
}

START_TEST(wrong_segments)
{
	uint64_t *tag;
	struct err err;
	int fd;

	ck_assert_int_lt(try_open(2, 2, -1, &err), 0);
	ck_assert_int_lt(try_open(0, 0, -1, &err), 0);
	ck_assert_int_lt(try_open(0, COMM_WORLD_MAX + 1, -1, &err), 0);
	ck_assert_int_lt(try_open(0, 2, -1, &err), 0);
	fd = shm_create("t_comm", comm_shm_bytes(2) - 1, &err);
	ck_assert_int_eq(try_open(0, 2, fd, &err), ERR_PROTOCOL);
	close(fd);
	fd = memfd_create("t_comm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ck_assert_int_eq(ftruncate(fd, (off_t)comm_shm_bytes(2)), 0);
	ck_assert_int_eq(try_open(0, 2, fd, &err), ERR_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(err.text, "sealed"));
	close(fd);
	/* Ranks that were told different worlds. */
	fd = comm_bed_segment(3);
	ck_assert_int_eq(shm_map(fd, comm_shm_bytes(3), (void **)&tag, &err), 0);
	*tag = 12345;
	ck_assert_int_eq(try_open(0, 2, fd, &err), ERR_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(err.text, "world of 12345"));
	shm_unmap(tag, comm_shm_bytes(3));
	close(fd);
}
END_TEST

struct twin {
	pthread_t id;
	int fd, told, rc;
};

static void *twin_main(void *arg)
{
	struct twin *t = arg;
	struct err err;

	t->rc = try_open(0, 2, t->fd, &err);
	if (t->rc < 0 && write(t->told, "x", 1) != 1)
		abort();
	return NULL;
}

/* Two that both say they are rank 0: one of them is refused, the other waits for rank 1. */
START_TEST(a_rank_comes_once)
{
	struct twin twins[2];
	int fd = comm_bed_segment(2), told[2], i;
	struct err err;
	char c;

	ck_assert_int_eq(pipe2(told, O_CLOEXEC), 0);
	for (i = 0; i < 2; i++) {
		twins[i].fd = fd;
		twins[i].told = told[1];
		ck_assert_int_eq(pthread_create(&twins[i].id, NULL, twin_main, &twins[i]), 0);
	}
	ck_assert_int_eq(read(told[0], &c, 1), 1);
	ck_assert_int_eq(try_open(1, 2, fd, &err), 0);
	for (i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_join(twins[i].id, NULL), 0);
	ck_assert_int_eq(twins[0].rc + twins[1].rc, ERR_PROTOCOL);
	close(told[0]);
	close(told[1]);
	close(fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("comm");
	TCase *t = tcase_create("shm");
	SRunner *runner;
	int failed;

	printf("seed %u\n", COMM_BED_SEED);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, sizes_among_processes, 1, COMM_BED_WORLD_MAX);
	tcase_add_loop_test(t, many_calls_among_processes, 1, COMM_BED_WORLD_MAX + 1);
	tcase_add_loop_test(t, many_calls_among_threads, 1, 4);
	tcase_add_test(t, failures_stick);
	tcase_add_test(t, wrong_segments);
	tcase_add_test(t, a_rank_comes_once);
	suite_add_tcase(suite, t);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
