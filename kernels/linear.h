/*
 * Products with a weight matrix. Activations are row-major and of type `act`, gradients of
 * parameters fp32; the weight is fp32 or bf16. `w` is [in][out] (Hugging Face's Conv1D), or
 * [out][in] where w_transposed is set (the tied head: the token table). Products are summed in
 * fp32.
 *
 * The cpu device multiplies with OpenBLAS, and its `act` is DTYPE_F32; bf16 weights are widened and
 * pass through `scratch`, panel by panel. The cuda device multiplies with cuBLASLt, and its `act`
 * is w_type.
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
	enum dtype w_type, act;
	bool w_transposed;
	const void *bias; /* [out], of w_type; NULL for none; forward only */
	const void *x;    /* [rows][in]: forward, backward_weight */
	void *y;          /* [rows][out]: forward */
	const void *dy;   /* [rows][out]: backward */
	size_t y_row;     /* elements from row to row of y and dy; 0: out */
	const float *add; /* [rows][out]: forward adds it to y, which is fp32 then; NULL for none */
	/*
	 * [rows][out], of `act`; NULL for none. Forward puts x w + bias here, and into y its GELU.
	 * For backward_input it is [rows][in], what x was the GELU of: dx is by that, not by x.
	 */
	void *gelu_in;
	void *dx;       /* [rows][in]: backward_input, overwritten */
	float *dw;      /* as w but fp32: backward_weight, added to */
	float *dbias;   /* [out]: backward_weight, added to; NULL for none */
	float *scratch; /* bf16 weights on the cpu device: at least max(in, out) floats */
	size_t scratch_count;
};

/* y = x w + bias, + add or GELU of it: not both */
void linear_forward(struct device_stream *stream, const struct linear *l);
/* dx = dy w^T, times the GELU's derivative where there is gelu_in */
void linear_backward_input(struct device_stream *stream, const struct linear *l);
/* dw += x^T dy, dbias += column sums of dy in row order */
void linear_backward_weight(struct device_stream *stream, const struct linear *l);

#endif
