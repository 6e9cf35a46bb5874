/*
 * A ring of fixed-size records between two processes: one producer, one consumer. The memory may
 * belong to a peer that is dead or lying: indices and geometry are kept privately and only compared
 * with what the header says, records are copied out before anyone looks at them.
 *
 * Wake-ups cost a system call only when the other side sleeps: the consumer announces its sleep in
 * the header and polls an eventfd, and the producer writes the eventfd when it sees that.
 */
#ifndef COMMON_RING_H
#define COMMON_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define RING_SLOTS_MAX 65536u

struct ring_header;

/* One side's view; caller's storage. Not for two threads at once. */
struct ring {
	struct ring_header *header;
	uint8_t *slots;
	uint32_t slot_bytes, slot_count;
	uint32_t index; /* our own head or tail: never reread from shared memory */
	int wake_fd;    /* eventfd, non-blocking; borrowed */
};

/* Bytes of shared memory a ring takes, a multiple of 128. */
size_t ring_bytes(uint32_t slot_bytes, uint32_t slot_count);

/*
 * Formats zeroed shared memory, aligned to 128. slot_bytes is a multiple of 8; slot_count a power
 * of two, at most RING_SLOTS_MAX.
 */
void ring_format(void *mem, uint32_t slot_bytes, uint32_t slot_count);

/*
 * Takes a side of a freshly formatted ring, from record 0 on. Returns ERR_PROTOCOL, with both
 * geometries in the text, when magic, version or geometry are not as expected.
 */
int ring_attach(struct ring *ring, void *mem, size_t mem_bytes, uint32_t slot_bytes,
		uint32_t slot_count, int wake_fd, struct err *err);

/*
 * Producer: copies one record in and wakes a sleeping consumer. Returns 0, -EAGAIN when full, or
 * ERR_PROTOCOL when the consumer's index makes no sense.
 */
int ring_push(struct ring *ring, const void *record);

/* Consumer: copies one record out. Returns 0, -EAGAIN when empty, or ERR_PROTOCOL as above. */
int ring_pop(struct ring *ring, void *ret_record);

/*
 * Consumer, before polling wake_fd: announces sleep, then looks again. Returns true when the ring
 * is still empty and the caller may poll; false (announcement withdrawn) when there is a record.
 */
bool ring_sleep_begin(struct ring *ring);

/* Consumer, after polling: withdraws the announcement and empties wake_fd. */
void ring_sleep_end(struct ring *ring);

#endif
