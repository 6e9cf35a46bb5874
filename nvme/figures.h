/*
 * What was measured of a node's swap directories, and what was chosen by it: engine, extent, queue
 * depth. `dsctl bench` writes them to a file, which daemon, launcher and planner read. The figures
 * are one value without pointers: copy it, put it on the stack. No function here keeps state.
 */
#ifndef NVME_FIGURES_H
#define NVME_FIGURES_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "nvme/nvme.h"

#define NVME_PATH_BYTES        256u
#define NVME_FILESYSTEM_BYTES  64u
#define NVME_FIGURES_STEPS_MAX 16u
#define NVME_EXTENT_MIN        (64u << 10) /* below, a disk's latency is all one sees */
#define NVME_EXTENT_MAX        (64u << 20)

/* Bytes a second. Mixed: half of the transfers read, half write, both counted. */
struct nvme_speed {
	double read, write, mixed;
};

struct nvme_figures_path {
	char path[NVME_PATH_BYTES];             /* absolute, without symbolic links */
	char filesystem[NVME_FILESYSTEM_BYTES]; /* nvme_filesystem_id when it was measured */
	struct nvme_speed alone;
	double share; /* mixed, while all directories were in use: what to divide load by */
};

/* The optimizer's step over memory beyond cache, all threads together: bytes a second. */
struct nvme_figures_step {
	uint64_t threads;
	double move; /* the same bytes with no arithmetic */
	double step;
};

struct nvme_figures {
	uint64_t measured; /* seconds since 1970 */
	enum nvme_engine engine;
	uint64_t extent, queue_depth; /* queue_depth: of each directory */
	struct nvme_speed together;   /* all directories at once, with the three above */
	struct nvme_figures_path paths[NVME_PATHS_MAX];
	size_t path_count;
	struct nvme_figures_step steps[NVME_FIGURES_STEPS_MAX]; /* threads ascending */
	size_t step_count;
};

/* Where dsctl bench writes and everybody reads unless told otherwise: static storage. */
const char *nvme_figures_default(void);

/*
 * Reads a file of figures. ERR_NOINPUT when it cannot be read, ERR_CONFIG with file:line:column
 * when it is not one, -ENOMEM. *ret is written on success only.
 */
int nvme_figures_load(const char *file, struct nvme_figures *ret, struct err *err);

/* nvme_figures_load of a text of `len` bytes, called `name` in messages. */
int nvme_figures_parse(const char *name, const char *text, size_t len, struct nvme_figures *ret,
		       struct err *err);

/*
 * Writes the file whole, or leaves what was there. ERR_CANTCREAT or ERR_IO with the reason;
 * ERR_CONFIG when a figure is none that nvme_figures_load would take back.
 */
int nvme_figures_save(const char *file, const struct nvme_figures *figures, struct err *err);

/*
 * Do the figures hold for all of these directories? Each has to be among those measured, on the
 * same filesystem as then; ret_weights, unless NULL, then has each one's share of the load, 1 in
 * all. ERR_CONFIG says which directory is another; a code of its own when one cannot be looked at.
 */
int nvme_figures_match(const struct nvme_figures *figures, const char *const *paths,
		       size_t path_count, double *ret_weights, struct err *err);

/*
 * What `path`'s filesystem is called for good: the UUID where the kernel tells it (since 6.9), else
 * the filesystem's own id, else its device's number, each with the filesystem's type. With `like`,
 * an id made before, it is of that kind, as far as there is one.
 */
int nvme_filesystem_id(const char *path, const char *like, char ret[NVME_FILESYSTEM_BYTES],
		       struct err *err);

/* Figures by which planner and daemon may go: what nvme_tuned_find found. */
enum nvme_tuned {
	NVME_TUNED_NONE,    /* there is no such file, and nobody had named one */
	NVME_TUNED_IGNORED, /* there is one that does not hold: `err` says why */
	NVME_TUNED_FOUND,
};

/*
 * The one rule by which daemon and launcher look for figures: `file`, or nvme_figures_default()
 * when it is NULL. A named file that cannot be used as such (missing, unreadable, no figures) is an
 * error; with the default that is NVME_TUNED_IGNORED. Figures of other directories are IGNORED
 * either way. Returns an enum nvme_tuned or a negative code; *ret and ret_weights as above, written
 * for NVME_TUNED_FOUND only. No paths: the figures are found, whatever they are of.
 */
int nvme_tuned_find(const char *file, const char *const *paths, size_t path_count,
		    struct nvme_figures *ret, double *ret_weights, struct err *err);

#endif
