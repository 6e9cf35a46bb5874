/*
 * Large files, atomically. Called by dsprep and by the worker's main thread; blocks on the disk.
 *
 * Invariant: the name holds the old file or the new one, whole, and when a process dies in between
 * what is left begins with a dot and ends in ".tmp" and six characters.
 */
#include "worker/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"

/* "DIR/.NAME.tmpXXXXXX" */
static char *temp_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	int dir_len = slash ? (int)(slash - path) + 1 : 0;
	char *name;

	if (asprintf(&name, "%.*s.%s.tmpXXXXXX", dir_len, path, path + dir_len) < 0)
		return NULL;
	return name;
}

int outfile_open(struct outfile *f, const char *path, struct err *err)
{
	mode_t mask;

	f->path = path;
	f->fd = -1;
	f->temp = temp_name(path);
	if (!f->temp)
		return err_sys(err, -ENOMEM, "%s", path);
	f->fd = mkostemp(f->temp, O_CLOEXEC);
	if (f->fd < 0) {
		int rc = err_set(err, ERR_CANTCREAT, "%s: %s", path, err_str(-errno));

		free(f->temp);
		f->temp = NULL;
		return rc;
	}
	/* mkostemp makes it private; the file should be as open(2) would have made it. */
	mask = umask(0);
	umask(mask);
	if (fchmod(f->fd, 0666 & ~mask) < 0) {
		int rc = err_set(err, ERR_CANTCREAT, "%s: %s", path, err_str(-errno));

		outfile_abort(f);
		return rc;
	}
	return 0;
}

int outfile_write(struct outfile *f, const void *data, size_t len, struct err *err)
{
	int rc = file_write_all(f->fd, data, len, err);

	return rc < 0 ? err_add(err, "%s", f->path) : 0;
}

int outfile_commit(struct outfile *f, struct err *err)
{
	int rc = fsync(f->fd) < 0 ? -errno : 0;

	if (close(f->fd) < 0 && !rc)
		rc = -errno;
	f->fd = -1;
	if (!rc && rename(f->temp, f->path) < 0)
		rc = -errno;
	if (rc < 0) {
		outfile_abort(f);
		return err_set(err, ERR_CANTCREAT, "%s: %s", f->path, err_str(rc));
	}
	free(f->temp);
	f->temp = NULL;
	return file_sync_parent(f->path, err);
}

void outfile_abort(struct outfile *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	if (f->temp)
		unlink(f->temp);
	free(f->temp);
	f->temp = NULL;
}
