/*
 * What the engine's events and the parts of its arena are called, for messages and to tell one
 * ordering from another: the names of offload/internal.h and offload/plan.h. Called by the driving
 * thread once the engine is open.
 */
#include "tests/record_names.h"

#include "offload/internal.h"
#include "tests/record_device.h"

static void units_name(struct engine *e)
{
	char *data = e->arena + e->data_offset;

	for (size_t u = 0; u < e->plan->unit_count; u++) {
		const struct plan_unit *pu = &e->plan->units[u];

		record_name_event(e->units[u].replica_written, "unit.replica_written");
		for (size_t m = 0; e->units[u].grad_shared && m < e->plan->micros; m++)
			record_name_event(e->units[u].grad_shared[m].free, "grad_shared.free");
		if (e->client && pu->param_home == PROTOCOL_HOME_MEMORY)
			record_region(data + pu->param_home_offset, pu->opt_elems * e->param_bytes,
				      "home of unit %zu", u);
		if (e->units[u].replica == REPLICA_REGION)
			record_region(data + pu->param_blob_offset,
				      pu->param_elems * e->param_bytes, "replica of unit %zu", u);
	}
}

static void device_slots_name(struct engine *e)
{
	const struct plan_device *d = &e->plan->device;

	for (size_t i = 0; i < d->gather_slots; i++) {
		record_name_event(e->gather_slots[i].ready, "gather_slot.ready");
		record_name_event(e->gather_slots[i].used, "gather_slot.used");
		record_name_event(e->gather_slots[i].saved, "gather_slot.saved");
	}
	for (size_t i = 0; i < d->grad_buffers; i++)
		record_name_event(e->grad_buffers[i].free, "grad_buffer.free");
	for (size_t i = 0; i < d->part_buffers; i++)
		record_name_event(e->part_buffers[i].free, "part_buffer.free");
	for (size_t i = 0; i < d->act_buffers; i++) {
		record_name_event(e->act_buffers[i].ready, "act_buffer.ready");
		record_name_event(e->act_buffers[i].used, "act_buffer.used");
		record_name_event(e->act_buffers[i].saved, "act_buffer.saved");
	}
	for (size_t i = 0; i < e->plan->act_count; i++)
		record_name_event(e->acts[i].saved, "act.saved");
}

static void arena_slots_name(struct engine *e)
{
	const struct plan_host *h = &e->plan->host;

	for (size_t i = 0; i < h->fetch_slots; i++) {
		record_name_event(e->fetch_slots[i].free, "fetch_slot.free");
		record_region(e->arena + e->fetch_slots[i].offset, h->fetch_slot_bytes,
			      "fetch slot %zu", i);
	}
	for (size_t i = 0; i < h->grad_slots; i++) {
		record_name_event(e->grad_slots[i].pushed, "grad_slot.pushed");
		record_region(e->arena + e->grad_slots[i].offset, h->grad_slot_bytes,
			      "gradient slot %zu", i);
	}
	for (size_t i = 0; i < h->act_slots; i++) {
		record_name_event(e->act_slots[i].free, "act_slot.free");
		record_region(e->arena + e->act_slots[i].offset, h->act_slot_bytes,
			      "activation slot %zu", i);
	}
	record_region(e->arena + e->data_offset + h->act_offset, h->act_region_bytes,
		      "activations in the arena");
	record_region(e->arena + e->data_offset + h->transfer_offset,
		      h->transfer_slots * h->transfer_slot_bytes, "transfer slots");
}

void record_names(struct engine *e)
{
	record_name_event(e->phase_done, "phase_done");
	record_name_event(e->arrived, "arrived");
	record_name_event(e->reduced, "reduced");
	record_name_event(e->mark_compute, "mark_compute");
	record_name_event(e->mark_comm, "mark_comm");
	units_name(e);
	device_slots_name(e);
	if (e->client)
		arena_slots_name(e);
}
