/*
 * The plan's placement: on which tier each unit's parameters are between uses, and its optimizer
 * state. Called by plan.c when units have their sizes; pure.
 *
 * 1. A unit's optimizer state is whole on one tier: what steps a unit then has all of it, and the
 *    engine asks of a unit where it is, never of an element. So are its parameters.
 * 2. No tier is given what was not asked of it: a share of 0 stays 0.
 * 3. Of units of one size, those whose optimizer state is on a faster tier come first in unit
 *    order; parameters of each tier are spread evenly over the order.
 */
#include "offload/plan_internal.h"
#include "offload/protocol.h"

/*
 * The tier for a unit of `elems`, where lack[] is what each was asked to hold and does not yet: the
 * fastest that takes it whole, or, when no tier has that much left, the one that lacks most.
 */
static int place_choose(const double lack[PLACE_COUNT], uint64_t elems)
{
	int most = 0;

	for (int place = 0; place < PLACE_COUNT; place++) {
		if (lack[place] >= (double)elems)
			return place;
		if (lack[place] > lack[most])
			most = place;
	}
	return most;
}

static uint64_t elems_of(const struct plan_unit *u, enum plan_kind kind)
{
	return kind == PLAN_PARAM ? u->param_elems : u->opt_elems;
}

static int *place_of(struct plan_unit *u, enum plan_kind kind)
{
	return kind == PLAN_PARAM ? &u->place_param : &u->place_optimizer;
}

uint64_t plan_size_below(const struct plan *p, enum plan_kind kind, uint64_t below)
{
	uint64_t size = 0;

	for (size_t i = 0; i < p->unit_count; i++) {
		uint64_t elems = elems_of(&p->units[i], kind);

		if (elems < below && elems > size)
			size = elems;
	}
	return size;
}

/* How units of one size are divided; lack[] goes down by what tiers are given. */
static void size_divide(const struct plan *p, enum plan_kind kind, uint64_t size,
			double lack[PLACE_COUNT], size_t given[PLACE_COUNT])
{
	for (size_t i = 0; i < p->unit_count; i++) {
		int place;

		if (elems_of(&p->units[i], kind) != size)
			continue;
		place = place_choose(lack, size);
		lack[place] -= (double)size;
		given[place]++;
	}
}

/* Which tier gets the unit that `before` others have been given tiers before, `used` of each. */
static int place_next(enum plan_kind kind, const size_t given[PLACE_COUNT],
		      const size_t used[PLACE_COUNT], size_t before)
{
	size_t count = 0;
	double best_due = 0;
	int best = -1;

	for (int place = 0; place < PLACE_COUNT; place++)
		count += given[place];
	for (int place = 0; place < PLACE_COUNT; place++) {
		double due = (double)given[place] * (double)(before + 1) / (double)count -
			     (double)used[place];

		if (used[place] == given[place])
			continue;
		if (kind == PLAN_STATE)
			return place;
		if (best < 0 || due > best_due) {
			best = place;
			best_due = due;
		}
	}
	return best;
}

void plan_size_place(struct plan *p, enum plan_kind kind, uint64_t size,
		     const size_t given[PLACE_COUNT])
{
	size_t used[PLACE_COUNT] = {0}, before = 0;

	for (size_t i = 0; i < p->unit_count; i++) {
		struct plan_unit *u = &p->units[i];
		int place;

		if (elems_of(u, kind) != size)
			continue;
		place = place_next(kind, given, used, before++);
		*place_of(u, kind) = place;
		used[place]++;
	}
}

/*
 * Shares of elements become whole units. The largest units are placed first, since the others can
 * then make up for them: where but one size is common (blocks), each tier ends within one such
 * unit of what was asked, and no other choice of theirs comes nearer.
 *
 * Which unit goes where is a matter of time. Optimizer state: in backward gradients are complete in
 * reverse unit order, and the next forward uses units in order. So the first unit has the least
 * time between its gradient and its next use, the last one the most: a whole backward and forward
 * of the others. Where a norm has to be known first, all gradients wait for it, and there is still
 * the forward of the units before. The slowest tier therefore gets the last units. The device,
 * where a step is over at once, gets the first; the embedding, first of all and often the largest,
 * goes there when its share has room for it.
 *
 * Parameters are used one unit after the other, forward and back. What hides a unit's way from a
 * slow tier is the compute of the units before it, as far as fetches run ahead. So units of each
 * tier are spread evenly over the order: between two that come from disk lie those that do not, and
 * the disk is busy all through the pass, not in one half of it.
 */
static void shares_place(struct plan *p, enum plan_kind kind, const double shares[PLACE_COUNT])
{
	double total = 0, lack[PLACE_COUNT];

	for (size_t i = 0; i < p->unit_count; i++)
		total += (double)elems_of(&p->units[i], kind);
	for (int place = 0; place < PLACE_COUNT; place++)
		lack[place] = shares[place] * total;
	for (uint64_t size = plan_size_below(p, kind, UINT64_MAX); size;
	     size = plan_size_below(p, kind, size)) {
		size_t given[PLACE_COUNT] = {0};

		size_divide(p, kind, size, lack, given);
		plan_size_place(p, kind, size, given);
	}
}

/* What the tiers hold now, beside what was asked. */
static void shares_count(struct plan *p, enum plan_kind kind, const double asked[PLACE_COUNT])
{
	struct plan_share *shares = kind == PLAN_PARAM ? p->param : p->optimizer;
	double total = 0;

	for (int place = 0; place < PLACE_COUNT; place++)
		shares[place] = (struct plan_share){.asked = asked[place]};
	for (size_t i = 0; i < p->unit_count; i++) {
		struct plan_share *s = &shares[*place_of(&p->units[i], kind)];

		s->elems += elems_of(&p->units[i], kind);
		s->units++;
		total += (double)elems_of(&p->units[i], kind);
	}
	for (int place = 0; place < PLACE_COUNT; place++)
		shares[place].placed = (double)shares[place].elems / total;
}

static int home_of(int placement)
{
	return placement == PLACE_CPU    ? PROTOCOL_HOME_MEMORY
	       : placement == PLACE_NVME ? PROTOCOL_HOME_SWAP
					 : PROTOCOL_HOME_NONE;
}

void plan_place_homes(struct plan *p, const struct train_config *c)
{
	shares_count(p, PLAN_PARAM, c->zero.offload_param);
	shares_count(p, PLAN_STATE, c->zero.offload_optimizer);
	p->daemon_units = p->act_blob_first = 0;
	for (size_t i = 0; i < p->unit_count; i++) {
		struct plan_unit *u = &p->units[i];
		const bool offloaded = plan_unit_offloaded(u);
		const bool home_is_param = p->stage == 3 && u->place_param != PLACE_NONE;

		u->state_home = home_of(u->place_optimizer);
		u->param_home =
			offloaded && home_is_param ? home_of(u->place_param) : u->state_home;
		u->param_blob = u->place_param != PLACE_NONE && !(offloaded && home_is_param);
		if (offloaded)
			u->daemon_idx = p->daemon_units++;
		if (u->param_blob && u->place_param == PLACE_NVME)
			u->blob_idx = p->act_blob_first++;
	}
	p->grad_kept = p->daemon_units && (c->optimizer.clip > 0 || p->accumulation > p->micros);
	p->needs_daemon = p->daemon_units || p->param[PLACE_NONE].units < p->unit_count ||
			  p->place_activations != PLACE_NONE;
}

void plan_place_kind(struct plan *p, const struct train_config *c, enum plan_kind kind)
{
	shares_place(p, kind,
		     kind == PLAN_PARAM ? c->zero.offload_param : c->zero.offload_optimizer);
}

void plan_place(struct plan *p, const struct train_config *c)
{
	plan_place_kind(p, c, PLAN_PARAM);
	plan_place_kind(p, c, PLAN_STATE);
	plan_place_homes(p, c);
}
