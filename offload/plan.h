/*
 * The plan: what every tier holds, worked out before anything starts, and the only source of every
 * buffer size. The engine allocates what the plan says, the daemon is asked for what the plan says,
 * so prediction and truth cannot drift apart.
 *
 * Words. A unit is padded to `padded` elements, `world` partitions of `partition` elements. With
 * ZeRO stage >= 1 gradients and optimizer state of a unit are one partition a rank, else whole; with
 * stage 3 parameters too. (Gradients are reduced unit by unit at every stage, in one order, so that
 * stages give the same bits; holding them whole at stage 1 would then buy nothing.)
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
#include "offload/arch.h"
#include "offload/train_config.h"

struct plan_unit {
	uint64_t elems, padded, partition;
	uint64_t opt_elems;   /* of this rank's gradient and optimizer state */
	uint64_t param_elems; /* of this rank's parameters between uses */
	bool grad_spilled;    /* the daemon keeps its gradient on NVMe */
	bool grad_shared;     /* its gradient gathers contributions of several phases */
};

/* Device memory of one rank, bytes. */
struct plan_device {
	uint64_t gather_slots, gather_slot_bytes; /* whole units on their way and in use */
	uint64_t param_bytes;			  /* resident parameters */
	uint64_t state_bytes;			  /* resident optimizer state */
	uint64_t grad_bytes;			  /* resident gradients */
	uint64_t grad_buffers, grad_buffer_bytes; /* fp32 gradient of the unit in work */
	uint64_t grad_shared_bytes;		  /* those of units with grad_shared */
	uint64_t part_buffers, part_bytes;	  /* reduced partitions on their way out, fp32 */
	uint64_t part_cast_bytes;		  /* the same rounded to bf16, 0 when not needed */
	uint64_t act_buffers, act_bytes;	  /* checkpointed activations */
	uint64_t workspace_bytes;
	uint64_t small_bytes; /* token ids, losses, norms */
	uint64_t total_bytes, budget_bytes;
};

/* Host memory of one rank's session with the daemon, bytes. Offsets are from the arena's start. */
struct plan_host {
	uint64_t ring_slots;
	uint64_t param_offset, param_bytes; /* parameters placed on the CPU */
	uint64_t act_offset, act_region_bytes;	/* activations placed on the CPU */
	uint64_t fetch_offset, fetch_slots, fetch_slot_bytes;
	uint64_t grad_offset, grad_slots, grad_slot_bytes;
	uint64_t act_slot_offset, act_slots, act_slot_bytes;
	uint64_t transfer_offset, transfer_slots, transfer_slot_bytes; /* export and import */
	uint64_t arena_bytes;
	uint64_t state_bytes; /* the daemon's own: optimizer state placed on the CPU */
	uint64_t grad_bytes;  /* gradients waiting for the norm, or accumulating */
	uint64_t chunk_buffers, chunk_buffer_bytes;
	uint64_t total_bytes; /* arena and the daemon's own */
};

/* NVMe of one rank, bytes. */
struct plan_swap {
	uint64_t param_bytes, state_bytes, grad_bytes, act_bytes, total_bytes;
	uint64_t step_read_bytes, step_write_bytes; /* traffic of one step */
};

struct plan {
	unsigned world, ranks_per_host;
	unsigned stage;
	enum dtype param_type; /* of parameters in use */
	enum dtype grad_type;  /* in which a reduced gradient leaves: bf16 only in bf16 precision
				* without accumulation, else fp32 */
	uint64_t accumulation;
	uint64_t tokens;      /* of a micro-batch */
	uint64_t chunk_elems; /* of the optimizer pipeline */
	int place_param, place_optimizer, place_activations;
	bool needs_daemon, needs_swap;
	struct plan_unit *units;
	size_t unit_count;
	uint64_t params;
	struct plan_device device;
	struct plan_host host;
	struct plan_swap swap;
	uint64_t comm_bytes;	    /* shared segment of the host's ranks */
	uint64_t base_worker_bytes; /* what a process costs before it holds anything of the model */
	uint64_t base_daemon_bytes;
	uint64_t base_launcher_bytes; /* dsrun and its agent */
	uint64_t host_peak_bytes;     /* all processes of one host, shared memory counted once */
	uint64_t host_budget_bytes;
};

/*
 * Plans for `world` ranks, all on one host. ERR_CONFIG with the table's figures (need, budget, the
 * largest parts, what to change) when a tier is too small; the swap directories' free space is
 * checked where they exist on this host.
 */
int plan_make(const struct train_config *config, const struct conf_doc *doc,
	      const struct arch *arch, unsigned world, struct plan **ret, struct err *err);
struct plan *plan_free(struct plan *plan);

/* The table of `dsrun --plan`. 0 or a negative code of the stream. */
int plan_print(const struct plan *plan, const struct train_config *config, FILE *out);
void plan_json(const struct plan *plan, struct json *json);

/* Bytes an element of optimizer state takes: m, v and, in bf16 precision, lo. */
uint64_t plan_state_elem_bytes(enum dtype param_type);

#endif
