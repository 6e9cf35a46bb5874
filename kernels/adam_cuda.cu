/*
 * Adam on a GPU, with the bits of adam_scalar.c, which it follows operation by operation. Launched
 * by the cuda device for state that is not offloaded.
 *
 * 1. What adam.h writes as fma() is __fmaf_rn, and nothing else is fused; division and square root
 *    round to nearest.
 * 2. An element's every vector is read before any is written, by one thread.
 */
#include "kernels/adam.h"

#include "kernels/cuda_internal.h"
#include "kernels/cuda_pack.cuh"

struct adam_element {
	float p, m, v;
};

static __device__ __forceinline__ adam_element element_step(const adam_scalars &s, adam_element x,
							    float grad, float decay)
{
	const float g = __fmul_rn(grad, s.grad_scale);
	float root;

	x.m = __fmaf_rn(s.one_minus_beta1, __fsub_rn(g, x.m), x.m);
	x.v = __fmaf_rn(__fmul_rn(s.one_minus_beta2, g), g, __fmul_rn(s.beta2, x.v));
	x.p = __fmul_rn(x.p, decay);
	root = __fmul_rn(__fsqrt_rn(x.v), s.inv_sqrt_bias2);
	x.p = __fmaf_rn(s.minus_step, __fdiv_rn(x.m, __fadd_rn(root, s.eps)), x.p);
	return x;
}

/* The master weight of bf16_join and bf16_split (dtype.h). */
static __device__ __forceinline__ float master_join(unsigned hi, unsigned lo)
{
	return __uint_as_float((hi << 16) + (unsigned)(int)(int16_t)(uint16_t)lo);
}

/* n elements of the split master at hi and lo. */
template <unsigned N>
__device__ __forceinline__ void master_load(float (&p)[N], const uint16_t *hi, const int16_t *lo,
					    size_t n)
{
	if constexpr (N == 4) {
		if (n >= N) {
			const uint2 h = *reinterpret_cast<const uint2 *>(hi);
			const uint2 l = *reinterpret_cast<const uint2 *>(lo);

			p[0] = master_join(h.x, l.x);
			p[1] = master_join(h.x >> 16, l.x >> 16);
			p[2] = master_join(h.y, l.y);
			p[3] = master_join(h.y >> 16, l.y >> 16);
			return;
		}
	}
#pragma unroll
	for (unsigned k = 0; k < N; k++)
		p[k] = k < n ? master_join(hi[k], (uint16_t)lo[k]) : 0.0f;
}

template <unsigned N>
__device__ __forceinline__ void master_store(uint16_t *hi, int16_t *lo, const float (&p)[N],
					     size_t n)
{
	unsigned bits[N];

#pragma unroll
	for (unsigned k = 0; k < N; k++)
		bits[k] = __float_as_uint(p[k]);
	if constexpr (N == 4) {
		if (n >= N) {
			uint2 h, l;

			h.x = (bits[0] + 0x8000u) >> 16 | ((bits[1] + 0x8000u) & 0xffff0000u);
			h.y = (bits[2] + 0x8000u) >> 16 | ((bits[3] + 0x8000u) & 0xffff0000u);
			l.x = (bits[0] & 0xffffu) | bits[1] << 16;
			l.y = (bits[2] & 0xffffu) | bits[3] << 16;
			*reinterpret_cast<uint2 *>(hi) = h;
			*reinterpret_cast<uint2 *>(lo) = l;
			return;
		}
	}
#pragma unroll
	for (unsigned k = 0; k < N; k++)
		if (k < n) {
			hi[k] = (uint16_t)((bits[k] + 0x8000u) >> 16);
			lo[k] = (int16_t)(uint16_t)bits[k];
		}
}

template <typename Grad, bool SPLIT, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS) adam_kernel(const struct adam a)
{
	const size_t stride = (size_t)gridDim.x * blockDim.x * N;
	float *const param = static_cast<float *>(a.param);
	uint16_t *const hi = static_cast<uint16_t *>(a.param);

	for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N; i < a.count;
	     i += stride) {
		const size_t n = a.count - i;
		float grad[N], p[N], m[N], v[N];

		pack_load(grad, static_cast<const Grad *>(a.grad) + i, n);
		pack_load(m, a.m + i, n);
		pack_load(v, a.v + i, n);
		if constexpr (SPLIT)
			master_load(p, hi + i, a.lo + i, n);
		else
			pack_load(p, param + i, n);
#pragma unroll
		for (unsigned k = 0; k < N; k++) {
			/* A product with one is exact. */
			const float decay = i + k < a.decay_count ? a.scalars.decay_factor : 1.0f;
			const adam_element x =
				element_step(a.scalars, {p[k], m[k], v[k]}, grad[k], decay);

			p[k] = x.p;
			m[k] = x.m;
			v[k] = x.v;
		}
		pack_store(a.m + i, m, n);
		pack_store(a.v + i, v, n);
		if constexpr (SPLIT)
			master_store(hi + i, a.lo + i, p, n);
		else
			pack_store(param + i, p, n);
	}
}

template <typename Grad, bool SPLIT>
static cudaError_t step(const struct adam *a, cudaStream_t stream)
{
	const bool params = SPLIT ? pack_aligned(static_cast<const uint16_t *>(a->param), 4) &&
					    pack_aligned(a->lo, 4)
				  : pack_aligned(static_cast<const float *>(a->param), 4);

	if (params && pack_aligned(static_cast<const Grad *>(a->grad), 4) &&
	    pack_aligned(a->m, 4) && pack_aligned(a->v, 4))
		CUDA_LAUNCH((adam_kernel<Grad, SPLIT, 4>), cuda_blocks(a->count, CUDA_THREADS * 4),
			    CUDA_THREADS, 0, stream, *a);
	else
		CUDA_LAUNCH((adam_kernel<Grad, SPLIT, 1>), cuda_blocks(a->count, CUDA_THREADS),
			    CUDA_THREADS, 0, stream, *a);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_adam(const void *args, cudaStream_t stream)
{
	const struct adam *a = static_cast<const struct adam *>(args);

	if (a->count == 0)
		return cudaSuccess;
	if (a->grad_type == DTYPE_BF16)
		return a->param_type == DTYPE_BF16 ? step<uint16_t, true>(a, stream)
						   : step<uint16_t, false>(a, stream);
	return a->param_type == DTYPE_BF16 ? step<float, true>(a, stream)
					   : step<float, false>(a, stream);
}
