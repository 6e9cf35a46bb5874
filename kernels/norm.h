/*
 * Norms over rows, in fp32: LayerNorm (Ba et al., 2016), y = (x - mean) * rstd * gain + bias, and
 * RMSNorm (Zhang & Sennrich, 2019), y = x * rstd * gain. rstd is 1 / sqrt(s + eps), with s the mean
 * of (x - mean)^2 in the one, of x^2 in the other. x and its gradient are the residual stream, fp32
 * on every device; y is of type `act`.
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

struct rmsnorm {
	size_t rows, width;
	float eps;
	enum dtype type;  /* of gain */
	enum dtype act;   /* of y and dy; DTYPE_F32 on the cpu device */
	const void *gain; /* [width] */
	const float *x;   /* [rows][width] */
	void *y;          /* [rows][width]: forward */
	float *rstd;      /* [rows]: written by forward, read by backward */
	const void *dy;   /* [rows][width]: backward */
	float *dx;        /* [rows][width]: backward, added to: the residual's gradient */
	void *dx_act;     /* [rows][width]: backward, dx as `act`; NULL on the cpu, or for none */
	float *dgain;     /* [width] fp32: backward, added to in row order */
};

void rmsnorm_forward(struct device_stream *stream, const struct rmsnorm *n);
void rmsnorm_backward(struct device_stream *stream, const struct rmsnorm *n);

#endif
