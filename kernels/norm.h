/*
 * LayerNorm over rows (Ba et al., 2016): y = (x - mean) * rstd * gain + bias, in fp32. x and its
 * gradient are the residual stream, fp32 on every device; y is of type `act`.
 */
#ifndef KERNELS_NORM_H
#define KERNELS_NORM_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

struct layernorm {
	size_t rows, width;
	float eps;
	enum dtype type;         /* of gain and bias */
	enum dtype act;          /* of y and dy; DTYPE_F32 on the cpu device */
	const void *gain, *bias; /* [width] */
	const float *x;          /* [rows][width] */
	void *y;                 /* [rows][width]: forward */
	float *mean, *rstd;      /* [rows]: written by forward, read by backward */
	const void *dy;          /* [rows][width]: backward */
	float *dx;               /* [rows][width]: backward, added to: the residual's gradient */
	void *dx_act; /* [rows][width]: backward, dx as `act`; NULL on the cpu, or for none */
	float *dgain, *dbias; /* [width] fp32: backward, added to in row order */
};

void layernorm_forward(struct device_stream *stream, const struct layernorm *l);
void layernorm_backward(struct device_stream *stream, const struct layernorm *l);

#endif
