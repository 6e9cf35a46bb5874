/*
 * How kernels reach memory: packs of N elements, fp32 in registers whatever lies in memory. With
 * N > 1 a whole pack is one access of up to 128 bits, where its address must be a multiple of that;
 * N = 1 is for what is not so aligned, with neighbouring threads on neighbouring elements all the
 * same. A pack at the end of a row or vector may have fewer elements: they go one by one, and
 * absent ones read as zero.
 *
 * A launcher asks pack_aligned() of every pointer, and takes kernel<..., N> or kernel<..., 1>.
 */
#ifndef KERNELS_CUDA_PACK_CUH
#define KERNELS_CUDA_PACK_CUH

#include "kernels/cuda_launch.cuh"
#include "kernels/dtype.h"

/* Threads of a block where nothing else speaks for another number. */
#define CUDA_THREADS 256u
/* More blocks than any GPU runs at once, few enough that starting them costs nothing. */
#define CUDA_BLOCKS_MAX 4096u

static __device__ __forceinline__ float element_load(const float *p)
{
	return *p;
}

static __device__ __forceinline__ float element_load(const uint16_t *p)
{
	return cuda_bf16_to_float(*p);
}

static __device__ __forceinline__ void element_store(float *p, float x)
{
	*p = x;
}

static __device__ __forceinline__ void element_store(uint16_t *p, float x)
{
	*p = cuda_bf16_from_float(x);
}

/* Whole packs. */
template <unsigned N> __device__ __forceinline__ void whole_load(float (&v)[N], const float *p)
{
	static_assert(N % 4 == 0, "128 bits at a time");
#pragma unroll
	for (unsigned i = 0; i < N; i += 4) {
		const float4 q = *reinterpret_cast<const float4 *>(p + i);

		v[i] = q.x;
		v[i + 1] = q.y;
		v[i + 2] = q.z;
		v[i + 3] = q.w;
	}
}

template <unsigned N> __device__ __forceinline__ void whole_store(float *p, const float (&v)[N])
{
	static_assert(N % 4 == 0, "128 bits at a time");
#pragma unroll
	for (unsigned i = 0; i < N; i += 4)
		*reinterpret_cast<float4 *>(p + i) =
			make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
}

/* Two bf16 in a word, the first in its lower half. */
static __device__ __forceinline__ void word_split(float *v, unsigned word)
{
	v[0] = __uint_as_float(word << 16);
	v[1] = __uint_as_float(word & 0xffff0000u);
}

static __device__ __forceinline__ unsigned word_join(const float *v)
{
	return cuda_bf16_from_float(v[0]) | (unsigned)cuda_bf16_from_float(v[1]) << 16;
}

static __device__ __forceinline__ void whole_load(float (&v)[4], const uint16_t *p)
{
	const uint2 q = *reinterpret_cast<const uint2 *>(p);

	word_split(v, q.x);
	word_split(v + 2, q.y);
}

static __device__ __forceinline__ void whole_load(float (&v)[8], const uint16_t *p)
{
	const uint4 q = *reinterpret_cast<const uint4 *>(p);

	word_split(v, q.x);
	word_split(v + 2, q.y);
	word_split(v + 4, q.z);
	word_split(v + 6, q.w);
}

static __device__ __forceinline__ void whole_store(uint16_t *p, const float (&v)[4])
{
	*reinterpret_cast<uint2 *>(p) = make_uint2(word_join(v), word_join(v + 2));
}

static __device__ __forceinline__ void whole_store(uint16_t *p, const float (&v)[8])
{
	*reinterpret_cast<uint4 *>(p) =
		make_uint4(word_join(v), word_join(v + 2), word_join(v + 4), word_join(v + 6));
}

/* The first n elements of the pack at p, and zeros: n may be N or more, then it is whole. */
template <unsigned N, typename T>
__device__ __forceinline__ void pack_load(float (&v)[N], const T *p, size_t n)
{
	if constexpr (N == 1) {
		v[0] = element_load(p);
	} else if (n >= N) {
		whole_load(v, p);
	} else {
#pragma unroll
		for (unsigned i = 0; i < N; i++)
			v[i] = i < n ? element_load(p + i) : 0.0f;
	}
}

template <unsigned N, typename T>
__device__ __forceinline__ void pack_store(T *p, const float (&v)[N], size_t n)
{
	if constexpr (N == 1) {
		element_store(p, v[0]);
	} else if (n >= N) {
		whole_store(p, v);
	} else {
#pragma unroll
		for (unsigned i = 0; i < N; i++)
			if (i < n)
				element_store(p + i, v[i]);
	}
}

/* Elements of 128 bits. */
template <typename T> constexpr unsigned pack_of()
{
	return 16 / sizeof(T);
}

/* Host: may packs of `n` elements begin at p, and every `row` elements from there? NULL may. */
template <typename T> bool pack_aligned(const T *p, unsigned n, size_t row = 0)
{
	size_t bytes = n * sizeof(T) < 16 ? n * sizeof(T) : 16;

	return (uintptr_t)p % bytes == 0 && row * sizeof(T) % bytes == 0;
}

/* Host: blocks for `count` > 0 pieces of work, `piece` to each; the kernel strides by the grid. */
static inline unsigned cuda_blocks(size_t count, size_t piece)
{
	size_t blocks = (count + piece - 1) / piece;

	return blocks < CUDA_BLOCKS_MAX ? (unsigned)blocks : CUDA_BLOCKS_MAX;
}

/* Host: threads, in whole warps and at most `max`, for `count` pieces of work, one to a thread. */
static inline unsigned cuda_threads(size_t count, unsigned max)
{
	return count < max ? ((unsigned)count + CUDA_WARP - 1) / CUDA_WARP * CUDA_WARP : max;
}

#endif
