/*
 * What passes cost on this job's devices, for a launcher that has to choose where state goes. A job
 * with `measure` set runs this instead of training: the model with so many blocks, everything on
 * the device, no data, no files. Called by dsworker's main thread, on all ranks in step; rank 0
 * reports medians as the summary.
 *
 * 1. Each part is timed between points at which nothing is under way, so parts add up; what
 *    training overlaps, it overlaps beside.
 * 2. All ranks make the same number of rounds: what the slowest needed for the first decides.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/json.h"
#include "worker/init.h"
#include "worker/internal.h"

#define SECONDS    0.5 /* of all rounds but the first */
#define ROUNDS_MIN 3u
#define ROUNDS_MAX 15u

enum part { PART_FORWARD, PART_PASS, PART_STEP, PART_COUNT };

/* Tokens of no meaning: what they are costs nothing. */
static int fill(struct run *run, void *arg, uint64_t micro, struct gpt2_pass *ret, struct err *err)
{
	const struct train_config *c = &run->config;
	const uint64_t tokens = c->batch.micro * c->data.sequence;
	struct gpt2_pass pass = {
		.batch = c->batch.micro,
		.seq = c->data.sequence,
		.first = true,
		.grad_scale = (float)(1.0 / ((double)c->batch.global * (double)c->data.sequence)),
		.loss_sum = run->loss_sum,
	};
	uint32_t *ids, *targets;
	int rc = run_feed_take(run, &ids, &targets, err);

	(void)arg;
	(void)micro;
	if (rc < 0)
		return rc;
	for (uint64_t i = 0; i < tokens; i++) {
		ids[i] = (uint32_t)(i * 7919 % c->model.vocab);
		targets[i] = (uint32_t)((i + 1) * 7919 % c->model.vocab);
	}
	pass.ids = ids;
	pass.targets = targets;
	*ret = pass;
	return 0;
}

static int forward(struct run *run, struct err *err)
{
	struct gpt2_pass pass;
	int rc = fill(run, NULL, 0, &pass, err);

	if (!rc)
		rc = run_pass(run, &pass, err);
	return rc ? rc : engine_sync(run->engine, err);
}

static int train(struct run *run, struct err *err)
{
	int rc = run_train(run, fill, NULL, err);

	return rc ? rc : engine_sync(run->engine, err);
}

/* One round: an evaluation's forward, a training pass, the optimizer. */
static int round_of(struct run *run, uint64_t step, double seconds[PART_COUNT], struct err *err)
{
	double norm, at[PART_COUNT + 1];
	int rc;

	at[0] = run_now();
	rc = forward(run, err);
	at[1] = run_now();
	if (!rc)
		rc = engine_step_begin(run->engine, step, 0, err);
	if (!rc)
		rc = train(run, err);
	at[2] = run_now();
	if (!rc)
		rc = engine_step_end(run->engine, &norm, err);
	if (!rc)
		rc = engine_sync(run->engine, err);
	at[3] = run_now();
	for (int i = 0; i < PART_COUNT; i++)
		seconds[i] = at[i + 1] - at[i];
	return rc;
}

/* How many rounds the slowest rank has time for. */
static int rounds_agree(struct run *run, double first, unsigned *ret, struct err *err)
{
	double *all = calloc(run->world, sizeof(*all)), slowest = 0;
	int rc = all ? engine_exchange(run->engine, &first, sizeof(first), all, err)
		     : err_sys(err, -ENOMEM, "measuring");

	for (unsigned r = 0; !rc && r < run->world; r++)
		slowest = all[r] > slowest ? all[r] : slowest;
	free(all);
	*ret = slowest * ROUNDS_MAX < SECONDS ? ROUNDS_MAX : (unsigned)(SECONDS / slowest);
	if (*ret < ROUNDS_MIN)
		*ret = ROUNDS_MIN;
	return rc;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int tell(struct run *run, double times[PART_COUNT][ROUNDS_MAX], unsigned rounds,
		struct err *err)
{
	static const char *const names[] = {"forward", "pass", "step"};
	struct json j;
	int rc;

	if (run->rank != 0)
		return 0;
	json_init(&j);
	json_object_begin(&j, NULL);
	for (int i = 0; i < PART_COUNT; i++) {
		qsort(times[i], rounds, sizeof(double), by_value);
		json_double(&j, names[i], times[i][rounds / 2]);
	}
	json_object_end(&j);
	rc = json_text(&j) ? report_write(run->report_fd, REPORT_SUMMARY, json_text(&j), err)
			   : err_sys(err, -ENOMEM, "summary");
	json_done(&j);
	return rc;
}

int measure_run(struct run *run, struct err *err)
{
	double times[PART_COUNT][ROUNDS_MAX], round[PART_COUNT];
	unsigned rounds = 0;
	int rc = init_engine(run->engine, run->arch, run->config.seed, err);

	/* The first touches memory that nothing has touched. */
	if (!rc)
		rc = round_of(run, 1, round, err);
	if (!rc)
		rc = round_of(run, 2, round, err);
	if (!rc)
		rc = rounds_agree(run, round[PART_FORWARD] + round[PART_PASS] + round[PART_STEP],
				  &rounds, err);
	for (unsigned n = 0; !rc && n < rounds; n++) {
		rc = round_of(run, 3 + n, round, err);
		for (int i = 0; !rc && i < PART_COUNT; i++)
			times[i][n] = round[i];
	}
	return rc ? rc : tell(run, times, rounds, err);
}
