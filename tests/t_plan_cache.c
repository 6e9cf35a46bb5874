/*
 * The planner's static cache (host.memory: auto): what it keeps in host memory of what was asked to
 * be on NVMe, in which order, and what that is never paid with.
 *
 * Method. The job of plan_bed.h with budgets from the least to more than all of it: every plan must
 * be within its budget, cost no more traffic than with less memory, and follow the order of
 * plan_cache.c's head. Ends are worked out by hand.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "offload/protocol.h"
#include "tests/plan_bed.h"

static void open_cached(struct bed *bed, unsigned stage, int param, int optimizer)
{
	bed_open(bed);
	place(bed, stage, param, optimizer, PLACE_NONE);
	bed->config.host.automatic = true;
}

/* As many blocks, so that single ones can be told from all. */
static void deepen(struct bed *bed, uint64_t layers)
{
	struct err err = {0};

	arch_free(bed->arch);
	bed->config.model.layers = layers;
	ck_assert_msg(arch_make(&bed->config, &bed->arch, &err) == 0, "%s", err.text);
}

static uint64_t traffic(const struct plan *p)
{
	return p->swap.step_read_bytes + p->swap.step_write_bytes;
}

/* With room for everything nothing is on disk, and it is said what would have been. */
START_TEST(all_of_it)
{
	for (unsigned stage = 0; stage <= 3; stage++) {
		struct bed bed = {0};
		struct plan *p;

		open_cached(&bed, stage, PLACE_NVME, PLACE_NVME);
		p = plan_of(&bed, 2);
		ck_assert(!p->needs_swap && traffic(p) == 0);
		ck_assert(p->param[PLACE_NVME].asked == 1 && p->param[PLACE_CPU].placed == 1);
		ck_assert(p->optimizer[PLACE_NVME].units == 0);
		ck_assert_uint_eq(p->cached_param_bytes,
				  p->param[PLACE_CPU].elems * dtype_bytes(p->param_type));
		ck_assert_uint_eq(p->cached_state_bytes,
				  plan_state_bytes(p, p->optimizer[PLACE_CPU].elems));
		plan_free(p);
		bed_close(&bed);
	}
}
END_TEST

/* A size that is given is a budget, and units go where they were asked to be. */
START_TEST(not_unless_asked)
{
	struct bed bed = {0};
	struct plan *p;

	open_cached(&bed, 3, PLACE_NVME, PLACE_NVME);
	bed.config.host.automatic = false;
	p = plan_of(&bed, 2);
	ck_assert(p->param[PLACE_NVME].placed == 1 && p->optimizer[PLACE_NVME].placed == 1);
	ck_assert(p->cached_param_bytes == 0 && p->cached_state_bytes == 0);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

/* Units on the device stay there. */
START_TEST(only_from_disk)
{
	struct bed bed = {0};
	struct plan *p;

	open_cached(&bed, 3, PLACE_NONE, PLACE_NONE);
	split(&bed, 0.4, 0, 0.6);
	split_param(&bed, 0.5, 0.2, 0.3);
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->optimizer[PLACE_NONE].units, 2);
	ck_assert_uint_eq(p->optimizer[PLACE_CPU].units, 2);
	ck_assert_uint_eq(p->param[PLACE_NVME].units, 0);
	ck_assert_uint_gt(p->param[PLACE_NONE].units, 0);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

/* Room of a block's size may change hands: units differ in size, and buffers in what they take. */
static uint64_t slack(const struct plan *p)
{
	const uint64_t block = p->units[1].opt_elems;
	uint64_t grad = 2 * p->accumulation * block * dtype_bytes(p->grad_kept_type);
	uint64_t state = 2 * plan_state_bytes(p, block);

	return grad > state ? grad : state;
}

static void check_order(const struct plan *p, const struct plan *before)
{
	ck_assert_uint_le(p->host.total_bytes, p->host.budget_bytes);
	ck_assert_uint_le(traffic(p), traffic(before) + slack(p));
	/* At stage 3 any unit's state is larger than any's parameters: these fitted before. */
	if (p->cached_state_bytes && p->stage == 3)
		ck_assert(p->param[PLACE_NVME].units == 0);
	if ((p->cached_param_bytes || p->cached_state_bytes) && traffic(p)) {
		ck_assert(p->host.fetch_slots != 1 && p->host.grad_slots != 1);
		ck_assert(p->host.chunk_buffers == 0 || p->host.chunk_buffers >= 4);
	}
}

START_TEST(more_memory_less_traffic)
{
	const int optimizer = _i & 1 ? PLACE_NVME : PLACE_CPU;
	struct bed bed = {0};
	struct plan *before = NULL, *full, *p;
	size_t params = 0, states = 0;
	struct err err = {0};

	open_cached(&bed, _i & 2 ? 3 : 1, PLACE_NVME, optimizer);
	deepen(&bed, 10);
	bed.config.batch.micro = _i & 4 ? 3 : 12;
	full = plan_of(&bed, 2);
	for (uint64_t memory = MiB / 4; memory < 2 * full->host.total_bytes + 65536;
	     memory += 16384) {
		bed.config.host.memory = memory;
		if (plan_make(&bed.config, bed.doc, bed.arch, 2, &p, &err) < 0) {
			ck_assert_int_eq(err.code, ERR_CONFIG);
			ck_assert_ptr_null(before);
			continue;
		}
		if (before) {
			check_order(p, before);
			params += p->param[PLACE_CPU].units > before->param[PLACE_CPU].units;
			states +=
				p->optimizer[PLACE_CPU].units > before->optimizer[PLACE_CPU].units;
		}
		plan_free(before);
		before = p;
	}
	/* Unit by unit, but for the last ones, which make buffers superfluous. */
	ck_assert_uint_ge(params, 4);
	ck_assert(optimizer == PLACE_CPU || states >= 4);
	ck_assert_uint_eq(traffic(before), 0);
	plan_free(before);
	plan_free(full);
	bed_close(&bed);
}
END_TEST

/* All that the job holds on the host is within what the host can spare, and uses it. */
START_TEST(budget_of_a_host)
{
	const uint64_t spare = 64 * MiB;
	struct bed bed = {0};
	struct err err = {0};
	struct plan *p;
	uint64_t lent = 0;

	open_cached(&bed, 3, PLACE_NVME, PLACE_NVME);
	ck_assert_msg(plan_host_auto(&bed.config, bed.doc, bed.arch, 2, spare, &lent, &err) == 0,
		      "%s", err.text);
	bed.config.host.memory = lent;
	p = plan_of(&bed, 2);
	ck_assert_uint_le(p->host_peak_bytes - 2 * p->host.total_bytes + lent, spare);
	ck_assert_uint_gt(p->host_peak_bytes - 2 * p->host.total_bytes + lent + MiB, spare);
	plan_free(p);
	lent = 7;
	ck_assert_int_eq(plan_host_auto(&bed.config, bed.doc, bed.arch, 2, MiB, &lent, &err),
			 ERR_CONFIG);
	ck_assert_msg(strstr(err.text, "host.memory: auto, but the host can spare 1MiB"), "%s",
		      err.text);
	ck_assert_uint_eq(lent, 7);
	bed_close(&bed);
}
END_TEST

/* Nobody plans with an auto that the launcher has not settled. */
START_TEST(unsettled)
{
	struct bed bed = {0};
	struct plan *p;
	struct err err = {0};

	open_cached(&bed, 3, PLACE_NVME, PLACE_NVME);
	bed.config.host.memory = CONF_AUTO;
	ck_assert_int_eq(plan_make(&bed.config, bed.doc, bed.arch, 2, &p, &err), ERR_INTERNAL);
	train_config_settle(&bed.config, &(struct train_settled){.host_memory = GiB});
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->host_budget_bytes, GiB);
	plan_free(p);
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
	fclose(out);
	return text;
}

START_TEST(table_and_json_show_the_cache)
{
	struct bed bed = {0};
	struct json json;
	struct plan *p;
	char *text, member[80];

	open_cached(&bed, 3, PLACE_NVME, PLACE_NVME);
	p = plan_of(&bed, 2);
	text = table_of(&bed, p);
	ck_assert_msg(strstr(text, "\ncached      in host memory instead of NVMe: "), "%s", text);
	ck_assert_msg(strstr(text, "\nparameters, each rank"), "%s", text);
	free(text);
	json_init(&json);
	json_object_begin(&json, NULL);
	plan_json(p, &json);
	json_object_end(&json);
	ck_assert_ptr_nonnull(json_text(&json));
	snprintf(member, sizeof(member), "\"cached_param_bytes\":%ju,\"cached_state_bytes\":%ju,",
		 (uintmax_t)p->cached_param_bytes, (uintmax_t)p->cached_state_bytes);
	ck_assert_msg(strstr(json_text(&json), member), "%s", json_text(&json));
	json_done(&json);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("plan_cache");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	int failed;

	if (!mkdtemp(swap_dir)) {
		perror(swap_dir);
		return EXIT_FAILURE;
	}
	tcase_add_test(tc, all_of_it);
	tcase_add_test(tc, not_unless_asked);
	tcase_add_test(tc, only_from_disk);
	tcase_add_loop_test(tc, more_memory_less_traffic, 0, 8);
	tcase_add_test(tc, budget_of_a_host);
	tcase_add_test(tc, unsettled);
	tcase_add_test(tc, table_and_json_show_the_cache);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (rmdir(swap_dir) < 0)
		perror(swap_dir);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
