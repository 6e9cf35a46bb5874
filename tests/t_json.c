/*
 * Goal: what comes out is JSON, whatever went in, or nothing when memory ran out.
 * Method: expected texts; doubles that must read back; the k-th realloc fails, for every k.
 */
#include "common/json.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"

#define SEED 5u

static int fail_at;
static bool fired;

void *__real_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size)
{
	if (fail_at && --fail_at == 0) {
		fired = true;
		return NULL;
	}
	return __real_realloc(p, size);
}

static void write_document(struct json *j)
{
	json_object_begin(j, NULL);
	json_string(j, "name", "a \"b\" \\ \n\t\x01\x7f \xc3\xa4");
	json_array_begin(j, "list");
	json_u64(j, NULL, UINT64_MAX);
	json_i64(j, NULL, INT64_MIN);
	json_bool(j, NULL, true);
	json_array_begin(j, NULL);
	json_array_end(j);
	json_object_begin(j, NULL);
	json_object_end(j);
	json_array_end(j);
	json_double(j, "pi", 3.141592653589793);
	json_double(j, "nan", NAN);
	json_double(j, "infinity", -INFINITY);
	json_bool(j, "no", false);
	json_raw(j, "raw", "[1,2]");
	json_object_end(j);
}

static const char document[] =
	"{\"name\":\"a \\\"b\\\" \\\\ \\n\\t\\u0001\\u007f \xc3\xa4\","
	"\"list\":[18446744073709551615,-9223372036854775808,true,[],{}],"
	"\"pi\":3.141592653589793,\"nan\":null,\"infinity\":null,\"no\":false,\"raw\":[1,2]}";

START_TEST(document_is_as_expected)
{
	struct json j;

	json_init(&j);
	ck_assert_ptr_null(json_text(&j));
	write_document(&j);
	ck_assert_str_eq(json_text(&j), document);
	ck_assert_uint_eq(j.depth, 0);
	json_done(&j);
}
END_TEST

START_TEST(bytes_that_are_no_text)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{"\xff", "\"\xef\xbf\xbd\""},
		{"\xc3", "\"\xef\xbf\xbd\""},
		{"\xc3z", "\"\xef\xbf\xbdz\""},
		{"\xc0\xaf", "\"\xef\xbf\xbd\xef\xbf\xbd\""},
		{"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
		{"\xf4\x90\x80\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
		{"\xe2\x82\xac \xf0\x9f\x9a\x80", "\"\xe2\x82\xac \xf0\x9f\x9a\x80\""},
		{"\xf0\x9f\x9a", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
	};
	struct json j;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_init(&j);
		json_string(&j, NULL, cases[i].in);
		ck_assert_str_eq(json_text(&j), cases[i].out);
		json_done(&j);
	}
}
END_TEST

START_TEST(doubles_read_back)
{
	static const struct {
		double value;
		const char *text;
	} cases[] = {
		{0, "0"},       {0.1, "0.1"},     {1e300, "1e+300"},
		{-2.5, "-2.5"}, {3e-4, "0.0003"}, {1.0 / 3, "0.3333333333333333"},
	};
	struct json j;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_init(&j);
		json_double(&j, NULL, cases[i].value);
		ck_assert_str_eq(json_text(&j), cases[i].text);
		json_done(&j);
	}
	for (uint64_t i = 0; i < 20000; i++) {
		uint64_t bits = rng_u64(SEED, 0, i);
		double value;

		memcpy(&value, &bits, sizeof(value));
		if (!isfinite(value))
			continue;
		json_init(&j);
		json_double(&j, NULL, value);
		ck_assert_msg(strtod(json_text(&j), NULL) == value, "%a (seed %u)", value, SEED);
		json_done(&j);
	}
}
END_TEST

START_TEST(no_memory_means_no_text)
{
	struct json j;
	int k = 0;

	do {
		fired = false;
		fail_at = ++k;
		json_init(&j);
		write_document(&j);
		fail_at = 0;
		if (fired)
			ck_assert_ptr_null(json_text(&j));
		else
			ck_assert_str_eq(json_text(&j), document);
		json_done(&j);
	} while (fired);
	ck_assert_int_gt(k, 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("json");
	TCase *tcase = tcase_create("json");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, document_is_as_expected);
	tcase_add_test(tcase, bytes_that_are_no_text);
	tcase_add_test(tcase, doubles_read_back);
	tcase_add_test(tcase, no_memory_means_no_text);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
