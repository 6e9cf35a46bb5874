/*
 * A team of threads that share one operation of the cpu device: the stream's own thread and
 * threads - 1 helpers. Called from the stream threads of device_cpu.c.
 *
 * Invariants:
 * 1. `round` changes under `lock` only; a helper runs each round it sees exactly once and leaves it
 *    before cpu_team_run returns, so fn and arg may live on the caller's stack.
 * 2. Parts are taken from `next` until it passes `parts`: each runs once, by whoever comes first.
 * 3. One caller owns the helpers at a time (`use`). A team of one, and an operation of one part,
 *    run in the caller and take no lock.
 */
#include "kernels/internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

struct helper {
	struct cpu_team *team;
	unsigned worker;
	pthread_t id;
};

struct cpu_team {
	unsigned threads;
	unsigned started; /* helpers that run */
	pthread_mutex_t use, lock;
	pthread_cond_t begin, end;
	uint64_t round;
	bool stop;
	unsigned busy; /* helpers still in this round */
	cpu_team_fn *fn;
	void *arg;
	size_t parts;
	atomic_size_t next;
	struct helper helpers[];
};

static void *helper_main(void *arg);
static void run_parts(struct cpu_team *team, unsigned worker);

int cpu_team_open(unsigned threads, struct cpu_team **ret, struct err *err)
{
	struct cpu_team *team;
	sigset_t all, old;
	int rc = 0;

	assert(threads >= 1);
	team = calloc(1, sizeof(*team) + (threads - 1) * sizeof(team->helpers[0]));
	if (!team)
		return err_sys(err, -ENOMEM, "a team of %u threads", threads);
	team->threads = threads;
	pthread_mutex_init(&team->use, NULL);
	pthread_mutex_init(&team->lock, NULL);
	pthread_cond_init(&team->begin, NULL);
	pthread_cond_init(&team->end, NULL);
	/* Signals are for the process's own threads to take. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	for (unsigned i = 0; i + 1 < threads && !rc; i++) {
		team->helpers[i].team = team;
		team->helpers[i].worker = i + 1;
		rc = -pthread_create(&team->helpers[i].id, NULL, helper_main, &team->helpers[i]);
		if (!rc)
			team->started++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		unsigned started = team->started;

		cpu_team_free(team);
		return err_sys(err, rc, "cannot start thread %u of %u", started + 2, threads);
	}
	*ret = team;
	return 0;
}

struct cpu_team *cpu_team_free(struct cpu_team *team)
{
	if (!team)
		return NULL;
	pthread_mutex_lock(&team->lock);
	team->stop = true;
	pthread_cond_broadcast(&team->begin);
	pthread_mutex_unlock(&team->lock);
	for (unsigned i = 0; i < team->started; i++)
		pthread_join(team->helpers[i].id, NULL);
	pthread_cond_destroy(&team->end);
	pthread_cond_destroy(&team->begin);
	pthread_mutex_destroy(&team->lock);
	pthread_mutex_destroy(&team->use);
	free(team);
	return NULL;
}

void cpu_team_run(struct cpu_team *team, cpu_team_fn *fn, void *arg, size_t parts)
{
	if (team->threads == 1 || parts <= 1) {
		for (size_t i = 0; i < parts; i++)
			fn(arg, i, 0);
		return;
	}
	pthread_mutex_lock(&team->use);
	pthread_mutex_lock(&team->lock);
	team->fn = fn;
	team->arg = arg;
	team->parts = parts;
	team->busy = team->started;
	team->round++;
	/* Relaxed here and in run_parts: `lock` publishes the round, `next` only counts. */
	atomic_store_explicit(&team->next, 0, memory_order_relaxed);
	pthread_cond_broadcast(&team->begin);
	pthread_mutex_unlock(&team->lock);
	run_parts(team, 0);
	pthread_mutex_lock(&team->lock);
	while (team->busy > 0)
		pthread_cond_wait(&team->end, &team->lock);
	pthread_mutex_unlock(&team->lock);
	pthread_mutex_unlock(&team->use);
}

unsigned cpu_team_threads(const struct cpu_team *team)
{
	return team->threads;
}

static void run_parts(struct cpu_team *team, unsigned worker)
{
	for (;;) {
		size_t part = atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);

		if (part >= team->parts)
			return;
		team->fn(team->arg, part, worker);
	}
}

static void *helper_main(void *arg)
{
	struct helper *h = arg;
	struct cpu_team *team = h->team;
	uint64_t seen = 0;

	pthread_mutex_lock(&team->lock);
	for (;;) {
		while (!team->stop && team->round == seen)
			pthread_cond_wait(&team->begin, &team->lock);
		if (team->stop)
			break;
		seen = team->round;
		pthread_mutex_unlock(&team->lock);
		run_parts(team, h->worker);
		pthread_mutex_lock(&team->lock);
		if (--team->busy == 0)
			pthread_cond_signal(&team->end);
	}
	pthread_mutex_unlock(&team->lock);
	return NULL;
}
