/* The kernels of shim_kernels.h; launched by tests/t_cuda_shim.c. */
#include "tests/cuda_host/shim_kernels.h"

#include "kernels/cuda_launch.cuh"

#define CRIME_THREADS 64

static __global__ void index_kernel(uint32_t *out)
{
	size_t thread = threadIdx.x + blockDim.x * (threadIdx.y + (size_t)blockDim.y * threadIdx.z);
	size_t block = blockIdx.x + gridDim.x * (blockIdx.y + (size_t)gridDim.y * blockIdx.z);
	size_t i = block * blockDim.x * blockDim.y * blockDim.z + thread;

	out[i] += (uint32_t)i + 1;
}

static __global__ void block_sum_kernel(int *out, const int *in)
{
	CUDA_SHARED_DYNAMIC(int, sum);

	sum[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
	__syncthreads();
	for (unsigned n = blockDim.x; n > 1; n = (n + 1) / 2) {
		unsigned from = threadIdx.x + (n + 1) / 2;
		int other = from < n ? sum[from] : 0;

		__syncthreads();
		sum[threadIdx.x] += other;
		__syncthreads();
	}
	if (threadIdx.x == 0)
		out[blockIdx.x] = sum[0];
}

static __global__ void votes_kernel(int *out, unsigned below)
{
	int *row = out + threadIdx.x * (size_t)3, yes = threadIdx.x < below;

	row[0] = __syncthreads_count(yes);
	row[1] = __syncthreads_or(yes);
	row[2] = __syncthreads_and(yes);
}

static __global__ void collectives_kernel(uint32_t *out)
{
	unsigned lane = threadIdx.x % 32, half = lane < 16 ? 0xffffu : 0xffff0000u;
	uint32_t *row = out + threadIdx.x * (size_t)SHIM_COLLECTIVES;

	row[0] = __shfl_sync(CUDA_WARP_FULL, threadIdx.x, 5);
	row[1] = __shfl_sync(CUDA_WARP_FULL, threadIdx.x, 3, 8);
	row[2] = __shfl_down_sync(CUDA_WARP_FULL, threadIdx.x, 4);
	row[3] = __shfl_down_sync(CUDA_WARP_FULL, threadIdx.x, 4, 16);
	row[4] = __shfl_up_sync(CUDA_WARP_FULL, threadIdx.x, 3);
	row[5] = __shfl_up_sync(CUDA_WARP_FULL, threadIdx.x, 3, 8);
	row[6] = __shfl_xor_sync(CUDA_WARP_FULL, threadIdx.x, 21);
	row[7] = __ballot_sync(CUDA_WARP_FULL, lane % 3 == 0);
	row[8] = (uint32_t)__any_sync(half, lane == 17);
	row[9] = (uint32_t)__all_sync(half, lane < 16);
	row[10] = (uint32_t)(__shfl_xor_sync(half, (double)threadIdx.x, 1) * 2);
	__syncwarp();
	/* Lanes that have returned are not waited for. */
	if (lane % 4 == 3)
		return;
	row[11] = __ballot_sync(CUDA_WARP_FULL, 1);
}

static __global__ void shared_new_kernel(uint32_t *out)
{
	CUDA_SHARED(uint32_t, one, );
	CUDA_SHARED(uint32_t, many, [2][3]);
	CUDA_SHARED_DYNAMIC(uint32_t, dynamic);
	uint32_t *row = out + (blockIdx.x * blockDim.x + threadIdx.x) * (size_t)3;

	row[0] = one;
	row[1] = many[1][2];
	row[2] = dynamic[threadIdx.x];
	__syncthreads();
	one = many[1][2] = dynamic[threadIdx.x] = threadIdx.x;
}

static __device__ void memory_crime(enum shim_crime crime, int *p, long at)
{
	CUDA_SHARED(int, before, [4]);
	CUDA_SHARED(int, fixed, [SHIM_SHARED_INTS]);
	CUDA_SHARED_DYNAMIC(int, dynamic);
	int *from = crime <= SHIM_WRITE_GLOBAL ? p : crime <= SHIM_WRITE_STATIC ? fixed : dynamic;

	before[threadIdx.x % 4] = 0;
	if (threadIdx.x != 7)
		return;
	if (crime == SHIM_READ_GLOBAL || crime == SHIM_READ_STATIC || crime == SHIM_READ_DYNAMIC)
		p[0] = from[at];
	else
		from[at] = 1;
}

static __device__ void barrier_crime(enum shim_crime crime, int *p)
{
	bool lower = threadIdx.x < CRIME_THREADS / 2;

	if (crime == SHIM_BARRIER_HALF) {
		if (lower)
			return;
		__syncthreads();
	} else if (lower) {
		__syncthreads();
	} else {
		__syncthreads();
	}
	p[threadIdx.x] = 1;
}

static __device__ void shuffle_crime(enum shim_crime crime, int *p)
{
	int lane = (int)threadIdx.x % 32;

	if (crime == SHIM_SHUFFLE_OUTSIDE)
		p[threadIdx.x] = __shfl_sync(0x7fffffffu, lane, 0);
	else if (crime == SHIM_SHUFFLE_HALF && lane < 16)
		p[threadIdx.x] = __shfl_sync(CUDA_WARP_FULL, lane, 0);
	else if (crime == SHIM_SHUFFLE_MIXED && lane < 16)
		p[threadIdx.x] = __any_sync(CUDA_WARP_FULL, lane);
	else if (crime == SHIM_SHUFFLE_MIXED)
		p[threadIdx.x] = __shfl_sync(CUDA_WARP_FULL, lane, 0);
	__syncthreads();
}

static __device__ void race(int *p)
{
	CUDA_SHARED(int, seen, [CRIME_THREADS]);

	seen[threadIdx.x] = (int)threadIdx.x;
	p[threadIdx.x] = seen[(threadIdx.x + CRIME_THREADS / 2) % CRIME_THREADS];
}

static __global__ void crime_kernel(enum shim_crime crime, int *p, long at)
{
	if (crime <= SHIM_WRITE_DYNAMIC)
		memory_crime(crime, p, at);
	else if (crime <= SHIM_BARRIER_BRANCHES)
		barrier_crime(crime, p);
	else if (crime <= SHIM_SHUFFLE_MIXED)
		shuffle_crime(crime, p);
	else
		race(p);
}

static __global__ void empty_kernel(int)
{
}

extern "C" cudaError_t shim_kernel_index(uint32_t *out, dim3 grid, dim3 block, cudaStream_t stream)
{
	CUDA_LAUNCH(index_kernel, grid, block, 0, stream, out);
	return cudaGetLastError();
}

extern "C" cudaError_t shim_kernel_block_sum(int *out, const int *in, unsigned blocks,
					     unsigned threads, cudaStream_t stream)
{
	CUDA_LAUNCH(block_sum_kernel, blocks, threads, threads * sizeof(int), stream, out, in);
	return cudaGetLastError();
}

extern "C" cudaError_t shim_kernel_votes(int *out, unsigned threads, unsigned below,
					 cudaStream_t stream)
{
	CUDA_LAUNCH(votes_kernel, 1, threads, 0, stream, out, below);
	return cudaGetLastError();
}

extern "C" cudaError_t shim_kernel_collectives(uint32_t *out, unsigned threads, cudaStream_t stream)
{
	CUDA_LAUNCH(collectives_kernel, 1, threads, 0, stream, out);
	return cudaGetLastError();
}

extern "C" cudaError_t shim_kernel_shared_new(uint32_t *out, unsigned blocks, cudaStream_t stream)
{
	CUDA_LAUNCH(shared_new_kernel, blocks, 8, 8 * sizeof(uint32_t), stream, out);
	return cudaGetLastError();
}

extern "C" cudaError_t shim_kernel_crime(enum shim_crime crime, int *p, long at,
					 cudaStream_t stream)
{
	CUDA_LAUNCH(crime_kernel, 2, CRIME_THREADS, SHIM_SHARED_INTS * sizeof(int), stream, crime,
		    p, at);
	return cudaGetLastError();
}

extern "C" cudaError_t shim_kernel_empty(dim3 grid, dim3 block, size_t shared_bytes, int opt_in,
					 cudaStream_t stream)
{
	if (opt_in) {
		cudaError_t error = cudaFuncSetAttribute(
			(const void *)empty_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
			(int)shared_bytes);

		if (error != cudaSuccess)
			return error;
	}
	CUDA_LAUNCH(empty_kernel, grid, block, shared_bytes, stream, 0);
	return cudaGetLastError();
}
