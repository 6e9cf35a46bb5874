/*
 * Causal attention on the GPU; called from the thread that enqueues. The scores are never written
 * to memory, by any kernel: see attention_bf16_cuda.cu (tensor cores) and attention_f32_cuda.cu
 * (fp32 throughout). Here are the launchers and what both need first in backward: delta, for
 * every query the sum over head_dim of dout times out, which is also the sum over keys of
 * probability times its gradient. It goes to scratch, batch * heads * seq floats.
 */
#include "kernels/attention_cuda.cuh"
#include "kernels/cuda_internal.h"

static __device__ inline float number(float x)
{
	return x;
}

static __device__ inline float number(uint16_t x)
{
	return cuda_bf16_to_float(x);
}

/* A warp a query of a head; a lane sums elements lane, lane + 32, ..., then lanes are added. */
template <typename T> static __global__ void delta(attention_task<T> a, size_t count)
{
	size_t i = ((size_t)blockIdx.x * ATTENTION_THREADS + threadIdx.x) / CUDA_WARP;
	unsigned lane = threadIdx.x % CUDA_WARP;
	float sum = 0.0f;

	if (i >= count)
		return;
	size_t token = i / a.heads, head = i % a.heads;
	size_t at = i * a.dim;
	size_t sequence = token / a.seq, query = token % a.seq;

	for (unsigned d = lane; d < a.dim; d += CUDA_WARP)
		sum = fmaf(number(a.dout[at + d]), number(a.out[at + d]), sum);
	for (int step = 16; step; step /= 2)
		sum += __shfl_xor_sync(CUDA_WARP_FULL, sum, step);
	if (lane == 0)
		a.delta[(sequence * a.heads + head) * a.seq + query] = sum;
}

template <typename T>
static cudaError_t delta_launch(const struct attention *a, cudaStream_t stream)
{
	const unsigned warps = ATTENTION_THREADS / CUDA_WARP;
	size_t count = a->batch * a->seq * a->heads, blocks = (count + warps - 1) / warps;

	CUDA_LAUNCH(delta<T>, dim3((unsigned)blocks), dim3(ATTENTION_THREADS), 0, stream,
		    attention_task_of<T>(a), count);
	return cudaPeekAtLastError();
}

/*
 * What kernels take for granted: a head fits in the widest shape, tokens and their distances in
 * 32 bits, and a query of a head a thread block in the grid (the finest that any kernel divides
 * into).
 */
static bool fits(const struct attention *a)
{
	return a->head_dim && a->head_dim <= ATTENTION_HEAD_DIM_MAX_CUDA && a->heads &&
	       a->heads <= INT32_MAX / (3 * ATTENTION_HEAD_DIM_MAX_CUDA) &&
	       a->seq < INT32_MAX - ATTENTION_HEAD_DIM_MAX_CUDA &&
	       (!a->seq || a->batch <= INT32_MAX / a->heads / a->seq);
}

extern "C" cudaError_t cuda_attention_forward(const void *args, cudaStream_t stream)
{
	const struct attention *a = (const struct attention *)args;

	if (!fits(a))
		return cudaErrorInvalidValue;
	if (!a->batch || !a->seq)
		return cudaSuccess;
	return a->act == DTYPE_BF16 ? attention_forward_bf16(a, stream)
				    : attention_forward_f32(a, stream);
}

extern "C" cudaError_t cuda_attention_backward(const void *args, cudaStream_t stream)
{
	const struct attention *a = (const struct attention *)args;
	bool bf16 = a->act == DTYPE_BF16;
	cudaError_t rc;

	if (!fits(a) || a->scratch_count < a->batch * a->heads * a->seq)
		return cudaErrorInvalidValue;
	if (!a->batch || !a->seq)
		return cudaSuccess;
	rc = bf16 ? delta_launch<uint16_t>(a, stream) : delta_launch<float>(a, stream);
	if (rc != cudaSuccess)
		return rc;
	return bf16 ? attention_backward_bf16(a, stream) : attention_backward_f32(a, stream);
}
