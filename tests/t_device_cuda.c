/*
 * Goal: what is the cuda device's own: it refuses what it cannot be with figures, every failure of
 * a CUDA call or of work on the GPU becomes one error at its cause, nothing is left behind.
 *
 * Method: the backend on the host shim of tests/cuda_host/, which can be told what machine it is,
 * and which call or piece of work fails. One scenario uses all of the backend; it is run with the
 * k-th call, piece of work or allocation failing, for k = 1, 2, ... until none does.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "kernels/device.h"
#include "kernels/linear.h"
#include "tests/cuda_host/shim.h"

#define MIB (1u << 20)

static struct err err;

static unsigned fail_at; /* the caller's allocation that fails, counted down; 0: none */
static pthread_t caller; /* the thread that runs the test */

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes)
{
	/* What the shim's threads need is no part of the backend. */
	if (!pthread_equal(pthread_self(), caller))
		return __real_calloc(count, bytes);
	return fail_at > 0 && --fail_at == 0 ? NULL : __real_calloc(count, bytes);
}

static struct device_config config_of(unsigned index, uint64_t beside_bytes)
{
	return (struct device_config){.type = DEVICE_CUDA,
				      .index = index,
				      .memory_bytes = device_own_bytes(DEVICE_CUDA) + beside_bytes};
}

static struct device *open_device(void)
{
	struct device_config config = config_of(0, MIB);
	struct device *device;

	memset(&err, 0, sizeof(err));
	ck_assert_msg(device_open(&config, &device, &err) == 0, "%s", err.text);
	return device;
}

static struct device_stream *open_stream(struct device *device, const char *name)
{
	struct device_stream *s;

	ck_assert_msg(device_stream_open(device, name, &s, &err) == 0, "%s", err.text);
	return s;
}

static void says(const char *words)
{
	ck_assert_msg(strstr(err.text, words) != NULL, "'%s' does not say '%s'", err.text, words);
}

static void refused(const struct device_config *config, int code)
{
	struct device *device = NULL;

	memset(&err, 0, sizeof(err));
	ck_assert_int_eq(device_open(config, &device, &err), code);
	ck_assert_int_eq(err.code, code);
	ck_assert_ptr_null(device);
	ck_assert_uint_eq(shim_opened(), 0);
}

START_TEST(what_cannot_be_opened_is_refused)
{
	struct device_config config = config_of(3, MIB);

	shim_devices_set(0, 9, 0);
	refused(&config, ERR_CONFIG);
	says("no NVIDIA driver");
	says("no CUDA-capable device is detected (cudaErrorNoDevice)");
	shim_devices_set(3, 9, 0);
	refused(&config, ERR_CONFIG);
	says("cuda device 3");
	says("the host has 3");
	shim_devices_set(4, 7, 5);
	refused(&config, ERR_CONFIG);
	says("7.5");
	says("8.0 is the least");
	shim_devices_set(4, 8, 0);
	shim_memory_set((size_t)40 * MIB);
	config.memory_bytes = (uint64_t)64 * MIB;
	refused(&config, -ENOMEM);
	says("device.memory is 64MiB, and 40MiB of its 40MiB are free");
	config.memory_bytes = UINT64_MAX;
	refused(&config, -ENOMEM);
	config.memory_bytes = MIB;
	refused(&config, -ENOMEM);
	says("cuBLASLt's workspace");
	config.memory_bytes = (uint64_t)33 * MIB;
	struct device *device;
	ck_assert_msg(device_open(&config, &device, &err) == 0, "%s", err.text);
	ck_assert_uint_eq(device_used_bytes(device), device_own_bytes(DEVICE_CUDA));
	ck_assert_int_eq(device_type_of(device), DEVICE_CUDA);
	device = device_free(device);
}
END_TEST

START_TEST(host_memory_is_registered_until_free)
{
	static _Alignas(4096) char memory[8192];
	struct device *device = open_device();
	struct rlimit limit, little;

	ck_assert_int_eq(device_host_register(device, memory, 4096, &err), 0);
	ck_assert_int_eq(device_host_register(device, memory + 4096, 0, &err), 0);
	ck_assert_uint_eq(shim_registered(), 1);
	ck_assert_int_eq(device_host_register(device, memory, 8192, &err),
			 err_cuda(cudaErrorHostMemoryAlreadyRegistered));
	says("pinning 8KiB");
	says("cudaHostRegister in kernels/device_cuda.c");
	ck_assert_ptr_null(strstr(err.text, "RLIMIT"));
	/* Any other failure may come of the limit. */
	ck_assert_int_eq(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
	little = limit;
	little.rlim_cur = 65536;
	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &little), 0);
	shim_call_fail(1);
	ck_assert_int_eq(device_host_register(device, memory + 4096, 4096, &err),
			 err_cuda(cudaErrorUnknown));
	says("RLIMIT_MEMLOCK is 64KiB");
	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	/* A failed registration is no failure of the device. */
	ck_assert(device_running(device));
	/* Memory that goes before the device does, and comes again at the same place. */
	device_host_unregister(device, memory);
	device_host_unregister(device, memory);
	ck_assert_uint_eq(shim_registered(), 0);
	ck_assert_int_eq(device_host_register(device, memory, 4096, &err), 0);
	ck_assert_int_eq(device_host_register(device, memory + 4096, 4096, &err), 0);
	shim_call_fail(1);
	device_host_unregister(device, memory + 4096);
	ck_assert(!device_running(device));
	device = device_free(device);
	ck_assert_uint_le(shim_registered(), 1);
}
END_TEST

static int count(void *arg, struct err *e)
{
	(void)e;
	++*(unsigned *)arg;
	return 0;
}

START_TEST(a_failed_call_is_named)
{
	struct device *device = open_device();
	struct device_stream *s = open_stream(device, "copy-in");
	void *p = device_alloc(device, 64, "p", &err);
	unsigned counted = 0;

	device_zero(s, p, 64);
	shim_call_fail(1);
	device_zero(s, p, 64);
	device_host(s, count, &counted);
	ck_assert_int_eq(device_stream_sync(s, &err), err_cuda(cudaErrorUnknown));
	ck_assert_str_eq(err.text, "cuda device 0, stream copy-in: zero: cudaMemsetAsync in "
				   "kernels/device_cuda.c: unknown error (cudaErrorUnknown)");
	ck_assert_uint_eq(counted, 0);
	ck_assert(!device_running(device));
	device = device_free(device);
}
END_TEST

START_TEST(failed_work_is_told_from_the_call_that_finds_it)
{
	struct device *device = open_device();
	struct device_stream *a = open_stream(device, "compute"), *b = open_stream(device, "comm");
	void *p = device_alloc(device, 64, "p", &err);
	unsigned counted = 0;

	device_zero(a, p, 64);
	ck_assert_int_eq(device_stream_sync(a, &err), 0);
	shim_work_fail(1);
	device_zero(a, p, 64);
	device_host(a, count, &counted);
	ck_assert_int_eq(device_stream_sync(a, &err), err_cuda(cudaErrorIllegalAddress));
	says("stream compute");
	says("a call that is not the cause");
	says("an illegal memory access was encountered (cudaErrorIllegalAddress)");
	memset(&err, 0, sizeof(err));
	/* It is everybody's, with the same text. */
	device_host(b, count, &counted);
	ck_assert_int_eq(device_stream_sync(b, &err), err_cuda(cudaErrorIllegalAddress));
	says("stream compute");
	ck_assert_uint_eq(counted, 0);
	device = device_free(device);
	ck_assert_uint_eq(shim_opened(), 0);
}
END_TEST

/* A query that finds work not ready is no failure, though CUDA remembers it as one. */
START_TEST(not_ready_is_no_failure)
{
	struct device *device = open_device();
	struct device_stream *s = open_stream(device, "compute");
	void *p = device_alloc(device, 64, "p", &err);
	struct device_event *e;
	unsigned counted = 0;

	ck_assert_int_eq(device_event_open(device, &e, &err), 0);
	for (int i = 0; i < 300; i++) {
		device_host(s, count, &counted);
		device_event_record(e, s);
		ck_assert_int_ge(device_event_query(e, &err), 0);
		ck_assert(device_stream_busy(s) >= 0);
		ck_assert_int_eq(cudaPeekAtLastError(), cudaSuccess);
		device_zero(s, p, 64);
	}
	ck_assert_int_eq(device_stream_sync(s, &err), 0);
	ck_assert_uint_eq(counted, 300);
	ck_assert(device_stream_busy(s) > 0);
	device = device_free(device);
}
END_TEST

struct scenario {
	struct device *device;
	struct device_stream *a, *b;
	struct device_event *e;
	float *p, *q;
	unsigned counted;
	bool freeing; /* what fails from here on is not reported */
};

static int scenario_open(struct scenario *t, void *host)
{
	struct device_config config = config_of(1, MIB);
	int rc = device_open(&config, &t->device, &err);

	if (!rc)
		rc = device_stream_open(t->device, "a", &t->a, &err);
	if (!rc)
		rc = device_stream_open(t->device, "b", &t->b, &err);
	if (!rc)
		rc = device_event_open(t->device, &t->e, &err);
	if (!rc)
		rc = device_host_register(t->device, host, 4096, &err);
	if (rc)
		return rc;
	t->p = device_alloc(t->device, 4096, "p", &err);
	t->q = device_alloc(t->device, 4096, "q", &err);
	ck_assert(t->p && t->q);
	return 0;
}

/* y = x w + bias, dw += x^T dy, dbias += dy, all 8 x 8. */
static void scenario_products(struct scenario *t, struct device_stream *s)
{
	const struct linear l = {.rows = 8,
				 .in = 8,
				 .out = 8,
				 .w = t->p,
				 .bias = t->p + 128,
				 .x = t->p + 64,
				 .y = t->q,
				 .dy = t->q,
				 .dw = t->p + 192,
				 .dbias = t->p + 256};

	linear_forward(s, &l);
	linear_backward_weight(s, &l);
}

static int scenario_run(struct scenario *t, float *host)
{
	int rc = scenario_open(t, host);

	if (rc)
		return rc;
	device_copy(t->a, t->p, host, 4096, DEVICE_COPY_IN);
	scenario_products(t, t->a);
	device_event_record(t->e, t->a);
	device_stream_wait(t->b, t->e);
	scenario_products(t, t->b);
	device_copy(t->b, t->p, t->q, 64, DEVICE_COPY_WITHIN);
	device_host(t->b, count, &t->counted);
	device_copy(t->b, host, t->q, 256, DEVICE_COPY_OUT);
	device_zero(t->b, t->q, 64);
	device_event_record(t->e, t->b);
	(void)device_event_query(t->e, &err);
	(void)device_event_sync(t->e, &err);
	(void)device_stream_busy(t->a);
	(void)device_stream_native(t->a);
	(void)device_stream_sync(t->a, &err);
	return device_stream_sync(t->b, &err);
}

/* Runs it all, frees it all. True when it failed and said so, or when nothing did. */
static bool scenario(bool *ret_failed)
{
	static _Alignas(4096) float host[1024];
	struct scenario t = {0};
	int rc;

	for (size_t i = 0; i < 1024; i++)
		host[i] = 1;
	memset(&err, 0, sizeof(err));
	rc = scenario_run(&t, host);
	*ret_failed = rc < 0;
	ck_assert_int_eq(rc, rc < 0 ? err.code : 0);
	ck_assert_int_eq(rc < 0, err.text[0] != '\0');
	if (rc == 0) {
		ck_assert_uint_eq(t.counted, 1);
		ck_assert(host[0] == 9);
	}
	t.device = device_free(t.device);
	ck_assert_uint_eq(shim_opened(), 0);
	ck_assert_uint_eq(shim_registered(), 0);
	return true;
}

START_TEST(every_call_that_fails_is_reported)
{
	unsigned k = 1, unreported = 0;
	bool failed;

	for (;; k++) {
		shim_call_fail(k);
		scenario(&failed);
		if (!shim_reset())
			break;
		/* What fails while everything is given back is nobody's to hear. */
		unreported += !failed;
		ck_assert_msg(failed == (unreported == 0), "call %u fails silently", k);
	}
	ck_assert_uint_ge(k, 300);
	ck_assert(!failed);
}
END_TEST

START_TEST(work_that_fails_is_reported)
{
	unsigned k = 1;
	bool failed;

	for (;; k++) {
		shim_work_fail(k);
		scenario(&failed);
		if (!shim_reset())
			break;
		ck_assert_msg(failed, "work %u fails silently", k);
		ck_assert_int_eq(err.code, err_cuda(cudaErrorIllegalAddress));
	}
	ck_assert_uint_ge(k, 10);
	ck_assert(!failed);
}
END_TEST

START_TEST(every_allocation_that_fails_is_reported)
{
	unsigned k = 1;
	bool failed;

	caller = pthread_self();
	/* The first time, whatever the loader allocates is behind us. */
	scenario(&failed);
	for (;; k++) {
		fail_at = k;
		scenario(&failed);
		if (fail_at > 0)
			break;
		ck_assert_msg(failed, "allocation %u fails silently", k);
		shim_reset();
	}
	fail_at = 0;
	ck_assert_uint_ge(k, 5);
	ck_assert(!failed);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("device_cuda");
	TCase *tc = tcase_create("device_cuda");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, what_cannot_be_opened_is_refused);
	tcase_add_test(tc, host_memory_is_registered_until_free);
	tcase_add_test(tc, a_failed_call_is_named);
	tcase_add_test(tc, failed_work_is_told_from_the_call_that_finds_it);
	tcase_add_test(tc, not_ready_is_no_failure);
	tcase_add_test(tc, every_call_that_fails_is_reported);
	tcase_add_test(tc, work_that_fails_is_reported);
	tcase_add_test(tc, every_allocation_that_fails_is_reported);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
