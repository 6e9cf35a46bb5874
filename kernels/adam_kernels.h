/*
 * Adam's kernels, one table of them per instruction set. Private to kernels/. Each works on
 * elements begin..end of the step's vectors, with `decay` as the factor of the parameter.
 */
#ifndef KERNELS_ADAM_KERNELS_H
#define KERNELS_ADAM_KERNELS_H

#include <stddef.h>

#include "kernels/adam.h"

typedef void adam_range_fn(const struct adam *a, size_t begin, size_t end, float decay);

struct adam_kernels {
	adam_range_fn *step[2][2]; /* [grad_type][param_type] */
	adam_range_fn *move;       /* a bf16 step's traffic without its arithmetic */
};

extern const struct adam_kernels adam_scalar, adam_avx2, adam_avx512;

#endif
