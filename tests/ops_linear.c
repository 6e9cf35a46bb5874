/* Cases of t_ops: matrix products, with what is fused to them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/linear.h"
#include "kernels/reference.h"
#include "tests/ops_cases.h"

static struct linear linear_inputs(struct kit *k, const struct ops_shape *s)
{
	struct linear l = {
		.rows = s->a,
		.in = s->b,
		.out = s->c,
		.w_type = s->type,
		.w_transposed = s->flag,
		.w = kit_input(k, s->type, s->b * s->c, 1),
		.bias = s->d ? kit_input(k, s->type, s->c, 1) : NULL,
		.x = kit_input(k, DTYPE_F32, s->a * s->b, 1),
		.dy = kit_input(k, DTYPE_F32, s->a * s->c, 1),
		.y = kit_output(k, s->a * s->c * sizeof(float)),
		.dx = kit_output(k, s->a * s->b * sizeof(float)),
		.dw = kit_sum(k, s->b * s->c),
		.dbias = s->d ? kit_sum(k, s->c) : NULL,
	};

	/* The least that is allowed, and then some that is no multiple of anything. */
	l.scratch_count = (s->b > s->c ? s->b : s->c) * (s->d > 1 ? s->d : 1) + s->d;
	l.scratch = kit_output(k, l.scratch_count * sizeof(float));
	return l;
}

static void case_linear(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	struct linear l = linear_inputs(k, s);
	struct reference_linear ref = {
		.rows = l.rows,
		.in = l.in,
		.out = l.out,
		.w_transposed = l.w_transposed,
		.w = kit_doubles(k, l.w, l.w_type, l.in * l.out),
		.bias = l.bias ? kit_doubles(k, l.bias, l.w_type, l.out) : NULL,
		.x = kit_doubles(k, l.x, DTYPE_F32, l.rows * l.in),
		.dy = kit_doubles(k, l.dy, DTYPE_F32, l.rows * l.out),
		.y = kit_room(k, l.rows * l.out),
		.dx = kit_room(k, l.rows * l.in),
		.dw = kit_doubles(k, l.dw, DTYPE_F32, l.in * l.out),
		.dbias = l.dbias ? kit_doubles(k, l.dbias, DTYPE_F32, l.out) : NULL,
	};

	linear_forward(k->stream, &l);
	linear_backward_input(k->stream, &l);
	linear_backward_weight(k->stream, &l);
	kit_sync(k);
	reference_linear_forward(&ref);
	reference_linear_backward(&ref);
	ops_output(r, "y", l.y, ref.y, l.rows * l.out, ops_product_tolerance(l.in));
	ops_output(r, "dx", l.dx, ref.dx, l.rows * l.in, ops_product_tolerance(l.out));
	ops_output(r, "dw", l.dw, ref.dw, l.in * l.out, ops_product_tolerance(l.rows));
	if (l.dbias)
		ops_output(r, "dbias", l.dbias, ref.dbias, l.out, ops_product_tolerance(l.rows));
}

/* Rows of y and dy lie apart; a residual is added. */
static void case_linear_add(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	struct linear l = linear_inputs(k, s);
	size_t row = l.out + 3;
	struct reference_linear ref = {
		.rows = l.rows,
		.in = l.in,
		.out = l.out,
		.w_transposed = l.w_transposed,
		.w = kit_doubles(k, l.w, l.w_type, l.in * l.out),
		.bias = l.bias ? kit_doubles(k, l.bias, l.w_type, l.out) : NULL,
		.x = kit_doubles(k, l.x, DTYPE_F32, l.rows * l.in),
		.y = kit_room(k, l.rows * l.out),
		.dx = kit_room(k, l.rows * l.in),
		.dw = kit_doubles(k, l.dw, DTYPE_F32, l.in * l.out),
		.dbias = l.dbias ? kit_doubles(k, l.dbias, DTYPE_F32, l.out) : NULL,
	};
	double *sum, *dy = kit_room(k, l.rows * l.out);
	float *y;

	l.y_row = row;
	l.y = kit_output(k, l.rows * row * sizeof(float));
	l.dy = kit_input(k, DTYPE_F32, l.rows * row, 1);
	l.add = kit_input(k, DTYPE_F32, l.rows * l.out, 1);
	sum = kit_doubles(k, l.add, DTYPE_F32, l.rows * l.out);
	for (size_t i = 0; i < l.rows; i++)
		for (size_t j = 0; j < l.out; j++)
			dy[i * l.out + j] = (double)((const float *)l.dy)[i * row + j];
	ref.dy = dy;
	linear_forward(k->stream, &l);
	linear_backward_input(k->stream, &l);
	linear_backward_weight(k->stream, &l);
	kit_sync(k);
	reference_linear_forward(&ref);
	reference_linear_backward(&ref);
	/* Between its rows y is as it was: packed, the rest is the poison. */
	y = l.y;
	for (size_t i = 0; i < l.rows; i++) {
		for (size_t j = l.out; j < row; j++)
			if (!isnan(y[i * row + j]))
				snprintf(r->wrong, sizeof(r->wrong), "wrote behind row %zu", i);
		memmove(y + i * l.out, y + i * row, l.out * sizeof(*y));
	}
	for (size_t i = 0; i < l.rows * l.out; i++)
		sum[i] += ref.y[i];
	ops_output(r, "y", y, sum, l.rows * l.out, ops_product_tolerance(l.in));
	ops_output(r, "dx", l.dx, ref.dx, l.rows * l.in, ops_product_tolerance(l.out));
	ops_output(r, "dw", l.dw, ref.dw, l.in * l.out, ops_product_tolerance(l.rows));
	if (l.dbias)
		ops_output(r, "dbias", l.dbias, ref.dbias, l.out, ops_product_tolerance(l.rows));
}

/* GELU behind the product, and its slope behind the one backward. */
static void case_linear_gelu(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	struct linear l = linear_inputs(k, s);
	size_t n = l.rows * l.out;
	struct reference_linear ref = {
		.rows = l.rows,
		.in = l.in,
		.out = l.out,
		.w_transposed = l.w_transposed,
		.w = kit_doubles(k, l.w, l.w_type, l.in * l.out),
		.bias = l.bias ? kit_doubles(k, l.bias, l.w_type, l.out) : NULL,
		.x = kit_doubles(k, l.x, DTYPE_F32, l.rows * l.in),
		.dy = kit_doubles(k, l.dy, DTYPE_F32, n),
		.y = kit_room(k, n),
		.dx = kit_room(k, l.rows * l.in),
	};
	double *y = kit_room(k, n), *before;
	struct linear back = l;

	l.gelu_in = kit_output(k, n * sizeof(float));
	linear_forward(k->stream, &l);
	back.gelu_in = kit_input(k, DTYPE_F32, l.rows * l.in, 3);
	before = kit_doubles(k, back.gelu_in, DTYPE_F32, l.rows * l.in);
	linear_backward_input(k->stream, &back);
	kit_sync(k);
	reference_linear_forward(&ref);
	reference_linear_backward(&ref);
	for (size_t i = 0; i < n; i++)
		y[i] = reference_gelu(ref.y[i]);
	for (size_t i = 0; i < l.rows * l.in; i++)
		ref.dx[i] *= reference_gelu_slope(before[i]);
	ops_output(r, "gelu_in", l.gelu_in, ref.y, n, ops_product_tolerance(l.in));
	ops_output(r, "y", l.y, y, n, 2 * ops_product_tolerance(l.in));
	ops_output(r, "dx", back.dx, ref.dx, l.rows * l.in, 2 * ops_product_tolerance(l.out));
}

static const struct ops_case cases[] = {
	/* rows, in, out, bias and size of scratch; transposed */
	{"linear 1x1x1", case_linear, {1, 1, 1, 0, DTYPE_F32, false}},
	{"linear 7x5x3", case_linear, {7, 5, 3, 1, DTYPE_F32, false}},
	{"linear 7x5x3 transposed", case_linear, {7, 5, 3, 1, DTYPE_F32, true}},
	{"linear 300x65x130", case_linear, {300, 65, 130, 1, DTYPE_F32, false}},
	{"linear 300x130x65 transposed", case_linear, {300, 130, 65, 0, DTYPE_F32, true}},
	{"linear 520x64x1100", case_linear, {520, 64, 1100, 1, DTYPE_F32, false}},
	{"linear bf16 7x5x3", case_linear, {7, 5, 3, 1, DTYPE_BF16, false}},
	{"linear bf16 7x5x3 transposed", case_linear, {7, 5, 3, 0, DTYPE_BF16, true}},
	{"linear bf16 270x65x130", case_linear, {270, 65, 130, 21, DTYPE_BF16, false}},
	{"linear bf16 270x130x65 transposed", case_linear, {270, 130, 65, 37, DTYPE_BF16, true}},
	{"linear bf16 64x256x1040", case_linear, {64, 256, 1040, 300, DTYPE_BF16, false}},
	{"linear add 1x3x2", case_linear_add, {1, 3, 2, 0, DTYPE_F32, false}},
	{"linear add 270x65x130", case_linear_add, {270, 65, 130, 1, DTYPE_F32, false}},
	{"linear add 37x130x65 transposed", case_linear_add, {37, 130, 65, 0, DTYPE_F32, true}},
	{"linear add bf16 37x65x130", case_linear_add, {37, 65, 130, 21, DTYPE_BF16, false}},
	{"linear gelu 1x3x2", case_linear_gelu, {1, 3, 2, 1, DTYPE_F32, false}},
	{"linear gelu 270x65x130", case_linear_gelu, {270, 65, 130, 1, DTYPE_F32, false}},
	{"linear gelu bf16 37x130x65", case_linear_gelu, {37, 130, 65, 9, DTYPE_BF16, true}},
};

const struct ops_table ops_linear = {cases, sizeof(cases) / sizeof(cases[0])};
