/* Element-wise work on host memory, in the calling thread: the daemon's and the collectives'. */
#include "kernels/vector.h"

#include "kernels/simd.h"

void vector_host_convert(void *out, enum dtype out_type, const void *a, enum dtype a_type,
			 size_t count)
{
	if (out_type == a_type)
		memcpy(out, a, count * dtype_bytes(a_type));
	else if (a_type == DTYPE_BF16)
		simd_get()->widen(out, a, count);
	else
		simd_get()->narrow(out, a, count);
}

void vector_host_accumulate(float *out, const void *a, enum dtype a_type, size_t count)
{
	simd_get()->accumulate(out, a, a_type, count);
}

void vector_host_sumsq(double *blocks, const void *a, enum dtype a_type, size_t count)
{
	const uint8_t *p = a;

	for (size_t i = 0; i < count; i += VECTOR_BLOCK) {
		size_t left = count - i, n = left < VECTOR_BLOCK ? left : VECTOR_BLOCK;

		blocks[i / VECTOR_BLOCK] =
			simd_get()->sumsq(p + i * dtype_bytes(a_type), a_type, n);
	}
}

void vector_host_sum(float *out, const float *const *src, size_t src_count, size_t count)
{
	simd_get()->sum(out, src, src_count, count);
}
