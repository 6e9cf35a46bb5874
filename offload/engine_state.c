/*
 * Optimizer state in and out by pieces, and whole units for export. A piece is a chunk of the
 * daemon's pipeline, in a transfer slot of the arena; or, of a unit whose optimizer is on the
 * device, as many elements of device memory, through a staging buffer that lives from the first
 * piece to the last.
 *
 * All ranks walk the same units in the same order, since distributing parameters is a collective.
 */
#include <errno.h>
#include <stdlib.h>

#include "offload/internal.h"

/* The range of the unit's elements that this rank imports, or exports. */
struct range {
	uint64_t first, count;
};

static struct range held(const struct engine *e, size_t u)
{
	return (struct range){unit_first(e, u), e->plan->units[u].opt_elems};
}

/* At stage 0 all ranks hold the same: each exports its partition. */
static struct range exported(const struct engine *e, size_t u)
{
	const struct plan_unit *pu = &e->plan->units[u];

	return (struct range){e->rank * pu->partition, pu->partition};
}

/* The first and last chunk that a range of the unit touches. Chunks count from what is held. */
static uint64_t chunk_first(const struct engine *e, size_t u, struct range r)
{
	return (r.first - held(e, u).first) / e->plan->chunk_elems;
}

static uint64_t chunk_count(const struct engine *e, size_t u, struct range r)
{
	uint64_t end = r.first - held(e, u).first + r.count;

	return (end + e->plan->chunk_elems - 1) / e->plan->chunk_elems - chunk_first(e, u, r);
}

/* The elements of chunk `chunk` of what is held. */
static struct range chunk_range(const struct engine *e, size_t u, uint64_t chunk)
{
	struct range all = held(e, u);
	uint64_t first = chunk * e->plan->chunk_elems;
	uint64_t left = all.count - first;

	return (struct range){all.first + first,
			      left < e->plan->chunk_elems ? left : e->plan->chunk_elems};
}

size_t engine_export_pieces(const struct engine *e, size_t u)
{
	return (size_t)chunk_count(e, u, exported(e, u));
}

size_t engine_import_pieces(const struct engine *e, size_t u)
{
	return (size_t)chunk_count(e, u, held(e, u));
}

/* Points the piece at a buffer that holds master and moments of `whole`, cut down to `part`. */
static void piece_set(const struct engine *e, struct engine_piece *piece, size_t u, char *mem,
		      struct range whole, struct range part)
{
	float *f = (float *)mem + (part.first - whole.first);

	piece->unit = u;
	piece->first = part.first;
	piece->count = part.count;
	piece->master = f;
	piece->m = f + whole.count;
	piece->v = optimizer_moment_count(e->plan->kind) > 1 ? f + 2 * whole.count : NULL;
}

static struct range intersect(struct range a, struct range b)
{
	uint64_t first = a.first > b.first ? a.first : b.first;
	uint64_t a_end = a.first + a.count, b_end = b.first + b.count;

	return (struct range){first, (a_end < b_end ? a_end : b_end) - first};
}

/* A transfer slot of the arena, once the daemon is through with it. */
static int transfer_take(struct engine *e, int *ret, char **ret_mem, struct err *err)
{
	size_t i = e->transfer_next;
	int rc = engine_settle(e, &e->transfer_id[i], NULL, err);

	if (rc < 0)
		return rc;
	e->transfer_next = (i + 1) % e->plan->host.transfer_slots;
	*ret = (int)i;
	*ret_mem = e->arena + e->data_offset + e->plan->host.transfer_offset +
		   i * e->plan->host.transfer_slot_bytes;
	return 0;
}

static int transfer_submit(struct engine *e, uint32_t op, size_t u, uint64_t chunk, int slot,
			   struct err *err)
{
	struct protocol_submission s = {.op = op,
					.unit = (uint32_t)e->plan->units[u].daemon_idx,
					.chunk = (uint32_t)chunk,
					.offset =
						e->data_offset + e->plan->host.transfer_offset +
						(uint64_t)slot * e->plan->host.transfer_slot_bytes};

	return client_submit(e->client, &s, &e->transfer_id[slot], err);
}

/* Staging for state on the device, of chunk_elems: a piece, the state as it is there, and hi. */
static int staging_take(struct engine *e, struct err *err)
{
	const struct plan *p = e->plan;

	if (e->staging)
		return 0;
	e->staging = malloc(p->chunk_elems * (plan_piece_elem_bytes(p) + sizeof(uint16_t)) +
			    plan_state_bytes(p, p->chunk_elems));
	return e->staging ? 0 : err_sys(err, -ENOMEM, "allocating a staging buffer");
}

/* The state of a piece of `count` elements, between the device and fp32. */
static struct optimizer_state staging_state(const struct engine *e, uint64_t count)
{
	char *mem = e->staging + e->plan->chunk_elems * plan_piece_elem_bytes(e->plan);

	return engine_state_at(e, mem, count, 0);
}

static uint16_t *staging_hi(const struct engine *e)
{
	const struct plan *p = e->plan;

	return (uint16_t *)(void *)(e->staging + p->chunk_elems * plan_piece_elem_bytes(p) +
				    plan_state_bytes(p, p->chunk_elems));
}

/*
 * Copies the state of `count` elements, array by array, between staging and the device's from
 * element `at` of the unit on.
 */
static void state_copy(struct engine *e, size_t u, uint64_t at, uint64_t count,
		       enum device_copy direction)
{
	const struct optimizer_state host = staging_state(e, count);
	const struct optimizer_state device =
		engine_state_at(e, e->units[u].state, e->plan->units[u].opt_elems, at);
	const uint64_t moment = count * optimizer_moment_bytes(e->plan->moments);
	const uint64_t scale = count / OPTIMIZER_BLOCK * sizeof(float);
	const bool out = direction == DEVICE_COPY_OUT;
	struct device_stream *stream = out ? e->copy_out : e->copy_in;
	const struct {
		void *host, *device;
		uint64_t bytes;
	} arrays[] = {
		{host.moment[0], device.moment[0], moment},
		{host.moment[1], device.moment[1], moment},
		{host.scale[0], device.scale[0], scale},
		{host.scale[1], device.scale[1], scale},
		{host.lo, device.lo, count * sizeof(*host.lo)},
	};

	for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
		if (arrays[i].host)
			device_copy(stream, out ? arrays[i].host : arrays[i].device,
				    out ? arrays[i].device : arrays[i].host, arrays[i].bytes,
				    direction);
}

/* Device memory of the parameter at position `first` of unit u, which is in `slot`, or -1. */
static char *param_at(struct engine *e, size_t u, int slot, uint64_t first)
{
	if (e->units[u].replica == REPLICA_PART)
		first -= held(e, u).first;
	return unit_mem(e, (int)u, slot) + first * e->param_bytes;
}

static bool through_slot(const struct engine *e, size_t u)
{
	return e->units[u].replica == REPLICA_REGION || e->units[u].replica == REPLICA_BLOB;
}

/* One piece of device state into staging. */
static int device_export(struct engine *e, size_t u, struct range part, int slot, struct err *err)
{
	const struct unit_state *s = &e->units[u];
	uint64_t at = part.first - held(e, u).first;
	float *master = (float *)(void *)e->staging;
	bool split = e->plan->param_type == DTYPE_BF16;
	void *param = split ? (void *)staging_hi(e) : (void *)master;
	struct device_stream *out = e->copy_out;
	struct optimizer_state state;
	int rc;

	if (slot >= 0 || s->replica != REPLICA_PART)
		unit_await(e, (int)u, slot, out);
	else
		device_stream_wait(out, s->replica_written);
	device_stream_wait(out, e->mark_compute);
	device_copy(out, param, param_at(e, u, slot, part.first), part.count * e->param_bytes,
		    DEVICE_COPY_OUT);
	state_copy(e, u, at, part.count, DEVICE_COPY_OUT);
	rc = device_stream_sync(out, err);
	if (rc < 0)
		return rc;
	state = staging_state(e, part.count);
	for (uint64_t i = 0; split && i < part.count; i++)
		master[i] = bf16_join(staging_hi(e)[i], state.lo[i]);
	optimizer_moments_export(e->plan->kind, e->plan->moments, &state, part.count,
				 (float *const[]){master + part.count, master + 2 * part.count});
	return 0;
}

int engine_export(struct engine *e, size_t u, size_t index, struct engine_piece *ret,
		  struct err *err)
{
	struct range mine = exported(e, u);
	uint64_t chunk = chunk_first(e, u, mine) + index;
	struct range whole = chunk_range(e, u, chunk), part = intersect(whole, mine);
	int slot = -1, rc;
	char *mem;

	if (unit_offloaded(e, u)) {
		rc = transfer_take(e, &slot, &mem, err);
		if (rc == 0)
			rc = transfer_submit(e, PROTOCOL_OP_EXPORT, u, chunk, slot, err);
		if (rc == 0)
			rc = engine_settle(e, &e->transfer_id[slot], NULL, err);
		if (rc < 0)
			return err_add(err, "exporting unit %zu", u);
		piece_set(e, ret, u, mem, whole, part);
		return 0;
	}
	rc = staging_take(e, err);
	if (rc == 0 && through_slot(e, u))
		rc = unit_bring(e, (int)u, &slot, err);
	if (rc == 0)
		rc = device_export(e, u, part, slot, err);
	if (rc < 0)
		return err_add(err, "exporting unit %zu", u);
	piece_set(e, ret, u, e->staging, part, part);
	return 0;
}

int engine_import_begin(struct engine *e, size_t u, size_t index, struct engine_piece *ret,
			struct err *err)
{
	struct range part = chunk_range(e, u, index);
	char *mem;
	int rc;

	/* What is imported is overwritten: whatever was enqueued before may still use it. */
	rc = u == 0 && index == 0 ? engine_sync(e, err) : 0;
	if (rc < 0)
		return err_add(err, "importing");
	if (unit_offloaded(e, u)) {
		rc = transfer_take(e, &e->piece_transfer, &mem, err);
	} else {
		rc = staging_take(e, err);
		mem = e->staging;
		/* Gather slot 0 passes the parameters on: the unit before must have left it. */
		if (rc == 0 && index == 0 && through_slot(e, u)) {
			rc = engine_sync(e, err);
			e->gather_slots[0].unit = -1;
		}
	}
	if (rc < 0)
		return err_add(err, "importing unit %zu", u);
	piece_set(e, ret, u, mem, part, part);
	return 0;
}

/* A filled piece from staging to the device. */
static int device_import(struct engine *e, const struct engine_piece *p, struct err *err)
{
	const struct optimizer_state state = staging_state(e, p->count);
	uint64_t at = p->first - held(e, p->unit).first;
	bool split = e->plan->param_type == DTYPE_BF16;
	const void *param = p->master;
	int slot = through_slot(e, p->unit) ? 0 : -1;
	struct device_stream *in = e->copy_in;

	if (split) {
		for (uint64_t i = 0; i < p->count; i++)
			bf16_split(p->master[i], &staging_hi(e)[i], &state.lo[i]);
		param = staging_hi(e);
	}
	optimizer_moments_import(e->plan->kind, e->plan->moments, &state, p->count,
				 (const float *const[]){p->m, p->v});
	state_copy(e, p->unit, at, p->count, DEVICE_COPY_IN);
	device_copy(in, param_at(e, p->unit, slot, p->first), param, p->count * e->param_bytes,
		    DEVICE_COPY_IN);
	return device_stream_sync(in, err);
}

int engine_import_end(struct engine *e, struct engine_piece *p, struct err *err)
{
	size_t u = p->unit;
	struct range all = held(e, u);
	int rc;

	if (unit_offloaded(e, u)) {
		rc = transfer_submit(e, PROTOCOL_OP_IMPORT, u,
				     (p->first - all.first) / e->plan->chunk_elems,
				     e->piece_transfer, err);
	} else {
		rc = device_import(e, p, err);
		/* The last piece: the whole goes where phases take it from. */
		if (rc == 0 && p->first + p->count == all.first + all.count &&
		    e->units[u].replica != REPLICA_PART) {
			int slot = through_slot(e, u) ? 0 : -1;

			if (slot == 0)
				e->gather_slots[0].unit = (int)u;
			rc = unit_spread(e, (int)u, slot, err);
		}
	}
	return rc < 0 ? err_add(err, "importing unit %zu", u) : 0;
}

int engine_import_done(struct engine *e, struct err *err)
{
	int rc;

	for (size_t i = 0; i < 2; i++)
		if ((rc = engine_settle(e, &e->transfer_id[i], NULL, err)) < 0)
			return rc;
	rc = engine_sync(e, err);
	if (rc < 0)
		return rc;
	for (size_t u = 0; u < e->plan->unit_count; u++)
		e->units[u].stale = unit_offloaded(e, u) && e->units[u].replica != REPLICA_HOME;
	for (size_t i = 0; i < e->plan->device.gather_slots; i++)
		e->gather_slots[i].unit = -1;
	free(e->staging);
	e->staging = NULL;
	return 0;
}

int engine_read_unit(struct engine *e, size_t u, const void **ret, struct err *err)
{
	size_t bytes = e->plan->units[u].padded * e->param_bytes;
	int slot, rc;

	rc = unit_bring(e, (int)u, &slot, err);
	if (rc < 0)
		return err_add(err, "reading unit %zu", u);
	if (!ret)
		return 0;
	free(e->read_buffer);
	e->read_buffer = malloc(bytes);
	if (!e->read_buffer)
		return err_sys(err, -ENOMEM, "allocating %zu bytes for unit %zu", bytes, u);
	unit_await(e, (int)u, slot, e->copy_out);
	device_copy(e->copy_out, e->read_buffer, unit_mem(e, (int)u, slot), bytes, DEVICE_COPY_OUT);
	/* Whoever takes the slot next must wait for this copy. */
	if (slot >= 0)
		device_event_record(e->gather_slots[slot].saved, e->copy_out);
	rc = device_stream_sync(e->copy_out, err);
	if (rc < 0)
		return err_add(err, "reading unit %zu", u);
	*ret = e->read_buffer;
	return 0;
}
