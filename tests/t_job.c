/*
 * What the launcher tells a worker arrives as it was, and a worker's reports arrive whole.
 *
 * Method. Round trips of strings that JSON, YAML or UTF-8 treat in their own way, of every byte,
 * and of random ones out of a fixed seed; wrong texts; reports through pipes that are full, closed,
 * or read by another thread. Allocation k fails for k = 1, 2, ... until none does.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/rng.h"
#include "offload/job.h"

#define SEED 20

/* Counts down to the allocation that fails; 0: none does. */
static unsigned alloc_fails;

static bool fails_now(void)
{
	return alloc_fails && --alloc_fails == 0;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
	return fails_now() ? NULL : __real_malloc(size);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
	return fails_now() ? NULL : __real_calloc(count, size);
}

void *__real_realloc(void *mem, size_t size);
void *__wrap_realloc(void *mem, size_t size);
void *__wrap_realloc(void *mem, size_t size)
{
	return fails_now() ? NULL : __real_realloc(mem, size);
}

char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
char *__wrap_strdup(const char *text)
{
	return fails_now() ? NULL : __real_strdup(text);
}

static const struct job whole = {
	.id = "dsrun-4711-0a1b",
	.config_name = "/home/u/my \"best\" model.yaml",
	.config_text = "model: {layers: 2}\t# a comment: [\n\n  - 'x'\n",
	.settled = {.host_memory = 3u << 30, .extent = 1 << 20, .queue_depth = 16},
	.world = 4,
	.socket = "@dsoffload/4711",
	.resume = true,
	.export_path = "out/weights.safetensors",
	.generate = 400,
	.prompt = "In the beginning\n",
};

static void same(const char *a, const char *b)
{
	if (!a || !b)
		ck_assert_msg(a == b, "\"%s\", expected \"%s\"", a ? a : "NULL", b ? b : "NULL");
	else
		ck_assert_str_eq(a, b);
}

static void round_trip(const struct job *job)
{
	char *text = job_format(job);
	struct conf_doc *doc;
	struct job got;
	struct err err = {0};
	int rc;

	ck_assert_ptr_nonnull(text);
	rc = job_parse(text, strlen(text), &got, &doc, &err);
	ck_assert_msg(rc == 0, "%s\n%s", err.text, text);
	same(got.id, job->id);
	same(got.config_name, job->config_name);
	same(got.config_text, job->config_text);
	ck_assert_uint_eq(got.settled.host_memory, job->settled.host_memory);
	ck_assert_uint_eq(got.world, job->world);
	same(got.socket, job->socket);
	ck_assert_int_eq(got.resume, job->resume);
	same(got.export_path, job->export_path);
	ck_assert_uint_eq(got.generate, job->generate);
	ck_assert_uint_eq(got.settled.extent, job->settled.extent);
	ck_assert_uint_eq(got.settled.queue_depth, job->settled.queue_depth);
	same(got.prompt, job->prompt);
	conf_free(doc);
	free(text);
}

START_TEST(all_of_it)
{
	round_trip(&whole);
}
END_TEST

START_TEST(least_of_it)
{
	const struct job job = {.id = "j", .config_name = "c", .config_text = "t", .world = 1};

	round_trip(&job);
}
END_TEST

START_TEST(empty_is_absent)
{
	struct job job = whole, got;
	struct conf_doc *doc;
	struct err err = {0};
	char *text;

	job.prompt = "";
	text = job_format(&job);
	ck_assert_ptr_nonnull(text);
	ck_assert_int_eq(job_parse(text, strlen(text), &got, &doc, &err), 0);
	ck_assert_ptr_null(got.prompt);
	conf_free(doc);
	free(text);
}
END_TEST

START_TEST(awkward_texts)
{
	static const char *const texts[] = {
		"\n",
		" ",
		"  leading and trailing  ",
		"\\ \\\\ \\n \\u0041 \\\"",
		"\"'{}[],:&*#?|-<>=!%@`",
		"line\r\nline\rline\n\n\n",
		"\t\ttab\ttab",
		"\x01\x02\x1b[0m\x7f",
		"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x90\xa7",
		"\xc2\x80\xc2\x85\xc2\x9f\xc2\xa0",
		"\xe2\x80\xa7\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa",
		"\xef\xbb\xbf\x20mark",
		"null",
		"~",
		"true",
		"12",
		"--- # document\n...\n",
		"%YAML 1.1\n---\n",
		"\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbd\xf4\x8f\xbf\xbd",
	};
	struct job job = whole;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		job.config_text = job.prompt = texts[i];
		round_trip(&job);
	}
}
END_TEST

START_TEST(every_byte)
{
	char text[256];
	struct job job = whole;

	for (unsigned c = 1; c < 256; c++)
		text[c - 1] = (char)c;
	text[255] = '\0';
	job.config_text = job.export_path = text;
	round_trip(&job);
}
END_TEST

START_TEST(random_texts)
{
	char text[1024];
	struct job job = whole;

	printf("seed %d\n", SEED);
	for (uint64_t n = 0; n < 200; n++) {
		size_t len = 1 + rng_below(SEED, n, 0, sizeof(text) - 1);

		for (size_t i = 0; i < len; i++)
			text[i] = (char)(1 + rng_below(SEED, n, i + 1, 255));
		text[len] = '\0';
		job.config_text = text;
		round_trip(&job);
	}
}
END_TEST

/* A config of half a megabyte is long, but a job carries it. */
START_TEST(long_text)
{
	const size_t len = 500000;
	char *text = malloc(len + 1);
	struct job job = whole;

	ck_assert_ptr_nonnull(text);
	for (size_t i = 0; i < len; i++)
		text[i] = i % 97 ? 'x' : '\n';
	text[len] = '\0';
	job.config_text = text;
	round_trip(&job);
	free(text);
}
END_TEST

START_TEST(wrong_texts)
{
	static const char *const texts[] = {
		"",
		"{}",
		"[]",
		"{\"id\":\"a\",\"config_name\":\"b\",\"world\":1}",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"c\",\"world\":0}",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"c\",\"world\":1025}",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"c\",\"world\":\"x\"}",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"c\",\"world\":1,\"more\":1}",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"c\",\"world\":1",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"\xff\",\"world\":1}",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"%\",\"world\":1}",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"%0\",\"world\":1}",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"%0g\",\"world\":1}",
		"{\"id\":\"a\",\"config_name\":\"b\",\"config_text\":\"a%00b\",\"world\":1}",
	};
	struct conf_doc *doc = NULL;
	struct job job = {0};
	struct err err = {0};

	ck_assert_int_eq(job_parse(texts[_i], strlen(texts[_i]), &job, &doc, &err), ERR_CONFIG);
	ck_assert_ptr_null(doc);
	ck_assert_uint_eq(job.world, 0);
	ck_assert(err.text[0]);
}
END_TEST

START_TEST(allocations_fail)
{
	unsigned k = 0;
	char *text;

	do {
		alloc_fails = ++k;
		text = job_format(&whole);
	} while (!text);
	alloc_fails = 0;
	ck_assert_uint_ge(k, 8);
	free(text);
}
END_TEST

struct reader {
	int fd;
	struct report_head head;
	char text[REPORT_BYTES_MAX + 1];
};

static void *reader_run(void *arg)
{
	struct reader *r = arg;
	struct err err = {0};

	if (file_read_all(r->fd, &r->head, sizeof(r->head), &err) < 0 ||
	    r->head.bytes > REPORT_BYTES_MAX ||
	    file_read_all(r->fd, r->text, r->head.bytes, &err) < 0)
		return r;
	r->text[r->head.bytes] = '\0';
	return NULL;
}

/* The longest report, through a pipe that holds a sixteenth of it at a time. */
START_TEST(report_arrives_whole)
{
	static struct reader reader;
	static char text[REPORT_BYTES_MAX + 1];
	const size_t lens[] = {0, 1, 4087, 4088, 4089, REPORT_BYTES_MAX};
	struct err err = {0};
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	ck_assert_int_ge(fcntl(fds[1], F_SETPIPE_SZ, 4096), 0);
	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		pthread_t thread;
		void *failed;

		for (size_t c = 0; c < lens[i]; c++)
			text[c] = (char)('a' + c % 23);
		text[lens[i]] = '\0';
		reader.fd = fds[0];
		ck_assert_int_eq(pthread_create(&thread, NULL, reader_run, &reader), 0);
		ck_assert_int_eq(report_write(fds[1], REPORT_STEP, text, &err), 0);
		ck_assert_int_eq(pthread_join(thread, &failed), 0);
		ck_assert_ptr_null(failed);
		ck_assert_uint_eq(reader.head.type, REPORT_STEP);
		ck_assert_uint_eq(reader.head.bytes, lens[i]);
		ck_assert_str_eq(reader.text, text);
	}
	close(fds[0]);
	close(fds[1]);
}
END_TEST

START_TEST(report_that_cannot_be)
{
	static char text[REPORT_BYTES_MAX + 2];
	struct err err = {0};
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	memset(text, 'x', sizeof(text) - 1);
	ck_assert_int_eq(report_write(fds[1], REPORT_NOTE, text, &err), -EMSGSIZE);
	ck_assert_ptr_nonnull(strstr(err.text, "65537"));
	signal(SIGPIPE, SIG_IGN);
	close(fds[0]);
	ck_assert_int_eq(report_write(fds[1], REPORT_NOTE, "too late", &err), -EPIPE);
	close(fds[1]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("job");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, all_of_it);
	tcase_add_test(tc, least_of_it);
	tcase_add_test(tc, empty_is_absent);
	tcase_add_test(tc, awkward_texts);
	tcase_add_test(tc, every_byte);
	tcase_add_test(tc, random_texts);
	tcase_add_test(tc, long_text);
	tcase_add_loop_test(tc, wrong_texts, 0, 14);
	tcase_add_test(tc, allocations_fail);
	tcase_add_test(tc, report_arrives_whole);
	tcase_add_test(tc, report_that_cannot_be);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
