/*
 * Products with a weight matrix. Activations and gradients are fp32, row-major, contiguous; the
 * weight is fp32 or bf16 and is used as fp32. `w` is [in][out] (Hugging Face's Conv1D), or
 * [out][in] where w_transposed is set (the tied head: the token table).
 *
 * The cpu device multiplies with OpenBLAS; bf16 weights pass through `scratch`, panel by panel.
 */
#ifndef KERNELS_LINEAR_H
#define KERNELS_LINEAR_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

struct linear {
	size_t rows, in, out;
	const void *w;
	enum dtype w_type;
	bool w_transposed;
	const void *bias; /* [out], of w_type; NULL for none; forward only */
	const float *x;   /* [rows][in]: forward, backward_weight */
	float *y;         /* [rows][out]: forward */
	const float *dy;  /* [rows][out]: backward */
	float *dx;        /* [rows][in]: backward_input, overwritten */
	float *dw;        /* as w but fp32: backward_weight, added to */
	float *dbias;     /* [out]: backward_weight, added to; NULL for none */
	float *scratch;   /* bf16 weights on the cpu device: at least max(in, out) floats */
	size_t scratch_count;
};

/* y = x w + bias */
void linear_forward(struct device_stream *stream, const struct linear *l);
/* dx = dy w^T */
void linear_backward_input(struct device_stream *stream, const struct linear *l);
/* dw += x^T dy, dbias += column sums of dy in row order */
void linear_backward_weight(struct device_stream *stream, const struct linear *l);

#endif
