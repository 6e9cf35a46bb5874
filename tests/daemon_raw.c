/* Talking to a dsoffloadd without the client. See daemon_bed.h. */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/daemon_bed.h"

/* For what should come at once. */
#define WAIT_MS 10000

int bed_raw_connect(const struct bed_daemon *d)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(d->socket));

	memcpy(a.sun_path, d->socket, strlen(d->socket));
	a.sun_path[0] = '\0';
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, len), 0);
	return fd;
}

void bed_raw_hello(int fd)
{
	struct protocol_hello hello = {
		.head = {PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_HELLO, sizeof(hello)},
		.rank = 0,
		.world = 1,
		.job = "raw",
	};
	struct protocol_welcome welcome;

	ck_assert_int_eq(send(fd, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	ck_assert_int_eq(recv(fd, &welcome, sizeof(welcome), 0), sizeof(welcome));
	ck_assert_uint_eq(welcome.head.type, PROTOCOL_WELCOME);
}

static ssize_t raw_recv(int fd, void *packet, size_t room, int ret_fds[3])
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(3 * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = packet, .iov_len = room};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);

	if (n > 0 && CMSG_FIRSTHDR(&msg))
		memcpy(ret_fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)), 3 * sizeof(int));
	return n;
}

int bed_raw_open(int fd, const struct client_config *config, int ret_fds[3],
		 struct protocol_opened *ret, struct err *err)
{
	size_t units = config->open.unit_count * sizeof(struct protocol_unit);
	size_t blobs = config->open.blob_count * sizeof(uint64_t);
	size_t bytes = sizeof(struct protocol_open) + units + blobs;
	union {
		struct protocol_error error;
		struct protocol_opened opened;
	} answer;
	char *packet = malloc(bytes);
	ssize_t n;

	memcpy(packet, &config->open, sizeof(config->open));
	memcpy(packet + sizeof(config->open), config->units, units);
	memcpy(packet + sizeof(config->open) + units, config->blobs, blobs);
	*(struct protocol_message *)(void *)packet = (struct protocol_message){
		PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_OPEN, (uint32_t)bytes};
	ck_assert_int_eq(send(fd, packet, bytes, MSG_NOSIGNAL), (ssize_t)bytes);
	free(packet);
	n = raw_recv(fd, &answer, sizeof(answer), ret_fds);
	ck_assert_int_gt(n, 0);
	if (answer.error.head.type == PROTOCOL_ERROR)
		return err_set(err, answer.error.code, "%.2000s", answer.error.text);
	ck_assert_int_eq(n, sizeof(answer.opened));
	*ret = answer.opened;
	return 0;
}

int bed_raw_await_end(int fd, struct err *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct protocol_error packet;
	ssize_t n;

	err->code = 0;
	for (;;) {
		ck_assert_msg(poll(&p, 1, WAIT_MS) > 0, "the daemon does not close");
		n = recv(fd, &packet, sizeof(packet), 0);
		if (n < 0 && errno == ECONNRESET)
			continue;
		if (n <= 0)
			return err->code;
		if (n == sizeof(packet) && packet.head.type == PROTOCOL_ERROR)
			err_set(err, packet.code, "%.2000s", packet.text);
	}
}
