/*
 * Goal: attention on the GPU computes what the reference computes, for every width of head, any
 * length and any place in memory, in bf16 and in fp32; writes nothing else; and repeats bit for
 * bit.
 *
 * Method: forward and backward of each case run on random inputs, outputs filled with NaNs
 * between fences. Every element is compared with the reference in double within a bound of its
 * own, worked out from the roundings on its way (struct bounds). They run twice, on the host's
 * shim with blocks, threads and waiters in the opposite order the second time, and the bits must
 * be equal.
 *
 * bf16 inputs are exact as doubles. Backward's reference is given `out` as forward has rounded
 * it, since delta is made of that, but its own lse.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "kernels/attention.h"
#include "kernels/cuda_internal.h"
#include "kernels/dtype.h"
#include "kernels/reference.h"
#ifdef DSRUN_CUDA_SHIM
#include "tests/cuda_host/shim.h"
#endif

#define SEED       20251125u
#define FENCE      256u /* bytes before and after every output */
#define FENCE_BYTE 0xa5

struct shape {
	size_t batch, seq, heads, dim;
	enum dtype act;
	double span;   /* q, k, v and dout are uniform in [-span, span) */
	size_t offset; /* elements by which arrays are off their alignment */
};

enum { QKV, DOUT, OUT, LSE, DQKV, SCRATCH, ARRAYS };

/* An array: device memory with what is around it, and values. */
struct array {
	uint8_t *base, *at;
	size_t bytes, count;
	double *values; /* of inputs, or of what came back */
};

struct run {
	struct shape shape;
	struct attention args;
	struct array arrays[ARRAYS];
	double *want_out, *want_lse, *want_dqkv;
};

static void *must_alloc(size_t bytes)
{
	void *p = calloc(1, bytes ? bytes : 1);

	ck_assert_ptr_nonnull(p);
	return p;
}

static size_t element_bytes(const struct shape *s, unsigned which)
{
	return which == LSE || which == SCRATCH ? sizeof(float) : dtype_bytes(s->act);
}

static size_t count_of(const struct shape *s, unsigned which)
{
	size_t rows = s->batch * s->seq * s->heads;

	switch (which) {
	case QKV:
	case DQKV:
		return 3 * rows * s->dim;
	case DOUT:
	case OUT:
		return rows * s->dim;
	default:
		return rows;
	}
}

/* Every byte 0xff (NaN, whatever the type) between fences; inputs have neither, and no slack. */
static void array_reset(struct array *a)
{
	uint8_t *bytes = must_alloc(a->bytes);

	memset(bytes, FENCE_BYTE, a->bytes);
	memset(bytes + (a->at - a->base), 0xff, a->bytes - FENCE - (size_t)(a->at - a->base));
	ck_assert_int_eq(cudaMemcpy(a->base, bytes, a->bytes, cudaMemcpyHostToDevice), cudaSuccess);
	free(bytes);
}

static void input_fill(struct run *r, unsigned which)
{
	struct array *a = &r->arrays[which];
	size_t bytes = element_bytes(&r->shape, which);
	uint8_t *host = must_alloc(a->count * bytes);

	for (size_t i = 0; i < a->count; i++) {
		float x = (float)(r->shape.span * (2 * rng_uniform(SEED, which, i) - 1));

		if (r->shape.act == DTYPE_BF16) {
			((uint16_t *)host)[i] = bf16_from_float(x);
			x = bf16_to_float(bf16_from_float(x));
		} else {
			((float *)host)[i] = x;
		}
		a->values[i] = (double)x;
	}
	ck_assert_int_eq(cudaMemcpy(a->at, host, a->count * bytes, cudaMemcpyHostToDevice),
			 cudaSuccess);
	free(host);
}

static void array_open(struct run *r, unsigned which)
{
	struct array *a = &r->arrays[which];
	bool input = which <= DOUT;
	size_t before = r->shape.offset * element_bytes(&r->shape, which) + (input ? 0 : FENCE);

	a->count = count_of(&r->shape, which);
	a->values = must_alloc(a->count * sizeof(*a->values));
	a->bytes = before + a->count * element_bytes(&r->shape, which) + (input ? 0 : FENCE);
	ck_assert_int_eq(cudaMalloc((void **)&a->base, a->bytes), cudaSuccess);
	a->at = a->base + before;
	if (input)
		input_fill(r, which);
}

static void run_open(struct run *r, const struct shape *s)
{
	memset(r, 0, sizeof(*r));
	r->shape = *s;
	for (unsigned i = 0; i < ARRAYS; i++)
		array_open(r, i);
	r->args = (struct attention){
		.batch = s->batch,
		.seq = s->seq,
		.heads = s->heads,
		.head_dim = s->dim,
		.act = s->act,
		.qkv = r->arrays[QKV].at,
		.out = r->arrays[OUT].at,
		.lse = (float *)r->arrays[LSE].at,
		.dout = r->arrays[DOUT].at,
		.dqkv = r->arrays[DQKV].at,
		.scratch = (float *)r->arrays[SCRATCH].at,
		.scratch_count = r->arrays[SCRATCH].count,
	};
	r->want_out = must_alloc(r->arrays[OUT].count * sizeof(double));
	r->want_lse = must_alloc(r->arrays[LSE].count * sizeof(double));
	r->want_dqkv = must_alloc(r->arrays[DQKV].count * sizeof(double));
}

static void run_close(struct run *r)
{
	for (unsigned i = 0; i < ARRAYS; i++) {
		ck_assert_int_eq(cudaFree(r->arrays[i].base), cudaSuccess);
		free(r->arrays[i].values);
	}
	free(r->want_out);
	free(r->want_lse);
	free(r->want_dqkv);
}

/* Bytes of an output as they are on the device, fences checked; freed by the caller. */
static uint8_t *output_bytes(const struct array *a)
{
	uint8_t *bytes = must_alloc(a->bytes);

	ck_assert_int_eq(cudaMemcpy(bytes, a->base, a->bytes, cudaMemcpyDeviceToHost), cudaSuccess);
	for (size_t i = 0; i < a->bytes; i++)
		if (i < (size_t)(a->at - a->base) || i >= a->bytes - FENCE)
			ck_assert_msg(bytes[i] == FENCE_BYTE, "written outside of an output");
	return bytes;
}

static void output_values(struct run *r, unsigned which)
{
	struct array *a = &r->arrays[which];
	uint8_t *bytes = output_bytes(a);
	const void *at = bytes + (a->at - a->base);

	for (size_t i = 0; i < a->count; i++) {
		if (element_bytes(&r->shape, which) == 2) {
			uint16_t h;

			memcpy(&h, (const uint8_t *)at + 2 * i, sizeof(h));
			a->values[i] = (double)bf16_to_float(h);
		} else {
			float f;

			memcpy(&f, (const uint8_t *)at + 4 * i, sizeof(f));
			a->values[i] = (double)f;
		}
	}
	free(bytes);
}

static void run_kernels(struct run *r)
{
	for (unsigned i = OUT; i < ARRAYS; i++)
		array_reset(&r->arrays[i]);
	ck_assert_int_eq(cuda_attention_forward(&r->args, NULL), cudaSuccess);
	ck_assert_int_eq(cuda_attention_backward(&r->args, NULL), cudaSuccess);
	ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
}

static void reference(struct run *r)
{
	struct reference_attention ref = {
		.batch = r->shape.batch,
		.seq = r->shape.seq,
		.heads = r->shape.heads,
		.head_dim = r->shape.dim,
		.qkv = r->arrays[QKV].values,
		.dout = r->arrays[DOUT].values,
		.out = r->want_out,
		.lse = r->want_lse,
		.dqkv = r->want_dqkv,
	};

	reference_attention_forward(&ref);
	ref.out = r->arrays[OUT].values;
	reference_attention_backward(&ref);
}

/*
 * What may separate an element from the reference's. All results are sums of products; of every
 * one the sum of its terms' magnitudes is taken: sum. In bf16 one factor of each term is rounded
 * (the probability, or the gradient of the score), and so is the result: u sum + u |result|, u =
 * 2^-8 being half a unit in the last place of bf16's eight bits. What is left is fp32. A score is
 * a sum of head_dim products of size up to span^2, so that an exponent is off by e = 2^-23 times
 * the sum of its products' magnitudes, generously, plus the same for lse and for the
 * exponential's own argument; a probability by a factor 1 + 4 e + 2^-20 at most. Of the gradient
 * of a score, p (dp - delta) scale, that factor applies to p (|dp| + |delta|) scale, with dp and
 * delta being sums of magnitudes: loose. Probabilities below 2^-126 are zero, which TINY covers.
 */
#define TINY 0x1p-100

struct bounds {
	double *out, *dqkv;             /* sum */
	double *loose_out, *loose_dqkv; /* the same with p (|dp| + |delta|) for gradients */
};

/* Scores of query i and key j, and what is made of them. */
struct pair {
	double p, ds, ds_loose;
};

static double dot(const double *a, const double *b, size_t n, double *ret_magnitude)
{
	double sum = 0, magnitude = 0;

	for (size_t d = 0; d < n; d++) {
		sum += a[d] * b[d];
		magnitude += fabs(a[d] * b[d]);
	}
	*ret_magnitude = magnitude;
	return sum;
}

/* q and k of the head of `r` that begin at qkv_at; dout and out at out_at + i. */
static struct pair pair_of(const struct run *r, const double *q, const double *k, const double *v,
			   const double *dout, const double *out, double lse)
{
	double scale = 1 / sqrt((double)r->shape.dim), m_s, m_dp, m_delta;
	double p = exp(scale * dot(q, k, r->shape.dim, &m_s) - lse);
	double dp = dot(dout, v, r->shape.dim, &m_dp);
	double delta = dot(dout, out, r->shape.dim, &m_delta);

	return (struct pair){p, p * fabs(dp - delta) * scale, p * (m_dp + m_delta) * scale};
}

static void bounds_of_head(const struct run *r, const struct bounds *b, size_t batch, size_t head)
{
	const struct shape *s = &r->shape;
	size_t width = s->heads * s->dim;
	const double *qkv = r->arrays[QKV].values + batch * s->seq * 3 * width + head * s->dim;
	size_t in = (size_t)(qkv - r->arrays[QKV].values),
	       out = batch * s->seq * width + head * s->dim;
	const double *dout = r->arrays[DOUT].values + out, *o = r->arrays[OUT].values + out;
	const double *lse = r->want_lse + (batch * s->heads + head) * s->seq;

	for (size_t i = 0; i < s->seq; i++)
		for (size_t j = 0; j <= i; j++) {
			const double *q = qkv + i * 3 * width, *k = qkv + j * 3 * width + width;
			const double *v = k + width, *d_i = dout + i * width;
			struct pair x = pair_of(r, q, k, v, d_i, o + i * width, lse[i]);
			size_t at_i = in + i * 3 * width, at_j = in + j * 3 * width + width;

			for (size_t d = 0; d < s->dim; d++) {
				b->out[out + i * width + d] += x.p * fabs(v[d]);
				b->dqkv[at_i + d] += x.ds * fabs(k[d]);
				b->loose_dqkv[at_i + d] += x.ds_loose * fabs(k[d]);
				b->dqkv[at_j + d] += x.ds * fabs(q[d]);
				b->loose_dqkv[at_j + d] += x.ds_loose * fabs(q[d]);
				b->dqkv[at_j + width + d] += x.p * fabs(d_i[d]);
				b->loose_dqkv[at_j + width + d] += x.p * fabs(d_i[d]);
			}
		}
}

static void bounds_open(struct bounds *b, const struct run *r)
{
	size_t out = r->arrays[OUT].count, qkv = r->arrays[QKV].count;

	b->out = must_alloc(out * sizeof(double));
	b->dqkv = must_alloc(qkv * sizeof(double));
	b->loose_dqkv = must_alloc(qkv * sizeof(double));
	b->loose_out = b->out;
	for (size_t i = 0; i < r->shape.batch * r->shape.heads; i++)
		bounds_of_head(r, b, i / r->shape.heads, i % r->shape.heads);
}

static void bounds_close(struct bounds *b)
{
	free(b->out);
	free(b->dqkv);
	free(b->loose_dqkv);
}

static void describe(char *text, size_t bytes, const struct shape *s)
{
	snprintf(text, bytes,
		 "%s, batch %zu, seq %zu, heads %zu, head_dim %zu, span %g, offset %zu",
		 s->act == DTYPE_BF16 ? "bf16" : "fp32", s->batch, s->seq, s->heads, s->dim,
		 s->span, s->offset);
}

static void compare(const struct run *r, const char *name, const struct array *got,
		    const double *want, const double *sum, const double *loose)
{
	double u = r->shape.act == DTYPE_BF16 ? 0x1p-8 : 0x1p-24;
	double e = 0x1p-23 * r->shape.span * r->shape.span * sqrt((double)r->shape.dim);
	char text[160];

	describe(text, sizeof(text), &r->shape);
	for (size_t i = 0; i < got->count; i++) {
		double allowed = u * (sum[i] + fabs(want[i])) + (4 * e + 0x1p-20) * loose[i] + TINY;

		ck_assert_msg(fabs(got->values[i] - want[i]) <= allowed,
			      "%s: %s[%zu] is %.9g, not %.9g: off by %g, allowed %g (seed %u)",
			      text, name, i, got->values[i], want[i],
			      fabs(got->values[i] - want[i]), allowed, SEED);
	}
}

static void compare_lse(const struct run *r)
{
	const struct array *got = &r->arrays[LSE];
	double e = 0x1p-23 * r->shape.span * r->shape.span * sqrt((double)r->shape.dim);
	char text[160];

	describe(text, sizeof(text), &r->shape);
	for (size_t i = 0; i < got->count; i++)
		ck_assert_msg(fabs(got->values[i] - r->want_lse[i]) <= 2 * e + 0x1p-20,
			      "%s: lse[%zu] is %.9g, not %.9g (seed %u)", text, i, got->values[i],
			      r->want_lse[i], SEED);
}

static void order_set(unsigned order)
{
#ifdef DSRUN_CUDA_SHIM
	shim_order_set(order);
#else
	(void)order;
#endif
}

/* Runs once more, in another order, and compares bytes. */
static void repeat(struct run *r)
{
	uint8_t *before[ARRAYS], *after;

	for (unsigned i = OUT; i < ARRAYS; i++)
		before[i] = output_bytes(&r->arrays[i]);
	order_set(1);
	run_kernels(r);
	order_set(0);
	for (unsigned i = OUT; i < ARRAYS; i++) {
		after = output_bytes(&r->arrays[i]);
		ck_assert_msg(memcmp(before[i], after, r->arrays[i].bytes) == 0,
			      "a second run differs in output %u", i);
		free(before[i]);
		free(after);
	}
}

static void check_shape(const struct shape *s)
{
	struct run r;
	struct bounds b;

	run_open(&r, s);
	order_set(0);
	run_kernels(&r);
	for (unsigned i = OUT; i < SCRATCH; i++)
		output_values(&r, i);
	reference(&r);
	bounds_open(&b, &r);
	compare_lse(&r);
	compare(&r, "out", &r.arrays[OUT], r.want_out, b.out, b.loose_out);
	compare(&r, "dqkv", &r.arrays[DQKV], r.want_dqkv, b.dqkv, b.loose_dqkv);
	bounds_close(&b);
	repeat(&r);
	run_close(&r);
}

/* Widths are those of the shapes of tiles, and ones between them, odd ones among these. */
static const size_t dims[] = {1, 8, 16, 31, 40, 64, 80, 96, 128, 256};

START_TEST(every_width_at_lengths_around_tiles)
{
	static const size_t lengths[] = {17, 130};
	struct shape s = {
		.batch = 1,
		.seq = lengths[_i / 2 % 2],
		.heads = 1,
		.dim = dims[_i / 4],
		.act = _i % 2 ? DTYPE_BF16 : DTYPE_F32,
		.span = 2,
	};

	check_shape(&s);
}
END_TEST

START_TEST(every_length)
{
	static const size_t lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 128, 130, 257};
	struct shape s = {
		.batch = 1,
		.seq = lengths[_i / 2],
		.heads = 1,
		.dim = 64,
		.act = _i % 2 ? DTYPE_BF16 : DTYPE_F32,
		.span = 1,
	};

	check_shape(&s);
}
END_TEST

static const struct shape others[] = {
	/* Several sequences and heads, rows that are whole pieces and rows that are not. */
	{2, 33, 3, 64, DTYPE_BF16, 2, 0},
	{3, 17, 2, 40, DTYPE_BF16, 2, 0},
	{2, 70, 3, 31, DTYPE_BF16, 2, 0},
	{2, 5, 3, 129, DTYPE_BF16, 2, 0},
	{2, 33, 3, 64, DTYPE_F32, 2, 0},
	{2, 70, 3, 31, DTYPE_F32, 2, 0},
	/* Many tiles of the widest that all of a warp's registers are needed for. */
	{1, 257, 1, 128, DTYPE_BF16, 1, 0},
	/* Arrays that are not aligned. */
	{2, 33, 2, 64, DTYPE_BF16, 2, 1},
	{1, 33, 2, 80, DTYPE_BF16, 2, 4},
	{1, 33, 2, 64, DTYPE_F32, 2, 1},
	/* Scores up to 8e4: one key takes all, exponents leave the range of floats by far. */
	{1, 130, 1, 64, DTYPE_BF16, 100, 0},
	{1, 130, 1, 64, DTYPE_F32, 100, 0},
	{1, 70, 2, 128, DTYPE_BF16, 30, 0},
	/* Scores next to nothing: all keys weigh the same. */
	{1, 130, 1, 64, DTYPE_BF16, 1e-3, 0},
	{1, 130, 1, 64, DTYPE_F32, 1e-3, 0},
};
#define OTHERS ((int)(sizeof(others) / sizeof(others[0])))

START_TEST(other_shapes)
{
	check_shape(&others[_i]);
}
END_TEST

/* Nothing is launched for what kernels cannot do; nothing at all is nothing to do. */
START_TEST(what_cannot_be_done_is_an_error)
{
	float scratch = 0;
	struct attention a = {.batch = 1,
			      .seq = 1,
			      .heads = 1,
			      .head_dim = 257,
			      .act = DTYPE_BF16,
			      .scratch = &scratch,
			      .scratch_count = 1};

	ck_assert_int_eq(cuda_attention_forward(&a, NULL), cudaErrorInvalidValue);
	ck_assert_int_eq(cuda_attention_backward(&a, NULL), cudaErrorInvalidValue);
	a.head_dim = 64;
	a.seq = (size_t)1 << 32;
	ck_assert_int_eq(cuda_attention_forward(&a, NULL), cudaErrorInvalidValue);
	a.seq = 2;
	ck_assert_int_eq(cuda_attention_backward(&a, NULL), cudaErrorInvalidValue);
	a.batch = 0;
	ck_assert_int_eq(cuda_attention_forward(&a, NULL), cudaSuccess);
	ck_assert_int_eq(cuda_attention_backward(&a, NULL), cudaSuccess);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cuda_attention");
	TCase *t = tcase_create("attention");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 240);
	tcase_add_loop_test(t, every_width_at_lengths_around_tiles, 0,
			    4 * (int)(sizeof(dims) / sizeof(dims[0])));
	tcase_add_loop_test(t, every_length, 0, 2 * 11);
	tcase_add_loop_test(t, other_shapes, 0, OTHERS);
	tcase_add_test(t, what_cannot_be_done_is_an_error);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
