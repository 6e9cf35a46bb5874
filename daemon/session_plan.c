/*
 * An OPEN packet, checked field by field and turned into offsets, objects and totals. The main
 * thread calls. The packet is the peer's word: every count, size, alignment and sum is bounded
 * here, so that whatever works by a plan need not look again.
 *
 * Invariants of a plan that was made
 *  1. No sum or product of its sizes overflows 64 bits, by the maxima below.
 *  2. Every offset and size that a transfer uses is a multiple of PROTOCOL_ALIGN_BYTES.
 *  3. Each unit's parameters in memory lie inside the arena's data part.
 */
#include "daemon/session_plan.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* 2^40 elements and 2^46 bytes: far past any host, and sums of thousands stay far from 2^64. */
#define ELEMS_MAX         (UINT64_C(1) << 40)
#define POSITION_MAX      (UINT64_C(1) << 50) /* elements of a model */
#define DATA_BYTES_MAX    (UINT64_C(1) << 46)
#define CHUNK_ELEMS_MAX   (UINT64_C(1) << 26)
#define EXTENT_BYTES_MAX  (1u << 30)
#define CHUNK_BUFFERS_MAX 1024u
/* The store keeps a few words for each: some hundred MiB for the most. */
#define EXTENTS_MAX (UINT64_C(1) << 22)

static int open_take(const void *packet, size_t bytes, struct session_plan *p, struct err *err);
static int open_check(const struct session_plan *p, struct err *err);
static int hyper_check(const struct session_plan *p, struct err *err);
static int units_check(struct session_plan *p, struct err *err);
static int blobs_check(const struct session_plan *p, struct err *err);
static int swap_check(const struct session_plan *p, struct err *err);
static void types_set(struct session_plan *p);
static void memory_lay_out(struct session_plan *p);
static int swap_lay_out(struct session_plan *p, struct err *err);

int session_plan_make(const void *packet, size_t bytes, struct session_plan **ret, struct err *err)
{
	struct session_plan *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_sys(err, -ENOMEM, "allocating a session's tables");
	rc = open_take(packet, bytes, p, err);
	if (rc == 0)
		rc = open_check(p, err);
	if (rc == 0) {
		types_set(p);
		rc = p->open.unit_count > 0 ? hyper_check(p, err) : 0;
	}
	if (rc == 0)
		rc = units_check(p, err);
	if (rc == 0)
		rc = blobs_check(p, err);
	if (rc == 0) {
		memory_lay_out(p);
		rc = swap_lay_out(p, err);
	}
	if (rc == 0)
		rc = swap_check(p, err);
	if (rc < 0) {
		session_plan_free(p);
		return rc;
	}
	*ret = p;
	return 0;
}

struct session_plan *session_plan_free(struct session_plan *p)
{
	if (!p)
		return NULL;
	free(p->units);
	free(p->blobs);
	free(p->objects);
	free(p);
	return NULL;
}

uint64_t unit_chunk_elems(const struct session_plan *p, const struct unit_plan *u, uint64_t chunk)
{
	uint64_t left = u->wire.elems - chunk * p->open.chunk_elems;

	return left < p->open.chunk_elems ? left : p->open.chunk_elems;
}

uint64_t session_part_bytes(const struct session_plan *p, enum part part, uint64_t elems)
{
	uint64_t bytes = 0;

	if (part == PART_PARAM)
		bytes = elems * dtype_bytes(p->param_type);
	else if (part == PART_GRAD)
		bytes = elems * dtype_bytes(p->kept_type);
	else
		bytes = optimizer_state_bytes(p->hyper.kind, p->hyper.moments, p->param_type,
					      elems);
	return (bytes + PROTOCOL_ALIGN_BYTES - 1) / PROTOCOL_ALIGN_BYTES * PROTOCOL_ALIGN_BYTES;
}

static bool aligned(uint64_t value, uint64_t to)
{
	return value % to == 0;
}

/* Copies the packet apart. */
static int open_take(const void *packet, size_t bytes, struct session_plan *p, struct err *err)
{
	const struct protocol_open *o = &p->open;
	const char *at = packet;
	size_t want;

	if (bytes < sizeof(*o))
		return err_set(err, ERR_PROTOCOL, "OPEN of %zu bytes, at least %zu were expected",
			       bytes, sizeof(*o));
	memcpy(&p->open, at, sizeof(*o));
	if (o->unit_count > PROTOCOL_UNITS_MAX || o->blob_count > PROTOCOL_BLOBS_MAX ||
	    o->path_count > PROTOCOL_PATHS_MAX)
		return err_set(err, ERR_PROTOCOL,
			       "OPEN with %u units, %u blobs, %u paths: at most %u, %u and %u",
			       o->unit_count, o->blob_count, o->path_count, PROTOCOL_UNITS_MAX,
			       PROTOCOL_BLOBS_MAX, PROTOCOL_PATHS_MAX);
	want = sizeof(*o) + o->unit_count * sizeof(struct protocol_unit) +
	       o->blob_count * sizeof(uint64_t);
	if (bytes != want)
		return err_set(err, ERR_PROTOCOL, "OPEN of %zu bytes, its counts make %zu", bytes,
			       want);
	p->units = calloc(o->unit_count + 1, sizeof(*p->units));
	p->blobs = calloc(o->blob_count + 1, sizeof(*p->blobs));
	p->objects =
		calloc((size_t)o->unit_count * PART_COUNT + o->blob_count + 1, sizeof(*p->objects));
	if (!p->units || !p->blobs || !p->objects)
		return err_sys(err, -ENOMEM, "allocating a session's tables");
	at += sizeof(*o);
	for (uint32_t i = 0; i < o->unit_count; i++, at += sizeof(p->units[i].wire))
		memcpy(&p->units[i].wire, at, sizeof(p->units[i].wire));
	memcpy(p->blobs, at, o->blob_count * sizeof(uint64_t));
	return 0;
}

static int hyper_check(const struct session_plan *p, struct err *err)
{
	const struct protocol_open *o = &p->open;
	const char *key;
	struct err why;

	if (o->chunk_elems == 0 || o->chunk_elems > CHUNK_ELEMS_MAX ||
	    !aligned(o->chunk_elems, PROTOCOL_ALIGN_ELEMS))
		return err_set(err, ERR_PROTOCOL,
			       "chunk_elems %" PRIu64 " is not a multiple of %u up to %" PRIu64,
			       o->chunk_elems, PROTOCOL_ALIGN_ELEMS, CHUNK_ELEMS_MAX);
	if (optimizer_hyper_check(&p->hyper, &key, &why) < 0)
		return err_set(err, ERR_PROTOCOL, "optimizer.%s: %s", key, why.text);
	return 0;
}

static int open_check(const struct session_plan *p, struct err *err)
{
	const struct protocol_open *o = &p->open;

	if (o->data_bytes > DATA_BYTES_MAX || !aligned(o->data_bytes, PROTOCOL_ALIGN_BYTES))
		return err_set(err, ERR_PROTOCOL,
			       "data_bytes %" PRIu64 " is not a multiple of %u up to %" PRIu64,
			       o->data_bytes, PROTOCOL_ALIGN_BYTES, DATA_BYTES_MAX);
	if (o->ring_slots == 0 || o->ring_slots > PROTOCOL_RING_MAX ||
	    (o->ring_slots & (o->ring_slots - 1)) != 0)
		return err_set(err, ERR_PROTOCOL, "ring_slots %u is no power of two up to %u",
			       o->ring_slots, PROTOCOL_RING_MAX);
	if (o->param_type > DTYPE_BF16 || o->grad_type > DTYPE_BF16 || o->accumulate > 1)
		return err_set(err, ERR_PROTOCOL, "param_type %u, grad_type %u, accumulate %u",
			       o->param_type, o->grad_type, o->accumulate);
	if (o->flags & ~PROTOCOL_OPEN_TRACE)
		return err_set(err, ERR_PROTOCOL, "flags %x are not known", o->flags);
	if (o->engine >= NVME_ENGINE_COUNT)
		return err_set(err, ERR_PROTOCOL, "swap engine %u is not known", o->engine);
	if (o->chunk_buffers > CHUNK_BUFFERS_MAX)
		return err_set(err, ERR_PROTOCOL, "%u chunk buffers, at most %u can be used",
			       o->chunk_buffers, CHUNK_BUFFERS_MAX);
	if (o->optimizer >= OPTIMIZER_KINDS || o->moments >= MOMENTS_KINDS)
		return err_set(err, ERR_PROTOCOL, "optimizer %u with moments %u is not known",
			       o->optimizer, o->moments);
	return 0;
}

static void types_set(struct session_plan *p)
{
	p->param_type = p->open.param_type;
	p->grad_type = p->open.grad_type;
	p->kept_type = p->open.accumulate ? DTYPE_F32 : p->grad_type;
	p->hyper = (struct optimizer_hyper){
		.kind = p->open.optimizer,
		.moments = p->open.moments,
		.beta1 = p->open.beta1,
		.beta2 = p->open.beta2,
		.eps = p->open.eps,
		.momentum = p->open.momentum,
		.weight_decay = p->open.weight_decay,
		.seed = p->open.seed,
	};
	p->data_offset = protocol_data_offset(p->open.ring_slots);
	p->arena_bytes = p->data_offset + p->open.data_bytes;
}

static int unit_bad(uint32_t idx, struct err *err, const char *what)
{
	return err_set(err, ERR_PROTOCOL, "unit %u: %s", idx, what);
}

static int unit_check(const struct session_plan *p, uint32_t idx, struct err *err)
{
	const struct protocol_unit *u = &p->units[idx].wire;
	uint64_t param_bytes;

	if (u->elems == 0 || u->elems > ELEMS_MAX || !aligned(u->elems, PROTOCOL_ALIGN_ELEMS))
		return unit_bad(idx, err, "its elements are no multiple of the alignment");
	if (u->decay_elems > u->elems)
		return unit_bad(idx, err, "more elements decay than it has");
	if (u->norm_first > u->elems || u->norm_elems > u->elems - u->norm_first ||
	    !aligned(u->norm_first, PROTOCOL_ALIGN_ELEMS) ||
	    !aligned(u->norm_elems, PROTOCOL_ALIGN_ELEMS))
		return unit_bad(idx, err, "its norm range is not inside it, or not aligned");
	if (u->position > POSITION_MAX || !aligned(u->position, PROTOCOL_ALIGN_ELEMS))
		return unit_bad(idx, err, "its position is too large, or not aligned");
	if ((u->param_home != PROTOCOL_HOME_MEMORY && u->param_home != PROTOCOL_HOME_SWAP) ||
	    (u->state_home != PROTOCOL_HOME_MEMORY && u->state_home != PROTOCOL_HOME_SWAP) ||
	    u->grad_home > PROTOCOL_HOME_SWAP)
		return unit_bad(idx, err, "a home is unknown, or parameters or state have none");
	if (u->param_home != PROTOCOL_HOME_MEMORY)
		return 0;
	param_bytes = session_part_bytes(p, PART_PARAM, u->elems);
	if (!aligned(u->param_offset, PROTOCOL_ALIGN_BYTES) || u->param_offset < p->data_offset ||
	    u->param_offset > p->arena_bytes || param_bytes > p->arena_bytes - u->param_offset)
		return unit_bad(idx, err,
				"its parameters are not inside the arena, or not aligned");
	return 0;
}

static int units_check(struct session_plan *p, struct err *err)
{
	uint64_t chunks = 0;
	int rc;

	for (uint32_t i = 0; i < p->open.unit_count; i++) {
		struct unit_plan *u = &p->units[i];

		rc = unit_check(p, i, err);
		if (rc < 0)
			return rc;
		u->home[PART_PARAM] = u->wire.param_home;
		u->home[PART_STATE] = u->wire.state_home;
		u->home[PART_GRAD] = u->wire.grad_home;
		u->chunk_count = (u->wire.elems + p->open.chunk_elems - 1) / p->open.chunk_elems;
		chunks += u->chunk_count;
	}
	if (chunks > EXTENTS_MAX)
		return err_set(err, ERR_PROTOCOL,
			       "%" PRIu64 " chunks, at most %" PRIu64
			       " can be used: chunk_elems %" PRIu64 " is too small",
			       chunks, EXTENTS_MAX, p->open.chunk_elems);
	return 0;
}

static int blobs_check(const struct session_plan *p, struct err *err)
{
	const struct protocol_open *o = &p->open;
	uint64_t extents = 0;

	if (o->blob_count == 0)
		return 0;
	if (o->blob_extent_bytes == 0 || o->blob_extent_bytes > EXTENT_BYTES_MAX ||
	    !aligned(o->blob_extent_bytes, PROTOCOL_ALIGN_BYTES))
		return err_set(err, ERR_PROTOCOL,
			       "blob_extent_bytes %u is not a multiple of %u up to %u",
			       o->blob_extent_bytes, PROTOCOL_ALIGN_BYTES, EXTENT_BYTES_MAX);
	for (uint32_t i = 0; i < o->blob_count; i++) {
		uint64_t bytes = p->blobs[i];

		if (bytes == 0 || bytes > DATA_BYTES_MAX || !aligned(bytes, PROTOCOL_ALIGN_BYTES))
			return err_set(err, ERR_PROTOCOL,
				       "blob %u: %" PRIu64
				       " bytes is not a multiple of %u up to %" PRIu64,
				       i, bytes, PROTOCOL_ALIGN_BYTES, DATA_BYTES_MAX);
		extents += bytes / o->blob_extent_bytes + 1;
	}
	if (extents > EXTENTS_MAX)
		return err_set(err, ERR_PROTOCOL,
			       "%" PRIu64 " extents of blobs, at most %" PRIu64
			       " can be used: blob_extent_bytes %u is too small",
			       extents, EXTENTS_MAX, o->blob_extent_bytes);
	return 0;
}

/* Private memory: units in order, each its state and its gradient; then the chunk buffers. */
static void memory_lay_out(struct session_plan *p)
{
	bool swapped[PART_COUNT] = {false};
	uint64_t at = 0, part;

	for (uint32_t i = 0; i < p->open.unit_count; i++) {
		struct unit_plan *u = &p->units[i];

		u->state_offset = at;
		if (u->home[PART_STATE] == PROTOCOL_HOME_MEMORY)
			at += session_part_bytes(p, PART_STATE, u->wire.elems);
		u->grad_offset = at;
		if (u->home[PART_GRAD] == PROTOCOL_HOME_MEMORY)
			at += session_part_bytes(p, PART_GRAD, u->wire.elems);
		for (part = 0; part < PART_COUNT; part++)
			swapped[part] |= u->home[part] == PROTOCOL_HOME_SWAP;
		u->sums_first = p->sums_count;
		if (u->home[PART_GRAD] != PROTOCOL_HOME_NONE)
			p->sums_count += u->wire.norm_elems / PROTOCOL_ALIGN_ELEMS;
	}
	p->buffers_offset = at;
	for (part = 0; part < PART_COUNT; part++) {
		p->buffer_offset[part] = p->buffer_bytes;
		if (swapped[part])
			p->buffer_bytes += session_part_bytes(p, part, p->open.chunk_elems);
	}
	p->own_bytes = at + p->open.chunk_buffers * p->buffer_bytes;
	p->memory_bytes = p->arena_bytes + p->own_bytes;
}

/* In swap each chunk lies by itself. */
static uint64_t object_bytes(const struct session_plan *p, enum part part, uint64_t elems)
{
	const uint64_t chunk = p->open.chunk_elems;

	return elems / chunk * session_part_bytes(p, part, chunk) +
	       session_part_bytes(p, part, elems % chunk);
}

static int swap_lay_out(struct session_plan *p, struct err *err)
{
	for (uint32_t i = 0; i < p->open.unit_count; i++) {
		for (int part = 0; part < PART_COUNT; part++) {
			struct unit_plan *u = &p->units[i];

			u->object[part] = SESSION_NO_OBJECT;
			if (u->home[part] != PROTOCOL_HOME_SWAP)
				continue;
			u->object[part] = p->object_count++;
			p->objects[u->object[part]] = (struct nvme_object){
				.bytes = object_bytes(p, part, u->wire.elems),
				.extent_bytes =
					(uint32_t)session_part_bytes(p, part, p->open.chunk_elems),
			};
		}
	}
	p->blob_object = p->object_count;
	for (uint32_t i = 0; i < p->open.blob_count; i++)
		p->objects[p->object_count++] = (struct nvme_object){
			.bytes = p->blobs[i], .extent_bytes = p->open.blob_extent_bytes};
	p->swap_bytes = nvme_store_bytes(p->objects, p->object_count);
	if (p->swap_bytes == UINT64_MAX)
		return err_set(err, ERR_PROTOCOL, "its swap would be larger than 2^63 bytes");
	return 0;
}

static int swap_check(const struct session_plan *p, struct err *err)
{
	const struct protocol_open *o = &p->open;

	if (p->object_count == 0)
		return 0;
	if (p->buffer_bytes > 0 && o->chunk_buffers < 3)
		return err_set(err, ERR_PROTOCOL,
			       "%u chunk buffers: reading, stepping and writing at once takes 3",
			       o->chunk_buffers);
	if (o->queue_depth == 0 || o->queue_depth > NVME_QUEUE_DEPTH_MAX)
		return err_set(err, ERR_PROTOCOL, "queue_depth %u is not 1 to %u", o->queue_depth,
			       NVME_QUEUE_DEPTH_MAX);
	if (o->path_count == 0)
		return err_set(err, ERR_PROTOCOL,
			       "something is in swap, and no directory is given");
	for (uint32_t i = 0; i < o->path_count; i++)
		if (!memchr(o->paths[i], '\0', PROTOCOL_PATH_BYTES) || o->paths[i][0] != '/')
			return err_set(err, ERR_PROTOCOL, "directory %u is no absolute path", i);
	return 0;
}
