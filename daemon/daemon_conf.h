/* dsoffload.conf as a struct, with every default filled in. See dsoffload.conf(5). */
#ifndef DAEMON_DAEMON_CONF_H
#define DAEMON_DAEMON_CONF_H

#include <stdint.h>

#include "common/conf.h"
#include "common/err.h"
#include "offload/protocol.h"

#define DAEMON_SOCKET "/run/dsoffload/dsoffload.sock"

struct daemon_conf {
	const char *file; /* for messages; NULL when all are defaults */
	const char *socket;
	struct {
		uint64_t memory;  /* of all sessions together */
		uint64_t threads; /* of the pool; one a core unless the file says */
	} host;
	struct {
		struct conf_strings paths; /* none: sessions may use any directory */
		uint64_t quota;            /* of all sessions together; 0: what the disks hold */
		int engine;                /* enum nvme_engine */
		const char *tuned;         /* a file of figures; NULL: where they are */
	} nvme;
	struct {
		uint64_t max;
		uint64_t memory;        /* of one; at most host.memory */
		uint64_t swap;          /* of one; 0: no other bound than nvme.quota */
		uint64_t hello_timeout; /* ns */
	} session;
	struct {
		int level, format; /* enum log_level, log_format */
	} log;
	/* nvme.paths with symbolic links followed. */
	char real_paths[PROTOCOL_PATHS_MAX][PROTOCOL_PATH_BYTES];
};

/*
 * Reads `path`, or takes the defaults only when it is NULL. What *ret holds lives as long as
 * *ret_doc. ERR_CONFIG with file:line:column, ERR_NOINPUT when the file cannot be read.
 */
int daemon_conf_load(const char *path, struct daemon_conf *ret, struct conf_doc **ret_doc,
		     struct err *err);

#endif
