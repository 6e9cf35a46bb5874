/*
 * Gradients out, and the optimizer step.
 *
 * A unit's gradient is accumulated in fp32 on the device while its phases run, then reduced over
 * the ranks at once (stage 0: to all, else each its partition), and taken over by the unit's
 * optimizer: copied out for the daemon, or kept in device memory. Where nothing needs a global norm
 * the copy-out stream sends the unit's STEP along with its last gradient, during backward. The
 * daemon puts a STEP off for one of a unit that the next forward needs sooner: backward ends with
 * the unit that is needed first. Where a norm is needed all STEPs come after backward, in that
 * order. In both cases the daemon is told before (PREPARE), so that it reads ahead for the first.
 *
 * A pass of several micro-batches adds a unit's reduced gradients up in a part buffer, in the
 * order of micro-batches, and sends the sum out once. Each is begun from zero, reduced, and then
 * added, as where the daemon or the next pass adds it, so that the sum has the same bits. Where
 * several phases add to a unit's gradient, each micro-batch has a buffer of its own for it.
 *
 * Units of both kinds may be in one model. A sum of squares is the same wherever it is taken, and
 * the norm adds them up in unit order, so that its bits do not tell where a unit is.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "offload/internal.h"

#define NORM_BATCH 512u /* doubles of one exchange */

static bool last_micro(const struct engine *e)
{
	return e->micro + 1 == e->plan->accumulation;
}

static bool clips(const struct engine *e)
{
	return e->config->optimizer.clip > 0;
}

static struct grad_buffer *buffer_of(struct engine *e, int u)
{
	if (e->units[u].grad_shared)
		return &e->units[u].grad_shared[e->column];
	for (size_t i = 0; i < e->plan->device.grad_buffers; i++)
		if (e->grad_buffers[i].unit == u)
			return &e->grad_buffers[i];
	return NULL;
}

int grad_begin(struct engine *e, int u, float **ret, struct err *err)
{
	struct grad_buffer *b = buffer_of(e, u);

	if (b && b->unit == u) {
		*ret = b->mem;
		return 0;
	}
	/* In turns, so that one is reduced while the next phase fills another. */
	for (size_t i = 0; !b && i < e->plan->device.grad_buffers; i++) {
		struct grad_buffer *next = &e->grad_buffers[e->grad_next];

		e->grad_next = (e->grad_next + 1) % e->plan->device.grad_buffers;
		if (next->unit < 0)
			b = next;
	}
	if (!b)
		return err_set(err, ERR_INTERNAL, "no gradient buffer for unit %d", u);
	b->unit = u;
	device_stream_wait(e->compute, b->free);
	device_zero(e->compute, b->mem, 4 * e->plan->units[u].padded);
	*ret = b->mem;
	return 0;
}

/* The next part buffer in turn that holds no sum. */
static struct part_buffer *part_take(struct engine *e)
{
	struct part_buffer *part;

	do {
		part = &e->part_buffers[e->part_next];
		e->part_next = (e->part_next + 1) % e->plan->device.part_buffers;
	} while (part == e->sum);
	return part;
}

/* Reduces the unit's gradient into a part buffer, on the comm stream. */
static struct part_buffer *reduce(struct engine *e, int u, struct grad_buffer *b)
{
	const struct plan_unit *pu = &e->plan->units[u];
	struct part_buffer *part = part_take(e);

	device_stream_unit(e->comm_stream, (uint32_t)u);
	device_stream_wait(e->comm_stream, e->phase_done);
	device_stream_wait(e->comm_stream, part->free);
	if (e->plan->stage >= 1) {
		comm_reduce_scatter(e->comm, e->comm_stream, DTYPE_F32, part->mem, b->mem,
				    pu->partition);
	} else {
		comm_all_reduce(e->comm, e->comm_stream, DTYPE_F32, b->mem, pu->padded);
		device_copy(e->comm_stream, part->mem, b->mem, 4 * pu->padded, DEVICE_COPY_WITHIN);
	}
	device_event_record(b->free, e->comm_stream);
	b->unit = -1;
	return part;
}

/* Device: the reduced gradient joins what the optimizer will use. */
static void keep_on_device(struct engine *e, int u, struct part_buffer *part)
{
	const struct plan_unit *pu = &e->plan->units[u];
	struct unit_state *s = &e->units[u];
	struct vector v = {.count = pu->opt_elems,
			   .a = part->mem,
			   .a_type = DTYPE_F32,
			   .out = s->grad,
			   .out_type = e->plan->grad_kept_type};

	if (e->micro == 0)
		vector_convert(e->comm_stream, &v);
	else
		vector_accumulate(e->comm_stream, &v);
	device_event_record(part->free, e->comm_stream);
	if (last_micro(e) && clips(e)) {
		size_t skip = unit_norm_first(e, (size_t)u) * dtype_bytes(e->plan->grad_kept_type);
		struct vector sq = {.count = pu->partition,
				    .a = (char *)s->grad + skip,
				    .a_type = e->plan->grad_kept_type,
				    .blocks = s->blocks};

		vector_sumsq(e->comm_stream, &sq);
	}
}

/* Takes the next grad slot: waits until the daemon is through with what was in it. */
static int grad_slot_take(struct engine *e, struct grad_slot **ret, struct err *err)
{
	struct grad_slot *slot = &e->grad_slots[e->grad_slot_next];
	struct protocol_completion done = {0};
	uint64_t began = trace_now_ns();
	bool pending = slot->id != ENGINE_NO_ID;
	int rc;

	e->grad_slot_next = (e->grad_slot_next + 1) % e->plan->host.grad_slots;
	/* The first push may have completed while copy-out is still at the second. */
	rc = device_event_sync(slot->pushed, err);
	if (rc == 0)
		rc = engine_settle(e, &slot->id, &done, err);
	engine_waited(e, &e->wait_grad_seconds, "gradient slot", slot->unit, began);
	if (rc < 0)
		return err_add(err, "sending the gradient of unit %d", slot->unit);
	if (pending && slot->carries_norm)
		e->units[slot->unit].sumsq = done.value;
	*ret = slot;
	return 0;
}

static int push_grad(void *arg, struct err *err)
{
	const struct grad_slot *slot = arg;
	int rc = 0;

	for (unsigned i = 0; i < slot->push_count && rc == 0; i++)
		rc = client_push(slot->client, &slot->push[i], err);
	return rc;
}

static uint32_t daemon_idx(const struct engine *e, int u)
{
	return (uint32_t)e->plan->units[u].daemon_idx;
}

/*
 * A STEP of unit u, behind what phases wait for and in the order in which the next forward wants
 * units; its id is kept in the unit until the next one, or in the slot.
 */
static struct protocol_submission step_of(const struct engine *e, int u, double scale)
{
	return (struct protocol_submission){.op = PROTOCOL_OP_STEP,
					    .unit = daemon_idx(e, u),
					    .order = (uint32_t)u + 1,
					    .step = e->step,
					    .lr = e->lr,
					    .grad_scale = scale};
}

/* What copy-out pushes once the gradient lies in the slot. */
static int pushes_make(struct engine *e, int u, struct grad_slot *slot, struct err *err)
{
	struct unit_state *s = &e->units[u];
	bool kept = plan_unit_grad_kept(e->plan, &e->plan->units[u]);
	int rc = client_prepare(e->client, &slot->id, err);

	if (rc < 0)
		return rc;
	slot->unit = u;
	slot->push_count = 1;
	slot->carries_norm = false;
	if (!kept) {
		slot->push[0] = step_of(e, u, 1.0);
		slot->push[0].flags = PROTOCOL_FLAG_FROM_ARENA;
	} else {
		slot->push[0] = (struct protocol_submission){
			.op = PROTOCOL_OP_GRAD,
			.unit = daemon_idx(e, u),
			.flags = (e->micro < e->width ? PROTOCOL_FLAG_FIRST : 0) |
				 (last_micro(e) ? PROTOCOL_FLAG_LAST : 0),
		};
		slot->carries_norm = last_micro(e) && clips(e);
	}
	slot->push[0].id = slot->id;
	slot->push[0].offset = slot->offset;
	if (!kept || !last_micro(e) || clips(e))
		return 0;
	/* No norm to wait for: the step follows at once. */
	rc = engine_settle(e, &s->step_id, NULL, err);
	if (rc == 0)
		rc = client_prepare(e->client, &s->step_id, err);
	if (rc < 0)
		return rc;
	slot->push[1] = step_of(e, u, 1.0);
	slot->push[1].id = s->step_id;
	slot->push_count = 2;
	return 0;
}

/* Daemon: round where the gradient leaves as bf16, copy out, push. */
static int send_out(struct engine *e, int u, struct part_buffer *part, struct err *err)
{
	const struct plan_unit *pu = &e->plan->units[u];
	const void *src = part->mem;
	struct grad_slot *slot;
	int rc;

	if (part->cast) {
		struct vector v = {.count = pu->opt_elems,
				   .a = part->mem,
				   .a_type = DTYPE_F32,
				   .out = part->cast,
				   .out_type = DTYPE_BF16};

		vector_convert(e->comm_stream, &v);
		src = part->cast;
	}
	device_event_record(e->reduced, e->comm_stream);
	rc = grad_slot_take(e, &slot, err);
	if (rc == 0)
		rc = pushes_make(e, u, slot, err);
	if (rc < 0)
		return rc;
	device_stream_unit(e->copy_out, (uint32_t)u);
	device_stream_wait(e->copy_out, e->reduced);
	device_copy(e->copy_out, e->arena + slot->offset, src, pu->opt_elems * e->grad_bytes,
		    DEVICE_COPY_OUT);
	device_event_record(part->free, e->copy_out);
	device_stream_name(e->copy_out, "push gradient", 0);
	device_host(e->copy_out, push_grad, slot);
	device_event_record(slot->pushed, e->copy_out);
	e->out_bytes += pu->opt_elems * e->grad_bytes;
	return 0;
}

/* The micro-batches of a pass side by side: NULL until the last one's gradient is in the sum. */
static struct part_buffer *add_up(struct engine *e, int u, struct part_buffer *part)
{
	struct part_buffer *sum = e->sum ? e->sum : part;

	if (sum != part) {
		struct vector v = {.count = e->plan->units[u].opt_elems,
				   .a = part->mem,
				   .a_type = DTYPE_F32,
				   .out = sum->mem,
				   .out_type = DTYPE_F32};

		vector_accumulate(e->comm_stream, &v);
		device_event_record(part->free, e->comm_stream);
	}
	e->sum = e->column + 1 < e->width ? sum : NULL;
	return e->sum ? NULL : sum;
}

int grad_end(struct engine *e, int u, struct err *err)
{
	struct grad_buffer *b = buffer_of(e, u);
	struct part_buffer *part = reduce(e, u, b);
	int rc;

	if (!unit_offloaded(e, (size_t)u)) {
		keep_on_device(e, u, part);
		return 0;
	}
	part = add_up(e, u, part);
	rc = part ? send_out(e, u, part, err) : 0;
	return rc < 0 ? rc : steps_prepare(e, (size_t)u, err);
}

/* Does a gradient that comes after unit u's go through the daemon's chunk buffers? */
static bool buffers_needed(const struct engine *e, size_t u)
{
	for (size_t i = 0; i < u && e->plan->accumulation > e->plan->micros; i++)
		if (e->plan->units[i].grad_spilled)
			return true;
	return false;
}

static uint64_t chunks_of(const struct engine *e, size_t u)
{
	return (e->plan->units[u].opt_elems + e->plan->chunk_elems - 1) / e->plan->chunk_elems;
}

/*
 * As far as buffers can reach, where all steps wait for the norm. Else steps of other units run
 * before, and keep PLAN_CHUNKS_LEAST for themselves.
 */
int steps_prepare(struct engine *e, size_t u, struct err *err)
{
	const struct plan *p = e->plan;
	uint64_t buffers = p->host.chunk_buffers, chunks = 0;

	if (e->prepared || e->wraps || buffers_needed(e, u))
		return 0;
	e->prepared = true;
	if (!clips(e))
		buffers -= buffers < PLAN_CHUNKS_LEAST ? buffers : PLAN_CHUNKS_LEAST;
	for (size_t i = 0; i < p->unit_count && chunks < buffers; i++) {
		struct protocol_submission op = {.op = PROTOCOL_OP_PREPARE};
		int rc;

		if (!unit_offloaded(e, i) || p->units[i].state_home != PROTOCOL_HOME_SWAP)
			continue;
		chunks += chunks_of(e, i);
		if (!clips(e) && chunks > buffers)
			break;
		op.unit = daemon_idx(e, (int)i);
		rc = engine_settle(e, &e->units[i].prepare_id, NULL, err);
		if (rc == 0)
			rc = client_submit(e->client, &op, &e->units[i].prepare_id, err);
		if (rc < 0)
			return err_add(err, "preparing the step of unit %zu", i);
	}
	return 0;
}

/* Waits for every gradient on its way to the daemon; with clipping their sums are known then. */
static int grads_settle(struct engine *e, struct err *err)
{
	for (size_t i = 0; i < e->plan->host.grad_slots; i++) {
		struct grad_slot *slot;
		int rc = grad_slot_take(e, &slot, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* The sums of squares of units on the device, blocks added in turn as the daemon does. */
static int sums_from_device(struct engine *e, struct err *err)
{
	for (size_t u = 0; u < e->plan->unit_count; u++) {
		size_t count = vector_blocks(e->plan->units[u].partition);
		double *blocks, sum = 0;
		int rc;

		if (unit_offloaded(e, u))
			continue;
		blocks = malloc(count * sizeof(*blocks));
		if (!blocks)
			return err_sys(err, -ENOMEM, "allocating a norm's partial sums");
		device_copy(e->comm_stream, blocks, e->units[u].blocks, count * sizeof(*blocks),
			    DEVICE_COPY_OUT);
		rc = device_stream_sync(e->comm_stream, err);
		for (size_t i = 0; rc == 0 && i < count; i++)
			sum += blocks[i];
		free(blocks);
		if (rc < 0)
			return rc;
		e->units[u].sumsq = sum;
	}
	return 0;
}

/* The global norm: every unit's sums in rank order, units in order. The same on every rank. */
static int global_norm(struct engine *e, double *ret, struct err *err)
{
	size_t units = e->plan->unit_count;
	double mine[NORM_BATCH], sum = 0;
	double *all = malloc(sizeof(mine) * e->world);
	int rc = 0;

	if (!all)
		return err_sys(err, -ENOMEM, "allocating the norms of all ranks");
	for (size_t first = 0; rc == 0 && first < units; first += NORM_BATCH) {
		size_t count = units - first < NORM_BATCH ? units - first : NORM_BATCH;

		for (size_t i = 0; i < count; i++)
			mine[i] = e->units[first + i].sumsq;
		rc = engine_exchange(e, mine, count * sizeof(mine[0]), all, err);
		for (size_t i = 0; rc == 0 && i < count; i++)
			for (unsigned r = 0; r < e->world; r++)
				sum += all[r * count + i];
	}
	free(all);
	if (rc < 0)
		return rc;
	*ret = sqrt(sum);
	if (!isfinite(*ret))
		return err_set(err, ERR_DATA, "step %llu: the gradient's norm is not finite",
			       (unsigned long long)e->step);
	return 0;
}

/* The daemon steps unit by unit, in the order in which the next forward wants them. */
static int steps_submit(struct engine *e, double scale, struct err *err)
{
	for (size_t u = 0; u < e->plan->unit_count; u++) {
		struct protocol_submission op = step_of(e, (int)u, scale);
		int rc;

		if (!unit_offloaded(e, u))
			continue;
		rc = engine_settle(e, &e->units[u].step_id, NULL, err);
		if (rc == 0)
			rc = client_submit(e->client, &op, &e->units[u].step_id, err);
		if (rc < 0)
			return err_add(err, "stepping unit %zu", u);
	}
	return 0;
}

/* The optimizer on the device for unit u, whose partition of parameters begins at `param`. */
static void optimize_on_device(struct engine *e, int u, void *param, double scale)
{
	const struct plan_unit *pu = &e->plan->units[u];
	const struct unit_state *s = &e->units[u];
	struct optimizer_hyper hyper = train_config_hyper(e->config);
	struct optimizer_step step = {.kind = hyper.kind,
				      .moments = hyper.moments,
				      .count = pu->opt_elems,
				      .decay_count = unit_decay(e, (size_t)u),
				      .position = unit_position(e, (size_t)u),
				      .grad = s->grad,
				      .grad_type = e->plan->grad_kept_type,
				      .param_type = e->plan->param_type,
				      .param = param,
				      .state = engine_state_at(e, s->state, pu->opt_elems, 0)};

	hyper.lr = e->lr;
	step.scalars = optimizer_scalars_make(&hyper, e->step, scale);
	optimizer_step(e->compute, &step);
}

/* The partition is all that ranks keep of the unit: nothing has to be gathered to step it. */
static int step_part(struct engine *e, int u, double scale, struct err *err)
{
	size_t bytes = e->plan->units[u].opt_elems * e->param_bytes;
	int slot, rc = unit_bring_part(e, u, &slot, err);

	if (rc < 0)
		return rc;
	unit_await(e, u, slot, e->compute);
	optimize_on_device(e, u, unit_mem(e, u, slot) + e->rank * bytes, scale);
	device_event_record(e->gather_slots[slot].ready, e->compute);
	return unit_write_back(e, u, slot, err);
}

/* Steps unit u where its parameters are, on the compute stream, and spreads the result. */
static int step_on_device(struct engine *e, int u, double scale, struct err *err)
{
	const struct plan_unit *pu = &e->plan->units[u];
	struct unit_state *s = &e->units[u];
	size_t bytes = pu->opt_elems * e->param_bytes;
	int slot = -1, rc;

	if (s->replica == REPLICA_PART) {
		optimize_on_device(e, u, s->mem, scale);
		device_event_record(s->replica_written, e->compute);
		return 0;
	}
	if (pu->param_elems < pu->padded)
		return step_part(e, u, scale, err);
	rc = unit_bring(e, u, &slot, err);
	if (rc < 0)
		return rc;
	unit_await(e, u, slot, e->compute);
	optimize_on_device(
		e, u, unit_mem(e, u, slot) + (pu->opt_elems < pu->padded ? e->rank * bytes : 0),
		scale);
	return unit_spread(e, u, slot, err);
}

int unit_spread(struct engine *e, int u, int slot, struct err *err)
{
	const struct plan_unit *pu = &e->plan->units[u];
	struct unit_state *s = &e->units[u];
	size_t bytes = pu->opt_elems * e->param_bytes;
	struct device_event *ready = slot < 0 ? s->replica_written : e->gather_slots[slot].ready;
	char *whole = unit_mem(e, u, slot);

	if (pu->opt_elems == pu->padded) {
		device_event_record(ready, e->compute);
	} else {
		device_event_record(e->phase_done, e->compute);
		device_stream_wait(e->comm_stream, e->phase_done);
		comm_all_gather(e->comm, e->comm_stream, whole, whole + e->rank * bytes, bytes);
		device_event_record(ready, e->comm_stream);
	}
	return slot < 0 ? 0 : unit_write_back(e, u, slot, err);
}

/* The scale of all gradients that clipping asks for, from the norm of them all. */
static int clip_scale(struct engine *e, double *ret_norm, double *ret_scale, struct err *err)
{
	int rc = grads_settle(e, err);

	if (rc == 0)
		rc = sums_from_device(e, err);
	if (rc == 0)
		rc = global_norm(e, ret_norm, err);
	if (rc == 0 && *ret_norm > e->config->optimizer.clip)
		*ret_scale = e->config->optimizer.clip / (*ret_norm + 1e-6);
	return rc;
}

/* Slots whose unit was stepped elsewhere hold it as of the step before. */
static void slots_drop_stale(struct engine *e)
{
	for (size_t i = 0; i < e->plan->device.gather_slots; i++) {
		int u = e->gather_slots[i].unit;

		if (u >= 0 && (unit_offloaded(e, (size_t)u) || e->units[u].replica == REPLICA_PART))
			e->gather_slots[i].unit = -1;
	}
}

int engine_step_end(struct engine *e, double *ret_norm, struct err *err)
{
	uint64_t began = trace_now_ns();
	double norm = 0, scale = 1;
	int rc;

	/* Invariant 4: what copy-out pushes is pushed before anything below is submitted. */
	rc = device_stream_sync(e->comm_stream, err);
	if (rc == 0)
		rc = device_stream_sync(e->copy_out, err);
	engine_waited(e, NULL, "gradients on their way", -1, began);
	if (rc < 0)
		return rc;
	if (clips(e) && (rc = clip_scale(e, &norm, &scale, err)) < 0)
		return rc;
	/* The daemon begins while the device steps what it has. */
	if (clips(e))
		rc = steps_submit(e, scale, err);
	for (size_t u = 0; rc == 0 && u < e->plan->unit_count; u++) {
		if (!unit_offloaded(e, u))
			rc = step_on_device(e, (int)u, scale, err);
		else if (e->units[u].replica != REPLICA_HOME)
			e->units[u].stale = true;
	}
	if (rc < 0)
		return rc;
	slots_drop_stale(e);
	device_event_record(e->mark_compute, e->compute);
	device_event_record(e->mark_comm, e->comm_stream);
	*ret_norm = norm;
	return 0;
}
