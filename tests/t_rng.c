/*
 * Goal: the generator is and stays Philox 4x32-10, and what is made of it is distributed as said.
 * Method: the known answers of its authors (Random123, kat_vectors), moments of large samples
 * within five standard errors, and recorded values, so that a resumed run goes on with the same.
 */
#include "common/rng.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

#define SEED    42u
#define SAMPLES 200000u

static const struct {
	uint64_t seed, stream, index;
	uint32_t expected[4];
} known[] = {
	{0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
	{UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
	/* Digits of pi: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0. */
	{0x299f31d0a4093822,
	 0x0370734413198a2e,
	 0x85a308d3243f6a88,
	 {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

START_TEST(blocks_match_the_known_answers)
{
	uint32_t block[4];

	rng_block(known[_i].seed, known[_i].stream, known[_i].index, block);
	for (int w = 0; w < 4; w++)
		ck_assert_uint_eq(block[w], known[_i].expected[w]);
}
END_TEST

START_TEST(uniform_is_uniform)
{
	double sum = 0, squares = 0, u;

	for (uint64_t i = 0; i < SAMPLES; i++) {
		u = rng_uniform(SEED, 3, i);
		ck_assert(u >= 0 && u < 1);
		sum += u;
		squares += u * u;
	}
	ck_assert_double_le(fabs(sum / SAMPLES - 0.5), 5 * sqrt(1.0 / 12 / SAMPLES));
	ck_assert_double_le(fabs(squares / SAMPLES - 1.0 / 3), 5 * sqrt(4.0 / 45 / SAMPLES));
}
END_TEST

START_TEST(normal_is_normal)
{
	double sum = 0, squares = 0, fourths = 0, x;

	for (uint64_t i = 0; i < SAMPLES; i++) {
		x = rng_normal(SEED, 4, i);
		ck_assert(isfinite(x));
		sum += x;
		squares += x * x;
		fourths += x * x * x * x;
	}
	ck_assert_double_le(fabs(sum / SAMPLES), 5 * sqrt(1.0 / SAMPLES));
	ck_assert_double_le(fabs(squares / SAMPLES - 1), 5 * sqrt(2.0 / SAMPLES));
	ck_assert_double_le(fabs(fourths / SAMPLES - 3), 5 * sqrt(96.0 / SAMPLES));
}
END_TEST

START_TEST(below_is_below_and_even)
{
	unsigned count[7] = {0};

	for (uint64_t i = 0; i < SAMPLES; i++)
		count[rng_below(SEED, 5, i, 7)]++;
	for (int k = 0; k < 7; k++)
		ck_assert_double_le(fabs(count[k] - SAMPLES / 7.0), 5 * sqrt(SAMPLES * 6 / 49.0));
	ck_assert_uint_eq(rng_below(SEED, 5, 0, 1), 0);
	ck_assert_uint_lt(rng_below(SEED, 5, 0, UINT64_MAX), UINT64_MAX);
}
END_TEST

START_TEST(streams_and_seeds_differ)
{
	ck_assert_uint_ne(rng_u64(1, 0, 0), rng_u64(2, 0, 0));
	ck_assert_uint_ne(rng_u64(1, 0, 0), rng_u64(1, 1, 0));
	ck_assert_uint_ne(rng_u64(1, 0, 0), rng_u64(1, 0, 1));
	ck_assert_uint_eq(rng_u64(0, 0, 0), 0xe169c58d6627e8d5);
	/* 0xe169c58d6627e8d5 >> 11, times 2^-53 */
	ck_assert(rng_uniform(0, 0, 0) == 0x1.c2d38b1acc4fdp-1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("rng");
	TCase *tcase = tcase_create("rng");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tcase, blocks_match_the_known_answers, 0,
			    sizeof(known) / sizeof(known[0]));
	tcase_add_test(tcase, uniform_is_uniform);
	tcase_add_test(tcase, normal_is_normal);
	tcase_add_test(tcase, below_is_below_and_even);
	tcase_add_test(tcase, streams_and_seeds_differ);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
