/* What dsctl asks for, as JSON; the main thread calls. The fields are told in dsctl(1). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cpu.h"
#include "common/json.h"
#include "daemon/server_internal.h"
#include "nvme/nvme.h"

static double seconds(uint64_t ns)
{
	return (double)ns * 1e-9;
}

static char *taken(struct json *j)
{
	const char *text = json_text(j);
	char *copy = text ? strdup(text) : NULL;

	json_done(j);
	return copy;
}

static void add(struct session_figures *sum, const struct session_figures *f)
{
	sum->swap_read_bytes += f->swap_read_bytes;
	sum->swap_written_bytes += f->swap_written_bytes;
	sum->swap_handed_bytes += f->swap_handed_bytes;
	sum->swap_dropped_bytes += f->swap_dropped_bytes;
	sum->operations += f->operations;
	sum->stepped_elems += f->stepped_elems;
	sum->adam_ns += f->adam_ns;
	sum->io_wait_ns += f->io_wait_ns;
}

static struct session_figures totals(const struct server *v)
{
	struct session_figures sum = v->past, f;
	const struct conn *c;

	for (c = v->conns; c; c = c->next) {
		if (!c->session)
			continue;
		session_figures(c->session, &f);
		add(&sum, &f);
	}
	return sum;
}

static void work(struct json *j, const struct session_figures *f)
{
	json_u64(j, "operations", f->operations);
	json_u64(j, "swap_read_bytes", f->swap_read_bytes);
	json_u64(j, "swap_written_bytes", f->swap_written_bytes);
	json_u64(j, "swap_handed_bytes", f->swap_handed_bytes);
	json_u64(j, "swap_dropped_bytes", f->swap_dropped_bytes);
	json_u64(j, "stepped_elements", f->stepped_elems);
	json_double(j, "adam_seconds", seconds(f->adam_ns));
	json_double(j, "io_wait_seconds", seconds(f->io_wait_ns));
}

/* A quota of 0 is none, and is not there. */
static void quota(struct json *j, const char *key, uint64_t quota_bytes, uint64_t used_bytes)
{
	json_object_begin(j, key);
	if (quota_bytes > 0)
		json_u64(j, "quota_bytes", quota_bytes);
	json_u64(j, "used_bytes", used_bytes);
	json_object_end(j);
}

/* Figures that are there, whatever directories a session names. */
static void tuned(struct json *j, const struct tuned_file *t)
{
	const struct nvme_figures *f = &t->figures;

	if (t->found != NVME_TUNED_FOUND)
		return;
	json_object_begin(j, "tuned");
	json_string(j, "file", tuned_name(t));
	json_u64(j, "measured", f->measured);
	json_string(j, "engine", nvme_engine_name(f->engine));
	json_u64(j, "extent_bytes", f->extent);
	json_u64(j, "queue_depth", f->queue_depth);
	json_array_begin(j, "paths");
	for (size_t i = 0; i < f->path_count; i++)
		json_string(j, NULL, f->paths[i].path);
	json_array_end(j);
	json_object_end(j);
}

char *report_status(const struct server *v)
{
	const struct daemon_conf *conf = v->conf;
	struct session_figures sum = totals(v);
	struct json j;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_string(&j, "version", DSRUN_VERSION);
	json_u64(&j, "protocol", PROTOCOL_VERSION);
	json_u64(&j, "pid", (uint64_t)getpid());
	json_double(&j, "uptime_seconds", seconds(server_now_ns() - v->started_ns));
	json_string(&j, "state", v->draining ? "draining" : "running");
	json_string(&j, "socket", v->listener->name);
	json_u64(&j, "threads", pool_threads(v->pool));
	json_string(&j, "cpu", cpu_isa_name(cpu_isa()));
	json_string(&j, "swap_engine", nvme_engine_name((enum nvme_engine)conf->nvme.engine));
	json_array_begin(&j, "swap_paths");
	for (size_t i = 0; i < conf->nvme.paths.count; i++)
		json_string(&j, NULL, conf->nvme.paths.at[i]);
	json_array_end(&j);
	tuned(&j, &v->tuned);
	quota(&j, "memory", conf->host.memory, v->memory_used);
	quota(&j, "swap", conf->nvme.quota, v->swap_used);
	json_object_begin(&j, "sessions");
	json_u64(&j, "open", v->session_count);
	json_u64(&j, "max", conf->session.max);
	json_u64(&j, "ended", v->sessions_past);
	json_object_end(&j);
	work(&j, &sum);
	json_object_end(&j);
	return taken(&j);
}

static void job(struct json *j, const struct conn *c)
{
	struct session_figures f;

	session_figures(c->session, &f);
	json_object_begin(j, NULL);
	json_string(j, "job", c->job);
	json_u64(j, "rank", c->rank);
	json_u64(j, "world", c->world);
	json_u64(j, "pid", (uint64_t)c->peer.pid);
	json_u64(j, "uid", c->peer.uid);
	json_string(j, "state", session_state_name(f.state));
	json_double(j, "uptime_seconds", seconds(server_now_ns() - c->opened_ns));
	json_u64(j, "memory_bytes", f.memory_bytes);
	json_u64(j, "swap_bytes", f.swap_bytes);
	json_string(j, "engine", f.engine[0] ? f.engine : "none");
	json_u64(j, "extent_bytes", f.extent_bytes);
	json_u64(j, "queue_depth", f.queue_depth);
	work(j, &f);
	json_object_end(j);
}

char *report_jobs(const struct server *v)
{
	const struct conn *c;
	struct json j;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_array_begin(&j, "jobs");
	for (c = v->conns; c; c = c->next)
		if (c->session)
			job(&j, c);
	json_array_end(&j);
	json_object_end(&j);
	return taken(&j);
}
