/*
 * How a kernel comes to its stream in the CUDA shim: its configuration is checked as CUDA checks
 * it, then it is enqueued. Called from whichever thread launches.
 *
 * What a kernel may have by way of shared memory is kept in a table that only grows, under a lock.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "tests/cuda_host/shim.h"

#define KERNELS_MAX 256u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	const void *function;
	size_t shared_max;
} opted_in[KERNELS_MAX];
static unsigned opted_in_count;

static size_t shared_max(const void *function)
{
	size_t max = SHIM_SHARED_MAX;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < opted_in_count; i++)
		if (opted_in[i].function == function)
			max = opted_in[i].shared_max;
	pthread_mutex_unlock(&lock);
	return max;
}

static cudaError_t shared_max_set(const void *function, size_t max)
{
	cudaError_t error = cudaSuccess;
	unsigned i = 0;

	pthread_mutex_lock(&lock);
	while (i < opted_in_count && opted_in[i].function != function)
		i++;
	if (i < KERNELS_MAX) {
		opted_in[i].function = function;
		opted_in[i].shared_max = max > SHIM_SHARED_MAX ? max : SHIM_SHARED_MAX;
		opted_in_count += i == opted_in_count;
	} else {
		error = cudaErrorMemoryAllocation;
	}
	pthread_mutex_unlock(&lock);
	return error;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
	cudaError_t error = cudaSuccess;

	if (!function)
		error = cudaErrorInvalidDeviceFunction;
	else if (value < 0 || (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize &&
			       (unsigned)value > SHIM_SHARED_OPT_IN_MAX))
		error = cudaErrorInvalidValue;
	else if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize)
		error = shared_max_set(function, (unsigned)value);
	return error == cudaSuccess ? error : shim_last_error_set(error);
}

/* CUDA C++ Programming Guide, "Compute Capabilities": the limits of 8.0 and later. */
static bool configured(const struct shim_launch *l)
{
	const dim3 *g = &l->grid, *b = &l->block;

	return g->x > 0 && g->y > 0 && g->z > 0 && g->x <= 0x7fffffffu && g->y <= 65535 &&
	       g->z <= 65535 && b->x > 0 && b->y > 0 && b->z > 0 && b->x <= 1024 && b->y <= 1024 &&
	       b->z <= 64 && (size_t)b->x * b->y * b->z <= 1024;
}

void shim_enqueue(struct shim_launch *launch, cudaStream_t stream)
{
	cudaError_t error = cudaErrorInvalidConfiguration;

	if (!launch) {
		shim_last_error_set(cudaErrorMemoryAllocation);
		return;
	}
	launch->shared_max = shared_max(launch->function);
	if (configured(launch))
		error = launch->shared_bytes > launch->shared_max
				? cudaErrorInvalidValue
				: shim_stream_call(stream, shim_run, launch);
	if (error != cudaSuccess) {
		free(launch);
		shim_last_error_set(error);
	}
}
