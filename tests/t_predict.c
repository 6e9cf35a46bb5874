/*
 * The model of a step: what it says of a placement, by rates that are given, and which placement is
 * chosen by it.
 *
 * Method. The job of plan_bed.h with rates in which one resource is far slower than all others: a
 * step takes then what that resource has to do, worked out by hand from the plan's bytes. Then
 * tables of rates and budgets with the choice that must come of them.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "offload/predict.h"
#include "tests/plan_bed.h"

/* A host on which nothing takes long, but for what a test makes slow. */
static const struct predict_rates fast = {
	.forward = {.rest = 1e-9, .block = 1e-9},
	.pass = {.rest = 3e-9, .block = 3e-9},
	.step = {.rest = 0, .block = 0},
	.cores = 2,
	.shared = true,
	.copy = 1e15,
	.adam = 1e15,
	.checksum = 1e15,
	.read = 1e15,
	.write = 1e15,
	.mixed = 1e15,
};

static struct predict predict_of(struct bed *bed, const struct predict_rates *rates)
{
	struct plan *p = plan_of(bed, 2);
	struct predict s;

	predict_step(p, &bed->config, bed->arch, rates, &s);
	plan_free(p);
	return s;
}

/* All in memory: passes, and the optimizer behind them. A block that is recomputed costs its
 * forward again. */
START_TEST(compute_alone)
{
	struct predict_rates r = fast;
	struct bed bed = {0};
	struct plan *p;
	struct predict s;

	r.forward = (struct predict_line){.rest = 1, .block = 2};
	r.pass = (struct predict_line){.rest = 3, .block = 7};
	r.step = (struct predict_line){.rest = 0.5, .block = 0.25};
	bed_open(&bed);
	place(&bed, 3, PLACE_NONE, PLACE_NONE, PLACE_NONE);
	bed.config.batch.micro = 3;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->accumulation, 4);
	ck_assert_uint_eq(p->device.kept_blocks, 3);
	s = predict_of(&bed, &r);
	ck_assert_double_eq_tol(s.seconds, 4 * (3 + 3 * 7) + 0.5 + 3 * 0.25, 1e-6);
	ck_assert_double_eq_tol(s.compute, s.seconds, 1e-6);
	ck_assert_msg(strstr(s.bound, "compute"), "%s", s.bound);
	bed.config.device.memory = p->device.total_bytes - 1; /* two blocks are kept */
	s = predict_of(&bed, &r);
	ck_assert_double_eq_tol(s.seconds, 4 * (3 + 3 * 7 + 2) + 0.5 + 3 * 0.25, 1e-6);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

/* All on a slow disk: its bytes at its rates, as much as is both read and written as a mix. */
START_TEST(disk_alone)
{
	struct predict_rates r = fast;
	struct bed bed = {0};
	struct plan *p;
	struct predict s;
	double read, written;

	r.read = 3e6;
	r.write = 2e6;
	r.mixed = 4e6;
	bed_open(&bed);
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_NONE);
	bed.config.batch.micro = 12;
	bed.config.optimizer.clip = 0;
	p = plan_of(&bed, 2);
	read = 2.0 * (double)p->swap.step_read_bytes;
	written = 2.0 * (double)p->swap.step_write_bytes;
	ck_assert(read > written && !p->grad_kept);
	s = predict_of(&bed, &r);
	ck_assert_double_eq_tol(s.disk, 2 * written / 4e6 + (read - written) / 3e6, 1e-6);
	ck_assert_double_eq_tol(s.seconds, s.disk, 1e-6);
	ck_assert_str_eq(s.bound, "disk");
	ck_assert_uint_eq(s.read_bytes, 2 * p->swap.step_read_bytes);
	/* A norm to wait for adds what fills the pipeline: the embedding's step. */
	bed.config.optimizer.clip = 1;
	ck_assert_double_gt(predict_of(&bed, &r).seconds, s.seconds);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

/* The daemon's Adam: by one thread; or by all cores, beside a cpu device's compute. */
START_TEST(cores_are_shared)
{
	struct predict_rates r = fast;
	struct bed bed = {0};
	struct plan *p;
	double elems = 0;

	bed_open(&bed);
	place(&bed, 3, PLACE_NONE, PLACE_CPU, PLACE_NONE);
	bed.config.batch.micro = 12;
	bed.config.optimizer.clip = 0;
	p = plan_of(&bed, 2);
	elems = 2.0 * (double)p->optimizer[PLACE_CPU].elems;
	r.adam = elems / 10;
	ck_assert_double_eq_tol(predict_of(&bed, &r).seconds, 10, 1e-5);
	bed.config.host.threads = 2;
	ck_assert_double_eq_tol(predict_of(&bed, &r).seconds, 5, 1e-5);
	r.pass.rest = 8;
	ck_assert_double_eq_tol(predict_of(&bed, &r).seconds, 5 + 8, 1e-5);
	/* A GPU's compute is beside them. */
	r.shared = false;
	ck_assert_double_eq_tol(predict_of(&bed, &r).seconds, 8, 1e-5);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

static void set_auto(double shares[PLACE_COUNT])
{
	shares[PLACE_NONE] = CONF_SHARES_AUTO;
	shares[PLACE_CPU] = shares[PLACE_NVME] = 0;
}

static void open_auto(struct bed *bed)
{
	bed_open(bed);
	bed->config.batch.micro = 12;
	set_auto(bed->config.zero.offload_param);
	set_auto(bed->config.zero.offload_optimizer);
}

/* Of what a whole placement holds on the device, so that only others fit. */
static uint64_t device_least(int param, int optimizer)
{
	struct bed bed = {0};
	struct plan *p;
	uint64_t bytes;

	bed_open(&bed);
	bed.config.batch.micro = 12;
	place(&bed, 3, param, optimizer, PLACE_NONE);
	p = plan_of(&bed, 2);
	bytes = p->device.least_bytes;
	plan_free(p);
	bed_close(&bed);
	return bytes;
}

START_TEST(choices)
{
	const uint64_t none = device_least(PLACE_NONE, PLACE_NONE);
	const uint64_t optimizer = device_least(PLACE_NONE, PLACE_CPU);
	const uint64_t away = device_least(PLACE_CPU, PLACE_CPU);
	const struct {
		const char *what;
		uint64_t device, host;
		bool disk;
		double copy, mixed; /* 0: as fast as everything else */
		size_t count;
		int param, optimizer;
	} cases[] = {
		/* All equal: the device, which needs nothing else. */
		{"room", GiB, GiB, true, 0, 0, 9, PLACE_NONE, PLACE_NONE},
		{"no disk", GiB, GiB, false, 0, 0, 4, PLACE_NONE, PLACE_NONE},
		{"no host memory, no daemon", GiB, 0, false, 0, 0, 1, PLACE_NONE, PLACE_NONE},
		{"state is too large", none - 1, GiB, true, 0, 0, 9, PLACE_NONE, PLACE_CPU},
		{"no disk, either", none - 1, GiB, false, 0, 0, 4, PLACE_NONE, PLACE_CPU},
		{"all too large", optimizer - 1, GiB, true, 0, 0, 9, PLACE_CPU, PLACE_CPU},
		{"least", away, GiB, true, 0, 1e6, 9, PLACE_CPU, PLACE_CPU},
		{"slow copies", none - 1, GiB, true, 1e6, 0, 9, PLACE_NONE, PLACE_CPU},
		{"slow disk", none - 1, GiB, true, 0, 1e6, 9, PLACE_NONE, PLACE_CPU},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct predict_rates r = fast;
		struct predict_table t;
		struct err err = {0};
		struct bed bed = {0};
		int rc;

		open_auto(&bed);
		bed.config.device.memory = cases[i].device;
		bed.config.host.memory = cases[i].host;
		bed.config.nvme.paths.count = cases[i].disk;
		if (cases[i].copy > 0)
			r.copy = cases[i].copy;
		if (cases[i].mixed > 0)
			r.mixed = r.read = r.write = cases[i].mixed;
		rc = predict_choose(&bed.config, bed.doc, bed.arch, 2, &r, &t, &err);
		ck_assert_msg(rc == 0, "%s: %s", cases[i].what, err.text);
		ck_assert_msg(t.count == cases[i].count, "%s: %zu", cases[i].what, t.count);
		ck_assert_msg(t.choices[t.best].param == cases[i].param &&
				      t.choices[t.best].optimizer == cases[i].optimizer,
			      "%s: %d, %d", cases[i].what, t.choices[t.best].param,
			      t.choices[t.best].optimizer);
		bed_close(&bed);
	}
}
END_TEST

/* What is asked for stays; what is left open is chosen. */
START_TEST(half_open)
{
	struct predict_rates r = fast;
	struct predict_table t;
	struct err err = {0};
	struct bed bed = {0};

	open_auto(&bed);
	split(&bed, 0.2, 0.5, 0.3);
	ck_assert_int_eq(predict_choose(&bed.config, bed.doc, bed.arch, 2, &r, &t, &err), 0);
	ck_assert_uint_eq(t.count, 3);
	ck_assert(t.choices[t.best].param == PLACE_NONE);
	ck_assert(t.choices[t.best].optimizer == PLACE_COUNT);
	bed_close(&bed);
}
END_TEST

/* Nothing fits: the refusal of what has least on the device. */
START_TEST(nothing_fits)
{
	struct predict_rates r = fast;
	struct predict_table t;
	struct err err = {0};
	struct bed bed = {0};

	open_auto(&bed);
	bed.config.device.memory = MiB;
	ck_assert_int_eq(predict_choose(&bed.config, bed.doc, bed.arch, 2, &r, &t, &err),
			 ERR_CONFIG);
	ck_assert_msg(strstr(err.text, "device.memory: "), "%s", err.text);
	bed_close(&bed);
}
END_TEST

START_TEST(table_and_json)
{
	struct predict_rates r = fast;
	struct predict_table t;
	struct err err = {0};
	struct bed bed = {0};
	struct json json;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	open_auto(&bed);
	bed.config.device.memory = device_least(PLACE_NONE, PLACE_NONE) - 1;
	ck_assert_int_eq(predict_choose(&bed.config, bed.doc, bed.arch, 2, &r, &t, &err), 0);
	predict_print(&t, &r, out);
	fclose(out);
	ck_assert_msg(strstr(text, "  none        none           too large\n"), "%s", text);
	ck_assert_msg(strstr(text, "\n* none        cpu "), "%s", text);
	ck_assert_msg(strstr(text, "\nchosen      parameters none, optimizer cpu: bound by "), "%s",
		      text);
	free(text);
	json_init(&json);
	json_object_begin(&json, NULL);
	predict_json(&t, &r, &json);
	json_object_end(&json);
	ck_assert_ptr_nonnull(json_text(&json));
	ck_assert(strstr(json_text(&json), "\"fits\":false}"));
	ck_assert(strstr(json_text(&json), "\"best\":1}"));
	json_done(&json);
	bed_close(&bed);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("predict");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	int failed;

	if (!mkdtemp(swap_dir)) {
		perror(swap_dir);
		return EXIT_FAILURE;
	}
	tcase_add_test(tc, compute_alone);
	tcase_add_test(tc, disk_alone);
	tcase_add_test(tc, cores_are_shared);
	tcase_add_test(tc, choices);
	tcase_add_test(tc, half_open);
	tcase_add_test(tc, nothing_fits);
	tcase_add_test(tc, table_and_json);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (rmdir(swap_dir) < 0)
		perror(swap_dir);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
