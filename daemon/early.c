/*
 * State read ahead of its step. The peer says with PREPARE which units it will step next; while the
 * disk is idle and buffers are free, their first chunks are read, so that the pipeline is full when
 * the first STEP comes: where gradients are clipped, backward is what this hides behind.
 *
 * The session's thread runs all of this, called by pipeline.c. A chunk read ahead is a task without
 * an operation, in the list of its unit, in chunk order:
 *
 *	early_run --> being read --> held --early_take: the unit's STEP goes on with it
 *	                  |            |
 *	                  |            +----early_drop, early_reclaim: given back
 *	                  +--early_take: its STEP awaits the rest of the read
 *	                  +--early_drop: given back when the read is over
 *
 * Invariants
 *  1. What is read ahead, parameters and state, changes by STEP and IMPORT only. A STEP takes over
 *     all that there is of its unit, from its first chunk on; an IMPORT drops it, and does not
 *     start before the reads have ended. Both come after the PREPARE in the unit's lane, and
 *     nothing is read ahead of a unit once one of them is at the lane's head: so what is held is
 *     what is on the disk.
 *  2. No operation waits for ever for a buffer that is held here: as long as all of them have fewer
 *     than OPS_BUFFERS, early_reclaim gives them one more.
 *  3. A read ahead begins only while no operation wants to start a chunk or waits for the disk, and
 *     leaves a buffer free. At most READS are under way.
 *  4. Tasks under way count as busy, tasks held do not: nothing is waited for on their account.
 */
#include "daemon/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define READS       2u /* one being read while another's end is worked off */
#define OPS_BUFFERS 3u /* a read, a step and a write */
#define FREE_LEAST  1u /* buffers not used here */

/* Of one unit. */
struct early {
	struct early *next; /* in the list of those that want more */
	const struct unit_plan *unit;
	struct task *head, *tail;
	uint64_t started; /* chunks */
	uint32_t reading; /* of the list, and dropped ones */
	bool wanted;      /* is in the list */
};

int early_open(struct session *s, struct err *err)
{
	struct early_all *all = &s->early;
	uint32_t count = s->plan->open.unit_count;

	all->units = calloc(count + 1, sizeof(*all->units));
	if (!all->units)
		return err_sys(err, -ENOMEM, "allocating what is read ahead");
	for (uint32_t u = 0; u < count; u++)
		all->units[u].unit = &s->plan->units[u];
	return 0;
}

void early_free(struct session *s)
{
	free(s->early.units);
}

static struct early *early_of(struct session *s, const struct unit_plan *unit)
{
	return &s->early.units[unit - s->plan->units];
}

/* What of a unit is read ahead. */
static uint8_t parts_of(const struct unit_plan *unit)
{
	unsigned set = 0;

	if (unit->home[PART_PARAM] == PROTOCOL_HOME_SWAP)
		set |= PART_BIT(PART_PARAM);
	if (unit->home[PART_STATE] == PROTOCOL_HOME_SWAP)
		set |= PART_BIT(PART_STATE);
	return (uint8_t)set;
}

void early_prepare(struct session *s, const struct unit_plan *unit)
{
	struct early *e = early_of(s, unit), **at = &s->early.wanting;

	if (e->wanted || e->started > 0 || !parts_of(unit))
		return;
	while (*at)
		at = &(*at)->next;
	e->wanted = true;
	e->next = NULL;
	*at = e;
}

/* Nothing more of it is read ahead, until the next PREPARE. */
static void unwant(struct session *s, struct early *e)
{
	struct early **at = &s->early.wanting;

	if (!e->wanted)
		return;
	while (*at != e)
		at = &(*at)->next;
	*at = e->next;
	e->wanted = false;
}

/* The last chunk leaves the list. */
static struct task *pop_last(struct early *e)
{
	struct task *t = e->tail, *before = e->head;

	if (before == t) {
		e->head = e->tail = NULL;
		e->started = 0;
		return t;
	}
	while (before->next != t)
		before = before->next;
	before->next = NULL;
	e->tail = before;
	e->started--;
	return t;
}

/* Of what was read for a STEP that does not take it. */
static void give_back(struct session *s, struct task *t)
{
	uint64_t elems = unit_chunk_elems(s->plan, t->unit, t->chunk);
	uint8_t parts = parts_of(t->unit);

	for (int part = 0; part < PART_COUNT; part++)
		if (parts & PART_BIT(part))
			atomic_fetch_add_explicit(&s->dropped_bytes,
						  session_part_bytes(s->plan, part, elems),
						  memory_order_relaxed);
	s->early.tasks--;
	t->early = EARLY_NONE;
	pipeline_task_free(t);
}

bool early_arrived(struct task *t)
{
	struct session *s = t->session;

	s->early.reading--;
	early_of(s, t->unit)->reading--;
	if (t->early == EARLY_TAKEN) {
		t->early = EARLY_NONE;
		return true;
	}
	s->tasks_busy--;
	if (t->early == EARLY_READING) {
		t->early = EARLY_HELD;
		return false;
	}
	s->early.dropped--;
	give_back(s, t);
	return false;
}

/* Takes the last chunk away from its unit; its buffer is free now, or when it has been read. */
static void drop_last(struct session *s, struct early *e)
{
	struct task *t = pop_last(e);

	if (t->early == EARLY_READING) {
		t->early = EARLY_DROPPED;
		s->early.dropped++;
		return;
	}
	give_back(s, t);
}

bool early_drop(struct session *s, const struct unit_plan *unit)
{
	struct early *e = early_of(s, unit);

	unwant(s, e);
	while (e->tail)
		drop_last(s, e);
	return e->reading == 0;
}

struct task *early_take(struct session *s, struct op *op)
{
	struct early *e = early_of(s, op->unit);
	struct task *t = e->head;

	unwant(s, e);
	if (!t)
		return NULL;
	assert(t->chunk == op->first + op->started);
	e->head = t->next;
	if (!e->head) {
		e->tail = NULL;
		e->started = 0;
	}
	s->early.tasks--;
	s->tasks_busy += t->early == EARLY_HELD;
	t->early = t->early == EARLY_READING ? EARLY_TAKEN : EARLY_NONE;
	return t;
}

void early_reclaim(struct session *s)
{
	uint32_t held = s->early.tasks;

	if (held == 0 || s->early.dropped > 0 ||
	    s->plan->open.chunk_buffers - s->free_buffer_count - held >= OPS_BUFFERS)
		return;
	/* Mostly units are stepped in order: what is needed last goes first. */
	for (uint32_t u = s->plan->open.unit_count; u-- > 0;) {
		struct early *e = &s->early.units[u];

		if (!e->tail)
			continue;
		unwant(s, e);
		drop_last(s, e);
		return;
	}
}

static void read_next(struct session *s, struct early *e)
{
	struct task *t = pipeline_task_take(s);

	t->op = NULL;
	t->unit = e->unit;
	t->chunk = e->started++;
	t->next = NULL;
	t->early = EARLY_READING;
	if (e->tail)
		e->tail->next = t;
	else
		e->head = t;
	e->tail = t;
	e->reading++;
	s->early.reading++;
	s->early.tasks++;
	if (e->started == e->unit->chunk_count)
		unwant(s, e);
	pipeline_read(t, parts_of(e->unit));
}

bool early_run(struct session *s)
{
	bool changed = false;

	while (s->early.wanting && !s->failure.code && !s->ending && s->early.reading < READS &&
	       s->io_busy == s->early.reading && s->free_buffer_count > FREE_LEAST &&
	       s->free_tasks && s->early.tasks < s->early.tasks_max) {
		read_next(s, s->early.wanting);
		changed = true;
	}
	return changed;
}
