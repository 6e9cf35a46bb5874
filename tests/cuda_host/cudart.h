/* What the files of the runtime under the CUDA shim share. */
#ifndef TESTS_CUDA_HOST_CUDART_H
#define TESTS_CUDA_HOST_CUDART_H

#include <stdbool.h>
#include <stddef.h>

#include "tests/cuda_host/shim.h"

/* Every call begins here: what sticks, or what a test ordered. */
cudaError_t shim_enter(void);
cudaError_t shim_status(void);

/* Every piece of work begins here, in its stream's thread; what a test ordered sticks then. */
void shim_work_enter(void);

/* From here on, calls of this thread are a host function's, which may make none; or no longer. */
void shim_in_host_function(bool in);

bool shim_is_registered(const void *p, size_t bytes);
cudaError_t shim_copy_check(const void *dst, const void *src, size_t bytes,
			    enum cudaMemcpyKind kind);
cudaError_t shim_fill_check(const void *p, size_t bytes);
void shim_fill(void *p, int byte, size_t bytes);

#endif
