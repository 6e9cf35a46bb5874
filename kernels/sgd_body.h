/* SGD with momentum over sixteen lanes: optimizer.h has the formula. Included by optimizer_*.c. */
#ifndef KERNELS_SGD_BODY_H
#define KERNELS_SGD_BODY_H

#include "kernels/optimizer_body.h"

STEP_INLINE void sgd_lanes(const struct optimizer_step *s, size_t i, size_t n, enum dtype grad_type,
			   enum dtype param_type)
{
	float *moment = (float *)s->state.moment[0] + i;
	struct vec p = lanes_param(s->param, s->state.lo, param_type, i, n);
	struct vec g = step_grad_decayed(s, lanes_grad(s->grad, grad_type, i, n), p, i);
	struct vec m = vec_fma(vec_set(s->scalars.other.momentum), lanes_load(moment, n), g);

	p = vec_fma(vec_set(s->scalars.other.minus_lr), m, p);
	lanes_store(moment, m, n);
	lanes_param_store(s->param, s->state.lo, param_type, i, n, p);
}

OPTIMIZER_STEP(sgd, 1, sizeof(float))

#endif
