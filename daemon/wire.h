/* Packets that the daemon sends. A packet goes whole or not at all; none of these blocks. */
#ifndef DAEMON_WIRE_H
#define DAEMON_WIRE_H

#include <stddef.h>

#include "common/err.h"
#include "offload/protocol.h"

/*
 * Fills the head and sends, with `fd_count` descriptors (at most 3), which stay the caller's.
 * Returns 0 or -errno: -EAGAIN when the peer does not read, -EPIPE when it is gone.
 */
int wire_send(int socket_fd, struct protocol_message *head, enum protocol_type type, size_t bytes,
	      const int *fds, size_t fd_count);

/* ERROR with err's code and text. */
int wire_send_error(int socket_fd, const struct err *err);

#endif
