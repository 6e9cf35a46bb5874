/*
 * The cases of t_ops: each an operation with a shape. A case makes its inputs, runs the operation,
 * computes what it should have given, and names its outputs; t_ops compares. The tables lie by
 * family in ops_*.c; a case of one more operation or shape is a row there.
 */
#ifndef TESTS_OPS_CASES_H
#define TESTS_OPS_CASES_H

#include <stdbool.h>
#include <stddef.h>

#include "tests/kernels_kit.h"

#define OPS_OUTPUTS_MAX 4

struct ops_output {
	const char *name;
	const void *got;
	size_t count, bytes;
	double *want; /* fp32 outputs; NULL: compared by the case itself */
	double tolerance;
};

struct ops_run {
	struct kit kit; /* opened and closed by t_ops */
	struct ops_output outputs[OPS_OUTPUTS_MAX];
	size_t output_count;
	char wrong[128]; /* what a case found by itself; empty: nothing */
};

/* What the numbers mean, the case says. */
struct ops_shape {
	size_t a, b, c, d;
	enum dtype type;
	bool flag;
};

struct ops_case {
	const char *name;
	void (*fn)(struct ops_run *r, const struct ops_shape *s);
	struct ops_shape shape;
};

struct ops_table {
	const struct ops_case *cases;
	size_t count;
};

extern const struct ops_table ops_linear, ops_layers, ops_ends;

/* All of them, one table behind the other. */
size_t ops_case_count(void);
const struct ops_case *ops_case_at(size_t i);

/* Adds an output of floats, which may differ from `want` by `tolerance` times its greatest. */
void ops_output(struct ops_run *r, const char *name, const float *got, double *want, size_t count,
		double tolerance);

/* Sums of n products of numbers about one, each rounded: the error grows like the root of n. */
double ops_product_tolerance(size_t n);

#endif
