/*
 * Vector clocks over a log. A timeline is the driving thread, a stream, or one of two for each unit
 * and blob of the daemon: what is done to its state, and to its kept gradient. A timeline's clock
 * says how far into each timeline everything lies that happened before now. One pass over the log,
 * in its order, which happens-before does not contradict (record_device.c, 1).
 *
 * Memory is cut at every place where any access begins or ends; a cell remembers who wrote it last
 * and, for each timeline, who has read it since. An access is ordered when these are in its clock.
 * Readers before the last write need not be kept: they are before that write, and it is checked.
 * What the daemon holds of a unit is two cells more, which a push touches on behalf of its pusher:
 * the ring must get pushes in an order that is certain where their order matters.
 */
#include "tests/record_proof.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMELINES_MAX 64u /* bits of cell.readers */
#define NO_SAVED      UINT32_MAX
#define DRIVER        0u

struct clock {
	uint32_t at[TIMELINES_MAX];
};

struct cell {
	uint64_t readers; /* timelines that have read since the last write */
	uint32_t writer, write_tick;
	uint32_t write_entry;
	uint32_t read_tick[TIMELINES_MAX], read_entry[TIMELINES_MAX];
};

/* What the daemon holds of a unit or blob: state, or the kept gradient. */
enum { HELD_STATE, HELD_GRAD, HELD_COUNT };

/* When it was changed and read last. */
struct held {
	struct clock changed, read;
};

struct record_proof {
	const struct record_log *log;
	unsigned timelines;
	uintptr_t *cuts; /* cell i is [cuts[i], cuts[i + 1]) */
	size_t cut_count;
	uint32_t (*spans)[2]; /* of each access: its cells [0]..[1] - 1 */
	uint32_t *saved_at;   /* of each entry whose clock others need: where; NO_SAVED */
	size_t saved_count;
	/* of a run */
	struct clock clocks[TIMELINES_MAX];
	struct clock *events, *saved;
	struct held held[TIMELINES_MAX];
	bool *adds;
	struct cell *cells; /* of memory, then of what the daemon holds */
};

static void *must(void *mem)
{
	if (!mem)
		abort();
	return mem;
}

static int cut_compare(const void *a, const void *b)
{
	uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;

	return (x > y) - (x < y);
}

static uint32_t cut_find(const struct record_proof *p, uintptr_t at)
{
	const uintptr_t *found = bsearch(&at, p->cuts, p->cut_count, sizeof(*p->cuts), cut_compare);

	return (uint32_t)(found - p->cuts);
}

static void cuts_make(struct record_proof *p)
{
	const struct record_log *log = p->log;
	size_t kept = 0;

	p->cuts = must(malloc((2 * log->access_count + 1) * sizeof(*p->cuts)));
	for (size_t i = 0; i < log->access_count; i++) {
		p->cuts[2 * i] = log->accesses[i].at;
		p->cuts[2 * i + 1] = log->accesses[i].at + log->accesses[i].bytes;
	}
	qsort(p->cuts, 2 * log->access_count, sizeof(*p->cuts), cut_compare);
	for (size_t i = 0; i < 2 * log->access_count; i++)
		if (kept == 0 || p->cuts[kept - 1] != p->cuts[i])
			p->cuts[kept++] = p->cuts[i];
	p->cut_count = kept;
	p->spans = must(malloc((log->access_count + 1) * sizeof(*p->spans)));
	for (size_t i = 0; i < log->access_count; i++) {
		p->spans[i][0] = cut_find(p, log->accesses[i].at);
		p->spans[i][1] = cut_find(p, log->accesses[i].at + log->accesses[i].bytes);
	}
	p->cells = must(calloc(kept + HELD_COUNT * log->queue_count + 1, sizeof(*p->cells)));
}

/* Pushes are waited for, and a stream's push comes from the clock of its item. */
static void saved_make(struct record_proof *p)
{
	const struct record_log *log = p->log;

	p->saved_at = must(malloc((log->count + 1) * sizeof(*p->saved_at)));
	for (size_t i = 0; i < log->count; i++)
		p->saved_at[i] = NO_SAVED;
	for (size_t i = 0; i < log->count; i++) {
		const struct record_entry *e = &log->entries[i];

		if (e->kind != RECORD_PUSH)
			continue;
		p->saved_at[i] = (uint32_t)p->saved_count++;
		if (e->partner != RECORD_BY_HOST && p->saved_at[e->partner] == NO_SAVED)
			p->saved_at[e->partner] = (uint32_t)p->saved_count++;
	}
	p->saved = must(calloc(p->saved_count + 1, sizeof(*p->saved)));
}

struct record_proof *record_proof_open(const struct record_log *log)
{
	struct record_proof *p = must(calloc(1, sizeof(*p)));

	p->log = log;
	p->timelines = 1 + log->stream_count + HELD_COUNT * log->queue_count;
	assert(p->timelines <= TIMELINES_MAX && log->count < UINT32_MAX);
	p->events = must(calloc(log->event_count + 1, sizeof(*p->events)));
	p->adds = must(calloc(log->count + 1, sizeof(*p->adds)));
	cuts_make(p);
	saved_make(p);
	return p;
}

struct record_proof *record_proof_free(struct record_proof *p)
{
	if (!p)
		return NULL;
	free(p->cuts);
	free(p->spans);
	free(p->saved_at);
	free(p->events);
	free(p->adds);
	free(p->saved);
	free(p->cells);
	free(p);
	return NULL;
}

bool record_orders(const struct record_entry *entry)
{
	switch (entry->kind) {
	case RECORD_EVENT:
	case RECORD_WAIT:
	case RECORD_SYNC:
	case RECORD_EVENT_SYNC:
	case RECORD_QUERY:
	case RECORD_DONE:
		return true;
	case RECORD_ITEM:
	case RECORD_HOST:
	case RECORD_PUSH:
	case RECORD_KIND_COUNT:
		break;
	}
	return false;
}

static void join(const struct record_proof *p, struct clock *to, const struct clock *from)
{
	for (unsigned t = 0; t < p->timelines; t++)
		to->at[t] = to->at[t] > from->at[t] ? to->at[t] : from->at[t];
}

/* A touch of a cell by `timeline`, whose clock is `now`. */
static bool touch(struct record_proof *p, size_t cell, bool writes, unsigned timeline,
		  const struct clock *now, size_t entry, struct record_fault *ret)
{
	struct cell *c = &p->cells[cell];
	bool memory = cell < p->cut_count;

	*ret = (struct record_fault){
		.first = c->write_entry,
		.second = entry,
		.at = memory ? p->cuts[cell] : 0,
		.bytes = memory ? p->cuts[cell + 1] - p->cuts[cell] : 0,
		.first_writes = true,
		.second_writes = writes,
	};
	if (c->write_tick > now->at[c->writer])
		return false;
	if (!writes) {
		c->readers |= 1ull << timeline;
		c->read_tick[timeline] = now->at[timeline];
		c->read_entry[timeline] = (uint32_t)entry;
		return true;
	}
	ret->first_writes = false;
	for (uint64_t left = c->readers; left; left &= left - 1) {
		unsigned t = (unsigned)__builtin_ctzll(left);

		ret->first = c->read_entry[t];
		if (c->read_tick[t] > now->at[t])
			return false;
	}
	c->readers = 0;
	c->writer = timeline;
	c->write_tick = now->at[timeline];
	c->write_entry = (uint32_t)entry;
	return true;
}

/* Something happens on the timeline, with the entry's accesses. */
static bool happens(struct record_proof *p, unsigned timeline, size_t entry,
		    struct record_fault *ret)
{
	const struct record_entry *e = &p->log->entries[entry];
	struct clock *now = &p->clocks[timeline];

	now->at[timeline]++;
	if (p->saved_at[entry] != NO_SAVED)
		p->saved[p->saved_at[entry]] = *now;
	/* An item need not have ended when what it pushed is complete: its end is a tick more. */
	if (p->saved_at[entry] != NO_SAVED && e->kind == RECORD_ITEM)
		now->at[timeline]++;
	for (size_t i = e->access_first; i < e->access_first + e->access_count; i++)
		for (uint32_t cell = p->spans[i][0]; cell < p->spans[i][1]; cell++)
			if (!touch(p, cell, p->log->accesses[i].writes, timeline, now, entry, ret))
				return false;
	return true;
}

static bool reads_held(unsigned effects, unsigned what)
{
	return effects & (what == HELD_STATE ? RECORD_READS_STATE : RECORD_READS_GRAD);
}

static bool writes_held(unsigned effects, unsigned what)
{
	return effects & (what == HELD_STATE ? RECORD_WRITES_STATE : RECORD_WRITES_GRAD);
}

/* Pushes whose order matters are ordered; `from` is the pusher's clock. */
static bool push_ordered(struct record_proof *p, size_t entry, unsigned pusher,
			 const struct clock *from, struct record_fault *ret)
{
	const struct record_entry *e = &p->log->entries[entry];
	size_t cell = p->cut_count + HELD_COUNT * e->queue;

	for (unsigned w = 0; w < HELD_COUNT; w++)
		if ((reads_held(e->effects, w) &&
		     !touch(p, cell + w, false, pusher, from, entry, ret)) ||
		    (writes_held(e->effects, w) &&
		     !touch(p, cell + w, true, pusher, from, entry, ret)))
			return false;
	return true;
}

/* An operation enters the daemon, and takes effect behind those that it must follow. */
static bool push(struct record_proof *p, size_t entry, struct record_fault *ret)
{
	const struct record_entry *e = &p->log->entries[entry];
	struct held *held = &p->held[HELD_COUNT * e->queue];
	const struct clock *from = &p->clocks[DRIVER];
	unsigned pusher = DRIVER;
	unsigned line = 1 + p->log->stream_count + HELD_COUNT * e->queue +
			(e->effects & RECORD_WRITES_GRAD ? HELD_GRAD : HELD_STATE);
	uint32_t tick;

	if (e->partner == RECORD_BY_HOST) {
		p->clocks[DRIVER].at[DRIVER]++;
	} else {
		pusher = 1 + (unsigned)p->log->entries[e->partner].stream;
		from = &p->saved[p->saved_at[e->partner]];
	}
	if (!push_ordered(p, entry, pusher, from, ret))
		return false;
	tick = p->clocks[line].at[line];
	p->clocks[line] = *from;
	p->clocks[line].at[line] = tick;
	for (unsigned w = 0; w < HELD_COUNT; w++) {
		if (reads_held(e->effects, w) || writes_held(e->effects, w))
			join(p, &p->clocks[line], &held[w].changed);
		if (writes_held(e->effects, w))
			join(p, &p->clocks[line], &held[w].read);
	}
	if (!happens(p, line, entry, ret))
		return false;
	for (unsigned w = 0; w < HELD_COUNT; w++) {
		if (reads_held(e->effects, w))
			join(p, &held[w].read, &p->clocks[line]);
		if (writes_held(e->effects, w))
			join(p, &held[w].changed, &p->clocks[line]);
	}
	return true;
}

/* Where the ordering of an entry comes from, and who gets it. */
static void order_ends(struct record_proof *p, const struct record_entry *e,
		       const struct clock **ret_from, struct clock **ret_to)
{
	struct clock *driver = &p->clocks[DRIVER];
	struct clock *stream = e->stream >= 0 ? &p->clocks[1 + e->stream] : NULL;
	struct clock *event = e->event >= 0 ? &p->events[e->event] : NULL;

	*ret_from = e->kind == RECORD_EVENT || e->kind == RECORD_SYNC ? stream : event;
	*ret_to = e->kind == RECORD_EVENT ? event : e->kind == RECORD_WAIT ? stream : driver;
	if (e->kind == RECORD_DONE)
		*ret_from = &p->saved[p->saved_at[e->partner]];
}

static bool within(const struct record_proof *p, const struct clock *a, const struct clock *b)
{
	for (unsigned t = 0; t < p->timelines; t++)
		if (a->at[t] > b->at[t])
			return false;
	return true;
}

static void order(struct record_proof *p, size_t entry, bool left_out)
{
	const struct record_entry *e = &p->log->entries[entry];
	const struct clock *from;
	struct clock *to;

	/* What is enqueued is behind what the driving thread has seen. */
	if (e->stream >= 0 && e->kind != RECORD_SYNC)
		join(p, &p->clocks[1 + e->stream], &p->clocks[DRIVER]);
	order_ends(p, e, &from, &to);
	p->adds[entry] = !within(p, from, to);
	if (!left_out)
		join(p, to, from);
}

static bool step(struct record_proof *p, size_t entry, bool left_out, struct record_fault *ret)
{
	const struct record_entry *e = &p->log->entries[entry];

	if (record_orders(e)) {
		order(p, entry, left_out);
		return true;
	}
	if (e->kind == RECORD_PUSH)
		return push(p, entry, ret);
	if (e->kind == RECORD_HOST)
		return happens(p, DRIVER, entry, ret);
	join(p, &p->clocks[1 + e->stream], &p->clocks[DRIVER]);
	return happens(p, (unsigned)(1 + e->stream), entry, ret);
}

const bool *record_proof_adds(const struct record_proof *p)
{
	return p->adds;
}

bool record_proof_holds(struct record_proof *p, const bool *left_out, struct record_fault *ret)
{
	memset(p->clocks, 0, sizeof(p->clocks));
	memset(p->held, 0, sizeof(p->held));
	memset(p->events, 0, p->log->event_count * sizeof(*p->events));
	/* Ticks count from 1: what was never written is ordered before everything. */
	for (size_t i = 0; i < p->cut_count + HELD_COUNT * p->log->queue_count; i++) {
		p->cells[i].readers = 0;
		p->cells[i].write_tick = 0;
	}
	for (size_t i = 0; i < p->log->count; i++)
		if (!step(p, i, left_out && left_out[i], ret))
			return false;
	return true;
}

/* Words. */

static void entry_print(const struct record_log *log, size_t entry, const char *does, char *text,
			size_t bytes)
{
	const struct record_entry *e = &log->entries[entry];
	const char *who = e->stream >= 0 ? log->streams[e->stream] : "the driving thread";
	char of[40];

	if (e->kind == RECORD_PUSH) {
		snprintf(of, sizeof(of), "of the daemon, unit or blob %u", e->queue);
		who = of;
	}
	snprintf(text, bytes, "%s (%s; enqueued in %s)%s", e->what, who, log->labels[e->label],
		 does);
}

/* The smallest named memory that the byte is in; NULL: none. */
static const struct record_region *region_of(const struct record_log *log, uintptr_t at)
{
	const struct record_region *found = NULL;

	for (size_t i = 0; i < log->region_count; i++) {
		const struct record_region *r = &log->regions[i];

		if (at >= r->at && at < r->at + r->bytes && (!found || r->bytes < found->bytes))
			found = r;
	}
	return found;
}

bool record_within_bounds(const struct record_log *log, size_t *ret_entry, size_t *ret_access)
{
	for (size_t i = 0; i < log->count; i++) {
		const struct record_entry *e = &log->entries[i];
		size_t end = e->access_first + e->access_count;

		for (size_t k = e->access_first; e->kind != RECORD_HOST && k < end; k++) {
			const struct record_access *a = &log->accesses[k];
			const struct record_region *r = region_of(log, a->at);

			if (!r || (!r->whole && a->at + a->bytes <= r->at + r->bytes))
				continue;
			*ret_entry = i;
			*ret_access = k - e->access_first;
			return false;
		}
	}
	return true;
}

static void region_print(const struct record_log *log, uintptr_t at, char *text, size_t bytes)
{
	const struct record_region *r = region_of(log, at);

	if (r)
		snprintf(text, bytes, "%s #%zu, from byte %zu", r->name, (size_t)(r - log->regions),
			 (size_t)(at - r->at));
	else
		snprintf(text, bytes, "host memory at %#zx", (size_t)at);
}

void record_fault_print(const struct record_log *log, const struct record_fault *f, char *text,
			size_t text_bytes)
{
	char first[256], second[256], region[128];

	entry_print(log, f->first, f->first_writes ? " writes" : " reads", first, sizeof(first));
	entry_print(log, f->second, f->second_writes ? " writes" : " reads", second,
		    sizeof(second));
	if (!f->at) {
		snprintf(text, text_bytes, "%s\nand %s\nmay enter the daemon in any order", first,
			 second);
		return;
	}
	region_print(log, f->at, region, sizeof(region));
	snprintf(text, text_bytes, "%s,\nand %s\nwithout any order: %zu bytes of %s", first, second,
		 f->bytes, region);
}
