/*
 * A worker's session with dsoffloadd. One thread (the engine's) opens, prepares, waits and frees;
 * prepared operations may be pushed from any thread, so that a device's stream can send a gradient
 * off in its own order.
 */
#ifndef OFFLOAD_CLIENT_H
#define OFFLOAD_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "offload/protocol.h"

struct client;

struct client_config {
	const char *socket; /* path, or "@name" for the abstract namespace */
	const char *job;
	unsigned rank, world;
	/* head is filled in here; the tables are behind their own pointers */
	struct protocol_open open;
	const struct protocol_unit *units;
	const uint64_t *blobs;
};

/* ERR_UNAVAILABLE with the daemon's reason when it refuses or is not there. */
int client_open(const struct client_config *config, struct client **ret, struct err *err);
struct client *client_free(struct client *client);

void *client_arena(struct client *client, uint64_t *ret_bytes);
uint64_t client_data_offset(const struct client *client);
const struct protocol_opened *client_opened(const struct client *client);

/*
 * Takes an operation's id; waits for completions when all ids are in flight. The result of an
 * operation whose id was taken must be waited for once, which frees the id.
 */
int client_prepare(struct client *client, uint32_t *ret_id, struct err *err);

/* Sends submission->id's operation. Any thread. */
int client_push(struct client *client, const struct protocol_submission *submission,
		struct err *err);

/* prepare and push in one. */
int client_submit(struct client *client, struct protocol_submission *submission, uint32_t *ret_id,
		  struct err *err);

/*
 * Blocks until id completed; ret may be NULL. The daemon's death ends every wait with its reason.
 */
int client_wait(struct client *client, uint32_t id, struct protocol_completion *ret,
		struct err *err);

/* 1 complete (client_wait will not block), 0 not yet, negative as client_wait. */
int client_poll(struct client *client, uint32_t id, struct err *err);

int client_stats(struct client *client, struct protocol_stats *ret, struct err *err);

/*
 * In a session opened with PROTOCOL_OPEN_TRACE: the daemon goes on recording, or stops, and what it
 * has recorded is handed to fn, piece by piece: whole lines with a NUL behind them, the daemon's
 * word. A negative return of fn ends the handing over, not the session, and is returned.
 */
typedef int client_trace_fn(void *ctx, const char *text, struct err *err);
int client_trace(struct client *client, bool record, client_trace_fn *fn, void *ctx,
		 struct err *err);

/*
 * What `dsctl` asks: connects, queries, returns the JSON text, which the caller frees.
 */
int client_query(const char *socket, enum protocol_query_what what, char **ret_text,
		 struct err *err);

/* Does a daemon answer at this socket? 1, or 0 with the reason in err. */
int client_probe(const char *socket, struct err *err);

#endif
