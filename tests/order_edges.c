/*
 * Leaving out edges. A class is left out whole, since one wait of many may stand in for another; a
 * class that was needed in one log is not tried again. Single calls tell more about the proof than
 * about the engine: a call that orders something new, and whose absence nobody notices, is no
 * fault, since the next call of its class may do as well.
 */
#include "tests/order_edges.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *must(void *mem)
{
	if (!mem)
		abort();
	return mem;
}

static const char *of_name(const struct record_log *log, const struct record_entry *e)
{
	if (e->kind == RECORD_DONE)
		return log->entries[e->partner].what;
	return e->event >= 0 ? log->event_names[e->event] : "";
}

static bool belongs(const struct order_edge *edge, const struct record_log *log,
		    const struct record_entry *e)
{
	return e->kind == edge->kind && e->site == edge->site &&
	       strcmp(of_name(log, e), edge->of) == 0 &&
	       strcmp(e->stream >= 0 ? log->streams[e->stream] : "", edge->stream) == 0;
}

static void text_make(struct order_edge *e)
{
	static const char *const verbs[RECORD_KIND_COUNT] = {
		[RECORD_EVENT] = "records ",
		[RECORD_WAIT] = "waits for ",
		[RECORD_SYNC] = "is synced",
		[RECORD_EVENT_SYNC] = "the driving thread waits for ",
		[RECORD_QUERY] = "the driving thread looks at ",
		[RECORD_DONE] = "the driving thread waits for the daemon's ",
	};

	snprintf(e->text, sizeof(e->text), "%s%s%s%s", e->stream, *e->stream ? " " : "",
		 verbs[e->kind], e->of);
}

/* The index of the entry's class, a new one if need be. */
static size_t class_of(struct order_edges *edges, const struct record_log *log,
		       const struct record_entry *e)
{
	struct order_edge *new;

	for (size_t i = 0; i < edges->count; i++)
		if (belongs(&edges->at[i], log, e))
			return i;
	if (edges->count == edges->room) {
		edges->room = edges->room ? 2 * edges->room : 64;
		edges->at = must(realloc(edges->at, edges->room * sizeof(*edges->at)));
	}
	new = &edges->at[edges->count];
	*new = (struct order_edge){.kind = e->kind, .site = e->site};
	snprintf(new->of, sizeof(new->of), "%s", of_name(log, e));
	snprintf(new->stream, sizeof(new->stream), "%s",
		 e->stream >= 0 ? log->streams[e->stream] : "");
	text_make(new);
	return edges->count++;
}

static void classes_try(struct order_edges *edges, struct record_proof *proof,
			const struct record_log *log, const size_t *classes, bool *left_out)
{
	struct record_fault fault;

	for (size_t c = 0; c < edges->count; c++) {
		size_t members = 0;

		if (edges->at[c].needed || (edges->spare && edges->spare(edges->at[c].text)))
			continue;
		for (size_t i = 0; i < log->count; i++) {
			left_out[i] = classes[i] == c;
			members += left_out[i];
		}
		edges->at[c].needed = members && !record_proof_holds(proof, left_out, &fault);
	}
	memset(left_out, 0, log->count * sizeof(*left_out));
}

static void calls_try(struct order_edges *edges, struct record_proof *proof,
		      const struct record_log *log, const bool *adds, bool *left_out, size_t first,
		      size_t stride)
{
	struct record_fault fault;

	for (size_t i = first; stride && i < log->count; i += stride) {
		if (!record_orders(&log->entries[i]))
			continue;
		if (!adds[i]) {
			edges->dominated++;
			continue;
		}
		left_out[i] = true;
		if (record_proof_holds(proof, left_out, &fault))
			edges->unused++;
		else
			edges->noticed++;
		left_out[i] = false;
	}
}

void order_edges_add(struct order_edges *edges, const struct record_log *log, size_t first,
		     size_t stride)
{
	struct record_proof *proof = record_proof_open(log);
	size_t *classes = must(malloc((log->count + 1) * sizeof(*classes)));
	bool *left_out = must(calloc(log->count + 1, sizeof(*left_out)));
	bool *adds = must(calloc(log->count + 1, sizeof(*adds)));
	struct record_fault fault;

	for (size_t i = 0; i < log->count; i++) {
		classes[i] = SIZE_MAX;
		if (!record_orders(&log->entries[i]))
			continue;
		classes[i] = class_of(edges, log, &log->entries[i]);
		edges->at[classes[i]].calls++;
	}
	(void)record_proof_holds(proof, NULL, &fault);
	memcpy(adds, record_proof_adds(proof), log->count * sizeof(*adds));
	classes_try(edges, proof, log, classes, left_out);
	calls_try(edges, proof, log, adds, left_out, first, stride);
	free(adds);
	free(left_out);
	free(classes);
	record_proof_free(proof);
}

void order_edges_done(struct order_edges *edges)
{
	free(edges->at);
	*edges = (struct order_edges){0};
}

const char *order_edge_place(const struct order_edge *e)
{
	extern const char __executable_start[];
	static char text[512];
	char command[256];
	FILE *out;

	/* One byte back: the call, not what it returns to. */
	snprintf(command, sizeof(command),
		 "addr2line -f -i -p -s -e /proc/%d/exe %#zx 2>/dev/null | head -1", (int)getpid(),
		 (size_t)((const char *)e->site - __executable_start - 1));
	snprintf(text, sizeof(text), "%p", e->site);
	out = popen(command, "r");
	if (out && fgets(text, sizeof(text), out))
		text[strcspn(text, "\n")] = '\0';
	if (out)
		pclose(out);
	return text;
}
