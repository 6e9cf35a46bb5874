/*
 * The row kernels of simd.h against the sixteen lanes of vec_*.h. Included by simd_scalar.c,
 * simd_avx2.c and simd_avx512.c, each after its own vec header; alone it means the scalar one.
 */
#ifndef KERNELS_SIMD_BODY_H
#define KERNELS_SIMD_BODY_H

#ifndef VEC_LANES
#include "kernels/vec_scalar.h"
#endif

#include <assert.h>
#include <math.h>

#include "kernels/simd.h"
#include "kernels/vec_exp.h"

/* Lanes of the vector at i: sixteen, or what is left. */
VEC_INLINE size_t lanes_at(size_t i, size_t count)
{
	return count - i < VEC_LANES ? count - i : VEC_LANES;
}

VEC_INLINE struct vec load_lanes(const float *p, size_t n)
{
	return n == VEC_LANES ? vec_load(p) : vec_load_n(p, n);
}

VEC_INLINE void store_lanes(float *p, struct vec a, size_t n)
{
	if (n == VEC_LANES)
		vec_store(p, a);
	else
		vec_store_n(p, a, n);
}

/* Elements i.. of a vector of parameters. */
VEC_INLINE struct vec load_param(const void *p, enum dtype type, size_t i, size_t n)
{
	if (type == DTYPE_F32)
		return load_lanes((const float *)p + i, n);
	return n == VEC_LANES ? vec_load_bf16((const uint16_t *)p + i)
			      : vec_load_bf16_n((const uint16_t *)p + i, n);
}

static void add(float *out, const float *a, const float *b, size_t count)
{
	for (size_t i = 0; i < count; i += VEC_LANES) {
		size_t n = lanes_at(i, count);

		store_lanes(out + i, vec_add(load_lanes(a + i, n), load_lanes(b + i, n)), n);
	}
}

static void add_params(float *out, const void *a, const void *b, enum dtype type, size_t count)
{
	for (size_t i = 0; i < count; i += VEC_LANES) {
		size_t n = lanes_at(i, count);
		struct vec s = vec_add(load_param(a, type, i, n), load_param(b, type, i, n));

		store_lanes(out + i, s, n);
	}
}

static void widen(float *out, const uint16_t *a, size_t count)
{
	for (size_t i = 0; i < count; i += VEC_LANES) {
		size_t n = lanes_at(i, count);

		store_lanes(out + i, load_param(a, DTYPE_BF16, i, n), n);
	}
}

static void narrow(uint16_t *out, const float *a, size_t count)
{
	for (size_t i = 0; i < count; i += VEC_LANES) {
		size_t n = lanes_at(i, count);

		if (n == VEC_LANES)
			vec_store_bf16(out + i, vec_load(a + i));
		else
			vec_store_bf16_n(out + i, vec_load_n(a + i, n), n);
	}
}

static void accumulate(float *out, const void *a, enum dtype type, size_t count)
{
	for (size_t i = 0; i < count; i += VEC_LANES) {
		size_t n = lanes_at(i, count);
		struct vec s = vec_add(load_lanes(out + i, n), load_param(a, type, i, n));

		store_lanes(out + i, s, n);
	}
}

static void sum(float *out, const float *const *src, size_t src_count, size_t count)
{
	assert(src_count > 0);
	for (size_t i = 0; i < count; i += VEC_LANES) {
		size_t n = lanes_at(i, count);
		struct vec s = load_lanes(src[0] + i, n);

		for (size_t k = 1; k < src_count; k++)
			s = vec_add(s, load_lanes(src[k] + i, n));
		store_lanes(out + i, s, n);
	}
}

static double lanes_total(struct vec_double acc)
{
	double lane[VEC_LANES], total;

	vec_double_store(lane, acc);
	total = lane[0];
	for (unsigned i = 1; i < VEC_LANES; i++)
		total += lane[i];
	return total;
}

static double sumsq(const void *a, enum dtype type, size_t count)
{
	struct vec_double acc = vec_double_zero();

	for (size_t i = 0; i < count; i += VEC_LANES)
		acc = vec_double_add_square(acc, load_param(a, type, i, lanes_at(i, count)));
	return lanes_total(acc);
}

static void column_sum(float *out, const float *a, size_t rows, size_t row, size_t count)
{
	for (size_t i = 0; i < rows; i++)
		accumulate(out, a + i * row, DTYPE_F32, count);
}

/*
 * y = x / 2 * (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), which is x * s with
 * s = 1 / (1 + e^-2u): no difference of near-equal numbers anywhere. The exponent is held below
 * 87, where s (6e38 times smaller than 1) is still a normal number.
 */
#define GELU_LINEAR -1.5957691216057308f /* -2 sqrt(2/pi) */
#define GELU_CUBIC  -0.0713548162726009f /* times 0.044715 */

VEC_INLINE struct vec gelu_exp(struct vec x, struct vec x2)
{
	struct vec u = vec_fma(x2, vec_set(GELU_CUBIC), vec_set(GELU_LINEAR));

	/* This operand order keeps a NaN: vec_min returns its second operand then. */
	return vec_exp(vec_min(vec_set(87.0f), vec_mul(u, x)));
}

static void gelu_forward_count(float *y, const float *x, size_t count)
{
	const struct vec one = vec_set(1.0f);

	for (size_t i = 0; i < count; i += VEC_LANES) {
		size_t n = lanes_at(i, count);
		struct vec v = load_lanes(x + i, n);
		struct vec e = gelu_exp(v, vec_mul(v, v));

		store_lanes(y + i, vec_div(v, vec_add(one, e)), n);
	}
}

/* dy/dx = s + x s (1 - s) 2u', and 1 - s = e^-2u s. */
static void gelu_backward_count(float *dx, const float *dy, const float *x, size_t count)
{
	const struct vec one = vec_set(1.0f);

	for (size_t i = 0; i < count; i += VEC_LANES) {
		size_t n = lanes_at(i, count);
		struct vec v = load_lanes(x + i, n), v2 = vec_mul(v, v);
		struct vec e = gelu_exp(v, v2);
		struct vec s = vec_div(one, vec_add(one, e));
		struct vec slope = vec_fma(v2, vec_set(-3 * GELU_CUBIC), vec_set(-GELU_LINEAR));
		struct vec t = vec_mul(vec_mul(vec_mul(e, s), v), slope);
		struct vec d = vec_mul(s, vec_add(one, t));

		store_lanes(dx + i, vec_mul(d, load_lanes(dy + i, n)), n);
	}
}

/*
 * silu(g) = g s with s = 1 / (1 + e^-g), bounded as in GELU above: e^-g, the exponent at most 87.
 */
VEC_INLINE struct vec silu_exp(struct vec g)
{
	return vec_exp(vec_min(vec_set(87.0f), vec_mul(g, vec_set(-1.0f))));
}

static void swiglu_forward_rows(const struct swiglu *s, size_t begin, size_t end)
{
	const struct vec one = vec_set(1.0f);

	for (size_t i = begin; i < end; i++) {
		const float *gate = (const float *)s->x + i * 2 * s->width, *up = gate + s->width;
		float *y = (float *)s->y + i * s->width;

		for (size_t j = 0; j < s->width; j += VEC_LANES) {
			size_t n = lanes_at(j, s->width);
			struct vec g = load_lanes(gate + j, n);
			struct vec a = vec_div(g, vec_add(one, silu_exp(g)));

			store_lanes(y + j, vec_mul(a, load_lanes(up + j, n)), n);
		}
	}
}

/* silu'(g) = s + g s (1 - s), and 1 - s = e^-g s. All of a lane is read before it is written. */
static void swiglu_backward_rows(const struct swiglu *s, size_t begin, size_t end)
{
	const struct vec one = vec_set(1.0f);

	for (size_t i = begin; i < end; i++) {
		const float *gate = (const float *)s->x + i * 2 * s->width, *up = gate + s->width;
		const float *dy = (const float *)s->dy + i * s->width;
		float *dgate = (float *)s->dx + i * 2 * s->width, *dup = dgate + s->width;

		for (size_t j = 0; j < s->width; j += VEC_LANES) {
			size_t n = lanes_at(j, s->width);
			struct vec g = load_lanes(gate + j, n), u = load_lanes(up + j, n);
			struct vec d = load_lanes(dy + j, n), e = silu_exp(g);
			struct vec r = vec_div(one, vec_add(one, e));
			struct vec slope = vec_mul(r, vec_fma(vec_mul(e, r), g, one));

			store_lanes(dgate + j, vec_mul(vec_mul(d, u), slope), n);
			store_lanes(dup + j, vec_mul(d, vec_mul(g, r)), n);
		}
	}
}

VEC_INLINE float row_mean(const float *x, size_t width)
{
	struct vec acc = vec_set(0.0f);

	for (size_t j = 0; j < width; j += VEC_LANES)
		acc = vec_add(acc, load_lanes(x + j, lanes_at(j, width)));
	return vec_sum(acc) / (float)width;
}

/* Two passes over a row that is in the cache by then, and no cancellation. */
VEC_INLINE float row_variance(const float *x, size_t width, float mean)
{
	const struct vec m = vec_set(mean);
	struct vec acc = vec_set(0.0f);

	for (size_t j = 0; j < width; j += VEC_LANES) {
		size_t n = lanes_at(j, width);
		struct vec d = vec_sub(load_lanes(x + j, n), m);

		if (n < VEC_LANES)
			d = vec_keep(d, n);
		acc = vec_fma(d, d, acc);
	}
	return vec_sum(acc) / (float)width;
}

static void layernorm_forward_rows(const struct layernorm *l, size_t begin, size_t end)
{
	for (size_t i = begin; i < end; i++) {
		const float *x = l->x + i * l->width;
		float *y = (float *)l->y + i * l->width;
		float mean = row_mean(x, l->width);
		float rstd = 1.0f / sqrtf(row_variance(x, l->width, mean) + l->eps);
		struct vec m = vec_set(mean), r = vec_set(rstd);

		for (size_t j = 0; j < l->width; j += VEC_LANES) {
			size_t n = lanes_at(j, l->width);
			struct vec h = vec_mul(vec_sub(load_lanes(x + j, n), m), r);
			struct vec g = load_param(l->gain, l->type, j, n);
			struct vec b = load_param(l->bias, l->type, j, n);

			store_lanes(y + j, vec_fma(h, g, b), n);
		}
		l->mean[i] = mean;
		l->rstd[i] = rstd;
	}
}

/* With h = (x - mean) rstd and d = dy gain: dx += rstd (d - mean(d) - h mean(d h)). */
static void layernorm_backward_rows(const struct layernorm *l, size_t begin, size_t end)
{
	for (size_t i = begin; i < end; i++) {
		const float *x = l->x + i * l->width;
		const float *dy = (const float *)l->dy + i * l->width;
		float *dx = l->dx + i * l->width;
		struct vec m = vec_set(l->mean[i]), r = vec_set(l->rstd[i]);
		struct vec sum_d = vec_set(0.0f), sum_dh = vec_set(0.0f);

		for (size_t j = 0; j < l->width; j += VEC_LANES) {
			size_t n = lanes_at(j, l->width);
			struct vec h = vec_mul(vec_sub(load_lanes(x + j, n), m), r);
			struct vec g = load_param(l->gain, l->type, j, n);
			struct vec d = vec_mul(load_lanes(dy + j, n), g);

			/* Absent lanes hold d = 0 and, unless rstd overflowed, a finite h. */
			sum_d = vec_add(sum_d, d);
			sum_dh = vec_fma(d, n < VEC_LANES ? vec_keep(h, n) : h, sum_dh);
		}
		sum_d = vec_set(vec_sum(sum_d) / (float)l->width);
		sum_dh = vec_set(vec_sum(sum_dh) / (float)l->width);
		for (size_t j = 0; j < l->width; j += VEC_LANES) {
			size_t n = lanes_at(j, l->width);
			struct vec h = vec_mul(vec_sub(load_lanes(x + j, n), m), r);
			struct vec g = load_param(l->gain, l->type, j, n);
			struct vec d = vec_sub(vec_mul(load_lanes(dy + j, n), g), sum_d);

			d = vec_sub(d, vec_mul(h, sum_dh));
			store_lanes(dx + j, vec_fma(r, d, load_lanes(dx + j, n)), n);
		}
	}
}

static void layernorm_backward_columns(const struct layernorm *l, size_t begin, size_t end)
{
	for (size_t i = 0; i < l->rows; i++) {
		const float *x = l->x + i * l->width;
		const float *dy = (const float *)l->dy + i * l->width;
		struct vec m = vec_set(l->mean[i]), r = vec_set(l->rstd[i]);

		for (size_t j = begin; j < end; j += VEC_LANES) {
			size_t n = lanes_at(j, end);
			struct vec h = vec_mul(vec_sub(load_lanes(x + j, n), m), r);
			struct vec d = load_lanes(dy + j, n);
			struct vec gain = load_lanes(l->dgain + j, n);
			struct vec bias = load_lanes(l->dbias + j, n);

			store_lanes(l->dgain + j, vec_fma(d, h, gain), n);
			store_lanes(l->dbias + j, vec_add(bias, d), n);
		}
	}
}

VEC_INLINE float row_mean_square(const float *x, size_t width)
{
	struct vec acc = vec_set(0.0f);

	for (size_t j = 0; j < width; j += VEC_LANES) {
		struct vec v = load_lanes(x + j, lanes_at(j, width));

		acc = vec_fma(v, v, acc);
	}
	return vec_sum(acc) / (float)width;
}

static void rmsnorm_forward_rows(const struct rmsnorm *l, size_t begin, size_t end)
{
	for (size_t i = begin; i < end; i++) {
		const float *x = l->x + i * l->width;
		float *y = (float *)l->y + i * l->width;
		float rstd = 1.0f / sqrtf(row_mean_square(x, l->width) + l->eps);
		struct vec r = vec_set(rstd);

		for (size_t j = 0; j < l->width; j += VEC_LANES) {
			size_t n = lanes_at(j, l->width);
			struct vec h = vec_mul(load_lanes(x + j, n), r);

			store_lanes(y + j, vec_mul(h, load_param(l->gain, l->type, j, n)), n);
		}
		l->rstd[i] = rstd;
	}
}

/* With h = x rstd and d = dy gain: dx += rstd (d - h mean(d h)). */
static void rmsnorm_backward_rows(const struct rmsnorm *l, size_t begin, size_t end)
{
	for (size_t i = begin; i < end; i++) {
		const float *x = l->x + i * l->width;
		const float *dy = (const float *)l->dy + i * l->width;
		float *dx = l->dx + i * l->width;
		struct vec r = vec_set(l->rstd[i]), sum_dh = vec_set(0.0f);

		for (size_t j = 0; j < l->width; j += VEC_LANES) {
			size_t n = lanes_at(j, l->width);
			struct vec h = vec_mul(load_lanes(x + j, n), r);
			struct vec g = load_param(l->gain, l->type, j, n);

			sum_dh = vec_fma(vec_mul(load_lanes(dy + j, n), g), h, sum_dh);
		}
		sum_dh = vec_set(vec_sum(sum_dh) / (float)l->width);
		for (size_t j = 0; j < l->width; j += VEC_LANES) {
			size_t n = lanes_at(j, l->width);
			struct vec h = vec_mul(load_lanes(x + j, n), r);
			struct vec g = load_param(l->gain, l->type, j, n);
			struct vec d = vec_mul(load_lanes(dy + j, n), g);

			d = vec_sub(d, vec_mul(h, sum_dh));
			store_lanes(dx + j, vec_fma(r, d, load_lanes(dx + j, n)), n);
		}
	}
}

static void rmsnorm_backward_columns(const struct rmsnorm *l, size_t begin, size_t end)
{
	for (size_t i = 0; i < l->rows; i++) {
		const float *x = l->x + i * l->width;
		const float *dy = (const float *)l->dy + i * l->width;
		struct vec r = vec_set(l->rstd[i]);

		for (size_t j = begin; j < end; j += VEC_LANES) {
			size_t n = lanes_at(j, end);
			struct vec h = vec_mul(load_lanes(x + j, n), r);
			struct vec gain = load_lanes(l->dgain + j, n);

			store_lanes(l->dgain + j, vec_fma(load_lanes(dy + j, n), h, gain), n);
		}
	}
}

/* Pairs j.. of every head of a token. */
VEC_INLINE void rotary_pairs(const struct rotary *r, float *x, const float *table, size_t n)
{
	size_t half = r->head_dim / 2;
	float turn[2][VEC_LANES];
	struct vec c, s;

	for (size_t i = 0; i < n; i++) {
		turn[0][i] = table[2 * i];
		turn[1][i] = r->inverse ? -table[2 * i + 1] : table[2 * i + 1];
	}
	c = load_lanes(turn[0], n);
	s = load_lanes(turn[1], n);
	for (size_t head = 0; head < r->heads; head++, x += r->head_dim) {
		struct vec a = load_lanes(x, n), b = load_lanes(x + half, n);

		store_lanes(x, vec_sub(vec_mul(a, c), vec_mul(b, s)), n);
		store_lanes(x + half, vec_fma(b, c, vec_mul(a, s)), n);
	}
}

static void rotary_tokens(const struct rotary *r, size_t begin, size_t end)
{
	size_t half = r->head_dim / 2;

	for (size_t i = begin; i < end; i++) {
		float *x = (float *)r->x + i * r->row;
		const float *table = r->table + i % r->seq * r->head_dim;

		for (size_t j = 0; j < half; j += VEC_LANES)
			rotary_pairs(r, x + j, table + 2 * j, lanes_at(j, half));
	}
}

VEC_INLINE float row_greatest(const float *x, size_t count)
{
	struct vec greatest = vec_set(-INFINITY);

	for (size_t j = 0; j < count; j += VEC_LANES) {
		size_t n = lanes_at(j, count);
		struct vec v = load_lanes(x + j, n);

		if (n < VEC_LANES)
			v = vec_blend(v, vec_set(-INFINITY), n);
		greatest = vec_max(greatest, v);
	}
	return vec_greatest(greatest);
}

static double cross_entropy_row(const struct cross_entropy *c, size_t row)
{
	float *x = (float *)c->logits + row * (c->row ? c->row : c->vocab);
	float greatest = row_greatest(x, c->vocab), right;
	struct vec_double acc = vec_double_zero();
	struct vec factor;
	double total;

	assert(c->targets[row] < c->vocab);
	right = x[c->targets[row]];
	for (size_t j = 0; j < c->vocab; j += VEC_LANES) {
		size_t n = lanes_at(j, c->vocab);
		struct vec e = vec_exp(vec_sub(load_lanes(x + j, n), vec_set(greatest)));

		acc = vec_double_add(acc, n < VEC_LANES ? vec_keep(e, n) : e);
		if (c->gradient)
			store_lanes(x + j, e, n);
	}
	total = lanes_total(acc);
	if (c->gradient) {
		factor = vec_set((float)((double)c->scale / total));
		for (size_t j = 0; j < c->vocab; j += VEC_LANES) {
			size_t n = lanes_at(j, c->vocab);

			store_lanes(x + j, vec_mul(load_lanes(x + j, n), factor), n);
		}
		x[c->targets[row]] -= c->scale;
	}
	return log(total) + ((double)greatest - (double)right);
}

#endif
