/*
 * The host's own cuBLASLt, a shared library of the real one's soname: products in plain loops, in
 * double, enqueued on the shim's streams. linear_cuda.c loads it as it loads NVIDIA's. Thread-safe:
 * nothing is shared but what the caller hands in.
 *
 * 1. It is as strict as the documentation lets a library be: a pointer that is aligned worse than
 *    what the algorithm was chosen for, or a descriptor that lacks what its epilogue needs, is an
 *    error; and every product overwrites the workspace that it asked for.
 * 2. DSRUN_SHIM_CUBLASLT, for tests: "bias" has no epilogue but the bias, "bare" none at all.
 */
#include <cublasLt.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"
#include "tests/cuda_host/shim.h"

#define WORKSPACE_BYTES 4096u /* what every product claims to need */

struct layout {
	uint64_t rows, cols;
	int64_t ld;
	cudaDataType type;
};

struct desc {
	int32_t op_a, op_b, bias_type;
	uint32_t epilogue;
	const void *bias;
	void *aux;
	int64_t ld_aux;
};

struct preference {
	uint64_t workspace_bytes;
	uint32_t schemes, align[4];
};

struct algorithm {
	uint32_t magic, align[4], align_bias, align_aux, epilogue;
};
#define ALGORITHM_MAGIC 0x616c676fu

_Static_assert(sizeof(struct layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "layout");
_Static_assert(sizeof(struct desc) <= sizeof(cublasLtMatmulDescOpaque_t), "desc");
_Static_assert(sizeof(struct preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "preference");
_Static_assert(sizeof(struct algorithm) <= sizeof(cublasLtMatmulAlgo_t), "algorithm");

struct cublasLtContext {
	int unused;
};

cublasStatus_t cublasLtCreate(cublasLtHandle_t *ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
	free(handle);
	return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
	switch (status) {
	case CUBLAS_STATUS_SUCCESS:
		return "success";
	case CUBLAS_STATUS_ALLOC_FAILED:
		return "the resource allocation failed";
	case CUBLAS_STATUS_INVALID_VALUE:
		return "an unsupported value or parameter was passed to the function";
	case CUBLAS_STATUS_EXECUTION_FAILED:
		return "the function failed to launch on the GPU";
	case CUBLAS_STATUS_NOT_SUPPORTED:
		return "the functionality requested is not supported";
	}
	return "unknown";
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t bytes,
						 cudaDataType type, uint64_t rows, uint64_t cols,
						 int64_t ld)
{
	const struct layout l = {rows, cols, ld, type};

	if (bytes != sizeof(*layout) || rows == 0 || cols == 0 || ld < (int64_t)rows)
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(layout, &l, sizeof(l));
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t bytes,
					       cublasComputeType_t compute, cudaDataType_t scale)
{
	const struct desc d = {.bias_type = -1, .epilogue = CUBLASLT_EPILOGUE_DEFAULT};

	if (bytes != sizeof(*desc) || compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F)
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(desc, &d, sizeof(d));
	return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *to, size_t to_bytes, const void *value, size_t bytes)
{
	if (bytes != to_bytes)
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(to, value, bytes);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
					      cublasLtMatmulDescAttributes_t name,
					      const void *value, size_t bytes)
{
	struct desc *d = (struct desc *)desc;

	switch (name) {
	case CUBLASLT_MATMUL_DESC_TRANSA:
		return set(&d->op_a, sizeof(d->op_a), value, bytes);
	case CUBLASLT_MATMUL_DESC_TRANSB:
		return set(&d->op_b, sizeof(d->op_b), value, bytes);
	case CUBLASLT_MATMUL_DESC_EPILOGUE:
		return set(&d->epilogue, sizeof(d->epilogue), value, bytes);
	case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
		return set(&d->bias, sizeof(d->bias), value, bytes);
	case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
		return set(&d->bias_type, sizeof(d->bias_type), value, bytes);
	case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
		return set(&d->aux, sizeof(d->aux), value, bytes);
	case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
		return set(&d->ld_aux, sizeof(d->ld_aux), value, bytes);
	}
	return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t pref, size_t bytes)
{
	const struct preference p = {.schemes = 7, .align = {256, 256, 256, 256}};

	if (bytes != sizeof(*pref))
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(pref, &p, sizeof(p));
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
						    cublasLtMatmulPreferenceAttributes_t name,
						    const void *value, size_t bytes)
{
	struct preference *p = (struct preference *)pref;

	switch (name) {
	case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
		return set(&p->workspace_bytes, sizeof(p->workspace_bytes), value, bytes);
	case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
		return set(&p->schemes, sizeof(p->schemes), value, bytes);
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: {
		unsigned i = (unsigned)name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;

		return set(&p->align[i], sizeof(p->align[i]), value, bytes);
	}
	}
	return CUBLAS_STATUS_INVALID_VALUE;
}

static bool has_bias(uint32_t epilogue)
{
	return epilogue & CUBLASLT_EPILOGUE_BIAS;
}

static bool has_aux(uint32_t epilogue)
{
	return epilogue & 128;
}

static uint32_t alignment(const void *p)
{
	const uintptr_t bits = (uintptr_t)p | 256;

	return (uint32_t)(bits & -bits);
}

/* Is this epilogue there, and has it what it needs? */
static bool offered(const struct desc *d, const struct layout *out)
{
	const char *fewer = getenv("DSRUN_SHIM_CUBLASLT");

	if (fewer && strcmp(fewer, "bare") == 0 && d->epilogue != CUBLASLT_EPILOGUE_DEFAULT)
		return false;
	if (fewer && strcmp(fewer, "bias") == 0 && has_aux(d->epilogue))
		return false;
	if (has_bias(d->epilogue) && (!d->bias || d->bias_type != (int32_t)out->type))
		return false;
	return !has_aux(d->epilogue) ||
	       (d->aux && d->ld_aux % 8 == 0 && d->ld_aux >= (int64_t)out->rows);
}

/* Do the shapes and types make a product? */
static bool fits(const struct desc *d, const struct layout *a, const struct layout *b,
		 const struct layout *c, const struct layout *out)
{
	const uint64_t m = d->op_a ? a->cols : a->rows, ka = d->op_a ? a->rows : a->cols;
	const uint64_t n = d->op_b ? b->rows : b->cols, kb = d->op_b ? b->cols : b->rows;

	return m == out->rows && n == out->cols && ka == kb && c->rows == m && c->cols == n &&
	       a->type == b->type && c->type == out->type &&
	       (out->type == CUDA_R_32F || out->type == a->type);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
					      cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
					      cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
					      cublasLtMatmulPreference_t pref, int wanted,
					      cublasLtMatmulHeuristicResult_t *ret, int *ret_count)
{
	const struct desc *e = (const struct desc *)desc;
	const struct layout *out = (const struct layout *)d;
	const struct preference *p = (const struct preference *)pref;
	struct algorithm algorithm = {.magic = ALGORITHM_MAGIC, .epilogue = e->epilogue};

	*ret_count = 0;
	if (!handle || wanted < 1 ||
	    !fits(e, (const struct layout *)a, (const struct layout *)b, (const struct layout *)c,
		  out))
		return CUBLAS_STATUS_INVALID_VALUE;
	if (!offered(e, out) || p->workspace_bytes < WORKSPACE_BYTES)
		return CUBLAS_STATUS_NOT_SUPPORTED;
	memcpy(algorithm.align, p->align, sizeof(p->align));
	algorithm.align_bias = has_bias(e->epilogue) ? alignment(e->bias) : 1;
	algorithm.align_aux = has_aux(e->epilogue) ? alignment(e->aux) : 1;
	*ret = (cublasLtMatmulHeuristicResult_t){.workspaceSize = WORKSPACE_BYTES};
	memcpy(&ret->algo, &algorithm, sizeof(algorithm));
	*ret_count = 1;
	return CUBLAS_STATUS_SUCCESS;
}

/* A product on its way through a stream. */
struct product {
	struct desc desc;
	struct layout a_layout, b_layout, c_layout, d_layout;
	float alpha, beta;
	const void *a, *b, *c;
	void *d, *workspace;
};

static double get(const void *p, cudaDataType type, size_t i)
{
	return type == CUDA_R_32F ? (double)((const float *)p)[i]
				  : (double)bf16_to_float(((const uint16_t *)p)[i]);
}

static void put(void *p, cudaDataType type, size_t i, double value)
{
	if (type == CUDA_R_32F)
		((float *)p)[i] = (float)value;
	else
		((uint16_t *)p)[i] = bf16_from_float((float)value);
}

#define ROOT_2_OVER_PI 0.79788456080286535588
#define CUBIC          0.044715

static double gelu(double x)
{
	return 0.5 * x * (1 + tanh(ROOT_2_OVER_PI * (x + CUBIC * x * x * x)));
}

static double gelu_slope(double x)
{
	const double t = tanh(ROOT_2_OVER_PI * (x + CUBIC * x * x * x));

	return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT_2_OVER_PI * (1 + 3 * CUBIC * x * x);
}

static double epilogue(const struct product *p, size_t row, size_t col, double value)
{
	const struct desc *d = &p->desc;
	const cudaDataType type = p->d_layout.type;
	const size_t at = row + col * (size_t)d->ld_aux;

	if (has_bias(d->epilogue))
		value += get(d->bias, type, row);
	if (d->epilogue == CUBLASLT_EPILOGUE_DGELU)
		return value * gelu_slope(get(d->aux, type, at));
	if (!has_aux(d->epilogue))
		return value;
	put(d->aux, type, at, value);
	return gelu(value);
}

static void product_run(void *arg)
{
	struct product *p = arg;
	const struct layout *a = &p->a_layout, *b = &p->b_layout, *c = &p->c_layout,
			    *d = &p->d_layout;
	const bool ta = p->desc.op_a != CUBLAS_OP_N, tb = p->desc.op_b != CUBLAS_OP_N;
	const size_t inner = ta ? a->rows : a->cols;
	const size_t a_row = ta ? (size_t)a->ld : 1, a_inner = ta ? 1 : (size_t)a->ld;
	const size_t b_col = tb ? 1 : (size_t)b->ld, b_inner = tb ? (size_t)b->ld : 1;

	memset(p->workspace, 0xff, WORKSPACE_BYTES);
	for (size_t col = 0; col < d->cols; col++)
		for (size_t row = 0; row < d->rows; row++) {
			double sum = 0;

			for (size_t k = 0; k < inner; k++)
				sum += get(p->a, a->type, row * a_row + k * a_inner) *
				       get(p->b, b->type, col * b_col + k * b_inner);
			sum *= (double)p->alpha;
			if (p->beta != 0)
				sum += (double)p->beta *
				       get(p->c, c->type, row + col * (size_t)c->ld);
			put(p->d, d->type, row + col * (size_t)d->ld, epilogue(p, row, col, sum));
		}
	free(p);
}

/* Are the pointers as the algorithm was promised? */
static bool promised(const struct algorithm *algorithm, const struct product *p)
{
	const void *const pointers[] = {p->a, p->b, p->c, p->d};

	for (int i = 0; i < 4; i++)
		if (!pointers[i] || alignment(pointers[i]) < algorithm->align[i])
			return false;
	return algorithm->magic == ALGORITHM_MAGIC && algorithm->epilogue == p->desc.epilogue &&
	       (!has_bias(p->desc.epilogue) || alignment(p->desc.bias) >= algorithm->align_bias) &&
	       (!has_aux(p->desc.epilogue) || alignment(p->desc.aux) >= algorithm->align_aux);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
			      const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
			      cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
			      cublasLtMatrixLayout_t c_layout, void *d,
			      cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
			      void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
	struct product *p = malloc(sizeof(*p));

	if (!p)
		return CUBLAS_STATUS_ALLOC_FAILED;
	*p = (struct product){.alpha = *(const float *)alpha,
			      .beta = *(const float *)beta,
			      .a = a,
			      .b = b,
			      .c = c,
			      .d = d,
			      .workspace = workspace};
	memcpy(&p->desc, desc, sizeof(p->desc));
	memcpy(&p->a_layout, a_layout, sizeof(p->a_layout));
	memcpy(&p->b_layout, b_layout, sizeof(p->b_layout));
	memcpy(&p->c_layout, c_layout, sizeof(p->c_layout));
	memcpy(&p->d_layout, d_layout, sizeof(p->d_layout));
	if (!handle || workspace_bytes < WORKSPACE_BYTES ||
	    !fits(&p->desc, &p->a_layout, &p->b_layout, &p->c_layout, &p->d_layout) ||
	    !promised((const struct algorithm *)algo, p)) {
		free(p);
		return CUBLAS_STATUS_INVALID_VALUE;
	}
	if (shim_stream_call(stream, product_run, p) != cudaSuccess) {
		free(p);
		return CUBLAS_STATUS_EXECUTION_FAILED;
	}
	return CUBLAS_STATUS_SUCCESS;
}
