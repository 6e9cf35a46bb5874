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

int device_stream_open(struct device *device, const char *name, struct device_stream **ret,
		       struct err *err)
{
	return device->backend->stream_open(device, name, ret, err);
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
