/*
 * Parameters in: from where they stay between uses to whole units in device memory.
 *
 * Two steps. unit_fetch starts an operation of the daemon where one is needed, as far ahead as
 * slots and zero.prefetch allow. unit_bring, in program order on every rank, waits for it and
 * enqueues the copy in and the all-gather. What each replica needs:
 *
 *	WHOLE, PART	nothing; PART is gathered into a slot
 *	REGION		copy in (+ gather at stage 3)
 *	BLOB		LOAD, copy in (+ gather at stage 3)
 *	HOME		FETCH, copy in, gather
 *	stale		FETCH, copy in at this rank's place, gather; then back to the replica
 */
#include <errno.h>

#include "offload/internal.h"

static bool resident(const struct unit_state *s)
{
	return s->replica == REPLICA_WHOLE;
}

/* Does bringing unit u need bytes of the daemon, and are they the optimizer's? */
static bool needs_fetch(const struct unit_state *s)
{
	return s->replica == REPLICA_HOME || s->stale;
}

/* Does it take an operation of the daemon at all? */
static bool needs_operation(const struct unit_state *s)
{
	return needs_fetch(s) || s->replica == REPLICA_BLOB;
}

static int slot_of(const struct engine *e, int u)
{
	for (size_t i = 0; i < e->plan->device.gather_slots; i++)
		if (e->gather_slots[i].unit == u)
			return (int)i;
	return -1;
}

/* 1 when slot i may be written: the device is through with it and its STORE is done; 0: not yet. */
static int fetch_slot_free(struct engine *e, size_t i, bool must, struct err *err)
{
	struct fetch_slot *s = &e->fetch_slots[i];
	int rc = 1;

	if (!must)
		rc = device_event_query(s->free, err);
	else if ((rc = device_event_sync(s->free, err)) == 0)
		rc = 1;
	if (rc <= 0 || s->storing < 0)
		return rc;
	if (!must && e->units[s->storing].store_id != ENGINE_NO_ID) {
		rc = client_poll(e->client, e->units[s->storing].store_id, err);
		if (rc <= 0)
			return rc;
	}
	rc = engine_settle(e, &e->units[s->storing].store_id, NULL, err);
	if (rc < 0)
		return rc;
	s->storing = -1;
	return 1;
}

/* Gives up a fetch that ran ahead, so that a nearer one can have its slot. */
static int fetch_slot_steal(struct engine *e, struct err *err)
{
	for (size_t u = 0; u < e->plan->unit_count; u++) {
		struct unit_state *s = &e->units[u];
		int slot = s->fetch_slot, rc;

		if (!s->fetching || slot < 0)
			continue;
		rc = engine_settle(e, &s->fetch_id, NULL, err);
		if (rc < 0)
			return rc;
		s->fetching = false;
		s->fetch_slot = -1;
		e->fetch_slots[slot].taken = false;
		return slot;
	}
	return err_set(err, ERR_INTERNAL, "no fetch slot to be had");
}

/* A fetch slot to write into. Without `must`, -EAGAIN unless one is free at once. */
static int fetch_slot_take(struct engine *e, bool must, struct err *err)
{
	for (size_t i = 0; i < e->plan->host.fetch_slots; i++) {
		int rc;

		if (e->fetch_slots[i].taken)
			continue;
		rc = fetch_slot_free(e, i, must, err);
		if (rc < 0)
			return rc;
		if (rc > 0)
			return (int)i;
	}
	return must ? fetch_slot_steal(e, err) : -EAGAIN;
}

int unit_fetch(struct engine *e, int u, bool must, struct err *err)
{
	struct unit_state *s = &e->units[u];
	bool fetch = needs_fetch(s);
	const struct plan_unit *pu = &e->plan->units[u];
	struct protocol_submission op = {
		.op = fetch ? PROTOCOL_OP_FETCH : PROTOCOL_OP_LOAD,
		.unit = (uint32_t)(fetch ? pu->daemon_idx : pu->blob_idx),
	};
	int slot = -1, rc;

	if (s->fetching || !needs_operation(s))
		return 0;
	/* A blob on its way to the swap must have been pushed before it is asked for again. */
	if (!fetch && (rc = engine_settle(e, &s->store_id, NULL, err)) < 0)
		return rc;
	if (!fetch || pu->param_home == PROTOCOL_HOME_SWAP) {
		slot = fetch_slot_take(e, must, err);
		if (slot == -EAGAIN)
			return 0;
		if (slot < 0)
			return slot;
		op.offset = e->fetch_slots[slot].offset;
	}
	rc = client_submit(e->client, &op, &s->fetch_id, err);
	if (rc < 0)
		return err_add(err, "fetching unit %d", u);
	if (slot >= 0)
		e->fetch_slots[slot].taken = true;
	s->fetching = true;
	s->fetch_slot = slot;
	s->fetch_offset = op.offset;
	return 0;
}

int units_fetch_ahead(struct engine *e, struct err *err)
{
	size_t limit = e->phase_count * (e->wraps ? 2 : 1);
	uint64_t ahead = 0;

	for (size_t i = e->phase; i < limit && ahead <= e->plan->prefetch; i++) {
		int u = e->phases[i % e->phase_count].unit, rc;

		if (u < 0)
			continue;
		ahead++;
		if (!needs_operation(&e->units[u]) || (!e->units[u].stale && slot_of(e, u) >= 0))
			continue;
		rc = unit_fetch(e, u, false, err);
		if (rc < 0)
			return rc;
		if (!e->units[u].fetching)
			break; /* no slot: those nearer in time go first */
	}
	return 0;
}

/* Waits until the unit's bytes are in the arena; *ret is where. */
static int arrive(struct engine *e, int u, const char **ret, struct err *err)
{
	struct unit_state *s = &e->units[u];
	struct protocol_completion done = {0};
	uint64_t began = trace_now_ns();
	int rc;

	rc = unit_fetch(e, u, true, err);
	if (rc < 0)
		return rc;
	rc = client_wait(e->client, s->fetch_id, &done, err);
	engine_waited(e, &e->wait_fetch_seconds, "fetch", u, began);
	if (rc < 0)
		return err_add(err, "fetching unit %d", u);
	s->fetching = false;
	s->fetch_id = ENGINE_NO_ID;
	if (s->fetch_slot < 0)
		s->fetch_offset = done.offset;
	*ret = e->arena + s->fetch_offset;
	return 0;
}

/* The device has now been told to read the fetched bytes: the slot is free when it has. */
static void fetched_release(struct engine *e, int u)
{
	struct unit_state *s = &e->units[u];

	if (s->fetch_slot < 0)
		return;
	device_event_record(e->fetch_slots[s->fetch_slot].free, e->copy_in);
	e->fetch_slots[s->fetch_slot].taken = false;
	s->fetch_slot = -1;
}

/*
 * The slot to bring a unit into: an empty one, else the one that was wanted longest ago. So it is
 * not the one of the phase in work, where there are two.
 */
static struct gather_slot *slot_choose(struct engine *e)
{
	struct gather_slot *best = &e->gather_slots[0];

	for (size_t i = 1; i < e->plan->device.gather_slots; i++) {
		struct gather_slot *s = &e->gather_slots[i];
		bool empty = s->unit < 0, best_empty = best->unit < 0;

		if (empty != best_empty ? empty : s->wanted < best->wanted)
			best = s;
	}
	return best;
}

/* Copies `bytes` from the arena to the device, behind whatever still uses the destination. */
static void copy_in(struct engine *e, void *dst, const void *src, size_t bytes)
{
	device_copy(e->copy_in, dst, src, bytes, DEVICE_COPY_IN);
	e->in_bytes += bytes;
}

/* The optimizer's partition, fresh from a step, into device memory `whole`, and gathered there. */
static int refresh_into(struct engine *e, int u, char *whole, struct device_event *ready,
			struct err *err)
{
	const struct plan_unit *pu = &e->plan->units[u];
	size_t bytes = pu->opt_elems * e->param_bytes;
	char *place = whole + (pu->opt_elems < pu->padded ? e->rank * bytes : 0);
	const char *src;
	int rc = arrive(e, u, &src, err);

	if (rc < 0)
		return rc;
	copy_in(e, place, src, bytes);
	fetched_release(e, u);
	if (pu->opt_elems == pu->padded) {
		device_event_record(ready, e->copy_in);
		return 0;
	}
	device_event_record(e->arrived, e->copy_in);
	device_stream_wait(e->comm_stream, e->arrived);
	comm_all_gather(e->comm, e->comm_stream, whole, place, bytes);
	device_event_record(ready, e->comm_stream);
	return 0;
}

/* A resident whole unit after a step. Its readers of the step before ended at the marks. */
static int refresh_whole(struct engine *e, int u, struct err *err)
{
	struct unit_state *s = &e->units[u];
	int rc;

	device_stream_wait(e->copy_in, e->mark_compute);
	rc = refresh_into(e, u, s->mem, s->replica_written, err);
	if (rc == 0)
		s->stale = false;
	return rc;
}

/* A resident partition after a step. */
static int refresh_part(struct engine *e, int u, struct err *err)
{
	struct unit_state *s = &e->units[u];
	const char *src;
	int rc = arrive(e, u, &src, err);

	if (rc < 0)
		return rc;
	device_stream_wait(e->copy_in, e->mark_comm);
	copy_in(e, s->mem, src, e->plan->units[u].param_elems * e->param_bytes);
	fetched_release(e, u);
	device_event_record(s->replica_written, e->copy_in);
	s->stale = false;
	return 0;
}

/* The unit's param_elems, as they are in the arena, at their place in the slot. */
static int replica_into(struct engine *e, int u, struct gather_slot *slot, char **ret_place,
			struct err *err)
{
	const struct plan_unit *pu = &e->plan->units[u];
	struct unit_state *s = &e->units[u];
	size_t bytes = pu->param_elems * e->param_bytes;
	const char *src = e->arena + e->data_offset + pu->param_blob_offset;

	if (s->replica == REPLICA_REGION) {
		device_stream_wait(e->copy_in, s->replica_written);
	} else {
		int rc = arrive(e, u, &src, err);

		if (rc < 0)
			return rc;
	}
	*ret_place = slot->mem + (pu->param_elems < pu->padded ? e->rank * bytes : 0);
	copy_in(e, *ret_place, src, bytes);
	fetched_release(e, u);
	return 0;
}

/* The same, gathered when they are a partition. */
static int replica_gather(struct engine *e, int u, struct gather_slot *slot, struct err *err)
{
	const struct plan_unit *pu = &e->plan->units[u];
	char *place;
	int rc = replica_into(e, u, slot, &place, err);

	if (rc < 0)
		return rc;
	if (pu->param_elems == pu->padded) {
		device_event_record(slot->ready, e->copy_in);
		return 0;
	}
	device_event_record(e->arrived, e->copy_in);
	device_stream_wait(e->comm_stream, e->arrived);
	comm_all_gather(e->comm, e->comm_stream, slot->mem, place,
			pu->param_elems * e->param_bytes);
	device_event_record(slot->ready, e->comm_stream);
	return 0;
}

static int bring_into_slot(struct engine *e, int u, struct gather_slot *slot, struct err *err)
{
	struct unit_state *s = &e->units[u];
	int rc;

	switch (s->replica) {
	case REPLICA_PART:
		if (s->stale && (rc = refresh_part(e, u, err)) < 0)
			return rc;
		device_stream_wait(e->comm_stream, s->replica_written);
		comm_all_gather(e->comm, e->comm_stream, slot->mem, s->mem,
				e->plan->units[u].param_elems * e->param_bytes);
		device_event_record(slot->ready, e->comm_stream);
		return 0;
	case REPLICA_REGION:
	case REPLICA_BLOB:
		if (!s->stale)
			return replica_gather(e, u, slot, err);
		rc = refresh_into(e, u, slot->mem, slot->ready, err);
		if (rc < 0)
			return rc;
		return unit_write_back(e, u, (int)(slot - e->gather_slots), err);
	case REPLICA_HOME:
		return replica_gather(e, u, slot, err);
	case REPLICA_WHOLE:
		break;
	}
	return err_set(err, ERR_INTERNAL, "unit %d has no use for a gather slot", u);
}

/* A slot for unit u, in which it may be already. What is enqueued now may write to it. */
static struct gather_slot *slot_take(struct engine *e, int u)
{
	int i = slot_of(e, u);
	struct gather_slot *slot = i < 0 ? slot_choose(e) : &e->gather_slots[i];
	/* Invariant 3: who may still touch the slot. */
	struct device_event *const before[] = {slot->ready, slot->used, slot->saved};

	for (size_t k = 0; k < 3; k++) {
		device_stream_wait(e->copy_in, before[k]);
		device_stream_wait(e->comm_stream, before[k]);
	}
	slot->wanted = ++e->gather_turn;
	return slot;
}

int unit_bring(struct engine *e, int u, int *ret_slot, struct err *err)
{
	struct unit_state *s = &e->units[u];
	struct gather_slot *slot;
	int i, rc;

	device_stream_unit(e->copy_in, (uint32_t)u);
	device_stream_unit(e->comm_stream, (uint32_t)u);
	if (resident(s)) {
		*ret_slot = -1;
		return s->stale ? refresh_whole(e, u, err) : 0;
	}
	i = slot_of(e, u);
	if (i >= 0 && !s->stale) {
		e->gather_slots[i].wanted = ++e->gather_turn;
		*ret_slot = i;
		return 0;
	}
	slot = slot_take(e, u);
	slot->unit = u;
	rc = bring_into_slot(e, u, slot, err);
	if (rc < 0)
		return rc;
	*ret_slot = (int)(slot - e->gather_slots);
	return 0;
}

int unit_bring_part(struct engine *e, int u, int *ret_slot, struct err *err)
{
	struct gather_slot *slot = slot_take(e, u);

	if (slot->unit != u) {
		char *place;
		int rc = replica_into(e, u, slot, &place, err);

		if (rc < 0)
			return rc;
		device_event_record(slot->ready, e->copy_in);
	}
	slot->unit = -1;
	*ret_slot = (int)(slot - e->gather_slots);
	return 0;
}

char *unit_mem(struct engine *e, int u, int slot)
{
	return slot < 0 ? e->units[u].mem : e->gather_slots[slot].mem;
}

void unit_await(struct engine *e, int u, int slot, struct device_stream *stream)
{
	device_stream_wait(stream,
			   slot < 0 ? e->units[u].replica_written : e->gather_slots[slot].ready);
}

/* Runs on the copy-out stream: the parameters lie in the arena, the daemon may have them. */
static int push_store(void *arg, struct err *err)
{
	struct store *store = arg;

	return client_push(store->client, &store->submission, err);
}

/* The fetch slot that a blob leaves through; the driving thread waits for one. */
static int store_begin(struct engine *e, int u, char **ret_dst, struct store **ret, struct err *err)
{
	struct unit_state *s = &e->units[u];
	int i, rc;

	rc = engine_settle(e, &s->store_id, NULL, err);
	if (rc == 0)
		rc = device_event_sync(s->replica_written, err);
	if (rc < 0)
		return rc;
	i = fetch_slot_take(e, true, err);
	if (i < 0)
		return i;
	rc = client_prepare(e->client, &s->store_id, err);
	if (rc < 0)
		return rc;
	s->store.client = e->client;
	s->store.submission = (struct protocol_submission){
		.op = PROTOCOL_OP_STORE,
		.unit = (uint32_t)e->plan->units[u].blob_idx,
		.id = s->store_id,
		.offset = e->fetch_slots[i].offset,
	};
	s->store.slot = i;
	*ret_dst = e->arena + e->fetch_slots[i].offset;
	*ret = &s->store;
	return 0;
}

int unit_write_back(struct engine *e, int u, int slot, struct err *err)
{
	struct unit_state *s = &e->units[u];
	const struct plan_unit *pu = &e->plan->units[u];
	struct gather_slot *from = &e->gather_slots[slot];
	size_t bytes = pu->param_elems * e->param_bytes;
	const char *src = from->mem + (pu->param_elems < pu->padded ? e->rank * bytes : 0);
	char *dst = e->arena + e->data_offset + pu->param_blob_offset;
	struct store *store = NULL;
	int rc;

	if (s->replica == REPLICA_BLOB) {
		rc = store_begin(e, u, &dst, &store, err);
		if (rc < 0)
			return err_add(err, "storing unit %d", u);
	}
	device_stream_unit(e->copy_out, (uint32_t)u);
	device_stream_wait(e->copy_out, from->ready);
	device_copy(e->copy_out, dst, src, bytes, DEVICE_COPY_OUT);
	device_event_record(from->saved, e->copy_out);
	if (store) {
		device_stream_name(e->copy_out, "push parameters", 0);
		device_host(e->copy_out, push_store, store);
	}
	device_event_record(s->replica_written, e->copy_out);
	e->out_bytes += bytes;
	s->stale = false;
	if (!store)
		return 0;
	/* The slot is free when the STORE is done; its id is the unit's to wait for. */
	device_event_record(e->fetch_slots[store->slot].free, e->copy_out);
	e->fetch_slots[store->slot].storing = u;
	return 0;
}
