/*
 * Bytes a second of sequential passes over an object of the swap store, checksums and all, as a
 * session would see them, and the CPU time they cost. bench/nvme.sh runs it, turn about with fio,
 * and makes the tables.
 *
 *	bench_nvme ENGINE EXTENT_BYTES DEPTH TOTAL_BYTES SECONDS WEIGHTS DIR...
 *
 * WEIGHTS is "-" to let the store find them, or a number for each DIR with commas between. Writes
 * the object once, since the first write of a preallocated block costs the filesystem more, and
 * prints "ready" and where the weights come from. Then each line of standard input is answered by
 * one line:
 *
 *	read, write, mixed   bytes a second, and CPU seconds (user and system, of all threads) per
 *	                     1e9 bytes; mixed reads and writes half of the extents each
 *	fill                 0 0: the object is whole again, after someone else has used its file
 *	plain, summed        0 0: from the next fill on, without checksums, and with them again
 *
 * The caller's buffers are SPARE more than the queue is deep, as in a session, so that the queue
 * stays full while the caller looks at what came. Exit status 77 when the engine is not to be had
 * here. Without checksums: crc32c() is wrapped by the linker, the store knows nothing of it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "nvme/nvme.h"

/*
 * Not counted: disks of virtual machines let who has rested go faster for a moment. fio is given
 * the same.
 */
#define RAMP_SECONDS 0.2

/* Buffers of each directory beyond its queue depth. */
#define SPARE 4u

enum mode { MODE_READ, MODE_WRITE, MODE_MIXED, MODE_FILL, MODE_PLAIN, MODE_SUMMED, MODE_COUNT };

struct bench {
	struct nvme_store *store;
	enum mode mode;
	uint32_t extent_count, next;
	uint64_t started, limit;  /* transfers; the clock stops starting them, too */
	uint64_t ramp_ns, end_ns; /* completions between the two count */
	uint64_t bytes;
	double ramp_cpu; /* at the first completion after the ramp; 0: not yet */
	uint64_t cpu_bytes;
	unsigned in_flight;
	int rc;
};

static bool plain;

uint32_t __real_crc32c(uint32_t crc, const void *buf, size_t len);
uint32_t __wrap_crc32c(uint32_t crc, const void *buf, size_t len);
uint32_t __wrap_crc32c(uint32_t crc, const void *buf, size_t len)
{
	return plain ? 0 : __real_crc32c(crc, buf, len);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/*
 * Half of all extents, evenly, but in no step with the directories that they go round. Always the
 * same: none is read while it is written.
 */
static bool heads(uint64_t n)
{
	return n * 0x9e3779b97f4a7c15u >> 63;
}

static void start(struct bench *b, struct nvme_io *io)
{
	io->object = 0;
	io->extent = b->next;
	io->write = b->mode == MODE_WRITE || b->mode == MODE_FILL ||
		    (b->mode == MODE_MIXED && heads(io->extent));
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
		b->bytes += io->len;
	if (b->ramp_cpu > 0)
		b->cpu_bytes += io->len;
	else if (now >= b->ramp_ns)
		b->ramp_cpu = cpu_seconds();
	if (rc < 0)
		b->rc = rc;
	if (b->rc == 0 && b->started < b->limit && now < b->end_ns)
		start(b, io);
}

/* Bytes a second after RAMP_SECONDS; 0 for MODE_FILL, or when a transfer failed. */
static double pass(struct bench *b, struct nvme_io *ios, unsigned io_count, enum mode mode,
		   double seconds, double *ret_cpu)
{
	unsigned i;

	b->mode = mode;
	b->started = b->bytes = b->cpu_bytes = 0;
	b->ramp_cpu = 0;
	b->next = 0;
	b->limit = mode == MODE_FILL ? b->extent_count : UINT64_MAX;
	b->ramp_ns = now_ns() + (uint64_t)(RAMP_SECONDS * 1e9);
	b->end_ns = mode == MODE_FILL ? UINT64_MAX : b->ramp_ns + (uint64_t)(seconds * 1e9);
	for (i = 0; i < io_count && b->started < b->limit; i++)
		start(b, &ios[i]);
	while (b->in_flight > 0)
		nvme_wait(b->store);
	*ret_cpu =
		b->cpu_bytes > 0 ? (cpu_seconds() - b->ramp_cpu) * 1e9 / (double)b->cpu_bytes : 0;
	return b->rc || mode == MODE_FILL ? 0 : (double)b->bytes / seconds;
}

static const char *const modes[] = {"read", "write", "mixed", "fill", "plain", "summed"};
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
static int serve(struct bench *b, struct nvme_io *ios, unsigned io_count, double seconds,
		 const char *weights_reason)
{
	char line[32];
	double rate, cpu;
	int mode;

	(void)pass(b, ios, io_count, MODE_FILL, 0, &cpu);
	if (b->rc == 0 && printf("ready %s\n", weights_reason) < 0)
		return 1;
	while (b->rc == 0 && fflush(stdout) == 0 && fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		mode = word(line, modes, MODE_COUNT);
		if (mode < 0) {
			fprintf(stderr, "bench_nvme: %s is no command\n", line);
			return 64;
		}
		rate = cpu = 0;
		if (mode == MODE_PLAIN || mode == MODE_SUMMED)
			plain = mode == MODE_PLAIN;
		else
			rate = pass(b, ios, io_count, (enum mode)mode, seconds, &cpu);
		if (b->rc == 0)
			printf("%.0f %.4f\n", rate, cpu);
	}
	if (b->rc == 0)
		return 0;
	fprintf(stderr, "bench_nvme: %s\n", nvme_store_error(b->store));
	return 1;
}

static int with_buffers(struct bench *b, uint32_t extent_bytes, unsigned io_count, double seconds,
			const char *weights_reason)
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
	rc = serve(b, ios, io_count, seconds, weights_reason);
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
	double weights[NVME_PATHS_MAX];
	size_t i = 0;
	char *text;
	struct err err;
	int rc;

	if (argc < 8 || word(argv[1], engines, 3) < 0 || argc - 7 > (int)NVME_PATHS_MAX) {
		fprintf(stderr,
			"usage: bench_nvme auto|io_uring|libaio EXTENT_BYTES DEPTH TOTAL_BYTES "
			"SECONDS WEIGHTS DIR...\n");
		return 64;
	}
	config.engine = (enum nvme_engine)word(argv[1], engines, 3);
	object.extent_bytes = (uint32_t)strtoul(argv[2], NULL, 10);
	config.queue_depth = (unsigned)strtoul(argv[3], NULL, 10);
	object.bytes = strtoull(argv[4], NULL, 10);
	config.paths = (const char *const *)&argv[7];
	config.path_count = (size_t)(argc - 7);
	config.weights = strcmp(argv[6], "-") == 0 ? NULL : weights;
	for (text = argv[6]; config.weights && i < config.path_count; i++, text += *text == ',')
		weights[i] = strtod(text, &text);
	rc = nvme_store_open(&config, &b.store, &info, &err);
	if (rc < 0) {
		fprintf(stderr, "bench_nvme: %s\n", err.text);
		return rc == ERR_CONFIG ? 77 : 1;
	}
	if (info.direct_warning)
		fprintf(stderr, "bench_nvme: without O_DIRECT: %s\n", info.direct_warning);
	b.extent_count = nvme_extent_count(b.store, 0);
	if (b.extent_count == 0) {
		fprintf(stderr, "bench_nvme: %s bytes is nothing to transfer\n", argv[4]);
		nvme_store_free(b.store);
		return 64;
	}
	rc = with_buffers(&b, object.extent_bytes,
			  (config.queue_depth + SPARE) * (unsigned)config.path_count,
			  strtod(argv[5], NULL), info.weights_reason);
	nvme_store_free(b.store);
	return rc;
}
