/*
 * Goal: sizes and durations mean what people write, and nothing else is taken for one.
 * Method: tables of good and bad texts; what is formatted parses back to nearly the same.
 */
#include "common/units.h"

#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "common/rng.h"

#define SEED 20240611u

static const struct {
	const char *text;
	int rc;
	uint64_t value;
} sizes[] =
	{
		{"0", 0, 0},
		{"4096", 0, 4096},
		{"913B", 0, 913},
		{"4MiB", 0, 4ull << 20},
		{"4mib", 0, 4ull << 20},
		{"1.5GiB", 0, 3ull << 29},
		{"512KiB", 0, 512ull << 10},
		{"1TB", 0, 1000000000000ull},
		{"1.1KiB", 0, 1126},
		{"0.5KB", 0, 500},
		{"15EiB", 0, 15ull << 60},
		{"18446744073709551615", 0, UINT64_MAX},
		{"18446744073709551616", -ERANGE, 0},
		{"16EiB", -ERANGE, 0},
		{"99999999999999999999999EiB", -ERANGE, 0},
		{"", -EINVAL, 0},
		{" 1", -EINVAL, 0},
		{"1 ", -EINVAL, 0},
		{"4 MiB", -EINVAL, 0},
		{"4M", -EINVAL, 0},
		{"4K", -EINVAL, 0},
		{"4MiBs", -EINVAL, 0},
		{"-1MiB", -EINVAL, 0},
		{"+1MiB", -EINVAL, 0},
		{"1.5", -EINVAL, 0},
		{"1.5B", -EINVAL, 0},
		{".5MiB", -EINVAL, 0},
		{"1.MiB", -EINVAL, 0},
		{"1.0000000001MiB", -EINVAL, 0},
		{"0x10", -EINVAL, 0},
		{"1e3", -EINVAL, 0},
		{"MiB", -EINVAL, 0},
		{"1,5GiB", -EINVAL, 0},
},
  durations[] = {
	  {"0", 0, 0},
	  {"250ms", 0, 250000000ull},
	  {"5s", 0, 5000000000ull},
	  {"1.5s", 0, 1500000000ull},
	  {"2m", 0, 120000000000ull},
	  {"1h", 0, 3600000000000ull},
	  {"7d", 0, 604800000000000ull},
	  {"15us", 0, 15000},
	  {"9ns", 0, 9},
	  {"5", -EINVAL, 0},
	  {"5S", -EINVAL, 0},
	  {"5M", -EINVAL, 0},
	  {"1.5ns", -EINVAL, 0},
	  {"1h30m", -EINVAL, 0},
	  {"-5s", -EINVAL, 0},
	  {"5 s", -EINVAL, 0},
	  {"300000d", -ERANGE, 0},
};

static const struct {
	uint64_t value;
	const char *text;
} shown_sizes[] =
	{
		{0, "0B"},
		{913, "913B"},
		{999, "999B"},
		{1000, "0.98KiB"},
		{1024, "1KiB"},
		{4096, "4KiB"},
		{512ull << 20, "512MiB"},
		{3ull << 29, "1.50GiB"},
		{10 * 1024 + 103, "10.1KiB"},
		{1023ull << 10, "1.00MiB"},
		{100 * 1024 + 600, "101KiB"},
		{UINT64_MAX, "16.0EiB"},
},
  shown_durations[] = {
	  {0, "0s"},
	  {15, "15ns"},
	  {999, "999ns"},
	  {1000, "1us"},
	  {999499, "999us"},
	  {999501, "1ms"},
	  {12345678, "12ms"},
	  {999600000, "1.0s"},
	  {4200000000ull, "4.2s"},
	  {59960000000ull, "1m00s"},
	  {200000000000ull, "3m20s"},
	  {3599700000000ull, "1h00m"},
	  {3720000000000ull, "1h02m"},
	  {183600000000000ull, "2d03h"},
};

START_TEST(sizes_parse)
{
	uint64_t value = 77;

	ck_assert_int_eq(units_parse_bytes(sizes[_i].text, &value), sizes[_i].rc);
	ck_assert_uint_eq(value, sizes[_i].rc ? 77 : sizes[_i].value);
}
END_TEST

START_TEST(durations_parse)
{
	uint64_t value = 77;

	ck_assert_int_eq(units_parse_duration(durations[_i].text, &value), durations[_i].rc);
	ck_assert_uint_eq(value, durations[_i].rc ? 77 : durations[_i].value);
}
END_TEST

START_TEST(values_format)
{
	char buf[UNITS_TEXT_BYTES];

	for (size_t i = 0; i < sizeof(shown_sizes) / sizeof(shown_sizes[0]); i++)
		ck_assert_str_eq(units_format_bytes(buf, shown_sizes[i].value),
				 shown_sizes[i].text);
	for (size_t i = 0; i < sizeof(shown_durations) / sizeof(shown_durations[0]); i++)
		ck_assert_str_eq(units_format_duration(buf, shown_durations[i].value),
				 shown_durations[i].text);
}
END_TEST

START_TEST(formatted_sizes_parse_back)
{
	char buf[UNITS_TEXT_BYTES];
	uint64_t value, back;

	for (uint64_t i = 0; i < 20000; i++) {
		value = rng_u64(SEED, 0, i) >> (i % 60) >> 1;
		units_format_bytes(buf, value);
		ck_assert_msg(units_parse_bytes(buf, &back) == 0, "%s (seed %u, %llu)", buf, SEED,
			      (unsigned long long)i);
		ck_assert_double_le(fabs((double)back - (double)value), 0.0055 * (double)value);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("units");
	TCase *tcase = tcase_create("units");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tcase, sizes_parse, 0, sizeof(sizes) / sizeof(sizes[0]));
	tcase_add_loop_test(tcase, durations_parse, 0, sizeof(durations) / sizeof(durations[0]));
	tcase_add_test(tcase, values_format);
	tcase_add_test(tcase, formatted_sizes_parse_back);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
