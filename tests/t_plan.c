/*
 * The planner: what it promises is consistent, fits its budgets to the byte, and is refused with
 * figures when it cannot fit.
 *
 * Method. Every placement of parameters, optimizer and activations, times every stage, several
 * world sizes, both precisions, with and without accumulation: regions of the arena must tile it
 * without overlap, state must be somewhere exactly once, and totals must be the sums of their parts
 * as counted here. Then budgets are set exactly at a plan's size, a byte below, and between.
 * Traffic is compared with figures worked out by hand. Allocation k fails for k = 1, 2, ... until
 * none does.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "kernels/vector.h"
#include "offload/plan.h"
#include "offload/protocol.h"
#include "tests/plan_bed.h"

#define MiB (UINT64_C(1) << 20)
#define GiB (UINT64_C(1) << 30)

/* Counts down to the allocation that fails; 0: none does. */
static unsigned calloc_fails;

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
	if (calloc_fails && --calloc_fails == 0)
		return NULL;
	return __real_calloc(count, size);
}

/* Regions of an arena must follow each other without gap or overlap, each aligned. */
static void tile(uint64_t *at, uint64_t offset, uint64_t bytes)
{
	ck_assert_uint_eq(offset, *at);
	ck_assert_uint_eq(offset % PROTOCOL_ALIGN_BYTES, 0);
	ck_assert_uint_eq(bytes % PROTOCOL_ALIGN_BYTES, 0);
	*at += bytes;
}

static void check_units(const struct plan *p, const struct arch *arch)
{
	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];

		ck_assert_uint_eq(u->elems, arch->units[i].elems);
		ck_assert(u->padded >= u->elems &&
			  u->padded < u->elems + p->world * PROTOCOL_ALIGN_ELEMS);
		ck_assert_uint_eq(u->partition * p->world, u->padded);
		ck_assert_uint_eq(u->partition % PROTOCOL_ALIGN_ELEMS, 0);
		ck_assert_uint_eq(u->opt_elems, p->stage >= 1 ? u->partition : u->padded);
		ck_assert_uint_eq(u->param_elems, p->stage == 3 ? u->partition : u->padded);
		ck_assert(u->grad_shared == (i == 0)); /* the tied table */
	}
}

static void check_arena(const struct plan *p)
{
	const struct plan_host *h = &p->host;
	const uint64_t param = dtype_bytes(p->param_type);
	uint64_t at = 0;

	for (size_t i = 0; i < p->unit_count; i++)
		if (p->units[i].param_home == PROTOCOL_HOME_MEMORY)
			tile(&at, p->units[i].param_home_offset, p->units[i].opt_elems * param);
	for (size_t i = 0; i < p->unit_count; i++)
		if (p->units[i].param_blob && p->units[i].place_param == PLACE_CPU)
			tile(&at, p->units[i].param_blob_offset, p->units[i].param_elems * param);
	ck_assert_uint_eq(at, h->param_bytes);
	tile(&at, h->act_offset, h->act_region_bytes);
	tile(&at, h->fetch_offset, h->fetch_slots * h->fetch_slot_bytes);
	tile(&at, h->grad_offset, h->grad_slots * h->grad_slot_bytes);
	tile(&at, h->act_slot_offset, h->act_slots * h->act_slot_bytes);
	tile(&at, h->transfer_offset, h->transfer_slots * h->transfer_slot_bytes);
	ck_assert_uint_eq(at, h->data_bytes);
	if (!p->needs_daemon) {
		ck_assert_uint_eq(h->total_bytes, 0);
		return;
	}
	ck_assert_uint_eq(h->arena_bytes,
			  protocol_data_offset((uint32_t)h->ring_slots) + h->data_bytes);
	ck_assert_uint_eq(h->total_bytes, h->arena_bytes + h->state_bytes + h->grad_bytes +
						  h->chunk_buffers * h->chunk_buffer_bytes);
	ck_assert_uint_le(h->total_bytes, h->budget_bytes);
}

static void check_device(const struct plan *p)
{
	const struct plan_device *d = &p->device;

	ck_assert_uint_eq(d->total_bytes,
			  d->gather_slots * d->gather_slot_bytes + d->param_bytes + d->state_bytes +
				  d->grad_bytes + d->norm_bytes +
				  d->grad_buffers * d->grad_buffer_bytes + d->grad_shared_bytes +
				  d->part_buffers * (d->part_bytes + d->part_cast_bytes) +
				  d->act_buffers * d->act_bytes + p->micros * d->carry_bytes +
				  d->workspace_bytes + d->kept_blocks * d->kept_bytes +
				  d->small_bytes + d->own_bytes);
	ck_assert_uint_le(d->total_bytes, d->budget_bytes);
	ck_assert((d->gather_slots == 0) ==
		  (p->stage < 3 && p->param[PLACE_NONE].units == p->unit_count));
	ck_assert((d->part_cast_bytes > 0) == (p->grad_type == DTYPE_BF16));
	ck_assert_uint_eq(d->act_buffers, p->place_activations == PLACE_NONE ? p->act_count : 3);
}

/* What all units together have on each tier. */
struct held {
	uint64_t opt[PLACE_COUNT], units[PLACE_COUNT];
	uint64_t param; /* between uses */
	uint64_t param_at[PLACE_COUNT], param_units[PLACE_COUNT];
	uint64_t homes; /* the optimizer's own copies, apart from what phases read */
	uint64_t kept;  /* gradients with the daemon */
	size_t blobs, daemon;
	bool state_swap, param_swap; /* of the daemon's units */
};

static struct held held_by(const struct plan *p)
{
	struct held h = {.param = 0};

	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];
		const bool offloaded = u->place_optimizer != PLACE_NONE;
		const bool is_home = offloaded && p->stage == 3 && u->place_param != PLACE_NONE;

		h.opt[u->place_optimizer] += u->opt_elems;
		if (offloaded && plan_unit_grad_kept(p, u))
			h.kept += u->opt_elems;
		/* What could leave with its step waits in memory for a disk only. */
		ck_assert(!u->grad_waits || (!p->grad_kept && u->place_optimizer == PLACE_NVME));
		h.units[u->place_optimizer]++;
		h.param += u->param_elems;
		h.param_at[u->place_param] += u->param_elems;
		h.param_units[u->place_param]++;
		if (offloaded) {
			ck_assert_uint_eq(u->daemon_idx, h.daemon);
			h.daemon++;
		}
		if (offloaded && !is_home)
			h.homes += u->opt_elems;
		/* Parameters that phases read are on the device, a home, or the worker's own. */
		ck_assert(u->param_blob == (u->place_param != PLACE_NONE && !is_home));
		ck_assert((u->param_home == PROTOCOL_HOME_NONE) == !offloaded);
		ck_assert((u->state_home == PROTOCOL_HOME_SWAP) ==
			  (u->place_optimizer == PLACE_NVME));
		if (u->param_blob && u->place_param == PLACE_NVME) {
			ck_assert_uint_eq(u->blob_idx, h.blobs);
			ck_assert_uint_eq(p->blobs[h.blobs],
					  u->param_elems * dtype_bytes(p->param_type));
			h.blobs++;
		}
		h.state_swap |= u->state_home == PROTOCOL_HOME_SWAP;
		h.param_swap |= u->param_home == PROTOCOL_HOME_SWAP;
	}
	return h;
}

/* State, and parameters between uses, are in one place; gradients wait in one. */
static void check_places(const struct plan *p, const struct train_config *c)
{
	const struct held h = held_by(p);
	const uint64_t param = dtype_bytes(p->param_type), grad = dtype_bytes(p->grad_type);
	const bool waits = c->optimizer.clip > 0 || p->accumulation > p->micros;

	ck_assert_uint_eq(p->device.state_bytes, plan_state_bytes(p, h.opt[PLACE_NONE]));
	ck_assert_uint_eq(p->host.state_bytes, plan_state_bytes(p, h.opt[PLACE_CPU]));
	ck_assert_uint_eq(p->swap.state_bytes, plan_state_bytes(p, h.opt[PLACE_NVME]));
	ck_assert_uint_eq(p->device.param_bytes + p->host.param_bytes + p->swap.param_bytes,
			  (h.param + h.homes) * param);
	ck_assert_uint_eq(p->device.param_bytes, h.param_at[PLACE_NONE] * param);
	ck_assert(p->grad_kept == (h.daemon && waits));
	ck_assert_uint_eq(p->device.grad_bytes, h.opt[PLACE_NONE] * grad);
	ck_assert_uint_eq(p->host.grad_bytes + p->swap.grad_bytes, h.kept * grad);
	ck_assert(!waits || h.kept == h.opt[PLACE_CPU] + h.opt[PLACE_NVME]);
	ck_assert_uint_eq(p->daemon_units, h.daemon);
	ck_assert_uint_eq(p->swap.act_bytes, p->place_activations == PLACE_NVME
						     ? p->act_count * p->device.act_bytes
						     : 0);
	ck_assert_uint_eq(p->host.act_region_bytes, p->place_activations == PLACE_CPU
							    ? p->act_count * p->device.act_bytes
							    : 0);
}

/* The shares that the plan states are those of its units, near to what was asked. */
static void check_split(const struct plan_share *shares, const double *asked, const uint64_t *elems,
			const uint64_t *units, uint64_t block)
{
	uint64_t all = elems[PLACE_NONE] + elems[PLACE_CPU] + elems[PLACE_NVME];

	for (int place = 0; place < PLACE_COUNT; place++) {
		const struct plan_share *s = &shares[place];
		double off = s->asked - s->placed;

		ck_assert(s->asked == asked[place]);
		ck_assert_uint_eq(s->elems, elems[place]);
		ck_assert_uint_eq(s->units, units[place]);
		ck_assert_double_eq_tol(s->placed, (double)elems[place] / (double)all, 1e-12);
		ck_assert(s->asked > 0 || s->units == 0);
		ck_assert_msg(off * off <= 1.0 * block * block / ((double)all * (double)all),
			      "tier %d: asked %g, has %g", place, s->asked, s->placed);
	}
}

static void check_shares(const struct plan *p, const struct train_config *c)
{
	const struct plan_unit *last = &p->units[p->unit_count - 1];
	const struct held h = held_by(p);

	check_split(p->optimizer, c->zero.offload_optimizer, h.opt, h.units, last->opt_elems);
	check_split(p->param, c->zero.offload_param, h.param_at, h.param_units, last->param_elems);
}

static void check_rest(const struct plan *p, const struct train_config *c)
{
	const struct held h = held_by(p);
	const bool nvme = h.param_units[PLACE_NVME] || h.units[PLACE_NVME] ||
			  p->place_activations == PLACE_NVME;
	uint64_t bytes = 0;

	ck_assert(p->needs_swap == nvme);
	ck_assert(p->needs_swap == (p->swap.total_bytes > 0));
	ck_assert_uint_eq(p->host.chunk_buffer_bytes,
			  (h.state_swap ? plan_state_bytes(p, p->chunk_elems) : 0) +
				  (h.param_swap ? p->chunk_elems * dtype_bytes(p->param_type) : 0));
	/* More only to read ahead of steps. */
	if (h.state_swap)
		ck_assert_uint_ge(p->host.chunk_buffers, 4);
	else
		ck_assert_uint_eq(p->host.chunk_buffers, h.state_swap || h.param_swap ? 4 : 0);
	ck_assert_uint_eq(p->prefetch, c->zero.prefetch);
	ck_assert_uint_eq(p->chunk_elems % PROTOCOL_ALIGN_ELEMS, 0);
	ck_assert_uint_le(plan_state_bytes(p, p->chunk_elems), c->nvme.extent);
	ck_assert_uint_gt(p->chunk_elems, 0);
	for (size_t i = 0; i < p->blob_count; i++) {
		ck_assert_uint_eq(p->blobs[i] % PROTOCOL_ALIGN_BYTES, 0);
		bytes += p->blobs[i];
	}
	ck_assert_uint_eq(p->blob_count - p->act_blob_first,
			  p->place_activations == PLACE_NVME ? p->act_count : 0);
	ck_assert_uint_eq(p->act_blob_first, h.blobs);
	ck_assert_uint_le(bytes, p->swap.total_bytes);
	ck_assert_uint_eq(
		p->host_peak_bytes,
		p->world * (p->device.total_bytes + p->host.total_bytes + p->base_worker_bytes) +
			p->base_daemon_bytes + p->base_launcher_bytes + comm_shm_bytes(p->world));
	ck_assert((p->base_daemon_bytes > 0) == p->needs_daemon);
	ck_assert(p->needs_daemon == (h.daemon || h.param_units[PLACE_NONE] < p->unit_count ||
				      p->place_activations != PLACE_NONE));
}

static const double splits[][PLACE_COUNT] = {
	{1, 0, 0},     {0, 1, 0},       {0, 0, 1},       {0.5, 0.5, 0},      {0.5, 0, 0.5},
	{0, 0.5, 0.5}, {0.2, 0.5, 0.3}, {0.1, 0.3, 0.6}, {0.34, 0.33, 0.33},
};

/* What a plan calls the least of the host's memory is enough for a plan, whatever the chunks. */
static void check_least(struct bed *bed, unsigned world)
{
	const uint64_t memory = bed->config.host.memory, extent = bed->config.nvme.extent;

	for (bed->config.nvme.extent = 64 << 10; bed->config.nvme.extent <= 4 * MiB;
	     bed->config.nvme.extent *= 4) {
		struct plan *p = plan_of(bed, world);

		if (p->needs_daemon) {
			bed->config.host.memory = p->host.least_bytes * world;
			plan_free(plan_of(bed, world));
			bed->config.host.memory = memory;
		}
		plan_free(p);
	}
	bed->config.nvme.extent = extent;
}

#define SPLITS ((int)(sizeof(splits) / sizeof(splits[0])))

START_TEST(every_placement_is_consistent)
{
	static const unsigned worlds[] = {1, 2, 3, 4};
	const int activations = _i % 3, param = _i / 3 % SPLITS, optimizer = _i / 3 / SPLITS;
	const double *shares = splits[optimizer], *params = splits[param];
	/* Splits meet a third, or a ninth, of the combinations, every value of each among them. */
	const unsigned stride = (optimizer < PLACE_COUNT ? 1 : 3) * (param < PLACE_COUNT ? 1 : 3);
	struct bed bed = {0};

	bed_open(&bed);
	for (unsigned n = 0; n < 4 * 4 * 2 * 2 * 2 * 2; n += stride) {
		struct plan *p;

		if ((n & 128) && (!(n & 32) || n % 3))
			continue; /* one micro-batch has no order; of several a third */
		bed.config.schedule.order = n & 128 ? ORDER_LAYER : ORDER_MICRO_BATCH;
		place(&bed, n % 4, PLACE_NONE, PLACE_NONE, activations);
		split_param(&bed, params[PLACE_NONE], params[PLACE_CPU], params[PLACE_NVME]);
		split(&bed, shares[PLACE_NONE], shares[PLACE_CPU], shares[PLACE_NVME]);
		bed.config.precision = n & 16 ? PRECISION_BF16 : PRECISION_FP32;
		bed.config.batch.micro = n & 32 ? 1 : 24 / worlds[n / 4 % 4];
		bed.config.optimizer.clip = n & 64 ? 1 : 0;
		p = plan_of(&bed, worlds[n / 4 % 4]);
		ck_assert_uint_eq(p->accumulation, 24 / bed.config.batch.micro / worlds[n / 4 % 4]);
		ck_assert_uint_eq(p->micros, n & 128 ? p->accumulation : 1);
		check_units(p, bed.arch);
		check_arena(p);
		check_device(p);
		check_places(p, &bed.config);
		check_shares(p, &bed.config);
		check_rest(p, &bed.config);
		plan_free(p);
		check_least(&bed, worlds[n / 4 % 4]);
	}
	bed_close(&bed);
}
END_TEST

/* A GPU's memory is not the host's, and its collectives share a page there. */
START_TEST(memory_of_gpus_is_not_the_hosts)
{
	struct bed bed = {0};
	struct plan *p;

	bed_open(&bed);
	place(&bed, 3, PLACE_CPU, PLACE_CPU, PLACE_NONE);
	bed.config.device.type = DEVICE_CUDA;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->host_peak_bytes, 2 * (p->host.total_bytes + p->base_worker_bytes) +
						      p->base_daemon_bytes +
						      p->base_launcher_bytes + 4096);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

START_TEST(device_budget_to_the_byte)
{
	struct bed bed = {0};
	struct plan *full, *p;

	bed_open(&bed);
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_CPU);
	full = plan_of(&bed, 2);
	ck_assert_uint_eq(full->device.gather_slots, 2);
	ck_assert_uint_eq(full->device.grad_buffers, 2);
	ck_assert_uint_eq(full->device.part_buffers, 2);
	bed.config.device.memory = full->device.total_bytes;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->device.total_bytes, full->device.total_bytes);
	plan_free(p);
	/* A byte less: one of the blocks is recomputed. */
	ck_assert_uint_eq(full->device.kept_blocks, bed.config.model.layers);
	bed.config.device.memory--;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->device.kept_blocks, bed.config.model.layers - 1);
	ck_assert_uint_eq(p->device.part_buffers, 2);
	plan_free(p);
	/* A byte less than without them: the second part buffer goes, since it hides the least. */
	bed.config.device.memory =
		full->device.total_bytes - full->device.kept_blocks * full->device.kept_bytes - 1;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->device.part_buffers, 1);
	ck_assert_uint_eq(p->device.act_buffers, 3);
	ck_assert_uint_eq(p->device.grad_buffers, 2);
	ck_assert_uint_eq(p->device.gather_slots, 2);
	plan_free(p);
	/* Room for one gather slot above the least goes to that. */
	bed.config.device.memory = full->device.least_bytes + full->device.gather_slot_bytes;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->device.gather_slots, 2);
	ck_assert_uint_eq(p->device.grad_buffers, 1);
	ck_assert_uint_eq(p->device.total_bytes, bed.config.device.memory);
	plan_free(p);
	bed.config.device.memory = full->device.least_bytes;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->device.total_bytes, p->device.least_bytes);
	ck_assert_uint_eq(p->device.act_buffers, 2);
	plan_free(p);
	bed.config.device.memory--;
	refused(&bed, 2, "t.yaml:8:18: device.memory: ", "each device needs at least");
	plan_free(full);
	bed_close(&bed);
}
END_TEST

/* The smallest host.memory that is not refused, by halving. */
static uint64_t host_least(struct bed *bed, unsigned world, uint64_t enough)
{
	const uint64_t memory = bed->config.host.memory;
	uint64_t refused_at = 0;

	while (enough - refused_at > 1) {
		struct plan *plan = NULL;
		struct err err = {0};

		bed->config.host.memory = refused_at + (enough - refused_at) / 2;
		if (plan_make(&bed->config, bed->doc, bed->arch, world, &plan, &err) == 0)
			enough = bed->config.host.memory;
		else
			refused_at = bed->config.host.memory;
		plan_free(plan);
	}
	bed->config.host.memory = memory;
	return enough;
}

/* Without the chunk buffers that are there to read ahead. */
static uint64_t total_before_ahead(const struct plan *p)
{
	return p->host.total_bytes - (p->host.chunk_buffers - 4) * p->host.chunk_buffer_bytes;
}

START_TEST(host_budget_to_the_byte)
{
	struct bed bed = {0};
	struct plan *full, *p;

	bed_open(&bed);
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_NVME);
	full = plan_of(&bed, 2);
	ck_assert_uint_eq(full->host.fetch_slots, 3);
	ck_assert_uint_eq(full->host.grad_slots, 2);
	ck_assert_uint_eq(full->swap.grad_bytes, 0);
	bed.config.host.memory = 2 * full->host.total_bytes;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->host.total_bytes, full->host.total_bytes);
	plan_free(p);
	/* A byte less, an odd one too: less is read ahead. */
	ck_assert_uint_gt(full->host.chunk_buffers, 4);
	bed.config.host.memory--;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->host.chunk_buffers, full->host.chunk_buffers - 1);
	ck_assert_uint_eq(p->host.fetch_slots, 3);
	plan_free(p);
	bed.config.host.memory = 2 * total_before_ahead(full);
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->host.chunk_buffers, 4);
	ck_assert_uint_eq(p->host.fetch_slots, 3);
	plan_free(p);
	/* Then the third fetch slot goes, before any gradient. */
	bed.config.host.memory--;
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->host.fetch_slots, 2);
	ck_assert_uint_eq(p->prefetch, 1);
	ck_assert_uint_eq(p->host.grad_bytes, full->host.grad_bytes);
	plan_free(p);
	/* The least that is taken: every buffer once, all gradients on disk. */
	bed.config.host.memory = host_least(&bed, 2, bed.config.host.memory);
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->host.total_bytes, bed.config.host.memory / 2);
	ck_assert_uint_eq(p->host.total_bytes, p->host.least_bytes);
	ck_assert_uint_eq(p->host.fetch_slots, 1);
	ck_assert_uint_eq(p->prefetch, 0);
	ck_assert_uint_eq(p->host.chunk_buffers, 3);
	for (size_t i = 0; i < p->unit_count; i++)
		ck_assert(p->units[i].grad_spilled);
	plan_free(p);
	bed.config.host.memory--;
	refused(&bed, 2, "t.yaml:7:16: host.memory: ", "2 ranks need at least");
	plan_free(full);
	bed_close(&bed);
}
END_TEST

/* Gradients that wait are kept in unit order, as many as fit, and the others are on disk. */
START_TEST(gradients_spill_in_order)
{
	struct bed bed = {0};
	struct plan *full, *p;
	uint64_t last, kept = 0;

	bed_open(&bed);
	place(&bed, 3, PLACE_CPU, PLACE_NVME, PLACE_NONE);
	full = plan_of(&bed, 2);
	last = full->units[3].opt_elems * dtype_bytes(full->grad_kept_type);
	ck_assert(!full->units[3].grad_spilled);
	bed.config.host.memory = 2 * (total_before_ahead(full) - 1);
	p = plan_of(&bed, 2);
	for (size_t i = 0; i < 3; i++) {
		ck_assert(!p->units[i].grad_spilled);
		kept += p->units[i].opt_elems * dtype_bytes(p->grad_kept_type);
	}
	ck_assert(p->units[3].grad_spilled);
	ck_assert_uint_eq(p->host.grad_bytes, kept);
	ck_assert_uint_eq(p->swap.grad_bytes, last);
	/* Each of the micro-batches writes it, all but the first and the step read it. */
	ck_assert_uint_eq(p->swap.step_write_bytes,
			  full->swap.step_write_bytes + last * p->accumulation);
	ck_assert_uint_eq(p->swap.step_read_bytes,
			  full->swap.step_read_bytes + last * p->accumulation);
	plan_free(p);
	plan_free(full);
	bed_close(&bed);
}
END_TEST

/* Where nothing else is on disk, gradients go there only when they fit nowhere else. */
START_TEST(gradients_bring_no_disk_lightly)
{
	struct bed bed = {0};
	struct plan *full, *p;

	bed_open(&bed);
	place(&bed, 3, PLACE_CPU, PLACE_CPU, PLACE_NONE);
	full = plan_of(&bed, 2);
	ck_assert_uint_eq(full->host.chunk_buffers, 0);
	ck_assert(!full->needs_swap);
	bed.config.host.memory = 2 * full->host.least_bytes;
	p = plan_of(&bed, 2);
	ck_assert(!p->needs_swap);
	ck_assert_uint_eq(p->host.grad_slots, 1);
	plan_free(p);
	bed.config.host.memory--;
	p = plan_of(&bed, 2);
	ck_assert(p->needs_swap);
	ck_assert_uint_ge(p->host.chunk_buffers, 3);
	ck_assert_uint_gt(p->swap.grad_bytes, 0);
	plan_free(p);
	bed.config.nvme.paths.count = 0;
	refused(&bed, 2, "t.yaml:7:16: host.memory: ", "nvme.paths, where gradients can wait");
	plan_free(full);
	bed_close(&bed);
}
END_TEST

START_TEST(traffic_by_hand)
{
	struct bed bed = {0};
	uint64_t blocks = 0, embedding;
	struct plan *p;

	bed_open(&bed);
	bed.config.batch.micro = 12;
	bed.config.optimizer.clip = 0;
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_NONE);
	p = plan_of(&bed, 2);
	embedding = p->units[0].partition;
	for (size_t i = 1; i < 4; i++)
		blocks += p->units[i].partition;
	/*
	 * Two gather slots. Embedding, blocks 1 2 3, head (the embedding again), 3 (still there),
	 * 2, 1: the embedding is fetched twice, blocks 1 and 2 twice, block 3 once. The optimizer
	 * reads and writes 2 + 10 bytes a parameter.
	 */
	ck_assert_uint_eq(p->swap.step_read_bytes,
			  (2 * 2 + 12) * (embedding + blocks) - 2 * p->units[3].partition);
	ck_assert_uint_eq(p->swap.step_write_bytes, 12 * (embedding + blocks));
	plan_free(p);

	/* Parameters resident, state on disk: the new ones come up once. */
	place(&bed, 3, PLACE_NONE, PLACE_NVME, PLACE_NONE);
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->swap.step_read_bytes, 14 * (embedding + blocks));
	ck_assert_uint_eq(p->swap.step_write_bytes, 12 * (embedding + blocks));
	plan_free(p);

	/*
	 * Activations 0..3, three buffers: 3 goes to the head in its buffer, the others are
	 * written; 3, 2 and 1 are still there when they are read, 0 is not.
	 */
	place(&bed, 3, PLACE_NONE, PLACE_NONE, PLACE_NVME);
	p = plan_of(&bed, 2);
	ck_assert_uint_eq(p->swap.step_read_bytes, p->device.act_bytes);
	ck_assert_uint_eq(p->swap.step_write_bytes, 3 * p->device.act_bytes);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

START_TEST(device_refusal_helps)
{
	struct bed bed = {0};

	bed_open(&bed);
	bed.config.device.memory = 2 * MiB;
	place(&bed, 0, PLACE_NONE, PLACE_NONE, PLACE_NONE);
	refused(&bed, 2, "t.yaml:8:18: device.memory: 2MiB is too small",
		"what would save zero.offload_optimizer (cpu or nvme)");
	place(&bed, 0, PLACE_NONE, PLACE_CPU, PLACE_NONE);
	refused(&bed, 2, "t.yaml:8:18: device.memory: 2MiB is too small",
		"what would save zero.offload_param (cpu or nvme)");
	bed_close(&bed);
}
END_TEST

START_TEST(swap_directories)
{
	struct bed bed = {0};
	const char *paths[2] = {swap_dir, "/nonexistent/swap"};

	bed_open(&bed);
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_NVME);
	bed.config.nvme.paths = (struct conf_strings){.at = paths, .count = 2};
	refused(&bed, 1, "t.yaml:6:15: nvme.paths: /nonexistent/swap: ", "No such file");
	paths[1] = "/dev/null";
	refused(&bed, 1, "t.yaml:6:15: nvme.paths: /dev/null is not a directory", "");
	/* A petabyte of state is more than any disk this runs on has. */
	paths[1] = "/";
	arch_free(bed.arch);
	bed.config.model.layers = 1000;
	bed.config.model.hidden = 65536;
	bed.config.model.heads = 64;
	bed.config.device.memory = bed.config.host.memory = UINT64_C(1) << 58;
	bed.config.optimizer.clip = 0;
	ck_assert_int_eq(arch_make(&bed.config, &bed.arch, &(struct err){0}), 0);
	refused(&bed, 1, "t.yaml:6:15: nvme.paths: ", "free");
	/* What is only lent and not needed is not looked at. */
	place(&bed, 3, PLACE_NONE, PLACE_NONE, PLACE_NONE);
	paths[1] = "/nonexistent/swap";
	plan_free(plan_of(&bed, 1));
	bed_close(&bed);
}
END_TEST

START_TEST(world_must_divide)
{
	struct bed bed = {0};

	bed_open(&bed);
	refused(&bed, 5, "t.yaml:3:17: batch.global: 24 is not a multiple of 5", "");
	bed_close(&bed);
}
END_TEST

START_TEST(allocations_fail)
{
	struct bed bed = {0};
	struct plan *plan = NULL;
	unsigned k = 0;
	int rc;

	bed_open(&bed);
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_NVME);
	do {
		struct err err = {0};

		calloc_fails = ++k;
		rc = plan_make(&bed.config, bed.doc, bed.arch, 2, &plan, &err);
		ck_assert(rc == 0 || (rc == -ENOMEM && !plan && err.text[0]));
	} while (rc < 0);
	calloc_fails = 0;
	ck_assert_uint_ge(k, 6);
	plan_free(plan);
	bed_close(&bed);
}
END_TEST

static bool line_has(const char *text, const char *name, uint64_t bytes)
{
	char figure[32];
	const char *at = strstr(text, name), *end = at ? strchr(at, '\n') : NULL, *found;

	snprintf(figure, sizeof(figure), " %ju ", (uintmax_t)bytes);
	found = at ? strstr(at, figure) : NULL;
	return found && found < end;
}

START_TEST(table_shows_the_figures)
{
	struct bed bed = {0};
	struct plan *p;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	ck_assert_ptr_nonnull(out);
	bed_open(&bed);
	place(&bed, 3, PLACE_NVME, PLACE_NVME, PLACE_CPU);
	p = plan_of(&bed, 2);
	ck_assert_int_eq(plan_print(p, &bed.config, out), 0);
	fclose(out);
	ck_assert_msg(line_has(text, "peak resident memory per host", p->host_peak_bytes), "%s",
		      text);
	ck_assert(line_has(text, "read from NVMe in a step", 2 * p->swap.step_read_bytes));
	ck_assert(line_has(text, "gathered units",
			   p->device.gather_slots * p->device.gather_slot_bytes));
	ck_assert(strstr(text, "parameters nvme, optimizer nvme, activations cpu"));
	ck_assert(strstr(text, "2 units ahead, of 2 allowed"));
	free(text);
	out = fopen("/dev/full", "w");
	ck_assert_ptr_nonnull(out);
	ck_assert_int_eq(plan_print(p, &bed.config, out), -ENOSPC);
	fclose(out);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

START_TEST(json_has_the_figures)
{
	struct bed bed = {0};
	struct plan *p;
	struct json json;
	char member[64];

	bed_open(&bed);
	p = plan_of(&bed, 2);
	json_init(&json);
	json_object_begin(&json, NULL);
	plan_json(p, &json);
	json_object_end(&json);
	ck_assert_ptr_nonnull(json_text(&json));
	snprintf(member, sizeof(member), "\"host_peak_bytes\":%ju", (uintmax_t)p->host_peak_bytes);
	ck_assert_msg(strstr(json_text(&json), member), "%s", json_text(&json));
	json_done(&json);
	plan_free(p);
	bed_close(&bed);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("plan");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	int failed;

	if (!mkdtemp(swap_dir)) {
		perror(swap_dir);
		return EXIT_FAILURE;
	}
	tcase_add_loop_test(tc, every_placement_is_consistent, 0, 3 * SPLITS * SPLITS);
	tcase_add_test(tc, memory_of_gpus_is_not_the_hosts);
	tcase_add_test(tc, device_budget_to_the_byte);
	tcase_add_test(tc, host_budget_to_the_byte);
	tcase_add_test(tc, gradients_spill_in_order);
	tcase_add_test(tc, gradients_bring_no_disk_lightly);
	tcase_add_test(tc, traffic_by_hand);
	tcase_add_test(tc, device_refusal_helps);
	tcase_add_test(tc, swap_directories);
	tcase_add_test(tc, world_must_divide);
	tcase_add_test(tc, allocations_fail);
	tcase_add_test(tc, table_shows_the_figures);
	tcase_add_test(tc, json_has_the_figures);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (rmdir(swap_dir) < 0)
		perror(swap_dir);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
