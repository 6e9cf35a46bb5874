/*
 * Judges the log of a recording device: is every two accesses to a byte, of which one is a write,
 * ordered by happens-before? If so, each read sees the last write before it, whatever the streams'
 * and the daemon's timing.
 *
 * Happens-before is the least order with these edges, and no others; where each comes from:
 *	the driving thread's calls, in program order
 *	a call that enqueues -> the item
 *	the items of a stream, in order
 *	what is before an item -> what its host function pushes to the daemon -> the item's end
 *	operations on one unit's or blob's state in the order pushed, likewise those on its kept
 *	gradient; where one changes what the other reads, the pushes must themselves be ordered
 *	all items before an event's record -> all items behind a later wait for it
 *	all items of a stream, or before an event's record -> what follows a sync, or a query that
 *	said complete
 *	an operation of the daemon -> what follows client_wait or client_poll that said complete
 *
 * An edge can be left out, to see whether anything depends on it.
 */
#ifndef TESTS_RECORD_PROOF_H
#define TESTS_RECORD_PROOF_H

#include "tests/record_device.h"

struct record_proof;

/* Two entries of the log that nothing orders. */
struct record_fault {
	size_t first, second;
	uintptr_t at; /* a byte that both touch; 0: what the daemon holds of a unit or blob */
	size_t bytes;
	bool first_writes, second_writes;
};

/* Borrows the log until record_proof_free. */
struct record_proof *record_proof_open(const struct record_log *log);
struct record_proof *record_proof_free(struct record_proof *proof);

/*
 * True: everything is ordered. False: *ret is the first pair that is not. left_out: NULL, or per
 * entry of the log whether to take the ordering that it stands for as absent.
 */
bool record_proof_holds(struct record_proof *proof, const bool *left_out, struct record_fault *ret);

/*
 * Per entry of the log, of the latest run: does it order anything that the edges before it did not?
 * False: it is dominated, and leaving it out changes nothing.
 */
const bool *record_proof_adds(const struct record_proof *proof);

/* Can the entry be left out? */
bool record_orders(const struct record_entry *entry);

/*
 * True: every access of a stream or the daemon keeps to one allocation of the device, or to one
 * part of registered memory, as far as it is in such memory. False: *ret_entry is the first that
 * does not, and *ret_access which of its accesses.
 */
bool record_within_bounds(const struct record_log *log, size_t *ret_entry, size_t *ret_access);

/* The fault in words, into `text`. */
void record_fault_print(const struct record_log *log, const struct record_fault *fault, char *text,
			size_t text_bytes);

#endif
