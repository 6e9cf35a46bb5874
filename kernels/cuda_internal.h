/*
 * What the cuda backend's files share: device_cuda.c, which enqueues, and one launcher for every
 * operation, from the NAME_cuda.cu files.
 *
 * A launcher gets the operation's arguments as its typed function was given them (struct layernorm
 * and so on), enqueues its kernels on `stream` and returns what cudaPeekAtLastError says. It never
 * waits and allocates nothing. What it computes is a fixed function of its inputs, bit for bit.
 */
#ifndef KERNELS_CUDA_INTERNAL_H
#define KERNELS_CUDA_INTERNAL_H

#include <cuda_runtime_api.h>

#include "common/err.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef cudaError_t cuda_op_fn(const void *args, cudaStream_t stream);

cuda_op_fn cuda_layernorm_forward, cuda_layernorm_backward;
cuda_op_fn cuda_rmsnorm_forward, cuda_rmsnorm_backward;
cuda_op_fn cuda_attention_forward, cuda_attention_backward;
cuda_op_fn cuda_gelu_forward, cuda_gelu_backward;
cuda_op_fn cuda_swiglu_forward, cuda_swiglu_backward;
cuda_op_fn cuda_rotary;
cuda_op_fn cuda_embedding_forward, cuda_embedding_backward;
cuda_op_fn cuda_cross_entropy;
cuda_op_fn cuda_vector_add, cuda_vector_convert, cuda_vector_accumulate, cuda_vector_sumsq;
cuda_op_fn cuda_adam;

/*
 * 0 for cudaSuccess, else err_cuda(rc) with err naming the call, the file and CUDA's reason. Clears
 * what the runtime remembers of this failure. Arguments that `call` may have behind it are cut.
 */
int cuda_check(cudaError_t rc, const char *call, const char *file, struct err *err);
#define CUDA_CHECK(call, err) cuda_check((call), #call, __FILE__, (err))

#ifdef __cplusplus
}
#endif

#endif
