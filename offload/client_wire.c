/*
 * The control socket, from the worker's side, and what needs no session: client_query (dsctl) and
 * client_probe (the launcher). Every call may come from any thread; each blocks for a bounded time
 * at most, unless it is told to wait for ever.
 *
 * The daemon is checked as it checks us: magic, version, type and size of every packet, and texts
 * are ended here.
 */
#include "offload/client_wire.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "offload/client.h"

#define PROBE_MS       5000
#define TEXT_BYTES_MAX (64u << 20)

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

int client_wire_connect(const char *socket_name, struct err *err)
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

int client_wire_send(int fd, struct protocol_message *head, enum protocol_type type, size_t bytes,
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
	/*
	 * A daemon that hung up has left its reason to be read; a packet goes whole or not at all.
	 */
	return 0;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int client_wire_await(int fd, int timeout_ms, struct err *err)
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

static void fds_take(struct msghdr *msg, struct client_fds *ret)
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

ssize_t client_wire_recv(int fd, void *buf, size_t room, struct client_fds *ret_fds,
			 struct err *err)
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
int client_wire_refused(const void *packet, size_t bytes, struct err *err)
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

ssize_t client_wire_check(const void *packet, ssize_t n, enum protocol_type type, struct err *err)
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
		return client_wire_refused(packet, (size_t)n, err);
	if (head.type != type)
		return err_set(err, ERR_PROTOCOL, "dsoffloadd answered with message %u, not %u",
			       head.type, type);
	return n;
}

int client_wire_answer(int fd, enum protocol_type type, void *ret, size_t bytes, int timeout_ms,
		       struct client_fds *ret_fds, struct err *err)
{
	/* An error message is the largest answer of fixed size, and may come instead of any. */
	union {
		struct protocol_error error;
		char bytes[sizeof(struct protocol_error)];
	} packet;
	ssize_t n;
	int rc;

	assert(bytes <= sizeof(packet));
	rc = client_wire_await(fd, timeout_ms, err);
	if (rc < 0)
		return rc;
	n = client_wire_recv(fd, &packet, sizeof(packet), ret_fds, err);
	if (n >= 0)
		n = client_wire_check(&packet, n, type, err);
	if (n < 0)
		return (int)n;
	if ((size_t)n != bytes)
		return err_set(err, ERR_PROTOCOL,
			       "dsoffloadd answered message %u with %zd bytes, not %zu", type, n,
			       bytes);
	memcpy(ret, packet.bytes, bytes);
	return 0;
}

int client_wire_greet(int fd, const char *job, unsigned rank, unsigned world, int timeout_ms,
		      struct protocol_welcome *ret, struct err *err)
{
	struct protocol_hello hello = {.rank = rank, .world = world};
	int rc;

	if (strlen(job) >= sizeof(hello.job))
		return err_set(err, ERR_CONFIG, "job name '%s' is longer than %zu characters", job,
			       sizeof(hello.job) - 1);
	strcpy(hello.job, job);
	rc = client_wire_send(fd, &hello.head, PROTOCOL_HELLO, sizeof(hello), err);
	if (rc < 0)
		return rc;
	return client_wire_answer(fd, PROTOCOL_WELCOME, ret, sizeof(*ret), timeout_ms, NULL, err);
}

/* Without a session. */

struct text {
	char *at;
	size_t len;
};

static int text_append(void *ctx, const char *more, size_t len, struct err *err)
{
	struct text *t = ctx;
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

/* `packet` has room for PROTOCOL_PACKET_MAX and a NUL. */
static int text_recv(int fd, char *packet, client_wire_fn *fn, void *ctx, struct err *err)
{
	const size_t head = sizeof(struct protocol_message);
	ssize_t n;
	int rc;

	for (;;) {
		rc = client_wire_await(fd, CLIENT_ANSWER_MS, err);
		if (rc < 0)
			return rc;
		n = client_wire_recv(fd, packet, PROTOCOL_PACKET_MAX, NULL, err);
		if (n >= 0)
			n = client_wire_check(packet, n, PROTOCOL_TEXT, err);
		if (n < 0)
			return (int)n;
		packet[n] = '\0';
		rc = fn(ctx, packet + head, (size_t)n - head, err);
		if (rc < 0 || (size_t)n == head)
			return rc;
	}
}

int client_wire_text(int fd, client_wire_fn *fn, void *ctx, struct err *err)
{
	char *packet = malloc(PROTOCOL_PACKET_MAX + 1);
	int rc = packet ? text_recv(fd, packet, fn, ctx, err)
			: err_sys(err, -ENOMEM, "allocating a packet");

	free(packet);
	return rc;
}

int client_query(const char *socket_name, enum protocol_query_what what, char **ret_text,
		 struct err *err)
{
	struct protocol_query query = {.what = what};
	struct text text = {.at = NULL};
	int fd, rc;

	fd = client_wire_connect(socket_name, err);
	if (fd < 0)
		return fd;
	rc = client_wire_send(fd, &query.head, PROTOCOL_QUERY, sizeof(query), err);
	if (rc == 0)
		rc = client_wire_text(fd, text_append, &text, err);
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

	fd = client_wire_connect(socket_name, err);
	if (fd < 0)
		return 0;
	rc = client_wire_greet(fd, "probe", 0, 1, PROBE_MS, &welcome, err);
	close(fd);
	return rc == 0;
}
