/*
 * The planner's view of the disk: what is stored, what a step moves, and whether there is room.
 * Called by plan.c when all counts of buffers are settled.
 *
 * Traffic follows the order of phases, which is known, and of the step behind them: a unit is read
 * when it is not in a gather slot, an activation when it is not in a device buffer, each taken as a
 * cache that drops what was used longest ago. A pass takes plan->micros micro-batches through each
 * phase, which brings its unit once and works on the activations of each. Evaluation, checkpoints
 * and the first fill are not counted.
 *
 * 1. What plan_swap_fill() counts is what nvme_store_open() preallocates for the same objects.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/units.h"
#include "nvme/nvme.h"
#include "offload/plan_internal.h"
#include "offload/protocol.h"

/* Which keys are at hand, the latest first. */
struct cache {
	int *at;
	size_t held, room;
};

/* Makes `key` the latest; true when it was not there. */
static bool cache_use(struct cache *cache, int key)
{
	size_t i = 0;
	bool missed;

	while (i < cache->held && cache->at[i] != key)
		i++;
	missed = i == cache->held;
	if (missed && cache->held < cache->room)
		cache->held++;
	if (i == cache->room)
		i--;
	memmove(cache->at + 1, cache->at, i * sizeof(*cache->at));
	cache->at[0] = key;
	return missed;
}

static void cache_drop(struct cache *cache, int key)
{
	for (size_t i = 0; i < cache->held; i++) {
		if (cache->at[i] != key)
			continue;
		memmove(cache->at + i, cache->at + i + 1,
			(cache->held - i - 1) * sizeof(*cache->at));
		cache->held--;
		return;
	}
}

/* Adds up, over a pass, how often each unit is not in a gather slot. */
static void pass_units(const struct plan *p, const struct arch *arch, struct cache *cache,
		       uint64_t times, uint64_t *misses)
{
	for (size_t i = 0; i < arch->train_count; i++) {
		int unit = arch->train[i].unit;

		if (unit >= 0 && !plan_unit_resident(p, &p->units[unit]) && cache_use(cache, unit))
			misses[unit] += times;
	}
}

/*
 * The same over the step on the device of units whose parameters are elsewhere. What is stepped
 * outside a slot, or in part, is current in none of them after it.
 */
static void step_units(const struct plan *p, struct cache *cache, uint64_t *misses)
{
	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];

		if (plan_unit_offloaded(u) || !u->param_blob)
			continue;
		if (cache_use(cache, (int)i))
			misses[i]++;
		if (u->param_elems < u->padded)
			cache_drop(cache, (int)i);
	}
	for (size_t i = 0; i < p->unit_count; i++)
		if (plan_unit_offloaded(&p->units[i]) || !p->units[i].param_blob)
			cache_drop(cache, (int)i);
}

/* Is what phase i makes read, but by the very next turn? If not, it need not leave its buffer. */
static bool act_leaves(const struct plan *p, const struct arch *arch, size_t i)
{
	for (size_t k = i + (p->micros > 1 ? 1 : 2); k < arch->train_count; k++)
		if (arch->train[k].act_in == arch->train[i].act_out)
			return true;
	return false;
}

/* Phase i of one micro-batch, whose activations begin with number `first`. */
static void phase_acts(const struct plan *p, const struct arch *arch, size_t i, int first,
		       struct cache *cache, uint64_t times, uint64_t *reads, uint64_t *writes)
{
	const struct arch_phase *phase = &arch->train[i];

	if (phase->act_in >= 0 && cache_use(cache, first + phase->act_in))
		*reads += times;
	if (phase->act_out >= 0) {
		cache_use(cache, first + phase->act_out);
		*writes += act_leaves(p, arch, i) ? times : 0;
	}
	if (phase->act_in >= 0 && phase->act_in_last)
		cache_drop(cache, first + phase->act_in);
}

static void pass_acts(const struct plan *p, const struct arch *arch, struct cache *cache,
		      uint64_t times, uint64_t *reads, uint64_t *writes)
{
	for (size_t i = 0; i < arch->train_count; i++)
		for (size_t m = 0; m < p->micros; m++)
			phase_acts(p, arch, i, (int)(m * arch->act_count), cache, times, reads,
				   writes);
}

static uint64_t stored(uint64_t bytes, uint64_t extent)
{
	const struct nvme_object object = {.bytes = bytes, .extent_bytes = (uint32_t)extent};

	return nvme_store_bytes(&object, 1);
}

/* Parameters of one unit that move because phases use them `misses` times in a step. */
static void traffic_param(const struct plan *p, const struct plan_unit *u, uint64_t misses,
			  struct plan_swap *s)
{
	const uint64_t param = dtype_bytes(p->param_type);
	const bool offloaded = plan_unit_offloaded(u);
	const bool home_in_swap = u->param_home == PROTOCOL_HOME_SWAP;

	if (u->param_blob || u->place_param == PLACE_NONE) {
		/* A step's parameters come from their home once, and take the place of a use. */
		if (offloaded && home_in_swap)
			s->step_read_bytes += u->opt_elems * param;
		if (!u->param_blob || u->place_param != PLACE_NVME)
			return;
		if (offloaded && misses)
			misses--;
		s->step_read_bytes += misses * u->param_elems * param;
		s->step_write_bytes += u->param_elems * param;
	} else if (home_in_swap) {
		s->step_read_bytes += misses * u->opt_elems * param;
	}
}

/* In a step. */
static uint64_t passes(const struct plan *p)
{
	return p->accumulation / p->micros;
}

/* What one unit's optimizer step and gradient move. */
static void traffic_step(const struct plan *p, const struct plan_unit *u, struct plan_swap *s)
{
	uint64_t bytes = 0;

	if (u->state_home == PROTOCOL_HOME_SWAP)
		bytes += plan_state_swap_bytes(p, u->opt_elems);
	if (u->param_home == PROTOCOL_HOME_SWAP)
		bytes += u->opt_elems * dtype_bytes(p->param_type);
	/* Each pass but the first reads what those before left; the step reads the sum. */
	if (u->grad_spilled)
		bytes += u->opt_elems * dtype_bytes(p->grad_kept_type) * passes(p);
	s->step_read_bytes += bytes;
	s->step_write_bytes += bytes;
}

/* One step: all passes but the first are alike. */
static void units_traffic(const struct plan *p, const struct arch *arch, struct cache *cache,
			  uint64_t *misses)
{
	pass_units(p, arch, cache, 1, misses);
	if (passes(p) > 1)
		pass_units(p, arch, cache, passes(p) - 1, misses);
	step_units(p, cache, misses);
}

int plan_swap_traffic(struct plan *p, const struct arch *arch, struct err *err)
{
	const size_t room = p->unit_count + p->act_count + 1;
	struct cache units = {.room = p->device.gather_slots}, acts = {.room = 0};
	uint64_t *misses = calloc(p->unit_count, sizeof(*misses)), reads = 0, writes = 0;

	units.at = calloc(room, sizeof(*units.at));
	acts.at = calloc(room, sizeof(*acts.at));
	acts.room = p->device.act_buffers;
	if (!misses || !units.at || !acts.at) {
		free(misses);
		free(units.at);
		free(acts.at);
		return err_sys(err, -ENOMEM, "planning");
	}
	/* The first step begins with empty slots, all others with what the one before left. */
	for (int step = 0; step < 2 && units.room; step++) {
		memset(misses, 0, p->unit_count * sizeof(*misses));
		units_traffic(p, arch, &units, misses);
	}
	/* From the second on all passes are alike: each leaves behind what its end needed. */
	for (uint64_t pass = 0; pass < 2 && pass < passes(p); pass++)
		if (p->place_activations == PLACE_NVME)
			pass_acts(p, arch, &acts, pass ? passes(p) - 1 : 1, &reads, &writes);
	p->swap.step_read_bytes = p->swap.step_write_bytes = 0;
	for (size_t i = 0; i < p->unit_count; i++) {
		traffic_param(p, &p->units[i], misses[i], &p->swap);
		traffic_step(p, &p->units[i], &p->swap);
	}
	p->swap.step_read_bytes += reads * p->device.act_bytes;
	p->swap.step_write_bytes += writes * p->device.act_bytes;
	free(misses);
	free(units.at);
	free(acts.at);
	return 0;
}

int plan_swap_fill(struct plan *p, const struct train_config *c, const struct arch *arch,
		   struct err *err)
{
	const uint64_t param = dtype_bytes(p->param_type), grad = dtype_bytes(p->grad_kept_type);
	struct plan_swap *s = &p->swap;

	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];

		if (u->state_home == PROTOCOL_HOME_SWAP)
			s->state_bytes += stored(plan_state_swap_bytes(p, u->opt_elems),
						 plan_state_swap_bytes(p, p->chunk_elems));
		if (u->param_home == PROTOCOL_HOME_SWAP)
			s->param_bytes += stored(u->opt_elems * param, p->chunk_elems * param);
		if (u->grad_spilled)
			s->grad_bytes += stored(u->opt_elems * grad, p->chunk_elems * grad);
	}
	for (size_t i = 0; i < p->blob_count; i++)
		*(i < p->act_blob_first ? &s->param_bytes : &s->act_bytes) +=
			stored(p->blobs[i], c->nvme.extent);
	s->total_bytes = s->param_bytes + s->state_bytes + s->grad_bytes + s->act_bytes;
	return plan_swap_traffic(p, arch, err);
}

/* How many of the paths share the filesystem of path `index`; negative errno. */
static int paths_beside(const struct conf_strings *paths, dev_t device)
{
	int count = 0;

	for (size_t i = 0; i < paths->count; i++) {
		struct stat st;

		if (stat(paths->at[i], &st) == 0 && st.st_dev == device)
			count++;
	}
	return count;
}

/* Paths of one filesystem share its room: each takes an equal share of all ranks' bytes. */
static int path_check(const struct plan *p, const struct train_config *c,
		      const struct conf_doc *doc, const char *path, struct err *err)
{
	const uint64_t ranks_bytes = p->swap.total_bytes * p->ranks_per_host;
	char need_text[UNITS_TEXT_BYTES], free_text[UNITS_TEXT_BYTES];
	uint64_t need, room;
	struct statvfs fs;
	struct stat st;
	int beside;

	if (stat(path, &st) < 0)
		return conf_error(doc, "nvme.paths", err, "%s: %s", path, err_str(-errno));
	if (!S_ISDIR(st.st_mode))
		return conf_error(doc, "nvme.paths", err, "%s is not a directory", path);
	if (statvfs(path, &fs) < 0)
		return conf_error(doc, "nvme.paths", err, "%s: %s", path, err_str(-errno));
	beside = paths_beside(&c->nvme.paths, st.st_dev);
	need = (ranks_bytes + c->nvme.paths.count - 1) / c->nvme.paths.count * (uint64_t)beside;
	room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (need > room)
		return conf_error(doc, "nvme.paths", err,
				  "%s: the job needs %s (%ju bytes) there, its filesystem has %s "
				  "(%ju bytes) free",
				  path, units_format_bytes(need_text, need), (uintmax_t)need,
				  units_format_bytes(free_text, room), (uintmax_t)room);
	return 0;
}

int plan_swap_check(const struct plan *p, const struct train_config *c, const struct conf_doc *doc,
		    struct err *err)
{
	int rc = 0;

	if (!p->needs_swap)
		return 0;
	for (size_t i = 0; i < c->nvme.paths.count && !rc; i++)
		rc = path_check(p, c, doc, c->nvme.paths.at[i], err);
	return rc;
}
