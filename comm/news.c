/*
 * News for a rank: see news.h. Written by the agent from its loop, read by a worker: its main
 * thread until the ranks have met, then the backend's watcher.
 *
 * 1. A record is smaller than PIPE_BUF: it goes into the pipe and comes out of it whole.
 * 2. A reader checks every field; a record that makes no sense is an error.
 */
#include "comm/news.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(struct comm_news) == 8 + COMM_ID_BYTES, "news changed size");
_Static_assert(sizeof(struct comm_news) <= PIPE_BUF, "news must arrive whole");

int comm_news_write(int fd, const struct comm_news *news)
{
	ssize_t put;

	do
		put = write(fd, news, sizeof(*news));
	while (put < 0 && errno == EINTR);
	return put < 0 ? -errno : 0;
}

static bool is_id(const uint8_t id[COMM_ID_BYTES])
{
	static const uint8_t none[COMM_ID_BYTES];

	return memcmp(id, none, sizeof(none)) != 0;
}

static int check(const struct comm_news *news, unsigned world, struct err *err)
{
	if (news->type == COMM_NEWS_ID && news->rank == 0 && is_id(news->id))
		return 1;
	if (news->type == COMM_NEWS_FAILED && news->rank < world && !is_id(news->id))
		return 1;
	return err_set(err, ERR_PROTOCOL, "news of type %u about rank %u of %u", news->type,
		       news->rank, world);
}

int comm_news_read(int fd, unsigned world, int timeout_ms, struct comm_news *ret, struct err *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int ready = poll(&p, 1, timeout_ms);

	if (ready == 0 || (ready < 0 && errno == EINTR))
		return 0;
	if (ready < 0)
		return err_sys(err, -errno, "news: poll");

	ssize_t got = read(fd, ret, sizeof(*ret));
	if (got < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : err_sys(err, -errno, "news: read");
	if (got == 0)
		return err_set(err, ERR_UNAVAILABLE, "the launcher is gone");
	if (got != (ssize_t)sizeof(*ret))
		return err_set(err, ERR_PROTOCOL, "news of %zd bytes", got);
	return check(ret, world, err);
}

void comm_id_format(const uint8_t id[COMM_ID_BYTES], char ret[COMM_ID_TEXT_BYTES])
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < COMM_ID_BYTES; i++) {
		ret[2 * i] = digits[id[i] >> 4];
		ret[2 * i + 1] = digits[id[i] & 15];
	}
	ret[2 * COMM_ID_BYTES] = '\0';
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int comm_id_parse(const char *text, size_t len, uint8_t ret[COMM_ID_BYTES])
{
	uint8_t id[COMM_ID_BYTES];

	if (len != 2 * COMM_ID_BYTES)
		return -EINVAL;
	for (size_t i = 0; i < COMM_ID_BYTES; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		id[i] = (uint8_t)(high << 4 | low);
	}
	if (!is_id(id))
		return -EINVAL;
	memcpy(ret, id, sizeof(id));
	return 0;
}
