/*
 * A worker's session, as the main thread sees it: started from a checked plan, asked for figures,
 * stopped when its socket closes, freed when its thread has ended. Everything here is called from
 * the main thread and does not block, but for session_free of a session that has not ended.
 *
 *	OPENING --> RUNNING --> ENDING --> ENDED
 *	    |          |           ^
 *	    |          +-> FAILED -+   (a transfer failed, or the peer broke the protocol)
 *	    +----------------------+   (could not be opened: the peer was told why)
 */
#ifndef DAEMON_SESSION_H
#define DAEMON_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/trace.h"
#include "daemon/pool.h"
#include "daemon/session_plan.h"

enum session_state {
	SESSION_OPENING,
	SESSION_RUNNING,
	SESSION_FAILED,
	SESSION_ENDING,
	SESSION_ENDED,
};

struct session;

struct session_config {
	struct session_plan *plan; /* taken on success */
	struct pool *pool;         /* borrowed until session_free, as are both descriptors */
	int socket_fd;             /* the session answers OPEN on it */
	int ended_fd;              /* eventfd: told when the session's thread is about to end */
	enum nvme_engine engine;
	const double *weights; /* of plan->open.paths, copied; NULL: the store finds out */
	const char *name;      /* copied: who, for messages: "job 'x' rank 0 (pid 1)" */
};

int session_start(const struct session_config *config, struct session **ret, struct err *err);

/*
 * Asks the session to end: what is in flight is waited for, nothing new is begun. To be repeated
 * now and then until it has ended: each call also frees its thread from a wake-up that the peer
 * made block.
 */
void session_stop(struct session *session);

bool session_ended(const struct session *session);

/* Stops, waits until it has ended, and frees it. NULL is fine. Returns NULL. */
struct session *session_free(struct session *session);

struct session_figures {
	enum session_state state;
	uint64_t memory_bytes, swap_bytes;
	uint64_t swap_read_bytes, swap_written_bytes;
	/* What FETCHes took from memory and so was not read; what was read ahead in vain. */
	uint64_t swap_handed_bytes, swap_dropped_bytes;
	uint64_t operations, stepped_elems;
	uint64_t adam_ns, io_wait_ns;
	const char *engine;                 /* "" without swap; static storage */
	uint64_t extent_bytes, queue_depth; /* as asked for; of no meaning without swap */
};

/* Its recorder, which the main thread switches and takes from; NULL: it is not traced. */
struct trace *session_recorder(const struct session *session);

void session_figures(const struct session *session, struct session_figures *ret);

const char *session_state_name(enum session_state state);

#endif
