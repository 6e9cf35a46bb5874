/*
 * OpenBLAS's single-precision product, loaded when the first cpu device opens. Called by
 * linear_cpu.c from the threads of a team.
 *
 * It is loaded at run time, not linked, for two reasons. It starts a pool of threads the moment it
 * is loaded, which a process that only steps Adam must not pay for, and which would come before
 * anyone could say otherwise: here OPENBLAS_NUM_THREADS=1 is said first, since the team splits the
 * work itself, into tiles that do not depend on the number of threads, so that the bits do not
 * either. And OpenBLAS 0.3.21 does not know AMD's family 26 (Zen 5) and takes AVX2 kernels there,
 * at half the speed: OPENBLAS_CORETYPE=SkylakeX names the AVX-512 ones. The second reason can go
 * with the first OpenBLAS that asks cpuid for features, not for families.
 *
 * Invariants:
 * 1. The user's own OPENBLAS_* settings win.
 * 2. The environment is afterwards as it was: children see nothing of this.
 */
#include "kernels/internal.h"

#include <assert.h>
#include <cblas.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "common/cpu.h"

typedef void sgemm_fn(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE a_op, enum CBLAS_TRANSPOSE b_op,
		      blasint m, blasint n, blasint k, float alpha, const float *a, blasint a_row,
		      const float *b, blasint b_row, float beta, float *c, blasint c_row);
typedef void set_threads_fn(int threads);

static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static sgemm_fn *sgemm; /* written once under load_lock, before any device is open */

/* Sets a variable that is not set; true when it is to be taken away again. */
static bool say(const char *name, const char *value)
{
	return !getenv(name) && setenv(name, value, 0) == 0;
}

static int library_open(struct err *err)
{
	set_threads_fn *set_threads;
	sgemm_fn *fn;
	void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);

	if (!lib)
		return err_set(err, ERR_CONFIG,
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
	bool core = false, threads;
	int rc = 0;

	pthread_mutex_lock(&load_lock);
	if (!sgemm) {
		if (cpu_isa() == CPU_AVX512)
			core = say("OPENBLAS_CORETYPE", "SkylakeX");
		threads = say("OPENBLAS_NUM_THREADS", "1");
		rc = library_open(err);
		if (threads)
			unsetenv("OPENBLAS_NUM_THREADS");
		if (core)
			unsetenv("OPENBLAS_CORETYPE");
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
