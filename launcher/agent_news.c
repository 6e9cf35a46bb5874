/*
 * What ranks must know of each other: the id that their collectives meet by, and that one of them
 * has failed. Called from the agent's loop alone; comm/news.h has the way that each takes.
 *
 * 1. The id is rank 0's to make, once. It comes from a worker and so is checked in full; one that
 *    must not have come is that rank's failure, since the others would wait for a right one.
 * 2. Workers get the id from dsrun only, those of rank 0's own host too: one way for all hosts.
 * 3. Workers learn of a failure before they get the SIGTERM that follows from it. One is all they
 *    need to know of.
 * 4. Nothing here waits. A pipe has room for hundreds of records, of which two are written; one
 *    that is full belongs to a worker that reads no news.
 */
#include "launcher/internal.h"

#include <errno.h>
#include <string.h>

#include "comm/news.h"
#include "common/log.h"

static void tell(struct agent *a, const struct comm_news *news)
{
	for (struct agent_child *c = a->children; c && c < a->daemon; c++) {
		int rc = c->news_fd >= 0 ? comm_news_write(c->news_fd, news) : 0;

		/* EPIPE: it is ending, and its pidfd is about to say so. */
		if (rc < 0 && rc != -EPIPE && rc != -EAGAIN)
			log_warn("launcher", "rank %u: telling it news: %s, ignoring", c->rank,
				 err_str(rc));
	}
}

int agent_news_report_id(struct agent *a, uint32_t rank, const char *text, size_t len)
{
	struct link_comm_id id;
	const char *wrong = NULL;

	if (rank != 0)
		wrong = "it sent the id of the collectives, which is rank 0's to make";
	else if (a->id_sent)
		wrong = "it sent a second id of the collectives";
	else if (comm_id_parse(text, len, id.id) < 0)
		wrong = "it sent an id of the collectives that is none";
	if (wrong) {
		agent_fail(a, rank, ERR_PROTOCOL, wrong);
		return -EPROTO;
	}
	a->id_sent = true;
	agent_put(a, LINK_COMM_ID, rank, &id, sizeof(id), NULL, 0);
	return 0;
}

int agent_news_take_id(struct agent *a, const struct link_frame *frame, struct err *err)
{
	struct comm_news news = {.type = COMM_NEWS_ID};
	struct link_comm_id id;
	int rc = link_take(frame, &id, sizeof(id), NULL, NULL, err);

	if (rc < 0)
		return rc;
	if (a->id_taken || !a->children)
		return err_set(err, ERR_PROTOCOL, "link: %s",
			       a->id_taken ? "a second id of the collectives"
					   : "an id of the collectives before the job");
	a->id_taken = true;
	memcpy(news.id, id.id, sizeof(news.id));
	tell(a, &news);
	return 0;
}

void agent_news_failed(struct agent *a, uint32_t rank)
{
	struct comm_news news = {.type = COMM_NEWS_FAILED, .rank = rank};

	if (a->failure_told)
		return;
	a->failure_told = true;
	tell(a, &news);
}

int agent_news_take_failed(struct agent *a, const struct link_frame *frame, struct err *err)
{
	int rc = link_take(frame, NULL, 0, NULL, NULL, err);

	if (rc < 0)
		return rc;
	if (!a->children || frame->head.rank >= a->launch.job.world)
		return err_set(err, ERR_PROTOCOL, "link: failure of rank %u", frame->head.rank);
	agent_news_failed(a, frame->head.rank);
	return 0;
}
