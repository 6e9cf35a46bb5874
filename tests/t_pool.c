/*
 * Goal: every job that is given to the pool runs once and comes back once, to the client that gave
 * it; clients are served in turn; starting fails whole or not at all.
 *
 * Method: clients on threads of their own submit and reap random numbers of jobs (fixed seed); one
 * pool thread shows the order of service; the k-th thread's start fails, for k = 1, 2, ... until
 * none does. For ThreadSanitizer too.
 */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/pool.h"

#define SEED    11u
#define JOBS    64
#define CLIENTS 5

static int fail_at, calls; /* the fail_at-th start of a thread fails; 0: none */

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg)
{
	if (++calls == fail_at)
		return EAGAIN;
	return __real_pthread_create(thread, attr, run, arg);
}

static void open_ok(unsigned threads, struct pool **ret)
{
	struct err err;

	ck_assert_msg(pool_open(threads, ret, &err) == 0, "%s", err.text);
	ck_assert_uint_eq(pool_threads(*ret), threads);
}

struct tallied {
	struct pool_job job;
	_Atomic unsigned runs;
	unsigned reaped;
	bool out;
};

static void tally(struct pool_job *job)
{
	struct tallied *t = (struct tallied *)(void *)job;

	atomic_fetch_add_explicit(&t->runs, 1, memory_order_relaxed);
}

struct caller {
	pthread_t thread;
	struct pool *pool;
	unsigned seed;
	unsigned submitted, reaped;
};

static unsigned reap(struct pool_client *client)
{
	struct pool_job *job = pool_reap(client), *next;
	unsigned count = 0;

	for (; job; job = next, count++) {
		struct tallied *t = (struct tallied *)(void *)job;

		next = job->next;
		t->reaped++;
		t->out = false;
		if (atomic_load_explicit(&t->runs, memory_order_relaxed) != t->reaped)
			abort();
	}
	return count;
}

static void *call(void *arg)
{
	struct caller *c = arg;
	struct tallied jobs[JOBS] = {{.reaped = 0}};
	struct pool_client client;
	struct pollfd p;
	struct err err;

	if (pool_client_init(&client, c->pool, &err) < 0)
		abort();
	p = (struct pollfd){.fd = client.event_fd, .events = POLLIN};
	for (int round = 0; round < 2000; round++) {
		struct tallied *t = &jobs[(unsigned)rand_r(&c->seed) % JOBS];

		if (t->out) {
			/* It is on its way, and comes with this or a later wake-up. */
			poll(&p, 1, -1);
			c->reaped += reap(&client);
			continue;
		}
		t->job.run = tally;
		t->out = true;
		pool_submit(&client, &t->job);
		c->submitted++;
	}
	while (c->reaped < c->submitted) {
		poll(&p, 1, -1);
		c->reaped += reap(&client);
	}
	/* Nothing more, and nobody says so. */
	if (poll(&p, 1, 0) != 0 || pool_reap(&client))
		abort();
	pool_client_done(&client);
	return NULL;
}

START_TEST(each_once)
{
	struct caller callers[CLIENTS];
	struct pool *pool;

	open_ok((unsigned)_i, &pool);
	for (unsigned i = 0; i < CLIENTS; i++) {
		callers[i] = (struct caller){.pool = pool, .seed = SEED + i};
		ck_assert_int_eq(pthread_create(&callers[i].thread, NULL, call, &callers[i]), 0);
	}
	for (unsigned i = 0; i < CLIENTS; i++) {
		pthread_join(callers[i].thread, NULL);
		ck_assert_uint_eq(callers[i].submitted, callers[i].reaped);
	}
	ck_assert_ptr_null(pool_free(pool));
}
END_TEST

struct ordered {
	struct pool_job job;
	unsigned client;
};

static sem_t gate, entered;
static unsigned order[64], order_count;

static void note(struct pool_job *job)
{
	order[order_count++] = ((struct ordered *)(void *)job)->client;
}

static void hold(struct pool_job *job)
{
	(void)job;
	sem_post(&entered);
	while (sem_wait(&gate) < 0)
		;
}

/* While the only thread is held, one client queues much and others a little: they take turns. */
START_TEST(in_turn)
{
	static const unsigned counts[3] = {12, 2, 3}, want[] = {0, 1, 2, 0, 1, 2, 0, 2, 0, 0};
	static struct ordered jobs[3][12];
	struct pool_job holder = {.run = hold};
	struct pool_client clients[3];
	struct pool *pool;
	struct err err;

	sem_init(&gate, 0, 0);
	sem_init(&entered, 0, 0);
	open_ok(1, &pool);
	for (unsigned c = 0; c < 3; c++)
		ck_assert_int_eq(pool_client_init(&clients[c], pool, &err), 0);
	pool_submit(&clients[2], &holder);
	sem_wait(&entered);
	for (unsigned c = 0; c < 3; c++)
		for (unsigned i = 0; i < counts[c]; i++) {
			jobs[c][i] = (struct ordered){.job.run = note, .client = c};
			pool_submit(&clients[c], &jobs[c][i].job);
		}
	sem_post(&gate);
	for (unsigned c = 0; c < 3; c++) {
		struct pollfd p = {.fd = clients[c].event_fd, .events = POLLIN};
		unsigned left = counts[c] + (c == 2);
		const struct pool_job *job;

		while (left > 0) {
			poll(&p, 1, -1);
			for (job = pool_reap(&clients[c]); job; job = job->next)
				left--;
		}
		pool_client_done(&clients[c]);
	}
	pool_free(pool);
	ck_assert_uint_eq(order_count, 17);
	ck_assert_mem_eq(order, want, sizeof(want));
}
END_TEST

START_TEST(failing_start)
{
	struct pool *pool = NULL;
	struct err err;
	int k, rc = -1;

	for (k = 1; rc < 0; k++) {
		fail_at = k;
		calls = 0;
		rc = pool_open(4, &pool, &err);
		if (rc < 0) {
			ck_assert_int_eq(rc, -EAGAIN);
			ck_assert_ptr_null(pool);
		}
	}
	ck_assert_int_eq(k, 6); /* four starts can fail, the fifth never came */
	fail_at = 0;
	pool_free(pool);
	ck_assert_ptr_null(pool_free(NULL));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pool");
	TCase *tc = tcase_create("pool");
	SRunner *runner = srunner_create(suite);
	int failed;

	printf("seed %u\n", SEED);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, each_once, 1, 4);
	tcase_add_test(tc, in_turn);
	tcase_add_test(tc, failing_start);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
