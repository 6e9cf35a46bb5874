/*
 * Memory under the CUDA shim: allocations of the device, host memory that is registered, copies and
 * fills that do not wait for a stream's turn. Any thread.
 *
 * 1. An allocation ends where it ends: under AddressSanitizer malloc sees to it; without, the last
 *    page is followed by one that cannot be touched, and what is left of it (the start is aligned
 *    to ALIGN) and of the first one holds FENCE, which cudaFree looks at.
 * 2. Memory holds all bits set when it is allocated: nothing may count on zeros. Of what is LARGE
 *    only the ends do, and when it is zeroed its pages are given back, so that an arena is cheap.
 * 3. A copy's device side lies in one allocation, its host side in none.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/cuda_host/cudart.h"
#include "tests/cuda_host/sanitizer.h"

#define ALIGN 256u
#define PAGE  4096u
#define FENCE 0xa5
#define LARGE ((size_t)4 << 20)

/* A piece of memory that the runtime knows: the device's, or the host's when it is registered. */
struct range {
	struct range *next;
	uint8_t *base;
	size_t bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct range *allocations, *registrations; /* under the lock, as is what follows */
static size_t used_bytes, total_bytes = (size_t)16 << 30;

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

/* The range that holds the first byte, if it holds all; else NULL. Under the lock. */
static struct range *range_find(struct range *list, const void *p, size_t bytes)
{
	const uint8_t *at = p;

	for (; list; list = list->next)
		if (at >= list->base && at < list->base + list->bytes)
			return bytes <= (size_t)(list->base + list->bytes - at) ? list : NULL;
	return NULL;
}

static bool range_overlaps(const struct range *list, const void *p, size_t bytes)
{
	const uint8_t *at = p;

	for (; list; list = list->next)
		if (at < list->base + list->bytes && list->base < at + bytes)
			return true;
	return false;
}

static bool range_add(struct range **list, void *base, size_t bytes)
{
	struct range *r = malloc(sizeof(*r));

	if (!r)
		return false;
	*r = (struct range){*list, base, bytes};
	*list = r;
	return true;
}

/* Takes out the range that begins here; its size, 0 when there is none. */
static size_t range_remove(struct range **list, const void *base)
{
	for (; *list; list = &(*list)->next) {
		struct range *r = *list;
		size_t bytes = r->bytes;

		if (r->base != base)
			continue;
		*list = r->next;
		free(r);
		return bytes;
	}
	return 0;
}

void shim_memory_set(size_t bytes)
{
	pthread_mutex_lock(&lock);
	total_bytes = bytes;
	pthread_mutex_unlock(&lock);
}

cudaError_t cudaMemGetInfo(size_t *ret_free, size_t *ret_total)
{
	cudaError_t error = shim_enter();

	if (error != cudaSuccess)
		return error;
	pthread_mutex_lock(&lock);
	*ret_free = total_bytes - used_bytes;
	*ret_total = total_bytes;
	pthread_mutex_unlock(&lock);
	return cudaSuccess;
}

cudaError_t cudaMalloc(void **ret, size_t bytes)
{
	cudaError_t error = shim_enter();
	void *p = NULL;

	if (error != cudaSuccess)
		return error;
	pthread_mutex_lock(&lock);
	if (bytes > 0 && bytes <= total_bytes - used_bytes)
		p = allocate(bytes);
	if (p && !range_add(&allocations, p, bytes)) {
		release(p);
		p = NULL;
	}
	if (p)
		used_bytes += bytes;
	pthread_mutex_unlock(&lock);
	if (bytes > 0 && !p)
		return shim_last_error_set(cudaErrorMemoryAllocation);
	if (p && bytes < LARGE) {
		memset(p, 0xff, bytes);
	} else if (p) {
		memset(p, 0xff, LARGE / 2);
		memset((uint8_t *)p + bytes - LARGE / 2, 0xff, LARGE / 2);
	}
	*ret = p;
	return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
	cudaError_t error = shim_enter();
	size_t bytes;

	if (!p)
		return error;
	pthread_mutex_lock(&lock);
	bytes = range_remove(&allocations, p);
	used_bytes -= bytes;
	pthread_mutex_unlock(&lock);
	if (!bytes)
		return shim_last_error_set(cudaErrorInvalidValue);
	release(p);
	return error;
}

cudaError_t cudaHostRegister(void *base, size_t bytes, unsigned flags)
{
	cudaError_t error = shim_enter();

	if (error != cudaSuccess)
		return error;
	if (!base || bytes == 0 || flags != cudaHostRegisterDefault)
		return shim_last_error_set(cudaErrorInvalidValue);
	pthread_mutex_lock(&lock);
	if (range_overlaps(registrations, base, bytes))
		error = cudaErrorHostMemoryAlreadyRegistered;
	else if (!range_add(&registrations, base, bytes))
		error = cudaErrorMemoryAllocation;
	pthread_mutex_unlock(&lock);
	return error == cudaSuccess ? error : shim_last_error_set(error);
}

cudaError_t cudaHostUnregister(void *base)
{
	cudaError_t error = shim_enter();
	size_t bytes;

	pthread_mutex_lock(&lock);
	bytes = range_remove(&registrations, base);
	pthread_mutex_unlock(&lock);
	if (!bytes)
		return shim_last_error_set(cudaErrorHostMemoryNotRegistered);
	return error;
}

/* Pinned memory of the runtime's own making is memory that is registered. */
cudaError_t cudaMallocHost(void **ret, size_t bytes)
{
	void *p = NULL;
	cudaError_t error;

	if (posix_memalign(&p, PAGE, bytes) != 0)
		return shim_last_error_set(cudaErrorMemoryAllocation);
	error = cudaHostRegister(p, bytes, cudaHostRegisterDefault);
	if (error != cudaSuccess) {
		free(p);
		return error;
	}
	*ret = p;
	return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
	cudaError_t error = cudaHostUnregister(p);

	if (error == cudaSuccess)
		free(p);
	return error;
}

size_t shim_registered(void)
{
	size_t count = 0;

	pthread_mutex_lock(&lock);
	for (const struct range *r = registrations; r; r = r->next)
		count++;
	pthread_mutex_unlock(&lock);
	return count;
}

bool shim_is_registered(const void *p, size_t bytes)
{
	bool found;

	pthread_mutex_lock(&lock);
	found = range_find(registrations, p, bytes) != NULL;
	pthread_mutex_unlock(&lock);
	return found;
}

/* Is this side of a copy where the copy's kind says it is? */
static bool on_side(const void *p, size_t bytes, bool device)
{
	return device ? range_find(allocations, p, bytes) != NULL
		      : !range_overlaps(allocations, p, bytes);
}

cudaError_t shim_copy_check(const void *dst, const void *src, size_t bytes,
			    enum cudaMemcpyKind kind)
{
	bool fits;

	if ((unsigned)kind > cudaMemcpyDefault)
		return shim_last_error_set(cudaErrorInvalidMemcpyDirection);
	if (kind == cudaMemcpyDefault || bytes == 0)
		return cudaSuccess;
	pthread_mutex_lock(&lock);
	fits = on_side(dst, bytes,
		       kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
	       on_side(src, bytes,
		       kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice);
	pthread_mutex_unlock(&lock);
	return fits ? cudaSuccess : shim_last_error_set(cudaErrorInvalidValue);
}

cudaError_t shim_fill_check(const void *p, size_t bytes)
{
	bool fits;

	pthread_mutex_lock(&lock);
	fits = bytes == 0 || range_find(allocations, p, bytes);
	pthread_mutex_unlock(&lock);
	return fits ? cudaSuccess : shim_last_error_set(cudaErrorInvalidValue);
}

void shim_fill(void *p, int byte, size_t bytes)
{
	uint8_t *begin = p, *end = begin + bytes;
	uint8_t *first = begin + (PAGE - (uintptr_t)begin % PAGE) % PAGE;
	size_t inner;

	if (byte != 0 || bytes < LARGE) {
		memset(p, byte, bytes);
		return;
	}
	/* Pages of private memory that are given back come again as zeros. */
	inner = (size_t)(end - first) / PAGE * PAGE;
	memset(begin, 0, (size_t)(first - begin));
	if (madvise(first, inner, MADV_DONTNEED) != 0)
		memset(first, 0, inner);
	memset(first + inner, 0, (size_t)(end - first) - inner);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
	cudaError_t error = shim_enter();

	if (error == cudaSuccess)
		error = shim_copy_check(dst, src, bytes, kind);
	if (error == cudaSuccess)
		memmove(dst, src, bytes);
	return error;
}

cudaError_t cudaMemset(void *p, int byte, size_t bytes)
{
	cudaError_t error = shim_enter();

	if (error == cudaSuccess)
		error = shim_fill_check(p, bytes);
	if (error == cudaSuccess)
		shim_fill(p, byte, bytes);
	return error;
}
