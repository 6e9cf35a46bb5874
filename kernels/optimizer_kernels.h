/*
 * The optimizers' kernels, one table of them per instruction set. Private to kernels/. AdamW with
 * fp32 moments is not among them: adam_kernels.h has it.
 */
#ifndef KERNELS_OPTIMIZER_KERNELS_H
#define KERNELS_OPTIMIZER_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/optimizer.h"

typedef void optimizer_step_fn(const struct optimizer_step *step);

struct optimizer_kernels {
	/* NULL: there is no such form. A step does not pass a multiple of 2^32 in its positions. */
	optimizer_step_fn *step[OPTIMIZER_KINDS][MOMENTS_KINDS];
	optimizer_step_fn *move; /* the traffic of MOMENTS_BF16 and MOMENTS_INT8, no arithmetic */
	/* AdamW's moment 0 or 1 between codes and fp32. */
	void (*decode)(unsigned moment, const uint8_t *codes, const float *scale, size_t count,
		       float *to);
	void (*encode)(unsigned moment, uint8_t *codes, float *scale, size_t count,
		       const float *from);
};

extern const struct optimizer_kernels optimizer_scalar, optimizer_avx2, optimizer_avx512;

#endif
