/*
 * Goal: whatever call of the swap store fails, once or for good, the store either goes on correctly
 * or says what failed; it never hangs, never calls `done` twice or not at all, never hands out
 * wrong bytes, and gives everything back.
 *
 * Method: every system and library call of nvme/ is wrapped. Named faults are played one by one
 * (short transfers, EAGAIN, EIO, a ring that dies); then the k-th wrapped call fails, for k = 1, 2,
 * ... until a whole run passes without reaching k. Leaks show under AddressSanitizer.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <liburing.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tests/nvme_bed.h"

/* What the completions of transfers look like. */
enum patch {
	PATCH_NONE,
	PATCH_HALF,   /* half of the bytes, page by page at last */
	PATCH_ODD,    /* 5000 bytes at most, so that going on means going back to a page */
	PATCH_AGAIN,  /* every second one is interrupted or told to come again */
	PATCH_ALWAYS, /* always told to come again */
	PATCH_STUCK,  /* 100 bytes for ever */
	PATCH_ZERO,   /* nothing, without an error */
	PATCH_EIO,    /* the transfer that is patched last but `patch_left` */
};

static struct {
	bool armed;
	unsigned calls, fail_at; /* the k-th call; 0: none */
	bool fired;

	enum patch patch;
	unsigned patch_left, patch_count;
	int refuse_direct, refuse_tmpfile, refuse_fallocate, refuse_uring, refuse_buffers;
	int submit_rc; /* what each submission says; 0: let it through */
	unsigned submit_max, submit_flip;
	int reap_rc;
} fault;

static const char *paths[2];

static void no_faults(void)
{
	memset(&fault, 0, sizeof(fault));
}

static bool hit(void)
{
	if (!fault.armed || ++fault.calls != fault.fail_at)
		return false;
	fault.fired = true;
	return true;
}

/* For calls that answer with -1 and errno. */
#define WRAP_ERRNO(type, failed, code, name, params, ...)                                          \
	type __real_##name params;                                                                 \
	type __wrap_##name params;                                                                 \
	type __wrap_##name params                                                                  \
	{                                                                                          \
		if (hit()) {                                                                       \
			errno = code;                                                              \
			return failed;                                                             \
		}                                                                                  \
		return __real_##name(__VA_ARGS__);                                                 \
	}
/* For calls that answer with -errno. */
#define WRAP_CODE(name, params, ...)                                                               \
	int __real_##name params;                                                                  \
	int __wrap_##name params;                                                                  \
	int __wrap_##name params                                                                   \
	{                                                                                          \
		if (hit())                                                                         \
			return -EIO;                                                               \
		return __real_##name(__VA_ARGS__);                                                 \
	}

WRAP_ERRNO(void *, NULL, ENOMEM, calloc, (size_t n, size_t bytes), n, bytes)
WRAP_ERRNO(char *, NULL, ENOMEM, strdup, (const char *s), s)
WRAP_ERRNO(int, -1, EIO, unlink, (const char *path), path)
WRAP_ERRNO(int, -1, EIO, fstatfs, (int fd, struct statfs *st), fd, st)
WRAP_ERRNO(int, -1, EIO, fstatvfs, (int fd, struct statvfs *st), fd, st)
WRAP_ERRNO(int, -1, ENOSYS, statx,
	   (int fd, const char *path, int flags, unsigned mask, struct statx *st), fd, path, flags,
	   mask, st)
WRAP_ERRNO(int, -1, EIO, getrlimit, (__rlimit_resource_t what, struct rlimit *limit), what, limit)
WRAP_ERRNO(int, -1, EIO, ftruncate, (int fd, off_t bytes), fd, bytes)
WRAP_ERRNO(int, -1, EMFILE, eventfd, (unsigned value, int flags), value, flags)
WRAP_ERRNO(struct io_uring_probe *, NULL, ENOMEM, io_uring_get_probe_ring, (struct io_uring * ring),
	   ring)
WRAP_CODE(io_uring_register_eventfd, (struct io_uring * ring, int fd), ring, fd)
WRAP_CODE(io_uring_register_files, (struct io_uring * ring, const int *fds, unsigned n), ring, fds,
	  n)
WRAP_CODE(io_setup, (int entries, io_context_t *context), entries, context)

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list ap;

	va_start(ap, flags);
	if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE)
		mode = va_arg(ap, mode_t);
	va_end(ap);
	errno = 0;
	if (hit())
		errno = EIO;
	else if (fault.refuse_tmpfile && (flags & O_TMPFILE) == O_TMPFILE)
		errno = fault.refuse_tmpfile;
	if (errno == 0 && fault.refuse_direct && flags & O_DIRECT) {
		/* As filesystems do: the file is made, then the flag is looked at. */
		if (flags & O_CREAT)
			close(__real_open(path, flags & ~O_DIRECT, mode));
		errno = fault.refuse_direct;
	}
	return errno ? -1 : __real_open(path, flags, mode);
}

int __real_fcntl(int fd, int op, ...);
int __wrap_fcntl(int fd, int op, ...);
int __wrap_fcntl(int fd, int op, ...)
{
	va_list ap;
	long arg;

	va_start(ap, op);
	arg = va_arg(ap, long);
	va_end(ap);
	if (hit()) {
		errno = EIO;
		return -1;
	}
	return __real_fcntl(fd, op, arg);
}

int __real_fallocate(int fd, int mode, off_t offset, off_t bytes);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t bytes);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	static bool interrupted;

	errno = hit() ? EIO : fault.refuse_fallocate;
	if (errno == EINTR) {
		interrupted = !interrupted; /* once, then it goes through */
		errno = interrupted ? EINTR : 0;
	}
	return errno ? -1 : __real_fallocate(fd, mode, offset, bytes);
}

int __real_io_uring_queue_init_params(unsigned n, struct io_uring *ring, struct io_uring_params *p);
int __wrap_io_uring_queue_init_params(unsigned n, struct io_uring *ring, struct io_uring_params *p);
int __wrap_io_uring_queue_init_params(unsigned n, struct io_uring *ring, struct io_uring_params *p)
{
	if (hit())
		return -EIO;
	/* -EINVAL stands for an old kernel: it knows no modes. */
	if (fault.refuse_uring == -EINVAL && !(p->flags & IORING_SETUP_DEFER_TASKRUN) &&
	    !(p->flags & IORING_SETUP_COOP_TASKRUN))
		return __real_io_uring_queue_init_params(n, ring, p);
	if (fault.refuse_uring)
		return fault.refuse_uring;
	return __real_io_uring_queue_init_params(n, ring, p);
}

int __real_io_uring_register_buffers_sparse(struct io_uring *ring, unsigned n);
int __wrap_io_uring_register_buffers_sparse(struct io_uring *ring, unsigned n);
int __wrap_io_uring_register_buffers_sparse(struct io_uring *ring, unsigned n)
{
	if (hit())
		return -EIO;
	return fault.refuse_buffers == 1 ? -EINVAL
					 : __real_io_uring_register_buffers_sparse(ring, n);
}

int __real_io_uring_register_buffers_update_tag(struct io_uring *ring, unsigned at,
						const struct iovec *iov, const __u64 *tags,
						unsigned n);
int __wrap_io_uring_register_buffers_update_tag(struct io_uring *ring, unsigned at,
						const struct iovec *iov, const __u64 *tags,
						unsigned n);
int __wrap_io_uring_register_buffers_update_tag(struct io_uring *ring, unsigned at,
						const struct iovec *iov, const __u64 *tags,
						unsigned n)
{
	if (hit())
		return -EIO;
	return fault.refuse_buffers == 2
		       ? -ENOMEM
		       : __real_io_uring_register_buffers_update_tag(ring, at, iov, tags, n);
}

/* 0 lets the submission through. */
static int submission(void)
{
	if (hit())
		return -EIO;
	if (fault.submit_flip)
		return fault.submit_flip++ % 2 ? fault.submit_rc : 0;
	return fault.submit_rc;
}

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring)
{
	int rc = submission();

	return rc ? rc : __real_io_uring_submit(ring);
}

int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned n);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned n);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned n)
{
	int rc = submission();

	return rc ? rc : __real_io_uring_submit_and_wait(ring, n);
}

int __real_io_submit(io_context_t context, long n, struct iocb **cbs);
int __wrap_io_submit(io_context_t context, long n, struct iocb **cbs);
int __wrap_io_submit(io_context_t context, long n, struct iocb **cbs)
{
	int rc = submission();

	if (rc)
		return rc;
	return __real_io_submit(
		context,
		fault.submit_max && n > (long)fault.submit_max ? (long)fault.submit_max : n, cbs);
}

/* The result of a transfer, as a bad disk would have it. */
static int patched(int res)
{
	if (hit())
		return -EIO;
	if (res <= 0)
		return res;
	fault.patch_count++;
	switch (fault.patch) {
	case PATCH_NONE:
		return res;
	case PATCH_HALF:
		return res > 4096 ? res / 2 : res;
	case PATCH_ODD:
		return res > 5000 ? 5000 : res;
	case PATCH_AGAIN:
		return fault.patch_count % 4 == 1   ? -EAGAIN
		       : fault.patch_count % 4 == 3 ? -EINTR
						    : res;
	case PATCH_ALWAYS:
		return -EAGAIN;
	case PATCH_STUCK:
		return 100;
	case PATCH_ZERO:
		return 0;
	case PATCH_EIO:
		return fault.patch_left > 0 && --fault.patch_left == 0 ? -EIO : res;
	}
	return res;
}

unsigned __real_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned n);
unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned n);
unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned n)
{
	unsigned i;

	/* A ring that fails says so when it is waited for: show it nothing. */
	if (fault.reap_rc)
		return 0;
	n = __real_io_uring_peek_batch_cqe(ring, cqes, n);
	for (i = 0; i < n; i++)
		cqes[i]->res = patched(cqes[i]->res);
	return n;
}

int __real___io_uring_get_cqe(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned submit,
			      unsigned wait_nr, sigset_t *mask);
int __wrap___io_uring_get_cqe(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned submit,
			      unsigned wait_nr, sigset_t *mask);
int __wrap___io_uring_get_cqe(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned submit,
			      unsigned wait_nr, sigset_t *mask)
{
	if (hit())
		return -EIO;
	return fault.reap_rc ? fault.reap_rc
			     : __real___io_uring_get_cqe(ring, cqe, submit, wait_nr, mask);
}

int __real_io_getevents(io_context_t context, long min, long max, struct io_event *events,
			struct timespec *timeout);
int __wrap_io_getevents(io_context_t context, long min, long max, struct io_event *events,
			struct timespec *timeout);
int __wrap_io_getevents(io_context_t context, long min, long max, struct io_event *events,
			struct timespec *timeout)
{
	int i, n;

	if (hit())
		return -EIO;
	if (fault.reap_rc)
		return fault.reap_rc;
	n = __real_io_getevents(context, min, max, events, timeout);
	for (i = 0; i < n; i++)
		events[i].res = (unsigned long)patched((int)events[i].res);
	return n;
}

/* A clean round trip with the faults that are set; what the store then says of itself. */
static void round_trip(enum nvme_engine engine, struct nvme_stats *ret)
{
	struct bed b;
	unsigned i;

	ck_assert_msg(bed_open(&b, engine, 4, paths, 2) == 0, "%s", b.err.text);
	bed_write(&b, 3, 1);
	ck_assert_msg(b.failed_count == 0, "%s", nvme_store_error(b.store));
	bed_read(&b, 2);
	ck_assert_msg(b.failed_count == 0, "%s", nvme_store_error(b.store));
	for (i = 0; i < b.extent_count; i++)
		ck_assert(bed_holds(&b, i, 3));
	nvme_store_stats(b.store, ret);
	bed_close(&b);
	ck_assert_uint_eq(bed_dir_entries(paths[0]) + bed_dir_entries(paths[1]), 0);
}

START_TEST(short_transfers_go_on)
{
	struct nvme_stats stats;

	fault.patch = PATCH_HALF;
	round_trip(bed_engines[_i], &stats);
	ck_assert_uint_gt(stats.resumed, 10);
	fault.patch = PATCH_ODD;
	round_trip(bed_engines[_i], &stats);
	ck_assert_uint_gt(stats.resumed, 1000);
	fault.patch = PATCH_AGAIN;
	round_trip(bed_engines[_i], &stats);
}
END_TEST

START_TEST(no_progress_ends)
{
	static const struct {
		enum patch patch;
		const char *text;
	} cases[] = {
		{PATCH_ALWAYS, "Resource temporarily unavailable"},
		{PATCH_STUCK, "stuck after 0 bytes"},
		{PATCH_ZERO, "nothing was written"},
	};
	struct bed b;
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_int_eq(bed_open(&b, bed_engines[_i], 4, paths, 1), 0);
		fault.patch = cases[i].patch;
		bed_write(&b, 1, 1);
		ck_assert_uint_eq(b.failed_count, b.extent_count);
		ck_assert_msg(strstr(nvme_store_error(b.store), cases[i].text) != NULL, "%s",
			      nvme_store_error(b.store));
		fault.patch = PATCH_NONE;
		bed_close(&b);
	}
}
END_TEST

/* The n-th transfer fails: the others do not, and the extent of a failed write is not readable. */
START_TEST(one_transfer_fails)
{
	char text[64];
	struct bed b;
	unsigned i, n, lost = 0;

	for (n = 1; n <= 12; n += 4) {
		ck_assert_int_eq(bed_open(&b, bed_engines[_i], 4, paths, 2), 0);
		bed_write(&b, 1, 1);
		fault.patch = PATCH_EIO;
		fault.patch_left = n;
		bed_write(&b, 2, n);
		ck_assert_uint_eq(b.failed_count, 1);
		for (i = 0; i < b.extent_count; i++)
			lost = b.ios[i].rc < 0 ? i : lost;
		ck_assert_int_eq(b.ios[lost].rc, ERR_IO);
		snprintf(text, sizeof(text),
			 "at offset %llu (object %u, extent %u): Input/output error",
			 (unsigned long long)b.ios[lost].io.offset, b.ios[lost].io.object,
			 b.ios[lost].io.extent);
		ck_assert_msg(strstr(nvme_store_error(b.store), text) != NULL, "%s",
			      nvme_store_error(b.store));
		ck_assert_ptr_nonnull(
			strstr(nvme_store_error(b.store), paths[b.ios[lost].io.path]));
		bed_read(&b, n);
		ck_assert_uint_eq(b.failed_count, 1);
		for (i = 0; i < b.extent_count; i++)
			ck_assert(i == lost ? b.ios[i].rc == ERR_IO : bed_holds(&b, i, 2));
		bed_write(&b, 3, n);
		ck_assert_uint_eq(b.failed_count, 0);
		bed_close(&b);
	}
}
END_TEST

START_TEST(partial_submissions_go_on)
{
	static const int codes[] = {-EAGAIN, -EINTR, -EBUSY};
	struct nvme_stats stats;
	size_t i;

	fault.submit_max = 1;
	round_trip(bed_engines[_i], &stats);
	fault.submit_max = 0;
	for (i = 0; i < 3; i++) {
		fault.submit_rc = codes[i];
		fault.submit_flip = 1;
		round_trip(bed_engines[_i], &stats);
	}
}
END_TEST

/* Submissions refused for good, with nothing or with something in flight; a queue that dies. */
START_TEST(a_dead_engine_fails_everything)
{
	static const struct {
		int submit_rc, reap_rc;
		const char *text;
	} cases[] = {
		{-EAGAIN, 0, "submission: Resource temporarily unavailable"},
		{-EPERM, 0, "submission: Operation not permitted"},
		{0, -EBADF, "waiting for transfers: Bad file descriptor"},
	};
	struct bed b;
	unsigned i, c;

	for (c = 0; c < 3; c++) {
		ck_assert_int_eq(bed_open(&b, bed_engines[_i], 4, paths, 2), 0);
		bed_write(&b, 1, 1);
		b.done_count = b.failed_count = 0;
		for (i = 0; i < b.extent_count / 2; i++)
			bed_submit(&b, i, false);
		fault.submit_rc = cases[c].submit_rc;
		fault.reap_rc = cases[c].reap_rc;
		for (; i < b.extent_count; i++)
			bed_submit(&b, i, false);
		bed_finish(&b, b.extent_count);
		ck_assert_uint_gt(b.failed_count, 0);
		ck_assert_msg(strstr(nvme_store_error(b.store), cases[c].text) != NULL, "%s",
			      nvme_store_error(b.store));
		no_faults();
		bed_read(&b, 1); /* nothing starts any more */
		ck_assert_uint_eq(b.failed_count, b.extent_count);
		bed_close(&b);
	}
}
END_TEST

START_TEST(no_o_direct)
{
	struct nvme_stats stats;
	struct bed b;

	fault.refuse_direct = EINVAL;
	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 1, paths, 2), 0);
	ck_assert_ptr_nonnull(b.info.direct_warning);
	ck_assert_ptr_nonnull(strstr(b.info.direct_warning, paths[0]));
	ck_assert_ptr_nonnull(strstr(b.info.direct_warning, paths[1]));
	bed_close(&b);
	round_trip(bed_engines[_i], &stats);
}
END_TEST

START_TEST(no_o_tmpfile)
{
	static const int codes[] = {EOPNOTSUPP, EISDIR};
	struct nvme_stats stats;
	size_t i;

	for (i = 0; i < 2; i++) {
		fault.refuse_tmpfile = codes[i];
		fault.refuse_direct = 0;
		round_trip(bed_engines[_i], &stats);
		fault.refuse_direct = EINVAL;
		round_trip(bed_engines[_i], &stats);
	}
}
END_TEST

START_TEST(no_fallocate)
{
	static const int full[] = {ENOSPC, EDQUOT, EFBIG};
	struct nvme_stats stats;
	struct bed b;
	size_t i;

	for (i = 0; i < 3; i++) {
		fault.refuse_fallocate = full[i];
		ck_assert_int_eq(bed_open(&b, bed_engines[_i], 1, paths, 2), ERR_CANTCREAT);
		ck_assert_ptr_nonnull(strstr(b.err.text, err_str(-full[i])));
		ck_assert_ptr_nonnull(strstr(b.err.text, paths[0]));
	}
	fault.refuse_fallocate = EINTR;
	round_trip(bed_engines[_i], &stats);
	fault.refuse_fallocate = EOPNOTSUPP;
	ck_assert_int_eq(bed_open(&b, bed_engines[_i], 1, paths, 2), 0);
	ck_assert_ptr_nonnull(b.info.space_warning);
	ck_assert_ptr_nonnull(strstr(b.info.space_warning, paths[1]));
	bed_close(&b);
	round_trip(bed_engines[_i], &stats);
}
END_TEST

START_TEST(no_io_uring)
{
	struct bed b;

	fault.refuse_uring = -EPERM;
	ck_assert_int_eq(bed_open(&b, NVME_AUTO, 4, paths, 1), 0);
	ck_assert_int_eq(b.info.engine, NVME_LIBAIO);
	ck_assert_str_eq(b.info.engine_reason, "io_uring_queue_init: Operation not permitted");
	bed_close(&b);
	ck_assert_int_eq(bed_open(&b, NVME_URING, 4, paths, 1), ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(b.err.text, "Operation not permitted"));
}
END_TEST

START_TEST(old_kernels_and_locked_memory)
{
	struct nvme_stats stats;
	struct bed b;

	if (bed_engine_count < 2)
		return;
	fault.refuse_uring = -EINVAL;
	round_trip(NVME_URING, &stats);
	for (fault.refuse_buffers = 1; fault.refuse_buffers <= 2; fault.refuse_buffers++) {
		ck_assert_int_eq(bed_open(&b, NVME_URING, 4, paths, 1), 0);
		ck_assert_int_eq(nvme_store_register(b.store, b.mem, b.mem_bytes, &b.err), 1);
		ck_assert_str_ne(b.err.text, "");
		bed_write(&b, 1, 1);
		bed_read(&b, 1);
		ck_assert_uint_eq(b.failed_count, 0);
		bed_close(&b);
	}
}
END_TEST

/* A run in which any one call may fail. Right, or an error with a text: nothing else. */
static void fragile_run(enum nvme_engine engine)
{
	struct bed b;
	unsigned i;
	int rc;

	fault.armed = true;
	rc = bed_open(&b, engine, 3, paths, 2);
	if (rc < 0) {
		fault.armed = false;
		ck_assert(fault.fired);
		ck_assert_int_eq(b.err.code, rc);
		ck_assert_str_ne(b.err.text, "");
		return;
	}
	ck_assert_int_ge(nvme_store_register(b.store, b.mem, b.mem_bytes, &b.err), 0);
	bed_write(&b, 1, 1);
	bed_read(&b, 2);
	fault.armed = false;
	for (i = 0; i < b.extent_count; i++)
		if (b.ios[i].rc == 0)
			ck_assert(bed_holds(&b, i, 1));
	ck_assert(b.failed_count == 0 || fault.fired);
	ck_assert(b.failed_count == 0 || nvme_store_error(b.store)[0]);
	bed_close(&b);
}

START_TEST(the_kth_call_fails)
{
	static const enum nvme_engine engines[] = {NVME_AUTO, NVME_LIBAIO, NVME_AUTO, NVME_AUTO};
	unsigned k = 0;

	bed_object_count = 5;
	do {
		no_faults();
		/* The rarer ways to make a file. */
		fault.refuse_tmpfile = _i == 2 ? EOPNOTSUPP : 0;
		fault.refuse_direct = _i == 2 ? EINVAL : 0;
		fault.refuse_fallocate = _i == 3 ? EOPNOTSUPP : 0;
		fault.refuse_uring = _i == 3 ? -ENOSYS : 0;
		fault.fail_at = ++k;
		fragile_run(engines[_i]);
		/* Only where unlink itself is what fails does a name stay. */
		ck_assert_uint_le(bed_dir_entries(paths[0]) + bed_dir_entries(paths[1]), _i == 2);
		bed_dir_empty(paths[0]);
		bed_dir_empty(paths[1]);
	} while (fault.fired);
	printf("case %d: %u calls made to fail\n", _i, k - 1);
	ck_assert_uint_gt(k, 40);
}
END_TEST

/* Measuring paths is a matter of speed: without it they are equal, and the store says why. */
START_TEST(measuring_fails)
{
	static const struct nvme_object large = {64ull << 20, 1u << 20};
	const char *dirs[2] = {paths[0], "/dev/shm"};
	struct nvme_config config = {.paths = dirs,
				     .path_count = 2,
				     .engine = NVME_AUTO,
				     .queue_depth = 4,
				     .objects = &large,
				     .object_count = 1};
	struct nvme_store *store;
	struct nvme_info info;
	struct stat a, b;
	struct err err;

	if (stat(dirs[0], &a) < 0 || stat(dirs[1], &b) < 0 || a.st_dev == b.st_dev ||
	    access(dirs[1], W_OK) < 0) {
		printf("measuring_fails: no second filesystem that can be written to\n");
		return;
	}
	/* The first calloc is the store's, the next are the measuring's and those of its store. */
	fault.armed = true;
	fault.fail_at = (unsigned)_i;
	ck_assert_msg(nvme_store_open(&config, &store, &info, &err) == 0, "%s", err.text);
	fault.armed = false;
	ck_assert(fault.fired);
	ck_assert_ptr_nonnull(strstr(info.weights_reason, "equal: measuring failed: "));
	ck_assert_double_eq(info.weights[0], info.weights[1]);
	ck_assert_uint_eq(info.path_bytes[0], info.path_bytes[1]);
	nvme_store_free(store);
	ck_assert_uint_eq(bed_dir_entries(paths[0]), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("nvme_faults");
	TCase *t = tcase_create("faults");
	SRunner *runner;
	int failed;

	bed_setup();
	paths[0] = bed_dir(0);
	paths[1] = bed_dir(1);
	tcase_set_timeout(t, 120);
	tcase_add_checked_fixture(t, no_faults, no_faults);
	tcase_add_loop_test(t, short_transfers_go_on, 0, bed_engine_count);
	tcase_add_loop_test(t, no_progress_ends, 0, bed_engine_count);
	tcase_add_loop_test(t, one_transfer_fails, 0, bed_engine_count);
	tcase_add_loop_test(t, partial_submissions_go_on, 0, bed_engine_count);
	tcase_add_loop_test(t, a_dead_engine_fails_everything, 0, bed_engine_count);
	tcase_add_loop_test(t, no_o_direct, 0, bed_engine_count);
	tcase_add_loop_test(t, no_o_tmpfile, 0, bed_engine_count);
	tcase_add_loop_test(t, no_fallocate, 0, bed_engine_count);
	tcase_add_test(t, no_io_uring);
	tcase_add_test(t, old_kernels_and_locked_memory);
	tcase_add_loop_test(t, the_kth_call_fails, 0, 4);
	tcase_add_loop_test(t, measuring_fails, 2, 9);
	suite_add_tcase(suite, t);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
