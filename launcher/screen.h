/*
 * What dsrun shows: whole lines to standard output and error, and on a terminal one live line that
 * gives way to them. Nothing here blocks before screen_finish.
 */
#ifndef LAUNCHER_SCREEN_H
#define LAUNCHER_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum screen_stream_name { SCREEN_OUT, SCREEN_ERR, SCREEN_STREAM_COUNT };

#define SCREEN_LIVE_BYTES 512

struct screen_stream {
	int fd;
	bool gone; /* nobody reads it: what is written is dropped */
	int error; /* why, an errno; 0 while it is there */
	char *buf;
	size_t start, len, room;
};

struct screen {
	struct screen_stream streams[SCREEN_STREAM_COUNT];
	bool live_wanted; /* standard output is a terminal that can erase a line */
	bool same;        /* both streams are one terminal: one queue keeps the order */
	bool live_shown, live_fresh;
	uint64_t live_at_ns;
	char live[SCREEN_LIVE_BYTES];
};

void screen_init(struct screen *s);
void screen_done(struct screen *s);

/* Queues one line, whole: prefix, data, newline. */
void screen_line(struct screen *s, enum screen_stream_name stream, const char *prefix,
		 const char *data, size_t len);

/* Queues bytes as they are; whole lines. */
void screen_text(struct screen *s, enum screen_stream_name stream, const char *text);

/* Makes this the live line; drawn by screen_flush, at most ten times a second. */
void screen_live(struct screen *s, const char *text, size_t len);

/* Takes the live line away, so that others may write to the terminal directly. */
void screen_clear(struct screen *s);

/* Writes what can be written at once. */
void screen_flush(struct screen *s, uint64_t now_ns);

/* So much waits that no more should be asked for. */
bool screen_full(const struct screen *s);
size_t screen_pending(const struct screen *s, enum screen_stream_name stream);

/* When the live line should next be drawn, or 0. */
uint64_t screen_due_ns(const struct screen *s);

/* Writes all, blocking, and leaves no live line. */
void screen_finish(struct screen *s);

#endif
