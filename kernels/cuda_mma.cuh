/*
 * What a warp does together on matrices: products of bf16 fragments summed in fp32 (mma.sync),
 * fragments from shared memory (ldmatrix), and copies into shared memory that run by themselves
 * (cp.async). Each is one PTX instruction of sm_80 and later; compiled for the host, each has a
 * second body that does the same through exchanges between the warp's lanes.
 *
 * Layout. Lane l is in group g = l / 4 and is number t = l % 4 of it. A register holds two bf16,
 * the lower index in its lower half. PTX ISA, "Matrix fragments for mma.m16n8k16":
 *
 *   A, 16 x 16 (row, k)   a[0]: (g, 2t..2t+1)        a[1]: (g + 8, 2t..2t+1)
 *                         a[2]: (g, 2t+8..2t+9)      a[3]: (g + 8, 2t+8..2t+9)
 *   B, 16 x 8 (k, column) b0: (2t..2t+1, g)          b1: (2t+8..2t+9, g)
 *   C, 16 x 8             c[0], c[1]: (g, 2t), (g, 2t+1)
 *                         c[2], c[3]: (g + 8, 2t), (g + 8, 2t+1)
 *
 * ldmatrix.x4 reads four 8 x 8 matrices whose rows are 16 bytes each: lane l gives the address of
 * row l % 8 of matrix l / 8, and gets in r[i] elements (g, 2t..2t+1) of matrix i; with .trans,
 * elements (2t..2t+1, g). Hence:
 *
 * 1. An A fragment of a matrix stored by rows: lane l points at row l % 16, eight elements at
 *    8 (l / 16): matrices 0 to 3 are then a[0] to a[3]. mma_a_row, mma_a_column say so.
 * 2. Two B fragments of neighbouring columns, where a column's k lie side by side (B is "x y^T"
 *    with y stored by rows): lane l points at row l % 8 + 8 (l / 16) of y, eight elements at
 *    8 (l / 8 % 2): r[0], r[1] are b0, b1 of columns 0..7, r[2], r[3] those of columns 8..15.
 *    mma_b_row, mma_b_column.
 * 3. Two B fragments of neighbouring columns, where a row of k lies side by side: with .trans and
 *    the addresses of 1, r[0], r[1] are b0, b1 of columns 0..7, r[2], r[3] those of 8..15.
 * 4. C fragments of columns 0..7 and 8..15, rounded and packed in pairs, are an A fragment:
 *    a[0] = (c[0], c[1]), a[1] = (c[2], c[3]) of the first, a[2] and a[3] of the second.
 *
 * All lanes of a warp call these together; a pointer into shared memory is 16-byte aligned. The
 * host bodies multiply exactly and add in fp32 in the order of k; the tensor cores' order and
 * rounding of partial sums are the chip's own, and the same in every run.
 */
#ifndef KERNELS_CUDA_MMA_CUH
#define KERNELS_CUDA_MMA_CUH

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cuda_launch.cuh"

static __device__ inline unsigned mma_a_row(unsigned lane)
{
	return lane % 16;
}

static __device__ inline unsigned mma_a_column(unsigned lane)
{
	return lane / 16 * 8;
}

static __device__ inline unsigned mma_b_row(unsigned lane)
{
	return lane % 8 + lane / 16 * 8;
}

static __device__ inline unsigned mma_b_column(unsigned lane)
{
	return lane / 8 % 2 * 8;
}

#ifdef __CUDACC__

static __device__ inline uint32_t shared_address(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

/* c += a b */
static __device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
				       uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
	    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ inline void ldmatrix_x4(uint32_t (&r)[4], const uint16_t *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(shared_address(row))
		     : "memory");
}

static __device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const uint16_t *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(shared_address(row))
		     : "memory");
}

/*
 * Starts copying 16 bytes, both ends 16-byte aligned, to shared memory; zeros where not `exists`,
 * src being not read then.
 */
static __device__ inline void copy_async_16(void *shared, const void *src, bool exists)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
		     "l"(src), "r"(exists ? 16 : 0)
		     : "memory");
}

/* The same for 4 bytes. */
static __device__ inline void copy_async_4(void *shared, const void *src, bool exists)
{
	asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
		     "l"(src), "r"(exists ? 4 : 0)
		     : "memory");
}

/* Waits for all copies this thread has started; __syncthreads then shows them to the block. */
static __device__ inline void copy_async_wait(void)
{
	asm volatile("cp.async.wait_all;" ::: "memory");
}

/* 16 bytes, both ends 16-byte aligned; 4 bytes, 4-byte aligned. */
static __device__ inline void copy_16(uint16_t *to, const uint16_t *from)
{
	*reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from);
}

static __device__ inline void store_4(uint16_t *to, uint32_t pair)
{
	*reinterpret_cast<uint32_t *>(to) = pair;
}

/* Two floats rounded to bf16, nearest even: x in the lower half. */
static __device__ inline uint32_t bf16_pack(float x, float y)
{
	uint32_t pair;

	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
	return pair;
}

/* 2^x, within 2^-22 relative; 0 where the result would be denormal, and for -infinity. */
static __device__ inline float exp2_fast(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

#else

/* What a lane brings to a product and takes from it. */
struct mma_lane {
	float *c;
	const uint32_t *a;
	uint32_t b[2];
};

static inline float mma_half(uint32_t pair, unsigned upper)
{
	return cuda_bf16_to_float((uint16_t)(pair >> 16 * upper));
}

static inline float mma_a_at(void *const lanes[32], unsigned row, unsigned k)
{
	const struct mma_lane *owner = (const struct mma_lane *)lanes[row % 8 * 4 + k % 8 / 2];

	return mma_half(owner->a[row / 8 + k / 8 * 2], k % 2);
}

static inline float mma_b_at(void *const lanes[32], unsigned k, unsigned column)
{
	const struct mma_lane *owner = (const struct mma_lane *)lanes[column * 4 + k % 8 / 2];

	return mma_half(owner->b[k / 8], k % 2);
}

static inline float *mma_c_at(void *const lanes[32], unsigned row, unsigned column)
{
	const struct mma_lane *owner = (const struct mma_lane *)lanes[row % 8 * 4 + column / 2];

	return &owner->c[row / 8 * 2 + column % 2];
}

static inline void mma_warp(void *const lanes[32])
{
	float a[16][16], b[16][8];

	for (unsigned k = 0; k < 16; k++) {
		for (unsigned i = 0; i < 16; i++)
			a[i][k] = mma_a_at(lanes, i, k);
		for (unsigned j = 0; j < 8; j++)
			b[k][j] = mma_b_at(lanes, k, j);
	}
	for (unsigned i = 0; i < 16; i++)
		for (unsigned j = 0; j < 8; j++) {
			float *c = mma_c_at(lanes, i, j), sum = *c;

			for (unsigned k = 0; k < 16; k++)
				sum += a[i][k] * b[k][j];
			*c = sum;
		}
}

static inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	struct mma_lane mine = {c, a, {b0, b1}};

	shim_warp("mma_bf16", ~0u, mma_warp, &mine, __FILE__, __LINE__);
}

/* What a lane brings to an ldmatrix and takes from it. */
struct ldmatrix_lane {
	uint32_t *r;
	const uint16_t *row;
};

static inline void ldmatrix_lane_read(void *const lanes[32], unsigned lane, bool trans)
{
	const struct ldmatrix_lane *to = (const struct ldmatrix_lane *)lanes[lane];
	unsigned g = lane / 4, t = lane % 4;

	for (unsigned i = 0; i < 4; i++) {
		uint32_t pair = 0;

		for (unsigned e = 0; e < 2; e++) {
			unsigned row = trans ? 2 * t + e : g, column = trans ? g : 2 * t + e;
			const struct ldmatrix_lane *from =
				(const struct ldmatrix_lane *)lanes[8 * i + row];

			pair |= (uint32_t)from->row[column] << 16 * e;
		}
		to->r[i] = pair;
	}
}

static inline void ldmatrix_warp(void *const lanes[32])
{
	for (unsigned lane = 0; lane < CUDA_WARP; lane++)
		ldmatrix_lane_read(lanes, lane, false);
}

static inline void ldmatrix_trans_warp(void *const lanes[32])
{
	for (unsigned lane = 0; lane < CUDA_WARP; lane++)
		ldmatrix_lane_read(lanes, lane, true);
}

static inline void ldmatrix_x4(uint32_t (&r)[4], const uint16_t *row)
{
	struct ldmatrix_lane mine = {r, row};

	assert((uintptr_t)row % 16 == 0);
	shim_warp("ldmatrix_x4", ~0u, ldmatrix_warp, &mine, __FILE__, __LINE__);
}

static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const uint16_t *row)
{
	struct ldmatrix_lane mine = {r, row};

	assert((uintptr_t)row % 16 == 0);
	shim_warp("ldmatrix_x4_trans", ~0u, ldmatrix_trans_warp, &mine, __FILE__, __LINE__);
}

/*
 * A copy happens as late as it may: when its thread waits. Until then its target is NaNs, so that
 * a read too early gives a wrong result.
 */
#define COPIES_MAX 64u

struct copy_async {
	void *shared;
	const void *src; /* NULL: zeros */
	size_t bytes;
};

struct copies_async {
	struct copy_async of[COPIES_MAX];
	unsigned count;
};

static inline unsigned thread_of_block(void)
{
	return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}

static inline struct copies_async *copies_of_thread(void)
{
	static thread_local struct copies_async copies[1024];

	return &copies[thread_of_block()];
}

static inline void copy_async_start(void *shared, const void *src, size_t bytes)
{
	struct copies_async *copies = copies_of_thread();

	assert(copies->count < COPIES_MAX);
	copies->of[copies->count++] = {shared, src, bytes};
	memset(shared, 0xff, bytes);
}

static inline void copy_async_16(void *shared, const void *src, bool exists)
{
	assert((uintptr_t)shared % 16 == 0 && (uintptr_t)src % 16 == 0);
	copy_async_start(shared, exists ? src : nullptr, 16);
}

static inline void copy_async_4(void *shared, const void *src, bool exists)
{
	copy_async_start(shared, exists ? src : nullptr, 4);
}

static inline void copy_async_wait(void)
{
	struct copies_async *copies = copies_of_thread();

	for (unsigned i = 0; i < copies->count; i++) {
		const struct copy_async *c = &copies->of[i];

		if (c->src)
			memcpy(c->shared, c->src, c->bytes);
		else
			memset(c->shared, 0, c->bytes);
	}
	copies->count = 0;
}

static inline void copy_16(uint16_t *to, const uint16_t *from)
{
	assert((uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0);
	memcpy(to, from, 16);
}

static inline void store_4(uint16_t *to, uint32_t pair)
{
	assert((uintptr_t)to % 4 == 0);
	memcpy(to, &pair, 4);
}

static inline uint32_t bf16_pack(float x, float y)
{
	return cuda_bf16_from_float(x) | (uint32_t)cuda_bf16_from_float(y) << 16;
}

static inline float exp2_fast(float x)
{
	return exp2f(x);
}

#endif

#endif
