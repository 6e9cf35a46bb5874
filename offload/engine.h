/*
 * The ZeRO engine: runs a model's phases in order and makes sure that whatever a phase needs is in
 * device memory when its work runs: parameters fetched and gathered, activations loaded,
 * gradient buffers free; and that what it leaves behind goes where the plan says.
 *
 * The worker's thread drives it:
 *
 *	engine_step_begin(step, lr)
 *	for each pass: engine_pass_begin(ENGINE_TRAIN)
 *		for each phase of arch->train, for each micro-batch of the pass:
 *			engine_phase_begin -> enqueue on compute -> engine_phase_end
 *		engine_pass_end
 *	engine_step_end(&norm)
 *
 * A pass is of plan->micros micro-batches: of one, and then a step is so many passes; or of all
 * (schedule.order: layer), and then a unit is brought once a phase for all of them, and its
 * gradient leaves once. A pass of evaluation is always of one.
 *
 * All of it only enqueues, but for waits that the data path needs. engine.c tells how.
 */
#ifndef OFFLOAD_ENGINE_H
#define OFFLOAD_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "common/err.h"
#include "common/trace.h"
#include "kernels/device.h"
#include "offload/arch.h"
#include "offload/client.h"
#include "offload/plan.h"
#include "offload/protocol.h"
#include "offload/train_config.h"

struct engine;

struct engine_config {
	const struct train_config *config;
	const struct arch *arch;
	const struct plan *plan;
	struct device *device; /* borrowed, like everything here, until engine_free */
	struct comm *comm;
	unsigned rank;
	const char *daemon_socket; /* NULL when the plan needs none */
	const char *job;
	struct trace *trace;           /* NULL: nobody traces; outlives the device */
	struct trace_lane *trace_lane; /* of it, the driving thread's */
};

/* Allocates all device memory, opens the session. Parameters are undefined until imported. */
int engine_open(const struct engine_config *config, struct engine **ret, struct err *err);
struct engine *engine_free(struct engine *engine);

struct device_stream *engine_compute(struct engine *engine);

enum engine_pass { ENGINE_TRAIN, ENGINE_EVAL };

/* What a phase works on; device memory, valid for work enqueued before engine_phase_end. */
struct engine_io {
	const void *param; /* the unit's parameters, whole, plan->param_type */
	float *grad;       /* the unit's gradient, whole, fp32, zero before its first phase */
	const float *act_in;
	float *act_out;
	void *carry;     /* arch->carry_bytes, the micro-batch's own through all its phases */
	void *workspace; /* plan->device.workspace_bytes, the same in every phase */
	void *kept;      /* plan->device.kept_blocks times arch->kept_bytes, as carry */
};

/* `step` counts from 1. */
int engine_step_begin(struct engine *engine, uint64_t step, double lr, struct err *err);
int engine_pass_begin(struct engine *engine, enum engine_pass pass, struct err *err);
int engine_phase_begin(struct engine *engine, struct engine_io *ret, struct err *err);
int engine_phase_end(struct engine *engine, struct err *err);
int engine_pass_end(struct engine *engine, struct err *err);

/*
 * Starts the optimizer on every unit; does not wait for it. *ret_norm is the global gradient norm
 * before clipping, 0 where none is needed. ERR_DATA when it is not finite: nothing was stepped.
 */
int engine_step_end(struct engine *engine, double *ret_norm, struct err *err);

/* Waits until all enqueued work and all steps are done. */
int engine_sync(struct engine *engine, struct err *err);

/* Every rank's `bytes` (at most 4096) at `mine`, in rank order at `all`. Blocks. */
int engine_exchange(struct engine *engine, const void *mine, size_t bytes, void *all,
		    struct err *err);

/*
 * Optimizer state by piece, for initialisation and checkpoints. A piece is this rank's elements
 * [first, first + count) of a unit, positions within the whole padded unit. master, m, v are fp32,
 * whatever the form that moments have in the job; what is exported is imported as the same bits.
 * Exported pieces of all ranks together cover each element of each unit exactly once (at stage 0,
 * where ranks hold the same, each gives its partition); for import each rank sets all that it
 * holds, which at stage 0 is everything. All ranks walk the units in the same order, pieces from 0.
 */
struct engine_piece {
	size_t unit;
	uint64_t first, count;
	float *master, *m, *v; /* host memory, valid until the next call on a piece; v is NULL
				* where the optimizer has one moment */
};

size_t engine_export_pieces(const struct engine *engine, size_t unit);
int engine_export(struct engine *engine, size_t unit, size_t index, struct engine_piece *ret,
		  struct err *err);

/*
 * Import: engine_import_begin gives the piece with buffers to fill: all that are there need
 * values. engine_import_end stores it.
 */
size_t engine_import_pieces(const struct engine *engine, size_t unit);
int engine_import_begin(struct engine *engine, size_t unit, size_t index, struct engine_piece *ret,
			struct err *err);
int engine_import_end(struct engine *engine, struct engine_piece *piece, struct err *err);

/* After the last import: parameters are distributed to where phases take them from. */
int engine_import_done(struct engine *engine, struct err *err);

/*
 * Whole unit `unit` in plan->param_type as the next forward would see it, in host memory valid
 * until the next call. Every rank calls it for the same units; ret may be NULL where only others
 * want it.
 */
int engine_read_unit(struct engine *engine, size_t unit, const void **ret, struct err *err);

struct engine_stats {
	uint64_t device_used_bytes;
	uint64_t device_in_bytes, device_out_bytes; /* copied host to device and back */
	uint64_t comm_bytes;
	struct protocol_stats daemon;                       /* zero without one */
	double compute_seconds, comm_seconds, copy_seconds; /* streams busy */
	double wait_fetch_seconds, wait_grad_seconds;       /* the driving thread blocked */
};

int engine_stats(struct engine *engine, struct engine_stats *ret, struct err *err);

/*
 * For a trace: completes what the device has measured, and hands fn, piece by piece, what the
 * daemon has recorded of this session, which goes on (record) or stops. As client_trace.
 */
int engine_trace_take(struct engine *engine, bool record, client_trace_fn *fn, void *ctx,
		      struct err *err);

/* Engine and daemon's note for the user ("" when none): a fall-back of the swap engine. */
const char *engine_note(const struct engine *engine);

#endif
