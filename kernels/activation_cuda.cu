/*
 * GELU and SwiGLU on a GPU, by the formulas of the cpu's (simd_body.h), in fp32. Launched by the
 * cuda device.
 *
 * 1. The exponent is held below 87, so that 1 + e^x stays below 2^126, where __fdividef ends.
 * 2. An element's inputs are read before its results are written, by the same thread: backward may
 *    work in place.
 */
#include "kernels/activation.h"

#include "kernels/cuda_internal.h"
#include "kernels/cuda_pack.cuh"

#define GELU_LINEAR -1.5957691216057308f /* -2 sqrt(2/pi) */
#define GELU_CUBIC  -0.0713548162726009f /* times 0.044715 */

/* e^-2u with u = sqrt(2/pi) (x + 0.044715 x^3); x2 is x * x. A NaN is left to the caller's x. */
static __device__ __forceinline__ float gelu_exp(float x, float x2)
{
	return expf(fminf(87.0f, fmaf(x2, GELU_CUBIC, GELU_LINEAR) * x));
}

static __device__ __forceinline__ float gelu(float x)
{
	return __fdividef(x, 1.0f + gelu_exp(x, x * x));
}

/* dy/dx = s + x s (1 - s) 2u' with s = 1 / (1 + e^-2u), and 1 - s = e^-2u s. */
static __device__ __forceinline__ float gelu_slope(float x)
{
	const float x2 = x * x, e = gelu_exp(x, x2), s = __fdividef(1.0f, 1.0f + e);

	return s * (1.0f + e * s * x * fmaf(x2, -3 * GELU_CUBIC, -GELU_LINEAR));
}

template <typename Act, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS)
	gelu_forward_kernel(Act *y, const Act *x, size_t count)
{
	const size_t stride = (size_t)gridDim.x * blockDim.x * N;

	for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N; i < count;
	     i += stride) {
		float v[N];

		pack_load(v, x + i, count - i);
#pragma unroll
		for (unsigned k = 0; k < N; k++)
			v[k] = gelu(v[k]);
		pack_store(y + i, v, count - i);
	}
}

template <typename Act, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS)
	gelu_backward_kernel(Act *dx, const Act *dy, const Act *x, size_t count)
{
	const size_t stride = (size_t)gridDim.x * blockDim.x * N;

	for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N; i < count;
	     i += stride) {
		float v[N], d[N];

		pack_load(v, x + i, count - i);
		pack_load(d, dy + i, count - i);
#pragma unroll
		for (unsigned k = 0; k < N; k++)
			d[k] *= gelu_slope(v[k]);
		pack_store(dx + i, d, count - i);
	}
}

/*
 * Rows go over the grid's y, a row's elements over its x. silu(g) = g s with s = 1 / (1 + e^-g).
 */
template <typename Act, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS)
	swiglu_forward_kernel(Act *y, const Act *x, size_t rows, size_t width)
{
	const size_t j = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N;

	if (j >= width)
		return;
	for (size_t row = blockIdx.y; row < rows; row += gridDim.y) {
		float g[N], u[N];

		pack_load(g, x + row * 2 * width + j, width - j);
		pack_load(u, x + row * 2 * width + width + j, width - j);
#pragma unroll
		for (unsigned k = 0; k < N; k++)
			u[k] *= __fdividef(g[k], 1.0f + expf(fminf(87.0f, -g[k])));
		pack_store(y + row * width + j, u, width - j);
	}
}

/* silu'(g) = s + g s (1 - s), and 1 - s = e^-g s. */
template <typename Act, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS)
	swiglu_backward_kernel(Act *dx, const Act *dy, const Act *x, size_t rows, size_t width)
{
	const size_t j = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N;

	if (j >= width)
		return;
	for (size_t row = blockIdx.y; row < rows; row += gridDim.y) {
		float g[N], u[N], d[N];

		pack_load(g, x + row * 2 * width + j, width - j);
		pack_load(u, x + row * 2 * width + width + j, width - j);
		pack_load(d, dy + row * width + j, width - j);
#pragma unroll
		for (unsigned k = 0; k < N; k++) {
			const float e = expf(fminf(87.0f, -g[k])), s = __fdividef(1.0f, 1.0f + e);
			const float up = u[k];

			u[k] = d[k] * (g[k] * s);
			g[k] = d[k] * up * (s * fmaf(e * s, g[k], 1.0f));
		}
		pack_store(dx + row * 2 * width + j, g, width - j);
		pack_store(dx + row * 2 * width + width + j, u, width - j);
	}
}

template <typename Act> static cudaError_t gelu_forward(const struct gelu *g, cudaStream_t stream)
{
	constexpr unsigned N = pack_of<Act>();
	Act *y = static_cast<Act *>(g->y);
	const Act *x = static_cast<const Act *>(g->x);

	if (pack_aligned(y, N) && pack_aligned(x, N))
		CUDA_LAUNCH((gelu_forward_kernel<Act, N>), cuda_blocks(g->count, CUDA_THREADS * N),
			    CUDA_THREADS, 0, stream, y, x, g->count);
	else
		CUDA_LAUNCH((gelu_forward_kernel<Act, 1>), cuda_blocks(g->count, CUDA_THREADS),
			    CUDA_THREADS, 0, stream, y, x, g->count);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_gelu_forward(const void *args, cudaStream_t stream)
{
	const struct gelu *g = static_cast<const struct gelu *>(args);

	if (g->count == 0)
		return cudaSuccess;
	return g->act == DTYPE_BF16 ? gelu_forward<uint16_t>(g, stream)
				    : gelu_forward<float>(g, stream);
}

template <typename Act> static cudaError_t gelu_backward(const struct gelu *g, cudaStream_t stream)
{
	constexpr unsigned N = pack_of<Act>();
	Act *dx = static_cast<Act *>(g->dx);
	const Act *dy = static_cast<const Act *>(g->dy), *x = static_cast<const Act *>(g->x);

	if (pack_aligned(dx, N) && pack_aligned(dy, N) && pack_aligned(x, N))
		CUDA_LAUNCH((gelu_backward_kernel<Act, N>), cuda_blocks(g->count, CUDA_THREADS * N),
			    CUDA_THREADS, 0, stream, dx, dy, x, g->count);
	else
		CUDA_LAUNCH((gelu_backward_kernel<Act, 1>), cuda_blocks(g->count, CUDA_THREADS),
			    CUDA_THREADS, 0, stream, dx, dy, x, g->count);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_gelu_backward(const void *args, cudaStream_t stream)
{
	const struct gelu *g = static_cast<const struct gelu *>(args);

	if (g->count == 0)
		return cudaSuccess;
	return g->act == DTYPE_BF16 ? gelu_backward<uint16_t>(g, stream)
				    : gelu_backward<float>(g, stream);
}

/* Threads along a row in packs of `n`, and rows as far as the grid's y goes. */
static unsigned swiglu_threads(const struct swiglu *s, unsigned n)
{
	return cuda_threads((s->width + n - 1) / n, CUDA_THREADS);
}

static dim3 swiglu_grid(const struct swiglu *s, unsigned n)
{
	const size_t of_block = (size_t)swiglu_threads(s, n) * n;

	return dim3((unsigned)((s->width + of_block - 1) / of_block),
		    (unsigned)(s->rows < 65535 ? s->rows : 65535));
}

template <typename Act>
static cudaError_t swiglu_forward(const struct swiglu *s, cudaStream_t stream)
{
	constexpr unsigned N = pack_of<Act>();
	Act *y = static_cast<Act *>(s->y);
	const Act *x = static_cast<const Act *>(s->x);

	if (pack_aligned(y, N, s->width) && pack_aligned(x, N))
		CUDA_LAUNCH((swiglu_forward_kernel<Act, N>), swiglu_grid(s, N),
			    swiglu_threads(s, N), 0, stream, y, x, s->rows, s->width);
	else
		CUDA_LAUNCH((swiglu_forward_kernel<Act, 1>), swiglu_grid(s, 1),
			    swiglu_threads(s, 1), 0, stream, y, x, s->rows, s->width);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_swiglu_forward(const void *args, cudaStream_t stream)
{
	const struct swiglu *s = static_cast<const struct swiglu *>(args);

	if (s->rows == 0)
		return cudaSuccess;
	return s->act == DTYPE_BF16 ? swiglu_forward<uint16_t>(s, stream)
				    : swiglu_forward<float>(s, stream);
}

template <typename Act>
static cudaError_t swiglu_backward(const struct swiglu *s, cudaStream_t stream)
{
	constexpr unsigned N = pack_of<Act>();
	Act *dx = static_cast<Act *>(s->dx);
	const Act *dy = static_cast<const Act *>(s->dy), *x = static_cast<const Act *>(s->x);

	if (pack_aligned(dx, N, s->width) && pack_aligned(dy, N) && pack_aligned(x, N))
		CUDA_LAUNCH((swiglu_backward_kernel<Act, N>), swiglu_grid(s, N),
			    swiglu_threads(s, N), 0, stream, dx, dy, x, s->rows, s->width);
	else
		CUDA_LAUNCH((swiglu_backward_kernel<Act, 1>), swiglu_grid(s, 1),
			    swiglu_threads(s, 1), 0, stream, dx, dy, x, s->rows, s->width);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_swiglu_backward(const void *args, cudaStream_t stream)
{
	const struct swiglu *s = static_cast<const struct swiglu *>(args);

	if (s->rows == 0)
		return cudaSuccess;
	return s->act == DTYPE_BF16 ? swiglu_backward<uint16_t>(s, stream)
				    : swiglu_backward<float>(s, stream);
}
