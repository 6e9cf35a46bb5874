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
#include "kernels/vec_exp.h"
#include "kernels/vector.h"
#include "tests/kernels_kit.h"
#include "tests/ops_cases.h"

#define SEED         20240917u
#define MEMORY_BYTES (256u << 20)

static void check_outputs(struct ops_run *r, const char *name)
{
	ck_assert_msg(!r->wrong[0], "%s: %s (seed %u)", name, r->wrong, SEED);
	for (size_t i = 0; i < r->output_count; i++) {
		const struct ops_output *o = &r->outputs[i];
		double distance;

		if (!o->want)
			continue;
		distance = kit_distance(o->got, o->want, o->count, 1e-30);
		ck_assert_msg(distance <= o->tolerance, "%s: %s is off by %g, allowed %g (seed %u)",
			      name, o->name, distance, o->tolerance, SEED);
	}
}

static void run_case(size_t i, unsigned threads, struct ops_run *r)
{
	memset(r, 0, sizeof(*r));
	kit_open(&r->kit, MEMORY_BYTES, threads, SEED + i);
	ops_case_at(i)->fn(r, &ops_case_at(i)->shape);
}

static int digest(unsigned threads)
{
	for (size_t i = 0; i < ops_case_count(); i++) {
		struct ops_run r;

		run_case(i, threads, &r);
		printf("%s:", ops_case_at(i)->name);
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
	struct ops_run r;

	run_case((size_t)_i, 1, &r);
	check_outputs(&r, ops_case_at((size_t)_i)->name);
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
	tcase_add_loop_test(tc, against_reference, 0, (int)ops_case_count());
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
