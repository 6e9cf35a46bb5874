/*
 * The table of a trace: intervals clipped to the window, united, and measured. Called by dsrun's
 * thread once the job is over.
 *
 * Invariants
 *  1. A list of spans is sorted and disjoint, and no span of it is empty; so lengths add up, and
 *     two lists are compared in one walk.
 *  2. For each row busy_ns + waiting_ns + idle_ns is the length of the window, and hidden_ns is at
 *     most busy_ns: the lists are cut out of each other, never measured separately.
 */
#include "launcher/trace_table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "offload/job.h"

struct span {
	uint64_t begin_ns, end_ns;
};

struct spans {
	struct span *at;
	size_t count;
};

/* ---- lists of spans ---- */

/* Room for as many as it takes. */
static int spans_open(struct spans *s, size_t room)
{
	*s = (struct spans){.at = malloc((room ? room : 1) * sizeof(*s->at))};
	return s->at ? 0 : -ENOMEM;
}

/* Adds one that begins no earlier than the last one did. */
static void spans_add(struct spans *s, uint64_t begin_ns, uint64_t end_ns)
{
	struct span *last = s->count ? &s->at[s->count - 1] : NULL;

	if (begin_ns >= end_ns)
		return;
	if (last && begin_ns <= last->end_ns)
		last->end_ns = end_ns > last->end_ns ? end_ns : last->end_ns;
	else
		s->at[s->count++] = (struct span){begin_ns, end_ns};
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* What of a lane is in a state, within the window. */
static int spans_of(const struct trace_set_lane *lane, enum trace_state state,
		    const struct trace_table *t, struct spans *ret)
{
	int rc = spans_open(ret, lane->count);

	for (size_t i = 0; rc == 0 && i < lane->count; i++) {
		const struct trace_item *item = &lane->items[i];

		if (item->state == state)
			spans_add(ret, max_u64(item->begin_ns, t->begin_ns),
				  min_u64(item->end_ns, t->end_ns));
	}
	return rc;
}

static uint64_t length(const struct spans *s)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < s->count; i++)
		sum += s->at[i].end_ns - s->at[i].begin_ns;
	return sum;
}

/* How long both lists are in a span. */
static uint64_t overlap(const struct spans *a, const struct spans *b)
{
	size_t i = 0, k = 0;
	uint64_t sum = 0;

	while (i < a->count && k < b->count) {
		uint64_t begin = max_u64(a->at[i].begin_ns, b->at[k].begin_ns);
		uint64_t end = min_u64(a->at[i].end_ns, b->at[k].end_ns);

		if (begin < end)
			sum += end - begin;
		if (a->at[i].end_ns < b->at[k].end_ns)
			i++;
		else
			k++;
	}
	return sum;
}

/* What of `from` is not in `cut`. */
static int subtract(const struct spans *from, const struct spans *cut, struct spans *ret)
{
	int rc = spans_open(ret, from->count + cut->count);
	size_t k = 0;

	for (size_t i = 0; rc == 0 && i < from->count; i++) {
		uint64_t begin = from->at[i].begin_ns, end = from->at[i].end_ns;

		while (k < cut->count && cut->at[k].end_ns <= begin)
			k++;
		for (size_t n = k; n < cut->count && cut->at[n].begin_ns < end; n++) {
			spans_add(ret, begin, cut->at[n].begin_ns);
			begin = max_u64(begin, cut->at[n].end_ns);
		}
		spans_add(ret, begin, end);
	}
	return rc;
}

/* A lane's waiting, and what it was busy of the rest. The caller frees both, also on failure. */
static int measure(const struct trace_set_lane *lane, const struct trace_table *t,
		   struct spans *ret_busy, struct spans *ret_waiting)
{
	struct spans all = {0};
	int rc;

	*ret_busy = *ret_waiting = (struct spans){0};
	rc = spans_of(lane, TRACE_WAIT, t, ret_waiting);
	if (rc == 0)
		rc = spans_of(lane, TRACE_BUSY, t, &all);
	if (rc == 0)
		rc = subtract(&all, ret_waiting, ret_busy);
	free(all.at);
	return rc;
}

/* ---- the window ---- */

static bool is_step(const struct trace_set *set, const struct trace_set_lane *lane,
		    const struct trace_item *item)
{
	return !set->daemon && lane->kind == TRACE_THREAD && item->unit != TRACE_NO_UNIT &&
	       item->state == TRACE_BUSY && strcmp(set->names[item->id], TRACE_STEP) == 0;
}

typedef void item_fn(struct trace_table *t, const struct trace_item *item, bool step);

static void each_item(const struct trace_job *job, struct trace_table *t, item_fn *fn)
{
	for (unsigned i = 0; i < 2 * job->world; i++)
		for (size_t k = 0; k < job->sets[i].lane_count; k++) {
			const struct trace_set_lane *lane = &job->sets[i].lanes[k];

			for (size_t n = 0; n < lane->count; n++)
				fn(t, &lane->items[n],
				   is_step(&job->sets[i], lane, &lane->items[n]));
		}
}

static void see_steps(struct trace_table *t, const struct trace_item *item, bool step)
{
	t->event_count++;
	if (!step)
		return;
	if (t->last_step == 0 || item->unit < t->first_step)
		t->first_step = item->unit;
	t->last_step = max_u64(t->last_step, item->unit);
}

static void see_window(struct trace_table *t, const struct trace_item *item, bool step)
{
	/* Without a whole step the window is all there is. */
	if (t->last_step && (!step || item->unit < t->first_step))
		return;
	t->begin_ns = t->end_ns ? min_u64(t->begin_ns, item->begin_ns) : item->begin_ns;
	t->end_ns = max_u64(t->end_ns, item->end_ns);
}

static void window_find(const struct trace_job *job, struct trace_table *t)
{
	each_item(job, t, see_steps);
	if (t->last_step - t->first_step >= TRACE_WARM_STEPS)
		t->first_step += TRACE_WARM_STEPS;
	each_item(job, t, see_window);
}

/* ---- rows ---- */

/* When the rank's compute lanes were busy. The caller frees it, also on failure. */
static int compute_of(const struct trace_job *job, unsigned rank, const struct trace_table *t,
		      struct spans *ret)
{
	const struct trace_set *set = &job->sets[2 * rank];

	*ret = (struct spans){0};
	for (size_t k = 0; k < set->lane_count; k++) {
		struct spans waiting;
		int rc;

		if (!set->lanes[k].name || set->lanes[k].kind != TRACE_COMPUTE)
			continue;
		rc = measure(&set->lanes[k], t, ret, &waiting);
		free(waiting.at);
		return rc; /* a rank has one */
	}
	return 0;
}

static int row_make(struct trace_table *t, struct trace_row *row, const struct spans *compute)
{
	struct spans busy, waiting;
	int rc = measure(row->lane, t, &busy, &waiting);

	if (rc == 0) {
		row->busy_ns = length(&busy);
		row->waiting_ns = length(&waiting);
		row->idle_ns = t->end_ns - t->begin_ns - row->busy_ns - row->waiting_ns;
		row->transfer = row->lane->kind == TRACE_TRANSFER || row->lane->kind == TRACE_QUEUE;
		row->hidden_ns = row->transfer ? overlap(&busy, compute) : 0;
		t->transfer_ns += row->transfer ? row->busy_ns : 0;
		t->hidden_ns += row->hidden_ns;
		t->dropped += row->lane->dropped + row->lane->refused;
	}
	free(busy.at);
	free(waiting.at);
	return rc;
}

static int rank_rows(const struct trace_job *job, unsigned rank, struct trace_table *t)
{
	struct spans compute;
	int rc = compute_of(job, rank, t, &compute);

	for (unsigned i = 2 * rank; i < 2 * rank + 2; i++)
		for (size_t k = 0; rc == 0 && k < job->sets[i].lane_count; k++) {
			struct trace_row *row = &t->rows[t->row_count];

			if (!job->sets[i].lanes[k].name)
				continue;
			row->set = &job->sets[i];
			row->lane = &job->sets[i].lanes[k];
			rc = row_make(t, row, &compute);
			t->row_count++;
		}
	free(compute.at);
	return rc;
}

int trace_table_make(const struct trace_job *job, struct trace_table **ret, struct err *err)
{
	struct trace_table *t = calloc(1, sizeof(*t));
	size_t lanes = 0;
	int rc = t ? 0 : -ENOMEM;

	for (unsigned i = 0; i < 2 * job->world; i++)
		lanes += job->sets[i].lane_count;
	if (t)
		t->rows = calloc(lanes + 1, sizeof(*t->rows));
	if (!t || !t->rows) {
		trace_table_free(t);
		return err_sys(err, -ENOMEM, "table of the trace");
	}
	window_find(job, t);
	for (unsigned rank = 0; rc == 0 && rank < job->world; rank++)
		rc = rank_rows(job, rank, t);
	if (rc < 0) {
		trace_table_free(t);
		return err_sys(err, rc, "table of the trace");
	}
	*ret = t;
	return 0;
}

struct trace_table *trace_table_free(struct trace_table *t)
{
	if (t)
		free(t->rows);
	free(t);
	return NULL;
}

double trace_table_hidden(const struct trace_table *t)
{
	return t->transfer_ns ? (double)t->hidden_ns / (double)t->transfer_ns : 1;
}

/* ---- for people and machines ---- */

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

static double seconds(uint64_t ns)
{
	return 1e-9 * (double)ns;
}

static void print_row(FILE *f, const struct trace_table *t, const struct trace_row *row, int width)
{
	uint64_t wall = t->end_ns - t->begin_ns;

	fprintf(f, "  %-*s %6.1f %% %6.1f %% %6.1f %% %10.3f s", width, row->lane->name,
		percent(row->busy_ns, wall), percent(row->waiting_ns, wall),
		percent(row->idle_ns, wall), seconds(row->busy_ns));
	if (row->transfer && row->busy_ns)
		fprintf(f, " %6.1f %%", percent(row->hidden_ns, row->busy_ns));
	fputc('\n', f);
}

static void print_rows(FILE *f, const struct trace_table *t)
{
	const struct trace_set *set = NULL;
	char name[TRACE_SET_NAME_BYTES];
	int width = 10;

	for (size_t i = 0; i < t->row_count; i++)
		if ((int)strlen(t->rows[i].lane->name) > width)
			width = (int)strlen(t->rows[i].lane->name);
	fprintf(f, "  %-*s %8s %8s %8s %12s %8s\n", width, "", "busy", "waiting", "idle", "busy",
		"hidden");
	for (size_t i = 0; i < t->row_count; i++) {
		if (t->rows[i].set != set)
			fprintf(f, "%s\n", trace_set_name(t->rows[i].set, name));
		set = t->rows[i].set;
		print_row(f, t, &t->rows[i], width);
	}
}

static void print_table(FILE *f, const struct trace_table *t, const char *file)
{
	if (t->event_count == 0) {
		fprintf(f, "trace: nothing was recorded: no step that was to be was begun\n");
		return;
	}
	if (t->last_step)
		fprintf(f, "trace: %s; its steps %" PRIu64 " to %" PRIu64 ", %.3f s:\n", file,
			t->first_step, t->last_step, seconds(t->end_ns - t->begin_ns));
	else
		fprintf(f, "trace: %s; no whole step, %.3f s:\n", file,
			seconds(t->end_ns - t->begin_ns));
	print_rows(f, t);
	fprintf(f, "transfers: %.3f s, %.1f %% of it hidden behind compute\n",
		seconds(t->transfer_ns), 100 * trace_table_hidden(t));
	if (t->dropped)
		fprintf(f,
			"trace: %" PRIu64 " events are missing, for which there was no room: "
			"the figures are too small; trace fewer steps\n",
			t->dropped);
}

char *trace_table_text(const struct trace_table *t, const char *file)
{
	size_t len;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);
	bool failed;

	if (!f)
		return NULL;
	print_table(f, t, file);
	failed = ferror(f) != 0;
	if (fclose(f) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}

static void row_json(const struct trace_row *row, struct json *j)
{
	json_object_begin(j, NULL);
	json_u64(j, "rank", row->set->rank);
	json_string(j, "process", row->set->daemon ? "dsoffloadd" : "dsworker");
	json_string(j, "lane", row->lane->name);
	json_double(j, "busy_seconds", seconds(row->busy_ns));
	json_double(j, "waiting_seconds", seconds(row->waiting_ns));
	json_double(j, "idle_seconds", seconds(row->idle_ns));
	if (row->transfer)
		json_double(j, "hidden_seconds", seconds(row->hidden_ns));
	json_u64(j, "events", row->lane->count);
	json_u64(j, "dropped", row->lane->dropped + row->lane->refused);
	json_object_end(j);
}

void trace_table_json(const struct trace_table *t, struct json *j)
{
	json_u64(j, "first_step", t->first_step);
	json_u64(j, "last_step", t->last_step);
	json_double(j, "seconds", seconds(t->end_ns - t->begin_ns));
	json_double(j, "transfer_seconds", seconds(t->transfer_ns));
	json_double(j, "hidden_seconds", seconds(t->hidden_ns));
	json_double(j, "hidden_fraction", trace_table_hidden(t));
	json_u64(j, "events", t->event_count);
	json_u64(j, "dropped", t->dropped);
	json_array_begin(j, "lanes");
	for (size_t i = 0; i < t->row_count; i++)
		row_json(&t->rows[i], j);
	json_array_end(j);
}
