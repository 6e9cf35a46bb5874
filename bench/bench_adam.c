/*
 * How fast the CPU Adam is, against the speed of the memory it goes through.
 *
 * Usage: bench_adam [FILE [MILLIONS]]. FILE receives the JSON; MILLIONS is the largest number of
 * parameters in 2^20, 64 by default.
 *
 * Measured is a step of bf16 training (bf16 gradient, split master), and beside it adam_host_move,
 * which reads and writes the same 26 bytes a parameter and computes nothing. The two alternate
 * within one process on the same vectors, so that a neighbour's noise hits both, and the medians
 * are taken. Each of the threads owns a slice, which it touches first.
 *
 * `ratio_limit` is the step's speed over the move's: the median over the rows whose vectors are at
 * least four times the last-level cache. `params_per_s` is the step's with most threads and most
 * parameters.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "common/cpu.h"
#include "common/err.h"
#include "common/file.h"
#include "common/json.h"
#include "kernels/adam.h"

#define BYTES_A_PARAM 26u
#define MIBI          ((size_t)1 << 20)
#define THREADS_MAX   256u
#define REPEATS       15u /* odd, so that the median is one of them */
#define ROWS_MAX      512u

struct row {
	size_t params;
	unsigned threads;
	double step_s, move_s; /* medians of one pass over all */
};

/* One thread's part; the main thread is thread 0. */
struct slice {
	struct bench *bench;
	struct adam adam;
	unsigned index;
	pthread_t id;
};

struct bench {
	struct adam whole;
	unsigned threads;
	pthread_barrier_t barrier;
	struct slice slices[THREADS_MAX];
	double step_s[REPEATS], move_s[REPEATS];
	bool filled;
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

static double median(double *x, size_t count)
{
	qsort(x, count, sizeof(*x), by_value);
	return x[count / 2];
}

static void *vector_map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* As the daemon's pinned arena would be; a system that refuses is measured without. */
	(void)madvise(p, bytes, MADV_HUGEPAGE);
	return p;
}

static void slice_fill(struct adam *a)
{
	uint16_t *grad = (uint16_t *)a->grad, *hi = a->param;

	for (size_t i = 0; i < a->count; i++) {
		float x = (float)((i * 2654435761u >> 8) & 0xffff) / 65536.0f - 0.5f;

		grad[i] = bf16_from_float(x);
		bf16_split(x, &hi[i], &a->lo[i]);
		a->m[i] = 0.1f * x;
		a->v[i] = 0.01f * x * x + 1e-6f;
	}
}

static double pass(struct slice *s, void (*fn)(const struct adam *))
{
	double start;

	pthread_barrier_wait(&s->bench->barrier);
	start = now();
	fn(&s->adam);
	pthread_barrier_wait(&s->bench->barrier);
	return now() - start;
}

static void *slice_main(void *arg)
{
	struct slice *s = arg;
	struct bench *b = s->bench;

	if (!b->filled)
		slice_fill(&s->adam);
	/* The first pair warms up. */
	for (unsigned i = 0; i <= REPEATS; i++) {
		double step_s = pass(s, adam_host_step), move_s = pass(s, adam_host_move);

		if (s->index == 0 && i > 0) {
			b->step_s[i - 1] = step_s;
			b->move_s[i - 1] = move_s;
		}
	}
	return NULL;
}

/* Slice `index` of `threads` of the first `params` elements, in whole multiples of 32. */
static struct adam slice_of(const struct adam *whole, size_t params, unsigned index,
			    unsigned threads)
{
	size_t begin = params / 32 * index / threads * 32;
	size_t end = params / 32 * (index + 1) / threads * 32;
	struct adam a = *whole;

	a.count = a.decay_count = end - begin;
	a.grad = (const uint16_t *)a.grad + begin;
	a.param = (uint16_t *)a.param + begin;
	a.lo += begin;
	a.m += begin;
	a.v += begin;
	return a;
}

static int row_run(struct bench *b, size_t params, unsigned threads, struct row *ret)
{
	unsigned started = 1;
	int rc;

	b->threads = threads;
	rc = -pthread_barrier_init(&b->barrier, NULL, threads);
	for (unsigned i = 0; i < threads; i++) {
		b->slices[i].bench = b;
		b->slices[i].index = i;
		b->slices[i].adam = slice_of(&b->whole, params, i, threads);
	}
	/* A thread that cannot start would leave the others at the barrier: give up at once. */
	for (; !rc && started < threads; started++)
		rc = -pthread_create(&b->slices[started].id, NULL, slice_main, &b->slices[started]);
	if (rc)
		return rc;
	slice_main(&b->slices[0]);
	for (unsigned i = 1; i < threads; i++)
		pthread_join(b->slices[i].id, NULL);
	pthread_barrier_destroy(&b->barrier);
	b->filled = true;
	*ret = (struct row){params, threads, median(b->step_s, REPEATS),
			    median(b->move_s, REPEATS)};
	return 0;
}

static void row_print(const struct row *r)
{
	double step = (double)r->params / r->step_s, move = (double)r->params / r->move_s;

	printf("%9zu Mi %8u %14.3f %10.1f %14.3f %10.1f %8.3f\n", r->params / MIBI, r->threads,
	       step * 1e-9, step * BYTES_A_PARAM * 1e-9, move * 1e-9, move * BYTES_A_PARAM * 1e-9,
	       step / move);
}

static int report_write(const char *path, const struct row *rows, size_t count, double ratio,
			struct err *err)
{
	const struct row *last = &rows[count - 1];
	struct json j;
	int rc;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_string(&j, "instruction_set", cpu_isa_name(cpu_isa()));
	json_double(&j, "params_per_s", (double)last->params / last->step_s);
	json_double(&j, "ratio_limit", ratio);
	json_array_begin(&j, "rows");
	for (size_t i = 0; i < count; i++) {
		json_object_begin(&j, NULL);
		json_u64(&j, "params", rows[i].params);
		json_u64(&j, "threads", rows[i].threads);
		json_double(&j, "params_per_s", (double)rows[i].params / rows[i].step_s);
		json_double(&j, "limit_params_per_s", (double)rows[i].params / rows[i].move_s);
		json_double(&j, "ratio_limit", rows[i].move_s / rows[i].step_s);
		json_object_end(&j);
	}
	json_array_end(&j);
	json_object_end(&j);
	rc = json_text(&j) ? file_replace(path, json_text(&j), strlen(json_text(&j)), err)
			   : err_sys(err, -ENOMEM, "%s", path);
	json_done(&j);
	return rc;
}

static int vectors_open(struct bench *b, size_t params)
{
	const struct adam_hyper hyper = {
		.lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

	b->whole = (struct adam){
		.grad_type = DTYPE_BF16,
		.param_type = DTYPE_BF16,
		.grad = vector_map(params * 2),
		.param = vector_map(params * 2),
		.lo = vector_map(params * 2),
		.m = vector_map(params * 4),
		.v = vector_map(params * 4),
		.scalars = adam_scalars_make(&hyper, 100, 1),
	};
	return b->whole.grad && b->whole.param && b->whole.lo && b->whole.m && b->whole.v ? 0
											  : -ENOMEM;
}

static unsigned cores(void)
{
	cpu_set_t set;
	unsigned count = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		count = (unsigned)CPU_COUNT(&set);
	return count < THREADS_MAX ? count : THREADS_MAX;
}

/* The thread counts of a size: 1, 2, 4, ... and all. 0 after the last. */
static unsigned threads_next(unsigned threads, unsigned most)
{
	if (threads == most)
		return 0;
	return threads * 2 < most ? threads * 2 : most;
}

int main(int argc, char **argv)
{
	static struct bench b;
	static struct row rows[ROWS_MAX];
	static double ratios[ROWS_MAX];
	size_t most = (argc > 2 ? strtoul(argv[2], NULL, 10) : 64) * MIBI, count = 0, large = 0;
	long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
	size_t beyond = cache > 0 ? 4 * (size_t)cache : 256 * MIBI;
	unsigned all = cores();
	struct err err;
	int rc;

	if (most == 0 || most > 4096 * MIBI || vectors_open(&b, most) < 0) {
		fprintf(stderr, "bench_adam: no memory for %zu Mi parameters\n", most / MIBI);
		return 1;
	}
	/* The largest comes first, so that every thread touches its own part of it first. */
	printf("Adam, bf16 gradient and split master, %s; medians of %u\n", cpu_isa_name(cpu_isa()),
	       REPEATS);
	printf("%12s %8s %14s %10s %14s %10s %8s\n", "parameters", "threads", "step G/s", "GB/s",
	       "limit G/s", "GB/s", "ratio");
	rc = row_run(&b, most, all, &rows[0]);
	for (size_t n = most < MIBI ? most : MIBI; !rc && n <= most; n *= 4)
		for (unsigned t = 1; !rc && t && count < ROWS_MAX; t = threads_next(t, all)) {
			rc = row_run(&b, n, t, &rows[count]);
			if (rc)
				break;
			row_print(&rows[count]);
			if (n * BYTES_A_PARAM >= beyond)
				ratios[large++] = rows[count].move_s / rows[count].step_s;
			count++;
		}
	if (rc) {
		fprintf(stderr, "bench_adam: cannot start a thread: %s\n", err_str(rc));
		return 1;
	}
	if (large == 0) /* everything fits the cache: the last row is the best there is */
		ratios[large++] = rows[count - 1].move_s / rows[count - 1].step_s;
	printf("step over limit, beyond the cache: %.3f\n", median(ratios, large));
	if (argc > 1 && report_write(argv[1], rows, count, median(ratios, large), &err) < 0) {
		fprintf(stderr, "bench_adam: %s\n", err.text);
		return 1;
	}
	return 0;
}
