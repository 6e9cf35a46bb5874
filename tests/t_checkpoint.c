/*
 * Checkpoints: what is written comes back, at any world size; what is damaged is refused by name;
 * a failure at any moment loses nothing that was there.
 *
 * Method. The engine is played by checkpoint_bed.c, ranks are threads. Damage is a table of ways to
 * spoil the newest of two checkpoints. In the fault loop the k-th system call fails, k = 1, 2, ...
 * until none does; after each, every rank must have failed with the same words, and the newest
 * checkpoint that is visible must be whole.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "tests/checkpoint_bed.h"

/* ---- the k-th system call fails ---- */

static _Atomic int fails_in; /* 0: none does */

static bool fails_now(void)
{
	int left = atomic_load_explicit(&fails_in, memory_order_relaxed);

	while (left > 0)
		if (atomic_compare_exchange_weak_explicit(
			    &fails_in, &left, left - 1, memory_order_relaxed, memory_order_relaxed))
			return left == 1;
	return false;
}

#define WRAP(type, name, params, args)                                                             \
	type __real_##name params;                                                                 \
	type __wrap_##name params;                                                                 \
	type __wrap_##name params                                                                  \
	{                                                                                          \
		if (fails_now()) {                                                                 \
			errno = ENOSPC;                                                            \
			return (type)-1;                                                           \
		}                                                                                  \
		return __real_##name args;                                                         \
	}

WRAP(ssize_t, write, (int fd, const void *buf, size_t len), (fd, buf, len))
WRAP(ssize_t, pwrite, (int fd, const void *buf, size_t len, off_t at), (fd, buf, len, at))
WRAP(int, fsync, (int fd), (fd))
WRAP(int, rename, (const char *from, const char *to), (from, to))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (fails_now()) {
		errno = ENOSPC;
		return -1;
	}
	return __real_open(path, flags, mode);
}

/* The fixture's, and no call fails from here on. */
static void clean_calls(void)
{
	atomic_store_explicit(&fails_in, 0, memory_order_relaxed);
	clean();
}

static void prepare_calls(void)
{
	atomic_store_explicit(&fails_in, 0, memory_order_relaxed);
	prepare();
}

/* ---- tests ---- */

START_TEST(any_world_reads_any_world)
{
	static const unsigned worlds[] = {1, 2, 3, 4};
	static const uint64_t chunks[] = {64, 1000, 100000};

	for (size_t w = 0; w < 4; w++)
		for (size_t c = 0; c < 3; c++) {
			uint64_t step = 10 + w * 3 + c;

			ok(save(worlds[w], chunks[c], step));
			for (size_t rw = 0; rw < 4; rw++)
				for (size_t rc = 0; rc < 3; rc++)
					ok(load(worlds[rw], chunks[rc], step));
		}
}
END_TEST

static size_t count_entries(char *ret_names, size_t room)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	size_t n = 0;

	*ret_names = '\0';
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
			n++;
			strncat(ret_names, e->d_name, room - strlen(ret_names) - 2);
			strcat(ret_names, " ");
		}
	closedir(d);
	return n;
}

START_TEST(the_newest_are_kept)
{
	struct checkpoint_job job = rank0();
	char names[512];
	uint64_t step;
	int lock;

	for (step = 5; step <= 25; step += 5)
		ok(save(2, 1000, step));
	ck_assert_uint_eq(count_entries(names, sizeof(names)), 2);
	ck_assert_msg(strstr(names, "step-00000020") && strstr(names, "step-00000025"), "%s",
		      names);
	ok(checkpoint_prepare(&job, true, &step, &lock, &err));
	ck_assert_uint_eq(step, 25);
	close(lock);
}
END_TEST

START_TEST(a_run_does_not_start_over_another)
{
	struct checkpoint_job job = rank0();
	uint64_t step = 99;
	int lock, other;

	/* Nothing there yet: fine, and nobody else may. */
	ok(checkpoint_prepare(&job, false, &step, &lock, &err));
	ck_assert_uint_eq(step, 0);
	ck_assert_int_eq(checkpoint_prepare(&job, false, &step, &other, &err), ERR_CONFIG);
	ck_assert_msg(strstr(err.text, "another run"), "%s", err.text);
	close(lock);
	ok(save(1, 1000, 7));
	ck_assert_int_eq(checkpoint_prepare(&job, false, &step, &lock, &err), ERR_CONFIG);
	ck_assert_msg(strstr(err.text, "--resume") && strstr(err.text, dir), "%s", err.text);
	ok(load(1, 1000, 7));
}
END_TEST

START_TEST(leftovers_go)
{
	struct checkpoint_job job = rank0();
	char path[128], names[512];
	uint64_t step;
	int lock;

	ok(save(1, 1000, 7));
	snprintf(path, sizeof(path), "%s/.step-00000008.tmp", dir);
	ck_assert_int_eq(mkdir(path, 0777), 0);
	strcat(path, "/rank-0000.state");
	ok(file_replace(path, "half", 4, &err));
	ok(checkpoint_prepare(&job, true, &step, &lock, &err));
	close(lock);
	ck_assert_uint_eq(step, 7);
	ck_assert_uint_eq(count_entries(names, sizeof(names)), 1);
}
END_TEST

START_TEST(directories_that_cannot_be)
{
	struct checkpoint_job job = rank0();
	char path[128];
	uint64_t step;
	int lock;

	snprintf(path, sizeof(path), "%s/file", base);
	ok(file_replace(path, "x", 1, &err));
	config.checkpoint.dir = path;
	ck_assert_int_lt(checkpoint_prepare(&job, true, &step, &lock, &err), 0);
	ck_assert_msg(strstr(err.text, path), "%s", err.text);
	strcat(path, "/below");
	ck_assert_int_eq(checkpoint_prepare(&job, true, &step, &lock, &err), ERR_CANTCREAT);
	ck_assert_msg(strstr(err.text, path), "%s", err.text);
	snprintf(path, sizeof(path), "%s/run/many/levels", base);
	ok(checkpoint_prepare(&job, true, &step, &lock, &err));
	close(lock);
	config.checkpoint.dir = dir;
}
END_TEST

START_TEST(another_run_is_refused)
{
	struct train_config saved = config;
	static const char *const keys[] = {"model.layers", "data.sequence", "seed", "precision",
					   "optimizer.type"};

	ok(save(2, 1000, 7));
	for (size_t i = 0; i < 5; i++) {
		config = saved;
		if (i == 0)
			config.model.layers++;
		else if (i == 1)
			config.data.sequence--;
		else if (i == 2)
			config.seed++;
		else if (i == 3)
			config.precision = PRECISION_FP32;
		else
			config.optimizer.type = OPTIMIZER_LION;
		ck_assert_int_eq(load(1, 1000, 7), ERR_CONFIG);
		ck_assert_msg(strstr(err.text, keys[i]), "%s", err.text);
	}
	config = saved;
}
END_TEST

/* A file of checkpoint 20 (or 10). */
static char *file(const char *name, unsigned step)
{
	static char paths[2][160];
	static unsigned next;
	char *path = paths[next++ % 2];

	snprintf(path, sizeof(paths[0]), "%s/step-%08u/%s", dir, step, name);
	return path;
}

static void flip(const char *path, long at)
{
	int fd = __real_open(path, O_RDWR);
	uint8_t byte;
	off_t where = at >= 0 ? at : lseek(fd, 0, SEEK_END) + at;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &byte, 1, where), 1);
	byte ^= 4;
	ck_assert_int_eq((int)__real_pwrite(fd, &byte, 1, where), 1);
	close(fd);
}

static void cut(const char *path, long by)
{
	struct stat st;

	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(truncate(path, st.st_size + by), 0);
}

static void copy(const char *from, const char *to)
{
	char *text;
	size_t len;

	ok(file_load(from, 1u << 20, &text, &len, &err));
	ok(file_replace(to, text, len, &err));
	free(text);
}

enum damage_kind { REMOVE, FLIP, CUT, OLDER, SWAP, EMPTY };

static const struct damage {
	const char *name;
	const char *file;
	enum damage_kind kind;
	long at;
	const char *message;
} damages[] = {
	{"no manifest", "manifest.json", REMOVE, 0, "No such file"},
	{"empty manifest", "manifest.json", EMPTY, 0, "truncated"},
	{"manifest cut", "manifest.json", CUT, -5, "checksum"},
	{"manifest longer", "manifest.json", CUT, 1, "checksum"},
	{"a bit of the manifest", "manifest.json", FLIP, 40, "checksum"},
	{"a bit of the manifest's checksum", "manifest.json", FLIP, -5, "checksum"},
	{"the manifest of another step", "manifest.json", OLDER, 0, "of step 10"},
	{"no state", "rank-0001.state", REMOVE, 0, "No such file"},
	{"empty state", "rank-0000.state", EMPTY, 0, "0 bytes"},
	{"state cut by a byte", "rank-0001.state", CUT, -1, "the manifest says"},
	{"state longer by a byte", "rank-0000.state", CUT, 1, "the manifest says"},
	{"a bit of the magic", "rank-0000.state", FLIP, 0, "not a state file"},
	{"a bit of the version", "rank-0000.state", FLIP, 4, "version"},
	{"a bit of the head", "rank-0001.state", FLIP, 40, "head is damaged"},
	{"a bit of a piece's head", "rank-0001.state", FLIP, 64 + 8, "head of a piece"},
	{"a bit of a piece's magic", "rank-0001.state", FLIP, 64, "head of a piece"},
	{"a bit of the first data", "rank-0000.state", FLIP, 64 + 32, "checksum mismatch"},
	{"a bit of the last data", "rank-0001.state", FLIP, -1, "checksum mismatch"},
	{"the state of another step", "rank-0000.state", OLDER, 0, "another checkpoint"},
	{"states swapped", "rank-0000.state", SWAP, 0, "the manifest says"},
};

static void do_damage(const struct damage *d)
{
	char spare[128];

	switch (d->kind) {
	case REMOVE:
		ck_assert_int_eq(unlink(file(d->file, 20)), 0);
		break;
	case FLIP:
		flip(file(d->file, 20), d->at);
		break;
	case CUT:
		cut(file(d->file, 20), d->at);
		break;
	case EMPTY:
		ck_assert_int_eq(truncate(file(d->file, 20), 0), 0);
		break;
	case OLDER:
		copy(file(d->file, 10), file(d->file, 20));
		break;
	case SWAP:
		snprintf(spare, sizeof(spare), "%s/spare", base);
		copy(file("rank-0000.state", 20), spare);
		copy(file("rank-0001.state", 20), file("rank-0000.state", 20));
		copy(spare, file("rank-0001.state", 20));
		break;
	}
}

START_TEST(damage_is_named)
{
	const struct damage *d = &damages[_i];
	char good[128], bad[128];

	snprintf(good, sizeof(good), "%s/step-00000010 is whole", dir);
	snprintf(bad, sizeof(bad), "%s/step-00000020", dir);
	ok(save(2, 1000, 10));
	ok(save(2, 1000, 20));
	do_damage(d);
	/* With the same pieces, and with others. */
	for (uint64_t chunk = 300; chunk <= 1000; chunk += 700) {
		ck_assert_msg(load(2, chunk, 20) == ERR_DATA, "%s: %s", d->name, err.text);
		ck_assert_msg(strstr(err.text, d->message) && strstr(err.text, bad) &&
				      strstr(err.text, good),
			      "%s: %s", d->name, err.text);
	}
	/* When the older one is damaged too, nobody is sent there. */
	flip(file("rank-0000.state", 10), 1000);
	ck_assert_int_eq(load(2, 1000, 20), ERR_DATA);
	ck_assert_msg(strstr(err.text, "no older checkpoint"), "%s: %s", d->name, err.text);
}
END_TEST

START_TEST(each_element_once)
{
	struct how how = {.world = 2, .chunk = 100, .step = 10, .skip = true};

	ok(ranks_run(&how));
	ck_assert_int_eq(load(1, 1000, 10), ERR_DATA);
	ck_assert_msg(strstr(err.text, "lacks element"), "%s", err.text);
	how.skip = false;
	how.twice = true;
	how.step = 11;
	ok(ranks_run(&how));
	ck_assert_int_eq(load(1, 1000, 11), ERR_DATA);
	ck_assert_msg(strstr(err.text, "has twice"), "%s", err.text);
}
END_TEST

START_TEST(a_failure_loses_nothing)
{
	unsigned fired = 0;

	ok(save(2, 1000, 10));
	ok(save(2, 1000, 20));
	for (int k = 1;; k++) {
		struct checkpoint_job job = rank0();
		uint64_t step;
		int lock, rc, left;

		atomic_store_explicit(&fails_in, k, memory_order_relaxed);
		rc = save(2, 1000, 30);
		left = atomic_exchange_explicit(&fails_in, 0, memory_order_relaxed);
		if (left > 0) {
			ok(rc);
			break;
		}
		fired++;
		/* Cleaning up after a failure may be what failed: then all is well or said. */
		ok(checkpoint_prepare(&job, true, &step, &lock, &err));
		close(lock);
		ck_assert(step == 20 || step == 30);
		ck_assert_msg(checkpoint_verify(&job, step, &err) == 0, "k = %d: %s", k, err.text);
		ck_assert(rc < 0 || step == 30);
		if (step == 30)
			ok(file_remove_tree(file("", 30), &err));
	}
	ck_assert_uint_gt(fired, 20);
	ok(load(2, 1000, 30));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("checkpoint");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	if (!bed_make())
		return EXIT_FAILURE;
	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, prepare_calls, clean_calls);
	tcase_add_test(tc, any_world_reads_any_world);
	tcase_add_test(tc, the_newest_are_kept);
	tcase_add_test(tc, a_run_does_not_start_over_another);
	tcase_add_test(tc, leftovers_go);
	tcase_add_test(tc, directories_that_cannot_be);
	tcase_add_test(tc, another_run_is_refused);
	tcase_add_loop_test(tc, damage_is_named, 0, sizeof(damages) / sizeof(damages[0]));
	tcase_add_test(tc, each_element_once);
	tcase_add_test(tc, a_failure_loses_nothing);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	bed_done();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
