/* Kernels of one warp, or one block, that do what tests/t_cuda_mma.c looks for. */
#ifndef TESTS_CUDA_HOST_MMA_KERNELS_H
#define TESTS_CUDA_HOST_MMA_KERNELS_H

#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Each launches on `stream` and returns what cudaPeekAtLastError says. Matrices lie by rows. */

/* c[16][16] += a[16][16] y[16][16]^T, and y as it stands when not `transposed` */
cudaError_t mma_kernel_product(float *c, const uint16_t *a, const uint16_t *y, int transposed,
			       cudaStream_t stream);
/* out[i] = in[i] for i < count; zero up to MMA_COPY_WORDS: 16 bytes at a time, then 4 */
#define MMA_COPY_WORDS 512u
cudaError_t mma_kernel_copy_16(uint32_t *out, const uint32_t *in, unsigned count,
			       cudaStream_t stream);
cudaError_t mma_kernel_copy_4(uint32_t *out, const uint32_t *in, unsigned count,
			      cudaStream_t stream);
/* pairs[i] = in[2i], in[2i + 1] rounded, powers[i] = 2^in[i]; count even, at most 1024 */
cudaError_t mma_kernel_convert(uint32_t *pairs, float *powers, const float *in, unsigned count,
			       cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
