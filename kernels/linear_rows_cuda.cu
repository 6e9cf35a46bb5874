/*
 * What goes with a product and cuBLASLt does not do as we want it: sums over rows, a bias that is
 * to be widened or added. Called by linear_cuda.c, under its lock.
 *
 * cuda_column_sum: each block sums a tile of columns over a piece of the rows into `partials`, then
 * one thread a column adds the pieces in their order. How rows are cut follows from their number,
 * so that a column's bits do not depend on anything else.
 */
#include "kernels/cuda_launch.cuh"
#include "kernels/linear_cuda.h"

#define TILE_COLS  64u
#define TILE_LANES 4u  /* threads of a block that share a column, each every fourth row */
#define PIECES_MAX 64u /* with GPT-2's narrowest layer some 800 blocks: enough for any chip */
#define PIECE_MIN  64u /* rows: a block's sum outweighs its partial's way through memory */
#define THREADS    256u

/* Of a row, so that a thread's index is one number whatever the matrix. */
#define GRID_Y_MAX 65535u

template <typename T> static __device__ float load(const T *p);

template <> __device__ __forceinline__ float load<float>(const float *p)
{
	return *p;
}

template <> __device__ __forceinline__ float load<uint16_t>(const uint16_t *p)
{
	return cuda_bf16_to_float(*p);
}

static __device__ __forceinline__ void store(float *p, float value)
{
	*p = value;
}

static __device__ __forceinline__ void store(uint16_t *p, float value)
{
	*p = cuda_bf16_from_float(value);
}

/* grid (tiles of columns, pieces of rows), block (TILE_COLS, TILE_LANES) */
template <typename T>
static __global__ void piece_sums(float *partials, const T *m, size_t rows, size_t cols,
				  size_t stride, size_t piece_rows)
{
	CUDA_SHARED(float, lanes, [TILE_LANES][TILE_COLS]);
	const size_t col = (size_t)blockIdx.x * TILE_COLS + threadIdx.x;
	const size_t begin = (size_t)blockIdx.y * piece_rows;
	const size_t end = begin + piece_rows < rows ? begin + piece_rows : rows;
	float sum = 0.0f;

	if (col < cols)
		for (size_t row = begin + threadIdx.y; row < end; row += TILE_LANES)
			sum += load(&m[row * stride + col]);
	lanes[threadIdx.y][threadIdx.x] = sum;
	__syncthreads();
	if (threadIdx.y > 0 || col >= cols)
		return;
	for (unsigned lane = 1; lane < TILE_LANES; lane++)
		sum += lanes[lane][threadIdx.x];
	partials[blockIdx.y * cols + col] = sum;
}

static __global__ void pieces_add(float *sums, const float *partials, size_t cols, size_t pieces)
{
	const size_t col = (size_t)blockIdx.x * THREADS + threadIdx.x;
	float sum = 0.0f;

	if (col >= cols)
		return;
	for (size_t piece = 0; piece < pieces; piece++)
		sum += partials[piece * cols + col];
	sums[col] += sum;
}

static __global__ void widen(float *to, const uint16_t *from, size_t count)
{
	const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;

	if (i < count)
		to[i] = cuda_bf16_to_float(from[i]);
}

/* grid (pieces of columns, rows or as many as a grid has) */
template <typename T, typename B>
static __global__ void bias_add(T *y, const B *bias, size_t rows, size_t cols, size_t stride)
{
	const size_t col = (size_t)blockIdx.x * THREADS + threadIdx.x;

	if (col >= cols)
		return;
	for (size_t row = blockIdx.y; row < rows; row += gridDim.y)
		store(&y[row * stride + col], load(&y[row * stride + col]) + load(&bias[col]));
}

static size_t parts(size_t count, size_t piece)
{
	return count / piece + (count % piece != 0);
}

extern "C" cudaError_t cuda_column_sum(float *sums, const void *m, enum dtype type, size_t rows,
				       size_t cols, size_t stride, float *partials,
				       size_t partials_count, cudaStream_t stream)
{
	size_t pieces = parts(rows, PIECE_MIN), room = partials_count / cols, piece_rows;

	if (room == 0)
		return cudaErrorInvalidValue;
	if (rows == 0)
		return cudaSuccess;
	pieces = pieces < PIECES_MAX ? pieces : PIECES_MAX;
	pieces = pieces < room ? pieces : room;
	piece_rows = parts(rows, pieces);
	pieces = parts(rows, piece_rows);

	const dim3 grid((unsigned)parts(cols, TILE_COLS), (unsigned)pieces);
	const dim3 block(TILE_COLS, TILE_LANES);

	if (type == DTYPE_BF16)
		CUDA_LAUNCH((piece_sums<uint16_t>), grid, block, 0, stream, partials,
			    static_cast<const uint16_t *>(m), rows, cols, stride, piece_rows);
	else
		CUDA_LAUNCH((piece_sums<float>), grid, block, 0, stream, partials,
			    static_cast<const float *>(m), rows, cols, stride, piece_rows);
	CUDA_LAUNCH(pieces_add, dim3((unsigned)parts(cols, THREADS)), dim3(THREADS), 0, stream,
		    sums, partials, cols, pieces);
	return cudaPeekAtLastError();
}

extern "C" cudaError_t cuda_bias_widen(float *to, const uint16_t *from, size_t count,
				       cudaStream_t stream)
{
	CUDA_LAUNCH(widen, dim3((unsigned)parts(count, THREADS)), dim3(THREADS), 0, stream, to,
		    from, count);
	return cudaPeekAtLastError();
}

template <typename T>
static void bias_add_launch(T *y, const void *bias, enum dtype bias_type, size_t rows, size_t cols,
			    size_t stride, cudaStream_t stream)
{
	const dim3 grid((unsigned)parts(cols, THREADS),
			(unsigned)(rows < GRID_Y_MAX ? rows : GRID_Y_MAX));

	if (bias_type == DTYPE_BF16)
		CUDA_LAUNCH((bias_add<T, uint16_t>), grid, dim3(THREADS), 0, stream, y,
			    static_cast<const uint16_t *>(bias), rows, cols, stride);
	else
		CUDA_LAUNCH((bias_add<T, float>), grid, dim3(THREADS), 0, stream, y,
			    static_cast<const float *>(bias), rows, cols, stride);
}

extern "C" cudaError_t cuda_bias_add(void *y, enum dtype y_type, const void *bias,
				     enum dtype bias_type, size_t rows, size_t cols, size_t stride,
				     cudaStream_t stream)
{
	if (rows == 0)
		return cudaSuccess;
	if (y_type == DTYPE_BF16)
		bias_add_launch(static_cast<uint16_t *>(y), bias, bias_type, rows, cols, stride,
				stream);
	else
		bias_add_launch(static_cast<float *>(y), bias, bias_type, rows, cols, stride,
				stream);
	return cudaPeekAtLastError();
}
