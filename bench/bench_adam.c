/*
 * How fast the CPU Adam is: beside the speed of the memory it goes through, and beside its peers.
 *
 * Usage: bench_adam FILE MILLIONS [PYTHON SCRIPT]. FILE receives the JSON; MILLIONS is the largest
 * number of parameters in 2^20, 0: what memory allows, up to 1024. PYTHON runs SCRIPT, which is
 * bench/peers/adam.py, for DeepSpeed's CPUAdam and PyTorch's fused AdamW.
 *
 * Measured is a whole step of bf16 training: bf16 gradient in, fp32 master (split) and moments,
 * bf16 parameter out. Beside it adam_host_move, the limit: it reads and writes the same 26 bytes a
 * parameter and computes nothing. And the peers, for the same job: their three passes. All take
 * turns, so that a neighbour's noise hits each, and the medians are taken. Each of the threads owns
 * a slice, which it touches first; peers are processes of their own, with as many threads.
 *
 * JSON: `ratio_limit`, `ratio_deepspeed`, `ratio_torch`: the step's speed over theirs, medians over
 * the rows whose vectors are at least four times the last-level cache; `ratio_limit_least` is the
 * worst of these. `ratio_small`: speed a parameter of the smallest size over the largest.
 * `ratio_scaling`: what all threads make of the step over what they make of the limit.
 *
 * Vectors begin at different places of a page. Streams at the same place of their pages compete
 * where a cache looks at an address's low bits, and by size alone sets of vectors would differ.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cpu.h"
#include "common/err.h"
#include "common/file.h"
#include "common/json.h"
#include "kernels/adam.h"

#define BYTES_A_PARAM 26u /* of traffic */
#define VECTOR_BYTES  14u /* of memory */
#define MIBI          ((size_t)1 << 20)
#define THREADS_MAX   256u
#define REPEATS       15u /* odd, so that the median is one of them */
#define REPEATS_LARGE 7u
#define LARGE         (256 * MIBI) /* from so many parameters on there are fewer repeats */
#define SPIN_SECONDS  4e-3         /* an OpenMP thread looks for work that long before it sleeps */
#define PAGE_PLACE    576u         /* nine lines from one vector's place in a page to the next's */
#define ROWS_MAX      512u

enum who { OURS, LIMIT, DEEPSPEED, TORCH, WHO_COUNT };

static const char *const who_names[WHO_COUNT] = {"step", "limit", "deepspeed", "torch"};

/* Medians of one pass over all parameters, in seconds; 0: not there, or no memory for it. */
struct row {
	size_t params;
	unsigned threads;
	double seconds[WHO_COUNT];
};

/* A process that runs a peer with a number of threads. */
struct peer {
	FILE *to, *from; /* NULL: there is none */
	pid_t pid;
	bool sized; /* it has vectors of the row's size */
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
	double seconds[WHO_COUNT][REPEATS];
	unsigned repeats;
	struct peer peers[WHO_COUNT];
	size_t map_bytes;
	void *map;
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
	return (x[(count - 1) / 2] + x[count / 2]) / 2;
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

/* ---- peers ---- */

static void peer_close(struct peer *p)
{
	if (!p->to)
		return;
	(void)fclose(p->to);
	(void)fclose(p->from);
	(void)waitpid(p->pid, NULL, 0);
	*p = (struct peer){.to = NULL};
}

/* The answer's line without its end, "" when the peer is gone. */
static const char *peer_answer(struct peer *p, char line[static 256])
{
	if (!fgets(line, 256, p->from))
		line[0] = '\0';
	line[strcspn(line, "\n")] = '\0';
	return line;
}

/* Starts a peer; where there is none says why and leaves it closed. */
static void peer_open(struct peer *p, char *python, char *script, const char *name,
		      unsigned threads)
{
	int to[2], from[2];
	char count[16], line[256];
	char *argv[] = {python, script, (char *)name, count, NULL};

	if (pipe2(to, O_CLOEXEC) < 0)
		return;
	if (pipe2(from, O_CLOEXEC) < 0) {
		close(to[0]);
		close(to[1]);
		return;
	}
	(void)snprintf(count, sizeof(count), "%u", threads);
	p->pid = fork();
	if (p->pid == 0) {
		if (dup2(to[0], 0) == 0 && dup2(from[1], 1) == 1)
			execv(python, argv);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	p->to = fdopen(to[1], "w");
	p->from = fdopen(from[0], "r");
	if (p->pid < 0 || !p->to || !p->from) {
		fprintf(stderr, "bench_adam: %s cannot be started: %s\n", name, strerror(errno));
		p->to = NULL;
		return;
	}
	if (strncmp(peer_answer(p, line), "ready", 5) != 0) {
		printf("%s: %s\n", name, line[0] ? line : "it ended without a word");
		peer_close(p);
	} else if (threads == 1) {
		printf("%s: version %s\n", name, line + 6);
	}
}

/* Gives the peer vectors of `params` elements, 0 for none. */
static void peer_size(struct peer *p, size_t params)
{
	char line[256];

	if (!p->to)
		return;
	fprintf(p->to, "%zu\n", params);
	if (fflush(p->to) != 0)
		peer_close(p);
	else
		p->sized = strcmp(peer_answer(p, line), "ok") == 0 && params > 0;
}

static double peer_step(struct peer *p)
{
	char line[256];
	double seconds;

	if (!p->to || !p->sized)
		return 0;
	fputs("\n", p->to);
	seconds = fflush(p->to) == 0 ? strtod(peer_answer(p, line), NULL) : 0;
	if (seconds <= 0) { /* it died, or ran out of memory: the row goes without it */
		fprintf(stderr, "bench_adam: a peer gives no answer any more\n");
		peer_close(p);
	}
	return seconds;
}

/* ---- rows ---- */

/* Until the peers' threads leave the cores alone. */
static void settle(void)
{
	const struct timespec spin = {.tv_nsec = (long)(SPIN_SECONDS * 1e9)};

	(void)nanosleep(&spin, NULL);
}

static void *slice_main(void *arg)
{
	struct slice *s = arg;
	struct bench *b = s->bench;

	slice_fill(&s->adam);
	/* The first turn warms up. */
	for (unsigned i = 0; i <= b->repeats; i++) {
		double seconds[WHO_COUNT] = {
			[OURS] = pass(s, adam_host_step), [LIMIT] = pass(s, adam_host_move)};

		if (s->index > 0)
			continue; /* the others wait at the barrier while the peers work */
		for (int who = DEEPSPEED; who < WHO_COUNT; who++)
			seconds[who] = peer_step(&b->peers[who]);
		settle();
		for (int who = 0; i > 0 && who < WHO_COUNT; who++)
			b->seconds[who][i - 1] = seconds[who];
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

/* Vectors for `params` parameters, in one mapping. */
static int vectors_open(struct bench *b, size_t params)
{
	static const size_t widths[] = {2, 2, 2, 4, 4}; /* grad, param, lo, m, v */
	const struct adam_hyper hyper = {
		.lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
	char *at[5];
	size_t offset = 0;

	for (int i = 0; i < 5; i++)
		offset += params * widths[i] + PAGE_PLACE;
	b->map_bytes = offset;
	b->map = mmap(NULL, offset, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->map == MAP_FAILED)
		return -ENOMEM;
	/* As the daemon's memory is; a system that refuses is measured without. */
	(void)madvise(b->map, offset, MADV_HUGEPAGE);
	offset = 0;
	for (int i = 0; i < 5; i++) {
		at[i] = (char *)b->map + offset;
		offset += params * widths[i] + PAGE_PLACE;
	}
	b->whole = (struct adam){
		.grad_type = DTYPE_BF16,
		.param_type = DTYPE_BF16,
		.grad = at[0],
		.param = at[1],
		.lo = (int16_t *)(void *)at[2],
		.m = (float *)(void *)at[3],
		.v = (float *)(void *)at[4],
		.scalars = adam_scalars_make(&hyper, 100, 1),
	};
	return 0;
}

static int slices_run(struct bench *b, size_t params)
{
	unsigned started = 1;
	int rc = -pthread_barrier_init(&b->barrier, NULL, b->threads);

	for (unsigned i = 0; i < b->threads; i++) {
		b->slices[i].bench = b;
		b->slices[i].index = i;
		b->slices[i].adam = slice_of(&b->whole, params, i, b->threads);
	}
	/* A thread that cannot start would leave the others at the barrier: give up at once. */
	for (; !rc && started < b->threads; started++)
		rc = -pthread_create(&b->slices[started].id, NULL, slice_main, &b->slices[started]);
	if (rc)
		return rc;
	slice_main(&b->slices[0]);
	for (unsigned i = 1; i < b->threads; i++)
		pthread_join(b->slices[i].id, NULL);
	return -pthread_barrier_destroy(&b->barrier);
}

static int row_run(struct bench *b, size_t params, struct row *ret)
{
	int rc = vectors_open(b, params);

	if (rc < 0)
		return rc;
	b->repeats = params >= LARGE ? REPEATS_LARGE : REPEATS;
	for (int who = DEEPSPEED; who < WHO_COUNT; who++)
		peer_size(&b->peers[who], params);
	rc = slices_run(b, params);
	for (int who = DEEPSPEED; who < WHO_COUNT; who++)
		peer_size(&b->peers[who], 0);
	munmap(b->map, b->map_bytes);
	*ret = (struct row){.params = params, .threads = b->threads};
	for (int who = 0; who < WHO_COUNT; who++)
		ret->seconds[who] = median(b->seconds[who], b->repeats);
	return rc;
}

/* Our step's speed over `who`'s; 0 when it was not measured. */
static double ratio(const struct row *r, enum who who)
{
	return r->seconds[who] / r->seconds[OURS];
}

static void row_print(const struct row *r)
{
	printf("%9zu Mi %8u", r->params / MIBI, r->threads);
	for (int who = 0; who < WHO_COUNT; who++)
		if (r->seconds[who] > 0)
			printf(" %10.3f", (double)r->params / r->seconds[who] * 1e-9);
		else
			printf(" %10s", "-");
	printf(" %10.1f", (double)r->params * BYTES_A_PARAM / r->seconds[OURS] * 1e-9);
	for (int who = LIMIT; who < WHO_COUNT; who++)
		if (r->seconds[who] > 0)
			printf(" %9.3f", ratio(r, who));
		else
			printf(" %9s", "-");
	printf("\n");
	(void)fflush(stdout);
}

/* The table's figures, one a `who` but OURS; 0 where nothing was measured. */
struct result {
	double ratio[WHO_COUNT], limit_least, small, scaling;
};

static double all_threads_gain(const struct row *rows, size_t count, enum who who)
{
	const struct row *last = &rows[count - 1], *one = last;

	while (one > rows && one[-1].params == last->params)
		one--;
	return one->seconds[who] / last->seconds[who];
}

static struct result result_of(const struct row *rows, size_t count, size_t beyond)
{
	static double ratios[ROWS_MAX];
	struct result r = {.limit_least = 0};
	const struct row *first = rows, *last = &rows[count - 1];

	for (int who = LIMIT; who < WHO_COUNT; who++) {
		size_t n = 0;

		for (size_t i = 0; i < count; i++) {
			/* If everything fits the cache, the last row is the best there is. */
			if (rows[i].params * BYTES_A_PARAM < beyond && i + 1 < count)
				continue;
			if (rows[i].seconds[who] > 0)
				ratios[n++] = ratio(&rows[i], who);
		}
		r.ratio[who] = n > 0 ? median(ratios, n) : 0;
		if (who == LIMIT)
			r.limit_least = ratios[0]; /* median has sorted them */
	}
	while (first->threads != last->threads)
		first++;
	r.small = ((double)first->params / first->seconds[OURS]) /
		  ((double)last->params / last->seconds[OURS]);
	r.scaling = all_threads_gain(rows, count, OURS) / all_threads_gain(rows, count, LIMIT);
	return r;
}

/* null where nothing was measured. */
static void member(struct json *j, const char *name, double value)
{
	json_double(j, name, value > 0 ? value : NAN);
}

static int report_write(const char *path, const struct row *rows, size_t count,
			const struct result *r, struct err *err)
{
	struct json j;
	int rc;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_string(&j, "instruction_set", cpu_isa_name(cpu_isa()));
	json_double(&j, "params_per_s",
		    (double)rows[count - 1].params / rows[count - 1].seconds[OURS]);
	member(&j, "ratio_limit", r->ratio[LIMIT]);
	member(&j, "ratio_limit_least", r->limit_least);
	member(&j, "ratio_deepspeed", r->ratio[DEEPSPEED]);
	member(&j, "ratio_torch", r->ratio[TORCH]);
	member(&j, "ratio_small", r->small);
	member(&j, "ratio_scaling", r->scaling);
	json_array_begin(&j, "rows");
	for (size_t i = 0; i < count; i++) {
		json_object_begin(&j, NULL);
		json_u64(&j, "params", rows[i].params);
		json_u64(&j, "threads", rows[i].threads);
		for (int who = 0; who < WHO_COUNT; who++) {
			char name[64];

			(void)snprintf(name, sizeof(name), "%s_params_per_s", who_names[who]);
			member(&j, name,
			       rows[i].seconds[who] > 0
				       ? (double)rows[i].params / rows[i].seconds[who]
				       : 0);
		}
		json_object_end(&j);
	}
	json_array_end(&j);
	json_object_end(&j);
	rc = json_text(&j) ? file_replace(path, json_text(&j), strlen(json_text(&j)), err)
			   : err_sys(err, -ENOMEM, "%s", path);
	json_done(&j);
	return rc;
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

/* The largest size, of 1, 4, 16, ... Mi, whose vectors take at most six tenths of what is free. */
static size_t most_params(void)
{
	size_t pages = (size_t)sysconf(_SC_AVPHYS_PAGES), page = (size_t)sysconf(_SC_PAGESIZE);
	size_t most = MIBI;

	while (most < 1024 * MIBI && most * 4 * VECTOR_BYTES <= pages * page / 10 * 6)
		most *= 4;
	return most;
}

static int table_run(struct bench *b, size_t most, char **peer_command, struct row *rows,
		     size_t *count)
{
	unsigned all = cores();
	int rc = 0;

	for (unsigned t = 1; !rc && t; t = threads_next(t, all)) {
		b->threads = t;
		for (int who = DEEPSPEED; peer_command && who < WHO_COUNT; who++)
			peer_open(&b->peers[who], peer_command[0], peer_command[1], who_names[who],
				  t);
		for (size_t n = most < MIBI ? most : MIBI; !rc && n <= most; n *= 4) {
			if (*count == ROWS_MAX)
				break;
			rc = row_run(b, n, &rows[*count]);
			if (!rc)
				row_print(&rows[(*count)++]);
		}
		for (int who = DEEPSPEED; who < WHO_COUNT; who++)
			peer_close(&b->peers[who]);
	}
	return rc;
}

static int by_size(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->params != y->params)
		return x->params < y->params ? -1 : 1;
	return (x->threads > y->threads) - (x->threads < y->threads);
}

int main(int argc, char **argv)
{
	static struct bench b;
	static struct row rows[ROWS_MAX];
	size_t most = argc > 2 ? strtoul(argv[2], NULL, 10) * MIBI : 0, count = 0;
	long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
	struct result r;
	struct err err;
	int rc;

	if ((argc != 3 && argc != 5) || most > 4096 * MIBI) {
		fprintf(stderr, "usage: bench_adam FILE MILLIONS [PYTHON SCRIPT]\n");
		return 64;
	}
	printf("Adam, bf16 gradient and split master, %s; G parameters a second, medians of %u\n",
	       cpu_isa_name(cpu_isa()), REPEATS);
	if (argc != 5)
		printf("peers: not installed\n");
	printf("%12s %8s %10s %10s %10s %10s %10s %9s %9s %9s\n", "parameters", "threads", "step",
	       "limit", "deepspeed", "torch", "step GB/s", "/limit", "/deepsp.", "/torch");
	rc = table_run(&b, most ? most : most_params(), argc == 5 ? argv + 3 : NULL, rows, &count);
	if (rc < 0) {
		fprintf(stderr, "bench_adam: %s\n", err_str(rc));
		return 1;
	}
	qsort(rows, count, sizeof(rows[0]), by_size);
	r = result_of(rows, count, cache > 0 ? 4 * (size_t)cache : 256 * MIBI);
	printf("beyond the cache: step over limit %.3f, at least %.3f; over deepspeed %.2f, torch "
	       "%.2f\n",
	       r.ratio[LIMIT], r.limit_least, r.ratio[DEEPSPEED], r.ratio[TORCH]);
	printf("small over large %.2f; all threads' gain over the limit's %.3f\n", r.small,
	       r.scaling);
	if (report_write(argv[1], rows, count, &r, &err) < 0) {
		fprintf(stderr, "bench_adam: %s\n", err.text);
		return 1;
	}
	return 0;
}
