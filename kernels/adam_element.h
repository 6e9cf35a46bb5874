/*
 * AdamW's arithmetic over sixteen lanes, whatever the moments are kept in; see adam_scalar.c, which
 * it follows operation by operation. Included by the bodies after a vec header.
 */
#ifndef KERNELS_ADAM_ELEMENT_H
#define KERNELS_ADAM_ELEMENT_H

#ifndef VEC_LANES
#include "kernels/vec_scalar.h"
#endif

#include "kernels/adam.h"
#include "kernels/step_lanes.h"

struct adam_vec {
	struct vec p, m, v;
	struct vec root; /* the new v's; what came in is not looked at */
};

STEP_INLINE struct adam_vec adam_element(const struct adam_scalars *s, struct adam_vec x,
					 struct vec grad, struct vec decay)
{
	struct vec g = vec_mul(grad, vec_set(s->grad_scale));
	struct vec g2 = vec_mul(vec_set(s->one_minus_beta2), g), root;

	x.m = vec_fma(vec_set(s->one_minus_beta1), vec_sub(g, x.m), x.m);
	x.v = vec_fma(g2, g, vec_mul(vec_set(s->beta2), x.v));
	x.p = vec_mul(x.p, decay);
	x.root = vec_sqrt(x.v);
	root = vec_mul(x.root, vec_set(s->inv_sqrt_bias2));
	x.p = vec_fma(vec_set(s->minus_step), vec_div(x.m, vec_add(root, vec_set(s->eps))), x.p);
	return x;
}

#endif
