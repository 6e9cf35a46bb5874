/*
 * The ring: one producer, one consumer, records of fixed size, in memory a peer may scribble on.
 *
 * The worker's offload client and the daemon's sessions call this, each side from one thread.
 * Head and tail count records for ever and wrap at 2^32; head - tail is what lies in the ring, and
 * (index & (slot_count - 1)) is the slot.
 *
 * Invariants:
 * 1. A side reads its own index and the geometry from its struct ring, never from shared memory.
 * 2. The peer's index is read once per call and bounded before it is used: head - tail in
 *    0..slot_count, or the peer is broken and the call says ERR_PROTOCOL.
 * 3. A record is copied out before the slot is given back, and nobody looks at it in the slot.
 * 4. A consumer that polls has published `sleeping` and has since seen the ring empty; a producer
 *    looks at `sleeping` after it has published a record. Whichever comes second in the single
 *    order of the seq_cst accesses S1, S2 and P1, P2 sees the other, so no wake-up is lost. One too
 *    many is possible and costs a look at an empty ring.
 *
 * The wake-up counter is an eventfd whose open file description both processes share. A hostile
 * peer can only cause extra wake-ups with it, or steal its own; it cannot make a read block
 * (RWF_NOWAIT). A write blocks only when the peer has both cleared O_NONBLOCK and filled the
 * counter, so a process with several peers gives each one's ring to a thread of that peer's own.
 */
#include "common/ring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/ring_abi.h"

#define RING_ALIGN 128u

static bool geometry_fits(uint32_t slot_bytes, uint32_t slot_count)
{
	return slot_bytes > 0 && slot_bytes % 8 == 0 && slot_count > 0 &&
	       slot_count <= RING_SLOTS_MAX && (slot_count & (slot_count - 1)) == 0;
}

size_t ring_bytes(uint32_t slot_bytes, uint32_t slot_count)
{
	size_t bytes = sizeof(struct ring_header) + (size_t)slot_bytes * slot_count;

	return (bytes + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
}

void ring_format(void *mem, uint32_t slot_bytes, uint32_t slot_count)
{
	struct ring_header *h = mem;

	assert((uintptr_t)mem % RING_ALIGN == 0 && geometry_fits(slot_bytes, slot_count));
	h->magic = RING_MAGIC;
	h->version = RING_VERSION;
	h->slot_bytes = slot_bytes;
	h->slot_count = slot_count;
	/* Nobody is attached yet: the descriptor's passing on is what orders these for the peer. */
	atomic_store_explicit(&h->head, 0, memory_order_relaxed);
	atomic_store_explicit(&h->tail, 0, memory_order_relaxed);
	atomic_store_explicit(&h->sleeping, 0, memory_order_relaxed);
}

int ring_attach(struct ring *ring, void *mem, size_t mem_bytes, uint32_t slot_bytes,
		uint32_t slot_count, int wake_fd, struct err *err)
{
	struct ring_header *h = mem;
	struct ring_header seen;

	assert((uintptr_t)mem % RING_ALIGN == 0 && geometry_fits(slot_bytes, slot_count));
	if (mem_bytes < ring_bytes(slot_bytes, slot_count))
		return err_set(err, ERR_PROTOCOL,
			       "ring: %zu bytes of memory, %u slots of %u need %zu", mem_bytes,
			       slot_count, slot_bytes, ring_bytes(slot_bytes, slot_count));
	memcpy(&seen, h, offsetof(struct ring_header, pad0));
	if (seen.magic != RING_MAGIC || seen.version != RING_VERSION)
		return err_set(err, ERR_PROTOCOL,
			       "ring: magic %08x version %u, expected %08x version %u", seen.magic,
			       seen.version, RING_MAGIC, RING_VERSION);
	if (seen.slot_bytes != slot_bytes || seen.slot_count != slot_count)
		return err_set(err, ERR_PROTOCOL,
			       "ring: %u slots of %u bytes, expected %u slots of %u",
			       seen.slot_count, seen.slot_bytes, slot_count, slot_bytes);
	*ring = (struct ring){
		.header = h,
		.slots = (uint8_t *)mem + sizeof(struct ring_header),
		.slot_bytes = slot_bytes,
		.slot_count = slot_count,
		.index = 0,
		.wake_fd = wake_fd,
	};
	return 0;
}

static uint8_t *slot(const struct ring *ring)
{
	return ring->slots + (size_t)(ring->index & (ring->slot_count - 1)) * ring->slot_bytes;
}

/* A full counter (EAGAIN) has woken the reader already; any other failure leaves nothing to do. */
static void wake(const struct ring *ring)
{
	const uint64_t one = 1;
	ssize_t n;

	do
		n = write(ring->wake_fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

int ring_push(struct ring *ring, const void *record)
{
	struct ring_header *h = ring->header;
	uint32_t tail, used;

	/* P0: pairs with C2 in ring_pop; the consumer has finished copying what it gave back. */
	tail = atomic_load_explicit(&h->tail, memory_order_acquire);
	used = ring->index - tail;
	if (used > ring->slot_count)
		return ERR_PROTOCOL;
	if (used == ring->slot_count)
		return -EAGAIN;
	memcpy(slot(ring), record, ring->slot_bytes);
	ring->index++;
	/*
	 * P1: publishes the slot, pairs with C1 in ring_pop and S2 in ring_sleep_begin. Not merely
	 * release: P2 must not pass it, or the reader can go to sleep with this record unseen.
	 */
	atomic_store_explicit(&h->head, ring->index, memory_order_seq_cst);
	/* P2: pairs with S1 in ring_sleep_begin. */
	if (atomic_load_explicit(&h->sleeping, memory_order_seq_cst))
		wake(ring);
	return 0;
}

int ring_pop(struct ring *ring, void *ret_record)
{
	struct ring_header *h = ring->header;
	uint32_t head, used;

	/* C1: pairs with P1 in ring_push; the record behind this index is whole. */
	head = atomic_load_explicit(&h->head, memory_order_acquire);
	used = head - ring->index;
	if (used > ring->slot_count)
		return ERR_PROTOCOL;
	if (used == 0)
		return -EAGAIN;
	memcpy(ret_record, slot(ring), ring->slot_bytes);
	ring->index++;
	/* C2: gives the slot back after the copy, pairs with P0 in ring_push. */
	atomic_store_explicit(&h->tail, ring->index, memory_order_release);
	return 0;
}

bool ring_sleep_begin(struct ring *ring)
{
	struct ring_header *h = ring->header;

	/* S1: announces, pairs with P2 in ring_push. seq_cst so that S2 cannot pass it. */
	atomic_store_explicit(&h->sleeping, 1, memory_order_seq_cst);
	/* S2: looks again, pairs with P1. An index that makes no sense is ring_pop's to report. */
	if (atomic_load_explicit(&h->head, memory_order_seq_cst) == ring->index)
		return true;
	/* Relaxed: a producer that sees the old value writes one wake-up too many. */
	atomic_store_explicit(&h->sleeping, 0, memory_order_relaxed);
	return false;
}

void ring_sleep_end(struct ring *ring)
{
	uint64_t count;
	struct iovec iov = {.iov_base = &count, .iov_len = sizeof(count)};
	ssize_t n;

	/* Relaxed: as in ring_sleep_begin. */
	atomic_store_explicit(&ring->header->sleeping, 0, memory_order_relaxed);
	/* One read takes the whole count; EAGAIN means that something else woke the caller. */
	do
		n = preadv2(ring->wake_fd, &iov, 1, -1, RWF_NOWAIT);
	while (n < 0 && errno == EINTR);
	/* Some sandboxes' eventfds know no flags; there the descriptor's own O_NONBLOCK must do. */
	while (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINTR))
		n = read(ring->wake_fd, &count, sizeof(count));
}
