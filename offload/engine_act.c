/*
 * Checkpointed activations: the input of each block, kept from its forward to its backward.
 *
 * Placement none: a device buffer for each. Otherwise a few device buffers pass them on: an
 * activation that is needed again is copied out as soon as it is made (to its place in the arena,
 * or through a slot into its blob), its buffer is used again, and backward loads it ahead of its
 * turn. One that is still in its buffer when its turn comes is not loaded.
 *
 * With several micro-batches side by side each has activations of its own, and there is a turn of
 * each between the phase that makes one and the phase that reads it: forward, too, copies out and
 * loads ahead.
 *
 * 1. A buffer that is used again is the one touched longest ago of those that the turn does not
 *    read. What is not copied out is read by the very next turn, and so it is not in that buffer.
 * 2. Loads leave a slot for stores, where there are both.
 */
#include <errno.h>

#include "offload/internal.h"

static bool pooled(const struct engine *e)
{
	return e->plan->place_activations != PLACE_NONE;
}

static bool swapped(const struct engine *e)
{
	return e->plan->place_activations == PLACE_NVME;
}

static char *region(const struct engine *e, int act)
{
	return e->arena + e->data_offset + e->plan->host.act_offset +
	       (uint64_t)act * engine_align(e->arch->act_bytes);
}

/* Activation `act` of the shape, of the micro-batch that has its turn; -1 of -1. */
static int act_of(const struct engine *e, int act, size_t column)
{
	return act < 0 ? -1 : act + (int)(column * e->arch->act_count);
}

/* What the turn reads that comes `ahead` turns later; -1: none. */
static int act_ahead(const struct engine *e, size_t ahead)
{
	size_t turn = e->column + ahead, phase = e->phase + turn / e->width;

	if (phase >= e->phase_count)
		return -1;
	return act_of(e, e->phases[phase].act_in, turn % e->width);
}

/* Does a turn after the one in work, the next one apart, read what the phase's act_out is? */
static bool read_later(const struct engine *e, const struct arch_phase *phase)
{
	for (size_t i = e->phase + (e->width > 1 ? 1 : 2); i < e->phase_count; i++)
		if (e->phases[i].act_in == phase->act_out)
			return true;
	return false;
}

int acts_reset(struct engine *e, struct err *err)
{
	(void)err;
	for (size_t i = 0; i < e->plan->act_count; i++) {
		e->acts[i].buffer = -1;
		e->acts[i].made = false;
	}
	for (size_t i = 0; i < e->plan->device.act_buffers; i++)
		e->act_buffers[i].act = -1;
	return 0;
}

/* A buffer for a new activation: a free one, else the one touched longest ago, but for `keep`'s. */
static int buffer_take(struct engine *e, int act, int keep)
{
	int found = -1;

	if (!pooled(e))
		return act;
	for (size_t i = 0; i < e->plan->device.act_buffers; i++) {
		const struct act_buffer *b = &e->act_buffers[i];

		if (b->act < 0)
			return (int)i;
		if (b->act != keep && (found < 0 || b->touched < e->act_buffers[found].touched))
			found = (int)i;
	}
	return found;
}

static void buffer_touch(struct engine *e, int buffer)
{
	e->act_buffers[buffer].touched = ++e->act_turn;
}

static void buffer_assign(struct engine *e, int buffer, int act)
{
	int held = e->act_buffers[buffer].act;

	if (held >= 0)
		e->acts[held].buffer = -1;
	e->act_buffers[buffer].act = act;
	e->acts[act].buffer = buffer;
	buffer_touch(e, buffer);
}

/* 1 when the device is through with the slot and its operation is done; 0: not yet. */
static int slot_poll(struct engine *e, const struct act_slot *s, struct err *err)
{
	int rc = device_event_query(s->free, err);

	return rc > 0 && s->id != ENGINE_NO_ID ? client_poll(e->client, s->id, err) : rc;
}

/* A slot of the arena to go through. Without `must`, -EAGAIN unless one is free at once. */
static int slot_take(struct engine *e, bool must, struct err *err)
{
	for (size_t i = 0; i < e->plan->host.act_slots; i++) {
		struct act_slot *s = &e->act_slots[i];
		int rc = 1;

		if (s->taken)
			continue;
		if (!must)
			rc = slot_poll(e, s, err);
		if (rc == 0)
			continue;
		if (rc > 0)
			rc = device_event_sync(s->free, err);
		if (rc == 0)
			rc = engine_settle(e, &s->id, NULL, err);
		return rc < 0 ? rc : (int)i;
	}
	if (!must)
		return -EAGAIN;
	return err_set(err, ERR_INTERNAL, "every activation slot is held by a load");
}

/* Invariant 2. */
static bool slot_spare(const struct engine *e)
{
	size_t left = 0;

	for (size_t i = 0; i < e->plan->host.act_slots; i++)
		left += !e->act_slots[i].taken;
	return left > (e->width > 1);
}

static int push_act(void *arg, struct err *err)
{
	struct act_slot *slot = arg;

	return client_push(slot->client, &slot->push, err);
}

/* Copies activation `act` out, behind the phase that made it. */
static int save(struct engine *e, int act, struct err *err)
{
	struct act_buffer *b = &e->act_buffers[e->acts[act].buffer];
	char *dst = region(e, act);
	struct act_slot *slot = NULL;

	if (swapped(e)) {
		int i = slot_take(e, true, err), rc;

		if (i < 0)
			return i;
		slot = &e->act_slots[i];
		rc = client_prepare(e->client, &slot->id, err);
		if (rc < 0)
			return rc;
		slot->act = act;
		slot->push = (struct protocol_submission){
			.op = PROTOCOL_OP_STORE,
			.unit = (uint32_t)(e->plan->act_blob_first + (size_t)act),
			.id = slot->id,
			.offset = slot->offset,
		};
		dst = e->arena + slot->offset;
	}
	device_stream_unit(e->copy_out, TRACE_NO_UNIT);
	device_stream_wait(e->copy_out, e->phase_done);
	device_stream_name(e->copy_out, "copy out activation", e->arch->act_bytes);
	device_copy(e->copy_out, dst, b->mem, e->arch->act_bytes, DEVICE_COPY_OUT);
	e->out_bytes += e->arch->act_bytes;
	if (slot) {
		device_stream_name(e->copy_out, "push activation", 0);
		device_host(e->copy_out, push_act, slot);
		device_event_record(slot->free, e->copy_out);
	}
	device_event_record(b->saved, e->copy_out);
	device_event_record(e->acts[act].saved, e->copy_out);
	return 0;
}

/*
 * Starts the LOAD of a swapped activation, once its STORE is done. Without `must`, 0 also when that
 * is not yet so, or no slot is free.
 */
static int load_start(struct engine *e, int act, bool must, struct err *err)
{
	struct act_state *a = &e->acts[act];
	struct protocol_submission op = {
		.op = PROTOCOL_OP_LOAD,
		.unit = (uint32_t)(e->plan->act_blob_first + (size_t)act),
	};
	struct act_slot *slot;
	int i, rc;

	if (!swapped(e) || a->slot >= 0 || (!must && !slot_spare(e)))
		return 0;
	for (size_t k = 0; k < e->plan->host.act_slots; k++) {
		slot = &e->act_slots[k];
		if (slot->taken || slot->act != act)
			continue;
		if (!must && (rc = slot_poll(e, slot, err)) <= 0)
			return rc;
		if ((rc = engine_settle(e, &slot->id, NULL, err)) < 0)
			return rc;
	}
	i = slot_take(e, must, err);
	if (i == -EAGAIN)
		return 0;
	if (i < 0)
		return i;
	slot = &e->act_slots[i];
	op.offset = slot->offset;
	rc = client_submit(e->client, &op, &slot->id, err);
	if (rc < 0)
		return rc;
	slot->taken = true;
	slot->act = act;
	a->slot = i;
	return 0;
}

/* Enqueues the copy of a saved activation into a device buffer; waits for its LOAD. */
static int load(struct engine *e, int act, int keep, struct err *err)
{
	struct act_state *a = &e->acts[act];
	const char *src = region(e, act);
	struct act_slot *slot = NULL;
	struct act_buffer *b;
	int buffer, rc;

	if (a->buffer >= 0)
		return 0;
	rc = load_start(e, act, true, err);
	if (rc < 0)
		return rc;
	if (swapped(e)) {
		uint64_t began = trace_now_ns();

		slot = &e->act_slots[a->slot];
		rc = engine_settle(e, &slot->id, NULL, err);
		engine_waited(e, &e->wait_fetch_seconds, "activation", -1, began);
		if (rc < 0)
			return err_add(err, "loading activation %d", act);
		src = e->arena + slot->offset;
	}
	buffer = buffer_take(e, act, keep);
	if (buffer < 0)
		return err_set(err, ERR_INTERNAL, "no buffer for activation %d", act);
	b = &e->act_buffers[buffer];
	buffer_assign(e, buffer, act);
	device_stream_wait(e->copy_in, b->used);
	device_stream_wait(e->copy_in, b->saved);
	device_stream_wait(e->copy_in, a->saved);
	device_stream_unit(e->copy_in, TRACE_NO_UNIT);
	device_stream_name(e->copy_in, "copy in activation", e->arch->act_bytes);
	device_copy(e->copy_in, b->mem, src, e->arch->act_bytes, DEVICE_COPY_IN);
	device_event_record(b->ready, e->copy_in);
	e->in_bytes += e->arch->act_bytes;
	if (slot) {
		device_event_record(slot->free, e->copy_in);
		slot->taken = false;
		slot->act = -1;
		a->slot = -1;
	}
	return 0;
}

int act_begin(struct engine *e, const struct arch_phase *phase, struct engine_io *io,
	      struct err *err)
{
	int in = act_of(e, phase->act_in, e->column), out = act_of(e, phase->act_out, e->column);

	if (in >= 0) {
		int rc = load(e, in, -1, err);

		if (rc < 0)
			return rc;
		buffer_touch(e, e->acts[in].buffer);
		device_stream_wait(e->compute, e->act_buffers[e->acts[in].buffer].ready);
		io->act_in = e->act_buffers[e->acts[in].buffer].mem;
	}
	if (out >= 0) {
		int buffer = buffer_take(e, out, in);

		if (buffer < 0)
			return err_set(err, ERR_INTERNAL, "no buffer for activation %d", out);
		buffer_assign(e, buffer, out);
		device_stream_wait(e->compute, e->act_buffers[buffer].saved);
		device_stream_wait(e->compute, e->act_buffers[buffer].ready);
		io->act_out = e->act_buffers[buffer].mem;
	}
	return 0;
}

int act_end(struct engine *e, const struct arch_phase *phase, struct err *err)
{
	int in = act_of(e, phase->act_in, e->column), out = act_of(e, phase->act_out, e->column);

	if (in >= 0) {
		struct act_buffer *b = &e->act_buffers[e->acts[in].buffer];

		device_event_record(b->used, e->compute);
		if (phase->act_in_last) {
			b->act = -1;
			e->acts[in].buffer = -1;
		}
	}
	if (out >= 0) {
		struct act_state *a = &e->acts[out];

		a->made = true;
		device_event_record(e->act_buffers[a->buffer].used, e->compute);
		if (pooled(e) && read_later(e, phase))
			return save(e, out, err);
	}
	return 0;
}

int acts_load_ahead(struct engine *e, struct err *err)
{
	size_t slots = e->plan->host.act_slots;

	if (!pooled(e) || e->pass != ENGINE_TRAIN)
		return 0;
	for (size_t ahead = 1; ahead <= 1 + slots; ahead++) {
		int act = act_ahead(e, ahead), rc;

		if (act < 0 || !e->acts[act].made)
			break; /* still in forward */
		if (e->acts[act].buffer >= 0)
			continue;
		rc = ahead == 1 ? load(e, act, -1, err) : load_start(e, act, false, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}
