/*
 * Goal: the file of figures is read back as it was written, says where it is wrong, holds only for
 * the directories and filesystems that were measured, and the old one stays when writing fails.
 *
 * Method: round trips; a table of wrong texts, each with what the message has to name; thousands of
 * changed texts; figures beside real directories.
 */
#include "nvme/figures.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/rng.h"

#define SEED       5u
#define ROUNDS     20000u
#define TEXT_BYTES 4096u

static char dir[512];

static const char valid[] = "# comment\n"
			    "version: 1\n"
			    "measured: 1795513379\n"
			    "nvme: {engine: io_uring, extent: 1MiB, queue_depth: 16}\n"
			    "together: {read: 3e9, write: 2e9, mixed: 2.5e9}\n"
			    "directories:\n"
			    "  - {path: /a, filesystem: 'uuid:ef53:00', read: 1e9, write: 1e9, "
			    "mixed: 1e9, share: 1e9}\n"
			    "  - {path: /b, filesystem: 'fsid:ef53:00', read: 2e9, write: 1e9, "
			    "mixed: 1e9, share: 3e9}\n"
			    "steps:\n"
			    "  - {threads: 1, move: 2e10, step: 1.9e10}\n"
			    "  - {threads: 2, move: 4e10, step: 3.9e10}\n";

static struct nvme_figures parsed(const char *text)
{
	struct nvme_figures f;
	struct err err;

	ck_assert_msg(nvme_figures_parse("t", text, strlen(text), &f, &err) == 0, "%s", err.text);
	return f;
}

static void name_in(char path[600], const char *name)
{
	snprintf(path, 600, "%s/%s", dir, name);
}

START_TEST(all_members_are_read)
{
	struct nvme_figures f = parsed(valid);

	ck_assert_uint_eq(f.measured, 1795513379);
	ck_assert_int_eq(f.engine, NVME_URING);
	ck_assert_uint_eq(f.extent, 1 << 20);
	ck_assert_uint_eq(f.queue_depth, 16);
	ck_assert(f.together.read == 3e9 && f.together.write == 2e9 && f.together.mixed == 2.5e9);
	ck_assert_uint_eq(f.path_count, 2);
	ck_assert_str_eq(f.paths[1].path, "/b");
	ck_assert_str_eq(f.paths[1].filesystem, "fsid:ef53:00");
	ck_assert(f.paths[1].alone.read == 2e9 && f.paths[1].share == 3e9);
	ck_assert_uint_eq(f.step_count, 2);
	ck_assert(f.steps[1].threads == 2 && f.steps[1].move == 4e10 && f.steps[1].step == 3.9e10);
}
END_TEST

START_TEST(what_is_written_is_read)
{
	static const char *const names[] = {"/plain",   "/with space",           "/\"quoted\"\\",
					    "/k: {[#'", "/\xc3\xa4\xe2\x82\xac", "/true"};
	struct nvme_figures f = parsed(valid), back;
	struct err err;
	char path[600];

	name_in(path, "figures");
	f.engine = NVME_LIBAIO;
	f.extent = 256 << 10;
	f.path_count = sizeof(names) / sizeof(names[0]);
	for (size_t i = 0; i < f.path_count; i++) {
		f.paths[i] = f.paths[0];
		snprintf(f.paths[i].path, sizeof(f.paths[i].path), "%s", names[i]);
		f.paths[i].share = (double)(i + 1) * 1e8;
	}
	f.step_count = 0;
	for (int turn = 0; turn < 2; turn++) {
		ck_assert_msg(nvme_figures_save(path, &f, &err) == 0, "%s", err.text);
		ck_assert_msg(nvme_figures_load(path, &back, &err) == 0, "%s", err.text);
		ck_assert_int_eq(back.engine, f.engine);
		ck_assert_uint_eq(back.extent, f.extent);
		ck_assert_uint_eq(back.path_count, f.path_count);
		for (size_t i = 0; i < f.path_count; i++) {
			ck_assert_str_eq(back.paths[i].path, f.paths[i].path);
			ck_assert(back.paths[i].share == f.paths[i].share);
		}
		ck_assert_uint_eq(back.step_count, f.step_count);
		f.step_count = 1;
	}
}
END_TEST

/* A figure that could not be read back, and a place that cannot be written to. */
START_TEST(the_old_file_stays)
{
	struct nvme_figures f = parsed(valid), back;
	struct err err;
	char path[600];

	name_in(path, "kept");
	ck_assert_int_eq(nvme_figures_save(path, &f, &err), 0);
	f.queue_depth = 0;
	ck_assert_int_eq(nvme_figures_save(path, &f, &err), ERR_CONFIG);
	f.queue_depth = 8;
	f.together.mixed = 0;
	ck_assert_int_eq(nvme_figures_save(path, &f, &err), ERR_CONFIG);
	ck_assert_int_eq(nvme_figures_load(path, &back, &err), 0);
	ck_assert_uint_eq(back.queue_depth, 16);
	f.together.mixed = 1e9;
	name_in(path, "none/figures");
	ck_assert_int_eq(nvme_figures_save(path, &f, &err), ERR_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(err.text, path));
	ck_assert_int_eq(nvme_figures_load(path, &back, &err), ERR_NOINPUT);
}
END_TEST

/* valid with `from` replaced by `to`; what the message has to name. */
static const struct {
	const char *from, *to, *names;
} wrong[] = {
	{"version: 1", "version: 2", "version"},
	{"version: 1", "vershun: 1", "version"},
	{"version: 1\n", "", "version"},
	{"io_uring", "auto", "nvme.engine"},
	{"io_uring", "uring", "nvme.engine"},
	{"1MiB", "32KiB", "nvme.extent"},
	{"1MiB", "128MiB", "nvme.extent"},
	{"1MiB", "70000", "nvme.extent"},
	{"depth: 16", "depth: 0", "nvme.queue_depth"},
	{"depth: 16", "depth: 4097", "nvme.queue_depth"},
	{"read: 3e9", "read: 0", "together.read"},
	{"read: 3e9", "read: .inf", "together.read"},
	{"mixed: 2.5e9", "mixed: 2.5e9, mix: 1", "mix"},
	{"/b", "b", "directories"},
	{"/b", "/a", "/a is there twice"},
	{"'fsid:ef53:00'", "''", "filesystem"},
	{"share: 3e9", "share: -1", "share"},
	{", share: 3e9", "", "share"},
	{"threads: 2", "threads: 1", "steps"},
	{"threads: 1", "threads: 0", "threads"},
};

START_TEST(wrong_texts_are_refused)
{
	const char *at = strstr(valid, wrong[_i].from);
	char text[TEXT_BYTES];
	struct nvme_figures f;
	struct err err;
	unsigned line, column;

	ck_assert_ptr_nonnull(at);
	snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - valid), valid, wrong[_i].to,
		 at + strlen(wrong[_i].from));
	ck_assert_int_eq(nvme_figures_parse("t", text, strlen(text), &f, &err), ERR_CONFIG);
	ck_assert_msg(strstr(err.text, wrong[_i].names) != NULL, "%s", err.text);
	ck_assert_msg(sscanf(err.text, "t:%u:%u: ", &line, &column) == 2, "%s", err.text);
}
END_TEST

START_TEST(long_names_are_refused)
{
	char text[TEXT_BYTES], name[400];
	struct nvme_figures f;
	struct err err;
	const char *at = strstr(valid, "/b");

	memset(name, 'x', sizeof(name));
	name[0] = '/';
	name[sizeof(name) - 1] = '\0';
	snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - valid), valid, name, at + 2);
	ck_assert_int_eq(nvme_figures_parse("t", text, strlen(text), &f, &err), ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, "entry 1"));
}
END_TEST

static uint64_t draw(uint64_t round, uint64_t *step, uint64_t below)
{
	return rng_below(SEED, round, (*step)++, below);
}

/* Bytes changed, cut out, doubled. What is still taken must be in bounds. */
START_TEST(changed_texts)
{
	unsigned taken = 0;
	struct nvme_figures f;
	struct err err;

	for (uint64_t round = 0; round < ROUNDS; round++) {
		uint64_t step = 0, changes = 1 + draw(round, &step, 3);
		size_t len = sizeof(valid) - 1, at, n;
		char text[2 * sizeof(valid)], *copy;

		memcpy(text, valid, len);
		for (; changes > 0; changes--) {
			at = draw(round, &step, len);
			n = draw(round, &step, 8) + 1 < len - at ? draw(round, &step, 8) : 0;
			if (draw(round, &step, 2)) {
				text[at] = (char)draw(round, &step, 256);
			} else if (at + n < len) {
				memmove(text + at, text + at + n, len - at - n);
				len -= n;
			}
		}
		/* Exactly as long, so that a look past the end is seen. */
		copy = malloc(len);
		ck_assert_ptr_nonnull(copy);
		memcpy(copy, text, len);
		if (nvme_figures_parse("t", copy, len, &f, &err) == 0) {
			taken++;
			ck_assert(f.engine == NVME_URING || f.engine == NVME_LIBAIO);
			ck_assert(f.extent >= NVME_EXTENT_MIN && f.extent <= NVME_EXTENT_MAX);
			ck_assert(f.queue_depth >= 1 && f.queue_depth <= NVME_QUEUE_DEPTH_MAX);
			ck_assert(f.path_count >= 1 && f.path_count <= NVME_PATHS_MAX);
			for (size_t i = 0; i < f.path_count; i++)
				ck_assert(f.paths[i].path[0] == '/' && f.paths[i].share > 0);
		} else {
			ck_assert_msg(err.code == ERR_CONFIG, "round %llu (seed %u): %s",
				      (unsigned long long)round, SEED, err.text);
		}
		free(copy);
	}
	printf("%u of %u taken\n", taken, ROUNDS);
	ck_assert_uint_gt(taken, ROUNDS / 100);
}
END_TEST

/* Figures of `dir` as it is, and of a directory that is not there. */
static struct nvme_figures of_here(void)
{
	struct nvme_figures f = parsed(valid);
	char *real = realpath(dir, NULL);
	struct err err;

	ck_assert_ptr_nonnull(real);
	snprintf(f.paths[0].path, sizeof(f.paths[0].path), "%s", real);
	free(real);
	ck_assert_msg(nvme_filesystem_id(dir, NULL, f.paths[0].filesystem, &err) == 0, "%s",
		      err.text);
	return f;
}

START_TEST(figures_hold_for_their_directories)
{
	const char *const here[] = {dir}, *const both[] = {dir, "/"};
	struct nvme_figures f = of_here();
	double weights[2];
	struct err err;
	char link[600];

	ck_assert_msg(nvme_figures_match(&f, here, 1, weights, &err) == 0, "%s", err.text);
	ck_assert(weights[0] == 1);
	ck_assert_int_eq(nvme_figures_match(&f, both, 2, NULL, &err), ERR_CONFIG);
	ck_assert_str_eq(err.text, "/ was not measured");
	snprintf(f.paths[1].path, sizeof(f.paths[1].path), "/");
	ck_assert_int_eq(nvme_filesystem_id("/", NULL, f.paths[1].filesystem, &err), 0);
	ck_assert_int_eq(nvme_figures_match(&f, both, 2, weights, &err), 0);
	ck_assert(weights[0] == 0.25 && weights[1] == 0.75);
	name_in(link, "link");
	ck_assert_int_eq(symlink(dir, link), 0);
	ck_assert_int_eq(nvme_figures_match(&f, (const char *const[]){link}, 1, NULL, &err), 0);
	name_in(link, "gone");
	ck_assert_int_lt(nvme_figures_match(&f, (const char *const[]){link}, 1, NULL, &err), 0);
	ck_assert_ptr_nonnull(strstr(err.text, link));
}
END_TEST

/* Also by an id of an older kind, by which a newer kernel has to go, too. */
START_TEST(another_filesystem_is_told)
{
	static const char *const kinds[] = {NULL, "uuid:", "fsid:", "dev:"};
	const char *const here[] = {dir};
	struct nvme_figures f = of_here();
	char *id = f.paths[0].filesystem;
	struct err err;

	ck_assert_int_eq(nvme_filesystem_id(dir, kinds[_i], id, &err), 0);
	printf("%s\n", id);
	ck_assert_int_eq(nvme_figures_match(&f, here, 1, NULL, &err), 0);
	ck_assert(strchr(id, ':') != strrchr(id, ':'));
	id[strlen(id) - 1] ^= 1;
	ck_assert_int_eq(nvme_figures_match(&f, here, 1, NULL, &err), ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, "another filesystem"));
}
END_TEST

START_TEST(named_files_are_found_or_told)
{
	const char *const here[] = {dir}, *const other[] = {"/"};
	struct nvme_figures f = of_here(), back;
	struct err err;
	char path[600];

	name_in(path, "named");
	ck_assert_int_eq(nvme_tuned_find(path, here, 1, &back, NULL, &err), ERR_NOINPUT);
	ck_assert_int_eq(nvme_figures_save(path, &f, &err), 0);
	ck_assert_int_eq(nvme_tuned_find(path, here, 1, &back, NULL, &err), NVME_TUNED_FOUND);
	ck_assert_uint_eq(back.queue_depth, f.queue_depth);
	ck_assert_int_eq(nvme_tuned_find(path, NULL, 0, &back, NULL, &err), NVME_TUNED_FOUND);
	ck_assert_int_eq(nvme_tuned_find(path, other, 1, &back, NULL, &err), NVME_TUNED_IGNORED);
	ck_assert_ptr_nonnull(strstr(err.text, path));
	ck_assert_int_eq(file_replace(path, "version: 1\n", 11, &err), 0);
	ck_assert_int_eq(nvme_tuned_find(path, here, 1, &back, NULL, &err), ERR_CONFIG);
}
END_TEST

int main(void)
{
	const char *base = getenv("TMPDIR");
	Suite *suite = suite_create("nvme_figures");
	TCase *tcase = tcase_create("nvme_figures");
	SRunner *runner;
	struct err err;
	int failed;

	snprintf(dir, sizeof(dir), "%s/t_nvme_figures.XXXXXX", base ? base : "/tmp");
	if (!mkdtemp(dir)) {
		perror(dir);
		return EXIT_FAILURE;
	}
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, all_members_are_read);
	tcase_add_test(tcase, what_is_written_is_read);
	tcase_add_test(tcase, the_old_file_stays);
	tcase_add_loop_test(tcase, wrong_texts_are_refused, 0,
			    (int)(sizeof(wrong) / sizeof(wrong[0])));
	tcase_add_test(tcase, long_names_are_refused);
	tcase_add_test(tcase, changed_texts);
	tcase_add_test(tcase, figures_hold_for_their_directories);
	tcase_add_loop_test(tcase, another_filesystem_is_told, 0, 4);
	tcase_add_test(tcase, named_files_are_found_or_told);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (file_remove_tree(dir, &err) < 0)
		fprintf(stderr, "%s\n", err.text);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
