/*
 * OpenBLAS's single-precision product, loaded when the first cpu device opens. Called by
 * linear_cpu.c from the threads of a team.
 *
 * It is loaded at run time, not linked: OpenBLAS starts a pool of threads, one a core, the moment
 * it is loaded. A process that only steps Adam has no use for them, nor has a worker: the team
 * splits the work, into tiles that do not depend on the number of threads, so that the bits do not
 * either. OPENBLAS_NUM_THREADS=1 must be said before loading, and is said here.
 *
 * Invariants:
 * 1. A product runs in the thread that calls it, whatever the user's OPENBLAS_NUM_THREADS says.
 * 2. The environment is afterwards as it was: children see nothing of this.
 */
#include "kernels/internal.h"

#include <assert.h>
#include <cblas.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

typedef void sgemm_fn(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE a_op, enum CBLAS_TRANSPOSE b_op,
		      blasint m, blasint n, blasint k, float alpha, const float *a, blasint a_row,
		      const float *b, blasint b_row, float beta, float *c, blasint c_row);
typedef void set_threads_fn(int threads);

static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static sgemm_fn *sgemm; /* written once under load_lock, before any device is open */

static int library_open(struct err *err)
{
	set_threads_fn *set_threads;
	sgemm_fn *fn;
	void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);

	if (!lib)
		return err_set(
			err, ERR_CONFIG,
			"the cpu device multiplies with OpenBLAS, which cannot be loaded: %s",
			dlerror());
	/* POSIX's way to make a function pointer of dlsym's result. */
	*(void **)&fn = dlsym(lib, "cblas_sgemm");
	*(void **)&set_threads = dlsym(lib, "openblas_set_num_threads");
	if (!fn || !set_threads) {
		dlclose(lib);
		return err_set(err, ERR_CONFIG,
			       "libopenblas.so.0 has no cblas_sgemm or openblas_set_num_threads");
	}
	set_threads(1);
	sgemm = fn;
	return 0;
}

int blas_load(struct err *err)
{
	const char *name = "OPENBLAS_NUM_THREADS";
	bool ours;
	int rc = 0;

	pthread_mutex_lock(&load_lock);
	if (!sgemm) {
		/* Were there no memory to say it, there would be idle threads and nothing worse. */
		ours = !getenv(name) && setenv(name, "1", 0) == 0;
		rc = library_open(err);
		if (ours)
			unsetenv(name);
	}
	pthread_mutex_unlock(&load_lock);
	return rc;
}

void blas_sgemm(bool a_transposed, bool b_transposed, size_t m, size_t n, size_t k, const float *a,
		size_t a_row, const float *b, size_t b_row, float beta, float *c, size_t c_row)
{
	/* Tiles are small; a row longer than this would be a matrix no memory holds. */
	assert(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX);
	assert(a_row <= INT_MAX && b_row <= INT_MAX && c_row <= INT_MAX);
	if (m == 0 || n == 0)
		return;
	sgemm(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans,
	      b_transposed ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, 1.0f, a,
	      (blasint)a_row, b, (blasint)b_row, beta, c, (blasint)c_row);
}
