/*
 * The main thread: one epoll loop over the listening socket, the signals, the connections and the
 * eventfd by which sessions tell that they have ended. It never waits for a session: those have
 * threads of their own, which do the disk's and the memory's work, opening included.
 *
 *	event                        running                 draining            finishing
 *	HELLO, OPEN                  served                  refused             refused
 *	QUERY, STATS                 served                  served              -
 *	SIGTERM, SIGHUP              drain                   finish              -
 *	SIGINT                       finish                  finish              -
 *	the last session ended       -                       return              return
 *
 * Invariants
 *  1. A connection is freed by conns_sweep only, at the end of a round, so that no event of the
 *     same round can point to one that is gone.
 *  2. A connection with a session is freed when the session's thread has ended and was joined; its
 *     socket is closed then and not before: that is how a client knows that everything is free
 *     again.
 *  3. memory_used, swap_used and session_count are the sums over connections that have a session.
 */
#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/units.h"
#include "daemon/notify.h"
#include "daemon/server_internal.h"
#include "daemon/wire.h"

#define EVENTS_MAX 64
#define SECOND_NS  UINT64_C(1000000000)
/* While sessions are ending: how often they are told again (session_stop). */
#define ENDING_NS (SECOND_NS / 20)
/* After accepting failed for want of descriptors or memory. */
#define ACCEPT_PAUSE_NS (SECOND_NS / 10)

uint64_t server_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static void status_tell(const struct server *v, void (*tell)(const char *))
{
	char text[128], memory[UNITS_TEXT_BYTES], swap[UNITS_TEXT_BYTES];

	snprintf(text, sizeof(text), "%s%u sessions, %s of memory, %s of swap",
		 v->draining ? "draining: " : "", v->session_count,
		 units_format_bytes(memory, v->memory_used),
		 units_format_bytes(swap, v->swap_used));
	tell(text);
}

void server_status_tell(const struct server *v)
{
	status_tell(v, notify_status);
}

/* Connections. */

static int watch(struct server *v, int op, int fd, void *source, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	return epoll_ctl(v->epoll_fd, op, fd, &event) < 0 ? -errno : 0;
}

void server_conn_watch(struct server *v, struct conn *c, bool also_out)
{
	int rc = watch(v, EPOLL_CTL_MOD, c->fd, c, EPOLLIN | (also_out ? EPOLLOUT : 0));

	assert(rc == 0); /* the descriptor is in the set since conn_add, and no memory is needed */
	(void)rc;
}

void server_conn_close(struct server *v, struct conn *c, const struct err *err)
{
	if (c->state == CONN_CLOSING)
		return;
	if (err) {
		(void)wire_send_error(c->fd, err); /* a peer that does not read is not told */
		log_warn("daemon", "%s%s%spid %d, uid %u: connection closed: %s",
			 c->job[0] ? "job '" : "", c->job, c->job[0] ? "', " : "", (int)c->peer.pid,
			 c->peer.uid, err->text);
	}
	(void)epoll_ctl(v->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
	c->state = CONN_CLOSING;
	if (c->session)
		session_stop(c->session);
}

static int conn_add(struct server *v, int fd)
{
	struct conn *c = calloc(1, sizeof(*c));
	socklen_t len = sizeof(c->peer);
	int rc;

	if (!c)
		return -ENOMEM;
	c->source = SOURCE_CONN;
	c->fd = fd;
	c->deadline_ns = server_now_ns() + v->conf->session.hello_timeout;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c->peer, &len) < 0)
		rc = -errno;
	else
		rc = watch(v, EPOLL_CTL_ADD, fd, c, EPOLLIN);
	if (rc < 0) {
		free(c);
		return rc;
	}
	c->next = v->conns;
	c->link = &v->conns;
	if (c->next)
		c->next->link = &c->next;
	v->conns = c;
	v->conn_count++;
	return 0;
}

static void session_account(struct server *v, struct conn *c)
{
	char read_text[UNITS_TEXT_BYTES], written_text[UNITS_TEXT_BYTES],
		time_text[UNITS_TEXT_BYTES];
	struct session_figures f;

	session_figures(c->session, &f);
	v->past.swap_read_bytes += f.swap_read_bytes;
	v->past.swap_written_bytes += f.swap_written_bytes;
	v->past.swap_handed_bytes += f.swap_handed_bytes;
	v->past.swap_dropped_bytes += f.swap_dropped_bytes;
	v->past.operations += f.operations;
	v->past.stepped_elems += f.stepped_elems;
	v->past.adam_ns += f.adam_ns;
	v->past.io_wait_ns += f.io_wait_ns;
	v->sessions_past++;
	v->session_count--;
	v->memory_used -= c->memory_bytes;
	v->swap_used -= c->swap_bytes;
	log_info("daemon",
		 "job '%s' rank %u of %u (pid %d): session ended after %s: %" PRIu64
		 " operations, %s read, %s written",
		 c->job, c->rank, c->world, (int)c->peer.pid,
		 units_format_duration(time_text, server_now_ns() - c->opened_ns), f.operations,
		 units_format_bytes(read_text, f.swap_read_bytes),
		 units_format_bytes(written_text, f.swap_written_bytes));
}

static void conn_free(struct server *v, struct conn *c)
{
	if (c->session) {
		session_account(v, c);
		session_free(c->session);
		server_status_tell(v);
	}
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	v->conn_count--;
	close(c->fd);
	free(c->text);
	free(c->part);
	free(c);
}

/* Frees what has ended, closes what is late. Invariant 1. */
static void conns_sweep(struct server *v)
{
	uint64_t now = server_now_ns();
	struct conn *c, *next;
	struct err late;

	for (c = v->conns; c; c = next) {
		next = c->next;
		if (c->session && session_ended(c->session))
			server_conn_close(v, c, NULL);
		if (c->state != CONN_CLOSING && c->state != CONN_SESSION && now >= c->deadline_ns) {
			err_set(&late, ERR_UNAVAILABLE, "nothing was said in time (%s)",
				"session.hello_timeout");
			server_conn_close(v, c, &late);
		}
		if (c->state != CONN_CLOSING)
			continue;
		if (!c->session || session_ended(c->session))
			conn_free(v, c);
		else
			session_stop(c->session);
	}
}

/* One packet, or the end. A read more than there is would be told by the next event. */
static void conn_read(struct server *v, struct conn *c)
{
	struct iovec iov = {.iov_base = v->packet, .iov_len = PROTOCOL_PACKET_MAX};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	struct err err = {.code = 0};
	ssize_t n;

	/* Descriptors that a peer passes find no room for control data and are closed. */
	n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		server_conn_close(v, c, NULL);
		return;
	}
	if (msg.msg_flags & MSG_TRUNC)
		err_set(&err, ERR_PROTOCOL, "protocol error: a packet of more than %u bytes",
			PROTOCOL_PACKET_MAX);
	else
		conn_message(v, c, (size_t)n, &err);
	if (err.code < 0)
		server_conn_close(v, c, &err);
}

static void conn_event(struct server *v, struct conn *c, uint32_t events)
{
	struct err err = {.code = 0};

	if (c->state == CONN_CLOSING)
		return;
	if ((events & EPOLLOUT) && conn_send_more(v, c, &err) < 0) {
		server_conn_close(v, c, NULL);
		return;
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		conn_read(v, c);
}

/* Accepting. */

static void too_many(const struct server *v, int fd)
{
	struct err err;

	err_set(&err, ERR_UNAVAILABLE, "%u connections are open, more are not served",
		v->conn_count);
	(void)wire_send_error(fd, &err);
	log_warn("daemon", "connection refused: %s", err.text);
}

static void accept_pause(struct server *v, int code)
{
	log_warn("daemon", "accepting connections: %s, pausing", err_str(code));
	v->accept_again_ns = server_now_ns() + ACCEPT_PAUSE_NS;
	(void)watch(v, EPOLL_CTL_MOD, v->listener->fd, &v->listener_source, 0);
}

static void accept_resume(struct server *v)
{
	if (v->accept_again_ns == 0 || server_now_ns() < v->accept_again_ns)
		return;
	v->accept_again_ns = 0;
	(void)watch(v, EPOLL_CTL_MOD, v->listener->fd, &v->listener_source, EPOLLIN);
}

static void accept_some(struct server *v)
{
	int fd, rc;

	/* A bounded number, so that who connects in a loop keeps nobody else waiting. */
	for (int i = 0; i < EVENTS_MAX; i++) {
		fd = accept4(v->listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0) {
			if (errno != EAGAIN)
				accept_pause(v, -errno);
			return;
		}
		if (v->conn_count >= v->conf->session.max + CONNS_UNSETTLED_MAX) {
			too_many(v, fd);
			close(fd);
			continue;
		}
		rc = conn_add(v, fd);
		if (rc < 0) {
			log_warn("daemon", "connection refused: %s", err_str(rc));
			close(fd);
		}
	}
}

/* Signals. */

static void finish(struct server *v)
{
	struct err why;
	struct conn *c;

	if (v->finishing)
		return;
	v->draining = v->finishing = true;
	if (v->session_count > 0)
		log_warn("daemon", "ending %u sessions at once", v->session_count);
	err_set(&why, ERR_UNAVAILABLE, "the daemon was told to stop at once");
	for (c = v->conns; c; c = c->next)
		server_conn_close(v, c, c->session ? &why : NULL);
}

static void drain(struct server *v, uint32_t signo)
{
	if (v->draining) {
		finish(v);
		return;
	}
	v->draining = true;
	notify_stopping();
	log_info("daemon", "SIG%s: draining, %u sessions are open", sigabbrev_np((int)signo),
		 v->session_count);
}

static void on_signal(struct server *v)
{
	struct signalfd_siginfo info;
	ssize_t n;

	while ((n = read(v->signal_fd, &info, sizeof(info))) == sizeof(info)) {
		if (info.ssi_signo == SIGINT)
			finish(v);
		else
			drain(v, info.ssi_signo);
	}
}

/* The loop. */

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* When something is to be done without an event; UINT64_MAX: never. */
static uint64_t next_deadline(const struct server *v, uint64_t watchdog_ns)
{
	uint64_t next = v->accept_again_ns > 0 ? v->accept_again_ns : UINT64_MAX;
	const struct conn *c;

	if (watchdog_ns > 0)
		next = earlier(next, watchdog_ns);
	for (c = v->conns; c; c = c->next) {
		if (c->state == CONN_CLOSING)
			next = earlier(next, server_now_ns() + ENDING_NS);
		else if (c->state != CONN_SESSION)
			next = earlier(next, c->deadline_ns);
	}
	return next;
}

static int timeout_ms(uint64_t deadline_ns)
{
	uint64_t now = server_now_ns();

	if (deadline_ns == UINT64_MAX)
		return -1;
	if (deadline_ns <= now)
		return 0;
	/* Rounded up, so as not to spin through the last millisecond. */
	return (int)earlier((deadline_ns - now) / 1000000 + 1, 60000);
}

static void dispatch(struct server *v, const struct epoll_event *event)
{
	const enum source *source = event->data.ptr;
	eventfd_t count;

	switch (*source) {
	case SOURCE_LISTENER:
		accept_some(v);
		break;
	case SOURCE_SIGNAL:
		on_signal(v);
		break;
	case SOURCE_ENDED:
		(void)eventfd_read(v->ended_fd, &count); /* conns_sweep looks who it was */
		break;
	case SOURCE_CONN:
		conn_event(v, event->data.ptr, event->events);
		break;
	}
}

static int loop(struct server *v, struct err *err)
{
	uint64_t watchdog = notify_watchdog_ns(), next_watchdog = watchdog ? 1 : 0;
	struct epoll_event events[EVENTS_MAX];
	int i, n;

	while (!v->draining || v->session_count > 0) {
		n = epoll_wait(v->epoll_fd, events, EVENTS_MAX,
			       timeout_ms(next_deadline(v, next_watchdog)));
		if (n < 0 && errno != EINTR)
			return err_sys(err, -errno, "epoll_wait");
		for (i = 0; i < n; i++)
			dispatch(v, &events[i]);
		conns_sweep(v);
		accept_resume(v);
		if (watchdog && server_now_ns() >= next_watchdog) {
			notify_alive();
			next_watchdog = server_now_ns() + watchdog;
		}
	}
	return 0;
}

/* Opening and closing. */

static int signals_open(struct server *v, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	v->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return v->signal_fd < 0 ? err_sys(err, -errno, "signalfd") : 0;
}

static int server_open(struct server *v, struct err *err)
{
	int rc;

	v->packet = malloc(PROTOCOL_PACKET_MAX);
	if (!v->packet)
		return err_sys(err, -ENOMEM, "allocating the packet buffer");
	rc = tuned_open(&v->tuned, v->conf->nvme.tuned, err);
	if (rc == 0)
		rc = signals_open(v, err);
	if (rc < 0)
		return rc;
	v->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	v->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (v->epoll_fd < 0 || v->ended_fd < 0)
		return err_sys(err, -errno, "epoll");
	rc = pool_open((unsigned)v->conf->host.threads, &v->pool, err);
	if (rc < 0)
		return rc;
	v->listener_source = SOURCE_LISTENER;
	v->signal_source = SOURCE_SIGNAL;
	v->ended_source = SOURCE_ENDED;
	rc = watch(v, EPOLL_CTL_ADD, v->listener->fd, &v->listener_source, EPOLLIN);
	if (rc == 0)
		rc = watch(v, EPOLL_CTL_ADD, v->signal_fd, &v->signal_source, EPOLLIN);
	if (rc == 0)
		rc = watch(v, EPOLL_CTL_ADD, v->ended_fd, &v->ended_source, EPOLLIN);
	return rc < 0 ? err_sys(err, rc, "epoll_ctl") : 0;
}

static void server_close(struct server *v)
{
	struct conn *c, *next;

	for (c = v->conns; c; c = c->next)
		server_conn_close(v, c, NULL);
	for (c = v->conns; c; c = next) {
		next = c->next;
		conn_free(v, c);
	}
	pool_free(v->pool);
	if (v->signal_fd >= 0)
		close(v->signal_fd);
	if (v->epoll_fd >= 0)
		close(v->epoll_fd);
	if (v->ended_fd >= 0)
		close(v->ended_fd);
	free(v->packet);
}

int server_run(const struct daemon_conf *conf, struct listener *listener, struct err *err)
{
	struct server v = {
		.conf = conf,
		.listener = listener,
		.epoll_fd = -1,
		.signal_fd = -1,
		.ended_fd = -1,
		.started_ns = server_now_ns(),
	};
	int rc = server_open(&v, err);

	if (rc == 0) {
		status_tell(&v, notify_ready);
		log_info("daemon", "listening at %s%s", listener->name,
			 listener->inherited ? " (passed on)" : "");
		rc = loop(&v, err);
	}
	server_close(&v);
	return rc;
}
