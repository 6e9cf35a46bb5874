/*
 * The agent: one process on each host of a job, started by dsrun, which it speaks to over its
 * standard input and output. It starts the host's workers (and a private daemon), passes on what
 * they say, and sees to it that all of them end when one fails, when dsrun says so, or when dsrun
 * is gone.
 *
 * One thread, one epoll loop. Whatever happens becomes an event; the table `rules` says for every
 * state what an event does and what comes after. An event without a rule means nothing there.
 *
 *   WAIT -job-> RUN -stop-> STOP
 *                \____________\--failure--> TERM --grace over--> KILL
 *   RUN, STOP, TERM, KILL --ranks gone--> DRAIN --daemon gone--> SWEEP --none left--> FLUSH --> END
 *
 * 1. The agent is a subreaper: what a worker leaves behind, setsid or not, becomes its child.
 * 2. DONE is sent only after a look at the process tree that found no descendant.
 * 3. Deaths are seen in the order in which they happened: epoll's ready list is first in, first
 *    out, each pidfd enters it when its process ends, and only that event reaps the process.
 * 4. A first failure is recorded before any signal is sent on its account, so none that we caused
 *    can be taken for one.
 * 5. The end of dsrun is the end of its link: then everything is killed, without grace.
 * 6. Nothing blocks: links and pipes are non-blocking, and when dsrun does not read, children are
 *    not read either once LINK_QUEUE_BYTES wait.
 */
#include "launcher/agent.h"
#include "launcher/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "launcher/tree.h"

#define LINK_QUEUE_BYTES (1u << 20)
#define EPOLL_BATCH      256
/* After SIGKILL a process ends when the kernel has taken its memory apart, seconds for hundreds of
 * gigabytes; one stuck in a device may never. */
#define UNKILLABLE_NS   (60 * NS_PER_SEC)
#define DRAIN_MIN_NS    (100 * NS_PER_MS)
#define SWEEP_PERIOD_MS 2

uint64_t agent_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

void agent_post(struct agent *a, enum agent_event event)
{
	a->pending |= 1u << event;
}

void agent_put(struct agent *a, enum link_type type, uint32_t rank, const void *head,
	       size_t head_bytes, const void *text, size_t text_bytes)
{
	int rc = link_put(&a->out, type, rank, head, head_bytes, text, text_bytes);

	/* A report that dsrun cannot be told is a link that does not work: end as without dsrun. */
	if (rc < 0) {
		log_error("launcher", "agent: link: %s", err_str(rc));
		a->out.broken = true;
		a->hurry = true;
		agent_post(a, AGENT_EV_KILL);
	}
}

void agent_fail(struct agent *a, uint32_t rank, int code, const char *text)
{
	/* A rank whose daemon is going down loses its connection before the daemon's end is ours to
	 * see. */
	if (rank < LINK_RANK_DAEMON && a->daemon->alive && a->daemon->ours == LINK_OURS_NOTHING &&
	    tree_is_exiting(a->daemon->pid)) {
		rank = LINK_RANK_DAEMON;
		code = 0;
		text = "";
	}
	if (a->failed || a->state == AGENT_KILL || a->state >= AGENT_SWEEP)
		return;
	a->failed = true;
	a->failed_rank = rank;
	a->failed_at_ns = agent_now_ns();

	struct link_failure failure = {.code = code, .at_ns = a->failed_at_ns};
	agent_put(a, LINK_FAILURE, rank, &failure, sizeof(failure), text, strlen(text));
	if (rank < a->launch.job.world)
		agent_news_failed(a, rank);
	agent_post(a, AGENT_EV_FAILURE);
}

int agent_watch(struct agent *a, int fd, enum agent_source source, const struct agent_child *child,
		struct err *err)
{
	uint64_t which = child ? (uint64_t)(child - a->children) : 0;
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = which << 8 | source};

	if (epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return err_sys(err, -errno, "epoll_ctl");
	return 0;
}

/* ---- actions ---- */

static void set_deadline(struct agent *a, uint64_t after_ns)
{
	a->deadline_ns = agent_now_ns() + after_ns;
}

/* There is one while a private daemon runs. */
static bool daemon_alive(const struct agent *a)
{
	return a->daemon && a->daemon->alive;
}

static void act_term(struct agent *a)
{
	a->deadline_ns = a->failed_at_ns + a->launch.grace_ns;
	for (struct agent_child *c = a->children; c < a->daemon; c++) {
		/* The one that announced its failure is on its way out by itself. */
		if (!(c->rank == a->failed_rank && c->announced))
			agent_child_signal(c, SIGTERM, LINK_OURS_TERM);
	}
}

static void act_kill(struct agent *a)
{
	struct err err = {0};

	for (struct agent_child *c = a->children; c && c < a->daemon; c++)
		agent_child_signal(c, SIGKILL, LINK_OURS_KILL);
	if (cgroup_kill(&a->cgroup, &err) < 0)
		log_warn("launcher", "%s, walking the process tree instead", err.text);
	if (tree_kill(daemon_alive(a) ? a->daemon->pid : 0, &err) < 0)
		log_error("launcher", "looking for descendants: %s", err.text);
	set_deadline(a, UNKILLABLE_NS);
}

/* All ranks have ended: the daemon has nothing left to do. */
static void act_drain(struct agent *a)
{
	uint64_t now = agent_now_ns(), grace = a->launch.grace_ns, until;

	if (!daemon_alive(a) || a->hurry) {
		a->deadline_ns = now;
		return;
	}
	/* One that is dying already must not look as though we had asked it to. */
	if (!tree_is_exiting(a->daemon->pid))
		agent_child_signal(a->daemon, SIGTERM, LINK_OURS_TERM);
	/* After a failure the grace is one for all, or the end of the job would take two. */
	if (!a->failed && grace < NS_PER_SEC)
		grace = NS_PER_SEC;
	until = (a->failed ? a->failed_at_ns : now) + grace;
	a->deadline_ns = until > now + DRAIN_MIN_NS ? until : now + DRAIN_MIN_NS;
}

static void act_kill_daemon(struct agent *a)
{
	if (daemon_alive(a)) {
		if (!a->hurry && a->daemon->ours == LINK_OURS_TERM)
			log_warn("launcher", "dsoffloadd did not end in time, killing it");
		agent_child_signal(a->daemon, SIGKILL, LINK_OURS_KILL);
	}
	set_deadline(a, UNKILLABLE_NS);
}

static void act_sweep(struct agent *a)
{
	set_deadline(a, UNKILLABLE_NS);
}

static void act_done(struct agent *a)
{
	struct link_done done = {.left = a->left > 0 ? (uint32_t)a->left : 0};
	struct err err = {0};

	for (struct agent_child *c = a->children; c && c <= a->daemon; c++)
		agent_child_drain(a, c);
	if (cgroup_remove(&a->cgroup, &err) < 0)
		log_warn("launcher", "%s", err.text);
	agent_put(a, LINK_DONE, LINK_RANK_NONE, &done, sizeof(done), NULL, 0);
	a->deadline_ns = 0;
}

static void act_give_up(struct agent *a)
{
	log_error("launcher", "%d processes do not die of SIGKILL, leaving them behind", a->left);
	act_done(a);
}

struct agent_rule {
	void (*act)(struct agent *a);
	enum agent_state next; /* AGENT_WAIT: there is no rule, since nothing leads back there */
};

/* clang-format off */
static const struct agent_rule rules[AGENT_STATE_COUNT][AGENT_EVENT_COUNT] = {
	[AGENT_WAIT] = {
		[AGENT_EV_JOB] = {NULL, AGENT_RUN},
		[AGENT_EV_FAILURE] = {act_kill, AGENT_KILL},
		[AGENT_EV_KILL] = {act_kill, AGENT_KILL},
	},
	[AGENT_RUN] = {
		[AGENT_EV_FAILURE] = {act_term, AGENT_TERM},
		[AGENT_EV_STOP] = {NULL, AGENT_STOP},
		[AGENT_EV_KILL] = {act_kill, AGENT_KILL},
		[AGENT_EV_RANKS_GONE] = {act_drain, AGENT_DRAIN},
	},
	[AGENT_STOP] = {
		[AGENT_EV_FAILURE] = {act_term, AGENT_TERM},
		[AGENT_EV_KILL] = {act_kill, AGENT_KILL},
		[AGENT_EV_RANKS_GONE] = {act_drain, AGENT_DRAIN},
	},
	[AGENT_TERM] = {
		[AGENT_EV_KILL] = {act_kill, AGENT_KILL},
		[AGENT_EV_RANKS_GONE] = {act_drain, AGENT_DRAIN},
		[AGENT_EV_DEADLINE] = {act_kill, AGENT_KILL},
	},
	[AGENT_KILL] = {
		[AGENT_EV_RANKS_GONE] = {act_drain, AGENT_DRAIN},
		[AGENT_EV_DEADLINE] = {act_kill_daemon, AGENT_SWEEP},
	},
	[AGENT_DRAIN] = {
		[AGENT_EV_KILL] = {act_kill_daemon, AGENT_SWEEP},
		[AGENT_EV_DAEMON_GONE] = {act_sweep, AGENT_SWEEP},
		[AGENT_EV_DEADLINE] = {act_kill_daemon, AGENT_SWEEP},
	},
	[AGENT_SWEEP] = {
		[AGENT_EV_SWEPT] = {act_done, AGENT_FLUSH},
		[AGENT_EV_DEADLINE] = {act_give_up, AGENT_FLUSH},
	},
	[AGENT_FLUSH] = {
		[AGENT_EV_FLUSHED] = {NULL, AGENT_END},
	},
};
/* clang-format on */

static void take_event(struct agent *a, enum agent_event event)
{
	const struct agent_rule *rule = &rules[a->state][event];

	if (event == AGENT_EV_DEADLINE)
		a->deadline_ns = 0;
	if (rule->next == AGENT_WAIT)
		return;
	a->state = rule->next;
	if (rule->act)
		rule->act(a);
}

/* Events that say what is true now, rather than what has happened. */
#define LOOKED_FOR                                                                                 \
	(1u << AGENT_EV_RANKS_GONE | 1u << AGENT_EV_DAEMON_GONE | 1u << AGENT_EV_DEADLINE |        \
	 1u << AGENT_EV_SWEPT | 1u << AGENT_EV_FLUSHED)

static void look_around(struct agent *a)
{
	struct err err = {0};

	if (a->state >= AGENT_RUN && a->state <= AGENT_KILL && a->alive == 0)
		agent_post(a, AGENT_EV_RANKS_GONE);
	if (a->state == AGENT_DRAIN && !daemon_alive(a))
		agent_post(a, AGENT_EV_DAEMON_GONE);
	if (a->state == AGENT_SWEEP) {
		a->left = tree_kill(0, &err);
		if (a->left < 0)
			log_error("launcher", "looking for descendants: %s", err.text);
		if (a->left == 0)
			agent_post(a, AGENT_EV_SWEPT);
	}
	if (a->state == AGENT_FLUSH && (a->out.broken || link_pending(&a->out) == 0))
		agent_post(a, AGENT_EV_FLUSHED);
	if (a->deadline_ns && agent_now_ns() >= a->deadline_ns)
		agent_post(a, AGENT_EV_DEADLINE);
}

static void take_events(struct agent *a)
{
	look_around(a);
	while (a->pending) {
		enum agent_event event = (enum agent_event)__builtin_ctz(a->pending);

		a->pending &= ~(1u << event);
		take_event(a, event);
		/* What was true in the last state says nothing about this one: look again. */
		a->pending &= ~LOOKED_FOR;
		look_around(a);
	}
}

/* ---- the link ---- */

static int take_signal(struct agent *a, const struct link_frame *frame, struct err *err)
{
	struct link_signal want;
	int rc = link_take(frame, &want, sizeof(want), NULL, NULL, err);

	if (rc < 0)
		return rc;
	if (want.signal != SIGTERM && want.signal != SIGUSR1 && want.signal != SIGUSR2)
		return err_set(err, ERR_PROTOCOL, "link: signal %u", want.signal);

	enum link_ours ours = want.signal == SIGTERM ? LINK_OURS_STOP : LINK_OURS_NOTHING;
	for (struct agent_child *c = a->children; c && c < a->daemon; c++)
		agent_child_signal(c, (int)want.signal, ours);
	if (want.signal == SIGTERM)
		agent_post(a, AGENT_EV_STOP);
	return 0;
}

static int take_job(struct agent *a, const struct link_frame *frame, struct err *err)
{
	if (a->state != AGENT_WAIT || (a->pending & 1u << AGENT_EV_JOB))
		return err_set(err, ERR_PROTOCOL, "link: a second job");

	struct err why = {0};
	int rc = agent_start(a, (const char *)frame->payload, frame->head.bytes, &why);
	agent_post(a, AGENT_EV_JOB);
	if (rc < 0)
		agent_fail(a, LINK_RANK_NONE, rc, why.text);
	return 0;
}

static int take_frame(struct agent *a, const struct link_frame *frame, struct err *err)
{
	int rc;

	switch (frame->head.type) {
	case LINK_JOB:
		return take_job(a, frame, err);
	case LINK_SIGNAL:
		return take_signal(a, frame, err);
	case LINK_KILL:
		rc = link_take(frame, NULL, 0, NULL, NULL, err);
		if (rc < 0)
			return rc;
		a->hurry = true;
		agent_post(a, AGENT_EV_KILL);
		return 0;
	case LINK_COMM_ID:
		return agent_news_take_id(a, frame, err);
	case LINK_FAILED:
		return agent_news_take_failed(a, frame, err);
	default:
		return err_set(err, ERR_PROTOCOL, "link: frame type %u is not for an agent",
			       frame->head.type);
	}
}

static void lose_link(struct agent *a)
{
	/* Nobody is there to be told, nor to wait for. */
	(void)epoll_ctl(a->epoll_fd, EPOLL_CTL_DEL, a->in.fd, NULL);
	a->hurry = true;
	agent_post(a, AGENT_EV_KILL);
}

static void read_link(struct agent *a)
{
	struct err err = {0};
	struct link_frame frame;
	int rc = link_read(&a->in, &err);

	while (rc > 0) {
		rc = link_next(&a->in, &frame, &err);
		if (rc > 0) {
			rc = take_frame(a, &frame, &err);
			if (rc == 0)
				rc = 1;
		}
	}
	if (rc < 0) {
		if (rc != -EPIPE)
			log_error("launcher", "agent: %s", err.text);
		lose_link(a);
	}
}

static void read_signals(struct agent *a)
{
	struct signalfd_siginfo info;

	while (read(a->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		char text[128];

		a->orphans = true;
		if (info.ssi_signo == SIGCHLD)
			continue;
		/* Users signal dsrun. Whoever ends only us ends the job. */
		snprintf(text, sizeof(text), "the agent got signal %u from pid %u", info.ssi_signo,
			 info.ssi_pid);
		if (a->children)
			agent_fail(a, LINK_RANK_NONE, ERR_INTERRUPTED, text);
		else
			agent_post(a, AGENT_EV_KILL);
	}
}

/* Asks epoll for room in the link's pipe only while something waits for it. */
static void balance(struct agent *a)
{
	(void)link_flush(&a->out);

	uint32_t want = link_pending(&a->out) ? EPOLLOUT : 0;
	if (want != a->out_interest) {
		struct epoll_event event = {.events = want, .data.u64 = AGENT_SRC_LINK_OUT};
		int op = want ? EPOLL_CTL_ADD : EPOLL_CTL_DEL;

		if (epoll_ctl(a->epoll_fd, op, a->out.fd, &event) < 0)
			log_error("launcher", "agent: epoll_ctl: %s", err_str(-errno));
		else
			a->out_interest = want;
	}
	if (!a->paused && link_pending(&a->out) > LINK_QUEUE_BYTES)
		agent_child_pause(a, true);
	else if (a->paused && link_pending(&a->out) < LINK_QUEUE_BYTES / 2)
		agent_child_pause(a, false);
}

/* ---- the loop ---- */

static void dispatch(struct agent *a, const struct epoll_event *event)
{
	enum agent_source source = (enum agent_source)(event->data.u64 & 0xff);
	struct agent_child *child = a->children ? &a->children[event->data.u64 >> 8] : NULL;

	switch (source) {
	case AGENT_SRC_LINK_IN:
		read_link(a);
		break;
	case AGENT_SRC_LINK_OUT:
		break; /* balance() comes after every round */
	case AGENT_SRC_SIGNAL:
		read_signals(a);
		break;
	case AGENT_SRC_EXEC:
		agent_child_exec(a, child);
		break;
	case AGENT_SRC_STDOUT:
	case AGENT_SRC_STDERR:
	case AGENT_SRC_REPORT:
		agent_child_read(a, child, source);
		break;
	case AGENT_SRC_PIDFD:
		agent_reap(a, child);
		break;
	}
}

static int timeout_ms(const struct agent *a)
{
	uint64_t now = agent_now_ns();
	uint64_t ms = a->deadline_ns <= now ? 0 : (a->deadline_ns - now) / NS_PER_MS + 1;

	if (a->state == AGENT_SWEEP)
		return SWEEP_PERIOD_MS;
	if (a->state == AGENT_FLUSH && link_pending(&a->out) == 0)
		return 0;
	if (!a->deadline_ns)
		return -1;
	return ms > 60000 ? 60000 : (int)ms;
}

static int loop(struct agent *a)
{
	struct epoll_event events[EPOLL_BATCH];

	while (a->state != AGENT_END) {
		int count = epoll_wait(a->epoll_fd, events, EPOLL_BATCH, timeout_ms(a));

		if (count < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < count; i++)
			dispatch(a, &events[i]);
		if (a->orphans)
			agent_reap_orphans(a);
		take_events(a);
		balance(a);
	}
	return 0;
}

/* Standard input and output are the link's alone: whoever prints by mistake writes to stderr. */
static int take_stdio(struct agent *a, struct err *err)
{
	a->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (a->null_fd < 0)
		return err_sys(err, -errno, "/dev/null");
	int in = fcntl(0, F_DUPFD_CLOEXEC, 3), out = fcntl(1, F_DUPFD_CLOEXEC, 3);
	if (in < 0 || out < 0 || dup2(a->null_fd, 0) < 0 || dup2(2, 1) < 0 ||
	    fcntl(in, F_SETFL, O_NONBLOCK) < 0 || fcntl(out, F_SETFL, O_NONBLOCK) < 0)
		return err_sys(err, -errno, "standard input and output");
	link_in_init(&a->in, in);
	link_out_init(&a->out, out);
	return 0;
}

static int take_signals(struct agent *a, struct err *err)
{
	static const int signals[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaddset(&set, signals[i]);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return err_sys(err, -errno, "signals");
	a->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return a->signal_fd < 0 ? err_sys(err, -errno, "signalfd") : 0;
}

static void greet(struct agent *a)
{
	struct link_hello hello = {
		.magic = LINK_MAGIC, .version = LINK_VERSION, .pid = (uint32_t)getpid()};

	if (gethostname(hello.host, sizeof(hello.host)) < 0)
		snprintf(hello.host, sizeof(hello.host), "localhost");
	hello.host[sizeof(hello.host) - 1] = '\0';
	agent_put(a, LINK_HELLO, LINK_RANK_NONE, &hello, sizeof(hello), NULL, 0);
	balance(a);
}

static int open_agent(struct agent *a, struct err *err)
{
	int rc = take_stdio(a, err);

	if (rc == 0)
		rc = take_signals(a, err);
	if (rc < 0)
		return rc;
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return err_sys(err, -errno, "prctl(PR_SET_CHILD_SUBREAPER)");
	a->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (a->epoll_fd < 0)
		return err_sys(err, -errno, "epoll_create1");
	rc = agent_watch(a, a->in.fd, AGENT_SRC_LINK_IN, NULL, err);
	return rc < 0 ? rc : agent_watch(a, a->signal_fd, AGENT_SRC_SIGNAL, NULL, err);
}

static void close_agent(struct agent *a)
{
	for (struct agent_child *c = a->children; c && c <= a->daemon; c++)
		agent_child_done(c);
	free(a->children);
	for (size_t i = 0; a->env && a->env[i]; i++)
		free(a->env[i]);
	free(a->env);
	topo_free(a->topo);
	launch_docs_done(&a->docs);
	link_in_done(&a->in);
	link_out_done(&a->out);
}

int agent_main(void)
{
	struct agent a = {
		.epoll_fd = -1,
		.signal_fd = -1,
		.comm_fd = -1,
		.null_fd = -1,
		.kmsg_fd = -1,
		.cgroup = {.procs_fd = -1, .kill_fd = -1},
	};
	struct err err = {0};

	log_init("dsrun", LOG_LEVEL_INFO, LOG_FORMAT_AUTO);
	int rc = open_agent(&a, &err);
	if (rc == 0) {
		greet(&a);
		rc = loop(&a);
		if (rc < 0)
			err_sys(&err, rc, "epoll_wait");
	}
	if (rc < 0)
		log_error("launcher", "agent: %s", err.text);
	close_agent(&a);
	return err_exit_status(rc);
}
