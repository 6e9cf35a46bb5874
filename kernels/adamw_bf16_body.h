/*
 * AdamW with moments in bf16, rounded stochastically, over sixteen lanes. Included by
 * optimizer_*.c.
 *
 * A bf16 is the upper half of a float. Sixteen random bits added to the lower half carry into the
 * upper with the probability of what is cut off then, in magnitude, whatever the sign. What a bf16
 * holds exactly stays, since nothing can carry.
 */
#ifndef KERNELS_ADAMW_BF16_BODY_H
#define KERNELS_ADAMW_BF16_BODY_H

#include "kernels/adam_element.h"
#include "kernels/optimizer_body.h"
#include "kernels/optimizer_random.h"

/* optimizer_random of the elements from i on */
STEP_INLINE struct vec random_lanes(const struct optimizer_step *s, size_t i)
{
	const uint64_t position = s->position + i;
	struct vec x = vec_count_bits((uint32_t)position);

	x = vec_xor_bits(x, vec_set_bits(s->scalars.random_key[0]));
	x = vec_xor_bits(x, vec_shift_right(x, 16));
	x = vec_mul_bits(x, vec_set_bits(RANDOM_FIRST));
	x = vec_add_bits(x, vec_set_bits(optimizer_random_key(s->scalars.random_key, position)));
	x = vec_xor_bits(x, vec_shift_right(x, 15));
	x = vec_mul_bits(x, vec_set_bits(RANDOM_SECOND));
	return vec_xor_bits(x, vec_shift_right(x, 16));
}

/* `random` is below 2^16. A NaN, whose carry would leave no NaN, is only cut. */
STEP_INLINE void store_rounded(uint16_t *at, struct vec x, struct vec random, size_t n)
{
	x = vec_select_nan(x, x, vec_add_bits(x, random));
	if (n == VEC_LANES)
		vec_store_upper(at, x);
	else
		vec_store_upper_n(at, x, n);
}

STEP_INLINE void adamw_bf16_lanes(const struct optimizer_step *s, size_t i, size_t n,
				  enum dtype grad_type, enum dtype param_type)
{
	uint16_t *m = (uint16_t *)s->state.moment[0] + i, *v = (uint16_t *)s->state.moment[1] + i;
	struct vec decay = step_decay(s, i, s->scalars.adam.decay_factor, 1.0f);
	struct vec random = random_lanes(s, i);
	struct adam_vec x = {.p = lanes_param(s->param, s->state.lo, param_type, i, n),
			     .m = lanes_load_bf16(m, n),
			     .v = lanes_load_bf16(v, n)};

	x = adam_element(&s->scalars.adam, x, lanes_grad(s->grad, grad_type, i, n), decay);
	store_rounded(m, x.m, vec_and_bits(random, vec_set_bits(0xffff)), n);
	store_rounded(v, x.v, vec_shift_right(random, 16), n);
	lanes_param_store(s->param, s->state.lo, param_type, i, n, x.p);
}

OPTIMIZER_STEP(adamw_bf16, 2, sizeof(uint16_t))

#endif
