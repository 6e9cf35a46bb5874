/*
 * Goal: directories share a store by their weights, given or measured, every run of extents by all
 * of them, and what is read back depends on none of it.
 *
 * Method: stores with weights over two directories and over many; where extents went is read from
 * their transfers. Measuring needs two filesystems, here the test's own and /dev/shm; what it finds
 * is a matter of the machine, so only what must hold of any figures is asked.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/nvme_bed.h"

#define EXTENT  65536u
#define OBJECTS 3u

static const char *paths[2];

/* One extent size, odd tails, counts that share no factor with the weights below. */
static const struct nvme_object objects[OBJECTS] = {
	{101ull * EXTENT + 5, EXTENT}, {100ull * EXTENT, EXTENT}, {7ull * EXTENT, EXTENT}};

static struct nvme_config config_of(const char *const *dirs, size_t count, const double *weights)
{
	return (struct nvme_config){.paths = dirs,
				    .path_count = count,
				    .engine = NVME_AUTO,
				    .queue_depth = 4,
				    .objects = objects,
				    .object_count = OBJECTS,
				    .weights = weights};
}

static void done(struct nvme_io *io, int rc)
{
	*(int *)io->context = rc;
}

static void transfer(struct nvme_store *s, struct nvme_io *io, bool write)
{
	int rc = 1;

	io->write = write;
	io->done = done;
	io->context = &rc;
	nvme_submit(s, io);
	while (rc == 1)
		nvme_wait(s);
	ck_assert_msg(rc == 0, "%s", nvme_store_error(s));
}

/*
 * Writes and reads back every extent. After each, in order, a path has what its weight gives it of
 * the object so far, within `slack` extents.
 */
static void check_shares(struct nvme_store *s, const struct nvme_info *info, size_t count,
			 double slack)
{
	uint8_t *buf = aligned_alloc(NVME_ALIGN, EXTENT);
	uint64_t bytes[NVME_PATHS_MAX] = {0};
	double sum = 0, got[NVME_PATHS_MAX];
	struct nvme_io io = {.buf = buf};
	size_t p;

	ck_assert_ptr_nonnull(buf);
	for (p = 0; p < count; p++)
		sum += info->weights[p];
	for (io.object = 0; io.object < OBJECTS; io.object++) {
		memset(got, 0, sizeof(got));
		for (io.extent = 0; io.extent < nvme_extent_count(s, io.object); io.extent++) {
			memset(buf, (int)(io.object * 50 + io.extent), EXTENT);
			transfer(s, &io, true);
			memset(buf, 0, EXTENT);
			transfer(s, &io, false);
			ck_assert_uint_eq(buf[0], (uint8_t)(io.object * 50 + io.extent));
			bytes[io.path] += io.len;
			got[io.path]++;
			for (p = 0; p < count; p++)
				ck_assert_double_le(
					fabs(got[p] - (io.extent + 1) * info->weights[p] / sum),
					slack);
		}
	}
	for (p = 0; p < count; p++)
		ck_assert_uint_eq(bytes[p], info->path_bytes[p]);
	free(buf);
}

START_TEST(given_weights_are_kept)
{
	static const double weights[][2] = {{1, 1}, {3, 1}, {1, 2.5}, {1e-3, 1}, {1e300, 1e299}};
	const double *w = weights[_i];
	struct nvme_config config = config_of(paths, 2, w);
	double max = w[0] > w[1] ? w[0] : w[1], all, share;
	struct nvme_store *s;
	struct nvme_info info;
	struct err err;
	unsigned p;

	ck_assert_msg(nvme_store_open(&config, &s, &info, &err) == 0, "%s", err.text);
	ck_assert_str_eq(info.weights_reason, "as configured");
	ck_assert_uint_eq(info.path_bytes[0] + info.path_bytes[1], info.file_bytes);
	ck_assert_uint_eq(info.file_bytes, nvme_store_bytes(objects, OBJECTS));
	for (p = 0; p < 2; p++) {
		ck_assert_double_eq_tol(info.weights[p], w[p] / max, 1e-12);
		all = (double)info.file_bytes;
		share = all * (w[p] / max) / (w[0] / max + w[1] / max);
		ck_assert_double_le(fabs((double)info.path_bytes[p] - share), EXTENT);
	}
	check_shares(s, &info, 2, 4);
	nvme_store_free(s);
}
END_TEST

START_TEST(many_paths)
{
	const char *many[NVME_PATHS_MAX];
	double weights[NVME_PATHS_MAX];
	struct nvme_config config = config_of(many, NVME_PATHS_MAX, weights);
	struct nvme_store *s;
	struct nvme_info info;
	struct err err;
	unsigned p;

	for (p = 0; p < NVME_PATHS_MAX; p++) {
		many[p] = paths[p % 2];
		weights[p] = p + 1;
	}
	ck_assert_msg(nvme_store_open(&config, &s, &info, &err) == 0, "%s", err.text);
	check_shares(s, &info, NVME_PATHS_MAX, 5);
	nvme_store_free(s);
}
END_TEST

/* Extents with one number, of objects used together, are spread over the paths. */
START_TEST(objects_do_not_meet)
{
	static const double weights[2] = {3, 1};
	static const struct nvme_object four[4] = {{32ull * 4096, 4096},
						   {32ull * 4096, 4096},
						   {32ull * 4096, 4096},
						   {32ull * 4096, 4096}};
	struct nvme_config config = config_of(paths, 2, weights);
	unsigned slow, extent, object;
	struct nvme_store *s;
	struct nvme_info info;
	struct err err;
	uint8_t *buf = aligned_alloc(NVME_ALIGN, NVME_ALIGN);
	struct nvme_io io = {.buf = buf};

	ck_assert_ptr_nonnull(buf);
	memset(buf, 1, NVME_ALIGN);
	config.objects = four;
	config.object_count = 4;
	ck_assert_msg(nvme_store_open(&config, &s, &info, &err) == 0, "%s", err.text);
	for (extent = 0; extent < 32; extent++) {
		for (slow = 0, object = 0; object < 4; object++) {
			io.object = object;
			io.extent = extent;
			transfer(s, &io, true);
			slow += io.path == 1;
		}
		ck_assert_uint_eq(slow, 1);
	}
	nvme_store_free(s);
	free(buf);
}
END_TEST

START_TEST(wrong_weights)
{
	const double wrong[] = {0, -1, NAN, INFINITY};
	double weights[2] = {1, wrong[_i]};
	struct nvme_config config = config_of(paths, 2, weights);
	struct nvme_store *s = NULL;
	struct nvme_info info;
	struct err err;

	ck_assert_int_eq(nvme_store_open(&config, &s, &info, &err), ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, paths[1]));
	ck_assert_ptr_null(s);
}
END_TEST

START_TEST(equal_without_a_look)
{
	struct nvme_config config = config_of(paths, 2, NULL);
	static const struct nvme_object large = {64ull << 20, 1u << 20};
	struct nvme_store *s;
	struct nvme_info info;
	struct err err;

	ck_assert_msg(nvme_store_open(&config, &s, &info, &err) == 0, "%s", err.text);
	ck_assert_str_eq(info.weights_reason, "equal: the store is small");
	check_shares(s, &info, 2, 2);
	nvme_store_free(s);
	config.objects = &large;
	config.object_count = 1;
	ck_assert_msg(nvme_store_open(&config, &s, &info, &err) == 0, "%s", err.text);
	ck_assert_str_eq(info.weights_reason, "equal: one filesystem");
	ck_assert_uint_eq(info.path_bytes[0], info.path_bytes[1]);
	nvme_store_free(s);
	config.path_count = 1;
	ck_assert_msg(nvme_store_open(&config, &s, &info, &err) == 0, "%s", err.text);
	ck_assert_str_eq(info.weights_reason, "");
	ck_assert_double_eq(info.weights[0], 1);
	nvme_store_free(s);
}
END_TEST

/* A directory of another filesystem than `dir`'s, NULL when there is none. */
static const char *elsewhere(const char *dir)
{
	struct stat a, b;

	if (stat(dir, &a) < 0 || stat("/dev/shm", &b) < 0 || access("/dev/shm", W_OK) < 0)
		return NULL;
	return a.st_dev != b.st_dev ? "/dev/shm" : NULL;
}

START_TEST(measured_weights)
{
	static const struct nvme_object large = {64ull << 20, 1u << 20};
	const char *dirs[2] = {paths[0], elsewhere(paths[0])};
	struct nvme_config config = config_of(dirs, 2, NULL);
	struct nvme_store *s;
	struct nvme_info info;
	struct err err;
	double low;

	if (!dirs[1]) {
		printf("measured_weights: no second filesystem that can be written to\n");
		return;
	}
	config.engine = bed_engines[_i];
	config.objects = &large;
	config.object_count = 1;
	ck_assert_msg(nvme_store_open(&config, &s, &info, &err) == 0, "%s", err.text);
	printf("%s\n", info.weights_reason);
	ck_assert_ptr_eq(strstr(info.weights_reason, "measured: "), info.weights_reason);
	ck_assert_ptr_nonnull(strstr(info.weights_reason, dirs[1]));
	low = info.weights[0] < info.weights[1] ? info.weights[0] : info.weights[1];
	ck_assert_double_gt(low, 0);
	ck_assert(low == 1 || low < 0.8);
	ck_assert_double_eq(fmax(info.weights[0], info.weights[1]), 1);
	ck_assert_uint_eq(info.path_bytes[0] + info.path_bytes[1], large.bytes);
	nvme_store_free(s);
	ck_assert_uint_eq(bed_dir_entries(paths[0]), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("nvme_weights");
	TCase *t = tcase_create("weights");
	SRunner *runner;
	int failed;

	bed_setup();
	paths[0] = bed_dir(0);
	paths[1] = bed_dir(1);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, given_weights_are_kept, 0, 5);
	tcase_add_test(t, many_paths);
	tcase_add_test(t, objects_do_not_meet);
	tcase_add_loop_test(t, wrong_weights, 0, 4);
	tcase_add_test(t, equal_without_a_look);
	tcase_add_loop_test(t, measured_weights, 0, bed_engine_count);
	suite_add_tcase(suite, t);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
