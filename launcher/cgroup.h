/*
 * A cgroup (version 2) of the job's own, beneath the one we are in, so that its workers can be
 * killed in one stroke that no fork outruns. Only where that is ours to make: see cgroup.c.
 */
#ifndef LAUNCHER_CGROUP_H
#define LAUNCHER_CGROUP_H

#include "common/err.h"

#define CGROUP_DIR_BYTES 1024

/*
 * The directory of the cgroup that we are in, and where its hierarchy is mounted, which the
 * directory begins with. Negative with the reason where there is none.
 */
int cgroup_own_dir(char ret[CGROUP_DIR_BYTES], char ret_point[CGROUP_DIR_BYTES], struct err *err);

struct cgroup {
	char path[512];        /* "" when there is none */
	int procs_fd, kill_fd; /* -1 when there is none */
};

/* Makes it. 0, or a negative code with the reason why there is none; then *ret stays usable. */
int cgroup_open(const char *job, struct cgroup *ret, struct err *err);

/* SIGKILL to all in it. */
int cgroup_kill(const struct cgroup *cgroup, struct err *err);

/* Removes it, when empty: 0, or negative. Safe when there is none, and to try again. */
int cgroup_remove(struct cgroup *cgroup, struct err *err);

/* Removes the cgroup of a job whose agent could not; dsrun does when all has ended. */
void cgroup_remove_left(const char *job);

#endif
