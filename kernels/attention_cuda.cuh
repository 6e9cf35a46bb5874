/*
 * What the files of attention on the GPU share: the sizes of a problem as kernels take them, and
 * where one head lies. See attention_cuda.cu.
 */
#ifndef KERNELS_ATTENTION_CUDA_CUH
#define KERNELS_ATTENTION_CUDA_CUH

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/attention.h"
#include "kernels/cuda_launch.cuh"

#define LOG2_E 1.44269504088896341f
#define LN_2   0.693147180559945309f

#define ATTENTION_THREADS 128u

/* Elements are of type T. A query sees the keys up to its own place. */
template <typename T> struct attention_task {
	unsigned seq, heads,
		dim; /* checked by attention_cuda.cu: tokens are less than 2^31 apart */
	const T *qkv, *dout;
	T *out, *dqkv;
	float *lse, *delta; /* delta: per query, the sum of dout times out */
	float scale;        /* 1 / sqrt(dim) */
	bool pieces; /* every head's row of every array begins on 16 bytes, and is whole ones */
};

template <typename T> static inline attention_task<T> attention_task_of(const struct attention *a)
{
	uintptr_t ends = (uintptr_t)a->qkv | (uintptr_t)a->dout | (uintptr_t)a->out |
			 (uintptr_t)a->dqkv | a->head_dim * sizeof(T);
	attention_task<T> task = {};

	task.seq = (unsigned)a->seq;
	task.heads = (unsigned)a->heads;
	task.dim = (unsigned)a->head_dim;
	task.qkv = (const T *)a->qkv;
	task.dout = (const T *)a->dout;
	task.out = (T *)a->out;
	task.dqkv = (T *)a->dqkv;
	task.lse = a->lse;
	task.delta = a->scratch;
	task.scale = 1.0f / sqrtf((float)a->head_dim);
	task.pieces = ends % 16 == 0;
	return task;
}

/* One head of one sequence: of qkv and dqkv, of out and dout, of lse and delta. */
struct attention_head {
	unsigned in_row, out_row; /* distance of tokens */
	size_t q_at, k_at, v_at, out_at, lse_at;
};

/* `index` counts heads within sequences: batch * heads + head. */
template <typename T>
static __device__ inline struct attention_head attention_head_of(const attention_task<T> &a,
								 unsigned index)
{
	unsigned width = a.heads * a.dim;
	size_t batch = index / a.heads, head = index % a.heads;
	struct attention_head h;

	h.in_row = 3 * width;
	h.out_row = width;
	h.q_at = batch * a.seq * h.in_row + head * a.dim;
	h.k_at = h.q_at + width;
	h.v_at = h.k_at + width;
	h.out_at = batch * a.seq * h.out_row + head * a.dim;
	h.lse_at = (size_t)index * a.seq;
	return h;
}

/* A kernel for head_dim up to `dim`, a block of which owns `rows` tokens of one head. */
template <typename T> struct attention_shape {
	unsigned dim, rows;
	unsigned parts; /* blocks of a tile, each with its part of the columns: gridDim.y */
	size_t shared_bytes;
	void (*kernel)(attention_task<T>);
};

/*
 * Launches the first of the shapes that head_dim fits in; attention_cuda.cu has seen that it fits
 * in the last, and that the grid is no problem.
 */
template <typename T, size_t COUNT>
static inline cudaError_t attention_launch(const attention_shape<T> (&shapes)[COUNT],
					   const struct attention *a, cudaStream_t stream)
{
	const attention_shape<T> *s = shapes;
	size_t blocks;
	cudaError_t rc;

	while (s->dim < a->head_dim)
		s++;
	blocks = (a->seq + s->rows - 1) / s->rows * a->batch * a->heads;
	/* More than 48 KiB have to be asked for. */
	rc = cudaFuncSetAttribute((const void *)s->kernel,
				  cudaFuncAttributeMaxDynamicSharedMemorySize,
				  (int)s->shared_bytes);
	if (rc != cudaSuccess)
		return rc;
	CUDA_LAUNCH(s->kernel, dim3((unsigned)blocks, s->parts), dim3(ATTENTION_THREADS),
		    s->shared_bytes, stream, attention_task_of<T>(a));
	return cudaPeekAtLastError();
}

/* One file each. Backward finds delta in a->scratch. */
cudaError_t attention_forward_bf16(const struct attention *a, cudaStream_t stream);
cudaError_t attention_backward_bf16(const struct attention *a, cudaStream_t stream);
cudaError_t attention_forward_f32(const struct attention *a, cudaStream_t stream);
cudaError_t attention_backward_f32(const struct attention *a, cudaStream_t stream);

#endif
