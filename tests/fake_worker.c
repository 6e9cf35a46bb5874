/*
 * Stands in for dsworker and dsoffloadd in the launcher's tests: does what a script says.
 *
 * As a worker (RANK is set) the script is $FAKE_<rank>, else $FAKE_ALL; as a daemon ($LISTEN_FDS
 * is set) $FAKE_DAEMON, then accepting and holding connections until SIGTERM; its exit status is
 * $FAKE_DAEMON_END, else 0. Commands, separated by ';':
 *
 *   exit N            _exit(N)                    signal N      dies of that signal
 *   until MS          sleeps to MS after the ranks met, or else after $FAKE_EPOCH_NS
 *   meet              waits until all ranks have come to theirs
 *   stamp             prints "failed at" and the time to standard error
 *   wait              sleeps for ever             stop          waits for SIGTERM, goes on
 *   ignore            SIGTERM is ignored          children N    that sleep for ever
 *   orphans N         grandchildren in sessions of their own, SIGTERM ignored, that sleep for ever
 *   out TEXT, err TEXT, bare TEXT (no newline), flood KIB (lines of 100), long BYTES (one line)
 *   note, step, live, summary, fail TEXT          reports
 *   nonsense          bytes that are no report
 *   env NAME          prints it, from its environment, to standard output
 *   id TEXT           reports TEXT as the id of the collectives; without TEXT, one that is right
 *   news              waits for news and prints it to standard output
 *   check             its descriptors and environment, or exits 99
 *   binary            all 256 bytes and a newline
 *   daemon            connects, waits until the daemon hangs up, reports failure, exits 69
 *   lines N           "line 0" and so on to standard error
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "comm/news.h"
#include "offload/job.h"

static void must(bool fine, const char *what)
{
	if (fine)
		return;
	dprintf(2, "fake_worker: %s: %s\n", what, strerror(errno));
	_exit(99);
}

static void on_term(int sig)
{
	(void)sig;
}

static unsigned long long epoch_ns; /* CLOCK_MONOTONIC; ranks that met have the same */

static unsigned long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (unsigned long long)now.tv_sec * 1000000000ull + (unsigned long long)now.tv_nsec;
}

static void until(long ms)
{
	unsigned long long at = epoch_ns + (unsigned long long)ms * 1000000ull;
	struct timespec t = {.tv_sec = (time_t)(at / 1000000000ull),
			     .tv_nsec = (long)(at % 1000000000ull)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		continue;
}

struct meeting {
	_Atomic unsigned come;
	_Atomic unsigned long long at_ns; /* 0 until the last has come */
};

/* A barrier in the segment that ranks share. */
static void meet(void)
{
	const struct timespec a_while = {.tv_nsec = 200000};
	unsigned world = (unsigned)atoi(getenv("WORLD_SIZE"));
	struct meeting *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, JOB_FD_COMM, 0);

	must(m != MAP_FAILED, "mmap");
	/* The release of at_ns pairs with the acquire of those that wait for it. */
	if (atomic_fetch_add_explicit(&m->come, 1, memory_order_acq_rel) + 1 == world)
		atomic_store_explicit(&m->at_ns, now_ns(), memory_order_release);
	while ((epoch_ns = atomic_load_explicit(&m->at_ns, memory_order_acquire)) == 0)
		nanosleep(&a_while, NULL);
}

static void die_of(int sig)
{
	struct rlimit none = {0};
	sigset_t set;

	setrlimit(RLIMIT_CORE, &none);
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
	for (;;)
		pause();
}

static void children(int count, bool orphans)
{
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();

		must(pid >= 0, "fork");
		if (pid > 0)
			continue;
		if (orphans) {
			signal(SIGTERM, SIG_IGN);
			setsid();
			if (fork() != 0)
				_exit(0);
			setsid();
		}
		for (;;)
			pause();
	}
}

static void report(enum report_type type, const char *text)
{
	struct report_head head = {.type = type, .bytes = (uint32_t)strlen(text)};
	char buf[4096];
	size_t len = sizeof(head) + head.bytes;

	must(len <= sizeof(buf), "report");
	memcpy(buf, &head, sizeof(head));
	memcpy(buf + sizeof(head), text, head.bytes);
	must(write(JOB_FD_REPORT, buf, len) == (ssize_t)len, "report");
}

static void flood(long kib)
{
	char line[100];

	memset(line, 'x', sizeof(line));
	line[99] = '\n';
	for (long i = 0; i < kib * 1024 / 100; i++)
		must(write(1, line, sizeof(line)) == sizeof(line), "flood");
}

static void long_line(long bytes)
{
	char part[1000];

	memset(part, 'y', sizeof(part));
	for (long i = 0; i < bytes; i += (long)sizeof(part))
		must(write(1, part, sizeof(part)) == sizeof(part), "long");
	must(write(1, "\n", 1) == 1, "long");
}

static void binary(void)
{
	unsigned char all[257];

	for (int i = 0; i < 256; i++)
		all[i] = (unsigned char)(i == '\n' ? ' ' : i);
	all[256] = '\n';
	must(write(1, all, sizeof(all)) == sizeof(all), "binary");
}

static void report_id(const char *text)
{
	char right[COMM_ID_TEXT_BYTES];

	for (size_t i = 0; i < sizeof(right) - 1; i++)
		right[i] = "0123456789abcdef"[i * 7 % 16];
	right[sizeof(right) - 1] = '\0';
	report(REPORT_COMM_ID, *text ? text : right);
}

static void news(void)
{
	struct comm_news got;

	must(read(JOB_FD_NEWS, &got, sizeof(got)) == (ssize_t)sizeof(got), "news");
	if (got.type == COMM_NEWS_ID)
		dprintf(1, "id %02x%02x%02x..%02x\n", got.id[0], got.id[1], got.id[2],
			got.id[COMM_ID_BYTES - 1]);
	else
		dprintf(1, "news %u of rank %u\n", got.type, got.rank);
}

/* Exactly descriptors 0 to 6, of the kinds that offload/job.h says, and the environment. */
static void check(void)
{
	static const mode_t kinds[] = {S_IFCHR, S_IFIFO, S_IFIFO, S_IFREG,
				       S_IFREG, S_IFIFO, S_IFIFO};
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	struct stat st;
	sigset_t mask;
	char text[1 << 16];

	for (int i = 0; i < 7; i++)
		must(fstat(i, &st) == 0 && (st.st_mode & S_IFMT) == kinds[i], "descriptor");
	must(dir != NULL, "opendir");
	while ((entry = readdir(dir)) != NULL) {
		int fd = atoi(entry->d_name);

		must(entry->d_name[0] == '.' || fd < 7 || fd == dirfd(dir), "one too many");
	}
	closedir(dir);
	must(read(JOB_FD_JOB, text, sizeof(text)) > 0 && strstr(text, "config_text"), "job");
	must(fcntl(JOB_FD_COMM, F_GET_SEALS) & F_SEAL_SHRINK, "comm");
	must(getenv("RANK") && getenv("LOCAL_RANK") && getenv("WORLD_SIZE") &&
		     getenv("LOCAL_WORLD_SIZE") && getenv("OPENBLAS_NUM_THREADS"),
	     "environment");
	must(sigprocmask(SIG_BLOCK, NULL, &mask) == 0, "sigprocmask");
	for (int s = 1; s < 32; s++)
		must(!sigismember(&mask, s), "a blocked signal");
	must(signal(SIGPIPE, SIG_DFL) == SIG_DFL, "SIGPIPE");
	must(getpgrp() == getpid(), "process group");
}

/* The daemon's socket, from the job's text. */
static void use_daemon(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char text[1 << 16], *at, *end = NULL;
	ssize_t len = read(JOB_FD_JOB, text, sizeof(text) - 1);

	must(len > 0, "job");
	text[len] = '\0';
	at = strstr(text, "\"socket\"");
	must(at && (at = strchr(at + 8, '@')) != NULL && (end = strchr(at, '"')) != NULL, "socket");
	memcpy(addr.sun_path + 1, at + 1, (size_t)(end - at - 1));

	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	socklen_t bytes = (socklen_t)(sizeof(addr.sun_family) + (size_t)(end - at));
	must(connect(fd, (struct sockaddr *)&addr, bytes) == 0, "connect");
	struct pollfd p = {.fd = fd, .events = POLLIN};
	must(poll(&p, 1, -1) == 1, "poll");
	report(REPORT_FAILURE, "dsoffloadd hung up");
	_exit(69);
}

static void stop(void)
{
	struct sigaction action = {.sa_handler = on_term};
	sigset_t term, before;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, &before);
	sigaction(SIGTERM, &action, NULL);
	report(REPORT_NOTE, "ready");
	sigsuspend(&before);
}

static void run(char *command)
{
	char *rest = strchr(command, ' ');

	if (rest)
		*rest++ = '\0';
	else
		rest = command + strlen(command);
	long n = atol(rest);
	if (!strcmp(command, "exit"))
		_exit((int)n);
	else if (!strcmp(command, "signal"))
		die_of((int)n);
	else if (!strcmp(command, "until"))
		until(n);
	else if (!strcmp(command, "meet"))
		meet();
	else if (!strcmp(command, "stamp"))
		dprintf(2, "failed at %llu\n", now_ns());
	else if (!strcmp(command, "wait"))
		for (;;)
			pause();
	else if (!strcmp(command, "stop"))
		stop();
	else if (!strcmp(command, "ignore"))
		signal(SIGTERM, SIG_IGN);
	else if (!strcmp(command, "children") || !strcmp(command, "orphans"))
		children((int)n, command[0] == 'o');
	else if (!strcmp(command, "out"))
		dprintf(1, "%s\n", rest);
	else if (!strcmp(command, "err"))
		dprintf(2, "%s\n", rest);
	else if (!strcmp(command, "bare"))
		dprintf(1, "%s", rest);
	else if (!strcmp(command, "flood"))
		flood(n);
	else if (!strcmp(command, "long"))
		long_line(n);
	else if (!strcmp(command, "binary"))
		binary();
	else if (!strcmp(command, "lines"))
		for (long i = 0; i < n; i++)
			dprintf(2, "line %ld\n", i);
	else if (!strcmp(command, "note"))
		report(REPORT_NOTE, rest);
	else if (!strcmp(command, "step"))
		report(REPORT_STEP, rest);
	else if (!strcmp(command, "live"))
		report(REPORT_LIVE, rest);
	else if (!strcmp(command, "summary"))
		report(REPORT_SUMMARY, rest);
	else if (!strcmp(command, "fail"))
		report(REPORT_FAILURE, rest);
	else if (!strcmp(command, "nonsense"))
		must(write(JOB_FD_REPORT, "all work and no play", 20) == 20, "nonsense");
	else if (!strcmp(command, "env"))
		dprintf(1, "%s\n", getenv(rest) ? getenv(rest) : "not set");
	else if (!strcmp(command, "id"))
		report_id(rest);
	else if (!strcmp(command, "news"))
		news();
	else if (!strcmp(command, "check"))
		check();
	else if (!strcmp(command, "daemon"))
		use_daemon();
	else
		must(false, command);
}

static void run_script(const char *script)
{
	char *copy = strdup(script), *at = copy, *command;

	must(copy != NULL, "strdup");
	while ((command = strsep(&at, ";")) != NULL) {
		while (*command == ' ')
			command++;
		if (*command)
			run(command);
	}
	free(copy);
}

/* Holds whoever connects. A blocking accept that SIGTERM ends. */
static void be_daemon(void)
{
	struct sigaction action = {.sa_handler = on_term};
	const char *pid = getenv("LISTEN_PID"), *script = getenv("FAKE_DAEMON");
	struct stat st;

	must(pid && atoi(pid) == (int)getpid(), "LISTEN_PID");
	must(fstat(4, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0, "configuration");
	if (script)
		run_script(script);
	sigaction(SIGTERM, &action, NULL);
	while (accept(3, NULL, NULL) >= 0)
		continue;
	_exit(getenv("FAKE_DAEMON_END") ? atoi(getenv("FAKE_DAEMON_END")) : 0);
}

int main(void)
{
	char name[32];
	const char *script, *epoch = getenv("FAKE_EPOCH_NS");

	epoch_ns = epoch ? strtoull(epoch, NULL, 10) : 0;
	if (getenv("LISTEN_FDS"))
		be_daemon();
	snprintf(name, sizeof(name), "FAKE_%s", getenv("RANK") ? getenv("RANK") : "");
	script = getenv(name) ? getenv(name) : getenv("FAKE_ALL");
	if (script)
		run_script(script);
	return 0;
}
