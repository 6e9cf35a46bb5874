/*
 * Writing a trace. Called by dsrun's thread once the job is over.
 *
 * Invariants
 *  1. Events of one tid of one pid do not overlap, but where one lies within another: each lane's
 *     events are laid out in rows by row_choose, and a row is a tid.
 *  2. Events stand in the order of their begins, what holds another before it.
 *  3. Whatever the names hold, the text is JSON: they go through json_string.
 */
#include "launcher/trace_json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"

/* Rows of one lane, and events open in a row: past that an event shares the last one. */
#define ROWS_MAX  1024u
#define DEPTH_MAX 16u

/* What is open in a row at a time, outermost first. */
struct row {
	uint64_t ends[DEPTH_MAX];
	unsigned depth;
};

/* An event on its way to the file. */
struct ref {
	const struct trace_set *set;
	const struct trace_item *item;
	uint32_t pid, tid;
};

struct out {
	struct json json;
	struct ref *refs;
	size_t ref_count;
	struct row *rows; /* [ROWS_MAX], of the lane in work */
	uint64_t base_ns;
};

/* ---- rows ---- */

static bool row_takes(struct row *row, const struct trace_item *item, bool nests)
{
	while (row->depth > 0 && row->ends[row->depth - 1] <= item->begin_ns)
		row->depth--;
	return row->depth == 0 ||
	       (nests && row->depth < DEPTH_MAX && item->end_ns <= row->ends[row->depth - 1]);
}

/* The first row that has room for the event; events come by their begins. */
static unsigned row_choose(struct row *rows, const struct trace_item *item, bool nests)
{
	unsigned i = 0;

	while (i + 1 < ROWS_MAX && !row_takes(&rows[i], item, nests))
		i++;
	if (rows[i].depth < DEPTH_MAX)
		rows[i].ends[rows[i].depth++] = item->end_ns;
	return i;
}

/* Refers to a lane's events. Returns how many rows they took, one at least. */
static unsigned lane_lay_out(struct out *o, const struct trace_set *set,
			     const struct trace_set_lane *lane, uint32_t pid, uint32_t tid)
{
	unsigned rows = 1;

	memset(o->rows, 0, ROWS_MAX * sizeof(*o->rows));
	for (size_t i = 0; i < lane->count; i++) {
		unsigned row = row_choose(o->rows, &lane->items[i], lane->kind != TRACE_QUEUE);

		o->refs[o->ref_count++] = (struct ref){set, &lane->items[i], pid, tid + row};
		rows = row + 1 > rows ? row + 1 : rows;
	}
	return rows;
}

/* ---- what processes and threads are called ---- */

static void put_name(struct json *j, const char *what, uint32_t pid, uint32_t tid, const char *name)
{
	json_object_begin(j, NULL);
	json_string(j, "ph", "M");
	json_string(j, "name", what);
	json_u64(j, "pid", pid);
	json_u64(j, "tid", tid);
	json_object_begin(j, "args");
	json_string(j, "name", name);
	json_object_end(j);
	json_object_end(j);
}

static void put_order(struct json *j, const char *what, uint32_t pid, uint32_t tid, uint32_t place)
{
	json_object_begin(j, NULL);
	json_string(j, "ph", "M");
	json_string(j, "name", what);
	json_u64(j, "pid", pid);
	json_u64(j, "tid", tid);
	json_object_begin(j, "args");
	json_u64(j, "sort_index", place);
	json_object_end(j);
	json_object_end(j);
}

static void put_lane(struct out *o, const struct trace_set_lane *lane, uint32_t pid, uint32_t tid,
		     unsigned rows)
{
	char name[TRACE_NAME_BYTES + 16];

	for (unsigned i = 0; i < rows; i++) {
		snprintf(name, sizeof(name), "%s (%u)", lane->name, i + 1);
		put_name(&o->json, "thread_name", pid, tid + i, i ? name : lane->name);
		put_order(&o->json, "thread_sort_index", pid, tid + i, tid + i);
	}
}

static void put_set(struct out *o, const struct trace_set *set, uint32_t pid)
{
	char name[TRACE_SET_NAME_BYTES];
	uint32_t tid = 1;

	if (set->lane_count == 0)
		return;
	put_name(&o->json, "process_name", pid, 0, trace_set_name(set, name));
	put_order(&o->json, "process_sort_index", pid, 0, pid);
	for (size_t i = 0; i < set->lane_count; i++) {
		unsigned rows;

		if (!set->lanes[i].name)
			continue;
		rows = lane_lay_out(o, set, &set->lanes[i], pid, tid);
		put_lane(o, &set->lanes[i], pid, tid, rows);
		tid += rows;
	}
}

/* ---- events ---- */

/* Microseconds, with all that was measured. */
static void put_time(struct json *j, const char *key, uint64_t ns)
{
	char text[32];

	snprintf(text, sizeof(text), "%" PRIu64 ".%03" PRIu64, ns / 1000, ns % 1000);
	json_raw(j, key, text);
}

static void put_event(struct out *o, const struct ref *ref)
{
	static const char *const states[] = {
		[TRACE_SPAN] = "span", [TRACE_BUSY] = "busy", [TRACE_WAIT] = "wait"};
	const struct trace_item *item = ref->item;
	char name[TRACE_NAME_BYTES + 16];
	struct json *j = &o->json;

	snprintf(name, sizeof(name), "%s%s", item->state == TRACE_WAIT ? "wait: " : "",
		 ref->set->names[item->id]);
	json_object_begin(j, NULL);
	json_string(j, "ph", "X");
	json_string(j, "name", name);
	json_string(j, "cat", states[item->state]);
	json_u64(j, "pid", ref->pid);
	json_u64(j, "tid", ref->tid);
	put_time(j, "ts", item->begin_ns - o->base_ns);
	put_time(j, "dur", item->end_ns - item->begin_ns);
	if (item->unit != TRACE_NO_UNIT || item->bytes) {
		json_object_begin(j, "args");
		if (item->unit != TRACE_NO_UNIT)
			json_u64(j, "unit", item->unit);
		if (item->bytes)
			json_u64(j, "bytes", item->bytes);
		json_object_end(j);
	}
	json_object_end(j);
}

static int compare(const void *a, const void *b)
{
	const struct ref *x = a, *y = b;

	if (x->item->begin_ns != y->item->begin_ns)
		return x->item->begin_ns < y->item->begin_ns ? -1 : 1;
	/* Within a lane by address: trace_job_finish has put holders first. */
	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	return x->item < y->item ? -1 : x->item > y->item;
}

static void put_table(struct out *o, const struct trace_table *table)
{
	json_object_begin(&o->json, "otherData");
	json_u64(&o->json, "clock_base_ns", o->base_ns);
	put_time(&o->json, "table_begin_us", table->begin_ns - o->base_ns);
	put_time(&o->json, "table_end_us", table->end_ns - o->base_ns);
	json_object_begin(&o->json, "table");
	trace_table_json(table, &o->json);
	json_object_end(&o->json);
	json_object_end(&o->json);
}

static void put_all(struct out *o, const struct trace_job *job, const struct trace_table *table)
{
	json_object_begin(&o->json, NULL);
	json_string(&o->json, "displayTimeUnit", "ms");
	json_array_begin(&o->json, "traceEvents");
	for (unsigned i = 0; i < 2 * job->world; i++)
		put_set(o, &job->sets[i], i + 1);
	if (o->ref_count > 0) {
		qsort(o->refs, o->ref_count, sizeof(*o->refs), compare);
		o->base_ns = o->refs[0].item->begin_ns;
	}
	for (size_t i = 0; i < o->ref_count; i++)
		put_event(o, &o->refs[i]);
	json_array_end(&o->json);
	put_table(o, table);
	json_object_end(&o->json);
}

int trace_json_write(const char *path, const struct trace_job *job, const struct trace_table *table,
		     struct err *err)
{
	struct out o = {.ref_count = 0};
	const char *text = NULL;
	int rc;

	json_init(&o.json);
	o.refs = malloc((job->event_count + 1) * sizeof(*o.refs));
	o.rows = malloc(ROWS_MAX * sizeof(*o.rows));
	if (o.refs && o.rows) {
		put_all(&o, job, table);
		text = json_text(&o.json);
	}
	rc = text ? file_replace(path, text, strlen(text), err) : err_sys(err, -ENOMEM, "%s", path);
	json_done(&o.json);
	free(o.refs);
	free(o.rows);
	return rc < 0 ? err_add(err, "trace") : 0;
}
