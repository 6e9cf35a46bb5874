/*
 * Goal: a configuration is read exactly or refused with its place, its value and what was expected.
 * Method: a table of documents and the whole text of each refusal, over keys of every type.
 */
#include "common/conf.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"

struct job {
	char *name;
	uint64_t rank;
};

struct config {
	uint64_t layers, count, memory, wait_ns;
	double lr;
	bool on;
	char *dir;
	int type;
	struct conf_strings paths;
	struct conf_doubles betas, list;
	struct conf_items jobs;
	double place[3];
	struct {
		uint64_t stage;
		char *text;
	} zero;
};

#define AT(field) offsetof(struct config, field)

static const char *const types[] = {"adamw", "adam", "sgd", NULL};
static const char *const places[] = {"near", "far", "farther", NULL};

static const struct conf_key zero_keys[] = {
	{.name = "stage", .type = CONF_U64, .offset = AT(zero.stage), .required = true, .max = 3},
	{.name = "text", .type = CONF_STRING, .offset = AT(zero.text)},
	{.type = CONF_END},
};

static const struct conf_key job_keys[] = {
	{.name = "name",
	 .type = CONF_STRING,
	 .offset = offsetof(struct job, name),
	 .required = true},
	{.name = "rank", .type = CONF_U64, .offset = offsetof(struct job, rank)},
	{.type = CONF_END},
};

static const struct conf_key keys[] = {
	{.name = "layers",
	 .type = CONF_U64,
	 .offset = AT(layers),
	 .required = true,
	 .min = 1,
	 .max = 4096},
	{.name = "count", .type = CONF_U64, .offset = AT(count)},
	{.name = "memory", .type = CONF_BYTES, .offset = AT(memory), .min = 4096, .max = 0x1p40},
	{.name = "wait", .type = CONF_DURATION, .offset = AT(wait_ns), .min = 1e9, .max = 0x1p63},
	{.name = "lr", .type = CONF_DOUBLE, .offset = AT(lr), .max = 1},
	{.name = "on", .type = CONF_BOOL, .offset = AT(on)},
	{.name = "dir", .type = CONF_STRING, .offset = AT(dir)},
	{.name = "type", .type = CONF_ENUM, .offset = AT(type), .names = types},
	{.name = "paths", .type = CONF_STRINGS, .offset = AT(paths), .required = false},
	{.name = "betas", .type = CONF_DOUBLES, .offset = AT(betas), .count = 2, .max = 1},
	{.name = "list", .type = CONF_DOUBLES, .offset = AT(list)},
	{.name = "jobs",
	 .type = CONF_SECTIONS,
	 .offset = AT(jobs),
	 .keys = job_keys,
	 .item_bytes = sizeof(struct job)},
	{.name = "zero", .type = CONF_SECTION, .keys = zero_keys},
	{.name = "place", .type = CONF_SHARES, .offset = AT(place), .names = places},
	{.type = CONF_END},
};

static int parse(const char *text, struct config *c, struct conf_doc **doc, struct err *err)
{
	*c = (struct config){.lr = 0.5, .type = 1, .place = {0.25, 0.75}};
	return conf_parse("t.yaml", text, strlen(text), keys, c, doc, err);
}

START_TEST(everything_is_read)
{
	static const char *const forms[] = {
		"# comment\n"
		"layers: 12\ncount: 18446744073709551615\nmemory: 1.5GiB\nwait: 2m\nlr: 3e-4\n"
		"on: true\ndir: /a b/\xc3\xa4  # comment\ntype: sgd\npaths: [a, 'b', \"c\"]\n"
		"betas:\n  - 0.9\n  - .95\nlist: [-1, +2.5e3]\n"
		"jobs:\n- name: x\n- {name: y, rank: 4}\nzero:\n  stage: 3\n  text: '7'\n",
		"{\"layers\":12,\"count\":18446744073709551615,\"memory\":\"1.5GiB\","
		"\"wait\":\"2m\",\"lr\":0.0003,\"on\":true,\"dir\":\"/a b/\xc3\xa4\","
		"\"type\":\"sgd\","
		"\"paths\":[\"a\",\"b\",\"c\"],\"betas\":[0.9,0.95],\"list\":[-1,2500],"
		"\"jobs\":[{\"name\":\"x\"},{\"name\":\"y\",\"rank\":4}],"
		"\"zero\":{\"stage\":3,\"text\":\"7\"}}",
	};
	struct conf_doc *doc = NULL;
	struct err err = {0};
	struct config c;
	struct job *jobs;

	ck_assert_msg(parse(forms[_i], &c, &doc, &err) == 0, "%s", err.text);
	ck_assert_uint_eq(c.layers, 12);
	ck_assert_uint_eq(c.count, UINT64_MAX);
	ck_assert_uint_eq(c.memory, 3ull << 29);
	ck_assert_uint_eq(c.wait_ns, 120000000000ull);
	ck_assert(c.lr == 3e-4 && c.on);
	ck_assert_str_eq(c.dir, "/a b/\xc3\xa4");
	ck_assert_int_eq(c.type, 2);
	ck_assert_uint_eq(c.paths.count, 3);
	ck_assert_str_eq(c.paths.at[2], "c");
	ck_assert(c.betas.count == 2 && c.betas.at[0] == 0.9 && c.betas.at[1] == 0.95);
	ck_assert(c.list.count == 2 && c.list.at[0] == -1 && c.list.at[1] == 2500);
	ck_assert_uint_eq(c.jobs.count, 2);
	jobs = c.jobs.at;
	ck_assert_str_eq(jobs[0].name, "x");
	ck_assert_str_eq(jobs[1].name, "y");
	ck_assert(jobs[0].rank == 0 && jobs[1].rank == 4);
	ck_assert_uint_eq(c.zero.stage, 3);
	ck_assert_str_eq(c.zero.text, "7");
	ck_assert(conf_has(doc, "zero.text") && conf_has(doc, "zero") && conf_has(doc, "jobs[1]"));
	ck_assert(conf_has(doc, "jobs[1].rank") && !conf_has(doc, "jobs[0].rank"));
	ck_assert_ptr_null(conf_free(doc));
}
END_TEST

START_TEST(defaults_stay)
{
	struct conf_doc *doc = NULL;
	struct err err = {0};
	struct config c;

	ck_assert_int_eq(parse("layers: 1\npaths: one\n", &c, &doc, &err), 0);
	ck_assert(c.lr == 0.5 && c.type == 1 && !c.dir && c.jobs.count == 0);
	ck_assert_uint_eq(c.paths.count, 1);
	ck_assert_str_eq(c.paths.at[0], "one");
	ck_assert(conf_has(doc, "layers") && !conf_has(doc, "lr") && !conf_has(doc, "zero"));
	conf_free(doc);
	ck_assert_int_eq(parse("layers: 1\npaths: []\n", &c, &doc, &err), 0);
	ck_assert_uint_eq(c.paths.count, 0);
	conf_free(doc);
	conf_free(NULL);
}
END_TEST

/* Keys that may be auto. */
struct choices {
	uint64_t count, memory;
	double place[3];
};

static const struct conf_key choice_keys[] = {
	{.name = "count",
	 .type = CONF_U64,
	 .offset = offsetof(struct choices, count),
	 .automatic = true,
	 .min = 1,
	 .max = 64},
	{.name = "memory",
	 .type = CONF_BYTES,
	 .offset = offsetof(struct choices, memory),
	 .automatic = true,
	 .max = 0x1p40},
	{.name = "place",
	 .type = CONF_SHARES,
	 .offset = offsetof(struct choices, place),
	 .automatic = true,
	 .names = places},
	{.type = CONF_END},
};

static int parse_choices(const char *text, struct choices *ret, struct err *err)
{
	struct conf_doc *doc;
	int rc;

	*ret = (struct choices){.place = {0.25, 0.75}};
	rc = conf_parse("t.yaml", text, strlen(text), choice_keys, ret, &doc, err);
	if (rc == 0)
		conf_free(doc);
	return rc;
}

START_TEST(auto_where_a_key_allows_it)
{
	static const char *const wrong[][2] = {
		{"count: autom", "1:8: count: 'autom' is not a whole number, or auto"},
		{"count: 65", "1:8: count: 65 is out of range (1..64)"},
		{"memory: car", "memory: 'car' is not a size (such as 512MiB, 1.5GiB or 4096), or "
				"auto"},
		{"place: aut", "is not one of near, far, farther, auto (did you mean 'auto'?)"},
		{"place: {auto: 1}", "place.auto: unknown key"},
	};
	struct choices c;
	struct err err = {0};

	ck_assert_int_eq(parse_choices("count: auto\nmemory: auto\nplace: auto", &c, &err), 0);
	ck_assert(c.count == CONF_AUTO && c.memory == CONF_AUTO);
	ck_assert(c.place[0] == CONF_SHARES_AUTO && c.place[1] == 0 && c.place[2] == 0);
	ck_assert_int_eq(parse_choices("count: 3\nmemory: 1KiB\nplace: far", &c, &err), 0);
	ck_assert(c.count == 3 && c.memory == 1024 && c.place[1] == 1);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		ck_assert_int_eq(parse_choices(wrong[i][0], &c, &err), ERR_CONFIG);
		ck_assert_msg(strstr(err.text, wrong[i][1]), "%s", err.text);
	}
}
END_TEST

START_TEST(errors_after_reading_name_the_place)
{
	struct conf_doc *doc = NULL;
	struct err err = {0};
	struct config c;

	ck_assert_int_eq(parse("layers: 1\nzero:\n  stage: 2\njobs:\n - name: a\n", &c, &doc, &err),
			 0);
	ck_assert_int_eq(conf_error(doc, "zero.stage", &err, "%d is too many", 2), ERR_CONFIG);
	ck_assert_str_eq(err.text, "t.yaml:3:10: zero.stage: 2 is too many");
	conf_error(doc, "zero.text", &err, "is needed");
	ck_assert_str_eq(err.text, "t.yaml:3:3: zero.text: is needed");
	conf_error(doc, "lr", &err, "is needed");
	ck_assert_str_eq(err.text, "t.yaml:1:1: lr: is needed");
	conf_error(doc, "jobs[0].rank", &err, "is needed");
	ck_assert_str_eq(err.text, "t.yaml:5:4: jobs[0].rank: is needed");
	conf_free(doc);
}
END_TEST

static const struct {
	const char *text;
	double place[3];
} shared[] = {
	{"near", {1, 0, 0}},
	{"farther", {0, 0, 1}},
	{"'far'", {0, 1, 0}},
	{"{far: 1}", {0, 1, 0}},
	{"{near: 1}", {1, 0, 0}},
	{"{far: 0.5, near: 0.5}", {0.5, 0.5, 0}},
	{"{near: 0, far: 0.9, farther: 0.1}", {0, 0.9, 0.1}},
	{"{far: 1.0, farther: 0}", {0, 1, 0}},
	{"{farther: 0.25}", {0.75, 0, 0.25}},
	{"{farther: 0.25, far: 0.5}", {0.25, 0.5, 0.25}},
	/* Tenths add up to 1 only nearly; what is missing is nobody's. */
	{"{far: 0.9, farther: 0.1}", {0, 0.9, 0.1}},
	{"{far: 0.7, farther: 0.3}", {0, 0.7, 0.3}},
	{"\n  far: 0.5\n  farther: .5", {0, 0.5, 0.5}},
	{"{\"far\": 5e-1}", {0.5, 0.5, 0}},
};

START_TEST(shares_are_read)
{
	struct conf_doc *doc = NULL;
	struct err err = {0};
	struct config c;
	char text[200];

	snprintf(text, sizeof(text), "layers: 1\nplace: %s\n", shared[_i].text);
	ck_assert_msg(parse(text, &c, &doc, &err) == 0, "%s", err.text);
	for (size_t i = 0; i < 3; i++)
		ck_assert_msg(c.place[i] == shared[_i].place[i], "%s: %g", text, c.place[i]);
	ck_assert(conf_has(doc, "place"));
	/* A message about one share stands at it, or where it would be. */
	conf_error(doc, "place.far", &err, "is too far");
	if (strstr(text, "{far: 0.9"))
		ck_assert_str_eq(err.text, "t.yaml:2:14: place.far: is too far");
	if (!strchr(text, '{') && !strstr(text, "\n  "))
		ck_assert_str_eq(err.text, "t.yaml:2:8: place.far: is too far");
	conf_free(doc);
	ck_assert_int_eq(parse("layers: 1\n", &c, &doc, &err), 0);
	ck_assert(c.place[0] == 0.25 && c.place[1] == 0.75 && c.place[2] == 0);
	conf_free(doc);
}
END_TEST

static const struct {
	const char *text, *message; /* behind "t.yaml:" */
} refused[] = {
	/* keys */
	{"layers: 1\nzero:\n  stge: 2", "3:3: zero.stge: unknown key (did you mean 'stage'?)"},
	{"laeyrs: 1", "1:1: laeyrs: unknown key (did you mean 'layers'?)"},
	{"layers: 1\nstage: 3", "2:1: stage: unknown key (did you mean 'zero.stage'?)"},
	{"layers: 1\nzero: {nonsense: 3}",
	 "2:8: zero.nonsense: unknown key (known here: stage, text)"},
	{"layers: 1\nLayers: 2", "2:1: Layers: unknown key (did you mean 'layers'?)"},
	{"layers: 1\n? [a]\n: 2", "2:3: expected a key, found a list"},
	{"layers: 1\n<<: {lr: 1}",
	 "2:1: <<: unknown key (known here: layers, count, memory, wait, lr, on, dir, "
	 "type, paths, betas, list, jobs, zero, place)"},
	{"layers: 1\nlr: 1\nlr: 0.5", "3:1: lr: given twice (first at line 2)"},
	{"layers: 1\nzero: {stage: 1}\nzero: {stage: 1}",
	 "3:1: zero: given twice (first at line 2)"},
	{"lr: 1", "1:1: layers: missing"},
	{"layers: 1\nzero: {}", "2:7: zero.stage: missing"},
	{"layers: 1\njobs: [{name: a}, {rank: 1}]", "2:19: jobs[1].name: missing"},
	{"layers: 1\njobs: [{nmae: a}]", "2:9: jobs[0].nmae: unknown key (did you mean 'name'?)"},
	{"layers: 1\n\"a\\0b\": 2", "2:1: the text holds a NUL"},
	/* kinds */
	{"", "1:1: the file is empty"},
	{"# only a comment\n", "2:1: the file is empty"},
	{"---\n", "2:1: expected a mapping, found nothing"},
	{"just text", "1:1: expected a mapping, found 'just text'"},
	{"- layers", "1:1: expected a mapping, found a list"},
	{"layers: 1\nzero: [3]", "2:7: zero: expected a mapping, found a list"},
	{"layers: 1\nzero: 3", "2:7: zero: expected a mapping, found '3'"},
	{"layers: 1\nzero:", "2:6: zero: expected a mapping, found nothing"},
	{"layers: [1]", "1:9: layers: expected a whole number, found a list"},
	{"layers: {a: 1}", "1:9: layers: expected a whole number, found a mapping"},
	{"layers: 1\npaths: {a: 1}",
	 "2:8: paths: expected text or a list of texts, found a mapping"},
	{"layers: 1\npaths: [a, [b]]", "2:12: paths[1]: expected text, found a list"},
	{"layers: 1\nbetas: 0.9", "2:8: betas: expected a list of numbers, found '0.9'"},
	{"layers: 1\njobs: {name: a}", "2:7: jobs: expected a list of mappings, found a mapping"},
	{"layers: 1\njobs: [a]", "2:8: jobs[0]: expected a mapping, found 'a'"},
	{"layers:\n", "1:8: layers: no value given, expected a whole number"},
	{"layers: ~", "1:9: layers: no value given, expected a whole number"},
	{"layers: 1\ndir: null", "2:6: dir: no value given, expected text"},
	{"layers: 1\ndir: ''", "2:6: dir: the text is empty"},
	{"layers: 1\ndir: \"a\\tb\"", "2:6: dir: a control character inside"},
	{"layers: 1\ndir: |\n  a\n  b\n", "2:6: dir: a control character inside"},
	{"layers: 1\ndir: \"a\\0b\"", "2:6: dir: the text holds a NUL"},
	/* whole numbers */
	{"layers: four", "1:9: layers: 'four' is not a whole number"},
	{"layers: 0", "1:9: layers: 0 is out of range (1..4096)"},
	{"layers: 4097", "1:9: layers: 4097 is out of range (1..4096)"},
	{"layers: -1", "1:9: layers: -1 is out of range (1..4096)"},
	{"layers: 1\ncount: -1", "2:8: count: -1 is out of range (at least 0)"},
	{"layers: 1.5", "1:9: layers: '1.5' is not a whole number"},
	{"layers: 1e3", "1:9: layers: '1e3' is not a whole number"},
	{"layers: 0x10", "1:9: layers: '0x10' is not a whole number"},
	{"layers: 010", "1:9: layers: '010' is not a whole number without leading zeros"},
	{"layers: 1_000", "1:9: layers: '1_000' is not a whole number"},
	{"layers: '4'", "1:9: layers: '4' is not a whole number: it is quoted"},
	{"layers: 1\ncount: 18446744073709551616",
	 "2:8: count: '18446744073709551616' is not a number that fits in 64 bits"},
	{"layers: 1\nzero: {stage: 4}", "2:15: zero.stage: 4 is out of range (0..3)"},
	/* numbers */
	{"layers: 1\nlr: fast", "2:5: lr: 'fast' is not a number"},
	{"layers: 1\nlr: .nan", "2:5: lr: '.nan' is not a number"},
	{"layers: 1\nlr: inf", "2:5: lr: 'inf' is not a number"},
	{"layers: 1\nlr: 0x1p3", "2:5: lr: '0x1p3' is not a number"},
	{"layers: 1\nlr: 1e", "2:5: lr: '1e' is not a number"},
	{"layers: 1\nlr: 1,5", "2:5: lr: '1,5' is not a number"},
	{"layers: 1\nlr: .", "2:5: lr: '.' is not a number"},
	{"layers: 1\nlr: \"0.5\"", "2:5: lr: '0.5' is not a number: it is quoted"},
	{"layers: 1\nlr: 1.5", "2:5: lr: 1.5 is out of range (0..1)"},
	{"layers: 1\nlr: -1e-9", "2:5: lr: -1e-9 is out of range (0..1)"},
	{"layers: 1\nlr: 1e999", "2:5: lr: '1e999' is not a number that a double can hold"},
	{"layers: 1\nbetas: [0.9]", "2:8: betas: expected 2 entries, found 1"},
	{"layers: 1\nbetas: [0.9, 0.9, 0.9]", "2:19: betas: more than 2 entries"},
	{"layers: 1\nbetas: [0.9, two]", "2:14: betas[1]: 'two' is not a number"},
	{"layers: 1\nbetas: [0.9, 2]", "2:14: betas[1]: 2 is out of range (0..1)"},
	{"layers: 1\nbetas: [0.9,]", "2:8: betas: expected 2 entries, found 1"},
	{"layers: 1\nlist: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]",
	 "2:47: list: more than 16 entries"},
	/* the rest */
	{"layers: 1\non: yes", "2:5: on: 'yes' is not true or false"},
	{"layers: 1\non: True", "2:5: on: 'True' is not true or false"},
	{"layers: 1\non: 'true'", "2:5: on: 'true' is not true or false"},
	{"layers: 1\nmemory: 4M",
	 "2:9: memory: '4M' is not a size (such as 512MiB, 1.5GiB or 4096)"},
	{"layers: 1\nmemory: 1KiB", "2:9: memory: 1KiB is out of range (4KiB..1TiB)"},
	{"layers: 1\nmemory: 99EiB", "2:9: memory: '99EiB' is not a size below 2^64 bytes"},
	{"layers: 1\nwait: 5", "2:7: wait: '5' is not a duration (such as 250ms, 5s or 2m)"},
	{"layers: 1\nwait: 5ms", "2:7: wait: 5ms is out of range (at least 1.0s)"},
	{"layers: 1\ntype: admw",
	 "2:7: type: 'admw' is not one of adamw, adam, sgd (did you mean 'adamw'?)"},
	{"layers: 1\ntype: lion", "2:7: type: 'lion' is not one of adamw, adam, sgd"},
	{"layers: aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee123456789\xc3\xa4z",
	 "1:9: layers: 'aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee123456789...' is not a "
	 "whole number"},
	/* shares */
	{"layers: 1\nplace: fra",
	 "2:8: place: 'fra' is not one of near, far, farther (did you mean "
	 "'far'?)"},
	{"layers: 1\nplace: 0.5", "2:8: place: '0.5' is not one of near, far, farther"},
	{"layers: 1\nplace: [far]",
	 "2:8: place: expected a word or a mapping of shares, found a list"},
	{"layers: 1\nplace:", "2:7: place: no value given, expected a word"},
	{"layers: 1\nplace: {far: 0.5, farthr: 0.5}",
	 "2:19: place.farthr: unknown key (did you mean 'farther'?)"},
	{"layers: 1\nplace: {near: 0.3, far: 0.5}",
	 "2:8: place: the shares add up to 0.8, expected 1"},
	{"layers: 1\nplace: {near: 0.6, far: 0.5}",
	 "2:8: place: the shares add up to 1.1, expected 1"},
	{"layers: 1\nplace: {near: 0}", "2:8: place: the shares add up to 0, expected 1"},
	{"layers: 1\nplace: {far: 0.5, far: 0.4}",
	 "2:19: place.far: given twice (first at line 2)"},
	{"layers: 1\nplace: far\nplace: {far: 0.5}", "3:1: place: given twice (first at line 2)"},
	{"layers: 1\nplace: {far: half}", "2:14: place.far: 'half' is not a number"},
	{"layers: 1\nplace: {far: '0.5'}", "2:14: place.far: '0.5' is not a number: it is quoted"},
	{"layers: 1\nplace: {far: .nan}", "2:14: place.far: '.nan' is not a number"},
	{"layers: 1\nplace: {far: .inf}", "2:14: place.far: '.inf' is not a number"},
	{"layers: 1\nplace: {far: -0.1}", "2:14: place.far: -0.1 is out of range (0..1)"},
	{"layers: 1\nplace:\n  far: 1.1", "3:8: place.far: 1.1 is out of range (0..1)"},
	{"layers: 1\nplace: {far: [0.5]}", "2:14: place.far: expected a number, found a list"},
	{"layers: 1\nplace: {far: }", "2:14: place.far: no value given, expected a number"},
	{"layers: 1\nplace: {far: 0.7, farther: 0.5}",
	 "2:8: place: the shares add up to 1.2, expected at most 1"},
	{"layers: 1\nplace: {}", "2:8: place: no share is above 0; for that, write 'near'"},
	{"layers: 1\nplace: {far: 0, farther: 0.0}",
	 "2:8: place: no share is above 0; for that, write 'near'"},
	{"layers: 1\nplace: &a {far: 1}", "2:8: place: anchors (&name) are not used here"},
	{"layers: 1\nplace: {far: *a}", "2:14: place.far: aliases (*name) are not used here"},
	/* YAML itself */
	{"layers: 1\n\tlr: 1", "2:1: a tab cannot stand here; indent with spaces"},
	{"layers: 1\nzero:\n\tstage: 1", "3:1: a tab cannot stand here; indent with spaces"},
	{"layers: 1\npaths: [a", "3:1: did not find expected ',' or ']' while parsing a flow "
				 "sequence (line 2)"},
	{"layers: 1\nlr: 'x", "2:7: found unexpected end of stream while scanning a quoted scalar "
			      "(line 2)"},
	{"layers: 1\non: true: 3", "2:9: mapping values are not allowed in this context"},
	{"layers: 1\n  lr: 1", "1:9: layers: '1 lr' is not a whole number"},
	{"layers: 1\nlr: @x",
	 "2:5: found character that cannot start any token while scanning for the "
	 "next token (line 2)"},
	{"layers: &a 1", "1:9: layers: anchors (&name) are not used here"},
	{"layers: 1\nzero: &a {stage: 1}", "2:7: zero: anchors (&name) are not used here"},
	{"layers: 1\nlr: *a", "2:5: lr: aliases (*name) are not used here"},
	{"layers: 1\nlr: !!float 1", "2:5: lr: tags (!name) are not used here"},
	{"layers: 1\npaths: !x [a]", "2:8: paths: tags (!name) are not used here"},
	{"%YAML 1.1\n---\nlayers: 1", "1:1: directives (%) are not used here"},
	{"layers: 1\n---\nlayers: 2", "2:1: a second document in the file"},
	{"layers: 1\n...\nlayers: 2", "3:1: did not find expected <document start>"},
	{"layers: 1\ndir: \xff", "2:6: byte 0xff is not text in UTF-8"},
	{"layers: 1\ndir: \xc3\xa4\xed\xa0\x80", "2:7: byte 0xed is not text in UTF-8"},
	{"layers: 1\ndir: a\x01", "2:7: byte 0x01 is not text in UTF-8"},
	{"layers: 1\ndir: \xef\xbf\xbe", "2:6: control characters are not allowed"},
};

START_TEST(refusals)
{
	struct conf_doc *doc = NULL;
	struct err err = {0};
	struct config c;
	int rc = parse(refused[_i].text, &c, &doc, &err);

	ck_assert_int_eq(rc, ERR_CONFIG);
	ck_assert_int_eq(err.code, ERR_CONFIG);
	ck_assert_ptr_null(doc);
	ck_assert_int_eq(strncmp(err.text, "t.yaml:", 7), 0);
	ck_assert_str_eq(err.text + 7, refused[_i].message);
}
END_TEST

START_TEST(nul_bytes_and_sizes)
{
	static char big[(1 << 20) + 2];
	struct conf_doc *doc = NULL;
	struct err err = {0};
	struct config c;

	ck_assert_int_eq(conf_parse("t", "layers: 1\n\0", 11, keys, &c, &doc, &err), ERR_CONFIG);
	ck_assert_str_eq(err.text, "t:2:1: byte 0x00 is not text in UTF-8");
	memset(big, '#', sizeof(big) - 1);
	ck_assert_int_eq(conf_parse("t", big, sizeof(big) - 1, keys, &c, &doc, &err), ERR_CONFIG);
	ck_assert_str_eq(err.text, "t:1:1: 1048577 bytes; a configuration has at most 1048576");
	memset(big, '[', sizeof(big) - 2);
	ck_assert_int_eq(conf_parse("t", big, 1 << 20, keys, &c, &doc, &err), ERR_CONFIG);
	ck_assert_str_eq(err.text, "t:1:1: expected a mapping, found a list");
	memcpy(big, "layers: ", 8);
	ck_assert_int_eq(conf_parse("t", big, 1 << 20, keys, &c, &doc, &err), ERR_CONFIG);
	ck_assert_str_eq(err.text, "t:1:9: layers: expected a whole number, found a list");
}
END_TEST

START_TEST(lists_have_an_end)
{
	struct conf_doc *doc = NULL;
	struct err err = {0};
	char text[2000];
	struct config c;
	int len;

	for (int count = CONF_LIST_MAX; count <= CONF_LIST_MAX + 1; count++) {
		len = snprintf(text, sizeof(text), "layers: 1\npaths: [");
		for (int i = 0; i < count; i++)
			len += snprintf(text + len, sizeof(text) - (size_t)len, "p, ");
		snprintf(text + len, sizeof(text) - (size_t)len, "]\n");
		if (count == CONF_LIST_MAX) {
			ck_assert_int_eq(parse(text, &c, &doc, &err), 0);
			ck_assert_uint_eq(c.paths.count, CONF_LIST_MAX);
			conf_free(doc);
		} else {
			ck_assert_int_eq(parse(text, &c, &doc, &err), ERR_CONFIG);
			ck_assert_str_eq(err.text, "t.yaml:2:777: paths: more than 256 entries");
		}
	}
}
END_TEST

START_TEST(files)
{
	const char *base = getenv("TMPDIR");
	struct conf_doc *doc = NULL;
	char path[PATH_MAX], expected[PATH_MAX + 100];
	struct err err = {0};
	struct config c = {0};
	static char big[(1 << 20) + 1];

	snprintf(path, sizeof(path), "%.1000s/t_conf.%d.yaml", base ? base : "/tmp", getpid());
	ck_assert_int_eq(conf_load(path, keys, &c, &doc, &err), ERR_NOINPUT);
	snprintf(expected, sizeof(expected), "%s: No such file or directory", path);
	ck_assert_str_eq(err.text, expected);
	ck_assert_int_eq(file_replace(path, "layers: 7\n", 10, &err), 0);
	ck_assert_int_eq(conf_load(path, keys, &c, &doc, &err), 0);
	ck_assert_uint_eq(c.layers, 7);
	conf_free(doc);
	ck_assert_int_eq(file_replace(path, "layers: x\n", 10, &err), 0);
	ck_assert_int_eq(conf_load(path, keys, &c, &doc, &err), ERR_CONFIG);
	snprintf(expected, sizeof(expected), "%s:1:9: layers: 'x' is not a whole number", path);
	ck_assert_str_eq(err.text, expected);
	ck_assert_int_eq(file_replace(path, big, sizeof(big), &err), 0);
	ck_assert_int_eq(conf_load(path, keys, &c, &doc, &err), ERR_CONFIG);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(conf_load("/", keys, &c, &doc, &err), ERR_NOINPUT);
}
END_TEST

START_TEST(nearest_words)
{
	static const char *const known[] = {"stage", "offload_param", "offload_optimizer",
					    "prefetch", "lr"};
	static const struct {
		const char *word, *near;
	} cases[] = {
		{"stge", "stage"},
		{"satge", "stage"},
		{"ofload_parm", "offload_param"},
		{"offload_params", "offload_param"},
		{"pre-fetch", "prefetch"},
		{"rl", "lr"},
		{"l", "lr"},
		{"x", NULL},
		{"batch", NULL},
		{"", NULL},
	};
	char word[200];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ck_assert_pstr_eq(conf_nearest(cases[i].word, known, 5), cases[i].near);
	memset(word, 's', sizeof(word) - 1);
	word[sizeof(word) - 1] = '\0';
	ck_assert_ptr_null(conf_nearest(word, known, 5));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("conf");
	TCase *tcase = tcase_create("conf");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tcase, everything_is_read, 0, 2);
	tcase_add_test(tcase, defaults_stay);
	tcase_add_loop_test(tcase, shares_are_read, 0, sizeof(shared) / sizeof(shared[0]));
	tcase_add_test(tcase, auto_where_a_key_allows_it);
	tcase_add_test(tcase, errors_after_reading_name_the_place);
	tcase_add_loop_test(tcase, refusals, 0, sizeof(refused) / sizeof(refused[0]));
	tcase_add_test(tcase, nul_bytes_and_sizes);
	tcase_add_test(tcase, lists_have_an_end);
	tcase_add_test(tcase, files);
	tcase_add_test(tcase, nearest_words);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
