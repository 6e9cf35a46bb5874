/*
 * Goal: files are read whole, replaced whole, and trees removed without leaving them.
 * Method: real files in a scratch directory; links that point out of a tree that is removed.
 */
#include "common/file.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[PATH_MAX / 2];

static void setup(void)
{
	const char *base = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%.1000s/t_file.XXXXXX", base ? base : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chdir(dir), 0);
}

static void teardown(void)
{
	struct err err = {0};

	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_msg(file_remove_tree(dir, &err) == 0, "%s", err.text);
}

START_TEST(replace_and_load)
{
	struct err err = {0};
	struct stat st;
	char *text;
	size_t len;

	umask(022);
	ck_assert_int_eq(file_replace("a", "one", 3, &err), 0);
	ck_assert_int_eq(file_replace("a", "two\0three", 9, &err), 0);
	ck_assert_int_eq(file_load("a", 9, &text, &len, &err), 0);
	ck_assert_uint_eq(len, 9);
	ck_assert_int_eq(memcmp(text, "two\0three", 10), 0);
	free(text);
	ck_assert_int_eq(stat("a", &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0644);
	ck_assert_int_eq(file_replace("empty", "", 0, &err), 0);
	ck_assert_int_eq(file_load("empty", 9, &text, &len, &err), 0);
	ck_assert_uint_eq(len, 0);
	free(text);
}
END_TEST

START_TEST(load_refuses)
{
	struct err err = {0};
	char *text = NULL;
	size_t len;

	ck_assert_int_eq(file_load("absent", 9, &text, &len, &err), ERR_NOINPUT);
	ck_assert_str_eq(err.text, "absent: No such file or directory");
	ck_assert_int_eq(file_load(".", 9, &text, &len, &err), ERR_NOINPUT);
	ck_assert_int_eq(file_replace("a", "0123456789", 10, &err), 0);
	ck_assert_int_eq(file_load("a", 9, &text, &len, &err), ERR_DATA);
	ck_assert_str_eq(err.text, "a: larger than the 9 bytes allowed");
	ck_assert_ptr_null(text);
	ck_assert_int_eq(file_replace("absent/a", "x", 1, &err), ERR_CANTCREAT);
	ck_assert_str_eq(err.text, "absent/a: No such file or directory");
	ck_assert_int_eq(mkdir("d", 0777), 0);
	ck_assert_int_eq(file_replace("d", "x", 1, &err), ERR_CANTCREAT);
}
END_TEST

START_TEST(transfers_are_whole)
{
	struct err err = {0};
	char buf[8];
	int fd = open("a", O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(file_write_all(fd, "01234567", 8, &err), 0);
	ck_assert_int_eq(file_pwrite_all(fd, "xy", 2, 3, &err), 0);
	ck_assert_int_eq(file_pread_all(fd, buf, 8, 0, &err), 0);
	ck_assert_int_eq(memcmp(buf, "012xy567", 8), 0);
	ck_assert_int_eq(lseek(fd, 6, SEEK_SET), 6);
	ck_assert_int_eq(file_read_all(fd, buf, 2, &err), 0);
	ck_assert_int_eq(memcmp(buf, "67", 2), 0);
	ck_assert_int_eq(file_read_all(fd, buf, 1, &err), ERR_DATA);
	ck_assert_str_eq(err.text, "file ends after 0 of 1 bytes: No data available");
	ck_assert_int_eq(file_pread_all(fd, buf, 8, 5, &err), ERR_DATA);
	ck_assert_str_eq(err.text, "file ends after 3 of 8 bytes: No data available");
	ck_assert_int_eq(file_read_all(fd, buf, 0, &err), 0);
	close(fd);
	ck_assert_int_eq(file_read_all(fd, buf, 1, &err), -EBADF);
}
END_TEST

static void make_file(const char *path)
{
	struct err err = {0};

	ck_assert_msg(file_replace(path, "x", 1, &err) == 0, "%s", err.text);
}

START_TEST(trees_go_whole_and_alone)
{
	struct err err = {0};

	ck_assert_int_eq(mkdir("kept", 0777), 0);
	make_file("kept/file");
	ck_assert_int_eq(mkdir("tree", 0777), 0);
	ck_assert_int_eq(mkdir("tree/deep", 0777), 0);
	ck_assert_int_eq(mkdir("tree/deep/deeper", 0777), 0);
	make_file("tree/deep/deeper/file");
	make_file("tree/.hidden");
	ck_assert_int_eq(symlink("../kept", "tree/link"), 0);
	ck_assert_int_eq(symlink("absent", "tree/dangling"), 0);
	ck_assert_int_eq(file_remove_tree("tree", &err), 0);
	ck_assert_int_eq(access("tree", F_OK), -1);
	ck_assert_int_eq(access("kept/file", F_OK), 0);

	ck_assert_int_eq(file_remove_tree("tree", &err), -ENOENT);
	ck_assert_int_eq(symlink("kept", "link"), 0);
	ck_assert_int_lt(file_remove_tree("link", &err), 0);
	ck_assert_int_eq(access("kept/file", F_OK), 0);
	ck_assert_int_eq(file_remove_tree("kept/file", &err), -ENOTDIR);
}
END_TEST

START_TEST(trees_have_a_depth)
{
	struct err err = {0};
	int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), below;

	for (int i = 0; i < 70; i++) {
		ck_assert_int_eq(mkdirat(fd, "d", 0777), 0);
		below = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		ck_assert_int_ge(below, 0);
		close(fd);
		fd = below;
	}
	close(fd);
	ck_assert_int_eq(file_remove_tree("d", &err), -ELOOP);
	/* Cut it in two, each of them within the limit. */
	ck_assert_int_eq(rename("d/d/d/d/d/d/d/d/d/d", "rest"), 0);
	ck_assert_int_eq(file_remove_tree("d", &err), 0);
	ck_assert_msg(file_remove_tree("rest", &err) == 0, "%s", err.text);
}
END_TEST

START_TEST(parents_of_all_kinds_sync)
{
	struct err err = {0};

	ck_assert_int_eq(file_sync_parent("name", &err), 0);
	ck_assert_int_eq(file_sync_parent("/name", &err), 0);
	ck_assert_int_eq(file_sync_parent("./name", &err), 0);
	ck_assert_int_eq(file_sync_parent("absent/name", &err), -ENOENT);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("file");
	TCase *tcase = tcase_create("file");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, replace_and_load);
	tcase_add_test(tcase, load_refuses);
	tcase_add_test(tcase, transfers_are_whole);
	tcase_add_test(tcase, trees_go_whole_and_alone);
	tcase_add_test(tcase, trees_have_a_depth);
	tcase_add_test(tcase, parents_of_all_kinds_sync);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
