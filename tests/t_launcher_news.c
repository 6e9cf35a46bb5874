/*
 * Goal: the id of the collectives goes from rank 0's worker to every worker, byte by byte, once; a
 * failure is told to the others; and ids and news that make no sense are somebody's error, never a
 * hang.
 *
 * Method: the parts by themselves, on pipes; whole jobs of dsrun with scripted workers
 * (fake_worker.c); and a real agent with real workers, whose dsrun is the test, which says what no
 * dsrun would. A worker that waits for news for ever fails its test by the clock.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/news.h"
#include "common/rng.h"
#include "launcher/launch.h"
#include "launcher/link.h"
#include "tests/launcher_bed.h"

#define SEED  20261124u
#define GRACE "--grace", "200ms"

/* ---- records and texts ---- */

static struct comm_news some_news(uint32_t type, uint32_t rank, uint8_t fill)
{
	struct comm_news news = {.type = type, .rank = rank};

	memset(news.id, fill, sizeof(news.id));
	return news;
}

START_TEST(records)
{
	static const struct {
		uint32_t type, rank;
		uint8_t fill;
		int rc;
	} cases[] = {
		{COMM_NEWS_ID, 0, 7, 1},
		{COMM_NEWS_FAILED, 0, 0, 1},
		{COMM_NEWS_FAILED, 3, 0, 1},
		{COMM_NEWS_FAILED, 4, 0, ERR_PROTOCOL},
		{COMM_NEWS_FAILED, 0xffffffffu, 0, ERR_PROTOCOL},
		{COMM_NEWS_FAILED, 1, 7, ERR_PROTOCOL},
		{COMM_NEWS_ID, 1, 7, ERR_PROTOCOL},
		{COMM_NEWS_ID, 0, 0, ERR_PROTOCOL},
		{0, 0, 0, ERR_PROTOCOL},
		{3, 0, 0, ERR_PROTOCOL},
	};
	struct comm_news got;
	struct err err = {0};
	int ends[2];

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct comm_news news = some_news(cases[i].type, cases[i].rank, cases[i].fill);

		ck_assert_int_eq(comm_news_write(ends[1], &news), 0);
		ck_assert_int_eq(comm_news_read(ends[0], 4, -1, &got, &err), cases[i].rc);
		if (cases[i].rc == 1)
			ck_assert_int_eq(memcmp(&got, &news, sizeof(news)), 0);
	}
	ck_assert_int_eq(comm_news_read(ends[0], 4, 0, &got, &err), 0);
	ck_assert_int_eq(write(ends[1], &got, 5), 5);
	ck_assert_int_eq(comm_news_read(ends[0], 4, 0, &got, &err), ERR_PROTOCOL);
	close(ends[1]);
	ck_assert_int_eq(comm_news_read(ends[0], 4, -1, &got, &err), ERR_UNAVAILABLE);
	close(ends[0]);
}
END_TEST

START_TEST(pipes_full_and_closed)
{
	struct comm_news news = some_news(COMM_NEWS_ID, 0, 1);
	unsigned put = 0;
	int ends[2], rc;

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	while ((rc = comm_news_write(ends[1], &news)) == 0)
		put++;
	ck_assert_int_eq(rc, -EAGAIN);
	ck_assert_uint_ge(put, 16);
	close(ends[0]);
	ck_assert_int_eq(comm_news_write(ends[1], &news), -EPIPE);
	close(ends[1]);
}
END_TEST

START_TEST(ids_as_text)
{
	uint8_t id[COMM_ID_BYTES], back[COMM_ID_BYTES];
	char text[COMM_ID_TEXT_BYTES];

	for (uint64_t round = 0; round < 100; round++) {
		for (size_t i = 0; i < sizeof(id); i++)
			id[i] = (uint8_t)rng_u64(SEED, round, i);
		comm_id_format(id, text);
		ck_assert_uint_eq(strlen(text), sizeof(text) - 1);
		ck_assert_int_eq(comm_id_parse(text, strlen(text), back), 0);
		ck_assert_int_eq(memcmp(id, back, sizeof(id)), 0);
		size_t at = (size_t)rng_below(SEED, round, 1000, sizeof(text) - 1);
		text[at] = "gAF /:`@\n\x80"[round % 10];
		ck_assert_int_eq(comm_id_parse(text, sizeof(text) - 1, back), -EINVAL);
	}
	comm_id_format(id, text);
	ck_assert_int_eq(comm_id_parse(text, sizeof(text) - 2, back), -EINVAL);
	ck_assert_int_eq(comm_id_parse(text, sizeof(text), back), -EINVAL);
	ck_assert_int_eq(comm_id_parse(text, 0, back), -EINVAL);
	memset(id, 0, sizeof(id));
	comm_id_format(id, text);
	ck_assert_int_eq(comm_id_parse(text, sizeof(text) - 1, back), -EINVAL);
}
END_TEST

/* ---- whole jobs ---- */

#define RIGHT_ID "id 07e5c3..29" /* of fake_worker's, as it prints it */

START_TEST(everybody_gets_the_id)
{
	struct bed bed = {.env = {"FAKE_0=id;news;exit 0", "FAKE_ALL=news;exit 0"}, .ranks = 4};
	char line[64];

	bed_run(&bed);
	bed_check(&bed, 0, NULL);
	for (unsigned r = 0; r < 4; r++) {
		snprintf(line, sizeof(line), "[%u] " RIGHT_ID "\n", r);
		ck_assert_msg(strstr(bed.out_text, line), "no '%s' in: %s", line, bed.out_text);
	}
	bed_done(&bed);
}
END_TEST

/* The others wait for an id that never comes; the job ends with the one that is to blame. */
static const struct {
	const char *zero, *one;
	unsigned rank;
	const char *why;
} wrong_ids[] = {
	{"wait", "id;wait", 1, "it sent the id of the collectives, which is rank 0's to make"},
	{"id;id;wait", "wait", 0, "it sent a second id of the collectives"},
	{"id 0011;wait", "wait", 0, "it sent an id of the collectives that is none"},
	{"id all work and no play;wait", "wait", 0,
	 "it sent an id of the collectives that is none"},
};

START_TEST(wrong_id)
{
	char zero[128], one[128], who[64];
	struct bed bed = {.env = {zero, one, "FAKE_ALL=wait"}, .args = {GRACE}};

	snprintf(zero, sizeof(zero), "FAKE_0=%s", wrong_ids[_i].zero);
	snprintf(one, sizeof(one), "FAKE_1=%s", wrong_ids[_i].one);
	snprintf(who, sizeof(who), "rank %u", wrong_ids[_i].rank);
	bed_run(&bed);
	bed_check(&bed, 76, wrong_ids[_i].why);
	bed_check(&bed, 76, who);
	bed_done(&bed);
}
END_TEST

/* Also those that would not hear a SIGTERM. */
static const struct {
	const char *one;
	int status;
} ends[] = {
	{"meet;exit 3", 3},
	{"meet;signal 9", 137},
	{"meet;fail it broke;exit 70", 70},
};

START_TEST(a_failure_is_told)
{
	char one[128];
	struct bed bed = {.env = {one, "FAKE_ALL=ignore;meet;news;wait"}, .args = {GRACE}};

	snprintf(one, sizeof(one), "FAKE_1=%s", ends[_i].one);
	bed_run(&bed);
	bed_check(&bed, ends[_i].status, "rank 1 failed");
	ck_assert_ptr_nonnull(strstr(bed.out_text, "[0] news 2 of rank 1\n"));
	ck_assert_ptr_nonnull(strstr(bed.out_text, "[2] news 2 of rank 1\n"));
	bed_done(&bed);
}
END_TEST

/* ---- an agent whose dsrun we are ---- */

struct peer {
	pid_t pid;
	int to, from;
	struct link_in in;
	struct link_out out;
};

static void peer_open(struct peer *p, const char *script)
{
	int in[2], out[2];
	char path[PATH_MAX];

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	snprintf(path, sizeof(path), "%s/bin/dsrun", getenv("B") ? getenv("B") : "build");
	p->pid = fork();
	ck_assert_int_ge(p->pid, 0);
	if (p->pid == 0) {
		setenv("FAKE_ALL", script, 1);
		if (dup2(in[0], 0) < 0 || dup2(out[1], 1) < 0)
			_exit(98);
		execl(path, "dsrun", "agent", (char *)NULL);
		_exit(98);
	}
	close(in[0]);
	close(out[1]);
	p->to = in[1];
	p->from = out[0];
	link_in_init(&p->in, p->from);
	link_out_init(&p->out, p->to);
}

static void send(struct peer *p, enum link_type type, uint32_t rank, const void *head, size_t bytes)
{
	ck_assert_int_eq(link_put(&p->out, type, rank, head, bytes, NULL, 0), 0);
	ck_assert_int_eq(link_flush(&p->out), 0);
}

static void send_job(struct peer *p, bool cuda)
{
	char path[PATH_MAX];
	size_t len;
	struct launch launch = {
		.job = {.id = "1-abc", .config_name = "x.yaml", .config_text = "-", .world = 2},
		.daemon = LAUNCH_DAEMON_NONE,
		.cuda = cuda,
		.worker_path = path,
		.daemon_path = "/bin/false",
		.grace_ns = 1,
	};

	snprintf(path, sizeof(path), "%s/tests/fake_worker", getenv("B") ? getenv("B") : "build");
	char *text = launch_format(&launch, &len);
	ck_assert_ptr_nonnull(text);
	ck_assert_int_eq(link_put(&p->out, LINK_JOB, LINK_RANK_NONE, NULL, 0, text, len), 0);
	ck_assert_int_eq(link_flush(&p->out), 0);
	free(text);
}

/* Reads to the end of the link. How often a rank printed `want`; *ret_done: was there a DONE? */
static unsigned drain(struct peer *p, const char *want, bool *ret_done)
{
	struct link_frame frame;
	struct err err = {0};
	unsigned found = 0;
	int rc;

	*ret_done = false;
	while ((rc = link_read(&p->in, &err)) > 0)
		while (link_next(&p->in, &frame, &err) == 1) {
			*ret_done = *ret_done || frame.head.type == LINK_DONE;
			if (frame.head.type == LINK_OUTPUT &&
			    memmem(frame.payload, frame.head.bytes, want, strlen(want)))
				found++;
		}
	ck_assert_int_eq(rc, -EPIPE);
	return found;
}

static void peer_close(struct peer *p)
{
	int status;

	close(p->from);
	link_in_done(&p->in);
	link_out_done(&p->out);
	ck_assert_int_eq(waitpid(p->pid, &status, 0), p->pid);
	ck_assert_msg(WIFEXITED(status), "the agent died of signal %d", WTERMSIG(status));
}

/* An id and a failure elsewhere reach both workers; a second failure is no news. */
START_TEST(agent_passes_on)
{
	struct link_comm_id id;
	struct peer p;
	bool done;

	memset(id.id, 0x5a, sizeof(id.id));
	peer_open(&p, "news;news;exit 0");
	send_job(&p, false);
	send(&p, LINK_COMM_ID, LINK_RANK_NONE, &id, sizeof(id));
	send(&p, LINK_FAILED, 1, NULL, 0);
	send(&p, LINK_FAILED, 0, NULL, 0);
	ck_assert_uint_eq(drain(&p, "news 2 of rank 1", &done), 2);
	ck_assert(done);
	close(p.to);
	peer_close(&p);
}
END_TEST

/* What dsrun must not say ends the link, and with it the job, at once. */
static const struct {
	bool job;
	unsigned ids;
	uint32_t type, rank;
	size_t bytes;
} hostile[] = {
	{false, 0, LINK_COMM_ID, LINK_RANK_NONE, COMM_ID_BYTES},
	{false, 0, LINK_FAILED, 0, 0},
	{true, 0, LINK_COMM_ID, LINK_RANK_NONE, COMM_ID_BYTES - 1},
	{true, 0, LINK_COMM_ID, LINK_RANK_NONE, COMM_ID_BYTES + 1},
	{true, 1, LINK_COMM_ID, LINK_RANK_NONE, COMM_ID_BYTES},
	{true, 0, LINK_FAILED, 2, 0},
	{true, 0, LINK_FAILED, LINK_RANK_NONE, 0},
	{true, 0, LINK_FAILED, LINK_RANK_DAEMON, 0},
	{true, 0, LINK_FAILED, 1, 4},
};

START_TEST(agent_refuses)
{
	uint8_t bytes[COMM_ID_BYTES + 1];
	struct peer p;
	bool done;

	memset(bytes, 0x5a, sizeof(bytes));
	peer_open(&p, "ignore;wait");
	if (hostile[_i].job)
		send_job(&p, false);
	for (unsigned i = 0; i < hostile[_i].ids; i++)
		send(&p, LINK_COMM_ID, LINK_RANK_NONE, bytes, COMM_ID_BYTES);
	send(&p, hostile[_i].type, hostile[_i].rank, bytes, hostile[_i].bytes);
	/* Our end stays open: it is the frame that ends it. */
	(void)drain(&p, "", &done);
	close(p.to);
	peer_close(&p);
}
END_TEST

/* Ordinals mean the same everywhere; a user's order stays, and a cpu job is told none. */
START_TEST(order_of_gpus)
{
	static const struct {
		const char *set, *want;
		bool cuda;
	} cases[] = {
		{NULL, "PCI_BUS_ID", true},
		{"FASTEST_FIRST", "FASTEST_FIRST", true},
		{NULL, "not set", false},
	};
	struct peer p;
	bool done;

	ck_assert_int_eq(unsetenv("CUDA_DEVICE_ORDER"), 0);
	if (cases[_i].set)
		ck_assert_int_eq(setenv("CUDA_DEVICE_ORDER", cases[_i].set, 1), 0);
	peer_open(&p, "env CUDA_DEVICE_ORDER;exit 0");
	send_job(&p, cases[_i].cuda);
	ck_assert_uint_eq(drain(&p, cases[_i].want, &done), 2);
	ck_assert(done);
	close(p.to);
	peer_close(&p);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("launcher_news");
	TCase *tc = tcase_create("news");

	signal(SIGPIPE, SIG_IGN);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, records);
	tcase_add_test(tc, pipes_full_and_closed);
	tcase_add_test(tc, ids_as_text);
	tcase_add_test(tc, everybody_gets_the_id);
	tcase_add_loop_test(tc, wrong_id, 0, sizeof(wrong_ids) / sizeof(wrong_ids[0]));
	tcase_add_loop_test(tc, a_failure_is_told, 0, sizeof(ends) / sizeof(ends[0]));
	tcase_add_test(tc, agent_passes_on);
	tcase_add_loop_test(tc, agent_refuses, 0, sizeof(hostile) / sizeof(hostile[0]));
	tcase_add_loop_test(tc, order_of_gpus, 0, 3);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	printf("seed %u\n", SEED);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
