/*
 * The CPU optimizer threads, shared by all sessions: each session is a client with a queue of its
 * own, and threads take from the queues in turn, one job each, so that a session with much to do
 * delays another by one job per thread at most.
 */
#ifndef DAEMON_POOL_H
#define DAEMON_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

#define POOL_THREADS_MAX 1024u

struct pool;

/* Caller's storage, off limits from submission until it was reaped. */
struct pool_job {
	struct pool_job *next;
	void (*run)(struct pool_job *job); /* on a pool thread */
	unsigned thread;                   /* while it runs: which of pool_threads */
};

struct pool_queue {
	struct pool_job *head, *tail;
};

/* A session's side; caller's storage. Its functions are called from the session's thread. */
struct pool_client {
	struct pool *pool;
	struct pool_client *next; /* in the circle of clients that have jobs; under pool's lock */
	bool waiting;             /* is in the circle */
	struct pool_queue todo, done;
	int event_fd; /* readable when something can be reaped */
};

/*
 * Starts `threads` threads, each bound to its share of the cores this process may use. Returns 0,
 * or a negative code with nothing left running.
 */
int pool_open(unsigned threads, struct pool **ret, struct err *err);

/* No job may be queued or running. NULL is fine. Returns NULL. */
struct pool *pool_free(struct pool *pool);

unsigned pool_threads(const struct pool *pool);

int pool_client_init(struct pool_client *client, struct pool *pool, struct err *err);

/* Every job submitted must have been reaped. Fine on a zeroed client that was never initialised. */
void pool_client_done(struct pool_client *client);

void pool_submit(struct pool_client *client, struct pool_job *job);

/* The jobs that have run, in the order they finished, linked by next; NULL when none. */
struct pool_job *pool_reap(struct pool_client *client);

#endif
