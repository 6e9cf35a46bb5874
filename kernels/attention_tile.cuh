/*
 * Tiles of bf16 in shared memory and a warp's products on them, for attention_bf16_cuda.cu.
 *
 * 1. A tile has DIM columns, 32, 64, 96, 128 or 256, and lies by rows. Columns past the problem's
 *    head_dim and rows past its sequence are zero, so that they add nothing to any product.
 * 2. Eight columns, 16 bytes, stay together: a piece. Within a row, pieces are permuted by the
 *    row (tile_at), so that the eight pieces of one column in eight rows that follow each other,
 *    from a multiple of 8, lie in eight different groups of four banks: an ldmatrix has no
 *    conflict. Rows of a multiple of 128 bytes all begin at bank 0, so the row's number modulo 8
 *    is added (exclusive or). Rows of 64 or 192 bytes begin in the two halves of the banks by
 *    turns, so that row / 2 modulo 4 is enough to tell eight of them apart.
 * 3. Accumulators of a warp are MT tiles of 16 rows by NT of 8 columns: see C in cuda_mma.cuh.
 */
#ifndef KERNELS_ATTENTION_TILE_CUH
#define KERNELS_ATTENTION_TILE_CUH

#include "kernels/attention_cuda.cuh"
#include "kernels/cuda_mma.cuh"

#define TILE_WARPS (ATTENTION_THREADS / CUDA_WARP)

static __device__ inline unsigned lane_of_thread(void)
{
	return threadIdx.x % CUDA_WARP;
}

static __device__ inline unsigned smaller(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* Where element (row, column) of a tile lies, column a multiple of 8. */
template <unsigned DIM> static __device__ inline unsigned tile_at(unsigned row, unsigned column)
{
	unsigned turn = DIM % 64 == 0 ? row % 8 : row / 2 % 4;

	return row * DIM + (column ^ turn * 8);
}

/* Rows of global memory that a tile is filled from or written to. */
template <typename T> struct tile_rows {
	T *at;
	unsigned row;   /* distance of rows */
	unsigned count; /* rows that exist; the tile may have more */
	unsigned dim;   /* columns that exist */
	bool pieces;    /* every row begins on 16 bytes and dim is a multiple of 8 */
};

/* tile_load where pieces cannot be copied whole. Not unrolled: it is rare, and would be long. */
template <unsigned ROWS, unsigned DIM>
static __device__ inline void tile_load_elements(uint16_t *tile,
						 const tile_rows<const uint16_t> &src)
{
	CUDA_NO_UNROLL
	for (unsigned i = threadIdx.x; i < ROWS * DIM; i += ATTENTION_THREADS) {
		unsigned row = i / DIM, column = i % DIM;
		bool exists = row < src.count && column < src.dim;

		tile[tile_at<DIM>(row, column / 8 * 8) + column % 8] =
			exists ? src.at[(size_t)row * src.row + column] : 0;
	}
}

/*
 * All threads of the block: starts filling a tile. It stands after copy_async_wait and a barrier.
 * Eight threads, or four, copy pieces side by side, so that a thread's place in the permutation
 * is the same in all rows it comes to, and a store of a quarter of a warp meets every bank once.
 */
template <unsigned ROWS, unsigned DIM>
static __device__ inline void tile_load(uint16_t *tile, const tile_rows<const uint16_t> &src)
{
	const unsigned beside = DIM % 64 == 0 ? 8 : 4, step = ATTENTION_THREADS / beside;
	unsigned row = threadIdx.x / beside, column = threadIdx.x % beside * 8;
	const uint16_t *from = src.at + (size_t)row * src.row + column;
	uint16_t *to = tile + tile_at<DIM>(row, column);

	static_assert(ROWS % step == 0, "every thread copies as many pieces");
	if (!src.pieces) {
		tile_load_elements<ROWS, DIM>(tile, src);
		return;
	}
	CUDA_UNROLL
	for (unsigned r = 0; r < ROWS; r += step) {
		CUDA_UNROLL
		for (unsigned c = 0; c < DIM; c += beside * 8)
			copy_async_16(to + r * DIM + c, from + c,
				      row + r < src.count && column + c < src.dim);
		from += (size_t)step * src.row;
	}
}

/* All threads of the block, after a barrier: the tile's rows and columns that exist, to memory. */
template <unsigned ROWS, unsigned DIM>
static __device__ inline void tile_store(const tile_rows<uint16_t> &dst, const uint16_t *tile)
{
	const unsigned in_row = DIM / 8;

	CUDA_NO_UNROLL
	for (unsigned i = threadIdx.x; i < ROWS * in_row; i += ATTENTION_THREADS) {
		unsigned row = i / in_row, column = i % in_row * 8;
		const uint16_t *from = tile + tile_at<DIM>(row, column);
		uint16_t *to = dst.at + (size_t)row * dst.row + column;

		if (row >= dst.count || column >= dst.dim)
			continue;
		if (dst.pieces) {
			copy_16(to, from);
			continue;
		}
		for (unsigned e = 0; e < 8 && column + e < dst.dim; e++)
			to[e] = from[e];
	}
}

template <unsigned MT, unsigned NT> struct accumulators {
	float at[MT][NT][4];
};

template <unsigned MT, unsigned NT> static __device__ inline void clear(accumulators<MT, NT> &c)
{
	CUDA_EACH(m, MT)
		CUDA_EACH(n, NT)
			CUDA_EACH(i, 4)
				c.at[m][n][i] = 0.0f;
}

/* Row 16 m + 8 h + lane / 4 of c times by[m][h]. */
template <unsigned MT, unsigned NT>
static __device__ inline void scale_rows(accumulators<MT, NT> &c, const float (&by)[MT][2])
{
	CUDA_EACH(m, MT)
		CUDA_EACH(n, NT)
			CUDA_EACH(i, 4)
				c.at[m][n][i] *= by[m][i / 2];
}

template <unsigned MT, unsigned NT>
static __device__ inline void scale_all(accumulators<MT, NT> &c, float by)
{
	CUDA_EACH(m, MT)
		CUDA_EACH(n, NT)
			CUDA_EACH(i, 4)
				c.at[m][n][i] *= by;
}

/* c = x y^T for this warp: 16 MT rows of tile x from row x_row, all 8 NT rows of tile y. */
template <unsigned DIM, unsigned MT, unsigned NT>
static __device__ inline void product_of_rows(accumulators<MT, NT> &c, const uint16_t *x,
					      unsigned x_row, const uint16_t *y)
{
	unsigned lane = lane_of_thread();

	clear(c);
	CUDA_EACH(k, DIM / 16) {
		uint32_t a[MT][4], b[4];

		CUDA_EACH(m, MT)
			ldmatrix_x4(a[m], x + tile_at<DIM>(x_row + m * 16 + mma_a_row(lane),
							   k * 16 + mma_a_column(lane)));
		CUDA_EACH(n, NT / 2) {
			ldmatrix_x4(b, y + tile_at<DIM>(n * 16 + mma_b_row(lane),
							k * 16 + mma_b_column(lane)));
			CUDA_EACH(m, MT) {
				mma_bf16(c.at[m][2 * n], a[m], b[0], b[1]);
				mma_bf16(c.at[m][2 * n + 1], a[m], b[2], b[3]);
			}
		}
	}
}

/* Accumulators rounded to bf16, as the left factor of a product over their columns. */
template <unsigned MT, unsigned NT> struct factor {
	uint32_t at[MT][NT / 2][4];
};

template <unsigned MT, unsigned NT>
static __device__ inline void pack(factor<MT, NT> &p, const accumulators<MT, NT> &c)
{
	CUDA_EACH(m, MT)
		CUDA_EACH(k, NT / 2)
			CUDA_EACH(i, 4) {
				const float *pair = &c.at[m][2 * k + i / 2][i % 2 * 2];

				p.at[m][k][i] = bf16_pack(pair[0], pair[1]);
			}
}

/* c += p y for this warp, p's columns being y's rows; c's columns are those of y from `column`. */
template <unsigned DIM, unsigned MT, unsigned NT, unsigned PT>
static __device__ inline void product_add(accumulators<MT, NT> &c, const factor<MT, PT> &p,
					  const uint16_t *y, unsigned column)
{
	unsigned lane = lane_of_thread();

	CUDA_EACH(k, PT / 2)
		CUDA_EACH(n, NT / 2) {
			uint32_t b[4];

			ldmatrix_x4_trans(b,
					  y + tile_at<DIM>(k * 16 + mma_a_row(lane),
							   column + n * 16 + mma_a_column(lane)));
			CUDA_EACH(m, MT) {
				mma_bf16(c.at[m][2 * n], p.at[m][k], b[0], b[1]);
				mma_bf16(c.at[m][2 * n + 1], p.at[m][k], b[2], b[3]);
			}
		}
}

/* The warp's accumulators, rounded, to rows from `row` on of a tile, which only it has read. */
template <unsigned DIM, unsigned MT, unsigned NT>
static __device__ inline void accumulators_store(uint16_t *tile, unsigned row,
						 const accumulators<MT, NT> &c)
{
	unsigned lane = lane_of_thread();

	__syncwarp();
	CUDA_EACH(m, MT)
		CUDA_EACH(n, NT)
			CUDA_EACH(h, 2) {
				uint32_t two = bf16_pack(c.at[m][n][2 * h], c.at[m][n][2 * h + 1]);
				uint16_t *to = tile + lane % 4 * 2 +
					       tile_at<DIM>(row + m * 16 + h * 8 + lane / 4, n * 8);

				store_4(to, two);
			}
}

/* Scores past the diagonal become -infinity, whose exponential is zero. Rows are queries. */
template <unsigned MT, unsigned NT>
static __device__ inline void mask_keys(accumulators<MT, NT> &s, unsigned query, unsigned key)
{
	unsigned lane = lane_of_thread();

	CUDA_EACH(m, MT)
		CUDA_EACH(n, NT)
			CUDA_EACH(i, 4)
				if (key + n * 8 + lane % 4 * 2 + i % 2 >
				    query + m * 16 + i / 2 * 8 + lane / 4)
					s.at[m][n][i] = -INFINITY;
}

/* The same where rows are keys and columns queries. */
template <unsigned MT, unsigned NT>
static __device__ inline void mask_queries(accumulators<MT, NT> &s, unsigned key, unsigned query)
{
	unsigned lane = lane_of_thread();

	CUDA_EACH(m, MT)
		CUDA_EACH(n, NT)
			CUDA_EACH(i, 4)
				if (key + m * 16 + i / 2 * 8 + lane / 4 >
				    query + n * 8 + lane % 4 * 2 + i % 2)
					s.at[m][n][i] = -INFINITY;
}

#endif
