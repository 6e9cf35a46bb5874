/*
 * Embeddings on a GPU. Launched by the cuda device. Backward adds each element's rows in batch
 * order, with the bits of the cpu's, and needs no atomics and no room:
 *
 * 1. A token of the batch whose id has come before is another block's. The first of its id belongs
 *    to a block (for each slice of columns), which goes through the rest of the batch and adds the
 *    row of every later occurrence, in order. So one block writes a row of the table.
 * 2. The batch is gone through in chunks: every thread looks at some tokens, a warp's votes make
 *    words of a bit map, and the bits become a list in shared memory, in order of position.
 *
 * Looking for ids costs (tokens of the batch) * (different ones among them) * 4 bytes from the
 * second-level cache: for 16384 tokens, 5000 of them different, 0.3 GB a slice of columns, or a
 * tenth of a millisecond. Adding reads every row once.
 */
#include "kernels/embedding.h"

#include "kernels/cuda_internal.h"
#include "kernels/cuda_pack.cuh"

/* Of backward. */
#define THREADS     128u
#define WARPS       (THREADS / CUDA_WARP)
#define CHUNK       1024u /* tokens looked at between barriers */
#define CHUNK_WORDS (CHUNK / CUDA_WARP)
#define ROWS_AHEAD  8u /* rows loaded before any is added */

static_assert(CHUNK_WORDS == CUDA_WARP, "a warp numbers a chunk's matches, a word to a lane");

template <typename T, unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS)
	forward_kernel(float *out, const T *token_table, const T *position_table,
		       const uint32_t *tokens, size_t rows, size_t seq, size_t width)
{
	for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
		const T *const token = token_table + tokens[row] * width;
		const T *const position = position_table + row % seq * width;

		for (size_t j = (size_t)threadIdx.x * N; j < width; j += blockDim.x * N) {
			float x[N], y[N];

			pack_load(x, token + j, width - j);
			pack_load(y, position + j, width - j);
#pragma unroll
			for (unsigned k = 0; k < N; k++)
				x[k] += y[k];
			pack_store(out + row * width + j, x, width - j);
		}
	}
}

/* dposition[p] += dout[b][p], b in order: positions go over the grid's y, columns over its x. */
template <unsigned N>
static __global__ void __launch_bounds__(CUDA_THREADS)
	position_kernel(float *dposition, const float *dout, size_t batch, size_t seq, size_t width)
{
	const size_t j = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N, n = width - j;

	if (j >= width)
		return;
	for (size_t p = blockIdx.y; p < seq; p += gridDim.y) {
		float sum[N];

		pack_load(sum, dposition + p * width + j, n);
#pragma unroll 4
		for (size_t b = 0; b < batch; b++) {
			float x[N];

			pack_load(x, dout + (b * seq + p) * width + j, n);
#pragma unroll
			for (unsigned k = 0; k < N; k++)
				sum[k] += x[k];
		}
		pack_store(dposition + p * width + j, sum, n);
	}
}

/* Does id stand among tokens[0..count)? All threads of the block ask together. */
static __device__ bool came_before(const uint32_t *tokens, size_t count, uint32_t id)
{
	for (size_t chunk = 0; chunk < count; chunk += CHUNK) {
		bool found = false;

#pragma unroll
		for (unsigned k = 0; k < CHUNK; k += THREADS) {
			const size_t i = chunk + k + threadIdx.x;

			found |= i < count && tokens[i] == id;
		}
		if (__syncthreads_or(found))
			return true;
	}
	return false;
}

/*
 * Writes where in tokens[0..count) id stands, of at most CHUNK, to list, in order, and returns how
 * many they are. All threads of the block.
 */
static __device__ unsigned matches_list(uint16_t *list, const uint32_t *tokens, size_t count,
					uint32_t id)
{
	CUDA_SHARED(unsigned, words, [CHUNK_WORDS]);
	CUDA_SHARED(unsigned, total, );
	const unsigned lane = threadIdx.x % CUDA_WARP;

#pragma unroll
	for (unsigned k = 0; k < CHUNK; k += THREADS) {
		const unsigned i = k + threadIdx.x;
		const unsigned vote = __ballot_sync(CUDA_WARP_FULL, i < count && tokens[i] == id);

		if (lane == 0)
			words[i / CUDA_WARP] = vote;
	}
	__syncthreads();
	if (threadIdx.x < CUDA_WARP) {
		unsigned word = words[lane], end = (unsigned)__popc(word), at;

		for (unsigned d = 1; d < CUDA_WARP; d *= 2) {
			const unsigned below = __shfl_up_sync(CUDA_WARP_FULL, end, d);

			end += lane >= d ? below : 0;
		}
		for (at = end - (unsigned)__popc(word); word; word &= word - 1)
			list[at++] = (uint16_t)(lane * CUDA_WARP + (unsigned)__ffs((int)word) - 1);
		if (lane == CUDA_WARP - 1)
			total = end;
	}
	__syncthreads();
	return total;
}

/* sum += the listed rows of dout, in the list's order. */
template <unsigned N>
static __device__ void rows_add(float (&sum)[N], const float *dout, const uint16_t *list,
				unsigned count, size_t width, size_t n)
{
	for (unsigned i = 0; i < count; i += ROWS_AHEAD) {
		float x[ROWS_AHEAD][N];

#pragma unroll
		for (unsigned a = 0; a < ROWS_AHEAD; a++)
			if (i + a < count)
				pack_load(x[a], dout + list[i + a] * width, n);
#pragma unroll
		for (unsigned a = 0; a < ROWS_AHEAD; a++)
			if (i + a < count)
#pragma unroll
				for (unsigned k = 0; k < N; k++)
					sum[k] += x[a][k];
	}
}

/* Tokens of the batch go over the grid's x, slices of columns over its y. */
template <unsigned N>
static __global__ void __launch_bounds__(THREADS)
	token_kernel(float *dtoken, const float *dout, const uint32_t *tokens, size_t rows,
		     size_t width)
{
	CUDA_SHARED(uint16_t, list, [CHUNK]);
	const size_t first = blockIdx.x;
	const size_t j = ((size_t)blockIdx.y * THREADS + threadIdx.x) * N;
	const bool column = j < width;
	const size_t n = column ? width - j : 0;
	const uint32_t id = tokens[first];
	float *const at = dtoken + id * width + j;
	float sum[N] = {};

	if (came_before(tokens, first, id))
		return;
	if (column)
		pack_load(sum, at, n);
	for (size_t chunk = first; chunk < rows; chunk += CHUNK) {
		const unsigned count = matches_list(list, tokens + chunk, rows - chunk, id);

		if (column)
			rows_add(sum, dout + chunk * width + j, list, count, width, n);
		/* The next chunk's list is written behind a barrier of its own. */
	}
	if (column)
		pack_store(at, sum, n);
}

template <typename T> static cudaError_t forward(const struct embedding *e, cudaStream_t stream)
{
	const T *token = static_cast<const T *>(e->token_table);
	const T *position = static_cast<const T *>(e->position_table);
	const size_t rows = e->batch * e->seq;
	const unsigned blocks = cuda_blocks(rows, 1);

	if (pack_aligned(token, 4, e->width) && pack_aligned(position, 4) &&
	    pack_aligned(e->out, 4, e->width))
		CUDA_LAUNCH((forward_kernel<T, 4>), blocks,
			    cuda_threads((e->width + 3) / 4, CUDA_THREADS), 0, stream, e->out,
			    token, position, e->tokens, rows, e->seq, e->width);
	else
		CUDA_LAUNCH((forward_kernel<T, 1>), blocks, cuda_threads(e->width, CUDA_THREADS), 0,
			    stream, e->out, token, position, e->tokens, rows, e->seq, e->width);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_embedding_forward(const void *args, cudaStream_t stream)
{
	const struct embedding *e = static_cast<const struct embedding *>(args);

	if (e->batch * e->seq * e->width == 0)
		return cudaSuccess;
	return e->type == DTYPE_BF16 ? forward<uint16_t>(e, stream) : forward<float>(e, stream);
}

template <unsigned N> static cudaError_t backward(const struct embedding *e, cudaStream_t stream)
{
	const size_t packs = (e->width + N - 1) / N, rows = e->batch * e->seq;
	const unsigned threads = cuda_threads(packs, CUDA_THREADS);
	const dim3 positions((unsigned)((packs + threads - 1) / threads),
			     (unsigned)(e->seq < 65535 ? e->seq : 65535));
	const dim3 tokens((unsigned)rows, (unsigned)((packs + THREADS - 1) / THREADS));

	CUDA_LAUNCH(position_kernel<N>, positions, threads, 0, stream, e->dposition, e->dout,
		    e->batch, e->seq, e->width);
	CUDA_LAUNCH(token_kernel<N>, tokens, THREADS, 0, stream, e->dtoken, e->dout, e->tokens,
		    rows, e->width);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_embedding_backward(const void *args, cudaStream_t stream)
{
	const struct embedding *e = static_cast<const struct embedding *>(args);

	if (e->batch * e->seq * e->width == 0)
		return cudaSuccess;
	if (pack_aligned(e->dout, 4, e->width) && pack_aligned(e->dtoken, 4) &&
	    pack_aligned(e->dposition, 4))
		return backward<4>(e, stream);
	return backward<1>(e, stream);
}
