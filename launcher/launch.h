/* The job as dsrun tells it to an agent: what to start, with what, and how to end it. */
#ifndef LAUNCHER_LAUNCH_H
#define LAUNCHER_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/conf.h"
#include "common/err.h"
#include "offload/job.h"

enum launch_daemon {
	LAUNCH_DAEMON_NONE,    /* the plan needs none */
	LAUNCH_DAEMON_AUTO,    /* the one at `socket` when it answers, else a private one */
	LAUNCH_DAEMON_NAMED,   /* the one at `socket`, or no job */
	LAUNCH_DAEMON_PRIVATE, /* one for this job alone */
	LAUNCH_DAEMON_COUNT,
};

struct launch {
	struct job job; /* but its socket, which the agent decides */
	int daemon;     /* enum launch_daemon */
	const char *socket;
	uint64_t daemon_memory_bytes, daemon_threads; /* of a private daemon */
	struct conf_strings daemon_paths;
	const char *daemon_tuned; /* its file of figures, if one was named */
	const char *worker_path, *daemon_path;
	bool cuda;         /* workers' devices are GPUs */
	uint64_t grace_ns; /* between SIGTERM and SIGKILL, after a failure */
	int log_level, log_format;
};

/* Text of *ret_len bytes, which the caller frees; NULL when memory ran out. */
char *launch_format(const struct launch *launch, size_t *ret_len);

/* What a parsed launch points into. */
struct launch_docs {
	struct conf_doc *launch, *job;
};

/* Back again; everything lives as long as *ret_docs. ERR_PROTOCOL: not what launch_format wrote. */
int launch_parse(const char *text, size_t len, struct launch *ret, struct launch_docs *ret_docs,
		 struct err *err);
void launch_docs_done(struct launch_docs *docs);

#endif
