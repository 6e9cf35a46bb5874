/*
 * Goal: errors keep their cause and gain their context on the way up, whatever the lengths.
 * Method: direct calls, texts cut at the buffer's end, arguments that alias the error's own text.
 */
#include "common/err.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

START_TEST(context_goes_in_front)
{
	struct err err = {0};

	ck_assert_int_eq(err_set(&err, ERR_DATA, "byte %d is wrong", 7), ERR_DATA);
	ck_assert_int_eq(err_add(&err, "shard %s", "a.bin"), ERR_DATA);
	ck_assert_str_eq(err.text, "shard a.bin: byte 7 is wrong");
	ck_assert_int_eq(err_sys(&err, -ENOENT, "%s", "b.bin"), -ENOENT);
	ck_assert_str_eq(err.text, "b.bin: No such file or directory");
	ck_assert_int_eq(err.code, -ENOENT);
}
END_TEST

START_TEST(arguments_may_alias_the_text)
{
	struct err err = {0};

	err_set(&err, ERR_IO, "first");
	err_set(&err, ERR_DATA, "wrapped: %s", err.text);
	ck_assert_str_eq(err.text, "wrapped: first");
	err_add(&err, "%s", err.text);
	ck_assert_str_eq(err.text, "wrapped: first: wrapped: first");
}
END_TEST

START_TEST(long_texts_are_cut)
{
	static char name[2 * ERR_TEXT_BYTES];
	struct err err = {0};

	memset(name, 'x', sizeof(name) - 1);
	err_set(&err, ERR_IO, "%s", name);
	ck_assert_uint_eq(strlen(err.text), ERR_TEXT_BYTES - 1);
	err_add(&err, "front");
	ck_assert_uint_eq(strlen(err.text), ERR_TEXT_BYTES - 1);
	ck_assert_int_eq(strncmp(err.text, "front: xxx", 10), 0);
	err_sys(&err, -EIO, "%s", name);
	ck_assert_uint_eq(strlen(err.text), ERR_TEXT_BYTES - 1);
}
END_TEST

START_TEST(no_err_costs_the_text_only)
{
	ck_assert_int_eq(err_set(NULL, ERR_USAGE, "x"), ERR_USAGE);
	ck_assert_int_eq(err_sys(NULL, -EIO, "x"), -EIO);
}
END_TEST

START_TEST(each_code_has_its_text_and_status)
{
	static const struct {
		int code, status;
	} cases[] = {
		{0, 0},
		{5, 0},
		{ERR_USAGE, EX_USAGE},
		{ERR_DATA, EX_DATAERR},
		{ERR_NOINPUT, EX_NOINPUT},
		{ERR_UNAVAILABLE, EX_UNAVAILABLE},
		{ERR_INTERNAL, EX_SOFTWARE},
		{ERR_CANTCREAT, EX_CANTCREAT},
		{ERR_IO, EX_IOERR},
		{ERR_PROTOCOL, EX_PROTOCOL},
		{ERR_CONFIG, EX_CONFIG},
		{ERR_INTERRUPTED, 130},
		{-ENOENT, EX_NOINPUT},
		{-ENOSPC, EX_CANTCREAT},
		{-EIO, EX_IOERR},
		{-EACCES, EX_NOPERM},
		{-EMFILE, EX_OSERR},
		{-10001, EX_SOFTWARE},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ck_assert_int_eq(err_exit_status(cases[i].code), cases[i].status);
	ck_assert_str_eq(err_str(0), "success");
	ck_assert_str_eq(err_str(-ENOSPC), "No space left on device");
	ck_assert_str_eq(err_str(-4000), "unknown error");
	ck_assert_str_eq(err_str(ERR_PROTOCOL), "protocol error");
}
END_TEST

START_TEST(libraries_codes_stay_apart)
{
	static const struct {
		int (*code)(int result);
		const char *text;
	} cases[] = {{err_cuda, "a CUDA call failed"},
		     {err_nccl, "an NCCL call failed"},
		     {err_cublas, "a cuBLAS call failed"},
		     {err_cudnn, "a cuDNN call failed"}};
	static const int results[] = {1, 2, 719, 9999, 10000, 2147483647};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t j = 0; j < sizeof(results) / sizeof(results[0]); j++) {
			int code = cases[i].code(results[j]);

			ck_assert_int_lt(code, -10000);
			ck_assert_str_eq(err_str(code), cases[i].text);
			ck_assert_int_eq(err_exit_status(code), EX_SOFTWARE);
		}
	ck_assert_int_eq(err_cuda(700), -10700);
	ck_assert_str_eq(err_str(-10000), "unknown error");
	ck_assert_str_eq(err_str(-50000), "unknown error");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("err");
	TCase *tcase = tcase_create("err");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, context_goes_in_front);
	tcase_add_test(tcase, arguments_may_alias_the_text);
	tcase_add_test(tcase, long_texts_are_cut);
	tcase_add_test(tcase, no_err_costs_the_text_only);
	tcase_add_test(tcase, each_code_has_its_text_and_status);
	tcase_add_test(tcase, libraries_codes_stay_apart);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
