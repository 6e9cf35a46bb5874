/*
 * Rotary positions on a GPU, with the bits of the cpu's where x is fp32: a block takes a token at a
 * time, its threads the packs of pairs of all heads. Launched by the cuda device.
 *
 * 1. Pair j of a head is elements j and j + head_dim / 2; a thread reads and writes both.
 */
#include "kernels/rotary.h"

#include "kernels/cuda_internal.h"
#include "kernels/cuda_pack.cuh"

template <typename Act, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS) rotary_kernel(const struct rotary r)
{
	const size_t tokens = r.batch * r.seq, half = r.head_dim / 2;
	/* Packs of a token, far below 2^32: they index what one row of x holds. */
	const unsigned of_head = (unsigned)((half + N - 1) / N);
	const unsigned packs = (unsigned)r.heads * of_head;

	for (size_t token = blockIdx.x; token < tokens; token += gridDim.x) {
		Act *const x = static_cast<Act *>(r.x) + token * r.row;
		const float *const table = r.table + token % r.seq * r.head_dim;

		for (unsigned i = threadIdx.x; i < packs; i += blockDim.x) {
			const size_t j = (size_t)(i % of_head) * N, n = half - j;
			Act *const at = x + i / of_head * r.head_dim + j;
			float turn[2 * N], a[N], b[N], to_a[N], to_b[N];

			if constexpr (N == 1) {
				turn[0] = table[2 * j];
				turn[1] = table[2 * j + 1];
			} else {
				pack_load(turn, table + 2 * j, 2 * n);
			}
			pack_load(a, at, n);
			pack_load(b, at + half, n);
#pragma unroll
			for (unsigned k = 0; k < N; k++) {
				const float c = turn[2 * k];
				const float s = r.inverse ? -turn[2 * k + 1] : turn[2 * k + 1];

				to_a[k] = a[k] * c - b[k] * s;
				to_b[k] = fmaf(b[k], c, a[k] * s);
			}
			pack_store(at, to_a, n);
			pack_store(at + half, to_b, n);
		}
	}
}

template <typename Act> static cudaError_t turn(const struct rotary *r, cudaStream_t stream)
{
	constexpr unsigned N = pack_of<Act>();
	const Act *x = static_cast<const Act *>(r->x);
	const size_t half = r->head_dim / 2, pairs = r->heads * half;
	const unsigned blocks = cuda_blocks(r->batch * r->seq, 1);

	if (pack_aligned(x, N, r->row) && pack_aligned(x, N, half) && pack_aligned(r->table, 4))
		CUDA_LAUNCH((rotary_kernel<Act, N>), blocks, cuda_threads(pairs / N, CUDA_THREADS),
			    0, stream, *r);
	else
		CUDA_LAUNCH((rotary_kernel<Act, 1>), blocks, cuda_threads(pairs, CUDA_THREADS), 0,
			    stream, *r);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_rotary(const void *args, cudaStream_t stream)
{
	const struct rotary *r = static_cast<const struct rotary *>(args);

	if (r->batch * r->seq == 0)
		return cudaSuccess;
	return r->act == DTYPE_BF16 ? turn<uint16_t>(r, stream) : turn<float>(r, stream);
}
