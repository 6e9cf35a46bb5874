/*
 * Goal: the CPU Adam is AdamW, the same bits on every instruction set, for every count, alignment,
 * place where decay ends and way of cutting the vectors; and the split master weight is exact.
 *
 * Method: the scalar kernel is compared with AdamW in double over several steps, the wider ones
 * with the scalar one by memcmp over fenced copies. The split is tried on every upper half of a
 * float with the lower halves where rounding turns, and on every lower half with the uppers that
 * matter (zero, subnormal, the greatest, infinity, NaN).
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "kernels/adam.h"
#include "kernels/reference.h"
#include "tests/kernels_kit.h"

#define SEED  31337u
#define COUNT 1000u
#define ROOM  (COUNT + 64)

static const struct adam_hyper hyper = {
	.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

/* The vectors of a step, with room around them for fences. */
struct state {
	uint8_t grad[4 * ROOM], param[4 * ROOM];
	int16_t lo[ROOM];
	float m[ROOM], v[ROOM];
};

static void state_fill(struct state *s, enum dtype grad_type, enum dtype param_type)
{
	memset(s, 0x5a, sizeof(*s));
	for (size_t i = 0; i < ROOM; i++) {
		float g = (float)rng_normal(SEED, 0, i), p = (float)rng_normal(SEED, 1, i);
		uint16_t hi;

		if (grad_type == DTYPE_F32)
			memcpy(s->grad + 4 * i, &g, 4);
		else
			memcpy(s->grad + 2 * i, &(uint16_t){bf16_from_float(g)}, 2);
		if (param_type == DTYPE_F32) {
			memcpy(s->param + 4 * i, &p, 4);
		} else {
			bf16_split(p, &hi, &s->lo[i]);
			memcpy(s->param + 2 * i, &hi, 2);
		}
		s->m[i] = (float)rng_normal(SEED, 2, i);
		s->v[i] = (float)fabs(rng_normal(SEED, 3, i));
	}
}

/* A step over `count` elements from `offset`, the first `decay` of them decayed. */
static void state_step(struct state *s, enum dtype grad_type, enum dtype param_type, size_t offset,
		       size_t count, size_t decay, enum cpu_isa isa)
{
	struct adam a = {
		.count = count,
		.decay_count = decay,
		.grad = s->grad + offset * dtype_bytes(grad_type),
		.grad_type = grad_type,
		.param_type = param_type,
		.param = s->param + offset * dtype_bytes(param_type),
		.lo = s->lo + offset,
		.m = s->m + offset,
		.v = s->v + offset,
		.scalars = adam_scalars_make(&hyper, 3, 0.7),
	};

	adam_host_step_isa(&a, isa);
}

static void same_bits(enum dtype grad_type, enum dtype param_type, enum cpu_isa isa)
{
	static const size_t counts[] = {0, 1, 15, 16, 17, 31, 33, 64, 100, 255, COUNT};
	static struct state want, got;

	for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
		for (size_t offset = 0; offset < 20; offset += offset < 3 ? 1 : 5)
			for (size_t d = 0; d <= 4; d++) {
				size_t count = counts[c], decay = count * d / 4;

				state_fill(&want, grad_type, param_type);
				got = want;
				state_step(&want, grad_type, param_type, offset, count, decay,
					   CPU_SCALAR);
				state_step(&got, grad_type, param_type, offset, count, decay, isa);
				ck_assert_msg(memcmp(&want, &got, sizeof(want)) == 0,
					      "%s differs at count %zu offset %zu decay %zu",
					      cpu_isa_name(isa), count, offset, decay);
			}
}

START_TEST(same_bits_on_every_instruction_set)
{
	for (enum cpu_isa isa = CPU_SCALAR; isa <= cpu_isa_present(); isa++)
		same_bits(_i & 1 ? DTYPE_BF16 : DTYPE_F32, _i & 2 ? DTYPE_BF16 : DTYPE_F32, isa);
}
END_TEST

/* The decay boundary at every place of a short vector. */
START_TEST(decay_may_end_anywhere)
{
	static struct state want, got;

	for (enum cpu_isa isa = CPU_AVX2; isa <= cpu_isa_present(); isa++)
		for (size_t decay = 0; decay <= 50; decay++) {
			state_fill(&want, DTYPE_BF16, DTYPE_BF16);
			got = want;
			state_step(&want, DTYPE_BF16, DTYPE_BF16, 1, 50, decay, CPU_SCALAR);
			state_step(&got, DTYPE_BF16, DTYPE_BF16, 1, 50, decay, isa);
			ck_assert(memcmp(&want, &got, sizeof(want)) == 0);
		}
}
END_TEST

START_TEST(cuts_do_not_show)
{
	static struct state want, got;
	const size_t cuts[] = {0, 1, 3, 20, 36, 211, 500, COUNT}, decay = 300;

	for (enum cpu_isa isa = CPU_SCALAR; isa <= cpu_isa_present(); isa++) {
		state_fill(&want, DTYPE_BF16, DTYPE_BF16);
		got = want;
		state_step(&want, DTYPE_BF16, DTYPE_BF16, 0, COUNT, decay, isa);
		for (size_t i = 0; i + 1 < sizeof(cuts) / sizeof(cuts[0]); i++) {
			size_t count = cuts[i + 1] - cuts[i];
			size_t part = decay > cuts[i] ? decay - cuts[i] : 0;

			state_step(&got, DTYPE_BF16, DTYPE_BF16, cuts[i], count,
				   part < count ? part : count, isa);
		}
		ck_assert(memcmp(&want, &got, sizeof(want)) == 0);
	}
}
END_TEST

/* As an operation of a device, cut among threads. */
START_TEST(device_step_is_the_host_step)
{
	const size_t count = 100003, decay = 70001;
	struct kit k;
	struct adam a =
			    {
				    .count = count,
				    .decay_count = decay,
				    .grad_type = DTYPE_BF16,
				    .param_type = DTYPE_BF16,
				    .scalars = adam_scalars_make(&hyper, 3, 0.7),
			    },
		    host;
	uint16_t *hi;
	int16_t *lo;
	float *m, *v;

	kit_open(&k, 16u << 20, 3, SEED);
	a.grad = kit_input(&k, DTYPE_BF16, count, 1);
	a.param = hi = kit_input(&k, DTYPE_BF16, count, 1);
	a.lo = lo = (int16_t *)kit_input(&k, DTYPE_BF16, count, 1);
	a.m = m = kit_sum(&k, count);
	a.v = v = kit_sum(&k, count);
	for (size_t i = 0; i < count; i++)
		v[i] = fabsf(v[i]);
	host = a;
	host.param = memcpy(kit_output(&k, 2 * count), hi, 2 * count);
	host.lo = memcpy(kit_output(&k, 2 * count), lo, 2 * count);
	host.m = memcpy(kit_output(&k, 4 * count), m, 4 * count);
	host.v = memcpy(kit_output(&k, 4 * count), v, 4 * count);
	adam_step(k.stream, &a);
	kit_sync(&k);
	adam_host_step(&host);
	ck_assert(memcmp(hi, host.param, 2 * count) == 0);
	ck_assert(memcmp(lo, host.lo, 2 * count) == 0);
	ck_assert(memcmp(m, host.m, 4 * count) == 0);
	ck_assert(memcmp(v, host.v, 4 * count) == 0);
	kit_close(&k);
}
END_TEST

START_TEST(is_adamw)
{
	const size_t count = 301, decay = 200;
	struct kit k;
	struct reference_adam ref = {.count = count,
				     .decay_count = decay,
				     .lr = hyper.lr,
				     .beta1 = hyper.beta1,
				     .beta2 = hyper.beta2,
				     .eps = hyper.eps,
				     .weight_decay = hyper.weight_decay,
				     .grad_scale = 0.5};
	struct adam a = {.count = count, .decay_count = decay};

	kit_open(&k, 16u << 20, 1, SEED);
	a.param = kit_sum(&k, count);
	a.m = memset(kit_output(&k, 4 * count), 0, 4 * count);
	a.v = memset(kit_output(&k, 4 * count), 0, 4 * count);
	ref.param = kit_doubles(&k, a.param, DTYPE_F32, count);
	ref.m = kit_room(&k, count);
	ref.v = kit_room(&k, count);
	for (uint64_t step = 1; step <= 20; step++) {
		a.grad = kit_input(&k, DTYPE_F32, count, 1);
		a.scalars = adam_scalars_make(&hyper, step, 0.5);
		ref.grad = kit_doubles(&k, a.grad, DTYPE_F32, count);
		ref.step = step;
		adam_host_step(&a);
		reference_adam_step(&ref);
	}
	ck_assert_double_le(kit_distance(a.param, ref.param, count, 1), 2e-6);
	ck_assert_double_le(kit_distance(a.m, ref.m, count, 1e-3), 1e-6);
	ck_assert_double_le(kit_distance(a.v, ref.v, count, 1e-3), 1e-6);
	kit_close(&k);
}
END_TEST

/* In bf16 mode the master is the same fp32 number as in fp32 mode, step after step. */
START_TEST(split_master_is_the_fp32_master)
{
	static struct state split, plain;

	state_fill(&split, DTYPE_BF16, DTYPE_BF16);
	state_fill(&plain, DTYPE_BF16, DTYPE_F32);
	for (int step = 0; step < 10; step++) {
		state_step(&split, DTYPE_BF16, DTYPE_BF16, 0, COUNT, COUNT / 2, cpu_isa());
		state_step(&plain, DTYPE_BF16, DTYPE_F32, 0, COUNT, COUNT / 2, cpu_isa());
	}
	for (size_t i = 0; i < COUNT; i++) {
		uint16_t hi;
		float p, master;

		memcpy(&hi, split.param + 2 * i, 2);
		memcpy(&p, plain.param + 4 * i, 4);
		master = bf16_join(hi, split.lo[i]);
		ck_assert(memcmp(&p, &master, 4) == 0);
	}
}
END_TEST

static void split_once(uint32_t bits)
{
	uint32_t back, carry = (bits & 0x8000u) << 1;
	float master, joined;
	uint16_t hi;
	int16_t lo;

	memcpy(&master, &bits, 4);
	bf16_split(master, &hi, &lo);
	joined = bf16_join(hi, lo);
	memcpy(&back, &joined, 4);
	if (back != bits || hi != (uint16_t)((bits + carry) >> 16))
		ck_abort_msg("%08x became %04x and %d", bits, hi, lo);
}

START_TEST(split_is_exact)
{
	static const uint16_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
	static const uint16_t high[] = {0,      1,      0x7f,   0x80,   0x3f80, 0x7f7f, 0x7f80,
					0x7fff, 0x8000, 0x8001, 0xff7f, 0xff80, 0xffff};

	for (uint32_t h = 0; h < 65536; h++)
		for (size_t i = 0; i < sizeof(low) / sizeof(low[0]); i++)
			split_once(h << 16 | low[i]);
	for (size_t i = 0; i < sizeof(high) / sizeof(high[0]); i++)
		for (uint32_t l = 0; l < 65536; l++)
			split_once((uint32_t)high[i] << 16 | l);
}
END_TEST

/*
 * The kernels' own split and join: a step that changes nothing (lr = 0) leaves every finite master
 * as it was but for -0, which the sum with +0 makes +0.
 */
START_TEST(kernels_split_as_dtype_says)
{
	static const uint16_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
	static uint16_t hi[6 * 65536], grad[6 * 65536];
	static int16_t lo[6 * 65536];
	static float m[6 * 65536], v[6 * 65536];
	const size_t count = 6 * 65536;
	const struct adam_hyper still = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
	struct adam a = {
		.count = count,
		.grad_type = DTYPE_BF16,
		.param_type = DTYPE_BF16,
		.grad = grad,
		.param = hi,
		.lo = lo,
		.m = m,
		.v = v,
		.scalars = adam_scalars_make(&still, 1, 1),
	};

	for (enum cpu_isa isa = CPU_SCALAR; isa <= cpu_isa_present(); isa++) {
		for (size_t i = 0; i < count; i++) {
			float master = bf16_join((uint16_t)(i / 6), (int16_t)low[i % 6]);

			bf16_split(isfinite(master) ? master : 1.0f, &hi[i], &lo[i]);
		}
		adam_host_step_isa(&a, isa);
		for (size_t i = 0; i < count; i++) {
			float master = bf16_join((uint16_t)(i / 6), (int16_t)low[i % 6]);
			float now = bf16_join(hi[i], lo[i]);

			master = isfinite(master) ? master : 1.0f;
			if (master != now)
				ck_abort_msg("%s: %a became %a", cpu_isa_name(isa), (double)master,
					     (double)now);
		}
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("adam");
	TCase *tc = tcase_create("adam");
	SRunner *runner;
	int failed;

	if (cpu_isa_present() == CPU_SCALAR) {
		printf("this CPU has neither AVX2 nor AVX-512 to compare with the scalar kernel\n");
		return 77;
	}
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, same_bits_on_every_instruction_set, 0, 4);
	tcase_add_test(tc, decay_may_end_anywhere);
	tcase_add_test(tc, cuts_do_not_show);
	tcase_add_test(tc, device_step_is_the_host_step);
	tcase_add_test(tc, is_adamw);
	tcase_add_test(tc, split_master_is_the_fp32_master);
	tcase_add_test(tc, split_is_exact);
	tcase_add_test(tc, kernels_split_as_dtype_says);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
