/* The command line of dsrun. */
#ifndef LAUNCHER_OPTIONS_H
#define LAUNCHER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define OPTIONS_ADDS_MAX 64

struct options {
	const char *config; /* train.yaml */
	bool help, version, plan, json, check, resume, quiet;
	const char *summary, *export_path, *prompt, *tee, *daemon, *trace; /* NULL: not given */
	const char *adds[OPTIONS_ADDS_MAX];                                /* KEY=VALUE */
	size_t add_count;
	uint64_t generate, grace_ns, stop_timeout_ns;
	struct options_steps {
		uint64_t first, last; /* from 1 */
	} trace_steps;
	int log_level, log_format;
};

/* Strings stay argv's. ERR_USAGE. */
int options_parse(int argc, char *const *argv, struct options *ret, struct err *err);

extern const char options_usage[];

#endif
