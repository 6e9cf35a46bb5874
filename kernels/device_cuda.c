/*
 * An NVIDIA GPU as a device: one arena from cudaMalloc, non-blocking streams, events, copies, and
 * the launchers of the NAME_cuda.cu files. Called through device.c, from the threads that device.h
 * allows; CUDA's own threads come in through host_run.
 *
 * Invariants:
 * 1. Every CUDA call is checked. The first that fails makes the device's sticky error, with the
 *    stream, the operation, the call and CUDA's reason; all that is enqueued later is skipped.
 * 2. A failure of work that already ran comes out of whichever call is next. Its text says so,
 *    since that call is not the cause (stream_fail).
 * 3. What a thread enqueues it enqueues on this device: a thread's first call makes it current.
 * 4. A host function is in a block of its stream's ring until it ran. A full ring makes the caller
 *    wait for the stream; after a failure CUDA runs no host function any more, and the ring is
 *    dead.
 * 5. A run is work that is enqueued without a wait between, from its first piece to the next wait,
 *    record or sync. Two timing events stand around it, and a stream's busy time is the sum of its
 *    runs: what the GPU waits for the enqueueing thread within a run counts as busy.
 * 6. Of a stream, `runs` and its counts are under the stream's lock; the rest belongs to the thread
 *    that enqueues.
 */
#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "common/units.h"
#include "kernels/cuda_internal.h"
#include "kernels/internal.h"
#include "kernels/linear_cuda.h"
#include "kernels/trace_cuda.h"

/* mma.sync on bf16 begins with Ampere. */
#define CAPABILITY_MIN 8

/* As many as the cpu device queues items; past that the engine waits for the device. */
#define HOST_CALLS_MAX 256u
/* A phase opens two or three: some twenty phases ahead. */
#define RUNS_MAX 64u

struct cuda_stream;

struct host_call {
	struct cuda_stream *stream;
	device_host_fn *fn;
	void *arg;
};

struct run {
	cudaEvent_t begin, end;
};

struct cuda_stream {
	struct device_stream front;
	struct cuda_stream *next; /* of the device's */
	cudaStream_t native;
	const char *last; /* the latest thing enqueued, for texts; NULL: none */
	uint64_t calls_enqueued;
	_Atomic uint64_t calls_completed;
	struct host_call calls[HOST_CALLS_MAX];
	pthread_mutex_t lock;
	struct run runs[RUNS_MAX];
	uint64_t runs_opened, runs_counted; /* opened: with the one that is open, if one is */
	bool run_open;
	double busy_seconds;
};

struct cuda_event {
	struct device_event front;
	struct cuda_event *next;
	cudaEvent_t native;
};

struct registration {
	struct registration *next;
	void *base;
};

struct cuda_device {
	struct device front;
	int ordinal;
	void *memory; /* what cudaMalloc gave; the arena begins at its first aligned byte */
	struct cuda_linear *linear;
	/* Opened by any thread, walked by free only; under front.lock. */
	struct cuda_stream *streams;
	struct cuda_event *events;
	struct registration *registrations;
};

/* But for products, which go to cuBLASLt. */
static cuda_op_fn *const ops[DEVICE_OP_COUNT] = {
	[OP_LAYERNORM_FORWARD] = cuda_layernorm_forward,
	[OP_LAYERNORM_BACKWARD] = cuda_layernorm_backward,
	[OP_RMSNORM_FORWARD] = cuda_rmsnorm_forward,
	[OP_RMSNORM_BACKWARD] = cuda_rmsnorm_backward,
	[OP_ROTARY] = cuda_rotary,
	[OP_ATTENTION_FORWARD] = cuda_attention_forward,
	[OP_ATTENTION_BACKWARD] = cuda_attention_backward,
	[OP_GELU_FORWARD] = cuda_gelu_forward,
	[OP_GELU_BACKWARD] = cuda_gelu_backward,
	[OP_SWIGLU_FORWARD] = cuda_swiglu_forward,
	[OP_SWIGLU_BACKWARD] = cuda_swiglu_backward,
	[OP_EMBEDDING_FORWARD] = cuda_embedding_forward,
	[OP_EMBEDDING_BACKWARD] = cuda_embedding_backward,
	[OP_CROSS_ENTROPY] = cuda_cross_entropy,
	[OP_VECTOR_ADD] = cuda_vector_add,
	[OP_VECTOR_CONVERT] = cuda_vector_convert,
	[OP_VECTOR_ACCUMULATE] = cuda_vector_accumulate,
	[OP_VECTOR_SUMSQ] = cuda_vector_sumsq,
	[OP_ADAM] = cuda_adam,
};

/* CUDA's current device is a thread's own. */
static _Thread_local int thread_ordinal = -1;

static int device_find(unsigned index, struct err *err);
static int arena_take(struct cuda_device *d, struct err *err);
static int make_current(const struct cuda_device *d, struct err *err);
static void stream_free(struct cuda_stream *s);
static bool work_begin(struct cuda_stream *s, const char *what);
static bool run_end(struct cuda_stream *s);
static void runs_count(struct cuda_stream *s, bool wait);
static void stream_check(struct cuda_stream *s, cudaError_t rc, const char *call);

extern const struct device_backend device_backend_cuda;
static void cuda_free(struct device *device);

static int cuda_open(const struct device_config *config, struct device **ret, struct err *err)
{
	struct cuda_device *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return err_sys(err, -ENOMEM, "cuda device");
	rc = device_init(&d->front, &device_backend_cuda, config);
	if (rc < 0) {
		free(d);
		return err_sys(err, rc, "cuda device");
	}
	d->ordinal = (int)config->index;
	rc = device_find(config->index, err);
	if (!rc)
		rc = make_current(d, err);
	/* Before the arena: a library's code takes device memory, too. */
	if (!rc)
		rc = cuda_linear_open(&d->linear, err);
	if (!rc)
		rc = arena_take(d, err);
	if (rc < 0) {
		cuda_free(&d->front);
		return err_add(err, "cuda device %u", config->index);
	}
	*ret = &d->front;
	return 0;
}

/* Are there a driver, this ordinal, and on it what our kernels need? */
static int device_find(unsigned index, struct err *err)
{
	int count = 0, major = 0, minor = 0, rc;

	/* Ordinals as nvidia-smi counts them, where the user did not say otherwise. */
	if (setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0) < 0)
		return err_sys(err, -errno, "CUDA_DEVICE_ORDER");
	rc = CUDA_CHECK(cudaGetDeviceCount(&count), err);
	if (rc < 0) {
		err_add(err, "no NVIDIA driver that answers");
		return err->code = ERR_CONFIG;
	}
	if (index >= (unsigned)count)
		return err_set(err, ERR_CONFIG, "there is no such device: the host has %d (%s)",
			       count, "device.count and CUDA_VISIBLE_DEVICES choose");
	rc = CUDA_CHECK(
		cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, (int)index), err);
	if (!rc)
		rc = CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor,
						       (int)index),
				err);
	if (!rc && major < CAPABILITY_MIN)
		return err_set(err, ERR_CONFIG,
			       "its compute capability is %d.%d, and %d.0 is the least (Ampere)",
			       major, minor, CAPABILITY_MIN);
	/* The host's CPUs belong to the optimizer: who waits for the device sleeps. */
	return rc ? rc
		  : CUDA_CHECK(cudaInitDevice((int)index, cudaDeviceScheduleBlockingSync,
					      cudaInitDeviceFlagsAreValid),
			       err);
}

static int arena_take(struct cuda_device *d, struct err *err)
{
	char asked[UNITS_TEXT_BYTES], room[UNITS_TEXT_BYTES], whole[UNITS_TEXT_BYTES];
	uint64_t budget = d->front.config.memory_bytes;
	size_t free_bytes = 0, total_bytes = 0;
	uintptr_t base;
	void *workspace;
	int rc = CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes), err);

	if (rc < 0)
		return rc;
	/* With the alignment's slack, which cudaMalloc's own blocks of 2 MiB swallow. */
	if (budget > free_bytes || DEVICE_ALIGN > free_bytes - budget)
		return err_set(err, -ENOMEM, "device.memory is %s, and %s of its %s are free",
			       units_format_bytes(asked, budget),
			       units_format_bytes(room, free_bytes),
			       units_format_bytes(whole, total_bytes));
	rc = CUDA_CHECK(cudaMalloc(&d->memory, budget + DEVICE_ALIGN), err);
	if (!rc)
		rc = CUDA_CHECK(cudaMemset(d->memory, 0, budget + DEVICE_ALIGN), err);
	if (!rc)
		rc = CUDA_CHECK(cudaDeviceSynchronize(), err);
	if (rc < 0)
		return err_add(err, "device.memory of %s, with %s free",
			       units_format_bytes(asked, budget),
			       units_format_bytes(room, free_bytes));
	base = (uintptr_t)d->memory;
	d->front.arena = (uint8_t *)d->memory + (DEVICE_ALIGN - base % DEVICE_ALIGN) % DEVICE_ALIGN;
	workspace = device_alloc(&d->front, CUDA_WORKSPACE_BYTES, "cuBLASLt's workspace", err);
	if (!workspace)
		return err->code;
	cuda_linear_workspace(d->linear, workspace, CUDA_WORKSPACE_BYTES);
	return 0;
}

static int make_current(const struct cuda_device *d, struct err *err)
{
	int rc;

	if (thread_ordinal == d->ordinal)
		return 0;
	rc = CUDA_CHECK(cudaSetDevice(d->ordinal), err);
	if (!rc)
		thread_ordinal = d->ordinal;
	return rc;
}

/* Takes half-built objects. After a failure every call may return it again, and all of them go. */
static void cuda_free(struct device *device)
{
	struct cuda_device *d = (struct cuda_device *)device;
	struct cuda_stream *s;
	struct cuda_event *e;
	struct registration *r;
	struct err ignored;

	(void)make_current(d, &ignored);
	/* All streams run dry before the first goes: work may wait for another stream's. */
	for (s = d->streams; s; s = s->next)
		(void)cudaStreamSynchronize(s->native);
	d->linear = cuda_linear_free(d->linear);
	while ((s = d->streams)) {
		d->streams = s->next;
		stream_free(s);
	}
	cuda_clock_free(device);
	while ((e = d->events)) {
		d->events = e->next;
		(void)cudaEventDestroy(e->native);
		free(e);
	}
	while ((r = d->registrations)) {
		d->registrations = r->next;
		(void)cudaHostUnregister(r->base);
		free(r);
	}
	if (d->memory)
		(void)cudaFree(d->memory);
	(void)cudaGetLastError();
	device_done(&d->front);
	free(d);
}

/* Why memory could not be pinned, where the limit of locked memory may be the reason. */
static int register_error(struct err *err, const void *base, size_t bytes)
{
	char asked[UNITS_TEXT_BYTES], limit[UNITS_TEXT_BYTES];
	struct rlimit lock = {.rlim_cur = RLIM_INFINITY};

	err_add(err, "pinning %s at %p", units_format_bytes(asked, bytes), base);
	/* A limit that cannot be read is one that is not to be named. */
	if (err->code == err_cuda(cudaErrorHostMemoryAlreadyRegistered) ||
	    getrlimit(RLIMIT_MEMLOCK, &lock) < 0 || lock.rlim_cur == RLIM_INFINITY)
		return err->code;
	return err_add(err, "RLIMIT_MEMLOCK is %s (ulimit -l, or LimitMEMLOCK= of a unit)",
		       units_format_bytes(limit, lock.rlim_cur));
}

static int cuda_host_register(struct device *device, void *base, size_t bytes, struct err *err)
{
	struct cuda_device *d = (struct cuda_device *)device;
	struct registration *r;
	int rc = make_current(d, err);

	if (rc < 0 || bytes == 0)
		return rc;
	r = calloc(1, sizeof(*r));
	if (!r)
		return err_sys(err, -ENOMEM, "pinning host memory");
	rc = CUDA_CHECK(cudaHostRegister(base, bytes, cudaHostRegisterDefault), err);
	if (rc < 0) {
		free(r);
		return register_error(err, base, bytes);
	}
	r->base = base;
	pthread_mutex_lock(&device->lock);
	r->next = d->registrations;
	d->registrations = r;
	pthread_mutex_unlock(&device->lock);
	return 0;
}

/* Takes the registration at `base` out of the list; NULL when there is none. */
static struct registration *registration_take(struct cuda_device *d, const void *base)
{
	struct registration **at, *r;

	pthread_mutex_lock(&d->front.lock);
	for (at = &d->registrations; *at && (*at)->base != base; at = &(*at)->next)
		;
	r = *at;
	if (r)
		*at = r->next;
	pthread_mutex_unlock(&d->front.lock);
	return r;
}

static void cuda_host_unregister(struct device *device, void *base)
{
	struct cuda_device *d = (struct cuda_device *)device;
	struct registration *r = registration_take(d, base);
	struct err err;
	int rc;

	if (!r)
		return;
	free(r);
	rc = make_current(d, &err);
	if (!rc)
		rc = CUDA_CHECK(cudaHostUnregister(base), &err);
	if (rc < 0) {
		err_add(&err, "unpinning host memory at %p", base);
		device_fail(device, &err);
	}
}

static int stream_fill(struct cuda_stream *s, struct err *err)
{
	int rc = CUDA_CHECK(cudaStreamCreateWithFlags(&s->native, cudaStreamNonBlocking), err);

	for (size_t i = 0; !rc && i < RUNS_MAX; i++) {
		rc = CUDA_CHECK(cudaEventCreate(&s->runs[i].begin), err);
		if (!rc)
			rc = CUDA_CHECK(cudaEventCreate(&s->runs[i].end), err);
	}
	return rc;
}

static int cuda_stream_open(struct device *device, const char *name, struct device_stream **ret,
			    struct err *err)
{
	struct cuda_device *d = (struct cuda_device *)device;
	struct cuda_stream *s;
	int rc = make_current(d, err);

	if (rc < 0)
		return rc;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_sys(err, -ENOMEM, "stream %s", name);
	s->front.device = device;
	s->front.name = name;
	pthread_mutex_init(&s->lock, NULL);
	rc = stream_fill(s, err);
	if (rc < 0) {
		stream_free(s);
		return err_add(err, "stream %s", name);
	}
	pthread_mutex_lock(&device->lock);
	s->next = d->streams;
	d->streams = s;
	pthread_mutex_unlock(&device->lock);
	*ret = &s->front;
	return 0;
}

/* Takes half-built ones. */
static void stream_free(struct cuda_stream *s)
{
	cuda_marks_free(&s->front);
	for (size_t i = 0; i < RUNS_MAX; i++) {
		if (s->runs[i].begin)
			(void)cudaEventDestroy(s->runs[i].begin);
		if (s->runs[i].end)
			(void)cudaEventDestroy(s->runs[i].end);
	}
	if (s->native)
		(void)cudaStreamDestroy(s->native);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* Failures that only a piece of work can have had: the call that returns one did not cause it. */
static bool from_earlier_work(cudaError_t rc)
{
	switch (rc) {
	case cudaErrorIllegalAddress:
	case cudaErrorLaunchFailure:
	case cudaErrorLaunchTimeout:
	case cudaErrorAssert:
	case cudaErrorHardwareStackError:
	case cudaErrorIllegalInstruction:
	case cudaErrorMisalignedAddress:
	case cudaErrorInvalidAddressSpace:
	case cudaErrorInvalidPc:
	case cudaErrorECCUncorrectable:
	case cudaErrorNvlinkUncorrectable:
		return true;
	default:
		return false;
	}
}

/* Makes `err`, of CUDA's code `rc` or of none (cudaSuccess), the device's error. */
static void stream_fail(struct cuda_stream *s, cudaError_t rc, struct err *err)
{
	if (from_earlier_work(rc))
		err_add(err,
			"found by a call that is not the cause (%s was enqueued last; "
			"CUDA_LAUNCH_BLOCKING=1 finds the cause)",
			s->last ? s->last : "nothing");
	else if (s->last)
		err_add(err, "%s", s->last);
	err_add(err, "cuda device %d, stream %s", ((struct cuda_device *)s->front.device)->ordinal,
		s->front.name);
	device_fail(s->front.device, err);
}

static void stream_check(struct cuda_stream *s, cudaError_t rc, const char *call)
{
	struct err err;

	if (cuda_check(rc, call, __FILE__, &err) < 0)
		stream_fail(s, rc, &err);
}
#define STREAM_CHECK(s, call) stream_check((s), (call), #call)

/*
 * Before anything is enqueued: true when it is to be. `what` names it in the text of a failure.
 */
static bool work_begin(struct cuda_stream *s, const char *what)
{
	struct device *device = s->front.device;
	struct err err;

	if (!device_running(device))
		return false;
	if (make_current((struct cuda_device *)device, &err) < 0) {
		device_fail(device, &err);
		return false;
	}
	pthread_mutex_lock(&s->lock);
	if (!s->run_open) {
		if (s->runs_opened - s->runs_counted == RUNS_MAX)
			runs_count(s, true);
		STREAM_CHECK(s,
			     cudaEventRecord(s->runs[s->runs_opened % RUNS_MAX].begin, s->native));
		s->run_open = true;
		s->runs_opened++;
	}
	pthread_mutex_unlock(&s->lock);
	s->last = what;
	return device_running(device);
}

/* Before a wait, record or sync: true when the device still runs. */
static bool run_end(struct cuda_stream *s)
{
	struct device *device = s->front.device;
	struct err err;

	if (!device_running(device))
		return false;
	if (make_current((struct cuda_device *)device, &err) < 0) {
		device_fail(device, &err);
		return false;
	}
	pthread_mutex_lock(&s->lock);
	if (s->run_open) {
		STREAM_CHECK(s, cudaEventRecord(s->runs[(s->runs_opened - 1) % RUNS_MAX].end,
						s->native));
		s->run_open = false;
	}
	pthread_mutex_unlock(&s->lock);
	return device_running(device);
}

/* Adds up the runs that ended, in order; with `wait`, one at least. Holds the lock. */
static void runs_count(struct cuda_stream *s, bool wait)
{
	while (device_running(s->front.device) && s->runs_counted < s->runs_opened - s->run_open) {
		struct run *run = &s->runs[s->runs_counted % RUNS_MAX];
		float ms = 0;
		cudaError_t rc = wait ? cudaEventSynchronize(run->end) : cudaEventQuery(run->end);

		if (rc == cudaErrorNotReady) {
			(void)cudaGetLastError(); /* it is no failure */
			return;
		}
		stream_check(s, rc, wait ? "cudaEventSynchronize" : "cudaEventQuery");
		if (rc != cudaSuccess)
			return;
		STREAM_CHECK(s, cudaEventElapsedTime(&ms, run->begin, run->end));
		s->busy_seconds += (double)ms * 1e-3;
		s->runs_counted++;
		wait = false;
	}
}

static void cuda_stream_sync(struct device_stream *stream)
{
	struct cuda_stream *s = (struct cuda_stream *)stream;

	if (run_end(s))
		STREAM_CHECK(s, cudaStreamSynchronize(s->native));
}

static double cuda_stream_busy(struct device_stream *stream)
{
	struct cuda_stream *s = (struct cuda_stream *)stream;
	double seconds;

	pthread_mutex_lock(&s->lock);
	runs_count(s, false);
	seconds = s->busy_seconds;
	pthread_mutex_unlock(&s->lock);
	return seconds;
}

static void *cuda_stream_native(struct device_stream *stream)
{
	struct cuda_stream *s = (struct cuda_stream *)stream;

	(void)work_begin(s, "a library's work");
	return s->native;
}

static int cuda_event_open(struct device *device, struct device_event **ret, struct err *err)
{
	struct cuda_device *d = (struct cuda_device *)device;
	struct cuda_event *e;
	int rc = make_current(d, err);

	if (rc < 0)
		return rc;
	e = calloc(1, sizeof(*e));
	if (!e)
		return err_sys(err, -ENOMEM, "event");
	e->front.device = device;
	rc = CUDA_CHECK(cudaEventCreateWithFlags(&e->native,
						 cudaEventDisableTiming | cudaEventBlockingSync),
			err);
	if (rc < 0) {
		free(e);
		return rc;
	}
	pthread_mutex_lock(&device->lock);
	e->next = d->events;
	d->events = e;
	pthread_mutex_unlock(&device->lock);
	*ret = &e->front;
	return 0;
}

static void cuda_event_record(struct device_event *event, struct device_stream *stream)
{
	struct cuda_stream *s = (struct cuda_stream *)stream;

	if (run_end(s))
		STREAM_CHECK(s, cudaEventRecord(((struct cuda_event *)event)->native, s->native));
}

static void cuda_stream_wait(struct device_stream *stream, struct device_event *event)
{
	struct cuda_stream *s = (struct cuda_stream *)stream;

	if (!run_end(s))
		return;
	cuda_mark_begin(stream, TRACE_WAIT, "another stream", 0);
	STREAM_CHECK(s, cudaStreamWaitEvent(s->native, ((struct cuda_event *)event)->native, 0));
	cuda_mark_end(stream);
}

/* An event belongs to no stream, so its failures name none. */
static void event_check(struct device_event *event, cudaError_t rc, const char *call)
{
	struct err err;

	if (cuda_check(rc, call, __FILE__, &err) == 0)
		return;
	if (from_earlier_work(rc))
		err_add(&err, "found by a call that is not the cause (CUDA_LAUNCH_BLOCKING=1 "
			      "finds the cause)");
	err_add(&err, "cuda device %d", ((struct cuda_device *)event->device)->ordinal);
	device_fail(event->device, &err);
}

static void cuda_event_sync(struct device_event *event)
{
	if (device_running(event->device))
		event_check(event, cudaEventSynchronize(((struct cuda_event *)event)->native),
			    "cudaEventSynchronize");
}

static bool cuda_event_query(struct device_event *event)
{
	cudaError_t rc;

	if (!device_running(event->device))
		return true;
	rc = cudaEventQuery(((struct cuda_event *)event)->native);
	if (rc == cudaErrorNotReady) {
		(void)cudaGetLastError(); /* it is no failure */
		return false;
	}
	event_check(event, rc, "cudaEventQuery");
	return true;
}

/*
 * A library's call failed. It tells in its own way that it found the GPU's earlier work failed;
 * then that is the error.
 */
static void library_fail(struct cuda_stream *s, struct err *err)
{
	cudaError_t rc = cudaStreamQuery(s->native);
	struct err cause;

	(void)cudaGetLastError(); /* "not ready" is no failure */
	if (from_earlier_work(rc) && cuda_check(rc, "cudaStreamQuery", __FILE__, &cause) < 0)
		stream_fail(s, rc, &cause);
	else
		stream_fail(s, cudaSuccess, err);
}

static void cuda_launch(struct device_stream *stream, enum device_op op, const void *args,
			size_t args_bytes)
{
	struct cuda_stream *s = (struct cuda_stream *)stream;
	struct cuda_device *d = (struct cuda_device *)stream->device;
	struct err err;

	(void)args_bytes; /* a launch copies what the kernel needs of them */
	if (!work_begin(s, device_op_name(op)))
		return;
	cuda_mark_begin(stream, TRACE_BUSY, device_op_name(op), 0);
	if (op <= OP_LINEAR_BACKWARD_WEIGHT) {
		if (cuda_linear_enqueue(d->linear, op, args, s->native, &err) < 0)
			library_fail(s, &err);
	} else {
		stream_check(s, ops[op](args, s->native), "its launch");
	}
	cuda_mark_end(stream);
}

static void cuda_copy(struct device_stream *stream, void *dst, const void *src, size_t bytes,
		      enum device_copy direction)
{
	static const enum cudaMemcpyKind kinds[] = {
		[DEVICE_COPY_IN] = cudaMemcpyHostToDevice,
		[DEVICE_COPY_OUT] = cudaMemcpyDeviceToHost,
		[DEVICE_COPY_WITHIN] = cudaMemcpyDeviceToDevice,
	};
	struct cuda_stream *s = (struct cuda_stream *)stream;

	if (bytes == 0 || !work_begin(s, device_copy_name(direction)))
		return;
	cuda_mark_begin(stream, TRACE_BUSY, device_copy_name(direction), bytes);
	STREAM_CHECK(s, cudaMemcpyAsync(dst, src, bytes, kinds[direction], s->native));
	cuda_mark_end(stream);
}

static void cuda_zero(struct device_stream *stream, void *dst, size_t bytes)
{
	struct cuda_stream *s = (struct cuda_stream *)stream;

	if (bytes == 0 || !work_begin(s, "zero"))
		return;
	cuda_mark_begin(stream, TRACE_BUSY, "zero", bytes);
	STREAM_CHECK(s, cudaMemsetAsync(dst, 0, bytes, s->native));
	cuda_mark_end(stream);
}

/* On one of CUDA's threads, in stream order. No CUDA call is allowed here. */
static void CUDART_CB host_run(void *arg)
{
	struct host_call *call = arg;
	struct cuda_stream *s = call->stream;
	struct err err = {0};
	int rc;

	if (device_running(s->front.device)) {
		rc = call->fn(call->arg, &err);
		if (rc < 0 && err.code >= 0)
			err_set(&err, rc, "a host function failed: %s", err_str(rc));
		if (rc < 0)
			device_fail(s->front.device, &err);
	}
	/* H1: gives the block back, pairs with H2 in host_block. */
	atomic_fetch_add_explicit(&s->calls_completed, 1, memory_order_release);
}

/* A free block of the ring; waits for the stream when there is none. NULL after a failure. */
static struct host_call *host_block(struct cuda_stream *s)
{
	/* H2: pairs with H1 in host_run. */
	if (s->calls_enqueued - atomic_load_explicit(&s->calls_completed, memory_order_acquire) ==
	    HOST_CALLS_MAX)
		cuda_stream_sync(&s->front);
	/* After the sync all have run, unless the device failed, and then nothing runs any more. */
	if (!device_running(s->front.device))
		return NULL;
	return &s->calls[s->calls_enqueued++ % HOST_CALLS_MAX];
}

static void cuda_host(struct device_stream *stream, device_host_fn *fn, void *arg)
{
	struct cuda_stream *s = (struct cuda_stream *)stream;
	struct host_call *call = host_block(s);

	if (!call || !work_begin(s, "host function"))
		return;
	*call = (struct host_call){s, fn, arg};
	cuda_mark_begin(stream, TRACE_BUSY, "host function", 0);
	STREAM_CHECK(s, cudaLaunchHostFunc(s->native, host_run, call));
	cuda_mark_end(stream);
}

static int cuda_trace(struct device_stream *stream, struct err *err)
{
	int rc = make_current((struct cuda_device *)stream->device, err);

	return rc ? rc : cuda_marks_open(stream, ((struct cuda_stream *)stream)->native, err);
}

const struct device_backend device_backend_cuda = {
	.open = cuda_open,
	.free = cuda_free,
	.host_register = cuda_host_register,
	.host_unregister = cuda_host_unregister,
	.stream_open = cuda_stream_open,
	.stream_sync = cuda_stream_sync,
	.stream_native = cuda_stream_native,
	.stream_busy = cuda_stream_busy,
	.event_open = cuda_event_open,
	.event_record = cuda_event_record,
	.event_sync = cuda_event_sync,
	.event_query = cuda_event_query,
	.stream_wait = cuda_stream_wait,
	.launch = cuda_launch,
	.copy = cuda_copy,
	.zero = cuda_zero,
	.host = cuda_host,
	.trace = cuda_trace,
	.span_begin = cuda_marks_begin,
	.span_end = cuda_marks_end,
	.trace_collect = cuda_marks_collect,
};
