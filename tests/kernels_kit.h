/*
 * What the tests of kernels/ share: a cpu device with one stream, reproducible inputs, outputs that
 * are poisoned and fenced, and a comparison with doubles. A failed set-up ends the test program.
 */
#ifndef TESTS_KERNELS_KIT_H
#define TESTS_KERNELS_KIT_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

#define KIT_BUFFERS_MAX 64
#define KIT_FENCE       64 /* floats before and after every output */

struct kit {
	struct device *device;
	struct device_stream *stream;
	uint64_t seed, drawn; /* each input takes the next stream of random numbers */
	void *heap[KIT_BUFFERS_MAX];
	size_t heap_count;
	struct {
		uint8_t *at;
		size_t bytes;
	} fenced[KIT_BUFFERS_MAX];
	size_t fenced_count;
};

void kit_open(struct kit *k, uint64_t memory_bytes, unsigned threads, uint64_t seed);
void kit_close(struct kit *k); /* fails the test when a fence was trodden on */

/* Device memory: uniform in [-span, span); bf16 values are rounded. */
void *kit_input(struct kit *k, enum dtype type, size_t count, double span);
/* Device memory, every byte 0xff (NaN, whatever the type), between fences. */
void *kit_output(struct kit *k, size_t bytes);
/* As kit_input, between fences: for results that are added to. */
float *kit_sum(struct kit *k, size_t count);
uint32_t *kit_tokens(struct kit *k, size_t count, uint32_t bound);

/* Heap, freed by kit_close: a copy in double, and room for `count` doubles. */
double *kit_doubles(struct kit *k, const void *values, enum dtype type, size_t count);
double *kit_room(struct kit *k, size_t count);

/* Waits for the stream; fails the test on an error. */
void kit_sync(struct kit *k);

/* max |got - want| / max(max |want|, floor); infinite when any `got` is not a number. */
double kit_distance(const float *got, const double *want, size_t count, double floor);

#endif
