/* What the agent's files share: agent.c (the loop), agent_*.c and place.c. */
#ifndef LAUNCHER_INTERNAL_H
#define LAUNCHER_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/topo.h"
#include "launcher/cgroup.h"
#include "launcher/launch.h"
#include "launcher/link.h"

#define NS_PER_SEC 1000000000ull
#define NS_PER_MS  1000000ull

enum agent_state {
	AGENT_WAIT,  /* for the job */
	AGENT_RUN,   /* all is well */
	AGENT_STOP,  /* workers were asked by the user to come to an end */
	AGENT_TERM,  /* a failure: workers got SIGTERM, the grace runs */
	AGENT_KILL,  /* workers got SIGKILL */
	AGENT_DRAIN, /* no worker is left, the private daemon got SIGTERM */
	AGENT_SWEEP, /* whatever descends from us gets SIGKILL until nothing does */
	AGENT_FLUSH, /* dsrun is to read the rest */
	AGENT_END,
	AGENT_STATE_COUNT,
};

/* In order of precedence where several are pending. */
enum agent_event {
	AGENT_EV_JOB,
	AGENT_EV_FAILURE,
	AGENT_EV_STOP,
	AGENT_EV_KILL, /* from dsrun, or dsrun is gone */
	AGENT_EV_RANKS_GONE,
	AGENT_EV_DAEMON_GONE,
	AGENT_EV_DEADLINE,
	AGENT_EV_SWEPT,
	AGENT_EV_FLUSHED,
	AGENT_EVENT_COUNT,
};

/* What an epoll event is about; its number and that of the child make up the event's data. */
enum agent_source {
	AGENT_SRC_LINK_IN,
	AGENT_SRC_LINK_OUT,
	AGENT_SRC_SIGNAL,
	AGENT_SRC_EXEC,
	AGENT_SRC_STDOUT,
	AGENT_SRC_STDERR,
	AGENT_SRC_REPORT,
	AGENT_SRC_PIDFD,
};

/* A worker, or the private daemon. */
struct agent_child {
	uint32_t rank; /* or LINK_RANK_DAEMON */
	pid_t pid;
	int pidfd, exec_fd, out_fd, err_fd, report_fd, news_fd; /* -1 when closed */
	bool alive;                                             /* not yet reaped */
	bool announced;                                         /* has sent REPORT_FAILURE */
	bool starting; /* exec is not known to have worked */
	enum link_ours ours;
	int status; /* once it ended: its exit code, or 128 + signal */
	uint64_t started_ns;
	uint8_t *report; /* bytes of a report that is not whole yet */
	size_t report_bytes;
	char cores[TOPO_SET_TEXT_BYTES];
};

struct agent {
	enum agent_state state;
	uint32_t pending; /* bit per enum agent_event */
	int epoll_fd, signal_fd;
	struct link_in in;
	struct link_out out;
	uint32_t out_interest; /* epoll events asked for on the link's output */
	bool orphans;          /* there may be some to reap */
	bool paused;           /* children are not read: dsrun does not keep up */

	struct launch_docs docs; /* own what `launch` points to */
	struct launch launch;
	struct topo *topo;
	struct cgroup cgroup;
	int comm_fd, null_fd, kmsg_fd;
	char **env;

	struct agent_child *children; /* [world] workers, then the daemon's */
	struct agent_child *daemon;   /* its slot; pid 0 when there is none */
	char socket[128];             /* of the daemon; "" when there is none */
	unsigned alive;               /* workers not yet reaped */

	bool id_sent, id_taken; /* rank 0's id went to dsrun; dsrun's came, and was passed on */
	bool failure_told;      /* workers know that a rank has failed */

	bool failed; /* a first failure is recorded */
	uint32_t failed_rank;
	uint64_t failed_at_ns;
	bool hurry;           /* nobody gets a grace any more */
	uint64_t deadline_ns; /* 0: none */
	int left;             /* processes that the last sweep found */
};

uint64_t agent_now_ns(void);
void agent_post(struct agent *a, enum agent_event event);
int agent_watch(struct agent *a, int fd, enum agent_source source, const struct agent_child *child,
		struct err *err);

/* Records the first failure, tells dsrun, and posts it; later ones are consequences. */
void agent_fail(struct agent *a, uint32_t rank, int code, const char *text);
void agent_put(struct agent *a, enum link_type type, uint32_t rank, const void *head,
	       size_t head_bytes, const void *text, size_t text_bytes);

/* agent_start.c: everything from the job's text to running processes. */
int agent_start(struct agent *a, const char *text, size_t len, struct err *err);

/* place.c: decides on every worker's cores. `root` as gpu_nodes has it. */
int agent_place(struct agent *a, const char *root, struct err *err);

/* agent_news.c: what ranks must know of each other. */

/* Rank 0's id, on its way to dsrun. `rank` is who sent it. -EPROTO when it must not have. */
int agent_news_report_id(struct agent *a, uint32_t rank, const char *text, size_t len);
/* LINK_COMM_ID and LINK_FAILED from dsrun, to the workers. */
int agent_news_take_id(struct agent *a, const struct link_frame *frame, struct err *err);
int agent_news_take_failed(struct agent *a, const struct link_frame *frame, struct err *err);
/* Tells the workers that a rank has failed, unless they know of one. */
void agent_news_failed(struct agent *a, uint32_t rank);

/* agent_child.c */
void agent_child_init(struct agent_child *child, uint32_t rank);
void agent_child_done(struct agent_child *child);
void agent_child_exec(struct agent *a, struct agent_child *child);
void agent_child_read(struct agent *a, struct agent_child *child, enum agent_source source);
void agent_child_pause(struct agent *a, bool pause);
void agent_child_drain(struct agent *a, struct agent_child *child);
void agent_child_signal(struct agent_child *child, int sig, enum link_ours ours);
void agent_reap(struct agent *a, struct agent_child *child);
void agent_reap_orphans(struct agent *a);

#endif
