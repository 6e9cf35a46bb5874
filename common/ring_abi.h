/*
 * The layout of a ring in shared memory; see ring.h. A change bumps RING_VERSION.
 * Producer and consumer words lie on cache lines of their own, 128 bytes apart since the
 * adjacent-line prefetcher of x86 pulls pairs.
 */
#ifndef COMMON_RING_ABI_H
#define COMMON_RING_ABI_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define RING_MAGIC   0x676e6972u /* "ring" */
#define RING_VERSION 1u

struct ring_header {
	uint32_t magic, version;
	uint32_t slot_bytes, slot_count; /* slot_count is a power of two */
	uint8_t pad0[112];
	_Atomic uint32_t head; /* next record to write; the producer's */
	uint8_t pad1[124];
	_Atomic uint32_t tail; /* next record to read; the consumer's */
	uint8_t pad2[124];
	_Atomic uint32_t sleeping; /* 1 while the consumer sleeps or is about to */
	uint8_t pad3[124];
	/* slot_count * slot_bytes of records follow */
};

_Static_assert(offsetof(struct ring_header, head) == 128, "head moved");
_Static_assert(offsetof(struct ring_header, tail) == 256, "tail moved");
_Static_assert(offsetof(struct ring_header, sleeping) == 384, "sleeping moved");
_Static_assert(sizeof(struct ring_header) == 512, "ring header changed size");

#endif
