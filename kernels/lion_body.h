/* Lion over sixteen lanes: optimizer.h has the formula. Included by optimizer_*.c. */
#ifndef KERNELS_LION_BODY_H
#define KERNELS_LION_BODY_H

#include "kernels/optimizer_body.h"

/* -1, 0 or 1; a NaN stays one. */
STEP_INLINE struct vec lion_sign(struct vec x)
{
	const struct vec zero = vec_set(0.0f);

	return vec_select_less(zero, x, vec_set(1.0f), vec_select_less(x, zero, vec_set(-1.0f), x));
}

STEP_INLINE void lion_lanes(const struct optimizer_step *s, size_t i, size_t n,
			    enum dtype grad_type, enum dtype param_type)
{
	float *moment = (float *)s->state.moment[0] + i;
	struct vec g =
		vec_mul(lanes_grad(s->grad, grad_type, i, n), vec_set(s->scalars.other.grad_scale));
	struct vec p = lanes_param(s->param, s->state.lo, param_type, i, n);
	struct vec m = lanes_load(moment, n), change = vec_sub(g, m);
	struct vec sign = lion_sign(vec_fma(vec_set(s->scalars.other.one_minus_beta1), change, m));

	p = vec_mul(p, step_decay(s, i, s->scalars.other.decay, 1.0f));
	p = vec_fma(vec_set(s->scalars.other.minus_lr), sign, p);
	m = vec_fma(vec_set(s->scalars.other.one_minus_beta2), change, m);
	lanes_store(moment, m, n);
	lanes_param_store(s->param, s->state.lo, param_type, i, n, p);
}

OPTIMIZER_STEP(lion, 1, sizeof(float))

#endif
