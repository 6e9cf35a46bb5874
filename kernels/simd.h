/*
 * The row kernels of the cpu device, compiled from one body (simd_body.h, attention_body.h) for
 * scalar, AVX2 and AVX-512, with the same bits in each: elements go through the same operations,
 * sums run over sixteen interleaved lanes which are then added up in a fixed order, and a tail is a
 * vector with absent lanes. Private to kernels/.
 */
#ifndef KERNELS_SIMD_H
#define KERNELS_SIMD_H

#include <stddef.h>
#include <stdint.h>

#include "common/cpu.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/dtype.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/rotary.h"

struct simd {
	/* out = a + b */
	void (*add)(float *out, const float *a, const float *b, size_t count);
	/* out = a + b, parameters of `type` */
	void (*add_params)(float *out, const void *a, const void *b, enum dtype type, size_t count);
	void (*widen)(float *out, const uint16_t *a, size_t count);
	void (*narrow)(uint16_t *out, const float *a, size_t count);
	/* out += a */
	void (*accumulate)(float *out, const void *a, enum dtype type, size_t count);
	/* out = src[0] + src[1] + ..., in this order */
	void (*sum)(float *out, const float *const *src, size_t src_count, size_t count);
	/* Of at most VECTOR_BLOCK elements, as vector_host_sumsq says */
	double (*sumsq)(const void *a, enum dtype type, size_t count);
	/* out[j] += a[i * row + j], i in order */
	void (*column_sum)(float *out, const float *a, size_t rows, size_t row, size_t count);
	void (*gelu_forward)(float *y, const float *x, size_t count);
	void (*gelu_backward)(float *dx, const float *dy, const float *x, size_t count);
	/* Rows begin..end */
	void (*layernorm_forward)(const struct layernorm *l, size_t begin, size_t end);
	void (*layernorm_backward_rows)(const struct layernorm *l, size_t begin, size_t end);
	/* dgain and dbias of columns begin..end */
	void (*layernorm_backward_columns)(const struct layernorm *l, size_t begin, size_t end);
	void (*rmsnorm_forward)(const struct rmsnorm *n, size_t begin, size_t end);
	void (*rmsnorm_backward_rows)(const struct rmsnorm *n, size_t begin, size_t end);
	/* dgain of columns begin..end */
	void (*rmsnorm_backward_columns)(const struct rmsnorm *n, size_t begin, size_t end);
	/* Rows begin..end */
	void (*swiglu_forward)(const struct swiglu *s, size_t begin, size_t end);
	void (*swiglu_backward)(const struct swiglu *s, size_t begin, size_t end);
	/* Tokens begin..end of all sequences, one behind the other */
	void (*rotary)(const struct rotary *r, size_t begin, size_t end);
	/* Returns -log p(target) of a row, and leaves its gradient when asked to */
	double (*cross_entropy)(const struct cross_entropy *c, size_t row);
	/* One (batch, head); scratch as attention_scratch_count for one thread */
	void (*attention_forward)(const struct attention *a, size_t batch, size_t head,
				  float *scratch);
	void (*attention_backward)(const struct attention *a, size_t batch, size_t head,
				   float *scratch);
};

extern const struct simd simd_scalar, simd_avx2, simd_avx512;

/* The table for cpu_isa(). */
const struct simd *simd_get(void);

/*
 * Scratch of attention, in floats for one thread. Rows are padded to a vector plus another one, so
 * that rows 1024 floats apart do not all fall into the same cache sets.
 */
#define ATTENTION_QUERIES_BACKWARD 64u

static inline size_t attention_row(size_t seq)
{
	return (seq + 15) / 16 * 16 + 16;
}

#endif
