/*
 * Collectives through shared memory, for the ranks of one host.
 *
 * Called through comm.c: open and free by the worker's main thread, the rest by the thread of the
 * stream that carries the collectives, one call at a time.
 *
 * Each rank has two staging buffers of CHUNK_BYTES. A call is a sequence of rounds of at most one
 * chunk: put your contribution into your own buffer of the round, meet the others, take theirs. The
 * number of rounds depends on sizes only, which all ranks agree on, so no one announces anything.
 *
 * Invariants
 *  1. A rank writes only its own staging buffers, the barrier and its `present` flag.
 *  2. Round n uses buffer n mod 2. Whoever has met the others in round n knows that all have taken
 *     what they needed from round n - 1, so that one meeting a round is enough.
 *  3. Sums are taken in rank order over all ranks by one call of vector_host_sum for every element,
 *     wherever it is taken: the bits depend on the inputs alone.
 *  4. Nothing read from the segment is used as an index or a size: a broken peer spoils the numbers
 *     of its own job, or stops it, but no memory.
 *
 * The barrier: a rank arrives by adding to `arrived`; the last one resets it and moves `generation`
 * on, which the others wait for, first looking at it for a while, then asleep.
 */
#include "comm/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/futex.h"
#include "common/shm.h"
#include "kernels/vector.h"

/*
 * Measured with 2 and 4 ranks on parts of 256 KiB and 8 MiB: throughput grows up to here, with
 * fewer meetings a byte, and not beyond, where staging falls out of the caches.
 */
#define CHUNK_BYTES  (1ul << 20)
#define CHUNK_FLOATS (CHUNK_BYTES / sizeof(float))
/* Slices of a chunk begin on cache lines. */
#define SLICE_FLOATS 16u

/* "comm" and the version of this layout: what a rank of another build would write differs. */
#define SEGMENT_TAG 0x636f6d0001000000u

/*
 * Up to this many elements all ranks add up everything themselves: one meeting, where dividing the
 * work costs two.
 */
#define ALONE_FLOATS 4096u

/* Looks at `generation` before sleeping: about 20 us, several times what a wake-up costs. */
#define SPINS 1000u

struct segment {
	_Alignas(128) _Atomic uint64_t tag; /* SEGMENT_TAG + world */
	_Alignas(128) _Atomic uint32_t arrived;
	_Alignas(128) _Atomic uint32_t generation;
	_Atomic uint32_t sleepers;
	_Alignas(128) _Atomic uint8_t present[COMM_WORLD_MAX];
};

_Static_assert(sizeof(struct segment) % 128 == 0, "staging begins on a cache line pair");

struct shm {
	struct segment *segment;
	size_t segment_bytes;
	uint8_t *staging; /* [world][2][CHUNK_BYTES] */
	unsigned rank, world;
	unsigned spins;
	unsigned round; /* its lowest bit names the buffer */
	const float *src[COMM_WORLD_MAX];
};

static int join(struct shm *s, struct err *err);
static void meet(struct shm *s);
static size_t slice_floats(size_t count, unsigned world);

static size_t header_bytes(void)
{
	return (sizeof(struct segment) + 4095) / 4096 * 4096;
}

size_t comm_shm_bytes(unsigned world)
{
	return header_bytes() + (size_t)world * 2 * CHUNK_BYTES;
}

static int shm_backend_open(const struct comm_config *config, void **ret, struct err *err)
{
	struct shm *s = calloc(1, sizeof(*s));
	void *base;
	int rc;

	if (!s)
		return err_sys(err, -ENOMEM, "collectives");
	s->rank = config->rank;
	s->world = config->world;
	s->segment_bytes = comm_shm_bytes(config->world);
	/* With fewer cores than ranks, looking keeps the one who is awaited from running. */
	s->spins = sysconf(_SC_NPROCESSORS_ONLN) >= (long)s->world ? SPINS : 0;
	rc = shm_map(config->shm_fd, s->segment_bytes, &base, err);
	if (rc < 0)
		goto fail_state;
	s->segment = base;
	s->staging = (uint8_t *)base + header_bytes();
	rc = join(s, err);
	if (rc < 0)
		goto fail_map;
	/* Our own pages exist before the others look; theirs are touched when they are read. */
	memset(s->staging + (size_t)s->rank * 2 * CHUNK_BYTES, 0, 2 * CHUNK_BYTES);
	meet(s);
	*ret = s;
	return 0;
fail_map:
	shm_unmap(s->segment, s->segment_bytes);
fail_state:
	free(s);
	return err_add(err, "shared memory of the collectives");
}

static void shm_backend_free(void *state)
{
	struct shm *s = state;

	shm_unmap(s->segment, s->segment_bytes);
	free(s);
}

/* Rank r's buffer of this round. */
static uint8_t *buffer_of(const struct shm *s, unsigned r)
{
	return s->staging + ((size_t)r * 2 + (s->round & 1)) * CHUNK_BYTES;
}

static int shm_all_gather(void *state, void *whole, const void *part, size_t bytes,
			  uint64_t *bytes_moved, struct err *err)
{
	struct shm *s = state;
	uint8_t *out = whole, *own = out + s->rank * bytes;
	const uint8_t *in = part;
	size_t at, n;
	unsigned i, r;

	(void)err;
	for (at = 0; at < bytes; at += n, s->round++) {
		n = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
		memcpy(buffer_of(s, s->rank), in + at, n);
		meet(s);
		if (own != in)
			memcpy(own + at, in + at, n);
		/* Each begins with its neighbour: they do not all read from one at a time. */
		for (i = 1; i < s->world; i++) {
			r = (s->rank + i) % s->world;
			memcpy(out + r * bytes + at, buffer_of(s, r), n);
		}
		*bytes_moved += n * s->world;
	}
	return 0;
}

static int shm_reduce_scatter(void *state, float *part, const float *whole, size_t count,
			      uint64_t *bytes_moved, struct err *err)
{
	struct shm *s = state;
	size_t slot = slice_floats(CHUNK_FLOATS, s->world), at, n;
	unsigned r;
	float *own;

	(void)err;
	if (slot * s->world > CHUNK_FLOATS)
		slot -= SLICE_FLOATS;
	for (at = 0; at < count; at += n, s->round++) {
		n = count - at < slot ? count - at : slot;
		own = (float *)buffer_of(s, s->rank);
		for (r = 0; r < s->world; r++)
			if (r != s->rank)
				memcpy(own + r * slot, whole + r * count + at, n * sizeof(float));
		meet(s);
		for (r = 0; r < s->world; r++)
			s->src[r] = (const float *)buffer_of(s, r) + s->rank * slot;
		s->src[s->rank] = whole + s->rank * count + at;
		vector_host_sum(part + at, s->src, s->world, n);
		*bytes_moved += 2 * n * sizeof(float) * (s->world - 1);
	}
	return 0;
}

/* Everybody adds up all of a chunk: for few elements, and where there is no one to share with. */
static void reduce_alone(struct shm *s, float *data, size_t n)
{
	unsigned r;

	memcpy(buffer_of(s, s->rank), data, n * sizeof(float));
	meet(s);
	for (r = 0; r < s->world; r++)
		s->src[r] = (const float *)buffer_of(s, r);
	vector_host_sum(data, s->src, s->world, n);
}

/*
 * Each adds up its slice of a chunk, leaves the sum in its own buffer, where only itself has read
 * that slice, and collects those of the others.
 */
static void reduce_shared(struct shm *s, float *data, size_t n)
{
	size_t slice = slice_floats(n, s->world), begin, len;
	float *own = (float *)buffer_of(s, s->rank);
	unsigned i, r;

	memcpy(own, data, n * sizeof(float));
	meet(s);
	begin = s->rank * slice < n ? s->rank * slice : n;
	len = n - begin < slice ? n - begin : slice;
	for (r = 0; r < s->world; r++)
		s->src[r] = (const float *)buffer_of(s, r) + begin;
	vector_host_sum(data + begin, s->src, s->world, len);
	memcpy(own + begin, data + begin, len * sizeof(float));
	meet(s);
	for (i = 1; i < s->world; i++) {
		r = (s->rank + i) % s->world;
		begin = r * slice < n ? r * slice : n;
		len = n - begin < slice ? n - begin : slice;
		memcpy(data + begin, (const float *)buffer_of(s, r) + begin, len * sizeof(float));
	}
}

static int shm_all_reduce(void *state, float *data, size_t count, uint64_t *bytes_moved,
			  struct err *err)
{
	struct shm *s = state;
	size_t at, n;

	(void)err;
	for (at = 0; at < count; at += n, s->round++) {
		n = count - at < CHUNK_FLOATS ? count - at : CHUNK_FLOATS;
		if (n <= ALONE_FLOATS) {
			reduce_alone(s, data + at, n);
			*bytes_moved += n * sizeof(float) * s->world;
		} else {
			reduce_shared(s, data + at, n);
			*bytes_moved += 3 * n * sizeof(float);
		}
	}
	return 0;
}

static int shm_broadcast(void *state, void *data, size_t bytes, unsigned root,
			 uint64_t *bytes_moved, struct err *err)
{
	struct shm *s = state;
	uint8_t *at = data;
	size_t done, n;

	if (root >= s->world)
		return err_set(err, -EINVAL, "a broadcast from rank %u in a world of %u", root,
			       s->world);
	for (done = 0; done < bytes; done += n, s->round++) {
		n = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
		if (s->rank == root)
			memcpy(buffer_of(s, root), at + done, n);
		meet(s);
		if (s->rank != root)
			memcpy(at + done, buffer_of(s, root), n);
		*bytes_moved += n;
	}
	return 0;
}

static int shm_barrier(void *state, struct err *err)
{
	(void)err;
	meet(state);
	return 0;
}

const struct comm_ops comm_shm_ops = {
	.open = shm_backend_open,
	.free = shm_backend_free,
	.all_gather = shm_all_gather,
	.reduce_scatter = shm_reduce_scatter,
	.all_reduce = shm_all_reduce,
	.broadcast = shm_broadcast,
	.barrier = shm_barrier,
};

/* Elements of `count` for each of `world`, rounded up to whole cache lines. */
static size_t slice_floats(size_t count, unsigned world)
{
	size_t each = (count + world - 1) / world;

	return (each + SLICE_FLOATS - 1) / SLICE_FLOATS * SLICE_FLOATS;
}

/* Whoever comes first says how large the world is and in which layout; each rank comes once. */
static int join(struct shm *s, struct err *err)
{
	uint64_t ours = SEGMENT_TAG + s->world, seen = 0;

	if (!atomic_compare_exchange_strong_explicit(&s->segment->tag, &seen, ours,
						     memory_order_relaxed, memory_order_relaxed) &&
	    seen != ours)
		return err_set(
			err, ERR_PROTOCOL,
			"another rank made it for a world of %u in layout %x, this one is for "
			"%u in layout %x",
			(unsigned)(seen & 0xffffff), (unsigned)(seen >> 24), s->world,
			(unsigned)(ours >> 24));
	if (atomic_exchange_explicit(&s->segment->present[s->rank], 1, memory_order_relaxed) != 0)
		return err_set(err, ERR_PROTOCOL, "rank %u is there twice", s->rank);
	return 0;
}

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

/* Waits until `generation` is no longer `seen`. */
static void await(struct shm *s, uint32_t seen)
{
	struct segment *g = s->segment;
	unsigned i;

	for (i = 0; i < s->spins; i++) {
		/* B2: pairs with B1 in meet; so do the other loads here. */
		if (atomic_load_explicit(&g->generation, memory_order_acquire) != seen)
			return;
		relax();
	}
	/* The last one sees the announcement, or we see its generation: seq_cst on both sides. */
	atomic_fetch_add_explicit(&g->sleepers, 1, memory_order_seq_cst);
	while (atomic_load_explicit(&g->generation, memory_order_seq_cst) == seen)
		(void)futex_wait(&g->generation, seen, 0); /* interrupted or not: look again */
	atomic_fetch_sub_explicit(&g->sleepers, 1, memory_order_relaxed);
}

static void meet(struct shm *s)
{
	struct segment *g = s->segment;
	uint32_t seen = atomic_load_explicit(&g->generation, memory_order_relaxed);

	/* Each arrival hands on what all before it have written. */
	if (atomic_fetch_add_explicit(&g->arrived, 1, memory_order_acq_rel) + 1 < s->world) {
		await(s, seen);
		return;
	}
	/* Before the generation moves: after it, the others arrive again. */
	atomic_store_explicit(&g->arrived, 0, memory_order_relaxed);
	/* B1: lets the others go, with all that was written before they met; pairs with B2. */
	atomic_store_explicit(&g->generation, seen + 1, memory_order_seq_cst);
	if (atomic_load_explicit(&g->sleepers, memory_order_seq_cst) > 0)
		futex_wake(&g->generation, (int)s->world);
}
