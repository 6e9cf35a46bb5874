/*
 * Products by cuBLASLt, for device_cuda.c: the library, loaded at run time, and what was decided
 * once about each product. One to a device; any thread, its own lock lets in one at a time. And the
 * kernels beside the products, of linear_rows_cuda.cu, which linear_cuda.c enqueues.
 */
#ifndef KERNELS_LINEAR_CUDA_H
#define KERNELS_LINEAR_CUDA_H

#include <stddef.h>

#include "kernels/cuda_internal.h"
#include "kernels/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_linear;

/* With the device current. ERR_CONFIG, naming what was tried, when the library is not to be had. */
int cuda_linear_open(struct cuda_linear **ret, struct err *err);

/* When nothing of it runs any more. NULL is fine. Returns NULL. */
struct cuda_linear *cuda_linear_free(struct cuda_linear *linear);

/* Device memory, aligned to DEVICE_ALIGN, that products use in turn; borrowed until free. */
void cuda_linear_workspace(struct cuda_linear *linear, void *workspace, size_t bytes);

/* Enqueues OP_LINEAR_*. Returns 0, or a negative code with err. Does not wait. */
int cuda_linear_enqueue(struct cuda_linear *linear, enum device_op op, const struct linear *args,
			cudaStream_t stream, struct err *err);

/*
 * sums[c] += the sum over rows of m[row * stride + c], c < cols. Rows are cut by their number
 * alone, or by what fits into `partials`, of which at least cols floats are needed.
 */
cudaError_t cuda_column_sum(float *sums, const void *m, enum dtype type, size_t rows, size_t cols,
			    size_t stride, float *partials, size_t partials_count,
			    cudaStream_t stream);

/* to[i] = from[i], widened */
cudaError_t cuda_bias_widen(float *to, const uint16_t *from, size_t count, cudaStream_t stream);

/* y[row * stride + c] += bias[c], rounded to y's type */
cudaError_t cuda_bias_add(void *y, enum dtype y_type, const void *bias, enum dtype bias_type,
			  size_t rows, size_t cols, size_t stride, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
