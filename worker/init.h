/* Initial weights. */
#ifndef WORKER_INIT_H
#define WORKER_INIT_H

#include <stdint.h>

#include "common/err.h"
#include "offload/arch.h"
#include "offload/engine.h"

/*
 * Element i of tensor t, tensors being numbered through all units in order, from 0, is
 * (float)(std * rng_normal(seed, t, i)), 1 or 0, as the architecture says.
 */
void init_fill(const struct arch *arch, uint64_t seed, size_t unit, uint64_t first, uint64_t count,
	       float *ret);

/* Imports initial weights and zero moments into the engine, this rank's share. */
int init_engine(struct engine *engine, const struct arch *arch, uint64_t seed, struct err *err);

#endif
