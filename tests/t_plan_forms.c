/*
 * Optimizers and forms of their moments in the plan: what a tier holds and what a step moves are of
 * the form's bytes.
 *
 * Method. Plans of one job with every kind and form, against bytes worked out by hand: moments of
 * 4, 2 or 1 byte an element, 8 bytes of scales for 256 elements in int8, 2 of `lo` in bf16. Chunks
 * are as large as the extent allows, and each is padded to a page in swap.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "offload/protocol.h"
#include "tests/plan_bed.h"

#define ELEMS PROTOCOL_ALIGN_ELEMS
#define PAGE  PROTOCOL_ALIGN_BYTES

static const struct form {
	enum optimizer_kind kind;
	enum optimizer_moments moments;
	uint64_t bytes;   /* of the moments of ELEMS elements */
	unsigned vectors; /* of a piece */
	double traffic;   /* of a step in bf16, state alone on NVMe, bytes an element */
} forms[] = {
	{OPTIMIZER_ADAMW, MOMENTS_F32, 2 * 4 * ELEMS, 3, 20},
	{OPTIMIZER_ADAMW, MOMENTS_BF16, 2 * 2 * ELEMS, 3, 12},
	{OPTIMIZER_ADAMW, MOMENTS_INT8, 2 * ELEMS + 2 * 4 * ELEMS / 256, 3, 8.0625},
	{OPTIMIZER_LION, MOMENTS_F32, 4 * ELEMS, 2, 12},
	{OPTIMIZER_ADAGRAD, MOMENTS_F32, 4 * ELEMS, 2, 12},
	{OPTIMIZER_SGD, MOMENTS_F32, 4 * ELEMS, 2, 12},
};

static void form_open(struct bed *bed, const struct form *f, int precision)
{
	bed_open(bed);
	bed->config.optimizer.type = f->kind;
	bed->config.optimizer.moments = f->moments;
	bed->config.precision = precision;
}

static uint64_t pages(uint64_t bytes)
{
	return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* The state of `elems`, whole multiples of ELEMS. */
static uint64_t state(const struct form *f, int precision, uint64_t elems)
{
	return elems / ELEMS * (f->bytes + (precision == PRECISION_BF16 ? 2 * ELEMS : 0));
}

/* The same in swap, by chunks. */
static uint64_t swapped(const struct form *f, int precision, const struct plan *p, uint64_t elems)
{
	uint64_t bytes = 0;

	for (; elems > p->chunk_elems; elems -= p->chunk_elems)
		bytes += pages(state(f, precision, p->chunk_elems));
	return bytes + pages(state(f, precision, elems));
}

START_TEST(tiers_hold_the_form)
{
	const struct form *f = &forms[_i / 2];
	const int precision = _i % 2 ? PRECISION_BF16 : PRECISION_FP32;

	for (int tier = PLACE_NONE; tier <= PLACE_NVME; tier++) {
		uint64_t want[PLACE_COUNT] = {0};
		struct bed bed;
		struct plan *p;

		form_open(&bed, f, precision);
		place(&bed, 3, PLACE_NONE, tier, PLACE_NONE);
		p = plan_of(&bed, 2);
		for (size_t i = 0; i < p->unit_count; i++)
			want[tier] += tier == PLACE_NVME
					      ? swapped(f, precision, p, p->units[i].opt_elems)
					      : pages(state(f, precision, p->units[i].opt_elems));
		ck_assert_uint_eq(p->device.state_bytes, want[PLACE_NONE]);
		ck_assert_uint_eq(p->host.state_bytes, want[PLACE_CPU]);
		ck_assert_uint_eq(p->swap.state_bytes, want[PLACE_NVME]);
		/* The state of a chunk is an extent; of a larger one it would be more. */
		ck_assert_uint_le(state(f, precision, p->chunk_elems), bed.config.nvme.extent);
		ck_assert_uint_gt(state(f, precision, p->chunk_elems + ELEMS),
				  bed.config.nvme.extent);
		if (tier != PLACE_NONE)
			ck_assert_uint_eq(p->host.transfer_slot_bytes,
					  pages(p->chunk_elems * 4 * f->vectors));
		plan_free(p);
		bed_close(&bed);
	}
}
END_TEST

/* A model of large units, so that their padding is nothing beside them. */
START_TEST(a_step_moves_the_form)
{
	const struct form *f = &forms[_i];

	for (int param = PLACE_CPU; param <= PLACE_NVME; param++) {
		const bool param_too = param == PLACE_NVME;
		uint64_t elems = 0, bytes = 0, traffic;
		struct bed bed;
		struct plan *p;
		struct err err;

		form_open(&bed, f, PRECISION_BF16);
		arch_free(bed.arch);
		bed.config.model.hidden = 384;
		bed.config.nvme.extent = 4 * MiB;
		ck_assert_int_eq(arch_make(&bed.config, &bed.arch, &err), 0);
		place(&bed, 3, param, PLACE_NVME, PLACE_NONE);
		bed.config.optimizer.clip = 0;
		p = plan_of(&bed, 1);
		for (size_t i = 0; i < p->unit_count; i++) {
			elems += p->units[i].opt_elems;
			bytes += 2 * swapped(f, PRECISION_BF16, p, p->units[i].opt_elems);
		}
		traffic = p->swap.step_read_bytes + p->swap.step_write_bytes;
		if (!param_too)
			ck_assert_uint_eq(traffic, bytes);
		else
			/* The step's own 4, and what phases fetch. */
			ck_assert_uint_ge(traffic, bytes + elems * 4);
		ck_assert_double_eq_tol((double)bytes / (double)elems, f->traffic,
					0.01 * f->traffic);
		plan_free(p);
		bed_close(&bed);
	}
}
END_TEST

/* Elements are numbered alike in every world, and no two units of a model share a number. */
START_TEST(positions_do_not_tell_the_world)
{
	struct bed bed;

	for (unsigned world = 1; world <= 4; world *= 2) {
		uint64_t end = 0;
		struct plan *p;

		form_open(&bed, &forms[1], PRECISION_BF16);
		p = plan_of(&bed, world);
		for (size_t i = 0; i < p->unit_count; i++) {
			ck_assert_uint_eq(p->units[i].position, end);
			ck_assert_uint_eq(end % ELEMS, 0);
			end += (p->units[i].elems + ELEMS - 1) / ELEMS * ELEMS;
		}
		plan_free(p);
		bed_close(&bed);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("plan forms");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	const int count = sizeof(forms) / sizeof(forms[0]);
	int failed;

	if (!mkdtemp(swap_dir))
		return EXIT_FAILURE;
	tcase_add_loop_test(tc, tiers_hold_the_form, 0, 2 * count);
	tcase_add_loop_test(tc, a_step_moves_the_form, 0, count);
	tcase_add_test(tc, positions_do_not_tell_the_world);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (rmdir(swap_dir) < 0)
		perror(swap_dir);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
