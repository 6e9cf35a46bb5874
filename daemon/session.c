/*
 * A session's life, and the loop of its thread. The main thread starts, stops and frees
 * (session.h); the session's thread does the rest: it allocates, opens the swap store, answers
 * OPEN, then takes submissions and moves the pipeline until it is told to stop.
 *
 * The thread sleeps in one poll on: the submission ring's eventfd, the store's, the pool's and the
 * one for stopping.
 *
 * Invariants
 *  1. A submission is copied out of the ring once, then checked; the arena's header and both rings
 *     are otherwise only written, or read through ring.c, which bounds the peer's indices.
 *  2. The first failure is told once to the log and once to the arena (session_fail). The peer can
 *     scribble on that text; nobody here reads it.
 *  3. Memory, swap and everything else but the descriptors is given back before the state becomes
 *     ENDED; descriptors live from session_start to session_free, since the main thread uses them.
 *  4. The peer holds the rings' eventfds too and may make a write to one block. Nobody but this
 *     thread ever blocks on them, and the main thread's session_stop empties what blocks it.
 */
#include "daemon/internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/shm.h"
#include "common/units.h"
#include "daemon/wire.h"

/* How much memory is filled between two looks at whether to stop. */
#define POPULATE_BYTES (UINT64_C(64) << 20)
/* Submissions taken between two looks at the disk and the pool. */
#define SUBMISSIONS_MAX 64

static void *session_main(void *arg);

uint64_t session_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void state_set(struct session *s, enum session_state state)
{
	/* Release: pairs with the acquire in session_ended, for all that the thread gave back. */
	atomic_store_explicit(&s->state, state, memory_order_release);
}

/* The main thread's side. */

static int eventfds_open(struct session *s, struct err *err)
{
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->submit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->complete_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop_fd < 0 || s->submit_fd < 0 || s->complete_fd < 0)
		return err_sys(err, -errno, "eventfd");
	return pool_client_init(&s->pool_client, s->pool, err);
}

static void release(struct session *s)
{
	session_trace_free(s);
	pool_client_done(&s->pool_client);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	if (s->submit_fd >= 0)
		close(s->submit_fd);
	if (s->complete_fd >= 0)
		close(s->complete_fd);
	free(s);
}

int session_start(const struct session_config *config, struct session **ret, struct err *err)
{
	struct session *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_sys(err, -ENOMEM, "allocating a session");
	s->plan = config->plan;
	s->pool = config->pool;
	s->engine = config->engine;
	s->weighted = config->weights != NULL;
	for (uint32_t i = 0; s->weighted && i < s->plan->open.path_count; i++)
		s->weights[i] = config->weights[i];
	s->socket_fd = config->socket_fd;
	s->ended_fd = config->ended_fd;
	s->stop_fd = s->submit_fd = s->complete_fd = -1;
	snprintf(s->name, sizeof(s->name), "%s", config->name);
	atomic_init(&s->engine_name, "");
	atomic_init(&s->memory_bytes, s->plan->memory_bytes);
	atomic_init(&s->swap_bytes, s->plan->swap_bytes);
	rc = eventfds_open(s, err);
	if (rc == 0)
		rc = session_trace_open(s, err);
	if (rc == 0) {
		rc = -pthread_create(&s->thread, NULL, session_main, s);
		if (rc < 0)
			err_sys(err, rc, "starting a session's thread");
	}
	if (rc < 0) {
		release(s);
		return rc;
	}
	*ret = s;
	return 0;
}

void session_stop(struct session *s)
{
	uint64_t count;
	struct iovec iov = {.iov_base = &count, .iov_len = sizeof(count)};

	atomic_store_explicit(&s->stop, true, memory_order_relaxed);
	/* Neither can block: the counter of stop_fd is ours alone, and RWF_NOWAIT goes before the
	 * flags that the peer may have changed. Nothing there to read is what mostly happens. */
	(void)eventfd_write(s->stop_fd, 1);
	(void)preadv2(s->complete_fd, &iov, 1, -1, RWF_NOWAIT);
}

bool session_ended(const struct session *s)
{
	/* Acquire: pairs with the release in state_set. */
	return atomic_load_explicit(&s->state, memory_order_acquire) == SESSION_ENDED;
}

struct session *session_free(struct session *s)
{
	if (!s)
		return NULL;
	session_stop(s);
	pthread_join(s->thread, NULL);
	session_plan_free(s->plan);
	release(s);
	return NULL;
}

struct trace *session_recorder(const struct session *s)
{
	return s->trace.recorder;
}

static uint64_t figure(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void session_figures(const struct session *s, struct session_figures *ret)
{
	*ret = (struct session_figures){
		.state = (enum session_state)atomic_load_explicit(&s->state, memory_order_relaxed),
		.memory_bytes = figure(&s->memory_bytes),
		.swap_bytes = figure(&s->swap_bytes),
		.swap_read_bytes = figure(&s->read_bytes),
		.swap_written_bytes = figure(&s->written_bytes),
		.swap_handed_bytes = figure(&s->handed_bytes),
		.swap_dropped_bytes = figure(&s->dropped_bytes),
		.operations = figure(&s->operations),
		.stepped_elems = figure(&s->stepped_elems),
		.adam_ns = figure(&s->adam_ns),
		.io_wait_ns = figure(&s->io_wait_ns),
		.engine = atomic_load_explicit(&s->engine_name, memory_order_relaxed),
		.extent_bytes = s->plan->open.blob_extent_bytes,
		.queue_depth = s->plan->open.queue_depth,
	};
}

const char *session_state_name(enum session_state state)
{
	static const char *const names[] = {
		[SESSION_OPENING] = "opening", [SESSION_RUNNING] = "running",
		[SESSION_FAILED] = "failed",   [SESSION_ENDING] = "ending",
		[SESSION_ENDED] = "ended",
	};

	return names[state];
}

/* The session's thread from here on. */

static bool stopping(const struct session *s)
{
	/* Relaxed: a flag that orders nothing; stop_fd wakes who sleeps. */
	return atomic_load_explicit(&s->stop, memory_order_relaxed);
}

void session_fail(struct session *s, int code, const char *fmt, ...)
{
	struct protocol_arena *head = (struct protocol_arena *)(void *)s->arena;
	va_list ap;

	if (s->failure.code)
		return;
	va_start(ap, fmt);
	err_vset(&s->failure, code, fmt, ap);
	va_end(ap);
	static_assert(sizeof(head->text) <= sizeof(s->failure.text), "the text is copied whole");
	memcpy(head->text, s->failure.text, sizeof(head->text));
	head->text[sizeof(head->text) - 1] = '\0';
	head->code = code;
	/* Release: pairs with the acquire in the client, which then reads text and code. */
	atomic_store_explicit(&head->failed, 1, memory_order_release);
	state_set(s, SESSION_FAILED);
	log_error("daemon", "%s: session failed: %s", s->name, s->failure.text);
}

void session_complete(struct session *s, const struct protocol_completion *completion)
{
	int rc = s->dead ? 0 : ring_push(&s->complete, completion);

	atomic_fetch_add_explicit(&s->operations, 1, memory_order_relaxed);
	if (rc == 0)
		return;
	session_fail(s, ERR_PROTOCOL, "protocol error: the completion ring is %s",
		     rc == -EAGAIN ? "full" : "corrupt");
	s->dead = true;
}

/* Opening. */

/*
 * Takes the pages now: memory that is not to be had is an error when a session opens, not a signal
 * in the middle of a step. A kernel without this advice (before 5.14) takes them at first use.
 */
static int populate(const struct session *s, uint8_t *base, uint64_t bytes, struct err *err)
{
	char text[UNITS_TEXT_BYTES];
	uint64_t at, part;

	for (at = 0; at < bytes; at += part) {
		part = bytes - at < POPULATE_BYTES ? bytes - at : POPULATE_BYTES;
		if (stopping(s))
			return err_set(err, ERR_INTERRUPTED, "stopped while it was opened");
		if (madvise(base + at, part, MADV_POPULATE_WRITE) == 0)
			continue;
		if (errno == EINVAL)
			return 0;
		if (errno == EINTR) {
			part = 0;
			continue;
		}
		return err_sys(err, ERR_UNAVAILABLE, "%s of memory (%s after %" PRIu64 " bytes)",
			       units_format_bytes(text, bytes), err_str(-errno), at);
	}
	return 0;
}

static int arena_open(struct session *s, int *ret_fd, struct err *err)
{
	const struct session_plan *p = s->plan;
	struct protocol_arena *head;
	void *base;
	int fd, rc;

	fd = shm_create("dsoffload-arena", p->arena_bytes, err);
	if (fd < 0)
		return fd;
	rc = shm_map(fd, p->arena_bytes, &base, err);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	s->arena = base;
	*ret_fd = fd;
	head = base;
	head->magic = PROTOCOL_MAGIC;
	head->version = PROTOCOL_VERSION;
	return populate(s, s->arena, p->arena_bytes, err);
}

static int rings_open(struct session *s, struct err *err)
{
	uint32_t slots = s->plan->open.ring_slots;
	uint64_t submit = protocol_submit_offset(), complete = protocol_complete_offset(slots);
	int rc;

	ring_format(s->arena + submit, sizeof(struct protocol_submission), slots);
	ring_format(s->arena + complete, sizeof(struct protocol_completion), slots);
	rc = ring_attach(&s->submit, s->arena + submit, complete - submit,
			 sizeof(struct protocol_submission), slots, s->submit_fd, err);
	if (rc < 0)
		return rc;
	return ring_attach(&s->complete, s->arena + complete, s->plan->data_offset - complete,
			   sizeof(struct protocol_completion), slots, s->complete_fd, err);
}

static int own_open(struct session *s, struct err *err)
{
	uint64_t bytes = s->plan->own_bytes;
	void *base;

	if (bytes == 0)
		return 0;
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		return err_sys(err, ERR_UNAVAILABLE, "%" PRIu64 " bytes of memory (%s)", bytes,
			       err_str(-errno));
	s->own = base;
	/*
	 * No advice to use huge pages: Adam streams through its arrays and gained 2 % by them, and
	 * taking them tripled the time of opening (Linux 6.18).
	 */
	return populate(s, base, bytes, err);
}

static void region_register(struct session *s, void *base, uint64_t bytes, const char *what)
{
	struct err why = {.code = 0};

	if (bytes > 0 && nvme_store_register(s->store, base, bytes, &why) != 0)
		log_info("daemon", "%s: %s not registered with the kernel: %s, ignoring", s->name,
			 what, why.text);
}

static int store_open(struct session *s, struct nvme_info *ret_info, struct err *err)
{
	const struct session_plan *p = s->plan;
	const char *paths[PROTOCOL_PATHS_MAX];
	struct nvme_config config = {
		.paths = paths,
		.path_count = p->open.path_count,
		.engine = s->engine,
		.queue_depth = p->open.queue_depth,
		.objects = p->objects,
		.object_count = p->object_count,
		.weights = s->weighted ? s->weights : NULL,
	};
	int rc;

	if (p->object_count == 0)
		return 0;
	for (uint32_t i = 0; i < p->open.path_count; i++)
		paths[i] = p->open.paths[i];
	rc = nvme_store_open(&config, &s->store, ret_info, err);
	if (rc < 0)
		return rc;
	atomic_store_explicit(&s->engine_name, nvme_engine_name(ret_info->engine),
			      memory_order_relaxed);
	region_register(s, s->arena, p->arena_bytes, "the arena");
	region_register(s, s->own + p->buffers_offset, p->own_bytes - p->buffers_offset,
			"chunk buffers");
	return 0;
}

static void note_add(char *note, size_t room, const char *text)
{
	size_t len = strlen(note);

	snprintf(note + len, room - len, "%s%s", len > 0 ? "; " : "", text);
}

/* What the user should know of the store: fall-backs, which the log says too. */
static void note_make(const struct session *s, const struct nvme_info *info, char *note,
		      size_t room)
{
	note[0] = '\0';
	if (!s->store)
		return;
	if (s->engine == NVME_AUTO && info->engine != NVME_URING) {
		note_add(note, room, nvme_engine_name(info->engine));
		note_add(note, room, info->engine_reason);
	}
	if (info->direct_warning)
		note_add(note, room, info->direct_warning);
	if (info->space_warning)
		note_add(note, room, info->space_warning);
	if (note[0])
		log_warn("daemon", "%s: swap: %s", s->name, note);
}

static void opened_log(const struct session *s, const struct nvme_info *info)
{
	const struct session_plan *p = s->plan;
	char memory[UNITS_TEXT_BYTES], swap[UNITS_TEXT_BYTES];

	units_format_bytes(memory, p->memory_bytes);
	units_format_bytes(swap, p->swap_bytes);
	if (s->store)
		log_info("daemon",
			 "%s: session of %s of memory, %s of swap by %s in %u directories", s->name,
			 memory, swap, nvme_engine_name(info->engine), p->open.path_count);
	if (s->store && info->weights_reason[0])
		log_info("daemon", "%s: shares of the directories: %s", s->name,
			 info->weights_reason);
	if (!s->store)
		log_info("daemon", "%s: session of %s of memory", s->name, memory);
}

static int opened_send(struct session *s, int arena_fd, const struct nvme_info *info,
		       struct err *err)
{
	const struct session_plan *p = s->plan;
	const int fds[3] = {arena_fd, s->submit_fd, s->complete_fd};
	struct protocol_opened packet = {
		.arena_bytes = p->arena_bytes,
		.submit_offset = protocol_submit_offset(),
		.complete_offset = protocol_complete_offset(p->open.ring_slots),
		.data_offset = p->data_offset,
		.memory_bytes = p->memory_bytes,
		.swap_bytes = p->swap_bytes,
	};
	int rc;

	if (s->store)
		snprintf(packet.engine, sizeof(packet.engine), "%s",
			 nvme_engine_name(info->engine));
	note_make(s, info, packet.note, sizeof(packet.note));
	rc = wire_send(s->socket_fd, &packet.head, PROTOCOL_OPENED, sizeof(packet), fds, 3);
	return rc < 0 ? err_sys(err, rc, "answering") : 0;
}

/* Everything a session has. On failure what was had stays for session_close. */
static int session_open(struct session *s, struct err *err)
{
	struct nvme_info info = {.engine = NVME_AUTO};
	int arena_fd = -1, rc;

	rc = arena_open(s, &arena_fd, err);
	if (rc == 0)
		rc = rings_open(s, err);
	if (rc == 0)
		rc = own_open(s, err);
	if (rc == 0)
		rc = store_open(s, &info, err);
	if (rc == 0)
		rc = pipeline_open(s, err);
	if (rc == 0) {
		state_set(s, SESSION_RUNNING);
		rc = opened_send(s, arena_fd, &info, err);
	}
	if (arena_fd >= 0)
		close(arena_fd);
	if (rc == 0)
		opened_log(s, &info);
	return rc;
}

static void session_close(struct session *s)
{
	s->store = nvme_store_free(s->store);
	pipeline_free(s);
	if (s->own)
		munmap(s->own, s->plan->own_bytes);
	if (s->arena)
		shm_unmap(s->arena, s->plan->arena_bytes);
}

/* Serving. */

/* Takes what there is, up to a bound. Returns whether there was something. */
static bool take_submissions(struct session *s)
{
	struct protocol_submission sub;
	int rc = 0, taken = 0;

	while (!s->dead && taken < SUBMISSIONS_MAX && (rc = ring_pop(&s->submit, &sub)) == 0) {
		pipeline_accept(s, &sub);
		taken++;
	}
	if (rc < 0 && rc != -EAGAIN) {
		session_fail(s, ERR_PROTOCOL, "protocol error: the submission ring is corrupt");
		s->dead = true;
	}
	return taken > 0;
}

static bool take_done(struct session *s)
{
	struct pool_job *job = pool_reap(&s->pool_client), *next;
	bool any = job != NULL;

	for (; job; job = next) {
		next = job->next;
		pipeline_job_done(s, job);
	}
	if (s->io_busy > 0 && nvme_poll(s->store) > 0)
		any = true;
	return any;
}

static void publish(struct session *s)
{
	struct nvme_stats stats;

	if (!s->store)
		return;
	nvme_store_stats(s->store, &stats);
	atomic_store_explicit(&s->read_bytes, stats.read_bytes, memory_order_relaxed);
	atomic_store_explicit(&s->written_bytes, stats.written_bytes, memory_order_relaxed);
}

/* Sleeps until the disk, the pool or, with `all`, the peer or the main thread has something. */
static void await(struct session *s, bool all)
{
	/* The store's stays readable when nobody polls the store any more. */
	struct pollfd fds[4] = {
		{.fd = s->pool_client.event_fd, .events = POLLIN},
		{.fd = s->io_busy > 0 ? nvme_event_fd(s->store) : -1, .events = POLLIN},
		{.fd = s->submit_fd, .events = POLLIN},
		{.fd = s->stop_fd, .events = POLLIN},
	};
	bool disk_only = s->op_count > 0 && s->io_busy > 0 && s->jobs_busy == 0;
	uint64_t began = disk_only ? session_now_ns() : 0;
	uint64_t traced = s->op_count > 0 ? trace_begin(s->trace.session) : 0;

	/* The descriptors are open and the timeout is none: what is left is EINTR. */
	(void)poll(fds, all ? 4 : 2, -1);
	session_trace_wait(s, traced);
	if (disk_only)
		atomic_fetch_add_explicit(&s->io_wait_ns, session_now_ns() - began,
					  memory_order_relaxed);
}

static void serve(struct session *s)
{
	uint64_t began = 0;
	bool busy;

	while (!stopping(s) && !s->dead) {
		if (began == 0)
			began = trace_begin(s->trace.session);
		busy = take_submissions(s);
		busy |= take_done(s);
		busy |= pipeline_run(s);
		publish(s);
		if (busy || !ring_sleep_begin(&s->submit))
			continue;
		trace_end(s->trace.session, TRACE_BUSY, "serve", began, TRACE_NO_UNIT, 0);
		began = 0;
		await(s, true);
		ring_sleep_end(&s->submit);
	}
}

/* What is under way cannot be called back; it ends here. */
static void drain(struct session *s)
{
	s->ending = true;
	while (s->tasks_busy > 0)
		if (!take_done(s))
			await(s, false);
	publish(s);
}

static void *session_main(void *arg)
{
	struct session *s = arg;
	struct err err = {.code = 0};
	int ended_fd = s->ended_fd;

	pthread_setname_np(pthread_self(), "session");
	if (session_open(s, &err) == 0) {
		serve(s);
	} else {
		/* A peer that is gone cannot be told, and a stopped one needs not. */
		(void)wire_send_error(s->socket_fd, &err);
		log_warn("daemon", "%s: session refused: %s", s->name, err.text);
	}
	state_set(s, SESSION_ENDING);
	drain(s);
	session_close(s);
	state_set(s, SESSION_ENDED);
	(void)eventfd_write(ended_fd, 1);
	return NULL;
}
