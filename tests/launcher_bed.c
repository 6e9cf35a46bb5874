/*
 * The bed of the launcher's tests. Every process of a job inherits FAKE_MARK, so that whatever is
 * left of it is found in /proc by its environment, wherever setsid and forks have taken it.
 */
#include "tests/launcher_bed.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WAIT_NS 30000000000ull

uint64_t bed_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static const char *build_dir(void)
{
	return getenv("B") ? getenv("B") : "build";
}

/* A configuration that dsrun accepts; no file that it names is ever opened by a fake worker. */
static void write_config(const struct bed *bed, char path[PATH_MAX])
{
	const char *dir = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";

	snprintf(path, PATH_MAX, "%s/launcher-%d-%u-%d.yaml", dir, (int)getpid(), bed->ranks,
		 bed->daemon);
	FILE *f = fopen(path, "we");
	ck_assert_ptr_nonnull(f);
	fprintf(f,
		"model: {layers: 2, hidden: 64, heads: 2, vocab: 256, context: 64}\n"
		"data: {train: [a.bin]}\n"
		"batch: {global: %u, micro: 1}\n"
		"optimizer: {lr: 3e-4}\n"
		"schedule: {steps: 10}\n"
		"zero: {stage: 3%s}\n"
		"%s"
		"device: {count: %u, memory: 64MiB}\n",
		bed->ranks, bed->daemon ? ", offload_optimizer: cpu" : "",
		bed->daemon ? "host: {memory: 1GiB, threads: 1}\n" : "", bed->ranks);
	ck_assert_int_eq(fclose(f), 0);
}

static void child(const struct bed *bed, char *const *argv)
{
	char text[PATH_MAX];
	int out = bed->out_fd ? bed->out_fd : bed->out;

	setenv("FAKE_MARK", bed->mark, 1);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)bed->epoch_ns);
	setenv("FAKE_EPOCH_NS", text, 1);
	snprintf(text, sizeof(text), "%s/tests/fake_worker", build_dir());
	setenv("DSRUN_WORKER", text, 1);
	setenv("DSRUN_DAEMON", text, 1);
	for (size_t i = 0; i < BED_ENV_MAX && bed->env[i]; i++)
		putenv((char *)(uintptr_t)bed->env[i]);
	if (bed->ignore_hup)
		signal(SIGHUP, SIG_IGN);
	/* The end of a test that fails must be the end of its job. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || dup2(out, 1) < 0 || dup2(bed->err, 2) < 0 ||
	    setpgid(0, 0) < 0)
		_exit(98);
	execv(argv[0], argv);
	_exit(98);
}

void bed_start(struct bed *bed)
{
	static unsigned serial;
	char dsrun[PATH_MAX], config[PATH_MAX];
	char *argv[BED_ARGS_MAX + 4];
	size_t argc = 0;

	if (!bed->ranks)
		bed->ranks = 3;
	snprintf(bed->mark, sizeof(bed->mark), "%d.%u.%llx", (int)getpid(), serial++,
		 (unsigned long long)bed_now_ns());
	bed->out = memfd_create("out", MFD_CLOEXEC);
	bed->err = memfd_create("err", MFD_CLOEXEC);
	ck_assert(bed->out >= 0 && bed->err >= 0);
	snprintf(dsrun, sizeof(dsrun), "%s/bin/dsrun", build_dir());
	argv[argc++] = dsrun;
	for (size_t i = 0; i < BED_ARGS_MAX && bed->args[i]; i++)
		argv[argc++] = (char *)(uintptr_t)bed->args[i];
	if (!bed->no_config) {
		write_config(bed, config);
		argv[argc++] = config;
	}
	argv[argc] = NULL;
	bed->epoch_ns = bed_now_ns();
	bed->started = time(NULL);
	bed->pid = fork();
	ck_assert_int_ge(bed->pid, 0);
	if (bed->pid == 0)
		child(bed, argv);
}

/* Does /proc/PID/environ hold both? */
static bool has(pid_t pid, const char *mark, const char *what)
{
	char path[64], *at, *end, text[1 << 16];
	bool marked = false, found = !what;

	snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return false;
	text[len] = '\0';
	for (at = text, end = text + len; at < end; at += strlen(at) + 1) {
		if (strncmp(at, "FAKE_MARK=", 10) == 0 && strcmp(at + 10, mark) == 0)
			marked = true;
		if (what && strncmp(at, what, strlen(what)) == 0)
			found = true;
	}
	return marked && found;
}

/* In clock ticks after boot; the highest number when the process is gone. */
static unsigned long long start_of(pid_t pid)
{
	char path[64], text[1024] = "";
	unsigned long long start = ~0ull;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "re");
	const char *at = f && fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;
	if (f)
		fclose(f);
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	if (at)
		sscanf(at, "%llu", &start);
	return start;
}

/* Processes of the job, not dsrun itself, that have `what`; the oldest is no worker's child. */
static unsigned count(const struct bed *bed, const char *what, pid_t *ret_pid)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	unsigned found = 0;
	unsigned long long oldest = ~0ull;

	ck_assert_ptr_nonnull(proc);
	while ((entry = readdir(proc)) != NULL) {
		pid_t pid = (pid_t)atoi(entry->d_name);

		if (pid <= 0 || pid == bed->pid || pid == getpid() || !has(pid, bed->mark, what))
			continue;
		found++;
		unsigned long long start = ret_pid ? start_of(pid) : ~0ull;
		if (start < oldest) {
			oldest = start;
			*ret_pid = pid;
		}
	}
	closedir(proc);
	return found;
}

unsigned bed_left(const struct bed *bed)
{
	return count(bed, NULL, NULL);
}

/* Its command line says "agent", as no other's does. */
static pid_t find_agent(const struct bed *bed)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	ck_assert_ptr_nonnull(proc);
	while (!found && (entry = readdir(proc)) != NULL) {
		pid_t pid = (pid_t)atoi(entry->d_name);
		char path[64], text[64] = "";

		if (pid <= 0 || !has(pid, bed->mark, NULL))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && read(fd, text, sizeof(text)) == 12 &&
		    !memcmp(text, "dsrun\0agent", 12))
			found = pid;
		if (fd >= 0)
			close(fd);
	}
	closedir(proc);
	return found;
}

pid_t bed_find(const struct bed *bed, const char *what)
{
	pid_t pid = 0;

	if (strcmp(what, "agent") == 0)
		return find_agent(bed);
	(void)count(bed, what, &pid);
	return pid;
}

static void breathe(void)
{
	const struct timespec t = {.tv_nsec = 1000000};

	nanosleep(&t, NULL);
}

void bed_await(struct bed *bed, const char *what, unsigned wanted)
{
	uint64_t until = bed_now_ns() + WAIT_NS;

	while (count(bed, what, NULL) != wanted) {
		ck_assert_msg(bed_now_ns() < until, "%u processes with %s never came", wanted,
			      what);
		breathe();
	}
}

void bed_await_zombie(pid_t pid)
{
	uint64_t until = bed_now_ns() + WAIT_NS;
	char path[64], text[256], state = ' ';

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	while (state != 'Z') {
		FILE *f = fopen(path, "re");
		const char *at = f && fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;

		if (f)
			fclose(f);
		if (at)
			state = at[2];
		ck_assert_msg(bed_now_ns() < until, "%d does not end", (int)pid);
	}
}

static char *text_of(int fd, size_t *ret_len)
{
	struct stat st;

	ck_assert_int_eq(fstat(fd, &st), 0);
	size_t len = (size_t)st.st_size;
	char *text = malloc(len + 1);
	ck_assert_ptr_nonnull(text);
	ck_assert_int_eq(pread(fd, text, len, 0), (ssize_t)len);
	text[len] = '\0';
	if (ret_len)
		*ret_len = len;
	for (size_t i = 0; i < len; i++) {
		if (!text[i])
			text[i] = '?';
	}
	return text;
}

void bed_await_text(struct bed *bed, int fd, const char *want)
{
	uint64_t until = bed_now_ns() + WAIT_NS;

	for (;;) {
		char *text = text_of(fd, NULL);
		bool found = strstr(text, want) != NULL;

		free(text);
		if (found)
			return;
		ck_assert_msg(bed_now_ns() < until, "'%s' never came", want);
		ck_assert_msg(kill(bed->pid, 0) == 0, "dsrun is gone");
		breathe();
	}
}

void bed_check_names(const struct bed *bed)
{
	char line[512], name[64];
	glob_t found;
	FILE *f = fopen("/proc/net/unix", "re");

	snprintf(name, sizeof(name), "@dsrun-%d-", (int)bed->pid);
	while (f && fgets(line, sizeof(line), f))
		ck_assert_msg(!strstr(line, name), "a socket is left: %s", line);
	if (f)
		fclose(f);
	snprintf(line, sizeof(line), "/sys/fs/cgroup/{.,*,*/*}/dsrun-%d-*", (int)bed->pid);
	if (glob(line, GLOB_BRACE, NULL, &found) != 0)
		return;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		/* An older one is that of an earlier process with this pid. */
		struct stat st;

		ck_assert_msg(stat(found.gl_pathv[i], &st) < 0 || st.st_mtime < bed->started,
			      "a cgroup is left: %s", found.gl_pathv[i]);
	}
	globfree(&found);
}

void bed_wait(struct bed *bed)
{
	int status, pidfd = (int)syscall(SYS_pidfd_open, bed->pid, 0);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	ck_assert_int_ge(pidfd, 0);
	int ready = poll(&p, 1, (int)(WAIT_NS / 1000000));
	bed->ended_ns = bed_now_ns();
	unsigned left = bed_left(bed);
	if (ready != 1)
		kill(bed->pid, SIGKILL);
	ck_assert_int_eq(waitpid(bed->pid, &status, 0), bed->pid);
	close(pidfd);
	bed->status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
	bed->out_text = text_of(bed->out, &bed->out_len);
	bed->err_text = text_of(bed->err, NULL);
	ck_assert_msg(ready == 1, "dsrun does not end; it said: %s", bed->err_text);
	if (bed->status == 1000 + SIGKILL)
		return;
	ck_assert_msg(left == 0, "%u processes left; dsrun said: %s", left, bed->err_text);
	bed_check_names(bed);
}

void bed_run(struct bed *bed)
{
	bed_start(bed);
	bed_wait(bed);
}

void bed_done(struct bed *bed)
{
	close(bed->out);
	close(bed->err);
	free(bed->out_text);
	free(bed->err_text);
	*bed = (struct bed){0};
}

/* Wall time over CPU time of a short spin: 1 on an idle core. */
static double load(void)
{
	struct timespec cpu0, cpu1;
	uint64_t began = bed_now_ns();

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu0);
	do
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu1);
	while ((cpu1.tv_sec - cpu0.tv_sec) * 1000000000ll + (cpu1.tv_nsec - cpu0.tv_nsec) <
	       20000000);
	return (double)(bed_now_ns() - began) / 20e6;
}

void bed_check_time(const struct bed *bed, unsigned ms)
{
	const char *stamp = strstr(bed->err_text, "failed at ");
	uint64_t at = stamp ? strtoull(stamp + 10, NULL, 10) : bed->epoch_ns;
	double took = bed->ended_ns > at ? (double)(bed->ended_ns - at) / 1e6 : 0;
	double factor, bound = ms;

	if (took <= bound)
		return;
	factor = load();
	if (factor > 1.2 || getenv("SAN")) {
		printf("took %.0f ms, %u ms promised; the machine is loaded (%.1f): 10 times\n",
		       took, ms, factor);
		bound *= 10;
	}
	ck_assert_msg(took <= bound, "took %.0f ms, %u ms promised; dsrun said: %s", took, ms,
		      bed->err_text);
}

void bed_check(const struct bed *bed, int status, const char *text)
{
	ck_assert_msg(bed->status == status, "status %d, expected %d; dsrun said: %s", bed->status,
		      status, bed->err_text);
	ck_assert_msg(!text || strstr(bed->err_text, text), "no '%s'; dsrun said: %s", text,
		      bed->err_text);
}
