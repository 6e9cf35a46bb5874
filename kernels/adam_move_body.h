/* What a bf16 step of Adam is measured against: its traffic. Included by adam_*.c. */
#ifndef KERNELS_ADAM_MOVE_BODY_H
#define KERNELS_ADAM_MOVE_BODY_H

#ifndef VEC_LANES
#include "kernels/vec_scalar.h"
#endif

#include "kernels/adam_kernels.h"

/* Takes a vector of bits from where they are and puts them back. */
VEC_INLINE void move_lanes(void *p)
{
	vec_store(p, vec_opaque(vec_load(p)));
}

/* Reads the gradient, reads and writes everything else, changes nothing. */
static void range_move(const struct adam *a, size_t begin, size_t end, float decay)
{
	const struct adam step = *a;
	uint16_t *hi = step.param;

	(void)decay;
	for (size_t i = begin; end - i >= 2 * VEC_LANES; i += 2 * VEC_LANES) {
		vec_opaque(vec_load((const float *)((const uint16_t *)step.grad + i)));
		move_lanes(hi + i);
		move_lanes(step.lo + i);
		move_lanes(step.m + i);
		move_lanes(step.m + i + VEC_LANES);
		move_lanes(step.v + i);
		move_lanes(step.v + i + VEC_LANES);
	}
}

#endif
