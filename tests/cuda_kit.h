/*
 * What the tests of CUDA kernels share. They run on the host shim (tests/cuda_host/) and, built
 * against CUDA, on a GPU; so nothing here but the runtime API and launchers.
 *
 * A case makes its buffers, names its calls, executes them, and compares what came out. Every
 * buffer is an allocation of its own that ends where it ends, so that AddressSanitizer (shim) and
 * compute-sanitizer (GPU) see what lies outside; between the allocation's start and the buffer lies
 * a fence. Executing runs the calls twice, each time from the same beginnings and with outputs
 * poisoned, the second time with the shim's blocks and threads in reverse order, and fails the test
 * when the runs differ in a bit, when an input changed, or when a fence was trodden on.
 *
 * A failed set-up or check ends the test with a message.
 */
#ifndef TESTS_CUDA_KIT_H
#define TESTS_CUDA_KIT_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda_internal.h"
#include "kernels/dtype.h"

#define CUDA_KIT_BUFFERS_MAX 32
#define CUDA_KIT_CALLS_MAX   4
#define CUDA_KIT_ARGS_BYTES  192

struct cuda_kit_buffer {
	uint8_t *base;       /* the allocation; device memory */
	size_t front, bytes; /* of the fence, of the buffer behind it */
	uint8_t *before;     /* host memory: what the allocation holds before each run */
	uint8_t *after;      /* and what it held after the first */
	bool output;
};

struct cuda_kit {
	const char *name;     /* of the case, for messages */
	uint64_t seed, drawn; /* each input takes the next stream of random numbers */
	size_t shift;         /* elements by which buffers made from now on are unaligned */
	cudaStream_t stream;
	struct cuda_kit_buffer buffers[CUDA_KIT_BUFFERS_MAX];
	size_t buffer_count;
	void *heap[CUDA_KIT_BUFFERS_MAX];
	size_t heap_count;
	struct {
		cuda_op_fn *fn;
		const char *fn_name;
		uint8_t args[CUDA_KIT_ARGS_BYTES];
	} calls[CUDA_KIT_CALLS_MAX];
	size_t call_count;
};

/*
 * The main of a program with one loop test over `count` cases. Returns the exit status: 77, with
 * the reason on the last line, where there is no CUDA device.
 */
int cuda_kit_main(const char *name, const TTest *test, size_t count);

void cuda_kit_open(struct cuda_kit *k, const char *name, uint64_t seed);
void cuda_kit_close(struct cuda_kit *k);

/* Device memory: uniform in [-span, span), bf16 rounded. Must be as it was after a run. */
void *cuda_kit_input(struct cuda_kit *k, enum dtype type, size_t count, double span);
/* Device memory with these elements of `bytes` each. */
void *cuda_kit_given(struct cuda_kit *k, const void *elements, size_t count, size_t bytes);
uint32_t *cuda_kit_tokens(struct cuda_kit *k, size_t count, uint32_t bound);
/* Device memory, all bits set (NaN) before each run. */
void *cuda_kit_output(struct cuda_kit *k, enum dtype type, size_t count);
void *cuda_kit_output_of(struct cuda_kit *k, size_t count, size_t bytes); /* elements of `bytes` */
/* As cuda_kit_input, for what is written in place or added to. */
void *cuda_kit_inout(struct cuda_kit *k, enum dtype type, size_t count, double span);
void *cuda_kit_inout_given(struct cuda_kit *k, const void *elements, size_t count, size_t bytes);

/* Adds a call, its arguments copied. */
void cuda_kit_call(struct cuda_kit *k, cuda_op_fn *fn, const char *fn_name, const void *args,
		   size_t args_bytes);
#define CUDA_KIT_CALL(k, fn, args) cuda_kit_call((k), (fn), #fn, (args), sizeof(*(args)))

void cuda_kit_execute(struct cuda_kit *k);

/* What device memory at `p` (inside a buffer) held before a run, and after it; host memory. */
const void *cuda_kit_before(struct cuda_kit *k, const void *p);
const void *cuda_kit_after(struct cuda_kit *k, const void *p);

/* Heap, freed by cuda_kit_close: what was before as doubles, and room for `count` zeros. */
double *cuda_kit_doubles(struct cuda_kit *k, const void *p, enum dtype type, size_t count);
double *cuda_kit_room(struct cuda_kit *k, size_t count);

/*
 * What is at `p` after execution against doubles: |got - want| may be `tolerance` times the
 * greatest |want|, and for bf16 half a unit in want's last place more.
 */
void cuda_kit_near(struct cuda_kit *k, const char *what, const void *p, enum dtype type,
		   const double *want, size_t count, double tolerance);
/* The same bits as host memory. */
void cuda_kit_same(struct cuda_kit *k, const char *what, const void *p, const void *want,
		   size_t bytes);

#endif
