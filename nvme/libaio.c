/*
 * The libaio engine: one kernel context for the files of a store.
 *
 * Called by store.c from the thread that uses the store.
 *
 * Invariants
 *  1. The kernel copies an iocb before io_submit returns, so the array of one batch serves all; a
 *     completion finds its transfer by the iocb's data word.
 *  2. The context has a place for every transfer that store.c lets be in flight, so io_submit
 *     finds no full ring.
 */
#include "nvme/internal.h"

#include <errno.h>
#include <libaio.h>
#include <stdlib.h>
#include <time.h>

#define BATCH 64u

struct aio {
	io_context_t context;
	const int *fds;
	int event_fd;
	struct iocb iocbs[BATCH];
	struct io_event events[BATCH];
};

static void prepare(const struct aio *a, struct iocb *cb, struct nvme_io *io);

static int aio_open(const int *fds, size_t fd_count, unsigned entries, int event_fd, void **ret,
		    struct err *err)
{
	struct aio *a = calloc(1, sizeof(*a));
	int rc;

	(void)fd_count;
	if (!a)
		return err_sys(err, -ENOMEM, "libaio");
	a->fds = fds;
	a->event_fd = event_fd;
	rc = io_setup((int)entries, &a->context);
	if (rc < 0) {
		free(a);
		return rc == -EAGAIN
			       ? err_sys(err, rc,
					 "io_setup of %u entries, see /proc/sys/fs/aio-max-nr",
					 entries)
			       : err_sys(err, rc, "io_setup of %u entries", entries);
	}
	*ret = a;
	return 0;
}

static void aio_free(void *queue)
{
	struct aio *a = queue;

	/* Fails only for a context that is not one. */
	(void)io_destroy(a->context);
	free(a);
}

static int aio_add_region(void *queue, void *base, size_t bytes, struct err *err)
{
	(void)queue;
	(void)base;
	(void)bytes;
	err_set(err, -EOPNOTSUPP, "libaio has no registered buffers");
	return 1;
}

static int aio_submit(void *queue, struct nvme_io *const *ios, unsigned count, bool wait)
{
	struct aio *a = queue;
	struct iocb *cbs[BATCH];
	unsigned taken = 0, n, i;
	int rc;

	(void)wait;
	while (taken < count) {
		n = count - taken < BATCH ? count - taken : BATCH;
		for (i = 0; i < n; i++) {
			prepare(a, &a->iocbs[i], ios[taken + i]);
			cbs[i] = &a->iocbs[i];
		}
		rc = io_submit(a->context, (long)n, cbs);
		if (rc <= 0)
			return taken > 0 ? (int)taken : rc;
		taken += (unsigned)rc;
	}
	return (int)taken;
}

static int aio_reap(void *queue, struct nvme_completion *ret, unsigned max, bool wait)
{
	struct aio *a = queue;
	struct timespec now = {0, 0};
	int i, n;

	n = io_getevents(a->context, wait ? 1 : 0, max < BATCH ? max : BATCH, a->events,
			 wait ? NULL : &now);
	if (n < 0)
		return n == -EINTR ? 0 : n;
	for (i = 0; i < n; i++) {
		ret[i].io = a->events[i].data;
		ret[i].res = (int)(long)a->events[i].res;
	}
	return n;
}

const struct nvme_engine_ops nvme_libaio_ops = {
	.name = "libaio",
	.open = aio_open,
	.free = aio_free,
	.add_region = aio_add_region,
	.submit = aio_submit,
	.reap = aio_reap,
};

static void prepare(const struct aio *a, struct iocb *cb, struct nvme_io *io)
{
	uint8_t *at = (uint8_t *)io->buf + io->moved;
	long long offset = (long long)(io->offset + io->moved);
	size_t len = io->len - io->moved;

	if (io->write)
		io_prep_pwrite(cb, a->fds[io->path], at, len, offset);
	else
		io_prep_pread(cb, a->fds[io->path], at, len, offset);
	io_set_eventfd(cb, a->event_fd);
	cb->data = io;
}
