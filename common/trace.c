/*
 * The recorder: a ring of events for each lane, and the way out as text.
 *
 * Writers call trace_begin, trace_end and trace_add from threads of their own; the recorder's
 * thread does everything else.
 *
 * Invariants
 *  1. A lane's `head` is written by its writer alone, `tail` by the recorder's thread alone, and
 *     tail <= head <= tail + capacity: an event is copied in before head says so, and out before
 *     tail does.
 *  2. What does not fit is dropped and counted; it never overwrites what is there. So what is
 *     reported is whole up to a point, and the count says that something is missing.
 *  3. Names are told apart by address. A name is declared before the first event that bears it, a
 *     lane before its first event; both once.
 */
#include "common/trace.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/trace_text.h"

/* Declared when names have run out; more than TRACE_NAMES_MAX is nobody's intention. */
static const char other_name[] = "(another)";

struct trace_lane {
	struct trace *trace;
	struct trace_event *events;
	uint32_t mask, idx;
	enum trace_kind kind;
	char name[TRACE_NAME_BYTES];
	/* the recorder's thread */
	bool declared;
	uint64_t dropped_told;
	_Alignas(64) _Atomic uint64_t tail;
	/* the writer */
	_Alignas(64) _Atomic uint64_t head;
	_Atomic uint64_t dropped;
};

struct trace {
	atomic_bool recording;
	struct trace_lane *lanes[TRACE_LANES_MAX];
	uint32_t lane_count;
	uint32_t name_count;
	const char *names[TRACE_NAME_IDS]; /* open addressing; a name's slot is its id */
};

uint64_t trace_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int trace_open(struct trace **ret, struct err *err)
{
	struct trace *t = calloc(1, sizeof(*t));

	if (!t)
		return err_sys(err, -ENOMEM, "allocating a recorder");
	*ret = t;
	return 0;
}

struct trace *trace_free(struct trace *t)
{
	if (!t)
		return NULL;
	for (uint32_t i = 0; i < t->lane_count; i++) {
		free(t->lanes[i]->events);
		free(t->lanes[i]);
	}
	free(t);
	return NULL;
}

int trace_lane_open(struct trace *t, enum trace_kind kind, const char *name, uint32_t capacity,
		    struct trace_lane **ret, struct err *err)
{
	struct trace_lane *lane;

	assert(capacity > 0 && (capacity & (capacity - 1)) == 0);
	if (t->lane_count == TRACE_LANES_MAX)
		return err_sys(err, -ENOSPC, "more than %u lanes to trace", TRACE_LANES_MAX);
	lane = aligned_alloc(_Alignof(struct trace_lane), sizeof(*lane));
	if (!lane)
		return err_sys(err, -ENOMEM, "allocating a lane of the trace");
	*lane = (struct trace_lane){
		.trace = t, .mask = capacity - 1, .idx = t->lane_count, .kind = kind};
	/* Pages are taken as they are first written: a lane that records little costs little. */
	lane->events = calloc(capacity, sizeof(*lane->events));
	if (!lane->events) {
		free(lane);
		return err_sys(err, -ENOMEM, "allocating %u events of the trace", capacity);
	}
	strncpy(lane->name, name, sizeof(lane->name) - 1);
	t->lanes[t->lane_count++] = lane;
	*ret = lane;
	return 0;
}

void trace_record(struct trace *t, bool on)
{
	/* Relaxed: when exactly a writer notices is of no interest. */
	atomic_store_explicit(&t->recording, on, memory_order_relaxed);
}

bool trace_recording(const struct trace_lane *lane)
{
	return atomic_load_explicit(&lane->trace->recording, memory_order_relaxed);
}

void trace_add(struct trace_lane *lane, const struct trace_event *event)
{
	uint64_t head = atomic_load_explicit(&lane->head, memory_order_relaxed);

	/* W1: pairs with R2 in lane_take: what it read before must be out before it is reused. */
	if (head - atomic_load_explicit(&lane->tail, memory_order_acquire) > lane->mask) {
		trace_drop(lane);
		return;
	}
	lane->events[head & lane->mask] = *event;
	/* W2: publishes the event, pairs with R1 in lane_take. */
	atomic_store_explicit(&lane->head, head + 1, memory_order_release);
}

void trace_drop(struct trace_lane *lane)
{
	atomic_fetch_add_explicit(&lane->dropped, 1, memory_order_relaxed);
}

static uint64_t lane_used(const struct trace_lane *lane)
{
	/* Only a count: whoever acts on it looks again. */
	return atomic_load_explicit(&lane->head, memory_order_relaxed) -
	       atomic_load_explicit(&lane->tail, memory_order_relaxed);
}

bool trace_pressing(const struct trace *t)
{
	for (uint32_t i = 0; i < t->lane_count; i++)
		if (lane_used(t->lanes[i]) > t->lanes[i]->mask / 2)
			return true;
	return false;
}

/* ---- the way out ---- */

/* Text in the making: whole lines, and room for two more where there is room. */
struct out {
	char *at, *end;
};

static bool room(const struct out *o)
{
	return o->end - o->at > (ptrdiff_t)TRACE_TEXT_ROOM_MIN;
}

/* The slot of a name; a new one is declared. */
static uint32_t name_id(struct trace *t, const char *name, struct out *o)
{
	uint32_t id = (uint32_t)((uintptr_t)name * UINT64_C(0x9e3779b97f4a7c15) >> 32);

	for (id %= TRACE_NAME_IDS; t->names[id]; id = (id + 1) % TRACE_NAME_IDS)
		if (t->names[id] == name)
			return id;
	if (t->name_count >= TRACE_NAMES_MAX && name != other_name)
		return name_id(t, other_name, o);
	t->name_count++;
	t->names[id] = name;
	o->at = trace_text_name(o->at, id, name);
	return id;
}

static void lane_take(struct trace *t, struct trace_lane *lane, struct out *o)
{
	/* R1: pairs with W2 in trace_add. */
	uint64_t head = atomic_load_explicit(&lane->head, memory_order_acquire);
	uint64_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);

	for (; tail < head && room(o); tail++) {
		const struct trace_event *event = &lane->events[tail & lane->mask];
		uint32_t id = name_id(t, event->name, o);

		o->at = trace_text_event(o->at, lane->idx, id, event);
	}
	/* R2: gives the places back, pairs with W1 in trace_add. */
	atomic_store_explicit(&lane->tail, tail, memory_order_release);
}

size_t trace_take(struct trace *t, char *text, size_t bytes)
{
	struct out o = {text, text + bytes};

	assert(bytes > TRACE_TEXT_ROOM_MIN);
	for (uint32_t i = 0; i < t->lane_count && room(&o); i++) {
		struct trace_lane *lane = t->lanes[i];
		uint64_t dropped;

		if (!lane->declared) {
			o.at = trace_text_lane(o.at, i, lane->kind, lane->name);
			lane->declared = true;
			if (!room(&o))
				break;
		}
		lane_take(t, lane, &o);
		dropped = atomic_load_explicit(&lane->dropped, memory_order_relaxed);
		if (dropped > lane->dropped_told && room(&o)) {
			o.at = trace_text_dropped(o.at, i, dropped);
			lane->dropped_told = dropped;
		}
	}
	*o.at = '\0';
	return (size_t)(o.at - text);
}
