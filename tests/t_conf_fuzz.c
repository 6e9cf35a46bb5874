/*
 * Goal: no text makes the reader crash, hang, leak or give a message that is more than one line; no
 * lack of memory does either.
 * Method: a valid document is cut, doubled, and sown with bytes and YAML's own signs, from a fixed
 * seed; then the k-th allocation fails, for every k. Meant to run under AddressSanitizer, too.
 */
#include "common/conf.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"

#define SEED       17u
#define ROUNDS     20000u
#define TEXT_BYTES 2048u

static int fail_at;
static bool fired;

static bool failing(void)
{
	if (fail_at == 0 || --fail_at > 0)
		return false;
	fired = true;
	return true;
}

#define WRAP(name, params, args)                                                                   \
	void *__real_##name params;                                                                \
	void *__wrap_##name params;                                                                \
	void *__wrap_##name params                                                                 \
	{                                                                                          \
		return failing() ? NULL : __real_##name args;                                      \
	}

WRAP(malloc, (size_t size), (size))
WRAP(calloc, (size_t count, size_t size), (count, size))
WRAP(realloc, (void *p, size_t size), (p, size))
WRAP(reallocarray, (void *p, size_t count, size_t size), (p, count, size))

struct config {
	uint64_t number, bytes, time;
	double real;
	bool yes;
	char *string;
	int word;
	struct conf_strings strings;
	struct conf_doubles doubles;
	struct conf_items items;
	double shares[3];
};

struct item {
	char *name;
};

#define AT(field) offsetof(struct config, field)

static const char *const words[] = {"one", "two", NULL};
static const char *const parts[] = {"left", "middle", "right", NULL};

static const struct conf_key item_keys[] = {
	{.name = "name", .type = CONF_STRING, .offset = offsetof(struct item, name)},
	{.type = CONF_END},
};

static const struct conf_key inner[] = {
	{.name = "string", .type = CONF_STRING, .offset = AT(string)},
	{.name = "word", .type = CONF_ENUM, .offset = AT(word), .names = words},
	{.name = "strings", .type = CONF_STRINGS, .offset = AT(strings)},
	{.name = "doubles", .type = CONF_DOUBLES, .offset = AT(doubles)},
	{.type = CONF_END},
};

static const struct conf_key keys[] = {
	{.name = "number", .type = CONF_U64, .offset = AT(number), .max = 1e6},
	{.name = "bytes", .type = CONF_BYTES, .offset = AT(bytes)},
	{.name = "time", .type = CONF_DURATION, .offset = AT(time)},
	{.name = "real", .type = CONF_DOUBLE, .offset = AT(real)},
	{.name = "yes", .type = CONF_BOOL, .offset = AT(yes)},
	{.name = "inner", .type = CONF_SECTION, .keys = inner},
	{.name = "shares", .type = CONF_SHARES, .offset = AT(shares), .names = parts},
	{.name = "items",
	 .type = CONF_SECTIONS,
	 .offset = AT(items),
	 .keys = item_keys,
	 .item_bytes = sizeof(struct item)},
	{.type = CONF_END},
};

static const char valid[] = "# a document\n"
			    "number: 12\n"
			    "bytes: 1.5GiB\n"
			    "time: 250ms\n"
			    "real: 3e-4\n"
			    "yes: true\n"
			    "inner: {string: \"a\\u00e4\", word: two, strings: [a, 'b c'],\n"
			    "        doubles: [0.9, .95]}\n"
			    "shares: {middle: 0.5, right: 0.25}\n"
			    "items:\n"
			    "- name: x\n"
			    "- {name: y}\n";

static const char *const signs[] = {
	":",           ": ",
	"-",           "- ",
	"\n",          "\n  ",
	"\t",          "[",
	"]",           "{",
	"}",           ",",
	"#",           "&a ",
	"*a",          "!x ",
	"|\n",         ">\n",
	"'",           "\"",
	"%",           "@",
	"`",           "? ",
	"---\n",       "...\n",
	"<<: ",        "\\x00",
	"\xff",        "\xc3\xa4",
	"~",           "null",
	"\r",          "\xe2\x80\xa8",
	"0",           "99999999999999999999",
	"-",           "\x01",
	"number: 1\n", "inner: {a: b}\n",
};

static uint64_t draw(uint64_t round, uint64_t *step, uint64_t below)
{
	return rng_below(SEED, round, (*step)++, below);
}

/* Makes 1 to 4 changes to text; returns its new length. */
static size_t mutate(char text[TEXT_BYTES], size_t len, uint64_t round)
{
	uint64_t step = 0, changes = 1 + draw(round, &step, 4);
	char old[TEXT_BYTES];
	const char *sign;
	size_t at, n;

	while (changes-- > 0) {
		memcpy(old, text, len);
		at = draw(round, &step, len + 1);
		switch (draw(round, &step, 5)) {
		case 0: /* a byte */
			if (at < len)
				text[at] = (char)draw(round, &step, 256);
			break;
		case 1: /* cut out */
			n = draw(round, &step, len - at + 1);
			memmove(text + at, text + at + n, len - at - n);
			len -= n;
			break;
		case 2: /* put a piece of itself in */
			n = draw(round, &step, len - at + 1);
			if (len + n > TEXT_BYTES)
				break;
			memcpy(text + at + n, old + at, len - at);
			memcpy(text + at, old + draw(round, &step, len - n + 1), n);
			len += n;
			break;
		default: /* put a sign in */
			sign = signs[draw(round, &step, sizeof(signs) / sizeof(signs[0]))];
			n = strlen(sign);
			if (len + n > TEXT_BYTES)
				break;
			memcpy(text + at + n, old + at, len - at);
			memcpy(text + at, sign, n);
			len += n;
		}
	}
	return len;
}

START_TEST(mutations)
{
	unsigned read = 0, refused = 0, line, column;
	struct config c;
	struct conf_doc *doc;
	struct err err;
	size_t len;
	char *text;
	int rc;

	for (uint64_t round = 0; round < ROUNDS; round++) {
		char buf[TEXT_BYTES];

		memcpy(buf, valid, sizeof(valid) - 1);
		len = mutate(buf, sizeof(valid) - 1, round);
		/* Exactly as long, so that a look past the end is seen. */
		text = malloc(len ? len : 1);
		ck_assert_ptr_nonnull(text);
		memcpy(text, buf, len);
		memset(&c, 0, sizeof(c));
		doc = NULL;
		err = (struct err){0};
		rc = conf_parse("t", text, len, keys, &c, &doc, &err);
		free(text);
		if (rc == 0) {
			read++;
			conf_error(doc, "inner.strings", &err, "x");
			ck_assert(!c.string || (strlen(c.string) > 0 && strlen(c.string) <= len));
			for (size_t i = 0; i < c.strings.count; i++)
				ck_assert_uint_gt(strlen(c.strings.at[i]), 0);
			conf_free(doc);
			continue;
		}
		refused++;
		ck_assert_msg(rc == ERR_CONFIG && !doc && err.code == rc, "round %llu (seed %u)",
			      (unsigned long long)round, SEED);
		ck_assert_msg(sscanf(err.text, "t:%u:%u: ", &line, &column) == 2 && line && column,
			      "round %llu (seed %u): %s", (unsigned long long)round, SEED,
			      err.text);
		for (const char *p = err.text; *p; p++)
			ck_assert_msg((unsigned char)*p >= 0x20 && *p != 0x7f,
				      "round %llu (seed %u): %s", (unsigned long long)round, SEED,
				      err.text);
	}
	printf("%u read, %u refused\n", read, refused);
	ck_assert_uint_gt(read, ROUNDS / 50);
	ck_assert_uint_gt(refused, ROUNDS / 2);
}
END_TEST

START_TEST(no_memory)
{
	struct config c;
	struct conf_doc *doc;
	struct err err = {0};
	int rc, k = 0;

	do {
		memset(&c, 0, sizeof(c));
		doc = NULL;
		fired = false;
		fail_at = ++k;
		rc = conf_parse("t", valid, sizeof(valid) - 1, keys, &c, &doc, &err);
		fail_at = 0;
		ck_assert_int_eq(rc, fired ? -ENOMEM : 0);
		ck_assert_int_eq(!fired, doc != NULL);
		conf_free(doc);
	} while (fired);
	ck_assert_int_gt(k, 10);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("conf_fuzz");
	TCase *tcase = tcase_create("conf_fuzz");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, mutations);
	tcase_add_test(tcase, no_memory);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
