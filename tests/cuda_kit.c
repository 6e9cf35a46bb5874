/*
 * What the tests of CUDA kernels share; see cuda_kit.h.
 *
 * Elements are compared by hand: each of Check's assertions is a system call, also one that holds.
 */
#include "tests/cuda_kit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"

#ifdef DSRUN_CUDA_SHIM
#include "tests/cuda_host/sanitizer.h"
#include "tests/cuda_host/shim.h"
/* The shim's allocations end exactly: a fence behind would only hide that. */
#define FENCE_BEHIND     0u
#define CAN_FORK         true
#define order_set(order) shim_order_set(order)
#else
#define FENCE_BEHIND           256u
#define CAN_FORK               false /* CUDA does not live on in a child */
#define shim_forbid(at, bytes) ((void)(at), (void)(bytes))
#define shim_permit(at, bytes) ((void)(at), (void)(bytes))
#define order_set(order)       ((void)(order))
#endif

/* A multiple of every alignment. Its bytes make a NaN of fp32 and of bf16, should one be read. */
#define FENCE_FRONT 256u
#define FENCE_BYTE  0xff

static void must(struct cuda_kit *k, cudaError_t rc, const char *what)
{
	if (rc != cudaSuccess)
		ck_abort_msg("%s: %s: %s (%s)", k->name, what, cudaGetErrorString(rc),
			     cudaGetErrorName(rc));
}

static void *heap(struct cuda_kit *k, size_t bytes)
{
	void *p = calloc(bytes ? bytes : 1, 1);

	ck_assert_msg(p && k->heap_count < CUDA_KIT_BUFFERS_MAX, "%s: no room for %zu bytes",
		      k->name, bytes);
	k->heap[k->heap_count++] = p;
	return p;
}

int cuda_kit_main(const char *name, const TTest *test, size_t count)
{
	Suite *suite = suite_create(name);
	TCase *tc = tcase_create(name);
	cudaError_t rc = cudaDeviceSynchronize();
	SRunner *runner;
	int failed;

	if (rc != cudaSuccess) {
		printf("no CUDA device: %s\n", cudaGetErrorString(rc));
		return 77;
	}
	tcase_set_timeout(tc, 240);
	tcase_add_loop_test(tc, test, 0, (int)count);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	if (!CAN_FORK)
		srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}

void cuda_kit_open(struct cuda_kit *k, const char *name, uint64_t seed)
{
	memset(k, 0, sizeof(*k));
	k->name = name;
	k->seed = seed;
	must(k, cudaStreamCreate(&k->stream), "cudaStreamCreate");
}

void cuda_kit_close(struct cuda_kit *k)
{
	for (size_t i = 0; i < k->buffer_count; i++) {
		struct cuda_kit_buffer *b = &k->buffers[i];

		shim_permit(b->base, b->front);
		must(k, cudaFree(b->base), "cudaFree");
		free(b->before);
		free(b->after);
	}
	for (size_t i = 0; i < k->heap_count; i++)
		free(k->heap[i]);
	must(k, cudaStreamDestroy(k->stream), "cudaStreamDestroy");
}

static size_t whole_bytes(const struct cuda_kit_buffer *b)
{
	return b->front + b->bytes + FENCE_BEHIND;
}

/* Returns the buffer with its fences; the caller fills b->before + b->front. */
static struct cuda_kit_buffer *buffer(struct cuda_kit *k, size_t count, size_t element_bytes)
{
	struct cuda_kit_buffer *b = &k->buffers[k->buffer_count];
	void *p = NULL;

	ck_assert_msg(k->buffer_count < CUDA_KIT_BUFFERS_MAX, "%s: too many buffers", k->name);
	k->buffer_count++;
	b->front = FENCE_FRONT + k->shift * element_bytes;
	b->bytes = count * element_bytes;
	must(k, cudaMalloc(&p, whole_bytes(b)), "cudaMalloc");
	b->base = p;
	b->before = malloc(whole_bytes(b));
	b->after = malloc(whole_bytes(b));
	ck_assert_msg(b->before && b->after, "%s: no memory", k->name);
	memset(b->before, FENCE_BYTE, whole_bytes(b));
	return b;
}

static void *device_of(const struct cuda_kit_buffer *b)
{
	return b->base + b->front;
}

static struct cuda_kit_buffer *random_buffer(struct cuda_kit *k, enum dtype type, size_t count,
					     double span)
{
	struct cuda_kit_buffer *b = buffer(k, count, dtype_bytes(type));
	uint8_t *at = b->before + b->front;
	uint64_t stream = k->drawn++;

	for (size_t i = 0; i < count; i++) {
		float x = (float)(span * (2 * rng_uniform(k->seed, stream, i) - 1));
		uint16_t h = bf16_from_float(x);

		if (type == DTYPE_F32)
			memcpy(at + 4 * i, &x, sizeof(x));
		else
			memcpy(at + 2 * i, &h, sizeof(h));
	}
	return b;
}

void *cuda_kit_input(struct cuda_kit *k, enum dtype type, size_t count, double span)
{
	return device_of(random_buffer(k, type, count, span));
}

void *cuda_kit_inout(struct cuda_kit *k, enum dtype type, size_t count, double span)
{
	struct cuda_kit_buffer *b = random_buffer(k, type, count, span);

	b->output = true;
	return device_of(b);
}

static struct cuda_kit_buffer *given_buffer(struct cuda_kit *k, const void *elements, size_t count,
					    size_t bytes)
{
	struct cuda_kit_buffer *b = buffer(k, count, bytes);

	memcpy(b->before + b->front, elements, b->bytes);
	return b;
}

void *cuda_kit_given(struct cuda_kit *k, const void *elements, size_t count, size_t bytes)
{
	return device_of(given_buffer(k, elements, count, bytes));
}

void *cuda_kit_inout_given(struct cuda_kit *k, const void *elements, size_t count, size_t bytes)
{
	struct cuda_kit_buffer *b = given_buffer(k, elements, count, bytes);

	b->output = true;
	return device_of(b);
}

uint32_t *cuda_kit_tokens(struct cuda_kit *k, size_t count, uint32_t bound)
{
	struct cuda_kit_buffer *b = buffer(k, count, sizeof(uint32_t));
	uint64_t stream = k->drawn++;

	for (size_t i = 0; i < count; i++) {
		uint32_t token = (uint32_t)rng_below(k->seed, stream, i, bound);

		memcpy(b->before + b->front + i * sizeof(token), &token, sizeof(token));
	}
	return device_of(b);
}

void *cuda_kit_output_of(struct cuda_kit *k, size_t count, size_t bytes)
{
	struct cuda_kit_buffer *b = buffer(k, count, bytes);

	memset(b->before + b->front, 0xff, b->bytes);
	b->output = true;
	return device_of(b);
}

void *cuda_kit_output(struct cuda_kit *k, enum dtype type, size_t count)
{
	return cuda_kit_output_of(k, count, dtype_bytes(type));
}

void cuda_kit_call(struct cuda_kit *k, cuda_op_fn *fn, const char *fn_name, const void *args,
		   size_t args_bytes)
{
	ck_assert(k->call_count < CUDA_KIT_CALLS_MAX && args_bytes <= CUDA_KIT_ARGS_BYTES);
	k->calls[k->call_count].fn = fn;
	k->calls[k->call_count].fn_name = fn_name;
	memcpy(k->calls[k->call_count].args, args, args_bytes);
	k->call_count++;
}

static void buffer_begin(struct cuda_kit *k, struct cuda_kit_buffer *b)
{
	shim_permit(b->base, b->front);
	must(k, cudaMemcpy(b->base, b->before, whole_bytes(b), cudaMemcpyHostToDevice),
	     "cudaMemcpy");
	shim_forbid(b->base, b->front);
}

static void fence_check(struct cuda_kit *k, size_t index, const uint8_t *at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (at[i] != FENCE_BYTE)
			ck_abort_msg("%s: written outside buffer %zu", k->name, index);
}

/* Brings what the buffer holds now to `to`, and looks at what must be as it was. */
static void buffer_end(struct cuda_kit *k, struct cuda_kit_buffer *b, uint8_t *to)
{
	size_t index = (size_t)(b - k->buffers);

	shim_permit(b->base, b->front);
	must(k, cudaMemcpy(to, b->base, whole_bytes(b), cudaMemcpyDeviceToHost), "cudaMemcpy");
	fence_check(k, index, to, b->front);
	fence_check(k, index, to + b->front + b->bytes, FENCE_BEHIND);
	ck_assert_msg(b->output || memcmp(to, b->before, whole_bytes(b)) == 0,
		      "%s: buffer %zu, an input, was written to", k->name, index);
}

static void run_calls(struct cuda_kit *k, unsigned order)
{
	order_set(order);
	for (size_t i = 0; i < k->buffer_count; i++)
		buffer_begin(k, &k->buffers[i]);
	for (size_t i = 0; i < k->call_count; i++)
		must(k, k->calls[i].fn(k->calls[i].args, k->stream), k->calls[i].fn_name);
	must(k, cudaStreamSynchronize(k->stream), "cudaStreamSynchronize");
}

void cuda_kit_execute(struct cuda_kit *k)
{
	run_calls(k, 0);
	for (size_t i = 0; i < k->buffer_count; i++)
		buffer_end(k, &k->buffers[i], k->buffers[i].after);
	run_calls(k, 1);
	for (size_t i = 0; i < k->buffer_count; i++) {
		struct cuda_kit_buffer *b = &k->buffers[i];
		uint8_t *again = malloc(whole_bytes(b));

		ck_assert_msg(again, "%s: no memory", k->name);
		buffer_end(k, b, again);
		ck_assert_msg(memcmp(again, b->after, whole_bytes(b)) == 0,
			      "%s: a second run left other bits in buffer %zu", k->name, i);
		free(again);
	}
}

/* Where in the buffer that holds `p`. */
static const struct cuda_kit_buffer *holder(struct cuda_kit *k, const void *p, size_t *ret_at)
{
	for (size_t i = 0; i < k->buffer_count; i++) {
		const struct cuda_kit_buffer *b = &k->buffers[i];
		uintptr_t base = (uintptr_t)b->base, at = (uintptr_t)p;

		if (at >= base + b->front && at <= base + b->front + b->bytes) {
			*ret_at = at - base;
			return b;
		}
	}
	ck_abort_msg("%s: no buffer of this case", k->name);
	return NULL;
}

const void *cuda_kit_before(struct cuda_kit *k, const void *p)
{
	size_t at;
	const struct cuda_kit_buffer *b = holder(k, p, &at);

	return b->before + at;
}

const void *cuda_kit_after(struct cuda_kit *k, const void *p)
{
	size_t at;
	const struct cuda_kit_buffer *b = holder(k, p, &at);

	return b->after + at;
}

double *cuda_kit_room(struct cuda_kit *k, size_t count)
{
	return heap(k, count * sizeof(double));
}

/* Element i; host copies of shifted buffers are as unaligned as they are. */
static double element(const void *values, enum dtype type, size_t i)
{
	uint16_t h;
	float f;

	if (type == DTYPE_F32) {
		memcpy(&f, (const uint8_t *)values + i * sizeof(f), sizeof(f));
		return (double)f;
	}
	memcpy(&h, (const uint8_t *)values + i * sizeof(h), sizeof(h));
	return (double)bf16_to_float(h);
}

double *cuda_kit_doubles(struct cuda_kit *k, const void *p, enum dtype type, size_t count)
{
	const void *values = cuda_kit_before(k, p);
	double *doubles = cuda_kit_room(k, count);

	for (size_t i = 0; i < count; i++)
		doubles[i] = element(values, type, i);
	return doubles;
}

void cuda_kit_near(struct cuda_kit *k, const char *what, const void *p, enum dtype type,
		   const double *want, size_t count, double tolerance)
{
	const void *values = cuda_kit_after(k, p);
	double greatest = 1e-30;

	for (size_t i = 0; i < count; i++)
		greatest = fmax(greatest, fabs(want[i]));
	for (size_t i = 0; i < count; i++) {
		double got = element(values, type, i);
		double allowed = tolerance * greatest;

		/* Eight bits, the first of which is not stored. */
		if (type == DTYPE_BF16 && want[i] != 0)
			allowed += ldexp(1, ilogb(want[i]) - 8);

		if (!(fabs(got - want[i]) <= allowed))
			ck_abort_msg("%s: %s[%zu] is %.9g, expected %.9g, off by %.3g of the %.3g "
				     "allowed (seed %llu)",
				     k->name, what, i, got, want[i], fabs(got - want[i]), allowed,
				     (unsigned long long)k->seed);
	}
}

void cuda_kit_same(struct cuda_kit *k, const char *what, const void *p, const void *want,
		   size_t bytes)
{
	const uint8_t *got = cuda_kit_after(k, p), *w = want;

	for (size_t i = 0; i < bytes; i++)
		if (got[i] != w[i])
			ck_abort_msg("%s: %s differs in byte %zu: %02x, expected %02x (seed %llu)",
				     k->name, what, i, got[i], w[i], (unsigned long long)k->seed);
}
