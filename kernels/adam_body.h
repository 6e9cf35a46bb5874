/*
 * Adam over sixteen lanes; see adam_scalar.c, which it follows operation by operation. Included by
 * adam_avx2.c and adam_avx512.c after their vec headers.
 */
#ifndef KERNELS_ADAM_BODY_H
#define KERNELS_ADAM_BODY_H

#ifndef VEC_LANES
#include "kernels/vec_scalar.h"
#endif

#include "kernels/adam_element.h"
#include "kernels/adam_kernels.h"
#include "kernels/step_lanes.h"

/* Asks for the 2 * VEC_LANES elements at i. */
VEC_INLINE void adam_ask_lanes(const struct adam *a, size_t i, enum dtype grad_type,
			       enum dtype param_type)
{
	const size_t n = 2 * VEC_LANES;

	lanes_ask_param(a->grad, grad_type, a->param, a->lo, param_type, i, n);
	lanes_ask(a->m + i, n * sizeof(*a->m));
	lanes_ask(a->v + i, n * sizeof(*a->v));
}

/* n lanes at i. grad and param types are constants where this is inlined. */
VEC_INLINE void adam_lanes(const struct adam *a, const struct adam_scalars *s, size_t i, size_t n,
			   struct vec decay, enum dtype grad_type, enum dtype param_type)
{
	struct vec grad = lanes_grad(a->grad, grad_type, i, n);
	struct adam_vec x = {.p = lanes_param(a->param, a->lo, param_type, i, n),
			     .m = lanes_load(a->m + i, n),
			     .v = lanes_load(a->v + i, n)};

	x = adam_element(s, x, grad, decay);
	lanes_store(a->m + i, x.m, n);
	lanes_store(a->v + i, x.v, n);
	lanes_param_store(a->param, a->lo, param_type, i, n, x.p);
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
		adam_ask_lanes(&step, i + LANES_AHEAD, grad_type, param_type);
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
