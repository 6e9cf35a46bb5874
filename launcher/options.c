/*
 * The command line: one table of options, from which parsing, "did you mean" and the checks of
 * what goes together work. Written by hand because getopt_long accepts abbreviations, which turn
 * into other options when new ones come.
 */
#include "launcher/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/conf.h"
#include "common/log.h"
#include "common/units.h"
#include "launcher/summary.h"

const char options_usage[] =
	"usage: dsrun [options] train.yaml\n"
	"      --plan              what every tier would hold; starts nothing (--json: as JSON)\n"
	"  -n, --check             check the configuration; starts nothing\n"
	"      --resume            go on from the newest checkpoint\n"
	"      --summary FILE      write one JSON object about the run when it has ended\n"
	"      --summary-add K=V   add a member to it; may be given many times\n"
	"      --export FILE       write the weights as safetensors when done\n"
	"      --generate N        sample N tokens when done (--prompt TEXT: how it begins)\n"
	"      --trace FILE        record what ran when, as a Chrome trace, and print a table\n"
	"      --trace-steps STEPS which steps of this run: the first N, or A-B (1-20)\n"
	"      --tee DIR           also write each rank's output to DIR/rank-0000.out and .err\n"
	"      --daemon SOCKET     use this offload daemon; \"private\": one for this job\n"
	"      --grace TIME        from SIGTERM to SIGKILL after a failure (1s)\n"
	"      --stop-timeout TIME for the last step and checkpoint after ^C or SIGTERM (60s)\n"
	"      --log-level LEVEL   error, warn, info or debug (info)\n"
	"      --log-format FORMAT auto, text, json or journal (auto)\n"
	"  -q, --quiet             print failures only\n"
	"      --version           the version, and the optional parts that are built in\n"
	"  -h, --help              this text\n"
	"Exit status: 0 if every rank returned 0, else the first failure's. See dsrun(1).\n";

/* Enough for a steady state to show, and few enough for a file that opens at once. */
#define TRACE_STEPS_DEFAULT 20

enum option_kind {
	OPTION_FLAG,     /* bool */
	OPTION_TEXT,     /* const char * */
	OPTION_COUNT,    /* uint64_t */
	OPTION_DURATION, /* uint64_t nanoseconds */
	OPTION_LEVEL,    /* int, of level_names */
	OPTION_FORMAT,   /* int, of format_names */
	OPTION_ADD,      /* one more KEY=VALUE */
	OPTION_STEPS,    /* struct options_steps */
};

struct option {
	const char *name;
	char letter;
	enum option_kind kind;
	size_t offset;
};

#define AT(field) offsetof(struct options, field)

/* clang-format off */
static const struct option options[] = {
	{"--plan", 0, OPTION_FLAG, AT(plan)},
	{"--json", 0, OPTION_FLAG, AT(json)},
	{"--check", 'n', OPTION_FLAG, AT(check)},
	{"--resume", 0, OPTION_FLAG, AT(resume)},
	{"--summary", 0, OPTION_TEXT, AT(summary)},
	{"--summary-add", 0, OPTION_ADD, AT(adds)},
	{"--export", 0, OPTION_TEXT, AT(export_path)},
	{"--generate", 0, OPTION_COUNT, AT(generate)},
	{"--prompt", 0, OPTION_TEXT, AT(prompt)},
	{"--trace", 0, OPTION_TEXT, AT(trace)},
	{"--trace-steps", 0, OPTION_STEPS, AT(trace_steps)},
	{"--tee", 0, OPTION_TEXT, AT(tee)},
	{"--daemon", 0, OPTION_TEXT, AT(daemon)},
	{"--grace", 0, OPTION_DURATION, AT(grace_ns)},
	{"--stop-timeout", 0, OPTION_DURATION, AT(stop_timeout_ns)},
	{"--log-level", 0, OPTION_LEVEL, AT(log_level)},
	{"--log-format", 0, OPTION_FORMAT, AT(log_format)},
	{"--quiet", 'q', OPTION_FLAG, AT(quiet)},
	{"--version", 0, OPTION_FLAG, AT(version)},
	{"--help", 'h', OPTION_FLAG, AT(help)},
};
/* clang-format on */

#define OPTION_TOTAL (sizeof(options) / sizeof(options[0]))

/* In the order of enum log_level and enum log_format. */
static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const char *const format_names[] = {"auto", "text", "json", "journal"};

static const struct option *find(const char *arg, size_t len)
{
	for (size_t i = 0; i < OPTION_TOTAL; i++) {
		if (strlen(options[i].name) == len && strncmp(options[i].name, arg, len) == 0)
			return &options[i];
		if (len == 2 && arg[0] == '-' && options[i].letter && arg[1] == options[i].letter)
			return &options[i];
	}
	return NULL;
}

static int unknown(const char *arg, size_t len, struct err *err)
{
	const char *names[OPTION_TOTAL];
	char word[64];

	for (size_t i = 0; i < OPTION_TOTAL; i++)
		names[i] = options[i].name;
	if (len >= sizeof(word))
		len = sizeof(word) - 1;
	memcpy(word, arg, len);
	word[len] = '\0';

	const char *near = conf_nearest(word, names, OPTION_TOTAL);
	if (near)
		return err_set(err, ERR_USAGE, "%s: unknown option (did you mean '%s'?)", word,
			       near);
	return err_set(err, ERR_USAGE, "%s: unknown option", word);
}

static int take_word(const struct option *option, const char *value, const char *const *words,
		     size_t count, int *ret, struct err *err)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(value, words[i]) == 0) {
			*ret = (int)i;
			return 0;
		}
	}
	return err_set(err, ERR_USAGE, "%s: '%s' is not one of %s, %s, %s, %s", option->name, value,
		       words[0], words[1], words[2], words[3]);
}

static int take_count(const struct option *option, const char *value, uint64_t *ret,
		      struct err *err)
{
	char *end;

	errno = 0;
	unsigned long long count = strtoull(value, &end, 10);
	if (value[0] < '0' || value[0] > '9' || *end || errno)
		return err_set(err, ERR_USAGE, "%s: '%s' is not a whole number", option->name,
			       value);
	*ret = count;
	return 0;
}

/* "20": the first twenty; "5-24": those. */
static int take_steps(const struct option *option, const char *value, struct options_steps *ret,
		      struct err *err)
{
	struct options_steps steps = {.first = 1};
	const char *last = value;
	char *end;

	errno = 0;
	steps.last = strtoull(value, &end, 10);
	if (*end == '-') {
		last = end + 1;
		steps.first = steps.last;
		steps.last = strtoull(last, &end, 10);
	}
	if (value[0] < '0' || value[0] > '9' || last[0] < '0' || last[0] > '9' || *end || errno ||
	    steps.first == 0 || steps.first > steps.last)
		return err_set(err, ERR_USAGE, "%s: '%s' is neither N nor A-B, steps from 1 on",
			       option->name, value);
	*ret = steps;
	return 0;
}

static int take_add(struct options *ret, const char *value, struct err *err)
{
	const char *equals = strchr(value, '=');

	if (!equals || equals == value)
		return err_set(err, ERR_USAGE, "--summary-add: '%s' is not KEY=VALUE", value);
	if (strcspn(value, "\"\\") < (size_t)(equals - value))
		return err_set(err, ERR_USAGE, "--summary-add: '%s': a key without quotes, please",
			       value);
	size_t key_len = (size_t)(equals - value);
	if (summary_is_reserved(value, key_len))
		return err_set(err, ERR_USAGE, "--summary-add: '%s': dsrun writes that itself",
			       value);
	for (size_t i = 0; i < ret->add_count; i++) {
		if (strncmp(ret->adds[i], value, key_len + 1) == 0)
			return err_set(err, ERR_USAGE, "--summary-add: '%s' and '%s'", ret->adds[i],
				       value);
	}
	if (ret->add_count == OPTIONS_ADDS_MAX)
		return err_set(err, ERR_USAGE, "--summary-add: more than %d", OPTIONS_ADDS_MAX);
	ret->adds[ret->add_count++] = value;
	return 0;
}

static int take_value(const struct option *option, const char *value, struct options *ret,
		      struct err *err)
{
	char *field = (char *)ret + option->offset;

	switch (option->kind) {
	case OPTION_FLAG:
		*(bool *)(void *)field = true;
		return 0;
	case OPTION_TEXT:
		if (!value[0])
			return err_set(err, ERR_USAGE, "%s: needs a value", option->name);
		*(const char **)(void *)field = value;
		return 0;
	case OPTION_COUNT:
		return take_count(option, value, (uint64_t *)(void *)field, err);
	case OPTION_DURATION:
		if (units_parse_duration(value, (uint64_t *)(void *)field) < 0)
			return err_set(err, ERR_USAGE,
				       "%s: '%s' is not a duration such as 500ms, 1s or 2m",
				       option->name, value);
		return 0;
	case OPTION_LEVEL:
		return take_word(option, value, level_names, 4, (int *)(void *)field, err);
	case OPTION_FORMAT:
		return take_word(option, value, format_names, 4, (int *)(void *)field, err);
	case OPTION_ADD:
		return take_add(ret, value, err);
	case OPTION_STEPS:
		return take_steps(option, value, (struct options_steps *)(void *)field, err);
	}
	return err_set(err, ERR_INTERNAL, "%s: no such kind of option", option->name);
}

/* What contradicts, or orders something that would not happen. */
static int check(const struct options *o, struct err *err)
{
	if (o->help || o->version)
		return 0;
	if (!o->config)
		return err_set(err, ERR_USAGE, "no configuration file given");
	if (o->plan && o->check)
		return err_set(err, ERR_USAGE, "--plan and --check do not go together");
	if (o->json && !o->plan)
		return err_set(err, ERR_USAGE, "--json goes with --plan only");
	if (o->prompt && !o->generate)
		return err_set(err, ERR_USAGE, "--prompt goes with --generate only");
	if (o->trace_steps.last && !o->trace)
		return err_set(err, ERR_USAGE, "--trace-steps goes with --trace only");
	if (o->add_count && !o->summary)
		return err_set(err, ERR_USAGE, "--summary-add goes with --summary only");
	return 0;
}

/* argv[*i], an option, with its value, here or in the next argument. */
static int take_option(int argc, char *const *argv, int *i, struct options *ret, struct err *err)
{
	const char *arg = argv[*i];
	const char *equals = strncmp(arg, "--", 2) == 0 ? strchr(arg, '=') : NULL;
	size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
	const struct option *option = find(arg, len);
	const char *value = equals ? equals + 1 : NULL;

	if (!option)
		return unknown(arg, len, err);
	if (option->kind == OPTION_FLAG && value)
		return err_set(err, ERR_USAGE, "%s: takes no value", option->name);
	if (option->kind != OPTION_FLAG && !value) {
		if (*i + 1 >= argc)
			return err_set(err, ERR_USAGE, "%s: needs a value", option->name);
		value = argv[++*i];
	}
	return take_value(option, value, ret, err);
}

int options_parse(int argc, char *const *argv, struct options *ret, struct err *err)
{
	bool only_names = false;

	*ret = (struct options){
		.grace_ns = 1000000000ull,
		.stop_timeout_ns = 60000000000ull,
		.log_level = LOG_LEVEL_INFO,
		.log_format = LOG_FORMAT_AUTO,
	};
	for (int i = 1; i < argc; i++) {
		if (!only_names && strcmp(argv[i], "--") == 0) {
			only_names = true;
		} else if (!only_names && argv[i][0] == '-' && argv[i][1]) {
			int rc = take_option(argc, argv, &i, ret, err);

			if (rc < 0)
				return rc;
		} else if (ret->config) {
			return err_set(err, ERR_USAGE,
				       "'%s': one configuration file only, and '%s' was given",
				       argv[i], ret->config);
		} else {
			ret->config = argv[i];
		}
	}
	int rc = check(ret, err);
	if (rc == 0 && ret->trace && !ret->trace_steps.last)
		ret->trace_steps = (struct options_steps){1, TRACE_STEPS_DEFAULT};
	return rc;
}
