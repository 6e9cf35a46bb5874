/* Packets that the daemon sends: the main thread's answers, and a session's to its OPEN. */
#include "daemon/wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define FDS_MAX 3u

int wire_send(int socket_fd, struct protocol_message *head, enum protocol_type type, size_t bytes,
	      const int *fds, size_t fd_count)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control = {.bytes = {0}};
	struct iovec iov = {.iov_base = head, .iov_len = bytes};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	assert(fd_count <= FDS_MAX && bytes <= PROTOCOL_PACKET_MAX);
	*head = (struct protocol_message){
		.magic = PROTOCOL_MAGIC,
		.version = PROTOCOL_VERSION,
		.type = type,
		.bytes = (uint32_t)bytes,
	};
	if (fd_count > 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(&control.head), fds, fd_count * sizeof(int));
	}
	do
		n = sendmsg(socket_fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int wire_send_error(int socket_fd, const struct err *err)
{
	struct protocol_error packet = {.code = err->code};
	size_t len = strnlen(err->text, sizeof(packet.text) - 1);

	memcpy(packet.text, err->text, len);
	return wire_send(socket_fd, &packet.head, PROTOCOL_ERROR, sizeof(packet), NULL, 0);
}
