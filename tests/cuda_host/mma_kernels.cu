/* Kernels that use kernels/cuda_mma.cuh as the attention does; see mma_kernels.h. */
#include "kernels/cuda_mma.cuh"
#include "tests/cuda_host/mma_kernels.h"

#define SIDE 16u

/* Fragments come from shared memory by ldmatrix; results go out by the layout of C. */
static __global__ void product(float *c, const uint16_t *a, const uint16_t *y, int transposed)
{
	CUDA_SHARED_DYNAMIC(uint16_t, shared);
	uint16_t *sa = shared, *sy = shared + SIDE * SIDE;
	unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
	uint32_t fa[4], fb[4];
	float fc[2][4];

	for (unsigned i = lane; i < SIDE * SIDE; i += CUDA_WARP) {
		sa[i] = a[i];
		sy[i] = y[i];
	}
	__syncthreads();
	ldmatrix_x4(fa, sa + mma_a_row(lane) * SIDE + mma_a_column(lane));
	if (transposed)
		ldmatrix_x4(fb, sy + mma_b_row(lane) * SIDE + mma_b_column(lane));
	else
		ldmatrix_x4_trans(fb, sy + mma_a_row(lane) * SIDE + mma_a_column(lane));
	for (unsigned n = 0; n < 2; n++) {
		float *at = c + g * SIDE + n * 8 + 2 * t;

		for (unsigned i = 0; i < 4; i++)
			fc[n][i] = at[i / 2 * 8 * SIDE + i % 2];
		mma_bf16(fc[n], fa, fb[2 * n], fb[2 * n + 1]);
		for (unsigned i = 0; i < 4; i++)
			at[i / 2 * 8 * SIDE + i % 2] = fc[n][i];
	}
}

extern "C" cudaError_t mma_kernel_product(float *c, const uint16_t *a, const uint16_t *y,
					  int transposed, cudaStream_t stream)
{
	CUDA_LAUNCH(product, dim3(1), dim3(CUDA_WARP), 2 * SIDE * SIDE * sizeof(uint16_t), stream,
		    c, a, y, transposed);
	return cudaPeekAtLastError();
}

/* `each` words a copy; the block's threads cover MMA_COPY_WORDS. */
static __global__ void copy(uint32_t *out, const uint32_t *in, unsigned count, unsigned each)
{
	CUDA_SHARED_DYNAMIC(uint32_t, shared);
	unsigned at = threadIdx.x * each;

	if (each == 4)
		copy_async_16(shared + at, in + at, at < count);
	else
		copy_async_4(shared + at, in + at, at < count);
	copy_async_wait();
	__syncthreads();
	/* What another thread has copied. */
	at = MMA_COPY_WORDS - each - at;
	for (unsigned i = 0; i < each; i++)
		out[at + i] = shared[at + i];
}

static cudaError_t copy_launch(uint32_t *out, const uint32_t *in, unsigned count, unsigned each,
			       cudaStream_t stream)
{
	CUDA_LAUNCH(copy, dim3(1), dim3(MMA_COPY_WORDS / each), MMA_COPY_WORDS * sizeof(*out),
		    stream, out, in, count, each);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t mma_kernel_copy_16(uint32_t *out, const uint32_t *in, unsigned count,
					  cudaStream_t stream)
{
	return copy_launch(out, in, count, 4, stream);
}

extern "C" cudaError_t mma_kernel_copy_4(uint32_t *out, const uint32_t *in, unsigned count,
					 cudaStream_t stream)
{
	return copy_launch(out, in, count, 1, stream);
}

static __global__ void convert(uint32_t *pairs, float *powers, const float *in)
{
	unsigned i = threadIdx.x;

	powers[i] = exp2_fast(in[i]);
	if (i % 2 == 0)
		pairs[i / 2] = bf16_pack(in[i], in[i + 1]);
}

extern "C" cudaError_t mma_kernel_convert(uint32_t *pairs, float *powers, const float *in,
					  unsigned count, cudaStream_t stream)
{
	CUDA_LAUNCH(convert, dim3(1), dim3(count), 0, stream, pairs, powers, in);
	return cudaPeekAtLastError();
}
