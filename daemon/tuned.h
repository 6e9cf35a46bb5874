/*
 * The figures of `dsctl bench`, as the daemon goes by them: which engine a session gets that leaves
 * it open, and how its directories share the load. The main thread's alone.
 */
#ifndef DAEMON_TUNED_H
#define DAEMON_TUNED_H

#include <stdbool.h>
#include <sys/stat.h>

#include "common/err.h"
#include "nvme/figures.h"

struct tuned_file {
	const char *named; /* nvme.tuned; NULL: nvme_figures_default(), if it is there */
	enum nvme_tuned found;
	struct nvme_figures figures; /* for NVME_TUNED_FOUND */
	struct stat seen;            /* the file that was read last; all 0: none */
};

/*
 * Reads the file, and logs what it is. A named one that cannot be read, or is none, is an error.
 * `named` is borrowed as long as *t is used.
 */
int tuned_open(struct tuned_file *t, const char *named, struct err *err);

/*
 * For a session on these directories: reads the file again if it has been replaced (what is wrong
 * with it is then logged, and it counts as none), and returns whether figures hold for them; then
 * ret_weights has a share for each. `who` stands in the log when they do not.
 */
bool tuned_take(struct tuned_file *t, const char *const *paths, size_t path_count, const char *who,
		double *ret_weights);

/* The file's name, for reports. */
const char *tuned_name(const struct tuned_file *t);

#endif
