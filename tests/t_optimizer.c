/*
 * Goal: an optimizer's hyperparameters are refused for what is wrong with them, its state lies
 * where the layout says, and the step through optimizer.h is the kernel's own.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "kernels/optimizer.h"
#include "tests/kernels_kit.h"

#define SEED 4711u

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
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
