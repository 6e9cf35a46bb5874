/* Adagrad over sixteen lanes: optimizer.h has the formula. Included by optimizer_*.c. */
#ifndef KERNELS_ADAGRAD_BODY_H
#define KERNELS_ADAGRAD_BODY_H

#include "kernels/optimizer_body.h"

STEP_INLINE void adagrad_lanes(const struct optimizer_step *s, size_t i, size_t n,
			       enum dtype grad_type, enum dtype param_type)
{
	float *moment = (float *)s->state.moment[0] + i;
	struct vec p = lanes_param(s->param, s->state.lo, param_type, i, n);
	struct vec g = step_grad_decayed(s, lanes_grad(s->grad, grad_type, i, n), p, i);
	struct vec sum = vec_fma(g, g, lanes_load(moment, n));
	struct vec root = vec_add(vec_sqrt(sum), vec_set(s->scalars.other.eps));

	p = vec_fma(vec_set(s->scalars.other.minus_lr), vec_div(g, root), p);
	lanes_store(moment, sum, n);
	lanes_param_store(s->param, s->state.lo, param_type, i, n, p);
}

OPTIMIZER_STEP(adagrad, 1, sizeof(float))

#endif
