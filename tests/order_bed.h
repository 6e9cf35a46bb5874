/*
 * A small training job in this process: one engine and one thread a rank, real collectives, a real
 * daemon; for tests of how the engine orders what it does. The arithmetic is GPT-2's, the passes
 * and token buffers are worker/run.c's.
 */
#ifndef TESTS_ORDER_BED_H
#define TESTS_ORDER_BED_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/device.h"
#include "offload/train_config.h"
#include "tests/daemon_bed.h"
#include "tests/record_device.h"

#define ORDER_RANKS_MAX 2u

/* AdamW with moments in fp32, bf16, int8; and Lion, which has one. */
#define ORDER_FORMS 4u

struct order_setup {
	unsigned world, stage, accumulation, layers;
	bool layer_order;              /* schedule.order: layer */
	int activations;               /* enum placement */
	const char *param, *optimizer; /* as in train.yaml, "none" when NULL */
	unsigned form;                 /* of the optimizer, below ORDER_FORMS */
	bool clip, bf16;
	bool tight_device,
		tight_host; /* budgets at which every buffer is there as seldom as can be */
};

/* "stage 3, nvme/nvme/nvme, ...": static storage */
const char *order_setup_text(const struct order_setup *s);

#define ORDER_FIGURES_MAX 32u
/* Where in the figures step 4 begins, which is trained twice: norm, loss, and again. */
#define ORDER_STEP_4 8u

/* What came out: the same on every device and with every placement. */
struct order_result {
	int rc; /* of the first rank that failed, and why */
	struct err err;
	double figures[ORDER_FIGURES_MAX]; /* losses and norms, in order */
	size_t figure_count;
	/* master, m and v of all units at the end, and parameters as the next forward sees them */
	float *state;
	size_t state_count;
	uint8_t *params;
	size_t param_bytes;
	struct record_log *logs[ORDER_RANKS_MAX]; /* of recording devices */
};

/*
 * Trains: first weights in, evaluation, steps, state out and in again, more steps, units read. On
 * cpu devices when `schedule` is NULL, else on recording ones.
 */
void order_run(const struct order_setup *setup, const struct bed_daemon *daemon,
	       const struct record_schedule *schedule, struct order_result *ret);
void order_result_done(struct order_result *r);

/* NULL when both are the same bits, else what is not; static storage. */
const char *order_result_differs(const struct order_result *a, const struct order_result *b);

#endif
