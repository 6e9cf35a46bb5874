/*
 * Goal: whoever dies, and however, the other side knows at once and nothing of a session is left:
 * no memory, no swap, no descriptor; quotas hold and say what to do; the daemon drains.
 *
 * Method: a real dsoffloadd and clients in processes of their own, killed at varied moments in the
 * middle of steps; then the daemon's own figures and its /proc/PID/fd are compared with what they
 * were before. Waiting is done by asking until a bound. Fixed seed.
 */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/daemon_bed.h"

#define SEED      7u
#define KILLS     10
#define NOTICE_MS 200

static const char *const conf = "host: {memory: 1GiB, threads: 2}\n";

static struct bed_case swapped(void)
{
	struct bed_case c = {.param_type = DTYPE_BF16,
			     .grad_type = DTYPE_BF16,
			     .engine = NVME_AUTO,
			     .chunk_buffers = 4,
			     .queue_depth = 8,
			     .path_count = 2};

	bed_case_homes(&c, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_NONE);
	return c;
}

static struct bed_case in_memory(void)
{
	struct bed_case c = swapped();

	bed_case_homes(&c, PROTOCOL_HOME_MEMORY, PROTOCOL_HOME_MEMORY, PROTOCOL_HOME_NONE);
	c.path_count = 0;
	return c;
}

static void open_ok(struct bed_session *s, const struct bed_case *c, const struct bed_daemon *d)
{
	struct err err;

	ck_assert_msg(bed_open(s, c, d, &err) == 0, "%s", err.text);
}

static void open_refused(const struct bed_case *c, const struct bed_daemon *d, const char *text)
{
	struct bed_session s;
	struct err err;

	ck_assert_int_lt(bed_open(&s, c, d, &err), 0);
	ck_assert_msg(strstr(err.text, text) != NULL, "'%s' does not say '%s'", err.text, text);
}

/* A client that steps for ever; a byte in the pipe says that it has begun. */
static pid_t stepper(const struct bed_daemon *d, const struct bed_case *c, int *ret_fd)
{
	struct bed_session s;
	struct err err;
	int fds[2];
	pid_t pid;

	ck_assert_int_eq(pipe(fds), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid > 0) {
		close(fds[1]);
		*ret_fd = fds[0];
		return pid;
	}
	if (bed_open(&s, c, d, &err) < 0)
		_exit(1);
	bed_import(&s);
	while (bed_step_blindly(&s, &err))
		if (s.step == 3 && write(fds[1], "", 1) != 1)
			_exit(2);
	_exit(3);
}

START_TEST(killed_client)
{
	const struct bed_case setup = _i == 0 ? in_memory() : swapped();
	struct bed_daemon d;
	uint64_t random = SEED;
	unsigned fds;
	int fd, status;
	pid_t pid;
	char byte;

	bed_start(&d, conf);
	bed_await_sessions(&d, 0);
	fds = bed_fds(&d);
	for (int i = 0; i < KILLS; i++) {
		pid = stepper(&d, &setup, &fd);
		ck_assert_int_eq(read(fd, &byte, 1), 1);
		/* At some moment of the steps that follow: nobody waits for this one. */
		for (uint64_t spin = bed_random(&random) % 2000000; spin > 0; spin--)
			__asm__ volatile("");
		kill(pid, SIGKILL);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		close(fd);
		bed_await_sessions(&d, 0);
		ck_assert_uint_eq(bed_status(&d, "memory.used_bytes"), 0);
		ck_assert_uint_eq(bed_status(&d, "swap.used_bytes"), 0);
	}
	ck_assert_uint_eq(bed_status(&d, "sessions.ended"), KILLS);
	ck_assert_uint_eq(bed_fds(&d), fds);
	bed_stop(&d);
}
END_TEST

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct killer {
	pthread_t thread;
	pid_t pid;
	uint64_t killed_ms;
};

static void *kill_it(void *arg)
{
	struct killer *k = arg;

	k->killed_ms = now_ms();
	kill(k->pid, SIGKILL);
	return NULL;
}

/* The daemon is stopped first, so that the client is sure to be waiting, or about to. */
START_TEST(killed_daemon)
{
	const struct bed_case setup = _i == 0 ? in_memory() : swapped();
	struct protocol_submission sub = {.op = PROTOCOL_OP_FETCH, .unit = 0};
	struct bed_session s;
	struct bed_daemon d;
	struct killer k;
	struct err err;
	uint64_t noticed_ms;
	uint32_t id;
	int status;

	bed_start(&d, conf);
	open_ok(&s, &setup, &d);
	bed_import(&s);
	sub.offset = s.units[0].fetch_offset;
	kill(d.pid, SIGSTOP);
	ck_assert_int_eq(waitpid(d.pid, &status, WUNTRACED), d.pid);
	ck_assert(WIFSTOPPED(status));
	ck_assert_int_eq(client_submit(s.client, &sub, &id, &err), 0);
	ck_assert_int_eq(client_poll(s.client, id, &err), 0);
	k.pid = d.pid;
	ck_assert_int_eq(pthread_create(&k.thread, NULL, kill_it, &k), 0);
	ck_assert_int_eq(client_wait(s.client, id, NULL, &err), ERR_UNAVAILABLE);
	noticed_ms = now_ms();
	pthread_join(k.thread, NULL);
	ck_assert_msg(strstr(err.text, "is gone") != NULL, "%s", err.text);
	ck_assert_uint_le(noticed_ms - k.killed_ms, NOTICE_MS);
	/* And so it stays, in every call. */
	ck_assert_int_eq(client_prepare(s.client, &id, &err), ERR_UNAVAILABLE);
	ck_assert_int_eq(client_push(s.client, &sub, &err), ERR_UNAVAILABLE);
	ck_assert_int_eq(client_stats(s.client, &(struct protocol_stats){.operations = 0}, &err),
			 ERR_UNAVAILABLE);
	bed_wait(&d);
	bed_close(&s);
	ck_assert_int_eq(client_probe(d.socket, &err), 0);
	bed_clean(&d);
}
END_TEST

START_TEST(drains)
{
	const struct bed_case setup = swapped();
	struct bed_session s;
	struct bed_daemon d;
	struct err err;

	bed_start(&d, conf);
	open_ok(&s, &setup, &d);
	bed_import(&s);
	kill(d.pid, SIGTERM);
	while (client_probe(d.socket, &err) == 1)
		poll(NULL, 0, 1);
	ck_assert_msg(strstr(err.text, "draining") != NULL, "%s", err.text);
	open_refused(&setup, &d, "draining");
	bed_step(&s);
	bed_export(&s);
	bed_close(&s);
	ck_assert_int_eq(bed_wait(&d), 0);
	bed_clean(&d);
}
END_TEST

START_TEST(ends_at_once)
{
	const struct bed_case setup = swapped();
	struct bed_session s;
	struct bed_daemon d;
	struct err err;

	bed_start(&d, conf);
	open_ok(&s, &setup, &d);
	bed_import(&s);
	bed_await_sessions(&d, 1);
	kill(d.pid, SIGTERM);
	if (_i == 0) {
		while (client_probe(d.socket, &err) == 1)
			poll(NULL, 0, 1);
		kill(d.pid, SIGTERM);
	} else {
		kill(d.pid, SIGINT);
	}
	while (bed_step_blindly(&s, &err))
		;
	ck_assert_msg(strstr(err.text, "told to stop at once") != NULL, "%s", err.text);
	ck_assert_int_eq(bed_wait(&d), 0);
	bed_close(&s);
	bed_clean(&d);
}
END_TEST

/* Quotas. */

START_TEST(memory_quota)
{
	const struct bed_case setup = in_memory();
	struct bed_session s[2];
	struct bed_daemon d;
	uint64_t needed;

	bed_start(&d, conf);
	open_ok(&s[0], &setup, &d);
	needed = client_opened(s[0].client)->memory_bytes;
	ck_assert_uint_eq(bed_status(&d, "memory.used_bytes"), needed);
	bed_close(&s[0]);
	bed_stop(&d);

	/* Exactly enough for one, one byte too few for two. */
	char text[128];
	snprintf(text, sizeof(text), "host: {memory: %llu, threads: 1}\n",
		 (unsigned long long)(2 * needed - 1));
	bed_start(&d, text);
	open_ok(&s[0], &setup, &d);
	open_refused(&setup, &d, "raise host.memory in");
	bed_close(&s[0]);
	open_ok(&s[1], &setup, &d);
	bed_close(&s[1]);
	bed_stop(&d);

	snprintf(text, sizeof(text), "host: {memory: 1GiB}\nsession: {memory: %llu}\n",
		 (unsigned long long)(needed - 1));
	bed_start(&d, text);
	open_refused(&setup, &d, "raise session.memory in");
	bed_stop(&d);
}
END_TEST

START_TEST(swap_quota)
{
	const struct bed_case setup = swapped();
	struct bed_session s[2];
	struct bed_daemon d;
	uint64_t needed;
	char text[128];

	bed_start(&d, conf);
	open_ok(&s[0], &setup, &d);
	needed = client_opened(s[0].client)->swap_bytes;
	ck_assert_uint_eq(bed_status(&d, "swap.used_bytes"), needed);
	bed_close(&s[0]);
	bed_stop(&d);

	snprintf(text, sizeof(text), "nvme: {quota: %llu}\n", (unsigned long long)(2 * needed - 1));
	bed_start(&d, text);
	open_ok(&s[0], &setup, &d);
	open_refused(&setup, &d, "raise nvme.quota in");
	bed_close(&s[0]);
	bed_stop(&d);

	snprintf(text, sizeof(text), "session: {swap: %llu}\n", (unsigned long long)(needed - 1));
	bed_start(&d, text);
	open_refused(&setup, &d, "raise session.swap in");
	bed_stop(&d);
}
END_TEST

START_TEST(session_count)
{
	const struct bed_case setup = in_memory();
	struct bed_session s[2];
	struct bed_daemon d;

	bed_start(&d, "session: {max: 2}\n");
	open_ok(&s[0], &setup, &d);
	open_ok(&s[1], &setup, &d);
	open_refused(&setup, &d, "session.max");
	bed_close(&s[0]);
	open_ok(&s[0], &setup, &d);
	bed_close(&s[0]);
	bed_close(&s[1]);
	bed_stop(&d);
}
END_TEST

START_TEST(swap_rules)
{
	struct bed_case setup = swapped();
	struct bed_daemon other, d;
	struct bed_session s;
	char text[1024];

	/* Of a daemon that is only there for its directories. */
	bed_start(&other, conf);
	snprintf(text, sizeof(text), "nvme: {paths: [\"%s\", \"%s\"], engine: libaio}\n",
		 other.swap[0], other.swap[1]);
	bed_start(&d, text);
	open_refused(&setup, &d, other.swap[1]);
	open_refused(&setup, &d, "nvme.paths");
	memcpy(d.swap, other.swap, sizeof(d.swap));
	setup.engine = NVME_URING;
	open_refused(&setup, &d, "nvme.engine");
	setup.engine = NVME_AUTO;
	open_ok(&s, &setup, &d);
	ck_assert_str_eq(client_opened(s.client)->engine, "libaio");
	bed_close(&s);
	strcpy(d.swap[0], "/nowhere");
	open_refused(&setup, &d, "/nowhere");
	bed_stop(&d);
	bed_stop(&other);
}
END_TEST

/* Swap that does not fit is refused when the session opens; the daemon and others go on. */
START_TEST(full_disk)
{
	struct bed_case setup = swapped();
	struct bed_session s;
	struct bed_daemon d;
	char small[sizeof(d.swap[0])];

	bed_start(&d, conf);
	if (mount("tmpfs", d.swap[0], "tmpfs", 0, "size=128k") < 0) {
		printf("no disk of 128 KiB to fill: mount: %s\n", strerror(errno));
		bed_stop(&d);
		return;
	}
	memcpy(small, d.swap[0], sizeof(small));
	setup.path_count = 1;
	open_refused(&setup, &d, "free");
	bed_await_sessions(&d, 0);
	ck_assert_uint_eq(bed_status(&d, "swap.used_bytes"), 0);
	/* What the small one has no room for goes to the other one. */
	setup.path_count = 2;
	open_ok(&s, &setup, &d);
	bed_import(&s);
	bed_step(&s);
	bed_close(&s);
	ck_assert_int_eq(umount(small), 0);
	bed_stop(&d);
}
END_TEST

/* A session whose read finds nothing to read fails alone, with a text that says where. */
START_TEST(failed_session)
{
	const struct bed_case setup = swapped();
	struct bed_session s, other;
	struct bed_daemon d;
	struct err err;
	char *log;
	uint32_t id[4];

	bed_start(&d, conf);
	open_ok(&other, &setup, &d);
	open_ok(&s, &setup, &d);
	for (int i = 0; i < 4; i++) {
		struct protocol_submission sub = {.op = PROTOCOL_OP_FETCH,
						  .unit = (uint32_t)i % BED_UNITS,
						  .offset = s.units[1].fetch_offset};

		sub.offset = s.units[sub.unit].fetch_offset;
		ck_assert_int_eq(client_submit(s.client, &sub, &id[i], &err), 0);
	}
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(client_wait(s.client, id[i], NULL, &err), ERR_IO);
		ck_assert_msg(strstr(err.text, "never written") != NULL, "%s", err.text);
	}
	bed_import(&other);
	bed_step(&other);
	bed_close(&other);
	bed_close(&s);
	log = bed_log(&d);
	ck_assert_ptr_nonnull(strstr(log, "session failed: swap: "));
	ck_assert_ptr_null(strstr(strstr(log, "session failed") + 1, "session failed"));
	free(log);
	bed_stop(&d);
}
END_TEST

START_TEST(silent_peer)
{
	struct bed_daemon d;
	struct err err;
	int fd, greeted;

	bed_start(&d, "session: {hello_timeout: 50ms}\n");
	fd = bed_raw_connect(&d);
	greeted = bed_raw_connect(&d);
	bed_raw_hello(greeted);
	ck_assert_int_eq(bed_raw_await_end(fd, &err), ERR_UNAVAILABLE);
	ck_assert_msg(strstr(err.text, "session.hello_timeout") != NULL, "%s", err.text);
	ck_assert_int_eq(bed_raw_await_end(greeted, &err), ERR_UNAVAILABLE);
	close(fd);
	close(greeted);
	bed_stop(&d);
}
END_TEST

/* Is libsystemd built in? As --version tells. */
static bool notifies(void)
{
	char command[4200], line[128];
	bool yes = false;
	FILE *out;

	snprintf(command, sizeof(command), "%s --version", bed_program());
	out = popen(command, "r");
	ck_assert_ptr_nonnull(out);
	while (fgets(line, sizeof(line), out))
		yes |= strncmp(line, "systemd", 7) == 0 && strstr(line, "yes");
	ck_assert_int_eq(pclose(out), 0);
	return yes;
}

/* What a service manager is told, in this order, beside other things. */
START_TEST(service_manager)
{
	static const char *const wanted[] = {"READY=1\nSTATUS=0 sessions", "STATUS=1 sessions",
					     "WATCHDOG=1", "STOPPING=1"};
	const struct bed_case setup = in_memory();
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 10};
	struct bed_session s;
	struct bed_daemon d;
	char text[256];
	ssize_t n;
	int fd;

	if (!notifies()) {
		printf("no libsystemd built in, nobody is told anything\n");
		return;
	}
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(text, sizeof(text), "@t_daemon_life-notify-%d", (int)getpid());
	memcpy(a.sun_path + 1, text + 1, strlen(text) - 1);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text))),
			 0);
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
	setenv("NOTIFY_SOCKET", text, 1);
	setenv("WATCHDOG_USEC", "20000", 1);
	bed_start(&d, conf);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		if (i == 1)
			open_ok(&s, &setup, &d);
		if (i == 3)
			kill(d.pid, SIGTERM);
		do {
			n = recv(fd, text, sizeof(text) - 1, 0);
			ck_assert_msg(n > 0, "'%s' was not told", wanted[i]);
			text[n] = '\0';
		} while (strncmp(text, wanted[i], strlen(wanted[i])) != 0);
	}
	bed_close(&s);
	ck_assert_int_eq(bed_wait(&d), 0);
	bed_clean(&d);
	close(fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("daemon_life");
	TCase *tc = tcase_create("life");
	SRunner *runner = srunner_create(suite);
	int failed;

	printf("seed %u\n", SEED);
	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, killed_client, 0, 2);
	tcase_add_loop_test(tc, killed_daemon, 0, 2);
	tcase_add_test(tc, drains);
	tcase_add_loop_test(tc, ends_at_once, 0, 2);
	tcase_add_test(tc, memory_quota);
	tcase_add_test(tc, swap_quota);
	tcase_add_test(tc, session_count);
	tcase_add_test(tc, swap_rules);
	tcase_add_test(tc, full_disk);
	tcase_add_test(tc, failed_session);
	tcase_add_test(tc, silent_peer);
	tcase_add_test(tc, service_manager);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
