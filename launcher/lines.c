/* Lines out of bytes: see lines.h. Memory is bounded by one line for each stream of each rank. */
#include "launcher/lines.h"

#include <stdlib.h>
#include <string.h>

static void add(struct lines *lines, const char *data, size_t len, lines_fn *fn, void *ctx)
{
	while (len > 0) {
		size_t room = LINES_BYTES_MAX - lines->len;
		size_t take = len < room ? len : room;

		if (!lines->buf)
			lines->buf = malloc(LINES_BYTES_MAX);
		if (!lines->buf) {
			/* Better a line in pieces than none. */
			fn(ctx, data, len);
			return;
		}
		memcpy(lines->buf + lines->len, data, take);
		lines->len += take;
		data += take;
		len -= take;
		if (lines->len == LINES_BYTES_MAX) {
			fn(ctx, lines->buf, lines->len);
			lines->len = 0;
		}
	}
}

void lines_feed(struct lines *lines, const char *data, size_t len, lines_fn *fn, void *ctx)
{
	const char *end = data + len, *newline;

	while (data < end && (newline = memchr(data, '\n', (size_t)(end - data))) != NULL) {
		size_t part = (size_t)(newline - data);

		if (lines->len == 0 && part < LINES_BYTES_MAX) {
			fn(ctx, data, part);
		} else {
			add(lines, data, part, fn, ctx);
			if (lines->len > 0)
				fn(ctx, lines->buf, lines->len);
			lines->len = 0;
		}
		data = newline + 1;
	}
	add(lines, data, (size_t)(end - data), fn, ctx);
}

void lines_finish(struct lines *lines, lines_fn *fn, void *ctx)
{
	if (lines->len > 0)
		fn(ctx, lines->buf, lines->len);
	free(lines->buf);
	*lines = (struct lines){0};
}

void tail_add(struct tail *tail, const char *line, size_t len)
{
	if (len == 0)
		return;
	if (!tail->lines)
		tail->lines = calloc(LINES_TAIL_COUNT, sizeof(*tail->lines));
	if (!tail->lines)
		return;

	char *to = tail->lines[tail->count++ % LINES_TAIL_COUNT];
	size_t used = len < LINES_TAIL_BYTES - 1 ? len : LINES_TAIL_BYTES - 1;
	for (size_t i = 0; i < used; i++) {
		unsigned char c = (unsigned char)line[i];

		to[i] = c == '\t' ? ' ' : c < 0x20 || c == 0x7f ? '?' : (char)c;
	}
	to[used] = '\0';
}

const char *tail_line(const struct tail *tail, size_t i)
{
	size_t kept = tail->count < LINES_TAIL_COUNT ? tail->count : LINES_TAIL_COUNT;

	return i < kept ? tail->lines[(tail->count - kept + i) % LINES_TAIL_COUNT] : NULL;
}

void tail_done(struct tail *tail)
{
	free(tail->lines);
	*tail = (struct tail){0};
}
