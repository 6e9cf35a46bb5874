/* GELU in its tanh form (Hendrycks & Gimpel 2016), what Hugging Face calls gelu_new. */
#ifndef KERNELS_ACTIVATION_H
#define KERNELS_ACTIVATION_H

#include <stddef.h>

#include "kernels/device.h"

struct gelu {
	size_t count;
	const float *x;
	float *y;        /* forward */
	const float *dy; /* backward */
	float *dx;       /* backward, overwritten; may be dy */
};

void gelu_forward(struct device_stream *stream, const struct gelu *g);
void gelu_backward(struct device_stream *stream, const struct gelu *g);

#endif
