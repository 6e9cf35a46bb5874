/*
 * Goal: the host shim for CUDA kernels runs them as CUDA says, and catches what a kernel must not
 * do: it is the judge of every kernel of this project where there is no GPU.
 *
 * Method: kernels made for it (cuda_host/shim_kernels.cu). What is well formed is compared with
 * what CUDA's guide defines, with threads taken in ascending and in reverse order. A crime is
 * committed in a child process; what the child must end with depends on who can see it: under
 * AddressSanitizer every access out of bounds is reported, without it writes are found by the
 * fences around an allocation, and reads past its end by the page after it.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cuda_host/sanitizer.h"
#include "tests/cuda_host/shim.h"
#include "tests/cuda_host/shim_kernels.h"

static void *device_memory(size_t bytes)
{
	void *p;

	ck_assert_int_eq(cudaMalloc(&p, bytes), cudaSuccess);
	return p;
}

START_TEST(indices_cover_the_grid)
{
	static const dim3 grids[] = {{1, 1, 1}, {7, 1, 1}, {3, 5, 2}};
	static const dim3 blocks[] = {{1, 1, 1}, {1024, 1, 1}, {5, 3, 7}, {33, 1, 4}};
	const dim3 *g = &grids[_i % 3], *b = &blocks[_i / 3];
	size_t count = (size_t)g->x * g->y * g->z * b->x * b->y * b->z;
	uint32_t *out = device_memory(count * sizeof(*out));

	for (unsigned order = 0; order < 2; order++) {
		shim_order_set(order);
		ck_assert_int_eq(cudaMemset(out, 0, count * sizeof(*out)), cudaSuccess);
		ck_assert_int_eq(shim_kernel_index(out, *g, *b, NULL), cudaSuccess);
		ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
		for (size_t i = 0; i < count; i++)
			ck_assert_uint_eq(out[i], (uint32_t)i + 1);
	}
	ck_assert_int_eq(cudaFree(out), cudaSuccess);
}
END_TEST

START_TEST(barriers_order_shared_memory)
{
	static const unsigned threads[] = {1, 2, 31, 32, 33, 100, 257, 1024};
	unsigned n = threads[_i], blocks = 5;
	int *in = device_memory(blocks * n * sizeof(*in)),
	    *out = device_memory(blocks * sizeof(*out));

	for (unsigned i = 0; i < blocks * n; i++)
		in[i] = (int)(i * 7919 % 1009);
	for (unsigned order = 0; order < 2; order++) {
		shim_order_set(order);
		ck_assert_int_eq(shim_kernel_block_sum(out, in, blocks, n, NULL), cudaSuccess);
		ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
		for (unsigned b = 0; b < blocks; b++) {
			int want = 0;

			for (unsigned i = 0; i < n; i++)
				want += in[b * n + i];
			ck_assert_int_eq(out[b], want);
		}
	}
	cudaFree(in);
	cudaFree(out);
}
END_TEST

START_TEST(barriers_count_votes)
{
	static const unsigned below[] = {0, 1, 99, 100};
	unsigned threads = 100;
	int *out = device_memory(threads * 3 * sizeof(*out));

	for (unsigned order = 0; order < 2; order++) {
		shim_order_set(order);
		ck_assert_int_eq(shim_kernel_votes(out, threads, below[_i], NULL), cudaSuccess);
		ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
		for (unsigned i = 0; i < threads; i++) {
			ck_assert_int_eq(out[3 * i], (int)below[_i]);
			ck_assert_int_eq(out[3 * i + 1], below[_i] > 0);
			ck_assert_int_eq(out[3 * i + 2], below[_i] == threads);
		}
	}
	cudaFree(out);
}
END_TEST

static uint32_t collective(unsigned thread, unsigned column)
{
	unsigned lane = thread % 32, base = thread - lane;

	switch (column) {
	case 0:
		return base + 5;
	case 1:
		return thread / 8 * 8 + 3;
	case 2:
		return lane + 4 < 32 ? thread + 4 : thread;
	case 3:
		return lane % 16 + 4 < 16 ? thread + 4 : thread;
	case 4:
		return lane >= 3 ? thread - 3 : thread;
	case 5:
		return lane % 8 >= 3 ? thread - 3 : thread;
	case 6:
		return base + (lane ^ 21);
	case 7:
		return 0x49249249u;
	case 8:
		return lane >= 16;
	case 9:
		return lane < 16;
	case 10:
		return 2 * (thread ^ 1);
	default:
		return lane % 4 == 3 ? 0xffffffffu : 0x77777777u;
	}
}

START_TEST(collectives_are_as_in_cuda)
{
	unsigned threads = 96;
	uint32_t *out = device_memory(threads * SHIM_COLLECTIVES * sizeof(*out));

	for (unsigned order = 0; order < 2; order++) {
		shim_order_set(order);
		ck_assert_int_eq(cudaMemset(out, 0xff, threads * SHIM_COLLECTIVES * sizeof(*out)),
				 cudaSuccess);
		ck_assert_int_eq(shim_kernel_collectives(out, threads, NULL), cudaSuccess);
		ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
		for (unsigned t = 0; t < threads; t++)
			for (unsigned c = 0; c < SHIM_COLLECTIVES; c++)
				ck_assert_msg(out[t * SHIM_COLLECTIVES + c] == collective(t, c),
					      "thread %u, column %u: %u, expected %u", t, c,
					      out[t * SHIM_COLLECTIVES + c], collective(t, c));
	}
	cudaFree(out);
}
END_TEST

START_TEST(shared_memory_is_poisoned_for_each_block)
{
	unsigned blocks = 3, threads = 8;
	uint32_t *out = device_memory(blocks * threads * 3 * sizeof(*out));

	ck_assert_int_eq(shim_kernel_shared_new(out, blocks, NULL), cudaSuccess);
	ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
	for (unsigned i = 0; i < blocks * threads * 3; i++)
		ck_assert_uint_eq(out[i], 0xffffffffu);
	cudaFree(out);
}
END_TEST

START_TEST(configurations_are_checked)
{
	static const struct {
		dim3 grid, block;
		size_t shared_bytes;
		int opt_in;
		cudaError_t want;
	} cases[] = {
		{{1, 1, 1}, {1, 1, 1}, 0, 0, cudaSuccess},
		{{0, 1, 1}, {1, 1, 1}, 0, 0, cudaErrorInvalidConfiguration},
		{{1, 1, 1}, {0, 1, 1}, 0, 0, cudaErrorInvalidConfiguration},
		{{1, 1, 1}, {1025, 1, 1}, 0, 0, cudaErrorInvalidConfiguration},
		{{1, 1, 1}, {32, 33, 1}, 0, 0, cudaErrorInvalidConfiguration},
		{{1, 1, 1}, {1, 1, 65}, 0, 0, cudaErrorInvalidConfiguration},
		{{1, 65536, 1}, {1, 1, 1}, 0, 0, cudaErrorInvalidConfiguration},
		{{0x80000000u, 1, 1}, {1, 1, 1}, 0, 0, cudaErrorInvalidConfiguration},
		{{1, 1, 1}, {1, 1, 1}, 48 << 10, 0, cudaSuccess},
		{{1, 1, 1}, {1, 1, 1}, (48 << 10) + 4, 0, cudaErrorInvalidValue},
		{{1, 1, 1}, {1, 1, 1}, 227 << 10, 1, cudaSuccess},
		{{1, 1, 1}, {1, 1, 1}, (227 << 10) + 4, 1, cudaErrorInvalidValue},
	};
	cudaError_t got = shim_kernel_empty(cases[_i].grid, cases[_i].block, cases[_i].shared_bytes,
					    cases[_i].opt_in, NULL);

	ck_assert_msg(got == cases[_i].want, "got %s, expected %s", cudaGetErrorName(got),
		      cudaGetErrorName(cases[_i].want));
	/* A wrong launch is forgotten once it was asked for. */
	ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
}
END_TEST

/* Who sees a crime. */
enum judge { ASAN_ONLY, PAGE, FENCE, RUNNER };

struct crime {
	enum shim_crime crime;
	long at;
	enum judge judge;
	const char *says; /* by the runner */
};

#define INTS 1024 /* what lies at p: whole pages */

/* Runs in the child: 0 when nothing was noticed, 3 when the runner reported a failure. */
static int commit(const struct crime *c)
{
	int *p = device_memory(INTS * sizeof(*p));

	if (shim_kernel_crime(c->crime, p, c->at, NULL) == cudaSuccess &&
	    cudaDeviceSynchronize() == cudaSuccess && cudaFree(p) == cudaSuccess)
		return 0;
	return cudaDeviceSynchronize() == cudaErrorLaunchFailure ? 3 : 4;
}

/* Commits the crime in a child. Returns how it ended, and what it wrote to stderr. */
static int child_status(const struct crime *c, char *text, size_t room)
{
	int fds[2], status;
	size_t used = 0;
	ssize_t n;
	pid_t pid;

	ck_assert_int_eq(pipe(fds), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		dup2(fds[1], STDERR_FILENO);
		_exit(commit(c));
	}
	close(fds[1]);
	while (used + 1 < room && (n = read(fds[0], text + used, room - 1 - used)) > 0)
		used += (size_t)n;
	text[used] = '\0';
	close(fds[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static const struct crime crimes[] = {
	{SHIM_READ_GLOBAL, INTS, PAGE, NULL},
	{SHIM_READ_GLOBAL, -1, ASAN_ONLY, NULL},
	{SHIM_WRITE_GLOBAL, INTS, PAGE, NULL},
	{SHIM_WRITE_GLOBAL, INTS + 3, PAGE, NULL},
	{SHIM_READ_STATIC, SHIM_SHARED_INTS, ASAN_ONLY, NULL},
	{SHIM_READ_STATIC, -1, ASAN_ONLY, NULL},
	{SHIM_WRITE_STATIC, SHIM_SHARED_INTS, FENCE, "wrote outside its shared memory"},
	{SHIM_WRITE_STATIC, -1, FENCE, "wrote outside its shared memory"},
	{SHIM_READ_DYNAMIC, SHIM_SHARED_INTS, ASAN_ONLY, NULL},
	{SHIM_READ_DYNAMIC, SHIM_SHARED_INTS + 3, PAGE, NULL},
	{SHIM_WRITE_DYNAMIC, SHIM_SHARED_INTS, FENCE, "wrote outside its shared memory"},
	{SHIM_WRITE_DYNAMIC, SHIM_SHARED_INTS + 3, PAGE, NULL},
	{SHIM_WRITE_DYNAMIC, -1, FENCE, "wrote outside its shared memory"},
	{SHIM_BARRIER_HALF, 0, RUNNER, "thread (32, 0, 0) waits at __syncthreads of tests/"},
	{SHIM_BARRIER_HALF, 0, RUNNER, "; thread (0, 0, 0) has returned"},
	{SHIM_BARRIER_HALF, 0, RUNNER, "kernel crime_kernel, block (0, 0, 0): "},
	{SHIM_BARRIER_BRANCHES, 0, RUNNER, "threads of a block are at different barriers: "},
	{SHIM_BARRIER_BRANCHES, 0, RUNNER, "; thread (32, 0, 0) waits at __syncthreads of tests/"},
	{SHIM_SHUFFLE_HALF, 0, RUNNER, "thread (0, 0, 0) waits at __shfl_sync of tests/"},
	{SHIM_SHUFFLE_HALF, 0, RUNNER, "; thread (16, 0, 0) waits at __syncthreads"},
	{SHIM_SHUFFLE_OUTSIDE, 0, RUNNER, "a lane is not in the mask that it names: thread (31,"},
	{SHIM_SHUFFLE_MIXED, 0, RUNNER, "lanes of one mask are at different collectives: "},
};

START_TEST(crimes_are_caught)
{
	const struct crime *c = &crimes[_i];
	static char text[16384];
	int status = child_status(c, text, sizeof(text));

#ifdef SHIM_ASAN
	if (c->judge != RUNNER) {
		ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) != 0, "status %x", status);
		ck_assert_msg(strstr(text, "ERROR: AddressSanitizer"), "no report: %.2000s", text);
		return;
	}
#endif
	switch (c->judge) {
	case ASAN_ONLY:
		break;
	case PAGE:
		ck_assert_msg(!WIFEXITED(status) || WEXITSTATUS(status) != 0, "status %x: %.2000s",
			      status, text);
		break;
	case FENCE:
	case RUNNER:
		ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 3, "status %x: %.2000s",
			      status, text);
		ck_assert_msg(strstr(text, c->says), "it says: %.2000s", text);
	}
}
END_TEST

/* Without AddressSanitizer cudaFree looks at what lies around an allocation. */
START_TEST(writes_around_an_allocation_are_caught)
{
	static char text[16384];
	int fds[2], status;
	pid_t pid;

	ck_assert_int_eq(pipe(fds), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		char *p = device_memory(100);

		dup2(fds[1], STDERR_FILENO);
		p[_i == 0 ? 100 : -1] = 1;
		cudaFree(p);
		_exit(0);
	}
	close(fds[1]);
	ck_assert_int_gt(read(fds[0], text, sizeof(text) - 1), 0);
	close(fds[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(status != 0, "nobody noticed");
}
END_TEST

/* A failed kernel is the last one that runs: its error is every later call's. */
START_TEST(failure_sticks)
{
	int *p = device_memory(64 * sizeof(*p));

	ck_assert_int_eq(shim_kernel_crime(SHIM_BARRIER_HALF, p, 0, NULL), cudaErrorLaunchFailure);
	ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
	ck_assert_int_eq(shim_kernel_index((uint32_t *)p, (dim3){1, 1, 1}, (dim3){64, 1, 1}, NULL),
			 cudaErrorLaunchFailure);
	ck_assert_int_eq(cudaMemset(p, 0, 4), cudaErrorLaunchFailure);
	ck_assert_int_eq(p[0], -1);
	cudaFree(p);
}
END_TEST

/* What a missing barrier lets a thread see depends on the order; so two orders show a race. */
START_TEST(orders_show_races)
{
	int *p[2];

	for (unsigned order = 0; order < 2; order++) {
		p[order] = device_memory(64 * sizeof(int));
		shim_order_set(order);
		ck_assert_int_eq(shim_kernel_crime(SHIM_RACE, p[order], 0, NULL), cudaSuccess);
		ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
	}
	ck_assert_int_ne(memcmp(p[0], p[1], 64 * sizeof(int)), 0);
	ck_assert_int_eq(p[0][0], -1);
	ck_assert_int_eq(p[1][0], 32);
	cudaFree(p[0]);
	cudaFree(p[1]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cuda_shim");
	TCase *tc = tcase_create("cuda_shim");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, indices_cover_the_grid, 0, 12);
	tcase_add_loop_test(tc, barriers_order_shared_memory, 0, 8);
	tcase_add_loop_test(tc, barriers_count_votes, 0, 4);
	tcase_add_test(tc, collectives_are_as_in_cuda);
	tcase_add_test(tc, shared_memory_is_poisoned_for_each_block);
	tcase_add_loop_test(tc, configurations_are_checked, 0, 12);
	tcase_add_loop_test(tc, crimes_are_caught, 0, (int)(sizeof(crimes) / sizeof(crimes[0])));
	tcase_add_loop_test(tc, writes_around_an_allocation_are_caught, 0, 2);
	tcase_add_test(tc, failure_sticks);
	tcase_add_test(tc, orders_show_races);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
