/* Private to kernels/: what a backend is, and what the cpu backend's files share. */
#ifndef KERNELS_INTERNAL_H
#define KERNELS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"

/* How a trace calls a piece of work; what it is called by itself is `name`. */
struct device_label {
	const char *name;
	uint64_t bytes;
	uint32_t unit;
};

/*
 * A backend embeds these three as the first members of its own. The front (device.c) does the
 * budget and the sticky error; a backend runs work and calls device_fail when some of it fails.
 */
struct device_backend {
	/* Opens with arena of config->memory_bytes, zeroed; the front has set config and error. */
	int (*open)(const struct device_config *config, struct device **ret, struct err *err);
	void (*free)(struct device *device);
	int (*host_register)(struct device *device, void *base, size_t bytes, struct err *err);
	void (*host_unregister)(struct device *device, void *base);
	int (*stream_open)(struct device *device, const char *name, struct device_stream **ret,
			   struct err *err);
	void (*stream_sync)(struct device_stream *stream);
	void *(*stream_native)(struct device_stream *stream);
	double (*stream_busy)(struct device_stream *stream);
	int (*event_open)(struct device *device, struct device_event **ret, struct err *err);
	void (*event_record)(struct device_event *event, struct device_stream *stream);
	void (*event_sync)(struct device_event *event);
	bool (*event_query)(struct device_event *event);
	void (*stream_wait)(struct device_stream *stream, struct device_event *event);
	void (*launch)(struct device_stream *stream, enum device_op op, const void *args,
		       size_t args_bytes);
	void (*copy)(struct device_stream *stream, void *dst, const void *src, size_t bytes,
		     enum device_copy direction);
	void (*zero)(struct device_stream *stream, void *dst, size_t bytes);
	void (*host)(struct device_stream *stream, device_host_fn *fn, void *arg);
	/*
	 * Tracing; all NULL where a backend cannot. `trace` is called when the front has set
	 * stream->lane. While trace_recording(lane), each piece of work then puts a TRACE_BUSY
	 * event into stream->lane, with device_stream_label's name, unit and bytes; a wait that
	 * really waited a TRACE_WAIT; and span_begin to span_end one of the given state. Times are
	 * CLOCK_MONOTONIC's; a device with another clock converts in `trace_collect`, which then
	 * is its lanes' only writer.
	 */
	int (*trace)(struct device_stream *stream, struct err *err);
	void (*span_begin)(struct device_stream *stream, enum trace_state state,
			   const struct device_label *label);
	void (*span_end)(struct device_stream *stream);
	void (*trace_collect)(struct device *device);
};

extern const struct device_backend device_backend_cpu;

/* What cuBLASLt may use for a product's partial sums: NVIDIA's advice for sm_90. */
#define CUDA_WORKSPACE_BYTES ((uint64_t)32 << 20)

struct device {
	const struct device_backend *backend;
	struct device_config config;
	uint8_t *arena;       /* memory_bytes, the backend's */
	pthread_mutex_t lock; /* used_bytes, error */
	uint64_t used_bytes;
	atomic_bool failed; /* set after error is written, under lock */
	struct err error;
	void *tracer; /* the backend's, once one of its streams is traced */
};

struct device_stream {
	struct device *device;
	const char *name;
	struct trace_lane *lane, *host_lane; /* NULL: not traced */
	uint32_t unit;                       /* of what is enqueued, for the trace */
	const char *work_name;               /* of the next piece of work alone; NULL: its own */
	uint64_t work_bytes;
	void *tracer;   /* the backend's, once it is traced */
	unsigned spans; /* begun and not ended, recorded or not */
	bool span_recorded[DEVICE_SPANS_MAX];
};

/* The label of the piece that is being enqueued. Forgets what was said of this piece alone. */
struct device_label device_stream_label(struct device_stream *stream, const char *name,
					uint64_t bytes);

/* Names for labels: of operations, copies, and the rest. */
const char *device_op_name(enum device_op op);
const char *device_copy_name(enum device_copy direction);

struct device_event {
	struct device *device;
};

/* For a backend's open and free: the part of struct device that is the front's. */
int device_init(struct device *device, const struct device_backend *backend,
		const struct device_config *config);
void device_done(struct device *device);

/*
 * A team splits one operation over threads. Parts are handed out in any order, so what an
 * operation computes must not depend on which thread runs a part; `worker` (below the team's
 * threads) only picks scratch. One operation at a time uses a team of several threads: others wait.
 */
struct cpu_team;
typedef void cpu_team_fn(void *arg, size_t part, unsigned worker);

int cpu_team_open(unsigned threads, struct cpu_team **ret, struct err *err);
struct cpu_team *cpu_team_free(struct cpu_team *team);
void cpu_team_run(struct cpu_team *team, cpu_team_fn *fn, void *arg, size_t parts);
unsigned cpu_team_threads(const struct cpu_team *team);

/* The cpu device's operations: one file each, args as their typed function was given them. */
void cpu_linear_forward(struct cpu_team *team, const void *args);
void cpu_linear_backward_input(struct cpu_team *team, const void *args);
void cpu_linear_backward_weight(struct cpu_team *team, const void *args);
void cpu_layernorm_forward(struct cpu_team *team, const void *args);
void cpu_layernorm_backward(struct cpu_team *team, const void *args);
void cpu_rmsnorm_forward(struct cpu_team *team, const void *args);
void cpu_rmsnorm_backward(struct cpu_team *team, const void *args);
void cpu_rotary(struct cpu_team *team, const void *args);
void cpu_attention_forward(struct cpu_team *team, const void *args);
void cpu_attention_backward(struct cpu_team *team, const void *args);
void cpu_gelu_forward(struct cpu_team *team, const void *args);
void cpu_gelu_backward(struct cpu_team *team, const void *args);
void cpu_swiglu_forward(struct cpu_team *team, const void *args);
void cpu_swiglu_backward(struct cpu_team *team, const void *args);
void cpu_embedding_forward(struct cpu_team *team, const void *args);
void cpu_embedding_backward(struct cpu_team *team, const void *args);
void cpu_cross_entropy(struct cpu_team *team, const void *args);
void cpu_vector_add(struct cpu_team *team, const void *args);
void cpu_vector_convert(struct cpu_team *team, const void *args);
void cpu_vector_accumulate(struct cpu_team *team, const void *args);
void cpu_vector_sumsq(struct cpu_team *team, const void *args);
void cpu_adam(struct cpu_team *team, const void *args);
void cpu_optimizer(struct cpu_team *team, const void *args);

/* The same by number: device_cpu.c's table. blas_load must have been called. */
typedef void cpu_op_fn(struct cpu_team *team, const void *args);
extern cpu_op_fn *const cpu_ops[DEVICE_OP_COUNT];

/* Floats of scratch that attention needs for each thread of the team. */
size_t cpu_attention_scratch_count(size_t seq, size_t head_dim);

/*
 * Loads OpenBLAS, once in a process. ERR_CONFIG when it is not to be had. cblas_sgemm for row-major
 * matrices, in the calling thread: c = op(a) op(b) + beta * c.
 */
int blas_load(struct err *err);
void blas_sgemm(bool a_transposed, bool b_transposed, size_t m, size_t n, size_t k, const float *a,
		size_t a_row, const float *b, size_t b_row, float beta, float *c, size_t c_row);

static inline size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Parts of `piece` elements that make up `count`. */
static inline size_t parts_of(size_t count, size_t piece)
{
	return count / piece + (count % piece != 0);
}

#endif
