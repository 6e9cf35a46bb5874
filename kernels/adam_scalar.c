/*
 * Adam in plain C: the specification that adam_body.h follows operation by operation. Used where
 * the CPU has neither AVX2 nor AVX-512, and by tests.
 */
#include <math.h>

#include "kernels/adam_kernels.h"
#include "kernels/adam_move_body.h"

struct state {
	float p, m, v;
};

static struct state element(const struct adam_scalars *s, struct state x, float grad, float decay)
{
	float g = grad * s->grad_scale;

	x.m = fmaf(s->one_minus_beta1, g - x.m, x.m);
	x.v = fmaf(s->one_minus_beta2 * g, g, s->beta2 * x.v);
	x.p = x.p * decay;
	x.p = fmaf(s->minus_step, x.m / (sqrtf(x.v) * s->inv_sqrt_bias2 + s->eps), x.p);
	return x;
}

static void range(const struct adam *a, size_t begin, size_t end, float decay)
{
	const uint16_t *grad_bf16 = a->grad;
	const float *grad_f32 = a->grad;
	uint16_t *hi = a->param;
	float *param = a->param;

	for (size_t i = begin; i < end; i++) {
		bool split = a->param_type == DTYPE_BF16;
		float g = a->grad_type == DTYPE_BF16 ? bf16_to_float(grad_bf16[i]) : grad_f32[i];
		struct state x = {split ? bf16_join(hi[i], a->lo[i]) : param[i], a->m[i], a->v[i]};

		x = element(&a->scalars, x, g, decay);
		if (split)
			bf16_split(x.p, &hi[i], &a->lo[i]);
		else
			param[i] = x.p;
		a->m[i] = x.m;
		a->v[i] = x.v;
	}
}

const struct adam_kernels adam_scalar = {
	.step = {{range, range}, {range, range}},
	.move = range_move,
};
