/*
 * The training loop. Called by the worker's main thread, on all ranks in step.
 *
 * 1. Sequence b of a global batch goes to micro-batch b / (micro * world), rank (b / micro) %
 *    world: which sequences a step sees does not depend on the world size.
 * 2. A step's loss is known, and found finite on every rank, before any optimizer state changes.
 *    Where nothing needs the gradient's norm, steps run during backward and this holds but for
 *    them; the job ends either way, and no checkpoint is written.
 * 3. Stopping is agreed in the same exchange: all ranks stop behind the same step.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/log.h"
#include "worker/internal.h"

/* What ranks tell each other each step. */
struct step_word {
	double loss_sum;
	uint32_t stop, pad;
	struct engine_stats stats;
};

static bool signal_pending(struct run *run)
{
	struct signalfd_siginfo info;
	ssize_t n = read(run->signal_fd, &info, sizeof(info));

	if (n == (ssize_t)sizeof(info))
		log_info("worker", "signal %u: stopping after this step", info.ssi_signo);
	return n == (ssize_t)sizeof(info);
}

/* The step's micro-batch number `micro` of this rank. */
static int micro_batch(struct run *run, void *arg, uint64_t micro, struct gpt2_pass *ret,
		       struct err *err)
{
	const struct train_config *c = &run->config;
	const uint64_t seq = c->data.sequence, rows = c->batch.micro;
	uint64_t first = run->state.sequences + (micro * run->world + run->rank) * rows;
	struct gpt2_pass pass = {
		.batch = rows,
		.seq = seq,
		.first = micro == 0,
		.grad_scale = (float)(1.0 / ((double)c->batch.global * (double)seq)),
		.loss_sum = micro + 1 == run->accumulation ? run->loss_sum : NULL,
	};
	uint32_t *ids, *targets;
	int rc = run_feed_take(run, &ids, &targets, err);

	(void)arg;
	for (uint64_t i = 0; !rc && i < rows; i++)
		rc = data_train_sequence(run->train, first + i, ids + i * seq, targets + i * seq,
					 err);
	if (rc < 0)
		return rc;
	pass.ids = ids;
	pass.targets = targets;
	*ret = pass;
	return 0;
}

/* Mean loss of the global batch; agrees on stopping. */
static int gather_loss(struct run *run, double *ret, struct err *err)
{
	const struct train_config *c = &run->config;
	struct step_word mine = {0}, *all;
	struct tiers tiers = {0};
	double sum = 0;
	int rc = run_result_wait(run, err);

	/* Log lines show what has moved up to now. */
	if (!rc)
		rc = metrics_refresh(run, (run->state.step + 1) % c->log.every == 0, err);
	if (rc < 0)
		return rc;
	all = calloc(run->world, sizeof(*all));
	if (!all)
		return err_sys(err, -ENOMEM, "the losses of %u ranks", run->world);
	mine.loss_sum = *run->loss_sum;
	mine.stop = signal_pending(run);
	mine.stats = run->metrics.mine;
	rc = engine_exchange(run->engine, &mine, sizeof(mine), all, err);
	for (unsigned r = 0; !rc && r < run->world; r++) {
		if (!isfinite(all[r].loss_sum)) {
			rc = err_set(err, ERR_DATA, "the loss of rank %u is not finite", r);
			break;
		}
		sum += all[r].loss_sum;
		run->stopping |= all[r].stop != 0;
		metrics_tiers_add(&tiers, &all[r].stats);
	}
	free(all);
	if (rc < 0)
		return rc;
	run->metrics.tiers = tiers;
	*ret = sum / ((double)c->batch.global * (double)c->data.sequence);
	return 0;
}

static int train_step(struct run *run, struct metrics_step *s, struct err *err)
{
	int rc = engine_step_begin(run->engine, s->step, s->lr, err);

	if (!rc)
		rc = run_train(run, micro_batch, NULL, err);
	if (!rc)
		rc = gather_loss(run, &s->loss, err);
	if (!rc)
		rc = engine_step_end(run->engine, &s->grad_norm, err);
	return rc;
}

static int save(struct run *run, struct err *err)
{
	struct checkpoint_job job = run_checkpoint_job(run);
	uint64_t began = trace_begin(run->trace.lane);
	double start = run_now();
	int rc = checkpoint_write(&job, &run->state, err);

	trace_end(run->trace.lane, TRACE_BUSY, "checkpoint", began, TRACE_NO_UNIT, 0);
	run->metrics.seconds[RUN_CHECKPOINT] += run_now() - start;
	if (rc < 0)
		return rc;
	return run_note(run, err, "step %ju: checkpoint written to %s", (uintmax_t)run->state.step,
			run->config.checkpoint.dir);
}

static int validate(struct run *run, struct err *err)
{
	uint64_t began = trace_begin(run->trace.lane);
	double loss, start = run_now();
	int rc = evaluate(run, &loss, err);

	trace_end(run->trace.lane, TRACE_BUSY, "evaluation", began, TRACE_NO_UNIT, 0);
	run->metrics.seconds[RUN_EVALUATE] += run_now() - start;
	return rc < 0 ? rc : metrics_validation(run, loss, err);
}

static bool due(uint64_t every, uint64_t step, bool last)
{
	return last || (every && step % every == 0);
}

int loop_run(struct run *run, struct err *err)
{
	const struct train_config *c = &run->config;
	int rc = 0;

	/* A finished run that is resumed has its validation loss still to tell. */
	if (run->state.step >= c->schedule.steps && run->validation)
		return validate(run, err);
	while (!rc && !run->stopping && run->state.step < c->schedule.steps) {
		struct metrics_step s = {.step = run->state.step + 1};
		double start = run_now();
		bool last;

		s.lr = train_config_lr(c, s.step);
		rc = run_trace_step_begin(run, err);
		if (!rc)
			rc = train_step(run, &s, err);
		if (!rc)
			rc = run_trace_step_end(run, s.step, err);
		if (rc < 0)
			return err_add(err, "step %ju", (uintmax_t)s.step);
		run->state.step = s.step;
		run->state.sequences += c->batch.global;
		run->metrics.seconds[RUN_TRAIN] += run_now() - start;
		rc = metrics_step(run, &s, err);
		last = s.step == c->schedule.steps;
		if (!rc && run->validation && !run->stopping &&
		    due(c->evaluate.every, s.step, last))
			rc = validate(run, err);
		if (!rc && c->checkpoint.dir &&
		    due(c->checkpoint.every, s.step, last || run->stopping))
			rc = save(run, err);
	}
	return rc;
}
