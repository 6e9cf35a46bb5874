/*
 * Goal: what a step writes, and what that is a day and in a drive's life, is right, and said so
 * that it can be read.
 * Method: models and speeds whose days can be worked out by hand.
 */
#include "daemon/endurance.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TB 1e12

/* Two directories of 1 and 3 GB/s, each a drive of its own. */
static struct nvme_figures figures(void)
{
	struct nvme_figures f = {.together = {.read = 5e9, .write = 2e9, .mixed = 4e9},
				 .path_count = 2};

	strcpy(f.paths[0].path, "/a");
	strcpy(f.paths[0].filesystem, "fsid:1:a");
	f.paths[0].share = 1e9;
	strcpy(f.paths[1].path, "/b");
	strcpy(f.paths[1].filesystem, "fsid:1:b");
	f.paths[1].share = 3e9;
	return f;
}

static const uint64_t capacities[] = {(uint64_t)TB, (uint64_t)(2 * TB)};

static void about(double value, double expected)
{
	ck_assert_msg(value > expected * 0.9999 && value < expected * 1.0001, "%g, expected %g",
		      value, expected);
}

START_TEST(ratings)
{
	static const char *const bad[] = {"", "0", "-1", "0.6x", "x", "1e9", "TB", "nan"};
	struct endurance_rating r;

	ck_assert_int_eq(endurance_rating_parse("0.6", &r), 0);
	ck_assert(r.drive_writes == 0.6 && r.bytes == 0);
	ck_assert_int_eq(endurance_rating_parse("1200TB", &r), 0);
	ck_assert(r.drive_writes == 0 && r.bytes == UINT64_C(1200000000000000));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_msg(endurance_rating_parse(bad[i], &r) == -EINVAL, "'%s'", bad[i]);
}
END_TEST

/* 1e9 parameters write 12 GB and read 16: 7 s at 4 GB/s. */
START_TEST(a_model_by_its_parameters)
{
	struct endurance e = {.rating.drive_writes = 0.5};
	struct nvme_figures f = figures();
	char text[ENDURANCE_TEXT_BYTES];

	endurance_of_params(1000000000, &e);
	ck_assert_uint_eq(e.step_write_bytes, UINT64_C(12000000000));
	endurance_work_out(&e, &f, capacities);
	about(e.step_seconds, 7);
	about(e.day_bytes, 12e9 / 7 * 86400);
	/* The second has three quarters of the load and 1 TB a day; the first has 0.5. */
	about(e.day_of_rating, e.day_bytes * 0.75 / TB);
	endurance_text(text, &e, &f);
	ck_assert_msg(strstr(text, "a step writes 11.2GiB; at 7 s a step") == text, "%s", text);
	ck_assert_msg(strstr(text, "times what 0.5 drive writes a day") != NULL, "%s", text);
}
END_TEST

START_TEST(a_step_time_that_is_given)
{
	struct endurance e = {.params = 1,
			      .step_write_bytes = 10000000000,
			      .step_given = true,
			      .step_seconds = 100,
			      .rating.bytes = UINT64_C(1000000000000000)};
	struct nvme_figures f = figures();
	char text[ENDURANCE_TEXT_BYTES];

	endurance_work_out(&e, &f, capacities);
	about(e.day_bytes, 8.64e12);
	about(e.days, 1e15 / (8.64e12 * 0.75));
	ck_assert(e.day_of_rating == 0);
	/* Both directories on one drive: it has all of it. */
	strcpy(f.paths[1].filesystem, f.paths[0].filesystem);
	e.days = 0;
	endurance_work_out(&e, &f, capacities);
	about(e.days, 1e15 / 8.64e12);
	endurance_text(text, &e, &f);
	ck_assert_msg(strstr(text, "at 100 s a step that is 7.86TiB a day") != NULL, "%s", text);
	ck_assert_msg(strstr(text, "in 116 days") != NULL, "%s", text);
}
END_TEST

START_TEST(no_model)
{
	struct endurance e = {.params = 0};
	struct nvme_figures f = figures();
	char text[ENDURANCE_TEXT_BYTES];

	endurance_work_out(&e, &f, capacities);
	about(e.day_bytes, 2e9 * 86400);
	endurance_text(text, &e, &f);
	ck_assert_msg(strstr(text, "writing without pause, at 1.86GiB/s, would be 157TiB a day") ==
			      text,
		      "%s", text);
	ck_assert_msg(strstr(text, "--params") != NULL, "%s", text);
}
END_TEST

START_TEST(a_job_that_writes_nothing)
{
	struct endurance e = {.params = 5, .rating.bytes = 1};
	struct nvme_figures f = figures();
	char text[ENDURANCE_TEXT_BYTES];

	endurance_work_out(&e, &f, capacities);
	ck_assert(e.day_bytes == 0 && e.days == 0 && e.day_of_rating == 0);
	ck_assert_str_eq(endurance_text(text, &e, &f), "a step of this job writes nothing here");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("endurance");
	TCase *tcase = tcase_create("endurance");
	SRunner *runner;
	int failed;

	tcase_add_test(tcase, ratings);
	tcase_add_test(tcase, a_model_by_its_parameters);
	tcase_add_test(tcase, a_step_time_that_is_given);
	tcase_add_test(tcase, no_model);
	tcase_add_test(tcase, a_job_that_writes_nothing);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
