/*
 * Goal: each optimizer is its published formula, with the same bits on every instruction set, for
 * every count, alignment and way of cutting the vectors; moments in bf16 are rounded by bits that
 * are uniform and depend on the element alone; those in eight bits have the nearest of the
 * published numbers and survive export and import; hyperparameters are refused for what is wrong
 * with them; the state lies where the layout says.
 *
 * Method: Lion, Adagrad and SGD are compared with their formula in double over several steps, the
 * wider kernels with the scalar one by memcmp. AdamW with smaller moments is compared bit by bit
 * with fp32 AdamW on what the moments stand for, rounded by a plain loop (bf16) or by import (eight
 * bits); codes with a search through the published table, which is made here in double.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "kernels/optimizer.h"
#include "kernels/optimizer_random.h"
#include "tests/kernels_kit.h"

#define SEED  4711u
#define COUNT 1000u
#define ROOM  (COUNT + 64)

static struct optimizer_hyper hyper_of(enum optimizer_kind kind, enum optimizer_moments moments)
{
	return (struct optimizer_hyper){.kind = kind,
					.moments = moments,
					.lr = 1e-2,
					.beta1 = 0.9,
					.beta2 = 0.95,
					.eps = 1e-8,
					.momentum = 0.9,
					.weight_decay = 0.1,
					.seed = SEED};
}

START_TEST(hyperparameters_are_checked)
{
	static const struct {
		const char *key;
		size_t field;
		double values[3];
		bool used[OPTIMIZER_KINDS];
	} wrong[] = {
		{"lr", offsetof(struct optimizer_hyper, lr), {-1, NAN, INFINITY}, {1, 1, 1, 1}},
		{"betas", offsetof(struct optimizer_hyper, beta1), {-0.1, 1, NAN}, {1, 1, 0, 0}},
		{"betas", offsetof(struct optimizer_hyper, beta2), {-0.1, 1, NAN}, {1, 1, 0, 0}},
		{"eps", offsetof(struct optimizer_hyper, eps), {0, NAN, INFINITY}, {1, 0, 1, 0}},
		{"momentum",
		 offsetof(struct optimizer_hyper, momentum),
		 {-1, 1, NAN},
		 {0, 0, 0, 1}},
		{"weight_decay",
		 offsetof(struct optimizer_hyper, weight_decay),
		 {-1, NAN, INFINITY},
		 {1, 1, 1, 1}},
	};
	const enum optimizer_kind kind = (enum optimizer_kind)_i;
	const char *key;
	struct err err;

	for (size_t w = 0; w < sizeof(wrong) / sizeof(wrong[0]); w++)
		for (size_t i = 0; i < 3; i++) {
			struct optimizer_hyper h = hyper_of(kind, MOMENTS_F32);

			ck_assert_int_eq(optimizer_hyper_check(&h, &key, &err), 0);
			memcpy((char *)&h + wrong[w].field, &wrong[w].values[i], sizeof(double));
			ck_assert_int_eq(optimizer_hyper_check(&h, &key, &err),
					 wrong[w].used[kind] ? ERR_CONFIG : 0);
			if (wrong[w].used[kind])
				ck_assert_str_eq(key, wrong[w].key);
		}
	for (enum optimizer_moments m = MOMENTS_BF16; m < MOMENTS_KINDS; m++) {
		struct optimizer_hyper h = hyper_of(kind, m);

		ck_assert_int_eq(optimizer_hyper_check(&h, NULL, &err),
				 kind == OPTIMIZER_ADAMW ? 0 : ERR_CONFIG);
	}
}
END_TEST

/* Arrays one behind the other, nothing between, none shared, and what a chunk finds is its own. */
START_TEST(state_lies_where_the_layout_says)
{
	static _Alignas(64) uint8_t base[1];
	const uint64_t total = 8192, first = 2048;
	static const struct {
		enum optimizer_kind kind;
		enum optimizer_moments moments;
		uint64_t bytes; /* of 8192 elements, `lo` apart */
		uint64_t moment[2], scale[2], lo;
	} cases[] = {
		{OPTIMIZER_ADAMW, MOMENTS_F32, 65536, {8192, 40960}, {0, 0}, 69632},
		{OPTIMIZER_ADAMW, MOMENTS_BF16, 32768, {4096, 20480}, {0, 0}, 36864},
		{OPTIMIZER_ADAMW, MOMENTS_INT8, 16640, {2048, 10240}, {16416, 16544}, 20736},
		{OPTIMIZER_LION, MOMENTS_F32, 32768, {8192, 0}, {0, 0}, 36864},
		{OPTIMIZER_ADAGRAD, MOMENTS_F32, 32768, {8192, 0}, {0, 0}, 36864},
		{OPTIMIZER_SGD, MOMENTS_F32, 32768, {8192, 0}, {0, 0}, 36864},
	};

	for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++)
		for (enum dtype type = DTYPE_F32; type <= DTYPE_BF16; type++) {
			enum optimizer_kind kind = cases[c].kind;
			enum optimizer_moments moments = cases[c].moments;
			struct optimizer_state s =
				optimizer_state_at(kind, moments, type, base, total, first);

			ck_assert_uint_eq(optimizer_state_bytes(kind, moments, type, total),
					  cases[c].bytes + (type == DTYPE_BF16 ? 2 * total : 0));
			for (unsigned i = 0; i < OPTIMIZER_MOMENTS_MAX; i++) {
				void *moment =
					cases[c].moment[i] ? base + cases[c].moment[i] : NULL;
				void *scale = cases[c].scale[i] ? base + cases[c].scale[i] : NULL;

				ck_assert_ptr_eq(s.moment[i], moment);
				ck_assert_ptr_eq(s.scale[i], scale);
			}
			ck_assert_ptr_eq(s.lo,
					 type == DTYPE_BF16 ? (void *)(base + cases[c].lo) : NULL);
		}
}
END_TEST

START_TEST(adamw_in_fp32_is_adam)
{
	const size_t count = 4096, decay = 1000;
	const struct optimizer_hyper h = hyper_of(OPTIMIZER_ADAMW, MOMENTS_F32);
	struct optimizer_step step = {.kind = h.kind, .count = count, .decay_count = decay};
	struct adam adam;
	struct kit k;
	float *param, *state;

	kit_open(&k, 16u << 20, 3, SEED);
	step.grad = kit_input(&k, DTYPE_F32, count, 1);
	step.param = param = kit_sum(&k, count);
	state = memset(kit_output(&k, 8 * count), 0, 8 * count);
	step.state = optimizer_state_at(h.kind, h.moments, DTYPE_F32, state, count, 0);
	step.scalars = optimizer_scalars_make(&h, 3, 0.5);
	adam = optimizer_adam(&step);
	adam.param = memcpy(kit_output(&k, 4 * count), param, 4 * count);
	adam.m = memcpy(kit_output(&k, 8 * count), state, 8 * count);
	adam.v = adam.m + count;
	adam.scalars = adam_scalars_make(
		&(struct adam_hyper){h.lr, h.beta1, h.beta2, h.eps, h.weight_decay}, 3, 0.5);
	optimizer_step(k.stream, &step);
	kit_sync(&k);
	adam_host_step(&adam);
	ck_assert(memcmp(param, adam.param, 4 * count) == 0);
	ck_assert(memcmp(state, adam.m, 8 * count) == 0);
	kit_close(&k);
}
END_TEST

static const struct {
	enum optimizer_kind kind;
	enum optimizer_moments moments;
} forms[] = {
	{OPTIMIZER_ADAMW, MOMENTS_F32},   {OPTIMIZER_ADAMW, MOMENTS_BF16},
	{OPTIMIZER_ADAMW, MOMENTS_INT8},  {OPTIMIZER_LION, MOMENTS_F32},
	{OPTIMIZER_ADAGRAD, MOMENTS_F32}, {OPTIMIZER_SGD, MOMENTS_F32},
};

#define FORMS (sizeof(forms) / sizeof(forms[0]))

static size_t moment_bytes(enum optimizer_moments moments)
{
	return moments == MOMENTS_F32 ? 4 : moments == MOMENTS_BF16 ? 2 : 1;
}

/* The vectors of a step, with room around them. */
struct state {
	uint8_t grad[4 * ROOM], param[4 * ROOM];
	int16_t lo[ROOM];
	uint8_t moment[2][4 * ROOM];
	float scale[2][ROOM];
};

static void put(uint8_t *at, enum dtype type, size_t i, float x)
{
	if (type == DTYPE_F32)
		memcpy(at + 4 * i, &x, 4);
	else
		memcpy(at + 2 * i, &(uint16_t){bf16_from_float(x)}, 2);
}

/* Normal gradients and parameters, moments as of an earlier step. */
static void state_fill(struct state *s, size_t form, enum dtype grad_type, enum dtype param_type)
{
	enum optimizer_moments moments = forms[form].moments;

	memset(s, 0x5a, sizeof(*s));
	for (size_t i = 0; i < ROOM; i++) {
		float m = (float)rng_normal(SEED, 2, i), v = (float)fabs(rng_normal(SEED, 3, i));

		put(s->grad, grad_type, i, (float)rng_normal(SEED, 0, i));
		put(s->param, param_type, i, (float)rng_normal(SEED, 1, i));
		s->lo[i] = (int16_t)rng_u64(SEED, 4, i);
		if (moments == MOMENTS_INT8) {
			s->moment[0][i] = (uint8_t)rng_u64(SEED, 5, i);
			s->moment[1][i] = (uint8_t)rng_u64(SEED, 6, i);
			s->scale[0][i] = m;
			s->scale[1][i] = v;
		} else {
			/* The only moment of Adagrad is a sum of squares. */
			m = forms[form].kind == OPTIMIZER_ADAGRAD ? v : m;
			put(s->moment[0], moments == MOMENTS_BF16 ? DTYPE_BF16 : DTYPE_F32, i, m);
			put(s->moment[1], moments == MOMENTS_BF16 ? DTYPE_BF16 : DTYPE_F32, i, v);
		}
	}
}

/* The third step over `count` elements from `offset`, the first `decay` of them decayed. */
static struct optimizer_step step_of(struct state *s, size_t form, enum dtype grad_type,
				     enum dtype param_type, size_t offset, size_t count,
				     size_t decay)
{
	const struct optimizer_hyper h = hyper_of(forms[form].kind, forms[form].moments);
	const size_t each = moment_bytes(h.moments);
	struct optimizer_step step = {
		.kind = h.kind,
		.moments = h.moments,
		.count = count,
		.decay_count = decay,
		.position = 77 + offset,
		.grad = s->grad + offset * dtype_bytes(grad_type),
		.grad_type = grad_type,
		.param_type = param_type,
		.param = s->param + offset * dtype_bytes(param_type),
		.scalars = optimizer_scalars_make(&h, 3, 0.7),
	};

	step.state.lo = param_type == DTYPE_BF16 ? s->lo + offset : NULL;
	for (unsigned i = 0; i < optimizer_moment_count(h.kind); i++) {
		step.state.moment[i] = s->moment[i] + offset * each;
		step.state.scale[i] = h.moments == MOMENTS_INT8 ? s->scale[i] : NULL;
	}
	return step;
}

static void same_bits(size_t form, enum dtype grad_type, enum dtype param_type, enum cpu_isa isa)
{
	static const size_t counts[] = {0, 1, 15, 16, 17, 31, 33, 100, 255, 256, 257, COUNT};
	static struct state start, want, got;

	state_fill(&start, form, grad_type, param_type);
	for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
		for (size_t offset = 0; offset < 20; offset += offset < 3 ? 1 : 5)
			for (size_t d = 0; d <= 4; d++) {
				size_t count = counts[c], decay = count * d / 4;
				struct optimizer_step a, b;

				want = got = start;
				a = step_of(&want, form, grad_type, param_type, offset, count,
					    decay);
				b = step_of(&got, form, grad_type, param_type, offset, count,
					    decay);
				optimizer_host_step_isa(&a, CPU_SCALAR);
				optimizer_host_step_isa(&b, isa);
				ck_assert_msg(memcmp(&want, &got, sizeof(want)) == 0,
					      "%s %s on %s differs at %zu from %zu, decay %zu",
					      optimizer_kind_names[a.kind],
					      optimizer_moments_names[a.moments], cpu_isa_name(isa),
					      count, offset, decay);
			}
}

START_TEST(same_bits_on_every_instruction_set)
{
	for (enum cpu_isa isa = CPU_AVX2; isa <= cpu_isa_present(); isa++)
		for (size_t form = 0; form < FORMS; form++)
			same_bits(form, _i & 1 ? DTYPE_BF16 : DTYPE_F32,
				  _i & 2 ? DTYPE_BF16 : DTYPE_F32, isa);
}
END_TEST

/* Pieces as chunks and threads make them: of eight bits, whole blocks. */
START_TEST(cuts_do_not_show)
{
	static const size_t cuts[] = {0, 256, 512, COUNT};
	static struct state want, got;

	for (size_t form = 0; form < FORMS; form++) {
		struct optimizer_step whole, part;

		state_fill(&want, form, DTYPE_BF16, DTYPE_BF16);
		got = want;
		whole = step_of(&want, form, DTYPE_BF16, DTYPE_BF16, 0, COUNT, 300);
		optimizer_host_step(&whole);
		whole = step_of(&got, form, DTYPE_BF16, DTYPE_BF16, 0, COUNT, 300);
		for (size_t i = 0; i + 1 < sizeof(cuts) / sizeof(cuts[0]); i++) {
			part = optimizer_part(&whole, cuts[i], cuts[i + 1] - cuts[i]);
			optimizer_host_step(&part);
		}
		ck_assert(memcmp(&want, &got, sizeof(want)) == 0);
	}
}
END_TEST

START_TEST(device_step_is_the_host_step)
{
	const size_t count = 100003;
	struct optimizer_step step, host;
	struct kit k;

	kit_open(&k, 16u << 20, 3, SEED);
	step = (struct optimizer_step){
		.kind = OPTIMIZER_ADAMW,
		.moments = MOMENTS_INT8,
		.count = count,
		.decay_count = 70001,
		.grad = kit_input(&k, DTYPE_BF16, count, 1),
		.grad_type = DTYPE_BF16,
		.param = kit_sum(&k, count),
		.state = {.moment = {memset(kit_output(&k, count), 0, count),
				     memset(kit_output(&k, count), 0, count)},
			  .scale = {memset(kit_output(&k, 1564), 0, 1564),
				    memset(kit_output(&k, 1564), 0, 1564)}},
		.scalars = optimizer_scalars_make(&(struct optimizer_hyper){.kind = OPTIMIZER_ADAMW,
									    .moments = MOMENTS_INT8,
									    .lr = 1e-2,
									    .beta1 = 0.9,
									    .beta2 = 0.95,
									    .eps = 1e-8},
						  3, 1),
	};
	host = step;
	host.param = memcpy(kit_output(&k, 4 * count), step.param, 4 * count);
	for (unsigned i = 0; i < 2; i++) {
		host.state.moment[i] = memset(kit_output(&k, count), 0, count);
		host.state.scale[i] = memset(kit_output(&k, 1564), 0, 1564);
	}
	optimizer_step(k.stream, &step);
	kit_sync(&k);
	optimizer_host_step(&host);
	ck_assert(memcmp(step.param, host.param, 4 * count) == 0);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert(memcmp(step.state.moment[i], host.state.moment[i], count) == 0);
		ck_assert(memcmp(step.state.scale[i], host.state.scale[i], 1564) == 0);
	}
	kit_close(&k);
}
END_TEST

/* One element's step in double. */
static void reference(const struct optimizer_hyper *h, double grad, double decay, double *p,
		      double *m)
{
	switch (h->kind) {
	case OPTIMIZER_LION: {
		double c = h->beta1 * *m + (1 - h->beta1) * grad;

		*p *= 1 - h->lr * decay;
		*p -= h->lr * ((c > 0) - (c < 0));
		*m = h->beta2 * *m + (1 - h->beta2) * grad;
		break;
	}
	case OPTIMIZER_ADAGRAD:
		grad += decay * *p;
		*m += grad * grad;
		*p -= h->lr * grad / (sqrt(*m) + h->eps);
		break;
	default:
		grad += decay * *p;
		*m = h->momentum * *m + grad;
		*p -= h->lr * *m;
	}
}

START_TEST(is_the_published_formula)
{
	const enum optimizer_kind kind = (enum optimizer_kind)_i;
	const struct optimizer_hyper h = hyper_of(kind, MOMENTS_F32);
	const size_t count = 301, decay = 200;
	struct optimizer_step step = {.kind = kind, .count = count, .decay_count = decay};
	struct kit k;
	double *p, *m;

	kit_open(&k, 16u << 20, 1, SEED);
	step.param = kit_sum(&k, count);
	step.state.moment[0] = memset(kit_output(&k, 4 * count), 0, 4 * count);
	p = kit_doubles(&k, step.param, DTYPE_F32, count);
	m = kit_doubles(&k, step.state.moment[0], DTYPE_F32, count);
	for (uint64_t t = 1; t <= 20; t++) {
		const float *grad = kit_input(&k, DTYPE_F32, count, 1);

		step.grad = grad;
		step.scalars = optimizer_scalars_make(&h, t, 0.5);
		optimizer_host_step(&step);
		for (size_t i = 0; i < count; i++)
			reference(&h, 0.5 * (double)grad[i], i < decay ? h.weight_decay : 0, &p[i],
				  &m[i]);
	}
	ck_assert_double_le(kit_distance(step.param, p, count, 1), 2e-6);
	ck_assert_double_le(kit_distance(step.state.moment[0], m, count, 1e-3), 1e-6);
	kit_close(&k);
}
END_TEST

/* fp32 AdamW from the step's moments, which it exports to m and v; the new ones are left there. */
static void adam_from(const struct optimizer_step *step, float *m, float *v)
{
	struct adam adam = {
		.count = step->count,
		.decay_count = step->decay_count,
		.grad = step->grad,
		.grad_type = step->grad_type,
		.param_type = step->param_type,
		.param = step->param,
		.lo = step->state.lo,
		.m = m,
		.v = v,
		.scalars = step->scalars.adam,
	};

	optimizer_moments_export(step->kind, step->moments, &step->state, step->count,
				 (float *const[]){m, v});
	adam_host_step(&adam);
}

static uint16_t rounded(float x, uint32_t random)
{
	uint32_t bits;

	memcpy(&bits, &x, 4);
	return (uint16_t)((bits + random) >> 16);
}

START_TEST(bf16_is_adamw_rounded_stochastically)
{
	static struct state got, want;
	static float m[COUNT], v[COUNT];
	struct optimizer_step a, b;

	state_fill(&got, 1, DTYPE_BF16, DTYPE_BF16);
	want = got;
	a = step_of(&got, 1, DTYPE_BF16, DTYPE_BF16, 0, COUNT, 300);
	b = step_of(&want, 1, DTYPE_BF16, DTYPE_BF16, 0, COUNT, 300);
	/* The upper halves of positions turn within the vector. */
	a.position = (UINT64_C(7) << 32) - 333;
	optimizer_host_step(&a);
	adam_from(&b, m, v);
	for (size_t i = 0; i < COUNT; i++) {
		uint32_t random = optimizer_random(a.scalars.random_key, a.position + i);

		((uint16_t *)b.state.moment[0])[i] = rounded(m[i], random & 0xffff);
		((uint16_t *)b.state.moment[1])[i] = rounded(v[i], random >> 16);
	}
	ck_assert(memcmp(&got, &want, sizeof(got)) == 0);
}
END_TEST

/*
 * Over 2^20 elements of each of eight steps, each bit is set half the time, each pair of
 * neighbours, of steps and of moments differs in each half the time, and a half's mean is that of
 * uniform numbers: all within six standard deviations, 6 * 2^-1 * 2^-10 and
 * 6 * 2^16 / sqrt(12) * 2^-10.
 */
START_TEST(random_bits_are_uniform)
{
	const size_t count = 1u << 20;
	struct optimizer_hyper h = hyper_of(OPTIMIZER_ADAMW, MOMENTS_BF16);

	for (uint64_t step = 1; step <= 8; step++) {
		struct optimizer_scalars now = optimizer_scalars_make(&h, step, 1);
		struct optimizer_scalars next = optimizer_scalars_make(&h, step + 1, 1);
		double set[4][32] = {{0}}, low = 0, high = 0;

		for (size_t i = 0; i < count; i++) {
			uint64_t position = (step << 31) + i;
			uint32_t x = optimizer_random(now.random_key, position);
			uint32_t words[4] = {x, x ^ optimizer_random(now.random_key, position + 1),
					     x ^ optimizer_random(next.random_key, position),
					     x ^ x >> 16};

			low += x & 0xffff;
			high += x >> 16;
			for (unsigned w = 0; w < 4; w++)
				for (unsigned bit = 0; bit < 32; bit++)
					set[w][bit] += words[w] >> bit & 1;
		}
		for (unsigned w = 0; w < 4; w++)
			for (unsigned bit = 0; bit < (w < 3 ? 32 : 16); bit++)
				ck_assert_double_le(fabs(set[w][bit] / (double)count - 0.5),
						    6 * 0.5 / 1024);
		ck_assert_double_le(fabs(low / (double)count - 32767.5), 6 * 18918.0 / 1024);
		ck_assert_double_le(fabs(high / (double)count - 32767.5), 6 * 18918.0 / 1024);
	}
}
END_TEST

/* With lr 0 and gradients equal to a constant moment, rounding is all that a step does to it. */
START_TEST(rounding_errs_by_nothing_on_average)
{
	enum { N = 1 << 18 };
	static float grad[N], param[N];
	static uint16_t m[N], v[N];
	const struct optimizer_hyper h = {.kind = OPTIMIZER_ADAMW,
					  .moments = MOMENTS_BF16,
					  .beta1 = 0,
					  .beta2 = 0,
					  .eps = 1e-8,
					  .seed = SEED};
	struct optimizer_step step = {.kind = h.kind,
				      .moments = h.moments,
				      .count = N,
				      .grad = grad,
				      .param = param,
				      .state.moment = {m, v},
				      .scalars = optimizer_scalars_make(&h, 1, 1)};
	const float x = -1.0f - 0.3f / 128; /* three tenths of the way between two bf16 */
	double sum = 0, squares = 0;

	for (size_t i = 0; i < N; i++)
		grad[i] = x;
	optimizer_host_step(&step);
	for (size_t i = 0; i < N; i++) {
		ck_assert(m[i] == 0xbf80 || m[i] == 0xbf81);
		sum += (double)bf16_to_float(m[i]);
		squares += (double)bf16_to_float(v[i]);
	}
	/* Six deviations of the mean: of a step of 1/128, with p = 0.3, over 2^9. */
	ck_assert_double_le(fabs(sum / N - (double)x), 6 * 0.46 / 128 / 512);
	ck_assert_double_le(fabs(squares / N - (double)x * (double)x), 6 * 0.5 / 128 / 512);
}
END_TEST

/* The published tables, unsorted: decades of 2^i or 2^(i+1) cells, 0, 1. Returns 256. */
static size_t published(bool is_signed, double table[256])
{
	size_t n = 0;

	table[n++] = 0;
	table[n++] = 1;
	for (int i = 0; i < 7; i++) {
		int cells = 1 << (is_signed ? i : i + 1);

		for (int j = 0; j < cells; j++) {
			table[n] = pow(10, i - 6) * (0.1 + 0.9 * (j + 0.5) / cells);
			if (is_signed)
				table[n + 1] = -table[n];
			n += is_signed ? 2 : 1;
		}
	}
	return n;
}

/* Element j of the moment `moment` of a block: 1 first, so that the scale is 1. */
static void block_through(unsigned moment, float *block, size_t count)
{
	uint8_t codes[2][OPTIMIZER_BLOCK];
	float other[OPTIMIZER_BLOCK] = {0}, scale[2];
	const struct optimizer_state s = {.moment = {codes[0], codes[1]},
					  .scale = {&scale[0], &scale[1]}};
	float *const to[2] = {moment == 0 ? block : other, moment == 0 ? other : block};

	optimizer_moments_import(OPTIMIZER_ADAMW, MOMENTS_INT8, &s, count,
				 (const float *const[]){to[0], to[1]});
	optimizer_moments_export(OPTIMIZER_ADAMW, MOMENTS_INT8, &s, count, to);
}

START_TEST(eight_bits_have_the_nearest_published_number)
{
	const unsigned moment = (unsigned)_i;
	double table[256];
	const size_t n = published(moment == 0, table);

	ck_assert_uint_eq(n, 256);
	for (uint64_t round = 0; round < 200; round++) {
		float x[OPTIMIZER_BLOCK], got[OPTIMIZER_BLOCK];

		/* Magnitudes of all decades, and below the lowest. */
		for (size_t i = 0; i < OPTIMIZER_BLOCK; i++) {
			double r = pow(10, -8 * rng_uniform(SEED, round, i));

			r = moment == 0 && rng_u64(SEED, round, 1000 + i) & 1 ? -r : r;
			x[i] = (float)(i == 0 ? 1 : r);
			got[i] = moment == 0 ? x[i] : x[i] * x[i];
		}
		block_through(moment, got, OPTIMIZER_BLOCK);
		for (size_t i = 0; i < OPTIMIZER_BLOCK; i++) {
			double is = moment == 0 ? (double)got[i] : sqrt((double)got[i]);
			double best = INFINITY, known = INFINITY, size = fabs((double)x[i]);

			for (size_t t = moment; t < n; t++) {
				best = fmin(best, fabs(table[t] - (double)x[i]));
				known = fmin(known, fabs(table[t] - is));
			}
			/* The second moment's 0 is for 0 alone. */
			best = moment == 1 ? fmin(best, fabs(1e-6 * 0.325 - size)) : best;
			ck_assert_double_le(known, 2e-6 * fabs(is));
			ck_assert_double_le(fabs(is - (double)x[i]), best + 1e-6 * size + 1e-12);
			ck_assert(moment == 0 || is > 0);
		}
	}
}
END_TEST

/* What was exported comes back as the bits that were stored, on every instruction set. */
static void comes_back(const struct optimizer_state *s, enum optimizer_moments moments,
		       size_t count, enum cpu_isa isa)
{
	static uint8_t codes[2][4 * ROOM];
	static float scale[2][ROOM], m[ROOM], v[ROOM];
	const struct optimizer_state back = {.moment = {codes[0], codes[1]},
					     .scale = {scale[0], scale[1]}};
	const size_t blocks = (count + OPTIMIZER_BLOCK - 1) / OPTIMIZER_BLOCK;

	optimizer_moments_export_isa(OPTIMIZER_ADAMW, moments, s, count, (float *const[]){m, v},
				     isa);
	optimizer_moments_import_isa(OPTIMIZER_ADAMW, moments, &back, count,
				     (const float *const[]){m, v}, isa);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert(memcmp(codes[i], s->moment[i], count * moment_bytes(moments)) == 0);
		if (moments == MOMENTS_INT8)
			ck_assert(memcmp(scale[i], s->scale[i], blocks * sizeof(float)) == 0);
	}
}

START_TEST(export_and_import_are_exact)
{
	static const double sizes[] = {1,     1e-3,  1e-9,  1e-12, 3e-13, 1e-20,
				       1e-30, 1e-36, 1e-42, 0,     1e15,  1e18};
	const enum optimizer_moments moments = _i ? MOMENTS_INT8 : MOMENTS_BF16;
	static uint8_t codes[2][4 * ROOM];
	static float scale[2][ROOM], m[ROOM], v[ROOM];
	const struct optimizer_state s = {.moment = {codes[0], codes[1]},
					  .scale = {scale[0], scale[1]}};

	for (enum cpu_isa isa = CPU_SCALAR; isa <= cpu_isa_present(); isa++)
		for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
			for (size_t i = 0; i < COUNT; i++) {
				double range = pow(10, -9 * rng_uniform(SEED, 1, i));

				/* A block of nothing but negatives, too, and single zeros. */
				m[i] = (float)(sizes[k] * range * rng_normal(SEED, 2, i));
				m[i] = i < OPTIMIZER_BLOCK ? -fabsf(m[i]) : m[i];
				v[i] = (float)(sizes[k] * sizes[k] * range * range);
				m[i] = i % 97 == 0 ? 0 : m[i];
				v[i] = i % 89 == 0 ? 0 : v[i];
			}
			optimizer_moments_import_isa(OPTIMIZER_ADAMW, moments, &s, COUNT,
						     (const float *const[]){m, v}, isa);
			comes_back(&s, moments, COUNT, isa);
		}
}
END_TEST

START_TEST(int8_is_adamw_between_export_and_import)
{
	static struct state got, want;
	static float m[COUNT], v[COUNT];
	struct optimizer_step a, b;

	state_fill(&got, 2, DTYPE_BF16, DTYPE_BF16);
	want = got;
	a = step_of(&got, 2, DTYPE_BF16, DTYPE_BF16, 0, COUNT, 300);
	b = step_of(&want, 2, DTYPE_BF16, DTYPE_BF16, 0, COUNT, 300);
	for (int step = 0; step < 5; step++) {
		optimizer_host_step(&a);
		adam_from(&b, m, v);
		optimizer_moments_import(b.kind, b.moments, &b.state, COUNT,
					 (const float *const[]){m, v});
		ck_assert(memcmp(&got, &want, sizeof(got)) == 0);
	}
}
END_TEST

/* No gradient, no moments: nothing moves but by decay, and nothing is divided by zero. */
START_TEST(zeros_stay)
{
	static struct state s;

	for (size_t form = 0; form < FORMS; form++) {
		struct optimizer_step step;

		memset(&s, 0, sizeof(s));
		for (size_t i = 0; i < COUNT; i++)
			put(s.param, DTYPE_F32, i, 1);
		step = step_of(&s, form, DTYPE_F32, DTYPE_F32, 0, COUNT, 0);
		optimizer_host_step(&step);
		for (size_t i = 0; i < COUNT; i++)
			ck_assert_float_eq(((float *)step.param)[i], 1);
		for (unsigned k = 0; k < 2; k++)
			for (size_t i = 0; i < sizeof(s.moment[k]); i++)
				ck_assert_msg(s.moment[k][i] == 0, "%s %s: byte %zu of moment %u",
					      optimizer_kind_names[step.kind],
					      optimizer_moments_names[step.moments], i, k);
	}
}
END_TEST

/* An infinite or undefined gradient is seen in the parameter or the moments, never hidden. */
START_TEST(what_is_not_finite_stays_so)
{
	static const float bad[] = {INFINITY, -INFINITY, NAN};
	static struct state s;

	for (enum cpu_isa isa = CPU_SCALAR; isa <= cpu_isa_present(); isa++)
		for (size_t form = 0; form < FORMS; form++)
			for (size_t b = 0; b < 3; b++) {
				struct optimizer_step step;
				float m[COUNT], v[COUNT], p;

				state_fill(&s, form, DTYPE_F32, DTYPE_F32);
				put(s.grad, DTYPE_F32, 5, bad[b]);
				step = step_of(&s, form, DTYPE_F32, DTYPE_F32, 0, COUNT, 0);
				optimizer_host_step_isa(&step, isa);
				optimizer_moments_export(step.kind, step.moments, &step.state,
							 COUNT, (float *const[]){m, v});
				memcpy(&p, s.param + 4 * 5, 4);
				ck_assert(!isfinite(p) || !isfinite(m[5]));
			}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("optimizer");
	TCase *tc = tcase_create("optimizer");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, hyperparameters_are_checked, 0, OPTIMIZER_KINDS);
	tcase_add_test(tc, state_lies_where_the_layout_says);
	tcase_add_test(tc, adamw_in_fp32_is_adam);
	tcase_add_loop_test(tc, same_bits_on_every_instruction_set, 0, 4);
	tcase_add_test(tc, cuts_do_not_show);
	tcase_add_test(tc, device_step_is_the_host_step);
	tcase_add_loop_test(tc, is_the_published_formula, OPTIMIZER_LION, OPTIMIZER_KINDS);
	tcase_add_test(tc, bf16_is_adamw_rounded_stochastically);
	tcase_add_test(tc, random_bits_are_uniform);
	tcase_add_test(tc, rounding_errs_by_nothing_on_average);
	tcase_add_loop_test(tc, eight_bits_have_the_nearest_published_number, 0, 2);
	tcase_add_loop_test(tc, export_and_import_are_exact, 0, 2);
	tcase_add_test(tc, int8_is_adamw_between_export_and_import);
	tcase_add_test(tc, zeros_stay);
	tcase_add_test(tc, what_is_not_finite_stays_so);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
