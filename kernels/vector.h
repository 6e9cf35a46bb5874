/*
 * Element-wise work on vectors, as operations of a device and as plain host functions: the daemon
 * and the collectives use the latter on host memory. Both give the same bits, on every
 * instruction set and for every way a vector is cut.
 */
#ifndef KERNELS_VECTOR_H
#define KERNELS_VECTOR_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

struct vector {
	size_t count;
	const void *a, *b; /* add: fp32 both; convert, accumulate, sumsq: `a`, of a_type */
	enum dtype a_type;
	void *out; /* add: fp32, may be a or b; convert: out_type; accumulate: fp32, added to */
	enum dtype out_type;
	double *blocks; /* sumsq: one per VECTOR_BLOCK elements, overwritten */
};

/* out = a + b */
void vector_add(struct device_stream *stream, const struct vector *v);
/* out = a in another type; to bf16 by bf16_from_float */
void vector_convert(struct device_stream *stream, const struct vector *v);
/* out += a */
void vector_accumulate(struct device_stream *stream, const struct vector *v);
/* blocks[i] = sum of squares of block i, see vector_host_sumsq */
void vector_sumsq(struct device_stream *stream, const struct vector *v);

/*
 * Sums of squares are taken per block of this many elements, so that a norm does not depend on
 * chunk size or placement. Cuts of a vector are multiples of it.
 */
#define VECTOR_BLOCK 2048u

static inline size_t vector_blocks(size_t count)
{
	return (count + VECTOR_BLOCK - 1) / VECTOR_BLOCK;
}

/* The same on host memory, in the calling thread. */
void vector_host_convert(void *out, enum dtype out_type, const void *a, enum dtype a_type,
			 size_t count);
void vector_host_accumulate(float *out, const void *a, enum dtype a_type, size_t count);
/*
 * blocks[i] = sum over block i of (double)a[j]^2, in 16 interleaved partial sums (j mod 16) added
 * up in lane order. `count` may end inside a block.
 */
void vector_host_sumsq(double *blocks, const void *a, enum dtype a_type, size_t count);
/* out = ((src[0] + src[1]) + src[2]) + ..., fp32: the reduction order of the collectives. */
void vector_host_sum(float *out, const float *const *src, size_t src_count, size_t count);

#endif
