/* The CPU Adam: which kernel runs, and where decay ends. Called from any thread. */
#include "kernels/adam.h"

#include <assert.h>
#include <math.h>

#include "kernels/adam_kernels.h"

static const struct adam_kernels *const tables[CPU_ISA_COUNT] = {
	[CPU_SCALAR] = &adam_scalar,
	[CPU_AVX2] = &adam_avx2,
	[CPU_AVX512] = &adam_avx512,
};

struct adam_scalars adam_scalars_make(const struct adam_hyper *hyper, uint64_t step,
				      double grad_scale)
{
	double bias1 = 1 - pow(hyper->beta1, (double)step);
	double bias2 = 1 - pow(hyper->beta2, (double)step);

	assert(step >= 1);
	return (struct adam_scalars){
		.grad_scale = (float)grad_scale,
		.one_minus_beta1 = (float)(1 - hyper->beta1),
		.beta2 = (float)hyper->beta2,
		.one_minus_beta2 = (float)(1 - hyper->beta2),
		.eps = (float)hyper->eps,
		.decay_factor = (float)(1 - hyper->lr * hyper->weight_decay),
		.minus_step = (float)(-hyper->lr / bias1),
		.inv_sqrt_bias2 = (float)(1 / sqrt(bias2)),
	};
}

static void step_by(const struct adam *a, adam_range_fn *fn)
{
	assert(a->decay_count <= a->count);
	fn(a, 0, a->decay_count, a->scalars.decay_factor);
	/* A product with one is exact, so the rest needs no kernel of its own. */
	fn(a, a->decay_count, a->count, 1.0f);
}

void adam_host_step_isa(const struct adam *a, enum cpu_isa isa)
{
	step_by(a, tables[isa]->step[a->grad_type][a->param_type]);
}

void adam_host_step(const struct adam *a)
{
	adam_host_step_isa(a, cpu_isa());
}

void adam_host_move(const struct adam *a)
{
	assert(a->grad_type == DTYPE_BF16 && a->param_type == DTYPE_BF16);
	step_by(a, tables[cpu_isa()]->move);
}
