/* The file of --summary: one JSON object on the run, written whatever happened. */
#ifndef LAUNCHER_SUMMARY_H
#define LAUNCHER_SUMMARY_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "launcher/outcome.h"
#include "launcher/trace_table.h"

/* Of a job that was traced. */
struct summary_trace {
	const char *file;
	const struct trace_table *table;
};

/*
 * Writes it, atomically: how the job ended, `adds` ("KEY=VALUE": a number, true, false or else a
 * string), the trace's table (NULL: none), and the members of the worker's own summary that do not
 * say the same.
 */
int summary_write(const char *path, const struct outcome *outcome, const char *const *adds,
		  size_t add_count, const struct summary_trace *trace, struct err *err);

/*
 * A JSON object's next member, from *at, which begins behind the opening brace. Returns 1 with the
 * member's parts, 0 at the end of the object, or -EBADMSG for what is no JSON.
 */
struct summary_member {
	const char *key, *value;
	size_t key_len, value_len;
};
int summary_next(const char **at, const char *end, struct summary_member *ret);

/* Is this a member that dsrun itself writes? */
bool summary_is_reserved(const char *key, size_t len);

/* Is this text one JSON number? */
int summary_is_number(const char *text);

#endif
