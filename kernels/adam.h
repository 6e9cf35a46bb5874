/*
 * Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019) in one pass: a
 * gradient with its scale in, moments and parameter out. In bf16 mode the fp32 master is held split
 * (dtype.h): 26 bytes of traffic a parameter. Scalar, AVX2 and AVX-512 give the same bits, for any
 * count and alignment; the scalar form is the specification.
 *
 * For each element, in fp32, fma() where written and nowhere else:
 *	g = grad * grad_scale
 *	m = fma(1 - beta1, g - m, m)
 *	v = fma((1 - beta2) * g, g, beta2 * v)
 *	p = p * (1 - lr * decay)		(only the first decay_count elements)
 *	p = fma(-lr / (1 - beta1^t), m / (sqrt(v) / sqrt(1 - beta2^t) + eps), p)
 */
#ifndef KERNELS_ADAM_H
#define KERNELS_ADAM_H

#include <stddef.h>
#include <stdint.h>

#include "common/cpu.h"
#include "kernels/device.h"
#include "kernels/dtype.h"

/* What a step needs beside the vectors; computed in double, rounded once. */
struct adam_scalars {
	float grad_scale;
	float one_minus_beta1, beta2, one_minus_beta2;
	float eps;
	float decay_factor;   /* 1 - lr * weight_decay */
	float minus_step;     /* -lr / (1 - beta1^t) */
	float inv_sqrt_bias2; /* 1 / sqrt(1 - beta2^t): sqrt(v) is multiplied by it */
};

struct adam_hyper {
	double lr, beta1, beta2, eps, weight_decay;
};

/* `step` counts from 1. */
struct adam_scalars adam_scalars_make(const struct adam_hyper *hyper, uint64_t step,
				      double grad_scale);

struct adam {
	size_t count, decay_count; /* decay_count <= count */
	const void *grad;
	enum dtype grad_type;
	enum dtype param_type; /* F32: param is float, lo unused. BF16: param is hi, lo beside it */
	void *param;
	int16_t *lo;
	float *m, *v;
	struct adam_scalars scalars;
};

/* In the calling thread, with the best instruction set of cpu_isa(). */
void adam_host_step(const struct adam *a);

/* With a given instruction set, which must be present: for tests and benchmarks. */
void adam_host_step_isa(const struct adam *a, enum cpu_isa isa);

/*
 * What adam_host_step is measured against: reads and writes the bytes of a bf16 step in the same
 * order, 26 a parameter, and computes nothing; all stays as it was. Whole multiples of 32 elements.
 */
void adam_host_move(const struct adam *a);

/* As an operation of a device, for state that is not offloaded. */
void adam_step(struct device_stream *stream, const struct adam *a);

#endif
