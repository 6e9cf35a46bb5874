/*
 * Export as safetensors.
 *
 * Method. A hand-made shape of two units is written and the file read back by this test's own
 * knowledge of the format: length, aligned JSON header, offsets that tile the data, the bytes of
 * each tensor without the units' padding. A failing read or an unwritable place leaves what was
 * there, and no temporary file. Loading in transformers is tests/reference's.
 */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "worker/safetensors.h"

static char dir[] = "/tmp/t_safetensors.XXXXXX";
static char path[64];
static struct err err;

static struct arch_tensor tensors[2][2] = {
	{{.name = "wte.weight", .rows = 3, .cols = 2, .count = 6},
	 {.name = "ln_f.bias", .cols = 2, .offset = 6, .count = 2}},
	{{.name = "h.0.attn.c_attn.weight", .rows = 2, .cols = 6, .count = 12},
	 {.name = "h.0.ln_1.bias", .cols = 5, .offset = 12, .count = 5}},
};
static struct arch_unit units[2] = {
	{.tensors = tensors[0], .tensor_count = 2, .elems = 8},
	{.tensors = tensors[1], .tensor_count = 2, .elems = 17},
};
static const struct arch arch = {.name = "test", .units = units, .unit_count = 2};

struct source {
	size_t fails_at; /* unit; 99: never */
	size_t calls;
	uint8_t data[2][256];
};

static int read_unit(void *ctx, size_t unit, const void **ret, struct err *e)
{
	struct source *s = ctx;

	ck_assert_uint_eq(unit, s->calls++);
	if (unit == s->fails_at)
		return err_set(e, ERR_UNAVAILABLE, "the daemon is gone");
	/* Padding behind the elements is 0xee. */
	memset(s->data[unit], 0xee, sizeof(s->data[unit]));
	for (size_t i = 0; i < units[unit].elems * 4; i++)
		s->data[unit][i] = (uint8_t)(unit * 100 + i);
	*ret = s->data[unit];
	return 0;
}

static size_t entries(void)
{
	DIR *d = opendir(dir);
	size_t n = 0;
	struct dirent *e;

	while ((e = readdir(d)))
		n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
	closedir(d);
	return n;
}

static uint64_t get_le(const uint8_t *at)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 8; i++)
		v |= (uint64_t)at[i] << 8 * i;
	return v;
}

static void check_file(enum dtype type, const char *header)
{
	struct source s = {.fails_at = 99};
	size_t len, elem = dtype_bytes(type);
	uint64_t header_len;
	char *text;

	ck_assert_msg(safetensors_write(path, &arch, type, read_unit, &s, &err) == 0, "%s",
		      err.text);
	ck_assert_int_eq(file_load(path, 65536, &text, &len, &err), 0);
	header_len = get_le((const uint8_t *)text);
	ck_assert_uint_eq(header_len % 8, 0);
	ck_assert_uint_eq(len, 8 + header_len + 25 * elem);
	ck_assert_msg(!strncmp(text + 8, header, strlen(header)), "%.*s", (int)header_len,
		      text + 8);
	for (uint64_t i = strlen(header); i < header_len; i++)
		ck_assert_int_eq(text[8 + i], ' ');
	ck_assert_int_eq(memcmp(text + 8 + header_len, s.data[0], 8 * elem), 0);
	ck_assert_int_eq(memcmp(text + 8 + header_len + 8 * elem, s.data[1], 17 * elem), 0);
	free(text);
	ck_assert_uint_eq(entries(), 1);
}

START_TEST(files_are_as_the_format_says)
{
	check_file(DTYPE_F32,
		   "{\"__metadata__\":{\"format\":\"pt\"},"
		   "\"transformer.wte.weight\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":"
		   "[0,24]},"
		   "\"transformer.ln_f.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":["
		   "24,32]},"
		   "\"transformer.h.0.attn.c_attn.weight\":{\"dtype\":\"F32\",\"shape\":[2,6],"
		   "\"data_offsets\":[32,80]},"
		   "\"transformer.h.0.ln_1.bias\":{\"dtype\":\"F32\",\"shape\":[5],"
		   "\"data_offsets\":[80,100]}}");
	check_file(DTYPE_BF16,
		   "{\"__metadata__\":{\"format\":\"pt\"},"
		   "\"transformer.wte.weight\":{\"dtype\":\"BF16\",\"shape\":[3,2],\"data_"
		   "offsets\":[0,12]},"
		   "\"transformer.ln_f.bias\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":["
		   "12,16]},"
		   "\"transformer.h.0.attn.c_attn.weight\":{\"dtype\":\"BF16\",\"shape\":[2,6],"
		   "\"data_offsets\":[16,40]},"
		   "\"transformer.h.0.ln_1.bias\":{\"dtype\":\"BF16\",\"shape\":[5],"
		   "\"data_offsets\":[40,50]}}");
}
END_TEST

START_TEST(a_failure_keeps_the_old_file)
{
	for (size_t fails_at = 0; fails_at < 2; fails_at++) {
		struct source s = {.fails_at = fails_at};
		char *text;
		size_t len;

		ck_assert_int_eq(file_replace(path, "old", 3, &err), 0);
		ck_assert_int_eq(safetensors_write(path, &arch, DTYPE_F32, read_unit, &s, &err),
				 ERR_UNAVAILABLE);
		ck_assert_str_eq(err.text, "the daemon is gone");
		ck_assert_int_eq(file_load(path, 100, &text, &len, &err), 0);
		ck_assert_str_eq(text, "old");
		free(text);
		ck_assert_uint_eq(entries(), 1);
	}
}
END_TEST

START_TEST(a_place_that_is_not_there)
{
	struct source s = {.fails_at = 99};

	ck_assert_int_eq(safetensors_write("/nonexistent/x", &arch, DTYPE_F32, read_unit, &s, &err),
			 ERR_CANTCREAT);
	ck_assert_msg(strstr(err.text, "/nonexistent/x"), "%s", err.text);
	/* A directory under the name. */
	ck_assert_int_eq(mkdir(path, 0777), 0);
	ck_assert_int_eq(safetensors_write(path, &arch, DTYPE_F32, read_unit, &s, &err),
			 ERR_CANTCREAT);
	ck_assert_uint_eq(entries(), 1);
	ck_assert_int_eq(rmdir(path), 0);
}
END_TEST

static void clean(void)
{
	unlink(path);
}

int main(void)
{
	Suite *suite = suite_create("safetensors");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	if (!mkdtemp(dir))
		return EXIT_FAILURE;
	snprintf(path, sizeof(path), "%s/a.safetensors", dir);
	tcase_add_checked_fixture(tc, clean, clean);
	tcase_add_test(tc, files_are_as_the_format_says);
	tcase_add_test(tc, a_failure_keeps_the_old_file);
	tcase_add_test(tc, a_place_that_is_not_there);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (file_remove_tree(dir, &err) < 0)
		fprintf(stderr, "%s\n", err.text);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
