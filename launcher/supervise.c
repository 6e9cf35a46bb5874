/*
 * dsrun while its job runs: one thread, one poll loop over the agent's link, the agent itself,
 * signals and the screen. The agent ends the ranks when one fails; what is decided here is what
 * users ask for, and what to do when the agent does not answer. As in agent.c, events meet states
 * in a table.
 *
 *   START -hello-> RUN -signal-> STOP -signal, timeout-> KILL
 *                     \-failure-> FAIL
 *   any -done-> CLOSE -agent ended, nothing left-> END
 *   any -agent lost, or silent too long-> LOST -nothing left-> END
 *
 * 1. dsrun is a subreaper: when the agent dies, whatever it had started is ours, and is killed.
 * 2. END is reached only after a look at the process tree that found no descendant, or after
 *    UNKILLABLE_NS.
 * 3. A stalled terminal stops output, and with it ranks that print; never signals, and never the
 *    end of a job that failed, which is the agent's affair.
 */
#include "launcher/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "launcher/cgroup.h"
#include "launcher/spawn.h"
#include "launcher/tree.h"
#include "launcher/view.h"

extern char **environ;

#define NS_PER_SEC 1000000000ull
#define NS_PER_MS  1000000ull
#define HELLO_NS   (30 * NS_PER_SEC)
/* How long the agent may take for what it does at once; after that we do it. */
#define ANSWER_NS     (5 * NS_PER_SEC)
#define UNKILLABLE_NS (60 * NS_PER_SEC) /* as in agent.c */
#define SWEEP_NS      (2 * NS_PER_MS)

enum super_state {
	SUPER_START, /* the agent has not greeted */
	SUPER_RUN,
	SUPER_STOP,  /* workers were asked to come to an end */
	SUPER_FAIL,  /* the agent reported a failure and is ending the rest */
	SUPER_KILL,  /* the agent was told to kill everything */
	SUPER_CLOSE, /* the agent says that nothing is left */
	SUPER_LOST,  /* there is no agent any more: we kill what is left */
	SUPER_END,
	SUPER_STATE_COUNT,
};

enum super_event {
	SUPER_EV_HELLO,
	SUPER_EV_FAILURE,
	SUPER_EV_DONE,
	SUPER_EV_LOST, /* the link is at its end, or broken */
	SUPER_EV_STOP, /* a signal that asks for the end, or the reader of our output went away */
	SUPER_EV_DEADLINE,
	SUPER_EV_SWEPT,
	SUPER_EVENT_COUNT,
};

struct super {
	const struct supervise *config;
	struct job_view *view;
	struct outcome *outcome;
	enum super_state state;
	uint32_t pending;     /* bit per enum super_event */
	struct spawned agent; /* pid 0 once reaped */
	int agent_status;     /* of waitpid, once reaped */
	bool agent_reaped, done, abandoned;
	bool has_id; /* rank 0's id has come, and went to every agent */
	uint32_t left;
	int to_agent, from_agent, agent_err, signal_fd;
	struct link_in in;
	struct link_out out;
	struct lines agent_lines;
	uint64_t began_ns, agent_ended_ns;
	uint64_t deadline_ns, sweep_ns; /* 0: none */
	struct err link_err;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

static void post(struct super *s, enum super_event event)
{
	s->pending |= 1u << event;
}

static void lose(struct super *s, const struct err *err)
{
	if (s->link_err.code == 0)
		s->link_err = *err;
	post(s, SUPER_EV_LOST);
}

/* To every agent: today there is one. */
static void put_of(struct super *s, uint32_t rank, enum link_type type, const void *head,
		   size_t head_bytes, const void *text, size_t text_bytes)
{
	struct err err = {0};
	int rc = link_put(&s->out, type, rank, head, head_bytes, text, text_bytes);

	if (rc < 0) {
		err_sys(&err, rc, "link");
		lose(s, &err);
	}
}

static void put(struct super *s, enum link_type type, const void *head, size_t head_bytes,
		const void *text, size_t text_bytes)
{
	put_of(s, LINK_RANK_NONE, type, head, head_bytes, text, text_bytes);
}

/* ---- actions ---- */

static void act_job(struct super *s)
{
	size_t len;
	char *text = launch_format(s->config->launch, &len);
	struct err err = {0};

	s->deadline_ns = 0;
	if (!text) {
		err_sys(&err, -ENOMEM, "launch");
		lose(s, &err);
		return;
	}
	put(s, LINK_JOB, NULL, 0, text, len);
	free(text);
}

static void act_stop(struct super *s)
{
	struct link_signal want = {.signal = SIGTERM};

	put(s, LINK_SIGNAL, &want, sizeof(want), NULL, 0);
	s->deadline_ns = now_ns() + s->config->stop_timeout_ns;
	view_say(s->view, "stopping after the step in work; once more kills at once");
}

static void act_kill(struct super *s)
{
	put(s, LINK_KILL, NULL, 0, NULL, 0);
	s->deadline_ns = now_ns() + ANSWER_NS;
}

static void act_fail(struct super *s)
{
	s->deadline_ns = now_ns() + s->config->launch->grace_ns + ANSWER_NS;
}

/* The agent ends by itself now; closing its input says that we have heard it. */
static void act_close(struct super *s)
{
	s->done = true;
	s->deadline_ns = now_ns() + UNKILLABLE_NS;
}

static void act_lost(struct super *s)
{
	s->deadline_ns = now_ns() + UNKILLABLE_NS;
	s->sweep_ns = now_ns();
}

/* We do not wait for the agent any longer. */
static void act_abandon(struct super *s)
{
	s->abandoned = true;
	if (s->link_err.code == 0)
		err_set(&s->link_err, ERR_INTERNAL, "it does not answer");
	act_lost(s);
}

static void act_give_up(struct super *s)
{
	struct err err = {0};
	int left = tree_kill(0, &err);

	s->left = left > 0 ? (uint32_t)left : 0;
}

struct super_rule {
	void (*act)(struct super *s);
	enum super_state next; /* SUPER_START: there is no rule, since nothing leads back there */
};

/* clang-format off */
static const struct super_rule rules[SUPER_STATE_COUNT][SUPER_EVENT_COUNT] = {
	[SUPER_START] = {
		[SUPER_EV_HELLO] = {act_job, SUPER_RUN},
		[SUPER_EV_LOST] = {act_lost, SUPER_LOST},
		[SUPER_EV_STOP] = {act_abandon, SUPER_LOST},
		[SUPER_EV_DEADLINE] = {act_abandon, SUPER_LOST},
	},
	[SUPER_RUN] = {
		[SUPER_EV_FAILURE] = {act_fail, SUPER_FAIL},
		[SUPER_EV_DONE] = {act_close, SUPER_CLOSE},
		[SUPER_EV_LOST] = {act_lost, SUPER_LOST},
		[SUPER_EV_STOP] = {act_stop, SUPER_STOP},
	},
	[SUPER_STOP] = {
		[SUPER_EV_FAILURE] = {act_fail, SUPER_FAIL},
		[SUPER_EV_DONE] = {act_close, SUPER_CLOSE},
		[SUPER_EV_LOST] = {act_lost, SUPER_LOST},
		[SUPER_EV_STOP] = {act_kill, SUPER_KILL},
		[SUPER_EV_DEADLINE] = {act_kill, SUPER_KILL},
	},
	[SUPER_FAIL] = {
		[SUPER_EV_DONE] = {act_close, SUPER_CLOSE},
		[SUPER_EV_LOST] = {act_lost, SUPER_LOST},
		[SUPER_EV_STOP] = {act_kill, SUPER_KILL},
		[SUPER_EV_DEADLINE] = {act_abandon, SUPER_LOST},
	},
	[SUPER_KILL] = {
		[SUPER_EV_DONE] = {act_close, SUPER_CLOSE},
		[SUPER_EV_LOST] = {act_lost, SUPER_LOST},
		[SUPER_EV_DEADLINE] = {act_abandon, SUPER_LOST},
	},
	[SUPER_CLOSE] = {
		[SUPER_EV_DEADLINE] = {act_abandon, SUPER_LOST},
	},
	[SUPER_LOST] = {
		[SUPER_EV_SWEPT] = {NULL, SUPER_END},
		[SUPER_EV_DEADLINE] = {act_give_up, SUPER_END},
	},
};
/* clang-format on */

/* ---- the agent's end of things ---- */

static void agent_line(void *ctx, const char *line, size_t len)
{
	struct super *s = ctx;

	tail_add(&s->view->agent_tail, line, len);
	screen_line(&s->view->screen, SCREEN_ERR, "", line, len);
}

static void read_agent_err(struct super *s)
{
	char buf[4096];
	ssize_t got = read(s->agent_err, buf, sizeof(buf));

	if (got > 0) {
		lines_feed(&s->agent_lines, buf, (size_t)got, agent_line, s);
		return;
	}
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	close(s->agent_err);
	s->agent_err = -1;
}

static int take_hello(struct super *s, const struct link_frame *frame, struct err *err)
{
	struct link_hello hello;
	int rc = link_take(frame, &hello, sizeof(hello), NULL, NULL, err);

	if (rc < 0)
		return rc;
	if (hello.magic != LINK_MAGIC || hello.version != LINK_VERSION)
		return err_set(err, ERR_PROTOCOL,
			       "link: the agent speaks version %u, this dsrun version %u",
			       hello.version, LINK_VERSION);
	hello.host[sizeof(hello.host) - 1] = '\0';
	memcpy(s->view->host, hello.host, sizeof(s->view->host));
	post(s, SUPER_EV_HELLO);
	return 0;
}

/* Rank 0's worker has made what the ranks meet by: all agents get it, for all ranks. */
static int take_comm_id(struct super *s, const struct link_frame *frame, struct err *err)
{
	struct link_comm_id id;
	int rc = link_take(frame, &id, sizeof(id), NULL, NULL, err);

	if (rc < 0)
		return rc;
	if (frame->head.rank != 0 || s->has_id)
		return err_set(err, ERR_PROTOCOL, "link: %s id of the collectives, from rank %u",
			       s->has_id ? "a second" : "an", frame->head.rank);
	s->has_id = true;
	put(s, LINK_COMM_ID, &id, sizeof(id), NULL, 0);
	return 0;
}

/* The agent has told its own workers, and takes no notice; those of other hosts pass it on. */
static int take_failure(struct super *s, const struct link_frame *frame, struct err *err)
{
	int rc = view_take(s->view, frame, err);

	post(s, SUPER_EV_FAILURE);
	if (rc == 0 && frame->head.rank < s->view->world)
		put_of(s, frame->head.rank, LINK_FAILED, NULL, 0, NULL, 0);
	return rc;
}

static int take_frame(struct super *s, const struct link_frame *frame, struct err *err)
{
	struct link_done done;
	int rc;

	switch (frame->head.type) {
	case LINK_HELLO:
		return take_hello(s, frame, err);
	case LINK_DONE:
		rc = link_take(frame, &done, sizeof(done), NULL, NULL, err);
		s->left = rc < 0 ? 0 : done.left;
		post(s, SUPER_EV_DONE);
		return rc;
	case LINK_FAILURE:
		return take_failure(s, frame, err);
	case LINK_COMM_ID:
		return take_comm_id(s, frame, err);
	default:
		return view_take(s->view, frame, err);
	}
}

static void read_link(struct super *s)
{
	struct link_frame frame;
	struct err err = {0};
	int rc = link_read(&s->in, &err);

	while (rc > 0) {
		rc = link_next(&s->in, &frame, &err);
		if (rc > 0 && take_frame(s, &frame, &err) < 0)
			rc = err.code;
	}
	if (rc == 0)
		return;
	close(s->from_agent);
	s->from_agent = -1;
	lose(s, &err);
}

/* Reaps whoever has ended: the agent, and what of the job was left to us. */
static void reap(struct super *s)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != s->agent.pid)
			continue;
		s->agent_reaped = true;
		s->agent_ended_ns = now_ns();
		s->agent_status = status;
		/* What it wrote before it died is still in the link: its end comes after that. */
	}
}

/* ---- signals ---- */

static void forward(struct super *s, int sig)
{
	struct link_signal want = {.signal = (uint32_t)sig};

	if (s->state == SUPER_RUN || s->state == SUPER_STOP)
		put(s, LINK_SIGNAL, &want, sizeof(want), NULL, 0);
}

static void read_signals(struct super *s)
{
	struct signalfd_siginfo info;

	while (read(s->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		int sig = (int)info.ssi_signo;

		if (sig == SIGCHLD)
			continue; /* reap() comes after every round */
		if (sig == SIGUSR1 || sig == SIGUSR2) {
			forward(s, sig);
			continue;
		}
		if (!s->outcome->stop_signal)
			s->outcome->stop_signal = sig;
		post(s, SUPER_EV_STOP);
	}
}

/* Nobody reads what we print: nobody wants it, as when a user's `| head` has had enough. */
static void look_at_output(struct super *s)
{
	const struct screen_stream *out = &s->view->screen.streams[SCREEN_OUT];

	if (!out->gone || out->error != EPIPE || s->outcome->stop_signal)
		return;
	s->outcome->stop_signal = SIGPIPE;
	post(s, SUPER_EV_STOP);
}

/* ---- the loop ---- */

static void sweep(struct super *s)
{
	struct err err = {0};

	if (s->state != SUPER_LOST || now_ns() < s->sweep_ns)
		return;
	int left = tree_kill(0, &err);
	if (left < 0)
		log_error("launcher", "looking for descendants: %s", err.text);
	reap(s);
	/* The link first: what ranks had said before the agent died is part of the story. */
	if (left == 0 && s->from_agent < 0)
		post(s, SUPER_EV_SWEPT);
	s->sweep_ns = now_ns() + SWEEP_NS;
}

static void take_events(struct super *s)
{
	if (s->deadline_ns && now_ns() >= s->deadline_ns)
		post(s, SUPER_EV_DEADLINE);
	while (s->pending) {
		enum super_event event = (enum super_event)__builtin_ctz(s->pending);
		const struct super_rule *rule = &rules[s->state][event];

		s->pending &= ~(1u << event);
		if (event == SUPER_EV_DEADLINE)
			s->deadline_ns = 0;
		if (rule->next == SUPER_START)
			continue;
		s->state = rule->next;
		if (rule->act)
			rule->act(s);
	}
}

static int timeout_ms(const struct super *s)
{
	uint64_t now = now_ns(), until = s->deadline_ns, live = screen_due_ns(&s->view->screen);

	if (s->state == SUPER_LOST && (!until || s->sweep_ns < until))
		until = s->sweep_ns;
	if (live && (!until || live < until))
		until = live;
	if (!until)
		return -1;
	uint64_t ms = until <= now ? 0 : (until - now) / NS_PER_MS + 1;
	return ms > 60000 ? 60000 : (int)ms;
}

/* Asks for output, input, or nothing of a descriptor that may be gone. */
static struct pollfd want(int fd, bool in, bool out)
{
	return (struct pollfd){.fd = in || out ? fd : -1,
			       .events = (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0))};
}

static void round_of_events(struct super *s)
{
	const struct screen *screen = &s->view->screen;
	/* The rest, when there is no agent any more, is no more than a pipe holds. */
	bool room = !screen_full(screen) || s->state == SUPER_LOST;
	struct pollfd fds[] = {
		want(s->from_agent, room, false),
		want(s->agent_err, room, false),
		want(s->signal_fd, true, false),
		want(s->to_agent, false, link_pending(&s->out) > 0),
		want(1, false, screen_pending(screen, SCREEN_OUT) > 0),
		want(2, false, screen_pending(screen, SCREEN_ERR) > 0),
	};

	if (poll(fds, sizeof(fds) / sizeof(fds[0]), timeout_ms(s)) < 0)
		return; /* EINTR, or no memory for a moment */
	if (fds[2].revents)
		read_signals(s);
	if (fds[1].revents)
		read_agent_err(s);
	if (fds[0].revents)
		read_link(s);
}

static bool over(struct super *s)
{
	struct err err = {0};

	if (s->state == SUPER_END)
		return true;
	/* A clean end: the agent has gone after its DONE. Whatever it did not find is ours. */
	if (s->state == SUPER_CLOSE && s->agent_reaped && s->from_agent < 0 && s->agent_err < 0)
		return tree_kill(0, &err) == 0;
	return false;
}

static void loop(struct super *s)
{
	while (!over(s)) {
		round_of_events(s);
		reap(s);
		sweep(s);
		(void)link_flush(&s->out);
		screen_flush(&s->view->screen, now_ns());
		look_at_output(s);
		take_events(s);
		(void)link_flush(&s->out);
	}
}

/* ---- beginning and end ---- */

static int pipe_pair(int ends[2], int ours, struct err *err)
{
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, -errno, "pipe");
	if (fcntl(ends[ours], F_SETFL, O_NONBLOCK) < 0)
		return err_sys(err, -errno, "fcntl");
	return 0;
}

static void close_pair(int ends[2])
{
	for (int i = 0; i < 2; i++) {
		if (ends[i] >= 0)
			close(ends[i]);
	}
}

static int start_agent(struct super *s, struct err *err)
{
	char job[128], *argv[] = {(char *)"dsrun", (char *)"agent", NULL};
	const char *set[] = {job};
	int in[2] = {-1, -1}, out[2] = {-1, -1}, errs[2] = {-1, -1};

	snprintf(job, sizeof(job), "DSRUN_JOB=%s", s->config->launch->job.id);
	char **env = spawn_environment(environ, set, 1);
	int rc = env ? 0 : err_sys(err, -ENOMEM, "environment");
	if (rc == 0)
		rc = pipe_pair(in, 1, err);
	if (rc == 0)
		rc = pipe_pair(out, 0, err);
	if (rc == 0)
		rc = pipe_pair(errs, 0, err);
	if (rc == 0) {
		/* No death signal: the agent has to outlive us for as long as it takes to end the
		 * job, and learns of our end by that of its link. */
		struct spawn spawn = {
			.path = "/proc/self/exe",
			.argv = argv,
			.envp = env,
			.fds = {in[0], out[1], errs[1]},
			.fd_count = 3,
			.cgroup_fd = -1,
		};
		rc = spawn_start(&spawn, &s->agent, err);
	}
	spawn_environment_free(env);
	if (rc < 0) {
		close_pair(in);
		close_pair(out);
		close_pair(errs);
		return rc;
	}
	close(in[0]);
	close(out[1]);
	close(errs[1]);
	s->to_agent = in[1];
	s->from_agent = out[0];
	s->agent_err = errs[0];
	/* How exec went is told by the greeting, or by its absence. */
	close(s->agent.error_fd);
	close(s->agent.pidfd);
	return 0;
}

static int take_signals(struct super *s, struct err *err)
{
	static const int signals[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
	struct sigaction action;
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		/* What our caller ignores, as nohup does SIGHUP, stays ignored. */
		if (sigaction(signals[i], NULL, &action) == 0 && action.sa_handler == SIG_IGN &&
		    signals[i] != SIGCHLD)
			continue;
		sigaddset(&set, signals[i]);
	}
	if (signal(SIGCHLD, SIG_DFL) == SIG_ERR || signal(SIGPIPE, SIG_IGN) == SIG_ERR ||
	    sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_sys(err, -errno, "signals");
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signal_fd < 0)
		return err_sys(err, -errno, "signalfd");
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return err_sys(err, -errno, "prctl(PR_SET_CHILD_SUBREAPER)");
	return 0;
}

static void agent_outcome(struct super *s, struct outcome *ret)
{
	int status = s->agent_status;

	ret->status = OUTCOME_FAILED;
	ret->who = OUTCOME_AGENT;
	ret->tail = s->view->agent_tail;
	memcpy(ret->host, s->view->host, sizeof(ret->host));
	if (s->link_err.code && s->link_err.code != -EPIPE) {
		ret->code = s->link_err.code;
		snprintf(ret->text, sizeof(ret->text), "%s", s->link_err.text);
	} else if (s->agent_reaped && WIFSIGNALED(status)) {
		ret->exited = (struct link_exited){
			.pid = (uint32_t)s->agent.pid,
			.how = WCOREDUMP(status) ? CLD_DUMPED : CLD_KILLED,
			.status = WTERMSIG(status),
			.started_ns = s->began_ns,
			.at_ns = s->agent_ended_ns,
		};
	} else {
		ret->code = ERR_INTERNAL;
		snprintf(ret->text, sizeof(ret->text), "it went away before the job was over");
	}
}

static void conclude(struct super *s)
{
	struct outcome *o = s->outcome;

	view_outcome(s->view, o);
	o->grace_ns = s->config->launch->grace_ns;
	o->left = s->left;
	o->summary = s->view->summary;
	if (s->view->failed)
		o->status = OUTCOME_FAILED;
	else if (s->done)
		o->status = o->stop_signal ? OUTCOME_STOPPED : OUTCOME_OK;
	else if (o->stop_signal && s->abandoned)
		o->status = OUTCOME_STOPPED;
	else
		agent_outcome(s, o);
	if (o->status == OUTCOME_STOPPED && !s->done)
		o->stop_clean = false;
	o->exit_status = outcome_exit_status(o);
}

static void close_super(struct super *s)
{
	lines_finish(&s->agent_lines, agent_line, s);
	view_finish(s->view);
	if (s->to_agent >= 0)
		close(s->to_agent);
	if (s->from_agent >= 0)
		close(s->from_agent);
	if (s->agent_err >= 0)
		close(s->agent_err);
	close(s->signal_fd);
	link_in_done(&s->in);
	link_out_done(&s->out);
	cgroup_remove_left(s->config->launch->job.id);
}

void supervise_fail(struct outcome *ret, const struct err *err)
{
	*ret = (struct outcome){
		.status = OUTCOME_FAILED, .who = OUTCOME_LAUNCHER, .code = err->code};
	snprintf(ret->text, sizeof(ret->text), "%s", err->text);
	ret->exit_status = outcome_exit_status(ret);
}

struct job_view *supervise_run(const struct supervise *config, struct outcome *ret)
{
	struct super s = {
		.config = config,
		.outcome = ret,
		.to_agent = -1,
		.from_agent = -1,
		.agent_err = -1,
	};
	struct err err = {0};

	s.began_ns = now_ns();
	*ret = (struct outcome){.status = OUTCOME_FAILED};
	int rc = view_open((unsigned)config->launch->job.world, config->quiet, config->tee, &s.view,
			   &err);
	if (rc == 0)
		s.view->trace = config->trace;
	if (rc == 0)
		rc = take_signals(&s, &err);
	if (rc == 0)
		rc = start_agent(&s, &err);
	if (rc < 0) {
		supervise_fail(ret, &err);
		return s.view;
	}
	link_in_init(&s.in, s.from_agent);
	link_out_init(&s.out, s.to_agent);
	s.deadline_ns = s.began_ns + HELLO_NS;
	loop(&s);
	close_super(&s);
	conclude(&s);
	ret->seconds_ns = now_ns() - s.began_ns;
	return s.view;
}

/* The signals that were for the job are over; the next one, while a terminal stalls, is for us. */
void supervise_flush(struct job_view *view)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
	const struct timespec at_once = {0};
	sigset_t set;

	if (!view)
		return;
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaddset(&set, signals[i]);
	while (sigtimedwait(&set, NULL, &at_once) > 0)
		continue;
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	screen_finish(&view->screen);
}

struct job_view *supervise_free(struct job_view *view)
{
	return view_free(view);
}
