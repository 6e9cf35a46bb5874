/* An 8 by 8 transpose in AVX2 registers, for the AVX2 and AVX-512 forms of vec_transpose_8. */
#ifndef KERNELS_TRANSPOSE_AVX2_H
#define KERNELS_TRANSPOSE_AVX2_H

#include <immintrin.h>
#include <stddef.h>

static inline __attribute__((always_inline)) void transpose_8_avx2(float *dst, size_t dst_row,
								   const float *src, size_t src_row)
{
	__m256 a[8], b[8];

	/* Row i with row i + 4 side by side, by halves: then the rest stays within 128 bits. */
	for (int i = 0; i < 4; i++) {
		__m256 top = _mm256_castps128_ps256(_mm_loadu_ps(src + (size_t)i * src_row));
		__m256 right = _mm256_castps128_ps256(_mm_loadu_ps(src + (size_t)i * src_row + 4));
		const float *low = src + (size_t)(i + 4) * src_row;

		a[i] = _mm256_insertf128_ps(top, _mm_loadu_ps(low), 1);
		a[i + 4] = _mm256_insertf128_ps(right, _mm_loadu_ps(low + 4), 1);
	}
	for (int i = 0; i < 8; i += 4) {
		b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
		b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
		b[i + 2] = _mm256_unpacklo_ps(a[i + 2], a[i + 3]);
		b[i + 3] = _mm256_unpackhi_ps(a[i + 2], a[i + 3]);
	}
	for (size_t i = 0; i < 8; i += 4) {
		_mm256_storeu_ps(dst + i * dst_row, _mm256_shuffle_ps(b[i], b[i + 2], 0x44));
		_mm256_storeu_ps(dst + (i + 1) * dst_row, _mm256_shuffle_ps(b[i], b[i + 2], 0xee));
		_mm256_storeu_ps(dst + (i + 2) * dst_row,
				 _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44));
		_mm256_storeu_ps(dst + (i + 3) * dst_row,
				 _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee));
	}
}

#endif
