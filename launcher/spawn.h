/* Starts a process with exactly the descriptors, environment and cores it is meant to have. */
#ifndef LAUNCHER_SPAWN_H
#define LAUNCHER_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/topo.h"

#define SPAWN_FDS_MAX 8

struct spawn {
	const char *path;
	char *const *argv;
	char *const *envp;
	char *pid_text;         /* a string of envp that the child ends with its pid; NULL: none */
	int fds[SPAWN_FDS_MAX]; /* become 0..fd_count-1; borrowed */
	unsigned fd_count;
	const struct topo *topo; /* with cpuset: where it runs; NULL: unbound */
	const char *cpuset;
	int cgroup_fd;        /* cgroup.procs to enter; -1: none */
	bool die_with_parent; /* SIGKILL when the calling thread ends */
};

/* Decimal digits that pid_text needs behind its text. */
#define SPAWN_PID_BYTES 12

struct spawned {
	pid_t pid;
	int pidfd;    /* caller closes both */
	int error_fd; /* for spawn_result; non-blocking */
};

/*
 * Forks, in a process without threads, and leads the child straight to exec, in a process group of
 * its own. Whether exec worked is told by spawn_result.
 */
int spawn_start(const struct spawn *spawn, struct spawned *ret, struct err *err);

/*
 * 1: the program runs. 0: not known yet, error_fd will be readable. Negative: it never ran, why is
 * in err, and the child is about to end by itself.
 */
int spawn_result(int error_fd, struct err *err);

/*
 * An environment: ours, with `count` "NAME=value" strings in place of what ours says of NAME;
 * "NAME" alone takes NAME away. NULL when memory ran out.
 */
char **spawn_environment(char *const *ours, const char *const *set, size_t count);
void spawn_environment_free(char **env);

#endif
