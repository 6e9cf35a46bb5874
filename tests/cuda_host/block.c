/*
 * Runs CUDA kernels on the host: blocks one after another, a block's threads as fibers that take
 * turns at barriers and warp collectives. Called by a stream of the shim's runtime, through
 * shim_enqueue; the kernel's threads call back through include/cuda_device.h.
 *
 * A fiber runs a thread to its end and takes the next that has not begun, so that a kernel without
 * barriers needs one fiber and no switch. When a thread has to wait, another fiber goes on: with a
 * thread that has not begun, else with one that need not wait any longer.
 *
 *	UNBEGUN --> RUNS --> BARRIER --(all of the block are there)--> READY --> RUNS
 *	              |  \-> WARP ----(all lanes named are there)----> READY
 *	              \----> RETURNED
 *
 * 1. A thread runs until it must wait or returns; nothing else takes its turn from it.
 * 2. The last to arrive at a barrier or collective does not wait: it readies the others.
 * 3. When all threads wait or have returned, and some wait, the block can never end: that is an
 *    error which names them. So is a barrier reached from two places, a lane that is not in its own
 *    mask, and lanes whose masks or collectives differ.
 * 4. Lanes that have returned are not waited for by a collective; at a barrier all threads are.
 * 5. Shared memory holds all bits set when a block first asks for it. What lies around it is
 *    forbidden (AddressSanitizer), or holds FENCE and is looked at after the block; dynamic shared
 *    memory ends where a page begins that cannot be touched, within 15 bytes.
 * 6. A crew (fibers, threads, shared memory) belongs to a host thread and lasts as long as it.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/cuda_host/fiber.h"
#include "tests/cuda_host/sanitizer.h"
#include "tests/cuda_host/shim.h"

#define THREADS_MAX 1024u
#define WARP        32u
#define WARPS_MAX   (THREADS_MAX / WARP)
#define PAGE        4096u
/* Pages are taken when they are touched. Sanitizers' frames are larger. */
#define STACK_BYTES (256u << 10)
#define STACK_ROOM  (STACK_BYTES + PAGE) /* with a page below that cannot be touched */

#define SHARED_SITES_MAX 32u
#define SHARED_GAP       64u /* between arrays, and below the dynamic part */
#define SHARED_ROOM      (320u << 10)
#define FENCE            0xa5

_Static_assert(SHARED_ROOM >= SHIM_SHARED_MAX + SHIM_SHARED_OPT_IN_MAX +
				      (SHARED_SITES_MAX + 2) * (SHARED_GAP + 16),
	       "room for all a block may have, and the gaps");

enum state { UNBEGUN, RUNS, READY, BARRIER, WARPED, RETURNED };

struct cuda_thread {
	enum state state;
	struct shim_index index;
	struct fiber *fiber;
	/* What it waits for. */
	const char *what, *file;
	int line;
	unsigned mask;
	shim_warp_fn *fn;
	void *mine;
};

struct warp {
	unsigned exist, waiting, returned; /* lanes */
};

struct shared_array {
	const void *site;
	uint8_t *at;
	size_t bytes;
};

struct crew {
	const struct shim_launch *launch;
	unsigned count; /* threads of a block */
	bool reverse;

	struct cuda_thread threads[THREADS_MAX];
	struct warp warps[WARPS_MAX];
	unsigned current;              /* the thread that runs */
	unsigned begun, returned;      /* how many */
	unsigned at_barrier, first_at; /* how many wait; which came first */
	unsigned ayes, ayes_whole;     /* of threads at the barrier; of the last complete one */
	unsigned ready[THREADS_MAX];   /* a ring: [head, head + ready_count) */
	unsigned ready_head, ready_count;

	struct fiber runner; /* the host thread itself */
	struct fiber fibers[THREADS_MAX];
	struct fiber *fiber; /* which runs */
	struct fiber *idle[THREADS_MAX];
	unsigned idle_count, made_count; /* fibers that wait for a thread; that were ever begun */
	uint8_t *stacks;

	uint8_t *shared; /* SHARED_ROOM, then a page that cannot be touched */
	uint8_t *shared_end;
	struct shared_array arrays[SHARED_SITES_MAX];
	unsigned array_count;
	uint8_t *dynamic;

	char error[512]; /* what went wrong in this block; empty: nothing */
};

__thread struct shim_builtins shim_now;
static __thread struct crew *crew;
static atomic_uint order;

static __attribute__((noreturn)) void out_of_memory(const char *what)
{
	fprintf(stderr, "cuda shim: no memory for %s\n", what);
	abort();
}

static void *map(size_t bytes, const char *what)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		out_of_memory(what);
	return p;
}

static void guard(void *page)
{
	if (mprotect(page, PAGE, PROT_NONE) != 0)
		out_of_memory("a page that guards");
}

static pthread_key_t crew_key;
static pthread_once_t crew_once = PTHREAD_ONCE_INIT;

/* At the end of a host thread. */
static void crew_free(void *arg)
{
	struct crew *c = arg;

	for (unsigned i = 0; i < THREADS_MAX; i++)
		fiber_done(&c->fibers[i]);
	shim_permit(c->shared, SHARED_ROOM);
	shim_permit(c->stacks, STACK_ROOM * THREADS_MAX);
	munmap(c->shared, SHARED_ROOM + PAGE);
	munmap(c->stacks, STACK_ROOM * THREADS_MAX);
	free(c);
}

static void crew_key_make(void)
{
	if (pthread_key_create(&crew_key, crew_free) != 0)
		out_of_memory("a thread's key");
}

static struct crew *crew_get(void)
{
	if (crew)
		return crew;
	pthread_once(&crew_once, crew_key_make);
	crew = calloc(1, sizeof(*crew));
	if (!crew)
		out_of_memory("a crew");
	crew->stacks = map(STACK_ROOM * THREADS_MAX, "stacks");
	crew->shared = map(SHARED_ROOM + PAGE, "shared memory");
	crew->shared_end = crew->shared + SHARED_ROOM;
	guard(crew->shared_end);
	if (pthread_setspecific(crew_key, crew) != 0)
		out_of_memory("a thread's crew");
	return crew;
}

/* The block is given up: the host thread goes on and begins these fibers anew. */
static __attribute__((noreturn)) void give_up(void)
{
	fiber_switch(crew->fiber, &crew->runner);
	abort();
}

static int place_of(char *text, size_t room, const struct cuda_thread *t)
{
	const struct shim_index *i = &t->index;

	if (t->state == RETURNED)
		return snprintf(text, room, "thread (%u, %u, %u) has returned", i->x, i->y, i->z);
	if (t->state == BARRIER || t->state == WARPED)
		return snprintf(text, room, "thread (%u, %u, %u) waits at %s of %s:%d", i->x, i->y,
				i->z, t->what, t->file, t->line);
	return snprintf(text, room, "thread (%u, %u, %u) runs", i->x, i->y, i->z);
}

/* Ends the block with an error that tells where one or two of its threads stand. */
static __attribute__((noreturn)) void fail(const char *why, const struct cuda_thread *a,
					   const struct cuda_thread *b)
{
	const struct shim_index *block = &shim_now.block;
	size_t room = sizeof(crew->error);
	int n = snprintf(crew->error, room,
			 "kernel %s, block (%u, %u, %u): %s: ", crew->launch->name, block->x,
			 block->y, block->z, why);

	if (n > 0 && (size_t)n < room)
		n += place_of(crew->error + n, room - (size_t)n, a);
	if (b && n > 0 && (size_t)n < room)
		n += snprintf(crew->error + n, room - (size_t)n, "; ");
	if (b && n > 0 && (size_t)n < room)
		place_of(crew->error + n, room - (size_t)n, b);
	give_up();
}

/* Nothing can go on. Names a thread that waits and one that it waits for in vain. */
static __attribute__((noreturn)) void fail_stuck(void)
{
	const struct cuda_thread *t = crew->threads, *other = NULL;
	unsigned first = 0, end = crew->count;

	while (t->state != BARRIER && t->state != WARPED)
		t++;
	if (t->state == WARPED) {
		first = (unsigned)(t - crew->threads) / WARP * WARP;
		end = first + WARP < crew->count ? first + WARP : crew->count;
	}
	for (unsigned i = first; i < end && !other; i++) {
		const struct cuda_thread *o = &crew->threads[i];

		if (t->state == BARRIER && o->state != BARRIER)
			other = o;
		if (t->state == WARPED && t->mask >> (i - first) & 1 && o->state != RETURNED &&
		    (o->state != WARPED || o->fn != t->fn || o->mask != t->mask))
			other = o;
	}
	fail("threads diverge, the block can never end", t, other);
}

static void take_up(unsigned index)
{
	struct cuda_thread *t = &crew->threads[index];

	crew->current = index;
	t->state = RUNS;
	shim_now.thread = t->index;
}

static unsigned ready_take(void)
{
	unsigned at = crew->ready_head;

	crew->ready_count--;
	if (crew->reverse)
		return crew->ready[(at + crew->ready_count) % THREADS_MAX];
	crew->ready_head = (at + 1) % THREADS_MAX;
	return crew->ready[at];
}

static void make_ready(struct cuda_thread *t)
{
	t->state = READY;
	crew->ready[(crew->ready_head + crew->ready_count++) % THREADS_MAX] =
		(unsigned)(t - crew->threads);
}

static void fiber_main(void);

/* A fiber that has no thread. */
static struct fiber *fiber_idle(void)
{
	unsigned i = crew->made_count;
	uint8_t *room = crew->stacks + i * (size_t)STACK_ROOM;

	if (crew->idle_count > 0)
		return crew->idle[--crew->idle_count];
	crew->made_count++;
	if (!crew->fibers[i].stack)
		guard(room);
	fiber_init(&crew->fibers[i], room + PAGE, STACK_BYTES, fiber_main);
	return &crew->fibers[i];
}

static void go_on_with(struct fiber *to)
{
	struct fiber *from = crew->fiber;

	if (from == to)
		return;
	crew->fiber = to;
	fiber_switch(from, to);
}

/* The thread that runs has to wait: lets others go on until it is ready, and then taken. */
static void wait_turn(void)
{
	unsigned self = crew->current, next;

	if (crew->begun < crew->count) {
		go_on_with(fiber_idle());
	} else if (crew->ready_count > 0) {
		next = ready_take();
		take_up(next);
		go_on_with(crew->threads[next].fiber);
	} else {
		fail_stuck();
	}
	/* Whoever switched here took this thread up. */
	if (crew->current != self)
		abort();
}

/* Lanes of a warp that need not be waited for any longer. */
static bool warp_complete(const struct warp *w, unsigned mask)
{
	return ((w->waiting | w->returned | ~w->exist) & mask) == mask;
}

/* Runs the collective that the lanes of `mask` are at, and readies all but the thread that runs. */
static void warp_meet(unsigned warp, const struct cuda_thread *of)
{
	struct warp *w = &crew->warps[warp];
	struct cuda_thread *lanes = &crew->threads[warp * WARP];
	unsigned mask = of->mask & w->waiting;
	void *mine[WARP] = {NULL};

	for (unsigned i = 0; i < WARP; i++) {
		if (!(mask >> i & 1))
			continue;
		if (lanes[i].fn != of->fn || lanes[i].mask != of->mask)
			fail("lanes of one mask are at different collectives", of, &lanes[i]);
		mine[i] = lanes[i].mine ? lanes[i].mine : &lanes[i];
	}
	of->fn(mine);
	w->waiting &= ~mask;
	for (unsigned i = 0; i < WARP; i++)
		if (mask >> i & 1 && warp * WARP + i != crew->current)
			make_ready(&lanes[i]);
}

static void thread_returned(void)
{
	unsigned index = crew->current, warp = index / WARP;
	struct warp *w = &crew->warps[warp];

	crew->threads[index].state = RETURNED;
	crew->returned++;
	w->returned |= 1u << index % WARP;
	/* Those that waited for it alone wait no longer. */
	for (unsigned i = 0; i < WARP && w->waiting; i++) {
		const struct cuda_thread *t = &crew->threads[warp * WARP + i];

		if (w->waiting >> i & 1 && t->mask >> index % WARP & 1 && warp_complete(w, t->mask))
			warp_meet(warp, t);
	}
}

/* Nothing is left for this fiber. */
static void fiber_rest(void)
{
	unsigned next;

	crew->idle[crew->idle_count++] = crew->fiber;
	if (crew->ready_count > 0) {
		next = ready_take();
		take_up(next);
		go_on_with(crew->threads[next].fiber);
	} else if (crew->returned == crew->count) {
		go_on_with(&crew->runner);
	} else {
		fail_stuck();
	}
}

static void fiber_main(void)
{
	for (;;) {
		while (crew->begun < crew->count) {
			unsigned i = crew->begun++;

			i = crew->reverse ? crew->count - 1 - i : i;
			crew->threads[i].fiber = crew->fiber;
			take_up(i);
			crew->launch->thread(crew->launch);
			thread_returned();
		}
		fiber_rest();
	}
}

unsigned shim_barrier(const char *what, int yes, const char *file, int line)
{
	struct cuda_thread *t = &crew->threads[crew->current], *first;

	t->what = what;
	t->file = file;
	t->line = line;
	t->state = BARRIER;
	if (crew->at_barrier++ == 0) {
		crew->first_at = crew->current;
		crew->ayes = 0;
	}
	crew->ayes += yes != 0;
	first = &crew->threads[crew->first_at];
	if (first->line != line || strcmp(first->file, file) != 0)
		fail("threads of a block are at different barriers", first, t);
	if (crew->at_barrier < crew->count) {
		wait_turn();
		return crew->ayes_whole;
	}
	crew->at_barrier = 0;
	/* Kept until all are at the next barrier, so until all have read it. */
	crew->ayes_whole = crew->ayes;
	for (unsigned i = 0; i < crew->count; i++)
		if (&crew->threads[i] != t)
			make_ready(&crew->threads[i]);
	t->state = RUNS;
	return crew->ayes_whole;
}

void shim_warp(const char *what, unsigned mask, shim_warp_fn *fn, void *mine, const char *file,
	       int line)
{
	unsigned warp = crew->current / WARP, bit = 1u << crew->current % WARP;
	struct cuda_thread *t = &crew->threads[crew->current];
	struct warp *w = &crew->warps[warp];

	t->what = what;
	t->file = file;
	t->line = line;
	t->mask = mask;
	t->fn = fn;
	t->mine = mine;
	t->state = WARPED;
	if (!(mask & bit))
		fail("a lane is not in the mask that it names", t, NULL);
	w->waiting |= bit;
	if (warp_complete(w, mask)) {
		warp_meet(warp, t);
		t->state = RUNS;
	} else {
		wait_turn();
	}
}

unsigned shim_lane(void)
{
	return crew->current % WARP;
}

unsigned shim_lanes_alive(void)
{
	const struct warp *w = &crew->warps[crew->current / WARP];

	return w->exist & ~w->returned;
}

/* Fills what nobody may touch, so that writes show where AddressSanitizer is not. */
static void fence(uint8_t *at, size_t bytes)
{
	shim_permit(at, bytes);
	memset(at, FENCE, bytes);
	shim_forbid(at, bytes);
}

static bool fence_broken(uint8_t *at, size_t bytes)
{
	bool broken = false;

	shim_permit(at, bytes);
	for (size_t i = 0; i < bytes; i++)
		broken |= at[i] != FENCE;
	return broken;
}

void *shim_shared(const void *site, size_t bytes)
{
	struct shared_array *a = crew->arrays;
	uint8_t *at = crew->shared + SHARED_GAP;
	size_t sum = bytes;

	for (unsigned i = 0; i < crew->array_count; i++, a++) {
		if (a->site == site)
			return a->at;
		at = a->at + (a->bytes + 15) / 16 * 16 + SHARED_GAP;
		sum += a->bytes;
	}
	if (crew->array_count == SHARED_SITES_MAX || sum > SHIM_SHARED_MAX ||
	    sum + crew->launch->shared_bytes > crew->launch->shared_max)
		fail("more shared memory than a block may have", &crew->threads[crew->current],
		     NULL);
	*a = (struct shared_array){site, at, bytes};
	crew->array_count++;
	shim_permit(at, bytes);
	memset(at, 0xff, bytes);
	fence(at - SHARED_GAP, SHARED_GAP);
	fence(at + bytes, (16 - bytes % 16) % 16 + SHARED_GAP);
	return at;
}

void *shim_shared_dynamic(void)
{
	return crew->dynamic;
}

static void shared_begin(void)
{
	size_t bytes = crew->launch->shared_bytes;

	crew->array_count = 0;
	crew->dynamic = crew->shared_end - (bytes + 15) / 16 * 16;
	fence(crew->dynamic - SHARED_GAP, SHARED_GAP);
	shim_permit(crew->dynamic, bytes);
	memset(crew->dynamic, 0xff, bytes);
	fence(crew->dynamic + bytes, (16 - bytes % 16) % 16);
}

static void shared_end(void)
{
	size_t bytes = crew->launch->shared_bytes;
	bool broken = fence_broken(crew->dynamic - SHARED_GAP, SHARED_GAP) ||
		      fence_broken(crew->dynamic + bytes, (16 - bytes % 16) % 16);

	for (unsigned i = 0; i < crew->array_count; i++) {
		struct shared_array *a = &crew->arrays[i];
		size_t gap = (16 - a->bytes % 16) % 16 + SHARED_GAP;

		broken |= fence_broken(a->at - SHARED_GAP, SHARED_GAP);
		broken |= fence_broken(a->at + a->bytes, gap);
	}
	if (broken && !crew->error[0])
		snprintf(crew->error, sizeof(crew->error),
			 "kernel %s, block (%u, %u, %u): wrote outside its shared memory",
			 crew->launch->name, shim_now.block.x, shim_now.block.y, shim_now.block.z);
}

static void run_block(struct shim_index block)
{
	shim_now.block = block;
	crew->begun = crew->returned = crew->at_barrier = 0;
	crew->ready_head = crew->ready_count = 0;
	for (unsigned i = 0; i < crew->count; i++)
		crew->threads[i].state = UNBEGUN;
	for (unsigned i = 0; i * WARP < crew->count; i++)
		crew->warps[i].waiting = crew->warps[i].returned = 0;
	shared_begin();
	crew->fiber = &crew->runner;
	go_on_with(fiber_idle());
	crew->fiber = &crew->runner;
	shared_end();
	if (crew->error[0])
		crew->made_count = crew->idle_count = 0;
}

static void threads_number(const dim3 *block)
{
	crew->count = block->x * block->y * block->z;
	for (unsigned i = 0; i < crew->count; i++)
		crew->threads[i].index = (struct shim_index){i % block->x, i / block->x % block->y,
							     i / block->x / block->y};
	for (unsigned i = 0; i * WARP < crew->count; i++) {
		unsigned left = crew->count - i * WARP;

		crew->warps[i].exist = left < WARP ? (1u << left) - 1 : 0xffffffffu;
	}
}

void shim_order_set(unsigned value)
{
	atomic_store_explicit(&order, value, memory_order_relaxed);
}

void shim_run(void *arg)
{
	struct shim_launch *launch = arg;
	uint64_t x = launch->grid.x, y = launch->grid.y, count = x * y * launch->grid.z;

	crew_get();
	fiber_adopt(&crew->runner);
	crew->launch = launch;
	crew->reverse = atomic_load_explicit(&order, memory_order_relaxed) != 0;
	crew->error[0] = '\0';
	threads_number(&launch->block);
	shim_now.block_dim = launch->block;
	shim_now.grid_dim = launch->grid;
	for (uint64_t i = 0; i < count && !crew->error[0]; i++) {
		uint64_t at = crew->reverse ? count - 1 - i : i;

		run_block((struct shim_index){(unsigned)(at % x), (unsigned)(at / x % y),
					      (unsigned)(at / x / y)});
	}
	if (crew->error[0])
		shim_fail(cudaErrorLaunchFailure, crew->error);
	free(launch);
}
