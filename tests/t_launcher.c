/*
 * How jobs end. The goal: whatever happens to a rank, the report names the right one and the right
 * cause, the exit status is the first failure's, and within half a second plus the grace nothing
 * of the job is left. The method: dsrun with scripted workers (fake_worker.c), one case after
 * another; after each, /proc is searched for processes that carry the job's mark.
 */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/launcher_bed.h"

#define GRACE_MS   200
#define PROMISE_MS (500 + GRACE_MS)
#define GRACE      "--grace", "200ms"

START_TEST(all_return_0)
{
	struct bed bed = {.env = {"FAKE_ALL=check;out hello"}, .daemon = true};

	bed_run(&bed);
	bed_check(&bed, 0, "started a private dsoffloadd");
	ck_assert_ptr_nonnull(strstr(bed.out_text, "[0] hello\n"));
	ck_assert_ptr_nonnull(strstr(bed.out_text, "[2] hello\n"));
	bed_done(&bed);
}
END_TEST

/* Rank 1 fails when all are there, the others do not end by themselves. */
static const struct {
	const char *one, *others;
	int status;
	const char *text;
} failures[] = {
	{"meet;stamp;exit 3", "meet;wait", 3, "rank 1 failed: exited with status 3"},
	{"meet;stamp;exit 1", "ignore;meet;wait", 1, "rank 1 failed: exited with status 1"},
	{"meet;stamp;signal 11", "meet;wait", 139, "rank 1 failed: killed by SIGSEGV"},
	{"meet;stamp;signal 9", "ignore;meet;wait", 137, "rank 1 failed: killed by SIGKILL"},
	{"meet;stamp;signal 15", "meet;wait", 143, "rank 1 failed: killed by SIGTERM"},
	{"meet;stamp;signal 6", "orphans 2;meet;wait", 134, "rank 1 failed: killed by SIGABRT"},
	{"orphans 3;children 2;meet;stamp;exit 4", "orphans 2;ignore;meet;wait", 4,
	 "rank 1 failed: exited with status 4"},
	{"meet;stamp;err last words;exit 5", "meet;wait", 5, "last words"},
	{"meet;stamp;fail loss is not a number;exit 65", "meet;wait", 65,
	 "why     loss is not a number"},
	{"meet;stamp;fail it broke;exit 0", "meet;wait", 70, "why     it broke"},
	{"ignore;meet;stamp;fail stuck;wait", "meet;wait", 70,
	 "rank 1 failed, did not end by itself"},
};

START_TEST(one_fails)
{
	char one[128], all[128];
	struct bed bed = {.env = {one, all}, .args = {GRACE}, .ranks = 4, .daemon = _i % 2};

	snprintf(one, sizeof(one), "FAKE_1=%s", failures[_i].one);
	snprintf(all, sizeof(all), "FAKE_ALL=%s", failures[_i].others);
	bed_run(&bed);
	bed_check(&bed, failures[_i].status, failures[_i].text);
	bed_check_time(&bed, PROMISE_MS);
	bed_done(&bed);
}
END_TEST

/* The others' deaths are consequences: they are counted, not named. */
START_TEST(consequences)
{
	struct bed bed = {
		.env = {"FAKE_ALL=meet;wait", "FAKE_0=ignore;meet;wait", "FAKE_2=meet;exit 9"},
		.args = {GRACE},
		.ranks = 4};

	bed_run(&bed);
	bed_check(&bed, 9, "2 other ranks ended after SIGTERM, 1 by SIGKILL after 200ms");
	ck_assert_ptr_null(strstr(bed.err_text, "rank 0 failed"));
	ck_assert_ptr_null(strstr(bed.err_text, "rank 1 failed"));
	bed_done(&bed);
}
END_TEST

START_TEST(fifty_ms_apart)
{
	struct bed bed = {.env = {"FAKE_ALL=meet;wait", "FAKE_2=meet;until 50;stamp;exit 7",
				  "FAKE_1=meet;until 100;exit 5"},
			  .args = {GRACE},
			  .ranks = 4};

	bed_run(&bed);
	bed_check(&bed, 7, "rank 2 failed: exited with status 7");
	bed_check_time(&bed, PROMISE_MS);
	bed_done(&bed);
}
END_TEST

/* The agent is stopped while two fail, and sees both at once: the order must be the true one. */
START_TEST(both_seen_at_once)
{
	struct bed bed = {.env = {"FAKE_ALL=wait"}, .args = {GRACE}, .ranks = 4};
	const char *first = _i % 2 ? "RANK=2" : "RANK=1", *second = _i % 2 ? "RANK=1" : "RANK=2";

	bed_start(&bed);
	bed_await(&bed, "RANK=", 4);
	pid_t agent = bed_find(&bed, "agent");
	ck_assert_int_gt(agent, 0);
	ck_assert_int_eq(kill(agent, SIGSTOP), 0);
	pid_t one = bed_find(&bed, first), two = bed_find(&bed, second);
	ck_assert_int_eq(kill(one, SIGALRM), 0);
	bed_await_zombie(one);
	ck_assert_int_eq(kill(two, SIGKILL), 0);
	bed_await_zombie(two);
	ck_assert_int_eq(kill(agent, SIGCONT), 0);
	bed_wait(&bed);
	bed_check(&bed, 142, _i % 2 ? "rank 2 failed" : "rank 1 failed");
	bed_done(&bed);
}
END_TEST

/* ---- the daemon ---- */

/* Ranks hear of its end before anybody else does, and say so; it is the cause all the same. */
START_TEST(daemon_killed)
{
	struct bed bed = {.env = {"FAKE_ALL=daemon", "FAKE_DAEMON=until 150;stamp;signal 9"},
			  .args = {GRACE},
			  .daemon = true};

	bed_run(&bed);
	bed_check(&bed, 137, "dsoffloadd failed: killed by SIGKILL");
	bed_check_time(&bed, PROMISE_MS);
	bed_done(&bed);
}
END_TEST

static const struct {
	const char *script, *end;
	int status;
	const char *text;
} daemons[] = {
	{"exit 0", "", 69, "dsoffloadd failed: exited with status 0"},
	{"err cannot map;exit 71", "", 71, "stderr  cannot map"},
	{"signal 11", "", 139, "dsoffloadd failed: killed by SIGSEGV"},
};

START_TEST(daemon_ends)
{
	char script[128];
	struct bed bed = {.env = {"FAKE_ALL=wait", script}, .args = {GRACE}, .daemon = true};

	snprintf(script, sizeof(script), "FAKE_DAEMON=%s", daemons[_i].script);
	bed_run(&bed);
	bed_check(&bed, daemons[_i].status, daemons[_i].text);
	bed_done(&bed);
}
END_TEST

START_TEST(daemon_fails_at_its_end)
{
	struct bed bed = {.env = {"FAKE_DAEMON_END=23"}, .daemon = true};

	bed_run(&bed);
	bed_check(&bed, 23, "dsoffloadd failed: exited with status 23");
	bed_done(&bed);
}
END_TEST

START_TEST(daemon_ignores_sigterm)
{
	struct bed bed = {.env = {"FAKE_ALL=exit 0", "FAKE_1=stop;exit 0",
				  "FAKE_DAEMON=ignore;err deaf;wait"},
			  .args = {GRACE},
			  .daemon = true};

	/* The last rank ends when the daemon is known to ignore what will ask it to end. */
	bed_start(&bed);
	bed_await_text(&bed, bed.err, "deaf");
	bed_await_text(&bed, bed.out, "[1] ready");
	ck_assert_int_eq(kill(bed_find(&bed, "RANK=1"), SIGTERM), 0);
	bed_wait(&bed);
	bed_check(&bed, 0, "dsoffloadd did not end in time");
	bed_done(&bed);
}
END_TEST

START_TEST(daemon_that_does_not_answer)
{
	struct bed bed = {.args = {"--daemon", "@nobody-listens-here"}, .daemon = true};

	bed_run(&bed);
	bed_check(&bed, 69, "@nobody-listens-here");
	bed_done(&bed);
}
END_TEST

/* ---- programs that are not there ---- */

START_TEST(worker_missing)
{
	struct bed bed = {.env = {"DSRUN_WORKER=/nowhere/dsworker"}, .args = {GRACE}, .daemon = _i};

	bed_run(&bed);
	bed_check(&bed, 69, "failed: /nowhere/dsworker: No such file or directory");
	bed_done(&bed);
}
END_TEST

START_TEST(daemon_missing)
{
	struct bed bed = {.env = {"FAKE_ALL=wait", "DSRUN_DAEMON=/etc/passwd"},
			  .args = {GRACE},
			  .daemon = true};

	bed_run(&bed);
	bed_check(&bed, 69, "dsoffloadd failed: /etc/passwd: Permission denied");
	bed_done(&bed);
}
END_TEST

/* ---- stopping ---- */

static const struct {
	int sig, status;
	const char *text;
} stops[] = {
	{SIGTERM, 143, "stopped by SIGTERM\n"},
	{SIGINT, 130, "stopped by SIGINT\n"},
	{SIGHUP, 129, "stopped by SIGHUP\n"},
};

START_TEST(stop_in_order)
{
	struct bed bed = {.env = {"FAKE_ALL=stop;note saved;exit 0"}, .daemon = true};

	bed_start(&bed);
	bed_await_text(&bed, bed.out, "[1] ready");
	bed_await_text(&bed, bed.out, "[2] ready");
	kill(bed.pid, stops[_i].sig);
	bed_wait(&bed);
	bed_check(&bed, stops[_i].status, stops[_i].text);
	ck_assert_ptr_nonnull(strstr(bed.out_text, "[2] saved"));
	bed_done(&bed);
}
END_TEST

START_TEST(stop_kills_those_without_a_handler)
{
	struct bed bed = {.env = {"FAKE_ALL=orphans 2;out up;wait"}};

	bed_start(&bed);
	bed_await(&bed, "RANK=", 9);
	kill(bed.pid, SIGTERM);
	bed_wait(&bed);
	bed_check(&bed, 143, "stopped by SIGTERM\n");
	bed_done(&bed);
}
END_TEST

START_TEST(second_signal_kills)
{
	struct bed bed = {.env = {"FAKE_ALL=ignore;orphans 1;out up;wait"}, .daemon = true};

	bed_start(&bed);
	bed_await(&bed, "RANK=", 6);
	kill(bed.pid, SIGINT);
	bed_await_text(&bed, bed.err, "once more kills at once");
	uint64_t now = bed_now_ns();
	kill(bed.pid, SIGINT);
	bed_wait(&bed);
	bed_check(&bed, 130, "stopped by SIGINT; ranks had to be killed");
	bed.epoch_ns = now;
	bed_check_time(&bed, 500);
	bed_done(&bed);
}
END_TEST

START_TEST(stop_timeout)
{
	struct bed bed = {.env = {"FAKE_ALL=ignore;meet;note up;wait"},
			  .args = {"--stop-timeout", "300ms"}};

	bed_start(&bed);
	bed_await_text(&bed, bed.out, "up");
	kill(bed.pid, SIGTERM);
	bed_wait(&bed);
	bed_check(&bed, 143, "stopped by SIGTERM; ranks had to be killed");
	bed_done(&bed);
}
END_TEST

START_TEST(failure_while_stopping)
{
	struct bed bed = {.env = {"FAKE_ALL=stop;wait", "FAKE_1=stop;fail disk is full;exit 74"},
			  .args = {GRACE}};

	bed_start(&bed);
	bed_await_text(&bed, bed.out, "[1] ready");
	kill(bed.pid, SIGTERM);
	bed_wait(&bed);
	bed_check(&bed, 74, "disk is full");
	bed_done(&bed);
}
END_TEST

START_TEST(nohup)
{
	struct bed bed = {.env = {"FAKE_ALL=stop;exit 0"}, .ignore_hup = true};

	bed_start(&bed);
	bed_await_text(&bed, bed.out, "[1] ready");
	kill(bed.pid, SIGHUP);
	bed_await_text(&bed, bed.out, "[2] ready");
	kill(bed.pid, SIGTERM);
	bed_wait(&bed);
	bed_check(&bed, 143, "stopped by SIGTERM\n");
	bed_done(&bed);
}
END_TEST

START_TEST(usr1_is_forwarded)
{
	struct bed bed = {.env = {"FAKE_ALL=wait"}, .args = {GRACE}};

	bed_start(&bed);
	bed_await(&bed, "RANK=", 3);
	kill(bed.pid, SIGUSR1);
	bed_wait(&bed);
	bed_check(&bed, 138, "killed by SIGUSR1");
	bed_done(&bed);
}
END_TEST

START_TEST(agent_told_to_end)
{
	struct bed bed = {
		.env = {"FAKE_ALL=ignore;orphans 1;wait"}, .args = {GRACE}, .daemon = true};

	bed_start(&bed);
	bed_await(&bed, "RANK=", 6);
	kill(bed_find(&bed, "agent"), SIGTERM);
	bed_wait(&bed);
	bed_check(&bed, 130, "the agent got signal 15");
	bed_done(&bed);
}
END_TEST

/* Nobody reads standard output any more: as SIGTERM. */
START_TEST(output_closed)
{
	int ends[2];

	ck_assert_int_eq(pipe(ends), 0);
	struct bed bed = {.env = {"FAKE_ALL=stop;exit 0", "FAKE_0=out one;out two;stop;exit 0"},
			  .out_fd = ends[1]};
	close(ends[0]);
	bed_start(&bed);
	close(ends[1]);
	bed_wait(&bed);
	bed_check(&bed, 141, "stopped by the end of whoever read its output");
	bed_done(&bed);
}
END_TEST

/* More ranks than descriptors by the soft limit, and a worker's table of descriptors is exact. */
START_TEST(many_ranks)
{
	struct bed bed = {.env = {"FAKE_ALL=check"}, .ranks = 64};
	int stray = dup(1);

	bed_run(&bed);
	bed_check(&bed, 0, NULL);
	close(stray);
	bed_done(&bed);
}
END_TEST

START_TEST(nonsense_reports)
{
	struct bed bed = {.env = {"FAKE_ALL=exit 0", "FAKE_1=nonsense;out alive;exit 0"}};

	bed_run(&bed);
	bed_check(&bed, 0, "rank 1: nonsense on its report pipe");
	bed_done(&bed);
}
END_TEST

static TCase *ends(void)
{
	TCase *tc = tcase_create("ends");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, all_return_0);
	tcase_add_loop_test(tc, one_fails, 0, sizeof(failures) / sizeof(failures[0]));
	tcase_add_test(tc, consequences);
	tcase_add_loop_test(tc, fifty_ms_apart, 0, 3);
	tcase_add_loop_test(tc, both_seen_at_once, 0, 10);
	tcase_add_loop_test(tc, daemon_killed, 0, 10);
	tcase_add_loop_test(tc, daemon_ends, 0, sizeof(daemons) / sizeof(daemons[0]));
	tcase_add_test(tc, daemon_fails_at_its_end);
	tcase_add_test(tc, daemon_ignores_sigterm);
	tcase_add_test(tc, daemon_that_does_not_answer);
	tcase_add_loop_test(tc, worker_missing, 0, 2);
	tcase_add_test(tc, daemon_missing);
	tcase_add_test(tc, many_ranks);
	tcase_add_test(tc, nonsense_reports);
	return tc;
}

static TCase *stopping(void)
{
	TCase *tc = tcase_create("stopping");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, stop_in_order, 0, sizeof(stops) / sizeof(stops[0]));
	tcase_add_test(tc, stop_kills_those_without_a_handler);
	tcase_add_test(tc, second_signal_kills);
	tcase_add_test(tc, stop_timeout);
	tcase_add_test(tc, failure_while_stopping);
	tcase_add_test(tc, nohup);
	tcase_add_test(tc, usr1_is_forwarded);
	tcase_add_test(tc, agent_told_to_end);
	tcase_add_test(tc, output_closed);
	return tc;
}

int main(void)
{
	Suite *suite = suite_create("launcher");

	suite_add_tcase(suite, ends());
	suite_add_tcase(suite, stopping());
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
