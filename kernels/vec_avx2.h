/* vec_scalar.h's sixteen lanes as two AVX2 registers: same names, same bits. */
#ifndef KERNELS_VEC_AVX2_H
#define KERNELS_VEC_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/transpose_avx2.h"

#define VEC_LANES  16u
#define VEC_INLINE static inline __attribute__((always_inline))
/* Eight registers of accumulators, two of b, one broadcast: of sixteen. */
#define VEC_TILE_ROWS 4
#define VEC_TILE_VECS 1

struct vec {
	__m256 lo, hi;
};

struct vec_double {
	__m256d q[4];
};

VEC_INLINE __m256i vec_mask_8(size_t n)
{
	static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

	return _mm256_loadu_si256((const __m256i *)(ones + 8 - n));
}

VEC_INLINE __m256i vec_mask_lo(size_t n)
{
	return vec_mask_8(n < 8 ? n : 8);
}

VEC_INLINE __m256i vec_mask_hi(size_t n)
{
	return vec_mask_8(n < 8 ? 0 : n - 8);
}

VEC_INLINE struct vec vec_set(float x)
{
	return (struct vec){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

VEC_INLINE struct vec vec_load(const float *p)
{
	return (struct vec){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

VEC_INLINE struct vec vec_load_n(const float *p, size_t n)
{
	struct vec r = {_mm256_maskload_ps(p, vec_mask_lo(n)), _mm256_setzero_ps()};

	if (n > 8)
		r.hi = _mm256_maskload_ps(p + 8, vec_mask_hi(n));
	return r;
}

VEC_INLINE void vec_store(float *p, struct vec a)
{
	_mm256_storeu_ps(p, a.lo);
	_mm256_storeu_ps(p + 8, a.hi);
}

VEC_INLINE void vec_store_n(float *p, struct vec a, size_t n)
{
	_mm256_maskstore_ps(p, vec_mask_lo(n), a.lo);
	if (n > 8)
		_mm256_maskstore_ps(p + 8, vec_mask_hi(n), a.hi);
}

#define VEC_LANEWISE(name, op)                                                                     \
	VEC_INLINE struct vec name(struct vec a, struct vec b)                                     \
	{                                                                                          \
		return (struct vec){op(a.lo, b.lo), op(a.hi, b.hi)};                               \
	}
VEC_LANEWISE(vec_add, _mm256_add_ps)
VEC_LANEWISE(vec_sub, _mm256_sub_ps)
VEC_LANEWISE(vec_mul, _mm256_mul_ps)
VEC_LANEWISE(vec_div, _mm256_div_ps)
VEC_LANEWISE(vec_max, _mm256_max_ps)
VEC_LANEWISE(vec_min, _mm256_min_ps)
#undef VEC_LANEWISE

VEC_INLINE struct vec vec_sqrt(struct vec a)
{
	return (struct vec){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}

VEC_INLINE struct vec vec_opaque(struct vec a)
{
	__asm__ volatile("" : "+x"(a.lo), "+x"(a.hi));
	return a;
}

VEC_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
	return (struct vec){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

VEC_INLINE struct vec vec_select_less(struct vec a, struct vec b, struct vec x, struct vec y)
{
	__m256 lo = _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ);
	__m256 hi = _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ);

	return (struct vec){_mm256_blendv_ps(y.lo, x.lo, lo), _mm256_blendv_ps(y.hi, x.hi, hi)};
}

VEC_INLINE struct vec vec_blend(struct vec a, struct vec b, size_t n)
{
	__m256 lo = _mm256_castsi256_ps(vec_mask_lo(n));
	__m256 hi = _mm256_castsi256_ps(vec_mask_hi(n));

	return (struct vec){_mm256_blendv_ps(b.lo, a.lo, lo), _mm256_blendv_ps(b.hi, a.hi, hi)};
}

VEC_INLINE struct vec vec_keep(struct vec a, size_t n)
{
	return vec_blend(a, vec_set(0.0f), n);
}

VEC_INLINE struct vec vec_shift_23(struct vec a)
{
	__m256i lo = _mm256_slli_epi32(_mm256_castps_si256(a.lo), 23);
	__m256i hi = _mm256_slli_epi32(_mm256_castps_si256(a.hi), 23);

	return (struct vec){_mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi)};
}

VEC_INLINE float vec_sum(struct vec a)
{
	__m256 s8 = _mm256_add_ps(a.lo, a.hi);
	__m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
	__m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));

	return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

VEC_INLINE float vec_greatest(struct vec a)
{
	__m256 s8 = _mm256_max_ps(a.lo, a.hi);
	__m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
	__m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));

	return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

VEC_INLINE __m256 vec_widen_bf16(__m128i h)
{
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

VEC_INLINE struct vec vec_load_bf16(const uint16_t *p)
{
	return (struct vec){vec_widen_bf16(_mm_loadu_si128((const __m128i *)p)),
			    vec_widen_bf16(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

VEC_INLINE struct vec vec_load_bf16_n(const uint16_t *p, size_t n)
{
	uint16_t tail[VEC_LANES] = {0};

	memcpy(tail, p, n * sizeof(*p));
	return vec_load_bf16(tail);
}

/* bf16_from_float, in the low half of each lane */
VEC_INLINE __m256i vec_narrow_bf16(__m256 a)
{
	__m256i bits = _mm256_castps_si256(a);
	__m256i upper = _mm256_srli_epi32(bits, 16);
	__m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
	__m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
	__m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
	__m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);

	return _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, _mm256_castps_si256(nan));
}

/* The low halves of sixteen 32-bit lanes, in order; each is below 2^16. */
VEC_INLINE __m256i vec_pack_halves(__m256i lo, __m256i hi)
{
	return _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xd8);
}

VEC_INLINE void vec_store_bf16(uint16_t *p, struct vec a)
{
	__m256i packed = vec_pack_halves(vec_narrow_bf16(a.lo), vec_narrow_bf16(a.hi));

	_mm256_storeu_si256((__m256i *)p, packed);
}

VEC_INLINE void vec_store_bf16_n(uint16_t *p, struct vec a, size_t n)
{
	uint16_t tail[VEC_LANES];

	vec_store_bf16(tail, a);
	memcpy(p, tail, n * sizeof(*p));
}

VEC_INLINE __m256 vec_join_8(const uint16_t *hi, const int16_t *lo)
{
	__m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)hi));
	__m256i l = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)lo));

	return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(h, 16), l));
}

VEC_INLINE struct vec vec_join(const uint16_t *hi, const int16_t *lo)
{
	return (struct vec){vec_join_8(hi, lo), vec_join_8(hi + 8, lo + 8)};
}

VEC_INLINE struct vec vec_join_n(const uint16_t *hi, const int16_t *lo, size_t n)
{
	uint16_t hi_tail[VEC_LANES] = {0};
	int16_t lo_tail[VEC_LANES] = {0};

	memcpy(hi_tail, hi, n * sizeof(*hi));
	memcpy(lo_tail, lo, n * sizeof(*lo));
	return vec_join(hi_tail, lo_tail);
}

VEC_INLINE __m256i vec_round_half(__m256 a)
{
	__m256i sum = _mm256_add_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(0x8000));

	return _mm256_srli_epi32(sum, 16);
}

VEC_INLINE void vec_split(uint16_t *hi, int16_t *lo, struct vec a)
{
	__m256i low = _mm256_set1_epi32(0xffff);
	__m256i l = vec_pack_halves(_mm256_and_si256(_mm256_castps_si256(a.lo), low),
				    _mm256_and_si256(_mm256_castps_si256(a.hi), low));

	_mm256_storeu_si256((__m256i *)lo, l);
	_mm256_storeu_si256((__m256i *)hi,
			    vec_pack_halves(vec_round_half(a.lo), vec_round_half(a.hi)));
}

VEC_INLINE void vec_split_n(uint16_t *hi, int16_t *lo, struct vec a, size_t n)
{
	uint16_t hi_tail[VEC_LANES];
	int16_t lo_tail[VEC_LANES];

	vec_split(hi_tail, lo_tail, a);
	memcpy(hi, hi_tail, n * sizeof(*hi));
	memcpy(lo, lo_tail, n * sizeof(*lo));
}

VEC_INLINE struct vec_double vec_double_zero(void)
{
	__m256d zero = _mm256_setzero_pd();

	return (struct vec_double){{zero, zero, zero, zero}};
}

VEC_INLINE struct vec_double vec_widen_double(struct vec a)
{
	return (struct vec_double){{_mm256_cvtps_pd(_mm256_castps256_ps128(a.lo)),
				    _mm256_cvtps_pd(_mm256_extractf128_ps(a.lo, 1)),
				    _mm256_cvtps_pd(_mm256_castps256_ps128(a.hi)),
				    _mm256_cvtps_pd(_mm256_extractf128_ps(a.hi, 1))}};
}

VEC_INLINE struct vec_double vec_double_add_square(struct vec_double acc, struct vec a)
{
	struct vec_double d = vec_widen_double(a);

	return (struct vec_double){{_mm256_fmadd_pd(d.q[0], d.q[0], acc.q[0]),
				    _mm256_fmadd_pd(d.q[1], d.q[1], acc.q[1]),
				    _mm256_fmadd_pd(d.q[2], d.q[2], acc.q[2]),
				    _mm256_fmadd_pd(d.q[3], d.q[3], acc.q[3])}};
}

VEC_INLINE struct vec_double vec_double_add(struct vec_double acc, struct vec a)
{
	struct vec_double d = vec_widen_double(a);

	return (struct vec_double){
		{_mm256_add_pd(acc.q[0], d.q[0]), _mm256_add_pd(acc.q[1], d.q[1]),
		 _mm256_add_pd(acc.q[2], d.q[2]), _mm256_add_pd(acc.q[3], d.q[3])}};
}

VEC_INLINE void vec_double_store(double *p, struct vec_double a)
{
	_mm256_storeu_pd(p, a.q[0]);
	_mm256_storeu_pd(p + 4, a.q[1]);
	_mm256_storeu_pd(p + 8, a.q[2]);
	_mm256_storeu_pd(p + 12, a.q[3]);
}

VEC_INLINE void vec_transpose_8(float *dst, size_t dst_row, const float *src, size_t src_row)
{
	transpose_8_avx2(dst, dst_row, src, src_row);
}

VEC_INLINE struct vec vec_of_bits(__m256i lo, __m256i hi)
{
	return (struct vec){_mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi)};
}

VEC_INLINE struct vec vec_set_bits(uint32_t x)
{
	return vec_of_bits(_mm256_set1_epi32((int)x), _mm256_set1_epi32((int)x));
}

VEC_INLINE struct vec vec_count_bits(uint32_t first)
{
	const __m256i eight = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

	return vec_of_bits(_mm256_add_epi32(_mm256_set1_epi32((int)first), eight),
			   _mm256_add_epi32(_mm256_set1_epi32((int)(first + 8)), eight));
}

#define VEC_BITWISE(name, op)                                                                      \
	VEC_INLINE struct vec name(struct vec a, struct vec b)                                     \
	{                                                                                          \
		return vec_of_bits(op(_mm256_castps_si256(a.lo), _mm256_castps_si256(b.lo)),       \
				   op(_mm256_castps_si256(a.hi), _mm256_castps_si256(b.hi)));      \
	}
VEC_BITWISE(vec_and_bits, _mm256_and_si256)
VEC_BITWISE(vec_or_bits, _mm256_or_si256)
VEC_BITWISE(vec_xor_bits, _mm256_xor_si256)
VEC_BITWISE(vec_add_bits, _mm256_add_epi32)
VEC_BITWISE(vec_mul_bits, _mm256_mullo_epi32)
#undef VEC_BITWISE

VEC_INLINE struct vec vec_shift_right(struct vec a, int count)
{
	return vec_of_bits(_mm256_srli_epi32(_mm256_castps_si256(a.lo), count),
			   _mm256_srli_epi32(_mm256_castps_si256(a.hi), count));
}

VEC_INLINE struct vec vec_select_nan(struct vec a, struct vec x, struct vec y)
{
	__m256 lo = _mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q);
	__m256 hi = _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q);

	return (struct vec){_mm256_blendv_ps(y.lo, x.lo, lo), _mm256_blendv_ps(y.hi, x.hi, hi)};
}

VEC_INLINE struct vec vec_rank_7(struct vec a, const float thresholds[7])
{
	__m256i lo = _mm256_setzero_si256(), hi = lo;

	for (unsigned k = 0; k < 7; k++) {
		__m256 t = _mm256_set1_ps(thresholds[k]);
		__m256 reached_lo = _mm256_cmp_ps(a.lo, t, _CMP_GE_OQ);
		__m256 reached_hi = _mm256_cmp_ps(a.hi, t, _CMP_GE_OQ);

		/* A comparison that holds is -1. */
		lo = _mm256_sub_epi32(lo, _mm256_castps_si256(reached_lo));
		hi = _mm256_sub_epi32(hi, _mm256_castps_si256(reached_hi));
	}
	return vec_of_bits(lo, hi);
}

VEC_INLINE struct vec vec_lookup_8(const float table[8], struct vec bits)
{
	__m256 t = _mm256_loadu_ps(table);

	return (struct vec){_mm256_permutevar8x32_ps(t, _mm256_castps_si256(bits.lo)),
			    _mm256_permutevar8x32_ps(t, _mm256_castps_si256(bits.hi))};
}

VEC_INLINE void vec_store_upper(uint16_t *p, struct vec a)
{
	__m256i lo = _mm256_srli_epi32(_mm256_castps_si256(a.lo), 16);
	__m256i hi = _mm256_srli_epi32(_mm256_castps_si256(a.hi), 16);

	_mm256_storeu_si256((__m256i *)p, vec_pack_halves(lo, hi));
}

VEC_INLINE void vec_store_upper_n(uint16_t *p, struct vec a, size_t n)
{
	uint16_t tail[VEC_LANES];

	vec_store_upper(tail, a);
	memcpy(p, tail, n * sizeof(*p));
}

VEC_INLINE struct vec vec_load_bytes(const uint8_t *p)
{
	__m128i bytes = _mm_loadu_si128((const __m128i *)p);
	__m256i lo = _mm256_cvtepu8_epi32(bytes);
	__m256i hi = _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes));

	return (struct vec){_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi)};
}

VEC_INLINE void vec_store_bytes(uint8_t *p, struct vec a)
{
	__m256i low = _mm256_set1_epi32(0xff);
	__m256i halves = vec_pack_halves(_mm256_and_si256(_mm256_castps_si256(a.lo), low),
					 _mm256_and_si256(_mm256_castps_si256(a.hi), low));
	__m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(halves),
					 _mm256_extracti128_si256(halves, 1));

	_mm_storeu_si128((__m128i *)p, bytes);
}

#endif
