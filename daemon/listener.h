/* The socket that workers connect to. The main thread calls. */
#ifndef DAEMON_LISTENER_H
#define DAEMON_LISTENER_H

#include <stdbool.h>

#include "common/err.h"

struct listener {
	int fd;
	char name[128]; /* where it listens, "@" first in the abstract namespace */
	bool inherited; /* by socket activation; its path is not ours to remove */
};

/*
 * Takes the socket that was passed by activation (LISTEN_PID, LISTEN_FDS), else makes one at
 * `name`: a path, or "@name" in the abstract namespace. The path of a dead daemon's socket is taken
 * over, that of a living one is ERR_UNAVAILABLE.
 */
int listener_open(const char *name, struct listener *ret, struct err *err);

/* Closes, and removes a path that listener_open made. */
void listener_close(struct listener *listener);

#endif
