/*
 * Evaluation: the mean loss over the first evaluate.batches global batches of validation windows,
 * or all there are. Called by the worker's main thread, on all ranks in step.
 *
 * 1. Groups of batch.micro windows go round the ranks; the last group may be smaller. A rank
 *    without a group in the last round runs a pass all the same, since the others gather with it.
 * 2. Sums are added in rank order, in double: the result is the same on all ranks.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "worker/internal.h"

static uint64_t window_count(const struct run *run)
{
	uint64_t all = data_validation_windows(run->validation);
	uint64_t batches = run->config.evaluate.batches, global = run->config.batch.global;

	return batches < all / global ? batches * global : all;
}

/* Windows [first, first + rows) of this rank; rows 0: no loss. */
static int group(struct run *run, uint64_t first, uint64_t rows, bool first_round, bool last_round,
		 struct err *err)
{
	const uint64_t seq = run->config.data.sequence;
	struct gpt2_pass pass = {
		.batch = rows ? rows : 1,
		.seq = seq,
		.first = first_round,
		.loss_sum = last_round ? run->loss_sum : NULL,
	};
	uint32_t *ids, *targets;
	int rc = run_feed_take(run, &ids, &targets, err);

	for (uint64_t i = 0; !rc && i < pass.batch; i++)
		rc = data_validation_sequence(run->validation, rows ? first + i : 0, ids + i * seq,
					      targets + i * seq, err);
	if (rc < 0)
		return rc;
	pass.ids = ids;
	pass.targets = rows ? targets : NULL;
	return run_pass(run, &pass, err);
}

int evaluate(struct run *run, double *ret, struct err *err)
{
	const uint64_t windows = window_count(run), micro = run->config.batch.micro;
	const uint64_t groups = (windows + micro - 1) / micro;
	const uint64_t rounds = (groups + run->world - 1) / run->world;
	double sum = 0, *all;
	int rc = 0;

	for (uint64_t i = 0; !rc && i < rounds; i++) {
		uint64_t first = (i * run->world + run->rank) * micro;
		uint64_t left = first < windows ? windows - first : 0;

		rc = group(run, first, left < micro ? left : micro, i == 0, i + 1 == rounds, err);
	}
	if (!rc)
		rc = run_result_wait(run, err);
	if (rc < 0)
		return err_add(err, "evaluation");
	all = calloc(run->world, sizeof(*all));
	if (!all)
		return err_sys(err, -ENOMEM, "evaluation");
	rc = engine_exchange(run->engine, run->loss_sum, sizeof(*run->loss_sum), all, err);
	for (unsigned r = 0; !rc && r < run->world; r++)
		sum += all[r];
	free(all);
	if (rc < 0)
		return err_add(err, "evaluation");
	sum /= (double)windows * (double)run->config.data.sequence;
	if (!isfinite(sum))
		return err_set(err, ERR_DATA, "step %ju: the validation loss is not finite",
			       (uintmax_t)run->state.step);
	*ret = sum;
	return 0;
}
