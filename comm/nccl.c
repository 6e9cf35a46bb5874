/*
 * Collectives of cuda devices through NCCL, as kernels on the device's own stream.
 *
 * Called through comm.c by the worker's main thread: open, free, and enqueue, which returns when
 * the call is on the stream. A second thread watches (nccl_watch.c).
 *
 * The ranks meet by an id. Rank 0 makes it, in this process: NCCL listens there for the others. It
 * goes to the launcher through config->publish and comes to every rank, rank 0 too, as news. Who
 * has come to this host's part of the job is on the roll, so that a rank that does not is named.
 *
 * Invariants
 *  1. The communicator does not block: a call returns at once, saying "in progress" when there is
 *     more to do, and its state tells when that is done. So whoever waits here also hears of a
 *     peer's death, and the watcher gets the lock whenever it wants it.
 *  2. Nothing goes onto the stream behind a call that is in progress: it may not be there yet.
 *  3. A sum has the same bits however many of its elements a rank wants: comm_all_reduce is a
 *     reduce-scatter and an all-gather. NCCL's own all-reduce may take the terms in another order;
 *     it is used only for what cannot be cut into equal parts.
 *  4. After the communicator is gone calls do nothing; the device has the cause.
 *
 * NCCL takes two ranks on one GPU for a mistake. For a test that means it, each rank has another
 * NCCL_HOSTID in its environment, by which NCCL takes them for ranks of two hosts (newer releases
 * also have NCCL_MULTI_RANK_GPU_ENABLE=1), and LOCAL_RANK=0. The test sets these, by a DSRUN_WORKER
 * that sets them and becomes dsworker; nothing here does.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/nccl_internal.h"
#include "comm/news.h"
#include "common/shm.h"

/* "ncc" and the version of what the ranks share, which is the roll. */
#define SEGMENT_TAG 0x6e63630001000000u

#define MEET_MS     10
#define SETTLE_NS   20000
#define FINALIZE_NS 10000000000ull /* what is in work at the end is a few kernels */

_Static_assert(sizeof(ncclUniqueId) == COMM_ID_BYTES, "an id is what news carry");

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void nap(void)
{
	const struct timespec t = {.tv_nsec = SETTLE_NS};

	nanosleep(&t, NULL);
}

/* ---- the ranks meet ---- */

static int make_id(struct nccl *n, const struct comm_config *config, struct err *err)
{
	uint8_t bytes[COMM_ID_BYTES];
	ncclUniqueId id;
	ncclResult_t result = n->lib->GetUniqueId(&id);

	if (result != ncclSuccess)
		return nccl_error(n->lib, NULL, __FILE__ ": ncclGetUniqueId", result, err);
	memcpy(bytes, &id, sizeof(bytes));
	return config->publish(config->publish_arg, bytes, err);
}

/*
 * Without a bound of its own: rank 0 may have much to do before, and the launcher tells when it, or
 * any other, is not to come.
 */
static int await_id(struct nccl *n, ncclUniqueId *ret, struct err *err)
{
	struct comm_news news;
	int rc;

	do
		rc = comm_news_read(n->news_fd, n->world, -1, &news, err);
	while (rc == 0);
	if (rc < 0)
		return rc;
	if (news.type != COMM_NEWS_ID)
		return err_set(err, ERR_IO, "rank %u failed before the ranks met", news.rank);
	memcpy(ret, news.id, sizeof(*ret));
	return 0;
}

static int nobody_came(struct nccl *n, uint64_t timeout_ns, struct err *err)
{
	char who[COMM_ROLL_TEXT_BYTES];
	double seconds = (double)timeout_ns * 1e-9;
	const char *said = n->lib->GetLastError(n->comm);

	if (comm_roll_missing(n->roll, n->world, who) > 0)
		return err_set(err, ERR_UNAVAILABLE,
			       "the ranks did not meet within %g s: %s did not come", seconds, who);
	return err_set(err, ERR_UNAVAILABLE,
		       "the ranks did not meet within %g s, though all have come; NCCL says: %s",
		       seconds, said && *said ? said : "nothing");
}

static int meet(struct nccl *n, const ncclUniqueId *id, uint64_t timeout_ns, struct err *err)
{
	ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
	uint64_t until = now_ns() + timeout_ns;
	ncclResult_t result;
	int rc;

	config.blocking = 0;
	result = n->lib->CommInitRankConfig(&n->comm, (int)n->world, *id, (int)n->rank, &config);
	while (result == ncclInProgress) {
		rc = nccl_news(n, MEET_MS, err);
		if (rc < 0)
			return rc;
		if (now_ns() >= until)
			return nobody_came(n, timeout_ns, err);
		result = nccl_state(n);
	}
	if (result == ncclSuccess)
		return 0;
	nccl_error(n->lib, n->comm, __FILE__ ": ncclCommInitRankConfig", result, err);
	nccl_blame(n, result, err);
	return err->code;
}

static int join(struct nccl *n, const struct comm_config *config, struct err *err)
{
	void *base;
	int rc = shm_map(config->shm_fd, sizeof(*n->roll), &base, err);

	if (rc == 0) {
		n->roll = base;
		rc = comm_roll_join(n->roll, SEGMENT_TAG, n->rank, n->world, err);
	}
	return rc < 0 ? err_add(err, "shared memory of the collectives") : 0;
}

static int open_all(struct nccl *n, const struct comm_config *config, struct err *err)
{
	ncclUniqueId id;
	int rc = nccl_lib_open(&n->lib, err);

	if (rc == 0)
		rc = join(n, config, err);
	if (rc == 0 && n->rank == 0)
		rc = make_id(n, config, err);
	if (rc == 0)
		rc = await_id(n, &id, err);
	if (rc == 0)
		rc = meet(n, &id, config->timeout_ns, err);
	return rc < 0 ? rc : nccl_watch_start(n, err);
}

static void close_all(struct nccl *n)
{
	nccl_abort(n);
	if (n->roll)
		shm_unmap(n->roll, sizeof(*n->roll));
	pthread_mutex_destroy(&n->lock);
	free(n);
}

static int nccl_open(const struct comm_config *config, void **ret, struct err *err)
{
	struct nccl *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return err_sys(err, -ENOMEM, "collectives");
	n->device = config->device;
	n->rank = config->rank;
	n->world = config->world;
	n->news_fd = config->news_fd;
	rc = -pthread_mutex_init(&n->lock, NULL);
	if (rc < 0) {
		free(n);
		return err_sys(err, rc, "collectives");
	}
	rc = open_all(n, config, err);
	if (rc < 0) {
		close_all(n);
		return rc;
	}
	*ret = n;
	return 0;
}

/* ---- the end ---- */

/* Gives what is in work the time to end in order, everywhere. False: it did not. */
static bool finalize(struct nccl *n)
{
	uint64_t until = now_ns() + FINALIZE_NS;
	ncclResult_t result = ncclSuccess;

	pthread_mutex_lock(&n->lock);
	if (n->comm)
		result = n->lib->CommFinalize(n->comm);
	pthread_mutex_unlock(&n->lock);
	while (result == ncclInProgress && now_ns() < until) {
		nap();
		result = nccl_state(n);
	}
	return result == ncclSuccess;
}

static void nccl_free(void *state)
{
	struct nccl *n = state;
	bool whole = device_running(n->device) && finalize(n);

	/* Until here: a peer that dies at the very end must not keep us for FINALIZE_NS. */
	nccl_watch_stop(n);
	if (whole && n->comm) {
		/* What could not be freed goes with the process. */
		(void)n->lib->CommDestroy(n->comm);
		n->comm = NULL;
	}
	close_all(n);
}

/* ---- calls ---- */

/*
 * The end of a call that was just made: it is on the stream, or failed. The lock is held, but for
 * naps, in which the communicator may go.
 */
static int settle(struct nccl *n, const char *call, ncclResult_t result, struct err *err)
{
	while (result == ncclInProgress) {
		ncclResult_t state = ncclSuccess;

		pthread_mutex_unlock(&n->lock);
		nap();
		pthread_mutex_lock(&n->lock);
		if (!n->comm)
			return err_set(err, -ECANCELED, "%s: the communicator was aborted", call);
		result = n->lib->CommGetAsyncError(n->comm, &state);
		if (result == ncclSuccess)
			result = state;
	}
	return result == ncclSuccess ? 0 : nccl_error(n->lib, n->comm, call, result, err);
}

static ncclDataType_t type_of(enum dtype type)
{
	return type == DTYPE_BF16 ? ncclBfloat16 : ncclFloat32;
}

static int all_gather(struct nccl *n, cudaStream_t stream, void *out, const void *in, size_t bytes,
		      struct err *err)
{
	return settle(n, __FILE__ ": ncclAllGather",
		      n->lib->AllGather(in, out, bytes, ncclInt8, n->comm, stream), err);
}

static int reduce_scatter(struct nccl *n, cudaStream_t stream, enum dtype type, void *out,
			  const void *in, size_t count, struct err *err)
{
	return settle(
		n, __FILE__ ": ncclReduceScatter",
		n->lib->ReduceScatter(in, out, count, type_of(type), ncclSum, n->comm, stream),
		err);
}

/* See invariant 3. */
static int all_reduce(struct nccl *n, cudaStream_t stream, const struct comm_call *c,
		      struct err *err)
{
	size_t part = c->size / n->world, size = dtype_bytes(c->type);
	uint8_t *data = c->out, *mine = data + n->rank * part * size;
	uint8_t *rest = data + n->world * part * size;
	int rc = 0;

	if (part) {
		rc = reduce_scatter(n, stream, c->type, mine, data, part, err);
		if (rc == 0)
			rc = all_gather(n, stream, data, mine, part * size, err);
	}
	if (rc == 0 && c->size % n->world)
		rc = settle(n, __FILE__ ": ncclAllReduce",
			    n->lib->AllReduce(rest, rest, c->size % n->world, type_of(c->type),
					      ncclSum, n->comm, stream),
			    err);
	return rc;
}

static int make_call(struct nccl *n, cudaStream_t stream, const struct comm_call *c,
		     struct err *err)
{
	switch (c->kind) {
	case COMM_ALL_GATHER:
		return all_gather(n, stream, c->out, c->in, c->size, err);
	case COMM_REDUCE_SCATTER:
		return reduce_scatter(n, stream, c->type, c->out, c->in, c->size, err);
	case COMM_ALL_REDUCE:
		return all_reduce(n, stream, c, err);
	case COMM_BROADCAST:
		return settle(n, __FILE__ ": ncclBroadcast",
			      n->lib->Broadcast(c->out, c->out, c->size, ncclInt8, (int)c->root,
						n->comm, stream),
			      err);
	}
	return err_set(err, ERR_INTERNAL, "unknown collective %d", (int)c->kind);
}

/* What a ring sends and receives: NCCL does not tell what it does. */
static uint64_t ring_bytes(const struct nccl *n, const struct comm_call *c)
{
	uint64_t others = n->world - 1, size = dtype_bytes(c->type);

	switch (c->kind) {
	case COMM_ALL_GATHER:
		return 2 * others * c->size;
	case COMM_REDUCE_SCATTER:
		return 2 * others * c->size * size;
	case COMM_ALL_REDUCE:
		return 4 * others * c->size * size / n->world;
	case COMM_BROADCAST:
		return c->size;
	}
	return 0;
}

static int nccl_enqueue(void *state, struct device_stream *stream, const struct comm_call *call,
			uint64_t *bytes_moved, struct err *err)
{
	struct nccl *n = state;
	int rc = 0;

	assert(device_stream_device(stream) == n->device);
	pthread_mutex_lock(&n->lock);
	if (n->comm) {
		rc = make_call(n, device_stream_native(stream), call, err);
		*bytes_moved = ring_bytes(n, call);
	}
	pthread_mutex_unlock(&n->lock);
	/* Without the lock, which the watcher may want. */
	if (rc == err_nccl(ncclRemoteError))
		nccl_blame(n, ncclRemoteError, err);
	return rc < 0 ? err->code : 0;
}

const struct comm_ops comm_nccl_ops = {
	.open = nccl_open,
	.free = nccl_free,
	.enqueue = nccl_enqueue,
};
