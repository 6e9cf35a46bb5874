/* How a job ended: what supervision found out, and report and summary tell. */
#ifndef LAUNCHER_OUTCOME_H
#define LAUNCHER_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "launcher/lines.h"
#include "launcher/link.h"

enum outcome_status { OUTCOME_OK, OUTCOME_STOPPED, OUTCOME_FAILED };

enum outcome_who { OUTCOME_WORKER, OUTCOME_DAEMON, OUTCOME_AGENT, OUTCOME_LAUNCHER };

struct outcome {
	enum outcome_status status;
	int exit_status;
	int stop_signal; /* that dsrun got, SIGPIPE when standard output was closed; 0: none */
	bool stop_clean; /* every rank came to its end by itself */

	/* OUTCOME_FAILED: the first failure. */
	enum outcome_who who;
	unsigned rank;
	int code;                  /* the launcher's own error; 0: a process ended */
	struct link_exited exited; /* pid 0: it never ran, or its end was not seen */
	char host[LINK_HOST_BYTES], cores[LINK_SET_BYTES];
	char text[ERR_TEXT_BYTES]; /* what it said of its failure; "" */
	struct tail tail;          /* its last lines; borrowed from supervision */

	/* What came of it. */
	unsigned world, terminated, killed; /* other ranks that ended of our SIGTERM, SIGKILL */
	unsigned left;                      /* processes that could not be killed */
	uint64_t grace_ns, seconds_ns;      /* seconds_ns: how long the job took */
	char *summary;                      /* of rank 0's worker, JSON; NULL: none */
};

/* Words for how a process ended: "exited with status 3", "killed by SIGSEGV (core dumped)". */
void outcome_describe_end(const struct link_exited *exited, char *text, size_t bytes);

/* "SIGSEGV"; "signal 50" has no name. Caller's storage of 32 bytes. */
const char *outcome_signal_name(int sig, char text[32]);

/* The exit status that a process's end stands for. */
int outcome_end_status(const struct link_exited *exited);

/* The exit status of the whole, from the rest. */
int outcome_exit_status(const struct outcome *outcome);

/* The report for people, several lines; the caller frees it. NULL: memory ran out. */
char *outcome_report(const struct outcome *outcome);

struct json;
/* The failure as members of an object that is open in `json`. */
void outcome_json(const struct outcome *outcome, struct json *json);

#endif
