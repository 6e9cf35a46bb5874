/*
 * The swap store: objects in extents on the files of one or several directories.
 *
 * Used by the daemon's session threads, each with a store of its own, and by benchmarks. All calls
 * on a store come from the thread that opened it; nothing here is shared.
 *
 * The life of a transfer, and who moves it on:
 *
 *	waiting  in path->head..tail: its directory has `queue_depth` in flight  nvme_submit
 *	staged   in store->staged: it has a slot                                 start_waiting
 *	flying   the kernel has it; a write gets its checksum meanwhile          flush
 *	         short or interrupted: staged again, from where it stopped       land
 *	landed   slot given back, and what waits for it is started               land
 *	done     a read's checksum compared, table updated, io->done called      deliver
 *	refused  in store->refused: `done` will come with a code                 deliver_refused
 *
 * Checksums never keep the device from work: of a batch of completions all are landed, and what can
 * start next is given to the kernel, before the first is summed; writes are summed in flight.
 *
 * Invariants
 *  1. store->slots[i] is the transfer with slot i, from staged until landed: at most queue_depth
 *     per directory, path_count * queue_depth in all, which is what the engine has room for.
 *  2. place->written is true only when the last write of the extent completed whole and place->crc
 *     is the sum of what was written. It turns false when a write begins, so that a failed or
 *     unfinished write can never be read back as if it were the extent.
 *  3. A read calls done(0) only after its bytes have been compared with place->crc.
 *  4. The eventfd is readable whenever a poll would find something: the engine signals completions,
 *     and what is refused or left over by a bounded poll is signalled here.
 *  5. `done` is called from nvme_poll and nvme_wait only, and those do not nest.
 *  6. Places (layout.c) are the only way from (object, extent) to (path, offset): another version
 *     of an extent is another place.
 */
#include "nvme/nvme.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/trace.h"
#include "nvme/internal.h"

#define REAP_BATCH 64u
#define NO_SLOT    UINT32_MAX

/*
 * While `done` callbacks run, new transfers are staged and go to the kernel together, unless this
 * many bytes are waiting or the kernel has less than is waiting: then the device has been kept from
 * work long enough. A call costs about as much as moving 2 KiB.
 */
#define STAGE_BYTES_MAX (256u << 10)

/* Tries without progress of one transfer (EINTR, EAGAIN, a resumed transfer that moves nothing). */
#define ATTEMPTS_MAX 64u
/* Refusals of a submission while the kernel holds nothing whose end could change its mind. */
#define STALLS_MAX 1000u

struct path {
	char *name;
	struct nvme_file file;
	struct nvme_io *head, *tail; /* waiting */
	unsigned in_flight;
};

struct nvme_store {
	struct path paths[NVME_PATHS_MAX];
	int fds[NVME_PATHS_MAX];
	size_t path_count;
	struct nvme_layout layout;
	double weights[NVME_PATHS_MAX];
	unsigned queue_depth, slot_count;

	const struct nvme_engine_ops *ops;
	void *queue; /* NULL once the engine has died */
	int event_fd;
	int broken; /* the code with which the engine failed; 0: it works */
	bool polling, closing;

	struct nvme_io **slots, **staged;
	uint32_t *free_slots;
	unsigned free_count, staged_count, staged_unsummed;
	uint64_t staged_bytes;
	struct nvme_io *refused_head, *refused_tail;
	unsigned regions;
	uint64_t calls; /* of `done` */

	struct nvme_stats stats;
	struct err error;  /* of the first failed transfer */
	struct err reason; /* of the engine */
	char direct_warning[1024], space_warning[1024], weights_reason[1024];
};

static int check_config(const struct nvme_config *config, struct err *err);
static int lay_out(struct nvme_store *s, const struct nvme_config *config, struct err *err);
static int make_slots(struct nvme_store *s, const struct nvme_config *config, struct err *err);
static int open_files(struct nvme_store *s, const struct nvme_config *config, struct err *err);
static int open_engine(struct nvme_store *s, enum nvme_engine engine, struct err *err);
static void fill_info(const struct nvme_store *s, struct nvme_info *ret);
static struct nvme_place *place_of(const struct nvme_store *s, uint32_t object, uint32_t extent);
static void refuse(struct nvme_store *s, struct nvme_io *io, int rc);
static void deliver_refused(struct nvme_store *s);
static void start_waiting(struct nvme_store *s, struct path *path);
static void flush(struct nvme_store *s, bool wait);
static void flush_if_due(struct nvme_store *s);
static unsigned reap(struct nvme_store *s, bool wait);
static void signal_event(struct nvme_store *s);
static void drain_event(struct nvme_store *s);
static void note_failure(struct nvme_store *s, const struct nvme_io *io, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

int nvme_store_open(const struct nvme_config *config, struct nvme_store **ret,
		    struct nvme_info *ret_info, struct err *err)
{
	struct nvme_store *s;
	int rc;

	rc = check_config(config, err);
	if (rc < 0)
		return rc;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_sys(err, -ENOMEM, "swap store");
	s->event_fd = -1;
	rc = lay_out(s, config, err);
	if (rc == 0)
		rc = make_slots(s, config, err);
	if (rc == 0)
		rc = open_files(s, config, err);
	if (rc == 0)
		rc = open_engine(s, config->engine, err);
	if (rc < 0) {
		nvme_store_free(s);
		return rc;
	}
	fill_info(s, ret_info);
	*ret = s;
	return 0;
}

struct nvme_store *nvme_store_free(struct nvme_store *s)
{
	size_t i;

	if (!s)
		return NULL;
	s->closing = true;
	while (s->queue && s->stats.in_flight > s->staged_count)
		reap(s, true);
	if (s->queue)
		s->ops->free(s->queue);
	if (s->event_fd >= 0)
		close(s->event_fd);
	for (i = 0; i < s->path_count; i++) {
		close(s->paths[i].file.fd);
		free(s->paths[i].name);
	}
	nvme_layout_done(&s->layout);
	free(s->slots);
	free(s->staged);
	free(s->free_slots);
	free(s);
	return NULL;
}

int nvme_store_register(struct nvme_store *s, void *base, size_t bytes, struct err *err)
{
	if (s->regions == NVME_REGIONS_MAX)
		return err_set(err, -EINVAL, "more than %u regions of buffers", NVME_REGIONS_MAX);
	s->regions++;
	if (!s->queue)
		return err_set(err, s->broken, "%s has failed", s->ops->name);
	return s->ops->add_region(s->queue, base, bytes, err);
}

uint32_t nvme_extent_count(const struct nvme_store *s, uint32_t object)
{
	assert(object < s->layout.object_count);
	return s->layout.spans[object].extent_count;
}

uint32_t nvme_extent_bytes(const struct nvme_store *s, uint32_t object, uint32_t extent)
{
	assert(object < s->layout.object_count);
	assert(extent < s->layout.spans[object].extent_count);
	return nvme_span_extent_bytes(&s->layout.spans[object], extent);
}

void nvme_submit(struct nvme_store *s, struct nvme_io *io)
{
	const struct nvme_place *place = place_of(s, io->object, io->extent);
	struct path *path = &s->paths[place->path];

	assert((uintptr_t)io->buf % NVME_ALIGN == 0);
	io->next = NULL;
	io->path = place->path;
	io->offset = place->offset;
	io->len = (uint32_t)nvme_padded(nvme_extent_bytes(s, io->object, io->extent));
	io->moved = 0;
	io->started_ns = io->ended_ns = 0;
	io->attempts = 0;
	io->summed = !io->write;
	io->slot = NO_SLOT;
	if (s->broken) {
		refuse(s, io, s->broken);
		return;
	}
	if (!io->write && !place->written) {
		note_failure(s, io, "it was never written, or its last write failed");
		refuse(s, io, ERR_IO);
		return;
	}
	if (path->tail)
		path->tail->next = io;
	else
		path->head = io;
	path->tail = io;
	start_waiting(s, path);
	if (s->polling)
		flush_if_due(s);
	else
		flush(s, false);
}

int nvme_poll(struct nvme_store *s)
{
	uint64_t before = s->calls;
	unsigned limit = s->stats.in_flight, taken = 0, n;

	assert(!s->polling);
	s->polling = true;
	/* Before looking, so that what completes after the last look is signalled anew. */
	drain_event(s);
	deliver_refused(s);
	flush(s, false);
	do {
		n = reap(s, false);
		taken += n;
	} while (n > 0 && taken < limit);
	flush(s, false);
	if (n > 0) /* stopped short, since `done` may submit for ever */
		signal_event(s);
	s->polling = false;
	return (int)(s->calls - before);
}

int nvme_wait(struct nvme_store *s)
{
	uint64_t before = s->calls;

	assert(!s->polling);
	s->polling = true;
	deliver_refused(s);
	while (s->calls == before && (s->stats.in_flight > 0 || s->refused_head)) {
		flush(s, true);
		reap(s, s->stats.in_flight > s->staged_count);
		deliver_refused(s);
	}
	flush(s, false);
	s->polling = false;
	return (int)(s->calls - before);
}

int nvme_event_fd(const struct nvme_store *s)
{
	return s->event_fd;
}

const char *nvme_store_error(const struct nvme_store *s)
{
	return s->error.text;
}

void nvme_store_stats(const struct nvme_store *s, struct nvme_stats *ret)
{
	*ret = s->stats;
}

const char *nvme_engine_name(enum nvme_engine engine)
{
	static const char *const names[NVME_ENGINE_COUNT] = {
		[NVME_AUTO] = "auto",
		[NVME_URING] = "io_uring",
		[NVME_LIBAIO] = "libaio",
	};

	return names[engine];
}

/* Opening. */

static int check_config(const struct nvme_config *c, struct err *err)
{
	size_t i;

	if (c->path_count == 0 || c->path_count > NVME_PATHS_MAX)
		return err_set(err, ERR_CONFIG,
			       "%zu directories for swap files, 1 to %u can be used", c->path_count,
			       NVME_PATHS_MAX);
	if (c->queue_depth == 0 || c->queue_depth > NVME_QUEUE_DEPTH_MAX)
		return err_set(err, ERR_CONFIG, "a queue depth of %u, 1 to %u can be used",
			       c->queue_depth, NVME_QUEUE_DEPTH_MAX);
	for (i = 0; i < c->object_count; i++) {
		const struct nvme_object *o = &c->objects[i];

		if (o->extent_bytes == 0 || o->extent_bytes % NVME_ALIGN != 0)
			return err_set(err, ERR_CONFIG,
				       "an extent of %u bytes is not a multiple of %u",
				       o->extent_bytes, NVME_ALIGN);
		if (o->bytes / o->extent_bytes >= UINT32_MAX)
			return err_set(err, ERR_CONFIG,
				       "%" PRIu64 " bytes in extents of %u bytes are "
				       "too many extents",
				       o->bytes, o->extent_bytes);
	}
	for (i = 0; c->weights && i < c->path_count; i++)
		if (!isfinite(c->weights[i]) || c->weights[i] <= 0)
			return err_set(err, ERR_CONFIG,
				       "%s: a weight of %g, only numbers above 0 can be used",
				       c->paths[i], c->weights[i]);
	if (nvme_store_bytes(c->objects, c->object_count) == UINT64_MAX)
		return err_set(err, ERR_CONFIG, "the swap files would be larger than 2^63 bytes");
	return 0;
}

static int lay_out(struct nvme_store *s, const struct nvme_config *config, struct err *err)
{
	uint64_t rooms[NVME_PATHS_MAX];
	size_t i;

	nvme_weigh(config, s->weights, s->weights_reason, sizeof(s->weights_reason));
	for (i = 0; i < config->path_count; i++)
		rooms[i] = nvme_file_room(config->paths[i]);
	return nvme_layout_init(&s->layout, config, s->weights, rooms, err);
}

static int make_slots(struct nvme_store *s, const struct nvme_config *config, struct err *err)
{
	unsigned i;

	s->queue_depth = config->queue_depth;
	s->slot_count = (unsigned)config->path_count * config->queue_depth;
	s->slots = calloc(s->slot_count, sizeof(struct nvme_io *));
	s->staged = calloc(s->slot_count, sizeof(struct nvme_io *));
	s->free_slots = calloc(s->slot_count, sizeof(*s->free_slots));
	if (!s->slots || !s->staged || !s->free_slots)
		return err_sys(err, -ENOMEM, "swap store with %u transfers in flight",
			       s->slot_count);
	for (i = 0; i < s->slot_count; i++)
		s->free_slots[s->free_count++] = s->slot_count - 1 - i;
	return 0;
}

static void append_warning(char *list, size_t list_bytes, const char *path, const char *what)
{
	size_t len = strlen(list);

	snprintf(list + len, list_bytes - len, "%s%s (%s)", len > 0 ? ", " : "", path, what);
}

static int open_files(struct nvme_store *s, const struct nvme_config *config, struct err *err)
{
	size_t i;
	int rc;

	for (i = 0; i < config->path_count; i++) {
		struct path *p = &s->paths[i];

		p->name = strdup(config->paths[i]);
		if (!p->name)
			return err_sys(err, -ENOMEM, "swap store");
		rc = nvme_file_open(p->name, s->layout.file_bytes[i], &p->file, err);
		if (rc < 0) {
			free(p->name);
			return rc;
		}
		s->fds[i] = p->file.fd;
		s->path_count++;
		if (p->file.not_direct)
			append_warning(s->direct_warning, sizeof(s->direct_warning), p->name,
				       p->file.not_direct);
		if (!p->file.reserved)
			append_warning(s->space_warning, sizeof(s->space_warning), p->name,
				       "the filesystem cannot reserve space, it was only counted");
	}
	return 0;
}

/* Opens the engine that is asked for; for `auto` the first that can be had, and says why that. */
static int open_engine(struct nvme_store *s, enum nvme_engine engine, struct err *err)
{
	struct err why;
	int rc;

	s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->event_fd < 0)
		return err_sys(err, -errno, "eventfd");
	s->ops = engine == NVME_LIBAIO ? &nvme_libaio_ops : &nvme_uring_ops;
	rc = s->ops->open(s->fds, s->path_count, s->slot_count, s->event_fd, &s->queue, &why);
	if (rc == 0) {
		if (engine == NVME_AUTO)
			snprintf(s->reason.text, sizeof(s->reason.text), "io_uring can be used");
		return 0;
	}
	s->queue = NULL;
	if (engine != NVME_AUTO)
		return err_set(err, ERR_CONFIG, "nvme engine %s: %s", s->ops->name, why.text);
	s->reason = why;
	s->ops = &nvme_libaio_ops;
	rc = s->ops->open(s->fds, s->path_count, s->slot_count, s->event_fd, &s->queue, &why);
	if (rc == 0)
		return 0;
	s->queue = NULL;
	return err_set(err, ERR_CONFIG, "no nvme engine: %.900s; %.900s", s->reason.text, why.text);
}

static void fill_info(const struct nvme_store *s, struct nvme_info *ret)
{
	struct nvme_info info = {.engine = NVME_URING,
				 .engine_reason = s->reason.text,
				 .weights_reason = s->weights_reason};
	size_t i;

	if (s->ops == &nvme_libaio_ops)
		info.engine = NVME_LIBAIO;
	if (s->direct_warning[0])
		info.direct_warning = s->direct_warning;
	if (s->space_warning[0])
		info.space_warning = s->space_warning;
	for (i = 0; i < s->path_count; i++) {
		info.weights[i] = s->weights[i];
		info.path_bytes[i] = s->layout.file_bytes[i];
		info.file_bytes += s->layout.file_bytes[i];
		if (s->paths[i].file.align_bytes > info.align_bytes)
			info.align_bytes = s->paths[i].file.align_bytes;
	}
	*ret = info;
}

/* Transfers. */

static struct nvme_place *place_of(const struct nvme_store *s, uint32_t object, uint32_t extent)
{
	assert(object < s->layout.object_count);
	assert(extent < s->layout.spans[object].extent_count);
	return &s->layout.places[s->layout.spans[object].first_place + extent];
}

/* The first failure is the one to read; later ones mostly follow from it. */
static void note_failure(struct nvme_store *s, const struct nvme_io *io, const char *fmt, ...)
{
	struct err why;
	va_list ap;

	if (s->error.code != 0)
		return;
	va_start(ap, fmt);
	err_vset(&why, ERR_IO, fmt, ap);
	va_end(ap);
	err_set(&s->error, ERR_IO,
		"%s: %s of %u bytes at offset %" PRIu64 " (object %u, extent %u): %.1000s",
		s->paths[io->path].name, io->write ? "write" : "read", io->len, io->offset,
		io->object, io->extent, why.text);
}

static void refuse(struct nvme_store *s, struct nvme_io *io, int rc)
{
	io->rc = rc;
	io->next = NULL;
	if (s->refused_tail)
		s->refused_tail->next = io;
	else
		s->refused_head = io;
	s->refused_tail = io;
	signal_event(s);
}

/* What is refused meanwhile is left for the next time. */
static void deliver_refused(struct nvme_store *s)
{
	struct nvme_io *io = s->refused_head, *next;

	s->refused_head = s->refused_tail = NULL;
	for (; io; io = next) {
		next = io->next;
		s->calls++;
		io->done(io, io->rc);
	}
}

static void stage(struct nvme_store *s, struct nvme_io *io)
{
	s->staged[s->staged_count++] = io;
	s->staged_bytes += io->len - io->moved;
	s->staged_unsummed += !io->summed;
}

static void release_slot(struct nvme_store *s, struct nvme_io *io)
{
	s->slots[io->slot] = NULL;
	s->free_slots[s->free_count++] = io->slot;
	io->slot = NO_SLOT;
	s->paths[io->path].in_flight--;
	s->stats.in_flight--;
}

static void start_waiting(struct nvme_store *s, struct path *path)
{
	struct nvme_io *io;

	while (path->head && path->in_flight < s->queue_depth) {
		io = path->head;
		path->head = io->next;
		if (!path->head)
			path->tail = NULL;
		io->slot = s->free_slots[--s->free_count];
		s->slots[io->slot] = io;
		path->in_flight++;
		if (++s->stats.in_flight > s->stats.in_flight_peak)
			s->stats.in_flight_peak = s->stats.in_flight;
		if (io->write)
			place_of(s, io->object, io->extent)->written = false;
		if (io->timed)
			io->started_ns = trace_now_ns();
		stage(s, io);
	}
}

/*
 * The engine is of no use any more. `dead`: not even to say what it has completed, so it is closed
 * and what it held fails too; otherwise that still completes by itself.
 */
static void break_engine(struct nvme_store *s, int rc, const char *doing, bool dead)
{
	struct nvme_io *io;
	unsigned i;

	if (s->error.code == 0)
		err_sys(&s->error, rc, "%s: %s", s->ops->name, doing);
	s->broken = rc;
	for (i = 0; i < s->staged_count; i++) {
		io = s->staged[i];
		release_slot(s, io);
		refuse(s, io, rc);
	}
	s->staged_count = s->staged_unsummed = 0;
	s->staged_bytes = 0;
	for (i = 0; i < s->path_count; i++) {
		while (s->paths[i].head) {
			io = s->paths[i].head;
			s->paths[i].head = io->next;
			refuse(s, io, rc);
		}
		s->paths[i].tail = NULL;
	}
	if (!dead)
		return;
	s->ops->free(s->queue);
	s->queue = NULL;
	for (i = 0; i < s->slot_count; i++) {
		io = s->slots[i];
		if (!io)
			continue;
		release_slot(s, io);
		refuse(s, io, rc);
	}
}

/* The first `taken` of what is staged are with the kernel: writes are summed while it has them. */
static void unstage(struct nvme_store *s, unsigned taken)
{
	struct nvme_io *io;
	unsigned i;

	for (i = 0; i < taken; i++) {
		io = s->staged[i];
		s->staged_bytes -= io->len - io->moved;
		if (io->summed)
			continue;
		io->crc = crc32c(0, io->buf, nvme_extent_bytes(s, io->object, io->extent));
		io->summed = true;
		s->staged_unsummed--;
	}
	s->staged_count -= taken;
	memmove(s->staged, s->staged + taken, s->staged_count * sizeof(struct nvme_io *));
}

/* Gives what is staged to the kernel, as far as it takes it. */
static void flush(struct nvme_store *s, bool wait)
{
	unsigned stalls = 0;
	int rc;

	while (s->staged_count > 0) {
		rc = s->ops->submit(s->queue, s->staged, s->staged_count,
				    wait && s->staged_unsummed == 0);
		if (rc < 0 && rc != -EAGAIN && rc != -EBUSY && rc != -EINTR) {
			break_engine(s, rc, "submission", false);
			return;
		}
		unstage(s, rc > 0 ? (unsigned)rc : 0);
		/* What the kernel holds will complete and bring us back here. */
		if (s->stats.in_flight > s->staged_count)
			return;
		if (++stalls == STALLS_MAX) {
			break_engine(s, rc < 0 ? rc : -EAGAIN, "submission", false);
			return;
		}
		sched_yield();
	}
}

static void flush_if_due(struct nvme_store *s)
{
	if (s->staged_bytes >= STAGE_BYTES_MAX || 2 * s->staged_count > s->stats.in_flight)
		flush(s, false);
}

/*
 * Takes the result of one round through the kernel. Returns 1 when the transfer must go on, or what
 * `done` is told.
 */
static int judge(struct nvme_store *s, struct nvme_io *io, int res)
{
	uint32_t moved = io->moved;

	if (res == -EINTR || res == -EAGAIN) {
		if (++io->attempts < ATTEMPTS_MAX)
			return 1;
	} else if (res > 0) {
		assert((uint32_t)res <= io->len - io->moved);
		if (io->moved + (uint32_t)res == io->len)
			return 0;
		/* Direct I/O goes on from an aligned place only. */
		io->moved = (io->moved + (uint32_t)res) / NVME_ALIGN * NVME_ALIGN;
		s->stats.resumed++;
		if (io->moved > moved || ++io->attempts < ATTEMPTS_MAX)
			return 1;
	}
	if (res < 0)
		note_failure(s, io, "%s", err_str(res));
	else if (res > 0)
		note_failure(s, io, "stuck after %u bytes", moved);
	else if (io->write)
		note_failure(s, io, "nothing was written after %u bytes", moved);
	else
		note_failure(s, io, "file shorter than expected, it ends after %u bytes", moved);
	return ERR_IO;
}

/* A transfer moved all its bytes: the table learns of a write, a read is checked against it. */
static int conclude(struct nvme_store *s, struct nvme_io *io)
{
	struct nvme_place *place = place_of(s, io->object, io->extent);
	uint32_t bytes = nvme_extent_bytes(s, io->object, io->extent);

	if (io->write) {
		place->crc = io->crc;
		place->written = true;
		s->stats.writes++;
		s->stats.written_bytes += io->len;
		return 0;
	}
	s->stats.reads++;
	s->stats.read_bytes += io->len;
	io->crc = crc32c(0, io->buf, bytes);
	if (place->written && io->crc == place->crc)
		return 0;
	note_failure(s, io,
		     "checksum %08x, expected %08x: the disk returned other bytes than were "
		     "written",
		     io->crc, place->crc);
	return ERR_IO;
}

/* Takes a completion. Returns whether the transfer is over, with its code in io->rc. */
static bool land(struct nvme_store *s, struct nvme_io *io, int res)
{
	int rc = judge(s, io, res);

	if (rc > 0 && !s->closing && !s->broken) {
		stage(s, io);
		return false;
	}
	if (rc > 0)
		rc = s->broken ? s->broken : -ECANCELED;
	io->rc = rc;
	if (io->timed)
		io->ended_ns = trace_now_ns();
	release_slot(s, io);
	if (!s->closing)
		start_waiting(s, &s->paths[io->path]);
	return true;
}

static void deliver(struct nvme_store *s, struct nvme_io *io)
{
	int rc = io->rc == 0 ? conclude(s, io) : io->rc;

	s->calls++;
	io->done(io, rc);
}

/* Lands and delivers a batch of completions. Returns how many. */
static unsigned reap(struct nvme_store *s, bool wait)
{
	struct nvme_completion batch[REAP_BATCH];
	unsigned landed = 0;
	int i, n;

	if (!s->queue || s->stats.in_flight == 0)
		return 0;
	n = s->ops->reap(s->queue, batch, REAP_BATCH, wait);
	if (n < 0) {
		break_engine(s, n, "waiting for transfers", true);
		return 0;
	}
	for (i = 0; i < n; i++)
		if (land(s, batch[i].io, batch[i].res))
			batch[landed++].io = batch[i].io;
	if (s->closing)
		return (unsigned)n;
	flush(s, false);
	for (i = 0; i < (int)landed; i++)
		deliver(s, batch[i].io);
	return (unsigned)n;
}

static void signal_event(struct nvme_store *s)
{
	/* Fails only when its counter is full, and readable then. */
	(void)eventfd_write(s->event_fd, 1);
}

static void drain_event(struct nvme_store *s)
{
	eventfd_t count;

	/* Fails when nothing was signalled. */
	(void)eventfd_read(s->event_fd, &count);
}
