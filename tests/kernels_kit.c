/* What the tests of kernels/ share; see kernels_kit.h. */
#include "tests/kernels_kit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"

#define FENCE_BYTE 0xa5

static void must(int rc, const struct err *err)
{
	if (rc < 0) {
		fprintf(stderr, "set-up failed: %s\n", err->text);
		exit(1);
	}
}

void kit_open(struct kit *k, uint64_t memory_bytes, unsigned threads, uint64_t seed)
{
	struct device_config config = {
		.type = DEVICE_CPU,
		.memory_bytes = memory_bytes,
		.threads = threads,
	};
	struct err err;

	memset(k, 0, sizeof(*k));
	k->seed = seed;
	must(device_open(&config, &k->device, &err), &err);
	must(device_stream_open(k->device, "test", &k->stream, &err), &err);
}

static void fence_check(const uint8_t *p)
{
	for (size_t i = 0; i < KIT_FENCE * sizeof(float); i++)
		if (p[i] != FENCE_BYTE) {
			fprintf(stderr, "an operation wrote outside its output\n");
			abort();
		}
}

void kit_close(struct kit *k)
{
	kit_sync(k);
	for (size_t i = 0; i < k->fenced_count; i++) {
		fence_check(k->fenced[i].at - KIT_FENCE * sizeof(float));
		fence_check(k->fenced[i].at + k->fenced[i].bytes);
	}
	device_free(k->device);
	for (size_t i = 0; i < k->heap_count; i++)
		free(k->heap[i]);
}

static void *device_bytes(struct kit *k, size_t bytes)
{
	struct err err;
	void *p = device_alloc(k->device, bytes, "a test's buffer", &err);

	must(p ? 0 : -1, &err);
	return p;
}

static void fill(struct kit *k, void *p, enum dtype type, size_t count, double span)
{
	uint64_t stream = k->drawn++;

	for (size_t i = 0; i < count; i++) {
		float x = (float)(span * (2 * rng_uniform(k->seed, stream, i) - 1));

		if (type == DTYPE_F32)
			((float *)p)[i] = x;
		else
			((uint16_t *)p)[i] = bf16_from_float(x);
	}
}

void *kit_input(struct kit *k, enum dtype type, size_t count, double span)
{
	void *p = device_bytes(k, count * dtype_bytes(type));

	fill(k, p, type, count, span);
	return p;
}

void *kit_output(struct kit *k, size_t bytes)
{
	size_t fence = KIT_FENCE * sizeof(float);
	uint8_t *p = device_bytes(k, bytes + 2 * fence);

	memset(p, FENCE_BYTE, bytes + 2 * fence);
	p += fence;
	memset(p, 0xff, bytes);
	k->fenced[k->fenced_count].at = p;
	k->fenced[k->fenced_count].bytes = bytes;
	k->fenced_count++;
	return p;
}

float *kit_sum(struct kit *k, size_t count)
{
	float *p = kit_output(k, count * sizeof(*p));

	fill(k, p, DTYPE_F32, count, 1);
	return p;
}

uint32_t *kit_tokens(struct kit *k, size_t count, uint32_t bound)
{
	uint32_t *p = device_bytes(k, count * sizeof(*p));
	uint64_t stream = k->drawn++;

	for (size_t i = 0; i < count; i++)
		p[i] = (uint32_t)rng_below(k->seed, stream, i, bound);
	return p;
}

double *kit_room(struct kit *k, size_t count)
{
	double *p = calloc(count, sizeof(*p));

	if (!p || k->heap_count == KIT_BUFFERS_MAX) {
		fprintf(stderr, "set-up failed: no room for %zu doubles\n", count);
		exit(1);
	}
	k->heap[k->heap_count++] = p;
	return p;
}

double *kit_doubles(struct kit *k, const void *values, enum dtype type, size_t count)
{
	double *p = kit_room(k, count);

	for (size_t i = 0; i < count; i++)
		p[i] = (double)(type == DTYPE_F32 ? ((const float *)values)[i]
						  : bf16_to_float(((const uint16_t *)values)[i]));
	return p;
}

void kit_sync(struct kit *k)
{
	struct err err;

	must(device_stream_sync(k->stream, &err), &err);
}

double kit_distance(const float *got, const double *want, size_t count, double floor)
{
	double worst = 0, greatest = floor;

	for (size_t i = 0; i < count; i++) {
		double d = fabs((double)got[i] - want[i]);

		if (isnan(d))
			return INFINITY;
		worst = fmax(worst, d);
		greatest = fmax(greatest, fabs(want[i]));
	}
	return worst / greatest;
}
