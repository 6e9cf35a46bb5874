/*
 * A host NCCL: libnccl.so.2 for machines without GPUs, so that comm/nccl*.c runs in tests, between
 * real processes, on the streams of the CUDA shim. It is found by LD_LIBRARY_PATH, and finds
 * shim_stream_call in the program that loaded it.
 *
 * Ranks share a file, which the id names and which is unlinked when all have mapped it. In it are a
 * barrier and two staging buffers for each rank, used in turn, as in comm/shm.c.
 *
 * It is stricter than NCCL, and slower to help:
 *  1. A call into a communicator while another thread is in one, or after its end, aborts the
 *     process, and so do ranks that do not make the same call. Communicators that block are
 *     refused.
 *  2. A rank that waits waits until it aborts: the death of a peer, or a peer's abort, is not told.
 *  3. Every DEFERRED-th call is "in progress" at first, and on the stream only later.
 *  4. All-reduce adds in the reverse order of reduce-scatter; bf16 is rounded at every step.
 *  5. Finalize is through when all ranks have called it.
 *
 * What a test orders, by environment:
 *   NCCL_HOST_VERSION=CODE        what ncclGetVersion says
 *   NCCL_HOST_ERROR=RANK,CALL     rank RANK's CALL-th collective becomes an asynchronous error
 *   NCCL_HOST_REFUSE=RANK,CALL    rank RANK's CALL-th collective returns an error
 */
#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/dtype.h"
#include "tests/cuda_host/shim.h"

#define RANKS_MAX   16
#define CHUNK_BYTES ((size_t)256 << 10)
#define DEFERRED    5u
#define LIVE        0x6c697665u

enum kind { ALL_GATHER = 1, REDUCE_SCATTER, ALL_REDUCE, BROADCAST };

/* What every rank must have called alike. */
struct signature {
	uint64_t kind, type, count, root;
};

struct segment {
	_Alignas(64) atomic_uint joined, finalized;
	_Alignas(64) atomic_uint arrived;
	_Alignas(64) atomic_uint generation;
	struct signature signatures[RANKS_MAX];
	_Alignas(64) uint8_t staging[RANKS_MAX][2][CHUNK_BYTES];
};

struct ncclComm {
	unsigned live; /* LIVE until its end; its memory is never given back */
	struct ncclComm *next;
	atomic_int callers;
	unsigned rank, world;
	int device; /* that was current when it was made */
	struct segment *segment;
	uint64_t calls;           /* collectives that were called */
	_Atomic uint64_t through; /* that ran */
	atomic_bool aborted;
	atomic_int state; /* ncclResult_t */
	bool finalizing;
	unsigned round;   /* of the stream's thread */
	pthread_t helper; /* enqueues a deferred call */
	bool has_helper;
};

struct call {
	struct ncclComm *comm;
	struct signature signature;
	const uint8_t *in;
	uint8_t *out;
	cudaStream_t stream;
	bool fails; /* the communicator gets an error in place of a result */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ncclComm *all;
static _Thread_local char last_error[256];

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "host NCCL: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	abort();
}

static ncclResult_t __attribute__((format(printf, 2, 3)))
refuse(ncclResult_t result, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(last_error, sizeof(last_error), fmt, ap);
	va_end(ap);
	return result;
}

static void nap(void)
{
	const struct timespec t = {.tv_nsec = 20000};

	nanosleep(&t, NULL);
}

/* Is it this rank's turn to do what `name` orders? */
static bool ordered(const char *name, const struct ncclComm *comm)
{
	const char *text = getenv(name);
	unsigned rank;
	unsigned long long call;

	return text && sscanf(text, "%u,%llu", &rank, &call) == 2 && rank == comm->rank &&
	       call == comm->calls;
}

static void enter(struct ncclComm *comm)
{
	if (!comm || comm->live != LIVE)
		die("a call into a communicator that is none");
	if (atomic_fetch_add_explicit(&comm->callers, 1, memory_order_acq_rel) != 0)
		die("two calls into a communicator at a time");
}

static void leave(struct ncclComm *comm)
{
	atomic_fetch_sub_explicit(&comm->callers, 1, memory_order_acq_rel);
}

ncclResult_t ncclGetVersion(int *version)
{
	const char *text = getenv("NCCL_HOST_VERSION");

	*version = text ? atoi(text) : NCCL_VERSION_CODE;
	return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
	static const char *const texts[] = {"no error",
					    "unhandled cuda error",
					    "unhandled system error",
					    "internal error",
					    "invalid argument",
					    "invalid usage",
					    "remote process exited or there was a network error",
					    "operation in progress"};

	return (unsigned)result <= ncclInProgress ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm)
{
	(void)comm;
	return last_error;
}

/* ---- beginning and end ---- */

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
	const char *dir = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
	uint64_t random;

	if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return refuse(ncclSystemError, "getrandom");
	memset(id, 0, sizeof(*id));
	snprintf(id->internal, sizeof(id->internal), "%s/nccl-%016llx", dir,
		 (unsigned long long)random);
	int fd = open(id->internal, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return refuse(ncclSystemError, "%s: %s", id->internal, strerror(errno));
	int rc = ftruncate(fd, sizeof(struct segment));
	close(fd);
	return rc == 0 ? ncclSuccess : refuse(ncclSystemError, "ftruncate");
}

static struct segment *map(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	void *at = MAP_FAILED;

	if (fd >= 0)
		at = mmap(NULL, sizeof(struct segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	return at == MAP_FAILED ? NULL : at;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
				    ncclConfig_t *config)
{
	struct ncclComm *c;

	if (!config || config->magic != NCCL_CONFIG_MAGIC || config->blocking != 0)
		return refuse(ncclInvalidUsage, "communicators do not block here");
	if (ranks < 1 || ranks > RANKS_MAX || rank < 0 || rank >= ranks)
		return refuse(ncclInvalidArgument, "rank %d of %d", rank, ranks);
	id.internal[sizeof(id.internal) - 1] = '\0';
	c = calloc(1, sizeof(*c));
	if (!c)
		return refuse(ncclSystemError, "no memory");
	c->segment = map(id.internal);
	if (!c->segment) {
		free(c);
		return refuse(ncclSystemError, "the id names no segment: %s", strerror(errno));
	}
	if (cudaGetDevice(&c->device) != cudaSuccess) {
		free(c);
		return refuse(ncclUnhandledCudaError, "no current device");
	}
	c->live = LIVE;
	c->rank = (unsigned)rank;
	c->world = (unsigned)ranks;
	atomic_init(&c->state, ncclInProgress);
	pthread_mutex_lock(&lock);
	c->next = all;
	all = c;
	pthread_mutex_unlock(&lock);
	if (atomic_fetch_add_explicit(&c->segment->joined, 1, memory_order_acq_rel) + 1 == c->world)
		unlink(id.internal);
	*comm = c;
	return ncclInProgress;
}

/* A deferred call is on the stream: its helper has ended. */
static void join_helper(struct ncclComm *c)
{
	if (c->has_helper)
		pthread_join(c->helper, NULL);
	c->has_helper = false;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *state)
{
	int now;

	enter(c);
	now = atomic_load_explicit(&c->state, memory_order_acquire);
	if (now == ncclInProgress && c->calls == 0 && !c->finalizing &&
	    atomic_load_explicit(&c->segment->joined, memory_order_acquire) == c->world)
		atomic_store_explicit(&c->state, now = ncclSuccess, memory_order_release);
	if (now == ncclInProgress && c->finalizing &&
	    atomic_load_explicit(&c->through, memory_order_acquire) == c->calls &&
	    atomic_load_explicit(&c->segment->finalized, memory_order_acquire) == c->world)
		atomic_store_explicit(&c->state, now = ncclSuccess, memory_order_release);
	if (now != ncclSuccess && now != ncclInProgress)
		refuse(ncclSuccess, "ordered by the test");
	*state = (ncclResult_t)now;
	leave(c);
	return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
	enter(c);
	join_helper(c);
	c->finalizing = true;
	atomic_store_explicit(&c->state, ncclInProgress, memory_order_release);
	atomic_fetch_add_explicit(&c->segment->finalized, 1, memory_order_acq_rel);
	leave(c);
	return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t c)
{
	enter(c);
	if (!c->finalizing || atomic_load_explicit(&c->state, memory_order_acquire) != ncclSuccess)
		die("a communicator that is destroyed in the middle of its work");
	c->live = 0;
	munmap(c->segment, sizeof(*c->segment));
	return ncclSuccess;
}

/* The segment stays mapped: calls that are on streams still look at it before they give up. */
ncclResult_t ncclCommAbort(ncclComm_t c)
{
	enter(c);
	atomic_store_explicit(&c->aborted, true, memory_order_release);
	join_helper(c);
	c->live = 0;
	return ncclSuccess;
}

/* ---- calls, in the stream's thread ---- */

/* False: aborted. */
static bool meet(struct ncclComm *c)
{
	struct segment *s = c->segment;
	unsigned seen = atomic_load_explicit(&s->generation, memory_order_acquire), spins = 0;

	if (atomic_load_explicit(&c->aborted, memory_order_acquire))
		return false;
	if (atomic_fetch_add_explicit(&s->arrived, 1, memory_order_acq_rel) + 1 == c->world) {
		atomic_store_explicit(&s->arrived, 0, memory_order_relaxed);
		atomic_fetch_add_explicit(&s->generation, 1, memory_order_acq_rel);
		return true;
	}
	while (atomic_load_explicit(&s->generation, memory_order_acquire) == seen) {
		if (atomic_load_explicit(&c->aborted, memory_order_acquire))
			return false;
		if (spins++ < 50)
			sched_yield();
		else
			nap();
	}
	return true;
}

static uint8_t *staged(struct ncclComm *c, unsigned rank)
{
	return c->segment->staging[rank][c->round & 1];
}

/* The calls of all ranks are the same one, or somebody is wrong. */
static bool agree(struct ncclComm *c, const struct signature *mine)
{
	c->segment->signatures[c->rank] = *mine;
	if (!meet(c))
		return false;
	for (unsigned r = 0; r < c->world; r++)
		if (memcmp(&c->segment->signatures[r], mine, sizeof(*mine)) != 0)
			die("rank %u and rank %u make different calls", c->rank, r);
	/* Nobody changes its own before all have looked. */
	return meet(c);
}

static float load(const uint8_t *at, uint64_t type, size_t i)
{
	uint16_t half;
	float f;

	if (type == ncclBfloat16) {
		memcpy(&half, at + 2 * i, sizeof(half));
		return bf16_to_float(half);
	}
	memcpy(&f, at + 4 * i, sizeof(f));
	return f;
}

static void store(uint8_t *at, uint64_t type, size_t i, float f)
{
	uint16_t half = bf16_from_float(f);

	if (type == ncclBfloat16)
		memcpy(at + 2 * i, &half, sizeof(half));
	else
		memcpy(at + 4 * i, &f, sizeof(f));
}

/* out[i] = the sum over ranks of what they staged at `offset`, the first one being `first`. */
static void add(struct ncclComm *c, uint8_t *out, uint64_t type, size_t offset, size_t count,
		bool backwards)
{
	for (size_t i = 0; i < count; i++)
		for (unsigned k = 0; k < c->world; k++) {
			unsigned r = backwards ? c->world - 1 - k : k;
			float term = load(staged(c, r) + offset, type, i);

			store(out, type, i, k == 0 ? term : load(out, type, i) + term);
		}
}

static bool gather(struct ncclComm *c, const struct call *call)
{
	size_t bytes = call->signature.count, n;

	for (size_t at = 0; at < bytes; at += n, c->round++) {
		n = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
		memcpy(staged(c, c->rank), call->in + at, n);
		if (!meet(c))
			return false;
		for (unsigned r = 0; r < c->world; r++)
			memcpy(call->out + r * bytes + at, staged(c, r), n);
	}
	return true;
}

static bool scatter(struct ncclComm *c, const struct call *call)
{
	size_t size = call->signature.type == ncclBfloat16 ? 2 : 4, count = call->signature.count;
	size_t slot = CHUNK_BYTES / size / c->world, n;

	for (size_t at = 0; at < count; at += n, c->round++) {
		n = count - at < slot ? count - at : slot;
		for (unsigned r = 0; r < c->world; r++)
			memcpy(staged(c, c->rank) + r * slot * size,
			       call->in + (r * count + at) * size, n * size);
		if (!meet(c))
			return false;
		add(c, call->out + at * size, call->signature.type, c->rank * slot * size, n,
		    false);
	}
	return true;
}

static bool reduce(struct ncclComm *c, const struct call *call)
{
	size_t size = call->signature.type == ncclBfloat16 ? 2 : 4, count = call->signature.count;
	size_t n;

	for (size_t at = 0; at < count; at += n, c->round++) {
		n = count - at < CHUNK_BYTES / size ? count - at : CHUNK_BYTES / size;
		memcpy(staged(c, c->rank), call->in + at * size, n * size);
		if (!meet(c))
			return false;
		add(c, call->out + at * size, call->signature.type, 0, n, true);
	}
	return true;
}

static bool spread(struct ncclComm *c, const struct call *call)
{
	size_t bytes = call->signature.count, n;

	for (size_t at = 0; at < bytes; at += n, c->round++) {
		n = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
		if (c->rank == call->signature.root)
			memcpy(staged(c, c->rank), call->in + at, n);
		if (!meet(c))
			return false;
		memmove(call->out + at, staged(c, (unsigned)call->signature.root), n);
	}
	return true;
}

static void run(void *arg)
{
	static bool (*const runs[])(struct ncclComm *, const struct call *) = {
		[ALL_GATHER] = gather,
		[REDUCE_SCATTER] = scatter,
		[ALL_REDUCE] = reduce,
		[BROADCAST] = spread,
	};
	struct call *call = arg;
	struct ncclComm *c = call->comm;

	if (call->fails)
		atomic_store_explicit(&c->state, ncclRemoteError, memory_order_release);
	/* As a kernel on a GPU that waits for one that is not there. */
	while (call->fails && !atomic_load_explicit(&c->aborted, memory_order_acquire))
		nap();
	if (!call->fails && agree(c, &call->signature) && runs[call->signature.kind](c, call))
		atomic_fetch_add_explicit(&c->through, 1, memory_order_acq_rel);
	free(call);
}

/* ---- calls, as they are made ---- */

static ncclResult_t put(struct call *call)
{
	if (shim_stream_call(call->stream, run, call) == cudaSuccess)
		return ncclSuccess;
	free(call);
	return refuse(ncclUnhandledCudaError, "the stream takes nothing");
}

static void *put_later(void *arg)
{
	struct call *call = arg;
	struct ncclComm *c = call->comm;
	int in_progress = ncclInProgress;
	ncclResult_t result;

	for (unsigned i = 0; i < 10; i++)
		nap();
	result = cudaSetDevice(c->device) == cudaSuccess ? put(call) : ncclUnhandledCudaError;
	/* An error that came in the meantime stays. */
	atomic_compare_exchange_strong_explicit(&c->state, &in_progress, (int)result,
						memory_order_acq_rel, memory_order_acquire);
	return NULL;
}

static ncclResult_t defer(struct ncclComm *c, struct call *call)
{
	join_helper(c);
	atomic_store_explicit(&c->state, ncclInProgress, memory_order_release);
	if (pthread_create(&c->helper, NULL, put_later, call) != 0)
		die("no thread");
	c->has_helper = true;
	return ncclInProgress;
}

static ncclResult_t make(struct ncclComm *c, const struct call *given)
{
	int state = atomic_load_explicit(&c->state, memory_order_acquire);
	struct call *call;

	if (state == ncclInProgress)
		die("a call behind one that is in progress");
	if (state != ncclSuccess)
		return refuse((ncclResult_t)state, "the communicator has failed");
	if (!given->in || !given->out || given->signature.count == 0)
		return refuse(ncclInvalidArgument, "a call of nothing");
	c->calls++;
	if (ordered("NCCL_HOST_REFUSE", c))
		return refuse(ncclInvalidArgument, "ordered by the test");
	call = malloc(sizeof(*call));
	if (!call)
		return refuse(ncclSystemError, "no memory");
	*call = *given;
	call->comm = c;
	call->fails = ordered("NCCL_HOST_ERROR", c);
	return c->calls % DEFERRED == 0 ? defer(c, call) : put(call);
}

static ncclResult_t enqueue(struct ncclComm *c, const struct call *given)
{
	ncclResult_t result;

	enter(c);
	result = make(c, given);
	leave(c);
	return result;
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t count, ncclDataType_t type,
			   ncclComm_t comm, cudaStream_t stream)
{
	struct call call = {
		.signature = {ALL_GATHER, type, count, 0}, .in = in, .out = out, .stream = stream};

	if (type != ncclInt8)
		return refuse(ncclInvalidArgument, "all-gather of type %d", (int)type);
	return enqueue(comm, &call);
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t count, ncclDataType_t type,
			       ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
	struct call call = {.signature = {REDUCE_SCATTER, type, count, 0},
			    .in = in,
			    .out = out,
			    .stream = stream};

	if (op != ncclSum)
		return refuse(ncclInvalidArgument, "operation %d", (int)op);
	return enqueue(comm, &call);
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, ncclDataType_t type,
			   ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
	struct call call = {
		.signature = {ALL_REDUCE, type, count, 0}, .in = in, .out = out, .stream = stream};

	if (op != ncclSum)
		return refuse(ncclInvalidArgument, "operation %d", (int)op);
	return enqueue(comm, &call);
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t count, ncclDataType_t type, int root,
			   ncclComm_t comm, cudaStream_t stream)
{
	struct call call = {.signature = {BROADCAST, type, count, (uint64_t)root},
			    .in = in,
			    .out = out,
			    .stream = stream};

	if (type != ncclInt8)
		return refuse(ncclInvalidArgument, "broadcast of type %d", (int)type);
	return enqueue(comm, &call);
}
