/*
 * The log: records to stderr as text or JSON lines, or to the journal with fields.
 *
 * Called from any thread after log_init(); the settings are atomics, so that a record written while
 * they change is merely old-fashioned.
 * Invariants:
 * 1. One record is one write (one datagram to the journal). A record is at most RECORD_BYTES, which
 *    is what Linux writes to a pipe at once, so records of several processes do not mix either.
 * 2. Bytes a peer or a file may have put into a message cannot forge a record: control characters
 *    are replaced, lines after the first are indented.
 * 3. Nothing here allocates, so a record about the end of memory gets out.
 * 4. A record that cannot be written is dropped: there is no other place to say so.
 */
#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RECORD_BYTES   4096
#define MESSAGE_BYTES  3072
#define JOURNAL_SOCKET "/run/systemd/journal/socket"

static const char *_Atomic program = "dsrun";
static _Atomic int level_max = LOG_LEVEL_INFO;
static _Atomic int format_now = LOG_FORMAT_TEXT;
static _Atomic int rank_now = -1;
static _Atomic int journal_fd = -1;

static const struct {
	const char *name;
	int priority; /* syslog's */
} levels[] = {
	[LOG_LEVEL_ERROR] = {"error", 3},
	[LOG_LEVEL_WARN] = {"warning", 4},
	[LOG_LEVEL_INFO] = {"info", 6},
	[LOG_LEVEL_DEBUG] = {"debug", 7},
};

/* A record being put together; writes past the end are cut. */
struct record {
	size_t len;
	char text[RECORD_BYTES];
};

static void put_bytes(struct record *r, const char *bytes, size_t len)
{
	/* The last byte is kept for the newline. */
	size_t room = sizeof(r->text) - 1 - r->len;

	if (len > room)
		len = room;
	memcpy(r->text + r->len, bytes, len);
	r->len += len;
}

static void put(struct record *r, const char *text)
{
	put_bytes(r, text, strlen(text));
}

static void put_number(struct record *r, long long value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", value);
	put(r, text);
}

static bool is_control(char c)
{
	return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f;
}

static void put_plain(struct record *r, const char *text, const char *line_prefix)
{
	for (; *text; text++) {
		if (*text == '\n') {
			put(r, "\n");
			put(r, line_prefix);
		} else {
			put_bytes(r, is_control(*text) ? "?" : text, 1);
		}
	}
}

/* Not json.c, which allocates. Cut at 2 bytes before the end, so that the quote always fits. */
static void put_json(struct record *r, const char *text)
{
	char code[8];

	for (; *text && r->len < RECORD_BYTES - 16; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\') {
			put_bytes(r, "\\", 1);
			put_bytes(r, text, 1);
		} else if (c < 0x20 || c == 0x7f) {
			snprintf(code, sizeof(code), "\\u%04x", c);
			put(r, code);
		} else {
			put_bytes(r, text, 1);
		}
	}
}

static void put_time(struct record *r)
{
	struct timespec now;
	char text[40];
	struct tm tm;
	size_t len;

	if (clock_gettime(CLOCK_REALTIME, &now) < 0 || !gmtime_r(&now.tv_sec, &tm))
		return;
	len = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + len, sizeof(text) - len, ".%03ldZ", now.tv_nsec / 1000000);
	put(r, text);
}

static void record_text(struct record *r, int rank, enum log_level level, const char *module,
			const char *message)
{
	put(r, atomic_load_explicit(&program, memory_order_relaxed));
	if (rank >= 0) {
		put(r, "[");
		put_number(r, rank);
		put(r, "]");
	}
	put(r, ": ");
	/* Progress is not news: only what deserves a look names its level. */
	if (level != LOG_LEVEL_INFO) {
		put(r, levels[level].name);
		put(r, " ");
	}
	put(r, module);
	put(r, ": ");
	put_plain(r, message, "    ");
}

static void record_json(struct record *r, int rank, enum log_level level, const char *module,
			const char *message)
{
	put(r, "{\"time\":\"");
	put_time(r);
	put(r, "\",\"level\":\"");
	put(r, levels[level].name);
	put(r, "\",\"program\":\"");
	put_json(r, atomic_load_explicit(&program, memory_order_relaxed));
	put(r, "\",\"pid\":");
	put_number(r, getpid());
	if (rank >= 0) {
		put(r, ",\"rank\":");
		put_number(r, rank);
	}
	put(r, ",\"module\":\"");
	put_json(r, module);
	put(r, "\",\"message\":\"");
	put_json(r, message);
	put(r, "\"}");
}

/* sd-daemon(3)'s form, read from a service's stderr. */
static void record_priority(struct record *r, int rank, enum log_level level, const char *module,
			    const char *message)
{
	char prefix[8];

	snprintf(prefix, sizeof(prefix), "<%d>", levels[level].priority);
	put(r, prefix);
	if (rank >= 0) {
		put(r, "rank ");
		put_number(r, rank);
		put(r, ": ");
	}
	put(r, module);
	put(r, ": ");
	put_plain(r, message, prefix);
}

static void put_field(struct record *r, const char *name, const char *value)
{
	put(r, name);
	put(r, "=");
	put(r, value);
	put(r, "\n");
}

/* The journal's native form; a value with newlines goes behind its length. */
static bool journal_send(int fd, int rank, enum log_level level, const char *module,
			 const char *message)
{
	struct record r = {0};
	uint64_t len = strlen(message);
	char number[16];

	snprintf(number, sizeof(number), "%d", levels[level].priority);
	put_field(&r, "PRIORITY", number);
	put_field(&r, "SYSLOG_IDENTIFIER", atomic_load_explicit(&program, memory_order_relaxed));
	put_field(&r, "DSRUN_MODULE", module);
	if (rank >= 0) {
		snprintf(number, sizeof(number), "%d", rank);
		put_field(&r, "DSRUN_RANK", number);
	}
	put(&r, "MESSAGE\n");
	put_bytes(&r, (const char *)&len, sizeof(len)); /* little-endian, as the format asks */
	put_bytes(&r, message, len);
	put(&r, "\n");
	return send(fd, r.text, r.len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)r.len;
}

static void record_write(struct record *r)
{
	size_t done = 0;

	r->text[r->len++] = '\n';
	while (done < r->len) {
		ssize_t n = write(STDERR_FILENO, r->text + done, r->len - done);

		if (n < 0 && errno != EINTR)
			return;
		if (n > 0)
			done += (size_t)n;
	}
}

static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

/* Without the socket the records go through stderr with their priority in front. */
static void journal_open(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET};
	int fd;

	if (atomic_load_explicit(&journal_fd, memory_order_relaxed) >= 0)
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(fd);
		return;
	}
	atomic_store_explicit(&journal_fd, fd, memory_order_relaxed);
}

void log_init(const char *name, enum log_level level, enum log_format format)
{
	if (format == LOG_FORMAT_AUTO)
		format = stderr_is_journal() ? LOG_FORMAT_JOURNAL : LOG_FORMAT_TEXT;
	if (format == LOG_FORMAT_JOURNAL)
		journal_open();
	atomic_store_explicit(&program, name, memory_order_relaxed);
	atomic_store_explicit(&level_max, (int)level, memory_order_relaxed);
	atomic_store_explicit(&format_now, (int)format, memory_order_relaxed);
}

void log_set_rank(int rank)
{
	atomic_store_explicit(&rank_now, rank, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&level_max, memory_order_relaxed);
}

void log_write(enum log_level level, const char *module, const char *fmt, ...)
{
	int rank = atomic_load_explicit(&rank_now, memory_order_relaxed);
	int format = atomic_load_explicit(&format_now, memory_order_relaxed);
	int fd = atomic_load_explicit(&journal_fd, memory_order_relaxed);
	int saved_errno = errno;
	char message[MESSAGE_BYTES];
	struct record r = {0};
	va_list ap;

	if (level > log_get_level())
		return;
	va_start(ap, fmt);
	if (vsnprintf(message, sizeof(message), fmt, ap) < 0)
		snprintf(message, sizeof(message), "%s", fmt);
	va_end(ap);
	if (format == LOG_FORMAT_JOURNAL && fd >= 0 &&
	    journal_send(fd, rank, level, module, message))
		goto out;
	if (format == LOG_FORMAT_JOURNAL)
		record_priority(&r, rank, level, module, message);
	else if (format == LOG_FORMAT_JSON)
		record_json(&r, rank, level, module, message);
	else
		record_text(&r, rank, level, module, message);
	record_write(&r);
out:
	/* Callers log in the middle of looking at an error. */
	errno = saved_errno;
}
