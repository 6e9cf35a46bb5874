/*
 * Goal: what is written to the swap store is what is read from it, and what cannot be read is never
 * passed off as if it were.
 *
 * Method: a store of objects of odd sizes on real directories, for every engine this host has, one
 * and two directories, buffers registered or not, several queue depths; all extents are written and
 * read in random orders (fixed seeds) with everything in flight at once. The disk is then changed
 * behind the store's back. Injected failures are in t_nvme_faults.c, full disks in t_nvme_mounts.c.
 */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/nvme_bed.h"

#define SEED 20240607u

static const char *paths[2];

static void check_all(struct bed *b, uint64_t version)
{
	unsigned i;

	ck_assert_msg(b->failed_count == 0, "%s", nvme_store_error(b->store));
	for (i = 0; i < b->extent_count; i++)
		ck_assert_msg(bed_holds(b, i, version), "object %u extent %u", b->ios[i].io.object,
			      b->ios[i].io.extent);
}

static void round_trips(enum nvme_engine engine, size_t path_count, bool registered, unsigned depth)
{
	struct nvme_stats stats;
	struct bed b;
	unsigned version;

	ck_assert_msg(bed_open(&b, engine, depth, paths, path_count) == 0, "%s", b.err.text);
	ck_assert_int_eq(b.info.engine, engine);
	ck_assert_str_eq(b.info.engine_reason, "");
	ck_assert_uint_eq(b.info.file_bytes, nvme_store_bytes(bed_objects, BED_OBJECTS));
	if (registered && engine == NVME_URING)
		ck_assert_int_ge(nvme_store_register(b.store, b.mem, b.mem_bytes, &b.err), 0);
	for (version = 1; version <= 2; version++) {
		bed_write(&b, version, SEED + version);
		check_all(&b, version);
		bed_read(&b, SEED + 10 * version);
		check_all(&b, version);
	}
	nvme_store_stats(b.store, &stats);
	ck_assert_uint_eq(stats.reads, 2 * b.extent_count);
	ck_assert_uint_eq(stats.writes, 2 * b.extent_count);
	ck_assert_uint_eq(stats.read_bytes, 2 * b.info.file_bytes);
	ck_assert_uint_eq(stats.written_bytes, 2 * b.info.file_bytes);
	ck_assert_uint_eq(stats.in_flight, 0);
	ck_assert_uint_le(stats.in_flight_peak, depth * path_count);
	ck_assert_str_eq(nvme_store_error(b.store), "");
	bed_close(&b);
	ck_assert_uint_eq(bed_dir_entries(paths[0]) + bed_dir_entries(paths[1]), 0);
}

START_TEST(everything_comes_back)
{
	static const unsigned depths[] = {1, 3, 32};
	size_t path_count, d;
	int registered;

	for (path_count = 1; path_count <= 2; path_count++)
		for (registered = 0; registered <= 1; registered++)
			for (d = 0; d < 3; d++)
				round_trips(bed_engines[_i], path_count, registered, depths[d]);
}
END_TEST

/* Pieces of a region that are registered, and buffers that lie in none or in two of them. */
START_TEST(many_regions)
{
	struct bed b;
	unsigned i;
	int rc;

	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 8, paths, 1), 0);
	for (i = 0; i < NVME_REGIONS_MAX; i++) {
		/* From the middle of one buffer to the middle of another. */
		rc = nvme_store_register(b.store,
					 b.mem + (2 * i + 1) * (size_t)BED_BUFFER_BYTES / 2,
					 BED_BUFFER_BYTES / 2 + 4096, &b.err);
		ck_assert_int_ge(rc, 0);
		ck_assert(bed_engines[_i] == NVME_URING || rc == 1);
	}
	ck_assert_int_eq(nvme_store_register(b.store, b.mem, 4096, &b.err), -EINVAL);
	bed_write(&b, 1, SEED);
	bed_read(&b, SEED);
	check_all(&b, 1);
	bed_close(&b);
}
END_TEST

/* A region larger than what the kernel registers at a time; transfers across the seam. */
START_TEST(a_region_of_more_than_a_gib)
{
	const size_t bytes = (1ul << 30) + 64 * 4096, seam = 1ul << 30;
	struct bed b;
	uint8_t *mem;
	unsigned i;
	int rc;

	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 8, paths, 1), 0);
	mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		   -1, 0);
	ck_assert_ptr_ne(mem, MAP_FAILED);
	rc = nvme_store_register(b.store, mem, bytes, &b.err);
	ck_assert_int_ge(rc, 0);
	if (rc == 1)
		printf("not registered: %s\n", b.err.text);
	bed_write(&b, 1, SEED);
	for (i = 0; i < b.extent_count; i++) {
		struct bed_io *bio = &b.ios[i];
		uint32_t len = nvme_extent_bytes(b.store, bio->io.object, bio->io.extent);

		if (len > 64 * 4096)
			break;
		bio->calls = 0;
		bio->io.write = false;
		bio->io.buf = mem + seam - 4096;
		nvme_submit(b.store, &bio->io);
		bed_finish(&b, b.done_count + 1);
		ck_assert_int_eq(bio->rc, 0);
		memcpy(b.mem + (size_t)i * BED_BUFFER_BYTES, mem + seam - 4096, len);
		ck_assert(bed_holds(&b, i, 1));
	}
	ck_assert_uint_gt(i, 8);
	munmap(mem, bytes);
	bed_close(&b);
}
END_TEST

START_TEST(event_fd_alone_is_enough)
{
	struct pollfd pfd = {.events = POLLIN};
	struct bed b;
	unsigned i;

	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 2, paths, 2), 0);
	bed_write(&b, 1, SEED);
	bed_clear(&b);
	pfd.fd = nvme_event_fd(b.store);
	b.done_count = 0;
	for (i = 0; i < b.extent_count; i++)
		bed_submit(&b, i, false);
	while (b.done_count < b.extent_count) {
		ck_assert_msg(poll(&pfd, 1, 10000) == 1, "a completion was not signalled");
		nvme_poll(b.store);
	}
	check_all(&b, 1);
	ck_assert_int_eq(nvme_poll(b.store), 0);
	ck_assert_int_eq(poll(&pfd, 1, 0), 0);
	bed_close(&b);
}
END_TEST

struct chain {
	struct bed *b;
	unsigned left;
};

static void chain_next(struct nvme_io *io, int rc)
{
	struct chain *c = io->context;
	struct bed_io *bio = (struct bed_io *)io;

	ck_assert_int_eq(rc, 0);
	c->b->done_count++;
	if (c->left == 0)
		return;
	c->left--;
	bio->io.write = !bio->io.write;
	nvme_submit(c->b->store, io);
}

/* Transfers that submit their successors from `done`, by wait and by poll. */
START_TEST(done_may_submit)
{
	struct pollfd pfd = {.events = POLLIN};
	struct chain chain;
	struct bed b;
	unsigned i, round;

	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 4, paths, 2), 0);
	pfd.fd = nvme_event_fd(b.store);
	bed_write(&b, 1, SEED);
	for (round = 0; round < 2; round++) {
		chain.b = &b;
		chain.left = 300;
		b.done_count = 0;
		for (i = 0; i < b.extent_count; i++) {
			b.ios[i].io.done = chain_next;
			b.ios[i].io.context = &chain;
			bed_submit(&b, i, false);
		}
		while (b.done_count < b.extent_count + 300) {
			if (round == 0) {
				ck_assert_int_gt(nvme_wait(b.store), 0);
			} else {
				ck_assert_int_eq(poll(&pfd, 1, 10000), 1);
				nvme_poll(b.store);
			}
		}
	}
	for (i = 0; i < b.extent_count; i++)
		ck_assert(bed_holds(&b, i, 1));
	bed_close(&b);
}
END_TEST

static void never_called(struct nvme_io *io, int rc)
{
	(void)io;
	(void)rc;
	ck_abort_msg("done was called by nvme_store_free");
}

START_TEST(free_waits_and_keeps_silent)
{
	struct bed b;
	unsigned i;

	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 2, paths, 2), 0);
	for (i = 0; i < b.extent_count; i++) {
		bed_fill(&b, i, 1);
		b.ios[i].io.done = never_called;
		bed_submit(&b, i, true);
	}
	bed_close(&b);
}
END_TEST

START_TEST(unwritten_extents_are_refused)
{
	struct bed b;

	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 2, paths, 2), 0);
	bed_submit(&b, 0, false);
	ck_assert_uint_eq(b.done_count, 0); /* not from within nvme_submit */
	bed_finish(&b, 1);
	ck_assert_int_eq(b.ios[0].rc, ERR_IO);
	ck_assert_ptr_nonnull(strstr(nvme_store_error(b.store), "never written"));
	bed_fill(&b, 0, 7);
	bed_submit(&b, 0, true);
	bed_finish(&b, 2);
	bed_submit(&b, 0, false);
	bed_finish(&b, 3);
	ck_assert_int_eq(b.ios[0].rc, 0);
	ck_assert(bed_holds(&b, 0, 7));
	bed_close(&b);
}
END_TEST

/* One flipped bit on the disk, then a file cut short: each costs its extent and has its text. */
START_TEST(changed_disks_are_noticed)
{
	struct bed b;
	unsigned i, hit = 0;
	uint8_t byte;
	int fd;

	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 8, paths, 1), 0);
	bed_write(&b, 1, SEED);
	fd = bed_backdoor(paths[0]);
	ck_assert_int_eq(pread(fd, &byte, 1, 200000), 1);
	byte ^= 0x10;
	ck_assert_int_eq(pwrite(fd, &byte, 1, 200000), 1);
	ck_assert_int_eq(fdatasync(fd), 0);
	bed_read(&b, SEED);
	ck_assert_uint_eq(b.failed_count, 1);
	for (i = 0; i < b.extent_count; i++) {
		if (b.ios[i].rc == 0)
			ck_assert(bed_holds(&b, i, 1));
		else
			hit = i;
	}
	ck_assert_int_eq(b.ios[hit].rc, ERR_IO);
	ck_assert_uint_le(b.ios[hit].io.offset, 200000);
	ck_assert_uint_gt(b.ios[hit].io.offset + b.ios[hit].io.len, 200000);
	ck_assert_ptr_nonnull(strstr(nvme_store_error(b.store), "checksum "));
	ck_assert_ptr_nonnull(strstr(nvme_store_error(b.store), paths[0]));
	bed_fill(&b, hit, 2);
	b.done_count = 0;
	bed_submit(&b, hit, true);
	bed_finish(&b, 1);
	bed_submit(&b, hit, false);
	bed_finish(&b, 2);
	ck_assert_int_eq(b.ios[hit].rc, 0); /* a new write heals it */
	close(fd);
	bed_close(&b);
}
END_TEST

START_TEST(short_files_are_noticed)
{
	struct bed b;
	unsigned i;
	int fd;

	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 8, paths, 1), 0);
	bed_write(&b, 1, SEED);
	fd = bed_backdoor(paths[0]);
	ck_assert_int_eq(ftruncate(fd, 300 * 4096), 0);
	bed_read(&b, SEED);
	ck_assert_uint_gt(b.failed_count, 0);
	for (i = 0; i < b.extent_count; i++)
		ck_assert((b.ios[i].rc == 0) ==
			  (b.ios[i].io.offset + b.ios[i].io.len <= 300 * 4096));
	ck_assert_ptr_nonnull(strstr(nvme_store_error(b.store), "file shorter than expected"));
	close(fd);
	bed_close(&b);
}
END_TEST

START_TEST(wrong_configurations)
{
	static const char *const missing[] = {"/nonexistent/dir"}, *const file[] = {"/etc/passwd"};
	const char *many[NVME_PATHS_MAX + 1];
	struct nvme_object odd = {5000, 5000}, none = {5000, 0},
			   huge[2] = {{1ull << 62, 1u << 31}, {1ull << 62, 1u << 31}};
	struct nvme_object petabyte = {1ull << 50, 1u << 31};
	struct nvme_config config = {.paths = paths,
				     .path_count = 1,
				     .queue_depth = 1,
				     .objects = &odd,
				     .object_count = 1};
	struct nvme_store *store = NULL;
	struct nvme_info info;
	struct err err;
	struct bed b;
	size_t i;

	ck_assert_int_eq(bed_open(&b, NVME_AUTO, 1, missing, 1), ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(b.err.text, "/nonexistent/dir"));
	ck_assert_msg(bed_open(&b, NVME_AUTO, 1, file, 1) == ERR_CONFIG, "%s", b.err.text);
	ck_assert_int_eq(bed_open(&b, NVME_AUTO, 0, paths, 1), ERR_CONFIG);
	ck_assert_int_eq(bed_open(&b, NVME_AUTO, NVME_QUEUE_DEPTH_MAX + 1, paths, 1), ERR_CONFIG);
	ck_assert_int_eq(bed_open(&b, NVME_AUTO, 1, paths, 0), ERR_CONFIG);
	for (i = 0; i <= NVME_PATHS_MAX; i++)
		many[i] = paths[0];
	ck_assert_int_eq(bed_open(&b, NVME_AUTO, 1, many, NVME_PATHS_MAX + 1), ERR_CONFIG);
	ck_assert_int_eq(nvme_store_open(&config, &store, &info, &err), ERR_CONFIG);
	config.objects = &none;
	ck_assert_int_eq(nvme_store_open(&config, &store, &info, &err), ERR_CONFIG);
	config.objects = huge;
	config.object_count = 2;
	ck_assert_uint_eq(nvme_store_bytes(huge, 2), UINT64_MAX);
	ck_assert_int_eq(nvme_store_open(&config, &store, &info, &err), ERR_CONFIG);
	config.objects = &petabyte;
	config.object_count = 1;
	ck_assert_int_eq(nvme_store_open(&config, &store, &info, &err), ERR_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(err.text, paths[0]));
	ck_assert_ptr_null(store);
	ck_assert_ptr_null(nvme_store_free(NULL));
}
END_TEST

START_TEST(all_paths_and_depths)
{
	const char *many[NVME_PATHS_MAX];
	struct bed b;
	size_t i;

	for (i = 0; i < NVME_PATHS_MAX; i++)
		many[i] = paths[i % 2];
	ck_assert_msg(bed_open(&b, bed_engines[_i], 64, many, NVME_PATHS_MAX) == 0, "%s",
		      b.err.text);
	bed_write(&b, 1, SEED);
	bed_read(&b, SEED);
	check_all(&b, 1);
	bed_close(&b);
}
END_TEST

/* The kernel would kill a process that runs into this limit; we are to read it before. */
START_TEST(file_size_limit)
{
	struct rlimit old, low;
	struct bed b;

	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
	low = old;
	low.rlim_cur = 1 << 20;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &low), 0);
	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 1, paths, 1), ERR_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(b.err.text, "RLIMIT_FSIZE"));
	ck_assert_ptr_nonnull(strstr(b.err.text, paths[0]));
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
}
END_TEST

START_TEST(auto_says_why)
{
	struct bed b;

	ck_assert_int_eq(bed_open(&b, NVME_AUTO, 1, paths, 1), 0);
	ck_assert_int_eq(b.info.engine, bed_engines[bed_engine_count - 1]);
	ck_assert_str_ne(b.info.engine_reason, "");
	ck_assert_uint_ge(b.info.align_bytes, 1);
	ck_assert_uint_le(b.info.align_bytes, NVME_ALIGN);
	bed_close(&b);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("nvme");
	TCase *t = tcase_create("store");
	SRunner *runner;
	int failed;

	bed_setup();
	paths[0] = bed_dir(0);
	paths[1] = bed_dir(1);
	printf("seed %u\n", SEED);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, everything_comes_back, 0, bed_engine_count);
	tcase_add_loop_test(t, many_regions, 0, bed_engine_count);
	tcase_add_loop_test(t, a_region_of_more_than_a_gib, 0, bed_engine_count);
	tcase_add_loop_test(t, event_fd_alone_is_enough, 0, bed_engine_count);
	tcase_add_loop_test(t, done_may_submit, 0, bed_engine_count);
	tcase_add_loop_test(t, free_waits_and_keeps_silent, 0, bed_engine_count);
	tcase_add_loop_test(t, unwritten_extents_are_refused, 0, bed_engine_count);
	tcase_add_loop_test(t, changed_disks_are_noticed, 0, bed_engine_count);
	tcase_add_loop_test(t, short_files_are_noticed, 0, bed_engine_count);
	tcase_add_loop_test(t, all_paths_and_depths, 0, bed_engine_count);
	tcase_add_loop_test(t, file_size_limit, 0, bed_engine_count);
	tcase_add_test(t, wrong_configurations);
	tcase_add_test(t, auto_says_why);
	suite_add_tcase(suite, t);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
