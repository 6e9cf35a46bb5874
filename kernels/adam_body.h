/*
 * Adam over sixteen lanes; see adam_scalar.c, which it follows operation by operation. Included by
 * adam_avx2.c and adam_avx512.c after their vec headers.
 */
#ifndef KERNELS_ADAM_BODY_H
#define KERNELS_ADAM_BODY_H

#ifndef VEC_LANES
#include "kernels/vec_scalar.h"
#endif

#include "kernels/adam_kernels.h"

/*
 * Elements that are asked of memory ahead of those in work. Division and square root keep a core
 * about as long as memory does, so that what waits in its window reaches too few lines ahead by
 * itself: 256 to 1024 measured alike, none at all 5 to 8 % slower.
 */
#define ADAM_AHEAD 512u
#define ADAM_LINE  64u

struct adam_vec {
	struct vec p, m, v;
};

VEC_INLINE void adam_ask(const void *at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += ADAM_LINE)
		__builtin_prefetch((const char *)at + i);
}

/* Asks for the 2 * VEC_LANES elements at i, whole lines of each vector. */
VEC_INLINE void adam_ask_lanes(const struct adam *a, size_t i, enum dtype grad_type,
			       enum dtype param_type)
{
	const size_t n = 2 * VEC_LANES;
	const size_t grad_bytes = grad_type == DTYPE_BF16 ? 2 : 4;
	const size_t param_bytes = param_type == DTYPE_BF16 ? 2 : 4;

	adam_ask((const char *)a->grad + i * grad_bytes, n * grad_bytes);
	adam_ask((const char *)a->param + i * param_bytes, n * param_bytes);
	if (param_type == DTYPE_BF16)
		adam_ask(a->lo + i, n * sizeof(*a->lo));
	adam_ask(a->m + i, n * sizeof(*a->m));
	adam_ask(a->v + i, n * sizeof(*a->v));
}

VEC_INLINE struct adam_vec adam_element(const struct adam_scalars *s, struct adam_vec x,
					struct vec grad, struct vec decay)
{
	struct vec g = vec_mul(grad, vec_set(s->grad_scale));
	struct vec g2 = vec_mul(vec_set(s->one_minus_beta2), g), root;

	x.m = vec_fma(vec_set(s->one_minus_beta1), vec_sub(g, x.m), x.m);
	x.v = vec_fma(g2, g, vec_mul(vec_set(s->beta2), x.v));
	x.p = vec_mul(x.p, decay);
	root = vec_mul(vec_sqrt(x.v), vec_set(s->inv_sqrt_bias2));
	x.p = vec_fma(vec_set(s->minus_step), vec_div(x.m, vec_add(root, vec_set(s->eps))), x.p);
	return x;
}

/* n lanes at i. grad and param types are constants where this is inlined. */
VEC_INLINE void adam_lanes(const struct adam *a, const struct adam_scalars *s, size_t i, size_t n,
			   struct vec decay, enum dtype grad_type, enum dtype param_type)
{
	const bool whole = n == VEC_LANES;
	const uint16_t *grad_bf16 = (const uint16_t *)a->grad + i;
	const float *grad_f32 = (const float *)a->grad + i;
	uint16_t *hi = (uint16_t *)a->param + i;
	float *param = (float *)a->param + i;
	struct vec grad;
	struct adam_vec x;

	if (grad_type == DTYPE_BF16)
		grad = whole ? vec_load_bf16(grad_bf16) : vec_load_bf16_n(grad_bf16, n);
	else
		grad = whole ? vec_load(grad_f32) : vec_load_n(grad_f32, n);
	if (param_type == DTYPE_BF16)
		x.p = whole ? vec_join(hi, a->lo + i) : vec_join_n(hi, a->lo + i, n);
	else
		x.p = whole ? vec_load(param) : vec_load_n(param, n);
	x.m = whole ? vec_load(a->m + i) : vec_load_n(a->m + i, n);
	x.v = whole ? vec_load(a->v + i) : vec_load_n(a->v + i, n);
	x = adam_element(s, x, grad, decay);
	if (whole) {
		vec_store(a->m + i, x.m);
		vec_store(a->v + i, x.v);
	} else {
		vec_store_n(a->m + i, x.m, n);
		vec_store_n(a->v + i, x.v, n);
	}
	if (param_type == DTYPE_BF16) {
		if (whole)
			vec_split(hi, a->lo + i, x.p);
		else
			vec_split_n(hi, a->lo + i, x.p, n);
	} else {
		if (whole)
			vec_store(param, x.p);
		else
			vec_store_n(param, x.p, n);
	}
}

VEC_INLINE void adam_range(const struct adam *a, size_t begin, size_t end, float decay,
			   enum dtype grad_type, enum dtype param_type)
{
	/* Copies the compiler knows no store of the loop can reach. */
	const struct adam step = *a;
	const struct adam_scalars s = a->scalars;
	struct vec factor = vec_set(decay);
	size_t i = begin;

	for (; end - i >= 2 * VEC_LANES; i += 2 * VEC_LANES) {
		adam_ask_lanes(&step, i + ADAM_AHEAD, grad_type, param_type);
		adam_lanes(&step, &s, i, VEC_LANES, factor, grad_type, param_type);
		adam_lanes(&step, &s, i + VEC_LANES, VEC_LANES, factor, grad_type, param_type);
	}
	for (; end - i >= VEC_LANES; i += VEC_LANES)
		adam_lanes(&step, &s, i, VEC_LANES, factor, grad_type, param_type);
	if (i < end)
		adam_lanes(&step, &s, i, end - i, factor, grad_type, param_type);
}

static void range_f32_f32(const struct adam *a, size_t begin, size_t end, float decay)
{
	adam_range(a, begin, end, decay, DTYPE_F32, DTYPE_F32);
}

static void range_f32_bf16(const struct adam *a, size_t begin, size_t end, float decay)
{
	adam_range(a, begin, end, decay, DTYPE_F32, DTYPE_BF16);
}

static void range_bf16_f32(const struct adam *a, size_t begin, size_t end, float decay)
{
	adam_range(a, begin, end, decay, DTYPE_BF16, DTYPE_F32);
}

static void range_bf16_bf16(const struct adam *a, size_t begin, size_t end, float decay)
{
	adam_range(a, begin, end, decay, DTYPE_BF16, DTYPE_BF16);
}

#endif
