/*
 * What the user and the log get to see: the live line, log lines, log.file, the summary. Called by
 * the worker's main thread. Rank 0 writes; the others only tell their figures.
 *
 * 1. Every rank looks at its own traffic a few times a second at most, since the daemon's part
 *    costs a round trip, and tells it along with each step's loss; so rank 0 always has sums over
 *    all ranks that are at most that old.
 * 2. log.file begins anew with a run and is continued by a resumed one. A line is one write.
 * 3. Nothing here is bounded by the length of the run but log.file.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/units.h"
#include "worker/internal.h"

#define REFRESH_SECONDS  0.5
#define LIVE_SECONDS     0.1
#define SAMPLE_BYTES_MAX 8192u /* of the summary, which must fit a report */

static const char *const part_names[RUN_PARTS] = {
	[RUN_SETUP] = "setup",           [RUN_TRAIN] = "train",   [RUN_EVALUATE] = "evaluate",
	[RUN_CHECKPOINT] = "checkpoint", [RUN_EXPORT] = "export", [RUN_GENERATE] = "generate",
};

int metrics_open(struct run *run, struct err *err)
{
	const char *path = run->config.log.file;
	int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;

	run->metrics.losses.stride = 1;
	if (!path || run->rank != 0)
		return 0;
	run->metrics.fd = open(path, flags | (run->job.resume ? 0 : O_TRUNC), 0666);
	if (run->metrics.fd < 0)
		return err_set(err, ERR_CANTCREAT, "log.file: %s: %s", path, err_str(-errno));
	return 0;
}

void metrics_close(struct run *run)
{
	if (run->metrics.fd >= 0)
		close(run->metrics.fd);
	run->metrics.fd = -1;
}

int metrics_refresh(struct run *run, bool now, struct err *err)
{
	struct metrics *m = &run->metrics;
	double at = run_now();
	int rc;

	if (!now && at < m->mine_at + REFRESH_SECONDS)
		return 0;
	rc = engine_stats(run->engine, &m->mine, err);
	m->mine_at = at;
	return rc;
}

void metrics_tiers_add(struct tiers *sum, const struct engine_stats *s)
{
	if (s->device_used_bytes > sum->device_bytes)
		sum->device_bytes = s->device_used_bytes;
	sum->device_in_bytes += s->device_in_bytes;
	sum->device_out_bytes += s->device_out_bytes;
	sum->comm_bytes += s->comm_bytes;
	sum->host_bytes += s->daemon.memory_bytes;
	sum->swap_bytes += s->daemon.swap_bytes;
	sum->swap_read_bytes += s->daemon.swap_read_bytes;
	sum->swap_written_bytes += s->daemon.swap_written_bytes;
	sum->swap_handed_bytes += s->daemon.swap_handed_bytes;
	sum->swap_dropped_bytes += s->daemon.swap_dropped_bytes;
}

static void losses_add(struct losses *l, uint64_t step, double loss)
{
	if (step != 1 && step % l->stride)
		return;
	if (l->count == LOSSES_MAX) {
		size_t kept = 0;

		l->stride *= 2;
		for (size_t i = 0; i < l->count; i++)
			if (l->steps[i] == 1 || l->steps[i] % l->stride == 0) {
				l->steps[kept] = l->steps[i];
				l->losses[kept++] = l->losses[i];
			}
		l->count = kept;
		if (step % l->stride)
			return;
	}
	l->steps[l->count] = step;
	l->losses[l->count++] = loss;
}

/* What has happened since the last look. */
struct rates {
	double tokens, device, swap_read, swap_write; /* per second */
};

static struct rates rates_since(const struct metrics *m, double at)
{
	const struct tiers *now = &m->tiers, *then = &m->last_tiers;
	const double seconds = at - m->last_at, train = m->seconds[RUN_TRAIN] - m->last_train;

	if (seconds <= 0 || train <= 0)
		return (struct rates){0};
	return (struct rates){
		/* Evaluation and checkpoints in between are no reason to call training slow. */
		.tokens = (double)(m->tokens - m->last_tokens) / train,
		.device = (double)(now->device_in_bytes - then->device_in_bytes +
				   now->device_out_bytes - then->device_out_bytes) /
			  seconds,
		.swap_read = (double)(now->swap_read_bytes - then->swap_read_bytes) / seconds,
		.swap_write =
			(double)(now->swap_written_bytes - then->swap_written_bytes) / seconds,
	};
}

/* "step 120/600  loss 1.7345  21500 tokens/s  ETA 1m02s  device 0.4 GB/s ..." */
static char *step_line(const struct run *run, const struct metrics_step *s, const struct rates *r)
{
	const uint64_t steps = run->config.schedule.steps, done = s->step - run->resumed_from;
	const double spent = run->metrics.seconds[RUN_TRAIN];
	char eta[UNITS_TEXT_BYTES], tiers[128] = "", *line;
	double left = spent / (double)done * (double)(steps - s->step);
	int n = 0;

	if (run->plan->needs_daemon)
		n = snprintf(tiers, sizeof(tiers), "  host %.2f GB/s", r->device / 1e9);
	if (run->plan->needs_swap)
		snprintf(tiers + n, sizeof(tiers) - (size_t)n, "  nvme %.2f read %.2f write GB/s",
			 r->swap_read / 1e9, r->swap_write / 1e9);
	if (asprintf(&line, "step %" PRIu64 "/%" PRIu64 "  loss %.4f  %.0f tokens/s  ETA %s%s",
		     s->step, steps, s->loss, r->tokens,
		     units_format_duration(eta, (uint64_t)(left * 1e9)), tiers) < 0)
		return NULL;
	return line;
}

static int write_line(const struct metrics *m, struct json *j, const char *path, struct err *err)
{
	const char *text = json_text(j);
	char *line = NULL;
	int rc = 0;

	if (!text || asprintf(&line, "%s\n", text) < 0)
		rc = err_sys(err, -ENOMEM, "log.file");
	else if (file_write_all(m->fd, line, strlen(line), err) < 0)
		rc = err_add(err, "log.file: %s", path);
	if (line)
		free(line);
	json_done(j);
	return rc;
}

static void tiers_json(struct json *j, const struct tiers *t)
{
	json_u64(j, "device_in_bytes", t->device_in_bytes);
	json_u64(j, "device_out_bytes", t->device_out_bytes);
	json_u64(j, "comm_bytes", t->comm_bytes);
	json_u64(j, "nvme_read_bytes", t->swap_read_bytes);
	json_u64(j, "nvme_written_bytes", t->swap_written_bytes);
}

static int log_step(struct run *run, const struct metrics_step *s, const struct rates *r,
		    struct err *err)
{
	struct json j;

	if (run->metrics.fd < 0)
		return 0;
	json_init(&j);
	json_object_begin(&j, NULL);
	json_u64(&j, "step", s->step);
	json_double(&j, "loss", s->loss);
	json_double(&j, "lr", s->lr);
	json_double(&j, "grad_norm", s->grad_norm);
	json_double(&j, "tokens_per_s", r->tokens);
	json_double(&j, "seconds", run_now() - run->started_at);
	tiers_json(&j, &run->metrics.tiers);
	json_object_end(&j);
	return write_line(&run->metrics, &j, run->config.log.file, err);
}

static int report_line(struct run *run, enum report_type type, const struct metrics_step *s,
		       const struct rates *r, struct err *err)
{
	char *line = step_line(run, s, r);
	int rc = line ? report_write(run->report_fd, type, line, err)
		      : err_sys(err, -ENOMEM, "progress");

	free(line);
	return rc;
}

int metrics_step(struct run *run, const struct metrics_step *s, struct err *err)
{
	struct metrics *m = &run->metrics;
	const struct train_config *c = &run->config;
	double now = run_now();
	struct rates r;
	int rc = 0;

	if (!m->have_loss) {
		m->first_loss = s->loss;
		m->last_at = run->started_at + m->seconds[RUN_SETUP];
	}
	m->have_loss = true;
	m->last_loss = s->loss;
	m->tokens += c->batch.global * c->data.sequence;
	losses_add(&m->losses, s->step, s->loss);
	if (run->rank != 0)
		return 0;
	r = rates_since(m, now);
	if (now >= m->live_at + LIVE_SECONDS) {
		rc = report_line(run, REPORT_LIVE, s, &r, err);
		m->live_at = now;
	}
	if (s->step % c->log.every && s->step != c->schedule.steps)
		return rc;
	if (!rc)
		rc = report_line(run, REPORT_STEP, s, &r, err);
	if (!rc)
		rc = log_step(run, s, &r, err);
	m->last_at = now;
	m->last_train = m->seconds[RUN_TRAIN];
	m->last_tokens = m->tokens;
	m->last_tiers = m->tiers;
	return rc;
}

int metrics_validation(struct run *run, double loss, struct err *err)
{
	struct metrics *m = &run->metrics;
	struct json j;
	int rc;

	m->have_validation = true;
	m->validation_loss = loss;
	rc = run_note(run, err, "step %" PRIu64 ": validation loss %.4f", run->state.step, loss);
	if (rc < 0 || m->fd < 0)
		return rc;
	json_init(&j);
	json_object_begin(&j, NULL);
	json_u64(&j, "step", run->state.step);
	json_double(&j, "validation_loss", loss);
	json_object_end(&j);
	return write_line(m, &j, run->config.log.file, err);
}

/* Everybody's figures as they are now. */
static int gather(struct run *run, struct err *err)
{
	struct engine_stats *all = calloc(run->world, sizeof(*all));
	struct tiers tiers = {0};
	int rc = all ? metrics_refresh(run, true, err) : err_sys(err, -ENOMEM, "summary");

	if (!rc)
		rc = engine_exchange(run->engine, &run->metrics.mine, sizeof(*all), all, err);
	for (unsigned r = 0; !rc && r < run->world; r++)
		metrics_tiers_add(&tiers, &all[r]);
	free(all);
	if (!rc)
		run->metrics.tiers = tiers;
	return rc;
}

static int note_tiers(struct run *run, struct err *err)
{
	const struct tiers *t = &run->metrics.tiers;
	char a[UNITS_TEXT_BYTES], b[UNITS_TEXT_BYTES], c[UNITS_TEXT_BYTES], d[UNITS_TEXT_BYTES];
	int rc = run_note(run, err,
			  "device: %s at the peak on each of %u (budget %s), %s in, %s out",
			  units_format_bytes(a, t->device_bytes), run->world,
			  units_format_bytes(b, run->config.device.memory),
			  units_format_bytes(c, t->device_in_bytes),
			  units_format_bytes(d, t->device_out_bytes));

	if (!rc && run->plan->needs_daemon)
		rc = run_note(run, err, "host:   %s at the peak (budget %s)",
			      units_format_bytes(a, t->host_bytes),
			      units_format_bytes(b, run->config.host.memory));
	if (!rc && run->plan->needs_swap)
		rc = run_note(run, err, "nvme:   %s at the peak, %s read, %s written",
			      units_format_bytes(a, t->swap_bytes),
			      units_format_bytes(b, t->swap_read_bytes),
			      units_format_bytes(c, t->swap_written_bytes));
	return rc;
}

static void summary_tiers(const struct run *run, struct json *j)
{
	const struct tiers *t = &run->metrics.tiers;

	json_object_begin(j, "tiers");
	json_object_begin(j, "device");
	json_u64(j, "peak_bytes", t->device_bytes);
	json_u64(j, "budget_bytes", run->config.device.memory);
	json_u64(j, "in_bytes", t->device_in_bytes);
	json_u64(j, "out_bytes", t->device_out_bytes);
	json_object_end(j);
	json_object_begin(j, "host");
	json_u64(j, "peak_bytes", t->host_bytes);
	json_u64(j, "budget_bytes", run->config.host.memory);
	json_object_end(j);
	json_object_begin(j, "nvme");
	json_u64(j, "peak_bytes", t->swap_bytes);
	json_u64(j, "read_bytes", t->swap_read_bytes);
	json_u64(j, "written_bytes", t->swap_written_bytes);
	json_u64(j, "handed_bytes", t->swap_handed_bytes);
	json_u64(j, "dropped_bytes", t->swap_dropped_bytes);
	json_object_end(j);
	json_object_begin(j, "comm");
	json_u64(j, "moved_bytes", t->comm_bytes);
	json_object_end(j);
	json_object_end(j);
}

static void summary_seconds(const struct run *run, struct json *j)
{
	const struct metrics *m = &run->metrics;

	json_object_begin(j, "seconds");
	json_double(j, "total", run_now() - run->started_at);
	for (size_t i = 0; i < RUN_PARTS; i++)
		json_double(j, part_names[i], m->seconds[i]);
	/* Of rank 0: how busy its streams were, and what its thread waited for. */
	json_double(j, "busy_compute", m->mine.compute_seconds);
	json_double(j, "busy_comm", m->mine.comm_seconds);
	json_double(j, "busy_copy", m->mine.copy_seconds);
	json_double(j, "wait_fetch", m->mine.wait_fetch_seconds);
	json_double(j, "wait_grad", m->mine.wait_grad_seconds);
	json_object_end(j);
}

static void summary_losses(const struct metrics *m, struct json *j)
{
	if (m->have_loss) {
		json_double(j, "first_loss", m->first_loss);
		json_double(j, "last_loss", m->last_loss);
	}
	if (m->have_validation)
		json_double(j, "validation_loss", m->validation_loss);
	/* [step, loss] */
	json_array_begin(j, "losses");
	for (size_t i = 0; i < m->losses.count; i++) {
		json_array_begin(j, NULL);
		json_u64(j, NULL, m->losses.steps[i]);
		json_double(j, NULL, m->losses.losses[i]);
		json_array_end(j);
	}
	json_array_end(j);
}

static void summary_sample(const struct metrics *m, struct json *j)
{
	char text[SAMPLE_BYTES_MAX];

	if (!m->sample)
		return;
	snprintf(text, sizeof(text), "%s", m->sample);
	json_string(j, "sample", text);
}

static int report_summary(struct run *run, struct err *err)
{
	const struct metrics *m = &run->metrics;
	double train = m->seconds[RUN_TRAIN];
	struct json j;
	int rc;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_string(&j, "status", run->stopping ? "stopped" : "complete");
	json_u64(&j, "steps", run->state.step);
	json_u64(&j, "resumed_from", run->resumed_from);
	json_u64(&j, "params", run->arch->params);
	json_double(&j, "flops_per_token", run->arch->flops_per_token);
	json_u64(&j, "world", run->world);
	json_u64(&j, "tokens", m->tokens);
	json_double(&j, "tokens_per_s", train > 0 ? (double)m->tokens / train : 0);
	summary_losses(m, &j);
	summary_tiers(run, &j);
	summary_seconds(run, &j);
	summary_sample(m, &j);
	json_object_end(&j);
	rc = json_text(&j) ? report_write(run->report_fd, REPORT_SUMMARY, json_text(&j), err)
			   : err_sys(err, -ENOMEM, "summary");
	json_done(&j);
	return rc;
}

int metrics_finish(struct run *run, struct err *err)
{
	int rc = gather(run, err);

	if (!rc && run->rank == 0)
		rc = note_tiers(run, err);
	if (!rc && run->rank == 0)
		rc = report_summary(run, err);
	return rc;
}
