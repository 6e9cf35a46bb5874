/*
 * The shape of a model, without its arithmetic: units with their tensors, the phases a training or
 * evaluation pass goes through and which unit each uses, the activations kept between phases, and
 * the device memory a phase works in. The planner, the engine and the worker all read it; the
 * arithmetic is the worker's (worker/gpt2.c). One architecture is one file: arch_gpt2.c.
 */
#ifndef OFFLOAD_ARCH_H
#define OFFLOAD_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "offload/train_config.h"

enum arch_init { ARCH_INIT_ZERO, ARCH_INIT_ONE, ARCH_INIT_NORMAL };

struct arch_tensor {
	char name[64]; /* as Hugging Face's GPT-2 calls it: "h.3.attn.c_attn.weight" */
	uint64_t rows; /* 0: a vector of `cols` */
	uint64_t cols;
	uint64_t offset; /* in elements, from the start of the unit */
	uint64_t count;
	bool decay; /* weight decay applies: matrices */
	enum arch_init init;
	double std;
};

/* Parameters used together, flattened: tensors with decay first, so that one number tells them. */
struct arch_unit {
	char name[32];
	struct arch_tensor *tensors;
	size_t tensor_count;
	uint64_t elems, decay_elems;
};

/*
 * One phase of a pass: what is enqueued at a time. `unit` is the unit whose parameters it reads
 * (-1: none), grad_unit the one whose gradient it adds to (-1: none), grad_last its last
 * contribution of the micro-batch. act_in and act_out are the checkpointed activations it reads and
 * writes (-1: none); act_in_last: nobody reads it after.
 */
struct arch_phase {
	int kind; /* the architecture's own */
	int layer;
	int unit, grad_unit;
	bool grad_last;
	int act_in, act_out;
	bool act_in_last;
};

struct arch {
	const char *name;
	struct arch_unit *units;
	size_t unit_count;
	struct arch_phase *train, *eval; /* of one micro-batch */
	size_t train_count, eval_count;
	size_t act_count;         /* checkpointed activations */
	uint64_t act_bytes;       /* of each, for one micro-batch */
	uint64_t carry_bytes;     /* device memory that a micro-batch takes from phase to phase */
	uint64_t workspace_bytes; /* of the phase in work, and what all micro-batches add to */
	/* The last so many blocks, at most kept_max, need not be recomputed for their backward, at
	 * the price of kept_bytes of device memory each. */
	uint64_t kept_bytes;
	size_t kept_max;
	uint64_t params;        /* elements of all units */
	double flops_per_token; /* forward and backward, without recomputation */
};

int arch_make(const struct train_config *config, struct arch **ret, struct err *err);
struct arch *arch_free(struct arch *arch);

#endif
