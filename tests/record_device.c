/*
 * The recording device: queues, the thread that runs them, and the log.
 *
 * The driving thread enqueues, records, waits and syncs; one thread of the device takes the heads
 * of the queues, one at a time, in an order drawn by the schedule. Operations are the cpu device's.
 *
 * Invariants:
 * 1. The log is a linear extension of happens-before. Items are logged when they are enqueued, so
 *    in the order of the driving thread; what an item pushes to the daemon is logged when it runs,
 *    which is after it was enqueued and before anybody can learn that the push is complete.
 * 2. An item runs after all items of its stream before it, and after the items that the waits among
 *    those name. Nothing else is certain: the schedule decides.
 * 3. While the driving thread waits for the device or the daemon, every stream gets its turn in the
 *    end, so that whatever is waited for happens.
 * 4. Everything but the items' own memory is under `lock`, or one thread's own.
 */
#include "tests/record_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum item_kind { ITEM_OP, ITEM_MOVE, ITEM_ZERO, ITEM_CALL, ITEM_WAIT };

struct record_stream;

struct item {
	struct item *next;
	enum item_kind kind;
	size_t entry;
	_Alignas(16) uint8_t args[DEVICE_ARGS_BYTES_MAX];
	size_t bytes; /* of args, or moved */
	enum device_op op;
	void *dst;
	const void *src;
	device_host_fn *fn;
	void *arg;
	bool known; /* the bytes that fn touches were named */
	struct record_stream *after;
	uint64_t after_item;
};

struct record_stream {
	struct device_stream front;
	int index;
	struct item *first, **end;
	uint64_t enqueued, completed;
};

struct record_event {
	struct device_event front;
	int index;
	struct record_stream *stream; /* NULL: never recorded */
	uint64_t item;
};

struct record_device {
	struct device front;
	struct cpu_team *team;
	struct record_log *log;
	struct record_session session;
	struct record_schedule schedule;
	uint64_t random;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	struct record_stream *streams[RECORD_STREAMS_MAX];
	unsigned stream_count;
	struct record_event **events; /* by index */
	size_t event_count, event_room;
	unsigned blocked; /* the driving thread waits */
	bool stop;
	/* the driving thread's own */
	const void *site;
	const char *call_name; /* NULL: unknown */
	struct record_list call;
	/* the device's thread's own */
	size_t running;
	bool pushed;
};

/* Whose place this takes: device.c looks for it under this name. */
extern const struct device_backend device_backend_cuda;

static _Thread_local struct record_device *current;
static _Thread_local bool driving;
static _Thread_local struct record_schedule schedule_next;

static void *executor(void *arg);

static struct record_device *recording(struct device *device)
{
	return device->backend == &device_backend_cuda ? (struct record_device *)device : NULL;
}

void record_name_event(struct device_event *event, const char *name)
{
	struct record_device *d = (struct record_device *)event->device;
	struct record_event *e = (struct record_event *)event;

	pthread_mutex_lock(&d->lock);
	snprintf(d->log->event_names[e->index], RECORD_NAME_BYTES, "%s", name);
	pthread_mutex_unlock(&d->lock);
}

struct record_log *record_log_take(struct device *device)
{
	struct record_device *d = recording(device);
	struct record_log *log = d->log;

	/* What is freed from here on is no longer this thread's to log. */
	if (current == d)
		driving = false;
	pthread_mutex_lock(&d->lock);
	d->log = record_log_new();
	pthread_mutex_unlock(&d->lock);
	return log;
}

static void region_whole(struct record_device *d, const void *at, size_t bytes, const char *name)
{
	struct record_region region = {.at = (uintptr_t)at, .bytes = bytes, .whole = true};

	snprintf(region.name, sizeof(region.name), "%s", name);
	pthread_mutex_lock(&d->lock);
	record_log_region(d->log, &region);
	pthread_mutex_unlock(&d->lock);
}

size_t record_log_push(struct record_device *d, const struct record_push *push)
{
	struct record_entry e = {
		.kind = RECORD_PUSH,
		.what = push->what,
		.stream = -1,
		.event = -1,
		.partner = driving ? RECORD_BY_HOST : d->running,
		.queue = push->queue,
		.effects = push->effects,
		.site = driving ? d->site : NULL,
	};

	if (!driving)
		d->pushed = true;
	if (push->queue >= d->log->queue_count)
		d->log->queue_count = push->queue + 1;
	return record_log_entry(d->log, e, &push->list);
}

void record_log_done(struct record_device *d, size_t push)
{
	struct record_entry e = {.kind = RECORD_DONE,
				 .what = "wait for the daemon",
				 .stream = -1,
				 .event = -1,
				 .partner = push,
				 .site = d->site};

	pthread_mutex_lock(&d->lock);
	record_log_entry(d->log, e, NULL);
	pthread_mutex_unlock(&d->lock);
}

/* Whose thread is this? */

void record_schedule_set(const struct record_schedule *schedule)
{
	schedule_next = *schedule;
}

struct record_device *record_current(void)
{
	return current;
}

struct record_device *record_driven(void)
{
	return driving ? current : NULL;
}

struct record_log *record_log_of(struct record_device *d)
{
	return d->log;
}

struct record_session *record_session_of(struct record_device *d)
{
	return &d->session;
}

struct record_device *record_of_stream(struct device_stream *stream)
{
	return recording(device_stream_device(stream));
}

void record_site(const void *site)
{
	if (driving)
		current->site = site;
}

void record_call_next(struct record_device *d, const char *what, struct record_list *list)
{
	free(d->call.at);
	d->call = *list;
	d->call_name = what;
}

void record_lock(struct record_device *d)
{
	pthread_mutex_lock(&d->lock);
}

void record_unlock(struct record_device *d)
{
	pthread_mutex_unlock(&d->lock);
}

/* The lock is held. */
static void block(struct record_device *d)
{
	d->blocked++;
	pthread_cond_signal(&d->work);
}

void record_block(struct record_device *d)
{
	pthread_mutex_lock(&d->lock);
	block(d);
	pthread_mutex_unlock(&d->lock);
}

void record_unblock(struct record_device *d)
{
	pthread_mutex_lock(&d->lock);
	d->blocked--;
	pthread_mutex_unlock(&d->lock);
}

/* Opening and closing. */

static int record_open(const struct device_config *config, struct device **ret, struct err *err)
{
	struct device_config as_cpu = *config;
	struct record_device *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return err_sys(err, -ENOMEM, "recording device");
	as_cpu.type = DEVICE_CPU;
	d->log = record_log_new();
	if (!d->log || device_init(&d->front, &device_backend_cuda, &as_cpu))
		abort();
	d->front.arena = mmap(NULL, config->memory_bytes, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (d->front.arena == MAP_FAILED)
		abort();
	rc = blas_load(err);
	if (rc == 0)
		rc = cpu_team_open(config->threads, &d->team, err);
	if (rc < 0)
		abort();
	d->schedule = schedule_next;
	d->random = d->schedule.seed * 2 + 1;
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->work, NULL);
	pthread_cond_init(&d->done, NULL);
	if (pthread_create(&d->thread, NULL, executor, d))
		abort();
	region_whole(d, d->front.arena, config->memory_bytes, "device memory");
	current = d;
	driving = true;
	*ret = &d->front;
	return 0;
}

static void record_free(struct device *device)
{
	struct record_device *d = (struct record_device *)device;

	if (current == d) {
		current = NULL;
		driving = false;
	}
	pthread_mutex_lock(&d->lock);
	d->stop = true;
	pthread_cond_signal(&d->work);
	pthread_mutex_unlock(&d->lock);
	pthread_join(d->thread, NULL);
	cpu_team_free(d->team);
	for (unsigned i = 0; i < d->stream_count; i++)
		free(d->streams[i]);
	for (unsigned i = 0; i < d->event_count; i++)
		free(d->events[i]);
	free(d->events);
	record_log_free(d->log);
	free(d->session.units);
	free(d->session.blobs);
	free(d->session.push_of);
	free(d->call.at);
	munmap(d->front.arena, d->front.config.memory_bytes);
	pthread_cond_destroy(&d->done);
	pthread_cond_destroy(&d->work);
	pthread_mutex_destroy(&d->lock);
	device_done(&d->front);
	free(d);
}

static int record_register(struct device *device, void *base, size_t bytes, struct err *err)
{
	(void)err;
	region_whole((struct record_device *)device, base, bytes, "registered memory");
	return 0;
}

/* It is about to be unmapped, which is as good as written: nobody may use it any more. */
static void record_unregister(struct device *device, void *base)
{
	const struct record_log *log = ((struct record_device *)device)->log;

	for (size_t i = 0; i < log->region_count; i++)
		if (log->regions[i].whole && log->regions[i].at == (uintptr_t)base)
			record_host_writes(base, log->regions[i].bytes, "unregistering memory");
}

static int record_stream_open(struct device *device, const char *name, struct device_stream **ret,
			      struct err *err)
{
	struct record_device *d = (struct record_device *)device;
	struct record_stream *s = calloc(1, sizeof(*s));

	if (!s || d->stream_count == RECORD_STREAMS_MAX) {
		free(s);
		return err_sys(err, -ENOMEM, "stream %s", name);
	}
	s->front.device = device;
	s->front.name = name;
	s->index = (int)d->stream_count;
	s->end = &s->first;
	pthread_mutex_lock(&d->lock);
	d->streams[d->stream_count++] = s;
	d->log->streams[d->log->stream_count++] = name;
	pthread_mutex_unlock(&d->lock);
	*ret = &s->front;
	return 0;
}

static int record_event_open(struct device *device, struct device_event **ret, struct err *err)
{
	struct record_device *d = (struct record_device *)device;
	struct record_event *e = calloc(1, sizeof(*e));

	if (!e)
		return err_sys(err, -ENOMEM, "event");
	e->front.device = device;
	pthread_mutex_lock(&d->lock);
	d->events = record_room(d->events, d->event_count, &d->event_room, sizeof(*d->events));
	e->index = (int)d->event_count;
	d->events[d->event_count++] = e;
	record_log_event(d->log);
	pthread_mutex_unlock(&d->lock);
	*ret = &e->front;
	return 0;
}

/* Enqueueing. */

static struct item *item_new(enum item_kind kind)
{
	struct item *it = calloc(1, sizeof(*it));

	if (!it)
		abort();
	it->kind = kind;
	return it;
}

/* Would the schedule let this stream run, now that it has something? The lock is held. */
static bool wanted(const struct record_device *d, const struct record_stream *s)
{
	bool mine = (unsigned)s->index == d->schedule.stream;

	if (d->blocked > 0 || d->schedule.policy == RECORD_EAGER)
		return true;
	return d->schedule.policy == RECORD_STARVE   ? !mine
	       : d->schedule.policy == RECORD_FAVOUR ? mine
						     : false;
}

/* The lock is held. */
static void item_put(struct record_device *d, struct record_stream *s, struct item *it)
{
	*s->end = it;
	s->end = &it->next;
	s->enqueued++;
	if (wanted(d, s))
		pthread_cond_signal(&d->work);
}

/* Logs the item as `what` and enqueues it. */
static void item_add(struct record_stream *s, struct item *it, const char *what,
		     const struct record_list *list)
{
	struct record_device *d = (struct record_device *)s->front.device;
	struct record_entry e = {.kind = RECORD_ITEM,
				 .what = what,
				 .stream = s->index,
				 .event = -1,
				 .site = d->site};

	pthread_mutex_lock(&d->lock);
	it->entry = record_log_entry(d->log, e, list);
	item_put(d, s, it);
	pthread_mutex_unlock(&d->lock);
}

static void record_launch(struct device_stream *stream, enum device_op op, const void *args,
			  size_t args_bytes)
{
	struct record_stream *s = (struct record_stream *)stream;
	struct item *it = item_new(ITEM_OP);
	struct record_list list = {0};
	const char *name = record_op_accesses(op, args, &list);

	it->op = op;
	it->bytes = args_bytes;
	memcpy(it->args, args, args_bytes);
	item_add(s, it, name, &list);
	free(list.at);
}

static void record_copy(struct device_stream *stream, void *dst, const void *src, size_t bytes,
			enum device_copy direction)
{
	static const char *const names[] = {[DEVICE_COPY_IN] = "copy in",
					    [DEVICE_COPY_OUT] = "copy out",
					    [DEVICE_COPY_WITHIN] = "copy within"};
	struct record_stream *s = (struct record_stream *)stream;
	struct item *it = item_new(ITEM_MOVE);
	struct record_list list = {0};

	it->dst = dst;
	it->src = src;
	it->bytes = bytes;
	record_reads(&list, src, bytes);
	record_writes(&list, dst, bytes);
	item_add(s, it, names[direction], &list);
	free(list.at);
}

static void record_zero(struct device_stream *stream, void *dst, size_t bytes)
{
	struct record_stream *s = (struct record_stream *)stream;
	struct item *it = item_new(ITEM_ZERO);
	struct record_list list = {0};

	it->dst = dst;
	it->bytes = bytes;
	record_writes(&list, dst, bytes);
	item_add(s, it, "zero", &list);
	free(list.at);
}

/*
 * A host function is a collective, announced by record_call_next, or hands something to the daemon.
 * Of the latter's argument one byte stands for all: the driving thread has just filled it.
 */
static void record_host(struct device_stream *stream, device_host_fn *fn, void *arg)
{
	struct record_stream *s = (struct record_stream *)stream;
	struct record_device *d = (struct record_device *)stream->device;
	struct item *it = item_new(ITEM_CALL);
	struct record_list list = d->call;
	const char *name = d->call_name;

	it->fn = fn;
	it->arg = arg;
	it->known = name != NULL;
	d->call = (struct record_list){0};
	d->call_name = NULL;
	if (!it->known) {
		record_host_writes(arg, 1, "filling what a push sends");
		record_reads(&list, arg, 1);
		name = "push";
	}
	item_add(s, it, name, &list);
	free(list.at);
}

/* Is this one of the calls that the schedule leaves out? */
static bool dropped(const struct record_device *d, enum record_kind kind)
{
	const struct record_schedule *p = &d->schedule;

	return p->drop_site && p->drop_site == d->site && p->drop_kind == kind;
}

/* Logs one of the calls that order; the lock is held. */
static void order_add(struct record_device *d, enum record_kind kind, const char *what, int stream,
		      int event)
{
	struct record_entry e = {
		.kind = kind, .what = what, .stream = stream, .event = event, .site = d->site};

	record_log_entry(d->log, e, NULL);
}

static void record_event_record(struct device_event *event, struct device_stream *stream)
{
	struct record_device *d = (struct record_device *)stream->device;
	struct record_stream *s = (struct record_stream *)stream;
	struct record_event *e = (struct record_event *)event;

	pthread_mutex_lock(&d->lock);
	if (!dropped(d, RECORD_EVENT)) {
		order_add(d, RECORD_EVENT, "record", s->index, e->index);
		e->stream = s;
		e->item = s->enqueued;
	}
	pthread_mutex_unlock(&d->lock);
}

static void record_stream_wait(struct device_stream *stream, struct device_event *event)
{
	struct record_device *d = (struct record_device *)stream->device;
	struct record_stream *s = (struct record_stream *)stream;
	struct record_event *e = (struct record_event *)event;
	struct item *it;

	pthread_mutex_lock(&d->lock);
	if (!dropped(d, RECORD_WAIT)) {
		order_add(d, RECORD_WAIT, "wait", s->index, e->index);
		if (e->stream && e->stream != s) {
			it = item_new(ITEM_WAIT);
			it->after = e->stream;
			it->after_item = e->item;
			item_put(d, s, it);
		}
	}
	pthread_mutex_unlock(&d->lock);
}

/* The lock is held. */
static void await(struct record_device *d, struct record_stream *s, uint64_t item)
{
	block(d);
	while (s->completed < item)
		pthread_cond_wait(&d->done, &d->lock);
	d->blocked--;
}

static void record_stream_sync(struct device_stream *stream)
{
	struct record_device *d = (struct record_device *)stream->device;
	struct record_stream *s = (struct record_stream *)stream;

	pthread_mutex_lock(&d->lock);
	if (!dropped(d, RECORD_SYNC)) {
		await(d, s, s->enqueued);
		order_add(d, RECORD_SYNC, "sync", s->index, -1);
	}
	pthread_mutex_unlock(&d->lock);
}

static void record_event_sync(struct device_event *event)
{
	struct record_device *d = (struct record_device *)event->device;
	struct record_event *e = (struct record_event *)event;

	pthread_mutex_lock(&d->lock);
	if (!dropped(d, RECORD_EVENT_SYNC)) {
		if (e->stream)
			await(d, e->stream, e->item);
		order_add(d, RECORD_EVENT_SYNC, "sync", -1, e->index);
	}
	pthread_mutex_unlock(&d->lock);
}

static bool record_event_query(struct device_event *event)
{
	struct record_device *d = (struct record_device *)event->device;
	struct record_event *e = (struct record_event *)event;
	bool complete;

	pthread_mutex_lock(&d->lock);
	complete = !e->stream || e->stream->completed >= e->item;
	if (complete)
		order_add(d, RECORD_QUERY, "query", -1, e->index);
	pthread_mutex_unlock(&d->lock);
	return complete;
}

static void *record_stream_native(struct device_stream *stream)
{
	(void)stream;
	return NULL;
}

static double record_stream_busy(struct device_stream *stream)
{
	(void)stream;
	return 0;
}

const struct device_backend device_backend_cuda = {
	.open = record_open,
	.free = record_free,
	.host_register = record_register,
	.host_unregister = record_unregister,
	.stream_open = record_stream_open,
	.stream_sync = record_stream_sync,
	.stream_native = record_stream_native,
	.stream_busy = record_stream_busy,
	.event_open = record_event_open,
	.event_record = record_event_record,
	.event_sync = record_event_sync,
	.event_query = record_event_query,
	.stream_wait = record_stream_wait,
	.launch = record_launch,
	.copy = record_copy,
	.zero = record_zero,
	.host = record_host,
};

/* Running. */

static bool can_go_on(const struct record_stream *s)
{
	const struct item *it = s->first;

	return it && (it->kind != ITEM_WAIT || it->after->completed >= it->after_item);
}

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* Any stream that can go on but the one of the schedule; NULL: none. */
static struct record_stream *choose_any(struct record_device *d, bool but_one)
{
	struct record_stream *found[RECORD_STREAMS_MAX];
	unsigned count = 0;

	for (unsigned i = 0; i < d->stream_count; i++)
		if (can_go_on(d->streams[i]) && !(but_one && i == d->schedule.stream))
			found[count++] = d->streams[i];
	return count ? found[draw(&d->random) % count] : NULL;
}

/* The stream whose head runs next; NULL: none for now. */
static struct record_stream *choose(struct record_device *d)
{
	struct record_stream *mine =
		d->schedule.stream < d->stream_count ? d->streams[d->schedule.stream] : NULL;
	bool urgent = d->blocked > 0 || d->stop;
	struct record_stream *s;

	switch (d->schedule.policy) {
	case RECORD_LAZY:
		return urgent ? choose_any(d, false) : NULL;
	case RECORD_STARVE:
		s = choose_any(d, true);
		return s || !urgent ? s : choose_any(d, false);
	case RECORD_FAVOUR:
		if (mine && can_go_on(mine))
			return mine;
		return urgent ? choose_any(d, true) : NULL;
	case RECORD_EAGER:
	case RECORD_POLICY_COUNT:
		break;
	}
	return choose_any(d, false);
}

static void call(struct record_device *d, const struct item *it)
{
	struct err err = {0};
	int rc;

	d->running = it->entry;
	d->pushed = false;
	rc = it->fn(it->arg, &err);
	if (rc >= 0 && !it->known && !d->pushed)
		rc = err_set(&err, ERR_INTERNAL, "a host function touches unknown bytes");
	if (rc < 0 && err.code >= 0)
		err_set(&err, rc, "a host function failed: %s", err_str(rc));
	if (rc < 0)
		device_fail(&d->front, &err);
}

static void run(struct record_device *d, const struct item *it)
{
	switch (it->kind) {
	case ITEM_OP:
		cpu_ops[it->op](d->team, it->args);
		break;
	case ITEM_MOVE:
		memmove(it->dst, it->src, it->bytes);
		break;
	case ITEM_ZERO:
		memset(it->dst, 0, it->bytes);
		break;
	case ITEM_CALL:
		call(d, it);
		break;
	case ITEM_WAIT:
		break;
	}
}

static void *executor(void *arg)
{
	struct record_device *d = arg;
	struct record_stream *s;
	struct item *it;

	current = d;
	pthread_mutex_lock(&d->lock);
	for (;;) {
		s = choose(d);
		if (!s && d->stop)
			break;
		if (!s) {
			pthread_cond_wait(&d->work, &d->lock);
			continue;
		}
		it = s->first;
		pthread_mutex_unlock(&d->lock);
		if (device_running(&d->front))
			run(d, it);
		pthread_mutex_lock(&d->lock);
		s->first = it->next;
		if (!s->first)
			s->end = &s->first;
		s->completed++;
		free(it);
		pthread_cond_broadcast(&d->done);
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}
