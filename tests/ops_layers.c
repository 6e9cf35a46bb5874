/* Cases of t_ops: what a layer does between its products. */
#include <stdio.h>
#include <string.h>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/norm.h"
#include "kernels/reference.h"
#include "kernels/rotary.h"
#include "tests/ops_cases.h"

static void case_layernorm(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	size_t rows = s->a, width = s->b, n = rows * width;
	struct layernorm l = {
		.rows = rows,
		.width = width,
		.eps = 1e-5f,
		.type = s->type,
		.gain = kit_input(k, s->type, width, 2),
		.bias = kit_input(k, s->type, width, 1),
		.x = kit_input(k, DTYPE_F32, n, 3),
		.y = kit_output(k, n * sizeof(float)),
		.mean = kit_output(k, rows * sizeof(float)),
		.rstd = kit_output(k, rows * sizeof(float)),
		.dy = kit_input(k, DTYPE_F32, n, 1),
		.dx = kit_sum(k, n),
		.dgain = kit_sum(k, width),
		.dbias = kit_sum(k, width),
	};
	struct reference_layernorm ref = {
		.rows = rows,
		.width = width,
		.eps = (double)l.eps,
		.gain = kit_doubles(k, l.gain, l.type, width),
		.bias = kit_doubles(k, l.bias, l.type, width),
		.x = kit_doubles(k, l.x, DTYPE_F32, n),
		.y = kit_room(k, n),
		.mean = kit_room(k, rows),
		.rstd = kit_room(k, rows),
		.dy = kit_doubles(k, l.dy, DTYPE_F32, n),
		.dx = kit_doubles(k, l.dx, DTYPE_F32, n),
		.dgain = kit_doubles(k, l.dgain, DTYPE_F32, width),
		.dbias = kit_doubles(k, l.dbias, DTYPE_F32, width),
	};

	layernorm_forward(k->stream, &l);
	layernorm_backward(k->stream, &l);
	kit_sync(k);
	reference_layernorm_forward(&ref);
	reference_layernorm_backward(&ref);
	/* A row of one element, whose variance is zero, has an rstd of 316. */
	ops_output(r, "y", l.y, ref.y, n, 2e-6);
	ops_output(r, "dx", l.dx, ref.dx, n, 4e-6);
	ops_output(r, "dgain", l.dgain, ref.dgain, width, ops_product_tolerance(rows));
	ops_output(r, "dbias", l.dbias, ref.dbias, width, ops_product_tolerance(rows));
}

static void case_rmsnorm(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	size_t rows = s->a, width = s->b, n = rows * width;
	struct rmsnorm l = {
		.rows = rows,
		.width = width,
		.eps = 1e-5f,
		.type = s->type,
		.gain = kit_input(k, s->type, width, 2),
		.x = kit_input(k, DTYPE_F32, n, 3),
		.y = kit_output(k, n * sizeof(float)),
		.rstd = kit_output(k, rows * sizeof(float)),
		.dy = kit_input(k, DTYPE_F32, n, 1),
		.dx = kit_sum(k, n),
		.dgain = kit_sum(k, width),
	};
	struct reference_rmsnorm ref = {
		.rows = rows,
		.width = width,
		.eps = (double)l.eps,
		.gain = kit_doubles(k, l.gain, l.type, width),
		.x = kit_doubles(k, l.x, DTYPE_F32, n),
		.y = kit_room(k, n),
		.rstd = kit_room(k, rows),
		.dy = kit_doubles(k, l.dy, DTYPE_F32, n),
		.dx = kit_doubles(k, l.dx, DTYPE_F32, n),
		.dgain = kit_doubles(k, l.dgain, DTYPE_F32, width),
	};

	rmsnorm_forward(k->stream, &l);
	rmsnorm_backward(k->stream, &l);
	kit_sync(k);
	reference_rmsnorm_forward(&ref);
	reference_rmsnorm_backward(&ref);
	ops_output(r, "y", l.y, ref.y, n, 1e-6);
	ops_output(r, "rstd", l.rstd, ref.rstd, rows, 1e-6);
	ops_output(r, "dx", l.dx, ref.dx, n, 2e-6);
	ops_output(r, "dgain", l.dgain, ref.dgain, width, ops_product_tolerance(rows));
}

/* The heads of a row are turned, and one more behind them stays. */
static void case_rotary(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	size_t width = s->c * s->d, row = width + s->d, n = s->a * s->b * row;
	float *table = kit_output(k, s->b * s->d * sizeof(float));
	struct rotary o = {
		.batch = s->a,
		.seq = s->b,
		.heads = s->c,
		.head_dim = s->d,
		.row = row,
		.x = kit_sum(k, n),
		.table = table,
		.inverse = s->flag,
	};
	struct reference_rotary ref = {
		.batch = s->a,
		.seq = s->b,
		.heads = s->c,
		.head_dim = s->d,
		.row = row,
		.theta = 10000,
		.inverse = s->flag,
		.x = kit_doubles(k, o.x, DTYPE_F32, n),
	};
	const float *x = o.x;

	rotary_host_table(table, s->b, s->d, ref.theta);
	rotary(k->stream, &o);
	kit_sync(k);
	reference_rotary(&ref);
	for (size_t i = 0; i < n; i++)
		if (i % row >= width && (double)x[i] != ref.x[i])
			snprintf(r->wrong, sizeof(r->wrong), "wrote behind row %zu", i / row);
	ops_output(r, "x", x, ref.x, n, 2e-7);
}

static void case_attention(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	size_t width = s->c * s->d, tokens = s->a * s->b, rows = s->a * s->b * s->c;
	unsigned threads = 3;
	struct attention a = {
		.batch = s->a,
		.seq = s->b,
		.heads = s->c,
		.head_dim = s->d,
		.qkv = kit_input(k, DTYPE_F32, tokens * 3 * width, s->flag ? 6 : 2),
		.out = kit_output(k, tokens * width * sizeof(float)),
		.lse = kit_output(k, rows * sizeof(float)),
		.dout = kit_input(k, DTYPE_F32, tokens * width, 1),
		.dqkv = kit_output(k, tokens * 3 * width * sizeof(float)),
		.scratch_count =
			attention_scratch_count(DEVICE_CPU, s->a, s->b, s->c, s->d, threads),
	};
	struct reference_attention ref = {
		.batch = s->a,
		.seq = s->b,
		.heads = s->c,
		.head_dim = s->d,
		.qkv = kit_doubles(k, a.qkv, DTYPE_F32, tokens * 3 * width),
		.dout = kit_doubles(k, a.dout, DTYPE_F32, tokens * width),
		.out = kit_room(k, tokens * width),
		.lse = kit_room(k, rows),
		.dqkv = kit_room(k, tokens * 3 * width),
	};

	a.scratch = kit_output(k, a.scratch_count * sizeof(float));
	attention_forward(k->stream, &a);
	attention_backward(k->stream, &a);
	kit_sync(k);
	reference_attention_forward(&ref);
	reference_attention_backward(&ref);
	/* A score of 36 * sqrt(dim) is rounded to a part in 2^24; e^x makes that absolute. */
	ops_output(r, "out", a.out, ref.out, tokens * width, s->flag ? 2e-5 : 2e-6);
	ops_output(r, "lse", a.lse, ref.lse, rows, 1e-6);
	ops_output(r, "dqkv", a.dqkv, ref.dqkv, tokens * 3 * width, s->flag ? 4e-5 : 4e-6);
}

static void case_gelu(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	struct gelu g = {
		.count = s->a,
		.x = kit_input(k, DTYPE_F32, s->a, (double)s->b),
		.dy = kit_input(k, DTYPE_F32, s->a, 1),
		.y = kit_output(k, s->a * sizeof(float)),
		.dx = kit_sum(k, s->a),
	};
	double *x = kit_doubles(k, g.x, DTYPE_F32, s->a), *y = kit_room(k, s->a);
	double *dx = kit_doubles(k, g.dy, DTYPE_F32, s->a);

	if (s->flag) { /* in place */
		memcpy(g.dx, g.dy, s->a * sizeof(float));
		g.dy = g.dx;
	}
	gelu_forward(k->stream, &g);
	gelu_backward(k->stream, &g);
	kit_sync(k);
	for (size_t i = 0; i < s->a; i++) {
		y[i] = reference_gelu(x[i]);
		dx[i] *= reference_gelu_slope(x[i]);
	}
	ops_output(r, "y", g.y, y, s->a, 3e-7);
	ops_output(r, "dx", g.dx, dx, s->a, 6e-7);
}

static void case_swiglu(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	size_t n = s->a * s->b;
	float *x = kit_sum(k, 2 * n);
	struct swiglu g = {
		.rows = s->a,
		.width = s->b,
		.x = x,
		.y = kit_output(k, n * sizeof(float)),
		.dy = kit_input(k, DTYPE_F32, n, 1),
		.dx = s->flag ? x : kit_output(k, 2 * n * sizeof(float)),
	};
	struct reference_swiglu ref = {
		.rows = s->a,
		.width = s->b,
		.dy = kit_doubles(k, g.dy, DTYPE_F32, n),
		.y = kit_room(k, n),
		.dx = kit_room(k, 2 * n),
	};

	for (size_t i = 0; i < 2 * n; i++)
		x[i] *= (float)s->c;
	ref.x = kit_doubles(k, x, DTYPE_F32, 2 * n);
	swiglu_forward(k->stream, &g);
	swiglu_backward(k->stream, &g);
	kit_sync(k);
	reference_swiglu_forward(&ref);
	reference_swiglu_backward(&ref);
	ops_output(r, "y", g.y, ref.y, n, 3e-7);
	ops_output(r, "dx", g.dx, ref.dx, 2 * n, 6e-7);
}

static const struct ops_case cases[] = {
	/* rows, width */
	{"layernorm 3x1", case_layernorm, {3, 1, 0, 0, DTYPE_F32, false}},
	{"layernorm 33x17", case_layernorm, {33, 17, 0, 0, DTYPE_F32, false}},
	{"layernorm 100x256", case_layernorm, {100, 256, 0, 0, DTYPE_F32, false}},
	{"layernorm bf16 65x771", case_layernorm, {65, 771, 0, 0, DTYPE_BF16, false}},
	{"rmsnorm 3x1", case_rmsnorm, {3, 1, 0, 0, DTYPE_F32, false}},
	{"rmsnorm 33x17", case_rmsnorm, {33, 17, 0, 0, DTYPE_F32, false}},
	{"rmsnorm 100x256", case_rmsnorm, {100, 256, 0, 0, DTYPE_F32, false}},
	{"rmsnorm bf16 65x771", case_rmsnorm, {65, 771, 0, 0, DTYPE_BF16, false}},
	/* batch, seq, heads, head_dim; inverse */
	{"rotary 1x1x1x2", case_rotary, {1, 1, 1, 2, DTYPE_F32, false}},
	{"rotary 2x7x3x10", case_rotary, {2, 7, 3, 10, DTYPE_F32, false}},
	{"rotary 3x129x4x64", case_rotary, {3, 129, 4, 64, DTYPE_F32, false}},
	{"rotary 1x300x2x80 inverse", case_rotary, {1, 300, 2, 80, DTYPE_F32, true}},
	{"rotary 2x3x70x128 inverse", case_rotary, {2, 3, 70, 128, DTYPE_F32, true}},
	/* batch, seq, heads, head_dim; large scores */
	{"attention 1x1x1x1", case_attention, {1, 1, 1, 1, DTYPE_F32, false}},
	{"attention 2x7x3x5", case_attention, {2, 7, 3, 5, DTYPE_F32, false}},
	{"attention 2x64x2x32", case_attention, {2, 64, 2, 32, DTYPE_F32, false}},
	{"attention 1x65x2x20", case_attention, {1, 65, 2, 20, DTYPE_F32, true}},
	{"attention 1x200x1x64", case_attention, {1, 200, 1, 64, DTYPE_F32, true}},
	{"attention 3x129x2x48", case_attention, {3, 129, 2, 48, DTYPE_F32, false}},
	/* count, span of x; in place */
	{"gelu 1", case_gelu, {1, 3, 0, 0, DTYPE_F32, false}},
	{"gelu 4099", case_gelu, {4099, 3, 0, 0, DTYPE_F32, true}},
	{"gelu 10000 wide", case_gelu, {10000, 60, 0, 0, DTYPE_F32, false}},
	/* rows, width, span of x; in place */
	{"swiglu 1x1", case_swiglu, {1, 1, 3, 0, DTYPE_F32, false}},
	{"swiglu 300x17", case_swiglu, {300, 17, 3, 0, DTYPE_F32, false}},
	{"swiglu 37x256 in place", case_swiglu, {37, 256, 5, 0, DTYPE_F32, true}},
	{"swiglu 3x5003 wide", case_swiglu, {3, 5003, 120, 0, DTYPE_F32, false}},
};

const struct ops_table ops_layers = {cases, sizeof(cases) / sizeof(cases[0])};
