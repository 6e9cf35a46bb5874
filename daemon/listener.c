/*
 * The socket that workers connect to: inherited, abstract, or at a path.
 *
 * Two daemons that start at once at one path must not take it from each other: who looks whether
 * the path is stale, and takes it over, holds a lock on its directory meanwhile.
 */
#include "daemon/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ACTIVATION_FD 3
#define BACKLOG       128

static int address_make(const char *name, struct sockaddr_un *ret, socklen_t *ret_len)
{
	size_t len = strlen(name);

	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (len >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	memcpy(ret->sun_path, name, len);
	if (name[0] == '@')
		ret->sun_path[0] = '\0';
	*ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (name[0] != '@'));
	return 0;
}

/* The name of a socket that was passed; for messages and reports only. */
static void name_find(struct listener *l)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(address);
	size_t at = offsetof(struct sockaddr_un, sun_path);

	strcpy(l->name, "(unnamed)");
	if (getsockname(l->fd, (struct sockaddr *)&address, &len) < 0 || len <= at ||
	    len > sizeof(address))
		return;
	memset(l->name, 0, sizeof(l->name));
	memcpy(l->name, address.sun_path, len - at);
	if (l->name[0] == '\0')
		l->name[0] = '@';
}

/* Is this the kind of socket we serve? */
static int inherited_check(int fd, struct err *err)
{
	int type = 0, listening = 0, domain = 0;
	socklen_t len = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return err_sys(err, ERR_USAGE, "LISTEN_FDS: descriptor %d (%s)", fd,
			       err_str(-errno));
	if (domain != AF_UNIX || type != SOCK_SEQPACKET || !listening)
		return err_set(err, ERR_USAGE,
			       "LISTEN_FDS: descriptor %d is no listening Unix socket of type "
			       "SOCK_SEQPACKET",
			       fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return err_sys(err, -errno, "LISTEN_FDS: descriptor %d", fd);
	return 0;
}

/* Returns 1 with *ret when a socket was passed, 0 when none was, or a negative code. */
static int inherited_take(struct listener *ret, struct err *err)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	int count = fds ? atoi(fds) : 0;
	int rc;

	/* As sd_listen_fds(3) says: not meant for us when the pid is another's. */
	if (!pid || !fds || atol(pid) != (long)getpid())
		return 0;
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (count != 1)
		return err_set(err, ERR_USAGE, "LISTEN_FDS passes %d sockets, one was expected",
			       count);
	rc = inherited_check(ACTIVATION_FD, err);
	if (rc < 0)
		return rc;
	*ret = (struct listener){.fd = ACTIVATION_FD, .inherited = true};
	name_find(ret);
	return 1;
}

/* Does somebody accept at this address? 1, 0, or -errno when that cannot be told. */
static int answers(const struct sockaddr_un *address, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc;

	if (fd < 0)
		return -errno;
	rc = connect(fd, (const struct sockaddr *)address, len) == 0 ? 0 : -errno;
	close(fd);
	if (rc == 0 || rc == -EAGAIN || rc == -EINPROGRESS)
		return 1;
	return rc == -ECONNREFUSED ? 0 : rc;
}

/* The path is taken: removes it when it is a socket that nobody serves any more. */
static int stale_remove(const char *path, const struct sockaddr_un *address, socklen_t len,
			struct err *err)
{
	struct stat st;
	int rc;

	if (lstat(path, &st) < 0)
		return err_sys(err, ERR_CANTCREAT, "socket %s (%s)", path, err_str(-errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, ERR_CANTCREAT, "socket %s: there is a file that is no socket",
			       path);
	rc = answers(address, len);
	if (rc > 0)
		return err_set(err, ERR_UNAVAILABLE, "socket %s: another daemon answers there",
			       path);
	if (rc < 0)
		return err_sys(err, ERR_CANTCREAT, "socket %s (%s)", path, err_str(rc));
	if (unlink(path) < 0)
		return err_sys(err, ERR_CANTCREAT, "socket %s: removing the stale one (%s)", path,
			       err_str(-errno));
	return 0;
}

static int directory_lock(const char *path, struct err *err)
{
	char *copy = strdup(path);
	int fd = -1;

	if (!copy)
		return err_sys(err, -ENOMEM, "socket %s", path);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX) < 0) {
		err_set(err, ERR_CANTCREAT, "socket %s: its directory: %s", path, err_str(-errno));
		if (fd >= 0)
			close(fd);
		fd = err->code;
	}
	free(copy);
	return fd;
}

/* Binds and listens, under the lock of the directory if there is one. */
static int bind_at(int fd, const char *name, struct err *err)
{
	struct sockaddr_un address;
	socklen_t len = 0;
	int rc;

	rc = address_make(name, &address, &len);
	if (rc < 0)
		return err_sys(err, ERR_CONFIG, "socket %s (%s)", name, err_str(rc));
	rc = bind(fd, (struct sockaddr *)&address, len) < 0 ? -errno : 0;
	if (rc == -EADDRINUSE && name[0] == '@')
		return err_set(err, ERR_UNAVAILABLE, "socket %s: another daemon has it", name);
	if (rc == -EADDRINUSE) {
		rc = stale_remove(name, &address, len, err);
		if (rc < 0)
			return rc;
		rc = bind(fd, (struct sockaddr *)&address, len) < 0 ? -errno : 0;
	}
	if (rc == 0 && listen(fd, BACKLOG) < 0)
		rc = -errno;
	return rc < 0 ? err_sys(err, ERR_CANTCREAT, "socket %s (%s)", name, err_str(rc)) : 0;
}

int listener_open(const char *name, struct listener *ret, struct err *err)
{
	int lock_fd = -1, fd, rc;

	rc = inherited_take(ret, err);
	if (rc != 0)
		return rc < 0 ? rc : 0;
	if (name[0] != '@') {
		lock_fd = directory_lock(name, err);
		if (lock_fd < 0)
			return lock_fd;
	}
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	rc = fd < 0 ? err_sys(err, -errno, "socket") : bind_at(fd, name, err);
	if (lock_fd >= 0)
		close(lock_fd);
	if (rc < 0) {
		if (fd >= 0)
			close(fd);
		return rc;
	}
	*ret = (struct listener){.fd = fd};
	name_find(ret);
	return 0;
}

void listener_close(struct listener *l)
{
	if (l->fd < 0)
		return;
	if (!l->inherited && l->name[0] != '@')
		(void)unlink(l->name);
	close(l->fd);
	l->fd = -1;
}
