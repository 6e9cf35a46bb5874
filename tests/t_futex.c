/*
 * Goal: a sleeper wakes when the word changes, in this process or another, and not before its time.
 * Method: ping-pong over one word, where a lost wake-up hangs; timeouts and values that differ.
 */
#include "common/futex.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 20000u
#define TEN_S  10000000000ull

/* Even: the first side's turn, odd: the second's. Returns 0, or the error of a wait. */
static int play(_Atomic uint32_t *word, uint32_t parity)
{
	for (uint32_t turn = parity; turn < 2 * ROUNDS; turn += 2) {
		uint32_t seen;

		/* Acquire, pairs with the other side's release store. */
		while ((seen = atomic_load_explicit(word, memory_order_acquire)) != turn) {
			int rc = futex_wait(word, seen, TEN_S);

			if (rc < 0 && rc != -EINTR)
				return rc;
		}
		atomic_store_explicit(word, turn + 1, memory_order_release);
		futex_wake(word, 1);
	}
	return 0;
}

static void *second(void *word)
{
	return (void *)(intptr_t)play(word, 1);
}

START_TEST(threads)
{
	static _Atomic uint32_t word;
	pthread_t thread;
	void *result;

	ck_assert_int_eq(pthread_create(&thread, NULL, second, &word), 0);
	ck_assert_int_eq(play(&word, 0), 0);
	ck_assert_int_eq(pthread_join(thread, &result), 0);
	ck_assert_ptr_null(result);
}
END_TEST

START_TEST(processes)
{
	_Atomic uint32_t *word =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;
	pid_t pid;

	ck_assert_ptr_ne((void *)word, MAP_FAILED);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(play(word, 1) ? 1 : 0);
	ck_assert_int_eq(play(word, 0), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	munmap((void *)word, 4096);
}
END_TEST

START_TEST(returns)
{
	static _Atomic uint32_t word = 5;

	ck_assert_int_eq(futex_wait(&word, 4, 0), 0);
	ck_assert_int_eq(futex_wait(&word, 5, 1000000), -ETIMEDOUT);
	futex_wake(&word, 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("futex");
	TCase *tcase = tcase_create("futex");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, threads);
	tcase_add_test(tcase, processes);
	tcase_add_test(tcase, returns);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
