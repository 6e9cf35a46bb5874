/* vec_scalar.h's sixteen lanes as one AVX-512 register: same names, same bits. */
#ifndef KERNELS_VEC_AVX512_H
#define KERNELS_VEC_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/transpose_avx2.h"

#define VEC_LANES  16u
#define VEC_INLINE static inline __attribute__((always_inline))
/* Sixteen accumulators hide four cycles of latency at two FMAs a cycle twice over. */
#define VEC_TILE_ROWS 8
#define VEC_TILE_VECS 2

struct vec {
	__m512 r;
};

struct vec_double {
	__m512d lo, hi;
};

VEC_INLINE __mmask16 vec_mask(size_t n)
{
	return (__mmask16)((1u << n) - 1);
}

VEC_INLINE struct vec vec_set(float x)
{
	return (struct vec){_mm512_set1_ps(x)};
}

VEC_INLINE struct vec vec_load(const float *p)
{
	return (struct vec){_mm512_loadu_ps(p)};
}

VEC_INLINE struct vec vec_load_n(const float *p, size_t n)
{
	return (struct vec){_mm512_maskz_loadu_ps(vec_mask(n), p)};
}

VEC_INLINE void vec_store(float *p, struct vec a)
{
	_mm512_storeu_ps(p, a.r);
}

VEC_INLINE void vec_store_n(float *p, struct vec a, size_t n)
{
	_mm512_mask_storeu_ps(p, vec_mask(n), a.r);
}

#define VEC_LANEWISE(name, op)                                                                     \
	VEC_INLINE struct vec name(struct vec a, struct vec b)                                     \
	{                                                                                          \
		return (struct vec){op(a.r, b.r)};                                                 \
	}
VEC_LANEWISE(vec_add, _mm512_add_ps)
VEC_LANEWISE(vec_sub, _mm512_sub_ps)
VEC_LANEWISE(vec_mul, _mm512_mul_ps)
VEC_LANEWISE(vec_div, _mm512_div_ps)
VEC_LANEWISE(vec_max, _mm512_max_ps)
VEC_LANEWISE(vec_min, _mm512_min_ps)
#undef VEC_LANEWISE

VEC_INLINE struct vec vec_sqrt(struct vec a)
{
	return (struct vec){_mm512_sqrt_ps(a.r)};
}

VEC_INLINE struct vec vec_opaque(struct vec a)
{
	__asm__ volatile("" : "+v"(a.r));
	return a;
}

VEC_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
	return (struct vec){_mm512_fmadd_ps(a.r, b.r, c.r)};
}

VEC_INLINE struct vec vec_select_less(struct vec a, struct vec b, struct vec x, struct vec y)
{
	__mmask16 less = _mm512_cmp_ps_mask(a.r, b.r, _CMP_LT_OQ);

	return (struct vec){_mm512_mask_blend_ps(less, y.r, x.r)};
}

VEC_INLINE struct vec vec_keep(struct vec a, size_t n)
{
	return (struct vec){_mm512_maskz_mov_ps(vec_mask(n), a.r)};
}

VEC_INLINE struct vec vec_blend(struct vec a, struct vec b, size_t n)
{
	return (struct vec){_mm512_mask_blend_ps(vec_mask(n), b.r, a.r)};
}

VEC_INLINE struct vec vec_shift_23(struct vec a)
{
	__m512i bits = _mm512_slli_epi32(_mm512_castps_si512(a.r), 23);

	return (struct vec){_mm512_castsi512_ps(bits)};
}

VEC_INLINE float vec_sum(struct vec a)
{
	__m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a.r), _mm512_extractf32x8_ps(a.r, 1));
	__m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
	__m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));

	return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

VEC_INLINE float vec_greatest(struct vec a)
{
	__m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a.r), _mm512_extractf32x8_ps(a.r, 1));
	__m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
	__m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));

	return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

VEC_INLINE struct vec vec_widen_bf16(__m256i h)
{
	__m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);

	return (struct vec){_mm512_castsi512_ps(bits)};
}

VEC_INLINE struct vec vec_load_bf16(const uint16_t *p)
{
	return vec_widen_bf16(_mm256_loadu_si256((const __m256i *)p));
}

VEC_INLINE struct vec vec_load_bf16_n(const uint16_t *p, size_t n)
{
	return vec_widen_bf16(_mm256_maskz_loadu_epi16(vec_mask(n), p));
}

/* bf16_from_float */
VEC_INLINE __m256i vec_narrow_bf16(struct vec a)
{
	__m512i bits = _mm512_castps_si512(a.r);
	__m512i upper = _mm512_srli_epi32(bits, 16);
	__m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
	__m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
	__m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
	__mmask16 nan = _mm512_cmp_ps_mask(a.r, a.r, _CMP_UNORD_Q);

	sum = _mm512_mask_blend_epi32(nan, _mm512_srli_epi32(sum, 16), quiet);
	return _mm512_cvtepi32_epi16(sum);
}

VEC_INLINE void vec_store_bf16(uint16_t *p, struct vec a)
{
	_mm256_storeu_si256((__m256i *)p, vec_narrow_bf16(a));
}

VEC_INLINE void vec_store_bf16_n(uint16_t *p, struct vec a, size_t n)
{
	_mm256_mask_storeu_epi16(p, vec_mask(n), vec_narrow_bf16(a));
}

VEC_INLINE struct vec vec_join_bits(__m256i hi, __m256i lo)
{
	__m512i h = _mm512_slli_epi32(_mm512_cvtepu16_epi32(hi), 16);

	return (struct vec){_mm512_castsi512_ps(_mm512_add_epi32(h, _mm512_cvtepi16_epi32(lo)))};
}

VEC_INLINE struct vec vec_join(const uint16_t *hi, const int16_t *lo)
{
	return vec_join_bits(_mm256_loadu_si256((const __m256i *)hi),
			     _mm256_loadu_si256((const __m256i *)lo));
}

VEC_INLINE struct vec vec_join_n(const uint16_t *hi, const int16_t *lo, size_t n)
{
	return vec_join_bits(_mm256_maskz_loadu_epi16(vec_mask(n), hi),
			     _mm256_maskz_loadu_epi16(vec_mask(n), lo));
}

VEC_INLINE __m256i vec_upper(struct vec a)
{
	__m512i sum = _mm512_add_epi32(_mm512_castps_si512(a.r), _mm512_set1_epi32(0x8000));

	return _mm512_cvtepi32_epi16(_mm512_srli_epi32(sum, 16));
}

VEC_INLINE __m256i vec_lower(struct vec a)
{
	return _mm512_cvtepi32_epi16(_mm512_castps_si512(a.r));
}

VEC_INLINE void vec_split(uint16_t *hi, int16_t *lo, struct vec a)
{
	_mm256_storeu_si256((__m256i *)hi, vec_upper(a));
	_mm256_storeu_si256((__m256i *)lo, vec_lower(a));
}

VEC_INLINE void vec_split_n(uint16_t *hi, int16_t *lo, struct vec a, size_t n)
{
	_mm256_mask_storeu_epi16(hi, vec_mask(n), vec_upper(a));
	_mm256_mask_storeu_epi16(lo, vec_mask(n), vec_lower(a));
}

VEC_INLINE struct vec_double vec_double_zero(void)
{
	return (struct vec_double){_mm512_setzero_pd(), _mm512_setzero_pd()};
}

VEC_INLINE struct vec_double vec_double_add_square(struct vec_double acc, struct vec a)
{
	__m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(a.r));
	__m512d hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.r, 1));

	return (struct vec_double){_mm512_fmadd_pd(lo, lo, acc.lo),
				   _mm512_fmadd_pd(hi, hi, acc.hi)};
}

VEC_INLINE struct vec_double vec_double_add(struct vec_double acc, struct vec a)
{
	__m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(a.r));
	__m512d hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.r, 1));

	return (struct vec_double){_mm512_add_pd(acc.lo, lo), _mm512_add_pd(acc.hi, hi)};
}

VEC_INLINE void vec_double_store(double *p, struct vec_double a)
{
	_mm512_storeu_pd(p, a.lo);
	_mm512_storeu_pd(p + 8, a.hi);
}

VEC_INLINE void vec_transpose_8(float *dst, size_t dst_row, const float *src, size_t src_row)
{
	transpose_8_avx2(dst, dst_row, src, src_row);
}

VEC_INLINE struct vec vec_of_bits(__m512i bits)
{
	return (struct vec){_mm512_castsi512_ps(bits)};
}

VEC_INLINE struct vec vec_set_bits(uint32_t x)
{
	return vec_of_bits(_mm512_set1_epi32((int)x));
}

VEC_INLINE struct vec vec_count_bits(uint32_t first)
{
	const __m512i sixteen =
		_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);

	return vec_of_bits(_mm512_add_epi32(_mm512_set1_epi32((int)first), sixteen));
}

#define VEC_BITWISE(name, op)                                                                      \
	VEC_INLINE struct vec name(struct vec a, struct vec b)                                     \
	{                                                                                          \
		return vec_of_bits(op(_mm512_castps_si512(a.r), _mm512_castps_si512(b.r)));        \
	}
VEC_BITWISE(vec_and_bits, _mm512_and_si512)
VEC_BITWISE(vec_or_bits, _mm512_or_si512)
VEC_BITWISE(vec_xor_bits, _mm512_xor_si512)
VEC_BITWISE(vec_add_bits, _mm512_add_epi32)
VEC_BITWISE(vec_mul_bits, _mm512_mullo_epi32)
#undef VEC_BITWISE

VEC_INLINE struct vec vec_shift_right(struct vec a, int count)
{
	return vec_of_bits(_mm512_srli_epi32(_mm512_castps_si512(a.r), (unsigned)count));
}

VEC_INLINE struct vec vec_select_nan(struct vec a, struct vec x, struct vec y)
{
	__mmask16 nan = _mm512_cmp_ps_mask(a.r, a.r, _CMP_UNORD_Q);

	return (struct vec){_mm512_mask_blend_ps(nan, y.r, x.r)};
}

VEC_INLINE struct vec vec_rank_7(struct vec a, const float thresholds[7])
{
	const __m512i one = _mm512_set1_epi32(1);
	__m512i rank = _mm512_setzero_si512();

	for (unsigned k = 0; k < 7; k++) {
		__m512 t = _mm512_set1_ps(thresholds[k]);
		__mmask16 reached = _mm512_cmp_ps_mask(a.r, t, _CMP_GE_OQ);

		rank = _mm512_mask_add_epi32(rank, reached, rank, one);
	}
	return vec_of_bits(rank);
}

VEC_INLINE struct vec vec_lookup_8(const float table[8], struct vec bits)
{
	/* Twice the table: the index counts modulo 16. */
	__m512 t = _mm512_broadcast_f32x8(_mm256_loadu_ps(table));

	return (struct vec){_mm512_permutexvar_ps(_mm512_castps_si512(bits.r), t)};
}

VEC_INLINE __m256i vec_cut_upper(struct vec a)
{
	return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(a.r), 16));
}

VEC_INLINE void vec_store_upper(uint16_t *p, struct vec a)
{
	_mm256_storeu_si256((__m256i *)p, vec_cut_upper(a));
}

VEC_INLINE void vec_store_upper_n(uint16_t *p, struct vec a, size_t n)
{
	_mm256_mask_storeu_epi16(p, vec_mask(n), vec_cut_upper(a));
}

VEC_INLINE struct vec vec_load_bytes(const uint8_t *p)
{
	__m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));

	return (struct vec){_mm512_cvtepi32_ps(wide)};
}

VEC_INLINE void vec_store_bytes(uint8_t *p, struct vec a)
{
	_mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_castps_si512(a.r)));
}

#endif
