/*
 * The front of every device: the budget, the sticky error, and one table of backends. Called by the
 * engine from the threads device.h allows; the backend's own threads come in through device_fail.
 *
 * Invariants:
 * 1. The arena is taken whole at open and carved from the front; nothing is given back before
 *    device_free, so an allocation that fits once fits always.
 * 2. The first error stays: `error` is written once, under the lock, before `failed` is set.
 * 3. Nothing here knows what a backend is made of; a backend that is not linked in is a NULL in the
 *    table.
 */
#include "kernels/internal.h"

#include <assert.h>
#include <errno.h>

#include "common/units.h"

/*
 * The cuda backend lies in an archive of its own, kernels_cuda. Weak, so that programs which open
 * no device (dsrun, the daemon) link without it and without the CUDA runtime.
 */
extern const struct device_backend device_backend_cuda __attribute__((weak));

static const struct device_backend *const backends[DEVICE_TYPE_COUNT] = {
	[DEVICE_CPU] = &device_backend_cpu,
	[DEVICE_CUDA] = &device_backend_cuda,
};

/* DSRUN_CUDA comes from kernels/module.mk: 1 when nvcc was found. */
static const bool built[DEVICE_TYPE_COUNT] = {
	[DEVICE_CPU] = true,
	[DEVICE_CUDA] = DSRUN_CUDA,
};

static const uint64_t own_bytes[DEVICE_TYPE_COUNT] = {
	[DEVICE_CUDA] = CUDA_WORKSPACE_BYTES,
};

static const char *const type_names[DEVICE_TYPE_COUNT] = {
	[DEVICE_CPU] = "cpu",
	[DEVICE_CUDA] = "cuda",
};

/* As a trace shows them. */
static const char *const op_names[DEVICE_OP_COUNT] = {
	[OP_LINEAR_FORWARD] = "linear forward",
	[OP_LINEAR_BACKWARD_INPUT] = "linear backward, input",
	[OP_LINEAR_BACKWARD_WEIGHT] = "linear backward, weight",
	[OP_LAYERNORM_FORWARD] = "layernorm forward",
	[OP_LAYERNORM_BACKWARD] = "layernorm backward",
	[OP_ATTENTION_FORWARD] = "attention forward",
	[OP_ATTENTION_BACKWARD] = "attention backward",
	[OP_GELU_FORWARD] = "gelu forward",
	[OP_GELU_BACKWARD] = "gelu backward",
	[OP_EMBEDDING_FORWARD] = "embedding forward",
	[OP_EMBEDDING_BACKWARD] = "embedding backward",
	[OP_CROSS_ENTROPY] = "cross entropy",
	[OP_RMSNORM_FORWARD] = "rmsnorm forward",
	[OP_RMSNORM_BACKWARD] = "rmsnorm backward",
	[OP_SWIGLU_FORWARD] = "swiglu forward",
	[OP_SWIGLU_BACKWARD] = "swiglu backward",
	[OP_ROTARY] = "rotary",
	[OP_VECTOR_ADD] = "add",
	[OP_VECTOR_CONVERT] = "convert",
	[OP_VECTOR_ACCUMULATE] = "accumulate",
	[OP_VECTOR_SUMSQ] = "sum of squares",
	[OP_ADAM] = "adam",
	[OP_OPTIMIZER] = "optimizer",
};

static int error_get(struct device *device, struct err *err);

bool device_built(enum device_type type)
{
	assert(type < DEVICE_TYPE_COUNT);
	return built[type];
}

uint64_t device_own_bytes(enum device_type type)
{
	assert(type < DEVICE_TYPE_COUNT);
	return own_bytes[type];
}

int device_open(const struct device_config *config, struct device **ret, struct err *err)
{
	const struct device_backend *backend;

	assert(config->type < DEVICE_TYPE_COUNT);
	backend = backends[config->type];
	if (!backend)
		return err_set(err, ERR_CONFIG, "this build has no %s device",
			       type_names[config->type]);
	return backend->open(config, ret, err);
}

struct device *device_free(struct device *device)
{
	if (device)
		device->backend->free(device);
	return NULL;
}

enum device_type device_type_of(const struct device *device)
{
	return device->config.type;
}

void *device_alloc(struct device *device, uint64_t bytes, const char *what, struct err *err)
{
	char asked[UNITS_TEXT_BYTES], used[UNITS_TEXT_BYTES], budget[UNITS_TEXT_BYTES];
	uint64_t room, taken;
	void *p = NULL;

	pthread_mutex_lock(&device->lock);
	room = device->config.memory_bytes - device->used_bytes;
	/* Compare before rounding up, which could wrap. */
	if (bytes <= room) {
		taken = (bytes + DEVICE_ALIGN - 1) / DEVICE_ALIGN * DEVICE_ALIGN;
		/* The budget need not be a multiple of the alignment: its last piece is whole. */
		taken = taken < room ? taken : room;
		p = device->arena + device->used_bytes;
		device->used_bytes += taken;
	} else {
		err_set(err, -ENOMEM, "no device memory for %s: it takes %s, and %s of %s are used",
			what, units_format_bytes(asked, bytes),
			units_format_bytes(used, device->used_bytes),
			units_format_bytes(budget, device->config.memory_bytes));
	}
	pthread_mutex_unlock(&device->lock);
	return p;
}

uint64_t device_used_bytes(const struct device *device)
{
	struct device *d = (struct device *)device; /* only to lock */
	uint64_t used;

	pthread_mutex_lock(&d->lock);
	used = d->used_bytes;
	pthread_mutex_unlock(&d->lock);
	return used;
}

int device_host_register(struct device *device, void *base, size_t bytes, struct err *err)
{
	return device->backend->host_register(device, base, bytes, err);
}

void device_host_unregister(struct device *device, void *base)
{
	device->backend->host_unregister(device, base);
}

int device_stream_open(struct device *device, const char *name, struct device_stream **ret,
		       struct err *err)
{
	return device->backend->stream_open(device, name, ret, err);
}

int device_stream_trace(struct device_stream *stream, struct trace_lane *lane,
			struct trace_lane *host, struct err *err)
{
	const struct device_backend *backend = stream->device->backend;

	if (!backend->trace)
		return err_set(err, ERR_CONFIG, "the %s device cannot be traced",
			       type_names[stream->device->config.type]);
	stream->lane = lane;
	stream->host_lane = host;
	stream->unit = TRACE_NO_UNIT;
	return backend->trace(stream, err);
}

void device_stream_unit(struct device_stream *stream, uint32_t unit)
{
	stream->unit = unit;
}

void device_stream_name(struct device_stream *stream, const char *name, uint64_t bytes)
{
	stream->work_name = name;
	stream->work_bytes = bytes;
}

/* What was begun while nobody recorded is not ended either: a backend sees whole spans only. */
void device_span_begin(struct device_stream *stream, enum trace_state state, const char *name,
		       uint64_t bytes)
{
	struct device_label label = {name, bytes, stream->unit};
	bool record = stream->lane && trace_recording(stream->lane);

	assert(stream->spans < DEVICE_SPANS_MAX);
	stream->span_recorded[stream->spans++] = record;
	if (record)
		stream->device->backend->span_begin(stream, state, &label);
}

void device_span_end(struct device_stream *stream)
{
	assert(stream->spans > 0);
	if (stream->span_recorded[--stream->spans])
		stream->device->backend->span_end(stream);
}

void device_trace_collect(struct device *device)
{
	if (device->backend->trace_collect)
		device->backend->trace_collect(device);
}

struct device_label device_stream_label(struct device_stream *stream, const char *name,
					uint64_t bytes)
{
	struct device_label label = {name, bytes, stream->unit};

	if (stream->work_name) {
		label.name = stream->work_name;
		label.bytes = stream->work_bytes;
		stream->work_name = NULL;
	}
	return label;
}

const char *device_op_name(enum device_op op)
{
	return op_names[op] ? op_names[op] : "operation";
}

const char *device_copy_name(enum device_copy direction)
{
	static const char *const names[] = {
		[DEVICE_COPY_IN] = "copy in",
		[DEVICE_COPY_OUT] = "copy out",
		[DEVICE_COPY_WITHIN] = "copy",
	};

	return names[direction];
}

int device_stream_sync(struct device_stream *stream, struct err *err)
{
	stream->device->backend->stream_sync(stream);
	return error_get(stream->device, err);
}

struct device *device_stream_device(struct device_stream *stream)
{
	return stream->device;
}

void *device_stream_native(struct device_stream *stream)
{
	return stream->device->backend->stream_native(stream);
}

double device_stream_busy(struct device_stream *stream)
{
	return stream->device->backend->stream_busy(stream);
}

int device_event_open(struct device *device, struct device_event **ret, struct err *err)
{
	return device->backend->event_open(device, ret, err);
}

void device_event_record(struct device_event *event, struct device_stream *stream)
{
	assert(event->device == stream->device);
	event->device->backend->event_record(event, stream);
}

void device_stream_wait(struct device_stream *stream, struct device_event *event)
{
	assert(event->device == stream->device);
	event->device->backend->stream_wait(stream, event);
}

int device_event_sync(struct device_event *event, struct err *err)
{
	event->device->backend->event_sync(event);
	return error_get(event->device, err);
}

int device_event_query(struct device_event *event, struct err *err)
{
	bool complete = event->device->backend->event_query(event);
	int rc = error_get(event->device, err);

	return rc < 0 ? rc : complete;
}

void device_copy(struct device_stream *stream, void *dst, const void *src, size_t bytes,
		 enum device_copy direction)
{
	stream->device->backend->copy(stream, dst, src, bytes, direction);
}

void device_zero(struct device_stream *stream, void *dst, size_t bytes)
{
	stream->device->backend->zero(stream, dst, bytes);
}

void device_host(struct device_stream *stream, device_host_fn *fn, void *arg)
{
	stream->device->backend->host(stream, fn, arg);
}

void device_launch(struct device_stream *stream, enum device_op op, const void *args,
		   size_t args_bytes)
{
	assert(op < DEVICE_OP_COUNT && args_bytes <= DEVICE_ARGS_BYTES_MAX);
	stream->device->backend->launch(stream, op, args, args_bytes);
}

int device_init(struct device *device, const struct device_backend *backend,
		const struct device_config *config)
{
	device->backend = backend;
	device->config = *config;
	device->used_bytes = 0;
	atomic_init(&device->failed, false);
	return -pthread_mutex_init(&device->lock, NULL);
}

void device_done(struct device *device)
{
	pthread_mutex_destroy(&device->lock);
}

void device_fail(struct device *device, const struct err *err)
{
	assert(err->code < 0);
	pthread_mutex_lock(&device->lock);
	if (!device_running(device)) {
		pthread_mutex_unlock(&device->lock);
		return;
	}
	device->error = *err;
	/* Pairs with the acquire in device_running, though readers of `error` lock as well. */
	atomic_store_explicit(&device->failed, true, memory_order_release);
	pthread_mutex_unlock(&device->lock);
}

bool device_running(const struct device *device)
{
	return !atomic_load_explicit(&device->failed, memory_order_acquire);
}

static int error_get(struct device *device, struct err *err)
{
	int rc = 0;

	if (device_running(device))
		return 0;
	pthread_mutex_lock(&device->lock);
	rc = device->error.code;
	*err = device->error;
	pthread_mutex_unlock(&device->lock);
	return rc;
}
