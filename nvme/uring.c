/*
 * The io_uring engine: one ring for the files of a store, which it registers, as it does the
 * memory that the daemon carves its buffers from.
 *
 * Called by store.c from the one thread that uses the store: the ring is told so where the kernel
 * wants to know, and completions are then worked off in that thread when it asks for them, not by
 * interrupting it.
 *
 * Invariants
 *  1. Entries prepared in the submission queue and not yet taken by the kernel are the first
 *     `prepared` of the transfers that store.c gives again: they are not prepared twice.
 *  2. The completion queue has a place for every transfer that store.c lets be in flight.
 *  3. Registration is a matter of speed: a buffer or a file that is not registered works too.
 */
#include "nvme/internal.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

/* A submission queue of this many entries; a larger batch takes several calls. */
#define SQ_ENTRIES_MAX 256u

/* The kernel registers at most 1 GiB at a time; this many pieces cover a terabyte. */
#define PIECE_BYTES (1ul << 30)
#define PIECES_MAX  1024u

#define REAP_MAX 64u

struct region {
	uintptr_t base;
	size_t bytes;
	unsigned first_piece;
};

struct uring {
	struct io_uring ring;
	const int *fds;
	bool fixed_files, piece_table;
	unsigned prepared;
	struct region regions[NVME_REGIONS_MAX];
	unsigned region_count, piece_count;
};

static int ring_init(struct io_uring *ring, unsigned entries);
static bool knows_opcodes(struct io_uring *ring);
static int register_pieces(struct uring *u, uintptr_t base, size_t bytes, struct err *err);
static void prepare(const struct uring *u, struct io_uring_sqe *sqe, struct nvme_io *io);

static int uring_open(const int *fds, size_t fd_count, unsigned entries, int event_fd, void **ret,
		      struct err *err)
{
	struct uring *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return err_sys(err, -ENOMEM, "io_uring");
	u->fds = fds;
	rc = ring_init(&u->ring, entries);
	if (rc < 0) {
		err_sys(err, rc, "io_uring_queue_init");
		goto fail_mem;
	}
	if (!knows_opcodes(&u->ring)) {
		rc = err_sys(err, -EOPNOTSUPP, "io_uring of this kernel: plain reads and writes");
		goto fail_ring;
	}
	rc = io_uring_register_eventfd(&u->ring, event_fd);
	if (rc < 0) {
		err_sys(err, rc, "io_uring_register_eventfd");
		goto fail_ring;
	}
	u->fixed_files = io_uring_register_files(&u->ring, fds, (unsigned)fd_count) == 0;
	*ret = u;
	return 0;
fail_ring:
	io_uring_queue_exit(&u->ring);
fail_mem:
	free(u);
	return rc;
}

static void uring_free(void *queue)
{
	struct uring *u = queue;

	/*
	 * The kernel takes a ring down some time after its descriptor is closed. The space of the
	 * files and the pinned pages shall be free when we return; what fails here comes later.
	 */
	if (u->fixed_files)
		(void)io_uring_unregister_files(&u->ring);
	if (u->piece_table)
		(void)io_uring_unregister_buffers(&u->ring);
	io_uring_queue_exit(&u->ring);
	free(u);
}

static int uring_add_region(void *queue, void *base, size_t bytes, struct err *err)
{
	struct uring *u = queue;
	size_t pieces = bytes / PIECE_BYTES + (bytes % PIECE_BYTES != 0);
	struct region *r;
	int rc;

	if (pieces > PIECES_MAX - u->piece_count) {
		err_set(err, -EOPNOTSUPP, "io_uring: more than %u GiB of buffers", PIECES_MAX);
		return 1;
	}
	if (!u->piece_table) {
		rc = io_uring_register_buffers_sparse(&u->ring, PIECES_MAX);
		if (rc < 0) {
			err_set(err, -EOPNOTSUPP, "io_uring_register_buffers_sparse: %s",
				err_str(rc));
			return 1;
		}
		u->piece_table = true;
	}
	rc = register_pieces(u, (uintptr_t)base, bytes, err);
	if (rc != 0)
		return rc;
	r = &u->regions[u->region_count++];
	r->base = (uintptr_t)base;
	r->bytes = bytes;
	r->first_piece = u->piece_count;
	u->piece_count += (unsigned)pieces;
	return 0;
}

static int uring_submit(void *queue, struct nvme_io *const *ios, unsigned count, bool wait)
{
	struct uring *u = queue;
	struct io_uring_sqe *sqe;
	unsigned taken = 0;
	int rc;

	do {
		while (u->prepared < count - taken) {
			sqe = io_uring_get_sqe(&u->ring);
			if (!sqe)
				break;
			prepare(u, sqe, ios[taken + u->prepared++]);
		}
		if (wait && u->prepared == count - taken)
			rc = io_uring_submit_and_wait(&u->ring, 1);
		else
			rc = io_uring_submit(&u->ring);
		if (rc <= 0)
			return taken > 0 ? (int)taken : rc;
		u->prepared -= (unsigned)rc;
		taken += (unsigned)rc;
	} while (taken < count);
	return (int)taken;
}

static int uring_reap(void *queue, struct nvme_completion *ret, unsigned max, bool wait)
{
	struct uring *u = queue;
	struct io_uring_cqe *cqes[REAP_MAX];
	unsigned n, i;
	int rc;

	if (max > REAP_MAX)
		max = REAP_MAX;
	n = io_uring_peek_batch_cqe(&u->ring, cqes, max);
	if (n == 0 && wait) {
		rc = io_uring_wait_cqe(&u->ring, &cqes[0]);
		if (rc < 0)
			return rc == -EINTR || rc == -EAGAIN ? 0 : rc;
		n = io_uring_peek_batch_cqe(&u->ring, cqes, max);
	}
	for (i = 0; i < n; i++) {
		ret[i].io = io_uring_cqe_get_data(cqes[i]);
		ret[i].res = cqes[i]->res;
	}
	io_uring_cq_advance(&u->ring, n);
	return (int)n;
}

const struct nvme_engine_ops nvme_uring_ops = {
	.name = "io_uring",
	.open = uring_open,
	.free = uring_free,
	.add_region = uring_add_region,
	.submit = uring_submit,
	.reap = uring_reap,
};

/* The best mode that the kernel knows: 6.1 has the first, 5.19 the second. */
static int ring_init(struct io_uring *ring, unsigned entries)
{
	static const unsigned modes[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		0,
	};
	unsigned sq = entries < SQ_ENTRIES_MAX ? entries : SQ_ENTRIES_MAX;
	struct io_uring_params params;
	size_t i;
	int rc = -EINVAL;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]) && rc == -EINVAL; i++) {
		memset(&params, 0, sizeof(params));
		params.flags = modes[i] | IORING_SETUP_CQSIZE;
		params.cq_entries = entries;
		rc = io_uring_queue_init_params(sq, ring, &params);
	}
	return rc;
}

static bool knows_opcodes(struct io_uring *ring)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool known;

	if (!probe)
		return false;
	known = io_uring_opcode_supported(probe, IORING_OP_READ) &&
		io_uring_opcode_supported(probe, IORING_OP_WRITE) &&
		io_uring_opcode_supported(probe, IORING_OP_READ_FIXED) &&
		io_uring_opcode_supported(probe, IORING_OP_WRITE_FIXED);
	io_uring_free_probe(probe);
	return known;
}

/* 0, or 1 with the reason: then none of the pieces stays registered. */
static int register_pieces(struct uring *u, uintptr_t base, size_t bytes, struct err *err)
{
	unsigned first = u->piece_count, n = 0, i;
	size_t at, len;
	__u64 tag = 0;
	struct iovec iov;
	int rc = 1;

	for (at = 0; at < bytes && rc == 1; at += len, n++) {
		len = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
		iov.iov_base = (void *)(base + at);
		iov.iov_len = len;
		rc = io_uring_register_buffers_update_tag(&u->ring, first + n, &iov, &tag, 1);
	}
	if (rc == 1)
		return 0;
	err_set(err, -EOPNOTSUPP, "io_uring cannot register %zu bytes of buffers: %s%s", bytes,
		err_str(rc), rc == -ENOMEM ? " (see RLIMIT_MEMLOCK)" : "");
	memset(&iov, 0, sizeof(iov));
	for (i = 0; i + 1 < n; i++) /* a piece that stays pinned is only memory, until free */
		(void)io_uring_register_buffers_update_tag(&u->ring, first + i, &iov, &tag, 1);
	return 1;
}

/* The piece that holds all of [at, at + len), or -1. */
static int find_piece(const struct uring *u, uintptr_t at, size_t len)
{
	const struct region *r;
	size_t offset;
	unsigned i;

	for (i = 0; i < u->region_count; i++) {
		r = &u->regions[i];
		if (at < r->base || at - r->base >= r->bytes || len > r->bytes - (at - r->base))
			continue;
		offset = at - r->base;
		if (offset / PIECE_BYTES != (offset + len - 1) / PIECE_BYTES)
			return -1;
		return (int)(r->first_piece + offset / PIECE_BYTES);
	}
	return -1;
}

static void prepare(const struct uring *u, struct io_uring_sqe *sqe, struct nvme_io *io)
{
	uint8_t *at = (uint8_t *)io->buf + io->moved;
	uint64_t offset = io->offset + io->moved;
	uint32_t len = io->len - io->moved;
	int piece = find_piece(u, (uintptr_t)at, len);
	int fd = u->fixed_files ? io->path : u->fds[io->path];

	if (piece >= 0 && io->write)
		io_uring_prep_write_fixed(sqe, fd, at, len, offset, piece);
	else if (piece >= 0)
		io_uring_prep_read_fixed(sqe, fd, at, len, offset, piece);
	else if (io->write)
		io_uring_prep_write(sqe, fd, at, len, offset);
	else
		io_uring_prep_read(sqe, fd, at, len, offset);
	if (u->fixed_files)
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, io);
}
