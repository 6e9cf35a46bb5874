/*
 * The planner's split of optimizer state between tiers: which units go where, what a plan says of
 * it, and what a refusal says would fit.
 *
 * Method. Models whose units are few and simple enough that the places are worked out by hand; then
 * the job of plan_bed.h with budgets between those of its whole placements.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "offload/plan.h"
#include "tests/plan_bed.h"

/* By hand: who gets what, and in which order. A block is one unit of measure. */
START_TEST(shares_become_units)
{
	static const struct {
		uint64_t embedding; /* in blocks */
		double shares[PLACE_COUNT];
		int places[5]; /* of the embedding, then of blocks 1 to 4 */
	} cases[] = {
		{2, {1, 0, 0}, {0, 0, 0, 0, 0}},
		{2, {0, 1, 0}, {1, 1, 1, 1, 1}},
		{2, {0, 0, 1}, {2, 2, 2, 2, 2}},
		/* The embedding goes to the fastest tier that has room for it. */
		{2, {0.5, 0.5, 0}, {0, 0, 1, 1, 1}},
		{2, {0.2, 0.5, 0.3}, {1, 0, 1, 2, 2}},
		{2, {0.2, 0.3, 0.5}, {2, 0, 1, 1, 2}},
		{2, {0.4, 0.3, 0.3}, {0, 1, 1, 2, 2}},
		/* Shares of less than half a block come to nothing. */
		{2, {0, 0.01, 0.99}, {2, 2, 2, 2, 2}},
		{2, {0.1, 0.1, 0.8}, {2, 0, 2, 2, 2}},
		/* Nobody has room for it: it goes where most is lacking. */
		{4, {0.4, 0.3, 0.3}, {0, 1, 1, 2, 2}},
		{4, {0.2, 0.4, 0.4}, {1, 0, 2, 2, 2}},
	};
	struct arch_unit units[5] = {{.elems = 0}};
	struct arch arch = {.units = units, .unit_count = 5, .act_count = 1};
	struct bed bed = {0};

	bed_open(&bed);
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		const double *s = cases[n].shares;
		struct plan *p = NULL;
		struct err err = {0};

		for (size_t i = 0; i < 5; i++)
			units[i].elems = i ? 4096 : 4096 * cases[n].embedding;
		split(&bed, s[PLACE_NONE], s[PLACE_CPU], s[PLACE_NVME]);
		ck_assert_msg(plan_make(&bed.config, bed.doc, &arch, 2, &p, &err) == 0, "%s",
			      err.text);
		for (size_t i = 0; i < 5; i++)
			ck_assert_msg(p->units[i].place_optimizer == cases[n].places[i],
				      "case %zu: unit %zu is on tier %d", n, i,
				      p->units[i].place_optimizer);
		plan_free(p);
	}
	bed_close(&bed);
}
END_TEST

/* Parameters of each tier are spread over the order of units. */
START_TEST(parameters_are_spread)
{
	static const struct {
		double shares[PLACE_COUNT];
		int places[9]; /* of the embedding, a block's size here, then of blocks 1 to 8 */
	} cases[] = {
		{{0, 1, 0}, {1, 1, 1, 1, 1, 1, 1, 1, 1}},
		{{0, 1.0 / 3, 2.0 / 3}, {2, 1, 2, 2, 1, 2, 2, 1, 2}},
		{{0, 2.0 / 3, 1.0 / 3}, {1, 2, 1, 1, 2, 1, 1, 2, 1}},
		{{1.0 / 3, 1.0 / 3, 1.0 / 3}, {0, 1, 2, 0, 1, 2, 0, 1, 2}},
		{{0.11, 0, 0.89}, {2, 2, 2, 2, 0, 2, 2, 2, 2}},
	};
	struct arch_unit units[9] = {{.elems = 0}};
	struct arch arch = {.units = units, .unit_count = 9, .act_count = 1};
	struct bed bed = {0};

	bed_open(&bed);
	for (size_t i = 0; i < 9; i++)
		units[i].elems = 4096;
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		const double *s = cases[n].shares;
		struct plan *p = NULL;
		struct err err = {0};

		split_param(&bed, s[PLACE_NONE], s[PLACE_CPU], s[PLACE_NVME]);
		ck_assert_msg(plan_make(&bed.config, bed.doc, &arch, 2, &p, &err) == 0, "%s",
			      err.text);
		for (size_t i = 0; i < 9; i++)
			ck_assert_msg(p->units[i].place_param == cases[n].places[i],
				      "case %zu: unit %zu is on tier %d", n, i,
				      p->units[i].place_param);
		plan_free(p);
	}
	bed_close(&bed);
}
END_TEST

/* What plan_make() says when it refuses. */
static const char *refusal(const struct bed *bed, struct err *err)
{
	struct plan *plan = NULL;

	*err = (struct err){0};
	ck_assert_int_eq(plan_make(&bed->config, bed->doc, bed->arch, 2, &plan, err), ERR_CONFIG);
	return err->text;
}

/* Of an embedding and three blocks, three and a half times as large each, two blocks have to go. */
START_TEST(shares_that_fit)
{
	struct bed bed = {0};
	struct plan *full, *p;
	struct err err;

	bed_open(&bed);
	full = plan_of(&bed, 2);
	bed.config.device.memory =
		full->device.least_bytes -
		2 * (plan_state_bytes(full, full->units[3].opt_elems) +
		     full->units[3].opt_elems * dtype_bytes(full->grad_kept_type));
	plan_free(full);
	refused(&bed, 2,
		"t.yaml:8:18: device.memory: ", "; zero.offload_optimizer: {cpu: 0.55} would fit");
	split(&bed, 0.45, 0.55, 0);
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->optimizer[PLACE_CPU].units, 2);
	plan_free(p);
	split(&bed, 0.5, 0.5, 0);
	refused(&bed, 2,
		"t.yaml:8:18: device.memory: ", "; zero.offload_optimizer: {cpu: 0.55} would fit");
	/* What is on NVMe stays there. */
	split(&bed, 0.75, 0, 0.25);
	refused(&bed, 2, "t.yaml:8:18: device.memory: ",
		"; zero.offload_optimizer: {cpu: 0.25, nvme: 0.25} would fit");
	/* Nothing is said that would not help: with too little to lend, or no need to. */
	split(&bed, 1, 0, 0);
	bed.config.host.memory = MiB / 4;
	ck_assert_ptr_null(strstr(refusal(&bed, &err), "would fit"));
	bed.config.host.memory = GiB;
	bed.config.device.memory = MiB / 2;
	ck_assert_ptr_null(strstr(refusal(&bed, &err), "would fit"));
	bed_close(&bed);
}
END_TEST

/* Where the host is short, the device takes what it has room for, else NVMe does. */
START_TEST(host_shares_that_fit)
{
	struct bed bed = {0};
	struct plan *full, *half;
	struct err err;

	bed_open(&bed);
	bed.config.nvme.paths.count = 0; /* so that no gradient may wait there */
	place(&bed, 3, PLACE_CPU, PLACE_CPU, PLACE_NONE);
	full = plan_of(&bed, 2);
	split(&bed, 0.5, 0.5, 0);
	half = plan_of(&bed, 2);
	place(&bed, 3, PLACE_CPU, PLACE_CPU, PLACE_NONE);
	bed.config.host.memory = 2 * half->host.least_bytes;
	refused(&bed, 2,
		"t.yaml:7:16: host.memory: ", "; zero.offload_optimizer: {cpu: 0.5} would fit");
	/* Now the device is full, and the disk has room. */
	bed.config.device.memory = full->device.least_bytes;
	ck_assert_ptr_null(strstr(refusal(&bed, &err), "would fit"));
	bed.config.nvme.paths.count = 1;
	bed.config.host.memory = 2 * half->host.least_bytes - full->host.grad_bytes;
	refused(&bed, 2, "t.yaml:7:16: host.memory: ", ", nvme: 0.");
	plan_free(half);
	plan_free(full);
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

/* What is asked and what is placed stand side by side, with the bytes. */
START_TEST(table_and_json_show_the_split)
{
	struct bed bed = {0};
	struct json json;
	struct plan *p;
	char *text, member[160], line[160];

	bed_open(&bed);
	split(&bed, 0.2, 0.5, 0.3);
	p = plan_of(&bed, 2);
	text = table_of(&bed, p);
	ck_assert_msg(strstr(text, "optimizer split"), "%s", text);
	snprintf(line, sizeof(line), "0.5000%10.4f%8zu%16ju", p->optimizer[PLACE_CPU].placed,
		 p->optimizer[PLACE_CPU].units, (uintmax_t)p->host.state_bytes);
	ck_assert_msg(strstr(text, line), "%s\nexpected %s", text, line);
	snprintf(line, sizeof(line), "%-24s%22.4f\n", "the largest unit",
		 (double)p->units[1].opt_elems /
			 (double)(p->units[0].opt_elems + 3 * p->units[1].opt_elems));
	ck_assert_msg(strstr(text, line), "%s\nexpected %s", text, line);
	free(text);
	json_init(&json);
	json_object_begin(&json, NULL);
	plan_json(p, &json);
	json_object_end(&json);
	ck_assert_ptr_nonnull(json_text(&json));
	ck_assert(strstr(json_text(&json), "\"offload_optimizer\":\"split\""));
	ck_assert(strstr(json_text(&json), "\"parameters\":{\"none\":{\"asked\":1,"));
	snprintf(member, sizeof(member), "\"nvme\":{\"asked\":0.3,\"placed\":");
	ck_assert_msg(strstr(json_text(&json), member), "%s", json_text(&json));
	snprintf(member, sizeof(member), "\"units\":%zu,\"bytes\":%ju}",
		 p->optimizer[PLACE_NVME].units, (uintmax_t)p->swap.state_bytes);
	ck_assert_msg(strstr(json_text(&json), member), "%s", json_text(&json));
	json_done(&json);
	plan_free(p);
	/* A whole placement needs no table. */
	place(&bed, 3, PLACE_NONE, PLACE_CPU, PLACE_NONE);
	p = plan_of(&bed, 2);
	text = table_of(&bed, p);
	ck_assert(strstr(text, "optimizer cpu") && !strstr(text, "the largest unit"));
	free(text);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

/* Units with the daemon and units on the device, parameters on NVMe: what moves in a step. */
START_TEST(traffic_by_hand)
{
	struct bed bed = {0};
	const struct plan_unit *u;
	struct plan *p;
	uint64_t read, written;

	bed_open(&bed);
	bed.config.batch.micro = 12;
	bed.config.optimizer.clip = 0;
	place(&bed, 3, PLACE_NVME, PLACE_NONE, PLACE_NONE);
	split(&bed, 0.4, 0, 0.6);
	p = plan_of(&bed, 2);
	u = p->units;
	ck_assert(!plan_unit_offloaded(&u[0]) && !plan_unit_offloaded(&u[1]));
	ck_assert(plan_unit_offloaded(&u[2]) && plan_unit_offloaded(&u[3]));
	/*
	 * Two gather slots. Embedding, blocks 1 2 3, head (the embedding again), 3, 2, 1: all but 3
	 * are fetched twice, and the slots have 2 and 1. So the step fetches the embedding, not 1.
	 * It writes their parameters, 2 bytes each; the daemon reads and writes 2 + 10.
	 */
	read = 2 * (3 * u[0].opt_elems + 2 * u[1].opt_elems) + (2 * 2 + 12) * u[2].opt_elems +
	       (2 + 12) * u[3].opt_elems;
	written = 2 * (u[0].opt_elems + u[1].opt_elems) + 12 * (u[2].opt_elems + u[3].opt_elems);
	ck_assert_uint_eq(p->swap.step_read_bytes, read);
	ck_assert_uint_eq(p->swap.step_write_bytes, written);
	plan_free(p);
	/* All on the device: the step fetches blocks 2 and 3, too. */
	split(&bed, 1, 0, 0);
	p = plan_of(&bed, 2);
	u = p->units;
	read = 2 *
	       (3 * u[0].opt_elems + 2 * u[1].opt_elems + 3 * u[2].opt_elems + 2 * u[3].opt_elems);
	ck_assert_uint_eq(p->swap.step_read_bytes, read);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("plan_split");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	int failed;

	if (!mkdtemp(swap_dir)) {
		perror(swap_dir);
		return EXIT_FAILURE;
	}
	tcase_add_test(tc, shares_become_units);
	tcase_add_test(tc, parameters_are_spread);
	tcase_add_test(tc, shares_that_fit);
	tcase_add_test(tc, host_shares_that_fit);
	tcase_add_test(tc, table_and_json_show_the_split);
	tcase_add_test(tc, traffic_by_hand);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (rmdir(swap_dir) < 0)
		perror(swap_dir);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
