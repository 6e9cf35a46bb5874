/*
 * Bytes a second of sequential passes over an object of the swap store, checksums and all, as a
 * session would see them. bench/nvme.sh runs it, turn about with fio, and makes the table.
 *
 *	bench_nvme ENGINE EXTENT_BYTES DEPTH TOTAL_BYTES SECONDS DIR...
 *
 * Writes the object once, since the first write of a preallocated block costs the filesystem more,
 * and prints "ready". Then each line of standard input, "read", "write" or "mixed" (extents are
 * read and written in turn), is answered by a number, and "fill" by a 0: the object is whole again,
 * after someone else has used its file. Exit status 77 when the engine is not to be had here.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "nvme/nvme.h"

/*
 * Not counted: disks of virtual machines let who has rested go faster for a moment. fio is given
 * the same.
 */
#define RAMP_SECONDS 0.3

enum mode { MODE_READ, MODE_WRITE, MODE_MIXED, MODE_FILL, MODE_COUNT };

struct bench {
	struct nvme_store *store;
	enum mode mode;
	uint32_t extent_count, next;
	uint64_t started, limit;  /* transfers; the clock stops starting them, too */
	uint64_t ramp_ns, end_ns; /* completions between the two count */
	uint64_t bytes;
	unsigned in_flight;
	int rc;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void start(struct bench *b, struct nvme_io *io)
{
	io->object = 0;
	io->extent = b->next;
	io->write = b->mode == MODE_WRITE || b->mode == MODE_FILL ||
		    (b->mode == MODE_MIXED && b->started % 2);
	b->next = (b->next + 1) % b->extent_count;
	b->started++;
	b->in_flight++;
	nvme_submit(b->store, io);
}

static void done(struct nvme_io *io, int rc)
{
	struct bench *b = io->context;
	uint64_t now = now_ns();

	b->in_flight--;
	if (now >= b->ramp_ns && now < b->end_ns)
		b->bytes += nvme_extent_bytes(b->store, io->object, io->extent);
	if (rc < 0)
		b->rc = rc;
	if (b->rc == 0 && b->started < b->limit && now < b->end_ns)
		start(b, io);
}

/* Bytes a second after RAMP_SECONDS; 0 for MODE_FILL, or when a transfer failed. */
static double pass(struct bench *b, struct nvme_io *ios, unsigned io_count, enum mode mode,
		   double seconds)
{
	unsigned i;

	b->mode = mode;
	b->started = b->bytes = 0;
	b->next = 0;
	b->limit = mode == MODE_FILL ? b->extent_count : UINT64_MAX;
	b->ramp_ns = now_ns() + (uint64_t)(RAMP_SECONDS * 1e9);
	b->end_ns = mode == MODE_FILL ? UINT64_MAX : b->ramp_ns + (uint64_t)(seconds * 1e9);
	for (i = 0; i < io_count && b->started < b->limit; i++)
		start(b, &ios[i]);
	while (b->in_flight > 0)
		nvme_wait(b->store);
	return b->rc || mode == MODE_FILL ? 0 : (double)b->bytes / seconds;
}

static const char *const modes[] = {"read", "write", "mixed", "fill"};
static const char *const engines[] = {"auto", "io_uring", "libaio"};

static int word(const char *text, const char *const *words, int count)
{
	int i;

	for (i = 0; i < count; i++)
		if (strcmp(text, words[i]) == 0)
			return i;
	return -1;
}

/* Answers the lines of standard input. */
static int serve(struct bench *b, struct nvme_io *ios, unsigned io_count, double seconds)
{
	char line[32];
	double rate;
	int mode;

	(void)pass(b, ios, io_count, MODE_FILL, 0);
	if (b->rc == 0 && puts("ready") < 0)
		return 1;
	while (b->rc == 0 && fflush(stdout) == 0 && fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		mode = word(line, modes, MODE_COUNT);
		if (mode < 0) {
			fprintf(stderr, "bench_nvme: %s: read, write, mixed or fill?\n", line);
			return 64;
		}
		rate = pass(b, ios, io_count, (enum mode)mode, seconds);
		if (b->rc == 0)
			printf("%.0f\n", rate);
	}
	if (b->rc == 0)
		return 0;
	fprintf(stderr, "bench_nvme: %s\n", nvme_store_error(b->store));
	return 1;
}

static int with_buffers(struct bench *b, uint32_t extent_bytes, unsigned io_count, double seconds)
{
	size_t mem_bytes = (size_t)extent_bytes * io_count;
	struct nvme_io *ios = calloc(io_count, sizeof(*ios));
	uint8_t *mem =
		mmap(NULL, mem_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct err err;
	unsigned i;
	size_t w;
	int rc;

	if (!ios || mem == MAP_FAILED) {
		fprintf(stderr, "bench_nvme: out of memory\n");
		return 1;
	}
	/* Not zeros, which a disk may store for free. */
	for (w = 0; w < mem_bytes / sizeof(uint64_t); w++)
		((uint64_t *)mem)[w] = (w + 1) * 0x9e3779b97f4a7c15u;
	(void)nvme_store_register(b->store, mem, mem_bytes, &err); /* a matter of speed */
	for (i = 0; i < io_count; i++) {
		ios[i].buf = mem + (size_t)i * extent_bytes;
		ios[i].done = done;
		ios[i].context = b;
	}
	rc = serve(b, ios, io_count, seconds);
	munmap(mem, mem_bytes);
	free(ios);
	return rc;
}

int main(int argc, char **argv)
{
	struct nvme_object object;
	struct nvme_config config = {.objects = &object, .object_count = 1};
	struct nvme_info info;
	struct bench b = {0};
	struct err err;
	int rc;

	if (argc < 7 || word(argv[1], engines, 3) < 0) {
		fprintf(stderr,
			"usage: bench_nvme auto|io_uring|libaio EXTENT_BYTES DEPTH TOTAL_BYTES "
			"SECONDS DIR...\n");
		return 64;
	}
	config.engine = (enum nvme_engine)word(argv[1], engines, 3);
	object.extent_bytes = (uint32_t)strtoul(argv[2], NULL, 10);
	config.queue_depth = (unsigned)strtoul(argv[3], NULL, 10);
	object.bytes = strtoull(argv[4], NULL, 10);
	config.paths = (const char *const *)&argv[6];
	config.path_count = (size_t)(argc - 6);
	rc = nvme_store_open(&config, &b.store, &info, &err);
	if (rc < 0) {
		fprintf(stderr, "bench_nvme: %s\n", err.text);
		return rc == ERR_CONFIG ? 77 : 1;
	}
	if (info.direct_warning)
		fprintf(stderr, "bench_nvme: without O_DIRECT: %s\n", info.direct_warning);
	b.extent_count = nvme_extent_count(b.store, 0);
	rc = with_buffers(&b, object.extent_bytes, config.queue_depth * (unsigned)config.path_count,
			  strtod(argv[5], NULL));
	nvme_store_free(b.store);
	return rc;
}
