/*
 * Goal: the collectives of cuda devices do what those of cpu devices do, and end when they cannot
 * go on: a rank that waits for a peer that is dead, or whose communicator has an error, has the
 * cause within a second, and so has one that waits for ranks that do not come.
 *
 * Method: comm/nccl*.c and the cuda device on the host shim, over the host NCCL
 * (tests/cuda_host/nccl.c), which waits for ever where NCCL might. A rank is a process, or a thread
 * for ThreadSanitizer; the test is its agent: it says who has failed, or something that no agent
 * would say.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/file.h"
#include "tests/comm_bed.h"

#define WORLD      3u
#define PROMISE_MS 1000u
#define COUNT      1000u

START_TEST(sizes_among_processes)
{
	comm_bed_processes(COMM_NCCL, (unsigned)_i, comm_bed_all_sizes);
}
END_TEST

START_TEST(many_calls_among_processes)
{
	comm_bed_processes(COMM_NCCL, (unsigned)_i, comm_bed_many_calls);
}
END_TEST

START_TEST(many_calls_among_threads)
{
	comm_bed_threads(COMM_NCCL, (unsigned)_i, comm_bed_many_calls);
}
END_TEST

START_TEST(failures_stick)
{
	comm_bed_processes(COMM_NCCL, 2, comm_bed_a_failure_sticks);
}
END_TEST

/* ---- ends ---- */

/* What a rank of a scenario does; what it leaves in x->err goes to the test. */
typedef void scenario_fn(struct rank *x);

struct word {
	int code;
	uint64_t at_ns; /* when it had it */
	char text[500];
};

struct job {
	int fd, news[WORLD][2];
	int words[2]; /* ranks say what became of them */
	pid_t pids[WORLD];
	struct word said[WORLD];
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct told {
	unsigned rank;
	struct word word;
};

_Static_assert(sizeof(struct told) <= PIPE_BUF, "a word must arrive whole");

static int words_fd; /* of this rank */

static void say(const struct rank *x, int code, const char *text)
{
	static struct told told;

	told.rank = x->rank;
	told.word = (struct word){.code = code, .at_ns = now_ns()};
	snprintf(told.word.text, sizeof(told.word.text), "%.499s", text);
	if (write(words_fd, &told, sizeof(told)) != (ssize_t)sizeof(told))
		abort();
}

static void rank_main(struct job *job, unsigned r, scenario_fn *fn)
{
	struct rank x = {.rank = r,
			 .world = WORLD,
			 .backend = COMM_NCCL,
			 .fd = job->fd,
			 .news = job->news[0]};

	words_fd = job->words[1];
	fn(&x);
	say(&x, x.err.code, x.err.text);
	/* As dsworker ends: streams may be in the middle of work. */
	_exit(0);
}

static void job_open(struct job *job, scenario_fn *const fns[WORLD])
{
	job->fd = comm_bed_segment(WORLD);
	comm_bed_news_open(WORLD, job->news);
	ck_assert_int_eq(pipe2(job->words, O_CLOEXEC), 0);
	fflush(stdout);
	for (unsigned r = 0; r < WORLD; r++) {
		job->pids[r] = fork();
		ck_assert_int_ge(job->pids[r], 0);
		if (job->pids[r] == 0) {
			/* The pipe of news ends with the test, not with a sister. */
			for (unsigned q = 0; r > 0 && q < WORLD; q++)
				close(job->news[q][1]);
			rank_main(job, r, fns[r]);
		}
	}
}

/* What one rank says. Fails the test when nobody says anything. */
static unsigned job_hear(struct job *job)
{
	struct pollfd p = {.fd = job->words[0], .events = POLLIN};
	struct told told;

	ck_assert_msg(poll(&p, 1, 30000) == 1, "ranks wait for ever");
	ck_assert_int_eq(read(job->words[0], &told, sizeof(told)), (ssize_t)sizeof(told));
	job->said[told.rank] = told.word;
	return told.rank;
}

static void tell_failed(struct job *job, unsigned rank)
{
	struct comm_news news = {.type = COMM_NEWS_FAILED, .rank = rank};

	for (unsigned r = 0; r < WORLD; r++)
		if (r != rank)
			(void)comm_news_write(job->news[r][1], &news);
}

static void job_close(struct job *job)
{
	for (unsigned r = 0; r < WORLD; r++) {
		kill(job->pids[r], SIGKILL);
		ck_assert_int_eq(waitpid(job->pids[r], NULL, 0), job->pids[r]);
	}
	comm_bed_news_close(WORLD, job->news);
	close(job->words[0]);
	close(job->words[1]);
	close(job->fd);
}

static void check_said(const struct job *job, unsigned rank, int code, const char *text)
{
	const struct word *w = &job->said[rank];

	ck_assert_msg(w->code == code, "rank %u: %d (%s), expected %d", rank, w->code, w->text,
		      code);
	ck_assert_msg(strstr(w->text, text), "rank %u: '%s', expected '%s'", rank, w->text, text);
}

/* A promise of a second; a machine that is busy with other tests, or instrumented, has ten. */
static void check_time(uint64_t from_ns, uint64_t to_ns)
{
	uint64_t ms = to_ns > from_ns ? (to_ns - from_ns) / 1000000u : 0, bound = PROMISE_MS;

	if (getenv("SAN") && *getenv("SAN"))
		bound *= 10;
	if (ms > bound) {
		printf("took %ju ms, %u ms promised; ten times where the machine is loaded\n",
		       (uintmax_t)ms, PROMISE_MS);
		bound = 10 * PROMISE_MS;
	}
	ck_assert_msg(ms <= bound, "took %ju ms", (uintmax_t)ms);
}

/* A few collectives that work, then one more, which is waited for. */
static void work(struct rank *x, unsigned calls)
{
	size_t bytes = COUNT * sizeof(float);

	if (comm_bed_begin(x))
		return;
	for (unsigned i = 0; i < calls; i++)
		comm_all_gather(x->comm, x->stream, x->scratch, x->scratch + x->rank * bytes,
				bytes);
	(void)device_stream_sync(x->stream, &x->err);
}

static void works_on(struct rank *x)
{
	work(x, 40);
}

/* The last call is the one that fails: nobody finds it but the watcher. */
static void works_four_times(struct rank *x)
{
	work(x, 4);
	if (x->err.code == 0)
		pause();
}

static void dies_early(struct rank *x)
{
	work(x, 4);
	raise(SIGKILL);
}

static void dies_after_three(struct rank *x)
{
	work(x, 3);
	raise(SIGKILL);
}

static void never_comes(struct rank *x)
{
	(void)x;
	raise(SIGKILL);
}

static void comes_late(struct rank *x)
{
	(void)x;
	for (;;)
		pause();
}

/* Works, and frees everything in order. */
static void works_and_ends(struct rank *x)
{
	work(x, 10);
	if (x->err.code == 0)
		(void)comm_bed_end(x);
}

/* At the very end it is not there to end with the others. */
static void works_and_dies(struct rank *x)
{
	work(x, 10);
	raise(SIGKILL);
}

static void await_death(struct job *job, unsigned rank)
{
	siginfo_t info;

	ck_assert_int_eq(waitid(P_PID, (id_t)job->pids[rank], &info, WEXITED | WNOWAIT), 0);
}

START_TEST(a_peer_dies)
{
	scenario_fn *const fns[] = {works_on, dies_early, works_on};
	struct job job;

	job_open(&job, fns);
	await_death(&job, 1);
	uint64_t from = now_ns();
	tell_failed(&job, 1);
	for (unsigned i = 0; i < 2; i++)
		check_time(from, job.said[job_hear(&job)].at_ns);
	check_said(&job, 0, ERR_IO, "rank 1 has failed, and the collectives with it");
	check_said(&job, 2, ERR_IO, "rank 1 has failed, and the collectives with it");
	job_close(&job);
}
END_TEST

/* Rank 1's communicator has an error at its fourth call; it says so, and the others hear of it. */
START_TEST(an_asynchronous_error)
{
	scenario_fn *const fns[] = {works_on, works_four_times, works_on};
	struct job job;

	ck_assert_int_eq(setenv("NCCL_HOST_ERROR", "1,4", 1), 0);
	uint64_t from = now_ns();
	job_open(&job, fns);
	ck_assert_uint_eq(job_hear(&job), 1);
	check_time(from, job.said[1].at_ns);
	check_said(&job, 1, err_nccl(6),
		   "comm/nccl_watch.c: ncclCommGetAsyncError: remote process exited or there was "
		   "a network error (6): ordered by the test");
	from = now_ns();
	tell_failed(&job, 1);
	for (unsigned i = 0; i < 2; i++)
		check_time(from, job.said[job_hear(&job)].at_ns);
	check_said(&job, 0, ERR_IO, "rank 1 has failed");
	job_close(&job);
}
END_TEST

/* The same as the consequence of a death, of which the agent tells a little later: that is told. */
START_TEST(an_error_for_a_death)
{
	scenario_fn *const fns[] = {works_four_times, works_four_times, dies_after_three};
	struct job job;

	ck_assert_int_eq(setenv("NCCL_HOST_ERROR", "1,4", 1), 0);
	job_open(&job, fns);
	await_death(&job, 2);
	tell_failed(&job, 2);
	(void)job_hear(&job);
	(void)job_hear(&job);
	ck_assert_msg(strstr(job.said[1].text, "rank 2 "), "%s", job.said[1].text);
	job_close(&job);
}
END_TEST

/* A call that is refused, a plain one and one that is deferred before it. */
START_TEST(a_call_is_refused)
{
	static const char *const at[] = {"0,1", "0,6"};
	scenario_fn *const fns[] = {works_on, works_on, works_on};
	struct job job;

	ck_assert_int_eq(setenv("NCCL_HOST_REFUSE", at[_i], 1), 0);
	job_open(&job, fns);
	ck_assert_uint_eq(job_hear(&job), 0);
	check_said(&job, 0, err_nccl(4),
		   "comm/nccl.c: ncclAllGather: invalid argument (4): ordered by the test");
	job_close(&job);
}
END_TEST

/* The end of the launcher, and what no launcher says. */
static const struct {
	uint32_t type, rank;
	uint8_t fill;
	int code;
	const char *text;
} nonsense[] = {
	{COMM_NEWS_ID, 0, 1, ERR_PROTOCOL, "news: a second id of the collectives"},
	{COMM_NEWS_FAILED, WORLD, 0, ERR_PROTOCOL, "news of type 2 about rank 3 of 3"},
	{77, 0, 0, ERR_PROTOCOL, "news of type 77 about rank 0 of 3"},
};

static void waits_for_rank_1(struct rank *x)
{
	if (comm_bed_begin(x))
		return;
	say(x, 0, "met");
	if (x->rank == 1)
		comes_late(x);
	/* Rank 1 does not make this call. */
	comm_all_reduce(x->comm, x->stream, DTYPE_F32, x->scratch, COUNT * WORLD);
	(void)device_stream_sync(x->stream, &x->err);
}

START_TEST(news_that_make_no_sense)
{
	scenario_fn *const fns[] = {waits_for_rank_1, waits_for_rank_1, waits_for_rank_1};
	struct comm_news news = {.type = nonsense[_i].type, .rank = nonsense[_i].rank};
	struct job job;

	memset(news.id, nonsense[_i].fill, sizeof(news.id));
	job_open(&job, fns);
	for (unsigned i = 0; i < WORLD; i++)
		check_said(&job, job_hear(&job), 0, "met");
	ck_assert_int_eq(comm_news_write(job.news[2][1], &news), 0);
	ck_assert_uint_eq(job_hear(&job), 2);
	check_said(&job, 2, nonsense[_i].code, nonsense[_i].text);
	job_close(&job);
}
END_TEST

/* Rank 0 holds all pipes of news: when it goes, and the test lets go of its own, nobody tells. */
START_TEST(the_launcher_goes)
{
	scenario_fn *const fns[] = {dies_early, works_on, works_on};
	struct job job;

	job_open(&job, fns);
	for (unsigned r = 0; r < WORLD; r++)
		close(job.news[r][1]);
	await_death(&job, 0);
	uint64_t from = now_ns();
	for (unsigned i = 0; i < 2; i++)
		check_time(from, job.said[job_hear(&job)].at_ns);
	check_said(&job, 1, ERR_UNAVAILABLE, "the launcher is gone");
	check_said(&job, 2, ERR_UNAVAILABLE, "the launcher is gone");
	for (unsigned r = 0; r < WORLD; r++)
		job.news[r][1] = -1;
	job_close(&job);
}
END_TEST

/* A rank that is dead before the ranks met, rank 0 among them: then no id comes. */
START_TEST(a_peer_never_comes)
{
	scenario_fn *fns[] = {works_on, works_on, works_on};
	struct job job;

	fns[_i] = never_comes;
	job_open(&job, fns);
	await_death(&job, (unsigned)_i);
	uint64_t from = now_ns();
	tell_failed(&job, (unsigned)_i);
	for (unsigned i = 0; i < 2; i++) {
		unsigned r = job_hear(&job);

		check_time(from, job.said[r].at_ns);
		ck_assert_int_eq(job.said[r].code, ERR_IO);
		ck_assert_ptr_nonnull(strstr(job.said[r].text, "failed"));
	}
	job_close(&job);
}
END_TEST

static void waits_200_ms(struct rank *x)
{
	x->timeout_ns = 200000000;
	work(x, 1);
}

/* One that lives and does not come is named, and the wait has a bound. */
START_TEST(a_peer_is_late)
{
	scenario_fn *const fns[] = {waits_200_ms, comes_late, waits_200_ms};
	struct job job;

	job_open(&job, fns);
	(void)job_hear(&job);
	(void)job_hear(&job);
	check_said(&job, 0, ERR_UNAVAILABLE,
		   "the ranks did not meet within 0.2 s: rank 1 did not come");
	check_said(&job, 2, ERR_UNAVAILABLE, "rank 1 did not come");
	job_close(&job);
}
END_TEST

START_TEST(an_end_in_order)
{
	scenario_fn *const fns[] = {works_and_ends, works_and_ends, works_and_ends};
	struct job job;

	job_open(&job, fns);
	for (unsigned i = 0; i < WORLD; i++) {
		unsigned r = job_hear(&job);

		check_said(&job, r, 0, "");
	}
	job_close(&job);
}
END_TEST

/* comm_free waits for a peer that has died: not for as long as it would for one that lives. */
START_TEST(a_peer_dies_at_the_end)
{
	scenario_fn *const fns[] = {works_and_ends, works_and_dies, works_and_ends};
	struct job job;

	job_open(&job, fns);
	await_death(&job, 1);
	uint64_t from = now_ns();
	tell_failed(&job, 1);
	for (unsigned i = 0; i < 2; i++)
		check_time(from, job.said[job_hear(&job)].at_ns);
	job_close(&job);
}
END_TEST

/* ---- what opening needs may not be had ---- */

/* Counts down to the call of this thread that fails; 0: none does. */
static _Thread_local unsigned fail_at;
static unsigned fault;

static bool fails_now(void)
{
	return fail_at && --fail_at == 0;
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
	return fails_now() ? NULL : __real_calloc(count, size);
}

void *__real_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	if (!fails_now())
		return __real_mmap(at, bytes, prot, flags, fd, offset);
	errno = ENOMEM;
	return MAP_FAILED;
}

int __real_eventfd(unsigned value, int flags);
int __wrap_eventfd(unsigned value, int flags);
int __wrap_eventfd(unsigned value, int flags)
{
	if (!fails_now())
		return __real_eventfd(value, flags);
	errno = EMFILE;
	return -1;
}

int __real_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg)
{
	return fails_now() ? EAGAIN : __real_pthread_create(ret, attr, fn, arg);
}

static void arm(void)
{
	fail_at = fault;
}

static void opens_with_a_fault(struct rank *x)
{
	x->before_open = arm;
	if (comm_bed_begin(x) == 0 && fail_at == 0)
		say(x, 0, "a fault went unnoticed");
	fail_at = 0;
}

static void opens(struct rank *x)
{
	(void)comm_bed_begin(x);
	comes_late(x);
}

/* Rank 0's k-th call fails for k = 1, 2, ... until none does; the others wait. */
START_TEST(opening_fails_at_every_place)
{
	scenario_fn *const fns[] = {opens_with_a_fault, opens, opens};
	struct job job;

	do {
		fault++;
		job_open(&job, fns);
		ck_assert_uint_eq(job_hear(&job), 0);
		ck_assert_msg(job.said[0].code <= 0 &&
				      (job.said[0].code == 0) == !job.said[0].text[0],
			      "fault %u: %d, '%s'", fault, job.said[0].code, job.said[0].text);
		job_close(&job);
	} while (job.said[0].code < 0);
	/* The two structs, the roll, the eventfd and the thread at least. */
	ck_assert_uint_gt(fault, 5);
}
END_TEST

/* ---- libraries that will not do ---- */

static int open_alone(unsigned rank, unsigned world, int fd, struct err *err)
{
	struct comm_config config = {
		.backend = COMM_NCCL, .rank = rank, .world = world, .shm_fd = fd, .news_fd = -1};
	struct comm *comm;

	return comm_open(&config, &comm, err);
}

START_TEST(too_old)
{
	static const struct {
		const char *code, *text;
	} old[] = {{"21713", "libnccl.so.2 is NCCL 2.17.13, too old: 2.18 or later is needed"},
		   {"2804", "libnccl.so.2 is NCCL 2.8.4, too old: 2.18 or later is needed"}};
	struct err err = {0};

	ck_assert_int_eq(setenv("NCCL_HOST_VERSION", old[_i].code, 1), 0);
	ck_assert_int_eq(open_alone(0, 2, -1, &err), ERR_CONFIG);
	ck_assert_str_eq(err.text, old[_i].text);
}
END_TEST

static void make_dir(const char *base, const char *name, char path[PATH_MAX])
{
	ck_assert_int_lt(snprintf(path, PATH_MAX, "%s%s", base, name), PATH_MAX);
	ck_assert(mkdir(path, 0755) == 0 || errno == EEXIST);
}

static void copy_self(const char *to)
{
	int in = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	ssize_t n;

	ck_assert(in >= 0 && out >= 0);
	do
		n = sendfile(out, in, NULL, 1 << 20);
	while (n > 0);
	ck_assert_int_eq(n, 0);
	close(in);
	close(out);
}

/* A copy of this program finds libraries beside itself, where there is none that deserves it. */
START_TEST(none)
{
	char base[PATH_MAX], dir[PATH_MAX], lib[PATH_MAX], path[PATH_MAX], text[1024] = "";
	struct err err = {0};
	int out[2], status;

	make_dir(getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", "/t_comm_nccl", base);
	make_dir(base, "/cuda_host", dir);
	make_dir(dir, "/lib", lib);
	ck_assert_int_lt(snprintf(path, sizeof(path), "%s/libnccl.so.2", lib), PATH_MAX);
	ck_assert_int_eq(file_replace(path, "no library\n", 11, &err), 0);
	make_dir(base, "/bin", dir);
	ck_assert_int_lt(snprintf(path, sizeof(path), "%s/copy", dir), PATH_MAX);
	copy_self(path);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (dup2(out[1], 1) == 1)
			execl(path, "copy", "open", (char *)NULL);
		_exit(99);
	}
	close(out[1]);
	ck_assert_int_gt(read(out[0], text, sizeof(text) - 1), 0);
	close(out[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(WEXITSTATUS(status), err_exit_status(ERR_CONFIG));
	ck_assert_msg(strstr(text, "NCCL's (2.18 or later), which cannot be loaded: ") &&
			      strstr(text, "libnccl.so.2"),
		      "%s", text);
	ck_assert_int_eq(file_remove_tree(base, &err), 0);
}
END_TEST

static int main_of_copy(void)
{
	struct err err = {0};
	int rc = open_alone(0, 2, -1, &err);

	printf("%s\n", err.text);
	return err_exit_status(rc);
}

static Suite *make_suite(void)
{
	Suite *suite = suite_create("comm_nccl");
	TCase *works = tcase_create("works"), *ends = tcase_create("ends");
	/* Without fork a test's environment would be the next one's. */
	bool forks = !getenv("CK_FORK") || strcmp(getenv("CK_FORK"), "no") != 0;

	tcase_set_timeout(works, 120);
	tcase_set_timeout(ends, 60);
	tcase_add_loop_test(works, many_calls_among_threads, 1, 5);
	if (forks) {
		tcase_add_loop_test(works, sizes_among_processes, 1, 5);
		tcase_add_loop_test(works, many_calls_among_processes, 2, 5);
		tcase_add_test(works, failures_stick);
		tcase_add_test(ends, a_peer_dies);
		tcase_add_test(ends, an_asynchronous_error);
		tcase_add_test(ends, an_error_for_a_death);
		tcase_add_loop_test(ends, a_call_is_refused, 0, 2);
		tcase_add_loop_test(ends, news_that_make_no_sense, 0, 3);
		tcase_add_test(ends, the_launcher_goes);
		tcase_add_loop_test(ends, a_peer_never_comes, 0, 2);
		tcase_add_test(ends, a_peer_is_late);
		tcase_add_test(ends, an_end_in_order);
		tcase_add_test(ends, a_peer_dies_at_the_end);
		tcase_add_test(ends, opening_fails_at_every_place);
		tcase_add_loop_test(ends, too_old, 0, 2);
		tcase_add_test(ends, none);
	}
	suite_add_tcase(suite, works);
	suite_add_tcase(suite, ends);
	return suite;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "open") == 0)
		return main_of_copy();

	SRunner *runner = srunner_create(make_suite());
	int failed;

	printf("seed %u\n", COMM_BED_SEED);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
