/*
 * Attention on the GPU in fp32 throughout, no tensor cores, no TF32: for proofs, not for speed.
 * Launched by attention_cuda.cu.
 *
 * 1. A block of four warps owns OWN_ROWS rows of one head (queries, or in backward_keys keys), a
 *    warp four of them. It walks tiles of 32 rows of the other side in ascending order; scores of
 *    four rows by 32 columns exist in a warp's registers only.
 * 2. A lane is a column while scores are computed (a dot product along head_dim), and elements
 *    lane, lane + 32, ... of head_dim while results are summed, weights passing through shared
 *    memory.
 * 3. Every sum has one order and nothing is shared between blocks: a run repeats bit for bit.
 * 4. Rows in shared memory are an odd number of floats apart: lanes that read one column of 32
 *    rows meet 32 banks. Rows past the sequence's end are zero, and add nothing.
 */
#include "kernels/attention_cuda.cuh"

#define WARPS     (ATTENTION_THREADS / CUDA_WARP)
#define WARP_ROWS 4u
#define OWN_ROWS  (WARPS * WARP_ROWS)
#define TILE_ROWS CUDA_WARP

typedef attention_task<float> task;

/*
 * Dynamic shared memory. Two arrays of rows each: q and dout, or k and v. For a head_dim of 256,
 * 98.4 KiB: it fits in the 99 KiB of the smallest chips.
 */
struct space {
	unsigned row; /* floats from row to row */
	float *own[2], *tile[2];
	float *weights; /* this warp's, [WARP_ROWS][TILE_ROWS] */
};

static __host__ __device__ inline unsigned space_row(unsigned dim)
{
	return dim | 1u;
}

static size_t space_bytes(size_t dim)
{
	return sizeof(float) *
	       (2 * (OWN_ROWS + TILE_ROWS) * space_row((unsigned)dim) + OWN_ROWS * TILE_ROWS);
}

static __device__ inline struct space space_of(float *at, unsigned dim)
{
	struct space s;

	s.row = space_row(dim);
	CUDA_EACH(i, 2) {
		s.own[i] = at + i * OWN_ROWS * s.row;
		s.tile[i] = at + (2 * OWN_ROWS + i * TILE_ROWS) * s.row;
	}
	s.weights = at + 2 * (OWN_ROWS + TILE_ROWS) * s.row +
		    threadIdx.x / CUDA_WARP * WARP_ROWS * TILE_ROWS;
	return s;
}

/* All threads: `rows` rows of a head, the first of them token `first`. */
static __device__ inline void load(float *to, unsigned to_row, unsigned rows, const task &a,
				   const float *at, unsigned row, unsigned first)
{
	for (unsigned i = threadIdx.x; i < rows * a.dim; i += ATTENTION_THREADS) {
		unsigned r = i / a.dim, d = i % a.dim;

		to[r * to_row + d] = first + r < a.seq ? at[(size_t)(first + r) * row + d] : 0.0f;
	}
}

/* c[r] = own row r of the warp times the lane's row of the tile. */
static __device__ inline void dots(float (&c)[WARP_ROWS], const struct space &s, unsigned which,
				   unsigned dim)
{
	const float *own = s.own[which] + threadIdx.x / CUDA_WARP * WARP_ROWS * s.row;
	const float *tile = s.tile[which] + threadIdx.x % CUDA_WARP * s.row;

	CUDA_EACH(r, WARP_ROWS)
		c[r] = 0.0f;
	for (unsigned d = 0; d < dim; d++)
		CUDA_EACH(r, WARP_ROWS)
			c[r] = fmaf(own[r * s.row + d], tile[d], c[r]);
}

/* Of each of the warp's rows, the elements of head_dim that are the lane's. */
template <unsigned COUNT> struct sums {
	float at[WARP_ROWS][COUNT];
};

template <unsigned COUNT> static __device__ inline void clear(sums<COUNT> &c)
{
	CUDA_EACH(r, WARP_ROWS)
		CUDA_EACH(i, COUNT)
			c.at[r][i] = 0.0f;
}

/* c += weights times the tile's rows; the warp has just written the weights. */
template <unsigned COUNT>
static __device__ inline void add_rows(sums<COUNT> &c, const float *weights, const float *tile,
				       unsigned row, unsigned dim)
{
	unsigned lane = threadIdx.x % CUDA_WARP;

	__syncwarp();
	for (unsigned j = 0; j < TILE_ROWS; j++)
		CUDA_EACH(i, COUNT) {
			unsigned d = lane + i * CUDA_WARP;
			float x = d < dim ? tile[j * row + d] : 0.0f;

			CUDA_EACH(r, WARP_ROWS)
				c.at[r][i] = fmaf(weights[r * TILE_ROWS + j], x, c.at[r][i]);
		}
	__syncwarp();
}

/* The warp's rows, which are tokens from `first` on, row r times by[r]. */
template <unsigned COUNT>
static __device__ inline void store(float *at, unsigned row, const task &a, unsigned first,
				    const sums<COUNT> &c, const float (&by)[WARP_ROWS])
{
	unsigned lane = threadIdx.x % CUDA_WARP;

	CUDA_EACH(r, WARP_ROWS)
		CUDA_EACH(i, COUNT) {
			unsigned d = lane + i * CUDA_WARP;

			if (first + r < a.seq && d < a.dim)
				at[(size_t)(first + r) * row + d] = c.at[r][i] * by[r];
		}
}

static __device__ inline float greatest_of_warp(float x)
{
	for (int i = 16; i; i /= 2)
		x = fmaxf(x, __shfl_xor_sync(CUDA_WARP_FULL, x, i));
	return x;
}

static __device__ inline float sum_of_warp(float x)
{
	for (int i = 16; i; i /= 2)
		x += __shfl_xor_sync(CUDA_WARP_FULL, x, i);
	return x;
}

/* The softmax of the warp's rows so far. */
struct online {
	float top[WARP_ROWS], sum[WARP_ROWS];
};

/* Unscaled scores of the lane's key become weights; sums so far are brought to their base. */
template <unsigned COUNT>
static __device__ inline void online_step(struct online &w, sums<COUNT> &o, float *weights,
					  const float (&score)[WARP_ROWS], float scale,
					  unsigned query, unsigned key)
{
	CUDA_EACH(r, WARP_ROWS) {
		float s = key <= query + r ? score[r] * scale : -INFINITY;
		float top = fmaxf(w.top[r], greatest_of_warp(s)), p = expf(s - top);
		float by = expf(w.top[r] - top);

		w.sum[r] = fmaf(w.sum[r], by, sum_of_warp(p));
		w.top[r] = top;
		CUDA_EACH(i, COUNT)
			o.at[r][i] *= by;
		weights[r * TILE_ROWS + threadIdx.x % CUDA_WARP] = p;
	}
}

template <unsigned COUNT>
static __global__ void __launch_bounds__(ATTENTION_THREADS) forward(task a)
{
	CUDA_SHARED_DYNAMIC(float, shared);
	struct space s = space_of(shared, a.dim);
	unsigned tiles = (a.seq + OWN_ROWS - 1) / OWN_ROWS, first = blockIdx.x % tiles * OWN_ROWS;
	unsigned query = first + threadIdx.x / CUDA_WARP * WARP_ROWS;
	unsigned lane = threadIdx.x % CUDA_WARP;
	struct attention_head h = attention_head_of(a, blockIdx.x / tiles);
	struct online w;
	sums<COUNT> o;

	load(s.own[0], s.row, OWN_ROWS, a, a.qkv + h.q_at, h.in_row, first);
	clear(o);
	CUDA_EACH(r, WARP_ROWS) {
		w.top[r] = -INFINITY; /* every query sees key 0, in the first tile */
		w.sum[r] = 0.0f;
	}
	for (unsigned key = 0; key < first + OWN_ROWS && key < a.seq; key += TILE_ROWS) {
		float score[WARP_ROWS];

		__syncthreads();
		load(s.tile[0], s.row, TILE_ROWS, a, a.qkv + h.k_at, h.in_row, key);
		load(s.tile[1], s.row, TILE_ROWS, a, a.qkv + h.v_at, h.in_row, key);
		__syncthreads();
		dots(score, s, 0, a.dim);
		online_step(w, o, s.weights, score, a.scale, query, key + lane);
		add_rows(o, s.weights, s.tile[1], s.row, a.dim);
	}
	CUDA_EACH(r, WARP_ROWS) {
		if (lane == 0 && query + r < a.seq)
			a.lse[h.lse_at + query + r] = w.top[r] + logf(w.sum[r]);
		w.sum[r] = 1.0f / w.sum[r];
	}
	store(a.out + h.out_at, h.out_row, a, query, o, w.sum);
}

/* Of query `query`, which sees the key or not: its probability and the gradient of its score. */
static __device__ inline void gradient(float &p, float &ds, float score, float dp, bool sees,
				       float lse, float delta, float scale)
{
	p = sees ? expf(fmaf(score, scale, -lse)) : 0.0f;
	ds = p * (dp - delta) * scale;
}

template <unsigned COUNT>
static __global__ void __launch_bounds__(ATTENTION_THREADS) backward_queries(task a)
{
	CUDA_SHARED_DYNAMIC(float, shared);
	struct space s = space_of(shared, a.dim);
	unsigned tiles = (a.seq + OWN_ROWS - 1) / OWN_ROWS, first = blockIdx.x % tiles * OWN_ROWS;
	unsigned query = first + threadIdx.x / CUDA_WARP * WARP_ROWS;
	unsigned lane = threadIdx.x % CUDA_WARP;
	struct attention_head h = attention_head_of(a, blockIdx.x / tiles);
	float one[WARP_ROWS], lse[WARP_ROWS], delta[WARP_ROWS];
	sums<COUNT> dq;

	load(s.own[0], s.row, OWN_ROWS, a, a.qkv + h.q_at, h.in_row, first);
	load(s.own[1], s.row, OWN_ROWS, a, a.dout + h.out_at, h.out_row, first);
	clear(dq);
	CUDA_EACH(r, WARP_ROWS) {
		one[r] = 1.0f;
		lse[r] = query + r < a.seq ? a.lse[h.lse_at + query + r] : 0.0f;
		delta[r] = query + r < a.seq ? a.delta[h.lse_at + query + r] : 0.0f;
	}
	for (unsigned key = 0; key < first + OWN_ROWS && key < a.seq; key += TILE_ROWS) {
		float score[WARP_ROWS], dp[WARP_ROWS], p;

		__syncthreads();
		load(s.tile[0], s.row, TILE_ROWS, a, a.qkv + h.k_at, h.in_row, key);
		load(s.tile[1], s.row, TILE_ROWS, a, a.qkv + h.v_at, h.in_row, key);
		__syncthreads();
		dots(score, s, 0, a.dim);
		dots(dp, s, 1, a.dim);
		CUDA_EACH(r, WARP_ROWS)
			gradient(p, s.weights[r * TILE_ROWS + lane], score[r], dp[r],
				 key + lane <= query + r, lse[r], delta[r], a.scale);
		add_rows(dq, s.weights, s.tile[0], s.row, a.dim);
	}
	store(a.dqkv + h.q_at, h.in_row, a, query, dq, one);
}

template <unsigned COUNT>
static __global__ void __launch_bounds__(ATTENTION_THREADS) backward_keys(task a)
{
	CUDA_SHARED_DYNAMIC(float, shared);
	struct space s = space_of(shared, a.dim);
	unsigned tiles = (a.seq + OWN_ROWS - 1) / OWN_ROWS, first = blockIdx.x % tiles * OWN_ROWS;
	unsigned key = first + threadIdx.x / CUDA_WARP * WARP_ROWS;
	unsigned lane = threadIdx.x % CUDA_WARP;
	struct attention_head h = attention_head_of(a, blockIdx.x / tiles);
	float one[WARP_ROWS];
	sums<COUNT> dk, dv;

	load(s.own[0], s.row, OWN_ROWS, a, a.qkv + h.k_at, h.in_row, first);
	load(s.own[1], s.row, OWN_ROWS, a, a.qkv + h.v_at, h.in_row, first);
	clear(dk);
	clear(dv);
	CUDA_EACH(r, WARP_ROWS)
		one[r] = 1.0f;
	for (unsigned query = first; query < a.seq; query += TILE_ROWS) {
		float score[WARP_ROWS], dp[WARP_ROWS];
		bool exists = query + lane < a.seq;
		float lse = exists ? a.lse[h.lse_at + query + lane] : 0.0f;
		float delta = exists ? a.delta[h.lse_at + query + lane] : 0.0f;

		__syncthreads();
		load(s.tile[0], s.row, TILE_ROWS, a, a.qkv + h.q_at, h.in_row, query);
		load(s.tile[1], s.row, TILE_ROWS, a, a.dout + h.out_at, h.out_row, query);
		__syncthreads();
		dots(score, s, 0, a.dim);
		dots(dp, s, 1, a.dim);
		CUDA_EACH(r, WARP_ROWS)
			gradient(s.weights[r * TILE_ROWS + lane], dp[r], score[r], dp[r],
				 exists && key + r <= query + lane, lse, delta, a.scale);
		add_rows(dv, s.weights, s.tile[1], s.row, a.dim);
		CUDA_EACH(r, WARP_ROWS)
			s.weights[r * TILE_ROWS + lane] = dp[r];
		add_rows(dk, s.weights, s.tile[0], s.row, a.dim);
	}
	store(a.dqkv + h.k_at, h.in_row, a, key, dk, one);
	store(a.dqkv + h.v_at, h.in_row, a, key, dv, one);
}

/* A lane has COUNT elements of head_dim; blocks' shared memory depends on head_dim itself. */
#define SHAPE(kernel, count, dim)                                                                  \
	{                                                                                          \
		count *CUDA_WARP, OWN_ROWS, 1, space_bytes(dim), kernel<count>                     \
	}
#define SHAPES(kernel, dim)                                                                        \
	{                                                                                          \
		SHAPE(kernel, 1, dim), SHAPE(kernel, 2, dim), SHAPE(kernel, 3, dim),               \
			SHAPE(kernel, 4, dim), SHAPE(kernel, 8, dim),                              \
	}

cudaError_t attention_forward_f32(const struct attention *a, cudaStream_t stream)
{
	const attention_shape<float> shapes[] = SHAPES(forward, a->head_dim);

	return attention_launch(shapes, a, stream);
}

cudaError_t attention_backward_f32(const struct attention *a, cudaStream_t stream)
{
	const attention_shape<float> keys[] = SHAPES(backward_keys, a->head_dim);
	const attention_shape<float> queries[] = SHAPES(backward_queries, a->head_dim);
	cudaError_t rc = attention_launch(keys, a, stream);

	return rc == cudaSuccess ? attention_launch(queries, a, stream) : rc;
}
