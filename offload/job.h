/*
 * What the launcher tells each worker, and what a worker reports back. Both are the launcher's and
 * the worker's only interface: no files, no environment but RANK, LOCAL_RANK, WORLD_SIZE and
 * LOCAL_WORLD_SIZE.
 */
#ifndef OFFLOAD_JOB_H
#define OFFLOAD_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/conf.h"
#include "common/err.h"
#include "offload/train_config.h"

/* A worker's file descriptors beside 0 (/dev/null), 1 and 2 (pipes to the agent). */
enum job_fd {
	JOB_FD_JOB = 3,    /* memfd: the text of struct job */
	JOB_FD_COMM = 4,   /* memfd of comm_shm_bytes(world); passed when world is 1 too */
	JOB_FD_REPORT = 5, /* pipe: reports, see below */
	JOB_FD_NEWS = 6,   /* pipe: comm/news.h; passed to every worker, read where NCCL is used */
};

struct job {
	const char *id;          /* printable, unique on this host */
	const char *config_name; /* as messages call it */
	const char *config_text;
	struct train_settled settled;
	uint64_t world;
	const char *socket;      /* the daemon's; NULL when the plan needs none */
	bool resume;             /* go on from the newest checkpoint */
	const char *export_path; /* weights as safetensors when done; NULL: none */
	uint64_t generate;       /* tokens to sample when done */
	const char *prompt;      /* what the sample begins with; NULL or "": a newline */
	/* Above 0: nothing is trained. The workers time passes of this job's model with so many
	 * blocks, all on the device, and the summary is {forward, pass, step}, in seconds. */
	uint64_t measure;
	/* The first and the last step to trace, counted from the first one of this run; 0: none. */
	uint64_t trace_first, trace_last;
};

/*
 * The job as JSON text, which the caller frees; NULL when memory ran out. Strings go through byte
 * by byte, whatever they hold; an empty one is as good as none.
 */
char *job_format(const struct job *job);

/* Back again; strings live as long as *ret_doc. */
int job_parse(const char *text, size_t len, struct job *ret, struct conf_doc **ret_doc,
	      struct err *err);

/* A report is this header and `bytes` of UTF-8 text without NUL, written at once. */
struct report_head {
	uint32_t type;
	uint32_t bytes;
};

#define REPORT_BYTES_MAX 65536u

enum report_type {
	REPORT_NOTE = 1, /* a line everybody should see: evaluation, checkpoint written, sample */
	REPORT_STEP,     /* a line for logs: every log.every steps */
	REPORT_LIVE,     /* the state of things for a terminal's live line: every step */
	REPORT_SUMMARY,  /* one JSON object: what goes into --summary; rank 0, once */
	REPORT_FAILURE,  /* why this rank is about to exit: one line */
	REPORT_COMM_ID,  /* what the ranks are to meet by, as comm_id_format has it; rank 0, once */
	REPORT_TRACE,    /* TRACE_OF_*, then lines of common/trace_text.h */
	REPORT_TYPE_COUNT,
};

/* The first line of a REPORT_TRACE: whose events follow. Its lanes and names are its own. */
#define TRACE_OF_WORKER "worker\n"
#define TRACE_OF_DAEMON "daemon\n"
/* What the main lane's event of a whole step is called; its unit is the step's number. */
#define TRACE_STEP "step"

/* Writes one report to fd, whole; -EMSGSIZE past REPORT_BYTES_MAX. Blocks on a full pipe. */
int report_write(int fd, enum report_type type, const char *text, struct err *err);

#endif
