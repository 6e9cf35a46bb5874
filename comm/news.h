/*
 * What a rank is told while it runs: a pipe of records from its agent, of which there is one for
 * each worker. The end of the pipe is the end of the launcher.
 *
 *  the id:   rank 0's worker --report--> agent --link--> dsrun --link--> agents --news--> workers
 *  failure:  agent --news--> its workers, --link--> dsrun --link--> agents --news--> workers
 *
 * Only a native backend reads it; elsewhere what is written stays in the pipe.
 */
#ifndef COMM_NEWS_H
#define COMM_NEWS_H

#include <stdint.h>

#include "comm/comm.h"
#include "common/err.h"

enum comm_news_type {
	COMM_NEWS_ID = 1, /* what the ranks meet by; at most once */
	COMM_NEWS_FAILED, /* a rank has failed, and with it the job */
};

struct comm_news {
	uint32_t type;
	uint32_t rank; /* ID: 0; FAILED: whose failure */
	uint8_t id[COMM_ID_BYTES];
};

/*
 * Writes one record, whole or not at all. 0, -EAGAIN when the pipe is full, -EPIPE when nobody
 * reads any more. Never blocks when fd does not.
 */
int comm_news_write(int fd, const struct comm_news *news);

/*
 * The next record, waiting at most timeout_ms (-1: as long as it takes): 1, or 0 when none came in
 * time. ERR_UNAVAILABLE at the end of the pipe, ERR_PROTOCOL for what is no news in a world of
 * `world`.
 */
int comm_news_read(int fd, unsigned world, int timeout_ms, struct comm_news *ret, struct err *err);

/* The id as text, for a report: lower-case hexadecimal digits. */
#define COMM_ID_TEXT_BYTES (2 * COMM_ID_BYTES + 1)
void comm_id_format(const uint8_t id[COMM_ID_BYTES], char ret[COMM_ID_TEXT_BYTES]);

/* Back again: 0, or -EINVAL for what comm_id_format did not write, and for zeros: no id is that. */
int comm_id_parse(const char *text, size_t len, uint8_t ret[COMM_ID_BYTES]);

#endif
