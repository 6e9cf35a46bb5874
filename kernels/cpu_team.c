/*
 * A team of threads that share one operation of the cpu device: the stream's own thread and
 * threads - 1 helpers. Called from the stream threads of device_cpu.c.
 *
 * A small model's operations take a few microseconds each, and waking a thread that sleeps takes
 * tens, so both sides look for a while before they sleep: a helper for the next round, the caller
 * for the helpers' last parts. A helper that is late finds the round closed and is not waited for.
 *
 * Invariants:
 * 1. `round`, `open` and `inside` change under `lock` only, but for a helper that leaves. A helper
 *    enters a round at most once and only while it is open; when the caller has closed it, and
 *    `inside` has come down to 0, nobody uses fn and arg: they may live on the caller's stack.
 * 2. Parts are taken from `next` until it passes `parts`: each runs once, by whoever comes first.
 * 3. One caller owns the helpers at a time (`use`). A team of one, and an operation of one part,
 *    run in the caller and take no lock.
 * 4. Nobody looks for longer than SPIN_NS, nor at all in a team of more threads than the process
 *    has cores: there, whoever looks keeps from the core whom it waits for.
 */
#include "kernels/internal.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "common/trace.h"

/*
 * Twice what it takes to wake a sleeper on a virtual machine. Longer spins gain nothing: what the
 * stream runs alone in between, copies and waits, takes microseconds or very long.
 */
#define SPIN_NS 100000u
#define LOOKS   32u /* from one look at the clock to the next */

struct helper {
	struct cpu_team *team;
	unsigned worker;
	pthread_t id;
};

struct cpu_team {
	unsigned threads;
	unsigned started; /* helpers that run */
	bool spins;
	pthread_mutex_t use, lock;
	pthread_cond_t begin, end;
	_Atomic uint64_t round; /* looked at without the lock */
	bool open, stop;
	_Atomic uint64_t inside; /* helpers at this round's parts */
	cpu_team_fn *fn;
	void *arg;
	size_t parts;
	atomic_size_t next;
	struct helper helpers[];
};

static void *helper_main(void *arg);
static void run_parts(struct cpu_team *team, unsigned worker);
static void helpers_await(struct cpu_team *team);

/* Whether each thread of the team can have a core of its own. */
static bool cores_for(unsigned threads)
{
	cpu_set_t set;

	/* More cores than a set holds are enough for any team. */
	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return errno == EINVAL;
	return threads <= (unsigned)CPU_COUNT(&set);
}

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
	team->spins = cores_for(threads);
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
	team->open = true;
	/* Relaxed: a helper reads it only behind `lock`. In run_parts it only counts. */
	atomic_store_explicit(&team->next, 0, memory_order_relaxed);
	/* Relaxed: a helper that sees it out of the lock goes on to take the lock. */
	atomic_fetch_add_explicit(&team->round, 1, memory_order_relaxed);
	pthread_cond_broadcast(&team->begin);
	pthread_mutex_unlock(&team->lock);
	run_parts(team, 0);
	helpers_await(team);
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

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

/* Looks at *word until it is, or no longer is, `value`: invariant 4 says for how long. */
static void look(const struct cpu_team *team, const _Atomic uint64_t *word, uint64_t value, bool is)
{
	uint64_t until;

	if (!team->spins)
		return;
	until = trace_now_ns() + SPIN_NS;
	do
		for (unsigned i = 0; i < LOOKS; i++) {
			/* Relaxed: who looks takes `lock` next. */
			if ((atomic_load_explicit(word, memory_order_relaxed) == value) == is)
				return;
			relax();
		}
	while (trace_now_ns() < until);
}

/* Closes the round and waits for the helpers that are in it. */
static void helpers_await(struct cpu_team *team)
{
	pthread_mutex_lock(&team->lock);
	team->open = false;
	if (atomic_load_explicit(&team->inside, memory_order_acquire) > 0) {
		pthread_mutex_unlock(&team->lock);
		look(team, &team->inside, 0, true);
		pthread_mutex_lock(&team->lock);
	}
	/* Pairs with the release in round_leave: what helpers wrote is seen. */
	while (atomic_load_explicit(&team->inside, memory_order_acquire) > 0)
		pthread_cond_wait(&team->end, &team->lock);
	pthread_mutex_unlock(&team->lock);
}

/* Waits for a round behind *seen. Returns whether it was entered; it may be over. */
static bool round_enter(struct cpu_team *team, uint64_t *seen)
{
	bool entered;

	look(team, &team->round, *seen, false);
	pthread_mutex_lock(&team->lock);
	while (!team->stop && atomic_load_explicit(&team->round, memory_order_relaxed) == *seen)
		pthread_cond_wait(&team->begin, &team->lock);
	*seen = atomic_load_explicit(&team->round, memory_order_relaxed);
	entered = team->open && !team->stop;
	if (entered)
		atomic_fetch_add_explicit(&team->inside, 1, memory_order_relaxed);
	pthread_mutex_unlock(&team->lock);
	return entered;
}

static void round_leave(struct cpu_team *team)
{
	/* Pairs with the acquire in helpers_await: what this helper wrote is seen there. */
	if (atomic_fetch_sub_explicit(&team->inside, 1, memory_order_release) > 1)
		return;
	pthread_mutex_lock(&team->lock);
	pthread_cond_signal(&team->end);
	pthread_mutex_unlock(&team->lock);
}

static bool stopped(struct cpu_team *team)
{
	bool stop;

	pthread_mutex_lock(&team->lock);
	stop = team->stop;
	pthread_mutex_unlock(&team->lock);
	return stop;
}

static void *helper_main(void *arg)
{
	struct helper *h = arg;
	uint64_t seen = 0;

	while (!stopped(h->team)) {
		if (!round_enter(h->team, &seen))
			continue;
		run_parts(h->team, h->worker);
		round_leave(h->team);
	}
	return NULL;
}
