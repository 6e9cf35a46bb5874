/* Cuts a rank's output into lines, and remembers the last ones for the failure report. */
#ifndef LAUNCHER_LINES_H
#define LAUNCHER_LINES_H

#include <stddef.h>

#define LINES_BYTES_MAX  16384u /* a longer line is cut here */
#define LINES_TAIL_COUNT 20u
#define LINES_TAIL_BYTES 512u

/* A line without its newline; any bytes may be in it. */
typedef void lines_fn(void *ctx, const char *line, size_t len);

struct lines {
	char *buf; /* of a line that is not whole */
	size_t len;
};

/* Caller's storage, zeroed to begin with. `fn` is called for every whole line. */
void lines_feed(struct lines *lines, const char *data, size_t len, lines_fn *fn, void *ctx);

/* The end: what has no newline is a line too. Frees. */
void lines_finish(struct lines *lines, lines_fn *fn, void *ctx);

struct tail {
	char (*lines)[LINES_TAIL_BYTES]; /* a ring of LINES_TAIL_COUNT */
	size_t count;                    /* ever added */
};

/* Lines are cut at LINES_TAIL_BYTES, control characters replaced; empty ones are left out. */
void tail_add(struct tail *tail, const char *line, size_t len);

/* The i-th of those kept, the oldest first, or NULL. */
const char *tail_line(const struct tail *tail, size_t i);
void tail_done(struct tail *tail);

#endif
