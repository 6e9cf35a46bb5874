/*
 * Attention of one head of one sequence, against the sixteen lanes of vec_*.h; included after
 * simd_body.h.
 *
 * All products have one form: rows of a, each element broadcast, times contiguous rows of b, so k
 * and v are transposed once per head where they stand on the other side. A tile of
 * VEC_TILE_ROWS by VEC_TILE_VECS vectors stays in registers. An element of a product is summed in
 * the order of k whatever the tile, hence the same bits for every instruction set.
 *
 * Causality: row i of the scores needs keys 0..i. Rows are taken in groups of GROUP, and a group
 * stops at its last row's key, so that all but a sliver of the upper triangle is never computed.
 * Within a row, probabilities past i up to the group's end are zero.
 */
#ifndef KERNELS_ATTENTION_BODY_H
#define KERNELS_ATTENTION_BODY_H

#include "kernels/simd_body.h"

#define GROUP 8u

/* c = a b, or c += a b. Element (i, k) of a is a[i * a_row + k * a_k]. */
struct product {
	float *c;
	size_t c_row;
	const float *a;
	size_t a_row, a_k;
	const float *b;
	size_t b_row;
	size_t depth;
	bool add;
};

/* The tile at (i, j); `last` lanes of its last vector exist. Constants fold: see product(). */
VEC_INLINE void tile(const struct product *p, size_t i, size_t j, unsigned rows, unsigned vecs,
		     size_t last)
{
	struct vec acc[VEC_TILE_ROWS][VEC_TILE_VECS];
	const float *a = p->a + i * p->a_row, *b = p->b + j;
	float *c = p->c + i * p->c_row + j;

#pragma GCC unroll 8
	for (unsigned r = 0; r < rows; r++)
#pragma GCC unroll 2
		for (unsigned v = 0; v < vecs; v++)
			acc[r][v] = !p->add ? vec_set(0.0f)
					    : load_lanes(c + r * p->c_row + v * VEC_LANES,
							 v + 1 < vecs ? VEC_LANES : last);
	for (size_t k = 0; k < p->depth; k++) {
		struct vec row[VEC_TILE_VECS];

#pragma GCC unroll 2
		for (unsigned v = 0; v < vecs; v++)
			row[v] = load_lanes(b + v * VEC_LANES, v + 1 < vecs ? VEC_LANES : last);
#pragma GCC unroll 8
		for (unsigned r = 0; r < rows; r++) {
			struct vec x = vec_set(a[r * p->a_row]);

#pragma GCC unroll 2
			for (unsigned v = 0; v < vecs; v++)
				acc[r][v] = vec_fma(x, row[v], acc[r][v]);
		}
		a += p->a_k;
		b += p->b_row;
	}
#pragma GCC unroll 8
	for (unsigned r = 0; r < rows; r++)
#pragma GCC unroll 2
		for (unsigned v = 0; v < vecs; v++)
			store_lanes(c + r * p->c_row + v * VEC_LANES, acc[r][v],
				    v + 1 < vecs ? VEC_LANES : last);
}

/* `rows` rows at i by `cols` columns, rows a constant. */
VEC_INLINE void tile_row(const struct product *p, size_t i, unsigned rows, size_t cols)
{
	size_t j = 0;

	for (; cols - j >= VEC_TILE_VECS * VEC_LANES; j += VEC_TILE_VECS * VEC_LANES)
		tile(p, i, j, rows, VEC_TILE_VECS, VEC_LANES);
	for (; cols - j >= VEC_LANES; j += VEC_LANES)
		tile(p, i, j, rows, 1, VEC_LANES);
	if (j < cols)
		tile(p, i, j, rows, 1, cols - j);
}

static void product(const struct product *p, size_t rows, size_t cols)
{
	size_t i = 0;

	for (; rows - i >= VEC_TILE_ROWS; i += VEC_TILE_ROWS)
		tile_row(p, i, VEC_TILE_ROWS, cols);
	for (; i < rows; i++)
		tile_row(p, i, 1, cols);
}

/* dst[d * row + s] = src[s * src_row + d] for s < seq, d < dim; zero for s up to a whole vector. */
static void transpose(float *dst, size_t row, const float *src, size_t src_row, size_t seq,
		      size_t dim)
{
	size_t seq_8 = seq / 8 * 8, dim_8 = dim / 8 * 8;

	for (size_t s = 0; s < seq_8; s += 8) {
		for (size_t d = 0; d < dim_8; d += 8)
			vec_transpose_8(dst + d * row + s, row, src + s * src_row + d, src_row);
		for (size_t d = dim_8; d < dim; d++)
			for (size_t t = s; t < s + 8; t++)
				dst[d * row + t] = src[t * src_row + d];
	}
	for (size_t s = seq_8; s < seq; s++)
		for (size_t d = 0; d < dim; d++)
			dst[d * row + s] = src[s * src_row + d];
	for (size_t s = seq; s % VEC_LANES; s++)
		for (size_t d = 0; d < dim; d++)
			dst[d * row + s] = 0.0f;
}

/* Where one head lies. */
struct head {
	size_t seq, dim, in_row, out_row; /* distance of tokens in qkv and out */
	const float *q, *k, *v;
	size_t qkv_at, out_at, lse_at;
	float scale;
};

static struct head head_of(const struct attention *a, size_t batch, size_t head)
{
	size_t width = a->heads * a->head_dim;
	struct head h = {
		.seq = a->seq,
		.dim = a->head_dim,
		.in_row = 3 * width,
		.out_row = width,
		.qkv_at = batch * a->seq * 3 * width + head * a->head_dim,
		.out_at = batch * a->seq * width + head * a->head_dim,
		.lse_at = (batch * a->heads + head) * a->seq,
		.scale = 1.0f / sqrtf((float)a->head_dim),
	};

	h.q = (const float *)a->qkv + h.qkv_at;
	h.k = h.q + width;
	h.v = h.k + width;
	return h;
}

static size_t whole_vectors(size_t n)
{
	return (n + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Rows begin..end (of one group or more) of x xt^T for keys 0..end by groups, to dst. */
static void scores(float *dst, size_t row, const float *x, size_t x_row, const float *xt,
		   size_t dim, size_t begin, size_t end)
{
	for (size_t i = begin; i < end; i += GROUP) {
		size_t rows = smaller(GROUP, end - i);
		struct product p = {
			.c = dst + (i - begin) * row,
			.c_row = row,
			.a = x + i * x_row,
			.a_row = x_row,
			.a_k = 1,
			.b = xt,
			.b_row = row,
			.depth = dim,
		};

		product(&p, rows, whole_vectors(i + rows));
	}
}

/* s[0..keys) becomes e^(s scale - shift), s[keys..filled) zero. Returns the sum. */
static float exp_row(float *s, size_t keys, size_t filled, float scale, float shift)
{
	struct vec acc = vec_set(0.0f);

	for (size_t j = 0; j < filled; j += VEC_LANES) {
		struct vec e = vec_set(0.0f);

		if (j < keys) {
			size_t n = lanes_at(j, keys);

			e = vec_exp(vec_fma(vec_load(s + j), vec_set(scale), vec_set(-shift)));
			e = n < VEC_LANES ? vec_keep(e, n) : e;
			acc = vec_add(acc, e);
		}
		vec_store(s + j, e);
	}
	return vec_sum(acc);
}

static void forward_group(const struct attention *a, const struct head *h, const float *kt,
			  float *s, size_t row, size_t i, size_t rows)
{
	struct product p = {
		.c = (float *)a->out + h->out_at + i * h->out_row,
		.c_row = h->out_row,
		.a = s,
		.a_row = row,
		.a_k = 1,
		.b = h->v,
		.b_row = h->in_row,
		.depth = i + rows,
	};
	float inverse[GROUP];

	scores(s, row, h->q, h->in_row, kt, h->dim, i, i + rows);
	for (size_t r = 0; r < rows; r++) {
		float shift = row_greatest(s + r * row, i + r + 1) * h->scale;
		float total =
			exp_row(s + r * row, i + r + 1, whole_vectors(i + rows), h->scale, shift);

		a->lse[h->lse_at + i + r] = shift + logf(total);
		inverse[r] = 1.0f / total;
	}
	product(&p, rows, h->dim);
	for (size_t r = 0; r < rows; r++)
		for (size_t j = 0; j < h->dim; j += VEC_LANES) {
			size_t n = lanes_at(j, h->dim);
			float *o = p.c + r * p.c_row + j;

			store_lanes(o, vec_mul(load_lanes(o, n), vec_set(inverse[r])), n);
		}
}

static void attention_forward_head(const struct attention *a, size_t batch, size_t head,
				   float *scratch)
{
	struct head h = head_of(a, batch, head);
	size_t row = attention_row(h.seq);
	float *kt = scratch, *s = kt + h.dim * row;

	transpose(kt, row, h.k, h.in_row, h.seq, h.dim);
	for (size_t i = 0; i < h.seq; i += GROUP)
		forward_group(a, &h, kt, s, row, i, smaller(GROUP, h.seq - i));
}

static float dot(const float *a, const float *b, size_t count)
{
	struct vec acc = vec_set(0.0f);

	for (size_t j = 0; j < count; j += VEC_LANES) {
		size_t n = lanes_at(j, count);

		acc = vec_fma(load_lanes(a + j, n), load_lanes(b + j, n), acc);
	}
	return vec_sum(acc);
}

/* p and dp of one row, both up to `filled`: dp becomes the gradient of the score before scaling. */
static void score_gradient(float *dp, const float *p, size_t filled, float delta, float scale)
{
	for (size_t j = 0; j < filled; j += VEC_LANES) {
		struct vec d = vec_sub(vec_load(dp + j), vec_set(delta));

		vec_store(dp + j, vec_mul(vec_mul(vec_load(p + j), d), vec_set(scale)));
	}
}

/*
 * Rows 0..end of a gradient of keys or values, c = t^T x over the block's queries begin..end, where
 * t is p or ds. Keys of this block are met for the first time and overwritten.
 */
static void key_gradient(float *c, const struct head *h, const float *t, size_t row, const float *x,
			 size_t x_row, size_t begin, size_t end)
{
	for (size_t j = 0; j < end; j += GROUP) {
		size_t first = j > begin ? j : begin; /* queries before j do not see key j */
		struct product p = {
			.c = c + j * h->in_row,
			.c_row = h->in_row,
			.a = t + (first - begin) * row + j,
			.a_row = 1,
			.a_k = row,
			.b = x + first * x_row,
			.b_row = x_row,
			.depth = end - first,
			.add = j < begin,
		};

		product(&p, smaller(GROUP, end - j), h->dim);
	}
}

/* The block of queries begin..end: adds to dk and dv of keys before it, writes all of its own. */
static void backward_block(const struct attention *a, const struct head *h, const float *kt,
			   const float *vt, float *p, float *ds, size_t row, size_t begin,
			   size_t end)
{
	const float *dout = (const float *)a->dout + h->out_at;
	const float *out = (const float *)a->out + h->out_at;
	float *dq = (float *)a->dqkv + h->qkv_at;
	size_t width = h->out_row;

	scores(p, row, h->q, h->in_row, kt, h->dim, begin, end);
	scores(ds, row, dout, h->out_row, vt, h->dim, begin, end);
	for (size_t i = begin; i < end; i++) {
		float *pi = p + (i - begin) * row, *di = ds + (i - begin) * row;
		size_t group_end = smaller(end, i - (i - begin) % GROUP + GROUP);
		float delta = dot(dout + i * h->out_row, out + i * h->out_row, h->dim);

		exp_row(pi, i + 1, whole_vectors(group_end), h->scale, a->lse[h->lse_at + i]);
		score_gradient(di, pi, whole_vectors(group_end), delta, h->scale);
	}
	for (size_t i = begin; i < end; i += GROUP) {
		size_t rows = smaller(GROUP, end - i);
		struct product q = {
			.c = dq + i * h->in_row,
			.c_row = h->in_row,
			.a = ds + (i - begin) * row,
			.a_row = row,
			.a_k = 1,
			.b = h->k,
			.b_row = h->in_row,
			.depth = i + rows,
		};

		product(&q, rows, h->dim);
	}
	key_gradient(dq + width, h, ds, row, h->q, h->in_row, begin, end);
	key_gradient(dq + 2 * width, h, p, row, dout, h->out_row, begin, end);
}

static void attention_backward_head(const struct attention *a, size_t batch, size_t head,
				    float *scratch)
{
	struct head h = head_of(a, batch, head);
	size_t row = attention_row(h.seq);
	float *kt = scratch, *vt = kt + h.dim * row;
	float *p = vt + h.dim * row, *ds = p + ATTENTION_QUERIES_BACKWARD * row;

	transpose(kt, row, h.k, h.in_row, h.seq, h.dim);
	transpose(vt, row, h.v, h.in_row, h.seq, h.dim);
	for (size_t i = 0; i < h.seq; i += ATTENTION_QUERIES_BACKWARD)
		backward_block(a, &h, kt, vt, p, ds, row, i,
			       smaller(i + ATTENTION_QUERIES_BACKWARD, h.seq));
}

#endif
