/*
 * The optimizer step of a model whose state is on disk, beside its two parts: the transfers alone
 * and Adam alone. bench/swap.sh runs it, once for each row of its table.
 *
 *	bench_swap DIR bf16|fp32 PARAMS EXTENT_BYTES BUFFERS DEPTH THREADS ROUNDS [READ_BYTES]
 *
 * A session of the daemon in this process, over its rings: units of a model, parameters and state
 * in swap, gradients kept in memory, cut into chunks as the planner cuts them. A step is one STEP
 * of every unit, submitted in order, until the last has completed.
 *
 *	step	that
 *	I/O	the same session, file, extents, order and buffers, but Adam returns at once
 *		(the linker's --wrap), so that every chunk is read, and written as it was
 *	Adam	the same chunks on the same threads, in memory, more of it than any cache holds
 *
 * A round is I/O, step, I/O, Adam; its ratio is the step over the larger part, I/O being the mean
 * of the two beside the step, since the speed of a disk drifts. Medians over the rounds, and what
 * CPU time each took, are printed as one JSON object. Parts compete for cores, too: cpu_bound_s is
 * the CPU time of both parts over the number of cores.
 *
 * With READ_BYTES it is the traffic of training steps that is measured, and nothing beside it, for
 * bench/train_overlap.sh: STEP of every unit and, before that, as many FETCHes as make up those
 * bytes read in a step, one step behind the other without waiting. Prints seconds a step, the
 * median over the rounds, of STEPS steps each.
 */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/ring.h"
#include "common/shm.h"
#include "daemon/session.h"
#include "kernels/optimizer.h"

#define UNITS        16u
#define SLOTS        64u
#define ROUNDS_MAX   99u
#define STEPS        3u                    /* of a round of traffic alone */
#define MEMORY_BYTES (UINT64_C(256) << 20) /* of Adam alone: beyond the caches */

struct shape {
	enum dtype type;
	uint64_t unit_elems, chunk_elems, chunks; /* chunks of a unit */
	uint32_t buffers, depth, threads;
};

struct bench {
	struct shape shape;
	struct pool *pool;
	struct session *session;
	struct protocol_opened opened;
	int ended_fd, sockets[2], fds[3];
	uint8_t *arena;
	struct ring submit, complete;
};

struct figure {
	double seconds, cpu_seconds;
};

/* Whether steps compute. Written between steps, read by the pool's threads. */
static _Atomic bool arithmetic = true;
static _Atomic uint64_t skipped;

void __real_optimizer_host_step(const struct optimizer_step *a);
void __wrap_optimizer_host_step(const struct optimizer_step *a);

void __wrap_optimizer_host_step(const struct optimizer_step *a)
{
	if (atomic_load_explicit(&arithmetic, memory_order_relaxed))
		__real_optimizer_host_step(a);
	else
		atomic_fetch_add_explicit(&skipped, a->count, memory_order_relaxed);
}

static _Noreturn void die(const char *what, const char *why)
{
	fprintf(stderr, "bench_swap: %s: %s\n", what, why);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double cpu_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The session. */

static uint64_t state_elem_bytes(enum dtype type)
{
	return type == DTYPE_BF16 ? 10 : 8;
}

/* Where FETCHes of a unit put its parameters, each unit's behind the other's. */
static uint64_t fetched_bytes(const struct shape *shape)
{
	return shape->unit_elems * dtype_bytes(shape->type);
}

static struct session_plan *plan_of(const struct shape *shape, const char *dir)
{
	struct {
		struct protocol_open open;
		struct protocol_unit units[UNITS];
	} packet;
	struct protocol_open *o = &packet.open;
	struct session_plan *plan;
	struct err err;

	memset(&packet, 0, sizeof(packet));
	/* A unit's gradient, a chunk's master weights and moments, or all units' parameters. */
	o->data_bytes = 12 * (shape->unit_elems > shape->chunk_elems ? shape->unit_elems
								     : shape->chunk_elems);
	if (o->data_bytes < UNITS * fetched_bytes(shape))
		o->data_bytes = UNITS * fetched_bytes(shape);
	o->chunk_elems = shape->chunk_elems;
	o->chunk_buffers = shape->buffers;
	o->ring_slots = SLOTS;
	o->param_type = o->grad_type = (uint8_t)shape->type;
	o->queue_depth = shape->depth;
	o->unit_count = UNITS;
	o->path_count = 1;
	o->beta1 = 0.9;
	o->beta2 = 0.95;
	o->eps = 1e-8;
	o->weight_decay = 0.1;
	if (!realpath(dir, packet.open.paths[0]))
		die(dir, strerror(errno));
	for (unsigned u = 0; u < UNITS; u++)
		packet.units[u] = (struct protocol_unit){.elems = shape->unit_elems,
							 .decay_elems = shape->unit_elems,
							 .param_home = PROTOCOL_HOME_SWAP,
							 .state_home = PROTOCOL_HOME_SWAP,
							 .grad_home = PROTOCOL_HOME_MEMORY};
	if (session_plan_make(&packet, sizeof(packet), &plan, &err) < 0)
		die("planning the session", err.text);
	return plan;
}

static void opened_take(struct bench *b)
{
	union {
		struct protocol_error error;
		struct protocol_opened opened;
	} answer;
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(3 * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = &answer, .iov_len = sizeof(answer)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};

	if (recvmsg(b->sockets[1], &msg, MSG_CMSG_CLOEXEC) <= 0)
		die("opening the session", "no answer");
	if (answer.error.head.type == PROTOCOL_ERROR)
		die("opening the session", answer.error.text);
	memcpy(b->fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(b->fds));
	b->opened = answer.opened;
}

static void rings_attach(struct bench *b)
{
	const struct protocol_opened *o = &b->opened;
	struct err err;
	void *base;

	if (shm_map(b->fds[0], o->arena_bytes, &base, &err) < 0)
		die("the arena", err.text);
	b->arena = base;
	if (ring_attach(&b->submit, b->arena + o->submit_offset,
			o->complete_offset - o->submit_offset, sizeof(struct protocol_submission),
			SLOTS, b->fds[1], &err) < 0 ||
	    ring_attach(&b->complete, b->arena + o->complete_offset,
			o->data_offset - o->complete_offset, sizeof(struct protocol_completion),
			SLOTS, b->fds[2], &err) < 0)
		die("the rings", err.text);
}

static void open_session(struct bench *b, const char *dir)
{
	struct session_config config = {.name = "bench_swap"};
	struct err err;

	b->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->ended_fd < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, b->sockets) < 0)
		die("opening the session", strerror(errno));
	if (pool_open(b->shape.threads, &b->pool, &err) < 0)
		die("optimizer threads", err.text);
	config.plan = plan_of(&b->shape, dir);
	config.pool = b->pool;
	config.socket_fd = b->sockets[0];
	config.ended_fd = b->ended_fd;
	if (session_start(&config, &b->session, &err) < 0)
		die("starting the session", err.text);
	opened_take(b);
	rings_attach(b);
}

static void close_session(struct bench *b)
{
	shm_unmap(b->arena, b->opened.arena_bytes);
	session_free(b->session);
	pool_free(b->pool);
	for (int i = 0; i < 3; i++)
		close(b->fds[i]);
	close(b->sockets[0]);
	close(b->sockets[1]);
	close(b->ended_fd);
}

/* Operations. */

static void push(struct bench *b, struct protocol_submission sub)
{
	if (ring_push(&b->submit, &sub) < 0)
		die("submitting", "the ring is full or corrupt");
}

/* Waits until `count` operations have completed. */
static void await(struct bench *b, unsigned count)
{
	struct pollfd p = {.fd = b->fds[2], .events = POLLIN};
	const struct protocol_arena *head = (const void *)b->arena;
	struct protocol_completion done;

	while (count > 0) {
		if (ring_pop(&b->complete, &done) == 0) {
			if (done.code < 0)
				die("the session failed", head->text);
			count--;
		} else if (ring_sleep_begin(&b->complete)) {
			(void)poll(&p, 1, -1); /* an early return is looked at like any other */
			ring_sleep_end(&b->complete);
		}
	}
}

/* Nothing denormal, nothing that overflows. */
static void fill(float *at, uint64_t count, float scale)
{
	uint32_t x = 1;

	for (uint64_t i = 0; i < count; i++) {
		x = x * 1664525u + 1013904223u;
		at[i] = scale * (1.0f + (float)(x >> 8) * 0x1p-24f);
	}
}

static void import_all(struct bench *b)
{
	uint64_t offset = b->opened.data_offset, elems = b->shape.chunk_elems;
	float *at = (float *)(void *)(b->arena + offset);

	fill(at, 2 * elems, 0.01f);
	fill(at + 2 * elems, elems, 0.0001f);
	for (uint32_t u = 0; u < UNITS; u++)
		for (uint32_t c = 0; c < b->shape.chunks; c++) {
			push(b, (struct protocol_submission){.op = PROTOCOL_OP_IMPORT,
							     .unit = u,
							     .chunk = c,
							     .offset = offset});
			await(b, 1);
		}
}

static void gradients_all(struct bench *b)
{
	uint64_t offset = b->opened.data_offset;
	uint16_t *bf16 = (uint16_t *)(void *)(b->arena + offset);
	float *fp32 = (float *)(void *)bf16;

	if (b->shape.type == DTYPE_BF16)
		for (uint64_t i = 0; i < b->shape.unit_elems; i++)
			bf16[i] = (uint16_t)(0x3c00 + i % 128); /* 0.0078 to 0.0155 */
	else
		fill(fp32, b->shape.unit_elems, 0.01f);
	for (uint32_t u = 0; u < UNITS; u++)
		push(b,
		     (struct protocol_submission){.op = PROTOCOL_OP_GRAD,
						  .unit = u,
						  .flags = PROTOCOL_FLAG_FIRST | PROTOCOL_FLAG_LAST,
						  .offset = offset});
	await(b, UNITS);
}

static struct figure step(struct bench *b, bool compute)
{
	static uint64_t number;
	struct figure began = {now(), cpu_now()};

	atomic_store_explicit(&arithmetic, compute, memory_order_relaxed);
	number++;
	for (uint32_t u = 0; u < UNITS; u++)
		push(b, (struct protocol_submission){.op = PROTOCOL_OP_STEP,
						     .unit = u,
						     .step = number,
						     .lr = 1e-4,
						     .grad_scale = 1.0});
	await(b, UNITS);
	return (struct figure){now() - began.seconds, cpu_now() - began.cpu_seconds};
}

/* Adam alone. */

struct adam_job {
	struct pool_job job;
	struct adam adam;
};

struct memory {
	uint8_t *base;
	uint64_t chunk_bytes, count;
	struct pool_client client;
	struct adam_job *jobs; /* one for each chunk of the model */
	uint64_t job_count;
};

static void adam_run(struct pool_job *job)
{
	adam_host_step(&((struct adam_job *)(void *)job)->adam);
}

static void adam_of(const struct shape *shape, uint8_t *at, uint64_t count, struct adam *ret)
{
	const struct adam_hyper hyper = {1e-4, 0.9, 0.95, 1e-8, 0.1};
	uint64_t n = shape->chunk_elems;

	*ret = (struct adam){.count = count,
			     .decay_count = count,
			     .m = (float *)(void *)at,
			     .v = (float *)(void *)at + n,
			     .param = at + 8 * n,
			     .param_type = shape->type,
			     .grad_type = shape->type,
			     .scalars = adam_scalars_make(&hyper, 10, 1.0)};
	if (shape->type == DTYPE_BF16) {
		ret->lo = (int16_t *)(void *)(at + 10 * n);
		ret->grad = at + 12 * n;
	} else {
		ret->grad = at + 12 * n;
	}
}

static void memory_open(struct memory *m, struct bench *b)
{
	const struct shape *s = &b->shape;
	struct err err;

	m->chunk_bytes = s->chunk_elems * 16;
	m->count = MEMORY_BYTES / m->chunk_bytes + 1;
	m->job_count = UNITS * s->chunks;
	m->jobs = calloc(m->job_count, sizeof(*m->jobs));
	m->base = mmap(NULL, m->count * m->chunk_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (!m->jobs || m->base == MAP_FAILED)
		die("memory for Adam alone", strerror(errno));
	if (pool_client_init(&m->client, b->pool, &err) < 0)
		die("optimizer threads", err.text);
	for (uint64_t i = 0; i < m->count; i++)
		fill((float *)(void *)(m->base + i * m->chunk_bytes), m->chunk_bytes / 4, 0.01f);
	for (uint64_t i = 0; i < m->job_count; i++) {
		uint64_t first = i % s->chunks * s->chunk_elems, rest = s->unit_elems - first;

		m->jobs[i].job.run = adam_run;
		adam_of(s, m->base + i % m->count * m->chunk_bytes,
			rest < s->chunk_elems ? rest : s->chunk_elems, &m->jobs[i].adam);
	}
}

static void memory_close(struct memory *m)
{
	pool_client_done(&m->client);
	munmap(m->base, m->count * m->chunk_bytes);
	free(m->jobs);
}

static struct figure adam_alone(struct memory *m)
{
	struct pollfd p = {.fd = m->client.event_fd, .events = POLLIN};
	struct figure began = {now(), cpu_now()};
	uint64_t left = m->job_count;

	for (uint64_t i = 0; i < m->job_count; i++)
		pool_submit(&m->client, &m->jobs[i].job);
	while (left > 0) {
		(void)poll(&p, 1, -1);
		for (struct pool_job *job = pool_reap(&m->client); job; job = job->next)
			left--;
	}
	return (struct figure){now() - began.seconds, cpu_now() - began.cpu_seconds};
}

/* The traffic of training steps alone. */

static void push_when_room(struct bench *b, unsigned *in_flight, struct protocol_submission sub)
{
	if (*in_flight == SLOTS) {
		await(b, 1);
		--*in_flight;
	}
	push(b, sub);
	++*in_flight;
}

static double traffic(struct bench *b, uint64_t fetches)
{
	static uint64_t number;
	unsigned in_flight = 0;
	double began = now();

	for (unsigned k = 0; k < STEPS; k++) {
		number++;
		for (uint64_t i = 0; i < fetches; i++) {
			uint64_t back = 2 * UNITS - 1 - i % (2 * UNITS);
			uint32_t u = (uint32_t)(back < UNITS ? back : i % UNITS);

			push_when_room(b, &in_flight,
				       (struct protocol_submission){
					       .op = PROTOCOL_OP_FETCH,
					       .unit = u,
					       .offset = b->opened.data_offset +
							 u * fetched_bytes(&b->shape),
				       });
		}
		for (uint32_t u = 0; u < UNITS; u++)
			push_when_room(b, &in_flight,
				       (struct protocol_submission){.op = PROTOCOL_OP_STEP,
								    .unit = u,
								    .order = u + 1,
								    .step = number,
								    .lr = 1e-4,
								    .grad_scale = 1.0});
	}
	await(b, in_flight);
	return (now() - began) / STEPS;
}

/* The rounds. */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *at, unsigned count)
{
	qsort(at, count, sizeof(*at), by_value);
	return count % 2 ? at[count / 2] : (at[count / 2 - 1] + at[count / 2]) / 2;
}

static void measure(struct bench *b, struct memory *m, unsigned rounds)
{
	double io[ROUNDS_MAX], adam[ROUNDS_MAX], steps[ROUNDS_MAX], ratio[ROUNDS_MAX];
	double cpu[ROUNDS_MAX], cpu_step[ROUNDS_MAX];
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	(void)step(b, true);
	(void)adam_alone(m);
	for (unsigned r = 0; r < rounds; r++) {
		struct figure before = step(b, false), whole = step(b, true);
		struct figure after = step(b, false), alone = adam_alone(m);

		io[r] = (before.seconds + after.seconds) / 2;
		adam[r] = alone.seconds;
		steps[r] = whole.seconds;
		ratio[r] = whole.seconds / (io[r] > adam[r] ? io[r] : adam[r]);
		cpu[r] = ((before.cpu_seconds + after.cpu_seconds) / 2 + alone.cpu_seconds) /
			 (double)cores;
		cpu_step[r] = whole.cpu_seconds;
	}
	if (atomic_load_explicit(&skipped, memory_order_relaxed) !=
	    2 * rounds * UNITS * b->shape.unit_elems)
		die("I/O alone", "a step went past optimizer_host_step");
	printf("{\"precision\":\"%s\",\"params\":%llu,\"extent_bytes\":%llu,\"buffers\":%u,"
	       "\"threads\":%u,\"step_s\":%.4f,\"io_s\":%.4f,\"adam_s\":%.4f,"
	       "\"cpu_bound_s\":%.4f,\"step_cpu_s\":%.4f,\"ratio\":%.4f}\n",
	       b->shape.type == DTYPE_BF16 ? "bf16" : "fp32",
	       (unsigned long long)(UNITS * b->shape.unit_elems),
	       (unsigned long long)(b->shape.chunk_elems * state_elem_bytes(b->shape.type)),
	       b->shape.buffers, b->shape.threads, median(steps, rounds), median(io, rounds),
	       median(adam, rounds), median(cpu, rounds), median(cpu_step, rounds),
	       median(ratio, rounds));
}

static void measure_traffic(struct bench *b, unsigned rounds, uint64_t read_bytes)
{
	uint64_t param_bytes = dtype_bytes(b->shape.type) * b->shape.unit_elems;
	uint64_t stepped = UNITS * b->shape.unit_elems *
			   (state_elem_bytes(b->shape.type) + dtype_bytes(b->shape.type));
	uint64_t fetched = read_bytes > stepped ? read_bytes - stepped : 0;
	double seconds[ROUNDS_MAX];

	for (unsigned r = 0; r < rounds; r++)
		seconds[r] = traffic(b, (fetched + param_bytes / 2) / param_bytes);
	printf("%.4f\n", median(seconds, rounds));
}

static uint64_t number(const char *text, uint64_t least, uint64_t most)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 10);

	if (*end || value < least || value > most)
		die(text, "not a number in its range");
	return value;
}

/* As plan.c cuts a unit into chunks. */
static void shape_parse(struct shape *s, char **argv)
{
	const uint64_t align = PROTOCOL_ALIGN_ELEMS;
	uint64_t extent = number(argv[4], PROTOCOL_ALIGN_BYTES, UINT64_C(64) << 20);

	if (strcmp(argv[2], "bf16") != 0 && strcmp(argv[2], "fp32") != 0)
		die(argv[2], "bf16 or fp32?");
	s->type = strcmp(argv[2], "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
	s->unit_elems = number(argv[3], UNITS * align, UINT64_C(1) << 40) / UNITS / align * align;
	s->chunk_elems = extent / state_elem_bytes(s->type) / align * align;
	if (s->chunk_elems == 0)
		s->chunk_elems = align;
	if (s->chunk_elems > s->unit_elems)
		s->chunk_elems = s->unit_elems;
	s->chunks = (s->unit_elems + s->chunk_elems - 1) / s->chunk_elems;
	s->buffers = (uint32_t)number(argv[5], 3, 4096);
	s->depth = (uint32_t)number(argv[6], 1, NVME_QUEUE_DEPTH_MAX);
	s->threads = (uint32_t)number(argv[7], 1, POOL_THREADS_MAX);
}

int main(int argc, char **argv)
{
	struct bench b = {.session = NULL};
	struct memory m = {.base = NULL};
	unsigned rounds;

	if (argc != 9 && argc != 10) {
		fprintf(stderr, "usage: bench_swap DIR bf16|fp32 PARAMS EXTENT_BYTES BUFFERS DEPTH "
				"THREADS ROUNDS [READ_BYTES]\n");
		return 64;
	}
	log_init("bench_swap", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	shape_parse(&b.shape, argv);
	open_session(&b, argv[1]);
	import_all(&b);
	gradients_all(&b);
	rounds = (unsigned)number(argv[8], 1, ROUNDS_MAX);
	if (argc == 10) {
		measure_traffic(&b, rounds, number(argv[9], 0, UINT64_C(1) << 50));
	} else {
		memory_open(&m, &b);
		measure(&b, &m, rounds);
		memory_close(&m);
	}
	close_session(&b);
	return 0;
}
