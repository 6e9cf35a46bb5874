/*
 * The front of the collectives: a call becomes a block of arguments and a host function on the
 * caller's stream, which hands it to the backend.
 *
 * comm_* are called by the thread that enqueues on the stream (the worker's), run_call by the
 * stream's own thread.
 *
 * Invariants
 *  1. Blocks are used in turn. Block n is free again once `completed` has passed n, or when the
 *     stream has been waited for: after a failure the device skips calls, which then never say so.
 *  2. A world of one never asks a backend: its collectives are copies.
 */
#include "comm/comm.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "comm/internal.h"

/* Beyond the 256 items that the cpu device queues before it makes the caller wait. */
#define CALLS_MAX 512u

enum call_kind {
	CALL_ALL_GATHER,
	CALL_REDUCE_SCATTER,
	CALL_ALL_REDUCE,
	CALL_BROADCAST,
	CALL_BARRIER
};

struct call {
	struct comm *comm;
	enum call_kind kind;
	unsigned root;
	void *out;
	const void *in;
	size_t size; /* bytes or elements, as the public function has it */
};

struct comm {
	const struct comm_ops *ops; /* NULL in a world of one */
	void *state;
	uint64_t enqueued; /* by the enqueueing thread alone */
	_Atomic uint64_t completed;
	_Atomic uint64_t moved_bytes;
	struct call calls[CALLS_MAX];
};

static const struct comm_ops *const backends[] = {
	[COMM_SHM] = &comm_shm_ops,
};

static void enqueue(struct comm *comm, struct device_stream *stream, const struct call *call);

int comm_open(const struct comm_config *config, struct comm **ret, struct err *err)
{
	struct comm *comm;
	int rc;

	if (config->world == 0 || config->world > COMM_WORLD_MAX || config->rank >= config->world)
		return err_set(err, -EINVAL,
			       "rank %u of %u is not a place in a world of at most %u",
			       config->rank, config->world, COMM_WORLD_MAX);
	comm = calloc(1, sizeof(*comm));
	if (!comm)
		return err_sys(err, -ENOMEM, "collectives");
	if (config->world > 1) {
		comm->ops = backends[config->backend];
		rc = comm->ops->open(config, &comm->state, err);
		if (rc < 0) {
			free(comm);
			return rc;
		}
	}
	*ret = comm;
	return 0;
}

struct comm *comm_free(struct comm *comm)
{
	if (comm && comm->ops)
		comm->ops->free(comm->state);
	free(comm);
	return NULL;
}

void comm_all_gather(struct comm *comm, struct device_stream *stream, void *whole, const void *part,
		     size_t bytes)
{
	struct call call = {.kind = CALL_ALL_GATHER, .out = whole, .in = part, .size = bytes};

	enqueue(comm, stream, &call);
}

void comm_reduce_scatter(struct comm *comm, struct device_stream *stream, float *part,
			 const float *whole, size_t count)
{
	struct call call = {.kind = CALL_REDUCE_SCATTER, .out = part, .in = whole, .size = count};

	enqueue(comm, stream, &call);
}

void comm_all_reduce(struct comm *comm, struct device_stream *stream, float *data, size_t count)
{
	struct call call = {.kind = CALL_ALL_REDUCE, .out = data, .size = count};

	enqueue(comm, stream, &call);
}

void comm_broadcast(struct comm *comm, struct device_stream *stream, void *data, size_t bytes,
		    unsigned root)
{
	struct call call = {.kind = CALL_BROADCAST, .out = data, .size = bytes, .root = root};

	enqueue(comm, stream, &call);
}

void comm_barrier(struct comm *comm, struct device_stream *stream)
{
	struct call call = {.kind = CALL_BARRIER};

	enqueue(comm, stream, &call);
}

uint64_t comm_moved_bytes(const struct comm *comm)
{
	return atomic_load_explicit(&comm->moved_bytes, memory_order_relaxed);
}

static int run_backend(const struct call *c, uint64_t *moved, struct err *err)
{
	const struct comm_ops *ops = c->comm->ops;
	void *state = c->comm->state;

	switch (c->kind) {
	case CALL_ALL_GATHER:
		return ops->all_gather(state, c->out, c->in, c->size, moved, err);
	case CALL_REDUCE_SCATTER:
		return ops->reduce_scatter(state, c->out, c->in, c->size, moved, err);
	case CALL_ALL_REDUCE:
		return ops->all_reduce(state, c->out, c->size, moved, err);
	case CALL_BROADCAST:
		return ops->broadcast(state, c->out, c->size, c->root, moved, err);
	case CALL_BARRIER:
		return ops->barrier(state, err);
	}
	return err_set(err, ERR_INTERNAL, "unknown collective %d", (int)c->kind);
}

/* One rank's part is the whole, and sums have one term. */
static void run_alone(const struct call *c)
{
	size_t bytes = c->kind == CALL_REDUCE_SCATTER ? c->size * sizeof(float) : c->size;

	if (c->in && c->in != c->out && bytes > 0)
		memcpy(c->out, c->in, bytes);
}

static int run_call(void *arg, struct err *err)
{
	struct call *c = arg;
	struct comm *comm = c->comm;
	uint64_t moved = 0;
	int rc = 0;

	if (comm->ops)
		rc = run_backend(c, &moved, err);
	else
		run_alone(c);
	atomic_fetch_add_explicit(&comm->moved_bytes, moved, memory_order_relaxed);
	/* C1: gives the block back, pairs with E1 in enqueue. */
	atomic_fetch_add_explicit(&comm->completed, 1, memory_order_release);
	return rc;
}

static void enqueue(struct comm *comm, struct device_stream *stream, const struct call *call)
{
	struct call *block = &comm->calls[comm->enqueued % CALLS_MAX];
	struct err ignored; /* sticks to the device: the caller meets it where it waits */

	/* E1: pairs with C1 in run_call. */
	if (comm->enqueued - atomic_load_explicit(&comm->completed, memory_order_acquire) ==
	    CALLS_MAX) {
		(void)device_stream_sync(stream, &ignored);
		atomic_store_explicit(&comm->completed, comm->enqueued, memory_order_relaxed);
	}
	*block = *call;
	block->comm = comm;
	comm->enqueued++;
	device_host(stream, run_call, block);
}
