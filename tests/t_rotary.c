/*
 * Goal: rotary positions turn what they say by what they say: halves of a head, by angles that are
 * exact at far positions, so that products of queries and keys depend on their distance alone; the
 * inverse undoes it; what cannot be turned is refused. (t_ops has it against the reference, on
 * every instruction set; t_grad its gradient.)
 *
 * Method: numbers worked out by hand, properties of the operation, and for refusals a child process
 * that must die of the assertion, beside one that differs in the bad number only and lives.
 */
#include <check.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/rotary.h"
#include "tests/kernels_kit.h"

#define SEED         55100u
#define MEMORY_BYTES (16u << 20)

/* One sequence of `seq` rows of nothing but heads, all random; with its table. */
static struct rotary rotary_inputs(struct kit *k, size_t seq, size_t heads, size_t head_dim)
{
	struct rotary r = {.batch = 1, .seq = seq, .heads = heads, .head_dim = head_dim};
	float *table = kit_output(k, seq * head_dim * sizeof(float));

	r.row = heads * head_dim;
	r.x = kit_sum(k, seq * r.row);
	r.table = table;
	rotary_host_table(table, seq, head_dim, 10000);
	return r;
}

/* With four elements and theta 10000 the two pairs of position 1 turn by 1 and by 0.01. */
START_TEST(pairs_are_halves)
{
	struct kit k;
	struct rotary r;
	double want[8] = {1, 2, 3, 4};
	float *x;

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	r = rotary_inputs(&k, 2, 1, 4);
	x = r.x;
	for (size_t i = 0; i < 8; i++)
		x[i] = (float)(i % 4 + 1);
	want[4] = 1 * cos(1) - 3 * sin(1);
	want[5] = 2 * cos(0.01) - 4 * sin(0.01);
	want[6] = 3 * cos(1) + 1 * sin(1);
	want[7] = 4 * cos(0.01) + 2 * sin(0.01);
	rotary(k.stream, &r);
	kit_sync(&k);
	ck_assert(kit_distance(x, want, 8, 1) <= 2e-7);
	kit_close(&k);
}
END_TEST

/* Half an ulp below one, and a little for the double that was rounded. */
START_TEST(table_is_exact_at_far_positions)
{
	const size_t seq = 131072, head_dim = 6;
	float *table = malloc(seq * head_dim * sizeof(*table));

	ck_assert_ptr_nonnull(table);
	rotary_host_table(table, seq, head_dim, 500000);
	for (size_t p = 0; p < seq; p += p < 100 ? 1 : 997)
		for (size_t j = 0; j < head_dim / 2; j++) {
			const float *pair = table + p * head_dim + 2 * j;
			long double power = powl(500000, 2.0L * j / head_dim);

			ck_assert(fabsl(pair[0] - cosl(p / power)) <= 0x1.01p-25L);
			ck_assert(fabsl(pair[1] - sinl(p / power)) <= 0x1.01p-25L);
		}
	free(table);
}
END_TEST

START_TEST(inverse_undoes)
{
	const size_t seq = 67, heads = 3, head_dim = 38, n = seq * heads * head_dim;
	struct kit k;
	struct rotary r;
	double *before, *turned;

	kit_open(&k, MEMORY_BYTES, 2, SEED);
	r = rotary_inputs(&k, seq, heads, head_dim);
	before = kit_doubles(&k, r.x, DTYPE_F32, n);
	rotary(k.stream, &r);
	kit_sync(&k);
	turned = kit_doubles(&k, r.x, DTYPE_F32, n);
	r.inverse = true;
	rotary(k.stream, &r);
	kit_sync(&k);
	ck_assert(kit_distance(r.x, before, n, 1) <= 4e-7);
	ck_assert(kit_distance(r.x, turned, n, 1) > 0.1);
	kit_close(&k);
}
END_TEST

/* Every row holds the same query and the same key: their products are a function of i - j. */
START_TEST(products_depend_on_distance)
{
	const size_t seq = 40, head_dim = 32;
	struct kit k;
	struct rotary r;
	float *x;

	kit_open(&k, MEMORY_BYTES, 1, SEED);
	r = rotary_inputs(&k, seq, 2, head_dim);
	x = r.x;
	for (size_t i = 1; i < seq; i++)
		memcpy(x + i * r.row, x, r.row * sizeof(*x));
	rotary(k.stream, &r);
	kit_sync(&k);
	for (size_t distance = 0; distance < 5; distance++) {
		double first = 0;

		for (size_t i = distance; i < seq; i++) {
			const float *q = x + i * r.row,
				    *key = x + (i - distance) * r.row + head_dim;
			double product = 0;

			for (size_t d = 0; d < head_dim; d++)
				product += (double)q[d] * (double)key[d];
			if (i == distance)
				first = product;
			ck_assert_msg(fabs(product - first) <= 1e-5, "at %zu, %zu apart", i,
				      distance);
		}
	}
	kit_close(&k);
}
END_TEST

/* In a child with no core and nothing to say: a turn of these, 0 when it went well. */
static int child_status(size_t head_dim, size_t row)
{
	const struct rlimit no_core = {0, 0};
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct kit k;
		struct rotary r;

		if (setrlimit(RLIMIT_CORE, &no_core) < 0 || !freopen("/dev/null", "w", stderr))
			_exit(2);
		kit_open(&k, MEMORY_BYTES, 1, SEED);
		r = rotary_inputs(&k, 3, 2, 4);
		r.head_dim = head_dim;
		r.row = row;
		rotary(k.stream, &r);
		kit_sync(&k);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

START_TEST(what_cannot_be_turned_is_refused)
{
	int odd = child_status(3, 8), none = child_status(0, 8), overlapping = child_status(4, 7);

	ck_assert_int_eq(child_status(4, 8), 0);
	ck_assert_int_eq(child_status(2, 8), 0);
	ck_assert(WIFSIGNALED(odd) && WTERMSIG(odd) == SIGABRT);
	ck_assert(WIFSIGNALED(none) && WTERMSIG(none) == SIGABRT);
	ck_assert(WIFSIGNALED(overlapping) && WTERMSIG(overlapping) == SIGABRT);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("rotary");
	TCase *tc = tcase_create("rotary");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, pairs_are_halves);
	tcase_add_test(tc, table_is_exact_at_far_positions);
	tcase_add_test(tc, inverse_undoes);
	tcase_add_test(tc, products_depend_on_distance);
	tcase_add_test(tc, what_cannot_be_turned_is_refused);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
