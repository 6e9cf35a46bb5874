/*
 * Goal: every CUDA kernel but products and attention computes what the reference computes; where
 * the cpu promises bits (Adam, vectors, and sums in batch order), those bits. On the host shim this
 * is part of every check; the same program built against CUDA runs on a GPU.
 *
 * Method: a table of cases, each an operation with a shape, a type of activations and parameters
 * and an offset that makes starts unaligned. cuda_kit runs each twice with outputs poisoned, and
 * sees to fences, inputs and equal bits; the case compares with doubles.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/activation.h"
#include "kernels/embedding.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/reference.h"
#include "kernels/rotary.h"
#include "tests/cuda_kit.h"

#define SEED 20241118u

struct shape {
	size_t a, b, c, d;
	enum dtype act, type; /* of activations, of parameters */
	size_t shift;         /* elements by which every buffer is unaligned */
	double span;
};

typedef void case_fn(struct cuda_kit *k, const struct shape *s);

/* Sums of n products of numbers about one, each rounded: the error grows like the root of n. */
static double sum_tolerance(size_t n)
{
	return 4e-7 * (1 + sqrt((double)n) / 4);
}

/*
 * A GPU's fast quotient is within 2 ulp (2^-22), the exponential in its divisor too, but counts by
 * half where they are largest; the sum below and a product round by 2^-24 each.
 */
#define QUOTIENT_TOLERANCE 6e-7

/* dx_act is dx, rounded. */
static void check_dx_act(struct cuda_kit *k, const float *dx, const void *dx_act, enum dtype act,
			 size_t count)
{
	const uint8_t *from = cuda_kit_after(k, dx);

	if (act == DTYPE_F32) {
		cuda_kit_same(k, "dx_act", dx_act, from, count * sizeof(float));
		return;
	}
	for (size_t i = 0; i < count; i++) {
		uint16_t want;
		float f;

		memcpy(&f, from + i * sizeof(f), sizeof(f));
		want = bf16_from_float(f);
		cuda_kit_same(k, "dx_act", (const uint16_t *)dx_act + i, &want, sizeof(want));
	}
}

/* a rows of b elements; c: dx_act is wanted, and it is dy's own memory when c is 2 */
static void case_layernorm(struct cuda_kit *k, const struct shape *s)
{
	size_t rows = s->a, width = s->b, n = rows * width;
	struct layernorm l = {
		.rows = rows,
		.width = width,
		.eps = 1e-5f,
		.type = s->type,
		.act = s->act,
		.gain = cuda_kit_input(k, s->type, width, 2),
		.bias = cuda_kit_input(k, s->type, width, 1),
		.x = cuda_kit_input(k, DTYPE_F32, n, 3),
		.y = cuda_kit_output(k, s->act, n),
		.mean = cuda_kit_output(k, DTYPE_F32, rows),
		.rstd = cuda_kit_output(k, DTYPE_F32, rows),
		.dy = s->c == 2 ? cuda_kit_inout(k, s->act, n, 1) : cuda_kit_input(k, s->act, n, 1),
		.dx = cuda_kit_inout(k, DTYPE_F32, n, 1),
		.dx_act = s->c == 1 ? cuda_kit_output(k, s->act, n) : NULL,
		.dgain = cuda_kit_inout(k, DTYPE_F32, width, 1),
		.dbias = cuda_kit_inout(k, DTYPE_F32, width, 1),
	};
	struct reference_layernorm ref = {
		.rows = rows,
		.width = width,
		.eps = (double)l.eps,
		.gain = cuda_kit_doubles(k, l.gain, s->type, width),
		.bias = cuda_kit_doubles(k, l.bias, s->type, width),
		.x = cuda_kit_doubles(k, l.x, DTYPE_F32, n),
		.y = cuda_kit_room(k, n),
		.mean = cuda_kit_room(k, rows),
		.rstd = cuda_kit_room(k, rows),
		.dy = cuda_kit_doubles(k, l.dy, s->act, n),
		.dx = cuda_kit_doubles(k, l.dx, DTYPE_F32, n),
		.dgain = cuda_kit_doubles(k, l.dgain, DTYPE_F32, width),
		.dbias = cuda_kit_doubles(k, l.dbias, DTYPE_F32, width),
	};

	if (s->c == 2)
		l.dx_act = (void *)(uintptr_t)l.dy;
	CUDA_KIT_CALL(k, cuda_layernorm_forward, &l);
	CUDA_KIT_CALL(k, cuda_layernorm_backward, &l);
	cuda_kit_execute(k);
	reference_layernorm_forward(&ref);
	reference_layernorm_backward(&ref);
	/* A row of one element, whose variance is zero, has an rstd of 316. */
	cuda_kit_near(k, "y", l.y, s->act, ref.y, n, 2e-6);
	cuda_kit_near(k, "mean", l.mean, DTYPE_F32, ref.mean, rows, 1e-6);
	cuda_kit_near(k, "rstd", l.rstd, DTYPE_F32, ref.rstd, rows, 1e-6);
	cuda_kit_near(k, "dx", l.dx, DTYPE_F32, ref.dx, n, 4e-6);
	cuda_kit_near(k, "dgain", l.dgain, DTYPE_F32, ref.dgain, width, sum_tolerance(rows));
	cuda_kit_near(k, "dbias", l.dbias, DTYPE_F32, ref.dbias, width, sum_tolerance(rows));
	if (l.dx_act)
		check_dx_act(k, l.dx, l.dx_act, s->act, n);
}

/* As case_layernorm. */
static void case_rmsnorm(struct cuda_kit *k, const struct shape *s)
{
	size_t rows = s->a, width = s->b, n = rows * width;
	struct rmsnorm l = {
		.rows = rows,
		.width = width,
		.eps = 1e-5f,
		.type = s->type,
		.act = s->act,
		.gain = cuda_kit_input(k, s->type, width, 2),
		.x = cuda_kit_input(k, DTYPE_F32, n, 3),
		.y = cuda_kit_output(k, s->act, n),
		.rstd = cuda_kit_output(k, DTYPE_F32, rows),
		.dy = s->c == 2 ? cuda_kit_inout(k, s->act, n, 1) : cuda_kit_input(k, s->act, n, 1),
		.dx = cuda_kit_inout(k, DTYPE_F32, n, 1),
		.dx_act = s->c == 1 ? cuda_kit_output(k, s->act, n) : NULL,
		.dgain = cuda_kit_inout(k, DTYPE_F32, width, 1),
	};
	struct reference_rmsnorm ref = {
		.rows = rows,
		.width = width,
		.eps = (double)l.eps,
		.gain = cuda_kit_doubles(k, l.gain, s->type, width),
		.x = cuda_kit_doubles(k, l.x, DTYPE_F32, n),
		.y = cuda_kit_room(k, n),
		.rstd = cuda_kit_room(k, rows),
		.dy = cuda_kit_doubles(k, l.dy, s->act, n),
		.dx = cuda_kit_doubles(k, l.dx, DTYPE_F32, n),
		.dgain = cuda_kit_doubles(k, l.dgain, DTYPE_F32, width),
	};

	if (s->c == 2)
		l.dx_act = (void *)(uintptr_t)l.dy;
	CUDA_KIT_CALL(k, cuda_rmsnorm_forward, &l);
	CUDA_KIT_CALL(k, cuda_rmsnorm_backward, &l);
	cuda_kit_execute(k);
	reference_rmsnorm_forward(&ref);
	reference_rmsnorm_backward(&ref);
	cuda_kit_near(k, "y", l.y, s->act, ref.y, n, 2e-6);
	cuda_kit_near(k, "rstd", l.rstd, DTYPE_F32, ref.rstd, rows, 1e-6);
	cuda_kit_near(k, "dx", l.dx, DTYPE_F32, ref.dx, n, 4e-6);
	cuda_kit_near(k, "dgain", l.dgain, DTYPE_F32, ref.dgain, width, sum_tolerance(rows));
	if (l.dx_act)
		check_dx_act(k, l.dx, l.dx_act, s->act, n);
}

/* a elements; c: in place */
static void case_gelu(struct cuda_kit *k, const struct shape *s)
{
	struct gelu g = {
		.count = s->a,
		.act = s->act,
		.x = cuda_kit_input(k, s->act, s->a, s->span),
		.y = cuda_kit_output(k, s->act, s->a),
		.dx = cuda_kit_inout(k, s->act, s->a, 1),
	};
	double *x = cuda_kit_doubles(k, g.x, s->act, s->a), *y = cuda_kit_room(k, s->a), *dx;

	g.dy = s->c ? g.dx : cuda_kit_input(k, s->act, s->a, 1);
	dx = cuda_kit_doubles(k, g.dy, s->act, s->a);
	CUDA_KIT_CALL(k, cuda_gelu_forward, &g);
	CUDA_KIT_CALL(k, cuda_gelu_backward, &g);
	cuda_kit_execute(k);
	for (size_t i = 0; i < s->a; i++) {
		y[i] = reference_gelu(x[i]);
		dx[i] *= reference_gelu_slope(x[i]);
	}
	cuda_kit_near(k, "y", g.y, s->act, y, s->a, QUOTIENT_TOLERANCE);
	cuda_kit_near(k, "dx", g.dx, s->act, dx, s->a, 8e-7);
}

/* a rows of b elements; c: in place */
static void case_swiglu(struct cuda_kit *k, const struct shape *s)
{
	size_t n = s->a * s->b;
	struct swiglu w = {
		.rows = s->a,
		.width = s->b,
		.act = s->act,
		.x = s->c ? cuda_kit_inout(k, s->act, 2 * n, s->span)
			  : cuda_kit_input(k, s->act, 2 * n, s->span),
		.y = cuda_kit_output(k, s->act, n),
		.dy = cuda_kit_input(k, s->act, n, 1),
	};
	struct reference_swiglu ref = {
		.rows = s->a,
		.width = s->b,
		.x = cuda_kit_doubles(k, w.x, s->act, 2 * n),
		.dy = cuda_kit_doubles(k, w.dy, s->act, n),
		.y = cuda_kit_room(k, n),
		.dx = cuda_kit_room(k, 2 * n),
	};

	w.dx = s->c ? (void *)(uintptr_t)w.x : cuda_kit_output(k, s->act, 2 * n);
	CUDA_KIT_CALL(k, cuda_swiglu_forward, &w);
	CUDA_KIT_CALL(k, cuda_swiglu_backward, &w);
	cuda_kit_execute(k);
	reference_swiglu_forward(&ref);
	reference_swiglu_backward(&ref);
	cuda_kit_near(k, "y", w.y, s->act, ref.y, n, QUOTIENT_TOLERANCE);
	cuda_kit_near(k, "dx", w.dx, s->act, ref.dx, 2 * n, 8e-7);
}

/* batch a, seq b, heads c of d elements, and 5 behind them where span is not 1 */
static void case_rotary(struct cuda_kit *k, const struct shape *s)
{
	size_t row = s->c * s->d + (s->span > 1 ? 5 : 0), n = s->a * s->b * row;
	float *table = malloc(s->b * s->d * sizeof(*table));
	struct rotary r = {
		.batch = s->a,
		.seq = s->b,
		.heads = s->c,
		.head_dim = s->d,
		.row = row,
		.act = s->act,
		.x = cuda_kit_inout(k, s->act, n, 1),
	};
	struct rotary back = r;
	double *x = cuda_kit_doubles(k, r.x, s->act, n);
	struct reference_rotary ref = {s->a, s->b, s->c, s->d, row, 10000, false, x};

	ck_assert_ptr_nonnull(table);
	rotary_host_table(table, s->b, s->d, 10000);
	r.table = back.table = cuda_kit_given(k, table, s->b * s->d, sizeof(*table));
	free(table);
	back.x = cuda_kit_inout_given(k, cuda_kit_before(k, r.x), n, dtype_bytes(s->act));
	back.inverse = true;
	CUDA_KIT_CALL(k, cuda_rotary, &r);
	CUDA_KIT_CALL(k, cuda_rotary, &back);
	cuda_kit_execute(k);
	reference_rotary(&ref);
	cuda_kit_near(k, "turned", r.x, s->act, x, n, 3e-7);
	ref.inverse = true;
	reference_rotary(&ref);
	reference_rotary(&ref);
	cuda_kit_near(k, "turned back", back.x, s->act, x, n, 3e-7);
	for (size_t i = 0; i < s->a * s->b; i++) {
		size_t at = (i * row + s->c * s->d) * dtype_bytes(s->act);
		size_t bytes = (row - s->c * s->d) * dtype_bytes(s->act);
		const uint8_t *before = cuda_kit_before(k, r.x);

		cuda_kit_same(k, "behind the heads", (uint8_t *)r.x + at, before + at, bytes);
	}
}

/* The tables' gradients in fp32 and batch order: to the bit. */
static void embedding_want(const struct embedding *e, const uint32_t *tokens, const float *dout,
			   float *dtoken, float *dposition)
{
	for (size_t i = 0; i < e->batch * e->seq; i++)
		for (size_t j = 0; j < e->width; j++) {
			dtoken[tokens[i] * e->width + j] += dout[i * e->width + j];
			dposition[i % e->seq * e->width + j] += dout[i * e->width + j];
		}
}

static void *copy_of(struct cuda_kit *k, const void *p, size_t bytes)
{
	return memcpy(cuda_kit_room(k, bytes / sizeof(double) + 1), cuda_kit_before(k, p), bytes);
}

/* batch a, seq b, width c, ids below d */
static void case_embedding(struct cuda_kit *k, const struct shape *s)
{
	size_t rows = s->a * s->b, n = rows * s->c, context = s->b + 3;
	size_t token_bytes = s->d * s->c * sizeof(float);
	size_t position_bytes = context * s->c * sizeof(float);
	struct embedding e = {
		.batch = s->a,
		.seq = s->b,
		.width = s->c,
		.tokens = cuda_kit_tokens(k, rows, (uint32_t)s->d),
		.type = s->type,
		.token_table = cuda_kit_input(k, s->type, s->d * s->c, 1),
		.position_table = cuda_kit_input(k, s->type, context * s->c, 1),
		.out = cuda_kit_output(k, DTYPE_F32, n),
		.dout = cuda_kit_input(k, DTYPE_F32, n, 1),
		.dtoken = cuda_kit_inout(k, DTYPE_F32, s->d * s->c, 1),
		.dposition = cuda_kit_inout(k, DTYPE_F32, context * s->c, 1),
	};
	float *dtoken = copy_of(k, e.dtoken, token_bytes);
	float *dposition = copy_of(k, e.dposition, position_bytes);
	uint32_t *tokens = copy_of(k, e.tokens, rows * sizeof(*tokens));
	struct reference_embedding ref = {
		.batch = s->a,
		.seq = s->b,
		.width = s->c,
		.tokens = tokens,
		.token_table = cuda_kit_doubles(k, e.token_table, s->type, s->d * s->c),
		.position_table = cuda_kit_doubles(k, e.position_table, s->type, context * s->c),
		.out = cuda_kit_room(k, n),
	};

	CUDA_KIT_CALL(k, cuda_embedding_forward, &e);
	CUDA_KIT_CALL(k, cuda_embedding_backward, &e);
	cuda_kit_execute(k);
	reference_embedding_forward(&ref);
	embedding_want(&e, tokens, copy_of(k, e.dout, n * sizeof(float)), dtoken, dposition);
	cuda_kit_near(k, "out", e.out, DTYPE_F32, ref.out, n, 6e-8);
	cuda_kit_same(k, "dtoken", e.dtoken, dtoken, token_bytes);
	cuda_kit_same(k, "dposition", e.dposition, dposition, position_bytes);
}

/* a rows of b logits, c elements between rows; d: with gradient */
static void case_cross_entropy(struct cuda_kit *k, const struct shape *s)
{
	size_t rows = s->a, vocab = s->b, row = vocab + s->c, n = rows * vocab;
	const double already = 1.5;
	double loss;
	struct cross_entropy c = {
		.rows = rows,
		.vocab = vocab,
		.act = s->act,
		.logits = cuda_kit_inout(k, s->act, rows * row, s->span),
		.row = s->c ? row : 0,
		.targets = cuda_kit_tokens(k, rows, (uint32_t)vocab),
		.scale = 0.125f,
		.gradient = s->d,
		.loss_sum = cuda_kit_inout_given(k, &already, 1, sizeof(already)),
	};
	const uint32_t *targets = copy_of(k, c.targets, rows * sizeof(*targets));
	double *x = cuda_kit_doubles(k, c.logits, s->act, rows * row);
	double *logits = cuda_kit_room(k, n), *gradient = cuda_kit_room(k, n), want;

	for (size_t i = 0; i < n; i++)
		logits[i] = x[i / vocab * row + i % vocab];
	CUDA_KIT_CALL(k, cuda_cross_entropy, &c);
	cuda_kit_execute(k);
	want = already + reference_cross_entropy(rows, vocab, logits, targets, 0.125, gradient);
	memcpy(&loss, cuda_kit_after(k, c.loss_sum), sizeof(loss));
	ck_assert_msg(fabs(loss - want) <= (s->act == DTYPE_BF16 ? 2e-6 : 3e-7) * want,
		      "%s: loss %.12g, expected %.12g (seed %u)", k->name, loss, want, SEED);
	/* Between rows, and everywhere without gradient, all is as it was. */
	for (size_t i = 0; s->d && i < n; i++)
		x[i / vocab * row + i % vocab] = gradient[i];
	cuda_kit_near(k, s->d ? "gradient" : "logits", c.logits, s->act, x, rows * row,
		      s->act == DTYPE_BF16 ? 2e-6 : 1e-6);
}

/* Losses of a rows of b logits are the same bits in one call as in two, cut after c rows. */
static void case_cross_entropy_cut(struct cuda_kit *k, const struct shape *s)
{
	const double already = 0.75;
	struct cross_entropy whole = {
		.rows = s->a,
		.vocab = s->b,
		.act = s->act,
		.logits = cuda_kit_input(k, s->act, s->a * s->b, s->span),
		.targets = cuda_kit_tokens(k, s->a, (uint32_t)s->b),
		.loss_sum = cuda_kit_inout_given(k, &already, 1, sizeof(already)),
	};
	struct cross_entropy first = whole, rest = whole;

	first.rows = s->c;
	rest.rows = s->a - s->c;
	rest.logits = (uint8_t *)whole.logits + s->c * s->b * dtype_bytes(s->act);
	rest.targets = whole.targets + s->c;
	first.loss_sum = rest.loss_sum = cuda_kit_inout_given(k, &already, 1, sizeof(already));
	CUDA_KIT_CALL(k, cuda_cross_entropy, &whole);
	CUDA_KIT_CALL(k, cuda_cross_entropy, &first);
	CUDA_KIT_CALL(k, cuda_cross_entropy, &rest);
	cuda_kit_execute(k);
	cuda_kit_same(k, "the loss", whole.loss_sum, cuda_kit_after(k, rest.loss_sum),
		      sizeof(double));
}

static const float special[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 100.0f, -100.0f, 1e30f};
#define SPECIALS (sizeof(special) / sizeof(special[0]))

/* What is not a number stays none, what is beyond saturation is finite and right. */
static void case_gelu_special(struct cuda_kit *k, const struct shape *s)
{
	struct gelu g = {
		.count = SPECIALS,
		.act = DTYPE_F32,
		.x = cuda_kit_given(k, special, SPECIALS, sizeof(float)),
		.y = cuda_kit_output(k, DTYPE_F32, SPECIALS),
	};
	const float *y;

	(void)s;
	CUDA_KIT_CALL(k, cuda_gelu_forward, &g);
	cuda_kit_execute(k);
	y = cuda_kit_after(k, g.y);
	ck_assert(isnan(y[0]) && y[1] == INFINITY && y[3] == 0.0f && y[4] == 0.0f);
	ck_assert(y[5] == 100.0f && fabsf(y[6]) < 1e-30f && y[7] == 1e30f);
}

/* A logit that is not a number makes its row's loss none, and with it the sum. */
static void case_cross_entropy_special(struct cuda_kit *k, const struct shape *s)
{
	const double none = 0;
	const uint32_t target = 3;
	double loss;
	struct cross_entropy c = {
		.rows = 1,
		.vocab = SPECIALS,
		.act = DTYPE_F32,
		.logits = cuda_kit_given(k, special, SPECIALS, sizeof(float)),
		.targets = cuda_kit_given(k, &target, 1, sizeof(target)),
		.loss_sum = cuda_kit_inout_given(k, &none, 1, sizeof(none)),
	};

	(void)s;
	CUDA_KIT_CALL(k, cuda_cross_entropy, &c);
	cuda_kit_execute(k);
	memcpy(&loss, cuda_kit_after(k, c.loss_sum), sizeof(loss));
	ck_assert_msg(isnan(loss), "the loss is %g", loss);
}

#define ALL_TYPES(f, fn, ...)                                                                      \
	{f " fp32", fn, {__VA_ARGS__, DTYPE_F32, DTYPE_F32, 0, 4}},                                \
		{f " bf16", fn, {__VA_ARGS__, DTYPE_BF16, DTYPE_BF16, 0, 4}},                      \
		{f " fp32 unaligned", fn, {__VA_ARGS__, DTYPE_F32, DTYPE_BF16, 1, 4}},             \
	{                                                                                          \
		f " bf16 unaligned", fn,                                                           \
		{                                                                                  \
			__VA_ARGS__, DTYPE_BF16, DTYPE_F32, 3, 4                                   \
		}                                                                                  \
	}

static const struct {
	const char *name;
	case_fn *fn;
	struct shape shape;
} cases[] = {
	ALL_TYPES("layernorm 3x1", case_layernorm, 3, 1, 1, 0),
	ALL_TYPES("layernorm 5x17", case_layernorm, 5, 17, 1, 0),
	ALL_TYPES("layernorm 300x768", case_layernorm, 300, 768, 1, 0),
	ALL_TYPES("layernorm 130x771", case_layernorm, 130, 771, 0, 0),
	ALL_TYPES("layernorm 37x1028", case_layernorm, 37, 1028, 2, 0),
	ALL_TYPES("layernorm 19x4099", case_layernorm, 19, 4099, 1, 0),
	ALL_TYPES("layernorm 3x12288", case_layernorm, 3, 12288, 2, 0),
	/* More rows than a grid has. */
	{"layernorm 16389x4", case_layernorm, {16389, 4, 1, 0, DTYPE_BF16, DTYPE_F32, 0, 0}},
	ALL_TYPES("rmsnorm 3x1", case_rmsnorm, 3, 1, 1, 0),
	ALL_TYPES("rmsnorm 33x34", case_rmsnorm, 33, 34, 2, 0),
	ALL_TYPES("rmsnorm 100x1024", case_rmsnorm, 100, 1024, 1, 0),
	ALL_TYPES("rmsnorm 20x4096", case_rmsnorm, 20, 4096, 0, 0),
	ALL_TYPES("gelu 3", case_gelu, 3, 0, 0, 0),
	ALL_TYPES("gelu 4099", case_gelu, 4099, 0, 1, 0),
	ALL_TYPES("gelu 100000", case_gelu, 100000, 0, 0, 0),
	{"gelu wide", case_gelu, {10000, 0, 0, 0, DTYPE_F32, DTYPE_F32, 0, 60}},
	/* More packs than a grid has threads, unaligned ones being single. */
	{"gelu 1048583", case_gelu, {1048583, 0, 1, 0, DTYPE_BF16, DTYPE_F32, 1, 4}},
	{"gelu special", case_gelu_special, {0}},
	ALL_TYPES("swiglu 3x1", case_swiglu, 3, 1, 0, 0),
	ALL_TYPES("swiglu 7x37", case_swiglu, 7, 37, 1, 0),
	ALL_TYPES("swiglu 33x2056", case_swiglu, 33, 2056, 0, 0),
	{"swiglu 65538x8", case_swiglu, {65538, 8, 1, 0, DTYPE_BF16, DTYPE_F32, 0, 4}},
	ALL_TYPES("rotary 1x1x1x2", case_rotary, 1, 1, 1, 2),
	ALL_TYPES("rotary 2x9x3x10", case_rotary, 2, 9, 3, 10),
	ALL_TYPES("rotary 3x65x5x64", case_rotary, 3, 65, 5, 64),
	{"rotary packed 2x33x20x128", case_rotary, {2, 33, 20, 128, DTYPE_BF16, 0, 0, 1}},
	{"rotary packed 2x33x20x128 fp32", case_rotary, {2, 33, 20, 128, DTYPE_F32, 0, 0, 1}},
	{"rotary 2x2100x1x4", case_rotary, {2, 2100, 1, 4, DTYPE_F32, 0, 0, 1}},
	ALL_TYPES("embedding 1x1x1", case_embedding, 1, 1, 1, 1),
	ALL_TYPES("embedding 3x50x270", case_embedding, 3, 50, 270, 7),
	ALL_TYPES("embedding 2x700x516", case_embedding, 2, 700, 516, 333),
	ALL_TYPES("embedding 4x300x1 of one id", case_embedding, 4, 300, 1, 1),
	{"embedding 5x1000x4", case_embedding, {5, 1000, 4, 50, 0, DTYPE_BF16, 0, 0}},
	ALL_TYPES("cross-entropy 5x1", case_cross_entropy, 5, 1, 0, 1),
	ALL_TYPES("cross-entropy 70x256", case_cross_entropy, 70, 256, 0, 1),
	ALL_TYPES("cross-entropy 70x250 of 256", case_cross_entropy, 70, 250, 6, 1),
	ALL_TYPES("cross-entropy 300x257 no gradient", case_cross_entropy, 300, 257, 0, 0),
	ALL_TYPES("cross-entropy 3x50257 of 50304", case_cross_entropy, 3, 50257, 47, 1),
	{"cross-entropy steep", case_cross_entropy, {9, 5003, 0, 1, DTYPE_F32, 0, 0, 90}},
	{"cross-entropy 8199x3", case_cross_entropy, {8199, 3, 0, 1, DTYPE_F32, 0, 0, 4}},
	{"cross-entropy cut", case_cross_entropy_cut, {8999, 5, 333, 0, DTYPE_BF16, 0, 0, 4}},
	{"cross-entropy special", case_cross_entropy_special, {0}},
};

START_TEST(against_reference)
{
	struct cuda_kit k;

	cuda_kit_open(&k, cases[_i].name, SEED + (unsigned)_i);
	k.shift = cases[_i].shape.shift;
	cases[_i].fn(&k, &cases[_i].shape);
	cuda_kit_close(&k);
}
END_TEST

int main(void)
{
	return cuda_kit_main("cuda_ops", against_reference, sizeof(cases) / sizeof(cases[0]));
}
