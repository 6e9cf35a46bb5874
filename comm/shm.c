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
 *  1. A rank writes only its own staging buffers, the barrier and its place on the roll.
 *  2. Round n uses buffer n mod 2. Whoever has met the others in round n knows that all have taken
 *     what they needed from round n - 1, so that one meeting a round is enough.
 *  3. Sums are taken in rank order over all ranks by one call of `sum` for every element, wherever
 *     it is taken: the bits depend on the inputs alone. Sums of bf16 are in fp32, rounded once.
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
#define CHUNK_BYTES (1ul << 20)
/* Slices of a chunk begin on cache lines. */
#define SLICE_BYTES 64u

/* "comm" and the version of this layout: what a rank of another build would write differs. */
#define SEGMENT_TAG 0x636f6d0002000000u

/*
 * Up to this many bytes all ranks add up everything themselves: one meeting, where dividing the
 * work costs two.
 */
#define ALONE_BYTES 16384u

/* Looks at `generation` before sleeping: about 20 us, several times what a wake-up costs. */
#define SPINS 1000u

struct segment {
	struct comm_roll roll;
	_Alignas(128) _Atomic uint32_t arrived;
	_Alignas(128) _Atomic uint32_t generation;
	_Atomic uint32_t sleepers;
};

_Static_assert(sizeof(struct segment) % 128 == 0, "staging begins on a cache line pair");

struct shm {
	struct segment *segment;
	size_t segment_bytes;
	uint8_t *staging; /* [world][2][CHUNK_BYTES] */
	unsigned rank, world;
	unsigned spins;
	unsigned round; /* its lowest bit names the buffer */
	/* What `sum` adds up: every rank's part of the round. */
	union {
		const float *f32[COMM_WORLD_MAX];
		const uint16_t *bf16[COMM_WORLD_MAX];
	} src;
};

static void meet(struct shm *s);
static size_t slice_elems(size_t count, unsigned world, size_t elem_bytes);
static void term_set(struct shm *s, enum dtype type, unsigned r, const void *at);
static void sum(struct shm *s, enum dtype type, void *out, size_t count);

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
	rc = comm_roll_join(&s->segment->roll, SEGMENT_TAG, s->rank, s->world, err);
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

static int all_gather(struct shm *s, const struct comm_call *c, uint64_t *bytes_moved)
{
	size_t bytes = c->size, at, n;
	uint8_t *out = c->out, *own = out + s->rank * bytes;
	const uint8_t *in = c->in;
	unsigned i, r;

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

static int reduce_scatter(struct shm *s, const struct comm_call *c, uint64_t *bytes_moved)
{
	size_t size = dtype_bytes(c->type), count = c->size, at, n;
	size_t slot = slice_elems(CHUNK_BYTES / size, s->world, size);
	const uint8_t *whole = c->in;
	uint8_t *part = c->out, *own;
	unsigned r;

	if (slot * s->world > CHUNK_BYTES / size)
		slot -= SLICE_BYTES / size;
	for (at = 0; at < count; at += n, s->round++) {
		n = count - at < slot ? count - at : slot;
		own = buffer_of(s, s->rank);
		for (r = 0; r < s->world; r++)
			if (r != s->rank)
				memcpy(own + r * slot * size, whole + (r * count + at) * size,
				       n * size);
		meet(s);
		for (r = 0; r < s->world; r++)
			term_set(s, c->type, r, buffer_of(s, r) + s->rank * slot * size);
		term_set(s, c->type, s->rank, whole + (s->rank * count + at) * size);
		sum(s, c->type, part + at * size, n);
		*bytes_moved += 2 * n * size * (s->world - 1);
	}
	return 0;
}

/* Everybody adds up all of a chunk: for few elements, and where there is no one to share with. */
static void reduce_alone(struct shm *s, enum dtype type, void *data, size_t n)
{
	unsigned r;

	memcpy(buffer_of(s, s->rank), data, n * dtype_bytes(type));
	meet(s);
	for (r = 0; r < s->world; r++)
		term_set(s, type, r, buffer_of(s, r));
	sum(s, type, data, n);
}

/*
 * Each adds up its slice of a chunk, leaves the sum in its own buffer, where only itself has read
 * that slice, and collects those of the others.
 */
static void reduce_shared(struct shm *s, enum dtype type, uint8_t *data, size_t n)
{
	size_t size = dtype_bytes(type), slice = slice_elems(n, s->world, size), begin, len;
	uint8_t *own = buffer_of(s, s->rank);
	unsigned i, r;

	memcpy(own, data, n * size);
	meet(s);
	begin = s->rank * slice < n ? s->rank * slice : n;
	len = n - begin < slice ? n - begin : slice;
	for (r = 0; r < s->world; r++)
		term_set(s, type, r, buffer_of(s, r) + begin * size);
	sum(s, type, data + begin * size, len);
	memcpy(own + begin * size, data + begin * size, len * size);
	meet(s);
	for (i = 1; i < s->world; i++) {
		r = (s->rank + i) % s->world;
		begin = r * slice < n ? r * slice : n;
		len = n - begin < slice ? n - begin : slice;
		memcpy(data + begin * size, buffer_of(s, r) + begin * size, len * size);
	}
}

static int all_reduce(struct shm *s, const struct comm_call *c, uint64_t *bytes_moved)
{
	size_t size = dtype_bytes(c->type), count = c->size, at, n;
	uint8_t *data = c->out;

	for (at = 0; at < count; at += n, s->round++) {
		n = count - at < CHUNK_BYTES / size ? count - at : CHUNK_BYTES / size;
		if (n * size <= ALONE_BYTES) {
			reduce_alone(s, c->type, data + at * size, n);
			*bytes_moved += n * size * s->world;
		} else {
			reduce_shared(s, c->type, data + at * size, n);
			*bytes_moved += 3 * n * size;
		}
	}
	return 0;
}

static int broadcast(struct shm *s, const struct comm_call *c, uint64_t *bytes_moved)
{
	size_t bytes = c->size, done, n;
	uint8_t *at = c->out;

	for (done = 0; done < bytes; done += n, s->round++) {
		n = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
		if (s->rank == c->root)
			memcpy(buffer_of(s, c->root), at + done, n);
		meet(s);
		if (s->rank != c->root)
			memcpy(at + done, buffer_of(s, c->root), n);
		*bytes_moved += n;
	}
	return 0;
}

static int shm_run(void *state, const struct comm_call *call, uint64_t *bytes_moved,
		   struct err *err)
{
	switch (call->kind) {
	case COMM_ALL_GATHER:
		return all_gather(state, call, bytes_moved);
	case COMM_REDUCE_SCATTER:
		return reduce_scatter(state, call, bytes_moved);
	case COMM_ALL_REDUCE:
		return all_reduce(state, call, bytes_moved);
	case COMM_BROADCAST:
		return broadcast(state, call, bytes_moved);
	}
	return err_set(err, ERR_INTERNAL, "unknown collective %d", (int)call->kind);
}

const struct comm_ops comm_shm_ops = {
	.open = shm_backend_open,
	.free = shm_backend_free,
	.run = shm_run,
};

/* Elements of `count` for each of `world`, rounded up to whole cache lines. */
static size_t slice_elems(size_t count, unsigned world, size_t elem_bytes)
{
	size_t each = (count + world - 1) / world, line = SLICE_BYTES / elem_bytes;

	return (each + line - 1) / line * line;
}

static void term_set(struct shm *s, enum dtype type, unsigned r, const void *at)
{
	if (type == DTYPE_F32)
		s->src.f32[r] = at;
	else
		s->src.bf16[r] = at;
}

static void sum(struct shm *s, enum dtype type, void *out, size_t count)
{
	uint16_t *rounded = out;

	if (type == DTYPE_F32) {
		vector_host_sum(out, s->src.f32, s->world, count);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		float total = bf16_to_float(s->src.bf16[0][i]);

		for (unsigned r = 1; r < s->world; r++)
			total += bf16_to_float(s->src.bf16[r][i]);
		rounded[i] = bf16_from_float(total);
	}
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
