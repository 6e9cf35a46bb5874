/* Private to nvme/: where extents lie, the swap files, and the table of functions of an engine. */
#ifndef NVME_INTERNAL_H
#define NVME_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "nvme/nvme.h"

/* An extent's place, and what is known of what lies there. */
struct nvme_place {
	uint64_t offset;
	uint32_t crc;
	uint16_t path;
	bool written;
};

/* An object: its extents' places are neighbours in the table. */
struct nvme_span {
	uint64_t bytes;
	uint32_t extent_bytes, extent_count;
	size_t first_place;
};

struct nvme_layout {
	struct nvme_span *spans;
	size_t object_count;
	struct nvme_place *places;
	uint64_t file_bytes[NVME_PATHS_MAX];
};

/*
 * Places all extents of a checked configuration by `weights` (all above 0), as far as each path has
 * room for them. On failure, too, nvme_layout_done frees what there is.
 */
int nvme_layout_init(struct nvme_layout *l, const struct nvme_config *config, const double *weights,
		     const uint64_t *rooms, struct err *err);
void nvme_layout_done(struct nvme_layout *l);

/* Without padding. */
uint32_t nvme_span_extent_bytes(const struct nvme_span *o, uint32_t extent);
uint64_t nvme_padded(uint64_t bytes);

/*
 * Fills ret[path_count], the largest of which is 1, with config->weights or with what is measured
 * where those are missing, and `reason` with where they come from, "" for one path. Never fails:
 * what cannot be measured is taken for equal, and the reason says why.
 */
void nvme_weigh(const struct nvme_config *config, double *ret, char *reason, size_t reason_bytes);

/* Bytes free for us on the filesystem of `dir`; UINT64_MAX when it cannot say. */
uint64_t nvme_file_room(const char *dir);

/* One unnamed, preallocated file of a directory. */
struct nvme_file {
	int fd;
	uint32_t align_bytes;   /* of offsets, lengths and buffers: at most NVME_ALIGN */
	const char *not_direct; /* why transfers pass the page cache; NULL with O_DIRECT */
	bool reserved;          /* the space is there for good */
};

/*
 * Makes a file in `dir` and takes `bytes` of it. Codes and texts as nvme_store_open promises. The
 * caller closes ret->fd.
 */
int nvme_file_open(const char *dir, uint64_t bytes, struct nvme_file *ret, struct err *err);

struct nvme_completion {
	struct nvme_io *io;
	int res; /* bytes moved, or -errno */
};

/*
 * An engine moves bytes [io->moved, io->len) of transfers between io->buf and the file
 * fds[io->path] at io->offset. It judges nothing: results, short ones too, go up as they are.
 */
struct nvme_engine_ops {
	const char *name;

	/*
	 * A queue for `entries` transfers in flight on `fds`, which stay open and unchanged until
	 * free. Each completion is signalled to the eventfd.
	 */
	int (*open)(const int *fds, size_t fd_count, unsigned entries, int event_fd, void **ret,
		    struct err *err);

	/* Nothing may be in flight, unless `reap` has failed. */
	void (*free)(void *queue);

	/* As nvme_store_register; called at most NVME_REGIONS_MAX times. */
	int (*add_region)(void *queue, void *base, size_t bytes, struct err *err);

	/*
	 * Gives `count` transfers to the kernel. Returns how many it took, or a negative code
	 * when it took none; the rest are given again, first and in the same order, by the next
	 * call. With `wait` the call may also wait for one completion if all were taken.
	 */
	int (*submit)(void *queue, struct nvme_io *const *ios, unsigned count, bool wait);

	/*
	 * Takes up to `max` completions; with `wait`, blocks for the first one, which must be
	 * under way. Returns how many (0 also when interrupted), or a negative code when the queue
	 * is dead.
	 */
	int (*reap)(void *queue, struct nvme_completion *ret, unsigned max, bool wait);
};

extern const struct nvme_engine_ops nvme_uring_ops, nvme_libaio_ops;

#endif
