/* The descendants of a process, wherever setsid or double forks have taken them. */
#ifndef LAUNCHER_TREE_H
#define LAUNCHER_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/err.h"

/*
 * Sends SIGKILL to every descendant of the calling process but `except` (0: none) and what descends
 * from it. Returns how many there were, zombies of others included, or a negative code. The caller,
 * a subreaper, reaps and calls again until nothing is left: a process may fork while being looked
 * at.
 */
int tree_kill(pid_t except, struct err *err);

/*
 * Has `pid` begun to exit? A process closes its sockets, which its peers see, before its parent is
 * told that it ended; in between, this is true. Also true when it is gone.
 */
bool tree_is_exiting(pid_t pid);

#endif
