/*
 * The agent's children, from exec to the grave: their pipes, their reports, their deaths. Called
 * from the agent's loop alone.
 *
 * 1. A death is told to dsrun after everything the child had written before it.
 * 2. A process that got a signal of ours before it ended is never a cause.
 * 3. What comes through the report pipe is a child's word: lengths are checked, and a report that
 *    makes no sense costs that child its pipe.
 */
#include "launcher/internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"
#include "launcher/spawn.h"
#include "launcher/tree.h"

#define READ_BYTES 65536u
/* A pipe holds at most this much by default limits (/proc/sys/fs/pipe-max-size): draining ends. */
#define DRAIN_BYTES (1u << 20)

void agent_child_init(struct agent_child *child, uint32_t rank)
{
	*child = (struct agent_child){
		.rank = rank,
		.pidfd = -1,
		.exec_fd = -1,
		.out_fd = -1,
		.err_fd = -1,
		.report_fd = -1,
		.news_fd = -1,
	};
}

static void close_fd(int *fd)
{
	/* Closing takes it out of the epoll set: these descriptors have no duplicates. */
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void agent_child_done(struct agent_child *child)
{
	close_fd(&child->pidfd);
	close_fd(&child->exec_fd);
	close_fd(&child->out_fd);
	close_fd(&child->err_fd);
	close_fd(&child->report_fd);
	close_fd(&child->news_fd);
	free(child->report);
	child->report = NULL;
}

static void describe(const struct agent_child *child, char text[32])
{
	if (child->rank == LINK_RANK_DAEMON)
		snprintf(text, 32, "dsoffloadd");
	else
		snprintf(text, 32, "rank %u", child->rank);
}

/* Has exec worked? Then the rank runs. */
void agent_child_exec(struct agent *a, struct agent_child *child)
{
	struct err err = {0};

	if (child->exec_fd < 0)
		return;
	int rc = spawn_result(child->exec_fd, &err);
	if (rc == 0)
		return;
	close_fd(&child->exec_fd);
	child->starting = false;
	if (rc < 0) {
		/* A program that is not there is a service that is not to be had, not a missing
		 * input of the user's. */
		agent_fail(a, child->rank, ERR_UNAVAILABLE, err.text);
		return;
	}

	struct link_started started = {.pid = (uint32_t)child->pid};
	snprintf(started.cores, sizeof(started.cores), "%s", child->cores);
	agent_put(a, LINK_STARTED, child->rank, &started, sizeof(started), NULL, 0);
}

/* One whole report. */
static int take_report(struct agent *a, struct agent_child *child, const struct report_head *head,
		       const char *text)
{
	struct link_report report = {.type = head->type};

	if (memchr(text, '\0', head->bytes))
		return -EPROTO;
	if (head->type == REPORT_COMM_ID)
		return agent_news_report_id(a, child->rank, text, head->bytes);
	agent_put(a, LINK_REPORT, child->rank, &report, sizeof(report), text, head->bytes);
	if (head->type == REPORT_FAILURE) {
		child->announced = true;
		if (child->ours == LINK_OURS_NOTHING || child->ours == LINK_OURS_STOP)
			agent_fail(a, child->rank, 0, "");
	}
	return 0;
}

/* Takes the whole reports off the front of what has been read. */
static int take_reports(struct agent *a, struct agent_child *child)
{
	size_t at = 0;
	struct report_head head;

	while (child->report_bytes - at >= sizeof(head)) {
		memcpy(&head, child->report + at, sizeof(head));
		if (head.type < REPORT_NOTE || head.type >= REPORT_TYPE_COUNT ||
		    head.bytes > REPORT_BYTES_MAX)
			return -EPROTO;
		if (child->report_bytes - at < sizeof(head) + head.bytes)
			break;
		int rc = take_report(a, child, &head,
				     (const char *)child->report + at + sizeof(head));
		if (rc < 0)
			return rc;
		at += sizeof(head) + head.bytes;
	}
	child->report_bytes -= at;
	memmove(child->report, child->report + at, child->report_bytes);
	return 0;
}

/* Bytes read, 0 when there is nothing now, -EPIPE when the pipe is over. */
static ssize_t read_report(struct agent *a, struct agent_child *child)
{
	size_t room = sizeof(struct report_head) + REPORT_BYTES_MAX;

	if (!child->report)
		child->report = malloc(room);
	if (!child->report)
		return -EPIPE;
	ssize_t got = read(child->report_fd, child->report + child->report_bytes,
			   room - child->report_bytes);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -EPIPE;
	if (got == 0)
		return -EPIPE;
	child->report_bytes += (size_t)got;
	if (take_reports(a, child) < 0) {
		char who[32];

		describe(child, who);
		log_warn("launcher", "%s: nonsense on its report pipe, which is closed now", who);
		return -EPIPE;
	}
	return got;
}

static ssize_t read_output(struct agent *a, struct agent_child *child, int fd,
			   enum link_stream stream)
{
	char buf[READ_BYTES];
	struct link_output head = {.stream = stream};
	ssize_t got = read(fd, buf, sizeof(buf));

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -EPIPE;
	if (got == 0)
		return -EPIPE;
	agent_put(a, LINK_OUTPUT, child->rank, &head, sizeof(head), buf, (size_t)got);
	return got;
}

static ssize_t read_source(struct agent *a, struct agent_child *child, enum agent_source source)
{
	int *fd = source == AGENT_SRC_REPORT   ? &child->report_fd
		  : source == AGENT_SRC_STDOUT ? &child->out_fd
					       : &child->err_fd;

	if (*fd < 0)
		return 0;
	ssize_t got = source == AGENT_SRC_REPORT
			      ? read_report(a, child)
			      : read_output(a, child, *fd,
					    source == AGENT_SRC_STDOUT ? LINK_STDOUT : LINK_STDERR);
	if (got < 0)
		close_fd(fd);
	return got;
}

void agent_child_read(struct agent *a, struct agent_child *child, enum agent_source source)
{
	(void)read_source(a, child, source);
}

/* What is in the pipes now; a grandchild that holds an end may go on writing, so it is bounded. */
void agent_child_drain(struct agent *a, struct agent_child *child)
{
	static const enum agent_source order[] = {AGENT_SRC_REPORT, AGENT_SRC_STDOUT,
						  AGENT_SRC_STDERR};

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		size_t bytes = 0;
		ssize_t got;

		while (bytes < DRAIN_BYTES && (got = read_source(a, child, order[i])) > 0)
			bytes += (size_t)got;
	}
}

/* Stops reading, or starts again, when dsrun does not keep up: the pipes fill and writers wait. */
void agent_child_pause(struct agent *a, bool pause)
{
	for (struct agent_child *c = a->children; c && c <= a->daemon; c++) {
		const struct {
			int fd;
			enum agent_source source;
		} pipes[] = {{c->out_fd, AGENT_SRC_STDOUT},
			     {c->err_fd, AGENT_SRC_STDERR},
			     {c->report_fd, AGENT_SRC_REPORT}};

		for (size_t i = 0; i < sizeof(pipes) / sizeof(pipes[0]); i++) {
			struct err err = {0};

			if (pipes[i].fd < 0)
				continue;
			if (pause)
				(void)epoll_ctl(a->epoll_fd, EPOLL_CTL_DEL, pipes[i].fd, NULL);
			else if (agent_watch(a, pipes[i].fd, pipes[i].source, c, &err) < 0)
				agent_fail(a, LINK_RANK_NONE, err.code, err.text);
		}
	}
	a->paused = pause;
}

void agent_child_signal(struct agent_child *child, int sig, enum link_ours ours)
{
	char who[32];
	int rc;

	if (!child->alive)
		return;
	/* The group, so that a worker's helpers hear it too; only the user's own request is for the
	 * worker alone, which ends its helpers when it no longer needs them. */
	if (ours == LINK_OURS_TERM || ours == LINK_OURS_KILL)
		rc = kill(-child->pid, sig);
	else
		rc = (int)syscall(SYS_pidfd_send_signal, child->pidfd, sig, NULL, 0);
	if (rc < 0 && errno != ESRCH) {
		describe(child, who);
		log_warn("launcher", "%s: signal %d: %s", who, sig, err_str(-errno));
		return;
	}
	if (ours > child->ours)
		child->ours = ours;
}

/* Does the kernel's log say that it killed `pid` for lack of memory? It says so before it kills. */
static bool killed_for_memory(struct agent *a, pid_t pid)
{
	char record[8192], want[64];
	bool found = false;
	ssize_t got;

	if (a->kmsg_fd < 0)
		return false;
	snprintf(want, sizeof(want), "Killed process %d (", (int)pid);
	/* EPIPE: records were overwritten before we read them; reading goes on with the next. */
	while ((got = read(a->kmsg_fd, record, sizeof(record) - 1)) > 0 ||
	       (got < 0 && errno == EPIPE)) {
		if (got <= 0)
			continue;
		record[got] = '\0';
		found = found || strstr(record, want) != NULL;
	}
	return found;
}

static bool ended_as_asked(const struct agent_child *child, const siginfo_t *info)
{
	if (info->si_code == CLD_EXITED)
		return info->si_status == 128 + SIGTERM || info->si_status == 128 + SIGINT;
	return info->si_status == SIGTERM && child->ours == LINK_OURS_STOP;
}

/* Is this end a failure of its own? */
static bool is_failure(const struct agent_child *child, const siginfo_t *info)
{
	bool clean = info->si_code == CLD_EXITED && info->si_status == 0;

	if (child->rank == LINK_RANK_DAEMON) {
		/* Before we ask it to end it has no reason to; after, it may still fail at it. */
		if (child->ours == LINK_OURS_NOTHING)
			return true;
		return child->ours == LINK_OURS_TERM && !clean &&
		       !(info->si_code == CLD_KILLED && info->si_status == SIGTERM);
	}
	if (clean || child->ours == LINK_OURS_TERM || child->ours == LINK_OURS_KILL)
		return false;
	return !(child->ours == LINK_OURS_STOP && ended_as_asked(child, info));
}

/*
 * A rank that loses its daemon says so and ends, maybe before the daemon's own end is seen. So a
 * daemon that ended unasked takes the blame back from a rank that ended as ranks without daemon do.
 */
static void blame_daemon(struct agent *a)
{
	if (a->failed && a->failed_rank < a->launch.job.world) {
		const struct agent_child *rank = &a->children[a->failed_rank];

		if (rank->announced &&
		    (rank->alive || rank->status == err_exit_status(ERR_UNAVAILABLE)))
			a->failed = false;
	}
	agent_fail(a, LINK_RANK_DAEMON, 0, "");
}

static void ended(struct agent *a, struct agent_child *child, const siginfo_t *info)
{
	uint64_t now = agent_now_ns();
	bool failure;

	agent_child_exec(a, child);
	agent_child_drain(a, child);
	child->alive = false;
	child->status = info->si_code == CLD_EXITED ? info->si_status : 128 + info->si_status;
	if (child->rank != LINK_RANK_DAEMON)
		a->alive--;
	failure = is_failure(child, info);

	struct link_exited exited = {
		.pid = (uint32_t)child->pid,
		.how = info->si_code,
		.status = info->si_status,
		.ours = child->ours,
		.oom = info->si_code == CLD_KILLED && info->si_status == SIGKILL &&
		       child->ours == LINK_OURS_NOTHING && killed_for_memory(a, child->pid),
		.started_ns = child->started_ns,
		.at_ns = now,
	};
	agent_put(a, LINK_EXITED, child->rank, &exited, sizeof(exited), NULL, 0);
	close_fd(&child->pidfd);
	close_fd(&child->news_fd);
	/* Also of one that we asked to end: whoever waits for it in a collective waits in vain. */
	if (child->rank != LINK_RANK_DAEMON && child->status != 0)
		agent_news_failed(a, child->rank);
	if (!failure)
		return;
	if (child->rank == LINK_RANK_DAEMON)
		blame_daemon(a);
	else
		agent_fail(a, child->rank, 0, "");
}

void agent_reap(struct agent *a, struct agent_child *child)
{
	siginfo_t info = {0};

	if (!child->alive)
		return;
	if (waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG) < 0) {
		log_error("launcher", "waitid(%d): %s", (int)child->pid, err_str(-errno));
		return;
	}
	if (info.si_pid != 0)
		ended(a, child, &info);
}

static bool is_child(const struct agent *a, pid_t pid)
{
	for (const struct agent_child *c = a->children; c && c <= a->daemon; c++) {
		if (c->alive && c->pid == pid)
			return true;
	}
	return false;
}

/*
 * Descendants whose parents died are ours to reap. A child of our own is left to its pidfd, whose
 * event is on its way: events come in the order of the deaths, this call's answers do not.
 */
void agent_reap_orphans(struct agent *a)
{
	for (;;) {
		siginfo_t info = {0};

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0) {
			a->orphans = false;
			return;
		}
		if (is_child(a, info.si_pid))
			return;
		(void)waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG);
	}
}
