/*
 * Sixteen fp32 lanes in plain C: the specification of vec_avx2.h and vec_avx512.h, which offer the
 * same names and give the same bits. The bodies (*_body.h) are written against these names and
 * compiled three times. A tail is a vector whose missing lanes read as zero and are not stored.
 */
#ifndef KERNELS_VEC_SCALAR_H
#define KERNELS_VEC_SCALAR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

#define VEC_LANES  16u
#define VEC_INLINE static inline __attribute__((always_inline))
/* Register tile of attention_body.h: rows and vectors of accumulators. */
#define VEC_TILE_ROWS 2
#define VEC_TILE_VECS 1

struct vec {
	float l[VEC_LANES];
};

struct vec_double {
	double l[VEC_LANES];
};

/* Integer vectors carry bit patterns of floats, 32 bits a lane. */
VEC_INLINE uint32_t vec_bits(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	return bits;
}

VEC_INLINE float vec_float(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

VEC_INLINE struct vec vec_set(float x)
{
	struct vec r;

	for (unsigned i = 0; i < VEC_LANES; i++)
		r.l[i] = x;
	return r;
}

VEC_INLINE struct vec vec_load(const float *p)
{
	struct vec r;

	memcpy(r.l, p, sizeof(r.l));
	return r;
}

VEC_INLINE struct vec vec_load_n(const float *p, size_t n)
{
	struct vec r = vec_set(0.0f);

	for (size_t i = 0; i < n; i++)
		r.l[i] = p[i];
	return r;
}

VEC_INLINE void vec_store(float *p, struct vec a)
{
	memcpy(p, a.l, sizeof(a.l));
}

VEC_INLINE void vec_store_n(float *p, struct vec a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = a.l[i];
}

#define VEC_LANEWISE(name, expr)                                                                   \
	VEC_INLINE struct vec name(struct vec a, struct vec b)                                     \
	{                                                                                          \
		struct vec r;                                                                      \
		for (unsigned i = 0; i < VEC_LANES; i++)                                           \
			r.l[i] = (expr);                                                           \
		return r;                                                                          \
	}
VEC_LANEWISE(vec_add, a.l[i] + b.l[i])
VEC_LANEWISE(vec_sub, a.l[i] - b.l[i])
VEC_LANEWISE(vec_mul, a.l[i] * b.l[i])
VEC_LANEWISE(vec_div, a.l[i] / b.l[i])
/* As maxps and minps: the second operand when either is NaN. */
VEC_LANEWISE(vec_max, a.l[i] > b.l[i] ? a.l[i] : b.l[i])
VEC_LANEWISE(vec_min, a.l[i] < b.l[i] ? a.l[i] : b.l[i])
#undef VEC_LANEWISE

VEC_INLINE struct vec vec_sqrt(struct vec a)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		a.l[i] = sqrtf(a.l[i]);
	return a;
}

/* a itself, but the compiler does not know: for traffic that must not be optimised away. */
VEC_INLINE struct vec vec_opaque(struct vec a)
{
	__asm__ volatile("" : "+m"(a));
	return a;
}

/* a * b + c, rounded once */
VEC_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		c.l[i] = fmaf(a.l[i], b.l[i], c.l[i]);
	return c;
}

/* a < b ? x : y, lane by lane */
VEC_INLINE struct vec vec_select_less(struct vec a, struct vec b, struct vec x, struct vec y)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		y.l[i] = a.l[i] < b.l[i] ? x.l[i] : y.l[i];
	return y;
}

/* The first n lanes of a, zero in the others. */
VEC_INLINE struct vec vec_keep(struct vec a, size_t n)
{
	for (size_t i = n; i < VEC_LANES; i++)
		a.l[i] = 0.0f;
	return a;
}

/* The first n lanes of a, b in the others. */
VEC_INLINE struct vec vec_blend(struct vec a, struct vec b, size_t n)
{
	for (size_t i = n; i < VEC_LANES; i++)
		a.l[i] = b.l[i];
	return a;
}

/* The float whose exponent field is the low nine bits of a's pattern: see vec_exp. */
VEC_INLINE struct vec vec_shift_23(struct vec a)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		a.l[i] = vec_float(vec_bits(a.l[i]) << 23);
	return a;
}

/* Sum of the lanes as a tree: i with i+8, then i+4, i+2, i+1. */
VEC_INLINE float vec_sum(struct vec a)
{
	for (unsigned half = VEC_LANES / 2; half > 0; half /= 2)
		for (unsigned i = 0; i < half; i++)
			a.l[i] += a.l[i + half];
	return a.l[0];
}

VEC_INLINE float vec_greatest(struct vec a)
{
	for (unsigned half = VEC_LANES / 2; half > 0; half /= 2)
		for (unsigned i = 0; i < half; i++)
			a.l[i] = a.l[i] > a.l[i + half] ? a.l[i] : a.l[i + half];
	return a.l[0];
}

VEC_INLINE struct vec vec_load_bf16_n(const uint16_t *p, size_t n)
{
	struct vec r = vec_set(0.0f);

	for (size_t i = 0; i < n; i++)
		r.l[i] = bf16_to_float(p[i]);
	return r;
}

VEC_INLINE struct vec vec_load_bf16(const uint16_t *p)
{
	return vec_load_bf16_n(p, VEC_LANES);
}

VEC_INLINE void vec_store_bf16_n(uint16_t *p, struct vec a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = bf16_from_float(a.l[i]);
}

VEC_INLINE void vec_store_bf16(uint16_t *p, struct vec a)
{
	vec_store_bf16_n(p, a, VEC_LANES);
}

/* bf16_join and bf16_split, lane by lane */
VEC_INLINE struct vec vec_join_n(const uint16_t *hi, const int16_t *lo, size_t n)
{
	struct vec r = vec_set(0.0f);

	for (size_t i = 0; i < n; i++)
		r.l[i] = bf16_join(hi[i], lo[i]);
	return r;
}

VEC_INLINE struct vec vec_join(const uint16_t *hi, const int16_t *lo)
{
	return vec_join_n(hi, lo, VEC_LANES);
}

VEC_INLINE void vec_split_n(uint16_t *hi, int16_t *lo, struct vec a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		bf16_split(a.l[i], &hi[i], &lo[i]);
}

VEC_INLINE void vec_split(uint16_t *hi, int16_t *lo, struct vec a)
{
	vec_split_n(hi, lo, a, VEC_LANES);
}

VEC_INLINE struct vec_double vec_double_zero(void)
{
	struct vec_double r;

	for (unsigned i = 0; i < VEC_LANES; i++)
		r.l[i] = 0.0;
	return r;
}

/* acc + (double)a * a: the product is exact, so fused or not is the same */
VEC_INLINE struct vec_double vec_double_add_square(struct vec_double acc, struct vec a)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		acc.l[i] += (double)a.l[i] * (double)a.l[i];
	return acc;
}

VEC_INLINE struct vec_double vec_double_add(struct vec_double acc, struct vec a)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		acc.l[i] += (double)a.l[i];
	return acc;
}

VEC_INLINE void vec_double_store(double *p, struct vec_double a)
{
	memcpy(p, a.l, sizeof(a.l));
}

/* dst[i * dst_row + j] = src[j * src_row + i] for an 8 by 8 block */
VEC_INLINE void vec_transpose_8(float *dst, size_t dst_row, const float *src, size_t src_row)
{
	for (size_t i = 0; i < 8; i++)
		for (size_t j = 0; j < 8; j++)
			dst[i * dst_row + j] = src[j * src_row + i];
}

/* The lanes as 32-bit patterns: arithmetic modulo 2^32. */
VEC_INLINE struct vec vec_set_bits(uint32_t x)
{
	return vec_set(vec_float(x));
}

/* Patterns first, first + 1, ... */
VEC_INLINE struct vec vec_count_bits(uint32_t first)
{
	struct vec r;

	for (uint32_t i = 0; i < VEC_LANES; i++)
		r.l[i] = vec_float(first + i);
	return r;
}

#define VEC_BITWISE(name, op)                                                                      \
	VEC_INLINE struct vec name(struct vec a, struct vec b)                                     \
	{                                                                                          \
		for (unsigned i = 0; i < VEC_LANES; i++)                                           \
			a.l[i] = vec_float(vec_bits(a.l[i]) op vec_bits(b.l[i]));                  \
		return a;                                                                          \
	}
VEC_BITWISE(vec_and_bits, &)
VEC_BITWISE(vec_or_bits, |)
VEC_BITWISE(vec_xor_bits, ^)
VEC_BITWISE(vec_add_bits, +)
VEC_BITWISE(vec_mul_bits, *)
#undef VEC_BITWISE

/* Zeros come in from above. 0 <= count < 32 */
VEC_INLINE struct vec vec_shift_right(struct vec a, int count)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		a.l[i] = vec_float(vec_bits(a.l[i]) >> count);
	return a;
}

/* a is NaN ? x : y, lane by lane */
VEC_INLINE struct vec vec_select_nan(struct vec a, struct vec x, struct vec y)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		y.l[i] = isnan(a.l[i]) ? x.l[i] : y.l[i];
	return y;
}

/* How many of seven ascending thresholds a lane has reached, as its pattern; 0 if it is NaN. */
VEC_INLINE struct vec vec_rank_7(struct vec a, const float thresholds[7])
{
	struct vec r;

	for (unsigned i = 0; i < VEC_LANES; i++) {
		uint32_t rank = 0;

		for (unsigned k = 0; k < 7; k++)
			rank += a.l[i] >= thresholds[k];
		r.l[i] = vec_float(rank);
	}
	return r;
}

/* The entry of each lane's pattern modulo 8 */
VEC_INLINE struct vec vec_lookup_8(const float table[8], struct vec bits)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		bits.l[i] = table[vec_bits(bits.l[i]) & 7];
	return bits;
}

/* The upper halves of patterns, cut off */
VEC_INLINE void vec_store_upper_n(uint16_t *p, struct vec a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint16_t)(vec_bits(a.l[i]) >> 16);
}

VEC_INLINE void vec_store_upper(uint16_t *p, struct vec a)
{
	vec_store_upper_n(p, a, VEC_LANES);
}

/* Bytes as numbers */
VEC_INLINE struct vec vec_load_bytes(const uint8_t *p)
{
	struct vec r;

	for (unsigned i = 0; i < VEC_LANES; i++)
		r.l[i] = (float)p[i];
	return r;
}

/* The lowest byte of each lane's pattern */
VEC_INLINE void vec_store_bytes(uint8_t *p, struct vec a)
{
	for (unsigned i = 0; i < VEC_LANES; i++)
		p[i] = (uint8_t)vec_bits(a.l[i]);
}

#endif
