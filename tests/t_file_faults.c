/*
 * Goal: whatever call fails, a replaced file is the old one or the new one, nothing leaks, and the
 * error has a text. Short transfers and interruptions are no failures.
 * Method: the k-th wrapped system call or allocation fails, k = 1, 2, ... until none does.
 */
#include "common/file.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail_at; /* this many calls from now one fails; 0: none does */
static bool fired;
static bool stutter; /* every second transfer is interrupted, the others move one byte */
static unsigned beat;

static bool failing(void)
{
	if (fail_at == 0 || --fail_at > 0)
		return false;
	fired = true;
	errno = EIO;
	return true;
}

static bool stutters(size_t *len)
{
	if (!stutter)
		return false;
	*len = *len > 1 ? 1 : *len;
	errno = EINTR;
	return beat++ % 2 == 0;
}

#define WRAP(type, name, params, args, failed)                                                     \
	type __real_##name params;                                                                 \
	type __wrap_##name params;                                                                 \
	type __wrap_##name params                                                                  \
	{                                                                                          \
		return failing() ? (failed) : __real_##name args;                                  \
	}

#define WRAP_TRANSFER(name, params, args)                                                          \
	ssize_t __real_##name params;                                                              \
	ssize_t __wrap_##name params;                                                              \
	ssize_t __wrap_##name params                                                               \
	{                                                                                          \
		return failing() || stutters(&len) ? -1 : __real_##name args;                      \
	}

WRAP_TRANSFER(read, (int fd, void *buf, size_t len), (fd, buf, len))
WRAP_TRANSFER(write, (int fd, const void *buf, size_t len), (fd, buf, len))
WRAP_TRANSFER(pread, (int fd, void *buf, size_t len, off_t at), (fd, buf, len, at))
WRAP_TRANSFER(pwrite, (int fd, const void *buf, size_t len, off_t at), (fd, buf, len, at))
WRAP(int, fsync, (int fd), (fd), -1)
WRAP(int, rename, (const char *from, const char *to), (from, to), -1)
WRAP(int, unlinkat, (int fd, const char *name, int flags), (fd, name, flags), -1)
WRAP(void *, malloc, (size_t size), (size), NULL)
WRAP(DIR *, fdopendir, (int fd), (fd), NULL)
WRAP(ssize_t, getrandom, (void *buf, size_t len, unsigned flags), (buf, len, flags), -1)

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	int mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, int) : 0;
	va_end(ap);
	return failing() ? -1 : __real_open(path, flags, mode);
}

/* As on Linux, a close that fails has closed. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
	int rc = __real_close(fd);

	return failing() ? -1 : rc;
}

static char dir[PATH_MAX / 2];

static void setup(void)
{
	const char *base = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%.1000s/t_faults.XXXXXX", base ? base : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chdir(dir), 0);
}

static void teardown(void)
{
	struct err err = {0};

	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_msg(file_remove_tree(dir, &err) == 0, "%s", err.text);
}

static unsigned count_entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned count = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		count++;
	closedir(d);
	return count;
}

static void check_content(const char *one, const char *other)
{
	struct err err = {0};
	char *text;
	size_t len;

	ck_assert_int_eq(file_load("file", 100, &text, &len, &err), 0);
	ck_assert_msg(!strcmp(text, one) || !strcmp(text, other), "content '%s'", text);
	free(text);
}

START_TEST(replacing_survives_every_fault)
{
	unsigned fds = count_entries("/proc/self/fd");
	struct err err;
	int rc, k = 0;

	ck_assert_int_eq(file_replace("file", "the old one", 11, &err), 0);
	do {
		err.code = 0;
		fired = false;
		fail_at = ++k;
		rc = file_replace("file", "the new one", 11, &err);
		fail_at = 0;
		/* Only the close of the directory, after everything lasts, may fail unnoticed. */
		ck_assert(rc == 0 || fired);
		ck_assert_int_eq(rc, err.code);
		ck_assert(rc == 0 || err.text[0]);
		check_content(rc < 0 ? "the old one" : "the new one", "the new one");
		ck_assert_uint_eq(count_entries("."), 3);
		ck_assert_uint_eq(count_entries("/proc/self/fd"), fds);
	} while (fired);
	ck_assert_int_gt(k, 5);
}
END_TEST

START_TEST(loading_survives_every_fault)
{
	unsigned fds = count_entries("/proc/self/fd");
	struct err err = {0};
	size_t len;
	char *text;
	int rc, k = 0;

	ck_assert_int_eq(file_replace("file", "content", 7, &err), 0);
	do {
		fired = false;
		text = NULL;
		fail_at = ++k;
		rc = file_load("file", 100, &text, &len, &err);
		fail_at = 0;
		/* A close that fails after everything was read has lost nothing. */
		ck_assert(rc == 0 || fired);
		ck_assert_int_eq(rc == 0, text != NULL);
		if (text)
			ck_assert_str_eq(text, "content");
		free(text);
		ck_assert_uint_eq(count_entries("/proc/self/fd"), fds);
	} while (fired);
	ck_assert_int_gt(k, 3);
}
END_TEST

START_TEST(removing_survives_every_fault)
{
	unsigned fds = count_entries("/proc/self/fd");
	struct err err = {0};
	int rc, k = 0;

	do {
		ck_assert(mkdir("t", 0777) == 0 || errno == EEXIST);
		ck_assert(mkdir("t/d", 0777) == 0 || errno == EEXIST);
		ck_assert_int_eq(file_replace("t/d/file", "x", 1, &err), 0);
		fired = false;
		fail_at = ++k;
		rc = file_remove_tree("t", &err);
		fail_at = 0;
		ck_assert(rc == 0 || (fired && err.text[0]));
		ck_assert_int_eq(rc == 0, access("t", F_OK) < 0);
		ck_assert_uint_eq(count_entries("/proc/self/fd"), fds);
	} while (fired);
	ck_assert_int_gt(k, 5);
}
END_TEST

START_TEST(stuttering_is_no_fault)
{
	struct err err = {0};
	char *text, buf[8];
	size_t len;
	int fd;

	stutter = true;
	ck_assert_int_eq(file_replace("file", "0123456789", 10, &err), 0);
	ck_assert_int_eq(file_load("file", 100, &text, &len, &err), 0);
	ck_assert_uint_eq(len, 10);
	ck_assert_str_eq(text, "0123456789");
	free(text);
	fd = open("file", O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(file_pwrite_all(fd, "abc", 3, 4, &err), 0);
	ck_assert_int_eq(file_pread_all(fd, buf, 8, 2, &err), 0);
	ck_assert_int_eq(memcmp(buf, "23abc789", 8), 0);
	ck_assert_int_eq(file_read_all(fd, buf, 2, &err), 0);
	ck_assert_int_eq(memcmp(buf, "01", 2), 0);
	close(fd);
	stutter = false;
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("file_faults");
	TCase *tcase = tcase_create("file_faults");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, replacing_survives_every_fault);
	tcase_add_test(tcase, loading_survives_every_fault);
	tcase_add_test(tcase, removing_survives_every_fault);
	tcase_add_test(tcase, stuttering_is_no_fault);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
