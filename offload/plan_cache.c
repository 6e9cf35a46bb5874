/*
 * Static caching: with `host: {memory: auto}`, units that were asked to be on NVMe stay in host
 * memory as far as it goes. Called by plan.c once the device's part is settled and the rest of the
 * host's part is known to fit; pure.
 *
 * Which units is decided once, for the whole job. A cache that replaces would keep none of them:
 * parameters and state are used in one order, step after step, and by the time a unit is wanted
 * again all others have been. A fixed fraction is hit every time.
 *
 * What goes first is what saves the most bytes of traffic a step for a byte of memory. With misses
 * the number of times that a step fetches a unit (2 for each micro-batch, forward and backward, but
 * for what is still in a gather slot), of each byte of:
 *
 *	parameters	misses read by phases, 1 read and 1 written by the optimizer: misses + 2.
 *			Where they are not the optimizer's own copy, one of the misses is read from
 *			there, and 1 written back: misses
 *	gradients	accumulation read and as much written: 2 * accumulation, about misses
 *	optimizer state	1 read, 1 written: 2
 *
 * So parameters come before optimizer state: they save more, and are what a pass waits for.
 * Gradients that wait for the norm or the next micro-batch, which plan.c keeps before it spills
 * any, come before optimizer state, too. Between parameters and gradients it depends, on what is
 * in slots and on whose copy it is: both ways are planned, and the one that moves less is taken.
 * Within a kind all bytes are worth the same, in any precision; so the largest units come first,
 * and smaller ones take what is left.
 *
 * 1. What is cached never takes a buffer of the pipeline (two of each, four chunks), as long as
 *    anything is on disk: first what moves every byte, then bytes that need not move. Fetch slots
 *    beyond two get what is left over.
 * 2. No unit leaves a tier but NVMe, and none goes anywhere but to host memory.
 */
#include <errno.h>
#include <string.h>

#include "common/units.h"
#include "offload/plan_internal.h"

#define ROOMY_BYTES    (UINT64_C(1) << 60) /* more than any host has */
#define LENT_BYTES_MIN (UINT64_C(1) << 20) /* as host.memory has it */

/* One size of units, whose places are tried. */
struct attempt {
	struct plan *plan;
	const struct train_config *config;
	enum plan_kind kind;
	uint64_t size;
	size_t given[PLACE_COUNT];
	uint64_t spill_max; /* no more bytes of gradients than these may be on disk */
};

static int place_of(const struct plan_unit *u, enum plan_kind kind)
{
	return kind == PLAN_PARAM ? u->place_param : u->place_optimizer;
}

static uint64_t elems_of(const struct plan_unit *u, enum plan_kind kind)
{
	return kind == PLAN_PARAM ? u->param_elems : u->opt_elems;
}

static uint64_t spilled_bytes(const struct plan *p)
{
	uint64_t elems = 0;

	for (size_t i = 0; i < p->unit_count; i++)
		if (p->units[i].grad_spilled)
			elems += p->units[i].opt_elems;
	return elems * dtype_bytes(p->grad_kept_type);
}

/* Does the host's part of the plan hold, with everything where it is now? */
static bool holds(struct plan *p, const struct train_config *c, uint64_t spill_max)
{
	bool on_disk;

	plan_place_homes(p, c);
	if (plan_host(p, c) < 0 || spilled_bytes(p) > spill_max)
		return false;
	on_disk = p->param[PLACE_NVME].units || p->optimizer[PLACE_NVME].units || spilled_bytes(p);
	return !on_disk || plan_host_flows(p);
}

/* With `count` units of this size in memory that were asked to be on NVMe? */
static bool holds_of_size(const struct attempt *a, size_t count)
{
	size_t given[PLACE_COUNT];

	memcpy(given, a->given, sizeof(given));
	given[PLACE_NVME] -= count;
	given[PLACE_CPU] += count;
	plan_size_place(a->plan, a->kind, a->size, given);
	return holds(a->plan, a->config, a->spill_max);
}

/* As many units of one size as go in. */
static void cache_size(const struct attempt *a)
{
	size_t low = 0, high = a->given[PLACE_NVME] + 1;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (holds_of_size(a, middle))
			low = middle;
		else
			high = middle;
	}
	holds_of_size(a, low);
}

static void all_to_memory(struct plan *p, enum plan_kind kind)
{
	for (size_t i = 0; i < p->unit_count; i++) {
		int *place = kind == PLAN_PARAM ? &p->units[i].place_param
						: &p->units[i].place_optimizer;

		if (*place == PLACE_NVME)
			*place = PLACE_CPU;
	}
}

/*
 * All are tried first: with none on disk no chunk buffers, or fetch slots, are needed for them, so
 * all may fit where all but one do not.
 */
static void cache_kind(struct plan *p, const struct train_config *c, enum plan_kind kind,
		       uint64_t spill_max)
{
	all_to_memory(p, kind);
	if (holds(p, c, spill_max))
		return;
	plan_place_kind(p, c, kind);
	for (uint64_t size = plan_size_below(p, kind, UINT64_MAX); size;
	     size = plan_size_below(p, kind, size)) {
		struct attempt a = {
			.plan = p, .config = c, .kind = kind, .size = size, .spill_max = spill_max};

		for (size_t i = 0; i < p->unit_count; i++)
			if (elems_of(&p->units[i], kind) == size)
				a.given[place_of(&p->units[i], kind)]++;
		cache_size(&a);
	}
}

/* Caches anew, from where units were asked to be, with gradients first or parameters. */
static int cache_in_order(struct plan *p, const struct train_config *c, const struct arch *arch,
			  bool gradients_first, uint64_t *ret_traffic, struct err *err)
{
	int rc;

	plan_place(p, c);
	holds(p, c, UINT64_MAX);
	cache_kind(p, c, PLAN_PARAM, gradients_first ? spilled_bytes(p) : UINT64_MAX);
	cache_kind(p, c, PLAN_STATE, spilled_bytes(p));
	rc = plan_swap_traffic(p, arch, err);
	*ret_traffic = p->swap.step_read_bytes + p->swap.step_write_bytes;
	return rc;
}

int plan_cache(struct plan *p, const struct train_config *c, const struct arch *arch,
	       struct err *err)
{
	const uint64_t param = p->param[PLACE_CPU].elems, state = p->optimizer[PLACE_CPU].elems;
	uint64_t traffic[2];
	int rc;

	if (!p->needs_daemon)
		return 0;
	all_to_memory(p, PLAN_PARAM);
	all_to_memory(p, PLAN_STATE);
	if (!holds(p, c, 0)) {
		plan_place(p, c);
		if (!holds(p, c, UINT64_MAX))
			return plan_host(p, c) < 0 ? -ENOSPC : 0;
		if ((rc = cache_in_order(p, c, arch, true, &traffic[0], err)) < 0 ||
		    (rc = cache_in_order(p, c, arch, false, &traffic[1], err)) < 0)
			return rc;
		if (traffic[0] <= traffic[1])
			rc = cache_in_order(p, c, arch, true, &traffic[0], err);
		if (rc < 0)
			return rc;
	}
	p->cached_param_bytes = (p->param[PLACE_CPU].elems - param) * dtype_bytes(p->param_type);
	p->cached_state_bytes = plan_state_bytes(p, p->optimizer[PLACE_CPU].elems - state);
	return 0;
}

int plan_host_auto(const struct train_config *config, const struct conf_doc *doc,
		   const struct arch *arch, unsigned world, uint64_t spare_bytes,
		   uint64_t *ret_bytes, struct err *err)
{
	struct train_config roomy = *config;
	char spare[UNITS_TEXT_BYTES], other[UNITS_TEXT_BYTES];
	struct plan *p;
	uint64_t beside;
	int rc;

	/* What is not lent does not depend on how much is. */
	roomy.host.memory = ROOMY_BYTES;
	rc = plan_make(&roomy, doc, arch, world, &p, err);
	if (rc < 0)
		return rc;
	beside = p->host_peak_bytes - p->ranks_per_host * p->host.total_bytes;
	plan_free(p);
	if (spare_bytes < beside + LENT_BYTES_MIN)
		return conf_error(doc, "host.memory", err,
				  "auto, but the host can spare %s (%ju bytes), and what the job "
				  "holds there beside it is %s (%ju bytes)",
				  units_format_bytes(spare, spare_bytes), (uintmax_t)spare_bytes,
				  units_format_bytes(other, beside), (uintmax_t)beside);
	*ret_bytes = (spare_bytes - beside) / LENT_BYTES_MIN * LENT_BYTES_MIN;
	return 0;
}
