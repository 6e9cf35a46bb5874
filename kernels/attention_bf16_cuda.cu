/*
 * Attention on the GPU in bf16, summed in fp32 on the tensor cores; launched by
 * attention_cuda.cu. Scores exist in registers only, a tile of queries by a tile of keys at a
 * time (FlashAttention-2, Dao 2023).
 *
 * 1. A block of four warps owns one tile of rows of one head and every warp its own 16 MT rows of
 *    it; it walks the tiles of the other side in ascending order. So every sum has one order,
 *    nothing is shared between blocks, and a run repeats bit for bit. Backward therefore computes
 *    scores twice, in a kernel that owns queries (dq) and one that owns keys (dk, dv).
 * 2. The tiles that are walked have two places in shared memory: while one is worked on the next
 *    is on its way (cp.async). One barrier a step: it says that the next tile is here and that no
 *    warp reads the one before any more.
 * 3. Causality: tiles past the diagonal are never visited, a warp leaves out those past its own
 *    rows, and masks scores only in tiles that the diagonal crosses.
 * 4. Keys go from 0 upward, and every query sees key 0, so a row's running greatest is finite
 *    from its first tile on: no special case for rows that have seen nothing.
 * 5. Rows and columns of tiles that do not exist are zero (attention_tile.cuh, 1). A query past
 *    the end has zero q and dout and adds nothing to dk and dv; what is computed for it is not
 *    stored.
 *
 * Shapes. Two blocks a multiprocessor leave a lane 255 registers. Accumulators take MT DIM / 2 of
 * them for every owned result and MT N / 2 for scores of N columns. Each ldmatrix (4 cycles of
 * shared memory) feeds 2 MT products (about 1.6 cycles each on sm_90), so MT is 2 where that
 * fits. The tables at each kernel follow; no more than a word is spilled (CUDA 13.0, sm_80,
 * sm_90). Two blocks' shared memory fits in 227 KiB (sm_90), one block's in the 99 KiB of the
 * smallest chips.
 */
#include "kernels/attention_cuda.cuh"
#include "kernels/attention_tile.cuh"

/*
 * Exponents are base 2. A row's greatest score is renewed when exceeded by more than this, so
 * that accumulators are seldom rescaled; exponentials stay below 2^8 until divided by the sum.
 */
#define LAZY_BITS 8.0f

typedef attention_task<uint16_t> task;

/* Tokens from `first` on of a head whose token 0 is at `at`, tokens being `row` apart. */
template <typename T>
static __device__ inline tile_rows<T> rows_from(const task &a, T *at, unsigned row, unsigned first)
{
	tile_rows<T> r;

	r.at = at + (size_t)first * row;
	r.row = row;
	r.count = first < a.seq ? a.seq - first : 0;
	r.dim = a.dim;
	r.pieces = a.pieces;
	return r;
}

/* Starts filling a tile of keys and one of their values. */
template <unsigned KEYS, unsigned DIM>
static __device__ inline void key_tile_load(uint16_t *k, uint16_t *v, const task &a,
					    const struct attention_head &h, unsigned key)
{
	tile_load<KEYS, DIM>(k, rows_from(a, a.qkv + h.k_at, h.in_row, key));
	tile_load<KEYS, DIM>(v, rows_from(a, a.qkv + h.v_at, h.in_row, key));
}

/* At most COUNT columns of them, from `column` on. */
template <unsigned COUNT, typename T>
static __device__ inline tile_rows<T> columns_from(tile_rows<T> r, unsigned column)
{
	r.at += column;
	r.dim = smaller(r.dim - column, COUNT);
	return r;
}

static __device__ inline float sum_of_four(float x)
{
	x += __shfl_xor_sync(CUDA_WARP_FULL, x, 1);
	return x + __shfl_xor_sync(CUDA_WARP_FULL, x, 2);
}

static __device__ inline float greatest_of_four(float x)
{
	x = fmaxf(x, __shfl_xor_sync(CUDA_WARP_FULL, x, 1));
	return fmaxf(x, __shfl_xor_sync(CUDA_WARP_FULL, x, 2));
}

/* The softmax of the warp's rows so far: [m][h] is row 16 m + 8 h + lane / 4. */
template <unsigned MT> struct online {
	float top[MT][2]; /* greatest score before scaling, or less by LAZY_BITS; of four lanes */
	float sum[MT][2]; /* of exponentials relative to it, of this lane's columns */
};

/* s becomes its exponentials; o, what they are added to, is brought to the same base. */
template <unsigned MT, unsigned NT, unsigned OT>
static __device__ inline void online_step(online<MT> &w, accumulators<MT, NT> &s,
					  accumulators<MT, OT> &o, float scale_log2)
{
	float by[MT][2];
	bool lower = false;

	CUDA_EACH(m, MT)
		CUDA_EACH(h, 2) {
			float top = s.at[m][0][2 * h], shift;

			CUDA_EACH(n, NT)
				top = fmaxf(top, fmaxf(s.at[m][n][2 * h], s.at[m][n][2 * h + 1]));
			top = greatest_of_four(top);
			by[m][h] = 1.0f;
			if ((top - w.top[m][h]) * scale_log2 > LAZY_BITS) {
				by[m][h] = exp2_fast((w.top[m][h] - top) * scale_log2);
				w.top[m][h] = top;
				w.sum[m][h] *= by[m][h];
				lower = true;
			}
			shift = -w.top[m][h] * scale_log2;
			CUDA_EACH(n, NT)
				CUDA_EACH(i, 2) {
					float *e = &s.at[m][n][2 * h + i];
					*e = exp2_fast(fmaf(*e, scale_log2, shift));
					w.sum[m][h] += *e;
				}
		}
	if (__any_sync(CUDA_WARP_FULL, lower))
		scale_rows(o, by);
}

/*
 * Forward: a block owns 64 MT queries. MT (DIM + KEYS) / 2 registers of accumulators, and
 * 2 DIM (64 MT + 4 KEYS) bytes of shared memory:
 *
 *   DIM        32   64   96  128  256
 *   MT          2    2    2    2    1
 *   KEYS       64   64   64   32   32
 *   registers  96  128  160  160  144
 *   KiB        24   48   72   64   96
 */
template <unsigned DIM, unsigned MT, unsigned KEYS>
static __global__ void __launch_bounds__(ATTENTION_THREADS, 2) forward(task a)
{
	const unsigned QUERIES = 16 * MT * TILE_WARPS;
	CUDA_SHARED_DYNAMIC(uint16_t, q);
	uint16_t *k = q + QUERIES * DIM, *v = k + 2 * KEYS * DIM;
	unsigned tiles = (a.seq + QUERIES - 1) / QUERIES;
	unsigned query = (tiles - 1 - blockIdx.x % tiles) * QUERIES; /* the longest first */
	unsigned mine = threadIdx.x / CUDA_WARP * 16 * MT, lane = lane_of_thread();
	unsigned keys = smaller(query + QUERIES, a.seq);
	struct attention_head h = attention_head_of(a, blockIdx.x / tiles);
	accumulators<MT, DIM / 8> o;
	online<MT> w;

	tile_load<QUERIES, DIM>(q, rows_from(a, a.qkv + h.q_at, h.in_row, query));
	key_tile_load<KEYS, DIM>(k, v, a, h, 0);
	clear(o);
	CUDA_EACH(m, MT) {
		w.top[m][0] = w.top[m][1] = -INFINITY;
		w.sum[m][0] = w.sum[m][1] = 0.0f;
	}
	for (unsigned key = 0; key < keys; key += KEYS) {
		unsigned place = key / KEYS % 2 * KEYS * DIM, next = KEYS * DIM - place;

		copy_async_wait();
		__syncthreads();
		if (key + KEYS < keys)
			key_tile_load<KEYS, DIM>(k + next, v + next, a, h, key + KEYS);
		if (key < query + mine + 16 * MT) {
			accumulators<MT, KEYS / 8> s;
			factor<MT, KEYS / 8> p;

			product_of_rows<DIM>(s, q, mine, k + place);
			if (key + KEYS > query + mine + 1)
				mask_keys(s, query + mine, key);
			online_step(w, s, o, a.scale * LOG2_E);
			pack(p, s);
			product_add<DIM>(o, p, v + place, 0);
		}
	}
	CUDA_EACH(m, MT)
		CUDA_EACH(i, 2) {
			unsigned row = query + mine + m * 16 + i * 8 + lane / 4;
			float sum = sum_of_four(w.sum[m][i]);

			if (lane % 4 == 0 && row < a.seq)
				a.lse[h.lse_at + row] = fmaf(w.top[m][i], a.scale, logf(sum));
			w.sum[m][i] = 1.0f / sum;
		}
	/* A warp reads only its own rows of q, and so may overwrite them. */
	scale_rows(o, w.sum);
	accumulators_store<DIM>(q, mine, o);
	__syncthreads();
	tile_store<QUERIES, DIM>(rows_from(a, a.out + h.out_at, h.out_row, query), q);
}

/* s becomes its probabilities, its columns being queries of which `lse` has the sums. */
template <unsigned MT, unsigned NT>
static __device__ inline void probabilities_of_queries(accumulators<MT, NT> &s, const float *lse,
						       float scale_log2)
{
	unsigned lane = lane_of_thread();

	CUDA_EACH(n, NT)
		CUDA_EACH(i, 2) {
			float shift = -lse[n * 8 + lane % 4 * 2 + i] * LOG2_E;

			CUDA_EACH(m, MT)
				CUDA_EACH(j, 2) {
					float *e = &s.at[m][n][2 * j + i];
					*e = exp2_fast(fmaf(*e, scale_log2, shift));
				}
		}
}

/* dp, the gradient of the probabilities p, becomes that of the scores, but for the scale. */
template <unsigned MT, unsigned NT>
static __device__ inline void score_gradient_of_queries(accumulators<MT, NT> &dp,
							const accumulators<MT, NT> &p,
							const float *delta)
{
	unsigned lane = lane_of_thread();

	CUDA_EACH(n, NT)
		CUDA_EACH(i, 2) {
			float d = delta[n * 8 + lane % 4 * 2 + i];

			CUDA_EACH(m, MT)
				CUDA_EACH(j, 2) {
					float *e = &dp.at[m][n][2 * j + i];
					*e = p.at[m][n][2 * j + i] * (*e - d);
				}
		}
}

/* A tile of queries as backward over keys walks it. */
template <unsigned DIM, unsigned QUERIES> struct query_tile {
	uint16_t q[QUERIES * DIM], dout[QUERIES * DIM];
	float lse[QUERIES], delta[QUERIES];
};

template <unsigned DIM, unsigned QUERIES>
static __device__ inline void query_tile_load(query_tile<DIM, QUERIES> *tile, const task &a,
					      const struct attention_head &h, unsigned query)
{
	tile_load<QUERIES, DIM>(tile->q, rows_from(a, a.qkv + h.q_at, h.in_row, query));
	tile_load<QUERIES, DIM>(tile->dout, rows_from(a, a.dout + h.out_at, h.out_row, query));
	if (threadIdx.x < QUERIES) {
		bool exists = query + threadIdx.x < a.seq;
		size_t at = h.lse_at + (exists ? query + threadIdx.x : 0);

		copy_async_4(&tile->lse[threadIdx.x], a.lse + at, exists);
		copy_async_4(&tile->delta[threadIdx.x], a.delta + at, exists);
	}
}

/*
 * Backward for keys and values: a block owns 64 MT keys, rows of scores are keys and columns are
 * queries, so that probabilities and their gradients are at once left factors of dv and dk. Of
 * the columns of dk and dv a block owns OUT, from blockIdx.y * OUT on: for 256 the scores are
 * computed by two blocks, since accumulators of 256 columns would leave no registers for anything
 * else. MT (OUT + QUERIES) registers of accumulators; 4 DIM (64 MT + 2 QUERIES) bytes, and
 * 16 QUERIES:
 *
 *   DIM        32   64   96  128  256
 *   MT          2    2    1    1    1
 *   QUERIES    64   32   64   64   16
 *   registers 192  192  160  192  144
 *   KiB        33   49   73   97   96
 */
template <unsigned DIM, unsigned MT, unsigned QUERIES, unsigned OUT>
static __global__ void __launch_bounds__(ATTENTION_THREADS, 2) backward_keys(task a)
{
	const unsigned KEYS = 16 * MT * TILE_WARPS;
	CUDA_SHARED_DYNAMIC(uint16_t, k);
	uint16_t *v = k + KEYS * DIM;
	query_tile<DIM, QUERIES> *places = (query_tile<DIM, QUERIES> *)(v + KEYS * DIM);
	unsigned tiles = (a.seq + KEYS - 1) / KEYS, column = OUT < DIM ? blockIdx.y * OUT : 0;
	unsigned key = blockIdx.x % tiles * KEYS;
	unsigned mine = threadIdx.x / CUDA_WARP * 16 * MT;
	struct attention_head h = attention_head_of(a, blockIdx.x / tiles);
	accumulators<MT, OUT / 8> dk, dv;

	key_tile_load<KEYS, DIM>(k, v, a, h, key);
	query_tile_load(&places[0], a, h, key);
	clear(dk);
	clear(dv);
	/* Tiles of queries begin at the first key's: QUERIES divides KEYS. */
	for (unsigned query = key, step = 0; query < a.seq; query += QUERIES, step ^= 1u) {
		const query_tile<DIM, QUERIES> *tile = &places[step];

		copy_async_wait();
		__syncthreads();
		if (query + QUERIES < a.seq)
			query_tile_load(&places[step ^ 1u], a, h, query + QUERIES);
		if (query + QUERIES > key + mine) {
			accumulators<MT, QUERIES / 8> p, ds;
			factor<MT, QUERIES / 8> left;

			product_of_rows<DIM>(p, k, mine, tile->q);
			if (key + mine + 16 * MT > query + 1)
				mask_queries(p, key + mine, query);
			probabilities_of_queries(p, tile->lse, a.scale * LOG2_E);
			pack(left, p);
			product_add<DIM>(dv, left, tile->dout, column);
			product_of_rows<DIM>(ds, v, mine, tile->dout);
			score_gradient_of_queries(ds, p, tile->delta);
			pack(left, ds);
			product_add<DIM>(dk, left, tile->q, column);
		}
	}
	/* A warp reads only its own rows of k and v, and so may overwrite them. */
	scale_all(dk, a.scale);
	accumulators_store<DIM>(k, mine, dk);
	accumulators_store<DIM>(v, mine, dv);
	__syncthreads();
	tile_store<KEYS, DIM>(
		columns_from<OUT>(rows_from(a, a.dqkv + h.k_at, h.in_row, key), column), k);
	tile_store<KEYS, DIM>(
		columns_from<OUT>(rows_from(a, a.dqkv + h.v_at, h.in_row, key), column), v);
}

/* What a lane knows of the warp's queries, [m][h] being row 16 m + 8 h + lane / 4. */
template <unsigned MT> struct query_rows {
	float shift[MT][2], delta[MT][2]; /* shift: the sum's logarithm, base 2, negative */
};

template <unsigned MT>
static __device__ inline void query_rows_load(query_rows<MT> &w, const task &a,
					      const struct attention_head &h, unsigned query)
{
	unsigned lane = lane_of_thread();

	CUDA_EACH(m, MT)
		CUDA_EACH(i, 2) {
			unsigned row = query + m * 16 + i * 8 + lane / 4;
			bool exists = row < a.seq;

			w.shift[m][i] = exists ? -a.lse[h.lse_at + row] * LOG2_E : 0.0f;
			w.delta[m][i] = exists ? a.delta[h.lse_at + row] : 0.0f;
		}
}

/* dp becomes the gradient of the scores s, but for the scale. */
template <unsigned MT, unsigned NT>
static __device__ inline void score_gradient_of_keys(accumulators<MT, NT> &dp,
						     const accumulators<MT, NT> &s,
						     const query_rows<MT> &w, float scale_log2)
{
	CUDA_EACH(m, MT)
		CUDA_EACH(n, NT)
			CUDA_EACH(i, 4) {
				float p = exp2_fast(
					fmaf(s.at[m][n][i], scale_log2, w.shift[m][i / 2]));

				dp.at[m][n][i] = p * (dp.at[m][n][i] - w.delta[m][i / 2]);
			}
}

/*
 * Backward for queries: a block owns 64 MT of them. MT (DIM / 2 + KEYS) registers of
 * accumulators; 4 DIM (64 MT + 2 KEYS) bytes:
 *
 *   DIM        32   64   96  128  256
 *   MT          2    2    2    2    1
 *   KEYS       64   32   32   32   16
 *   registers 160  128  160  192  144
 *   KiB        32   48   72   96   96
 */
template <unsigned DIM, unsigned MT, unsigned KEYS>
static __global__ void __launch_bounds__(ATTENTION_THREADS, 2) backward_queries(task a)
{
	const unsigned QUERIES = 16 * MT * TILE_WARPS;
	CUDA_SHARED_DYNAMIC(uint16_t, q);
	uint16_t *dout = q + QUERIES * DIM, *k = dout + QUERIES * DIM, *v = k + 2 * KEYS * DIM;
	unsigned tiles = (a.seq + QUERIES - 1) / QUERIES;
	unsigned query = (tiles - 1 - blockIdx.x % tiles) * QUERIES; /* the longest first */
	unsigned mine = threadIdx.x / CUDA_WARP * 16 * MT;
	unsigned keys = smaller(query + QUERIES, a.seq);
	struct attention_head h = attention_head_of(a, blockIdx.x / tiles);
	accumulators<MT, DIM / 8> dq;
	query_rows<MT> w;

	tile_load<QUERIES, DIM>(q, rows_from(a, a.qkv + h.q_at, h.in_row, query));
	tile_load<QUERIES, DIM>(dout, rows_from(a, a.dout + h.out_at, h.out_row, query));
	key_tile_load<KEYS, DIM>(k, v, a, h, 0);
	query_rows_load(w, a, h, query + mine);
	clear(dq);
	for (unsigned key = 0; key < keys; key += KEYS) {
		unsigned place = key / KEYS % 2 * KEYS * DIM, next = KEYS * DIM - place;

		copy_async_wait();
		__syncthreads();
		if (key + KEYS < keys)
			key_tile_load<KEYS, DIM>(k + next, v + next, a, h, key + KEYS);
		if (key < query + mine + 16 * MT) {
			accumulators<MT, KEYS / 8> p, ds;
			factor<MT, KEYS / 8> left;

			product_of_rows<DIM>(p, q, mine, k + place);
			if (key + KEYS > query + mine + 1)
				mask_keys(p, query + mine, key);
			product_of_rows<DIM>(ds, dout, mine, v + place);
			score_gradient_of_keys(ds, p, w, a.scale * LOG2_E);
			pack(left, ds);
			product_add<DIM>(dq, left, k + place, 0);
		}
	}
	/* A warp reads only its own rows of q, and so may overwrite them. */
	scale_all(dq, a.scale);
	accumulators_store<DIM>(q, mine, dq);
	__syncthreads();
	tile_store<QUERIES, DIM>(rows_from(a, a.dqkv + h.q_at, h.in_row, query), q);
}

typedef attention_shape<uint16_t> shape;

template <unsigned DIM, unsigned MT, unsigned KEYS> static shape shape_forward(void)
{
	return {DIM, 64 * MT, 1, 2 * DIM * (64 * MT + 4 * KEYS), forward<DIM, MT, KEYS>};
}

template <unsigned DIM, unsigned MT, unsigned QUERIES> static shape shape_keys(void)
{
	const unsigned out = DIM < 128 ? DIM : 128;

	return {DIM, 64 * MT, DIM / out, 4 * DIM * 64 * MT + 2 * sizeof(query_tile<DIM, QUERIES>),
		backward_keys<DIM, MT, QUERIES, out>};
}

template <unsigned DIM, unsigned MT, unsigned KEYS> static shape shape_queries(void)
{
	return {DIM, 64 * MT, 1, 4 * DIM * (64 * MT + 2 * KEYS), backward_queries<DIM, MT, KEYS>};
}

cudaError_t attention_forward_bf16(const struct attention *a, cudaStream_t stream)
{
	const shape shapes[] = {
		shape_forward<32, 2, 64>(),  shape_forward<64, 2, 64>(),
		shape_forward<96, 2, 64>(),  shape_forward<128, 2, 32>(),
		shape_forward<256, 1, 32>(),
	};

	return attention_launch(shapes, a, stream);
}

cudaError_t attention_backward_bf16(const struct attention *a, cudaStream_t stream)
{
	const shape keys[] = {
		shape_keys<32, 2, 64>(),  shape_keys<64, 2, 32>(),  shape_keys<96, 1, 64>(),
		shape_keys<128, 1, 64>(), shape_keys<256, 1, 16>(),
	};
	const shape queries[] = {
		shape_queries<32, 2, 64>(),  shape_queries<64, 2, 32>(),
		shape_queries<96, 2, 32>(),  shape_queries<128, 2, 32>(),
		shape_queries<256, 1, 16>(),
	};
	cudaError_t rc = attention_launch(keys, a, stream);

	return rc == cudaSuccess ? attention_launch(queries, a, stream) : rc;
}
