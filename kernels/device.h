/*
 * A device: memory with a budget, streams that run work in order and asynchronously, events that
 * order streams among each other and against the host. Backends: cpu (a thread per stream) and
 * cuda. The semantics are CUDA's, so the engine above has one code path.
 *
 * Errors. Enqueueing never fails visibly: the first failure of any piece of work sticks to the
 * device, everything enqueued after it is skipped, and every sync and query returns it with its
 * text. So the caller checks where it waits, which is where it could know at the earliest.
 *
 * Threads. One thread enqueues on a given stream at a time; different streams may be fed by
 * different threads. Sync, query, device_fail and device_running may be called from any thread.
 */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/trace.h"

struct device;
struct device_stream;
struct device_event;

enum device_type { DEVICE_CPU, DEVICE_CUDA, DEVICE_TYPE_COUNT };

struct device_config {
	enum device_type type;
	unsigned index;        /* cuda: ordinal */
	uint64_t memory_bytes; /* the budget: taken whole at open, nothing is allocated later */
	unsigned threads;      /* cpu: threads that share the work of one operation, >= 1 */
};

/* Alignment of every allocation: a cache line pair, and what O_DIRECT and vector loads like. */
#define DEVICE_ALIGN 4096u

/* Is there code for this type in this build? The programs of a build agree on it. */
bool device_built(enum device_type type);

/*
 * What a device of this type takes from its budget for itself when it opens: 0 on cpu, the
 * products' workspace on cuda. device_used_bytes has it in.
 */
uint64_t device_own_bytes(enum device_type type);

/* ERR_CONFIG when the type is not built in or not there; -ENOMEM when memory is not to be had. */
int device_open(const struct device_config *config, struct device **ret, struct err *err);

/* Waits for all streams, then frees streams, events and memory. NULL is fine. Returns NULL. */
struct device *device_free(struct device *device);

enum device_type device_type_of(const struct device *device);

/*
 * Makes `err` (a negative code with its text) the device's sticky error unless it has one: called
 * by a backend when a piece of work fails, and by whoever learns otherwise that work cannot be
 * completed, as when a peer has died.
 */
void device_fail(struct device *device, const struct err *err);

/* Is work still to be run? False after the first failure. */
bool device_running(const struct device *device);

/*
 * Takes `bytes` from the budget, zeroed, aligned to DEVICE_ALIGN; freed with the device. On failure
 * returns NULL and err names `what`, the request, what is used and the budget.
 */
void *device_alloc(struct device *device, uint64_t bytes, const char *what, struct err *err);

uint64_t device_used_bytes(const struct device *device);

/*
 * Makes host memory known to the device so that copies are asynchronous; no-op on cpu. It must stay
 * mapped until it is unregistered, or the device freed. Whole pages are pinned: no two regions may
 * share one.
 */
int device_host_register(struct device *device, void *base, size_t bytes, struct err *err);

/*
 * Before memory that was registered at `base` is unmapped; work that touches it must have run.
 * Nothing when there is none. A failure becomes the device's sticky error.
 */
void device_host_unregister(struct device *device, void *base);

/* `name` is kept (static storage): it names the thread and the lane of a trace. */
int device_stream_open(struct device *device, const char *name, struct device_stream **ret,
		       struct err *err);

/* Waits until everything enqueued so far has run. Returns 0 or the device's sticky error. */
int device_stream_sync(struct device_stream *stream, struct err *err);

struct device *device_stream_device(struct device_stream *stream);

/*
 * The backend's own stream, for libraries that enqueue by themselves: a cudaStream_t; NULL on cpu.
 * Who enqueues on it asks device_running before, and hands its failures to device_fail.
 */
void *device_stream_native(struct device_stream *stream);

int device_event_open(struct device *device, struct device_event **ret, struct err *err);

/* The event completes when the work enqueued on the stream so far has run. May be recorded anew. */
void device_event_record(struct device_event *event, struct device_stream *stream);

/* Later work on the stream waits for the event's latest record before this call; none: no wait. */
void device_stream_wait(struct device_stream *stream, struct device_event *event);

/* Blocks the host until the event's latest record completed. 0 or the sticky error. */
int device_event_sync(struct device_event *event, struct err *err);

/* 1 when complete (or never recorded), 0 when not yet, or the sticky error. */
int device_event_query(struct device_event *event, struct err *err);

enum device_copy { DEVICE_COPY_IN, DEVICE_COPY_OUT, DEVICE_COPY_WITHIN };

/* Both buffers stay untouched by others until the copy ran. */
void device_copy(struct device_stream *stream, void *dst, const void *src, size_t bytes,
		 enum device_copy direction);

void device_zero(struct device_stream *stream, void *dst, size_t bytes);

/*
 * Runs fn(arg) on a host thread in stream order. It must not enqueue on or wait for the device. A
 * negative return with err filled becomes the device's sticky error.
 */
typedef int device_host_fn(void *arg, struct err *err);
void device_host(struct device_stream *stream, device_host_fn *fn, void *arg);

/* Seconds this stream spent running work (not waiting) since it was opened. */
double device_stream_busy(struct device_stream *stream);

/*
 * Tracing. From here on the stream records what it runs in `lane`: each operation, copy and host
 * function busy, each wait for another stream's event waiting. `host` (NULL: none) belongs to the
 * thread that enqueues, which then must be the only one: it gets that thread's waits for a full
 * stream. Called before the first work is enqueued; lanes outlive the device. ERR_CONFIG when the
 * device cannot; -ENOMEM.
 */
int device_stream_trace(struct device_stream *stream, struct trace_lane *lane,
			struct trace_lane *host, struct err *err);

/* What is enqueued next, until the next call, is about this unit of parameters: TRACE_NO_UNIT. */
void device_stream_unit(struct device_stream *stream, uint32_t unit);

/*
 * The one piece of work that is enqueued next has this name (storage that outlives the trace) in
 * place of its own, and moves so many bytes.
 */
void device_stream_name(struct device_stream *stream, const char *name, uint64_t bytes);

/*
 * Begins and ends an interval of the lane's that holds what the stream runs in between: TRACE_SPAN
 * to group that, TRACE_BUSY around what a library enqueues on the native stream by itself. They
 * nest to DEVICE_SPANS_MAX. Nothing happens when nobody records.
 */
#define DEVICE_SPANS_MAX 4u
void device_span_begin(struct device_stream *stream, enum trace_state state, const char *name,
		       uint64_t bytes);
void device_span_end(struct device_stream *stream);

/*
 * Moves to the lanes what the device has measured by a clock of its own; called by the enqueueing
 * thread now and then, before each taking of events. Nothing to do on cpu.
 */
void device_trace_collect(struct device *device);

/*
 * Operations are enqueued by the typed functions of linear.h, norm.h, rotary.h, attention.h,
 * activation.h, embedding.h, loss.h, vector.h, adam.h and optimizer.h, all of which come down to
 * this: the arguments are copied, the backend's table maps `op` to code. Not called from outside
 * kernels/.
 */
enum device_op {
	OP_LINEAR_FORWARD,
	OP_LINEAR_BACKWARD_INPUT,
	OP_LINEAR_BACKWARD_WEIGHT,
	OP_LAYERNORM_FORWARD,
	OP_LAYERNORM_BACKWARD,
	OP_RMSNORM_FORWARD,
	OP_RMSNORM_BACKWARD,
	OP_ROTARY,
	OP_ATTENTION_FORWARD,
	OP_ATTENTION_BACKWARD,
	OP_GELU_FORWARD,
	OP_GELU_BACKWARD,
	OP_SWIGLU_FORWARD,
	OP_SWIGLU_BACKWARD,
	OP_EMBEDDING_FORWARD,
	OP_EMBEDDING_BACKWARD,
	OP_CROSS_ENTROPY,
	OP_VECTOR_ADD,
	OP_VECTOR_CONVERT,
	OP_VECTOR_ACCUMULATE,
	OP_VECTOR_SUMSQ,
	OP_ADAM,
	OP_OPTIMIZER, /* of type cpu only */
	DEVICE_OP_COUNT,
};

#define DEVICE_ARGS_BYTES_MAX 192u

void device_launch(struct device_stream *stream, enum device_op op, const void *args,
		   size_t args_bytes);

#endif
