/* Kernels that do what tests/t_cuda_shim.c looks for, and what a kernel must not do. */
#ifndef TESTS_CUDA_HOST_SHIM_KERNELS_H
#define TESTS_CUDA_HOST_SHIM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Each launches on `stream` and returns what cudaGetLastError says. */

/* out[i] = i's place as blockIdx, threadIdx, gridDim, blockDim give it */
cudaError_t shim_kernel_index(uint32_t *out, dim3 grid, dim3 block, cudaStream_t stream);
/* out[block] = sum of in[block][threads], by barriers and shared memory */
cudaError_t shim_kernel_block_sum(int *out, const int *in, unsigned blocks, unsigned threads,
				  cudaStream_t stream);
/* out[thread][3]: how many, any, all of the block's threads are below `below` */
cudaError_t shim_kernel_votes(int *out, unsigned threads, unsigned below, cudaStream_t stream);
/* One block of `threads`: out[thread][SHIM_COLLECTIVES], a column for each kind */
#define SHIM_COLLECTIVES 12
cudaError_t shim_kernel_collectives(uint32_t *out, unsigned threads, cudaStream_t stream);
/* out[thread] = shared memory's bits before anything was stored there, static then dynamic */
cudaError_t shim_kernel_shared_new(uint32_t *out, unsigned blocks, cudaStream_t stream);

/* What must be found. `at` is an index into `p`, or into the array of shared memory. */
enum shim_crime {
	SHIM_READ_GLOBAL,
	SHIM_WRITE_GLOBAL,
	SHIM_READ_STATIC, /* CUDA_SHARED(int, , [SHIM_SHARED_INTS]) */
	SHIM_WRITE_STATIC,
	SHIM_READ_DYNAMIC, /* SHIM_SHARED_INTS ints */
	SHIM_WRITE_DYNAMIC,
	SHIM_BARRIER_HALF,     /* half of the block waits, the other returns */
	SHIM_BARRIER_BRANCHES, /* both halves wait, each at its own barrier */
	SHIM_SHUFFLE_HALF,     /* a mask names lanes that are at a barrier */
	SHIM_SHUFFLE_OUTSIDE,  /* a lane names a mask without itself */
	SHIM_SHUFFLE_MIXED,    /* lanes of one mask at different collectives */
	SHIM_RACE,             /* a barrier is missing: p[thread] depends on the order */
};
#define SHIM_SHARED_INTS 37
cudaError_t shim_kernel_crime(enum shim_crime crime, int *p, long at, cudaStream_t stream);

/* An empty kernel in a configuration that may be wrong; `opt_in`: cudaFuncSetAttribute first */
cudaError_t shim_kernel_empty(dim3 grid, dim3 block, size_t shared_bytes, int opt_in,
			      cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
