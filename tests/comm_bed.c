/*
 * The cases of comm_bed.h. Inputs are a function of (rank, call, index), so that each rank computes
 * what it must get. The terms differ by orders of magnitude: another order of adding shows.
 */
#include "tests/comm_bed.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/shm.h"

/* What staging holds at a time: sizes around it are the interesting ones. */
#define CHUNK (1ul << 20)

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static float term(unsigned rank, uint64_t call, size_t i)
{
	uint64_t h = mix(COMM_BED_SEED ^ (uint64_t)rank << 56 ^ call << 36 ^ i);

	return (float)((double)(int32_t)(h >> 32) / (1 << 20) / (double)(1u << (h & 15)));
}

static uint8_t byte_of(unsigned rank, uint64_t call, size_t i)
{
	return (uint8_t)mix(COMM_BED_SEED ^ (uint64_t)rank << 56 ^ call << 36 ^ i);
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

/* ---- a rank's things ---- */

#define SCRATCH_BYTES ((size_t)48 << 20)

/* As rank 0's worker, its agent and dsrun do together. */
static int publish(void *arg, const uint8_t id[COMM_ID_BYTES], struct err *err)
{
	struct comm_news news = {.type = COMM_NEWS_ID};
	struct rank *x = arg;

	memcpy(news.id, id, sizeof(news.id));
	for (unsigned r = 0; r < x->world; r++) {
		int rc = comm_news_write(x->news[2 * r + 1], &news);

		if (rc < 0)
			return err_sys(err, rc, "news");
	}
	return 0;
}

static int open_device(struct rank *x)
{
	bool cuda = x->backend == COMM_NCCL;
	struct device_config device = {.type = cuda ? DEVICE_CUDA : DEVICE_CPU,
				       .index = x->rank,
				       .memory_bytes = cuda ? 2 * SCRATCH_BYTES : 1 << 20,
				       .threads = 1};

	REQUIRE(device_open(&device, &x->device, &x->err) == 0);
	REQUIRE(device_stream_open(x->device, "comm", &x->stream, &x->err) == 0);
	if (cuda)
		x->scratch = device_alloc(x->device, SCRATCH_BYTES, "scratch", &x->err);
	REQUIRE(!cuda || x->scratch);
	return 0;
}

int comm_bed_begin(struct rank *x)
{
	if (open_device(x))
		return 1;

	struct comm_config comm = {
		.backend = x->backend,
		.rank = x->rank,
		.world = x->world,
		.shm_fd = x->fd,
		.device = x->device,
		.news_fd = x->news ? x->news[2 * x->rank] : -1,
		.publish = publish,
		.publish_arg = x,
		.timeout_ns = x->timeout_ns ? x->timeout_ns : 60000000000ull,
	};
	if (x->before_open)
		x->before_open();
	REQUIRE(comm_open(&comm, &x->comm, &x->err) == 0);
	return 0;
}

int comm_bed_end(struct rank *x)
{
	x->comm = comm_free(x->comm);
	x->device = device_free(x->device);
	REQUIRE(x->device == NULL && x->comm == NULL);
	return 0;
}

/*
 * Memory of the rank's device until release(). On cpu each buffer is one of malloc's, whose ends
 * AddressSanitizer watches.
 */
static void *take(struct rank *x, size_t bytes)
{
	void *p;

	if (x->scratch) {
		p = x->scratch + x->scratch_used;
		x->scratch_used += (bytes + 255) / 256 * 256;
		return x->scratch_used <= SCRATCH_BYTES ? p : NULL;
	}
	p = x->taken_count < TAKEN_MAX ? malloc(bytes) : NULL;
	if (p)
		x->taken[x->taken_count++] = p;
	return p;
}

static void release(struct rank *x)
{
	x->scratch_used = 0;
	while (x->taken_count > 0)
		free(x->taken[--x->taken_count]);
}

/* ---- what must come out ---- */

/*
 * The sum of an all-reduce of `count`: as that of a reduce-scatter, but that the host NCCL takes
 * what cannot be cut into equal parts from behind (tests/cuda_host/nccl.c), so that it shows which
 * of its functions was called.
 */
static float reduced(const struct rank *x, uint64_t call, size_t i, size_t count)
{
	float s;

	if (x->backend == COMM_SHM || x->world == 1 || i < count / x->world * x->world)
		return sum(x->world, call, i);
	s = term(x->world - 1, call, i);
	for (unsigned r = x->world - 1; r > 0; r--)
		s = s + term(r - 1, call, i);
	return s;
}

/* ---- cases ---- */

static int gather_one(struct rank *x, uint64_t call, size_t bytes, bool in_place)
{
	/* Odd addresses: parts are not aligned to anything. */
	uint8_t *whole = take(x, bytes * x->world + 1), *part = take(x, bytes + 3), *in;
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
	release(x);
	return 0;
}

static int scatter_one(struct rank *x, uint64_t call, size_t count)
{
	float *whole = take(x, count * x->world * sizeof(float)),
	      *part = take(x, count * sizeof(float));
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
	release(x);
	return 0;
}

static int reduce_one(struct rank *x, uint64_t call, size_t count)
{
	float *data = take(x, count * sizeof(float));
	size_t i;

	REQUIRE(data);
	for (i = 0; i < count; i++)
		data[i] = term(x->rank, call, i);
	comm_all_reduce(x->comm, x->stream, DTYPE_F32, data, count);
	REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
	for (i = 0; i < count; i++)
		REQUIRE(same(data[i], reduced(x, call, i, count)));
	release(x);
	return 0;
}

static int broadcast_one(struct rank *x, uint64_t call, size_t bytes, unsigned root)
{
	uint8_t *data = take(x, bytes + 1);
	size_t i;

	REQUIRE(data);
	for (i = 0; i < bytes; i++)
		data[1 + i] = byte_of(x->rank, call, i);
	comm_broadcast(x->comm, x->stream, data + 1, bytes, root);
	REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
	for (i = 0; i < bytes; i++)
		REQUIRE(data[1 + i] == byte_of(root, call, i));
	release(x);
	return 0;
}

/* bf16: in, out and terms. shm takes the sum in fp32 and rounds it once. */
static uint16_t half(unsigned rank, uint64_t call, size_t i)
{
	return bf16_from_float(term(rank, call, i));
}

static uint16_t half_sum(const struct rank *x, uint64_t call, size_t i)
{
	float s = bf16_to_float(half(0, call, i));
	unsigned r;

	for (r = 1; r < x->world; r++) {
		s = s + bf16_to_float(half(r, call, i));
		/* The host NCCL keeps what it has added up in bf16. */
		if (x->backend == COMM_NCCL)
			s = bf16_to_float(bf16_from_float(s));
	}
	return bf16_from_float(s);
}

static int halves_one(struct rank *x, uint64_t call, size_t count)
{
	uint16_t *whole = take(x, count * x->world * sizeof(*whole)),
		 *part = take(x, count * sizeof(*part));
	size_t i;

	REQUIRE(whole && part);
	for (i = 0; i < count * x->world; i++)
		whole[i] = half(x->rank, call, i);
	comm_reduce_scatter(x->comm, x->stream, DTYPE_BF16, part, whole, count);
	comm_all_reduce(x->comm, x->stream, DTYPE_BF16, whole, count * x->world);
	REQUIRE(device_stream_sync(x->stream, &x->err) == 0);
	for (i = 0; i < count; i++)
		REQUIRE(part[i] == half_sum(x, call, x->rank * count + i));
	for (i = 0; i < count * x->world; i++)
		REQUIRE(whole[i] == half_sum(x, call, i));
	release(x);
	return 0;
}

int comm_bed_all_sizes(struct rank *x)
{
	static const size_t sizes[] = {
		1,        3, 17, 1000, 4096, 4097, 65537, CHUNK / 4 - 1, CHUNK / 4, CHUNK / 4 + 1,
		CHUNK + 5};
	uint64_t call = 0, moved;
	size_t i;

	if (comm_bed_begin(x))
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
	return comm_bed_end(x);
}

/*
 * Calls of all kinds and changing sizes, many enqueued before the first is looked at: the rounds
 * follow each other as fast as the ranks can, each with buffers of its own to be checked.
 */
#define BATCH     700u /* more than the calls that wait at a time */
#define SMALL_MAX 64u

static int check_batch(struct rank *x, uint64_t base, float (*out)[SMALL_MAX * COMM_BED_WORLD_MAX])
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
				REQUIRE(same(out[k][i], reduced(x, call, i, n)));
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

int comm_bed_many_calls(struct rank *x)
{
	float(*in)[SMALL_MAX * COMM_BED_WORLD_MAX], (*out)[SMALL_MAX * COMM_BED_WORLD_MAX];
	unsigned k, batch;
	uint64_t call;
	size_t i, n;

	if (comm_bed_begin(x))
		return 1;
	in = take(x, BATCH * sizeof(*in));
	out = take(x, BATCH * sizeof(*out));
	REQUIRE(in && out);
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
	release(x);
	return comm_bed_end(x);
}

/* A call that fails sticks to the device; what follows is skipped and blocks nobody. */
int comm_bed_a_failure_sticks(struct rank *x)
{
	float f = 1;
	unsigned k;

	if (comm_bed_begin(x))
		return 1;
	comm_broadcast(x->comm, x->stream, &f, sizeof(f), x->world);
	for (k = 0; k < 2000; k++)
		comm_all_reduce(x->comm, x->stream, DTYPE_F32, &f, 1);
	REQUIRE(device_stream_sync(x->stream, &x->err) == -EINVAL);
	REQUIRE(f == 1);
	return comm_bed_end(x);
}

/* ---- ranks ---- */

int comm_bed_segment(unsigned world)
{
	struct err err;
	int fd = shm_create("t_comm", comm_shm_bytes(world), &err);

	ck_assert_msg(fd >= 0, "%s", err.text);
	return fd;
}

void comm_bed_news_open(unsigned world, int news[][2])
{
	for (unsigned r = 0; r < world; r++)
		ck_assert_int_eq(pipe2(news[r], O_CLOEXEC), 0);
}

void comm_bed_news_close(unsigned world, int news[][2])
{
	for (unsigned r = 0; r < world; r++) {
		close(news[r][0]);
		close(news[r][1]);
	}
}

void comm_bed_processes(enum comm_backend backend, unsigned world, rank_fn *fn)
{
	int fd = comm_bed_segment(world), news[COMM_BED_WORLD_MAX + 1][2], status, failed = 0;
	pid_t pids[COMM_BED_WORLD_MAX + 1];
	unsigned r;

	comm_bed_news_open(world, news);
	for (r = 0; r < world; r++) {
		struct rank x = {
			.rank = r, .world = world, .backend = backend, .fd = fd, .news = news[0]};

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
	comm_bed_news_close(world, news);
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

void comm_bed_threads(enum comm_backend backend, unsigned world, rank_fn *fn)
{
	struct thread threads[COMM_BED_WORLD_MAX + 1] = {0};
	int fd = comm_bed_segment(world), news[COMM_BED_WORLD_MAX + 1][2];
	unsigned r;

	comm_bed_news_open(world, news);
	for (r = 0; r < world; r++) {
		threads[r].x = (struct rank){
			.rank = r, .world = world, .backend = backend, .fd = fd, .news = news[0]};
		threads[r].fn = fn;
		ck_assert_int_eq(pthread_create(&threads[r].id, NULL, thread_main, &threads[r]), 0);
	}
	for (r = 0; r < world; r++)
		ck_assert_int_eq(pthread_join(threads[r].id, NULL), 0);
	comm_bed_news_close(world, news);
	close(fd);
}
