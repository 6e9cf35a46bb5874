/*
 * Goal: measuring gives figures of every kind within its time, leaves nothing in the directories
 * however it ends, refuses what it could only measure wrongly, and chooses by its rule.
 *
 * Method: the choice on tables of made-up cells; short runs on a real directory; the k-th call of
 * the opening fails, k = 1, 2, ... until none does. Where the directory is in memory, only the
 * choice and the refusal are tested, and the exit status is 77.
 */
#include "nvme/measure.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/file.h"

#define MiB (UINT64_C(1) << 20)

static char dir[512], second[600];
static const char *const both[] = {dir, second};
static struct nvme_measured out;

/* The k-th of these fails. */

static int fail_at, calls;
static bool fired;

static bool failing(void)
{
	if (fail_at == 0 || ++calls != fail_at)
		return false;
	fired = true;
	return true;
}

#define WRAP(type, name, params, args, code, failed)                                               \
	type __real_##name params;                                                                 \
	type __wrap_##name params;                                                                 \
	type __wrap_##name params                                                                  \
	{                                                                                          \
		if (!failing())                                                                    \
			return __real_##name args;                                                 \
		errno = (code);                                                                    \
		return failed;                                                                     \
	}
WRAP(void *, calloc, (size_t n, size_t size), (n, size), ENOMEM, NULL)
WRAP(void *, mmap, (void *at, size_t len, int prot, int flags, int fd, off_t offset),
     (at, len, prot, flags, fd, offset), ENOMEM, MAP_FAILED)
WRAP(int, eventfd, (unsigned value, int flags), (value, flags), EMFILE, -1)
WRAP(int, fallocate, (int fd, int mode, off_t offset, off_t len), (fd, mode, offset, len), ENOSPC,
     -1)
WRAP(int, io_setup, (int entries, io_context_t *ctx), (entries, ctx), 0, -EAGAIN)
WRAP(int, io_uring_queue_init_params,
     (unsigned entries, struct io_uring *ring, struct io_uring_params *params),
     (entries, ring, params), 0, -ENOSYS)

static unsigned entries(const char *path)
{
	struct dirent *entry;
	unsigned count = 0;
	DIR *d = opendir(path);

	ck_assert_ptr_nonnull(d);
	while ((entry = readdir(d)))
		count += entry->d_name[0] != '.';
	closedir(d);
	return count;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct nvme_measure_config short_config(size_t paths, double seconds)
{
	return (struct nvme_measure_config){.paths = both,
					    .path_count = paths,
					    .file_bytes = NVME_MEASURE_BYTES_MIN,
					    .seconds = seconds};
}

/* The choice. */

#define CELL(by, kib, deep, rate)                                                                  \
	{                                                                                          \
		.engine = (by), .extent = (kib) << 10, .depth = (deep), .mixed = (rate),           \
		.count = 1                                                                         \
	}
#define U(kib, deep, rate) CELL(NVME_URING, kib, deep, rate)
#define A(kib, deep, rate) CELL(NVME_LIBAIO, kib, deep, rate)

static const struct {
	struct nvme_cell cells[5];
	size_t count, chosen;
} choices[] = {
	/* the fewest bytes in flight of those within 3 % */
	{{U(4096, 16, 1000), U(1024, 8, 980), U(1024, 4, 960), U(1024, 64, 999)}, 4, 1},
	/* just not within it */
	{{U(4096, 16, 1000), U(1024, 8, 969)}, 2, 0},
	/* as many bytes in flight: the longest extent */
	{{U(256, 32, 1000), U(2048, 4, 1000), U(1024, 8, 1000)}, 3, 1},
	/* too shallow, though the best */
	{{U(1024, 1, 2000), U(1024, 8, 1000), U(1024, 4, 980)}, 3, 2},
	/* io_uring when it is as good, libaio when it is not */
	{{A(1024, 4, 1000), U(4096, 16, 980)}, 2, 1},
	{{A(1024, 4, 1000), U(4096, 16, 960)}, 2, 0},
	/* not measured is not chosen */
	{{U(256, 4, 0), U(4096, 8, 10), U(256, 8, 0)}, 3, 1},
	/* time for one shallow cell only */
	{{U(256, 4, 0), U(256, 1, 5)}, 2, 1},
};

START_TEST(the_choice)
{
	ck_assert_uint_eq(nvme_cell_choose(choices[_i].cells, choices[_i].count),
			  choices[_i].chosen);
}
END_TEST

/* Measuring. */

static unsigned told;
static double last_part;

static void tell(void *context, const char *what, double part)
{
	ck_assert_ptr_eq(context, &told);
	ck_assert_uint_gt(strlen(what), 0);
	ck_assert(part >= last_part && part <= 1);
	last_part = part;
	told++;
}

static void check_speed(const struct nvme_speed *s)
{
	ck_assert(s->read > 0 && s->write > 0 && s->mixed > 0);
}

START_TEST(figures_of_every_kind)
{
	struct nvme_measure_config config = short_config(2, 2);
	const struct nvme_cell *chosen;
	struct nvme_figures back;
	double begin = now(), took;
	struct err err;
	char file[700];

	config.progress = tell;
	config.context = &told;
	ck_assert_msg(nvme_measure(&config, &out, &err) == 0, "%s", err.text);
	took = now() - begin;
	printf("%.1f s, %zu cells, %u times told\n", took, out.cell_count, told);
	/* A machine that does other things, too, may take its time. */
	ck_assert(took < 30);
	ck_assert_uint_gt(told, 5);
	chosen = &out.cells[out.chosen];
	ck_assert(chosen->mixed > 0 && out.figures.extent == chosen->extent);
	ck_assert(out.figures.queue_depth == chosen->depth && out.figures.engine == chosen->engine);
	ck_assert_uint_eq(out.figures.path_count, 2);
	check_speed(&out.figures.together);
	for (size_t i = 0; i < 2; i++) {
		check_speed(&out.figures.paths[i].alone);
		ck_assert(out.figures.paths[i].share > 0);
	}
	ck_assert_uint_ge(out.written_bytes, 2 * NVME_MEASURE_BYTES_MIN);
	ck_assert_uint_eq(entries(second), 0);
	snprintf(file, sizeof(file), "%s/figures", dir);
	ck_assert_msg(nvme_figures_save(file, &out.figures, &err) == 0, "%s", err.text);
	ck_assert_msg(nvme_figures_load(file, &back, &err) == 0, "%s", err.text);
	ck_assert_msg(nvme_figures_match(&back, both, 2, NULL, &err) == 0, "%s", err.text);
	unlink(file);
}
END_TEST

/* No time at all: one cell, and all speeds. */
START_TEST(too_little_time_is_enough)
{
	struct nvme_measure_config config = short_config(1, 0.001);
	struct err err;
	unsigned measured = 0;

	ck_assert_msg(nvme_measure(&config, &out, &err) == 0, "%s", err.text);
	for (size_t i = 0; i < out.cell_count; i++)
		measured += out.cells[i].mixed > 0;
	ck_assert_uint_eq(measured, 1);
	ck_assert_uint_ge(out.figures.queue_depth, NVME_DEPTH_LEAST);
	check_speed(&out.figures.together);
}
END_TEST

START_TEST(wrong_directories)
{
	struct nvme_measure_config config = short_config(1, 1);
	struct err err;

	config.paths = (const char *const[]){"/nowhere/at/all"};
	ck_assert_int_eq(nvme_measure(&config, &out, &err), ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, "/nowhere/at/all is not a directory"));
	config.paths = (const char *const[]){second, second};
	config.path_count = 2;
	ck_assert_int_eq(nvme_measure(&config, &out, &err), ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, "twice"));
	config.path_count = 0;
	ck_assert_int_eq(nvme_measure(&config, &out, &err), ERR_CONFIG);
	config = short_config(2, 1);
	config.file_bytes = UINT64_C(1) << 60;
	ck_assert_int_eq(nvme_measure(&config, &out, &err), ERR_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(err.text, "are free"));
	ck_assert_uint_eq(entries(second), 0);
}
END_TEST

START_TEST(memory_is_no_disk)
{
	struct nvme_measure_config config = short_config(1, 1);
	struct err err;

	config.paths = (const char *const[]){"/dev/shm"};
	if (access("/dev/shm", W_OK) < 0)
		return;
	ck_assert_int_eq(nvme_measure(&config, &out, &err), ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, "/dev/shm"));
}
END_TEST

static unsigned open_files(void)
{
	return entries("/proc/self/fd");
}

START_TEST(the_kth_call_fails)
{
	struct nvme_measure_config config = short_config(1, 0.001);
	unsigned before, survived = 0;
	struct err err;
	int rc, k = 0;

	config.paths = &both[1];
	before = open_files();
	do {
		fired = false;
		calls = 0;
		fail_at = ++k;
		rc = nvme_measure(&config, &out, &err);
		fail_at = 0;
		/* One engine is enough. */
		if (rc == 0 && fired) {
			ck_assert_int_ne(out.missing.code, 0);
			survived++;
		}
		ck_assert_msg(rc == 0 || (fired && err.code == rc && err.text[0]), "k %d: %d", k,
			      rc);
		ck_assert_uint_eq(open_files(), before);
		ck_assert_uint_eq(entries(second), 0);
	} while (fired);
	printf("%d calls, %u survived\n", k - 1, survived);
	ck_assert_int_ge(k, 6);
	ck_assert_uint_ge(survived, 1);
}
END_TEST

static bool can_measure(void)
{
	struct nvme_measure_config config = short_config(1, 0.001);
	struct err err;

	if (nvme_measure(&config, &out, &err) == 0)
		return true;
	printf("only the choice was tested: %s\n", err.text);
	return false;
}

int main(void)
{
	const char *base = getenv("TMPDIR");
	Suite *suite = suite_create("nvme_measure");
	TCase *tcase = tcase_create("nvme_measure");
	SRunner *runner;
	struct err err;
	int failed;
	bool all;

	snprintf(dir, sizeof(dir), "%s/t_nvme_measure.XXXXXX", base ? base : "/tmp");
	if (!mkdtemp(dir)) {
		perror(dir);
		return EXIT_FAILURE;
	}
	snprintf(second, sizeof(second), "%s/second", dir);
	if (mkdir(second, 0700) < 0) {
		perror(second);
		return EXIT_FAILURE;
	}
	all = can_measure();
	tcase_set_timeout(tcase, 120);
	tcase_add_loop_test(tcase, the_choice, 0, (int)(sizeof(choices) / sizeof(choices[0])));
	tcase_add_test(tcase, memory_is_no_disk);
	if (all) {
		tcase_add_test(tcase, figures_of_every_kind);
		tcase_add_test(tcase, too_little_time_is_enough);
		tcase_add_test(tcase, wrong_directories);
		tcase_add_test(tcase, the_kth_call_fails);
	}
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (file_remove_tree(dir, &err) < 0)
		fprintf(stderr, "%s\n", err.text);
	return failed ? EXIT_FAILURE : all ? EXIT_SUCCESS : 77;
}
