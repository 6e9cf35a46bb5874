/*
 * Whole-file reads and writes, atomic replacement, removal of trees.
 *
 * Called from any thread; everything here blocks on the disk.
 * Invariants:
 * 1. A transfer is whole or an error: EINTR and short transfers are resumed here.
 * 2. file_replace leaves either the old file or the new one under the name, never a mixture, and no
 *    temporary name when it returns.
 * 3. Removal works on descriptors of directories, never on paths, and so cannot be led out of the
 *    tree by a link that somebody puts in the way.
 */
#include "common/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define TREE_DEPTH_MAX 64
/* Linux moves at most 2 GiB less a page in one call; whole MiB keep O_DIRECT aligned. */
#define TRANSFER_MAX ((size_t)1 << 30)

static int end_of_file(struct err *err, size_t done, size_t len)
{
	return err_set(err, ERR_DATA, "file ends after %zu of %zu bytes: %s", done, len,
		       err_str(-ENODATA));
}

static size_t transfer_size(size_t left)
{
	return left < TRANSFER_MAX ? left : TRANSFER_MAX;
}

int file_read_all(int fd, void *buf, size_t len, struct err *err)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, (char *)buf + done, transfer_size(len - done));

		if (n == 0)
			return end_of_file(err, done, len);
		if (n < 0 && errno != EINTR)
			return err_sys(err, -errno, "reading %zu bytes", len);
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

int file_pread_all(int fd, void *buf, size_t len, uint64_t offset, struct err *err)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(fd, (char *)buf + done, transfer_size(len - done),
				  (off_t)(offset + done));

		if (n == 0)
			return end_of_file(err, done, len);
		if (n < 0 && errno != EINTR)
			return err_sys(err, -errno, "reading %zu bytes at %llu", len,
				       (unsigned long long)offset);
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

int file_write_all(int fd, const void *buf, size_t len, struct err *err)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, (const char *)buf + done, transfer_size(len - done));

		if (n < 0 && errno != EINTR)
			return err_sys(err, -errno, "writing %zu bytes", len);
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

int file_pwrite_all(int fd, const void *buf, size_t len, uint64_t offset, struct err *err)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pwrite(fd, (const char *)buf + done, transfer_size(len - done),
				   (off_t)(offset + done));

		if (n < 0 && errno != EINTR)
			return err_sys(err, -errno, "writing %zu bytes at %llu", len,
				       (unsigned long long)offset);
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

/* Reads to the end rather than to st_size: a pipe or /proc file has none. */
static int read_to_end(int fd, const char *path, char *text, size_t max_bytes, size_t *ret_len,
		       struct err *err)
{
	size_t len = 0;

	for (;;) {
		ssize_t n = read(fd, text + len, max_bytes + 1 - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(err, ERR_NOINPUT, "%s: %s", path, err_str(-errno));
		if (n == 0)
			break;
		len += (size_t)n;
		if (len > max_bytes)
			return err_set(err, ERR_DATA, "%s: larger than the %zu bytes allowed", path,
				       max_bytes);
	}
	text[len] = '\0';
	*ret_len = len;
	return 0;
}

int file_load(const char *path, size_t max_bytes, char **ret_text, size_t *ret_len, struct err *err)
{
	char *text, *fitted;
	size_t len = 0;
	int fd, rc;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, ERR_NOINPUT, "%s: %s", path, err_str(-errno));
	text = malloc(max_bytes + 1);
	if (!text) {
		rc = err_sys(err, -ENOMEM, "%s", path);
		goto fail_fd;
	}
	rc = read_to_end(fd, path, text, max_bytes, &len, err);
	if (rc < 0)
		goto fail_text;
	close(fd);
	/* A shrink that fails leaves the larger block, which serves as well. */
	fitted = realloc(text, len + 1);
	*ret_text = fitted ? fitted : text;
	*ret_len = len;
	return 0;
fail_text:
	free(text);
fail_fd:
	close(fd);
	return rc;
}

/* The umask applies, as it would to a plain open, which mkstemp() would not let it. */
static int temporary_open(const char *path, char name[PATH_MAX], struct err *err)
{
	uint32_t random;
	int fd;

	do {
		if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
			return err_sys(err, -errno, "%s: no random bytes", path);
		if (snprintf(name, PATH_MAX, "%s.%08x.tmp", path, random) >= PATH_MAX)
			return err_sys(err, -ENAMETOOLONG, "%s", path);
		fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	} while (fd < 0 && errno == EEXIST);
	return fd < 0 ? err_set(err, ERR_CANTCREAT, "%s: %s", path, err_str(-errno)) : fd;
}

int file_replace(const char *path, const void *data, size_t len, struct err *err)
{
	char name[PATH_MAX];
	int fd, rc;

	fd = temporary_open(path, name, err);
	if (fd < 0)
		return fd;
	rc = file_write_all(fd, data, len, err);
	if (rc < 0) {
		if (err)
			err_add(err, "%s", path);
		goto fail_fd;
	}
	if (fsync(fd) < 0) {
		rc = err_sys(err, -errno, "%s: flushing", path);
		goto fail_fd;
	}
	if (close(fd) < 0) {
		rc = err_sys(err, -errno, "%s: closing", path);
		goto fail_name;
	}
	if (rename(name, path) < 0) {
		rc = err_set(err, ERR_CANTCREAT, "%s: %s", path, err_str(-errno));
		goto fail_name;
	}
	return file_sync_parent(path, err);
fail_fd:
	close(fd);
fail_name:
	unlink(name);
	return rc;
}

int file_sync_parent(const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	int fd, rc = 0;

	if (!slash)
		snprintf(dir, sizeof(dir), ".");
	else if (slash - path >= PATH_MAX)
		return err_sys(err, -ENAMETOOLONG, "%s", path);
	else
		snprintf(dir, sizeof(dir), "%.*s", slash == path ? 1 : (int)(slash - path), path);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "%s", dir);
	if (fsync(fd) < 0)
		rc = err_sys(err, -errno, "%s: flushing the directory", dir);
	close(fd);
	return rc;
}

static int remove_entries(int dir_fd, unsigned depth, struct err *err);

/* An entry that vanished meanwhile is what was wanted. */
static int remove_entry(int dir_fd, const char *name, unsigned depth, struct err *err)
{
	int fd, rc;

	if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return err_sys(err, -errno, "removing %s", name);
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, -errno, "removing %s", name);
	rc = remove_entries(fd, depth + 1, err);
	if (rc < 0) {
		if (err)
			err_add(err, "%s", name);
		return rc;
	}
	if (unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return err_sys(err, -errno, "removing %s", name);
	return 0;
}

/* Takes dir_fd. */
static int remove_entries(int dir_fd, unsigned depth, struct err *err)
{
	const struct dirent *entry;
	DIR *dir;
	int rc = 0;

	dir = fdopendir(dir_fd);
	if (!dir) {
		rc = err_sys(err, -errno, "reading a directory");
		close(dir_fd);
		return rc;
	}
	if (depth >= TREE_DEPTH_MAX)
		rc = err_sys(err, -ELOOP, "more than %d directories deep", TREE_DEPTH_MAX);
	while (rc == 0) {
		errno = 0;
		entry = readdir(dir);
		if (!entry) {
			if (errno)
				rc = err_sys(err, -errno, "reading a directory");
			break;
		}
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			rc = remove_entry(dirfd(dir), entry->d_name, depth, err);
	}
	closedir(dir);
	return rc;
}

int file_remove_tree(const char *path, struct err *err)
{
	int fd, rc;

	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "%s", path);
	rc = remove_entries(fd, 0, err);
	if (rc < 0) {
		if (err)
			err_add(err, "%s", path);
		return rc;
	}
	if (rmdir(path) < 0)
		return err_sys(err, -errno, "%s", path);
	return 0;
}
