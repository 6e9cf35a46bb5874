/*
 * What a connection's peer may say, and what it gets. The main thread calls, with whole packets.
 *
 * A table tells which message is allowed in which state, and how large it is. Whatever is not in it
 * is a protocol error, which costs the peer its connection and, if it has one, its session. A
 * session is admitted here: its plan is checked, and memory and swap are taken off the quotas
 * before anything is allocated, so that quotas hold however many sessions open at once.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/units.h"
#include "daemon/server_internal.h"
#include "daemon/wire.h"

/* Of a QUERY's or a TRACE's answer in one packet. */
#define TEXT_PART_BYTES 32768u
/* Packets of one answer to a TRACE, so that it ends, however much is recorded meanwhile. */
#define TRACE_PARTS_MAX 256u

static int on_hello(struct server *v, struct conn *c, size_t bytes, struct err *err);
static int on_open(struct server *v, struct conn *c, size_t bytes, struct err *err);
static int on_stats(struct server *v, struct conn *c, size_t bytes, struct err *err);
static int on_query(struct server *v, struct conn *c, size_t bytes, struct err *err);
static int on_trace(struct server *v, struct conn *c, size_t bytes, struct err *err);

static const struct rule {
	enum conn_state state;
	uint32_t type;
	size_t bytes_min, bytes_max;
	int (*handle)(struct server *v, struct conn *c, size_t bytes, struct err *err);
} rules[] = {
	{CONN_NEW, PROTOCOL_HELLO, sizeof(struct protocol_hello), sizeof(struct protocol_hello),
	 on_hello},
	{CONN_NEW, PROTOCOL_QUERY, sizeof(struct protocol_query), sizeof(struct protocol_query),
	 on_query},
	{CONN_GREETED, PROTOCOL_OPEN, sizeof(struct protocol_open), PROTOCOL_PACKET_MAX, on_open},
	{CONN_SESSION, PROTOCOL_STATS, sizeof(struct protocol_message),
	 sizeof(struct protocol_message), on_stats},
	{CONN_SESSION, PROTOCOL_TRACE, sizeof(struct protocol_trace), sizeof(struct protocol_trace),
	 on_trace},
};

int conn_message(struct server *v, struct conn *c, size_t bytes, struct err *err)
{
	struct protocol_message head;
	size_t i;

	if (bytes < sizeof(head))
		return err_set(err, ERR_PROTOCOL, "protocol error: a packet of %zu bytes", bytes);
	memcpy(&head, v->packet, sizeof(head));
	if (head.magic != PROTOCOL_MAGIC)
		return err_set(err, ERR_PROTOCOL, "protocol error: what came is no message");
	if (head.version != PROTOCOL_VERSION)
		return err_set(err, ERR_PROTOCOL,
			       "the daemon speaks version %u of the protocol, its peer version %u",
			       PROTOCOL_VERSION, head.version);
	if (head.bytes != bytes)
		return err_set(err, ERR_PROTOCOL,
			       "protocol error: a packet of %zu bytes that says %u", bytes,
			       head.bytes);
	for (i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (rules[i].state == c->state && rules[i].type == head.type)
			break;
	if (i == sizeof(rules) / sizeof(rules[0]))
		return err_set(err, ERR_PROTOCOL, "protocol error: message %u has no place here",
			       head.type);
	if (bytes < rules[i].bytes_min || bytes > rules[i].bytes_max)
		return err_set(err, ERR_PROTOCOL, "protocol error: message %u of %zu bytes",
			       head.type, bytes);
	return rules[i].handle(v, c, bytes, err);
}

static int answer(struct conn *c, struct protocol_message *head, enum protocol_type type,
		  size_t bytes, struct err *err)
{
	int rc = wire_send(c->fd, head, type, bytes, NULL, 0);

	return rc < 0 ? err_sys(err, rc, "answering message %u", type) : 0;
}

/* Quotas. 0 as a quota is none. */

static uint64_t quota_free(uint64_t one, uint64_t all, uint64_t used)
{
	uint64_t left = all == 0 ? UINT64_MAX : all > used ? all - used : 0;

	return one > 0 && one < left ? one : left;
}

static const char *conf_name(const struct server *v)
{
	return v->conf->file ? v->conf->file : "the daemon's configuration, which has defaults now";
}

static int sessions_check(const struct server *v, struct err *err)
{
	if (v->draining)
		return err_set(err, ERR_UNAVAILABLE,
			       "draining: the daemon is about to stop and takes no new session");
	if (v->session_count >= v->conf->session.max)
		return err_set(err, ERR_UNAVAILABLE,
			       "%u sessions are open, and session.max allows %" PRIu64
			       ": raise it in %s",
			       v->session_count, v->conf->session.max, conf_name(v));
	return 0;
}

struct quota {
	const char *what, *key_one, *key_all;
	uint64_t one, all, used;
};

static int quota_check(const struct server *v, const struct quota *q, uint64_t needed,
		       struct err *err)
{
	char need[UNITS_TEXT_BYTES], may[UNITS_TEXT_BYTES], left[UNITS_TEXT_BYTES],
		all[UNITS_TEXT_BYTES];
	uint64_t free_bytes = quota_free(0, q->all, q->used);
	bool too_large = q->one > 0 && needed > q->one;

	if (needed <= quota_free(q->one, q->all, q->used))
		return 0;
	units_format_bytes(need, needed);
	units_format_bytes(may, q->one > 0 ? q->one : q->all);
	units_format_bytes(all, q->all);
	units_format_bytes(left, free_bytes);
	return err_set(err, ERR_UNAVAILABLE,
		       "%s: the session needs %s (%" PRIu64 " bytes), one session may have %s"
		       "%s%s%s%s: raise %s in %s",
		       q->what, need, needed, may, q->all > 0 ? ", free are " : "",
		       q->all > 0 ? left : "", q->all > 0 ? " of " : "", q->all > 0 ? all : "",
		       too_large ? q->key_one : q->key_all, conf_name(v));
}

static int quotas_check(const struct server *v, const struct session_plan *p, struct err *err)
{
	const struct daemon_conf *conf = v->conf;
	const struct quota memory = {
		.what = "memory",
		.key_one = "session.memory",
		.key_all = "host.memory",
		.one = conf->session.memory,
		.all = conf->host.memory,
		.used = v->memory_used,
	};
	const struct quota swap = {
		.what = "swap",
		.key_one = "session.swap",
		.key_all = "nvme.quota",
		.one = conf->session.swap,
		.all = conf->nvme.quota,
		.used = v->swap_used,
	};
	int rc = quota_check(v, &memory, p->memory_bytes, err);

	return rc < 0 ? rc : quota_check(v, &swap, p->swap_bytes, err);
}

/* HELLO. */

static bool printable(const char *text, size_t room)
{
	size_t len = strnlen(text, room);

	if (len == 0 || len == room)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isascii((unsigned char)text[i]) || !isprint((unsigned char)text[i]))
			return false;
	return true;
}

static int on_hello(struct server *v, struct conn *c, size_t bytes, struct err *err)
{
	struct protocol_hello hello;
	struct protocol_welcome welcome = {
		.memory_free_bytes =
			quota_free(v->conf->session.memory, v->conf->host.memory, v->memory_used),
		.swap_free_bytes =
			quota_free(v->conf->session.swap, v->conf->nvme.quota, v->swap_used),
		.threads = pool_threads(v->pool),
		.pid = (uint32_t)getpid(),
	};
	int rc;

	memcpy(&hello, v->packet, bytes);
	if (!printable(hello.job, sizeof(hello.job)))
		return err_set(
			err, ERR_PROTOCOL,
			"protocol error: the job's name is empty, too long or not printable");
	if (hello.world == 0 || hello.rank >= hello.world)
		return err_set(err, ERR_PROTOCOL, "protocol error: rank %u of %u", hello.rank,
			       hello.world);
	rc = sessions_check(v, err);
	if (rc < 0)
		return rc;
	memcpy(c->job, hello.job, sizeof(c->job));
	c->rank = hello.rank;
	c->world = hello.world;
	c->state = CONN_GREETED;
	c->deadline_ns = server_now_ns() + v->conf->session.hello_timeout;
	return answer(c, &welcome.head, PROTOCOL_WELCOME, sizeof(welcome), err);
}

/* OPEN. */

static int engine_choose(const struct server *v, enum nvme_engine wanted, enum nvme_engine *ret,
			 struct err *err)
{
	enum nvme_engine ours = (enum nvme_engine)v->conf->nvme.engine;

	if (ours != NVME_AUTO && wanted != NVME_AUTO && ours != wanted)
		return err_set(err, ERR_UNAVAILABLE,
			       "swap engine %s: the daemon is set to %s by nvme.engine in %s",
			       nvme_engine_name(wanted), nvme_engine_name(ours), conf_name(v));
	*ret = ours != NVME_AUTO ? ours : wanted;
	return 0;
}

static int path_refused(const struct server *v, const char *path, struct err *err)
{
	char list[1024] = "";
	size_t len = 0;

	for (size_t i = 0; i < v->conf->nvme.paths.count && len < sizeof(list); i++)
		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s", i > 0 ? ", " : "",
					v->conf->nvme.paths.at[i]);
	return err_set(err, ERR_UNAVAILABLE,
		       "swap directory %s is none of those that sessions may use: %s (nvme.paths "
		       "in %s)",
		       path, list, conf_name(v));
}

/*
 * The directory by its real name, which is what will be opened: a link that is changed in between
 * leads nowhere new.
 */
static int path_check(const struct server *v, char path[PROTOCOL_PATH_BYTES], struct err *err)
{
	char *real = realpath(path, NULL);
	size_t i, count = v->conf->nvme.paths.count;

	if (!real)
		return err_set(err, ERR_CONFIG, "swap directory %s: %s", path, err_str(-errno));
	for (i = 0; i < count; i++)
		if (strcmp(real, v->conf->real_paths[i]) == 0)
			break;
	if ((count > 0 && i == count) || strlen(real) >= PROTOCOL_PATH_BYTES) {
		free(real);
		return path_refused(v, path, err);
	}
	strcpy(path, real);
	free(real);
	return 0;
}

static int paths_check(const struct server *v, struct session_plan *p, struct err *err)
{
	int rc = 0;

	for (uint32_t i = 0; p->object_count > 0 && i < p->open.path_count && rc == 0; i++)
		rc = path_check(v, p->open.paths[i], err);
	return rc;
}

/*
 * What figures of dsctl bench say of the session's directories. Only libaio is named: `auto` begins
 * with io_uring, and may go on to the other where that is refused today.
 */
static void tuned_choose(struct server *v, const struct session_plan *p, double *weights,
			 struct session_config *config)
{
	const char *paths[PROTOCOL_PATHS_MAX];

	if (p->object_count == 0)
		return;
	for (uint32_t i = 0; i < p->open.path_count; i++)
		paths[i] = p->open.paths[i];
	if (!tuned_take(&v->tuned, paths, p->open.path_count, config->name, weights))
		return;
	config->weights = weights;
	if (config->engine == NVME_AUTO && v->tuned.figures.engine == NVME_LIBAIO)
		config->engine = NVME_LIBAIO;
}

static int admit(struct server *v, struct conn *c, struct session_plan *p, struct err *err)
{
	char name[PROTOCOL_JOB_BYTES + 64];
	double weights[PROTOCOL_PATHS_MAX];
	struct session_config config = {
		.plan = p,
		.pool = v->pool,
		.socket_fd = c->fd,
		.ended_fd = v->ended_fd,
		.name = name,
	};
	int rc;

	rc = sessions_check(v, err);
	if (rc == 0)
		rc = engine_choose(v, (enum nvme_engine)p->open.engine, &config.engine, err);
	if (rc == 0)
		rc = paths_check(v, p, err);
	if (rc == 0)
		rc = quotas_check(v, p, err);
	if (rc < 0)
		return rc;
	if (p->open.flags & PROTOCOL_OPEN_TRACE) {
		c->part = malloc(sizeof(struct protocol_message) + TEXT_PART_BYTES);
		if (!c->part)
			return err_sys(err, -ENOMEM, "allocating a trace's packet");
	}
	snprintf(name, sizeof(name), "job '%s' rank %u of %u (pid %d, uid %u)", c->job, c->rank,
		 c->world, (int)c->peer.pid, c->peer.uid);
	tuned_choose(v, p, weights, &config);
	rc = session_start(&config, &c->session, err);
	if (rc < 0)
		return rc;
	c->memory_bytes = p->memory_bytes;
	c->swap_bytes = p->swap_bytes;
	c->opened_ns = server_now_ns();
	c->state = CONN_SESSION;
	v->memory_used += c->memory_bytes;
	v->swap_used += c->swap_bytes;
	v->session_count++;
	server_status_tell(v);
	return 0;
}

static int on_open(struct server *v, struct conn *c, size_t bytes, struct err *err)
{
	struct session_plan *plan = NULL;
	int rc = session_plan_make(v->packet, bytes, &plan, err);

	if (rc < 0)
		return rc;
	rc = admit(v, c, plan, err);
	if (rc < 0)
		session_plan_free(plan);
	return rc;
}

/* STATS. */

static int on_stats(struct server *v, struct conn *c, size_t bytes, struct err *err)
{
	struct session_figures f;
	struct protocol_stats reply;

	(void)v;
	(void)bytes;
	session_figures(c->session, &f);
	reply = (struct protocol_stats){
		.memory_bytes = f.memory_bytes,
		.swap_bytes = f.swap_bytes,
		.swap_read_bytes = f.swap_read_bytes,
		.swap_written_bytes = f.swap_written_bytes,
		.swap_handed_bytes = f.swap_handed_bytes,
		.swap_dropped_bytes = f.swap_dropped_bytes,
		.operations = f.operations,
		.stepped_elems = f.stepped_elems,
		.adam_seconds = (double)f.adam_ns * 1e-9,
		.io_wait_seconds = (double)f.io_wait_ns * 1e-9,
	};
	return answer(c, &reply.head, PROTOCOL_STATS_REPLY, sizeof(reply), err);
}

/* TRACE. */

/* Goes on telling what was recorded: a part leaves the recorder when the one before it has gone. */
static int trace_send(struct server *v, struct conn *c, struct err *err)
{
	const size_t head = sizeof(struct protocol_message);
	int rc;

	while (c->telling) {
		if (c->part_bytes == 0 && c->parts_left > 0) {
			c->part_bytes = trace_take(session_recorder(c->session), c->part + head,
						   TEXT_PART_BYTES);
			c->parts_left--;
		}
		rc = wire_send(c->fd, (struct protocol_message *)(void *)c->part, PROTOCOL_TEXT,
			       head + c->part_bytes, NULL, 0);
		if (rc == -EAGAIN) {
			server_conn_watch(v, c, true);
			return 0;
		}
		if (rc < 0)
			return err_sys(err, rc, "telling a session's trace");
		c->telling = c->part_bytes > 0;
		c->part_bytes = 0;
	}
	server_conn_watch(v, c, false);
	return 0;
}

static int on_trace(struct server *v, struct conn *c, size_t bytes, struct err *err)
{
	struct trace *recorder = session_recorder(c->session);
	struct protocol_trace ask;

	memcpy(&ask, v->packet, bytes);
	if (!recorder)
		return err_set(err, ERR_PROTOCOL, "protocol error: the session is not traced");
	if (c->telling)
		return err_set(err, ERR_PROTOCOL,
			       "protocol error: a trace was asked for before the last was told");
	if (ask.record > 1)
		return err_set(err, ERR_PROTOCOL, "protocol error: record is %u", ask.record);
	trace_record(recorder, ask.record);
	c->telling = true;
	c->parts_left = TRACE_PARTS_MAX;
	return trace_send(v, c, err);
}

/* QUERY. */

static int text_send(struct server *v, struct conn *c, struct err *err)
{
	const size_t head = sizeof(struct protocol_message);
	size_t part;
	int rc;

	while (!c->text_ended) {
		part = c->text_len - c->text_sent;
		if (part > TEXT_PART_BYTES)
			part = TEXT_PART_BYTES;
		memcpy(v->packet + head, c->text + c->text_sent, part);
		rc = wire_send(c->fd, (struct protocol_message *)(void *)v->packet, PROTOCOL_TEXT,
			       head + part, NULL, 0);
		if (rc == -EAGAIN) {
			server_conn_watch(v, c, true);
			return 0;
		}
		if (rc < 0)
			return err_sys(err, rc, "answering");
		c->text_sent += part;
		c->text_ended = part == 0;
	}
	server_conn_watch(v, c, false);
	return 0;
}

static int on_query(struct server *v, struct conn *c, size_t bytes, struct err *err)
{
	struct protocol_query query;

	memcpy(&query, v->packet, bytes);
	if (query.what == PROTOCOL_QUERY_STATUS)
		c->text = report_status(v);
	else if (query.what == PROTOCOL_QUERY_JOBS)
		c->text = report_jobs(v);
	else
		return err_set(err, ERR_PROTOCOL, "protocol error: a query for %u", query.what);
	if (!c->text)
		return err_sys(err, -ENOMEM, "answering a query");
	c->text_len = strlen(c->text);
	c->state = CONN_ASKED;
	return text_send(v, c, err);
}

int conn_send_more(struct server *v, struct conn *c, struct err *err)
{
	return c->state == CONN_SESSION ? trace_send(v, c, err) : text_send(v, c, err);
}
