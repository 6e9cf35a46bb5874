/*
 * Recorded events as lines of printable ASCII, between processes: written by trace_take, read by
 * dsrun. Numbers are hexadecimal without leading zeros, one space stands between fields, and bytes
 * of names that are not graphic ASCII, or are '%', are %XX.
 *
 *	l LANE KIND NAME                               a lane, before its events
 *	n ID NAME                                      a name, before the events that bear it
 *	e LANE STATE ID BEGIN DURATION UNIT BYTES      an event; nanoseconds
 *	x LANE COUNT                                   so many were dropped in all
 */
#ifndef COMMON_TRACE_TEXT_H
#define COMMON_TRACE_TEXT_H

#include <stdint.h>

#include "common/trace.h"

/* The longest line, and what trace_take needs for one. */
#define TRACE_TEXT_LINE_BYTES 512u
#define TRACE_TEXT_ROOM_MIN   (2 * TRACE_TEXT_LINE_BYTES)

/* Slots of names: ids are below. */
#define TRACE_NAME_IDS (2 * TRACE_NAMES_MAX)

enum trace_line_type { TRACE_LINE_LANE, TRACE_LINE_NAME, TRACE_LINE_EVENT, TRACE_LINE_DROPPED };

struct trace_line {
	enum trace_line_type type;
	uint32_t lane, kind; /* LANE, EVENT, DROPPED; kind: LANE, an enum trace_kind */
	uint32_t id;         /* NAME, EVENT: below TRACE_NAME_IDS */
	uint32_t state;      /* EVENT: an enum trace_state */
	uint32_t unit;
	uint64_t begin_ns, end_ns, bytes;
	uint64_t dropped;
	char name[TRACE_NAME_BYTES]; /* LANE, NAME */
};

/* Each writes one line, of at most TRACE_TEXT_LINE_BYTES, and returns where it ended. */
char *trace_text_lane(char *at, uint32_t lane, enum trace_kind kind, const char *name);
char *trace_text_name(char *at, uint32_t id, const char *name);
char *trace_text_event(char *at, uint32_t lane, uint32_t id, const struct trace_event *event);
char *trace_text_dropped(char *at, uint32_t lane, uint64_t count);

/*
 * The line at *at, which moves behind it. 1; 0 at the end; -EBADMSG for what is no line, or has a
 * number that is out of range: then *at stays. Every field is checked but whether lane and id were
 * declared.
 */
int trace_text_next(const char **at, const char *end, struct trace_line *ret);

#endif
