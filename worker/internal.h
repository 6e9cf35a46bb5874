/* The run of one worker: private to this room. worker/run.c tells who does what. */
#ifndef WORKER_INTERNAL_H
#define WORKER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "common/conf.h"
#include "common/err.h"
#include "common/json.h"
#include "common/trace.h"
#include "kernels/device.h"
#include "offload/arch.h"
#include "offload/engine.h"
#include "offload/job.h"
#include "offload/plan.h"
#include "offload/train_config.h"
#include "worker/checkpoint.h"
#include "worker/data.h"
#include "worker/gpt2.h"

#define FEED_SLOTS 2u

/* Token buffers on their way to the device: one is filled while the other is read. */
struct feed {
	uint32_t *ids[FEED_SLOTS], *targets[FEED_SLOTS];
	struct device_event *copied[FEED_SLOTS];
	unsigned next;
};

/* What the run spends its time on. */
enum run_part {
	RUN_SETUP, /* model, data, devices, first weights or a checkpoint */
	RUN_TRAIN,
	RUN_EVALUATE,
	RUN_CHECKPOINT,
	RUN_EXPORT,
	RUN_GENERATE,
	RUN_PARTS,
};

/* Traffic and memory of all ranks together, as of their latest looks at it. */
struct tiers {
	uint64_t device_bytes; /* the largest of a rank */
	uint64_t device_in_bytes, device_out_bytes;
	uint64_t comm_bytes;
	uint64_t host_bytes, swap_bytes;
	uint64_t swap_read_bytes, swap_written_bytes;
	uint64_t swap_handed_bytes, swap_dropped_bytes; /* as struct protocol_stats */
};

#define LOSSES_MAX 1024u

/*
 * The losses that go into the summary: every stride-th step. When they are full every other one
 * goes and the stride doubles, so that the memory and the summary stay small.
 */
struct losses {
	uint64_t steps[LOSSES_MAX];
	double losses[LOSSES_MAX];
	size_t count;
	uint64_t stride;
};

struct metrics {
	int fd; /* of log.file; -1: none */
	struct losses losses;
	double first_loss, last_loss;
	double validation_loss;
	bool have_loss, have_validation;
	uint64_t tokens; /* trained on by this run, all ranks */
	double seconds[RUN_PARTS];
	double last_at; /* when the log's last line was made */
	double last_train;
	uint64_t last_tokens;
	struct tiers last_tiers;
	double live_at;
	struct engine_stats mine; /* refreshed now and then */
	double mine_at;
	struct tiers tiers;
	const char *sample; /* the generated text; NULL */
};

/* What `dsrun --trace` wants of this rank; all zero when nobody traces. */
struct run_trace {
	struct trace *recorder;
	struct trace_lane *lane; /* the driving thread's */
	uint64_t steps;          /* begun by this run */
	uint64_t step_began_ns;  /* 0: no step that is recorded is under way */
	char *text;              /* of a report */
};

struct run {
	unsigned rank, world;
	int report_fd, signal_fd, lock_fd;
	struct job job;
	struct conf_doc *job_doc;
	struct train_config config;
	struct conf_doc *config_doc;
	struct arch *arch;
	struct plan *plan;
	uint64_t accumulation;
	struct gpt2_pass *micros; /* plan->micros of them, of the pass in work */
	struct data *train, *validation;
	struct device *device;
	struct comm *comm;
	struct engine *engine;
	struct gpt2 gpt2;
	char *buffers; /* feed's, loss_sum and logits */
	struct feed feed;
	struct device_event *result_ready; /* the latest pass's loss or logits are in host memory */
	double *loss_sum;                  /* host memory the device writes */
	float *logits;
	struct checkpoint_state state;
	uint64_t resumed_from; /* step; 0: from the beginning */
	bool stopping;         /* agreed by all ranks: a user asked to stop */
	double started_at;
	struct metrics metrics;
	struct run_trace trace;
};

double run_now(void);

/* ---- run.c ---- */

/*
 * Reads the job and makes everything ready for the first step. On failure what is open stays
 * open, for the process to end with. run_close is for runs that went well: others may be waiting
 * in collectives for a rank that failed, so it must not wait for them.
 */
int run_open(struct run *run, struct err *err);
void run_close(struct run *run);

struct checkpoint_job run_checkpoint_job(struct run *run);

/* Buffers for the next pass, once the device has read what they held. */
int run_feed_take(struct run *run, uint32_t **ret_ids, uint32_t **ret_targets, struct err *err);

/* Enqueues a whole pass of evaluation with buffers from run_feed_take. */
int run_pass(struct run *run, const struct gpt2_pass *pass, struct err *err);

/* Sets what micro-batch `micro` of a step works on, with buffers from run_feed_take. */
typedef int run_micro_fn(struct run *run, void *arg, uint64_t micro, struct gpt2_pass *ret,
			 struct err *err);

/*
 * Enqueues the passes of a training step: run->accumulation micro-batches, plan->micros at a time
 * side by side. `fill` is called for each in turn, just before its first phase.
 */
int run_train(struct run *run, run_micro_fn *fill, void *arg, struct err *err);

/* Waits for the result of the last pass that asked for one. */
int run_result_wait(struct run *run, struct err *err);

/* Rank 0: a line for everybody. Others do nothing. */
int run_note(struct run *run, struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- loop.c ---- */

/* Trains from run->state to the end of the schedule or until asked to stop; evaluates and writes
 * checkpoints when due. */
int loop_run(struct run *run, struct err *err);

/* ---- measure.c ---- */

/* A job that measures, instead of training: see offload/job.h. */
int measure_run(struct run *run, struct err *err);

/* ---- trace.c ---- */

/* The recorder, when the job asks for one; before the engine opens. */
int run_trace_open(struct run *run, struct err *err);
void run_trace_close(struct run *run);

/* Around each step; recording begins and ends here, and what was recorded is reported. */
int run_trace_step_begin(struct run *run, struct err *err);
int run_trace_step_end(struct run *run, uint64_t step, struct err *err);

/* Now and then within a step: reports before a lane is full. */
int run_trace_relieve(struct run *run, struct err *err);

/* The run ends, or has failed, in the middle of what was to be recorded: reports what there is. */
int run_trace_finish(struct run *run, struct err *err);

/* ---- evaluate.c ---- */

/* Mean nats a token over the validation batches, the same on all ranks. Needs run->validation. */
int evaluate(struct run *run, double *ret, struct err *err);

/* ---- generate.c ---- */

/* Samples job.generate tokens behind the prompt, reports them, and leaves the text in *ret, which
 * the caller frees. */
int generate(struct run *run, char **ret, struct err *err);

/* ---- metrics.c ---- */

int metrics_open(struct run *run, struct err *err);
void metrics_close(struct run *run);

/* This rank's traffic, looked up when the last look is old or `now` is wanted. */
int metrics_refresh(struct run *run, bool now, struct err *err);
void metrics_tiers_add(struct tiers *sum, const struct engine_stats *stats);

struct metrics_step {
	uint64_t step;
	double loss, lr, grad_norm;
};

/* After each step: remembers, and reports what is due. */
int metrics_step(struct run *run, const struct metrics_step *step, struct err *err);
int metrics_validation(struct run *run, double loss, struct err *err);

/* All ranks, at the end: lines on each tier, and the summary. */
int metrics_finish(struct run *run, struct err *err);

#endif
