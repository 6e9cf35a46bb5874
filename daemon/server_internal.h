/*
 * The main thread from inside: what the event loop (server.c), the connections' messages (conn.c)
 * and the reports (report.c) share. No other thread touches any of it.
 */
#ifndef DAEMON_SERVER_INTERNAL_H
#define DAEMON_SERVER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/err.h"
#include "daemon/daemon_conf.h"
#include "daemon/listener.h"
#include "daemon/pool.h"
#include "daemon/session.h"
#include "daemon/tuned.h"

/*
 * Connections beyond the sessions': greeting, asking, or about to be told that there are too many.
 */
#define CONNS_UNSETTLED_MAX 64u

/* What an epoll event is about; the first member of whatever it points to. */
enum source { SOURCE_LISTENER, SOURCE_SIGNAL, SOURCE_ENDED, SOURCE_CONN };

/*
 *	NEW --HELLO--> GREETED --OPEN--> SESSION --> CLOSING
 *	 |                |                             ^
 *	 +--QUERY--> ASKED|-----------------------------+   (peer gone, error, too late)
 */
enum conn_state { CONN_NEW, CONN_GREETED, CONN_SESSION, CONN_ASKED, CONN_CLOSING };

struct conn {
	enum source source;
	enum conn_state state;
	struct conn *next, **link; /* in server->conns */
	int fd;
	struct ucred peer;
	uint64_t deadline_ns; /* of the next message, unless SESSION or CLOSING */
	uint64_t opened_ns;
	char job[PROTOCOL_JOB_BYTES];
	uint32_t rank, world;
	struct session *session;
	uint64_t memory_bytes, swap_bytes; /* taken of the quotas */
	char *text;                        /* of an answer that is being sent */
	size_t text_len, text_sent;
	bool text_ended;
	char *part; /* one packet of a trace, when the session is traced */
	size_t part_bytes;
	unsigned parts_left; /* of the answer that is being sent, while `telling` */
	bool telling;
};

struct server {
	const struct daemon_conf *conf;
	struct listener *listener;
	struct pool *pool;
	struct tuned_file tuned;
	int epoll_fd, signal_fd, ended_fd;
	enum source listener_source, signal_source, ended_source;
	struct conn *conns;
	unsigned conn_count, session_count;
	uint64_t memory_used, swap_used;
	uint64_t started_ns, accept_again_ns; /* 0: accepting */
	bool draining, finishing;
	struct session_figures past; /* sums over the sessions that have ended */
	uint64_t sessions_past;
	char *packet; /* PROTOCOL_PACKET_MAX bytes */
};

uint64_t server_now_ns(void);

/* Sessions and quotas have changed: the service manager is told. */
void server_status_tell(const struct server *v);

/* Tells the peer (err may be NULL), and begins the connection's end. */
void server_conn_close(struct server *v, struct conn *c, const struct err *err);

/* Waits for EPOLLIN, or with `also_out` for EPOLLOUT too. */
void server_conn_watch(struct server *v, struct conn *c, bool also_out);

/*
 * conn.c: one message, of `bytes`, in v->packet. Negative: the connection is to be closed with err.
 */
int conn_message(struct server *v, struct conn *c, size_t bytes, struct err *err);

/* conn.c: goes on sending the answer that the socket had no room for. As conn_message. */
int conn_send_more(struct server *v, struct conn *c, struct err *err);

/* report.c: the JSON of a QUERY, which the caller frees; NULL when memory ran out. */
char *report_status(const struct server *v);
char *report_jobs(const struct server *v);

#endif
