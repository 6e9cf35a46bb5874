/*
 * fork, then straight to exec. Called by dsrun for its agent, and by the agent for workers and the
 * private daemon; this is the only fork of the project.
 *
 * 1. The caller has no threads, so the child may use what the parent could have used.
 * 2. The child gets fds[i] as descriptor i and nothing else, default signal handlers, an empty
 *    signal mask, and its own process group.
 * 3. With die_with_parent the child cannot outlive the parent: the death signal is set first, and
 *    a parent that was gone before is noticed by getppid.
 * 4. What fails between fork and exec arrives at the parent as one record, smaller than PIPE_BUF
 *    and so whole, through a pipe that exec closes.
 */
#include "launcher/spawn.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct spawn_error {
	int32_t code;
	char text[1000];
};

_Static_assert(sizeof(struct spawn_error) <= PIPE_BUF, "an error record must arrive whole");

static void child_fail(int error_fd, int code, const char *text)
{
	struct spawn_error record = {.code = code};

	snprintf(record.text, sizeof(record.text), "%s", text);
	/* Nobody can be told when even this fails; the exit status says that it did not run. */
	ssize_t put = write(error_fd, &record, sizeof(record));
	_exit(put == (ssize_t)sizeof(record) ? 127 : 126);
}

static void child_fail_errno(int error_fd, const char *what)
{
	struct err err = {0};
	int code = -errno;

	err_sys(&err, code, "%s", what);
	child_fail(error_fd, code, err.text);
}

/* fds to 0..count-1, the error pipe behind them, the rest closed. Returns the error pipe. */
static int child_descriptors(const struct spawn *spawn, int error_fd)
{
	int high[SPAWN_FDS_MAX];

	/* First out of the way, so that no dup2 hits a source that is still needed. */
	for (unsigned i = 0; i < spawn->fd_count; i++) {
		high[i] = fcntl(spawn->fds[i], F_DUPFD_CLOEXEC, SPAWN_FDS_MAX + 1);
		if (high[i] < 0)
			child_fail_errno(error_fd, "fcntl(F_DUPFD)");
	}
	int high_error = fcntl(error_fd, F_DUPFD_CLOEXEC, SPAWN_FDS_MAX + 1);
	if (high_error < 0)
		child_fail_errno(error_fd, "fcntl(F_DUPFD)");
	for (unsigned i = 0; i < spawn->fd_count; i++) {
		if (dup2(high[i], (int)i) < 0)
			child_fail_errno(high_error, "dup2");
	}
	int last = (int)spawn->fd_count;
	if (dup3(high_error, last, O_CLOEXEC) < 0)
		child_fail_errno(high_error, "dup3");
	if (syscall(SYS_close_range, (unsigned)last + 1, ~0u, 0) < 0)
		child_fail_errno(last, "close_range");
	return last;
}

static void child_signals(int error_fd)
{
	sigset_t none;

	for (int s = 1; s < NSIG; s++) {
		/* SIGKILL, SIGSTOP and the C library's own refuse, as they should. */
		if (signal(s, SIG_DFL) == SIG_ERR && errno != EINVAL)
			child_fail_errno(error_fd, "signal");
	}
	sigemptyset(&none);
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
		child_fail_errno(error_fd, "sigprocmask");
}

static void child_pid_text(char *text)
{
	snprintf(text + strlen(text), SPAWN_PID_BYTES, "%d", (int)getpid());
}

static void __attribute__((noreturn))
child(const struct spawn *spawn, int error_fd, pid_t parent, const struct rlimit *files)
{
	struct err err = {0};

	if (spawn->die_with_parent && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		child_fail_errno(error_fd, "prctl(PR_SET_PDEATHSIG)");
	if (getppid() != parent)
		_exit(126);
	if (setpgid(0, 0) < 0)
		child_fail_errno(error_fd, "setpgid");
	if (spawn->cgroup_fd >= 0 && write(spawn->cgroup_fd, "0", 1) != 1)
		child_fail_errno(error_fd, "cgroup.procs");
	if (spawn->cpuset && topo_bind_thread(spawn->topo, spawn->cpuset, &err) < 0)
		child_fail(error_fd, err.code, err.text);
	child_signals(error_fd);
	error_fd = child_descriptors(spawn, error_fd);
	if (setrlimit(RLIMIT_NOFILE, files) < 0)
		child_fail_errno(error_fd, "setrlimit");
	if (spawn->pid_text)
		child_pid_text(spawn->pid_text);
	execve(spawn->path, spawn->argv, spawn->envp);
	child_fail_errno(error_fd, spawn->path);
	_exit(126);
}

/*
 * An agent with many workers needs more descriptors than the usual soft limit; its children get
 * that limit back, as select() in somebody's library may depend on it.
 */
static int raise_files(struct rlimit *ret_before, struct err *err)
{
	if (getrlimit(RLIMIT_NOFILE, ret_before) < 0)
		return err_sys(err, -errno, "getrlimit(RLIMIT_NOFILE)");

	static struct rlimit first;
	static bool raised;
	if (raised) {
		*ret_before = first;
		return 0;
	}
	first = *ret_before;
	struct rlimit all = {.rlim_cur = first.rlim_max, .rlim_max = first.rlim_max};
	if (setrlimit(RLIMIT_NOFILE, &all) < 0)
		return err_sys(err, -errno, "setrlimit(RLIMIT_NOFILE)");
	raised = true;
	return 0;
}

int spawn_start(const struct spawn *spawn, struct spawned *ret, struct err *err)
{
	int error_pipe[2];
	struct rlimit files;
	int rc = raise_files(&files, err);

	assert(spawn->fd_count <= SPAWN_FDS_MAX);
	if (rc < 0)
		return rc;
	if (pipe2(error_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, -errno, "%s: pipe", spawn->path);

	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid == 0)
		child(spawn, error_pipe[1], parent, &files);
	if (pid < 0) {
		rc = err_sys(err, -errno, "%s: fork", spawn->path);
		goto fail_pipe;
	}
	/* Also by the child: whoever comes first, the group exists before anyone signals it. EACCES
	 * says that the child has run exec already, and so has done it. */
	if (setpgid(pid, pid) < 0 && errno != EACCES && errno != ESRCH) {
		rc = err_sys(err, -errno, "%s: setpgid", spawn->path);
		goto fail_child;
	}
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0) {
		rc = err_sys(err, -errno, "%s: pidfd_open", spawn->path);
		goto fail_child;
	}
	close(error_pipe[1]);
	*ret = (struct spawned){.pid = pid, .pidfd = pidfd, .error_fd = error_pipe[0]};
	return 0;
fail_child:
	kill(pid, SIGKILL);
fail_pipe:
	close(error_pipe[0]);
	close(error_pipe[1]);
	return rc;
}

int spawn_result(int error_fd, struct err *err)
{
	struct spawn_error record;
	ssize_t got = read(error_fd, &record, sizeof(record));

	if (got == 0)
		return 1;
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got < 0)
		return err_sys(err, -errno, "reading how exec went");
	if (got != (ssize_t)sizeof(record))
		return err_set(err, ERR_INTERNAL, "exec: a broken record of %zd bytes", got);
	record.text[sizeof(record.text) - 1] = '\0';
	return err_set(err, record.code, "%s", record.text);
}

static bool same_name(const char *entry, const char *set)
{
	size_t len = strcspn(set, "=");

	return strncmp(entry, set, len) == 0 && entry[len] == '=';
}

static bool is_set(const char *entry, const char *const *set, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (same_name(entry, set[i]))
			return true;
	}
	return false;
}

char **spawn_environment(char *const *ours, const char *const *set, size_t count)
{
	size_t n = 0;

	while (ours[n])
		n++;
	char **env = calloc(n + count + 1, sizeof(*env));
	if (!env)
		return NULL;

	size_t used = 0;
	for (size_t i = 0; i < n; i++) {
		if (is_set(ours[i], set, count))
			continue;
		env[used] = strdup(ours[i]);
		if (!env[used++])
			goto fail;
	}
	for (size_t i = 0; i < count; i++) {
		/* The spare bytes are for spawn.pid_text. */
		size_t len = strlen(set[i]);
		if (!strchr(set[i], '='))
			continue;
		env[used] = malloc(len + SPAWN_PID_BYTES);
		if (!env[used])
			goto fail;
		memcpy(env[used++], set[i], len + 1);
	}
	return env;
fail:
	spawn_environment_free(env);
	return NULL;
}

void spawn_environment_free(char **env)
{
	for (size_t i = 0; env && env[i]; i++)
		free(env[i]);
	free(env);
}
