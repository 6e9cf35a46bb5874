/*
 * What nvcc knows without being told, for kernels compiled as C++ for the host: qualifiers,
 * built-in variables, barriers, warp collectives, rounding intrinsics, vector types. Included by
 * kernels/cuda_launch.cuh. What each does is in NVIDIA's guide; only differences are noted.
 */
#ifndef TESTS_CUDA_HOST_CUDA_DEVICE_H
#define TESTS_CUDA_HOST_CUDA_DEVICE_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "tests/cuda_host/shim.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* Neither poisoned nor bounded: CUDA_SHARED of cuda_launch.cuh is both. */
#define __shared__ static thread_local

#define threadIdx (shim_now.thread)
#define blockIdx  (shim_now.block)
#define blockDim  (shim_now.block_dim)
#define gridDim   (shim_now.grid_dim)
#define warpSize  32

/* Where a call stands, as a default argument. */
#define SHIM_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(SHIM_SITE)
{
	shim_barrier("__syncthreads", 0, file, line);
}

static inline int __syncthreads_count(int yes, SHIM_SITE)
{
	return (int)shim_barrier("__syncthreads_count", yes, file, line);
}

static inline int __syncthreads_or(int yes, SHIM_SITE)
{
	return shim_barrier("__syncthreads_or", yes, file, line) > 0;
}

static inline int __syncthreads_and(int yes, SHIM_SITE)
{
	return shim_barrier("__syncthreads_and", !yes, file, line) == 0;
}

static inline void shim_meet(void *const lanes[32])
{
	(void)lanes;
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, SHIM_SITE)
{
	shim_warp("__syncwarp", mask, shim_meet, NULL, file, line);
}

/* All lanes that have not returned: lanes of a warp never run in lockstep here. */
static inline unsigned __activemask(void)
{
	return shim_lanes_alive();
}

/* A shuffle reads a lane that is not there as all bits set; on a GPU it is undefined. */
template <typename T> struct shim_shuffle {
	T value, result;
	unsigned from;
};

template <typename T> void shim_shuffle_all(void *const lanes[32])
{
	for (unsigned i = 0; i < 32; i++) {
		shim_shuffle<T> *s = (shim_shuffle<T> *)lanes[i];

		if (s && lanes[s->from])
			s->result = ((shim_shuffle<T> *)lanes[s->from])->value;
		else if (s)
			memset(&s->result, 0xff, sizeof(T));
	}
}

template <typename T>
T shim_shuffle_from(const char *what, unsigned mask, T value, unsigned from, const char *file,
		    int line)
{
	shim_shuffle<T> s = {value, value, from};

	static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 32 or 64 bits");
	shim_warp(what, mask, shim_shuffle_all<T>, &s, file, line);
	return s.result;
}

template <typename T> T __shfl_sync(unsigned mask, T value, int from, int width = 32, SHIM_SITE)
{
	unsigned base = shim_lane() & ~(unsigned)(width - 1);

	return shim_shuffle_from("__shfl_sync", mask, value,
				 base + ((unsigned)from & (unsigned)(width - 1)), file, line);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SHIM_SITE)
{
	unsigned lane = shim_lane(), in = lane & (unsigned)(width - 1);

	return shim_shuffle_from("__shfl_down_sync", mask, value,
				 in + delta < (unsigned)width ? lane + delta : lane, file, line);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SHIM_SITE)
{
	unsigned lane = shim_lane(), in = lane & (unsigned)(width - 1);

	return shim_shuffle_from("__shfl_up_sync", mask, value, in >= delta ? lane - delta : lane,
				 file, line);
}

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SHIM_SITE)
{
	unsigned lane = shim_lane(), from = lane ^ (unsigned)bits;
	unsigned end = (lane | (unsigned)(width - 1)) + 1;

	return shim_shuffle_from("__shfl_xor_sync", mask, value, from < end ? from : lane, file,
				 line);
}

struct shim_vote {
	unsigned yes, ballot, here;
};

static inline void shim_vote_all(void *const lanes[32])
{
	unsigned ballot = 0, here = 0;

	for (unsigned i = 0; i < 32; i++)
		if (lanes[i]) {
			here |= 1u << i;
			ballot |= ((const struct shim_vote *)lanes[i])->yes << i;
		}
	for (unsigned i = 0; i < 32; i++)
		if (lanes[i]) {
			((struct shim_vote *)lanes[i])->ballot = ballot;
			((struct shim_vote *)lanes[i])->here = here;
		}
}

static inline struct shim_vote shim_vote_in(const char *what, unsigned mask, int yes,
					    const char *file, int line)
{
	struct shim_vote v = {yes != 0, 0, 0};

	shim_warp(what, mask, shim_vote_all, &v, file, line);
	return v;
}

static inline unsigned __ballot_sync(unsigned mask, int yes, SHIM_SITE)
{
	return shim_vote_in("__ballot_sync", mask, yes, file, line).ballot;
}

static inline int __any_sync(unsigned mask, int yes, SHIM_SITE)
{
	return shim_vote_in("__any_sync", mask, yes, file, line).ballot != 0;
}

static inline int __all_sync(unsigned mask, int yes, SHIM_SITE)
{
	struct shim_vote v = shim_vote_in("__all_sync", mask, yes, file, line);

	return v.ballot == v.here;
}

/* Built with -ffp-contract=off and no fast-math, every operation rounds to nearest by itself. */
static inline float __fadd_rn(float a, float b)
{
	return a + b;
}
static inline float __fsub_rn(float a, float b)
{
	return a - b;
}
static inline float __fmul_rn(float a, float b)
{
	return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
	return a / b;
}
static inline float __fsqrt_rn(float a)
{
	return sqrtf(a);
}
static inline float __fmaf_rn(float a, float b, float c)
{
	return fmaf(a, b, c);
}
static inline double __dadd_rn(double a, double b)
{
	return a + b;
}
static inline double __dmul_rn(double a, double b)
{
	return a * b;
}
static inline double __fma_rn(double a, double b, double c)
{
	return fma(a, b, c);
}
/*
 * The fast forms of a GPU are within a few ulp; these are the exact ones. By other names, since C
 * libraries have functions of these.
 */
static inline float shim_expf(float a)
{
	return expf(a);
}
static inline float shim_logf(float a)
{
	return logf(a);
}
static inline float shim_rsqrtf(float a)
{
	return 1.0f / sqrtf(a);
}
#define __expf shim_expf
#define __logf shim_logf
#define rsqrtf shim_rsqrtf
static inline float __fdividef(float a, float b)
{
	return a / b;
}

template <typename To, typename From> To shim_bits(From from)
{
	To to;

	static_assert(sizeof(to) == sizeof(from), "as many bits");
	memcpy(&to, &from, sizeof(to));
	return to;
}
static inline unsigned __float_as_uint(float a)
{
	return shim_bits<unsigned>(a);
}
static inline int __float_as_int(float a)
{
	return shim_bits<int>(a);
}
static inline float __uint_as_float(unsigned a)
{
	return shim_bits<float>(a);
}
static inline float __int_as_float(int a)
{
	return shim_bits<float>(a);
}
static inline int __popc(unsigned a)
{
	return __builtin_popcount(a);
}
static inline int __ffs(int a)
{
	return __builtin_ffs(a);
}
static inline int __clz(int a)
{
	return a ? __builtin_clz((unsigned)a) : 32;
}

#define SHIM_VECTOR_2(name, type, n)                                                               \
	struct __attribute__((aligned(n))) name {                                                  \
		type x, y;                                                                         \
	};                                                                                         \
	static inline name make_##name(type x, type y)                                             \
	{                                                                                          \
		return name{x, y};                                                                 \
	}
#define SHIM_VECTOR_4(name, type, n)                                                               \
	struct __attribute__((aligned(n))) name {                                                  \
		type x, y, z, w;                                                                   \
	};                                                                                         \
	static inline name make_##name(type x, type y, type z, type w)                             \
	{                                                                                          \
		return name{x, y, z, w};                                                           \
	}
SHIM_VECTOR_2(float2, float, 8)
SHIM_VECTOR_2(uint2, unsigned, 8)
SHIM_VECTOR_2(double2, double, 16)
SHIM_VECTOR_2(ushort2, unsigned short, 4)
SHIM_VECTOR_4(float4, float, 16)
SHIM_VECTOR_4(uint4, unsigned, 16)
SHIM_VECTOR_4(int4, int, 16)
SHIM_VECTOR_4(ushort4, unsigned short, 8)
#undef SHIM_VECTOR_2
#undef SHIM_VECTOR_4

/* A launch with the kernel's arguments, copied when it is enqueued. */
template <typename Body> struct shim_job {
	struct shim_launch head; /* first: what the runner knows of it */
	Body body;

	void *operator new(size_t bytes) noexcept
	{
		return malloc(bytes);
	}
	void operator delete(void *p)
	{
		free(p);
	}
	static void thread(const struct shim_launch *launch)
	{
		((const shim_job *)launch)->body();
	}
};

template <typename T> struct shim_same {
	typedef T type;
};

template <typename... P>
void shim_launch_kernel(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
			size_t shared_bytes, cudaStream_t stream,
			typename shim_same<P>::type... args)
{
	auto body = [=]() { kernel(args...); };
	typedef shim_job<decltype(body)> job;

	static_assert(__is_trivially_copyable(decltype(body)), "arguments are copied as bytes");
	static_assert(sizeof(body) <= 4096, "a kernel takes at most 4 KiB of arguments");
	shim_enqueue((struct shim_launch *)new job{{name, (const void *)kernel, grid, block,
						    shared_bytes, 0, job::thread},
						   body},
		     stream);
}

#endif
