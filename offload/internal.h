/*
 * The engine's private state, shared by engine*.c. See engine.c for the picture.
 */
#ifndef OFFLOAD_INTERNAL_H
#define OFFLOAD_INTERNAL_H

#include <stdatomic.h>

#include "kernels/optimizer.h"
#include "kernels/vector.h"
#include "offload/client.h"
#include "offload/engine.h"

/* No operation pending. Ids are small; see client_prepare. */
#define ENGINE_NO_ID UINT32_MAX

/*
 * Where the parameters of a unit stay between uses, as phases take them ("the replica"). When its
 * optimizer is offloaded and the replica is not the daemon's own copy (REPLICA_HOME), a step leaves
 * the replica stale until its next use refreshes it from there.
 */
enum replica {
	REPLICA_WHOLE,  /* device, whole unit: no offload, stage < 3 */
	REPLICA_PART,   /* device, this rank's partition: no offload, stage 3 */
	REPLICA_REGION, /* arena, param_elems: offloaded to the CPU */
	REPLICA_BLOB,   /* swap, param_elems, as a blob of the session */
	REPLICA_HOME,   /* the daemon's: stage 3, parameters and the unit's optimizer offloaded */
};

/* A fetch slot of the arena: parameters between swap and device. */
struct fetch_slot {
	uint64_t offset;           /* from the arena's start */
	struct device_event *free; /* the device has read, or written, what was asked for */
	int storing;               /* the unit whose STORE reads it, -1 */
	bool taken;                /* by a unit's fetch in flight */
};

/* A gather slot: device memory for one whole unit. */
struct gather_slot {
	char *mem;
	int unit;                   /* whose parameters it holds; -1: nobody's */
	uint64_t wanted;            /* the turn in which it was last brought */
	struct device_event *ready; /* whole and current */
	struct device_event *used;  /* compute has read it */
	struct device_event *saved; /* copied back to the replica */
};

/* A gradient slot of the arena, and what the copy-out stream sends off when it is full. */
struct grad_slot {
	uint64_t offset;
	int unit;
	uint32_t id;                 /* the operation that will free the slot */
	bool carries_norm;           /* its completion carries the unit's sum of squares */
	struct device_event *pushed; /* copy-out is through with what follows */
	struct client *client;
	struct protocol_submission push[2];
	unsigned push_count;
};

/* An fp32 gradient of one unit in work. */
struct grad_buffer {
	float *mem;
	int unit;
	struct device_event *free; /* reduced, may be zeroed for another */
};

struct part_buffer {
	float *mem;
	uint16_t *cast; /* NULL when gradients leave in fp32 */
	struct device_event *free;
};

struct act_buffer {
	float *mem;
	int act;
	uint64_t touched;           /* the count of uses at its latest */
	struct device_event *ready; /* loaded */
	struct device_event *used;  /* compute wrote or read it last */
	struct device_event *saved; /* copied out */
};

struct act_slot {
	uint64_t offset;
	int act;     /* what its STORE or LOAD is about, -1 */
	uint32_t id; /* STORE or LOAD in flight */
	struct device_event *free;
	struct client *client;
	struct protocol_submission push;
	bool taken; /* by a load in flight */
};

/* A blob's way out, pushed by the copy-out stream behind the copy; then replica_written. */
struct store {
	struct client *client;
	struct protocol_submission submission;
	int slot;
};

struct unit_state {
	enum replica replica;
	char *mem; /* REPLICA_WHOLE, REPLICA_PART: device memory */
	bool stale;
	bool fetching;  /* operation fetch_id brings it into the arena */
	int fetch_slot; /* -1: straight from the arena */
	uint32_t fetch_id;
	uint64_t fetch_offset;
	uint32_t store_id; /* a STORE that a later LOAD must wait for */
	struct store store;
	struct device_event *replica_written; /* device -> REPLICA_REGION */
	uint32_t step_id;                     /* the last STEP */
	uint32_t prepare_id;                  /* the last PREPARE */
	double sumsq;                         /* of this rank's norm range */
	/* optimizer on the device */
	void *grad;
	char *state; /* of opt_elems: optimizer_state_at */
	double *blocks;
	struct grad_buffer
		*grad_shared; /* its own, for grad_shared units: one for each of micros */
};

/* Of one activation of one micro-batch. */
struct act_state {
	int buffer;                 /* the device buffer that holds it, -1 */
	int slot;                   /* the slot of its LOAD in flight, -1 */
	bool made;                  /* in this pass */
	struct device_event *saved; /* copied out */
};

/* As a trace shows a phase. */
struct phase_name {
	char text[72];
};

struct engine {
	const struct train_config *config;
	const struct arch *arch;
	const struct plan *plan;
	struct device *device;
	struct comm *comm;
	struct client *client;
	unsigned rank, world;
	char *arena;
	uint64_t arena_bytes, data_offset;
	size_t param_bytes, grad_bytes; /* of an element in use; of a reduced gradient leaving */

	struct device_stream *compute, *comm_stream, *copy_in, *copy_out;
	struct device_event *phase_done;               /* compute, end of the latest phase */
	struct device_event *arrived, *reduced;        /* hand-overs between streams */
	struct device_event *mark_compute, *mark_comm; /* end of the latest step */

	struct unit_state *units;
	struct gather_slot *gather_slots;
	struct fetch_slot *fetch_slots;
	struct grad_slot *grad_slots;
	struct grad_buffer *grad_buffers;
	struct part_buffer *part_buffers;
	struct act_buffer *act_buffers;
	struct act_slot *act_slots;
	struct act_state *acts;
	size_t grad_slot_next, grad_next, part_next;
	struct part_buffer *sum; /* of the unit whose micro-batches are being added up */
	uint64_t gather_turn, act_turn;
	char *carry, *workspace, *kept, *exchange_mine, *exchange_all;

	/* the pass in work */
	const struct arch_phase *phases;
	size_t phase_count, phase;
	enum engine_pass pass;
	bool wraps;           /* another pass like this follows before the step */
	size_t width, column; /* micro-batches side by side; which of them the phase is for */
	uint64_t micro;       /* of the step */
	uint64_t step;
	double lr;
	bool prepared; /* the daemon knows which STEPs will come first */

	/* pieces */
	char *staging;
	uint32_t transfer_id[2];
	size_t transfer_next;
	int piece_transfer;
	void *read_buffer;

	uint64_t in_bytes, out_bytes;
	double wait_fetch_seconds, wait_grad_seconds;

	struct trace_lane *trace_lane;  /* the driving thread's; NULL: nobody traces */
	struct phase_name *phase_names; /* of training, then of evaluation; NULL: nobody traces */
};

static inline size_t engine_align(size_t bytes)
{
	return (bytes + DEVICE_ALIGN - 1) / DEVICE_ALIGN * DEVICE_ALIGN;
}

/* Where this rank's opt_elems of unit u begin within the whole unit. */
static inline uint64_t unit_first(const struct engine *e, size_t u)
{
	return e->plan->stage >= 1 ? e->rank * e->plan->units[u].partition : 0;
}

/* Where this rank's opt_elems of unit u begin within the model. */
static inline uint64_t unit_position(const struct engine *e, size_t u)
{
	return e->plan->units[u].position + unit_first(e, u);
}

/* The state from element `first` on, in memory that holds that of `total`. */
static inline struct optimizer_state engine_state_at(const struct engine *e, void *mem,
						     uint64_t total, uint64_t first)
{
	const struct plan *p = e->plan;

	return optimizer_state_at(p->kind, p->moments, p->param_type, mem, total, first);
}

/* Is unit u's optimizer the daemon's? */
static inline bool unit_offloaded(const struct engine *e, size_t u)
{
	return plan_unit_offloaded(&e->plan->units[u]);
}

/* How many of this rank's opt_elems, the first ones, are decayed. */
static inline uint64_t unit_decay(const struct engine *e, size_t u)
{
	uint64_t first = unit_first(e, u), decay = e->arch->units[u].decay_elems;
	uint64_t count = e->plan->units[u].opt_elems;

	if (decay <= first)
		return 0;
	return decay - first < count ? decay - first : count;
}

/* Where, within this rank's opt_elems, the partition begins whose squares it sums. */
static inline uint64_t unit_norm_first(const struct engine *e, size_t u)
{
	return e->rank * e->plan->units[u].partition - unit_first(e, u);
}

/* client_wait for *id when one is pending, and forgets it. */
int engine_settle(struct engine *e, uint32_t *id, struct protocol_completion *ret, struct err *err);

/* engine_trace.c: what a trace shows of the engine. */

int engine_trace_open(struct engine *e, const struct engine_config *config, struct err *err);
/* Around what a phase has on the compute stream. */
void engine_trace_phase_begin(struct engine *e);
void engine_trace_phase_end(struct engine *e);
/*
 * The driving thread has waited for `what`, about `unit` (-1: none), from trace_now_ns's began_ns
 * until now. *seconds, unless it is NULL, grows by that.
 */
void engine_waited(struct engine *e, double *seconds, const char *what, int unit,
		   uint64_t began_ns);

/* engine_param.c: parameters in. */

/* Starts what brings unit u into the arena, if that is needed; 0 also when no slot is free. */
int unit_fetch(struct engine *e, int u, bool must, struct err *err);
/* Fetches ahead of the phase in work, as far as slots and prefetch allow. */
int units_fetch_ahead(struct engine *e, struct err *err);
/*
 * Enqueues what makes unit u whole in device memory. *ret_slot is the gather slot, -1 when the
 * unit is resident; blocks until its bytes are in the arena.
 */
int unit_bring(struct engine *e, int u, int *ret_slot, struct err *err);
/*
 * The same for this rank's partition only, at its place within the slot: for a unit whose replica
 * is in the arena or a blob, not stale, and a partition. The slot is then nobody's, but its `ready`
 * is recorded.
 */
int unit_bring_part(struct engine *e, int u, int *ret_slot, struct err *err);
/* Device memory of a unit that was brought. */
char *unit_mem(struct engine *e, int u, int slot);
/* Makes later work on `stream` wait until the brought unit is there. */
void unit_await(struct engine *e, int u, int slot, struct device_stream *stream);
/* Copies `elems` parameters from device memory back to the unit's region or blob. */
int unit_write_back(struct engine *e, int u, int slot, struct err *err);

/* engine_grad.c: gradients out, and the step. */

int grad_begin(struct engine *e, int u, float **ret, struct err *err);
int grad_end(struct engine *e, int u, struct err *err);
/*
 * Tells the daemon, once a step, which STEPs the next forward will wait for first, so that it can
 * read ahead. Nothing happens as long as gradients of units before `u` need chunk buffers.
 */
int steps_prepare(struct engine *e, size_t u, struct err *err);

/*
 * After the partition of unit u in (gather slot `slot`, or resident) was changed on the compute
 * stream: gathers the whole where ranks hold parts of the state, and writes it back.
 */
int unit_spread(struct engine *e, int u, int slot, struct err *err);

/* engine_act.c: checkpointed activations. */

int act_begin(struct engine *e, const struct arch_phase *phase, struct engine_io *io,
	      struct err *err);
int act_end(struct engine *e, const struct arch_phase *phase, struct err *err);
int acts_load_ahead(struct engine *e, struct err *err);
int acts_reset(struct engine *e, struct err *err);

#endif
