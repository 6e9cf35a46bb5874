/*
 * The ranks as dsrun sees them. What a rank prints comes out line by line with its number in front;
 * what it reports comes out by kind: notes always, steps in logs, the live line on a terminal.
 *
 * 1. A rank's number in a frame is checked here, before anything is looked up by it.
 * 2. A tee file that cannot be written is given up, with one line: training goes on.
 */
#include "launcher/view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "offload/job.h"

static struct view_rank *rank_of(struct job_view *view, uint32_t rank)
{
	if (rank == LINK_RANK_DAEMON)
		return &view->ranks[view->world];
	return rank < view->world ? &view->ranks[rank] : NULL;
}

static int open_tee(struct view_rank *rank, unsigned idx, const char *dir, struct err *err)
{
	static const char *const ends[] = {"out", "err"};

	for (int i = 0; i < 2; i++) {
		char path[4096];
		int len = snprintf(path, sizeof(path), "%s/rank-%04u.%s", dir, idx, ends[i]);

		if ((size_t)len >= sizeof(path))
			return err_sys(err, -ENAMETOOLONG, "%s", dir);
		rank->tee_fds[i] = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		if (rank->tee_fds[i] < 0)
			return err_set(err, ERR_CANTCREAT, "%s: %s", path, err_str(-errno));
	}
	return 0;
}

static int open_tees(struct job_view *view, const char *dir, struct err *err)
{
	if (mkdir(dir, 0777) < 0 && errno != EEXIST)
		return err_set(err, ERR_CANTCREAT, "%s: %s", dir, err_str(-errno));
	for (unsigned i = 0; i < view->world; i++) {
		int rc = open_tee(&view->ranks[i], i, dir, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

int view_open(unsigned world, bool quiet, const char *tee, struct job_view **ret, struct err *err)
{
	struct job_view *view = calloc(1, sizeof(*view));
	int rc = 0;

	if (view)
		view->ranks = calloc((size_t)world + 1, sizeof(*view->ranks));
	if (!view || !view->ranks) {
		view_free(view);
		return err_sys(err, -ENOMEM, "ranks");
	}
	screen_init(&view->screen);
	view->quiet = quiet;
	view->world = world;
	for (unsigned i = 0; i <= world; i++) {
		struct view_rank *rank = &view->ranks[i];

		rank->tee_fds[0] = rank->tee_fds[1] = -1;
		snprintf(rank->prefix, sizeof(rank->prefix), "[%u] ", i);
	}
	snprintf(view->ranks[world].prefix, sizeof(view->ranks[world].prefix), "[dsoffloadd] ");
	if (tee)
		rc = open_tees(view, tee, err);
	if (rc < 0) {
		view_free(view);
		return rc;
	}
	*ret = view;
	return 0;
}

static void close_tees(struct view_rank *rank)
{
	for (int i = 0; i < 2; i++) {
		if (rank->tee_fds[i] >= 0)
			close(rank->tee_fds[i]);
		rank->tee_fds[i] = -1;
	}
}

struct job_view *view_free(struct job_view *view)
{
	if (!view)
		return NULL;
	for (unsigned i = 0; view->ranks && i <= view->world; i++) {
		struct view_rank *rank = &view->ranks[i];

		close_tees(rank);
		free(rank->said);
		free(rank->lines[0].buf);
		free(rank->lines[1].buf);
		tail_done(&rank->tail);
	}
	free(view->ranks);
	tail_done(&view->agent_tail);
	free(view->failure_text);
	free(view->summary);
	screen_done(&view->screen);
	free(view);
	return NULL;
}

void view_say(struct job_view *view, const char *fmt, ...)
{
	char text[ERR_TEXT_BYTES + 256];
	va_list ap;

	if (view->quiet)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	screen_line(&view->screen, SCREEN_ERR, "dsrun: ", text, strlen(text));
}

/* ---- output ---- */

struct line_to {
	struct job_view *view;
	struct view_rank *rank;
	enum screen_stream_name stream;
};

static void take_line(void *ctx, const char *line, size_t len)
{
	struct line_to *to = ctx;

	if (to->stream == SCREEN_ERR)
		tail_add(&to->rank->tail, line, len);
	if (!to->view->quiet)
		screen_line(&to->view->screen, to->stream, to->rank->prefix, line, len);
}

static void copy_out(struct job_view *view, struct view_rank *rank, int which, const char *text,
		     size_t len)
{
	struct err err = {0};

	if (rank->tee_fds[which] < 0 || file_write_all(rank->tee_fds[which], text, len, &err) == 0)
		return;
	close(rank->tee_fds[which]);
	rank->tee_fds[which] = -1;
	view_say(view, "%swriting the copy of its output: %s, ignoring the rest", rank->prefix,
		 err.text);
}

static int take_output(struct job_view *view, struct view_rank *rank,
		       const struct link_frame *frame, struct err *err)
{
	struct link_output head;
	const char *text;
	size_t len;
	int rc = link_take(frame, &head, sizeof(head), &text, &len, err);

	if (rc < 0)
		return rc;
	if (head.stream != LINK_STDOUT && head.stream != LINK_STDERR)
		return err_set(err, ERR_PROTOCOL, "link: output stream %u", head.stream);

	int which = head.stream == LINK_STDERR;
	struct line_to to = {view, rank, which ? SCREEN_ERR : SCREEN_OUT};
	copy_out(view, rank, which, text, len);
	lines_feed(&rank->lines[which], text, len, take_line, &to);
	return 0;
}

/* ---- reports ---- */

/* A copy without control characters, which the caller frees; NULL when memory ran out. */
static char *plain(const char *text, size_t len)
{
	char *copy = malloc(len + 1);

	if (!copy)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		copy[i] = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? '?' : (char)c;
	}
	copy[len] = '\0';
	return copy;
}

/* Rank 0 speaks for all; the others say who they are. */
static void print_lines(struct job_view *view, struct view_rank *rank, const char *text)
{
	const char *prefix = rank == view->ranks ? "" : rank->prefix;

	if (view->quiet)
		return;
	for (;;) {
		size_t len = strcspn(text, "\n");

		screen_line(&view->screen, SCREEN_OUT, prefix, text, len);
		if (!text[len] || !text[len + 1])
			return;
		text += len + 1;
	}
}

static void keep(char **slot, char *text)
{
	free(*slot);
	*slot = text;
}

/* What cannot be taken is said once, and costs the trace, not the job. */
static void take_trace(struct job_view *view, struct view_rank *rank, const char *text)
{
	struct err err = {0};

	if (view->trace && trace_job_take(view->trace, (unsigned)(rank - view->ranks), text,
					  strlen(text), &err) < 0)
		view_say(view, "%s, ignoring the rest of it", err.text);
}

static void show_report(struct job_view *view, struct view_rank *rank, uint32_t type, char *text)
{
	switch (type) {
	case REPORT_NOTE:
		print_lines(view, rank, text);
		break;
	case REPORT_STEP:
		if (!view->screen.live_wanted)
			print_lines(view, rank, text);
		break;
	case REPORT_LIVE:
		if (rank == view->ranks && !view->quiet)
			screen_live(&view->screen, text, strcspn(text, "\n"));
		break;
	case REPORT_SUMMARY:
		if (rank == view->ranks) {
			keep(&view->summary, text);
			return;
		}
		break;
	case REPORT_TRACE:
		if (rank != view->ranks + view->world)
			take_trace(view, rank, text);
		break;
	case REPORT_FAILURE:
		text[strcspn(text, "\n")] = '\0';
		keep(&rank->said, text);
		return;
	}
	free(text);
}

static int take_report(struct job_view *view, struct view_rank *rank,
		       const struct link_frame *frame, struct err *err)
{
	struct link_report head;
	const char *text;
	size_t len;
	int rc = link_take(frame, &head, sizeof(head), &text, &len, err);

	if (rc < 0)
		return rc;
	if (head.type < REPORT_NOTE || head.type >= REPORT_TYPE_COUNT ||
	    head.type == REPORT_COMM_ID || memchr(text, '\0', len))
		return err_set(err, ERR_PROTOCOL, "link: a report of type %u", head.type);
	char *copy = plain(text, len);
	if (!copy)
		return err_sys(err, -ENOMEM, "report");
	show_report(view, rank, head.type, copy);
	return 0;
}

/* ---- lives and deaths ---- */

static int take_started(struct view_rank *rank, const struct link_frame *frame, struct err *err)
{
	struct link_started started;
	int rc = link_take(frame, &started, sizeof(started), NULL, NULL, err);

	if (rc < 0)
		return rc;
	started.cores[sizeof(started.cores) - 1] = '\0';
	rank->pid = started.pid;
	memcpy(rank->cores, started.cores, sizeof(rank->cores));
	return 0;
}

static void finish_rank(struct job_view *view, struct view_rank *rank)
{
	for (int i = 0; i < 2; i++) {
		struct line_to to = {view, rank, i ? SCREEN_ERR : SCREEN_OUT};

		lines_finish(&rank->lines[i], take_line, &to);
	}
}

static int take_failure(struct job_view *view, const struct link_frame *frame, struct err *err)
{
	const char *text;
	size_t len;
	struct link_failure failure;
	int rc = link_take(frame, &failure, sizeof(failure), &text, &len, err);

	if (rc < 0)
		return rc;
	if (frame->head.rank != LINK_RANK_NONE && !rank_of(view, frame->head.rank))
		return err_set(err, ERR_PROTOCOL, "link: failure of rank %u", frame->head.rank);
	char *copy = plain(text, len);
	if (!copy)
		return err_sys(err, -ENOMEM, "failure");
	keep(&view->failure_text, copy);
	view->failed = true;
	view->failure = failure;
	view->failed_rank = frame->head.rank;
	return 0;
}

static int take_notice(struct job_view *view, const struct link_frame *frame, struct err *err)
{
	char *text = plain((const char *)frame->payload, frame->head.bytes);

	if (!text)
		return err_sys(err, -ENOMEM, "notice");
	view_say(view, "%s", text);
	free(text);
	return 0;
}

int view_take(struct job_view *view, const struct link_frame *frame, struct err *err)
{
	struct view_rank *rank = rank_of(view, frame->head.rank);
	int rc;

	switch (frame->head.type) {
	case LINK_NOTICE:
		return take_notice(view, frame, err);
	case LINK_FAILURE:
		return take_failure(view, frame, err);
	}
	if (!rank)
		return err_set(err, ERR_PROTOCOL, "link: rank %u of %u", frame->head.rank,
			       view->world);
	switch (frame->head.type) {
	case LINK_STARTED:
		return take_started(rank, frame, err);
	case LINK_OUTPUT:
		return take_output(view, rank, frame, err);
	case LINK_REPORT:
		return take_report(view, rank, frame, err);
	case LINK_EXITED:
		rc = link_take(frame, &rank->exited, sizeof(rank->exited), NULL, NULL, err);
		rank->ended = rc == 0;
		return rc;
	default:
		return err_set(err, ERR_PROTOCOL, "link: frame type %u is not for dsrun",
			       frame->head.type);
	}
}

void view_finish(struct job_view *view)
{
	for (unsigned i = 0; i <= view->world; i++) {
		finish_rank(view, &view->ranks[i]);
		close_tees(&view->ranks[i]);
	}
}

static void outcome_of_rank(const struct job_view *view, struct outcome *ret)
{
	bool daemon = view->failed_rank == LINK_RANK_DAEMON;
	const struct view_rank *rank = &view->ranks[daemon ? view->world : view->failed_rank];

	ret->who = daemon ? OUTCOME_DAEMON : OUTCOME_WORKER;
	ret->rank = view->failed_rank;
	ret->tail = rank->tail;
	if (rank->said)
		snprintf(ret->text, sizeof(ret->text), "%s", rank->said);
	memcpy(ret->cores, rank->cores, sizeof(ret->cores));
	/* A program that could not be run is our failure, whatever its child returned. */
	if (rank->ended && !view->failure.code)
		ret->exited = rank->exited;
}

void view_outcome(const struct job_view *view, struct outcome *ret)
{
	memcpy(ret->host, view->host, sizeof(ret->host));
	ret->world = view->world;
	ret->stop_clean = true;
	for (unsigned i = 0; i < view->world; i++) {
		const struct view_rank *rank = &view->ranks[i];

		if (!rank->ended)
			continue;
		if (rank->exited.ours == LINK_OURS_KILL)
			ret->stop_clean = false;
		if (view->failed && i == view->failed_rank)
			continue;
		if (rank->exited.ours == LINK_OURS_TERM)
			ret->terminated++;
		if (rank->exited.ours == LINK_OURS_KILL)
			ret->killed++;
	}
	if (!view->failed)
		return;
	ret->code = view->failure.code;
	if (view->failed_rank == LINK_RANK_NONE)
		ret->who = OUTCOME_LAUNCHER;
	else
		outcome_of_rank(view, ret);
	if (view->failure_text && view->failure_text[0])
		snprintf(ret->text, sizeof(ret->text), "%s", view->failure_text);
}
