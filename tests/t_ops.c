/*
 * Goal: every operation of the cpu device computes what the reference computes, and the same bits
 * for every instruction set and number of threads.
 *
 * Method: a table of cases, each an operation with a shape, odd ones among them. A case runs on
 * fixed random inputs with its outputs poisoned and fenced. First each is compared with the
 * reference in double. Then the program runs itself with "--digest THREADS" under DSRUN_CPU_MASK,
 * which prints a checksum of each case's outputs, and the lists must be equal.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cpu.h"
#include "common/crc32c.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/reference.h"
#include "kernels/vec_exp.h"
#include "kernels/vector.h"
#include "tests/kernels_kit.h"

#define SEED         20240917u
#define MEMORY_BYTES (256u << 20)
#define OUTPUTS_MAX  4

struct output {
	const char *name;
	const void *got;
	size_t count, bytes;
	double *want; /* fp32 outputs; NULL: compared by the case itself */
	double tolerance;
};

struct run {
	struct kit kit;
	struct output outputs[OUTPUTS_MAX];
	size_t output_count;
	char wrong[128]; /* what a case found by itself; empty: nothing */
};

struct shape {
	size_t a, b, c, d;
	enum dtype type;
	bool flag;
};

typedef void case_fn(struct run *r, const struct shape *s);

static void output(struct run *r, const char *name, const float *got, double *want, size_t count,
		   double tolerance)
{
	struct output *o = &r->outputs[r->output_count++];

	*o = (struct output){name, got, count, count * sizeof(*got), want, tolerance};
}

static void check_outputs(struct run *r, const char *name)
{
	ck_assert_msg(!r->wrong[0], "%s: %s (seed %u)", name, r->wrong, SEED);
	for (size_t i = 0; i < r->output_count; i++) {
		const struct output *o = &r->outputs[i];
		double distance;

		if (!o->want)
			continue;
		distance = kit_distance(o->got, o->want, o->count, 1e-30);
		ck_assert_msg(distance <= o->tolerance, "%s: %s is off by %g, allowed %g (seed %u)",
			      name, o->name, distance, o->tolerance, SEED);
	}
}

/* Sums of n products of numbers about one, each rounded: the error grows like the root of n. */
static double product_tolerance(size_t n)
{
	return 4e-7 * (1 + sqrt((double)n) / 4);
}

static struct linear linear_inputs(struct kit *k, const struct shape *s)
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

static void case_linear(struct run *r, const struct shape *s)
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
	output(r, "y", l.y, ref.y, l.rows * l.out, product_tolerance(l.in));
	output(r, "dx", l.dx, ref.dx, l.rows * l.in, product_tolerance(l.out));
	output(r, "dw", l.dw, ref.dw, l.in * l.out, product_tolerance(l.rows));
	if (l.dbias)
		output(r, "dbias", l.dbias, ref.dbias, l.out, product_tolerance(l.rows));
}

/* Rows of y and dy lie apart; a residual is added. */
static void case_linear_add(struct run *r, const struct shape *s)
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
	output(r, "y", y, sum, l.rows * l.out, product_tolerance(l.in));
	output(r, "dx", l.dx, ref.dx, l.rows * l.in, product_tolerance(l.out));
	output(r, "dw", l.dw, ref.dw, l.in * l.out, product_tolerance(l.rows));
	if (l.dbias)
		output(r, "dbias", l.dbias, ref.dbias, l.out, product_tolerance(l.rows));
}

/* GELU behind the product, and its slope behind the one backward. */
static void case_linear_gelu(struct run *r, const struct shape *s)
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
	output(r, "gelu_in", l.gelu_in, ref.y, n, product_tolerance(l.in));
	output(r, "y", l.y, y, n, 2 * product_tolerance(l.in));
	output(r, "dx", back.dx, ref.dx, l.rows * l.in, 2 * product_tolerance(l.out));
}

static void case_layernorm(struct run *r, const struct shape *s)
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
	output(r, "y", l.y, ref.y, n, 2e-6);
	output(r, "dx", l.dx, ref.dx, n, 4e-6);
	output(r, "dgain", l.dgain, ref.dgain, width, product_tolerance(rows));
	output(r, "dbias", l.dbias, ref.dbias, width, product_tolerance(rows));
}

static void case_attention(struct run *r, const struct shape *s)
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
	output(r, "out", a.out, ref.out, tokens * width, s->flag ? 2e-5 : 2e-6);
	output(r, "lse", a.lse, ref.lse, rows, 1e-6);
	output(r, "dqkv", a.dqkv, ref.dqkv, tokens * 3 * width, s->flag ? 4e-5 : 4e-6);
}

static void case_gelu(struct run *r, const struct shape *s)
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
	output(r, "y", g.y, y, s->a, 3e-7);
	output(r, "dx", g.dx, dx, s->a, 6e-7);
}

static void case_embedding(struct run *r, const struct shape *s)
{
	struct kit *k = &r->kit;
	size_t n = s->a * s->b * s->c, vocab = 37, context = s->b + 3;
	struct embedding e = {
		.batch = s->a,
		.seq = s->b,
		.width = s->c,
		.tokens = kit_tokens(k, s->a * s->b, (uint32_t)vocab),
		.type = s->type,
		.token_table = kit_input(k, s->type, vocab * s->c, 1),
		.position_table = kit_input(k, s->type, context * s->c, 1),
		.out = kit_output(k, n * sizeof(float)),
		.dout = kit_input(k, DTYPE_F32, n, 1),
		.dtoken = kit_sum(k, vocab * s->c),
		.dposition = kit_sum(k, context * s->c),
	};
	struct reference_embedding ref = {
		.batch = s->a,
		.seq = s->b,
		.width = s->c,
		.tokens = e.tokens,
		.token_table = kit_doubles(k, e.token_table, s->type, vocab * s->c),
		.position_table = kit_doubles(k, e.position_table, s->type, context * s->c),
		.dout = kit_doubles(k, e.dout, DTYPE_F32, n),
		.out = kit_room(k, n),
		.dtoken = kit_doubles(k, e.dtoken, DTYPE_F32, vocab * s->c),
		.dposition = kit_doubles(k, e.dposition, DTYPE_F32, context * s->c),
	};

	embedding_forward(k->stream, &e);
	embedding_backward(k->stream, &e);
	kit_sync(k);
	reference_embedding_forward(&ref);
	reference_embedding_backward(&ref);
	output(r, "out", e.out, ref.out, n, 1e-7);
	output(r, "dtoken", e.dtoken, ref.dtoken, vocab * s->c, 1e-6);
	output(r, "dposition", e.dposition, ref.dposition, context * s->c, 1e-6);
}

static void case_cross_entropy(struct run *r, const struct shape *s)
{
	struct kit *k = &r->kit;
	size_t rows = s->a, vocab = s->b, n = rows * vocab, row = vocab + s->d;
	float *x = kit_sum(k, rows * row);
	struct cross_entropy c = {
		.rows = rows,
		.vocab = vocab,
		.logits = x,
		.row = s->d ? row : 0,
		.targets = kit_tokens(k, rows, (uint32_t)vocab),
		.scale = 0.125f,
		.gradient = s->flag,
		.loss_sum = kit_output(k, sizeof(double)),
	};
	double *logits = kit_room(k, n), *gradient = kit_room(k, n), loss;

	for (size_t i = 0; i < rows * row; i++)
		x[i] *= (float)s->c;
	for (size_t i = 0; i < n; i++)
		logits[i] = (double)x[i / vocab * row + i % vocab];
	*c.loss_sum = 1.5;
	cross_entropy(k->stream, &c);
	kit_sync(k);
	loss = 1.5 + reference_cross_entropy(rows, vocab, logits, c.targets, 0.125, gradient);
	if (!(fabs(*c.loss_sum - loss) <= 2e-7 * loss))
		snprintf(r->wrong, sizeof(r->wrong), "loss %.17g, expected %.17g", *c.loss_sum,
			 loss);
	for (size_t i = 0; i < rows; i++)
		memmove(x + i * vocab, x + i * row, vocab * sizeof(*x));
	output(r, s->flag ? "gradient" : "logits", x, s->flag ? gradient : logits, n, 4e-7);
	r->outputs[r->output_count++] =
		(struct output){"loss", c.loss_sum, 1, sizeof(double), NULL, 0};
}

static void case_vector(struct run *r, const struct shape *s)
{
	struct kit *k = &r->kit;
	size_t n = s->a, blocks = vector_blocks(n);
	struct vector add = {
		.count = n,
		.a = kit_input(k, DTYPE_F32, n, 1),
		.b = kit_input(k, DTYPE_F32, n, 1),
		.out = kit_output(k, n * sizeof(float)),
	};
	struct vector accumulate = {
		.count = n,
		.a = kit_input(k, s->type, n, 1),
		.a_type = s->type,
		.out = kit_sum(k, n),
	};
	struct vector sumsq = {
		.count = n,
		.a = accumulate.a,
		.a_type = s->type,
		.blocks = kit_output(k, blocks * sizeof(double)),
	};
	double *a = kit_doubles(k, add.a, DTYPE_F32, n), *b = kit_doubles(k, add.b, DTYPE_F32, n);
	double *x = kit_doubles(k, accumulate.a, s->type, n);
	double *sum = kit_doubles(k, accumulate.out, DTYPE_F32, n);

	vector_add(k->stream, &add);
	vector_accumulate(k->stream, &accumulate);
	vector_sumsq(k->stream, &sumsq);
	kit_sync(k);
	for (size_t i = 0; i < n; i++) {
		a[i] += b[i];
		sum[i] += x[i];
	}
	for (size_t i = 0; i < blocks; i++) {
		double want = 0;

		for (size_t j = i * VECTOR_BLOCK; j < n && j < (i + 1) * VECTOR_BLOCK; j++)
			want += x[j] * x[j];
		if (!(fabs(sumsq.blocks[i] - want) <= 1e-14 * want))
			snprintf(r->wrong, sizeof(r->wrong), "sum of squares of block %zu", i);
	}
	output(r, "add", add.out, a, n, 6e-8);
	output(r, "accumulate", accumulate.out, sum, n, 6e-8);
	r->outputs[r->output_count++] =
		(struct output){"sumsq", sumsq.blocks, blocks, blocks * sizeof(double), NULL, 0};
}

static const struct {
	const char *name;
	case_fn *fn;
	struct shape shape;
} cases[] = {
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
	/* rows, width */
	{"layernorm 3x1", case_layernorm, {3, 1, 0, 0, DTYPE_F32, false}},
	{"layernorm 33x17", case_layernorm, {33, 17, 0, 0, DTYPE_F32, false}},
	{"layernorm 100x256", case_layernorm, {100, 256, 0, 0, DTYPE_F32, false}},
	{"layernorm bf16 65x771", case_layernorm, {65, 771, 0, 0, DTYPE_BF16, false}},
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
	/* batch, seq, width */
	{"embedding 2x3x1", case_embedding, {2, 3, 1, 0, DTYPE_F32, false}},
	{"embedding 3x50x270", case_embedding, {3, 50, 270, 0, DTYPE_F32, false}},
	{"embedding bf16 4x33x65", case_embedding, {4, 33, 65, 0, DTYPE_BF16, false}},
	/* rows, vocab, span of the logits, elements between rows; with gradient */
	{"cross-entropy 5x1", case_cross_entropy, {5, 1, 2, 0, DTYPE_F32, true}},
	{"cross-entropy 300x256", case_cross_entropy, {300, 256, 4, 0, DTYPE_F32, true}},
	{"cross-entropy 300x257 no gradient",
	 case_cross_entropy,
	 {300, 257, 4, 0, DTYPE_F32, false}},
	{"cross-entropy 33x250 padded", case_cross_entropy, {33, 250, 4, 6, DTYPE_F32, true}},
	{"cross-entropy 9x5003 steep", case_cross_entropy, {9, 5003, 90, 0, DTYPE_F32, true}},
	/* count */
	{"vector 1", case_vector, {1, 0, 0, 0, DTYPE_F32, false}},
	{"vector 2049", case_vector, {2049, 0, 0, 0, DTYPE_F32, false}},
	{"vector bf16 100007", case_vector, {100007, 0, 0, 0, DTYPE_BF16, false}},
};

#define CASES (sizeof(cases) / sizeof(cases[0]))

static void run_case(size_t i, unsigned threads, struct run *r)
{
	memset(r, 0, sizeof(*r));
	kit_open(&r->kit, MEMORY_BYTES, threads, SEED + i);
	cases[i].fn(r, &cases[i].shape);
}

static int digest(unsigned threads)
{
	for (size_t i = 0; i < CASES; i++) {
		struct run r;

		run_case(i, threads, &r);
		printf("%s:", cases[i].name);
		for (size_t j = 0; j < r.output_count; j++)
			printf(" %s %08x", r.outputs[j].name,
			       (unsigned)crc32c(0, r.outputs[j].got, r.outputs[j].bytes));
		printf("\n");
		kit_close(&r.kit);
	}
	return fflush(stdout) == 0 ? 0 : 1;
}

/* What this program prints as "--digest threads" limited to `isa`. The caller frees it. */
static char *digest_of(const char *isa, unsigned threads)
{
	char self[512], command[700], *text = NULL;
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	size_t room = 0, got;
	FILE *pipe;

	ck_assert(len > 0);
	self[len] = '\0';
	snprintf(command, sizeof(command), "DSRUN_CPU_MASK=%s '%s' --digest %u", isa, self,
		 threads);
	pipe = popen(command, "r");
	ck_assert_ptr_nonnull(pipe);
	got = (size_t)getdelim(&text, &room, '\0', pipe);
	ck_assert_msg(got != (size_t)-1 && got > 0, "no digest of %s", isa);
	ck_assert_int_eq(pclose(pipe), 0);
	return text;
}

/* Equal line by line; the first that is not is what a person needs to see. Frees `got`. */
static void same_digest(const char *want, char *got, const char *isa, unsigned threads)
{
	const char *w = want, *g = got;

	while (*w || *g) {
		size_t w_len = strcspn(w, "\n"), g_len = strcspn(g, "\n");

		ck_assert_msg(w_len == g_len && memcmp(w, g, w_len) == 0,
			      "%s, %u threads: \"%.*s\" is not \"%.*s\"", isa, threads, (int)g_len,
			      g, (int)w_len, w);
		w += w_len + (w[w_len] != '\0');
		g += g_len + (g[g_len] != '\0');
	}
	free(got);
}

START_TEST(against_reference)
{
	struct run r;

	run_case((size_t)_i, 1, &r);
	check_outputs(&r, cases[_i].name);
	kit_close(&r.kit);
}
END_TEST

START_TEST(same_bits_for_any_number_of_threads)
{
	const char *isa = cpu_isa_name(cpu_isa());
	char *one = digest_of(isa, 1);

	for (unsigned threads = 2; threads <= 3; threads++)
		same_digest(one, digest_of(isa, threads), isa, threads);
	free(one);
}
END_TEST

START_TEST(same_bits_for_any_instruction_set)
{
	char *scalar = digest_of(cpu_isa_name(CPU_SCALAR), 2);

	for (enum cpu_isa isa = CPU_AVX2; isa <= cpu_isa_present(); isa++) {
		const char *name = cpu_isa_name(isa);

		same_digest(scalar, digest_of(name, 1), name, 1);
	}
	free(scalar);
}
END_TEST

/* A part of a vector, reduced by itself, gives the bits it has within the whole. */
START_TEST(cuts_do_not_show)
{
	static float a[3 * VECTOR_BLOCK + 5], b[3 * VECTOR_BLOCK + 5], whole[3 * VECTOR_BLOCK + 5];
	static float parts[3 * VECTOR_BLOCK + 5];
	const size_t count = sizeof(a) / sizeof(a[0]), cuts[] = {0, 1, 17, 2048, 2071, 6000, count};
	const float *src[3] = {a, b, a}, *shifted[3];
	double blocks[4], one;

	for (size_t i = 0; i < count; i++) {
		a[i] = (float)sin((double)i);
		b[i] = (float)cos(0.7 * (double)i);
	}
	vector_host_sum(whole, src, 3, count);
	for (size_t i = 0; i + 1 < sizeof(cuts) / sizeof(cuts[0]); i++) {
		for (size_t j = 0; j < 3; j++)
			shifted[j] = src[j] + cuts[i];
		vector_host_sum(parts + cuts[i], shifted, 3, cuts[i + 1] - cuts[i]);
	}
	ck_assert_mem_eq(whole, parts, sizeof(whole));
	vector_host_sumsq(blocks, a, DTYPE_F32, count);
	for (size_t i = 0; i < 4; i++) {
		size_t left = count - i * VECTOR_BLOCK;

		vector_host_sumsq(&one, a + i * VECTOR_BLOCK, DTYPE_F32,
				  left < VECTOR_BLOCK ? left : VECTOR_BLOCK);
		ck_assert_mem_eq(&one, &blocks[i], sizeof(one));
	}
}
END_TEST

/* vector_convert against dtype.h on every upper half with the lower halves where rounding turns. */
START_TEST(conversion_rounds_as_dtype_says)
{
	static const uint16_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
	const size_t lows = sizeof(low) / sizeof(low[0]);
	static uint32_t bits[65536 * 6];
	static uint16_t narrow[65536 * 6];
	static uint32_t wide[65536 * 6];

	for (size_t i = 0; i < 65536 * lows; i++)
		bits[i] = (uint32_t)(i / lows) << 16 | low[i % lows];
	vector_host_convert(narrow, DTYPE_BF16, bits, DTYPE_F32, 65536 * lows - 3);
	vector_host_convert(wide, DTYPE_F32, narrow, DTYPE_BF16, 65536 * lows - 3);
	for (size_t i = 0; i < 65536 * lows - 3; i++) {
		float f;

		memcpy(&f, &bits[i], sizeof(f));
		ck_assert_uint_eq(narrow[i], bf16_from_float(f));
		ck_assert_uint_eq(wide[i], (uint32_t)narrow[i] << 16);
	}
}
END_TEST

/*
 * vec_exp is within 2 ulp of e^x wherever that is a normal number, on every 211th float: the scalar
 * form, whose bits the others have.
 */
START_TEST(exp_is_within_two_ulp)
{
	const float from[] = {-87.33654f, 88.0f};

	for (int side = 0; side < 2; side++)
		for (float x = from[side]; fabsf(x) > 1e-9f;) {
			struct vec in, out;

			for (unsigned i = 0; i < VEC_LANES; i++) {
				in.l[i] = x;
				x = vec_float(vec_bits(x) - 211);
			}
			out = vec_exp(in);
			for (unsigned i = 0; i < VEC_LANES; i++) {
				double want = exp((double)in.l[i]);
				double ulp = ldexp(1, ilogb(want) - 23);

				if (!(fabs((double)out.l[i] - want) <= 2 * ulp))
					ck_abort_msg("e^%a is %a, expected %a", (double)in.l[i],
						     (double)out.l[i], want);
			}
		}
}
END_TEST

START_TEST(exp_at_its_ends)
{
	struct vec in = vec_set(-INFINITY), out;

	in.l[1] = -88.0f;
	in.l[2] = -1e30f;
	in.l[3] = NAN;
	in.l[4] = 0.0f;
	in.l[5] = -0.0f;
	out = vec_exp(in);
	ck_assert(out.l[0] == 0.0f && out.l[1] == 0.0f && out.l[2] == 0.0f);
	ck_assert(isnan(out.l[3]));
	ck_assert(out.l[4] == 1.0f && out.l[5] == 1.0f);
}
END_TEST

int main(int argc, char **argv)
{
	SRunner *runner;
	Suite *suite;
	TCase *tc;
	int failed;

	if (argc == 3 && strcmp(argv[1], "--digest") == 0)
		return digest((unsigned)atoi(argv[2]));
	suite = suite_create("ops");
	tc = tcase_create("ops");
	tcase_set_timeout(tc, 240);
	tcase_add_loop_test(tc, against_reference, 0, (int)CASES);
	tcase_add_test(tc, same_bits_for_any_number_of_threads);
	tcase_add_test(tc, same_bits_for_any_instruction_set);
	tcase_add_test(tc, cuts_do_not_show);
	tcase_add_test(tc, conversion_rounds_as_dtype_says);
	tcase_add_test(tc, exp_is_within_two_ulp);
	tcase_add_test(tc, exp_at_its_ends);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
