/* GELU in its tanh form (Hendrycks & Gimpel 2016), what Hugging Face calls gelu_new. */
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

#endif
