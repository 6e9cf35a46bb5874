/*
 * The optimizer's step beside a move of the same bytes, on vectors beyond cache, piece by piece by
 * a team of threads, as the daemon's pool steps chunks. Called by dsctl bench; its threads are gone
 * when it returns.
 *
 * Invariants
 *  1. Step and move take turns on the same vectors, so that a neighbour's noise hits both.
 *  2. A row is the median of at least PAIRS_MIN passes of each, whatever time that takes.
 */
#include "kernels/adam_measure.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kernels/adam.h"
#include "kernels/internal.h"

#define MOVED_BYTES  26u /* a parameter: adam.h */
#define MEMORY_BYTES 14u
#define PIECE        ((size_t)256 << 10) /* parameters; a multiple of what adam_host_move takes */
#define PAIRS_MIN    3u
#define PAIRS_MAX    101u
#define PARAMS_LEAST ((size_t)16 << 20)
#define PARAMS_MOST  ((size_t)256 << 20)
#define CACHES       4u /* so many last-level caches are beyond cache */

struct work {
	struct adam whole;
	bool filled;
	void (*fn)(const struct adam *);
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), by_value);
	return values[count / 2];
}

/* Values as training has them: denormals would be slow. */
static void fill(const struct adam *a)
{
	uint16_t *grad = (uint16_t *)(uintptr_t)a->grad, *hi = a->param;

	for (size_t i = 0; i < a->count; i++) {
		float x = (float)((i * 2654435761u >> 8) & 0xffff) / 65536.0f - 0.5f;

		grad[i] = bf16_from_float(x);
		bf16_split(x, &hi[i], &a->lo[i]);
		a->m[i] = 0.1f * x;
		a->v[i] = 0.01f * x * x + 1e-6f;
	}
}

static void piece(void *arg, size_t part, unsigned worker)
{
	const struct work *w = arg;
	struct adam a = w->whole;
	const size_t begin = part * PIECE;

	(void)worker;
	a.count = a.decay_count = PIECE;
	a.grad = (const uint16_t *)a.grad + begin;
	a.param = (uint16_t *)a.param + begin;
	a.lo += begin;
	a.m += begin;
	a.v += begin;
	w->fn(&a);
}

static double pass(struct work *w, struct cpu_team *team, void (*fn)(const struct adam *))
{
	const double start = now();

	w->fn = fn;
	cpu_team_run(team, piece, w, w->whole.count / PIECE);
	return now() - start;
}

static int row(struct work *w, unsigned threads, double seconds, struct adam_speed *ret,
	       struct err *err)
{
	const double bytes = (double)w->whole.count * MOVED_BYTES;
	double step_s[PAIRS_MAX], move_s[PAIRS_MAX], start;
	struct cpu_team *team;
	size_t pairs = 0;
	int rc = cpu_team_open(threads, &team, err);

	if (rc < 0)
		return rc;
	if (!w->filled)
		(void)pass(w, team, fill);
	w->filled = true;
	start = now();
	do {
		step_s[pairs] = pass(w, team, adam_host_step);
		move_s[pairs] = pass(w, team, adam_host_move);
		pairs++;
	} while (pairs < PAIRS_MIN || (pairs < PAIRS_MAX && now() - start < seconds));
	cpu_team_free(team);
	*ret = (struct adam_speed){.threads = threads,
				   .move = bytes / median(move_s, pairs),
				   .step = bytes / median(step_s, pairs)};
	return 0;
}

static struct adam lay_out(uint8_t *mem, size_t params)
{
	const struct adam_hyper hyper = {
		.lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
	struct adam a = {.count = params,
			 .decay_count = params,
			 .grad_type = DTYPE_BF16,
			 .param_type = DTYPE_BF16,
			 .scalars = adam_scalars_make(&hyper, 100, 1)};

	a.m = (float *)(void *)mem;
	a.v = a.m + params;
	a.param = a.v + params;
	a.lo = (int16_t *)a.param + params;
	a.grad = a.lo + params;
	return a;
}

/* 1, 2, 4, ... and all. */
static unsigned threads_next(unsigned threads, unsigned most)
{
	return threads * 2 < most ? threads * 2 : most;
}

int adam_measure(size_t params, unsigned threads, double seconds, struct adam_speed *ret,
		 size_t room, struct err *err)
{
	const size_t count = (params + PIECE - 1) / PIECE * PIECE, bytes = count * MEMORY_BYTES;
	size_t rows = 0, wanted = 1;
	struct work w = {.filled = false};
	void *mem;
	int rc = 0;

	assert(threads >= 1 && threads <= ADAM_MEASURE_THREADS_MAX && room > 0);
	for (unsigned t = 1; t < threads && wanted < room; t = threads_next(t, threads))
		wanted++;
	mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return err_sys(err, -errno, "%zu bytes for a step of the optimizer", bytes);
	w.whole = lay_out(mem, count);
	for (unsigned t = 1; rows < wanted && rc == 0; t = threads_next(t, threads)) {
		bool last = rows + 1 == wanted;

		rc = row(&w, last ? threads : t, seconds / (double)wanted, &ret[rows], err);
		rows++;
	}
	munmap(mem, bytes);
	return rc < 0 ? rc : (int)rows;
}

size_t adam_measure_params(void)
{
	const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
	size_t params = cache > 0 ? CACHES * (size_t)cache / MEMORY_BYTES : PARAMS_LEAST;

	if (params < PARAMS_LEAST)
		params = PARAMS_LEAST;
	return params < PARAMS_MOST ? params : PARAMS_MOST;
}
