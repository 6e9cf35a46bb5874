/*
 * The swap store: objects cut into extents, in unnamed files preallocated when the store opens,
 * striped over one or several directories. Unnamed (O_TMPFILE, else unlinked at once): whatever
 * dies, the space comes back. Transfers are asynchronous, each completes on its own, every result
 * is looked at, short transfers are resumed, and every extent carries a CRC-32C that each read
 * verifies. A table maps extents to places, so that a version can be written beside another.
 *
 * The thread that opens a store is the one that uses and frees it: the kernel serves a ring faster
 * when it knows its only submitter. Errors of transfers name directory, offset and cause.
 */
#ifndef NVME_NVME_H
#define NVME_NVME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct nvme_store;

enum nvme_engine { NVME_AUTO, NVME_URING, NVME_LIBAIO, NVME_ENGINE_COUNT };

/* Buffers, and extent sizes but for an object's last, are multiples of this: covers 512 and 4Kn. */
#define NVME_ALIGN           4096u
#define NVME_PATHS_MAX       16u
#define NVME_QUEUE_DEPTH_MAX 4096u
#define NVME_REGIONS_MAX     8u

/* What measuring a path writes there at first; smaller stores are not worth it. */
#define NVME_WEIGH_BYTES (16u << 20)

/*
 * An object of `bytes`, in extents of `extent_bytes` (a multiple of NVME_ALIGN), the last one
 * possibly shorter; on disk and in buffers it is padded to NVME_ALIGN.
 */
struct nvme_object {
	uint64_t bytes;
	uint32_t extent_bytes;
};

struct nvme_config {
	const char *const *paths; /* directories; borrowed for the call */
	size_t path_count;
	enum nvme_engine engine;
	unsigned queue_depth; /* transfers in flight per directory, 1..NVME_QUEUE_DEPTH_MAX */
	const struct nvme_object *objects; /* ids are indices; borrowed for the call */
	size_t object_count;
	/*
	 * The speed of each path beside the others, in any unit, finite and above 0; borrowed for
	 * the call. The paths share the bytes in this proportion. NULL: equally where all paths
	 * are of one filesystem or the store is small, else as nvme_store_open measures.
	 */
	const double *weights;
};

/* What was chosen; filled by nvme_store_open, texts live as long as the store. */
struct nvme_info {
	enum nvme_engine engine;
	const char *engine_reason;      /* for auto: why; "" otherwise */
	const char *direct_warning;     /* the paths without O_DIRECT; NULL when all have it */
	const char *space_warning;      /* the paths that cannot preallocate; NULL when all can */
	uint32_t align_bytes;           /* the strictest of the paths */
	uint64_t file_bytes;            /* preallocated over all paths */
	double weights[NVME_PATHS_MAX]; /* of the paths, the largest is 1 */
	const char *weights_reason;     /* where they come from; "" for one path */
	uint64_t path_bytes[NVME_PATHS_MAX]; /* of file_bytes, on each path */
};

/*
 * Makes and preallocates the files. ERR_CANTCREAT names the path, the bytes wanted and the bytes
 * free when the space is not there; ERR_CONFIG for a path that is no writable directory or an
 * engine by name that cannot be had. `auto` takes io_uring, else libaio. Where paths of different
 * filesystems come without weights, it first writes and reads on all of them at once for a moment
 * (NVME_WEIGH_BYTES on each, then 0.5 s). Weights decide how fast transfers are, nothing
 * else.
 */
int nvme_store_open(const struct nvme_config *config, struct nvme_store **ret,
		    struct nvme_info *ret_info, struct err *err);

/*
 * Waits for what is in flight, then frees all; `done` is not called any more, and what had not
 * started never does. NULL is fine. Returns NULL.
 */
struct nvme_store *nvme_store_free(struct nvme_store *store);

/* Bytes the config would take on disk, without opening anything; UINT64_MAX when past 2^63. */
uint64_t nvme_store_bytes(const struct nvme_object *objects, size_t object_count);

/*
 * Registers memory that buffers of later transfers come from (at most NVME_REGIONS_MAX regions, or
 * -EINVAL). A region the kernel refuses, or the engine cannot register, is used unregistered; the
 * reason is in err and the return is 1. 0: registered.
 */
int nvme_store_register(struct nvme_store *store, void *base, size_t bytes, struct err *err);

struct nvme_io;
/* rc: 0, or negative with the store's error text (nvme_store_error). May submit again. */
typedef void nvme_done_fn(struct nvme_io *io, int rc);

/* One extent in or out. Caller's storage, off limits, with buf, until `done` is called. */
struct nvme_io {
	uint32_t object, extent;
	bool write;
	bool timed; /* started_ns and ended_ns are wanted */
	void *buf;  /* NVME_ALIGN-aligned, room for the extent padded to NVME_ALIGN */
	nvme_done_fn *done;
	void *context; /* the caller's */

	/* CLOCK_MONOTONIC: when it was first given to the kernel, and when it was seen to be over,
	 * before its checksum was looked at; 0 when it never started. For `done` to read. */
	uint64_t started_ns, ended_ns;

	/* the store's; `done` may read path and len */
	struct nvme_io *next;
	uint64_t offset;
	uint32_t len, moved, crc, slot;
	int rc;
	uint16_t path;
	uint16_t attempts;
	bool summed;
};

/* Extents of an object, and the bytes of one of them without padding. */
uint32_t nvme_extent_count(const struct nvme_store *store, uint32_t object);
uint32_t nvme_extent_bytes(const struct nvme_store *store, uint32_t object, uint32_t extent);

/*
 * Queues a transfer; it starts at once when its directory's queue has room, else in order as others
 * complete. Transfers submitted by `done` callbacks start in batches, at the latest before the
 * nvme_poll or nvme_wait that calls them returns. Reading an extent that was never written, or
 * whose last write failed, is an error through `done`. A read of an extent must be submitted after
 * `done` of its write. `done` is never called from within nvme_submit.
 */
void nvme_submit(struct nvme_store *store, struct nvme_io *io);

/*
 * Starts what waits and calls `done` for what completed, without blocking. Returns how many `done`
 * calls it made. An engine that fails as a whole fails every transfer, through `done`.
 */
int nvme_poll(struct nvme_store *store);

/* Blocks until at least one transfer completes, or none is in flight. Returns as nvme_poll. */
int nvme_wait(struct nvme_store *store);

/* Becomes readable when something completes; nvme_poll empties it. The store's. */
int nvme_event_fd(const struct nvme_store *store);

/* The text of the first failed transfer, "" when none. */
const char *nvme_store_error(const struct nvme_store *store);

struct nvme_stats {
	uint64_t read_bytes, written_bytes;
	uint64_t reads, writes, resumed; /* resumed: short transfers continued */
	uint32_t in_flight, in_flight_peak;
};

void nvme_store_stats(const struct nvme_store *store, struct nvme_stats *ret);

const char *nvme_engine_name(enum nvme_engine engine);

#endif
