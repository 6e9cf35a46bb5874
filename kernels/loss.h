/*
 * Softmax cross-entropy over rows of logits. Losses are summed in double in row order, so that the
 * sum does not depend on how rows are cut into chunks.
 */
#ifndef KERNELS_LOSS_H
#define KERNELS_LOSS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

struct cross_entropy {
	size_t rows, vocab;
	enum dtype act;          /* of logits; DTYPE_F32 on the cpu device */
	void *logits;            /* [rows][vocab]; with `gradient`, overwritten by its gradient */
	size_t row;              /* elements from row to row of them; 0: vocab */
	const uint32_t *targets; /* [rows], device memory */
	float scale;             /* of the gradient: 1 / (tokens of the global batch) */
	bool gradient;
	double *loss_sum; /* device memory, added to: sum of -log p(target), not scaled */
};

void cross_entropy(struct device_stream *stream, const struct cross_entropy *c);

#endif
