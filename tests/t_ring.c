/*
 * Goal: the ring loses no record and no wake-up, and no header of a peer makes it leave its memory.
 * Method: ping-pong between two threads and two processes, which sleep at every turn (a stream
 * would hide a lost wake-up), a stream whose records carry their content twice, across the wrap of
 * the indices at 2^32, and headers of random words in memory of exactly the right size.
 */
#include "common/ring.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/ring_abi.h"
#include "common/rng.h"

#define SEED        11u
#define SLOTS       8u
#define ROUNDS      20000u
#define STREAM      300000u
#define PATIENCE_MS 20000

struct record {
	uint64_t number, copy, pad;
};

/* Two rings, there and back. */
struct pair {
	void *mem[2];
	int wake[2];
	size_t bytes;
};

static void pair_open(struct pair *p)
{
	p->bytes = ring_bytes(sizeof(struct record), SLOTS);
	ck_assert_uint_eq(p->bytes % 128, 0);
	for (int i = 0; i < 2; i++) {
		p->mem[i] = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
				 -1, 0);
		ck_assert_ptr_ne(p->mem[i], MAP_FAILED);
		ring_format(p->mem[i], sizeof(struct record), SLOTS);
		p->wake[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		ck_assert_int_ge(p->wake[i], 0);
	}
}

static void pair_close(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		munmap(p->mem[i], p->bytes);
		close(p->wake[i]);
	}
}

static int attach(struct ring *ring, const struct pair *p, int i)
{
	return ring_attach(ring, p->mem[i], p->bytes, sizeof(struct record), SLOTS, p->wake[i],
			   NULL);
}

/* Moves a fresh ring's indices next to their wrap, as if so many records had passed. */
static void age(struct ring *ring, uint32_t index)
{
	atomic_store_explicit(&ring->header->head, index, memory_order_relaxed);
	atomic_store_explicit(&ring->header->tail, index, memory_order_relaxed);
	ring->index = index;
}

/* Pops, sleeping while there is nothing. 0, or why not. */
static int pop_wait(struct ring *ring, struct record *record)
{
	struct pollfd wait = {.fd = ring->wake_fd, .events = POLLIN};
	int rc, n;

	while ((rc = ring_pop(ring, record)) == -EAGAIN) {
		if (!ring_sleep_begin(ring))
			continue;
		do
			n = poll(&wait, 1, PATIENCE_MS);
		while (n < 0 && errno == EINTR);
		ring_sleep_end(ring);
		if (n != 1)
			return -ETIMEDOUT;
	}
	return rc;
}

static int ping(const struct pair *p)
{
	struct record out = {0}, in;
	struct ring to, from;
	int rc;

	if (attach(&to, p, 0) || attach(&from, p, 1))
		return -1;
	for (uint64_t i = 0; i < ROUNDS; i++) {
		out.number = i;
		rc = ring_push(&to, &out);
		if (rc == 0)
			rc = pop_wait(&from, &in);
		if (rc < 0)
			return rc;
		if (in.number != i + 1)
			return -EBADMSG;
	}
	return 0;
}

static int pong(const struct pair *p)
{
	struct ring to, from;
	struct record record;
	int rc;

	if (attach(&from, p, 0) || attach(&to, p, 1))
		return -1;
	for (uint64_t i = 0; i < ROUNDS; i++) {
		rc = pop_wait(&from, &record);
		if (rc < 0)
			return rc;
		if (record.number != i)
			return -EBADMSG;
		record.number++;
		rc = ring_push(&to, &record);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void *pong_thread(void *pair)
{
	return (void *)(intptr_t)pong(pair);
}

START_TEST(ping_pong_of_threads)
{
	pthread_t thread;
	struct pair p;
	void *result;

	pair_open(&p);
	ck_assert_int_eq(pthread_create(&thread, NULL, pong_thread, &p), 0);
	ck_assert_int_eq(ping(&p), 0);
	ck_assert_int_eq(pthread_join(thread, &result), 0);
	ck_assert_ptr_null(result);
	pair_close(&p);
}
END_TEST

START_TEST(ping_pong_of_processes)
{
	struct pair p;
	int status;
	pid_t pid;

	pair_open(&p);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(pong(&p) ? 1 : 0);
	ck_assert_int_eq(ping(&p), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	pair_close(&p);
}
END_TEST

static int consume(struct ring *ring)
{
	struct record record;
	int rc;

	for (uint64_t i = 0; i < STREAM; i++) {
		rc = pop_wait(ring, &record);
		if (rc < 0)
			return rc;
		if (record.number != i || record.copy != ~i)
			return -EBADMSG;
	}
	return 0;
}

static void *consume_thread(void *ring)
{
	return (void *)(intptr_t)consume(ring);
}

START_TEST(stream_across_the_wrap)
{
	struct ring in, out;
	pthread_t thread;
	struct pair p;
	void *result;

	pair_open(&p);
	ck_assert_int_eq(attach(&in, &p, 0), 0);
	ck_assert_int_eq(attach(&out, &p, 0), 0);
	age(&in, UINT32_MAX - STREAM / 2);
	age(&out, UINT32_MAX - STREAM / 2);
	ck_assert_int_eq(pthread_create(&thread, NULL, consume_thread, &out), 0);
	for (uint64_t i = 0; i < STREAM; i++) {
		struct record record = {.number = i, .copy = ~i};
		int rc;

		while ((rc = ring_push(&in, &record)) == -EAGAIN)
			sched_yield();
		ck_assert_int_eq(rc, 0);
	}
	ck_assert_int_eq(pthread_join(thread, &result), 0);
	ck_assert_ptr_null(result);
	pair_close(&p);
}
END_TEST

START_TEST(full_and_empty)
{
	struct record record = {0};
	struct ring in, out;
	struct pair p;

	pair_open(&p);
	ck_assert_int_eq(attach(&in, &p, 0), 0);
	ck_assert_int_eq(attach(&out, &p, 0), 0);
	ck_assert_int_eq(ring_pop(&out, &record), -EAGAIN);
	for (record.number = 0; record.number < SLOTS; record.number++)
		ck_assert_int_eq(ring_push(&in, &record), 0);
	ck_assert_int_eq(ring_push(&in, &record), -EAGAIN);
	ck_assert(!ring_sleep_begin(&out));
	for (uint64_t i = 0; i < SLOTS; i++) {
		ck_assert_int_eq(ring_pop(&out, &record), 0);
		ck_assert_uint_eq(record.number, i);
	}
	ck_assert_int_eq(ring_pop(&out, &record), -EAGAIN);
	pair_close(&p);
}
END_TEST

static uint64_t wakes(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count) ? count : 0;
}

START_TEST(wakes_only_sleepers)
{
	struct record record = {0};
	struct ring in, out;
	struct pair p;

	pair_open(&p);
	ck_assert_int_eq(attach(&in, &p, 0), 0);
	ck_assert_int_eq(attach(&out, &p, 0), 0);
	ck_assert_int_eq(ring_push(&in, &record), 0);
	ck_assert_uint_eq(wakes(p.wake[0]), 0);
	ck_assert_int_eq(ring_pop(&out, &record), 0);
	ck_assert(ring_sleep_begin(&out));
	ck_assert_int_eq(ring_push(&in, &record), 0);
	ck_assert_uint_eq(wakes(p.wake[0]), 1);
	ck_assert_int_eq(ring_push(&in, &record), 0);
	ring_sleep_end(&out);
	ck_assert_uint_eq(wakes(p.wake[0]), 0);
	/* A peer that makes the shared descriptor block cannot make us wait. */
	ck_assert_int_eq(fcntl(p.wake[0], F_SETFL, 0), 0);
	ring_sleep_end(&out);
	pair_close(&p);
}
END_TEST

START_TEST(attach_refuses)
{
	struct err err = {0};
	struct ring_header *h;
	struct ring ring;
	struct pair p;

	pair_open(&p);
	h = p.mem[0];
	ck_assert_int_eq(ring_attach(&ring, h, p.bytes, 24, 16, -1, &err), ERR_PROTOCOL);
	ck_assert_int_eq(ring_attach(&ring, h, p.bytes, 16, SLOTS, -1, &err), ERR_PROTOCOL);
	ck_assert_str_eq(err.text, "ring: 8 slots of 24 bytes, expected 8 slots of 16");
	ck_assert_int_eq(ring_attach(&ring, h, p.bytes - 128, 24, SLOTS, -1, &err), ERR_PROTOCOL);
	h->slot_count = UINT32_MAX;
	ck_assert_int_eq(attach(&ring, &p, 0), ERR_PROTOCOL);
	ring_format(h, sizeof(struct record), SLOTS);
	h->version++;
	ck_assert_int_eq(attach(&ring, &p, 0), ERR_PROTOCOL);
	ring_format(h, sizeof(struct record), SLOTS);
	h->magic ^= 1;
	ck_assert_int_eq(attach(&ring, &p, 0), ERR_PROTOCOL);
	pair_close(&p);
}
END_TEST

START_TEST(hostile_headers)
{
	size_t bytes = ring_bytes(sizeof(struct record), SLOTS);
	struct record record = {0};
	struct ring_header *h;
	struct ring ring;
	int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), rc;
	unsigned refused = 0;
	void *mem;

	/* From malloc's side, so that AddressSanitizer sees the first byte past the end. */
	ck_assert_int_eq(posix_memalign(&mem, 128, bytes), 0);
	for (uint64_t i = 0; i < 100000; i++) {
		uint32_t *words = mem, random[4];

		memset(mem, 0, bytes);
		ring_format(mem, sizeof(struct record), SLOTS);
		ck_assert_int_eq(
			ring_attach(&ring, mem, bytes, sizeof(struct record), SLOTS, wake, NULL),
			0);
		rng_block(SEED, 0, i, random);
		/* Geometry too: it was read before, and must not be again. */
		for (int k = 0; k < 4; k++)
			words[k] = random[k];
		h = mem;
		ring.index = random[0];
		atomic_store_explicit(&h->head, i % 3 ? random[1] : random[0] + random[1] % 20,
				      memory_order_relaxed);
		atomic_store_explicit(&h->tail, i % 3 ? random[2] : random[0] - random[2] % 20,
				      memory_order_relaxed);
		atomic_store_explicit(&h->sleeping, random[3] & 1, memory_order_relaxed);
		rc = i % 2 ? ring_push(&ring, &record) : ring_pop(&ring, &record);
		ck_assert_msg(rc == 0 || rc == -EAGAIN || rc == ERR_PROTOCOL, "%d (seed %u, %llu)",
			      rc, SEED, (unsigned long long)i);
		refused += rc == ERR_PROTOCOL;
		if (ring_sleep_begin(&ring))
			ring_sleep_end(&ring);
	}
	ck_assert_uint_gt(refused, 50000);
	free(mem);
	close(wake);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ring");
	TCase *tcase = tcase_create("ring");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, full_and_empty);
	tcase_add_test(tcase, wakes_only_sleepers);
	tcase_add_test(tcase, attach_refuses);
	tcase_add_test(tcase, hostile_headers);
	tcase_add_test(tcase, ping_pong_of_processes);
	tcase_add_test(tcase, ping_pong_of_threads);
	tcase_add_test(tcase, stream_across_the_wrap);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
