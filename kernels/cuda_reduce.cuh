/*
 * Sums and maxima over the threads of a warp or block, in a fixed order: the same bits every run,
 * and in every thread that takes part.
 */
#ifndef KERNELS_CUDA_REDUCE_CUH
#define KERNELS_CUDA_REDUCE_CUH

#include "kernels/cuda_launch.cuh"

struct cuda_sum {
	template <typename T> static __device__ __forceinline__ T of(T a, T b)
	{
		return a + b;
	}
};

/* A NaN is lost: it comes out in the sum that follows. */
struct cuda_greatest {
	template <typename T> static __device__ __forceinline__ T of(T a, T b)
	{
		return a > b ? a : b;
	}
};

template <typename Op, typename T> __device__ __forceinline__ T warp_reduce(T x)
{
#pragma unroll
	for (int bits = 16; bits > 0; bits /= 2)
		x = Op::of(x, __shfl_xor_sync(CUDA_WARP_FULL, x, bits));
	return x;
}

/*
 * Over the threads of a row of the block: blockDim.x of them, whole warps. Rows of more than a warp
 * are alone in their block (blockDim.y is 1), and all its threads call this.
 */
template <typename Op, typename T> __device__ __forceinline__ T row_reduce(T x)
{
	CUDA_SHARED(T, part, [32]);
	const unsigned warps = blockDim.x / CUDA_WARP;

	x = warp_reduce<Op>(x);
	if (warps == 1)
		return x;
	/* The last reduction's parts have been read. */
	__syncthreads();
	if (threadIdx.x % CUDA_WARP == 0)
		part[threadIdx.x / CUDA_WARP] = x;
	__syncthreads();
	x = part[0];
	for (unsigned i = 1; i < warps; i++)
		x = Op::of(x, part[i]);
	return x;
}

#endif
