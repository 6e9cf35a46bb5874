/*
 * The plan: what every tier holds, worked out before anything starts, and the only source of every
 * buffer size. The engine allocates what the plan says, the daemon is asked for what the plan says,
 * so prediction and truth cannot drift apart.
 *
 * Words. A unit is padded to `padded` elements, `world` partitions of `partition` elements. With
 * ZeRO stage >= 1 gradients and optimizer state of a unit are one partition a rank, else whole;
 * with stage 3 parameters too. (Gradients are reduced unit by unit at every stage, in one order, so
 * that stages give the same bits; holding them whole at stage 1 would then buy nothing.)
 */
#ifndef OFFLOAD_PLAN_H
#define OFFLOAD_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/err.h"
#include "common/json.h"
#include "kernels/dtype.h"
#include "kernels/optimizer.h"
#include "offload/arch.h"
#include "offload/train_config.h"

/* Chunk buffers that make a pipeline: a read, a step, a write, and one that changes hands. */
#define PLAN_CHUNKS_LEAST 4u

struct plan_unit {
	uint64_t elems, padded, partition;
	uint64_t opt_elems;   /* of this rank's gradient and optimizer state */
	uint64_t param_elems; /* of this rank's parameters between uses */
	uint64_t position;    /* of its first element in the model, whatever the world: a multiple
			       * of PROTOCOL_ALIGN_ELEMS */
	int place_param;      /* enum placement of its parameters between uses */
	int place_optimizer;  /* enum placement of its optimizer state: NONE on the device, else the
			       * daemon steps it */
	/*
	 * enum protocol_home in the daemon, NONE when it is none of the daemon's units. The
	 * parameter's home is where place_param says at stage 3, when it says anything; else it
	 * lies with the optimizer state, and what the worker reads is apart.
	 */
	int param_home, state_home;
	/* Parameters between uses (param_elems) are not on the device and in no home: the worker
	 * puts them into the arena or a blob itself, as place_param says. */
	bool param_blob;
	size_t daemon_idx; /* among the daemon's units, when it is one */
	size_t blob_idx;   /* among blobs, with param_blob and PLACE_NVME */
	bool grad_spilled; /* the daemon keeps its gradient on NVMe */
	bool grad_waits;   /* in memory, for its turn: see plan_unit_grad_kept */
	bool grad_shared;  /* its gradient gathers contributions of several phases */
	/* In the arena, from the start of its data part, multiples of PROTOCOL_ALIGN_BYTES: */
	uint64_t param_home_offset; /* opt_elems, when param_home is PROTOCOL_HOME_MEMORY */
	uint64_t param_blob_offset; /* param_elems, when param_blob and PLACE_CPU */
};

/* What one tier holds of the parameters between uses, or of the optimizer's state. Units are placed
 * whole, so it is not quite what was asked. */
struct plan_share {
	double asked, placed; /* of all elements */
	uint64_t elems;       /* of this rank */
	size_t units;
};

/* Device memory of one rank, bytes. Every allocation is rounded up to DEVICE_ALIGN; so are all
 * *_bytes of one buffer here, and each unit's share of the resident sums. */
struct plan_device {
	uint64_t gather_slots, gather_slot_bytes; /* whole units on their way and in use */
	uint64_t param_bytes;                     /* resident parameters */
	uint64_t state_bytes;                     /* resident optimizer state */
	uint64_t grad_bytes;                      /* resident gradients, of plan->grad_kept_type */
	uint64_t norm_bytes;                      /* their vector_blocks(opt_elems) doubles */
	uint64_t grad_buffers, grad_buffer_bytes; /* fp32 gradient of the unit in work */
	uint64_t grad_shared_bytes;        /* those of units with grad_shared, of all micros */
	uint64_t part_buffers, part_bytes; /* reduced partitions on their way out, fp32 */
	uint64_t part_cast_bytes;          /* the same rounded to bf16, 0 when not needed */
	uint64_t act_buffers, act_bytes;   /* checkpointed activations */
	uint64_t carry_bytes; /* what a micro-batch takes from phase to phase; there are `micros` */
	uint64_t workspace_bytes;
	uint64_t kept_blocks,
		kept_bytes;   /* blocks that need no recomputation; each of all micros */
	uint64_t small_bytes; /* token ids, losses, norms */
	uint64_t own_bytes;   /* device_own_bytes */
	uint64_t total_bytes, budget_bytes;
	uint64_t least_bytes; /* total with every count at its minimum */
};

/*
 * Host memory of one rank's session with the daemon, bytes. Offsets are from the start of the
 * arena's data part (client_data_offset), multiples of PROTOCOL_ALIGN_BYTES, and regions follow
 * each other in this order; slot i of a region is at its offset + i * its slot bytes.
 */
struct plan_host {
	uint64_t ring_slots;
	/* Homes of the daemon's units in memory, in unit order, then the worker's whole or
	 * partial copies (param_blob with PLACE_CPU), in unit order. */
	uint64_t param_offset, param_bytes;
	uint64_t act_offset, act_region_bytes; /* those on the CPU: act_count * act_slot_bytes */
	uint64_t fetch_offset, fetch_slots, fetch_slot_bytes;
	uint64_t grad_offset, grad_slots, grad_slot_bytes;
	uint64_t act_slot_offset, act_slots, act_slot_bytes;
	uint64_t transfer_offset, transfer_slots, transfer_slot_bytes; /* export and import */
	uint64_t data_bytes;  /* all of the above: protocol_open.data_bytes */
	uint64_t arena_bytes; /* and header and rings before it */
	uint64_t state_bytes; /* the daemon's own: optimizer state placed on the CPU */
	uint64_t grad_bytes;  /* gradients waiting for the norm, or accumulating */
	uint64_t chunk_buffers, chunk_buffer_bytes; /* for what of a chunk is on NVMe */
	uint64_t total_bytes;                       /* arena and the daemon's own */
	uint64_t budget_bytes;                      /* this rank's share of host.memory */
	uint64_t least_bytes; /* total with every count at its minimum, and all gradients on NVMe
				* when some are */
};

/*
 * NVMe of one rank, bytes. Traffic is that of one training step, evaluation and checkpoints apart:
 * a unit is fetched for each use that does not find it in a gather slot.
 */
struct plan_swap {
	uint64_t param_bytes, state_bytes, grad_bytes, act_bytes, total_bytes;
	uint64_t step_read_bytes, step_write_bytes;
};

struct plan {
	unsigned world, ranks_per_host;
	unsigned stage;
	enum dtype param_type; /* of parameters in use */
	enum optimizer_kind kind;
	enum optimizer_moments moments;
	enum dtype grad_type; /* in which a reduced gradient leaves: bf16 only in bf16 precision
				* without accumulation, else fp32 */
	uint64_t accumulation;
	/* Micro-batches that go through the phases side by side: with schedule.order: layer all of
	 * a step (accumulation), else 1. What lives from phase to phase exists so many times. */
	uint64_t micros;
	/* The daemon keeps gradients of all its units, for the norm or for the next micro-batch;
	 * false when a STEP can bring its gradient, and when the daemon has no units. */
	bool grad_kept;
	enum dtype grad_kept_type; /* of gradients that the daemon keeps, or resident ones: fp32
				    * when accumulating, else grad_type */
	uint64_t tokens;           /* of a micro-batch */
	uint64_t chunk_elems;      /* of the optimizer pipeline */
	int place_activations;
	struct plan_share param[PLACE_COUNT], optimizer[PLACE_COUNT];
	/* Of units asked to be on NVMe, what is kept in host memory (host.memory: auto). */
	uint64_t cached_param_bytes, cached_state_bytes;
	size_t daemon_units; /* whose optimizer is not on the device */
	bool needs_daemon, needs_swap;
	/* Blobs in swap, what client_config.blobs takes: a parameter blob for each unit with
	 * param_blob and PLACE_NVME, from act_blob_first one for each activation on NVMe. */
	uint64_t *blobs; /* bytes of each, multiples of PROTOCOL_ALIGN_BYTES */
	size_t blob_count, act_blob_first;
	size_t act_count;  /* of all micros: activation i of micro m is arch's act_count * m + i */
	uint64_t prefetch; /* units that are fetched ahead: at most zero.prefetch, less where the
			    * budgets have no room */
	struct plan_unit *units;
	size_t unit_count;
	uint64_t params;
	struct plan_device device;
	struct plan_host host;
	struct plan_swap swap;
	uint64_t comm_bytes;        /* shared segment of the host's ranks */
	uint64_t base_worker_bytes; /* what a process costs before it holds anything of the model */
	uint64_t base_daemon_bytes;
	uint64_t base_launcher_bytes; /* dsrun and its agent */
	uint64_t host_peak_bytes;     /* all processes of one host, shared memory counted once */
	uint64_t host_budget_bytes;
};

/* Are parameters on the device between uses, and whole there? Then no slot is needed for them. */
static inline bool plan_unit_resident(const struct plan *plan, const struct plan_unit *unit)
{
	return plan->stage < 3 && unit->place_param == PLACE_NONE;
}

/* Is the unit's optimizer the daemon's? */
static inline bool plan_unit_offloaded(const struct plan_unit *unit)
{
	return unit->place_optimizer != PLACE_NONE;
}

/*
 * Does the daemon keep the unit's gradient? Where all are kept, for the norm or for the next
 * micro-batch; else where there is memory for it, so that backward need not wait until the disk is
 * through with the unit's step.
 */
static inline bool plan_unit_grad_kept(const struct plan *plan, const struct plan_unit *unit)
{
	return plan->grad_kept || unit->grad_waits;
}

/*
 * Plans for `world` ranks, all on one host. ERR_CONFIG with the table's figures (need, budget, the
 * largest parts, what to change) when a tier is too small; the swap directories' free space is
 * checked, and a missing one is an error, when the plan needs them. -ENOMEM.
 */
int plan_make(const struct train_config *config, const struct conf_doc *doc,
	      const struct arch *arch, unsigned world, struct plan **ret, struct err *err);
struct plan *plan_free(struct plan *plan);

/*
 * What the job may be lent of a host, for host.memory: auto, when all that its processes hold there
 * together may be `spare_bytes`. As plan_make; ERR_CONFIG too when that leaves next to nothing.
 */
int plan_host_auto(const struct train_config *config, const struct conf_doc *doc,
		   const struct arch *arch, unsigned world, uint64_t spare_bytes,
		   uint64_t *ret_bytes, struct err *err);

/* The table of `dsrun --plan`. 0 or a negative code of the stream. */
int plan_print(const struct plan *plan, const struct train_config *config, FILE *out);

/* The same figures as members of the object that the caller has begun. */
void plan_json(const struct plan *plan, struct json *json);

/*
 * Bytes that the optimizer state of `elems` elements takes, one array behind the other; in swap,
 * where each chunk lies by itself and whole blocks of the disk are written.
 */
uint64_t plan_state_bytes(const struct plan *plan, uint64_t elems);
uint64_t plan_state_swap_bytes(const struct plan *plan, uint64_t elems);

/* Of an element on its way in or out: fp32 master and moments. */
uint64_t plan_piece_elem_bytes(const struct plan *plan);

#endif
