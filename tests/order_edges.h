/*
 * What the engine's orderings are for: each is left out of the proof, and either something is no
 * longer ordered, or nothing ever depended on it.
 */
#ifndef TESTS_ORDER_EDGES_H
#define TESTS_ORDER_EDGES_H

#include "tests/record_proof.h"

/* All calls from one place on one stream about events, or operations of the daemon, of one name. */
struct order_edge {
	enum record_kind kind;
	char stream[RECORD_NAME_BYTES], of[RECORD_NAME_BYTES];
	char text[3 * RECORD_NAME_BYTES]; /* "copy-in waits for gather_slot.used" */
	const void *site;
	unsigned long calls; /* in all logs */
	bool needed;         /* leaving all of them out has shown in some log */
};

struct order_edges {
	/* Of a class that answers true nobody asks whether it is needed. NULL: none does. */
	bool (*spare)(const char *text);
	struct order_edge *at;
	size_t count, room;
	/* single calls that were left out: what came of it */
	unsigned long noticed, dominated, unused;
};

/*
 * Takes in a log that is in order. Leaves out each class of edges that has not been found needed,
 * and then single calls: every `stride`-th, beginning at `first`; stride 0: none.
 */
void order_edges_add(struct order_edges *edges, const struct record_log *log, size_t first,
		     size_t stride);
void order_edges_done(struct order_edges *edges);

/* Function, file and line of a call, by addr2line where it is there; static storage. */
const char *order_edge_place(const struct order_edge *edge);

#endif
