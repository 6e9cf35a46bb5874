/*
 * Standard output and error of dsrun. Called from dsrun's only thread.
 *
 * 1. A line is in the queue whole or not at all, so lines of ranks never mix.
 * 2. A terminal held by ^S or a reader that stalls must not stop supervision, and its descriptors
 *    are shared with others, so they stay blocking: writes are made only when poll says there is
 *    room, and no larger than the room it promises.
 * 3. The live line is drawn only when the queue is empty, and erased before any other line.
 */
#include "launcher/screen.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUEUE_BYTES    ((size_t)1 << 20)
#define LIVE_PERIOD_NS 100000000ull
#define ERASE          "\r\033[K"
/* poll promises a pipe's writer PIPE_BUF bytes, a terminal's less. */
#define WRITE_BYTES     ((size_t)PIPE_BUF)
#define WRITE_TTY_BYTES ((size_t)256)

static bool same_file(int a, int b)
{
	struct stat sa, sb;

	return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

void screen_init(struct screen *s)
{
	const char *term = getenv("TERM");
	bool tty = isatty(1);

	*s = (struct screen){.streams = {{.fd = 1}, {.fd = 2}}};
	s->live_wanted = tty && term && strcmp(term, "dumb") != 0;
	s->same = tty && isatty(2) && same_file(1, 2);
}

void screen_done(struct screen *s)
{
	for (int i = 0; i < SCREEN_STREAM_COUNT; i++) {
		free(s->streams[i].buf);
		s->streams[i].buf = NULL;
	}
}

static void lose(struct screen_stream *stream, int error)
{
	stream->gone = true;
	stream->error = error;
	stream->len = 0;
}

static void put(struct screen_stream *stream, const char *data, size_t len)
{
	if (stream->gone || len == 0)
		return;
	if (stream->start > 0 && stream->start + stream->len + len > stream->room) {
		memmove(stream->buf, stream->buf + stream->start, stream->len);
		stream->start = 0;
	}
	if (stream->len + len > stream->room) {
		size_t room = stream->room ? stream->room : 4096;

		while (room < stream->len + len)
			room *= 2;
		char *buf = realloc(stream->buf, room);
		if (!buf) {
			lose(stream, ENOMEM);
			return;
		}
		stream->buf = buf;
		stream->room = room;
	}
	memcpy(stream->buf + stream->start + stream->len, data, len);
	stream->len += len;
}

static struct screen_stream *stream_of(struct screen *s, enum screen_stream_name name)
{
	return &s->streams[s->same ? SCREEN_OUT : name];
}

/* Queues the erasing; the line comes back by itself when the queue is empty. */
static void erase_live(struct screen *s)
{
	if (!s->live_shown)
		return;
	put(&s->streams[SCREEN_OUT], ERASE, strlen(ERASE));
	s->live_shown = false;
	s->live_fresh = s->live[0] != '\0';
}

void screen_line(struct screen *s, enum screen_stream_name name, const char *prefix,
		 const char *data, size_t len)
{
	struct screen_stream *stream = stream_of(s, name);

	erase_live(s);
	put(stream, prefix, strlen(prefix));
	put(stream, data, len);
	put(stream, "\n", 1);
}

void screen_text(struct screen *s, enum screen_stream_name name, const char *text)
{
	erase_live(s);
	put(stream_of(s, name), text, strlen(text));
}

void screen_live(struct screen *s, const char *text, size_t len)
{
	if (!s->live_wanted)
		return;
	if (len >= sizeof(s->live))
		len = sizeof(s->live) - 1;
	memcpy(s->live, text, len);
	s->live[len] = '\0';
	s->live_fresh = true;
}

void screen_clear(struct screen *s)
{
	erase_live(s);
	screen_flush(s, 0);
}

static bool ready(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	return poll(&p, 1, 0) == 1;
}

static void flush_stream(struct screen_stream *stream)
{
	size_t most = isatty(stream->fd) ? WRITE_TTY_BYTES : WRITE_BYTES;

	while (stream->len > 0 && ready(stream->fd)) {
		size_t len = stream->len < most ? stream->len : most;
		/* poll promises nothing for sockets; what is no socket says so and is written. */
		ssize_t done = send(stream->fd, stream->buf + stream->start, len,
				    MSG_DONTWAIT | MSG_NOSIGNAL);
		if (done < 0 && errno == ENOTSOCK)
			done = write(stream->fd, stream->buf + stream->start, len);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno == EAGAIN)
			return;
		if (done < 0) {
			lose(stream, errno);
			return;
		}
		stream->start += (size_t)done;
		stream->len -= (size_t)done;
	}
	if (stream->len == 0)
		stream->start = 0;
}

/* As many bytes of `text` as fill at most `columns`; a UTF-8 sequence counts as one. */
static size_t cut(const char *text, size_t columns)
{
	size_t at = 0;

	while (text[at]) {
		size_t next = at + 1;

		while (((unsigned char)text[next] & 0xc0) == 0x80)
			next++;
		if (columns-- == 0)
			break;
		at = next;
	}
	return at;
}

static void draw_live(struct screen *s, uint64_t now_ns)
{
	struct screen_stream *out = &s->streams[SCREEN_OUT];
	struct winsize size;
	size_t columns = 80;

	if (!s->live_fresh || !s->live[0] || out->len > 0 || out->gone || now_ns == 0 ||
	    now_ns < s->live_at_ns + LIVE_PERIOD_NS)
		return;
	if (ioctl(out->fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		columns = size.ws_col;
	/* One column stays free: a full line makes some terminals wrap, beyond erasing. */
	put(out, ERASE, strlen(ERASE));
	put(out, s->live, cut(s->live, columns - 1));
	s->live_shown = true;
	s->live_fresh = false;
	s->live_at_ns = now_ns;
	flush_stream(out);
}

void screen_flush(struct screen *s, uint64_t now_ns)
{
	for (int i = 0; i < SCREEN_STREAM_COUNT; i++)
		flush_stream(&s->streams[i]);
	if (s->live_wanted)
		draw_live(s, now_ns);
}

size_t screen_pending(const struct screen *s, enum screen_stream_name name)
{
	return s->streams[name].len;
}

bool screen_full(const struct screen *s)
{
	return screen_pending(s, SCREEN_OUT) > QUEUE_BYTES ||
	       screen_pending(s, SCREEN_ERR) > QUEUE_BYTES;
}

uint64_t screen_due_ns(const struct screen *s)
{
	if (!s->live_wanted || !s->live_fresh || s->streams[SCREEN_OUT].len > 0)
		return 0;
	return s->live_at_ns + LIVE_PERIOD_NS;
}

void screen_finish(struct screen *s)
{
	erase_live(s);
	s->live[0] = '\0';
	s->live_fresh = false;
	for (int i = 0; i < SCREEN_STREAM_COUNT; i++) {
		struct screen_stream *stream = &s->streams[i];

		while (stream->len > 0) {
			struct pollfd p = {.fd = stream->fd, .events = POLLOUT};

			if (poll(&p, 1, -1) < 0 && errno != EINTR)
				lose(stream, errno);
			flush_stream(stream);
		}
	}
}
