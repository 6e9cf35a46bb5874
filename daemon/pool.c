/*
 * The CPU optimizer threads. Sessions submit and reap from their own threads; see pool.h.
 *
 * One lock guards all queues: a job is a chunk of some hundred microseconds, so that it is taken a
 * few thousand times a second at most.
 *
 * Invariants, all under pool->lock
 *  1. pool->last is the client served last of the circle of clients with something in `todo`;
 *     NULL when the circle is empty. client->waiting says whether a client is in it.
 *  2. The next job is taken from pool->last->next, which then becomes last: each client in turn.
 *  3. client->event_fd is readable whenever `done` is not empty.
 */
#include "daemon/pool.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/topo.h"

struct worker {
	pthread_t thread;
	struct pool *pool;
	unsigned index;
	struct err err; /* of binding */
};

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t work;  /* a client joined the circle, or stop */
	pthread_cond_t start; /* a worker has bound itself */
	struct pool_client *last;
	bool stop;
	unsigned count, bound;
	struct topo *topo; /* used under the lock, until every worker is bound */
	struct worker *workers;
};

static void queue_push(struct pool_queue *q, struct pool_job *job)
{
	job->next = NULL;
	if (q->tail)
		q->tail->next = job;
	else
		q->head = job;
	q->tail = job;
}

static struct pool_job *queue_pop(struct pool_queue *q)
{
	struct pool_job *job = q->head;

	q->head = job->next;
	if (!q->head)
		q->tail = NULL;
	return job;
}

static void circle_add(struct pool *pool, struct pool_client *c)
{
	c->waiting = true;
	if (!pool->last) {
		c->next = c;
		pool->last = c;
		return;
	}
	/* At the end: whoever waits already is served before. */
	c->next = pool->last->next;
	pool->last->next = c;
	pool->last = c;
}

/* Takes the next client's first job; the circle is not empty. */
static struct pool_job *circle_take(struct pool *pool, struct pool_client **ret_client)
{
	struct pool_client *c = pool->last->next;
	struct pool_job *job = queue_pop(&c->todo);

	if (c->todo.head) {
		pool->last = c;
	} else {
		c->waiting = false;
		if (pool->last == c)
			pool->last = NULL;
		else
			pool->last->next = c->next;
	}
	*ret_client = c;
	return job;
}

static void finish(struct pool_client *c, struct pool_job *job)
{
	bool first = !c->done.head;

	queue_push(&c->done, job);
	/* Cannot fail: a counter of one is far from full. Under the lock, so that the client is
	 * still there: it cannot have reaped this job yet. */
	if (first)
		(void)eventfd_write(c->event_fd, 1);
}

static int bind_self(struct worker *w)
{
	char set[TOPO_SET_TEXT_BYTES];
	unsigned cores;
	int rc;

	rc = topo_split(w->pool->topo, w->index, w->pool->count, set, &cores, &w->err);
	if (rc == 0)
		rc = topo_bind_thread(w->pool->topo, set, &w->err);
	return rc;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct pool *pool = w->pool;
	struct pool_client *client;
	struct pool_job *job;
	char name[16];

	snprintf(name, sizeof(name), "adam-%u", w->index);
	pthread_setname_np(pthread_self(), name);
	pthread_mutex_lock(&pool->lock);
	bind_self(w);
	pool->bound++;
	pthread_cond_signal(&pool->start);
	for (;;) {
		while (!pool->last && !pool->stop)
			pthread_cond_wait(&pool->work, &pool->lock);
		if (!pool->last)
			break;
		job = circle_take(pool, &client);
		pthread_mutex_unlock(&pool->lock);
		job->thread = w->index;
		job->run(job);
		pthread_mutex_lock(&pool->lock);
		finish(client, job);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static void workers_stop(struct pool *pool, unsigned started)
{
	pthread_mutex_lock(&pool->lock);
	assert(!pool->last);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < started; i++)
		pthread_join(pool->workers[i].thread, NULL);
}

/* Returns how many were started; fewer than pool->count with the reason in err. */
static unsigned workers_start(struct pool *pool, struct err *err)
{
	unsigned i;
	int rc;

	for (i = 0; i < pool->count; i++) {
		pool->workers[i] = (struct worker){.pool = pool, .index = i};
		rc = pthread_create(&pool->workers[i].thread, NULL, work, &pool->workers[i]);
		if (rc != 0) {
			err_sys(err, -rc, "starting CPU optimizer thread %u", i);
			break;
		}
	}
	return i;
}

/* Waits until all have bound themselves. Returns 0 or the first one's failure. */
static int workers_await(struct pool *pool, struct err *err)
{
	int rc = 0;

	pthread_mutex_lock(&pool->lock);
	while (pool->bound < pool->count)
		pthread_cond_wait(&pool->start, &pool->lock);
	for (unsigned i = 0; i < pool->count && rc == 0; i++) {
		if (pool->workers[i].err.code == 0)
			continue;
		*err = pool->workers[i].err;
		rc = err_add(err, "binding CPU optimizer thread %u", i);
	}
	pthread_mutex_unlock(&pool->lock);
	return rc;
}

static void release(struct pool *pool)
{
	topo_free(pool->topo);
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->start);
	pthread_mutex_destroy(&pool->lock);
	free(pool->workers);
	free(pool);
}

int pool_open(unsigned threads, struct pool **ret, struct err *err)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	unsigned started;
	int rc;

	assert(threads > 0 && threads <= POOL_THREADS_MAX);
	if (!pool)
		return err_sys(err, -ENOMEM, "allocating the pool");
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pthread_cond_init(&pool->start, NULL);
	pool->count = threads;
	pool->workers = calloc(threads, sizeof(*pool->workers));
	rc = pool->workers ? topo_open(&pool->topo, err)
			   : err_sys(err, -ENOMEM, "allocating %u threads", threads);
	if (rc < 0) {
		release(pool);
		return rc;
	}
	started = workers_start(pool, err);
	rc = started == threads ? workers_await(pool, err) : err->code;
	if (rc < 0) {
		workers_stop(pool, started);
		release(pool);
		return rc;
	}
	pool->topo = topo_free(pool->topo);
	*ret = pool;
	return 0;
}

struct pool *pool_free(struct pool *pool)
{
	if (!pool)
		return NULL;
	workers_stop(pool, pool->count);
	release(pool);
	return NULL;
}

unsigned pool_threads(const struct pool *pool)
{
	return pool->count;
}

int pool_client_init(struct pool_client *c, struct pool *pool, struct err *err)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd < 0)
		return err_sys(err, -errno, "eventfd");
	*c = (struct pool_client){.pool = pool, .event_fd = fd};
	return 0;
}

void pool_client_done(struct pool_client *c)
{
	if (!c->pool)
		return;
	assert(!c->waiting && !c->todo.head && !c->done.head);
	close(c->event_fd);
	c->pool = NULL;
}

void pool_submit(struct pool_client *c, struct pool_job *job)
{
	struct pool *pool = c->pool;

	pthread_mutex_lock(&pool->lock);
	queue_push(&c->todo, job);
	if (!c->waiting)
		circle_add(pool, c);
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->lock);
}

struct pool_job *pool_reap(struct pool_client *c)
{
	struct pool_job *jobs;
	eventfd_t count;

	pthread_mutex_lock(&c->pool->lock);
	jobs = c->done.head;
	c->done = (struct pool_queue){.head = NULL};
	if (jobs)
		(void)eventfd_read(c->event_fd, &count);
	pthread_mutex_unlock(&c->pool->lock);
	return jobs;
}
