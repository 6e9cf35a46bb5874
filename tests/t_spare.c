/*
 * What a host can spare: the kernel's estimate, limits of the cgroups above us, and the reserve.
 *
 * Method. Files as the kernel writes them, below a directory of the test's own; then this host.
 */
#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/spare.h"

#define MiB (UINT64_C(1) << 20)
#define GiB (UINT64_C(1) << 30)

static char top[] = "/tmp/t_spare.XXXXXX";

static const char *name(const char *file)
{
	static char path[2][256];
	static unsigned next;
	char *p = path[next++ % 2];

	snprintf(p, sizeof(path[0]), "%s/%s", top, file);
	return p;
}

__attribute__((format(printf, 2, 3))) static void put(const char *file, const char *fmt, ...)
{
	FILE *f = fopen(name(file), "w");
	va_list ap;

	ck_assert_ptr_nonnull(f);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	ck_assert_int_eq(fclose(f), 0);
}

static void put_meminfo(uint64_t available)
{
	put("meminfo", "MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:   %ju kB\n",
	    (uintmax_t)(available / 1024));
}

static void put_group(const char *dir, const char *max, uint64_t used, uint64_t files)
{
	char file[64];

	ck_assert(mkdir(name(dir), 0700) == 0 || errno == EEXIST);
	snprintf(file, sizeof(file), "%s/memory.max", dir);
	put(file, "%s\n", max);
	snprintf(file, sizeof(file), "%s/memory.current", dir);
	put(file, "%ju\n", (uintmax_t)used);
	snprintf(file, sizeof(file), "%s/memory.stat", dir);
	put(file, "anon 5\nactive_file 7\ninactive_file %ju\n", (uintmax_t)files);
}

static uint64_t spare(const char *dir)
{
	struct err err = {0};
	uint64_t bytes = 1;
	int rc = spare_memory_of(name("meminfo"), dir ? name(dir) : NULL, top, &bytes, &err);

	ck_assert_msg(rc == 0, "%s", err.text);
	return bytes;
}

START_TEST(estimate_and_reserve)
{
	put_meminfo(16 * GiB);
	ck_assert_uint_eq(spare(NULL), 15 * GiB);
	put_meminfo(GiB);
	ck_assert_uint_eq(spare(NULL), 768 * MiB);
	put_meminfo(200 * MiB);
	ck_assert_uint_eq(spare(NULL), 0);
}
END_TEST

START_TEST(limits_of_cgroups)
{
	put_meminfo(16 * GiB);
	put_group("a", "max", 20 * GiB, 0);
	put_group("a/b", "max", 20 * GiB, 0);
	ck_assert_uint_eq(spare("a/b"), 15 * GiB);
	/* Our own limit; page cache of files does not count against it. */
	put_group("a/b", "4294967296", 3 * GiB, GiB);
	ck_assert_uint_eq(spare("a/b"), 2 * GiB - 256 * MiB);
	/* A tighter one above. */
	put_group("a", "2147483648", 512 * MiB, 0);
	ck_assert_uint_eq(spare("a/b"), GiB + 512 * MiB - 256 * MiB);
	/* Over its limit: nothing. */
	put_group("a", "1024", 512 * MiB, 0);
	ck_assert_uint_eq(spare("a/b"), 0);
}
END_TEST

START_TEST(what_is_not_understood)
{
	struct err err = {0};
	uint64_t bytes = 77;

	put_meminfo(16 * GiB);
	put_group("c", "plenty", 0, 0);
	ck_assert_int_eq(spare_memory_of(name("meminfo"), name("c"), top, &bytes, &err), -ENODATA);
	ck_assert_msg(strstr(err.text, "c/memory.max"), "%s", err.text);
	put("meminfo", "MemTotal: 5 kB\n");
	ck_assert_int_eq(spare_memory_of(name("meminfo"), NULL, NULL, &bytes, &err), -ENODATA);
	ck_assert_int_eq(spare_memory_of(name("nothing"), NULL, NULL, &bytes, &err), -ENOENT);
	ck_assert_uint_eq(bytes, 77);
}
END_TEST

START_TEST(this_host)
{
	struct err err = {0};
	uint64_t bytes;

	ck_assert_msg(spare_memory(&bytes, &err) == 0, "%s", err.text);
	ck_assert_uint_lt(bytes,
			  (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("spare");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	char command[64];
	int failed;

	if (!mkdtemp(top)) {
		perror(top);
		return EXIT_FAILURE;
	}
	tcase_add_test(tc, estimate_and_reserve);
	tcase_add_test(tc, limits_of_cgroups);
	tcase_add_test(tc, what_is_not_understood);
	tcase_add_test(tc, this_host);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	snprintf(command, sizeof(command), "rm -rf %s", top);
	if (system(command) != 0)
		fprintf(stderr, "%s is left\n", top);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
