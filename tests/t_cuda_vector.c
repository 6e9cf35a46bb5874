/*
 * Goal: Adam and the element-wise operations of a GPU give the bits of the cpu: a state may move
 * between them, and a norm does not depend on which took it. On the host shim this is part of every
 * check; the same program built against CUDA runs on a GPU.
 *
 * Method: fixed random inputs of odd and large counts, aligned and not; cuda_kit runs each twice
 * and sees to fences and inputs; what comes out is compared with the host functions of vector.h and
 * adam.h, byte by byte. Conversion goes over every upper half of a float, with the lower halves
 * where rounding turns; what is not a number must stay none.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/adam.h"
#include "kernels/vector.h"
#include "tests/cuda_kit.h"

#define SEED 20241119u

struct shape {
	size_t count;
	enum dtype a, b;    /* vector: of a, of out; Adam: of the gradient, of the parameter */
	size_t shift;       /* elements by which every buffer is unaligned */
	size_t decay, step; /* Adam */
};

typedef void case_fn(struct cuda_kit *k, const struct shape *s);

/* Host memory that lies aligned, with what device memory at p held before. */
static void *copy_of(struct cuda_kit *k, const void *p, size_t bytes)
{
	return memcpy(cuda_kit_room(k, bytes / sizeof(double) + 1), cuda_kit_before(k, p), bytes);
}

static void case_add(struct cuda_kit *k, const struct shape *s)
{
	size_t n = s->count;
	struct vector v = {
		.count = n,
		.a = cuda_kit_input(k, DTYPE_F32, n, 1),
		.b = cuda_kit_input(k, DTYPE_F32, n, 1),
		.out = cuda_kit_output(k, DTYPE_F32, n),
	};
	struct vector in_place = v;
	const float *a = copy_of(k, v.a, n * sizeof(float));
	float *want = copy_of(k, v.b, n * sizeof(float));

	in_place.out = cuda_kit_inout_given(k, want, n, sizeof(float));
	in_place.b = in_place.out;
	CUDA_KIT_CALL(k, cuda_vector_add, &v);
	CUDA_KIT_CALL(k, cuda_vector_add, &in_place);
	cuda_kit_execute(k);
	vector_host_accumulate(want, a, DTYPE_F32, n);
	cuda_kit_same(k, "sum", v.out, want, n * sizeof(float));
	cuda_kit_same(k, "sum in place", in_place.out, want, n * sizeof(float));
}

static void case_accumulate(struct cuda_kit *k, const struct shape *s)
{
	size_t n = s->count;
	struct vector v = {
		.count = n,
		.a = cuda_kit_input(k, s->a, n, 1),
		.a_type = s->a,
		.out = cuda_kit_inout(k, DTYPE_F32, n, 1),
	};
	float *want = copy_of(k, v.out, n * sizeof(float));

	CUDA_KIT_CALL(k, cuda_vector_accumulate, &v);
	cuda_kit_execute(k);
	vector_host_accumulate(want, copy_of(k, v.a, n * dtype_bytes(s->a)), s->a, n);
	cuda_kit_same(k, "out", v.out, want, n * sizeof(float));
}

static void case_convert(struct cuda_kit *k, const struct shape *s)
{
	size_t n = s->count, bytes = n * dtype_bytes(s->b);
	struct vector v = {
		.count = n,
		.a = cuda_kit_input(k, s->a, n, 1),
		.a_type = s->a,
		.out = cuda_kit_output(k, s->b, n),
		.out_type = s->b,
	};
	void *want = cuda_kit_room(k, bytes / sizeof(double) + 1);

	CUDA_KIT_CALL(k, cuda_vector_convert, &v);
	cuda_kit_execute(k);
	vector_host_convert(want, s->b, copy_of(k, v.a, n * dtype_bytes(s->a)), s->a, n);
	cuda_kit_same(k, "out", v.out, want, bytes);
}

static void case_convert_all(struct cuda_kit *k, const struct shape *s)
{
	static const uint16_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
	const size_t lows = sizeof(low) / sizeof(low[0]), n = 65536 * lows - s->shift;
	uint32_t *bits = malloc(n * sizeof(*bits));
	uint16_t *want = malloc(n * sizeof(*want));
	struct vector v = {.count = n, .a_type = DTYPE_F32, .out_type = DTYPE_BF16};

	ck_assert(bits && want);
	for (size_t i = 0; i < n; i++) {
		float f;

		bits[i] = (uint32_t)(i / lows) << 16 | low[i % lows];
		memcpy(&f, &bits[i], sizeof(f));
		want[i] = bf16_from_float(f);
	}
	v.a = cuda_kit_given(k, bits, n, sizeof(*bits));
	v.out = cuda_kit_output(k, DTYPE_BF16, n);
	CUDA_KIT_CALL(k, cuda_vector_convert, &v);
	cuda_kit_execute(k);
	cuda_kit_same(k, "out", v.out, want, n * sizeof(*want));
	free(bits);
	free(want);
}

static void case_sumsq(struct cuda_kit *k, const struct shape *s)
{
	size_t n = s->count, blocks = vector_blocks(n);
	struct vector v = {
		.count = n,
		.a = cuda_kit_input(k, s->a, n, 1),
		.a_type = s->a,
		.blocks = cuda_kit_output_of(k, blocks, sizeof(double)),
	};
	double *want = cuda_kit_room(k, blocks);

	CUDA_KIT_CALL(k, cuda_vector_sumsq, &v);
	cuda_kit_execute(k);
	vector_host_sumsq(want, copy_of(k, v.a, n * dtype_bytes(s->a)), s->a, n);
	cuda_kit_same(k, "blocks", v.blocks, want, blocks * sizeof(*want));
}

/* A later step: moments that are not zero, variances that are positive. */
static void case_adam(struct cuda_kit *k, const struct shape *s)
{
	const struct adam_hyper hyper = {3e-3, 0.9, 0.95, 1e-8, 0.1};
	size_t n = s->count, param_bytes = n * dtype_bytes(s->b);
	float *variance = (float *)cuda_kit_room(k, n / 2 + 1);
	struct adam a = {
		.count = n,
		.decay_count = s->decay,
		.grad = cuda_kit_input(k, s->a, n, 1e-2),
		.grad_type = s->a,
		.param_type = s->b,
		.param = cuda_kit_inout(k, s->b, n, 1),
		.m = cuda_kit_inout(k, DTYPE_F32, n, 1e-2),
		.scalars = adam_scalars_make(&hyper, s->step, 0.37),
	};
	struct adam want = a;

	for (size_t i = 0; i < n; i++)
		variance[i] = (float)(i % 1009) * 1e-7f;
	a.v = cuda_kit_inout_given(k, variance, n, sizeof(float));
	/* Any lower half is one. */
	if (s->b == DTYPE_BF16)
		a.lo = cuda_kit_inout(k, DTYPE_BF16, n, 1);
	CUDA_KIT_CALL(k, cuda_adam, &a);
	cuda_kit_execute(k);
	want.grad = copy_of(k, a.grad, n * dtype_bytes(s->a));
	want.param = copy_of(k, a.param, param_bytes);
	want.lo = a.lo ? copy_of(k, a.lo, n * sizeof(*a.lo)) : NULL;
	want.m = copy_of(k, a.m, n * sizeof(float));
	want.v = copy_of(k, a.v, n * sizeof(float));
	adam_host_step_isa(&want, CPU_SCALAR);
	cuda_kit_same(k, "m", a.m, want.m, n * sizeof(float));
	cuda_kit_same(k, "v", a.v, want.v, n * sizeof(float));
	cuda_kit_same(k, "param", a.param, want.param, param_bytes);
	if (a.lo)
		cuda_kit_same(k, "lo", a.lo, want.lo, n * sizeof(*a.lo));
}

#define F32  DTYPE_F32
#define BF16 DTYPE_BF16

static const struct {
	const char *name;
	case_fn *fn;
	struct shape shape;
} cases[] = {
	{"add 1", case_add, {1, 0, 0, 0, 0, 0}},
	{"add 100007", case_add, {100007, 0, 0, 0, 0, 0}},
	{"add 100007 unaligned", case_add, {100007, 0, 0, 1, 0, 0}},
	/* More elements than a grid has threads. */
	{"add 1048583 unaligned", case_add, {1048583, 0, 0, 3, 0, 0}},
	{"add none", case_add, {0, 0, 0, 0, 0, 0}},
	{"accumulate 1", case_accumulate, {1, F32, 0, 0, 0, 0}},
	{"accumulate 4099", case_accumulate, {4099, F32, 0, 0, 0, 0}},
	{"accumulate bf16 4099", case_accumulate, {4099, BF16, 0, 0, 0, 0}},
	{"accumulate bf16 4099 unaligned", case_accumulate, {4099, BF16, 0, 1, 0, 0}},
	{"convert 4099", case_convert, {4099, F32, F32, 0, 0, 0}},
	{"convert bf16 4099", case_convert, {4099, BF16, BF16, 1, 0, 0}},
	{"narrow 4099", case_convert, {4099, F32, BF16, 0, 0, 0}},
	{"narrow 4099 unaligned", case_convert, {4099, F32, BF16, 1, 0, 0}},
	{"widen 4099", case_convert, {4099, BF16, F32, 0, 0, 0}},
	{"widen 4099 unaligned", case_convert, {4099, BF16, F32, 3, 0, 0}},
	{"narrow all", case_convert_all, {0, 0, 0, 0, 0, 0}},
	{"narrow all unaligned", case_convert_all, {0, 0, 0, 5, 0, 0}},
	{"sumsq 1", case_sumsq, {1, F32, 0, 0, 0, 0}},
	{"sumsq 2048", case_sumsq, {2048, F32, 0, 0, 0, 0}},
	{"sumsq 100007", case_sumsq, {100007, F32, 0, 1, 0, 0}},
	{"sumsq bf16 2049", case_sumsq, {2049, BF16, 0, 0, 0, 0}},
	{"sumsq bf16 600000", case_sumsq, {600000, BF16, 0, 3, 0, 0}},
	{"adam 1", case_adam, {1, F32, F32, 0, 1, 1}},
	{"adam 100007", case_adam, {100007, F32, F32, 0, 70001, 1}},
	{"adam 100007 unaligned", case_adam, {100007, F32, F32, 1, 100007, 1000}},
	{"adam bf16 gradient", case_adam, {4099, BF16, F32, 0, 4097, 2}},
	{"adam split", case_adam, {100007, BF16, BF16, 0, 70001, 3}},
	{"adam split unaligned", case_adam, {4099, BF16, BF16, 1, 0, 10}},
	{"adam split fp32 gradient", case_adam, {4098, F32, BF16, 0, 2049, 10}},
	{"adam split 1048583", case_adam, {1048583, BF16, BF16, 3, 1000003, 5}},
};

START_TEST(bits_of_the_cpu)
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
	return cuda_kit_main("cuda_vector", bits_of_the_cpu, sizeof(cases) / sizeof(cases[0]));
}
