/*
 * The speed of directories beside each other, from a few short looks through a small store.
 *
 * Called by store.c from the thread that opens the store, before its files are made.
 *
 * All paths are driven at once, as the store will drive them, by half reads and half writes, which
 * is what a step of a swapped optimizer does. What shares a bus or a drive shows here as it will
 * show later.
 *
 * Invariants
 *  1. The store that measures is given equal weights: measuring does not measure.
 *  2. Only bytes of extents that were written before are read, so no hole is taken for a fast disk.
 *  3. Differences that short looks cannot tell from noise count as none: then files are striped
 *     equally and every run of a machine has the same layout.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/trace.h"
#include "nvme/internal.h"

#define EXTENT_BYTES (1u << 20)
#define EXTENTS      (NVME_WEIGH_BYTES / EXTENT_BYTES) /* of a path; even */
#define DEPTH        8u
#define RAMP_NS      100000000ull /* not counted: who has rested goes faster for a moment */
/* A path's speed is the median of these looks: one that something else disturbs does not count. */
#define LOOKS   5u
#define LOOK_NS 80000000ull
/* Paths within this of the fastest are taken for equal. */
#define ALIKE 0.8

struct look {
	struct nvme_store *store;
	size_t path_count;
	uint32_t begun[NVME_PATHS_MAX], limit; /* transfers of each path */
	uint64_t ramp_ns, end_ns;
	bool fill;
	uint64_t bytes[NVME_PATHS_MAX][LOOKS];
	unsigned in_flight;
	int rc;
};

/*
 * Extents of the one object go round the paths, as the weights are equal. After filling, the odd
 * ones of a path are written and the even ones read, so that none is read while it is written.
 */
static void start(struct look *l, struct nvme_io *io, size_t path)
{
	uint32_t n = l->begun[path]++ % EXTENTS;

	io->extent = n * (uint32_t)l->path_count + (uint32_t)path;
	io->write = l->fill || n % 2 == 1;
	l->in_flight++;
	nvme_submit(l->store, io);
}

static void done(struct nvme_io *io, int rc)
{
	struct look *l = io->context;
	uint64_t now = trace_now_ns();

	l->in_flight--;
	if (now >= l->ramp_ns && now < l->end_ns && !l->fill)
		l->bytes[io->path][(now - l->ramp_ns) / LOOK_NS] += io->len;
	if (rc < 0)
		l->rc = rc;
	if (l->rc == 0 && l->begun[io->path] < l->limit && now < l->end_ns)
		start(l, io, io->path);
}

static void pass(struct look *l, struct nvme_io *ios, bool fill)
{
	unsigned i;

	memset(l->begun, 0, sizeof(l->begun));
	memset(l->bytes, 0, sizeof(l->bytes));
	l->fill = fill;
	l->limit = fill ? EXTENTS : UINT32_MAX;
	l->ramp_ns = trace_now_ns() + RAMP_NS;
	l->end_ns = fill ? UINT64_MAX : l->ramp_ns + LOOKS * LOOK_NS;
	for (i = 0; i < DEPTH * l->path_count && l->rc == 0; i++)
		start(l, &ios[i], i % l->path_count);
	while (l->in_flight > 0)
		nvme_wait(l->store);
}

static uint64_t median(const uint64_t *looks)
{
	size_t i, k, below, same;

	for (i = 0; i < LOOKS; i++) {
		for (k = below = same = 0; k < LOOKS; k++) {
			below += looks[k] < looks[i];
			same += looks[k] == looks[i];
		}
		if (below <= LOOKS / 2 && below + same > LOOKS / 2)
			break;
	}
	return looks[i];
}

/* The bytes that each path moves in a look; 0 or a negative code. */
static int look(const struct nvme_config *config, struct nvme_io *ios, uint8_t *mem,
		uint64_t *ret_bytes, struct err *err)
{
	double equal[NVME_PATHS_MAX];
	struct nvme_object object = {(uint64_t)NVME_WEIGH_BYTES * config->path_count, EXTENT_BYTES};
	struct nvme_config small = *config;
	struct look l = {.path_count = config->path_count};
	struct nvme_info info;
	size_t i;
	int rc;

	for (i = 0; i < config->path_count; i++)
		equal[i] = 1;
	small.weights = equal;
	small.objects = &object;
	small.object_count = 1;
	small.queue_depth = DEPTH;
	rc = nvme_store_open(&small, &l.store, &info, err);
	if (rc < 0)
		return rc;
	for (i = 0; i < DEPTH * config->path_count; i++)
		ios[i] = (struct nvme_io){
			.buf = mem + i * EXTENT_BYTES, .done = done, .context = &l};
	pass(&l, ios, true);
	if (l.rc == 0)
		pass(&l, ios, false);
	if (l.rc < 0)
		err_set(err, l.rc, "%s", nvme_store_error(l.store));
	for (i = 0; i < config->path_count; i++)
		ret_bytes[i] = median(l.bytes[i]);
	nvme_store_free(l.store);
	return l.rc;
}

static int measure(const struct nvme_config *config, uint64_t *ret_bytes, struct err *err)
{
	size_t count = DEPTH * config->path_count, mem_bytes = count * EXTENT_BYTES;
	struct nvme_io *ios = calloc(count, sizeof(*ios));
	uint8_t *mem;
	int rc;

	if (!ios)
		return err_sys(err, -ENOMEM, "buffers");
	mem = mmap(NULL, mem_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED) {
		rc = err_sys(err, -errno, "buffers");
	} else {
		rc = look(config, ios, mem, ret_bytes, err);
		munmap(mem, mem_bytes);
	}
	free(ios);
	return rc;
}

/* What is unknown is left to the opening of the files, which says what is wrong. */
static bool one_filesystem(const struct nvme_config *config)
{
	struct stat first, st;
	size_t i;

	if (stat(config->paths[0], &first) < 0)
		return true;
	for (i = 1; i < config->path_count; i++)
		if (stat(config->paths[i], &st) == 0 && st.st_dev != first.st_dev)
			return false;
	return true;
}

static void scale(double *weights, size_t count, double alike)
{
	double max = weights[0], min = weights[0];
	size_t i;

	for (i = 1; i < count; i++) {
		max = weights[i] > max ? weights[i] : max;
		min = weights[i] < min ? weights[i] : min;
	}
	for (i = 0; i < count; i++)
		weights[i] = min >= alike * max ? 1 : weights[i] / max;
}

static void describe(const struct nvme_config *config, const uint64_t *bytes, char *reason,
		     size_t reason_bytes)
{
	size_t i, len = (size_t)snprintf(reason, reason_bytes, "measured:");

	for (i = 0; i < config->path_count && len < reason_bytes; i++)
		len += (size_t)snprintf(reason + len, reason_bytes - len, "%s %s %.0f MB/s",
					i > 0 ? "," : "", config->paths[i],
					(double)bytes[i] / ((double)LOOK_NS / 1e3));
}

void nvme_weigh(const struct nvme_config *config, double *ret, char *reason, size_t reason_bytes)
{
	uint64_t bytes[NVME_PATHS_MAX];
	size_t i, count = config->path_count;
	struct err err;

	for (i = 0; i < count; i++)
		ret[i] = config->weights ? config->weights[i] : 1;
	if (count == 1) {
		ret[0] = 1;
		reason[0] = '\0';
	} else if (config->weights) {
		scale(ret, count, 1);
		snprintf(reason, reason_bytes, "as configured");
	} else if (nvme_store_bytes(config->objects, config->object_count) <
		   (uint64_t)NVME_WEIGH_BYTES * count) {
		snprintf(reason, reason_bytes, "equal: the store is small");
	} else if (one_filesystem(config)) {
		snprintf(reason, reason_bytes, "equal: one filesystem");
	} else if (measure(config, bytes, &err) < 0) {
		snprintf(reason, reason_bytes, "equal: measuring failed: %s", err.text);
	} else {
		/* A path that moved nothing at all is as slow as can be told. */
		for (i = 0; i < count; i++)
			ret[i] = bytes[i] > 0 ? (double)bytes[i] : EXTENT_BYTES;
		scale(ret, count, ALIKE);
		describe(config, bytes, reason, reason_bytes);
	}
}
