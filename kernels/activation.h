/*
 * GELU in its tanh form (Hendrycks & Gimpel, 2016), what Hugging Face calls gelu_new, and SwiGLU
 * (Shazeer, 2020): y = silu(gate) * up, where silu(g) = g / (1 + e^-g). Computed in fp32.
 */
#ifndef KERNELS_ACTIVATION_H
#define KERNELS_ACTIVATION_H

#include <stddef.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

struct gelu {
	size_t count;
	enum dtype act; /* of all; DTYPE_F32 on the cpu device */
	const void *x;
	void *y;        /* forward */
	const void *dy; /* backward */
	void *dx;       /* backward, overwritten; may be dy */
};

void gelu_forward(struct device_stream *stream, const struct gelu *g);
void gelu_backward(struct device_stream *stream, const struct gelu *g);

struct swiglu {
	size_t rows, width;
	enum dtype act; /* of all; DTYPE_F32 on the cpu device */
	const void *x;  /* [rows][2 * width]: each row the gate, then up */
	void *y;        /* [rows][width]: forward */
	const void *dy; /* [rows][width]: backward */
	void *dx;       /* as x: backward, overwritten; may be x */
};

void swiglu_forward(struct device_stream *stream, const struct swiglu *s);
void swiglu_backward(struct device_stream *stream, const struct swiglu *s);

#endif
