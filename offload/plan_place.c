/*
 * The plan's placement: on which tier each unit's optimizer state is, and what follows for its
 * parameters. Called by plan.c when units have their sizes; pure.
 *
 * 1. A unit's optimizer state is whole on one tier: what steps a unit then has all of it, and the
 *    engine asks of a unit where it is, never of an element.
 * 2. No tier is given what was not asked of it: a share of 0 stays 0.
 * 3. Of units of one size, those on a faster tier come first in unit order.
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

/* The largest size of a unit that is below `below`; 0: there is none. */
static uint64_t size_below(const struct plan *p, uint64_t below)
{
	uint64_t size = 0;

	for (size_t i = 0; i < p->unit_count; i++)
		if (p->units[i].opt_elems < below && p->units[i].opt_elems > size)
			size = p->units[i].opt_elems;
	return size;
}

/* Divides the units of one size; lack[] goes down by what tiers are given. */
static void size_place(struct plan *p, uint64_t size, double lack[PLACE_COUNT])
{
	size_t given[PLACE_COUNT] = {0};
	int place = 0;

	for (size_t i = 0; i < p->unit_count; i++) {
		if (p->units[i].opt_elems != size)
			continue;
		place = place_choose(lack, size);
		lack[place] -= (double)size;
		given[place]++;
	}
	place = 0;
	for (size_t i = 0; i < p->unit_count; i++) {
		if (p->units[i].opt_elems != size)
			continue;
		while (!given[place])
			place++;
		given[place]--;
		p->units[i].place_optimizer = place;
		p->optimizer[place].elems += size;
		p->optimizer[place].units++;
	}
}

/*
 * Shares of elements become whole units. The largest units are placed first, since the others can
 * then make up for them: where but one size is common (blocks), each tier ends within one such
 * unit of what was asked, and no other choice of theirs comes nearer.
 *
 * Which unit goes where is a matter of time. In backward gradients are complete in reverse unit
 * order, and the next forward uses units in order. So the first unit has the least time between its
 * gradient and its next use, the last one the most: a whole backward and forward of the others.
 * Where a norm has to be known first, all gradients wait for it, and there is still the forward of
 * the units before. The slowest tier therefore gets the last units. The device, where a step is
 * over at once, gets the first; the embedding, first of all and often the largest, goes there when
 * its share has room for it.
 */
static void optimizer_place(struct plan *p, const struct train_config *c)
{
	double total = 0, lack[PLACE_COUNT];

	for (size_t i = 0; i < p->unit_count; i++)
		total += (double)p->units[i].opt_elems;
	for (int place = 0; place < PLACE_COUNT; place++) {
		p->optimizer[place] =
			(struct plan_share){.asked = c->zero.offload_optimizer[place]};
		lack[place] = p->optimizer[place].asked * total;
	}
	for (uint64_t size = size_below(p, UINT64_MAX); size; size = size_below(p, size))
		size_place(p, size, lack);
	for (int place = 0; place < PLACE_COUNT; place++)
		p->optimizer[place].placed = (double)p->optimizer[place].elems / total;
}

static int home_of(int placement)
{
	return placement == PLACE_CPU    ? PROTOCOL_HOME_MEMORY
	       : placement == PLACE_NVME ? PROTOCOL_HOME_SWAP
					 : PROTOCOL_HOME_NONE;
}

void plan_place(struct plan *p, const struct train_config *c)
{
	const bool home_is_param = p->stage == 3 && p->place_param != PLACE_NONE;

	optimizer_place(p, c);
	for (size_t i = 0; i < p->unit_count; i++) {
		struct plan_unit *u = &p->units[i];
		const bool offloaded = plan_unit_offloaded(u);

		u->state_home = home_of(u->place_optimizer);
		u->param_home =
			offloaded && home_is_param ? home_of(p->place_param) : u->state_home;
		u->param_blob = p->place_param != PLACE_NONE && !(offloaded && home_is_param);
		if (offloaded)
			u->daemon_idx = p->daemon_units++;
		if (u->param_blob && p->place_param == PLACE_NVME)
			u->blob_idx = p->act_blob_first++;
	}
	p->grad_kept = p->daemon_units && (c->optimizer.clip > 0 || p->accumulation > 1);
	p->needs_daemon = p->daemon_units || p->place_param != PLACE_NONE ||
			  p->place_activations != PLACE_NONE;
}
