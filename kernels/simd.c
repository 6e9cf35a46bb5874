/* Chooses the row kernels. Called from any thread. */
#include "kernels/simd.h"

static const struct simd *const tables[CPU_ISA_COUNT] = {
	[CPU_SCALAR] = &simd_scalar,
	[CPU_AVX2] = &simd_avx2,
	[CPU_AVX512] = &simd_avx512,
};

const struct simd *simd_get(void)
{
	return tables[cpu_isa()];
}
