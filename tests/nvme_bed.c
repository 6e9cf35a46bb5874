/* See nvme_bed.h. Everything that fails here is a failure of the test. */
#include "tests/nvme_bed.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Odd sizes on both sides of what O_DIRECT likes, an empty object, one of several megabytes. */
const struct nvme_object bed_objects[BED_OBJECTS] = {
	{1, 4096},
	{4095, 4096},
	{4096, 4096},
	{4097, 4096},
	{196613, 65536},
	{(1u << 20) + 3, 262144},
	{(5u << 20) - 1, 1u << 20},
	{0, 4096},
};
size_t bed_object_count = BED_OBJECTS;
enum nvme_engine bed_engines[2];
int bed_engine_count;

static char root[256], dirs[2][BED_DIR_BYTES];
static pid_t root_owner;

static void remove_root(void)
{
	if (getpid() != root_owner)
		return;
	rmdir(dirs[0]);
	rmdir(dirs[1]);
	rmdir(root);
}

void bed_setup(void)
{
	const char *tmp = getenv("TMPDIR");
	struct nvme_object one = {4096, 4096};
	const char *path;
	struct nvme_config config = {.paths = &path,
				     .path_count = 1,
				     .engine = NVME_URING,
				     .queue_depth = 1,
				     .objects = &one,
				     .object_count = 1};
	struct nvme_store *store;
	struct nvme_info info;
	struct err err;
	unsigned i;

	snprintf(root, sizeof(root), "%s/t_nvme.XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(root)) {
		perror(root);
		exit(1);
	}
	root_owner = getpid();
	atexit(remove_root);
	for (i = 0; i < 2; i++) {
		snprintf(dirs[i], sizeof(dirs[i]), "%s/%u", root, i);
		if (mkdir(dirs[i], 0700) < 0)
			exit(1);
	}
	bed_engines[bed_engine_count++] = NVME_LIBAIO;
	path = dirs[0];
	if (nvme_store_open(&config, &store, &info, &err) == 0) {
		nvme_store_free(store);
		bed_engines[bed_engine_count++] = NVME_URING;
	} else {
		printf("only libaio is tested: %s\n", err.text);
	}
}

const char *bed_dir(unsigned i)
{
	return dirs[i];
}

static void bed_done(struct nvme_io *io, int rc)
{
	struct bed *b = io->context;
	struct bed_io *bio = (struct bed_io *)io;

	ck_assert_uint_eq(bio->calls, 0);
	bio->calls++;
	bio->rc = rc;
	b->done_count++;
	b->failed_count += rc < 0;
}

int bed_open(struct bed *b, enum nvme_engine engine, unsigned depth, const char *const *paths,
	     size_t path_count)
{
	struct nvme_config config = {.paths = paths,
				     .path_count = path_count,
				     .engine = engine,
				     .queue_depth = depth,
				     .objects = bed_objects,
				     .object_count = bed_object_count};
	unsigned object, extent;
	int fd, rc;

	memset(b, 0, sizeof(*b));
	rc = nvme_store_open(&config, &b->store, &b->info, &b->err);
	if (rc < 0)
		return rc;
	for (object = 0; object < bed_object_count; object++) {
		for (extent = 0; extent < nvme_extent_count(b->store, object); extent++) {
			struct nvme_io *io = &b->ios[b->extent_count++].io;

			ck_assert_uint_le(b->extent_count, BED_EXTENTS_MAX);
			io->object = object;
			io->extent = extent;
			io->done = bed_done;
			io->context = b;
		}
	}
	b->mem_bytes = (size_t)b->extent_count * BED_BUFFER_BYTES;
	fd = memfd_create("t_nvme", MFD_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	/* Not by ftruncate, which t_nvme_faults makes fail. */
	ck_assert_int_eq(pwrite(fd, "", 1, (off_t)b->mem_bytes - 1), 1);
	b->mem = mmap(NULL, b->mem_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(b->mem, MAP_FAILED);
	close(fd);
	return 0;
}

void bed_close(struct bed *b)
{
	b->store = nvme_store_free(b->store);
	ck_assert_ptr_null(b->store);
	if (b->mem)
		munmap(b->mem, b->mem_bytes);
	b->mem = NULL;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t word_of(const struct nvme_io *io, uint64_t version, size_t i)
{
	return mix(version << 48 ^ (uint64_t)io->object << 40 ^ (uint64_t)io->extent << 24 ^ i);
}

void bed_fill(struct bed *b, unsigned i, uint64_t version)
{
	const struct nvme_io *io = &b->ios[i].io;
	uint64_t *at = (uint64_t *)(b->mem + (size_t)i * BED_BUFFER_BYTES);
	size_t words = (nvme_extent_bytes(b->store, io->object, io->extent) + 7) / 8, w;

	for (w = 0; w < words; w++)
		at[w] = word_of(io, version, w);
}

bool bed_holds(struct bed *b, unsigned i, uint64_t version)
{
	const struct nvme_io *io = &b->ios[i].io;
	const uint8_t *at = b->mem + (size_t)i * BED_BUFFER_BYTES;
	size_t bytes = nvme_extent_bytes(b->store, io->object, io->extent), w, n;
	uint64_t word;

	for (w = 0; w * 8 < bytes; w++) {
		word = word_of(io, version, w);
		n = bytes - w * 8 < 8 ? bytes - w * 8 : 8;
		if (memcmp(at + w * 8, &word, n) != 0)
			return false;
	}
	return true;
}

void bed_clear(struct bed *b)
{
	memset(b->mem, 0xa5, b->mem_bytes);
}

void bed_submit(struct bed *b, unsigned i, bool write)
{
	struct bed_io *bio = &b->ios[i];

	bio->calls = 0;
	bio->io.write = write;
	bio->io.buf = b->mem + (size_t)i * BED_BUFFER_BYTES;
	nvme_submit(b->store, &bio->io);
}

void bed_finish(struct bed *b, unsigned count)
{
	unsigned before;

	while (b->done_count < count) {
		before = b->done_count;
		ck_assert_int_eq(nvme_wait(b->store), (int)(b->done_count - before));
		ck_assert_uint_gt(b->done_count, before);
	}
	ck_assert_int_eq(nvme_wait(b->store), 0);
}

static void submit_all(struct bed *b, bool write, uint64_t seed)
{
	unsigned order[BED_EXTENTS_MAX], i, j, t;

	for (i = 0; i < b->extent_count; i++) {
		j = (unsigned)(mix(seed + i) % (i + 1));
		order[i] = i;
		t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	b->done_count = b->failed_count = 0;
	for (i = 0; i < b->extent_count; i++)
		bed_submit(b, order[i], write);
	bed_finish(b, b->extent_count);
}

void bed_write(struct bed *b, uint64_t version, uint64_t seed)
{
	unsigned i;

	for (i = 0; i < b->extent_count; i++)
		bed_fill(b, i, version);
	submit_all(b, true, seed);
}

void bed_read(struct bed *b, uint64_t seed)
{
	bed_clear(b);
	submit_all(b, false, seed);
}

int bed_backdoor(const char *dir)
{
	char link[BED_DIR_BYTES * 2], name[300], real[BED_DIR_BYTES * 2];
	struct dirent *e;
	DIR *d = opendir("/proc/self/fd");
	ssize_t len;
	int fd = -1;

	ck_assert_ptr_nonnull(d);
	ck_assert_ptr_nonnull(realpath(dir, real));
	while (fd < 0 && (e = readdir(d))) {
		snprintf(name, sizeof(name), "/proc/self/fd/%s", e->d_name);
		len = readlink(name, link, sizeof(link) - 1);
		if (len < 0)
			continue;
		link[len] = 0;
		if (strncmp(link, real, strlen(real)) == 0 && link[strlen(real)] == '/')
			fd = open(name, O_RDWR | O_CLOEXEC);
	}
	closedir(d);
	ck_assert_int_ge(fd, 0);
	return fd;
}

static unsigned walk(const char *dir, bool empty)
{
	struct dirent *e;
	unsigned n = 0;
	DIR *d = opendir(dir);

	ck_assert_ptr_nonnull(d);
	while ((e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		n++;
		if (empty)
			ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
	}
	closedir(d);
	return n;
}

unsigned bed_dir_entries(const char *dir)
{
	return walk(dir, false);
}

void bed_dir_empty(const char *dir)
{
	walk(dir, true);
}
