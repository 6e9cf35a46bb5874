/*
 * The seams of the CUDA shim: kernels (include/cuda_device.h, kernels/cuda_launch.cuh) on the block
 * runner (block.c), and both on the runtime (streams, memory, errors).
 */
#ifndef TESTS_CUDA_HOST_SHIM_H
#define TESTS_CUDA_HOST_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the runtime offers to launches. */

/*
 * fn(arg) runs on the stream when everything enqueued before has run. `arg` is from malloc and
 * becomes fn's; it is freed when the work is skipped, since an earlier piece failed. An error, and
 * arg stays the caller's, when the stream is none or a failure sticks already.
 */
cudaError_t shim_stream_call(cudaStream_t stream, void (*fn)(void *), void *arg);

/*
 * A kernel failed, in a stream: `text` goes to stderr, and `error` sticks as an illegal access does
 * on a GPU: every later call returns it.
 */
void shim_fail(cudaError_t error, const char *text);

/* What cudaPeekAtLastError returns next in this thread. Returns `error`. */
cudaError_t shim_last_error_set(cudaError_t error);

/* What the runtime offers to tests. */

/* The k-th call of the runtime from now on fails with cudaErrorUnknown; 0: none does. */
void shim_call_fail(unsigned k);

/* The k-th piece of work that a stream begins from now on makes an illegal access; 0: none does. */
void shim_work_fail(unsigned k);

/* As in a new process: nothing sticks, nothing is ordered. Did all that was ordered happen? */
bool shim_reset(void);

/* What machine this is; at first 8 devices of capability 9.0 with 16 GiB. */
void shim_devices_set(int count, int major, int minor);
void shim_memory_set(size_t bytes);

/* Ranges of host memory that are registered; streams and events that are open. */
size_t shim_registered(void);
size_t shim_opened(void);

/* What the block runner offers to launches. */

/* The head of a launch; whoever makes one puts the arguments behind it. */
struct shim_launch {
	const char *name;
	const void *function; /* the kernel's address, which cudaFuncSetAttribute takes, too */
	dim3 grid, block;
	size_t shared_bytes;
	size_t shared_max; /* static and dynamic together; set by shim_enqueue */
	void (*thread)(const struct shim_launch *launch); /* one thread of the kernel */
};

/* Bytes a block may have, and what a kernel may have after cudaFuncSetAttribute; compute 8.0+. */
#define SHIM_SHARED_MAX        (48u << 10)
#define SHIM_SHARED_OPT_IN_MAX (227u << 10)

/*
 * Checks the configuration as CUDA does and enqueues the launch. Takes `launch`, which is from
 * malloc; NULL is an error as any other. The error is the thread's last one.
 */
void shim_enqueue(struct shim_launch *launch, cudaStream_t stream);

/* What is enqueued: runs the launch in the calling thread, and frees it. */
void shim_run(void *launch);

/*
 * Which order blocks, threads and waiters are taken in, for later launches: 0 is ascending, 1 the
 * reverse. A kernel's results depend on it only when its threads race.
 */
void shim_order_set(unsigned order);

/* What the block runner offers to a kernel's threads. */

struct shim_index {
	unsigned x, y, z;
};

/* threadIdx, blockIdx, blockDim, gridDim of the thread that runs. */
struct shim_builtins {
	struct shim_index thread, block;
	dim3 block_dim, grid_dim;
};
extern __thread struct shim_builtins shim_now;

/* Returns how many of the block's threads came with `yes`. */
unsigned shim_barrier(const char *what, int yes, const char *file, int line);

/*
 * The lanes of a warp that `mask` names meet: when each that has not returned is here with the same
 * fn and mask, fn runs once, with each lane's `mine` (NULL: not here), and all go on.
 */
typedef void shim_warp_fn(void *const lanes[32]);
void shim_warp(const char *what, unsigned mask, shim_warp_fn *fn, void *mine, const char *file,
	       int line);

/* The calling thread's lane, and the lanes of its warp that exist and have not returned. */
unsigned shim_lane(void);
unsigned shim_lanes_alive(void);

/* The block's one array for `site`, and its dynamic shared memory; all bits set when it begins. */
void *shim_shared(const void *site, size_t bytes);
void *shim_shared_dynamic(void);

#ifdef __cplusplus
}
#endif

#endif
