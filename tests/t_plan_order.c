/*
 * The planner where micro-batches go side by side, layer by layer: what a step moves, what it takes
 * that all of them are under way at once, and what a table and a refusal say of it.
 *
 * Method. The job of plan_bed.h with two or four micro-batches, beside the same with one and the
 * same in the other order; activations are counted by hand.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "offload/plan.h"
#include "tests/plan_bed.h"

/* Bytes of parameters and optimizer state that a step reads and writes, for the placement above. */
static struct plan_swap traffic_in(struct bed *bed, int order, uint64_t micro)
{
	struct plan_swap s;
	struct plan *p;

	bed->config.schedule.order = order;
	bed->config.batch.micro = micro;
	p = plan_of(bed, 2);
	s = p->swap;
	plan_free(p);
	return s;
}

/* Micro-batches side by side move the units of one; their activations are all read twice. */
START_TEST(traffic_layer_by_layer)
{
	struct bed bed = {0};
	struct plan_swap one, four;
	uint64_t act;
	struct plan *p;

	bed_open(&bed);
	bed.config.optimizer.clip = 0;
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_NONE);
	one = traffic_in(&bed, ORDER_MICRO_BATCH, 12);
	four = traffic_in(&bed, ORDER_LAYER, 3);
	ck_assert_uint_eq(four.step_read_bytes, one.step_read_bytes);
	ck_assert_uint_eq(four.step_write_bytes, one.step_write_bytes);
	ck_assert_uint_gt(traffic_in(&bed, ORDER_MICRO_BATCH, 3).step_read_bytes,
			  four.step_read_bytes);

	/*
	 * Four activations of four micro-batches are written. Three buffers have passed on before
	 * the next phase comes to any: each is read forward, and all but 3 again backward. But from
	 * the head on a buffer is free behind each turn, and the others pass through that one: 3
	 * and 2 of the last micro-batch are still there when they are read.
	 */
	place(&bed, 3, PLACE_NONE, PLACE_NONE, PLACE_NVME);
	bed.config.schedule.order = ORDER_LAYER;
	bed.config.batch.micro = 3;
	p = plan_of(&bed, 2);
	act = p->device.act_bytes;
	ck_assert_uint_eq(p->swap.act_bytes, 4 * 4 * act);
	ck_assert_uint_eq(p->swap.step_read_bytes, ((4 + 3) * 4 - 2) * act);
	ck_assert_uint_eq(p->swap.step_write_bytes, 4 * 4 * act);
	plan_free(p);

	/* Of two, three buffers pass on what the next phase reads. */
	bed.config.batch.micro = 6;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->swap.step_write_bytes, 4 * 2 * p->device.act_bytes);
	ck_assert_uint_lt(p->swap.step_read_bytes, 4 * 2 * p->device.act_bytes);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

/* What goes from phase to phase is there for every micro-batch; the refusal knows the way out. */
START_TEST(layer_by_layer_costs)
{
	struct bed bed = {0};
	struct plan *one, *four;

	bed_open(&bed);
	bed.config.batch.micro = 3;
	bed.config.optimizer.clip = 0;
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_CPU);
	one = plan_of(&bed, 2);
	bed.config.schedule.order = ORDER_LAYER;
	four = plan_of(&bed, 2);
	ck_assert_uint_eq(four->micros, 4);
	ck_assert_uint_eq(four->device.carry_bytes, one->device.carry_bytes);
	ck_assert_uint_eq(four->device.grad_shared_bytes, 4 * one->device.grad_shared_bytes);
	ck_assert_uint_eq(four->device.kept_bytes, 4 * one->device.kept_bytes);
	ck_assert_uint_eq(four->device.part_buffers, one->device.part_buffers + 1);
	ck_assert_uint_eq(four->host.act_region_bytes, 4 * one->host.act_region_bytes);
	ck_assert(four->grad_type == DTYPE_F32);
	bed.config.device.memory = four->device.least_bytes - 1;
	refused(&bed, 2, "t.yaml:8:18: device.memory: ", "schedule.order: micro-batch would fit");
	bed.config.device.memory = four->device.least_bytes;
	bed.config.host.memory = 2 * four->host.least_bytes - 1;
	refused(&bed, 2, "t.yaml:7:16: host.memory: ", "schedule.order: micro-batch would fit");
	plan_free(one);
	plan_free(four);
	bed_close(&bed);
}
END_TEST

static char *table_of(const struct bed *bed, const struct plan *p)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	ck_assert_ptr_nonnull(out);
	ck_assert_int_eq(plan_print(p, &bed->config, out), 0);
	ck_assert_int_eq(fclose(out), 0);
	return text;
}

/* Is `bytes` in the line of the table that begins with `name`? */
static bool line_has(const char *text, const char *name, uint64_t bytes)
{
	char figure[32];
	const char *at = strstr(text, name), *end = at ? strchr(at, '\n') : NULL, *found;

	snprintf(figure, sizeof(figure), " %ju ", (uintmax_t)bytes);
	found = at ? strstr(at, figure) : NULL;
	return found && found < end;
}

START_TEST(table_shows_the_order)
{
	struct bed bed = {0};
	struct plan *p;
	char *text;

	bed_open(&bed);
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_CPU);
	p = plan_of(&bed, 2);
	text = table_of(&bed, p);
	ck_assert(!strstr(text, "side by side") && !strstr(text, "layer by layer"));
	free(text);
	plan_free(p);
	bed.config.schedule.order = ORDER_LAYER;
	p = plan_of(&bed, 2);
	text = table_of(&bed, p);
	ck_assert_msg(strstr(text, "12 micro-batches of 1 a rank, layer by layer"), "%s", text);
	ck_assert(strstr(text, "12 micro-batches side by side take, beyond one: "));
	ck_assert(line_has(text, "carried from phase to phase", 12 * p->device.carry_bytes));
	ck_assert(line_has(text, "gradients of several phases", p->device.grad_shared_bytes));
	free(text);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("plan_order");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	int failed;

	if (!mkdtemp(swap_dir)) {
		perror(swap_dir);
		return EXIT_FAILURE;
	}
	tcase_add_test(tc, traffic_layer_by_layer);
	tcase_add_test(tc, layer_by_layer_costs);
	tcase_add_test(tc, table_shows_the_order);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (rmdir(swap_dir) < 0)
		perror(swap_dir);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
