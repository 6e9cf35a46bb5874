/*
 * Swap files: unnamed, preallocated, direct.
 *
 * Called by store.c from the thread that opens the store.
 *
 * Invariants
 *  1. A file has no name once nvme_file_open returns, so its space goes back to the filesystem when
 *     the last descriptor closes, however the process ends.
 *  2. All of its space is taken before it is used, or nvme_file.reserved is false: a full disk
 *     shows when a store opens, not when a step is half written.
 *  3. Nothing here raises SIGXFSZ: the file size limit is read before it is met.
 */
#include "nvme/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/units.h"

static int make_unnamed(const char *dir, int extra_flags);
static int make_and_unlink(const char *dir, int extra_flags);
static int open_failed(const char *dir, int rc, struct err *err);
static int look_at_direct(const char *dir, struct nvme_file *f, struct err *err);
static int take_space(const char *dir, uint64_t bytes, struct nvme_file *f, struct err *err);
static int no_space(const char *dir, uint64_t bytes, uint64_t free_bytes, int cause,
		    struct err *err);

int nvme_file_open(const char *dir, uint64_t bytes, struct nvme_file *ret, struct err *err)
{
	struct nvme_file f = {.align_bytes = NVME_ALIGN};
	int rc;

	f.fd = make_unnamed(dir, O_DIRECT);
	if (f.fd == -EINVAL) {
		f.fd = make_unnamed(dir, 0);
		f.not_direct = "the filesystem refuses O_DIRECT";
	}
	if (f.fd < 0)
		return open_failed(dir, f.fd, err);
	rc = look_at_direct(dir, &f, err);
	if (rc == 0)
		rc = take_space(dir, bytes, &f, err);
	if (rc < 0) {
		close(f.fd);
		return rc;
	}
	*ret = f;
	return 0;
}

uint64_t nvme_file_room(const char *dir)
{
	struct statvfs vfs;

	if (statvfs(dir, &vfs) < 0 || vfs.f_blocks == 0)
		return UINT64_MAX;
	return (uint64_t)vfs.f_bavail * vfs.f_frsize;
}

/* A descriptor or -errno. */
static int make_unnamed(const char *dir, int extra_flags)
{
	int fd;

	fd = open(dir, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC | extra_flags, 0600);
	if (fd >= 0)
		return fd;
	/* What filesystems, and kernels before 3.11, say that do not know O_TMPFILE. */
	if (errno == EOPNOTSUPP || errno == EISDIR)
		return make_and_unlink(dir, extra_flags);
	return -errno;
}

static int make_and_unlink(const char *dir, int extra_flags)
{
	static atomic_uint serial;
	char name[PATH_MAX];
	int fd, rc, len;

	len = snprintf(name, sizeof(name), "%s/.dsrun-swap-%ld-%u", dir, (long)getpid(),
		       atomic_fetch_add_explicit(&serial, 1, memory_order_relaxed));
	if (len < 0 || (size_t)len >= sizeof(name))
		return -ENAMETOOLONG;
	fd = open(name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | extra_flags, 0600);
	rc = fd < 0 ? -errno : fd;
	/* An open refused for O_DIRECT's sake may have made the file already. */
	if (unlink(name) < 0 && fd >= 0) {
		rc = -errno;
		close(fd);
	}
	return rc;
}

static int open_failed(const char *dir, int rc, struct err *err)
{
	switch (rc) {
	case -ENOENT:
	case -ENOTDIR:
	case -EACCES:
	case -EPERM:
	case -EROFS:
	case -ELOOP:
	case -ENAMETOOLONG:
		return err_set(err, ERR_CONFIG, "%s is not a directory that can be written to: %s",
			       dir, err_str(rc));
	case -ENOSPC:
	case -EDQUOT:
		return err_set(err, ERR_CANTCREAT, "%s: cannot make a swap file: %s", dir,
			       err_str(rc));
	default:
		return err_sys(err, rc, "%s: cannot make a swap file", dir);
	}
}

/* Finds out what O_DIRECT means on this file, and the alignment it asks for. */
static int look_at_direct(const char *dir, struct nvme_file *f, struct err *err)
{
	struct statfs fs;
	struct statx sx;
	uint32_t align;

	if (fstatfs(f->fd, &fs) < 0)
		return err_sys(err, -errno, "%s: fstatfs", dir);
	if (f->not_direct)
		return 0;
	memset(&sx, 0, sizeof(sx));
	/* Since Linux 6.6 tmpfs takes the flag and ignores it. */
	if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC) {
		f->not_direct = "a filesystem in memory";
	} else if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
		   sx.stx_mask & STATX_DIOALIGN) {
		align = sx.stx_dio_mem_align > sx.stx_dio_offset_align ? sx.stx_dio_mem_align
								       : sx.stx_dio_offset_align;
		if (align > NVME_ALIGN)
			return err_set(err, ERR_CONFIG,
				       "%s: direct I/O needs an alignment of %u bytes, more than "
				       "the %u that are supported",
				       dir, align, NVME_ALIGN);
		if (sx.stx_dio_offset_align == 0)
			f->not_direct = "the filesystem has no direct I/O for this file";
		else
			f->align_bytes = align;
	}
	/* Kernels before 6.1 do not tell: the default, NVME_ALIGN, is safe there. */
	if (f->not_direct && fcntl(f->fd, F_SETFL, 0) < 0)
		return err_sys(err, -errno, "%s: cannot clear O_DIRECT", dir);
	return 0;
}

static int take_space(const char *dir, uint64_t bytes, struct nvme_file *f, struct err *err)
{
	char text[UNITS_TEXT_BYTES], limit_text[UNITS_TEXT_BYTES];
	struct statvfs vfs;
	struct rlimit limit;
	uint64_t free_bytes;
	int rc;

	if (fstatvfs(f->fd, &vfs) < 0)
		return err_sys(err, -errno, "%s: fstatvfs", dir);
	free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	if (getrlimit(RLIMIT_FSIZE, &limit) < 0)
		return err_sys(err, -errno, "getrlimit(RLIMIT_FSIZE)");
	if (limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur)
		return err_set(err, ERR_CANTCREAT,
			       "%s: cannot reserve %s (%" PRIu64 " bytes): files are limited to %s "
			       "(RLIMIT_FSIZE)",
			       dir, units_format_bytes(text, bytes), bytes,
			       units_format_bytes(limit_text, limit.rlim_cur));
	/* Not even tried when hopeless: trying fills the disk for a moment, under everybody. */
	if (vfs.f_blocks > 0 && bytes > (uint64_t)vfs.f_bfree * vfs.f_frsize)
		return no_space(dir, bytes, free_bytes, -ENOSPC, err);
	f->reserved = true;
	if (bytes == 0)
		return 0;
	do {
		rc = fallocate(f->fd, 0, 0, (off_t)bytes) < 0 ? -errno : 0;
	} while (rc == -EINTR);
	if (rc != -EOPNOTSUPP)
		return rc == 0 ? 0 : no_space(dir, bytes, free_bytes, rc, err);
	if (vfs.f_blocks > 0 && bytes > free_bytes)
		return no_space(dir, bytes, free_bytes, -ENOSPC, err);
	if (ftruncate(f->fd, (off_t)bytes) < 0)
		return no_space(dir, bytes, free_bytes, -errno, err);
	f->reserved = false;
	return 0;
}

static int no_space(const char *dir, uint64_t bytes, uint64_t free_bytes, int cause,
		    struct err *err)
{
	char want[UNITS_TEXT_BYTES], have[UNITS_TEXT_BYTES];

	return err_set(err, ERR_CANTCREAT,
		       "%s: cannot reserve %s (%" PRIu64 " bytes), %s (%" PRIu64
		       " bytes) are free: %s",
		       dir, units_format_bytes(want, bytes), bytes,
		       units_format_bytes(have, free_bytes), free_bytes, err_str(cause));
}
