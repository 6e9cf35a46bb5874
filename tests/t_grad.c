/*
 * Goal: the backward of every operation is the derivative of its forward.
 *
 * Method: with random weights c, L = sum of c * y is a number, and backward, given dy = c, must
 * return dL/dx for every input. The reference's forward, in double, gives dL/dx by central
 * differences, good to about 1e-9; the reference's backward must agree with that to 1e-6, and the
 * cpu device's backward, in fp32, to a few times its rounding.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/reference.h"
#include "kernels/rotary.h"
#include "tests/kernels_kit.h"

#define SEED         77001u
#define MEMORY_BYTES (16u << 20)
#define STEP         1e-5 /* about the cube root of double's rounding: the errors balance */

typedef double loss_fn(void *problem);

static double weighted(const double *c, const double *y, size_t count)
{
	double sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += c[i] * y[i];
	return sum;
}

/*
 * Compares dL/dx of `count` inputs with the reference's backward and, where `fast` is given, the
 * device's.
 */
static void compare(const char *what, loss_fn *loss, void *problem, double *x, size_t count,
		    const double *reference, const float *fast)
{
	double greatest = 1e-3, worst_reference = 0, worst_fast = 0;

	for (size_t i = 0; i < count; i++) {
		double kept = x[i], above, slope;

		x[i] = kept + STEP;
		above = loss(problem);
		x[i] = kept - STEP;
		slope = (above - loss(problem)) / (2 * STEP);
		x[i] = kept;
		greatest = fmax(greatest, fabs(slope));
		worst_reference = fmax(worst_reference, fabs(slope - reference[i]));
		if (fast)
			worst_fast = fmax(worst_fast, fabs(slope - (double)fast[i]));
	}
	ck_assert_msg(worst_reference <= 1e-6 * greatest,
		      "reference: %s is off by %g of %g (seed %u)", what, worst_reference, greatest,
		      SEED);
	ck_assert_msg(worst_fast <= 1e-5 * greatest, "cpu: %s is off by %g of %g (seed %u)", what,
		      worst_fast, greatest, SEED);
}

/* Results that are added to start from zero here, so that they are the derivative itself. */
static float *zeros(struct kit *k, size_t count)
{
	float *p = kit_output(k, count * sizeof(*p));

	return memset(p, 0, count * sizeof(*p));
}

static double linear_loss(void *problem)
{
	struct reference_linear *l = problem;

	reference_linear_forward(l);
	return weighted(l->dy, l->y, l->rows * l->out);
}

static void linear_gradients(bool transposed)
{
	const size_t rows = 5, in = 7, out = 4;
	struct kit k;
	struct linear l = {.rows = rows, .in = in, .out = out, .w_transposed = transposed};
	struct reference_linear ref = {
		.rows = rows, .in = in, .out = out, .w_transposed = transposed};
	double *w, *bias, *x;

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	l.w = kit_input(&k, DTYPE_F32, in * out, 1);
	l.bias = kit_input(&k, DTYPE_F32, out, 1);
	l.x = kit_input(&k, DTYPE_F32, rows * in, 1);
	l.dy = kit_input(&k, DTYPE_F32, rows * out, 1);
	l.dx = zeros(&k, rows * in);
	l.dw = zeros(&k, in * out);
	l.dbias = zeros(&k, out);
	ref.w = w = kit_doubles(&k, l.w, DTYPE_F32, in * out);
	ref.bias = bias = kit_doubles(&k, l.bias, DTYPE_F32, out);
	ref.x = x = kit_doubles(&k, l.x, DTYPE_F32, rows * in);
	ref.dy = kit_doubles(&k, l.dy, DTYPE_F32, rows * out);
	ref.y = kit_room(&k, rows * out);
	ref.dx = kit_room(&k, rows * in);
	ref.dw = kit_room(&k, in * out);
	ref.dbias = kit_room(&k, out);
	linear_backward_input(k.stream, &l);
	linear_backward_weight(k.stream, &l);
	kit_sync(&k);
	reference_linear_backward(&ref);
	compare("dx", linear_loss, &ref, x, rows * in, ref.dx, l.dx);
	compare("dw", linear_loss, &ref, w, in * out, ref.dw, l.dw);
	compare("dbias", linear_loss, &ref, bias, out, ref.dbias, l.dbias);
	kit_close(&k);
}

START_TEST(linear)
{
	linear_gradients(_i == 1);
}
END_TEST

static double layernorm_loss(void *problem)
{
	struct reference_layernorm *l = problem;

	reference_layernorm_forward(l);
	return weighted(l->dy, l->y, l->rows * l->width);
}

START_TEST(layernorm)
{
	const size_t rows = 4, width = 19, n = rows * width;
	struct kit k;
	struct layernorm l = {.rows = rows, .width = width, .eps = 1e-5f};
	struct reference_layernorm ref = {.rows = rows, .width = width, .eps = (double)1e-5f};
	double *x, *gain, *bias;

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	l.x = kit_input(&k, DTYPE_F32, n, 2);
	l.gain = kit_input(&k, DTYPE_F32, width, 1);
	l.bias = kit_input(&k, DTYPE_F32, width, 1);
	l.dy = kit_input(&k, DTYPE_F32, n, 1);
	l.y = zeros(&k, n);
	l.mean = zeros(&k, rows);
	l.rstd = zeros(&k, rows);
	l.dx = zeros(&k, n);
	l.dgain = zeros(&k, width);
	l.dbias = zeros(&k, width);
	ref.x = x = kit_doubles(&k, l.x, DTYPE_F32, n);
	ref.gain = gain = kit_doubles(&k, l.gain, DTYPE_F32, width);
	ref.bias = bias = kit_doubles(&k, l.bias, DTYPE_F32, width);
	ref.dy = kit_doubles(&k, l.dy, DTYPE_F32, n);
	ref.y = kit_room(&k, n);
	ref.mean = kit_room(&k, rows);
	ref.rstd = kit_room(&k, rows);
	ref.dx = kit_room(&k, n);
	ref.dgain = kit_room(&k, width);
	ref.dbias = kit_room(&k, width);
	layernorm_forward(k.stream, &l);
	layernorm_backward(k.stream, &l);
	kit_sync(&k);
	reference_layernorm_forward(&ref);
	reference_layernorm_backward(&ref);
	compare("dx", layernorm_loss, &ref, x, n, ref.dx, l.dx);
	compare("dgain", layernorm_loss, &ref, gain, width, ref.dgain, l.dgain);
	compare("dbias", layernorm_loss, &ref, bias, width, ref.dbias, l.dbias);
	kit_close(&k);
}
END_TEST

static double rmsnorm_loss(void *problem)
{
	struct reference_rmsnorm *l = problem;

	reference_rmsnorm_forward(l);
	return weighted(l->dy, l->y, l->rows * l->width);
}

START_TEST(rmsnorm)
{
	const size_t rows = 4, width = 19, n = rows * width;
	struct kit k;
	struct rmsnorm l = {.rows = rows, .width = width, .eps = 1e-5f};
	struct reference_rmsnorm ref = {.rows = rows, .width = width, .eps = (double)1e-5f};
	double *x, *gain;

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	l.x = kit_input(&k, DTYPE_F32, n, 2);
	l.gain = kit_input(&k, DTYPE_F32, width, 1);
	l.dy = kit_input(&k, DTYPE_F32, n, 1);
	l.y = zeros(&k, n);
	l.rstd = zeros(&k, rows);
	l.dx = zeros(&k, n);
	l.dgain = zeros(&k, width);
	ref.x = x = kit_doubles(&k, l.x, DTYPE_F32, n);
	ref.gain = gain = kit_doubles(&k, l.gain, DTYPE_F32, width);
	ref.dy = kit_doubles(&k, l.dy, DTYPE_F32, n);
	ref.y = kit_room(&k, n);
	ref.rstd = kit_room(&k, rows);
	ref.dx = kit_room(&k, n);
	ref.dgain = kit_room(&k, width);
	rmsnorm_forward(k.stream, &l);
	rmsnorm_backward(k.stream, &l);
	kit_sync(&k);
	reference_rmsnorm_forward(&ref);
	reference_rmsnorm_backward(&ref);
	compare("dx", rmsnorm_loss, &ref, x, n, ref.dx, l.dx);
	compare("dgain", rmsnorm_loss, &ref, gain, width, ref.dgain, l.dgain);
	kit_close(&k);
}
END_TEST

struct rotary_problem {
	struct reference_rotary forward; /* of y */
	const double *x, *c;
	size_t count;
};

static double rotary_loss(void *problem)
{
	struct rotary_problem *p = problem;

	memcpy(p->forward.x, p->x, p->count * sizeof(*p->x));
	reference_rotary(&p->forward);
	return weighted(p->c, p->forward.x, p->count);
}

/* The gradient is the weights, turned back: by the reference and by the device. */
START_TEST(rotary_gradient)
{
	const size_t batch = 2, seq = 9, heads = 2, dim = 6, row = heads * dim;
	const size_t n = batch * seq * row;
	struct kit k;
	struct reference_rotary ref = {
		.batch = batch, .seq = seq, .heads = heads, .head_dim = dim, .row = row};
	struct rotary_problem problem = {.count = n};
	struct rotary r = {.batch = batch, .seq = seq, .heads = heads, .head_dim = dim, .row = row};
	float *table;
	double *x;

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	r.x = kit_sum(&k, n);
	r.table = table = kit_output(&k, seq * dim * sizeof(float));
	r.inverse = true;
	ref.theta = 100;
	problem.forward = ref;
	problem.forward.x = kit_room(&k, n);
	problem.x = x = kit_doubles(&k, kit_input(&k, DTYPE_F32, n, 1), DTYPE_F32, n);
	problem.c = kit_doubles(&k, r.x, DTYPE_F32, n);
	ref.inverse = true;
	ref.x = kit_doubles(&k, r.x, DTYPE_F32, n);
	rotary_host_table(table, seq, dim, ref.theta);
	rotary(k.stream, &r);
	kit_sync(&k);
	reference_rotary(&ref);
	compare("dx", rotary_loss, &problem, x, n, ref.x, r.x);
	kit_close(&k);
}
END_TEST

static double attention_loss(void *problem)
{
	struct reference_attention *a = problem;

	reference_attention_forward(a);
	return weighted(a->dout, a->out, a->batch * a->seq * a->heads * a->head_dim);
}

START_TEST(attention)
{
	const size_t batch = 2, seq = 11, heads = 2, dim = 6, n = batch * seq * heads * dim;
	struct kit k;
	struct attention a = {.batch = batch, .seq = seq, .heads = heads, .head_dim = dim};
	struct reference_attention ref = {
		.batch = batch, .seq = seq, .heads = heads, .head_dim = dim};
	double *qkv;

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	a.qkv = kit_input(&k, DTYPE_F32, 3 * n, 2);
	a.dout = kit_input(&k, DTYPE_F32, n, 1);
	a.out = zeros(&k, n);
	a.lse = zeros(&k, batch * heads * seq);
	a.dqkv = zeros(&k, 3 * n);
	a.scratch_count = attention_scratch_count(DEVICE_CPU, batch, seq, heads, dim, 1);
	a.scratch = kit_output(&k, a.scratch_count * sizeof(float));
	ref.qkv = qkv = kit_doubles(&k, a.qkv, DTYPE_F32, 3 * n);
	ref.dout = kit_doubles(&k, a.dout, DTYPE_F32, n);
	ref.out = kit_room(&k, n);
	ref.lse = kit_room(&k, batch * heads * seq);
	ref.dqkv = kit_room(&k, 3 * n);
	attention_forward(k.stream, &a);
	attention_backward(k.stream, &a);
	kit_sync(&k);
	reference_attention_forward(&ref);
	reference_attention_backward(&ref);
	compare("dqkv", attention_loss, &ref, qkv, 3 * n, ref.dqkv, a.dqkv);
	kit_close(&k);
}
END_TEST

struct gelu_problem {
	size_t count;
	double *x, *c, *dx;
};

static double gelu_loss(void *problem)
{
	struct gelu_problem *g = problem;
	double sum = 0;

	for (size_t i = 0; i < g->count; i++)
		sum += g->c[i] * reference_gelu(g->x[i]);
	return sum;
}

START_TEST(gelu)
{
	struct kit k;
	struct gelu_problem ref = {.count = 101};
	struct gelu g = {.count = 101};

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	g.x = kit_input(&k, DTYPE_F32, g.count, 5);
	g.dy = kit_input(&k, DTYPE_F32, g.count, 1);
	g.dx = zeros(&k, g.count);
	ref.x = kit_doubles(&k, g.x, DTYPE_F32, g.count);
	ref.c = kit_doubles(&k, g.dy, DTYPE_F32, g.count);
	ref.dx = kit_room(&k, g.count);
	gelu_backward(k.stream, &g);
	kit_sync(&k);
	for (size_t i = 0; i < g.count; i++)
		ref.dx[i] = ref.c[i] * reference_gelu_slope(ref.x[i]);
	compare("dx", gelu_loss, &ref, ref.x, g.count, ref.dx, g.dx);
	kit_close(&k);
}
END_TEST

static double swiglu_loss(void *problem)
{
	struct reference_swiglu *s = problem;

	reference_swiglu_forward(s);
	return weighted(s->dy, s->y, s->rows * s->width);
}

START_TEST(swiglu)
{
	const size_t rows = 3, width = 21, n = rows * width;
	struct kit k;
	struct swiglu s = {.rows = rows, .width = width};
	struct reference_swiglu ref = {.rows = rows, .width = width};
	double *x;

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	s.x = kit_input(&k, DTYPE_F32, 2 * n, 5);
	s.dy = kit_input(&k, DTYPE_F32, n, 1);
	s.dx = zeros(&k, 2 * n);
	ref.x = x = kit_doubles(&k, s.x, DTYPE_F32, 2 * n);
	ref.dy = kit_doubles(&k, s.dy, DTYPE_F32, n);
	ref.y = kit_room(&k, n);
	ref.dx = kit_room(&k, 2 * n);
	swiglu_backward(k.stream, &s);
	kit_sync(&k);
	reference_swiglu_backward(&ref);
	compare("dx", swiglu_loss, &ref, x, 2 * n, ref.dx, s.dx);
	kit_close(&k);
}
END_TEST

static double embedding_loss(void *problem)
{
	struct reference_embedding *e = problem;

	reference_embedding_forward(e);
	return weighted(e->dout, e->out, e->batch * e->seq * e->width);
}

START_TEST(embedding)
{
	const size_t batch = 3, seq = 5, width = 9, vocab = 6, n = batch * seq * width;
	struct kit k;
	struct embedding e = {.batch = batch, .seq = seq, .width = width};
	struct reference_embedding ref = {.batch = batch, .seq = seq, .width = width};
	double *token, *position;

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	e.tokens = ref.tokens = kit_tokens(&k, batch * seq, (uint32_t)vocab);
	e.token_table = kit_input(&k, DTYPE_F32, vocab * width, 1);
	e.position_table = kit_input(&k, DTYPE_F32, seq * width, 1);
	e.dout = kit_input(&k, DTYPE_F32, n, 1);
	e.dtoken = zeros(&k, vocab * width);
	e.dposition = zeros(&k, seq * width);
	ref.token_table = token = kit_doubles(&k, e.token_table, DTYPE_F32, vocab * width);
	ref.position_table = position = kit_doubles(&k, e.position_table, DTYPE_F32, seq * width);
	ref.dout = kit_doubles(&k, e.dout, DTYPE_F32, n);
	ref.out = kit_room(&k, n);
	ref.dtoken = kit_room(&k, vocab * width);
	ref.dposition = kit_room(&k, seq * width);
	embedding_backward(k.stream, &e);
	kit_sync(&k);
	reference_embedding_backward(&ref);
	compare("dtoken", embedding_loss, &ref, token, vocab * width, ref.dtoken, e.dtoken);
	compare("dposition", embedding_loss, &ref, position, seq * width, ref.dposition,
		e.dposition);
	kit_close(&k);
}
END_TEST

struct loss_problem {
	size_t rows, vocab;
	double *logits, *gradient;
	const uint32_t *targets;
};

static double cross_entropy_loss(void *problem)
{
	struct loss_problem *p = problem;

	return 0.25 * reference_cross_entropy(p->rows, p->vocab, p->logits, p->targets, 0.25, NULL);
}

START_TEST(cross_entropy_gradient)
{
	const size_t rows = 6, vocab = 21;
	struct kit k;
	struct loss_problem ref = {.rows = rows, .vocab = vocab};
	struct cross_entropy c = {.rows = rows, .vocab = vocab, .scale = 0.25f, .gradient = true};

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	c.logits = kit_sum(&k, rows * vocab);
	c.targets = ref.targets = kit_tokens(&k, rows, (uint32_t)vocab);
	c.loss_sum = memset(kit_output(&k, sizeof(double)), 0, sizeof(double));
	ref.logits = kit_doubles(&k, c.logits, DTYPE_F32, rows * vocab);
	ref.gradient = kit_room(&k, rows * vocab);
	cross_entropy(k.stream, &c);
	kit_sync(&k);
	reference_cross_entropy(rows, vocab, ref.logits, ref.targets, 0.25, ref.gradient);
	compare("dlogits", cross_entropy_loss, &ref, ref.logits, rows * vocab, ref.gradient,
		c.logits);
	kit_close(&k);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("grad");
	TCase *tc = tcase_create("grad");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, linear, 0, 2);
	tcase_add_test(tc, layernorm);
	tcase_add_test(tc, rmsnorm);
	tcase_add_test(tc, rotary_gradient);
	tcase_add_test(tc, attention);
	tcase_add_test(tc, gelu);
	tcase_add_test(tc, swiglu);
	tcase_add_test(tc, embedding);
	tcase_add_test(tc, cross_entropy_gradient);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
