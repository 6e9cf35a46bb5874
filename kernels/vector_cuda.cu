/*
 * Element-wise work on vectors, on a GPU: the operations of vector.h, with the bits of the cpu's.
 * Launched by the cuda device.
 *
 * 1. Elements are independent of each other: `out` may be `a` or `b` of an addition.
 * 2. A sum of squares goes through the same additions as the cpu's: sixteen lanes, which here are
 *    half a warp. Squares of fp32 are exact in double.
 */
#include "kernels/vector.h"

#include "kernels/cuda_internal.h"
#include "kernels/cuda_pack.cuh"

#define LANES 16u
/* Elements a lane loads before it adds any: enough bytes in flight. Divides VECTOR_BLOCK / 16. */
#define AHEAD 16u

/* out = a + b */
template <typename B, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS)
	add_kernel(float *out, const float *a, const B *b, size_t count)
{
	const size_t stride = (size_t)gridDim.x * blockDim.x * N;

	for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N; i < count;
	     i += stride) {
		const size_t n = count - i;
		float x[N], y[N];

		pack_load(x, a + i, n);
		pack_load(y, b + i, n);
#pragma unroll
		for (unsigned k = 0; k < N; k++)
			x[k] += y[k];
		pack_store(out + i, x, n);
	}
}

template <typename Out, typename A, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS)
	convert_kernel(Out *out, const A *a, size_t count)
{
	const size_t stride = (size_t)gridDim.x * blockDim.x * N;

	for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N; i < count;
	     i += stride) {
		const size_t n = count - i;
		float x[N];

		pack_load(x, a + i, n);
		pack_store(out + i, x, n);
	}
}

/* A half of a warp takes a block of elements, and the next one the grid's stride further. */
template <typename A>
static __global__ void __launch_bounds__(CUDA_THREADS)
	sumsq_kernel(double *blocks, const A *a, size_t count)
{
	const unsigned lane = threadIdx.x % LANES, halves = blockDim.x / LANES;
	const size_t block_count = (count + VECTOR_BLOCK - 1) / VECTOR_BLOCK;
	const size_t first = (size_t)blockIdx.x * halves;

	/* Whole warps go round or do not: they add up together. */
	for (size_t of_grid = first; of_grid < block_count; of_grid += (size_t)gridDim.x * halves) {
		const size_t block = of_grid + threadIdx.x / LANES;
		const size_t begin = block * VECTOR_BLOCK;
		const size_t end = begin + VECTOR_BLOCK < count ? begin + VECTOR_BLOCK : count;
		double sum = 0, total;

		for (size_t i = begin + lane; i < end; i += (size_t)LANES * AHEAD) {
			float x[AHEAD];

#pragma unroll
			for (unsigned k = 0; k < AHEAD; k++)
				x[k] = i + k * LANES < end ? element_load(a + i + k * LANES) : 0.0f;
#pragma unroll
			for (unsigned k = 0; k < AHEAD; k++)
				sum = __dadd_rn(sum, __dmul_rn((double)x[k], (double)x[k]));
		}
		total = __shfl_sync(CUDA_WARP_FULL, sum, 0, LANES);
		for (int k = 1; k < (int)LANES; k++)
			total = __dadd_rn(total, __shfl_sync(CUDA_WARP_FULL, sum, k, LANES));
		if (lane == 0 && block < block_count)
			blocks[block] = total;
	}
}

template <typename B>
static cudaError_t add(float *out, const float *a, const B *b, size_t count, cudaStream_t stream)
{
	if (count == 0)
		return cudaSuccess;
	if (pack_aligned(out, 4) && pack_aligned(a, 4) && pack_aligned(b, 4))
		CUDA_LAUNCH((add_kernel<B, 4>), cuda_blocks(count, CUDA_THREADS * 4), CUDA_THREADS,
			    0, stream, out, a, b, count);
	else
		CUDA_LAUNCH((add_kernel<B, 1>), cuda_blocks(count, CUDA_THREADS), CUDA_THREADS, 0,
			    stream, out, a, b, count);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_vector_add(const void *args, cudaStream_t stream)
{
	const struct vector *v = static_cast<const struct vector *>(args);

	return add(static_cast<float *>(v->out), static_cast<const float *>(v->a),
		   static_cast<const float *>(v->b), v->count, stream);
}

extern "C" cudaError_t cuda_vector_accumulate(const void *args, cudaStream_t stream)
{
	const struct vector *v = static_cast<const struct vector *>(args);
	float *out = static_cast<float *>(v->out);

	if (v->a_type == DTYPE_BF16)
		return add(out, out, static_cast<const uint16_t *>(v->a), v->count, stream);
	return add(out, out, static_cast<const float *>(v->a), v->count, stream);
}

template <typename Out, typename A>
static cudaError_t convert(void *to, const void *from, size_t count, cudaStream_t stream)
{
	Out *out = static_cast<Out *>(to);
	const A *a = static_cast<const A *>(from);

	if (pack_aligned(out, 4) && pack_aligned(a, 4))
		CUDA_LAUNCH((convert_kernel<Out, A, 4>), cuda_blocks(count, CUDA_THREADS * 4),
			    CUDA_THREADS, 0, stream, out, a, count);
	else
		CUDA_LAUNCH((convert_kernel<Out, A, 1>), cuda_blocks(count, CUDA_THREADS),
			    CUDA_THREADS, 0, stream, out, a, count);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_vector_convert(const void *args, cudaStream_t stream)
{
	const struct vector *v = static_cast<const struct vector *>(args);

	if (v->count == 0)
		return cudaSuccess;
	if (v->a_type == v->out_type)
		return cudaMemcpyAsync(v->out, v->a, v->count * dtype_bytes(v->a_type),
				       cudaMemcpyDeviceToDevice, stream);
	if (v->a_type == DTYPE_BF16)
		return convert<float, uint16_t>(v->out, v->a, v->count, stream);
	return convert<uint16_t, float>(v->out, v->a, v->count, stream);
}

extern "C" cudaError_t cuda_vector_sumsq(const void *args, cudaStream_t stream)
{
	const struct vector *v = static_cast<const struct vector *>(args);
	const unsigned blocks = cuda_blocks(v->count, CUDA_THREADS / LANES * VECTOR_BLOCK);

	if (v->count == 0)
		return cudaSuccess;
	if (v->a_type == DTYPE_BF16)
		CUDA_LAUNCH(sumsq_kernel<uint16_t>, blocks, CUDA_THREADS, 0, stream, v->blocks,
			    static_cast<const uint16_t *>(v->a), v->count);
	else
		CUDA_LAUNCH(sumsq_kernel<float>, blocks, CUDA_THREADS, 0, stream, v->blocks,
			    static_cast<const float *>(v->a), v->count);
	return cudaPeekAtLastError();
}
