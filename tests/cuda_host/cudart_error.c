/*
 * Errors of the runtime under the CUDA shim: what a call returns, what is remembered of it, and
 * failures that a test orders. Any thread.
 *
 * 1. A call's failure is its thread's last error until cudaGetLastError.
 * 2. A failure of work sticks: from then on every call returns it, until shim_reset.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/cuda_host/cudart.h"

static atomic_int stuck; /* cudaSuccess, or the failure that sticks */
static __thread cudaError_t last;
static __thread bool in_host_function;
/* Counted down, each to the one that fails; 0: none. */
static atomic_uint calls_left, work_left;

cudaError_t shim_last_error_set(cudaError_t error)
{
	last = error;
	return error;
}

void shim_fail(cudaError_t error, const char *text)
{
	int none = cudaSuccess;

	fprintf(stderr, "cuda shim: %s\n", text);
	atomic_compare_exchange_strong_explicit(&stuck, &none, (int)error, memory_order_acq_rel,
						memory_order_acquire);
}

cudaError_t shim_status(void)
{
	cudaError_t error = (cudaError_t)atomic_load_explicit(&stuck, memory_order_acquire);

	return error == cudaSuccess ? error : shim_last_error_set(error);
}

/* Is this the one that is to fail? */
static bool count_down(atomic_uint *left)
{
	unsigned n = atomic_load_explicit(left, memory_order_relaxed);

	while (n > 0)
		if (atomic_compare_exchange_weak_explicit(left, &n, n - 1, memory_order_relaxed,
							  memory_order_relaxed))
			return n == 1;
	return false;
}

cudaError_t shim_enter(void)
{
	if (in_host_function) {
		fprintf(stderr, "cuda shim: a host function calls the runtime\n");
		abort();
	}
	if (count_down(&calls_left))
		return shim_last_error_set(cudaErrorUnknown);
	return shim_status();
}

void shim_work_enter(void)
{
	if (count_down(&work_left))
		shim_fail(cudaErrorIllegalAddress, "a piece of work fails by order");
}

void shim_in_host_function(bool in)
{
	in_host_function = in;
}

void shim_call_fail(unsigned k)
{
	atomic_store_explicit(&calls_left, k, memory_order_relaxed);
}

void shim_work_fail(unsigned k)
{
	atomic_store_explicit(&work_left, k, memory_order_relaxed);
}

bool shim_reset(void)
{
	const bool fired = atomic_load_explicit(&calls_left, memory_order_relaxed) == 0 &&
			   atomic_load_explicit(&work_left, memory_order_relaxed) == 0;

	atomic_store_explicit(&calls_left, 0, memory_order_relaxed);
	atomic_store_explicit(&work_left, 0, memory_order_relaxed);
	atomic_store_explicit(&stuck, cudaSuccess, memory_order_release);
	last = cudaSuccess;
	return fired;
}

cudaError_t cudaPeekAtLastError(void)
{
	return shim_status() != cudaSuccess ? shim_status() : last;
}

cudaError_t cudaGetLastError(void)
{
	cudaError_t error = cudaPeekAtLastError();

	last = cudaSuccess;
	return error;
}

static const struct {
	cudaError_t error;
	const char *name, *text;
} errors[] = {
	{cudaSuccess, "cudaSuccess", "no error"},
	{cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
	{cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
	{cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
	{cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
	 "invalid configuration argument"},
	{cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
	 "invalid copy direction for memcpy"},
	{cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction",
	 "invalid device function"},
	{cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
	 "CUDA driver version is insufficient for CUDA runtime version"},
	{cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
	{cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
	{cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle",
	 "invalid resource handle"},
	{cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
	{cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
	 "an illegal memory access was encountered"},
	{cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
	 "part or all of the requested memory range is already mapped"},
	{cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
	 "pointer does not correspond to a registered memory region"},
	{cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
	{cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
	{cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const char *cudaGetErrorName(cudaError_t error)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].error == error)
			return errors[i].name;
	return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].error == error)
			return errors[i].text;
	return "unrecognized error code";
}
