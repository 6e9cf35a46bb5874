/*
 * The control socket, from the worker's side: packets and what the daemon answers. Private to
 * client.c and client_wire.c. Nothing here remembers anything.
 */
#ifndef OFFLOAD_CLIENT_WIRE_H
#define OFFLOAD_CLIENT_WIRE_H

#include <stddef.h>
#include <sys/types.h>

#include "common/err.h"
#include "offload/protocol.h"

/* Bound of what a living daemon answers from its main thread. */
#define CLIENT_ANSWER_MS 30000

/* Descriptors that came with a packet. */
struct client_fds {
	int at[3];
	size_t count;
};

/* Returns the socket, or ERR_UNAVAILABLE when nobody listens. */
int client_wire_connect(const char *socket_name, struct err *err);

/*
 * Fills the head and sends. A daemon that has hung up is no error here: it left its reason to be
 * read.
 */
int client_wire_send(int fd, struct protocol_message *head, enum protocol_type type, size_t bytes,
		     struct err *err);

/* Waits until the socket can be read, at most timeout_ms (-1: for ever). */
int client_wire_await(int fd, int timeout_ms, struct err *err);

/* One packet as it is. Returns its bytes, 0 at the end. */
ssize_t client_wire_recv(int fd, void *buf, size_t room, struct client_fds *ret_fds,
			 struct err *err);

/* Looks at a packet's head. Returns n, or what the daemon refused with. */
ssize_t client_wire_check(const void *packet, ssize_t n, enum protocol_type type, struct err *err);

/* The words and the code of an ERROR. */
int client_wire_refused(const void *packet, size_t bytes, struct err *err);

/* One answer of a fixed size into ret. */
int client_wire_answer(int fd, enum protocol_type type, void *ret, size_t bytes, int timeout_ms,
		       struct client_fds *ret_fds, struct err *err);

/*
 * TEXT packets up to the empty one, each handed to fn with a NUL behind it. fn's first negative
 * return ends it.
 */
typedef int client_wire_fn(void *ctx, const char *text, size_t len, struct err *err);
int client_wire_text(int fd, client_wire_fn *fn, void *ctx, struct err *err);

/* HELLO and WELCOME. */
int client_wire_greet(int fd, const char *job, unsigned rank, unsigned world, int timeout_ms,
		      struct protocol_welcome *ret, struct err *err);

#endif
