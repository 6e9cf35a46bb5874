/*
 * A worker's session with dsoffloadd: the handshake over the control socket, then operations through
 * the rings in the arena.
 *
 * The engine's thread opens, prepares, polls, waits and frees; device streams push from threads of
 * their own. dsctl and the launcher use client_query and client_probe, which hold no session.
 *
 * The life of an id:
 *
 *	FREE --client_prepare--> TAKEN --completion popped--> DONE --client_wait--> FREE
 *
 * Invariants
 *  1. At most ring_slots ids are TAKEN, so neither ring can be full: a push never has to wait, and a
 *     ring that says otherwise is broken. DONE ids take no place in a ring, so there are more ids
 *     than slots.
 *  2. Ids, completions and the control socket belong to the engine's thread; pushing threads touch
 *     the submission ring only, one at a time, under push_lock.
 *  3. No wait sleeps without the control socket in its poll set: the kernel closes the daemon's end
 *     when the daemon dies, which wakes us at once.
 *  4. Once broken is set it stays, and every later call returns it; what the daemon completed before
 *     it went is still handed out first.
 */
#include "offload/client.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/ring.h"
#include "common/shm.h"

/* Bounds of what a living daemon answers from its main thread; opening may take as long as its disk. */
#define ANSWER_TIMEOUT_MS 30000
#define PROBE_TIMEOUT_MS  5000
/* How long client_free waits for the daemon to have freed the session: its transfers in flight. */
#define CLOSE_TIMEOUT_MS 10000
#define TEXT_BYTES_MAX   (64u << 20)
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

/* The control socket. */

static int address_make(const char *socket_name, struct sockaddr_un *ret, socklen_t *ret_len,
			struct err *err)
{
	size_t len = strlen(socket_name);

	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (len == 0 || len >= sizeof(ret->sun_path))
		return err_set(err, ERR_CONFIG,
			       "socket '%s': a name has 1 to %zu characters, this one has %zu",
			       socket_name, sizeof(ret->sun_path) - 1, len);
	memcpy(ret->sun_path, socket_name, len);
	if (socket_name[0] == '@')
		ret->sun_path[0] = '\0';
	*ret_len =
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (socket_name[0] != '@'));
	return 0;
}

static int socket_connect(const char *socket_name, struct err *err)
{
	struct sockaddr_un address;
	socklen_t len = 0;
	int fd, rc;

	rc = address_make(socket_name, &address, &len, err);
	if (rc < 0)
		return rc;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, -errno, "socket");
	do
		rc = connect(fd, (struct sockaddr *)&address, len);
	while (rc < 0 && errno == EINTR);
	if (rc < 0) {
		rc = errno;
		close(fd);
		return err_set(err, ERR_UNAVAILABLE, "dsoffloadd does not answer at %s: %s",
			       socket_name, err_str(-rc));
	}
	return fd;
}

static int packet_send(int fd, struct protocol_message *head, enum protocol_type type, size_t bytes,
		       struct err *err)
{
	ssize_t n;

	*head = (struct protocol_message){
		.magic = PROTOCOL_MAGIC,
		.version = PROTOCOL_VERSION,
		.type = type,
		.bytes = (uint32_t)bytes,
	};
	do
		n = send(fd, head, bytes, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EPIPE && errno != ECONNRESET)
		return err_sys(err, ERR_UNAVAILABLE, "send to dsoffloadd (%s)", err_str(-errno));
	/* A daemon that hung up has left its reason to be read; a packet goes whole or not at all. */
	return 0;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Waits until the socket can be read, at most timeout_ms (-1: for ever). */
static int socket_await(int fd, int timeout_ms, struct err *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t end = now_ms() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms);
	int left = timeout_ms, n;

	for (;;) {
		n = poll(&p, 1, left);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return err_sys(err, -errno, "poll");
		if (timeout_ms < 0)
			continue;
		left = (int)(end > now_ms() ? end - now_ms() : 0);
		if (n == 0 || left == 0)
			return err_set(err, ERR_UNAVAILABLE,
				       "dsoffloadd does not answer: nothing came within %d ms",
				       timeout_ms);
	}
}

struct fds {
	int at[3];
	size_t count;
};

static void fds_take(struct msghdr *msg, struct fds *ret)
{
	struct cmsghdr *c;
	size_t n, i;

	for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < n && ret->count < 3; i++)
			memcpy(&ret->at[ret->count++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
}

/* One packet as it is. Returns its bytes, 0 at the end. */
static ssize_t packet_recv_raw(int fd, void *buf, size_t room, struct fds *ret_fds, struct err *err)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(3 * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = room};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (ret_fds) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
	}
	/* ECONNRESET is said once, before what the peer sent last can be read. */
	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && (errno == EINTR || errno == ECONNRESET));
	if (n < 0)
		return err_sys(err, -errno, "recvmsg");
	if (ret_fds)
		fds_take(&msg, ret_fds);
	if (msg.msg_flags & MSG_TRUNC)
		return err_set(err, ERR_PROTOCOL, "dsoffloadd sent a packet of more than %zu bytes",
			       room);
	return n;
}

/* The daemon's refusal: its words, and its code where that is one a user can act on. */
static int refused(const void *packet, size_t bytes, struct err *err)
{
	struct protocol_error e;
	int code;

	if (bytes != sizeof(e))
		return err_set(err, ERR_PROTOCOL, "dsoffloadd sent an error of %zu bytes, not %zu",
			       bytes, sizeof(e));
	memcpy(&e, packet, sizeof(e));
	e.text[sizeof(e.text) - 1] = '\0';
	code = e.code < 0 ? e.code : ERR_UNAVAILABLE;
	return err_set(err, code, "dsoffloadd: %.1900s", e.text);
}

/* Looks at a packet's head. Returns the bytes, or what the daemon refused with. */
static ssize_t packet_check(const void *packet, ssize_t n, enum protocol_type type, struct err *err)
{
	struct protocol_message head;

	if (n == 0)
		return err_set(err, ERR_UNAVAILABLE, "dsoffloadd closed the connection");
	if ((size_t)n < sizeof(head))
		return err_set(err, ERR_PROTOCOL, "dsoffloadd sent a packet of %zd bytes", n);
	memcpy(&head, packet, sizeof(head));
	if (head.magic != PROTOCOL_MAGIC)
		return err_set(err, ERR_PROTOCOL, "what answers at the socket is no dsoffloadd");
	if (head.version != PROTOCOL_VERSION)
		return err_set(
			err, ERR_PROTOCOL,
			"dsoffloadd speaks version %u of the protocol, this program version %u",
			head.version, PROTOCOL_VERSION);
	if (head.bytes != (size_t)n)
		return err_set(err, ERR_PROTOCOL, "dsoffloadd sent %zd bytes as a packet of %u", n,
			       head.bytes);
	if (head.type == PROTOCOL_ERROR)
		return refused(packet, (size_t)n, err);
	if (head.type != type)
		return err_set(err, ERR_PROTOCOL, "dsoffloadd answered with message %u, not %u",
			       head.type, type);
	return n;
}

/* One answer of a fixed size into ret. */
static int answer_recv(int fd, enum protocol_type type, void *ret, size_t bytes, int timeout_ms,
		       struct fds *ret_fds, struct err *err)
{
	/* An error message is the largest answer of fixed size, and may come instead of any. */
	union {
		struct protocol_error error;
		char bytes[sizeof(struct protocol_error)];
	} packet;
	ssize_t n;
	int rc;

	assert(bytes <= sizeof(packet));
	rc = socket_await(fd, timeout_ms, err);
	if (rc < 0)
		return rc;
	n = packet_recv_raw(fd, &packet, sizeof(packet), ret_fds, err);
	if (n >= 0)
		n = packet_check(&packet, n, type, err);
	if (n < 0)
		return (int)n;
	if ((size_t)n != bytes)
		return err_set(err, ERR_PROTOCOL,
			       "dsoffloadd answered message %u with %zd bytes, not %zu", type, n,
			       bytes);
	memcpy(ret, packet.bytes, bytes);
	return 0;
}

static int greet(int fd, const char *job, unsigned rank, unsigned world, int timeout_ms,
		 struct protocol_welcome *ret, struct err *err)
{
	struct protocol_hello hello = {.rank = rank, .world = world};
	int rc;

	if (strlen(job) >= sizeof(hello.job))
		return err_set(err, ERR_CONFIG, "job name '%s' is longer than %zu characters", job,
			       sizeof(hello.job) - 1);
	strcpy(hello.job, job);
	rc = packet_send(fd, &hello.head, PROTOCOL_HELLO, sizeof(hello), err);
	if (rc < 0)
		return rc;
	return answer_recv(fd, PROTOCOL_WELCOME, ret, sizeof(*ret), timeout_ms, NULL, err);
}

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
		rc = packet_send(fd, &packet->head, PROTOCOL_OPEN, bytes, err);
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
	struct fds fds = {.count = 0};
	struct protocol_welcome welcome;
	int rc;

	rc = open_check(config, err);
	if (rc < 0)
		return rc;
	rc = c->socket_fd = socket_connect(config->socket, err);
	if (rc < 0)
		return rc;
	rc = greet(c->socket_fd, config->job, config->rank, config->world, ANSWER_TIMEOUT_MS,
		   &welcome, err);
	if (rc < 0)
		return rc;
	c->daemon_pid = (pid_t)welcome.pid;
	rc = open_send(c->socket_fd, config, err);
	if (rc == 0)
		rc = answer_recv(c->socket_fd, PROTOCOL_OPENED, &c->opened, sizeof(c->opened), -1,
				 &fds, err);
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
	while (socket_await(fd, CLOSE_TIMEOUT_MS, &ignored) == 0)
		if (packet_recv_raw(fd, rest, sizeof(rest), NULL, &ignored) <= 0)
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

	n = packet_recv_raw(c->socket_fd, &packet, sizeof(packet), NULL, &c->broken);
	if (n > 0 && packet_check(&packet, n, PROTOCOL_ERROR, &c->broken) > 0)
		refused(&packet, (size_t)n, &c->broken);
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

int client_stats(struct client *c, struct protocol_stats *ret, struct err *err)
{
	struct protocol_message ask;
	int rc;

	if (c->broken.code)
		return broken(c, err);
	rc = packet_send(c->socket_fd, &ask, PROTOCOL_STATS, sizeof(ask), err);
	if (rc == 0)
		rc = answer_recv(c->socket_fd, PROTOCOL_STATS_REPLY, ret, sizeof(*ret),
				 ANSWER_TIMEOUT_MS, NULL, err);
	if (rc == 0)
		return 0;
	if (arena_failure(c, &c->broken))
		*err = c->broken;
	else
		c->broken = *err;
	broken_publish(c);
	return c->broken.code;
}

/* Without a session. */

struct text {
	char *at;
	size_t len;
};

static int text_append(struct text *t, const char *more, size_t len, struct err *err)
{
	char *grown;

	if (t->len + len > TEXT_BYTES_MAX)
		return err_set(err, ERR_PROTOCOL, "dsoffloadd answers with more than %u bytes",
			       TEXT_BYTES_MAX);
	grown = realloc(t->at, t->len + len + 1);
	if (!grown)
		return err_sys(err, -ENOMEM, "allocating the answer");
	memcpy(grown + t->len, more, len);
	t->at = grown;
	t->len += len;
	t->at[t->len] = '\0';
	return 0;
}

/* Packets until an empty one. `packet` has room for PROTOCOL_PACKET_MAX. */
static int text_recv(int fd, char *packet, struct text *text, struct err *err)
{
	const size_t head = sizeof(struct protocol_message);
	ssize_t n;
	int rc;

	for (;;) {
		rc = socket_await(fd, ANSWER_TIMEOUT_MS, err);
		if (rc < 0)
			return rc;
		n = packet_recv_raw(fd, packet, PROTOCOL_PACKET_MAX, NULL, err);
		if (n >= 0)
			n = packet_check(packet, n, PROTOCOL_TEXT, err);
		if (n < 0)
			return (int)n;
		rc = text_append(text, packet + head, (size_t)n - head, err);
		if (rc < 0 || (size_t)n == head)
			return rc;
	}
}

int client_query(const char *socket_name, enum protocol_query_what what, char **ret_text,
		 struct err *err)
{
	struct protocol_query query = {.what = what};
	struct text text = {.at = NULL};
	char *packet;
	int fd, rc;

	fd = socket_connect(socket_name, err);
	if (fd < 0)
		return fd;
	packet = malloc(PROTOCOL_PACKET_MAX);
	rc = packet ? packet_send(fd, &query.head, PROTOCOL_QUERY, sizeof(query), err)
		    : err_sys(err, -ENOMEM, "allocating a packet");
	if (rc == 0)
		rc = text_recv(fd, packet, &text, err);
	free(packet);
	close(fd);
	if (rc < 0) {
		free(text.at);
		return rc;
	}
	*ret_text = text.at;
	return 0;
}

int client_probe(const char *socket_name, struct err *err)
{
	struct protocol_welcome welcome;
	int fd, rc;

	fd = socket_connect(socket_name, err);
	if (fd < 0)
		return 0;
	rc = greet(fd, "probe", 0, 1, PROBE_TIMEOUT_MS, &welcome, err);
	close(fd);
	return rc == 0;
}
