/*
 * Who has come: the head of the segment that the ranks of a host share. Called by a backend's open,
 * from the worker's main thread.
 *
 * 1. Whoever comes first says how large the world is and in which layout; the others compare.
 * 2. A rank writes no flag but its own, once.
 * 3. Nothing read here is used as an index or a size.
 */
#include "comm/internal.h"

#include <stdio.h>
#include <string.h>

#define NAMED_MAX 8u

int comm_roll_join(struct comm_roll *roll, uint64_t tag, unsigned rank, unsigned world,
		   struct err *err)
{
	uint64_t ours = tag + world, seen = 0;

	if (!atomic_compare_exchange_strong_explicit(&roll->tag, &seen, ours, memory_order_relaxed,
						     memory_order_relaxed) &&
	    seen != ours)
		return err_set(
			err, ERR_PROTOCOL,
			"another rank made it for a world of %u in layout %x, this one is for "
			"%u in layout %x",
			(unsigned)(seen & 0xffffff), (unsigned)(seen >> 24), world,
			(unsigned)(ours >> 24));
	if (atomic_exchange_explicit(&roll->present[rank], 1, memory_order_relaxed) != 0)
		return err_set(err, ERR_PROTOCOL, "rank %u is there twice", rank);
	return 0;
}

unsigned comm_roll_missing(const struct comm_roll *roll, unsigned world,
			   char ret[COMM_ROLL_TEXT_BYTES])
{
	unsigned missing = 0;
	int at = 0;

	for (unsigned r = 0; r < world; r++)
		if (!atomic_load_explicit(&roll->present[r], memory_order_relaxed))
			missing++;
	at = snprintf(ret, COMM_ROLL_TEXT_BYTES, missing == 1 ? "rank" : "ranks");
	for (unsigned r = 0, named = 0; r < world && named < NAMED_MAX; r++)
		if (!atomic_load_explicit(&roll->present[r], memory_order_relaxed))
			at += snprintf(ret + at, COMM_ROLL_TEXT_BYTES - (size_t)at, "%s %u",
				       named++ ? "," : "", r);
	if (missing > NAMED_MAX)
		snprintf(ret + at, COMM_ROLL_TEXT_BYTES - (size_t)at, " and %u more",
			 missing - NAMED_MAX);
	return missing;
}
