/*
 * Gathering a job's trace. Called by dsrun's thread, with the ranks' reports as they come in.
 *
 * Invariants
 *  1. A report is another process's word: an event counts only when its lane and its name were
 *     declared before by the same process, and memory is bounded by event_max, TRACE_LANES_MAX and
 *     TRACE_NAME_IDS, whatever is said.
 *  2. What cannot be taken is counted (an event too many) or returned as an error once (all else);
 *     the training it is about goes on.
 */
#include "launcher/trace_job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/trace_text.h"
#include "offload/job.h"

#define LANE_ROOM_FIRST 1024u

static int units_number(struct trace_job *job, const struct plan *plan)
{
	job->daemon_units = calloc(plan->unit_count + 1, sizeof(*job->daemon_units));
	if (!job->daemon_units)
		return -ENOMEM;
	job->daemon_unit_count = plan->daemon_units;
	for (size_t u = 0; u < plan->unit_count; u++)
		if (plan_unit_offloaded(&plan->units[u]))
			job->daemon_units[plan->units[u].daemon_idx] = (uint32_t)u;
	return 0;
}

int trace_job_open(unsigned world, const struct plan *plan, struct trace_job **ret, struct err *err)
{
	struct trace_job *job = calloc(1, sizeof(*job));

	if (job)
		job->sets = calloc((size_t)2 * world, sizeof(*job->sets));
	if (job && job->sets)
		job->world = world;
	if (!job || !job->sets || units_number(job, plan) < 0) {
		trace_job_free(job);
		return err_sys(err, -ENOMEM, "trace of %u ranks", world);
	}
	job->event_max = TRACE_JOB_EVENTS_MAX;
	for (unsigned i = 0; i < 2 * world; i++) {
		job->sets[i].rank = i / 2;
		job->sets[i].daemon = i % 2;
	}
	*ret = job;
	return 0;
}

static void set_done(struct trace_set *set)
{
	for (size_t i = 0; i < set->lane_count; i++) {
		free(set->lanes[i].name);
		free(set->lanes[i].items);
	}
	for (size_t i = 0; set->names && i < TRACE_NAME_IDS; i++)
		free(set->names[i]);
	free(set->lanes);
	free(set->names);
}

struct trace_job *trace_job_free(struct trace_job *job)
{
	if (!job)
		return NULL;
	for (unsigned i = 0; i < 2 * job->world; i++)
		set_done(&job->sets[i]);
	free(job->sets);
	free(job->daemon_units);
	free(job);
	return NULL;
}

const char *trace_set_name(const struct trace_set *set, char text[TRACE_SET_NAME_BYTES])
{
	snprintf(text, TRACE_SET_NAME_BYTES,
		 set->daemon ? "dsoffloadd (rank %u's session)" : "rank %u", set->rank);
	return text;
}

/* ---- taking lines ---- */

/* The lane, if it was declared. */
static struct trace_set_lane *lane_of(const struct trace_set *set, uint32_t idx)
{
	return idx < set->lane_count && set->lanes[idx].name ? &set->lanes[idx] : NULL;
}

static int take_lane(struct trace_set *set, const struct trace_line *line)
{
	struct trace_set_lane *lanes = set->lanes;

	if (lane_of(set, line->lane))
		return ERR_PROTOCOL;
	if (line->lane >= set->lane_count) {
		lanes = realloc(lanes, (line->lane + 1) * sizeof(*lanes));
		if (!lanes)
			return -ENOMEM;
		memset(lanes + set->lane_count, 0,
		       (line->lane + 1 - set->lane_count) * sizeof(*lanes));
		set->lanes = lanes;
		set->lane_count = line->lane + 1;
	}
	lanes[line->lane].kind = (enum trace_kind)line->kind;
	lanes[line->lane].name = strdup(line->name);
	return lanes[line->lane].name ? 0 : -ENOMEM;
}

static int take_name(struct trace_set *set, const struct trace_line *line)
{
	if (!set->names)
		set->names = calloc(TRACE_NAME_IDS, sizeof(*set->names));
	if (!set->names)
		return -ENOMEM;
	if (set->names[line->id])
		return ERR_PROTOCOL;
	set->names[line->id] = strdup(line->name);
	return set->names[line->id] ? 0 : -ENOMEM;
}

/* A number that the daemon cannot have given stays as it is: a figure to wonder at. */
static uint32_t unit_of(const struct trace_job *job, const struct trace_set *set, uint32_t unit)
{
	return set->daemon && unit < job->daemon_unit_count ? job->daemon_units[unit] : unit;
}

static int take_event(struct trace_job *job, struct trace_set *set, const struct trace_line *line)
{
	struct trace_set_lane *lane = lane_of(set, line->lane);

	if (!lane || !set->names || !set->names[line->id])
		return ERR_PROTOCOL;
	if (job->event_count == job->event_max) {
		lane->refused++;
		return 0;
	}
	if (lane->count == lane->room) {
		size_t room = lane->room ? 2 * lane->room : LANE_ROOM_FIRST;
		struct trace_item *items = realloc(lane->items, room * sizeof(*items));

		if (!items)
			return -ENOMEM;
		lane->items = items;
		lane->room = room;
	}
	lane->items[lane->count++] = (struct trace_item){
		.begin_ns = line->begin_ns,
		.end_ns = line->end_ns,
		.bytes = line->bytes,
		.unit = unit_of(job, set, line->unit),
		.id = (uint16_t)line->id,
		.state = (uint8_t)line->state,
	};
	job->event_count++;
	return 0;
}

static int take_line(struct trace_job *job, struct trace_set *set, const struct trace_line *line)
{
	struct trace_set_lane *lane;

	switch (line->type) {
	case TRACE_LINE_LANE:
		return take_lane(set, line);
	case TRACE_LINE_NAME:
		return take_name(set, line);
	case TRACE_LINE_EVENT:
		return take_event(job, set, line);
	case TRACE_LINE_DROPPED:
		lane = lane_of(set, line->lane);
		if (!lane)
			return ERR_PROTOCOL;
		lane->dropped = line->dropped;
		return 0;
	}
	return ERR_PROTOCOL;
}

/* Whose report it is, by its first line, which *at is moved behind; NULL: nobody's. */
static struct trace_set *set_of(struct trace_job *job, unsigned rank, const char **at, size_t len)
{
	static const char *const whose[] = {TRACE_OF_WORKER, TRACE_OF_DAEMON};

	for (unsigned i = 0; i < 2; i++) {
		size_t head = strlen(whose[i]);

		if (len < head || memcmp(*at, whose[i], head) != 0)
			continue;
		*at += head;
		return &job->sets[2 * rank + i];
	}
	return NULL;
}

int trace_job_take(struct trace_job *job, unsigned rank, const char *text, size_t len,
		   struct err *err)
{
	const char *at = text, *end = text + len;
	struct trace_set *set = set_of(job, rank, &at, len);
	struct trace_line line;
	int rc = 1;

	if (!set)
		return err_set(err, ERR_PROTOCOL, "trace of rank %u: a report of nobody's", rank);
	while (!set->broken && rc > 0) {
		const char *before = at;

		rc = trace_text_next(&at, end, &line);
		if (rc > 0) {
			int taken = take_line(job, set, &line);

			rc = taken < 0 ? taken : rc;
		}
		if (rc >= 0)
			continue;
		set->broken = true;
		char name[TRACE_SET_NAME_BYTES];
		trace_set_name(set, name);
		if (rc == -ENOMEM)
			return err_sys(err, rc, "trace of %s", name);
		return err_set(err, ERR_PROTOCOL, "trace of %s: '%.*s' makes no sense", name,
			       (int)strnlen(before, (size_t)(end - before) < 40
							    ? (size_t)(end - before)
							    : 40),
			       before);
	}
	return 0;
}

/* ---- order ---- */

/* What holds another comes before it. */
static int compare(const void *a, const void *b)
{
	const struct trace_item *x = a, *y = b;

	if (x->begin_ns != y->begin_ns)
		return x->begin_ns < y->begin_ns ? -1 : 1;
	if (x->end_ns != y->end_ns)
		return x->end_ns > y->end_ns ? -1 : 1;
	return (int)x->state - (int)y->state;
}

void trace_job_finish(struct trace_job *job)
{
	for (unsigned i = 0; i < 2 * job->world; i++)
		for (size_t k = 0; k < job->sets[i].lane_count; k++) {
			struct trace_set_lane *lane = &job->sets[i].lanes[k];

			if (lane->count > 1)
				qsort(lane->items, lane->count, sizeof(*lane->items), compare);
		}
}
