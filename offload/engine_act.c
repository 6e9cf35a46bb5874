/*
 * Checkpointed activations: the input of each block, kept from its forward to its backward.
 *
 * Placement none: a device buffer for each. Otherwise a few device buffers pass them on: an
 * activation that is needed again is copied out as soon as it is made (to its place in the arena,
 * or through a slot into its blob), its buffer is used again, and backward loads it ahead of its
 * turn. One that is still in its buffer when its turn comes is not loaded.
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

/* Does a phase after the one in work, the next one apart, read activation `act`? */
static bool read_later(const struct engine *e, int act)
{
	for (size_t i = e->phase + 2; i < e->phase_count; i++)
		if (e->phases[i].act_in == act)
			return true;
	return false;
}

int acts_reset(struct engine *e, struct err *err)
{
	(void)err;
	for (size_t i = 0; i < e->arch->act_count; i++) {
		e->acts[i].buffer = -1;
		e->acts[i].made = false;
	}
	for (size_t i = 0; i < e->plan->device.act_buffers; i++)
		e->act_buffers[i].act = -1;
	return 0;
}

/* A buffer for a new activation: a free one, else one whose content is saved and not `keep`. */
static int buffer_take(struct engine *e, int act, int keep)
{
	int found = -1;

	if (!pooled(e))
		return act;
	for (size_t i = 0; i < e->plan->device.act_buffers; i++) {
		int held = e->act_buffers[i].act;

		if (held < 0)
			return (int)i;
		/* The oldest leaves: backward wants the youngest first. */
		if (held != keep && (found < 0 || held < e->act_buffers[found].act))
			found = (int)i;
	}
	return found;
}

static void buffer_assign(struct engine *e, int buffer, int act)
{
	int held = e->act_buffers[buffer].act;

	if (held >= 0)
		e->acts[held].buffer = -1;
	e->act_buffers[buffer].act = act;
	e->acts[act].buffer = buffer;
}

/* A slot of the arena to go through. Without `must`, -EAGAIN unless one is free at once. */
static int slot_take(struct engine *e, bool must, struct err *err)
{
	for (size_t i = 0; i < e->plan->host.act_slots; i++) {
		struct act_slot *s = &e->act_slots[i];
		int rc = 1;

		if (s->taken)
			continue;
		if (!must) {
			rc = device_event_query(s->free, err);
			if (rc > 0 && s->id != ENGINE_NO_ID)
				rc = client_poll(e->client, s->id, err);
		}
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

/* Starts the LOAD of a swapped activation, once its STORE is done. 0 also when no slot is free. */
static int load_start(struct engine *e, int act, bool must, struct err *err)
{
	struct act_state *a = &e->acts[act];
	struct protocol_submission op = {
		.op = PROTOCOL_OP_LOAD,
		.unit = (uint32_t)(e->plan->act_blob_first + (size_t)act),
	};
	struct act_slot *slot;
	int i, rc;

	if (!swapped(e) || a->slot >= 0)
		return 0;
	for (size_t k = 0; k < e->plan->host.act_slots; k++) {
		slot = &e->act_slots[k];
		if (!slot->taken && slot->act == act &&
		    (rc = engine_settle(e, &slot->id, NULL, err)) < 0)
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
	if (phase->act_in >= 0) {
		int rc = load(e, phase->act_in, -1, err);

		if (rc < 0)
			return rc;
		device_stream_wait(e->compute, e->act_buffers[e->acts[phase->act_in].buffer].ready);
		io->act_in = e->act_buffers[e->acts[phase->act_in].buffer].mem;
	}
	if (phase->act_out >= 0) {
		int buffer = buffer_take(e, phase->act_out, phase->act_in);

		if (buffer < 0)
			return err_set(err, ERR_INTERNAL, "no buffer for activation %d",
				       phase->act_out);
		buffer_assign(e, buffer, phase->act_out);
		device_stream_wait(e->compute, e->act_buffers[buffer].saved);
		device_stream_wait(e->compute, e->act_buffers[buffer].ready);
		io->act_out = e->act_buffers[buffer].mem;
	}
	return 0;
}

int act_end(struct engine *e, const struct arch_phase *phase, struct err *err)
{
	if (phase->act_in >= 0) {
		struct act_buffer *b = &e->act_buffers[e->acts[phase->act_in].buffer];

		device_event_record(b->used, e->compute);
		if (phase->act_in_last) {
			b->act = -1;
			e->acts[phase->act_in].buffer = -1;
		}
	}
	if (phase->act_out >= 0) {
		struct act_state *a = &e->acts[phase->act_out];

		a->made = true;
		device_event_record(e->act_buffers[a->buffer].used, e->compute);
		if (pooled(e) && read_later(e, phase->act_out))
			return save(e, phase->act_out, err);
	}
	return 0;
}

int acts_load_ahead(struct engine *e, struct err *err)
{
	size_t slots = e->plan->host.act_slots;

	if (!pooled(e) || e->pass != ENGINE_TRAIN)
		return 0;
	for (size_t i = e->phase + 1; i < e->phase_count && i <= e->phase + 1 + slots; i++) {
		int act = e->phases[i].act_in, rc;

		if (act < 0 || !e->acts[act].made)
			break; /* still in forward */
		if (e->acts[act].buffer >= 0)
			continue;
		rc = i == e->phase + 1 ? load(e, act, -1, err) : load_start(e, act, false, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}
