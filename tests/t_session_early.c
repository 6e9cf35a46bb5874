/*
 * Goal: what a session reads ahead of a step, what a step hands over to the FETCH behind it, and
 * the order in which buffers are given away change when things happen and nothing else. PREPARE
 * lets reads begin before the STEP is there; whatever comes instead of the STEP, in whatever order,
 * the bits are those of a session that was never asked to prepare; a FETCH has what the STEP made;
 * no operation waits for ever for what is held; and a read ahead that fails is told like any other.
 *
 * Method: a session in this process, with units in swap, one with its gradient in swap, one in
 * memory. A script of operations, made by hand or from a seed, runs twice, with its PREPAREs and
 * without; then all state is exported and compared. The pool's only thread is held up where the
 * order of what is pending is to be seen. Checksums are made to fail at the k-th call.
 */
#include <check.h>
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/log.h"
#include "common/ring.h"
#include "common/shm.h"
#include "daemon/session.h"

#define CHUNK  (2u * PROTOCOL_ALIGN_ELEMS)
#define UNITS  4u
#define CHUNKS 6u
#define SLOTS  16u
#define REGION_BYTES                                                                               \
	(24u * CHUNK) /* a unit's gradient or parameters in fp32; 12 bytes an element */
#define MEMORY_UNIT  3u
#define SPILLED_UNIT 2u
#define SCRIPT_MAX   400u
#define WAIT_MS      90000

/* The k-th checksum fails while it is not 0. */
static _Atomic int fail_at;

uint32_t __real_crc32c(uint32_t crc, const void *data, size_t bytes);
uint32_t __wrap_crc32c(uint32_t crc, const void *data, size_t bytes);

uint32_t __wrap_crc32c(uint32_t crc, const void *data, size_t bytes)
{
	uint32_t sum = __real_crc32c(crc, data, bytes);

	if (atomic_load_explicit(&fail_at, memory_order_relaxed) > 0 &&
	    atomic_fetch_sub_explicit(&fail_at, 1, memory_order_relaxed) == 1)
		return ~sum;
	return sum;
}

struct shape {
	uint32_t buffers;
	bool accumulate;
};

struct bed {
	struct shape shape;
	struct pool *pool;
	struct session *session;
	struct protocol_opened opened;
	int ended_fd, sockets[2], fds[3];
	uint8_t *arena;
	struct ring submit, complete;
	bool used[SLOTS]; /* regions of the arena, by id of the operation */
	unsigned in_flight;
	int code; /* of the first operation that failed */
	uint32_t last_done;
};

/* One line of a script. */
struct line {
	uint32_t op, unit, chunk, order, flags, seed;
	uint64_t step;
};

struct script {
	struct line lines[SCRIPT_MAX];
	unsigned count;
};

static uint64_t random_next(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* The session. */

static struct session_plan *plan_make(const struct shape *shape)
{
	struct {
		struct protocol_open open;
		struct protocol_unit units[UNITS];
	} packet;
	struct protocol_open *o = &packet.open;
	const char *tmp = getenv("TMPDIR");
	struct session_plan *plan;
	struct err err;

	memset(&packet, 0, sizeof(packet));
	o->data_bytes = SLOTS * REGION_BYTES + 2 * CHUNKS * CHUNK;
	o->chunk_elems = CHUNK;
	o->chunk_buffers = shape->buffers;
	o->ring_slots = SLOTS;
	o->param_type = DTYPE_BF16;
	o->grad_type = shape->accumulate ? DTYPE_F32 : DTYPE_BF16;
	o->accumulate = shape->accumulate;
	o->queue_depth = 4;
	o->unit_count = UNITS;
	o->path_count = 1;
	o->beta1 = 0.9;
	o->beta2 = 0.95;
	o->eps = 1e-8;
	ck_assert_ptr_nonnull(realpath(tmp ? tmp : "/tmp", o->paths[0]));
	for (unsigned u = 0; u < UNITS; u++)
		packet.units[u] = (struct protocol_unit){
			/* The last chunk is shorter than the others. */
			.elems = CHUNKS * CHUNK - PROTOCOL_ALIGN_ELEMS,
			.norm_elems = CHUNK,
			.param_home = PROTOCOL_HOME_SWAP,
			.state_home = PROTOCOL_HOME_SWAP,
			.grad_home = u == SPILLED_UNIT ? PROTOCOL_HOME_SWAP : PROTOCOL_HOME_MEMORY,
		};
	packet.units[MEMORY_UNIT].param_home = PROTOCOL_HOME_MEMORY;
	packet.units[MEMORY_UNIT].state_home = PROTOCOL_HOME_MEMORY;
	packet.units[MEMORY_UNIT].param_offset = protocol_data_offset(SLOTS) + SLOTS * REGION_BYTES;
	ck_assert_msg(session_plan_make(&packet, sizeof(packet), &plan, &err) == 0, "%s", err.text);
	return plan;
}

static void opened_take(struct bed *b)
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

	ck_assert_int_gt(recvmsg(b->sockets[1], &msg, MSG_CMSG_CLOEXEC), 0);
	ck_assert_uint_eq(answer.error.head.type, PROTOCOL_OPENED);
	memcpy(b->fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(b->fds));
	b->opened = answer.opened;
}

static void bed_open(struct bed *b, const struct shape *shape)
{
	struct session_config config = {.name = "test"};
	const struct protocol_opened *o = &b->opened;
	struct err err;
	void *base;

	*b = (struct bed){.shape = *shape};
	b->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_ge(b->ended_fd, 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, b->sockets), 0);
	ck_assert_int_eq(pool_open(1, &b->pool, &err), 0);
	config.plan = plan_make(shape);
	config.pool = b->pool;
	config.socket_fd = b->sockets[0];
	config.ended_fd = b->ended_fd;
	ck_assert_int_eq(session_start(&config, &b->session, &err), 0);
	opened_take(b);
	ck_assert_int_eq(shm_map(b->fds[0], o->arena_bytes, &base, &err), 0);
	b->arena = base;
	ck_assert_int_eq(ring_attach(&b->submit, b->arena + o->submit_offset,
				     o->complete_offset - o->submit_offset,
				     sizeof(struct protocol_submission), SLOTS, b->fds[1], &err),
			 0);
	ck_assert_int_eq(ring_attach(&b->complete, b->arena + o->complete_offset,
				     o->data_offset - o->complete_offset,
				     sizeof(struct protocol_completion), SLOTS, b->fds[2], &err),
			 0);
}

static void bed_close(struct bed *b)
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

/* Waits for one completion. An operation that never ends fails the test. */
static void await_one(struct bed *b)
{
	struct pollfd p = {.fd = b->fds[2], .events = POLLIN};
	struct protocol_completion done;

	while (ring_pop(&b->complete, &done) != 0) {
		if (!ring_sleep_begin(&b->complete))
			continue;
		ck_assert_msg(poll(&p, 1, WAIT_MS) != 0, "no operation ends any more");
		ring_sleep_end(&b->complete);
	}
	ck_assert_uint_lt(done.id, SLOTS);
	ck_assert(b->used[done.id]);
	b->used[done.id] = false;
	b->in_flight--;
	b->last_done = done.id;
	if (done.code < 0 && b->code == 0)
		b->code = done.code;
}

static void settle(struct bed *b)
{
	while (b->in_flight > 0)
		await_one(b);
}

static uint8_t *region(const struct bed *b, uint32_t id, uint64_t *ret_offset)
{
	*ret_offset = b->opened.data_offset + id * (uint64_t)REGION_BYTES;
	return b->arena + *ret_offset;
}

static void fill(uint8_t *at, const struct line *line, bool fp32)
{
	uint64_t state = line->seed;

	if (fp32)
		for (size_t i = 0; i < REGION_BYTES / 4; i++)
			((float *)(void *)at)[i] =
				(float)(random_next(&state) >> 40) * 0x1p-24f + 0.001f;
	else
		for (size_t i = 0; i < REGION_BYTES / 2; i++)
			((uint16_t *)(void *)at)[i] =
				(uint16_t)(0x3c00 + random_next(&state) % 256);
}

/* Submits a line; waits for others to end while there is no place for it. Returns its id. */
static uint32_t submit(struct bed *b, const struct line *line)
{
	struct protocol_submission sub = {.op = line->op,
					  .flags = line->flags,
					  .unit = line->unit,
					  .chunk = line->chunk,
					  .order = line->order,
					  .step = line->step,
					  .lr = 1e-3,
					  .grad_scale = 1.0};
	uint32_t id = 0;
	uint8_t *at;

	if (b->in_flight == SLOTS)
		await_one(b);
	while (b->used[id])
		id++;
	at = region(b, id, &sub.offset);
	if (line->op == PROTOCOL_OP_IMPORT)
		fill(at, line, true);
	if (line->op == PROTOCOL_OP_GRAD)
		fill(at, line, b->shape.accumulate);
	sub.id = id;
	b->used[id] = true;
	b->in_flight++;
	ck_assert_int_eq(ring_push(&b->submit, &sub), 0);
	return id;
}

static struct session_figures figures_of(const struct bed *b)
{
	struct session_figures figures;

	session_figures(b->session, &figures);
	return figures;
}

/* Bytes of parameters and state of a whole chunk. */
#define CHUNK_BYTES (CHUNK * 12u)

/* Waits until so many bytes have been read. Returns false when the session has failed. */
static bool await_read(const struct bed *b, uint64_t bytes)
{
	for (int i = 0; i < WAIT_MS; i++) {
		if (figures_of(b).swap_read_bytes >= bytes)
			return true;
		if (figures_of(b).state != SESSION_RUNNING)
			return false;
		poll(NULL, 0, 1);
	}
	ck_abort_msg("%llu bytes were read, not %llu",
		     (unsigned long long)figures_of(b).swap_read_bytes, (unsigned long long)bytes);
}

/* Scripts. */

static struct line *add(struct script *s, uint32_t op, uint32_t unit)
{
	struct line *line = &s->lines[s->count];

	ck_assert_uint_lt(s->count, SCRIPT_MAX);
	*line = (struct line){.op = op, .unit = unit, .seed = s->count * 7919 + 1};
	s->count++;
	return line;
}

static void add_import(struct script *s, uint32_t unit)
{
	for (uint32_t c = 0; c < CHUNKS; c++)
		add(s, PROTOCOL_OP_IMPORT, unit)->chunk = c;
}

static void add_grad(struct script *s, uint32_t unit, uint32_t flags)
{
	add(s, PROTOCOL_OP_GRAD, unit)->flags = flags;
}

static void add_step(struct script *s, uint32_t unit, uint32_t order)
{
	struct line *line = add(s, PROTOCOL_OP_STEP, unit);

	line->step = 3;
	line->order = order;
}

static void add_start(struct script *s)
{
	for (uint32_t u = 0; u < UNITS; u++)
		add_import(s, u);
	for (uint32_t u = 0; u < UNITS; u++)
		add_grad(s, u, PROTOCOL_FLAG_FIRST | PROTOCOL_FLAG_LAST);
}

static void play(struct bed *b, const struct script *s, unsigned first, bool prepares)
{
	for (unsigned i = first; i < s->count; i++)
		if (prepares || s->lines[i].op != PROTOCOL_OP_PREPARE)
			submit(b, &s->lines[i]);
	settle(b);
}

/* All state, which the caller frees. */
static uint8_t *export_all(struct bed *b)
{
	const size_t bytes = 12u * CHUNK;
	uint8_t *all = calloc(UNITS * CHUNKS, bytes);

	ck_assert_ptr_nonnull(all);
	for (uint32_t u = 0; u < UNITS; u++)
		for (uint32_t c = 0; c < CHUNKS; c++) {
			const struct line line = {.op = PROTOCOL_OP_EXPORT, .unit = u, .chunk = c};
			uint32_t id = submit(b, &line);
			uint64_t offset;

			settle(b);
			memcpy(all + (u * CHUNKS + c) * bytes, region(b, id, &offset),
			       c + 1 < CHUNKS ? bytes : bytes / 2);
		}
	ck_assert_int_eq(b->code, 0);
	return all;
}

/* The script with its PREPAREs, and without. */
static void compare(const struct shape *shape, const struct script *s, const char *what)
{
	uint8_t *all[2];

	for (int prepares = 0; prepares < 2; prepares++) {
		struct bed b;

		bed_open(&b, shape);
		play(&b, s, 0, prepares);
		all[prepares] = export_all(&b);
		bed_close(&b);
	}
	ck_assert_msg(memcmp(all[0], all[1], UNITS * CHUNKS * 12u * CHUNK) == 0,
		      "%s, %u buffers: other bits", what, shape->buffers);
	free(all[0]);
	free(all[1]);
}

/* A step of every unit; *ret_read is all that the session has read in its life. */
static uint8_t *step_all(const struct shape *shape, bool prepares, uint64_t *ret_read)
{
	uint32_t ahead = shape->buffers - 1 < CHUNKS ? shape->buffers - 1 : CHUNKS;
	/* The last chunk is half of one. */
	uint64_t expected = ahead * CHUNK_BYTES - (ahead == CHUNKS ? CHUNK_BYTES / 2 : 0);
	static struct script s;
	unsigned started;
	uint8_t *all;
	struct bed b;

	s.count = 0;
	add_start(&s);
	started = s.count;
	bed_open(&b, shape);
	play(&b, &s, 0, false);
	if (prepares) {
		add(&s, PROTOCOL_OP_PREPARE, 0);
		play(&b, &s, started++, true);
		ck_assert(await_read(&b, expected));
	}
	for (uint32_t u = 0; u < UNITS; u++)
		add_step(&s, u, u);
	play(&b, &s, started, true);
	all = export_all(&b);
	session_stop(b.session);
	while (!session_ended(b.session))
		poll(NULL, 0, 1);
	*ret_read = figures_of(&b).swap_read_bytes;
	bed_close(&b);
	return all;
}

/* Reads happen, as many as may be, before any STEP; none of them is done twice. */
START_TEST(reads_begin_before_the_step)
{
	static const uint32_t buffers[] = {3, 4, 5, 16, 64};

	for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
		const struct shape shape = {.buffers = buffers[i]};
		uint64_t read[2];
		uint8_t *all[2] = {step_all(&shape, false, &read[0]),
				   step_all(&shape, true, &read[1])};

		ck_assert(memcmp(all[0], all[1], UNITS * CHUNKS * 12u * CHUNK) == 0);
		ck_assert_uint_eq(read[0], read[1]);
		free(all[0]);
		free(all[1]);
	}
}
END_TEST

/* The parameters of a unit as FETCH left them in `at` are those of its state, rounded to bf16. */
static void check_fetched(const uint16_t *at, const uint8_t *all, uint32_t unit)
{
	for (uint32_t c = 0; c < CHUNKS; c++) {
		const uint32_t *master =
			(const void *)(all + (unit * CHUNKS + c) * (size_t)(12u * CHUNK));
		size_t count = c + 1 < CHUNKS ? CHUNK : CHUNK / 2;

		for (size_t i = 0; i < count; i++)
			ck_assert_uint_eq(at[c * CHUNK + i], (master[i] + 0x8000u) >> 16);
	}
}

/*
 * A FETCH behind a STEP has what the STEP made, whether it came before the first chunk was stepped,
 * among them or after them.
 */
START_TEST(fetches_get_what_steps_made)
{
	static const struct shape shapes[] = {{3, false}, {5, true}, {64, false}};
	static uint8_t fetched[UNITS][REGION_BYTES];

	for (unsigned i = 0; i < 12; i++) {
		static struct script s;
		uint64_t state = i;
		uint8_t *all;
		struct bed b;

		s.count = 0;
		add_start(&s);
		for (uint32_t u = 0; u < UNITS; u++)
			add(&s, PROTOCOL_OP_PREPARE, u);
		bed_open(&b, &shapes[i % 3]);
		play(&b, &s, 0, true);
		for (uint32_t u = 0; u < UNITS; u++) {
			const struct line step = {.op = PROTOCOL_OP_STEP, .unit = u, .step = 3};
			const struct line prepare = {.op = PROTOCOL_OP_PREPARE, .unit = u};
			const struct line fetch = {.op = PROTOCOL_OP_FETCH, .unit = u};
			uint64_t offset;
			uint32_t id;

			submit(&b, &step);
			if (random_next(&state) % 2)
				submit(&b, &prepare);
			usleep((useconds_t)(random_next(&state) % 2 * 300));
			id = submit(&b, &fetch);
			settle(&b);
			memcpy(fetched[u], region(&b, id, &offset), REGION_BYTES);
		}
		all = export_all(&b);
		for (uint32_t u = 0; u < UNITS; u++)
			if (u != MEMORY_UNIT)
				check_fetched((const uint16_t *)(const void *)fetched[u], all, u);
		free(all);
		bed_close(&b);
	}
}
END_TEST

/* What may come between PREPARE and STEP, or instead of the STEP. */
START_TEST(whatever_comes_instead)
{
	static const uint32_t buffers[] = {3, 4, 32};
	static struct script s;

	for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
		for (int accumulate = 0; accumulate < 2; accumulate++) {
			const struct shape shape = {buffers[i], accumulate};

			s.count = 0;
			add_start(&s);
			/* Twice; of one in memory; in another order than they are stepped. */
			for (uint32_t u = UNITS; u-- > 0;)
				add(&s, PROTOCOL_OP_PREPARE, u);
			for (uint32_t u = 0; u < UNITS; u++)
				add(&s, PROTOCOL_OP_PREPARE, u);
			for (uint32_t u = 0; u < UNITS; u++)
				add_step(&s, u, 0);
			/* Other values before the step, and after it. */
			add(&s, PROTOCOL_OP_PREPARE, 0);
			add_import(&s, 0);
			add_step(&s, 0, 0);
			add(&s, PROTOCOL_OP_PREPARE, 0);
			add_step(&s, 0, 1);
			add_import(&s, 0);
			/* Another gradient; parameters and state asked for; a step of another. */
			add(&s, PROTOCOL_OP_PREPARE, SPILLED_UNIT);
			add_grad(&s, SPILLED_UNIT, PROTOCOL_FLAG_FIRST);
			if (accumulate)
				add_grad(&s, SPILLED_UNIT, PROTOCOL_FLAG_LAST);
			add(&s, PROTOCOL_OP_FETCH, SPILLED_UNIT);
			add(&s, PROTOCOL_OP_EXPORT, SPILLED_UNIT)->chunk = 2;
			add_step(&s, 1, 0);
			add_step(&s, SPILLED_UNIT, 0);
			/* And no step at all. */
			add(&s, PROTOCOL_OP_PREPARE, 1);
			compare(&shape, &s, "by hand");
		}
	}
}
END_TEST

START_TEST(any_sequence)
{
	static struct script s;
	uint64_t seed = (uint64_t)_i, state = seed;
	const struct shape shape = {.buffers = 3 + (uint32_t)(random_next(&state) % 12),
				    .accumulate = random_next(&state) % 2};
	char what[64];

	s.count = 0;
	add_start(&s);
	while (s.count < SCRIPT_MAX - 80) {
		uint32_t u = (uint32_t)(random_next(&state) % UNITS);
		uint32_t chunk = (uint32_t)(random_next(&state) % CHUNKS);

		switch (random_next(&state) % 12) {
		case 0:
			add(&s, PROTOCOL_OP_IMPORT, u)->chunk = chunk;
			break;
		case 1:
			add(&s, PROTOCOL_OP_EXPORT, u)->chunk = chunk;
			break;
		case 2:
		case 3:
			add(&s, PROTOCOL_OP_FETCH, u);
			break;
		case 4:
			add_grad(&s, u, PROTOCOL_FLAG_FIRST);
			if (shape.accumulate)
				add_grad(&s, u, PROTOCOL_FLAG_LAST);
			break;
		case 5:
		case 6:
		case 7:
			add_step(&s, u, (uint32_t)(random_next(&state) % 4));
			break;
		default:
			add(&s, PROTOCOL_OP_PREPARE, u);
			break;
		}
	}
	snprintf(what, sizeof(what), "seed %llu", (unsigned long long)seed);
	compare(&shape, &s, what);
}
END_TEST

/* A read ahead fails: the session does, at the latest with the STEP, and ends. */
START_TEST(failed_reads_are_told)
{
	static struct script s;
	bool fired = true;

	for (int k = 1; fired; k++) {
		const struct shape shape = {.buffers = 4};
		unsigned started;
		struct bed b;

		s.count = 0;
		add_start(&s);
		bed_open(&b, &shape);
		play(&b, &s, 0, false);
		started = s.count;
		add(&s, PROTOCOL_OP_PREPARE, 0);
		add(&s, PROTOCOL_OP_PREPARE, 1);
		atomic_store_explicit(&fail_at, k, memory_order_relaxed);
		play(&b, &s, started, true);
		if (b.code == 0)
			(void)await_read(&b, 3 * CHUNK_BYTES);
		fired = atomic_exchange_explicit(&fail_at, 0, memory_order_relaxed) <= 0;
		started = s.count;
		add_import(&s, 1);
		add_step(&s, 0, 0);
		play(&b, &s, started, true);
		ck_assert_msg((b.code < 0) == fired, "call %d: code %d", k, b.code);
		bed_close(&b);
		/* Three chunks of two parts are read ahead. */
		ck_assert_int_le(k, 7);
	}
}
END_TEST

/* Holds the pool's only thread up. */
struct barrier {
	struct pool_job job;
	sem_t go;
};

static void barrier_run(struct pool_job *job)
{
	sem_wait(&((struct barrier *)(void *)job)->go);
}

/* What comes free goes to the operation with the smallest order, not to the oldest. */
START_TEST(the_smallest_order_goes_first)
{
	const struct shape shape = {.buffers = 3};
	static struct script s;
	struct pool_client client;
	struct barrier barrier = {.job.run = barrier_run};
	uint32_t late, soon, probe;
	struct line line;
	struct err err;
	struct bed b;

	s.count = 0;
	add_start(&s);
	bed_open(&b, &shape);
	play(&b, &s, 0, false);
	ck_assert_int_eq(sem_init(&barrier.go, 0, 0), 0);
	ck_assert_int_eq(pool_client_init(&client, b.pool, &err), 0);
	pool_submit(&client, &barrier.job);
	line = (struct line){.op = PROTOCOL_OP_STEP, .unit = 0, .order = 2, .step = 3};
	late = submit(&b, &line);
	line.unit = 1;
	line.order = 1;
	soon = submit(&b, &line);
	/* When this one is through, both have been accepted. */
	line = (struct line){.op = PROTOCOL_OP_FETCH, .unit = MEMORY_UNIT};
	probe = submit(&b, &line);
	await_one(&b);
	ck_assert_uint_eq(b.last_done, probe);
	sem_post(&barrier.go);
	await_one(&b);
	ck_assert_uint_eq(b.last_done, soon);
	await_one(&b);
	ck_assert_uint_eq(b.last_done, late);
	while (!pool_reap(&client))
		poll(&(struct pollfd){.fd = client.event_fd, .events = POLLIN}, 1, -1);
	pool_client_done(&client);
	sem_destroy(&barrier.go);
	bed_close(&b);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("session_early");
	TCase *tc = tcase_create("early");
	SRunner *runner = srunner_create(suite);
	int failed;

	log_init("t_session_early", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, reads_begin_before_the_step);
	tcase_add_test(tc, fetches_get_what_steps_made);
	tcase_add_test(tc, whatever_comes_instead);
	tcase_add_loop_test(tc, any_sequence, 0, 24);
	tcase_add_test(tc, failed_reads_are_told);
	tcase_add_test(tc, the_smallest_order_goes_first);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
