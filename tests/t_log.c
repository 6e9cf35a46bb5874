/*
 * Goal: a record is one line of its format, whole beside those of other threads, and no message can
 * forge a second one. Method: stderr is a pipe or a file while records are written.
 */
#include "common/log.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 4
#define RECORDS 500

static char text[1 << 20];

/* Runs `body` with stderr in an unlinked file; what was written is in `text`. */
static void capture(void (*body)(void))
{
	FILE *file = tmpfile();
	int saved = dup(STDERR_FILENO);
	ssize_t n;

	ck_assert_ptr_nonnull(file);
	ck_assert_int_ge(saved, 0);
	ck_assert_int_ge(fcntl(fileno(file), F_SETFL, O_APPEND), 0);
	ck_assert_int_ge(dup2(fileno(file), STDERR_FILENO), 0);
	body();
	ck_assert_int_ge(dup2(saved, STDERR_FILENO), 0);
	close(saved);
	n = pread(fileno(file), text, sizeof(text) - 1, 0);
	ck_assert_int_ge(n, 0);
	text[n] = '\0';
	fclose(file);
}

static void some_records(void)
{
	errno = ENOSPC;
	log_error("nvme", "writing extent %d: %s", 7, "it is \"full\"");
	ck_assert_int_eq(errno, ENOSPC);
	log_warn("nvme", "two\nlines\x1b[2J");
	log_info("daemon", "ready");
	log_debug("daemon", "unseen");
}

START_TEST(as_text)
{
	log_init("dsoffloadd", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	capture(some_records);
	ck_assert_str_eq(text, "dsoffloadd: error nvme: writing extent 7: it is \"full\"\n"
			       "dsoffloadd: warning nvme: two\n    lines?[2J\n"
			       "dsoffloadd: daemon: ready\n");
	log_set_rank(3);
	log_init("dsworker", LOG_LEVEL_DEBUG, LOG_FORMAT_TEXT);
	ck_assert_int_eq(log_get_level(), LOG_LEVEL_DEBUG);
	capture(some_records);
	ck_assert_ptr_nonnull(strstr(text, "dsworker[3]: debug daemon: unseen\n"));
}
END_TEST

START_TEST(as_json)
{
	char *line;

	log_init("dsoffloadd", LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	log_set_rank(2);
	capture(some_records);
	line = strtok(text, "\n");
	ck_assert_int_eq(strncmp(line, "{\"time\":\"20", 11), 0);
	ck_assert_ptr_nonnull(strstr(line, "Z\",\"level\":\"error\",\"program\":\"dsoffloadd\","));
	ck_assert_ptr_nonnull(strstr(line, ",\"rank\":2,\"module\":\"nvme\",\"message\":"
					   "\"writing extent 7: it is \\\"full\\\"\"}"));
	line = strtok(NULL, "\n");
	ck_assert_ptr_nonnull(strstr(line, "\"two\\u000alines\\u001b[2J\"}"));
	ck_assert_ptr_nonnull(strtok(NULL, "\n"));
	ck_assert_ptr_null(strtok(NULL, "\n"));
}
END_TEST

START_TEST(as_priorities)
{
	/* Where a journal runs the records go there instead. */
	if (access("/run/systemd/journal/socket", F_OK) == 0)
		return;
	log_init("dsoffloadd", LOG_LEVEL_INFO, LOG_FORMAT_JOURNAL);
	log_set_rank(-1);
	capture(some_records);
	ck_assert_str_eq(text, "<3>nvme: writing extent 7: it is \"full\"\n"
			       "<4>nvme: two\n<4>lines?[2J\n<6>daemon: ready\n");
}
END_TEST

static void long_record(void)
{
	static char message[10000];

	memset(message, '"', sizeof(message) - 1);
	log_error("nvme", "%s", message);
}

START_TEST(long_records_are_cut_and_whole)
{
	size_t len;

	log_init("dsoffloadd", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	capture(long_record);
	len = strlen(text);
	ck_assert_uint_le(len, 4096);
	ck_assert_ptr_eq(strchr(text, '\n'), text + len - 1);
	log_init("dsoffloadd", LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	capture(long_record);
	len = strlen(text);
	ck_assert_uint_le(len, 4096);
	ck_assert_str_eq(text + len - 5, "\\\"\"}\n");
}
END_TEST

static void *write_records(void *which)
{
	static const char *const letters[THREADS] = {"aaaaaaaa", "bbbbbbbb", "cccccccc",
						     "dddddddd"};
	const char *mine = letters[(intptr_t)which];

	for (int i = 0; i < RECORDS; i++)
		log_info("t", "%s%s%s%s", mine, mine, mine, mine);
	return NULL;
}

static void four_threads(void)
{
	pthread_t threads[THREADS];

	for (intptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, write_records, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}

START_TEST(lines_of_threads_do_not_mix)
{
	unsigned lines = 0;

	log_init("x", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	log_set_rank(-1);
	capture(four_threads);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
		ck_assert_uint_eq(strlen(line), strlen("x: t: ") + 32);
		ck_assert_uint_eq(strspn(line + 6, (char[2]){line[6], '\0'}), 32);
	}
	ck_assert_uint_eq(lines, THREADS * RECORDS);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("log");
	TCase *tcase = tcase_create("log");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, as_text);
	tcase_add_test(tcase, as_json);
	tcase_add_test(tcase, as_priorities);
	tcase_add_test(tcase, long_records_are_cut_and_whole);
	tcase_add_test(tcase, lines_of_threads_do_not_mix);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
