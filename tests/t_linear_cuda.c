/*
 * Goal: products on the cuda device compute what the reference computes, fused or not, and the same
 * bits however often and in whatever order they are asked for.
 *
 * Method: linear_cuda.c and its kernels on the host shim, with the host's own cuBLASLt, which is
 * told to offer all epilogues, the bias alone, or none; or on a GPU, where cuBLASLt offers what it
 * has. Shapes are odd ones, operands lie at odd places; outputs are poisoned and compared with
 * doubles.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "kernels/device.h"
#include "kernels/linear.h"
#include "kernels/reference.h"

#define MEMORY_BYTES ((uint64_t)64 << 20)
#define PLANS_MAX    256u /* as linear_cuda.c has it */

static const char *const offers[] = {"all", "bias", "bare"};
#define OFFERS (sizeof(offers) / sizeof(offers[0]))

struct shape {
	size_t rows, in, out;
	size_t y_gap; /* between rows of y and dy */
	size_t shift; /* elements that operands lie off DEVICE_ALIGN */
	enum dtype type;
	bool transposed, bias;
};

static const struct shape shapes[] = {
	{1, 1, 1, 0, 0, DTYPE_F32, false, false},     {7, 5, 3, 2, 1, DTYPE_F32, false, true},
	{7, 5, 3, 0, 3, DTYPE_F32, true, true},       {70, 16, 24, 0, 0, DTYPE_F32, false, true},
	{131, 24, 40, 8, 4, DTYPE_F32, true, false},  {1, 1, 1, 0, 1, DTYPE_BF16, false, true},
	{7, 5, 3, 2, 1, DTYPE_BF16, true, true},      {64, 16, 24, 0, 0, DTYPE_BF16, false, true},
	{300, 40, 72, 0, 8, DTYPE_BF16, false, true}, {131, 24, 40, 5, 3, DTYPE_BF16, true, false},
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static struct device *device;
static struct device_stream *stream;
static struct err err;
static uint64_t drawn;

static void open_device(const char *offer)
{
	const struct device_config config = {
		.type = DEVICE_CUDA, .memory_bytes = device_own_bytes(DEVICE_CUDA) + MEMORY_BYTES};

	ck_assert_int_eq(setenv("DSRUN_SHIM_CUBLASLT", offer, 1), 0);
	ck_assert_msg(device_open(&config, &device, &err) == 0, "%s", err.text);
	ck_assert_int_eq(device_stream_open(device, "compute", &stream, &err), 0);
	drawn = 0;
}

static void sync_device(void)
{
	ck_assert_msg(device_stream_sync(stream, &err) == 0, "%s", err.text);
}

/* `bytes` of the device's memory become those of `host`, or poison. */
static void upload(void *p, const void *host, size_t bytes)
{
	uint8_t *copy = malloc(bytes);

	ck_assert_ptr_nonnull(copy);
	if (host)
		memcpy(copy, host, bytes);
	else
		memset(copy, 0xff, bytes);
	device_copy(stream, p, copy, bytes, DEVICE_COPY_IN);
	sync_device();
	free(copy);
}

static void download(void *host, const void *p, size_t bytes)
{
	device_copy(stream, host, p, bytes, DEVICE_COPY_OUT);
	sync_device();
}

/* Device memory of `count` elements from `shift` on, uniform in [-1, 1), or poison. */
static void *tensor(enum dtype type, size_t count, size_t shift, bool filled)
{
	size_t bytes = count * dtype_bytes(type), skip = shift * dtype_bytes(type);
	uint8_t *p = device_alloc(device, bytes + skip, "a tensor", &err);
	float *values = malloc(count * sizeof(*values));
	uint16_t *halves = malloc(count * sizeof(*halves));

	ck_assert_msg(p != NULL, "%s", err.text);
	ck_assert(values && halves);
	upload(p, NULL, bytes + skip);
	for (size_t i = 0; i < count; i++) {
		values[i] = (float)(2 * rng_uniform(1, drawn, i) - 1);
		halves[i] = bf16_from_float(values[i]);
	}
	if (filled)
		upload(p + skip, type == DTYPE_F32 ? (void *)values : (void *)halves, bytes);
	free(values);
	free(halves);
	drawn++;
	return p + skip;
}

static double element(const void *p, enum dtype type, size_t i)
{
	return type == DTYPE_F32 ? (double)((const float *)p)[i]
				 : (double)bf16_to_float(((const uint16_t *)p)[i]);
}

/* A packed copy in double of rows that lie `row` apart. */
static double *doubles(const void *p, enum dtype type, size_t rows, size_t cols, size_t row)
{
	double *copy = malloc(rows * cols * sizeof(*copy));
	size_t bytes = ((rows - 1) * row + cols) * dtype_bytes(type);
	void *host = malloc(bytes);

	ck_assert(copy && host);
	download(host, p, bytes);
	for (size_t i = 0; i < rows; i++)
		for (size_t j = 0; j < cols; j++)
			copy[i * cols + j] = element(host, type, i * row + j);
	free(host);
	return copy;
}

/* Sums of n products, rounded to `type` in the end, and where it is not fused, once before. */
static void near(const char *what, const struct shape *s, const double *got, const double *want,
		 size_t count, size_t n, enum dtype type)
{
	double worst = 0, largest = 1e-30;
	double allowed = type == DTYPE_BF16 ? 0x1p-7 : 1e-6 * (1 + sqrt((double)n) / 4);

	for (size_t i = 0; i < count; i++) {
		ck_assert_msg(isfinite(got[i]), "%s is not a number", what);
		worst = fmax(worst, fabs(got[i] - want[i]));
		largest = fmax(largest, fabs(want[i]));
	}
	ck_assert_msg(worst <= allowed * largest, "%s of %zux%zux%zu is off by %g", what, s->rows,
		      s->in, s->out, worst / largest);
}

static void poisoned_between(const struct shape *s, const void *y, enum dtype type)
{
	const size_t row = s->out + s->y_gap;
	double *all = doubles(y, type, 1, (s->rows - 1) * row + s->out, 0);

	for (size_t i = 0; i + 1 < s->rows; i++)
		for (size_t j = s->out; j < row; j++)
			ck_assert(isnan(all[i * row + j]));
	free(all);
}

struct operands {
	struct linear l;
	struct reference_linear ref;
};

static struct operands operands_make(const struct shape *s)
{
	const size_t row = s->out + s->y_gap;
	struct operands o = {
		.l = {.rows = s->rows,
		      .in = s->in,
		      .out = s->out,
		      .w = tensor(s->type, s->in * s->out, s->shift, true),
		      .w_type = s->type,
		      .act = s->type,
		      .w_transposed = s->transposed,
		      .bias = s->bias ? tensor(s->type, s->out, s->shift, true) : NULL,
		      .x = tensor(s->type, s->rows * s->in, s->shift, true),
		      .y = tensor(s->type, s->rows * row, s->shift, false),
		      .dy = tensor(s->type, s->rows * row, s->shift, true),
		      .y_row = s->y_gap ? row : 0,
		      .dx = tensor(s->type, s->rows * s->in, s->shift, false),
		      .dw = tensor(DTYPE_F32, s->in * s->out, s->shift, true),
		      .dbias = tensor(DTYPE_F32, s->out, s->shift, true)},
	};

	o.ref = (struct reference_linear){
		.rows = s->rows,
		.in = s->in,
		.out = s->out,
		.w_transposed = s->transposed,
		.w = doubles(o.l.w, s->type, 1, s->in * s->out, 0),
		.bias = s->bias ? doubles(o.l.bias, s->type, 1, s->out, 0) : NULL,
		.x = doubles(o.l.x, s->type, 1, s->rows * s->in, 0),
		.dy = doubles(o.l.dy, s->type, s->rows, s->out, row),
		.y = calloc(s->rows * s->out, sizeof(double)),
		.dx = calloc(s->rows * s->in, sizeof(double)),
		.dw = doubles(o.l.dw, DTYPE_F32, 1, s->in * s->out, 0),
		.dbias = doubles(o.l.dbias, DTYPE_F32, 1, s->out, 0),
	};
	ck_assert(o.ref.y && o.ref.dx);
	reference_linear_forward(&o.ref);
	reference_linear_backward(&o.ref);
	return o;
}

static void operands_free(struct operands *o)
{
	const double *const all[] = {o->ref.w, o->ref.bias, o->ref.x,  o->ref.dy,
				     o->ref.y, o->ref.dx,   o->ref.dw, o->ref.dbias};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		free((void *)all[i]);
}

static void compare(const char *what, const struct shape *s, const void *p, enum dtype type,
		    size_t rows, size_t cols, size_t row, const double *want, size_t n)
{
	double *got = doubles(p, type, rows, cols, row);

	near(what, s, got, want, rows * cols, n, type);
	free(got);
}

START_TEST(products_are_the_references)
{
	const struct shape *s = &shapes[_i / OFFERS];
	struct operands o;

	open_device(offers[_i % OFFERS]);
	o = operands_make(s);
	linear_forward(stream, &o.l);
	linear_backward_input(stream, &o.l);
	linear_backward_weight(stream, &o.l);
	sync_device();
	compare("y", s, o.l.y, s->type, s->rows, s->out, s->out + s->y_gap, o.ref.y, s->in);
	poisoned_between(s, o.l.y, s->type);
	compare("dx", s, o.l.dx, s->type, 1, s->rows * s->in, 0, o.ref.dx, s->out);
	compare("dw", s, o.l.dw, DTYPE_F32, 1, s->in * s->out, 0, o.ref.dw, s->rows);
	compare("dbias", s, o.l.dbias, DTYPE_F32, 1, s->out, 0, o.ref.dbias, s->rows);
	operands_free(&o);
	device = device_free(device);
}
END_TEST

/* The residual is fp32, and so is its sum with the product; in its own place, or in another. */
START_TEST(a_residual_is_added)
{
	const struct shape *s = &shapes[_i / OFFERS];
	struct operands o;

	open_device(offers[_i % OFFERS]);
	o = operands_make(s);
	for (int in_place = 0; in_place < 2; in_place++) {
		float *add = tensor(DTYPE_F32, s->rows * s->out, s->shift, true);
		double *want = doubles(add, DTYPE_F32, 1, s->rows * s->out, 0);

		for (size_t i = 0; i < s->rows * s->out; i++)
			want[i] += o.ref.y[i];
		o.l.add = add;
		o.l.y_row = in_place ? 0 : s->out + s->y_gap;
		o.l.y = in_place ? add : tensor(DTYPE_F32, s->rows * o.l.y_row, s->shift, false);
		linear_forward(stream, &o.l);
		sync_device();
		compare("y", s, o.l.y, DTYPE_F32, s->rows, s->out, in_place ? s->out : o.l.y_row,
			want, s->in);
		if (!in_place)
			poisoned_between(s, o.l.y, DTYPE_F32);
		free(want);
	}
	operands_free(&o);
	device = device_free(device);
}
END_TEST

START_TEST(gelu_goes_with_the_product)
{
	const struct shape *s = &shapes[_i / OFFERS];
	const size_t n = s->rows * s->out, m = s->rows * s->in;
	struct operands o;
	struct linear back;
	double *before;

	open_device(offers[_i % OFFERS]);
	o = operands_make(s);
	o.l.y_row = 0;
	o.l.gelu_in = tensor(s->type, n, s->shift, false);
	linear_forward(stream, &o.l);
	back = o.l;
	back.y_row = s->out + s->y_gap;
	back.gelu_in = tensor(s->type, m, s->shift, true);
	before = doubles(back.gelu_in, s->type, 1, m, 0);
	linear_backward_input(stream, &back);
	sync_device();
	compare("gelu_in", s, o.l.gelu_in, s->type, 1, n, 0, o.ref.y, s->in);
	for (size_t i = 0; i < n; i++)
		o.ref.y[i] = reference_gelu(o.ref.y[i]);
	for (size_t i = 0; i < m; i++)
		o.ref.dx[i] *= reference_gelu_slope(before[i]);
	compare("y", s, o.l.y, s->type, 1, n, 0, o.ref.y, 4 * s->in);
	compare("dx", s, back.dx, s->type, 1, m, 0, o.ref.dx, 4 * s->out);
	free(before);
	operands_free(&o);
	device = device_free(device);
}
END_TEST

/* More products than the table holds; then the first again, with the bits that it had. */
START_TEST(a_forgotten_plan_is_made_again)
{
	enum { IN = 16, OUT = 8, ROWS = PLANS_MAX + 50 };
	struct linear l = {.in = IN, .out = OUT, .w_type = DTYPE_BF16, .act = DTYPE_BF16};
	static uint16_t first[ROWS * OUT], again[ROWS * OUT];

	open_device("all");
	l.w = tensor(DTYPE_BF16, IN * OUT, 0, true);
	l.bias = tensor(DTYPE_BF16, OUT, 0, true);
	l.x = tensor(DTYPE_BF16, ROWS * IN, 0, true);
	l.y = tensor(DTYPE_BF16, ROWS * OUT, 0, false);
	l.rows = ROWS;
	linear_forward(stream, &l);
	sync_device();
	download(first, l.y, sizeof(first));
	for (int round = 0; round < 2; round++)
		for (l.rows = 1; l.rows <= ROWS; l.rows++)
			linear_forward(stream, &l);
	upload(l.y, NULL, sizeof(first));
	l.rows = ROWS;
	linear_forward(stream, &l);
	l.rows = 0;
	linear_forward(stream, &l);
	linear_backward_input(stream, &l);
	linear_backward_weight(stream, &l);
	sync_device();
	download(again, l.y, sizeof(again));
	ck_assert_mem_eq(first, again, sizeof(first));
	device = device_free(device);
}
END_TEST

/* What is expected of y includes the residual. */
static void residual_to(struct operands *o, size_t count)
{
	double *add = doubles(o->l.add, DTYPE_F32, 1, count, 0);

	for (size_t i = 0; i < count; i++)
		o->ref.y[i] += add[i];
	free(add);
}

/* Two streams use the one workspace, none waiting for the other by itself. */
START_TEST(streams_share_the_workspace)
{
	enum { N = 24, ROUNDS = 40 };
	static const struct shape s = {N, N, N, 0, 0, DTYPE_BF16, false, true};
	struct device_stream *other;
	struct operands a, b;

	open_device("all");
	ck_assert_int_eq(device_stream_open(device, "other", &other, &err), 0);
	a = operands_make(&s);
	b = operands_make(&s);
	a.l.add = tensor(DTYPE_F32, N * N, 0, true);
	b.l.add = tensor(DTYPE_F32, N * N, 0, true);
	a.l.y = tensor(DTYPE_F32, N * N, 0, false);
	b.l.y = tensor(DTYPE_F32, N * N, 0, false);
	residual_to(&a, N * N);
	residual_to(&b, N * N);
	/* A bias that is widened lies in the workspace between two pieces of work. */
	for (int i = 0; i < ROUNDS; i++) {
		linear_forward(stream, &a.l);
		linear_forward(other, &b.l);
	}
	sync_device();
	ck_assert_int_eq(device_stream_sync(other, &err), 0);
	compare("a", &s, a.l.y, DTYPE_F32, 1, N * N, 0, a.ref.y, N);
	compare("b", &s, b.l.y, DTYPE_F32, 1, N * N, 0, b.ref.y, N);
	operands_free(&a);
	operands_free(&b);
	device = device_free(device);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("linear_cuda");
	TCase *tc = tcase_create("linear_cuda");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, products_are_the_references, 0, SHAPES * OFFERS);
	tcase_add_loop_test(tc, a_residual_is_added, 0, SHAPES * OFFERS);
	tcase_add_loop_test(tc, gelu_goes_with_the_product, 0, SHAPES * OFFERS);
	tcase_add_test(tc, a_forgotten_plan_is_made_again);
	tcase_add_test(tc, streams_share_the_workspace);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
