/*
 * The launcher's parts by themselves. Link: frames survive any cut of the stream, and random bytes
 * are refused without harm. Lines, tail, JSON members, launch text: against what they must give.
 * Agent: a real one is fed nonsense, and must end, with what it had started. Seeds are fixed; a
 * failure prints its own.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/rng.h"
#include "launcher/launch.h"
#include "launcher/lines.h"
#include "launcher/link.h"
#include "launcher/summary.h"

#define SEED 20261124u

/* ---- link ---- */

static void pipe_of_two(int ends[2])
{
	ck_assert_int_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
}

/* Frames of all sizes through a pipe, in writes and reads of random length. */
START_TEST(link_round_trip)
{
	int ends[2];
	struct link_out out;
	struct link_in in;
	struct link_frame frame;
	struct err err = {0};
	unsigned sent = 0, got = 0;
	static char text[200000];

	pipe_of_two(ends);
	link_out_init(&out, ends[1]);
	link_in_init(&in, ends[0]);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)(i * 7);
	while (got < 300) {
		if (sent < 300) {
			uint64_t r = rng_u64(SEED, 1, sent);
			size_t len = r % 5 == 0 ? r % sizeof(text) : r % 50;
			uint32_t head = sent;

			ck_assert_int_eq(
				link_put(&out, LINK_OUTPUT, sent, &head, sizeof(head), text, len),
				0);
			sent++;
		}
		ck_assert_int_eq(link_flush(&out), 0);
		if (link_read(&in, &err) <= 0)
			continue;
		while (link_next(&in, &frame, &err) == 1) {
			const char *rest;
			size_t len;
			uint32_t head;

			ck_assert_int_eq(link_take(&frame, &head, sizeof(head), &rest, &len, &err),
					 0);
			uint64_t r = rng_u64(SEED, 1, got);
			ck_assert_uint_eq(len, r % 5 == 0 ? r % sizeof(text) : r % 50);
			ck_assert_uint_eq(head, got);
			ck_assert_uint_eq(frame.head.rank, got);
			ck_assert_int_eq(memcmp(rest, text, len), 0);
			got++;
		}
	}
	link_in_done(&in);
	link_out_done(&out);
	close(ends[0]);
	close(ends[1]);
}
END_TEST

START_TEST(link_refuses)
{
	static const struct link_head bad[] = {
		{0, 0, 0},
		{LINK_TYPE_COUNT, 0, 0},
		{0xffffffffu, 0, 0},
		{LINK_OUTPUT, 0, LINK_BYTES_MAX + 1},
		{LINK_OUTPUT, 0, 0xffffffffu},
	};
	int ends[2];
	struct link_in in;
	struct link_frame frame;
	struct err err = {0};

	pipe_of_two(ends);
	link_in_init(&in, ends[0]);
	ck_assert_int_eq(write(ends[1], &bad[_i], sizeof(bad[_i])), sizeof(bad[_i]));
	ck_assert_int_eq(link_read(&in, &err), 1);
	ck_assert_int_eq(link_next(&in, &frame, &err), ERR_PROTOCOL);
	link_in_done(&in);
	close(ends[0]);
	close(ends[1]);
}
END_TEST

START_TEST(link_lengths_are_exact)
{
	struct link_frame frame = {.head = {.type = LINK_SIGNAL, .bytes = 4},
				   .payload = (const uint8_t *)"abcd"};
	char head[8], more;
	const char *text = &more;
	size_t len;
	struct err err = {0};

	ck_assert_int_eq(link_take(&frame, head, 4, NULL, NULL, &err), 0);
	ck_assert_int_eq(link_take(&frame, head, 3, NULL, NULL, &err), ERR_PROTOCOL);
	ck_assert_int_eq(link_take(&frame, head, 5, &text, &len, &err), ERR_PROTOCOL);
	ck_assert_int_eq(link_take(&frame, head, 3, &text, &len, &err), 0);
	ck_assert_uint_eq(len, 1);
	ck_assert_int_eq(link_put(&(struct link_out){.broken = false}, LINK_JOB, 0, NULL, 0, "",
				  LINK_BYTES_MAX + 1),
			 -E2BIG);
}
END_TEST

START_TEST(link_random_bytes)
{
	unsigned char noise[4096];
	int ends[2];
	struct link_in in;
	struct link_frame frame;
	struct err err = {0};

	for (uint64_t round = 0; round < 500; round++) {
		pipe_of_two(ends);
		link_in_init(&in, ends[0]);
		for (size_t i = 0; i < sizeof(noise); i++)
			noise[i] = (unsigned char)(rng_u64(SEED, round, i / 8) &
						   (round % 3 ? 0xff : 3));
		ck_assert_int_eq(write(ends[1], noise, sizeof(noise)), sizeof(noise));
		int rc = link_read(&in, &err);
		while (rc > 0 && (rc = link_next(&in, &frame, &err)) > 0)
			ck_assert_uint_le(frame.head.bytes, LINK_BYTES_MAX);
		ck_assert(rc == 0 || rc == ERR_PROTOCOL);
		link_in_done(&in);
		close(ends[0]);
		close(ends[1]);
	}
}
END_TEST

/* ---- a real agent ---- */

struct agent {
	pid_t pid;
	int to, from;
};

static void agent_open(struct agent *a)
{
	int in[2], out[2];
	char path[PATH_MAX];

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	snprintf(path, sizeof(path), "%s/bin/dsrun", getenv("B") ? getenv("B") : "build");
	a->pid = fork();
	ck_assert_int_ge(a->pid, 0);
	if (a->pid == 0) {
		int null = open("/dev/null", O_WRONLY);

		if (dup2(in[0], 0) < 0 || dup2(out[1], 1) < 0 || dup2(null, 2) < 0)
			_exit(98);
		execl(path, "dsrun", "agent", (char *)NULL);
		_exit(98);
	}
	close(in[0]);
	close(out[1]);
	a->to = in[1];
	a->from = out[0];
}

/* Whatever it is fed, it ends when its link does, by itself. */
static int agent_close(struct agent *a)
{
	char buf[4096];
	int status;

	close(a->to);
	while (read(a->from, buf, sizeof(buf)) > 0)
		continue;
	close(a->from);
	ck_assert_int_eq(waitpid(a->pid, &status, 0), a->pid);
	ck_assert_msg(WIFEXITED(status), "the agent died of signal %d", WTERMSIG(status));
	return WEXITSTATUS(status);
}

START_TEST(agent_random_bytes)
{
	for (uint64_t round = 0; round < 20; round++) {
		struct agent a;
		unsigned char noise[3000];

		agent_open(&a);
		for (size_t i = 0; i < sizeof(noise); i++)
			noise[i] = (unsigned char)(rng_u64(SEED + 1, round, i / 8) >> i % 8 * 8);
		ck_assert_int_eq(write(a.to, noise, sizeof(noise)), sizeof(noise));
		(void)agent_close(&a);
	}
}
END_TEST

/* Frames that are well formed and mean nothing, or come when they must not. */
START_TEST(agent_wrong_frames)
{
	static const struct {
		uint32_t type, bytes;
	} frames[] = {{LINK_SIGNAL, 0}, {LINK_SIGNAL, 4}, {LINK_KILL, 1},
		      {LINK_JOB, 0},    {LINK_JOB, 100},  {LINK_HELLO, 0},
		      {LINK_DONE, 4},   {LINK_KILL, 0},   {LINK_OUTPUT, 9}};
	struct link_head head = {.type = frames[_i].type, .bytes = frames[_i].bytes};
	char payload[128] = {0};
	struct agent a;

	agent_open(&a);
	ck_assert_int_eq(write(a.to, &head, sizeof(head)), sizeof(head));
	ck_assert_int_eq(write(a.to, payload, head.bytes), head.bytes);
	(void)agent_close(&a);
}
END_TEST

static const char config_text[] = "a: \"b\\\"\"\n# caf\xc3\xa9\n\tc\n";

static char *a_launch(size_t *ret_len)
{
	static const char *paths[] = {"/a b", "/c\"d"};
	struct launch launch = {
		.job = {.id = "1-abc",
			.config_name = "x.yaml",
			.config_text = config_text,
			.world = 2,
			.generate = 7,
			.prompt = "In the\nbeginning",
			.resume = true},
		.daemon = LAUNCH_DAEMON_AUTO,
		.socket = "/nowhere/dsoffload.sock",
		.daemon_memory_bytes = 1ull << 40,
		.daemon_threads = 3,
		.daemon_paths = {paths, 2},
		.daemon_tuned = "/figures of bench",
		.worker_path = "/bin/true",
		.daemon_path = "/bin/true",
		.grace_ns = 5,
		.log_level = 1,
		.log_format = 2,
	};
	char *text = launch_format(&launch, ret_len);

	ck_assert_ptr_nonnull(text);
	return text;
}

START_TEST(launch_round_trip)
{
	size_t len;
	char *text = a_launch(&len);
	struct launch back;
	struct launch_docs docs;
	struct err err = {0};

	ck_assert_msg(launch_parse(text, len, &back, &docs, &err) == 0, "%s", err.text);
	ck_assert_str_eq(back.job.id, "1-abc");
	ck_assert_str_eq(back.job.config_text, config_text);
	ck_assert_str_eq(back.job.prompt, "In the\nbeginning");
	ck_assert_ptr_null(back.job.export_path);
	ck_assert_uint_eq(back.job.world, 2);
	ck_assert(back.job.resume);
	ck_assert_uint_eq(back.daemon_memory_bytes, 1ull << 40);
	ck_assert_uint_eq(back.daemon_paths.count, 2);
	ck_assert_str_eq(back.daemon_paths.at[1], "/c\"d");
	ck_assert_str_eq(back.daemon_tuned, "/figures of bench");
	ck_assert_int_eq(back.daemon, LAUNCH_DAEMON_AUTO);
	ck_assert_int_eq(back.log_format, 2);
	launch_docs_done(&docs);
	free(text);
}
END_TEST

/* Every cut and many corruptions of it: refused or harmless, never a crash. */
START_TEST(launch_mutations)
{
	size_t len;
	char *text = a_launch(&len), *copy = malloc(len);
	struct launch back;
	struct launch_docs docs;
	struct err err = {0};

	ck_assert_ptr_nonnull(copy);
	for (uint64_t round = 0; round < 3000; round++) {
		size_t cut = round < len ? round : len;

		memcpy(copy, text, len);
		for (unsigned i = 0; round >= len && i < 3; i++)
			copy[rng_below(SEED, 2 * i, round, len)] =
				(char)rng_u64(SEED, 9 + i, round);
		if (launch_parse(copy, cut, &back, &docs, &err) == 0)
			launch_docs_done(&docs);
	}
	free(copy);
	free(text);
}
END_TEST

/* ---- lines ---- */

struct collected {
	char text[100000];
	size_t len, lines;
};

static void collect(void *ctx, const char *line, size_t len)
{
	struct collected *c = ctx;

	ck_assert_uint_le(len, LINES_BYTES_MAX);
	memcpy(c->text + c->len, line, len);
	c->len += len;
	c->text[c->len++] = '\n';
	c->lines++;
}

/* Cut anywhere, the same lines come out. */
START_TEST(lines_any_cut)
{
	static char text[50000];
	static struct collected once, parts;
	struct lines lines = {0};
	size_t at = 0;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = rng_below(SEED, 3, i, 40) == 0 ? '\n' : (char)('a' + i % 26);
	memset(text + 10000, 'z', 20000);
	lines_feed(&lines, text, sizeof(text), collect, &once);
	lines_finish(&lines, collect, &once);
	for (uint64_t i = 0; at < sizeof(text); i++) {
		size_t len = rng_below(SEED, 4, i, 300);

		if (len > sizeof(text) - at)
			len = sizeof(text) - at;
		lines_feed(&lines, text + at, len, collect, &parts);
		at += len;
	}
	lines_finish(&lines, collect, &parts);
	ck_assert_uint_eq(once.lines, parts.lines);
	ck_assert_uint_eq(once.len, parts.len);
	ck_assert_int_eq(memcmp(once.text, parts.text, once.len), 0);
}
END_TEST

START_TEST(lines_of_just_the_bound)
{
	static char text[LINES_BYTES_MAX + 1];
	static struct collected c;
	struct lines lines = {0};

	memset(text, 'x', LINES_BYTES_MAX);
	text[LINES_BYTES_MAX] = '\n';
	lines_feed(&lines, text, sizeof(text), collect, &c);
	lines_feed(&lines, "\n", 1, collect, &c);
	lines_finish(&lines, collect, &c);
	ck_assert_uint_eq(c.lines, 2);
	ck_assert_uint_eq(c.len, LINES_BYTES_MAX + 2);
}
END_TEST

START_TEST(tail_keeps_the_last)
{
	struct tail tail = {0};
	char line[1000];

	ck_assert_ptr_null(tail_line(&tail, 0));
	for (int i = 0; i < 33; i++) {
		int len = snprintf(line, sizeof(line), "%d\t\x01", i);

		tail_add(&tail, line, (size_t)len);
		tail_add(&tail, "", 0);
	}
	ck_assert_str_eq(tail_line(&tail, 0), "13 ?");
	ck_assert_str_eq(tail_line(&tail, 19), "32 ?");
	ck_assert_ptr_null(tail_line(&tail, 20));
	memset(line, 'q', sizeof(line));
	tail_add(&tail, line, sizeof(line));
	ck_assert_uint_eq(strlen(tail_line(&tail, 19)), LINES_TAIL_BYTES - 1);
	tail_done(&tail);
}
END_TEST

/* ---- JSON of the worker's summary ---- */

static const struct {
	const char *text; /* behind the opening brace */
	int members;      /* or -EBADMSG */
} objects[] = {
	{"}", 0},
	{" } ", 0},
	{"\"a\":1}", 1},
	{" \"a\" : -1.5e+3 , \"b\":[1,{\"c\":[]},\"}\"],\"d\":\"\\\"\" } ", 3},
	{"\"a\":true,\"b\":false,\"c\":null}", 3},
	{"", -EBADMSG},
	{"\"a\":1", -EBADMSG},
	{"\"a\"}", -EBADMSG},
	{"\"a\":}", -EBADMSG},
	{"\"a\":01}", -EBADMSG},
	{"\"a\":1.}", -EBADMSG},
	{"\"a\":1e}", -EBADMSG},
	{"\"a\":nul}", -EBADMSG},
	{"\"a\":\"\n\"}", -EBADMSG},
	{"\"a\":[1,]}", -EBADMSG},
	{"\"a\":[1 2]}", -EBADMSG},
	{"\"a\":{\"b\"}}", -EBADMSG},
	{"\"a\":1} x", -EBADMSG},
	{"\"a\":1 \"b\":2}", -EBADMSG},
	{"\"a\":1,}", -EBADMSG},
	{"a:1}", -EBADMSG},
	{"\"\\u0061\":1}", -EBADMSG},
};

START_TEST(summary_members)
{
	const char *at = objects[_i].text, *end = at + strlen(at);
	struct summary_member member;
	int rc, members = 0;

	while ((rc = summary_next(&at, end, &member)) > 0)
		members++;
	ck_assert_msg((rc < 0 ? rc : members) == objects[_i].members, "%s: %d, %d members",
		      objects[_i].text, rc, members);
}
END_TEST

START_TEST(summary_deep)
{
	char text[2000] = "\"a\":";

	memset(text + 4, '[', 1000);
	const char *at = text, *end = text + 1004;
	struct summary_member member;
	ck_assert_int_eq(summary_next(&at, end, &member), -EBADMSG);
}
END_TEST

START_TEST(summary_numbers)
{
	ck_assert(summary_is_number("0"));
	ck_assert(summary_is_number("-12.5e-3"));
	ck_assert(!summary_is_number(""));
	ck_assert(!summary_is_number("1 "));
	ck_assert(!summary_is_number("0x10"));
	ck_assert(!summary_is_number("nan"));
	ck_assert(!summary_is_number(".5"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("launcher_parts");
	TCase *tc = tcase_create("parts");

	signal(SIGPIPE, SIG_IGN);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, link_round_trip);
	tcase_add_loop_test(tc, link_refuses, 0, 5);
	tcase_add_test(tc, link_lengths_are_exact);
	tcase_add_test(tc, link_random_bytes);
	tcase_add_test(tc, agent_random_bytes);
	tcase_add_loop_test(tc, agent_wrong_frames, 0, 9);
	tcase_add_test(tc, launch_round_trip);
	tcase_add_test(tc, launch_mutations);
	tcase_add_test(tc, lines_any_cut);
	tcase_add_test(tc, lines_of_just_the_bound);
	tcase_add_test(tc, tail_keeps_the_last);
	tcase_add_loop_test(tc, summary_members, 0, sizeof(objects) / sizeof(objects[0]));
	tcase_add_test(tc, summary_deep);
	tcase_add_test(tc, summary_numbers);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	printf("seed %u\n", SEED);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
