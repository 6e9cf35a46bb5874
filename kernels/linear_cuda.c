/*
 * Products with a weight matrix on the cuda device, by cuBLASLt. Called by device_cuda.c from the
 * threads that feed streams, one at a time under the lock.
 *
 * cuBLASLt's matrices are column-major: ours, row-major, are their transposes to it. So it is asked
 * for y^T = w^T x^T, dx^T = w dy^T and dw^T = dy^T x, and nothing is moved.
 *
 * Invariants:
 * 1. A plan (algorithm, epilogue) is chosen by what its key says alone: shapes, types, what is
 *    fused, and how far pointers are aligned, which offsets within units decide. So a product has
 *    the same plan, and the same bits, wherever its operands come from, in every run.
 * 2. Reproducible: "by design, all cuBLAS API routines from a given toolkit version generate the
 *    same bit-wise results at every run when executed on GPUs with the same architecture and the
 *    same number of SMs" (cuBLAS, Results reproducibility). The exceptions it names are symv and
 *    hemv with atomics, and streams that share what the library keeps inside, for which it advises
 *    cublasLtMatmul with a workspace of the user's own: what we do. Of split sums only those are
 *    allowed that are "stored in compute type in the workspace and reduced in a separate step"; not
 *    "in place", nor in the output's type, which would round between.
 * 3. fp32 is CUBLAS_COMPUTE_32F: sums in fp32, no TF32, no emulation.
 * 4. The workspace is used by one product at a time: a stream that takes it after another waits for
 *    the other (workspace_enter).
 * 5. Nothing is allocated but by open: a plan's descriptors lie in the table, which forgets one
 *    plan when it is full and makes it again when it is asked for again, with the same choice.
 * 6. What the library does not offer fused for a product is done by kernels of ours after it.
 */
#include "kernels/linear_cuda.h"

#include <assert.h>
#include <cublasLt.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/activation.h"

#define PLANS_MAX 256u

/* The head of the workspace: a bias, widened. */
#define STAGE_BYTES ((size_t)1 << 20)

#define ALIGNMENT_MAX 256u /* what the library distinguishes */

#define LIBRARY_FUNCTIONS(F)                                                                       \
	F(cublasLtCreate)                                                                          \
	F(cublasLtDestroy)                                                                         \
	F(cublasLtGetStatusString)                                                                 \
	F(cublasLtMatmul)                                                                          \
	F(cublasLtMatmulAlgoGetHeuristic)                                                          \
	F(cublasLtMatmulDescInit_internal)                                                         \
	F(cublasLtMatmulDescSetAttribute)                                                          \
	F(cublasLtMatmulPreferenceInit_internal)                                                   \
	F(cublasLtMatmulPreferenceSetAttribute)                                                    \
	F(cublasLtMatrixLayoutInit_internal)

struct library {
	void *handle;
#define FUNCTION(name) __typeof__(name) *name;
	LIBRARY_FUNCTIONS(FUNCTION)
#undef FUNCTION
};

/* All that a choice depends on; every byte set, so that keys are compared by memcmp. */
struct key {
	uint64_t m, n, k;
	int64_t lda, ldb, ldc, ldd, ld_aux;
	uint32_t op_a, op_b, type, type_out; /* of a and b; of c and d */
	uint32_t epilogue;
	uint32_t adds; /* is c read? */
	uint32_t align_a, align_b, align_c, align_d, align_bias, align_aux;
};
_Static_assert(sizeof(struct key) == 8 * 8 + 12 * 4, "a key has no holes");

struct plan {
	struct key key;
	bool used;
	bool offered; /* the library has an algorithm: `algo` */
	cublasLtMatmulDescOpaque_t desc;
	cublasLtMatrixLayoutOpaque_t a, b, c, d;
	cublasLtMatmulAlgo_t algo;
};

struct cuda_linear {
	struct library lib;
	cublasLtHandle_t handle;
	pthread_mutex_t lock; /* all below */
	uint8_t *workspace;
	size_t workspace_bytes;
	cudaStream_t last; /* the stream that used the workspace; NULL: none yet */
	cudaEvent_t last_done;
	struct plan plans[PLANS_MAX];
};

/* One product as cuBLASLt sees it: d = op(a) op(b) + c, and an epilogue. */
struct product {
	struct key key;
	const void *a, *b, *c, *bias; /* c NULL: nothing is added */
	void *d, *aux;
};

static int library_open(struct library *lib, struct err *err)
{
	static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

	for (size_t i = 0; !lib->handle && i < sizeof(names) / sizeof(names[0]); i++)
		lib->handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	if (!lib->handle)
		return err_set(
			err, ERR_CONFIG,
			"the cuda device multiplies with cuBLASLt, and neither %s nor %s can be "
			"loaded: %s (LD_LIBRARY_PATH or ldconfig says where libraries are)",
			names[0], names[1], dlerror());
		/* POSIX's way to make a function pointer of dlsym's result. */
#define FUNCTION(name)                                                                             \
	*(void **)&lib->name = dlsym(lib->handle, #name);                                          \
	if (!lib->name)                                                                            \
		err_set(err, ERR_CONFIG, "libcublasLt has no %s", #name);
	err->code = 0;
	LIBRARY_FUNCTIONS(FUNCTION)
#undef FUNCTION
	return err->code;
}

static int library_check(const struct library *lib, cublasStatus_t rc, const char *call,
			 struct err *err)
{
	if (rc == CUBLAS_STATUS_SUCCESS)
		return 0;
	return err_set(err, err_cublas((int)rc), "%.*s in %s: %s (cuBLAS status %d)",
		       (int)strcspn(call, "("), call, __FILE__, lib->cublasLtGetStatusString(rc),
		       (int)rc);
}
/* CALL's text begins with "lib->". */
#define LIBRARY_CHECK(lib, call, err) library_check((lib), (lib)->call, #call, (err))

int cuda_linear_open(struct cuda_linear **ret, struct err *err)
{
	struct cuda_linear *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return err_sys(err, -ENOMEM, "cuBLASLt");
	pthread_mutex_init(&l->lock, NULL);
	rc = library_open(&l->lib, err);
	if (!rc)
		rc = LIBRARY_CHECK(&l->lib, cublasLtCreate(&l->handle), err);
	if (!rc)
		rc = CUDA_CHECK(cudaEventCreateWithFlags(&l->last_done, cudaEventDisableTiming),
				err);
	if (rc < 0) {
		cuda_linear_free(l);
		return rc;
	}
	*ret = l;
	return 0;
}

struct cuda_linear *cuda_linear_free(struct cuda_linear *l)
{
	if (!l)
		return NULL;
	/* What a failed device answers changes nothing: all of it goes. */
	if (l->last_done)
		(void)cudaEventDestroy(l->last_done);
	if (l->handle)
		(void)l->lib.cublasLtDestroy(l->handle);
	if (l->lib.handle)
		dlclose(l->lib.handle);
	pthread_mutex_destroy(&l->lock);
	free(l);
	return NULL;
}

void cuda_linear_workspace(struct cuda_linear *l, void *workspace, size_t bytes)
{
	assert(bytes > STAGE_BYTES);
	l->workspace = workspace;
	l->workspace_bytes = bytes;
}

static void *scratch(const struct cuda_linear *l)
{
	return l->workspace + STAGE_BYTES;
}

static size_t scratch_bytes(const struct cuda_linear *l)
{
	return l->workspace_bytes - STAGE_BYTES;
}

/* The workspace passes from stream to stream in the order of the callers. */
static int workspace_enter(struct cuda_linear *l, cudaStream_t stream, struct err *err)
{
	int rc = 0;

	if (l->last && l->last != stream) {
		rc = CUDA_CHECK(cudaEventRecord(l->last_done, l->last), err);
		if (!rc)
			rc = CUDA_CHECK(cudaStreamWaitEvent(stream, l->last_done, 0), err);
	}
	l->last = stream;
	return rc;
}

static uint32_t alignment(const void *p)
{
	uintptr_t bits = (uintptr_t)p | ALIGNMENT_MAX;

	return (uint32_t)(bits & -bits);
}

static cudaDataType_t data_type(enum dtype type)
{
	return type == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static int desc_fill(const struct library *lib, struct plan *p, struct err *err)
{
	const struct key *k = &p->key;
	const int32_t op_a = (int32_t)k->op_a, op_b = (int32_t)k->op_b;
	const int32_t bias_type = (int32_t)k->type_out;
	cublasLtMatmulDescOpaque_t *d = &p->desc;
	/* clang-format off */
	const struct {
		cublasLtMatmulDescAttributes_t name;
		const void *value;
		size_t bytes;
		bool used;
	} attributes[] = {
		{CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof(op_a), true},
		{CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof(op_b), true},
		{CUBLASLT_MATMUL_DESC_EPILOGUE, &k->epilogue, sizeof(k->epilogue), true},
		{CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof(bias_type),
		 k->align_bias != 0},
		{CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &k->ld_aux, sizeof(k->ld_aux),
		 k->align_aux != 0},
	};
	/* clang-format on */
	int rc = LIBRARY_CHECK(
		lib, cublasLtMatmulDescInit_internal(d, sizeof(*d), CUBLAS_COMPUTE_32F, CUDA_R_32F),
		err);

	for (size_t i = 0; !rc && i < sizeof(attributes) / sizeof(attributes[0]); i++)
		if (attributes[i].used)
			rc = LIBRARY_CHECK(lib,
					   cublasLtMatmulDescSetAttribute(d, attributes[i].name,
									  attributes[i].value,
									  attributes[i].bytes),
					   err);
	return rc;
}

/* Of a plan's descriptor what changes from call to call. The heuristic looks at the alignment. */
static int desc_point(const struct library *lib, struct plan *p, const struct product *q,
		      struct err *err)
{
	int rc = 0;

	if (q->bias)
		rc = LIBRARY_CHECK(lib,
				   cublasLtMatmulDescSetAttribute(&p->desc,
								  CUBLASLT_MATMUL_DESC_BIAS_POINTER,
								  &q->bias, sizeof(q->bias)),
				   err);
	if (!rc && q->aux)
		rc = LIBRARY_CHECK(lib,
				   cublasLtMatmulDescSetAttribute(
					   &p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER,
					   &q->aux, sizeof(q->aux)),
				   err);
	return rc;
}

static int layouts_fill(const struct library *lib, struct plan *p, struct err *err)
{
	const struct key *k = &p->key;
	const bool ta = k->op_a != CUBLAS_OP_N, tb = k->op_b != CUBLAS_OP_N;
	const struct {
		cublasLtMatrixLayoutOpaque_t *at;
		uint32_t type;
		uint64_t rows, cols;
		int64_t ld;
	} layouts[] = {
		{&p->a, k->type, ta ? k->k : k->m, ta ? k->m : k->k, k->lda},
		{&p->b, k->type, tb ? k->n : k->k, tb ? k->k : k->n, k->ldb},
		{&p->c, k->type_out, k->m, k->n, k->ldc},
		{&p->d, k->type_out, k->m, k->n, k->ldd},
	};
	int rc = 0;

	for (size_t i = 0; !rc && i < sizeof(layouts) / sizeof(layouts[0]); i++)
		rc = LIBRARY_CHECK(lib,
				   cublasLtMatrixLayoutInit_internal(
					   layouts[i].at, sizeof(*layouts[i].at),
					   (cudaDataType_t)layouts[i].type, layouts[i].rows,
					   layouts[i].cols, layouts[i].ld),
				   err);
	return rc;
}

static int preference_fill(const struct cuda_linear *l, const struct key *k,
			   cublasLtMatmulPreferenceOpaque_t *pref, struct err *err)
{
	const uint64_t workspace = scratch_bytes(l);
	const uint32_t schemes =
		CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
	const struct {
		cublasLtMatmulPreferenceAttributes_t name;
		const void *value;
		size_t bytes;
	} attributes[] = {
		{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)},
		{CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof(schemes)},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &k->align_a, sizeof(k->align_a)},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &k->align_b, sizeof(k->align_b)},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &k->align_c, sizeof(k->align_c)},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &k->align_d, sizeof(k->align_d)},
	};
	int rc = LIBRARY_CHECK(&l->lib, cublasLtMatmulPreferenceInit_internal(pref, sizeof(*pref)),
			       err);

	for (size_t i = 0; !rc && i < sizeof(attributes) / sizeof(attributes[0]); i++)
		rc = LIBRARY_CHECK(&l->lib,
				   cublasLtMatmulPreferenceSetAttribute(pref, attributes[i].name,
									attributes[i].value,
									attributes[i].bytes),
				   err);
	return rc;
}

/* Asks the library once. That it does not offer this product is an answer, too, and kept. */
static int plan_make(struct cuda_linear *l, struct plan *p, const struct product *q,
		     struct err *err)
{
	cublasLtMatmulPreferenceOpaque_t pref;
	cublasLtMatmulHeuristicResult_t found = {0};
	cublasStatus_t status;
	int count = 0, rc;

	*p = (struct plan){.key = q->key};
	rc = layouts_fill(&l->lib, p, err);
	if (!rc)
		rc = desc_fill(&l->lib, p, err);
	if (!rc)
		rc = desc_point(&l->lib, p, q, err);
	if (!rc)
		rc = preference_fill(l, &p->key, &pref, err);
	if (rc < 0)
		return rc;
	status = l->lib.cublasLtMatmulAlgoGetHeuristic(l->handle, &p->desc, &p->a, &p->b, &p->c,
						       &p->d, &pref, 1, &found, &count);
	/* Some versions refuse an epilogue that they do not have as a wrong value. */
	if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE)
		rc = library_check(&l->lib, status, "cublasLtMatmulAlgoGetHeuristic", err);
	if (rc < 0)
		return rc;
	p->offered = status == CUBLAS_STATUS_SUCCESS && count > 0 &&
		     found.state == CUBLAS_STATUS_SUCCESS;
	p->algo = found.algo;
	p->used = true;
	return 0;
}

static size_t key_hash(const struct key *key)
{
	const uint8_t *bytes = (const uint8_t *)key;
	uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a's */

	for (size_t i = 0; i < sizeof(*key); i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3u;
	return (size_t)(hash % PLANS_MAX);
}

/* Open addressing; nothing is taken out, but a full table gives up the plan at the key's place. */
static int plan_get(struct cuda_linear *l, const struct product *q, struct plan **ret,
		    struct err *err)
{
	const size_t home = key_hash(&q->key);
	struct plan *p = &l->plans[home];
	int rc;

	for (size_t i = 0; i < PLANS_MAX; i++) {
		struct plan *at = &l->plans[(home + i) % PLANS_MAX];

		if (!at->used) {
			p = at;
			break;
		}
		if (memcmp(&at->key, &q->key, sizeof(at->key)) == 0) {
			*ret = at;
			return 0;
		}
	}
	rc = plan_make(l, p, q, err);
	*ret = p;
	return rc;
}

/* 1: enqueued; 0: the library does not offer it, or a negative code. */
static int product_run(struct cuda_linear *l, struct product *q, cudaStream_t stream,
		       struct err *err)
{
	const float alpha = 1.0f, beta = q->c ? 1.0f : 0.0f;
	const void *c = q->c ? q->c : q->d;
	struct plan *p;
	int rc;

	q->key.adds = q->c != NULL;
	q->key.align_a = alignment(q->a);
	q->key.align_b = alignment(q->b);
	q->key.align_c = alignment(c);
	q->key.align_d = alignment(q->d);
	q->key.align_bias = q->bias ? alignment(q->bias) : 0;
	q->key.align_aux = q->aux ? alignment(q->aux) : 0;
	rc = plan_get(l, q, &p, err);
	if (rc < 0 || !p->offered)
		return rc;
	rc = desc_point(&l->lib, p, q, err);
	if (!rc)
		rc = LIBRARY_CHECK(&l->lib,
				   cublasLtMatmul(l->handle, &p->desc, &alpha, q->a, &p->a, q->b,
						  &p->b, &beta, c, &p->c, q->d, &p->d, &p->algo,
						  scratch(l), scratch_bytes(l), stream),
				   err);
	return rc ? rc : 1;
}

/* The product alone, without an epilogue: that the library has to offer. */
static int product_bare(struct cuda_linear *l, struct product *q, cudaStream_t stream,
			struct err *err)
{
	const struct key *k = &q->key;
	int rc;

	q->bias = q->aux = NULL;
	q->key.ld_aux = 0;
	q->key.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
	rc = product_run(l, q, stream, err);
	if (rc != 0)
		return rc < 0 ? rc : 0;
	return err_set(err, err_cublas(CUBLAS_STATUS_NOT_SUPPORTED),
		       "cuBLASLt has no algorithm for a product of %ju x %ju x %ju with operands "
		       "aligned to %u, %u and %u bytes",
		       (uintmax_t)k->m, (uintmax_t)k->n, (uintmax_t)k->k, k->align_a, k->align_b,
		       k->align_d);
}

static size_t y_row(const struct linear *a)
{
	return a->y_row ? a->y_row : a->out;
}

static struct product product_of(size_t m, size_t n, size_t k, enum dtype type, enum dtype out)
{
	struct product q;

	memset(&q, 0, sizeof(q));
	q.key.m = m;
	q.key.n = n;
	q.key.k = k;
	q.key.op_a = q.key.op_b = CUBLAS_OP_N;
	q.key.type = data_type(type);
	q.key.type_out = data_type(out);
	q.key.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
	return q;
}

/* cuBLASLt takes a bias of the output's type; ours is the weight's, and may have to be widened. */
static int bias_stage(struct cuda_linear *l, const struct linear *a, enum dtype out,
		      cudaStream_t stream, const void **ret, struct err *err)
{
	int rc;

	*ret = a->bias;
	if (!a->bias || out == a->w_type)
		return 0;
	if (a->out > STAGE_BYTES / sizeof(float))
		return err_set(err, ERR_INTERNAL,
			       "a bias of %zu elements, and there is room for %zu", a->out,
			       STAGE_BYTES / sizeof(float));
	rc = CUDA_CHECK(cuda_bias_widen((float *)l->workspace, a->bias, a->out, stream), err);
	*ret = l->workspace;
	return rc;
}

/* d = x w + bias + c */
static int forward_bias(struct cuda_linear *l, const struct linear *a, struct product *q,
			enum dtype out, cudaStream_t stream, struct err *err)
{
	int rc = 0;

	if (q->bias) {
		q->key.epilogue = CUBLASLT_EPILOGUE_BIAS;
		rc = product_run(l, q, stream, err);
		if (rc != 0)
			return rc < 0 ? rc : 0;
	}
	rc = product_bare(l, q, stream, err);
	if (!rc && a->bias)
		rc = CUDA_CHECK(cuda_bias_add(q->d, out, a->bias, a->w_type, a->rows, a->out,
					      (size_t)q->key.ldd, stream),
				err);
	return rc;
}

/* gelu_in = x w + bias, y = GELU of it, in one or in two */
static int forward_gelu(struct cuda_linear *l, const struct linear *a, struct product *q,
			cudaStream_t stream, struct err *err)
{
	const struct gelu g = {
		.count = a->rows * a->out, .act = a->act, .x = a->gelu_in, .y = a->y};
	int rc;

	q->aux = a->gelu_in;
	q->key.ld_aux = (int64_t)a->out;
	q->key.epilogue = q->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
	rc = product_run(l, q, stream, err);
	if (rc != 0)
		return rc < 0 ? rc : 0;
	q->aux = NULL;
	q->key.ld_aux = 0;
	q->d = a->gelu_in;
	rc = forward_bias(l, a, q, a->act, stream, err);
	return rc ? rc : CUDA_CHECK(cuda_gelu_forward(&g, stream), err);
}

static int forward(struct cuda_linear *l, const struct linear *a, cudaStream_t stream,
		   struct err *err)
{
	const enum dtype out = a->add ? DTYPE_F32 : a->act;
	struct product q = product_of(a->out, a->rows, a->in, a->act, out);
	int rc;

	assert(!a->gelu_in || (!a->add && y_row(a) == a->out));
	q.a = a->w;
	q.key.op_a = a->w_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
	q.key.lda = (int64_t)(a->w_transposed ? a->in : a->out);
	q.b = a->x;
	q.key.ldb = (int64_t)a->in;
	q.d = a->y;
	q.key.ldd = (int64_t)y_row(a);
	q.c = a->add;
	q.key.ldc = (int64_t)(a->add && a->add != a->y ? a->out : y_row(a));
	rc = bias_stage(l, a, out, stream, &q.bias, err);
	if (rc < 0)
		return rc;
	return a->gelu_in ? forward_gelu(l, a, &q, stream, err)
			  : forward_bias(l, a, &q, out, stream, err);
}

static int backward_input(struct cuda_linear *l, const struct linear *a, cudaStream_t stream,
			  struct err *err)
{
	const struct gelu g = {
		.count = a->rows * a->in, .act = a->act, .x = a->gelu_in, .dy = a->dx, .dx = a->dx};
	struct product q = product_of(a->in, a->rows, a->out, a->act, a->act);
	int rc;

	q.a = a->w;
	q.key.op_a = a->w_transposed ? CUBLAS_OP_N : CUBLAS_OP_T;
	q.key.lda = (int64_t)(a->w_transposed ? a->in : a->out);
	q.b = a->dy;
	q.key.ldb = (int64_t)y_row(a);
	q.d = a->dx;
	q.key.ldc = q.key.ldd = (int64_t)a->in;
	if (!a->gelu_in)
		return product_bare(l, &q, stream, err);
	q.aux = a->gelu_in;
	q.key.ld_aux = (int64_t)a->in;
	q.key.epilogue = CUBLASLT_EPILOGUE_DGELU;
	rc = product_run(l, &q, stream, err);
	if (rc != 0)
		return rc < 0 ? rc : 0;
	rc = product_bare(l, &q, stream, err);
	return rc ? rc : CUDA_CHECK(cuda_gelu_backward(&g, stream), err);
}

static int backward_weight(struct cuda_linear *l, const struct linear *a, cudaStream_t stream,
			   struct err *err)
{
	const bool t = a->w_transposed;
	struct product q =
		product_of(t ? a->in : a->out, t ? a->out : a->in, a->rows, a->act, DTYPE_F32);
	int rc;

	q.a = t ? a->x : a->dy;
	q.key.lda = (int64_t)(t ? a->in : y_row(a));
	q.b = t ? a->dy : a->x;
	q.key.ldb = (int64_t)(t ? y_row(a) : a->in);
	q.key.op_b = CUBLAS_OP_T;
	q.c = q.d = a->dw;
	q.key.ldc = q.key.ldd = (int64_t)(t ? a->in : a->out);
	rc = product_bare(l, &q, stream, err);
	if (rc < 0 || !a->dbias)
		return rc;
	return CUDA_CHECK(cuda_column_sum(a->dbias, a->dy, a->act, a->rows, a->out, y_row(a),
					  scratch(l), scratch_bytes(l) / sizeof(float), stream),
			  err);
}

int cuda_linear_enqueue(struct cuda_linear *l, enum device_op op, const struct linear *a,
			cudaStream_t stream, struct err *err)
{
	int rc;

	if (a->rows == 0)
		return 0;
	assert(a->act == a->w_type || op == OP_LINEAR_BACKWARD_WEIGHT);
	pthread_mutex_lock(&l->lock);
	rc = workspace_enter(l, stream, err);
	if (!rc)
		rc = op == OP_LINEAR_FORWARD          ? forward(l, a, stream, err)
		     : op == OP_LINEAR_BACKWARD_INPUT ? backward_input(l, a, stream, err)
						      : backward_weight(l, a, stream, err);
	pthread_mutex_unlock(&l->lock);
	return rc;
}
