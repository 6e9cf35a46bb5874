/*
 * What a step with smaller moments is measured against: its traffic, a block of each vector in
 * turn. Included by optimizer_*.c.
 */
#ifndef KERNELS_OPTIMIZER_MOVE_BODY_H
#define KERNELS_OPTIMIZER_MOVE_BODY_H

#include "kernels/optimizer_body.h"

/* Whole vectors. */
STEP_INLINE void move_read(const void *at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += sizeof(float) * VEC_LANES)
		vec_opaque(vec_load((const float *)(const void *)((const char *)at + i)));
}

STEP_INLINE void move_both(void *at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += sizeof(float) * VEC_LANES) {
		float *lanes = (float *)(void *)((char *)at + i);

		vec_store(lanes, vec_opaque(vec_load(lanes)));
	}
}

STEP_INLINE void move_moment(const struct optimizer_step *s, unsigned moment, size_t i)
{
	static const size_t bytes[MOMENTS_KINDS] = {
		[MOMENTS_F32] = 4, [MOMENTS_BF16] = 2, [MOMENTS_INT8] = 1};
	const size_t each = bytes[s->moments];

	move_both((char *)s->state.moment[moment] + i * each, OPTIMIZER_BLOCK * each);
}

/* Reads the gradient, reads and writes everything else, changes nothing. Whole blocks. */
static void move_step(const struct optimizer_step *given)
{
	const struct optimizer_step s = *given;
	const size_t grad_bytes = dtype_bytes(s.grad_type), param_bytes = dtype_bytes(s.param_type);

	for (size_t i = 0; s.count - i >= OPTIMIZER_BLOCK; i += OPTIMIZER_BLOCK) {
		move_read((const char *)s.grad + i * grad_bytes, OPTIMIZER_BLOCK * grad_bytes);
		move_both((char *)s.param + i * param_bytes, OPTIMIZER_BLOCK * param_bytes);
		if (s.state.lo)
			move_both(s.state.lo + i, OPTIMIZER_BLOCK * sizeof(*s.state.lo));
		for (unsigned k = 0; k < OPTIMIZER_MOMENTS_MAX; k++) {
			if (s.state.moment[k])
				move_moment(&s, k, i);
			if (s.state.scale[k])
				s.state.scale[k][i / OPTIMIZER_BLOCK] *= 1.0f;
		}
	}
}

#endif
