/*
 * Shared memory as sealed memfds.
 *
 * Called by the daemon, the workers and the launcher, from any thread.
 * Invariants:
 * 1. What is mapped cannot shrink under us: shm_map checks the seal before the mapping is made, and
 *    the seals themselves are sealed, so a peer cannot make our loads fault.
 * 2. No names: an object is gone with its last descriptor and mapping, however its holders died.
 */
#include "common/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"

static int memfd_open(const char *name, struct err *err)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	return fd < 0 ? err_sys(err, -errno, "memfd %s", name) : fd;
}

int shm_create(const char *name, size_t bytes, struct err *err)
{
	int fd, rc;

	if (bytes == 0 || bytes > INT64_MAX)
		return err_sys(err, -EINVAL, "memfd %s of %zu bytes", name, bytes);
	fd = memfd_open(name, err);
	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)bytes) < 0) {
		rc = err_sys(err, -errno, "memfd %s of %zu bytes", name, bytes);
		goto fail_fd;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		rc = err_sys(err, -errno, "sealing memfd %s", name);
		goto fail_fd;
	}
	return fd;
fail_fd:
	close(fd);
	return rc;
}

int shm_map(int fd, size_t bytes, void **ret_base, struct err *err)
{
	struct stat st;
	void *base;
	int seals;

	if (bytes == 0)
		return err_sys(err, -EINVAL, "mapping no shared memory");
	if (fstat(fd, &st) < 0)
		return err_sys(err, -errno, "looking at shared memory");
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK))
		return err_set(err, ERR_PROTOCOL, "shared memory is not sealed against shrinking");
	if (st.st_size < 0 || (uint64_t)st.st_size < bytes)
		return err_set(err, ERR_PROTOCOL, "shared memory has %lld bytes, %zu are needed",
			       (long long)st.st_size, bytes);
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return err_sys(err, -errno, "mapping %zu bytes of shared memory", bytes);
	*ret_base = base;
	return 0;
}

void shm_unmap(void *base, size_t bytes)
{
	/* Fails only for arguments that were never a mapping. */
	if (base)
		(void)munmap(base, bytes);
}

int shm_copy(const char *name, const void *data, size_t len, struct err *err)
{
	const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	int fd, rc;

	fd = memfd_open(name, err);
	if (fd < 0)
		return fd;
	rc = file_pwrite_all(fd, data, len, 0, err);
	if (rc < 0)
		goto fail_fd;
	if (fcntl(fd, F_ADD_SEALS, seals) < 0) {
		rc = err_sys(err, -errno, "sealing memfd %s", name);
		goto fail_fd;
	}
	return fd;
fail_fd:
	close(fd);
	return rc;
}
