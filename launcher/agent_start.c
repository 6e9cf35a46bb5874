/*
 * From the job's text to running processes: the daemon first, since workers are told its socket,
 * then the shared segment, then the workers. Called once, from the agent's loop.
 *
 * 1. Nothing is started unless everything that can be checked before has been.
 * 2. What fails here is the launcher's own failure, not a rank's; what is already running is ended
 *    by the loop, not here.
 * 3. Nothing that is made here has a name in a file system: the daemon listens on an abstract
 *    socket, its configuration and the workers' jobs are memfds.
 */
#include "launcher/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "comm/comm.h"
#include "common/json.h"
#include "common/log.h"
#include "common/shm.h"
#include "launcher/spawn.h"
#include "offload/client.h"

extern char **environ;

/* A listening socket in the abstract namespace, which vanishes with its last holder. */
static int listen_abstract(struct agent *a, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int len = snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "dsrun-%s",
			   a->launch.job.id);
	socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);

	if ((size_t)len >= sizeof(addr.sun_path) - 1)
		return err_set(err, ERR_PROTOCOL, "the job's id is too long");
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, -errno, "socket");
	if (bind(fd, (const struct sockaddr *)&addr, bytes) < 0 || listen(fd, SOMAXCONN) < 0) {
		int rc = err_sys(err, -errno, "@%s", addr.sun_path + 1);

		close(fd);
		return rc;
	}
	snprintf(a->socket, sizeof(a->socket), "@%s", addr.sun_path + 1);
	return fd;
}

/* The daemon takes whole paths only: its directory is not the user's. */
static int whole_path(struct json *j, const char *key, const char *path, struct err *err)
{
	char *whole = realpath(path, NULL);

	if (!whole)
		return err_sys(err, -errno, "nvme.%s: %s", key ? key : "paths", path);
	json_string(j, key, whole);
	free(whole);
	return 0;
}

/* dsoffload.conf of a private daemon: this job may have all of it. */
static int daemon_config(struct agent *a, struct err *err)
{
	static const char *const levels[] = {"error", "warn", "info", "debug"};
	const struct launch *launch = &a->launch;
	struct json j;
	int rc = 0;

	/* What a user reads at level info are the ranks; the daemon's own story starts below. */
	int level = launch->log_level == LOG_LEVEL_INFO ? LOG_LEVEL_WARN : launch->log_level;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_string(&j, "socket", a->socket);
	json_object_begin(&j, "host");
	json_u64(&j, "memory", launch->daemon_memory_bytes);
	json_u64(&j, "threads", launch->daemon_threads);
	json_object_end(&j);
	if (launch->daemon_paths.count > 0) {
		json_object_begin(&j, "nvme");
		json_array_begin(&j, "paths");
		for (size_t i = 0; i < launch->daemon_paths.count && rc == 0; i++)
			rc = whole_path(&j, NULL, launch->daemon_paths.at[i], err);
		json_array_end(&j);
		if (launch->daemon_tuned && rc == 0)
			rc = whole_path(&j, "tuned", launch->daemon_tuned, err);
		json_object_end(&j);
	}
	json_object_begin(&j, "log");
	json_string(&j, "level", levels[level]);
	json_string(&j, "format", launch->log_format == LOG_FORMAT_JSON ? "json" : "text");
	json_object_end(&j);
	json_object_end(&j);

	const char *text = json_text(&j);
	int fd = rc;
	if (rc == 0)
		fd = text ? shm_copy("dsoffload.conf", text, strlen(text), err)
			  : err_sys(err, -ENOMEM, "dsoffload.conf");
	json_done(&j);
	return fd;
}

/* Only our end is non-blocking: whether the child's blocks is the child's affair. */
static int make_pipe_of(int ours, int *ret_ours, int *ret_theirs, struct err *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, -errno, "pipe");
	if (fcntl(ends[ours], F_SETFL, O_NONBLOCK) < 0) {
		int rc = err_sys(err, -errno, "fcntl");

		close(ends[0]);
		close(ends[1]);
		return rc;
	}
	*ret_ours = ends[ours];
	*ret_theirs = ends[!ours];
	return 0;
}

/* From the child to us. */
static int make_pipe(int *ret_ours, int *ret_theirs, struct err *err)
{
	return make_pipe_of(0, ret_ours, ret_theirs, err);
}

/* From us to the child. */
static int make_news_pipe(int *ret_ours, int *ret_theirs, struct err *err)
{
	return make_pipe_of(1, ret_ours, ret_theirs, err);
}

/* Takes a started process in: from here on the loop hears of it. */
static int adopt(struct agent *a, struct agent_child *child, const struct spawned *spawned,
		 struct err *err)
{
	child->pid = spawned->pid;
	child->pidfd = spawned->pidfd;
	child->exec_fd = spawned->error_fd;
	child->alive = true;
	child->starting = true;
	child->started_ns = agent_now_ns();
	if (child->rank != LINK_RANK_DAEMON)
		a->alive++;

	int rc = agent_watch(a, child->pidfd, AGENT_SRC_PIDFD, child, err);
	if (rc == 0)
		rc = agent_watch(a, child->exec_fd, AGENT_SRC_EXEC, child, err);
	if (rc == 0 && child->out_fd >= 0)
		rc = agent_watch(a, child->out_fd, AGENT_SRC_STDOUT, child, err);
	if (rc == 0)
		rc = agent_watch(a, child->err_fd, AGENT_SRC_STDERR, child, err);
	if (rc == 0 && child->report_fd >= 0)
		rc = agent_watch(a, child->report_fd, AGENT_SRC_REPORT, child, err);
	return rc;
}

static int spawn_daemon(struct agent *a, int listen_fd, int config_fd, struct err *err)
{
	static const char *const set[] = {"LISTEN_FDS=1",  "LISTEN_PID=",   "LISTEN_FDNAMES",
					  "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};
	char *argv[] = {(char *)"dsoffloadd", (char *)"--foreground", (char *)"--config",
			(char *)"/proc/self/fd/4", NULL};
	struct spawned spawned;
	int theirs;
	char **env = spawn_environment(a->env, set, sizeof(set) / sizeof(set[0]));

	if (!env)
		return err_sys(err, -ENOMEM, "environment");
	char *pid_text = NULL;
	for (size_t i = 0; env[i]; i++) {
		if (strcmp(env[i], "LISTEN_PID=") == 0)
			pid_text = env[i];
	}
	int rc = make_pipe(&a->daemon->err_fd, &theirs, err);
	if (rc < 0)
		goto done_env;

	struct spawn spawn = {
		.path = a->launch.daemon_path,
		.argv = argv,
		.envp = env,
		.pid_text = pid_text,
		.fds = {a->null_fd, theirs, theirs, listen_fd, config_fd},
		.fd_count = 5,
		.cgroup_fd = -1,
		.die_with_parent = true,
	};
	rc = spawn_start(&spawn, &spawned, err);
	close(theirs);
	if (rc == 0)
		rc = adopt(a, a->daemon, &spawned, err);
done_env:
	spawn_environment_free(env);
	return rc;
}

static int start_private(struct agent *a, const char *why, struct err *err)
{
	int listen_fd = listen_abstract(a, err);

	if (listen_fd < 0)
		return listen_fd;
	int config_fd = daemon_config(a, err);
	int rc = config_fd < 0 ? config_fd : spawn_daemon(a, listen_fd, config_fd, err);
	/* Ours is closed: with the daemon gone, nobody may wait in the backlog for an answer. */
	close(listen_fd);
	if (config_fd >= 0)
		close(config_fd);
	if (rc < 0)
		return err_add(err, "private daemon");

	char text[ERR_TEXT_BYTES + 128];
	int len = snprintf(text, sizeof(text), "started a private dsoffloadd, pid %d%s%s",
			   (int)a->daemon->pid, why[0] ? ": " : "", why);
	agent_put(a, LINK_NOTICE, LINK_RANK_NONE, NULL, 0, text, (size_t)len);
	return 0;
}

static int choose_daemon(struct agent *a, struct err *err)
{
	const struct launch *launch = &a->launch;
	char text[256];

	if (launch->daemon == LAUNCH_DAEMON_NONE)
		return 0;
	if (launch->daemon == LAUNCH_DAEMON_PRIVATE)
		return start_private(a, "", err);
	if (strlen(launch->socket) >= sizeof(a->socket))
		return err_set(err, ERR_USAGE, "%s: too long for a socket", launch->socket);

	if (client_probe(launch->socket, err) == 1) {
		snprintf(a->socket, sizeof(a->socket), "%s", launch->socket);
		int len = snprintf(text, sizeof(text), "using the daemon at %s", launch->socket);
		agent_put(a, LINK_NOTICE, LINK_RANK_NONE, NULL, 0, text, (size_t)len);
		return 0;
	}
	if (launch->daemon == LAUNCH_DAEMON_NAMED) {
		err->code = ERR_UNAVAILABLE;
		return ERR_UNAVAILABLE;
	}
	char why[ERR_TEXT_BYTES];
	snprintf(why, sizeof(why), "%s", err->text);
	*err = (struct err){0};
	return start_private(a, why, err);
}

/* The text of the job, the same for all ranks, but a descriptor each: they have a file position. */
static int job_memfd(struct agent *a, struct err *err)
{
	struct job job = a->launch.job;

	job.socket = a->socket[0] ? a->socket : NULL;
	char *text = job_format(&job);
	if (!text)
		return err_sys(err, -ENOMEM, "job");
	int fd = shm_copy("dsrun-job", text, strlen(text), err);
	free(text);
	return fd;
}

static char **worker_environment(struct agent *a, unsigned rank)
{
	char texts[5][64], *blas = getenv("OPENBLAS_NUM_THREADS");
	const char *set[5];
	unsigned world = (unsigned)a->launch.job.world;

	snprintf(texts[0], sizeof(texts[0]), "RANK=%u", rank);
	snprintf(texts[1], sizeof(texts[1]), "LOCAL_RANK=%u", rank);
	snprintf(texts[2], sizeof(texts[2]), "WORLD_SIZE=%u", world);
	snprintf(texts[3], sizeof(texts[3]), "LOCAL_WORLD_SIZE=%u", world);
	/* Or the library starts a thread per core of the host in every worker while it loads. */
	snprintf(texts[4], sizeof(texts[4]), "OPENBLAS_NUM_THREADS=1");
	for (size_t i = 0; i < 5; i++)
		set[i] = texts[i];
	return spawn_environment(a->env, set, blas ? 4 : 5);
}

static int spawn_worker(struct agent *a, struct agent_child *child, struct err *err)
{
	char *argv[] = {(char *)"dsworker", NULL};
	int out = -1, errs = -1, report = -1, news = -1;
	struct spawned spawned;
	char **env = worker_environment(a, child->rank);
	int job = env ? job_memfd(a, err) : err_sys(err, -ENOMEM, "environment");
	int rc = job < 0 ? job : 0;

	if (rc == 0)
		rc = make_pipe(&child->out_fd, &out, err);
	if (rc == 0)
		rc = make_pipe(&child->err_fd, &errs, err);
	if (rc == 0)
		rc = make_pipe(&child->report_fd, &report, err);
	if (rc == 0)
		rc = make_news_pipe(&child->news_fd, &news, err);
	if (rc == 0) {
		struct spawn spawn = {
			.path = a->launch.worker_path,
			.argv = argv,
			.envp = env,
			.fds = {a->null_fd, out, errs, job, a->comm_fd, report, news},
			.fd_count = 7,
			.topo = a->topo,
			.cpuset = child->cores[0] ? child->cores : NULL,
			.cgroup_fd = a->cgroup.procs_fd,
			.die_with_parent = true,
		};
		rc = spawn_start(&spawn, &spawned, err);
	}
	if (out >= 0)
		close(out);
	if (errs >= 0)
		close(errs);
	if (report >= 0)
		close(report);
	if (news >= 0)
		close(news);
	if (job >= 0)
		close(job);
	spawn_environment_free(env);
	return rc < 0 ? rc : adopt(a, child, &spawned, err);
}

static int start_workers(struct agent *a, struct err *err)
{
	unsigned world = (unsigned)a->launch.job.world;

	for (unsigned i = 0; i < world; i++) {
		struct agent_child *child = &a->children[i];

		if (topo_is_synthetic(a->topo))
			child->cores[0] = '\0';
		int rc = spawn_worker(a, child, err);
		if (rc < 0)
			return err_add(err, "rank %u", i);
	}
	return 0;
}

/* The ranks' shared segment; one rank has nobody to share with but is passed one all the same. */
static int make_comm(struct agent *a, struct err *err)
{
	size_t bytes = comm_shm_bytes((unsigned)a->launch.job.world);

	a->comm_fd = shm_create("dsrun-comm", bytes ? bytes : 4096, err);
	return a->comm_fd < 0 ? a->comm_fd : 0;
}

static int make_environment(struct agent *a, struct err *err)
{
	char job[128];
	/* Ordinals that mean the same to CUDA as to place.c, unless the user has said otherwise. */
	const char *set[] = {job, "CUDA_DEVICE_ORDER=PCI_BUS_ID"};
	bool ours = a->launch.cuda && !getenv("CUDA_DEVICE_ORDER");

	snprintf(job, sizeof(job), "DSRUN_JOB=%s", a->launch.job.id);
	a->env = spawn_environment(environ, set, ours ? 2 : 1);
	return a->env ? 0 : err_sys(err, -ENOMEM, "environment");
}

static int make_children(struct agent *a, struct err *err)
{
	unsigned world = (unsigned)a->launch.job.world;

	a->children = calloc((size_t)world + 1, sizeof(*a->children));
	if (!a->children)
		return err_sys(err, -ENOMEM, "children");
	for (unsigned i = 0; i < world; i++)
		agent_child_init(&a->children[i], i);
	a->daemon = &a->children[world];
	agent_child_init(a->daemon, LINK_RANK_DAEMON);
	return 0;
}

int agent_start(struct agent *a, const char *text, size_t len, struct err *err)
{
	struct err why = {0};
	int rc = launch_parse(text, len, &a->launch, &a->docs, err);

	if (rc < 0)
		return rc;
	log_init("dsrun", (enum log_level)a->launch.log_level,
		 (enum log_format)a->launch.log_format);
	/* From its end: what the kernel said before this job is not about it. */
	a->kmsg_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (a->kmsg_fd >= 0 && lseek(a->kmsg_fd, 0, SEEK_END) < 0) {
		close(a->kmsg_fd);
		a->kmsg_fd = -1;
	}
	rc = make_children(a, err);
	if (rc == 0)
		rc = make_environment(a, err);
	if (rc == 0)
		rc = topo_open(&a->topo, err);
	if (rc == 0)
		rc = make_comm(a, err);
	if (rc == 0)
		rc = agent_place(a, "", err);
	if (rc < 0)
		return rc;
	if (cgroup_open(a->launch.job.id, &a->cgroup, &why) < 0)
		log_debug("launcher", "no cgroup for the job: %s, walking the process tree instead",
			  why.text);
	rc = choose_daemon(a, err);
	return rc < 0 ? rc : start_workers(a, err);
}
