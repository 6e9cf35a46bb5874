/*
 * Goal: kernels/cuda_mma.cuh has the fragment layouts it says, so that the host's bodies and the
 * PTX instructions are the same to a kernel.
 *
 * Method: matrices of small integers, whose products are exact in any order of summation, go
 * through ldmatrix and mma as the attention uses them, and are compared with plain loops, every
 * element for itself. The same program runs on a GPU, where it judges the PTX bodies.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "kernels/dtype.h"
#include "tests/cuda_host/mma_kernels.h"

#define SEED 20251124u
#define SIDE 16u

static void *to_device(const void *from, size_t bytes)
{
	void *p;

	ck_assert_int_eq(cudaMalloc(&p, bytes), cudaSuccess);
	ck_assert_int_eq(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
	return p;
}

static void from_device(void *to, void *p, size_t bytes)
{
	ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
	ck_assert_int_eq(cudaMemcpy(to, p, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
	ck_assert_int_eq(cudaFree(p), cudaSuccess);
}

static int small_integer(uint64_t stream, size_t i)
{
	return (int)rng_below(SEED, stream, i, 33) - 16;
}

START_TEST(products_are_those_of_loops)
{
	uint16_t a[SIDE][SIDE], y[SIDE][SIDE];
	float c[SIDE][SIDE], got[SIDE][SIDE], *device_c;
	uint16_t *device_a, *device_y;

	for (unsigned i = 0; i < SIDE * SIDE; i++) {
		a[i / SIDE][i % SIDE] = bf16_from_float((float)small_integer(0, i));
		y[i / SIDE][i % SIDE] = bf16_from_float((float)small_integer(1, i));
		c[i / SIDE][i % SIDE] = (float)small_integer(2, i);
	}
	device_a = to_device(a, sizeof(a));
	device_y = to_device(y, sizeof(y));
	device_c = to_device(c, sizeof(c));
	ck_assert_int_eq(mma_kernel_product(device_c, device_a, device_y, _i, NULL), cudaSuccess);
	from_device(got, device_c, sizeof(got));
	for (unsigned i = 0; i < SIDE; i++)
		for (unsigned j = 0; j < SIDE; j++) {
			float want = c[i][j];

			for (unsigned k = 0; k < SIDE; k++)
				want += bf16_to_float(a[i][k]) *
					bf16_to_float(_i ? y[j][k] : y[k][j]);
			ck_assert_msg(got[i][j] == want, "(%u, %u) is %g, not %g (seed %u)", i, j,
				      (double)got[i][j], (double)want, SEED);
		}
	cudaFree(device_a);
	cudaFree(device_y);
}
END_TEST

START_TEST(copies_arrive_and_what_does_not_exist_is_zero)
{
	static const unsigned counts[] = {0, 4, 256, MMA_COPY_WORDS};
	uint32_t in[MMA_COPY_WORDS], got[MMA_COPY_WORDS], *device_in, *device_out;
	unsigned count = counts[_i / 2];

	for (unsigned i = 0; i < MMA_COPY_WORDS; i++)
		in[i] = 7919 * i + 1;
	/* No longer than what may be read, so that a read past it is found. */
	device_in = to_device(in, (count ? count : 1) * sizeof(*in));
	device_out = to_device(in, sizeof(in));
	if (_i % 2)
		ck_assert_int_eq(mma_kernel_copy_16(device_out, device_in, count, NULL),
				 cudaSuccess);
	else
		ck_assert_int_eq(mma_kernel_copy_4(device_out, device_in, count, NULL),
				 cudaSuccess);
	from_device(got, device_out, sizeof(got));
	for (unsigned i = 0; i < MMA_COPY_WORDS; i++)
		ck_assert_uint_eq(got[i], i < count ? in[i] : 0);
	cudaFree(device_in);
}
END_TEST

/* Rounding is dtype.h's. Powers: 2^-22 of the value, as the PTX ISA has it; zero below 2^-126. */
START_TEST(numbers_are_rounded_and_raised)
{
	enum { COUNT = 1024 };
	float in[COUNT], powers[COUNT], *device_in, *device_powers;
	uint32_t pairs[COUNT / 2], *device_pairs;

	for (unsigned i = 0; i < COUNT; i++)
		in[i] = (float)(150 * (2 * rng_uniform(SEED, 3, i) - 1)) - 25;
	in[0] = -INFINITY;
	in[1] = 0;
	in[2] = 1.00390625f; /* half way between 1 and the next bf16: down to even */
	in[3] = 1.01171875f; /* half way again: up to even */
	device_in = to_device(in, sizeof(in));
	device_pairs = to_device(in, sizeof(pairs));
	device_powers = to_device(in, sizeof(powers));
	ck_assert_int_eq(mma_kernel_convert(device_pairs, device_powers, device_in, COUNT, NULL),
			 cudaSuccess);
	from_device(pairs, device_pairs, sizeof(pairs));
	from_device(powers, device_powers, sizeof(powers));
	for (unsigned i = 0; i < COUNT; i++) {
		double want = exp2((double)in[i]);

		ck_assert_uint_eq(pairs[i / 2] >> i % 2 * 16 & 0xffffu, bf16_from_float(in[i]));
		ck_assert_double_le(fabs((double)powers[i] - want), want * 0x1p-21 + 0x1p-126);
	}
	cudaFree(device_in);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cuda_mma");
	TCase *t = tcase_create("warp");
	SRunner *r;
	int failed;

	tcase_add_loop_test(t, products_are_those_of_loops, 0, 2);
	tcase_add_loop_test(t, copies_arrive_and_what_does_not_exist_is_zero, 0, 8);
	tcase_add_test(t, numbers_are_rounded_and_raised);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
