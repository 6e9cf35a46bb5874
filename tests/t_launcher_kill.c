/*
 * kill -9 of any process of a job at ten moments of its life. The goal: the report names who was
 * killed, the exit status is 137, and within half a second plus the grace nothing is left: no
 * process, also when workers ignore SIGTERM and have grandchildren that called setsid, no socket,
 * no cgroup. The method: as in t_launcher.c; moments are counted from the start of dsrun, and a
 * process that is not there yet at its moment is killed as soon as it is.
 */
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/launcher_bed.h"

#define GRACE_MS   100
#define PROMISE_MS (500 + GRACE_MS)

static const unsigned moments_ms[] = {0, 3, 6, 10, 15, 22, 35, 60, 120, 250};

static void sleep_to(const struct bed *bed, unsigned ms)
{
	uint64_t at = bed->epoch_ns + ms * 1000000ull;
	struct timespec t = {.tv_sec = (time_t)(at / 1000000000ull),
			     .tv_nsec = (long)(at % 1000000000ull)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		continue;
}

/* Kills the process that `what` finds; time counts from then. */
static void kill_at(struct bed *bed, const char *what, unsigned ms)
{
	pid_t pid;

	sleep_to(bed, ms);
	while ((pid = bed_find(bed, what)) == 0 || kill(pid, SIGKILL) < 0)
		ck_assert_msg(bed_now_ns() < bed->epoch_ns + 20000000000ull, "no %s", what);
	bed->epoch_ns = bed_now_ns();
}

static struct bed stubborn(void)
{
	return (struct bed){.env = {"FAKE_ALL=ignore;orphans 2;children 1;wait"},
			    .args = {"--grace", "100ms"},
			    .daemon = true};
}

static const struct {
	const char *what, *text;
} victims[] = {
	{"agent", "the agent failed: killed by SIGKILL"},
	{"LISTEN_FDS=", "dsoffloadd failed: killed by SIGKILL"},
	{"RANK=1", "rank 1 failed: killed by SIGKILL"},
};

#define MOMENTS (sizeof(moments_ms) / sizeof(moments_ms[0]))

START_TEST(one_killed)
{
	struct bed bed = stubborn();
	const char *what = victims[_i / (int)MOMENTS].what;

	bed_start(&bed);
	kill_at(&bed, what, moments_ms[_i % (int)MOMENTS]);
	bed_wait(&bed);
	bed_check(&bed, 137, victims[_i / (int)MOMENTS].text);
	bed_check_time(&bed, PROMISE_MS);
	bed_done(&bed);
}
END_TEST

/* Nobody is left to report: what counts is that everything goes. */
START_TEST(dsrun_killed)
{
	struct bed bed = stubborn();

	bed_start(&bed);
	sleep_to(&bed, moments_ms[_i]);
	ck_assert_int_eq(kill(bed.pid, SIGKILL), 0);
	uint64_t killed = bed_now_ns();
	while (bed_left(&bed) > 0)
		ck_assert_msg(bed_now_ns() < killed + 20000000000ull, "%u left", bed_left(&bed));
	bed_wait(&bed);
	ck_assert_int_eq(bed.status, 1000 + SIGKILL);
	bed_check_names(&bed);
	bed.epoch_ns = killed;
	bed.ended_ns = bed_now_ns();
	bed_check_time(&bed, PROMISE_MS);
	bed_done(&bed);
}
END_TEST

/* dsrun stopped for good by somebody: the agent ends the job of a rank that failed all the same. */
START_TEST(dsrun_frozen)
{
	struct bed bed = {.env = {"FAKE_ALL=ignore;orphans 1;wait", "FAKE_1=wait"},
			  .args = {"--grace", "100ms"},
			  .daemon = true};

	bed_start(&bed);
	bed_await(&bed, "RANK=", 5);
	kill(bed.pid, SIGSTOP);
	kill(bed_find(&bed, "RANK=1"), SIGALRM);
	bed_await(&bed, "RANK=", 0);
	bed_await(&bed, "LISTEN_FDS=", 0);
	kill(bed.pid, SIGCONT);
	bed_wait(&bed);
	bed_check(&bed, 142, "rank 1 failed: killed by SIGALRM");
	bed_done(&bed);
}
END_TEST

/* An agent that hangs does not answer a second signal: dsrun ends the job itself. */
START_TEST(agent_frozen)
{
	struct bed bed = stubborn();

	bed_start(&bed);
	bed_await(&bed, "RANK=", 12);
	kill(bed_find(&bed, "agent"), SIGSTOP);
	kill(bed.pid, SIGTERM);
	bed_await_text(&bed, bed.err, "once more kills at once");
	kill(bed.pid, SIGTERM);
	bed_wait(&bed);
	bed_check(&bed, 143, "stopped by SIGTERM; ranks had to be killed");
	bed_done(&bed);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("launcher_kill");
	TCase *tc = tcase_create("kill");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, one_killed, 0, 3 * (int)MOMENTS);
	tcase_add_loop_test(tc, dsrun_killed, 0, (int)MOMENTS);
	tcase_add_test(tc, dsrun_frozen);
	tcase_add_test(tc, agent_frozen);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
