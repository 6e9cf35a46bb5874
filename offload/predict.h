/*
 * How long a step takes under a plan, and which placement is the fastest that fits: the model is
 * that of docs/PERFORMANCE.md, "The model of a step, and auto placement".
 */
#ifndef OFFLOAD_PREDICT_H
#define OFFLOAD_PREDICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/conf.h"
#include "common/err.h"
#include "common/json.h"
#include "offload/arch.h"
#include "offload/plan.h"
#include "offload/train_config.h"

/* Seconds, as t = rest + blocks * block. */
struct predict_line {
	double rest, block;
};

/* What was measured of a host. A rate of 0: that is not there, or was not asked for. */
struct predict_rates {
	struct predict_line forward; /* of a micro-batch, all ranks at work */
	struct predict_line pass;    /* forward and backward, nothing recomputed */
	struct predict_line step;    /* the optimizer on the device, all of a rank's units */
	unsigned cores;              /* of the host, which a cpu device and the daemon share */
	bool shared;                 /* devices compute on these cores */
	double copy;                 /* bytes a second of one core, host to cpu device */
	double adam;                 /* parameters a second of one core, from memory */
	double checksum;             /* bytes a second of one core */
	double read, write, mixed;   /* bytes a second of all swap directories */
};

/* What bounds a step, and where its time goes; seconds of one step. */
struct predict {
	double seconds;
	double compute; /* of a rank, recomputation included */
	double cpu;     /* of all cores, divided by their number: compute and all that is beside */
	double disk;    /* busy */
	double optimizer; /* of the daemon, in which only the first forward goes on */
	uint64_t read_bytes, written_bytes; /* swap, all ranks */
	const char *bound;                  /* "compute", "disk", ...: static storage */
};

/* Pure. `plan` was made of `config` and `arch`. */
void predict_step(const struct plan *plan, const struct train_config *config,
		  const struct arch *arch, const struct predict_rates *rates, struct predict *ret);

#define PREDICT_CHOICES_MAX (PLACE_COUNT * PLACE_COUNT)

struct predict_choice {
	int param, optimizer; /* enum placement; PLACE_COUNT: as the configuration says */
	bool fits;
	struct predict step; /* when it fits */
};

struct predict_table {
	struct predict_choice choices[PREDICT_CHOICES_MAX];
	size_t count, best;
};

/*
 * Every placement that `config` leaves open, in the order none, cpu, nvme of parameters and then of
 * the optimizer, each planned and predicted, and the best of those that fit. Of those within
 * PREDICT_EQUAL of the fastest the first is the best. Where none fits: the refusal of the last,
 * which has least on the device, as plan_make. Deterministic.
 */
int predict_choose(const struct train_config *config, const struct conf_doc *doc,
		   const struct arch *arch, unsigned world, const struct predict_rates *rates,
		   struct predict_table *ret, struct err *err);

#define PREDICT_EQUAL 0.02

/* The rates, each choice and the best, for people; and as members of an object that is open. */
void predict_print(const struct predict_table *table, const struct predict_rates *rates, FILE *out);
void predict_json(const struct predict_table *table, const struct predict_rates *rates,
		  struct json *json);

#endif
