/*
 * The front of the collectives. A call goes to a backend in one of two ways: as a host function on
 * the caller's stream, with a block of arguments (shm), or straight onto the device's native stream
 * (nccl).
 *
 * comm_* are called by the thread that enqueues on the stream (the worker's), run_call by the
 * stream's own thread.
 *
 * Invariants
 *  1. Blocks are used in turn. Block n is free again once `completed` has passed n, or when the
 *     stream has been waited for: after a failure the device skips calls, which then never say so.
 *  2. A world of one never asks a backend: its collectives are copies within the device.
 *  3. A call of nothing is no call: a backend sees sizes above 0 only. Ranks agree on sizes.
 *  4. Nothing is enqueued on a native stream once the device has failed.
 */
#include "comm/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Beyond the 256 items that the cpu device queues before it makes the caller wait. */
#define CALLS_MAX 512u

struct block {
	struct comm *comm;
	struct comm_call call;
};

struct comm {
	const struct comm_ops *ops; /* NULL in a world of one */
	void *state;
	unsigned world;
	uint64_t enqueued; /* by the enqueueing thread alone */
	_Atomic uint64_t completed;
	_Atomic uint64_t moved_bytes;
	struct block blocks[CALLS_MAX];
};

static const struct comm_ops *const backends[COMM_BACKEND_COUNT] = {
	[COMM_SHM] = &comm_shm_ops,
#ifdef COMM_HAVE_NCCL
	[COMM_NCCL] = &comm_nccl_ops,
#endif
};

static const char *const backend_names[COMM_BACKEND_COUNT] = {
	[COMM_SHM] = "shm",
	[COMM_NCCL] = "nccl",
};

/* As a trace shows them. */
static const char *const call_names[] = {
	[COMM_ALL_GATHER] = "all-gather",
	[COMM_REDUCE_SCATTER] = "reduce-scatter",
	[COMM_ALL_REDUCE] = "all-reduce",
	[COMM_BROADCAST] = "broadcast",
};

static void enqueue(struct comm *comm, struct device_stream *stream, const struct comm_call *call);

bool comm_backend_built(enum comm_backend backend)
{
	return backends[backend] != NULL;
}

size_t comm_used_bytes(enum comm_backend backend, unsigned world)
{
	return backend == COMM_NCCL ? COMM_ROLL_BYTES : comm_shm_bytes(world);
}

static int open_backend(struct comm *comm, const struct comm_config *config, struct err *err)
{
	assert(config->backend < COMM_BACKEND_COUNT);
	comm->ops = backends[config->backend];
	if (!comm->ops)
		return err_set(err, ERR_CONFIG, "this build has no %s collectives",
			       backend_names[config->backend]);
	return comm->ops->open(config, &comm->state, err);
}

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
	comm->world = config->world;
	if (config->world > 1) {
		rc = open_backend(comm, config, err);
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
	struct comm_call call = {.kind = COMM_ALL_GATHER, .out = whole, .in = part, .size = bytes};

	enqueue(comm, stream, &call);
}

void comm_reduce_scatter(struct comm *comm, struct device_stream *stream, enum dtype type,
			 void *part, const void *whole, size_t count)
{
	struct comm_call call = {
		.kind = COMM_REDUCE_SCATTER, .type = type, .out = part, .in = whole, .size = count};

	enqueue(comm, stream, &call);
}

void comm_all_reduce(struct comm *comm, struct device_stream *stream, enum dtype type, void *data,
		     size_t count)
{
	struct comm_call call = {.kind = COMM_ALL_REDUCE, .type = type, .out = data, .size = count};

	enqueue(comm, stream, &call);
}

void comm_broadcast(struct comm *comm, struct device_stream *stream, void *data, size_t bytes,
		    unsigned root)
{
	struct comm_call call = {.kind = COMM_BROADCAST, .out = data, .size = bytes, .root = root};

	enqueue(comm, stream, &call);
}

uint64_t comm_moved_bytes(const struct comm *comm)
{
	return atomic_load_explicit(&comm->moved_bytes, memory_order_relaxed);
}

/* Of the part, or of what is reduced whole: for the trace. */
static uint64_t call_bytes(const struct comm_call *call)
{
	bool reduced = call->kind == COMM_REDUCE_SCATTER || call->kind == COMM_ALL_REDUCE;

	return reduced ? call->size * dtype_bytes(call->type) : call->size;
}

static int run_call(void *arg, struct err *err)
{
	struct block *block = arg;
	struct comm *comm = block->comm;
	uint64_t moved = 0;
	int rc = comm->ops->run(comm->state, &block->call, &moved, err);

	atomic_fetch_add_explicit(&comm->moved_bytes, moved, memory_order_relaxed);
	/* C1: gives the block back, pairs with E1 in enqueue_host. */
	atomic_fetch_add_explicit(&comm->completed, 1, memory_order_release);
	return rc;
}

static void enqueue_host(struct comm *comm, struct device_stream *stream,
			 const struct comm_call *call)
{
	struct block *block = &comm->blocks[comm->enqueued % CALLS_MAX];
	struct err ignored; /* sticks to the device: the caller meets it where it waits */

	/* E1: pairs with C1 in run_call. */
	if (comm->enqueued - atomic_load_explicit(&comm->completed, memory_order_acquire) ==
	    CALLS_MAX) {
		(void)device_stream_sync(stream, &ignored);
		atomic_store_explicit(&comm->completed, comm->enqueued, memory_order_relaxed);
	}
	*block = (struct block){comm, *call};
	comm->enqueued++;
	device_stream_name(stream, call_names[call->kind], call_bytes(call));
	device_host(stream, run_call, block);
}

static void enqueue_native(struct comm *comm, struct device_stream *stream,
			   const struct comm_call *call)
{
	struct device *device = device_stream_device(stream);
	uint64_t moved = 0;
	struct err err = {0};

	if (!device_running(device))
		return;
	device_span_begin(stream, TRACE_BUSY, call_names[call->kind], call_bytes(call));
	if (comm->ops->enqueue(comm->state, stream, call, &moved, &err) < 0)
		device_fail(device, &err);
	device_span_end(stream);
	atomic_fetch_add_explicit(&comm->moved_bytes, moved, memory_order_relaxed);
}

/* One rank's part is the whole, and sums have one term. */
static void enqueue_alone(struct device_stream *stream, const struct comm_call *call)
{
	size_t elem = call->kind == COMM_REDUCE_SCATTER ? dtype_bytes(call->type) : 1;

	if (call->in && call->in != call->out)
		device_copy(stream, call->out, call->in, call->size * elem, DEVICE_COPY_WITHIN);
}

static void enqueue(struct comm *comm, struct device_stream *stream, const struct comm_call *call)
{
	struct err err = {0};

	if (call->root >= comm->world) {
		err_set(&err, -EINVAL, "a broadcast from rank %u in a world of %u", call->root,
			comm->world);
		device_fail(device_stream_device(stream), &err);
	} else if (call->size == 0) {
		return;
	} else if (!comm->ops) {
		enqueue_alone(stream, call);
	} else if (comm->ops->enqueue) {
		enqueue_native(comm, stream, call);
	} else {
		enqueue_host(comm, stream, call);
	}
}
