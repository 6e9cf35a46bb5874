/*
 * What happened when: a recorder of intervals for `dsrun --trace`. A lane is a thread, a stream or
 * a queue; an event is an interval on it. Recording takes no lock, allocates nothing and costs one
 * branch where nobody traces.
 *
 *	uint64_t began = trace_begin(lane);
 *	... work ...
 *	trace_end(lane, TRACE_BUSY, "all-gather", began, unit, bytes);
 *
 * Threads. A lane has one writer at a time. One thread opens lanes, switches recording and takes
 * what was recorded out as text (common/trace_text.h); that may be another one than the writers.
 *
 * Clock. CLOCK_MONOTONIC, which all processes of a host share. It is the merger's affair to bring
 * together events of several hosts.
 */
#ifndef COMMON_TRACE_H
#define COMMON_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define TRACE_LANES_MAX  2048u /* of a recorder */
#define TRACE_NAMES_MAX  4096u /* different names of events in a recorder */
#define TRACE_NAME_BYTES 128u  /* of a lane or an event, with its NUL */
#define TRACE_NO_UNIT    UINT32_MAX

enum trace_kind {
	TRACE_THREAD,
	TRACE_COMPUTE,  /* the stream that everything else should hide behind */
	TRACE_TRANSFER, /* a stream that moves bytes */
	TRACE_QUEUE,    /* moves bytes too; its events may overlap */
	TRACE_KIND_COUNT,
};

/*
 * What an interval says of its lane. A span only groups what lies within. Where a wait lies in busy
 * time, the lane was waiting; nothing busy lies within a wait.
 */
enum trace_state { TRACE_SPAN, TRACE_BUSY, TRACE_WAIT, TRACE_STATE_COUNT };

struct trace_event {
	const char *name; /* storage that lives until the event was taken out */
	uint64_t begin_ns, end_ns;
	uint64_t bytes;
	uint32_t unit; /* of parameters, or a step's number; TRACE_NO_UNIT: none */
	uint32_t state;
};

struct trace;
struct trace_lane;

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t trace_now_ns(void);

/* A recorder without lanes, not recording. -ENOMEM. */
int trace_open(struct trace **ret, struct err *err);

/* No writer may be left. NULL is fine. Returns NULL. */
struct trace *trace_free(struct trace *trace);

/*
 * A lane that holds `capacity` events (a power of two) between two takings; what comes when it is
 * full is counted, and dropped. The name is copied, and cut to TRACE_NAME_BYTES. -ENOMEM, or
 * -ENOSPC past TRACE_LANES_MAX.
 */
int trace_lane_open(struct trace *trace, enum trace_kind kind, const char *name, uint32_t capacity,
		    struct trace_lane **ret, struct err *err);

void trace_record(struct trace *trace, bool on);

/* Is it recording? For trace_begin; `lane` is not NULL. */
bool trace_recording(const struct trace_lane *lane);

/* Puts an event into its lane, whether recording or not. */
void trace_add(struct trace_lane *lane, const struct trace_event *event);

/* What the writer could not even make an event of is counted among those dropped. */
void trace_drop(struct trace_lane *lane);

/* Is some lane half full, or fuller? */
bool trace_pressing(const struct trace *trace);

/*
 * Takes out what was recorded, as lines of text with a NUL behind them: lanes and names where they
 * are new, events lane by lane in the order they ended, and how many were dropped. Returns the
 * bytes of whole lines that fit in `room` (at least TRACE_TEXT_ROOM_MIN); 0: nothing is left.
 */
size_t trace_take(struct trace *trace, char *text, size_t room);

/* Now, when somebody traces this lane, else 0. `lane` may be NULL. */
static inline uint64_t trace_begin(const struct trace_lane *lane)
{
	return lane && trace_recording(lane) ? trace_now_ns() : 0;
}

/* The interval from trace_begin's answer until now; none when that was 0. */
static inline void trace_end(struct trace_lane *lane, enum trace_state state, const char *name,
			     uint64_t began_ns, uint32_t unit, uint64_t bytes)
{
	struct trace_event event = {name, began_ns, 0, bytes, unit, (uint32_t)state};

	if (began_ns == 0)
		return;
	event.end_ns = trace_now_ns();
	trace_add(lane, &event);
}

#endif
