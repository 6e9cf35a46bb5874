/*
 * Goal: the collectives give every rank what plain loops in rank order give, to the bit, for every
 * size, and stay in step over thousands of calls, with more ranks than cores too.
 *
 * Method: a rank is a process (or a thread, which is what ThreadSanitizer can follow) with a cpu
 * device of its own. Inputs are a function of (rank, call, index), so that each rank computes what
 * it must get. The terms differ by orders of magnitude: another order of adding shows.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/comm.h"
#include "common/shm.h"

#define SEED      977u
#define WORLD_MAX 5u
/* What staging holds at a time: sizes around it are the interesting ones. */
#define CHUNK (1ul << 20)

/* Ranks say no more than this of a failure: the line, and whose. */
#define REQUIRE(what)                                                                              \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			printf("rank %u of %u, line %d: %s\n", x->rank, x->world, __LINE__,        \
			       #what);                                                             \
			fflush(stdout);                                                            \
			return 1;                                                                  \
		}                                                                                  \
	} while (0)

struct rank {
	unsigned rank, world;
	int fd;
	struct device *device;
	struct device_stream *stream;
	struct comm *comm;
	struct err err;
};

typedef int rank_fn(struct rank *x);

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static float term(unsigned rank, uint64_t call, size_t i)
{
	uint64_t h = mix(SEED ^ (uint64_t)rank << 56 ^ call << 36 ^ i);

	return (float)((double)(int32_t)(h >> 32) / (1 << 20) / (double)(1u << (h & 15)));
}

static uint8_t byte_of(unsigned rank, uint64_t call, size_t i)
{
	return (uint8_t)mix(SEED ^ (uint64_t)rank << 56 ^ call << 36 ^ i);
}

static float sum(unsigned world, uint64_t call, size_t i)
{
	float s = term(0, call, i);
	unsigned r;

	for (r = 1; r < world; r++)
		s = s + term(r, call, i);
	return s;
}

static bool same(float a, float b)
{
	return memcmp(&a, &b, sizeof(a)) == 0;
}

static int begin(struct rank *x)
{
	struct device_config device = {.type = DEVICE_CPU, .memory_bytes = 1 << 20, .threads = 1};
	struct comm_config comm = {
		.backend = COMM_SHM, .rank = x->rank, .world = x->world, .shm_fd = x->fd};

	REQUIRE(device_open(&device, &x->device, &x->err) == 0);
	REQUIRE(device_stream_open(x->device, "comm", &x->stream, &x->err) == 0);
	REQUIRE(comm_open(&comm, &x->comm, &x->err) == 0);
	return 0;
}

static int end(struct rank *x)
{
	x->device = device_free(x->device);
	x->comm = comm_free(x->comm);
	REQUIRE(x->device == NULL && x->comm == NULL);
	return 0;
}

static int gather_one(struct rank *x, uint64_t call, size_t bytes, bool in_place)
{
	/* Odd addresses: parts are not aligned to anything. */
	uint8_t *whole = malloc(bytes * x->world + 1), *part = malloc(bytes + 3), *in;
	unsigned r;
	size_t i;

	REQUIRE(whole && part);
	in = in_place ? whole + 1 + x->rank * bytes : part + 3;
	for (i = 0; i < bytes; i++)
		in[i] = byte_of(x->rank, call, i);
	comm_all_gather(x->comm, x->stream, whole + 1, in, bytes);
	REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
	for (r = 0; r < x->world; r++)
		for (i = 0; i < bytes; i++)
			REQUIRE(whole[1 + r * bytes + i] == byte_of(r, call, i));
	free(whole);
	free(part);
	return 0;
}

static int scatter_one(struct rank *x, uint64_t call, size_t count)
{
	float *whole = malloc(count * x->world * sizeof(float)),
	      *part = malloc(count * sizeof(float));
	size_t i;

	REQUIRE(whole && part);
	for (i = 0; i < count * x->world; i++)
		whole[i] = term(x->rank, call, i);
	comm_reduce_scatter(x->comm, x->stream, DTYPE_F32, part, whole, count);
	REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
	for (i = 0; i < count; i++)
		REQUIRE(same(part[i], sum(x->world, call, x->rank * count + i)));
	for (i = 0; i < count * x->world; i++)
		REQUIRE(same(whole[i], term(x->rank, call, i)));
	free(whole);
	free(part);
	return 0;
}

static int reduce_one(struct rank *x, uint64_t call, size_t count)
{
	float *data = malloc(count * sizeof(float));
	size_t i;

	REQUIRE(data);
	for (i = 0; i < count; i++)
		data[i] = term(x->rank, call, i);
	comm_all_reduce(x->comm, x->stream, DTYPE_F32, data, count);
	REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
	for (i = 0; i < count; i++)
		REQUIRE(same(data[i], sum(x->world, call, i)));
	free(data);
	return 0;
}

static int broadcast_one(struct rank *x, uint64_t call, size_t bytes, unsigned root)
{
	uint8_t *data = malloc(bytes + 1);
	size_t i;

	REQUIRE(data);
	for (i = 0; i < bytes; i++)
		data[1 + i] = byte_of(x->rank, call, i);
	comm_broadcast(x->comm, x->stream, data + 1, bytes, root);
	REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
	for (i = 0; i < bytes; i++)
		REQUIRE(data[1 + i] == byte_of(root, call, i));
	free(data);
	return 0;
}

/* bf16: in, out and terms; the sum is taken in fp32 and rounded once. */
static uint16_t half(unsigned rank, uint64_t call, size_t i)
{
	return bf16_from_float(term(rank, call, i));
}

static uint16_t half_sum(unsigned world, uint64_t call, size_t i)
{
	float s = bf16_to_float(half(0, call, i));
	unsigned r;

	for (r = 1; r < world; r++)
		s = s + bf16_to_float(half(r, call, i));
	return bf16_from_float(s);
}

static int halves_one(struct rank *x, uint64_t call, size_t count)
{
	uint16_t *whole = malloc(count * x->world * sizeof(*whole)),
		 *part = malloc(count * sizeof(*part));
	size_t i;

	REQUIRE(whole && part);
	for (i = 0; i < count * x->world; i++)
		whole[i] = half(x->rank, call, i);
	comm_reduce_scatter(x->comm, x->stream, DTYPE_BF16, part, whole, count);
	comm_all_reduce(x->comm, x->stream, DTYPE_BF16, whole, count * x->world);
	REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
	for (i = 0; i < count; i++)
		REQUIRE(part[i] == half_sum(x->world, call, x->rank * count + i));
	for (i = 0; i < count * x->world; i++)
		REQUIRE(whole[i] == half_sum(x->world, call, i));
	free(whole);
	free(part);
	return 0;
}

static int all_sizes(struct rank *x)
{
	static const size_t sizes[] = {
		1,        3, 17, 1000, 4096, 4097, 65537, CHUNK / 4 - 1, CHUNK / 4, CHUNK / 4 + 1,
		CHUNK + 5};
	uint64_t call = 0, moved;
	size_t i;

	if (begin(x))
		return 1;
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		if (gather_one(x, call++, sizes[i], false) ||
		    gather_one(x, call++, sizes[i], true) || scatter_one(x, call++, sizes[i]) ||
		    reduce_one(x, call++, sizes[i]) || halves_one(x, call++, sizes[i]) ||
		    broadcast_one(x, call++, sizes[i], (unsigned)(i % x->world)))
			return 1;
	}
	if (gather_one(x, call++, 2 * CHUNK + 11, false) ||
	    broadcast_one(x, call++, 2 * CHUNK + 11, x->world - 1))
		return 1;
	moved = comm_moved_bytes(x->comm);
	REQUIRE((moved > 0) == (x->world > 1));
	/* Nothing at all is a size, too. */
	comm_all_gather(x->comm, x->stream, NULL, NULL, 0);
	comm_reduce_scatter(x->comm, x->stream, DTYPE_F32, NULL, NULL, 0);
	comm_all_reduce(x->comm, x->stream, DTYPE_BF16, NULL, 0);
	comm_broadcast(x->comm, x->stream, NULL, 0, 0);
	REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
	REQUIRE(comm_moved_bytes(x->comm) == moved);
	return end(x);
}

/*
 * Calls of all kinds and changing sizes, many enqueued before the first is looked at: the rounds
 * follow each other as fast as the ranks can, each with buffers of its own to be checked.
 */
#define BATCH     700u /* more than the calls that wait at a time */
#define SMALL_MAX 64u

static int check_batch(struct rank *x, uint64_t base, float (*out)[SMALL_MAX * WORLD_MAX])
{
	unsigned k, r;
	size_t i, n;

	for (k = 0; k < BATCH; k++) {
		uint64_t call = base + k;

		n = 1 + mix(call) % SMALL_MAX;
		for (i = 0; i < n; i++) {
			if (k % 4 == 0)
				for (r = 0; r < x->world; r++)
					REQUIRE(same(out[k][r * n + i], term(r, call, i)));
			if (k % 4 == 1)
				REQUIRE(same(out[k][i], sum(x->world, call, x->rank * n + i)));
			if (k % 4 == 2)
				REQUIRE(same(out[k][i], sum(x->world, call, i)));
			if (k % 4 == 3)
				REQUIRE(same(out[k][i], term(k % x->world, call, i)));
		}
	}
	return 0;
}

static void enqueue_small(struct rank *x, unsigned k, size_t n, float *in, float *out)
{
	switch (k % 4) {
	case 0:
		comm_all_gather(x->comm, x->stream, out, in, n * sizeof(float));
		break;
	case 1:
		comm_reduce_scatter(x->comm, x->stream, DTYPE_F32, out, in, n);
		break;
	case 2:
		memcpy(out, in, n * sizeof(float));
		comm_all_reduce(x->comm, x->stream, DTYPE_F32, out, n);
		break;
	case 3:
		memcpy(out, in, n * sizeof(float));
		comm_broadcast(x->comm, x->stream, out, n * sizeof(float), k % x->world);
		break;
	}
}

static int many_calls(struct rank *x)
{
	float(*in)[SMALL_MAX * WORLD_MAX] = calloc(BATCH, sizeof(*in));
	float(*out)[SMALL_MAX * WORLD_MAX] = calloc(BATCH, sizeof(*out));
	unsigned k, batch;
	uint64_t call;
	size_t i, n;

	REQUIRE(in && out);
	if (begin(x))
		return 1;
	for (batch = 0; batch < 4; batch++) {
		for (k = 0; k < BATCH; k++) {
			call = batch * BATCH + k;
			n = 1 + mix(call) % SMALL_MAX;
			for (i = 0; i < n * x->world; i++)
				in[k][i] = term(x->rank, call, i);
			enqueue_small(x, k, n, in[k], out[k]);
		}
		REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
		if (check_batch(x, batch * BATCH, out))
			return 1;
	}
	free(in);
	free(out);
	return end(x);
}

/* A call that fails sticks to the device; what follows is skipped and blocks nobody. */
static int a_failure_sticks(struct rank *x)
{
	float f = 1;
	unsigned k;

	if (begin(x))
		return 1;
	comm_broadcast(x->comm, x->stream, &f, sizeof(f), x->world);
	for (k = 0; k < 2000; k++)
		comm_all_reduce(x->comm, x->stream, DTYPE_F32, &f, 1);
	REQUIRE(device_stream_sync(x->stream, &x->err) == -EINVAL);
	REQUIRE(f == 1);
	return end(x);
}

static int shared_segment(unsigned world)
{
	struct err err;
	int fd = shm_create("t_comm", comm_shm_bytes(world), &err);

	ck_assert_msg(fd >= 0, "%s", err.text);
	return fd;
}

static void run_processes(unsigned world, rank_fn *fn)
{
	int fd = shared_segment(world), status, failed = 0;
	pid_t pids[WORLD_MAX];
	unsigned r;

	for (r = 0; r < world; r++) {
		struct rank x = {.rank = r, .world = world, .fd = fd};

		fflush(stdout);
		pids[r] = fork();
		ck_assert_int_ge(pids[r], 0);
		if (pids[r] == 0)
			_exit(fn(&x));
	}
	for (r = 0; r < world; r++) {
		/* Whoever failed first keeps the others waiting for ever. */
		pid_t pid = waitpid(0, &status, 0);

		ck_assert_int_gt(pid, 0);
		if (status != 0 && !failed++)
			for (unsigned q = 0; q < world; q++)
				if (pids[q] != pid)
					kill(pids[q], SIGKILL);
	}
	ck_assert_int_eq(failed, 0);
	close(fd);
}

struct thread {
	pthread_t id;
	struct rank x;
	rank_fn *fn;
};

static void *thread_main(void *arg)
{
	struct thread *t = arg;

	if (t->fn(&t->x)) /* the others would wait for ever */
		abort();
	return NULL;
}

static void run_threads(unsigned world, rank_fn *fn)
{
	struct thread threads[WORLD_MAX] = {0};
	int fd = shared_segment(world);
	unsigned r;

	for (r = 0; r < world; r++) {
		threads[r].x = (struct rank){.rank = r, .world = world, .fd = fd};
		threads[r].fn = fn;
		ck_assert_int_eq(pthread_create(&threads[r].id, NULL, thread_main, &threads[r]), 0);
	}
	for (r = 0; r < world; r++)
		ck_assert_int_eq(pthread_join(threads[r].id, NULL), 0);
	close(fd);
}

START_TEST(sizes_among_processes)
{
	run_processes((unsigned)_i, all_sizes);
}
END_TEST

START_TEST(many_calls_among_processes)
{
	run_processes((unsigned)_i, many_calls);
}
END_TEST

START_TEST(many_calls_among_threads)
{
	run_threads((unsigned)_i, many_calls);
}
END_TEST

START_TEST(failures_stick)
{
	run_processes(2, a_failure_sticks);
}
END_TEST

static int try_open(unsigned rank, unsigned world, int fd, struct err *err)
{
	struct comm_config config = {
		.backend = COMM_SHM, .rank = rank, .world = world, .shm_fd = fd};
	struct comm *comm;
	int rc = comm_open(&config, &comm, err);

	if (rc == 0)
		comm_free(comm);
	return rc;
}

START_TEST(wrong_segments)
{
	uint64_t *tag;
	struct err err;
	int fd;

	ck_assert_int_lt(try_open(2, 2, -1, &err), 0);
	ck_assert_int_lt(try_open(0, 0, -1, &err), 0);
	ck_assert_int_lt(try_open(0, COMM_WORLD_MAX + 1, -1, &err), 0);
	ck_assert_int_lt(try_open(0, 2, -1, &err), 0);
	fd = shm_create("t_comm", comm_shm_bytes(2) - 1, &err);
	ck_assert_int_eq(try_open(0, 2, fd, &err), ERR_PROTOCOL);
	close(fd);
	fd = memfd_create("t_comm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ck_assert_int_eq(ftruncate(fd, (off_t)comm_shm_bytes(2)), 0);
	ck_assert_int_eq(try_open(0, 2, fd, &err), ERR_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(err.text, "sealed"));
	close(fd);
	/* Ranks that were told different worlds. */
	fd = shared_segment(3);
	ck_assert_int_eq(shm_map(fd, comm_shm_bytes(3), (void **)&tag, &err), 0);
	*tag = 12345;
	ck_assert_int_eq(try_open(0, 2, fd, &err), ERR_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(err.text, "world of 12345"));
	shm_unmap(tag, comm_shm_bytes(3));
	close(fd);
}
END_TEST

struct twin {
	pthread_t id;
	int fd, told, rc;
};

static void *twin_main(void *arg)
{
	struct twin *t = arg;
	struct err err;

	t->rc = try_open(0, 2, t->fd, &err);
	if (t->rc < 0 && write(t->told, "x", 1) != 1)
		abort();
	return NULL;
}

/* Two that both say they are rank 0: one of them is refused, the other waits for rank 1. */
START_TEST(a_rank_comes_once)
{
	struct twin twins[2];
	int fd = shared_segment(2), told[2], i;
	struct err err;
	char c;

	ck_assert_int_eq(pipe2(told, O_CLOEXEC), 0);
	for (i = 0; i < 2; i++) {
		twins[i].fd = fd;
		twins[i].told = told[1];
		ck_assert_int_eq(pthread_create(&twins[i].id, NULL, twin_main, &twins[i]), 0);
	}
	ck_assert_int_eq(read(told[0], &c, 1), 1);
	ck_assert_int_eq(try_open(1, 2, fd, &err), 0);
	for (i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_join(twins[i].id, NULL), 0);
	ck_assert_int_eq(twins[0].rc + twins[1].rc, ERR_PROTOCOL);
	close(told[0]);
	close(told[1]);
	close(fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("comm");
	TCase *t = tcase_create("shm");
	SRunner *runner;
	int failed;

	printf("seed %u\n", SEED);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, sizes_among_processes, 1, WORLD_MAX);
	tcase_add_loop_test(t, many_calls_among_processes, 1, WORLD_MAX + 1);
	tcase_add_loop_test(t, many_calls_among_threads, 1, 4);
	tcase_add_test(t, failures_stick);
	tcase_add_test(t, wrong_segments);
	tcase_add_test(t, a_rank_comes_once);
	suite_add_tcase(suite, t);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
