/*
 * The runtime under the CUDA shim, in its simplest form: a stream runs what is enqueued at once, in
 * the calling thread. Memory, errors, streams. Any thread.
 *
 * 1. An allocation ends where it ends: under AddressSanitizer malloc sees to it; without, the last
 *    page is followed by one that cannot be touched, and what is left of it (the start is aligned
 *    to ALIGN) and of the first one holds FENCE, which cudaFree looks at.
 * 2. Memory holds all bits set when it is allocated: nothing may count on zeros.
 * 3. A kernel's failure sticks: every later call returns it.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/cuda_host/sanitizer.h"
#include "tests/cuda_host/shim.h"

#define ALIGN 256u
#define PAGE  4096u
#define FENCE 0xa5

struct CUstream_st {
	int unused;
};

static atomic_int stuck; /* cudaSuccess, or the failure that sticks */
static __thread cudaError_t last;

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

static cudaError_t status(void)
{
	cudaError_t error = (cudaError_t)atomic_load_explicit(&stuck, memory_order_acquire);

	return error == cudaSuccess ? error : shim_last_error_set(error);
}

cudaError_t cudaPeekAtLastError(void)
{
	return status() != cudaSuccess ? status() : last;
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

#ifdef SHIM_ASAN

static void *allocate(size_t bytes)
{
	void *p;

	return posix_memalign(&p, ALIGN, bytes) == 0 ? p : NULL;
}

static void release(void *p)
{
	free(p);
}

#else

/* Where an allocation lies, in the page before it. */
struct room {
	uint8_t *base;
	size_t bytes, map_bytes;
};

static size_t round_up(size_t bytes, size_t to)
{
	return (bytes + to - 1) / to * to;
}

/* The page of struct room, the pages of the allocation, one that cannot be touched. */
static void *allocate(size_t bytes)
{
	size_t inner = round_up(bytes, PAGE), map_bytes = inner + 2 * PAGE;
	uint8_t *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct room *room = (struct room *)map;
	uint8_t *base = map + PAGE + inner - round_up(bytes, ALIGN);

	if (map == MAP_FAILED)
		return NULL;
	if (mprotect(map + PAGE + inner, PAGE, PROT_NONE) != 0) {
		munmap(map, map_bytes);
		return NULL;
	}
	*room = (struct room){base, bytes, map_bytes};
	memset(map + PAGE, FENCE, (size_t)(base - map) - PAGE);
	memset(base + bytes, FENCE, round_up(bytes, ALIGN) - bytes);
	return base;
}

static void fence_check(const uint8_t *at, const uint8_t *end)
{
	for (; at < end; at++)
		if (*at != FENCE) {
			fprintf(stderr, "cuda shim: written outside an allocation\n");
			abort();
		}
}

static void release(void *p)
{
	/* It begins in the first of its pages, less than a page of which is left over. */
	uint8_t *page = (uint8_t *)((uintptr_t)p / PAGE * PAGE);
	struct room *room = (struct room *)(page - PAGE);

	fence_check(page, room->base);
	fence_check(room->base + room->bytes, room->base + round_up(room->bytes, ALIGN));
	munmap(room, room->map_bytes);
}

#endif

cudaError_t cudaMalloc(void **ret, size_t bytes)
{
	cudaError_t error = status();
	void *p = NULL;

	if (error != cudaSuccess)
		return error;
	if (bytes > 0) {
		p = allocate(bytes);
		if (!p)
			return shim_last_error_set(cudaErrorMemoryAllocation);
		memset(p, 0xff, bytes);
	}
	*ret = p;
	return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
	if (p)
		release(p);
	return status();
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
	if ((unsigned)kind > cudaMemcpyDefault)
		return shim_last_error_set(cudaErrorInvalidMemcpyDirection);
	if (status() == cudaSuccess)
		memmove(dst, src, bytes);
	return status();
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
			    cudaStream_t stream)
{
	(void)stream;
	return cudaMemcpy(dst, src, bytes, kind);
}

cudaError_t cudaMemset(void *p, int byte, size_t bytes)
{
	if (status() == cudaSuccess)
		memset(p, byte, bytes);
	return status();
}

cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t stream)
{
	(void)stream;
	return cudaMemset(p, byte, bytes);
}

cudaError_t shim_stream_call(cudaStream_t stream, void (*fn)(void *), void *arg)
{
	(void)stream;
	if (status() == cudaSuccess)
		fn(arg);
	else
		return status();
	return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *ret)
{
	cudaStream_t stream = calloc(1, sizeof(*stream));

	if (!stream)
		return shim_last_error_set(cudaErrorMemoryAllocation);
	*ret = stream;
	return status();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
	free(stream);
	return status();
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
	(void)stream;
	return status();
}

cudaError_t cudaDeviceSynchronize(void)
{
	return status();
}
