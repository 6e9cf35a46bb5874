/*
 * A worker's session with dsoffloadd: the handshake over the control socket, then operations
 * through the rings in the arena.
 *
 * The engine's thread opens, prepares, polls, waits and frees; device streams push from threads of
 * their own. Packets, and what needs no session, are client_wire.c's.
 *
 * The life of an id:
 *
 *	FREE --client_prepare--> TAKEN --completion popped--> DONE --client_wait--> FREE
 *
 * Invariants
 *  1. At most ring_slots ids are TAKEN, so neither ring can be full: a push never has to wait, and
 *     a ring that says otherwise is broken. DONE ids take no place in a ring, so there are more ids
 *     than slots.
 *  2. Ids, completions and the control socket belong to the engine's thread; pushing threads touch
 *     the submission ring only, one at a time, under push_lock.
 *  3. No wait sleeps without the control socket in its poll set: the kernel closes the daemon's end
 *     when the daemon dies, which wakes us at once.
 *  4. Once broken is set it stays, and every later call returns it; what the daemon completed
 *     before it went is still handed out first.
 */
#include "offload/client.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/ring.h"
#include "common/shm.h"
#include "offload/client_wire.h"

/* How long client_free waits for the daemon to have freed the session: its transfers in flight. */
#define CLOSE_TIMEOUT_MS 10000
#define IDS_PER_SLOT     4u

enum id_state { ID_FREE, ID_TAKEN, ID_DONE };

struct id {
	enum id_state state;
	uint32_t next_free;
	struct protocol_completion completion;
};

struct client {
	int socket_fd, submit_fd, complete_fd;
	struct protocol_opened opened;
	pid_t daemon_pid;
	void *arena;
	struct ring submit, complete;
	pthread_mutex_t push_lock;
	struct id *ids;
	uint32_t id_count, free_head, taken_count;
	struct err broken;       /* the engine's thread's */
	_Atomic int broken_code; /* the same code, for pushing threads */
};

#define NO_ID UINT32_MAX

/* Opening a session. */

/* The daemon's working directory is another one: it is told where directories really are. */
static int path_resolve(char path[PROTOCOL_PATH_BYTES], struct err *err)
{
	char *real;
	int rc = 0;

	if (!memchr(path, '\0', PROTOCOL_PATH_BYTES))
		return err_set(err, ERR_CONFIG, "a directory for swap is longer than %u characters",
			       PROTOCOL_PATH_BYTES - 1);
	real = realpath(path, NULL);
	if (!real)
		return err_set(err, ERR_CONFIG, "directory for swap '%s': %s", path,
			       err_str(-errno));
	if (strlen(real) >= PROTOCOL_PATH_BYTES) {
		rc = err_set(err, ERR_CONFIG,
			     "directory for swap '%.1024s' is longer than %u characters", real,
			     PROTOCOL_PATH_BYTES - 1);
	} else {
		memset(path, 0, PROTOCOL_PATH_BYTES);
		strcpy(path, real);
	}
	free(real);
	return rc;
}

static int open_check(const struct client_config *config, struct err *err)
{
	const struct protocol_open *o = &config->open;

	if (o->unit_count > PROTOCOL_UNITS_MAX)
		return err_set(err, ERR_CONFIG, "%u units, a session can have %u", o->unit_count,
			       PROTOCOL_UNITS_MAX);
	if (o->blob_count > PROTOCOL_BLOBS_MAX)
		return err_set(err, ERR_CONFIG, "%u blobs, a session can have %u", o->blob_count,
			       PROTOCOL_BLOBS_MAX);
	if (o->path_count > PROTOCOL_PATHS_MAX)
		return err_set(err, ERR_CONFIG, "%u directories for swap, a session can have %u",
			       o->path_count, PROTOCOL_PATHS_MAX);
	if (o->ring_slots == 0 || o->ring_slots > PROTOCOL_RING_MAX)
		return err_set(err, ERR_CONFIG, "%u ring slots, a session can have 1 to %u",
			       o->ring_slots, PROTOCOL_RING_MAX);
	return 0;
}

static int open_send(int fd, const struct client_config *config, struct err *err)
{
	size_t units = config->open.unit_count * sizeof(struct protocol_unit);
	size_t blobs = config->open.blob_count * sizeof(uint64_t);
	size_t bytes = sizeof(struct protocol_open) + units + blobs;
	struct protocol_open *packet;
	int rc = 0;

	static_assert(sizeof(*packet) + PROTOCOL_UNITS_MAX * sizeof(struct protocol_unit) +
				      PROTOCOL_BLOBS_MAX * sizeof(uint64_t) <=
			      PROTOCOL_PACKET_MAX,
		      "OPEN fits a packet");
	packet = malloc(bytes);
	if (!packet)
		return err_sys(err, -ENOMEM, "allocating the session's request");
	*packet = config->open;
	if (units)
		memcpy(packet + 1, config->units, units);
	if (blobs)
		memcpy((char *)(packet + 1) + units, config->blobs, blobs);
	for (uint32_t i = 0; i < packet->path_count && rc == 0; i++)
		rc = path_resolve(packet->paths[i], err);
	if (rc == 0)
		rc = client_wire_send(fd, &packet->head, PROTOCOL_OPEN, bytes, err);
	free(packet);
	return rc;
}

/* The daemon's figures are followed only where both sides would compute the same. */
static int opened_check(const struct protocol_opened *o, uint32_t slots, struct err *err)
{
	if (o->submit_offset != protocol_submit_offset() ||
	    o->complete_offset != protocol_complete_offset(slots) ||
	    o->data_offset != protocol_data_offset(slots) || o->arena_bytes < o->data_offset ||
	    o->arena_bytes > SIZE_MAX / 2)
		return err_set(err, ERR_PROTOCOL,
			       "dsoffloadd lays its arena out in another way than this program");
	return 0;
}

static int arena_attach(struct client *c, int arena_fd, uint32_t slots, struct err *err)
{
	const struct protocol_opened *o = &c->opened;
	struct protocol_arena head;
	int rc;

	rc = shm_map(arena_fd, (size_t)o->arena_bytes, &c->arena, err);
	if (rc < 0)
		return rc;
	memcpy(&head, c->arena, 2 * sizeof(uint32_t));
	if (head.magic != PROTOCOL_MAGIC || head.version != PROTOCOL_VERSION)
		return err_set(err, ERR_PROTOCOL, "dsoffloadd's arena has version %u, not %u",
			       head.version, PROTOCOL_VERSION);
	rc = ring_attach(&c->submit, (char *)c->arena + o->submit_offset,
			 o->complete_offset - o->submit_offset, sizeof(struct protocol_submission),
			 slots, c->submit_fd, err);
	if (rc < 0)
		return rc;
	return ring_attach(&c->complete, (char *)c->arena + o->complete_offset,
			   o->data_offset - o->complete_offset, sizeof(struct protocol_completion),
			   slots, c->complete_fd, err);
}

static int session_open(struct client *c, const struct client_config *config, struct err *err)
{
	struct client_fds fds = {.count = 0};
	struct protocol_welcome welcome;
	int rc;

	rc = open_check(config, err);
	if (rc < 0)
		return rc;
	rc = c->socket_fd = client_wire_connect(config->socket, err);
	if (rc < 0)
		return rc;
	rc = client_wire_greet(c->socket_fd, config->job, config->rank, config->world,
			       CLIENT_ANSWER_MS, &welcome, err);
	if (rc < 0)
		return rc;
	c->daemon_pid = (pid_t)welcome.pid;
	rc = open_send(c->socket_fd, config, err);
	if (rc == 0)
		rc = client_wire_answer(c->socket_fd, PROTOCOL_OPENED, &c->opened,
					sizeof(c->opened), -1, &fds, err);
	c->submit_fd = fds.count > 1 ? fds.at[1] : -1;
	c->complete_fd = fds.count > 2 ? fds.at[2] : -1;
	if (rc == 0 && fds.count != 3)
		rc = err_set(err, ERR_PROTOCOL, "dsoffloadd passed %zu descriptors, not 3",
			     fds.count);
	if (rc == 0)
		rc = opened_check(&c->opened, config->open.ring_slots, err);
	if (rc == 0)
		rc = arena_attach(c, fds.at[0], config->open.ring_slots, err);
	if (fds.count > 0)
		close(fds.at[0]);
	c->opened.engine[sizeof(c->opened.engine) - 1] = '\0';
	c->opened.note[sizeof(c->opened.note) - 1] = '\0';
	return rc;
}

static void ids_init(struct client *c)
{
	for (uint32_t i = 0; i < c->id_count; i++)
		c->ids[i].next_free = i + 1 < c->id_count ? i + 1 : NO_ID;
	c->free_head = 0;
}

int client_open(const struct client_config *config, struct client **ret, struct err *err)
{
	struct client *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_sys(err, -ENOMEM, "allocating a session");
	c->socket_fd = c->submit_fd = c->complete_fd = -1;
	pthread_mutex_init(&c->push_lock, NULL);
	rc = session_open(c, config, err);
	if (rc < 0)
		goto fail;
	c->id_count = config->open.ring_slots * IDS_PER_SLOT;
	c->ids = calloc(c->id_count, sizeof(*c->ids));
	if (!c->ids) {
		rc = err_sys(err, -ENOMEM, "allocating a session's operations");
		goto fail;
	}
	ids_init(c);
	*ret = c;
	return 0;
fail:
	client_free(c);
	return rc;
}

/*
 * The daemon closes its end when everything of the session has been given back, so that a session
 * opened after this one finds its memory and its disk free again. A daemon that hangs is not waited
 * for.
 */
static void await_release(int fd)
{
	char rest[sizeof(struct protocol_error)];
	struct err ignored;

	if (shutdown(fd, SHUT_WR) < 0)
		return;
	while (client_wire_await(fd, CLOSE_TIMEOUT_MS, &ignored) == 0)
		if (client_wire_recv(fd, rest, sizeof(rest), NULL, &ignored) <= 0)
			return;
}

struct client *client_free(struct client *c)
{
	if (!c)
		return NULL;
	if (c->arena)
		shm_unmap(c->arena, (size_t)c->opened.arena_bytes);
	if (c->submit_fd >= 0)
		close(c->submit_fd);
	if (c->complete_fd >= 0)
		close(c->complete_fd);
	if (c->socket_fd >= 0) {
		await_release(c->socket_fd);
		close(c->socket_fd);
	}
	pthread_mutex_destroy(&c->push_lock);
	free(c->ids);
	free(c);
	return NULL;
}

void *client_arena(struct client *c, uint64_t *ret_bytes)
{
	if (ret_bytes)
		*ret_bytes = c->opened.arena_bytes;
	return c->arena;
}

uint64_t client_data_offset(const struct client *c)
{
	return c->opened.data_offset;
}

const struct protocol_opened *client_opened(const struct client *c)
{
	return &c->opened;
}

/* Operations. */

/* The session is over, for the reason in c->broken. Returns its code. */
static int broken(const struct client *c, struct err *err)
{
	*err = c->broken;
	return c->broken.code;
}

static void broken_publish(struct client *c)
{
	/* For client_push, which needs nothing but the code. */
	atomic_store_explicit(&c->broken_code, c->broken.code, memory_order_relaxed);
}

/* Why the daemon failed the session, as it wrote it into the arena; false when it did not. */
static bool arena_failure(const struct client *c, struct err *ret)
{
	struct protocol_arena *head = c->arena;
	char text[PROTOCOL_TEXT_BYTES];

	/* Pairs with the daemon's release after it wrote code and text. */
	if (!atomic_load_explicit(&head->failed, memory_order_acquire))
		return false;
	memcpy(text, head->text, sizeof(text));
	text[sizeof(text) - 1] = '\0';
	err_set(ret, head->code < 0 ? head->code : ERR_UNAVAILABLE, "dsoffloadd: %.1900s", text);
	return true;
}

/* The control socket became readable while nothing was asked: a farewell, or the end. */
static void hung_up(struct client *c)
{
	struct protocol_error packet;
	ssize_t n;

	n = client_wire_recv(c->socket_fd, &packet, sizeof(packet), NULL, &c->broken);
	if (n > 0 && client_wire_check(&packet, n, PROTOCOL_ERROR, &c->broken) > 0)
		client_wire_refused(&packet, (size_t)n, &c->broken);
	else if (n == 0 && !arena_failure(c, &c->broken))
		err_set(&c->broken, ERR_UNAVAILABLE,
			"dsoffloadd (pid %d) is gone: its end of the session was closed",
			(int)c->daemon_pid);
	broken_publish(c);
}

static int take_completion(struct client *c, const struct protocol_completion *done)
{
	struct id *id = done->id < c->id_count ? &c->ids[done->id] : NULL;

	if (!id || id->state != ID_TAKEN) {
		err_set(&c->broken, ERR_PROTOCOL,
			"dsoffloadd completed operation %u, which is not under way", done->id);
		broken_publish(c);
		return c->broken.code;
	}
	id->state = ID_DONE;
	id->completion = *done;
	c->taken_count--;
	return 0;
}

/* Takes all completions there are. Returns how many, or a negative code. */
static int drain(struct client *c)
{
	struct protocol_completion done;
	int rc, count = 0;

	while ((rc = ring_pop(&c->complete, &done)) == 0) {
		rc = take_completion(c, &done);
		if (rc < 0)
			return rc;
		count++;
	}
	if (rc != -EAGAIN) {
		err_set(&c->broken, ERR_PROTOCOL, "the completion ring is corrupt");
		broken_publish(c);
		return c->broken.code;
	}
	return count;
}

/* Sleeps until a completion may be there; the daemon's end sets c->broken. */
static void sleep_once(struct client *c)
{
	struct pollfd fds[2] = {
		{.fd = c->complete_fd, .events = POLLIN},
		{.fd = c->socket_fd, .events = POLLIN},
	};

	if (!ring_sleep_begin(&c->complete))
		return;
	if (poll(fds, 2, -1) < 0 && errno != EINTR) {
		err_sys(&c->broken, -errno, "poll");
		broken_publish(c);
	}
	ring_sleep_end(&c->complete);
	if (fds[1].revents && !c->broken.code && drain(c) == 0)
		hung_up(c);
}

/* Blocks until at least one more completion was taken. */
static int pump(struct client *c, struct err *err)
{
	int n;

	for (;;) {
		n = c->broken.code ? c->broken.code : drain(c);
		if (n > 0)
			return 0;
		if (n < 0)
			return broken(c, err);
		sleep_once(c);
	}
}

int client_prepare(struct client *c, uint32_t *ret_id, struct err *err)
{
	struct id *id;
	int rc;

	if (c->broken.code)
		return broken(c, err);
	while (c->taken_count == c->submit.slot_count) {
		rc = pump(c, err);
		if (rc < 0)
			return rc;
	}
	if (c->free_head == NO_ID)
		return err_set(err, ERR_INTERNAL, "%u operations were never waited for",
			       c->id_count);
	id = &c->ids[c->free_head];
	*ret_id = c->free_head;
	c->free_head = id->next_free;
	c->taken_count++;
	id->state = ID_TAKEN;
	return 0;
}

int client_push(struct client *c, const struct protocol_submission *submission, struct err *err)
{
	int rc = atomic_load_explicit(&c->broken_code, memory_order_relaxed);

	if (rc < 0)
		return err_set(err, rc, "the session with dsoffloadd is over");
	pthread_mutex_lock(&c->push_lock);
	rc = ring_push(&c->submit, submission);
	pthread_mutex_unlock(&c->push_lock);
	if (rc < 0)
		return err_set(err, ERR_PROTOCOL, "the submission ring is %s",
			       rc == -EAGAIN ? "full" : "corrupt");
	return 0;
}

int client_submit(struct client *c, struct protocol_submission *submission, uint32_t *ret_id,
		  struct err *err)
{
	uint32_t id;
	int rc = client_prepare(c, &id, err);

	if (rc < 0)
		return rc;
	submission->id = id;
	rc = client_push(c, submission, err);
	if (rc < 0)
		return rc;
	*ret_id = id;
	return 0;
}

/* The id's result, which frees it. */
static int id_finish(struct client *c, uint32_t id_idx, struct protocol_completion *ret,
		     struct err *err)
{
	struct id *id = &c->ids[id_idx];
	int code = id->completion.code;

	if (ret)
		*ret = id->completion;
	id->state = ID_FREE;
	id->next_free = c->free_head;
	c->free_head = id_idx;
	if (code >= 0)
		return 0;
	if (!arena_failure(c, err))
		err_set(err, code, "dsoffloadd: %s", err_str(code));
	return code;
}

int client_wait(struct client *c, uint32_t id, struct protocol_completion *ret, struct err *err)
{
	int rc;

	assert(id < c->id_count && c->ids[id].state != ID_FREE);
	while (c->ids[id].state != ID_DONE) {
		rc = pump(c, err);
		if (rc < 0)
			return rc;
	}
	return id_finish(c, id, ret, err);
}

int client_poll(struct client *c, uint32_t id, struct err *err)
{
	struct pollfd p = {.fd = c->socket_fd, .events = POLLIN};

	assert(id < c->id_count && c->ids[id].state != ID_FREE);
	if (c->ids[id].state != ID_DONE && !c->broken.code && drain(c) == 0 && poll(&p, 1, 0) > 0 &&
	    drain(c) == 0)
		hung_up(c);
	if (c->ids[id].state == ID_DONE)
		return 1;
	return c->broken.code ? broken(c, err) : 0;
}

/* A question of ours went wrong: the session is over, for that reason or the daemon's own. */
static int question_failed(struct client *c, struct err *err)
{
	if (arena_failure(c, &c->broken))
		*err = c->broken;
	else
		c->broken = *err;
	broken_publish(c);
	return c->broken.code;
}

int client_stats(struct client *c, struct protocol_stats *ret, struct err *err)
{
	struct protocol_message ask;
	int rc;

	if (c->broken.code)
		return broken(c, err);
	rc = client_wire_send(c->socket_fd, &ask, PROTOCOL_STATS, sizeof(ask), err);
	if (rc == 0)
		rc = client_wire_answer(c->socket_fd, PROTOCOL_STATS_REPLY, ret, sizeof(*ret),
					CLIENT_ANSWER_MS, NULL, err);
	return rc < 0 ? question_failed(c, err) : 0;
}

/* The rest of the answer after fn failed is read all the same: the next question's comes after. */
struct trace_to {
	client_trace_fn *fn;
	void *ctx;
	struct err err; /* fn's */
};

static int trace_piece(void *ctx, const char *text, size_t len, struct err *err)
{
	struct trace_to *to = ctx;

	(void)err;
	if (to->err.code == 0 && !memchr(text, '\0', len))
		(void)to->fn(to->ctx, text, &to->err);
	return 0;
}

int client_trace(struct client *c, bool record, client_trace_fn *fn, void *ctx, struct err *err)
{
	struct protocol_trace ask = {.record = record};
	struct trace_to to = {.fn = fn, .ctx = ctx};
	int rc;

	if (c->broken.code)
		return broken(c, err);
	rc = client_wire_send(c->socket_fd, &ask.head, PROTOCOL_TRACE, sizeof(ask), err);
	if (rc == 0)
		rc = client_wire_text(c->socket_fd, trace_piece, &to, err);
	if (rc < 0)
		return question_failed(c, err);
	if (to.err.code < 0)
		*err = to.err;
	return to.err.code;
}
