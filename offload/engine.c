/*
 * The ZeRO engine: opening and closing, and the order of a pass. Called by the worker's thread
 * only; pieces of it run on the device's streams.
 *
 *	           copy_in               comm                 compute            copy_out
 *	arena ------------> gather slot --all-gather--> unit --phase--> gradient
 *	                                                          |
 *	grad slot of the arena <-----------------------reduce-scatter----- part buffer
 *	     `- GRAD or STEP pushed to the daemon by copy_out itself
 *
 * engine_param.c brings parameters in, engine_grad.c takes gradients out and steps,
 * engine_act.c moves checkpointed activations, engine_state.c imports and exports, engine_trace.c
 * tells a trace of it.
 *
 * Invariants.
 * 1. All ranks enqueue the same collectives in the same order. Hence nothing that enqueues on the
 *    comm stream depends on what has completed: after phase k is enqueued come the gather of
 *    phase k + 1, then the reduction of k's gradient, whatever the disk is doing. The driving
 *    thread blocks for the bytes of phase k + 1 there, while the device computes phase k. Where
 *    micro-batches go side by side, each has its reduction behind its turn of phase k, and the
 *    gather comes with the last of them: a unit stays in its slot for all of them, even where
 *    there is one slot, and the device has all of phase k to do while the thread waits.
 * 2. Fetches from the daemon run further ahead (zero.prefetch units) and in any order, since they
 *    are no collectives.
 * 3. A buffer is overwritten only by work ordered behind the event of its last reader.
 * 4. The driving thread alone waits for operations of the daemon. The copy-out stream pushes
 *    GRADs, STEPs and STOREs, in its order; whatever must come behind one of these in the
 *    submission ring is submitted after that push is known to have happened.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "offload/internal.h"

#define EXCHANGE_BYTES 4096u

int engine_settle(struct engine *e, uint32_t *id, struct protocol_completion *ret, struct err *err)
{
	uint32_t pending = *id;

	if (pending == ENGINE_NO_ID)
		return 0;
	*id = ENGINE_NO_ID;
	return client_wait(e->client, pending, ret, err);
}

static enum replica replica_of(const struct plan *p, size_t u)
{
	const struct plan_unit *pu = &p->units[u];

	if (pu->place_param == PLACE_NONE)
		return plan_unit_resident(p, pu) ? REPLICA_WHOLE : REPLICA_PART;
	if (!pu->param_blob)
		return REPLICA_HOME;
	return pu->place_param == PLACE_CPU ? REPLICA_REGION : REPLICA_BLOB;
}

static int events_open(struct engine *e, struct device_event **events[], size_t count,
		       struct err *err)
{
	for (size_t i = 0; i < count; i++) {
		int rc = device_event_open(e->device, events[i], err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int streams_open(struct engine *e, struct err *err)
{
	struct device_event **events[] = {&e->phase_done, &e->arrived, &e->reduced,
					  &e->mark_compute, &e->mark_comm};
	int rc;

	if ((rc = device_stream_open(e->device, "compute", &e->compute, err)) < 0 ||
	    (rc = device_stream_open(e->device, "comm", &e->comm_stream, err)) < 0 ||
	    (rc = device_stream_open(e->device, "copy-in", &e->copy_in, err)) < 0 ||
	    (rc = device_stream_open(e->device, "copy-out", &e->copy_out, err)) < 0)
		return rc;
	return events_open(e, events, sizeof(events) / sizeof(events[0]), err);
}

/* calloc of `count` (at least one) structs. */
static void *table(size_t count, size_t bytes)
{
	return calloc(count ? count : 1, bytes);
}

static int tables_alloc(struct engine *e, struct err *err)
{
	const struct plan *p = e->plan;

	e->units = table(p->unit_count, sizeof(*e->units));
	e->gather_slots = table(p->device.gather_slots, sizeof(*e->gather_slots));
	e->fetch_slots = table(p->host.fetch_slots, sizeof(*e->fetch_slots));
	e->grad_slots = table(p->host.grad_slots, sizeof(*e->grad_slots));
	e->grad_buffers = table(p->device.grad_buffers, sizeof(*e->grad_buffers));
	e->part_buffers = table(p->device.part_buffers, sizeof(*e->part_buffers));
	e->act_buffers = table(p->device.act_buffers, sizeof(*e->act_buffers));
	e->act_slots = table(p->host.act_slots, sizeof(*e->act_slots));
	e->acts = table(p->act_count, sizeof(*e->acts));
	if (!e->units || !e->gather_slots || !e->fetch_slots || !e->grad_slots ||
	    !e->grad_buffers || !e->part_buffers || !e->act_buffers || !e->act_slots || !e->acts)
		return err_sys(err, -ENOMEM, "allocating the engine's tables");
	e->transfer_id[0] = e->transfer_id[1] = ENGINE_NO_ID;
	return 0;
}

static int device_take(struct engine *e, void *ret_ptr, uint64_t bytes, const char *what,
		       struct err *err)
{
	void *mem = device_alloc(e->device, bytes, what, err);

	if (!mem)
		return err->code;
	memcpy(ret_ptr, &mem, sizeof(mem));
	return 0;
}

/* Optimizer state of unit u on the device. */
static int unit_state_alloc(struct engine *e, size_t u, struct err *err)
{
	struct unit_state *s = &e->units[u];
	uint64_t n = e->plan->units[u].opt_elems;
	size_t grad_bytes = dtype_bytes(e->plan->grad_kept_type);
	int rc;

	rc = device_take(e, &s->state, plan_state_bytes(e->plan, n), "optimizer state", err);
	if (rc == 0)
		rc = device_take(e, &s->grad, grad_bytes * n, "gradients", err);
	if (rc == 0)
		rc = device_take(e, &s->blocks, 8 * vector_blocks(n), "gradient norms", err);
	return rc;
}

/* A buffer for the gradient of a unit that several phases add to, in each micro-batch under way. */
static int grad_shared_alloc(struct engine *e, size_t u, struct err *err)
{
	struct grad_buffer *b = table(e->plan->micros, sizeof(*b));
	int rc = 0;

	e->units[u].grad_shared = b;
	if (!b)
		return err_sys(err, -ENOMEM, "allocating the engine's tables");
	for (uint64_t m = 0; m < e->plan->micros && rc == 0; m++) {
		b[m].unit = -1;
		rc = device_take(e, &b[m].mem, 4 * e->plan->units[u].padded,
				 "a gradient of several phases", err);
		if (rc == 0)
			rc = device_event_open(e->device, &b[m].free, err);
	}
	return rc;
}

static int units_alloc(struct engine *e, struct err *err)
{
	const struct plan *p = e->plan;

	for (size_t u = 0; u < p->unit_count; u++) {
		struct unit_state *s = &e->units[u];
		int rc;

		s->replica = replica_of(p, u);
		s->fetch_id = s->store_id = s->step_id = s->prepare_id = ENGINE_NO_ID;
		s->fetch_slot = -1;
		rc = device_event_open(e->device, &s->replica_written, err);
		if (rc == 0 && (s->replica == REPLICA_WHOLE || s->replica == REPLICA_PART))
			rc = device_take(e, &s->mem, p->units[u].param_elems * e->param_bytes,
					 "parameters", err);
		if (rc == 0 && !unit_offloaded(e, u))
			rc = unit_state_alloc(e, u, err);
		if (rc == 0 && p->units[u].grad_shared)
			rc = grad_shared_alloc(e, u, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int slots_alloc(struct engine *e, struct err *err)
{
	const struct plan_device *d = &e->plan->device;
	int rc = 0;

	for (size_t i = 0; i < d->gather_slots && rc == 0; i++) {
		struct gather_slot *s = &e->gather_slots[i];
		struct device_event **events[] = {&s->ready, &s->used, &s->saved};

		s->unit = -1;
		rc = device_take(e, &s->mem, d->gather_slot_bytes, "a gather slot", err);
		if (rc == 0)
			rc = events_open(e, events, 3, err);
	}
	for (size_t i = 0; i < d->grad_buffers && rc == 0; i++) {
		e->grad_buffers[i].unit = -1;
		rc = device_take(e, &e->grad_buffers[i].mem, d->grad_buffer_bytes,
				 "a unit's gradient", err);
		if (rc == 0)
			rc = device_event_open(e->device, &e->grad_buffers[i].free, err);
	}
	for (size_t i = 0; i < d->part_buffers && rc == 0; i++) {
		struct part_buffer *b = &e->part_buffers[i];

		rc = device_take(e, &b->mem, d->part_bytes, "a reduced gradient", err);
		if (rc == 0 && d->part_cast_bytes)
			rc = device_take(e, &b->cast, d->part_cast_bytes,
					 "a reduced gradient in bf16", err);
		if (rc == 0)
			rc = device_event_open(e->device, &b->free, err);
	}
	return rc;
}

static int acts_alloc(struct engine *e, struct err *err)
{
	const struct plan_device *d = &e->plan->device;
	int rc = 0;

	for (size_t i = 0; i < e->plan->act_count && rc == 0; i++) {
		e->acts[i].buffer = e->acts[i].slot = -1;
		rc = device_event_open(e->device, &e->acts[i].saved, err);
	}
	for (size_t i = 0; i < d->act_buffers && rc == 0; i++) {
		struct act_buffer *b = &e->act_buffers[i];
		struct device_event **events[] = {&b->ready, &b->used, &b->saved};

		b->act = -1;
		rc = device_take(e, &b->mem, d->act_bytes, "a checkpointed activation", err);
		if (rc == 0)
			rc = events_open(e, events, 3, err);
	}
	if (rc == 0)
		rc = device_take(e, &e->carry, e->plan->micros * d->carry_bytes,
				 "what micro-batches carry from phase to phase", err);
	if (rc == 0)
		rc = device_take(e, &e->workspace, d->workspace_bytes, "the workspace", err);
	if (rc == 0)
		rc = device_take(e, &e->kept, d->kept_blocks * d->kept_bytes,
				 "what kept blocks computed", err);
	if (rc == 0)
		rc = device_take(e, &e->exchange_mine, EXCHANGE_BYTES, "small exchanges", err);
	if (rc == 0)
		rc = device_take(e, &e->exchange_all, (uint64_t)EXCHANGE_BYTES * e->world,
				 "small exchanges", err);
	return rc;
}

/* This rank's unit as the daemon will hold it. */
static struct protocol_unit unit_for_daemon(const struct engine *e, size_t u)
{
	const struct plan *p = e->plan;
	const struct plan_unit *pu = &p->units[u];
	struct protocol_unit out = {
		.elems = pu->opt_elems,
		.decay_elems = unit_decay(e, u),
		.position = unit_position(e, u),
		.param_home = (uint8_t)pu->param_home,
		.state_home = (uint8_t)pu->state_home,
	};

	if (pu->param_home == PROTOCOL_HOME_MEMORY)
		out.param_offset = e->data_offset + pu->param_home_offset;
	if (e->config->optimizer.clip > 0) {
		out.norm_first = unit_norm_first(e, u);
		out.norm_elems = pu->partition;
	}
	if (plan_unit_grad_kept(p, pu))
		out.grad_home = pu->grad_spilled ? PROTOCOL_HOME_SWAP : PROTOCOL_HOME_MEMORY;
	return out;
}

/* The daemon has another working directory: it gets paths whole. */
static int paths_fill(const struct engine *e, struct protocol_open *o, struct err *err)
{
	const struct conf_strings *paths = &e->config->nvme.paths;

	if (!e->plan->needs_swap)
		return 0;
	for (size_t i = 0; i < paths->count; i++) {
		char *whole = realpath(paths->at[i], NULL);
		size_t len;

		if (!whole)
			return err_sys(err, -errno, "nvme.paths: %s", paths->at[i]);
		len = strlen(whole);
		if (len < PROTOCOL_PATH_BYTES)
			memcpy(o->paths[i], whole, len + 1);
		free(whole);
		if (len >= PROTOCOL_PATH_BYTES)
			return err_set(err, ERR_CONFIG, "nvme.paths: %s: longer than %u bytes",
				       paths->at[i], PROTOCOL_PATH_BYTES - 1);
	}
	o->path_count = (uint32_t)paths->count;
	return 0;
}

static void open_message_fill(const struct engine *e, struct protocol_open *o)
{
	const struct train_config *c = e->config;
	const struct optimizer_hyper hyper = train_config_hyper(c);
	const struct plan *p = e->plan;

	o->data_bytes = p->host.data_bytes;
	o->chunk_elems = p->chunk_elems;
	o->chunk_buffers = (uint32_t)p->host.chunk_buffers;
	o->ring_slots = (uint32_t)p->host.ring_slots;
	o->param_type = (uint8_t)p->param_type;
	o->grad_type = (uint8_t)p->grad_type;
	o->accumulate = p->accumulation > p->micros;
	o->engine = (uint8_t)c->nvme.engine;
	o->queue_depth = (uint32_t)c->nvme.queue_depth;
	o->blob_extent_bytes = (uint32_t)c->nvme.extent;
	o->optimizer = (uint8_t)hyper.kind;
	o->moments = (uint8_t)hyper.moments;
	o->beta1 = hyper.beta1;
	o->beta2 = hyper.beta2;
	o->eps = hyper.eps;
	o->momentum = hyper.momentum;
	o->weight_decay = hyper.weight_decay;
	o->seed = hyper.seed;
}

static int session_connect(struct engine *e, const struct engine_config *config,
			   struct client_config *c, struct err *err)
{
	const struct plan *p = e->plan;
	size_t units = p->daemon_units;
	struct protocol_unit *units_table = table(units, sizeof(*units_table));
	int rc;

	if (!units_table)
		return err_sys(err, -ENOMEM, "allocating the session's units");
	e->data_offset = protocol_data_offset((uint32_t)p->host.ring_slots);
	for (size_t u = 0; u < p->unit_count; u++)
		if (unit_offloaded(e, u))
			units_table[p->units[u].daemon_idx] = unit_for_daemon(e, u);
	c->open.unit_count = (uint32_t)units;
	c->open.blob_count = (uint32_t)p->blob_count;
	c->units = units_table;
	c->blobs = p->blobs;
	c->open.flags = config->trace ? PROTOCOL_OPEN_TRACE : 0;
	c->socket = config->daemon_socket;
	c->job = config->job;
	c->rank = e->rank;
	c->world = e->world;
	rc = client_open(c, &e->client, err);
	free(units_table);
	return rc;
}

static int session_slots(struct engine *e, struct err *err)
{
	const struct plan_host *h = &e->plan->host;
	int rc = 0;

	for (size_t i = 0; i < h->fetch_slots && rc == 0; i++) {
		e->fetch_slots[i].offset =
			e->data_offset + h->fetch_offset + i * h->fetch_slot_bytes;
		e->fetch_slots[i].storing = -1;
		rc = device_event_open(e->device, &e->fetch_slots[i].free, err);
	}
	for (size_t i = 0; i < h->grad_slots && rc == 0; i++) {
		e->grad_slots[i].offset = e->data_offset + h->grad_offset + i * h->grad_slot_bytes;
		e->grad_slots[i].id = ENGINE_NO_ID;
		e->grad_slots[i].client = e->client;
		rc = device_event_open(e->device, &e->grad_slots[i].pushed, err);
	}
	for (size_t i = 0; i < h->act_slots && rc == 0; i++) {
		e->act_slots[i].offset =
			e->data_offset + h->act_slot_offset + i * h->act_slot_bytes;
		e->act_slots[i].id = ENGINE_NO_ID;
		e->act_slots[i].act = -1;
		e->act_slots[i].client = e->client;
		rc = device_event_open(e->device, &e->act_slots[i].free, err);
	}
	return rc;
}

static int session_open(struct engine *e, const struct engine_config *config, struct err *err)
{
	struct client_config *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_sys(err, -ENOMEM, "allocating the session's request");
	open_message_fill(e, &c->open);
	rc = paths_fill(e, &c->open, err);
	if (rc == 0)
		rc = session_connect(e, config, c, err);
	free(c);
	if (rc < 0)
		return rc;
	e->arena = client_arena(e->client, &e->arena_bytes);
	if (client_data_offset(e->client) != e->data_offset)
		return err_set(err, ERR_PROTOCOL, "the daemon's arena begins at %llu, not at %llu",
			       (unsigned long long)client_data_offset(e->client),
			       (unsigned long long)e->data_offset);
	rc = device_host_register(e->device, e->arena, e->arena_bytes, err);
	if (rc < 0)
		return rc;
	return session_slots(e, err);
}

int engine_open(const struct engine_config *config, struct engine **ret, struct err *err)
{
	struct engine *e = calloc(1, sizeof(*e));
	int rc;

	if (!e)
		return err_sys(err, -ENOMEM, "allocating the engine");
	e->config = config->config;
	e->arch = config->arch;
	e->plan = config->plan;
	e->device = config->device;
	e->comm = config->comm;
	e->rank = config->rank;
	e->world = config->plan->world;
	e->param_bytes = dtype_bytes(e->plan->param_type);
	e->grad_bytes = dtype_bytes(e->plan->grad_type);
	e->piece_transfer = -1;
	if ((rc = tables_alloc(e, err)) < 0 || (rc = streams_open(e, err)) < 0 ||
	    (rc = engine_trace_open(e, config, err)) < 0 || (rc = units_alloc(e, err)) < 0 ||
	    (rc = slots_alloc(e, err)) < 0 || (rc = acts_alloc(e, err)) < 0 ||
	    (e->plan->needs_daemon && (rc = session_open(e, config, err)) < 0)) {
		engine_free(e);
		return rc;
	}
	*ret = e;
	return 0;
}

/* Streams, events and memory are the device's and go with it; it is idle or has failed. */
struct engine *engine_free(struct engine *e)
{
	struct err ignored = {0};

	if (!e)
		return NULL;
	/* Copies may still touch the arena: let them end before it is unmapped. */
	if (e->copy_out)
		device_stream_sync(e->copy_out, &ignored);
	if (e->copy_in)
		device_stream_sync(e->copy_in, &ignored);
	if (e->arena)
		device_host_unregister(e->device, e->arena);
	e->client = client_free(e->client);
	for (size_t u = 0; e->units && u < e->plan->unit_count; u++)
		free(e->units[u].grad_shared);
	free(e->units);
	free(e->gather_slots);
	free(e->fetch_slots);
	free(e->grad_slots);
	free(e->grad_buffers);
	free(e->part_buffers);
	free(e->act_buffers);
	free(e->act_slots);
	free(e->acts);
	free(e->staging);
	free(e->read_buffer);
	free(e->phase_names);
	free(e);
	return NULL;
}

struct device_stream *engine_compute(struct engine *e)
{
	return e->compute;
}

const char *engine_note(const struct engine *e)
{
	return e->client ? client_opened(e->client)->note : "";
}

int engine_step_begin(struct engine *e, uint64_t step, double lr, struct err *err)
{
	(void)err;
	e->step = step;
	e->lr = lr;
	e->micro = 0;
	e->prepared = false;
	return 0;
}

int engine_pass_begin(struct engine *e, enum engine_pass pass, struct err *err)
{
	int rc;

	e->pass = pass;
	e->phases = pass == ENGINE_TRAIN ? e->arch->train : e->arch->eval;
	e->phase_count = pass == ENGINE_TRAIN ? e->arch->train_count : e->arch->eval_count;
	e->phase = e->column = 0;
	e->width = pass == ENGINE_TRAIN ? e->plan->micros : 1;
	e->wraps = pass == ENGINE_TRAIN && e->micro + e->width < e->plan->accumulation;
	if (pass == ENGINE_TRAIN && (rc = steps_prepare(e, e->plan->unit_count, err)) < 0)
		return rc;
	return acts_reset(e, err);
}

int engine_phase_begin(struct engine *e, struct engine_io *ret, struct err *err)
{
	const struct plan_device *d = &e->plan->device;
	const struct arch_phase *phase = &e->phases[e->phase];
	struct engine_io io = {
		.carry = e->carry + e->column * d->carry_bytes,
		.workspace = e->workspace,
		.kept = e->kept + e->column * d->kept_blocks * engine_align(e->arch->kept_bytes),
	};
	int slot = -1, rc;

	rc = units_fetch_ahead(e, err);
	if (rc == 0 && phase->unit >= 0)
		rc = unit_bring(e, phase->unit, &slot, err);
	engine_trace_phase_begin(e);
	if (rc == 0 && phase->unit >= 0) {
		unit_await(e, phase->unit, slot, e->compute);
		io.param = unit_mem(e, phase->unit, slot);
	}
	if (rc == 0)
		rc = act_begin(e, phase, &io, err);
	if (rc == 0 && phase->grad_unit >= 0)
		rc = grad_begin(e, phase->grad_unit, &io.grad, err);
	if (rc < 0)
		return err_add(err, "phase %zu of %zu", e->phase, e->phase_count);
	*ret = io;
	return 0;
}

/*
 * The unit of the next phase that has one. -1 at the end of the last pass of a step, and while
 * other micro-batches have their turn of this phase to come.
 */
static int next_unit(const struct engine *e)
{
	size_t limit = e->phase_count * (e->wraps ? 2 : 1);

	if (e->column + 1 < e->width)
		return -1;
	for (size_t i = e->phase + 1; i < limit; i++)
		if (e->phases[i % e->phase_count].unit >= 0)
			return e->phases[i % e->phase_count].unit;
	return -1;
}

int engine_phase_end(struct engine *e, struct err *err)
{
	const struct arch_phase *phase = &e->phases[e->phase];
	int next = next_unit(e), slot, rc;

	engine_trace_phase_end(e);
	device_event_record(e->phase_done, e->compute);
	for (size_t i = 0; i < e->plan->device.gather_slots; i++)
		if (phase->unit >= 0 && e->gather_slots[i].unit == phase->unit)
			device_event_record(e->gather_slots[i].used, e->compute);
	rc = act_end(e, phase, err);
	if (rc == 0)
		rc = units_fetch_ahead(e, err);
	/* Invariant 1: gather of what comes next, then the reduction of what was. */
	if (rc == 0 && next >= 0)
		rc = unit_bring(e, next, &slot, err);
	if (rc == 0 && phase->grad_unit >= 0 && phase->grad_last)
		rc = grad_end(e, phase->grad_unit, err);
	if (rc == 0)
		rc = acts_load_ahead(e, err);
	if (rc < 0)
		return err_add(err, "phase %zu of %zu", e->phase, e->phase_count);
	if (++e->column == e->width) {
		e->column = 0;
		e->phase++;
	}
	if (e->width > 1)
		e->micro = e->column;
	return 0;
}

int engine_pass_end(struct engine *e, struct err *err)
{
	(void)err;
	if (e->pass == ENGINE_TRAIN)
		e->micro += e->width;
	return 0;
}

int engine_sync(struct engine *e, struct err *err)
{
	int rc;

	if ((rc = device_stream_sync(e->compute, err)) < 0 ||
	    (rc = device_stream_sync(e->comm_stream, err)) < 0 ||
	    (rc = device_stream_sync(e->copy_in, err)) < 0 ||
	    (rc = device_stream_sync(e->copy_out, err)) < 0)
		return rc;
	for (size_t i = 0; e->client && i < e->plan->host.grad_slots; i++)
		if ((rc = engine_settle(e, &e->grad_slots[i].id, NULL, err)) < 0)
			return rc;
	for (size_t i = 0; e->client && i < e->plan->host.act_slots; i++)
		if ((rc = engine_settle(e, &e->act_slots[i].id, NULL, err)) < 0)
			return rc;
	for (size_t u = 0; u < e->plan->unit_count; u++)
		if ((rc = engine_settle(e, &e->units[u].step_id, NULL, err)) < 0 ||
		    (rc = engine_settle(e, &e->units[u].prepare_id, NULL, err)) < 0 ||
		    (rc = engine_settle(e, &e->units[u].store_id, NULL, err)) < 0)
			return rc;
	return 0;
}

int engine_exchange(struct engine *e, const void *mine, size_t bytes, void *all, struct err *err)
{
	struct device_stream *s = e->comm_stream;
	uint64_t began;
	int rc;

	if (bytes > EXCHANGE_BYTES)
		return err_set(err, ERR_INTERNAL, "exchange of %zu bytes", bytes);
	device_stream_unit(s, TRACE_NO_UNIT);
	device_copy(s, e->exchange_mine, mine, bytes, DEVICE_COPY_IN);
	comm_all_gather(e->comm, s, e->exchange_all, e->exchange_mine, bytes);
	device_copy(s, all, e->exchange_all, bytes * e->world, DEVICE_COPY_OUT);
	began = trace_now_ns();
	rc = device_stream_sync(s, err);
	engine_waited(e, NULL, "other ranks", -1, began);
	return rc;
}

int engine_stats(struct engine *e, struct engine_stats *ret, struct err *err)
{
	struct engine_stats stats = {
		.device_used_bytes = device_used_bytes(e->device),
		.device_in_bytes = e->in_bytes,
		.device_out_bytes = e->out_bytes,
		.comm_bytes = comm_moved_bytes(e->comm),
		.compute_seconds = device_stream_busy(e->compute),
		.comm_seconds = device_stream_busy(e->comm_stream),
		.copy_seconds = device_stream_busy(e->copy_in) + device_stream_busy(e->copy_out),
		.wait_fetch_seconds = e->wait_fetch_seconds,
		.wait_grad_seconds = e->wait_grad_seconds,
	};

	if (e->client) {
		int rc = client_stats(e->client, &stats.daemon, err);

		if (rc < 0)
			return rc;
	}
	*ret = stats;
	return 0;
}
