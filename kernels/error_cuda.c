/*
 * The text of a CUDA failure: the call, the file, the reason in CUDA's words. Called by the files
 * of the cuda backend, from any thread.
 */
#include <string.h>

#include "kernels/cuda_internal.h"

int cuda_check(cudaError_t rc, const char *call, const char *file, struct err *err)
{
	if (rc == cudaSuccess)
		return 0;
	/* Or the next launch would take this failure for its own. One that lasts comes again. */
	(void)cudaGetLastError();
	return err_set(err, err_cuda((int)rc), "%.*s in %s: %s (%s)", (int)strcspn(call, "("), call,
		       file, cudaGetErrorString(rc), cudaGetErrorName(rc));
}
