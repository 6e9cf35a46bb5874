/*
 * Devices, streams and events under the CUDA shim: a stream is a thread that runs what was
 * enqueued, in order and asynchronously, and events have CUDA's semantics. Calls come from any
 * thread.
 *
 * 1. A stream's items are numbered from 1; `enqueued` and `completed` only grow, under its lock.
 * 2. An event counts its records. What waits for it waits for the records there were at that time;
 *    one that was never recorded is complete.
 * 3. After a failure that sticks, items are skipped but for records, so that nobody waits for ever.
 * 4. Stream NULL, which tests of kernels use, runs in the calling thread; nobody else is waited
 *    for.
 * 5. Where CUDA leaves freedom, the shim takes what is least kind: a query that finds work not
 *    ready is the thread's last error, a stream of another device than the thread's current one is
 *    refused, and a copy that CUDA may make late reads its source late.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/cuda_host/cudart.h"

enum item_kind { ITEM_CALL, ITEM_HOST, ITEM_COPY, ITEM_FILL, ITEM_RECORD, ITEM_WAIT };

struct item {
	struct item *next;
	enum item_kind kind;
	void (*fn)(void *);
	void *arg; /* of ITEM_CALL: from malloc, and the callee's */
	void *dst;
	const void *src;
	void *staged; /* what a copy from memory that is not registered reads */
	size_t bytes;
	int byte;
	struct CUevent_st *event;
	uint64_t ticket;
};

struct CUstream_st {
	struct CUstream_st *next; /* of all */
	int device;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	struct item *first, **last;
	uint64_t enqueued, completed;
	bool stop;
};

struct CUevent_st {
	int device;
	bool timing;
	pthread_mutex_t lock;
	pthread_cond_t done;
	unsigned users; /* its owner, and items that name it */
	uint64_t recorded, completed;
	struct timespec at; /* the latest completed record */
};

static pthread_mutex_t streams_lock = PTHREAD_MUTEX_INITIALIZER;
static struct CUstream_st *streams;
static atomic_size_t opened;
static atomic_int device_count = 8, device_major = 9, device_minor = 0;
static __thread int current;

void shim_devices_set(int count, int major, int minor)
{
	atomic_store_explicit(&device_count, count, memory_order_relaxed);
	atomic_store_explicit(&device_major, major, memory_order_relaxed);
	atomic_store_explicit(&device_minor, minor, memory_order_relaxed);
}

size_t shim_opened(void)
{
	return atomic_load_explicit(&opened, memory_order_relaxed);
}

cudaError_t cudaGetDeviceCount(int *ret)
{
	cudaError_t error = shim_enter();

	*ret = atomic_load_explicit(&device_count, memory_order_relaxed);
	if (error == cudaSuccess && *ret == 0)
		error = shim_last_error_set(cudaErrorNoDevice);
	return error;
}

static bool device_there(int device)
{
	return device >= 0 && device < atomic_load_explicit(&device_count, memory_order_relaxed);
}

cudaError_t cudaDeviceGetAttribute(int *ret, enum cudaDeviceAttr name, int device)
{
	cudaError_t error = shim_enter();

	if (error != cudaSuccess)
		return error;
	if (!device_there(device))
		return shim_last_error_set(cudaErrorInvalidDevice);
	switch (name) {
	case cudaDevAttrComputeCapabilityMajor:
		*ret = atomic_load_explicit(&device_major, memory_order_relaxed);
		return cudaSuccess;
	case cudaDevAttrComputeCapabilityMinor:
		*ret = atomic_load_explicit(&device_minor, memory_order_relaxed);
		return cudaSuccess;
	case cudaDevAttrMultiProcessorCount:
		*ret = 4;
		return cudaSuccess;
	}
	return shim_last_error_set(cudaErrorInvalidValue);
}

cudaError_t cudaInitDevice(int device, unsigned device_flags, unsigned flags)
{
	cudaError_t error = shim_enter();

	if (error != cudaSuccess)
		return error;
	if (!device_there(device))
		return shim_last_error_set(cudaErrorInvalidDevice);
	if (device_flags > cudaDeviceScheduleBlockingSync || flags > cudaInitDeviceFlagsAreValid)
		return shim_last_error_set(cudaErrorInvalidValue);
	return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
	cudaError_t error = shim_enter();

	if (error == cudaSuccess && !device_there(device))
		error = shim_last_error_set(cudaErrorInvalidDevice);
	if (error == cudaSuccess)
		current = device;
	return error;
}

cudaError_t cudaGetDevice(int *ret)
{
	*ret = current;
	return shim_enter();
}

/* Events */

static void event_put(struct CUevent_st *e)
{
	unsigned left;

	pthread_mutex_lock(&e->lock);
	left = --e->users;
	pthread_mutex_unlock(&e->lock);
	if (left > 0)
		return;
	pthread_cond_destroy(&e->done);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

static void event_complete(struct CUevent_st *e, uint64_t ticket)
{
	pthread_mutex_lock(&e->lock);
	/* Records of several streams complete in any order; the latest is what counts. */
	if (ticket > e->completed) {
		e->completed = ticket;
		clock_gettime(CLOCK_MONOTONIC, &e->at);
	}
	pthread_cond_broadcast(&e->done);
	pthread_mutex_unlock(&e->lock);
}

static void event_wait(struct CUevent_st *e, uint64_t ticket)
{
	pthread_mutex_lock(&e->lock);
	while (e->completed < ticket)
		pthread_cond_wait(&e->done, &e->lock);
	pthread_mutex_unlock(&e->lock);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned flags)
{
	cudaError_t error = shim_enter();
	struct CUevent_st *e;

	if (error != cudaSuccess)
		return error;
	if (flags & ~(unsigned)(cudaEventDisableTiming | cudaEventBlockingSync))
		return shim_last_error_set(cudaErrorInvalidValue);
	e = calloc(1, sizeof(*e));
	if (!e)
		return shim_last_error_set(cudaErrorMemoryAllocation);
	e->device = current;
	e->timing = !(flags & cudaEventDisableTiming);
	e->users = 1;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->done, NULL);
	atomic_fetch_add_explicit(&opened, 1, memory_order_relaxed);
	*ret = e;
	return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *ret)
{
	return cudaEventCreateWithFlags(ret, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
	cudaError_t error = shim_enter();

	if (!event)
		return shim_last_error_set(cudaErrorInvalidResourceHandle);
	event_put(event);
	atomic_fetch_sub_explicit(&opened, 1, memory_order_relaxed);
	return error;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
	cudaError_t error = shim_enter();

	if (error != cudaSuccess)
		return error;
	pthread_mutex_lock(&event->lock);
	if (event->completed < event->recorded)
		error = shim_last_error_set(cudaErrorNotReady);
	pthread_mutex_unlock(&event->lock);
	return error;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
	cudaError_t error = shim_enter();
	uint64_t ticket;

	if (error != cudaSuccess)
		return error;
	pthread_mutex_lock(&event->lock);
	ticket = event->recorded;
	pthread_mutex_unlock(&event->lock);
	event_wait(event, ticket);
	return shim_status();
}

cudaError_t cudaEventElapsedTime(float *ret_ms, cudaEvent_t begin, cudaEvent_t end)
{
	const cudaEvent_t events[] = {begin, end};
	cudaError_t error = shim_enter();
	struct timespec at[2];

	for (int i = 0; error == cudaSuccess && i < 2; i++) {
		pthread_mutex_lock(&events[i]->lock);
		if (!events[i]->timing || events[i]->recorded == 0)
			error = cudaErrorInvalidResourceHandle;
		else if (events[i]->completed < events[i]->recorded)
			error = cudaErrorNotReady;
		at[i] = events[i]->at;
		pthread_mutex_unlock(&events[i]->lock);
	}
	if (error != cudaSuccess)
		return shim_last_error_set(error);
	*ret_ms = (float)((double)(at[1].tv_sec - at[0].tv_sec) * 1e3 +
			  (double)(at[1].tv_nsec - at[0].tv_nsec) * 1e-6);
	return cudaSuccess;
}

/* Streams: their threads */

static void host_function(const struct item *it)
{
	shim_in_host_function(true);
	it->fn(it->arg);
	shim_in_host_function(false);
}

static void item_run(struct item *it)
{
	switch (it->kind) {
	case ITEM_CALL:
		it->fn(it->arg);
		it->arg = NULL;
		break;
	case ITEM_HOST:
		host_function(it);
		break;
	case ITEM_COPY:
		memmove(it->dst, it->staged ? it->staged : it->src, it->bytes);
		break;
	case ITEM_FILL:
		shim_fill(it->dst, it->byte, it->bytes);
		break;
	case ITEM_WAIT:
		event_wait(it->event, it->ticket);
		break;
	case ITEM_RECORD:
		break;
	}
}

/* Runs an item, or skips it; then it is gone. */
static void item_finish(struct item *it)
{
	if (it->kind != ITEM_RECORD && it->kind != ITEM_WAIT)
		shim_work_enter();
	if (shim_status() == cudaSuccess)
		item_run(it);
	if (it->kind == ITEM_RECORD)
		event_complete(it->event, it->ticket);
	if (it->event)
		event_put(it->event);
	if (it->kind == ITEM_CALL)
		free(it->arg);
	free(it->staged);
	free(it);
}

static void *stream_main(void *arg)
{
	struct CUstream_st *s = arg;

	current = s->device;
	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct item *it;

		while (!s->stop && !s->first)
			pthread_cond_wait(&s->work, &s->lock);
		it = s->first;
		if (!it)
			break;
		s->first = it->next;
		if (!s->first)
			s->last = &s->first;
		pthread_mutex_unlock(&s->lock);
		item_finish(it);
		pthread_mutex_lock(&s->lock);
		s->completed++;
		pthread_cond_broadcast(&s->done);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void stream_drain(struct CUstream_st *s)
{
	uint64_t target;

	pthread_mutex_lock(&s->lock);
	target = s->enqueued;
	while (s->completed < target)
		pthread_cond_wait(&s->done, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

/* Takes what `item` staged, and its use of an event; `arg` remains the caller's on an error. */
static cudaError_t enqueue(cudaStream_t s, const struct item *item)
{
	struct item *it = malloc(sizeof(*it));

	if (!it) {
		free(item->staged);
		if (item->event)
			event_put(item->event);
		return shim_last_error_set(cudaErrorMemoryAllocation);
	}
	*it = *item;
	it->next = NULL;
	if (!s) {
		item_finish(it);
		return cudaSuccess;
	}
	pthread_mutex_lock(&s->lock);
	*s->last = it;
	s->last = &it->next;
	s->enqueued++;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
	return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags)
{
	cudaError_t error = shim_enter();
	struct CUstream_st *s;

	if (error != cudaSuccess)
		return error;
	if (flags > cudaStreamNonBlocking)
		return shim_last_error_set(cudaErrorInvalidValue);
	s = calloc(1, sizeof(*s));
	if (!s)
		return shim_last_error_set(cudaErrorMemoryAllocation);
	s->device = current;
	s->last = &s->first;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->done, NULL);
	if (pthread_create(&s->thread, NULL, stream_main, s) != 0) {
		pthread_cond_destroy(&s->done);
		pthread_cond_destroy(&s->work);
		pthread_mutex_destroy(&s->lock);
		free(s);
		return shim_last_error_set(cudaErrorMemoryAllocation);
	}
	pthread_mutex_lock(&streams_lock);
	s->next = streams;
	streams = s;
	pthread_mutex_unlock(&streams_lock);
	atomic_fetch_add_explicit(&opened, 1, memory_order_relaxed);
	*ret = s;
	return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *ret)
{
	return cudaStreamCreateWithFlags(ret, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
	cudaError_t error = shim_enter();
	struct CUstream_st **at;

	if (!stream)
		return shim_last_error_set(cudaErrorInvalidResourceHandle);
	pthread_mutex_lock(&streams_lock);
	for (at = &streams; *at != stream; at = &(*at)->next)
		continue;
	*at = stream->next;
	pthread_mutex_unlock(&streams_lock);
	pthread_mutex_lock(&stream->lock);
	stream->stop = true;
	pthread_cond_signal(&stream->work);
	pthread_mutex_unlock(&stream->lock);
	pthread_join(stream->thread, NULL);
	pthread_cond_destroy(&stream->done);
	pthread_cond_destroy(&stream->work);
	pthread_mutex_destroy(&stream->lock);
	free(stream);
	atomic_fetch_sub_explicit(&opened, 1, memory_order_relaxed);
	return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
	cudaError_t error = shim_enter();

	if (error != cudaSuccess)
		return error;
	if (stream)
		stream_drain(stream);
	return shim_status();
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
	cudaError_t error = shim_enter();

	if (error != cudaSuccess || !stream)
		return error;
	pthread_mutex_lock(&stream->lock);
	if (stream->completed < stream->enqueued)
		error = shim_last_error_set(cudaErrorNotReady);
	pthread_mutex_unlock(&stream->lock);
	return error;
}

/* Streams may be opened meanwhile, not destroyed: that is its caller's to see to, as with CUDA. */
cudaError_t cudaDeviceSynchronize(void)
{
	cudaError_t error = shim_enter();
	struct CUstream_st *s;

	if (error != cudaSuccess)
		return error;
	pthread_mutex_lock(&streams_lock);
	s = streams;
	pthread_mutex_unlock(&streams_lock);
	for (; s; s = s->next)
		if (s->device == current)
			stream_drain(s);
	return shim_status();
}

/* Before anything is enqueued. */
static cudaError_t stream_enter(cudaStream_t stream)
{
	cudaError_t error = shim_enter();

	if (error == cudaSuccess && stream && stream->device != current)
		error = shim_last_error_set(cudaErrorInvalidResourceHandle);
	return error;
}

cudaError_t shim_stream_call(cudaStream_t stream, void (*fn)(void *), void *arg)
{
	const struct item item = {.kind = ITEM_CALL, .fn = fn, .arg = arg};
	cudaError_t error = stream_enter(stream);

	return error == cudaSuccess ? enqueue(stream, &item) : error;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg)
{
	const struct item item = {.kind = ITEM_HOST, .fn = fn, .arg = arg};
	cudaError_t error = stream_enter(stream);

	return error == cudaSuccess ? enqueue(stream, &item) : error;
}

/*
 * From host memory that is not registered CUDA copies through a buffer of its own, before it
 * returns; to such memory, it returns when the copy is made.
 */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
			    cudaStream_t stream)
{
	struct item item = {.kind = ITEM_COPY, .dst = dst, .src = src, .bytes = bytes};
	cudaError_t error = stream_enter(stream);

	if (error == cudaSuccess)
		error = shim_copy_check(dst, src, bytes, kind);
	if (error != cudaSuccess || bytes == 0)
		return error;
	if (kind == cudaMemcpyHostToDevice && !shim_is_registered(src, bytes)) {
		item.staged = malloc(bytes);
		if (!item.staged)
			return shim_last_error_set(cudaErrorMemoryAllocation);
		memcpy(item.staged, src, bytes);
	}
	error = enqueue(stream, &item);
	if (error != cudaSuccess)
		return error;
	if (stream && kind == cudaMemcpyDeviceToHost && !shim_is_registered(dst, bytes))
		stream_drain(stream);
	return shim_status();
}

cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t stream)
{
	const struct item item = {.kind = ITEM_FILL, .dst = p, .byte = byte, .bytes = bytes};
	cudaError_t error = stream_enter(stream);

	if (error == cudaSuccess)
		error = shim_fill_check(p, bytes);
	return error == cudaSuccess ? enqueue(stream, &item) : error;
}

/* An item that names an event at its count of records now, `more` of which come with the item. */
static struct item event_item(enum item_kind kind, cudaEvent_t event, uint64_t more)
{
	struct item item = {.kind = kind, .event = event};

	pthread_mutex_lock(&event->lock);
	event->recorded += more;
	event->users++;
	item.ticket = event->recorded;
	pthread_mutex_unlock(&event->lock);
	return item;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	cudaError_t error = stream_enter(stream);
	struct item item;

	if (error != cudaSuccess)
		return error;
	if (event->device != current)
		return shim_last_error_set(cudaErrorInvalidResourceHandle);
	item = event_item(ITEM_RECORD, event, 1);
	return enqueue(stream, &item);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
	cudaError_t error = stream_enter(stream);
	struct item item;

	if (error != cudaSuccess)
		return error;
	if (flags != 0)
		return shim_last_error_set(cudaErrorInvalidValue);
	item = event_item(ITEM_WAIT, event, 0);
	return enqueue(stream, &item);
}
