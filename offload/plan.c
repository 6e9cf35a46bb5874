/*
 * The plan: from a config and a model's shape to every size, count and offset of the job. Called by
 * the launcher for `--plan` and before a job starts, and by each worker again, from one thread; it
 * reads nothing of the host but the swap directories' free space, and so all of them get the same.
 *
 * Counts of buffers are settled by growing: each begins with the least that the engine runs with,
 * and while the budget has room they grow to what is wanted, in an order that puts first what hides
 * most.
 *
 * 1. Everything that the engine or the daemon allocates for the model is a term of a total here.
 * 2. total_bytes <= budget_bytes on both tiers, or there is no plan.
 * 3. Regions of the arena do not overlap, and every offset and slot is a multiple of
 *    PROTOCOL_ALIGN_BYTES: element counts are multiples of PROTOCOL_ALIGN_ELEMS, and the rest is
 *    rounded up here.
 * 4. A rank's numbers do not depend on the rank.
 */
#include "offload/plan.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/vector.h"
#include "nvme/nvme.h"
#include "offload/plan_internal.h"
#include "offload/protocol.h"

/*
 * What processes cost before they hold anything of the model: code, libraries, stacks, heaps, the
 * BLAS's packing buffers. Measured on Debian 12 as what a job's peak (tests/peak_memory.c) exceeds
 * the planned buffers by: 13 MiB with two workers, from models of 0.2 M to 300 M parameters.
 */
#define BASE_WORKER_BYTES   (5u << 20)
#define BASE_DAEMON_BYTES   (3u << 20)
#define BASE_LAUNCHER_BYTES (1u << 20)

/* Device memory for what has no size of its own: token ids, losses, norms; and a page of each rank
 * for engine_exchange, in and out. */
#define SMALL_BYTES    (64u << 10)
#define EXCHANGE_BYTES 4096u

/* The daemon's tasks, of which half may be read ahead, are fewer than twice this. */
#define CHUNK_BUFFERS_MAX 2048
#define AHEAD_UNITS       2 /* the embedding and the first block */

#define RING_SLOTS_MIN 256 /* operations in flight: a handful for each slot and buffer below */
/* One being stored, one being loaded, one being used; where stores and loads go on at once, as
 * they do with several micro-batches side by side, one more, which no load may take. */
#define ACT_SLOTS      3
#define TRANSFER_SLOTS 2 /* one with the daemon while the worker is at the other */

_Static_assert(PROTOCOL_ALIGN_BYTES == DEVICE_ALIGN && PROTOCOL_ALIGN_BYTES == NVME_ALIGN,
	       "one alignment serves all tiers");
_Static_assert(PROTOCOL_ALIGN_ELEMS % VECTOR_BLOCK == 0, "a partition must be whole norm blocks");

/* How many there are of a buffer: `least`, and up to `wanted` where the budget has room. */
struct knob {
	uint64_t *count;
	uint64_t bytes, wanted;
};

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
	return (value + multiple - 1) / multiple * multiple;
}

static uint64_t align(uint64_t bytes)
{
	return round_up(bytes, PROTOCOL_ALIGN_BYTES);
}

/* Lets counts grow, the first knob first, and returns the total that has grown with them. */
static uint64_t grow(const struct knob *knobs, size_t count, uint64_t total, uint64_t budget)
{
	for (size_t i = 0; i < count; i++) {
		const struct knob *k = &knobs[i];

		while (*k->count < k->wanted && total <= budget && k->bytes <= budget - total) {
			++*k->count;
			total += k->bytes;
		}
	}
	return total;
}

uint64_t plan_state_bytes(const struct plan *p, uint64_t elems)
{
	return optimizer_state_bytes(p->kind, p->moments, p->param_type, elems);
}

uint64_t plan_piece_elem_bytes(const struct plan *p)
{
	return (1 + optimizer_moment_count(p->kind)) * sizeof(float);
}

uint64_t plan_state_swap_bytes(const struct plan *p, uint64_t elems)
{
	return elems / p->chunk_elems * align(plan_state_bytes(p, p->chunk_elems)) +
	       align(plan_state_bytes(p, elems % p->chunk_elems));
}

/* What follows from the config alone: stage, types, and where what is not split lives. */
static int settings_plan(struct plan *p, const struct train_config *c, const struct conf_doc *doc,
			 struct err *err)
{
	int rc = train_config_accumulation(c, doc, p->world, &p->accumulation, err);

	if (rc == 0 && c->host.memory == CONF_AUTO)
		rc = err_set(err, ERR_INTERNAL, "host.memory is auto, and nobody has settled it");
	if (rc == 0 && (placement_is_auto(c->zero.offload_param) ||
			placement_is_auto(c->zero.offload_optimizer)))
		rc = err_set(err, ERR_INTERNAL, "a placement is auto, and nobody has settled it");
	if (rc < 0)
		return rc;
	p->micros = c->schedule.order == ORDER_LAYER ? p->accumulation : 1;
	p->stage = (unsigned)c->zero.stage;
	p->tokens = c->batch.micro * c->data.sequence;
	p->kind = (enum optimizer_kind)c->optimizer.type;
	p->moments = (enum optimizer_moments)c->optimizer.moments;
	p->place_activations = c->zero.offload_activations;
	p->param_type = c->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
	p->grad_type = p->accumulation > 1 ? DTYPE_F32 : p->param_type;
	p->grad_kept_type = p->grad_type;
	return 0;
}

/* Is a unit's gradient added to by more than one phase? */
static bool grad_shared(const struct arch *arch, size_t unit)
{
	size_t phases = 0;

	for (size_t i = 0; i < arch->train_count; i++)
		phases += arch->train[i].grad_unit == (int)unit;
	return phases > 1;
}

static void units_plan(struct plan *p, const struct arch *arch)
{
	uint64_t position = 0;

	for (size_t i = 0; i < p->unit_count; i++) {
		struct plan_unit *u = &p->units[i];

		u->elems = arch->units[i].elems;
		u->padded = round_up(u->elems, (uint64_t)p->world * PROTOCOL_ALIGN_ELEMS);
		u->partition = u->padded / p->world;
		u->opt_elems = p->stage >= 1 ? u->partition : u->padded;
		u->param_elems = p->stage == 3 ? u->partition : u->padded;
		u->grad_shared = grad_shared(arch, i);
		u->position = position;
		position += round_up(u->elems, PROTOCOL_ALIGN_ELEMS);
	}
}

/* The largest of every kind, which sizes the buffers that all units share. */
struct largest {
	uint64_t padded, grad_alone, opt;
	uint64_t daemon_opt; /* of the daemon's units */
	uint64_t swapped;    /* of what a fetch or a store moves between swap and arena */
};

static struct largest largest_of(const struct plan *p)
{
	struct largest l = {0};

	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];

		l.padded = max_u64(l.padded, u->padded);
		l.opt = max_u64(l.opt, u->opt_elems);
		if (plan_unit_offloaded(u))
			l.daemon_opt = max_u64(l.daemon_opt, u->opt_elems);
		if (u->param_home == PROTOCOL_HOME_SWAP)
			l.swapped = max_u64(l.swapped, u->opt_elems);
		if (u->param_blob && u->place_param == PLACE_NVME)
			l.swapped = max_u64(l.swapped, u->param_elems);
		if (!u->grad_shared)
			l.grad_alone = max_u64(l.grad_alone, u->padded);
	}
	return l;
}

/* A chunk's state is at most an extent, so that one transfer moves it; or one aligned run. */
static void chunk_plan(struct plan *p, const struct train_config *c)
{
	uint64_t elems =
		c->nvme.extent / plan_state_bytes(p, PROTOCOL_ALIGN_ELEMS) * PROTOCOL_ALIGN_ELEMS;

	elems = max_u64(elems, PROTOCOL_ALIGN_ELEMS);
	p->chunk_elems = min_u64(elems, largest_of(p).opt);
}

/* The sums over units of what stays on the device between uses. */
static void device_resident(struct plan *p)
{
	struct plan_device *d = &p->device;

	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];

		if (u->place_param == PLACE_NONE)
			d->param_bytes += align(u->param_elems * dtype_bytes(p->param_type));
		if (!plan_unit_offloaded(u)) {
			d->state_bytes += align(plan_state_bytes(p, u->opt_elems));
			d->grad_bytes += align(u->opt_elems * dtype_bytes(p->grad_kept_type));
			d->norm_bytes += align(vector_blocks(u->opt_elems) * sizeof(double));
		}
		if (u->grad_shared)
			d->grad_shared_bytes += p->micros * align(u->padded * sizeof(float));
	}
}

static void device_buffers(struct plan *p, const struct arch *arch)
{
	const struct largest l = largest_of(p);
	struct plan_device *d = &p->device;

	if (p->stage == 3 || p->param[PLACE_NONE].units < p->unit_count)
		d->gather_slot_bytes = align(l.padded * dtype_bytes(p->param_type));
	d->grad_buffer_bytes = align(l.grad_alone * sizeof(float));
	d->part_bytes = align(l.opt * sizeof(float));
	if (p->grad_type == DTYPE_BF16)
		d->part_cast_bytes = align(l.opt * dtype_bytes(DTYPE_BF16));
	d->act_bytes = align(arch->act_bytes);
	d->carry_bytes = align(arch->carry_bytes);
	d->workspace_bytes = align(arch->workspace_bytes);
	d->kept_bytes = p->micros * align(arch->kept_bytes);
	d->small_bytes = SMALL_BYTES + EXCHANGE_BYTES * (1 + (uint64_t)p->world);
}

static uint64_t device_total(const struct plan *p)
{
	const struct plan_device *d = &p->device;

	return d->gather_slots * d->gather_slot_bytes + d->param_bytes + d->state_bytes +
	       d->grad_bytes + d->norm_bytes + d->grad_buffers * d->grad_buffer_bytes +
	       d->grad_shared_bytes + d->part_buffers * (d->part_bytes + d->part_cast_bytes) +
	       d->act_buffers * d->act_bytes + p->micros * d->carry_bytes + d->workspace_bytes +
	       d->kept_blocks * d->kept_bytes + d->small_bytes + d->own_bytes;
}

/*
 * What a second buffer hides, the most first: a gather slot hides the way of a whole unit from disk
 * over the host and the ranks behind the compute of the one before; a gradient buffer hides a
 * reduction among ranks; an activation buffer a copy; a part buffer the copy of a partition,
 * 1/world of a unit. Where several micro-batches go side by side, their sum takes up a part buffer
 * more until it leaves for the daemon. What is left keeps blocks from being recomputed, each of
 * which saves a quarter of its own compute.
 */
static int device_plan(struct plan *p, const struct train_config *c, const struct arch *arch)
{
	struct plan_device *d = &p->device;
	const bool acts_stay = p->place_activations == PLACE_NONE;
	const uint64_t sums = p->micros > 1 && p->daemon_units ? 1 : 0;

	d->budget_bytes = c->device.memory;
	device_resident(p);
	device_buffers(p, arch);
	d->own_bytes = device_own_bytes((enum device_type)c->device.type);
	d->gather_slots = d->gather_slot_bytes ? 1 : 0;
	d->grad_buffers = d->grad_buffer_bytes ? 1 : 0;
	d->part_buffers = sums + 1;
	d->act_buffers = acts_stay ? p->act_count : min_u64(2, p->act_count);
	d->least_bytes = d->total_bytes = device_total(p);
	if (d->least_bytes > d->budget_bytes)
		return -ENOSPC;

	const struct knob knobs[] = {
		{&d->gather_slots, d->gather_slot_bytes, 2 * d->gather_slots},
		{&d->grad_buffers, d->grad_buffer_bytes, 2 * d->grad_buffers},
		{&d->act_buffers, d->act_bytes,
		 acts_stay ? p->act_count : min_u64(3, p->act_count)},
		{&d->part_buffers, d->part_bytes + d->part_cast_bytes, sums + 2},
		{&d->kept_blocks, d->kept_bytes, arch->kept_max},
	};

	d->total_bytes =
		grow(knobs, sizeof(knobs) / sizeof(knobs[0]), d->total_bytes, d->budget_bytes);
	assert(d->total_bytes == device_total(p));
	return 0;
}

struct plan_order plan_order_cost(const struct plan *p)
{
	const struct plan_device *d = &p->device;
	const struct plan_host *h = &p->host;
	const uint64_t more = p->micros - 1, acts = p->act_count / p->micros;
	const bool sums = more && p->daemon_units, slots = more && h->act_slots;
	struct plan_order cost = {
		.device_bytes = more * (d->carry_bytes + d->grad_shared_bytes / p->micros) +
				(sums ? d->part_bytes + d->part_cast_bytes : 0),
		.host_bytes =
			more * h->act_region_bytes / p->micros + (slots ? h->act_slot_bytes : 0),
		.swap_bytes = more * p->swap.act_bytes / p->micros,
	};

	if (p->place_activations == PLACE_NONE)
		cost.device_bytes += more * acts * d->act_bytes;
	return cost;
}

/* Sizes in the arena and of the daemon's own, but for what depends on counts. */
static void host_sizes(struct plan *p)
{
	const struct largest l = largest_of(p);
	struct plan_host *h = &p->host;

	/* The engine keeps a STEP and a STORE of every unit in flight at most, beside those. */
	h->ring_slots = RING_SLOTS_MIN;
	while (h->ring_slots < 2 * p->unit_count + RING_SLOTS_MIN / 2)
		h->ring_slots *= 2;
	h->fetch_slot_bytes = align(l.swapped * dtype_bytes(p->param_type));
	if (p->place_activations != PLACE_NONE)
		h->act_slot_bytes = p->device.act_bytes;
	if (p->place_activations == PLACE_CPU)
		h->act_region_bytes = p->act_count * h->act_slot_bytes;
	if (p->place_activations == PLACE_NVME)
		h->act_slots = ACT_SLOTS + (p->micros > 1);
	if (!p->daemon_units)
		return;
	h->grad_slot_bytes = align(l.daemon_opt * dtype_bytes(p->grad_type));
	h->transfer_slots = TRANSFER_SLOTS;
	h->transfer_slot_bytes = align(p->chunk_elems * plan_piece_elem_bytes(p));
}

/* Where parameters lie in the arena, and the sum of the daemon's state in memory. */
static void host_params(struct plan *p)
{
	const uint64_t param = dtype_bytes(p->param_type);
	struct plan_host *h = &p->host;

	for (size_t i = 0; i < p->unit_count; i++) {
		struct plan_unit *u = &p->units[i];

		if (u->state_home == PROTOCOL_HOME_MEMORY)
			h->state_bytes += align(plan_state_bytes(p, u->opt_elems));
		if (u->param_home != PROTOCOL_HOME_MEMORY)
			continue;
		u->param_home_offset = h->param_bytes;
		h->param_bytes += align(u->opt_elems * param);
	}
	for (size_t i = 0; i < p->unit_count; i++) {
		struct plan_unit *u = &p->units[i];

		if (!u->param_blob || u->place_param != PLACE_CPU)
			continue;
		u->param_blob_offset = h->param_bytes;
		h->param_bytes += align(u->param_elems * param);
	}
}

/* Regions of the arena, one behind the other; returns where they end. */
static uint64_t arena_layout(struct plan_host *h)
{
	h->param_offset = 0;
	h->act_offset = h->param_offset + h->param_bytes;
	h->fetch_offset = h->act_offset + h->act_region_bytes;
	h->grad_offset = h->fetch_offset + h->fetch_slots * h->fetch_slot_bytes;
	h->act_slot_offset = h->grad_offset + h->grad_slots * h->grad_slot_bytes;
	h->transfer_offset = h->act_slot_offset + h->act_slots * h->act_slot_bytes;
	return h->transfer_offset + h->transfer_slots * h->transfer_slot_bytes;
}

static uint64_t host_total(struct plan_host *h)
{
	h->data_bytes = arena_layout(h);
	h->arena_bytes = protocol_data_offset((uint32_t)h->ring_slots) + h->data_bytes;
	return h->arena_bytes + h->state_bytes + h->grad_bytes +
	       h->chunk_buffers * h->chunk_buffer_bytes;
}

/* What the daemon keeps of a gradient of its unit. */
static uint64_t grad_unit_bytes(const struct plan *p, const struct plan_unit *u)
{
	if (!p->grad_kept || !plan_unit_offloaded(u))
		return 0;
	return align(u->opt_elems * dtype_bytes(p->grad_kept_type));
}

/*
 * Keeps what gradients fit into `room`, in unit order, and spills the others. Returns the bytes
 * kept; *ret_spilled tells whether there are others.
 */
static uint64_t gradients_keep(struct plan *p, uint64_t room, bool *ret_spilled)
{
	uint64_t kept = 0;

	*ret_spilled = false;
	for (size_t i = 0; i < p->unit_count; i++) {
		struct plan_unit *u = &p->units[i];
		uint64_t bytes = grad_unit_bytes(p, u);

		u->grad_spilled = bytes > room - kept;
		*ret_spilled |= u->grad_spilled;
		if (!u->grad_spilled)
			kept += bytes;
	}
	return kept;
}

static uint64_t gradients_all(const struct plan *p)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < p->unit_count; i++)
		bytes += grad_unit_bytes(p, &p->units[i]);
	return bytes;
}

/* Is any unit's state, or parameters, the daemon's and in swap? */
static bool state_in_swap(const struct plan *p)
{
	for (size_t i = 0; i < p->unit_count; i++)
		if (p->units[i].state_home == PROTOCOL_HOME_SWAP)
			return true;
	return false;
}

static bool params_in_swap(const struct plan *p)
{
	for (size_t i = 0; i < p->unit_count; i++)
		if (p->units[i].param_home == PROTOCOL_HOME_SWAP)
			return true;
	return false;
}

/* A buffer has room for whatever of a chunk is on disk in any of the daemon's units. */
static uint64_t chunk_bytes(const struct plan *p, bool spills)
{
	uint64_t bytes = 0;

	if (state_in_swap(p))
		bytes += align(plan_state_bytes(p, p->chunk_elems));
	if (params_in_swap(p))
		bytes += align(p->chunk_elems * dtype_bytes(p->param_type));
	if (spills)
		bytes += align(p->chunk_elems * dtype_bytes(p->grad_kept_type));
	return bytes;
}

/* Every count at its minimum; gradients all on disk when they spill, else all in memory. */
static void host_least(struct plan *p, bool spills)
{
	struct plan_host *h = &p->host;

	h->fetch_slots = h->fetch_slot_bytes ? 1 : 0;
	h->grad_slots = h->grad_slot_bytes ? 1 : 0;
	h->chunk_buffer_bytes = chunk_bytes(p, spills);
	h->chunk_buffers = h->chunk_buffer_bytes ? 3 : 0;
	h->grad_bytes = spills ? 0 : gradients_all(p);
	h->least_bytes = host_total(h);
}

/*
 * What makes a pipeline at all: a fetch while another is on its way to the device, a gradient
 * leaving while the next comes in, four chunks so that a read, a step and a write go on while one
 * changes hands. Returns whether there was room for all of it.
 */
static bool host_pipeline(struct plan *p, uint64_t *ret_total)
{
	struct plan_host *h = &p->host;
	const struct knob knobs[] = {
		{&h->fetch_slots, h->fetch_slot_bytes, 2 * h->fetch_slots},
		{&h->grad_slots, h->grad_slot_bytes, 2 * h->grad_slots},
		{&h->chunk_buffers, h->chunk_buffer_bytes,
		 h->chunk_buffers ? PLAN_CHUNKS_LEAST : 0},
	};
	const size_t count = sizeof(knobs) / sizeof(knobs[0]);

	*ret_total = grow(knobs, count, h->least_bytes, h->budget_bytes);
	for (size_t i = 0; i < count; i++)
		if (*knobs[i].count < knobs[i].wanted)
			return false;
	return h->least_bytes <= h->budget_bytes;
}

/* Gradients may spill: the least, the pipeline, then gradients while there is room for another. */
static void host_spill(struct plan *p)
{
	struct plan_host *h = &p->host;
	uint64_t total;
	bool spilled;

	host_least(p, true);
	host_pipeline(p, &total);
	if (h->least_bytes > h->budget_bytes)
		return;
	h->grad_bytes = gradients_keep(p, h->budget_bytes - total, &spilled);
	if (!spilled)
		h->chunk_buffer_bytes = chunk_bytes(p, false);
}

/*
 * Where each STEP could bring its gradient, backward would wait for the disk at every unit: the
 * gradient's slot is free when the step is over. With what memory is left gradients wait for their
 * steps with the daemon instead, and steps go on under the next forward. Backward comes to the last
 * unit first and forward needs it last, so its step is the first that is put off.
 */
static void gradients_wait(struct plan *p)
{
	struct plan_host *h = &p->host;
	uint64_t room = h->budget_bytes - host_total(h);

	for (size_t i = p->unit_count; !p->grad_kept && i-- > 0;) {
		struct plan_unit *u = &p->units[i];
		uint64_t bytes = align(u->opt_elems * dtype_bytes(p->grad_kept_type));

		u->grad_waits = u->state_home == PROTOCOL_HOME_SWAP && bytes <= room;
		if (u->grad_waits) {
			h->grad_bytes += bytes;
			room -= bytes;
		}
	}
}

/*
 * Chunk buffers to read ahead into. Where all steps wait for the norm, the disk has nothing else to
 * do for them during backward: the more is there when the norm is known the better. Where none is
 * needed, the next forward waits for the last steps of backward alone, those of the first units.
 * All other memory does more for a step, so that this gets what is left.
 */
static void chunks_ahead(struct plan *p, const struct train_config *c)
{
	struct plan_host *h = &p->host;
	struct knob ahead = {&h->chunk_buffers, h->chunk_buffer_bytes, h->chunk_buffers};
	size_t units = c->optimizer.clip > 0 ? p->unit_count : AHEAD_UNITS;
	uint64_t chunks = 0;

	for (size_t i = 0; i < p->unit_count && units > 0; i++) {
		if (p->units[i].state_home != PROTOCOL_HOME_SWAP)
			continue;
		chunks += (p->units[i].opt_elems + p->chunk_elems - 1) / p->chunk_elems;
		units--;
	}
	ahead.wanted = min_u64(h->chunk_buffers + chunks, CHUNK_BUFFERS_MAX);
	if (chunks > 0)
		grow(&ahead, 1, host_total(h), h->budget_bytes);
}

/*
 * The pipeline comes before gradients: without it everything waits. Then gradients, in unit order:
 * one in memory saves writing and reading it in every step, and units are stepped in that order,
 * with the next forward waiting for the first of them. Last further fetch slots: bytes that do not
 * move beat bytes that move early.
 *
 * Where nothing else of the units is on disk, spilling is the last resort, for when gradients do
 * not fit beside the least of the rest: it brings the disk into a step that has none.
 */
int plan_host(struct plan *p, const struct train_config *c)
{
	struct plan_host *h = &p->host;
	struct knob further = {&h->fetch_slots, .wanted = c->zero.prefetch + 1};
	uint64_t total, whole;
	bool complete;

	*h = (struct plan_host){0};
	for (size_t i = 0; i < p->unit_count; i++)
		p->units[i].grad_spilled = false;
	p->host_budget_bytes = c->host.memory;
	h->budget_bytes = c->host.memory / p->ranks_per_host;
	if (!p->needs_daemon)
		return 0;
	host_sizes(p);
	host_params(p);
	host_least(p, false);
	complete = host_pipeline(p, &total);
	whole = h->least_bytes;
	if (p->grad_kept && c->nvme.paths.count &&
	    (state_in_swap(p) || params_in_swap(p) ? !complete : whole > h->budget_bytes))
		host_spill(p);
	/* Chunk buffers for gradients on disk may take more than all gradients do in memory. */
	if (h->least_bytes > h->budget_bytes && whole < h->least_bytes) {
		host_least(p, false);
		host_pipeline(p, &total);
	}
	if (h->least_bytes > h->budget_bytes)
		return -ENOSPC;
	further.bytes = h->fetch_slot_bytes;
	if (h->fetch_slots)
		grow(&further, 1, host_total(h), h->budget_bytes);
	gradients_wait(p);
	chunks_ahead(p, c);
	h->total_bytes = host_total(h);
	assert(h->total_bytes <= h->budget_bytes);
	return 0;
}

bool plan_host_flows(const struct plan *p)
{
	const struct plan_host *h = &p->host;

	return (!h->fetch_slot_bytes || h->fetch_slots >= 2) &&
	       (!h->grad_slot_bytes || h->grad_slots >= 2) &&
	       (!h->chunk_buffer_bytes || h->chunk_buffers >= PLAN_CHUNKS_LEAST);
}

static int blobs_plan(struct plan *p, const struct conf_doc *doc, struct err *err)
{
	const bool acts = p->place_activations == PLACE_NVME;
	const uint64_t param = dtype_bytes(p->param_type);

	p->blob_count = p->act_blob_first + (acts ? p->act_count : 0);
	if (p->unit_count > PROTOCOL_UNITS_MAX || p->blob_count > PROTOCOL_BLOBS_MAX)
		return conf_error(doc, p->micros > 1 ? "schedule.order" : "model.layers", err,
				  "%zu units and %zu pieces on disk, expected at most %u and %u",
				  p->unit_count, p->blob_count, PROTOCOL_UNITS_MAX,
				  PROTOCOL_BLOBS_MAX);
	p->blobs = calloc(p->blob_count + 1, sizeof(*p->blobs));
	if (!p->blobs)
		return err_sys(err, -ENOMEM, "planning");
	for (size_t i = 0; i < p->unit_count; i++)
		if (p->units[i].param_blob && p->units[i].place_param == PLACE_NVME)
			p->blobs[p->units[i].blob_idx] = align(p->units[i].param_elems * param);
	for (size_t n = p->act_blob_first; n < p->blob_count; n++)
		p->blobs[n] = p->device.act_bytes;
	return 0;
}

/* What the plan is for, when every part is in: all processes of a host. */
static void totals_plan(struct plan *p, bool cuda)
{
	/* The cpu device's memory is the host's. */
	uint64_t device_bytes = cuda ? 0 : p->device.total_bytes;

	p->comm_bytes = comm_used_bytes(cuda ? COMM_NCCL : COMM_SHM, p->world);
	p->base_worker_bytes = BASE_WORKER_BYTES;
	p->base_daemon_bytes = p->needs_daemon ? BASE_DAEMON_BYTES : 0;
	p->base_launcher_bytes = BASE_LAUNCHER_BYTES;
	p->host_peak_bytes =
		p->ranks_per_host * (device_bytes + p->host.total_bytes + p->base_worker_bytes) +
		p->base_daemon_bytes + p->base_launcher_bytes + p->comm_bytes;
}

/* -ENOSPC, without a text: the least of a tier is more than its budget. */
static int plan_fill(struct plan *p, const struct train_config *c, const struct conf_doc *doc,
		     const struct arch *arch, struct err *err)
{
	int rc;

	p->unit_count = arch->unit_count;
	p->params = arch->params;
	p->units = calloc(p->unit_count, sizeof(*p->units));
	if (!p->units)
		return err_sys(err, -ENOMEM, "planning");
	rc = settings_plan(p, c, doc, err);
	if (rc < 0)
		return rc;
	p->act_count = arch->act_count * p->micros;
	units_plan(p, arch);
	plan_place(p, c);
	chunk_plan(p, c);
	if ((rc = device_plan(p, c, arch)) < 0 || (rc = plan_host(p, c)) < 0)
		return rc;
	if (c->host.automatic)
		rc = plan_cache(p, c, arch, err);
	if (rc == 0)
		rc = blobs_plan(p, doc, err);
	if (rc < 0)
		return rc;
	p->prefetch = p->host.fetch_slots ? p->host.fetch_slots - 1 : c->zero.prefetch;
	rc = plan_swap_fill(p, c, arch, err);
	if (rc < 0)
		return rc;
	p->needs_swap = p->swap.total_bytes > 0;
	totals_plan(p, c->device.type == DEVICE_CUDA);
	return plan_swap_check(p, c, doc, err);
}

static struct plan *plan_open(unsigned world)
{
	struct plan *p = calloc(1, sizeof(*p));

	if (p)
		p->world = p->ranks_per_host = world;
	return p;
}

bool plan_fits(const struct train_config *config, const struct conf_doc *doc,
	       const struct arch *arch, unsigned world)
{
	struct plan *p = plan_open(world);
	struct err why = {0};
	bool fits = p && plan_fill(p, config, doc, arch, &why) == 0;

	plan_free(p);
	return fits;
}

int plan_make(const struct train_config *config, const struct conf_doc *doc,
	      const struct arch *arch, unsigned world, struct plan **ret, struct err *err)
{
	struct plan *p = plan_open(world);
	int rc;

	if (!p)
		return err_sys(err, -ENOMEM, "planning");
	rc = plan_fill(p, config, doc, arch, err);
	if (rc == -ENOSPC)
		rc = plan_refuse(p, config, doc, arch, err);
	if (rc < 0) {
		plan_free(p);
		return rc;
	}
	*ret = p;
	return 0;
}

struct plan *plan_free(struct plan *p)
{
	if (!p)
		return NULL;
	free(p->units);
	free(p->blobs);
	free(p);
	return NULL;
}
