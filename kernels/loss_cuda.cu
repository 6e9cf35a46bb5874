/*
 * Cross-entropy over a large vocabulary on a GPU: a block takes a row, in two passes. The first
 * finds the greatest logit and the sum of exponentials, each thread rescaling its sum when it meets
 * a greater one; the second writes the gradient in place, reading what the second-level cache still
 * has. Launched by the cuda device.
 *
 * 1. Rows' losses are added up in double, in row order, by a second kernel, so that the sum does
 *    not depend on how rows are cut into chunks. They wait for it in device memory of this file:
 *    so on one device one stream at a time computes losses, as the engine's compute stream does.
 * 2. The logit of the target is read before any of the row is written: between are barriers, or
 *    the lockstep of a warp's sums.
 * 3. fp32 logits go through expf, for proofs; bf16 ones, which are rounded to eight bits already,
 *    through the hardware's exponential.
 */
#include "kernels/loss.h"

#include "kernels/cuda_internal.h"
#include "kernels/cuda_pack.cuh"
#include "kernels/cuda_reduce.cuh"

#define THREADS  512u
#define ROWS_MAX 8192u /* of one launch: room for their losses */

static __device__ double row_loss[ROWS_MAX];

template <typename Act> static __device__ __forceinline__ float exp_of(float x)
{
	if constexpr (sizeof(Act) == 2)
		return __expf(x);
	else
		return expf(x);
}

/* The greatest of some logits, and the sum of e^(logit - greatest). */
struct softmax_part {
	float greatest, sum;
};

template <typename Act, unsigned N>
static __device__ softmax_part row_part(const Act *x, size_t vocab)
{
	softmax_part part = {-INFINITY, 0.0f};

	for (size_t j = (size_t)threadIdx.x * N; j < vocab; j += (size_t)blockDim.x * N) {
		const size_t n = vocab - j;
		float v[N], greatest;

		pack_load(v, x + j, n);
		greatest = v[0];
#pragma unroll
		for (unsigned k = 1; k < N; k++)
			greatest = k < n && v[k] > greatest ? v[k] : greatest;
		if (greatest > part.greatest) {
			part.sum *= exp_of<Act>(part.greatest - greatest);
			part.greatest = greatest;
		}
#pragma unroll
		for (unsigned k = 0; k < N; k++)
			part.sum += k < n ? exp_of<Act>(v[k] - part.greatest) : 0.0f;
	}
	return part;
}

/* x = scale times the gradient of the row's loss; `factor` is scale over the sum. */
template <typename Act, unsigned N>
static __device__ void row_gradient(Act *x, size_t vocab, size_t target, float greatest,
				    float factor, float scale)
{
	for (size_t j = (size_t)threadIdx.x * N; j < vocab; j += (size_t)blockDim.x * N) {
		const size_t n = vocab - j;
		float v[N];

		pack_load(v, x + j, n);
#pragma unroll
		for (unsigned k = 0; k < N; k++) {
			v[k] = exp_of<Act>(v[k] - greatest) * factor;
			v[k] -= j + k == target ? scale : 0.0f;
		}
		pack_store(x + j, v, n);
	}
}

/* Rows begin..begin + gridDim.x of c. */
template <typename Act, unsigned N>
static __global__ void __launch_bounds__(THREADS)
	rows_kernel(const struct cross_entropy c, size_t begin)
{
	const size_t row = begin + blockIdx.x, target = c.targets[row];
	Act *const x = static_cast<Act *>(c.logits) + row * (c.row ? c.row : c.vocab);
	const float right = element_load(x + target);
	const softmax_part part = row_part<Act, N>(x, c.vocab);
	const float greatest = row_reduce<cuda_greatest>(part.greatest);
	/* Threads without any element have a sum of zero and a greatest of minus infinity. */
	const double share = (double)part.sum * (double)expf(part.greatest - greatest);
	const double sum = row_reduce<cuda_sum>(share);

	if (threadIdx.x == 0)
		row_loss[blockIdx.x] = log(sum) + ((double)greatest - (double)right);
	if (c.gradient)
		row_gradient<Act, N>(x, c.vocab, target, greatest, (float)((double)c.scale / sum),
				     c.scale);
}

/* One block. A thread adds, the others bring what it adds next. */
static __global__ void __launch_bounds__(THREADS) add_kernel(double *loss_sum, unsigned count)
{
	CUDA_SHARED(double, next, [THREADS]);
	double sum = threadIdx.x == 0 ? *loss_sum : 0;

	for (unsigned begin = 0; begin < count; begin += THREADS) {
		const unsigned left = count - begin < THREADS ? count - begin : THREADS;

		if (threadIdx.x < left)
			next[threadIdx.x] = row_loss[begin + threadIdx.x];
		__syncthreads();
		if (threadIdx.x == 0)
			for (unsigned i = 0; i < left; i++)
				sum += next[i];
		__syncthreads();
	}
	if (threadIdx.x == 0)
		*loss_sum = sum;
}

template <typename Act>
static cudaError_t launch(const struct cross_entropy *c, cudaStream_t stream)
{
	constexpr unsigned N = pack_of<Act>();
	const bool packs =
		pack_aligned(static_cast<const Act *>(c->logits), N, c->row ? c->row : c->vocab);
	const unsigned n = packs ? N : 1, threads = cuda_threads((c->vocab + n - 1) / n, THREADS);

	for (size_t begin = 0; begin < c->rows; begin += ROWS_MAX) {
		const size_t left = c->rows - begin;
		const unsigned count = left < ROWS_MAX ? (unsigned)left : ROWS_MAX;

		if (packs)
			CUDA_LAUNCH((rows_kernel<Act, N>), count, threads, 0, stream, *c, begin);
		else
			CUDA_LAUNCH((rows_kernel<Act, 1>), count, threads, 0, stream, *c, begin);
		CUDA_LAUNCH(add_kernel, 1, THREADS, 0, stream, c->loss_sum, count);
	}
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_cross_entropy(const void *args, cudaStream_t stream)
{
	const struct cross_entropy *c = static_cast<const struct cross_entropy *>(args);

	return c->act == DTYPE_BF16 ? launch<uint16_t>(c, stream) : launch<float>(c, stream);
}
