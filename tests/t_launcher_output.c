/*
 * What dsrun prints and writes. The goal: whole lines under their rank's number whatever bytes are
 * in them, copies byte by byte, reports by kind, a live line that leaves no trace, a summary in
 * every case, and a reader that stalls stops nothing but output. The method: as in t_launcher.c,
 * with pipes and a pseudo-terminal for standard output.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/launcher_bed.h"

static char *load(const char *path, size_t *ret_len)
{
	FILE *f = fopen(path, "re");
	char *text = malloc(1 << 20);

	ck_assert_msg(f != NULL, "%s: %s", path, strerror(errno));
	ck_assert_ptr_nonnull(text);
	size_t len = fread(text, 1, (1 << 20) - 1, f);
	text[len] = '\0';
	fclose(f);
	if (ret_len)
		*ret_len = len;
	return text;
}

static void scratch(char path[256], const char *name)
{
	snprintf(path, 256, "%s/%d-%s", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (int)getpid(),
		 name);
}

/* ---- lines ---- */

START_TEST(lines_do_not_mix)
{
	struct bed bed = {.env = {"FAKE_ALL=flood 300"}, .ranks = 4};
	unsigned counts[4] = {0};

	bed_run(&bed);
	bed_check(&bed, 0, NULL);
	for (char *at = bed.out_text, *line; (line = strsep(&at, "\n")) && *line;) {
		ck_assert_uint_eq(strlen(line), 4 + 99);
		ck_assert(line[0] == '[' && line[1] >= '0' && line[1] < '4' && line[2] == ']');
		ck_assert_uint_eq(strspn(line + 4, "x"), 99);
		counts[line[1] - '0']++;
	}
	for (int i = 0; i < 4; i++)
		ck_assert_uint_eq(counts[i], 300 * 1024 / 100);
	bed_done(&bed);
}
END_TEST

START_TEST(odd_lines)
{
	struct bed bed = {.env = {"FAKE_ALL=exit 0", "FAKE_0=binary;long 40000;out ;bare no end",
				  "FAKE_1=bare two ;bare parts;exit 0"}};
	size_t longest = 0, long_bytes = 0;

	bed_run(&bed);
	bed_check(&bed, 0, NULL);
	ck_assert_ptr_nonnull(strstr(bed.out_text, "[0] no end\n"));
	ck_assert_ptr_nonnull(strstr(bed.out_text, "[1] two parts\n"));
	ck_assert_ptr_nonnull(strstr(bed.out_text, "[0] \n"));
	ck_assert_ptr_nonnull(strstr(bed.out_text, "\x7e\x7f\x80\x81"));
	ck_assert_ptr_nonnull(strstr(bed.out_text, "\xfe\xff\n"));
	for (char *at = bed.out_text, *line; (line = strsep(&at, "\n")) != NULL;) {
		if (strlen(line) > longest)
			longest = strlen(line);
		if (strlen(line) > 4)
			long_bytes += strspn(line + 4, "y");
	}
	ck_assert_uint_le(longest, 4 + 16384);
	ck_assert_uint_eq(long_bytes, 40000);
	bed_done(&bed);
}
END_TEST

START_TEST(tee_copies)
{
	char dir[256], path[300];
	struct bed bed = {.env = {"FAKE_ALL=exit 0", "FAKE_1=binary;bare a\\b;err oh;exit 0"},
			  .args = {"--tee", dir, "-q"}};
	size_t len;

	scratch(dir, "tee");
	bed_run(&bed);
	bed_check(&bed, 0, NULL);
	ck_assert_str_eq(bed.out_text, "");
	ck_assert_str_eq(bed.err_text, "");
	snprintf(path, sizeof(path), "%s/rank-0001.out", dir);
	char *text = load(path, &len);
	ck_assert_uint_eq(len, 257 + 3);
	for (int i = 0; i < 256; i++)
		ck_assert_int_eq((unsigned char)text[i], i == '\n' ? ' ' : i);
	free(text);
	snprintf(path, sizeof(path), "%s/rank-0001.err", dir);
	text = load(path, NULL);
	ck_assert_str_eq(text, "oh\n");
	free(text);
	bed_done(&bed);
}
END_TEST

START_TEST(reports_in_a_log)
{
	struct bed bed = {.env = {"FAKE_ALL=exit 0",
				  "FAKE_0=note n;step s1;live l1;step s2;out o;exit 0",
				  "FAKE_1=note other;exit 0"}};

	bed_run(&bed);
	bed_check(&bed, 0, NULL);
	const char *note = strstr(bed.out_text, "n\n"), *step = strstr(bed.out_text, "s1\n");
	ck_assert(note && step && note < step && strstr(step, "s2\n"));
	ck_assert_ptr_nonnull(strstr(bed.out_text, "[1] other\n"));
	ck_assert_ptr_null(strstr(bed.out_text, "l1"));
	bed_done(&bed);
}
END_TEST

START_TEST(quiet_prints_failures_only)
{
	struct bed bed = {.env = {"FAKE_ALL=wait", "FAKE_1=note n;out o;err e;exit 3"},
			  .args = {"--quiet", "--grace", "100ms"},
			  .daemon = true};

	bed_run(&bed);
	bed_check(&bed, 3, "dsrun: rank 1 failed: exited with status 3");
	ck_assert_str_eq(bed.out_text, "");
	ck_assert_int_eq(strncmp(bed.err_text, "dsrun: rank 1", 13), 0);
	bed_done(&bed);
}
END_TEST

/* ---- a terminal ---- */

/* Reads the terminal until dsrun has gone. */
static size_t read_terminal(int master, char *text, size_t room)
{
	size_t len = 0;
	ssize_t got;

	while (len < room && (got = read(master, text + len, room - 1 - len)) > 0)
		len += (size_t)got;
	text[len] = '\0';
	return len;
}

START_TEST(live_line)
{
	static char text[1 << 16];
	int master, slave;
	struct winsize size = {.ws_row = 24, .ws_col = 20};
	struct bed bed = {.env = {"FAKE_ALL=exit 0", "TERM=xterm",
				  "FAKE_0=live step 1 of 10, loss 5.2, 3 tok/s;step S;until 300;"
				  "note N;live \xc3\xa4\xc3\xa4\xc3\xa4;until 600;exit 0"}};

	ck_assert_int_eq(openpty(&master, &slave, NULL, NULL, &size), 0);
	fcntl(master, F_SETFD, FD_CLOEXEC);
	bed.out_fd = slave;
	bed_start(&bed);
	close(slave);
	read_terminal(master, text, sizeof(text));
	bed_wait(&bed);
	bed_check(&bed, 0, NULL);
	/* Cut to a column less than there are; erased before the note; nothing stays. */
	ck_assert_ptr_nonnull(strstr(text, "\r\033[Kstep 1 of 10, loss \r\033[KN\r\n"));
	ck_assert_ptr_nonnull(strstr(text, "\r\033[K\xc3\xa4\xc3\xa4\xc3\xa4"));
	ck_assert_ptr_null(strstr(text, "S\r"));
	ck_assert_str_eq(text + strlen(text) - 4, "\r\033[K");
	close(master);
	bed_done(&bed);
}
END_TEST

/*
 * Nobody reads for a while. Rank 1 is killed meanwhile: the job must end, and then be told whole.
 */
START_TEST(stalled_reader)
{
	int ends[2], waiting = 0, full;
	char buf[65536];
	size_t bytes = 0;
	ssize_t got;

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	/* A pipe is full when its pages are, which odd lengths fill by half or more. */
	full = fcntl(ends[1], F_GETPIPE_SZ) / 2;
	struct bed bed = {.env = {"FAKE_ALL=flood 20000;wait", "FAKE_1=wait"},
			  .args = {"--grace", "100ms"},
			  .out_fd = ends[1],
			  .daemon = true};
	bed_start(&bed);
	close(ends[1]);
	bed_await(&bed, "RANK=", 3);
	while (waiting < full)
		ck_assert_int_eq(ioctl(ends[0], FIONREAD, &waiting), 0);
	ck_assert_int_eq(kill(bed_find(&bed, "RANK=1"), SIGKILL), 0);
	bed_await(&bed, "RANK=", 0);
	bed_await(&bed, "LISTEN_FDS=", 0);
	while ((got = read(ends[0], buf, sizeof(buf))) > 0)
		bytes += (size_t)got;
	bed_wait(&bed);
	bed_check(&bed, 137, "rank 1 failed: killed by SIGKILL");
	ck_assert_uint_gt(bytes, 100000);
	close(ends[0]);
	bed_done(&bed);
}
END_TEST

/* ---- the summary ---- */

static const struct {
	const char *one;
	int status;
	const char *parts[6];
} summaries[] = {
	{"exit 0",
	 0,
	 {"\"status\":\"ok\"", "\"exit_status\":0", "\"loss\":[1,2.5]", "\"who\":{\"a\":null}",
	  "\"k\":1e-3", "\"w\":\"two words\""}},
	{"exit 3",
	 3,
	 {"\"status\":\"failed\"", "\"exit_status\":3", "\"rank\":1", "\"exit_code\":3",
	  "\"process\":\"worker\"", "\"loss\":[1,2.5]"}},
	{"err \"quoted\";signal 11",
	 139,
	 {"\"status\":\"failed\"", "\"exit_status\":139", "\"signal\":\"SIGSEGV\"",
	  "\"stderr\":[\"\\\"quoted\\\"\"]", "\"k\":1e-3", "\"loss\":[1,2.5]"}},
};

START_TEST(summary)
{
	char path[256], one[128];
	struct bed bed = {.env = {"FAKE_ALL=exit 0",
				  "FAKE_0=summary {\"status\": \"mine\", \"loss\":[1,2.5], "
				  "\"who\":{\"a\":null}}; exit 0",
				  one},
			  .args = {"--summary", path, "--summary-add", "k=1e-3",
				   "--summary-add=w=two words"}};

	scratch(path, "summary.json");
	snprintf(one, sizeof(one), "FAKE_1=until 200;%s", summaries[_i].one);
	bed_run(&bed);
	bed_check(&bed, summaries[_i].status, NULL);
	char *text = load(path, NULL);
	for (size_t i = 0; i < 6 && summaries[_i].parts[i]; i++)
		ck_assert_msg(strstr(text, summaries[_i].parts[i]) != NULL, "no %s in %s",
			      summaries[_i].parts[i], text);
	ck_assert_ptr_null(strstr(text, "mine"));
	free(text);
	unlink(path);
	bed_done(&bed);
}
END_TEST

START_TEST(summary_that_is_none)
{
	char path[256];
	struct bed bed = {.env = {"FAKE_ALL=exit 0", "FAKE_0=summary {\"a\":1,;exit 0"},
			  .args = {"--summary", path}};

	scratch(path, "summary.json");
	bed_run(&bed);
	bed_check(&bed, 0, "rank 0's summary is no JSON object");
	char *text = load(path, NULL);
	ck_assert_str_eq(text, "{\"status\":\"ok\",\"exit_status\":0}");
	free(text);
	unlink(path);
	bed_done(&bed);
}
END_TEST

START_TEST(summary_without_a_job)
{
	char path[256];
	struct bed bed = {.args = {"--summary", path, "/nowhere/train.yaml"}, .no_config = true};

	scratch(path, "summary.json");
	bed_run(&bed);
	bed_check(&bed, 66, "/nowhere/train.yaml");
	char *text = load(path, NULL);
	ck_assert_ptr_nonnull(strstr(text, "\"status\":\"failed\",\"exit_status\":66"));
	ck_assert_ptr_nonnull(strstr(text, "\"process\":\"launcher\""));
	free(text);
	unlink(path);
	bed_done(&bed);
}
END_TEST

/* ---- before anything runs ---- */

static const struct {
	const char *args[6];
	int status;
	const char *text;
} command_lines[] = {
	{{"--plann", "x.yaml"}, 64, "--plann: unknown option (did you mean '--plan'?)"},
	{{"--sumary=x", "x.yaml"}, 64, "(did you mean '--summary'?)"},
	{{"--xyzzy", "x.yaml"}, 64, "--xyzzy: unknown option\n"},
	{{"-z", "x.yaml"}, 64, "-z: unknown option"},
	{{NULL}, 64, "no configuration file given"},
	{{"a.yaml", "b.yaml"}, 64, "'b.yaml': one configuration file only"},
	{{"--grace", "1", "x.yaml"}, 64, "--grace: '1' is not a duration"},
	{{"--grace"}, 64, "--grace: needs a value"},
	{{"--quiet=yes", "x.yaml"}, 64, "--quiet: takes no value"},
	{{"--log-level", "loud", "x.yaml"}, 64, "'loud' is not one of error, warn, info, debug"},
	{{"--generate", "-3", "x.yaml"}, 64, "--generate: '-3' is not a whole number"},
	{{"--generate", "99999999999999999999", "x.yaml"}, 64, "is not a whole number"},
	{{"--prompt", "hm", "x.yaml"}, 64, "--prompt goes with --generate only"},
	{{"--json", "x.yaml"}, 64, "--json goes with --plan only"},
	{{"--plan", "-n", "x.yaml"}, 64, "do not go together"},
	{{"--summary-add", "a=1", "x.yaml"}, 64, "--summary-add goes with --summary only"},
	{{"--summary", "s", "--summary-add", "a", "x.yaml"}, 64, "is not KEY=VALUE"},
	{{"--summary", "s", "--summary-add", "status=1", "x.yaml"}, 64, "dsrun writes that itself"},
	{{"--summary", "s", "--summary-add=a=1", "--summary-add=a=2", "x.yaml"},
	 64,
	 "'a=1' and 'a=2'"},
	{{"--summary", "", "x.yaml"}, 64, "--summary: needs a value"},
	{{"/nowhere/x.yaml"}, 66, "/nowhere/x.yaml"},
	{{"-n", "/nowhere/x.yaml"}, 66, "/nowhere/x.yaml"},
	{{"--help"}, 0, ""},
	{{"--version"}, 0, ""},
};

START_TEST(command_line)
{
	struct bed bed = {.no_config = true};

	memcpy(bed.args, command_lines[_i].args, sizeof(command_lines[_i].args));
	bed_run(&bed);
	bed_check(&bed, command_lines[_i].status, command_lines[_i].text);
	unsigned lines = 0;
	for (const char *at = bed.out_text; (at = strchr(at, '\n')) != NULL; at++)
		lines++;
	ck_assert_uint_le(lines, 24);
	bed_done(&bed);
}
END_TEST

static const struct {
	const char *args[4];
	int status;
	const char *text;
} outputs[] = {
	{{"--summary", "/nowhere/s.json"}, 73, "--summary /nowhere/s.json: No such file"},
	{{"--export", "/nowhere/w.safetensors"},
	 73,
	 "--export /nowhere/w.safetensors: No such file"},
	{{"--tee", "/nowhere/logs"}, 73, "/nowhere/logs: No such file"},
	{{"-n"}, 0, ""},
	{{"--plan"}, 0, ""},
	{{"--plan", "--json"}, 0, ""},
};

/* Nothing is started when it is clear that its results could not be written. */
START_TEST(outputs_are_checked_first)
{
	struct bed bed = {.env = {"FAKE_ALL=exit 42"}};

	memcpy(bed.args, outputs[_i].args, sizeof(outputs[_i].args));
	bed_run(&bed);
	bed_check(&bed, outputs[_i].status, outputs[_i].text);
	bed_done(&bed);
}
END_TEST

#define COUNT(table) (int)(sizeof(table) / sizeof((table)[0]))

int main(void)
{
	Suite *suite = suite_create("launcher_output");
	TCase *tc = tcase_create("output");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, lines_do_not_mix);
	tcase_add_test(tc, odd_lines);
	tcase_add_test(tc, tee_copies);
	tcase_add_test(tc, reports_in_a_log);
	tcase_add_test(tc, quiet_prints_failures_only);
	tcase_add_test(tc, live_line);
	tcase_add_test(tc, stalled_reader);
	tcase_add_loop_test(tc, summary, 0, COUNT(summaries));
	tcase_add_test(tc, summary_that_is_none);
	tcase_add_test(tc, summary_without_a_job);
	tcase_add_loop_test(tc, command_line, 0, COUNT(command_lines));
	tcase_add_loop_test(tc, outputs_are_checked_first, 0, COUNT(outputs));
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
