/*
 * AdamW with moments in eight bits (optimizer_codes.h), a block at a time: the block's step in fp32
 * into vectors of the stack, which stay in the first cache, then the scales, then the codes.
 * Included by optimizer_*.c.
 */
#ifndef KERNELS_ADAMW_INT8_BODY_H
#define KERNELS_ADAMW_INT8_BODY_H

#include <math.h>

#include "kernels/adam_element.h"
#include "kernels/optimizer_body.h"
#include "kernels/optimizer_codes.h"

/* Sums with it have a whole number below 2^22 in their low bits, rounded to nearest. */
#define CODES_MAGIC 12582912.0f

STEP_INLINE struct vec codes_load(const uint8_t *at, size_t n)
{
	uint8_t tail[VEC_LANES] = {0};

	if (n == VEC_LANES)
		return vec_load_bytes(at);
	memcpy(tail, at, n);
	return vec_load_bytes(tail);
}

STEP_INLINE void codes_store(uint8_t *at, struct vec codes, size_t n)
{
	uint8_t tail[VEC_LANES];

	if (n == VEC_LANES) {
		vec_store_bytes(at, codes);
		return;
	}
	vec_store_bytes(tail, codes);
	memcpy(at, tail, n);
}

STEP_INLINE struct vec code_number(const struct optimizer_code *c, struct vec k)
{
	struct vec h = vec_add(k, vec_set(0.5f)), exponent = vec_shift_right(h, 23);

	return vec_fma(vec_lookup_8(c->unit, exponent), h, vec_lookup_8(c->offset, exponent));
}

/* What the codes 0..255 of the first moment stand for. */
STEP_INLINE struct vec first_number(struct vec code)
{
	const struct vec half = vec_set(128.0f);
	struct vec negative = vec_sub(code, half);
	struct vec number =
		code_number(&optimizer_codes[0], vec_select_less(code, half, code, negative));
	struct vec minus = vec_sub(vec_set(0.0f), number);

	minus = vec_select_less(vec_set(0.0f), negative, minus, vec_set(1.0f));
	return vec_select_less(code, half, number, minus);
}

STEP_INLINE struct vec second_number(struct vec code)
{
	const struct vec zero = vec_set(0.0f);

	return vec_select_less(zero, code, code_number(&optimizer_codes[1], code), zero);
}

/* The magnitude's code, in the low bits, of 0 <= x <= 1; of 0, whatever decade is the lowest. */
STEP_INLINE struct vec code_of(const struct optimizer_code *c, struct vec x)
{
	struct vec rank = vec_rank_7(x, c->reached);
	struct vec k = vec_fma(vec_lookup_8(c->per_unit, rank), x, vec_lookup_8(c->shift, rank));

	return vec_add(vec_min(k, vec_lookup_8(c->last, rank)), vec_set(CODES_MAGIC));
}

STEP_INLINE struct vec first_code(struct vec x)
{
	const struct optimizer_code *c = &optimizer_codes[0];
	struct vec magnitude = vec_and_bits(x, vec_set_bits(0x7fffffff));
	struct vec sign = vec_shift_right(vec_and_bits(x, vec_set_bits(0x80000000)), 24);
	struct vec code = code_of(c, magnitude);

	/* Zero has one code. */
	sign = vec_select_less(magnitude, vec_set(c->reached[0]), vec_set(0.0f), sign);
	return vec_select_less(x, vec_set(c->top), vec_or_bits(code, sign), vec_set_bits(0x80));
}

STEP_INLINE struct vec second_code(struct vec x)
{
	const struct optimizer_code *c = &optimizer_codes[1];
	struct vec code = vec_select_less(x, vec_set(c->top), code_of(c, x), vec_set_bits(1));

	return vec_select_less(vec_set(0.0f), x, code, vec_set(0.0f));
}

/* Of the greatest of a block and the greatest of its negatives; infinities and NaN stay. */
STEP_INLINE float block_scale(float most, float least, float tiny)
{
	float scale = most >= least ? most : -least;

	return fabsf(scale) < tiny ? 0.0f : scale;
}

STEP_INLINE float block_inverse(float scale)
{
	return scale == 0.0f ? 0.0f : 1.0f / scale;
}

/* Codes of a block's n numbers; the vectors have room for whole lanes. Returns the scale. */
STEP_INLINE float first_encode(uint8_t *codes, const float *x, size_t n)
{
	struct vec most = vec_set(0.0f), least = most, inverse;
	float scale;

	for (size_t i = 0; i < n; i += VEC_LANES) {
		struct vec lanes = vec_load(x + i);

		most = vec_max(most, lanes);
		least = vec_max(least, vec_sub(vec_set(0.0f), lanes));
	}
	scale = block_scale(vec_greatest(most), vec_greatest(least), CODES_TINY_FIRST);
	inverse = vec_set(block_inverse(scale));
	for (size_t i = 0; i < n; i += VEC_LANES)
		codes_store(codes + i, first_code(vec_mul(vec_load(x + i), inverse)),
			    n - i < VEC_LANES ? n - i : VEC_LANES);
	return scale;
}

/* The same of the square roots of second moments. */
STEP_INLINE float second_encode(uint8_t *codes, const float *root, size_t n)
{
	struct vec most = vec_set(0.0f), inverse;
	float scale;

	for (size_t i = 0; i < n; i += VEC_LANES)
		most = vec_max(most, vec_load(root + i));
	scale = block_scale(vec_greatest(most), 0.0f, CODES_TINY_SECOND);
	inverse = vec_set(block_inverse(scale));
	for (size_t i = 0; i < n; i += VEC_LANES)
		codes_store(codes + i, second_code(vec_mul(vec_load(root + i), inverse)),
			    n - i < VEC_LANES ? n - i : VEC_LANES);
	return scale;
}

/* The step of the n elements from i on, at j of a block; the new moments to m and root. */
STEP_INLINE void adamw_int8_lanes(const struct optimizer_step *s, const float scale[2], size_t i,
				  size_t n, float *m, float *root, enum dtype grad_type,
				  enum dtype param_type)
{
	const uint8_t *first = (const uint8_t *)s->state.moment[0] + i;
	const uint8_t *second = (const uint8_t *)s->state.moment[1] + i;
	struct vec decay = step_decay(s, i, s->scalars.adam.decay_factor, 1.0f);
	struct vec r = vec_mul(second_number(codes_load(second, n)), vec_set(scale[1]));
	struct adam_vec x = {.p = lanes_param(s->param, s->state.lo, param_type, i, n),
			     .m = vec_mul(first_number(codes_load(first, n)), vec_set(scale[0])),
			     .v = vec_mul(r, r)};

	x = adam_element(&s->scalars.adam, x, lanes_grad(s->grad, grad_type, i, n), decay);
	lanes_param_store(s->param, s->state.lo, param_type, i, n, x.p);
	vec_store(m, x.m);
	vec_store(root, x.root);
}

/* The block of n elements at i. */
STEP_INLINE void adamw_int8_block(const struct optimizer_step *s, size_t i, size_t n,
				  enum dtype grad_type, enum dtype param_type)
{
	_Alignas(64) float m[OPTIMIZER_BLOCK], root[OPTIMIZER_BLOCK];
	float *first_scale = &s->state.scale[0][i / OPTIMIZER_BLOCK];
	float *second_scale = &s->state.scale[1][i / OPTIMIZER_BLOCK];
	const float scale[2] = {*first_scale, *second_scale};

	for (size_t j = 0; j < n; j += VEC_LANES) {
		if (j % (2 * VEC_LANES) == 0)
			step_ask(s, i + j + LANES_AHEAD, grad_type, param_type, 2, 1);
		adamw_int8_lanes(s, scale, i + j, n - j < VEC_LANES ? n - j : VEC_LANES, m + j,
				 root + j, grad_type, param_type);
	}
	*first_scale = first_encode((uint8_t *)s->state.moment[0] + i, m, n);
	*second_scale = second_encode((uint8_t *)s->state.moment[1] + i, root, n);
}

STEP_INLINE void adamw_int8_run(const struct optimizer_step *given, enum dtype grad_type,
				enum dtype param_type)
{
	const struct optimizer_step s = *given;
	size_t i = 0;

	for (; s.count - i >= OPTIMIZER_BLOCK; i += OPTIMIZER_BLOCK)
		adamw_int8_block(&s, i, OPTIMIZER_BLOCK, grad_type, param_type);
	if (i < s.count)
		adamw_int8_block(&s, i, s.count - i, grad_type, param_type);
}

OPTIMIZER_TYPES(adamw_int8)

static void int8_decode(unsigned moment, const uint8_t *codes, const float *scale, size_t count,
			float *to)
{
	for (size_t i = 0; i < count; i += VEC_LANES) {
		size_t n = count - i < VEC_LANES ? count - i : VEC_LANES;
		struct vec code = codes_load(codes + i, n);
		struct vec number = moment == 0 ? first_number(code) : second_number(code);

		number = vec_mul(number, vec_set(scale[i / OPTIMIZER_BLOCK]));
		lanes_store(to + i, moment == 0 ? number : vec_mul(number, number), n);
	}
}

static void int8_encode(unsigned moment, uint8_t *codes, float *scale, size_t count,
			const float *from)
{
	_Alignas(64) float x[OPTIMIZER_BLOCK];

	for (size_t i = 0; i < count; i += OPTIMIZER_BLOCK) {
		size_t n = count - i < OPTIMIZER_BLOCK ? count - i : OPTIMIZER_BLOCK;

		for (size_t j = 0; j < n; j += VEC_LANES) {
			struct vec lanes =
				lanes_load(from + i + j, n - j < VEC_LANES ? n - j : VEC_LANES);

			vec_store(x + j, moment == 0 ? lanes : vec_sqrt(lanes));
		}
		scale[i / OPTIMIZER_BLOCK] = moment == 0 ? first_encode(codes + i, x, n)
							 : second_encode(codes + i, x, n);
	}
}

#endif
