/*
 * LayerNorm and RMSNorm on a GPU. Launched by the cuda device.
 *
 * Rows up to ROW_OF_WARP elements are a warp's, several to a block; wider ones a block's. A row is
 * read from memory once: the passes after the first find it in the first-level cache. Gradients of
 * the parameters are sums of columns: a block has a strip of columns, its threads go down the rows
 * side by side, and what they found is added up in a fixed order.
 *
 * 1. The variance is taken about the mean, in a pass of its own: nothing cancels.
 * 2. Backward takes the parameters' gradients first, then dx row by row; in a row a thread has read
 *    its part of dy for the last time before it writes that of dx_act, which may so be dy.
 * 3. A reduction is over whole warps: all threads of a row take part, with or without elements.
 */
#include "kernels/norm.h"

#include "kernels/cuda_internal.h"
#include "kernels/cuda_pack.cuh"
#include "kernels/cuda_reduce.cuh"

#define ROW_OF_WARP   1024u
#define ROWS_OF_BLOCK 4u /* of warps */
/* A strip: 16 columns, so 64 bytes of fp32 and 32 of bf16, both whole sectors of memory. */
#define STRIP         16u
#define STRIP_THREADS 512u

/* Both norms: RMSNorm has no bias and no mean. */
struct norm {
	size_t rows, width;
	float eps;
	const void *gain, *bias;
	const float *x;
	void *y;
	float *mean, *rstd;
	const void *dy;
	float *dx;
	void *dx_act;
	float *dgain, *dbias;
};

template <bool LAYER, typename Act, typename Par, unsigned N>
static __device__ void row_forward(const struct norm &l, size_t row)
{
	const size_t step = (size_t)blockDim.x * N, begin = (size_t)threadIdx.x * N;
	const Par *const gain = static_cast<const Par *>(l.gain);
	const Par *const bias = static_cast<const Par *>(l.bias);
	const float *const x = l.x + row * l.width;
	Act *const y = static_cast<Act *>(l.y) + row * l.width;
	float mean = 0, square = 0, rstd;

	if constexpr (LAYER) {
#pragma unroll 4
		for (size_t j = begin; j < l.width; j += step) {
			float v[N];

			pack_load(v, x + j, l.width - j);
#pragma unroll
			for (unsigned k = 0; k < N; k++)
				mean += v[k];
		}
		mean = row_reduce<cuda_sum>(mean) / (float)l.width;
	}
#pragma unroll 4
	for (size_t j = begin; j < l.width; j += step) {
		const size_t n = l.width - j;
		float v[N];

		pack_load(v, x + j, n);
#pragma unroll
		for (unsigned k = 0; k < N; k++) {
			const float d = k < n ? v[k] - mean : 0.0f;

			square = fmaf(d, d, square);
		}
	}
	rstd = 1.0f / sqrtf(row_reduce<cuda_sum>(square) / (float)l.width + l.eps);
#pragma unroll 4
	for (size_t j = begin; j < l.width; j += step) {
		const size_t n = l.width - j;
		float v[N], g[N], b[N] = {};

		pack_load(v, x + j, n);
		pack_load(g, gain + j, n);
		if constexpr (LAYER)
			pack_load(b, bias + j, n);
#pragma unroll
		for (unsigned k = 0; k < N; k++)
			v[k] = fmaf((v[k] - mean) * rstd, g[k], b[k]);
		pack_store(y + j, v, n);
	}
	if (threadIdx.x == 0) {
		if constexpr (LAYER)
			l.mean[row] = mean;
		l.rstd[row] = rstd;
	}
}

template <bool LAYER, typename Act, typename Par, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS) forward_kernel(const struct norm l)
{
	for (size_t row = (size_t)blockIdx.x * blockDim.y + threadIdx.y; row < l.rows;
	     row += (size_t)gridDim.x * blockDim.y)
		row_forward<LAYER, Act, Par, N>(l, row);
}

/*
 * With h = (x - mean) rstd and d = dy gain: dx += rstd (d - mean(d) - h mean(d h)), where RMSNorm
 * knows neither mean.
 */
template <bool LAYER, typename Act, typename Par, unsigned N>
static __device__ void row_backward(const struct norm &l, size_t row)
{
	const size_t step = (size_t)blockDim.x * N, begin = (size_t)threadIdx.x * N;
	const Par *const gain = static_cast<const Par *>(l.gain);
	const float *const x = l.x + row * l.width;
	const Act *const dy = static_cast<const Act *>(l.dy) + row * l.width;
	float *const dx = l.dx + row * l.width;
	Act *const dx_act = l.dx_act ? static_cast<Act *>(l.dx_act) + row * l.width : nullptr;
	const float mean = LAYER ? l.mean[row] : 0.0f, rstd = l.rstd[row];
	float sum_d = 0, sum_dh = 0;

#pragma unroll 4
	for (size_t j = begin; j < l.width; j += step) {
		const size_t n = l.width - j;
		float v[N], d[N], g[N];

		pack_load(v, x + j, n);
		pack_load(d, dy + j, n);
		pack_load(g, gain + j, n);
#pragma unroll
		for (unsigned k = 0; k < N; k++) {
			/* Absent elements have d = 0 and a finite h, unless rstd overflowed. */
			const float h = k < n ? (v[k] - mean) * rstd : 0.0f;

			d[k] *= g[k];
			sum_d += d[k];
			sum_dh = fmaf(d[k], h, sum_dh);
		}
	}
	sum_d = LAYER ? row_reduce<cuda_sum>(sum_d) / (float)l.width : 0.0f;
	sum_dh = row_reduce<cuda_sum>(sum_dh) / (float)l.width;
#pragma unroll 2
	for (size_t j = begin; j < l.width; j += step) {
		const size_t n = l.width - j;
		float v[N], d[N], g[N], to[N];

		pack_load(v, x + j, n);
		pack_load(d, dy + j, n);
		pack_load(g, gain + j, n);
		pack_load(to, dx + j, n);
#pragma unroll
		for (unsigned k = 0; k < N; k++) {
			const float h = (v[k] - mean) * rstd;

			to[k] = fmaf(rstd, d[k] * g[k] - sum_d - h * sum_dh, to[k]);
		}
		pack_store(dx + j, to, n);
		if (dx_act)
			pack_store(dx_act + j, to, n);
	}
}

template <bool LAYER, typename Act, typename Par, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS) backward_kernel(const struct norm l)
{
	for (size_t row = (size_t)blockIdx.x * blockDim.y + threadIdx.y; row < l.rows;
	     row += (size_t)gridDim.x * blockDim.y)
		row_backward<LAYER, Act, Par, N>(l, row);
}

/* One thread's share of a strip's column: every (blockDim.y)th row. */
template <bool LAYER, typename Act, unsigned N>
static __device__ void strip_rows(const struct norm &l, size_t j, float (&dgain)[N],
				  float (&dbias)[N])
{
	const Act *const dy = static_cast<const Act *>(l.dy);
	const size_t n = l.width - j;

#pragma unroll 4
	for (size_t row = threadIdx.y; row < l.rows; row += blockDim.y) {
		const float mean = LAYER ? l.mean[row] : 0.0f, rstd = l.rstd[row];
		float v[N], d[N];

		pack_load(v, l.x + row * l.width + j, n);
		pack_load(d, dy + row * l.width + j, n);
#pragma unroll
		for (unsigned k = 0; k < N; k++) {
			dgain[k] = fmaf(d[k], (v[k] - mean) * rstd, dgain[k]);
			dbias[k] += d[k];
		}
	}
}

/*
 * Threads (x, y): pack x of the strip, every yth row. Then all of one element are added up by a
 * tree over y, whose halves are powers of two.
 */
template <bool LAYER, typename Act, unsigned N>
static __global__ void __launch_bounds__(STRIP_THREADS) columns_kernel(const struct norm l)
{
	CUDA_SHARED(float, gains, [STRIP_THREADS * N]);
	CUDA_SHARED(float, biases, [LAYER ? STRIP_THREADS * N : 1]);
	const size_t j = (size_t)blockIdx.x * STRIP + (size_t)threadIdx.x * N;
	const unsigned across = blockDim.x * N;
	const unsigned at = threadIdx.y * across + threadIdx.x * N;
	float dgain[N] = {}, dbias[N] = {};

	if (j < l.width)
		strip_rows<LAYER, Act, N>(l, j, dgain, dbias);
	for (unsigned k = 0; k < N; k++) {
		gains[at + k] = dgain[k];
		if (LAYER)
			biases[at + k] = dbias[k];
	}
	for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
		__syncthreads();
		if (threadIdx.y < half)
			for (unsigned k = 0; k < N; k++) {
				gains[at + k] += gains[at + half * across + k];
				if (LAYER)
					biases[at + k] += biases[at + half * across + k];
			}
	}
	if (threadIdx.y == 0)
		for (unsigned k = 0; k < N && j + k < l.width; k++) {
			l.dgain[j + k] += gains[at + k];
			if (LAYER)
				l.dbias[j + k] += biases[at + k];
		}
}

/* Threads of a block: a warp to each of several rows, or all to one, with four packs each. */
static dim3 row_threads(size_t width, unsigned n)
{
	if (width <= ROW_OF_WARP)
		return dim3(CUDA_WARP, ROWS_OF_BLOCK);
	return dim3(cuda_threads((width + 4 * n - 1) / (4 * n), CUDA_THREADS));
}

template <bool LAYER, typename Act, typename Par>
static cudaError_t forward_typed(const struct norm *l, cudaStream_t stream)
{
	const bool packs = pack_aligned(l->x, 4, l->width) &&
			   pack_aligned(static_cast<const Par *>(l->gain), 4) &&
			   pack_aligned(static_cast<const Par *>(l->bias), 4) &&
			   pack_aligned(static_cast<const Act *>(l->y), 4);
	const dim3 threads = row_threads(l->width, packs ? 4 : 1);
	const unsigned blocks = cuda_blocks(l->rows, threads.y);

	if (packs)
		CUDA_LAUNCH((forward_kernel<LAYER, Act, Par, 4>), blocks, threads, 0, stream, *l);
	else
		CUDA_LAUNCH((forward_kernel<LAYER, Act, Par, 1>), blocks, threads, 0, stream, *l);
	return cudaPeekAtLastError();
}

template <bool LAYER>
static cudaError_t forward(const struct norm *l, enum dtype type, enum dtype act,
			   cudaStream_t stream)
{
	if (l->rows == 0)
		return cudaSuccess;
	if (act == DTYPE_BF16)
		return type == DTYPE_BF16 ? forward_typed<LAYER, uint16_t, uint16_t>(l, stream)
					  : forward_typed<LAYER, uint16_t, float>(l, stream);
	return type == DTYPE_BF16 ? forward_typed<LAYER, float, uint16_t>(l, stream)
				  : forward_typed<LAYER, float, float>(l, stream);
}

template <bool LAYER, typename Act, unsigned N>
static void columns_launch(const struct norm *l, cudaStream_t stream)
{
	const dim3 threads(STRIP / N, STRIP_THREADS / (STRIP / N));
	const unsigned strips = (unsigned)((l->width + STRIP - 1) / STRIP);

	CUDA_LAUNCH((columns_kernel<LAYER, Act, N>), strips, threads, 0, stream, *l);
}

template <bool LAYER, typename Act, typename Par>
static cudaError_t backward_typed(const struct norm *l, cudaStream_t stream)
{
	const bool packs = pack_aligned(l->x, 4, l->width) && pack_aligned(l->dx, 4) &&
			   pack_aligned(static_cast<const Par *>(l->gain), 4) &&
			   pack_aligned(static_cast<const Act *>(l->dy), 4) &&
			   pack_aligned(static_cast<const Act *>(l->dx_act), 4);
	const dim3 threads = row_threads(l->width, packs ? 4 : 1);
	const unsigned blocks = cuda_blocks(l->rows, threads.y);

	if (packs) {
		columns_launch<LAYER, Act, 4>(l, stream);
		CUDA_LAUNCH((backward_kernel<LAYER, Act, Par, 4>), blocks, threads, 0, stream, *l);
	} else {
		columns_launch<LAYER, Act, 1>(l, stream);
		CUDA_LAUNCH((backward_kernel<LAYER, Act, Par, 1>), blocks, threads, 0, stream, *l);
	}
	return cudaPeekAtLastError();
}

template <bool LAYER>
static cudaError_t backward(const struct norm *l, enum dtype type, enum dtype act,
			    cudaStream_t stream)
{
	if (l->rows == 0)
		return cudaSuccess;
	if (act == DTYPE_BF16)
		return type == DTYPE_BF16 ? backward_typed<LAYER, uint16_t, uint16_t>(l, stream)
					  : backward_typed<LAYER, uint16_t, float>(l, stream);
	return type == DTYPE_BF16 ? backward_typed<LAYER, float, uint16_t>(l, stream)
				  : backward_typed<LAYER, float, float>(l, stream);
}

static struct norm layernorm_of(const struct layernorm *l)
{
	return {l->rows, l->width, l->eps, l->gain, l->bias,   l->x,     l->y,
		l->mean, l->rstd,  l->dy,  l->dx,   l->dx_act, l->dgain, l->dbias};
}

static struct norm rmsnorm_of(const struct rmsnorm *l)
{
	return {l->rows, l->width, l->eps, l->gain, nullptr,   l->x,     l->y,
		nullptr, l->rstd,  l->dy,  l->dx,   l->dx_act, l->dgain, nullptr};
}

extern "C" cudaError_t cuda_layernorm_forward(const void *args, cudaStream_t stream)
{
	const struct layernorm *l = static_cast<const struct layernorm *>(args);
	const struct norm n = layernorm_of(l);

	return forward<true>(&n, l->type, l->act, stream);
}

extern "C" cudaError_t cuda_layernorm_backward(const void *args, cudaStream_t stream)
{
	const struct layernorm *l = static_cast<const struct layernorm *>(args);
	const struct norm n = layernorm_of(l);

	return backward<true>(&n, l->type, l->act, stream);
}

extern "C" cudaError_t cuda_rmsnorm_forward(const void *args, cudaStream_t stream)
{
	const struct rmsnorm *l = static_cast<const struct rmsnorm *>(args);
	const struct norm n = rmsnorm_of(l);

	return forward<false>(&n, l->type, l->act, stream);
}

extern "C" cudaError_t cuda_rmsnorm_backward(const void *args, cudaStream_t stream)
{
	const struct rmsnorm *l = static_cast<const struct rmsnorm *>(args);
	const struct norm n = rmsnorm_of(l);

	return backward<false>(&n, l->type, l->act, stream);
}
