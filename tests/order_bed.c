/*
 * One rank is one thread, which does what dsworker's main thread does. All ranks make the same
 * calls of the engine in the same order.
 */
#include "tests/order_bed.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/rng.h"
#include "common/shm.h"
#include "tests/record_names.h"
#include "worker/init.h"
#include "worker/internal.h"

#define SEED     11u
#define MICRO    2u
#define SEQUENCE 16u
#define VOCAB    64u
/* Passes in a row that nothing waits for: more than there are token buffers. */
#define EVALUATIONS (FEED_SLOTS + 1)

struct order_job {
	const struct order_setup *setup;
	const struct record_schedule *schedule;
	const char *socket;
	struct train_config config;
	struct conf_doc *doc;
	struct arch *arch;
	struct plan *plan;
	int comm_fd;
	pthread_mutex_t lock; /* of the result */
	struct order_result *result;
	size_t *state_at; /* of each unit in result->state, elements */
};

struct rank {
	struct order_job *job;
	unsigned index;
	struct run run;
	uint64_t sequences; /* drawn up to now */
	struct err err;
};

static const char *place_text(const char *place)
{
	return place ? place : "none";
}

static const char *const forms[ORDER_FORMS] = {
	"type: adamw",
	"moments: bf16",
	"moments: int8",
	"type: lion",
};

const char *order_setup_text(const struct order_setup *s)
{
	static char text[300];

	snprintf(
		text, sizeof(text),
		"world %u, stage %u, %s/%s/%s, %u layers, %u micro-batches%s, clip %d, %s, %s,%s%s",
		s->world, s->stage, place_text(s->param), place_text(s->optimizer),
		placement_name(s->activations), s->layers, s->accumulation,
		s->layer_order ? " by layer" : "", s->clip, forms[s->form],
		s->bf16 ? "bf16" : "fp32", s->tight_device ? " tight device" : "",
		s->tight_host ? " tight host" : "");
	return text;
}

/* The plan. */

static int config_parse(struct order_job *j, const struct bed_daemon *daemon, struct err *err)
{
	const struct order_setup *s = j->setup;
	char text[2048];
	int len = snprintf(text, sizeof(text),
			   "model: {layers: %u, hidden: 32, heads: 2, vocab: %u, context: %u}\n"
			   "data: {train: [a.bin]}\n"
			   "batch: {global: %u, micro: %u}\n"
			   "optimizer: {lr: 3e-3, %s, clip: %s}\n"
			   "schedule: {steps: 10, order: %s}\n"
			   "precision: %s\n"
			   "zero: {stage: %u, offload_param: %s, offload_optimizer: %s,"
			   " offload_activations: %s, prefetch: 2}\n"
			   "nvme: {paths: [%s], extent: 64KiB}\n"
			   "host: {memory: 64MiB}\n"
			   "device: {memory: 64MiB, count: %u}\n",
			   s->layers, VOCAB, SEQUENCE, MICRO * s->world * s->accumulation, MICRO,
			   forms[s->form], s->clip ? "0.5" : "0",
			   s->layer_order ? "layer" : "micro-batch", s->bf16 ? "bf16" : "fp32",
			   s->stage, place_text(s->param), place_text(s->optimizer),
			   placement_name(s->activations), daemon->swap[0], s->world);

	return train_config_parse("order", text, (size_t)len, &j->config, &j->doc, err);
}

/* Plans, and again with the least memory that would do, as long as that is refused by nobody. */
static int plan_tight(struct order_job *j, struct err *err)
{
	int rc = plan_make(&j->config, j->doc, j->arch, j->setup->world, &j->plan, err);

	for (int i = 0; i < 2 && rc == 0; i++) {
		struct train_config loose = j->config;
		struct plan *tight;

		if (j->setup->tight_device)
			j->config.device.memory = j->plan->device.least_bytes;
		if (j->setup->tight_host && j->plan->needs_daemon)
			j->config.host.memory = j->plan->host.least_bytes * j->setup->world;
		if (plan_make(&j->config, j->doc, j->arch, j->setup->world, &tight, err) < 0) {
			j->config = loose;
			return err->code == ERR_CONFIG ? 0 : err->code;
		}
		plan_free(j->plan);
		j->plan = tight;
	}
	return rc;
}

static int result_alloc(struct order_job *j, struct err *err)
{
	struct order_result *r = j->result;

	j->state_at = calloc(j->plan->unit_count + 1, sizeof(*j->state_at));
	if (!j->state_at)
		return err_sys(err, -ENOMEM, "results");
	for (size_t u = 0; u < j->plan->unit_count; u++)
		j->state_at[u + 1] = j->state_at[u] + j->plan->units[u].padded;
	r->state_count = 3 * j->state_at[j->plan->unit_count];
	r->param_bytes = j->state_at[j->plan->unit_count] * dtype_bytes(j->plan->param_type);
	r->state = calloc(r->state_count, sizeof(*r->state));
	r->params = calloc(r->param_bytes, 1);
	return r->state && r->params ? 0 : err_sys(err, -ENOMEM, "results");
}

static int job_open(struct order_job *j, const struct bed_daemon *daemon, struct err *err)
{
	int rc;

	pthread_mutex_init(&j->lock, NULL);
	if ((rc = config_parse(j, daemon, err)) < 0 ||
	    (rc = arch_make(&j->config, &j->arch, err)) < 0 || (rc = plan_tight(j, err)) < 0 ||
	    (rc = result_alloc(j, err)) < 0)
		return rc;
	rc = j->comm_fd = shm_create("order", comm_shm_bytes(j->setup->world), err);
	return rc < 0 ? rc : 0;
}

static void job_close(struct order_job *j)
{
	if (j->comm_fd >= 0)
		close(j->comm_fd);
	free(j->state_at);
	j->plan = plan_free(j->plan);
	j->arch = arch_free(j->arch);
	j->doc = conf_free(j->doc);
	pthread_mutex_destroy(&j->lock);
}

/* A rank. */

static int rank_open_engine(struct rank *r)
{
	struct order_job *j = r->job;
	struct run *run = &r->run;
	struct device_config device = {
		.type = j->schedule ? DEVICE_CUDA : DEVICE_CPU,
		.memory_bytes = j->config.device.memory,
		.threads = 1,
	};
	struct comm_config comm = {
		.rank = r->index, .world = j->setup->world, .shm_fd = j->comm_fd};
	struct engine_config engine = {
		.config = &j->config,
		.arch = j->arch,
		.plan = j->plan,
		.rank = r->index,
		.daemon_socket = j->plan->needs_daemon ? j->socket : NULL,
		.job = "order",
	};
	int rc;

	if (j->schedule)
		record_schedule_set(j->schedule);
	if ((rc = device_open(&device, &run->device, &r->err)) < 0 ||
	    (rc = comm_open(&comm, &run->comm, &r->err)) < 0)
		return rc;
	engine.device = run->device;
	engine.comm = run->comm;
	rc = engine_open(&engine, &run->engine, &r->err);
	if (rc == 0 && j->schedule)
		record_names(run->engine);
	return rc;
}

static int rank_open_feed(struct rank *r)
{
	struct run *run = &r->run;
	size_t tokens = run->gpt2.layout.tokens * sizeof(uint32_t);
	int rc = device_event_open(run->device, &run->result_ready, &r->err);

	run->micros = calloc(run->plan->micros, sizeof(*run->micros));
	run->loss_sum = calloc(1, sizeof(*run->loss_sum));
	for (unsigned i = 0; i < FEED_SLOTS && rc == 0; i++) {
		run->feed.ids[i] = calloc(1, tokens);
		run->feed.targets[i] = calloc(1, tokens);
		rc = device_event_open(run->device, &run->feed.copied[i], &r->err);
		if (rc == 0 && r->job->schedule)
			record_name_event(run->feed.copied[i], "feed.copied");
	}
	if (rc == 0 && r->job->schedule)
		record_name_event(run->result_ready, "result_ready");
	return rc;
}

static int rank_open(struct rank *r)
{
	struct run *run = &r->run;
	int rc;

	run->rank = r->index;
	run->world = r->job->setup->world;
	run->arch = r->job->arch;
	run->config = r->job->config;
	run->plan = r->job->plan;
	run->accumulation = r->job->setup->accumulation;
	if ((rc = rank_open_engine(r)) < 0)
		return rc;
	gpt2_init(&run->gpt2, &run->config, run->arch, r->job->plan->device.kept_blocks,
		  engine_compute(run->engine));
	if ((rc = rank_open_feed(r)) < 0)
		return rc;
	record_label("first weights");
	return init_engine(run->engine, run->arch, SEED, &r->err);
}

static void rank_close(struct rank *r)
{
	struct run *run = &r->run;

	record_label("closing");
	run->engine = engine_free(run->engine);
	if (run->device && r->job->schedule)
		r->job->result->logs[r->index] = record_log_take(run->device);
	run->comm = comm_free(run->comm);
	run->device = device_free(run->device);
	for (unsigned i = 0; i < FEED_SLOTS; i++) {
		free(run->feed.ids[i]);
		free(run->feed.targets[i]);
	}
	free(run->loss_sum);
	free(run->micros);
}

/* A loss or a norm, which all ranks know; rank 0 tells. */
static void figure(struct rank *r, double value)
{
	struct order_result *result = r->job->result;

	if (r->index == 0 && result->figure_count < ORDER_FIGURES_MAX)
		result->figures[result->figure_count++] = value;
}

/* What a pass over this sequence works on. */
static int fill(struct rank *r, bool first, bool last, uint64_t sequence, struct gpt2_pass *ret,
		struct err *err)
{
	struct run *run = &r->run;
	size_t tokens = run->gpt2.layout.tokens;
	struct gpt2_pass p = {
		.batch = MICRO,
		.seq = SEQUENCE,
		.first = first,
		.grad_scale = 1.0f / (float)(r->job->config.batch.global * SEQUENCE),
		.loss_sum = last ? run->loss_sum : NULL,
	};
	uint32_t *ids, *targets;
	int rc = run_feed_take(run, &ids, &targets, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < tokens; i++) {
		ids[i] = (uint32_t)rng_below(SEED, 1 + sequence, i, VOCAB);
		targets[i] = (uint32_t)rng_below(SEED, 1 + sequence, i + 1, VOCAB);
	}
	record_host_writes(ids, tokens * sizeof(*ids), "filling tokens");
	record_host_writes(targets, tokens * sizeof(*targets), "filling tokens");
	p.ids = ids;
	p.targets = targets;
	*ret = p;
	return 0;
}

/* The sum of all ranks' losses of the latest passes. */
static int loss(struct rank *r)
{
	struct run *run = &r->run;
	double all[ORDER_RANKS_MAX], sum = 0;
	int rc = run_result_wait(run, &r->err);

	if (rc < 0)
		return rc;
	record_host_reads(run->loss_sum, sizeof(*run->loss_sum), "reading the loss");
	rc = engine_exchange(run->engine, run->loss_sum, sizeof(*run->loss_sum), all, &r->err);
	for (unsigned i = 0; i < run->world && rc == 0; i++)
		sum += all[i];
	figure(r, sum);
	return rc;
}

static int evaluation(struct rank *r)
{
	struct gpt2_pass p;
	int rc = 0;

	for (unsigned i = 0; i < EVALUATIONS && rc == 0; i++) {
		rc = fill(r, i == 0, i + 1 == EVALUATIONS, 1000 + 2 * i + r->index, &p, &r->err);
		if (rc == 0)
			rc = run_pass(&r->run, &p, &r->err);
	}
	return rc < 0 ? rc : loss(r);
}

/* A micro-batch of step arg->step. */
struct step_of {
	struct rank *rank;
	uint64_t step;
};

static int micro_batch(struct run *run, void *arg, uint64_t micro, struct gpt2_pass *ret,
		       struct err *err)
{
	const struct step_of *s = arg;
	const uint64_t micros = run->accumulation;

	return fill(s->rank, micro == 0, micro + 1 == micros,
		    (s->step * micros + micro) * run->world + run->rank, ret, err);
}

/* Odd steps look at the loss before they end, as worker/loop.c does; the engine need not care. */
static int training(struct rank *r, uint64_t step)
{
	struct step_of arg = {.rank = r, .step = step};
	double norm;
	int rc = engine_step_begin(r->run.engine, step, 3e-3 / (double)step, &r->err);

	if (rc == 0)
		rc = run_train(&r->run, micro_batch, &arg, &r->err);
	if (rc == 0 && step % 2)
		rc = loss(r);
	if (rc == 0)
		rc = engine_step_end(r->run.engine, &norm, &r->err);
	if (rc == 0)
		figure(r, norm);
	return rc == 0 && step % 2 == 0 ? loss(r) : rc;
}

/* master, m and v of a unit in the result. */
static float *state_of(const struct order_job *j, size_t unit, unsigned part)
{
	return j->result->state + 3 * j->state_at[unit] + part * j->plan->units[unit].padded;
}

static int export(struct rank *r)
{
	struct order_job *j = r->job;
	int rc = 0;

	record_label("export");
	for (size_t u = 0; u < j->plan->unit_count; u++)
		for (size_t i = 0; i < engine_export_pieces(r->run.engine, u); i++) {
			struct engine_piece p;

			rc = engine_export(r->run.engine, u, i, &p, &r->err);
			if (rc < 0)
				return rc;
			memcpy(state_of(j, u, 0) + p.first, p.master, p.count * sizeof(float));
			memcpy(state_of(j, u, 1) + p.first, p.m, p.count * sizeof(float));
			if (p.v)
				memcpy(state_of(j, u, 2) + p.first, p.v, p.count * sizeof(float));
		}
	return rc;
}

/* What was exported, in again; all ranks have exported when this begins. */
static int import(struct rank *r)
{
	struct order_job *j = r->job;
	int rc = 0;

	record_label("import");
	for (size_t u = 0; u < j->plan->unit_count; u++)
		for (size_t i = 0; i < engine_import_pieces(r->run.engine, u); i++) {
			struct engine_piece p;

			rc = engine_import_begin(r->run.engine, u, i, &p, &r->err);
			if (rc < 0)
				return rc;
			memcpy(p.master, state_of(j, u, 0) + p.first, p.count * sizeof(float));
			memcpy(p.m, state_of(j, u, 1) + p.first, p.count * sizeof(float));
			if (p.v)
				memcpy(p.v, state_of(j, u, 2) + p.first, p.count * sizeof(float));
			rc = engine_import_end(r->run.engine, &p, &r->err);
			if (rc < 0)
				return rc;
		}
	return engine_import_done(r->run.engine, &r->err);
}

/*
 * Rank 0 wants every stride-th unit, the others come along, as for the export of weights. What
 * nobody wants is left on the device's streams when this returns.
 */
static int units_read(struct rank *r, size_t stride)
{
	struct order_job *j = r->job;
	size_t bytes = dtype_bytes(j->plan->param_type);
	int rc = 0;

	record_label("reading units");
	for (size_t u = 0; u < j->plan->unit_count && rc == 0; u++) {
		bool wanted = r->index == 0 && u % stride == 0;
		const void *unit;

		rc = engine_read_unit(r->run.engine, u, wanted ? &unit : NULL, &r->err);
		if (rc < 0 || !wanted)
			continue;
		record_host_reads(unit, j->plan->units[u].padded * bytes, "reading a unit");
		memcpy(j->result->params + j->state_at[u] * bytes, unit,
		       j->plan->units[u].padded * bytes);
	}
	return rc;
}

/* All ranks are here, as far as the host threads go. */
static int meet(struct rank *r)
{
	uint8_t mine = 0, all[ORDER_RANKS_MAX];
	int rc;

	/* The lock hands the results on: the collectives' memory is mapped once for each rank. */
	pthread_mutex_lock(&r->job->lock);
	pthread_mutex_unlock(&r->job->lock);
	rc = engine_exchange(r->run.engine, &mine, sizeof(mine), all, &r->err);
	pthread_mutex_lock(&r->job->lock);
	pthread_mutex_unlock(&r->job->lock);
	return rc;
}

static int rank_script(struct rank *r)
{
	int rc;

	if ((rc = evaluation(r)) < 0 || (rc = training(r, 1)) < 0 || (rc = training(r, 2)) < 0 ||
	    (rc = evaluation(r)) < 0 || (rc = units_read(r, 2)) < 0 || (rc = training(r, 3)) < 0 ||
	    (rc = export(r)) < 0 || (rc = training(r, 4)) < 0 || (rc = units_read(r, 2)) < 0 ||
	    (rc = meet(r)) < 0 || (rc = import(r)) < 0 || (rc = training(r, 4)) < 0 ||
	    (rc = training(r, 5)) < 0 || (rc = meet(r)) < 0 || (rc = export(r)) < 0 ||
	    (rc = units_read(r, 1)) < 0)
		return rc;
	record_label("the end");
	return engine_sync(r->run.engine, &r->err);
}

static void *rank_main(void *arg)
{
	struct rank *r = arg;
	struct order_job *j = r->job;
	int rc = rank_open(r);

	if (rc == 0)
		rc = rank_script(r);
	if (rc < 0) {
		/* At once: the other rank may wait for this one for ever. */
		fprintf(stderr, "rank %u: %s: %s\n", r->index, order_setup_text(j->setup),
			r->err.text);
		pthread_mutex_lock(&j->lock);
		if (j->result->rc == 0) {
			j->result->rc = rc;
			j->result->err = r->err;
		}
		pthread_mutex_unlock(&j->lock);
	}
	rank_close(r);
	return NULL;
}

void order_run(const struct order_setup *setup, const struct bed_daemon *daemon,
	       const struct record_schedule *schedule, struct order_result *ret)
{
	struct order_job j = {.setup = setup,
			      .schedule = schedule,
			      .socket = daemon->socket,
			      .comm_fd = -1,
			      .result = ret};
	struct rank *ranks = calloc(setup->world, sizeof(*ranks));
	pthread_t threads[ORDER_RANKS_MAX];
	int rc;

	*ret = (struct order_result){0};
	ck_assert_ptr_nonnull(ranks);
	rc = ret->rc = job_open(&j, daemon, &ret->err);
	for (unsigned i = 0; i < setup->world && rc == 0; i++) {
		ranks[i] = (struct rank){.job = &j, .index = i};
		ck_assert_int_eq(pthread_create(&threads[i], NULL, rank_main, &ranks[i]), 0);
	}
	for (unsigned i = 0; i < setup->world && rc == 0; i++)
		pthread_join(threads[i], NULL);
	free(ranks);
	job_close(&j);
}

void order_result_done(struct order_result *r)
{
	free(r->state);
	free(r->params);
	for (unsigned i = 0; i < ORDER_RANKS_MAX; i++)
		r->logs[i] = record_log_free(r->logs[i]);
}

const char *order_result_differs(const struct order_result *a, const struct order_result *b)
{
	static char text[300];

	if (a->figure_count != b->figure_count)
		return "another number of losses and norms";
	for (size_t i = 0; i < a->figure_count; i++)
		if (a->figures[i] != b->figures[i]) {
			snprintf(text, sizeof(text), "loss or norm %zu: %.17g, not %.17g", i,
				 a->figures[i], b->figures[i]);
			return text;
		}
	if (a->state_count != b->state_count ||
	    memcmp(a->state, b->state, a->state_count * sizeof(float)) != 0)
		return "optimizer state";
	if (a->param_bytes != b->param_bytes || memcmp(a->params, b->params, a->param_bytes) != 0)
		return "parameters";
	return NULL;
}
