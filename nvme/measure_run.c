/*
 * Keeps files busy: `depth` transfers of `extent` bytes on each, sequentially, over and over, and
 * counts. Called by measure.c, in one thread, straight on an engine: a store lays objects out by
 * their extents, and where a file lies on a disk can matter more than what is to be compared.
 *
 * Invariants
 *  1. A lane never has more than run->depth transfers in flight, each with its own slice of the
 *     lane's memory, and every one has come back when run_lanes returns 0.
 *  2. A lane's clock begins with its depth-th completion, when its queue is in its stride, and ends
 *     with a completion: no part of a transfer counts.
 *  3. Each transfer has the checksum that the store would make of it, for its cost.
 */
#include "nvme/measure_run.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "common/crc32c.h"

#define BATCH        64u
#define ATTEMPTS_MAX 64u
#define STALLS_MAX   1000u
/* Completions in bursts of a whole queue would make a shorter count a matter of chance. */
#define QUEUES_LEAST 2u

uint64_t run_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The lane's next transfer, in the storage of one that is over. */
static void stage(struct run_rig *rig, struct run_lane *lane, const struct run *run,
		  struct nvme_io *io)
{
	if (lane->at + run->extent > lane->bytes)
		lane->at = 0;
	io->offset = lane->at;
	io->len = run->extent;
	io->moved = 0;
	io->attempts = 0;
	io->write = run->mode == RUN_WRITE || (run->mode == RUN_MIXED && lane->started % 2);
	if (io->write)
		io->crc = crc32c(0, io->buf, io->len);
	lane->at += run->extent;
	lane->started++;
	rig->in_flight++;
	rig->staged[rig->staged_count++] = io;
}

static void lanes_begin(struct run_rig *rig, const struct run *run)
{
	for (size_t i = run->first; i < run->first + run->count; i++) {
		struct run_lane *lane = &rig->lanes[i];

		lane->at = lane->started = lane->done = lane->counted_bytes = 0;
		lane->from_ns = lane->to_ns = 0;
		lane->rate = 0;
		for (unsigned k = 0; k < run->depth; k++) {
			struct nvme_io *io = &lane->ios[k];

			io->path = (uint16_t)i;
			io->buf = lane->mem + (size_t)k * run->extent;
			if (!run->each_bytes || lane->started * run->extent < run->each_bytes)
				stage(rig, lane, run, io);
		}
	}
}

static bool lane_counted(const struct run_lane *lane, const struct run *run)
{
	return lane->done >= (uint64_t)run->depth * (1 + QUEUES_LEAST) &&
	       lane->to_ns - lane->from_ns >= (uint64_t)(run->seconds * 1e9);
}

/* Lanes end together, so that each was measured while all the others were at work. */
static bool over(const struct run_rig *rig, const struct run *run, uint64_t now)
{
	if (now >= run->deadline_ns)
		return true;
	for (size_t i = run->first; i < run->first + run->count; i++)
		if (!lane_counted(&rig->lanes[i], run))
			return false;
	return true;
}

static void count(struct run_lane *lane, const struct run *run, uint64_t now)
{
	if (++lane->done == run->depth)
		lane->from_ns = lane->to_ns = now;
	if (lane->done <= run->depth)
		return;
	lane->counted_bytes += run->extent;
	lane->to_ns = now;
}

/* Returns 1 when the transfer has to go on, 0 when it is whole. */
static int judge(const struct run_rig *rig, struct nvme_io *io, int res, struct err *err)
{
	const uint32_t moved = io->moved;

	if (res > 0 && io->moved + (uint32_t)res >= io->len)
		return 0;
	/* Direct I/O goes on from an aligned place only. */
	if (res > 0)
		io->moved = (io->moved + (uint32_t)res) / NVME_ALIGN * NVME_ALIGN;
	if ((res > 0 || res == -EINTR || res == -EAGAIN) &&
	    (io->moved > moved || ++io->attempts < ATTEMPTS_MAX))
		return 1;
	return err_set(err, ERR_IO, "%s: %s of %u bytes: %s", rig->lanes[io->path].name,
		       io->write ? "write" : "read", io->len,
		       res < 0 ? err_str(res) : "it ended early");
}

/* `stop`: start nothing more. */
static int settle(struct run_rig *rig, const struct run *run, const struct nvme_completion *c,
		  uint64_t now, bool stop, struct err *err)
{
	struct run_lane *lane = &rig->lanes[c->io->path];
	int rc = judge(rig, c->io, c->res, err);

	if (rc < 0)
		return rc;
	if (rc > 0) {
		rig->staged[rig->staged_count++] = c->io;
		return 0;
	}
	rig->in_flight--;
	if (c->io->write)
		rig->written_bytes += c->io->len;
	else
		c->io->crc = crc32c(0, c->io->buf, c->io->len);
	if (!stop)
		count(lane, run, now);
	if (!stop && (!run->each_bytes || lane->started * run->extent < run->each_bytes))
		stage(rig, lane, run, c->io);
	return 0;
}

static int flush(struct run_rig *rig, struct err *err)
{
	unsigned stalls = 0, taken;
	int rc;

	while (rig->staged_count > 0) {
		rc = rig->ops->submit(rig->queue, rig->staged, rig->staged_count, true);
		if (rc < 0 && rc != -EAGAIN && rc != -EBUSY && rc != -EINTR)
			return err_sys(err, rc, "%s: submission", rig->ops->name);
		taken = rc > 0 ? (unsigned)rc : 0;
		rig->staged_count -= taken;
		memmove(rig->staged, rig->staged + taken,
			rig->staged_count * sizeof(rig->staged[0]));
		/* What the kernel holds will complete and bring us back here. */
		if (rig->in_flight > rig->staged_count)
			return 0;
		if (++stalls == STALLS_MAX)
			return err_sys(err, rc < 0 ? rc : -EAGAIN, "%s: submission",
				       rig->ops->name);
		sched_yield();
	}
	return 0;
}

static void lanes_end(struct run_rig *rig, const struct run *run)
{
	for (size_t i = run->first; i < run->first + run->count; i++) {
		struct run_lane *lane = &rig->lanes[i];

		if (lane->done >= (uint64_t)run->depth * (1 + QUEUES_LEAST) &&
		    lane->to_ns > lane->from_ns)
			lane->rate = (double)lane->counted_bytes /
				     ((double)(lane->to_ns - lane->from_ns) * 1e-9);
	}
}

/* After a failure: takes back what the kernel still holds, of which nobody asks what became. */
static void drain(struct run_rig *rig)
{
	struct nvme_completion batch[BATCH];
	unsigned held = rig->in_flight - rig->staged_count;
	int n = 0;

	while (held > 0 && n >= 0) {
		n = rig->ops->reap(rig->queue, batch, BATCH, true);
		held -= n > 0 ? (unsigned)n : 0;
	}
	rig->in_flight = rig->staged_count = 0;
}

/* One batch of completions, and what follows from them. */
static int turn(struct run_rig *rig, const struct run *run, bool *stop, struct err *err)
{
	struct nvme_completion batch[BATCH];
	int rc = flush(rig, err), n, failed = 0;
	uint64_t now;

	if (rc < 0)
		return rc;
	n = rig->ops->reap(rig->queue, batch, BATCH, true);
	if (n < 0)
		return err_sys(err, n, "%s: waiting for transfers", rig->ops->name);
	now = run_now_ns();
	for (int i = 0; i < n; i++) {
		/* After a failure nothing starts, but each of the batch is taken off the count. */
		rc = settle(rig, run, &batch[i], now, *stop || failed < 0, err);
		if (rc < 0) {
			rig->in_flight--;
			failed = rc;
		}
	}
	*stop = *stop || now >= run->deadline_ns || (!run->each_bytes && over(rig, run, now));
	return failed;
}

int run_lanes(struct run_rig *rig, const struct run *run, struct err *err)
{
	bool stop = false;
	int rc = 0;

	lanes_begin(rig, run);
	while (rig->in_flight > 0 && rc == 0)
		rc = turn(rig, run, &stop, err);
	if (rc < 0) {
		drain(rig);
		return rc;
	}
	lanes_end(rig, run);
	return 0;
}
