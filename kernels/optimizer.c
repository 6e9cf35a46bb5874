/*
 * Optimizers on the host: what a step's scalars are, where a state's arrays lie, and which kernel
 * runs. Called from any thread.
 */
#include "kernels/optimizer.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/rng.h"
#include "kernels/optimizer_kernels.h"
#include "kernels/vector.h"

/* The stream of common/rng.h that random keys come from; no other user of a job's seed has it. */
#define RANDOM_STREAM 0x6d6f6d656e7473u

static const struct optimizer_kernels *const tables[CPU_ISA_COUNT] = {
	[CPU_SCALAR] = &optimizer_scalar,
	[CPU_AVX2] = &optimizer_avx2,
	[CPU_AVX512] = &optimizer_avx512,
};

const char *const optimizer_kind_names[OPTIMIZER_KINDS + 1] = {
	[OPTIMIZER_ADAMW] = "adamw",
	[OPTIMIZER_LION] = "lion",
	[OPTIMIZER_ADAGRAD] = "adagrad",
	[OPTIMIZER_SGD] = "sgd",
};

const char *const optimizer_moments_names[MOMENTS_KINDS + 1] = {
	[MOMENTS_F32] = "fp32",
	[MOMENTS_BF16] = "bf16",
	[MOMENTS_INT8] = "int8",
};

static const size_t moment_bytes[MOMENTS_KINDS] = {
	[MOMENTS_F32] = sizeof(float),
	[MOMENTS_BF16] = sizeof(uint16_t),
	[MOMENTS_INT8] = sizeof(uint8_t),
};

unsigned optimizer_moment_count(enum optimizer_kind kind)
{
	return kind == OPTIMIZER_ADAMW ? 2 : 1;
}

size_t optimizer_moment_bytes(enum optimizer_moments moments)
{
	return moment_bytes[moments];
}

/* False is NaN's, too. */
static bool below_one(double x)
{
	return x >= 0 && x < 1;
}

int optimizer_hyper_check(const struct optimizer_hyper *h, const char **ret_key, struct err *err)
{
	const bool adamw = h->kind == OPTIMIZER_ADAMW, betas = adamw || h->kind == OPTIMIZER_LION;
	const char *ignored, **key = ret_key ? ret_key : &ignored;

	*key = "moments";
	if (h->moments != MOMENTS_F32 && !adamw)
		return err_set(err, ERR_CONFIG, "%s, expected fp32: of %s there is no other form",
			       optimizer_moments_names[h->moments], optimizer_kind_names[h->kind]);
	*key = "lr";
	if (!isfinite(h->lr) || h->lr < 0)
		return err_set(err, ERR_CONFIG, "%g, expected a finite number from 0 on", h->lr);
	*key = "betas";
	if (betas && !(below_one(h->beta1) && below_one(h->beta2)))
		return err_set(err, ERR_CONFIG, "%g, expected a number from 0 to below 1",
			       below_one(h->beta1) ? h->beta2 : h->beta1);
	*key = "eps";
	if ((adamw || h->kind == OPTIMIZER_ADAGRAD) && !(isfinite(h->eps) && h->eps > 0))
		return err_set(err, ERR_CONFIG, "%g, expected a finite number above 0", h->eps);
	*key = "momentum";
	if (h->kind == OPTIMIZER_SGD && !below_one(h->momentum))
		return err_set(err, ERR_CONFIG, "%g, expected a number from 0 to below 1",
			       h->momentum);
	*key = "weight_decay";
	if (!isfinite(h->weight_decay) || h->weight_decay < 0)
		return err_set(err, ERR_CONFIG, "%g, expected a finite number from 0 on",
			       h->weight_decay);
	*key = NULL;
	return 0;
}

static struct adam_scalars adamw_scalars(const struct optimizer_hyper *h, uint64_t step,
					 double grad_scale)
{
	const struct adam_hyper adam = {.lr = h->lr,
					.beta1 = h->beta1,
					.beta2 = h->beta2,
					.eps = h->eps,
					.weight_decay = h->weight_decay};

	return adam_scalars_make(&adam, step, grad_scale);
}

struct optimizer_scalars optimizer_scalars_make(const struct optimizer_hyper *h, uint64_t step,
						double grad_scale)
{
	const bool lion = h->kind == OPTIMIZER_LION;
	struct optimizer_scalars s = {.random_key = {0, 0}};
	uint32_t random[4];

	assert(step >= 1);
	if (h->kind == OPTIMIZER_ADAMW) {
		s.adam = adamw_scalars(h, step, grad_scale);
	} else {
		s.other.grad_scale = (float)grad_scale;
		s.other.minus_lr = (float)-h->lr;
		s.other.decay = (float)(lion ? 1 - h->lr * h->weight_decay : h->weight_decay);
		s.other.one_minus_beta1 = (float)(1 - h->beta1);
		s.other.one_minus_beta2 = (float)(1 - h->beta2);
		s.other.eps = (float)h->eps;
		s.other.momentum = (float)h->momentum;
	}
	if (h->moments == MOMENTS_BF16) {
		rng_block(h->seed, RANDOM_STREAM, step, random);
		memcpy(s.random_key, random, sizeof(s.random_key));
	}
	return s;
}

uint64_t optimizer_state_bytes(enum optimizer_kind kind, enum optimizer_moments moments,
			       enum dtype param_type, uint64_t count)
{
	uint64_t per_moment = count * moment_bytes[moments];

	assert(count % OPTIMIZER_BLOCK == 0);
	if (moments == MOMENTS_INT8)
		per_moment += count / OPTIMIZER_BLOCK * sizeof(float);
	return optimizer_moment_count(kind) * per_moment +
	       (param_type == DTYPE_BF16 ? count * sizeof(int16_t) : 0);
}

struct optimizer_state optimizer_state_at(enum optimizer_kind kind, enum optimizer_moments moments,
					  enum dtype param_type, void *base, uint64_t total,
					  uint64_t first)
{
	const unsigned count = optimizer_moment_count(kind);
	struct optimizer_state s = {.lo = NULL};
	uint8_t *at = base;

	assert(total % OPTIMIZER_BLOCK == 0 && first % OPTIMIZER_BLOCK == 0);
	for (unsigned i = 0; i < count; i++, at += total * moment_bytes[moments])
		s.moment[i] = at + first * moment_bytes[moments];
	for (unsigned i = 0; moments == MOMENTS_INT8 && i < count; i++) {
		s.scale[i] = (float *)(void *)at + first / OPTIMIZER_BLOCK;
		at += total / OPTIMIZER_BLOCK * sizeof(float);
	}
	if (param_type == DTYPE_BF16)
		s.lo = (int16_t *)(void *)at + first;
	return s;
}

struct adam optimizer_adam(const struct optimizer_step *s)
{
	assert(s->kind == OPTIMIZER_ADAMW && s->moments == MOMENTS_F32);
	return (struct adam){
		.count = s->count,
		.decay_count = s->decay_count,
		.grad = s->grad,
		.grad_type = s->grad_type,
		.param_type = s->param_type,
		.param = s->param,
		.lo = s->state.lo,
		.m = s->state.moment[0],
		.v = s->state.moment[1],
		.scalars = s->scalars.adam,
	};
}

struct optimizer_step optimizer_part(const struct optimizer_step *s, size_t begin, size_t count)
{
	struct optimizer_step part = *s;
	size_t decay = s->decay_count > begin ? s->decay_count - begin : 0;

	assert(begin % OPTIMIZER_BLOCK == 0 || s->moments != MOMENTS_INT8);
	part.count = count;
	part.decay_count = decay < count ? decay : count;
	part.position += begin;
	part.grad = (const uint8_t *)s->grad + begin * dtype_bytes(s->grad_type);
	part.param = (uint8_t *)s->param + begin * dtype_bytes(s->param_type);
	part.state.lo = s->state.lo ? s->state.lo + begin : NULL;
	for (unsigned i = 0; i < OPTIMIZER_MOMENTS_MAX; i++) {
		uint8_t *moment = s->state.moment[i];
		float *scale = s->state.scale[i];

		part.state.moment[i] = moment ? moment + begin * moment_bytes[s->moments] : NULL;
		part.state.scale[i] = scale ? scale + begin / OPTIMIZER_BLOCK : NULL;
	}
	return part;
}

/* Elements up to the next position that is a multiple of 2^32, of which kernels pass none. */
static uint64_t before_turn(const struct optimizer_step *s)
{
	return (UINT64_C(1) << 32) - (uint32_t)s->position;
}

void optimizer_host_step_isa(const struct optimizer_step *s, enum cpu_isa isa)
{
	assert(s->decay_count <= s->count);
	if (s->kind == OPTIMIZER_ADAMW && s->moments == MOMENTS_F32) {
		const struct adam adam = optimizer_adam(s);

		adam_host_step_isa(&adam, isa);
		return;
	}
	assert(tables[isa]->step[s->kind][s->moments]);
	if (s->moments == MOMENTS_BF16 && s->count > before_turn(s)) {
		size_t count = (size_t)before_turn(s);
		struct optimizer_step before = optimizer_part(s, 0, count);
		struct optimizer_step after = optimizer_part(s, count, s->count - count);

		tables[isa]->step[s->kind][s->moments](&before);
		optimizer_host_step_isa(&after, isa);
		return;
	}
	tables[isa]->step[s->kind][s->moments](s);
}

void optimizer_host_step(const struct optimizer_step *s)
{
	/* Not by way of _isa: bench_swap wraps adam_host_step. */
	if (s->kind == OPTIMIZER_ADAMW && s->moments == MOMENTS_F32) {
		const struct adam adam = optimizer_adam(s);

		adam_host_step(&adam);
		return;
	}
	optimizer_host_step_isa(s, cpu_isa());
}

void optimizer_host_move(const struct optimizer_step *s)
{
	assert(s->count % OPTIMIZER_BLOCK == 0);
	tables[cpu_isa()]->move(s);
}

void optimizer_moments_export(enum optimizer_kind kind, enum optimizer_moments moments,
			      const struct optimizer_state *state, size_t count,
			      float *const to[OPTIMIZER_MOMENTS_MAX])
{
	optimizer_moments_export_isa(kind, moments, state, count, to, cpu_isa());
}

void optimizer_moments_import(enum optimizer_kind kind, enum optimizer_moments moments,
			      const struct optimizer_state *state, size_t count,
			      const float *const from[OPTIMIZER_MOMENTS_MAX])
{
	optimizer_moments_import_isa(kind, moments, state, count, from, cpu_isa());
}

void optimizer_moments_export_isa(enum optimizer_kind kind, enum optimizer_moments moments,
				  const struct optimizer_state *state, size_t count,
				  float *const to[OPTIMIZER_MOMENTS_MAX], enum cpu_isa isa)
{
	for (unsigned i = 0; i < optimizer_moment_count(kind); i++) {
		if (moments == MOMENTS_F32)
			memcpy(to[i], state->moment[i], count * sizeof(float));
		else if (moments == MOMENTS_BF16)
			vector_host_convert(to[i], DTYPE_F32, state->moment[i], DTYPE_BF16, count);
		else
			tables[isa]->decode(i, state->moment[i], state->scale[i], count, to[i]);
	}
}

void optimizer_moments_import_isa(enum optimizer_kind kind, enum optimizer_moments moments,
				  const struct optimizer_state *state, size_t count,
				  const float *const from[OPTIMIZER_MOMENTS_MAX], enum cpu_isa isa)
{
	for (unsigned i = 0; i < optimizer_moment_count(kind); i++) {
		if (moments == MOMENTS_F32)
			memcpy(state->moment[i], from[i], count * sizeof(float));
		else if (moments == MOMENTS_BF16)
			vector_host_convert(state->moment[i], DTYPE_BF16, from[i], DTYPE_F32,
					    count);
		else
			tables[isa]->encode(i, state->moment[i], state->scale[i], count, from[i]);
	}
}
