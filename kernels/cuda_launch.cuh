/*
 * What every .cu file begins with: launches, shared memory and bf16, for nvcc and for the host shim
 * of tests/cuda_host/, which compiles the same sources as C++. Written so that both agree:
 *
 * 1. Kernels are launched by CUDA_LAUNCH, and shared memory is declared by CUDA_SHARED and
 *    CUDA_SHARED_DYNAMIC, never bare: the shim poisons and bounds it.
 * 2. All threads of a block reach the same __syncthreads(), none having returned before.
 * 3. A product that is to be fused with a sum is written fmaf() or __fmaf_rn(), and nothing else is
 *    fused: nvcc is given -fmad=false, the host compiler -ffp-contract=off.
 */
#ifndef KERNELS_CUDA_LAUNCH_CUH
#define KERNELS_CUDA_LAUNCH_CUH

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __CUDACC__

/*
 * Launches a kernel (in parentheses when it is a template's instance: its commas); nothing is
 * returned: cudaPeekAtLastError() tells.
 */
#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                \
	kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

/* A block's array, CUDA_SHARED(float, tile, [32][33]), or object, CUDA_SHARED(float, sum, ). */
#define CUDA_SHARED(type, name, extents) __shared__ type name extents

/* A pointer to the launch's shared_bytes, aligned to 16. */
#define CUDA_SHARED_DYNAMIC(type, name)                                                            \
	extern __shared__ __align__(16) unsigned char cuda_shared_dynamic[];                       \
	type *const name = reinterpret_cast<type *>(cuda_shared_dynamic)

#else /* the shim */

#include <cuda_device.h>

#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                \
	shim_launch_kernel(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

#define CUDA_SHARED(type, name, extents)                                                           \
	typedef type name##_type extents;                                                          \
	static char name##_site;                                                                   \
	name##_type &name =                                                                        \
		*static_cast<name##_type *>(shim_shared(&name##_site, sizeof(name##_type)))

#define CUDA_SHARED_DYNAMIC(type, name)                                                            \
	type *const name = static_cast<type *>(shim_shared_dynamic())

#endif

/*
 * Before a loop whose bounds are constants and that indexes what is to stay in registers; and the
 * contrary, for what is seldom run.
 */
#ifdef __CUDACC__
#define CUDA_UNROLL    _Pragma("unroll")
#define CUDA_NO_UNROLL _Pragma("unroll 1")
#else
#define CUDA_UNROLL
#define CUDA_NO_UNROLL
#endif

/* Such a loop, with i from 0 to below count. */
#define CUDA_EACH(i, count) CUDA_UNROLL for (unsigned i = 0; i < (count); i++)

#define CUDA_WARP      32u
#define CUDA_WARP_FULL 0xffffffffu

/* bf16 with the bits of kernels/dtype.h. */
static __device__ __forceinline__ float cuda_bf16_to_float(uint16_t h)
{
	return __uint_as_float((unsigned)h << 16);
}

static __device__ __forceinline__ uint16_t cuda_bf16_from_float(float f)
{
	unsigned bits = __float_as_uint(f);

	if ((bits & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(bits >> 16 | 0x40u);
	return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
