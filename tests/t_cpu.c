/*
 * Goal: the mask lowers the instruction set, never raises it. Method: the answer is cached for the
 * process, so each mask is tried in a child; what the CPU has is compared with the compiler's view.
 */
#include "common/cpu.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static enum cpu_isa under_mask(const char *mask)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (mask ? setenv("DSRUN_CPU_MASK", mask, 1) : unsetenv("DSRUN_CPU_MASK"))
			_exit(99);
		_exit((int)cpu_isa());
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) < CPU_ISA_COUNT);
	return (enum cpu_isa)WEXITSTATUS(status);
}

static enum cpu_isa lower(enum cpu_isa a, enum cpu_isa b)
{
	return a < b ? a : b;
}

START_TEST(mask_lowers)
{
	enum cpu_isa present = cpu_isa_present();

	ck_assert_int_eq(under_mask(NULL), present);
	ck_assert_int_eq(under_mask(""), present);
	ck_assert_int_eq(under_mask("scalar"), CPU_SCALAR);
	ck_assert_int_eq(under_mask("avx2"), lower(CPU_AVX2, present));
	ck_assert_int_eq(under_mask("avx512"), lower(CPU_AVX512, present));
	ck_assert_int_eq(under_mask("avx3"), CPU_SCALAR);
}
END_TEST

START_TEST(names)
{
	ck_assert_str_eq(cpu_isa_name(CPU_SCALAR), "scalar");
	ck_assert_str_eq(cpu_isa_name(CPU_AVX2), "avx2");
	ck_assert_str_eq(cpu_isa_name(CPU_AVX512), "avx512");
	ck_assert_str_eq(cpu_isa_name(CPU_ISA_COUNT), "unknown");
}
END_TEST

#if defined(__x86_64__)
START_TEST(agrees_with_the_compiler)
{
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
		ck_assert_int_eq(cpu_isa_present(), CPU_AVX512);
	else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		ck_assert_int_eq(cpu_isa_present(), CPU_AVX2);
	else
		ck_assert_int_eq(cpu_isa_present(), CPU_SCALAR);
	ck_assert_int_eq(cpu_has_crc32(), !!__builtin_cpu_supports("sse4.2"));
}
END_TEST
#endif

int main(void)
{
	Suite *suite = suite_create("cpu");
	TCase *tcase = tcase_create("cpu");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, mask_lowers);
	tcase_add_test(tcase, names);
#if defined(__x86_64__)
	tcase_add_test(tcase, agrees_with_the_compiler);
#endif
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
